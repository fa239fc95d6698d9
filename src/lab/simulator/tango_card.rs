//! Tango Card RaaS v2, as far as one reward in one order needs it (from the vendor's OpenAPI document).
//!
//! Basic auth (platform name, platform key). `POST /orders` → 201 new, 200 the same externalRefID with the same
//! content, 409 with another content. `POST /asyncOrders` with exactly one line item → 202, carried out a little later.
//! `GET /orders?externalRefID=` → `{"page", "orders"}`, with no order if there is none; its items have neither the
//! credentials nor the line item, which `GET /orders/{referenceOrderID}` has (404 if there is none). `POST
//! /lineItems/{ref}/cancel` → 202 `"Accepted"`. `GET /accounts/{id}` → `currentBalance`.
//! In the ledger `card` is the line item; its order is called the same but for the first two letters.
//! Ours: all accounts are one account in JPY; externalRefID is required; the error body's i18nKey texts.

use axum::extract::Query;
use axum::http::Method;
use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Map, Value, json};

use super::{
    Credentials, Op, basic_auth,
    call_context::CallContext,
    messages::{Arrived, Ask, Read, Refusal, Reply},
    shop::{Card, Order, Shop, State, sha256_hex},
};

const CURRENCY: &str = "JPY";
const MOST: i64 = 1_000_000;

/// (HTTP status, i18nKey, message)
type Failure = (u16, &'static str, &'static str);

const SHORT: Failure = (402, "insufficientFunds", "Insufficient Funds");
const STOPPED: Failure = (403, "accountStopped", "The account is not allowed to place orders");
const NO_ORDER: Failure = (404, "orderNotFound", "There is no such order");
const NO_CARD: Failure = (422, "lineItemNotFound", "There is no such line item");
const NOT_CANCELLABLE: Failure = (422, "lineItemNotCancellable", "The line item cannot be cancelled in its state");

fn fail((status, key, message): Failure) -> Reply {
    let phrase = match status {
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        409 => "Conflict",
        422 => "Unprocessable Entity",
        429 => "Too Many Requests",
        _ => "Service Unavailable",
    };
    let body = json!({
        "timestamp": Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true),
        "httpCode": status,
        "httpPhrase": phrase,
        "i18nKey": key,
        "message": message,
        "errors": [],
    });
    Reply::json(status, &body)
}

pub fn read(call: &Arrived, credentials: &Credentials, shop: &Shop) -> Read {
    let body = call.json();
    let path: Vec<&str> = call.path.split('/').skip(1).collect();
    let posted = call.method == Method::POST;
    let got = call.method == Method::GET;
    let reference = |body: &Value| body["externalRefID"].as_str().map(str::to_owned);
    let (op, trade, ask) = match path.as_slice() {
        ["orders"] if posted => (Op::Issue, reference(&body), order(&body, &body).map(Ask::Issue)),
        ["asyncOrders"] if posted => (Op::Issue, reference(&body), async_order(&body).map(Ask::Issue)),
        ["orders"] if got => {
            let trade = wanted(call);
            let missing = (400, "externalRefIDMissing", "this simulator lists orders by externalRefID only");
            let ask = trade.as_ref().map(|_| Ask::Inquire { card: None }).ok_or(missing);
            (Op::Inquire, trade, ask)
        }
        ["orders", order] if got => {
            let id = order.replacen("RA", "LI", 1);
            (Op::Inquire, Some(trade_of(shop, &id, order)), Ok(Ask::Inquire { card: Some(id) }))
        }
        ["lineItems", item, "cancel"] if posted => {
            let reason = (400, "reasonCodeMissing", "reasonCode is required");
            let ask = body["reasonCode"].as_str().map(|_| Ask::Cancel { card: Some((*item).to_owned()) });
            (Op::Cancel, Some(trade_of(shop, item, item)), ask.ok_or(reason))
        }
        ["accounts", _] if got => (Op::Funds, None, Ok(Ask::Funds)),
        _ => return Read::nowhere(fail((404, "notFound", "There is no such resource"))),
    };
    let item = if body["lineItems"].is_array() { &body["lineItems"][0] } else { &body };
    Read {
        op: Some(op),
        trade,
        amount: item.get("amount").cloned(),
        currency: (op == Op::Issue).then(|| CURRENCY.into()),
        denied: denied(call, credentials),
        ask: ask.map_err(|failure| Refusal { reason: failure.1, reply: fail(failure) }),
    }
}

/// A card of nobody has no trade of ours; the name that was asked for then stands in the ledger.
fn trade_of(shop: &Shop, id: &str, name: &str) -> String {
    shop.card(id).map_or_else(|| name.to_owned(), |card| card.trade.clone())
}

