//! What a person's word about money waits for: proposals, which a second person confirms.

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::Serialize;

use crate::db::{ActError, PgPool, in_time};

/// What became of a proposal at once.
#[derive(Debug, Clone, Serialize, sqlx::FromRow)]
pub struct Proposed {
    /// Its number; a second person confirms it. `None`: the owner's cap lets one person do so much alone, and it is done.
    #[sqlx(rename = "made")]
    pub proposal: Option<i64>,
    /// What was done.
    pub done: Option<String>,
}

/// Proposes what concerns the whole database.
pub async fn propose(pool: &PgPool, act: &str, to: Option<DateTime<Utc>>, reason: &str) -> Result<Proposed, ActError> {
    const PROPOSE: &str = "select made, done from noshi.propose($1, null, null, $2, $3)";
    // As many rows as there are unfinished writes.
    in_time(pool, async |c| sqlx::query_as(PROPOSE).bind(act).bind(to).bind(reason).fetch_one(c).await).await
}

/// A proposal, as a second person reads it.
#[derive(Debug, Clone, Serialize, JsonSchema, sqlx::FromRow)]
pub struct Proposal {
    #[sqlx(rename = "id")]
    pub proposal: i64,
    /// Such as attest_void.
    pub act: String,
    /// What the act does, in a sentence.
    pub what: String,
    /// job/7, or database.
    pub target: String,
    pub kind: Option<String>,
    /// The job's own id.
    pub key: Option<String>,
    /// Where the job stood.
    pub at: Option<String>,
    /// Whether it was in doubt what became of its last call.
    pub in_doubt: Option<bool>,
    /// Of a restore: its point.
    pub restored_to: Option<DateTime<Utc>>,
    /// In minor units.
    pub amount: Option<i64>,
    pub currency: Option<String>,
    pub reason: String,
    pub proposed_by: String,
    pub proposed_at: DateTime<Utc>,
    /// Too old to be confirmed from then on.
    pub expires_at: DateTime<Utc>,
    /// In hex, of all that says what will be done.
    pub digest: String,
    /// open, expired, confirmed, refused or lapsed.
    pub status: String,
    pub decided_by: Option<String>,
    pub decided_at: Option<DateTime<Utc>>,
    pub decision_reason: Option<String>,
}

const LIST: &str = "select p.id, p.act, w.what, p.target, p.kind, p.key, p.at, p.in_doubt, p.restored_to, p.amount, nullif(p.currency, '') as currency,
    p.reason, p.proposed_by, p.proposed_at, p.expires_at, encode(p.digest, 'hex') as digest,
    coalesce(p.decision, case when p.expires_at <= clock_timestamp() then 'expired' else 'open' end) as status,
    p.decided_by, p.decided_at, p.decision_reason
from noshi.proposal p join noshi.word_act w on w.act = p.act
where ($1::bigint is null or p.id = $1) and ($2::text is null or p.target = $2) and (not $3 or p.decision is null)
order by p.id desc limit $4";

/// The newest first.
pub async fn list(pool: &PgPool, open: bool, most: i64) -> Result<Vec<Proposal>, sqlx::Error> {
    sqlx::query_as(LIST).bind(None::<i64>).bind(None::<&str>).bind(open).bind(most).fetch_all(pool).await
}

pub async fn one(pool: &PgPool, proposal: i64) -> Result<Option<Proposal>, sqlx::Error> {
    sqlx::query_as(LIST).bind(proposal).bind(None::<&str>).bind(false).bind(1_i64).fetch_optional(pool).await
}

/// What waits for a second person at this target, such as job/7.
pub async fn waiting_at(pool: &PgPool, target: &str) -> Result<Option<Proposal>, sqlx::Error> {
    sqlx::query_as(LIST).bind(None::<i64>).bind(target).bind(true).bind(1_i64).fetch_optional(pool).await
}

/// In the name of whoever is behind the connection, over the digest of what that person has read. What was done.
pub async fn confirm(pool: &PgPool, proposal: i64, digest: &[u8], reason: &str) -> Result<String, ActError> {
    const CONFIRM: &str = "select noshi.confirm_proposal($1, $2, $3)";
    in_time(pool, async |c| sqlx::query_scalar(CONFIRM).bind(proposal).bind(digest).bind(reason).fetch_one(c).await)
        .await
}

pub async fn refuse(pool: &PgPool, proposal: i64, reason: &str) -> Result<(), ActError> {
    sqlx::query("select noshi.refuse_proposal($1, $2)").bind(proposal).bind(reason).execute(pool).await?;
    Ok(())
}

/// How much one person may do alone within 24 hours.
#[derive(Debug, Clone, Serialize, sqlx::FromRow)]
pub struct Cap {
    /// `""`: acts on what is worth nothing in itself, which are counted.
    pub currency: String,
    pub alone: i64,
    /// Alone or with whomever; `None`: any.
    pub most: Option<i64>,
    pub set_by: String,
}

pub async fn caps(pool: &PgPool) -> Result<Vec<Cap>, sqlx::Error> {
    const CAPS: &str =
        "select distinct on (currency) currency, alone, most, set_by from noshi.word_cap order by currency, id desc";
    sqlx::query_as(CAPS).fetch_all(pool).await
}

/// The schema's owner alone may.
pub async fn set_cap(pool: &PgPool, currency: &str, alone: i64, most: Option<i64>) -> Result<(), ActError> {
    const SET_CAP: &str = "insert into noshi.word_cap (currency, alone, most) values ($1, $2, $3)";
    sqlx::query(SET_CAP).bind(currency).bind(alone).bind(most).execute(pool).await?;
    Ok(())
}
