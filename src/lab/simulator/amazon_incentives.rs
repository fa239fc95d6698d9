//! Amazon Incentives API (AGCOD), as far as a digital gift card needs it.
//!
//! `POST /CreateGiftCard` `{creationRequestId, partnerId, value: {currencyCode, amount}}`, `POST /CancelGiftCard`
//! `{creationRequestId, partnerId, gcId?}`, `POST /GetAvailableFunds` `{partnerId}`; JSON, signed with SigV4.
//! Shapes and texts follow captured sandbox answers. Not found anywhere, so assumed: the HTTP status of each F-code,
//! the errorType of a wrong signature (`InvalidSignature`), and the yen range of a card (1 to 500,000).
//!
//! The creationRequestId is the idempotency key: the same id and amount show the same card again, even a cancelled
//! one (SUCCESS with its dead code and `RefundedToPurchaser`). There is no pure inquiry.

use std::time::SystemTime;

use axum::http::Method;
use chrono::{DateTime, Days, Utc};
use serde_json::{Value, json};

use super::{
    Credentials, Op,
    call_context::CallContext,
    messages::{Arrived, Ask, Read, Refusal, Reply},
    shop::{Card, Order, State},
    sigv4::{self, Wrong},
};

const CURRENCY: &str = "JPY";
const LEAST: i64 = 1;
const MOST: i64 = 500_000;

/// (errorCode, errorType, message)
type Failure = (&'static str, &'static str, &'static str);

const THROTTLE_MESSAGE: &str = "Rate exceeded";
const UNAVAILABLE: Failure = ("F400", "SystemTemporarilyUnavailable", "System Temporarily Unavailable");
const SHORT: Failure = ("F300", "InsufficientFunds", "Insufficient Funds");
/// A stopped account: the captured answer says GeneralError, not AccountHasProblems.
const STOPPED: Failure = ("F300", "GeneralError", "General Error");
const TOO_LATE: Failure = (
    "F200",
    "CancelRequestArrivedAfterTimeLimit",
    "Cancellation cannot be processed as too much time has elapsed since creation",
);

/// Amazon's own test ids, sent as creationRequestId. They need no partner prefix and have no effect.
fn mock(id: &str) -> Option<Result<(), Failure>> {
    let failure = match id {
        "F0000" => return Some(Ok(())),
        "F1000" => ("F100", "GeneralError", "General Error"),
        "F2003" => ("F200", "InvalidAmountInput", "Amount can't be null"),
        "F2004" => ("F200", "InvalidAmountValue", "Amount must be larger than 0"),
        "F2005" => ("F200", "InvalidCurrencyCodeInput", "Currency Code can't be null or empty"),
        "F2010" => (
            "F200",
            "CardAlreadyActivatedWithDifferentRequestId",
            "The card was already activated with a different request id",
        ),
        "F2015" => ("F200", "MaxAmountExceeded", "Max Amount Exceeded"),
        "F2016" => ("F200", "CurrencyCodeMismatch", "Currency Code Mismatch"),
        "F2017" => ("F200", "FractionalAmountNotAllowed", "Fractional Amount Not Allowed"),
        "F2047" => TOO_LATE,
        "F3003" => SHORT,
        "F3005" => STOPPED,
        "F3010" => ("F300", "CustomerSurpassedDailyVelocityLimit", "Customer has exceeded daily velocity limit"),
        "F4000" => UNAVAILABLE,
        "F5000" => ("F500", "GeneralError", "General Error"),
        _ => return None,
    };
    Some(Err(failure))
}

fn mocked(op: Op, mock: Result<(), Failure>, body: &Value) -> Reply {
    const CARD: &str = "ABC123ZYX987";
    let id = body["creationRequestId"].as_str().unwrap_or_default();
    match mock {
        Err(failure) => fail(op, failure),
        Ok(()) if op == Op::Cancel => cancelled(id, CARD),
        Ok(()) => created(id, CARD, "ZYXW-VUTS-RQPO", &body["value"]["amount"], "Fulfilled", Value::Null),
    }
}

pub fn read(call: &Arrived, credentials: &Credentials) -> Read {
    let (op, target) = match call.path.as_str() {
        "/CreateGiftCard" => (Op::Issue, "CreateGiftCard"),
        "/CancelGiftCard" => (Op::Cancel, "CancelGiftCard"),
        "/GetAvailableFunds" => (Op::Funds, "GetAvailableFunds"),
        _ => return Read::nowhere(Reply::json(404, &json!({"message": "Unknown operation"}))),
    };
    let body = call.json();
    let id = body["creationRequestId"].as_str();
    let value = |name: &str| body["value"].get(name).filter(|value| !value.is_null()).cloned();
    let ask = match mock(id.unwrap_or_default()).filter(|_| op != Op::Funds) {
        Some(mock) => Err(Refusal { reason: "mock id", reply: mocked(op, mock, &body) }),
        None => {
            ask(call, op, &body, credentials).map_err(|failure| Refusal { reason: failure.1, reply: fail(op, failure) })
        }
    };
    Read {
        op: Some(op),
        trade: id.filter(|_| op != Op::Funds).map(str::to_owned),
        amount: value("amount"),
        currency: value("currencyCode"),
        denied: denied(call, credentials, op, target),
        ask,
    }
}

pub fn keys(credentials: &Credentials) -> sigv4::Keys<'_> {
    sigv4::Keys {
        id: &credentials.amazon_key_id,
        secret: &credentials.amazon_secret,
        region: &credentials.amazon_region,
        service: "AGCODService",
        covers: &["accept", "host", "x-amz-date", "x-amz-target"],
    }
}

