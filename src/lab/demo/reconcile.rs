//! The providers' ledger against our database. Pure: it reads both books, and says what does not agree.

pub mod mails;
pub mod shops;

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::{
    db::operator::reconcile::{GiftJob, GiftTrade},
    lab::simulator::{Event, Line, PerProvider, Provider},
};

const SECOND_US: u64 = 1_000_000;

/// Both sides, when all is at rest.
pub struct Books {
    pub ledger: Vec<Line>,
    pub jobs: Vec<GiftJob>,
    pub trades: Vec<GiftTrade>,
    /// Calls in any second.
    pub limits: PerProvider<u32>,
    /// Grants that were submitted.
    pub grants: usize,
}

/// What became of one provider's grants.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Account {
    pub grants: usize,
    /// Completed, and the ledger has exactly one live card for it: the same card, the same amount.
    pub issued_once: usize,
    /// Failed, and the ledger has none.
    pub refused: usize,
    pub needs_operator: usize,
    /// Live cards beyond the first, of a trade or a grant.
    pub duplicates: usize,
    pub calls: usize,
    /// In any sliding second.
    pub max_calls: usize,
    pub limit: u32,
    /// Why people are asked.
    pub asked: BTreeMap<String, ForOperator>,
}

/// Jobs that wait for a person, and how many of them the ledger says were issued.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct ForOperator {
    pub jobs: usize,
    pub issued: usize,
}

#[derive(Debug)]
pub struct Reconciliation {
    /// In the order of [`Provider::ALL`].
    pub accounts: Vec<(Provider, Account)>,
    /// Jobs that never came to a provider.
    pub nowhere: usize,
    pub in_doubt: usize,
    /// Answers that a fault spoiled.
    pub faults: usize,
    /// One sentence each; empty is what we hope for.
    pub broken: Vec<String>,
}

/// A card that exists: issued, and not taken back.
struct Live<'a> {
    card: &'a str,
    amount: i64,
}

pub fn reconcile(books: &Books) -> Reconciliation {
    let mut it = Reconciliation {
        accounts: Provider::ALL.map(|provider| (provider, account(books, provider))).into(),
        nowhere: 0,
        in_doubt: books.jobs.iter().filter(|job| job.in_doubt).count(),
        faults: books.ledger.iter().filter(|line| line.fault.as_ref().is_some_and(|fault| !fault.is_null())).count(),
        broken: vec![],
    };
    if books.jobs.len() != books.grants {
        it.broken.push(format!("{} grants were submitted, and there are {} jobs", books.grants, books.jobs.len()));
    }
    let live = live_cards(&books.ledger);
    let mut trades: HashMap<&str, Vec<&GiftTrade>> = HashMap::new();
    for trade in &books.trades {
        trades.entry(&trade.grant).or_default().push(trade);
    }
    for job in &books.jobs {
        let trades = trades.get(job.grant.as_str()).map_or(&[][..], Vec::as_slice);
        it.job(job, trades, &live);
    }
    it.unknown_trades(books, &live);
    for (provider, account) in &it.accounts {
        if account.max_calls > account.limit as usize {
            let (name, most, limit) = (provider.name(), account.max_calls, account.limit);
            it.broken.push(format!("{name} was called {most} times within a second; {limit} are allowed"));
        }
    }
    it
}

fn account(books: &Books, provider: Provider) -> Account {
    let theirs = |line: &&Line| line.event == Event::Arrival && line.provider == Some(provider.into());
    let arrivals = moments(books.ledger.iter().filter(theirs));
    Account {
        calls: arrivals.len(),
        max_calls: max_in_a_second(&arrivals),
        limit: *books.limits.of(provider),
        ..Account::default()
    }
}

fn moments<'a>(lines: impl Iterator<Item = &'a Line>) -> Vec<u64> {
    let mut moments: Vec<u64> = lines.map(|line| line.us).collect();
    moments.sort_unstable();
    moments
}

/// The most of these moments (in order) that any second holds, its end included and its begin not.
pub(crate) fn max_in_a_second(moments: &[u64]) -> usize {
    let mut from = 0;
    let mut most = 0;
    for (at, moment) in moments.iter().enumerate() {
        while moments[from] + SECOND_US <= *moment {
            from += 1;
        }
        most = most.max(at + 1 - from);
    }
    most
}

