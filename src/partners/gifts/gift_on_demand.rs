//! Gift on demand: the contract of providers in the way of Gods and Digico, whose interfaces are not public.
//!
//! Known are the words only: the caller makes the tradeId, issuing (発券) and inquiry (照会) are separate. So this is the
//! strictest reading: the tradeId is *not* an idempotency key, and a second issue with it issues a second gift. Any
//! answer to an issue that is not plainly a refusal is therefore unknown, and only the inquiry may resolve it.
//!
//! `X-Api-Key`. `POST /v1/gifts {tradeId, product, faceValue, currency}` → 200 `{tradeId, status: "ISSUED", giftId,
//! giftCode, faceValue, currency, validUntil}` or 202 `{tradeId, status: "PROCESSING"}`; `GET /v1/gifts/{tradeId}` → 200 the
//! same, or `status: "FAILED"`, or 404; `GET /v1/balance` → `{balance, currency}`. Errors `{resultCode, message}`: E1xx input,
//! E2xx funds, E3xx key and account, E404, E429, E5xx. Amounts are whole yen. No source: 5 calls a second, settling
//! within 5 minutes.
//!
//! Whose fact each answer is, as the code reads it:
//!
//! | asked | answer | whose fact | comes to |
//! |---|---|---|---|
//! | issue | 200 and a whole card of this trade | message | issued |
//! | issue | 200 PROCESSING, of this trade | message | accepted, not ready |
//! | issue | 200 FAILED, of this trade | message | refused (FAILED) |
//! | issue | 200 SHIPPED, of this trade | network | in doubt |
//! | issue | 200 {"tradeId":"OTHER","status":"FAILED"} | network | in doubt |
//! | issue | 400 {"resultCode":"E101"} | message | refused (E101) |
//! | issue | 402 {"resultCode":"E201"} | account | retry; lane closed: funds |
//! | issue | 401 {"resultCode":"E301"} | account | retry; lane closed: credentials |
//! | issue | 403 {"resultCode":"E302"} | account | retry; lane closed: credentials |
//! | issue | 429 {"resultCode":"E429"} | account | retry; lane throttled for 5 s |
//! | issue | 404 {"resultCode":"E404"} | network | in doubt |
//! | issue | 400 {"resultCode":"E500"} | network | in doubt |
//! | issue | 400 {"resultCode":"E999"} | network | in doubt |
//! | issue | 409 {"resultCode":"E101"} | network | in doubt |
//! | issue | 401 {"resultCode":"E101"} | network | in doubt |
//! | issue | 403 {"resultCode":"E201"} | network | in doubt |
//! | issue | 500 {"resultCode":"E101"} | network | in doubt |
//! | issue | 500 {"resultCode":"E500"} | network | in doubt |
//! | issue | 503 {"resultCode":"E429"} | network | in doubt |
//! | issue | 200 {"resultCode":"E101"} | network | in doubt |
//! | issue | 200, 201 or 202 with a page or without a body | network | in doubt |
//! | issue | 200 that ends early | network | in doubt |
//! | issue | 300 to 308, to another host: it is not followed | network | in doubt |
//! | issue | 400 to 499 but 429, known or not, with a page or without a body, such as 401, 403, 407, 413, 421, 426, 431, 451 | network | in doubt |
//! | issue | 429 with a page | account | in doubt; lane throttled for 5 s |
//! | issue | 429 with a page, Retry-After: 17 | account | in doubt; lane throttled for 17 s |
//! | issue | 429 with a page, Retry-After: a date 43 s after its own | account | in doubt; lane throttled for 43 s |
//! | issue | 429 with a page, Retry-After: soon, -5 or 0 | account | in doubt; lane throttled for 5 s |
//! | issue | 429 with a page, Retry-After: 99999999999999999999 | account | in doubt; lane throttled for 3600 s |
//! | issue | 500 to 599 with a page or without a body | network | in doubt |
//! | issue | 503 with Retry-After: 17 | account | in doubt; lane throttled for 17 s |
//! | issue | 503 with Retry-After: 99999999999999999999 | account | in doubt; lane throttled for 3600 s |
//! | issue | 503 with Retry-After: soon, -5 or 0; 502 or 504 with any | network | in doubt |
//! | issue | no HTTP at all | network | in doubt |
//! | issue | cut after the request | network | in doubt |
//! | issue | none in time | network | in doubt |
//! | inquire | 200 and a whole card of this trade | message | issued |
//! | inquire | 200 PROCESSING, of this trade | message | accepted, not ready |
//! | inquire | 200 FAILED, of this trade | message | given up by the partner (FAILED) |
//! | inquire | 200 SHIPPED, of this trade; 200 {"tradeId":"OTHER","status":"FAILED"}; 402 {"resultCode":"E201"}; 400 {"resultCode":"E500"}; 400 {"resultCode":"E999"}; 409 {"resultCode":"E101"}; 401 {"resultCode":"E101"}; 403 {"resultCode":"E201"}; 500 {"resultCode":"E101"}; 500 {"resultCode":"E500"}; 503 {"resultCode":"E429"}; 200 {"resultCode":"E101"}; 200, 201 or 202 with a page or without a body; 200 that ends early; 300 to 308, to another host: it is not followed; 400 to 499 but 429, known or not, with a page or without a body, such as 401, 403, 407, 413, 421, 426, 431, 451; 500 to 599 with a page or without a body; 503 with Retry-After: soon, -5 or 0; 502 or 504 with any; no HTTP at all; cut after the request; none in time | network | asked again |
//! | inquire | 400 {"resultCode":"E101"} | message | asked again |
//! | inquire | 401 {"resultCode":"E301"}; 403 {"resultCode":"E302"} | account | asked again; lane closed: credentials |
//! | inquire | 429 {"resultCode":"E429"}; 429 with a page; 429 with a page, Retry-After: soon, -5 or 0 | account | asked again; lane throttled for 5 s |
//! | inquire | 404 {"resultCode":"E404"} | network | not found |
//! | inquire | 429 with a page, Retry-After: 17; 503 with Retry-After: 17 | account | asked again; lane throttled for 17 s |
//! | inquire | 429 with a page, Retry-After: a date 43 s after its own | account | asked again; lane throttled for 43 s |
//! | inquire | 429 with a page, Retry-After: 99999999999999999999; 503 with Retry-After: 99999999999999999999 | account | asked again; lane throttled for 3600 s |
//! | connecting | nobody listens | network | retry |
//! | connecting | plain HTTP where TLS is to be | account | retry; lane closed: tls_failed |

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::ensure;
use http::{Method, StatusCode};
use noshi_jobs::{
    gift_issuance::{Args, Cancel, Gift, Inquiry, Issue, Trade},
    machine::Call,
    money::Currency,
};
use schemars::JsonSchema;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::json;

