//! Workers as processes: stopped, killed, shut down, and with a database that crashes under them.

use std::time::Duration;

use futures::future::join_all;
use rustix::process::Signal;
use serde_json::{Value, json};
use sqlx::Executor;

use crate::{
    engine::probe,
    fleet::{Fleet, Terms, fleet, fleet_on_url},
    support::database,
};
use noshi::{
    db::{self, PgPool},
    lab::{
        private_postgres::{PrivatePostgres, Settings},
        simulator::{Fault, Op, Provider},
    },
};

const PROVIDERS: [(Provider, &str); 3] =
    [(Provider::AmazonIncentives, "amazon"), (Provider::GiftOnDemand, "digital"), (Provider::TangoCard, "prepaid")];

pub fn ledger(fleet: &Fleet) -> Vec<Value> {
    let text = std::fs::read_to_string(fleet.ledger()).expect("the ledger");
    // A line that is still being written is nobody's answer yet.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(|line| serde_json::from_str(line).expect("a ledger line")).collect()
}

pub fn count(fleet: &Fleet, event: &str) -> usize {
    ledger(fleet).iter().filter(|line| line["event"] == event).count()
}

/// Waits until the condition holds.
pub async fn until(what: &str, within: Duration, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + within;
    while !holds().await {
        assert!(tokio::time::Instant::now() < deadline, "waited {within:?} for: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn status(pool: &PgPool, id: i64) -> (String, Option<String>) {
    sqlx::query_as("select status::text, code from noshi.job where id = $1").bind(id).fetch_one(pool).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn three_providers_issue_once_and_the_worker_stops_in_order() {
    let _turn = crate::support::turn().await;
    let fleet = fleet(Terms::default()).await;
    for (_, category) in PROVIDERS {
        for i in 0..5 {
            fleet.gift(&format!("{category}-{i}"), category, 500).await;
        }
    }
    let worker = fleet.worker("a", &[], &[]);
    fleet.at_rest(Duration::from_secs(30)).await.unwrap();
    let issued: i64 = sqlx::query_scalar("select count(*) from noshi.job where status = 'completed' and at = 'issued'")
        .fetch_one(&fleet.pool)
        .await
        .unwrap();
    assert_eq!((issued, count(&fleet, "issued")), (15, 15));
    let sealed: i64 =
        sqlx::query_scalar("select count(*) from noshi_sealed.sealed").fetch_one(&fleet.pool).await.unwrap();
    assert_eq!(sealed, 10, "Amazon's codes are never kept");
    assert!(worker.stop().await.success());
    let left: i64 = sqlx::query_scalar("select count(*) from noshi.worker where stopped_at is null")
        .fetch_one(&fleet.pool)
        .await
        .unwrap();
    assert_eq!(left, 0);
}

/// The holder is stopped in mid-call, past its lease, and continued when another has finished its work.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_stopped_past_its_lease_writes_nothing_more() {
    let _turn = crate::support::turn().await;
    let fleet = fleet(Terms { call_timeout: Duration::from_secs(4), ..Terms::default() }).await;
    for (provider, category) in PROVIDERS {
        fleet.control().script(provider, Op::Issue, Fault::EffectThenHang, 1).unwrap();
        fleet.gift(category, category, 500).await;
    }
    let mut first = fleet.worker("first", &[], &[]);
    until("three calls", Duration::from_secs(20), async || count(&fleet, "issued") == 3).await;
    first.signal(Signal::STOP);
    let second = fleet.worker("second", &[], &[]);
    fleet.at_rest(Duration::from_secs(30)).await.unwrap();
    first.signal(Signal::CONT);
    let end = tokio::time::timeout(Duration::from_secs(20), first.child.wait()).await.expect("it ends").unwrap();
    assert!(!end.success(), "a worker that was declared dead ends with an error");
    let late: i64 = sqlx::query_scalar(
        "select count(*) from noshi.job_event e join noshi.worker w on w.id = e.worker where w.dead_at < e.happened_at",
    )
    .fetch_one(&fleet.pool)
    .await
    .unwrap();
    assert_eq!(late, 0, "a dead worker's write was accepted");
    let completed: i64 = sqlx::query_scalar("select count(*) from noshi.job where status = 'completed'")
        .fetch_one(&fleet.pool)
        .await
        .unwrap();
    assert_eq!((completed, count(&fleet, "issued")), (3, 3));
    assert!(second.stop().await.success());
}

/// The worst moment: after every check, right before the send. Fencing cannot reach the provider; the trade id can.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_stopped_right_before_the_send_causes_no_second_gift() {
    let _turn = crate::support::turn().await;
    join_all(PROVIDERS.map(async |(_, category)| {
        let fleet = fleet(Terms::default()).await;
        let job = fleet.gift("g", category, 500).await;
        let mut first = fleet.worker("first", &[("NOSHI_STOP", "send.before@1")], &[]);
        let claimed = "select count(*) from noshi.job where status = 'running' and at = 'issuing'";
        until("the claim", Duration::from_secs(20), async || {
            sqlx::query_scalar::<_, i64>(claimed).fetch_one(&fleet.pool).await.unwrap() == 1
        })
        .await;
        let second = fleet.worker("second", &[], &[]);
        until("the takeover", Duration::from_secs(20), async || {
            let rescued = "select count(*) from noshi.job_event where event = 'rescued'";
            sqlx::query_scalar::<_, i64>(rescued).fetch_one(&fleet.pool).await.unwrap() == 1
        })
        .await;
        fleet.at_rest(Duration::from_secs(30)).await.unwrap();
        let before = status(&fleet.pool, job).await;
        first.signal(Signal::CONT);
        let end = tokio::time::timeout(Duration::from_secs(20), first.child.wait()).await.expect("it ends").unwrap();
        assert!(!end.success());
        // The late send may come before the process has ended, or not.
        let issued = count(&fleet, "issued");
        assert!(issued == 1 || (issued == 0 && category == "digital"), "{category}: {:?}", ledger(&fleet));
        assert_eq!(status(&fleet.pool, job).await, before, "{category}: a stale worker changed the job");
        match category {
            "digital" => assert_eq!(before, ("needs_operator".to_owned(), Some("not_found_in_doubt".to_owned()))),
            _ => assert_eq!(before.0, "completed"),
        }
        drop(second);
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_kills_its_workers_is_parked_and_its_neighbours_are_not() {
    let _turn = crate::support::turn().await;
    let fleet = fleet(Terms::default()).await;
    db::queue::lanes::declare(&fleet.pool, "probe", &[]).await.unwrap();
    let poison = probe(&fleet.pool, json!({"id": "poison", "steps": 2, "lane": "probe", "answers": ["die"]})).await;
    for i in 0..10 {
        let answers = vec!["busy"; 10];
        probe(&fleet.pool, json!({"id": format!("p{i}"), "steps": 2, "lane": "probe", "answers": answers})).await;
    }
    let mut deaths = 0;
    while status(&fleet.pool, poison).await.0 != "needs_operator" {
        let mut worker = fleet.worker(&format!("w{deaths}"), &[], &[]);
        let rest = fleet.at_rest(Duration::from_secs(20));
        tokio::select! {
            died = worker.killed(Duration::from_secs(20)) => assert!(died),
            rest = rest => { rest.unwrap(); break }
        }
        deaths += 1;
        assert!(deaths <= 3, "a poison job may kill three workers, not more");
        fleet.declare_all_dead().await;
    }
    let _last = fleet.worker("last", &[], &[]);
    fleet.at_rest(Duration::from_secs(30)).await.unwrap();
    assert_eq!(status(&fleet.pool, poison).await, ("needs_operator".to_owned(), Some("poison".to_owned())));
    assert_eq!(deaths, 3);
    let completed: i64 = sqlx::query_scalar("select count(*) from noshi.job where status = 'completed'")
        .fetch_one(&fleet.pool)
        .await
        .unwrap();
    assert_eq!(completed, 10, "a neighbour was blamed");
}

/// What a dead worker had in flight is looked after beside the work of the others, not instead of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_with_forty_calls_in_flight_does_not_stop_the_others() {
    const A_SECOND: usize = 20;
    let _turn = crate::support::turn().await;
    let fleet = fleet(Terms { call_timeout: Duration::from_secs(4), ..Terms::default() }).await;
    // What comes later takes a second each: to let it all finish before each suspect would take a minute.
    fleet.control().script(Provider::GiftOnDemand, Op::Issue, Fault::SlowBody, 1000).unwrap();
    fleet.control().script(Provider::AmazonIncentives, Op::Issue, Fault::EffectThenHang, 40).unwrap();
    for i in 0..40 {
        fleet.gift(&format!("held{i}"), "amazon", 500).await;
    }
    let first = fleet.worker("first", &[], &[]);
    until("forty calls", Duration::from_secs(20), async || count(&fleet, "issued") == 40).await;
    first.signal(Signal::KILL);
    let second = fleet.worker("second", &[], &[]);
    let held = "select count(*) from noshi.job where status = 'running'";
    assert_eq!(sqlx::query_scalar::<_, i64>(held).fetch_one(&fleet.pool).await.unwrap(), 40);
    let begun = tokio::time::Instant::now();
    let mut done = vec![];
    for second in 1..=15_u32 {
        for i in 0..A_SECOND {
            fleet.gift(&format!("later{second}-{i}"), "digital", 500).await;
        }
        tokio::time::sleep_until(begun + Duration::from_secs(1) * second).await;
        let completed = "select count(*) from noshi.job where status = 'completed' and args ->> 'category' = 'digital'";
        done.push(sqlx::query_scalar::<_, i64>(completed).fetch_one(&fleet.pool).await.unwrap());
    }
    let rate = (done[14] - done[4]) as f64 / (10 * A_SECOND) as f64;
    eprintln!(
        "completed after each second: {done:?}; {rate:.2} of what came in, from the fifth second to the fifteenth"
    );
    assert!(rate >= 0.8, "{rate:.2}: {done:?}");
    fleet.at_rest(Duration::from_secs(30)).await.unwrap();
    let (completed, rescued): (i64, i64) = sqlx::query_as(
        "select (select count(*) from noshi.job where status = 'completed'),
            (select count(distinct job) from noshi.job_event where event = 'rescued')",
    )
    .fetch_one(&fleet.pool)
    .await
    .unwrap();
    let all = 40 + 15 * A_SECOND;
    assert_eq!((completed as usize, count(&fleet, "issued"), rescued), (all, all, 40));
    assert!(second.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_at_once_and_the_doubt_is_resolved() {
    let _turn = crate::support::turn().await;
    let fleet = fleet(Terms { call_timeout: Duration::from_secs(4), ..Terms::default() }).await;
    fleet.control().script(Provider::GiftOnDemand, Op::Issue, Fault::EffectThenHang, 1).unwrap();
    let job = fleet.gift("g", "digital", 500).await;
    let mut first = fleet.worker("first", &[], &[]);
    until("the effect", Duration::from_secs(20), async || count(&fleet, "issued") == 1).await;
    first.signal(Signal::TERM);
    until("the first signal was heard", Duration::from_secs(5), async || {
        std::fs::read_to_string(&first.log).unwrap_or_default().contains("no more claims")
    })
    .await;
    // Signals within a second of the first are the first, sent twice; the one after that is meant.
    let heard = std::time::Instant::now();
    let end = loop {
        first.signal(Signal::TERM);
        match tokio::time::timeout(Duration::from_millis(200), first.child.wait()).await {
            Ok(end) => break end.unwrap(),
            Err(_) => assert!(heard.elapsed() < Duration::from_secs(3), "it ends at once"),
        }
    };
    assert_eq!(end.code(), Some(130));
    fleet.declare_all_dead().await;
    let _second = fleet.worker("second", &[], &[]);
    fleet.at_rest(Duration::from_secs(20)).await.unwrap();
    assert_eq!((status(&fleet.pool, job).await.0.as_str(), count(&fleet, "issued")), ("completed", 1));
}

/// Twenty crashes of the server under load: nothing lost, nobody declared dead, everybody claims again. How soon, it prints.
#[tokio::test(flavor = "multi_thread")]
async fn workers_survive_twenty_crashes_of_the_server() {
    let _turn = crate::support::busy().await;
    let server = PrivatePostgres::start(Settings { durable: true, ..Settings::default() }).await.expect("a server");
    let url = server.url("postgres");
    db::migrate(&url).await.unwrap();
    let fleet = fleet_on_url(url, Terms::default()).await;
    // The usual lease: a machine that stands still for two seconds kills nobody.
    let workers = ["a", "b"].map(|name| fleet.worker(name, &[], &["--lease-ms", "10000"]));
    let mut enqueued = 0;
    for crash in 0..20 {
        for _ in 0..200 {
            enqueued += 1;
            until("an enqueue", Duration::from_secs(10), async || try_probe(&fleet.pool, enqueued).await).await;
        }
        server.crash_restart().await.expect("the server comes back");
        let up = tokio::time::Instant::now();
        // Each worker shows by a claim of its own that it is at work again.
        until("every worker claims again", Duration::from_secs(30), async || {
            enqueued += 1;
            try_probe(&fleet.pool, enqueued).await;
            let claimed: Result<i64, _> = sqlx::query_scalar(
                "select count(distinct worker) from noshi.job_event
                 where event = 'claimed' and happened_at > pg_postmaster_start_time()",
            )
            .fetch_one(&fleet.pool)
            .await;
            claimed.is_ok_and(|workers| workers == 2)
        })
        .await;
        eprintln!("crash {crash}: both workers claimed again {:?} after the server was up", up.elapsed());
    }
    fleet.at_rest(Duration::from_secs(30)).await.unwrap();
    let (jobs, completed, dead): (i64, i64, i64) = sqlx::query_as(
        "select (select count(*) from noshi.job), (select count(*) from noshi.job where status = 'completed'),
            (select count(*) from noshi.worker where dead_at is not null)",
    )
    .fetch_one(&fleet.pool)
    .await
    .unwrap();
    assert!(jobs <= enqueued && jobs >= 4000, "{jobs} jobs of {enqueued}");
    assert_eq!((completed, dead), (jobs, 0));
    // A rescue is false if the job was leased by its worker: its settle would have been stale, and written nothing. A settle that was applied
    // before a crash, and answered by nobody, is not stale.
    for worker in workers {
        let log = std::fs::read_to_string(&worker.log).unwrap();
        let stale: Vec<&str> = log.lines().filter(|line| line.contains("stale:")).collect();
        assert!(stale.is_empty(), "rescued from a living worker: {stale:?}");
        assert!(worker.stop().await.success(), "a worker did not live through the crashes");
    }
    let blamed: i64 = sqlx::query_scalar("select count(*) from noshi.job_event where event = 'rescued'")
        .fetch_one(&fleet.pool)
        .await
        .unwrap();
    assert_eq!(blamed, 0, "a crash of the server was taken for a death of workers");
    server.stop().await.unwrap();
}

/// An acknowledged enqueue counts; one whose answer was lost is repeated under the same id.
async fn try_probe(pool: &PgPool, n: i64) -> bool {
    let args = json!({"id": format!("r{n}"), "steps": 3});
    let query =
        sqlx::query("select noshi.enqueue('probe', $1, $2)").bind(args["id"].as_str()).bind(&args).execute(pool);
    matches!(tokio::time::timeout(Duration::from_secs(2), query).await, Ok(Ok(_)))
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_picked_up_without_listen() {
    let db = database().await;
    let pace = noshi::engine::Pace { listen: false, ..crate::engine::pace() };
    let worker = crate::engine::start(&db, pace).await;
    let job = probe(&db.pool, json!({"id": "p", "steps": 1})).await;
    crate::engine::at_rest(&db.pool).await;
    assert_eq!(status(&db.pool, job).await.0, "completed");
    worker.stop().await;
}

/// What a claim on its way does not see any more is claimed right after it, though the worker polls every hour: a hint is not lost to a claim.
#[tokio::test(flavor = "multi_thread")]
async fn a_hint_that_comes_during_a_claim_is_heeded_after_it() {
    let db = database().await;
    let pace = noshi::engine::Pace { poll: Duration::from_secs(3600), ..crate::engine::pace() };
    let worker = crate::engine::start(&db, pace).await;
    for id in ["first", "second"] {
        until("a worker that listens and has looked", Duration::from_secs(20), async || {
            sqlx::query_scalar("select exists (select from noshi.bell) and exists (select from pg_stat_activity where query ilike 'listen%')")
                .fetch_one(&db.pool)
                .await
                .unwrap()
        })
        .await;
        let mut holder = db.pool.begin().await.unwrap();
        holder.execute("select from noshi.lane where name = '' for update").await.unwrap();
        db.pool.execute("select pg_notify('noshi', '')").await.unwrap();
        until("a claim that waits for its lane", Duration::from_secs(20), async || {
            sqlx::query_scalar("select exists (select from pg_locks where not granted)")
                .fetch_one(&db.pool)
                .await
                .unwrap()
        })
        .await;
        let job = probe(&db.pool, json!({"id": id, "steps": 1})).await;
        holder.commit().await.unwrap();
        until("the job", Duration::from_secs(10), async || status(&db.pool, job).await.0 == "completed").await;
    }
    worker.stop().await;
}

/// Producers that commit beside each other ring only for a worker that has nothing to do; and it has each job at once all the same, though it
/// polls every hour.
#[tokio::test(flavor = "multi_thread")]
async fn producers_ring_for_a_worker_that_waits_and_not_for_one_at_work() {
    let db = database().await;
    let rings = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let mut ear = sqlx::postgres::PgListener::connect(&db.url).await.unwrap();
    ear.listen("noshi").await.unwrap();
    let heard = std::sync::Arc::clone(&rings);
    let _ear = tokio::task::JoinSet::from_iter([async move {
        while ear.recv().await.is_ok() {
            heard.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    }]);
    let pace = noshi::engine::Pace { poll: Duration::from_secs(3600), ..crate::engine::pace() };
    let worker = crate::engine::start(&db, pace).await;
    let wanted = async || {
        let wanted = "select exists (select from noshi.bell where until > clock_timestamp())";
        until("a worker that asks to be rung", Duration::from_secs(20), async || {
            sqlx::query_scalar(wanted).fetch_one(&db.pool).await.unwrap()
        })
        .await;
    };
    wanted().await;
    let before = rings.load(std::sync::atomic::Ordering::Relaxed);
    probe(&db.pool, json!({"id": "alone", "steps": 1})).await;
    crate::engine::at_rest(&db.pool).await;
    until("a ring", Duration::from_secs(20), async || rings.load(std::sync::atomic::Ordering::Relaxed) > before).await;
    let many = futures::future::join_all((0..4).map(|of| {
        let pool = db.pool.clone();
        async move {
            for n in 0..500 {
                probe(&pool, json!({"id": format!("{of}-{n}"), "steps": 1})).await;
            }
        }
    }));
    many.await;
    crate::engine::at_rest(&db.pool).await;
    let rung = rings.load(std::sync::atomic::Ordering::Relaxed) - before;
    assert!(rung < 500, "{rung} of 2001 commits rang");
    wanted().await;
    probe(&db.pool, json!({"id": "again", "steps": 1})).await;
    crate::engine::at_rest(&db.pool).await;
    worker.stop().await;
}
