//! Tango Card RaaS v2: one reward in one order.
//!
//! Source: the vendor's OpenAPI document, as republished. `externalRefID` dedups: `POST /orders` → 201 new, 200 the existing
//! order, 202 accepted, 409 the same id with other content, 402 insufficient funds. One call a second on all endpoints.
//! The list of orders by externalRefID is a pure inquiry. As documented its items carry neither the code nor the id of the
//! line item, so a finished order is only `Known` by it, and the next inquiry reads that order by its own id.
//! `POST /lineItems/{ref}/cancel` → 202: accepted, and done when an inquiry shows it.
//!
//! The card is the line item, since that is what can be cancelled; where an order names none, its own id stands in, which a
//! cancel is refused for. Without a card a cancel makes no call and is refused, so that a person is asked: an inquiry
//! (`inquire`) finds the card, and the gift can be cancelled then.
//!
//! Assumed: an unanswered call lands within a minute; an externalRefID is remembered for at least a day; 400 and 422 with
//! the vendor's error body had no effect; CANCELLED, DELETED and RETURNED leave a code that cannot be used.
//!
//! Whose fact each answer is, as the code reads it:
//!
//! | asked | answer | whose fact | comes to |
//! |---|---|---|---|
//! | issue | 201 and a whole card of this trade | message | issued |
//! | issue | 200 PENDING, of this trade | message | accepted, not ready |
//! | issue | 201 PENDING, of this trade | message | accepted, not ready |
//! | issue | 202 PENDING, of this trade | message | accepted, not ready |
//! | issue | 200 ON_HOLD, of this trade | message | accepted, not ready |
//! | issue | 201 ON_HOLD, of this trade | message | accepted, not ready |
//! | issue | 202 ON_HOLD, of this trade | message | accepted, not ready |
//! | issue | 200 PENDING_PAYMENT, of this trade | message | accepted, not ready |
//! | issue | 201 PENDING_PAYMENT, of this trade | message | accepted, not ready |
//! | issue | 202 PENDING_PAYMENT, of this trade | message | accepted, not ready |
//! | issue | 200 FAILED, of this trade | message | refused (FAILED) |
//! | issue | 201 FAILED, of this trade | message | refused (FAILED) |
//! | issue | 202 FAILED, of this trade | message | refused (FAILED) |
//! | issue | 200 CANCELLED, of this trade | message | void: a dead card |
//! | issue | 201 CANCELLED, of this trade | message | void: a dead card |
//! | issue | 202 CANCELLED, of this trade | message | void: a dead card |
//! | issue | 200 PARTIAL, of this trade | network | in doubt |
//! | issue | 201 PARTIAL, of this trade | network | in doubt |
//! | issue | 202 PARTIAL, of this trade | network | in doubt |
//! | issue | 200 SOMETHING_NEW, of this trade | network | in doubt |
//! | issue | 201 SOMETHING_NEW, of this trade | network | in doubt |
//! | issue | 202 SOMETHING_NEW, of this trade | network | in doubt |
//! | issue | 400 {"httpCode":400,"i18nKey":"identifierInvalid"} | message | refused (400 identifierInvalid) |
//! | issue | 422 {"httpCode":422,"i18nKey":"utidInvalid"} | message | refused (422 utidInvalid) |
//! | issue | 409 {"httpCode":409,"i18nKey":"duplicateExists"} | message | in doubt, parked: the id is another gift's |
//! | issue | 401 {"httpCode":401,"i18nKey":"unauthorized"} | account | retry; lane closed: credentials |
//! | issue | 403 {"httpCode":403,"i18nKey":"accountStopped"} | account | retry; lane closed: credentials |
//! | issue | 402 {"httpCode":402,"i18nKey":"insufficientFunds"} | account | retry; lane closed: funds |
//! | issue | 429 {"httpCode":429,"i18nKey":"tooManyRequests"} | account | retry; lane throttled for 2 s |
//! | issue | 404 {"httpCode":404,"i18nKey":"notFound"} | network | in doubt |
//! | issue | 413 {"httpCode":413,"i18nKey":"tooLarge"} | network | in doubt |
//! | issue | 418 {"httpCode":418,"i18nKey":"somethingNew"} | network | in doubt |
//! | issue | 500 {"httpCode":500,"i18nKey":"error"} | network | in doubt |
//! | issue | 503 {"httpCode":503,"i18nKey":"serviceUnavailable"} | network | in doubt |
//! | issue | 200 {"httpCode":200,"i18nKey":"identifierInvalid"} | network | in doubt |
//! | issue | 422 {"httpCode":400} | network | in doubt |
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
//! | inquire | 201 and a whole card of this trade; 201 PENDING, of this trade; 202 PENDING, of this trade; 201 ON_HOLD, of this trade; 202 ON_HOLD, of this trade; 201 PENDING_PAYMENT, of this trade; 202 PENDING_PAYMENT, of this trade; 201 FAILED, of this trade; 202 FAILED, of this trade; 201 CANCELLED, of this trade; 202 CANCELLED, of this trade; 400 {"httpCode":400,"i18nKey":"identifierInvalid"}; 422 {"httpCode":422,"i18nKey":"utidInvalid"}; 409 {"httpCode":409,"i18nKey":"duplicateExists"} | message | asked again |
//! | inquire | 200 PENDING, of this trade; 200 ON_HOLD, of this trade; 200 PENDING_PAYMENT, of this trade | message | accepted, not ready |
//! | inquire | 200 FAILED, of this trade | message | given up by the partner (FAILED) |
//! | inquire | 200 CANCELLED, of this trade | message | void |
//! | inquire | 200 PARTIAL, of this trade; 201 PARTIAL, of this trade; 202 PARTIAL, of this trade; 200 SOMETHING_NEW, of this trade; 201 SOMETHING_NEW, of this trade; 202 SOMETHING_NEW, of this trade; 402 {"httpCode":402,"i18nKey":"insufficientFunds"}; 404 {"httpCode":404,"i18nKey":"notFound"}; 413 {"httpCode":413,"i18nKey":"tooLarge"}; 418 {"httpCode":418,"i18nKey":"somethingNew"}; 500 {"httpCode":500,"i18nKey":"error"}; 503 {"httpCode":503,"i18nKey":"serviceUnavailable"}; 200 {"httpCode":200,"i18nKey":"identifierInvalid"}; 422 {"httpCode":400}; 200, 201 or 202 with a page or without a body; 200 that ends early; 300 to 308, to another host: it is not followed; 400 to 499 but 429, known or not, with a page or without a body, such as 401, 403, 407, 413, 421, 426, 431, 451; 500 to 599 with a page or without a body; 503 with Retry-After: soon, -5 or 0; 502 or 504 with any; no HTTP at all; cut after the request; none in time | network | asked again |
//! | inquire | 401 {"httpCode":401,"i18nKey":"unauthorized"}; 403 {"httpCode":403,"i18nKey":"accountStopped"} | account | asked again; lane closed: credentials |
//! | inquire | 429 {"httpCode":429,"i18nKey":"tooManyRequests"}; 429 with a page; 429 with a page, Retry-After: soon, -5 or 0 | account | asked again; lane throttled for 2 s |
//! | inquire | 429 with a page, Retry-After: 17; 503 with Retry-After: 17 | account | asked again; lane throttled for 17 s |
//! | inquire | 429 with a page, Retry-After: a date 43 s after its own | account | asked again; lane throttled for 43 s |
//! | inquire | 429 with a page, Retry-After: 99999999999999999999; 503 with Retry-After: 99999999999999999999 | account | asked again; lane throttled for 3600 s |
//! | cancel | 201 and a whole card of this trade; 200 PENDING, of this trade; 201 PENDING, of this trade; 200 ON_HOLD, of this trade; 201 ON_HOLD, of this trade; 200 PENDING_PAYMENT, of this trade; 201 PENDING_PAYMENT, of this trade; 200 FAILED, of this trade; 201 FAILED, of this trade; 200 CANCELLED, of this trade; 201 CANCELLED, of this trade; 409 {"httpCode":409,"i18nKey":"duplicateExists"} | message | retry, under the same id |
//! | cancel | 202 PENDING, of this trade; 202 ON_HOLD, of this trade; 202 PENDING_PAYMENT, of this trade; 202 FAILED, of this trade; 202 CANCELLED, of this trade | message | taken, and waited for |
//! | cancel | 200 PARTIAL, of this trade; 201 PARTIAL, of this trade; 200 SOMETHING_NEW, of this trade; 201 SOMETHING_NEW, of this trade; 402 {"httpCode":402,"i18nKey":"insufficientFunds"}; 404 {"httpCode":404,"i18nKey":"notFound"}; 413 {"httpCode":413,"i18nKey":"tooLarge"}; 418 {"httpCode":418,"i18nKey":"somethingNew"}; 500 {"httpCode":500,"i18nKey":"error"}; 503 {"httpCode":503,"i18nKey":"serviceUnavailable"}; 200 {"httpCode":200,"i18nKey":"identifierInvalid"}; 422 {"httpCode":400}; 200, 201 or 202 with a page or without a body; 200 that ends early; 300 to 308, to another host: it is not followed; 400 to 499 but 429, known or not, with a page or without a body, such as 401, 403, 407, 413, 421, 426, 431, 451; 500 to 599 with a page or without a body; 503 with Retry-After: soon, -5 or 0; 502 or 504 with any; no HTTP at all; cut after the request; none in time | network | retry, under the same id |
//! | cancel | 202 PARTIAL, of this trade; 202 SOMETHING_NEW, of this trade | network | taken, and waited for |
//! | cancel | 400 {"httpCode":400,"i18nKey":"identifierInvalid"}; 422 {"httpCode":422,"i18nKey":"utidInvalid"} | message | refused: a person decides |
//! | cancel | 401 {"httpCode":401,"i18nKey":"unauthorized"}; 403 {"httpCode":403,"i18nKey":"accountStopped"} | account | retry; lane closed: credentials |
//! | cancel | 429 {"httpCode":429,"i18nKey":"tooManyRequests"} | account | retry; lane throttled for 2 s |
//! | cancel | 429 with a page; 429 with a page, Retry-After: soon, -5 or 0 | account | retry, under the same id; lane throttled for 5 s |
//! | cancel | 429 with a page, Retry-After: 17; 503 with Retry-After: 17 | account | retry, under the same id; lane throttled for 17 s |
//! | cancel | 429 with a page, Retry-After: a date 43 s after its own | account | retry, under the same id; lane throttled for 43 s |
//! | cancel | 429 with a page, Retry-After: 99999999999999999999; 503 with Retry-After: 99999999999999999999 | account | retry, under the same id; lane throttled for 3600 s |
//! | connecting | nobody listens | network | retry |
//! | connecting | plain HTTP where TLS is to be | account | retry; lane closed: tls_failed |

