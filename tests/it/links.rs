//! Links to the database that go silent, and servers that are the wrong one. Nobody is told, and yet every wait ends.

use std::{path::PathBuf, time::Duration};

use sqlx::{Connection, Executor};
use tokio::time::{Instant, timeout};

use serde_json::json;

use crate::{
    api::Api,
    fleet::{Terms, fleet},
    probes::{address, ask, until_ready},
    processes::until,
    support::{TestDatabase, database, server},
};
use noshi::{
    db::{self, PgPool, Role, queue::lanes::Budget},
    lab::simulator::link::{Link, Upstream, Way},
};

/// A link to a server that listens in a directory, and a URL that leads over it.
pub async fn link_to(url: &str) -> (Link, String) {
    let (rest, options) = url.split_once('?').expect("options");
    let directory = options.split('&').find_map(|option| option.strip_prefix("host=")).expect("a directory");
    let directory = percent_encoding::percent_decode_str(directory).decode_utf8_lossy().into_owned();
    let link = Link::start_to(Upstream::Unix(PathBuf::from(directory).join(".s.PGSQL.5432"))).await.expect("a link");
    let over = rest.replace("localhost:5432", &link.address().to_string());
    (link, format!("{over}?sslmode=disable"))
}

async fn pool(db: &TestDatabase, connections: u32) -> (Link, PgPool) {
    let (link, url) = link_to(&db.url).await;
    (link, db::connect(&url, Role::Worker, connections).await.expect("a pool"))
}

async fn one(pool: &PgPool) -> Result<i32, sqlx::Error> {
    sqlx::query_scalar("select 1").fetch_one(pool).await
}

/// Statements in flight, connections that lie idle, and those who wait for a place: all of it over flows that deliver nothing more.
#[tokio::test(flavor = "multi_thread")]
async fn every_wait_of_a_pool_ends_when_its_flows_go_silent() {
    let db = database().await;
    let (link, pool) = pool(&db, 4).await;
    let pool = pool.with_patience(Duration::from_secs(1));
    let held = [pool.acquire().await.unwrap(), pool.acquire().await.unwrap(), pool.acquire().await.unwrap()];
    drop(held);
    let waits: Vec<_> = (0..8)
        .map(|_| {
            let pool = pool.clone();
            tokio::spawn(async move { pool.execute("select pg_sleep(0.5)").await.map(|_| ()) })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(200)).await;
    link.silence();
    let begun = Instant::now();
    for wait in waits {
        let ended = timeout(Duration::from_secs(6), wait).await.expect("a wait without an end").unwrap();
        if let Err(error) = ended {
            assert!(db::is_transient(&error), "{error}");
        }
    }
    assert_eq!(one(&pool).await.unwrap(), 1, "new flows work");
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
}

/// A future that its owner gave up on must not take the pool's place with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_statement_given_up_in_silence_leaves_its_place() {
    let db = database().await;
    let (link, pool) = pool(&db, 1).await;
    for transaction in [false, true] {
        assert_eq!(one(&pool).await.unwrap(), 1);
        let asks = async {
            match transaction {
                false => pool.execute("select pg_sleep(60)").await.map(|_| ()),
                true => pool.begin().await?.execute("select pg_sleep(60)").await.map(|_| ()),
            }
        };
        let goes_silent = async {
            tokio::time::sleep(Duration::from_millis(150)).await;
            link.silence();
        };
        let asked = timeout(Duration::from_millis(300), async { tokio::join!(asks, goes_silent) });
        assert!(asked.await.is_err(), "it was answered");
        let begun = Instant::now();
        assert_eq!(one(&pool).await.unwrap(), 1);
        assert!(begun.elapsed() < Duration::from_secs(2), "the only place came back after {:?}", begun.elapsed());
        assert!(pool.size() <= 1, "{pool:?}");
    }
}

