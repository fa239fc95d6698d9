//! `noshi proposal`: what one person has proposed about money, and a second confirms or refuses.

use std::io::{IsTerminal, stdin};

use anyhow::{Context, ensure};
use clap::{Args, Subcommand};
use serde_json::json;

use super::{Database, out::Out};
use crate::{
    basics::{instants, terminal, text},
    db::{
        self, PgPool, Role,
        operator::proposals::{self, Proposal},
    },
};

#[derive(Subcommand)]
pub enum ProposalCommand {
    /// What waits for a second person.
    List(ProposalList),
    /// One of them, and what it stands for.
    Show(ProposalName),
    /// Confirms what somebody else has proposed; it is carried out at once.
    Confirm(ProposalConfirm),
    /// Refuses it; whoever made it takes it back so.
    Refuse(ProposalRefuse),
    /// How much one person may vouch for alone within 24 hours.
    #[command(subcommand)]
    Cap(ProposalCapCommand),
}

#[derive(Args)]
pub struct ProposalList {
    /// Those that were decided too.
    #[arg(long)]
    all: bool,
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=1000))]
    limit: i64,
    #[command(flatten)]
    database: Database,
}

#[derive(Args)]
pub struct ProposalName {
    /// Its number, as `noshi proposal list` shows it.
    proposal: i64,
    #[command(flatten)]
    database: Database,
}

#[derive(Args)]
pub struct ProposalConfirm {
    #[command(flatten)]
    name: ProposalName,
    /// For the audit: what you have looked at.
    #[arg(long)]
    reason: String,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
}

#[derive(Args)]
pub struct ProposalRefuse {
    #[command(flatten)]
    name: ProposalName,
    /// For the audit: why.
    #[arg(long)]
    reason: String,
}

#[derive(Subcommand)]
pub enum ProposalCapCommand {
    /// What is set.
    Show(Database),
    /// Sets it for a currency. The login must own the schema.
    Set(ProposalCap),
}

#[derive(Args)]
pub struct ProposalCap {
    /// Such as JPY; left out: for what is worth nothing in itself, such as a store, where acts are counted.
    #[arg(long, default_value = "")]
    currency: String,
    /// Minor units, or acts, that one person may do alone within 24 hours; 0: a second person always confirms.
    #[arg(long, value_parser = clap::value_parser!(i64).range(0..))]
    alone: i64,
    /// And that one person may do at most, with a second person.
    #[arg(long, value_parser = clap::value_parser!(i64).range(0..))]
    limit: Option<i64>,
    #[command(flatten)]
    database: Database,
}

async fn open(database: &Database) -> anyhow::Result<PgPool> {
    db::connect(database.url()?, Role::Operator, 1).await
}

pub async fn run(out: Out, command: ProposalCommand) -> anyhow::Result<()> {
    match command {
        ProposalCommand::List(args) => {
            let pool = open(&args.database).await?;
            list(out, &proposals::list(&pool, !args.all, args.limit).await?)
        }
        ProposalCommand::Show(name) => {
            let pool = open(&name.database).await?;
            out.one(&one(&pool, name.proposal).await?, tell)
        }
        ProposalCommand::Confirm(args) => confirm(out, &open(&args.name.database).await?, &args).await,
        ProposalCommand::Refuse(args) => {
            let (pool, number) = (open(&args.name.database).await?, args.name.proposal);
            proposals::refuse(&pool, number, &args.reason).await?;
            out.one(&json!({"proposal": number, "is": "refused"}), |_| {
                format!("proposal {number} is refused; nothing was done")
            })
        }
        ProposalCommand::Cap(ProposalCapCommand::Show(database)) => cap_show(out, &open(&database).await?).await,
        ProposalCommand::Cap(ProposalCapCommand::Set(args)) => cap_set(out, &args).await,
    }
}

/// What is told to whoever has proposed something.
pub fn proposed(number: i64, what: &str) -> String {
    format!(
        "nothing is done yet: proposal {number} says {what}; a second person reads and confirms it: `noshi proposal confirm {number}`"
    )
}

async fn one(pool: &PgPool, number: i64) -> anyhow::Result<Proposal> {
    let found = proposals::one(pool, number).await?;
    found.with_context(|| format!("there is no proposal {number}; `noshi proposal list` shows them"))
}

