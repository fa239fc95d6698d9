//! All SQL. One function per legal change, named by a verb; every write of a held job is fenced by id, lease, worker and step.

pub mod acts;
pub mod api;
pub mod audit;
pub mod batches;
pub mod claim;
pub mod clocks;
pub mod db;
pub mod enqueue;
pub mod facts;
pub mod health;
pub mod holders;
pub mod lanes;
pub mod mails;
pub mod notices;
pub mod numbers;
pub mod operate;
pub mod point_jobs;
pub mod points;
pub mod proposals;
pub mod prune;
pub mod reach;
pub mod readings;
pub mod recover;
pub mod redrive;
mod refused;
pub mod restored;
pub mod schedules;
pub mod schema;
pub mod settle;
pub mod stores;
pub mod tokens;
pub mod workers;

pub use db::{PgConnection, PgPool, PoolConnection, Transaction};
pub use refused::{ActError, sentence};
pub use schema::migrate;

use std::time::Duration;

use anyhow::Context;
use futures::future::BoxFuture;
use sqlx::{Executor, migrate::Migrator};

pub static MIGRATIONS: Migrator = sqlx::migrate!("./migrations");

/// Classes of SQLSTATE that may pass by themselves: a lost connection, a server that is read-only or in another state for a time, a conflict
/// with others, a lack of resources, an operator who stepped in, a shutdown, a fault of the system or of a pooler.
const PASSING: [&str; 11] = ["08", "25", "26", "40", "53", "55", "57", "58", "72", "F0", "XX"];

/// Whether the database understood and refused, so that no repetition helps: a rule of ours, a value, a constraint, a right, a name that is
/// not there, a feature that this server or its settings refuse. What is in no list is such: a job must not be tried for ever.
pub fn is_answer(error: &sqlx::Error) -> bool {
    match error.as_database_error().and_then(sqlx::error::DatabaseError::code) {
        Some(code) => !PASSING.iter().any(|class| code.starts_with(class)),
        None => {
            matches!(error, sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) | sqlx::Error::ColumnNotFound(_))
        }
    }
}

/// Which of the database's rules refused. Our own rules speak for themselves; others' words may hold what was refused.
pub fn said(error: &sqlx::Error) -> Option<String> {
    let error = error.as_database_error()?;
    let code = error.code()?;
    Some(match (code.starts_with("NS"), error.constraint()) {
        (true, _) => error.message().to_owned(),
        (false, Some(constraint)) => format!("SQLSTATE {code}, {constraint}"),
        (false, None) => format!("SQLSTATE {code}"),
    })
}

/// The group role a process acts in. Its login must be a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Worker,
    Operator,
    Producer,
    /// Takes events from the network: executes functions, reads and writes no table.
    Door,
    /// Serves the HTTP interface, in the name of whoever's token is shown.
    Api,
    /// The login's own rights: migrations and key rotation.
    Login,
}

impl Role {
    /// The group role; a login that acts for itself has none.
    const fn group(self) -> Option<&'static str> {
        match self {
            Role::Worker => Some("noshi_worker"),
            Role::Operator => Some("noshi_operator"),
            Role::Producer => Some("noshi_producer"),
            Role::Door => Some("noshi_door"),
            Role::Api => Some("noshi_api"),
            Role::Login => None,
        }
    }

    const fn set_role(self) -> &'static str {
        match self {
            Role::Worker => "set role noshi_worker",
            Role::Operator => "set role noshi_operator",
            Role::Producer => "set role noshi_producer",
            Role::Door => "set role noshi_door",
            Role::Api => "set role noshi_api",
            Role::Login => "reset role",
        }
    }

    /// Whether a server that takes no writes is of no use to it.
    const fn writes(self) -> bool {
        match self {
            Role::Worker | Role::Operator | Role::Producer | Role::Door | Role::Api => true,
            Role::Login => false,
        }
    }
}

/// No statement of ours is slow; one that is must not hold the fleet up.
///
/// Without `jit = off` a plan that looks expensive, be it because it is forbidden or may end early, would be compiled for up to a second.
const SESSION: &str = "set statement_timeout = '5s'; set lock_timeout = '2s'; set idle_in_transaction_session_timeout = '10s'; set jit = off; set default_transaction_isolation = 'read committed'; set standard_conforming_strings = on";

/// A worker touches few rows of large tables, always by an index. The planner must not think otherwise of a table that was
/// small when it was last analyzed (measured: claims by hash join over the whole table were 10 times slower at 20,000 rows).
const WORKER_SESSION: &str = "set enable_seqscan = off; set enable_hashjoin = off; set enable_mergejoin = off; ";

/// Opens a pool whose every connection acts as `role`.
pub async fn connect(url: &str, role: Role, connections: u32) -> anyhow::Result<PgPool> {
    open(url, role, connections, None).await
}

/// A pool of one connection for one request, whose every transaction is done by this token.
pub async fn connect_by(url: &str, caller: &tokens::Caller) -> anyhow::Result<PgPool> {
    open(url, Role::Api, 1, Some(caller.clone())).await
}

