//! What the integration tests share: one server per test process, a database per test, and the machine.

use std::cell::Cell;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use sqlx::PgConnection;
use sqlx::{Connection, Executor};
use tokio::sync::{Notify, OnceCell, Semaphore, SemaphorePermit};

use noshi::{
    db::PgPool,
    lab::private_postgres::{PrivatePostgres, Settings},
};

/// Never dropped: the server ends with the process. Neither the cell nor the server holds on to the runtime of the
/// test that happened to come first.
static SERVER: OnceCell<PrivatePostgres> = OnceCell::const_new();
static NEXT: AtomicU32 = AtomicU32::new(1);

const TEMPLATE: &str = "migrated";
/// Where a connection is in nobody's way.
const MAINTENANCE: &str = "postgres";

/// What the machine holds at once: so many tests of one database each, or half as many fleets.
const PLACES: u32 = 8;
static MACHINE: Semaphore = Semaphore::const_new(PLACES as usize);
static LEFT: Notify = Notify::const_new();

thread_local! {
    /// What this test holds. Each test has a thread of its own; whatever it spawns is not asked again.
    static HELD: Cell<Option<Turn>> = const { Cell::new(None) };
    static ADMITTED: Cell<bool> = const { Cell::new(false) };
}

/// A test's place among the others. It is given back when this is dropped.
pub struct Turn {
    permit: Option<SemaphorePermit<'static>>,
    places: u32,
    asked: Instant,
    begun: Instant,
    used: f64,
}

/// For a test that holds nothing yet: one place, until its end. [`server`] and [`database`] ask for it by
/// themselves.
pub async fn place() {
    // Threads of a runtime are no tests.
    if !ADMITTED.get() && std::thread::current().name().is_some_and(|name| name.contains("::")) {
        // Of two databases at once, one asks for both.
        ADMITTED.set(true);
        let turn = places(1).await;
        HELD.set(Some(turn));
    }
}

/// For a test that starts processes, or simulated partners: a fleet. Most of it waits.
pub async fn turn() -> Turn {
    places(2).await
}

/// For a test that keeps a processor busy: two of them at once, and a fleet that waits beside them.
pub async fn busy() -> Turn {
    places(3).await
}

/// For a test that fills the machine, or that holds others to a time: nothing else runs meanwhile. It waits until nobody else wants
/// to run, so that the machine is emptied once and not for each of them.
pub async fn alone() -> Turn {
    give_way();
    let asked = Instant::now();
    loop {
        let left = LEFT.notified();
        // Succeeds only where nobody holds a place and nobody waits for one.
        if let Ok(permit) = MACHINE.try_acquire_many(PLACES) {
            return Turn::new(permit, PLACES, asked);
        }
        left.await;
    }
}

async fn places(places: u32) -> Turn {
    give_way();
    let asked = Instant::now();
    Turn::new(MACHINE.acquire_many(places).await.expect("never closed"), places, asked)
}

/// What a database was given without being asked for: two places of one test could wait for each other.
fn give_way() {
    drop(HELD.take());
}

impl Turn {
    fn new(permit: SemaphorePermit<'static>, places: u32, asked: Instant) -> Turn {
        ADMITTED.set(true);
        Turn { permit: Some(permit), places, asked, begun: Instant::now(), used: processor_seconds() }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        ADMITTED.set(false);
        if std::env::var_os("TURNS").is_some() {
            eprintln!(
                "turn {}: {} places, waited {:.1} s, took {:.1} s, processors {:.1} s with all that ran beside it",
                std::thread::current().name().unwrap_or_default(),
                self.places,
                (self.begun - self.asked).as_secs_f64(),
                self.begun.elapsed().as_secs_f64(),
                processor_seconds() - self.used,
            );
        }
        drop(self.permit.take());
        LEFT.notify_waiters();
    }
}

/// Of this process, of its children that have ended, and of the server that all share.
fn processor_seconds() -> f64 {
    let postmaster = SERVER.get().and_then(|server| server.postmaster().ok());
    let of = |process: String| {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields).split(' ');
        fields.skip(11).take(4).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
    };
    of("self".to_owned()) + postmaster.map_or(0.0, |pid| of(pid.to_string()))
}

/// A migrated database of one test's own. It goes with the server, at the end of the process.
pub struct TestDatabase {
    pub name: String,
    /// Also for child processes, as `DATABASE_URL`.
    pub url: String,
    pub pool: PgPool,
}

/// The server that all tests of this process share. A test that crashes or pauses it starts its own.
pub async fn server() -> &'static PrivatePostgres {
    place().await;
    SERVER.get_or_init(start).await
}

pub async fn database() -> TestDatabase {
    copy_of(TEMPLATE).await
}

/// A copy of a test's own database, to which nobody may be connected.
pub async fn copy_of(template: &str) -> TestDatabase {
    let server = server().await;
    let name = format!("test_{}", NEXT.fetch_add(1, Ordering::Relaxed));
    server.create_from_template(template, &name).await.expect("a copy of a database");
    let url = server.url(&name);
    let pool = PgPool::plain(&url, 16).expect("the URL of the test's database");
    TestDatabase { name, url, pool }
}

/// For a test that uses many databases: this one goes now, and whoever is connected to it.
pub async fn drop_database(name: &str) {
    let mut connection = PgConnection::connect(&server().await.url(MAINTENANCE)).await.expect("a connection");
    let drop = sqlx::AssertSqlSafe(format!("drop database {name} with (force)"));
    connection.execute(drop).await.expect("a dropped database");
}

async fn start() -> PrivatePostgres {
    // Hundreds of databases: by default a process looks at each of them every minute for what is to be vacuumed, three a second.
    let extra = vec![("autovacuum_naptime".to_owned(), "1h".to_owned())];
    let settings = Settings { durable: false, max_connections: 500, extra, ..Settings::default() };
    let server = PrivatePostgres::start(settings).await.unwrap_or_else(|e| panic!("{e:#}"));
    server.create_database(TEMPLATE).await.expect("a database");
    // Migrated once; a database to which somebody is connected cannot be copied.
    noshi::db::migrate(&server.url(TEMPLATE)).await.expect("the migrations");
    // One person suffices for all, but where a test says otherwise: `alone` tries what is usual.
    let mut connection = PgConnection::connect(&server.url(TEMPLATE)).await.expect("a connection");
    let one_suffices = "alter table noshi.word_cap disable trigger audited;
        insert into noshi.word_cap (currency, alone) select c, 1000000000 from unnest(array['', 'JPY', 'USD']) c;
        alter table noshi.word_cap enable trigger audited";
    connection.execute(one_suffices).await.expect("the caps");
    connection.close().await.expect("nobody connected");
    server
}

/// A page of this repository is what was drawn just now; `NOSHI_REDRAW=1` writes it.
pub fn is_as_drawn(file: &str, drawn: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    if std::env::var_os("NOSHI_REDRAW").is_some() {
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(&path, drawn).expect("a file");
    }
    let there = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = there.lines().zip(drawn.lines()).find(|(there, drawn)| there != drawn);
    assert!(
        there == drawn,
        "{file} is not what its source says; draw it anew with NOSHI_REDRAW=1. The first difference: {differs:?}"
    );
}