/// The moments are generated: each chunk of a conversation, in each way, over a flow that goes silent right there.
#[tokio::test(flavor = "multi_thread")]
async fn a_flow_may_go_silent_at_any_chunk_of_a_conversation() {
    let db = database().await;
    db.pool.execute("create table said (n int)").await.unwrap();
    db.pool.execute("grant all on said to noshi_worker").await.unwrap();
    let (link, pool) = pool(&db, 2).await;
    let pool = pool.with_patience(Duration::from_millis(700));
    let talk = async || -> Result<(), sqlx::Error> {
        one(&pool).await?;
        let mut transaction = pool.begin().await?;
        sqlx::query("insert into said values ($1)").bind(1).execute(&mut *transaction).await?;
        let rows: Vec<i32> =
            sqlx::query_scalar("select generate_series(1, 20000)").fetch_all(&mut *transaction).await?;
        assert_eq!(rows.len(), 20_000);
        transaction.commit().await
    };
    talk().await.unwrap();
    for way in [Way::Up, Way::Down] {
        let before = link.passed(way);
        talk().await.unwrap();
        let chunks = link.passed(way) - before;
        for nth in 0..chunks {
            link.silence_at(way, nth);
            let ended = timeout(Duration::from_secs(5), talk()).await;
            let ended = ended.unwrap_or_else(|_| panic!("{way:?} {nth} of {chunks}: a wait without an end"));
            if let Err(error) = ended {
                assert!(db::is_transient(&error), "{way:?} {nth}: {error}");
            }
            // A shorter conversation leaves the silence to the next one.
            let waited = link.waits();
            let again = timeout(Duration::from_secs(5), talk()).await.expect("it goes on");
            assert!(again.is_ok() || waited, "{way:?} {nth} of {chunks}: {again:?}");
        }
    }
    until("every place is free again", Duration::from_secs(5), async || pool.num_idle() as u32 == pool.size()).await;
}

/// Read-only at once, for whoever is connected: what a primary becomes that was demoted under its clients.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_to_a_server_that_takes_no_writes_is_left() {
    let db = database().await;
    let (_link, pool) = pool(&db, 1).await;
    let backend = async || sqlx::query_scalar::<_, i32>("select pg_backend_pid()").fetch_one(&pool).await.unwrap();
    let first = backend().await;
    // It is told by a statement: the connection goes, and the error is one that may pass.
    pool.execute("set default_transaction_read_only = on").await.unwrap();
    let error = pool.execute("update noshi.lane set tokens = tokens").await.unwrap_err();
    assert_eq!(error.as_database_error().and_then(|e| e.code()).as_deref(), Some("25006"));
    assert!(db::is_transient(&error));
    let second = backend().await;
    assert_ne!(first, second, "the connection was used again");
    // It is found out before it is used.
    pool.execute("set default_transaction_read_only = on").await.unwrap();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    pool.execute("update noshi.lane set tokens = tokens").await.expect("over another connection");
    // A server that takes none at all is none to connect to; it is let in again once it does.
    let name = &db.name;
    let set = |on: &str| sqlx::AssertSqlSafe(format!("alter database {name} set default_transaction_read_only = {on}"));
    let mut elsewhere = sqlx::postgres::PgConnection::connect(&server().await.url("postgres")).await.unwrap();
    elsewhere.execute(set("on")).await.unwrap();
    let (_other, url) = link_to(&db.url).await;
    let error = db::connect(&url, Role::Worker, 1).await.expect_err("a server that takes no writes");
    assert!(format!("{error:#}").contains("takes no writes"), "{error:#}");
    elsewhere.execute(set("off")).await.unwrap();
    db::connect(&url, Role::Worker, 1).await.expect("it takes writes again");
}

/// Whether the sweep tries every moment (`SWEEP=all`), or some of them.
fn moments(chunks: u64) -> impl Iterator<Item = u64> {
    let most = if std::env::var("SWEEP").is_ok_and(|sweep| sweep == "all") { chunks } else { 5 };
    (0..chunks).step_by(usize::try_from(chunks.div_ceil(most.max(1))).unwrap_or(1).max(1))
}

