//! Stores: what is here already, the one insert that makes a store, and what the platform tells of them.

use noshi_jobs::{
    gift_issuance::Sealed,
    store_creation::{Args, Insert},
};
use sqlx::Row;

use super::batches;
use crate::db::{PgConnection, PgPool};

const TURN: &str = "select noshi.take_store_turn($1)";
// What earlier versions took plain stands in the arguments of its job.
const STORE: &str =
    "select s.organization, s.name, s.contact, j.args ->> 'address' as address, j.args ->> 'phone' as phone
from noshi.store s left join noshi.job j on j.id = s.job where s.public_id = $1";
// Of two jobs that are about to begin the older goes first; one that has begun is never overtaken. One that is parked before
// its first state has not begun, and looks again before it does.
const AT_WORK: &str = "select exists (select from noshi.job j
where j.kind = 'store_creation' and j.status not in ('completed', 'failed', 'cancelled')
    and j.args ->> 'public_id' = $1 and j.id <> $2 and ((j.id < $2 and not (j.at = 'new' and j.status = 'needs_operator')) or j.at not in ('new', 'checking')))";

/// A store that is here.
#[derive(sqlx::FromRow)]
pub struct Here {
    pub organization: String,
    pub name: String,
    /// Under which subject its address and phone are sealed.
    pub contact: Option<String>,
    pub address: Option<String>,
    pub phone: Option<String>,
}

/// What stands in the way of a store.
pub enum Found {
    Nothing,
    Store(Here),
    /// Another job of its public id is not done yet.
    Occupied,
    /// Its batch is paused.
    Paused,
}

/// Looked at by one job of its public id at a time.
pub async fn look_up(connection: &mut PgConnection, job: i64, args: &Args) -> Result<Found, sqlx::Error> {
    sqlx::query(TURN).bind(&args.public_id).execute(&mut *connection).await?;
    if let Some(here) = sqlx::query_as(STORE).bind(&args.public_id).fetch_optional(&mut *connection).await? {
        return Ok(Found::Store(here));
    }
    if sqlx::query_scalar(AT_WORK).bind(&args.public_id).bind(job).fetch_one(&mut *connection).await? {
        return Ok(Found::Occupied);
    }
    if batches::is_paused(connection, job).await? {
        return Ok(Found::Paused);
    }
    Ok(Found::Nothing)
}

const CONTACTS: &str = "select subject, key_id, nonce, ciphertext from noshi.sealed_contacts($1, $2)";

/// The sealed address and phone of the store that this worker's job asks for, and of the one that is here, each under its subject.
pub async fn contacts(
    connection: &mut PgConnection,
    job: i64,
    worker: i64,
) -> Result<Vec<(String, Sealed)>, sqlx::Error> {
    let rows = sqlx::query(CONTACTS).bind(job).bind(worker).fetch_all(connection).await?;
    rows.iter().map(|row| Ok((row.try_get("subject")?, crate::db::sealed(row)?))).collect()
}

// The same job again is not a conflict with itself.
const INSERT: &str = "insert into noshi.store (public_id, organization, shop, name, contact, job)
values ($1, $2, $3, $4, $5, $6) on conflict do nothing";
const IS_OURS: &str = "select exists (select from noshi.store where public_id = $1 and shop = $2 and job = $3)";

pub async fn insert(connection: &mut PgConnection, job: i64, args: &Args, shop: &str) -> Result<Insert, sqlx::Error> {
    let inserted = sqlx::query(INSERT)
        .bind(&args.public_id)
        .bind(&args.organization)
        .bind(shop)
        .bind(&args.name)
        .bind(&args.contact)
        .bind(job)
        .execute(&mut *connection)
        .await?
        .rows_affected();
    if inserted == 1 {
        return Ok(Insert::Inserted);
    }
    let ours = sqlx::query_scalar(IS_OURS).bind(&args.public_id).bind(shop).bind(job).fetch_one(connection).await?;
    Ok(if ours { Insert::Inserted } else { Insert::Taken })
}

/// A change of a shop, as the platform tells it.
#[derive(Debug, Clone, Copy)]
pub struct ShopEvent<'a> {
    pub shop: &'a str,
    pub organization: &'a str,
    pub public_id: &'a str,
    pub name: Option<&'a str>,
    pub deleted: bool,
    pub version: i64,
}

const KEEP_SHOP: &str = "select noshi.keep_shop_event($1, $2, $3, $4, $5, $6)";
const KEEP_ORGANIZATION: &str = "select noshi.keep_organization_event($1, $2, $3)";

/// Keeps what an event says of a shop, unless something newer is kept. Whether it was news.
pub async fn keep_shop_event(pool: &PgPool, event: &ShopEvent<'_>) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(KEEP_SHOP)
        .bind(event.shop)
        .bind(event.organization)
        .bind(event.public_id)
        .bind(event.name)
        .bind(event.deleted)
        .bind(event.version)
        .fetch_one(pool)
        .await
}

/// The same of an organisation.
pub async fn keep_organization_event(
    pool: &PgPool,
    organization: &str,
    name: Option<&str>,
    version: i64,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(KEEP_ORGANIZATION).bind(organization).bind(name).bind(version).fetch_one(pool).await
}
