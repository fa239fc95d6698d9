//! How jobs come in: through the producer's function, or as follow-ups of a transition.

use noshi_jobs::{Kind, Request};
use serde_json::Value;
use sqlx::{PgConnection, PgPool, Row, types::Json};

/// Why a request was not taken. Nothing of it was written.
#[derive(Debug, thiserror::Error)]
pub enum EnqueueError {
    /// The id exists with other arguments; the text shows the difference.
    #[error("{0}")]
    Conflict(String),
    #[error("{0}")]
    Malformed(String),
    #[error("the database did not take the request, and nothing was written: {0}")]
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
    kind: Kind,
    rows: &[(String, Value)],
    interactive: bool,
) -> Result<Vec<i64>, EnqueueError> {
    let (keys, args): (Vec<&str>, Vec<Json<&Value>>) =
        rows.iter().map(|(key, args)| (key.as_str(), Json(args))).unzip();
    let rows = sqlx::query(ENQUEUE_ROWS)
        .bind(kind.name())
        .bind(keys)
        .bind(args)
        .bind(if interactive { 0_i16 } else { 1 })
        .fetch_all(connection)
        .await?;
    Ok(rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?)
}

// Ordered by key, so that concurrent groups lock in one order. Two of a group may ask for one id: the second is not inserted either.
const FOLLOW_UPS: &str = "with r as materialized (select * from unnest($1::bigint[], $2::text[], $3::text[], $4::jsonb[]) as r(parent, kind, key, args)),
i as (
    insert into noshi.job (kind, key, fingerprint, args)
    select kind, key, sha256(convert_to(args::text, 'UTF8')), args from r order by kind, key
    on conflict on constraint job_key do nothing returning kind, key, fingerprint)
select exists (
    select from r left join i using (kind, key)
    where i.fingerprint is distinct from sha256(convert_to(r.args::text, 'UTF8')))";

const CONFLICTING: &str =
    "select r.parent from unnest($1::bigint[], $2::text[], $3::text[], $4::jsonb[]) as r(parent, kind, key, args)
join noshi.job j using (kind, key) where j.fingerprint <> sha256(convert_to(r.args::text, 'UTF8')) limit 1";

/// Inserts follow-up jobs beside the transition that asked for them. Returns a parent whose follow-up exists with other arguments.
pub async fn follow_ups(
    connection: &mut PgConnection,
    requests: &[(i64, &Request)],
) -> Result<Option<i64>, sqlx::Error> {
    if requests.is_empty() {
        return Ok(None);
    }
    let parents: Vec<i64> = requests.iter().map(|(parent, _)| *parent).collect();
    let kinds: Vec<&str> = requests.iter().map(|(_, r)| r.kind().name()).collect();
    let keys: Vec<String> = requests.iter().map(|(_, r)| r.id().0).collect();
    let args: Vec<Json<&Request>> = requests.iter().map(|(_, r)| Json(*r)).collect();
    let query = |sql| sqlx::query(sql).bind(parents.clone()).bind(kinds.clone()).bind(keys.clone()).bind(args.clone());
    let to_compare: bool = query(FOLLOW_UPS).fetch_one(&mut *connection).await?.try_get(0)?;
    if !to_compare {
        return Ok(None);
    }
    match query(CONFLICTING).fetch_optional(connection).await? {
        Some(row) => Ok(Some(row.try_get(0)?)),
        None => Ok(None),
    }
}

// As `noshi.enqueue_rows` ranks them: in line with other batches.
const ROWS_OF_BATCH: &str = "with r as materialized (
    select * from unnest($2::int[], $3::text[], $4::text[], $5::jsonb[]) as r(row_no, kind, key, args)),
i as (
    insert into noshi.job (kind, key, fingerprint, args, batch, row_no, rank)
    select kind, key, sha256(convert_to(args::text, 'UTF8')), args, $1, row_no, (select vtime from noshi.lane where name = '') + row_no
    from r order by kind, key
    on conflict on constraint job_key do nothing)
select not exists (
    select from r join noshi.job j using (kind, key) where j.fingerprint <> sha256(convert_to(r.args::text, 'UTF8')))";

/// Inserts jobs that rows of a batch lead to; those that are there already stay as they are. False where one differs.
pub async fn rows_of_batch(
    connection: &mut PgConnection,
    batch: i64,
    requests: &[(i32, Request)],
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(ROWS_OF_BATCH)
        .bind(batch)
        .bind(requests.iter().map(|(row_no, _)| *row_no).collect::<Vec<_>>())
        .bind(requests.iter().map(|(_, r)| r.kind().name()).collect::<Vec<_>>())
        .bind(requests.iter().map(|(_, r)| r.id().0).collect::<Vec<_>>())
        .bind(requests.iter().map(|(_, r)| Json(r)).collect::<Vec<_>>())
        .fetch_one(connection)
        .await
}

/// Whether any job is not at rest.
pub async fn any_open(pool: &PgPool) -> Result<bool, sqlx::Error> {
    const ANY_OPEN: &str =
        "select exists (select from noshi.job where status in ('scheduled', 'available', 'running', 'retryable'))";
    sqlx::query_scalar(ANY_OPEN).fetch_one(pool).await
}
