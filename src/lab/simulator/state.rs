//! Everything that the simulator remembers of its partners.

use std::collections::HashMap;

use super::{
    faults::Faults,
    limiter::Limiter,
    organization_platform::state::Platform,
    partner::{Partner, PerProvider},
    ses::state::Ses,
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
    pub fn made_us(&self, partner: Partner, trade: &str) -> Option<u64> {
        match partner {
            Partner::Gift(provider) => self.shops.of(provider).of_trade(trade).map(|card| card.at_us),
            Partner::OrganizationPlatform => self.platform.newest_us(trade),
            Partner::Ses => None,
        }
    }
}
