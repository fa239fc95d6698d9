//! A PostgreSQL server of our own, for `noshi demo` and the tests: no port, no password, no trace afterwards.
//!
//! ```text
//! owner (we) ──pipe──▶ watcher (sh, the server's user) ──▶ initdb, pg_ctl ──▶ postgres
//! ```
//!
//! The server lives as long as the process that started it, even if that is ended by SIGKILL: see `watcher`.

mod account;
mod directory;
mod install;
mod programs;
mod settings;
mod watcher;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor};

use self::{
    directory::Directory,
    watcher::{Order, Watcher},
};

pub use self::settings::Settings;

/// Recovery of a server with few data takes a second; orphans of a killed server hold the next one up for 2 to 4.
const RESTART_DEADLINE: Duration = Duration::from_secs(60);

/// A running server. Dropping it ends the server shortly afterwards; [`Self::stop`] waits for that.
///
/// It holds nothing of an async runtime: it may be kept in a `static`, and used from one runtime after another.
pub struct PrivatePostgres {
    server: Arc<Server>,
    log: PathBuf,
}

struct Server {
    /// Keeps the directory locked together with the watcher.
    directory: Directory,
    watcher: Mutex<Watcher>,
}

impl PrivatePostgres {
    /// A new, empty server, ready for connections (0.6 to 2 s). Where the server programs are absent, they are
    /// installed (root on Debian, announced on standard error) or the error names the command that does.
    pub async fn start(settings: Settings) -> Result<Self> {
        let server = blocking(move || Server::start(&settings)).await?;
        Ok(Self { log: server.directory.path.join("server.log"), server: Arc::new(server) })
    }

    /// For sqlx, psql and, as `DATABASE_URL`, for child processes. The role is the superuser `postgres`.
    ///
    /// Only root and the user that owns this process can connect: the socket is in a directory of mode 0700.
    pub fn url(&self, database: &str) -> String {
        self.url_as("postgres", database)
    }

    /// The same for another login.
    pub fn url_as(&self, login: &str, database: &str) -> String {
        // The host before the path is never used, but sqlx's parser wants one. The port and the TLS mode are said
        // so that PGPORT and PGSSLMODE of a caller do not apply.
        format!(
            "postgres://{}@localhost:5432/{}?host={}&sslmode=disable",
            percent_encoded(login),
            percent_encoded(database),
            percent_encoded(&self.server.directory.path.to_string_lossy())
        )
    }

    /// A login of its own for a person, a member of `role`.
    pub async fn create_login(&self, login: &str, role: &str) -> Result<()> {
        let (login, role) = (quoted(login)?, quoted(role)?);
        self.execute(format!("create role {login} login in role {role}")).await
    }

    pub async fn create_database(&self, name: &str) -> Result<()> {
        let name = quoted(name)?;
        self.execute(format!("create database {name}")).await
    }

    /// A copy of a database to which nobody is connected. Some 20 ms: the pages go through the log, without the
    /// checkpoint that the other strategy takes.
    pub async fn create_from_template(&self, template: &str, name: &str) -> Result<()> {
        let (template, name) = (quoted(template)?, quoted(name)?);
        self.execute(format!("create database {name} template {template} strategy wal_log")).await
    }

    /// The server's own log. Like any PostgreSQL log it can hold the values of statements.
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// Everything of this server is in here, and is gone when it is.
    pub fn directory(&self) -> &Path {
        &self.server.directory.path
    }

    /// The process id of the postmaster, for tests that kill or pause it.
    pub fn postmaster(&self) -> Result<u32> {
        let file = self.directory().join("data/postmaster.pid");
        let text = fs::read_to_string(&file).context("the private PostgreSQL server is down")?;
        let line = text.lines().next().unwrap_or_default();
        line.trim().parse().with_context(|| format!("{} holds no process id", file.display()))
    }

    /// Ends every connection at once, without a checkpoint, and starts the server again, which recovers what was
    /// committed. Also after somebody else killed it. Returns how long it was down.
    pub async fn crash_restart(&self) -> Result<Duration> {
        let server = Arc::clone(&self.server);
        blocking(move || server.crash_restart()).await
    }

    /// Returns when the server and its directory are gone.
    pub async fn stop(self) -> Result<()> {
        let server = Arc::clone(&self.server);
        blocking(move || server.stop()).await
    }

    async fn execute(&self, statement: String) -> Result<()> {
        let options: sqlx::postgres::PgConnectOptions = self.url("postgres").parse()?;
        let mut connection = options.connect().await?;
        // Made of quoted identifiers; such statements take no parameters.
        connection.execute(AssertSqlSafe(statement)).await?;
        connection.close().await?;
        Ok(())
    }
}

impl Server {
    fn start(settings: &Settings) -> Result<Self> {
        let (programs, account) = programs::find_or_install()?;
        let directory = Directory::create(&account, &programs)?;
        let path = &directory.path;
        // While the directory is our own.
        directory.hand_over_with("settings.conf", &settings.lines(path)?, &account)?;
        // From here on the watcher cleans up, whatever happens to us.
        let mut watcher = Watcher::start(&account, &programs, path, &directory.lock, &settings.environment)?;
        if !watcher.order(Order::Initialize)? {
            bail!("initdb of {} failed as {}:\n{}", programs.display(), account.name, watcher.said());
        }
        if !watcher.order(Order::Start)? {
            bail!(
                "PostgreSQL of {} did not start as {}:\n{}\n{}",
                programs.display(),
                account.name,
                watcher.said(),
                watcher::tail(&path.join("server.log"))
            );
        }
        Ok(Self { directory, watcher: Mutex::new(watcher) })
    }

    fn crash_restart(&self) -> Result<Duration> {
        let mut watcher = self.watcher();
        let down = Instant::now();
        // Fails where it is down already, which is as good.
        watcher.order(Order::Crash)?;
        while !watcher.order(Order::Start)? {
            if down.elapsed() > RESTART_DEADLINE {
                bail!("PostgreSQL did not start again within {} s:\n{}", RESTART_DEADLINE.as_secs(), watcher.said());
            }
            // The shared memory is in use until the last orphan backend has noticed; nothing announces that.
            thread::sleep(Duration::from_millis(100));
        }
        Ok(down.elapsed())
    }

    fn stop(&self) -> Result<()> {
        let mut watcher = self.watcher();
        // Where this fails the server is down, or is ended with less courtesy.
        let _ = watcher.order(Order::Stop);
        watcher.end()
    }

    fn watcher(&self) -> MutexGuard<'_, Watcher> {
        self.watcher.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.context("the private PostgreSQL server's task ended early")?
}

/// PostgreSQL cuts longer names off, and would then speak of another database.
fn quoted(name: &str) -> Result<String> {
    if name.is_empty() || name.len() > 63 || name.contains('\0') {
        bail!("{name:?} is no name of a database: 1 to 63 bytes, without a zero byte");
    }
    Ok(format!("\"{}\"", name.replace('"', "\"\"")))
}

fn percent_encoded(text: &str) -> String {
    let encode = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(encode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_paths_survive_quoting() {
        assert_eq!(percent_encoded("/tmp/a b&c=ä"), "%2Ftmp%2Fa%20b%26c%3D%C3%A4");
        assert_eq!(quoted("a\"b").unwrap(), "\"a\"\"b\"");
        assert!(quoted("").is_err());
        assert!(quoted(&"x".repeat(64)).is_err());
    }
}
