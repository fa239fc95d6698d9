//! What the HTTP interface reads and asks for, each in a transaction that is done by its caller's token.

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, value::RawValue};
use sqlx::{FromRow, Postgres, QueryBuilder, types::Json};

use super::jobs::newest_first;
use crate::db::{PgConnection, operator::stand::Stand, queue::settle::Status};

/// A job as producers and operators see it: no codes, no addresses.
#[derive(Debug, Clone, Serialize, JsonSchema, FromRow)]
pub struct Job {
    /// The job's number.
    pub job: i64,
    pub kind: String,
    /// The producer's own id.
    pub id: String,
    /// scheduled, available, running, retryable, needs_operator, completed, failed or cancelled.
    pub status: String,
    /// The state that it stands in, as the table of its kind names it.
    pub at: String,
    /// Being taken back.
    pub unwinding: bool,
    /// A call was made, and whether it took effect is not known.
    pub in_doubt: bool,
    pub outcome: Option<String>,
    /// Why it asks for a person, or failed: a file of the runbook.
    pub code: Option<String>,
    pub detail: Option<String>,
    pub lane: String,
    /// For acts: they are asked for at this step, and refused when the job has moved on.
    pub step: i32,
    /// The act that was asked for and is not carried out yet.
    pub requested_act: Option<String>,
    pub batch: Option<i64>,
    pub created_at: DateTime<Utc>,
    pub run_at: Option<DateTime<Utc>>,
    pub finished_at: Option<DateTime<Utc>>,
    pub args: Value,
    #[serde(skip)]
    pub state: Option<Value>,
    #[serde(skip)]
    pub undo: Option<Value>,
    #[serde(skip)]
    pub called: bool,
    /// It is parked, and an operator has said that they saw it: no alert counts it.
    pub acknowledged: bool,
}

impl Job {
    /// As acts look at it.
    pub fn stand(&self) -> Stand<'_> {
        Stand {
            kind: &self.kind,
            at: &self.at,
            args: &self.args,
            state: self.state.as_ref(),
            undo: self.undo.as_ref(),
            status: &self.status,
            in_doubt: self.in_doubt,
            called: self.called,
            acknowledged: self.acknowledged,
        }
    }
}

macro_rules! job_columns {
    ($rest:literal) => {
        concat!(
            "select id as job, kind, key as id, status::text, at, undo is not null as unwinding, in_doubt as in_doubt, outcome, code, detail, lane, step, requested_act,
    batch, created_at, case when isfinite(run_at) then run_at end as run_at, finished_at, args, state, undo,
    called_at is not null as called, acknowledged is not distinct from step as acknowledged from noshi.job ",
            $rest
        )
    };
}

pub async fn job(connection: &mut PgConnection, kind: &str, id: &str) -> Result<Option<Job>, sqlx::Error> {
    const JOB: &str = job_columns!("where kind = $1 and key = $2");
    sqlx::query_as(JOB).bind(kind).bind(id).fetch_optional(connection).await
}

/// How a job ended that was pruned since.
pub async fn pruned(connection: &mut PgConnection, kind: &str, id: &str) -> Result<Option<String>, sqlx::Error> {
    const PRUNED: &str = "select format('%s at %s (%s), on %s, and was pruned on %s', status, at, concat_ws(', ', outcome, code), to_char(finished_at at time zone 'utc', 'YYYY-MM-DD HH24:MI:SSZ'), to_char(pruned_at at time zone 'utc', 'YYYY-MM-DD HH24:MI:SSZ')) from noshi.tombstone where kind = $1 and key = $2";
    sqlx::query_scalar(PRUNED).bind(kind).bind(id).fetch_optional(connection).await
}

/// Which jobs are listed: the newest first, before the job `before`.
#[derive(Debug, Default)]
pub struct Filter {
    pub kind: Option<String>,
    pub status: Option<Status>,
    pub code: Option<String>,
    pub before: Option<i64>,
    pub limit: i64,
}

pub async fn jobs(connection: &mut PgConnection, filter: &Filter) -> Result<Vec<Job>, sqlx::Error> {
    let mut sql = QueryBuilder::<Postgres>::new(job_columns!("where true"));
    for (sentence, value) in [(" and kind = ", &filter.kind), (" and code = ", &filter.code)] {
        if let Some(value) = value {
            sql.push(sentence).push_bind(value);
        }
    }
    if let Some(before) = filter.before {
        sql.push(" and job.id < ").push_bind(before);
    }
    if let Some(status) = filter.status {
        sql.push(status.condition());
    }
    let moving = filter.status.is_some_and(Status::is_moving);
    sql.push(newest_first(moving)).push_bind(filter.limit);
    // Planned for these values: a plan for any would read the whole history for a rare kind.
    sql.build_query_as().persistent(false).fetch_all(connection).await
}

/// A line of a job's journal.
#[derive(Debug, Clone, Serialize, JsonSchema, FromRow)]
#[schemars(rename = "JobEvent")]
pub struct Event {
    pub happened_at: DateTime<Utc>,
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
pub async fn journal(connection: &mut PgConnection, job: i64, most: i64) -> Result<Vec<Event>, sqlx::Error> {
    sqlx::query_as(JOURNAL).bind(job).bind(most).fetch_all(connection).await
}

/// A request that its producer wrote: the arguments stay as they came.
#[derive(Debug)]
pub struct JobRequest<'a> {
    pub id: &'a str,
    pub args: &'a RawValue,
}

fn columns<'a>(rows: &'a [JobRequest<'a>]) -> (Vec<&'a str>, Vec<Json<&'a RawValue>>) {
    rows.iter().map(|row| (row.id, Json(row.args))).unzip()
}

/// All of these, or none. Returns the jobs' numbers, in order.
pub async fn enqueue(
    connection: &mut PgConnection,
    kind: &str,
    rows: &[JobRequest<'_>],
    priority: i16,
) -> Result<Vec<i64>, sqlx::Error> {
    const ENQUEUE: &str = "select noshi.enqueue_rows($1, $2, $3, $4)";
    let (keys, args) = columns(rows);
    sqlx::query_scalar(ENQUEUE).bind(kind).bind(keys).bind(args).bind(priority).fetch_all(connection).await
}

/// A row whose id exists with other arguments.
#[derive(Debug, Clone, FromRow)]
pub struct Conflict {
    pub row_no: i64,
    pub key: String,
    pub differences: Value,
}

pub async fn conflicts(
    connection: &mut PgConnection,
    kind: &str,
    rows: &[JobRequest<'_>],
) -> Result<Vec<Conflict>, sqlx::Error> {
    const CONFLICTS: &str = "select row_no, key, differences from noshi.conflicts($1, $2, $3)";
    let (keys, args) = columns(rows);
    sqlx::query_as(CONFLICTS).bind(kind).bind(keys).bind(args).fetch_all(connection).await
}

/// A user asks for the gift of a grant (発券). Returns the job's number.
pub async fn issue_grant(
    connection: &mut PgConnection,
    grant: &str,
    user: &str,
    area: Option<&str>,
) -> Result<i64, sqlx::Error> {
    const ISSUE: &str = "select noshi.issue_grant($1, $2, $3)";
    sqlx::query_scalar(ISSUE).bind(grant).bind(user).bind(area).fetch_one(connection).await
}
