//! Each planted bug removes one defence. The checker must see it, and must see nothing in the same scene without it:
//! otherwise "no violations" would be no evidence.

use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use rustix::process::Signal;

use crate::{
    crash::is_stopped,
    dump::{check, dump},
    fleet::{Fleet, Process, Terms, fleet},
    processes::{count, until},
};
use noshi::{
    basics::chaos::Bug,
    lab::simulator::{Command, Errand, Fault, Op, Partner, Provider},
};

const PARALLEL: usize = 4;
const PATIENCE: Duration = Duration::from_secs(120);

/// What the checker has to name.
const fn invariant(bug: Bug) -> &'static str {
    match bug {
        Bug::NoFence | Bug::UnfencedUndo => "I9",
        Bug::IntentAfterSend => "I8",
        Bug::NewIdOnRetry => "R11",
        Bug::BlindRetry => "I1",
        Bug::NotFoundIsVoid => "I2b",
        Bug::NoTokens => "I5",
        Bug::NoRetryAfter => "I5b",
        Bug::CodeInJournal => "I6",
        Bug::MailBeforeCommit => "I14",
        Bug::DoubleCountedBatch => "I13",
        // The explorer's, whose judge sees value.
        Bug::WordAgainstFact => "",
    }
}

/// Lateness of calls on a busy machine is forgiven, where the rate is judged.
fn terms(bug: Bug) -> Terms {
    match bug {
        Bug::NotFoundIsVoid => Terms { settle: Duration::from_secs(3), ..Terms::default() },
        Bug::NoTokens => Terms { limit: 10, jitter: Duration::from_millis(500), ..Terms::default() },
        Bug::NoRetryAfter => Terms { limit: 20, jitter: Duration::from_millis(500), ..Terms::default() },
        Bug::NoFence
        | Bug::UnfencedUndo
        | Bug::IntentAfterSend
        | Bug::NewIdOnRetry
        | Bug::BlindRetry
        | Bug::CodeInJournal
        | Bug::MailBeforeCommit
        | Bug::DoubleCountedBatch
        | Bug::WordAgainstFact => Terms::default(),
    }
}

/// A scene: its workers, all armed with the bug or none.
struct Stage<'a> {
    fleet: &'a Fleet,
    armed: Option<&'static str>,
}

