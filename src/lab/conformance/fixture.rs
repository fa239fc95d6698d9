//! What the suite has to know of each provider.

use http::StatusCode;
use serde_json::{Value, json};

use super::YEN;
use crate::lab::simulator::{Credentials, Provider};

/// The code in all scripted answers.
const CODE: &str = "CNRY-AAAAAA-BBBB";

pub struct Fixture {
    pub simulated: Provider,
    /// The fields of `credentials`; `{key}` stands for the file with the secret.
    pub credentials: &'static str,
    pub secret: &'static str,
    pub product: &'static str,
    /// The status and the body of a good answer to an issue.
    pub issued: fn(trade: &str) -> (StatusCode, Value),
    /// The inquiries that there are.
    pub questions: &'static [Question],
    /// JSON pointers into the issue body: without any of them nothing is issued.
    pub needed: &'static [&'static str],
    /// Of these, the ones that say whose it is, how much, and that it is good: changed, nothing is issued.
    pub decisive: &'static [&'static str],
}

/// One way to inquire.
pub struct Question {
    pub reference: Option<&'static str>,
    /// Wraps the body of an answer to an issue as the answer to this.
    pub answer: fn(Value) -> Value,
}

pub fn fixture(name: &str) -> Fixture {
    match name {
        "amazon_incentives" => Fixture {
            simulated: Provider::AmazonIncentives,
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
                (StatusCode::OK, body)
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
        },
        "gift_on_demand" => Fixture {
            simulated: Provider::GiftOnDemand,
            credentials: r#"api_key_file = "{key}""#,
            secret: "s3cr3t-gift",
            product: "COFFEE",
            issued: |trade| {
                let body = json!({
                    "tradeId": trade,
                    "status": "ISSUED",
                    "giftId": "G1",
                    "giftCode": CODE,
                    "faceValue": YEN.amount,
                    "currency": "JPY",
                    "validUntil": "2030-01-31",
                });
                (StatusCode::OK, body)
            },
            questions: &[Question { reference: None, answer: |body| body }],
            needed: &["/tradeId", "/status", "/giftId", "/giftCode", "/faceValue", "/currency"],
            decisive: &["/tradeId", "/status", "/faceValue", "/currency"],
        },
        "tango_card" => Fixture {
            simulated: Provider::TangoCard,
            credentials: r#"platform_name = "demo", platform_key_file = "{key}", customer_identifier = "customer-1", account_identifier = "account-1""#,
            secret: "s3cr3t-tango",
            product: "U123456",
            issued: |trade| {
                let body = json!({
                    "referenceOrderID": "RA1",
                    "referenceLineItemID": "LI1",
                    "externalRefID": trade,
                    "denomination": {"value": 1000, "currencyCode": "JPY"},
                    "status": "COMPLETE",
                    "reward": {"credentials": {"Redemption Code": CODE}},
                });
                (StatusCode::CREATED, body)
            },
            questions: &[
                Question { reference: None, answer: |order| json!({"page": {"number": 0}, "orders": [order]}) },
                Question { reference: Some("RA1"), answer: |order| order },
            ],
            needed: &[
                "/referenceOrderID",
                "/externalRefID",
                "/denomination/value",
                "/denomination/currencyCode",
                "/status",
                "/reward/credentials/Redemption Code",
            ],
            decisive: &["/externalRefID", "/denomination/value", "/denomination/currencyCode", "/status"],
        },
        other => panic!("the conformance suite does not know `{other}` yet: give it a fixture"),
    }
}

/// The same credentials for the simulator.
pub fn credentials() -> Credentials {
    Credentials {
        amazon_key_id: "AKIDTEST".to_owned(),
        amazon_secret: fixture("amazon_incentives").secret.to_owned(),
        gift_on_demand_key: fixture("gift_on_demand").secret.to_owned(),
        tango_key: fixture("tango_card").secret.to_owned(),
        ..Credentials::default()
    }
}
