//! The settings of the organisation platform. Its token is in a file of its own.

use std::{num::NonZeroU32, path::PathBuf, time::Duration};

use anyhow::ensure;
use schemars::JsonSchema;
use secrecy::SecretString;
use serde::Deserialize;

use crate::partners::{
    Budget,
    http::{Http, LONGEST_CALL, Reach},
    secret::secret,
};

pub const NAME: &str = "organization_platform";

const CONNECT_TIMEOUT: Duration = Duration::from_secs(8);
const READ_TIMEOUT: Duration = Duration::from_secs(15);
const TIMEOUT: Duration = Duration::from_secs(25);
/// Each new shop fans out to several systems over there, so this stays far below what the platform would take (R54).
const CALLS_PER_SECOND: u32 = 2;
const JITTER: Duration = Duration::from_millis(100);

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// What is left out is as above.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OrganizationSettings {
    /// Staging or production: never a default, since one of them makes real shops.
    pub base_url: String,
    /// Plain HTTP to another machine, such as a simulator in another container.
    #[serde(default)]
    pub allow_plain_http: bool,
    /// The certificates, in PEM, of a private authority that signs the partner's; trusted beside those of the machine.
    pub ca_file: Option<PathBuf>,
    /// The file with our token.
    pub token_file: PathBuf,
    /// The service that every organisation with a store gets.
    pub service: String,
    /// For the connection, at most half of `timeout_ms`.
    #[schemars(extend("default" = millis(CONNECT_TIMEOUT)))]
    pub connect_timeout_ms: Option<u64>,
    /// Between two pieces of an answer.
    #[schemars(extend("default" = millis(READ_TIMEOUT)))]
    pub read_timeout_ms: Option<u64>,
    /// For a whole call.
    #[schemars(extend("default" = millis(TIMEOUT)))]
    pub timeout_ms: Option<u64>,
    /// The budget of the account, over the whole fleet.
    #[schemars(extend("default" = CALLS_PER_SECOND))]
    pub calls_per_second: Option<NonZeroU32>,
    /// How differently long two calls may travel; widens the spacing of calls.
    #[schemars(extend("default" = millis(JITTER)))]
    pub jitter_ms: Option<u64>,
    /// The file with the secret that its events are signed with; without it none are taken.
    pub events_secret_file: Option<PathBuf>,
}

impl OrganizationSettings {
    pub fn budget(&self) -> Budget {
        Budget {
            calls: self.calls_per_second.map_or(CALLS_PER_SECOND, NonZeroU32::get),
            window: Duration::from_secs(1),
            jitter: self.jitter_ms.map_or(JITTER, Duration::from_millis),
        }
    }

    /// What its events are signed with, if they are taken.
    pub fn events_secret(&self) -> anyhow::Result<Option<SecretString>> {
        let file = self.events_secret_file.as_deref();
        file.map(|file| secret(NAME, "secret of the events", file)).transpose()
    }

    pub(in crate::partners) fn http(&self) -> anyhow::Result<Http> {
        let millis = Duration::from_millis;
        let timeout = self.timeout_ms.map_or(TIMEOUT, millis);
        let connect_timeout = self.connect_timeout_ms.map_or(CONNECT_TIMEOUT.min(timeout / 2), millis);
        let read_timeout = self.read_timeout_ms.map_or(READ_TIMEOUT.min(timeout), millis);
        ensure!(
            !connect_timeout.is_zero()
                && connect_timeout < timeout
                && !read_timeout.is_zero()
                && timeout <= LONGEST_CALL,
            "the timeouts of {NAME} do not fit: connect_timeout_ms must be more than 0 and less than timeout_ms, \
             read_timeout_ms more than 0, and timeout_ms 600000 at most"
        );
        Http::new(&Reach {
            provider: NAME,
            base_url: self.base_url.clone(),
            allow_plain_http: self.allow_plain_http,
            ca_file: self.ca_file.clone(),
            connect_timeout,
            read_timeout,
            timeout,
            budgets: vec![self.budget()],
            only: None,
        })
    }
}