fn denied(call: &Arrived, credentials: &Credentials) -> Option<Reply> {
    let right = basic_auth::is(call.header("authorization"), &credentials.tango_platform, &credentials.tango_key);
    (!right).then(|| fail((401, "unauthorized", "Unauthorized")))
}

fn wanted(call: &Arrived) -> Option<String> {
    let Query(query) = Query::<Map<String, Value>>::try_from_uri(&call.uri).ok()?;
    query.get("externalRefID").and_then(Value::as_str).map(str::to_owned)
}

/// `item` is the part that says what to buy: the order itself, or the line item of an asynchronous one.
fn order(body: &Value, item: &Value) -> Result<Order, Failure> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let reference = text(&body["externalRefID"]);
    if reference.is_empty() || reference.len() > 100 {
        return Err((400, "externalRefIDInvalid", "externalRefID must have 1 to 100 characters"));
    }
    let identifier = |value: &Value| {
        let id = text(value);
        let fits = (5..=100).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        fits.then_some(id)
    };
    let wrong = (400, "identifierInvalid", "customerIdentifier and accountIdentifier must match ^[-a-zA-Z0-9]{5,100}$");
    let customer = identifier(&body["customerIdentifier"]).ok_or(wrong)?;
    let account = identifier(&body["accountIdentifier"]).ok_or(wrong)?;
    let utid = text(&item["utid"]);
    let digits = utid.strip_prefix(['u', 'U']).unwrap_or_default();
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err((422, "utidInvalid", "utid must match ^[uU]\\d+$"));
    }
    let methods = ["NONE", "EMAIL", "PHONE", "ADDRESS", "EMBEDDED", "EMBEDDED_COMPONENT", "WHATSAPP"];
    if !methods.contains(&item["deliveryMethod"].as_str().unwrap_or_default()) {
        return Err((422, "deliveryMethodInvalid", "deliveryMethod is missing or unknown"));
    }
    let amount = item["amount"].as_f64().filter(|amount| amount.fract() == 0.0);
    // Whole, and within a million: exact as an integer.
    let amount = amount.map(|amount| amount as i64).filter(|amount| (1..=MOST).contains(amount));
    let amount = amount.ok_or((422, "amountInvalid", "amount must be 1 to 1000000 whole JPY"))?;
    Ok(Order {
        amount,
        content: sha256_hex(&sorted(body).to_string()),
        detail: json!({"utid": utid, "accountIdentifier": account, "customerIdentifier": customer}),
        queued: false,
    })
}

fn async_order(body: &Value) -> Result<Order, Failure> {
    let one = (422, "lineItemsInvalid", "this simulator takes exactly one line item of quantity 1");
    let items = body["lineItems"].as_array().map(Vec::as_slice).unwrap_or_default();
    let [item] = items else { return Err(one) };
    if item.get("quantity").is_some_and(|quantity| quantity.as_i64() != Some(1)) {
        return Err(one);
    }
    let mut order = order(body, item)?;
    order.queued = true;
    order.detail["asynchronous"] = true.into();
    Ok(order)
}

/// The same value with the keys of all objects in order, so that equal content gives an equal fingerprint.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().map(|(name, value)| (name.clone(), sorted(value))).collect();
            fields.sort_by(|a, b| a.0.cmp(&b.0));
            Value::Object(fields.into_iter().collect())
        }
        Value::Array(items) => items.iter().map(sorted).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
    }
}

pub fn act(cx: &mut CallContext<'_>, ask: &Ask) -> Reply {
    let refuse = |cx: &CallContext<'_>, failure: Failure| {
        cx.refused(failure.1);
        fail(failure)
    };
    match ask {
        Ask::Funds => account(cx),
        Ask::Inquire { card: Some(id) } => match cx.shop.card(id) {
            Some(card) => Reply::json(200, &order_view(cx, card)),
            None => not_found(true),
        },
        Ask::Inquire { card: None } => match cx.shop.of_trade(&cx.trade) {
            Some(card) => listed(vec![item_view(cx, card)]),
            None => not_found(false),
        },
        Ask::Issue(_) | Ask::Cancel { .. } if cx.shop.blocked => refuse(cx, STOPPED),
        Ask::Issue(order) => {
            if let Some(card) = cx.shop.of_trade(&cx.trade).cloned() {
                if card.order.content == order.content {
                    cx.replayed(&card);
                    return placed(cx, 200, &card);
                }
                cx.conflict(&card);
                return fail((409, "duplicateExists", "Conflict; Duplicate Exists"));
            }
            if order.amount > cx.shop.balance {
                return refuse(cx, SHORT);
            }
            let card = cx.issue(order);
            placed(cx, if order.queued { 202 } else { 201 }, &card)
        }
        Ask::Cancel { card } => {
            let Some(card) = card.as_ref().and_then(|id| cx.shop.card(id)).cloned() else {
                return refuse(cx, NO_CARD);
            };
            match card.state {
                State::Live => cx.void(&card.id),
                State::Voided => cx.replayed(&card),
                State::Accepted { .. } | State::Failed => return refuse(cx, NOT_CANCELLABLE),
            }
            Reply::json(202, &"Accepted".into())
        }
    }
}

