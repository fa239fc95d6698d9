//! Bulk grants (一括付与): the rows of a released batch are granted in one small commit, all or nothing, and then announced.
//!
//! | at | effect | lane | on crash | compensation | operator may |
//! |---|---|---|---|---|---|
//! | registering | register | – | repeat | – | retry → registering, cancel → refused |
//! | announcing | announce | – | repeat | – | retry → announcing |
//! | announced | – | – | repeat | – | – |
//! | refused | – | – | repeat | – | rerun → registering (not in doubt) |
//!
//! | at | answer | when | leads to |
//! |---|---|---|---|
//! | registering | registered |  | → announcing |
//! | registering | not approved, over a cap, or duplicates |  | fail: refused (batch_not_approved) |
//! | registering | the batch is paused |  | snooze |
//! | announcing | a page is announced |  | → announcing |
//! | announcing | nothing is left |  | done: announced |
//! | announcing | a follow-up differs |  | ask (follow_up_conflict) |
//! | announcing | the batch is paused |  | snooze |
//!
//! The database itself checks approval, caps and duplicates in `register`, whoever asks for it. Until that commit there is
//! no grant; after it, mails and, where the batch says so, issuances follow page by page (R5–R7). A mail that fails later
//! undoes no grant.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    JobId, Kind, KindName, Problem,
    machine::{Act, Acts, Call, Effect, Job, Limits, Past, Step, Terms, This, leaves_nothing_behind},
};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Args {
    /// The batch's number.
    pub batch: i64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "at", rename_all = "snake_case")]
pub enum State {
    Registering,
    /// Every row up to this one has its follow-up jobs.
    Announcing {
        after: i32,
    },
    Announced,
    Refused {
        why: Problem,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        detail: Option<String>,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub enum Register {
    Registered,
    Refused(Problem, String),
    /// The batch is paused.
    Paused,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Announce {
    /// The last row of this page.
    Upto(i32),
    NothingLeft,
    /// A follow-up exists with other arguments.
    Conflict,
    Paused,
}

/// Everything that bulk grants can do to the world.
pub trait World: Send + Sync {
    /// In the transaction of the transition that follows.
    fn register<'a>(&'a self, args: &'a Args) -> Call<'a, Register>;
    /// In the transaction of the transition that follows: one page of rows after this one.
    fn announce<'a>(&'a self, args: &'a Args, after: i32) -> Call<'a, Announce>;
}

pub struct BulkGrants;

impl Job for BulkGrants {
    const KIND: KindName = Kind::BulkGrants.as_name();
    const LIMITS: Limits = Limits { steps: 10_000, age: Duration::from_secs(7 * 24 * 60 * 60) };
    const STATES: &'static [&'static str] = &["registering", "announcing", "announced", "refused"];

    type Args = Args;
    type State = State;
    type World = dyn World;

    fn id(args: &Args) -> JobId {
        JobId(format!("batch/{}", args.batch))
    }

    fn start(args: &Args) -> Result<State, String> {
        match args.batch {
            1.. => Ok(State::Registering),
            _ => Err("`batch` must be a batch's number".to_owned()),
        }
    }

    fn terms(_: &Args, state: &State) -> Terms<State> {
        match state {
            State::Registering => Terms::local(Effect::Local("register")),
            State::Announcing { .. } => Terms::local(Effect::Local("announce")),
            State::Announced | State::Refused { .. } => Terms::local(Effect::Pure),
        }
    }

    // Nothing is granted before the commit that grants everything.
    leaves_nothing_behind!();

    fn acts(state: &State, _: Past) -> Acts<State> {
        match state {
            State::Registering => Acts::none()
                .to(Act::Retry, State::Registering)
                .to(Act::Cancel, State::Refused { why: Problem::BatchCancelled, detail: None }),
            State::Announcing { .. } => Acts::none().to(Act::Retry, state.clone()),
            State::Refused { .. } => Acts::none().to(Act::Rerun, State::Registering),
            State::Announced => Acts::none(),
        }
    }

    async fn step(this: &This<Args>, state: State, world: &Self::World) -> Step<Self> {
        let pause = Duration::from_secs(10);
        match state {
            State::Registering => match world.register(&this.args).await {
                Register::Registered => Step::advance("registered", State::Announcing { after: 0 }),
                Register::Refused(why, detail) => refuse("refused", why, Some(detail)),
                Register::Paused => Step::snooze("paused", pause),
            },
            State::Announcing { after } => match world.announce(&this.args, after).await {
                Announce::Upto(last) => Step::advance("announced", State::Announcing { after: last }),
                Announce::NothingLeft => Step::done("announced", State::Announced),
                Announce::Conflict => Step::needs_operator("conflict", Problem::FollowUpConflict),
                Announce::Paused => Step::snooze("paused", pause),
            },
            State::Announced => Step::done("announced", State::Announced),
            State::Refused { why, detail } => refuse("refused", why, detail),
        }
    }
}

fn refuse(outcome: &'static str, why: Problem, detail: Option<String>) -> Step<BulkGrants> {
    Step::fail(outcome, State::Refused { why, detail }, why)
}
