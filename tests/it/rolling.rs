//! Four workers under load, restarted one after another as an orchestrator does it: nothing is lost, twice, rescued, or waited for,
//! and a real Prometheus with our rules has nothing to say.
//!
//! The first four are of an earlier version where `NOSHI_EARLIER` names a build of it: then they are replaced by ours, restarted, and
//! rolled back. Without one, all are ours, and the newer version is stood in for by jobs in a kind and a state that none of them knows.
//! A build from before there were public keys opens nothing that ours sealed, as the page of upgrading says: beside it no mails are asked for.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use rustix::process::Signal;
use tokio::task::JoinSet;

use crate::{
    drill::{
        hurry,
        stage::{Stage, free_address},
    },
    fleet::{Fleet, Process, Terms, fleet},
    metrics::scrape,
    probes::{address, ask, until_ready},
    processes::{ledger, until},
    support::alone,
};
use noshi::db::PgPool;

/// For so long /readyz says 503 before the claims stop.
const UNREADY: Duration = Duration::from_millis(1_500);
/// What a drain may take here: calls time out after 3 s.
const DRAIN: Duration = Duration::from_secs(10);
const CATEGORIES: [&str; 3] = ["amazon", "digital", "prepaid"];

/// What producers have asked for.
#[derive(Default)]
struct Requested {
    gifts: AtomicU32,
    mails: AtomicU32,
    enough: AtomicBool,
}

/// Asks for gifts and mails until it is enough: some twenty a second.
async fn load(fleet: &Fleet, asked: &Requested, with_mails: bool) {
    let mut pace = tokio::time::interval(Duration::from_millis(150));
    while !asked.enough.load(Ordering::Relaxed) {
        pace.tick().await;
        for _ in 0..2 {
            let n = asked.gifts.fetch_add(1, Ordering::Relaxed);
            fleet.gift(&format!("roll-{n}"), CATEGORIES[n as usize % CATEGORIES.len()], 500).await;
        }
        if with_mails {
            let n = asked.mails.fetch_add(1, Ordering::Relaxed);
            fleet.mail_to(&format!("mail-{n}"), "Hana", &format!("hana+{n}@example.jp")).await;
        }
    }
}

/// Whether a build seals to a public key, as ours does.
fn knows_public_keys(program: &str) -> bool {
    let tried = std::process::Command::new(program).args(["vault", "public", "--help"]).output();
    tried.expect("a build that runs").status.success()
}

/// The worker of this name that is alive, or was last.
async fn number(pool: &PgPool, name: &str) -> i64 {
    let mut number = None;
    until("a worker that has registered", Duration::from_secs(20), async || {
        let newest = "select max(id) from noshi.worker where name = $1";
        number = sqlx::query_scalar::<_, Option<i64>>(newest).bind(name).fetch_one(pool).await.unwrap();
        number.is_some()
    })
    .await;
    number.unwrap()
}

async fn claims_of(pool: &PgPool, worker: i64) -> (i64, Option<DateTime<Utc>>) {
    let claims = "select count(*), max(happened_at) from noshi.job_event where worker = $1 and event = 'claimed'";
    sqlx::query_as(claims).bind(worker).fetch_one(pool).await.unwrap()
}

/// Until it takes part in the work.
async fn at_work(pool: &PgPool, worker: i64) {
    until("a claim of its own", Duration::from_secs(20), async || claims_of(pool, worker).await.0 > 3).await;
}

