//! Stores: what is here already, the one insert that makes a store, and what the platform tells of them.

use noshi_jobs::store_creation::{Args, Insert, LookUp};
use sqlx::Row;

use super::batches;
use crate::db::{PgConnection, PgPool};

const TURN: &str = "select noshi.take_store_turn($1)";
const STORE: &str = "select organization, name, address, phone from noshi.store where public_id = $1";
// Of two jobs that are about to begin the older goes first; one that has begun is never overtaken. One that is parked before
// its first state has not begun, and looks again before it does.
const AT_WORK: &str = "select exists (select from noshi.job j
where j.kind = 'store_creation' and j.status not in ('completed', 'failed', 'cancelled')
    and j.args ->> 'public_id' = $1 and j.id <> $2 and ((j.id < $2 and not (j.at = 'new' and j.status = 'needs_operator')) or j.at not in ('new', 'checking')))";

/// What stands in the way of a store, looked at by one job of its public id at a time.
pub async fn look_up(connection: &mut PgConnection, job: i64, args: &Args) -> Result<LookUp, sqlx::Error> {
    sqlx::query(TURN).bind(&args.public_id).execute(&mut *connection).await?;
    if let Some(row) = sqlx::query(STORE).bind(&args.public_id).fetch_optional(&mut *connection).await? {
        let here = [row.try_get("organization")?, row.try_get("name")?, row.try_get("address")?, row.try_get("phone")?];
        return Ok(compare(args, &here));
    }
    if sqlx::query_scalar(AT_WORK).bind(&args.public_id).bind(job).fetch_one(&mut *connection).await? {
        return Ok(LookUp::Occupied);
    }
    if batches::is_paused(connection, job).await? {
        return Ok(LookUp::Paused);
    }
    Ok(LookUp::Free)
}

/// `here`: organization, name, address, phone. An empty field of a file is no field.
fn compare(args: &Args, here: &[Option<String>; 4]) -> LookUp {
    let wanted = [
        ("organization", Some(&args.organization)),
        ("name", Some(&args.name)),
        ("address", args.address.as_ref()),
        ("phone", args.phone.as_ref()),
    ];
    let full = |text: Option<&String>| text.filter(|text| !text.is_empty()).cloned();
    let differing = wanted.into_iter().zip(here).filter(|((_, wanted), here)| full(*wanted) != full(here.as_ref()));
    let names: Vec<&str> = differing.map(|((name, _), _)| name).collect();
    if names.is_empty() { LookUp::Same } else { LookUp::Different(names.join(", ")) }
}

// The same job again is not a conflict with itself.
const INSERT: &str = "insert into noshi.store (public_id, organization, shop, name, address, phone, job)
values ($1, $2, $3, $4, $5, $6, $7) on conflict do nothing";
const IS_OURS: &str = "select exists (select from noshi.store where public_id = $1 and shop = $2 and job = $3)";

pub async fn insert(connection: &mut PgConnection, job: i64, args: &Args, shop: &str) -> Result<Insert, sqlx::Error> {
    let inserted = sqlx::query(INSERT)
        .bind(&args.public_id)
        .bind(&args.organization)
        .bind(shop)
        .bind(&args.name)
        .bind(&args.address)
        .bind(&args.phone)
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