mod order;

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::ensure;
use http::{Method, StatusCode};
use noshi_jobs::{
    gift_issuance::{Args, Cancel, Gift, Inquiry, Issue, Trade},
    machine::Call,
    money::Currency,
};
use reqwest::RequestBuilder;
use schemars::JsonSchema;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::json;

use self::order::{Balance, Found, Order, Stands, THROTTLED, error, listed, shown, unread};
use super::{
    Adapter, CodePolicy, Funds, GiftProvider, Offer, Terms,
    settings::{Account, Defaults},
};
use crate::{
    partners::{
        http::{Answer, Gate, Http, Reply},
        secret::secret,
        wire::{is_exactly, major_units, money},
    },
    vault::{SealedAt, Vault},
};

pub const NAME: &str = "tango_card";

const DEFAULTS: Defaults = Defaults {
    provider: NAME,
    connect_timeout: Duration::from_secs(8),
    read_timeout: Duration::from_secs(15),
    timeout: Duration::from_secs(25),
    settle_seconds: 60,
    horizon_seconds: 24 * 60 * 60,
    poll_seconds: 30,
    calls_per_second: 1,
};

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TangoCredentials {
    /// The platform's name.
    pub platform_name: String,
    /// The file with the platform's key.
    pub platform_key_file: PathBuf,
    /// The customer that orders.
    pub customer_identifier: String,
    /// The account that pays.
    pub account_identifier: String,
}

