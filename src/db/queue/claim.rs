//! Claims: tokens and rows in one statement, never a row without a token.

use std::time::Duration;

use noshi_jobs::Problem;
use serde_json::value::RawValue;
use sqlx::{Row, postgres::PgRow, types::Json};

use crate::{
    basics::kinds,
    db::{
        PgPool, interval, notices,
        queue::slot::{Notice, Slot},
        seconds,
    },
};

/// How far ahead of its slot a token may be handed out: a 429 elsewhere stops the fleet within this time.
pub const HORIZON: Duration = Duration::from_millis(250);

/// One job that this worker has leased.
#[derive(Debug)]
pub struct Claimed {
    pub id: i64,
    pub kind: String,
    pub key: String,
    pub args: Box<RawValue>,
    pub at: String,
    pub state: Option<Box<RawValue>>,
    pub undo: Option<Box<RawValue>>,
    /// The problem that the job already carries.
    pub code: Option<&'static str>,
    /// Its token's slot, by the worker's clock.
    pub slot: Option<Slot>,
    pub told: Notice,
    /// What an operator asks for, to be obeyed before anything else.
    pub requested_act: Option<String>,
    /// It was at rest when that was asked for, and goes back there if the act is not allowed.
    pub rests: bool,
    pub lane: String,
    pub lease: i64,
    pub step: i32,
    pub retries: u32,
    pub in_doubt: bool,
    pub age: Duration,
    /// Since it was asked for, waits in lanes included.
    pub existed: Duration,
    /// Of the server that answered: after another one this claim may be forgotten.
    pub timeline: String,
    /// The same, with the start of the server.
    pub server: String,
    /// The database's clock was where trust in it would have brought it: the durations below count from that clock.
    pub clock_holds: bool,
    /// The state's effect is a write, and its token was paid: this claim is for a call.
    pub calls: bool,
    /// The trace that it was given.
    pub traceparent: Option<String>,
    pub in_state: Duration,
    pub since_call: Option<Duration>,
    /// From the receipt of the claim to the slot of its token.
    pub wait: Duration,
}

impl Claimed {
    /// The stored name of what is being taken back, if anything is.
    pub fn undo_name(&self) -> Option<String> {
        #[derive(serde::Deserialize)]
        struct Named {
            undo: String,
        }
        self.undo.as_ref().and_then(|undo| serde_json::from_str::<Named>(undo.get()).ok()).map(|named| named.undo)
    }

    /// Where it stands, in one word, as the claim's statement spells it.
    pub fn place(&self) -> String {
        let undo = self.undo_name().map(|undo| format!("/{undo}")).unwrap_or_default();
        format!("{}/{}{undo}", self.kind, self.at)
    }
}

/// What a claim found in a lane.
#[derive(Debug, Default)]
pub struct Catch {
    /// The lane is paused or closed, or does not exist.
    pub closed: bool,
    /// Tokens there were within the horizon, at most as many as were asked for.
    pub tokens: usize,
    pub jobs: Vec<Claimed>,
    /// Jobs wait that were running when a worker died: a process has few of them at once.
    pub suspects: bool,
    /// Jobs wait that were running in more deaths than one: they are claimed alone.
    pub alone: bool,
    /// Lateness that a slot of this lane forgives.
    pub jitter: Duration,
}

