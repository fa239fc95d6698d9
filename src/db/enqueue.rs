//! How jobs come in: through the producer's function, or as follow-ups of a transition.

use noshi_jobs::{FollowUp, KindName, Request};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use sqlx::{Row, types::Json};

use crate::{
    basics::kinds,
    db::{PgConnection, PgPool},
};

/// Why a request was not taken. Nothing of it was written.
#[derive(Debug, thiserror::Error)]
pub enum EnqueueError {
    /// The id exists with other arguments; the text shows the difference.
    #[error("{0}")]
    Conflict(String),
    #[error("{0}")]
    Malformed(String),
    #[error("the database did not take the request: {}", super::sentence(.0))]
    Database(#[source] sqlx::Error),
}

impl From<sqlx::Error> for EnqueueError {
    fn from(error: sqlx::Error) -> Self {
        let Some(database) = error.as_database_error() else { return EnqueueError::Database(error) };
        let detail = database.try_downcast_ref::<sqlx::postgres::PgDatabaseError>().and_then(|e| e.detail());
        match (database.code().as_deref(), detail) {
            (Some("NS409"), Some(detail)) => EnqueueError::Conflict(format!("{}: {detail}", database.message())),
            (Some("NS400"), _) => EnqueueError::Malformed(database.message().to_owned()),
            _ => EnqueueError::Database(error),
        }
    }
}

const ENQUEUE_ROWS: &str = "select noshi.enqueue_rows($1, $2, $3, $4)";

/// Enqueues all of these, or none. Returns the jobs' ids, in order.
pub async fn enqueue(
    connection: &mut PgConnection,
    kind: impl Into<KindName>,
    rows: &[(String, impl Serialize + Sync)],
    interactive: bool,
) -> Result<Vec<i64>, EnqueueError> {
    let (keys, args): (Vec<&str>, Vec<Json<&_>>) = rows.iter().map(|(key, args)| (key.as_str(), Json(args))).unzip();
    let rows = sqlx::query(ENQUEUE_ROWS)
        .bind(kind.into().name())
        .bind(keys)
        .bind(args)
        .bind(if interactive { 0_i16 } else { 1 })
        .fetch_all(connection)
        .await?;
    Ok(rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?)
}

// Ordered by key, so that concurrent groups lock in one order.
const FOLLOW_UPS: &str = "insert into noshi.job (kind, key, fingerprint, args, traceparent)
select kind, key, sha256(convert_to(args::text, 'UTF8')), args, traceparent
from unnest($1::text[], $2::text[], $3::jsonb[], $4::text[]) as r(kind, key, args, traceparent)
order by kind, key on conflict on constraint job_key do nothing";

// As `noshi.enqueue_rows` ranks them: in line with other batches.
const ROWS_OF_BATCH: &str = "insert into noshi.job (kind, key, fingerprint, args, batch, row_no, rank)
select kind, key, sha256(convert_to(args::text, 'UTF8')), args, $4, row_no, (select vtime from noshi.lane where name = '') + row_no
from unnest($1::text[], $2::text[], $3::jsonb[], $5::int[]) as r(kind, key, args, row_no)
order by kind, key on conflict on constraint job_key do nothing";

// A statement of its own: what was not inserted may have come in, or been pruned, after the insert began.
const CONFLICTING: &str = "select r.n from unnest($1::text[], $2::text[], $3::jsonb[]) with ordinality as r(kind, key, args, n)
left join noshi.job j using (kind, key)
left join lateral (select t.fingerprint from noshi.tombstone t where j.id is null and t.kind = r.kind and t.key = r.key limit 1) t on true
where coalesce(j.fingerprint, t.fingerprint) <> sha256(convert_to(r.args::text, 'UTF8')) and j.args is distinct from r.args order by r.n limit 1";

/// Kinds, ids and arguments, as the statements take them.
type Columns = (Vec<&'static str>, Vec<String>, Vec<Json<Box<RawValue>>>);

fn follow_up(request: &FollowUp) -> Result<Box<RawValue>, sqlx::Error> {
    let kind = kinds::get(request.kind().name());
    kind.and_then(|kind| kind.follow_up(request))
        .ok_or_else(|| sqlx::Error::Protocol(format!("this program has no kind {} to follow", request.kind())))
}

/// The first of these, counted from 1, whose id exists with other arguments, pruned or not.
async fn conflicting(connection: &mut PgConnection, asked: &Columns) -> Result<Option<i64>, sqlx::Error> {
    let (kinds, ids, args) = asked;
    sqlx::query_scalar(CONFLICTING).bind(kinds).bind(ids).bind(args).fetch_optional(connection).await
}

/// Inserts follow-up jobs beside the transition that asked for them. Returns a parent whose follow-up exists with other arguments.
pub async fn follow_ups(
    connection: &mut PgConnection,
    requests: &[(i64, &FollowUp, Option<&str>)],
) -> Result<Option<i64>, sqlx::Error> {
    if requests.is_empty() {
        return Ok(None);
    }
    let mut asked = Columns::default();
    for (_, request, _) in requests {
        asked.0.push(request.kind().name());
        asked.1.push(request.id().0.clone());
        asked.2.push(Json(follow_up(request)?));
    }
    let (kinds, ids, args) = &asked;
    let traces: Vec<Option<&str>> = requests.iter().map(|(.., traceparent)| *traceparent).collect();
    sqlx::query(FOLLOW_UPS).bind(kinds).bind(ids).bind(args).bind(traces).execute(&mut *connection).await?;
    let conflict = conflicting(connection, &asked).await?.and_then(|n| usize::try_from(n - 1).ok());
    Ok(conflict.and_then(|n| requests.get(n)).map(|(parent, ..)| *parent))
}

/// Jobs that are made in this transaction belong to this trace: a W3C traceparent, which is ignored where it is malformed.
pub async fn belong_to(connection: &mut PgConnection, traceparent: &str) -> Result<(), sqlx::Error> {
    const BELONG_TO: &str = "select set_config('noshi.traceparent', $1, true)";
    sqlx::query(BELONG_TO).bind(traceparent).execute(connection).await.map(|_| ())
}

/// Inserts jobs that rows of a batch lead to; those that are there already stay as they are. False where one differs.
pub async fn rows_of_batch(
    connection: &mut PgConnection,
    batch: i64,
    requests: &[(i32, Request)],
) -> Result<bool, sqlx::Error> {
    let mut asked = Columns::default();
    for (_, request) in requests {
        asked.0.push(request.kind().name());
        asked.1.push(request.id().0);
        asked.2.push(Json(to_raw_value(request).expect("arguments are plain data")));
    }
    let (kinds, ids, args) = &asked;
    let rows: Vec<i32> = requests.iter().map(|(row_no, _)| *row_no).collect();
    let insert = sqlx::query(ROWS_OF_BATCH).bind(kinds).bind(ids).bind(args).bind(batch).bind(rows);
    insert.execute(&mut *connection).await?;
    Ok(conflicting(connection, &asked).await?.is_none())
}

/// Whether any job is not at rest.
pub async fn any_open(pool: &PgPool) -> Result<bool, sqlx::Error> {
    const ANY_OPEN: &str =
        "select exists (select from noshi.job where status in ('scheduled', 'available', 'running', 'retryable'))";
    sqlx::query_scalar(ANY_OPEN).fetch_one(pool).await
}
