//! `noshi lane`: rate budgets, seen, paused and opened.

use anyhow::bail;
use clap::{Args, Subcommand};

use super::Database;
use crate::store::{self, Role};

#[derive(Subcommand)]
pub enum LaneCommand {
    /// Every lane: open or why not, its budgets, its oldest waiting job.
    List(Database),
    /// Stops all calls of a lane; its jobs wait, untouched.
    Pause(LaneName),
    /// Opens a lane that was paused, throttled, or closed for funds or credentials.
    Resume(LaneName),
}

#[derive(Args)]
pub struct LaneName {
    /// Such as gift/tango_card.
    lane: String,
    #[command(flatten)]
    database: Database,
}

pub async fn run(command: LaneCommand) -> anyhow::Result<()> {
    let (name, resume) = match command {
        LaneCommand::List(database) => return list_lanes(database.url()?).await,
        LaneCommand::Pause(name) => (name, false),
        LaneCommand::Resume(name) => (name, true),
    };
    let pool = store::connect(name.database.url()?, Role::Operator, 1).await?;
    let found = if resume {
        store::lanes::resume(&pool, &name.lane).await?
    } else {
        store::lanes::pause(&pool, &name.lane).await?
    };
    if !found {
        bail!("there is no lane `{}`; `noshi lane list` shows them", name.lane);
    }
    println!("{} is {}", name.lane, if resume { "open" } else { "paused" });
    Ok(())
}

async fn list_lanes(url: &str) -> anyhow::Result<()> {
    let pool = store::connect(url, Role::Operator, 1).await?;
    println!("{:<28} {:<28} {:<32} OLDEST WAITING", "LANE", "STATE", "BUDGETS");
    for lane in store::lanes::list(&pool).await? {
        let state = match (lane.paused, lane.closed_code, lane.closed_for) {
            (true, ..) => "paused".to_owned(),
            (false, Some(code), _) => format!("closed: {code}"),
            (false, None, Some(time)) => format!("throttled for {} s", time.as_secs()),
            (false, None, None) => "open".to_owned(),
        };
        let name = if lane.name.is_empty() { "(no call)" } else { &lane.name };
        let oldest = lane.oldest_available.map_or("–".to_owned(), |age| format!("{} s", age.as_secs()));
        println!("{name:<28} {state:<28} {:<32} {oldest}", lane.budgets);
    }
    Ok(())
}
