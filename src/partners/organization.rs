//! The organisation platform (組織基盤), by the contract in `ops/openapi/organization-platform.yaml`.
//!
//! What the machine of store creation relies on: the platform remembers an Idempotency-Key with its first final answer
//! for a day, and deletes by its own id of a shop. Every answer is read strictly: a shop counts only if it names our
//! public id and our key, a refusal only if status and code agree; anything else is not known. A gateway's page, a 5xx, a
//! 403 without the platform's own code say nothing of the shop.
//!
//! Whose fact each answer is, as the code reads it:
//!
//! | asked | answer | whose fact | comes to |
//! |---|---|---|---|
//! | create | 200 or 201 and a shop with our public id and our key | message | created |
//! | create | 201 and a shop under another key | network | in doubt |
//! | create | 422 {"code":"public_id_refused"} | message | refused (public_id_refused) |
//! | create | 422 {"code":"something_new"} | message | refused (something_new) |
//! | create | 422 {"code":"idempotency_key_reused"} | message | in doubt, parked: the key is another shop's |
//! | create | 409 {"code":"public_id_taken"} | message | refused (public_id_taken) |
//! | create | 403 {"code":"organization_refused"} | recipient | refused (organization_refused) |
//! | create | 401 {"code":"unauthorized"} | account | retry; lane closed: credentials |
//! | create | 429 {"code":"too_many_requests"} | account | retry; lane throttled for 5 s |
//! | create | 403 {"code":"unauthorized"} | network | in doubt |
//! | create | 403 {"code":"something_new"} | network | in doubt |
//! | create | 404 {"code":"not_found"} | network | in doubt |
//! | create | 409 {"code":"shop_in_use"} | network | in doubt |
//! | create | 418 {"code":"something_new"} | network | in doubt |
//! | create | 500 {"code":"public_id_taken"} | network | in doubt |
//! | create | 503 {"code":"too_many_requests"} | network | in doubt |
//! | create | 200, 201 or 202 with a page or without a body | network | in doubt |
//! | create | 200 that ends early | network | in doubt |
//! | create | 300 to 308, to another host: it is not followed | network | in doubt |
//! | create | 400 to 499 but 429, known or not, with a page or without a body, such as 401, 403, 407, 413, 421, 426, 431, 451 | network | in doubt |
//! | create | 429 with a page | account | in doubt; lane throttled for 5 s |
//! | create | 429 with a page, Retry-After: 17 | account | in doubt; lane throttled for 17 s |
//! | create | 429 with a page, Retry-After: a date 43 s after its own | account | in doubt; lane throttled for 43 s |
//! | create | 429 with a page, Retry-After: soon, -5 or 0 | account | in doubt; lane throttled for 5 s |
//! | create | 429 with a page, Retry-After: 99999999999999999999 | account | in doubt; lane throttled for 3600 s |
//! | create | 500 to 599 with a page or without a body | network | in doubt |
//! | create | 503 with Retry-After: 17 | account | in doubt; lane throttled for 17 s |
//! | create | 503 with Retry-After: 99999999999999999999 | account | in doubt; lane throttled for 3600 s |
//! | create | 503 with Retry-After: soon, -5 or 0; 502 or 504 with any | network | in doubt |
//! | create | no HTTP at all | network | in doubt |
//! | create | cut after the request | network | in doubt |
//! | create | none in time | network | in doubt |
//! | find | 200 or 201 and a shop with our public id and our key; 422 {"code":"public_id_refused"}; 422 {"code":"something_new"}; 422 {"code":"idempotency_key_reused"}; 409 {"code":"public_id_taken"} | message | asked again |
//! | find | 201 and a shop under another key; 403 {"code":"unauthorized"}; 403 {"code":"something_new"}; 404 {"code":"not_found"}; 409 {"code":"shop_in_use"}; 418 {"code":"something_new"}; 500 {"code":"public_id_taken"}; 503 {"code":"too_many_requests"}; 200, 201 or 202 with a page or without a body; 200 that ends early; 300 to 308, to another host: it is not followed; 400 to 499 but 429, known or not, with a page or without a body, such as 401, 403, 407, 413, 421, 426, 431, 451; 500 to 599 with a page or without a body; 503 with Retry-After: soon, -5 or 0; 502 or 504 with any; no HTTP at all; cut after the request; none in time | network | asked again |
//! | find | 403 {"code":"organization_refused"} | recipient | asked again |
//! | find | 401 {"code":"unauthorized"} | account | asked again; lane closed: credentials |
//! | find | 429 {"code":"too_many_requests"}; 429 with a page; 429 with a page, Retry-After: soon, -5 or 0 | account | asked again; lane throttled for 5 s |
//! | find | 429 with a page, Retry-After: 17; 503 with Retry-After: 17 | account | asked again; lane throttled for 17 s |
//! | find | 429 with a page, Retry-After: a date 43 s after its own | account | asked again; lane throttled for 43 s |
//! | find | 429 with a page, Retry-After: 99999999999999999999; 503 with Retry-After: 99999999999999999999 | account | asked again; lane throttled for 3600 s |
//! | assign | 200 or 201 and a shop with our public id and our key; 422 {"code":"public_id_refused"}; 422 {"code":"something_new"}; 422 {"code":"idempotency_key_reused"}; 409 {"code":"public_id_taken"} | message | asked again |
//! | assign | 201 and a shop under another key; 403 {"code":"unauthorized"}; 403 {"code":"something_new"}; 404 {"code":"not_found"}; 409 {"code":"shop_in_use"}; 418 {"code":"something_new"}; 500 {"code":"public_id_taken"}; 503 {"code":"too_many_requests"}; 200, 201 or 202 with a page or without a body; 200 that ends early; 300 to 308, to another host: it is not followed; 400 to 499 but 429, known or not, with a page or without a body, such as 401, 403, 407, 413, 421, 426, 431, 451; 500 to 599 with a page or without a body; 503 with Retry-After: soon, -5 or 0; 502 or 504 with any; no HTTP at all; cut after the request; none in time | network | asked again |
//! | assign | 403 {"code":"organization_refused"} | recipient | refused (organization_refused) |
//! | assign | 401 {"code":"unauthorized"} | account | asked again; lane closed: credentials |
//! | assign | 429 {"code":"too_many_requests"}; 429 with a page; 429 with a page, Retry-After: soon, -5 or 0 | account | asked again; lane throttled for 5 s |
//! | assign | 429 with a page, Retry-After: 17; 503 with Retry-After: 17 | account | asked again; lane throttled for 17 s |
//! | assign | 429 with a page, Retry-After: a date 43 s after its own | account | asked again; lane throttled for 43 s |
//! | assign | 429 with a page, Retry-After: 99999999999999999999; 503 with Retry-After: 99999999999999999999 | account | asked again; lane throttled for 3600 s |
//! | delete | 200 or 201 and a shop with our public id and our key; 422 {"code":"public_id_refused"}; 422 {"code":"something_new"}; 422 {"code":"idempotency_key_reused"}; 409 {"code":"public_id_taken"} | message | asked again |
//! | delete | 201 and a shop under another key; 403 {"code":"unauthorized"}; 403 {"code":"something_new"}; 418 {"code":"something_new"}; 500 {"code":"public_id_taken"}; 503 {"code":"too_many_requests"}; 200, 201 or 202 with a page or without a body; 200 that ends early; 300 to 308, to another host: it is not followed; 400 to 499 but 429, known or not, with a page or without a body, such as 401, 403, 407, 413, 421, 426, 431, 451; 500 to 599 with a page or without a body; 503 with Retry-After: soon, -5 or 0; 502 or 504 with any; no HTTP at all; cut after the request; none in time | network | asked again |
//! | delete | 403 {"code":"organization_refused"} | recipient | refused: a person decides |
//! | delete | 401 {"code":"unauthorized"} | account | asked again; lane closed: credentials |
//! | delete | 429 {"code":"too_many_requests"}; 429 with a page; 429 with a page, Retry-After: soon, -5 or 0 | account | asked again; lane throttled for 5 s |
//! | delete | 404 {"code":"not_found"} | network | not there any more |
//! | delete | 409 {"code":"shop_in_use"} | network | refused: a person decides |
//! | delete | 429 with a page, Retry-After: 17; 503 with Retry-After: 17 | account | asked again; lane throttled for 17 s |
//! | delete | 429 with a page, Retry-After: a date 43 s after its own | account | asked again; lane throttled for 43 s |
//! | delete | 429 with a page, Retry-After: 99999999999999999999; 503 with Retry-After: 99999999999999999999 | account | asked again; lane throttled for 3600 s |
//! | connecting | nobody listens | network | retry |
//! | connecting | plain HTTP where TLS is to be | account | retry; lane closed: tls_failed |

