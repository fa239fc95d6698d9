//! What the contracts have in common: a call as it arrived, what it asks, what it is answered.

use std::sync::Arc;

use axum::body::Bytes;
use axum::http::{HeaderMap, Method, Uri};
use serde_json::Value;

use super::{
    Config, Op, Provider, amazon_incentives,
    desk::Desk,
    gift_on_demand, organization_platform,
    partner::{Errand, Partner},
    ses,
    shop::Order,
    tango_card,
    world::{Inner, World, desk},
};

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
pub struct Read<O = Op, A = Ask> {
    /// `None`: no such endpoint.
    pub op: Option<O>,
    pub trade: Option<String>,
    /// As the request carried them, right or wrong; for the ledger.
    pub amount: Option<Value>,
    pub currency: Option<Value>,
    /// The answer to wrong credentials.
    pub denied: Option<Reply>,
    pub ask: Result<A, Refusal>,
}

/// What a call to any partner turned out to be.
pub type Any = Read<Errand, Wanted>;

#[derive(Clone)]
pub enum Wanted {
    Gift(Ask),
    Platform(organization_platform::Ask),
    Ses(ses::Ask),
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

impl<O, A> Read<O, A> {
    /// A call to an endpoint that does not exist.
    pub fn nowhere(reply: Reply) -> Self {
        Read {
            op: None,
            trade: None,
            amount: None,
            currency: None,
            denied: None,
            ask: Err(Refusal { reason: "no such endpoint", reply }),
        }
    }

    fn into_any(self, wanted: impl FnOnce(A) -> Wanted) -> Any
    where
        Errand: From<O>,
    {
        Read {
            op: self.op.map(Errand::from),
            trade: self.trade,
            amount: self.amount,
            currency: self.currency,
            denied: self.denied,
            ask: self.ask.map(wanted),
        }
    }
}

#[derive(Clone)]
pub struct Reply {
    pub status: u16,
    pub content_type: &'static str,
    pub retry_after: Option<String>,
    /// `x-amzn-errortype`, where Amazon names an error so.
    pub error_type: Option<&'static str>,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn json(status: u16, body: &Value) -> Reply {
        Reply::text(status, "application/json", &body.to_string())
    }

    pub fn text(status: u16, content_type: &'static str, body: &str) -> Reply {
        Reply { status, content_type, retry_after: None, error_type: None, body: body.as_bytes().to_vec() }
    }
}

/// Reads a call and checks its credentials; nothing happens yet.
pub fn read(partner: Partner, call: &Arrived, config: &Config, world: &World) -> Any {
    let gift = |read: Read| read.into_any(Wanted::Gift);
    match partner {
        Partner::Gift(Provider::AmazonIncentives) => gift(amazon_incentives::read(call, &config.credentials)),
        Partner::Gift(Provider::GiftOnDemand) => gift(gift_on_demand::read(call, &config.credentials)),
        Partner::Gift(Provider::TangoCard) => {
            gift(tango_card::read(call, &config.credentials, &world.shops.tango_card))
        }
        Partner::OrganizationPlatform => {
            organization_platform::read(call, &config.organization_platform).into_any(Wanted::Platform)
        }
        Partner::Ses => ses::read(call, &config.ses).into_any(Wanted::Ses),
    }
}

/// How a call is carried out.
pub struct Way {
    /// A gift order shall only be accepted now and land at this time.
    pub pend_until: Option<u64>,
    /// Its connection is gone already.
    pub late: bool,
    /// The answer shall be about another trade; the number decides about which.
    pub other: Option<u64>,
}

/// The answer, and the card that was accepted for later, if it came to that.
pub type Acted = (Reply, Option<(String, u64)>);

