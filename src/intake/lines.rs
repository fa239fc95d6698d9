//! From bytes to rows of fields: UTF-8 or nothing, one row a line, and quotes as RFC 4180 has them.

use std::io::{BufRead, Read};

use encoding_rs::SHIFT_JIS;

use super::Fault;

/// Longer than any row that fits the limits of its fields.
const LONGEST_LINE: u64 = 64 * 1024;

/// A line of fields.
pub struct Row {
    pub line: u64,
    pub fields: Vec<String>,
}

pub struct Stopped {
    pub fault: Fault,
    /// Nothing after it can be read either.
    pub for_good: bool,
}

/// The rows of a file, as they come; blank lines are passed over.
pub struct Lines<R> {
    input: R,
    number: u64,
    ended: bool,
}

impl<R: BufRead> Lines<R> {
    pub fn new(input: R) -> Self {
        Lines { input, number: 0, ended: false }
    }

    /// The next line without its end, or `None` at the end of the file.
    fn line(&mut self) -> Result<Option<String>, Stopped> {
        let mut bytes = Vec::new();
        let read = self.input.by_ref().take(LONGEST_LINE + 1).read_until(b'\n', &mut bytes);
        self.number += 1;
        match read {
            Err(error) => Err(self.stopped(format!("the file cannot be read: {error}"))),
            Ok(0) => Ok(None),
            Ok(length) if length as u64 > LONGEST_LINE => {
                Err(self.stopped(format!("the line is longer than {} KiB; is this a CSV file?", LONGEST_LINE / 1024)))
            }
            Ok(_) => self.text(bytes).map(Some),
        }
    }

    fn text(&self, mut bytes: Vec<u8>) -> Result<String, Stopped> {
        if self.number == 1 && (bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff")) {
            return Err(self.stopped("the file is UTF-16; save it as CSV in UTF-8".to_owned()));
        }
        if self.number == 1 && bytes.starts_with(b"\xef\xbb\xbf") {
            bytes.drain(..3);
        }
        while bytes.last().is_some_and(|byte| matches!(byte, b'\r' | b'\n')) {
            bytes.pop();
        }
        String::from_utf8(bytes).map_err(|error| {
            let bytes = error.as_bytes();
            let japanese = SHIFT_JIS.decode_without_bom_handling_and_without_replacement(bytes).is_some();
            self.stopped(match japanese {
                true => "the line is not UTF-8 but looks like Shift_JIS; convert the file first, with \
                         `iconv -f CP932 -t UTF-8 FILE > NEW`, or save it as CSV UTF-8"
                    .to_owned(),
                false => "the line is not UTF-8; convert the file first (a Shift_JIS file with \
                          `iconv -f CP932 -t UTF-8 FILE > NEW`)"
                    .to_owned(),
            })
        })
    }

    fn stopped(&self, sentence: String) -> Stopped {
        Stopped { fault: Fault { line: self.number, field: None, sentence }, for_good: true }
    }

    fn row(&self, text: &str) -> Result<Row, Stopped> {
        let fault =
            |sentence: String| Stopped { fault: Fault { line: self.number, field: None, sentence }, for_good: false };
        check_quotes(text).map_err(fault)?;
        let mut record = csv::StringRecord::new();
        csv::ReaderBuilder::new()
            .has_headers(false)
            .buffer_capacity(text.len())
            .from_reader(text.as_bytes())
            .read_record(&mut record)
            .map_err(|error| fault(format!("the line is not CSV: {error}")))?;
        Ok(Row { line: self.number, fields: record.iter().map(str::to_owned).collect() })
    }
}

impl<R: BufRead> Iterator for Lines<R> {
    type Item = Result<Row, Stopped>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.ended {
            let text = match self.line() {
                Ok(Some(text)) if text.is_empty() => continue,
                Ok(Some(text)) => text,
                Ok(None) => break,
                Err(stopped) => {
                    self.ended = true;
                    return Some(Err(stopped));
                }
            };
            return Some(self.row(&text));
        }
        self.ended = true;
        None
    }
}

/// The csv crate forgives everything: it reads `"50"0` as 500, and takes the rest of the file for a field whose quote is
/// never closed. A field here never holds a line break, so each line must be whole by itself.
fn check_quotes(text: &str) -> Result<(), String> {
    #[derive(Clone, Copy, PartialEq, Eq)]
    enum At {
        Start,
        Plain,
        Quoted,
        /// Behind a quote within a quoted field: its end, or the first of two.
        Closed,
    }
    let mut at = At::Start;
    let mut field = 1;
    for letter in text.chars() {
        at = match (at, letter) {
            (At::Start | At::Plain | At::Closed, ',') => {
                field += 1;
                At::Start
            }
            (At::Start | At::Closed, '"') => At::Quoted,
            (At::Quoted, '"') => At::Closed,
            (At::Quoted, _) => At::Quoted,
            (At::Closed, _) => return Err(format!("text follows the closing quote of field {field}")),
            (At::Plain, '"') => {
                return Err(format!(
                    "field {field} has a quote in it; put the whole field in quotes, and write each of its own twice"
                ));
            }
            (At::Start | At::Plain, _) => At::Plain,
        };
    }
    if at == At::Quoted {
        return Err(format!("the quote of field {field} is not closed on this line; no field may hold a line break"));
    }
    Ok(())
}
