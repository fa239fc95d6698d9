//! What the HTTP interface asks for, each in a transaction that is done by its caller's token. What it reads of jobs is in `jobs`.

use serde_json::{Value, value::RawValue};
use sqlx::{FromRow, types::Json};

use crate::db::PgConnection;

/// A request that its producer wrote: the arguments stay as they came.
#[derive(Debug)]
pub struct JobRequest<'a> {
    pub id: &'a str,
    pub args: &'a RawValue,
}

fn columns<'a>(rows: &'a [JobRequest<'a>]) -> (Vec<&'a str>, Vec<Json<&'a RawValue>>) {
    rows.iter().map(|row| (row.id, Json(row.args))).unzip()
}

/// All of these, or none. Returns the jobs' numbers, in order.
pub async fn enqueue(
    connection: &mut PgConnection,
    kind: &str,
    rows: &[JobRequest<'_>],
    priority: i16,
) -> Result<Vec<i64>, sqlx::Error> {
    const ENQUEUE: &str = "select noshi.enqueue_rows($1, $2, $3, $4)";
    let (keys, args) = columns(rows);
    sqlx::query_scalar(ENQUEUE).bind(kind).bind(keys).bind(args).bind(priority).fetch_all(connection).await
}

/// A row whose id exists with other arguments.
#[derive(Debug, Clone, FromRow)]
pub struct Conflict {
    pub row_no: i64,
    pub key: String,
    pub differences: Value,
}

pub async fn conflicts(
    connection: &mut PgConnection,
    kind: &str,
    rows: &[JobRequest<'_>],
) -> Result<Vec<Conflict>, sqlx::Error> {
    const CONFLICTS: &str = "select row_no, key, differences from noshi.conflicts($1, $2, $3)";
    let (keys, args) = columns(rows);
    sqlx::query_as(CONFLICTS).bind(kind).bind(keys).bind(args).fetch_all(connection).await
}

/// A user asks for the gift of a grant (発券). Returns the job's number.
pub async fn issue_grant(
    connection: &mut PgConnection,
    grant: &str,
    user: &str,
    area: Option<&str>,
) -> Result<i64, sqlx::Error> {
    const ISSUE: &str = "select noshi.issue_grant($1, $2, $3)";
    sqlx::query_scalar(ISSUE).bind(grant).bind(user).bind(area).fetch_one(connection).await
}
