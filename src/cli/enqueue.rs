//! `noshi job enqueue`: asks for a job from the terminal, and waits for what comes of it.

use std::{fs::File, io::BufReader, path::PathBuf, time::Duration};

use anyhow::{Context, bail};
use clap::{Args, ValueHint};
use noshi_jobs::KindName;
use serde_json::{json, value::RawValue};

use super::{Database, names, out::Out};
use crate::{
    basics::{
        kinds, requests,
        terminal::progress::{self, Progress},
    },
    db::{self, PgPool, Role, enqueue, operator::jobs, queue::retention},
    intake::{Encoding, Fault, Rejected, own},
    operator::explain,
    settings::Settings,
    vault::contact::sealed_args,
};

/// Between two looks at a job that is waited for.
const BETWEEN_LOOKS: Duration = Duration::from_millis(250);

#[derive(Args)]
pub struct JobEnqueue {
    #[arg(value_name = "KIND", value_parser = names::kind())]
    kind: KindName,
    /// Your own stable id, 1 to 200 bytes: the same id with the same arguments is the same job.
    #[arg(long)]
    id: String,
    /// The kind's arguments, an object.
    #[arg(long, value_name = "JSON", value_parser = read, value_hint = ValueHint::Other)]
    args: Box<RawValue>,
    /// Before all bulk work, as where a person waits.
    #[arg(long)]
    first: bool,
    /// Wait until it is over, or asks for a person. Status 0: completed; 1: failed or cancelled; 4: it asks for a person. The login must
    /// be an operator's too.
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    database: Database,
}

#[derive(Args)]
pub struct JobSubmit {
    #[arg(value_name = "KIND", value_parser = names::kind())]
    kind: KindName,
    /// CSV with a column for each of its arguments, as `noshi kind show` names them.
    #[arg(value_hint = ValueHint::FilePath)]
    file: PathBuf,
    #[arg(long, value_enum, default_value = "utf-8")]
    encoding: Encoding,
    #[command(flatten)]
    database: Database,
}

