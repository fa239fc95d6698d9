//! `/metrics` of a real worker process.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    process::Command,
    time::Duration,
};

use noshi_jobs::{Kind, Problem};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    debian::program,
    engine::probe,
    fleet::{self, Fleet, Process, Terms, fleet},
    processes::{ledger, until},
};
use noshi::{
    db,
    lab::simulator::Provider,
    telemetry::metrics::{METRICS, Metric, Type, page},
};

/// Where a worker started with `--metrics 127.0.0.1:0` serves them, as its log says.
async fn address(worker: &Process) -> String {
    fleet::address(worker, "serving /metrics").await
}

/// The text of `/metrics`.
pub async fn scrape(worker: &Process) -> String {
    let mut stream = TcpStream::connect(address(worker).await).await.expect("a connection to /metrics");
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await.expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    assert!(head.contains(" 200 "), "{head}");
    body.to_owned()
}

/// Series (name and labels) and their values, without help, types and the parts of histograms.
fn series(text: &str) -> BTreeMap<String, f64> {
    let parts = ["_bucket", "_sum", "_count"];
    let of_histogram = |line: &str| {
        let name = line.split(['{', ' ']).next().unwrap();
        parts.iter().filter_map(|part| name.strip_suffix(part)).any(|name| family(name).r#type == Type::Histogram)
    };
    let lines = text.lines().filter(|line| line.starts_with("noshi_") && !of_histogram(line));
    lines
        .map(|line| {
            let (series, value) = line.rsplit_once(' ').expect("a series and its value");
            (series.to_owned(), value.parse().expect("a number"))
        })
        .collect()
}

fn family(name: &str) -> &'static Metric {
    METRICS.iter().find(|metric| metric.name == name).unwrap_or_else(|| panic!("{name} is in no catalogue"))
}

/// What a worker with all three providers and the organisation platform must show from the first moment on, each at 0.
fn expected() -> BTreeSet<String> {
    const OUTCOMES: &str = "ok accepted known pending resend refused throttled not_sent unknown dead conflict out_of_funds bad_credentials not_found failed";
    let lanes = ["", "probe", "org-platform", "gift/amazon_incentives", "gift/gift_on_demand", "gift/tango_card"];
    let mut all: BTreeSet<String> = METRICS
        .iter()
        .filter(|metric| metric.labels.is_empty() && metric.r#type != Type::Histogram)
        .map(|metric| metric.name.to_owned())
        .collect();
    all.insert(format!("noshi_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION")));
    all.extend(["idle", "used"].map(|state| format!("noshi_pool_connections{{state=\"{state}\"}}")));
    all.extend(["silent", "unfit"].map(|why| format!("noshi_connections_thrown_away_total{{why=\"{why}\"}}")));
    for code in Problem::ALL.iter().map(|problem| problem.code()) {
        for name in [
            "noshi_problems_total",
            "noshi_parked_jobs",
            "noshi_parked_oldest_seconds",
            "noshi_parked_acknowledged_jobs",
        ] {
            all.insert(format!("{name}{{code=\"{code}\"}}"));
        }
    }
    // The one built-in kind that comes in as a user's own does.
    for kind in Kind::ALL.map(Kind::name).into_iter().chain(["effect"]) {
        all.insert(format!("noshi_steps_total{{kind=\"{kind}\"}}"));
        all.insert(format!("noshi_stale_settles_total{{kind=\"{kind}\"}}"));
        for outcome in "completed failed compensated cancelled needs_operator".split(' ') {
            all.insert(format!("noshi_jobs_total{{kind=\"{kind}\",outcome=\"{outcome}\"}}"));
        }
        for status in "scheduled available running retryable needs_operator compensating".split(' ') {
            all.insert(format!("noshi_open_jobs{{kind=\"{kind}\",status=\"{status}\"}}"));
        }
    }
    for lane in lanes {
        let forfeited = (!lane.is_empty()).then_some("noshi_lane_tokens_forfeited_total");
        let gauges = ["noshi_lane_open", "noshi_lane_tokens", "noshi_oldest_available_seconds"];
        for name in gauges.into_iter().chain(forfeited) {
            all.insert(format!("{name}{{lane=\"{lane}\"}}"));
        }
        for why in ["clock", "keys", "trust"].into_iter().filter(|_| !lane.is_empty() && lane != "probe") {
            all.insert(format!("noshi_process_kept_away{{lane=\"{lane}\",why=\"{why}\"}}"));
        }
        for why in ["paused", "throttled", "funds", "credentials", "sender", "tls"] {
            all.insert(format!("noshi_lane_shut{{lane=\"{lane}\",why=\"{why}\"}}"));
        }
    }
    let gifts = Provider::ALL.map(|provider| (provider.name(), &["issue", "inquire", "cancel", "refetch"][..]));
    let stores = ("organization_platform", &["create_shop", "find_shop", "assign_service", "delete_shop"][..]);
    for (provider, ops) in gifts.into_iter().chain([stores]) {
        for op in ops {
            for outcome in OUTCOMES.split(' ') {
                all.insert(format!(
                    "noshi_provider_requests_total{{provider=\"{provider}\",op=\"{op}\",outcome=\"{outcome}\"}}"
                ));
            }
        }
    }
    all
}

