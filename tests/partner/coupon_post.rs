//! Coupon Post, which is nobody: a gift partner by its file and its line in the catalogue, as any other is added. It is in the catalogue of the
//! library's own tests alone; the settings read it, the offers list it, and the conformance suite runs on it, which is what this file is for.
//!
//! `Authorization: Bearer`. `POST /coupons {id, value, currency}` → 201 `{id, state: "live", serial, code, value, currency}`, the same again
//! under the same id; `GET /coupons/{id}` → 200 the same, or 404 `{error: "unknown"}`. It cannot cancel.
//!
//! | asked | answer | whose fact | comes to |
//! |---|---|---|---|
//! | issue | 201 and a whole card of this trade | message | issued |
//! | issue | 409 {"error":"another_value"} | message | in doubt, parked: the id is another gift's |
//! | issue | 401 {"error":"token"} | account | retry; lane closed: credentials |
//! | issue | 402 {"error":"balance"} | account | retry; lane closed: funds |
//! | issue | 429 {"error":"slower"} | account | retry; lane throttled for 5 s |
//! | issue | 404 {"error":"unknown"} | network | in doubt |
//! | issue | 500 {"error":"token"} | network | in doubt |
//! | issue | 201 {"error":"balance"} | network | in doubt |
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
//! | inquire | 201 and a whole card of this trade; 409 {"error":"another_value"} | message | asked again |
//! | inquire | 401 {"error":"token"} | account | asked again; lane closed: credentials |
//! | inquire | 402 {"error":"balance"}; 500 {"error":"token"}; 201 {"error":"balance"}; 200, 201 or 202 with a page or without a body; 200 that ends early; 300 to 308, to another host: it is not followed; 400 to 499 but 429, known or not, with a page or without a body, such as 401, 403, 407, 413, 421, 426, 431, 451; 500 to 599 with a page or without a body; 503 with Retry-After: soon, -5 or 0; 502 or 504 with any; no HTTP at all; cut after the request; none in time | network | asked again |
//! | inquire | 429 {"error":"slower"}; 429 with a page; 429 with a page, Retry-After: soon, -5 or 0 | account | asked again; lane throttled for 5 s |
//! | inquire | 404 {"error":"unknown"} | network | not found |
//! | inquire | 429 with a page, Retry-After: 17; 503 with Retry-After: 17 | account | asked again; lane throttled for 17 s |
//! | inquire | 429 with a page, Retry-After: a date 43 s after its own | account | asked again; lane throttled for 43 s |
//! | inquire | 429 with a page, Retry-After: 99999999999999999999; 503 with Retry-After: 99999999999999999999 | account | asked again; lane throttled for 3600 s |
//! | connecting | nobody listens | network | retry |
//! | connecting | plain HTTP where TLS is to be | account | retry; lane closed: tls_failed |

use std::{path::PathBuf, sync::Arc, time::Duration};

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
        conformance::{CODE, Fixture, Question},
        http::{Answer, Gate, Http, Reply},
        secret::secret,
        wire::{Code, is_exactly, major_units},
    },
    vault::{SealedAt, Vault},
};

const NAME: &str = "coupon_post";

const DEFAULTS: Defaults = Defaults {
    provider: NAME,
    connect_timeout: Duration::from_secs(8),
    read_timeout: Duration::from_secs(15),
    timeout: Duration::from_secs(25),
    settle_seconds: 60,
    horizon_seconds: 60 * 60,
    poll_seconds: 30,
    calls_per_second: 3,
};

const THROTTLED: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Token {
    /// The file with the token.
    pub token_file: PathBuf,
}

pub struct CouponPost {
    http: Http,
    token: SecretString,
    vault: Arc<Vault>,
    terms: Terms,
}

#[derive(Deserialize)]
struct Coupon {
    id: String,
    state: String,
    serial: String,
    code: Code,
    value: f64,
    currency: String,
}

/// What went wrong, in the partner's own words.
#[derive(Deserialize)]
struct Failure {
    error: String,
}

impl CouponPost {
    async fn call(&self, request: reqwest::RequestBuilder, gate: &Gate) -> Answer {
        self.http.send(request.bearer_auth(self.token.expose_secret()), gate).await
    }

    /// A whole coupon of this trade; `Err` where it is ours and of another value.
    fn coupon(&self, reply: &Reply, args: &Args, trade: &Trade) -> Option<Result<Gift, ()>> {
        let coupon = reply.body.json::<Coupon>().filter(|coupon| coupon.id == trade.id && coupon.state == "live")?;
        if coupon.serial.is_empty() || coupon.code.0.expose_secret().is_empty() {
            return None;
        }
        if !is_exactly(coupon.value, &coupon.currency, args.value) {
            return Some(Err(()));
        }
        let place = SealedAt { grant: &args.grant, provider: NAME, column: "gift_code" };
        Some(Ok(Gift { card: coupon.serial, code: Some(self.vault.seal(&place, &coupon.code.0)) }))
    }
}

fn failure(reply: &Reply) -> Option<String> {
    reply.body.json::<Failure>().map(|failure| failure.error)
}

