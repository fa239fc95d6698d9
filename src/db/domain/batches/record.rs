//! Who did what with a batch, and what it comes to.

use chrono::{DateTime, Utc};

use crate::db::{ActError, PgPool, in_time};

/// Who submitted, approved and released a batch, and when.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Record {
    pub received_at: DateTime<Utc>,
    pub needs_approval: bool,
    pub approved_at: Option<DateTime<Utc>>,
    pub approved_until: Option<DateTime<Utc>>,
    pub released_by: Option<String>,
    pub released_at: Option<DateTime<Utc>>,
    pub cancelled_at: Option<DateTime<Utc>>,
    pub settled_at: Option<DateTime<Utc>>,
}

pub async fn record(pool: &PgPool, batch: i64) -> Result<Option<Record>, sqlx::Error> {
    const RECORD: &str = "select received_at, needs_approval, approved_at, approved_until, released_by, released_at, cancelled_at, settled_at
from noshi.batch where id = $1";
    sqlx::query_as(RECORD).bind(batch).fetch_optional(pool).await
}

/// What the rows of a batch come to in one currency, in minor units.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Total {
    pub currency: String,
    pub amount: i64,
    pub rows: i64,
    pub users: i64,
}

pub async fn totals(pool: &PgPool, batch: i64) -> Result<Vec<Total>, ActError> {
    const TOTALS: &str =
        "select currency, sum(amount)::bigint as amount, count(*) as rows, count(distinct user_id) as users
from noshi.batch_row where batch = $1 and amount is not null group by currency order by currency";
    in_time(pool, async |c| sqlx::query_as(TOTALS).bind(batch).fetch_all(c).await).await
}
