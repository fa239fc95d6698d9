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
        let fields = split(text).map_err(fault)?;
        Ok(Row { line: self.number, fields })
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

/// The fields of one line, as RFC 4180 has them.
///
/// Parsers that forgive are not for money: the csv crate reads `"50"0` as 500, and takes the rest of the file for a field
/// whose quote is never closed. No field here holds a line break, so each line must be whole by itself.
fn split(text: &str) -> Result<Vec<String>, String> {
    #[derive(Clone, Copy, PartialEq, Eq)]
    enum At {
        Start,
        Plain,
        Quoted,
        /// Behind a quote within a quoted field: its end, or the first of two.
        Closed,
    }
    let mut at = At::Start;
    let (mut fields, mut field) = (Vec::new(), String::new());
    for letter in text.chars() {
        let number = fields.len() + 1;
        at = match (at, letter) {
            (At::Start | At::Plain | At::Closed, ',') => {
                fields.push(std::mem::take(&mut field));
                At::Start
            }
            (At::Start, '"') => At::Quoted,
            (At::Quoted, '"') => At::Closed,
            (At::Closed, '"') => {
                field.push('"');
                At::Quoted
            }
            (At::Closed, _) => return Err(format!("text follows the closing quote of field {number}")),
            (At::Plain, '"') => {
                return Err(format!(
                    "field {number} has a quote in it; put the whole field in quotes, and write each of its own twice"
                ));
            }
            (At::Quoted, letter) => {
                field.push(letter);
                At::Quoted
            }
            (At::Start | At::Plain, letter) => {
                field.push(letter);
                At::Plain
            }
        };
    }
    if at == At::Quoted {
        let number = fields.len() + 1;
        return Err(format!("the quote of field {number} is not closed on this line; no field may hold a line break"));
    }
    fields.push(field);
    Ok(fields)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::split;

    proptest! {
        /// What the csv crate writes, this reads.
        #[test]
        fn written_fields_are_read_back(fields in proptest::collection::vec("[a,\" 山]{0,8}", 1..6)) {
            let mut writer = csv::WriterBuilder::new().terminator(csv::Terminator::Any(b'|')).from_writer(Vec::new());
            writer.write_record(&fields).unwrap();
            let line = String::from_utf8(writer.into_inner().unwrap()).unwrap();
            prop_assert_eq!(split(line.strip_suffix('|').unwrap()), Ok(fields));
        }
    }
}
