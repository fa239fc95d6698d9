//! Re-drives: jobs selected and frozen as a plan, which the fleet carries out. What is legal the functions of the schema decide.

use std::time::Duration;

use chrono::{DateTime, Utc};
use noshi_jobs::machine::Act;
use serde::Serialize;
use serde_json::Value;
use sqlx::{Row, postgres::PgRow, types::Json};

use crate::db::{ActError, PgPool, Transaction, interval, operator::stand::Stand, seconds, take_time};

/// Jobs in one plan.
pub const MOST: usize = 100_000;

/// Which jobs.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Filter {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// At rest for no longer than this.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "as_seconds")]
    pub since: Option<Duration>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<i64>,
    /// These jobs of the kind, by their own ids, wherever they stand.
    /// The plan keeps how many there are: each is a row of it.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "as_number")]
    pub ids: Option<Vec<String>>,
    /// The act for all of them, instead of the one that fits each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub act: Option<&'static str>,
}

fn as_seconds<S: serde::Serializer>(since: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
    since.map(|since| since.as_secs()).serialize(to)
}

impl Filter {
    /// What a plan says of its jobs: of ids that were named, no more than their kind.
    fn as_said(&self) -> Filter {
        match &self.ids {
            Some(_) => Filter { kind: self.kind.clone(), ids: self.ids.clone(), act: self.act, ..Filter::default() },
            None => self.clone(),
        }
    }
}

fn as_number<S: serde::Serializer>(ids: &Option<Vec<String>>, to: S) -> Result<S::Ok, S::Error> {
    ids.as_ref().map(Vec::len).serialize(to)
}

/// A job that a filter selects, as it stands.
#[derive(Debug, Clone)]
pub struct Candidate {
    pub id: i64,
    pub kind: String,
    pub key: String,
    pub step: i32,
    pub status: String,
    pub at: String,
    pub args: Value,
    pub state: Option<Value>,
    pub undo: Option<Value>,
    pub in_doubt: bool,
    pub called: bool,
    pub acknowledged: bool,
    pub requested_act: Option<String>,
    /// The batch that it came with, where that is paused.
    pub paused_batch: Option<i64>,
}

