//! Which migrations a database has.

use std::collections::BTreeMap;

use crate::store::PgPool;
use serde::Serialize;

use super::{MIGRATIONS, Role, connect};

/// One migration, of this program or of the database.
#[derive(Debug, Clone, Serialize)]
pub struct Line {
    pub version: i64,
    pub name: String,
    /// applied, pending, changed (applied, and reads otherwise in this program), failed, or unknown (of another version of this program).
    pub status: &'static str,
    pub applied_at: Option<chrono::DateTime<chrono::Utc>>,
}

/// A migration that the database does not have yet.
#[derive(Debug, Clone, Serialize)]
pub struct Pending {
    pub version: i64,
    pub name: String,
    pub sql: String,
}

#[derive(sqlx::FromRow)]
struct Applied {
    version: i64,
    description: String,
    installed_on: chrono::DateTime<chrono::Utc>,
    success: bool,
    checksum: Vec<u8>,
}

async fn applied(pool: &PgPool) -> Result<BTreeMap<i64, Applied>, sqlx::Error> {
    const HAS_ANY: &str = "select to_regclass('_sqlx_migrations') is not null";
    const APPLIED: &str =
        "select version, description, installed_on, success, checksum from _sqlx_migrations order by version";
    if !sqlx::query_scalar(HAS_ANY).fetch_one(pool).await? {
        return Ok(BTreeMap::new());
    }
    let rows: Vec<Applied> = sqlx::query_as(APPLIED).fetch_all(pool).await?;
    Ok(rows.into_iter().map(|row| (row.version, row)).collect())
}

/// Every migration that this program or the database knows, in order.
pub async fn status(url: &str) -> anyhow::Result<Vec<Line>> {
    let mut applied = applied(&connect(url, Role::Login, 1).await?).await?;
    let mut lines: Vec<Line> = MIGRATIONS
        .iter()
        .map(|ours| {
            let theirs = applied.remove(&ours.version);
            let status = match &theirs {
                None => "pending",
                Some(theirs) if !theirs.success => "failed",
                Some(theirs) if theirs.checksum != *ours.checksum => "changed",
                Some(_) => "applied",
            };
            let applied_at = theirs.map(|theirs| theirs.installed_on);
            Line { version: ours.version, name: ours.description.to_string(), status, applied_at }
        })
        .collect();
    lines.extend(applied.into_values().map(|theirs| Line {
        version: theirs.version,
        name: theirs.description,
        status: "unknown",
        applied_at: Some(theirs.installed_on),
    }));
    lines.sort_by_key(|line| line.version);
    Ok(lines)
}

/// What `migrate up` would run, in order.
pub async fn pending(url: &str) -> anyhow::Result<Vec<Pending>> {
    let applied = applied(&connect(url, Role::Login, 1).await?).await?;
    let ours = MIGRATIONS.iter().filter(|ours| !applied.contains_key(&ours.version));
    Ok(ours
        .map(|m| Pending { version: m.version, name: m.description.to_string(), sql: m.sql.as_str().to_owned() })
        .collect())
}

/// Why this program cannot work with the database as it is migrated; `None` where it can. Newer migrations do no harm.
pub async fn unfit(pool: &PgPool) -> Result<Option<String>, sqlx::Error> {
    const MISSING: &str = "select v from unnest($1::bigint[]) v
        where not exists (select from _sqlx_migrations m where m.version = v and m.success) order by v";
    let ours: Vec<i64> = MIGRATIONS.iter().map(|ours| ours.version).collect();
    let missing = sqlx::query_scalar::<_, i64>(MISSING).bind(ours).fetch_all(pool).await;
    match missing {
        Ok(missing) if missing.is_empty() => Ok(None),
        Ok(missing) => {
            let missing = missing.iter().map(i64::to_string).collect::<Vec<_>>().join(", ");
            Ok(Some(format!("the schema lacks the migrations {missing}; run `noshi migrate up`")))
        }
        // Not there, or from before this login could read it.
        Err(error)
            if matches!(error.as_database_error().and_then(|e| e.code()).as_deref(), Some("42P01" | "42501")) =>
        {
            Ok(Some("the schema is older than this program; run `noshi migrate up`".to_owned()))
        }
        Err(error) => Err(error),
    }
}
