//! Lanes: budgets that hold at the receiver, for the whole fleet.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use futures::future::join_all;
use noshi_jobs::machine::Closing;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::{
    engine::probe,
    fleet::{Fleet, Terms, fleet},
    processes::{ledger, until},
    support::database,
};
use noshi::{
    db::{
        self, PgPool,
        queue::{
            claim::{Catch, ClaimRequest, Which, claim, claim_as},
            lanes::{Budget, close, declare, pause, resume},
            workers,
        },
    },
    lab::simulator::{Fault, Op, Provider, link::Link},
};

/// Arrivals of issue calls and inquiries at one provider, in microseconds.
fn arrivals(fleet: &Fleet, provider: &str) -> Vec<i64> {
    let is = |line: &serde_json::Value| line["event"] == "arrival" && line["provider"] == provider;
    let mut at: Vec<i64> =
        ledger(fleet).iter().filter(|line| is(line)).map(|line| line["us"].as_i64().unwrap()).collect();
    at.sort_unstable();
    at
}

/// The largest number of arrivals in any half-open window of one second.
pub fn busiest_second(at: &[i64]) -> usize {
    (0..at.len()).map(|i| at[i..].iter().take_while(|t| **t < at[i] + 1_000_000).count()).max().unwrap_or(0)
}

/// How full a budget gets is a benchmark (`noshi bench`); that it is never exceeded is a test.
#[tokio::test(flavor = "multi_thread")]
async fn four_workers_never_exceed_a_lane() {
    let _turn = crate::support::alone().await;
    // Five debug processes on a small machine: two calls may well travel 200 ms differently long.
    let fleet = fleet(Terms { jitter: Duration::from_millis(200), ..Terms::default() }).await;
    for i in 0..800 {
        fleet.gift(&format!("g{i}"), "amazon", 500).await;
    }
    let workers: Vec<_> = ["a", "b", "c", "d"].map(|name| fleet.worker(name, &[], &[])).into();
    fleet.at_rest(Duration::from_secs(60)).await.unwrap();
    let at = arrivals(&fleet, "amazon_incentives");
    assert_eq!(at.len(), 800, "a call was repeated");
    let seconds = (at[at.len() - 1] - at[0]) as f64 / 1e6;
    eprintln!(
        "{} arrivals in {seconds:.1} s: {:.1}/s, busiest second {}",
        at.len(),
        at.len() as f64 / seconds,
        busiest_second(&at)
    );
    assert!(busiest_second(&at) <= 100);
    let busy = "select count(distinct worker) from noshi.job_event where event = 'settled' and outcome = 'issued'";
    let busy: i64 = sqlx::query_scalar(busy).fetch_one(&fleet.pool).await.unwrap();
    assert!(busy >= 2, "one worker did everything");
    drop(workers);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_429_silences_the_whole_fleet() {
    let _turn = crate::support::alone().await;
    let fleet = fleet(Terms::default()).await;
    for i in 0..150 {
        fleet.gift(&format!("g{i}"), "digital", 500).await;
    }
    let workers: Vec<_> = ["a", "b", "c"].map(|name| fleet.worker(name, &[], &[])).into();
    until("the first calls", Duration::from_secs(20), async || arrivals(&fleet, "gift_on_demand").len() > 20).await;
    fleet.control().script(Provider::GiftOnDemand, Op::Issue, Fault::ThrottleSeconds, 1).unwrap();
    fleet.at_rest(Duration::from_secs(60)).await.unwrap();
    let lines = ledger(&fleet);
    let throttled: Vec<_> = lines.iter().filter(|line| line["event"] == "throttled").collect();
    assert!(!throttled.is_empty());
    let at = arrivals(&fleet, "gift_on_demand");
    let issued = lines.iter().filter(|line| line["event"] == "issued").count();
    assert_eq!(issued, 150);
    for line in throttled {
        let (from, until) = (line["us"].as_i64().unwrap(), line["until_us"].as_i64().unwrap());
        // What was in flight, or within the horizon of 250 ms from the moment at which the lane's end is durable, may still
        // arrive; a busy machine takes some time to make it so.
        let late: Vec<_> = at.iter().filter(|t| **t > from + 500_000 && **t < until).collect();
        assert!(late.is_empty(), "{} arrivals while the provider had asked for silence", late.len());
    }
    drop(workers);
}

/// Stands before the partners and answers the first call with 503 and Retry-After, whether it let the call through or not. When each call came.
async fn unavailable_once(behind: std::net::SocketAddr, lets_through: bool) -> (String, Arc<Mutex<Vec<Instant>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let calls = Arc::new(Mutex::new(vec![]));
    let came = Arc::clone(&calls);
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let mut far = TcpStream::connect(behind).await.unwrap();
            let first = {
                let mut came = came.lock().unwrap();
                came.push(Instant::now());
                came.len() == 1
            };
            if !first {
                tokio::spawn(async move { tokio::io::copy_bidirectional(&mut near, &mut far).await });
                continue;
            }
            let mut request = vec![0; 64 * 1024];
            let length = near.read(&mut request).await.unwrap();
            if lets_through {
                far.write_all(&request[..length]).await.unwrap();
                assert!(far.read(&mut request).await.unwrap() > 0, "the partner answers");
            }
            let answer = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 3\r\nContent-Length: 0\r\n\r\n";
            near.write_all(answer).await.unwrap();
        }
    });
    (address, calls)
}

