//! The settings of the mail services. Their secrets are in files of their own.

use std::{num::NonZeroU32, path::PathBuf, time::Duration};

use schemars::JsonSchema;
use serde::Deserialize;

use super::service::JITTER;

pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(8);

pub(super) const SES_TIMEOUT: Duration = Duration::from_secs(30);

/// For each command before the body.
pub(super) const SMTP_TIMEOUT: Duration = Duration::from_secs(30);

/// For the reply to the body: what the standard gives a server. Whoever gives up earlier has sent a mail and does not know it.
pub(super) const REPLY: Duration = Duration::from_secs(10 * 60);

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
    #[schemars(extend("default" = millis(CONNECT_TIMEOUT)))]
    pub connect_timeout_ms: Option<u64>,
    /// For a whole call.
    #[schemars(extend("default" = millis(SES_TIMEOUT)))]
    pub timeout_ms: Option<u64>,
    /// How differently long two sends may travel; wider spacing, never more than the quota at the receiver.
    #[schemars(extend("default" = millis(JITTER)))]
    pub jitter_ms: Option<u64>,
    /// How often the account's quota is asked for.
    #[serde(default = "five_minutes")]
    pub quota_seconds: NonZeroU32,
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
    #[schemars(extend("default" = millis(SMTP_TIMEOUT)))]
    pub timeout_ms: Option<u64>,
    /// For the reply to the body. Servers may take ten minutes; giving up earlier leaves a mail in doubt that a patient wait would not.
    #[schemars(extend("default" = millis(REPLY)))]
    pub reply_timeout_ms: Option<u64>,
    /// The budget, over the whole fleet.
    pub sends_per_second: NonZeroU32,
    /// One more budget.
    pub sends_per_day: Option<NonZeroU32>,
}

const fn five_minutes() -> NonZeroU32 {
    NonZeroU32::new(300).unwrap()
}
