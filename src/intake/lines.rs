//! From bytes to rows of fields: in the encoding that was named or not at all, one row a line, quotes as RFC 4180 has them.

use std::io::{BufRead, Read};

use encoding_rs::SHIFT_JIS;
use sha2::{Digest, Sha256};

use super::{Encoding, Fault};

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
    encoding: Encoding,
    number: u64,
    ended: bool,
    digest: Sha256,
    /// The bytes read since they were last taken, if anybody takes them.
    raw: Option<Vec<u8>>,
}

impl<R: BufRead> Lines<R> {
    pub fn new(input: R, encoding: Encoding) -> Self {
        Lines { input, encoding, number: 0, ended: false, digest: Sha256::new(), raw: None }
    }

    /// Keeps what it reads for [`Lines::take_raw`].
    pub fn keep_raw(&mut self) {
        self.raw = Some(vec![]);
    }

    /// The number of the line last read.
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// The bytes read since the last call, as they came.
    pub fn take_raw(&mut self) -> Vec<u8> {
        self.raw.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// SHA-256 of the whole input, to its end.
    pub fn digest(mut self) -> std::io::Result<[u8; 32]> {
        let mut rest = [0; 64 * 1024];
        loop {
            match self.input.read(&mut rest)? {
                0 => return Ok(self.digest.finalize().into()),
                read => self.digest.update(&rest[..read]),
            }
        }
    }

    /// The next line without its end, or `None` at the end of the file.
    fn line(&mut self) -> Result<Option<String>, Stopped> {
        let mut bytes = Vec::new();
        let read = self.input.by_ref().take(LONGEST_LINE + 1).read_until(b'\n', &mut bytes);
        self.number += 1;
        self.digest.update(&bytes);
        if let Some(raw) = &mut self.raw {
            raw.extend_from_slice(&bytes);
        }
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
        let end = bytes.iter().rposition(|byte| !matches!(byte, b'\r' | b'\n')).map_or(0, |at| at + 1);
        if bytes[..end].contains(&b'\r') {
            return Err(self.stopped("a line ends with CR alone; save the file with LF or CRLF line ends".to_owned()));
        }
        if self.number == 1 && bytes.starts_with(b"\xef\xbb\xbf") {
            bytes.drain(..3);
        }
        while bytes.last().is_some_and(|byte| matches!(byte, b'\r' | b'\n')) {
            bytes.pop();
        }
        if self.encoding == Encoding::ShiftJis {
            let (text, _, broken) = SHIFT_JIS.decode(&bytes);
            return match broken {
                true => Err(self.stopped("the line is not Shift_JIS, which was named as the encoding".to_owned())),
                false => Ok(text.into_owned()),
            };
        }
        String::from_utf8(bytes).map_err(|error| {
            let bytes = error.as_bytes();
            let japanese = SHIFT_JIS.decode_without_bom_handling_and_without_replacement(bytes).is_some();
            self.stopped(match japanese {
                true => {
                    "the line is not UTF-8 but looks like Shift_JIS; say so with `--encoding shift_jis`, or save the \
                         file as CSV UTF-8"
                        .to_owned()
                }
                false => "the line is not UTF-8; save the file as CSV UTF-8 (a Shift_JIS file is taken with \
                          `--encoding shift_jis`)"
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
