use serde_json::{Value, json};

use crate::partners::{
    conformance::{Files, args, partner, trade},
    scripted::{Act, Scripted},
};

use super::*;

struct Setup {
    files: Files,
    server: Scripted,
    provider: Box<dyn GiftProvider>,
}

impl Setup {
    async fn new(acts: Vec<Act>) -> Setup {
        let (files, server) = (Files::new(), Scripted::start(acts).await);
        let provider = files.open(partner(NAME), &server.url);
        Setup { files, server, provider }
    }

    async fn issue(&self) -> Issue {
        self.provider.issue(&args("g1"), &trade(self.provider.as_ref(), "g1"), &Gate::open()).await
    }
    async fn inquire(&self, reference: Option<&str>) -> Inquiry {
        self.provider.inquire(&args("g1"), &trade(self.provider.as_ref(), "g1"), reference, &Gate::open()).await
    }
    async fn cancel(&self, card: Option<&str>) -> Cancel {
        self.provider.cancel(&args("g1"), &trade(self.provider.as_ref(), "g1"), card, &Gate::open()).await
    }

    /// The first lines of all requests.
    fn asked(&self) -> Vec<String> {
        let line = |request: &String| request.lines().next().unwrap_or_default().to_owned();
        self.server.requests().iter().map(line).collect()
    }
}

fn id() -> String {
    crate::partners::gifts::trade_id("T", "g1", 0)
}

/// As the list of orders shows one: neither the code nor the line item.
fn item(status: &str) -> Value {
    json!({
        "referenceOrderID": "RA1",
        "externalRefID": id(),
        "denomination": {"value": 1000, "currencyCode": "JPY"},
        "status": status,
    })
}

fn whole(status: &str) -> Value {
    let mut order = item(status);
    order["referenceLineItemID"] = json!("LI1");
    order["reward"] = json!({"credentials": {"Redemption Code": "CNRY-1"}});
    order
}

fn list(orders: &[Value]) -> Act {
    Act::answer("200 OK", &json!({"page": {"number": 0}, "orders": orders}).to_string())
}

fn ok(body: &Value) -> Act {
    Act::answer("200 OK", &body.to_string())
}

fn error(status: &str, key: &str) -> Act {
    let code: u16 = status.split(' ').next().unwrap().parse().unwrap();
    Act::answer(status, &json!({"httpCode": code, "i18nKey": key, "message": "CNRY"}).to_string())
}

#[tokio::test]
async fn a_finished_order_is_known_first_and_read_by_its_own_id_in_the_next_call() {
    let setup = Setup::new(vec![list(&[item("COMPLETE")]), ok(&whole("COMPLETE"))]).await;
    assert_eq!(setup.inquire(None).await, Inquiry::Known("RA1".to_owned()));
    assert_eq!(setup.asked().len(), 1);
    let Inquiry::Live(gift) = setup.inquire(Some("RA1")).await else { panic!("not live") };
    assert_eq!(gift.card, "LI1");
    let place = SealedAt { grant: "g1", provider: NAME, column: "gift_code" };
    assert_eq!(setup.files.vault().unseal(&place, &gift.code.unwrap()).unwrap().expose_secret(), "CNRY-1");
    let first = format!("GET /orders?externalRefID={} HTTP/1.1", id());
    assert_eq!(setup.asked(), [first, "GET /orders/RA1 HTTP/1.1".to_owned()]);
    // The answer is about another order or another value, about none, or still without the code.
    let changed = |pointer: &str, value: Value| {
        let mut order = whole("COMPLETE");
        *order.pointer_mut(pointer).unwrap() = value;
        ok(&order)
    };
    let mut others_dead = whole("CANCELLED");
    others_dead["denomination"]["value"] = json!(500);
    // Ours, and of another value: a person has to look.
    for answer in [
        changed("/denomination/value", json!(500)),
        changed("/denomination/currencyCode", json!("USD")),
        ok(&others_dead),
    ] {
        assert_eq!(Setup::new(vec![answer]).await.inquire(Some("RA1")).await, Inquiry::Conflict);
    }
    for answer in [
        changed("/externalRefID", json!("T2")),
        list(&[whole("COMPLETE")]),
        error("404 Not Found", "notFound"),
        Act::Reset,
        ok(&item("COMPLETE")),
    ] {
        let setup = Setup::new(vec![answer]).await;
        assert_eq!((setup.inquire(Some("RA1")).await, setup.asked().len()), (Inquiry::NoAnswer, 1));
    }
    // A list that shows everything is still followed by the question for the details; one without an id leads nowhere.
    assert_eq!(
        Setup::new(vec![list(&[whole("COMPLETE")])]).await.inquire(None).await,
        Inquiry::Known("RA1".to_owned())
    );
    for id in [json!(null), json!(""), json!("R".repeat(101))] {
        let mut order = item("COMPLETE");
        order["referenceOrderID"] = id;
        assert_eq!(Setup::new(vec![list(&[order])]).await.inquire(None).await, Inquiry::NoAnswer);
    }
}

