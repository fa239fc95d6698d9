//! How a simulator is set up.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::partner::{Partner, PerProvider};

/// The credentials that callers must show. They open nothing but this simulator, so they may be printed.
#[derive(Clone, Debug)]
pub struct Credentials {
    pub amazon_key_id: String,
    pub amazon_secret: String,
    /// Exactly 5 characters; every `creationRequestId` starts with it.
    pub amazon_partner_id: String,
    pub amazon_region: String,
    pub gift_on_demand_key: String,
    pub tango_platform: String,
    pub tango_key: String,
}

impl Default for Credentials {
    fn default() -> Self {
        Credentials {
            amazon_key_id: "AKIDEXAMPLEDEMO".into(),
            amazon_secret: "demo-secret".into(),
            amazon_partner_id: "Noshi".into(),
            amazon_region: "us-west-2".into(),
            gift_on_demand_key: "demo-key".into(),
            tango_platform: "demo".into(),
            tango_key: "demo-key".into(),
        }
    }
}

#[derive(Clone, Debug)]
pub struct Config {
    /// Port 0 takes a free one; see `Simulator::addr`.
    pub listen: SocketAddr,
    /// Appended to; if it exists, the state is rebuilt from it.
    pub ledger: PathBuf,
    /// Decides the faults and the codes. A ledger can only be continued with its own seed.
    pub seed: u64,
    /// Seeded random faults (scripted ones work regardless).
    pub faults: bool,
    /// Calls per sliding second; `None` is no limit.
    pub limits: PerProvider<Option<u32>>,
    /// The longest that an effect lands late, and how long a stale inquiry stays blind after an effect.
    pub settle: Duration,
    /// How long `effect_then_hang` holds a connection whose client does not give up.
    pub hang: Duration,
    /// How long after its creation an Amazon card can be cancelled (15 minutes in the real world).
    pub cancel_window: Duration,
    /// Yen on each account when the ledger is new.
    pub balance: PerProvider<i64>,
    pub credentials: Credentials,
    pub organization_platform: PlatformConfig,
    pub ses: SesConfig,
}

impl Config {
    /// A simulator on a free loopback port, without random faults, with the vendors' published call limits
    /// (10, and 1 for Tango; 10 is assumed for gift_on_demand) and a billion yen on each account.
    pub fn new(ledger: impl Into<PathBuf>) -> Config {
        Config {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            ledger: ledger.into(),
            seed: 1,
            faults: false,
            limits: PerProvider { amazon_incentives: Some(10), gift_on_demand: Some(10), tango_card: Some(1) },
            settle: Duration::from_secs(2),
            hang: Duration::from_secs(30),
            cancel_window: Duration::from_secs(15 * 60),
            balance: PerProvider {
                amazon_incentives: 1_000_000_000,
                gift_on_demand: 1_000_000_000,
                tango_card: 1_000_000_000,
            },
            credentials: Credentials::default(),
            organization_platform: PlatformConfig::default(),
            ses: SesConfig::default(),
        }
    }

    pub(crate) fn limit(&self, partner: Partner) -> Option<u32> {
        match partner {
            Partner::Gift(provider) => *self.limits.of(provider),
            Partner::OrganizationPlatform => self.organization_platform.limit,
            Partner::Ses => self.ses.limit,
        }
    }

    pub(crate) fn limit_mut(&mut self, partner: Partner) -> &mut Option<u32> {
        match partner {
            Partner::Gift(provider) => self.limits.of_mut(provider),
            Partner::OrganizationPlatform => &mut self.organization_platform.limit,
            Partner::Ses => &mut self.ses.limit,
        }
    }
}

#[derive(Clone, Debug)]
pub struct PlatformConfig {
    /// Calls per sliding second; `None` is no limit.
    pub limit: Option<u32>,
    pub token: String,
    /// How long the first answer of a key is remembered.
    pub key_memory: Duration,
    /// Where events go; without it none are published.
    pub events_url: Option<String>,
    pub events_secret: String,
}

impl Default for PlatformConfig {
    fn default() -> PlatformConfig {
        PlatformConfig {
            limit: Some(10),
            token: "demo-token".into(),
            key_memory: Duration::from_secs(24 * 60 * 60),
            events_url: None,
            events_secret: "demo-events-secret".into(),
        }
    }
}

#[derive(Clone, Debug)]
pub struct SesConfig {
    /// Calls per sliding second; `None` is no limit.
    pub limit: Option<u32>,
    pub max_24_hour_send: u64,
    /// Where events go; without it none are published.
    pub events_url: Option<String>,
    pub topic_arn: String,
    pub region: String,
    pub key_id: String,
    pub secret: String,
}

impl Default for SesConfig {
    fn default() -> SesConfig {
        SesConfig {
            limit: Some(14),
            max_24_hour_send: 1_000_000,
            events_url: None,
            topic_arn: "arn:aws:sns:ap-northeast-1:123456789012:noshi-mail".into(),
            region: "ap-northeast-1".into(),
            key_id: "AKIDEXAMPLESES".into(),
            secret: "demo-secret".into(),
        }
    }
}

/// How events are published, until told otherwise.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Publishing {
    /// Nothing is published while this holds.
    pub held: bool,
    /// How often each event is delivered.
    pub copies: u32,
    /// How late.
    pub delay_ms: u64,
}

impl Default for Publishing {
    fn default() -> Publishing {
        Publishing { held: false, copies: 1, delay_ms: 0 }
    }
}
