//! Each fault does on the wire what its name says, and the ledger tells what really happened.

use std::io::ErrorKind;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Rig, order, read_out};
use crate::lab::simulator::{Command, Event, Fault, Line, Op, Provider};

const P: Provider = Provider::GiftOnDemand;

async fn rig_with(fault: Fault) -> Rig {
    let rig = Rig::start(|config| config.hang = Duration::from_millis(1500)).await;
    rig.control().script(P, Op::Issue, fault, 1).unwrap();
    rig
}

fn answer(rig: &Rig) -> Line {
    rig.lines().into_iter().find(|line| line.event == Event::Answer).unwrap()
}

#[tokio::test]
async fn effect_then_reset() {
    let rig = rig_with(Fault::EffectThenReset).await;
    let error = read_out(&mut rig.bare_gift("T1").await).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!(rig.count(Event::Issued, "T1"), 1);
    let answer = answer(&rig);
    assert!(answer.lost);
    assert_eq!((answer.fault, answer.http), (Some(json!("effect_then_reset")), Some(json!(200))));
    // Once means once, and the connection was the only thing that broke.
    assert_eq!(rig.gift_get("/v1/gifts/T1").await.body["status"], "ISSUED");
}

#[tokio::test]
async fn effect_then_hang() {
    let rig = rig_with(Fault::EffectThenHang).await;
    let mut stream = rig.bare_gift("T1").await;
    let mut byte = [0];
    let silence = timeout(Duration::from_millis(200), stream.read(&mut byte)).await;
    assert!(silence.is_err(), "not a byte, and no end: {silence:?}");
    assert_eq!(rig.count(Event::Issued, "T1"), 1);
    assert!(answer(&rig).lost);
    let error = timeout(Duration::from_secs(5), read_out(&mut stream)).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_hang_does_not_hold_up_the_end() {
    let rig = Rig::start(|_| {}).await;
    rig.control().script(P, Op::Issue, Fault::EffectThenHang, 1).unwrap();
    let _stream = rig.bare_gift("T1").await;
    rig.until(Event::Answer, "T1", 1).await;
    timeout(Duration::from_secs(5), rig.simulator.stop()).await.expect("it waited for the hang").unwrap();
}

#[tokio::test]
async fn reset_before_effect() {
    let rig = rig_with(Fault::ResetBeforeEffect).await;
    let error = read_out(&mut rig.bare_gift("T1").await).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!(rig.count(Event::Arrival, "T1"), 1);
    assert_eq!(rig.count(Event::Issued, "T1"), 0);
    assert!(answer(&rig).lost);
}

#[tokio::test]
async fn late_landing() {
    let rig = rig_with(Fault::LateLanding).await;
    let error = read_out(&mut rig.bare_gift("T1").await).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    // Not there yet, which proves nothing.
    assert_eq!(rig.gift_get("/v1/gifts/T1").await.status, 404);
    assert_eq!(rig.count(Event::Issued, "T1"), 0);
    rig.until(Event::Issued, "T1", 1).await;
    let lines = rig.lines();
    let issued = lines.iter().find(|line| line.event == Event::Issued).unwrap();
    let arrival = lines.iter().find(|line| line.event == Event::Arrival).unwrap();
    assert!(issued.late);
    let settle = u64::try_from(rig.config.settle.as_micros()).unwrap();
    assert!((settle / 5..settle * 2).contains(&(issued.us - arrival.us)));
}

#[tokio::test]
async fn errors_before_and_after_the_effect_look_the_same() {
    for (fault, effects) in [(Fault::ErrorBeforeEffect, 0), (Fault::ErrorAfterEffect, 1)] {
        let rig = rig_with(fault).await;
        let (head, body) = read_out(&mut rig.bare_gift("T1").await).await.unwrap();
        assert!(["500", "502", "503"].contains(&&head["http/1.1 ".len()..][..3]), "{head}");
        assert!(body.starts_with("<html>"), "{body}");
        assert_eq!(rig.count(Event::Issued, "T1"), effects);
    }
}

#[tokio::test]
async fn typed_errors_are_in_the_providers_words() {
    let rig = Rig::start(|_| {}).await;
    for provider in Provider::ALL {
        rig.control().script(provider, Op::Issue, Fault::TypedError, 1).unwrap();
    }
    let said = rig.create("NoshiA1", 10).await;
    assert_eq!((said.status, &said.body["agcodResponse"]["status"]), (503, &json!("RESEND")));
    let said = rig.gift("T1", 10).await;
    assert_eq!((said.status, &said.body["resultCode"]), (500, &json!("E500")));
    let said = rig.tango("/orders", &order("T1", 10)).await;
    assert_eq!((said.status, &said.body["httpCode"]), (503, &json!(503)));
    assert!(rig.lines().iter().all(|line| line.event != Event::Issued));
}

#[tokio::test]
async fn throttle_seconds_holds_for_everybody_until_it_ends() {
    let rig = Rig::start(|_| {}).await;
    let script = json!({"do": "script", "provider": "gift_on_demand", "fault": "throttle_seconds", "seconds": 1});
    rig.control().apply(serde_json::from_value(script).unwrap()).unwrap();
    let first = rig.gift("T1", 10).await;
    let since = Instant::now();
    assert_eq!((first.status, first.retry_after.as_deref()), (429, Some("1")));
    assert_eq!(first.body["resultCode"], "E429");
    let held = rig.gift("T2", 10).await;
    assert_eq!((held.status, held.retry_after.as_deref()), (429, Some("1")));
    assert_eq!(rig.create("NoshiA1", 10).await.status, 200, "another provider");
    knock_until_open(&rig).await;
    assert!(since.elapsed() > Duration::from_millis(900));
}

#[tokio::test]
async fn throttle_date_states_a_date_and_keeps_it() {
    let rig = Rig::start(|_| {}).await;
    rig.control()
        .apply(Command::Script {
            provider: P.into(),
            op: None,
            trade: None,
            fault: Fault::ThrottleDate,
            times: 1,
            seconds: Some(1),
        })
        .unwrap();
    let first = rig.gift("T1", 10).await;
    let date = httpdate::parse_http_date(first.retry_after.as_deref().unwrap()).unwrap();
    let line = rig.lines().into_iter().find(|line| line.event == Event::Throttled).unwrap();
    assert_eq!(UNIX_EPOCH + Duration::from_micros(line.until_us.unwrap()), date);
    assert!(date.duration_since(SystemTime::now()).unwrap() > Duration::from_millis(800));
    knock_until_open(&rig).await;
    assert!(SystemTime::now() >= date);
}

/// Calls until one is let in, and checks in the ledger that all before the stated time were not, to the microsecond.
async fn knock_until_open(rig: &Rig) {
    let knock = async {
        while rig.gift("Tknock", 10).await.status == 429 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(5), knock).await.expect("it never opened");
    let lines = rig.lines();
    let until = lines.iter().find_map(|line| line.until_us).unwrap();
    let knocks = lines.iter().filter(|line| line.event == Event::Arrival && line.trade.as_deref() == Some("Tknock"));
    let knocks: Vec<u64> = knocks.map(|line| line.us).collect();
    assert_eq!(rig.count(Event::Throttled, "Tknock"), knocks.len() - 1);
    assert!(knocks.len() > 10, "{} knocks", knocks.len());
    assert!(knocks[knocks.len() - 2] < until && until <= knocks[knocks.len() - 1]);
}

#[tokio::test]
async fn a_slow_body_completes() {
    let rig = rig_with(Fault::SlowBody).await;
    let since = Instant::now();
    let mut stream = rig.bare_gift("T1").await;
    let mut reads = 0;
    let mut bytes = Vec::new();
    while stream.read_buf(&mut bytes).await.unwrap() > 0 {
        reads += 1;
    }
    assert!(reads > 5, "{reads} reads");
    assert!((0.8..4.0).contains(&since.elapsed().as_secs_f64()), "{:?}", since.elapsed());
    let text = String::from_utf8(bytes).unwrap();
    let body: Value = serde_json::from_str(text.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!(body["status"], "ISSUED");
}

#[tokio::test]
async fn truncated_starts_well_and_ends_early() {
    let rig = rig_with(Fault::Truncated).await;
    let (head, body) = read_out(&mut rig.bare_gift("T1").await).await.unwrap();
    assert!(head.starts_with("http/1.1 200"), "{head}");
    let promised: usize = head.split_once("content-length: ").unwrap().1.lines().next().unwrap().parse().unwrap();
    assert_eq!(body.len(), promised / 2);
    assert!(body.starts_with("{\"tradeId\":\"T1\""));
    assert_eq!(rig.count(Event::Issued, "T1"), 1);
    // An HTTP client notices.
    rig.control().script(P, Op::Issue, Fault::Truncated, 1).unwrap();
    let answer = rig.gift_request("T2", 10).send().await.unwrap();
    assert!(answer.bytes().await.is_err());
}

#[tokio::test]
async fn wrong_json_after_the_effect() {
    let rig = Rig::start(|_| {}).await;
    for n in 0..8 {
        rig.control().script(P, Op::Issue, Fault::WrongJson, 1).unwrap();
        let trade = format!("T{n}");
        let (head, body) = read_out(&mut rig.bare_gift(&trade).await).await.unwrap();
        assert!(head.starts_with("http/1.1 200"), "{head}");
        assert!(serde_json::from_str::<Value>(&body).is_err(), "{body}");
        assert_eq!(rig.count(Event::Issued, &trade), 1);
    }
}

#[tokio::test]
async fn other_trade_is_well_formed_and_not_ours() {
    let rig = Rig::start(|_| {}).await;
    for provider in Provider::ALL {
        rig.control().script(provider, Op::Issue, Fault::OtherTrade, 1).unwrap();
    }
    let amazon = rig.create("NoshiA1", 1000).await.body;
    assert_eq!((&amazon["status"], &amazon["cardInfo"]["cardStatus"]), (&json!("SUCCESS"), &json!("Fulfilled")));
    assert_ne!(amazon["creationRequestId"], "NoshiA1");
    assert_ne!(amazon["cardInfo"]["value"]["amount"], json!(1000.0));
    let gift = rig.gift("T1", 1000).await.body;
    assert_eq!(gift["status"], "ISSUED");
    assert_ne!((&gift["tradeId"], &gift["faceValue"]), (&json!("T1"), &json!(1000)));
    let tango = rig.tango("/orders", &order("T1", 1000)).await.body;
    assert_eq!(tango["status"], "COMPLETE");
    assert_ne!((&tango["externalRefID"], &tango["amountCharged"]["total"]), (&json!("T1"), &json!(1000)));
    // Ours happened all the same, and the codes that were shown are nobody's.
    for shown in [&amazon["gcClaimCode"], &gift["giftCode"], &tango["reward"]["credentials"]["Redemption Code"]] {
        let shown = crate::lab::simulator::shop::sha256_hex(shown.as_str().unwrap());
        assert!(rig.lines().iter().all(|line| line.code_sha256.as_deref() != Some(&shown)));
    }
    assert_eq!(rig.lines().iter().filter(|line| line.event == Event::Issued).count(), 3);
}

#[tokio::test]
async fn stale_inquiry_is_blind_until_things_settled() {
    let rig = Rig::start(|config| config.settle = Duration::from_secs(1)).await;
    let mode = json!({"do": "mode", "provider": "gift_on_demand", "op": "inquire", "fault": "stale_inquiry"});
    rig.control().apply(serde_json::from_value(mode).unwrap()).unwrap();
    assert_eq!(rig.gift("T1", 10).await.status, 200);
    let since = Instant::now();
    assert_eq!(rig.gift_get("/v1/gifts/T1").await.status, 404);
    tokio::time::sleep(Duration::from_secs(1).saturating_sub(since.elapsed())).await;
    assert_eq!(rig.gift_get("/v1/gifts/T1").await.body["status"], "ISSUED");
    rig.control().mode(Provider::TangoCard, Some(Fault::StaleInquiry)).unwrap();
    rig.tango("/orders", &order("T1", 10)).await;
    assert_eq!(rig.tango_get("/orders?externalRefID=T1").await.body["orders"], json!([]));
    rig.control().mode(Provider::TangoCard, None).unwrap();
    assert_eq!(rig.tango_get("/orders?externalRefID=T1").await.body["orders"][0]["status"], "COMPLETE");
}

#[tokio::test]
async fn the_control_over_http_does_the_same_and_explains_itself() {
    let rig = Rig::start(|_| {}).await;
    let url = format!("http://{}/_control", rig.simulator.addr());
    let order = json!({"do": "script", "provider": "gift_on_demand", "fault": "typed_error", "trade": "T2"});
    assert_eq!(rig.said(rig.http.post(&url).json(&order)).await.status, 200);
    assert_eq!(rig.gift("T1", 10).await.status, 200, "another trade");
    assert_eq!(rig.gift("T2", 10).await.status, 500);
    let fund = json!({"do": "fund", "provider": "gift_on_demand", "balance": 7});
    assert_eq!(rig.said(rig.http.post(&url).json(&fund)).await.status, 200);
    assert_eq!(rig.control().balance(P), 7);
    let impossible = json!({"do": "mode", "provider": "amazon_incentives", "fault": "pending"});
    let said = rig.said(rig.http.post(&url).json(&impossible)).await;
    assert_eq!((said.status, &said.body["error"]), (400, &json!("amazon_incentives calls never meet pending")));
    assert_eq!(rig.said(rig.http.post(&url).json(&json!({"do": "dance"}))).await.status, 400);
    let elsewhere = rig.said(rig.http.get(format!("http://{}/nowhere", rig.simulator.addr()))).await;
    assert_eq!(elsewhere.status, 404);
}

#[tokio::test]
async fn a_request_that_breaks_off_is_an_arrival_too() {
    let rig = Rig::start(|_| {}).await;
    let mut stream = TcpStream::connect(rig.simulator.addr()).await.unwrap();
    let head = "POST /gift_on_demand/v1/gifts HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{\"tradeId\"";
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    drop(stream);
    let wait = async {
        while rig.lines().len() < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(5), wait).await.expect("it was not recorded");
    let lines = rig.lines();
    assert_eq!((lines[0].event, lines[0].refused.as_deref()), (Event::Arrival, Some("incomplete")));
    assert!(lines[1].event == Event::Answer && lines[1].lost);
}

/// The faults of 120 calls, as the ledger tells them.
async fn sequence(seed: u64) -> Vec<(String, u64, Option<Value>)> {
    let rig = Rig::start(|config| {
        config.seed = seed;
        config.faults = true;
        config.hang = Duration::from_millis(20);
        config.settle = Duration::from_millis(20);
    })
    .await;
    for n in 0..120 {
        // The client's view is not the point here, and many calls have none.
        let _ = rig.gift_request(&format!("T{}", n / 2), 10).send().await;
        // A throttle would refuse the next calls before their fault is drawn, for as long as the clock says.
        rig.control().clear().unwrap();
    }
    let answers = rig.lines().into_iter().filter(|line| line.event == Event::Answer);
    answers.map(|line| (line.trade.unwrap(), line.nth.unwrap(), line.fault.filter(|fault| !fault.is_null()))).collect()
}

#[tokio::test]
async fn the_same_seed_gives_the_same_faults() {
    let (one, same, other) = tokio::join!(sequence(3), sequence(3), sequence(4));
    assert_eq!(one.len(), 120);
    assert!(one.iter().filter(|told| told.2.is_some()).count() > 3, "{one:?}");
    assert_eq!(one, same);
    assert_ne!(one, other);
}
