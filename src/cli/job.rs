//! `noshi job`: jobs found, seen, explained and acted upon.

pub(super) mod show;

use anyhow::bail;
use clap::{Args, Subcommand, ValueEnum};
use noshi_jobs::{KindName, machine::Act};
use serde::Serialize;

use show::{show, tell_why};

use super::{
    Database,
    enqueue::{self, JobEnqueue, JobSubmit},
    names,
    out::Out,
    proposal::proposed,
};
use crate::{
    basics::kinds,
    db::{
        self, PgPool, Role,
        operator::jobs::{self, Filter, JobRow, Line},
        queue::{
            lanes,
            retention::{self, Over},
            settle::Status,
        },
    },
    operator::explain::{self, seconds, was_done},
    settings::Settings,
};

#[derive(Subcommand)]
pub enum JobCommand {
    /// Asks for a job, and with --wait tells what came of it. The login must be a producer's.
    Enqueue(JobEnqueue),
    /// Asks for each row of a file, all of them or none: jobs of a kind of your own. The login must be a producer's.
    Submit(JobSubmit),
    /// Jobs, the newest first, by whatever you know of them.
    List(JobList),
    /// Where a job stands, what may be done to it, and the end of its journal.
    Show(JobName),
    /// Why a job is not moving, in one sentence, and what may be done about it.
    Explain(JobName),
    /// The same job again, at once, from where it stands.
    Retry(JobAct),
    /// Ends a job, taking back what its partner allows.
    Cancel(JobAct),
    /// Asks the partner what became of the call; buys nothing by itself.
    Inquire(JobAct),
    /// Ends a row that nobody can read and that never began; never a job in doubt.
    Dismiss(JobAct),
    /// Says that you have seen a parked job: no alert counts it until it is parked anew. It stays as it is.
    #[command(visible_alias = "ack")]
    Acknowledge(JobAct),
    /// A person's decision, with evidence.
    Resolve(JobResolve),
}

#[derive(Args)]
pub struct JobList {
    #[arg(long, value_name = "KIND", value_parser = names::kind())]
    kind: Option<KindName>,
    /// Such as needs_operator, retryable or failed.
    #[arg(long, value_name = "STATUS", value_parser = names::status())]
    status: Option<Status>,
    /// A problem code, such as out_of_tries.
    #[arg(long, value_name = "CODE", hide_possible_values = true, value_parser = names::code())]
    code: Option<String>,
    /// Those that stand in this lane; a job that is over stands in none.
    #[arg(long, value_parser = names::lane)]
    lane: Option<String>,
    #[arg(long)]
    batch: Option<i64>,
    /// Only those with a call whose outcome is not known.
    #[arg(long)]
    in_doubt: bool,
    /// A user, a grant, a trade, the source of points, or the public id of a store.
    #[arg(long, value_name = "ID")]
    of: Option<String>,
    /// Only those with a smaller number: the next page.
    #[arg(long, value_name = "NUMBER")]
    before: Option<i64>,
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=10_000))]
    limit: i64,
    #[command(flatten)]
    database: Database,
}

#[derive(Args)]
pub struct JobName {
    /// A job's number, which comes first; its kind and id; or a user, grant, trade, source or public id that has one job only.
    #[arg(num_args = 1..=2, required = true, value_names = ["KIND", "ID"])]
    name: Vec<String>,
    #[command(flatten)]
    database: Database,
}

#[derive(Args)]
pub struct JobAct {
    #[command(flatten)]
    job: JobName,
    /// For the journal and the audit: why.
    #[arg(long)]
    reason: String,
}

#[derive(Args)]
pub struct JobResolve {
    #[command(flatten)]
    act: JobAct,
    /// What you have decided.
    #[arg(long, value_enum, value_name = "DECISION")]
    r#as: Decision,
}

#[derive(Clone, Copy, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Decision {
    /// You have evidence that the effect did not and cannot happen.
    AttestVoid,
    /// You have evidence that the effect did happen.
    AttestDone,
    /// A new trade, with a new id; only from a proven void.
    Reissue,
    /// The end, as refused; only from a proven void.
    Reject,
    /// Again from the beginning, after a clean failure.
    Rerun,
    /// Keep what could not be taken back.
    Adopt,
}

impl Decision {
    const fn act(self) -> Act {
        match self {
            Decision::AttestVoid => Act::AttestVoid,
            Decision::AttestDone => Act::AttestDone,
            Decision::Reissue => Act::Reissue,
            Decision::Reject => Act::Reject,
            Decision::Rerun => Act::Rerun,
            Decision::Adopt => Act::Adopt,
        }
    }
}

