//! `noshi batch`: files of rows, from submission to report.

mod report;
mod show;

use std::{
    fs::File,
    io::{BufReader, IsTerminal, stdin},
    path::PathBuf,
};

use anyhow::{Context, bail, ensure};
use clap::{Args, Subcommand, ValueHint};
use serde_json::{Value, json};

use report::report;
use show::{list, show, would_do};

use super::{Database, out::Out};
use crate::{
    basics::{instants, terminal},
    db::{
        self, PgPool, Role,
        domain::batches::{self, Progress},
    },
    intake::{self, Encoding, FileKind, Rejected, Submission},
    operator::readings::ask::{self, By, Ears, What},
    settings::Settings,
};

#[derive(Subcommand)]
pub enum BatchCommand {
    /// Checks a whole CSV file and takes it as a batch, all of it or nothing; the same file again is the same batch.
    Submit(BatchSubmit),
    /// Prints the CSV format of a kind of file, to hand out.
    Template { kind: FileKind },
    /// The latest batches and how far each is.
    List(BatchList),
    /// One batch: its totals, what it waits for, objections to it.
    Show(BatchName),
    /// Approves a batch as a second person, over your own copy of its file.
    Approve(BatchApprove),
    /// Releases the rows of a batch.
    Release(BatchRelease),
    /// Holds back every row that has not begun a call.
    Pause(BatchAct),
    /// Resumes a paused batch.
    Resume(BatchAct),
    /// Ends a batch: before its release all of it, after that each row that has not begun, and each grant that nobody has asked for.
    Cancel(BatchAct),
    /// Runs the failed rows of a batch again.
    Rerun(BatchAct),
    /// Sets what a batch may be, from now on. The login must own the schema; every setting stays on record.
    Cap(BatchCap),
    /// Writes the report for customer support: the file's columns, and what became of each row.
    Report(BatchReport),
}

#[derive(Args)]
pub struct BatchSubmit {
    /// With the columns that `noshi batch template KIND` prints.
    #[arg(value_hint = ValueHint::FilePath)]
    file: PathBuf,
    #[arg(long, value_enum, default_value = "grants")]
    kind: FileKind,
    #[arg(long, value_enum, default_value = "utf-8")]
    encoding: Encoding,
    /// Grants: the campaign that they belong to.
    #[arg(long)]
    campaign: Option<String>,
    /// Grants: announce each by mail, to rows with an address.
    #[arg(long)]
    mail: bool,
    /// Grants: issue each gift at once, instead of when its user asks for it.
    #[arg(long)]
    issue: bool,
    /// Release the rows at once, where no second person must approve.
    #[arg(long)]
    release: bool,
    /// Check the file; write nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    database: Database,
}

#[derive(Args)]
pub struct BatchList {
    /// Only those with a smaller number: the next page.
    #[arg(long, value_name = "NUMBER")]
    before: Option<i64>,
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=1_000))]
    limit: i64,
    #[command(flatten)]
    database: Database,
}

#[derive(Args)]
pub struct BatchName {
    /// The batch's number.
    batch: i64,
    #[command(flatten)]
    database: Database,
}

#[derive(Args)]
pub struct BatchAct {
    /// The batch's number.
    batch: i64,
    /// For the journal: why.
    #[arg(long)]
    reason: String,
    #[command(flatten)]
    database: Database,
}

#[derive(Args)]
pub struct BatchRelease {
    #[command(flatten)]
    act: BatchAct,
    /// Do not ask: let them go.
    #[arg(long)]
    yes: bool,
}

#[derive(Args)]
pub struct BatchApprove {
    #[command(flatten)]
    act: BatchAct,
    /// Your own copy of the file: what you have read is what you approve.
    #[arg(long, value_hint = ValueHint::FilePath)]
    file: PathBuf,
}

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct BatchCap {
    #[command(subcommand)]
    command: Option<BatchCapCommand>,
    #[command(flatten)]
    set: BatchCapSet,
}

#[derive(Subcommand)]
pub enum BatchCapCommand {
    /// What holds now, for each kind and currency.
    Show(Database),
}

