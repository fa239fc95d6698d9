//! The tables of one contract, drawn from what the machine does with it.

use std::time::Duration;

use futures::FutureExt;
use noshi_jobs::{
    effect::{Args, Cancel, Effect, Inquire, Kept, Perform, Ready, Rule, State, World},
    machine::{self, Act, Call, Doubt, InDoubt, Job, Lead, Past, Step, This, Transition, lead},
};
use serde::Serialize;

use crate::partners::effects::{Asks, Contract, Means};

const THROTTLED: Duration = Duration::from_secs(5);

#[derive(Serialize)]
pub struct Place {
    pub at: String,
    pub effect: &'static str,
    pub on_crash: String,
    pub acts: String,
}

#[derive(Serialize)]
pub struct Answered {
    pub at: &'static str,
    pub answer: String,
    pub means: &'static str,
    pub leads_to: String,
}

fn args(contract: &Contract) -> Args {
    Args { effect: contract.name.clone(), id: "ID".to_owned(), input: [].into() }
}

fn at(state: &State) -> String {
    let json = serde_json::to_value(state).unwrap_or_default();
    json["at"].as_str().unwrap_or_default().to_owned()
}

/// The states that this contract can lead to.
pub fn places(contract: &Contract) -> Vec<Place> {
    let (deal, args) = (contract.deal(0), args(contract));
    let mut states = vec![State::Preparing { run: 0 }, State::Performing { deal: deal.clone() }];
    if deal.rule == Rule::Inquire {
        states.push(State::Inquiring { deal: deal.clone(), accepted: false });
    }
    if deal.cancels {
        states.push(State::Cancelling { deal });
    }
    states.push(State::Done { kept: Kept::default() });
    states.push(State::Refused { run: 0, why: noshi_jobs::Problem::EffectRefused, detail: None });
    states.iter().map(|state| place(&args, state)).collect()
}

fn place(args: &Args, state: &State) -> Place {
    let terms = Effect::terms(args, state);
    let on_crash = match &terms.effect {
        machine::Effect::Write(_, InDoubt::Repeat) => "repeat, same id".to_owned(),
        machine::Effect::Write(_, InDoubt::GoTo(next)) => format!("→ {}", at(next)),
        machine::Effect::Write(_, InDoubt::AskOperator(problem)) => format!("ask ({})", problem.code()),
        machine::Effect::Pure | machine::Effect::Read(_) | machine::Effect::Local(_) => "repeat".to_owned(),
    };
    let leads = |act, past| match lead::<Effect>(args, state, act, past) {
        Lead::To(next) => Some(at(&next)),
        Lead::Nowhere | Lead::AttestFirst => None,
    };
    let acts = Act::ALL.into_iter().filter_map(|act| match (leads(act, Past::Clear), leads(act, Past::InDoubt)) {
        (Some(one), Some(two)) if one == two => Some(format!("{} → {one}", act.name())),
        (Some(one), Some(two)) => Some(format!("{} → {one}, in doubt → {two}", act.name())),
        (Some(one), None) => Some(format!("{} → {one} (not in doubt)", act.name())),
        (None, Some(two)) => Some(format!("{} → {two} (in doubt)", act.name())),
        (None, None) => None,
    });
    let acts: Vec<String> = acts.collect();
    Place { at: at(state), effect: terms.effect.name(), on_crash, acts: acts.join(", ") }
}

/// Answers with one meaning.
struct Says(Means);

