//! The report of a batch for customer support (R58): the original columns, and what became of each row.

use std::io::{BufReader, Write};

use crate::store::PgPool;
use anyhow::{Context, bail};
use noshi_jobs::{Problem, gift_issuance::Sealed};

use super::{Encoding, lines::Lines};
use crate::{
    store::batches::{self, Progress as Batch, RowResult},
    terminal::progress::Progress,
    text,
    vault::{Place, Vault},
};

const RESULTS: [&str; 6] = ["line", "result", "outcome", "reason_ja", "reason", "mail"];
const PAGE: i32 = 5_000;

/// Writes the report of a batch as CSV in UTF-8 with a BOM, so that spreadsheets read it.
pub async fn write(pool: &PgPool, vault: &Vault, batch: &Batch, mut out: impl Write) -> anyhow::Result<()> {
    // It has names and addresses: who read them is on record before the first is opened.
    batches::note_report(pool, batch.id).await?;
    // Without this mark Excel takes the file for one in the encoding of its country; ours is taken with it or without.
    out.write_all("\u{feff}".as_bytes()).context("the report cannot be written")?;
    let mut csv = csv::Writer::from_writer(out);
    if let Some(faults) = &batch.faults {
        return write_faults(&mut csv, faults);
    }
    let encoding = Encoding::from_name(&batch.encoding);
    let mut results = Results { pool, batch: batch.id, page: vec![].into_iter(), after: 0 };
    let mut header = true;
    let mut progress = Progress::begin("writing rows of the report", u64::try_from(batch.rows).ok())
        .kept(|_, _| "it only looks; nothing is changed, and no file was written".to_owned());
    for number in 0.. {
        let Some(sealed) = batches::file_chunk(pool, batch.id, number).await? else { break };
        for row in rows(vault, &batches::chunk_name(batch.id, number), &sealed, encoding)? {
            let fields = row.iter().map(|field| harmless(field));
            if header {
                csv.write_record(fields.chain(RESULTS.map(str::to_owned)))?;
                header = false;
                continue;
            }
            let result = results.next().await?;
            progress.advance(1);
            csv.write_record(fields.chain(told(&result)))?;
        }
    }
    if header {
        bail!("the file of batch {} was never received whole; submit it again", batch.id);
    }
    csv.flush().context("the report cannot be written")
}

fn write_faults(csv: &mut csv::Writer<impl Write>, faults: &serde_json::Value) -> anyhow::Result<()> {
    csv.write_record(["line", "field", "reason"])?;
    for fault in faults.as_array().into_iter().flatten() {
        let text = |name: &str| harmless(fault.get(name).and_then(|it| it.as_str()).unwrap_or_default());
        let line = fault.get("line").map(ToString::to_string).unwrap_or_default();
        csv.write_record([line, text("field"), text("sentence")])?;
    }
    csv.flush().context("the report cannot be written")
}

/// The rows of one chunk of the original file.
fn rows(vault: &Vault, chunk: &str, sealed: &Sealed, encoding: Encoding) -> anyhow::Result<Vec<Vec<String>>> {
    let bytes = vault.open_bytes(&Place::of_chunk(chunk), sealed)?;
    let lines = Lines::new(BufReader::new(bytes.as_slice()), encoding);
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
