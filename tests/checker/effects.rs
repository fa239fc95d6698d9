//! I1, I1b, I2, I2b, I20, R11: the money that moved, against what the tables say of it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::{
    history::{GIFT, History, clock},
    report::{I1, I1B, I2, I2B, I20, R11, Report},
    tables::{GiftTrade, Job, Line, Us},
};

pub fn check(history: &History, quiescent: bool, report: &mut Report) {
    at_most_once(history, report);
    saved_before_called(history, report);
    let effects = Effects::of(history);
    as_ordered(history, &effects, report);
    for job in history.jobs.values() {
        if quiescent && !matches!(job.status.as_str(), "completed" | "failed" | "cancelled" | "needs_operator") {
            report.add(I2, format!("job {} ({}): still {} at {}", job.id, job.key, job.status, job.at));
        }
        if job.kind == GIFT {
            at_rest(history, &effects, job, report);
        }
    }
    cards_are_ours(history, &effects, report);
}

/// A card that the provider made, and the line that says so.
pub struct Card<'a> {
    pub issued: &'a Line,
    pub voided_at: Option<Us>,
}

/// The cards of each trade, in the order in which they were made.
pub struct Effects<'a>(BTreeMap<&'a str, Vec<Card<'a>>>);

impl<'a> Effects<'a> {
    pub fn of(history: &'a History) -> Effects<'a> {
        let mut cards: BTreeMap<&str, Vec<Card>> = BTreeMap::new();
        for line in history.seen() {
            let Some(trade) = line.trade.as_deref() else { continue };
            if line.is("issued") {
                cards.entry(trade).or_default().push(Card { issued: line, voided_at: None });
            } else if line.is("voided")
                && let Some(card) = cards.get_mut(trade).and_then(|cards| live(cards, line.card.as_deref()))
            {
                card.voided_at = Some(line.us);
            }
        }
        Effects(cards)
    }

    pub fn of_trade(&self, trade: &str) -> &[Card<'a>] {
        self.0.get(trade).map(Vec::as_slice).unwrap_or_default()
    }

    fn live_of(&self, history: &History, job: i64) -> Vec<&Line> {
        let cards = history.trades_of(job).flat_map(|trade| self.of_trade(&trade.id));
        cards.filter(|card| card.voided_at.is_none()).map(|card| card.issued).collect()
    }
}

fn live<'a, 'b>(cards: &'b mut [Card<'a>], id: Option<&str>) -> Option<&'b mut Card<'a>> {
    cards.iter_mut().find(|card| card.voided_at.is_none() && card.issued.card.as_deref() == id)
}

/// I1, at every instant: the order of the lines is the order of the effects. Every line counts, however new.
fn at_most_once(history: &History, report: &mut Report) {
    let mut by_trade: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut by_grant: BTreeMap<&str, BTreeSet<(&str, &str)>> = BTreeMap::new();
    for line in &history.ledger {
        let (Some(trade), Some(card)) = (line.trade.as_deref(), line.card.as_deref()) else { continue };
        let grant = history.trades.get(trade).map(|trade| trade.grant_id.as_str());
        let of_trade = by_trade.entry(trade).or_default();
        if line.is("voided") {
            of_trade.remove(card);
            grant.map(|grant| by_grant.entry(grant).or_default().remove(&(trade, card)));
        } else if line.is("issued") {
            of_trade.insert(card);
            let (n, when) = (line.n, clock(line.us));
            if of_trade.len() > 1 {
                report.add(I1, format!("trade {trade}: live cards {of_trade:?} since ledger line {n} at {when}"));
            }
            let Some(grant) = grant else { continue };
            let of_grant = by_grant.entry(grant).or_default();
            of_grant.insert((trade, card));
            if of_grant.iter().any(|(other, _)| *other != trade) {
                report.add(I1, format!("grant {grant}: live gifts {of_grant:?} since ledger line {n} at {when}"));
            }
        }
    }
}

/// R11: whatever the answer may be, the trade id was saved before the call.
fn saved_before_called(history: &History, report: &mut Report) {
    let mut unknown: BTreeMap<&str, &Line> = BTreeMap::new();
    for line in history.seen().filter(|line| line.is_gift()) {
        match line.trade.as_deref() {
            Some(trade) if (line.is("arrival") || line.is("issued")) && !history.trades.contains_key(trade) => {
                // A gift weighs more than a call.
                let first = unknown.entry(trade).or_insert(line);
                if line.is("issued") && !first.is("issued") {
                    *first = line;
                }
            }
            Some(_) => {}
            None if line.is("arrival") && line.of_op("issue") => {
                report.add(R11, format!("ledger line {} at {}: an issue without a trade id", line.n, clock(line.us)));
            }
            None => {}
        }
    }
    for (trade, line) in unknown {
        let (event, when) = (&line.event, clock(line.us));
        report
            .add(R11, format!("trade {trade}: `{event}` in ledger line {} at {when}, and it was never saved", line.n));
    }
}

