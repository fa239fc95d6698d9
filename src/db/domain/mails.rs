//! E-mail: recipients about to be sent to, suppression, events and what they tell, and the account's quota.

use std::time::Duration;

use chrono::{DateTime, Utc};
use noshi_jobs::{email::Fate, gift_issuance::Sealed};
use sqlx::Row;

use crate::db::{PgConnection, PgPool, interval, queue::lanes::Budget};

/// The sealed name and address of a recipient, with the grant that it is sealed for.
#[derive(Debug)]
pub struct Recipient {
    pub grant: String,
    pub sealed: Sealed,
    /// What tells the message from every other, of other installations too.
    pub mark: String,
}

const RECIPIENT: &str =
    "select r.grant_id, r.key_id, r.nonce, r.ciphertext, noshi.mail_mark(j.id, j.key, j.created_at) as mark
from noshi.sealed_recipient($1, $2) r join noshi.job j on j.id = $1";

/// The recipient of a message that this worker holds; `None` where none is kept.
pub async fn recipient(connection: &mut PgConnection, job: i64, worker: i64) -> Result<Option<Recipient>, sqlx::Error> {
    let row = sqlx::query(RECIPIENT).bind(job).bind(worker).fetch_optional(connection).await?;
    let read = |row: sqlx::postgres::PgRow| {
        let sealed = crate::db::sealed(&row)?;
        Ok(Recipient { grant: row.try_get("grant_id")?, sealed, mark: row.try_get("mark")? })
    };
    row.map(read).transpose()
}

const IS_SUPPRESSED: &str = "select exists (select from noshi.suppression where digest = any($1))";

/// Whether an address is suppressed, by its digests under every key in use.
pub async fn is_suppressed(connection: &mut PgConnection, digests: &[[u8; 32]]) -> Result<bool, sqlx::Error> {
    let digests: Vec<&[u8]> = digests.iter().map(<[u8; 32]>::as_slice).collect();
    sqlx::query_scalar(IS_SUPPRESSED).bind(digests).fetch_one(connection).await
}

// Events of sends whose fate was settled before say nothing about this one. A bounce for good outweighs that it went out; one for now, such as
// an out-of-office reply, says that it did.
const FATE: &str = "select case when e.event = 'bounce' and e.detail like 'Transient/%' then 'send' else e.event end as event, e.message
from noshi.email_event e join noshi.job j on j.id = e.job
where e.job = $1 and e.received_at >= coalesce(j.called_at, '-infinity')
  and e.event in ('bounce', 'reject', 'rendering_failure', 'send', 'delivery', 'delivery_delay', 'complaint', 'open', 'click', 'subscription')
order by case when e.event = 'bounce' and coalesce(e.detail, '') not like 'Transient/%' then 0 when e.event in ('reject', 'rendering_failure') then 1 else 2 end,
    e.received_at limit 1";

/// What the events tell about the sends that are in doubt.
pub async fn fate(connection: &mut PgConnection, job: i64) -> Result<Fate, sqlx::Error> {
    let Some(row) = sqlx::query(FATE).bind(job).fetch_optional(connection).await? else { return Ok(Fate::Silent) };
    Ok(match row.try_get::<String, _>("event")?.as_str() {
        "bounce" => Fate::Bounced,
        "reject" | "rendering_failure" => Fate::Rejected,
        _ => Fate::Sent(row.try_get::<Option<String>, _>("message")?.unwrap_or_else(|| "event".to_owned())),
    })
}

/// An event as the API keeps it. No address is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEvent {
    /// The sender's id of the notification.
    pub id: String,
    pub job: Option<i64>,
    /// What tells the message from every other, if the event carries it.
    pub mark: Option<String>,
    /// It says itself that it is about another installation's message.
    pub foreign: bool,
    /// Some part of it was not understood.
    pub unread: bool,
    pub event: String,
    pub message: Option<String>,
    pub happened_at: Option<DateTime<Utc>>,
    pub detail: Option<String>,
}

const RECORD: &str = "select noshi.record_email_event($1, $2, $3, $4, $5, $6, $7, $8, $9)";

/// Whose an event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// It was here already.
    Again,
    /// About a message of ours.
    Ours,
    /// About a message of another installation.
    Foreign,
    /// About none that it names.
    Other,
}

/// Keeps an event, and makes the job that waits for it due.
pub async fn record_event(connection: &mut PgConnection, event: &NewEvent) -> Result<Heard, sqlx::Error> {
    let heard: String = sqlx::query_scalar(RECORD)
        .bind(&event.id)
        .bind(event.job)
        .bind(&event.mark)
        .bind(event.foreign)
        .bind(event.unread)
        .bind(&event.event)
        .bind(&event.message)
        .bind(event.happened_at)
        .bind(&event.detail)
        .fetch_one(connection)
        .await?;
    Ok(match heard.as_str() {
        "again" => Heard::Again,
        "ours" => Heard::Ours,
        "foreign" => Heard::Foreign,
        _ => Heard::Other,
    })
}

/// An address about to be suppressed, sealed by who cannot digest it.
#[derive(Debug)]
pub struct Suppress<'a> {
    pub id: &'a str,
    pub reason: &'static str,
    pub event: &'a str,
    pub sealed: &'a Sealed,
}

const SUPPRESS: &str = "select noshi.suppress_address($1, $2, $3, $4, $5, $6)";

/// It is found once a worker has digested it.
pub async fn suppress(connection: &mut PgConnection, address: &Suppress<'_>) -> Result<(), sqlx::Error> {
    sqlx::query(SUPPRESS)
        .bind(address.id)
        .bind(address.reason)
        .bind(address.event)
        .bind(&address.sealed.key_id)
        .bind(&address.sealed.nonce)
        .bind(&address.sealed.ciphertext)
        .execute(connection)
        .await
        .map(drop)
}