pub mod settings;

use std::time::Duration;

use anyhow::ensure;
use http::{HeaderValue, Method, StatusCode};
use noshi_jobs::store_creation::{Args, Assign, Create, Delete, Find};
use reqwest::RequestBuilder;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::json;

use super::{
    Budget,
    http::{Answer, Gate, Http, Reply},
    secret::secret,
    wire::reason,
};

pub use settings::{NAME, OrganizationSettings};

/// Where a 429 comes without a Retry-After.
const THROTTLED: Duration = Duration::from_secs(5);

/// One account at the platform. Each method makes at most one request.
pub struct OrganizationPlatform {
    http: Http,
    token: SecretString,
    service: String,
    budget: Budget,
}

impl OrganizationPlatform {
    pub fn open(settings: &OrganizationSettings) -> anyhow::Result<Self> {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        ensure!(
            !settings.service.is_empty() && settings.service.bytes().all(fits),
            "the `service` of {NAME} must have letters, digits, `-`, `_` or `.`"
        );
        Ok(OrganizationPlatform {
            http: settings.http()?,
            token: secret(NAME, "token", &settings.token_file)?,
            service: settings.service.clone(),
            budget: settings.budget(),
        })
    }

    pub fn budget(&self) -> Budget {
        self.budget
    }

    fn sign(&self, request: RequestBuilder) -> RequestBuilder {
        let bearer = format!("Bearer {}", self.token.expose_secret());
        // The settings have checked that it can be one.
        let mut value = HeaderValue::from_str(&bearer).unwrap_or(HeaderValue::from_static(""));
        value.set_sensitive(true);
        request.header(http::header::AUTHORIZATION, value)
    }

