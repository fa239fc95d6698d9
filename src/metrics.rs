//! `/metrics`: labels from closed sets only, and every combination registered at 0, so that the first event raises an alert.

use std::{net::SocketAddr, time::Duration};

use anyhow::Context;
use axum::{Router, extract::State, routing::get};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use noshi_jobs::{Kind, store_creation};
use sqlx::PgPool;
use tokio::net::TcpListener;

use crate::store;

const JOB_OUTCOMES: [&str; 5] = ["completed", "failed", "compensated", "cancelled", "needs_operator"];
const OPEN_STATUSES: [&str; 6] = ["scheduled", "available", "running", "retryable", "needs_operator", "compensating"];
/// Every outcome of a call to a provider.
const CALL_OUTCOMES: [&str; 15] = [
    "ok",
    "pending",
    "known",
    "accepted",
    "resend",
    "refused",
    "throttled",
    "not_sent",
    "unknown",
    "dead",
    "conflict",
    "out_of_funds",
    "bad_credentials",
    "not_found",
    "failed",
];
const GROUP_SIZES: [f64; 9] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

/// One call to a provider and what came of it.
pub fn count_call(provider: &'static str, op: &'static str, outcome: &'static str) {
    metrics::counter!("noshi_provider_requests_total", "provider" => provider, "op" => op, "outcome" => outcome)
        .increment(1);
}

/// Installs the recorder of this process and registers every series at 0. What is counted before is lost.
pub fn install(
    providers: impl Iterator<Item = &'static str>,
    mail_service: Option<&'static str>,
    platform: Option<(&'static str, [&'static str; 4])>,
) -> anyhow::Result<PrometheusHandle> {
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Full("noshi_settle_group_size".to_owned()), &GROUP_SIZES)?
        .install_recorder()
        .context("the metrics recorder is installed twice")?;
    describe();
    for kind in Kind::ALL.map(Kind::name) {
        metrics::counter!("noshi_steps_total", "kind" => kind).absolute(0);
        metrics::counter!("noshi_stale_settles_total", "kind" => kind).absolute(0);
        for outcome in JOB_OUTCOMES {
            metrics::counter!("noshi_jobs_total", "kind" => kind, "outcome" => outcome).absolute(0);
        }
        for status in OPEN_STATUSES {
            metrics::gauge!("noshi_jobs", "kind" => kind, "status" => status).set(0.0);
        }
    }
    for counter in [
        "noshi_rescues_total",
        "noshi_batch_equation_broken_total",
        "noshi_batches_settled_total",
        "noshi_redrive_jobs_asked_total",
        "noshi_redrive_jobs_drifted_total",
        "noshi_redrive_canary_pauses_total",
    ] {
        metrics::counter!(counter).absolute(0);
    }
    drop(metrics::histogram!("noshi_settle_group_size"));
    for provider in providers {
        register_calls(provider, &["issue", "inquire", "cancel"], format!("gift/{provider}"));
    }
    if let Some(service) = mail_service {
        register_calls(service, &["send", "quota"], format!("email/{service}"));
    }
    if let Some((platform, ops)) = platform {
        register_calls(platform, &ops, store_creation::LANE.to_owned());
    }
    Ok(handle)
}

fn register_calls(provider: &'static str, ops: &[&'static str], lane: String) {
    for op in ops {
        for outcome in CALL_OUTCOMES {
            metrics::counter!("noshi_provider_requests_total", "provider" => provider, "op" => *op, "outcome" => outcome)
                .absolute(0);
        }
    }
    metrics::counter!("noshi_lane_tokens_forfeited_total", "lane" => lane).absolute(0);
}

