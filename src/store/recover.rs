//! What a death leaves: jobs of dead workers, and writes in doubt after the server's timeline changed.

use crate::store::PgPool;
use sqlx::Row;

use crate::chaos::crash_point;

/// Deaths that one job may cause before it is parked.
pub const POISON: i16 = 3;

// A rescued job goes to the lane '': an engine looks at it, alone, and asks `Unsure` before anything is called.
macro_rules! rescue_sql {
    ($which:literal) => {
        concat!(
            "with lost as (
    select j.id from noshi.job j where j.status = 'running' and ",
            $which,
            " order by j.id limit 1000 for update of j skip locked
),
r as (
    update noshi.job j set lost = j.lost + 1, worker = null, unsure = j.unsure or j.writes, lane = '', relief = false,
        run_at = clock_timestamp(),
        status = case when j.lost + 1 >= $1 then 'needs_operator' else 'available' end::noshi.job_status,
        code = case when j.lost + 1 >= $1 then 'poison' else j.code end,
        asked = case when j.lost + 1 < $1 then j.asked end, rested = case when j.lost + 1 < $1 then j.rested end
    from lost where j.id = lost.id returning j.id, j.lease, j.step, j.at, j.lost
)
insert into noshi.job_event (job, event, lease, step, became, code)
select id, 'rescued', lease, step, at, case when lost >= $1 then 'poison' end from r"
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

const SEE_SERVER: &str = "with old as (select server, timeline from noshi.server_seen for update),
now as (select noshi.server() as server, split_part(noshi.server(), ' ', 1) as timeline),
seen as (
    update noshi.server_seen s set server = now.server, timeline = now.timeline, seen_at = clock_timestamp()
    from old, now where old.server <> now.server returning old.timeline <> now.timeline as changed)
select coalesce((select changed from seen), false) as changed";

// Acknowledged commits may be gone: every holder is fenced out, and every unfinished write may have been called.
const DROP_ALL: &str = "with r as (
    update noshi.job j set unsure = j.unsure or j.writes, called_at = case when j.writes then coalesce(j.called_at, clock_timestamp()) else j.called_at end,
        lease = case when j.status = 'running' then j.lease + 1 else j.lease end,
        status = case when j.status = 'running' then 'available' else j.status end,
        worker = null, lane = case when j.writes then '' else j.lane end, relief = j.relief and not j.writes
    where j.status = 'running' or (j.writes and j.status in ('scheduled', 'available', 'retryable'))
    returning j.id, j.lease, j.step, j.at)
insert into noshi.job_event (job, event, lease, step, became) select id, 'timeline_changed', lease, step, at from r";

/// Notes a restart or a failover of the server. Returns true if its timeline changed, in which case everything held was dropped.
pub async fn see_server(pool: &PgPool) -> Result<bool, sqlx::Error> {
    let mut transaction = pool.begin().await?;
    let changed: bool = sqlx::query(SEE_SERVER).fetch_one(&mut *transaction).await?.try_get("changed")?;
    if changed {
        sqlx::query(DROP_ALL).execute(&mut *transaction).await?;
        crash_point("see_server.before_commit");
    }
    transaction.commit().await?;
    if changed {
        crash_point("see_server.after");
    }
    Ok(changed)
}
