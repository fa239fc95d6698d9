//! `noshi worker`: the processes that do the work.

use std::{net::SocketAddr, time::Duration};

use anyhow::bail;
use clap::{Args, Subcommand};

use super::{Database, out::Out, stop_signal};
use crate::{
    engine::Pace,
    explain::seconds,
    metrics,
    settings::Settings,
    store::{self, Role},
    worker::{End, Worker},
};

#[derive(Subcommand)]
pub enum WorkerCommand {
    /// The workers that are alive, and the last that were.
    List(Database),
    /// Claims and runs jobs until it is told to stop; a second signal ends it at once.
    Run(WorkerRun),
}

#[derive(Args)]
pub struct WorkerRun {
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

pub async fn run(settings: &Settings, out: Out, command: WorkerCommand) -> anyhow::Result<()> {
    match command {
        WorkerCommand::List(database) => {
            let pool = store::connect(database.url()?, Role::Operator, 1).await?;
            out.list(
                &store::operate::workers(&pool).await?,
                &[
                    ("WORKER", |worker| worker.id.to_string()),
                    ("NAME", |worker| worker.name.clone()),
                    ("STATUS", |worker| worker.status.clone()),
                    ("STARTED", |worker| worker.started_at.format("%Y-%m-%d %H:%M:%S").to_string()),
                    ("HEARD", |worker| format!("{} ago", seconds(worker.seen_ago))),
                    ("IN HAND", |worker| worker.in_hand.to_string()),
                ],
            )
        }
        WorkerCommand::Run(args) => run_worker(settings, args).await,
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
    // Before the first claim, so that the earliest signal is heard.
    let stop = stop_signal();
    let partners = settings.partners()?;
    // Before the first claim, so that every job is counted.
    let figures = match args.metrics {
        Some(listen) => {
            Some((listen, metrics::install(partners.gifts.names(), partners.mails.name(), partners.stores.calls())?))
        }
        None => None,
    };
    let worker = Worker::start(args.database.url()?, &args.name, partners, pace).await?;
    if let Some((listen, recorder)) = figures {
        let address = worker.serve_metrics(listen, recorder).await?;
        tracing::info!(%address, "serving /metrics");
    }
    match worker.run_until(stop).await {
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