macro_rules! claim_sql {
    ($lost:literal, $budgets:literal) => {
        concat!(
            "with clock as materialized (select clock_timestamp() as now, noshi.server() as server),
l as materialized (
    select l.name, l.tokens, l.reserve, l.server, case when o.opened > l.obeyed then null else l.closed_code end as closed_code, c.now, c.server as server_now
    from noshi.lane l cross join clock c
    -- What an operator ordered and nobody has carried over yet: read, and never waited for.
    left join noshi.lane_order o on o.lane = l.name and o.no > l.obeyed
    where l.name = $2 and not coalesce(o.paused, l.paused)
      -- Out of funds, inquiries and unwinding go on; after any other answer nobody calls.
      and (o.opened > l.obeyed or (coalesce(l.closed_until <= c.now, true) and coalesce(l.closed_code, 'funds') = 'funds'))
      and exists (select from noshi.worker w where w.id = $1 and w.dead_at is null)
      -- Nor on a server that the worker has not seen to be whole since it started.
      and ($8 = '' or c.server = $8)
      -- After a change of timeline nothing is claimed before the fleet has dealt with what may be lost.
      and (select s.timeline from noshi.server_seen s) = split_part(c.server, ' ', 1)
    for update of l
),
-- After a restart or a failover a budget is pushed once: slots handed out before it may be lost to us.
budget as materialized (
    select b.per, f.late, f.jitter, i.emission, p.base, p.base - (d.burst - 1) * i.emission - l.now as first
    from noshi.lane_budget b
    join l on b.lane = l.name
    left join noshi.lane_limit m on m.lane = b.lane and m.per = b.per
    cross join lateral (select least(b.declared_calls, m.most) as calls, case when m.most < b.declared_calls then 1 else b.declared_burst end as burst) d
    -- Whoever usually comes later than the lane forgives has the whole fleet's calls spaced for that, until it has not for a while.
    cross join lateral (select greatest($7::interval, noshi.lateness(b.late, b.late_at, l.now)) as late) e
    cross join lateral (select e.late, greatest(b.jitter, e.late) as jitter) f
    cross join lateral (select (b.per + f.jitter) / (d.calls - d.burst + 1) as emission) i
    cross join lateral (select greatest(b.tat, l.now, case when l.server not in ('', l.server_now)
        then l.now + $4::interval + least(b.per, '1 second') end) as base) p
    where ",
            $budgets,
            "
    for update of b
),
k as materialized (
    select coalesce(max(least($3, t.slots)), 0)::int as k from l, (
        select coalesce(min(greatest(0, floor(extract(epoch from $4::interval - first) / extract(epoch from emission)) + 1)), $3) as slots
        from budget) t
),
reserved as materialized (
    select id, rank, row_number() over (order by priority, rank, id) as n from (
        select id, priority, rank from noshi.job where status = 'available' and crash_count ",
            $lost,
            " and lane = $2 and reserved and kind = any($5)
            and (cardinality($6::text[]) = 0 or kind || '/' || at || coalesce('/' || (undo ->> 'undo'), '') <> all($6))
        order by priority, rank, id limit (select k from k) for update skip locked) r
),
writes as materialized (
    select id, rank, row_number() over (order by priority, rank, id) as n from (
        select id, priority, rank from noshi.job where status = 'available' and crash_count ",
            $lost,
            " and lane = $2 and not reserved and kind = any($5)
            and (cardinality($6::text[]) = 0 or kind || '/' || at || coalesce('/' || (undo ->> 'undo'), '') <> all($6))
        order by priority, rank, id
        limit (select case when l.closed_code is null then k else 0 end from k, l) for update skip locked) w
),
-- Every reserve-th token goes to inquiries and unwinding first; what either side leaves, the other may use.
share as materialized (
    select k, least((select count(*) from reserved),
        greatest((tokens + k) / reserve - tokens / reserve, k - (select count(*) from writes))) as reserved
    from k, l
),
picked as materialized (
    select id, rank, row_number() over (order by part, n) - 1 as i from (
        select id, rank, n, 0 as part from reserved, share where n <= reserved
        union all
        select id, rank, n, 1 from writes, share where n <= k - reserved) p
),
taken as materialized (select count(*)::int as n, max(rank) as rank from picked),
spend as (
    update noshi.lane_budget t set tat = b.base + b.emission * taken.n,
        late = case when $7 > t.jitter and $7 >= b.late then $7 else t.late end,
        late_at = case when $7 > t.jitter and $7 >= b.late then l.now else t.late_at end
    from budget b, taken, l
    where t.lane = $2 and t.per = b.per and (taken.n > 0 or l.server <> l.server_now)
),
serve as (
    update noshi.lane t set tokens = (t.tokens + taken.n) % 1000000000000000, vtime = least(greatest(t.vtime, taken.rank), 1000000000000000), server = l.server_now
    from l, taken where t.name = l.name and (taken.n > 0 or l.server <> l.server_now)
),
claimed as (
    update noshi.job j set status = 'running', worker = $1, lease = lease + 1, status_before = nullif(j.status_before, 'running'),
        waited = case when j.lane = '' then waited else least(waited + greatest(l.now - j.run_at, '0'), '1000 years') end,
        called_at = case when j.writes and j.lane <> '' then coalesce(called_at, l.now) else called_at end
    from picked, l where j.id = picked.id
    returning j.*, picked.i
),
journal as (
    insert into noshi.job_event (job, event, lease, step, worker, was, became)
    select id, 'claimed', lease, step, worker, at, at from claimed
)
select k.k, c.id, c.kind, c.key, c.args, c.at, c.state, c.undo, c.code, c.requested_act, c.status_before is not null as rests, c.lane, c.lease, c.step, c.retries, c.in_doubt,
    extract(epoch from l.now - c.created_at - c.waited)::float8 as age, extract(epoch from l.now - c.created_at)::float8 as existed, c.traceparent,
    split_part(l.server_now, ' ', 1) as timeline, l.server_now as server,
    (select s.trusted_at = '-infinity' or l.now between s.trusted_at - interval '1 minute' and s.trusted_at + interval '1 minute' from noshi.server_seen s) as clock_holds,
    coalesce(c.writes and c.lane <> '', false) as calls, extract(epoch from l.now - c.entered_at)::float8 as in_state,
    extract(epoch from l.now - c.called_at)::float8 as since_call,
    (select max(extract(epoch from first + c.i * emission)) from budget)::float8 as wait,
    (select min(extract(epoch from jitter)) from budget)::float8 as jitter,
    exists (select from noshi.job s where s.status = 'available' and s.crash_count > 0 and s.crash_count = 1 and s.lane = $2 and s.kind = any($5)
        and (cardinality($6::text[]) = 0 or kind || '/' || at || coalesce('/' || (undo ->> 'undo'), '') <> all($6))) as suspects,
    exists (select from noshi.job s where s.status = 'available' and s.crash_count > 0 and s.crash_count > 1 and s.lane = $2 and s.kind = any($5)
        and (cardinality($6::text[]) = 0 or kind || '/' || at || coalesce('/' || (undo ->> 'undo'), '') <> all($6))) as alone
from l cross join k left join claimed c on true"
        )
    };
}