use super::{
    Adapter, CodePolicy, Funds, GiftProvider, Offer, Terms,
    settings::{Account, Defaults},
};
use crate::{
    partners::{
        http::{Answer, Gate, Http, Reply},
        secret::secret,
        wire::{Code, is_exactly, major_units, money, reason},
    },
    vault::{SealedAt, Vault},
};

pub const NAME: &str = "gift_on_demand";

const DEFAULTS: Defaults = Defaults {
    provider: NAME,
    connect_timeout: Duration::from_secs(8),
    read_timeout: Duration::from_secs(15),
    timeout: Duration::from_secs(25),
    settle_seconds: 5 * 60,
    // No replay, so nothing is ever sent again under the same id.
    horizon_seconds: 0,
    poll_seconds: 30,
    calls_per_second: 5,
};

/// Where E429 comes without a Retry-After.
const THROTTLED: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ApiKey {
    /// The file with the key.
    pub api_key_file: PathBuf,
}

pub struct GiftOnDemand {
    http: Http,
    api_key: SecretString,
    vault: Arc<Vault>,
    terms: Terms,
}

impl GiftOnDemand {
    fn request(&self, method: Method, path: &[&str]) -> reqwest::RequestBuilder {
        self.http.request(method, path).header("x-api-key", sensitive(&self.api_key))
    }

    /// The trade as an answer shows it, if the answer is whole and about this trade.
    fn trade(&self, reply: &Reply, args: &Args, trade: &Trade) -> Option<TradeStatus> {
        let wire = reply.body.json::<Wire>().filter(|wire| wire.trade_id.as_deref() == Some(trade.id.as_str()))?;
        match wire.status.as_deref()? {
            "PROCESSING" => Some(TradeStatus::Processing),
            "FAILED" => {
                Some(TradeStatus::Failed(reason(wire.result_code.as_deref()).unwrap_or_else(|| "FAILED".to_owned())))
            }
            "ISSUED" => {
                let card = wire.gift_id.filter(|card| !card.is_empty())?;
                let Code(code) = wire.gift_code.filter(|code| !code.0.expose_secret().is_empty())?;
                // Ours, and of another value: whatever it is, a person has to look.
                if !is_exactly(wire.face_value?, wire.currency.as_deref()?, args.value) {
                    return Some(TradeStatus::Other);
                }
                let place = SealedAt { grant: &args.grant, provider: NAME, column: "gift_code" };
                Some(TradeStatus::Issued(Gift { card, code: Some(self.vault.seal(&place, &code)) }))
            }
            _ => None,
        }
    }
}