pub struct TangoCard {
    http: Http,
    credentials: TangoCredentials,
    platform_key: SecretString,
    vault: Arc<Vault>,
    terms: Terms,
}

impl TangoCard {
    fn request(&self, method: Method, path: &[&str]) -> RequestBuilder {
        self.signed(self.http.request(method, path))
    }

    fn signed(&self, request: RequestBuilder) -> RequestBuilder {
        request.basic_auth(&self.credentials.platform_name, Some(self.platform_key.expose_secret()))
    }

    /// One request: the order itself where its id is known, else the list of the trade's orders.
    async fn look_up(&self, trade: &Trade, reference: Option<&str>, gate: &Gate) -> Found {
        match reference {
            Some(id) => shown(self.http.send(self.request(Method::GET, &["orders", id]), gate).await, &trade.id),
            None => {
                let request = self.http.query(Method::GET, &["orders"], &[("externalRefID", &trade.id)]);
                listed(self.http.send(self.signed(request), gate).await, &trade.id)
            }
        }
    }

    /// A finished order as a gift, if it is whole and of this value.
    fn gift(&self, order: Order, args: &Args) -> Option<Gift> {
        let value = order.denomination.as_ref().or(order.amount_charged.as_ref())?;
        if !is_exactly(value.value, &value.currency_code, args.value) {
            return None;
        }
        let order_id = order.reference_order_id.filter(|id| !id.is_empty())?;
        let card = order.reference_line_item_id.filter(|card| !card.is_empty()).unwrap_or(order_id);
        let code = order.reward?.code()?;
        let place = SealedAt { grant: &args.grant, provider: NAME, column: "gift_code" };
        Some(Gift { card, code: Some(self.vault.seal(&place, &code)) })
    }

