use std::time::Duration;

use serde_json::{Value, json};

use super::Rig;
use crate::lab::simulator::{Credentials, Event, Op, Provider};

const P: Provider = Provider::AmazonIncentives;

#[tokio::test]
async fn a_card_is_created_once_and_shown_again() {
    let rig = Rig::start(|_| {}).await;
    let before = rig.control().balance(P);
    let first = rig.create("NoshiA1", 1000).await;
    assert_eq!(first.status, 200);
    assert_eq!(first.body["status"], "SUCCESS");
    assert_eq!(first.body["cardInfo"]["cardStatus"], "Fulfilled");
    assert_eq!(first.body["cardInfo"]["value"], json!({"amount": 1000.0, "currencyCode": "JPY"}));
    assert_eq!(first.body["creationRequestId"], "NoshiA1");
    assert!(first.body["gcClaimCode"].as_str().unwrap().starts_with("CNRY-"));
    assert!(first.body["gcExpirationDate"].as_str().unwrap().contains(" 14:59:59 UTC "));

    let second = rig.create("NoshiA1", 1000).await;
    assert_eq!(second.body, first.body);
    let conflict = rig.create("NoshiA1", 2000).await;
    assert_eq!((conflict.status, &conflict.body["errorCode"]), (400, &json!("F200")));
    assert_eq!(conflict.body["errorType"], "RequestedDenominationMismatch");
    assert_eq!(conflict.body["agcodResponse"]["status"], "FAILURE");

    assert_eq!(rig.control().balance(P), before - 1000);
    for event in [Event::Issued, Event::Replayed, Event::Conflict] {
        assert_eq!(rig.count(event, "NoshiA1"), 1, "{event:?}");
    }
    let funds = rig.amazon("GetAvailableFunds", &json!({"partnerId": "Noshi"})).await;
    assert_eq!(funds.body["availableFunds"]["amount"], json!((before - 1000) as f64));
}

#[tokio::test]
async fn a_cancelled_card_is_shown_as_a_success_with_its_dead_code() {
    let rig = Rig::start(|_| {}).await;
    let before = rig.control().balance(P);
    let created = rig.create("NoshiA1", 1000).await;
    let mut cancel = json!({"creationRequestId": "NoshiA1", "partnerId": "Noshi", "gcId": "0000000000000000"});
    assert_eq!(rig.amazon("CancelGiftCard", &cancel).await.body["errorType"], "InvalidGCIdInput");
    cancel["gcId"] = created.body["gcId"].clone();
    for _ in 0..2 {
        let cancelled = rig.amazon("CancelGiftCard", &cancel).await;
        assert_eq!((cancelled.status, &cancelled.body["status"]), (200, &json!("SUCCESS")));
    }
    let again = rig.create("NoshiA1", 1000).await;
    assert_eq!(again.body["status"], "SUCCESS");
    assert_eq!(again.body["cardInfo"]["cardStatus"], "RefundedToPurchaser");
    assert_eq!(again.body["gcClaimCode"], created.body["gcClaimCode"]);
    assert_eq!(rig.control().balance(P), before);
    assert_eq!(rig.count(Event::Voided, "NoshiA1"), 1);
}

#[tokio::test]
async fn a_cancel_needs_a_card_and_comes_in_time() {
    let rig = Rig::start(|config| config.cancel_window = Duration::ZERO).await;
    let cancel = json!({"creationRequestId": "NoshiA1", "partnerId": "Noshi"});
    assert_eq!(rig.amazon("CancelGiftCard", &cancel).await.body["errorType"], "CardNotFound");
    rig.create("NoshiA1", 1000).await;
    let late = rig.amazon("CancelGiftCard", &cancel).await;
    assert_eq!(late.body["errorType"], "CancelRequestArrivedAfterTimeLimit");
    assert_eq!(rig.count(Event::Voided, "NoshiA1"), 0);
}

