//! Batches: files received, staged, judged, released, counted. What is legal the functions of the schema decide.

mod caps;
mod record;
mod registration;

use std::fmt;

use noshi_jobs::gift_issuance::Sealed;
use serde::Serialize;
use serde_json::{Value, json};
use sqlx::{Row, postgres::PgRow, types::Json};

use crate::db::{ActError, PgConnection, PgPool, in_time, take_time};

pub use caps::{Cap, Holds, caps, set_cap};
pub use record::{Record, Total, record, totals};
pub use registration::{announce, register};

/// Rows that are announced in one transaction.
const PAGE: i32 = 10_000;

/// A file that is being submitted.
#[derive(Debug, Clone, Copy)]
pub struct NewBatch<'a> {
    pub kind: &'a str,
    pub mode: &'a str,
    pub digest: &'a [u8],
    pub file: &'a str,
    pub encoding: &'a str,
    pub campaign: Option<&'a str>,
    pub mails: bool,
    pub issues: bool,
}

const RECEIVE: &str = "select batch, is_new from noshi.receive_batch($1, $2, $3, $4, $5, $6, $7, $8)";

/// The batch of this file, and whether it is new.
pub async fn receive(pool: &PgPool, new: &NewBatch<'_>) -> Result<(i64, bool), ActError> {
    let row = sqlx::query(RECEIVE)
        .bind(new.kind)
        .bind(new.mode)
        .bind(new.digest)
        .bind(new.file)
        .bind(new.encoding)
        .bind(new.campaign)
        .bind(new.mails)
        .bind(new.issues)
        .fetch_one(pool)
        .await?;
    Ok((row.try_get("batch")?, row.try_get("is_new")?))
}

const INVALID: &str = "select noshi.invalid_batch($1, $2, $3, $4, $5, $6)";

/// Records a file with faults, and nothing of its content.
pub async fn record_invalid(pool: &PgPool, new: &NewBatch<'_>, faults: &Value) -> Result<i64, ActError> {
    Ok(sqlx::query_scalar(INVALID)
        .bind(new.kind)
        .bind(new.mode)
        .bind(new.digest)
        .bind(new.file)
        .bind(new.campaign)
        .bind(Json(faults))
        .fetch_one(pool)
        .await?)
}

/// Some rows of a file, with the bytes that they were read from.
pub struct Chunk {
    pub number: i32,
    pub bytes: Sealed,
    /// `batch_row` as COPY takes it, and the sealed recipients or contacts.
    pub rows: String,
    pub sealed: String,
}

const SEAL_CHUNK: &str =
    "insert into noshi_sealed.sealed (what, subject, grant_id, provider, key_id, nonce, ciphertext)
values ('file', $1, $1, '', $2, $3, $4) on conflict do nothing";
/// What a chunk is stored under, and sealed for: it opens as no other chunk, and in no other batch.
pub fn chunk_name(batch: i64, number: i32) -> String {
    format!("{batch}/{number}")
}

/// What the recipient or the contact of a row is kept under.
pub fn kept_under(batch: impl fmt::Display, row_no: i32) -> String {
    format!("{batch}/{row_no}")
}

const COPY_ROWS: &str = "copy noshi.batch_row (batch, row_no, line, key, args, mailed) from stdin";
const COPY_SEALED: &str =
    "copy noshi_sealed.sealed (what, subject, grant_id, provider, key_id, nonce, ciphertext) from stdin";

/// Stages one chunk, in a transaction of its own; one that is there already is left as it is.
pub async fn stage(pool: &PgPool, batch: i64, chunk: &Chunk) -> Result<(), ActError> {
    let mut transaction = pool.begin().await?;
    take_time(&mut transaction).await?;
    let sealed = sqlx::query(SEAL_CHUNK)
        .bind(chunk_name(batch, chunk.number))
        .bind(&chunk.bytes.key_id)
        .bind(&chunk.bytes.nonce)
        .bind(&chunk.bytes.ciphertext)
        .execute(&mut *transaction)
        .await?;
    if sealed.rows_affected() == 0 {
        return Ok(transaction.rollback().await?);
    }
    for (sql, text) in [(COPY_ROWS, &chunk.rows), (COPY_SEALED, &chunk.sealed)] {
        if !text.is_empty() {
            transaction.copy_in(sql, text.as_bytes()).await?;
        }
    }
    Ok(transaction.commit().await?)
}

pub async fn is_validated(pool: &PgPool, batch: i64) -> Result<bool, ActError> {
    const IS_VALIDATED: &str = "select validated_at is not null from noshi.batch where id = $1";
    Ok(sqlx::query_scalar(IS_VALIDATED).bind(batch).fetch_one(pool).await?)
}

