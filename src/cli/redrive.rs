//! `noshi redrive`: many jobs asked at once, by a plan that is read before it is applied.

mod show;
mod watch;

use std::{
    fs,
    io::{IsTerminal, stdin},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, bail};
use clap::{Args, Subcommand, ValueEnum};
use noshi_jobs::{KindName, machine::Act};

use show::{RedriveView, amounts, show, tell};
use watch::watch;

use super::{Database, names, out::Out};
use crate::{
    basics::{durations, requests, terminal, text},
    db::{
        self, PgPool, Role,
        operator::redrive::{self, Conditions, Filter, Redrive, Steer},
    },
    operator::redrive::{self as planning, ACTS},
};

/// Asks many parked or failed jobs to go on: same jobs, same trade ids. Without a verb: plans, shows, asks you, applies.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct RedriveCommand {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    at_once: AtOnce,
}

#[derive(Subcommand)]
enum Verb {
    /// Freezes the exact set of jobs, and what each would be asked; changes none of them.
    Plan(Plan),
    /// The latest re-drives.
    List(Database),
    /// What a re-drive holds, what it refused and why, and how far it is.
    Show(Name),
    /// Approves a plan as a second person.
    Approve(Approve),
    /// Starts a plan; the fleet carries it out, whatever becomes of this command.
    Apply(Apply),
    /// Asks no further job until it is resumed.
    Pause(Steered),
    /// Goes on; after a canary that stood still, past it.
    Resume(Steered),
    /// Asks no further job, ever.
    Cancel(Steered),
    /// Sets above what size a second person must approve. The login must own the schema.
    Cap(Cap),
}

#[derive(Args)]
struct AtOnce {
    #[command(flatten)]
    which: Which,
    /// For the audit: why.
    #[arg(long)]
    reason: Option<String>,
    #[command(flatten)]
    how: How,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    database: Database,
}

#[derive(Args)]
struct Plan {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    database: Database,
}

/// Which jobs; all that is said must hold.
#[derive(Args)]
struct Which {
    /// Such as gift_issuance.
    #[arg(long, value_parser = names::kind())]
    kind: Option<KindName>,
    /// The problem that they stand at, such as out_of_tries.
    #[arg(long, value_name = "CODE", hide_possible_values = true, value_parser = names::code())]
    code: Option<String>,
    #[arg(long, value_enum)]
    status: Option<AtRest>,
    /// At rest for no longer than this, such as 2h.
    #[arg(long, value_name = "AGE", value_parser = durations::parse)]
    since: Option<Duration>,
    /// The batch that they came with.
    #[arg(long)]
    batch: Option<i64>,
    /// A file of the kind's own ids, one a line: these and no others.
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath, requires = "kind", conflicts_with_all = ["code", "status", "since", "batch"])]
    ids: Option<PathBuf>,
    /// Every job that is parked or failed.
    #[arg(long)]
    all: bool,
    /// One act for all, instead of the one that fits each: inquire in doubt, else retry, else rerun.
    #[arg(long, value_parser = parse_act)]
    act: Option<Act>,
}

#[derive(Clone, Copy, ValueEnum)]
#[value(rename_all = "snake_case")]
enum AtRest {
    NeedsOperator,
    Failed,
}

#[derive(Args)]
struct How {
    /// Jobs a minute; otherwise as fast as the lanes allow.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..=1_000_000))]
    rate: Option<i32>,
    /// Ask so many first, and wait for what becomes of them.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    canary: Option<i32>,
    /// Refuse, where the jobs are worth more than so many minor units of a currency.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(0..))]
    max_amount: Option<i64>,
    /// Do not wait for the end.
    #[arg(long)]
    detach: bool,
}

#[derive(Args)]
struct Name {
    /// The re-drive's number.
    redrive: i64,
    #[command(flatten)]
    database: Database,
}

#[derive(Args)]
struct Steered {
    #[command(flatten)]
    name: Name,
    /// For the audit: why.
    #[arg(long)]
    reason: String,
}

#[derive(Args)]
struct Approve {
    #[command(flatten)]
    name: Name,
    /// Of what you have read: `noshi redrive show` names it.
    #[arg(long, value_parser = parse_digest)]
    digest: Digest,
    /// For the audit: why.
    #[arg(long)]
    reason: String,
}

