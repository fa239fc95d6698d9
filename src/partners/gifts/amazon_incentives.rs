//! Amazon Incentives API (AGCOD).
//!
//! Source: the vendor's pages, a machine-readable model, captured answers. The creationRequestId is the idempotency key:
//! the same id and amount again gives the same card, so that is also the only inquiry, and it *issues* if the first call
//! never arrived. Amazon forbids to store claim codes: none is kept, and none leaves this file but to be shown.
//!
//! Assumed, since no source says it: an unanswered call lands within a minute; a request id is remembered for at least
//! a day; a card can be cancelled by its creationRequestId alone. The HTTP status of the F-codes is not documented
//! either, so bodies are classified by errorCode first and errorType second (`GeneralError` comes with F100, F300 and F500).
//!
//! Whose fact each answer is, as the code reads it:
//!
//! | asked | answer | whose fact | comes to |
//! |---|---|---|---|
//! | issue | 200 and a whole card of this trade | message | issued |
//! | issue | F100 GeneralError, whatever the status | network | in doubt |
//! | issue | F200 InvalidAmountInput, whatever the status | message | refused (InvalidAmountInput) |
//! | issue | F200 MaxAmountExceeded, whatever the status | message | refused (MaxAmountExceeded) |
//! | issue | F200 RequestedDenominationMismatch, whatever the status | message | in doubt, parked: the id is another gift's |
//! | issue | F200 RequestIdMustStartWithPartnerName, whatever the status | account | retry; lane closed: credentials |
//! | issue | F300 InsufficientFunds, whatever the status | account | retry; lane closed: funds |
//! | issue | F300 IssuanceCapExceeded, whatever the status | account | retry; lane closed: funds |
//! | issue | F300 CustomerSurpassedDailyVelocityLimit, whatever the status | account | retry; lane closed: funds |
//! | issue | F300 AccountHasProblems, whatever the status | account | retry; lane closed: credentials |
//! | issue | F300 SomethingNew, whatever the status | account | retry; lane closed: credentials |
//! | issue | F400 SystemTemporarilyUnavailable, whatever the status | message | once more under the same id |
//! | issue | F500 GeneralError, whatever the status | network | in doubt |
//! | issue | F900 SomethingNew, whatever the status | network | in doubt |
//! | issue | 400 {"message":"Rate exceeded"} | account | retry; lane throttled for 10 s |
//! | issue | 403 {"message":"The security token included in the request is invalid."} | account | retry; lane closed: credentials |
//! | issue | 403 a signature refused, the clocks agree | account | retry; lane closed: credentials |
//! | issue | 403 a signature refused, the answer's Date far from our clock | process | retry; this process keeps away: clock |
//! | issue | 403 {"message":"Signature expired: 20300101T000000Z is now earlier than"} | process | retry; this process keeps away: clock |
//! | issue | 403 {"__type":"RequestTimeTooSkewed"} | process | retry; this process keeps away: clock |
//! | issue | 200 {"status":"SUCCESS"} | network | in doubt |
//! | issue | 200 {"status":"SOMETHING_NEW"} | network | in doubt |
//! | issue | 500 {"message":"Internal Server Error"} | network | in doubt |
//! | issue | 403 {} | network | in doubt |
//! | issue | 200, 201 or 202 with a page or without a body | network | in doubt |
//! | issue | 200 that ends early | network | in doubt |
//! | issue | 300 to 308, to another host: it is not followed | network | in doubt |
//! | issue | 400 to 499 but 429, known or not, with a page or without a body, such as 401, 403, 407, 413, 421, 426, 431, 451 | network | in doubt |
//! | issue | 429 with a page | account | in doubt; lane throttled for 5 s |
//! | issue | 429 with a page, Retry-After: 17 | account | in doubt; lane throttled for 17 s |
//! | issue | 429 with a page, Retry-After: a date 43 s after its own | account | in doubt; lane throttled for 43 s |
//! | issue | 429 with a page, Retry-After: soon, -5 or 0 | account | in doubt; lane throttled for 5 s |
//! | issue | 429 with a page, Retry-After: 99999999999999999999 | account | in doubt; lane throttled for 3600 s |
//! | issue | 500 to 599 with a page or without a body | network | in doubt |
//! | issue | 503 with Retry-After: 17 | account | in doubt; lane throttled for 17 s |
//! | issue | 503 with Retry-After: 99999999999999999999 | account | in doubt; lane throttled for 3600 s |
//! | issue | 503 with Retry-After: soon, -5 or 0; 502 or 504 with any | network | in doubt |
//! | issue | no HTTP at all | network | in doubt |
//! | issue | cut after the request | network | in doubt |
//! | issue | none in time | network | in doubt |
//! | cancel | 200 and a whole card of this trade | message | void |
//! | cancel | F100 GeneralError, whatever the status; F500 GeneralError, whatever the status; F900 SomethingNew, whatever the status; 200 {"status":"SUCCESS"}; 200 {"status":"SOMETHING_NEW"}; 500 {"message":"Internal Server Error"}; 403 {}; 200, 201 or 202 with a page or without a body; 200 that ends early; 300 to 308, to another host: it is not followed; 400 to 499 but 429, known or not, with a page or without a body, such as 401, 403, 407, 413, 421, 426, 431, 451; 500 to 599 with a page or without a body; 503 with Retry-After: soon, -5 or 0; 502 or 504 with any; no HTTP at all; cut after the request; none in time | network | retry, under the same id |
//! | cancel | F200 InvalidAmountInput, whatever the status; F200 MaxAmountExceeded, whatever the status; F200 RequestedDenominationMismatch, whatever the status | message | refused: a person decides |
//! | cancel | F200 RequestIdMustStartWithPartnerName, whatever the status; F300 InsufficientFunds, whatever the status; F300 IssuanceCapExceeded, whatever the status; F300 CustomerSurpassedDailyVelocityLimit, whatever the status; F300 AccountHasProblems, whatever the status; F300 SomethingNew, whatever the status; 403 {"message":"The security token included in the request is invalid."}; 403 a signature refused, the clocks agree | account | retry; lane closed: credentials |
//! | cancel | F400 SystemTemporarilyUnavailable, whatever the status | message | retry, under the same id |
//! | cancel | 400 {"message":"Rate exceeded"} | account | retry; lane throttled for 10 s |
//! | cancel | 403 a signature refused, the answer's Date far from our clock; 403 {"message":"Signature expired: 20300101T000000Z is now earlier than"}; 403 {"__type":"RequestTimeTooSkewed"} | process | retry; this process keeps away: clock |
//! | cancel | 429 with a page; 429 with a page, Retry-After: soon, -5 or 0 | account | retry, under the same id; lane throttled for 5 s |
//! | cancel | 429 with a page, Retry-After: 17; 503 with Retry-After: 17 | account | retry, under the same id; lane throttled for 17 s |
//! | cancel | 429 with a page, Retry-After: a date 43 s after its own | account | retry, under the same id; lane throttled for 43 s |
//! | cancel | 429 with a page, Retry-After: 99999999999999999999; 503 with Retry-After: 99999999999999999999 | account | retry, under the same id; lane throttled for 3600 s |
//! | connecting | nobody listens | network | retry |
//! | connecting | plain HTTP where TLS is to be | account | retry; lane closed: tls_failed |