/// All rows are staged. Whether a second person must approve.
pub async fn validate(pool: &PgPool, batch: i64, rows: i32) -> Result<bool, ActError> {
    const VALIDATE: &str = "select noshi.validate_batch($1, $2)";
    in_time(pool, async |c| sqlx::query_scalar(VALIDATE).bind(batch).bind(rows).fetch_one(c).await).await
}

/// Approves in the name of the login. Until when it holds.
pub async fn approve(
    pool: &PgPool,
    batch: i64,
    digest: &[u8],
    reason: &str,
) -> Result<chrono::DateTime<chrono::Utc>, ActError> {
    const APPROVE: &str = "select noshi.approve_batch($1, $2, $3)";
    in_time(pool, async |c| sqlx::query_scalar(APPROVE).bind(batch).bind(digest).bind(reason).fetch_one(c).await).await
}

pub async fn release(pool: &PgPool, batch: i64, reason: Option<&str>) -> Result<(), ActError> {
    const RELEASE: &str = "select noshi.release_batch($1, $2)";
    in_time(pool, async |c| sqlx::query(RELEASE).bind(batch).bind(reason).execute(c).await.map(|_| ())).await
}

pub async fn pause(pool: &PgPool, batch: i64, reason: &str) -> Result<(), ActError> {
    const PAUSE: &str = "select noshi.pause_batch($1, 'operator', $2)";
    in_time(pool, async |c| sqlx::query(PAUSE).bind(batch).bind(reason).execute(c).await.map(|_| ())).await
}

pub async fn resume(pool: &PgPool, batch: i64, reason: &str) -> Result<(), ActError> {
    const RESUME: &str = "select noshi.resume_batch($1, $2)";
    in_time(pool, async |c| sqlx::query(RESUME).bind(batch).bind(reason).execute(c).await.map(|_| ())).await
}

/// Returns how many rows were ended that had been jobs already.
pub async fn cancel(pool: &PgPool, batch: i64, reason: &str) -> Result<i32, ActError> {
    const CANCEL: &str = "select noshi.cancel_batch($1, $2)";
    in_time(pool, async |c| sqlx::query_scalar(CANCEL).bind(batch).bind(reason).fetch_one(c).await).await
}

/// Asks for another run of every failed job of the batch. Returns how many.
pub async fn rerun(pool: &PgPool, batch: i64, reason: &str) -> Result<i32, ActError> {
    const RERUN: &str = "select noshi.rerun_batch($1, $2)";
    in_time(pool, async |c| sqlx::query_scalar(RERUN).bind(batch).bind(reason).fetch_one(c).await).await
}

/// Failed jobs of a batch that cannot be run again.
#[derive(Debug, Clone, Serialize, sqlx::FromRow)]
pub struct NotRerun {
    pub kind: String,
    pub code: Option<String>,
    pub jobs: i64,
}

/// What a rerun leaves failed: its state table has no way back from there.
pub async fn not_rerun(pool: &PgPool, batch: i64) -> Result<Vec<NotRerun>, sqlx::Error> {
    const NOT_RERUN: &str = "select kind, code, count(*) as jobs from noshi.job
where batch = $1 and status = 'failed' and requested_act is null and not noshi.reruns(kind) group by kind, code order by kind, code";
    sqlx::query_as(NOT_RERUN).bind(batch).fetch_all(pool).await
}

/// A batch, and how far it is.
#[derive(Debug, Clone, Serialize, sqlx::FromRow)]
pub struct Progress {
    pub id: i64,
    pub kind: String,
    pub file: String,
    /// In hex.
    pub digest: String,
    pub encoding: String,
    pub status: String,
    /// In hex, over the file, the options and the addresses: what an approval is given for. `None` while it is being received.
    pub approval_digest: Option<String>,
    pub campaign: Option<String>,
    /// Each grant is announced by mail.
    pub mails: bool,
    /// Each gift is bought at once, and not when its user asks.
    pub issues: bool,
    pub submitted_by: String,
    pub approved_by: Option<String>,
    pub refused: Option<String>,
    pub paused_code: Option<String>,
    pub faults: Option<Value>,
    pub rows: i64,
    pub completed: i64,
    pub failed: i64,
    pub cancelled: i64,
    pub needs_operator: i64,
    pub open: i64,
    pub skipped: i64,
    pub compensated: i64,
    pub mails_sent: i64,
    pub mails_failed: i64,
    /// rows = completed + failed + cancelled + needs_operator + open, each row once.
    pub holds: bool,
}