#[derive(Args)]
struct Apply {
    #[command(flatten)]
    name: Name,
    /// For the audit: why.
    #[arg(long)]
    reason: String,
    #[command(flatten)]
    how: How,
    /// Refuse, where this is not the digest of the plan.
    #[arg(long, value_parser = parse_digest)]
    digest: Option<Digest>,
}

#[derive(Args)]
struct Cap {
    /// A second person approves more jobs than this.
    #[arg(long, value_parser = clap::value_parser!(i32).range(0..))]
    jobs: i32,
    /// Or more minor units of a currency than this.
    #[arg(long, value_parser = clap::value_parser!(i64).range(0..))]
    amount: i64,
    #[command(flatten)]
    database: Database,
}

#[derive(Clone)]
struct Digest(Vec<u8>);

fn parse_digest(text: &str) -> Result<Digest, String> {
    hex::decode(text).ok().filter(|it| it.len() == 32).map(Digest).ok_or_else(|| "a digest is 64 hex digits".to_owned())
}

fn parse_act(name: &str) -> Result<Act, String> {
    let known = Act::from_name(name).filter(|act| ACTS.contains(act));
    known.ok_or_else(|| {
        format!("a re-drive may {}; every other act is for one job: `noshi job`", ACTS.map(Act::name).join(", "))
    })
}

pub async fn run(out: Out, command: RedriveCommand) -> anyhow::Result<()> {
    match command.verb {
        Some(verb) => obey(verb, out).await,
        None => at_once(command.at_once, out).await,
    }
}

async fn open(database: &Database) -> anyhow::Result<PgPool> {
    db::connect(database.url()?, Role::Operator, 1).await
}

async fn obey(verb: Verb, out: Out) -> anyhow::Result<()> {
    match verb {
        Verb::Plan(args) => {
            let pool = open(&args.database).await?;
            let made = plan(&pool, &args.which).await?;
            show(&pool, made, out).await
        }
        Verb::List(database) => list(&open(&database).await?, out).await,
        Verb::Show(name) => show(&open(&name.database).await?, name.redrive, out).await,
        Verb::Approve(args) => {
            let pool = open(&args.name.database).await?;
            redrive::approve(&pool, args.name.redrive, &args.digest.0, &args.reason).await?;
            show(&pool, args.name.redrive, out).await
        }
        Verb::Apply(args) => {
            let pool = open(&args.name.database).await?;
            apply(&pool, args.name.redrive, &args.reason, &args.how, args.digest.as_ref(), out).await
        }
        Verb::Pause(args) => steer(&args, Steer::Pause, out).await,
        Verb::Resume(args) => steer(&args, Steer::Resume, out).await,
        Verb::Cancel(args) => steer(&args, Steer::Cancel, out).await,
        Verb::Cap(args) => {
            let pool = db::connect(args.database.url()?, Role::Login, 1).await?;
            redrive::set_cap(&pool, args.jobs, args.amount).await?;
            out.one(&serde_json::json!({"jobs": args.jobs, "amount": args.amount}), |_| {
                format!("from now on a second person approves above {} jobs, or {} minor units", args.jobs, args.amount)
            })
        }
    }
}

async fn plan(pool: &PgPool, which: &Which) -> anyhow::Result<i64> {
    let ids = which.ids.as_ref().map(|file| {
        let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        // As Excel and Notepad save it.
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        let lines = text.lines().map(str::trim).enumerate().filter(|(_, line)| !line.is_empty());
        let id = |(n, line): (usize, &str)| match text::id_fault(line, requests::LONGEST_KEY) {
            Some(fault) => bail!("line {} of {} is no id: {fault}; nothing was planned", n + 1, file.display()),
            None => Ok(line.to_owned()),
        };
        lines.map(id).collect::<anyhow::Result<Vec<String>>>()
    });
    let filter = Filter {
        kind: which.kind.map(|kind| kind.name().to_owned()),
        code: which.code.clone(),
        status: which.status.map(|status| match status {
            AtRest::NeedsOperator => "needs_operator".to_owned(),
            AtRest::Failed => "failed".to_owned(),
        }),
        since: which.since,
        batch: which.batch,
        ids: ids.transpose()?,
        act: which.act.map(Act::name),
    };
    let narrowed = filter.kind.is_some()
        || filter.code.is_some()
        || filter.status.is_some()
        || filter.since.is_some()
        || filter.batch.is_some();
    if narrowed == which.all {
        bail!("say which jobs: --kind, --code, --status, --since, --batch or --ids; or --all, and none of these");
    }
    Ok(planning::plan(pool, &filter, which.act).await?)
}

