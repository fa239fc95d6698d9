//! Everything that the simulator remembers, behind one lock, and the things that happen later.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::{
    Config, Op, PerProvider, Provider,
    contract::{self, Any, Way},
    desk::Desk,
    faults::Faults,
    ledger::Ledger,
    limiter::Limiter,
    organization_platform::Platform,
    partner::Partner,
    publish::Publishing,
    rebuild,
    ses::Ses,
    shop::Shop,
};

pub struct World {
    pub shops: PerProvider<Shop>,
    pub platform: Platform,
    pub ses: Ses,
    pub gates: HashMap<Partner, Gate>,
    pub faults: Faults,
}

/// How many calls a partner takes, and when.
#[derive(Default)]
pub struct Gate {
    pub limiter: Limiter,
    /// Unix microseconds until which a throttle stated that it holds.
    pub closed_until: u64,
}

impl World {
    pub fn gate(&mut self, partner: Partner) -> &mut Gate {
        self.gates.entry(partner).or_default()
    }

    /// When what an inquiry asks about came to be, if it is there.
    pub fn made_us(&self, partner: Partner, read: &Any) -> Option<u64> {
        let trade = read.trade.as_deref().unwrap_or_default();
        match partner {
            Partner::Gift(provider) => self.shops.of(provider).of_trade(trade).map(|card| card.at_us),
            Partner::OrganizationPlatform => self.platform.newest_us(trade),
            Partner::Ses => None,
        }
    }
}

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

/// A lock that a panic elsewhere does not close: each change under it is complete at every point where code can panic.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// After a restart: orders that were accepted still land.
    pub fn resume_pending(self: &Arc<Self>) {
        for provider in Provider::ALL {
            let accepted: Vec<_> = {
                let world = lock(&self.world);
                let shop = world.shops.of(provider);
                shop.accepted().map(|(card, lands_us)| (card.id.clone(), lands_us)).collect()
            };
            for (card, lands_us) in accepted {
                self.land_at(provider, card, lands_us);
            }
        }
    }

    pub fn land_at(self: &Arc<Self>, provider: Provider, card: String, lands_us: u64) {
        self.later(lands_us, move |inner| {
            let mut world = lock(&inner.world);
            let shop = world.shops.of_mut(provider);
            let Some(trade) = shop.card(&card).map(|card| card.trade.clone()) else {
                return;
            };
            let mut desk = Desk { late: true, ..desk(inner, shop, provider, Op::Issue, trade) };
            desk.land(&card);
        });
    }

    /// The call whose connection was reset at once. It is lost if the simulator ends first: nobody was promised it.
    pub fn act_at(self: &Arc<Self>, partner: Partner, read: Any, lands_us: u64) {
        self.later(lands_us, move |inner| {
            let mut world = lock(&inner.world);
            contract::act(inner, &mut world, partner, &read, &Way { pend_until: None, late: true, other: None });
        });
    }

    fn later(self: &Arc<Self>, at_us: u64, what: impl FnOnce(&Arc<Inner>) + Send + 'static) {
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

pub fn desk<'a>(inner: &'a Inner, shop: &'a mut Shop, provider: Provider, op: Op, trade: String) -> Desk<'a> {
    Desk { inner, shop, provider, op, trade, late: false, pend_until: None, pending: None }
}
