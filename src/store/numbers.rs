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

// One branch for each partial index: with `status in (…)` alone the whole history would be read.
const OPEN: &str = "select kind, status, sum(jobs)::bigint as jobs from (
    select kind, status::text, undo is not null as undoing, count(*) as jobs from noshi.job where status = 'available' and lost = 0 group by 1, 2, 3
    union all
    select kind, status::text, undo is not null, count(*) from noshi.job where status = 'available' and lost > 0 group by 1, 2, 3
    union all
    select kind, status::text, undo is not null, count(*) from noshi.job where status in ('scheduled', 'retryable') group by 1, 2, 3
    union all
    select kind, status::text, undo is not null, count(*) from noshi.job where status = 'running' group by 1, 2, 3
    union all
    select kind, status::text, false, count(*) from noshi.job where status = 'needs_operator' group by 1, 2) o(kind, queued, undoing, jobs)
cross join lateral (select case when undoing then 'compensating' else queued end as status) s group by 1, 2";

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