    fn request(&self, method: Method, path: &[&str]) -> RequestBuilder {
        self.sign(self.http.request(method, path))
    }

    pub async fn create_shop(&self, args: &Args, key: &str, gate: &Gate) -> Create {
        let mut body = json!({"public_id": args.public_id, "name": args.name});
        for (field, value) in [("address", &args.address), ("phone", &args.phone)] {
            if let Some(value) = value {
                body[field] = value.as_str().into();
            }
        }
        let path = ["v1", "organizations", &args.organization, "shops"];
        let request = self.request(Method::POST, &path).header("idempotency-key", key).json(&body);
        let reply = match self.http.send(request, gate).await {
            Answer::Reply(reply) => reply,
            Answer::NotSent => return Create::NotSent,
            Answer::Unknown => return Create::Unknown,
        };
        if matches!(reply.status, StatusCode::OK | StatusCode::CREATED) {
            return match reply.body.json::<Shop>().filter(|shop| shop.is(args)) {
                Some(shop) if shop.idempotency_key == key => Create::Created(shop.shop_id),
                Some(_) | None => Create::Unknown,
            };
        }
        match refusal(&reply) {
            Refusal::KeyReused => Create::KeyConflict,
            Refusal::Content(code) => Create::Refused(code),
            Refusal::Taken => Create::Refused("public_id_taken".to_owned()),
            Refusal::Organization => Create::OrganizationRefused,
            Refusal::Throttled(wait) => Create::Throttled(wait),
            Refusal::Credentials => Create::BadCredentials,
            Refusal::InUse | Refusal::NotFound | Refusal::Unclear => Create::Unknown,
        }
    }

    pub async fn find_shop(&self, args: &Args, key: &str, gate: &Gate) -> Find {
        let path = ["v1", "organizations", &args.organization, "shops"];
        let request = self.sign(self.http.query(Method::GET, &path, &[("public_id", &args.public_id)]));
        let reply = match self.http.send(request, gate).await {
            Answer::Reply(reply) => reply,
            Answer::NotSent | Answer::Unknown => return Find::NoAnswer,
        };
        if reply.status == StatusCode::OK {
            return match reply.body.json::<Shops>().map(|found| found.shops) {
                Some(shops) => found(args, key, shops),
                None => Find::NoAnswer,
            };
        }
        // Whoever says it: a question had no effect that it could hide.
        if reply.status == StatusCode::TOO_MANY_REQUESTS {
            return Find::Throttled(reply.wait_or(THROTTLED));
        }
        match refusal(&reply) {
            Refusal::Throttled(wait) => Find::Throttled(wait),
            Refusal::Credentials => Find::BadCredentials,
            Refusal::KeyReused
            | Refusal::Content(_)
            | Refusal::Taken
            | Refusal::Organization
            | Refusal::InUse
            | Refusal::NotFound
            | Refusal::Unclear => Find::NoAnswer,
        }
    }

