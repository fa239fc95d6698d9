//! The points of the demo: a campaign that is granted from a file, older points that are due, exchanges for gifts, and an expiry.

use anyhow::Context;
use noshi_jobs::{Kind, gift_issuance::OF_EXCHANGE, money::Currency};
use serde_json::{Value, json};

use crate::{
    db::{
        self, Role,
        domain::points,
        enqueue,
        queue::schedules::{self, Missed, Wanted},
    },
    engine::cron::{self, Times},
    lab::fleet::stage::Stage,
};

const POINTS: i64 = 500;
/// More than the simulated provider sells at once: such a gift is refused, and its points come back.
const REFUSED: i64 = 600_000;

/// Five minutes after midnight.
const NIGHTLY: &str = "5 0 * * *";
const ZONE: &str = "Asia/Tokyo";

/// Who asks for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cast {
    pub users: usize,
    /// Exchange all that they have.
    exchanging: usize,
    /// Exchange it for a gift that is refused.
    refused: usize,
    /// Ask for more than they have.
    poor: usize,
}

impl Cast {
    pub const fn of(users: usize) -> Cast {
        Cast { users, exchanging: users / 2, refused: users / 10, poor: users / 10 }
    }

    /// Exchanges that order a gift.
    pub const fn orders(self) -> usize {
        self.exchanging + self.refused
    }

    /// Jobs that all this leads to at least: the grants, the batch's, the expiry, the exchanges and their gifts. Returns come with the
    /// commits that end gifts.
    pub const fn jobs(self) -> usize {
        self.users + 2 + self.orders() + self.poor + self.orders()
    }

    pub fn csv(self) -> String {
        let rows = (0..self.users).map(|n| format!("autumn,U-{n:05},U-{n:05},{POINTS},180\n"));
        std::iter::once("benefit,source,user_id,points,valid_days\n".to_owned()).chain(rows).collect()
    }

    fn exchanges(self) -> impl Iterator<Item = (String, Value)> {
        (0..self.orders() + self.poor).map(move |n| {
            let (points, amount) = match n {
                n if n < self.exchanging => (POINTS, POINTS),
                n if n < self.orders() => (POINTS, REFUSED),
                _ => (POINTS + 1, POINTS),
            };
            let id = format!("X-{n:05}");
            let value = json!({"amount": amount, "currency": Currency::Jpy.code()});
            (id.clone(), json!({"exchange": id, "user": format!("U-{n:05}"), "points": points, "category": "amazon", "value": value}))
        })
    }
}

/// Last year's points of every third user, due since yesterday; and the nightly expiry (ポイント失効), triggered once to find them.
pub async fn old_ones(stage: &Stage, cast: Cast) -> anyhow::Result<()> {
    let owner = db::connect(&stage.url, Role::Login, 1).await?;
    let due: Vec<String> = (0..cast.users).step_by(3).map(|n| format!("U-{n:05}")).collect();
    points::grant_due(&owner, &due, 50).await.context("last year's points")?;
    let operator = db::connect(&stage.url, Role::Operator, 1).await?;
    let times = Times::read(NIGHTLY, ZONE).map_err(anyhow::Error::msg)?;
    let args = json!({"due": "{due}"});
    let id = cron::id(Kind::PointExpiry, &args).map_err(anyhow::Error::msg)?;
    let nightly = Wanted {
        name: "point-expiry",
        kind: Kind::PointExpiry.name(),
        id: &id,
        args: &args,
        priority: 1,
        cron: NIGHTLY,
        zone: ZONE,
        missed: Missed::Latest,
    };
    let next = |clock| times.after(clock).ok_or_else(|| format!("{NIGHTLY} is never due"));
    schedules::set(&operator, &nightly, next, "points expire at midnight").await?;
    schedules::trigger(&operator, nightly.name, "last year's are due").await?;
    Ok(())
}

pub async fn exchange(stage: &Stage, cast: Cast) -> anyhow::Result<()> {
    ask(stage, Kind::PointExchange, cast.exchanges().collect()).await
}

async fn ask(stage: &Stage, kind: Kind, jobs: Vec<(String, Value)>) -> anyhow::Result<()> {
    let mut producer = db::connect(&stage.url, Role::Producer, 1).await?.acquire().await?;
    enqueue::enqueue(&mut producer, kind, &jobs, true).await?;
    Ok(())
}

/// What became of the points.
#[derive(Debug, Default)]
pub struct Points {
    pub books: points::Books,
}

/// The books against the jobs, in a sentence for each that does not agree.
pub async fn check(stage_url: &str, cast: Cast) -> anyhow::Result<(Points, Vec<String>)> {
    let owner = db::connect(stage_url, Role::Login, 1).await?;
    let books = points::books(&owner).await?;
    let mut broken: Vec<String> = points::verify(&owner)
        .await?
        .into_iter()
        .map(|fault| format!("points: {} of {}: {}", fault.equation, fault.subject, fault.fault))
        .collect();
    let due = cast.users.div_ceil(3);
    let mut expect = |what: &str, found: i64, wanted: usize| {
        if usize::try_from(found).ok() != Some(wanted) {
            broken.push(format!("points: {found} {what}, where {wanted} should be"));
        }
    };
    expect("lots granted", books.granted, cast.users + due);
    expect("lots expired", books.expired, due);
    expect("exchanges that used points", books.used, cast.orders());
    expect("exchanges refused for want of points", books.poor, cast.poor);
    let ended = books.gifts + books.returned + books.asking;
    expect(
        &format!("exchanges with a gift, their points back, or a question (gifts: {OF_EXCHANGE}…)"),
        ended,
        cast.orders(),
    );
    Ok((Points { books }, broken))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cast_adds_up() {
        let cast = Cast::of(100);
        assert_eq!((cast.orders(), cast.exchanges().count(), cast.csv().lines().count()), (60, 70, 101));
        assert_eq!(cast.exchanges().filter(|(_, args)| args["value"]["amount"] == REFUSED).count(), 10);
    }
}
