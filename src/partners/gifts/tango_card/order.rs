//! What Tango's answers say of an order.

use std::{collections::BTreeMap, time::Duration};

use http::StatusCode;
use noshi_jobs::money::Money;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use crate::partners::{
    http::{Answer, Reply},
    wire::{Code, is_exactly, reason},
};

/// The vendor's ids have about 20 letters; a longer one is no id, and would be carried along with the job.
const LONGEST_ID: usize = 100;

/// "Wait at least a second"; no Retry-After is documented.
pub const THROTTLED: Duration = Duration::from_secs(2);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Order {
    #[serde(rename = "referenceOrderID")]
    pub reference_order_id: Option<String>,
    #[serde(rename = "referenceLineItemID")]
    pub reference_line_item_id: Option<String>,
    #[serde(rename = "externalRefID")]
    external_ref_id: Option<String>,
    pub denomination: Option<Amount>,
    pub amount_charged: Option<Amount>,
    status: Option<String>,
    order_status: Option<String>,
    line_item_status: Option<String>,
    pub reward: Option<Reward>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Amount {
    pub value: f64,
    pub currency_code: String,
}

/// `credentials` maps labels (`Redemption Code`, `PIN`, …) to values. Often there is only one.
#[derive(Deserialize)]
pub struct Reward {
    credentials: Option<BTreeMap<String, Code>>,
}

#[derive(Deserialize)]
struct Orders {
    orders: Vec<Order>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Balance {
    pub current_balance: f64,
    pub currency_code: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ErrorInfo {
    http_code: Option<u16>,
    i18n_key: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Stands {
    Complete,
    Pending,
    Failed,
    /// Taken back: its code cannot be used.
    Dead,
    Unclear,
}

impl Order {
    pub fn is_of(&self, trade: &str) -> bool {
        self.external_ref_id.as_deref() == Some(trade)
    }

    /// Whether it says of itself that it is about another value.
    pub fn contradicts(&self, value: Money) -> bool {
        self.denomination.as_ref().is_some_and(|own| !is_exactly(own.value, &own.currency_code, value))
    }

    /// Its own id, for the next question.
    pub fn reference(self) -> Option<String> {
        self.reference_order_id.filter(|id| (1..=LONGEST_ID).contains(&id.len()))
    }

    /// The worst that any of its statuses says: a complete order may hold a cancelled line item.
    pub fn stands(&self) -> Stands {
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
    pub fn code(self) -> Option<SecretString> {
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

pub enum Found {
    Order(Box<Order>),
    Nothing,
    /// Several orders under one id.
    Several,
    Throttled(Duration),
    BadCredentials,
    /// Nothing was sent, nothing came back, or nothing that can be read.
    NoAnswer,
}

/// An order that was asked for by its own id, if it is this trade's.
pub fn shown(answer: Answer, trade: &str) -> Found {
    match answer {
        Answer::Reply(reply) if reply.status == StatusCode::OK => {
            let order = reply.body.json::<Order>().filter(|order| order.is_of(trade));
            order.map_or(Found::NoAnswer, |order| Found::Order(Box::new(order)))
        }
        Answer::Reply(reply) => unread(&reply),
        Answer::NotSent | Answer::Unknown => Found::NoAnswer,
    }
}

pub fn listed(answer: Answer, trade: &str) -> Found {
    let reply = match answer {
        Answer::Reply(reply) if reply.status == StatusCode::OK => reply,
        Answer::Reply(reply) => return unread(&reply),
        Answer::NotSent | Answer::Unknown => return Found::NoAnswer,
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

pub fn unread(reply: &Reply) -> Found {
    match reply.status {
        StatusCode::TOO_MANY_REQUESTS => Found::Throttled(reply.wait_or(THROTTLED)),
        // A gateway's page does not speak for the account.
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if error(reply).is_some() => Found::BadCredentials,
        _ => Found::NoAnswer,
    }
}

/// The name of the error, if the body is the vendor's own.
pub fn error(reply: &Reply) -> Option<String> {
    let info = reply.body.json::<ErrorInfo>()?;
    let key = reason(info.i18n_key.as_deref());
    (key.is_some() || info.http_code == Some(reply.status.as_u16())).then(|| match key {
        Some(key) => format!("{} {key}", reply.status.as_u16()),
        None => reply.status.as_u16().to_string(),
    })
}
