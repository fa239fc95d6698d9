//! Points: what is read of the ledger. Its operations are functions of the database, called by the jobs of points.

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::Serialize;
use sqlx::{Executor, PgExecutor};

use crate::db::PgPool;

/// An entry of a user's history.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow, Serialize, JsonSchema)]
pub struct PointEntry {
    /// Of the user's entries the first, the second, and so on.
    pub seq: i64,
    pub at: DateTime<Utc>,
    pub recorded_at: DateTime<Utc>,
    /// grant, use, reverse, expire or withdraw.
    pub kind: String,
    /// What it changed.
    pub amount: i64,
    /// What there was after it.
    pub balance: i64,
    pub key: String,
    pub entry: i64,
    pub benefit: Option<String>,
    pub source: Option<String>,
    /// Of a grant.
    pub expires_at: Option<DateTime<Utc>>,
    /// Where points were used, or where those granted are good; nowhere in particular where there is none.
    pub area: Option<String>,
    /// Key of the use that was taken back.
    pub reverses: Option<String>,
    pub job: Option<i64>,
}

/// Points that expire together.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow, Serialize, JsonSchema)]
#[schemars(rename = "ExpiringPoints")]
pub struct Expiring {
    pub expires_at: DateTime<Utc>,
    pub area: Option<String>,
    pub points: i64,
}

/// An equation of the ledger that does not hold.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow, Serialize, JsonSchema)]
pub struct LedgerFault {
    pub equation: String,
    pub subject: String,
    pub fault: String,
}

const BALANCE: &str = "select noshi.point_balance($1, $2, $3)";
const HISTORY: &str = "select * from noshi.point_history($1, $2, $3)";
const EXPIRING: &str =
    "select * from noshi.points_expiring($1, coalesce($2, coalesce($3, clock_timestamp()) + interval '90 days'), $3)";
const VERIFY: &str = "select * from noshi.verify_points() union all select * from noshi.verify_exchanges()";
/// All rows of all years are read.
const TAKE_TIME: &str = "set local statement_timeout = '2h'";
const TIME: std::time::Duration = std::time::Duration::from_secs(2 * 60 * 60 + 10);

/// What a user may spend at an instant (now, where none is given), in an area or without one.
pub async fn balance(
    executor: impl PgExecutor<'_>,
    user: &str,
    at: Option<DateTime<Utc>>,
    area: Option<&str>,
) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(BALANCE).bind(user).bind(at).bind(area).fetch_one(executor).await
}

/// The newest entries before one of the user's numbers, or the newest of all; 1,000 at most.
pub async fn history(
    executor: impl PgExecutor<'_>,
    user: &str,
    before: Option<i64>,
    limit: i32,
) -> Result<Vec<PointEntry>, sqlx::Error> {
    sqlx::query_as(HISTORY).bind(user).bind(before).bind(limit).fetch_all(executor).await
}

/// What a user has at an instant (now, where none is given) and loses after it, up to another, or within 90 days.
pub async fn expiring(
    executor: impl PgExecutor<'_>,
    user: &str,
    before: impl Into<Option<DateTime<Utc>>>,
    at: Option<DateTime<Utc>>,
) -> Result<Vec<Expiring>, sqlx::Error> {
    sqlx::query_as(EXPIRING).bind(user).bind(before.into()).bind(at).fetch_all(executor).await
}

/// Computes every equation of the ledger again, from all of it. Empty: they hold.
pub async fn verify(pool: &PgPool) -> Result<Vec<LedgerFault>, sqlx::Error> {
    let mut transaction = pool.begin().await?;
    transaction.execute(TAKE_TIME).await?;
    transaction.lengthen(TIME);
    let faults = sqlx::query_as(VERIFY).fetch_all(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(faults)
}

const GRANT_DUE: &str = "select count(*) from unnest($1::text[]) with ordinality as u(user_id, n),
    noshi.book_grant(clock_timestamp() - interval '1 year', 'acquire:last_year:' || u.n, u.user_id, $2, 'last_year', u.n::text,
        clock_timestamp() - interval '1 day', null, null)";

/// Points of a year ago that are due since yesterday, for what simulates a past; the login must own the schema.
pub async fn grant_due(pool: &PgPool, users: &[String], points: i64) -> Result<(), sqlx::Error> {
    sqlx::query(GRANT_DUE).bind(users).bind(points).execute(pool).await.map(drop)
}

/// The totals of the ledger, and what became of exchanges.
#[derive(Debug, Default, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Books {
    /// Entries of grants, expiries and uses.
    pub granted: i64,
    pub expired: i64,
    pub used: i64,
    /// Exchanges that failed for want of points.
    pub poor: i64,
    /// Exchanges whose gift is issued and whose points are used; whose gift failed and whose points are back; whose gift needs an operator.
    pub gifts: i64,
    pub returned: i64,
    pub asking: i64,
}

const BOOKS: &str = "with exchanges as (
    select g.status, r.id is not null as returned from noshi.point_entry u
    join noshi.job g on g.kind = 'gift_issuance' and g.key = 'exchange/' || substr(u.key, 5)
    left join noshi.point_entry r on r.reverses = u.id where u.kind = 'use')
select (select count(*) from noshi.point_entry where kind = 'grant') as granted, (select count(*) from noshi.point_entry where kind = 'expire') as expired,
    (select count(*) from noshi.point_entry where kind = 'use') as used,
    (select count(*) from noshi.job where kind = 'point_exchange' and code = 'points_insufficient') as poor,
    (select count(*) from exchanges where status = 'completed' and not returned) as gifts,
    (select count(*) from exchanges where status = 'failed' and returned) as returned,
    (select count(*) from exchanges where status = 'needs_operator' and not returned) as asking";

pub async fn books(pool: &PgPool) -> Result<Books, sqlx::Error> {
    sqlx::query_as(BOOKS).fetch_one(pool).await
}
