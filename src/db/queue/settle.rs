//! Settles: the durable write at the end of every step. Many concurrent jobs travel in one statement.

use std::{borrow::Borrow, collections::HashSet, time::Duration};

use noshi_jobs::{FollowUp, Problem, machine::Doubt};
use serde_json::value::RawValue;
use sqlx::{Row, postgres::PgRow, types::Json};

use crate::{
    basics::chaos::{Bug, crash_point, planted},
    db::{PgConnection, PgPool, domain::facts, enqueue, interval},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Scheduled,
    Available,
    Running,
    Retryable,
    NeedsOperator,
    Completed,
    Failed,
    Cancelled,
}

impl Status {
    pub const ALL: [Status; 8] = [
        Status::Scheduled,
        Status::Available,
        Status::Running,
        Status::Retryable,
        Status::NeedsOperator,
        Status::Completed,
        Status::Failed,
        Status::Cancelled,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Status::Scheduled => "scheduled",
            Status::Available => "available",
            Status::Running => "running",
            Status::Retryable => "retryable",
            Status::NeedsOperator => "needs_operator",
            Status::Completed => "completed",
            Status::Failed => "failed",
            Status::Cancelled => "cancelled",
        }
    }

    /// For a list. A literal, since no plan for a value that is text at first can use an index of this status alone.
    pub const fn condition(self) -> &'static str {
        match self {
            Status::Scheduled => " and status = 'scheduled'",
            // One arm for each of its indexes.
            Status::Available => {
                " and (status = 'available' and crash_count = 0 or status = 'available' and crash_count > 0)"
            }
            Status::Running => " and status = 'running'",
            Status::Retryable => " and status = 'retryable'",
            Status::NeedsOperator => " and status = 'needs_operator'",
            Status::Completed => " and status = 'completed'",
            Status::Failed => " and status = 'failed'",
            Status::Cancelled => " and status = 'cancelled'",
        }
    }

    pub fn from_name(name: &str) -> Option<Status> {
        Status::ALL.into_iter().find(|status| status.name() == name)
    }

    /// A worker has it, or will have it without anybody's doing.
    pub const fn is_moving(self) -> bool {
        match self {
            Status::Scheduled | Status::Available | Status::Running | Status::Retryable => true,
            Status::NeedsOperator | Status::Completed | Status::Failed | Status::Cancelled => false,
        }
    }
}

/// What a settle does to the counters of the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Another state, or another turn of it: tries begin anew.
    Advance,
    Retry,
    /// Waits; not an attempt.
    Snooze,
    /// Back into its lane after a rescue: no step was made, so the death of the last worker stays counted.
    Reenter,
}

/// Everything that one step leaves to be written.
#[derive(Debug, Clone)]
pub struct Settlement {
    pub id: i64,
    pub lease: i64,
    pub step: i32,
    pub at: String,
    pub state: Option<Box<RawValue>>,
    pub undo: Option<Box<RawValue>>,
    pub status: Status,
    pub outcome: &'static str,
    pub code: Option<&'static str>,
    pub detail: Option<String>,
    pub lane: String,
    pub reserved: bool,
    pub writes: bool,
    pub delay: Duration,
    pub doubt: Doubt,
    pub progress: Progress,
    pub facts: Vec<facts::Fact>,
    pub follow_ups: Vec<FollowUp>,
    /// The trace that they belong to.
    pub traceparent: Option<String>,
}

/// What a settle is about: this step of this job under this lease. A job's number alone would take a stale holder for the fresh one.
pub type Hold = (i64, i64, i32);

impl Settlement {
    pub const fn hold(&self) -> Hold {
        (self.id, self.lease, self.step)
    }
}

/// The places of those that may travel together: a job's first alone, so that one statement never meets a job twice.
pub fn first_of_each_job<'a>(group: impl IntoIterator<Item = (usize, &'a Settlement)>) -> Vec<usize> {
    let mut jobs = HashSet::new();
    group.into_iter().filter(|(_, s)| jobs.insert(s.id)).map(|(place, _)| place).collect()
}

