//! The settings of the gift providers. Secrets are not in them: they name the files that hold them.

use std::{num::NonZeroU32, path::PathBuf, time::Duration};

use anyhow::{bail, ensure};
use noshi_jobs::{gift_issuance::Contract, money::Currency};
use schemars::JsonSchema;
use serde::Deserialize;

use super::Offer;
use crate::{
    basics::text,
    partners::{
        Budget,
        http::{Http, LONGEST_CALL, Reach},
    },
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const SECOND: Duration = Duration::from_secs(1);
/// Amounts stay far below 2^53, where JSON numbers are still exact.
const HIGHEST: i64 = 1_000_000_000_000;

/// One account at one provider. What is left out is as the adapter's file says.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Account<C> {
    /// Sandbox or production: never a default, since one of them moves money.
    pub base_url: String,
    /// Plain HTTP to another machine, such as a simulator in another container.
    #[serde(default)]
    pub allow_plain_http: bool,
    /// The certificates, in PEM, of a private authority that signs the partner's; trusted beside those of the machine.
    pub ca_file: Option<PathBuf>,
    /// Who we are there.
    pub credentials: C,
    /// What the contract with the provider lets us buy.
    pub ranges: Vec<Range>,
    /// For the connection, at most half of `timeout_ms`.
    pub connect_timeout_ms: Option<u64>,
    /// Between two pieces of an answer.
    pub read_timeout_ms: Option<u64>,
    /// For a whole call.
    pub timeout_ms: Option<u64>,
    /// Longest time after which an unanswered call may still land.
    pub settle_seconds: Option<u32>,
    /// How long the provider surely remembers a trade id.
    pub horizon_seconds: Option<u32>,
    /// Between two questions about an accepted gift.
    pub poll_seconds: Option<u32>,
    /// The budget of the account, over the whole fleet.
    pub calls_per_second: Option<NonZeroU32>,
    /// One more budget, where the contract has it.
    pub calls_per_day: Option<NonZeroU32>,
    /// How differently long two calls may travel; widens the spacing of calls.
    pub jitter_ms: Option<u64>,
}

/// `min` and `max` are in minor units (yen, cents), inclusive.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Range {
    /// What producers ask for.
    pub category: String,
    /// JPY or USD.
    #[schemars(with = "String")]
    pub currency: Currency,
    /// The least that one gift may be worth.
    pub min: i64,
    /// The most.
    pub max: i64,
    /// The provider's own id of the product.
    #[serde(default)]
    pub product: String,
}

/// What an adapter knows of its provider; the settings win.
#[derive(Debug, Clone, Copy)]
pub struct Defaults {
    pub provider: &'static str,
    pub connect_timeout: Duration,
    pub read_timeout: Duration,
    pub timeout: Duration,
    pub settle_seconds: u32,
    pub horizon_seconds: u32,
    pub poll_seconds: u32,
    pub calls_per_second: u32,
}

const JITTER: Duration = Duration::from_millis(100);

impl Defaults {
    /// What a key of an [`Account`] is where it is left out, as it would be written.
    pub(super) fn shown(&self, key: &str) -> Option<String> {
        let millis = |time: Duration| time.as_millis().to_string();
        Some(match key {
            "connect_timeout_ms" => millis(self.connect_timeout),
            "read_timeout_ms" => millis(self.read_timeout),
            "timeout_ms" => millis(self.timeout),
            "settle_seconds" => self.settle_seconds.to_string(),
            "horizon_seconds" => self.horizon_seconds.to_string(),
            "poll_seconds" => self.poll_seconds.to_string(),
            "calls_per_second" => self.calls_per_second.to_string(),
            "jitter_ms" => millis(JITTER),
            _ => return None,
        })
    }
}

impl<C> Account<C> {
    pub(in crate::partners) fn budgets(&self, defaults: &Defaults) -> Vec<Budget> {
        let jitter = self.jitter_ms.map_or(JITTER, Duration::from_millis);
        let calls = self.calls_per_second.map_or(defaults.calls_per_second, NonZeroU32::get);
        let day = self.calls_per_day.map(|calls| Budget { calls: calls.get(), window: DAY, jitter });
        [Budget { calls, window: SECOND, jitter }].into_iter().chain(day).collect()
    }

    pub(in crate::partners) fn contract(
        &self,
        defaults: &Defaults,
        replay: bool,
        inquiry: bool,
        cancel: bool,
    ) -> Contract {
        Contract {
            replay,
            inquiry,
            cancel,
            settle_seconds: self.settle_seconds.unwrap_or(defaults.settle_seconds),
            horizon_seconds: self.horizon_seconds.unwrap_or(defaults.horizon_seconds),
            poll_seconds: self.poll_seconds.unwrap_or(defaults.poll_seconds),
        }
    }

    pub(in crate::partners) fn http(&self, defaults: &Defaults) -> anyhow::Result<Http> {
        let (provider, millis) = (defaults.provider, Duration::from_millis);
        let timeout = self.timeout_ms.map_or(defaults.timeout, millis);
        let connect_timeout = self.connect_timeout_ms.map_or(defaults.connect_timeout.min(timeout / 2), millis);
        let read_timeout = self.read_timeout_ms.map_or(defaults.read_timeout.min(timeout), millis);
        ensure!(
            !connect_timeout.is_zero()
                && connect_timeout < timeout
                && !read_timeout.is_zero()
                && timeout <= LONGEST_CALL,
            "the timeouts of {provider} do not fit: connect_timeout_ms must be more than 0 and less than timeout_ms, \
             read_timeout_ms more than 0, and timeout_ms 600000 at most"
        );
        Http::new(&Reach {
            provider,
            base_url: self.base_url.clone(),
            allow_plain_http: self.allow_plain_http,
            ca_file: self.ca_file.clone(),
            connect_timeout,
            read_timeout,
            timeout,
            budgets: self.budgets(defaults),
            only: None,
        })
    }

    /// Checks the ranges. `currencies` are those that the adapter can carry.
    pub(in crate::partners) fn offers(
        &self,
        defaults: &Defaults,
        currencies: &[Currency],
    ) -> anyhow::Result<Vec<Offer>> {
        let provider = defaults.provider;
        ensure!(!self.ranges.is_empty(), "{provider} has no `ranges`: list what the contract lets us buy");
        let mut offers = Vec::new();
        for range in &self.ranges {
            let Range { category, currency, min, max, product } = range.clone();
            let code = currency.code();
            ensure!(
                (1..=100).contains(&category.len()),
                "a range of {provider} has a `category` of {} bytes; 1 to 100 fit",
                category.len()
            );
            if let Some(fault) = text::id_fault(&category, 100) {
                bail!("a range of {provider} has the `category` {category:?}: {fault}");
            }
            ensure!(currencies.contains(&currency), "{provider} cannot be asked for `{category}` in {code}");
            ensure!(
                1 <= min && min <= max && max <= HIGHEST,
                "the range of `{category}` in {code} at {provider} is {min} to {max}; it must rise, within 1 to {HIGHEST}"
            );
            offers.push(Offer { category, currency, min, max, product });
        }
        Ok(offers)
    }
}

#[cfg(test)]
mod tests;