impl Candidate {
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

/// What a plan does with one job.
#[derive(Debug, Clone)]
pub enum Choice {
    Ask { act: Act, lane: Option<String> },
    Refuse(String),
}

macro_rules! select {
    ($which:literal) => {
        concat!(
            "select j.id, j.kind, j.key, j.step, j.status::text, j.at, j.args, j.state, j.undo, j.in_doubt, j.called_at is not null as called, j.acknowledged is not distinct from j.step as acknowledged, j.requested_act, b.id as paused_batch
from noshi.job j left join noshi.batch b on b.id = j.batch and b.paused_at is not null where ",
            $which,
            " order by j.id limit $1"
        )
    };
}
const SELECT: &str = select!(
    "('needs_operator' = any($2) and j.status = 'needs_operator' or 'failed' = any($2) and j.status = 'failed') and j.requested_act is null and ($3::text is null or j.kind = $3) and ($4::text is null or j.code = $4)
    and ($5::interval is null or coalesce(j.finished_at, j.run_at) > clock_timestamp() - $5)
    and ($6::bigint is null or j.batch = $6 or (j.kind = 'bulk_grants' and j.key = 'batch/' || $6))"
);
const SELECT_IDS: &str = select!("j.kind = $2 and j.key = any($3)");

/// Lanes that are held, by a person or by their partner, and in which jobs of a re-drive wait; in words.
pub async fn held_lanes(pool: &PgPool, redrive: i64) -> Result<Vec<String>, sqlx::Error> {
    const HELD: &str =
        "select distinct 'the ' || case when l.paused then 'paused' else 'closed' end || ' lane ' || l.name
from noshi.redrive_row w join noshi.job j on j.id = w.job join noshi.lane_now l on l.name = j.lane
where w.redrive = $1 and j.status in ('available', 'scheduled', 'retryable') and j.lane <> ''
    and (l.paused or l.closed_until > clock_timestamp()) order by 1 limit 5";
    sqlx::query_scalar(HELD).bind(redrive).fetch_all(pool).await
}

/// One snapshot for looking and planning.
pub async fn begin(pool: &PgPool) -> Result<Transaction, ActError> {
    let mut transaction = pool.begin_with("begin isolation level repeatable read").await?;
    take_time(&mut transaction).await?;
    Ok(transaction)
}

/// The jobs of a filter, at most one more than a plan may hold.
pub async fn select(transaction: &mut Transaction, filter: &Filter) -> Result<Vec<Candidate>, ActError> {
    let most = i64::try_from(MOST + 1).unwrap_or(i64::MAX);
    let statuses = filter.status.as_deref().map_or(vec!["needs_operator", "failed"], |status| vec![status]);
    let query = match &filter.ids {
        Some(ids) => sqlx::query(SELECT_IDS).bind(most).bind(&filter.kind).bind(ids),
        // Planned for these values, through the index of what stopped.
        None => sqlx::query(SELECT)
            .persistent(false)
            .bind(most)
            .bind(statuses)
            .bind(&filter.kind)
            .bind(&filter.code)
            .bind(filter.since.map(interval))
            .bind(filter.batch),
    };
    let read = |row: PgRow| {
        Ok(Candidate {
            id: row.try_get("id")?,
            kind: row.try_get("kind")?,
            key: row.try_get("key")?,
            step: row.try_get("step")?,
            status: row.try_get("status")?,
            at: row.try_get("at")?,
            args: row.try_get("args")?,
            state: row.try_get("state")?,
            undo: row.try_get("undo")?,
            in_doubt: row.try_get("in_doubt")?,
            called: row.try_get("called")?,
            acknowledged: row.try_get("acknowledged")?,
            requested_act: row.try_get("requested_act")?,
            paused_batch: row.try_get("paused_batch")?,
        })
    };
    let rows = query.fetch_all(&mut **transaction).await?;
    Ok(rows.into_iter().map(read).collect::<Result<_, sqlx::Error>>()?)
}

const PLAN: &str = "select noshi.plan_redrive($1, $2, $3, $4, $5, $6)";

/// Freezes the plan, and commits; returns its number.
pub async fn plan(
    mut transaction: Transaction,
    filter: &Filter,
    jobs: &[(Candidate, Choice)],
) -> Result<i64, ActError> {
    let (mut acts, mut refusals, mut lanes) = (vec![], vec![], vec![]);
    for (_, choice) in jobs {
        let (act, refusal, lane) = match choice {
            Choice::Ask { act, lane } => (Some(act.name()), None, lane.as_deref()),
            Choice::Refuse(why) => (None, Some(why.as_str()), None),
        };
        acts.push(act);
        refusals.push(refusal);
        lanes.push(lane);
    }
    let made = sqlx::query_scalar(PLAN)
        .bind(Json(filter.as_said()))
        .bind(jobs.iter().map(|(job, _)| job.id).collect::<Vec<_>>())
        .bind(jobs.iter().map(|(job, _)| job.step).collect::<Vec<_>>())
        .bind(acts)
        .bind(refusals)
        .bind(lanes)
        .fetch_one(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(made)
}

/// On what conditions a plan is applied.
#[derive(Debug, Clone, Default)]
pub struct Conditions<'a> {
    pub digest: Option<&'a [u8]>,
    pub per_minute: Option<i32>,
    pub canary: Option<i32>,
    pub max_amount: Option<i64>,
}

/// Starts a re-drive. From here on the fleet carries it out.
pub async fn apply(pool: &PgPool, redrive: i64, reason: &str, conditions: &Conditions<'_>) -> Result<(), ActError> {
    const APPLY: &str = "select noshi.apply_redrive($1, $2, $3, $4, $5, $6)";
    sqlx::query(APPLY)
        .bind(redrive)
        .bind(reason)
        .bind(conditions.digest)
        .bind(conditions.per_minute)
        .bind(conditions.canary)
        .bind(conditions.max_amount)
        .execute(pool)
        .await?;
    Ok(())
}

pub async fn approve(pool: &PgPool, redrive: i64, digest: &[u8], reason: &str) -> Result<(), ActError> {
    const APPROVE: &str = "select noshi.approve_redrive($1, $2, $3)";
    sqlx::query(APPROVE).bind(redrive).bind(digest).bind(reason).execute(pool).await?;
    Ok(())
}

/// What a person may do to a re-drive that was applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Steer {
    Pause,
    Resume,
    Cancel,
}

pub async fn steer(pool: &PgPool, redrive: i64, how: Steer, reason: &str) -> Result<(), ActError> {
    let sql = match how {
        Steer::Pause => "select noshi.pause_redrive($1, $2)",
        Steer::Resume => "select noshi.resume_redrive($1, $2)",
        Steer::Cancel => "select noshi.cancel_redrive($1, $2)",
    };
    sqlx::query(sql).bind(redrive).bind(reason).execute(pool).await?;
    Ok(())
}