/// One flow at a time, at generated moments of a job's steps and of everything that a worker does beside them.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_works_again_whenever_one_of_its_flows_goes_silent() {
    let _turn = crate::support::turn().await;
    let fleet = fleet(Terms::default()).await;
    let (link, url) = link_to(&fleet.url).await;
    let args = ["--lease-ms", "10000"];
    let _worker = fleet.worker("silenced", &[("DATABASE_URL", &url)], &args);
    let within = Duration::from_secs(15);
    let mut gifts = 0;
    let mut work = async |what: String| {
        gifts += 1;
        fleet.gift(&format!("g{gifts}"), "amazon", 500).await;
        // Steps in our own database alone, one after the other in one pair of hands.
        let own = json!({"id": format!("p{gifts}"), "steps": 3, "tally": format!("t{gifts}")});
        crate::engine::probe(&fleet.pool, own).await;
        fleet.at_rest(within).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        gifts
    };
    work("before".to_owned()).await;
    for way in [Way::Up, Way::Down] {
        let before = link.passed(way);
        work("measured".to_owned()).await;
        let chunks = link.passed(way) - before;
        for nth in moments(chunks) {
            link.silence_at(way, nth);
            work(format!("{way:?} {nth} of {chunks}")).await;
        }
    }
    link.silence();
    let gifts = work("all flows at once".to_owned()).await;
    assert_eq!(crate::processes::count(&fleet, "issued"), gifts, "a gift was bought twice, or never");
    let blamed: i64 = sqlx::query_scalar("select count(*) from noshi.job_event where event = 'rescued'")
        .fetch_one(&fleet.pool)
        .await
        .expect("a count");
    assert_eq!(blamed, 0, "an answer that was lost was taken for a job that was");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_interface_answers_again_whenever_its_flows_go_silent() {
    let _turn = crate::support::turn().await;
    let mut fleet = fleet(Terms::default()).await;
    let (link, url) = link_to(&fleet.url).await;
    fleet.url = url;
    let api = Api::of(fleet).await;
    let token = api.token("desk", &["read"]).await;
    let answers = async |what: String| {
        until(&what, Duration::from_secs(10), async || {
            let asked = timeout(Duration::from_secs(1), api.request("GET", "/v1/jobs", Some(&token)).send()).await;
            asked.is_ok_and(|told| told.is_ok_and(|told| told.status() == 200))
        })
        .await;
    };
    answers("before".to_owned()).await;
    for way in [Way::Up, Way::Down] {
        let before = link.passed(way);
        answers("measured".to_owned()).await;
        let chunks = link.passed(way) - before;
        for nth in moments(chunks) {
            link.silence_at(way, nth);
            answers(format!("{way:?} {nth} of {chunks}")).await;
            answers(format!("after {way:?} {nth}")).await;
        }
    }
    link.silence();
    answers("all flows at once".to_owned()).await;
}

/// The heartbeat is on connections of its own: that it is answered says nothing about those that do the work.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_claims_hang_is_not_ready() {
    let _turn = crate::support::turn().await;
    let fleet = fleet(Terms::default()).await;
    let (link, url) = link_to(&fleet.url).await;
    let args = ["--lease-ms", "10000", "--metrics", "127.0.0.1:0"];
    let worker = fleet.worker("silenced", &[("DATABASE_URL", &url)], &args);
    let address = address(&worker).await;
    until_ready(&address, Ok(())).await;
    link.silence();
    until_ready(&address, Err("no claim was answered")).await;
    until_ready(&address, Ok(())).await;
    let (_, shown) = ask(&address, "/metrics").await.expect("metrics");
    let thrown = shown.lines().find(|line| line.starts_with("noshi_connections_thrown_away_total{why=\"silent\"}"));
    let thrown = thrown.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    assert!(thrown.is_some_and(|thrown| thrown >= 1.0), "{thrown:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_in_silence_ends_the_worker_within_its_grace() {
    let _turn = crate::support::turn().await;
    let fleet = fleet(Terms::default()).await;
    let (link, url) = link_to(&fleet.url).await;
    let mut worker = fleet.worker("silenced", &[("DATABASE_URL", &url)], &["--grace-ms", "5000"]);
    fleet.gift("g", "amazon", 500).await;
    fleet.at_rest(Duration::from_secs(20)).await.unwrap();
    link.silence_new(true);
    link.silence();
    worker.signal(rustix::process::Signal::TERM);
    let begun = Instant::now();
    timeout(Duration::from_secs(15), worker.child.wait()).await.expect("it ends").expect("an end");
    assert!(begun.elapsed() < Duration::from_secs(8), "it took {:?}", begun.elapsed());
}

