//! `noshi audit`: who did what, and whether the record of it is whole.

use std::time::Duration;

use anyhow::bail;
use clap::{Args, Subcommand};
use serde::Serialize;

use super::{Database, names, out::Out};
use crate::{
    basics::{durations, instants, terminal::progress::Progress},
    db::{
        self, Role,
        operator::audit::{self, Fault, Head, Which},
    },
};

#[derive(Subcommand)]
pub enum AuditCommand {
    /// The latest acts, newest first.
    List(AuditList),
    /// Computes the chain of digests again, and prints its newest link: keep that link off this machine.
    Verify(AuditVerify),
}

#[derive(Args)]
pub struct AuditList {
    /// Such as job/7, batch/3, redrive/2, lane/gift/tango_card.
    #[arg(long)]
    target: Option<String>,
    #[arg(long)]
    who: Option<String>,
    /// Such as `job retry` or `batch approve`.
    #[arg(long, value_parser = names::audited)]
    act: Option<String>,
    /// Such as 2h.
    #[arg(long, value_name = "AGE", value_parser = durations::parse)]
    since: Option<Duration>,
    /// At most so many.
    #[arg(long, default_value = "100", value_parser = clap::value_parser!(i64).range(1..))]
    limit: i64,
    #[command(flatten)]
    database: Database,
}

#[derive(Args)]
pub struct AuditVerify {
    /// A link that was printed before and kept elsewhere.
    #[arg(long, value_name = "SEQ:HASH", value_parser = parse_link)]
    expect: Option<Head>,
    #[command(flatten)]
    database: Database,
}

fn parse_link(text: &str) -> Result<Head, String> {
    let parsed = text.split_once(':').and_then(|(seq, hash)| {
        let hash = hex::decode(hash).ok().filter(|hash| hash.len() == 32)?;
        Some(Head { seq: seq.parse().ok().filter(|seq| *seq >= 0)?, hash })
    });
    parsed
        .ok_or_else(|| "a link is its number, a colon, and 64 hex digits, as `noshi audit verify` prints it".to_owned())
}

pub async fn run(out: Out, command: AuditCommand) -> anyhow::Result<()> {
    match command {
        AuditCommand::List(args) => list(args, out).await,
        AuditCommand::Verify(args) => verify(args, out).await,
    }
}

async fn list(args: AuditList, out: Out) -> anyhow::Result<()> {
    let pool = db::connect(args.database.url()?, Role::Operator, 1).await?;
    let which = Which { who: args.who, act: args.act, target: args.target, since: args.since };
    let rows = audit::list(&pool, &which, args.limit).await?;
    out.list(
        "no act is like that",
        &rows,
        &[
            ("WHEN", |it| instants::show(it.happened_at)),
            ("WHO", |it| {
                it.token.as_ref().map_or_else(|| it.who.clone(), |token| format!("{} (token {token})", it.who))
            }),
            ("ACT", |it| it.act.clone()),
            ("TARGET", |it| it.target.clone()),
            ("REASON", |it| it.reason.clone().unwrap_or_default()),
        ],
    )
}

/// What `verify` answers.
#[derive(Serialize)]
struct Verified {
    whole: bool,
    head: String,
    /// Acts that are on record and have no link yet.
    not_linked_yet: i64,
    faults: Vec<Fault>,
}

async fn verify(args: AuditVerify, out: Out) -> anyhow::Result<()> {
    let pool = db::connect(args.database.url()?, Role::Operator, 1).await?;
    let progress =
        Progress::begin("computing every link again", None).kept(|_, _| "it only looks; nothing is changed".to_owned());
    let not_linked_yet = audit::unlinked(&pool).await?;
    let (head, faults) = audit::verify(&pool, args.expect.as_ref()).await?;
    drop(progress);
    let head = format!("{}:{}", head.seq, hex::encode(&head.hash));
    let verified = Verified { whole: faults.is_empty(), head, not_linked_yet, faults };
    out.one(&verified, |it| {
        let mut told: Vec<String> = it.faults.iter().map(tell).collect();
        if it.not_linked_yet > 0 {
            told.push(format!(
                "{} acts have no link yet, since a transaction holds the head of the chain: see who in pg_stat_activity, and verify again when it ended",
                it.not_linked_yet
            ));
        }
        if it.whole {
            told.push("the chain is whole; its newest link, to be kept off this machine:".to_owned());
        } else {
            told.push("the newest link:".to_owned());
        }
        told.push(it.head.clone());
        told.join("\n")
    })?;
    if !verified.whole {
        bail!(
            "the audit is NOT what was written: keep this database as it is, and compare with a backup before the first fault"
        );
    }
    Ok(())
}

fn tell(fault: &Fault) -> String {
    let name = |what: &str, id: Option<i64>| id.map(|id| format!("{what} {id}"));
    let place =
        [name("link", fault.seq), name("act", fault.audit)].into_iter().flatten().collect::<Vec<_>>().join(", ");
    format!("{place}: {}", fault.fault)
}
