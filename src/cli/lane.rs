//! `noshi lane`: rate budgets, seen, paused, opened and lowered.

use anyhow::Context;
use clap::{Args, Subcommand};
use serde::Serialize;

use super::{Database, out::Out};
use crate::{
    explain::seconds,
    store::{
        self, Role,
        lanes::{self, LaneState},
    },
};

#[derive(Subcommand)]
pub enum LaneCommand {
    /// Every lane: open or why not, its budgets, its oldest waiting job.
    List(Database),
    /// One lane.
    Show(LaneName),
    /// Stops all calls of a lane; its jobs wait, untouched. Always safe.
    Pause(LaneAct),
    /// Opens a lane that was paused, throttled, or closed for funds or credentials.
    Resume(LaneAct),
    /// Fewer calls than the settings declare, until that is taken back.
    Set(LaneSet),
}

#[derive(Args)]
pub struct LaneName {
    /// Such as gift/tango_card.
    lane: String,
    #[command(flatten)]
    database: Database,
}

#[derive(Args)]
pub struct LaneAct {
    #[command(flatten)]
    name: LaneName,
    /// For the audit: why.
    #[arg(long)]
    reason: Option<String>,
}

#[derive(Args)]
pub struct LaneSet {
    #[command(flatten)]
    name: LaneName,
    /// Calls that its budget has at most.
    #[arg(long, required_unless_present = "as_declared", value_parser = clap::value_parser!(u32).range(1..))]
    calls: Option<u32>,
    /// The budget that is meant: its window in seconds.
    #[arg(long, default_value_t = 1, value_name = "SECONDS")]
    per: u64,
    /// Back to what the settings declare.
    #[arg(long, conflicts_with = "calls")]
    as_declared: bool,
    /// For the audit: why.
    #[arg(long)]
    reason: String,
}

pub async fn run(out: Out, command: LaneCommand) -> anyhow::Result<()> {
    let open = |database: Database| async move { store::connect(database.url()?, Role::Operator, 1).await };
    match command {
        LaneCommand::List(database) => table(out, &lanes::list(&open(database).await?).await?),
        LaneCommand::Show(name) => {
            let lanes = lanes::list(&open(name.database).await?).await?;
            let lane = lanes.iter().find(|lane| lane.name == name.lane);
            out.one(lane.with_context(|| unknown(&name.lane))?, tell)
        }
        LaneCommand::Pause(LaneAct { name, reason }) => {
            lanes::pause(&open(name.database).await?, &name.lane, reason.as_deref()).await?;
            done(out, name.lane, "paused")
        }
        LaneCommand::Resume(LaneAct { name, reason }) => {
            lanes::resume(&open(name.database).await?, &name.lane, reason.as_deref()).await?;
            done(out, name.lane, "open")
        }
        LaneCommand::Set(LaneSet { name, calls, per, as_declared, reason }) => {
            let per = std::time::Duration::from_secs(per);
            lanes::set(&open(name.database).await?, &name.lane, per, calls, &reason).await?;
            done(out, name.lane, if as_declared { "as declared" } else { "lowered" })
        }
    }
}

fn unknown(lane: &str) -> String {
    format!("there is no lane `{lane}`; `noshi lane list` shows them")
}

#[derive(Serialize)]
struct Done {
    lane: String,
    is: &'static str,
}

fn done(out: Out, lane: String, is: &'static str) -> anyhow::Result<()> {
    out.one(&Done { lane, is }, |done| format!("{} is {}", done.lane, done.is))
}

fn state(lane: &LaneState) -> String {
    match (lane.paused, &lane.closed_code, lane.closed_for) {
        (true, ..) => "paused".to_owned(),
        (false, Some(code), _) => format!("closed: {code}"),
        (false, None, Some(time)) => format!("throttled for {}", seconds(time)),
        (false, None, None) => "open".to_owned(),
    }
}

fn oldest(lane: &LaneState) -> String {
    lane.oldest_available.map_or("–".to_owned(), seconds)
}

fn table(out: Out, lanes: &[LaneState]) -> anyhow::Result<()> {
    out.list(
        lanes,
        &[
            ("LANE", |lane| if lane.name.is_empty() { "(no call)".to_owned() } else { lane.name.clone() }),
            ("STATE", state),
            ("BUDGETS", |lane| lane.budgets.clone()),
            ("OLDEST WAITING", oldest),
        ],
    )
}

fn tell(lane: &LaneState) -> String {
    format!(
        "{} is {}\n  budgets: {}\n  oldest waiting: {}\n  tokens handed out: {}",
        lane.name,
        state(lane),
        lane.budgets,
        oldest(lane),
        lane.tokens
    )
}
