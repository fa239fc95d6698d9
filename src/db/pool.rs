//! Every wait for the database ends. What the rest of the program knows as its pool, its connection and its transaction are these: a
//! statement that is asked through them is answered within a bound, or its connection is thrown away with the socket under it.
//!
//! sqlx has no bound for a statement, and a future that is dropped in mid-statement leaves its connection to a task that waits for the same
//! dead socket. A peer that vanished without a word would hold a pool's every place for good. So the pool is ours too: it keeps a
//! connection only where the last thing asked of it was answered, looks at it again before it is used after a pause, and takes it only
//! from a server that is writable and on no older timeline than this process has seen.

use std::{
    collections::HashMap,
    future::Future,
    io,
    ops::{Deref, DerefMut},
    pin::Pin,
    str::FromStr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures::{
    FutureExt, Stream, StreamExt, TryFutureExt, TryStreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use sqlx::{
    Connection, Either, Error, Execute, Executor, Postgres, SqlStr,
    migrate::{Migrate, MigrateError},
    postgres::{PgConnectOptions, PgListener, PgNotification, PgQueryResult, PgRow, PgStatement, PgTypeInfo},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Sleep, timeout},
};

use super::holders;

/// For the answer to a statement. The session's own bound is 5 s, so that a server which is there answers sooner.
pub const PATIENCE: Duration = Duration::from_secs(8);
/// For a new connection with everything that makes it ours, over a link of a second.
const TO_CONNECT: Duration = Duration::from_secs(8);
/// For a sign of life of a connection that lay idle.
const TO_SHOW_LIFE: Duration = Duration::from_secs(2);
/// For a free place in the pool.
const FOR_A_PLACE: Duration = Duration::from_secs(5);
/// A connection that was answered this recently is used without a look.
const FRESH: Duration = Duration::from_secs(1);
const MOST_IDLE: Duration = Duration::from_secs(10 * 60);
const MOST_AGE: Duration = Duration::from_secs(30 * 60);
/// A migration may rewrite a large table.
pub(super) const TO_MIGRATE: Duration = Duration::from_secs(2 * 60 * 60);
/// A listener that heard nothing for this long asks whether anybody is there.
const LISTENS: Duration = Duration::from_secs(15);

static SILENT: AtomicUsize = AtomicUsize::new(0);
static UNFIT: AtomicUsize = AtomicUsize::new(0);

/// Connections thrown away by this process so far: because nothing came back, and because their server was not the one to write to.
pub fn thrown_away() -> (usize, usize) {
    (SILENT.load(Ordering::Relaxed), UNFIT.load(Ordering::Relaxed))
}

fn silent(patience: Duration) -> Error {
    SILENT.fetch_add(1, Ordering::Relaxed);
    let said = format!("the database did not answer within {} s; the connection is given up", patience.as_secs_f32());
    Error::Io(io::Error::new(io::ErrorKind::TimedOut, said))
}

fn unfit(why: &str) -> Error {
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
struct Watch {
    patience: Duration,
    /// Until the transaction ends: it takes time on purpose.
    lengthened: Option<Duration>,
    answered: Instant,
    asked: Option<Instant>,
    broken: bool,
    /// Of [`TURNS`], when its server was last looked at.
    turn: usize,
}

impl Watch {
    fn new(patience: Duration) -> Watch {
        Watch { patience, lengthened: None, answered: Instant::now(), asked: None, broken: false, turn: 0 }
    }

    fn patience(&self) -> Duration {
        self.lengthened.unwrap_or(self.patience)
    }

    fn ask(&mut self) -> Result<(), Error> {
        if self.broken {
            return Err(Error::Io(io::Error::new(io::ErrorKind::NotConnected, "the connection was given up before")));
        }
        self.asked = Some(Instant::now());
        Ok(())
    }

    fn answer(&mut self) {
        self.answered = Instant::now();
    }

    fn end(&mut self) {
        self.answer();
        self.asked = None;
    }

    fn fail(&mut self, error: &Error) {
        self.end();
        self.broken |= ends_connection(error);
    }

    fn give_up(&mut self) -> Error {
        self.broken = true;
        silent(self.patience())
    }
}

/// A stream or a future of sqlx, bounded: it ends with an error once nothing has come for as long as the watch is patient.
struct Bounded<'e, T> {
    inner: T,
    watch: &'e mut Watch,
    sleep: Option<Pin<Box<Sleep>>>,
    over: bool,
}

impl<'e, T> Bounded<'e, T> {
    const fn new(inner: T, watch: &'e mut Watch) -> Self {
        Bounded { inner, watch, sleep: None, over: false }
    }

    /// Only a wait costs a timer.
    fn is_too_late(&mut self, cx: &mut Context<'_>) -> bool {
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
    raw: sqlx::PgConnection,
    watch: Watch,
    opened: Instant,
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
    async fn look_at_server(&mut self) -> Result<(), Error> {
        const LOOK: &str = "select pg_is_in_recovery() or current_setting('transaction_read_only')::bool,
    (select system_identifier from pg_control_system()),
    case when not pg_is_in_recovery() then substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) end";
        const LOOK_ONLY: &str =
            "select pg_is_in_recovery() or current_setting('transaction_read_only')::bool, 0::bigint, null::text";
        let looked = sqlx::query_as(LOOK).fetch_one(&mut *self).await;
        let (read_only, system, timeline): (bool, i64, Option<String>) = match looked {
            Ok(found) => found,
            // A host may keep these functions for itself; that it takes writes can be seen without.
            Err(error) if error.as_database_error().and_then(|error| error.code()).as_deref() == Some("42501") => {
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

    const fn is_clean(&self) -> bool {
        !self.watch.broken && self.watch.asked.is_none()
    }
}

/// How often a newer timeline was seen than the newest before: whoever was looked at earlier may be on an older one.
static TURNS: AtomicUsize = AtomicUsize::new(0);

/// The newest timeline of each cluster that this process has seen, if this one is older.
fn is_overtaken(system: i64, timeline: String) -> Option<String> {
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

type Step = Either<PgQueryResult, PgRow>;

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
    connection: &'c mut PgConnection,
    open: bool,
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

/// Connections to one database, each looked at before it is used after a pause.
#[derive(Clone)]
pub struct PgPool {
    inner: Arc<Inner>,
    patience: Duration,
    for_a_place: Duration,
}

struct Inner {
    options: PgConnectOptions,
    prepare: Box<Prepare>,
    /// Only a server that takes writes will do.
    writes: bool,
    places: Arc<Semaphore>,
    idle: Mutex<Vec<PgConnection>>,
    open: AtomicU32,
    /// A connection that has answered nothing since then is as good as lost: another one went silent.
    /// No connection is used for longer; but ten times as long as the last one took to be made, so that a far database is not connected to all the time.
    age: Mutex<Duration>,
    made_in: Mutex<Duration>,
    doubted: Mutex<Instant>,
}

impl std::fmt::Debug for PgPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PgPool").field("open", &self.size()).field("idle", &self.num_idle()).finish_non_exhaustive()
    }
}

impl PgPool {
    /// For statements that are slow on purpose.
    pub const LONG: Duration = Duration::from_secs(5 * 60);

    pub(super) fn new(options: PgConnectOptions, connections: u32, writes: bool, prepare: Box<Prepare>) -> PgPool {
        let inner = Inner {
            options,
            prepare,
            writes,
            places: Arc::new(Semaphore::new(connections as usize)),
            idle: Mutex::default(),
            open: AtomicU32::new(0),
            doubted: Mutex::new(Instant::now()),
            age: Mutex::new(MOST_AGE),
            made_in: Mutex::default(),
        };
        PgPool { inner: Arc::new(inner), patience: PATIENCE, for_a_place: FOR_A_PLACE }
    }

    /// Connects when it is first used, as the login, to whatever server is there, and gives statements time. For tools and tests.
    pub fn plain(url: &str, connections: u32) -> Result<PgPool, Error> {
        Ok(PgPool::plain_with(PgConnectOptions::from_str(url)?, connections))
    }

    pub fn plain_with(options: PgConnectOptions, connections: u32) -> PgPool {
        let pool = PgPool::new(options, connections, false, Box::new(|_| async { Ok(()) }.boxed()));
        pool.with_patience(PgPool::LONG)
    }

    /// The same, after it was seen to connect.
    pub async fn connect(url: &str) -> Result<PgPool, Error> {
        let pool = PgPool::plain(url, 10)?;
        drop(pool.acquire().await?);
        Ok(pool)
    }

    /// Connects anew that often. Where the address leads by then to a server that took over, this process sees it, though the old one still answers.
    pub fn renews(&self, every: Duration) {
        *self.inner.age.lock().unwrap_or_else(PoisonError::into_inner) = every;
    }

    /// The same connections, with another bound for each answer.
    pub fn with_patience(&self, patience: Duration) -> PgPool {
        PgPool { inner: Arc::clone(&self.inner), patience, for_a_place: self.for_a_place }
    }

    /// The same connections, for whose turn somebody can wait. Far from the database each statement takes long, and the next one waits for all before it.
    pub fn with_turns(&self, for_a_place: Duration) -> PgPool {
        PgPool { inner: Arc::clone(&self.inner), patience: self.patience, for_a_place }
    }

    /// Where it leads to: the database, and the host.
    pub fn place(&self) -> (&str, &str) {
        (self.inner.options.get_database().unwrap_or_default(), self.inner.options.get_host())
    }

    pub fn size(&self) -> u32 {
        self.inner.open.load(Ordering::Relaxed)
    }

    pub fn num_idle(&self) -> usize {
        self.inner.idle().len()
    }

    pub async fn acquire(&self) -> Result<PoolConnection, Error> {
        let place = timeout(self.for_a_place, Arc::clone(&self.inner.places).acquire_owned()).await;
        let place = place.map_err(|_| Error::PoolTimedOut)?.map_err(|_| Error::PoolClosed)?;
        while let Some(connection) = self.inner.take() {
            let mut taken = self.keep(connection, &place);
            let same = !self.inner.writes || taken.watch.turn == TURNS.load(Ordering::Relaxed);
            if same && taken.watch.answered.elapsed() < FRESH {
                return Ok(taken.with(place));
            }
            taken.watch.patience = TO_SHOW_LIFE.min(self.patience);
            let looked = match self.inner.writes {
                true => taken.look_at_server().await,
                false => taken.execute("select 1").await.map(|_| ()),
            };
            match looked {
                Ok(()) => {
                    taken.watch.patience = self.patience;
                    return Ok(taken.with(place));
                }
                // It goes with the place that it holds in the count; the next one is tried, or a new one opened.
                Err(error) => tracing::debug!(%error, "a connection of the pool was thrown away"),
            }
        }
        let new = self.open().await?;
        Ok(self.keep(new, &place).with(place))
    }

    fn keep(&self, mut connection: PgConnection, _place: &OwnedSemaphorePermit) -> PoolConnection {
        connection.watch.patience = self.patience;
        PoolConnection { connection: Some(connection), inner: Arc::clone(&self.inner), place: None }
    }

    async fn open(&self) -> Result<PgConnection, Error> {
        let (inner, began) = (&self.inner, Instant::now());
        let mut new = PgConnection::connect_with(&inner.options, TO_CONNECT).await?;
        let prepared = async {
            if inner.writes {
                new.look_at_server().await?;
            }
            (inner.prepare)(&mut new).await
        };
        timeout(TO_CONNECT, prepared).await.map_err(|_| silent(TO_CONNECT))??;
        inner.open.fetch_add(1, Ordering::Relaxed);
        *inner.made_in.lock().unwrap_or_else(PoisonError::into_inner) = began.elapsed();
        Ok(new)
    }

    pub async fn begin(&self) -> Result<Transaction, Error> {
        self.begin_with("begin").await
    }

    pub async fn begin_with(&self, begin: &'static str) -> Result<Transaction, Error> {
        let mut connection = self.acquire().await?;
        connection.execute(begin).await?;
        Ok(Transaction { connection: Some(connection) })
    }

    /// Gives up what is idle; whoever holds one drops it.
    pub async fn close(&self) {
        self.inner.places.close();
        let idle = std::mem::take(&mut *self.inner.idle());
        self.inner.open.fetch_sub(u32::try_from(idle.len()).unwrap_or(u32::MAX), Ordering::Relaxed);
        for connection in idle {
            let _ = connection.close().await;
        }
    }
}

impl Inner {
    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<PgConnection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The one used last, of those that are still to be believed.
    fn take(&self) -> Option<PgConnection> {
        let doubted = *self.doubted.lock().unwrap_or_else(PoisonError::into_inner);
        let made_in = *self.made_in.lock().unwrap_or_else(PoisonError::into_inner);
        let age = (*self.age.lock().unwrap_or_else(PoisonError::into_inner)).max(made_in * 10);
        let mut idle = self.idle();
        while let Some(connection) = idle.pop() {
            let watch = &connection.watch;
            let lives =
                watch.answered >= doubted && watch.answered.elapsed() < MOST_IDLE && connection.opened.elapsed() < age;
            if lives {
                return Some(connection);
            }
            self.open.fetch_sub(1, Ordering::Relaxed);
        }
        None
    }

    /// A connection is thrown away: what has answered nothing since this one was last asked has likely met the same fate.
    fn doubt(&self, since: Instant) {
        let mut doubted = self.doubted.lock().unwrap_or_else(PoisonError::into_inner);
        *doubted = (*doubted).max(since);
    }
}

/// A connection on loan.
pub struct PoolConnection {
    connection: Option<PgConnection>,
    inner: Arc<Inner>,
    place: Option<OwnedSemaphorePermit>,
}

impl PoolConnection {
    fn with(mut self, place: OwnedSemaphorePermit) -> Self {
        self.place = Some(place);
        self
    }
}

impl PoolConnection {
    /// Out of the pool, for good.
    pub fn detach(mut self) -> PgConnection {
        self.inner.open.fetch_sub(1, Ordering::Relaxed);
        self.connection.take().expect("it is there until the drop")
    }
}

impl Drop for PoolConnection {
    fn drop(&mut self) {
        let Some(connection) = self.connection.take() else { return };
        if connection.is_clean() && !self.inner.places.is_closed() {
            self.inner.idle().push(connection);
            return;
        }
        // The socket goes with it, at once: nobody waits for a farewell.
        self.inner.open.fetch_sub(1, Ordering::Relaxed);
        if connection.watch.broken {
            self.inner.doubt(connection.watch.asked.unwrap_or(connection.watch.answered));
        }
    }
}

impl Deref for PoolConnection {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        self.connection.as_ref().expect("it is there until the drop")
    }
}

impl DerefMut for PoolConnection {
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.connection.as_mut().expect("it is there until the drop")
    }
}

impl<'p> Executor<'p> for &'p PgPool {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, Result<Step, Error>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let steps = async move {
            let mut connection = self.acquire().await?;
            let steps: Result<Vec<Step>, Error> = connection.fetch_many(query).try_collect().await;
            match steps {
                Ok(steps) => Ok(stream::iter(steps.into_iter().map(Ok))),
                Err(error) => Err(holders::named(&mut connection, error).await),
            }
        };
        steps.try_flatten_stream().boxed()
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<PgRow>, Error>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        async move {
            let mut connection = self.acquire().await?;
            match connection.fetch_optional(query).await {
                Err(error) => Err(holders::named(&mut connection, error).await),
                row => row,
            }
        }
        .boxed()
    }

    fn prepare_with<'e>(self, sql: SqlStr, parameters: &'e [PgTypeInfo]) -> BoxFuture<'e, Result<PgStatement, Error>>
    where
        'p: 'e,
    {
        async move { self.acquire().await?.prepare_with(sql, parameters).await }.boxed()
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<sqlx::Describe<Postgres>, Error>>
    where
        'p: 'e,
    {
        async move { self.acquire().await?.describe(sql).await }.boxed()
    }
}