impl GiftProvider for CouponPost {
    fn terms(&self) -> &Terms {
        &self.terms
    }

    fn issue<'a>(&'a self, args: &'a Args, trade: &'a Trade, gate: &'a Gate) -> Call<'a, Issue> {
        Box::pin(async move {
            if self.offer(&args.category, args.value).is_err() {
                return Issue::Refused("NotOffered".to_owned());
            }
            let (value, currency) = (major_units(args.value), args.value.currency.code());
            let body = json!({"id": trade.id, "value": value, "currency": currency});
            let reply = match self.call(self.http.request(Method::POST, &["coupons"]).json(&body), gate).await {
                Answer::Reply(reply) => reply,
                Answer::NotSent => return Issue::NotSent,
                Answer::Unknown => return Issue::Unknown,
            };
            match (reply.status, failure(&reply).as_deref()) {
                (StatusCode::CREATED, None) => match self.coupon(&reply, args, trade) {
                    Some(Ok(gift)) => Issue::Issued(gift),
                    Some(Err(())) | None => Issue::Unknown,
                },
                (StatusCode::CONFLICT, Some("another_value")) => Issue::Conflict,
                (StatusCode::UNAUTHORIZED, Some("token")) => Issue::BadCredentials,
                (StatusCode::PAYMENT_REQUIRED, Some("balance")) => Issue::OutOfFunds,
                (StatusCode::TOO_MANY_REQUESTS, Some("slower")) => Issue::Throttled(reply.wait_or(THROTTLED)),
                _ => Issue::Unknown,
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
            let reply = match self.call(self.http.request(Method::GET, &["coupons", &trade.id]), gate).await {
                Answer::Reply(reply) => reply,
                Answer::NotSent | Answer::Unknown => return Inquiry::NoAnswer,
            };
            match (reply.status, failure(&reply).as_deref()) {
                (StatusCode::OK, None) => match self.coupon(&reply, args, trade) {
                    Some(Ok(gift)) => Inquiry::Live(gift),
                    Some(Err(())) => Inquiry::Conflict,
                    None => Inquiry::NoAnswer,
                },
                (StatusCode::NOT_FOUND, Some("unknown")) => Inquiry::NotFound,
                (StatusCode::UNAUTHORIZED, Some("token")) => Inquiry::BadCredentials,
                (StatusCode::TOO_MANY_REQUESTS, _) => Inquiry::Throttled(reply.wait_or(THROTTLED)),
                _ => Inquiry::NoAnswer,
            }
        })
    }

    fn cancel<'a>(&'a self, _: &'a Args, _: &'a Trade, _: Option<&'a str>, _: &'a Gate) -> Call<'a, Cancel> {
        Box::pin(async { Cancel::Refused })
    }

    fn funds<'a>(&'a self, _: &'a Gate) -> Call<'a, Funds> {
        Box::pin(async { Funds::NoAnswer })
    }
}

impl Adapter for CouponPost {
    const DEFAULTS: Defaults = DEFAULTS;
    type Credentials = Token;

    fn sells(account: &Account<Token>) -> anyhow::Result<Vec<Offer>> {
        account.offers(&DEFAULTS, &[Currency::Jpy])
    }

    fn open(account: &Account<Token>, vault: &Arc<Vault>) -> anyhow::Result<Self> {
        Ok(CouponPost {
            http: account.http(&DEFAULTS)?,
            token: secret(NAME, "token", &account.credentials.token_file)?,
            vault: Arc::clone(vault),
            terms: Terms {
                name: NAME,
                trade_prefix: "C".to_owned(),
                contract: account.contract(&DEFAULTS, true, true, false),
                budgets: account.budgets(&DEFAULTS),
                code_policy: CodePolicy::Sealed,
                offers: Self::sells(account)?,
            },
        })
    }

    const FIXTURE: Fixture = Fixture {
        credentials: r#"token_file = "{key}""#,
        secret: "s3cr3t-coupon",
        product: "",
        issued: |trade| {
            let body =
                json!({"id": trade, "state": "live", "serial": "S1", "code": CODE, "value": 1000, "currency": "JPY"});
            (StatusCode::CREATED, body)
        },
        questions: &[Question { reference: None, answer: |body| body }],
        needed: &["/id", "/state", "/serial", "/code", "/value", "/currency"],
        decisive: &["/id", "/state", "/value", "/currency"],
    };
}

#[tokio::test]
async fn the_table_is_what_the_code_does() {
    use crate::partners::{
        conformance::answers::{Row, draw_issue},
        whose::Whose::{Account, Message, Network},
    };
    let rows = [
        (409, "another_value", Message),
        (401, "token", Account),
        (402, "balance", Account),
        (429, "slower", Account),
        (404, "unknown", Network),
        (500, "token", Network),
        (201, "balance", Network),
    ]
    .map(|(status, error, whose)| Row::said(status, &json!({"error": error}).to_string(), whose));
    draw_issue(NAME, "tests/partner/coupon_post.rs", rows.into()).await;
}