#[tokio::test]
async fn an_order_without_a_line_item_is_its_own_card() {
    let mut order = whole("COMPLETE");
    order["referenceLineItemID"] = json!(null);
    let setup = Setup::new(vec![ok(&order), error("422 Unprocessable Entity", "lineItemNotFound")]).await;
    let Inquiry::Live(gift) = setup.inquire(Some("RA1")).await else { panic!("not live") };
    assert_eq!(gift.card, "RA1");
    assert_eq!(setup.cancel(Some(&gift.card)).await, Cancel::Refused);
}

#[tokio::test]
async fn several_credentials_are_one_code() {
    let mut order = whole("COMPLETE");
    order["reward"]["credentials"] = json!({"PIN": "CNRY-2", "Card Number": "CNRY-1"});
    let setup = Setup::new(vec![Act::answer("201 Created", &order.to_string())]).await;
    let Issue::Issued(gift) = setup.issue().await else { panic!("not issued") };
    let place = SealedAt { grant: "g1", provider: NAME, column: "gift_code" };
    let code = setup.files.vault().unseal(&place, &gift.code.unwrap()).unwrap();
    assert_eq!(code.expose_secret(), "Card Number: CNRY-1\nPIN: CNRY-2");
}

#[tokio::test]
async fn every_status_of_an_order_has_one_meaning() {
    let failed = || (Issue::Refused("FAILED".to_owned()), Inquiry::Failed("FAILED".to_owned()));
    let pending = || (Issue::Pending, Inquiry::Pending);
    let dead = || (Issue::Dead, Inquiry::Dead);
    let unclear = || (Issue::Unknown, Inquiry::NoAnswer);
    for (status, line_item, outcome) in [
        ("PENDING", None, pending()),
        ("QUEUED", None, pending()),
        ("PENDING_MR", None, pending()),
        ("ON_HOLD", None, pending()),
        ("PENDING_KYB", None, pending()),
        ("PENDING_PAYMENT", None, pending()),
        ("CANCELLED", None, dead()),
        ("DELETED", None, dead()),
        ("COMPLETE", Some("CANCELLED"), dead()),
        ("COMPLETE", Some("RETURNED"), dead()),
        ("COMPLETE", Some("PENDING"), pending()),
        ("FAILED", None, failed()),
        ("COMPLETE", Some("FAILED"), failed()),
        ("PARTIAL", None, unclear()),
        ("COMPLETE", Some("SOMETHING_NEW"), unclear()),
        ("complete", None, unclear()),
    ] {
        let mut order = whole(status);
        order["lineItemStatus"] = json!(line_item);
        let answers = vec![Act::answer("201 Created", &order.to_string()), list(&[order.clone()]), ok(&order)];
        let setup = Setup::new(answers).await;
        assert_eq!((setup.issue().await, setup.inquire(None).await), outcome, "{status} {line_item:?}");
        assert_eq!(setup.inquire(Some("RA1")).await, outcome.1, "{status} {line_item:?}");
        assert_eq!(setup.asked().len(), 3, "{status} {line_item:?}");
    }
}

#[tokio::test]
async fn a_list_that_was_not_filtered_proves_nothing_and_two_orders_are_a_conflict() {
    let mut other = whole("COMPLETE");
    other["externalRefID"] = json!("T2");
    for (orders, outcome) in [
        (vec![], Inquiry::NotFound),
        (vec![other.clone()], Inquiry::NoAnswer),
        (vec![other, whole("COMPLETE")], Inquiry::NoAnswer),
        (vec![whole("COMPLETE"), whole("CANCELLED")], Inquiry::Conflict),
    ] {
        assert_eq!(Setup::new(vec![list(&orders)]).await.inquire(None).await, outcome);
    }
}

