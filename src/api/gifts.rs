//! Gifts: asked for by their users, and shown to them. A worker opens the code; here it is only passed on.

use axum::{http::StatusCode, response::Response};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    backend::{Backend, Call, answer},
    body,
    jobs::Enqueued,
    refusal::Refusal,
};
use crate::{
    db::operator::api,
    operator::readings::{
        Opened,
        ask::{self, What},
    },
};

/// The user who asks for the gift.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Issue {
    user: String,
    /// Where the user would use it, for grants that are limited to an area.
    area: Option<String>,
}

pub async fn issue(backend: &Backend, call: Call) -> Result<Response, Refusal> {
    let Issue { user, area } = body::json(&call.text)?;
    let grant = call.part("grant")?;
    let mut transaction = backend.begin(&call).await?;
    let job = api::issue_grant(&mut transaction, grant, &user, area.as_deref()).await?;
    transaction.commit().await?;
    Ok(answer(StatusCode::OK, &Enqueued { job, kind: "gift_issuance".to_owned(), id: grant.to_owned() }))
}

/// Who wants to see the gift, and why.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Reveal {
    /// The user that the grant is for.
    user: String,
    /// For the audit.
    reason: String,
}

/// A gift, opened. Show it to its user and keep it nowhere.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "RevealedGift")]
pub struct GiftView {
    grant: String,
    provider: String,
    category: String,
    /// In minor units.
    amount: i64,
    currency: String,
    code: String,
}

pub async fn reveal(backend: &Backend, call: Call) -> Result<Response, Refusal> {
    let Reveal { user, reason } = body::json(&call.text)?;
    if reason.trim().is_empty() {
        return Err(Refusal::field("reason", "To reveal a gift needs a reason, for the audit."));
    }
    let grant = call.part("grant")?;
    let what = What::Code { grant, user: &user, reason: &reason };
    let opened = ask::ask(backend.by(&call), &backend.ears, what).await?.whole().await?;
    let unreadable = |_| Refusal::unavailable("A newer version opened the gift; ask a newer interface.");
    let Opened { provider, category, amount, currency, code } = serde_json::from_slice(&opened).map_err(unreadable)?;
    let shown = GiftView { grant: grant.to_owned(), provider, category, amount, currency, code };
    Ok(answer(StatusCode::OK, &shown))
}
