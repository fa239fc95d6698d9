//! Point exchange (ポイント交換): points are used, and in the same commit a gift is ordered for them.
//!
//! | at | effect | lane | on crash | compensation | operator may |
//! |---|---|---|---|---|---|
//! | using | use_points | – | repeat | – | retry → using, cancel → refused |
//! | ordered | – | – | repeat | – | – |
//! | refused | – | – | repeat | – | rerun → using (not in doubt) |
//!
//! | at | answer | when | leads to |
//! |---|---|---|---|
//! | using | used |  | done: ordered, follow-up |
//! | using | too few points, or the user has withdrawn |  | fail: refused (points_insufficient) |
//!
//! What becomes of the gift is the gift's own job. Where it ends refused, lapsed or proven void, that job asks for the points'
//! return (`point_reversal`) in the commit that ends it; while it is in doubt, the points stay used (R33).

use serde::{Deserialize, Serialize};

use crate::{
    JobId, Problem, Request, gift_issuance,
    machine::{Act, Acts, Call, Job, Past, Step, This, area_is_named, texts_fit},
    money::Money,
    point_reversal,
    points::{Booked, job_of_points, points_fit},
};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Args {
    /// The producer's own id of the exchange; the idempotency key.
    pub exchange: String,
    pub user: String,
    pub points: i64,
    /// Where they are used: points limited to an area can be used only there (R40).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub area: Option<String>,
    /// The kind of voucher (券種) that they are exchanged for.
    pub category: String,
    pub value: Money,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// Points that come back keep their expiry, or live at least this many days where that has passed or is nearer.
    #[serde(default)]
    pub grace_days: u32,
}

impl Args {
    /// The gift's grant id: nobody else's, because a producer's own grants may not begin like it.
    fn gift(&self) -> gift_issuance::Args {
        gift_issuance::Args {
            grant: format!("{}{}", gift_issuance::OF_EXCHANGE, self.exchange),
            user: self.user.clone(),
            category: self.category.clone(),
            value: self.value,
            provider: self.provider.clone(),
            valid_days: None,
            area: self.area.clone(),
            paid_by: Some(point_reversal::Args { exchange: self.exchange.clone(), grace_days: self.grace_days }),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "at", rename_all = "snake_case")]
pub enum State {
    Using,
    /// The points are used, by this entry of the journal, and the gift is ordered.
    Ordered {
        entry: i64,
    },
    Refused {
        why: Problem,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        detail: Option<String>,
    },
}

/// Everything that point exchange can do to the world.
pub trait World: Send + Sync {
    /// In the transaction of the transition that follows.
    fn use_points(&self) -> Call<'_, Booked>;
}

pub struct PointExchange;

impl Job for PointExchange {
    job_of_points!(PointExchange, ["using", "ordered", "refused"], State::Using => "use_points");

    fn id(args: &Args) -> JobId {
        JobId(args.exchange.clone())
    }

    fn start(args: &Args) -> Result<State, String> {
        texts_fit(90, &[("exchange", &args.exchange), ("user", &args.user), ("category", &args.category)])?;
        area_is_named(args.area.as_deref())?;
        points_fit(args.points)?;
        if args.value.amount <= 0 {
            return Err("`value` must be more than 0".to_owned());
        }
        if args.grace_days > 3_650 {
            return Err("`grace_days` must be at most 3,650".to_owned());
        }
        Ok(State::Using)
    }

    fn acts(state: &State, _: Past) -> Acts<State> {
        match state {
            State::Using => Acts::none()
                .to(Act::Retry, State::Using)
                .to(Act::Cancel, State::Refused { why: Problem::PointsRevoked, detail: None }),
            State::Refused { .. } => Acts::none().to(Act::Rerun, State::Using),
            State::Ordered { .. } => Acts::none(),
        }
    }

    async fn step(this: &This<Args>, state: State, world: &Self::World) -> Step<Self> {
        match state {
            State::Using => match world.use_points().await {
                Booked::Entry(entry) => {
                    Step::done("ordered", State::Ordered { entry }).follow_up(Request::GiftIssuance(this.args.gift()))
                }
                Booked::Refused(why, detail) => refuse(why, Some(detail)),
            },
            State::Ordered { entry } => Step::done("ordered", State::Ordered { entry }),
            State::Refused { why, detail } => refuse(why, detail),
        }
    }
}

fn refuse(why: Problem, detail: Option<String>) -> Step<PointExchange> {
    Step::fail("refused", State::Refused { why, detail }, why)
}
