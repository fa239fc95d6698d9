//! The organisation platform (組織基盤): where an organisation's shops are created. Its API is not public; this contract
//! is ours, written down in `ops/openapi/organization-platform.yaml`.
//!
//! Bearer token. `POST /v1/organizations/{organization}/shops` with `Idempotency-Key`, `{"public_id", "name",
//! "address"?, "phone"?}` → 201, or 200 with the same body for a key that created it before. The first final answer of
//! a key is remembered for a day, refusals too. `GET …/shops?public_id=`, `PUT …/services/{service}` (idempotent),
//! `DELETE /v1/shops/{shop_id}`. Errors: `{"code", "message"}`.
//!
//! What a test or a show can order, by content:
//! - a `public_id` or `name` that starts with `NOSHOP` is refused (422);
//! - an organisation that starts with `NOORG` is refused at every call, one with `NOSERVICE` when a service is
//!   assigned to it (403);
//! - a shop whose `public_id` starts with `INUSE` cannot be deleted, ever (409).
//!
//! And by `{"do": "platform", "scene": …}`, until told otherwise or cleared:
//! - `"organization", "organization": "O-1", "refuse": "everything" | "services" | "nothing"`;
//! - `"deletes", "answer": "normal" | "failing" | "refused"` (500, 409), for one shop with `"public_id"`;
//! - `"shop", "organization", "public_id", "name"`: a shop that somebody else made; `"updated"`, the same fields: a
//!   change of one; `"organization_updated", "organization", "name"`: these three happen once, and are published.
//!
//! With an events URL it publishes `shop.created`, `shop.updated`, `shop.deleted` and `organization.updated`: a POST of
//! `{"event_id", "type", "version", "occurred_at", "organization", …}` with `X-Organization-Timestamp` (unix seconds)
//! and `X-Organization-Signature: sha256=<hex>`, HMAC-SHA256 over `timestamp.body`. `version` rises with every change of the
//! same shop or organisation, and a subscriber may see them in any order.

mod events;
mod failure;
mod office;
mod scene;
pub mod state;

use std::sync::Arc;

use axum::extract::Query;
use axum::http::Method;
use serde_json::{Map, Value, json};

use self::{
    failure::{AWAY, BODY, Failure, KEY, NOWHERE, TOKEN, TOO_MANY, fail},
    office::PlatformState,
    state::Order,
};
use super::{
    config::PlatformConfig,
    context::Inner,
    messages::{Arrived, Read, Refusal, Reply, Way},
    partner::Errand,
    shop::sha256_hex,
    state::World,
};

pub use self::scene::{Scene, simulate};

const LONGEST_KEY: usize = 255;

#[derive(Clone)]
pub enum Ask {
    Create(Order),
    Find { organization: String, public_id: String },
    Assign { organization: String, service: String },
    Delete { shop: String },
}

pub fn read(call: &Arrived, config: &PlatformConfig) -> Read<Errand, Ask> {
    let path: Vec<&str> = call.path.split('/').skip(1).collect();
    let body = call.json();
    let (errand, trade, ask) = match (call.method.clone(), path.as_slice()) {
        (Method::POST, ["v1", "organizations", organization, "shops"]) => {
            let key = call.header("idempotency-key").to_owned();
            (Errand::CreateShop, key.clone(), order(organization, key, &body).map(Ask::Create))
        }
        (Method::GET, ["v1", "organizations", organization, "shops"]) => {
            let public_id = wanted(call);
            let organization = (*organization).to_owned();
            (Errand::FindShop, public_id.clone(), Ok(Ask::Find { organization, public_id }))
        }
        (Method::PUT, ["v1", "organizations", organization, "services", service]) => {
            let (organization, service) = ((*organization).to_owned(), (*service).to_owned());
            (Errand::AssignService, format!("{organization}/{service}"), Ok(Ask::Assign { organization, service }))
        }
        (Method::DELETE, ["v1", "shops", shop]) => {
            (Errand::DeleteShop, (*shop).to_owned(), Ok(Ask::Delete { shop: (*shop).to_owned() }))
        }
        _ => return Read::nowhere(fail(NOWHERE)),
    };
    let right = call.header("authorization").strip_prefix("Bearer ") == Some(config.token.as_str());
    Read {
        op: Some(errand),
        trade: Some(trade),
        amount: None,
        currency: None,
        denied: (!right).then(|| fail(TOKEN)),
        ask: ask.map_err(|failure| Refusal { reason: failure.1, reply: fail(failure) }),
    }
}

fn wanted(call: &Arrived) -> String {
    let query = Query::<Map<String, Value>>::try_from_uri(&call.uri).ok();
    let public_id = query.as_ref().and_then(|Query(query)| query.get("public_id")).and_then(Value::as_str);
    public_id.unwrap_or_default().to_owned()
}

fn order(organization: &str, key: String, body: &Value) -> Result<Order, Failure> {
    if key.is_empty() || key.len() > LONGEST_KEY {
        return Err(KEY);
    }
    let text = |name: &str| body[name].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let (Some(public_id), Some(name)) = (text("public_id"), text("name")) else {
        return Err(BODY);
    };
    let content = json!([organization, public_id, name, body["address"], body["phone"]]).to_string();
    let organization = organization.to_owned();
    Ok(Order { organization, public_id, name, key, content: sha256_hex(&content) })
}

pub fn act(inner: &Arc<Inner>, world: &mut World, ask: &Ask, way: &Way) -> Reply {
    let mut office = PlatformState { inner, platform: &mut world.platform, way };
    match ask {
        Ask::Create(order) => office.create(order),
        Ask::Find { organization, public_id } => office.find(organization, public_id),
        Ask::Assign { organization, service } => office.assign(organization, service),
        Ask::Delete { shop } => office.delete(shop),
    }
}

pub fn throttled() -> Reply {
    fail(TOO_MANY)
}

pub fn typed_error() -> Reply {
    fail(AWAY)
}

/// An inquiry that does not see the shop yet.
pub fn not_found() -> Reply {
    Reply::json(200, &json!({"shops": []}))
}
