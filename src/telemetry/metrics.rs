//! `/metrics`: labels from closed sets only, and every combination registered at 0, so that the first event raises an alert.

mod catalogue;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::Context;
use axum::{Router, extract::State, http::header, routing::get};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use noshi_jobs::{Problem, machine::Unfit, store_creation};
use tokio::net::TcpListener;
use tracing::Instrument;

use crate::{
    basics::kinds,
    db::{self, PgPool, operator::snapshot::OPEN_STATUSES},
    telemetry::{
        outcomes::{Answer, CallOutcome, JobOutcome},
        traces,
    },
};

pub use self::catalogue::{METRICS, Metric, Of, Type, page};

/// Between two looks at the fleet's samples.
const BETWEEN_LOOKS: Duration = Duration::from_secs(5);
/// From a local step to a call that hangs.
const SECONDS: [f64; 12] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
/// From a page that somebody waits for to a gift that its provider delivers the next day.
const LIFETIMES: [f64; 10] = [0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 3_600.0, 21_600.0, 86_400.0];
const GROUP_SIZES: [f64; 9] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

/// Makes one call for a step, in a span of its own, and counts what came of it.
pub async fn call<T: Answer>(provider: &'static str, op: &'static str, call: impl Future<Output = T>) -> T {
    let span = traces::call(provider, op);
    let answer = call.instrument(span.clone()).await;
    traces::came_to(&span, answer.outcome().name());
    count_call(provider, op, answer.outcome());
    answer
}

/// One call to a provider and what came of it.
pub fn count_call(provider: &'static str, op: &'static str, outcome: CallOutcome) {
    metrics::counter!("noshi_provider_requests_total", "provider" => provider, "op" => op, "outcome" => outcome.name())
        .increment(1);
}

/// Installs the recorder of this process and registers every series at 0. What is counted before is lost.
pub fn install(
    providers: impl Iterator<Item = &'static str>,
    mail_service: Option<&'static str>,
    platform: Option<(&'static str, [&'static str; 4])>,
    own: &[(&'static str, &'static [&'static str], &'static str)],
) -> anyhow::Result<PrometheusHandle> {
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Full("noshi_settle_group_size".to_owned()), &GROUP_SIZES)?
        .set_buckets_for_metric(Matcher::Full("noshi_job_duration_seconds".to_owned()), &LIFETIMES)?
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
        .install_recorder()
        .context("the metrics recorder is installed twice")?;
    catalogue::describe();
    metrics_process::Collector::default().describe();
    for kind in kinds::names().iter().copied() {
        metrics::counter!("noshi_steps_total", "kind" => kind).absolute(0);
        metrics::counter!("noshi_stale_settles_total", "kind" => kind).absolute(0);
        for outcome in JobOutcome::ALL.map(JobOutcome::name) {
            metrics::counter!("noshi_jobs_total", "kind" => kind, "outcome" => outcome).absolute(0);
        }
        for status in OPEN_STATUSES {
            metrics::gauge!("noshi_open_jobs", "kind" => kind, "status" => status).set(0.0);
        }
        drop(metrics::histogram!("noshi_job_duration_seconds", "kind" => kind));
    }
    for problem in Problem::known() {
        metrics::counter!("noshi_problems_total", "code" => problem.code()).absolute(0);
    }
    metrics::gauge!("noshi_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    for counter in [
        "noshi_jobs_pruned_total",
        "noshi_instants_drawn_back_total",
        "noshi_rescues_total",
        "noshi_timeline_changes_total",
        "noshi_commits_lost_total",
        "noshi_stuck_jobs_total",
        "noshi_schedule_fired_total",
        "noshi_schedule_skipped_total",
        "noshi_batch_equation_broken_total",
        "noshi_batches_settled_total",
        "noshi_redrive_jobs_asked_total",
        "noshi_redrive_jobs_drifted_total",
        "noshi_redrive_canary_pauses_total",
    ] {
        metrics::counter!(counter).absolute(0);
    }
    drop(metrics::histogram!("noshi_settle_group_size"));
    drop(metrics::histogram!("noshi_settle_seconds"));
    for provider in providers {
        register_calls(provider, &["issue", "inquire", "cancel", "refetch"], format!("gift/{provider}"));
    }
    if let Some(service) = mail_service {
        register_calls(service, &["send", "quota"], format!("email/{service}"));
    }
    if let Some((platform, ops)) = platform {
        register_calls(platform, &ops, store_creation::LANE.to_owned());
    }
    for (partner, ops, lane) in own {
        register_calls(partner, ops, (*lane).to_owned());
    }
    Ok(handle)
}

