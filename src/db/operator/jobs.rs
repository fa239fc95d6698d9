//! Operators look at jobs, and ask for acts. What comes of an act a worker decides, by the state table.

use noshi_jobs::machine::Act;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;
use sqlx::{PgExecutor, Postgres, QueryBuilder};

use crate::db::{ActError, PgConnection, PgPool, operator::stand::Stand, queue::settle::Status};

/// A job as producers and operators see it: no codes, no addresses.
#[derive(Debug, Clone, Serialize, JsonSchema, sqlx::FromRow)]
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
    pub created_at: chrono::DateTime<chrono::Utc>,
    pub run_at: Option<chrono::DateTime<chrono::Utc>>,
    pub finished_at: Option<chrono::DateTime<chrono::Utc>>,
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
            "select id as job, kind, key as id, status::text, at, undo is not null as unwinding, in_doubt, outcome, code, detail, lane, step, requested_act,
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

/// A job as an operator sees it: no codes, no addresses. Intervals are in seconds.
#[derive(Debug, Clone, Default, Serialize, sqlx::FromRow)]
pub struct JobRow {
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
    pub in_doubt: bool,
    /// The first call that the doubt may go back to.
    pub called_at: Option<chrono::DateTime<chrono::Utc>>,
    pub step: i32,
    pub retries: i32,
    pub requested_act: Option<String>,
    pub batch: Option<i64>,
    pub batch_paused: bool,
    /// Since it came in.
    pub age: f64,
    /// Since its state's name last changed.
    pub in_state: f64,
    /// Until it is due; negative where it could be claimed already.
    pub due_in: f64,
    pub worker: Option<i64>,
    pub worker_name: Option<String>,
    /// Since the heartbeat of the worker that holds it was heard.
    pub worker_silent: Option<f64>,
    /// Of its lane.
    pub lane_known: bool,
    pub lane_paused: bool,
    pub lane_paused_by: Option<String>,
    pub lane_closed_code: Option<String>,
    pub lane_closed_for: Option<f64>,
    /// Workers that are alive.
    pub workers: i64,
    /// What came of its last call.
    pub last_answer: Option<String>,
    /// It is parked, and an operator has said that they saw it.
    pub acknowledged: bool,
}

impl JobRow {
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
            called: self.called_at.is_some(),
            acknowledged: self.acknowledged,
        }
    }
}

macro_rules! look_sql {
    ($which:literal) => {
        concat!(
            "select j.id, j.kind, j.key, j.args, j.at, j.state, j.undo, j.status::text, j.outcome, j.code, j.detail, j.lane, j.in_doubt, j.called_at, j.step,
    j.retries, j.requested_act, j.batch, coalesce(b.paused_at is not null, false) as batch_paused,
    extract(epoch from c.now - j.created_at)::float8 as age, extract(epoch from c.now - j.entered_at)::float8 as in_state,
    -- Rows of a paused batch are due at no time; PostgreSQL before 17 cannot take a time from that.
    case when isfinite(j.run_at) then least(extract(epoch from j.run_at - c.now), 1e9) else 1e9 end::float8 as due_in,
    w.id as worker, w.name as worker_name, extract(epoch from c.now - w.seen_at)::float8 as worker_silent,
    j.acknowledged is not distinct from j.step as acknowledged, l.name is not null as lane_known, coalesce(l.paused, false) as lane_paused,
    case when l.paused then (select a.who from noshi.audit a where a.target = 'lane/' || l.name and a.act = 'lane pause' order by a.id desc limit 1) end
        as lane_paused_by,
    l.closed_code as lane_closed_code,
    case when not isfinite(l.closed_until) then 1e9::float8 when l.closed_until > c.now then extract(epoch from l.closed_until - c.now)::float8 end as lane_closed_for,
    (select count(*) from noshi.worker where dead_at is null and stopped_at is null and seen_at > c.now - interval '1 minute') as workers,
    (select concat_ws(': ', e.outcome, e.detail) from noshi.job_event e where e.job = j.id and e.event = 'settled' and e.outcome is not null
     order by e.happened_at desc, e.step desc limit 1) as last_answer
from (select clock_timestamp() as now) c
join noshi.job j on ",
            $which,
            " left join noshi.worker w on w.id = j.worker left join noshi.lane_now l on l.name = j.lane
    left join noshi.batch b on b.id = case when j.kind = 'bulk_grants' then (substring(j.key from '^batch/([0-9]{1,18})$'))::bigint else j.batch end"
        )
    };
}

