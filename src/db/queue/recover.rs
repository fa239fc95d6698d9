//! What a death leaves: jobs of dead workers, and what the fleet does when the server's timeline changed.

use sqlx::Row;

use crate::{
    basics::chaos::crash_point,
    db::{PgPool, interval, queue::testimony::Testimony, take_time},
};

/// Deaths that one job may cause before it is parked.
pub const POISON: i16 = 3;

// A rescued job goes to the lane '': an engine looks at it, alone, and asks `InDoubt` before anything is called.
macro_rules! rescue_sql {
    ($which:literal) => {
        concat!(
            "with lost as (
    select j.id from noshi.job j where j.status = 'running' and ",
            $which,
            " order by j.id limit 1000 for update of j skip locked
),
r as (
    update noshi.job j set crash_count = j.crash_count + 1, worker = null, in_doubt = j.in_doubt or j.writes, lane = '', reserved = false,
        run_at = clock_timestamp(),
        status = case when j.crash_count + 1 >= $1 then 'needs_operator' else 'available' end::noshi.job_status,
        code = case when j.crash_count + 1 >= $1 then 'poison' else j.code end,
        requested_act = case when j.crash_count + 1 < $1 then j.requested_act end, status_before = case when j.crash_count + 1 < $1 then j.status_before end
    from lost where j.id = lost.id returning j.id, j.lease, j.step, j.at, j.crash_count
)
insert into noshi.job_event (job, event, lease, step, became, code)
select id, 'rescued', lease, step, at, case when crash_count >= $1 then 'poison' end from r"
        )
    };
}

const RESCUE: &str = rescue_sql!(
    "exists (select from noshi.worker w where w.id = j.worker and (w.dead_at is not null or w.stopped_at is not null))"
);
const RESCUE_LOST: &str =
    rescue_sql!("j.worker = $2 and (j.id, j.lease) in (select * from unnest($3::bigint[], $4::bigint[]))");

/// Takes the jobs of dead and stopped workers back into the queue; parks those whose workers keep dying.
pub async fn rescue(pool: &PgPool) -> Result<u64, sqlx::Error> {
    Ok(sqlx::query(RESCUE).bind(POISON).execute(pool).await?.rows_affected())
}

/// Takes back jobs that a living worker lost sight of.
pub async fn rescue_lost(pool: &PgPool, worker: i64, lost: &[(i64, i64)]) -> Result<u64, sqlx::Error> {
    let (ids, leases): (Vec<i64>, Vec<i64>) = lost.iter().copied().unzip();
    Ok(sqlx::query(RESCUE_LOST).bind(POISON).bind(worker).bind(ids).bind(leases).execute(pool).await?.rows_affected())
}

const NEVER_HELD: &str = "with b as (
    update noshi.job j set status = 'available', worker = null from unnest($2::bigint[], $3::bigint[]) as h(id, lease)
    where j.id = h.id and j.lease = h.lease and j.worker = $1 and j.status = 'running'
      and not exists (select from noshi.job_event e where e.job = j.id and e.lease = j.lease and e.event = 'claimed'
          and e.happened_at < clock_timestamp() - interval '20 minutes')
    returning j.id, j.lease, j.step, j.at)
insert into noshi.job_event (job, event, lease, step, worker, was, became)
select id, 'handed_back', lease, step, $1, at, at from b";

/// Gives back what this worker was never told that it holds: the answer to a claim was lost, and nothing was called. No death is counted.
pub async fn never_held(pool: &PgPool, worker: i64, claims: &[(i64, i64)]) -> Result<u64, sqlx::Error> {
    let (ids, leases): (Vec<i64>, Vec<i64>) = claims.iter().copied().unzip();
    Ok(sqlx::query(NEVER_HELD).bind(worker).bind(ids).bind(leases).execute(pool).await?.rows_affected())
}

/// The server, as a worker sees it before each heartbeat.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Server {
    pub timeline: String,
    /// The timeline, and when the server started.
    pub server: String,
    /// The fleet has yet to deal with it: until it has, nothing is claimed.
    pub is_new: bool,
    /// The newest heartbeat of this worker that is there; `None` where nothing is known of it.
    pub beats: Option<i64>,
}

/// Notes a restart or a failover of the server.
pub async fn see_server(pool: &PgPool, worker: i64, token: sqlx::types::Uuid) -> Result<Server, sqlx::Error> {
    const SEE: &str = "select noshi.timeline() as timeline, noshi.server() as server, noshi.see_server() as is_new,
    (select beats from noshi.worker where id = $1 and token = $2) as beats";
    let seen = sqlx::query_as(SEE).bind(worker).bind(token).fetch_one(pool).await?;
    crash_point("see_server.after");
    Ok(seen)
}

