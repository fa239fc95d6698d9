//! The commands, noun first. Usage errors end with status 2, failures with 1.

use std::{ffi::OsString, path::PathBuf};

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, ValueHint};

use tracing_subscriber::{
    EnvFilter, Layer,
    filter::{FilterExt, filter_fn},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use super::database::EVERYWHERE;
use crate::{
    app::Begun,
    basics::terminal,
    cli::{
        api, audit, batch, console, doctor, effect, enqueue, failure, given, job, kind,
        lab::{bench, demo, dev, simulator, starter},
        lane, migrate, out, pages, points, proposal, prune, redrive, restore, schedule, signals, token, vault, worker,
    },
    settings::{Settings, environment},
    telemetry::{logs, traces},
};

/// The version, and the commit that it was built from.
pub const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("BUILT_FROM_COMMIT"), ")");

#[derive(Parser)]
#[command(name = "noshi", version = VERSION, about, propagate_version = true, arg_required_else_help = true)]
pub struct Cli {
    /// The configuration file; secrets are in files that it names.
    #[arg(long, env = "NOSHI_CONFIG", global = true, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = EVERYWHERE)]
    config: Option<PathBuf>,
    /// What is logged, such as `info` or `noshi=debug,warn`.
    #[arg(long, env = "NOSHI_LOG", global = true, value_name = "FILTER", value_parser = parse_filter, help_heading = EVERYWHERE)]
    log: Option<EnvFilter>,
    /// How it is logged: `json` or `text`. Left out: text where standard error is a terminal, which a person reads; JSON elsewhere.
    #[arg(long, env = "NOSHI_LOG_FORMAT", global = true, value_enum, value_name = "FORMAT", help_heading = EVERYWHERE)]
    log_format: Option<logs::Format>,
    /// How to answer.
    #[arg(short, long, global = true, value_enum, default_value = "table", value_name = "FORMAT", help_heading = EVERYWHERE)]
    output: out::Out,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Demo(demo::DemoArgs),
    New(starter::NewArgs),
    Dev(dev::DevArgs),
    /// Worker processes.
    #[command(subcommand)]
    Worker(worker::WorkerCommand),
    /// The HTTP server, for producers, operators and webhooks.
    #[command(subcommand)]
    Api(api::ApiCommand),
    /// The browser view, for people.
    #[command(subcommand)]
    Console(console::ConsoleCommand),
    /// The schema.
    #[command(subcommand)]
    Migrate(migrate::MigrateCommand),
    /// Files of grants and of stores.
    #[command(subcommand)]
    Batch(batch::BatchCommand),
    /// Jobs: found, explained, and acted upon.
    #[command(subcommand)]
    Job(job::JobCommand),
    /// The kinds of job that this program has.
    #[command(subcommand)]
    Kind(kind::KindCommand),
    /// Effects that contracts declare, without a program of one's own.
    #[command(subcommand)]
    Effect(effect::EffectCommand),
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
    /// Whether everything is here that the promises rest on, and how to fix what is not.
    Doctor(doctor::DoctorArgs),
    /// Moves out jobs that were over long ago; the fleet does so by itself. A late duplicate is still known.
    Prune(prune::PruneArgs),
    /// Points: what users own, how it came about, and whether the books hold.
    #[command(subcommand)]
    Points(points::PointsCommand),
    /// What takes a person's word about money: proposed by one, confirmed by another.
    #[command(subcommand)]
    Proposal(proposal::ProposalCommand),
    /// After the database was restored to an earlier point.
    #[command(subcommand)]
    Restore(restore::RestoredCommand),
    /// How long ended jobs are kept.
    #[command(subcommand)]
    Retention(prune::RetentionCommand),
    /// The keys that seal gift codes, recipients and contacts of stores.
    #[command(subcommand)]
    Vault(vault::VaultCommand),
    /// Who may use the HTTP interface, and for what.
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Simulates the partners on this machine, with faults and a ledger.
    Simulate(simulator::SimulateArgs),
    /// Prints the completions of a shell, to be sourced by it.
    Completions {
        shell: clap_complete::Shell,
    },
    /// Prints the manual page, or writes one for each command.
    Man(pages::ManArgs),
    /// Measures steps, jobs and pickup beside the raw-SQL baseline, on a private server.
    Bench(bench::BenchArgs),
}

