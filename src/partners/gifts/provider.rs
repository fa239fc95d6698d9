//! What every gift provider does, one account at a time. Each is a file beside this one; all of them stand in `catalogue`.

use std::{fmt, sync::Arc, time::Duration};

use noshi_jobs::{
    gift_issuance::{Args, Cancel, Contract, Inquiry, Issue, Trade},
    machine::Call,
    money::Money,
};
use schemars::JsonSchema;
use secrecy::SecretString;
use serde::de::DeserializeOwned;

use super::{
    offers::{self, Offer},
    settings::{Account, Defaults},
};
use crate::{
    partners::{Budget, Gate},
    telemetry::outcomes::{Answer, CallOutcome},
    vault::Vault,
};

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

impl Answer for Refetch {
    fn outcome(&self) -> CallOutcome {
        match self {
            Refetch::Code { .. } => CallOutcome::Ok,
            Refetch::Dead => CallOutcome::Dead,
            Refetch::Throttled(_) => CallOutcome::Throttled,
            Refetch::NoAnswer => CallOutcome::Unknown,
            Refetch::Never => CallOutcome::NotSent,
        }
    }
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

/// What holds at one account whatever is asked.
#[derive(Debug, Clone)]
pub struct Terms {
    /// Stored with every trade: permanent. Also the end of the lane's name, `gift/<name>`.
    pub name: &'static str,
    /// What every trade id begins with: at most 5 letters and digits.
    pub trade_prefix: String,
    pub contract: Contract,
    /// All of them hold at once.
    pub budgets: Vec<Budget>,
    pub code_policy: CodePolicy,
    pub offers: Vec<Offer>,
}

/// One account at one provider. Each method makes at most one request, since the step that calls it holds one token of
/// the provider's budget, and none is ever repeated here: what to do next is the job's decision.
pub trait GiftProvider: Send + Sync {
    /// They stay the same for as long as the account is open.
    fn terms(&self) -> &Terms;

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
        self.offer(category, value).map(drop)
    }

    /// The product that it would be.
    fn offer(&self, category: &str, value: Money) -> Result<&Offer, String> {
        offers::find(self.name(), &self.terms().offers, category, value)
    }

    fn name(&self) -> &'static str {
        self.terms().name
    }
}

/// What an adapter's file says of its provider before there is an account. The catalogue's line names the type that says it.
pub trait Adapter: GiftProvider + Sized + 'static {
    const DEFAULTS: Defaults;
    /// Who we are there: the table `credentials` of the settings.
    type Credentials: Clone + fmt::Debug + DeserializeOwned + JsonSchema;

    /// What the settings let us buy, checked. No secret is opened.
    fn sells(account: &Account<Self::Credentials>) -> anyhow::Result<Vec<Offer>>;
    fn open(account: &Account<Self::Credentials>, vault: &Arc<Vault>) -> anyhow::Result<Self>;

    /// What the conformance suite has to know.
    #[cfg(test)]
    const FIXTURE: crate::partners::conformance::Fixture;
}
