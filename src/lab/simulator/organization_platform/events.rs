//! The platform's changes on their way to a subscriber, each signed.

use std::sync::Arc;

use chrono::{SecondsFormat, Utc};
use ring::hmac;
use serde_json::{Value, json};

use super::state::Shop;
use crate::lab::simulator::{context::Inner, partner::Partner, publish::Notice};

pub fn shop(inner: &Arc<Inner>, kind: &'static str, shop: &Shop, name: Option<&str>) {
    let body = json!({
        "shop_id": shop.id,
        "public_id": shop.public_id,
        "name": name,
    });
    let id = format!("evt-{}-{}", shop.id, shop.version);
    publish(inner, kind, id, shop.version, &shop.organization, body);
}

pub fn organization(inner: &Arc<Inner>, organization: &str, version: u64, name: &str) {
    let id = format!("evt-{organization}-{version}");
    publish(inner, "organization.updated", id, version, organization, json!({"name": name}));
}

fn publish(inner: &Arc<Inner>, kind: &'static str, id: String, version: u64, organization: &str, mut body: Value) {
    let Some(url) = inner.config.organization_platform.events_url.clone() else {
        return;
    };
    body["event_id"] = id.clone().into();
    body["type"] = kind.into();
    body["version"] = version.into();
    body["organization"] = organization.into();
    body["occurred_at"] = Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true).into();
    inner.publish(vec![Notice {
        partner: Partner::OrganizationPlatform,
        trade: Some(organization.to_owned()),
        kind,
        message: id,
        url,
        headers: vec![("content-type", "application/json".to_owned())],
        signed: Some(sign),
        body: body.to_string(),
    }]);
}

/// Each delivery has its own time, so that one of long ago cannot be replayed.
fn sign(inner: &Inner, body: &str) -> Vec<(&'static str, String)> {
    let timestamp = Utc::now().timestamp().to_string();
    let key = hmac::Key::new(hmac::HMAC_SHA256, inner.config.organization_platform.events_secret.as_bytes());
    let signature = hex::encode(hmac::sign(&key, format!("{timestamp}.{body}").as_bytes()));
    vec![("x-organization-timestamp", timestamp), ("x-organization-signature", format!("sha256={signature}"))]
}