/// What is left out stays as it was.
#[derive(Args)]
pub struct BatchCapSet {
    #[arg(long, value_enum, required = true)]
    kind: Option<FileKind>,
    /// Grants: the currency of all amounts below, which are in its minor units.
    #[arg(long, default_value = "")]
    currency: String,
    /// Rows of one batch.
    #[arg(long, value_parser = clap::value_parser!(i32).range(1..))]
    max_rows: Option<i32>,
    /// The total of one batch.
    #[arg(long, value_parser = clap::value_parser!(i64).range(1..))]
    max_total: Option<i64>,
    /// One user, in any 24 hours.
    #[arg(long, value_parser = clap::value_parser!(i64).range(1..))]
    max_per_user: Option<i64>,
    /// All users, in any 24 hours.
    #[arg(long, value_parser = clap::value_parser!(i64).range(1..))]
    max_per_day: Option<i64>,
    /// From this many rows on a second person must approve.
    #[arg(long, value_parser = clap::value_parser!(i32).range(1..))]
    approve_from_rows: Option<i32>,
    /// From this total on a second person must approve.
    #[arg(long, value_parser = clap::value_parser!(i64).range(1..))]
    approve_from_total: Option<i64>,
    #[command(flatten)]
    database: Database,
}

#[derive(Args)]
pub struct BatchReport {
    #[command(flatten)]
    name: BatchName,
    /// Where to write it; standard output otherwise. A file that is there already is left as it is.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    out: Option<PathBuf>,
    /// Replace the file that is there.
    #[arg(long, requires = "out")]
    force: bool,
}

async fn open(database: &Database) -> anyhow::Result<PgPool> {
    db::connect(database.url()?, Role::Operator, 1).await
}

pub async fn run(settings: &Settings, out: Out, command: BatchCommand) -> anyhow::Result<()> {
    match command {
        BatchCommand::Submit(args) => submit(settings, out, args).await,
        BatchCommand::Template { kind } => out.one(&json!({"template": kind.template()}), |_| kind.template()),
        BatchCommand::List(args) => list(out, &open(&args.database).await?, args.before, args.limit).await,
        BatchCommand::Show(name) => show(out, &open(&name.database).await?, name.batch).await,
        BatchCommand::Approve(args) => approve(settings, out, args).await,
        BatchCommand::Release(args) => release(out, &args).await,
        BatchCommand::Pause(act) => {
            let pool = open(&act.database).await?;
            if let Some(status) = over(&pool, act.batch, &["paused"]).await? {
                return unchanged(out, act.batch, &status);
            }
            batches::pause(&pool, act.batch, &act.reason).await?;
            let sentence = format!("batch {} is paused; what had begun goes on", act.batch);
            said(out, json!({"batch": act.batch, "is": "paused"}), sentence)
        }
        BatchCommand::Resume(act) => {
            let pool = open(&act.database).await?;
            let before = one(&pool, act.batch).await?;
            if before.status != "paused" && before.paused_code.is_none() {
                return unchanged(out, act.batch, &format!("not paused but {}", before.status));
            }
            batches::resume(&pool, act.batch, &act.reason).await?;
            said(out, json!({"batch": act.batch, "is": "resumed"}), format!("batch {} goes on", act.batch))
        }
        BatchCommand::Cancel(act) => {
            let pool = open(&act.database).await?;
            let ended = batches::cancel(&pool, act.batch, &act.reason).await?;
            let after = batches::progress(&pool, Some(act.batch), 1).await?;
            let after = after.first();
            let goes_on = after.map_or(0, |after| after.open + after.needs_operator);
            let (cancelled, completed) = after.map_or((0, 0), |after| (after.cancelled, after.completed));
            let sentence = format!(
                "batch {} is cancelled; {ended} jobs that were waiting ended with it, never called; {cancelled} rows are cancelled, {completed} were done before and stay, and {goes_on} had begun and go on to their end",
                act.batch
            );
            said(out, json!({"batch": act.batch, "is": "cancelled", "ended": ended}), sentence)
        }
        BatchCommand::Rerun(act) => {
            let pool = open(&act.database).await?;
            let jobs = batches::rerun(&pool, act.batch, &act.reason).await?;
            let refused = batches::not_rerun(&pool, act.batch).await?;
            let mut sentence = format!("{jobs} failed jobs of batch {} are asked to run again", act.batch);
            for left in &refused {
                let (kind, code) = (&left.kind, left.code.as_deref().unwrap_or("no code"));
                sentence += &format!(
                    "\n{} stay failed: {kind} ({code}) has no rerun in its state table; grant anew, under a new id",
                    left.jobs
                );
            }
            said(out, json!({"batch": act.batch, "rerun": jobs, "refused": refused}), sentence)
        }
        BatchCommand::Cap(args) => cap(out, args).await,
        BatchCommand::Report(args) => report(settings, out, args).await,
    }
}

