//! Connections that act in a role, and how long their statements may take.

use std::time::Duration;

use anyhow::Context;
use futures::future::BoxFuture;
use sqlx::{Executor, migrate::Migrator};

use super::{PgConnection, PgPool, refused::ActError};
use crate::db::{operator::tokens, reach};

pub static MIGRATIONS: Migrator = sqlx::migrate!("./migrations");

/// The group role a process acts in. Its login must be a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Worker,
    Operator,
    Producer,
    /// Takes events from the network: executes functions, reads and writes no table.
    Webhook,
    /// Serves the HTTP interface, in the name of whoever's token is shown.
    Api,
    /// The login's own rights: migrations and key rotation.
    Login,
}

impl Role {
    /// The group role; a login that acts for itself has none.
    pub(super) const fn group(self) -> Option<&'static str> {
        match self {
            Role::Worker => Some("noshi_worker"),
            Role::Operator => Some("noshi_operator"),
            Role::Producer => Some("noshi_producer"),
            Role::Webhook => Some("noshi_webhook"),
            Role::Api => Some("noshi_api"),
            Role::Login => None,
        }
    }

    pub(super) const fn set_role(self) -> &'static str {
        match self {
            Role::Worker => "set role noshi_worker",
            Role::Operator => "set role noshi_operator",
            Role::Producer => "set role noshi_producer",
            Role::Webhook => "set role noshi_webhook",
            Role::Api => "set role noshi_api",
            Role::Login => "reset role",
        }
    }

    /// Whether a server that takes no writes is of no use to it.
    const fn writes(self) -> bool {
        match self {
            Role::Worker | Role::Operator | Role::Producer | Role::Webhook | Role::Api => true,
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
pub async fn take_time(connection: &mut crate::db::PgConnection) -> Result<(), sqlx::Error> {
    const TAKE_TIME: &str =
        "set local statement_timeout = '5min'; set local idle_in_transaction_session_timeout = '1min'";
    connection.execute(TAKE_TIME).await?;
    // The server gives up first.
    connection.lengthen(Duration::from_secs(5 * 60 + 10));
    Ok(())
}

/// A call of one function, with time for what is large.
pub async fn in_time<T>(
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
