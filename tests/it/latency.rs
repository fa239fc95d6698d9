//! Partners and callers far away, real workers between them, and the timeouts that hold when none are set. Every budget holds at who receives,
//! nothing is in doubt, and nothing happens twice or never. `LATENCIES=all` tries all four round trips.

use std::{collections::BTreeMap, time::Duration};

use serde_json::json;
use tokio::time::Instant;

use crate::{
    api::Api,
    fleet::{Fleet, Terms, fleet},
    lanes::busiest_second,
    processes::{count, ledger},
    support::alone,
};
use noshi::lab::simulator::link::Link;

/// Calls a second of each partner.
const LIMIT: u32 = 10;
const OF_EACH: usize = 12;

fn round_trips() -> Vec<Duration> {
    let all = std::env::var("LATENCIES").is_ok_and(|which| which == "all");
    let some: &[u64] = if all { &[5, 50, 250, 1_000] } else { &[5, 250] };
    some.iter().copied().map(Duration::from_millis).collect()
}

/// A fleet whose partners are all behind the link, with the timeouts that are used when none are set.
async fn far_from_partners(round_trip: Duration) -> (Fleet, Link) {
    let terms = Terms { limit: LIMIT, mails: true, api: false, jitter: Duration::from_millis(200), ..Terms::default() };
    let fleet = fleet(terms).await;
    let link = Link::start(fleet.partners()).await.expect("a link");
    link.round_trip(round_trip);
    fleet.configure(|text| {
        // Questions for the quota count at the simulator as sends do: they are as rare as usual.
        let ours = ["timeout_ms", "connect_timeout_ms", "quota_seconds"];
        let is_ours = |line: &&str| !ours.iter().any(|key| line.starts_with(key));
        let kept: Vec<&str> = text.lines().filter(is_ours).collect();
        kept.join("\n").replace(&fleet.partners().to_string(), &link.address().to_string()) + "\n"
    });
    (fleet, link)
}

/// Arrivals at each partner, in microseconds. A mail service's quota is asked for beside its lane.
fn arrivals(fleet: &Fleet) -> BTreeMap<String, Vec<i64>> {
    let mut all: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    for line in ledger(fleet).iter().filter(|line| line["event"] == "arrival") {
        let partner = line["provider"].as_str().expect("a partner");
        if partner != "ses" || line["op"] == "send_mail" {
            all.entry(partner.to_owned()).or_default().push(line["us"].as_i64().expect("a time"));
        }
    }
    all.values_mut().for_each(|at| at.sort_unstable());
    all
}

/// Gifts are asked for over the interface, which is as far away; shops and mails beside it.
async fn ask_for_all(api: &Api) -> Duration {
    // As many as one token may have in flight are fewer than all of these.
    let tokens = [
        ("amazon", api.token("a", &["enqueue"]).await),
        ("digital", api.token("d", &["enqueue"]).await),
        ("prepaid", api.token("p", &["enqueue"]).await),
    ];
    let begun = Instant::now();
    let asked = (0..OF_EACH).flat_map(|n| tokens.iter().map(move |(category, token)| (n, category, token)));
    let answers = asked.map(async |(n, category, token)| {
        let id = format!("{category}-{n}");
        let value = json!({"amount": 500, "currency": "JPY"});
        let args = json!({"grant": id, "user": "u1", "category": category, "value": value});
        api.post("/v1/jobs", token, &json!({"kind": "gift_issuance", "id": id, "args": args})).await
    });
    for (status, answer) in futures::future::join_all(answers).await {
        assert!([200, 201, 202].contains(&status), "{status} {answer}");
    }
    let took = begun.elapsed();
    for n in 0..OF_EACH {
        api.fleet.store("O-1", &format!("S-{n}"), "batch-1").await;
        api.fleet.mail(&format!("m{n}"), &format!("u{n}@example.jp")).await;
    }
    took
}

async fn number(fleet: &Fleet, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(&fleet.pool).await.expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_partner_and_the_interface_may_be_far_away() {
    let _turn = alone().await;
    for round_trip in round_trips() {
        let (fleet, link) = far_from_partners(round_trip).await;
        let mut api = Api::of(fleet).await;
        let way = Link::start(api.address.parse().expect("an address")).await.expect("a link");
        way.round_trip(round_trip);
        api.address = way.address().to_string();
        let lease = ["--lease-ms", "10000"];
        let workers = ["a", "b"].map(|name| api.fleet.worker(name, &[], &lease));
        let begun = Instant::now();
        let answered = ask_for_all(&api).await;
        let fleet = &api.fleet;
        fleet.at_rest(Duration::from_secs(120)).await.unwrap_or_else(|error| panic!("{round_trip:?}: {error}"));
        let took = begun.elapsed();
        let busiest: BTreeMap<_, _> =
            arrivals(fleet).iter().map(|(partner, at)| (partner.clone(), (at.len(), busiest_second(at)))).collect();
        eprintln!(
            "{round_trip:?}: all answers in {answered:.1?}, at rest in {took:.1?}; arrivals, busiest second: {busiest:?}"
        );
        assert_eq!(busiest.len(), 5, "{busiest:?}");
        assert!(busiest.values().all(|(_, most)| *most <= LIMIT as usize), "{round_trip:?}: {busiest:?}");
        let all = i64::try_from(OF_EACH * 5).unwrap();
        assert_eq!(
            number(fleet, "select count(*) from noshi.job where status = 'completed'").await,
            all,
            "{round_trip:?}"
        );
        let doubted =
            "select count(*) from noshi.job_event where event = 'parked' or outcome in ('unknown', 'network')";
        assert_eq!(number(fleet, doubted).await, 0, "{round_trip:?}");
        assert_eq!(number(fleet, "select count(*) from noshi.job where in_doubt or code is not null").await, 0);
        let made = ["issued", "shop_created", "mail_sent"].map(|event| count(fleet, event));
        assert_eq!(made, [OF_EACH * 3, OF_EACH, OF_EACH], "{round_trip:?}: each once");
        assert_eq!(count(fleet, "throttled"), 0, "{round_trip:?}");
        assert!(link.accepted() > 0 && way.accepted() > 0);
        for worker in workers {
            assert!(worker.stop().await.success());
        }
    }
}
