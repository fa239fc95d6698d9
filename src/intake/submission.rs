//! Intake: a CSV file becomes a batch, all of it or nothing.
//!
//! A file is read twice. First the whole of it is checked, and nothing is written: every fault found (20 at most) is told
//! with its line and field. Then its rows are staged in chunks, each in a transaction of its own that a second reading of
//! the same file finds done; and when all are there, the batch is valid. Memory does not grow with the file. Names,
//! addresses and the file's own bytes are sealed here and go nowhere else: no sentence repeats what a field holds, since a
//! row whose columns slipped has them anywhere.
//!
//! The first line names the columns, in any order; `noshi batch template KIND` prints it.

#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, hash_map::Entry},
    fs::File,
    io::{BufRead, BufReader, Seek},
    path::Path,
};

use anyhow::{Context, bail, ensure};
use noshi_jobs::machine::Call;
use sha2::{Digest, Sha256};

use super::{
    encoding::Encoding,
    kind::FileKind,
    row::{Fault, MAX_FAULTS, Rejected, Taken},
};
use crate::{
    basics::{terminal::progress::Progress, text},
    db::{
        ActError, PgPool,
        domain::batches::{self, NewBatch},
        operator::doctor,
    },
    intake::{grants, header::Header, lines::Lines, points, stage, stores},
    partners::gifts::Offers,
    vault::Sealer,
};

/// Rows of one file.
pub const MAX_ROWS: usize = 1_000_000;
/// Bytes of the name of a file, or of a campaign.
const MAX_NAME: usize = 200;

/// A file, and how it is to be taken.
#[derive(Debug, Clone, Copy)]
pub struct Submission<'a> {
    /// Where it is; or, where it is held open, only what it is called.
    pub path: &'a Path,
    /// An open file that needs no name.
    pub held: Option<&'a File>,
    pub kind: FileKind,
    pub encoding: Encoding,
    pub campaign: Option<&'a str>,
    /// Announce each grant by mail, to rows with an address.
    pub mails: bool,
    /// Issue each gift at once instead of when its user asks.
    pub issues: bool,
}

impl Submission<'_> {
    /// The file's name, for sentences and records.
    fn name(&self) -> String {
        self.path.file_name().unwrap_or(self.path.as_os_str()).to_string_lossy().into_owned()
    }

    pub(super) fn open(&self) -> anyhow::Result<BufReader<File>> {
        let file = match self.held {
            // Read from its start each time; two readings never overlap.
            Some(held) => held.try_clone().and_then(|mut file| file.rewind().map(|()| file)),
            None => File::open(self.path),
        };
        let file = file.with_context(|| format!("cannot open {}", self.path.display()))?;
        Ok(BufReader::with_capacity(256 * 1024, file))
    }
}

/// Why nothing can be recorded under this name of a file: whoever approves it reads the name. SQL says the same (`noshi.must_be_named`).
pub fn file_fault(name: &str) -> Option<String> {
    if name.contains(['/', '\\']) {
        return Some("this holds a slash; a name is no path".to_owned());
    }
    text::text_fault(name, MAX_NAME)
}

/// The same of a campaign.
pub fn campaign_fault(campaign: &str) -> Option<String> {
    text::text_fault(campaign, MAX_NAME)
}

/// What a check found of a whole file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    pub digest: [u8; 32],
    pub rows: usize,
    pub faults: Vec<Fault>,
}

/// Reads a file row by row. The request of a store is not known before its batch is.
pub(super) struct Reading<'a, R> {
    kind: FileKind,
    pub(super) lines: Lines<R>,
    checks: grants::Checks<'a>,
    header: Option<Header>,
    request: String,
    /// Good rows so far.
    rows: i32,
}

impl<'a, R: BufRead> Reading<'a, R> {
    pub(super) fn new(
        kind: FileKind,
        encoding: Encoding,
        input: R,
        offers: Option<&'a Offers>,
        request: String,
    ) -> Self {
        let (lines, checks) = (Lines::new(input, encoding), grants::Checks::new(offers));
        Reading { kind, lines, checks, header: None, request, rows: 0 }
    }

