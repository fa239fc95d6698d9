//! A real primary, a real streaming standby, real worker processes, and the partners' ledger as the judge: whatever a failover loses, no gift is
//! bought twice where the partner dedups or can be asked, and nothing is in doubt that was not called where nothing was lost.
//!
//! `NOSHI_FAILOVERS=N` runs each scene N times, with ten times the backlog.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::{MetadataExt, symlink},
    path::{Path, PathBuf},
    process::Output,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use tempfile::TempDir;
use tokio::process::Command;

use crate::{
    fleet::{Fleet, LIMIT, Process, Terms, fleet_on_url},
    processes::{ledger, until},
};
use noshi::{
    db,
    lab::private_postgres::{PrivatePostgres, Settings},
};

const CATEGORIES: [&str; 3] = ["amazon", "digital", "prepaid"];

/// How a standby follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Follows {
    /// Commits wait for it.
    Synchronously,
    /// They do not.
    Behind,
}

/// A server that will be lost, the standby that takes over, and one address for whichever serves.
pub struct Pair {
    primary: PrivatePostgres,
    standby: PathBuf,
    programs: PathBuf,
    dir: TempDir,
}

impl Drop for Pair {
    fn drop(&mut self) {
        if let Ok(file) = fs::read_to_string(self.standby.join("data/postmaster.pid"))
            && let Some(pid) = file.lines().next().and_then(|line| line.trim().parse().ok()).and_then(Pid::from_raw)
        {
            let _ = kill_process(pid, Signal::QUIT);
        }
    }
}

fn url_of(dir: &Path) -> String {
    format!("postgres://postgres@localhost:5432/noshi?host={}&sslmode=disable", dir.display())
}

impl Pair {
    async fn start() -> Pair {
        let extra = [
            ("wal_level", "replica"),
            ("hot_standby", "on"),
            ("max_wal_senders", "4"),
            ("wal_retrieve_retry_interval", "200ms"),
        ];
        let extra = extra.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let primary = PrivatePostgres::start(Settings { durable: false, extra, ..Settings::default() }).await.unwrap();
        primary.create_database("noshi").await.unwrap();
        db::migrate(&primary.url("noshi")).await.unwrap();
        let mut connection = PgConnection::connect(&primary.url("noshi")).await.unwrap();
        let programs = "select setting from pg_config where name = 'BINDIR'";
        let programs: String = sqlx::query_scalar(programs).fetch_one(&mut connection).await.unwrap();
        let dir = tempfile::Builder::new().prefix("nf").tempdir_in("/tmp").unwrap();
        let standby = dir.path().join("standby");
        let pair = Pair { primary, standby, programs: programs.into(), dir };
        let owner = fs::metadata(pair.primary.directory().join("data")).unwrap();
        for path in [pair.dir.path(), &pair.standby] {
            fs::create_dir_all(path).unwrap();
            std::os::unix::fs::chown(path, Some(owner.uid()), Some(owner.gid())).unwrap();
        }
        symlink(pair.primary.directory(), pair.address()).unwrap();
        pair
    }

    fn address(&self) -> PathBuf {
        self.dir.path().join("now")
    }

    /// As the account that the servers run under.
    async fn run(&self, program: &str, arguments: &[&str]) -> Output {
        let owner = fs::metadata(self.primary.directory()).unwrap();
        let mut command = Command::new(self.programs.join(program));
        command.args(arguments).current_dir("/").env("LC_ALL", "C").kill_on_drop(true);
        // The directory is its own: PostgreSQL refuses root.
        if owner.uid() != rustix::process::getuid().as_raw() || owner.uid() != 0 {
            command.uid(owner.uid()).gid(owner.gid());
        }
        let run = command.output().await.expect("a program of PostgreSQL");
        assert!(run.status.success(), "{program}: {}", String::from_utf8_lossy(&run.stderr));
        run
    }

