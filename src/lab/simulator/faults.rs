//! Faults: their names, which calls they can meet, and how one is chosen.
//!
//! A scripted fault wins over a provider's mode, a mode over chance. Chance is no chance: the draw is a pure function
//! of (seed, provider, op, trade, how many-th call), so the same seed meets the same faults in any order of calls.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    Op, Provider,
    partner::{Errand, Partner},
};

/// After this many random faults on one (provider, op, trade) there are no more, so that every trade can finish.
const MAX_PER_TRADE: usize = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// It is done; the caller gets a TCP reset.
    EffectThenReset,
    /// It is done; the caller gets nothing until it gives up, or until the configured hang time.
    EffectThenHang,
    /// Nothing is done; the caller gets a TCP reset.
    ResetBeforeEffect,
    /// The caller gets a TCP reset at once, and it is done a while later (at most `settle`).
    LateLanding,
    /// Nothing is done; 500, 502 or 503 with a body that is not the provider's.
    ErrorBeforeEffect,
    /// It is done; 500, 502 or 503 with a body that is not the provider's.
    ErrorAfterEffect,
    /// Nothing is done; the provider's own words for "try again": F400 with RESEND, E500, 503.
    TypedError,
    /// 429 with Retry-After in seconds, and 429 for everybody until then.
    ThrottleSeconds,
    /// The same with Retry-After as an HTTP date.
    ThrottleDate,
    /// It is done; the answer is complete, but takes about a second.
    SlowBody,
    /// It is done; the answer starts well and ends in the middle.
    Truncated,
    /// It is done; 200 with HTML instead of JSON.
    WrongJson,
    /// It is done; the answer is well-formed and about another trade: other ids, other amount.
    OtherTrade,
    /// An inquiry within `settle` of the effect does not see it.
    StaleInquiry,
    /// The order is accepted and carried out later (at most `settle`).
    Pending,
}

impl Fault {
    pub fn name(self) -> &'static str {
        match self {
            Fault::EffectThenReset => "effect_then_reset",
            Fault::EffectThenHang => "effect_then_hang",
            Fault::ResetBeforeEffect => "reset_before_effect",
            Fault::LateLanding => "late_landing",
            Fault::ErrorBeforeEffect => "error_before_effect",
            Fault::ErrorAfterEffect => "error_after_effect",
            Fault::TypedError => "typed_error",
            Fault::ThrottleSeconds => "throttle_seconds",
            Fault::ThrottleDate => "throttle_date",
            Fault::SlowBody => "slow_body",
            Fault::Truncated => "truncated",
            Fault::WrongJson => "wrong_json",
            Fault::OtherTrade => "other_trade",
            Fault::StaleInquiry => "stale_inquiry",
            Fault::Pending => "pending",
        }
    }

    /// Whether this fault means anything for such a call.
    pub fn can_meet(self, partner: impl Into<Partner>, errand: impl Into<Errand>) -> bool {
        let (partner, errand) = (partner.into(), errand.into());
        let possible = match self {
            Fault::LateLanding => errand.writes(),
            // Answers of the others name nothing that could be another's.
            Fault::OtherTrade => {
                errand.is_for(partner)
                    && match errand {
                        Errand::Gift(op) => op != Op::Funds,
                        Errand::CreateShop | Errand::FindShop => true,
                        Errand::AssignService | Errand::DeleteShop | Errand::SendMail | Errand::MailAccount => false,
                    }
            }
            Fault::StaleInquiry => matches!(errand, Errand::Gift(Op::Inquire) | Errand::FindShop),
            // Amazon answers at once or not at all.
            Fault::Pending => errand == Errand::Gift(Op::Issue) && partner != Partner::Gift(Provider::AmazonIncentives),
            Fault::EffectThenReset
            | Fault::EffectThenHang
            | Fault::ResetBeforeEffect
            | Fault::ErrorBeforeEffect
            | Fault::ErrorAfterEffect
            | Fault::TypedError
            | Fault::ThrottleSeconds
            | Fault::ThrottleDate
            | Fault::SlowBody
            | Fault::Truncated
            | Fault::WrongJson => true,
        };
        possible && errand.is_for(partner)
    }

    /// Weights per 1000 calls: issue, then inquire and cancel, then funds. Throttles are rare because each one stops
    /// the whole provider for a second or two. The sums are about 120, 80 and 40.
    fn weights(self) -> [u64; 3] {
        match self {
            Fault::EffectThenReset => [15, 10, 5],
            Fault::EffectThenHang => [10, 7, 3],
            Fault::ResetBeforeEffect => [12, 8, 5],
            Fault::LateLanding => [14, 8, 0],
            Fault::ErrorBeforeEffect => [11, 8, 5],
            Fault::ErrorAfterEffect => [11, 8, 5],
            Fault::TypedError => [5, 4, 3],
            Fault::ThrottleSeconds | Fault::ThrottleDate => [3, 2, 1],
            Fault::SlowBody => [8, 6, 4],
            Fault::Truncated => [9, 6, 4],
            Fault::WrongJson => [9, 6, 4],
            Fault::OtherTrade => [5, 4, 0],
            Fault::StaleInquiry => [0, 9, 0],
            Fault::Pending => [8, 0, 0],
        }
    }

    pub const ALL: [Fault; 15] = [
        Fault::EffectThenReset,
        Fault::EffectThenHang,
        Fault::ResetBeforeEffect,
        Fault::LateLanding,
        Fault::ErrorBeforeEffect,
        Fault::ErrorAfterEffect,
        Fault::TypedError,
        Fault::ThrottleSeconds,
        Fault::ThrottleDate,
        Fault::SlowBody,
        Fault::Truncated,
        Fault::WrongJson,
        Fault::OtherTrade,
        Fault::StaleInquiry,
        Fault::Pending,
    ];
}

