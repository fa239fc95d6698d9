//! `noshi prune` and `noshi retention`: what is over moves out of the way.

use clap::{Args, Subcommand};
use serde::Serialize;

use super::{Database, out::Out};
use crate::store::{
    self, Role,
    prune::{self, Pruned, Retention},
};

#[derive(Args)]
pub struct PruneArgs {
    /// Instead of what the retention says, such as 30d; never less than a day.
    #[arg(long, value_name = "AGE")]
    older_than: Option<String>,
    #[command(flatten)]
    database: Database,
}

#[derive(Subcommand)]
pub enum RetentionCommand {
    /// How long jobs that are over, and their stories, are kept.
    Show(Database),
    /// Changes it, for the whole fleet.
    Set(RetentionSet),
}

#[derive(Args)]
pub struct RetentionSet {
    /// Jobs that are over stay at hand for as long, such as 90d; at least a day.
    #[arg(long, value_name = "AGE", required_unless_present_any = ["stories_for", "every"])]
    jobs_for: Option<String>,
    /// The row and journal of a pruned job are kept for as long, such as 2y; at least 90 days.
    #[arg(long, value_name = "AGE")]
    stories_for: Option<String>,
    /// How often the fleet prunes, such as 1h.
    #[arg(long, value_name = "INTERVAL")]
    every: Option<String>,
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
    stories_ended: i64,
    /// Another process is at it; it goes on without this one.
    left_to_another: bool,
}

/// Page by page until nothing old enough is left. Broken off, it can be begun again at any time.
pub async fn run(out: Out, args: PruneArgs) -> anyhow::Result<()> {
    let pool = store::connect(args.database.url()?, Role::Operator, 1).await?;
    let mut done = Run::default();
    let mut last = Pruned::default();
    loop {
        let Some(page) = prune::next_page(&pool, args.older_than.as_deref(), &last).await? else {
            done.left_to_another = true;
            break;
        };
        done.looked_at += i64::from(page.looked_at);
        done.pruned += i64::from(page.pruned);
        done.stories_ended += i64::from(page.stories);
        if page.is_last() {
            break;
        }
        last = page;
    }
    out.one(&done, |done| {
        let Run { looked_at, pruned, stories_ended, left_to_another } = done;
        let kept = looked_at - pruned;
        let rest = if *left_to_another { "\nanother process is pruning; the rest is left to it" } else { "" };
        format!(
            "pruned {pruned} jobs, kept {kept} of unsettled batches or at work, ended {stories_ended} stories{rest}"
        )
    })
}

pub async fn run_retention(out: Out, command: RetentionCommand) -> anyhow::Result<()> {
    let pool = match command {
        RetentionCommand::Show(database) => store::connect(database.url()?, Role::Operator, 1).await?,
        RetentionCommand::Set(set) => {
            let pool = store::connect(set.database.url()?, Role::Operator, 1).await?;
            let [jobs_for, stories_for, every] = [&set.jobs_for, &set.stories_for, &set.every].map(Option::as_deref);
            prune::set_retention(&pool, jobs_for, stories_for, every, &set.reason).await?;
            pool
        }
    };
    out.one(&prune::retention(&pool).await?, tell)
}

fn tell(kept: &Retention) -> String {
    let begun = kept.begun_at.format("%Y-%m-%d %H:%M:%S");
    format!(
        "jobs that are over are kept for {}, their stories for {}; the fleet prunes every {}, last from {begun} UTC",
        kept.jobs_for, kept.stories_for, kept.every
    )
}
