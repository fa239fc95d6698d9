//! The gift providers, each in one file; the mail services are in `mail`, the organisation platform in `organization`. A
//! new provider: its file, one line in [`CATALOGUE`], its settings, and its answers
//! in the conformance suite, which then runs on it.

mod amazon_incentives;
mod aws;
#[cfg(test)]
mod conformance;
mod gift_on_demand;
pub mod http;
pub mod mail;
mod offers;
pub mod organization;
#[cfg(test)]
mod scripted;
mod ses;
pub mod settings;
mod smtp;
mod tango_card;
mod tls;
mod whose;
mod wire;

use std::{sync::Arc, time::Duration};

use noshi_jobs::{
    gift_issuance::{Args, Cancel, Contract, Inquiry, Issue, Trade},
    machine::Call,
    money::Money,
};
use secrecy::SecretString;
use sha2::{Digest, Sha256};

pub use self::{
    http::Gate,
    offers::{Offer, Offers},
    organization::OrganizationPlatform,
    settings::{GiftSettings, OrganizationSettings},
};
use crate::vault::Vault;

/// A rate budget of the account: `calls` in any `window`, with answers arriving up to `jitter` later than sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    pub calls: u32,
    pub window: Duration,
    pub jitter: Duration,
}

/// What becomes of the gift code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CodePolicy {
    /// The provider forbids to store it; it is asked for again when somebody wants to see it.
    Refetch,
    /// Kept, sealed.
    Sealed,
}

/// What came of asking for a gift's code again.
#[derive(Debug)]
pub enum Refetch {
    /// The provider's own id of the card, and its code.
    Code {
        card: String,
        code: SecretString,
    },
    /// The card is dead.
    Dead,
    Throttled(Duration),
    /// It was not sent, or there was no answer that tells.
    NoAnswer,
    /// This provider does not show a code again.
    Never,
}

/// What is left on the account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Funds {
    Available(Money),
    Throttled(Duration),
    /// No answer, or none that can be read.
    NoAnswer,
    BadCredentials,
}

/// One account at one provider. Each method makes at most one request, since the step that calls it holds one token of
/// the provider's budget, and none is ever repeated here: what to do next is the job's decision.
pub trait GiftProvider: Send + Sync {
    /// Stored with every trade: permanent. Also the end of the lane's name, `gift/<name>`.
    fn name(&self) -> &'static str;
    fn contract(&self) -> Contract;
    /// All of them hold at once.
    fn budgets(&self) -> Vec<Budget>;
    fn code_policy(&self) -> CodePolicy;
    fn offers(&self) -> &[Offer];
    /// What every trade id begins with: at most 5 letters and digits.
    fn trade_prefix(&self) -> &str;

    fn issue<'a>(&'a self, args: &'a Args, trade: &'a Trade, gate: &'a Gate) -> Call<'a, Issue>;
    /// Never changes anything. `NoAnswer`, without a call, where the contract has no inquiry.
    /// `reference` is the provider's own id of the trade, from an earlier `Known`; an adapter that never says `Known`
    /// passes over it.
    fn inquire<'a>(
        &'a self,
        args: &'a Args,
        trade: &'a Trade,
        reference: Option<&'a str>,
        gate: &'a Gate,
    ) -> Call<'a, Inquiry>;
    /// `card` is the provider's own id of the gift, where it is known. `Refused`, without a call, where the contract
    /// has no cancel, or where the provider takes one by the card only and there is none: a person is asked then.
    fn cancel<'a>(
        &'a self,
        args: &'a Args,
        trade: &'a Trade,
        card: Option<&'a str>,
        gate: &'a Gate,
    ) -> Call<'a, Cancel>;
    fn funds<'a>(&'a self, gate: &'a Gate) -> Call<'a, Funds>;
    /// The code of an issued gift, where the policy is to ask for it again: within the horizon only, since past it the
    /// same trade id may buy another card.
    fn refetch<'a>(&'a self, _: &'a Args, _: &'a Trade, _: &'a Gate) -> Call<'a, Refetch> {
        Box::pin(async { Refetch::Never })
    }

    /// Whether a gift of this category and value can be asked for here; the error is a sentence for the person who asked.
    fn check(&self, category: &str, value: Money) -> Result<(), String> {
        offers::find(self.name(), self.offers(), category, value).map(drop)
    }
}

/// Opens an adapter if its settings are there.
type Open = fn(&GiftSettings, &Arc<Vault>) -> anyhow::Result<Option<Box<dyn GiftProvider>>>;

const CATALOGUE: [(&str, Open); 3] = [
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

/// The id under which a provider knows one try to buy one grant: the same for the same grant and generation, wherever
/// and whenever it is computed. Letters and digits only, at most 33 of them: `prefix` (its first 5), 130 bits of the
/// grant's SHA-256 in Crockford's base 32, and the generation as two digits of base 36.
pub fn trade_id(prefix: &str, grant: &str, generation: u8) -> String {
    const BASE_32: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    const BASE_36: &[u8; 36] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ";
    let digest = Sha256::digest(grant.as_bytes());
    let bit = |at: usize| digest[at / 8] >> (7 - at % 8) & 1;
    let mut id: String = prefix.chars().filter(char::is_ascii_alphanumeric).take(5).collect();
    for letter in 0..26 {
        let five = (0..5).fold(0, |five, at| five << 1 | bit(letter * 5 + at));
        id.push(char::from(BASE_32[usize::from(five)]));
    }
    for digit in [generation / 36, generation % 36] {
        id.push(char::from(BASE_36[usize::from(digit)]));
    }
    id
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::trade_id;

    #[test]
    fn trade_ids_are_the_same_everywhere_and_differ_by_grant_and_generation() {
        // SHA-256("abc") = ba7816bf 8f01cfea 414140de 5dae2223 b0…, computed elsewhere: this value may never change.
        assert_eq!(trade_id("Noshi", "abc", 0), "NoshiQ9W1DFWF077YMGA183F5VBH24E00");
        let mut seen = HashSet::new();
        for grant in 0..1000 {
            for generation in [0, 1, 35, 36, 255] {
                let id = trade_id("Noshi", &grant.to_string(), generation);
                assert!(id.len() == 33 && id.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{id}");
                assert!(seen.insert(id));
            }
        }
        assert!(trade_id("", "付与/1", 255).ends_with("73"));
        assert!(trade_id("a-b_cdefg", "x", 0).starts_with("abcde"));
    }
}