/// A purchase that met it is in doubt, whatever it says, and the inquiry waits for as long as it asked.
#[tokio::test(flavor = "multi_thread")]
async fn a_503_that_says_how_long_is_heeded_before_the_inquiry() {
    let _turn = crate::support::turn().await;
    // A partner that can only be asked is asked by nobody for a second gift.
    for (lets_through, ends, made) in [(false, "needs_operator", 0), (true, "completed", 1)] {
        let fleet = fleet(Terms { call_timeout: Duration::from_secs(5), ..Terms::default() }).await;
        let (address, calls) = unavailable_once(fleet.partners(), lets_through).await;
        fleet.configure(|text| text.replace(&fleet.partners().to_string(), &address));
        let job = fleet.gift("g", "digital", 500).await;
        let worker = fleet.worker("a", &[], &[]);
        let in_doubt = "select in_doubt from noshi.job where id = $1";
        until("it is in doubt", Duration::from_secs(20), async || {
            sqlx::query_scalar(in_doubt).bind(job).fetch_one(&fleet.pool).await.unwrap()
        })
        .await;
        assert_eq!(calls.lock().unwrap().len(), 1);
        fleet.at_rest(Duration::from_secs(30)).await.unwrap();
        let waited = {
            let calls = calls.lock().unwrap();
            calls[1] - calls[0]
        };
        assert!(waited >= Duration::from_secs(3), "{waited:?}");
        let status: String = sqlx::query_scalar("select status::text from noshi.job where id = $1")
            .bind(job)
            .fetch_one(&fleet.pool)
            .await
            .unwrap();
        let issued = ledger(&fleet).iter().filter(|line| line["event"] == "issued").count();
        assert_eq!((status.as_str(), issued), (ends, made), "let through: {lets_through}");
        assert!(worker.stop().await.success());
    }
}

/// A partner is out, and says so in a page of its gateway without a time: after a few orders nobody sends another, and what was not sent
/// is bought when it is well again, without a person.
#[tokio::test(flavor = "multi_thread")]
async fn an_outage_does_not_lead_every_order_into_doubt() {
    let _turn = crate::support::turn().await;
    let fleet = fleet(Terms { limit: 20, ..Terms::default() }).await;
    fleet.control().script(Provider::GiftOnDemand, Op::Issue, Fault::ErrorBeforeEffect, 1_000).unwrap();
    for n in 0..100 {
        fleet.gift(&format!("g{n}"), "digital", 500).await;
    }
    let worker = fleet.worker("a", &[], &[]);
    let closed = "select closed_until > clock_timestamp() from noshi.lane where name = 'gift/gift_on_demand'";
    let is_closed =
        || async { sqlx::query_scalar::<_, Option<bool>>(closed).fetch_optional(&fleet.pool).await.unwrap().flatten() };
    until("the lane is left alone", Duration::from_secs(30), async || is_closed().await == Some(true)).await;
    until("it is tried again", Duration::from_secs(30), async || is_closed().await == Some(false)).await;
    let orders = || {
        let is_order = |line: &&serde_json::Value| line["event"] == "arrival" && line["op"] == "issue";
        ledger(&fleet).iter().filter(is_order).count()
    };
    let sent = orders();
    assert!((8..40).contains(&sent), "{sent} of 100 were sent into the outage");
    fleet.control().clear().unwrap();
    until("what was not sent is bought", Duration::from_secs(120), async || {
        ledger(&fleet).iter().filter(|line| line["event"] == "issued").count() >= 100 - sent - 20
    })
    .await;
    assert!(worker.stop().await.success());
}