/// A good answer to `op` about this order, for an inquiry `by_id` or by externalRefID.
pub fn about(cx: &CallContext<'_>, op: Op, by_id: bool, card: &Card) -> Reply {
    match op {
        Op::Issue => placed(cx, 201, card),
        Op::Inquire if by_id => Reply::json(200, &order_view(cx, card)),
        Op::Inquire => listed(vec![item_view(cx, card)]),
        Op::Cancel => Reply::json(202, &"Accepted".into()),
        Op::Funds => account(cx),
    }
}

fn placed(cx: &CallContext<'_>, status: u16, card: &Card) -> Reply {
    if card.order.detail["asynchronous"] == true {
        let body = json!({
            "externalRefID": card.trade,
            "status": reward_status(card),
            "totalLineItems": 1,
            "createdAt": created_at(card),
            "failedLineItems": [],
            "duplicateLineItemRefIds": {},
        });
        return Reply::json(status, &body);
    }
    Reply::json(status, &order_view(cx, card))
}

fn reward_status(card: &Card) -> &'static str {
    match card.state {
        State::Live => "COMPLETE",
        State::Voided => "CANCELLED",
        State::Failed => "FAILED",
        State::Accepted { .. } if card.order.detail["asynchronous"] == true => "QUEUED",
        State::Accepted { .. } => "PENDING",
    }
}

fn created_at(card: &Card) -> String {
    let at = i64::try_from(card.at_us).ok().and_then(DateTime::from_timestamp_micros);
    at.map(|at| at.to_rfc3339_opts(SecondsFormat::Millis, true)).unwrap_or_default()
}

fn order_view(cx: &CallContext<'_>, card: &Card) -> Value {
    let code = cx.code(card);
    let reward = match card.state {
        State::Live | State::Voided => json!({
            "credentials": {"Redemption Code": code},
            "credentialList": [
                {"label": "Redemption Code", "value": code, "type": "text", "credentialType": "redemptionCode"},
            ],
            "redemptionInstructions": "Enter the code at the shop.",
        }),
        State::Accepted { .. } | State::Failed => Value::Null,
    };
    let money = json!({
        "value": card.order.amount,
        "currencyCode": CURRENCY,
        "exchangeRate": 1,
        "fee": 0,
        "total": card.order.amount,
    });
    json!({
        "referenceOrderID": card.id.replacen("LI", "RA", 1),
        "referenceLineItemID": card.id,
        "externalRefID": card.trade,
        "customerIdentifier": card.order.detail["customerIdentifier"],
        "accountIdentifier": card.order.detail["accountIdentifier"],
        "amountCharged": money,
        "denomination": {"value": card.order.amount, "currencyCode": CURRENCY},
        "utid": card.order.detail["utid"],
        "rewardName": "Simulated reward",
        "status": reward_status(card),
        "createdAt": created_at(card),
        "reward": reward,
    })
}

/// The order as a list shows it.
fn item_view(cx: &CallContext<'_>, card: &Card) -> Value {
    let mut order = order_view(cx, card);
    if let Some(order) = order.as_object_mut() {
        order.retain(|field, _| !["reward", "referenceLineItemID"].contains(&field.as_str()));
    }
    order
}

fn listed(orders: Vec<Value>) -> Reply {
    let count = orders.len();
    let page = json!({
        "number": 0,
        "elementsPerBlock": 100,
        "resultCount": count,
        "totalCount": count,
    });
    Reply::json(200, &json!({"page": page, "orders": orders}))
}

fn account(cx: &CallContext<'_>) -> Reply {
    let body = json!({
        "accountIdentifier": "simulated",
        "accountNumber": "A00000001",
        "displayName": "Simulated account",
        "currencyCode": CURRENCY,
        "currentBalance": cx.shop.balance,
        "createdAt": "2026-01-01T00:00:00.000Z",
        "status": if cx.shop.blocked { "SUSPENDED" } else { "ACTIVE" },
    });
    Reply::json(200, &body)
}

pub fn throttled() -> Reply {
    fail((429, "tooManyRequests", "Exceeded the allowable TPS rate limit"))
}

pub fn typed_error() -> Reply {
    fail((503, "serviceUnavailable", "Service Unavailable"))
}

/// Of an inquiry `by_id`, or by externalRefID.
pub fn not_found(by_id: bool) -> Reply {
    if by_id { fail(NO_ORDER) } else { listed(Vec::new()) }
}
