//! What every gift provider does, one account at a time. Each is a file beside this one; all of them stand in `catalogue`.

use std::time::Duration;

use noshi_jobs::{
    gift_issuance::{Args, Cancel, Contract, Inquiry, Issue, Trade},
    machine::Call,
    money::Money,
};
use secrecy::SecretString;

use super::offers::{self, Offer};
use crate::partners::{Budget, Gate};

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
