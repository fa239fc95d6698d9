//! A restore to an earlier point: what was called after it left no trace here.

use chrono::{DateTime, Utc};

use super::proposals::{self, Proposed};
use crate::db::{ActError, PgPool};

/// Proposes that every unfinished write is in doubt from now on, and that no new gift is bought before its partner was asked.
pub async fn mark(pool: &PgPool, to: DateTime<Utc>, reason: &str) -> Result<Proposed, ActError> {
    proposals::propose(pool, "restore_mark", Some(to), reason).await
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

/// Proposes that what was done after the point of the restore is known again.
pub async fn end(pool: &PgPool, reason: &str) -> Result<Proposed, ActError> {
    proposals::propose(pool, "restore_end", None, reason).await
}

pub async fn point(pool: &PgPool) -> Result<Option<DateTime<Utc>>, sqlx::Error> {
    sqlx::query_scalar("select restored_to from noshi.server_seen").fetch_one(pool).await
}
