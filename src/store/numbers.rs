//! Figures for the metrics: each from a partial index, none from the history.

use std::time::Duration;

use sqlx::{PgPool, Row};

use super::seconds;

/// How many open jobs there are of a kind in a status.
pub struct Open {
    pub kind: String,
    pub status: String,
    pub jobs: i64,
}

const OPEN: &str = "select kind, case when undo is not null and status <> 'needs_operator' then 'compensating' else status::text end as status, count(*) as jobs
from noshi.job where status in ('scheduled', 'available', 'running', 'retryable', 'needs_operator') group by 1, 2";

pub async fn open(pool: &PgPool) -> Result<Vec<Open>, sqlx::Error> {
    let rows = sqlx::query(OPEN).fetch_all(pool).await?;
    rows.iter()
        .map(|row| Ok(Open { kind: row.try_get("kind")?, status: row.try_get("status")?, jobs: row.try_get("jobs")? }))
        .collect()
}

const DOUBT: &str = "select count(*) as jobs, extract(epoch from clock_timestamp() - min(called_at))::float8 as oldest
from noshi.job where unsure";

/// Jobs in doubt, and how long the oldest has been.
pub async fn in_doubt(pool: &PgPool) -> Result<(i64, Duration), sqlx::Error> {
    let row = sqlx::query(DOUBT).fetch_one(pool).await?;
    Ok((row.try_get("jobs")?, row.try_get::<Option<f64>, _>("oldest")?.map_or(Duration::ZERO, seconds)))
}
