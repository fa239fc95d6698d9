//! Many at once: on the same points, with the same keys, and killed in the middle.

use std::{
    collections::BTreeMap,
    str::FromStr,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use sqlx::{AssertSqlSafe, Connection, PgConnection, postgres::PgConnectOptions};

use super::{Grant, Said, assert_holds, at, balance, everything, expire, grant, rows, spend, take_back, withdraw};
use crate::{
    processes::until,
    support::{TestDatabase, database},
};
use noshi::db::PgPool;

const CLIENTS: usize = 8;
const USERS: [&str; 3] = ["u0", "u1", "u2"];

#[tokio::test(flavor = "multi_thread")]
async fn of_eight_who_spend_seven_from_a_hundred_fourteen_times_one_succeeds() {
    let TestDatabase { pool, url, .. } = database().await;
    let now = Utc::now();
    // In lots of several sizes, so that uses share and split them.
    for (n, amount) in [1, 30, 5, 40, 24].into_iter().enumerate() {
        let key = n.to_string();
        let expires_at = now + TimeDelta::days(n as i64 + 1);
        let g = Grant { at: now, key: &key, user: "u", amount, source: &key, expires_at, area: None };
        grant(&pool, g).await.expect("granted");
    }
    let client = |client: usize| {
        let url = url.clone();
        tokio::spawn(async move {
            let mut connection = PgConnection::connect(&url).await.expect("a connection");
            let mut outcomes = vec![];
            for n in 0..10 {
                let key = format!("use-{client}-{n}");
                let said = spend(&mut connection, Utc::now(), &key, ("u", 7, None)).await.expect("an answer");
                outcomes.push(said.outcome);
            }
            outcomes
        })
    };
    let mut outcomes = vec![];
    for running in (0..CLIENTS).map(client).collect::<Vec<_>>() {
        outcomes.extend(running.await.expect("a client"));
    }
    let posted = outcomes.iter().filter(|said| *said == "posted").count();
    let insufficient = outcomes.iter().filter(|said| *said == "insufficient").count();
    assert_eq!((posted, insufficient), (14, 66));
    assert_eq!(balance(&pool, "u", None, None).await.expect("a balance"), 2);
    assert_holds(&pool).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_operation_at_the_same_moment_is_booked_once() {
    let TestDatabase { pool, url, .. } = database().await;
    let now = Utc::now();
    for round in 0..20 {
        let client = |client: usize| {
            let url = url.clone();
            tokio::spawn(async move {
                let mut connection = PgConnection::connect(&url).await.expect("a connection");
                let key = format!("same-{round}");
                // One key for the same, or for another user at the same moment; one source for two keys.
                let user = if round % 2 == 0 { "u".to_owned() } else { format!("u{client}") };
                let source = if round % 4 == 3 { format!("{round}-{client}") } else { key.clone() };
                let expires_at = now + TimeDelta::days(1);
                let g = Grant { at: now, key: &key, user: &user, amount: 5, source: &source, expires_at, area: None };
                loop {
                    match grant(&mut connection, g).await {
                        Ok(said) => return said,
                        Err(error) => assert!(noshi::db::is_transient(&error), "{error}"),
                    }
                }
            })
        };
        let running: Vec<_> = (0..CLIENTS).map(client).collect();
        let mut said: Vec<Said> = vec![];
        for running in running {
            said.push(running.await.expect("a client"));
        }
        let posted: Vec<_> = said.iter().filter(|said| said.outcome == "posted").collect();
        assert_eq!(posted.len(), 1, "{said:?}");
        let other = if round % 2 == 0 { "replayed" } else { "conflict" };
        assert!(
            said.iter().all(|s| s.entry == posted[0].entry && (s.outcome == "posted" || s.outcome == other)),
            "{said:?}"
        );
    }
    assert_holds(&pool).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_waits_for_one_user_alone() {
    let TestDatabase { pool, .. } = database().await;
    let when = at("2025-10-01T00:00");
    for user in ["busy", "free"] {
        let g = Grant {
            at: when,
            key: user,
            user,
            amount: 5,
            source: user,
            expires_at: at("2025-10-09T00:00"),
            area: None,
        };
        grant(&pool, g).await.expect("granted");
    }
    let mut busy = pool.begin().await.expect("a transaction");
    spend(&mut *busy, when, "c", ("busy", 1, None)).await.expect("used");
    let mut impatient = pool.acquire().await.expect("a connection");
    sqlx::raw_sql("set lock_timeout = '100ms'").execute(&mut *impatient).await.expect("a setting");
    assert_eq!(spend(&mut *impatient, when, "d", ("free", 1, None)).await.expect("used").outcome, "posted");
    let waited = spend(&mut *impatient, when, "e", ("busy", 1, None)).await.expect_err("it is not its turn");
    assert_eq!(waited.as_database_error().and_then(|e| e.code()).as_deref(), Some("55P03"));
    // Expiries pass over whoever is busy, even where that one's come first, and come back.
    assert_eq!(expire(&mut *impatient, Utc::now(), 1).await.expect("a page"), (1, 4, true));
    assert_eq!(expire(&mut *impatient, Utc::now(), 1).await.expect("a page"), (0, 0, true));
    // Readers wait for nobody.
    assert_eq!(balance(&mut *impatient, "busy", Some(when), None).await.expect("a balance"), 5);
    busy.commit().await.expect("committed");
    assert_eq!(expire(&mut *impatient, Utc::now(), 1).await.expect("a page"), (1, 4, false));
    assert_holds(&pool).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn runners_of_one_expiry_share_its_lots() {
    let TestDatabase { pool, url, .. } = database().await;
    let when = at("2025-10-01T00:00");
    for n in 0..300 {
        let (key, user) = (n.to_string(), format!("u{}", n % 70));
        let expires_at = when + TimeDelta::hours(1 + n % 5);
        let g = Grant { at: when, key: &key, user: &user, amount: 5, source: &key, expires_at, area: None };
        grant(&pool, g).await.expect("granted");
    }
    let runner = || {
        let url = url.clone();
        tokio::spawn(async move {
            let mut connection = PgConnection::connect(&url).await.expect("a connection");
            let mut lots = 0;
            loop {
                let (booked, _, more) = expire(&mut connection, Utc::now(), 7).await.expect("a page");
                lots += booked;
                if !more {
                    return lots;
                }
            }
        })
    };
    let mut lots = 0;
    for runner in [runner(), runner(), runner(), runner()] {
        lots += runner.await.expect("a runner");
    }
    assert_eq!(lots, 300);
    let sql = "select count(*) from noshi.point_entry where kind = 'expire'";
    assert_eq!(sqlx::query_scalar::<_, i64>(sql).fetch_one(&pool).await.expect("a count"), 300);
    assert_holds(&pool).await;
}

/// Something to be done, as often as it takes until there is an answer.
#[derive(Debug, Clone)]
enum Operation {
    Grant { key: String, user: &'static str, amount: i64, expires_at: DateTime<Utc>, area: Option<&'static str> },
    Use { key: String, user: &'static str, amount: i64, area: Option<&'static str> },
    TakeBack { key: String, used: String },
    Withdraw { key: String, user: &'static str },
}

async fn book<C>(connection: &mut C, operation: &Operation) -> Result<Said, sqlx::Error>
where
    for<'c> &'c mut C: sqlx::PgExecutor<'c>,
{
    let at = Utc::now();
    match operation {
        Operation::Grant { key, user, amount, expires_at, area } => {
            let g = Grant { at, key, user, amount: *amount, source: key, expires_at: *expires_at, area: *area };
            grant(&mut *connection, g).await
        }
        Operation::Use { key, user, amount, area } => spend(&mut *connection, at, key, (user, *amount, *area)).await,
        Operation::TakeBack { key, used } => take_back(&mut *connection, at, key, (used, 0)).await,
        Operation::Withdraw { key, user } => withdraw(&mut *connection, at, key, user).await,
    }
}

/// Two operations of two users in one transaction, or one in each.
async fn book_all(connection: &mut PgConnection, operations: &[Operation]) -> Result<Vec<Said>, sqlx::Error> {
    let mut transaction = connection.begin().await?;
    let mut said = vec![];
    for operation in operations {
        said.push(book(&mut *transaction, operation).await?);
    }
    transaction.commit().await?;
    Ok(said)
}

fn operation(random: &mut StdRng, begun: DateTime<Utc>, key: String, keys: &[String]) -> Operation {
    let user = *USERS.choose(random).expect("a user");
    let area = [None, None, Some("akita"), Some("sendai")].choose(random).copied().flatten();
    let amount = random.random_range(1..30);
    match random.random_range(0..1000) {
        0..450 => {
            // Some while all this goes on, the others not before it is over.
            let lasts = if random.random_range(0..3) == 0 { random.random_range(500..8_000) } else { 3_600_000 };
            let expires_at = begun + TimeDelta::milliseconds(lasts);
            Operation::Grant { key, user, amount, expires_at, area }
        }
        450..800 => Operation::Use { key, user, amount, area },
        800..998 => Operation::TakeBack { key, used: keys.choose(random).cloned().unwrap_or_default() },
        // The others stay to the end.
        _ => Operation::Withdraw { key, user: USERS[2] },
    }
}

/// Books at random until it is told to stop; whatever is lost is done again until it is answered. Two clients of one seed do the same.
async fn client(url: String, seed: u64, begun: DateTime<Utc>, over: &AtomicBool) -> (Vec<(Operation, Said)>, u32) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut booked: Vec<(Operation, Said)> = vec![];
    let mut keys = vec![];
    let (mut connection, mut lost) = (None, 0);
    while !over.load(Ordering::Relaxed) {
        let mut operations = vec![];
        for _ in 0..1 + usize::from(random.random_range(0..4) == 0) {
            let key = format!("{seed}-{}", keys.len());
            operations.push(operation(&mut random, begun, key.clone(), &keys));
            keys.push(key);
        }
        let page = random.random_range(0..5) == 0;
        let said = loop {
            match attempt(&mut connection, &url, &operations, page).await {
                Ok(said) => break said,
                Err(error) => {
                    assert!(noshi::db::is_transient(&error), "{operations:?}: {error}");
                    (connection, lost) = (None, lost + 1);
                }
            }
        };
        booked.extend(operations.into_iter().zip(said));
    }
    (booked, lost)
}

async fn attempt(
    connection: &mut Option<PgConnection>,
    url: &str,
    operations: &[Operation],
    page: bool,
) -> Result<Vec<Said>, sqlx::Error> {
    if connection.is_none() {
        let mut new = PgConnection::connect(url).await?;
        // Who takes two users' turns in one transaction meets who takes them the other way round.
        sqlx::raw_sql("set deadlock_timeout = '10ms'").execute(&mut new).await?;
        *connection = Some(new);
    }
    let connection = connection.as_mut().expect("a connection");
    if page {
        expire(&mut *connection, Utc::now(), 3).await?;
    }
    book_all(connection, operations).await
}

/// A random one of the clients, wherever it is.
const KILL: &str = "select pg_terminate_backend(pid) from pg_stat_activity
    where datname = current_database() and application_name <> 'killer' and backend_type = 'client backend' order by random() limit 1";

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_the_middle_and_done_again_it_adds_up() {
    static OVER: AtomicBool = AtomicBool::new(false);
    let TestDatabase { pool, url, .. } = database().await;
    pool.close().await;
    let options = PgConnectOptions::from_str(&url).expect("a URL").application_name("killer");
    let killer: PgPool = PgPool::plain_with(options, 1);
    let begun = Utc::now();
    let clients: Vec<_> = (0..CLIENTS as u64).map(|n| tokio::spawn(client(url.clone(), n / 2, begun, &OVER))).collect();
    // As they get on: on a busy machine a client that is killed every few milliseconds never does anything.
    let (mut kills, mut next) = (0, 0);
    until("much was booked, and many were killed", Duration::from_secs(120), async || {
        let entries = count(&killer, "true").await;
        if entries >= next {
            kills += sqlx::query(KILL).execute(&killer).await.expect("a kill").rows_affected();
            next = entries + rand::random_range(2..12);
        }
        kills >= 40 && entries >= 300
    })
    .await;
    OVER.store(true, Ordering::Relaxed);
    let (mut booked, mut lost) = (vec![], 0);
    for client in clients {
        let (said, times) = client.await.expect("a client");
        booked.extend(said);
        lost += times;
    }
    assert!(lost >= 20, "only {lost} transactions were lost");
    for outcome in ["posted", "replayed", "insufficient", "not_found"] {
        assert!(booked.iter().any(|(_, said)| said.outcome == outcome), "none of {} was {outcome}", booked.len());
    }
    assert_holds(&killer).await;
    is_booked_as_it_was_answered(&killer, &booked).await;
    for user in &USERS[..2] {
        assert!(rows(&killer, user).await.len() > 50, "{user} has hardly any history");
    }
}

async fn count(pool: &PgPool, condition: &str) -> i64 {
    let sql = format!("select count(*) from noshi.point_entry where {condition}");
    sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(pool).await.expect("a count")
}

/// Nothing is booked but what was answered for, and what was answered for is booked, once; and stays so when it is done again.
async fn is_booked_as_it_was_answered(pool: &PgPool, booked: &[(Operation, Said)]) {
    let is_there = |said: &Said| said.outcome == "posted" || said.outcome == "replayed";
    let mut there: BTreeMap<i64, (&Operation, usize)> = BTreeMap::new();
    for (operation, said) in booked.iter().filter(|(_, said)| is_there(said)) {
        let entry = there.entry(said.entry.expect("an entry")).or_insert((operation, 0));
        entry.1 += usize::from(said.outcome == "posted");
    }
    assert!(there.values().all(|(_, posted)| *posted <= 1), "an operation was posted twice");
    let asked_for = "kind <> 'expire' and key not like 'withdraw_again:%'";
    assert_eq!(count(pool, asked_for).await as usize, there.len());
    let before = everything(pool).await;
    let mut connection = pool.acquire().await.expect("a connection");
    for (entry, (operation, _)) in &there {
        let again = book(&mut *connection, operation).await.expect("an answer");
        assert_eq!((again.outcome.as_str(), again.entry), ("replayed", Some(*entry)), "{operation:?}");
    }
    drop(connection);
    assert_eq!(everything(pool).await, before);
}
