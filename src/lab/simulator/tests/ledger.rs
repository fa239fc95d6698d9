//! The ledger is on disk before the answer, and the simulator continues from it.

use std::io::Write;
use std::time::{Duration, Instant};

use futures::future::join_all;
use serde_json::json;

use super::{Rig, order};
use crate::lab::simulator::{Event, Fault, Op, Provider, Simulator};

#[tokio::test(flavor = "multi_thread")]
async fn every_line_is_in_the_file_when_its_answer_comes() {
    let rig = Rig::start(|_| {}).await;
    let since = Instant::now();
    let calls = (0..200).map(|n| {
        let rig = &rig;
        async move {
            let trade = format!("T{n}");
            assert_eq!(rig.gift(&trade, 10).await.status, 200);
            for event in [Event::Arrival, Event::Issued, Event::Answer] {
                assert_eq!(rig.count(event, &trade), 1, "{event:?}");
            }
        }
    });
    join_all(calls).await;
    println!("200 calls, each followed by reading the file, took {:?}", since.elapsed());
    let lines = rig.lines();
    assert!(lines.iter().zip(1..).all(|(line, n)| line.n == n), "n has no gaps");
    for line in lines.iter().filter(|line| line.event == Event::Issued) {
        let same = |event| lines.iter().find(|other| other.event == event && other.trade == line.trade).unwrap();
        assert!(same(Event::Arrival).n < line.n && line.n < same(Event::Answer).n);
        assert!(same(Event::Arrival).us <= line.us);
    }
}

#[tokio::test]
async fn what_cannot_be_written_is_not_answered() {
    let rig = Rig::start(|_| {}).await;
    assert_eq!(rig.gift("T1", 10).await.status, 200);
    rig.simulator.inner.ledger.close().unwrap();
    assert!(rig.gift_request("T2", 10).send().await.is_err());
    assert_eq!(rig.count(Event::Arrival, "T2"), 0);
}

#[tokio::test]
async fn the_fields_of_a_line_are_those_of_the_contract() {
    let rig = Rig::start(|_| {}).await;
    rig.gift("T1", 10).await;
    let text = std::fs::read_to_string(&rig.config.ledger).unwrap();
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for line in &lines {
        assert_eq!(
            (&line["provider"], &line["op"], &line["trade"]),
            (&json!("gift_on_demand"), &json!("issue"), &json!("T1"))
        );
        assert!(line["us"].as_u64().unwrap() > 1_700_000_000_000_000);
    }
    assert_eq!(
        (&lines[0]["event"], &lines[0]["amount"], &lines[0]["currency"]),
        (&json!("arrival"), &json!(10), &json!("JPY"))
    );
    assert_eq!((&lines[1]["event"], &lines[1]["amount"]), (&json!("issued"), &json!(10)));
    assert!(lines[1]["card"].is_string());
    assert_eq!(lines[1]["code_sha256"].as_str().unwrap().len(), 64);
    assert_eq!((&lines[2]["event"], &lines[2]["http"]), (&json!("answer"), &json!(200)));
    assert!(lines[2].as_object().unwrap().contains_key("fault") && lines[2]["fault"].is_null());
    assert!(!text.contains("CNRY"), "no code in the ledger");
}

#[tokio::test]
async fn a_restart_forgets_nothing() {
    let rig = Rig::start(|config| config.settle = Duration::from_secs(4)).await;
    let card = rig.create("NoshiA1", 1000).await.body;
    rig.create("NoshiA2", 1000).await;
    rig.amazon("CancelGiftCard", &json!({"creationRequestId": "NoshiA2", "partnerId": "Noshi"})).await;
    let placed = rig.tango("/orders", &order("T1", 300)).await.body;
    rig.control().fund(Provider::TangoCard, 12_345).unwrap();
    rig.control().script(Provider::GiftOnDemand, Op::Issue, Fault::Pending, 1).unwrap();
    assert_eq!(rig.gift("T1", 500).await.status, 202);
    let balances = Provider::ALL.map(|provider| rig.control().balance(provider));

    let rig = rig.restart().await;
    assert_eq!(rig.count(Event::Issued, "T1"), 1, "only the order: the gift is still pending");
    assert_eq!(Provider::ALL.map(|provider| rig.control().balance(provider)), balances);
    assert_eq!(rig.create("NoshiA1", 1000).await.body, card);
    assert_eq!(rig.create("NoshiA1", 999).await.body["errorType"], "RequestedDenominationMismatch");
    assert_eq!(rig.create("NoshiA2", 1000).await.body["cardInfo"]["cardStatus"], "RefundedToPurchaser");
    let again = rig.tango("/orders", &order("T1", 300)).await;
    assert_eq!((again.status, again.body), (200, placed));
    assert_eq!(rig.tango("/orders", &order("T1", 301)).await.status, 409);
    rig.until(Event::Issued, "T1", 2).await;
    assert_eq!(rig.gift_get("/v1/gifts/T1").await.body["status"], "ISSUED");
    let new = rig.gift("T2", 500).await.body;
    assert_ne!(new["giftId"], rig.gift_get("/v1/gifts/T1").await.body["giftId"]);
    assert!(rig.lines().iter().zip(1..).all(|(line, n)| line.n == n), "n has no gaps");
}