    /// A standby from here on.
    pub async fn follow(&self, how: Follows) {
        let (data, from) = (self.standby.join("data"), self.primary.directory().display().to_string());
        let data = data.to_str().unwrap();
        let backup = [
            "--checkpoint=fast",
            "--no-sync",
            "--write-recovery-conf",
            "--username=postgres",
            "--host",
            &from,
            "--pgdata",
            data,
        ];
        self.run("pg_basebackup", &backup).await;
        let own = format!("-c unix_socket_directories={}", self.standby.display());
        let log = self.standby.join("server.log");
        self.run("pg_ctl", &["start", "--wait", "--pgdata", data, "--log", log.to_str().unwrap(), "--options", &own])
            .await;
        let mut primary = PgConnection::connect(&url_of(self.primary.directory())).await.unwrap();
        let streams = "select count(*) from pg_stat_replication where state = 'streaming'";
        until("the standby streams", Duration::from_secs(20), async || {
            sqlx::query_scalar::<_, i64>(streams).fetch_one(&mut primary).await.unwrap() == 1
        })
        .await;
        if how == Follows::Synchronously {
            sqlx::raw_sql("alter system set synchronous_standby_names = '*'").execute(&mut primary).await.unwrap();
            sqlx::raw_sql("select pg_reload_conf()").execute(&mut primary).await.unwrap();
            let synchronous = "select count(*) from pg_stat_replication where sync_state = 'sync'";
            until("commits wait for the standby", Duration::from_secs(20), async || {
                sqlx::query_scalar::<_, i64>(synchronous).fetch_one(&mut primary).await.unwrap() == 1
            })
            .await;
        }
    }

    /// Nothing arrives at the standby any more.
    pub async fn fall_behind(&self) {
        let mut standby = PgConnection::connect(&url_of(&self.standby)).await.unwrap();
        sqlx::raw_sql("alter system set primary_conninfo = 'host=/nowhere'").execute(&mut standby).await.unwrap();
        sqlx::raw_sql("select pg_reload_conf()").execute(&mut standby).await.unwrap();
        let receives = "select count(*) from pg_stat_wal_receiver where status = 'streaming'";
        until("the standby receives nothing", Duration::from_secs(20), async || {
            sqlx::query_scalar::<_, i64>(receives).fetch_one(&mut standby).await.unwrap() == 0
        })
        .await;
    }

    /// Trades whose claim for a call the standby has, when it has replayed what it received.
    async fn claimed_at_the_standby(&self) -> BTreeSet<String> {
        let mut standby = PgConnection::connect(&url_of(&self.standby)).await.unwrap();
        let replayed = "select pg_last_wal_replay_lsn() >= pg_last_wal_receive_lsn()";
        until("the standby has replayed", Duration::from_secs(20), async || {
            sqlx::query_scalar::<_, bool>(replayed).fetch_one(&mut standby).await.unwrap()
        })
        .await;
        let claimed =
            "select t.id from noshi.gift_trade t join noshi.job j on j.kind = 'gift_issuance' and j.key = t.grant_id
            where j.at not in ('new', 'routing') and (j.at <> 'issuing' or j.status = 'running')";
        sqlx::query_scalar(claimed).fetch_all(&mut standby).await.unwrap().into_iter().collect()
    }

    /// The standby takes over and the address leads to it; the primary lives on, and whoever is connected to it is answered.
    async fn take_over_beside(&self) {
        let mut standby = PgConnection::connect(&url_of(&self.standby)).await.unwrap();
        assert!(sqlx::query_scalar::<_, bool>("select pg_promote(true, 30)").fetch_one(&mut standby).await.unwrap());
        let next = self.dir.path().join("next");
        symlink(&self.standby, &next).unwrap();
        fs::rename(next, self.address()).unwrap();
    }

    /// The primary is lost, the standby takes over, and the address leads to it.
    pub async fn fail_over(&self) {
        let pid = i32::try_from(self.primary.postmaster().unwrap()).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), Signal::QUIT).unwrap();
        until("the primary is gone", Duration::from_secs(20), async || self.primary.postmaster().is_err()).await;
        let mut standby = PgConnection::connect(&url_of(&self.standby)).await.unwrap();
        assert!(sqlx::query_scalar::<_, bool>("select pg_promote(true, 30)").fetch_one(&mut standby).await.unwrap());
        // Nothing waits for a standby of its own.
        sqlx::raw_sql("alter system set synchronous_standby_names = ''").execute(&mut standby).await.unwrap();
        sqlx::raw_sql("select pg_reload_conf()").execute(&mut standby).await.unwrap();
        let next = self.dir.path().join("next");
        symlink(&self.standby, &next).unwrap();
        fs::rename(next, self.address()).unwrap();
    }
}

/// What the scenes have in common: a pair, a fleet on its address, and gifts.
pub struct Scene {
    pub pair: Pair,
    pub fleet: Fleet,
    grants: Vec<(String, &'static str)>,
}

/// Calls per second of a lane in which jobs wait.
const SLOW: u32 = 20;

impl Scene {
    pub async fn start() -> Scene {
        Scene::at(LIMIT).await
    }

