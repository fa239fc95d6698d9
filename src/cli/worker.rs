//! `noshi worker`: the processes that do the work.

use std::net::SocketAddr;

use anyhow::bail;
use clap::{Args, Subcommand};

use super::{Database, out::Out, signals};
use crate::{
    app::{Begun, End},
    basics::{durations, instants},
    db::{self, Role},
    operator::explain::seconds,
    settings::{Settings, WorkerSettings},
    telemetry::metrics,
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
    /// A name for people; every start is a new worker (worker.name).
    #[arg(long)]
    name: Option<String>,
    /// Jobs in flight at once (worker.slots).
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=4096))]
    slots: Option<u16>,
    /// Milliseconds of silence after which the worker may be declared dead (worker.lease_ms).
    #[arg(long, value_name = "MILLISECONDS", value_parser = durations::millis_from(500))]
    lease_ms: Option<u64>,
    /// Milliseconds between looks at an idle lane, when no hint comes (worker.poll_ms).
    #[arg(long, value_name = "MILLISECONDS", value_parser = durations::millis_from(10))]
    poll_ms: Option<u64>,
    /// Milliseconds that a graceful stop waits for steps in flight (worker.grace_ms).
    #[arg(long, value_name = "MILLISECONDS", value_parser = durations::parse_millis)]
    grace_ms: Option<u64>,
    /// Milliseconds for which it says that it is not ready before it stops to claim (worker.unready_ms).
    #[arg(long, value_name = "MILLISECONDS", value_parser = durations::parse_millis)]
    unready_ms: Option<u64>,
    /// Do not LISTEN: polling alone (worker.listen).
    #[arg(long)]
    no_listen: bool,
    /// Serve /metrics, /livez and /readyz here (worker.metrics).
    #[arg(long, value_name = "ADDRESS")]
    metrics: Option<SocketAddr>,
    /// End at once when standard input ends: whoever holds its other end is gone.
    #[arg(long, hide = true)]
    exit_with_parent: bool,
}

impl WorkerCommand {
    /// See [`crate::cli::signals`].
    pub const fn serves(&self) -> bool {
        matches!(self, WorkerCommand::Run(_))
    }
}

impl WorkerRun {
    /// What is said here wins.
    fn over(&self, mut settings: WorkerSettings) -> WorkerSettings {
        settings.name = self.name.clone().unwrap_or(settings.name);
        settings.slots = self.slots.unwrap_or(settings.slots);
        settings.lease_ms = self.lease_ms.unwrap_or(settings.lease_ms);
        settings.poll_ms = self.poll_ms.unwrap_or(settings.poll_ms);
        settings.grace_ms = self.grace_ms.unwrap_or(settings.grace_ms);
        settings.unready_ms = self.unready_ms.unwrap_or(settings.unready_ms);
        settings.listen &= !self.no_listen;
        settings.metrics = self.metrics.or(settings.metrics);
        settings
    }
}

pub async fn run(
    app: Begun,
    settings: impl Fn() -> anyhow::Result<Settings> + Send + 'static,
    out: Out,
    command: WorkerCommand,
) -> anyhow::Result<()> {
    match command {
        WorkerCommand::List(database) => {
            let pool = db::connect(database.url()?, Role::Operator, 1).await?;
            out.list(
                "there is no worker, and there was none",
                &db::operator::jobs::workers(&pool).await?,
                &[
                    ("WORKER", |worker| worker.id.to_string()),
                    ("NAME", |worker| worker.name.clone()),
                    ("STATUS", |worker| worker.status.clone()),
                    ("STARTED", |worker| instants::show(worker.started_at)),
                    ("HEARD", |worker| format!("{} ago", seconds(worker.seen_ago))),
                    ("IN FLIGHT", |worker| worker.in_flight.to_string()),
                ],
            )
        }
        WorkerCommand::Run(args) => run_worker(app, settings, args).await,
    }
}

async fn run_worker(
    app: Begun,
    read: impl Fn() -> anyhow::Result<Settings> + Send + 'static,
    args: WorkerRun,
) -> anyhow::Result<()> {
    if args.exit_with_parent {
        exit_with_parent();
    }
    // Before the first claim, so that the earliest signal is heard.
    let (stop, hang_ups) = (signals::stop(), signals::hang_ups());
    let settings = read()?;
    let ours = args.over(settings.worker.clone());
    let pace = ours.pace()?;
    let opened = app.opened(&settings)?;
    let keys = settings.key_prints()?;
    // Before the first claim, so that every job is counted, and that no worker begins which nobody can watch.
    let metrics = match ours.metrics {
        Some(listen) => {
            let (listener, address) = metrics::bind(listen).await?;
            let partners = &opened.partners;
            let own: Vec<_> = opened.own().iter().map(|own| (own.name, own.ops, own.lane)).collect();
            let recorder =
                metrics::install(partners.gifts.names(), partners.mails.name(), partners.stores.calls(), &own)?;
            Some((listener, address, recorder))
        }
        None => None,
    };
    let worker = app.start(args.database.url()?, &ours.name, opened, pace).await?;
    if let Some((listener, address, recorder)) = metrics {
        worker.serve_metrics(listener, recorder);
        tracing::info!(%address, "serving /metrics");
    }
    let (renew, tell_keys) = (worker.renew(), worker.tell_keys());
    tell_keys(keys);
    signals::at_each(hang_ups, move || {
        let again = |settings: Settings| {
            renew(settings.partners()?)?;
            tell_keys(settings.key_prints()?);
            Ok(())
        };
        let read_again = read().and_then(again);
        signals::tell_read_again(&read_again);
        std::future::ready(())
    });
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