const CLAIM: &str = claim_sql!("= 0", "true");
const CLAIM_SUSPECT: &str = claim_sql!("> 0 and crash_count = 1", "true");
const CLAIM_ALONE: &str = claim_sql!("> 0 and crash_count > 1", "true");
const CLAIM_WITHOUT_TOKENS: &str = claim_sql!("= 0", "false");

/// Which jobs of a lane are claimed. Whoever was in flight at a death may have caused it.
///
/// Of those, few run in one process at once, beside what never was: the poison among them takes few of its like down with it. Who was in
/// hand at two deaths runs alone, so that a third, which parks, is nobody else's doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    Fresh,
    Suspect,
    Alone,
}

/// Claims at most `want` available jobs of a lane, each with a token of every budget of the lane.
///
/// `suspect` asks for jobs that were in flight at one death.
pub async fn claim(pool: &PgPool, worker: i64, lane: &str, want: usize, suspect: bool) -> Result<Catch, sqlx::Error> {
    let which = if suspect { Which::Suspect } else { Which::Fresh };
    claim_as(pool, worker, lane, &ClaimRequest { want, which, late: Duration::ZERO, unknown: &[], server: "" }).await
}

/// How a worker claims.
#[derive(Debug, Clone, Copy)]
pub struct ClaimRequest<'a> {
    pub want: usize,
    pub which: Which,
    /// How late this worker usually reaches the slots of the lane.
    pub late: Duration,
    /// What stands at one of these [`Claimed::place`]s is left alone: another version knows them.
    pub unknown: &'a [String],
    /// The server that the worker has seen to be whole, and by which alone it wants to be answered; `""`: by any.
    pub server: &'a str,
}

/// The same, as a worker asks.
pub async fn claim_as(pool: &PgPool, worker: i64, lane: &str, asked: &ClaimRequest<'_>) -> Result<Catch, sqlx::Error> {
    let ClaimRequest { want, which, late, unknown, server } = *asked;
    let sql = match which {
        _ if crate::basics::chaos::planted(crate::basics::chaos::Bug::NoTokens) => CLAIM_WITHOUT_TOKENS,
        Which::Suspect => CLAIM_SUSPECT,
        Which::Alone => CLAIM_ALONE,
        Which::Fresh => CLAIM,
    };
    let want = i32::try_from(want).unwrap_or(i32::MAX);
    // A kind of a newer version is left alone.
    let kinds = kinds::names();
    let query = sqlx::query(sql)
        .bind(worker)
        .bind(lane)
        .bind(want)
        .bind(interval(HORIZON))
        .bind(kinds)
        .bind(unknown)
        .bind(interval(late));
    let query = query.bind(server);
    // What a standby may not have is not ours: no call is made on it, and the rows are found lost.
    let rows = notices::none_during(query.fetch_all(pool)).await?;
    let Some(first) = rows.first() else { return Ok(Catch { closed: true, ..Catch::default() }) };
    let mut catch = Catch {
        closed: false,
        tokens: usize::try_from(first.try_get::<i32, _>("k")?).unwrap_or(0),
        jobs: Vec::with_capacity(rows.len()),
        suspects: first.try_get("suspects")?,
        alone: first.try_get("alone")?,
        jitter: first.try_get::<Option<f64>, _>("jitter")?.map_or(Duration::MAX, seconds),
    };
    for row in &rows {
        if row.try_get::<Option<i64>, _>("id")?.is_some() {
            catch.jobs.push(read(row)?);
        }
    }
    Ok(catch)
}

