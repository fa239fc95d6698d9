//! Gift on demand: our reading of the Gods and Digico kind of provider, whose API is not public. Known are only the
//! words: the caller makes a tradeId, issuing (発券) and inquiry (照会) are separate. So it is modelled as the strictest
//! contract there could be: the tradeId is NOT an idempotency key. A second issue with the same tradeId issues a
//! second gift; only an inquiry is safe to repeat. There is no cancel.
//!
//! Header `X-Api-Key`. `POST /v1/gifts` `{"tradeId", "product", "faceValue", "currency"}` → 200 `{"tradeId", "status":
//! "ISSUED", "giftId", "giftCode", "faceValue", "currency", "validUntil"}` or 202 `{"tradeId", "status": "PROCESSING"}`.
//! `GET /v1/gifts/{tradeId}` → 200 with the same shapes, or with `"status": "FAILED", "resultCode"`, or 404.
//! `GET /v1/balance` → `{"balance", "currency"}`. Errors: `{"resultCode", "message"}`.

use axum::http::Method;
use chrono::{DateTime, Days};
use serde_json::{Value, json};

use super::{
    Credentials, Op,
    call_context::CallContext,
    messages::{Arrived, Ask, Read, Refusal, Reply},
    shop::{Card, Order, State},
};

const CURRENCY: &str = "JPY";
const MOST: i64 = 100_000;

/// (HTTP status, resultCode, message)
type Failure = (u16, &'static str, &'static str);

const AMOUNT: Failure = (400, "E101", "faceValue must be 1 to 100000 whole JPY");
const PRODUCT: Failure = (400, "E102", "the product does not exist");
const TRADE_ID: Failure = (400, "E103", "tradeId must have 1 to 40 alphanumeric characters");
const SHORT: Failure = (402, "E201", "the balance is short");
const KEY: Failure = (401, "E301", "the API key is wrong");
const STOPPED: Failure = (403, "E302", "the account is stopped");
const UNKNOWN: Failure = (404, "E404", "no such trade");
const TOO_MANY: Failure = (429, "E429", "too many calls");
const INTERNAL: Failure = (500, "E500", "internal error");

fn fail((status, code, message): Failure) -> Reply {
    Reply::json(status, &json!({"resultCode": code, "message": message}))
}

pub fn read(call: &Arrived, credentials: &Credentials) -> Read {
    let body = call.json();
    let field = |name: &str| body.get(name).filter(|value| !value.is_null()).cloned();
    let (op, trade) = match (call.method.clone(), call.path.as_str()) {
        (Method::POST, "/v1/gifts") => (Op::Issue, field("tradeId")),
        (Method::GET, "/v1/balance") => (Op::Funds, None),
        (Method::GET, path) => match path.strip_prefix("/v1/gifts/") {
            Some(trade) => (Op::Inquire, Some(trade.into())),
            None => return Read::nowhere(fail(UNKNOWN)),
        },
        _ => return Read::nowhere(fail(UNKNOWN)),
    };
    let trade = trade.as_ref().and_then(Value::as_str).map(str::to_owned);
    let ask = match op {
        Op::Issue => order(&body, trade.as_deref()).map(Ask::Issue),
        Op::Inquire | Op::Cancel => Ok(Ask::Inquire { card: None }),
        Op::Funds => Ok(Ask::Funds),
    };
    Read {
        op: Some(op),
        trade,
        amount: field("faceValue"),
        currency: field("currency"),
        denied: (call.header("x-api-key") != credentials.gift_on_demand_key).then(|| fail(KEY)),
        ask: ask.map_err(|failure| Refusal { reason: failure.1, reply: fail(failure) }),
    }
}

fn order(body: &Value, trade: Option<&str>) -> Result<Order, Failure> {
    let trade = trade.unwrap_or_default();
    if trade.is_empty() || trade.len() > 40 || !trade.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err(TRADE_ID);
    }
    // Any well-formed product exists, except those whose names say that they do not.
    let product = body["product"].as_str().unwrap_or_default();
    let word = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    if product.is_empty() || product.starts_with("NOPRODUCT") || !product.bytes().all(word) {
        return Err(PRODUCT);
    }
    let amount = body["faceValue"].as_i64().filter(|amount| (1..=MOST).contains(amount)).ok_or(AMOUNT)?;
    if body["currency"].as_str() != Some(CURRENCY) {
        return Err(AMOUNT);
    }
    Ok(Order { amount, content: format!("{product} {amount} {CURRENCY}"), detail: Value::Null, queued: false })
}

pub fn act(cx: &mut CallContext<'_>, ask: &Ask) -> Reply {
    let refuse = |cx: &CallContext<'_>, failure: Failure| {
        cx.refused(failure.1);
        fail(failure)
    };
    match ask {
        Ask::Funds => Reply::json(200, &json!({"balance": cx.shop.balance, "currency": CURRENCY})),
        Ask::Inquire { .. } | Ask::Cancel { .. } => match cx.shop.of_trade(&cx.trade) {
            Some(card) => about(cx, card),
            None => not_found(),
        },
        Ask::Issue(_) if cx.shop.blocked => refuse(cx, STOPPED),
        Ask::Issue(order) if order.amount > cx.shop.balance => refuse(cx, SHORT),
        Ask::Issue(order) => {
            let card = cx.issue(order);
            let status = if card.state == State::Live { 200 } else { 202 };
            Reply { status, ..about(cx, &card) }
        }
    }
}

/// The trade as it stands.
pub fn about(cx: &CallContext<'_>, card: &Card) -> Reply {
    let body = match card.state {
        State::Live | State::Voided => json!({
            "tradeId": card.trade,
            "status": "ISSUED",
            "giftId": card.id,
            "giftCode": cx.code(card),
            "faceValue": card.order.amount,
            "currency": CURRENCY,
            "validUntil": valid_until(card),
        }),
        State::Accepted { .. } => json!({"tradeId": card.trade, "status": "PROCESSING"}),
        State::Failed => {
            let (_, code, message) = SHORT;
            json!({"tradeId": card.trade, "status": "FAILED", "resultCode": code, "message": message})
        }
    };
    Reply::json(200, &body)
}

/// One year after issue, `YYYY-MM-DD`.
fn valid_until(card: &Card) -> String {
    let issued = i64::try_from(card.at_us).ok().and_then(DateTime::from_timestamp_micros);
    let until = issued.and_then(|at| at.checked_add_days(Days::new(365)));
    until.map(|at| at.format("%Y-%m-%d").to_string()).unwrap_or_default()
}

pub fn throttled() -> Reply {
    fail(TOO_MANY)
}

pub fn typed_error() -> Reply {
    fail(INTERNAL)
}

pub fn not_found() -> Reply {
    fail(UNKNOWN)
}