pub async fn run(settings: impl Fn() -> anyhow::Result<Settings>, out: Out, command: JobCommand) -> anyhow::Result<()> {
    match command {
        JobCommand::Enqueue(args) => enqueue::run(settings, out, args).await,
        JobCommand::Submit(args) => enqueue::submit(out, args).await,
        JobCommand::List(args) => list(out, args).await,
        JobCommand::Show(name) => show(out, &name).await,
        JobCommand::Explain(name) => tell_why(out, &name).await,
        JobCommand::Retry(args) => act(out, &args, Act::Retry).await,
        JobCommand::Cancel(args) => act(out, &args, Act::Cancel).await,
        JobCommand::Inquire(args) => act(out, &args, Act::Inquire).await,
        JobCommand::Dismiss(args) => act(out, &args, Act::Dismiss).await,
        JobCommand::Acknowledge(args) => act(out, &args, Act::Acknowledge).await,
        JobCommand::Resolve(args) => act(out, &args.act, args.r#as.act()).await,
    }
}

async fn list(out: Out, args: JobList) -> anyhow::Result<()> {
    let pool = db::connect(args.database.url()?, Role::Operator, 1).await?;
    must_exist(&pool, args.lane.as_deref(), args.batch).await?;
    let filter = Filter {
        kind: args.kind.map(|kind| kind.name().to_owned()),
        status: args.status,
        code: args.code,
        lane: args.lane,
        batch: args.batch,
        in_doubt: args.in_doubt,
        of: args.of,
        before: args.before,
        most: args.limit,
    };
    let mut found = jobs::list(&pool, &filter, kinds::names()).await?;
    found.extend(pruned(&pool, &filter, args.limit).await?);
    found.sort_by_key(|line| std::cmp::Reverse(line.id));
    found.truncate(usize::try_from(args.limit).unwrap_or(usize::MAX));
    lines(out, &found)
}

/// Those that were pruned, where somebody or something certain is asked for: a call centre must not be told that there never was a gift.
async fn pruned(pool: &PgPool, filter: &Filter, most: i64) -> anyhow::Result<Vec<Line>> {
    let over = match (&filter.of, filter.batch) {
        // Nothing that was pruned stands in a lane, or is in doubt.
        _ if filter.lane.is_some() || filter.in_doubt => vec![],
        (Some(of), _) => retention::known(pool, of, kinds::names(), 1000).await?,
        (None, Some(batch)) => retention::of_batch(pool, batch, most.max(1000)).await?,
        (None, None) => vec![],
    };
    let is_like_that = |over: &Over| {
        filter.kind.as_ref().is_none_or(|kind| *kind == over.kind)
            && filter.code.as_ref().is_none_or(|code| Some(code) == over.code.as_ref())
            && filter.status.is_none_or(|status| status.name() == over.status)
            && filter.batch.is_none_or(|batch| Some(batch) == over.batch)
            && filter.before.is_none_or(|before| over.id < before)
    };
    Ok(over.into_iter().filter(is_like_that).map(line_of).collect())
}

fn line_of(over: Over) -> Line {
    let ago = chrono::Utc::now().signed_duration_since(over.finished_at);
    Line {
        id: over.id,
        kind: over.kind,
        key: over.key,
        status: format!("{} (pruned)", over.status),
        at: over.at,
        in_doubt: false,
        code: over.code,
        outcome: over.outcome,
        lane: String::new(),
        batch: over.batch,
        in_state: ago.num_milliseconds() as f64 / 1_000.0,
    }
}

/// A lane or a batch that is not there is a slip of the pen, and not an empty answer.
async fn must_exist(pool: &PgPool, lane: Option<&str>, batch: Option<i64>) -> anyhow::Result<()> {
    if let Some(lane) = lane
        && !lanes::names(pool).await?.iter().any(|known| known == lane)
    {
        bail!("{}", super::lane::unknown(lane));
    }
    if let Some(batch) = batch {
        super::batch::one(pool, batch).await?;
    }
    Ok(())
}

fn lines(out: Out, jobs: &[Line]) -> anyhow::Result<()> {
    out.list(
        "no job is like that",
        jobs,
        &[
            ("JOB", |job| job.id.to_string()),
            ("KIND", |job| job.kind.clone()),
            ("ID", |job| job.key.clone()),
            ("STATUS", |job| job.status.clone()),
            ("AT", |job| job.at.clone()),
            ("FOR", |job| seconds(job.in_state)),
            ("DOUBT", |job| if job.in_doubt { "IN DOUBT".to_owned() } else { String::new() }),
            ("CODE", |job| job.code.clone().or_else(|| job.outcome.clone()).unwrap_or_default()),
            ("LANE", |job| job.lane.clone()),
        ],
    )
}

/// The one job of this name; several are listed, and then it must be said which.
async fn find(out: Out, name: &JobName, pool: &PgPool) -> anyhow::Result<JobRow> {
    let name = match name.name.as_slice() {
        [kind, id] => {
            if let Some(found) = jobs::look(pool, kind, id).await? {
                return Ok(found);
            }
            if let Some(over) = retention::over(pool, Some(kind), id).await? {
                bail!("{}", was_done(&over));
            }
            bail!("there is no {kind} with the id {id}")
        }
        [name] => name,
        _ => bail!("name a job by its number, or by kind and id"),
    };
    if let Some(number) = number(name) {
        return numbered(out, pool, name, number).await;
    }
    let found = jobs::find(pool, name, kinds::names(), 1000).await?;
    match found.as_slice() {
        [one] => match jobs::look_at(pool, *one).await? {
            Some(job) => Ok(job),
            None => none_there(out, pool, name).await,
        },
        [] => none_there(out, pool, name).await,
        several => {
            let filter = Filter { of: Some(name.clone()), most: 20, ..Filter::default() };
            lines(out, &jobs::list(pool, &filter, kinds::names()).await?)?;
            bail!("{} jobs go by the name of {name}; name one by its number", several.len())
        }
    }
}

fn number(name: &str) -> Option<i64> {
    name.parse().ok().filter(|_| name.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Digits are a job's number and nothing else: a slip of the pen must not act on the job of a user or a grant that is called so.
async fn numbered(out: Out, pool: &PgPool, name: &str, number: i64) -> anyhow::Result<JobRow> {
    if let Some(job) = jobs::look_at(pool, number).await? {
        return Ok(job);
    }
    if let Some(over) = retention::over(pool, None, name).await? {
        bail!("{}", was_done(&over));
    }
    let filter = Filter { of: Some(name.to_owned()), most: 20, ..Filter::default() };
    let mut others = jobs::list(pool, &filter, kinds::names()).await?;
    others.extend(pruned(pool, &filter, 20).await?);
    if others.is_empty() {
        return none_there(out, pool, name).await;
    }
    lines(out, &others)?;
    bail!(
        "there is no job with the number {name}; jobs that know {name} as an id or as somebody's name are above: \
         name one by its own number, or by kind and id"
    )
}

/// Why no job of this name is there: it was pruned, or is to come, or never was.
async fn none_there(out: Out, pool: &PgPool, name: &str) -> anyhow::Result<JobRow> {
    let over = retention::known(pool, name, kinds::names(), 20).await?;
    match over.as_slice() {
        [one] => bail!("{}", was_done(one)),
        [] => match jobs::granted(pool, name).await? {
            Some(granted) => bail!("there is no job yet. {}", explain::explain_grant(&granted)),
            None => {
                bail!("nothing goes by the name of {name}: no job, user, grant, trade, source of points or public id")
            }
        },
        several => {
            let count = several.len();
            lines(out, &over.into_iter().map(line_of).collect::<Vec<_>>())?;
            bail!("{count} jobs go by the name of {name}, all of them done and pruned; name one by its number")
        }
    }
}

#[derive(Serialize)]
struct RequestedAct {
    job: i64,
    act: &'static str,
    /// A second person must confirm it.
    proposal: Option<i64>,
}

async fn act(out: Out, args: &JobAct, act: Act) -> anyhow::Result<()> {
    let pool = db::connect(args.job.database.url()?, Role::Operator, 1).await?;
    let job = find(out, &args.job, &pool).await?;
    if let Some(why) = explain::refusal(&job, act) {
        bail!("{why}");
    }
    let proposal = jobs::ask(&pool, job.id, job.step, act, &args.reason).await?;
    out.one(&RequestedAct { job: job.id, act: act.name(), proposal }, |requested| match act {
        _ if let Some(number) = requested.proposal => {
            proposed(number, &format!("that job {} is to {}", requested.job, requested.act))
        }
        Act::Dismiss => format!("job {} is dismissed: nothing was called for it, and nothing will be", requested.job),
        Act::Acknowledge => {
            format!(
                "job {} is acknowledged: it stays where it is, and no alert counts it until it is parked anew",
                requested.job
            )
        }
        Act::Retry
        | Act::Inquire
        | Act::Cancel
        | Act::AttestVoid
        | Act::Reissue
        | Act::Reject
        | Act::AttestDone
        | Act::Rerun
        | Act::Adopt => {
            format!(
                "job {} was asked to {}; `noshi job show {}` tells what came of it",
                requested.job, requested.act, requested.job
            )
        }
    })
}