/// Sets above what size a second person approves; earlier rows stay on record. For the schema's owner only.
pub async fn set_cap(pool: &PgPool, jobs: i32, amount: i64) -> Result<(), ActError> {
    const SET_CAP: &str = "insert into noshi.redrive_cap (jobs, amount) values ($1, $2)";
    sqlx::query(SET_CAP).bind(jobs).bind(amount).execute(pool).await?;
    Ok(())
}

/// What one turn of a re-drive did.
#[derive(Debug, Clone)]
pub struct Advanced {
    pub redrive: i64,
    pub asked: i32,
    pub drifted: i32,
    /// `done`, `paused_by_canary`, `paused_by_fault`, or `put_off` where others held it up.
    pub event: Option<String>,
}

/// Asks the next jobs of the re-drive whose turn it is, if any; one process of the fleet at a time.
pub async fn advance(pool: &PgPool) -> Result<Option<Advanced>, sqlx::Error> {
    const ADVANCE: &str = "select redrive, asked, drifted, event from noshi.advance_redrive()";
    let read = |row: PgRow| {
        Ok(Advanced {
            redrive: row.try_get("redrive")?,
            asked: row.try_get("asked")?,
            drifted: row.try_get("drifted")?,
            event: row.try_get("event")?,
        })
    };
    // Its jobs may be in a settle of several, which took its locks in another order: one of the two has to begin again.
    let is_deadlock =
        |error: &sqlx::Error| error.as_database_error().and_then(|it| it.code()).as_deref() == Some("40P01");
    let mut row = sqlx::query(ADVANCE).fetch_optional(pool).await;
    for _ in 0..3 {
        if !row.as_ref().is_err_and(is_deadlock) {
            break;
        }
        row = sqlx::query(ADVANCE).fetch_optional(pool).await;
    }
    row?.map(read).transpose()
}

/// A re-drive, and how far it is.
#[derive(Debug, Clone, Serialize)]
pub struct Redrive {
    pub id: i64,
    /// planned, awaiting_approval, approved, expired, running, paused, paused_by_canary, paused_by_fault, cancelled, done.
    pub status: String,
    pub filter: Value,
    pub planned_by: String,
    pub planned_at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
    pub jobs: i32,
    pub refused: i32,
    /// Minor units, by currency.
    pub totals: Value,
    /// Calls, by lane.
    pub tokens: Value,
    pub lasts_seconds: f64,
    pub digest: String,
    pub needs_approval: bool,
    pub approved_by: Option<String>,
    pub applied_by: Option<String>,
    pub applied_at: Option<DateTime<Utc>>,
    pub reason: Option<String>,
    /// Why it cannot go on.
    pub paused_detail: Option<String>,
    pub per_minute: Option<i32>,
    pub canary: Option<i32>,
    pub waiting: i64,
    pub drifted: i64,
    pub asked: i64,
    /// Of those that were asked, as they stand now.
    pub completed: i64,
    pub failed: i64,
    pub parked: i64,
    pub open: i64,
}

macro_rules! redrives {
    ($which:literal) => {
        concat!(
            "select r.id, case when r.cancelled_at is not null then 'cancelled' when r.done_at is not null then 'done'
        when r.paused_code = 'canary' then 'paused_by_canary' when r.paused_code = 'fault' then 'paused_by_fault' when r.paused_at is not null then 'paused'
        when r.applied_at is not null then 'running' when r.expires_at <= clock_timestamp() then 'expired'
        when r.approved_by is not null then 'approved' when r.needs_approval then 'awaiting_approval' else 'planned' end as status,
    r.filter, r.planned_by, r.planned_at, r.expires_at, r.jobs, r.refused, r.totals, r.tokens, extract(epoch from r.lasts)::float8 as lasts,
    encode(r.digest, 'hex') as digest, r.needs_approval, r.approved_by, r.applied_by, r.applied_at, r.reason, r.paused_detail, r.per_minute, r.canary, w.*
from noshi.redrive r cross join lateral (
    select count(*) filter (where w.status = 'waiting') as waiting, count(*) filter (where w.status = 'drifted') as drifted,
        count(*) filter (where w.status = 'asked') as asked,
        count(*) filter (where w.status = 'asked' and j.status = 'completed' and j.requested_act is null) as completed,
        count(*) filter (where w.status = 'asked' and j.status in ('failed', 'cancelled') and j.requested_act is null) as failed,
        count(*) filter (where w.status = 'asked' and j.status = 'needs_operator' and j.requested_act is null) as parked,
        count(*) filter (where w.status = 'asked' and (j.requested_act is not null or j.status in ('scheduled', 'available', 'running', 'retryable'))) as open
    from noshi.redrive_row w left join noshi.job j on j.id = w.job where w.redrive = r.id) w
where ",
            $which,
            " order by r.id desc"
        )
    };
}
const ONE: &str = redrives!("r.id = $1");
const LATEST: &str = redrives!("r.id > (select coalesce(max(id), 0) from noshi.redrive) - $1");