fn denied(call: &Arrived, credentials: &Credentials, op: Op, target: &str) -> Option<Reply> {
    let failure = match sigv4::verify(call, &keys(credentials), SystemTime::now()) {
        Ok(()) if call.header("x-amz-target") == format!("com.amazonaws.agcod.AGCODService.{target}") => return None,
        Ok(()) => ("F200", "InvalidRequestInput", "x-amz-target does not fit the path"),
        Err(Wrong::Key) => ("F300", "InvalidAwsAccessKeyId", "The AWS access key id is unknown"),
        Err(Wrong::Signature) => (
            "F200",
            "InvalidSignature",
            "The request signature we calculated does not match the signature you provided",
        ),
    };
    Some(Reply { status: 403, ..fail(op, failure) })
}

fn ask(call: &Arrived, op: Op, body: &Value, credentials: &Credentials) -> Result<Ask, Failure> {
    if call.method != Method::POST || !body.is_object() {
        return Err(("F200", "InvalidRequestInput", "POST a JSON object"));
    }
    if body["partnerId"].as_str() != Some(credentials.amazon_partner_id.as_str()) {
        return Err(("F200", "InvalidPartnerIdInput", "The partner id is not the account's"));
    }
    if op == Op::Funds {
        return Ok(Ask::Funds);
    }
    check_id(body["creationRequestId"].as_str().unwrap_or_default(), &credentials.amazon_partner_id)?;
    if op == Op::Cancel {
        let card = body["gcId"].as_str().map(str::to_owned);
        return Ok(Ask::Cancel { card });
    }
    let amount = check_value(&body["value"])?;
    Ok(Ask::Issue(Order { amount, content: format!("{amount} {CURRENCY}"), detail: Value::Null, queued: false }))
}

fn check_id(id: &str, partner: &str) -> Result<(), Failure> {
    if id.len() > 40 {
        return Err(("F200", "RequestIdTooLong", "The request id has more than 40 characters"));
    }
    if !id.starts_with(partner) {
        return Err(("F200", "RequestIdMustStartWithPartnerName", "The request id must start with the partner id"));
    }
    if id.len() < 6 || !id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err(("F200", "InvalidRequestIdInput", "The request id must have 6 to 40 alphanumeric characters"));
    }
    Ok(())
}

fn check_value(value: &Value) -> Result<i64, Failure> {
    let amount = value["amount"].as_f64().ok_or(("F200", "InvalidAmountInput", "Amount can't be null"))?;
    let currency = value["currencyCode"].as_str().unwrap_or_default();
    if currency.is_empty() {
        return Err(("F200", "InvalidCurrencyCodeInput", "Currency Code can't be null or empty"));
    }
    if currency != CURRENCY {
        return Err(("F200", "CurrencyCodeMismatch", "Currency Code Mismatch"));
    }
    if amount <= 0.0 {
        return Err(("F200", "InvalidAmountValue", "Amount must be larger than 0"));
    }
    if amount > MOST as f64 {
        return Err(("F200", "MaxAmountExceeded", "Max Amount Exceeded"));
    }
    if amount.fract() != 0.0 {
        return Err(("F200", "FractionalAmountNotAllowed", "Fractional Amount Not Allowed"));
    }
    // Whole and within 500,000: exact as an integer.
    let amount = amount as i64;
    if amount < LEAST {
        return Err(("F200", "AmountBelowMinThreshold", "Amount Below Min Threshold"));
    }
    Ok(amount)
}

