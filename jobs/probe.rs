//! Probe: a job that touches nothing outside. The benchmark runs it, and the engine's tests put it through every transition.
//!
//! | at | effect | lane | on crash | compensation | operator may |
//! |---|---|---|---|---|---|
//! | stepping | – | – | repeat | – | retry → stepping |
//! | calling | call | probe | → checking | – | retry → calling, in doubt → checking, inquire → checking, attest_void → over (in doubt) |
//! | checking | call | probe (reserved share) | repeat | – | retry → checking, attest_void → over (in doubt) |
//! | tallying | tally | – | repeat | take_back | retry → tallying |
//! | over | – | – | repeat | – | – |
//!
//! | at | answer | when | leads to |
//! |---|---|---|---|
//! | stepping | the first, with a lane |  | → calling |
//! | stepping | more than one left |  | → stepping |
//! | stepping | the last |  | done: over |
//! | calling | ok |  | → tallying !, fact, follow-up |
//! | calling | refused |  | fail: over (probe_refused) |
//! | calling | busy · not_sent |  | → calling |
//! | calling | ask |  | ask (probe_asked) |
//! | checking | ok |  | → tallying !, fact, follow-up |
//! | checking | refused |  | fail: over (probe_refused) ! |
//! | checking | busy · not_sent |  | → calling |
//! | checking | ask |  | ask (probe_asked) |
//! | tallying | inserted |  | → stepping |
//! | tallying | taken |  | fail: over (probe_refused) |
//! | undo: take_back | taken back |  | undone: failed (compensated) |
//! | undo: take_back | busy |  | retry without end |
//!
//! | at | answer | when | in doubt: repeat | in doubt: go to | in doubt: ask |
//! |---|---|---|---|---|---|
//! | calling | unknown |  | → calling ? | → checking ? | ask (probe_asked) ? |
//! | checking | unknown |  | → calling ? | → checking ? | ask (probe_asked) ? |

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    JobId, Kind, KindName, Problem, Request,
    machine::{Act, Acts, Call, Effect, InDoubt, Job, Lane, Limits, Past, Redirect, Step, Terms, This, Unwind},
};

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Args {
    pub id: String,
    /// Pure steps, at least 1.
    pub steps: u32,
    /// Call once in this lane, after the first step; the answer comes with a note (a fact).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lane: Option<String>,
    /// What the calls answer, one after another; `ok` where the list ends.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub answers: Vec<Answer>,
    pub in_doubt: OnDoubt,
    /// A name that only one probe may take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tally: Option<String>,
    /// Ask for another probe of one step with the call's answer.
    pub follow_up: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnDoubt {
    #[default]
    Repeat,
    GoTo,
    Ask,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    Ok,
    Refused,
    Busy,
    NotSent,
    Unknown,
    Ask,
    /// The call panics. In release builds, `unknown`.
    Panic,
    /// The call never ends. In release builds, `unknown`.
    Hang,
    /// The call holds its thread for half a minute, whatever its deadline. In release builds, `unknown`.
    Block,
    /// The call kills its worker. In release builds, `unknown`.
    Die,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tally {
    Inserted,
    Taken,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TakenBack {
    Ok,
    Busy,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "at", rename_all = "snake_case")]
pub enum State {
    Stepping { left: u32 },
    Calling { left: u32, turn: u32 },
    Checking { left: u32, turn: u32 },
    Tallying { left: u32 },
    Over,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "undo", rename_all = "snake_case")]
pub enum Undo {
    TakeBack,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    pub text: String,
}

pub trait World: Send + Sync {
    fn call<'a>(&'a self, args: &'a Args, turn: u32) -> Call<'a, Answer>;
    /// In the transaction of the transition that follows.
    fn tally<'a>(&'a self, name: &'a str) -> Call<'a, Tally>;
    fn take_back<'a>(&'a self, args: &'a Args) -> Call<'a, TakenBack>;
}

pub struct Probe;

impl Job for Probe {
    const KIND: KindName = Kind::Probe.as_name();
    const LIMITS: Limits = Limits { steps: 1_000, age: Duration::from_secs(24 * 60 * 60) };
    const STATES: &'static [&'static str] = &["stepping", "calling", "checking", "tallying", "over"];
    const UNDOS: &'static [&'static str] = &["take_back"];

    type Args = Args;
    type State = State;
    type Undo = Undo;
    type Fact = Note;
    type World = dyn World;

    fn id(args: &Args) -> JobId {
        JobId(args.id.clone())
    }

    fn start(args: &Args) -> Result<State, String> {
        match args.steps {
            0 => Err("`steps` must be at least 1".to_owned()),
            left => Ok(State::Stepping { left }),
        }
    }

    fn terms(args: &Args, state: &State) -> Terms<State> {
        let lane = |reserved| args.lane.clone().map(|name| Lane { name, reserved });
        match state {
            State::Stepping { .. } | State::Over => Terms::local(Effect::Pure),
            State::Calling { left, turn } => {
                let in_doubt = match args.in_doubt {
                    OnDoubt::Repeat => InDoubt::Repeat,
                    OnDoubt::GoTo => InDoubt::GoTo(State::Checking { left: *left, turn: turn + 1 }),
                    OnDoubt::Ask => InDoubt::AskOperator(Problem::ProbeAsked),
                };
                Terms {
                    effect: Effect::Write("call", in_doubt),
                    lane: lane(false),
                    tries: 10,
                    deadline: Duration::from_secs(5),
                }
            }
            State::Checking { .. } => {
                Terms { effect: Effect::Read("call"), lane: lane(true), tries: 10, deadline: Duration::from_secs(5) }
            }
            State::Tallying { .. } => Terms::local(Effect::Local("tally")),
        }
    }

    fn leaves_behind(state: &State) -> Option<Undo> {
        match state {
            State::Tallying { .. } => Some(Undo::TakeBack),
            State::Stepping { .. } | State::Calling { .. } | State::Checking { .. } | State::Over => None,
        }
    }

    fn acts(state: &State, past: Past) -> Acts<State> {
        let again = Acts::none().to(Act::Retry, state.clone());
        match state {
            State::Stepping { .. } | State::Tallying { .. } => again,
            State::Calling { left, turn } => again
                .to(Act::Inquire, State::Checking { left: *left, turn: *turn })
                .to_if(past == Past::InDoubt, Act::AttestVoid, || State::Over),
            State::Checking { .. } => again.to_if(past == Past::InDoubt, Act::AttestVoid, || State::Over),
            State::Over => Acts::none(),
        }
    }

    fn operator_unwinding(undo: &Undo, act: Act) -> Option<Redirect<State, Undo>> {
        (act == Act::Retry).then(|| Redirect::Unwind(undo.clone()))
    }

    async fn step(this: &This<Args>, state: State, world: &Self::World) -> Step<Self> {
        match state {
            State::Stepping { left: 0 | 1 } => Step::done("over", State::Over),
            State::Stepping { left } if left == this.args.steps && this.args.lane.is_some() => {
                Step::advance("stepped", State::Calling { left: left - 1, turn: 0 })
            }
            State::Stepping { left } => Step::advance("stepped", State::Stepping { left: left - 1 }),
            State::Calling { left, turn } => called(this, left, turn, world.call(&this.args, turn).await),
            State::Checking { left, turn } => {
                let answer = world.call(&this.args, turn).await;
                let step = called(this, left, turn, answer);
                // Only a definite answer ends the doubt.
                if answer == Answer::Refused { step.for_sure() } else { step }
            }
            State::Tallying { left } => match world.tally(this.args.tally.as_deref().unwrap_or_default()).await {
                Tally::Inserted => Step::advance("inserted", State::Stepping { left }),
                Tally::Taken => Step::fail("taken", State::Over, Problem::ProbeRefused),
            },
            State::Over => Step::done("over", State::Over),
        }
    }

    fn undo_lane(args: &Args, undo: &Undo) -> Option<Lane> {
        match undo {
            Undo::TakeBack => args.lane.clone().map(|name| Lane { name, reserved: true }),
        }
    }

    async fn unwind(this: &This<Args>, undo: Undo, world: &Self::World) -> Unwind<Undo> {
        match undo {
            Undo::TakeBack => match world.take_back(&this.args).await {
                TakenBack::Ok => Unwind::Undone,
                TakenBack::Busy => Unwind::Retry,
            },
        }
    }
}

