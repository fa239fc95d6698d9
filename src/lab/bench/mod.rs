//! `noshi bench`: the production tables, triggers and host, on a private server with every commit durable.
//!
//! Each number stands beside the raw-SQL baseline of the same run: the same work done in batches inside PostgreSQL.

mod enqueue;
mod fair;
mod lane;
mod points;
mod profile;

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Args;
use noshi_jobs::Kind;
use serde_json::{Value, json};
use sqlx::Executor;

use crate::{
    app::Worker,
    db::{self, PgPool},
    engine::Pace,
    lab::private_postgres::{PrivatePostgres, Settings},
    worlds::outside::Partners,
};

const BASELINE: &str = include_str!("baseline.sql");
const LANE: &str = "bench";

#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Jobs of each throughput measurement.
    #[arg(long, default_value_t = 30_000)]
    jobs: usize,
    /// Jobs in flight at once.
    #[arg(long, default_value_t = 512)]
    slots: usize,
    /// Single jobs whose pickup is timed.
    #[arg(long, default_value_t = 300)]
    singles: usize,
    /// Gifts of the measurement of a lane.
    #[arg(long, default_value_t = 1_500)]
    gifts: usize,
    /// Rows of the batch that others wait behind.
    #[arg(long, default_value_t = 100_000)]
    rows: usize,
    /// Measure fairness alone.
    #[arg(long)]
    fairness: bool,
    /// Measure what a producer's commit costs alone.
    #[arg(long)]
    enqueue: bool,
    /// Measure alone what a step costs: CPU, log and updates.
    #[arg(long)]
    profile: bool,
    /// Measure the ledger of points alone.
    #[arg(long)]
    points: bool,
    /// Entries of other users in the ledger.
    #[arg(long, default_value_t = 1_000_000)]
    entries: u32,
    /// Lots of points that expire.
    #[arg(long, default_value_t = 100_000)]
    lots: u32,
}

struct Bench {
    url: String,
    pool: PgPool,
    args: BenchArgs,
    baseline: f64,
}

pub async fn run(args: BenchArgs) -> anyhow::Result<()> {
    ensure!(
        args.jobs > 0 && args.slots > 0 && args.singles > 0,
        "nothing to measure: all three numbers must be at least 1"
    );
    let server = PrivatePostgres::start(Settings { durable: true, shared_buffers: 512, ..Settings::default() }).await?;
    if args.fairness {
        fair::run(&server, args.rows).await?;
        return server.stop().await;
    }
    if args.points {
        points::run(&server, args.entries, args.lots).await?;
        return server.stop().await;
    }
    let url = server.url("postgres");
    db::migrate(&url).await?;
    let pool = PgPool::plain(&url, 4)?;
    if args.enqueue {
        enqueue::run(&url).await?;
        pool.close().await;
        return server.stop().await;
    }
    db::queue::lanes::declare(&pool, LANE, &[]).await?;
    let mut bench = Bench { url, pool, args, baseline: 0.0 };
    let profile = if cfg!(debug_assertions) { "debug (use --release)" } else { "release" };
    crate::basics::terminal::say!(
        "{profile} build, synchronous_commit on, fsync on, {} jobs, {} in flight",
        bench.args.jobs,
        bench.args.slots
    );
    if bench.args.profile {
        profile::run(&bench, &server).await?;
        bench.pool.close().await;
        return server.stop().await;
    }
    bench.baseline = bench.baseline().await?;
    bench.line("raw-SQL baseline, batches inside PostgreSQL", "steps/s", bench.baseline);
    let plain = bench.throughput("steps", |id| json!({"id": id, "steps": 3})).await?;
    bench.line("3-step jobs", "durable journalled steps/s", plain.steps);
    let rich = bench.throughput("rich", |id| json!({"id": id, "steps": 3, "lane": LANE, "follow_up": true})).await?;
    bench.line("lane change, fact and follow-up in each", "steps/s", rich.steps);
    let noop = bench.throughput("noop", |id| json!({"id": id, "steps": 1})).await?;
    bench.line("1-step jobs", "jobs/s", noop.jobs);
    let (p50, p99) = bench.pickup().await?;
    crate::basics::terminal::say!(
        "{:<42} p50 {:.1} ms, p99 {:.1} ms",
        "pickup when idle, from insert to claim",
        p50 * 1e3,
        p99 * 1e3
    );
    lane::run(&server, bench.args.gifts).await?;
    enqueue::run(&bench.url).await?;
    bench.pool.close().await;
    server.stop().await
}