/// As it is written: the database reads numbers to their last digit.
fn read(text: &str) -> Result<Box<RawValue>, String> {
    match serde_json::from_str::<Box<RawValue>>(text) {
        Ok(args) if args.get().starts_with('{') => Ok(args),
        Ok(_) => Err("this is no object".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// It is not over, and goes on only when a person has looked: a status of its own.
#[derive(Debug, thiserror::Error)]
#[error("job {0} waits for a person; `noshi job explain {0}` tells why, and what may be done")]
pub struct NeedsOperator(i64);

impl NeedsOperator {
    pub const STATUS: u8 = 4;
}

pub async fn run(
    settings: impl Fn() -> anyhow::Result<Settings>,
    out: Out,
    mut asked: JobEnqueue,
) -> anyhow::Result<()> {
    let Some(kind) = kinds::get(asked.kind.name()) else { bail!("there is no such kind") };
    if let Err((field, said)) = requests::reads(kind, asked.args.get()) {
        let place = if field == "." { "args".to_owned() } else { format!("args.{field}") };
        bail!("{place}: {said}; nothing was asked for");
    }
    if let Some(sealed) = sealed_args(asked.kind, &asked.args, || settings()?.sealer())? {
        asked.args = sealed;
    }
    let url = asked.database.url()?;
    // Whoever may not look is told so before anything is asked for.
    let looks = if asked.wait { Some(db::connect(url, Role::Operator, 1).await?) } else { None };
    let pool = db::connect(url, Role::Producer, 1).await?;
    let mut connection = pool.acquire().await?;
    let JobEnqueue { id, args, .. } = asked;
    let rows = [(id.clone(), args)];
    let jobs = enqueue::enqueue(&mut connection, asked.kind, &rows, false).await?;
    let Some(job) = jobs.first().copied() else { bail!("the database told no number; say the same again") };
    let Some(looks) = looks else {
        return out.one(&json!({"job": job, "kind": asked.kind.name(), "id": id}), |_| {
            format!("job {job}: {} {id} is asked for; `noshi job show {job}` tells how far it is", asked.kind.name())
        });
    };
    progress::keep(format!("job {job} goes on without you; `noshi job show {job}` tells how far it is"));
    wait(out, &looks, job).await
}

/// Rows that one statement takes: it ends long before its timeout.
const AT_ONCE: usize = 5_000;

pub async fn submit(out: Out, asked: JobSubmit) -> anyhow::Result<()> {
    let Some(kind) = kinds::get(asked.kind.name()) else { bail!("there is no such kind") };
    let file = &asked.file;
    let columns = own::columns(kind).map_err(anyhow::Error::msg)?;
    let name = file.display().to_string();
    let input = File::open(file).with_context(|| format!("cannot open {name}"))?;
    let rejected = |faults| Rejected { file: name.clone(), faults };
    let own::Requests { rows, lines } =
        own::read(kind, &columns, asked.encoding, BufReader::new(input)).map_err(rejected)?;
    let pool = db::connect(asked.database.url()?, Role::Producer, 1).await?;
    let mut transaction = pool.begin().await?;
    let mut progress = Progress::begin("asking for jobs", Some(rows.len() as u64));
    for (rows, lines) in rows.chunks(AT_ONCE).zip(lines.chunks(AT_ONCE)) {
        match enqueue::enqueue(&mut transaction, asked.kind, rows, false).await {
            Ok(_) => progress.advance(rows.len() as u64),
            Err(error) => bail!(match of_a_line(&error.to_string(), lines) {
                Some(fault) => anyhow::Error::from(rejected(vec![fault])),
                None => error.into(),
            }),
        }
    }
    transaction
        .commit()
        .await
        .context("whether they were asked for is not known; say the same again, which asks for none twice")?;
    drop(progress);
    let count = rows.len();
    out.one(&json!({"kind": asked.kind.name(), "rows": count}), |_| {
        format!(
            "{name}: {count} jobs of {} are asked for; each id is one job, however often the file is given",
            asked.kind
        )
    })
}

/// What the database says of a row, at the line of the file.
fn of_a_line(said: &str, lines: &[u64]) -> Option<Fault> {
    let (number, sentence) = said.strip_prefix("row ")?.split_once(": ")?;
    let line = *lines.get(number.parse::<usize>().ok()?.checked_sub(1)?)?;
    Some(Fault { line, field: None, sentence: sentence.to_owned() })
}

async fn wait(out: Out, pool: &PgPool, job: i64) -> anyhow::Result<()> {
    let mut progress = Progress::begin(format!("waiting for job {job}"), None);
    loop {
        let Some(seen) = jobs::look_at(pool, job).await? else {
            drop(progress);
            return pruned(out, pool, job).await;
        };
        if !matches!(seen.status.as_str(), "completed" | "failed" | "cancelled" | "needs_operator") {
            progress.say(&format!("job {job}: {} at {}", seen.status, seen.at));
            progress.advance(0);
            tokio::time::sleep(BETWEEN_LOOKS).await;
            continue;
        }
        drop(progress);
        let why = explain::explain(&seen).why;
        let answer = json!({"job": job, "status": seen.status, "at": seen.at, "outcome": seen.outcome, "code": seen.code, "why": why});
        out.one(&answer, |_| format!("job {job}: {} at {}\n  {why}", seen.status, seen.at))?;
        return match seen.status.as_str() {
            "completed" => Ok(()),
            "needs_operator" => Err(NeedsOperator(job).into()),
            over => bail!("job {job} is {over}"),
        };
    }
}

/// The same request as long ago, done since and moved out.
async fn pruned(out: Out, pool: &PgPool, job: i64) -> anyhow::Result<()> {
    let Some(over) = retention::over(pool, None, &job.to_string()).await? else {
        bail!("job {job} is not there any more, and nothing is kept of it")
    };
    out.one(&over, explain::was_done)?;
    match over.status.as_str() {
        "completed" => Ok(()),
        status => bail!("job {job} was {status}"),
    }
}