/// What became of a settle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    Applied,
    /// The database will never take it: the job was parked instead, with the reason.
    Refused,
    /// The lease was lost: another worker has the job, or it was declared lost. Touch nothing more.
    Stale,
    /// A follow-up exists with other arguments; nothing of this step was written.
    FollowUpConflict,
}

// Start-time fair queueing, in which the first hundred rows of a batch count a quarter: a short batch comes before most rows of a long
// one, and two long ones share evenly. Plain sharing gives ten rows behind very many every second call; this, three of four.
macro_rules! settle_sql {
    ($fence:literal) => {
        concat!(
            "with s as materialized (
    select * from unnest($2::bigint[], $3::bigint[], $4::int[], $5::text[], $6::jsonb[], $7::jsonb[], $8::noshi.job_status[],
        $9::text[], $10::text[], $11::text[], $12::text[], $13::bool[], $14::bool[], $15::interval[], $16::smallint[], $17::smallint[])
    as s(id, lease, step, at, state, undo, status, outcome, code, detail, lane, reserved, writes, delay, doubt, progress)
),
u as (
    update noshi.job j set
        at = s.at, state = s.state, undo = s.undo, outcome = s.outcome, code = s.code, detail = s.detail,
        writes = s.writes, step = j.step + 1,
        -- What was asked for meanwhile is obeyed next: a worker looks at it, in the lane ''.
        status = case when j.status_before = 'running' and s.status <> 'running' then 'available' else s.status end,
        lane = case when j.status_before = 'running' and s.status <> 'running' then '' else s.lane end, reserved = case when j.status_before = 'running' and s.status <> 'running' then false else s.reserved end,
        requested_act = case when j.status_before = 'running' then j.requested_act end,
        status_before = case when j.status_before = 'running' and s.status <> 'running' and s.status in ('needs_operator', 'completed', 'failed', 'cancelled') then s.status
                      when j.status_before = 'running' and s.status = 'running' then j.status_before end,
        crash_count = case when s.progress = 3 then j.crash_count else 0 end,
        retries = case s.progress when 0 then 0 when 1 then j.retries + 1 else j.retries end,
        in_doubt = case s.doubt when 1 then true when -1 then false else j.in_doubt end,
        called_at = case s.doubt when -1 then null else j.called_at end,
        worker = case when s.status = 'running' then j.worker end,
        entered_at = case when s.at = j.at then j.entered_at else clock_timestamp() end,
        run_at = case when s.status = 'running' then j.run_at else clock_timestamp() + case when j.status_before = 'running' and s.status <> 'running' then '0' else s.delay end end,
        rank = case when s.status = 'running' or (s.lane = j.lane and s.reserved = j.reserved) then j.rank
                    else coalesce(l.vtime, 0) + greatest(j.row_no, 4 * j.row_no::bigint - 300) end,
        finished_at = case when j.status_before = 'running' and s.status <> 'running' then null when s.status in ('completed', 'failed', 'cancelled') then clock_timestamp() end
    from s left join noshi.lane l on l.name = s.lane
    where j.id = s.id and ",
            $fence,
            "
    returning j.id, s.lease, s.step, s.at, s.outcome, s.code, s.detail, s.status
)
insert into noshi.job_event (job, event, lease, step, worker, became, outcome, code, detail)
select id, 'settled', lease, step, $1, at, outcome, code, detail from u
returning job, lease, step"
        )
    };
}

// `is not distinct from` keeps the planner on the primary key: by `job_held` it would compare every job in flight with every
// settle (measured: 200 µs a row instead of 12). Only a running job has a worker.
const SETTLE: &str = settle_sql!(
    "j.lease = s.lease and j.worker is not distinct from $1 and j.step = s.step
        and exists (select from noshi.worker w where w.id = $1 and w.dead_at is null)"
);
const SETTLE_UNFENCED: &str = settle_sql!("true");

