//! A worker process is killed with SIGKILL at every passing of every crash point of gift issuance, against each kind of
//! provider, and of store creation; another one takes over; and the independent checker judges what is left.
//!
//! A dry run of each scene lists the points that it passes; then there is one run for each of them, on a database and a
//! ledger of its own. `NOSHI_CRASH_PAIRS=1` also kills the worker that takes over, at each of its points; `NOSHI_CRASH_SCENES=NAME` runs only
//! the scenes whose names begin so.

mod exchanges;
mod points;
mod scene;
mod stores;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::{Duration, Instant},
};

use futures::{StreamExt, stream};
use rustix::process::Signal;
use serde_json::Value;

use self::{
    points::{Choose, Point, chosen, in_the_source, passed},
    scene::{
        Cast, Drive, IN_FLIGHT, MAILING, Prepared, SCENES, Scene, UNWINDING, ends, prepare, set, stray_claim, strike,
    },
    stores::{STORES, STORES_EVERYWHERE},
};
use crate::{
    dump::{check, dump},
    fleet::{Fleet, LIMIT, Process},
    processes::{count, ledger, until},
};
use noshi::lab::simulator::{Partner, Provider};

/// Runs at once. Most of a run is waiting, for what the providers' contracts say has to be waited for.
const PARALLEL: usize = 4;
const REST: Duration = Duration::from_secs(60);

/// One run: the workers of `scene` die one after another at these points, and the one after them lives.
#[derive(Debug, Clone)]
struct Case<'a> {
    provider: Provider,
    prepared: &'a Prepared,
    scene: &'static Scene,
    crashes: Vec<Point>,
}

/// What a run showed.
#[derive(Debug, Default)]
struct Ran {
    /// How many of the case's points were reached.
    reached: usize,
    deaths: usize,
    /// What the worker passed that nothing was to kill.
    passed: BTreeMap<String, u32>,
}

enum Life {
    Killed,
    /// In order; there may be something left to do.
    Ended,
}

impl Case<'_> {
    fn name(&self) -> String {
        let crashes: Vec<String> = self.crashes.iter().map(Point::to_string).collect();
        format!("{}, {}, NOSHI_CRASH={}", self.provider.name(), self.scene.name, crashes.join(" then "))
    }

    /// Workers that die without reaching a point, before those of `crashes`.
    fn killed_before(&self) -> usize {
        usize::from(self.scene.drive == Drive::KillInFlight)
    }

    async fn run(&self) -> Result<Ran, String> {
        let (mut fleet, database) = set(self.scene, self.provider, self.prepared).await;
        let ran = self.lives(&fleet).await;
        if let Err(error) = &ran {
            fleet.dir.disable_cleanup(true);
            return Err(format!("{}: {error}\n  kept: {}, {}", self.name(), fleet.dir.path().display(), fleet.url));
        }
        strike(fleet, &database).await;
        ran
    }

    async fn lives(&self, fleet: &Fleet) -> Result<Ran, String> {
        let mut ran = Ran::default();
        let trace = fleet.dir.path().join("trace");
        for life in 0_usize.. {
            let crash =
                life.checked_sub(self.killed_before()).and_then(|at| self.crashes.get(at)).map(Point::to_string);
            let mut env = vec![("NOSHI_CRASH_TRACE", trace.to_str().expect("a path in words"))];
            env.extend(crash.as_deref().map(|point| ("NOSHI_CRASH", point)));
            if life == 0 && self.scene.drive == Drive::MissTheSlots {
                env.push(("NOSHI_STOP", "claim.after@2"));
            }
            // The trace of each life alone.
            let _ = std::fs::remove_file(&trace);
            let worker = fleet.worker(&format!("w{life}"), &env, &[]);
            let lived = self.live(fleet, worker, life == 0).await?;
            if life == self.crashes.len() + self.killed_before() {
                ran.passed = passed(&trace);
            }
            match lived {
                Life::Killed => {
                    ran.deaths += 1;
                    ran.reached += usize::from(crash.is_some());
                    bury(fleet).await?;
                }
                Life::Ended => {}
            }
            if is_at_rest(fleet).await {
                break;
            }
            if life > self.crashes.len() + self.killed_before() + 1 {
                return Err("the jobs are not at rest, and nobody dies any more".to_owned());
            }
        }
        judge(self, fleet, ran.deaths).await?;
        Ok(ran)
    }

    /// Until the worker is killed; or until all is at rest, when it is told to stop.
    async fn live(&self, fleet: &Fleet, mut worker: Process, first: bool) -> Result<Life, String> {
        let pid = worker.pid();
        let ran = async {
            if first {
                drive(fleet, self, pid).await?;
            }
            fleet.at_rest(REST).await?;
            signal(pid, Signal::TERM);
            Ok::<(), String>(())
        };
        let status = tokio::select! {
            status = worker.child.wait() => status,
            ran = ran => {
                ran?;
                match tokio::time::timeout(REST, worker.child.wait()).await {
                    Ok(status) => status,
                    Err(_) => return Err("a worker at rest does not stop".to_owned()),
                }
            }
        };
        let status = status.map_err(|error| error.to_string())?;
        match std::os::unix::process::ExitStatusExt::signal(&status) {
            Some(9) => Ok(Life::Killed),
            _ if status.success() => Ok(Life::Ended),
            _ => Err(format!("a worker ended with {status}")),
        }
    }
}

