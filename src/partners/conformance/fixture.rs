//! What the suite has to know of a provider; each adapter's file says it of its own.

use http::StatusCode;
use serde_json::Value;

/// The code in all scripted answers.
pub const CODE: &str = "CNRY-AAAAAA-BBBB";

pub struct Fixture {
    /// The fields of `credentials`; `{key}` stands for the file with the secret.
    pub credentials: &'static str,
    /// It may never be seen, so nothing else is written like it.
    pub secret: &'static str,
    pub product: &'static str,
    /// The status and the body of a good answer to an issue, for 1000 yen.
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
