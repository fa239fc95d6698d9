//! What several rows have in common.

use std::time::Duration;

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
