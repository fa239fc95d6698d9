//! What Amazon's answers mean.

use std::time::Duration;

use http::StatusCode;
use noshi_jobs::{
    gift_issuance::{Cancel, Gift, Issue},
    money::Money,
};
use secrecy::ExposeSecret;
use serde::Deserialize;

use crate::partners::{
    gifts::{Funds, Refetch},
    http::Reply,
    wire::{Code, is_exactly, money, reason},
};

/// What a client's README recommends after "Rate exceeded".
const THROTTLED: Duration = Duration::from_secs(10);

/// Every field of every answer that is read; all may be absent, or null. Dates (Java's `Date.toString()`) are not read.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire {
    status: Option<String>,
    creation_request_id: Option<String>,
    gc_id: Option<String>,
    gc_claim_code: Option<Code>,
    card_info: Option<CardInfo>,
    available_funds: Option<Amount>,
    /// Where the status stands on failure.
    agcod_response: Option<Failed>,
    error_code: Option<String>,
    error_type: Option<String>,
    message: Option<String>,
    #[serde(rename = "__type")]
    kind: Option<String>,
}

#[derive(Deserialize)]
struct Failed {
    status: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CardInfo {
    card_status: Option<String>,
    value: Option<Amount>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Amount {
    amount: f64,
    currency_code: String,
}

/// What an answer says, whatever was asked.
enum Verdict {
    Success(Box<Wire>),
    Resend,
    Throttled(Duration),
    /// F200, with its errorType.
    BadInput(String),
    /// F300 of the kind that more money or a new day heals.
    OutOfFunds,
    /// The account or its credentials: a person has to act.
    Account,
    /// F100, F500, anything unexpected.
    Unclear,
}

fn read(reply: &Reply) -> Verdict {
    let throttled = || Verdict::Throttled(reply.wait_or(THROTTLED));
    // The XML form is answered by what stands before the JSON endpoint. A 429 without any words of Amazon's may be a gateway's, for a call
    // that it has passed on: it slows us down, and says nothing of the card.
    if reply.body.contains("ThrottlingException") {
        return throttled();
    }
    let Some(wire) = reply.body.json::<Wire>() else { return Verdict::Unclear };
    let nested = wire.agcod_response.as_ref().and_then(|failed| failed.status.as_deref());
    let word = |text: &Option<String>| text.clone().unwrap_or_default();
    let (code, kind, message) = (word(&wire.error_code), word(&wire.error_type), word(&wire.message));
    if code.is_empty() {
        return match wire.status.as_deref().or(nested) {
            Some("SUCCESS") if reply.status == StatusCode::OK && nested.is_none() => Verdict::Success(Box::new(wire)),
            Some("RESEND") => Verdict::Resend,
            Some(_) => Verdict::Unclear,
            None if message.contains("Rate exceeded") => throttled(),
            None if is_about_signing(&word(&wire.kind)) || is_about_signing(&message) => Verdict::Account,
            None => Verdict::Unclear,
        };
    }
    match code.as_bytes() {
        [b'F', b'2', ..] if is_about_signing(&kind) || is_about_signing(&message) || is_about_us(&kind) => {
            Verdict::Account
        }
        [b'F', b'2', ..] => Verdict::BadInput(reason(Some(&kind)).unwrap_or_else(|| "F200".to_owned())),
        [b'F', b'3', ..] => match kind.as_str() {
            "InsufficientFunds" | "IssuanceCapExceeded" | "CustomerSurpassedDailyVelocityLimit" => Verdict::OutOfFunds,
            _ => Verdict::Account,
        },
        [b'F', b'4', ..] => Verdict::Resend,
        _ => Verdict::Unclear,
    }
}

/// What is said of a signature that was refused, in Amazon's own words.
pub fn refusal_of_signature(reply: &Reply) -> Option<String> {
    if !reply.status.is_client_error() {
        return None;
    }
    let wire = reply.body.json::<Wire>()?;
    let words: Vec<String> = [wire.error_type, wire.kind, wire.message].into_iter().flatten().collect();
    let words = words.join(" ");
    (wire.status.as_deref() != Some("SUCCESS") && (is_about_signing(&words) || words.contains("TooSkewed")))
        .then_some(words)
}

/// The type of a wrong signature is not documented; AWS's own names and texts all have one of these words.
fn is_about_signing(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    ["signature", "security token", "authenticationtoken", "accesskeyid", "unrecognizedclient"]
        .iter()
        .any(|word| text.contains(word))
}

/// Errors that every request of this account would meet.
fn is_about_us(kind: &str) -> bool {
    kind.contains("PartnerId") || kind == "RequestIdMustStartWithPartnerName"
}

pub fn issued(reply: &Reply, trade: &str, value: Money) -> Issue {
    match card(reply, trade, value) {
        Ok((card, _)) => Issue::Issued(Gift { card, code: None }),
        Err(issue) => issue,
    }
}

/// The same answer, read for its code.
pub fn refetched(reply: &Reply, trade: &str, value: Money) -> Refetch {
    match card(reply, trade, value) {
        Ok((card, Code(code))) => Refetch::Code { card, code },
        Err(Issue::Dead) => Refetch::Dead,
        Err(Issue::Throttled(wait)) => Refetch::Throttled(wait),
        Err(
            Issue::Issued(_)
            | Issue::Pending
            | Issue::Resend
            | Issue::Refused(_)
            | Issue::NotSent
            | Issue::Unknown
            | Issue::Conflict
            | Issue::OutOfFunds
            | Issue::BadCredentials,
        ) => Refetch::NoAnswer,
    }
}

/// The card that was created for this trade, with its code.
fn card(reply: &Reply, trade: &str, value: Money) -> Result<(String, Code), Issue> {
    let wire = match read(reply) {
        Verdict::Success(wire) => wire,
        Verdict::Resend => return Err(Issue::Resend),
        Verdict::Throttled(wait) => return Err(Issue::Throttled(wait)),
        Verdict::BadInput(kind) if kind == "RequestedDenominationMismatch" => return Err(Issue::Conflict),
        Verdict::BadInput(kind) => return Err(Issue::Refused(kind)),
        Verdict::OutOfFunds => return Err(Issue::OutOfFunds),
        Verdict::Account => return Err(Issue::BadCredentials),
        Verdict::Unclear => return Err(Issue::Unknown),
    };
    let ours = wire.creation_request_id.as_deref() == Some(trade);
    let card_info = wire.card_info.as_ref();
    let amount = card_info.and_then(|info| info.value.as_ref());
    if !ours || !amount.is_some_and(|amount| is_exactly(amount.amount, &amount.currency_code, value)) {
        return Err(Issue::Unknown);
    }
    match card_info.and_then(|info| info.card_status.as_deref()) {
        // A card cancelled before is answered as a success, with its dead code.
        Some("RefundedToPurchaser" | "Expired") => Err(Issue::Dead),
        Some("Fulfilled") => match (wire.gc_id, wire.gc_claim_code) {
            (Some(card), Some(code)) if !card.is_empty() && !code.0.expose_secret().is_empty() => Ok((card, code)),
            _ => Err(Issue::Unknown),
        },
        Some(_) | None => Err(Issue::Unknown),
    }
}

pub fn cancelled(reply: &Reply, trade: &str) -> Cancel {
    match read(reply) {
        Verdict::Success(wire) if wire.creation_request_id.as_deref() == Some(trade) => Cancel::Cancelled,
        // Too late, claimed, or no such card.
        Verdict::BadInput(_) => Cancel::Refused,
        Verdict::Throttled(wait) => Cancel::Throttled(wait),
        Verdict::OutOfFunds | Verdict::Account => Cancel::BadCredentials,
        Verdict::Success(_) | Verdict::Resend | Verdict::Unclear => Cancel::Unknown,
    }
}

pub fn funds(reply: &Reply) -> Funds {
    match read(reply) {
        Verdict::Success(wire) => wire
            .available_funds
            .and_then(|funds| money(funds.amount, &funds.currency_code))
            .map_or(Funds::NoAnswer, Funds::Available),
        Verdict::Throttled(wait) => Funds::Throttled(wait),
        Verdict::Account => Funds::BadCredentials,
        Verdict::Resend | Verdict::BadInput(_) | Verdict::OutOfFunds | Verdict::Unclear => Funds::NoAnswer,
    }
}

#[cfg(test)]
mod tests;