fn read(row: PgRow) -> Result<Redrive, sqlx::Error> {
    Ok(Redrive {
        id: row.try_get("id")?,
        status: row.try_get("status")?,
        filter: row.try_get("filter")?,
        planned_by: row.try_get("planned_by")?,
        planned_at: row.try_get("planned_at")?,
        expires_at: row.try_get("expires_at")?,
        jobs: row.try_get("jobs")?,
        refused: row.try_get("refused")?,
        totals: row.try_get("totals")?,
        tokens: row.try_get("tokens")?,
        lasts_seconds: seconds(row.try_get("lasts")?).as_secs_f64().ceil(),
        digest: row.try_get("digest")?,
        needs_approval: row.try_get("needs_approval")?,
        approved_by: row.try_get("approved_by")?,
        applied_by: row.try_get("applied_by")?,
        applied_at: row.try_get("applied_at")?,
        reason: row.try_get("reason")?,
        paused_detail: row.try_get("paused_detail")?,
        per_minute: row.try_get("per_minute")?,
        canary: row.try_get("canary")?,
        waiting: row.try_get("waiting")?,
        drifted: row.try_get("drifted")?,
        asked: row.try_get("asked")?,
        completed: row.try_get("completed")?,
        failed: row.try_get("failed")?,
        parked: row.try_get("parked")?,
        open: row.try_get("open")?,
    })
}

pub async fn one(pool: &PgPool, redrive: i64) -> Result<Option<Redrive>, ActError> {
    let mut transaction = pool.begin().await?;
    take_time(&mut transaction).await?;
    let found = sqlx::query(ONE).bind(redrive).fetch_optional(&mut *transaction).await?;
    Ok(found.map(read).transpose()?)
}

pub async fn latest(pool: &PgPool, most: i64) -> Result<Vec<Redrive>, ActError> {
    let mut transaction = pool.begin().await?;
    take_time(&mut transaction).await?;
    let found = sqlx::query(LATEST).bind(most).fetch_all(&mut *transaction).await?;
    Ok(found.into_iter().map(read).collect::<Result<_, _>>()?)
}

/// Jobs of a re-drive with one thing in common: an act, or why they were left out.
#[derive(Debug, Clone, Serialize)]
pub struct Group {
    /// `waiting`, `asked`, `refused` or `drifted`.
    pub status: String,
    /// The act; the refusal's sentence; where the job was found.
    pub what: String,
    pub jobs: i64,
    /// The first of them, as `kind id`.
    pub such_as: Vec<String>,
}

/// The rows of a re-drive, in groups.
pub async fn groups(pool: &PgPool, redrive: i64) -> Result<Vec<Group>, ActError> {
    const GROUPS: &str =
        "select w.status, coalesce(w.refusal, w.note, w.act) as what, count(*) as jobs,
        (array_agg(coalesce(j.kind || ' ' || j.key, 'job ' || w.job) order by w.n))[1:5] as such_as
    from noshi.redrive_row w left join noshi.job j on j.id = w.job where w.redrive = $1 group by 1, 2 order by 1, 3 desc, 2 limit 100";
    let mut transaction = pool.begin().await?;
    take_time(&mut transaction).await?;
    let rows = sqlx::query(GROUPS).bind(redrive).fetch_all(&mut *transaction).await?;
    let read = |row: &PgRow| {
        Ok(Group {
            status: row.try_get("status")?,
            what: row.try_get("what")?,
            jobs: row.try_get("jobs")?,
            such_as: row.try_get("such_as")?,
        })
    };
    Ok(rows.iter().map(read).collect::<Result<_, sqlx::Error>>()?)
}
