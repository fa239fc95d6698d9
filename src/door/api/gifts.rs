//! Gifts: asked for by their users, and shown to them. The only place where a code leaves its seal.

use std::time::{Duration, Instant};

use axum::{http::StatusCode, response::Response};
use noshi_jobs::gift_issuance::{Args, State, Trade};
use schemars::JsonSchema;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use super::{Call, Desk, answer, body, jobs::Enqueued, refusal::Refusal};
use crate::{
    clients::{Gate, Refetch},
    lease::Slot,
    store::api::{self, Revealed, Spent},
    vault::Place,
};

/// How far away the slot of a call may be: somebody waits for the code.
const PATIENCE: Duration = Duration::from_secs(1);
/// Before its horizon ends no call goes out that might arrive after it.
const MARGIN: Duration = Duration::from_secs(15);

/// The user who asks for the gift.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Issue {
    user: String,
    /// Where the user would use it, for grants that are limited to an area.
    area: Option<String>,
}

pub async fn issue(desk: &Desk, call: Call) -> Result<Response, Refusal> {
    let Issue { user, area } = body::json(&call.text)?;
    let grant = call.part("grant")?;
    let mut transaction = desk.begin(&call).await?;
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
pub struct Shown {
    grant: String,
    provider: String,
    category: String,
    /// In minor units.
    amount: i64,
    currency: String,
    code: String,
}

pub async fn reveal(desk: &Desk, call: Call) -> Result<Response, Refusal> {
    let Reveal { user, reason } = body::json(&call.text)?;
    if reason.trim().is_empty() {
        return Err(Refusal::field("reason", "To reveal a gift needs a reason, for the audit."));
    }
    let grant = call.part("grant")?;
    let mut transaction = desk.begin(&call).await?;
    let revealed = api::reveal_gift(&mut transaction, grant, &user, &reason).await?;
    // The audit first: what is not written down is not shown.
    transaction.commit().await?;
    let unreadable = || Refusal::unavailable("This version cannot read the gift's job; ask a newer one.");
    let args: Args = serde_json::from_value(revealed.args.clone()).map_err(|_| unreadable())?;
    let State::Issued { trade, card } = serde_json::from_value(revealed.state.clone()).map_err(|_| unreadable())?
    else {
        return Err(unreadable());
    };
    let code = match &revealed.sealed {
        Some(sealed) => {
            let place = Place { grant, provider: &trade.provider, column: "gift_code" };
            desk.vault()?.unseal(&place, sealed).map_err(|error| {
                tracing::error!(error = %format!("{error:#}"), "a gift code does not open");
                Refusal::unavailable(
                    "The code does not open with the keys of this process; its operators find why in its log.",
                )
            })?
        }
        None => refetch(desk, &call, &args, &trade, &card, &revealed).await?,
    };
    Ok(answer(
        StatusCode::OK,
        &Shown {
            grant: grant.to_owned(),
            provider: trade.provider,
            category: args.category,
            amount: args.value.amount,
            currency: args.value.currency.code().to_owned(),
            code: code.expose_secret().to_owned(),
        },
    ))
}

/// Asks the provider again with the same trade id, as its rules have it, by a token of its lane.
async fn refetch(
    desk: &Desk,
    call: &Call,
    args: &Args,
    trade: &Trade,
    card: &str,
    revealed: &Revealed,
) -> Result<SecretString, Refusal> {
    if revealed.remembered < MARGIN {
        return Err(Refusal::new(
            StatusCode::GONE,
            "The provider may have forgotten this gift's id by now, and asking again might buy another one. \
             Look the card up in the provider's own console.",
        ));
    }
    let Some(provider) = desk.gifts.provider(&trade.provider) else {
        return Err(Refusal::unavailable("The gift's provider is not in this process's configuration."));
    };
    let lane = format!("gift/{}", trade.provider);
    let sent = Instant::now();
    let mut transaction = desk.begin(call).await?;
    let spent = api::spend_token(&mut transaction, &lane, PATIENCE, desk.lateness.allowance(&lane)).await?;
    transaction.commit().await?;
    let (wait, jitter) = match spent {
        Spent::Slot { wait, jitter } => (wait, jitter),
        Spent::Closed(wait) => {
            return Err(Refusal::later(
                wait,
                "The provider's lane has no room now. Nothing was asked; ask again later.",
            ));
        }
    };
    tokio::time::sleep(wait).await;
    let slot = sent.checked_add(wait).map(|due| Slot::new(&lane, due, jitter, &desk.lateness));
    let gate = Gate::new(move || slot.as_ref().is_none_or(Slot::holds));
    match provider.refetch(args, trade, &gate).await {
        Refetch::Code { card: again, code } if again == card => Ok(code),
        Refetch::Code { .. } => {
            tracing::error!(
                trade = trade.id,
                "the provider answered a known trade id with another card; ask it for both"
            );
            Err(Refusal::conflict(
                "The provider answered with another card than the one recorded; it is not shown. Tell the operators.",
            ))
        }
        Refetch::Dead => Err(Refusal::new(StatusCode::GONE, "The card was cancelled or has expired at the provider.")),
        Refetch::Throttled(wait) => {
            let mut transaction = desk.begin(call).await?;
            api::throttle_lane(&mut transaction, &lane, wait).await?;
            transaction.commit().await?;
            Err(Refusal::later(wait, "The provider asked for a pause. Ask again later."))
        }
        Refetch::NoAnswer => {
            Err(Refusal::unavailable("The provider did not answer. The gift is as it was; ask again."))
        }
        Refetch::Never => Err(Refusal::unavailable(
            "No code is kept for this gift, and its provider does not show it again. Tell the operators.",
        )),
    }
}
