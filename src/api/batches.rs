//! Batches: files taken in, approved, let go, followed, and reported on.

use std::{
    fs::File,
    io::{Seek, SeekFrom, Write},
    path::Path,
    time::Duration,
};

use anyhow::Context;
use axum::{
    body::{Body, Bytes},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::io::AsyncReadExt;

use super::{
    backend::{Backend, Call, answer},
    body,
    refusal::Refusal,
};
use crate::{
    db::{
        PgPool,
        domain::batches::{self, Progress},
    },
    intake::{self, Encoding, FileKind, Submission},
    operator::readings::ask::{self, What},
};

/// Bytes of a file.
const MOST: usize = 256 * 1024 * 1024;
const FILE_TIME: Duration = Duration::from_secs(5 * 60);
const PIECE: usize = 64 * 1024;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "FileKind")]
enum Kind {
    #[default]
    Grants,
    Stores,
    Points,
}

impl Kind {
    const fn file(self) -> FileKind {
        match self {
            Kind::Grants => FileKind::Grants,
            Kind::Stores => FileKind::Stores,
            Kind::Points => FileKind::Points,
        }
    }
}

#[derive(Debug, Clone, Copy, Default, Deserialize, JsonSchema)]
enum Charset {
    #[default]
    #[serde(rename = "utf-8")]
    Utf8,
    #[serde(rename = "shift_jis")]
    ShiftJis,
}

/// How a file is taken, as `noshi batch submit` has it.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Options {
    #[serde(default)]
    kind: Kind,
    /// What the file is called in records.
    file: Option<String>,
    #[serde(default)]
    encoding: Charset,
    campaign: Option<String>,
    /// Announce each grant by mail.
    #[serde(default)]
    mail: bool,
    /// Issue each gift at once instead of when its user asks.
    #[serde(default)]
    issue: bool,
}

#[derive(Serialize, JsonSchema)]
pub struct Submitted {
    batch: i64,
    rows: usize,
    /// False: the same file was submitted before, and this is its batch.
    is_new: bool,
    /// A second person must approve it before it can be released.
    needs_approval: bool,
    /// SHA-256 of the file, in hex.
    digest: String,
    /// Stands for the file, the options and the addresses: what an approval is given for.
    approval_digest: Option<String>,
}

/// What is wrong with a file, as its description tells it.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "it is drawn, and written as it was recorded")]
struct FileFault {
    /// Counted from 1, the header's.
    line: u64,
    /// A column's name; none where the whole line is meant.
    field: Option<String>,
    sentence: String,
}

/// A batch, and how far it is: rows = completed + failed + cancelled + needs_operator + open.
#[derive(Serialize, JsonSchema)]
pub struct Batch {
    batch: i64,
    kind: String,
    file: String,
    /// SHA-256 of the file, in hex.
    digest: String,
    /// Stands for the file, the options and the addresses: what an approval is given for. `null` while it is being received.
    approval_digest: Option<String>,
    campaign: Option<String>,
    /// Each grant is announced by mail.
    mails: bool,
    /// Each gift is bought at once, and not when its user asks.
    issues: bool,
    status: String,
    submitted_by: String,
    approved_by: Option<String>,
    refused: Option<String>,
    paused_code: Option<String>,
    #[schemars(with = "Option<Vec<FileFault>>")]
    faults: Option<Value>,
    rows: i64,
    completed: i64,
    failed: i64,
    cancelled: i64,
    needs_operator: i64,
    open: i64,
    skipped: i64,
    compensated: i64,
    mails_sent: i64,
    mails_failed: i64,
    /// The totals add up.
    holds: bool,
}

impl From<Progress> for Batch {
    fn from(p: Progress) -> Batch {
        Batch {
            batch: p.id,
            kind: p.kind,
            file: p.file,
            digest: p.digest,
            approval_digest: p.approval_digest,
            campaign: p.campaign,
            mails: p.mails,
            issues: p.issues,
            status: p.status,
            submitted_by: p.submitted_by,
            approved_by: p.approved_by,
            refused: p.refused,
            paused_code: p.paused_code,
            faults: p.faults,
            rows: p.rows,
            completed: p.completed,
            failed: p.failed,
            cancelled: p.cancelled,
            needs_operator: p.needs_operator,
            open: p.open,
            skipped: p.skipped,
            compensated: p.compensated,
            mails_sent: p.mails_sent,
            mails_failed: p.mails_failed,
            holds: p.holds,
        }
    }
}

