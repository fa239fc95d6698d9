use serde_json::json;

use super::Rig;
use crate::lab::simulator::{Event, Fault, Op, Provider};

const P: Provider = Provider::GiftOnDemand;

#[tokio::test]
async fn issuing_twice_issues_two_gifts_and_inquiring_none() {
    let rig = Rig::start(|_| {}).await;
    let before = rig.control().balance(P);
    let first = rig.gift("T1", 500).await;
    assert_eq!((first.status, &first.body["status"]), (200, &json!("ISSUED")));
    assert_eq!((&first.body["tradeId"], &first.body["faceValue"]), (&json!("T1"), &json!(500)));
    assert!(first.body["giftCode"].as_str().unwrap().contains("CNRY"));
    assert_eq!(first.body["validUntil"].as_str().unwrap().len(), "2030-01-01".len());
    let seen = rig.gift_get("/v1/gifts/T1").await;
    assert_eq!((seen.status, &seen.body), (200, &first.body));

    let second = rig.gift("T1", 500).await;
    assert_eq!(second.status, 200);
    assert_ne!(second.body["giftId"], first.body["giftId"]);
    assert_ne!(second.body["giftCode"], first.body["giftCode"]);
    assert_eq!(rig.count(Event::Issued, "T1"), 2);
    let balance = rig.gift_get("/v1/balance").await;
    assert_eq!(balance.body, json!({"balance": before - 1000, "currency": "JPY"}));
}

#[tokio::test]
async fn each_refusal_has_its_code() {
    let rig = Rig::start(|_| {}).await;
    let good = json!({"tradeId": "T1", "product": "AMAZON", "faceValue": 500, "currency": "JPY"});
    for (field, wrong, code) in [
        ("faceValue", json!(0), "E101"),
        ("faceValue", json!(1.5), "E101"),
        ("faceValue", json!(100_001), "E101"),
        ("currency", json!("USD"), "E101"),
        ("product", json!(""), "E102"),
        ("product", json!("NOPRODUCT"), "E102"),
        ("tradeId", json!("T-1"), "E103"),
        ("tradeId", json!("T".repeat(41)), "E103"),
        ("tradeId", json!(null), "E103"),
    ] {
        let mut body = good.clone();
        body[field] = wrong;
        let url = rig.url(P, "/v1/gifts");
        let said = rig.said(rig.http.post(url).header("X-Api-Key", "demo-key").json(&body)).await;
        assert_eq!((said.status, &said.body["resultCode"]), (400, &json!(code)));
    }
    let url = rig.url(P, "/v1/gifts");
    let said = rig.said(rig.http.post(url).header("X-Api-Key", "guess").json(&good)).await;
    assert_eq!((said.status, &said.body["resultCode"]), (401, &json!("E301")));
    rig.control().fund(P, 499).unwrap();
    let said = rig.gift("T1", 500).await;
    assert_eq!((said.status, &said.body["resultCode"]), (402, &json!("E201")));
    rig.control().block(P, true).unwrap();
    let said = rig.gift("T1", 1).await;
    assert_eq!((said.status, &said.body["resultCode"]), (403, &json!("E302")));
    let said = rig.gift_get("/v1/gifts/T1").await;
    assert_eq!((said.status, &said.body["resultCode"]), (404, &json!("E404")));
    assert!(rig.lines().iter().all(|line| line.event != Event::Issued));
}

#[tokio::test]
async fn a_pending_gift_is_processed_and_then_issued() {
    let rig = Rig::start(|_| {}).await;
    rig.control().script(P, Op::Issue, Fault::Pending, 1).unwrap();
    let said = rig.gift("T1", 500).await;
    assert_eq!((said.status, said.body), (202, json!({"tradeId": "T1", "status": "PROCESSING"})));
    let said = rig.gift_get("/v1/gifts/T1").await;
    assert_eq!((said.status, &said.body["status"]), (200, &json!("PROCESSING")));
    assert_eq!(rig.count(Event::Issued, "T1"), 0);
    rig.until(Event::Issued, "T1", 1).await;
    let said = rig.gift_get("/v1/gifts/T1").await;
    assert_eq!((said.status, &said.body["status"]), (200, &json!("ISSUED")));
}

#[tokio::test]
async fn a_pending_gift_fails_if_the_money_is_gone_by_then() {
    let rig = Rig::start(|_| {}).await;
    rig.control().script(P, Op::Issue, Fault::Pending, 1).unwrap();
    assert_eq!(rig.gift("T1", 500).await.status, 202);
    rig.control().fund(P, 499).unwrap();
    rig.until(Event::Refused, "T1", 1).await;
    let said = rig.gift_get("/v1/gifts/T1").await;
    assert_eq!((&said.body["status"], &said.body["resultCode"]), (&json!("FAILED"), &json!("E201")));
    assert_eq!(rig.control().balance(P), 499);
}