/// Settles many jobs in one transaction, facts and follow-ups with them. Returns what was applied; the rest are stale.
///
/// Where a follow-up conflicts nothing at all is written, and the error names the job.
async fn settle_in(
    connection: &mut PgConnection,
    worker: i64,
    group: &[&Settlement],
) -> Result<HashSet<Hold>, SettleError> {
    let unwinding = || group.iter().any(|s| s.undo.is_some());
    let sql =
        if planted(Bug::NoFence) || (planted(Bug::UnfencedUndo) && unwinding()) { SETTLE_UNFENCED } else { SETTLE };
    macro_rules! column {
        (|$s:ident| $value:expr) => {
            group.iter().map(|$s| $value).collect::<Vec<_>>()
        };
    }
    let rows = sqlx::query(sql)
        .bind(worker)
        .bind(column!(|s| s.id))
        .bind(column!(|s| s.lease))
        .bind(column!(|s| s.step))
        .bind(column!(|s| s.at.as_str()))
        .bind(column!(|s| s.state.as_deref().map(Json)))
        .bind(column!(|s| s.undo.as_deref().map(Json)))
        .bind(column!(|s| s.status.name()))
        .bind(column!(|s| s.outcome))
        .bind(column!(|s| s.code))
        .bind(column!(|s| s.detail.as_deref()))
        .bind(column!(|s| s.lane.as_str()))
        .bind(column!(|s| s.reserved))
        .bind(column!(|s| s.writes))
        .bind(column!(|s| interval(s.delay)))
        .bind(column!(|s| match s.doubt {
            Doubt::AsBefore => 0_i16,
            Doubt::Raised => 1,
            Doubt::Settled => -1,
        }))
        .bind(column!(|s| match s.progress {
            Progress::Advance => 0_i16,
            Progress::Retry => 1,
            Progress::Snooze => 2,
            Progress::Reenter => 3,
        }))
        .fetch_all(&mut *connection)
        .await?;
    let applied = rows.iter().map(hold).collect::<Result<HashSet<Hold>, _>>()?;
    let mut new_facts = vec![];
    let mut follow_ups = vec![];
    for s in group.iter().filter(|s| applied.contains(&s.hold())) {
        new_facts.extend(s.facts.iter().map(|fact| (s.id, fact)));
        follow_ups.extend(s.follow_ups.iter().map(|request| (s.id, request, s.traceparent.as_deref())));
    }
    facts::insert(connection, &new_facts).await?;
    if let Some(id) = enqueue::follow_ups(connection, &follow_ups).await? {
        return Err(SettleError::FollowUpConflict(id));
    }
    Ok(applied)
}

#[derive(Debug, thiserror::Error)]
pub enum SettleError {
    #[error("a follow-up of job {0} exists with other arguments")]
    FollowUpConflict(i64),
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// Settles a group. Each one's result stands at its place in the group.
pub async fn settle(
    pool: &PgPool,
    worker: i64,
    group: &[impl Borrow<Settlement> + Sync],
) -> Result<Vec<Settled>, sqlx::Error> {
    let group: Vec<&Settlement> = group.iter().map(Borrow::borrow).collect();
    let mut results = vec![None; group.len()];
    loop {
        let open = group.iter().copied().enumerate().filter(|(place, _)| results[*place].is_none());
        let places = first_of_each_job(open);
        if places.is_empty() {
            return Ok(results.into_iter().flatten().collect());
        }
        let rest: Vec<&Settlement> = places.iter().map(|place| group[*place]).collect();
        match settle_once(pool, worker, &rest).await {
            Ok(applied) => {
                for place in places {
                    let is_applied = applied.contains(&group[place].hold());
                    results[place] = Some(if is_applied { Settled::Applied } else { Settled::Stale });
                }
            }
            Err(SettleError::FollowUpConflict(id)) => {
                let conflicting = places.into_iter().filter(|place| group[*place].id == id);
                conflicting.for_each(|place| results[place] = Some(Settled::FollowUpConflict));
            }
            Err(SettleError::Database(error)) => return Err(error),
        }
    }
}

async fn settle_once(pool: &PgPool, worker: i64, group: &[&Settlement]) -> Result<HashSet<Hold>, SettleError> {
    crash_point("settle.before");
    let bare = group.iter().all(|s| s.facts.is_empty() && s.follow_ups.is_empty());
    if bare {
        // One statement is one transaction.
        let applied = settle_in(&mut *pool.acquire().await?, worker, group).await?;
        crash_point("settle.after");
        return Ok(applied);
    }
    let mut transaction = pool.begin().await?;
    let applied = settle_in(&mut transaction, worker, group).await?;
    crash_point("settle.before_commit");
    transaction.commit().await?;
    crash_point("settle.after");
    Ok(applied)
}

// The row stays where it stands: what the step led to is what cannot be written. Of a write the answer is lost to us, and only that.
const PARK_REFUSED: &str = "with p as (
    update noshi.job j set status = 'needs_operator', code = $5, detail = $6, outcome = $5, step = j.step + 1, worker = null,
        in_doubt = j.in_doubt or j.writes or $7, crash_count = 0, requested_act = null, status_before = null
    where j.id = $2 and j.lease = $3 and j.worker is not distinct from $1 and j.step = $4
        and exists (select from noshi.worker w where w.id = $1 and w.dead_at is null)
    returning j.id, j.at)
