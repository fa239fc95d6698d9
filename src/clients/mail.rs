//! The mail services, each in one file, behind one trait. A new one: its file, its settings, one arm in [`open`].

use std::{num::NonZeroU32, path::PathBuf, time::Duration};

use anyhow::{Context, ensure};
use lettre::{Address, message::Mailbox};
use noshi_jobs::{email::Send, machine::Call};
use schemars::JsonSchema;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::{Budget, Gate, ses, smtp};
use crate::address::sendable;

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
    Told {
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

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Service {
    Ses,
    Smtp,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EmailSettings {
    /// Who the messages are from: `Name <address>` or an address.
    pub from: String,
    /// `ses` or `smtp`: which of the two tables is used.
    pub service: Service,
    /// Where a message leads; `{reference}` is replaced by what the message is about, percent-encoded.
    pub link: String,
    /// How long an event about a lost answer is waited for. A mail server sends none: so long a send in doubt rests before it is repeated.
    #[serde(default = "fifteen_minutes")]
    pub settle_seconds: u32,
    /// A folder whose templates replace the built-in ones.
    pub templates: Option<PathBuf>,
    /// Amazon SES.
    pub ses: Option<SesSettings>,
    /// A mail server.
    pub smtp: Option<SmtpSettings>,
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

const fn fifteen_minutes() -> u32 {
    15 * 60
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SesSettings {
    /// As AWS names it, such as `ap-northeast-1`.
    pub region: String,
    /// Only for a simulator or a private endpoint.
    pub base_url: Option<String>,
    /// Plain HTTP to another machine, such as a simulator in another container.
    #[serde(default)]
    pub allow_plain_http: bool,
    /// The certificates, in PEM, of a private authority that signs the partner's; trusted beside those of the machine.
    pub ca_file: Option<PathBuf>,
    /// It publishes the events to the topics below; without it no doubt is ever settled by an event.
    pub configuration_set: String,
    /// The SNS topics whose notifications are believed.
    pub topics: Vec<String>,
    /// A fixed certificate to check notifications with, instead of Amazon's.
    pub certificate_file: Option<PathBuf>,
    /// For the connection.
    #[schemars(extend("default" = millis(ses::CONNECT_TIMEOUT)))]
    pub connect_timeout_ms: Option<u64>,
    /// For a whole call.
    #[schemars(extend("default" = millis(ses::TIMEOUT)))]
    pub timeout_ms: Option<u64>,
    /// How differently long two sends may travel; wider spacing, never more than the quota at the receiver.
    #[schemars(extend("default" = millis(JITTER)))]
    pub jitter_ms: Option<u64>,
    /// How often the account's quota is asked for.
    #[serde(default = "five_minutes")]
    pub quota_seconds: NonZeroU32,
}

const fn five_minutes() -> NonZeroU32 {
    NonZeroU32::new(300).unwrap()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Tls {
    /// From the first byte, usually at port 465.
    Implicit,
    /// Required, never optional: a server that does not offer it gets nothing.
    Starttls,
    /// Only to this machine.
    None,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SmtpSettings {
    /// The server's name, as its certificate has it.
    pub host: String,
    /// Usually 465 with `implicit`, 587 with `starttls`.
    pub port: u16,
    /// `implicit`, `starttls`, or `none`, which goes to this machine only.
    pub tls: Tls,
    /// Where the server asks for one.
    pub username: Option<String>,
    /// The file with its password.
    pub password_file: Option<PathBuf>,
    /// The certificate, in PEM, of a private authority that signs the server's; trusted beside those of the machine.
    pub ca_file: Option<PathBuf>,
    /// For each part of the dialogue before the body.
    #[schemars(extend("default" = millis(smtp::TIMEOUT)))]
    pub timeout_ms: Option<u64>,
    /// For the reply to the body. Servers may take ten minutes; giving up earlier leaves a mail in doubt that a patient wait would not.
    #[schemars(extend("default" = millis(smtp::REPLY)))]
    pub reply_timeout_ms: Option<u64>,
    /// The budget, over the whole fleet.
    pub sends_per_second: NonZeroU32,
    /// One more budget.
    pub sends_per_day: Option<NonZeroU32>,
}

/// The service that the settings name.
pub fn open(settings: &EmailSettings) -> anyhow::Result<Box<dyn MailService>> {
    let from = mailbox(&settings.from)?;
    match settings.service {
        Service::Ses => {
            let ses = settings.ses.as_ref().context("`service = \"ses\"` needs the table [email.ses]")?;
            Ok(Box::new(ses::Ses::new(ses, &from, settings.settle_seconds)?))
        }
        Service::Smtp => {
            let smtp = settings.smtp.as_ref().context("`service = \"smtp\"` needs the table [email.smtp]")?;
            Ok(Box::new(smtp::Smtp::new(smtp, from, settings.settle_seconds)?))
        }
    }
}

fn mailbox(from: &str) -> anyhow::Result<Mailbox> {
    let mailbox: Mailbox =
        from.parse().with_context(|| format!("`from` of [email] is `{from}`; write it as `Name <address>`"))?;
    ensure!(!from.contains(['\r', '\n']), "`from` of [email] must be one line");
    Ok(mailbox)
}

/// An address that can be sent to. What is wrong with it is not told: it would be quoted.
pub fn address(text: &SecretString) -> Option<Address> {
    sendable(text.expose_secret().trim()).ok()?.parse().ok()
}

pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const DAY: Duration = Duration::from_secs(24 * 60 * 60);
pub(super) const JITTER: Duration = Duration::from_millis(100);
