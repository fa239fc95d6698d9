//! The ledger of points: what a balance costs, how fast points are granted, used and expired, and that nobody waits for others' points.

use std::{
    str::FromStr,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use serde_json::Value;
use sqlx::{ConnectOptions, postgres::PgConnectOptions};

use crate::{
    db::{self, PgConnection, PgPool, domain::points},
    lab::private_postgres::PrivatePostgres,
};

const LOAD: &str = include_str!("points.sql");
const FILL: &str = "select public.bench_load($1, $2, $3, now() - $4, $5, $6)";
const CLIENTS: usize = 8;
/// Of one measurement of a rate.
const LASTS: Duration = Duration::from_secs(10);
/// Lots of one transaction of the expiry.
const PAGE: i32 = 1_000;
/// Entries of the user whose balance is asked for.
const LONG_HISTORY: i32 = 100_000;
const MAX_FOR_A_BALANCE: Duration = Duration::from_millis(5);
const MAX_FOR_A_TRANSACTION: Duration = Duration::from_secs(5);
const KILLS: usize = 3;

/// How long statements take is what is printed; it is no news beside that.
fn quiet(url: &str) -> anyhow::Result<PgConnectOptions> {
    Ok(PgConnectOptions::from_str(url)?.disable_statement_logging())
}

async fn connect(url: &str) -> anyhow::Result<PgConnection> {
    Ok(PgConnection::connect_with(&quiet(url)?, PgPool::LONG).await?)
}

/// `entries` of other users, and `lots` that expire.
pub async fn run(server: &PrivatePostgres, entries: u32, lots: u32) -> anyhow::Result<()> {
    let url = server.url("postgres");
    db::migrate(&url).await?;
    let pool = PgPool::plain_with(quiet(&url)?, 4);
    sqlx::raw_sql(LOAD).execute(&pool).await.context("the loader")?;
    fill(&pool, "long", 1, LONG_HISTORY / 2, ["170 days", "1 minute", "180 days"]).await?;
    balances(&pool, "alone in the ledger").await?;
    let begun = Instant::now();
    // Five pairs each, in parts: a transaction's size is of no interest.
    for part in 0..entries.div_ceil(1_000_000) {
        let users = entries.saturating_sub(part * 1_000_000).min(1_000_000) / 10;
        fill(&pool, &format!("other{part}/"), users as i32, 5, ["90 days", "1 day", "180 days"]).await?;
    }
    vacuum(&pool).await?;
    crate::basics::terminal::say!("{entries} entries of other users, loaded in {:.0} s", begun.elapsed().as_secs_f64());
    balances(&pool, "among them").await?;
    rates(&url, entries / 10).await?;
    expiry(&pool, &url, lots).await?;
    let begun = Instant::now();
    let faults = points::verify(&pool).await?;
    ensure!(faults.is_empty(), "the ledger does not hold: {faults:?}");
    crate::basics::terminal::say!(
        "{:<42} {:>9.1} s",
        "all equations, computed from all rows",
        begun.elapsed().as_secs_f64()
    );
    Ok(())
}

async fn fill(pool: &PgPool, prefix: &str, users: i32, pairs: i32, times: [&str; 3]) -> anyhow::Result<()> {
    let [ago, step, lasts] = times;
    let sql = FILL.replace("$4", &format!("interval '{ago}'")).replace("$5", &format!("interval '{step}'"));
    let sql = sqlx::AssertSqlSafe(sql.replace("$6", &format!("interval '{lasts}'")));
    sqlx::query(sql).bind(prefix).bind(users).bind(pairs).execute(pool).await?;
    Ok(())
}

async fn vacuum(pool: &PgPool) -> anyhow::Result<()> {
    for sql in ["vacuum analyze", "checkpoint"] {
        sqlx::raw_sql(sql).execute(pool).await?;
    }
    Ok(())
}

fn quantile(sorted: &[Duration], of: f64) -> Duration {
    sorted.get(((sorted.len() as f64 - 1.0) * of) as usize).copied().unwrap_or_default()
}

fn told(mut took: Vec<Duration>) -> (String, Duration) {
    took.sort_unstable();
    let (p50, p99) = (quantile(&took, 0.5), quantile(&took, 0.99));
    (format!("p50 {:.2} ms, p99 {:.2} ms", p50.as_secs_f64() * 1e3, p99.as_secs_f64() * 1e3), p50)
}

/// The balance of the user with the long history: now, and half a history ago.
async fn balances(pool: &PgPool, what: &str) -> anyhow::Result<()> {
    let past = chrono::Utc::now() - chrono::TimeDelta::days(150);
    for (when, at) in [("now", None), ("in the past", Some(past))] {
        let mut took = vec![];
        for _ in 0..200 {
            let begun = Instant::now();
            points::balance(pool, "long0", at, None).await?;
            took.push(begun.elapsed());
        }
        let explain = "explain (analyze, buffers, format json) select noshi.point_balance('long0', $1)";
        let plan: Value = sqlx::query_scalar(explain).bind(at).fetch_one(pool).await?;
        let plan = &plan[0]["Plan"];
        let buffers = [&plan["Shared Hit Blocks"], &plan["Shared Read Blocks"]].into_iter().filter_map(Value::as_u64);
        let (line, p50) = told(took);
        let what = format!("balance of {LONG_HISTORY} entries {when}, {what}");
        crate::basics::terminal::say!("{what:<62} {line}, {} buffers", buffers.sum::<u64>());
        ensure!(p50 < MAX_FOR_A_BALANCE, "a balance takes too long");
    }
    Ok(())
}

static KEY: AtomicU64 = AtomicU64::new(0);

#[derive(Debug, Clone, Copy)]
enum Operation {
    Grant,
    Use,
}

const GRANT: &str = "select outcome from noshi.book_grant(clock_timestamp(), $1, $2, 100, 'rate', $1, clock_timestamp() + interval '180 days', null, null)";
const USE: &str = "select outcome from noshi.book_use(clock_timestamp(), $1, $2, 1, null, null)";

async fn book(connection: &mut PgConnection, operation: Operation, user: &str) -> anyhow::Result<Duration> {
    let key = format!("rate:{}", KEY.fetch_add(1, Ordering::Relaxed));
    let begun = Instant::now();
    let sql = match operation {
        Operation::Grant => GRANT,
        Operation::Use => USE,
    };
    let outcome: String = sqlx::query_scalar(sql).bind(key).bind(user).fetch_one(connection).await?;
    ensure!(outcome == "posted", "{operation:?} of {user}: {outcome}");
    Ok(begun.elapsed())
}

/// As often as it can for a while, each time for another user.
async fn repeat(
    url: String,
    operation: Operation,
    user: impl Fn() -> String,
    lasts: Duration,
) -> anyhow::Result<Vec<Duration>> {
    let mut connection = connect(&url).await?;
    let mut took = vec![];
    let begun = Instant::now();
    while begun.elapsed() < lasts {
        took.push(book(&mut connection, operation, &user()).await?);
    }
    Ok(took)
}

async fn crowd<F>(url: &str, operation: Operation, user: F) -> anyhow::Result<Vec<Duration>>
where
    F: Fn() -> String + Clone + Send + 'static,
{
    let clients = (0..CLIENTS).map(|_| tokio::spawn(repeat(url.to_owned(), operation, user.clone(), LASTS)));
    let mut took = vec![];
    for client in clients.collect::<Vec<_>>() {
        took.extend(client.await??);
    }
    Ok(took)
}

async fn rates(url: &str, users: u32) -> anyhow::Result<()> {
    let others = users.clamp(1, 100_000);
    let any = move || format!("other0/{}", rand::random_range(0..others));
    let hot = || "hot".to_owned();
    let line = |what: &str, took: Vec<Duration>| {
        let rate = took.len() as f64 / LASTS.as_secs_f64();
        crate::basics::terminal::say!(
            "{:<42} {rate:>9.0} /s, {}",
            format!("{what}, {CLIENTS} connections"),
            told(took).0
        );
    };
    line("grants over many users", crowd(url, Operation::Grant, any).await?);
    line("uses over many users", crowd(url, Operation::Use, any).await?);
    line("grants of one user", crowd(url, Operation::Grant, hot).await?);
    line("uses of one user", crowd(url, Operation::Use, hot).await?);
    let alone = repeat(url.to_owned(), Operation::Use, any, LASTS).await?;
    let (beside, _) =
        tokio::try_join!(repeat(url.to_owned(), Operation::Use, any, LASTS), crowd(url, Operation::Use, hot))?;
    crate::basics::terminal::say!("{:<62} {}", "uses of others, one connection alone", told(alone).0);
    crate::basics::terminal::say!(
        "{:<62} {}",
        format!("the same beside {CLIENTS} connections on one user"),
        told(beside).0
    );
    Ok(())
}

/// Pages until nothing is due. What was killed begins again.
async fn runner(url: String) -> anyhow::Result<Vec<Duration>> {
    let mut took = vec![];
    'connected: loop {
        let mut connection = connect(&url).await?;
        loop {
            let begun = Instant::now();
            let page =
                sqlx::query_scalar::<_, bool>("select more from noshi.book_expiries(clock_timestamp(), $1)").bind(PAGE);
            match page.fetch_one(&mut connection).await {
                Ok(more) => {
                    took.push(begun.elapsed());
                    if !more {
                        return Ok(took);
                    }
                }
                Err(error) if db::is_transient(&error) => continue 'connected,
                Err(error) => return Err(error.into()),
            }
        }
    }
}