/// A transaction. Dropped, it is rolled back.
pub struct Transaction {
    connection: Option<PoolConnection>,
}

impl Transaction {
    pub async fn commit(mut self) -> Result<(), Error> {
        self.end("commit").await
    }

    pub async fn rollback(mut self) -> Result<(), Error> {
        self.end("rollback").await
    }

    /// Rolls it back. The same error; of a lock that did not come free it tells who holds it.
    pub(super) async fn fail(mut self, error: Error) -> Error {
        let Some(mut connection) = self.connection.take() else { return error };
        connection.watch.lengthened = None;
        match connection.execute("rollback").await {
            Ok(_) => holders::named(&mut connection, error).await,
            Err(_) => {
                connection.watch.broken = true;
                error
            }
        }
    }

    async fn end(&mut self, end: &'static str) -> Result<(), Error> {
        let Some(mut connection) = self.connection.take() else { return Ok(()) };
        let ended = connection.execute(end).await;
        connection.watch.lengthened = None;
        if ended.is_err() {
            // Whether it is over is not known.
            connection.watch.broken = true;
        }
        ended.map(|_| ())
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        let Some(mut connection) = self.connection.take() else { return };
        connection.watch.lengthened = None;
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) if connection.is_clean() => {
                connection.watch.patience = TO_SHOW_LIFE.max(connection.watch.patience);
                drop(runtime.spawn(async move {
                    if connection.execute("rollback").await.is_err() {
                        connection.watch.broken = true;
                    }
                }));
            }
            // In mid-statement, or with nobody to wait: it ends with its session.
            Ok(_) | Err(_) => connection.watch.asked = Some(Instant::now()),
        }
    }
}

impl Deref for Transaction {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        self.connection.as_ref().expect("it is there until its end")
    }
}

impl DerefMut for Transaction {
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.connection.as_mut().expect("it is there until its end")
    }
}

/// Hears hints. One that cannot be heard any more is noticed, and costs hints only.
pub struct Listener(PgListener);

impl Listener {
    pub async fn connect(url: &str, channel: &str) -> Result<Listener, Error> {
        let listens = async {
            let mut listener = PgListener::connect(url).await?;
            listener.listen(channel).await?;
            Ok(Listener(listener))
        };
        timeout(TO_CONNECT, listens).await.map_err(|_| silent(TO_CONNECT))?
    }

    /// The next hint; an error once the server does not answer.
    pub async fn hear(&mut self) -> Result<PgNotification, Error> {
        loop {
            if let Ok(heard) = timeout(LISTENS, self.0.recv()).await {
                return heard;
            }
            timeout(PATIENCE, self.0.execute("select 1")).await.map_err(|_| silent(PATIENCE))??;
        }
    }
}
