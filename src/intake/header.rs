//! Which columns a kind of file has, and where each stands in this one.

use noshi_jobs::Kind;
use serde_json::Value;

use super::{Fault, lines::Row};
use crate::basics::{requests, text};

/// A column of a kind of file.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    pub name: &'static str,
    pub required: bool,
    /// In bytes.
    pub longest: usize,
    /// For the template that is handed out.
    pub example: &'static str,
}

/// Where each column stands.
pub struct Header {
    columns: Vec<Column>,
    order: Vec<usize>,
}

impl Header {
    /// `None` where a fault leaves it open which field is which.
    pub fn read(columns: &[Column], row: &Row, faults: &mut Vec<Fault>) -> Option<Header> {
        let known: Vec<Option<usize>> =
            row.fields.iter().map(|name| columns.iter().position(|column| column.name == name)).collect();
        let all = names(columns);
        let mut fault = |field: Option<&str>, sentence: String| {
            faults.push(Fault { line: row.line, field: field.map(str::to_owned), sentence });
        };
        if known.iter().all(Option::is_none) {
            // Perhaps a row of data: its fields are not repeated.
            fault(None, format!("the first line must name the columns: {all}"));
            return None;
        }
        for (at, (name, column)) in row.fields.iter().zip(&known).enumerate() {
            match column {
                None => {
                    // It may be a name or an address whose line was taken for the header.
                    let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
                    let shown = (1..=30).contains(&name.len()) && name.bytes().all(word);
                    let name = if shown { name } else { "(not shown)" };
                    fault(Some(name), format!("column {} is not known; there are {all}", at + 1));
                }
                Some(column) if known[..at].contains(&Some(*column)) => {
                    fault(Some(columns[*column].name), "this column stands there twice".to_owned());
                }
                Some(_) => {}
            }
        }
        for (at, column) in columns.iter().enumerate() {
            if column.required && !known.contains(&Some(at)) {
                fault(Some(column.name), "this column is missing".to_owned());
            }
        }
        Some(Header { columns: columns.to_vec(), order: known.into_iter().flatten().collect() })
    }

    pub fn field<'a>(&self, row: &'a Row, name: &str) -> &'a str {
        let at = self.order.iter().position(|column| self.columns[*column].name == name);
        at.and_then(|at| row.fields.get(at)).map_or("", String::as_str)
    }

    /// The same, `None` where it is empty.
    pub fn optional(&self, row: &Row, name: &str) -> Option<String> {
        Some(self.field(row, name)).filter(|text| !text.is_empty()).map(str::to_owned)
    }

    /// The row has as many fields as the header.
    pub fn fits(&self, row: &Row, faults: &mut Faults<'_>) -> bool {
        let (found, wanted) = (row.fields.len(), self.order.len());
        if found != wanted {
            faults.line(format!("the line has {found} fields, and the header names {wanted}"));
        }
        found == wanted
    }

    /// The same, and each is fit to be a text.
    pub fn check(&self, row: &Row, faults: &mut Faults<'_>) -> bool {
        if !self.fits(row, faults) {
            return false;
        }
        for (at, text) in self.order.iter().zip(&row.fields) {
            let Column { name, required, longest, .. } = self.columns[*at];
            if text.is_empty() && required {
                faults.add(name, "this must not be empty");
            }
            if text.len() > longest {
                faults.add(name, format!("this has {} bytes; at most {longest} fit", text.len()));
            }
            if text.chars().any(char::is_control) {
                faults.add(name, "this holds a control character, such as a tab");
            }
            // Everything else is an id, or part of one: what is not seen in it would make two that look alike.
            if name != "name" && name != "address" {
                if let Some(sentence) =
                    Some(text).filter(|text| !text.is_empty()).and_then(|it| text::id_fault(it, longest))
                {
                    faults.add(name, sentence);
                }
                if is_shortened(text) {
                    faults.shortened(name);
                }
            } else if let Some(sentence) =
                Some(text).filter(|text| !text.is_empty()).and_then(|it| text::text_fault(it, longest))
            {
                faults.add(name, sentence);
            }
        }
        true
    }
}

/// A long number, as Excel writes it in a column that is not one of text.
pub fn is_shortened(text: &str) -> bool {
    let Some((digits, exponent)) = text.split_once("E+") else { return false };
    let all = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    whole.len() == 1 && all(whole) && all(fraction) && all(exponent)
}

/// Whether the row is a request that HTTP and SQL would take too: the last look, by their definition. Its fault is told at the column.
pub fn as_asked(kind: Kind, key: &str, args: &Value, faults: &mut Faults<'_>) -> bool {
    if let Some((field, sentence)) = requests::fault(kind, args) {
        let column = match field.as_str() {
            "grant" => "grant_id",
            "user" => "user_id",
            "organization" => "organization_id",
            "value.amount" => "amount",
            "value.currency" => "currency",
            field => field,
        };
        faults.add(column, sentence);
    } else if let Some(sentence) = text::id_fault(key, requests::LONGEST_KEY) {
        faults.line(format!("the id that this row makes will not do: {sentence}"));
    }
    faults.none()
}

/// The names of the columns, as a header has them.
pub fn names(columns: &[Column]) -> String {
    columns.iter().map(|column| column.name).collect::<Vec<_>>().join(",")
}

/// The faults of one row: the first of each field.
pub struct Faults<'a> {
    line: u64,
    all: &'a mut Vec<Fault>,
    before: usize,
}

impl<'a> Faults<'a> {
    pub fn of(line: u64, all: &'a mut Vec<Fault>) -> Self {
        let before = all.len();
        Faults { line, all, before }
    }

    pub fn line(&mut self, sentence: String) {
        self.all.push(Fault { line: self.line, field: None, sentence });
    }

    pub fn add(&mut self, field: &str, sentence: impl Into<String>) {
        if !self.has(field) {
            let field = Some(field.to_owned());
            self.all.push(Fault { line: self.line, field, sentence: sentence.into() });
        }
    }

    pub fn shortened(&mut self, field: &str) {
        self.add(
            field,
            "a spreadsheet has shortened this number, so that its last digits are lost (such as 4.90123E+12); \
             make the column one of text, fill it again, and save the file",
        );
    }

    pub fn has(&self, field: &str) -> bool {
        self.all[self.before..].iter().any(|fault| fault.field.as_deref() == Some(field))
    }

    pub fn none(&self) -> bool {
        self.all.len() == self.before
    }
}
