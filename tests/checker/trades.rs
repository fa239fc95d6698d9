//! I8, I10: no call without a durable intent, and no second trade without a proven end of the first.

use std::collections::{BTreeMap, HashSet};

use crate::{
    effects::Effects,
    history::{HANDED_BACK, History, clock},
    report::{I8, I10, Report},
    tables::{GiftTrade, Us},
};

pub fn check(history: &History, report: &mut Report) {
    intent_first(history, report);
    one_at_a_time(history, report);
    ends(history, report);
}

/// I8: the trade was saved before its first call, and each issue call has an earlier claim of its own.
fn intent_first(history: &History, report: &mut Report) {
    let mut arrivals: BTreeMap<&str, (Vec<Us>, Vec<Us>)> = BTreeMap::new();
    for line in history.seen().filter(|line| line.is("arrival")) {
        let Some(trade) = line.trade.as_deref() else { continue };
        let (all, issues) = arrivals.entry(trade).or_default();
        all.push(line.us);
        if line.of_op("issue") {
            issues.push(line.us);
        }
    }
    for (id, (all, mut issues)) in arrivals {
        let Some(trade) = history.trades.get(id) else { continue };
        let (job, started) = (trade.job, trade.started_at);
        if let Some(first) = all.into_iter().min().filter(|first| *first < started) {
            let (first, started) = (clock(first), clock(started));
            report.add(I8, format!("job {job}, trade {id}: called at {first}, saved at {started}"));
        }
        issues.sort_unstable();
        let intents = intents(history, trade);
        for (at, call) in issues.iter().enumerate() {
            let before = intents.iter().take_while(|claim| *claim <= call).count();
            if before <= at {
                let (nth, when) = (at + 1, clock(*call));
                report.add(
                    I8,
                    format!(
                        "job {job}, trade {id}: issue call {nth} at {when}, and {before} claims at `issuing` before it"
                    ),
                );
                break;
            }
        }
    }
}

/// When this trade's job was claimed to issue it. A claim that was handed back made no call.
fn intents(history: &History, trade: &GiftTrade) -> Vec<Us> {
    let events = history.events_of(trade.job);
    let handed_back: HashSet<_> =
        events.iter().filter(|event| event.event == HANDED_BACK).map(|event| (event.lease, event.step)).collect();
    let next = history.trades_of(trade.job).find(|other| other.generation > trade.generation);
    let until = next.map_or(Us::MAX, |next| next.started_at);
    let claims = events.iter().filter(|event| event.event == "claimed" && event.was.as_deref() == Some("issuing"));
    claims
        .filter(|event| !handed_back.contains(&(event.lease, event.step)))
        .map(|event| event.happened_at)
        .filter(|claim| (trade.started_at..until).contains(claim))
        .collect()
}

/// I10: generations follow one another, each after the proven void of the last, all of one job.
fn one_at_a_time(history: &History, report: &mut Report) {
    let mut grants: BTreeMap<&str, Vec<&GiftTrade>> = BTreeMap::new();
    for trade in history.trades.values() {
        grants.entry(&trade.grant_id).or_default().push(trade);
    }
    for (grant, mut trades) in grants {
        trades.sort_by_key(|trade| trade.generation);
        for (at, trade) in trades.iter().enumerate() {
            if trade.generation != at as i64 {
                report.add(
                    I10,
                    format!("grant {grant}: trade {} is generation {}, not {at}", trade.id, trade.generation),
                );
            }
            if history.jobs.get(&trade.job).is_none_or(|job| job.key != grant) {
                report.add(
                    I10,
                    format!("grant {grant}: trade {} belongs to job {}, of another grant", trade.id, trade.job),
                );
            }
        }
        for (at, newer) in trades.iter().enumerate() {
            for older in &trades[..at] {
                let void = history.outcome(&older.id, "void").map(|void| void.happened_at);
                if void.is_none_or(|void| void > newer.started_at) {
                    let (started, void) = (clock(newer.started_at), void.map(clock));
                    let (older, newer) = (&older.id, &newer.id);
                    report.add(
                        I10,
                        format!(
                            "grant {grant}: trade {newer} started at {started}; {older} was proven void at {void:?}"
                        ),
                    );
                }
            }
        }
    }
}

/// I10: a trade that is called void, or refused, has no live gift then or ever after.
fn ends(history: &History, report: &mut Report) {
    let effects = Effects::of(history);
    for trade in history.trades.values() {
        for outcome in ["void", "refused"] {
            let Some(end) = history.outcome(&trade.id, outcome) else { continue };
            let lives = |at: Option<Us>| at.is_none_or(|at| at > end.happened_at);
            for card in effects.of_trade(&trade.id).iter().filter(|card| lives(card.voided_at)) {
                let (job, id, n) = (trade.job, &trade.id, card.issued.n);
                let (issued, when) = (clock(card.issued.us), clock(end.happened_at));
                report.add(
                    I10,
                    format!(
                        "job {job}, trade {id}: called {outcome} at {when}; ledger line {n} issued a gift at {issued}"
                    ),
                );
            }
        }
        if history.outcome(&trade.id, "refused").is_some() && history.outcomes[&trade.id].len() > 1 {
            let names: Vec<_> = history.outcomes[&trade.id].iter().map(|outcome| &outcome.outcome).collect();
            report.add(
                I10,
                format!("job {}, trade {}: ended in ways that exclude each other: {names:?}", trade.job, trade.id),
            );
        }
    }
}