impl World for Says {
    fn read_contract<'a>(&'a self, _: &'a Args, _: u16) -> Call<'a, Ready> {
        Box::pin(async { Ready::NoContract })
    }
    fn perform<'a>(&'a self, _: &'a Args, _: &'a str) -> Call<'a, Perform> {
        Box::pin(async {
            match self.0 {
                Means::Done => Perform::Done(Kept::default()),
                Means::Refused => Perform::Refused(String::new()),
                Means::Accepted => Perform::Accepted,
                Means::Throttled => Perform::Throttled(THROTTLED),
                Means::Credentials => Perform::BadCredentials,
                Means::Happened | Means::DidNotHappen | Means::NotYet | Means::Unknown => Perform::Unknown,
            }
        })
    }
    fn inquire<'a>(&'a self, _: &'a Args, _: &'a str) -> Call<'a, Inquire> {
        Box::pin(async {
            match self.0 {
                Means::Happened => Inquire::Happened(Kept::default()),
                Means::DidNotHappen => Inquire::DidNotHappen,
                Means::NotYet => Inquire::NotYet,
                Means::Throttled => Inquire::Throttled(THROTTLED),
                Means::Credentials => Inquire::BadCredentials,
                Means::Done | Means::Refused | Means::Accepted | Means::Unknown => Inquire::NoAnswer,
            }
        })
    }
    fn cancel<'a>(&'a self, _: &'a Args, _: &'a str) -> Call<'a, Cancel> {
        Box::pin(async {
            match self.0 {
                Means::Done => Cancel::Done,
                Means::Refused => Cancel::Refused,
                Means::Throttled => Cancel::Throttled(THROTTLED),
                Means::Credentials => Cancel::BadCredentials,
                Means::Happened | Means::DidNotHappen | Means::NotYet | Means::Accepted | Means::Unknown => {
                    Cancel::Unknown
                }
            }
        })
    }
}

/// Every answer that the contract names, and those that none does.
pub fn answers(contract: &Contract) -> Vec<Answered> {
    let deal = contract.deal(0);
    let mut rows = vec![];
    for (key, asks) in contract.asks() {
        let (name, state) = match key {
            "perform" => ("performing", State::Performing { deal: deal.clone() }),
            "inquire" => ("inquiring", State::Inquiring { deal: deal.clone(), accepted: false }),
            _ => ("cancelling", State::Cancelling { deal: deal.clone() }),
        };
        let mut answers = named(asks);
        answers.push(("anything else, or none in time".to_owned(), Means::Unknown));
        for (answer, means) in answers {
            rows.push(Answered { at: name, answer, means: means.name(), leads_to: leads_to(contract, &state, means) });
        }
    }
    rows
}

fn named(asks: &Asks) -> Vec<(String, Means)> {
    let words = |rule: &crate::partners::effects::AnswerRule| {
        let status: Vec<String> = rule.status.iter().map(u16::to_string).collect();
        let mut words = status.join(" or ");
        if let Some(text) = &rule.text {
            words += &format!(" and the text {text:?}");
        }
        match (&rule.at, &rule.is) {
            (Some(at), Some(is)) => {
                let values: Vec<String> = is.iter().map(ToString::to_string).collect();
                words + &format!(" and {at} is {}", values.join(" or "))
            }
            (Some(at), None) => words + &format!(" and {at} is there"),
            (None, _) => words,
        }
    };
    asks.answers.iter().map(|rule| (words(rule), rule.means)).collect()
}

fn leads_to(contract: &Contract, state: &State, means: Means) -> String {
    // So long after the call that it has settled, and within the deadline.
    let settled = Duration::from_secs(contract.doubt.settles_after_s.unwrap_or(1));
    let (moment, args) = (Duration::from_millis(1), args(contract));
    let this = This { args, age: moment, in_state: moment, since_call: Some(settled), retries: 0, in_doubt: false };
    let step: Option<Step<Effect>> = Effect::step(&this, state.clone(), &Says(means)).now_or_never();
    step.map_or_else(String::new, |step| in_words(&step))
}

fn in_words(step: &Step<Effect>) -> String {
    let leads = match &step.transition {
        Transition::Advance(next) => format!("→ {}", at(next)),
        Transition::Retry => "again, later".to_owned(),
        Transition::Snooze(_) => "again, after a while".to_owned(),
        Transition::Done(next) => format!("over: {}", at(next)),
        Transition::Fail(next, why) => format!("over: {} ({})", at(next), why.code()),
        Transition::NeedsOperator(why) => format!("a person is asked ({})", why.code()),
    };
    let doubt = if step.doubt == Doubt::Raised { ", in doubt" } else { "" };
    let closing = step.closing.map_or_else(String::new, |closing| format!(", {}", closing.words()));
    leads + doubt + &closing
}