    /// Reads the header; false where no row can be read after it.
    pub(super) fn header(&mut self, faults: &mut Vec<Fault>) -> bool {
        match self.lines.next() {
            Some(Ok(first)) => self.header = Header::read(self.kind.columns(), &first, faults),
            Some(Err(stopped)) => faults.push(stopped.fault),
            None => {
                let sentence = "the file is empty; its first line must name the columns".to_owned();
                faults.push(Fault { line: 1, field: None, sentence });
            }
        }
        // Without a header no field has a meaning.
        self.header.is_some() && faults.is_empty()
    }

    /// The next good row; its faults are added. `None` at the end.
    pub(super) fn next(&mut self, faults: &mut Vec<Fault>) -> Option<Option<Taken>> {
        let header = self.header.as_ref()?;
        match self.lines.next()? {
            Ok(row) => {
                let taken = match self.kind {
                    FileKind::Grants => self.checks.take(header, &row, faults),
                    FileKind::Stores => stores::take(header, &row, &self.request, self.rows + 1, faults),
                    FileKind::Points => points::take(header, &row, faults),
                };
                self.rows += i32::from(taken.is_some());
                Some(taken)
            }
            Err(stopped) => {
                faults.push(stopped.fault);
                if stopped.for_good { None } else { Some(None) }
            }
        }
    }
}

/// Checks a whole file and writes nothing.
pub fn check(kind: FileKind, encoding: Encoding, input: impl BufRead, offers: &Offers) -> anyhow::Result<Checked> {
    let mut reading = Reading::new(kind, encoding, input, Some(offers), "check".to_owned());
    let (mut faults, mut rows) = (vec![], 0);
    let mut progress = Progress::begin("checking rows", None)
        .kept(|_, _| "nothing was written; submit the same file again".to_owned());
    // By a digest, so that a million long ids fit.
    let mut seen: HashMap<[u8; 16], u32> = HashMap::new();
    if reading.header(&mut faults) {
        while let Some(taken) = reading.next(&mut faults) {
            rows += usize::from(taken.is_some());
            if rows % 4096 == 0 {
                progress.at(rows as u64);
            }
            if let Some(taken) = taken {
                let (digest, line) = (short_digest(&taken.unique), u32::try_from(taken.line).unwrap_or(u32::MAX));
                match seen.entry(digest) {
                    Entry::Vacant(free) => _ = free.insert(line),
                    Entry::Occupied(earlier) => faults.push(Fault {
                        line: taken.line,
                        field: Some(kind.unique_column().to_owned()),
                        sentence: format!("line {} has the same id; an id names one row", earlier.get()),
                    }),
                }
            }
            if rows > MAX_ROWS {
                let sentence = format!("the file has more than {MAX_ROWS} rows; split it");
                faults.push(Fault { line: reading.lines.number(), field: None, sentence });
            }
            if faults.len() >= MAX_FAULTS || rows > MAX_ROWS {
                break;
            }
        }
        faults.extend(reading.lines.contrary());
        if rows == 0 && faults.is_empty() {
            faults.push(Fault { line: 1, field: None, sentence: "no row follows the header".to_owned() });
        }
    }
    faults.truncate(MAX_FAULTS);
    let digest = reading.lines.digest().context("the file cannot be read to its end")?;
    Ok(Checked { digest, rows, faults })
}

fn short_digest(text: &str) -> [u8; 16] {
    let digest = Sha256::digest(text.as_bytes());
    let mut short = [0; 16];
    short.copy_from_slice(&digest[..16]);
    short
}

/// SHA-256 of a file's bytes.
pub fn digest_of(path: &Path) -> anyhow::Result<[u8; 32]> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    Lines::new(BufReader::new(file), Encoding::Utf8).digest().context("the file cannot be read")
}

/// The addresses that are kept beside rows, for whoever can open them.
pub trait Addresses: Send {
    /// A page of rows, each with its number.
    fn compare<'a>(&'a mut self, page: &'a [(i32, Taken)]) -> Call<'a, anyhow::Result<()>>;
}

