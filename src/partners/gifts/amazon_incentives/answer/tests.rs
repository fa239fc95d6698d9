use noshi_jobs::money::Currency;

use super::*;

const TRADE: &str = "NoshiQ9W1DFWF077YMGA183F5VBH24E00";
const YEN: Money = Money { amount: 1000, currency: Currency::Jpy };

fn reply(status: u16, body: &str) -> Reply {
    Reply {
        status: StatusCode::from_u16(status).unwrap(),
        retry_after: None,
        clock_ahead: None,
        error_type: None,
        body: body.into(),
    }
}

/// The shape of a captured answer.
fn success(id: &str, status: &str, amount: &str, currency: &str) -> Reply {
    let body = format!(
        r#"{{"cardInfo":{{"cardNumber":null,"cardStatus":"{status}","expirationDate":null,
        "value":{{"amount":{amount},"currencyCode":"{currency}"}}}},"creationRequestId":"{id}",
        "gcClaimCode":"CNRY-AAAAAA-BBBB","gcExpirationDate":"Thu Jun 10 14:59:59 UTC 2032","gcId":"A2GCN9BRX5QS76",
        "status":"SUCCESS"}}"#
    );
    reply(200, &body)
}

fn failure(http: u16, status: &str, code: &str, kind: &str, message: &str) -> Reply {
    let body = format!(
        r#"{{"agcodResponse":{{"__type":"CreateGiftCardResponse:http://internal.amazon.com/coral/com.amazonaws.agcod/",
        "cardInfo":null,"creationRequestId":null,"gcClaimCode":null,"gcExpirationDate":null,"gcId":null,"status":"{status}"}},
        "errorCode":"{code}","errorType":"{kind}","message":"{message}"}}"#
    );
    reply(http, &body)
}

fn issue(reply: &Reply) -> Issue {
    issued(reply, TRADE, YEN)
}

#[test]
fn only_a_fulfilled_card_of_ours_is_issued_and_its_code_is_not_kept() {
    let good = Gift { card: "A2GCN9BRX5QS76".to_owned(), code: None };
    assert_eq!(issue(&success(TRADE, "Fulfilled", "1000.0", "JPY")), Issue::Issued(good.clone()));
    assert_eq!(issue(&success(TRADE, "Fulfilled", "1000", "JPY")), Issue::Issued(good.clone()));
    let usd = Money { amount: 1015, currency: Currency::Usd };
    assert_eq!(issued(&success(TRADE, "Fulfilled", "10.15", "USD"), TRADE, usd), Issue::Issued(good));
    for dead in ["RefundedToPurchaser", "Expired"] {
        assert_eq!(issue(&success(TRADE, dead, "1000.0", "JPY")), Issue::Dead);
    }
    for other in [
        success("NoshiOTHER00", "Fulfilled", "1000.0", "JPY"),
        success(&TRADE.to_lowercase(), "Fulfilled", "1000.0", "JPY"),
        success(TRADE, "Fulfilled", "1000.5", "JPY"),
        success(TRADE, "Fulfilled", "1500.0", "JPY"),
        success(TRADE, "Fulfilled", "\"1000\"", "JPY"),
        success(TRADE, "Fulfilled", "1000.0", "USD"),
        success(TRADE, "Shipped", "1000.0", "JPY"),
        success("NoshiOTHER00", "RefundedToPurchaser", "1000.0", "JPY"),
        Reply { status: StatusCode::BAD_GATEWAY, ..success(TRADE, "Fulfilled", "1000.0", "JPY") },
    ] {
        assert_eq!(issue(&other), Issue::Unknown);
    }
}

