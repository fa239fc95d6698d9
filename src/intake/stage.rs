//! From a checked file to staged rows, chunk by chunk.

use std::fmt::Write;

use anyhow::ensure;
use noshi_jobs::gift_issuance::Sealed;

use super::{Checked, Submission, Taken, submission::Reading};
use crate::{
    basics::terminal::progress::{Progress, grouped},
    db::{
        self, PgPool,
        domain::batches::{self, Chunk},
    },
    partners::gifts::Offers,
    vault::{SealedAt, Sealer, Sealing},
};

/// Rows that are staged in one transaction. Chunks of a file are the same whenever it is read: permanent.
const CHUNK: usize = 5_000;

pub struct Staging<'a> {
    pub pool: &'a PgPool,
    pub sealer: &'a Sealer,
    pub offers: &'a Offers,
    pub submission: &'a Submission<'a>,
    pub batch: i64,
}

impl Staging<'_> {
    /// Reads the file a second time. It must be the very file that was checked.
    pub async fn run(&self, checked: &Checked) -> anyhow::Result<()> {
        let Submission { kind, encoding, .. } = *self.submission;
        let changed = "the file changed while it was being read; nothing of it takes effect. Submit it again";
        let mut reading =
            Reading::new(kind, encoding, self.submission.open()?, Some(self.offers), self.batch.to_string());
        reading.lines.keep_raw();
        let mut faults = vec![];
        ensure!(reading.header(&mut faults), changed);
        let (mut number, mut row_no) = (0, 0);
        let mut progress = Progress::begin("staging rows", Some(checked.rows as u64)).kept(|done, total| {
            let (done, total) = (grouped(done), grouped(total.unwrap_or(done)));
            format!("{done} of {total} rows are staged, and have no effect; submit the same file again, and it goes on there")
        });
        loop {
            let sealing = self.sealer.begin();
            let mut chunk = Writing::default();
            while chunk.count < CHUNK
                && let Some(taken) = reading.next(&mut faults)
            {
                let Some(taken) = taken.filter(|_| faults.is_empty()) else { anyhow::bail!(changed) };
                row_no += 1;
                chunk.row(self, &sealing, row_no, &taken);
            }
            let bytes = reading.lines.take_raw();
            if bytes.is_empty() {
                break;
            }
            let bytes = sealing.seal_bytes(&SealedAt::of_chunk(&batches::chunk_name(self.batch, number)), &bytes);
            let chunk = Chunk { number, bytes, rows: chunk.rows, sealed: chunk.sealed };
            batches::stage(self.pool, self.batch, &chunk).await?;
            progress.at(u64::try_from(row_no).unwrap_or(0));
            crate::basics::chaos::crash_point("stage.after");
            number += 1;
        }
        ensure!(faults.is_empty() && reading.lines.digest()? == checked.digest, changed);
        Ok(())
    }
}

/// A chunk as COPY takes it.
#[derive(Default)]
struct Writing {
    count: usize,
    rows: String,
    sealed: String,
}

impl Writing {
    fn row(&mut self, staging: &Staging<'_>, sealing: &Sealing<'_>, row_no: i32, taken: &Taken) {
        self.count += 1;
        let (key, args) = (escaped(&taken.key), escaped(&taken.args));
        // Writing to a string cannot fail.
        let _ = writeln!(
            self.rows,
            "{}\t{row_no}\t{}\t{key}\t{args}\t{}",
            staging.batch,
            taken.line,
            if taken.mailed { 't' } else { 'f' }
        );
        if let Some(private) = &taken.private {
            let place = private.place();
            self.seal(&batches::kept_under(staging.batch, row_no), &place, &sealing.seal(&place, &private.plain));
        }
    }

    fn seal(&mut self, subject: &str, place: &SealedAt<'_>, sealed: &Sealed) {
        let _ = writeln!(
            self.sealed,
            "{}\t{subject}\t{}\t\t{}\t\\\\x{}\t\\\\x{}",
            place.column,
            escaped(place.grant),
            sealed.key_id,
            hex::encode(&sealed.nonce),
            hex::encode(&sealed.ciphertext)
        );
    }
}

/// As the text format of COPY has it.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            letter => out.push(letter),
        }
    }
    out
}

/// The database was away for a moment: nothing is wrong with what is staged.
pub fn is_transient(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(db::ActError::Database(error)) if db::is_transient(error))
}
