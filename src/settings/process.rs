//! How our own processes run. Each key has a flag of the same name that wins over it.

use std::{net::SocketAddr, time::Duration};

use anyhow::ensure;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::engine::Pace;

/// `noshi worker run`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct WorkerSettings {
    /// A name for people; every start is a new worker.
    pub name: String,
    /// Jobs in flight at once, 1 to 4096.
    pub slots: u16,
    /// Milliseconds of silence after which the worker may be declared dead, 500 at least. The same for the whole fleet.
    pub lease_ms: u64,
    /// Milliseconds between looks at an idle lane, when no hint comes, 10 at least.
    pub poll_ms: u64,
    /// Milliseconds that a graceful stop waits for steps in flight.
    pub grace_ms: u64,
    /// LISTEN for hints; `false`: polling alone.
    pub listen: bool,
    /// Where /metrics, /livez and /readyz are served; without it, nowhere.
    pub metrics: Option<SocketAddr>,
    /// Milliseconds for which /readyz already says 503 before a stopping worker stops to claim. Nothing is routed to a worker, so none
    /// are needed.
    pub unready_ms: u64,
}

impl Default for WorkerSettings {
    fn default() -> Self {
        let pace = Pace::default();
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        WorkerSettings {
            name: "worker".to_owned(),
            slots: u16::try_from(pace.slots).unwrap_or(u16::MAX),
            lease_ms: millis(pace.lease),
            poll_ms: millis(pace.poll),
            grace_ms: millis(pace.grace),
            listen: pace.listen,
            metrics: None,
            unready_ms: millis(pace.unready),
        }
    }
}

impl WorkerSettings {
    pub fn pace(&self) -> anyhow::Result<Pace> {
        ensure!((1..=4096).contains(&self.slots), "worker.slots is {}; it must be 1 to 4096", self.slots);
        ensure!(self.lease_ms >= 500, "worker.lease_ms is {}; it must be 500 at least", self.lease_ms);
        ensure!(self.poll_ms >= 10, "worker.poll_ms is {}; it must be 10 at least", self.poll_ms);
        Ok(Pace {
            slots: self.slots.into(),
            lease: Duration::from_millis(self.lease_ms),
            poll: Duration::from_millis(self.poll_ms),
            grace: Duration::from_millis(self.grace_ms),
            listen: self.listen,
            unready: Duration::from_millis(self.unready_ms),
        })
    }
}

/// `noshi api run`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ApiSettings {
    /// Where it listens. It speaks plain HTTP: put it behind a TLS-terminating proxy.
    pub listen: SocketAddr,
    /// Milliseconds for which /readyz already says 503 before a stopping API stops to listen, so that a load balancer notices in time.
    pub unready_ms: u64,
}

impl Default for ApiSettings {
    fn default() -> Self {
        ApiSettings { listen: SocketAddr::from(([127, 0, 0, 1], 8080)), unready_ms: 3_000 }
    }
}

impl ApiSettings {
    pub fn unready(&self) -> Duration {
        Duration::from_millis(self.unready_ms)
    }
}
