//! Ended jobs move out of the way: into archived jobs and tombstones. What may go the schema decides.

use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use crate::db::{ActError, PgPool, interval};

/// Jobs that one transaction looks at: a fraction of a second.
pub const PAGE: i32 = 500;

/// How far a run has come. The oldest jobs come first; a run that was broken off begins again at the oldest.
#[derive(Debug, Clone, Default, PartialEq, Eq, sqlx::FromRow)]
pub struct Pruned {
    pub looked_at: i32,
    pub pruned: i32,
    pub unarchived: i32,
    /// The last that was looked at, as the database writes it.
    pub after: Option<String>,
    pub after_id: i64,
}

impl Pruned {
    /// Nothing that is old enough is left behind this page.
    pub const fn is_last(&self) -> bool {
        self.looked_at < PAGE && self.unarchived < PAGE
    }
}

/// Prunes the next page behind `last`, in a transaction of its own. `None`: another process is at it.
pub async fn next_page(pool: &PgPool, older_than: Option<Duration>, last: &Pruned) -> Result<Option<Pruned>, ActError> {
    const PRUNE: &str = "select looked_at, pruned, unarchived, after::text as after, after_id
from noshi.prune($1, $2::interval, coalesce($3::text::timestamptz, '-infinity'), $4)";
    let page = sqlx::query_as(PRUNE).bind(PAGE).bind(older_than.map(interval)).bind(&last.after).bind(last.after_id);
    Ok(page.fetch_optional(pool).await?)
}

/// Whether the schedule says that a run begins now, in this process.
pub async fn is_due(pool: &PgPool) -> Result<bool, sqlx::Error> {
    const IS_DUE: &str = "select noshi.prune_is_due()";
    sqlx::query_scalar(IS_DUE).fetch_one(pool).await
}

/// How long ended jobs are kept, in the database's words.
#[derive(Debug, Clone, Serialize, sqlx::FromRow)]
pub struct Retention {
    pub jobs_for: String,
    pub archive_for: String,
    pub every: String,
    pub begun_at: chrono::DateTime<chrono::Utc>,
    /// For how long archived jobs are still kept, and until when, where somebody shortened it.
    pub archive_still_for: Option<String>,
    pub shortens_at: Option<chrono::DateTime<chrono::Utc>>,
}

pub async fn retention(pool: &PgPool) -> Result<Retention, sqlx::Error> {
    const RETENTION: &str = "select jobs_for::text, archive_for::text, every::text, begun_at,
        case when s.at > clock_timestamp() then archive_was::text end as archive_still_for, case when s.at > clock_timestamp() then s.at end as shortens_at
    from noshi.retention cross join lateral (select shortened_at + interval '7 days' as at) s";
    sqlx::query_as(RETENTION).fetch_one(pool).await
}

/// What is not said stays as it is.
pub async fn set_retention(
    pool: &PgPool,
    jobs_for: Option<Duration>,
    archive_for: Option<Duration>,
    every: Option<Duration>,
    reason: &str,
) -> Result<(), ActError> {
    const SET: &str = "select noshi.set_retention(justify_hours($1::interval), justify_hours($2::interval), justify_hours($3::interval), $4)";
    sqlx::query(SET)
        .bind(jobs_for.map(interval))
        .bind(archive_for.map(interval))
        .bind(every.map(interval))
        .bind(reason)
        .execute(pool)
        .await?;
    Ok(())
}

/// What is known of a job that was pruned.
#[derive(Debug, Clone, Serialize, sqlx::FromRow)]
pub struct Over {
    pub id: i64,
    pub kind: String,
    pub key: String,
    pub status: String,
    pub at: String,
    pub outcome: Option<String>,
    pub code: Option<String>,
    pub detail: Option<String>,
    pub batch: Option<i64>,
    pub created_at: chrono::DateTime<chrono::Utc>,
    pub finished_at: chrono::DateTime<chrono::Utc>,
    pub pruned_at: chrono::DateTime<chrono::Utc>,
    /// Its row and its journal, for as long as they are kept.
    pub job: Option<Value>,
    pub journal: Option<Value>,
}

const OVER: &str = "select t.id, t.kind, t.key, t.status::text, t.at, t.outcome, t.code, t.detail, t.batch, t.created_at, t.finished_at, t.pruned_at,
    s.job, s.journal
from noshi.tombstone t left join noshi.archived_job s on s.id = t.id
where ($1::text is null and $2 ~ '^[0-9]{1,18}$' and t.id = case when $2 ~ '^[0-9]{1,18}$' then $2::bigint end)
   or (t.kind = $1 and t.key = $2)";

const KNOWN: &str = "select t.id, t.kind, t.key, t.status::text, t.at, t.outcome, t.code, t.detail, t.batch, t.created_at, t.finished_at, t.pruned_at,
    null::jsonb as job, null::jsonb as journal
from noshi.tombstone t where t.id in (
    select id from noshi.tombstone where $1 ~ '^[0-9]{1,18}$' and id = case when $1 ~ '^[0-9]{1,18}$' then $1::bigint end
    union select id from noshi.tombstone where kind = any($2) and key = $1
    union select job from noshi.gift_trade where id = $1
    union select job from noshi.gift_trade where grant_id = $1
    union (select id from noshi.tombstone where kind = any($2) and about = $1 order by id desc limit $3))
order by t.id desc limit $3";

/// Pruned jobs that go by this name, as [`crate::db::operator::jobs::find`] finds those that are there: without their rows and journals. The newest first.
pub async fn known(pool: &PgPool, name: &str, kinds: &[&str], most: i64) -> Result<Vec<Over>, sqlx::Error> {
    sqlx::query_as(KNOWN).bind(name).bind(kinds).bind(most).fetch_all(pool).await
}

const OF_BATCH: &str = "select t.id, t.kind, t.key, t.status::text, t.at, t.outcome, t.code, t.detail, t.batch, t.created_at, t.finished_at, t.pruned_at,
    null::jsonb as job, null::jsonb as journal
from noshi.tombstone t where t.batch = $1 order by t.row_no limit $2";

/// Pruned jobs of a batch, in the order of its rows.
pub async fn of_batch(pool: &PgPool, batch: i64, most: i64) -> Result<Vec<Over>, sqlx::Error> {
    sqlx::query_as(OF_BATCH).bind(batch).bind(most).fetch_all(pool).await
}

/// The pruned job of this kind and id; or, without a kind, of this number.
pub async fn over(pool: &PgPool, kind: Option<&str>, name: &str) -> Result<Option<Over>, sqlx::Error> {
    sqlx::query_as(OVER).bind(kind).bind(name).fetch_optional(pool).await
}
