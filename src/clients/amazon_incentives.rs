//! Amazon Incentives API (AGCOD).
//!
//! Source: the vendor's pages, a machine-readable model, captured answers. The creationRequestId is the idempotency key:
//! the same id and amount again gives the same card, so that is also the only inquiry, and it *issues* if the first call
//! never arrived. Amazon forbids to store claim codes: none is kept, and none leaves this file.
//!
//! Assumed, since no source says it: an unanswered call lands within a minute; a request id is remembered for at least
//! a day; a card can be cancelled by its creationRequestId alone. The HTTP status of the F-codes is not documented
//! either, so bodies are classified by errorCode first and errorType second (`GeneralError` comes with F100, F300 and F500).

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::ensure;
use aws_credential_types::Credentials;
use aws_sigv4::{
    http_request::{SignableBody, SignableRequest, SigningSettings, sign},
    sign::v4,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use noshi_jobs::{
    gift_issuance::{Args, Cancel, Contract, Gift, Inquiry, Issue, Trade},
    machine::Call,
    money::{Currency, Money},
};
use secrecy::ExposeSecret;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Budget, CodePolicy, Funds, GiftProvider, Offer,
    http::{Answer, Gate, Http, Reply},
    settings::{Account, AmazonCredentials, Defaults, GiftSettings, secret},
    wire::{Code, is_exactly, major_units, money, reason},
};
use crate::vault::Vault;

pub const NAME: &str = "amazon_incentives";

/// 10 calls a second on any endpoint and a client timeout of 6 s are the vendor's words.
const DEFAULTS: Defaults = Defaults {
    provider: NAME,
    connect_timeout: Duration::from_secs(2),
    read_timeout: Duration::from_secs(6),
    timeout: Duration::from_secs(6),
    settle_seconds: 60,
    horizon_seconds: 24 * 60 * 60,
    poll_seconds: 60,
    calls_per_second: 10,
};

/// What a client's README recommends after "Rate exceeded".
const THROTTLED: Duration = Duration::from_secs(10);
const SERVICE: &str = "AGCODService";

struct AmazonIncentives {
    http: Http,
    signer: Signer,
    partner_id: String,
    contract: Contract,
    budgets: Vec<Budget>,
    offers: Vec<Offer>,
}

pub fn open(settings: &GiftSettings, _: &Arc<Vault>) -> anyhow::Result<Option<Box<dyn GiftProvider>>> {
    let Some(account) = &settings.amazon_incentives else { return Ok(None) };
    Ok(Some(Box::new(AmazonIncentives::new(account)?)))
}

impl AmazonIncentives {
    fn new(account: &Account<AmazonCredentials>) -> anyhow::Result<Self> {
        let AmazonCredentials { partner_id, region, access_key_id, secret_key_file } = &account.credentials;
        ensure!(
            partner_id.len() == 5 && partner_id.bytes().all(|byte| byte.is_ascii_alphanumeric()),
            "the partner_id of {NAME} is `{partner_id}`; Amazon gives one of exactly 5 letters and digits"
        );
        let secret_key = secret(NAME, "secret key", secret_key_file)?;
        let credentials = Credentials::new(access_key_id, secret_key.expose_secret(), None, None, NAME);
        Ok(AmazonIncentives {
            http: account.http(&DEFAULTS)?,
            signer: Signer { credentials, region: region.clone() },
            partner_id: partner_id.clone(),
            contract: account.contract(&DEFAULTS, true, false, true),
            budgets: account.budgets(&DEFAULTS),
            offers: account.offers(&DEFAULTS, &Currency::ALL)?,
        })
    }

    async fn call(&self, operation: &str, body: &Value, gate: &Gate) -> Answer {
        let body = body.to_string();
        let url = self.http.url(&[operation]);
        let Some(headers) = self.signer.headers(url.as_str(), operation, body.as_bytes(), SystemTime::now()) else {
            tracing::warn!(provider = NAME, "a request could not be signed; nothing was sent");
            return Answer::NotSent;
        };
        let request = self.http.request(Method::POST, &[operation]).headers(headers).body(body);
        self.http.send(request, gate).await
    }
}

impl GiftProvider for AmazonIncentives {
    fn name(&self) -> &'static str {
        NAME
    }
    fn contract(&self) -> Contract {
        self.contract.clone()
    }
    fn budgets(&self) -> Vec<Budget> {
        self.budgets.clone()
    }
    fn code_policy(&self) -> CodePolicy {
        CodePolicy::Refetch
    }
    fn offers(&self) -> &[Offer] {
        &self.offers
    }
    fn trade_prefix(&self) -> &str {
        &self.partner_id
    }

    fn issue<'a>(&'a self, args: &'a Args, trade: &'a Trade, gate: &'a Gate) -> Call<'a, Issue> {
        Box::pin(async move {
            if self.check(&args.category, args.value).is_err() {
                return Issue::Refused("NotOffered".to_owned());
            }
            let body = json!({
                "creationRequestId": trade.id,
                "partnerId": self.partner_id,
                "value": {"currencyCode": args.value.currency.code(), "amount": major_units(args.value)},
            });
            match self.call("CreateGiftCard", &body, gate).await {
                Answer::Reply(reply) => issued(&reply, &trade.id, args.value),
                Answer::NotSent => Issue::NotSent,
                Answer::Unknown => Issue::Unknown,
            }
        })
    }

    fn inquire<'a>(&'a self, _: &'a Args, _: &'a Trade, _: &'a Gate) -> Call<'a, Inquiry> {
        Box::pin(async { Inquiry::NoAnswer })
    }

    fn cancel<'a>(&'a self, _: &'a Args, trade: &'a Trade, card: Option<&'a str>, gate: &'a Gate) -> Call<'a, Cancel> {
        Box::pin(async move {
            let mut body = json!({"creationRequestId": trade.id, "partnerId": self.partner_id});
            if let Some(card) = card {
                body["gcId"] = card.into();
            }
            match self.call("CancelGiftCard", &body, gate).await {
                Answer::Reply(reply) => cancelled(&reply, &trade.id),
                Answer::NotSent => Cancel::NotSent,
                Answer::Unknown => Cancel::Unknown,
            }
        })
    }

    fn funds<'a>(&'a self, gate: &'a Gate) -> Call<'a, Funds> {
        Box::pin(async move {
            match self.call("GetAvailableFunds", &json!({"partnerId": self.partner_id}), gate).await {
                Answer::Reply(reply) => funds(&reply),
                Answer::NotSent | Answer::Unknown => Funds::NoAnswer,
            }
        })
    }
}