#[tokio::test]
async fn errors_in_the_vendors_form_are_believed() {
    for (status, key, issue) in [
        ("400 Bad Request", "identifierInvalid", Issue::Refused("400 identifierInvalid".to_owned())),
        ("422 Unprocessable Entity", "utidInvalid", Issue::Refused("422 utidInvalid".to_owned())),
        ("422 Unprocessable Entity", "not one word", Issue::Refused("422".to_owned())),
        ("401 Unauthorized", "unauthorized", Issue::BadCredentials),
        ("402 Payment Required", "insufficientFunds", Issue::OutOfFunds),
        ("403 Forbidden", "accountStopped", Issue::BadCredentials),
        ("409 Conflict", "duplicateExists", Issue::Conflict),
        ("404 Not Found", "notFound", Issue::Unknown),
        ("500 Internal Server Error", "error", Issue::Unknown),
        ("503 Service Unavailable", "serviceUnavailable", Issue::Unknown),
    ] {
        assert_eq!(Setup::new(vec![error(status, key)]).await.issue().await, issue, "{status}");
    }
}

#[tokio::test]
async fn a_cancel_is_one_call_by_the_line_item_and_none_without_it() {
    let accepted = || Act::answer("202 Accepted", "\"Accepted\"");
    let setup = Setup::new(vec![accepted()]).await;
    assert_eq!((setup.cancel(None).await, setup.asked().len()), (Cancel::Refused, 0));
    assert_eq!(setup.cancel(Some("LI1")).await, Cancel::Accepted);
    assert_eq!(setup.asked(), ["POST /lineItems/LI1/cancel HTTP/1.1"]);
    for (act, outcome) in [
        (Act::Reset, Cancel::Unknown),
        (error("400 Bad Request", "reasonCodeMissing"), Cancel::Refused),
        (error("422 Unprocessable Entity", "late"), Cancel::Refused),
        (error("401 Unauthorized", "unauthorized"), Cancel::BadCredentials),
        (error("403 Forbidden", "accountStopped"), Cancel::BadCredentials),
        (error("429 Too Many Requests", "tooManyRequests"), Cancel::Throttled(THROTTLED)),
        (error("503 Service Unavailable", "serviceUnavailable"), Cancel::Unknown),
        (Act::answer("422 Unprocessable Entity", "<html>"), Cancel::Unknown),
        (Act::answer("200 OK", "{}"), Cancel::Unknown),
    ] {
        let setup = Setup::new(vec![act]).await;
        assert_eq!((setup.cancel(Some("LI1")).await, setup.asked().len()), (outcome, 1));
    }
}

#[tokio::test]
async fn an_issue_and_a_look_at_the_account_are_one_call_each() {
    let balance = json!({"currentBalance": 500, "currencyCode": "JPY"});
    for act in [ok(&whole("COMPLETE")), ok(&item("COMPLETE")), ok(&balance), error("409 Conflict", "dup"), Act::Reset] {
        let setup = Setup::new(vec![act.clone()]).await;
        setup.issue().await;
        assert_eq!(setup.asked().len(), 1);
        let setup = Setup::new(vec![act]).await;
        setup.provider.funds(&Gate::open()).await;
        assert_eq!(setup.asked().len(), 1);
    }
}

#[tokio::test]
async fn the_table_is_what_the_code_does() {
    use crate::{
        partners::conformance::answers::{Row, draw_issue},
        partners::whose::Whose::{Account, Message, Network},
    };
    let mut rows = vec![];
    for (status, whose) in [
        ("PENDING", Message),
        ("ON_HOLD", Message),
        ("PENDING_PAYMENT", Message),
        ("FAILED", Message),
        ("CANCELLED", Message),
        ("PARTIAL", Network),
        ("SOMETHING_NEW", Network),
    ] {
        let order = whole(status).to_string();
        // A question is answered by 200 alone, and a cancel that is taken by 202.
        for head in ["200 OK", "201 Created", "202 Accepted"] {
            let answer = format!("{} {status}, of this trade", &head[..3]);
            rows.push(Row::new(&answer, whose, [Act::answer(head, &order)]));
        }
    }
    for (status, key, whose) in [
        (400, "identifierInvalid", Message),
        (422, "utidInvalid", Message),
        (409, "duplicateExists", Message),
        (401, "unauthorized", Account),
        (403, "accountStopped", Account),
        (402, "insufficientFunds", Account),
        (429, "tooManyRequests", Account),
        (404, "notFound", Network),
        (413, "tooLarge", Network),
        (418, "somethingNew", Network),
        (500, "error", Network),
        (503, "serviceUnavailable", Network),
        (200, "identifierInvalid", Network),
    ] {
        rows.push(Row::said(status, &json!({"httpCode": status, "i18nKey": key}).to_string(), whose));
    }
    rows.push(Row::said(422, r#"{"httpCode":400}"#, Network));
    draw_issue(NAME, "src/partners/gifts/tango_card.rs", rows).await;
}