fn read(row: &PgRow) -> Result<Claimed, sqlx::Error> {
    let json = |name| row.try_get::<Option<Json<Box<RawValue>>>, _>(name).map(|value| value.map(|Json(raw)| raw));
    Ok(Claimed {
        id: row.try_get("id")?,
        kind: row.try_get("kind")?,
        key: row.try_get("key")?,
        args: row.try_get::<Json<Box<RawValue>>, _>("args")?.0,
        at: row.try_get("at")?,
        state: json("state")?,
        undo: json("undo")?,
        code: row.try_get::<Option<&str>, _>("code")?.and_then(Problem::from_code).map(Problem::code),
        slot: None,
        told: Notice::default(),
        requested_act: row.try_get("requested_act")?,
        rests: row.try_get::<Option<bool>, _>("rests")?.unwrap_or_default(),
        lane: row.try_get("lane")?,
        lease: row.try_get("lease")?,
        step: row.try_get("step")?,
        retries: row.try_get::<i32, _>("retries")?.unsigned_abs(),
        in_doubt: row.try_get("in_doubt")?,
        age: seconds(row.try_get("age")?),
        existed: seconds(row.try_get("existed")?),
        traceparent: row.try_get("traceparent")?,
        timeline: row.try_get("timeline")?,
        server: row.try_get("server")?,
        clock_holds: row.try_get::<Option<bool>, _>("clock_holds")?.unwrap_or(true),
        calls: row.try_get("calls")?,
        in_state: seconds(row.try_get("in_state")?),
        since_call: row.try_get::<Option<f64>, _>("since_call")?.map(seconds),
        wait: row.try_get::<Option<f64>, _>("wait")?.map_or(Duration::ZERO, seconds),
    })
}

// `now()` is a condition for the index; `clock_timestamp()`, being volatile, would be a filter over every waiting row.
const PROMOTE: &str = "with due as (
    select id from noshi.job where status in ('scheduled', 'retryable') and run_at <= now() and (select noshi.clock_holds())
    order by run_at limit 1000 for update skip locked),
promoted as (
    update noshi.job j set status = 'available' from due where j.id = due.id returning 1)
select (select count(*) from promoted) as promoted,
    extract(epoch from (select min(run_at) from noshi.job where status in ('scheduled', 'retryable') and run_at > now() and run_at < 'infinity')
        - now())::float8 as next";

/// Makes waiting jobs whose time has come available: none by a clock that has jumped. Returns how many, and how long until the next.
pub async fn promote_due(pool: &PgPool) -> Result<(i64, Option<Duration>), sqlx::Error> {
    let row = sqlx::query(PROMOTE).fetch_one(pool).await?;
    Ok((row.try_get("promoted")?, row.try_get::<Option<f64>, _>("next")?.map(seconds)))
}

const DECLINE: &str = "with d as (
    update noshi.job j set status = coalesce(status_before, 'needs_operator'), requested_act = null, status_before = null, worker = null, step = j.step + 1,
        finished_at = case when status_before in ('completed', 'failed', 'cancelled') then clock_timestamp() end
    where j.id = $2 and j.lease = $3 and j.worker is not distinct from $1 and j.step = $4 and j.requested_act is not null
        and exists (select from noshi.worker w where w.id = $1 and w.dead_at is null)
    returning j.id, j.lease, j.step, j.at, j.code)
insert into noshi.job_event (job, event, lease, step, worker, was, became, outcome, code)
select id, 'declined', lease, step - 1, $1, at, at, 'declined', code from d";

/// Puts a job back to where it was at rest: the state tables do not allow there what was asked for.
pub async fn decline(pool: &PgPool, worker: i64, held: (i64, i64, i32)) -> Result<(), sqlx::Error> {
    let (id, lease, step) = held;
    sqlx::query(DECLINE).bind(worker).bind(id).bind(lease).bind(step).execute(pool).await.map(|_| ())
}

const HAND_BACK: &str = "with b as (
    update noshi.job j set status = 'available', worker = null from unnest($2::bigint[], $3::bigint[], $4::int[]) as h(id, lease, step)
    where j.id = h.id and j.lease = h.lease and j.worker = $1 and j.step = h.step and j.status = 'running'
      and exists (select from noshi.worker w where w.id = $1 and w.dead_at is null)
    returning j.id, j.lease, j.step, j.at)
insert into noshi.job_event (job, event, lease, step, worker, was, became)
select id, 'handed_back', lease, step, $1, at, at from b";

/// Gives jobs back untouched: no call was made under these leases, and doubt stays as it is.
pub async fn hand_back(pool: &PgPool, worker: i64, held: &[(i64, i64, i32)]) -> Result<u64, sqlx::Error> {
    let (ids, (leases, steps)): (Vec<i64>, (Vec<i64>, Vec<i32>)) = held.iter().map(|&(i, l, s)| (i, (l, s))).unzip();
    Ok(sqlx::query(HAND_BACK).bind(worker).bind(ids).bind(leases).bind(steps).execute(pool).await?.rows_affected())
}
