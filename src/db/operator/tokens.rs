//! Tokens of the HTTP interface. Of a secret only digests are ever here.

use std::{fmt, time::Duration};

use chrono::{DateTime, Utc};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use sha2::{Digest, Sha256};
use sqlx::FromRow;

use crate::db::{ActError, PgConnection, PgPool, Transaction, enqueue, interval};

/// What every token begins with, so that a leaked one is known for what it is.
pub const PREFIX: &str = "noshi_";
pub const SCOPES: [&str; 6] = ["enqueue", "read", "operate", "approve", "reveal", "personal"];

/// A token as it was shown, in the form in which the database may see it: its id, a dot, the hex digest of its secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Bearer(String);

/// Who asks for something, and the trace that it belongs to.
#[derive(Debug, Clone)]
pub struct Caller {
    pub bearer: Bearer,
    /// As it was sent: the database ignores it where it is malformed.
    pub traceparent: Option<String>,
}

impl fmt::Debug for Bearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bearer({}, ..)", self.id())
    }
}

impl Bearer {
    /// Reads `noshi_<id>.<secret>`; `None` for anything else.
    pub fn read(token: &str) -> Option<Bearer> {
        let (id, secret) = token.strip_prefix(PREFIX)?.split_once('.')?;
        let word = |text: &str| text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        let whole = id.len() == 12 && word(id) && secret.len() == 64 && word(secret);
        whole.then(|| Bearer(format!("{id}.{}", hex::encode(Sha256::digest(secret)))))
    }

    pub fn id(&self) -> &str {
        self.0.split('.').next().unwrap_or_default()
    }

    /// What the database keeps: the digest of the digest.
    pub fn digest(&self) -> [u8; 32] {
        let secret = self.0.split_once('.').and_then(|(_, digest)| hex::decode(digest).ok()).unwrap_or_default();
        Sha256::digest(secret).into()
    }
}

/// A new token: a random id and a secret of 256 bits. It is shown once.
pub fn generate() -> SecretString {
    const LETTERS: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let id: String = (0..12).map(|_| char::from(LETTERS[rand::random_range(0..LETTERS.len())])).collect();
    SecretString::from(format!("{PREFIX}{id}.{}", hex::encode(rand::random::<[u8; 32]>())))
}

#[derive(Debug, Clone)]
pub struct NewToken<'a> {
    pub owner: &'a str,
    pub scopes: &'a [String],
    pub lasts: Duration,
    pub per_second: i32,
}

/// Makes it known to the database. Returns its id, and when it ends.
pub async fn create(
    pool: &PgPool,
    token: &SecretString,
    new: &NewToken<'_>,
) -> Result<(String, DateTime<Utc>), ActError> {
    const CREATE: &str = "select noshi.create_token($1, $2, $3, $4, $5, $6)";
    let Some(bearer) = Bearer::read(token.expose_secret()) else { unreachable!("a token of our own making reads") };
    let until = sqlx::query_scalar(CREATE)
        .bind(bearer.id())
        .bind(bearer.digest().as_slice())
        .bind(new.owner)
        .bind(new.scopes)
        .bind(interval(new.lasts))
        .bind(new.per_second)
        .fetch_one(pool)
        .await?;
    Ok((bearer.id().to_owned(), until))
}

pub async fn revoke(pool: &PgPool, id: &str, reason: &str) -> Result<(), ActError> {
    const REVOKE: &str = "select noshi.revoke_token($1, $2)";
    sqlx::query(REVOKE).bind(id).bind(reason).execute(pool).await?;
    Ok(())
}

/// A token as its operators see it.
#[derive(Debug, Clone, Serialize, FromRow)]
pub struct Listed {
    pub id: String,
    pub owner: String,
    pub scopes: Vec<String>,
    pub per_second: i32,
    pub state: String,
    pub created_by: String,
    pub created_at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
    pub revoked_by: Option<String>,
    pub last_used_at: Option<DateTime<Utc>>,
    /// Of a session of the console: the token that it was begun with.
    pub parent: Option<String>,
}

const LIST: &str =
    "select id, owner, scopes, per_second, created_by, created_at, expires_at, revoked_by, last_used_at, parent,
    case when revoked_at is not null then 'revoked' when expires_at <= clock_timestamp() then 'expired'
        when not noshi.is_theirs(t.login, t.owner, t.as_operator) then 'login gone'
        when not noshi.session_holds(t.parent, t.last_used_at) then 'ended' else 'good' end as state
from noshi.token t order by created_at desc";

pub async fn list(pool: &PgPool) -> Result<Vec<Listed>, ActError> {
    Ok(sqlx::query_as(LIST).fetch_all(pool).await?)
}

/// What a token may do.
#[derive(Debug, Clone, FromRow)]
pub struct Known {
    pub id: String,
    pub owner: String,
    pub scopes: Vec<String>,
    pub per_second: i32,
}