pub async fn look(pool: &PgPool, kind: &str, key: &str) -> Result<Option<JobRow>, sqlx::Error> {
    const LOOK: &str = look_sql!("j.kind = $1 and j.key = $2");
    sqlx::query_as(LOOK).bind(kind).bind(key).fetch_optional(pool).await
}

pub async fn look_at(pool: &PgPool, id: i64) -> Result<Option<JobRow>, sqlx::Error> {
    const LOOK_AT: &str = look_sql!("j.id = $1");
    sqlx::query_as(LOOK_AT).bind(id).fetch_optional(pool).await
}

// A call centre has a user, a grant, a trade or a public id, and seldom the job's number.
const FIND: &str = "select id from (
    select id from noshi.job where $1 ~ '^[0-9]{1,18}$' and id = case when $1 ~ '^[0-9]{1,18}$' then $1::bigint end
    union select id from noshi.job where kind = any($2) and key = $1
    union select job from noshi.gift_trade where id = $1
    union select t.job from noshi.gift_trade t where t.grant_id = $1
    union (select id from noshi.job where kind = 'gift_issuance' and args ->> 'user' = $1 order by id desc limit $3)
    union (select id from noshi.job where kind in ('point_grant', 'point_exchange', 'point_withdrawal') and args ->> 'user' = $1 order by id desc limit $3)
    union (select id from noshi.job where kind = 'point_grant' and args ->> 'source' = $1 order by id desc limit $3)
    union (select id from noshi.job where kind = 'store_creation' and args ->> 'public_id' = $1 order by id desc limit $3)) f
order by id desc limit $3";

/// The numbers of jobs that go by this name: a job's number or id, a user, a grant, a trade, the source of points, the public id of a
/// store. The newest first.
pub async fn find(pool: &PgPool, name: &str, kinds: &[&str], most: i64) -> Result<Vec<i64>, sqlx::Error> {
    sqlx::query_scalar(FIND).bind(name).bind(kinds).bind(most).fetch_all(pool).await
}

/// Which jobs a list shows; the newest first.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    pub kind: Option<String>,
    pub status: Option<Status>,
    pub code: Option<String>,
    /// Jobs that are over stand in none.
    pub lane: Option<String>,
    pub batch: Option<i64>,
    pub in_doubt: bool,
    /// A user, a grant, a trade, the source of points, or the public id of a store.
    pub of: Option<String>,
    /// Only those with a smaller number.
    pub before: Option<i64>,
    pub most: i64,
}

/// A job on one line.
#[derive(Debug, Clone, Serialize, sqlx::FromRow)]
pub struct Line {
    pub id: i64,
    pub kind: String,
    pub key: String,
    pub status: String,
    pub at: String,
    pub in_doubt: bool,
    pub code: Option<String>,
    pub outcome: Option<String>,
    pub lane: String,
    pub batch: Option<i64>,
    /// Seconds since its state's name last changed.
    pub in_state: f64,
}

// One arm for each partial index.
const IN_LANE: &str = " and (status = 'available' and crash_count = 0 or status = 'available' and crash_count > 0 or status in ('scheduled', 'retryable')
    or status = 'running' or status = 'needs_operator') and lane = ";

/// Few jobs, wherever they stand, are found by their own index and then sorted. Left to choose, the planner would read the history
/// backwards, in the hope that they lie evenly in it.
const fn newest_first(few: bool) -> &'static str {
    if few { " order by job.id + 0 desc limit " } else { " order by job.id desc limit " }
}

/// Jobs that the filter names, but for whom they are of, newest first.
pub(super) fn narrow(sql: &mut QueryBuilder<Postgres>, filter: &Filter) {
    for (sentence, value) in [(" and kind = ", &filter.kind), (" and code = ", &filter.code), (IN_LANE, &filter.lane)] {
        if let Some(value) = value {
            sql.push(sentence).push_bind(value.clone());
        }
    }
    if let Some(status) = filter.status {
        sql.push(status.condition());
    }
    if let Some(batch) = filter.batch {
        sql.push(" and batch = ").push_bind(batch);
    }
    if filter.in_doubt {
        sql.push(" and in_doubt");
    }
    if let Some(before) = filter.before {
        sql.push(" and job.id < ").push_bind(before);
    }
}

/// The end of a list.
pub(super) fn newest(sql: &mut QueryBuilder<Postgres>, filter: &Filter) {
    let few = filter.lane.is_some()
        || filter.batch.is_some()
        || filter.in_doubt
        || filter.status.is_some_and(Status::is_moving);
    sql.push(newest_first(few)).push_bind(filter.most);
}