fn called(this: &This<Args>, left: u32, turn: u32, answer: Answer) -> Step<Probe> {
    match answer {
        Answer::Ok => noted(this, left),
        Answer::Refused => Step::fail("refused", State::Over, Problem::ProbeRefused),
        Answer::Busy => Step::advance("busy", State::Calling { left, turn: turn + 1 }).after(Duration::from_millis(50)),
        Answer::NotSent => Step::advance("not_sent", State::Calling { left, turn: turn + 1 }),
        Answer::Unknown | Answer::Panic | Answer::Hang | Answer::Block | Answer::Die => match this.args.in_doubt {
            OnDoubt::Repeat => Step::advance("unknown", State::Calling { left, turn: turn + 1 }).in_doubt(),
            OnDoubt::GoTo => Step::advance("unknown", State::Checking { left, turn: turn + 1 }).in_doubt(),
            OnDoubt::Ask => Step::needs_operator("unknown", Problem::ProbeAsked).in_doubt(),
        },
        Answer::Ask => Step::needs_operator("ask", Problem::ProbeAsked),
    }
}

fn noted(this: &This<Args>, left: u32) -> Step<Probe> {
    let next = match this.args.tally {
        Some(_) => State::Tallying { left },
        None => State::Stepping { left },
    };
    let step = Step::advance("ok", next).for_sure().fact(Note { text: this.args.id.clone() });
    if !this.args.follow_up {
        return step;
    }
    let args = Args { id: format!("{}/follow-up", this.args.id), steps: 1, ..Args::default() };
    step.follow_up(Request::Probe(args))
}
