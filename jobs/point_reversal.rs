//! Point reversal (ポイント返還): the points of an exchange come back, because its gift was refused, lapsed or proven void.
//!
//! | at | effect | lane | on crash | compensation | operator may |
//! |---|---|---|---|---|---|
//! | returning | return_points | – | repeat | – | retry → returning |
//! | returned | – | – | repeat | – | – |
//!
//! | at | answer | when | leads to |
//! |---|---|---|---|
//! | returning | returned |  | done: returned |
//! | returning | the gift is not over, or was issued |  | ask (reversal_refused) |
//!
//! Asked for by the gift's job in the commit that ends it. The database looks for itself whether that gift ended so, and
//! gives an exchange back at most once. The points keep their expiry, or live for the grace that the exchange states.

use serde::{Deserialize, Serialize};

use crate::{
    JobId, Problem,
    machine::{Act, Acts, Call, Job, Past, Step, This},
    points::job_of_points,
};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Args {
    pub exchange: String,
    #[serde(default)]
    pub grace_days: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "at", rename_all = "snake_case")]
pub enum State {
    Returning,
    /// In the journal, under this number.
    Returned {
        entry: i64,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Returning {
    Returned(i64),
    /// The gift is not over, or was issued, or the exchange used no points: nothing was booked.
    Refused,
}

/// Everything that point reversal can do to the world.
pub trait World: Send + Sync {
    /// In the transaction of the transition that follows.
    fn return_points(&self) -> Call<'_, Returning>;
}

pub struct PointReversal;

impl Job for PointReversal {
    job_of_points!(PointReversal, ["returning", "returned"], State::Returning => "return_points");

    fn id(args: &Args) -> JobId {
        JobId(args.exchange.clone())
    }

    fn start(args: &Args) -> Result<State, String> {
        if args.exchange.is_empty() || args.exchange.len() > 90 {
            return Err("`exchange` must have 1 to 90 bytes".to_owned());
        }
        Ok(State::Returning)
    }

    fn acts(state: &State, _: Past) -> Acts<State> {
        match state {
            State::Returning => Acts::none().to(Act::Retry, State::Returning),
            State::Returned { .. } => Acts::none(),
        }
    }

    async fn step(_: &This<Args>, state: State, world: &Self::World) -> Step<Self> {
        match state {
            State::Returning => match world.return_points().await {
                Returning::Returned(entry) => Step::done("returned", State::Returned { entry }),
                Returning::Refused => Step::needs_operator("refused", Problem::ReversalRefused),
            },
            State::Returned { entry } => Step::done("returned", State::Returned { entry }),
        }
    }
}