/// Compares a file, row by row, with what is staged of its batch. `offers`: what a row may ask for, if that is to be judged again; `sealed`: the addresses, if
/// they can be compared here.
pub async fn verify(
    pool: &PgPool,
    offers: Option<&Offers>,
    submission: &Submission<'_>,
    batch: i64,
    mut sealed: Option<&mut dyn Addresses>,
) -> anyhow::Result<()> {
    let Submission { kind, encoding, .. } = *submission;
    let mut reading = Reading::new(kind, encoding, submission.open()?, offers, batch.to_string());
    let (mut faults, mut row_no) = (vec![], 0);
    let mut readable = reading.header(&mut faults);
    while readable {
        let mut page = vec![];
        while page.len() < 2_000
            && let Some(taken) = reading.next(&mut faults)
        {
            let Some(taken) = taken else { break };
            row_no += 1;
            page.push((row_no, taken));
        }
        readable = !page.is_empty();
        let rows = page.iter().map(|(row_no, taken)| {
            let line = i32::try_from(taken.line).unwrap_or(i32::MAX);
            Ok((*row_no, line, taken.key.as_str(), serde_json::from_str(&taken.args)?, taken.mailed))
        });
        let rows = rows.collect::<anyhow::Result<Vec<_>>>()?;
        if let Some(line) = batches::first_difference(pool, batch, &rows).await? {
            bail!("line {line} is not staged in batch {batch} as this file has it");
        }
        if let Some(sealed) = &mut sealed {
            sealed.compare(&page).await?;
        }
    }
    let staged = batches::staged(pool, batch).await?;
    ensure!(
        faults.is_empty() && staged == i64::from(row_no),
        "batch {batch} has {staged} rows, and this file {row_no}"
    );
    Ok(())
}

/// What became of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Submitted {
    pub batch: i64,
    /// False: the same file was submitted before, and this is its batch.
    pub is_new: bool,
    pub rows: usize,
    pub needs_approval: bool,
}

/// What is sealed to another key under an id of the workers' opens nowhere: no mail would go out, and nobody could approve the file.
async fn opens_at_the_workers(pool: &PgPool, sealer: &Sealer) -> anyhow::Result<()> {
    let ours = (sealer.current_key().to_owned(), sealer.print());
    match doctor::other_prints(pool, &[ours]).await?.first() {
        None => Ok(()),
        Some(id) => {
            let sentence = format!(
                "the public key {id} here is not the one that the workers have under this id; nothing was written. Take what `noshi vault public` prints on a worker's host"
            );
            Err(ActError::refused(sentence).into())
        }
    }
}

/// Checks the file, stages it, and validates its batch. The same file again is the same batch; one whose submission broke
/// off is gone on with.
pub async fn submit(
    pool: &PgPool,
    sealer: &Sealer,
    offers: &Offers,
    submission: &Submission<'_>,
) -> anyhow::Result<Submitted> {
    let name = submission.name();
    if let Some(fault) = file_fault(&name) {
        bail!("the name of the file: {fault}; nothing was written, give it another name");
    }
    if let Some(fault) = submission.campaign.and_then(campaign_fault) {
        bail!("--campaign: {fault}; nothing was written");
    }
    let checked = check(submission.kind, submission.encoding, submission.open()?, offers)?;
    let new = NewBatch {
        kind: submission.kind.name(),
        mode: submission.kind.mode(),
        digest: &checked.digest,
        file: &name,
        encoding: submission.encoding.name(),
        campaign: submission.campaign,
        mails: submission.mails,
        issues: submission.issues,
    };
    if !checked.faults.is_empty() {
        let faults = checked.faults.iter().map(|f| batches::fault(f.line, f.field.as_deref(), &f.sentence)).collect();
        batches::record_invalid(pool, &new, &serde_json::Value::Array(faults)).await?;
        return Err(Rejected { file: name, faults: checked.faults }.into());
    }
    opens_at_the_workers(pool, sealer).await?;
    let (batch, is_new) = batches::receive(pool, &new).await?;
    if is_new || !batches::is_validated(pool, batch).await? {
        let staging = stage::Staging { pool, sealer, offers, submission, batch };
        let staged = async {
            staging.run(&checked).await?;
            // What another submission left behind is taken only if it is this file's.
            if is_new { Ok(()) } else { verify(pool, Some(offers), submission, batch, None).await }
        };
        if let Err(error) = staged.await {
            let why = "its submission failed, or its file changed while it was read";
            // A batch that is not as its file is must not be gone on with; one that was only cut off may be.
            if !stage::is_transient(&error) {
                batches::cancel(pool, batch, why).await.context("the batch could not be cancelled; do that")?;
            }
            return Err(error);
        }
    }
    let rows = i32::try_from(checked.rows).context("too many rows")?;
    let needs_approval = batches::validate(pool, batch, rows).await?;
    Ok(Submitted { batch, is_new, rows: checked.rows, needs_approval })
}
