//! What the books are compared by: every gift job and every trade, as they stand.

use futures::TryStreamExt;
use sqlx::Row;

use crate::db::PgPool;

/// How many jobs stand in a status, and how many of them are in doubt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    pub status: String,
    pub jobs: u64,
    pub in_doubt: u64,
}

const STANDINGS: &str =
    "select status::text, count(*) as jobs, count(*) filter (where in_doubt) as in_doubt from noshi.job group by 1";

pub async fn standings(pool: &PgPool) -> Result<Vec<Standing>, sqlx::Error> {
    let rows = sqlx::query(STANDINGS).fetch_all(pool).await?;
    rows.iter()
        .map(|row| {
            Ok(Standing {
                status: row.try_get("status")?,
                jobs: row.try_get::<i64, _>("jobs")?.unsigned_abs(),
                in_doubt: row.try_get::<i64, _>("in_doubt")?.unsigned_abs(),
            })
        })
        .collect()
}

/// A gift job.
#[derive(Debug, Clone)]
pub struct GiftJob {
    pub grant: String,
    pub status: String,
    pub code: Option<String>,
    pub in_doubt: bool,
    /// In minor units.
    pub amount: i64,
}

const GIFT_JOBS: &str = "select key, status::text, code, in_doubt, (args #>> '{value,amount}')::bigint as amount
from noshi.job where kind = 'gift_issuance' order by id";

pub async fn gift_jobs(pool: &PgPool) -> Result<Vec<GiftJob>, sqlx::Error> {
    let rows = sqlx::query(GIFT_JOBS).fetch_all(pool).await?;
    rows.iter()
        .map(|row| {
            Ok(GiftJob {
                grant: row.try_get("key")?,
                status: row.try_get("status")?,
                code: row.try_get("code")?,
                in_doubt: row.try_get("in_doubt")?,
                amount: row.try_get::<Option<i64>, _>("amount")?.unwrap_or_default(),
            })
        })
        .collect()
}

/// A trade, with the card that we have written down for it.
#[derive(Debug, Clone)]
pub struct GiftTrade {
    pub id: String,
    pub grant: String,
    pub provider: String,
    pub card: Option<String>,
}

const GIFT_TRADES: &str = "select t.id, t.grant_id, t.provider, o.card from noshi.gift_trade t
left join noshi.gift_outcome o on o.trade = t.id and o.outcome = 'issued' order by t.grant_id, t.generation";

/// All trades, those of a grant in the order in which they were made.
pub async fn gift_trades(pool: &PgPool) -> Result<Vec<GiftTrade>, sqlx::Error> {
    let rows = sqlx::query(GIFT_TRADES).fetch_all(pool).await?;
    rows.iter()
        .map(|row| {
            Ok(GiftTrade {
                id: row.try_get("id")?,
                grant: row.try_get("grant_id")?,
                provider: row.try_get("provider")?,
                card: row.try_get("card")?,
            })
        })
        .collect()
}

/// A store's job.
#[derive(Debug, Clone)]
pub struct StoreJob {
    pub public_id: String,
    pub status: String,
    pub outcome: Option<String>,
}

/// All jobs of stores.
pub async fn store_jobs(pool: &PgPool) -> Result<Vec<StoreJob>, sqlx::Error> {
    const STORE_JOBS: &str = "select args ->> 'public_id' as public_id, status::text, outcome from noshi.job
where kind = 'store_creation' order by id";
    let read = |row: sqlx::postgres::PgRow| {
        Ok(StoreJob {
            public_id: row.try_get("public_id")?,
            status: row.try_get("status")?,
            outcome: row.try_get("outcome")?,
        })
    };
    sqlx::query(STORE_JOBS).fetch_all(pool).await?.into_iter().map(read).collect()
}

/// A store that we have written down.
#[derive(Debug, Clone)]
pub struct StoreRow {
    pub public_id: String,
    /// The organisation platform's id of it.
    pub shop: String,
}

pub async fn stores(pool: &PgPool) -> Result<Vec<StoreRow>, sqlx::Error> {
    const STORES: &str = "select public_id, shop from noshi.store order by public_id";
    let read =
        |row: sqlx::postgres::PgRow| Ok(StoreRow { public_id: row.try_get("public_id")?, shop: row.try_get("shop")? });
    sqlx::query(STORES).fetch_all(pool).await?.into_iter().map(read).collect()
}

/// A message's job, and when its grant was committed, in unix microseconds.
#[derive(Debug, Clone)]
pub struct MailJob {
    pub id: i64,
    pub reference: String,
    pub status: String,
    pub granted_us: Option<u64>,
}

pub async fn mail_jobs(pool: &PgPool) -> Result<Vec<MailJob>, sqlx::Error> {
    const MAIL_JOBS: &str = "select j.id, j.args ->> 'reference' as reference, j.status::text,
    (extract(epoch from b.registered_at) * 1000000)::bigint as granted_us
from noshi.job j left join noshi.batch b on b.id = j.batch where j.kind = 'email' order by j.id";
    let read = |row: sqlx::postgres::PgRow| {
        Ok(MailJob {
            id: row.try_get("id")?,
            reference: row.try_get("reference")?,
            status: row.try_get("status")?,
            granted_us: row.try_get::<Option<i64>, _>("granted_us")?.map(i64::unsigned_abs),
        })
    };
    sqlx::query(MAIL_JOBS).fetch_all(pool).await?.into_iter().map(read).collect()
}

/// Rows of a batch to whose recipients a mail goes.
pub async fn mailed_rows(pool: &PgPool, batch: i64) -> Result<u64, sqlx::Error> {
    const MAILED_ROWS: &str = "select count(*) from noshi.batch_row where batch = $1 and mailed";
    sqlx::query_scalar::<_, i64>(MAILED_ROWS).bind(batch).fetch_one(pool).await.map(i64::unsigned_abs)
}

const RESCUED: &str = "select count(distinct job) from noshi.job_event where event = 'rescued'";

/// Jobs that were taken over from a dead worker.
pub async fn rescued(pool: &PgPool) -> Result<u64, sqlx::Error> {
    sqlx::query_scalar::<_, i64>(RESCUED).fetch_one(pool).await.map(i64::unsigned_abs)
}

const JOBS_AS_JSON: &str = "select to_jsonb(j)::text from noshi.job j order by id";
const JOURNAL_AS_JSON: &str = "select to_jsonb(e)::text from noshi.job_event e order by happened_at, job, step";

/// Every job as a JSON object, one after the other. Jobs hold no codes and no addresses.
pub async fn export_jobs(pool: &PgPool, write: impl FnMut(&str) -> std::io::Result<()>) -> anyhow::Result<()> {
    export(pool, JOBS_AS_JSON, write).await
}

/// Every line of the journal as a JSON object, in the order in which they happened.
pub async fn export_journal(pool: &PgPool, write: impl FnMut(&str) -> std::io::Result<()>) -> anyhow::Result<()> {
    export(pool, JOURNAL_AS_JSON, write).await
}

async fn export(
    pool: &PgPool,
    sql: &'static str,
    mut write: impl FnMut(&str) -> std::io::Result<()>,
) -> anyhow::Result<()> {
    let mut transaction = pool.begin().await?;
    crate::db::take_time(&mut transaction).await?;
    let mut rows = sqlx::query_scalar::<_, String>(sql).fetch(&mut *transaction);
    while let Some(row) = rows.try_next().await? {
        write(&row)?;
    }
    Ok(())
}