/// Tells a worker to end, and looks at everything that it promises about that.
async fn end(fleet: &Fleet, name: &str, mut process: Process, has_probes: bool) {
    let pool = &fleet.pool;
    let worker = number(pool, name).await;
    at_work(pool, worker).await;
    let probes = if has_probes { Some(address(&process).await) } else { None };
    if let Some(probes) = &probes {
        assert!(scrape(&process).await.lines().any(|line| line == "noshi_rescues_total 0"));
        assert_eq!(ask(probes, "/readyz").await.map(|(status, _)| status), Some(200));
    }
    let told = Instant::now();
    process.signal(Signal::TERM);
    let mut unready_at = None;
    if let Some(probes) = &probes {
        until_ready(probes, Err("stopping")).await;
        let now: DateTime<Utc> = sqlx::query_scalar("select clock_timestamp()").fetch_one(pool).await.unwrap();
        assert!(told.elapsed() < UNREADY / 2, "this machine is too slow to tell: {:?}", told.elapsed());
        unready_at = Some(now);
    }
    let status = tokio::time::timeout(UNREADY + DRAIN, process.child.wait()).await.expect("it drains in time").unwrap();
    assert!(status.success(), "{name}: {status}");
    let took = told.elapsed();
    // At the very moment of its end nothing is left with it, for anybody to wait for.
    let left = "select count(*) from noshi.job where worker = $1";
    let left: i64 = sqlx::query_scalar(left).bind(worker).fetch_one(pool).await.unwrap();
    let gone = "select stopped_at is not null and dead_at is null from noshi.worker where id = $1";
    let gone: bool = sqlx::query_scalar(gone).bind(worker).fetch_one(pool).await.unwrap();
    assert!(left == 0 && gone, "{name} left {left} jobs; signed off: {gone}");
    let (_, last_claim) = claims_of(pool, worker).await;
    if let (Some(unready_at), Some(last_claim)) = (unready_at, last_claim) {
        let went_on = last_claim - unready_at;
        assert!(went_on > chrono::TimeDelta::zero(), "{name} claimed no more before it said that it was not ready");
        eprintln!("{name}: unready for {} ms before its last claim; ended after {took:?}", went_on.num_milliseconds());
    } else {
        eprintln!("{name}: ended after {took:?}");
    }
}

/// Where each of the four is scraped, whichever process it is.
type Addresses = BTreeMap<&'static str, String>;

async fn begin(fleet: &Fleet, addresses: &Addresses, program: Option<&str>, name: &str) -> Process {
    // Nobody dies here: what is looked at is that nobody is missed who went in good order, on a machine that may stand still for seconds.
    let metrics = ["--metrics", &addresses[&name[..1]], "--lease-ms", "15000"];
    let Some(program) = program else {
        let unready = UNREADY.as_millis().to_string();
        let process = fleet.worker(name, &[], &[&metrics[..], &["--unready-ms", &unready]].concat());
        until_ready(&address(&process).await, Ok(())).await;
        return process;
    };
    let process = fleet.worker_of(program, name, &[], &metrics);
    number(&fleet.pool, name).await;
    process
}

/// Each of the four in its turn: ended, and begun again as `to`. A build that is named is an earlier one, without probes.
async fn roll(
    (fleet, addresses): (&Fleet, &Addresses),
    workers: &mut BTreeMap<String, Process>,
    (from, to): (Option<&str>, Option<&str>),
    round: u8,
) {
    for (name, process) in std::mem::take(workers) {
        end(fleet, &name, process, from.is_none()).await;
        let next = format!("{}-{round}", &name[..1]);
        let process = begin(fleet, addresses, to, &next).await;
        workers.insert(next, process);
    }
}

async fn shows(stage: &Stage, what: &str) {
    until(what, Duration::from_secs(30), async || stage.query(what).await.is_ok_and(|seen| !seen.is_empty())).await;
}

/// Since then Prometheus has seen both processes of each of the four, and has told of nothing.
async fn no_alert(stage: &Stage, since: Instant) {
    shows(stage, "count(changes(process_start_time_seconds[10m]) > 0 and up == 1) == 4").await;
    // Two seconds here stand for two minutes: that a restart in its own time is no fault, promtool's test of the rule says.
    let heard = stage.notices.fired_since(since).into_iter().filter(|name| name != "NoshiTargetDown");
    assert_eq!(heard.collect::<Vec<_>>(), [""; 0]);
}

/// Rows that a newer version wrote; whoever does not know them leaves them alone.
async fn of_a_newer_version(pool: &PgPool) {
    let insert = r#"insert into noshi.job (kind, key, fingerprint, args, at, state)
        select kind, 'newer ' || n, '', '{"id": "x", "steps": 1}', at, state::jsonb from generate_series(1, 10) n, (values
            ('of_the_future', 'new', null), ('probe', 'dreaming', '{"at": "dreaming"}')) j(kind, at, state)"#;
    sqlx::raw_sql(insert).execute(pool).await.unwrap();
}

const NEWER: &str = "key like 'newer %'";

async fn count(pool: &PgPool, what: &str) -> i64 {
    let count = sqlx::AssertSqlSafe(format!("select count(*) from {what}"));
    sqlx::query_scalar(count).fetch_one(pool).await.unwrap_or_else(|error| panic!("{what}: {error}"))
}