fn signal(pid: i32, signal: Signal) {
    let pid = rustix::process::Pid::from_raw(pid).expect("a pid");
    // It may have died meanwhile.
    let _ = rustix::process::kill_process(pid, signal);
}

async fn drive(fleet: &Fleet, case: &Case<'_>, pid: i32) -> Result<(), String> {
    match case.scene.drive {
        Drive::Nothing | Drive::Failover => {}
        Drive::MissTheSlots => {
            until("a stopped worker", REST, async || is_stopped(pid)).await;
            // The last slot is at most the horizon of 250 ms away, and forgives 50 ms.
            tokio::time::sleep(Duration::from_millis(400)).await;
            signal(pid, Signal::CONT);
        }
        Drive::Terminate => {
            until("a call", REST, async || count(fleet, "arrival") > 0).await;
            signal(pid, Signal::TERM);
            // The worker ends; that is seen elsewhere.
            std::future::pending::<()>().await;
        }
        Drive::StrayClaim => {
            let mut id = None;
            until("a registered worker", REST, async || {
                id = sqlx::query_scalar("select id from noshi.worker").fetch_optional(&fleet.pool).await.ok().flatten();
                id.is_some()
            })
            .await;
            stray_claim(fleet, case.provider, id.ok_or("no worker")?).await;
        }
        Drive::KillInFlight => {
            until("the effect", REST, async || count(fleet, "issued") > 0).await;
            signal(pid, Signal::KILL);
        }
    }
    Ok(())
}

pub fn is_stopped(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with('T'))
}

/// Declares the dead dead, once the server has noticed that they are: what they had sent is then done or undone.
async fn bury(fleet: &Fleet) -> Result<(), String> {
    let theirs =
        "select count(*) from pg_stat_activity where datname = current_database() and application_name = 'noshi'";
    until("the server notices a death", REST, async || {
        sqlx::query_scalar(theirs).fetch_one(&fleet.pool).await.is_ok_and(|left: i64| left == 0)
    })
    .await;
    fleet.declare_all_dead().await;
    Ok(())
}

async fn is_at_rest(fleet: &Fleet) -> bool {
    fleet.at_rest(Duration::ZERO).await.is_ok()
}

async fn judge(case: &Case<'_>, fleet: &Fleet, deaths: usize) -> Result<(), String> {
    // What is to land late has landed.
    until("late landings", REST, async || {
        let lines = ledger(fleet);
        let of = |holds: &dyn Fn(&Value) -> bool| lines.iter().filter(|line| holds(line)).count();
        of(&|line| line["fault"] == "late_landing" || line["event"] == "accepted") <= of(&|line| line["late"] == true)
    })
    .await;
    let rows = fleet.dir.path().join("dump");
    dump(&fleet.url, &rows).await;
    let logs: Vec<String> = (0..4)
        .map(|life| fleet.dir.path().join(format!("w{life}.log")))
        .filter(|log| log.exists())
        .map(|log| log.display().to_string())
        .collect();
    let file = fleet.ledger();
    let throttled = case.scene.name == "throttled";
    tokio::task::spawn_blocking(move || checked(&file, &rows, &logs, throttled))
        .await
        .map_err(|error| error.to_string())??;
    match case.scene.cast {
        Cast::Stores => stores::ends(&fleet.pool).await,
        Cast::Points(gift) => exchanges::ends(&fleet.pool, gift, deaths).await,
        Cast::Gifts(_) | Cast::Prepared(_) | Cast::Probes | Cast::Mails(_) | Cast::Batch(_) => {
            ends(&fleet.pool, case.provider, case.scene, deaths).await
        }
    }
}

fn checked(ledger: &Path, rows: &Path, logs: &[String], throttled: bool) -> Result<(), String> {
    let limits: Vec<String> = Partner::ALL.iter().map(|partner| format!("{}={LIMIT}", partner.name())).collect();
    let mut args = vec!["--quiescent", "--leaks"];
    args.extend(logs.iter().map(String::as_str));
    args.push("--limit");
    args.extend(limits.iter().map(String::as_str));
    if throttled {
        args.extend(["--retry-after", "--in-flight-ms", "800"]);
    }
    check(ledger, rows, &args)
}

