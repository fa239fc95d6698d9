//! The commands, noun first. Usage errors end with status 2, failures with 1.

mod ago;
mod api;
mod audit;
mod batch;
pub mod configuration;
mod doctor;
mod job;
mod lane;
mod migrate;
pub mod out;
mod pages;
mod points;
mod prune;
mod redrive;
mod restored;
mod schedule;
mod token;
mod vault;
mod worker;

use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use tokio::signal::unix::{Signal, SignalKind, signal};

use tracing_subscriber::{
    EnvFilter, Layer,
    filter::{FilterExt, filter_fn},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use crate::{
    bench, demo, logs,
    settings::{Settings, environment},
    simulator, traces,
};

#[derive(Parser)]
#[command(name = "noshi", version, about, propagate_version = true, arg_required_else_help = true)]
pub struct Cli {
    /// The configuration file; secrets are in files that it names.
    #[arg(long, env = "NOSHI_CONFIG", global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// What is logged, such as `info` or `noshi=debug,warn`.
    #[arg(long, env = "NOSHI_LOG", global = true, value_name = "FILTER", value_parser = parse_filter)]
    log: Option<EnvFilter>,
    /// How it is logged: `json` or `text`. Left out: text where standard error is a terminal, which a person reads; JSON elsewhere.
    #[arg(long, env = "NOSHI_LOG_FORMAT", global = true, value_enum, value_name = "FORMAT")]
    log_format: Option<logs::Format>,
    /// How to answer.
    #[arg(short, long, global = true, value_enum, default_value = "table", value_name = "FORMAT")]
    output: out::Out,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Demo(demo::DemoArgs),
    /// Worker processes.
    #[command(subcommand)]
    Worker(worker::WorkerCommand),
    /// The HTTP room that takes events from other systems.
    #[command(subcommand)]
    Api(api::ApiCommand),
    /// The schema.
    #[command(subcommand)]
    Migrate(migrate::MigrateCommand),
    /// Files of grants and of stores.
    #[command(subcommand)]
    Batch(batch::BatchCommand),
    /// Jobs: found, explained, and acted upon.
    #[command(subcommand)]
    Job(job::JobCommand),
    Redrive(redrive::RedriveCommand),
    /// Who did what to what, and why.
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Rate budgets: see, pause and open them.
    #[command(subcommand)]
    Lane(lane::LaneCommand),
    /// Recurring jobs: see, set, pause and trigger them.
    #[command(subcommand)]
    Schedule(schedule::ScheduleCommand),
    /// Whether everything is here that the promises rest on, and how to mend what is not.
    Doctor(doctor::DoctorArgs),
    /// Moves out jobs that were over long ago; the fleet does so by itself. A late duplicate is still known.
    Prune(prune::PruneArgs),
    /// Points: what users own, how it came about, and whether the books hold.
    #[command(subcommand)]
    Points(points::PointsCommand),
    /// After the database was restored to an earlier point.
    #[command(subcommand)]
    Restored(restored::RestoredCommand),
    /// How long what is over is kept.
    #[command(subcommand)]
    Retention(prune::RetentionCommand),
    /// The keys that seal gift codes and recipients.
    #[command(subcommand)]
    Vault(vault::VaultCommand),
    /// Who may use the HTTP interface, and for what.
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Plays the gift providers on this machine, with faults and a ledger.
    Simulate(simulator::SimulateArgs),
    /// Prints the completions of a shell, to be sourced by it.
    Completions {
        shell: clap_complete::Shell,
    },
    /// Prints the manual page, or writes one for each command.
    Man(pages::ManArgs),
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

pub async fn run(cli: Cli) -> anyhow::Result<()> {
    // Only by those that use it: a broken file must not stop the demo.
    let settings = || Settings::read_with(cli.config.as_deref(), environment::variables());
    let out = cli.output;
    match cli.command {
        Command::Demo(args) => match demo::run(args, stop_signal()).await? {
            demo::End::Sound => Ok(()),
            demo::End::Interrupted => {
                eprintln!("noshi: interrupted; nothing is left behind");
                std::process::exit(130)
            }
        },
        Command::Worker(command) => worker::run(settings, out, command).await,
        Command::Api(command) => api::run(settings()?, command).await,
        Command::Batch(command) => batch::run(&settings()?, out, command).await,
        Command::Migrate(command) => migrate::run(out, command).await,
        Command::Job(command) => job::run(out, command).await,
        Command::Redrive(command) => redrive::run(out, command).await,
        Command::Audit(command) => audit::run(out, command).await,
        Command::Points(command) => points::run(out, command).await,
        Command::Lane(command) => lane::run(out, command).await,
        Command::Schedule(command) => schedule::run(out, command).await,
        Command::Doctor(args) => doctor::run(&settings(), out, args).await,
        Command::Prune(args) => prune::run(out, args).await,
        Command::Restored(command) => restored::run(out, command).await,
        Command::Retention(command) => prune::run_retention(out, command).await,
        Command::Vault(command) => vault::run(settings, command).await,
        Command::Token(command) => token::run(command, cli.output).await,
        Command::Simulate(args) => simulator::run(args).await,
        Command::Completions { shell } => {
            pages::completions(shell);
            Ok(())
        }
        Command::Man(args) => pages::manual(args),
        Command::Bench(args) => bench::run(args).await,
    }
}

fn parse_filter(text: &str) -> Result<EnvFilter, String> {
    EnvFilter::builder().parse(text).map_err(|error| error.to_string())
}

/// `noshi batch list | head`: a reader that went away has seen enough.
pub fn end_quietly_without_a_reader() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let said = panic.payload().downcast_ref::<String>().map(String::as_str).unwrap_or_default();
        if said.starts_with("failed printing to stdout: Broken pipe") {
            std::process::exit(0);
        }
        usual(panic);
    }));
}