async fn submit(settings: &Settings, out: Out, args: BatchSubmit) -> anyhow::Result<()> {
    let gifts = settings.offers()?;
    if args.kind == FileKind::Grants && gifts.names().next().is_none() {
        bail!("the configuration names no gift provider, so nothing can be offered; name it with --config FILE");
    }
    if args.kind == FileKind::Stores && args.campaign.is_some() {
        bail!("--campaign is for grants and points");
    }
    if !args.kind.brings_gifts() && (args.mail || args.issue) {
        bail!("--mail and --issue are for grants");
    }
    let submission = Submission {
        path: &args.file,
        held: None,
        kind: args.kind,
        encoding: args.encoding,
        campaign: args.campaign.as_deref(),
        mails: args.mail,
        issues: args.issue,
    };
    let name = args.file.display();
    if args.dry_run {
        let input = File::open(&args.file).with_context(|| format!("cannot open {name}"))?;
        let checked = intake::check(args.kind, args.encoding, BufReader::new(input), &gifts)?;
        if !checked.faults.is_empty() {
            bail!(Rejected { file: name.to_string(), faults: checked.faults });
        }
        let sentence = format!("{name}: {} rows, no faults; nothing was written", checked.rows);
        return said(out, json!({"rows": checked.rows, "faults": []}), sentence);
    }
    let pool = open(&args.database).await?;
    let submitted = intake::submit(&pool, &settings.sealer()?, &gifts, &submission).await?;
    let batch = submitted.batch;
    let known = if submitted.is_new { "" } else { ", the same file as before" };
    if args.release && !submitted.needs_approval {
        batches::release(&pool, batch, Some("with its submission")).await?;
    }
    if out == Out::Table {
        terminal::print(&format!("batch {batch}: {} rows{known}\n", submitted.rows));
    }
    show(out, &pool, batch).await
}

async fn approve(settings: &Settings, out: Out, args: BatchApprove) -> anyhow::Result<()> {
    let BatchApprove { act, file } = args;
    let pool = open(&act.database).await?;
    let batch = one(&pool, act.batch).await?;
    // What is approved is what is staged: whoever submitted the file could have staged anything.
    let submission = Submission {
        path: &file,
        held: None,
        kind: FileKind::from_name(&batch.kind)
            .context("a newer version of noshi received this batch; approve it with that one")?,
        encoding: Encoding::from_name(&batch.encoding),
        campaign: None,
        mails: false,
        issues: false,
    };
    intake::verify(&pool, Some(&settings.offers()?), &submission, act.batch, None)
        .await
        .context("nothing was approved: this file is not what the batch holds")?;
    ensure!(
        hex::encode(intake::digest_of(&file)?) == batch.digest,
        "nothing was approved: this file is not the one of batch {}, byte for byte",
        act.batch
    );
    // The addresses, too, which a worker alone can open.
    let ears = Ears::open(act.database.url()?.to_owned(), Some(settings.sealer()?));
    ask::ask(By::Login(&pool), &ears, What::Check { batch: act.batch }).await?.whole().await?;
    let stands_for = batch.approval_digest.as_deref().and_then(|digest| hex::decode(digest).ok()).unwrap_or_default();
    let until = batches::approve(&pool, act.batch, &stands_for, &act.reason).await?;
    let sentence = format!("batch {} is approved until {}: {}", act.batch, instants::show(until), would_do(&batch));
    said(out, json!({"batch": act.batch, "is": "approved", "until": until}), sentence)
}