mod answer;
mod sigv4;

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::ensure;
use aws_credential_types::Credentials;
use http::Method;
use noshi_jobs::{
    gift_issuance::{Args, Cancel, Inquiry, Issue, Trade},
    machine::Call,
    money::Currency,
};
use schemars::JsonSchema;
use secrecy::ExposeSecret;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Adapter, CodePolicy, Funds, GiftProvider, Offer, Refetch, Terms,
    settings::{Account, Defaults},
};
use crate::{
    partners::{
        aws,
        http::{Answer, Gate, Http},
        secret::secret,
        wire::major_units,
    },
    vault::Vault,
};

pub const NAME: &str = "amazon_incentives";

/// 10 calls a second on any endpoint and a client timeout of 6 s are the vendor's words. A private connection over a second's way takes
/// three seconds of it before anything is asked, so the connection has a time of its own, and the answer is waited for a little longer: what
/// is given up is in doubt.
const DEFAULTS: Defaults = Defaults {
    provider: NAME,
    connect_timeout: Duration::from_secs(6),
    read_timeout: Duration::from_secs(10),
    timeout: Duration::from_secs(15),
    settle_seconds: 60,
    horizon_seconds: 24 * 60 * 60,
    poll_seconds: 60,
    calls_per_second: 10,
};

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AmazonCredentials {
    /// Five letters and digits, given by Amazon; every request id begins with it.
    pub partner_id: String,
    /// `us-east-1`, `eu-west-1`, or `us-west-2` (which serves Japan).
    pub region: String,
    /// The public half of the key.
    pub access_key_id: String,
    /// The file with the secret half.
    pub secret_key_file: PathBuf,
}

pub struct AmazonIncentives {
    http: Http,
    signer: sigv4::Signer,
    partner_id: String,
    terms: Terms,
}

impl AmazonIncentives {
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
    fn terms(&self) -> &Terms {
        &self.terms
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

impl Adapter for AmazonIncentives {
    const DEFAULTS: Defaults = DEFAULTS;
    type Credentials = AmazonCredentials;

    fn sells(account: &Account<AmazonCredentials>) -> anyhow::Result<Vec<Offer>> {
        account.offers(&DEFAULTS, &Currency::ALL)
    }

    fn open(account: &Account<AmazonCredentials>, _: &Arc<Vault>) -> anyhow::Result<Self> {
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
            terms: Terms {
                name: NAME,
                trade_prefix: partner_id.clone(),
                contract: account.contract(&DEFAULTS, true, false, true),
                budgets: account.budgets(&DEFAULTS),
                code_policy: CodePolicy::Refetch,
                offers: Self::sells(account)?,
            },
        })
    }

    #[cfg(test)]
    const FIXTURE: Fixture = Fixture {
        credentials: r#"partner_id = "Noshi", region = "us-west-2", access_key_id = "AKIDTEST", secret_key_file = "{key}""#,
        secret: "s3cr3t-amazon",
        product: "",
        issued: |trade| {
            let value = json!({"amount": 1000.0, "currencyCode": "JPY"});
            let body = json!({
                "cardInfo": {"cardNumber": null, "cardStatus": "Fulfilled", "expirationDate": null, "value": value},
                "creationRequestId": trade,
                "gcClaimCode": CODE,
                "gcExpirationDate": "Thu Jun 10 14:59:59 UTC 2032",
                "gcId": "A2GCN9BRX5QS76",
                "status": "SUCCESS",
            });
            (http::StatusCode::OK, body)
        },
        questions: &[],
        needed: &[
            "/cardInfo/cardStatus",
            "/cardInfo/value/amount",
            "/cardInfo/value/currencyCode",
            "/creationRequestId",
            "/gcClaimCode",
            "/gcId",
            "/status",
        ],
        decisive: &[
            "/cardInfo/cardStatus",
            "/cardInfo/value/amount",
            "/cardInfo/value/currencyCode",
            "/creationRequestId",
            "/status",
        ],
    };
}

#[cfg(test)]
use crate::partners::conformance::{CODE, Fixture};