/// Live cards by provider and trade.
fn live_cards(ledger: &[Line]) -> HashMap<(&str, &str), Vec<Live<'_>>> {
    let of = |event| {
        ledger.iter().filter(move |line| line.event == event).filter_map(|line| {
            Some((line.provider?.name(), line.trade.as_deref()?, line.card.as_deref()?, line.amount.as_ref()))
        })
    };
    let voided: HashSet<(&str, &str)> = of(Event::Voided).map(|(provider, _, card, _)| (provider, card)).collect();
    let mut live: HashMap<(&str, &str), Vec<Live<'_>>> = HashMap::new();
    for (provider, trade, card, amount) in of(Event::Issued) {
        if !voided.contains(&(provider, card)) {
            let amount = amount.and_then(serde_json::Value::as_i64).unwrap_or_default();
            live.entry((provider, trade)).or_default().push(Live { card, amount });
        }
    }
    live
}

impl Reconciliation {
    fn account(&mut self, provider: &str) -> Option<&mut Account> {
        self.accounts.iter_mut().find(|(one, _)| one.name() == provider).map(|(_, account)| account)
    }

    fn job(&mut self, job: &GiftJob, trades: &[&GiftTrade], live: &HashMap<(&str, &str), Vec<Live<'_>>>) {
        let cards: Vec<(&GiftTrade, &Live<'_>)> = trades
            .iter()
            .flat_map(|trade| {
                let live = live.get(&(trade.provider.as_str(), trade.id.as_str())).map_or(&[][..], Vec::as_slice);
                live.iter().map(|live| (*trade, live))
            })
            .collect();
        let wrong = wrong_with(job, &cards);
        let sound = wrong.is_none() && cards.len() <= 1;
        self.broken.extend(wrong.map(|wrong| format!("grant {}: {wrong}", job.grant)));
        let Some(account) = trades.last().and_then(|trade| self.account(&trade.provider)) else {
            self.nowhere += 1;
            return;
        };
        account.grants += 1;
        let beyond_the_first = cards.len().saturating_sub(1);
        account.duplicates += beyond_the_first;
        match job.status.as_str() {
            "completed" if sound => account.issued_once += 1,
            "failed" if sound => account.refused += 1,
            "needs_operator" => {
                account.needs_operator += 1;
                let asked =
                    account.asked.entry(job.code.clone().unwrap_or_else(|| "(no code)".to_owned())).or_default();
                asked.jobs += 1;
                asked.issued += usize::from(!cards.is_empty());
            }
            _ => {}
        }
        if beyond_the_first > 0 {
            let all: Vec<&str> = cards.iter().map(|(_, live)| live.card).collect();
            self.broken.push(format!("grant {}: a DUPLICATE, the cards {} are all live", job.grant, all.join(", ")));
        }
    }

    /// Money that moved under an id that we had not written down before (R11).
    fn unknown_trades(&mut self, books: &Books, live: &HashMap<(&str, &str), Vec<Live<'_>>>) {
        let ours: HashSet<(&str, &str)> =
            books.trades.iter().map(|trade| (trade.provider.as_str(), trade.id.as_str())).collect();
        let mut unknown: Vec<_> = live.iter().filter(|(key, _)| !ours.contains(*key)).collect();
        unknown.sort_by_key(|(key, _)| **key);
        for ((provider, trade), cards) in unknown {
            self.broken.push(format!("{provider} issued {} for the trade {trade}, which we never saved", cards.len()));
            if let Some(account) = self.account(provider) {
                account.duplicates += cards.len() - 1;
            }
        }
    }
}

/// What this job's end and the ledger disagree about.
fn wrong_with(job: &GiftJob, cards: &[(&GiftTrade, &Live<'_>)]) -> Option<String> {
    match (job.status.as_str(), cards) {
        ("completed", [(trade, live)]) if trade.card.as_deref() != Some(live.card) => {
            let ours = trade.card.as_deref().unwrap_or("none");
            Some(format!("completed with the card {ours}, and the ledger has {}", live.card))
        }
        ("completed", [(_, live)]) if live.amount != job.amount => {
            Some(format!("completed with {}, and the ledger has {}", job.amount, live.amount))
        }
        ("completed", []) => Some("completed, and the ledger has no live card".to_owned()),
        ("failed" | "cancelled", [(_, live), ..]) => {
            Some(format!("{}, and the card {} is live", job.status, live.card))
        }
        ("needs_operator", _) if job.code.is_none() => {
            Some("it waits for a person without a code that says why".to_owned())
        }
        ("completed" | "failed" | "cancelled" | "needs_operator", _) => None,
        (open, _) => Some(format!("not at rest, but {open}")),
    }
}

#[cfg(test)]
mod tests;
