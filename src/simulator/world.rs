//! Everything that the simulator remembers, behind one lock, and the things that happen later.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::contract::{self, Read};
use super::desk::Desk;
use super::faults::Faults;
use super::ledger::Ledger;
use super::limiter::Limiter;
use super::shop::Shop;
use super::{Config, Op, PerProvider, Provider, rebuild};

pub struct World {
    pub shops: PerProvider<Shop>,
    pub limiters: PerProvider<Limiter>,
    /// Unix microseconds until which a throttle stated that it holds.
    pub closed_until: PerProvider<u64>,
    pub faults: Faults,
}

pub struct Inner {
    pub config: Config,
    pub ledger: Ledger,
    /// Never held across an await.
    pub world: Mutex<World>,
    closing: watch::Receiver<bool>,
}

/// A lock that a panic elsewhere does not close: each change under it is complete at every point where code can panic.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inner {
    pub fn open(config: Config, closing: watch::Receiver<bool>) -> anyhow::Result<Arc<Inner>> {
        let (ledger, lines) = Ledger::open(&config.ledger)?;
        let world = Mutex::new(rebuild::world(&config, &lines)?);
        Ok(Arc::new(Inner { config, ledger, world, closing }))
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
    pub fn act_at(self: &Arc<Self>, provider: Provider, op: Op, read: Read, lands_us: u64) {
        self.later(lands_us, move |inner| {
            let mut world = lock(&inner.world);
            let shop = world.shops.of_mut(provider);
            let trade = read.trade.clone().unwrap_or_default();
            let mut desk = Desk { late: true, ..desk(inner, shop, provider, op, trade) };
            contract::act(&mut desk, &read.ask);
        });
    }

    fn later(self: &Arc<Self>, at_us: u64, what: impl FnOnce(&Inner) + Send + 'static) {
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
