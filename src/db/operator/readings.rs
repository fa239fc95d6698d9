//! Readings: what is sealed opens in a worker, which seals it anew to a key of whoever asked. Nothing in plain text is ever here.

use std::time::Duration;

use noshi_jobs::gift_issuance::Sealed;
use serde_json::Value;
use sqlx::{Row, postgres::PgRow};

use crate::db::{ActError, PgConnection, PgPool, in_time, sealed, seconds};

/// Asks for the code of a gift, and writes that down. Nothing is shown before the commit.
pub async fn ask_for_code(
    connection: &mut PgConnection,
    grant: &str,
    user: &str,
    reason: &str,
    key: &str,
) -> Result<i64, sqlx::Error> {
    const READ_CODE: &str = "select noshi.read_code($1, $2, $3, $4)";
    sqlx::query_scalar(READ_CODE).bind(grant).bind(user).bind(reason).bind(key).fetch_one(connection).await
}

/// Asks for the report of a batch, and writes that down: it has the names and addresses of the file.
pub async fn ask_for_report(connection: &mut PgConnection, batch: i64, key: &str) -> Result<i64, sqlx::Error> {
    const READ_REPORT: &str = "select noshi.read_report($1, $2)";
    sqlx::query_scalar(READ_REPORT).bind(batch).bind(key).fetch_one(connection).await
}

/// Asks whether a batch is staged as its file has it.
pub async fn ask_for_check(connection: &mut PgConnection, batch: i64, key: &str) -> Result<i64, sqlx::Error> {
    const READ_CHECK: &str = "select noshi.read_check($1, $2)";
    sqlx::query_scalar(READ_CHECK).bind(batch).bind(key).fetch_one(connection).await
}

/// How a reading stands, as its asker sees it.
#[derive(Debug)]
pub struct State {
    /// How often it was taken. With another number the parts so far are void.
    pub take: i32,
    pub ended: bool,
    /// A word, a sentence, and when it is worth asking again.
    pub trouble: Option<(String, String, Duration)>,
    /// No worker that lives is left to open it.
    pub nobody_else: bool,
    pub parts: Vec<(i32, Sealed)>,
}

/// Parts that one fetch returns at most.
pub const PARTS: usize = 4;

/// The next parts, of which those up to `after` of this `take` have arrived.
pub async fn fetch(connection: &mut PgConnection, reading: i64, take: i32, after: i32) -> Result<State, sqlx::Error> {
    const FETCH: &str = "select take, ended, trouble, coalesce(sentence, '') as sentence, wait, nobody_else, number, key_id, nonce, ciphertext
from noshi.fetch_reading($1, $2, $3)";
    let rows = sqlx::query(FETCH).bind(reading).bind(take).bind(after).fetch_all(connection).await?;
    let first = rows.first().ok_or(sqlx::Error::RowNotFound)?;
    let trouble = match first.try_get("trouble")? {
        Some(word) => Some((word, first.try_get("sentence")?, seconds(first.try_get("wait")?))),
        None => None,
    };
    let mut parts = vec![];
    for row in &rows {
        if let Some(number) = row.try_get("number")? {
            parts.push((number, sealed(row)?));
        }
    }
    Ok(State {
        take: first.try_get("take")?,
        ended: first.try_get("ended")?,
        trouble,
        nobody_else: first.try_get("nobody_else")?,
        parts,
    })
}

/// Ends a reading for its asker. Whether a worker had it in flight, and why others left it; `None` where it was over.
pub async fn close(connection: &mut PgConnection, reading: i64) -> Result<Option<(bool, Vec<String>)>, sqlx::Error> {
    const CLOSE: &str = "select taken, left_why from noshi.close_reading($1)";
    sqlx::query_as(CLOSE).bind(reading).fetch_optional(connection).await
}

/// A reading that a worker has taken.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Taken {
    pub reading: i64,
    pub take: i32,
    pub kind: String,
    /// A grant, or the number of a batch.
    pub subject: String,
    pub public_key: String,
    pub asked_by: String,
    #[sqlx(skip)]
    pub worker: i64,
}

/// The next one for a worker; with `long`, also of files.
pub async fn take(pool: &PgPool, worker: i64, long: bool) -> Result<Option<Taken>, sqlx::Error> {
    const TAKE: &str = "select reading, take, kind, subject, public_key, asked_by from noshi.take_reading($1, $2)";
    let taken: Option<Taken> = sqlx::query_as(TAKE).bind(worker).bind(long).fetch_optional(pool).await?;
    Ok(taken.map(|taken| Taken { worker, ..taken }))
}

/// What is needed to show a gift.
#[derive(Debug)]
pub struct Gift {
    pub state: Value,
    pub args: Value,
    /// `None` where the provider's rule is to ask for the code again.
    pub sealed: Option<Sealed>,
    /// For how long the same trade id surely gives the same card.
    pub remembered: Duration,
}

