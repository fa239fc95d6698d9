//! What the integration tests share: one server per test process, a database per test.

use std::sync::atomic::{AtomicU32, Ordering};

use sqlx::PgConnection;
use sqlx::{Connection, Executor};
use tokio::sync::{Mutex, MutexGuard, OnceCell};

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

static TURN: Mutex<()> = Mutex::const_new(());

/// One at a time for tests that start processes: each fills the machine, and some have leases and budgets to keep to.
pub async fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().await
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
    let settings = Settings { durable: false, ..Settings::default() };
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
        std::fs::write(&path, drawn).expect("a file");
    }
    let there = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = there.lines().zip(drawn.lines()).find(|(there, drawn)| there != drawn);
    assert!(
        there == drawn,
        "{file} is not what the database says; draw it anew with NOSHI_REDRAW=1. The first difference: {differs:?}"
    );
}