const EXPIRED: &str = "select count(*) from noshi.point_entry where kind = 'expire'";
const KILL: &str = "select count(pg_terminate_backend(pid)) from pg_stat_activity where query like 'select more from noshi.book_expiries%'";

/// A million lots by two runners, killed three times, while grants go on.
async fn expiry(pool: &PgPool, url: &str, lots: u32) -> anyhow::Result<()> {
    fill(pool, "due", (lots / 5) as i32, 5, ["200 days", "1 hour", "180 days"]).await?;
    vacuum(pool).await?;
    static OVER: AtomicBool = AtomicBool::new(false);
    let before: i64 = sqlx::query_scalar(EXPIRED).fetch_one(pool).await?;
    let granting = tokio::spawn({
        let url = url.to_owned();
        async move {
            let mut connection = connect(&url).await?;
            let mut took = vec![];
            while !OVER.load(Ordering::Relaxed) {
                took.push(book(&mut connection, Operation::Grant, "meanwhile").await?);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            anyhow::Ok(took)
        }
    });
    let begun = Instant::now();
    let runners = [tokio::spawn(runner(url.to_owned())), tokio::spawn(runner(url.to_owned()))];
    let mut killed = 0;
    for part in 1..=KILLS {
        let due = before + i64::from(lots) * part as i64 / (KILLS as i64 + 1);
        while sqlx::query_scalar::<_, i64>(EXPIRED).fetch_one(pool).await? < due {
            tokio::time::sleep(Duration::from_millis(rand::random_range(200..700))).await;
        }
        killed += sqlx::query_scalar::<_, i64>(KILL).fetch_one(pool).await?;
    }
    let mut took = vec![];
    for runner in runners {
        took.extend(runner.await??);
    }
    let seconds = begun.elapsed().as_secs_f64();
    OVER.store(true, Ordering::Relaxed);
    let longest = took.iter().max().copied().unwrap_or_default();
    let what = format!("{lots} lots expired, 2 runners, {killed} killed");
    crate::basics::terminal::say!(
        "{what:<42} {:>9.0} lots/s, pages of {PAGE}: {}, longest {:.2} s",
        f64::from(lots) / seconds,
        told(took).0,
        longest.as_secs_f64()
    );
    crate::basics::terminal::say!("{:<62} {}", "grants meanwhile", told(granting.await??).0);
    let after: i64 = sqlx::query_scalar(EXPIRED).fetch_one(pool).await?;
    ensure!(after - before == i64::from(lots / 5 * 5), "{} expiries of {lots} lots", after - before);
    ensure!(killed >= KILLS as i64, "nobody was killed");
    ensure!(longest < MAX_FOR_A_TRANSACTION, "a page took too long");
    Ok(())
}