/// As a header value that no Debug output shows. The settings have checked that it can be one.
fn sensitive(secret: &SecretString) -> http::HeaderValue {
    let mut value = http::HeaderValue::from_str(secret.expose_secret()).unwrap_or(http::HeaderValue::from_static(""));
    value.set_sensitive(true);
    value
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire {
    trade_id: Option<String>,
    status: Option<String>,
    gift_id: Option<String>,
    gift_code: Option<Code>,
    face_value: Option<f64>,
    currency: Option<String>,
    result_code: Option<String>,
}

#[derive(Deserialize)]
struct Balance {
    balance: f64,
    currency: String,
}

enum TradeStatus {
    Issued(Gift),
    Processing,
    Failed(String),
    /// Issued under our id, with another value.
    Other,
}

enum Refusal {
    Throttled(Duration),
    /// E1xx: this request, whenever it comes.
    Input(String),
    Funds,
    Credentials,
    NotFound,
    Unclear,
}

/// An error counts for what it says only if status and resultCode agree: a gateway's page says nothing of the trade, and a gateway's 429
/// may come for a call that it has passed on.
fn refusal(reply: &Reply) -> Refusal {
    let code = reply.body.json::<Wire>().and_then(|wire| reason(wire.result_code.as_deref())).unwrap_or_default();
    match (reply.status, code.as_bytes()) {
        (StatusCode::BAD_REQUEST, [b'E', b'1', ..]) => Refusal::Input(code),
        (StatusCode::PAYMENT_REQUIRED, [b'E', b'2', ..]) => Refusal::Funds,
        (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, [b'E', b'3', ..]) => Refusal::Credentials,
        (StatusCode::NOT_FOUND, b"E404") => Refusal::NotFound,
        (StatusCode::TOO_MANY_REQUESTS, b"E429") => Refusal::Throttled(reply.wait_or(THROTTLED)),
        _ => Refusal::Unclear,
    }
}

impl GiftProvider for GiftOnDemand {
    fn terms(&self) -> &Terms {
        &self.terms
    }

    fn issue<'a>(&'a self, args: &'a Args, trade: &'a Trade, gate: &'a Gate) -> Call<'a, Issue> {
        Box::pin(async move {
            let Ok(offer) = self.offer(&args.category, args.value) else {
                return Issue::Refused("NotOffered".to_owned());
            };
            let body = json!({
                "tradeId": trade.id,
                "product": offer.product,
                "faceValue": major_units(args.value),
                "currency": args.value.currency.code(),
            });
            let request = self.request(Method::POST, &["v1", "gifts"]).json(&body);
            let reply = match self.http.send(request, gate).await {
                Answer::Reply(reply) => reply,
                Answer::NotSent => return Issue::NotSent,
                Answer::Unknown => return Issue::Unknown,
            };
            if matches!(reply.status, StatusCode::OK | StatusCode::ACCEPTED) {
                return match self.trade(&reply, args, trade) {
                    Some(TradeStatus::Issued(gift)) => Issue::Issued(gift),
                    Some(TradeStatus::Processing) => Issue::Pending,
                    Some(TradeStatus::Failed(reason)) => Issue::Refused(reason),
                    // An inquiry decides: this answer may be garbled.
                    Some(TradeStatus::Other) => Issue::Unknown,
                    None => Issue::Unknown,
                };
            }
            match refusal(&reply) {
                Refusal::Throttled(wait) => Issue::Throttled(wait),
                Refusal::Input(code) => Issue::Refused(code),
                Refusal::Funds => Issue::OutOfFunds,
                Refusal::Credentials => Issue::BadCredentials,
                Refusal::NotFound | Refusal::Unclear => Issue::Unknown,
            }
        })
    }

    fn inquire<'a>(
        &'a self,
        args: &'a Args,
        trade: &'a Trade,
        _: Option<&'a str>,
        gate: &'a Gate,
    ) -> Call<'a, Inquiry> {
        Box::pin(async move {
            let request = self.request(Method::GET, &["v1", "gifts", &trade.id]);
            let reply = match self.http.send(request, gate).await {
                Answer::Reply(reply) => reply,
                Answer::NotSent | Answer::Unknown => return Inquiry::NoAnswer,
            };
            if reply.status == StatusCode::OK {
                return match self.trade(&reply, args, trade) {
                    Some(TradeStatus::Issued(gift)) => Inquiry::Live(gift),
                    Some(TradeStatus::Processing) => Inquiry::Pending,
                    Some(TradeStatus::Failed(reason)) => Inquiry::Failed(reason),
                    Some(TradeStatus::Other) => Inquiry::Conflict,
                    None => Inquiry::NoAnswer,
                };
            }
            // Whoever says it: a question had no effect that it could hide.
            if reply.status == StatusCode::TOO_MANY_REQUESTS {
                return Inquiry::Throttled(reply.wait_or(THROTTLED));
            }
            match refusal(&reply) {
                Refusal::Throttled(wait) => Inquiry::Throttled(wait),
                Refusal::Credentials => Inquiry::BadCredentials,
                Refusal::NotFound => Inquiry::NotFound,
                Refusal::Input(_) | Refusal::Funds | Refusal::Unclear => Inquiry::NoAnswer,
            }
        })
    }

    fn cancel<'a>(&'a self, _: &'a Args, _: &'a Trade, _: Option<&'a str>, _: &'a Gate) -> Call<'a, Cancel> {
        Box::pin(async { Cancel::Refused })
    }

    fn funds<'a>(&'a self, gate: &'a Gate) -> Call<'a, Funds> {
        Box::pin(async move {
            match self.http.send(self.request(Method::GET, &["v1", "balance"]), gate).await {
                Answer::Reply(reply) if reply.status == StatusCode::OK => reply
                    .body
                    .json::<Balance>()
                    .and_then(|funds| money(funds.balance, &funds.currency))
                    .map_or(Funds::NoAnswer, Funds::Available),
                Answer::Reply(reply) => match refusal(&reply) {
                    Refusal::Throttled(wait) => Funds::Throttled(wait),
                    Refusal::Credentials => Funds::BadCredentials,
                    Refusal::Input(_) | Refusal::Funds | Refusal::NotFound | Refusal::Unclear => Funds::NoAnswer,
                },
                Answer::NotSent | Answer::Unknown => Funds::NoAnswer,
            }
        })
    }
}