/// A number that depends on its arguments only, spread evenly.
pub fn roll(seed: u64, parts: &[&str]) -> u64 {
    let mut hash = Sha256::new();
    hash.update(seed.to_le_bytes());
    for part in parts {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    let digest = hash.finalize();
    digest.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// What chance holds for the `nth` call (from 1) of this kind for this trade.
pub fn draw(seed: u64, partner: Partner, errand: Errand, trade: &str, nth: u64) -> Option<Fault> {
    let fault = draw_one(seed, partner, errand, trade, nth)?;
    // A balance inquiry belongs to no trade that would have to finish.
    let earlier = if errand == Errand::Gift(Op::Funds) { 0 } else { nth };
    let before = (1..earlier).filter(|n| draw_one(seed, partner, errand, trade, *n).is_some());
    (before.take(MAX_PER_TRADE).count() < MAX_PER_TRADE).then_some(fault)
}

fn draw_one(seed: u64, partner: Partner, errand: Errand, trade: &str, nth: u64) -> Option<Fault> {
    let column = match errand {
        Errand::Gift(Op::Issue) | Errand::CreateShop | Errand::AssignService | Errand::SendMail => 0,
        Errand::Gift(Op::Inquire | Op::Cancel) | Errand::FindShop | Errand::DeleteShop => 1,
        Errand::Gift(Op::Funds) | Errand::MailAccount => 2,
    };
    let nth = nth.to_string();
    let mut point = roll(seed, &[partner.name(), errand.name(), trade, &nth]) % 1000;
    for fault in Fault::ALL {
        if fault.can_meet(partner, errand) {
            let weight = fault.weights()[column];
            if point < weight {
                return Some(fault);
            }
            point -= weight;
        }
    }
    None
}

/// The next `left` calls that fit meet `fault`.
pub struct Script {
    pub partner: Partner,
    pub errand: Option<Errand>,
    pub trade: Option<String>,
    pub fault: Fault,
    pub seconds: Option<u64>,
    pub left: u32,
}

/// Until cleared, every call that fits meets `fault`.
pub struct Mode {
    pub partner: Partner,
    pub errand: Option<Errand>,
    pub fault: Fault,
    pub seconds: Option<u64>,
}

/// A call's fate.
pub struct Chosen {
    pub fault: Option<Fault>,
    /// How long a throttle lasts, if it was said.
    pub seconds: Option<u64>,
    pub nth: u64,
    /// For the details of the fault: which status, how late.
    pub roll: u64,
}

pub struct Faults {
    seed: u64,
    random: bool,
    calls: HashMap<(Partner, Errand, String), u64>,
    pub scripts: Vec<Script>,
    pub modes: Vec<Mode>,
}

impl Faults {
    pub fn new(seed: u64, random: bool) -> Faults {
        Faults { seed, random, calls: HashMap::new(), scripts: Vec::new(), modes: Vec::new() }
    }

    /// After a restart: this many-th call was made already.
    pub fn made(&mut self, partner: Partner, errand: Errand, trade: &str, nth: u64) {
        let calls = self.calls.entry((partner, errand, trade.to_owned())).or_default();
        *calls = nth.max(*calls);
    }

    pub fn next(&mut self, partner: Partner, errand: Errand, trade: Option<&str>) -> Chosen {
        let name = trade.unwrap_or_default();
        let calls = self.calls.entry((partner, errand, name.to_owned())).or_default();
        *calls += 1;
        let nth = *calls;
        let (fault, seconds) = match self.ordered(partner, errand, trade) {
            Some((fault, seconds)) => (Some(fault), seconds),
            // Calls too broken to name a trade are not part of any sequence.
            None if self.random && (trade.is_some() || errand == Errand::Gift(Op::Funds)) => {
                (draw(self.seed, partner, errand, name, nth), None)
            }
            None => (None, None),
        };
        let roll = roll(self.seed, &[partner.name(), errand.name(), name, &nth.to_string(), "how"]);
        Chosen { fault, seconds, nth, roll }
    }

    fn ordered(&mut self, partner: Partner, errand: Errand, trade: Option<&str>) -> Option<(Fault, Option<u64>)> {
        let fits = |wanted: Option<Errand>, fault: Fault| {
            wanted.is_none_or(|w| w == errand) && fault.can_meet(partner, errand)
        };
        let script = self.scripts.iter_mut().find(|script| {
            script.partner == partner
                && fits(script.errand, script.fault)
                && (script.trade.is_none() || script.trade.as_deref() == trade)
        });
        if let Some(script) = script {
            script.left -= 1;
            let found = (script.fault, script.seconds);
            self.scripts.retain(|script| script.left > 0);
            return Some(found);
        }
        let mode = self.modes.iter().find(|mode| mode.partner == partner && fits(mode.errand, mode.fault))?;
        Some((mode.fault, mode.seconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(op: Op) -> f64 {
        let met =
            (0..20_000).filter(|n| draw(7, Provider::TangoCard.into(), op.into(), &format!("trade{n}"), 1).is_some());
        met.count() as f64 / 20_000.0
    }

    #[test]
    fn the_same_seed_meets_the_same_faults_and_another_does_not() {
        let sequence = |seed| -> Vec<_> {
            let trade = |n: u64| format!("trade{}", n / 4);
            (0..400)
                .map(|n| draw(seed, Provider::GiftOnDemand.into(), Op::Issue.into(), &trade(n), n % 4 + 1))
                .collect()
        };
        assert_eq!(sequence(42), sequence(42));
        assert_ne!(sequence(42), sequence(43));
    }

    #[test]
    fn about_as_many_calls_as_promised_meet_a_fault_and_every_kind_occurs() {
        assert!((0.10..0.14).contains(&share(Op::Issue)), "{}", share(Op::Issue));
        assert!((0.06..0.10).contains(&share(Op::Inquire)), "{}", share(Op::Inquire));
        for fault in Fault::ALL {
            let op = if fault == Fault::StaleInquiry { Op::Inquire } else { Op::Issue };
            let met =
                (0..20_000).any(|n| draw(7, Provider::TangoCard.into(), op.into(), &format!("t{n}"), 1) == Some(fault));
            assert!(met, "{}", fault.name());
        }
    }

    #[test]
    fn one_trade_meets_three_faults_at_most() {
        let mut most = 0;
        for trade in 0..200 {
            let trade = format!("trade{trade}");
            let met =
                (1..=100).filter(|nth| draw(1, Provider::TangoCard.into(), Op::Issue.into(), &trade, *nth).is_some());
            most = most.max(met.count());
        }
        assert_eq!(most, MAX_PER_TRADE);
    }
}
