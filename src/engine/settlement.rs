//! From what a step decided to what is written: builds settlements, touches nothing.

use std::time::Duration;

use noshi_jobs::{
    Problem,
    machine::{
        Act, Doubt, Effect, InDoubt, Job, Lane, Lead, Past, Redirect, Step, Terms, Transition, Unwind, lead,
        lead_unwinding,
    },
};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use crate::{
    basics::chaos::{Bug, planted},
    db::{
        domain::facts,
        queue::{
            claim::Claimed,
            settle::{Progress, Settlement, Status},
        },
    },
    engine::retry::durable_delay,
    telemetry::traces::Trace,
};

/// A compensation is tried again after at most this long, for ever.
const UNDO_CEILING: Duration = Duration::from_secs(600);

/// Where a claimed job stands, for building its next settlement.
pub struct Target<'a, J: Job> {
    pub claimed: &'a Claimed,
    pub args: &'a J::Args,
    pub step: i32,
    pub retries: u32,
    pub in_doubt: bool,
}

/// A settlement of nothing yet.
pub fn blank(claimed: &Claimed, step: i32, outcome: &'static str, code: Option<Problem>) -> Settlement {
    Settlement {
        id: claimed.id,
        lease: claimed.lease,
        step,
        at: String::new(),
        state: None,
        undo: None,
        status: Status::NeedsOperator,
        outcome,
        code: code.map(Problem::code),
        detail: None,
        lane: String::new(),
        reserved: false,
        writes: false,
        delay: Duration::ZERO,
        doubt: Doubt::AsBefore,
        progress: Progress::Snooze,
        facts: vec![],
        follow_ups: vec![],
        traceparent: None,
    }
}

/// Parks a row that this version cannot read, leaving every word of it as it is.
pub fn unread(claimed: &Claimed, why: Problem, detail: String) -> Settlement {
    Settlement {
        at: claimed.at.clone(),
        state: claimed.state.clone(),
        undo: claimed.undo.clone(),
        detail: Some(detail),
        ..blank(claimed, claimed.step, why.code(), Some(why))
    }
}

