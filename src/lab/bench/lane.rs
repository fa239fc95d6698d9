//! A lane at the receiver: four worker processes on a budget of 100 calls a second, counted where the calls arrive.

use std::time::Duration;

use anyhow::ensure;
use noshi_jobs::Kind;
use serde_json::{Value, json};

use crate::{
    db::{self, Role},
    lab::{
        demo::reconcile::max_in_a_second,
        fleet::{
            papers,
            stage::{Manners, Stage},
            workers::Fleet,
        },
        private_postgres::PrivatePostgres,
        simulator::{Event, Line, Partner, PerProvider},
    },
};

const LIMIT: u32 = 100;
const WORKERS: usize = 4;

/// Prints how full the budget got, and fails if it was exceeded in any window of a second.
pub async fn run(server: &PrivatePostgres, gifts: usize) -> anyhow::Result<()> {
    let limits = PerProvider { amazon_incentives: LIMIT, gift_on_demand: LIMIT, tango_card: LIMIT };
    let manners = Manners {
        seed: 1,
        faults: false,
        limits,
        jitter: Duration::from_millis(50),
        lag: crate::lab::fleet::stage::SETTLE,
    };
    let stage = Stage::set(server, &manners).await?;
    let mut fleet = Fleet::start(&stage, WORKERS)?;
    let pool = db::connect(&stage.url, Role::Login, 2).await?;
    let gift = |i| {
        let id = format!("lane-{i}");
        let args = json!({"grant": id, "user": "u", "category": "amazon", "value": {"amount": 500, "currency": "JPY"}});
        (id, args)
    };
    let rows: Vec<(String, Value)> = (0..gifts).map(gift).collect();
    db::enqueue::enqueue(&mut *pool.acquire().await?, Kind::GiftIssuance, &rows, false).await?;
    while db::enqueue::any_open(&pool).await? {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    fleet.stop().await;
    let ledger = stage.ledger.clone();
    stage.simulator.stop().await?;
    let lines = papers::ledger(&ledger)?;
    // The mail service is asked for its quota, too.
    let gift_call = |line: &Line| line.event == Event::Arrival && matches!(line.provider, Some(Partner::Gift(_)));
    let mut arrivals: Vec<u64> = lines.iter().filter(|line| gift_call(line)).map(|line| line.us).collect();
    arrivals.sort_unstable();
    ensure!(arrivals.len() == gifts, "{} calls for {gifts} gifts", arrivals.len());
    // The first and the last tenth are getting going and running out.
    let middle = &arrivals[gifts / 10..gifts - gifts / 10];
    let seconds = (middle[middle.len() - 1] - middle[0]) as f64 / 1e6;
    let busiest = max_in_a_second(&arrivals);
    let what = format!("{WORKERS} processes on a lane of {LIMIT} calls/s");
    crate::basics::terminal::say!(
        "{what:<42} {:>9.1} calls/s at the receiver, busiest second {busiest}",
        (middle.len() - 1) as f64 / seconds
    );
    ensure!(busiest <= LIMIT as usize, "the budget was exceeded");
    Ok(())
}
