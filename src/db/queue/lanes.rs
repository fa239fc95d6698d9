//! Lanes: their budgets, and how they close for the whole fleet.

use std::time::Duration;

use noshi_jobs::machine::Closing;
use serde::Serialize;
use sqlx::Row;

use crate::{
    basics::chaos::{Bug, planted},
    db::{ActError, PgPool, interval, seconds},
};

/// `calls` per `per`, of which `burst` may come at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    pub per: Duration,
    pub calls: u32,
    pub burst: u32,
    pub jitter: Duration,
}

const DECLARE_LANE: &str = "insert into noshi.lane (name) values ($1) on conflict do nothing";
const DECLARE_BUDGET: &str = "insert into noshi.lane_budget (lane, per, calls, burst, jitter) values ($1, $2, $3, $4, $5)
on conflict (lane, per) do update set calls = excluded.calls, burst = excluded.burst, jitter = excluded.jitter
where (lane_budget.calls, lane_budget.burst, lane_budget.jitter) is distinct from (excluded.calls, excluded.burst, excluded.jitter)";

/// Makes sure that a lane exists with these budgets; its state and its spent tokens stay.
pub async fn declare(pool: &PgPool, lane: &str, budgets: &[Budget]) -> Result<(), sqlx::Error> {
    let mut transaction = pool.begin().await?;
    sqlx::query(DECLARE_LANE).bind(lane).execute(&mut *transaction).await?;
    for budget in budgets {
        sqlx::query(DECLARE_BUDGET)
            .bind(lane)
            .bind(interval(budget.per))
            .bind(i32::try_from(budget.calls).unwrap_or(i32::MAX))
            .bind(i32::try_from(budget.burst).unwrap_or(i32::MAX))
            .bind(interval(budget.jitter))
            .execute(&mut *transaction)
            .await?;
    }
    transaction.commit().await
}

// Before a lane is closed: an order to open it that came first must not open it later.
const OBEY: &str = "select noshi.obey_orders($1)";
const THROTTLE: &str =
    "update noshi.lane set closed_until = greatest(closed_until, clock_timestamp() + $2) where name = $1";
// What closes it for everybody stays what closed it first.
const CLOSE: &str = "update noshi.lane set closed_code = $2, closed_at = clock_timestamp() where name = $1 and closed_code is distinct from $2
and coalesce(closed_code, 'funds') = 'funds'";

/// Carries over what operators ordered of a lane.
pub async fn obey(executor: impl sqlx::PgExecutor<'_>, lane: &str) -> Result<(), sqlx::Error> {
    sqlx::query(OBEY).bind(lane).execute(executor).await.map(drop)
}

/// Closes a lane for the whole fleet, as a provider's answer asked.
pub async fn close(pool: &PgPool, lane: &str, closing: Closing) -> Result<(), sqlx::Error> {
    let change = match (closing, closing.code()) {
        (Closing::Throttled(_), _) if planted(Bug::NoRetryAfter) => return Ok(()),
        (Closing::Throttled(wait), _) => sqlx::query(THROTTLE).bind(lane).bind(interval(wait)),
        (Closing::Process(_), _) | (_, None) => return Ok(()),
        (Closing::Funds | Closing::Credentials | Closing::Sender | Closing::Tls(_), Some(code)) => {
            sqlx::query(CLOSE).bind(lane).bind(code)
        }
    };
    obey(pool, lane).await?;
    change.execute(pool).await.map(drop)
}

/// An operator's pause: new writes, inquiries and unwinding all wait.
pub async fn pause(pool: &PgPool, lane: &str, reason: Option<&str>) -> Result<(), ActError> {
    sqlx::query("select noshi.pause_lane($1, $2)").bind(lane).bind(reason).execute(pool).await?;
    Ok(())
}

/// Opens a lane that was paused, closed by its breaker, or throttled.
pub async fn resume(pool: &PgPool, lane: &str, reason: Option<&str>) -> Result<(), ActError> {
    sqlx::query("select noshi.resume_lane($1, $2)").bind(lane).bind(reason).execute(pool).await?;
    Ok(())
}

/// At most so many calls of a budget, whatever the settings declare; `None`: what they declare.
pub async fn set(pool: &PgPool, lane: &str, per: Duration, most: Option<u32>, reason: &str) -> Result<(), ActError> {
    let most = most.map(|most| i32::try_from(most).unwrap_or(i32::MAX));
    sqlx::query("select noshi.set_lane($1, $2, $3, $4)")
        .bind(lane)
        .bind(interval(per))
        .bind(most)
        .bind(reason)
        .execute(pool)
        .await?;
    Ok(())
}

/// How a lane stands, as a worker may know it. Intervals are in seconds.
#[derive(Debug, Clone, Serialize, sqlx::FromRow)]
pub struct Standing {
    pub name: String,
    pub paused: bool,
    pub closed_for: Option<f64>,
    pub closed_code: Option<String>,
    pub tokens: i64,
    /// Age of the oldest job that could be claimed.
    pub oldest_available: Option<f64>,
}

