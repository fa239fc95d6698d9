//! The simulator: three gift providers, an organisation platform and SES, which keep an honest ledger and fail on purpose.
//!
//! It stands in for the outside world in `noshi demo`, `noshi simulate` and the tests. What really happened is what
//! its ledger says (`ledger.rs`), whatever the caller was told: every line that an answer depends on is on disk
//! before the answer leaves. One listener, five path prefixes: `/amazon_incentives`, `/gift_on_demand`,
//! `/tango_card`, `/organization_platform`, `/ses`, each with the contract that the file of that name describes.
//!
//! Money is whole yen everywhere. Cards, orders, balances and throttles live in memory and are rebuilt from the
//! ledger at start. Scripts, modes and blocks set through [`Control`], and events not yet delivered, are not: they end
//! with the process.

mod amazon_incentives;
mod basic_auth;
mod call;
mod command;
mod contract;
mod control;
mod deliver;
mod desk;
mod faults;
mod gift_on_demand;
mod ledger;
mod limiter;
pub mod link;
mod organization_platform;
mod partner;
mod publish;
mod rebuild;
mod ses;
mod shop;
mod sigv4;
mod sns;
mod tango_card;
#[cfg(test)]
mod tests;
mod wire;
mod world;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::routing::{get, post};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use self::world::Inner;

pub use self::command::{SimulateArgs, run};
pub use self::control::{Command, Control};
pub use self::faults::Fault;
pub use self::ledger::{Event, Line};
pub use self::organization_platform::{PlatformConfig, Scene};
pub use self::partner::{Errand, Partner};
pub use self::publish::Publishing;
pub use self::ses::{Sending, SesConfig};
pub use self::sns::CERTIFICATE as SNS_TEST_CERTIFICATE;

/// The three simulated gift providers; the serialized names are also the path prefixes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Provider {
    AmazonIncentives,
    GiftOnDemand,
    TangoCard,
}

impl Provider {
    pub const ALL: [Provider; 3] = [Provider::AmazonIncentives, Provider::GiftOnDemand, Provider::TangoCard];

    pub fn name(self) -> &'static str {
        match self {
            Provider::AmazonIncentives => "amazon_incentives",
            Provider::GiftOnDemand => "gift_on_demand",
            Provider::TangoCard => "tango_card",
        }
    }

    pub fn from_name(name: &str) -> Option<Provider> {
        Self::ALL.into_iter().find(|p| p.name() == name)
    }
}

/// What a call to a gift provider wants. Amazon has no `Inquire`: asking again is issuing again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    Issue,
    Inquire,
    Cancel,
    Funds,
}

impl Op {
    pub fn name(self) -> &'static str {
        match self {
            Op::Issue => "issue",
            Op::Inquire => "inquire",
            Op::Cancel => "cancel",
            Op::Funds => "funds",
        }
    }
}

/// One value for each provider.
#[derive(Clone, Copy, Debug)]
pub struct PerProvider<T> {
    pub amazon_incentives: T,
    pub gift_on_demand: T,
    pub tango_card: T,
}

impl<T> PerProvider<T> {
    pub fn of(&self, provider: Provider) -> &T {
        match provider {
            Provider::AmazonIncentives => &self.amazon_incentives,
            Provider::GiftOnDemand => &self.gift_on_demand,
            Provider::TangoCard => &self.tango_card,
        }
    }

    pub fn of_mut(&mut self, provider: Provider) -> &mut T {
        match provider {
            Provider::AmazonIncentives => &mut self.amazon_incentives,
            Provider::GiftOnDemand => &mut self.gift_on_demand,
            Provider::TangoCard => &mut self.tango_card,
        }
    }
}

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
    /// Port 0 takes a free one; see [`Simulator::addr`].
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

/// A running simulator. Dropping it lets go of the listener in the background; [`Simulator::stop`] waits until the
/// ledger is complete and free for the next one.
pub struct Simulator {
    addr: SocketAddr,
    inner: Arc<Inner>,
    closing: watch::Sender<bool>,
    server: Option<JoinHandle<std::io::Result<()>>>,
}

impl Simulator {
    pub async fn start(config: Config) -> anyhow::Result<Self> {
        let listen = config.listen;
        let listener = TcpListener::bind(listen)
            .await
            .with_context(|| format!("cannot listen on {listen}; choose another address"))?;
        let addr = listener.local_addr()?;
        let (closing, closed) = watch::channel(false);
        let inner = Inner::open(config, addr, closed.clone())?;
        inner.resume_pending();

        let mut router =
            Router::new().fallback(call::serve).route(sns::CERTIFICATE_PATH, get(|| async { sns::CERTIFICATE }));
        if addr.ip().is_loopback() {
            router = router.route("/_control", post(control::over_http));
        }
        let service = router.with_state(Arc::clone(&inner)).into_make_service_with_connect_info::<wire::Caller>();
        let mut until = closed;
        let server = axum::serve(wire::Front(listener), service).with_graceful_shutdown(async move {
            // An error means that the sender is gone, which is a reason to close as well.
            let _ = until.wait_for(|closing| *closing).await;
        });
        Ok(Simulator { addr, inner, closing, server: Some(tokio::spawn(server.into_future())) })
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Where an adapter's endpoint setting should point, without a trailing slash.
    pub fn base_url(&self, partner: impl Into<Partner>) -> String {
        format!("http://{}/{}", self.addr, partner.into().name())
    }

    /// What callers must show, as JSON. It opens nothing but this simulator.
    pub fn credentials(&self) -> serde_json::Value {
        let Config { credentials: gifts, organization_platform: platform, ses, .. } = &self.inner.config;
        serde_json::json!({
            "amazon_incentives": {"partner_id": gifts.amazon_partner_id, "region": gifts.amazon_region,
                "access_key_id": gifts.amazon_key_id, "secret": gifts.amazon_secret},
            "gift_on_demand": {"api_key": gifts.gift_on_demand_key},
            "tango_card": {"platform_name": gifts.tango_platform, "platform_key": gifts.tango_key},
            "organization_platform": {"token": platform.token, "events_secret": platform.events_secret},
            "ses": {"region": ses.region, "access_key_id": ses.key_id, "secret": ses.secret, "topic": ses.topic_arn},
        })
    }

    pub fn control(&self) -> Control {
        Control::new(Arc::clone(&self.inner))
    }

    /// Returns only when the ledger can no longer be written, with the reason.
    pub async fn broken(&self) -> anyhow::Error {
        self.inner.ledger.broken().await
    }

    /// Ends hung connections, finishes the calls in progress and closes the ledger.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.closing.send_replace(true);
        if let Some(server) = self.server.take() {
            server.await??;
        }
        self.inner.ledger.close()
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        self.closing.send_replace(true);
    }
}
