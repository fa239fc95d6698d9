//! Operators look at one job, and ask for an act. What comes of it a worker decides, by the state table.

use noshi_jobs::machine::Act;
use serde_json::Value;
use sqlx::{PgPool, Row, postgres::PgRow};

use super::batches::BatchError;

/// A job as an operator sees it: no codes, no addresses.
#[derive(Debug, Clone)]
pub struct Seen {
    pub id: i64,
    pub kind: String,
    pub key: String,
    pub args: Value,
    pub at: String,
    pub state: Option<Value>,
    pub undo: Option<Value>,
    pub status: String,
    pub outcome: Option<String>,
    pub code: Option<String>,
    pub detail: Option<String>,
    pub lane: String,
    pub unsure: bool,
    pub step: i32,
    pub asked: Option<String>,
    /// Seconds until it is due; negative where it waits already.
    pub due_in: f64,
}

const LOOK: &str =
    "select id, kind, key, args, at, state, undo, status::text, outcome, code, detail, lane, unsure, step, asked,
    least(extract(epoch from run_at - clock_timestamp()), 1e9)::float8 as due_in
from noshi.job where kind = $1 and key = $2";

pub async fn look(pool: &PgPool, kind: &str, key: &str) -> Result<Option<Seen>, sqlx::Error> {
    let read = |row: PgRow| {
        Ok(Seen {
            id: row.try_get("id")?,
            kind: row.try_get("kind")?,
            key: row.try_get("key")?,
            args: row.try_get("args")?,
            at: row.try_get("at")?,
            state: row.try_get("state")?,
            undo: row.try_get("undo")?,
            status: row.try_get("status")?,
            outcome: row.try_get("outcome")?,
            code: row.try_get("code")?,
            detail: row.try_get("detail")?,
            lane: row.try_get("lane")?,
            unsure: row.try_get("unsure")?,
            step: row.try_get("step")?,
            asked: row.try_get("asked")?,
            due_in: row.try_get("due_in")?,
        })
    };
    sqlx::query(LOOK).bind(kind).bind(key).fetch_optional(pool).await?.map(read).transpose()
}

/// A line of the journal, for people.
#[derive(Debug, Clone)]
pub struct Told {
    pub when: chrono::DateTime<chrono::Utc>,
    pub event: String,
    pub became: Option<String>,
    pub outcome: Option<String>,
    pub code: Option<String>,
    pub detail: Option<String>,
    pub worker: Option<i64>,
}

const JOURNAL: &str = "select happened_at, event, became, outcome, code, detail, worker from (
    select * from noshi.job_event where job = $1 order by happened_at desc, step desc limit $2) e order by happened_at, step";

/// The last lines of a job's journal.
pub async fn journal(pool: &PgPool, job: i64, most: i64) -> Result<Vec<Told>, sqlx::Error> {
    let read = |row: PgRow| {
        Ok(Told {
            when: row.try_get("happened_at")?,
            event: row.try_get("event")?,
            became: row.try_get("became")?,
            outcome: row.try_get("outcome")?,
            code: row.try_get("code")?,
            detail: row.try_get("detail")?,
            worker: row.try_get("worker")?,
        })
    };
    sqlx::query(JOURNAL).bind(job).bind(most).fetch_all(pool).await?.into_iter().map(read).collect()
}

/// Asks for an act at this very step of a job, in the name of the login.
pub async fn ask(pool: &PgPool, job: i64, step: i32, act: Act, reason: &str) -> Result<(), BatchError> {
    const ASK: &str = "select noshi.ask($1, $2, $3, $4)";
    sqlx::query(ASK).bind(job).bind(step).bind(act.name()).bind(reason).execute(pool).await?;
    Ok(())
}
