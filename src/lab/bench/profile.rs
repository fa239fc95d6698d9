//! What a durable step costs, in CPU of the worker and of the database beside the baseline's of the same run: a share that depends little on
//! who else uses the machine.

use std::fs;

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use super::{Bench, LANE};
use crate::{basics::terminal::say, db::PgPool, lab::private_postgres::PrivatePostgres};

const ROUNDS: usize = 3;

/// What was used since the server began, in seconds, bytes and rows.
#[derive(Debug, Clone, Copy, Default)]
struct Used {
    worker: f64,
    database: f64,
    log: f64,
    updates: f64,
    heap_only: f64,
    commits: f64,
}

/// The same for one step.
#[derive(Debug, Clone, Copy)]
struct Cost(Used);

impl Used {
    /// Statistics of a session are told when it ends: nobody else may be at work.
    async fn until_now(server: &PrivatePostgres, pool: &PgPool, table: &str) -> anyhow::Result<Used> {
        const COUNTED: &str = "select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::float8, coalesce(sum(n_tup_upd), 0)::float8,
    coalesce(sum(n_tup_hot_upd), 0)::float8, (select xact_commit::float8 from pg_stat_database where datname = current_database())
from pg_stat_user_tables where relid = $1::regclass";
        let (log, updates, heap_only, commits) = sqlx::query_as(COUNTED).bind(table).fetch_one(pool).await?;
        Ok(Used {
            worker: of_this_process()?,
            database: of_the_server(server.postmaster()?)?,
            log,
            updates,
            heap_only,
            commits,
        })
    }

    fn since(self, before: Used) -> Used {
        Used {
            worker: self.worker - before.worker,
            database: self.database - before.database,
            log: self.log - before.log,
            updates: self.updates - before.updates,
            heap_only: self.heap_only - before.heap_only,
            commits: self.commits - before.commits,
        }
    }

    fn by(self, steps: f64) -> Cost {
        Cost(Used {
            worker: self.worker / steps,
            database: self.database / steps,
            log: self.log / steps,
            updates: self.updates / steps,
            heap_only: self.heap_only / steps,
            commits: self.commits / steps,
        })
    }
}

impl Cost {
    fn cpu(&self) -> f64 {
        self.0.worker + self.0.database
    }

    fn tell(&self, what: &str, baseline: &Cost) {
        let Used { worker, database, log, updates, heap_only, commits } = self.0;
        say!(
            "{what:<38} {:>6.1} {:>8.1} {:>7.2} × {log:>7.0} {:>8.0} % {:>7.3}",
            worker * 1e6,
            database * 1e6,
            self.cpu() / baseline.cpu(),
            100.0 * heap_only / updates.max(f64::MIN_POSITIVE),
            commits
        );
    }
}

/// Seconds of CPU in a line of /proc/PID/stat: its own, and of children that are over.
fn seconds(stat: &str) -> anyhow::Result<(f64, f64)> {
    // The name may hold spaces; what follows it does not.
    let fields: Vec<&str> = stat.rsplit_once(')').context("no process")?.1.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<f64>().ok()).context("a number of ticks");
    let per_second = rustix::param::clock_ticks_per_second() as f64;
    Ok(((ticks(11)? + ticks(12)?) / per_second, (ticks(13)? + ticks(14)?) / per_second))
}

fn of_this_process() -> anyhow::Result<f64> {
    Ok(seconds(&fs::read_to_string("/proc/self/stat").context("CPU is counted where there is /proc: on Linux")?)?.0)
}

/// Of the postmaster, and of all its sessions, those that ended included.
fn of_the_server(postmaster: u32) -> anyhow::Result<f64> {
    let (own, over) = seconds(&fs::read_to_string(format!("/proc/{postmaster}/stat"))?)?;
    let mut sum = own + over;
    for entry in fs::read_dir("/proc")? {
        let Ok(stat) = fs::read_to_string(entry?.path().join("stat")) else { continue };
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse::<u32>().ok());
        if parent == Some(postmaster) {
            sum += seconds(&stat)?.0;
        }
    }
    Ok(sum)
}

type Args = fn(&str) -> Value;

const KINDS: [(&str, &str, Args); 3] = [
    ("3-step jobs", "steps", |id| json!({"id": id, "steps": 3})),
    (
        "lane change, fact, follow-up in each",
        "rich",
        |id| json!({"id": id, "steps": 3, "lane": LANE, "follow_up": true}),
    ),
    ("1-step jobs", "noop", |id| json!({"id": id, "steps": 1})),
];

impl Bench {
    async fn cost_of_the_baseline(&self, server: &PrivatePostgres) -> anyhow::Result<Cost> {
        self.baseline_tables().await?;
        let before = Used::until_now(server, &self.pool, "floor_job").await?;
        let own = PgPool::plain(&self.url, 2)?;
        let steps = Bench::drain_baseline(&own).await?;
        own.close().await;
        Ok(Used::until_now(server, &self.pool, "floor_job").await?.since(before).by(steps))
    }

    async fn cost_of(&self, server: &PrivatePostgres, name: &str, args: Args) -> anyhow::Result<Cost> {
        self.ask(name, args).await?;
        let before = Used::until_now(server, &self.pool, "noshi.job").await?;
        self.work().await?;
        let rate = self.rate(name).await?;
        ensure!(rate.settled > 0.0, "nothing was done");
        Ok(Used::until_now(server, &self.pool, "noshi.job").await?.since(before).by(rate.settled))
    }
}

/// Prints what each kind of step costs: of several rounds the one in the middle, by its CPU beside the baseline's.
pub async fn run(bench: &Bench, server: &PrivatePostgres) -> anyhow::Result<()> {
    let mut rounds: Vec<Vec<(Cost, Cost)>> = vec![vec![]; KINDS.len()];
    for round in 0..ROUNDS {
        let baseline = bench.cost_of_the_baseline(server).await?;
        for (at, (_, name, args)) in KINDS.iter().enumerate() {
            let cost = bench.cost_of(server, &format!("{name}{round}"), *args).await?;
            rounds[at].push((cost, baseline));
        }
    }
    say!(
        "{:<38} {:>6} {:>8} {:>9} {:>7} {:>10} {:>7}",
        "of one step",
        "worker",
        "database",
        "baseline",
        "log",
        "heap-only",
        "commits"
    );
    say!("{:<38} {:>6} {:>8} {:>9} {:>7} {:>10} {:>7}", "", "µs", "µs", "", "bytes", "updates", "");
    for (at, (what, ..)) in KINDS.iter().enumerate() {
        let of = &mut rounds[at];
        of.sort_by(|a, b| (a.0.cpu() / a.1.cpu()).total_cmp(&(b.0.cpu() / b.1.cpu())));
        let (cost, baseline) = of[of.len() / 2];
        if at == 0 {
            baseline.tell("raw-SQL baseline", &baseline);
        }
        cost.tell(what, &baseline);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_a_name_of_two_words_is_read() {
        let stat = "42 (postgres: x) y) S 7 1 1 0 -1 0 1 2 3 4 150 50 20 30 20 0 1 0 9";
        let per_second = rustix::param::clock_ticks_per_second() as f64;
        assert_eq!(seconds(stat).unwrap(), (200.0 / per_second, 50.0 / per_second));
        assert!(of_this_process().unwrap() >= 0.0);
    }

    #[test]
    fn the_rest_is_counted_by_step() {
        let cost = Used { worker: 3.0, ..Used::default() }.since(Used { worker: 1.0, ..Used::default() }).by(4.0);
        assert!((cost.cpu() - 0.5).abs() < 1e-9);
    }
}
