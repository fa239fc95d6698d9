//! What the jobs of points book in the ledger: each call names its job, and the database reads there what to book.

use noshi_jobs::{Problem, point_expiry::Page, point_reversal::Returning, points::Booked};

use crate::db::PgConnection;

/// Lots that are closed in one transaction.
const LOTS: i32 = 1_000;

type Row = (Option<i64>, Option<String>, Option<String>);

/// No row: the job is not this worker's any more, as its settle will find. Whatever is said then is not recorded.
fn booked(row: Option<Row>) -> Booked {
    match row.unwrap_or_default() {
        (Some(entry), None, _) => Booked::Entry(entry),
        (_, code, detail) => {
            let why = code.as_deref().and_then(Problem::from_code).unwrap_or(Problem::PointsConflict);
            Booked::Refused(why, detail.unwrap_or_default())
        }
    }
}

pub async fn grant(connection: &mut PgConnection, job: i64) -> Result<Booked, sqlx::Error> {
    const GRANT: &str = "select entry, code, detail from noshi.grant_points($1)";
    let row = sqlx::query_as(GRANT).bind(job).fetch_optional(connection).await?;
    Ok(booked(row))
}

pub async fn use_points(connection: &mut PgConnection, job: i64) -> Result<Booked, sqlx::Error> {
    const USE: &str = "select entry, code, detail from noshi.use_points($1)";
    let row = sqlx::query_as(USE).bind(job).fetch_optional(connection).await?;
    Ok(booked(row))
}

pub async fn return_points(connection: &mut PgConnection, job: i64) -> Result<Returning, sqlx::Error> {
    const RETURN: &str = "select noshi.return_points($1)";
    let entry: Option<i64> = sqlx::query_scalar(RETURN).bind(job).fetch_one(connection).await?;
    Ok(entry.map_or(Returning::Refused, Returning::Returned))
}

pub async fn withdraw(connection: &mut PgConnection, job: i64) -> Result<i64, sqlx::Error> {
    const WITHDRAW: &str = "select noshi.withdraw_points($1)";
    let entry: Option<i64> = sqlx::query_scalar(WITHDRAW).bind(job).fetch_one(connection).await?;
    Ok(entry.unwrap_or_default())
}

pub async fn expire_page(connection: &mut PgConnection, job: i64) -> Result<Page, sqlx::Error> {
    const EXPIRE: &str = "select lots, points, more from noshi.expire_points($1, $2)";
    crate::db::take_time(&mut *connection).await?;
    let page: Option<(i32, i64, bool)> = sqlx::query_as(EXPIRE).bind(job).bind(LOTS).fetch_optional(connection).await?;
    Ok(match page {
        None => Page::NoInstant,
        Some((0, _, true)) => Page::Busy,
        Some((0, _, false)) => Page::NothingLeft,
        Some((lots, points, _)) => Page::Closed { lots: lots.into(), points },
    })
}
