//! From bytes to rows of fields: in the encoding that was named or not at all, one row a line, quotes as RFC 4180 has them.

use std::io::{BufRead, Read};

use encoding_rs::{EUC_JP, SHIFT_JIS};
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
    /// What speaks for another encoding than Shift_JIS, over the whole file.
    euc_jp: EucJp,
}

impl<R: BufRead> Lines<R> {
    pub fn new(input: R, encoding: Encoding) -> Self {
        Lines { input, encoding, number: 0, ended: false, digest: Sha256::new(), raw: None, euc_jp: EucJp::default() }
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

    /// What the lines that were read say against the encoding that was named, all of them together.
    pub fn contrary(&self) -> Option<Fault> {
        let sentence = "the file reads as Shift_JIS, which was named, but as nothing but half-width letters, and as EUC-JP with common \
                        signs; names would come out as others: save it as CSV UTF-8";
        (self.encoding == Encoding::ShiftJis && self.euc_jp.is_likely()).then(|| Fault {
            line: 1,
            field: None,
            sentence: sentence.to_owned(),
        })
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
        if self.number == 0
            && let Some(what) = self.input.fill_buf().ok().and_then(what_it_is)
        {
            self.number = 1;
            return Err(
                self.stopped(format!("this is no CSV file but {what}; open it, and save or export it as CSV UTF-8"))
            );
        }
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

    fn text(&mut self, mut bytes: Vec<u8>) -> Result<String, Stopped> {
        if self.number == 1 && (bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff")) {
            return Err(self.stopped("the file is UTF-16; save it as CSV in UTF-8".to_owned()));
        }
        let end = bytes.iter().rposition(|byte| !matches!(byte, b'\r' | b'\n')).map_or(0, |at| at + 1);
        if bytes[..end].contains(&b'\r') {
            return Err(self.stopped("a line ends with CR alone; save the file with LF or CRLF line ends".to_owned()));
        }
        if self.number == 1 && bytes.starts_with(b"\xef\xbb\xbf") {
            if self.encoding == Encoding::ShiftJis {
                return Err(self.stopped(
                    "the file begins with the mark of UTF-8, and Shift_JIS was named as its encoding; submit it again as UTF-8, without `--encoding`"
                        .to_owned(),
                ));
            }
            bytes.drain(..3);
        }
        if is_iso_2022_jp(&bytes) {
            return Err(self.stopped("the file is ISO-2022-JP (JIS); save it as CSV UTF-8".to_owned()));
        }
        while bytes.last().is_some_and(|byte| matches!(byte, b'\r' | b'\n')) {
            bytes.pop();
        }
        if self.encoding == Encoding::ShiftJis {
            if is_japanese_utf_8(&bytes) {
                return Err(self.stopped(
                    "the line is UTF-8, and Shift_JIS was named as the encoding; submit the file again as UTF-8, without `--encoding`".to_owned(),
                ));
            }
            self.euc_jp.look_at(&bytes);
            return match SHIFT_JIS.decode_without_bom_handling_and_without_replacement(&bytes) {
                None => {
                    let may_be =
                        if EucJp::of(&bytes).is_likely() { "; it looks like EUC-JP: save it as CSV UTF-8" } else { "" };
                    Err(self.stopped(format!("the line is not Shift_JIS, which was named as the encoding{may_be}")))
                }
                Some(text) => Ok(text.into_owned()),
            };
        }
        String::from_utf8(bytes).map_err(|error| {
            let bytes = error.as_bytes();
            let japanese = SHIFT_JIS.decode_without_bom_handling_and_without_replacement(bytes).is_some();
            self.stopped(match japanese {
                // Never a suggestion that would make other letters of them.
                _ if EucJp::of(bytes).is_likely() => {
                    "the line is not UTF-8 but looks like EUC-JP, which is not taken; save the file as CSV UTF-8"
                        .to_owned()
                }
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

/// What a file is that is no text at all, by its first bytes.
fn what_it_is(start: &[u8]) -> Option<&'static str> {
    let holds = |part: &[u8]| start.windows(part.len()).any(|window| window == part);
    let begins = |part: &[u8]| start.starts_with(part);
    if begins(b"PK\x03\x04") {
        return Some(if holds(b"[Content_Types].xml") || holds(b"xl/") {
            "an Excel workbook (.xlsx)"
        } else if holds(b".iwa") || holds(b"Index.zip") || holds(b"Index/") {
            "a Numbers document (.numbers)"
        } else if holds(b"opendocument.spreadsheet") {
            "an OpenDocument spreadsheet (.ods)"
        } else {
            "a zip archive, as Excel (.xlsx) and Numbers (.numbers) write it"
        });
    }
    let text = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start).trim_ascii_start();
    let head = text[..text.len().min(9)].to_ascii_lowercase();
    [
        (begins(b"\xd0\xcf\x11\xe0"), "an old Excel workbook (.xls)"),
        (begins(b"%PDF-"), "a PDF document"),
        (begins(b"\x1f\x8b"), "a compressed file (gzip)"),
        (begins(b"BZh"), "a compressed file (bzip2)"),
        (begins(b"\xfd7zXZ\0") || begins(b"7z\xbc\xaf\x27\x1c") || begins(b"\x28\xb5\x2f\xfd"), "a compressed file"),
        (begins(b"Rar!\x1a\x07"), "an archive (.rar)"),
        (
            head.starts_with(b"<!doctype") || head.starts_with(b"<html") || head.starts_with(b"<?xml"),
            "a page of HTML or XML",
        ),
        (begins(b"{\\rtf"), "a document (.rtf)"),
    ]
    .into_iter()
    .find_map(|(is, what)| is.then_some(what))
}

/// It shifts in and out of Japanese with escapes, in bytes that are ASCII otherwise.
fn is_iso_2022_jp(bytes: &[u8]) -> bool {
    [&b"\x1b$B"[..], b"\x1b$@", b"\x1b(J", b"\x1b(B", b"\x1b(I", b"\x1b$(D"]
        .iter()
        .any(|shift| bytes.windows(shift.len()).any(|it| it == *shift))
}

/// Text of UTF-8 with signs of three bytes or more: bytes that make whole lines of it are no accident of Shift_JIS. Two bytes can be two
/// half-width letters.
fn is_japanese_utf_8(bytes: &[u8]) -> bool {
    str::from_utf8(bytes).is_ok_and(|text| text.chars().any(|letter| letter.len_utf8() >= 3))
}

/// What speaks for EUC-JP: every run of bytes beyond ASCII is whole pairs of it, and the signs are common ones. Shift_JIS reads the same
/// bytes as half-width letters; of true ones a run of odd length, or with signs that are rare in EUC-JP, soon comes by.
#[derive(Default)]
struct EucJp {
    misfits: bool,
    signs: u32,
    rare: u32,
}

impl EucJp {
    fn of(bytes: &[u8]) -> EucJp {
        let mut seen = EucJp::default();
        seen.look_at(bytes);
        seen
    }

    fn look_at(&mut self, bytes: &[u8]) {
        for run in bytes.split(u8::is_ascii).filter(|run| !run.is_empty()) {
            let text = EUC_JP.decode_without_bom_handling_and_without_replacement(run);
            let Some(text) = text else {
                self.misfits = true;
                continue;
            };
            // In half-width letters alone, 0x8e goes before each, as no kana of Shift_JIS has it.
            for (letter, pair) in text.chars().zip(run.chunks(2)) {
                self.signs += 1;
                // The second level of kanji, and what no name is written with.
                let common = matches!(pair[0], 0xa1 | 0xa3..=0xa5 | 0xb0..=0xcf) || letter.is_ascii();
                self.rare += u32::from(!common);
            }
        }
    }

    /// Nothing against it, and common signs for it.
    fn is_likely(&self) -> bool {
        !self.misfits && self.signs > 0 && self.rare * 5 <= self.signs
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
