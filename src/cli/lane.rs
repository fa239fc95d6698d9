//! `noshi lane`: rate budgets, seen, paused, opened and lowered.

use std::time::Duration;

use anyhow::Context;
use clap::{Args, Subcommand};
use serde::Serialize;

use super::{Database, names, out::Out};
use crate::{
    basics::durations,
    db::{
        self, Role,
        queue::lanes::{self, LaneState},
    },
    operator::explain::seconds,
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
    /// Such as gift/tango_card; '(no call)' for the steps that call nobody.
    #[arg(value_parser = names::lane)]
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
    reason: String,
}

#[derive(Args)]
pub struct LaneSet {
    #[command(flatten)]
    name: LaneName,
    /// Calls that its budget has at most.
    #[arg(long, required_unless_present = "as_declared", value_parser = clap::value_parser!(u32).range(1..))]
    calls: Option<u32>,
    /// The budget that is meant: its window, such as 1s or 1d.
    #[arg(long, default_value = "1s", value_name = "AGE", value_parser = durations::parse_some)]
    per: Duration,
    /// Back to what the settings declare.
    #[arg(long, conflicts_with = "calls")]
    as_declared: bool,
    /// For the audit: why.
    #[arg(long)]
    reason: String,
}

pub async fn run(out: Out, command: LaneCommand) -> anyhow::Result<()> {
    let open = |database: Database| async move { db::connect(database.url()?, Role::Operator, 1).await };
    match command {
        LaneCommand::List(database) => table(out, &lanes::list(&open(database).await?).await?),
        LaneCommand::Show(name) => {
            let lanes = lanes::list(&open(name.database).await?).await?;
            let lane = lanes.iter().find(|lane| lane.name == name.lane);
            out.one(lane.with_context(|| unknown(&name.lane))?, tell)
        }
        LaneCommand::Pause(LaneAct { name, reason }) => {
            let pool = open(name.database).await?;
            let was = lanes::list(&pool).await?.into_iter().find(|lane| lane.name == name.lane);
            if was.is_some_and(|lane| lane.paused) {
                return done(out, name.lane, "paused already; nothing changed");
            }
            lanes::pause(&pool, &name.lane, Some(&reason)).await?;
            done(out, name.lane, "paused")
        }
        LaneCommand::Resume(LaneAct { name, reason }) => {
            let pool = open(name.database).await?;
            let was = lanes::list(&pool).await?.into_iter().find(|lane| lane.name == name.lane);
            if was.is_some_and(|lane| !lane.paused && lane.closed_code.is_none() && lane.closed_for.is_none()) {
                return done(out, name.lane, "open already; nothing changed");
            }
            lanes::resume(&pool, &name.lane, Some(&reason)).await?;
            done(out, name.lane, "open")
        }
        LaneCommand::Set(LaneSet { name, calls, per, as_declared, reason }) => {
            lanes::set(&open(name.database).await?, &name.lane, per, calls, &reason).await?;
            done(out, name.lane, if as_declared { "as declared" } else { "lowered" })
        }
    }
}

pub fn unknown(lane: &str) -> String {
    format!("there is no lane `{}`; `noshi lane list` shows them", names::shown_lane(lane))
}

#[derive(Serialize)]
struct Done {
    lane: String,
    is: &'static str,
}

fn done(out: Out, lane: String, is: &'static str) -> anyhow::Result<()> {
    out.one(&Done { lane, is }, |done| format!("{} is {}", names::shown_lane(&done.lane), done.is))
}

fn state(lane: &LaneState) -> String {
    match (lane.paused, &lane.closed_code, lane.closed_for) {
        (true, ..) => "paused".to_owned(),
        (false, Some(code), _) => format!("closed: {code}"),
        (false, None, Some(time)) => format!("throttled for {}", seconds(time)),
        (false, None, None) => "open".to_owned(),
    }
}

/// Who paused it and why; else what its last calls that did not succeed were told.
fn why(lane: &LaneState) -> String {
    let because = lane.paused_because.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default();
    match (&lane.paused_by, &lane.last_answer, lane.last_answer_ago) {
        (Some(who), ..) => format!("{who}{because}"),
        (None, Some(answer), Some(ago)) => format!("{answer} ({} ago)", seconds(ago)),
        (None, ..) => String::new(),
    }
}

fn oldest(lane: &LaneState) -> String {
    lane.oldest_available.map_or("–".to_owned(), seconds)
}

fn table(out: Out, lanes: &[LaneState]) -> anyhow::Result<()> {
    out.list(
        "there is no lane yet; the first worker declares them",
        lanes,
        &[
            ("LANE", |lane| names::shown_lane(&lane.name)),
            ("STATE", state),
            ("BUDGETS", |lane| lane.budgets.clone()),
            ("WAITING", |lane| lane.waiting.to_string()),
            ("OLDEST WAITING", oldest),
            ("WHY", why),
        ],
    )
}

fn tell(lane: &LaneState) -> String {
    format!(
        "{} is {}{}\n  budgets: {}\n  waiting: {}\n  oldest waiting: {}\n  tokens handed out: {}",
        names::shown_lane(&lane.name),
        state(lane),
        match why(lane).as_str() {
            "" => String::new(),
            why => format!(" ({why})"),
        },
        lane.budgets,
        lane.waiting,
        oldest(lane),
        lane.tokens
    )
}
