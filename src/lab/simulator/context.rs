//! Everything that the simulator remembers, behind one lock, and the things that happen later.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;

use super::{
    config::{Config, Publishing},
    ledger::Ledger,
    rebuild,
    state::World,
};

pub struct Inner {
    pub config: Config,
    pub addr: SocketAddr,
    pub ledger: Ledger,
    /// Never held across an await.
    pub world: Mutex<World>,
    pub publishing: watch::Sender<Publishing>,
    pub http: reqwest::Client,
    closing: watch::Receiver<bool>,
}

impl Inner {
    pub fn open(config: Config, addr: SocketAddr, closing: watch::Receiver<bool>) -> anyhow::Result<Arc<Inner>> {
        let (ledger, lines) = Ledger::open(&config.ledger)?;
        let world = Mutex::new(rebuild::world(&config, &lines)?);
        // Only the first of a process is taken; all are the same.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(10)).build()?;
        let publishing = watch::Sender::default();
        Ok(Arc::new(Inner { config, addr, ledger, world, publishing, http, closing }))
    }

    /// Returns when the simulator stops.
    pub async fn closed(&self) {
        let mut closing = self.closing.clone();
        // An error means that the simulator is gone.
        let _ = closing.wait_for(|closing| *closing).await;
    }

    pub fn later(self: &Arc<Self>, at_us: u64, what: impl FnOnce(&Arc<Inner>) + Send + 'static) {
        let inner = Arc::clone(self);
        let wait = Duration::from_micros(at_us.saturating_sub(self.ledger.now_us()));
        tokio::spawn(async move {
            tokio::select! {
                () = tokio::time::sleep(wait) => what(&inner),
                () = inner.closed() => {}
            }
        });
    }
}
