//! `noshi restore`: after the database went back to an earlier point.

use anyhow::ensure;
use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use serde_json::json;

use super::{Database, out::Out, proposal::proposed};
use crate::{
    basics::instants,
    db::{self, Role, operator::restore},
};

#[derive(Subcommand)]
pub enum RestoredCommand {
    /// Says to which point it went back, before the first worker starts: what may have been called since is in doubt and is asked for.
    Mark(RestoredMark),
    /// Whether a restore is marked, and its point.
    Show(Database),
    /// Says that what was done after that point is known again: gifts are bought without asking first.
    End(RestoredEnd),
}

#[derive(Args)]
pub struct RestoredMark {
    /// The point, such as 2026-11-23T00:10:00Z. Rather too early than too late.
    #[arg(long, value_name = "TIME", value_parser = instants::parse)]
    to: DateTime<Utc>,
    /// For the audit: why.
    #[arg(long)]
    reason: String,
    /// Do it. Without it nothing is changed, and you are told what would be in doubt.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    database: Database,
}

#[derive(Args)]
pub struct RestoredEnd {
    /// For the audit: how it became known.
    #[arg(long)]
    reason: String,
    #[command(flatten)]
    database: Database,
}

/// A mark cannot be taken back: so nonsense is refused, and what it does is told before it is done.
fn may_be_marked(preview: &restore::Preview, to: DateTime<Utc>, yes: bool) -> anyhow::Result<()> {
    let shown = instants::show(to);
    ensure!(
        to <= preview.now,
        "{shown} lies in the future: the point of a restore lies in the past; nothing was changed"
    );
    if let Some(installed) = preview.installed_at {
        ensure!(
            to >= installed,
            "{shown} lies before noshi was installed here ({}), so no database of it can have gone back there; nothing was changed",
            instants::show(installed)
        );
    }
    let workers = match preview.workers {
        0 => String::new(),
        alive => format!(
            " {alive} workers are alive: stop them first, since what they call meanwhile is put in doubt as well."
        ),
    };
    ensure!(
        yes,
        "nothing was changed. Marked as restored to {shown}, {} unfinished writes would be in doubt, each until its partner was asked, and that cannot be taken back.{workers} If that is meant, say the same with --yes",
        preview.writes
    );
    Ok(())
}

pub async fn run(out: Out, command: RestoredCommand) -> anyhow::Result<()> {
    let open = |database: Database| async move { db::connect(database.url()?, Role::Operator, 1).await };
    match command {
        RestoredCommand::Mark(args) => {
            let pool = open(args.database).await?;
            may_be_marked(&restore::preview(&pool).await?, args.to, args.yes)?;
            let made = restore::mark(&pool, args.to, &args.reason).await?;
            // An earlier mark stays: what came after it may be lost as well.
            let holds = if made.proposal.is_none() { restore::point(&pool).await? } else { None };
            let to = holds.unwrap_or(args.to);
            let whole = json!({"restored_to": to, "proposal": made.proposal, "done": made.done});
            out.one(&whole, |_| {
                let point = instants::show(to);
                match (made.proposal, &made.done) {
                    (Some(number), _) => proposed(number, &format!("that the database is restored to {point}")),
                    (None, done) => format!(
                        "restored to {point}: {}; no gift is bought before its partner was asked",
                        done.as_deref().unwrap_or_default()
                    ),
                }
            })
        }
        RestoredCommand::Show(database) => {
            let point = restore::point(&open(database).await?).await?;
            out.one(&json!({"restored_to": point}), |_| match point {
                Some(point) => format!("restored to {}", instants::show(point)),
                None => "no restore is marked".to_owned(),
            })
        }
        RestoredCommand::End(args) => {
            let made = restore::end(&open(args.database).await?, &args.reason).await?;
            out.one(&json!({"restored_to": null, "proposal": made.proposal}), |_| match made.proposal {
                Some(number) => proposed(number, "that all is known again"),
                None => "over; jobs that are in doubt stay so until they are settled".to_owned(),
            })
        }
    }
}