fn register_calls(provider: &'static str, ops: &[&'static str], lane: String) {
    for op in ops {
        for outcome in CallOutcome::ALL.map(CallOutcome::name) {
            metrics::counter!("noshi_provider_requests_total", "provider" => provider, "op" => *op, "outcome" => outcome)
                .absolute(0);
        }
    }
    for why in Unfit::ALL {
        metrics::gauge!("noshi_process_kept_away", "lane" => lane.clone(), "why" => why.name()).set(0.0);
    }
    metrics::counter!("noshi_lane_tokens_forfeited_total", "lane" => lane).absolute(0);
    drop(metrics::histogram!("noshi_provider_request_seconds", "provider" => provider));
}

/// How long a call to a provider took.
pub fn time_call(provider: &'static str, took: Duration) {
    metrics::histogram!("noshi_provider_request_seconds", "provider" => provider).record(took);
}

/// When the samples were taken, as far as this process knows. It grows old also where the database does not answer.
type Taken = Arc<Mutex<Option<Instant>>>;

/// Shows what the fleet has counted last.
async fn refresh(pool: &PgPool, taken: &Taken) -> Result<(), sqlx::Error> {
    let (samples, age, clock) = db::operator::snapshot::read(pool).await?;
    let here = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    metrics::gauge!("noshi_clock_ahead_seconds").set(clock - here);
    *taken.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now().checked_sub(age);
    // Of another version, samples may be left, or be there already.
    let ours = |sample: &db::operator::snapshot::Sample| METRICS.iter().any(|metric| metric.name == sample.name);
    for db::operator::snapshot::Sample { name, labels, value } in samples.into_iter().filter(ours) {
        if name == "noshi_lane_open" && labels.iter().any(|(_, lane)| !lane.is_empty()) {
            metrics::counter!("noshi_lane_tokens_forfeited_total", &labels).absolute(0);
        }
        metrics::gauge!(name, &labels).set(value);
    }
    Ok(())
}

/// What a scrape has to show even if the database does not answer.
fn show_own(pool: &PgPool, taken: &Taken) {
    if let Some(taken) = *taken.lock().unwrap_or_else(PoisonError::into_inner) {
        metrics::gauge!("noshi_metric_snapshot_age_seconds").set(taken.elapsed().as_secs_f64());
    }
    let idle = pool.num_idle();
    for (state, connections) in [("idle", idle), ("used", (pool.size() as usize).saturating_sub(idle))] {
        metrics::gauge!("noshi_pool_connections", "state" => state).set(connections as f64);
    }
    show_thrown_away();
}

fn show_thrown_away() {
    let (silent, unfit) = db::connection::thrown_away();
    for (why, connections) in [("silent", silent), ("unfit", unfit)] {
        metrics::counter!("noshi_connections_thrown_away_total", "why" => why).absolute(connections as u64);
    }
}

/// Takes the address for itself, before anything is claimed: a worker that cannot be watched does not begin.
pub async fn bind(listen: SocketAddr) -> anyhow::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(listen).await.with_context(|| {
        format!("cannot listen on {listen} for /metrics; is another process there? Nothing was claimed")
    })?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

/// Serves `/metrics`, and `beside` it other routes; what is shown of the fleet is at most 10 s older than its samples. `own` sets what this process knows of itself.
pub fn serve(
    listener: TcpListener,
    handle: PrometheusHandle,
    pool: PgPool,
    own: impl Fn() + Clone + Send + Sync + 'static,
    beside: Router,
) {
    let process = metrics_process::Collector::default();
    let (taken, shown) = (Taken::default(), pool.clone());
    let known = Arc::clone(&taken);
    let render = async move |State(handle): State<PrometheusHandle>| {
        own();
        show_own(&shown, &known);
        process.collect();
        // Whatever was asked for, OpenMetrics too, this is what is sent.
        ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], handle.render())
    };
    let app = Router::new().route("/metrics", get(render));
    let upkeep = handle.clone();
    tokio::spawn(async move {
        loop {
            upkeep.run_upkeep();
            if let Err(error) = refresh(&pool, &taken).await {
                tracing::warn!(%error, "the database did not answer for the metrics");
            }
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
    });
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, app.with_state(handle).merge(beside)).await {
            tracing::error!(%error, "/metrics ended");
        }
    });
}