fn describe() {
    use metrics::{describe_counter as counter, describe_gauge as gauge, describe_histogram as histogram};
    counter!("noshi_jobs_total", "Jobs that came to rest, by outcome.");
    counter!("noshi_steps_total", "Steps settled.");
    counter!("noshi_stale_settles_total", "Settles refused because the lease was lost.");
    counter!("noshi_rescues_total", "Jobs taken back from dead workers.");
    counter!("noshi_batches_settled_total", "Batches with nothing left to be done.");
    counter!("noshi_batch_equation_broken_total", "Looks at a batch whose rows did not add up.");
    counter!("noshi_redrive_jobs_asked_total", "Jobs that re-drives asked to go on.");
    counter!(
        "noshi_redrive_jobs_drifted_total",
        "Jobs of re-drives that had moved on by themselves, and were left alone."
    );
    counter!("noshi_redrive_canary_pauses_total", "Re-drives paused because their first jobs stood still again.");
    counter!("noshi_provider_requests_total", "Calls to providers, by operation and outcome.");
    counter!("noshi_lane_tokens_forfeited_total", "Tokens given up because their slot came too late.");
    histogram!("noshi_settle_group_size", "Settles that travelled in one statement.");
    gauge!("noshi_jobs", "Open jobs, by status.");
    gauge!("noshi_in_doubt_jobs", "Jobs with a call whose outcome is not known.");
    gauge!("noshi_in_doubt_oldest_seconds", "Age of the oldest doubt.");
    gauge!("noshi_lane_open", "1 if the lane takes new writes.");
    gauge!("noshi_lane_tokens", "Tokens handed out by the lane since it exists, for the whole fleet.");
    gauge!("noshi_oldest_available_seconds", "How long the next job of the lane has been waiting.");
}

/// Reads the figures that only the database knows.
async fn refresh(pool: &PgPool) -> Result<(), sqlx::Error> {
    let open = store::numbers::open(pool).await?;
    for kind in Kind::ALL.map(Kind::name) {
        for status in OPEN_STATUSES {
            let jobs: i64 = open.iter().filter(|o| o.kind == kind && o.status == status).map(|o| o.jobs).sum();
            metrics::gauge!("noshi_jobs", "kind" => kind, "status" => status).set(jobs as f64);
        }
    }
    let (jobs, oldest) = store::numbers::in_doubt(pool).await?;
    metrics::gauge!("noshi_in_doubt_jobs").set(jobs as f64);
    metrics::gauge!("noshi_in_doubt_oldest_seconds").set(oldest.as_secs_f64());
    for lane in store::lanes::list(pool).await? {
        let is_open = !lane.paused && lane.closed_for.is_none() && lane.closed_code.is_none();
        metrics::gauge!("noshi_lane_open", "lane" => lane.name.clone()).set(f64::from(u8::from(is_open)));
        metrics::gauge!("noshi_lane_tokens", "lane" => lane.name.clone()).set(lane.tokens as f64);
        if !lane.name.is_empty() {
            metrics::counter!("noshi_lane_tokens_forfeited_total", "lane" => lane.name.clone()).absolute(0);
        }
        let oldest = lane.oldest_available.unwrap_or_default();
        metrics::gauge!("noshi_oldest_available_seconds", "lane" => lane.name).set(oldest);
    }
    Ok(())
}

/// Serves `/metrics`; the database's figures are at most 10 s old. Returns the address it listens on.
pub async fn serve(listen: SocketAddr, handle: PrometheusHandle, pool: PgPool) -> anyhow::Result<SocketAddr> {
    let listener =
        TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen} for /metrics"))?;
    let address = listener.local_addr()?;
    let app = Router::new().route("/metrics", get(async |State(handle): State<PrometheusHandle>| handle.render()));
    let upkeep = handle.clone();
    tokio::spawn(async move {
        loop {
            upkeep.run_upkeep();
            if let Err(error) = refresh(&pool).await {
                tracing::warn!(%error, "the database did not answer for the metrics");
            }
            tokio::time::sleep(Duration::from_secs(10)).await;
        }
    });
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, app.with_state(handle)).await {
            tracing::error!(%error, "/metrics ended");
        }
    });
    Ok(address)
}