async fn one(pool: &PgPool, number: i64) -> anyhow::Result<Redrive> {
    redrive::one(pool, number)
        .await?
        .with_context(|| format!("there is no re-drive {number}; `noshi redrive list` shows them"))
}

async fn list(pool: &PgPool, out: Out) -> anyhow::Result<()> {
    out.list(
        "there is no re-drive yet",
        &redrive::latest(pool, 50).await?,
        &[
            ("RE-DRIVE", |it| it.id.to_string()),
            ("STATUS", |it| it.status.clone()),
            ("JOBS", |it| it.jobs.to_string()),
            ("ASKED", |it| it.asked.to_string()),
            ("AT WORK", |it| it.open.to_string()),
            ("COMPLETED", |it| it.completed.to_string()),
            ("PARKED", |it| it.parked.to_string()),
            ("WORTH", |it| amounts(&it.totals)),
            ("BY", |it| it.applied_by.clone().unwrap_or_else(|| it.planned_by.clone())),
            ("FILTER", |it| it.filter.to_string()),
        ],
    )
}

async fn steer(args: &Steered, how: Steer, out: Out) -> anyhow::Result<()> {
    let pool = open(&args.name.database).await?;
    redrive::steer(&pool, args.name.redrive, how, &args.reason).await?;
    show(&pool, args.name.redrive, out).await
}

async fn apply(
    pool: &PgPool,
    number: i64,
    reason: &str,
    how: &How,
    digest: Option<&Digest>,
    out: Out,
) -> anyhow::Result<()> {
    let conditions = Conditions {
        digest: digest.map(|digest| digest.0.as_slice()),
        per_minute: how.rate,
        canary: how.canary,
        max_amount: how.max_amount,
    };
    redrive::apply(pool, number, reason, &conditions).await?;
    if !how.detach {
        watch(pool, number).await?;
    }
    show(pool, number, out).await?;
    let ended = one(pool, number).await?.status;
    if ended.starts_with("paused") || ended == "cancelled" {
        bail!(
            "re-drive {number} is {}: see the rows above; it goes on by `noshi redrive resume`, unless it is cancelled",
            ended.replace('_', " ")
        );
    }
    Ok(())
}

async fn at_once(args: AtOnce, out: Out) -> anyhow::Result<()> {
    let Some(reason) = &args.reason else {
        bail!("say which jobs and why: `noshi redrive --kind … --code … --reason …`; or see `noshi redrive --help`")
    };
    let pool = open(&args.database).await?;
    let made = plan(&pool, &args.which).await?;
    let r = one(&pool, made).await?;
    let shown = RedriveView { groups: redrive::groups(&pool, made).await?, redrive: r };
    terminal::tell(&tell(&shown));
    let r = shown.redrive;
    if r.needs_approval {
        bail!(
            "re-drive {made} is planned, and nothing is changed: it is too large for one person. A second person approves it; then `noshi redrive apply {made} --reason …`"
        );
    }
    if r.jobs == 0 {
        bail!("re-drive {made} has no job that may be asked; nothing is changed");
    }
    if !args.yes && !agreed(r.jobs)? {
        bail!("nothing is changed; the plan stays for an hour: `noshi redrive apply {made} --reason …`");
    }
    let digest = parse_digest(&r.digest).map_err(anyhow::Error::msg)?;
    apply(&pool, made, reason, &args.how, Some(&digest), out).await
}

fn agreed(jobs: i32) -> anyhow::Result<bool> {
    if !stdin().is_terminal() {
        bail!("there is no terminal to ask on; with --yes nobody is asked");
    }
    terminal::tell(&format!("ask these {jobs} jobs? [y/N] "));
    let mut answer = String::new();
    stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
