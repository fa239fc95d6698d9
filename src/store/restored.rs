//! A restore to an earlier point: what was called after it left no trace here.

use crate::store::PgPool;
use chrono::{DateTime, Utc};

use super::{ActError, take_time};

/// Every unfinished write is in doubt from now on, and no new gift is bought before its partner was asked. Returns how many jobs
/// are in doubt by that.
pub async fn mark(pool: &PgPool, to: DateTime<Utc>, reason: &str) -> Result<i64, ActError> {
    let mut transaction = pool.begin().await?;
    // As many rows as there are unfinished writes.
    take_time(&mut transaction).await?;
    let mark = "select noshi.mark_restored($1, $2)";
    let doubted = sqlx::query_scalar(mark).bind(to).bind(reason).fetch_one(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(doubted)
}

/// What a mark would meet now.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Preview {
    pub now: DateTime<Utc>,
    /// When the first migration was applied.
    pub installed_at: Option<DateTime<Utc>>,
    /// Writes that are not finished: they would be in doubt.
    pub writes: i64,
    /// Workers that are alive.
    pub workers: i64,
}

pub async fn preview(pool: &PgPool) -> Result<Preview, sqlx::Error> {
    const PREVIEW: &str = "select clock_timestamp() as now, (select min(installed_on) from noshi_migrations._sqlx_migrations) as installed_at,
    (select count(*) from noshi.job where writes and status in ('scheduled', 'available', 'running', 'retryable', 'needs_operator')) as writes,
    (select count(*) from noshi.worker where dead_at is null and stopped_at is null and seen_at > clock_timestamp() - interval '10 seconds') as workers";
    sqlx::query_as(PREVIEW).fetch_one(pool).await
}

/// What was done after the point of the restore is known again.
pub async fn end(pool: &PgPool, reason: &str) -> Result<(), ActError> {
    sqlx::query("select noshi.end_restored($1)").bind(reason).execute(pool).await?;
    Ok(())
}

pub async fn point(pool: &PgPool) -> Result<Option<DateTime<Utc>>, sqlx::Error> {
    sqlx::query_scalar("select restored_to from noshi.server_seen").fetch_one(pool).await
}