insert into noshi.job_event (job, event, lease, step, worker, became, outcome, code, detail)
select id, 'settled', $3, $4, $1, at, $5, $5, $6 from p returning job";

/// Parks a job whose settle the database will never take, where it stands, and says why. Stale, as any settle, if it is not held any more.
pub async fn park_refused(
    pool: &PgPool,
    worker: i64,
    refused: &Settlement,
    why: Option<&str>,
) -> Result<Settled, sqlx::Error> {
    let parked = sqlx::query(PARK_REFUSED)
        .bind(worker)
        .bind(refused.id)
        .bind(refused.lease)
        .bind(refused.step)
        .bind(Problem::SettleRefused.code())
        .bind(why)
        .bind(refused.doubt == Doubt::Raised)
        .fetch_optional(pool)
        .await?;
    Ok(if parked.is_some() { Settled::Refused } else { Settled::Stale })
}

/// Settles one job inside the transaction of its local operation, and commits both or neither.
pub async fn settle_local(
    mut transaction: crate::db::Transaction,
    worker: i64,
    settlement: &Settlement,
) -> Result<Settled, sqlx::Error> {
    match settle_in(&mut transaction, worker, &[settlement]).await {
        Ok(applied) if applied.is_empty() => {
            transaction.rollback().await?;
            Ok(Settled::Stale)
        }
        Ok(_) => {
            crash_point("local.before_commit");
            transaction.commit().await?;
            crash_point("local.after");
            Ok(Settled::Applied)
        }
        Err(SettleError::FollowUpConflict(_)) => {
            transaction.rollback().await?;
            Ok(Settled::FollowUpConflict)
        }
        Err(SettleError::Database(error)) => Err(error),
    }
}

const WAS_APPLIED: &str = "select e.job, e.lease, e.step from unnest($2::bigint[], $3::bigint[], $4::int[]) as s(id, lease, step)
join noshi.job_event e on e.job = s.id and e.step = s.step and e.lease = s.lease and e.worker = $1 and e.event = 'settled'
    and e.code is distinct from $5";

/// After an answer to a COMMIT was lost: which of these settles are in the journal? A job that was parked instead is not.
pub async fn was_applied(pool: &PgPool, worker: i64, group: &[&Settlement]) -> Result<HashSet<Hold>, sqlx::Error> {
    let (ids, (leases, steps)): (Vec<i64>, (Vec<i64>, Vec<i32>)) =
        group.iter().map(|s| (s.id, (s.lease, s.step))).unzip();
    let rows = sqlx::query(WAS_APPLIED)
        .bind(worker)
        .bind(ids)
        .bind(leases)
        .bind(steps)
        .bind(Problem::SettleRefused.code())
        .fetch_all(pool)
        .await?;
    rows.iter().map(hold).collect()
}

fn hold(row: &PgRow) -> Result<Hold, sqlx::Error> {
    Ok((row.try_get("job")?, row.try_get("lease")?, row.try_get("step")?))
}
