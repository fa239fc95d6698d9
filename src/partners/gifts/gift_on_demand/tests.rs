use super::*;
use crate::partners::{
    conformance::{Files, args, partner, trade},
    scripted::{Act, Scripted},
};

async fn answered(status: &str, body: &str) -> (Issue, Inquiry) {
    let server = Scripted::start([Act::answer(status, body), Act::answer(status, body)]).await;
    let provider = Files::new().open(partner(NAME), &server.url);
    let (args, trade) = (args("g1"), trade(provider.as_ref(), "g1"));
    let issue = provider.issue(&args, &trade, &Gate::open()).await;
    (issue, provider.inquire(&args, &trade, None, &Gate::open()).await)
}

#[tokio::test]
async fn an_error_counts_if_status_and_result_code_agree() {
    let error = |code: &str| format!(r#"{{"resultCode":"{code}","message":"CNRY"}}"#);
    for (status, code, issue, inquiry) in [
        ("400 Bad Request", "E101", Issue::Refused("E101".to_owned()), Inquiry::NoAnswer),
        ("400 Bad Request", "E103", Issue::Refused("E103".to_owned()), Inquiry::NoAnswer),
        ("402 Payment Required", "E201", Issue::OutOfFunds, Inquiry::NoAnswer),
        ("401 Unauthorized", "E301", Issue::BadCredentials, Inquiry::BadCredentials),
        ("403 Forbidden", "E302", Issue::BadCredentials, Inquiry::BadCredentials),
        ("404 Not Found", "E404", Issue::Unknown, Inquiry::NotFound),
        ("500 Internal Server Error", "E500", Issue::Unknown, Inquiry::NoAnswer),
        ("500 Internal Server Error", "E101", Issue::Unknown, Inquiry::NoAnswer),
        ("400 Bad Request", "E500", Issue::Unknown, Inquiry::NoAnswer),
        ("404 Not Found", "E101", Issue::Unknown, Inquiry::NoAnswer),
        ("200 OK", "E101", Issue::Unknown, Inquiry::NoAnswer),
    ] {
        assert_eq!(answered(status, &error(code)).await, (issue, inquiry), "{status} {code}");
    }
}

#[tokio::test]
async fn a_trade_in_progress_or_given_up_is_told_only_about_itself() {
    let id = crate::partners::gifts::trade_id("G", "g1", 0);
    let shown = |id: &str, status: &str| format!(r#"{{"tradeId":"{id}","status":"{status}","resultCode":"E201"}}"#);
    assert_eq!(answered("200 OK", &shown(&id, "PROCESSING")).await, (Issue::Pending, Inquiry::Pending));
    assert_eq!(answered("202 Accepted", &shown(&id, "PROCESSING")).await.0, Issue::Pending);
    let failed = (Issue::Refused("E201".to_owned()), Inquiry::Failed("E201".to_owned()));
    assert_eq!(answered("200 OK", &shown(&id, "FAILED")).await, failed);
    for body in [shown("OTHER", "PROCESSING"), shown("OTHER", "FAILED"), shown(&id, "SHIPPED")] {
        assert_eq!(answered("200 OK", &body).await, (Issue::Unknown, Inquiry::NoAnswer), "{body}");
    }
}

#[tokio::test]
async fn the_table_is_what_the_code_does() {
    use crate::{
        partners::conformance::answers::{Row, draw_issue},
        partners::whose::Whose::{Account, Message, Network},
    };
    let id = crate::partners::gifts::trade_id("G", "g1", 0);
    let error = |code: &str| format!(r#"{{"resultCode":"{code}"}}"#);
    let mut rows: Vec<Row> = [("PROCESSING", Message), ("FAILED", Message), ("SHIPPED", Network)]
        .map(|(status, whose)| {
            let body = format!(r#"{{"tradeId":"{id}","status":"{status}"}}"#);
            Row::new(&format!("200 {status}, of this trade"), whose, [Act::answer("200 OK", &body)])
        })
        .into();
    rows.push(Row::said(200, r#"{"tradeId":"OTHER","status":"FAILED"}"#, Network));
    for (status, code, whose) in [
        (400, "E101", Message),
        (402, "E201", Account),
        (401, "E301", Account),
        (403, "E302", Account),
        (429, "E429", Account),
        // Status and code do not agree, or one of them is unknown.
        (404, "E404", Network),
        (400, "E500", Network),
        (400, "E999", Network),
        (409, "E101", Network),
        (401, "E101", Network),
        (403, "E201", Network),
        (500, "E101", Network),
        (500, "E500", Network),
        (503, "E429", Network),
        (200, "E101", Network),
    ] {
        rows.push(Row::said(status, &error(code), whose));
    }
    draw_issue(NAME, "src/partners/gifts/gift_on_demand.rs", rows).await;
}
