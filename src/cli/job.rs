//! `noshi job`: one job, seen and acted upon.

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use noshi_jobs::machine::Act;

use super::Database;
use crate::{
    acts::allowed,
    store::{
        self, Role,
        operate::{self, Seen},
    },
};

#[derive(Subcommand)]
pub enum JobCommand {
    /// Where a job stands, what may be done to it, and the end of its journal.
    Show(JobName),
    /// Asks for an act that the job's state table allows; a worker carries it out.
    Act(JobAct),
}

#[derive(Args)]
pub struct JobName {
    /// Such as store_creation.
    kind: String,
    /// The job's own id, such as org-1/shibuya-01/7.
    id: String,
    #[command(flatten)]
    database: Database,
}

#[derive(Args)]
pub struct JobAct {
    #[command(flatten)]
    job: JobName,
    /// One of those that `noshi job show` names.
    #[arg(long, value_parser = parse_act)]
    act: Act,
    /// For the journal: why, and on what evidence.
    #[arg(long)]
    reason: String,
}

fn parse_act(name: &str) -> Result<Act, String> {
    Act::from_name(name).ok_or_else(|| format!("there are {}", Act::ALL.map(Act::name).join(", ")))
}

pub async fn run(command: JobCommand) -> anyhow::Result<()> {
    match command {
        JobCommand::Show(name) => show(&name).await,
        JobCommand::Act(args) => act(&args).await,
    }
}

async fn find(name: &JobName, pool: &sqlx::PgPool) -> anyhow::Result<Seen> {
    let seen = operate::look(pool, &name.kind, &name.id).await?;
    seen.with_context(|| format!("there is no {} with the id {}", name.kind, name.id))
}

fn names(acts: &[Act]) -> String {
    match acts {
        [] => "nothing".to_owned(),
        acts => acts.iter().map(|act| act.name()).collect::<Vec<_>>().join(", "),
    }
}

async fn show(name: &JobName) -> anyhow::Result<()> {
    let pool = store::connect(name.database.url()?, Role::Operator, 1).await?;
    let job = find(name, &pool).await?;
    let way = if job.undo.is_some() { ", being taken back" } else { "" };
    println!("job {}: {} {}, {} at {}{way}", job.id, job.kind, job.key, job.status, job.at);
    println!("  asked for: {}", job.args);
    if let Some(state) = &job.state {
        println!("  stands:    {state}");
    }
    if job.unsure {
        println!("  IN DOUBT:  a call was made, and whether it took effect is not known");
    }
    if let Some(code) = &job.code {
        println!("  code:      {code} (ops/runbook/{code}.md) {}", job.detail.as_deref().unwrap_or_default());
    }
    if let Some(outcome) = &job.outcome {
        println!("  outcome:   {outcome}");
    }
    if !job.lane.is_empty() {
        println!("  lane:      {}", job.lane);
    }
    if job.status == "scheduled" || job.status == "retryable" {
        match job.due_in {
            seconds if seconds >= 1e9 => println!("  due:       when its batch is resumed"),
            seconds => println!("  due:       in {} s", seconds.max(0.0).round()),
        }
    }
    match &job.asked {
        Some(asked) => println!("  asked:     {asked}, to be carried out by the next worker"),
        None => println!("  you may:   {}", names(&allowed(&job.kind, job.state.as_ref(), job.undo.as_ref()))),
    }
    println!("  journal:");
    for line in operate::journal(&pool, job.id, 30).await? {
        let words = [line.became, line.outcome, line.code, line.detail, line.worker.map(|it| format!("worker {it}"))];
        let words: Vec<String> = words.into_iter().flatten().collect();
        println!("    {} {:<12} {}", line.when.format("%Y-%m-%d %H:%M:%S%.3f"), line.event, words.join(", "));
    }
    Ok(())
}

async fn act(args: &JobAct) -> anyhow::Result<()> {
    let pool = store::connect(args.job.database.url()?, Role::Operator, 1).await?;
    let job = find(&args.job, &pool).await?;
    let may = allowed(&job.kind, job.state.as_ref(), job.undo.as_ref());
    if !may.contains(&args.act) {
        let (act, at) = (args.act.name(), &job.at);
        bail!("{act} is not allowed where this job stands ({} at {at}); you may: {}", job.status, names(&may));
    }
    operate::ask(&pool, job.id, job.step, args.act, &args.reason).await?;
    println!("asked for {}; `noshi job show {} {}` tells what came of it", args.act.name(), job.kind, job.key);
    Ok(())
}
