//! What batches may come to, by kind and currency.

use serde::Serialize;

use crate::db::{ActError, PgPool};

/// What a batch of a kind and currency may be; `None` is as before.
#[derive(Debug, Clone, Default)]
pub struct Cap {
    pub kind: String,
    /// Empty for stores.
    pub currency: String,
    pub max_rows: Option<i32>,
    pub max_total: Option<i64>,
    pub max_per_user: Option<i64>,
    pub max_per_day: Option<i64>,
    pub approve_from_rows: Option<i32>,
    pub approve_from_total: Option<i64>,
}

// What is not said stays as it was.
const SET_CAP: &str = "insert into noshi.batch_cap (kind, currency, max_rows, max_total, max_per_user, max_per_day, approve_from_rows,
    approve_from_total, approval_lasts)
select $1, $2, coalesce($3, c.max_rows), coalesce($4, c.max_total), coalesce($5, c.max_per_user), coalesce($6, c.max_per_day),
    coalesce($7, c.approve_from_rows), coalesce($8, c.approve_from_total), coalesce(c.approval_lasts, '24 hours')
from (select 1) one left join lateral noshi.batch_cap_for($1, $2) c on true
returning format('rows %s, total %s, one user in 24 hours %s, all users in 24 hours %s, approval from %s rows or a total of %s',
    coalesce(max_rows::text, 'any'), coalesce(max_total::text, 'any'), coalesce(max_per_user::text, 'any'),
    coalesce(max_per_day::text, 'any'), coalesce(approve_from_rows::text, 'never'), coalesce(approve_from_total::text, 'never'))";

/// Sets the cap that holds from now on, and says what it is; earlier ones stay on record. For the schema's owner only.
pub async fn set_cap(pool: &PgPool, cap: &Cap) -> Result<String, ActError> {
    Ok(sqlx::query_scalar(SET_CAP)
        .bind(&cap.kind)
        .bind(&cap.currency)
        .bind(cap.max_rows)
        .bind(cap.max_total)
        .bind(cap.max_per_user)
        .bind(cap.max_per_day)
        .bind(cap.approve_from_rows)
        .bind(cap.approve_from_total)
        .fetch_one(pool)
        .await?)
}

/// The cap of a kind and currency that holds now. `None` is any, or never.
#[derive(Debug, Clone, Serialize, sqlx::FromRow)]
pub struct Holds {
    pub kind: String,
    pub currency: String,
    pub max_rows: Option<i32>,
    pub max_total: Option<i64>,
    pub max_per_user: Option<i64>,
    pub max_per_day: Option<i64>,
    pub approve_from_rows: Option<i32>,
    pub approve_from_total: Option<i64>,
    pub set_by: String,
    pub set_at: chrono::DateTime<chrono::Utc>,
}

pub async fn caps(pool: &PgPool) -> Result<Vec<Holds>, sqlx::Error> {
    const CAPS: &str = "select distinct on (kind, currency) kind, currency, max_rows, max_total, max_per_user, max_per_day, approve_from_rows,
    approve_from_total, set_by, set_at from noshi.batch_cap order by kind, currency, id desc";
    sqlx::query_as(CAPS).fetch_all(pool).await
}