    /// With so many calls a second of each partner.
    async fn at(limit: u32) -> Scene {
        let pair = Pair::start().await;
        let terms = Terms { limit, horizon: Duration::from_secs(900), ..Terms::default() };
        let fleet = fleet_on_url(url_of(&pair.address()), terms).await;
        Scene { pair, fleet, grants: vec![] }
    }

    /// As producers ask, the same ids again included.
    async fn ask(&mut self, what: &str, gifts: usize) {
        let new: Vec<(String, &'static str)> =
            (0..gifts).map(|n| (format!("{what}-{n}"), CATEGORIES[n % CATEGORIES.len()])).collect();
        self.enqueue(&new).await;
        self.grants.extend(new);
    }

    async fn ask_again(&self) {
        self.enqueue(&self.grants).await;
    }

    async fn enqueue(&self, gifts: &[(String, &'static str)]) {
        for some in gifts.chunks(1_000) {
            let keys: Vec<&str> = some.iter().map(|(grant, _)| grant.as_str()).collect();
            let args: Vec<Value> = some
                .iter()
                .map(|(grant, category)| json!({"grant": grant, "user": "u1", "category": category, "value": {"amount": 500, "currency": "JPY"}}))
                .collect();
            sqlx::query("select noshi.enqueue_rows('gift_issuance', $1, $2)")
                .bind(keys)
                .bind(args)
                .execute(&self.fleet.pool)
                .await
                .expect("enqueued");
        }
    }

    async fn count(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&self.fleet.pool).await.unwrap_or(-1)
    }

    fn workers(&self) -> Vec<Process> {
        ["a", "b"].map(|name| self.fleet.worker(name, &[], &[])).into()
    }

    pub fn bought(&self) -> BTreeMap<String, usize> {
        let mut found = BTreeMap::new();
        for line in ledger(&self.fleet).iter().filter(|line| line["event"] == "issued") {
            *found.entry(line["trade"].as_str().unwrap_or_default().to_owned()).or_default() += 1;
        }
        found
    }

    async fn dealt_with(&self) -> (String, i64, i64) {
        let verdict = "select verdict, missing, doubted from noshi.failover where dealt_at is not null";
        let mut dealt = None;
        until("the fleet deals with the failover", Duration::from_secs(30), async || {
            dealt = sqlx::query_as(verdict).fetch_optional(&self.fleet.pool).await.unwrap_or_default();
            dealt.is_some()
        })
        .await;
        dealt.unwrap()
    }

    /// Nothing twice, nothing lost: each grant has its gift, or waits for a person's word.
    async fn judge(&self, what: &str) -> i64 {
        self.ask_again().await;
        self.fleet.at_rest(Duration::from_secs(300)).await.unwrap();
        let bought = self.bought();
        let twice: Vec<_> = bought.iter().filter(|(_, times)| **times > 1).collect();
        assert!(twice.is_empty(), "{what}: bought twice: {twice:?}");
        let grants = i64::try_from(self.grants.len()).unwrap();
        assert_eq!(self.count("select count(*) from noshi.job where kind = 'gift_issuance'").await, grants, "{what}");
        let delivered = self.count("select count(*) from noshi.gift_outcome where outcome = 'issued'").await;
        let parked = self.count("select count(*) from noshi.job where status = 'needs_operator' and in_doubt").await;
        let others = "select coalesce(json_agg(json_build_object('key', key, 'status', status, 'at', at, 'in_doubt', in_doubt, 'code', code,
            'journal', (select json_agg(concat_ws(' ', e.event, e.was, e.outcome, e.detail) order by e.happened_at) from noshi.job_event e where e.job = j.id)))::text, '')
            from noshi.job j where kind = 'gift_issuance' and not (status = 'needs_operator' and in_doubt)
                and not exists (select from noshi.gift_trade t join noshi.gift_outcome o on o.trade = t.id and o.outcome = 'issued' where t.grant_id = j.key)";
        let others: String = sqlx::query_scalar(others).fetch_one(&self.fleet.pool).await.unwrap_or_default();
        assert_eq!(delivered + parked, grants, "{what}: a grant has neither its gift nor a question: {others}");
        let unknown = "select count(*) from noshi.gift_outcome where outcome = 'issued'";
        assert_eq!(
            self.count(unknown).await,
            i64::try_from(bought.len()).unwrap(),
            "{what}: a gift was bought and is not known"
        );
        println!("{what}: {grants} gifts, {} bought, {parked} parked in doubt", bought.len());
        parked
    }

