//! `noshi points`: what users own, how it came about, and whether the books hold.

use anyhow::bail;
use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use serde_json::json;

use super::{Database, out::Out};
use crate::{
    basics::{instants, terminal::progress::Progress},
    db::{
        self, Role,
        domain::points::{self, Expiring, LedgerFault, PointEntry},
    },
};

#[derive(Subcommand)]
pub enum PointsCommand {
    /// What a user may spend: now, or at any instant, past or to come.
    Balance(BalanceArgs),
    /// What happened to a user's points, the newest first, with the balance after each.
    History(HistoryArgs),
    /// What a user loses, and when.
    Expiring(ExpiringArgs),
    /// Computes every equation of the ledger again, from all of it.
    Verify(Database),
}

#[derive(Args)]
pub struct BalanceArgs {
    user: String,
    /// Such as 2026-10-09, or 2026-10-09T12:00:00+09:00.
    #[arg(long, value_name = "TIME", value_parser = instants::parse)]
    at: Option<DateTime<Utc>>,
    /// Where they are to be spent: points limited to another area do not count.
    #[arg(long)]
    area: Option<String>,
    #[command(flatten)]
    database: Database,
}

#[derive(Args)]
pub struct HistoryArgs {
    user: String,
    /// Entries before this one, as the first column numbers them.
    #[arg(long)]
    before: Option<i64>,
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(i32).range(1..=1_000))]
    limit: i32,
    #[command(flatten)]
    database: Database,
}

#[derive(Args)]
pub struct ExpiringArgs {
    user: String,
    /// Up to this instant, such as 2026-12-31; without it, within 90 days.
    #[arg(long, value_name = "TIME", value_parser = instants::parse)]
    before: Option<DateTime<Utc>>,
    #[command(flatten)]
    database: Database,
}

pub async fn run(out: Out, command: PointsCommand) -> anyhow::Result<()> {
    let open = |database: Database| async move { db::connect(database.url()?, Role::Operator, 1).await };
    match command {
        PointsCommand::Balance(args) => {
            let pool = open(args.database).await?;
            let balance = points::balance(&pool, &args.user, args.at, args.area.as_deref()).await?;
            // A slip of the pen must not read as a user who has lost everything.
            if balance == 0 && points::history(&pool, &args.user, None, 1).await?.is_empty() {
                bail!(
                    "the user {} is unknown here: no points were ever granted to that id; look at how it is written",
                    args.user
                );
            }
            out.one(&json!({"user": args.user, "at": args.at, "area": args.area, "balance": balance}), |_| {
                format!("{balance} points")
            })
        }
        PointsCommand::History(args) => {
            let entries = points::history(&open(args.database).await?, &args.user, args.before, args.limit).await?;
            history(out, &entries)
        }
        PointsCommand::Expiring(args) => {
            let lots = points::expiring(&open(args.database).await?, &args.user, args.before, None).await?;
            expiring(out, &lots)
        }
        PointsCommand::Verify(database) => {
            let progress = Progress::begin("computing every equation again", None)
                .kept(|_, _| "it only looks; nothing is changed".to_owned());
            let faults = points::verify(&open(database).await?).await?;
            drop(progress);
            verify(out, &faults)
        }
    }
}

fn history(out: Out, entries: &[PointEntry]) -> anyhow::Result<()> {
    out.list(
        "nothing happened to points of this user there",
        entries,
        &[
            ("NO", |e| e.seq.to_string()),
            ("AT", |e| instants::show(e.at)),
            ("KIND", |e| e.kind.clone()),
            ("POINTS", |e| format!("{:+}", e.amount)),
            ("BALANCE", |e| e.balance.to_string()),
            ("EXPIRES", |e| e.expires_at.map_or("–".to_owned(), instants::show)),
            ("AREA", |e| e.area.clone().unwrap_or_else(|| "–".to_owned())),
            ("KEY", |e| e.key.clone()),
        ],
    )
}

fn expiring(out: Out, lots: &[Expiring]) -> anyhow::Result<()> {
    out.list(
        "nothing expires until then",
        lots,
        &[
            ("EXPIRES", |l| instants::show(l.expires_at)),
            ("POINTS", |l| l.points.to_string()),
            ("AREA", |l| l.area.clone().unwrap_or_else(|| "–".to_owned())),
        ],
    )
}

fn verify(out: Out, faults: &[LedgerFault]) -> anyhow::Result<()> {
    if faults.is_empty() {
        return out.one(&json!({"holds": true}), |_| "every equation of the ledger holds".to_owned());
    }
    out.list(
        "",
        faults,
        &[("EQUATION", |f| f.equation.clone()), ("OF", |f| f.subject.clone()), ("FAULT", |f| f.fault.clone())],
    )?;
    bail!(
        "the ledger of points does not hold: stop exchanges (`noshi lane pause`), keep the database as it is, and find out who changed it"
    )
}