async fn lane_of(pool: &PgPool, name: &str, budgets: &[Budget]) -> i64 {
    declare(pool, name, budgets).await.unwrap();
    workers::register(pool, "test").await.unwrap()
}

fn per_second(calls: u32) -> Budget {
    Budget { per: Duration::from_secs(1), calls, burst: 1, jitter: Duration::from_millis(50) }
}

/// Puts probes straight into a lane, `reserved` of them as inquiries.
async fn in_lane(pool: &PgPool, lane: &str, writes: usize, reserved: usize) {
    for i in 0..writes + reserved {
        let job = probe(pool, json!({"id": format!("{lane}-{i}"), "steps": 2})).await;
        sqlx::query("update noshi.job set lane = $2, reserved = $3, run_at = clock_timestamp() where id = $1")
            .bind(job)
            .bind(lane)
            .bind(i >= writes)
            .execute(pool)
            .await
            .unwrap();
    }
}

async fn take(pool: &PgPool, worker: i64, lane: &str) -> Catch {
    claim(pool, worker, lane, 1_000, false).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_reserved_no_further_than_the_horizon_and_budgets_compose() {
    let db = database().await;
    let day = Budget { per: Duration::from_secs(86_400), calls: 20, burst: 10, jitter: Duration::ZERO };
    let worker = lane_of(&db.pool, "both", &[per_second(100), day]).await;
    in_lane(&db.pool, "both", 60, 0).await;
    let first = take(&db.pool, worker, "both").await;
    assert!((1..=24).contains(&first.jobs.len()), "{} tokens within 250 ms of a budget of 100/s", first.jobs.len());
    assert!(first.jobs.iter().all(|job| job.wait <= Duration::from_millis(250)));
    // The daily budget lets ten through at once, and no more than that however often one asks.
    let mut taken = first.jobs.len();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(1);
    while tokio::time::Instant::now() < deadline {
        taken += take(&db.pool, worker, "both").await.jobs.len();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(taken, 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fifth_token_goes_to_inquiries_first_and_is_lent_when_unused() {
    let db = database().await;
    let worker = lane_of(&db.pool, "shared", &[]).await;
    in_lane(&db.pool, "shared", 200, 200).await;
    let reserved = |catch: &Catch, ids: &[i64]| catch.jobs.iter().filter(|job| ids.contains(&job.id)).count();
    let ids: Vec<i64> =
        sqlx::query_scalar("select id from noshi.job where reserved").fetch_all(&db.pool).await.unwrap();
    let catch = claim(&db.pool, worker, "shared", 50, false).await.unwrap();
    assert_eq!((catch.jobs.len(), reserved(&catch, &ids)), (50, 10));
    // Single tokens add up to the same share.
    let mut together = 0;
    for _ in 0..50 {
        together += reserved(&claim(&db.pool, worker, "shared", 1, false).await.unwrap(), &ids);
    }
    assert_eq!(together, 10);
    // Nothing but inquiries left: they may use every token. (300 of 400 are left, 180 of them inquiries.)
    let rest = claim(&db.pool, worker, "shared", 1_000, false).await.unwrap();
    assert_eq!((rest.jobs.len(), reserved(&rest, &ids)), (300, 180));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_lane_lets_through_what_it_must() {
    let db = database().await;
    let pool = &db.pool;
    let worker = lane_of(pool, "l", &[]).await;
    in_lane(pool, "l", 4, 4).await;
    let want = async |want| claim(pool, worker, "l", want, false).await.unwrap();
    close(pool, "l", Closing::Funds).await.unwrap();
    let funds = want(2).await;
    let reserved: i64 = sqlx::query_scalar("select count(*) from noshi.job where status = 'running' and reserved")
        .fetch_one(pool)
        .await
        .unwrap();
    assert_eq!((funds.jobs.len(), reserved), (2, 2), "out of funds, inquiries pass and new writes wait");
    close(pool, "l", Closing::Credentials).await.unwrap();
    assert!(want(2).await.closed, "nobody calls with bad credentials");
    close(pool, "l", Closing::Funds).await.unwrap();
    assert!(want(2).await.closed, "a lesser reason does not reopen it");
    resume(pool, "l", Some("fixed")).await.unwrap();
    assert_eq!(want(1).await.jobs.len(), 1);
    pause(pool, "l", Some("a look")).await.unwrap();
    assert!(want(1).await.closed);
    resume(pool, "l", Some("fixed")).await.unwrap();
    close(pool, "l", Closing::Throttled(Duration::from_millis(300))).await.unwrap();
    close(pool, "l", Closing::Throttled(Duration::from_millis(1))).await.unwrap();
    assert!(want(1).await.closed, "a shorter wait does not shorten a longer one");
    until("the lane opens by itself", Duration::from_secs(5), async || want(1).await.jobs.len() == 1).await;
    assert!(resume(pool, "no such lane", Some("x")).await.is_err());
}

/// After a restart of the server a budget is pushed once, so that slots handed out before it cannot be handed out again.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_pushes_the_budget_once() {
    let db = database().await;
    let worker = lane_of(&db.pool, "l", &[per_second(100)]).await;
    in_lane(&db.pool, "l", 50, 0).await;
    assert!(!take(&db.pool, worker, "l").await.jobs.is_empty());
    sqlx::query("update noshi.lane set server = '00000000 1', closed_until = null where name = 'l'")
        .execute(&db.pool)
        .await
        .unwrap();
    let begun = tokio::time::Instant::now();
    assert!(take(&db.pool, worker, "l").await.jobs.is_empty(), "tokens right after a restart");
    until("tokens again", Duration::from_secs(5), async || !take(&db.pool, worker, "l").await.jobs.is_empty()).await;
    assert!(begun.elapsed() >= Duration::from_millis(950), "{:?}", begun.elapsed());
    let pushed: String =
        sqlx::query_scalar("select server from noshi.lane where name = 'l'").fetch_one(&db.pool).await.unwrap();
    let server: String = sqlx::query_scalar("select noshi.server()").fetch_one(&db.pool).await.unwrap();
    assert_eq!(pushed, server);
}

/// A batch of many rows does not delay a batch of few, nor a single user.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_batch_delays_nobody() {
    let db = database().await;
    let pool = &db.pool;
    let worker = workers::register(pool, "test").await.unwrap();
    let enqueue = async |name: &str, rows: i64, priority: i16| {
        sqlx::query(
            "select count(*) from (select array_agg($1 || i order by i) as keys, array_agg(jsonb_build_object('id', $1 || i, 'steps', 1) order by i) as args
                from generate_series(1, $2) i) r, noshi.enqueue_rows('probe', keys, args, $3)",
        )
        .bind(name)
        .bind(rows)
        .bind(priority)
        .execute(pool)
        .await
        .unwrap();
    };
    enqueue("large-", 5_000, 1).await;
    assert_eq!(claim(pool, worker, "", 1_000, false).await.unwrap().jobs.len(), 1_000);
    enqueue("small-", 10, 1).await;
    enqueue("user-", 1, 0).await;
    let next: Vec<String> =
        claim(pool, worker, "", 30, false).await.unwrap().jobs.into_iter().map(|job| job.key).collect();
    assert!(next.contains(&"user-1".to_owned()), "an interactive job waits for nobody");
    let small = next.iter().filter(|key| key.starts_with("small-")).count();
    let large = next.iter().filter(|key| key.starts_with("large-")).count();
    assert_eq!((small, large), (10, 19), "{next:?}");
    // Nor among those that wait for nobody: a flood of one caller is in line with the others.
    enqueue("flood-", 500, 0).await;
    assert_eq!(claim(pool, worker, "", 100, false).await.unwrap().jobs.len(), 100);
    enqueue("person-", 1, 0).await;
    let next: Vec<String> =
        claim(pool, worker, "", 5, false).await.unwrap().jobs.into_iter().map(|job| job.key).collect();
    assert!(next.contains(&"person-1".to_owned()), "{next:?}");
    db::queue::claim::hand_back(pool, worker, &[]).await.unwrap();
}

/// Whoever reaches its slots late, for a long way to the database, has the fleet's calls spaced for that, and the patience to use them: else it
/// would hand every slot back. It holds for others too, whose calls would meet the late ones.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_claimer_is_allowed_for_and_every_budget_holds() {
    let db = database().await;
    let pool = &db.pool;
    let second = Duration::from_secs(1);
    let worker =
        lane_of(pool, "l", &[Budget { per: second, calls: 10, burst: 1, jitter: Duration::from_millis(100) }]).await;
    in_lane(pool, "l", 20, 0).await;
    let asked = async |late| {
        let asked = ClaimRequest { want: 1, which: Which::Fresh, late, unknown: &[], server: "" };
        let catch = claim_as(pool, worker, "l", &asked).await.unwrap();
        (catch.jitter, catch.jobs.first().map(|job| job.wait))
    };
    let (jitter, wait) = asked(second).await;
    assert!(jitter >= second && wait == Some(Duration::ZERO), "{jitter:?} {wait:?}");
    // (1 s + 1 s) / 10 between two calls, whoever makes them.
    let (jitter, wait) = asked(Duration::ZERO).await;
    assert!(jitter >= second && wait > Some(Duration::from_millis(100)), "{jitter:?} {wait:?}");
    let spacing = "select late = interval '1 second' from noshi.lane_budget where lane = 'l'";
    assert!(sqlx::query_scalar::<_, bool>(spacing).fetch_one(pool).await.unwrap());
    // Half of it after a minute in which nobody was that late, and nothing of what a clock that jumped wrote.
    for (ago, left) in [(30, 1.0), (61, 0.5), (121, 0.25), (-30, 1.0), (-300, 0.0), (1200, 0.0)] {
        let lateness =
            "select extract(epoch from noshi.lateness('1 second', now() - make_interval(secs => $1), now()))::float8";
        let seen: f64 = sqlx::query_scalar(lateness).bind(f64::from(ago)).fetch_one(pool).await.unwrap();
        assert!((seen - left).abs() < 1e-6, "{ago}: {seen}");
    }
}

/// The test's database behind a link, and what is in front of it: the server listens on a socket of the file system.
async fn far_away(url: &str, round_trip: Duration) -> (Link, String) {
    let (login, rest) = url.strip_prefix("postgres://").and_then(|url| url.split_once('@')).expect("a login");
    let name = rest.split(['/', '?']).nth(1).expect("a database").to_owned();
    let folder = rest.split("host=").nth(1).and_then(|rest| rest.split('&').next()).expect("a folder");
    let socket = format!("{}/.s.PGSQL.5432", percent_encoding::percent_decode_str(folder).decode_utf8_lossy());
    let bridge = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let link = Link::start(bridge.local_addr().expect("a port")).await.expect("a link");
    tokio::spawn(async move {
        while let Ok((mut near, _)) = bridge.accept().await {
            let socket = socket.clone();
            tokio::spawn(async move {
                let Ok(mut far) = tokio::net::UnixStream::connect(&socket).await else { return };
                let _ = (near.set_nodelay(true), tokio::io::copy_bidirectional(&mut near, &mut far).await);
            });
        }
    });
    link.round_trip(round_trip);
    let url = format!("postgres://{login}@{}/{name}?sslmode=disable", link.address());
    (link, url)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_far_from_its_database_is_slower_and_never_idle() {
    let _turn = crate::support::turn().await;
    join_all([5, 50, 250, 1000].map(Duration::from_millis).map(async |round_trip| {
        let fleet = fleet(Terms::default()).await;
        for i in 0..6 {
            fleet.gift(&format!("g{i}"), "amazon", 500).await;
        }
        let (link, url) = far_away(&fleet.url, round_trip).await;
        let worker = fleet.worker("far", &[("DATABASE_URL", &url)], &["--lease-ms", "20000"]);
        fleet.at_rest(Duration::from_secs(120)).await.unwrap_or_else(|error| panic!("{round_trip:?}: {error}"));
        let at = arrivals(&fleet, "amazon_incentives");
        assert!(at.len() == 6 && busiest_second(&at) <= 100, "{round_trip:?}: {} arrivals", at.len());
        assert!(link.accepted() > 0);
        assert!(worker.stop().await.success());
    }))
    .await;
}
