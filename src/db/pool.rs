//! Every wait for the database ends. What the rest of the program knows as its pool, its connection and its transaction are these: a
//! statement that is asked through them is answered within a bound, or its connection is thrown away with the socket under it.
//!
//! sqlx has no bound for a statement, and a future that is dropped in mid-statement leaves its connection to a task that waits for the same
//! dead socket. A peer that vanished without a word would hold a pool's every place for good. So the pool is ours too: it keeps a
//! connection only where the last thing asked of it was answered, looks at it again before it is used after a pause, and takes it only
//! from a server that is writable and on no older timeline than this process has seen.

use std::{
    ops::{Deref, DerefMut},
    str::FromStr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use futures::{
    FutureExt, StreamExt, TryFutureExt, TryStreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use sqlx::{
    Error, Execute, Executor, Postgres, SqlStr,
    postgres::{PgConnectOptions, PgListener, PgNotification, PgRow, PgStatement, PgTypeInfo},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::{
    connection::{
        FOR_A_PLACE, FRESH, LISTENS, MAX_AGE, MAX_IDLE, PATIENCE, PgConnection, Prepare, Step, TO_CONNECT,
        TO_SHOW_LIFE, TURNS, silent,
    },
    holders,
};

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
            age: Mutex::new(MAX_AGE),
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
                watch.answered >= doubted && watch.answered.elapsed() < MAX_IDLE && connection.opened.elapsed() < age;
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
