//! Point grants (ポイント付与): a benefit that was exercised (特典行使) becomes a lot of points, once per source.
//!
//! | at | effect | lane | on crash | compensation | operator may |
//! |---|---|---|---|---|---|
//! | booking | grant | – | repeat | – | retry → booking, cancel → refused |
//! | granted | – | – | repeat | – | – |
//! | refused | – | – | repeat | – | rerun → booking (not in doubt) |
//!
//! | at | answer | when | leads to |
//! |---|---|---|---|
//! | booking | booked |  | done: granted |
//! | booking | exercised before, or the user has withdrawn |  | fail: refused (points_conflict) |
//!
//! The entry, its two lines and the lot are booked in the transaction of the transition. New campaigns are new benefits: the
//! ledger does not know them (R32). A lot expires at local midnight after its last day (R30, R51).

use serde::{Deserialize, Serialize};

use crate::{
    JobId, Problem,
    machine::{Act, Acts, Call, Job, Past, Step, This, area_is_named, texts_fit},
    points::{Booked, job_of_points, points_fit},
};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Args {
    /// What is rewarded, such as `profile_filled`.
    pub benefit: String,
    /// For what it is exercised, such as the id of the video; a benefit is granted at most once per source (R34).
    pub source: String,
    /// Who receives them: the producer's user id, never a name or an address.
    pub user: String,
    pub points: i64,
    /// Full days after the day of the grant; the points expire at the midnight that ends the last.
    pub valid_days: u32,
    /// Whose midnight it is.
    #[serde(default = "japan")]
    pub zone: String,
    /// The area of use that the points are limited to (R40).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub area: Option<String>,
}

fn japan() -> String {
    "Asia/Tokyo".to_owned()
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "at", rename_all = "snake_case")]
pub enum State {
    Booking,
    /// In the journal, under this number.
    Granted {
        entry: i64,
    },
    Refused {
        why: Problem,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        detail: Option<String>,
    },
}

/// Everything that point grants can do to the world.
pub trait World: Send + Sync {
    /// In the transaction of the transition that follows.
    fn grant(&self) -> Call<'_, Booked>;
}

pub struct PointGrant;

impl Job for PointGrant {
    job_of_points!(PointGrant, ["booking", "granted", "refused"], State::Booking => "grant");

    fn id(args: &Args) -> JobId {
        JobId(format!("{}:{}", args.benefit, args.source))
    }

    fn start(args: &Args) -> Result<State, String> {
        texts_fit(100, &[("benefit", &args.benefit), ("source", &args.source), ("user", &args.user)])?;
        area_is_named(args.area.as_deref())?;
        if args.benefit.contains(':') {
            return Err("`benefit` must not contain a colon".to_owned());
        }
        points_fit(args.points)?;
        if args.valid_days > 36_500 {
            return Err("`valid_days` must be at most 36,500".to_owned());
        }
        Ok(State::Booking)
    }

    fn acts(state: &State, _: Past) -> Acts<State> {
        match state {
            State::Booking => Acts::none()
                .to(Act::Retry, State::Booking)
                .to(Act::Cancel, State::Refused { why: Problem::PointsRevoked, detail: None }),
            State::Refused { .. } => Acts::none().to(Act::Rerun, State::Booking),
            State::Granted { .. } => Acts::none(),
        }
    }

    async fn step(_: &This<Args>, state: State, world: &Self::World) -> Step<Self> {
        match state {
            State::Booking => match world.grant().await {
                Booked::Entry(entry) => Step::done("granted", State::Granted { entry }),
                Booked::Refused(why, detail) => refuse(why, Some(detail)),
            },
            State::Granted { entry } => Step::done("granted", State::Granted { entry }),
            State::Refused { why, detail } => refuse(why, detail),
        }
    }
}

fn refuse(why: Problem, detail: Option<String>) -> Step<PointGrant> {
    Step::fail("refused", State::Refused { why, detail }, why)
}