impl Stage<'_> {
    fn worker(&self, name: &str, stop: Option<&str>, args: &[&str]) -> Process {
        let bug = self.armed.map(|bug| ("NOSHI_BUG", bug));
        let env: Vec<(&str, &str)> = bug.into_iter().chain(stop.map(|point| ("NOSHI_STOP", point))).collect();
        self.fleet.worker(name, &env, args)
    }

    fn script(&self, provider: Provider, op: Op, fault: Fault, seconds: Option<u64>) {
        let script =
            Command::Script { provider: provider.into(), op: Some(op.into()), trade: None, fault, times: 1, seconds };
        self.fleet.control().apply(script).expect("a scripted fault");
    }

    async fn gifts(&self, category: &str, number: usize) {
        for n in 0..number {
            self.fleet.gift(&format!("g{n}"), category, 500).await;
        }
    }

    async fn number(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&self.fleet.pool).await.unwrap_or(-1)
    }

    /// Sets everything going that the bug would spoil.
    async fn start(&self, bug: Bug) -> Vec<Process> {
        match bug {
            Bug::NoFence => self.a_stopped_holder().await,
            Bug::UnfencedUndo => self.a_stopped_undo().await,
            Bug::IntentAfterSend => {
                self.gifts("amazon", 1).await;
                vec![self.worker("a", None, &[])]
            }
            Bug::NewIdOnRetry => {
                self.script(Provider::AmazonIncentives, Op::Issue, Fault::EffectThenReset, None);
                self.gifts("amazon", 1).await;
                vec![self.worker("a", None, &[])]
            }
            Bug::BlindRetry => {
                self.script(Provider::GiftOnDemand, Op::Issue, Fault::EffectThenReset, None);
                self.gifts("digital", 1).await;
                vec![self.worker("a", None, &[])]
            }
            Bug::NotFoundIsVoid => {
                self.script(Provider::GiftOnDemand, Op::Issue, Fault::EffectThenReset, None);
                self.script(Provider::GiftOnDemand, Op::Inquire, Fault::StaleInquiry, None);
                self.gifts("digital", 1).await;
                vec![self.worker("a", None, &[])]
            }
            Bug::NoTokens => {
                // One process alone is held back by its second guard, so several share the work.
                let workers = ["a", "b", "c", "d"].map(|name| self.worker(name, None, &["--slots", "4"]));
                until("four workers", PATIENCE, async || self.number("select count(*) from noshi.worker").await == 4)
                    .await;
                self.gifts("prepaid", 60).await;
                workers.into()
            }
            Bug::NoRetryAfter => {
                self.gifts("digital", 80).await;
                let workers = ["a", "b"].map(|name| self.worker(name, None, &[]));
                until("the first calls", PATIENCE, async || count(self.fleet, "arrival") > 5).await;
                self.script(Provider::GiftOnDemand, Op::Issue, Fault::ThrottleSeconds, Some(4));
                workers.into()
            }
            Bug::CodeInJournal | Bug::WordAgainstFact => {
                self.gifts("prepaid", 1).await;
                vec![self.worker("a", None, &[])]
            }
            Bug::MailBeforeCommit | Bug::DoubleCountedBatch => {
                crate::batches::announced(&self.fleet.pool, 3).await;
                vec![self.worker("a", None, &[])]
            }
        }
    }

    /// A holder is stopped after its call and before it is recorded; another takes the job over and finishes it; then the
    /// first goes on. Its own lease is long, so that its next heartbeat does not end it before it writes.
    async fn a_stopped_holder(&self) -> Vec<Process> {
        self.script(Provider::GiftOnDemand, Op::Issue, Fault::EffectThenReset, None);
        self.gifts("digital", 1).await;
        let first = self.worker("first", Some("settle.before@1"), &["--lease-ms", "60000"]);
        until("the first is stopped", PATIENCE, async || is_stopped(first.pid())).await;
        let second = self.worker("second", None, &[]);
        let done = "select count(*) from noshi.job where status = 'completed'";
        until("the second has finished", PATIENCE, async || self.number(done).await == 1).await;
        first.signal(Signal::CONT);
        if self.armed.is_none() {
            until("the first is refused", PATIENCE, async || {
                std::fs::read_to_string(&first.log).unwrap_or_default().contains("stale:")
            })
            .await;
        }
        vec![first, second]
    }

    /// The same, of a holder that has deleted the shop of a refused organisation.
    async fn a_stopped_undo(&self) -> Vec<Process> {
        let control = self.fleet.control();
        let (fault, partner) = (Fault::EffectThenReset, Partner::OrganizationPlatform);
        control.script(partner, Errand::DeleteShop, fault, 1).expect("a scripted fault");
        self.fleet.store("NOSERVICE-1", "S-1", "batch-1").await;
        let first = self.worker("first", Some("unwind.after@1"), &["--lease-ms", "60000"]);
        until("the first is stopped", PATIENCE, async || is_stopped(first.pid())).await;
        let second = self.worker("second", None, &[]);
        let done = "select count(*) from noshi.job where status = 'failed' and outcome = 'compensated'";
        until("the second has finished", PATIENCE, async || self.number(done).await == 1).await;
        first.signal(Signal::CONT);
        if self.armed.is_none() {
            until("the first is refused", PATIENCE, async || {
                std::fs::read_to_string(&first.log).unwrap_or_default().contains("stale:")
            })
            .await;
        }
        vec![first, second]
    }

    async fn judge(&self, bug: Bug, quiescent: bool) -> Result<(), String> {
        let (ledger, rows) = (self.fleet.ledger(), self.fleet.dir.path().join("dump"));
        dump(&self.fleet.url, &rows).await;
        let limit = terms(bug).limit;
        let mut args = vec!["--limit".to_owned()];
        args.extend(Provider::ALL.map(|provider| format!("{}={limit}", provider.name())));
        args.extend(quiescent.then(|| "--quiescent".to_owned()));
        if bug == Bug::NoRetryAfter {
            args.extend(["--retry-after", "--in-flight-ms", "1500"].map(str::to_owned));
        }
        let args = move || check(&ledger, &rows, &args.iter().map(String::as_str).collect::<Vec<_>>());
        tokio::task::spawn_blocking(args).await.expect("the checker runs")
    }
}