fn number(value: Option<&Value>) -> Option<i64> {
    let value = value?;
    // Amazon's amounts are JSON numbers with a fraction of zero.
    value.as_i64().or_else(|| value.as_f64().filter(|number| number.fract() == 0.0).map(|number| number as i64))
}

fn text(value: Option<&Value>) -> Option<&str> {
    value.and_then(Value::as_str)
}

/// I1b, of every gift: it is what its trade asked for.
fn as_ordered(history: &History, effects: &Effects, report: &mut Report) {
    for trade in history.trades.values() {
        for card in effects.of_trade(&trade.id) {
            let line = card.issued;
            let same = line.provider.as_deref() == Some(&trade.provider)
                && number(line.amount.as_ref()) == Some(trade.amount)
                && text(line.currency.as_ref()) == Some(&trade.currency);
            if !same {
                let GiftTrade { id, provider, amount, currency, job, .. } = trade;
                let (n, theirs) = (line.n, (&line.provider, &line.amount, &line.currency));
                report.add(
                    I1B,
                    format!("job {job}, trade {id}: {provider} {amount} {currency} was asked for, ledger line {n} says {theirs:?}"),
                );
            }
        }
    }
}

/// I1b, I2b, I20: what a job at rest says happened is what happened.
fn at_rest(history: &History, effects: &Effects, job: &Job, report: &mut Report) {
    let live = effects.live_of(history, job.id);
    let cards: Vec<_> = live.iter().map(|line| (line.trade.as_deref(), line.card.as_deref())).collect();
    let id = job.id;
    match job.status.as_str() {
        "completed" if job.at != "issued" => {
            report.add(I1B, format!("job {id}: completed at {}, which delivers nothing", job.at));
        }
        "completed" => match live.as_slice() {
            [line] => delivered(history, job, line, report),
            _ => report.add(I1B, format!("job {id}: completed with {} live gifts: {cards:?}", live.len())),
        },
        "failed" | "cancelled" if !live.is_empty() => {
            report.add(I2B, format!("job {id}: {} ({}), and gifts are live: {cards:?}", job.status, job.at));
        }
        "needs_operator" if live.len() > 1 => {
            report.add(I2B, format!("job {id}: waits for a person with {} live gifts: {cards:?}", live.len()));
        }
        "needs_operator" if job.code.is_none() => {
            report.add(I2B, format!("job {id}: waits for a person at {} without a question", job.at));
        }
        _ => {}
    }
}

/// The one live gift is the one that the job names and was asked for.
fn delivered(history: &History, job: &Job, line: &Line, report: &mut Report) {
    let id = job.id;
    let value = &job.args["value"];
    if number(value.get("amount")) != number(line.amount.as_ref())
        || text(value.get("currency")) != text(line.currency.as_ref())
    {
        let (asked, theirs) = (value.to_string(), (&line.amount, &line.currency));
        report.add(I1B, format!("job {id}: {asked} was asked for, ledger line {} says {theirs:?}", line.n));
    }
    let state = job.state.as_ref();
    let trade = text(state.and_then(|state| state["trade"].get("id")));
    let card = text(state.and_then(|state| state.get("card")));
    if (trade, card) != (line.trade.as_deref(), line.card.as_deref()) {
        let theirs = (&line.trade, &line.card);
        report.add(
            I20,
            format!("job {id}: rests on trade {trade:?}, card {card:?}; ledger line {} says {theirs:?}", line.n),
        );
    }
    let recorded = line.trade.as_deref().and_then(|trade| history.outcome(trade, "issued"));
    if recorded.is_none() {
        report.add(I1B, format!("job {id}: completed, and no outcome `issued` is recorded for trade {:?}", line.trade));
    }
}

/// I20: a recorded card is one that the provider had made for this very trade.
fn cards_are_ours(history: &History, effects: &Effects, report: &mut Report) {
    for outcome in history.outcomes.values().flatten().filter(|outcome| outcome.outcome == "issued") {
        let ours = effects.of_trade(&outcome.trade).iter().any(|card| {
            card.issued.card.is_some() && card.issued.card == outcome.card && card.issued.us <= outcome.happened_at
        });
        if !ours {
            let (trade, card, when) = (&outcome.trade, &outcome.card, clock(outcome.happened_at));
            let job = history.trades.get(trade).map(|trade| trade.job);
            report.add(
                I20,
                format!("job {job:?}, trade {trade}: card {card:?} is recorded at {when}; the provider had made no such card for it"),
            );
        }
    }
}