/// A file that has no name on the disk, so that nothing of it outlives us.
fn nameless() -> Result<File, Refusal> {
    tempfile::tempfile().map_err(|_| no_disk())
}

fn no_disk() -> Refusal {
    tracing::warn!("a temporary file could not be written");
    Refusal::unavailable("The file could not be kept now. Nothing was done; send it again.")
}

pub async fn submit(backend: &Backend, call: Call) -> Result<Response, Refusal> {
    let options: Options = call.query()?;
    let sealer = backend.sealer("no files")?;
    let kind = options.kind.file();
    if (options.kind == Kind::Stores && options.campaign.is_some())
        || (!kind.brings_gifts() && (options.mail || options.issue))
    {
        return Err(Refusal::field("kind", "mail and issue are for grants, and a campaign is for grants and points."));
    }
    let name = options.file.as_deref().unwrap_or("upload.csv");
    if let Some(fault) = intake::file_fault(name) {
        return Err(Refusal::field("file", format!("A file's name has 1 to 200 bytes, and no slash: {fault}.")));
    }
    if let Some(fault) = options.campaign.as_deref().and_then(intake::campaign_fault) {
        return Err(Refusal::field("campaign", format!("A campaign has 1 to 200 bytes: {fault}.")));
    }
    let mut held = nameless()?;
    let mut pieces = body::Pieces::new(&call.headers, &call.body, MOST, FILE_TIME).await?;
    while let Some(piece) = pieces.next().await? {
        held.write_all(&piece).map_err(|_| no_disk())?;
    }
    let submission = Submission {
        path: Path::new(name),
        held: Some(&held),
        kind,
        encoding: match options.encoding {
            Charset::Utf8 => Encoding::Utf8,
            Charset::ShiftJis => Encoding::ShiftJis,
        },
        campaign: options.campaign.as_deref(),
        mails: options.mail,
        issues: options.issue,
    };
    let pool = backend.pool_of(&call).await?;
    let submitted = intake::submit(&pool, sealer, &backend.offers, &submission).await?;
    let Progress { digest, approval_digest, .. } = find(&pool, submitted.batch).await?;
    let is_new = submitted.is_new;
    let told = Submitted {
        batch: submitted.batch,
        rows: submitted.rows,
        is_new,
        needs_approval: submitted.needs_approval,
        digest,
        approval_digest,
    };
    Ok(answer(StatusCode::OK, &told))
}

async fn find(pool: &PgPool, batch: i64) -> Result<Progress, Refusal> {
    let found = batches::progress(pool, Some(batch), 1).await?.into_iter().next();
    found.ok_or_else(|| Refusal::not_found(format!("There is no batch {batch}.")))
}

pub async fn list(backend: &Backend, call: Call) -> Result<Response, Refusal> {
    let all = batches::progress(&*backend.pool_of(&call).await?, None, 50).await?;
    Ok(answer(StatusCode::OK, &all.into_iter().map(Batch::from).collect::<Vec<_>>()))
}

pub async fn show(backend: &Backend, call: Call) -> Result<Response, Refusal> {
    let batch = call.number("batch")?;
    shown(&*backend.pool_of(&call).await?, batch).await
}

async fn shown(pool: &PgPool, batch: i64) -> Result<Response, Refusal> {
    Ok(answer(StatusCode::OK, &Batch::from(find(pool, batch).await?)))
}

/// An approval, by somebody else than who submitted the batch.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Approve {
    /// `approval_digest` of the batch, in hex: it stands for the file, the options and the addresses. Compare `digest` with your own copy
    /// of the file first.
    digest: String,
    reason: String,
}

#[derive(Serialize, JsonSchema)]
pub struct Approved {
    batch: i64,
    approved_until: DateTime<Utc>,
}

