//! What was found, each fault with how to fix it.

use serde::Serialize;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    Good,
    /// Promises hold; something will be slow, or wants a look.
    Fair,
    /// A promise does not hold.
    Bad,
}

#[derive(Debug, Serialize)]
pub struct Finding {
    pub what: &'static str,
    pub health: Health,
    pub found: String,
    pub fix: Option<String>,
}

/// What was found, one by one.
#[derive(Default)]
pub struct Findings(pub Vec<Finding>);

impl Findings {
    pub(super) fn good(&mut self, what: &'static str, found: impl Into<String>) {
        self.0.push(Finding { what, health: Health::Good, found: found.into(), fix: None });
    }

    pub fn wrong(&mut self, what: &'static str, health: Health, found: impl Into<String>, fix: impl Into<String>) {
        self.0.push(Finding { what, health, found: found.into(), fix: Some(fix.into()) });
    }

    pub(super) fn check(&mut self, what: &'static str, holds: bool, bad: Health, found: impl Into<String>, fix: &str) {
        if holds { self.good(what, found) } else { self.wrong(what, bad, found, fix) }
    }

    /// Good where nothing is on the list.
    pub(super) fn none_of(&mut self, what: &'static str, bad: Health, list: &[String], good: &str, fix: &str) {
        let found = if list.is_empty() { good.to_owned() } else { list.join("; ") };
        self.check(what, list.is_empty(), bad, found, fix);
    }
}