#[tokio::test]
async fn a_throttle_and_the_count_of_calls_survive_a_restart() {
    let rig = Rig::start(|_| {}).await;
    let throttle = json!({"do": "script", "provider": "gift_on_demand", "fault": "throttle_seconds", "seconds": 60});
    rig.gift("T1", 10).await;
    rig.control().apply(serde_json::from_value(throttle).unwrap()).unwrap();
    rig.gift("T1", 10).await;
    let rig = rig.restart().await;
    assert_eq!(rig.gift("T1", 10).await.status, 429);
    rig.control().clear().unwrap();
    assert_eq!(rig.gift("T1", 10).await.status, 200);
    let nths: Vec<_> = rig.lines().iter().filter_map(|line| line.nth).collect();
    assert_eq!(nths, [1, 2, 3]);
}

#[tokio::test]
async fn a_torn_last_line_is_cut_off_and_a_torn_middle_is_an_error() {
    let rig = Rig::start(|_| {}).await;
    rig.gift("T1", 10).await;
    let (config, dir) = (rig.config.clone(), rig.dir);
    rig.simulator.stop().await.unwrap();
    let before = std::fs::read_to_string(&config.ledger).unwrap();
    let mut file = std::fs::OpenOptions::new().append(true).open(&config.ledger).unwrap();
    file.write_all(b"{\"n\":4,\"us\":17").unwrap();
    let simulator = Simulator::start(config.clone()).await.unwrap();
    simulator.stop().await.unwrap();
    assert_eq!(std::fs::read_to_string(&config.ledger).unwrap(), before);

    let without_second: Vec<&str> =
        before.lines().enumerate().filter(|(at, _)| *at != 1).map(|(_, line)| line).collect();
    std::fs::write(&config.ledger, without_second.join("\n") + "\n").unwrap();
    let error = Simulator::start(config).await.err().unwrap();
    assert!(format!("{error:#}").contains("lines are missing"), "{error:#}");
    drop(dir);
}

#[tokio::test]
async fn a_ledger_has_one_writer_and_one_seed() {
    let rig = Rig::start(|_| {}).await;
    rig.gift("T1", 10).await;
    let mut config = rig.config.clone();
    let error = Simulator::start(config.clone()).await.err().unwrap();
    assert!(format!("{error:#}").contains("another simulator"), "{error:#}");
    let dir = rig.dir;
    rig.simulator.stop().await.unwrap();
    config.seed += 1;
    let error = Simulator::start(config).await.err().unwrap();
    assert!(format!("{error:#}").contains("another seed"), "{error:#}");
    drop(dir);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_is_what_the_arrivals_in_the_ledger_say() {
    let rig = Rig::start(|config| config.limits.amazon_incentives = Some(10)).await;
    for burst in 0..4 {
        let calls: Vec<_> = (0..8).map(|n| format!("Noshi{burst}x{n}")).collect();
        join_all(calls.iter().map(|id| rig.create(id, 10))).await;
        tokio::time::sleep(Duration::from_millis(400)).await;
    }
    let lines = rig.lines();
    let mut arrivals: Vec<_> = lines.iter().filter(|line| line.event == Event::Arrival).collect();
    arrivals.sort_by_key(|line| line.us);
    let mut throttled = 0;
    for (at, arrival) in arrivals.iter().enumerate() {
        let in_window = arrivals[..=at].iter().filter(|other| other.us + 1_000_000 > arrival.us).count();
        let refused = rig.count(Event::Throttled, arrival.trade.as_deref().unwrap()) == 1;
        assert_eq!(refused, in_window > 10, "arrival {at} with {in_window} in its second");
        throttled += usize::from(refused);
    }
    assert!((1..32).contains(&throttled), "{throttled} of 32");
}
