//! A call as it arrived, what it asks, what it is answered.

use axum::body::Bytes;
use axum::http::{HeaderMap, Method, Uri};
use serde_json::Value;

use super::{partner::Op, shop::Order};

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

/// How a call is carried out.
pub struct Way {
    /// A gift order shall only be accepted now and land at this time.
    pub pend_until: Option<u64>,
    /// Its connection is gone already.
    pub late: bool,
    /// The answer shall be about another trade; the number decides about which.
    pub other: Option<u64>,
}
