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

/// `noshi console run`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ConsoleSettings {
    /// Where it listens. It speaks plain HTTP: put it behind a TLS-terminating proxy.
    pub listen: SocketAddr,
    /// As browsers name it: https, or a loopback host. Requests for any other host are refused.
    pub origin: String,
    /// The zone in which its pages tell times.
    pub zone: String,
}

impl Default for ConsoleSettings {
    fn default() -> Self {
        ConsoleSettings {
            listen: SocketAddr::from(([127, 0, 0, 1], 8090)),
            origin: "http://127.0.0.1:8090".to_owned(),
            zone: "UTC".to_owned(),
        }
    }
}

impl ConsoleSettings {
    /// Elsewhere browsers drop the cookie of a session, and do not say where a request comes from.
    pub fn host(&self) -> anyhow::Result<&str> {
        let (secure, host) = match (self.origin.strip_prefix("https://"), self.origin.strip_prefix("http://")) {
            (Some(host), _) => (true, host),
            (None, Some(host)) => (false, host),
            (None, None) => (false, ""),
        };
        let name = host.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok()).map_or(host, |(name, _)| name);
        let plain = !host.is_empty() && !host.contains(['/', '@', '?', '#', ' ']) && host == host.to_ascii_lowercase();
        ensure!(
            plain && (secure || ["localhost", "127.0.0.1", "[::1]"].contains(&name)),
            "console.origin is `{}`; it must be https://HOST, or http:// with localhost, 127.0.0.1 or [::1], in small letters and without a path",
            self.origin
        );
        Ok(host)
    }

    pub fn zone(&self) -> anyhow::Result<chrono_tz::Tz> {
        self.zone
            .parse()
            .map_err(|_| anyhow::anyhow!("console.zone is `{}`; it must be a zone such as Asia/Tokyo", self.zone))
    }
}

#[cfg(test)]
mod tests {
    use super::ConsoleSettings;

    #[test]
    fn a_console_has_an_origin_that_browsers_trust() {
        let host = |origin: &str| {
            let settings = ConsoleSettings { origin: origin.to_owned(), ..ConsoleSettings::default() };
            settings.host().map(str::to_owned).ok()
        };
        for good in ["https://noshi.example", "https://noshi.example:8443", "http://localhost:8090", "http://[::1]:1"] {
            assert_eq!(host(good).as_deref(), good.split_once("://").map(|(_, host)| host), "{good}");
        }
        for bad in [
            "",
            "noshi.example",
            "http://noshi.example",
            "http://localhost.evil.example",
            "https://a/b",
            "https://",
            "https://A",
        ] {
            assert_eq!(host(bad), None, "{bad}");
        }
    }
}
