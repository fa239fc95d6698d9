use serde_json::{Value, json};

use super::{Rig, order};
use crate::lab::simulator::{Event, Fault, Op, Provider};

const P: Provider = Provider::TangoCard;

#[tokio::test]
async fn an_order_is_created_once_shown_again_and_not_changed() {
    let rig = Rig::start(|_| {}).await;
    let first = rig.tango("/orders", &order("T1", 1000)).await;
    assert_eq!((first.status, &first.body["status"]), (201, &json!("COMPLETE")));
    assert_eq!((&first.body["externalRefID"], &first.body["utid"]), (&json!("T1"), &json!("U123456")));
    assert_eq!(first.body["amountCharged"]["total"], 1000);
    let code = first.body["reward"]["credentials"]["Redemption Code"].as_str().unwrap();
    assert!(code.contains("CNRY"));

    // The order of the fields is no content.
    let turned: serde_json::Map<String, Value> =
        order("T1", 1000).as_object().unwrap().clone().into_iter().rev().collect();
    let again = rig.tango("/orders", &turned.into()).await;
    assert_eq!((again.status, &again.body), (200, &first.body));
    let conflict = rig.tango("/orders", &order("T1", 2000)).await;
    assert_eq!((conflict.status, &conflict.body["httpCode"]), (409, &json!(409)));
    for event in [Event::Issued, Event::Replayed, Event::Conflict] {
        assert_eq!(rig.count(event, "T1"), 1, "{event:?}");
    }
    let seen = rig.tango_get("/orders?externalRefID=T1").await;
    let mut item = first.body.clone();
    for field in ["reward", "referenceLineItemID"] {
        assert!(item.as_object_mut().unwrap().remove(field).is_some(), "{field}");
    }
    assert_eq!((seen.status, &seen.body["orders"][0]), (200, &item), "a list shows neither code nor line item");
    let id = first.body["referenceOrderID"].as_str().unwrap();
    let whole = rig.tango_get(&format!("/orders/{id}")).await;
    assert_eq!((whole.status, &whole.body), (200, &first.body));
    let nobodys = rig.tango_get("/orders/RA00000009-000000").await;
    assert_eq!((nobodys.status, &nobodys.body["httpCode"]), (404, &json!(404)));
    let inquiries =
        rig.lines().into_iter().filter(|line| line.event == Event::Arrival && line.op == Some(Op::Inquire.into()));
    let trades: Vec<_> = inquiries.filter_map(|line| line.trade).collect();
    assert_eq!(trades, ["T1", "T1", "RA00000009-000000"], "each is a call of its own");
    let other = rig.tango_get("/orders?externalRefID=T2").await;
    assert_eq!((other.status, &other.body["orders"]), (200, &json!([])));
    let account = rig.tango_get("/accounts/noshi-account").await;
    assert_eq!(account.body["currentBalance"], rig.control().balance(P));
}

#[tokio::test]
async fn a_line_item_is_cancelled_once() {
    let rig = Rig::start(|_| {}).await;
    let before = rig.control().balance(P);
    let created = rig.tango("/orders", &order("T1", 1000)).await;
    let path = format!("/lineItems/{}/cancel", created.body["referenceLineItemID"].as_str().unwrap());
    assert_eq!(rig.tango(&path, &json!({})).await.status, 400);
    for _ in 0..2 {
        let cancelled = rig.tango(&path, &json!({"reasonCode": "OTHER", "otherReason": "test"})).await;
        assert_eq!((cancelled.status, cancelled.body), (202, json!("Accepted")));
    }
    assert_eq!(rig.count(Event::Voided, "T1"), 1);
    assert_eq!(rig.control().balance(P), before);
    let seen = rig.tango_get("/orders?externalRefID=T1").await;
    assert_eq!(seen.body["orders"][0]["status"], "CANCELLED");
    let nobodys = rig.tango("/lineItems/LI00000009-000000/cancel", &json!({"reasonCode": "OTHER"})).await;
    assert_eq!(nobodys.status, 422);
}

