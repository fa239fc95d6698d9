use super::*;
use crate::clients::{
    conformance::{Files, args, trade},
    scripted::{Act, Scripted},
};

async fn answered(status: &str, body: &str) -> (Issue, Inquiry) {
    let server = Scripted::start([Act::answer(status, body), Act::answer(status, body)]).await;
    let provider = Files::new().open(NAME, open, &server.url);
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
    let id = super::super::trade_id("G", "g1", 0);
    let shown = |id: &str, status: &str| format!(r#"{{"tradeId":"{id}","status":"{status}","resultCode":"E201"}}"#);
    assert_eq!(answered("200 OK", &shown(&id, "PROCESSING")).await, (Issue::Pending, Inquiry::Pending));
    assert_eq!(answered("202 Accepted", &shown(&id, "PROCESSING")).await.0, Issue::Pending);
    let failed = (Issue::Refused("E201".to_owned()), Inquiry::Failed("E201".to_owned()));
    assert_eq!(answered("200 OK", &shown(&id, "FAILED")).await, failed);
    for body in [shown("OTHER", "PROCESSING"), shown("OTHER", "FAILED"), shown(&id, "SHIPPED")] {
        assert_eq!(answered("200 OK", &body).await, (Issue::Unknown, Inquiry::NoAnswer), "{body}");
    }
}