/// From now on a command that a person waits for has a last word. One that serves says itself what it does.
pub fn listen(cli: &Cli) {
    if !cli.command.serves() {
        signals::tell_what_is_kept(cli.output);
    }
}

pub async fn run(app: Begun, cli: Cli) -> anyhow::Result<()> {
    let config = cli.config.filter(|file| !file.as_os_str().is_empty());
    // Only by those that use it: a broken file must not stop the demo.
    let settings = move || Settings::read_with(config.as_deref(), environment::variables());
    let out = cli.output;
    match cli.command {
        Command::Demo(args) => match demo::run(args, out == out::Out::Json, signals::stop()).await? {
            demo::End::Sound => Ok(()),
            demo::End::Interrupted => {
                terminal::note!("noshi: interrupted; nothing is left behind");
                std::process::exit(130)
            }
        },
        Command::New(args) => {
            let folder = starter::run(&args)?;
            let next = format!("{folder} is made. Next: `cd {folder} && cargo test`, and its README.md");
            out.one(&serde_json::json!({"folder": folder}), |_| next)
        }
        Command::Dev(args) => dev::run(args, signals::stop()).await,
        Command::Worker(command) => worker::run(app, settings, out, command).await,
        Command::Api(command) => api::run(settings, command).await,
        Command::Console(command) => console::run(settings()?, command).await,
        Command::Batch(command) => batch::run(&settings()?, out, command).await,
        Command::Migrate(command) => migrate::run(out, command).await,
        Command::Job(command) => job::run(settings, out, command).await,
        Command::Kind(command) => kind::run(out, command),
        Command::Effect(command) => effect::run(settings, out, command).await,
        Command::Redrive(command) => redrive::run(out, command).await,
        Command::Audit(command) => audit::run(out, command).await,
        Command::Points(command) => points::run(out, command).await,
        Command::Lane(command) => lane::run(out, command).await,
        Command::Schedule(command) => schedule::run(out, command).await,
        Command::Doctor(args) => doctor::run(&settings(), out, args).await,
        Command::Prune(args) => prune::run(out, args).await,
        Command::Proposal(command) => proposal::run(out, command).await,
        Command::Restore(command) => restore::run(out, command).await,
        Command::Retention(command) => prune::run_retention(out, command).await,
        Command::Vault(command) => vault::run(settings, out, command).await,
        Command::Token(command) => token::run(command, out).await,
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

impl Cli {
    pub const fn output(&self) -> out::Out {
        self.output
    }
}

impl Command {
    /// It runs until it is told to stop, and says itself what it does then.
    const fn serves(&self) -> bool {
        match self {
            Command::Worker(command) => command.serves(),
            Command::Api(_)
            | Command::Console(_)
            | Command::Demo(_)
            | Command::Dev(_)
            | Command::Simulate(_)
            | Command::Bench(_) => true,
            Command::New(_)
            | Command::Migrate(_)
            | Command::Batch(_)
            | Command::Job(_)
            | Command::Kind(_)
            | Command::Effect(_)
            | Command::Redrive(_)
            | Command::Audit(_)
            | Command::Lane(_)
            | Command::Points(_)
            | Command::Schedule(_)
            | Command::Doctor(_)
            | Command::Prune(_)
            | Command::Proposal(_)
            | Command::Restore(_)
            | Command::Retention(_)
            | Command::Vault(_)
            | Command::Token(_)
            | Command::Completions { .. }
            | Command::Man(_) => false,
        }
    }
}

/// The command line, or the exit status of one that says nothing to be done: it was told why.
pub fn parse() -> Result<Cli, u8> {
    read(std::env::args_os()).map_err(|error| failure::tell_usage(&error, wanted_output()))
}

/// Reads a command line, and does nothing.
pub fn read<T: Into<OsString> + Clone>(arguments: impl IntoIterator<Item = T>) -> Result<Cli, clap::Error> {
    let mut command = Cli::command();
    let arguments: Vec<OsString> = arguments.into_iter().map(Into::into).collect();
    let matches = command
        .try_get_matches_from_mut(arguments.iter().cloned())
        .map_err(|error| given::no_text(&mut command, error, &arguments))?;
    given::check(&mut command, &matches)?;
    Cli::from_arg_matches(&matches)
}

/// How to answer where the command line cannot be read.
fn wanted_output() -> out::Out {
    // Bytes that are no text are no word that is looked for here.
    let words: Vec<String> = std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    let json = words.iter().any(|word| matches!(word.as_str(), "-ojson" | "-o=json" | "--output=json"))
        || words.windows(2).any(|two| matches!(two[0].as_str(), "-o" | "--output") && two[1] == "json");
    if json { out::Out::Json } else { out::Out::Table }
}

/// How the process ends. 0: done. 1: failed. 2: the command line cannot be read. 3: done, but the answer could not be written. 4: what was
/// waited for asks for a person.
pub fn status(ended: anyhow::Result<()>, out: out::Out) -> u8 {
    match (ended, terminal::unwritten()) {
        // Whoever read it has seen enough.
        (_, Some(_)) if terminal::is_unread() => 0,
        (_, Some(error)) => {
            let error = anyhow::anyhow!("{error}").context(
                "the command was carried out, but its answer could not be written; do not repeat an act because of that",
            );
            failure::tell(&error, out, terminal::NOT_SAID);
            terminal::NOT_SAID
        }
        (Ok(()), None) => 0,
        (Err(error), None) => {
            let status = if error.is::<enqueue::NeedsOperator>() { enqueue::NeedsOperator::STATUS } else { 1 };
            failure::tell(&error, out, status);
            status
        }
    }
}

/// Logs go to standard error, and spans of jobs to a collector where one is named. Only our own fields are ever logged, never a request or a body.
pub fn start_logging(cli: &Cli) -> anyhow::Result<traces::Export> {
    let usual = match cli.command {
        // Its progress stands on standard error, and its workers log to files.
        Command::Demo(_) => "error",
        Command::Worker(_)
        | Command::Api(_)
        | Command::Console(_)
        | Command::Dev(_)
        | Command::Simulate(_)
        | Command::Bench(_) => "noshi=info,warn",
        // A person waits for it, and needs no statements of the driver's.
        Command::New(_)
        | Command::Migrate(_)
        | Command::Batch(_)
        | Command::Job(_)
        | Command::Kind(_)
        | Command::Effect(_)
        | Command::Redrive(_)
        | Command::Audit(_)
        | Command::Lane(_)
        | Command::Points(_)
        | Command::Schedule(_)
        | Command::Doctor(_)
        | Command::Prune(_)
        | Command::Proposal(_)
        | Command::Restore(_)
        | Command::Retention(_)
        | Command::Vault(_)
        | Command::Token(_)
        | Command::Completions { .. }
        | Command::Man(_) => "noshi=info,warn,sqlx=off",
    };
    let filter = cli.log.clone().unwrap_or_else(|| usual.into());
    let lines = logs::Lines::to_standard_error(cli.log_format.unwrap_or_else(logs::Format::usual));
    let (spans, export) = traces::layer()?;
    let warnings = crate::db::notices::Warnings.with_filter(crate::db::notices::filter());
    // Some libraries write down what they sign with, and no filter of anybody's asks for that.
    let discreet = filter_fn(|about| !logs::is_indiscreet(about.target()));
    tracing_subscriber::registry()
        .with(spans.with_filter(discreet.clone()))
        .with(warnings)
        .with(lines.with_filter(filter.and(discreet)))
        .init();
    Ok(export)
}
