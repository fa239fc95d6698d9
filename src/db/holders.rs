//! Who holds the locks that somebody waits for.

use sqlx::{
    error::{DatabaseError, ErrorKind},
    postgres::PgDatabaseError,
};

use crate::db::PgConnection;

/// An open transaction that holds locks on tables of ours.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Holder {
    pub login: String,
    pub pid: i32,
    /// Its own number, as long as it is open.
    pub transaction: String,
    /// For so many seconds; `None` where this login may not see that.
    pub since: Option<f64>,
    /// The logins that wait for it now, such as a worker's, with a slot for each job.
    pub waiting: Vec<String>,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (process {}", self.login, self.pid)?;
        if let Some(since) = self.since {
            write!(f, ", open for {since:.0} s")?;
        }
        if !self.waiting.is_empty() {
            write!(f, ", waited for by {}", self.waiting.join(", "))?;
        }
        write!(f, ")")
    }
}

// Whoever only reads has no transaction id, and whoever waits itself is not who is waited for. PostgreSQL tells the relation, or its index.
const HOLDERS: &str = "select a.usename::text as login, a.pid, min(l.virtualtransaction) as transaction,
    extract(epoch from clock_timestamp() - a.xact_start)::float8 as since,
    coalesce((select array_agg(distinct s.usename::text) from pg_stat_activity s where s.usename is not null
        and s.pid in (select o.pid from pg_locks o where not o.granted) and a.pid = any (pg_blocking_pids(s.pid))), '{}') as waiting
from pg_stat_activity a join pg_locks l on l.pid = a.pid join pg_class c on c.oid = l.relation
where a.datname = current_database() and a.pid <> pg_backend_pid() and a.usename is not null and l.locktype = 'relation' and l.granted and l.mode <> 'AccessShareLock'
  and c.relnamespace in (select oid from pg_namespace where nspname in ('noshi', 'noshi_sealed'))
  and ($1 = '' or c.relname = $1 or c.oid in (select i.indrelid from pg_index i join pg_class x on x.oid = i.indexrelid where x.relname = $1))
  and exists (select from pg_locks x where x.pid = a.pid and x.locktype = 'transactionid' and x.mode = 'ExclusiveLock' and x.granted)
  and not exists (select from pg_locks w where w.pid = a.pid and not w.granted)
group by a.usename, a.pid, a.xact_start order by a.xact_start nulls last, a.pid limit 5";

/// Of this relation; `""`: of any.
pub async fn of(connection: &mut PgConnection, relation: &str) -> Result<Vec<Holder>, sqlx::Error> {
    sqlx::query_as(HOLDERS).bind(relation).persistent(false).fetch_all(connection).await
}

/// A lock that was waited for in vain, with who holds it.
#[derive(Debug)]
struct Held {
    error: Box<PgDatabaseError>,
    holders: String,
}

impl std::fmt::Display for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.holders)
    }
}

impl std::error::Error for Held {}

impl DatabaseError for Held {
    fn message(&self) -> &str {
        &self.holders
    }

    fn code(&self) -> Option<std::borrow::Cow<'_, str>> {
        Some(self.error.code().into())
    }

    fn as_error(&self) -> &(dyn std::error::Error + Send + Sync + 'static) {
        self
    }

    fn as_error_mut(&mut self) -> &mut (dyn std::error::Error + Send + Sync + 'static) {
        self
    }

    fn into_error(self: Box<Self>) -> Box<dyn std::error::Error + Send + Sync + 'static> {
        self
    }

    fn kind(&self) -> ErrorKind {
        ErrorKind::Other
    }
}

/// The same error; of a lock that did not come free it tells who holds it.
pub async fn named(connection: &mut PgConnection, error: sqlx::Error) -> sqlx::Error {
    let sqlx::Error::Database(database) = error else { return error };
    if database.code().as_deref() != Some("55P03") {
        return sqlx::Error::Database(database);
    }
    let error = match database.try_downcast::<PgDatabaseError>() {
        Ok(error) => error,
        Err(other) => return sqlx::Error::Database(other),
    };
    // "while locking tuple (0,5) in relation "person"", the innermost first.
    let within = error.r#where().and_then(|it| it.split("in relation \"").nth(1)).and_then(|it| it.split('"').next());
    let holders = of(connection, within.unwrap_or_default()).await.unwrap_or_default();
    if holders.is_empty() {
        return sqlx::Error::Database(error);
    }
    let holders: Vec<String> = holders.iter().map(Holder::to_string).collect();
    sqlx::Error::Database(Box::new(Held { error, holders: format!("held by {}", holders.join(", ")) }))
}
