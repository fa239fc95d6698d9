//! What the intake of a file asks of the jobs that are there already.

use noshi_jobs::Kind;
use serde_json::Value;
use sqlx::{Executor, PgConnection, Row, types::Json};

/// A file is one transaction with few, large statements.
const TAKE_TIME: &str = "set local statement_timeout = '5min'; set local idle_in_transaction_session_timeout = '1min'";

pub async fn take_time(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    connection.execute(TAKE_TIME).await.map(|_| ())
}

const DIFFERING: &str = "select r.row_no, noshi.differing_fields(j.args, r.args) as difference
from unnest($2::text[], $3::jsonb[]) with ordinality as r(key, args, row_no)
join noshi.job j on j.kind = $1 and j.key = r.key
where j.fingerprint <> sha256(convert_to(r.args::text, 'UTF8'))
order by r.row_no limit $4";

/// The first `most` of these requests whose id exists with other arguments: the place in `rows`, and the difference in words.
pub async fn differing(
    connection: &mut PgConnection,
    kind: Kind,
    rows: &[(String, Value)],
    most: usize,
) -> Result<Vec<(usize, String)>, sqlx::Error> {
    let (keys, args): (Vec<&str>, Vec<Json<&Value>>) =
        rows.iter().map(|(key, args)| (key.as_str(), Json(args))).unzip();
    let found = sqlx::query(DIFFERING)
        .bind(kind.name())
        .bind(keys)
        .bind(args)
        .bind(i64::try_from(most).unwrap_or(i64::MAX))
        .fetch_all(connection)
        .await?;
    found
        .iter()
        .map(|row| {
            let row_no = usize::try_from(row.try_get::<i64, _>("row_no")?).unwrap_or(1);
            Ok((row_no - 1, row.try_get::<Option<String>, _>("difference")?.unwrap_or_default()))
        })
        .collect()
}

const RECORDED: &str = "select count(*) from noshi.job where kind = $1 and key = any($2)";

/// How many of these requests are there already.
pub async fn recorded(
    connection: &mut PgConnection,
    kind: Kind,
    rows: &[(String, Value)],
) -> Result<usize, sqlx::Error> {
    let keys: Vec<&str> = rows.iter().map(|(key, _)| key.as_str()).collect();
    let count: i64 = sqlx::query_scalar(RECORDED).bind(kind.name()).bind(keys).fetch_one(connection).await?;
    Ok(usize::try_from(count).unwrap_or(0))
}

const MADE_HERE: &str = "select count(*) from noshi.job where id = any($1) and xmin = pg_current_xact_id()::xid";

/// How many of these jobs this very transaction has inserted.
pub async fn made_here(connection: &mut PgConnection, jobs: &[i64]) -> Result<usize, sqlx::Error> {
    let count: i64 = sqlx::query_scalar(MADE_HERE).bind(jobs).fetch_one(connection).await?;
    Ok(usize::try_from(count).unwrap_or(0))
}