const PROGRESS: &str = "select b.id, b.kind, b.file, encode(b.digest, 'hex') as digest, encode(b.approval_digest, 'hex') as approval_digest, b.campaign, b.mails, b.issues, b.encoding, b.submitted_by, b.approved_by, b.paused_code, b.faults,
    b.refused_code || ': ' || b.refused_detail as refused, p.status, p.rows, p.completed, p.failed, p.cancelled, p.needs_operator, p.open, p.skipped,
    p.compensated, p.mails_sent, p.mails_failed, p.holds
from noshi.batch b cross join lateral noshi.batch_progress(b.id) p where ($1::bigint is null or b.id = $1) and ($3::bigint is null or b.id < $3) order by b.id desc limit $2";

/// The latest batches, or one.
pub async fn progress(pool: &PgPool, batch: Option<i64>, most: i64) -> Result<Vec<Progress>, ActError> {
    in_time(pool, async |c| sqlx::query_as(PROGRESS).bind(batch).bind(most).bind(None::<i64>).fetch_all(c).await).await
}

/// What is needed to read the file of a batch.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Filed {
    pub id: i64,
    pub kind: String,
    pub file: String,
    /// In hex.
    pub digest: String,
    pub encoding: String,
    pub faults: Option<Value>,
}

pub async fn filed(pool: &PgPool, batch: i64) -> Result<Option<Filed>, sqlx::Error> {
    const FILED: &str =
        "select id, kind, file, encode(digest, 'hex') as digest, encoding, faults from noshi.batch where id = $1";
    sqlx::query_as(FILED).bind(batch).fetch_optional(pool).await
}

/// The latest batches before this one, or of all.
pub async fn page(pool: &PgPool, before: Option<i64>, most: i64) -> Result<Vec<Progress>, ActError> {
    in_time(pool, async |c| sqlx::query_as(PROGRESS).bind(None::<i64>).bind(most).bind(before).fetch_all(c).await).await
}

/// Objections to granting this batch now, in words.
pub async fn objection(pool: &PgPool, batch: i64) -> Result<Option<String>, ActError> {
    const OBJECTION: &str = "select code || ': ' || detail from noshi.batch_objection($1)";
    in_time(pool, async |c| sqlx::query_scalar(OBJECTION).bind(batch).fetch_optional(c).await).await
}

/// The value of a batch by currency, in minor units, and how many users it has, in words.
pub async fn worth(pool: &PgPool, batch: i64) -> Result<Vec<String>, ActError> {
    const WORTH: &str =
        "select format('%s %s in %s grants for %s users', sum(amount), currency, count(*), count(distinct user_id))
from noshi.batch_row where batch = $1 and amount is not null group by currency order by currency";
    in_time(pool, async |c| sqlx::query_scalar(WORTH).bind(batch).fetch_all(c).await).await
}

const DIFFERING: &str = "select min(r.line) from unnest($2::int[], $3::int[], $4::text[], $5::jsonb[], $6::bool[]) as r(row_no, line, key, args, mailed)
left join noshi.batch_row b on b.batch = $1 and b.row_no = r.row_no
where b.row_no is null or b.line <> r.line or b.key <> r.key or b.args <> r.args or b.mailed <> r.mailed";

/// The first line whose row is not staged as it is read here.
pub async fn first_difference(
    pool: &PgPool,
    batch: i64,
    rows: &[(i32, i32, &str, Value, bool)],
) -> Result<Option<i32>, ActError> {
    let query = sqlx::query_scalar(DIFFERING)
        .bind(batch)
        .bind(rows.iter().map(|row| row.0).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.1).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.2).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| Json(&row.3)).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.4).collect::<Vec<_>>());
    in_time(pool, async |c| query.fetch_one(c).await).await
}

/// Of these rows, as a file has them, those that were granted otherwise, and what was granted instead.
pub async fn rows_otherwise(
    pool: &PgPool,
    batch: i64,
    rows: &[(i32, String, Value)],
) -> Result<Vec<(i32, String)>, ActError> {
    const OTHERWISE: &str = "select row_no, granted from noshi.rows_otherwise($1, $2, $3, $4)";
    let query = sqlx::query_as(OTHERWISE)
        .bind(batch)
        .bind(rows.iter().map(|row| row.0).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.1.as_str()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| Json(&row.2)).collect::<Vec<_>>());
    in_time(pool, async |c| query.fetch_all(c).await).await
}

pub async fn staged(pool: &PgPool, batch: i64) -> Result<i64, ActError> {
    const STAGED: &str = "select count(*) from noshi.batch_row where batch = $1";
    in_time(pool, async |c| sqlx::query_scalar(STAGED).bind(batch).fetch_one(c).await).await
}