struct Signer {
    credentials: Credentials,
    region: String,
}

impl Signer {
    /// All headers of a call; `None` if one of them cannot be a header.
    fn headers(&self, url: &str, operation: &str, body: &[u8], at: SystemTime) -> Option<HeaderMap> {
        let target = format!("com.amazonaws.agcod.AGCODService.{operation}");
        let plain = [("accept", "application/json"), ("content-type", "application/json"), ("x-amz-target", &target)];
        let mut headers = HeaderMap::new();
        for (name, value) in plain {
            headers.insert(name, HeaderValue::from_str(value).ok()?);
        }
        for (name, value) in self.sign(url, &plain, body, at)?.0 {
            let mut value = HeaderValue::from_str(&value).ok()?;
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        Some(headers)
    }

    /// The headers to add, and the signature in hexadecimal digits.
    fn sign(
        &self,
        url: &str,
        headers: &[(&str, &str)],
        body: &[u8],
        at: SystemTime,
    ) -> Option<(Vec<(&'static str, String)>, String)> {
        let identity = self.credentials.clone().into();
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region(&self.region)
            .name(SERVICE)
            .time(at)
            .settings(SigningSettings::default())
            .build()
            .ok()?
            .into();
        let request = SignableRequest::new("POST", url, headers.iter().copied(), SignableBody::Bytes(body)).ok()?;
        let (instructions, signature) = sign(request, &params).ok()?.into_parts();
        let (added, _) = instructions.into_parts();
        Some((added.iter().map(|header| (header.name(), header.value().to_owned())).collect(), signature))
    }
}

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
    Success(Wire),
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
    // The XML form is answered by what stands before the JSON endpoint.
    if reply.status == StatusCode::TOO_MANY_REQUESTS || reply.body.contains("ThrottlingException") {
        return throttled();
    }
    let Some(wire) = reply.body.json::<Wire>() else { return Verdict::Unclear };
    let nested = wire.agcod_response.as_ref().and_then(|failed| failed.status.as_deref());
    let word = |text: &Option<String>| text.clone().unwrap_or_default();
    let (code, kind, message) = (word(&wire.error_code), word(&wire.error_type), word(&wire.message));
    if code.is_empty() {
        return match wire.status.as_deref().or(nested) {
            Some("SUCCESS") if reply.status == StatusCode::OK && nested.is_none() => Verdict::Success(wire),
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

fn issued(reply: &Reply, trade: &str, value: Money) -> Issue {
    let wire = match read(reply) {
        Verdict::Success(wire) => wire,
        Verdict::Resend => return Issue::Resend,
        Verdict::Throttled(wait) => return Issue::Throttled(wait),
        Verdict::BadInput(kind) if kind == "RequestedDenominationMismatch" => return Issue::Conflict,
        Verdict::BadInput(kind) => return Issue::Refused(kind),
        Verdict::OutOfFunds => return Issue::OutOfFunds,
        Verdict::Account => return Issue::BadCredentials,
        Verdict::Unclear => return Issue::Unknown,
    };
    let ours = wire.creation_request_id.as_deref() == Some(trade);
    let card_info = wire.card_info.as_ref();
    let amount = card_info.and_then(|info| info.value.as_ref());
    if !ours || !amount.is_some_and(|amount| is_exactly(amount.amount, &amount.currency_code, value)) {
        return Issue::Unknown;
    }
    match card_info.and_then(|info| info.card_status.as_deref()) {
        // A card cancelled before is answered as a success, with its dead code.
        Some("RefundedToPurchaser" | "Expired") => Issue::Dead,
        Some("Fulfilled") => match (wire.gc_id, wire.gc_claim_code) {
            (Some(card), Some(code)) if !card.is_empty() && !code.0.expose_secret().is_empty() => {
                Issue::Issued(Gift { card, code: None })
            }
            _ => Issue::Unknown,
        },
        Some(_) | None => Issue::Unknown,
    }
}

fn cancelled(reply: &Reply, trade: &str) -> Cancel {
    match read(reply) {
        Verdict::Success(wire) if wire.creation_request_id.as_deref() == Some(trade) => Cancel::Cancelled,
        // Too late, claimed, or no such card.
        Verdict::BadInput(_) => Cancel::Refused,
        Verdict::Throttled(wait) => Cancel::Throttled(wait),
        Verdict::OutOfFunds | Verdict::Account => Cancel::BadCredentials,
        Verdict::Success(_) | Verdict::Resend | Verdict::Unclear => Cancel::Unknown,
    }
}

fn funds(reply: &Reply) -> Funds {
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