const UNDIGESTED: &str = "select id, key_id, nonce, ciphertext from noshi.undigested_addresses($1)";

/// The next suppressed addresses without a digest that these keys open, by their ids. They are this transaction's own.
pub async fn undigested(connection: &mut PgConnection, keys: &[String]) -> Result<Vec<(String, Sealed)>, sqlx::Error> {
    let rows = sqlx::query(UNDIGESTED).bind(keys).fetch_all(connection).await?;
    rows.iter().map(|row| Ok((row.try_get("id")?, crate::db::sealed(row)?))).collect()
}

const DIGEST: &str = "select noshi.digest_address($1, $2, $3)";

/// Digests under every key in use, the newest first. False: the address was suppressed before.
pub async fn digest(
    connection: &mut PgConnection,
    id: &str,
    digests: &[[u8; 32]],
    key_id: &str,
) -> Result<bool, sqlx::Error> {
    let digests: Vec<&[u8]> = digests.iter().map(<[u8; 32]>::as_slice).collect();
    sqlx::query_scalar(DIGEST).bind(id).bind(digests).bind(key_id).fetch_one(connection).await
}

const REDIGEST: &str = "update noshi.suppression set digest = $2, key_id = $3 where id = $1";

/// For key rotation, in the transaction that seals the address again.
pub async fn replace_digest(
    connection: &mut PgConnection,
    id: &str,
    digest: &[u8; 32],
    key_id: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query(REDIGEST).bind(id).bind(digest.as_slice()).bind(key_id).execute(connection).await.map(drop)
}

const DECLARE_LANE: &str = "insert into noshi.lane (name) values ($1) on conflict do nothing";
const DECLARE_QUOTA: &str = "insert into noshi.email_quota (lane) values ($1) on conflict do nothing";
const FIRST_BUDGET: &str = "insert into noshi.lane_budget (lane, per, calls, burst, jitter) values ($1, $2, $3, $4, $5)
on conflict do nothing";

/// Makes sure that a lane exists whose budgets its service tells; what it has told stays.
pub async fn declare(pool: &PgPool, lane: &str, first: &[Budget]) -> Result<(), sqlx::Error> {
    let mut transaction = pool.begin().await?;
    sqlx::query(DECLARE_LANE).bind(lane).execute(&mut *transaction).await?;
    sqlx::query(DECLARE_QUOTA).bind(lane).execute(&mut *transaction).await?;
    for budget in first {
        sqlx::query(FIRST_BUDGET)
            .bind(lane)
            .bind(interval(budget.per))
            .bind(i32::try_from(budget.calls).unwrap_or(i32::MAX))
            .bind(i32::try_from(budget.burst).unwrap_or(i32::MAX))
            .bind(interval(budget.jitter))
            .execute(&mut *transaction)
            .await?;
    }
    transaction.commit().await
}

const CLAIM_QUESTION: &str = "update noshi.email_quota set asked_at = clock_timestamp()
where lane = $1 and (asked_at <= clock_timestamp() - $2::interval or asked_at > clock_timestamp() + interval '1 minute') returning lane";

/// Whether it is this process' turn to ask for the quota: one of the fleet does, once in `every`.
pub async fn claim_question(pool: &PgPool, lane: &str, every: Duration) -> Result<bool, sqlx::Error> {
    Ok(sqlx::query(CLAIM_QUESTION).bind(lane).bind(interval(every)).fetch_optional(pool).await?.is_some())
}

/// What an account may send, as its service told it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SendQuota {
    pub per_second: f64,
    pub per_day: f64,
    pub sent: f64,
}

const KEEP_TOLD: &str = "update noshi.email_quota set per_second = $2::float8, per_day = $3::float8, sent = $4::float8,
told_at = clock_timestamp() where lane = $1";
// What was sent is in the number that was told, so the budget of what is left begins anew.
const RENEW_BUDGET: &str = "update noshi.lane_budget set calls = $3, burst = $4,
tat = case when $5 then clock_timestamp() else tat end where lane = $1 and per = $2";
const CLOSE_FOR: &str =
    "update noshi.lane set closed_until = greatest(closed_until, clock_timestamp() + $2) where name = $1";

/// Sets a lane's budgets to what was told: the rate per second, and what is left of the day. With nothing left the lane
/// closes for `pause`.
pub async fn renew_budgets(pool: &PgPool, lane: &str, told: SendQuota, pause: Duration) -> Result<(), sqlx::Error> {
    let mut transaction = pool.begin().await?;
    let SendQuota { per_second, per_day, sent } = told;
    sqlx::query(KEEP_TOLD).bind(lane).bind(per_second).bind(per_day).bind(sent).execute(&mut *transaction).await?;
    let left = per_day - sent;
    let calls = whole(left);
    for (per, calls, burst, anew) in [
        (Duration::from_secs(1), whole(per_second), 1, false),
        (Duration::from_secs(24 * 60 * 60), calls, (calls / 2).max(1), true),
    ] {
        let renew = sqlx::query(RENEW_BUDGET).bind(lane).bind(interval(per)).bind(calls).bind(burst).bind(anew);
        renew.execute(&mut *transaction).await?;
    }
    if left < 1.0 || per_second <= 0.0 {
        crate::db::queue::lanes::obey(&mut *transaction, lane).await?;
        sqlx::query(CLOSE_FOR).bind(lane).bind(interval(pause)).execute(&mut *transaction).await?;
    }
    transaction.commit().await
}

/// A number of calls: whole, and at least one.
#[expect(clippy::cast_possible_truncation, reason = "clamped to what an integer holds")]
fn whole(number: f64) -> i32 {
    number.floor().clamp(1.0, 1e9) as i32
}
