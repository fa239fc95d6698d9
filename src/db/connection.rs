//! A connection whose every wait ends: what is asked over it is answered within a bound, or it is thrown away with the socket under it.

use futures::{
    FutureExt, Stream, StreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use sqlx::{
    Connection, Either, Error, Execute, Executor, Postgres, SqlStr,
    migrate::{Migrate, MigrateError},
    postgres::{PgConnectOptions, PgQueryResult, PgRow, PgStatement, PgTypeInfo},
};
use std::{
    collections::HashMap,
    future::Future,
    io,
    ops::{Deref, DerefMut},
    pin::Pin,
    str::FromStr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tokio::time::{Sleep, timeout};

/// For the answer to a statement. The session's own bound is 5 s, so that a server which is there answers sooner.
pub const PATIENCE: Duration = Duration::from_secs(8);
/// For a new connection with everything that makes it ours, over a link of a second.
pub(super) const TO_CONNECT: Duration = Duration::from_secs(8);
/// For a sign of life of a connection that lay idle.
pub(super) const TO_SHOW_LIFE: Duration = Duration::from_secs(2);
/// For a free place in the pool.
pub(super) const FOR_A_PLACE: Duration = Duration::from_secs(5);
/// A connection that was answered this recently is used without a look.
pub(super) const FRESH: Duration = Duration::from_secs(1);
pub(super) const MAX_IDLE: Duration = Duration::from_secs(10 * 60);
pub(super) const MAX_AGE: Duration = Duration::from_secs(30 * 60);
/// A migration may rewrite a large table.
pub(super) const TO_MIGRATE: Duration = Duration::from_secs(2 * 60 * 60);
/// A listener that heard nothing for this long asks whether anybody is there.
pub(super) const LISTENS: Duration = Duration::from_secs(15);

pub(super) static SILENT: AtomicUsize = AtomicUsize::new(0);
pub(super) static UNFIT: AtomicUsize = AtomicUsize::new(0);

/// Connections thrown away by this process so far: because nothing came back, and because their server was not the one to write to.
pub fn thrown_away() -> (usize, usize) {
    (SILENT.load(Ordering::Relaxed), UNFIT.load(Ordering::Relaxed))
}

pub(super) fn silent(patience: Duration) -> Error {
    SILENT.fetch_add(1, Ordering::Relaxed);
    let said = format!("the database did not answer within {} s; the connection is given up", patience.as_secs_f32());
    Error::Io(io::Error::new(io::ErrorKind::TimedOut, said))
}

pub(super) fn unfit(why: &str) -> Error {
    UNFIT.fetch_add(1, Ordering::Relaxed);
    Error::Io(io::Error::new(io::ErrorKind::NotConnected, why.to_owned()))
}

/// After this nothing more may be asked over the connection: it is lost, out of step, or leads to a server that cannot do the work.
pub fn ends_connection(error: &Error) -> bool {
    let Some(error) = error.as_database_error() else {
        return matches!(error, Error::Io(_) | Error::Tls(_) | Error::Protocol(_) | Error::WorkerCrashed);
    };
    // 08: lost; 25006: it is a standby; 25P03, 57P0x: it closes the session or shuts down; 58, XX: what a server that is crashing says.
    error.code().is_some_and(|code| {
        ["08", "57P0", "58", "XX"].iter().any(|class| code.starts_with(class)) || code == "25006" || code == "25P03"
    })
}

/// What was asked over a connection, and when it was last answered.
#[derive(Debug)]
pub(super) struct Watch {
    pub(super) patience: Duration,
    /// Until the transaction ends: it takes time on purpose.
    pub(super) lengthened: Option<Duration>,
    pub(super) answered: Instant,
    pub(super) asked: Option<Instant>,
    pub(super) broken: bool,
    /// Of [`TURNS`], when its server was last looked at.
    pub(super) turn: usize,
}

impl Watch {
    pub(super) fn new(patience: Duration) -> Watch {
        Watch { patience, lengthened: None, answered: Instant::now(), asked: None, broken: false, turn: 0 }
    }

    pub(super) fn patience(&self) -> Duration {
        self.lengthened.unwrap_or(self.patience)
    }

    pub(super) fn ask(&mut self) -> Result<(), Error> {
        if self.broken {
            return Err(Error::Io(io::Error::new(io::ErrorKind::NotConnected, "the connection was given up before")));
        }
        self.asked = Some(Instant::now());
        Ok(())
    }

    pub(super) fn answer(&mut self) {
        self.answered = Instant::now();
    }

    pub(super) fn end(&mut self) {
        self.answer();
        self.asked = None;
    }

    pub(super) fn fail(&mut self, error: &Error) {
        self.end();
        self.broken |= ends_connection(error);
    }

    pub(super) fn give_up(&mut self) -> Error {
        self.broken = true;
        silent(self.patience())
    }
}

/// A stream or a future of sqlx, bounded: it ends with an error once nothing has come for as long as the watch is patient.
pub(super) struct Bounded<'e, T> {
    pub(super) inner: T,
    pub(super) watch: &'e mut Watch,
    pub(super) sleep: Option<Pin<Box<Sleep>>>,
    pub(super) over: bool,
}

impl<'e, T> Bounded<'e, T> {
    pub(super) const fn new(inner: T, watch: &'e mut Watch) -> Self {
        Bounded { inner, watch, sleep: None, over: false }
    }

    /// Only a wait costs a timer.
    pub(super) fn is_too_late(&mut self, cx: &mut Context<'_>) -> bool {
        let patience = self.watch.patience();
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        sleep.as_mut().poll(cx).is_ready()
    }
}

impl<T: Stream<Item = Result<V, Error>> + Unpin, V> Stream for Bounded<'_, T> {
    type Item = Result<V, Error>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.over {
            return Poll::Ready(None);
        }
        match this.inner.poll_next_unpin(cx) {
            Poll::Ready(Some(Ok(value))) => {
                this.sleep = None;
                this.watch.answer();
                Poll::Ready(Some(Ok(value)))
            }
            Poll::Ready(Some(Err(error))) => {
                this.over = true;
                this.watch.fail(&error);
                Poll::Ready(Some(Err(error)))
            }
            Poll::Ready(None) => {
                this.over = true;
                this.watch.end();
                Poll::Ready(None)
            }
            Poll::Pending if this.is_too_late(cx) => {
                this.over = true;
                Poll::Ready(Some(Err(this.watch.give_up())))
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<T: Future<Output = Result<V, Error>> + Unpin, V> Future for Bounded<'_, T> {
    type Output = Result<V, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        match this.inner.poll_unpin(cx) {
            Poll::Ready(Ok(value)) => {
                this.watch.end();
                Poll::Ready(Ok(value))
            }
            Poll::Ready(Err(error)) => {
                this.watch.fail(&error);
                Poll::Ready(Err(error))
            }
            Poll::Pending if this.is_too_late(cx) => Poll::Ready(Err(this.watch.give_up())),
            Poll::Pending => Poll::Pending,
        }
    }
}

/// One connection, every statement of which is bounded.
#[derive(Debug)]
pub struct PgConnection {
    pub(super) raw: sqlx::PgConnection,
    pub(super) watch: Watch,
    pub(super) opened: Instant,
}

impl PgConnection {
    /// To whatever server is there: for `doctor`, and for what sets the server up.
    pub async fn connect(url: &str) -> Result<PgConnection, Error> {
        PgConnection::connect_with(&PgConnectOptions::from_str(url)?, PATIENCE).await
    }

    pub async fn connect_with(options: &PgConnectOptions, patience: Duration) -> Result<PgConnection, Error> {
        let raw =
            timeout(TO_CONNECT, sqlx::PgConnection::connect_with(options)).await.map_err(|_| silent(TO_CONNECT))??;
        Ok(PgConnection { raw, watch: Watch::new(patience), opened: Instant::now() })
    }

    /// Waits so long for each answer until the transaction ends.
    pub(super) const fn lengthen(&mut self, patience: Duration) {
        self.watch.lengthened = Some(patience);
    }

    pub async fn begin(&mut self) -> Result<Nested<'_>, Error> {
        self.execute("begin").await?;
        Ok(Nested { connection: self, open: true })
    }

    /// Ends the session in order, if that does not take long.
    pub async fn close(self) -> Result<(), Error> {
        let ends = timeout(TO_SHOW_LIFE, self.raw.close()).await;
        ends.map_err(|_| silent(TO_SHOW_LIFE))?
    }

    /// Streams text into a COPY.
    pub(super) async fn copy_in(&mut self, sql: &str, text: &[u8]) -> Result<u64, Error> {
        self.watch.ask()?;
        let raw = &mut self.raw;
        let copy = Box::pin(async move {
            let mut copy = raw.copy_in_raw(sql).await?;
            copy.send(text).await?;
            copy.finish().await
        });
        Bounded::new(copy, &mut self.watch).await
    }

    pub(super) async fn migrate(&mut self, migrations: &sqlx::migrate::Migrator) -> Result<(), MigrateError> {
        match timeout(TO_MIGRATE, migrations.run(&mut self.raw)).await {
            Ok(ran) => ran,
            Err(_) => {
                self.watch.broken = true;
                Err(silent(TO_MIGRATE).into())
            }
        }
    }

    /// Until no other run migrates this database.
    pub(super) async fn lock_migrations(&mut self) -> Result<(), MigrateError> {
        match timeout(TO_MIGRATE, self.raw.lock()).await {
            Ok(locked) => locked,
            Err(_) => {
                self.watch.broken = true;
                Err(silent(TO_MIGRATE).into())
            }
        }
    }

    /// The server can do the work, and is none that a newer one has replaced.
    pub(super) async fn look_at_server(&mut self) -> Result<(), Error> {
        const LOOK: &str = "select pg_is_in_recovery() or current_setting('transaction_read_only')::bool,
    (select system_identifier from pg_control_system()),
    case when not pg_is_in_recovery() then substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) end";
        const LOOK_ONLY: &str =
            "select pg_is_in_recovery() or current_setting('transaction_read_only')::bool, 0::bigint, null::text";
        let looked = sqlx::query_as(LOOK).fetch_one(&mut *self).await;
        let (read_only, system, timeline): (bool, i64, Option<String>) = match looked {
            Ok(found) => found,
            // A host may keep these functions for itself; that it takes writes can be seen without.
            Err(error)
                if matches!(
                    error.as_database_error().and_then(|error| error.code()).as_deref(),
                    Some("42501" | "55000" | "0A000" | "42883")
                ) =>
            {
                sqlx::query_as(LOOK_ONLY).fetch_one(&mut *self).await?
            }
            Err(error) => return Err(error),
        };
        if read_only {
            self.watch.broken = true;
            return Err(unfit(
                "this server takes no writes (a standby, or set read-only): connecting again until the primary answers",
            ));
        }
        if let Some(newest) = timeline.and_then(|timeline| is_overtaken(system, timeline)) {
            self.watch.broken = true;
            return Err(unfit(&format!(
                "this server is on an older timeline than the one seen before ({newest}): it was replaced by a failover, and nothing is written to it"
            )));
        }
        self.watch.turn = TURNS.load(Ordering::Relaxed);
        Ok(())
    }

    pub(super) const fn is_clean(&self) -> bool {
        !self.watch.broken && self.watch.asked.is_none()
    }
}

