//! What was granted of a file, beside the file: a report that shows the file alone could show what nobody was given.

use std::{
    collections::HashMap,
    fs::File,
    io::{BufReader, Seek},
};

use anyhow::Context;

use super::{Encoding, FileKind, submission::Reading};
use crate::db::{PgPool, domain::batches};

/// What was granted in place of a line, by the number of its row.
pub type Otherwise = HashMap<i32, String>;

/// Rows that are compared at once.
const PAGE: usize = 2_000;

/// A file on its way beside its batch, page by page.
pub struct Comparison<'a> {
    pool: &'a PgPool,
    batch: i64,
    reading: Reading<'a, BufReader<File>>,
    row_no: i32,
    readable: bool,
    found: Otherwise,
}

impl<'a> Comparison<'a> {
    pub fn begin(pool: &'a PgPool, batch: i64, read_as: (FileKind, Encoding), file: &File) -> anyhow::Result<Self> {
        let file = file.try_clone().and_then(|mut file| file.rewind().map(|()| file));
        let input = BufReader::new(file.context("the file cannot be read again")?);
        let mut reading = Reading::new(read_as.0, read_as.1, input, None, batch.to_string());
        let readable = reading.header(&mut vec![]);
        Ok(Comparison { pool, batch, reading, row_no: 0, readable, found: Otherwise::new() })
    }

    /// Compares the next rows. False: there are no more.
    pub async fn go_on(&mut self) -> anyhow::Result<bool> {
        let mut rows = vec![];
        while self.readable && rows.len() < PAGE {
            let Some(taken) = self.reading.next(&mut vec![]) else {
                self.readable = false;
                break;
            };
            self.row_no += 1;
            rows.push(match taken {
                Some(taken) => (self.row_no, taken.key, serde_json::from_str(&taken.args)?),
                // What does not read asks for nothing, and so differs from whatever was granted.
                None => (self.row_no, String::new(), serde_json::Value::Null),
            });
        }
        self.found.extend(batches::rows_otherwise(self.pool, self.batch, &rows).await?);
        Ok(self.readable)
    }

    pub fn found(self) -> Otherwise {
        self.found
    }
}