impl Adapter for GiftOnDemand {
    const DEFAULTS: Defaults = DEFAULTS;
    type Credentials = ApiKey;

    fn sells(account: &Account<ApiKey>) -> anyhow::Result<Vec<Offer>> {
        let offers = account.offers(&DEFAULTS, &[Currency::Jpy])?;
        for offer in &offers {
            ensure!(!offer.product.is_empty(), "the range of `{}` at {NAME} needs a `product`", offer.category);
        }
        Ok(offers)
    }

    fn open(account: &Account<ApiKey>, vault: &Arc<Vault>) -> anyhow::Result<Self> {
        let offers = Self::sells(account)?;
        Ok(GiftOnDemand {
            http: account.http(&DEFAULTS)?,
            api_key: secret(NAME, "API key", &account.credentials.api_key_file)?,
            vault: Arc::clone(vault),
            terms: Terms {
                name: NAME,
                trade_prefix: "G".to_owned(),
                contract: account.contract(&DEFAULTS, false, true, false),
                budgets: account.budgets(&DEFAULTS),
                code_policy: CodePolicy::Sealed,
                offers,
            },
        })
    }

    #[cfg(test)]
    const FIXTURE: Fixture = Fixture {
        credentials: r#"api_key_file = "{key}""#,
        secret: "s3cr3t-gift",
        product: "COFFEE",
        issued: |trade| {
            let body = json!({
                "tradeId": trade,
                "status": "ISSUED",
                "giftId": "G1",
                "giftCode": CODE,
                "faceValue": 1000,
                "currency": "JPY",
                "validUntil": "2030-01-31",
            });
            (StatusCode::OK, body)
        },
        questions: &[Question { reference: None, answer: |body| body }],
        needed: &["/tradeId", "/status", "/giftId", "/giftCode", "/faceValue", "/currency"],
        decisive: &["/tradeId", "/status", "/faceValue", "/currency"],
    };
}

#[cfg(test)]
use crate::partners::conformance::{CODE, Fixture, Question};

#[cfg(test)]
mod tests;