pub async fn list(pool: &PgPool, filter: &Filter, kinds: &[&str]) -> Result<Vec<Line>, sqlx::Error> {
    let mut sql = QueryBuilder::<Postgres>::new(
        "select id, kind, key, case when undo is not null and status not in ('failed', 'needs_operator') then 'compensating' else status::text end as status,
    at, in_doubt, code, outcome, lane, batch, extract(epoch from clock_timestamp() - entered_at)::float8 as in_state
from noshi.job where true",
    );
    narrow(&mut sql, filter);
    if let Some(of) = &filter.of {
        sql.push(" and id = any(").push_bind(find(pool, of, kinds, 1000).await?).push(")");
    }
    newest(&mut sql, filter);
    // Planned for these values: a plan for any could use no partial index.
    sql.build_query_as().persistent(false).fetch_all(pool).await
}

/// As `list`, for the interface.
pub async fn jobs(connection: &mut PgConnection, filter: &Filter) -> Result<Vec<Job>, sqlx::Error> {
    let mut sql = QueryBuilder::<Postgres>::new(job_columns!("where true"));
    narrow(&mut sql, filter);
    newest(&mut sql, filter);
    // Planned for these values: a plan for any would read the whole history for a rare kind.
    sql.build_query_as().persistent(false).fetch_all(connection).await
}

/// A grant that is no job yet: it stands in the file of a batch.
#[derive(Debug, Clone, Serialize, sqlx::FromRow)]
pub struct Granted {
    pub grant: String,
    pub batch: i64,
    pub line: i32,
    pub status: String,
    pub issues: bool,
}

pub async fn granted(pool: &PgPool, grant: &str) -> Result<Option<Granted>, sqlx::Error> {
    const GRANTED: &str = "select r.key as grant, r.batch, r.line, p.status, b.issues
from noshi.batch_row r join noshi.batch b on b.id = r.batch cross join lateral noshi.batch_progress(r.batch) p
where r.key = $1 and b.kind = 'grants' order by r.batch desc limit 1";
    sqlx::query_as(GRANTED).bind(grant).fetch_optional(pool).await
}

/// A line of a job's journal.
#[derive(Debug, Clone, Serialize, JsonSchema, sqlx::FromRow)]
#[schemars(rename = "JobEvent")]
pub struct Event {
    pub happened_at: chrono::DateTime<chrono::Utc>,
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
pub async fn journal<'e>(executor: impl PgExecutor<'e>, job: i64, most: i64) -> Result<Vec<Event>, sqlx::Error> {
    sqlx::query_as(JOURNAL).bind(job).bind(most).fetch_all(executor).await
}

/// Asks for an act at this very step of a job, in the name of whoever is behind the connection. A person's word about money becomes a
/// proposal, whose number is returned: a second person confirms it.
pub async fn ask(pool: &PgPool, job: i64, step: i32, act: Act, reason: &str) -> Result<Option<i64>, ActError> {
    const ASK: &str = "select noshi.ask($1, $2, $3, $4)";
    Ok(sqlx::query_scalar(ASK).bind(job).bind(step).bind(act.name()).bind(reason).fetch_one(pool).await?)
}

/// A worker process.
#[derive(Debug, Clone, Serialize, sqlx::FromRow)]
pub struct WorkerLine {
    pub id: i64,
    pub name: String,
    /// alive, silent, stopped or dead.
    pub status: String,
    pub started_at: chrono::DateTime<chrono::Utc>,
    /// Seconds.
    pub seen_ago: f64,
    pub in_flight: i64,
}

/// The workers that are alive, and the last of the others.
pub async fn workers(pool: &PgPool) -> Result<Vec<WorkerLine>, sqlx::Error> {
    const WORKERS: &str = "select id, name, started_at, extract(epoch from clock_timestamp() - seen_at)::float8 as seen_ago,
    case when dead_at is not null then 'dead' when stopped_at is not null then 'stopped'
         when seen_at < clock_timestamp() - interval '10 seconds' then 'silent' else 'alive' end as status,
    (select count(*) from noshi.job j where j.worker = w.id and j.status = 'running') as in_flight
from noshi.worker w where (dead_at is null and stopped_at is null) or id > (select coalesce(max(id), 0) - 20 from noshi.worker)
order by id desc";
    sqlx::query_as(WORKERS).fetch_all(pool).await
}