/// The other lanes go on; the locked one goes on when it is let go.
#[tokio::test(flavor = "multi_thread")]
async fn a_locked_lane_holds_up_nobody_else() {
    let db = database().await;
    for lane in ["locked", "free"] {
        db::queue::lanes::declare(&db.pool, lane, &[]).await.unwrap();
    }
    let worker = crate::engine::start(&db, crate::engine::pace()).await;
    let mut lock = db.pool.begin().await.unwrap();
    lock.execute("select from noshi.lane where name = 'locked' for update").await.unwrap();
    let asks = |id: String, lane: &str| json!({"id": id, "steps": 2, "lane": lane, "answers": ["ok"]});
    for i in 0..10 {
        crate::engine::probe(&db.pool, asks(format!("locked{i}"), "locked")).await;
    }
    // The first claim waits for the lock; from then on that lane is tried with one slot.
    let mut slow = vec![];
    for i in 0..60 {
        let begun = Instant::now();
        let job = crate::engine::probe(&db.pool, asks(format!("free{i}"), "free")).await;
        let done = "select status = 'completed' from noshi.job where id = $1";
        until("a free lane's job", Duration::from_secs(10), async || {
            sqlx::query_scalar::<_, bool>(done).bind(job).fetch_one(&db.pool).await.unwrap()
        })
        .await;
        if begun.elapsed() > Duration::from_millis(1500) {
            slow.push(begun.elapsed());
        }
    }
    assert!(slow.len() <= 6, "jobs of a free lane waited for a locked one: {slow:?}");
    lock.rollback().await.unwrap();
    crate::engine::at_rest(&db.pool).await;
    worker.stop().await;
}

/// What its budget gives, a lane gets, whoever holds the row of another one.
#[tokio::test(flavor = "multi_thread")]
async fn the_lanes_beside_a_locked_one_keep_their_rate() {
    const A_SECOND: u32 = 40;
    let _turn = crate::support::alone().await;
    let db = database().await;
    let budget = Budget { per: Duration::from_secs(1), calls: A_SECOND, burst: 1, jitter: Duration::from_millis(50) };
    db::queue::lanes::declare(&db.pool, "free", &[budget]).await.unwrap();
    db::queue::lanes::declare(&db.pool, "locked", &[]).await.unwrap();
    let mut lock = db.pool.begin().await.unwrap();
    lock.execute("set local idle_in_transaction_session_timeout = 0").await.unwrap();
    lock.execute("select from noshi.lane where name = 'locked' for update").await.unwrap();
    let asks = |id: String, lane: &str| json!({"id": id, "steps": 2, "lane": lane, "answers": ["ok"]});
    for i in 0..50 {
        crate::engine::probe(&db.pool, asks(format!("locked{i}"), "locked")).await;
    }
    for i in 0..A_SECOND * 15 {
        crate::engine::probe(&db.pool, asks(format!("free{i}"), "free")).await;
    }
    let worker = crate::engine::start(&db, crate::engine::pace()).await;
    let done = async || {
        let done = "select count(*) from noshi.job where status = 'completed' and args ->> 'lane' = 'free'";
        sqlx::query_scalar::<_, i64>(done).fetch_one(&db.pool).await.unwrap()
    };
    until("the first", Duration::from_secs(10), async || done().await > 0).await;
    let (begun, before) = (Instant::now(), done().await);
    tokio::time::sleep(Duration::from_secs(10)).await;
    let rate = (done().await - before) as f64 / begun.elapsed().as_secs_f64() / f64::from(A_SECOND);
    eprintln!("beside a locked lane: {rate:.2} of the budget");
    assert!(rate >= 0.9, "{rate:.2} of the budget");
    lock.rollback().await.unwrap();
    crate::engine::at_rest(&db.pool).await;
    worker.stop().await;
}