impl<J: Job> Target<'_, J>
where
    facts::Fact: From<J::Fact>,
{
    /// What a step decided, and the state to go on with if the job stays in flight.
    pub fn stepped(
        &self,
        state: &J::State,
        terms: &Terms<J::State>,
        mut step: Step<J>,
    ) -> (Settlement, Option<J::State>) {
        if planted(Bug::BlindRetry) && step.doubt == Doubt::Raised {
            step.doubt = Doubt::AsBefore;
            step.transition = Transition::Retry;
        }
        let (outcome, doubt) = (step.outcome, step.doubt);
        let in_doubt = match doubt {
            Doubt::AsBefore => self.in_doubt,
            Doubt::Raised => true,
            Doubt::Settled => false,
        };
        let after = step.after.unwrap_or_default();
        let mut settlement = match &step.transition {
            Transition::Advance(next) => self.next(next, outcome, after, doubt),
            Transition::Retry => self.again(state, terms, outcome, after, doubt, Problem::OutOfTries),
            Transition::Snooze(pause) => Settlement {
                progress: Progress::Snooze,
                status: if pause.is_zero() { Status::Available } else { Status::Scheduled },
                ..self.next(state, outcome, *pause, doubt)
            },
            Transition::Done(_) | Transition::Fail(..) if in_doubt => {
                self.parked(state, outcome, Problem::UnsettledDoubt, doubt)
            }
            Transition::Done(end) => Settlement { status: Status::Completed, doubt, ..self.placed(end, outcome, None) },
            Transition::Fail(end, why) => match J::leaves_behind(state) {
                None => Settlement { status: Status::Failed, doubt, ..self.placed(end, outcome, Some(*why)) },
                Some(undo) => Settlement {
                    doubt,
                    code: Some(why.code()),
                    ..self.compensating(end, &undo, outcome, Duration::ZERO, Progress::Advance)
                },
            },
            Transition::NeedsOperator(why) => self.parked(state, outcome, *why, doubt),
        };
        settlement.facts = step.facts.into_iter().map(facts::Fact::from).collect();
        settlement.follow_ups = step.follow_ups;
        if !settlement.follow_ups.is_empty() {
            settlement.traceparent = Some(Trace::of(self.claimed).traceparent());
        }
        let stays = match step.transition {
            Transition::Advance(next) if settlement.status == Status::Running => Some(next),
            Transition::Advance(_)
            | Transition::Retry
            | Transition::Snooze(_)
            | Transition::Done(_)
            | Transition::Fail(..)
            | Transition::NeedsOperator(_) => None,
        };
        (settlement, stays)
    }

    /// A step that panicked or overran: of a write, the outcome is unknown.
    pub fn broken(&self, state: &J::State, terms: &Terms<J::State>, outcome: &'static str, why: Problem) -> Settlement {
        match &terms.effect {
            Effect::Pure | Effect::Read(_) | Effect::Local(_) => {
                self.again(state, terms, outcome, Duration::ZERO, Doubt::AsBefore, why)
            }
            Effect::Write(_, InDoubt::Repeat) => self.again(state, terms, outcome, Duration::ZERO, Doubt::Raised, why),
            Effect::Write(_, InDoubt::GoTo(elsewhere)) => {
                released(self.next(elsewhere, outcome, Duration::ZERO, Doubt::Raised))
            }
            Effect::Write(_, InDoubt::AskOperator(_)) => self.parked(state, outcome, why, Doubt::Raised),
        }
    }

    /// A job that was rescued, or one whose next state has a lane that this claim did not pay for.
    pub fn reentered(&self, state: &J::State, terms: &Terms<J::State>) -> Settlement {
        let goes = |to: &J::State, outcome| Settlement {
            progress: Progress::Reenter,
            ..released(self.next(to, outcome, Duration::ZERO, Doubt::AsBefore))
        };
        match &terms.effect {
            Effect::Write(_, InDoubt::GoTo(elsewhere)) if self.in_doubt => goes(elsewhere, "in_doubt"),
            Effect::Write(_, InDoubt::AskOperator(why)) if self.in_doubt => {
                self.parked(state, "in_doubt", *why, Doubt::AsBefore)
            }
            Effect::Write(..) | Effect::Pure | Effect::Read(_) | Effect::Local(_) => goes(state, "reentered"),
        }
    }

    /// Where an operator's act leads; `None` where the state table does not allow it.
    pub fn obeyed(&self, state: &J::State, undo: Option<&J::Undo>, act: Act) -> Option<Settlement> {
        // A person's word, with evidence, about every call made.
        let doubt = match act {
            Act::AttestVoid | Act::AttestDone => Doubt::Settled,
            Act::Retry | Act::Inquire | Act::Cancel | Act::Reissue | Act::Reject | Act::Rerun | Act::Adopt => {
                Doubt::AsBefore
            }
            // The database's own, which no worker is asked for.
            Act::Dismiss | Act::Acknowledge => return None,
        };
        let past = Past::of(self.in_doubt);
        let forward = |next: &J::State| {
            let facts = J::recorded(state, next, act).into_iter().map(facts::Fact::from).collect();
            Settlement { facts, ..released(self.next(next, act.name(), Duration::ZERO, doubt)) }
        };
        let Some(undo) = undo else {
            return match lead::<J>(self.args, state, act, past) {
                Lead::To(next) => Some(forward(&next)),
                Lead::Nowhere if act == Act::AttestVoid && planted(Bug::WordAgainstFact) => {
                    void_by_word(state).map(|next| forward(&next))
                }
                Lead::Nowhere | Lead::AttestFirst => None,
            };
        };
        let redirect = match lead_unwinding::<J>(self.args, undo, act, past) {
            Lead::To(redirect) => redirect,
            Lead::Nowhere | Lead::AttestFirst => return None,
        };
        Some(match redirect {
            Redirect::To(next) => forward(&next),
            Redirect::Unwind(undo) => self.compensating(state, &undo, act.name(), Duration::ZERO, Progress::Advance),
            // The reason for which it was taken back stays with it.
            Redirect::Undone => {
                let code = self.claimed.code;
                Settlement { status: Status::Failed, doubt, code, ..self.placed(state, "compensated", None) }
            }
        })
    }

    /// On with an open job, as if nothing had been asked for.
    pub fn declined(&self, state: &J::State, undo: Option<&J::Undo>) -> Settlement {
        let on = match undo {
            Some(undo) => self.unwound(state, undo, Unwind::Advance(undo.clone())),
            None => self.reentered(state, &J::terms(self.args, state)),
        };
        Settlement { outcome: "declined", ..on }
    }

    /// Where unwinding leads. The end that the job was heading for stays its state.
    pub fn unwound(&self, end: &J::State, undo: &J::Undo, unwind: Unwind<J::Undo>) -> Settlement {
        let again = |undo: &J::Undo, outcome, delay, progress| self.compensating(end, undo, outcome, delay, progress);
        let settlement = match unwind {
            Unwind::Advance(next) => again(&next, "unwinding", Duration::ZERO, Progress::Advance),
            Unwind::Retry => {
                let delay = durable_delay(self.retries).clamp(Duration::from_secs(1), UNDO_CEILING);
                again(undo, "unwind_retry", delay, Progress::Retry)
            }
            Unwind::RetryAndPage(why) => {
                tracing::error!(
                    job = self.claimed.id,
                    code = why.code(),
                    "what was done cannot be taken back; it is tried for ever"
                );
                let settlement = again(undo, "unwind_stuck", UNDO_CEILING, Progress::Retry);
                Settlement { code: Some(why.code()), ..settlement }
            }
            Unwind::Snooze(pause) => again(undo, "unwind_snooze", pause, Progress::Snooze),
            Unwind::Throttled(pause) => again(undo, "throttled", pause, Progress::Snooze),
            Unwind::Undone => Settlement { status: Status::Failed, ..self.placed(end, "compensated", None) },
            Unwind::NeedsOperator(why) => {
                Settlement { undo: Some(raw(undo)), ..self.parked(end, "unwind_parked", why, Doubt::AsBefore) }
            }
        };
        // The reason for which the job is taken back stays with it to the end.
        Settlement { code: settlement.code.or(self.claimed.code), ..settlement }
    }

    pub fn parked(&self, state: &J::State, outcome: &'static str, why: Problem, doubt: Doubt) -> Settlement {
        let writes = J::terms(self.args, state).effect.is_write();
        Settlement { writes, doubt, ..self.placed(state, outcome, Some(why)) }
    }

    /// On to `state`: in flight where it needs no lane, released where it does.
    fn next(&self, state: &J::State, outcome: &'static str, delay: Duration, doubt: Doubt) -> Settlement {
        let terms = J::terms(self.args, state);
        let status = match (&terms.lane, delay.is_zero()) {
            (None, true) => Status::Running,
            (Some(_), true) => Status::Available,
            (_, false) => Status::Scheduled,
        };
        let lane = terms.lane.unwrap_or(Lane { name: String::new(), reserved: false });
        Settlement {
            status,
            lane: lane.name,
            reserved: lane.reserved,
            writes: terms.effect.is_write(),
            delay,
            doubt,
            progress: Progress::Advance,
            ..self.placed(state, outcome, None)
        }
    }

    /// The same state again, later, while its terms allow.
    fn again(
        &self,
        state: &J::State,
        terms: &Terms<J::State>,
        outcome: &'static str,
        at_least: Duration,
        doubt: Doubt,
        why: Problem,
    ) -> Settlement {
        if self.retries >= terms.tries {
            return self.parked(state, outcome, why, doubt);
        }
        let delay = durable_delay(self.retries).max(at_least);
        Settlement { progress: Progress::Retry, status: Status::Retryable, ..self.next(state, outcome, delay, doubt) }
    }

    fn compensating(
        &self,
        end: &J::State,
        undo: &J::Undo,
        outcome: &'static str,
        delay: Duration,
        progress: Progress,
    ) -> Settlement {
        let lane = J::undo_lane(self.args, undo).unwrap_or(Lane { name: String::new(), reserved: true });
        Settlement {
            undo: Some(raw(undo)),
            status: if delay.is_zero() { Status::Available } else { Status::Retryable },
            lane: lane.name,
            reserved: lane.reserved,
            delay,
            progress,
            ..self.placed(end, outcome, None)
        }
    }

    fn placed(&self, state: &J::State, outcome: &'static str, why: Option<Problem>) -> Settlement {
        let state = raw(state);
        Settlement { at: at(&state), state: Some(state), ..blank(self.claimed, self.step, outcome, why) }
    }
}

