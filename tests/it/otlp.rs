//! Spans as a collector gets them (`--features otlp`): one trace for each job, over its steps, its calls and its processes.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    time::Duration,
};

use rustix::process::Signal;
use serde_json::json;
use tokio::{io::AsyncReadExt, net::TcpListener};

use crate::{
    collector::{Collector, ReceivedSpan},
    engine::probe,
    fleet::{Fleet, Process, Terms, fleet},
    processes::{count, until},
    support::turn,
    traces::{GIVEN, TRACE},
};
use noshi::{
    db,
    lab::simulator::{Fault, Op, Provider},
};

fn worker(fleet: &Fleet, collector: &Collector, name: &str) -> Process {
    let environment = collector.environment(name);
    let environment: Vec<(&str, &str)> = environment.iter().map(|(name, text)| (*name, text.as_str())).collect();
    fleet.worker(name, &environment, &[])
}

/// Below its parent in time, but for the clocks of two processes on one machine.
fn within(inner: &ReceivedSpan, outer: &ReceivedSpan) -> bool {
    const SLACK: u64 = 50_000_000;
    inner.begun + SLACK >= outer.begun && inner.ended <= outer.ended + SLACK
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gift_over_two_processes_is_one_trace_below_its_producer() {
    let _turn = turn().await;
    let collector = Collector::start().await;
    let fleet = fleet(Terms { call_timeout: Duration::from_secs(4), ..Terms::default() }).await;
    fleet.control().script(Provider::GiftOnDemand, Op::Issue, Fault::EffectThenHang, 1).unwrap();
    let mut transaction = fleet.pool.begin().await.unwrap();
    let set = "select set_config('noshi.traceparent', $1, true)";
    sqlx::query(set).bind(GIVEN).execute(&mut *transaction).await.unwrap();
    let args = json!({"grant": "canary-grant", "user": "canary-user", "category": "digital", "value": {"amount": 500, "currency": "JPY"}});
    let job: i64 = sqlx::query_scalar("select noshi.enqueue('gift_issuance', 'canary-grant', $1)")
        .bind(args)
        .fetch_one(&mut *transaction)
        .await
        .unwrap();
    transaction.commit().await.unwrap();

    let mut first = worker(&fleet, &collector, "first");
    until("the effect", Duration::from_secs(20), async || count(&fleet, "issued") == 1).await;
    until("a span of the first", Duration::from_secs(5), async || !collector.spans().is_empty()).await;
    first.signal(Signal::KILL);
    assert!(first.killed(Duration::from_secs(5)).await);
    fleet.declare_all_dead().await;
    let second = worker(&fleet, &collector, "second");
    fleet.at_rest(Duration::from_secs(30)).await.unwrap();
    assert!(second.stop().await.success());

    let spans = collector.spans();
    assert!(spans.iter().all(|span| span.trace == TRACE && span.service == "noshi"), "{spans:#?}");
    let by_id: HashMap<&str, &ReceivedSpan> = spans.iter().map(|span| (span.span.as_str(), span)).collect();
    assert_eq!(by_id.len(), spans.len(), "every span has an id of its own");
    let own: Vec<&ReceivedSpan> = spans.iter().filter(|span| span.name == "job gift_issuance").collect();
    let [own] = own[..] else { panic!("one span of the job itself: {own:#?}") };
    assert_eq!((own.parent.as_str(), own.attribute("outcome")), ("b7ad6b7169203331", Some("completed")));
    let mut names = BTreeSet::new();
    for span in spans.iter().filter(|span| span.span != own.span) {
        let parent = by_id.get(span.parent.as_str()).unwrap_or_else(|| panic!("{span:?} has no parent"));
        assert!(within(span, parent), "{span:?} in {parent:?}");
        let is_call = span.name.starts_with("gift_on_demand ");
        assert_eq!(parent.span == own.span, !is_call, "steps are below the job, calls below their step: {span:?}");
        assert!(span.process == parent.process || parent.span == own.span);
        assert!(span.attribute("outcome").is_some_and(|outcome| !outcome.is_empty()), "{span:?}");
        if !is_call {
            assert_eq!(span.attribute("job"), Some(&*job.to_string()));
            let at = span.attribute("at").unwrap();
            assert_eq!((span.name.as_str(), span.attribute("tries")), (&*format!("gift_issuance {at}"), Some("0")));
        }
        names.insert((span.process.as_str(), span.name.as_str()));
    }
    // What the first was killed in was never told; what the second did after it was.
    for expected in [
        ("first", "gift_issuance routing"),
        ("second", "gift_issuance inquiring"),
        ("second", "gift_on_demand inquire"),
    ] {
        assert!(names.contains(&expected), "{expected:?} is not among {names:?}");
    }
    let bytes = collector.bytes();
    for secret in ["CNRY", "canary-grant", "canary-user", "demo-key"] {
        assert!(!bytes.windows(secret.len()).any(|window| window == secret.as_bytes()), "{secret} is in a span");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_without_a_producer_have_a_trace_each_and_what_follows_is_in_it() {
    let collector = Collector::start().await;
    let fleet = fleet(Terms::default()).await;
    db::queue::lanes::declare(&fleet.pool, "probe", &[]).await.unwrap();
    for n in 0..20 {
        let args = json!({"id": format!("p{n}"), "steps": 2, "lane": "probe", "follow_up": true});
        probe(&fleet.pool, args).await;
    }
    // A producer that does not keep its trace: nothing of it is exported.
    let mut transaction = fleet.pool.begin().await.unwrap();
    let unsampled = format!("{}0", &GIVEN[..54]);
    let set = "select set_config('noshi.traceparent', $1, true)";
    sqlx::query(set).bind(unsampled).execute(&mut *transaction).await.unwrap();
    let enqueue = "select noshi.enqueue('probe', 'unsampled', '{\"id\": \"unsampled\", \"steps\": 3}')";
    sqlx::query(enqueue).execute(&mut *transaction).await.unwrap();
    transaction.commit().await.unwrap();
    let worker = worker(&fleet, &collector, "only");
    fleet.at_rest(Duration::from_secs(30)).await.unwrap();
    assert!(worker.stop().await.success());
    let spans = collector.spans();
    let ids: HashSet<&str> = spans.iter().map(|span| span.span.as_str()).collect();
    let roots: Vec<&ReceivedSpan> = spans.iter().filter(|span| span.parent.is_empty()).collect();
    assert_eq!(roots.len(), 20, "one root for each job that nobody asked for within a trace");
    assert!(roots.iter().all(|root| root.name == "job probe" && root.trace != TRACE));
    let traces: HashSet<&str> = spans.iter().map(|span| span.trace.as_str()).collect();
    assert_eq!(traces.len(), 20);
    for trace in traces {
        let jobs = spans.iter().filter(|span| span.trace == trace && span.name == "job probe").count();
        assert_eq!(jobs, 2, "a job and the one that follows it");
    }
    assert!(spans.iter().all(|span| span.parent.is_empty() || ids.contains(span.parent.as_str())));
}

/// A collector that takes connections and never answers, and none at all: jobs go on, and the worker ends in time.
#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_holds_nothing_up() {
    let deaf = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", deaf.local_addr().unwrap());
    tokio::spawn(async move {
        let mut held = vec![];
        while let Ok((mut stream, _)) = deaf.accept().await {
            let _ = stream.read_u8().await;
            held.push(stream);
        }
    });
    for endpoint in [address.as_str(), "http://127.0.0.1:9"] {
        let fleet = fleet(Terms::default()).await;
        for n in 0..200 {
            probe(&fleet.pool, json!({"id": format!("p{n}"), "steps": 3})).await;
        }
        let environment = [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint), ("OTEL_BSP_SCHEDULE_DELAY", "50")];
        let worker = fleet.worker("traced", &environment, &[]);
        fleet.at_rest(Duration::from_secs(20)).await.unwrap();
        assert!(worker.stop().await.success());
    }
}
