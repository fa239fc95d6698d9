//! `noshi prune` and `noshi retention`: Ended jobs move out of the way.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::{Database, out::Out};
use crate::{
    basics::{
        durations, instants,
        terminal::progress::{Progress, grouped},
    },
    db::{
        self, Role,
        queue::retention::{self, Pruned, Retention},
    },
};

#[derive(Args)]
pub struct PruneArgs {
    /// Instead of what the retention says, such as 30d; never less than a day.
    #[arg(long, value_name = "AGE", value_parser = durations::parse_some)]
    older_than: Option<Duration>,
    #[command(flatten)]
    database: Database,
}

#[derive(Subcommand)]
pub enum RetentionCommand {
    /// How long jobs that have ended, and archived jobs, are kept.
    Show(Database),
    /// Changes it, for the whole fleet.
    Set(RetentionSet),
}

#[derive(Args)]
pub struct RetentionSet {
    /// Jobs that are over stay at hand for as long, such as 90d; at least a day.
    #[arg(long, value_name = "AGE", value_parser = durations::parse_some, required_unless_present_any = ["archive_for", "every"])]
    jobs_for: Option<Duration>,
    /// The row and journal of a pruned job are kept for as long, such as 2y; at least 90 days. A shorter time counts after a week.
    #[arg(long, value_name = "AGE", value_parser = durations::parse_some)]
    archive_for: Option<Duration>,
    /// How often the fleet prunes, such as 1h.
    #[arg(long, value_name = "AGE", value_parser = durations::parse_some)]
    every: Option<Duration>,
    /// For the audit: why.
    #[arg(long)]
    reason: String,
    #[command(flatten)]
    database: Database,
}

#[derive(Default, Serialize)]
struct Run {
    looked_at: i64,
    pruned: i64,
    unarchived: i64,
    /// Another process is at it; it goes on without this one.
    left_to_another: bool,
}

/// Page by page until nothing old enough is left. Broken off, it can be begun again at any time.
pub async fn run(out: Out, args: PruneArgs) -> anyhow::Result<()> {
    let pool = db::connect(args.database.url()?, Role::Operator, 1).await?;
    let mut done = Run::default();
    let mut last = Pruned::default();
    let mut progress = Progress::begin("pruning jobs", None).kept(|done, _| {
        format!(
            "{} jobs are looked at, and what was pruned stays so; run the same again, or leave the rest to the fleet",
            grouped(done)
        )
    });
    loop {
        let Some(page) = retention::next_page(&pool, args.older_than, &last).await? else {
            done.left_to_another = true;
            break;
        };
        done.looked_at += i64::from(page.looked_at);
        progress.advance(u64::try_from(page.looked_at).unwrap_or(0));
        done.pruned += i64::from(page.pruned);
        done.unarchived += i64::from(page.unarchived);
        if page.is_last() {
            break;
        }
        last = page;
    }
    drop(progress);
    out.one(&done, |done| {
        let Run { looked_at, pruned, unarchived, left_to_another } = done;
        let kept = looked_at - pruned;
        let rest = if *left_to_another { "\nanother process is pruning; the rest is left to it" } else { "" };
        format!(
            "pruned {pruned} jobs, kept {kept} of unsettled batches or at work, removed {unarchived} archived jobs{rest}"
        )
    })
}

pub async fn run_retention(out: Out, command: RetentionCommand) -> anyhow::Result<()> {
    let pool = match command {
        RetentionCommand::Show(database) => db::connect(database.url()?, Role::Operator, 1).await?,
        RetentionCommand::Set(set) => {
            let pool = db::connect(set.database.url()?, Role::Operator, 1).await?;
            retention::set_retention(&pool, set.jobs_for, set.archive_for, set.every, &set.reason).await?;
            pool
        }
    };
    out.one(&retention::retention(&pool).await?, tell)
}

fn tell(kept: &Retention) -> String {
    let begun = instants::show(kept.begun_at);
    let still = match (&kept.archive_still_for, kept.shortens_at) {
        (Some(still), Some(at)) => format!(" (until {} still for {still})", instants::show(at)),
        (None, _) | (_, None) => String::new(),
    };
    format!(
        "ended jobs are kept for {}, archived jobs for {}{still}; the fleet prunes every {}, last from {begun}",
        kept.jobs_for, kept.archive_for, kept.every
    )
}
