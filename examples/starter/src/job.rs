//! One effect at a partner: something is reserved, the effect is called for, and where the partner refuses it the reservation is released.
//!
//! | at | effect | lane | on crash | compensation | operator may |
//! |---|---|---|---|---|---|
//! | reserving | reserve | starter/partner | repeat, same id | – | retry → reserving |
//! | calling | call | starter/partner | → inquiring | release | retry → calling, in doubt → inquiring, inquire → inquiring, attest_void → refused (in doubt) |
//! | inquiring | inquire | starter/partner (reserved share) | repeat | release | retry → inquiring, inquire → inquiring, attest_void → refused (in doubt) |
//! | done | – | – | repeat | – | – |
//! | refused | – | – | repeat | – | rerun → reserving (not in doubt) |
//!
//! | at | answer | when | leads to |
//! |---|---|---|---|
//! | reserving | clear |  | → calling ! |
//! | reserving | unclear |  | retry ? |
//! | calling | done |  | done: done !, fact |
//! | calling | refused |  | fail: refused (starter_refused) |
//! | calling | not found · unknown |  | → inquiring ? |
//! | calling | not sent |  | retry |
//! | inquiring | done |  | done: done !, fact |
//! | inquiring | refused · not sent · unknown |  | retry |
//! | inquiring | not found |  | snooze |
//! | inquiring | not found | 2 s after the call | → calling ! |
//! | done | whatever |  | done: done |
//! | refused | whatever |  | fail: refused (starter_refused) |
//! | undo: release | clear |  | undone: failed (compensated) |
//! | undo: release | unclear |  | retry without end |

use std::time::Duration;

use noshi::{
    Field, Holds, KindName, Problem,
    jobs::JobId,
    machine::{Act, Acts, Call, Effect, InDoubt, Job, Lane, Limits, Past, Redirect, Step, Terms, This, Unwind},
};
use serde::{Deserialize, Serialize};

/// One budget over the whole fleet.
pub const LANE: &str = "starter/partner";
/// The partner's word: what it does not know so long after a call will not come any more. Ask yours.
const SETTLED: Duration = Duration::from_secs(2);

pub const REFUSED: Problem = Problem::of(
    "starter_refused",
    "The partner refused; nothing was done, and the reservation is released. Ask the partner why, then rerun.",
    "提携先が拒否しました。何も実行されていません。",
);

/// What it is asked for with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Args {
    /// The id of one request, for ever; it travels to the partner.
    pub request: String,
    /// In minor units.
    pub amount: i64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "at", rename_all = "snake_case")]
pub enum State {
    Reserving,
    Calling,
    Inquiring,
    Done { receipt: String },
    Refused,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "undo", rename_all = "snake_case")]
pub enum Undo {
    Release,
}

/// What is recorded in `noshi.fact`, in the commit that ends the job.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Done {
    pub receipt: String,
    pub amount: i64,
}

/// What the partner says of the effect.
pub enum Said {
    Done(String),
    Refused,
    NotFound,
    NotSent,
    Unknown,
}

/// What the job calls.
pub trait World: Send + Sync {
    /// The same id reserves once. False: it was not sent, or nothing clear came back.
    fn reserve<'a>(&'a self, args: &'a Args) -> Call<'a, bool>;
    /// Each call has an effect: after one without an answer it is asked what became of it.
    fn call<'a>(&'a self, args: &'a Args) -> Call<'a, Said>;
    fn inquire<'a>(&'a self, args: &'a Args) -> Call<'a, Said>;
    /// What was released already is released.
    fn release<'a>(&'a self, args: &'a Args) -> Call<'a, bool>;
}

pub struct Starter;