fn list(out: Out, found: &[Proposal]) -> anyhow::Result<()> {
    out.list(
        "nothing waits for a second person",
        found,
        &[
            ("PROPOSAL", |it| it.proposal.to_string()),
            ("ACT", |it| it.act.clone()),
            ("TARGET", |it| it.target.clone()),
            ("ID", |it| it.key.clone().unwrap_or_default()),
            ("WORTH", worth),
            ("BY", |it| it.proposed_by.clone()),
            ("STATUS", |it| it.status.clone()),
            ("REASON", |it| it.reason.clone()),
        ],
    )
}

fn worth(proposal: &Proposal) -> String {
    match (proposal.amount, &proposal.currency) {
        (Some(amount), Some(currency)) => format!("{amount} {currency}"),
        _ => String::new(),
    }
}

fn tell(it: &Proposal) -> String {
    let mut lines = vec![
        format!("proposal {}: {} of {}, {}", it.proposal, it.act, it.target, it.status),
        format!("  it {}", it.what),
    ];
    if let (Some(kind), Some(key), Some(at)) = (&it.kind, &it.key, &it.at) {
        let doubt = if it.in_doubt == Some(true) { ", in doubt" } else { "" };
        lines.push(format!("  for {kind} {key}, which stood at {at}{doubt}"));
    }
    lines.extend(it.restored_to.map(|to| format!("  restored to {}", instants::show(to))));
    if it.amount.is_some() {
        lines.push(format!("  worth {} (minor units)", worth(it)));
    }
    lines.push(format!("  {} says: {}", it.proposed_by, text::in_one_line(&it.reason)));
    lines.push(format!("  from {} until {}", instants::show(it.proposed_at), instants::show(it.expires_at)));
    if let (Some(at), Some(by)) = (it.decided_at, &it.decided_by) {
        let why = text::in_one_line(it.decision_reason.as_deref().unwrap_or_default());
        lines.push(format!("  {} by {by} at {}: {why}", it.status, instants::show(at)));
    }
    lines.push(format!("  digest {}", it.digest));
    lines.join("\n")
}

/// Shows what will be done before it is done; the digest of what was shown goes with it.
async fn confirm(out: Out, pool: &PgPool, args: &ProposalConfirm) -> anyhow::Result<()> {
    let it = one(pool, args.name.proposal).await?;
    if !args.yes {
        terminal::tell(&format!("{}\n", tell(&it)));
        ensure!(
            stdin().is_terminal(),
            "nothing was confirmed: there is no terminal to ask on; with --yes nobody is asked"
        );
        terminal::tell("confirm it? [y/N] ");
        let mut answer = String::new();
        stdin().read_line(&mut answer)?;
        ensure!(matches!(answer.trim(), "y" | "Y" | "yes"), "nothing was confirmed");
    }
    let digest = hex::decode(&it.digest)?;
    let done = proposals::confirm(pool, it.proposal, &digest, &args.reason).await?;
    out.one(&json!({"proposal": it.proposal, "is": "confirmed", "done": done}), |_| {
        format!("proposal {} is confirmed: {done}", it.proposal)
    })
}

async fn cap_show(out: Out, pool: &PgPool) -> anyhow::Result<()> {
    out.list(
        "nothing is set: a second person always confirms",
        &proposals::caps(pool).await?,
        &[
            ("IN", |cap| if cap.currency.is_empty() { "acts".to_owned() } else { cap.currency.clone() }),
            ("ALONE", |cap| cap.alone.to_string()),
            ("AT MOST", |cap| cap.most.map_or_else(|| "any".to_owned(), |most| most.to_string())),
            ("SET BY", |cap| cap.set_by.clone()),
        ],
    )
}

async fn cap_set(out: Out, args: &ProposalCap) -> anyhow::Result<()> {
    ensure!(
        args.currency.is_empty() || (args.currency.len() == 3 && args.currency.bytes().all(|b| b.is_ascii_uppercase())),
        "--currency is a code of three capital letters, such as JPY, and not {:?}; nothing was changed",
        args.currency
    );
    ensure!(args.limit.is_none_or(|most| most >= args.alone), "--limit is no less than --alone; nothing was changed");
    let pool = db::connect(args.database.url()?, Role::Login, 1).await?;
    proposals::set_cap(&pool, &args.currency, args.alone, args.limit).await?;
    let unit = if args.currency.is_empty() { "acts" } else { &args.currency };
    out.one(&json!({"currency": args.currency, "alone": args.alone, "limit": args.limit}), |_| {
        let most = args.limit.map(|most| format!(", and {most} with a second person")).unwrap_or_default();
        format!("from now on one person may vouch for {} {unit} alone within 24 hours{most}", args.alone)
    })
}