#[test]
fn failures_are_classified_by_family_first_and_type_second() {
    let refused = |kind: &str| Issue::Refused(kind.to_owned());
    for (code, kind, outcome) in [
        ("F100", "GeneralError", Issue::Unknown),
        ("F200", "InvalidAmountInput", refused("InvalidAmountInput")),
        ("F200", "MaxAmountExceeded", refused("MaxAmountExceeded")),
        ("F200", "FractionalAmountNotAllowed", refused("FractionalAmountNotAllowed")),
        ("F200", "", refused("F200")),
        ("F200", "RequestedDenominationMismatch", Issue::Conflict),
        ("F200", "RequestIdMustStartWithPartnerName", Issue::BadCredentials),
        ("F300", "InsufficientFunds", Issue::OutOfFunds),
        ("F300", "IssuanceCapExceeded", Issue::OutOfFunds),
        ("F300", "CustomerSurpassedDailyVelocityLimit", Issue::OutOfFunds),
        ("F300", "GeneralError", Issue::BadCredentials),
        ("F300", "AccountHasProblems", Issue::BadCredentials),
        ("F300", "ActiveContractNotFound", Issue::BadCredentials),
        ("F300", "InvalidAwsAccessKeyId", Issue::BadCredentials),
        ("F500", "GeneralError", Issue::Unknown),
        ("F900", "Anything", Issue::Unknown),
    ] {
        // The HTTP status of an F-code is not documented: none may matter.
        for http in [200, 400, 403, 500] {
            assert_eq!(issue(&failure(http, "FAILURE", code, kind, "General Error")), outcome, "{code} {kind} {http}");
        }
    }
    let unavailable = failure(503, "RESEND", "F400", "SystemTemporarilyUnavailable", "System Temporarily Unavailable");
    assert_eq!(issue(&unavailable), Issue::Resend);
    assert_eq!(issue(&reply(200, r#"{"agcodResponse":{"status":"RESEND"}}"#)), Issue::Resend);
    let signature = failure(403, "FAILURE", "F200", "", "The request signature we calculated does not match");
    assert_eq!(issue(&signature), Issue::BadCredentials);
    let gateway = reply(403, r#"{"message":"The security token included in the request is invalid."}"#);
    assert_eq!(issue(&gateway), Issue::BadCredentials);
}

#[test]
fn throttling_is_seen_in_every_form() {
    let ten = Issue::Throttled(Duration::from_secs(10));
    assert_eq!(issue(&reply(400, r#"{"message":"Rate exceeded"}"#)), ten);
    // A gateway's, for a call that it may have passed on.
    assert_eq!(issue(&reply(429, "")), Issue::Unknown);
    assert_eq!(issue(&reply(429, "<html>Too Many Requests</html>")), Issue::Unknown);
    assert_eq!(issue(&reply(429, r#"{"message":"Rate exceeded"}"#)), ten);
    assert_eq!(issue(&reply(400, "<ThrottlingException><Message>Rate exceeded</Message></ThrottlingException>")), ten);
    let told = Reply { retry_after: Some(Duration::from_secs(3)), ..reply(400, r#"{"message":"Rate exceeded"}"#) };
    assert_eq!(issue(&told), Issue::Throttled(Duration::from_secs(3)));
    let zero = Reply { retry_after: Some(Duration::ZERO), ..reply(429, r#"{"message":"Rate exceeded"}"#) };
    assert_eq!(issue(&zero), ten);
}

#[test]
fn what_cannot_be_read_is_unknown() {
    for (status, body) in [
        (200, ""),
        (200, "{}"),
        (200, "[]"),
        (200, "<html></html>"),
        (200, r#"{"status":"SUCCESS"}"#),
        (200, r#"{"status":"FAILURE"}"#),
        (200, r#"{"agcodResponse":{"status":"SUCCESS"}}"#),
        (400, "{}"),
        (403, "<html>Forbidden</html>"),
        (500, r#"{"message":"Internal Server Error"}"#),
    ] {
        assert_eq!(issue(&reply(status, body)), Issue::Unknown, "{status} {body}");
        assert_eq!(cancelled(&reply(status, body), TRADE), Cancel::Unknown, "{status} {body}");
        assert_eq!(funds(&reply(status, body)), Funds::NoAnswer, "{status} {body}");
    }
}

#[test]
fn cancels_and_balances() {
    let done = |id: &str| reply(200, &format!(r#"{{"creationRequestId":"{id}","gcId":"A2","status":"SUCCESS"}}"#));
    assert_eq!(cancelled(&done(TRADE), TRADE), Cancel::Cancelled);
    assert_eq!(cancelled(&done("NoshiOTHER00"), TRADE), Cancel::Unknown);
    let late = failure(400, "FAILURE", "F200", "CancelRequestArrivedAfterTimeLimit", "too late");
    assert_eq!(cancelled(&late, TRADE), Cancel::Refused);
    assert_eq!(cancelled(&failure(503, "RESEND", "F400", "SystemTemporarilyUnavailable", ""), TRADE), Cancel::Unknown);
    assert_eq!(cancelled(&failure(400, "FAILURE", "F300", "GeneralError", ""), TRADE), Cancel::BadCredentials);
    let balance =
        r#"{"availableFunds":{"amount":-5.25,"currencyCode":"USD"},"status":"SUCCESS","timestamp":"20220610T085450Z"}"#;
    assert_eq!(funds(&reply(200, balance)), Funds::Available(Money { amount: -525, currency: Currency::Usd }));
}

#[tokio::test]
async fn the_table_is_what_the_code_does() {
    use crate::partners::{
        conformance::answers::{Row, draw_issue},
        scripted::Act,
        whose::Whose::{Account, Message, Network, Process},
    };
    let mut rows = vec![];
    for (status, code, kind, whose) in [
        ("FAILURE", "F100", "GeneralError", Network),
        ("FAILURE", "F200", "InvalidAmountInput", Message),
        ("FAILURE", "F200", "MaxAmountExceeded", Message),
        ("FAILURE", "F200", "RequestedDenominationMismatch", Message),
        ("FAILURE", "F200", "RequestIdMustStartWithPartnerName", Account),
        ("FAILURE", "F300", "InsufficientFunds", Account),
        ("FAILURE", "F300", "IssuanceCapExceeded", Account),
        ("FAILURE", "F300", "CustomerSurpassedDailyVelocityLimit", Account),
        ("FAILURE", "F300", "AccountHasProblems", Account),
        ("FAILURE", "F300", "SomethingNew", Account),
        ("RESEND", "F400", "SystemTemporarilyUnavailable", Message),
        ("FAILURE", "F500", "GeneralError", Network),
        ("FAILURE", "F900", "SomethingNew", Network),
    ] {
        let body = format!(r#"{{"agcodResponse":{{"status":"{status}"}},"errorCode":"{code}","errorType":"{kind}"}}"#);
        let acts = [200, 400, 403, 500, 503].map(|http| Act::answer(&format!("{http} Status"), &body));
        rows.push(Row::new(&format!("{code} {kind}, whatever the status"), whose, acts));
    }
    let date = |at: std::time::SystemTime| format!("403 Forbidden\r\nDate: {}", httpdate::fmt_http_date(at));
    let now = std::time::SystemTime::now();
    let refused = r#"{"message":"The request signature we calculated does not match"}"#;
    rows.extend([
        Row::said(400, r#"{"message":"Rate exceeded"}"#, Account),
        Row::said(403, r#"{"message":"The security token included in the request is invalid."}"#, Account),
        Row::new("403 a signature refused, the clocks agree", Account, [Act::answer(&date(now), refused)]),
        Row::new(
            "403 a signature refused, the answer's Date far from our clock",
            Process,
            [now + Duration::from_secs(1200), now - Duration::from_secs(1200)]
                .map(|at| Act::answer(&date(at), refused)),
        ),
        Row::said(403, r#"{"message":"Signature expired: 20300101T000000Z is now earlier than"}"#, Process),
        Row::said(403, r#"{"__type":"RequestTimeTooSkewed"}"#, Process),
        Row::said(200, r#"{"status":"SUCCESS"}"#, Network),
        Row::said(200, r#"{"status":"SOMETHING_NEW"}"#, Network),
        Row::said(500, r#"{"message":"Internal Server Error"}"#, Network),
        Row::said(403, "{}", Network),
    ]);
    draw_issue("amazon_incentives", "src/partners/gifts/amazon_incentives.rs", rows).await;
}