/// `None`: it is not issued any more.
pub async fn gift(pool: &PgPool, held: &Taken) -> Result<Option<Gift>, ActError> {
    const CODE: &str = "select state, args, remembered, key_id, nonce, ciphertext from noshi.reading_code($1, $2, $3)";
    let row = sqlx::query(CODE).bind(held.reading).bind(held.worker).bind(held.take).fetch_optional(pool).await?;
    let Some(row) = row else { return Ok(None) };
    let has_code = row.try_get::<Option<String>, _>("key_id")?.is_some();
    Ok(Some(Gift {
        state: row.try_get("state")?,
        args: row.try_get("args")?,
        sealed: has_code.then(|| sealed(&row)).transpose()?,
        remembered: row.try_get::<Option<f64>, _>("remembered")?.map_or(Duration::ZERO, seconds),
    }))
}

/// One chunk of the file's bytes, sealed; `None` behind the last.
pub async fn chunk(pool: &PgPool, held: &Taken, chunk: i32) -> Result<Option<Sealed>, ActError> {
    const CHUNK: &str = "select key_id, nonce, ciphertext from noshi.reading_chunk($1, $2, $3, $4)";
    let chunk = sqlx::query(CHUNK).bind(held.reading).bind(held.worker).bind(held.take).bind(chunk);
    let row = in_time(pool, async |c| chunk.fetch_optional(c).await).await?;
    Ok(row.as_ref().map(sealed).transpose()?)
}

/// The sealed recipients of these rows of a batch that is checked: row, grant, and what is sealed.
pub async fn recipients(
    pool: &PgPool,
    held: &Taken,
    (from, to): (i32, i32),
) -> Result<Vec<(i32, String, Sealed)>, ActError> {
    const RECIPIENTS: &str =
        "select row_no, grant_id, key_id, nonce, ciphertext from noshi.reading_recipients($1, $2, $3, $4, $5)";
    let rows = sqlx::query(RECIPIENTS).bind(held.reading).bind(held.worker).bind(held.take).bind(from).bind(to);
    let rows = rows.fetch_all(pool).await?;
    let read = |row| Ok((PgRow::try_get(row, "row_no")?, PgRow::try_get(row, "grant_id")?, sealed(row)?));
    Ok(rows.iter().map(read).collect::<Result<_, sqlx::Error>>()?)
}

/// One more part of the answer. False: as many wait for the asker as may.
pub async fn put(pool: &PgPool, held: &Taken, number: i32, part: &Sealed) -> Result<bool, ActError> {
    const PUT: &str = "select noshi.put_reading($1, $2, $3, $4, $5, $6, $7)";
    let put = sqlx::query_scalar(PUT).bind(held.reading).bind(held.worker).bind(held.take).bind(number);
    Ok(put.bind(&part.key_id).bind(&part.nonce).bind(&part.ciphertext).fetch_one(pool).await?)
}

/// Whether somebody else waits for the place that this reading has.
pub async fn is_waited_for(pool: &PgPool, held: &Taken) -> Result<bool, ActError> {
    const IS_WAITED_FOR: &str = "select noshi.is_waited_for($1, $2, $3)";
    Ok(sqlx::query_scalar(IS_WAITED_FOR).bind(held.reading).bind(held.worker).bind(held.take).fetch_one(pool).await?)
}

/// It is answered.
pub async fn end(pool: &PgPool, held: &Taken) -> Result<(), ActError> {
    end_with(pool, held, None, None, Duration::ZERO).await
}

/// It will not be answered: a word, a sentence, and when it is worth asking again.
pub async fn fail(pool: &PgPool, held: &Taken, trouble: &str, sentence: &str, wait: Duration) -> Result<(), ActError> {
    end_with(pool, held, Some(trouble), Some(sentence), wait).await
}

async fn end_with(
    pool: &PgPool,
    held: &Taken,
    trouble: Option<&str>,
    sentence: Option<&str>,
    wait: Duration,
) -> Result<(), ActError> {
    const END: &str = "select noshi.end_reading($1, $2, $3, $4, $5, $6)";
    let end = sqlx::query(END).bind(held.reading).bind(held.worker).bind(held.take).bind(trouble).bind(sentence);
    end.bind(wait.as_secs_f64()).execute(pool).await?;
    Ok(())
}

/// This worker cannot open it, and says in a word why; another one may.
pub async fn leave(pool: &PgPool, held: &Taken, why: &str) -> Result<(), ActError> {
    const LEAVE: &str = "select noshi.leave_reading($1, $2, $3, $4)";
    sqlx::query(LEAVE).bind(held.reading).bind(held.worker).bind(held.take).bind(why).execute(pool).await?;
    Ok(())
}