/// How often a newer timeline was seen than the newest before: whoever was looked at earlier may be on an older one.
pub(super) static TURNS: AtomicUsize = AtomicUsize::new(0);

/// The newest timeline of each cluster that this process has seen, if this one is older.
pub(super) fn is_overtaken(system: i64, timeline: String) -> Option<String> {
    static NEWEST: Mutex<Option<HashMap<i64, String>>> = Mutex::new(None);
    let mut newest = NEWEST.lock().unwrap_or_else(PoisonError::into_inner);
    let newest = newest.get_or_insert_default().entry(system).or_default();
    // Eight hexadecimal digits: in the order of text.
    if *newest > timeline {
        return Some(newest.clone());
    }
    if *newest != timeline {
        TURNS.fetch_add(1, Ordering::Relaxed);
        *newest = timeline;
    }
    None
}

pub(super) type Step = Either<PgQueryResult, PgRow>;

impl<'c> Executor<'c> for &'c mut PgConnection {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, Result<Step, Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        match self.watch.ask() {
            Ok(()) => Bounded::new(self.raw.fetch_many(query), &mut self.watch).boxed(),
            Err(error) => stream::once(async { Err(error) }).boxed(),
        }
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<PgRow>, Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        match self.watch.ask() {
            Ok(()) => Bounded::new(self.raw.fetch_optional(query), &mut self.watch).boxed(),
            Err(error) => async { Err(error) }.boxed(),
        }
    }

    fn prepare_with<'e>(self, sql: SqlStr, parameters: &'e [PgTypeInfo]) -> BoxFuture<'e, Result<PgStatement, Error>>
    where
        'c: 'e,
    {
        match self.watch.ask() {
            Ok(()) => Bounded::new(self.raw.prepare_with(sql, parameters), &mut self.watch).boxed(),
            Err(error) => async { Err(error) }.boxed(),
        }
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<sqlx::Describe<Postgres>, Error>>
    where
        'c: 'e,
    {
        match self.watch.ask() {
            Ok(()) => Bounded::new(self.raw.describe(sql), &mut self.watch).boxed(),
            Err(error) => async { Err(error) }.boxed(),
        }
    }
}

/// A transaction of a connection that is in no pool.
pub struct Nested<'c> {
    pub(super) connection: &'c mut PgConnection,
    pub(super) open: bool,
}

impl Nested<'_> {
    pub async fn commit(mut self) -> Result<(), Error> {
        self.open = false;
        self.connection.execute("commit").await.map(|_| ())
    }

    pub async fn rollback(mut self) -> Result<(), Error> {
        self.open = false;
        self.connection.execute("rollback").await.map(|_| ())
    }
}

impl Drop for Nested<'_> {
    fn drop(&mut self) {
        // Nobody can wait here: the session ends with the connection, and the transaction with it.
        self.connection.watch.broken |= self.open;
    }
}

impl Deref for Nested<'_> {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        self.connection
    }
}

impl DerefMut for Nested<'_> {
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.connection
    }
}

/// What is done to a new connection before it is used.
pub(super) type Prepare = dyn Fn(&mut PgConnection) -> BoxFuture<'_, Result<(), Error>> + Send + Sync;