/// Listens from now on. Resolves at the first SIGINT or SIGTERM; a second one ends the process at once.
fn stop_signal() -> impl Future<Output = ()> {
    let signals = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    async {
        let (Ok(mut terminate), Ok(mut interrupt)) = signals else { return std::future::pending().await };
        either(&mut terminate, &mut interrupt).await;
        tokio::spawn(async move {
            either(&mut terminate, &mut interrupt).await;
            tracing::warn!("a second signal: ending at once; what was in flight is in doubt and will be resolved");
            std::process::exit(130);
        });
    }
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! { _ = terminate.recv() => {} _ = interrupt.recv() => {} }
}

/// Logs go to standard error, and spans of jobs to a collector where one is named. Only our own fields are ever logged, never a request or a body.
pub fn start_logging(cli: &Cli) -> anyhow::Result<traces::Export> {
    let usual = match cli.command {
        // Its progress stands on standard error, and its workers log to files.
        Command::Demo(_) => "error",
        Command::Worker(_)
        | Command::Api(_)
        | Command::Migrate(_)
        | Command::Batch(_)
        | Command::Job(_)
        | Command::Redrive(_)
        | Command::Audit(_)
        | Command::Lane(_)
        | Command::Points(_)
        | Command::Schedule(_)
        | Command::Doctor(_)
        | Command::Prune(_)
        | Command::Restored(_)
        | Command::Retention(_)
        | Command::Vault(_)
        | Command::Token(_)
        | Command::Simulate(_)
        | Command::Completions { .. }
        | Command::Man(_)
        | Command::Bench(_) => "noshi=info,warn",
    };
    let filter = cli.log.clone().unwrap_or_else(|| usual.into());
    let lines = logs::Lines::to_standard_error(cli.log_format.unwrap_or_else(logs::Format::usual));
    let (spans, export) = traces::layer()?;
    // Some libraries write down what they sign with, and no filter of anybody's asks for that.
    let discreet = filter_fn(|about| !logs::is_indiscreet(about.target()));
    tracing_subscriber::registry()
        .with(spans.with_filter(discreet.clone()))
        .with(lines.with_filter(filter.and(discreet)))
        .init();
    Ok(export)
}