/// A lane as an operator sees it.
#[derive(Debug, Clone, Serialize, sqlx::FromRow)]
pub struct LaneState {
    #[serde(flatten)]
    #[sqlx(flatten)]
    pub standing: Standing,
    /// `calls per per`, for people.
    pub budgets: String,
    /// Jobs that wait in it: for a token, or for their next try.
    pub waiting: i64,
    /// Who paused it, and why.
    pub paused_by: Option<String>,
    pub paused_because: Option<String>,
    /// What came of its last call, and how many seconds ago.
    pub last_answer: Option<String>,
    pub last_answer_ago: Option<f64>,
}

impl std::ops::Deref for LaneState {
    type Target = Standing;

    fn deref(&self) -> &Standing {
        &self.standing
    }
}

macro_rules! standing {
    () => {
        "l.name, l.paused, l.closed_code, l.tokens,
    -- The clock moves between two looks at it.
    case when not isfinite(l.closed_until) then 1e9::float8
        when l.closed_until > clock_timestamp() then extract(epoch from l.closed_until - clock_timestamp())::float8 end as closed_for,
    extract(epoch from clock_timestamp() - least(
        (select run_at from noshi.job j where j.status = 'available' and j.crash_count = 0 and j.lane = l.name and j.reserved
         order by priority, rank, id limit 1),
        (select run_at from noshi.job j where j.status = 'available' and j.crash_count = 0 and j.lane = l.name and not j.reserved
         order by priority, rank, id limit 1)))::float8 as oldest_available"
    };
}

// For the metric snapshot: a worker may not read the audit, and waits for no count of a backlog.
const STANDING: &str = concat!("select ", standing!(), " from noshi.lane_now l order by l.name");
const LIST: &str = concat!(
    "select ",
    standing!(),
    ",
    coalesce((select string_agg(least(b.declared_calls, m.most) || ' per ' || b.per || case when m.most < b.declared_calls then ' (of ' || b.declared_calls || ')' else '' end,
        ', ' order by b.per) from noshi.lane_budget b left join noshi.lane_limit m on m.lane = b.lane and m.per = b.per where b.lane = l.name), '') as budgets,
    -- One arm for each partial index.
    (select count(*) from noshi.job j where j.status = 'available' and j.crash_count = 0 and j.lane = l.name)
        + (select count(*) from noshi.job j where j.status = 'available' and j.crash_count > 0 and j.lane = l.name)
        + (select count(*) from noshi.job j where j.status in ('scheduled', 'retryable') and j.lane = l.name) as waiting,
    p.who as paused_by, p.reason as paused_because, e.said as last_answer, e.ago as last_answer_ago
from noshi.lane_now l
left join lateral (select a.who, a.reason from noshi.audit a where l.paused and a.target = 'lane/' || l.name and a.act = 'lane pause'
    order by a.id desc limit 1) p on true
-- Of the jobs that stand in it now: one that is over stands in none.
left join lateral (
    select concat_ws(': ', e.outcome, e.detail) as said, extract(epoch from clock_timestamp() - e.happened_at)::float8 as ago
    from (select j.id from noshi.job j where l.name <> '' and j.status = 'retryable' and j.lane = l.name limit 20) j
    cross join lateral (select e.outcome, e.detail, e.happened_at from noshi.job_event e where e.job = j.id and e.outcome is not null
        order by e.happened_at desc limit 1) e order by e.happened_at desc limit 1) e on true
order by l.name"
);

pub async fn standing(executor: impl sqlx::PgExecutor<'_>) -> Result<Vec<Standing>, sqlx::Error> {
    sqlx::query_as(STANDING).fetch_all(executor).await
}

pub async fn list(executor: impl sqlx::PgExecutor<'_>) -> Result<Vec<LaneState>, sqlx::Error> {
    sqlx::query_as(LIST).fetch_all(executor).await
}

/// The names of all lanes.
pub async fn names(pool: &PgPool) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar("select name from noshi.lane").fetch_all(pool).await
}

/// A token of every budget of a lane.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Spent {
    /// The call may be made after `wait`, and at most `jitter` later.
    Slot { wait: Duration, jitter: Duration },
    /// The lane is closed or its next slot far; ask again after this.
    Closed(Duration),
}

/// Spends a token of every budget of a lane, if there is a slot within this time. `late`: how late this process usually reaches slots.
pub async fn spend_token(pool: &PgPool, lane: &str, within: Duration, late: Duration) -> Result<Spent, sqlx::Error> {
    const SPEND: &str = "select closed, wait, jitter from noshi.spend_token($1, $2, $3)";
    let row = sqlx::query(SPEND).bind(lane).bind(interval(within)).bind(interval(late)).fetch_one(pool).await?;
    let wait = seconds(row.try_get("wait")?);
    Ok(match row.try_get("closed")? {
        true => Spent::Closed(wait),
        false => Spent::Slot { wait, jitter: seconds(row.try_get("jitter")?) },
    })
}