async fn open(url: &str, role: Role, connections: u32, caller: Option<tokens::Caller>) -> anyhow::Result<PgPool> {
    let options = reach::options(url)?;
    if caller.is_none() {
        // What keeps the login out is told in a sentence, before there is a pool.
        reach::reach(&options, role).await?.close().await?;
    }
    let worker = if role == Role::Worker { WORKER_SESSION } else { "" };
    // One round trip for all of it.
    let session = format!("{SESSION}; {worker}{}", role.set_role());
    let pool = PgPool::new(
        options,
        connections,
        role.writes(),
        Box::new(move |connection| prepare(connection, session.clone(), caller.clone())),
    );
    pool.acquire().await.context(
        "cannot connect to PostgreSQL; check DATABASE_URL, and that the login is a member of the noshi roles",
    )?;
    Ok(pool)
}

fn prepare(
    connection: &mut PgConnection,
    session: String,
    caller: Option<tokens::Caller>,
) -> BoxFuture<'_, Result<(), sqlx::Error>> {
    Box::pin(async move {
        connection.execute(sqlx::AssertSqlSafe(session)).await?;
        match &caller {
            Some(caller) => tokens::show(connection, caller).await,
            None => Ok(()),
        }
    })
}

const IS_MEMBER: &str =
    "select coalesce((select pg_has_role(session_user, oid, 'member') from pg_roles where rolname = $1), false)";

/// Whether the login may act in a role.
pub async fn may_act_as(url: &str, role: &str) -> anyhow::Result<bool> {
    let pool = connect(url, Role::Login, 1).await?;
    Ok(sqlx::query_scalar(IS_MEMBER).bind(role).fetch_one(&pool).await?)
}

/// A file is read and written in few, large statements.
pub async fn take_time(connection: &mut crate::store::PgConnection) -> Result<(), sqlx::Error> {
    const TAKE_TIME: &str =
        "set local statement_timeout = '5min'; set local idle_in_transaction_session_timeout = '1min'";
    connection.execute(TAKE_TIME).await?;
    // The server gives up first.
    connection.lengthen(Duration::from_secs(5 * 60 + 10));
    Ok(())
}

/// What is sealed, as its columns have it.
fn sealed(row: &sqlx::postgres::PgRow) -> Result<noshi_jobs::gift_issuance::Sealed, sqlx::Error> {
    use sqlx::Row;
    Ok(noshi_jobs::gift_issuance::Sealed {
        key_id: row.try_get("key_id")?,
        nonce: row.try_get("nonce")?,
        ciphertext: row.try_get("ciphertext")?,
    })
}

/// A call of one function, with time for what is large.
async fn in_time<T>(
    pool: &PgPool,
    run: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
) -> Result<T, ActError> {
    let mut transaction = pool.begin().await?;
    take_time(&mut transaction).await?;
    match run(&mut transaction).await {
        Ok(value) => {
            transaction.commit().await?;
            Ok(value)
        }
        Err(error) => Err(transaction.fail(error).await.into()),
    }
}

/// The failure may pass: the connection was lost, the server restarts or is not the one to write to, or a transaction lost a race.
pub fn is_transient(error: &sqlx::Error) -> bool {
    let Some(database) = error.as_database_error() else {
        return !matches!(error, sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. } | sqlx::Error::Encode(_));
    };
    let code = database.code().unwrap_or_default();
    // 40: rolled back by a race; 53: out of resources; 55P03, 57014: a lock or a statement took too long. What ends the connection ends
    // with it: another one leads to a server that is up, and writable.
    ["40", "53", "57"].iter().any(|class| code.starts_with(class)) || code == "55P03" || db::ends_connection(error)
}

/// Somebody else holds the row for longer than this one may wait.
pub fn is_locked(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(sqlx::error::DatabaseError::code).is_some_and(|code| code == "55P03")
}

/// The server says that it is broken inside. One that crashes says so for a moment; a page or an index that is broken, for ever.
pub fn is_internal(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(sqlx::error::DatabaseError::code).is_some_and(|code| code.starts_with("XX"))
}

/// Seconds as the database gives them.
fn seconds(value: f64) -> Duration {
    Duration::try_from_secs_f64(value.max(0.0)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;

    #[derive(Debug)]
    struct Said(&'static str);

    impl std::fmt::Display for Said {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str(self.0)
        }
    }

    impl std::error::Error for Said {}

    impl sqlx::error::DatabaseError for Said {
        fn message(&self) -> &str {
            self.0
        }

        fn code(&self) -> Option<Cow<'_, str>> {
            Some(self.0.into())
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

        fn kind(&self) -> sqlx::error::ErrorKind {
            sqlx::error::ErrorKind::Other
        }
    }

    /// Appendix A of PostgreSQL's manual, and ours: a job is tried again only where that can help.
    #[test]
    fn every_class_that_no_repetition_helps_is_an_answer() {
        const ANSWERS: [&str; 33] = [
            "0A000", "0B000", "0F000", "0L000", "0P000", "0Z002", "20000", "21000", "22001", "23505", "24000", "27000",
            "28000", "2B000", "2D000", "2F005", "34000", "38000", "39000", "3B000", "3D000", "3F000", "42P01", "42501",
            "44000", "54001", "HV000", "P0001", "P0002", "NS400", "NS403", "NS404", "NS409",
        ];
        const PASSING: [&str; 16] = [
            "08006", "25006", "25P02", "26000", "40001", "40P01", "53100", "53300", "55P03", "57014", "57P01", "57P03",
            "58030", "72000", "F0000", "XX000",
        ];
        let answers = |code| is_answer(&sqlx::Error::Database(Box::new(Said(code))));
        for code in ANSWERS {
            assert!(answers(code), "{code}");
        }
        for code in PASSING {
            assert!(!answers(code), "{code}");
        }
    }
}