impl Job for Starter {
    const KIND: KindName = KindName::new("starter");
    const LIMITS: Limits = Limits { steps: 1_000, age: Duration::from_secs(24 * 60 * 60) };
    const STATES: &'static [&'static str] = &["reserving", "calling", "inquiring", "done", "refused"];
    const UNDOS: &'static [&'static str] = &["release"];
    const PROBLEMS: &'static [Problem] = &[REFUSED];
    const FIELDS: &'static [Field] =
        &[Field::needed("request", Holds::Word { most: 60 }), Field::needed("amount", Holds::Amount)];
    const ID_FIELD: Option<&'static str> = Some("request");

    type Args = Args;
    type State = State;
    type Undo = Undo;
    type Fact = Done;
    type World = dyn World;

    fn id(args: &Args) -> JobId {
        JobId(args.request.clone())
    }

    fn start(args: &Args) -> Result<State, String> {
        if args.amount > 0 { Ok(State::Reserving) } else { Err("`amount` must be above 0".to_owned()) }
    }

    fn terms(_: &Args, state: &State) -> Terms<State> {
        let called = |effect, lane| Terms { effect, lane, tries: 10, deadline: Duration::from_secs(25) };
        match state {
            State::Reserving => called(Effect::Write("reserve", InDoubt::Repeat), Lane::writes(LANE)),
            State::Calling => called(Effect::Write("call", InDoubt::GoTo(State::Inquiring)), Lane::writes(LANE)),
            State::Inquiring => called(Effect::Read("inquire"), Lane::reserved(LANE)),
            State::Done { .. } | State::Refused => Terms::local(Effect::Pure),
        }
    }

    fn leaves_behind(state: &State) -> Option<Undo> {
        match state {
            State::Calling | State::Inquiring => Some(Undo::Release),
            State::Reserving | State::Done { .. } | State::Refused => None,
        }
    }

    fn acts(state: &State, past: Past) -> Acts<State> {
        let again = Acts::none().to(Act::Retry, state.clone());
        let asks = again.clone().to(Act::Inquire, State::Inquiring);
        match state {
            State::Reserving => again,
            State::Calling | State::Inquiring => asks.to_if(past == Past::InDoubt, Act::AttestVoid, || State::Refused),
            State::Refused => Acts::none().to(Act::Rerun, State::Reserving),
            State::Done { .. } => Acts::none(),
        }
    }

    fn operator_unwinding(undo: &Undo, act: Act) -> Option<Redirect<State, Undo>> {
        (act == Act::Retry).then(|| Redirect::Unwind(undo.clone()))
    }

    async fn step(this: &This<Args>, state: State, world: &Self::World) -> Step<Self> {
        let done = |receipt: String| {
            let fact = Done { receipt: receipt.clone(), amount: this.args.amount };
            Step::done("done", State::Done { receipt }).for_sure().fact(fact)
        };
        match state {
            State::Reserving => match world.reserve(&this.args).await {
                true => Step::advance("reserved", State::Calling).for_sure(),
                false => Step::retry("unclear").in_doubt(),
            },
            State::Calling => match world.call(&this.args).await {
                Said::Done(receipt) => done(receipt),
                Said::Refused => Step::fail("refused", State::Refused, REFUSED),
                Said::NotSent => Step::retry("not_sent"),
                Said::NotFound | Said::Unknown => Step::advance("unknown", State::Inquiring).in_doubt(),
            },
            State::Inquiring => match world.inquire(&this.args).await {
                Said::Done(receipt) => done(receipt),
                Said::NotFound if this.since_call.is_some_and(|since| since < SETTLED) => {
                    Step::snooze("early", SETTLED)
                }
                Said::NotFound => Step::advance("not_found", State::Calling).for_sure(),
                Said::Refused | Said::NotSent | Said::Unknown => Step::retry("unknown"),
            },
            State::Done { .. } => Step::done("over", state),
            State::Refused => Step::fail("attested", State::Refused, REFUSED),
        }
    }

    fn undo_lane(_: &Args, _: &Undo) -> Option<Lane> {
        Lane::reserved(LANE)
    }

    async fn unwind(this: &This<Args>, _: Undo, world: &Self::World) -> Unwind<Undo> {
        if world.release(&this.args).await { Unwind::Undone } else { Unwind::Retry }
    }
}