pub async fn approve(backend: &Backend, call: Call) -> Result<Response, Refusal> {
    let Approve { digest, reason } = body::json(&call.text)?;
    let number = call.number("batch")?;
    let digest = hex::decode(&digest).ok().filter(|digest| digest.len() == 32);
    let digest = digest
        .ok_or_else(|| Refusal::field("digest", "A digest is the approval_digest of the batch, 64 hex digits."))?;
    let pool = backend.pool_of(&call).await?;
    let batch = find(&pool, number).await?;
    // What is approved is what is staged: whoever submitted the file could have staged anything. A worker compares them, which can open the file.
    if batch.approval_digest == Some(hex::encode(&digest)) && batch.status == "awaiting_approval" {
        ask::ask(backend.by(&call), &backend.ears, What::Check { batch: number }).await?.whole().await?;
    }
    let approved_until = batches::approve(&pool, number, &digest, &reason).await?;
    Ok(answer(StatusCode::OK, &Approved { batch: number, approved_until }))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// Why; for the journal and the audit.
    reason: Option<String>,
}

/// Why; for the journal and the audit.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Reason")]
pub struct Why {
    reason: String,
}

pub fn reason(call: &Call) -> Result<String, Refusal> {
    let Why { reason } = body::json(&call.text)?;
    match reason.trim().is_empty() {
        true => Err(Refusal::field("reason", "This needs a reason, for the journal and the audit.")),
        false => Ok(reason),
    }
}

pub async fn release(backend: &Backend, call: Call) -> Result<Response, Refusal> {
    let Release { reason } = body::json(&call.text)?;
    let batch = call.number("batch")?;
    let pool = backend.pool_of(&call).await?;
    batches::release(&pool, batch, reason.as_deref()).await?;
    shown(&pool, batch).await
}

pub async fn pause(backend: &Backend, call: Call) -> Result<Response, Refusal> {
    let (reason, batch) = (reason(&call)?, call.number("batch")?);
    let pool = backend.pool_of(&call).await?;
    batches::pause(&pool, batch, &reason).await?;
    shown(&pool, batch).await
}

pub async fn resume(backend: &Backend, call: Call) -> Result<Response, Refusal> {
    let (reason, batch) = (reason(&call)?, call.number("batch")?);
    let pool = backend.pool_of(&call).await?;
    batches::resume(&pool, batch, &reason).await?;
    shown(&pool, batch).await
}

pub async fn cancel(backend: &Backend, call: Call) -> Result<Response, Refusal> {
    let (reason, batch) = (reason(&call)?, call.number("batch")?);
    let pool = backend.pool_of(&call).await?;
    batches::cancel(&pool, batch, &reason).await?;
    shown(&pool, batch).await
}

/// Written to a nameless file first, so that a slow reader holds up no worker.
pub async fn report(backend: &Backend, mut call: Call) -> Result<Response, Refusal> {
    let batch = call.number("batch")?;
    let pool = backend.pool_of(&call).await?;
    let progress = find(&pool, batch).await?;
    if progress.status == "received" {
        return Err(Refusal::conflict("This batch is still being received; there is no report yet."));
    }
    pool.close().await;
    let mut file = nameless()?;
    let asked = ask::ask(backend.by(&call), &backend.ears, What::Report { batch }).await?;
    asked.write_to(&file, u64::try_from(progress.rows).ok()).await?;
    file.seek(SeekFrom::Start(0)).context("a report cannot be read again")?;
    // It is made; how slowly it is read is the caller's own affair.
    let own = call.large.take().map(|[own, _shared]| own);
    let pieces = futures::stream::try_unfold((tokio::fs::File::from_std(file), own), async |(mut file, own)| {
        let mut piece = vec![0; PIECE];
        let read = file.read(&mut piece).await?;
        piece.truncate(read);
        Ok::<_, std::io::Error>((read > 0).then(|| (Bytes::from(piece), (file, own))))
    });
    let headers = [
        (header::CONTENT_TYPE, "text/csv; charset=utf-8".to_owned()),
        (header::CONTENT_DISPOSITION, format!("attachment; filename=\"batch-{batch}.csv\"")),
    ];
    Ok((headers, Body::from_stream(pieces)).into_response())
}
