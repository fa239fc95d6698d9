//! A refund: the payment is held at the shop, refunded, and booked here. Where the shop refuses it, the hold is released.
//!
//! | at | effect | lane | on crash | compensation | operator may |
//! |---|---|---|---|---|---|
//! | holding | hold | refund/shop | repeat, same id | – | retry → holding |
//! | refunding | refund | refund/shop | → inquiring | release | retry → refunding, in doubt → inquiring, inquire → inquiring, attest_void → refused (in doubt) |
//! | inquiring | inquire | refund/shop (reserved share) | repeat | release | retry → inquiring, inquire → inquiring, attest_void → refused (in doubt) |
//! | booking | book | – | repeat | – | retry → booking |
//! | refunded | – | – | repeat | – | – |
//! | refused | – | – | repeat | – | rerun → holding (not in doubt) |
//!
//! | at | answer | when | leads to |
//! |---|---|---|---|
//! | holding | held |  | → refunding ! |
//! | holding | unclear |  | retry ? |
//! | refunding | done |  | → booking ! |
//! | refunding | refused |  | fail: refused (refund_refused) |
//! | refunding | conflict |  | ask (refund_conflict) |
//! | refunding | not found · unknown |  | → inquiring ? |
//! | refunding | not sent |  | retry |
//! | inquiring | done |  | → booking ! |
//! | inquiring | refused · conflict · not sent · unknown |  | retry |
//! | inquiring | not found |  | snooze |
//! | inquiring | not found | 2 s after the call | → refunding ! |
//! | booking | whatever |  | done: refunded, fact |
//! | refunded | whatever |  | done: refunded |
//! | refused | whatever |  | fail: refused (refund_refused) |
//! | undo: release | held |  | undone: failed (compensated) |
//! | undo: release | unclear |  | retry without end |

use std::time::Duration;

use noshi::{
    Field, Holds, KindName, Problem,
    jobs::JobId,
    machine::{Act, Acts, Call, Effect, InDoubt, Job, Lane, Limits, Past, Redirect, Step, Terms, This, Unwind},
};
use serde::{Deserialize, Serialize};

pub const LANE: &str = "refund/shop";
/// The shop's word: what it does not know so long after a call will not come any more.
const SETTLED: Duration = Duration::from_secs(2);

pub const REFUSED: Problem = Problem::of(
    "refund_refused",
    "The shop refused the refund; no money moved, and the hold is released. Ask the shop why, then rerun.",
    "返金が断られました。代金は動いていません。",
);
pub const CONFLICT: Problem = Problem::of(
    "refund_conflict",
    "The shop knows this refund with another amount. Never retry; compare both sides.",
    "同じ返金番号が別の金額で登録されています。",
);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Args {
    pub payment: String,
    pub amount: i64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "at", rename_all = "snake_case")]
pub enum State {
    Holding,
    Refunding,
    Inquiring,
    Booking { receipt: String },
    Refunded { receipt: String },
    Refused,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "undo", rename_all = "snake_case")]
pub enum Undo {
    Release,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Refunded {
    pub receipt: String,
    pub amount: i64,
}

/// What the shop says of a refund.
pub enum Said {
    Done(String),
    Refused,
    Conflict,
    NotFound,
    NotSent,
    Unknown,
}

pub trait World: Send + Sync {
    /// False: it was not sent, or nothing clear came back. The same id holds once.
    fn hold<'a>(&'a self, args: &'a Args) -> Call<'a, bool>;
    fn refund<'a>(&'a self, args: &'a Args) -> Call<'a, Said>;
    fn inquire<'a>(&'a self, args: &'a Args) -> Call<'a, Said>;
    fn release<'a>(&'a self, args: &'a Args) -> Call<'a, bool>;
    fn book<'a>(&'a self, args: &'a Args, receipt: &'a str) -> Call<'a, ()>;
}

pub struct Refund;