/// What is there and should not be, and the other way round.
fn unexpected(series: &BTreeMap<String, f64>) -> Vec<String> {
    series.keys().cloned().collect::<BTreeSet<_>>().symmetric_difference(&expected()).cloned().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_series_is_there_at_0_and_none_is_added() {
    let fleet = fleet(Terms { faults: true, ..Terms::default() }).await;
    db::queue::lanes::declare(&fleet.pool, "probe", &[]).await.unwrap();
    let worker = fleet.worker("counts", &[], &["--metrics", "127.0.0.1:0"]);
    let mut text = scrape(&worker).await;
    until("every series", Duration::from_secs(20), async || {
        text = scrape(&worker).await;
        unexpected(&series(&text)).is_empty()
    })
    .await;
    let before = series(&text);
    for (series, value) in &before {
        let counts = family(series.split('{').next().unwrap()).r#type == Type::Counter;
        assert!(!counts || *value == 0.0, "{series} begins at {value}");
    }
    assert_eq!((before["noshi_workers_alive"], before["noshi_in_doubt_jobs"]), (1.0, 0.0));
    let histograms = METRICS.iter().filter(|metric| metric.r#type == Type::Histogram);
    let missing: Vec<&str> =
        histograms.map(|metric| metric.name).filter(|name| !text.contains(&format!("{name}_count"))).collect();
    assert_eq!(missing, [""; 0]);
    assert!(text.contains("process_resident_memory_bytes") && text.contains("process_open_fds"));

    let ids: Vec<String> = (0..2_000).map(|n| format!("p{n}")).collect();
    let args = ids.iter().map(|id| json!({"id": id, "steps": 2, "lane": "probe"})).collect::<Vec<_>>();
    sqlx::query("select noshi.enqueue_rows('probe', $1, $2)").bind(ids).bind(args).execute(&fleet.pool).await.unwrap();
    for category in ["amazon", "digital", "prepaid"] {
        for n in 0..20 {
            fleet.gift(&format!("{category}-{n}"), category, 500).await;
        }
    }
    fleet.at_rest(Duration::from_secs(60)).await.unwrap();
    // The rows are at rest before their worker has read that they are, and counted them.
    let mut after = BTreeMap::new();
    until("nothing is held, and all is counted", Duration::from_secs(20), async || {
        after = series(&scrape(&worker).await);
        let ended =
            after.iter().filter(|(series, _)| series.starts_with("noshi_jobs_total")).map(|(_, n)| n).sum::<f64>();
        after["noshi_leases_held"] == 0.0 && ended >= 2_060.0
    })
    .await;
    assert_eq!(unexpected(&after), [""; 0]);
    let sum = |prefix: &str| after.iter().filter(|(series, _)| series.starts_with(prefix)).map(|(_, v)| v).sum::<f64>();
    assert_eq!(after[r#"noshi_jobs_total{kind="probe",outcome="completed"}"#], 2_000.0);
    assert_eq!(sum(r#"noshi_jobs_total{kind="gift_issuance""#), 60.0);
    let settled = "select count(*) from noshi.job_event where event = 'settled'";
    let settled: i64 = sqlx::query_scalar(settled).fetch_one(&fleet.pool).await.unwrap();
    assert_eq!(sum("noshi_steps_total"), settled as f64);
    let answers = ledger(&fleet).iter().filter(|line| line["event"] == "arrival").count();
    // An inquiry that never left counts as one without an answer, so what was not sent is told by the log alone.
    let log = std::fs::read_to_string(&worker.log).unwrap();
    let unsent = log.lines().filter(|line| line.contains("not sent")).count();
    assert_eq!(sum("noshi_provider_requests_total"), (answers + unsent) as f64);
    assert!(worker.stop().await.success());
}

/// Every series of a scrape, those of histograms and of the process too.
async fn all_series(worker: &Process) -> BTreeSet<String> {
    let text = scrape(worker).await;
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    lines.map(|line| line.rsplit_once(' ').expect("a series and its value").0.to_owned()).collect()
}

/// Runs probes up to this number, and ten gifts and stores with them, each with ids of its own.
async fn run_jobs(fleet: &Fleet, from: i32, upto: i32) {
    const PROBES: &str =
        "select count(*) from noshi.enqueue_rows('probe', array(select 'p' || n from generate_series($1, $2) n),
        array(select jsonb_build_object('id', 'p' || n, 'steps', 1) from generate_series($1, $2) n))";
    for first in (from..upto).step_by(10_000) {
        let last = upto.min(first + 10_000) - 1;
        sqlx::query(PROBES).bind(first).bind(last).execute(&fleet.pool).await.unwrap();
    }
    for n in from..from + 10 {
        for category in ["amazon", "digital", "prepaid"] {
            fleet.gift(&format!("{category}-{n}"), category, 500 + i64::from(n)).await;
        }
        fleet.store(&format!("O-{n}"), &format!("S-{n}"), "1").await;
    }
    let within = Duration::from_secs(60 + u64::from((upto - from).unsigned_abs()) / 50);
    fleet.at_rest(within).await.unwrap();
}

/// At size: `NOSHI_JOBS=100000 cargo test --test it metrics::series_do_not_grow_with_jobs -- --nocapture`.
#[tokio::test(flavor = "multi_thread")]
async fn series_do_not_grow_with_jobs() {
    let _turn = crate::support::turn().await;
    let most = std::env::var("NOSHI_JOBS").map_or(3_000, |most| most.parse().expect("a number"));
    let fleet = fleet(Terms::default()).await;
    let worker = fleet.worker("counts", &[], &["--metrics", "127.0.0.1:0"]);
    until("the fleet's metric snapshot", Duration::from_secs(20), async || {
        scrape(&worker).await.contains("noshi_oldest_available_seconds{lane=\"org-platform\"}")
    })
    .await;
    let mut told = vec![all_series(&worker).await];
    for (from, upto) in [(0, 1_000), (1_000, most)] {
        run_jobs(&fleet, from, upto).await;
        told.push(all_series(&worker).await);
    }
    println!(
        "series at the start, after 1,000 jobs and after {most}: {:?}",
        told.iter().map(BTreeSet::len).collect::<Vec<_>>()
    );
    let more: Vec<&String> = told[2].difference(&told[0]).collect();
    assert!(told[1] == told[2] && more.is_empty(), "{more:?}");
    assert!(worker.stop().await.success());
}

/// Also what was waiting when the worker started.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_jobs_are_counted() {
    let fleet = fleet(Terms::default()).await;
    for n in 0..20 {
        probe(&fleet.pool, json!({"id": format!("p{n}"), "steps": 1})).await;
    }
    let worker = fleet.worker("counts", &[], &["--metrics", "127.0.0.1:0"]);
    fleet.at_rest(Duration::from_secs(20)).await.unwrap();
    let completed = series(&scrape(&worker).await)[r#"noshi_jobs_total{kind="probe",outcome="completed"}"#];
    assert_eq!(completed, 20.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn promtool_has_nothing_to_say() {
    let fleet = fleet(Terms::default()).await;
    let promtool = match program("promtool").await {
        Ok(promtool) => promtool,
        Err(why) => return eprintln!("SKIPPED: there is no promtool: {why}"),
    };
    fleet.gift("g", "amazon", 500).await;
    let worker = fleet.worker("counts", &[], &["--metrics", "127.0.0.1:0"]);
    fleet.at_rest(Duration::from_secs(20)).await.unwrap();
    let mut text = scrape(&worker).await;
    until("the fleet's metric snapshot", Duration::from_secs(20), async || {
        text = scrape(&worker).await;
        text.contains("noshi_oldest_available_seconds")
    })
    .await;
    let check = |text: &str| {
        let file = fleet.dir.path().join("metrics");
        std::fs::write(&file, text).unwrap();
        let said =
            Command::new(&promtool).args(["check", "metrics"]).stdin(File::open(file).unwrap()).output().unwrap();
        String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned()
    };
    assert_eq!(check(&text), "");
    let without_help = text.lines().filter(|line| !line.starts_with("# HELP")).map(|line| format!("{line}\n"));
    assert!(check(&without_help.collect::<String>()).contains("no help text"));
}

#[test]
fn the_page_is_drawn_from_the_catalogue() {
    crate::support::is_as_drawn("ops/metrics.md", &page());
}

/// A counter's family is its name without `_total`: what reads OpenMetrics would take another of that name for the same.
#[test]
fn no_two_families_have_one_name() {
    let mut families: Vec<&str> = METRICS.iter().map(|metric| metric.name.trim_end_matches("_total")).collect();
    families.sort_unstable();
    families.dedup();
    assert_eq!(families.len(), METRICS.len());
}