/// What a planted bug makes of a gift that was issued.
fn void_by_word<S: Serialize + serde::de::DeserializeOwned>(state: &S) -> Option<S> {
    let trade = serde_json::to_value(state).ok()?.get("trade")?.clone();
    serde_json::from_value(serde_json::json!({"at": "void", "trade": trade, "then": "ask"})).ok()
}

/// Not to be kept in flight, whatever the state.
fn released(settlement: Settlement) -> Settlement {
    match settlement.status {
        Status::Running => Settlement { status: Status::Available, ..settlement },
        Status::Scheduled
        | Status::Available
        | Status::Retryable
        | Status::NeedsOperator
        | Status::Completed
        | Status::Failed
        | Status::Cancelled => settlement,
    }
}

fn raw(value: &impl Serialize) -> Box<RawValue> {
    to_raw_value(value).expect("states are plain data")
}

/// The stored name of a state.
pub fn name(state: &impl Serialize) -> String {
    at(&raw(state))
}

/// The stored name of a state: its serde tag, which stands first.
fn at(state: &RawValue) -> String {
    #[derive(serde::Deserialize)]
    struct Tagged<'a> {
        at: &'a str,
    }
    serde_json::from_str::<Tagged<'_>>(state.get())
        .map_or_else(|_| "untagged".to_owned(), |tagged| tagged.at.to_owned())
}