/// Looks a token up, and notes that it was used. `None`: it is unknown, expired or revoked.
pub async fn use_token(pool: &PgPool, bearer: &Bearer) -> Result<Option<Known>, sqlx::Error> {
    const USE: &str = "select id, owner, scopes, per_second from noshi.use_token()";
    let mut transaction = by(pool, bearer).await?;
    match sqlx::query_as(USE).fetch_optional(&mut *transaction).await {
        Ok(known) => transaction.commit().await.map(|()| known),
        Err(error) if code(&error).as_deref() == Some("NS401") => Ok(None),
        Err(error) => Err(error),
    }
}

/// A session of the console. It is a token, so everything that holds of a token holds of it.
#[derive(Debug, Clone, FromRow)]
pub struct Session {
    pub id: String,
    pub owner: String,
    pub scopes: Vec<String>,
    pub begun_at: DateTime<Utc>,
    pub ends_at: DateTime<Utc>,
}

/// Begins a session in exchange for a token. `None`: the token is unknown, or not for this.
pub async fn begin_session(pool: &PgPool, shown: &Bearer) -> Result<Option<SecretString>, sqlx::Error> {
    const BEGIN: &str = "select noshi.begin_session($1, $2)";
    let token = generate();
    let Some(session) = Bearer::read(token.expose_secret()) else { unreachable!("a token of our own making reads") };
    let mut transaction = by(pool, shown).await?;
    let begun =
        sqlx::query(BEGIN).bind(session.id()).bind(session.digest().as_slice()).execute(&mut *transaction).await;
    match begun {
        Ok(_) => transaction.commit().await.map(|()| Some(token)),
        Err(error) if matches!(code(&error).as_deref(), Some("NS401" | "NS403")) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The session of this bearer, if it holds. `used`: a person is there.
pub async fn session(pool: &PgPool, bearer: &Bearer, used: bool) -> Result<Option<Session>, sqlx::Error> {
    const SESSION: &str = "select id, owner, scopes, begun_at, ends_at from noshi.session($1)";
    let mut transaction = by(pool, bearer).await?;
    match sqlx::query_as(SESSION).bind(used).fetch_optional(&mut *transaction).await {
        Ok(session) => transaction.commit().await.map(|()| session),
        Err(error) if code(&error).as_deref() == Some("NS401") => Ok(None),
        Err(error) => Err(error),
    }
}

pub async fn end_session(pool: &PgPool, bearer: &Bearer) -> Result<(), sqlx::Error> {
    let mut transaction = by(pool, bearer).await?;
    sqlx::query("select noshi.end_session()").execute(&mut *transaction).await?;
    transaction.commit().await
}

/// A transaction to which this token is shown.
async fn by(pool: &PgPool, bearer: &Bearer) -> Result<Transaction, sqlx::Error> {
    let mut transaction = pool.begin().await?;
    sqlx::query("select set_config('noshi.token', $1, true)").bind(&bearer.0).execute(&mut *transaction).await?;
    Ok(transaction)
}

/// A transaction in which everything is done by this token, which must have the scope.
pub async fn begin(pool: &PgPool, caller: &Caller, scope: &str) -> Result<Transaction, sqlx::Error> {
    const ACT_BY: &str = "select noshi.act_by($1, $2)";
    let mut transaction = pool.begin().await?;
    sqlx::query(ACT_BY).bind(&caller.bearer.0).bind(scope).execute(&mut *transaction).await?;
    if let Some(traceparent) = &caller.traceparent {
        enqueue::belong_to(&mut transaction, traceparent).await?;
    }
    Ok(transaction)
}

/// Every transaction of this connection is done by this token.
pub(in crate::db) async fn show(connection: &mut PgConnection, caller: &Caller) -> Result<(), sqlx::Error> {
    const SHOW: &str =
        "select set_config('noshi.token', $1, false), set_config('noshi.traceparent', coalesce($2, ''), false)";
    sqlx::query(SHOW).bind(&caller.bearer.0).bind(&caller.traceparent).execute(connection).await.map(|_| ())
}

fn code(error: &sqlx::Error) -> Option<String> {
    error.as_database_error().and_then(|error| error.code()).map(|code| code.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_reads_and_shows_nothing_of_its_secret() {
        let token = generate();
        let text = token.expose_secret();
        let bearer = Bearer::read(text).unwrap();
        let secret = text.split_once('.').unwrap().1;
        assert_eq!((secret.len(), bearer.digest().len()), (64, 32));
        assert!(!format!("{bearer:?} {}", bearer.0).contains(secret));
        assert_ne!(generate().expose_secret(), text);
        for bad in ["", "noshi_", "noshi_abc.def", &text[1..], &text[..80], &text.to_uppercase(), &format!("{text}0")] {
            assert!(Bearer::read(bad).is_none(), "{bad}");
        }
    }
}
