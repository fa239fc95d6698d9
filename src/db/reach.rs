//! One plain connection, before there is a pool: what keeps it from the database is told at once, in a sentence.

use std::{io, str::FromStr, time::Duration};

use anyhow::{Context, anyhow, ensure};
use sqlx::{Executor, postgres::PgConnectOptions};

use super::{PgConnection, Role, connection};

/// As long as a person waits, and as an orchestrator does.
const PATIENCE: Duration = Duration::from_secs(10);

/// How to connect, as a URL names it.
pub fn options(url: &str) -> anyhow::Result<PgConnectOptions> {
    // The driver looks at no scheme: another system's would be looked up as a host.
    ensure!(
        ["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme)),
        "DATABASE_URL is not a PostgreSQL URL, such as postgres://noshi@localhost/noshi"
    );
    known_parameters(url)?;
    let options = PgConnectOptions::from_str(url)
        .context("DATABASE_URL is not a PostgreSQL URL, such as postgres://noshi@localhost/noshi")?;
    Ok(options.application_name("noshi").options([("synchronous_commit", "on")]))
}

/// What the driver takes from a URL.
const PARAMETERS: [&str; 18] = [
    "application_name",
    "dbname",
    "host",
    "hostaddr",
    "options",
    "password",
    "port",
    "ssl-ca",
    "ssl-cert",
    "ssl-key",
    "ssl-mode",
    "ssl-root-cert",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslrootcert",
    "statement-cache-capacity",
    "user",
];

/// Of libpq's own, those that change nothing of whom we talk to and how secretly: as we wait, we wait.
const WITHOUT_EFFECT: [&str; 10] = [
    "client_encoding",
    "connect_timeout",
    "fallback_application_name",
    "gssencmode",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "target_session_attrs",
    "tcp_user_timeout",
];

/// The driver passes over what it does not know: a slip in `sslmode` would talk to anybody.
fn known_parameters(url: &str) -> anyhow::Result<()> {
    let Some((_, query)) = url.split_once('?') else { return Ok(()) };
    let query = query.split('#').next().unwrap_or_default();
    for name in query.split('&').filter_map(|pair| pair.split('=').next()).filter(|name| !name.is_empty()) {
        let is_option = name.starts_with("options[") || name.starts_with("options%5B");
        ensure!(
            is_option || PARAMETERS.contains(&name) || WITHOUT_EFFECT.contains(&name),
            "DATABASE_URL has the parameter {name}, which noshi does not know; nothing was done. Write it as it is meant, or leave it out"
        );
    }
    Ok(())
}

/// A connection that acts for the login itself, with whatever the database's owner has set.
pub async fn login(url: &str) -> anyhow::Result<PgConnection> {
    reach(&options(url)?, Role::Login).await
}

/// A connection that acts as `role`, in a database that has our schema.
pub async fn reach(options: &PgConnectOptions, role: Role) -> anyhow::Result<PgConnection> {
    let reached = tokio::time::timeout(PATIENCE, async {
        let mut connection = PgConnection::connect_with(options, connection::PATIENCE)
            .await
            .map_err(|error| unreachable(options, error))?;
        if let Some(group) = role.group() {
            connection.execute(role.set_role()).await.map_err(|error| not_a_member(options, group, error))?;
            const MIGRATED: &str = "select to_regclass('noshi.job') is not null";
            let migrated = sqlx::query_scalar(MIGRATED).persistent(false).fetch_one(&mut connection).await;
            ensure!(
                migrated.unwrap_or(true),
                "the database {} has no schema of noshi: run `noshi migrate up` with its owner's login, or name the right database",
                database(options)
            );
        }
        Ok(connection)
    });
    reached.await.unwrap_or_else(|_| {
        Err(anyhow!(
            "{} has not answered for {} s: check the host, and what lies between",
            place(options),
            PATIENCE.as_secs()
        ))
    })
}

fn place(options: &PgConnectOptions) -> String {
    match options.get_socket() {
        Some(socket) => format!("{}, port {}", socket.display(), options.get_port()),
        None => format!("{}:{}", options.get_host(), options.get_port()),
    }
}

fn database(options: &PgConnectOptions) -> &str {
    options.get_database().unwrap_or(options.get_username())
}

/// What it is and what to do, in one sentence. The cause is in it; a chain of causes would say it again.
fn unreachable(options: &PgConnectOptions, error: sqlx::Error) -> anyhow::Error {
    let (place, login, database) = (place(options), options.get_username(), database(options));
    if let sqlx::Error::Io(io) = &error {
        return if matches!(io.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) {
            anyhow!("no PostgreSQL listens at {place} ({}): check host and port, and that the server runs", brief(io))
        } else {
            anyhow!("{place} cannot be reached: {}", brief(io))
        };
    }
    if let sqlx::Error::Protocol(_) = &error {
        return anyhow!("what answers at {place} is no PostgreSQL server: check host and port");
    }
    if let sqlx::Error::Tls(why) = &error {
        return anyhow!(
            "no TLS with {place}: {why}; sslmode and sslrootcert in DATABASE_URL say what is asked for, and the server's `ssl` what it offers"
        );
    }
    let Some(said) = error.as_database_error() else {
        return anyhow!("no connection to {place}: {error}");
    };
    let code = said.code().unwrap_or_default().into_owned();
    match code.as_str() {
        "28P01" => anyhow!(
            "the server at {place} refuses the password of the login {login}: check it in DATABASE_URL, or in ~/.pgpass (mode 600)"
        ),
        "28000" => anyhow!("the server at {place} does not let the login {login} in: {}", said.message()),
        "3D000" => {
            anyhow!("the server at {place} has no database {database}: create it, or name another in DATABASE_URL")
        }
        "53300" if said.message().contains("role") => {
            anyhow!(
                "the login {login} has as many connections to {place} as it may: stop something, or raise its connection limit"
            )
        }
        "53300" => anyhow!("the server at {place} has no connection left: raise max_connections, or stop something"),
        "57P03" => anyhow!("the server at {place} is not ready: {}", said.message()),
        _ => anyhow!("no connection to {place} as {login}: {} (SQLSTATE {code})", said.message()),
    }
}

fn not_a_member(options: &PgConnectOptions, group: &str, error: sqlx::Error) -> anyhow::Error {
    let login = options.get_username();
    match error.as_database_error().and_then(|error| error.code()).as_deref() {
        Some("42501") => anyhow!(
            "the login {login} may not act as {group}: connect with a login that may, or `grant {group} to {login}` as the owner"
        ),
        Some("22023" | "42704") => anyhow!(
            "this server has no role {group}: run `noshi migrate up` with the login that owns the database {}",
            database(options)
        ),
        _ => anyhow!("the login {login} cannot act as {group}: {error}"),
    }
}

fn brief(error: &io::Error) -> String {
    error.to_string().split(" (os error").next().unwrap_or_default().to_lowercase()
}