    fn issued(&self, reply: &Reply, args: &Args, trade: &Trade) -> Issue {
        if matches!(reply.status, StatusCode::OK | StatusCode::CREATED | StatusCode::ACCEPTED) {
            let Some(order) = reply.body.json::<Order>().filter(|order| order.is_of(&trade.id)) else {
                return Issue::Unknown;
            };
            return match order.stands() {
                Stands::Complete => self.gift(order, args).map_or(Issue::Unknown, Issue::Issued),
                Stands::Pending => Issue::Pending,
                Stands::Dead => Issue::Dead,
                Stands::Failed => Issue::Refused("FAILED".to_owned()),
                Stands::Unclear => Issue::Unknown,
            };
        }
        // Only the vendor's own error body says something about the order; a gateway's page does not.
        let Some(error) = error(reply) else { return Issue::Unknown };
        match reply.status {
            StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => Issue::Refused(error),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Issue::BadCredentials,
            StatusCode::PAYMENT_REQUIRED => Issue::OutOfFunds,
            StatusCode::CONFLICT => Issue::Conflict,
            StatusCode::TOO_MANY_REQUESTS => Issue::Throttled(reply.wait_or(THROTTLED)),
            _ => Issue::Unknown,
        }
    }
}

impl GiftProvider for TangoCard {
    fn terms(&self) -> &Terms {
        &self.terms
    }

    fn issue<'a>(&'a self, args: &'a Args, trade: &'a Trade, gate: &'a Gate) -> Call<'a, Issue> {
        Box::pin(async move {
            let Ok(offer) = self.offer(&args.category, args.value) else {
                return Issue::Refused("NotOffered".to_owned());
            };
            let body = json!({
                "externalRefID": trade.id,
                "accountIdentifier": self.credentials.account_identifier,
                "customerIdentifier": self.credentials.customer_identifier,
                "utid": offer.product,
                "amount": major_units(args.value),
                // We hand the code over ourselves.
                "deliveryMethod": "NONE",
            });
            match self.http.send(self.request(Method::POST, &["orders"]).json(&body), gate).await {
                Answer::Reply(reply) => self.issued(&reply, args, trade),
                Answer::NotSent => Issue::NotSent,
                Answer::Unknown => Issue::Unknown,
            }
        })
    }

    fn inquire<'a>(
        &'a self,
        args: &'a Args,
        trade: &'a Trade,
        reference: Option<&'a str>,
        gate: &'a Gate,
    ) -> Call<'a, Inquiry> {
        Box::pin(async move {
            match self.look_up(trade, reference, gate).await {
                // Ours, and of another value: whatever it is, a person has to look.
                Found::Order(order) if order.contradicts(args.value) => Inquiry::Conflict,
                Found::Order(order) => match order.stands() {
                    Stands::Complete if reference.is_none() => {
                        order.reference().map_or(Inquiry::NoAnswer, Inquiry::Known)
                    }
                    Stands::Complete => self.gift(*order, args).map_or(Inquiry::NoAnswer, Inquiry::Live),
                    Stands::Pending => Inquiry::Pending,
                    Stands::Failed => Inquiry::Failed("FAILED".to_owned()),
                    Stands::Dead => Inquiry::Dead,
                    Stands::Unclear => Inquiry::NoAnswer,
                },
                Found::Nothing => Inquiry::NotFound,
                Found::Several => Inquiry::Conflict,
                Found::Throttled(wait) => Inquiry::Throttled(wait),
                Found::BadCredentials => Inquiry::BadCredentials,
                Found::NoAnswer => Inquiry::NoAnswer,
            }
        })
    }

    fn cancel<'a>(&'a self, _: &'a Args, _: &'a Trade, card: Option<&'a str>, gate: &'a Gate) -> Call<'a, Cancel> {
        Box::pin(async move {
            let Some(item) = card else { return Cancel::Refused };
            let body = json!({"reasonCode": "OTHER", "otherReason": "cancelled by the issuer"});
            let request = self.request(Method::POST, &["lineItems", item, "cancel"]).json(&body);
            let reply = match self.http.send(request, gate).await {
                Answer::Reply(reply) => reply,
                Answer::NotSent => return Cancel::NotSent,
                Answer::Unknown => return Cancel::Unknown,
            };
            match reply.status {
                // A page in the partner's place has accepted nothing.
                StatusCode::ACCEPTED if reply.body.json::<serde_json::Value>().is_some() => Cancel::Accepted,
                status if error(&reply).is_some() => match status {
                    StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => Cancel::Refused,
                    StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Cancel::BadCredentials,
                    StatusCode::TOO_MANY_REQUESTS => Cancel::Throttled(reply.wait_or(THROTTLED)),
                    _ => Cancel::Unknown,
                },
                _ => Cancel::Unknown,
            }
        })
    }

    fn funds<'a>(&'a self, gate: &'a Gate) -> Call<'a, Funds> {
        Box::pin(async move {
            let request = self.request(Method::GET, &["accounts", &self.credentials.account_identifier]);
            match self.http.send(request, gate).await {
                Answer::Reply(reply) if reply.status == StatusCode::OK => reply
                    .body
                    .json::<Balance>()
                    .and_then(|funds| money(funds.current_balance, &funds.currency_code))
                    .map_or(Funds::NoAnswer, Funds::Available),
                Answer::Reply(reply) => match unread(&reply) {
                    Found::Throttled(wait) => Funds::Throttled(wait),
                    Found::BadCredentials => Funds::BadCredentials,
                    Found::Order(_) | Found::Nothing | Found::Several | Found::NoAnswer => Funds::NoAnswer,
                },
                Answer::NotSent | Answer::Unknown => Funds::NoAnswer,
            }
        })
    }
}