impl Job for Refund {
    const KIND: KindName = KindName::new("refund");
    const LIMITS: Limits = Limits { steps: 1_000, age: Duration::from_secs(24 * 60 * 60) };
    const STATES: &'static [&'static str] = &["holding", "refunding", "inquiring", "booking", "refunded", "refused"];
    const UNDOS: &'static [&'static str] = &["release"];
    const PROBLEMS: &'static [Problem] = &[REFUSED, CONFLICT];
    const FIELDS: &'static [Field] =
        &[Field::needed("payment", Holds::Word { most: 60 }), Field::needed("amount", Holds::Amount)];
    const ID_FIELD: Option<&'static str> = Some("payment");

    type Args = Args;
    type State = State;
    type Undo = Undo;
    type Fact = Refunded;
    type World = dyn World;

    fn id(args: &Args) -> JobId {
        JobId(args.payment.clone())
    }

    fn start(args: &Args) -> Result<State, String> {
        if args.amount > 0 { Ok(State::Holding) } else { Err("`amount` must be above 0".to_owned()) }
    }

    fn terms(_: &Args, state: &State) -> Terms<State> {
        let called = |effect, lane| Terms { effect, lane, tries: 10, deadline: Duration::from_secs(25) };
        match state {
            State::Holding => called(Effect::Write("hold", InDoubt::Repeat), Lane::writes(LANE)),
            State::Refunding => called(Effect::Write("refund", InDoubt::GoTo(State::Inquiring)), Lane::writes(LANE)),
            State::Inquiring => called(Effect::Read("inquire"), Lane::reserved(LANE)),
            State::Booking { .. } => Terms::local(Effect::Local("book")),
            State::Refunded { .. } | State::Refused => Terms::local(Effect::Pure),
        }
    }

    fn leaves_behind(state: &State) -> Option<Undo> {
        match state {
            State::Refunding | State::Inquiring => Some(Undo::Release),
            State::Holding | State::Booking { .. } | State::Refunded { .. } | State::Refused => None,
        }
    }

    fn acts(state: &State, past: Past) -> Acts<State> {
        let again = Acts::none().to(Act::Retry, state.clone());
        let asks = again.clone().to(Act::Inquire, State::Inquiring);
        match state {
            State::Holding | State::Booking { .. } => again,
            State::Refunding | State::Inquiring => {
                asks.to_if(past == Past::InDoubt, Act::AttestVoid, || State::Refused)
            }
            State::Refused => Acts::none().to(Act::Rerun, State::Holding),
            State::Refunded { .. } => Acts::none(),
        }
    }

    fn operator_unwinding(undo: &Undo, act: Act) -> Option<Redirect<State, Undo>> {
        (act == Act::Retry).then(|| Redirect::Unwind(undo.clone()))
    }

    async fn step(this: &This<Args>, state: State, world: &Self::World) -> Step<Self> {
        match state {
            State::Holding => match world.hold(&this.args).await {
                true => Step::advance("held", State::Refunding).for_sure(),
                false => Step::retry("unclear").in_doubt(),
            },
            State::Refunding => match world.refund(&this.args).await {
                Said::Done(receipt) => Step::advance("refunded", State::Booking { receipt }).for_sure(),
                Said::Refused => Step::fail("refused", State::Refused, REFUSED),
                Said::Conflict => Step::needs_operator("conflict", CONFLICT),
                Said::NotSent => Step::retry("not_sent"),
                Said::NotFound | Said::Unknown => Step::advance("unknown", State::Inquiring).in_doubt(),
            },
            State::Inquiring => match world.inquire(&this.args).await {
                Said::Done(receipt) => Step::advance("found", State::Booking { receipt }).for_sure(),
                Said::NotFound if this.since_call.is_some_and(|since| since < SETTLED) => {
                    Step::snooze("early", SETTLED)
                }
                Said::NotFound => Step::advance("not_found", State::Refunding).for_sure(),
                Said::Refused | Said::Conflict | Said::NotSent | Said::Unknown => Step::retry("unknown"),
            },
            State::Booking { receipt } => {
                world.book(&this.args, &receipt).await;
                let fact = Refunded { receipt: receipt.clone(), amount: this.args.amount };
                Step::done("booked", State::Refunded { receipt }).fact(fact)
            }
            State::Refunded { .. } => Step::done("over", state),
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
