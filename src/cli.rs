//! The commands, noun first. Usage errors end with status 2, failures with 1.

mod batch;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context, bail};
use clap::{Args, Parser, Subcommand};
use secrecy::ExposeSecret;

use crate::{
    bench,
    chaos::crash_point,
    demo,
    engine::Pace,
    metrics,
    settings::Settings,
    simulator,
    store::{self, Role},
    vault,
    worker::{End, Worker},
};

#[derive(Parser)]
#[command(name = "noshi", version, about, propagate_version = true, arg_required_else_help = true)]
pub struct Cli {
    /// The configuration file; secrets are in files that it names.
    #[arg(long, env = "NOSHI_CONFIG", global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Demo(demo::DemoArgs),
    /// Worker processes.
    #[command(subcommand)]
    Worker(WorkerCommand),
    /// The schema.
    #[command(subcommand)]
    Migrate(MigrateCommand),
    /// Files of grants.
    #[command(subcommand)]
    Batch(batch::BatchCommand),
    /// Rate budgets: see, pause and open them.
    #[command(subcommand)]
    Lane(LaneCommand),
    /// The keys that seal gift codes and recipients.
    #[command(subcommand)]
    Vault(VaultCommand),
    /// Plays the gift providers on this machine, with faults and a ledger.
    Simulate(simulator::SimulateArgs),
    /// Measures steps, jobs and pickup beside the floor, on a private server.
    Bench(bench::BenchArgs),
}

#[derive(Args)]
pub struct Database {
    /// The database, as a URL.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, value_name = "URL")]
    database_url: Option<String>,
}

impl Database {
    pub fn url(&self) -> anyhow::Result<&str> {
        self.database_url
            .as_deref()
            .context("no database is named; set DATABASE_URL, such as postgres://noshi@localhost/noshi")
    }
}

#[derive(Subcommand)]
enum WorkerCommand {
    /// Claims and runs jobs until it is told to stop; a second signal ends it at once.
    Run(WorkerRun),
}

#[derive(Args)]
struct WorkerRun {
    #[command(flatten)]
    database: Database,
    /// A name for people; every start is a new worker.
    #[arg(long, default_value = "worker")]
    name: String,
    /// Jobs in hand at once.
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u16).range(1..=4096))]
    slots: u16,
    /// Milliseconds of silence after which the worker may be declared dead.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(500..))]
    lease_ms: u64,
    /// Milliseconds between looks at an idle lane, when no hint comes.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(10..))]
    poll_ms: u64,
    /// Milliseconds that a graceful stop waits for steps in flight.
    #[arg(long, default_value_t = 30_000)]
    grace_ms: u64,
    /// Do not LISTEN: polling alone.
    #[arg(long)]
    no_listen: bool,
    /// Serve /metrics here.
    #[arg(long, value_name = "ADDRESS")]
    metrics: Option<SocketAddr>,
    /// End at once when standard input ends: whoever holds its other end is gone.
    #[arg(long, hide = true)]
    exit_with_parent: bool,
}

#[derive(Subcommand)]
enum MigrateCommand {
    /// Brings the schema up to date.
    Up(Database),
}

#[derive(Subcommand)]
enum LaneCommand {
    /// Every lane: open or why not, its budgets, its oldest waiting job.
    List(Database),
    /// Stops all calls of a lane; its jobs wait, untouched.
    Pause(LaneName),
    /// Opens a lane that was paused, throttled, or closed for funds or credentials.
    Resume(LaneName),
}

#[derive(Args)]
struct LaneName {
    /// Such as gift/tango_card.
    lane: String,
    #[command(flatten)]
    database: Database,
}

#[derive(Subcommand)]
enum VaultCommand {
    /// Prints a new key line; put it first in the key file.
    NewKey,
    /// Seals everything again under the first key of the file; safe to interrupt and to repeat.
    Rotate(Database),
}

pub async fn run(cli: Cli) -> anyhow::Result<()> {
    let settings = Settings::read(cli.config.as_deref())?;
    match cli.command {
        Command::Demo(args) => match demo::run(args, stop_signal()).await? {
            demo::End::Sound => Ok(()),
            demo::End::Interrupted => {
                eprintln!("noshi: interrupted; nothing is left behind");
                std::process::exit(130)
            }
        },
        Command::Worker(WorkerCommand::Run(args)) => run_worker(&settings, args).await,
        Command::Migrate(MigrateCommand::Up(database)) => store::migrate(database.url()?).await,
        Command::Batch(command) => batch::run(&settings, command).await,
        Command::Lane(command) => lane(command).await,
        Command::Vault(VaultCommand::NewKey) => {
            println!("{}", vault::generate_key_line().expose_secret());
            Ok(())
        }
        Command::Vault(VaultCommand::Rotate(database)) => rotate(&settings, database.url()?).await,
        Command::Simulate(args) => simulator::run(args).await,
        Command::Bench(args) => bench::run(args).await,
    }
}