impl Adapter for TangoCard {
    const DEFAULTS: Defaults = DEFAULTS;
    type Credentials = TangoCredentials;

    fn sells(account: &Account<TangoCredentials>) -> anyhow::Result<Vec<Offer>> {
        let offers = account.offers(&DEFAULTS, &Currency::ALL)?;
        for Offer { category, product, .. } in &offers {
            let digits = product.strip_prefix(['U', 'u']).unwrap_or_default();
            let fits = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            ensure!(fits, "the range of `{category}` at {NAME} needs a `product` that is a utid, such as U123456");
        }
        Ok(offers)
    }

    fn open(account: &Account<TangoCredentials>, vault: &Arc<Vault>) -> anyhow::Result<Self> {
        let credentials = account.credentials.clone();
        for (field, id) in [
            ("customer_identifier", &credentials.customer_identifier),
            ("account_identifier", &credentials.account_identifier),
        ] {
            let fits = (5..=100).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
            ensure!(fits, "the {field} of {NAME} is `{id}`; it must be 5 to 100 letters, digits and hyphens");
        }
        let offers = Self::sells(account)?;
        Ok(TangoCard {
            http: account.http(&DEFAULTS)?,
            platform_key: secret(NAME, "platform key", &credentials.platform_key_file)?,
            credentials,
            vault: Arc::clone(vault),
            terms: Terms {
                name: NAME,
                trade_prefix: "T".to_owned(),
                contract: account.contract(&DEFAULTS, true, true, true),
                budgets: account.budgets(&DEFAULTS),
                code_policy: CodePolicy::Sealed,
                offers,
            },
        })
    }

    #[cfg(test)]
    const FIXTURE: Fixture = Fixture {
        credentials: r#"platform_name = "demo", platform_key_file = "{key}", customer_identifier = "customer-1", account_identifier = "account-1""#,
        secret: "s3cr3t-tango",
        product: "U123456",
        issued: |trade| {
            let body = json!({
                "referenceOrderID": "RA1",
                "referenceLineItemID": "LI1",
                "externalRefID": trade,
                "denomination": {"value": 1000, "currencyCode": "JPY"},
                "status": "COMPLETE",
                "reward": {"credentials": {"Redemption Code": CODE}},
            });
            (StatusCode::CREATED, body)
        },
        questions: &[
            Question { reference: None, answer: |order| json!({"page": {"number": 0}, "orders": [order]}) },
            Question { reference: Some("RA1"), answer: |order| order },
        ],
        needed: &[
            "/referenceOrderID",
            "/externalRefID",
            "/denomination/value",
            "/denomination/currencyCode",
            "/status",
            "/reward/credentials/Redemption Code",
        ],
        decisive: &["/externalRefID", "/denomination/value", "/denomination/currencyCode", "/status"],
    };
}

#[cfg(test)]
use crate::partners::conformance::{CODE, Fixture, Question};

#[cfg(test)]
mod tests;