/// Says what would go before it goes: what is granted is not taken back.
async fn release(out: Out, args: &BatchRelease) -> anyhow::Result<()> {
    let BatchRelease { act, yes } = args;
    let pool = open(&act.database).await?;
    let before = one(&pool, act.batch).await?;
    let gone = ["settled", "cancelled", "invalid", "released", "parked", "refused"];
    if before.status == "paused" {
        bail!(
            "batch {0} is paused, and nothing was released: `noshi batch resume {0} --reason …` lets it go on",
            act.batch
        );
    }
    if gone.contains(&before.status.as_str()) {
        return unchanged(out, act.batch, &before.status);
    }
    let worth = batches::worth(&pool, act.batch).await?;
    let rows = before.rows;
    let amounts = worth.iter().map(|worth| format!("\n  {worth} (amounts in minor units)")).collect::<String>();
    if !yes {
        terminal::tell(&format!("batch {} of {}: {rows} rows would begin{amounts}\n", act.batch, before.file));
        ensure!(
            stdin().is_terminal(),
            "nothing was released: there is no terminal to ask on; with --yes nobody is asked"
        );
        terminal::tell("let them go? [y/N] ");
        let mut answer = String::new();
        stdin().read_line(&mut answer)?;
        ensure!(matches!(answer.trim(), "y" | "Y" | "yes"), "nothing was released");
    }
    batches::release(&pool, act.batch, Some(&act.reason)).await?;
    let sentence = format!("batch {} is released: {rows} rows begin now{amounts}", act.batch);
    said(out, json!({"batch": act.batch, "is": "released", "rows": rows, "worth": worth}), sentence)
}

async fn cap_show(out: Out, database: &Database) -> anyhow::Result<()> {
    fn or<T: ToString>(value: Option<T>, none: &str) -> String {
        value.map_or_else(|| none.to_owned(), |value| value.to_string())
    }
    out.list(
        "no cap is set, so no batch may be granted",
        &batches::caps(&open(database).await?).await?,
        &[
            ("KIND", |cap| cap.kind.clone()),
            ("IN", |cap| cap.currency.clone()),
            ("ROWS", |cap| or(cap.max_rows, "any")),
            ("TOTAL", |cap| or(cap.max_total, "any")),
            ("A USER", |cap| or(cap.max_per_user, "any")),
            ("A DAY", |cap| or(cap.max_per_day, "any")),
            ("APPROVED FROM", |cap| match (cap.approve_from_rows, cap.approve_from_total) {
                (None, None) => "never".to_owned(),
                (rows, total) => format!("{} rows or {}", or(rows, "any"), or(total, "any")),
            }),
            ("SET BY", |cap| cap.set_by.clone()),
        ],
    )
}

async fn cap(out: Out, args: BatchCap) -> anyhow::Result<()> {
    if let Some(BatchCapCommand::Show(database)) = args.command {
        return cap_show(out, &database).await;
    }
    let args = args.set;
    let kind = args.kind.context("--kind says whose cap it is")?;
    let units = kind.units();
    if !units.contains(&args.currency.as_str()) {
        match kind {
            FileKind::Stores => bail!("--currency is not for stores"),
            FileKind::Grants | FileKind::Points => {
                bail!("--currency of {} is {}", kind.name(), units.join(" or "))
            }
        }
    }
    let pool = db::connect(args.database.url()?, Role::Login, 1).await?;
    let cap = batches::Cap {
        kind: kind.name().to_owned(),
        currency: args.currency,
        max_rows: args.max_rows,
        max_total: args.max_total,
        max_per_user: args.max_per_user,
        max_per_day: args.max_per_day,
        approve_from_rows: args.approve_from_rows,
        approve_from_total: args.approve_from_total,
    };
    let holds = batches::set_cap(&pool, &cap).await?;
    said(out, json!({"holds": holds}), format!("from now on: {holds}"))
}

/// How a batch stands that is over, or stands as it is asked to already: nothing would change.
async fn over(pool: &PgPool, batch: i64, besides: &[&str]) -> anyhow::Result<Option<String>> {
    let status = one(pool, batch).await?.status;
    let over = ["settled", "cancelled", "invalid"];
    Ok(over.iter().chain(besides).any(|known| *known == status).then_some(status))
}

fn unchanged(out: Out, batch: i64, status: &str) -> anyhow::Result<()> {
    let sentence = format!("batch {batch} is {status} already; nothing changed");
    said(out, json!({"batch": batch, "is": status, "changed": false}), sentence)
}

pub async fn one(pool: &PgPool, batch: i64) -> anyhow::Result<Progress> {
    let found = batches::progress(pool, Some(batch), 1).await?.into_iter().next();
    found.with_context(|| format!("there is no batch {batch}; `noshi batch list` shows them"))
}

fn said(out: Out, answer: Value, sentence: String) -> anyhow::Result<()> {
    out.one(&answer, |_| sentence)
}
