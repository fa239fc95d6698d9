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

/// What was done after the point of the restore is known again.
pub async fn end(pool: &PgPool, reason: &str) -> Result<(), ActError> {
    sqlx::query("select noshi.end_restored($1)").bind(reason).execute(pool).await?;
    Ok(())
}

pub async fn point(pool: &PgPool) -> Result<Option<DateTime<Utc>>, sqlx::Error> {
    sqlx::query_scalar("select restored_to from noshi.server_seen").fetch_one(pool).await
}