const REPEATED_USERS: &str =
    "select count(*) from (
    select r.user_id from noshi.batch b join noshi.batch_row r on r.batch = b.id where b.id = $1 and b.campaign is not null
    intersect
    select g.user_id from noshi.gift_grant g where g.campaign = (select campaign from noshi.batch where id = $1) and g.batch <> $1) both_sets";

/// Users of this batch who have a grant of its campaign from another batch already; `None` where counting them takes too long. Both sets are
/// read once and compared: right after a large load there are no statistics, and a join was planned as one look for each row (5 minutes).
pub async fn repeated_users(pool: &PgPool, batch: i64) -> Result<Option<i64>, ActError> {
    const BRIEFLY: &str = "set local statement_timeout = '5s'";
    let counted = in_time(pool, async |c| {
        sqlx::query(BRIEFLY).execute(&mut *c).await?;
        sqlx::query_scalar(REPEATED_USERS).bind(batch).fetch_one(c).await
    });
    match counted.await {
        Ok(count) => Ok(Some(count)),
        Err(ActError::Database(error)) if is_too_slow(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// It was given up because it took too long.
fn is_too_slow(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(sqlx::error::DatabaseError::code).is_some_and(|code| code == "57014")
}

/// What became of one row.
#[derive(Debug, Clone)]
pub struct RowResult {
    pub row_no: i32,
    pub key: String,
    pub line: i32,
    pub result: String,
    pub outcome: Option<String>,
    pub code: Option<String>,
    pub detail: Option<String>,
    pub mail: Option<String>,
}

const ROWS: &str = "select row_no, key, line, result, outcome, code, detail, mail from noshi.batch_rows($1, $2 + 1, $2 + $3) order by row_no";

/// The results of the rows after `after`, in the order of the file.
pub async fn rows(pool: &PgPool, batch: i64, after: i32, most: i32) -> Result<Vec<RowResult>, ActError> {
    let rows = in_time(pool, async |c| sqlx::query(ROWS).bind(batch).bind(after).bind(most).fetch_all(c).await).await?;
    let read = |row: &PgRow| {
        Ok(RowResult {
            row_no: row.try_get("row_no")?,
            key: row.try_get("key")?,
            line: row.try_get("line")?,
            result: row.try_get("result")?,
            outcome: row.try_get("outcome")?,
            code: row.try_get("code")?,
            detail: row.try_get("detail")?,
            mail: row.try_get("mail")?,
        })
    };
    Ok(rows.iter().map(read).collect::<Result<_, sqlx::Error>>()?)
}

/// Whether the batch that this job came with, if any, is paused.
pub async fn is_paused(connection: &mut PgConnection, job: i64) -> Result<bool, sqlx::Error> {
    const IS_JOB_PAUSED: &str = "select exists (select from noshi.job j join noshi.batch b on b.id = j.batch
where j.id = $1 and b.paused_at is not null)";
    sqlx::query_scalar(IS_JOB_PAUSED).bind(job).fetch_one(connection).await
}

/// Pauses the batches that these jobs came with.
pub async fn pause_of_jobs(connection: &mut PgConnection, jobs: &[i64], code: &'static str) -> Result<(), sqlx::Error> {
    const PAUSE_OF_JOBS: &str = "select noshi.pause_batch(batch, $2) from (select distinct batch from noshi.job
where id = any($1) and batch is not null order by batch) b";
    sqlx::query(PAUSE_OF_JOBS).bind(jobs).bind(code).execute(connection).await.map(|_| ())
}

/// What one look at the next unsettled batch found.
#[derive(Debug, Clone)]
pub struct Counted {
    pub batch: i64,
    pub status: String,
    pub holds: bool,
}

/// Looks at the batch whose turn it is, if any, and settles it when nothing is left to be done.
pub async fn count_next(pool: &PgPool) -> Result<Option<Counted>, ActError> {
    const COUNT_NEXT: &str = "select batch, status, holds from noshi.count_next_batch()";
    let row = in_time(pool, async |c| sqlx::query(COUNT_NEXT).fetch_optional(c).await).await?;
    let read = |row: &PgRow| {
        Ok(Counted { batch: row.try_get("batch")?, status: row.try_get("status")?, holds: row.try_get("holds")? })
    };
    Ok(row.as_ref().map(read).transpose().map_err(|error: sqlx::Error| error)?)
}

/// Faults of a file as they are recorded.
pub fn fault(line: u64, field: Option<&str>, sentence: &str) -> Value {
    json!({"line": line, "field": field, "sentence": sentence})
}
