//! What every mail service does, one account at a time.

use std::time::Duration;

use lettre::Address;
use noshi_jobs::{email::Send, machine::Call};
use secrecy::{ExposeSecret, SecretString};

use crate::{
    basics::address::sendable,
    partners::{Budget, Gate},
};

/// A message, rendered, to one recipient. It has no `Debug`: it holds a name and an address.
pub struct Letter {
    /// The tag by which the service's events find the job again.
    pub job: i64,
    /// What tells this message from every other, of other installations too, and stays the same for ever.
    pub mark: String,
    pub template: &'static str,
    pub to: SecretString,
    pub subject: SecretString,
    pub text: SecretString,
    pub html: SecretString,
}

/// What the service says that the account may send.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Quota {
    Known {
        per_second: f64,
        per_day: f64,
        /// In the last 24 hours.
        sent: f64,
    },
    /// No answer, or none that can be read.
    NoAnswer,
    /// The service has no such question: the budgets are those of the settings.
    Fixed,
}

/// One account at one mail service. Each method makes at most one request, and none is ever repeated here.
pub trait MailService: std::marker::Send + Sync {
    /// Stored with every send: permanent. Also the end of the lane's name, `email/<name>`.
    fn name(&self) -> &'static str;
    /// How long a lost answer is left alone: an event may tell it, and what lost it may be over.
    fn settle_seconds(&self) -> u32;
    /// Until the service has told its own.
    fn budgets(&self) -> Vec<Budget>;
    fn send<'a>(&'a self, letter: &'a Letter, gate: &'a Gate) -> Call<'a, Send>;
    fn quota(&self) -> Call<'_, Quota>;
}

/// An address that can be sent to. What is wrong with it is not told: it would be quoted.
pub fn address(text: &SecretString) -> Option<Address> {
    sendable(text.expose_secret().trim()).ok()?.parse().ok()
}

pub(in crate::partners) const SECOND: Duration = Duration::from_secs(1);
pub(in crate::partners) const DAY: Duration = Duration::from_secs(24 * 60 * 60);
pub(in crate::partners) const JITTER: Duration = Duration::from_millis(100);
