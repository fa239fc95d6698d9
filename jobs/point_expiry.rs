//! Point expiry (ポイント失効): every lot that is due is closed by an entry, page by page, as of the instant it was due.
//!
//! | at | effect | lane | on crash | compensation | operator may |
//! |---|---|---|---|---|---|
//! | expiring | expire_page | – | repeat | – | retry → expiring |
//! | expired | – | – | repeat | – | – |
//! | refused | – | – | repeat | – | – |
//!
//! | at | answer | when | leads to |
//! |---|---|---|---|
//! | expiring | a page is closed |  | → expiring |
//! | expiring | what is left is in other hands |  | snooze |
//! | expiring | nothing is left |  | done: expired |
//! | expiring | `due` is no instant |  | fail: refused (bad_args) |
//!
//! A schedule starts one for each due time. It may run at any time, late, twice or beside another: a lot that is closed is
//! not due, and whatever touches a user's points books what is due of them first, so nothing expired is ever used.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    JobId, Problem,
    machine::{Act, Acts, Call, Job, Past, Step, This},
    points::job_of_points,
};

/// Where all lots left are in other hands.
const BUSY_PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Args {
    /// Lots due by this instant, such as `2026-11-23T15:00:00Z`; never later than now.
    pub due: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "at", rename_all = "snake_case")]
pub enum State {
    /// So many were closed so far.
    Expiring {
        lots: i64,
        points: i64,
    },
    Expired {
        lots: i64,
        points: i64,
    },
    /// `due` is no instant.
    Refused,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Page {
    Closed {
        lots: i64,
        points: i64,
    },
    /// What is left is in other hands at the moment.
    Busy,
    NothingLeft,
    NoInstant,
}

/// Everything that point expiry can do to the world.
pub trait World: Send + Sync {
    /// In the transaction of the transition that follows: one page of lots.
    fn expire_page(&self) -> Call<'_, Page>;
}

pub struct PointExpiry;

impl Job for PointExpiry {
    job_of_points!(PointExpiry, ["expiring", "expired", "refused"], State::Expiring { .. } => "expire_page", 1_000_000);

    fn id(args: &Args) -> JobId {
        JobId(args.due.clone())
    }

    fn start(args: &Args) -> Result<State, String> {
        match args.due.len() {
            10..=40 => Ok(State::Expiring { lots: 0, points: 0 }),
            _ => Err("`due` must be an instant, such as 2026-11-23T15:00:00Z".to_owned()),
        }
    }

    fn acts(state: &State, _: Past) -> Acts<State> {
        match state {
            State::Expiring { .. } => Acts::none().to(Act::Retry, state.clone()),
            State::Expired { .. } | State::Refused => Acts::none(),
        }
    }

    async fn step(_: &This<Args>, state: State, world: &Self::World) -> Step<Self> {
        match state {
            State::Expiring { lots, points } => match world.expire_page().await {
                Page::Closed { lots: more, points: worth } => {
                    Step::advance("closed", State::Expiring { lots: lots + more, points: points + worth })
                }
                Page::Busy => Step::snooze("busy", BUSY_PAUSE),
                Page::NothingLeft => Step::done("expired", State::Expired { lots, points }),
                Page::NoInstant => Step::fail("refused", State::Refused, Problem::BadArgs),
            },
            State::Expired { lots, points } => Step::done("expired", State::Expired { lots, points }),
            State::Refused => Step::fail("refused", State::Refused, Problem::BadArgs),
        }
    }
}