    async fn end(self, workers: Vec<Process>) {
        for worker in workers {
            assert!(worker.stop().await.success());
        }
    }
}

fn times() -> usize {
    std::env::var("NOSHI_FAILOVERS").ok().and_then(|times| times.parse().ok()).unwrap_or(1)
}

/// Nothing is lost: what waits for its call goes on as if nothing had happened.
#[tokio::test(flavor = "multi_thread")]
async fn a_failover_that_lost_nothing_puts_nothing_in_doubt_that_was_not_claimed() {
    let _turn = crate::support::turn().await;
    let backlog = if times() > 1 { 10_000 } else { 600 };
    for round in 0..times() {
        // Slow lanes, so that jobs wait in them whatever else the machine does.
        let mut scene = Scene::at(SLOW).await;
        scene.pair.follow(Follows::Synchronously).await;
        scene.ask("backlog", backlog).await;
        let workers = scene.workers();
        until("gifts are bought and others wait for their call", Duration::from_secs(180), async || {
            scene.bought().len() > 60
                && scene.count("select count(*) from noshi.job where at = 'issuing' and status = 'available'").await
                    > 100
        })
        .await;
        scene.pair.fail_over().await;
        let (verdict, missing, _) = scene.dealt_with().await;
        assert_eq!((verdict.as_str(), missing), ("whole", 0), "round {round}");
        let never_called = "select count(*) from noshi.job j where in_doubt and not exists (
            select from noshi.job_event e where e.job = j.id and e.event = 'claimed' and e.was = 'issuing')";
        assert_eq!(scene.count(never_called).await, 0, "round {round}: in doubt, and never claimed for a call");
        if backlog < 1_000 {
            scene.judge("a synchronous failover").await;
        } else {
            let bought = scene.bought();
            until("the fleet goes on", Duration::from_secs(60), async || scene.bought().len() > bought.len() + 200)
                .await;
            assert!(scene.bought().values().all(|times| *times == 1), "round {round}");
            assert_eq!(scene.count(never_called).await, 0, "round {round}");
            println!("round {round}: {} bought, once each", scene.bought().len());
        }
        scene.end(workers).await;
    }
}

/// The standby is behind, and the primary is lost: claims and settles of jobs that waited for their call, jobs that fell back to the beginning, and
/// jobs that are not there at all any more, whose producers ask again.
#[tokio::test(flavor = "multi_thread")]
async fn commits_that_are_lost_are_noticed_and_no_gift_is_bought_twice() {
    let _turn = crate::support::turn().await;
    for round in 0..times() {
        let mut scene = Scene::at(SLOW).await;
        scene.pair.follow(Follows::Behind).await;
        let workers = scene.workers();
        scene.ask("waiting", 900).await;
        let waits = "select count(*) from noshi.job where at = 'issuing' and status = 'available'";
        until("jobs wait for their call", Duration::from_secs(90), async || scene.count(waits).await > 200).await;
        scene.pair.fall_behind().await;
        let before = scene.bought().len();
        scene.ask("later", 60).await;
        until("gifts are bought that the standby knows nothing of", Duration::from_secs(60), async || {
            scene.bought().len() > before + 60
        })
        .await;
        scene.pair.fail_over().await;
        let (verdict, missing, doubted) = scene.dealt_with().await;
        assert!(
            verdict == "lost" && missing > 0 && doubted > 0,
            "round {round}: {verdict}, {missing} missing, {doubted} in doubt"
        );
        let calls = i64::try_from(scene.bought().len() - before).unwrap();
        scene.judge("an asynchronous failover").await;
        let marked = scene.count("select count(*) from noshi.lost_call").await;
        println!("round {round}: {calls} bought in the lost window, {marked} calls marked, {missing} commits missing");
        scene.end(workers).await;
    }
}