/// Carries a call out.
pub fn act(inner: &Arc<Inner>, world: &mut World, partner: Partner, read: &Any, way: &Way) -> Acted {
    let trade = read.trade.clone().unwrap_or_default();
    match (partner, &read.ask) {
        (_, Err(refusal)) => {
            inner.refused(partner, read, refusal.reason);
            (refusal.reply.clone(), None)
        }
        (Partner::Gift(provider), Ok(Wanted::Gift(ask))) => {
            let op = match read.op {
                Some(Errand::Gift(op)) => op,
                Some(_) | None => Op::Issue,
            };
            let mut desk = desk(inner, world.shops.of_mut(provider), provider, op, trade);
            desk.late = way.late;
            desk.pend_until = way.pend_until;
            let mut reply = gift(&mut desk, ask);
            if let Some(roll) = way.other {
                reply = other_trade(&desk, op, ask, roll);
            }
            (reply, desk.pending)
        }
        (_, Ok(Wanted::Platform(ask))) => (organization_platform::act(inner, world, ask, way), None),
        (_, Ok(Wanted::Ses(ask))) => (ses::act(inner, world, ask, way), None),
        // A gift order is read at a gift provider's door only.
        (Partner::OrganizationPlatform | Partner::Ses, Ok(Wanted::Gift(_))) => {
            (Reply::text(500, "text/plain", "misread"), None)
        }
    }
}

fn gift(desk: &mut Desk<'_>, ask: &Ask) -> Reply {
    match desk.provider {
        Provider::AmazonIncentives => amazon_incentives::act(desk, ask),
        Provider::GiftOnDemand => gift_on_demand::act(desk, ask),
        Provider::TangoCard => tango_card::act(desk, ask),
    }
}

/// "Too many calls", without a Retry-After.
pub fn throttled(partner: Partner) -> Reply {
    match partner {
        Partner::Gift(Provider::AmazonIncentives) => amazon_incentives::throttled(),
        Partner::Gift(Provider::GiftOnDemand) => gift_on_demand::throttled(),
        Partner::Gift(Provider::TangoCard) => tango_card::throttled(),
        Partner::OrganizationPlatform => organization_platform::throttled(),
        Partner::Ses => ses::throttled(),
    }
}

/// "Something is wrong here, try again", in the provider's own form.
pub fn typed_error(partner: Partner, errand: Errand) -> Reply {
    match (partner, errand) {
        (Partner::Gift(Provider::AmazonIncentives), Errand::Gift(op)) => amazon_incentives::typed_error(op),
        (Partner::Gift(Provider::TangoCard), _) => tango_card::typed_error(),
        (Partner::Gift(_), _) => gift_on_demand::typed_error(),
        (Partner::OrganizationPlatform, _) => organization_platform::typed_error(),
        (Partner::Ses, _) => ses::typed_error(),
    }
}

/// What this inquiry about something unknown is answered. Amazon and SES have no inquiry.
pub fn not_found(partner: Partner, ask: &Result<Wanted, Refusal>) -> Reply {
    match partner {
        Partner::Gift(Provider::TangoCard) => match ask {
            Ok(Wanted::Gift(ask)) => tango_card::not_found(by_card(ask)),
            Ok(Wanted::Platform(_) | Wanted::Ses(_)) | Err(_) => tango_card::not_found(false),
        },
        Partner::Gift(_) | Partner::Ses => gift_on_demand::not_found(),
        Partner::OrganizationPlatform => organization_platform::not_found(),
    }
}

/// A good answer about a trade that is not the caller's: all ids, the code and the amount are another's.
fn other_trade(desk: &Desk<'_>, op: Op, ask: &Ask, roll: u64) -> Reply {
    let amount = ordered(ask).map_or(1000, |order| order.amount) + 500;
    let card = desk.anothers(amount, roll);
    match desk.provider {
        Provider::AmazonIncentives => amazon_incentives::about(desk, op, &card),
        Provider::GiftOnDemand => gift_on_demand::about(desk, &card),
        Provider::TangoCard => tango_card::about(desk, op, by_card(ask), &card),
    }
}

/// Ordered at an endpoint that always answers first and issues later.
pub fn is_queued(ask: &Result<Wanted, Refusal>) -> bool {
    match ask {
        Ok(Wanted::Gift(ask)) => ordered(ask).is_some_and(|order| order.queued),
        Ok(Wanted::Platform(_) | Wanted::Ses(_)) | Err(_) => false,
    }
}

/// What the call orders, if it orders something.
fn ordered(ask: &Ask) -> Option<&Order> {
    match ask {
        Ask::Issue(order) => Some(order),
        Ask::Inquire { .. } | Ask::Cancel { .. } | Ask::Funds => None,
    }
}

/// Whether the call names the provider's own id.
fn by_card(ask: &Ask) -> bool {
    match ask {
        Ask::Inquire { card } | Ask::Cancel { card } => card.is_some(),
        Ask::Issue(_) | Ask::Funds => false,
    }
}
