//! What the three contracts have in common: a call as it arrived, what it asks, what it is answered.

use axum::body::Bytes;
use axum::http::{HeaderMap, Method, Uri};
use serde_json::Value;

use super::desk::Desk;
use super::shop::{Order, Shop};
use super::{Config, Op, Provider, amazon_incentives, gift_on_demand, tango_card};

/// A call with its whole body.
pub struct Arrived {
    pub method: Method,
    pub uri: Uri,
    /// Behind the provider's prefix, with a leading slash.
    pub path: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Arrived {
    /// A header's value, or empty.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The body as JSON, or null.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// What a call turned out to be.
#[derive(Clone)]
pub struct Read {
    /// `None`: no such endpoint.
    pub op: Option<Op>,
    pub trade: Option<String>,
    /// As the request carried them, right or wrong; for the ledger.
    pub amount: Option<Value>,
    pub currency: Option<Value>,
    /// The answer to wrong credentials.
    pub denied: Option<Reply>,
    pub ask: Result<Ask, Refusal>,
}

/// A call that cannot be carried out, or a vendor's mock id: answered, without any effect.
#[derive(Clone)]
pub struct Refusal {
    pub reason: &'static str,
    pub reply: Reply,
}

#[derive(Clone)]
pub enum Ask {
    Issue(Order),
    /// With the provider's own id of the order, if the request named it.
    Inquire {
        card: Option<String>,
    },
    /// With the provider's own id of the card, if the request named it.
    Cancel {
        card: Option<String>,
    },
    Funds,
}

impl Read {
    /// A call to an endpoint that does not exist.
    pub fn nowhere(reply: Reply) -> Read {
        Read {
            op: None,
            trade: None,
            amount: None,
            currency: None,
            denied: None,
            ask: Err(Refusal { reason: "no such endpoint", reply }),
        }
    }
}

#[derive(Clone)]
pub struct Reply {
    pub status: u16,
    pub content_type: &'static str,
    pub retry_after: Option<String>,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn json(status: u16, body: &Value) -> Reply {
        Reply::text(status, "application/json", &body.to_string())
    }

    pub fn text(status: u16, content_type: &'static str, body: &str) -> Reply {
        Reply { status, content_type, retry_after: None, body: body.as_bytes().to_vec() }
    }
}

/// Reads a call and checks its credentials; nothing happens yet.
pub fn read(provider: Provider, call: &Arrived, config: &Config, shop: &Shop) -> Read {
    match provider {
        Provider::AmazonIncentives => amazon_incentives::read(call, &config.credentials),
        Provider::GiftOnDemand => gift_on_demand::read(call, &config.credentials),
        Provider::TangoCard => tango_card::read(call, &config.credentials, shop),
    }
}

/// Carries a call out.
pub fn act(desk: &mut Desk<'_>, ask: &Result<Ask, Refusal>) -> Reply {
    let ask = match ask {
        Ok(ask) => ask,
        Err(refusal) => {
            desk.refused(refusal.reason);
            return refusal.reply.clone();
        }
    };
    match desk.provider {
        Provider::AmazonIncentives => amazon_incentives::act(desk, ask),
        Provider::GiftOnDemand => gift_on_demand::act(desk, ask),
        Provider::TangoCard => tango_card::act(desk, ask),
    }
}

/// "Too many calls", without a Retry-After.
pub fn throttled(provider: Provider) -> Reply {
    match provider {
        Provider::AmazonIncentives => amazon_incentives::throttled(),
        Provider::GiftOnDemand => gift_on_demand::throttled(),
        Provider::TangoCard => tango_card::throttled(),
    }
}

/// "Something is wrong here, try again", in the provider's own form.
pub fn typed_error(provider: Provider, op: Op) -> Reply {
    match provider {
        Provider::AmazonIncentives => amazon_incentives::typed_error(op),
        Provider::GiftOnDemand => gift_on_demand::typed_error(),
        Provider::TangoCard => tango_card::typed_error(),
    }
}

/// What this inquiry about an unknown trade is answered. Amazon has no inquiry.
pub fn not_found(provider: Provider, ask: &Result<Ask, Refusal>) -> Reply {
    match provider {
        Provider::AmazonIncentives | Provider::GiftOnDemand => gift_on_demand::not_found(),
        Provider::TangoCard => tango_card::not_found(by_card(ask)),
    }
}

/// A good answer about a trade that is not the caller's: all ids, the code and the amount are another's.
pub fn other_trade(desk: &Desk<'_>, op: Op, ask: &Result<Ask, Refusal>, roll: u64) -> Reply {
    let amount = ordered(ask).map_or(1000, |order| order.amount) + 500;
    let card = desk.anothers(amount, roll);
    match desk.provider {
        Provider::AmazonIncentives => amazon_incentives::about(desk, op, &card),
        Provider::GiftOnDemand => gift_on_demand::about(desk, &card),
        Provider::TangoCard => tango_card::about(desk, op, by_card(ask), &card),
    }
}

/// What the call orders, if it orders something.
pub fn ordered(ask: &Result<Ask, Refusal>) -> Option<&Order> {
    match ask {
        Ok(Ask::Issue(order)) => Some(order),
        Ok(Ask::Inquire { .. } | Ask::Cancel { .. } | Ask::Funds) | Err(_) => None,
    }
}

/// Whether the call names the provider's own id.
fn by_card(ask: &Result<Ask, Refusal>) -> bool {
    match ask {
        Ok(Ask::Inquire { card } | Ask::Cancel { card }) => card.is_some(),
        Ok(Ask::Issue(_) | Ask::Funds) | Err(_) => false,
    }
}
