//! Amazon Incentives API (AGCOD).
//!
//! Source: the vendor's pages, a machine-readable model, captured answers. The creationRequestId is the idempotency key:
//! the same id and amount again gives the same card, so that is also the only inquiry, and it *issues* if the first call
//! never arrived. Amazon forbids to store claim codes: none is kept, and none leaves this file but to be shown.
//!
//! Assumed, since no source says it: an unanswered call lands within a minute; a request id is remembered for at least
//! a day; a card can be cancelled by its creationRequestId alone. The HTTP status of the F-codes is not documented
//! either, so bodies are classified by errorCode first and errorType second (`GeneralError` comes with F100, F300 and F500).

mod answer;
mod sigv4;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::ensure;
use aws_credential_types::Credentials;
use http::Method;
use noshi_jobs::{
    gift_issuance::{Args, Cancel, Contract, Inquiry, Issue, Trade},
    machine::Call,
    money::Currency,
};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use super::{
    Budget, CodePolicy, Funds, GiftProvider, Offer, Refetch, aws,
    http::{Answer, Gate, Http},
    settings::{Account, AmazonCredentials, Defaults, GiftSettings, secret},
    wire::major_units,
};
use crate::vault::Vault;

pub const NAME: &str = "amazon_incentives";

/// 10 calls a second on any endpoint and a client timeout of 6 s are the vendor's words. A private connection over a second's way takes
/// three seconds of it before anything is asked, so the connection has a time of its own, and the answer is waited for a little longer: what
/// is given up is in doubt.
pub(super) const DEFAULTS: Defaults = Defaults {
    provider: NAME,
    connect_timeout: Duration::from_secs(6),
    read_timeout: Duration::from_secs(10),
    timeout: Duration::from_secs(15),
    settle_seconds: 60,
    horizon_seconds: 24 * 60 * 60,
    poll_seconds: 60,
    calls_per_second: 10,
};

struct AmazonIncentives {
    http: Http,
    signer: sigv4::Signer,
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
            signer: sigv4::Signer { credentials, region: region.clone() },
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
        match self.http.send(request, gate).await {
            // The signature is looked at before anything else.
            Answer::Reply(reply)
                if answer::refusal_of_signature(&reply)
                    .is_some_and(|refusal| aws::clock_is_off(NAME, &reply, &refusal, gate)) =>
            {
                Answer::NotSent
            }
            answer @ (Answer::Reply(_) | Answer::NotSent | Answer::Unknown) => answer,
        }
    }

    /// The same id and amount again give the same card.
    async fn create(&self, args: &Args, trade: &Trade, gate: &Gate) -> Answer {
        let body = json!({
            "creationRequestId": trade.id,
            "partnerId": self.partner_id,
            "value": {"currencyCode": args.value.currency.code(), "amount": major_units(args.value)},
        });
        self.call("CreateGiftCard", &body, gate).await
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
            match self.create(args, trade, gate).await {
                Answer::Reply(reply) => answer::issued(&reply, &trade.id, args.value),
                Answer::NotSent => Issue::NotSent,
                Answer::Unknown => Issue::Unknown,
            }
        })
    }

    fn refetch<'a>(&'a self, args: &'a Args, trade: &'a Trade, gate: &'a Gate) -> Call<'a, Refetch> {
        Box::pin(async move {
            match self.create(args, trade, gate).await {
                Answer::Reply(reply) => answer::refetched(&reply, &trade.id, args.value),
                Answer::NotSent | Answer::Unknown => Refetch::NoAnswer,
            }
        })
    }

    fn inquire<'a>(&'a self, _: &'a Args, _: &'a Trade, _: Option<&'a str>, _: &'a Gate) -> Call<'a, Inquiry> {
        Box::pin(async { Inquiry::NoAnswer })
    }

    fn cancel<'a>(&'a self, _: &'a Args, trade: &'a Trade, card: Option<&'a str>, gate: &'a Gate) -> Call<'a, Cancel> {
        Box::pin(async move {
            let mut body = json!({"creationRequestId": trade.id, "partnerId": self.partner_id});
            if let Some(card) = card {
                body["gcId"] = card.into();
            }
            match self.call("CancelGiftCard", &body, gate).await {
                Answer::Reply(reply) => answer::cancelled(&reply, &trade.id),
                Answer::NotSent => Cancel::NotSent,
                Answer::Unknown => Cancel::Unknown,
            }
        })
    }

    fn funds<'a>(&'a self, gate: &'a Gate) -> Call<'a, Funds> {
        Box::pin(async move {
            match self.call("GetAvailableFunds", &json!({"partnerId": self.partner_id}), gate).await {
                Answer::Reply(reply) => answer::funds(&reply),
                Answer::NotSent | Answer::Unknown => Funds::NoAnswer,
            }
        })
    }
}
