//! The report of a batch for customer support (R58): the original columns, and what became of each row.

use std::io::BufReader;

use anyhow::Context;
use noshi_jobs::Problem;

use super::{Encoding, lines::Lines};
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
    headed: bool,
}

/// Without this mark Excel takes the file for one in the encoding of its country; ours is taken with it or without.
const MARK: &str = "\u{feff}";

impl<'a> Report<'a> {
    pub fn begin(pool: &'a PgPool, batch: &Filed) -> Report<'a> {
        let results = Results { pool, batch: batch.id, page: vec![].into_iter(), after: 0 };
        Report { results, encoding: Encoding::from_name(&batch.encoding), headed: false }
    }

    /// What becomes of one chunk of the original file.
    pub async fn of_chunk(&mut self, bytes: &[u8]) -> anyhow::Result<Vec<u8>> {
        let mark = if self.headed { "" } else { MARK };
        let mut csv = csv::Writer::from_writer(mark.as_bytes().to_vec());
        for row in rows(bytes, self.encoding)? {
            let fields = row.iter().map(|field| harmless(field));
            if self.headed {
                let result = self.results.next().await?;
                csv.write_record(fields.chain(told(&result)))?;
            } else {
                csv.write_record(fields.chain(RESULTS.map(str::to_owned)))?;
                self.headed = true;
            }
        }
        csv.into_inner().context("a report cannot be written to memory")
    }

    /// Whether there was a file at all.
    pub const fn is_whole(&self) -> bool {
        self.headed
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
    async fn next(&mut self) -> anyhow::Result<RowResult> {
        if self.page.len() == 0 {
            self.page = batches::rows(self.pool, self.batch, self.after, PAGE).await?.into_iter();
        }
        let row = self.page.next().context("the stored file has more rows than its batch")?;
        self.after = row.row_no;
        Ok(row)
    }
}

fn told(row: &RowResult) -> [String; 6] {
    let problem = row.code.as_deref().and_then(Problem::from_code);
    let detail = row.detail.as_deref().map(|detail| format!(" ({detail})")).unwrap_or_default();
    let reason = |sentence: fn(Problem) -> &'static str| {
        problem.map_or_else(|| row.code.clone().unwrap_or_default(), |p| format!("{}{detail}", sentence(p)))
    };
    [
        row.line.to_string(),
        row.result.clone(),
        row.outcome.clone().unwrap_or_default(),
        harmless(&reason(Problem::japanese)),
        harmless(&reason(Problem::sentence)),
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