/// What is said of a provider at the end.
#[derive(Debug, Default)]
struct Row {
    points: BTreeSet<String>,
    runs: usize,
    reached: usize,
    took: Duration,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sigkill_at_any_point_breaks_no_rule() {
    let _turn = crate::support::alone().await;
    let begun = Instant::now();
    let prepared = stream::iter(Provider::ALL).map(prepare).buffered(PARALLEL).collect::<Vec<_>>().await;
    let with = |scene: &'static Scene, provider: usize, crashes| Case {
        provider: Provider::ALL[provider],
        prepared: &prepared[provider],
        scene,
        crashes,
    };
    let scenes = || SCENES.iter().flat_map(|scene| (0..3).map(move |provider| (scene, provider)));
    let alone = [(&UNWINDING, 0), (&MAILING, 0), (&STORES, 0), (&STORES_EVERYWHERE, 0)];
    let others = (0..3)
        .map(|provider| (&IN_FLIGHT, provider))
        .chain(alone)
        .chain(exchanges::EXCHANGES.iter().map(|scene| (scene, 0)));
    let only = std::env::var("NOSHI_CRASH_SCENES").ok();
    let wanted = |scene: &Scene| only.as_deref().is_none_or(|only| scene.name.starts_with(only));
    let ran = scenes().chain(others).filter(|(scene, _)| wanted(scene));
    let dry: Vec<Case> = ran.map(|(scene, provider)| with(scene, provider, vec![])).collect();
    let (mut rows, mut failures) = (BTreeMap::<&str, Row>::new(), vec![]);
    let (mut cases, mut second) = (vec![], vec![]);
    for (case, ran, took) in run_all(dry).await {
        match ran {
            Ok(ran) => {
                let points = chosen(&ran.passed, case.scene.choose);
                rows.entry(case.provider.name()).or_default().points.extend(points.iter().map(|p| p.name.clone()));
                cases.extend(points.into_iter().map(|point| Case { crashes: vec![point], ..case.clone() }));
                // Where the first is killed from outside, the one that takes over is the second of a pair.
                let over = chosen(&ran.passed, Choose::First).into_iter().filter(|_| case.killed_before() > 0);
                second.extend(over.map(|then| Case { crashes: vec![then], ..case.clone() }));
            }
            Err(failure) => failures.push(failure),
        }
        rows.entry(case.provider.name()).or_default().took += took;
    }
    let mut killed_at = BTreeSet::new();
    for (case, ran, took) in run_all(cases).await {
        let row = rows.entry(case.provider.name()).or_default();
        (row.runs, row.took) = (row.runs + 1, row.took + took);
        match ran {
            Ok(ran) => {
                row.reached += ran.reached;
                killed_at.extend(case.crashes.iter().filter(|_| ran.reached > 0).map(|point| point.name.clone()));
                second.extend(
                    chosen(&ran.passed, Choose::First)
                        .into_iter()
                        .filter(|_| ran.reached > 0)
                        .map(|then| Case { crashes: vec![case.crashes[0].clone(), then], ..case.clone() }),
                );
            }
            Err(failure) => failures.push(failure),
        }
    }
    if std::env::var_os("NOSHI_CRASH_PAIRS").is_some() {
        let pairs = second.len();
        let failed: Vec<_> = run_all(second).await.into_iter().filter_map(|(_, ran, _)| ran.err()).collect();
        eprintln!("pairs: {pairs} runs, {} violations", failed.len());
        failures.extend(failed);
    }
    for (provider, row) in &rows {
        let violations = failures.iter().filter(|failure| failure.starts_with(provider)).count();
        let Row { points, runs, reached, took } = row;
        eprintln!(
            "{provider}: {} points, {runs} runs, {reached} reached, {violations} violations, {:.0} s of runs",
            points.len(),
            took.as_secs_f64()
        );
    }
    eprintln!("together {:.0} s, {PARALLEL} runs at once", begun.elapsed().as_secs_f64());
    assert!(failures.is_empty(), "{} runs failed:\n{}", failures.len(), failures.join("\n"));
    let whole = if only.is_some() { killed_at.clone() } else { in_the_source() };
    assert_eq!(killed_at, whole, "the crash points at which a worker was killed, and those in the source");
}

async fn run_all<'a>(cases: Vec<Case<'a>>) -> Vec<(Case<'a>, Result<Ran, String>, Duration)> {
    let run = async |case: Case<'a>| {
        let begun = Instant::now();
        let ran = case.run().await;
        (case, ran, begun.elapsed())
    };
    stream::iter(cases).map(run).buffer_unordered(PARALLEL).collect().await
}
