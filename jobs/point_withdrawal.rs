//! Point withdrawal (退会失効): a user leaves, and all points that are left expire at once. Their history stays (R47, R48).
//!
//! | at | effect | lane | on crash | compensation | operator may |
//! |---|---|---|---|---|---|
//! | withdrawing | withdraw | – | repeat | – | retry → withdrawing |
//! | withdrawn | – | – | repeat | – | – |
//!
//! | at | answer | when | leads to |
//! |---|---|---|---|
//! | withdrawing | withdrawn |  | done: withdrawn |
//!
//! Later grants and exchanges of this user are refused; points that come back from an exchange expire in the same commit.

use serde::{Deserialize, Serialize};

use crate::{
    JobId,
    machine::{Act, Acts, Call, Job, Past, Step, This, texts_fit},
    points::job_of_points,
};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Args {
    /// Whoever comes back gets a new id: this one is over.
    pub user: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "at", rename_all = "snake_case")]
pub enum State {
    Withdrawing,
    /// In the journal, under this number.
    Withdrawn {
        entry: i64,
    },
}

/// Everything that point withdrawal can do to the world.
pub trait World: Send + Sync {
    /// In the transaction of the transition that follows. The number of the entry.
    fn withdraw(&self) -> Call<'_, i64>;
}

pub struct PointWithdrawal;

impl Job for PointWithdrawal {
    job_of_points!(PointWithdrawal, ["withdrawing", "withdrawn"], State::Withdrawing => "withdraw");

    fn id(args: &Args) -> JobId {
        JobId(args.user.clone())
    }

    fn start(args: &Args) -> Result<State, String> {
        texts_fit(100, &[("user", &args.user)])?;
        Ok(State::Withdrawing)
    }

    fn acts(state: &State, _: Past) -> Acts<State> {
        match state {
            State::Withdrawing => Acts::none().to(Act::Retry, State::Withdrawing),
            State::Withdrawn { .. } => Acts::none(),
        }
    }

    async fn step(_: &This<Args>, state: State, world: &Self::World) -> Step<Self> {
        let entry = match state {
            State::Withdrawing => world.withdraw().await,
            State::Withdrawn { entry } => entry,
        };
        Step::done("withdrawn", State::Withdrawn { entry })
    }
}
