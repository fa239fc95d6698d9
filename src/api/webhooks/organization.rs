//! `POST /v1/events/organization`: changes of shops and organisations, as the organisation platform publishes them (R61).
//!
//! `X-Organization-Timestamp` and `X-Organization-Signature: sha256=<hex>`, HMAC-SHA256 under the shared secret over
//! `timestamp.body`. What is signed and of now is kept and answered 204, whether it is read or not: an event that was
//! refused would come again for days. The same event again, or an older one, changes nothing: only a higher version wins.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode},
    routing::post,
};
use ring::hmac;
use secrecy::ExposeSecret;
use serde::Deserialize;

use crate::{
    api::answer::{Received, Refused},
    db::{
        PgPool,
        domain::stores::{self, ShopEvent},
    },
    settings::Settings,
};

/// How far the time of a delivery may be from ours.
const TOLERANCE: Duration = Duration::from_secs(5 * 60);
/// No id of the platform or a customer is longer.
const LONGEST: usize = 200;

struct Webhook {
    pool: PgPool,
    key: hmac::Key,
}

pub fn open(settings: &Settings, pool: &PgPool) -> anyhow::Result<Option<Router>> {
    let Some(organization) = &settings.organization else { return Ok(None) };
    let Some(secret) = organization.events_secret()? else { return Ok(None) };
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.expose_secret().as_bytes());
    let webhook = Arc::new(Webhook { pool: pool.clone(), key });
    Ok(Some(Router::new().route("/v1/events/organization", post(receive)).with_state(webhook)))
}

async fn receive(
    State(webhook): State<Arc<Webhook>>,
    headers: HeaderMap,
    Received(body): Received,
) -> Result<StatusCode, Refused> {
    check(&webhook.key, &headers, &body, SystemTime::now())?;
    match serde_json::from_slice::<Changed>(&body).ok().filter(Changed::is_whole) {
        Some(changed) => keep(&webhook.pool, &changed).await.map_err(|error| Refused::database(&error))?,
        None => tracing::warn!("an event of the organisation platform cannot be read; it is taken and not kept"),
    }
    Ok(StatusCode::NO_CONTENT)
}

/// Signed by whoever has the secret, and not long ago.
fn check(key: &hmac::Key, headers: &HeaderMap, body: &[u8], now: SystemTime) -> Result<(), Refused> {
    const UNSIGNED: Refused =
        Refused { status: StatusCode::UNAUTHORIZED, detail: "The signature is missing or not the right one." };
    const STALE: Refused =
        Refused { status: StatusCode::UNAUTHORIZED, detail: "The signature's time is too far from now." };
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let timestamp = header("x-organization-timestamp").ok_or(UNSIGNED)?;
    let signature = header("x-organization-signature").and_then(|value| value.strip_prefix("sha256="));
    let signature = signature.and_then(|hex| hex::decode(hex).ok()).ok_or(UNSIGNED)?;
    let signed = [timestamp.as_bytes(), b".", body].concat();
    hmac::verify(key, &signed, &signature).map_err(|_| UNSIGNED)?;
    let then = timestamp.parse().ok().and_then(|seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds)));
    let then = then.ok_or(STALE)?;
    let apart = now.duration_since(then).unwrap_or_else(|early| early.duration());
    if apart > TOLERANCE { Err(STALE) } else { Ok(()) }
}

#[derive(Debug, Deserialize)]
struct Changed {
    #[serde(rename = "type")]
    kind: String,
    version: i64,
    organization: String,
    shop_id: Option<String>,
    public_id: Option<String>,
    name: Option<String>,
}

impl Changed {
    fn is_whole(&self) -> bool {
        let fits = |text: &String| (1..=LONGEST).contains(&text.len()) && !text.contains('\0');
        let named = self.name.as_ref().is_none_or(|name| name.len() <= 4 * LONGEST && !name.contains('\0'));
        self.version > 0
            && named
            && [Some(&self.organization), self.shop_id.as_ref(), self.public_id.as_ref()]
                .into_iter()
                .flatten()
                .all(fits)
    }
}

async fn keep(pool: &PgPool, changed: &Changed) -> Result<(), sqlx::Error> {
    let name = changed.name.as_deref();
    let new = match (changed.kind.as_str(), &changed.shop_id, &changed.public_id) {
        (kind @ ("shop.created" | "shop.updated" | "shop.deleted"), Some(shop), Some(public_id)) => {
            let event = ShopEvent {
                shop,
                organization: &changed.organization,
                public_id,
                name,
                deleted: kind == "shop.deleted",
                version: changed.version,
            };
            stores::keep_shop_event(pool, &event).await?
        }
        ("organization.updated", ..) => {
            stores::keep_organization_event(pool, &changed.organization, name, changed.version).await?
        }
        _ => {
            tracing::info!("an event of the organisation platform is of a type unknown here; it is taken and not kept");
            return Ok(());
        }
    };
    tracing::debug!(version = changed.version, new, "an event of the organisation platform");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signed(key: &hmac::Key, seconds: u64, body: &str) -> HeaderMap {
        let signature = hex::encode(hmac::sign(key, format!("{seconds}.{body}").as_bytes()));
        let mut headers = HeaderMap::new();
        headers.insert("x-organization-timestamp", seconds.to_string().parse().unwrap());
        headers.insert("x-organization-signature", format!("sha256={signature}").parse().unwrap());
        headers
    }

    #[test]
    fn only_what_is_signed_and_of_now_is_taken() {
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"secret");
        let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let at = |seconds| signed(&key, seconds, "{}");
        let checked = |headers: &HeaderMap, body: &str| check(&key, headers, body.as_bytes(), now).is_ok();
        assert!(checked(&at(1_800_000_000), "{}"));
        assert!(checked(&at(1_800_000_000 - 300), "{}") && checked(&at(1_800_000_000 + 300), "{}"));
        assert!(!checked(&at(1_800_000_000 - 301), "{}") && !checked(&at(1_800_000_000 + 301), "{}"));
        assert!(!checked(&at(u64::MAX), "{}"));
        assert!(!checked(&at(1_800_000_000), "{ }"), "another body");
        let other = hmac::Key::new(hmac::HMAC_SHA256, b"other");
        assert!(!checked(&signed(&other, 1_800_000_000, "{}"), "{}"), "another secret");
        let mut moved = at(1_800_000_000 - 301);
        moved.insert("x-organization-timestamp", "1800000000".parse().unwrap());
        assert!(!checked(&moved, "{}"), "the time is signed too");
        assert!(!checked(&HeaderMap::new(), "{}"));
    }

    #[test]
    fn an_event_is_read_whole_or_not_at_all() {
        let read = |text: &str| serde_json::from_str::<Changed>(text).ok().filter(Changed::is_whole).is_some();
        assert!(read(r#"{"type": "x", "version": 1, "organization": "O-1", "name": null, "more": 1}"#));
        assert!(!read(r#"{"type": "x", "version": 0, "organization": "O-1"}"#));
        assert!(!read(r#"{"type": "x", "version": 1, "organization": ""}"#));
        assert!(!read(r#"{"type": "x", "version": 1, "organization": "O-1", "shop_id": ""}"#));
        assert!(!read(r#"{"type": "x", "version": 1, "organization": "O\u0000"}"#));
    }
}