/// How long it took until the checker named the invariant.
async fn with_bug(bug: Bug, name: &'static str) -> Result<Duration, String> {
    let fleet = fleet(terms(bug)).await;
    // The database's own walls stand behind some of these defences; here the checker is tried.
    let walls = "alter table noshi.job disable trigger hands; alter table noshi.job disable trigger follows;
        alter table noshi.job_event disable trigger of_workers; alter table noshi.gift_outcome disable trigger of_a_job_in_flight";
    sqlx::raw_sql(walls).execute(&fleet.pool).await.expect("no walls");
    let stage = Stage { fleet: &fleet, armed: Some(name) };
    let begun = Instant::now();
    let workers = stage.start(bug).await;
    let mut said = String::new();
    while begun.elapsed() < PATIENCE {
        said = stage.judge(bug, false).await.err().unwrap_or_default();
        if said.lines().any(|line| line.split(' ').next() == Some(invariant(bug))) {
            drop(workers);
            return Ok(begun.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Err(format!("{name} was not caught by {} within {PATIENCE:?}; the checker said: {said}", invariant(bug)))
}

/// The same scene as it should be.
async fn without_bug(bug: Bug, name: &'static str) -> Result<Duration, String> {
    let fleet = fleet(terms(bug)).await;
    let stage = Stage { fleet: &fleet, armed: None };
    let begun = Instant::now();
    let workers = stage.start(bug).await;
    // The mails of a batch wait for a service that nobody named.
    let batch = matches!(bug, Bug::MailBeforeCommit | Bug::DoubleCountedBatch);
    if batch {
        let announced = "select count(*) from noshi.job where kind = 'bulk_grants' and status = 'completed'";
        until("the batch is announced", PATIENCE, async || stage.number(announced).await == 1).await;
    } else {
        fleet.at_rest(PATIENCE).await?;
    }
    stage.judge(bug, !batch).await.map_err(|said| format!("without {name}: {said}"))?;
    if batch {
        let holds = stage.number("select p.holds::int::bigint from noshi.batch_progress(1) p").await;
        return if holds == 1 {
            Ok(begun.elapsed())
        } else {
            Err(format!("without {name}: the batch does not add up"))
        };
    }
    let jobs = stage.number("select count(*) from noshi.job").await;
    if bug == Bug::UnfencedUndo {
        let clean = "select count(*) from noshi.job where status = 'failed' and outcome = 'compensated'";
        let clean = stage.number(clean).await;
        return if clean == 1 { Ok(begun.elapsed()) } else { Err(format!("without {name}: it is not compensated")) };
    }
    let completed = stage.number("select count(*) from noshi.job where status = 'completed'").await;
    drop(workers);
    match completed == jobs && i64::try_from(count(&fleet, "issued")) == Ok(jobs) {
        true => Ok(begun.elapsed()),
        false => Err(format!("without {name}: {completed} of {jobs} jobs completed")),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_planted_bug_is_caught_and_nothing_else_is() {
    let _turn = crate::support::alone().await;
    let begun = Instant::now();
    let run =
        async |(bug, name): (Bug, &'static str)| (bug, name, with_bug(bug, name).await, without_bug(bug, name).await);
    let results: Vec<_> = stream::iter(Bug::ALL.into_iter().filter(|(bug, _)| *bug != Bug::WordAgainstFact))
        .map(run)
        .buffered(PARALLEL)
        .collect()
        .await;
    let mut failures = vec![];
    for (bug, name, caught, clean) in results {
        if let (Ok(caught), Ok(clean)) = (&caught, &clean) {
            eprintln!(
                "{name}: caught by {} after {:.1} s; without it 0 violations ({:.1} s)",
                invariant(bug),
                caught.as_secs_f64(),
                clean.as_secs_f64()
            );
        }
        failures.extend([caught, clean].into_iter().filter_map(Result::err));
    }
    eprintln!("together {:.0} s, {PARALLEL} at once", begun.elapsed().as_secs_f64());
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
