//! The gift providers that there are. A new one is its file and its line in the list below: the settings, their page, the offers, the lanes
//! and the conformance suite know it by that.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    offers::{Offer, Offers},
    provider::{Adapter, GiftProvider},
    settings::{Account, Defaults},
};
use crate::vault::Vault;

/// From the list, what the settings may name, and what is known of each without them.
macro_rules! catalogue {
    ($($(#[$when:meta])? $name:ident: $adapter:ty,)+) => {
        /// A provider whose table is absent is not used.
        #[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields, default)]
        pub struct GiftSettings {
            $($(#[$when])? pub $name: Option<Account<<$adapter as Adapter>::Credentials>>,)+
        }

        pub const CATALOGUE: &[Partner] = &[$($(#[$when])? Partner {
            name: stringify!($name),
            defaults: <$adapter as Adapter>::DEFAULTS,
            is_named: |settings| settings.$name.is_some(),
            sells: |settings| settings.$name.as_ref().map(<$adapter as Adapter>::sells).transpose(),
            open: |settings, vault| match &settings.$name {
                Some(account) => Ok(Some(Box::new(<$adapter as Adapter>::open(account, vault)?))),
                None => Ok(None),
            },
            #[cfg(test)]
            fixture: &<$adapter as Adapter>::FIXTURE,
        },)+];
    };
}

catalogue! {
    amazon_incentives: super::amazon_incentives::AmazonIncentives,
    gift_on_demand: super::gift_on_demand::GiftOnDemand,
    tango_card: super::tango_card::TangoCard,
    #[cfg(test)] coupon_post: super::coupon_post::CouponPost,
}

/// Opens an adapter if its settings are there.
pub type Open = fn(&GiftSettings, &Arc<Vault>) -> anyhow::Result<Option<Box<dyn GiftProvider>>>;

/// A provider, as its file says it.
#[derive(Clone, Copy)]
pub struct Partner {
    /// Its table in the settings, below `gifts`.
    pub name: &'static str,
    pub defaults: Defaults,
    pub is_named: fn(&GiftSettings) -> bool,
    /// By the settings alone: no secret is opened.
    pub sells: fn(&GiftSettings) -> anyhow::Result<Option<Vec<Offer>>>,
    pub open: Open,
    #[cfg(test)]
    pub fixture: &'static crate::partners::conformance::Fixture,
}

impl GiftSettings {
    /// The providers that are named, in the order of the catalogue.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        CATALOGUE.iter().filter(|partner| (partner.is_named)(self)).map(|partner| partner.name)
    }
}

/// What all providers sell that the settings name.
pub fn offers(settings: &GiftSettings) -> anyhow::Result<Offers> {
    let sold = CATALOGUE.iter().filter_map(|it| (it.sells)(settings).transpose().map(|sold| Ok((it.name, sold?))));
    Ok(Offers::new(sold.collect::<anyhow::Result<_>>()?))
}

/// All providers that the settings name, in the order of the catalogue.
pub fn providers(settings: &GiftSettings, vault: Arc<Vault>) -> anyhow::Result<Vec<Box<dyn GiftProvider>>> {
    CATALOGUE.iter().filter_map(|partner| (partner.open)(settings, &vault).transpose()).collect()
}

/// What a key of an [`Account`] is where it is left out, as it would be written.
pub fn usual(provider: &str, key: &str) -> Option<String> {
    CATALOGUE.iter().find(|partner| partner.name == provider)?.defaults.shown(key)
}
