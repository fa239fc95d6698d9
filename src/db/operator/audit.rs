//! The audit: what operators did, as the database keeps it, and whether its chain is whole.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use sqlx::{Row, postgres::PgRow};

use crate::db::{ActError, PgPool, interval, take_time};

/// An act that somebody did.
#[derive(Debug, Clone, Serialize)]
pub struct Done {
    pub id: i64,
    pub happened_at: DateTime<Utc>,
    pub who: String,
    pub login: String,
    pub token: Option<String>,
    pub act: String,
    pub target: String,
    pub reason: Option<String>,
    pub before: Option<Value>,
    pub after: Option<Value>,
}

/// Which acts; what is not said is any.
#[derive(Debug, Clone, Default)]
pub struct Which {
    pub who: Option<String>,
    pub act: Option<String>,
    pub target: Option<String>,
    pub since: Option<Duration>,
}

const LIST: &str = "select id, happened_at, who, login, token, act, target, reason, before, after from noshi.audit
where ($1::text is null or who = $1) and ($2::text is null or act = $2) and ($3::text is null or target = $3)
and ($4::interval is null or happened_at > clock_timestamp() - $4) order by id desc limit $5";

/// Writes down an act of the schema's owner, whose acts are no functions of the schema.
pub async fn record(pool: &PgPool, act: &str, target: &str, after: Value) -> Result<(), sqlx::Error> {
    const RECORD: &str = "select noshi.record($1, $2, null, null, $3)";
    let mut transaction = pool.begin().await?;
    // A login that owns the schema does not always inherit its rights.
    sqlx::query("set local role noshi_owner").execute(&mut *transaction).await?;
    sqlx::query(RECORD).bind(act).bind(target).bind(after).execute(&mut *transaction).await?;
    transaction.commit().await
}

/// The latest acts, newest first.
pub async fn list(pool: &PgPool, which: &Which, most: i64) -> Result<Vec<Done>, ActError> {
    let read = |row: PgRow| {
        Ok(Done {
            id: row.try_get("id")?,
            happened_at: row.try_get("happened_at")?,
            who: row.try_get("who")?,
            login: row.try_get("login")?,
            token: row.try_get("token")?,
            act: row.try_get("act")?,
            target: row.try_get("target")?,
            reason: row.try_get("reason")?,
            before: row.try_get("before")?,
            after: row.try_get("after")?,
        })
    };
    let mut transaction = pool.begin().await?;
    take_time(&mut transaction).await?;
    let rows = sqlx::query(LIST)
        .bind(&which.who)
        .bind(&which.act)
        .bind(&which.target)
        .bind(which.since.map(interval))
        .bind(most)
        .fetch_all(&mut *transaction)
        .await?;
    Ok(rows.into_iter().map(read).collect::<Result<_, sqlx::Error>>()?)
}

/// The newest link: whoever keeps it elsewhere can tell later whether the whole chain before it is still the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Head {
    pub seq: i64,
    pub hash: Vec<u8>,
}

/// A place where the chain is not what was written.
#[derive(Debug, Clone, Serialize)]
pub struct Fault {
    pub seq: Option<i64>,
    pub audit: Option<i64>,
    pub fault: String,
}

/// How many acts have no link yet: while they were made somebody held the head of the chain. Those that can be linked now are.
pub async fn unlinked(pool: &PgPool) -> Result<i64, ActError> {
    const LINK: &str = "select noshi.link_waiting_acts()";
    const UNLINKED: &str = "select count(*) from noshi.audit_unlinked";
    sqlx::query(LINK).execute(pool).await?;
    Ok(sqlx::query_scalar(UNLINKED).fetch_one(pool).await?)
}

/// Computes the whole chain again, in one snapshot, and looks for a link that was kept elsewhere.
pub async fn verify(pool: &PgPool, kept: Option<&Head>) -> Result<(Head, Vec<Fault>), ActError> {
    const VERIFY: &str = "select seq, audit, fault from noshi.verify_audit()";
    const HEAD: &str = "select seq, hash from noshi.audit_head";
    const HELD: &str = "select exists (select from noshi.audit_link where seq = $1 and hash = $2)
        or ($1 = 0 and $2 = sha256('noshi'))";
    let mut transaction = pool.begin_with("begin isolation level repeatable read, read only").await?;
    take_time(&mut transaction).await?;
    let rows = sqlx::query(VERIFY).fetch_all(&mut *transaction).await?;
    let read =
        |row: PgRow| Ok(Fault { seq: row.try_get("seq")?, audit: row.try_get("audit")?, fault: row.try_get("fault")? });
    let mut faults: Vec<Fault> = rows.into_iter().map(read).collect::<Result<_, sqlx::Error>>()?;
    let head = sqlx::query(HEAD).fetch_one(&mut *transaction).await?;
    let head = Head { seq: head.try_get("seq")?, hash: head.try_get("hash")? };
    if let Some(kept) = kept {
        let held: bool = sqlx::query_scalar(HELD).bind(kept.seq).bind(&kept.hash).fetch_one(&mut *transaction).await?;
        if !held {
            let fault = "it is not the link that was kept: the chain was written anew, or is of another database";
            faults.push(Fault { seq: Some(kept.seq), audit: None, fault: fault.to_owned() });
        }
    }
    Ok((head, faults))
}