/// By the partners' own ledger, and by our tables.
async fn everything_was_done_once(fleet: &Fleet, asked: &Requested, newer: i64) {
    let pool = &fleet.pool;
    let (gifts, mails) = (asked.gifts.load(Ordering::Relaxed), asked.mails.load(Ordering::Relaxed));
    let of = |kind: &str| format!("noshi.job where kind = '{kind}' and status = 'completed'");
    assert_eq!(count(pool, &of("gift_issuance")).await, i64::from(gifts), "gifts");
    assert_eq!(count(pool, &of("email")).await, i64::from(mails), "mails");
    assert_eq!(count(pool, &format!("noshi.job where not {NEWER}")).await, i64::from(gifts + mails));
    let mut issued = BTreeMap::<String, usize>::new();
    for line in ledger(fleet).iter().filter(|line| line["event"] == "issued") {
        *issued.entry(line["trade"].to_string()).or_default() += 1;
    }
    assert_eq!((issued.len(), issued.values().sum::<usize>()), (gifts as usize, gifts as usize), "issued");
    let sends = fleet.sends();
    assert_eq!((sends.len(), sends.values().sum::<usize>()), (mails as usize, mails as usize), "sent");
    assert_eq!(count(pool, "noshi.job_event where event = 'rescued'").await, 0, "a job was rescued");
    assert_eq!(count(pool, "noshi.worker where dead_at is not null").await, 0, "a worker was declared dead");
    let untouched = format!("noshi.job where {NEWER} and step = 0 and status = 'available' and crash_count = 0");
    assert_eq!(count(pool, &untouched).await, newer, "jobs of a newer version were touched");
}

#[tokio::test(flavor = "multi_thread")]
async fn four_workers_are_restarted_one_after_another_under_load() {
    let _turn = alone().await;
    let earlier = std::env::var("NOSHI_EARLIER").ok();
    let earlier = earlier.as_deref();
    // Five debug processes on a small machine: calls travel differently long, and a slow answer is no doubt.
    let (jitter, call_timeout) = (Duration::from_millis(250), Duration::from_secs(3));
    let fleet = fleet(Terms { mails: true, jitter, call_timeout, ..Terms::default() }).await;
    let mut hands = JoinSet::new();
    hands.spawn(hurry(fleet.pool.clone()));
    let addresses = Addresses::from(["a", "b", "c", "d"].map(|name| (name, free_address())));
    let asked = Requested::default();
    let rolling = async {
        let mut workers = BTreeMap::new();
        for name in ["a-0", "b-0", "c-0", "d-0"] {
            workers.insert(name.to_owned(), begin(&fleet, &addresses, earlier, name).await);
        }
        let targets: Vec<String> = addresses.values().cloned().collect();
        let stage = Stage::set(fleet.dir.path(), &targets).await;
        if let Ok(stage) = &stage {
            // While nobody has been scraped yet, nobody seems to work.
            shows(stage, "count(up == 1) == 4 unless on () count(ALERTS{alertstate=\"firing\"})").await;
        }
        let began = Instant::now();
        let of = (&fleet, &addresses);
        roll(of, &mut workers, (earlier, None), 1).await;
        if earlier.is_some() {
            roll(of, &mut workers, (None, None), 2).await;
            roll(of, &mut workers, (None, earlier), 3).await;
        }
        match stage {
            Ok(stage) => no_alert(&stage, began).await,
            Err(why) => eprintln!("SKIPPED: nobody listens for alerts: {why}"),
        }
        if earlier.is_none() {
            // Nobody takes these here, so that from now on an alert is right.
            of_a_newer_version(&fleet.pool).await;
            roll(of, &mut workers, (None, None), 2).await;
        }
        asked.enough.store(true, Ordering::Relaxed);
        workers
    };
    let with_mails = earlier.is_none_or(knows_public_keys);
    let ((), workers) = tokio::join!(load(&fleet, &asked, with_mails), rolling);
    let open = format!("noshi.job where status in ('scheduled', 'available', 'running', 'retryable') and not {NEWER}");
    until("everything at rest", Duration::from_secs(60), async || count(&fleet.pool, &open).await == 0).await;
    everything_was_done_once(&fleet, &asked, if earlier.is_none() { 20 } else { 0 }).await;
    eprintln!("{} gifts and {} mails", asked.gifts.load(Ordering::Relaxed), asked.mails.load(Ordering::Relaxed));
    for (name, process) in workers {
        if earlier.is_none() {
            assert!(scrape(&process).await.lines().any(|line| line == "noshi_rescues_total 0"), "{name}");
        }
        assert!(process.stop().await.success(), "{name}");
    }
}