    pub async fn assign_service(&self, args: &Args, gate: &Gate) -> Assign {
        let path = ["v1", "organizations", &args.organization, "services", &self.service];
        let reply = match self.http.send(self.request(Method::PUT, &path), gate).await {
            Answer::Reply(reply) => reply,
            Answer::NotSent => return Assign::NotSent,
            Answer::Unknown => return Assign::Unknown,
        };
        if reply.status == StatusCode::OK {
            return match reply.body.json::<Status>().map(|status| status.status).as_deref() {
                Some("assigned") => Assign::Assigned,
                Some("already_assigned") => Assign::AlreadyAssigned,
                Some(_) | None => Assign::Unknown,
            };
        }
        match refusal(&reply) {
            Refusal::Organization => Assign::OrganizationRefused,
            Refusal::Throttled(wait) => Assign::Throttled(wait),
            Refusal::Credentials => Assign::BadCredentials,
            Refusal::KeyReused
            | Refusal::Content(_)
            | Refusal::Taken
            | Refusal::InUse
            | Refusal::NotFound
            | Refusal::Unclear => Assign::Unknown,
        }
    }

    pub async fn delete_shop(&self, shop: &str, gate: &Gate) -> Delete {
        let reply = match self.http.send(self.request(Method::DELETE, &["v1", "shops", shop]), gate).await {
            Answer::Reply(reply) => reply,
            Answer::NotSent => return Delete::NotSent,
            Answer::Unknown => return Delete::Unknown,
        };
        if reply.status == StatusCode::NO_CONTENT {
            return Delete::Deleted;
        }
        match refusal(&reply) {
            Refusal::NotFound => Delete::NotFound,
            Refusal::InUse | Refusal::Organization => Delete::Refused,
            Refusal::Throttled(wait) => Delete::Throttled(wait),
            Refusal::Credentials => Delete::BadCredentials,
            Refusal::KeyReused | Refusal::Content(_) | Refusal::Taken | Refusal::Unclear => Delete::Unknown,
        }
    }
}

/// The platform's id goes into the path of the deletion, so it must be one plain word.
#[derive(Deserialize)]
struct Shop {
    shop_id: String,
    public_id: String,
    idempotency_key: String,
}

impl Shop {
    fn is(&self, args: &Args) -> bool {
        self.public_id == args.public_id && reason(Some(&self.shop_id)).is_some()
    }
}

#[derive(Deserialize)]
struct Shops {
    shops: Vec<Shop>,
}

#[derive(Deserialize)]
struct Status {
    status: String,
}

/// An organisation has at most one live shop of a public id; any other list is not understood.
fn found(args: &Args, key: &str, mut shops: Vec<Shop>) -> Find {
    match (shops.pop(), shops.is_empty()) {
        (None, _) => Find::NotFound,
        (Some(shop), true) if shop.is(args) && shop.idempotency_key == key => Find::Ours(shop.shop_id),
        (Some(shop), true) if shop.is(args) => Find::Others,
        (Some(_), _) => Find::NoAnswer,
    }
}

enum Refusal {
    KeyReused,
    Content(String),
    Taken,
    Organization,
    InUse,
    NotFound,
    Throttled(Duration),
    Credentials,
    Unclear,
}

#[derive(Deserialize)]
struct Wire {
    code: Option<String>,
}

fn refusal(reply: &Reply) -> Refusal {
    let code = reply.body.json::<Wire>().and_then(|wire| reason(wire.code.as_deref())).unwrap_or_default();
    match (reply.status, code.as_str()) {
        (StatusCode::UNPROCESSABLE_ENTITY, "idempotency_key_reused") => Refusal::KeyReused,
        (StatusCode::UNPROCESSABLE_ENTITY, word) if !word.is_empty() => Refusal::Content(code),
        (StatusCode::CONFLICT, "public_id_taken") => Refusal::Taken,
        (StatusCode::CONFLICT, "shop_in_use") => Refusal::InUse,
        (StatusCode::FORBIDDEN, "organization_refused") => Refusal::Organization,
        (StatusCode::NOT_FOUND, "not_found") => Refusal::NotFound,
        (StatusCode::UNAUTHORIZED, "unauthorized") => Refusal::Credentials,
        // A gateway's may come for a call that it has passed on.
        (StatusCode::TOO_MANY_REQUESTS, "too_many_requests") => Refusal::Throttled(reply.wait_or(THROTTLED)),
        _ => Refusal::Unclear,
    }
}

// They play against the simulated platform.
#[cfg(all(test, feature = "lab"))]
mod tests;