/// Nobody stopped the old primary, and it answers whoever is connected to it: its workers see the new one, and leave it before anybody there takes
/// them for dead.
#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_lives_on_is_left_by_its_workers() {
    let _turn = crate::support::turn().await;
    let mut scene = Scene::at(SLOW).await;
    scene.pair.follow(Follows::Behind).await;
    let lease: &[&str] = &["--lease-ms", "6000"];
    let mut workers: Vec<_> = ["a", "b"].map(|name| scene.fleet.worker(name, &[], lease)).into();
    scene.ask("waiting", 600).await;
    until("gifts are bought", Duration::from_secs(30), async || scene.bought().len() > 60).await;
    scene.pair.take_over_beside().await;
    workers.push(scene.fleet.worker("new", &[], lease));
    // The test's own connections were to the old one.
    scene.fleet.pool = db::PgPool::plain(&scene.fleet.url, 8).unwrap();
    let (verdict, _, _) = scene.dealt_with().await;
    assert!(["lost", "whole"].contains(&verdict.as_str()), "{verdict}");
    let dead = "select count(*) from noshi.worker where dead_at is not null";
    assert_eq!(scene.count(dead).await, 0, "the old workers came over");
    scene.judge("a primary that lives on").await;
    scene.end(workers).await;
}

/// A standby that hangs, and waits that are cancelled: each commit is answered as a success, with a warning. Nothing is called on such a claim.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_whose_wait_for_the_standby_was_cancelled_is_not_called_on() {
    let _turn = crate::support::turn().await;
    for _ in 0..times() {
        let mut scene = Scene::start().await;
        scene.pair.follow(Follows::Synchronously).await;
        let workers = scene.workers();
        scene.ask("waiting", 300).await;
        until("gifts are bought", Duration::from_secs(30), async || scene.bought().len() > 30).await;
        scene.pair.fall_behind().await;
        let mut primary = PgConnection::connect(&url_of(scene.pair.primary.directory())).await.unwrap();
        let cancel = "select count(pg_cancel_backend(pid)) from pg_stat_activity where wait_event = 'SyncRep'";
        let mut cancelled = 0;
        until("waits are cancelled", Duration::from_secs(60), async || {
            cancelled += sqlx::query_scalar::<_, i64>(cancel).fetch_one(&mut primary).await.unwrap();
            cancelled > 60
        })
        .await;
        for _ in 0..20 {
            sqlx::query_scalar::<_, i64>(cancel).fetch_one(&mut primary).await.unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let (bought, claimed) = (scene.bought(), scene.pair.claimed_at_the_standby().await);
        let alone: Vec<_> = bought.keys().filter(|trade| !claimed.contains(*trade)).collect();
        assert!(alone.is_empty(), "calls were made on claims that no standby has: {alone:?}");
        scene.pair.fail_over().await;
        scene.dealt_with().await;
        scene.judge("a cancelled wait").await;
        scene.end(workers).await;
    }
}

/// One worker dies together with a server whose standby is behind: what it may have called is in doubt, in the order of claims, and no more.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_died_with_its_server_leaves_a_bounded_doubt() {
    let _turn = crate::support::turn().await;
    // Slow lanes also leave much of the backlog outside of a busy machine's longer window.
    let mut scene = Scene::at(SLOW).await;
    scene.pair.follow(Follows::Behind).await;
    let mut first = scene.fleet.worker("first", &[], &[]);
    scene.ask("waiting", 1_200).await;
    let waits = "select count(*) from noshi.job where at = 'issuing' and status = 'available'";
    until("jobs wait for their call", Duration::from_secs(90), async || scene.count(waits).await > 600).await;
    scene.pair.fall_behind().await;
    let before = scene.bought().len();
    scene.ask("later", 30).await;
    until("gifts are bought that the standby knows nothing of", Duration::from_secs(30), async || {
        scene.bought().len() > before + 40
    })
    .await;
    first.signal(Signal::KILL);
    assert!(first.killed(Duration::from_secs(5)).await);
    scene.pair.fail_over().await;
    let second = scene.fleet.worker("second", &[], &[]);
    let (verdict, _, doubted) = scene.dealt_with().await;
    let window = "select extract(epoch from seen_at - known_to)::float8 from noshi.failover";
    let window: f64 = sqlx::query_scalar(window).fetch_one(&scene.fleet.pool).await.unwrap();
    // Of three lanes, and as much again of what had not come to its lane.
    let most = 2.0 * 3.0 * (f64::from(SLOW) * window + 2.0);
    assert!(
        verdict == "lost" && doubted > 0 && (doubted as f64) < most,
        "{verdict}, {doubted} in doubt, at most {most}"
    );
    let untouched = "select count(*) from noshi.job where not in_doubt and status in ('available', 'running')";
    assert!(scene.count(untouched).await > 0, "the whole backlog is in doubt after {window} s");
    println!("{doubted} in doubt, of at most {most:.0}, after a window of {window:.1} s");
    scene.judge("a worker that died with its server").await;
    scene.end(vec![second]).await;
}