async fn run_worker(settings: &Settings, args: WorkerRun) -> anyhow::Result<()> {
    if args.exit_with_parent {
        exit_with_parent();
    }
    let pace = Pace {
        slots: args.slots.into(),
        lease: Duration::from_millis(args.lease_ms),
        poll: Duration::from_millis(args.poll_ms),
        grace: Duration::from_millis(args.grace_ms),
        listen: !args.no_listen,
    };
    let gifts = settings.gifts()?;
    // Before the first claim, so that every job is counted.
    let figures = match args.metrics {
        Some(listen) => Some((listen, metrics::install(gifts.names())?)),
        None => None,
    };
    let worker = Worker::start(args.database.url()?, &args.name, gifts, pace).await?;
    if let Some((listen, recorder)) = figures {
        let address = worker.serve_metrics(listen, recorder).await?;
        tracing::info!(%address, "serving /metrics");
    }
    match worker.run_until(stop_signal()).await {
        End::Stopped => Ok(()),
        End::DeclaredDead => bail!("this worker was declared dead; its jobs are taken over by others"),
    }
}

/// The kernel closes the pipe however its holder ends, SIGKILL included.
fn exit_with_parent() {
    std::thread::spawn(|| {
        // An error is an end as well.
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        std::process::exit(0);
    });
}

/// The first SIGINT or SIGTERM; a second one ends the process at once.
async fn stop_signal() {
    signal().await;
    tokio::spawn(async {
        signal().await;
        tracing::warn!("a second signal: ending at once; what was in flight is in doubt and will be resolved");
        std::process::exit(130);
    });
}

async fn signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! { _ = terminate.recv() => {} _ = interrupt.recv() => {} }
}

async fn lane(command: LaneCommand) -> anyhow::Result<()> {
    let (name, resume) = match command {
        LaneCommand::List(database) => return list_lanes(database.url()?).await,
        LaneCommand::Pause(name) => (name, false),
        LaneCommand::Resume(name) => (name, true),
    };
    let pool = store::connect(name.database.url()?, Role::Operator, 1).await?;
    let found = if resume {
        store::lanes::resume(&pool, &name.lane).await?
    } else {
        store::lanes::pause(&pool, &name.lane).await?
    };
    if !found {
        bail!("there is no lane `{}`; `noshi lane list` shows them", name.lane);
    }
    println!("{} is {}", name.lane, if resume { "open" } else { "paused" });
    Ok(())
}

async fn list_lanes(url: &str) -> anyhow::Result<()> {
    let pool = store::connect(url, Role::Operator, 1).await?;
    println!("{:<28} {:<28} {:<32} OLDEST WAITING", "LANE", "STATE", "BUDGETS");
    for lane in store::lanes::list(&pool).await? {
        let state = match (lane.paused, lane.closed_code, lane.closed_for) {
            (true, ..) => "paused".to_owned(),
            (false, Some(code), _) => format!("closed: {code}"),
            (false, None, Some(time)) => format!("throttled for {} s", time.as_secs()),
            (false, None, None) => "open".to_owned(),
        };
        let name = if lane.name.is_empty() { "(no call)" } else { &lane.name };
        let oldest = lane.oldest_available.map_or("–".to_owned(), |age| format!("{} s", age.as_secs()));
        println!("{name:<28} {state:<28} {:<32} {oldest}", lane.budgets);
    }
    Ok(())
}

async fn rotate(settings: &Settings, url: &str) -> anyhow::Result<()> {
    let keys = settings.vault()?;
    let pool = store::connect(url, Role::Login, 1).await?;
    let mut rewrapped = 0;
    loop {
        let mut transaction = pool.begin().await?;
        let Some(rows) = store::facts::sealed_under_another_key(&mut transaction, keys.current_key()).await? else {
            println!("{rewrapped} sealed values are now under the key {}", keys.current_key());
            return Ok(());
        };
        for mut row in rows {
            let place = vault::Place { grant: &row.grant, provider: &row.provider, column: &row.what };
            row.sealed =
                keys.rewrap(&place, &row.sealed).with_context(|| format!("the {} of {}", row.what, row.subject))?;
            store::facts::replace_sealed(&mut transaction, &row).await?;
            rewrapped += 1;
        }
        crash_point("rotate.before_commit");
        transaction.commit().await?;
        crash_point("rotate.after_commit");
    }
}

/// JSON logs on standard error; `NOSHI_LOG` chooses what is logged. Only our own fields are ever logged, never a request or a body.
pub fn start_logging(cli: &Cli) {
    let usual = match cli.command {
        // Its progress stands on standard error, and its workers log to files.
        Command::Demo(_) => "error",
        Command::Worker(_)
        | Command::Migrate(_)
        | Command::Batch(_)
        | Command::Lane(_)
        | Command::Vault(_)
        | Command::Simulate(_)
        | Command::Bench(_) => "noshi=info,warn",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_env("NOSHI_LOG").unwrap_or_else(|_| usual.into());
    tracing_subscriber::fmt().json().with_env_filter(filter).with_writer(std::io::stderr).init();
}