#[tokio::test]
async fn each_refusal_has_its_status() {
    let rig = Rig::start(|_| {}).await;
    for (field, wrong, status) in [
        ("externalRefID", json!(null), 400),
        ("externalRefID", json!("T".repeat(101)), 400),
        ("customerIdentifier", json!("four"), 400),
        ("accountIdentifier", json!("under_score"), 400),
        ("utid", json!("123"), 422),
        ("deliveryMethod", json!("PIGEON"), 422),
        ("amount", json!(0), 422),
        ("amount", json!(0.5), 422),
        ("amount", json!("100"), 422),
    ] {
        let mut body = order("T1", 1000);
        body[field] = wrong;
        let said = rig.tango("/orders", &body).await;
        assert_eq!((said.status, &said.body["httpCode"]), (status, &json!(status)), "{field}");
    }
    let url = rig.url(P, "/orders");
    let said = rig.said(rig.http.post(url).basic_auth("demo", Some("guess")).json(&order("T1", 1))).await;
    assert_eq!(said.status, 401);
    rig.control().fund(P, 999).unwrap();
    assert_eq!(rig.tango("/orders", &order("T1", 1000)).await.status, 402);
    rig.control().block(P, true).unwrap();
    assert_eq!(rig.tango("/orders", &order("T1", 1)).await.status, 403);
    assert_eq!(rig.tango_get("/orders").await.status, 400);
    assert_eq!(rig.tango_get("/catalogs").await.status, 404);
    assert!(rig.lines().iter().all(|line| line.event != Event::Issued));
}

#[tokio::test]
async fn an_asynchronous_order_is_accepted_and_completes() {
    let rig = Rig::start(|_| {}).await;
    let mut body = order("T1", 1000);
    let item = json!({
        "externalRefLineItemID": "T1-1",
        "utid": "U123456",
        "amount": 1000,
        "deliveryMethod": "NONE",
        "recipient": {},
    });
    body["lineItems"] = json!([item, item]);
    assert_eq!(rig.tango("/asyncOrders", &body).await.status, 422);
    body["lineItems"] = json!([item]);
    let accepted = rig.tango("/asyncOrders", &body).await;
    assert_eq!((accepted.status, &accepted.body["status"]), (202, &json!("QUEUED")));
    let early = rig.tango_get("/orders?externalRefID=T1").await;
    let path = format!("/orders/{}", early.body["orders"][0]["referenceOrderID"].as_str().unwrap());
    assert_eq!(rig.tango_get(&path).await.body["reward"], json!(null));
    rig.until(Event::Issued, "T1", 1).await;
    assert_ne!(rig.tango_get(&path).await.body["reward"], json!(null));
    let seen = rig.tango_get("/orders?externalRefID=T1").await;
    assert_eq!(seen.body["orders"][0]["status"], "COMPLETE");
    let again = rig.tango("/asyncOrders", &body).await;
    assert_eq!((again.status, &again.body["status"]), (200, &json!("COMPLETE")));
    assert_eq!(rig.count(Event::Issued, "T1"), 1);
}

#[tokio::test]
async fn a_pending_order_can_be_replayed_but_not_cancelled() {
    let rig = Rig::start(|_| {}).await;
    rig.control().script(P, Op::Issue, Fault::Pending, 2).unwrap();
    let first = rig.tango("/orders", &order("T1", 1000)).await;
    assert_eq!((first.status, &first.body["status"]), (201, &json!("PENDING")));
    let again = rig.tango("/orders", &order("T1", 1000)).await;
    assert_eq!((again.status, &again.body["status"]), (200, &json!("PENDING")));
    let path = format!("/lineItems/{}/cancel", first.body["referenceLineItemID"].as_str().unwrap());
    assert_eq!(rig.tango(&path, &json!({"reasonCode": "OTHER"})).await.status, 422);
    rig.until(Event::Issued, "T1", 1).await;
    // The second call did not meet the fault that was chosen for it: there was nothing left to be pending.
    let faults: Vec<_> = rig
        .lines()
        .into_iter()
        .filter(|line| line.event == Event::Answer && line.op == Some(Op::Issue.into()))
        .collect();
    assert_eq!(faults[0].fault, Some(json!("pending")));
    assert!(faults[1].fault.as_ref().is_none_or(Value::is_null));
}
