//! The report of a batch for customer support (R58): the original columns, and what became of each row.

use std::io::BufReader;

use anyhow::Context;
use noshi_jobs::Problem;

use super::{Encoding, lines::Lines, otherwise::Otherwise};
use crate::{
    basics::text,
    db::{
        PgPool,
        domain::batches::{self, Filed, RowResult},
    },
};

const RESULTS: [&str; 6] = ["line", "result", "outcome", "reason_ja", "reason", "mail"];
const PAGE: i32 = 5_000;

/// The report of a batch as CSV in UTF-8 with a BOM, so that spreadsheets read it: made chunk by chunk of the file, as long as that is.
pub struct Report<'a> {
    results: Results<'a>,
    encoding: Encoding,
    /// Columns of the file, once its header is read.
    columns: Option<usize>,
    /// Rows that were granted otherwise than the file has them.
    otherwise: Otherwise,
}

/// Without this mark Excel takes the file for one in the encoding of its country; ours is taken with it or without.
const MARK: &str = "\u{feff}";

impl<'a> Report<'a> {
    pub fn begin(pool: &'a PgPool, batch: &Filed, otherwise: Otherwise) -> Report<'a> {
        let results = Results { pool, batch: batch.id, page: vec![].into_iter(), after: 0 };
        Report { results, encoding: Encoding::from_name(&batch.encoding), columns: None, otherwise }
    }

    /// What becomes of one chunk of the original file.
    pub async fn of_chunk(&mut self, bytes: &[u8]) -> anyhow::Result<Vec<u8>> {
        let mark = if self.columns.is_some() { "" } else { MARK };
        let mut csv = csv::Writer::from_writer(mark.as_bytes().to_vec());
        for row in rows(bytes, self.encoding)? {
            let fields = row.iter().map(|field| harmless(field));
            if self.columns.is_some() {
                let result = self.results.next().await?.context("the stored file has more rows than its batch")?;
                let granted = self.otherwise.get(&result.row_no).map(String::as_str);
                csv.write_record(fields.chain(told(&result, granted)))?;
            } else {
                csv.write_record(fields.chain(RESULTS.map(str::to_owned)))?;
                self.columns = Some(row.len());
            }
        }
        csv.into_inner().context("a report cannot be written to memory")
    }

    /// Rows that were granted and that no line of the file has.
    pub async fn beyond_the_file(&mut self) -> anyhow::Result<Vec<u8>> {
        let mut csv = csv::Writer::from_writer(vec![]);
        while let Some(result) = self.results.next().await? {
            let none = std::iter::repeat_n(String::new(), self.columns.unwrap_or_default());
            csv.write_record(none.chain(told(&result, Some(&result.key))))?;
        }
        csv.into_inner().context("a report cannot be written to memory")
    }

    /// Whether there was a file at all.
    pub const fn is_whole(&self) -> bool {
        self.columns.is_some()
    }
}

/// The report of a file that was not taken: what was wrong with it.
pub fn of_faults(faults: &serde_json::Value) -> anyhow::Result<Vec<u8>> {
    let mut csv = csv::Writer::from_writer(MARK.as_bytes().to_vec());
    csv.write_record(["line", "field", "reason"])?;
    for fault in faults.as_array().into_iter().flatten() {
        let text = |name: &str| harmless(fault.get(name).and_then(|it| it.as_str()).unwrap_or_default());
        let line = fault.get("line").map(ToString::to_string).unwrap_or_default();
        csv.write_record([line, text("field"), text("sentence")])?;
    }
    csv.into_inner().context("a report cannot be written to memory")
}

/// The rows of one chunk of the original file.
fn rows(bytes: &[u8], encoding: Encoding) -> anyhow::Result<Vec<Vec<String>>> {
    let lines = Lines::new(BufReader::new(bytes), encoding);
    lines
        .map(|row| row.map(|row| row.fields).map_err(|_| anyhow::anyhow!("the stored file does not read any more")))
        .collect()
}

/// Results in the order of the file, page by page.
struct Results<'a> {
    pool: &'a PgPool,
    batch: i64,
    page: std::vec::IntoIter<RowResult>,
    after: i32,
}

impl Results<'_> {
    async fn next(&mut self) -> anyhow::Result<Option<RowResult>> {
        if self.page.len() == 0 {
            self.page = batches::rows(self.pool, self.batch, self.after, PAGE).await?.into_iter();
        }
        let row = self.page.next();
        self.after = row.as_ref().map_or(self.after, |row| row.row_no);
        Ok(row)
    }
}

/// What became of a row; `granted`: what it is, where that is not what the file has there.
fn told(row: &RowResult, granted: Option<&str>) -> [String; 6] {
    let problem = row.code.as_deref().and_then(Problem::from_code);
    let detail = row.detail.as_deref().map(|detail| format!(" ({detail})")).unwrap_or_default();
    let reason = |sentence: fn(Problem) -> &'static str| {
        problem.map_or_else(|| row.code.clone().unwrap_or_default(), |p| format!("{}{detail}", sentence(p)))
    };
    let beside = |words: &str, reason: String| match granted {
        Some(granted) => format!("{words}{granted}. {reason}").trim_end().to_owned(),
        None => reason,
    };
    [
        row.line.to_string(),
        row.result.clone(),
        row.outcome.clone().unwrap_or_default(),
        harmless(&beside("ファイルの行とは異なる内容で登録されています: ", reason(Problem::japanese))),
        harmless(&beside("NOT WHAT THE FILE HAS HERE. Granted was: ", reason(Problem::sentence))),
        row.mail.clone().unwrap_or_default(),
    ]
}

/// A spreadsheet takes a field that begins like a formula for one, whoever wrote it: in Japan also with the signs of full width, and with
/// what looks like them; and it passes over spaces and over what cannot be seen.
fn harmless(field: &str) -> String {
    let begins = field.trim_start_matches(|c: char| c == ' ' || text::is_unseen(c));
    let formula = begins.starts_with([
        '=', '+', '-', '@', '＝', '＋', '－', '＠', '﹦', '﹢', '﹣', '﹫', '−', '⁼', '⁺', '⁻', '₌', '₊', '₋',
    ]);
    match formula || field.starts_with(['\t', '\r', '\n']) {
        true => format!("'{field}"),
        false => field.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::harmless;

    #[test]
    fn formulas_are_defused() {
        for (field, safe) in [
            ("=1+1", "'=1+1"),
            ("@x", "'@x"),
            ("-2", "'-2"),
            ("+81", "'+81"),
            ("渋谷", "渋谷"),
            ("", ""),
            ("\tx", "'\tx"),
        ] {
            assert_eq!(harmless(field), safe);
        }
        for (field, safe) in [
            ("＝1+1", "'＝1+1"),
            ("＋1+1", "'＋1+1"),
            ("－1", "'－1"),
            ("＠SUM(1)", "'＠SUM(1)"),
            ("﹦1", "'﹦1"),
            ("−1", "'−1"),
            (" =1", "' =1"),
            ("\u{3000}＝1", "'\u{3000}＝1"),
            ("\u{200b}=1", "'\u{200b}=1"),
            ("ー", "ー"),
            ("a=1", "a=1"),
        ] {
            assert_eq!(harmless(field), safe);
        }
    }
}
