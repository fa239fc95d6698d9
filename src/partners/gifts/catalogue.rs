//! The gift providers that there are. A new one: its file, its lines here, its settings, and its answers in the conformance suite, which then
//! runs on it.

use std::{sync::Arc, time::Duration};

use super::{
    amazon_incentives, gift_on_demand,
    offers::{Offer, Offers},
    provider::GiftProvider,
    settings::{GiftSettings, JITTER},
    tango_card,
};
use crate::vault::Vault;

/// Opens an adapter if its settings are there.
pub type Open = fn(&GiftSettings, &Arc<Vault>) -> anyhow::Result<Option<Box<dyn GiftProvider>>>;

pub const CATALOGUE: [(&str, Open); 3] = [
    (amazon_incentives::NAME, amazon_incentives::open),
    (gift_on_demand::NAME, gift_on_demand::open),
    (tango_card::NAME, tango_card::open),
];

/// What a provider sells, by the settings alone: no secret is opened.
type Sells = fn(&GiftSettings) -> anyhow::Result<Option<Vec<Offer>>>;

const SOLD: [(&str, Sells); 3] = [
    (amazon_incentives::NAME, amazon_incentives::sells),
    (gift_on_demand::NAME, gift_on_demand::sells),
    (tango_card::NAME, tango_card::sells),
];

/// What all providers sell that the settings name.
pub fn offers(settings: &GiftSettings) -> anyhow::Result<Offers> {
    let sold = SOLD.iter().filter_map(|(name, sells)| sells(settings).transpose().map(|sold| Ok((*name, sold?))));
    Ok(Offers::new(sold.collect::<anyhow::Result<_>>()?))
}

/// All providers that the settings name, in the order of the catalogue.
pub fn providers(settings: &GiftSettings, vault: Arc<Vault>) -> anyhow::Result<Vec<Box<dyn GiftProvider>>> {
    CATALOGUE.iter().filter_map(|(_, open)| open(settings, &vault).transpose()).collect()
}

/// What a key of an [`Account`] is where it is left out, as it would be written.
pub fn usual(provider: &str, key: &str) -> Option<String> {
    let all = [amazon_incentives::DEFAULTS, gift_on_demand::DEFAULTS, tango_card::DEFAULTS];
    let defaults = all.iter().find(|defaults| defaults.provider == provider)?;
    let millis = |time: Duration| time.as_millis().to_string();
    Some(match key {
        "connect_timeout_ms" => millis(defaults.connect_timeout),
        "read_timeout_ms" => millis(defaults.read_timeout),
        "timeout_ms" => millis(defaults.timeout),
        "settle_seconds" => defaults.settle_seconds.to_string(),
        "horizon_seconds" => defaults.horizon_seconds.to_string(),
        "poll_seconds" => defaults.poll_seconds.to_string(),
        "calls_per_second" => defaults.calls_per_second.to_string(),
        "jitter_ms" => millis(JITTER),
        _ => return None,
    })
}
