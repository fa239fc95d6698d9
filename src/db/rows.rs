//! What several rows have in common.

use std::time::Duration;

use sqlx::postgres::types::PgInterval;

/// What is sealed, as its columns have it.
pub fn sealed(row: &sqlx::postgres::PgRow) -> Result<noshi_jobs::gift_issuance::Sealed, sqlx::Error> {
    use sqlx::Row;
    Ok(noshi_jobs::gift_issuance::Sealed {
        key_id: row.try_get("key_id")?,
        nonce: row.try_get("nonce")?,
        ciphertext: row.try_get("ciphertext")?,
    })
}

/// Seconds as the database gives them.
pub fn seconds(value: f64) -> Duration {
    Duration::try_from_secs_f64(value.max(0.0)).unwrap_or_default()
}

/// A span as PostgreSQL has it. sqlx takes no `Duration` that is not whole microseconds, and refuses the statement: what a partner's date or a
/// clock of this machine is made of never is.
pub(in crate::db) fn interval(span: Duration) -> PgInterval {
    let microseconds = i64::try_from(span.as_micros()).unwrap_or(i64::MAX);
    PgInterval { months: 0, days: 0, microseconds }
}
