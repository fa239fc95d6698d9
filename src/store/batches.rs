//! Batches.

use noshi_jobs::bulk_grants::{Announce, Register};
use sqlx::PgConnection;

pub async fn register(_: &mut PgConnection, _: i64) -> Result<Register, sqlx::Error> {
    Ok(Register::Paused)
}

pub async fn announce(_: &mut PgConnection, _: i64, _: i32) -> Result<Announce, sqlx::Error> {
    Ok(Announce::Paused)
}

/// Pauses the batches that these jobs came with.
pub async fn pause_of_jobs(_: &mut PgConnection, _: &[i64], _: &'static str) -> Result<(), sqlx::Error> {
    Ok(())
}