pub fn act(cx: &mut CallContext<'_>, ask: &Ask) -> Reply {
    let op = cx.op;
    let refuse = |cx: &CallContext<'_>, failure: Failure| {
        cx.refused(failure.1);
        fail(op, failure)
    };
    match ask {
        Ask::Funds | Ask::Inquire { .. } => funds(cx),
        Ask::Issue(_) | Ask::Cancel { .. } if cx.shop.blocked => refuse(cx, STOPPED),
        Ask::Issue(order) => {
            if let Some(card) = cx.shop.of_trade(&cx.trade).cloned() {
                if card.order.content == order.content {
                    cx.replayed(&card);
                    return about(cx, op, &card);
                }
                cx.conflict(&card);
                return fail(op, ("F200", "RequestedDenominationMismatch", "Requested Denomination Mismatch"));
            }
            if order.amount > cx.shop.balance {
                return refuse(cx, SHORT);
            }
            let card = cx.issue(order);
            about(cx, op, &card)
        }
        Ask::Cancel { card: named } => {
            let Some(card) = cx.shop.of_trade(&cx.trade).cloned() else {
                return refuse(cx, ("F200", "CardNotFound", "Card Not Found"));
            };
            if named.as_ref().is_some_and(|named| *named != card.id) {
                return refuse(cx, ("F200", "InvalidGCIdInput", "The gcId does not belong to the request id"));
            }
            let window = u64::try_from(cx.inner.config.cancel_window.as_micros()).unwrap_or(u64::MAX);
            if card.state == State::Voided {
                cx.replayed(&card);
            } else if cx.inner.ledger.now_us() > card.at_us.saturating_add(window) {
                return refuse(cx, TOO_LATE);
            } else {
                cx.void(&card.id);
            }
            about(cx, op, &card)
        }
    }
}

/// A good answer to `op` about this card.
pub fn about(cx: &CallContext<'_>, op: Op, card: &Card) -> Reply {
    match op {
        Op::Cancel => cancelled(&card.trade, &card.id),
        Op::Funds => funds(cx),
        Op::Issue | Op::Inquire => {
            let status = match card.state {
                State::Live => "Fulfilled",
                State::Voided => "RefundedToPurchaser",
                // Amazon cards are never pending.
                State::Accepted { .. } | State::Failed => "Expired",
            };
            let amount = json!(card.order.amount as f64);
            created(&card.trade, &card.id, &cx.code(card), &amount, status, expiry(card).into())
        }
    }
}

fn created(id: &str, card: &str, code: &str, amount: &Value, status: &str, expires: Value) -> Reply {
    let body = json!({
        "cardInfo": {
            "cardNumber": null,
            "cardStatus": status,
            "expirationDate": null,
            "value": {"amount": amount, "currencyCode": CURRENCY},
        },
        "creationRequestId": id,
        "gcClaimCode": code,
        "gcExpirationDate": expires,
        "gcId": card,
        "status": "SUCCESS",
    });
    Reply::json(200, &body)
}

fn cancelled(id: &str, card: &str) -> Reply {
    Reply::json(200, &json!({"creationRequestId": id, "gcId": card, "status": "SUCCESS"}))
}

fn funds(cx: &CallContext<'_>) -> Reply {
    let body = json!({
        "availableFunds": {"amount": cx.shop.balance as f64, "currencyCode": CURRENCY},
        "status": "SUCCESS",
        "timestamp": Utc::now().format("%Y%m%dT%H%M%SZ").to_string(),
    });
    Reply::json(200, &body)
}

/// Ten years after issue, in the form of Java's `Date.toString()`.
fn expiry(card: &Card) -> String {
    let issued = i64::try_from(card.at_us).ok().and_then(DateTime::from_timestamp_micros);
    let expires = issued.and_then(|at| at.checked_add_days(Days::new(3652)));
    expires.map(|at| at.format("%a %b %d 14:59:59 UTC %Y").to_string()).unwrap_or_default()
}

fn fail(op: Op, (code, kind, message): Failure) -> Reply {
    let (shape, empty): (_, &[&str]) = match op {
        Op::Issue | Op::Inquire => {
            ("CreateGiftCardResponse", &["cardInfo", "creationRequestId", "gcClaimCode", "gcExpirationDate", "gcId"])
        }
        Op::Cancel => ("CancelGiftCardResponse", &["creationRequestId", "gcId"]),
        Op::Funds => ("GetAvailableFundsResponse", &["availableFunds", "timestamp"]),
    };
    let status = if code == "F400" { "RESEND" } else { "FAILURE" };
    let mut response = json!({
        "__type": format!("{shape}:http://internal.amazon.com/coral/com.amazonaws.agcod/"),
    });
    for name in empty {
        response[*name] = Value::Null;
    }
    response["status"] = status.into();
    let body = json!({"agcodResponse": response, "errorCode": code, "errorType": kind, "message": message});
    let http = match code {
        "F100" | "F500" => 500,
        "F400" => 503,
        _ => 400,
    };
    Reply::json(http, &body)
}

pub fn throttled() -> Reply {
    Reply::json(429, &json!({"message": THROTTLE_MESSAGE}))
}

pub fn typed_error(op: Op) -> Reply {
    fail(op, UNAVAILABLE)
}
