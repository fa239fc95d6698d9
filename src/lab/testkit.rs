//! What a job of one's own is tested with: its walk with the drawn tables, a database by one call, a worker of one's own program, and a
//! death at every point.

mod drawn;
mod proven;
mod reads;

use std::{
    collections::BTreeSet,
    path::PathBuf,
    process::{ExitStatus, Output, Stdio},
    time::Duration,
};

use anyhow::{Context, ensure};
use noshi_jobs::machine::Job;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    process::{Child, Command},
    time::{sleep, timeout},
};

use super::private_postgres::{PrivatePostgres, Settings};
use crate::db::{self, PgPool, Role};

pub use proven::{Proofs, Proven, Walk};

/// A job that is not at rest after so long is not coming to rest.
const REST: Duration = Duration::from_secs(60);
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);

/// A program with a database of its own, migrated by it.
pub struct Kit {
    program: PathBuf,
    settings: PathBuf,
    folder: TempDir,
    url: String,
    // Ends with the kit.
    _server: PrivatePostgres,
}

/// Where a job came to rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rest {
    pub job: i64,
    pub status: String,
    pub at: String,
    pub code: Option<String>,
}

/// What became of the deaths.
#[derive(Debug, Default)]
pub struct Deaths {
    /// Each point, such as `send.before@1`, at which a worker died.
    pub points: Vec<String>,
    /// What was not as it should be afterwards.
    pub violations: Vec<String>,
}

impl Kit {
    /// A private server, and on it a database that `program` has migrated; `settings` is the text of its noshi.toml.
    ///
    /// # Panics
    /// Where a kind of the program is not among the proofs.
    pub async fn start(program: impl Into<PathBuf>, settings: &str, proofs: &Proofs) -> anyhow::Result<Kit> {
        proofs.complete();
        let server = PrivatePostgres::start(Settings { durable: false, ..Settings::default() }).await?;
        server.create_database("own").await?;
        let folder = TempDir::new()?;
        let file = folder.path().join("noshi.toml");
        std::fs::write(&file, settings)?;
        let url = server.url("own");
        let kit = Kit { program: program.into(), settings: file, folder, url, _server: server };
        kit.run(&["migrate", "up"]).await?;
        Ok(kit)
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// As the owner, for looking.
    pub async fn connect(&self) -> anyhow::Result<PgPool> {
        db::connect(&self.url, Role::Login, 1).await
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments).env("DATABASE_URL", &self.url).env("NOSHI_CONFIG", &self.settings).kill_on_drop(true);
        command
    }

    /// A command of the program, whatever comes of it.
    pub async fn output(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        Ok(self.command(arguments).output().await?)
    }

    /// What a command of the program answers.
    pub async fn run(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let Output { status, stdout, stderr } = self.output(arguments).await?;
        ensure!(status.success(), "{}: {}", arguments.join(" "), String::from_utf8_lossy(&stderr));
        Ok(String::from_utf8_lossy(&stdout).into_owned())
    }

