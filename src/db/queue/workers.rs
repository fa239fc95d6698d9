//! Worker processes: one row each, one heartbeat each. Declared dead is final.

use std::time::Duration;

use sqlx::Row;

use crate::db::{PgPool, interval};

const REGISTER: &str = "insert into noshi.worker (name) values ($1) returning id, token, noshi.server() as server";

/// Who a process is to the database.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Identity {
    pub id: i64,
    /// Its number alone could be given twice, where the registration was lost with a server.
    pub token: sqlx::types::Uuid,
    /// On which it began: its timeline, and when it started.
    pub server: String,
}

/// A new identity, at every start.
pub async fn register(pool: &PgPool, name: &str) -> Result<i64, sqlx::Error> {
    Ok(enter(pool, name).await?.id)
}

/// The same, with all that a process has to know of itself.
pub async fn enter(pool: &PgPool, name: &str) -> Result<Identity, sqlx::Error> {
    sqlx::query_as(REGISTER).bind(name).fetch_one(pool).await
}

const RENEW: &str = "update noshi.worker set seen_at = clock_timestamp(), beats = beats + 1
where id = $1 and dead_at is null and ($2::uuid is null or token = $2) returning beats";

/// True while this worker counts as alive; false once it was declared dead, which is final.
pub async fn renew(pool: &PgPool, worker: i64) -> Result<bool, sqlx::Error> {
    Ok(beat(pool, worker, None).await?.is_some())
}

/// The number of this heartbeat; `None` once this worker was declared dead, which is final, or where its number is another's.
pub async fn beat(pool: &PgPool, worker: i64, token: Option<sqlx::types::Uuid>) -> Result<Option<i64>, sqlx::Error> {
    sqlx::query_scalar(RENEW).bind(worker).bind(token).fetch_optional(pool).await
}

/// Whether producers ring for this worker; the database forgets the wish after ten seconds.
pub async fn ring_for(pool: &PgPool, worker: i64, rings: bool) -> Result<(), sqlx::Error> {
    sqlx::query("select noshi.ring_for($1, $2)").bind(worker).bind(rings).execute(pool).await.map(|_| ())
}

const ALONE: &str = "select not exists (select from noshi.worker
where id <> $1 and dead_at is null and stopped_at is null and seen_at > clock_timestamp() - interval '1 minute')";

/// Whether no other worker has been heard of lately.
pub async fn is_alone(pool: &PgPool, worker: i64) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(ALONE).bind(worker).fetch_one(pool).await
}

// Not on a timeline that it has not testified for: nobody would ask it any more. Such a worker is declared dead, and counts as silent.
const STOP: &str =
    "update noshi.worker set stopped_at = clock_timestamp() where id = $1 and timeline = noshi.timeline()";

pub async fn stop(pool: &PgPool, worker: i64) -> Result<(), sqlx::Error> {
    sqlx::query(STOP).bind(worker).execute(pool).await.map(|_| ())
}

/// What the keys of a worker are worth.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Worth {
    /// Ids that mean other keys here.
    pub others: Vec<String>,
    /// Something that is stored opens with them, or nothing is stored.
    pub opens: bool,
}

/// Says which keys this worker has, by their ids and prints.
pub async fn tell_keys(pool: &PgPool, worker: i64, keys: &[(String, String)]) -> Result<Worth, sqlx::Error> {
    const TELL_KEYS: &str = "update noshi.worker set keys = $2 where id = $1 and keys is distinct from $2";
    const KNOW_KEYS: &str = "select others, opens from noshi.know_keys($1, $2)";
    let (ids, prints): (Vec<String>, Vec<String>) = keys.iter().cloned().unzip();
    sqlx::query(TELL_KEYS).bind(worker).bind(&ids).execute(pool).await?;
    sqlx::query_as(KNOW_KEYS).bind(&ids).bind(&prints).fetch_one(pool).await
}

/// Workers that live and could not open what is sealed under this key, or do not say: number, name, and whether they say.
pub async fn without_key(pool: &PgPool, key: &str) -> Result<Vec<(i64, String, bool)>, sqlx::Error> {
    const WITHOUT_KEY: &str = "select id, name, keys is not null from noshi.worker
where dead_at is null and stopped_at is null and (keys is null or keys <> '{}' and $1 <> all (keys)) order by id";
    sqlx::query_as(WITHOUT_KEY).bind(key).fetch_all(pool).await
}

const HELD: &str = "select id, lease from noshi.job where worker = $1 and status = 'running'";

/// The leases that the database thinks this worker holds.
pub async fn held(pool: &PgPool, worker: i64) -> Result<Vec<(i64, i64)>, sqlx::Error> {
    let rows = sqlx::query(HELD).bind(worker).fetch_all(pool).await?;
    rows.iter().map(|row| Ok((row.try_get("id")?, row.try_get("lease")?))).collect()
}

// No lease expires within one lease time after the server started or was promoted: nobody could renew while it was away.
const DECLARE_DEAD: &str = "update noshi.worker w set dead_at = clock_timestamp() from noshi.server_seen s
where w.dead_at is null and w.stopped_at is null and w.seen_at < clock_timestamp() - $1::interval
  and s.seen_at < clock_timestamp() - $1::interval
  -- Nor by a clock that has jumped since the fleet's last look at it.
  and (s.clock_at = '-infinity' or clock_timestamp() between s.clock_at - $1::interval * 0.6 and s.clock_at + $1::interval * 0.6)
  -- A server that started while its clock was ahead has started in the future.
  and pg_postmaster_start_time() not between clock_timestamp() - $1::interval and clock_timestamp() + $1::interval
  and s.server = noshi.server()
returning w.id";

/// Declares every worker dead that has not renewed within the lease time.
pub async fn declare_dead(pool: &PgPool, lease: Duration) -> Result<Vec<i64>, sqlx::Error> {
    sqlx::query_scalar(DECLARE_DEAD).bind(interval(lease)).fetch_all(pool).await
}
