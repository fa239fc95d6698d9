//! Schedules: rows that say when which job is due. Each due time fires once, by the transaction that moves `next_due`.

use std::time::Duration;

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;
use sqlx::FromRow;

use crate::db::{ActError, PgConnection, PgPool};

/// What becomes of due times that nobody could take. The names are stored: they are permanent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "lowercase")]
pub enum Missed {
    /// Each is fired, late.
    Every,
    /// The last of them is fired, late.
    Latest,
    /// None of them is fired.
    None,
}

/// A schedule that is due, in our hands until the transaction ends.
#[derive(Debug, FromRow)]
pub struct Due {
    pub name: String,
    pub cron: String,
    pub zone: String,
    pub missed: Missed,
    pub next_due: DateTime<Utc>,
    /// The database's.
    pub clock: DateTime<Utc>,
}

/// How long until a schedule is due; `None`: none will be, as things stand.
pub async fn wait(pool: &PgPool, kinds: &[&str]) -> Result<Option<Duration>, sqlx::Error> {
    const WAIT: &str = "select extract(epoch from min(next_due) - clock_timestamp())::float8 from noshi.schedule where paused_at is null and stuck is null and kind = any ($1)";
    let wait: Option<f64> = sqlx::query_scalar(WAIT).bind(kinds).fetch_one(pool).await?;
    Ok(wait.map(crate::db::seconds))
}

/// Takes the one that has been due longest, if this worker knows its kind.
pub async fn take_due(connection: &mut PgConnection, kinds: &[&str]) -> Result<Option<Due>, sqlx::Error> {
    const TAKE: &str = "select * from noshi.take_due_schedule($1)";
    sqlx::query_as(TAKE).bind(kinds).fetch_optional(connection).await
}

/// Enqueues one job for each of these due times, and goes on to `next`.
pub async fn fire(
    connection: &mut PgConnection,
    due: &Due,
    fire: &[DateTime<Utc>],
    skipped: usize,
    next: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    const FIRE: &str = "select noshi.fire_schedule($1, $2, $3, $4, $5)";
    sqlx::query_scalar(FIRE)
        .bind(&due.name)
        .bind(due.next_due)
        .bind(next)
        .bind(fire)
        .bind(i64::try_from(skipped).unwrap_or(i64::MAX))
        .fetch_one(connection)
        .await
}

/// Leaves it to a person.
pub async fn stick(connection: &mut PgConnection, due: &Due, why: &str) -> Result<(), sqlx::Error> {
    const STICK: &str = "select noshi.stick_schedule($1, $2, $3)";
    sqlx::query(STICK).bind(&due.name).bind(due.next_due).bind(why).execute(connection).await.map(|_| ())
}

/// A schedule as it stands.
#[derive(Debug, Clone, Serialize, JsonSchema, FromRow)]
pub struct Schedule {
    pub name: String,
    pub kind: String,
    /// Of its jobs, with `{due}` for the due time.
    pub id: String,
    pub args: Value,
    pub priority: i16,
    pub cron: String,
    pub zone: String,
    pub missed: String,
    pub next_due: DateTime<Utc>,
    pub last_due: Option<DateTime<Utc>>,
    pub last_job: Option<i64>,
    pub fired: i64,
    pub skipped: i64,
    pub stuck: Option<String>,
    pub paused_by: Option<String>,
    pub paused_at: Option<DateTime<Utc>>,
    pub paused_reason: Option<String>,
    pub created_by: String,
    pub created_at: DateTime<Utc>,
    pub changed_by: String,
    pub changed_at: DateTime<Utc>,
}

impl Schedule {
    /// Whether it fires.
    pub fn state(&self) -> &'static str {
        match (&self.paused_at, &self.stuck) {
            (Some(_), _) => "paused",
            (None, Some(_)) => "stuck",
            (None, None) => "on",
        }
    }
}

const LIST: &str = "select name, kind, key as id, args, priority, cron, zone, missed, next_due, last_due, last_job, fired, skipped, stuck,
    paused_by, paused_at, paused_reason, created_by, created_at, changed_by, changed_at
from noshi.schedule where $1::text is null or name = $1 order by name";

/// All of them, or the one of this name.
pub async fn list(executor: impl sqlx::PgExecutor<'_>, name: Option<&str>) -> Result<Vec<Schedule>, sqlx::Error> {
    sqlx::query_as(LIST).bind(name).fetch_all(executor).await
}

/// What a schedule is to be.
pub struct Wanted<'a> {
    pub name: &'a str,
    pub kind: &'a str,
    pub id: &'a str,
    pub args: &'a Value,
    pub priority: i16,
    pub cron: &'a str,
    pub zone: &'a str,
    pub missed: Missed,
}

/// True: it is new. `next`: the next due time after the database's clock.
pub async fn set(
    pool: &PgPool,
    wanted: &Wanted<'_>,
    next: impl FnOnce(DateTime<Utc>) -> Result<DateTime<Utc>, String>,
    reason: &str,
) -> Result<bool, ActError> {
    const CLOCK: &str = "select clock_timestamp()";
    const SET: &str = "select noshi.set_schedule($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";
    let clock: DateTime<Utc> = sqlx::query_scalar(CLOCK).fetch_one(pool).await?;
    let next = next(clock).map_err(ActError::refused)?;
    let set = sqlx::query_scalar(SET)
        .bind(wanted.name)
        .bind(wanted.kind)
        .bind(wanted.id)
        .bind(wanted.args)
        .bind(wanted.priority)
        .bind(wanted.cron)
        .bind(wanted.zone)
        .bind(wanted.missed)
        .bind(next)
        .bind(reason);
    Ok(set.fetch_one(pool).await?)
}

/// Acts on a schedule by its name alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Steer {
    Pause,
    Resume,
    Remove,
}

pub async fn steer(pool: &PgPool, steer: Steer, name: &str, reason: &str) -> Result<(), ActError> {
    let act = match steer {
        Steer::Pause => "select noshi.pause_schedule($1, $2)",
        Steer::Resume => "select noshi.resume_schedule($1, $2)",
        Steer::Remove => "select noshi.remove_schedule($1, $2)",
    };
    sqlx::query(act).bind(name).bind(reason).execute(pool).await?;
    Ok(())
}

/// Fires it once, now. Returns the job and its id.
pub async fn trigger(pool: &PgPool, name: &str, reason: &str) -> Result<(i64, String), ActError> {
    const TRIGGER: &str = "select job, id from noshi.trigger_schedule($1, $2)";
    Ok(sqlx::query_as(TRIGGER).bind(name).bind(reason).fetch_one(pool).await?)
}