    /// A worker that notices the death of another soon. It ends when it is dropped.
    pub fn worker(&self, environment: &[(&str, &str)]) -> anyhow::Result<Child> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.folder.path().join("workers.log"))?;
        let mut command =
            self.command(&["worker", "run", "--lease-ms", "500", "--poll-ms", "50", "--grace-ms", "2000"]);
        command.envs(environment.iter().copied()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        Ok(command.spawn()?)
    }

    /// What the workers said, for the message of a test that fails.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("workers.log")).unwrap_or_default()
    }

    /// Asks for a job, as a producer does in SQL.
    pub async fn ask(&self, kind: &str, id: &str, args: &Value) -> anyhow::Result<i64> {
        const ASK: &str = "select noshi.enqueue($1, $2, $3)";
        let asked = sqlx::query_scalar(ASK).bind(kind).bind(id).bind(args);
        Ok(asked.fetch_one(&self.connect().await?).await?)
    }

    /// Waits until the job is over, or parked.
    pub async fn rest(&self, job: i64) -> anyhow::Result<Rest> {
        let pool = self.connect().await?;
        let resting = async {
            loop {
                if let Some(rest) = resting(&pool, job).await? {
                    return Ok(rest);
                }
                sleep(BETWEEN_LOOKS).await;
            }
        };
        timeout(REST, resting).await.with_context(|| format!("job {job} does not come to rest"))?
    }

    /// Runs a job once for each crash point that one passes, kills its worker there, lets another go on, and asks `judge` what came of it.
    ///
    /// `bug` is the name of a defence that is taken away, to see that it is missed.
    pub async fn deaths<P: Proven>(
        &self,
        bug: Option<&str>,
        judge: impl AsyncFn(&str, &Rest) -> Result<(), String>,
    ) -> anyhow::Result<Deaths> {
        let mut deaths = Deaths::default();
        let kind = <P::Job as Job>::KIND.name();
        let ask = |n| {
            let args = P::scene(n);
            let id = P::Job::id(&args).0;
            serde_json::to_value(&args).map(|args| (id, args))
        };
        let planted: Vec<(&str, &str)> = bug.map(|bug| ("NOSHI_BUG", bug)).into_iter().collect();
        let points = self.points(kind, &ask(0)?, &planted).await?;
        ensure!(!points.is_empty(), "no crash point is passed: are these debug builds, with the laboratory?");
        for (number, point) in points.iter().enumerate() {
            let (id, args) = ask(number + 1)?;
            let job = self.ask(kind, &id, &args).await?;
            let mut first = self.worker(&[planted.as_slice(), &[("NOSHI_CRASH", point)]].concat())?;
            let rest = self.death_or_rest(&mut first, job).await?;
            let rest = match rest {
                Some(rest) => {
                    stop(first).await?;
                    rest
                }
                None => {
                    deaths.points.push(point.clone());
                    let second = self.worker(&planted)?;
                    let rest = self.rest(job).await?;
                    stop(second).await?;
                    rest
                }
            };
            if let Err(violation) = judge(&id, &rest).await {
                deaths.violations.push(format!("{point}: {violation}"));
            }
        }
        Ok(deaths)
    }

    /// The crash points that a worker passes with one job.
    async fn points(
        &self,
        kind: &str,
        (id, args): &(String, Value),
        planted: &[(&str, &str)],
    ) -> anyhow::Result<Vec<String>> {
        let trace = self.folder.path().join("trace");
        let file = trace.to_string_lossy().into_owned();
        let job = self.ask(kind, id, args).await?;
        let worker = self.worker(&[planted, &[("NOSHI_CRASH_TRACE", &file)]].concat())?;
        self.rest(job).await?;
        stop(worker).await?;
        let mut seen = BTreeSet::new();
        let passed = std::fs::read_to_string(&trace).unwrap_or_default();
        Ok(passed.lines().filter(|point| seen.insert(*point)).map(str::to_owned).collect())
    }

    /// `None`: the worker died first.
    async fn death_or_rest(&self, worker: &mut Child, job: i64) -> anyhow::Result<Option<Rest>> {
        tokio::select! {
            biased;
            died = worker.wait() => {
                let died: ExitStatus = died?;
                ensure!(!died.success(), "a worker ended by itself");
                Ok(None)
            }
            rest = self.rest(job) => rest.map(Some),
        }
    }
}

async fn resting(pool: &PgPool, job: i64) -> anyhow::Result<Option<Rest>> {
    const RESTING: &str = "select status::text, at, code from noshi.job where id = $1 and status in ('completed', 'failed', 'cancelled', 'needs_operator')";
    let row: Option<(String, String, Option<String>)> = sqlx::query_as(RESTING).bind(job).fetch_optional(pool).await?;
    Ok(row.map(|(status, at, code)| Rest { job, status, at, code }))
}

/// Tells a worker to end in order. One that has ended meanwhile is not there to be told.
pub(super) fn terminate(worker: &Child) -> anyhow::Result<()> {
    let pid = worker.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    pid.map_or(Ok(()), |pid| Ok(kill_process(pid, Signal::TERM)?))
}

/// Lets a worker end in order; one that does not is killed.
async fn stop(mut worker: Child) -> anyhow::Result<()> {
    terminate(&worker)?;
    if timeout(Duration::from_secs(5), worker.wait()).await.is_err() {
        worker.kill().await?;
    }
    Ok(())
}
