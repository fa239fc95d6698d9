//! Tango Card RaaS v2: one reward in one order.
//!
//! Source: the vendor's OpenAPI document, as republished. `externalRefID` dedups: `POST /orders` → 201 new, 200 the existing
//! order, 202 accepted, 409 the same id with other content, 402 insufficient funds. One call a second on all endpoints.
//! The list of orders by externalRefID is a pure inquiry. As documented its items carry neither the code nor the id of the line
//! item, so a finished order is read once more by its own id; where an item carries them, that second call is not made.
//! A cancel has to learn the id of the line item first. These are the only steps here with more than one call: the
//! extra ones only read, and each passes the rate guard and the gate.
//!
//! Assumed: an unanswered call lands within a minute; an externalRefID is remembered for at least a day; 400 and 422 with
//! the vendor's error body had no effect; CANCELLED, DELETED and RETURNED leave a code that cannot be used.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::ensure;
use http::{Method, StatusCode};
use noshi_jobs::{
    gift_issuance::{Args, Cancel, Contract, Gift, Inquiry, Issue, Trade},
    machine::Call,
    money::Currency,
};
use reqwest::RequestBuilder;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::json;

use super::{
    Budget, CodePolicy, Funds, GiftProvider, Offer,
    http::{Answer, Gate, Http, Reply},
    offers,
    settings::{Account, Defaults, GiftSettings, TangoCredentials, secret},
    wire::{Code, is_exactly, major_units, money, reason},
};
use crate::vault::{Place, Vault};

pub const NAME: &str = "tango_card";

const DEFAULTS: Defaults = Defaults {
    provider: NAME,
    connect_timeout: Duration::from_secs(3),
    read_timeout: Duration::from_secs(10),
    timeout: Duration::from_secs(15),
    settle_seconds: 60,
    horizon_seconds: 24 * 60 * 60,
    poll_seconds: 30,
    calls_per_second: 1,
};

/// "Wait at least a second"; no Retry-After is documented.
const THROTTLED: Duration = Duration::from_secs(2);

struct TangoCard {
    http: Http,
    credentials: TangoCredentials,
    platform_key: SecretString,
    vault: Arc<Vault>,
    contract: Contract,
    budgets: Vec<Budget>,
    offers: Vec<Offer>,
}

pub fn open(settings: &GiftSettings, vault: &Arc<Vault>) -> anyhow::Result<Option<Box<dyn GiftProvider>>> {
    let Some(account) = &settings.tango_card else { return Ok(None) };
    Ok(Some(Box::new(TangoCard::new(account, vault)?)))
}

impl TangoCard {
    fn new(account: &Account<TangoCredentials>, vault: &Arc<Vault>) -> anyhow::Result<Self> {
        let credentials = account.credentials.clone();
        for (field, id) in [
            ("customer_identifier", &credentials.customer_identifier),
            ("account_identifier", &credentials.account_identifier),
        ] {
            let fits = (5..=100).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
            ensure!(fits, "the {field} of {NAME} is `{id}`; it must be 5 to 100 letters, digits and hyphens");
        }
        let offers = account.offers(&DEFAULTS, &Currency::ALL)?;
        for Offer { category, product, .. } in &offers {
            let digits = product.strip_prefix(['U', 'u']).unwrap_or_default();
            let fits = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            ensure!(fits, "the range of `{category}` at {NAME} needs a `product` that is a utid, such as U123456");
        }
        Ok(TangoCard {
            http: account.http(&DEFAULTS)?,
            platform_key: secret(NAME, "platform key", &credentials.platform_key_file)?,
            credentials,
            vault: Arc::clone(vault),
            contract: account.contract(&DEFAULTS, true, true, true),
            budgets: account.budgets(&DEFAULTS),
            offers,
        })
    }

    fn request(&self, method: Method, path: &[&str]) -> RequestBuilder {
        self.signed(self.http.request(method, path))
    }

    fn signed(&self, request: RequestBuilder) -> RequestBuilder {
        request.basic_auth(&self.credentials.platform_name, Some(self.platform_key.expose_secret()))
    }

    /// Asks for the order of a trade; if it is finished and `lacks` something, asks once more by the order's own id.
    async fn look_up(&self, trade: &Trade, gate: &Gate, lacks: fn(&Order) -> bool) -> Found {
        let request = self.http.query(Method::GET, &["orders"], &[("externalRefID", &trade.id)]);
        let order = match listed(self.http.send(self.signed(request), gate).await, &trade.id) {
            Found::Order(order) if order.stands() == Stands::Complete && lacks(&order) => order,
            found => return found,
        };
        let Some(id) = order.reference_order_id.as_deref().filter(|id| !id.is_empty()) else { return Found::NoAnswer };
        match self.http.send(self.request(Method::GET, &["orders", id]), gate).await {
            Answer::Reply(reply) if reply.status == StatusCode::OK => match reply.body.json::<Order>() {
                Some(order) if order.is_of(&trade.id) => Found::Order(Box::new(order)),
                Some(_) | None => Found::NoAnswer,
            },
            Answer::Reply(reply) => unread(&reply),
            Answer::NotSent => Found::NotSent,
            Answer::Unknown => Found::NoAnswer,
        }
    }

