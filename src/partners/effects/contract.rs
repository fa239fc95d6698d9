//! A contract, as its file has it. What each key means: `ops/docs/effects.md`.

use std::collections::BTreeMap;

use noshi_jobs::effect::{Deal, Rule};
use serde::Deserialize;
use serde_json::Value;

use super::template::Template;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contract {
    /// As its file is called, without `.toml`.
    pub name: String,
    /// One call.
    #[serde(default = "ten_seconds")]
    pub timeout_ms: u64,
    /// For so long it is tried to find out what became of the effect; then a person is asked.
    #[serde(default = "an_hour")]
    pub deadline_s: u64,
    pub budget: CallBudget,
    /// What a producer gives, by name.
    #[serde(default)]
    pub input: BTreeMap<String, Input>,
    pub perform: Asks,
    pub doubt: Doubt,
    pub inquire: Option<Asks>,
    pub cancel: Option<Asks>,
    /// What is kept of the answer that says that it is done, by name.
    #[serde(default)]
    pub keep: BTreeMap<String, Keep>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CallBudget {
    pub calls: u32,
    #[serde(default = "one_second")]
    pub per_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Input {
    /// Letters and digits of ASCII, `-`, `_` and `.`.
    Word,
    /// A whole number; alone in a string of the body it is written as a number.
    Whole,
    /// Anything that can be shown: for bodies alone.
    Text,
}

/// A request, and what its answers mean.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asks {
    pub method: String,
    pub url: String,
    #[serde(default)]
    pub headers: BTreeMap<String, Template>,
    /// JSON, whose strings are templates.
    pub body: Option<String>,
    pub answers: Vec<AnswerRule>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnswerRule {
    pub status: Vec<u16>,
    /// A JSON pointer into the answer.
    pub at: Option<String>,
    /// What stands there: one of these.
    pub is: Option<Vec<Value>>,
    /// The whole answer is this text.
    pub text: Option<String>,
    pub means: Means,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Means {
    Done,
    Refused,
    Accepted,
    Happened,
    DidNotHappen,
    NotYet,
    Throttled,
    Credentials,
    Unknown,
}

impl Means {
    pub const fn name(self) -> &'static str {
        match self {
            Means::Done => "done",
            Means::Refused => "refused",
            Means::Accepted => "accepted",
            Means::Happened => "happened",
            Means::DidNotHappen => "did_not_happen",
            Means::NotYet => "not_yet",
            Means::Throttled => "throttled",
            Means::Credentials => "credentials",
            Means::Unknown => "unknown",
        }
    }
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Doubt {
    pub rule: Rule,
    pub horizon_s: Option<u64>,
    pub settles_after_s: Option<u64>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keep {
    /// A JSON pointer into the answer.
    pub at: String,
    #[serde(default)]
    pub sealed: bool,
}

impl Contract {
    /// What of it a job goes by.
    pub fn deal(&self, run: u16) -> Deal {
        Deal {
            run,
            rule: self.doubt.rule,
            horizon_s: self.doubt.horizon_s.unwrap_or_default(),
            settles_after_s: self.doubt.settles_after_s.unwrap_or_default(),
            deadline_s: self.deadline_s,
            cancels: self.cancel.is_some(),
        }
    }

    /// Its requests, by their keys.
    pub fn asks(&self) -> impl Iterator<Item = (&'static str, &Asks)> {
        let named =
            [("perform", Some(&self.perform)), ("inquire", self.inquire.as_ref()), ("cancel", self.cancel.as_ref())];
        named.into_iter().filter_map(|(key, asks)| Some((key, asks?)))
    }
}

const fn ten_seconds() -> u64 {
    10_000
}
const fn one_second() -> u64 {
    1_000
}
const fn an_hour() -> u64 {
    3_600
}
