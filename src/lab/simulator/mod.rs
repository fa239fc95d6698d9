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
mod call_context;
mod command;
mod config;
mod context;
mod control;
mod deliver;
mod faults;
mod gift_on_demand;
mod ledger;
mod limiter;
pub mod link;
mod lock;
mod messages;
mod organization_platform;
mod partner;
mod publish;
mod rebuild;
mod ses;
mod shop;
mod sigv4;
mod sns;
mod state;
mod switchboard;
mod tango_card;
#[cfg(test)]
mod tests;
mod wire;

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use axum::Router;
use axum::routing::{get, post};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use self::context::Inner;

pub use self::command::{SimulateArgs, run};
pub use self::config::{Config, Credentials, PlatformConfig, Publishing, SesConfig};
pub use self::control::{Command, Control};
pub use self::faults::Fault;
pub use self::ledger::{Event, Line};
pub use self::organization_platform::Scene;
pub use self::partner::{Errand, Op, Partner, PerProvider, Provider};
pub use self::ses::state::Sending;
pub use self::sns::CERTIFICATE as SNS_TEST_CERTIFICATE;

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