/// Whether the newest that was acknowledged to this worker is there.
pub async fn is_whole(
    pool: &PgPool,
    worker: i64,
    claims: &[(i64, i64)],
    settles: &[(i64, i64, i32)],
) -> Result<bool, sqlx::Error> {
    const IS_WHOLE: &str = "select not exists (select from unnest($2::bigint[], $3::bigint[]) c(job, lease)
        where not exists (select from noshi.job_event e where e.job = c.job and e.lease = c.lease and e.worker = $1 and e.event = 'claimed'))
    and not exists (select from unnest($4::bigint[], $5::bigint[], $6::int[]) s(job, lease, step)
        where not exists (select from noshi.job_event e where e.job = s.job and e.lease = s.lease and e.step = s.step and e.worker = $1 and e.event = 'settled'))";
    let (jobs, leases): (Vec<_>, Vec<_>) = claims.iter().copied().unzip();
    sqlx::query_scalar(IS_WHOLE)
        .bind(worker)
        .bind(jobs)
        .bind(leases)
        .bind(settles.iter().map(|settle| settle.0).collect::<Vec<_>>())
        .bind(settles.iter().map(|settle| settle.1).collect::<Vec<_>>())
        .bind(settles.iter().map(|settle| settle.2).collect::<Vec<_>>())
        .fetch_one(pool)
        .await
}

/// Says that the database is older than what was acknowledged to this worker. The server from here on, with which the fleet has to deal.
pub async fn went_back(pool: &PgPool) -> Result<String, sqlx::Error> {
    sqlx::query_scalar("select noshi.went_back()").fetch_one(pool).await
}

/// The timeline of the server that answers.
pub async fn timeline(pool: &PgPool) -> Result<String, sqlx::Error> {
    sqlx::query_scalar("select noshi.timeline()").fetch_one(pool).await
}

const TESTIFY: &str = "select noshi.testify($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)";

/// Says what was acknowledged to this worker before the timeline changed. Returns how much of it is missing: what was claimed for a call is in
/// doubt from here on, also if its row is gone.
pub async fn testify(pool: &PgPool, worker: i64, said: &Testimony) -> Result<i64, sqlx::Error> {
    let ago = said.claims.iter().map(|claim| interval(claim.at.elapsed())).collect::<Vec<_>>();
    let mut transaction = pool.begin().await?;
    take_time(&mut transaction).await?;
    let missing = sqlx::query_scalar(TESTIFY)
        .bind(worker)
        .bind(said.beats)
        .bind(said.newest.map(interval))
        .bind(said.overrun)
        .bind(said.claims.iter().map(|claim| claim.job).collect::<Vec<_>>())
        .bind(said.claims.iter().map(|claim| claim.lease).collect::<Vec<_>>())
        .bind(said.claims.iter().map(|claim| claim.kind.as_str()).collect::<Vec<_>>())
        .bind(said.claims.iter().map(|claim| claim.key.as_str()).collect::<Vec<_>>())
        .bind(said.claims.iter().map(|claim| claim.calls).collect::<Vec<_>>())
        .bind(ago)
        .bind(said.settles.iter().map(|settle| settle.0).collect::<Vec<_>>())
        .bind(said.settles.iter().map(|settle| settle.1).collect::<Vec<_>>())
        .bind(said.settles.iter().map(|settle| settle.2).collect::<Vec<_>>())
        .fetch_one(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(missing)
}

/// What the fleet came to about a change of timeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dealt {
    /// It was dealt with before.
    Known,
    /// A worker that lived before has neither testified nor been declared dead.
    Waits,
    /// A page is done, and there are more: the heartbeat has its turn between two of them.
    GoesOn,
    /// Nothing was lost that anybody was told of.
    Whole {
        silent: i32,
    },
    Lost {
        missing: i64,
        silent: i32,
        doubted: i64,
    },
}

/// Jobs that are put in doubt by one statement: well below a second of work.
pub const PAGE: i64 = 5_000;

/// Deals with a page of a change of timeline, if everybody who can tell has told. After the last one claims are answered again.
pub async fn deal(pool: &PgPool, page: i64) -> Result<Dealt, sqlx::Error> {
    let mut transaction = pool.begin().await?;
    take_time(&mut transaction).await?;
    let row = sqlx::query("select * from noshi.deal_with_page($1)").bind(page).fetch_one(&mut *transaction).await?;
    crash_point("see_server.before_commit");
    transaction.commit().await?;
    let silent = row.try_get::<Option<i32>, _>("silent")?.unwrap_or_default();
    let number = |name| row.try_get::<Option<i64>, _>(name).map(Option::unwrap_or_default);
    match row.try_get::<String, _>("verdict")?.as_str() {
        "same" => Ok(Dealt::Known),
        "waits" => Ok(Dealt::Waits),
        "goes_on" => Ok(Dealt::GoesOn),
        "whole" => Ok(Dealt::Whole { silent }),
        _ => Ok(Dealt::Lost { missing: number("missing")?, silent, doubted: number("doubted")? }),
    }
}