    /// A finished order as a gift, if it is whole and of this value.
    fn gift(&self, order: Order, args: &Args) -> Option<Gift> {
        let value = order.denomination.as_ref().or(order.amount_charged.as_ref())?;
        if !is_exactly(value.value, &value.currency_code, args.value) {
            return None;
        }
        let card = order.reference_order_id.filter(|card| !card.is_empty())?;
        let code = order.reward?.code()?;
        let place = Place { grant: &args.grant, provider: NAME, column: "gift_code" };
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
        if reply.status == StatusCode::TOO_MANY_REQUESTS {
            return Issue::Throttled(reply.wait_or(THROTTLED));
        }
        // Only the vendor's own error body says something about the order; a gateway's page does not.
        let Some(error) = error(reply) else { return Issue::Unknown };
        match reply.status {
            StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => Issue::Refused(error),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Issue::BadCredentials,
            StatusCode::PAYMENT_REQUIRED => Issue::OutOfFunds,
            StatusCode::CONFLICT => Issue::Conflict,
            _ => Issue::Unknown,
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Order {
    #[serde(rename = "referenceOrderID")]
    reference_order_id: Option<String>,
    #[serde(rename = "referenceLineItemID")]
    reference_line_item_id: Option<String>,
    #[serde(rename = "externalRefID")]
    external_ref_id: Option<String>,
    denomination: Option<Amount>,
    amount_charged: Option<Amount>,
    status: Option<String>,
    order_status: Option<String>,
    line_item_status: Option<String>,
    reward: Option<Reward>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Amount {
    value: f64,
    currency_code: String,
}

/// `credentials` maps labels (`Redemption Code`, `PIN`, …) to values. Often there is only one.
#[derive(Deserialize)]
struct Reward {
    credentials: Option<BTreeMap<String, Code>>,
}

#[derive(Deserialize)]
struct Orders {
    orders: Vec<Order>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Balance {
    current_balance: f64,
    currency_code: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ErrorInfo {
    http_code: Option<u16>,
    i18n_key: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stands {
    Complete,
    Pending,
    Failed,
    /// Taken back: its code cannot be used.
    Dead,
    Unclear,
}

impl Order {
    fn is_of(&self, trade: &str) -> bool {
        self.external_ref_id.as_deref() == Some(trade)
    }

    /// The worst that any of its statuses says: a complete order may hold a cancelled line item.
    fn stands(&self) -> Stands {
        let words: Vec<&str> = [&self.status, &self.order_status, &self.line_item_status]
            .into_iter()
            .filter_map(|status| status.as_deref())
            .collect();
        let any = |known: &[&str]| words.iter().any(|word| known.contains(word));
        if any(&["CANCELLED", "DELETED", "RETURNED"]) {
            Stands::Dead
        } else if any(&["FAILED"]) {
            Stands::Failed
        } else if any(&["PENDING", "QUEUED", "PENDING_MR", "ON_HOLD", "PENDING_KYB", "PENDING_PAYMENT"]) {
            Stands::Pending
        } else if !words.is_empty() && words.iter().all(|word| *word == "COMPLETE") {
            Stands::Complete
        } else {
            Stands::Unclear
        }
    }
}

impl Reward {
    /// One credential as it is; several as `label: value` lines, since none of them works alone.
    fn code(self) -> Option<SecretString> {
        let credentials = self.credentials?;
        if credentials.is_empty() || credentials.values().any(|code| code.0.expose_secret().is_empty()) {
            return None;
        }
        if credentials.len() == 1 {
            return credentials.into_values().next().map(|code| code.0);
        }
        let line = |(label, code): (&String, &Code)| format!("{label}: {}", code.0.expose_secret());
        Some(SecretString::from(credentials.iter().map(line).collect::<Vec<_>>().join("\n")))
    }
}

enum Found {
    Order(Box<Order>),
    Nothing,
    /// Several orders under one id.
    Several,
    Throttled(Duration),
    BadCredentials,
    NotSent,
    NoAnswer,
}

fn listed(answer: Answer, trade: &str) -> Found {
    let reply = match answer {
        Answer::Reply(reply) if reply.status == StatusCode::OK => reply,
        Answer::Reply(reply) => return unread(&reply),
        Answer::NotSent => return Found::NotSent,
        Answer::Unknown => return Found::NoAnswer,
    };
    let Some(Orders { orders }) = reply.body.json::<Orders>() else { return Found::NoAnswer };
    // A list with other trades in it was not filtered by our id: it proves nothing.
    if orders.iter().any(|order| !order.is_of(trade)) {
        return Found::NoAnswer;
    }
    let mut orders = orders.into_iter();
    match (orders.next(), orders.next()) {
        (None, _) => Found::Nothing,
        (Some(order), None) => Found::Order(Box::new(order)),
        (Some(_), Some(_)) => Found::Several,
    }
}

fn unread(reply: &Reply) -> Found {
    match reply.status {
        StatusCode::TOO_MANY_REQUESTS => Found::Throttled(reply.wait_or(THROTTLED)),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Found::BadCredentials,
        _ => Found::NoAnswer,
    }
}

/// The name of the error, if the body is the vendor's own.
fn error(reply: &Reply) -> Option<String> {
    let info = reply.body.json::<ErrorInfo>()?;
    let key = reason(info.i18n_key.as_deref());
    (key.is_some() || info.http_code == Some(reply.status.as_u16())).then(|| match key {
        Some(key) => format!("{} {key}", reply.status.as_u16()),
        None => reply.status.as_u16().to_string(),
    })
}

impl GiftProvider for TangoCard {
    fn name(&self) -> &'static str {
        NAME
    }
    fn contract(&self) -> Contract {
        self.contract.clone()
    }
    fn budgets(&self) -> Vec<Budget> {
        self.budgets.clone()
    }
    fn code_policy(&self) -> CodePolicy {
        CodePolicy::Sealed
    }
    fn offers(&self) -> &[Offer] {
        &self.offers
    }
    fn trade_prefix(&self) -> &'static str {
        "T"
    }

    fn issue<'a>(&'a self, args: &'a Args, trade: &'a Trade, gate: &'a Gate) -> Call<'a, Issue> {
        Box::pin(async move {
            let Ok(offer) = offers::find(NAME, &self.offers, &args.category, args.value) else {
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

    fn inquire<'a>(&'a self, args: &'a Args, trade: &'a Trade, gate: &'a Gate) -> Call<'a, Inquiry> {
        Box::pin(async move {
            match self.look_up(trade, gate, |order| order.reward.is_none()).await {
                Found::Order(order) => match order.stands() {
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
                Found::NotSent | Found::NoAnswer => Inquiry::NoAnswer,
            }
        })
    }

    fn cancel<'a>(&'a self, _: &'a Args, trade: &'a Trade, _: Option<&'a str>, gate: &'a Gate) -> Call<'a, Cancel> {
        Box::pin(async move {
            let order = match self.look_up(trade, gate, |order| order.reference_line_item_id.is_none()).await {
                Found::Order(order) => order,
                Found::Nothing => return Cancel::NotFound,
                Found::Throttled(wait) => return Cancel::Throttled(wait),
                Found::BadCredentials => return Cancel::BadCredentials,
                // Nothing was asked to be cancelled yet.
                Found::Several | Found::NotSent | Found::NoAnswer => return Cancel::NotSent,
            };
            match order.stands() {
                // Nothing can be redeemed any more, or never could.
                Stands::Dead | Stands::Failed => return Cancel::Cancelled,
                Stands::Complete | Stands::Pending | Stands::Unclear => {}
            }
            let Some(item) = order.reference_line_item_id.as_deref().filter(|item| !item.is_empty()) else {
                return Cancel::NotSent;
            };
            let body = json!({"reasonCode": "OTHER", "otherReason": "cancelled by the issuer"});
            let request = self.request(Method::POST, &["lineItems", item, "cancel"]).json(&body);
            let reply = match self.http.send(request, gate).await {
                Answer::Reply(reply) => reply,
                Answer::NotSent => return Cancel::NotSent,
                Answer::Unknown => return Cancel::Unknown,
            };
            match reply.status {
                // Accepted is not done: the next try finds it cancelled.
                StatusCode::ACCEPTED => Cancel::Unknown,
                StatusCode::TOO_MANY_REQUESTS => Cancel::Throttled(reply.wait_or(THROTTLED)),
                status if error(&reply).is_some() => match status {
                    StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => Cancel::Refused,
                    StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Cancel::BadCredentials,
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
                    Found::Order(_) | Found::Nothing | Found::Several | Found::NotSent | Found::NoAnswer => {
                        Funds::NoAnswer
                    }
                },
                Answer::NotSent | Answer::Unknown => Funds::NoAnswer,
            }
        })
    }
}