#[tokio::test]
async fn each_bad_input_has_its_error_type() {
    let rig = Rig::start(|_| {}).await;
    let good =
        json!({"creationRequestId": "NoshiA1", "partnerId": "Noshi", "value": {"currencyCode": "JPY", "amount": 1}});
    let long = format!("Noshi{}", "A".repeat(36));
    let cases: [(&str, Value, &str); 11] = [
        ("/partnerId", json!("Other"), "InvalidPartnerIdInput"),
        ("/creationRequestId", json!(long), "RequestIdTooLong"),
        ("/creationRequestId", json!("OtherA1"), "RequestIdMustStartWithPartnerName"),
        ("/creationRequestId", json!("Noshi-1"), "InvalidRequestIdInput"),
        ("/value/amount", json!(null), "InvalidAmountInput"),
        ("/value/amount", json!(0), "InvalidAmountValue"),
        ("/value/amount", json!(0.5), "FractionalAmountNotAllowed"),
        ("/value/amount", json!(500_001), "MaxAmountExceeded"),
        ("/value/currencyCode", json!(""), "InvalidCurrencyCodeInput"),
        ("/value/currencyCode", json!("USD"), "CurrencyCodeMismatch"),
        ("", json!([]), "InvalidRequestInput"),
    ];
    for (at, wrong, kind) in cases {
        let mut body = good.clone();
        *body.pointer_mut(at).unwrap() = wrong;
        let said = rig.amazon("CreateGiftCard", &body).await;
        assert_eq!((said.status, &said.body["errorType"]), (400, &json!(kind)));
        assert_eq!(said.body["errorCode"], "F200");
    }
    assert!(rig.lines().iter().all(|line| line.event != Event::Issued));
    let unknown = rig.amazon("ActivateGiftCard", &good).await;
    assert_eq!(unknown.status, 404);
}

#[tokio::test]
async fn an_account_without_money_or_stopped_refuses_with_f300() {
    let rig = Rig::start(|_| {}).await;
    rig.control().fund(P, 999).unwrap();
    let short = rig.create("NoshiA1", 1000).await;
    assert_eq!((&short.body["errorCode"], &short.body["errorType"]), (&json!("F300"), &json!("InsufficientFunds")));
    rig.control().block(P, true).unwrap();
    let stopped = rig.create("NoshiA2", 1).await;
    assert_eq!((&stopped.body["errorCode"], &stopped.body["errorType"]), (&json!("F300"), &json!("GeneralError")));
    rig.control().block(P, false).unwrap();
    assert_eq!(rig.create("NoshiA2", 999).await.body["status"], "SUCCESS");
    assert_eq!(rig.control().balance(P), 0);
}

#[tokio::test]
async fn a_wrong_signature_is_recorded_and_has_no_effect() {
    let rig = Rig::start(|_| {}).await;
    let value = json!({"currencyCode": "JPY", "amount": 10});
    let body = json!({"creationRequestId": "NoshiA1", "partnerId": "Noshi", "value": value});
    let secret = Credentials { amazon_secret: "guess".into(), ..Credentials::default() };
    let said = rig.said(rig.amazon_request("CreateGiftCard", &body, &secret)).await;
    assert_eq!((said.status, &said.body["errorCode"]), (403, &json!("F200")));
    let key = Credentials { amazon_key_id: "AKIDOTHER".into(), ..Credentials::default() };
    let said = rig.said(rig.amazon_request("CreateGiftCard", &body, &key)).await;
    assert_eq!((said.status, &said.body["errorType"]), (403, &json!("InvalidAwsAccessKeyId")));
    let lines = rig.lines();
    let refused = lines.iter().filter(|line| line.refused.as_deref() == Some("auth"));
    assert_eq!(refused.count(), 2);
    assert!(lines.iter().all(|line| matches!(line.event, Event::Arrival | Event::Answer)));
    assert!(lines.iter().all(|line| line.op == Some(Op::Issue.into()) && line.trade.as_deref() == Some("NoshiA1")));
}

#[tokio::test]
async fn the_vendors_mock_ids_are_honoured() {
    let rig = Rig::start(|_| {}).await;
    let ok = rig.create("F0000", 500).await;
    assert_eq!((&ok.body["gcClaimCode"], &ok.body["status"]), (&json!("ZYXW-VUTS-RQPO"), &json!("SUCCESS")));
    for (id, code, kind) in [
        ("F1000", "F100", "GeneralError"),
        ("F2005", "F200", "InvalidCurrencyCodeInput"),
        ("F3003", "F300", "InsufficientFunds"),
        ("F3005", "F300", "GeneralError"),
        ("F5000", "F500", "GeneralError"),
    ] {
        let said = rig.create(id, 500).await;
        assert_eq!((&said.body["errorCode"], &said.body["errorType"]), (&json!(code), &json!(kind)));
    }
    let resend = rig.create("F4000", 500).await;
    assert_eq!(resend.body["agcodResponse"]["status"], "RESEND");
    assert!(rig.lines().iter().all(|line| line.event != Event::Issued));
}
