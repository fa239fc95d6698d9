//! The database's clock: what the fleet makes of it, and what was stored while it was ahead.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::FromRow;

use crate::db::{PgPool, interval};

/// Clocks that are further apart than this, in seconds, are not those of machines that keep time.
pub const BOUND: f64 = 60.0;

/// The database's clock, in Unix seconds.
pub async fn now(pool: &PgPool) -> Result<f64, sqlx::Error> {
    sqlx::query_scalar("select extract(epoch from clock_timestamp())::float8").fetch_one(pool).await
}

/// Tells how far the database's clock is ahead of this worker's. Whether at least half of the fleet is within the bound.
pub async fn report(pool: &PgPool, worker: i64, ahead: f64, bound: f64) -> Result<bool, sqlx::Error> {
    const REPORT: &str = "select noshi.report_clock($1, $2, $3)";
    sqlx::query_scalar(REPORT).bind(worker).bind(ahead).bind(bound).fetch_one(pool).await
}

/// Something that was stored ahead of the clock, and by how many seconds.
#[derive(Debug, FromRow)]
pub struct Drawn {
    pub what: String,
    pub name: String,
    pub ahead: f64,
}

/// Brings back to the clock what was stored ahead of it.
pub async fn draw_back(pool: &PgPool, trusted: bool) -> Result<Vec<Drawn>, sqlx::Error> {
    sqlx::query_as("select * from noshi.draw_back($1)").bind(trusted).fetch_all(pool).await
}

/// Notes where the clock is, and what this worker thinks of it.
pub async fn see(pool: &PgPool, lease: Duration, trusted: bool) -> Result<(), sqlx::Error> {
    sqlx::query("select noshi.see_clock($1, $2)").bind(interval(lease)).bind(trusted).execute(pool).await.map(|_| ())
}

/// A schedule that is on, for the look whether its next due time lies too far ahead.
#[derive(Debug, FromRow)]
pub struct Planned {
    pub name: String,
    pub cron: String,
    pub zone: String,
    pub next_due: DateTime<Utc>,
    pub clock: DateTime<Utc>,
}

pub async fn planned(pool: &PgPool) -> Result<Vec<Planned>, sqlx::Error> {
    const PLANNED: &str = "select name, cron, zone, next_due, clock_timestamp() as clock from noshi.schedule where stuck is null and next_due > clock_timestamp()";
    sqlx::query_as(PLANNED).fetch_all(pool).await
}

/// False where it has moved meanwhile.
pub async fn draw_back_schedule(pool: &PgPool, planned: &Planned, next: DateTime<Utc>) -> Result<bool, sqlx::Error> {
    const DRAW: &str = "select noshi.draw_back_schedule($1, $2, $3)";
    sqlx::query_scalar(DRAW).bind(&planned.name).bind(planned.next_due).bind(next).fetch_one(pool).await
}