struct Rate {
    steps: f64,
    jobs: f64,
    /// Steps in all.
    settled: f64,
}

impl Bench {
    fn line(&self, what: &str, unit: &str, rate: f64) {
        crate::basics::terminal::say!("{what:<42} {rate:>9.0} {unit}, {:.2} of the baseline", rate / self.baseline);
    }

    async fn baseline_tables(&self) -> anyhow::Result<()> {
        self.pool.execute(BASELINE).await.map(drop).context("the baseline's tables")
    }

    /// Its steps.
    async fn drain_baseline(pool: &PgPool) -> anyhow::Result<f64> {
        let drain = || async { pool.execute("call drain(200)").await.map(|_| ()) };
        tokio::try_join!(drain(), drain())?;
        let steps: i64 = sqlx::query_scalar("select count(*) from floor_event").fetch_one(pool).await?;
        Ok(steps as f64)
    }

    async fn baseline(&self) -> anyhow::Result<f64> {
        self.baseline_tables().await?;
        let begun = Instant::now();
        let steps = Bench::drain_baseline(&self.pool).await?;
        Ok(steps / begun.elapsed().as_secs_f64())
    }

    fn pace(&self) -> Pace {
        Pace { slots: self.args.slots, ..Pace::default() }
    }

    /// Enqueues jobs, then times a worker from its first claim until all of them, and their follow-ups, are at rest.
    async fn throughput(&self, name: &str, args: impl Fn(&str) -> Value) -> anyhow::Result<Rate> {
        self.ask(name, args).await?;
        self.work().await?;
        self.rate(name).await
    }

    async fn ask(&self, name: &str, args: impl Fn(&str) -> Value) -> anyhow::Result<()> {
        let ids: Vec<String> = (0..self.args.jobs).map(|i| format!("{name}-{i}")).collect();
        for chunk in ids.chunks(5_000) {
            let rows: Vec<(String, Value)> = chunk.iter().map(|id| (id.clone(), args(id))).collect();
            db::enqueue::enqueue(&mut *self.pool.acquire().await?, Kind::Probe, &rows, false).await?;
        }
        self.pool.execute("vacuum analyze noshi.job").await?;
        self.pool.execute("checkpoint").await?;
        Ok(())
    }

    /// A worker, from its start until all is at rest.
    async fn work(&self) -> anyhow::Result<()> {
        let worker = Worker::start(&self.url, "bench", Partners::default(), self.pace()).await?;
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let running = tokio::spawn(worker.run_until(async {
            let _ = stopped.await;
        }));
        while db::enqueue::any_open(&self.pool).await? {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let _ = stop.send(());
        running.await?;
        Ok(())
    }

    async fn rate(&self, name: &str) -> anyhow::Result<Rate> {
        let (steps, jobs, seconds) = sqlx::query_as::<_, (i64, i64, f64)>(
            "select count(*) filter (where event = 'settled'), count(distinct job),
                extract(epoch from max(happened_at) - min(happened_at))::float8
             from noshi.job_event join noshi.job j on j.id = job where j.key like $1 || '-%'",
        )
        .bind(name)
        .fetch_one(&self.pool)
        .await?;
        Ok(Rate { steps: steps as f64 / seconds, jobs: jobs as f64 / seconds, settled: steps as f64 })
    }

    /// From a single job's insert to its claim, the worker being idle. Seconds.
    async fn pickup(&self) -> anyhow::Result<(f64, f64)> {
        let worker = Worker::start(&self.url, "bench", Partners::default(), self.pace()).await?;
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let running = tokio::spawn(worker.run_until(async {
            let _ = stopped.await;
        }));
        for i in 0..self.args.singles {
            let id = format!("single-{i}");
            let rows = [(id.clone(), json!({"id": id, "steps": 1}))];
            db::enqueue::enqueue(&mut *self.pool.acquire().await?, Kind::Probe, &rows, true).await?;
            while db::enqueue::any_open(&self.pool).await? {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            // Never in step with a poll.
            tokio::time::sleep(Duration::from_micros(rand::random_range(0..20_000))).await;
        }
        let _ = stop.send(());
        running.await?;
        let quantiles = "select percentile_cont(array[0.5, 0.99]) within group (order by extract(epoch from e.happened_at - j.created_at))
             from noshi.job_event e join noshi.job j on j.id = e.job where e.event = 'claimed' and j.key like 'single-%'";
        let quantiles: Vec<f64> = sqlx::query_scalar(quantiles).fetch_one(&self.pool).await?;
        Ok((quantiles[0], quantiles[1]))
    }
}
