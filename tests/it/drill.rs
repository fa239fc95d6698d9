//! The fire drill: each alert's fault is provoked in a real fleet, is heard of, and is over when the fault is fixed.
//!
//! What is shorter than in production: every span of the rules and of Alertmanager (by one factor, see `stage`), Prometheus's
//! intervals (1 s), the pauses between tries of a deletion and between two looks at the fleet's metric snapshot (by a superuser's hand).
//! What is no real fault but a superuser's hand in the rows: the batch that does not add up, the hour after which bounces
//! are forgotten, the mark of a restore, and the notifications that nobody takes.

pub mod stage;

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::{process::Child, task::JoinSet};

use stage::{FACTOR, Stage, free_address};

use crate::{
    alerts::source,
    debian::unpack,
    engine::probe,
    failover::{Follows, Scene},
    fleet::{Fleet, Process, Terms, fleet_on_url},
    links::link_to,
    processes::until,
};
use noshi::{
    db::{self, PgPool},
    lab::{
        private_postgres::{PrivatePostgres, Settings},
        simulator::{Command as Order, Errand, Fault, Op, Partner, Provider, Sending},
    },
};

const SOON: Duration = Duration::from_secs(90);
/// What needs a server that is lost, or a way to it that falls silent: heard of in a drill of their own.
const OF_THE_SERVER: [&str; 4] =
    ["NoshiConnectionsGivenUp", "NoshiClockWentBack", "NoshiTimelineChanged", "NoshiCommitsLost"];

struct Drill {
    server: PrivatePostgres,
    fleet: Fleet,
    stage: Stage,
    addresses: [String; 4],
    library: tempfile::TempDir,
    /// Ends with the drill.
    _hands: JoinSet<()>,
}

async fn sql(pool: &PgPool, sql: &str) -> u64 {
    let ran = sqlx::query(AssertSqlSafe(sql)).execute(pool).await;
    ran.unwrap_or_else(|error| panic!("{sql}: {error}")).rows_affected()
}

async fn number(pool: &PgPool, sql: &str) -> i64 {
    sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(pool).await.unwrap_or_else(|error| panic!("{sql}: {error}"))
}

/// What nobody waits for in a drill.
pub async fn hurry(pool: PgPool) {
    let mut tick = tokio::time::interval(Duration::from_millis(500));
    loop {
        tick.tick().await;
        // Not while a fault of the drill holds these rows.
        let snapshot = "update noshi.metric_snapshot_taken set next_at = clock_timestamp() where next_at > clock_timestamp() + interval '1 second'
            and next_at < clock_timestamp() + interval '50 seconds'";
        let deletions = "update noshi.job set run_at = clock_timestamp() where status = 'retryable' and undo is not null and run_at > clock_timestamp()";
        for statement in ["set lock_timeout = '100ms'", snapshot, deletions] {
            let _ = sqlx::query(AssertSqlSafe(statement)).execute(&pool).await;
        }
    }
}

fn hurry_of(pool: &PgPool) -> JoinSet<()> {
    let mut hands = JoinSet::new();
    hands.spawn(hurry(pool.clone()));
    hands
}

/// Gifts of this category, some each second, until dropped.
fn feed(fleet: &Fleet, name: &'static str, category: &'static str) -> JoinSet<()> {
    let pool = fleet.pool.clone();
    let mut feeding = JoinSet::new();
    feeding.spawn(async move {
        let mut tick = tokio::time::interval(Duration::from_millis(200));
        for n in 0.. {
            tick.tick().await;
            let grant = format!("{name}-{n}");
            let args = json!({"grant": grant, "user": "u1", "category": category, "value": {"amount": 500, "currency": "JPY"}});
            let _ = sqlx::query("select noshi.enqueue('gift_issuance', $1, $2)").bind(grant).bind(args).execute(&pool).await;
        }
    });
    feeding
}

impl Drill {
    async fn begin() -> Result<Drill, String> {
        let library = unpack("libfaketime").await?;
        let settings = Settings { durable: false, max_connections: 80, ..Settings::default() };
        let server = PrivatePostgres::start(settings).await.expect("a server");
        let url = server.url("postgres");
        db::migrate(&url).await.expect("the schema");
        let fleet = fleet_on_url(
            url,
            Terms {
                mails: true,
                horizon: Duration::from_secs(3_600),
                call_timeout: Duration::from_secs(3),
                ..Terms::default()
            },
        )
        .await;
        for lane in ["probe", "quiet"] {
            db::queue::lanes::declare(&fleet.pool, lane, &[]).await.expect("a lane");
        }
        let addresses = [free_address(), free_address(), free_address(), free_address()];
        let stage = Stage::set(fleet.dir.path(), &addresses).await?;
        let hands = hurry_of(&fleet.pool);
        Ok(Drill { server, fleet, stage, addresses, library, _hands: hands })
    }

    /// The worker at one of the addresses; its clock is what a file says.
    fn worker(&self, name: &str, at: usize) -> Process {
        let clock = self.fleet.dir.path().join("clock");
        let library = std::fs::read_dir(self.library.path().join("usr/lib")).unwrap().flatten();
        let library: PathBuf = library
            .map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"))
            .find(|file| file.is_file())
            .unwrap();
        let faked = [
            ("LD_PRELOAD", library.to_str().unwrap()),
            ("FAKETIME_TIMESTAMP_FILE", clock.to_str().unwrap()),
            ("FAKETIME_NO_CACHE", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ];
        // Alerts look back over seconds here instead of minutes, and so does whoever leaves a partner alone.
        let faster = FACTOR.to_string();
        let env = [if name == "clock" { &faked[..] } else { &[] }, &[("NOSHI_TEST_FASTER", &*faster)]].concat();
        self.fleet.worker(name, &env, &["--metrics", &self.addresses[at]])
    }

    /// The worker at the fourth address: its keys for mail lie in a file of its own, and so does what it is told of the service.
    fn odd(&self, config: &str) -> Process {
        let keys = self.keys().display().to_string();
        let config = self.fleet.dir.path().join(config).display().to_string();
        let faster = FACTOR.to_string();
        let env = [
            ("AWS_SHARED_CREDENTIALS_FILE", &*keys),
            ("HOME", "/nowhere"),
            ("NOSHI_CONFIG", &*config),
            ("NOSHI_TEST_FASTER", &*faster),
        ];
        self.fleet.worker("odd", &env, &["--metrics", &self.addresses[3]])
    }

    fn keys(&self) -> PathBuf {
        self.fleet.dir.path().join("keys")
    }

    fn keys_are_there(&self) {
        let keys = "[default]\naws_access_key_id = AKIDEXAMPLESES\naws_secret_access_key = demo-secret\n";
        std::fs::write(self.keys(), keys).expect("a file");
    }

    /// Mails for ever.
    async fn mails(&self) {
        let mut tick = tokio::time::interval(Duration::from_millis(200));
        for n in 0.. {
            tick.tick().await;
            self.fleet.mail(&format!("odd-{n}"), "hana@d.example.jp").await;
        }
    }

    fn clock(&self, offset: &str) {
        std::fs::write(self.fleet.dir.path().join("clock"), offset).expect("a file");
    }

    /// A person's command.
    async fn says(&self, arguments: &[&str]) -> Value {
        let said = self.fleet.command(&[arguments, &["-o", "json"]].concat()).await;
        assert!(said.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&said.stderr));
        serde_json::from_slice(&said.stdout).unwrap_or_default()
    }

    fn scene(&self, scene: &Value) {
        let mut command = scene.clone();
        command["do"] = "platform".into();
        self.fleet.control().apply(serde_json::from_value(command).expect("a scene")).expect("it is simulated");
    }

    /// A session that leaves a transaction open.
    async fn session(&self, begun: &[&str]) -> PgConnection {
        let mut session = PgConnection::connect(&self.fleet.url).await.expect("a session");
        for statement in begun {
            sqlx::raw_sql(AssertSqlSafe(*statement)).execute(&mut session).await.expect("a statement");
        }
        session
    }

    /// Streams the log of the server, as a standby does.
    async fn standby(&self) -> Child {
        let programs = "select setting from pg_config where name = 'BINDIR'";
        let programs: String = sqlx::query_scalar(programs).fetch_one(&self.fleet.pool).await.unwrap();
        let kept = self.fleet.dir.path().join("standby");
        std::fs::create_dir_all(&kept).unwrap();
        let mut receive = tokio::process::Command::new(Path::new(&programs).join("pg_receivewal"));
        let socket = self.server.directory().display().to_string();
        receive.args(["-h", &socket, "-p", "5432", "-U", "postgres", "-D"]).arg(kept);
        let standby =
            receive.stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true).spawn().expect("a standby");
        until("the standby", SOON, async || {
            number(&self.fleet.pool, "select count(*) from pg_stat_replication").await == 1
        })
        .await;
        standby
    }

    async fn nothing_is_heard_of_a_good_day(&self) {
        for category in ["amazon", "digital", "prepaid"] {
            for n in 0..20 {
                self.fleet.gift(&format!("good-{category}-{n}"), category, 500).await;
            }
        }
        self.fleet.at_rest(SOON).await.unwrap();
        until("a quarter of an hour of samples", SOON, async || {
            let seen = self.stage.query(
                "min(count_over_time(up{job=\"noshi\"}[15s])) >= 14 and on () max(noshi_database_standbys) == 1",
            );
            seen.await.is_ok_and(|seen| !seen.is_empty())
        })
        .await;
        crate::dashboard::answers(&self.stage).await;
        // Starting is no fault either, except that nobody was there to be scraped.
        let heard = self.stage.notices.all();
        let beyond =
            heard.iter().filter(|notice| !["NoshiNoWorker", "NoshiTargetDown"].contains(&notice.name.as_str()));
        assert_eq!(beyond.collect::<Vec<_>>().len(), 0, "{heard:?}");
    }
}

/// A failing drill shows what stands still.
impl Drop for Drill {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let open = "select json_agg(j)::text from (select id, kind, key, status, at, code, lane, in_doubt, retries, run_at - now() as due from noshi.job
                where in_doubt or status not in ('completed', 'failed') order by id limit 20) j";
            let open = tokio::task::block_in_place(|| {
                tokio::runtime::Handle::current()
                    .block_on(sqlx::query_scalar::<_, Option<String>>(open).fetch_one(&self.fleet.pool))
            });
            eprintln!("{open:?}");
        }
    }
}

/// Each fault, its alert, its fixing. They run side by side where they do not meet.
impl Drill {
    async fn a_lane_is_paused(&self) {
        let began = Instant::now();
        self.says(&["lane", "pause", "quiet", "--reason", "drill"]).await;
        self.stage.arrives("NoshiLanePaused", &[("lane", "quiet")], began).await;
        let fixed = Instant::now();
        self.says(&["lane", "resume", "quiet", "--reason", "drill"]).await;
        self.stage.resolves("NoshiLanePaused", fixed).await;
    }

    /// Answers are lost after the effect, for writes and for questions.
    async fn a_provider_is_not_heard(&self) {
        let began = Instant::now();
        self.fleet.control().mode(Provider::AmazonIncentives, Some(Fault::EffectThenReset)).unwrap();
        let feeding = feed(&self.fleet, "unheard", "amazon");
        self.stage.arrives("NoshiProviderErrors", &[("provider", "amazon_incentives")], began).await;
        self.stage.arrives("NoshiInDoubt", &[], began).await;
        drop(feeding);
        let fixed = Instant::now();
        self.fleet.control().mode(Provider::AmazonIncentives, None).unwrap();
        // The fleet had left the partner alone for a while: whoever knows that it is well says so.
        self.says(&["lane", "resume", "gift/amazon_incentives", "--reason", "it is well again"]).await;
        let pool = self.fleet.pool.clone();
        let mut hurry = JoinSet::new();
        hurry.spawn(async move {
            let mut tick = tokio::time::interval(Duration::from_secs(1));
            loop {
                tick.tick().await;
                sql(&pool, "update noshi.job set run_at = clock_timestamp() where status in ('retryable', 'scheduled') and in_doubt").await;
            }
        });
        tokio::join!(self.stage.resolves("NoshiProviderErrors", fixed), self.stage.resolves("NoshiInDoubt", fixed));
    }

    async fn an_account_is_empty(&self) {
        let began = Instant::now();
        self.fleet.control().fund(Provider::TangoCard, 0).unwrap();
        let gift = self.fleet.gift("no-funds", "prepaid", 500).await;
        self.stage.arrives("NoshiLaneOutOfFunds", &[("lane", "gift/tango_card")], began).await;
        let fixed = Instant::now();
        self.fleet.control().fund(Provider::TangoCard, 10_000_000).unwrap();
        self.says(&["lane", "resume", "gift/tango_card", "--reason", "topped up"]).await;
        self.stage.resolves("NoshiLaneOutOfFunds", fixed).await;
        self.ends(gift, "completed").await;
    }

    async fn ends(&self, job: i64, status: &str) {
        let is = format!("select count(*) from noshi.job where id = {job} and status = '{status}'");
        until(&format!("job {job} {status}"), SOON, async || number(&self.fleet.pool, &is).await == 1).await;
    }

    async fn parked(&self, jobs: &[i64], code: &str) {
        let jobs_of = jobs.iter().map(i64::to_string).collect::<Vec<_>>().join(",");
        let parked = format!(
            "select count(*) from noshi.job where id in ({jobs_of}) and status = 'needs_operator' and code = '{code}'"
        );
        let what = format!("{jobs:?} parked as {code}");
        until(&what, SOON, async || number(&self.fleet.pool, &parked).await as usize == jobs.len()).await;
    }

    /// The order never arrived, and the provider's "not found" proves nothing.
    async fn a_gift_asks_for_a_person(&self) {
        let began = Instant::now();
        self.fleet.control().script(Provider::GiftOnDemand, Op::Issue, Fault::ResetBeforeEffect, 1).unwrap();
        let gift = self.fleet.gift("asks", "digital", 500).await;
        self.stage.arrives("NoshiNeedsOperator", &[("code", "not_found_in_doubt")], began).await;
        let fixed = Instant::now();
        let job = gift.to_string();
        // As the schema's owner may say it: for once one person suffices.
        self.says(&["proposal", "cap", "set", "--currency", "JPY", "--alone", "1000"]).await;
        for (act, then) in [("attest_void", "gift_void"), ("reject", "")] {
            self.says(&["job", "resolve", &job, "--as", act, "--reason", "their letter"]).await;
            match then {
                "" => self.ends(gift, "failed").await,
                code => self.parked(&[gift], code).await,
            }
        }
        self.stage.resolves("NoshiNeedsOperator", fixed).await;
    }

    async fn probe(&self, name: &str, answer: &str, in_doubt: &str) -> i64 {
        let args = json!({"id": name, "steps": 2, "lane": "probe", "answers": [answer], "in_doubt": in_doubt});
        probe(&self.fleet.pool, args).await
    }

    /// A step that panics, one that never ends, and a re-drive before anything is fixed.
    async fn bugs(&self) {
        let began = Instant::now();
        let panics = self.probe("panics", "panic", "ask").await;
        let hangs = self.probe("hangs", "hang", "ask").await;
        let mut asks = vec![];
        for n in 0..3 {
            asks.push(self.probe(&format!("asks-{n}"), "ask", "ask").await);
        }
        self.parked(&asks, "probe_asked").await;
        self.says(&["redrive", "plan", "--kind", "probe", "--code", "probe_asked", "--since", "1h"]).await;
        let redrive = number(&self.fleet.pool, "select max(id) from noshi.redrive").await.to_string();
        let applied = self.fleet.command(&["redrive", "apply", &redrive, "--reason", "hope", "--canary", "1"]).await;
        let said = String::from_utf8_lossy(&applied.stderr).into_owned();
        assert!(!applied.status.success() && said.contains("paused by canary"), "{said}");
        tokio::join!(
            self.stage.arrives("NoshiUnexpectedOutcome", &[("code", "panicked")], began),
            self.stage.arrives("NoshiBudgetExhausted", &[("code", "over_deadline")], began),
            self.stage.arrives("NoshiRedrivePaused", &[], began),
        );
        let fixed = Instant::now();
        sql(
            &self.fleet.pool,
            "update noshi.job set args = args - 'answers' where kind = 'probe' and key not like 'held-%'",
        )
        .await;
        for job in [panics, hangs, asks[0]] {
            let act = if job == asks[0] { "retry" } else { "inquire" };
            self.says(&["job", act, &job.to_string(), "--reason", "fixed"]).await;
        }
        self.says(&["redrive", "resume", &redrive, "--reason", "fixed"]).await;
        tokio::join!(
            self.stage.resolves("NoshiUnexpectedOutcome", fixed),
            self.stage.resolves("NoshiBudgetExhausted", fixed),
            self.stage.resolves("NoshiRedrivePaused", fixed),
        );
        for job in [panics, hangs].into_iter().chain(asks) {
            self.ends(job, "completed").await;
        }
    }

    /// A shop that is taken back and cannot be deleted, in a batch that a superuser's hand made not to add up.
    async fn a_shop_stays_and_its_batch_does_not_add_up(&self) {
        let began = Instant::now();
        self.scene(&json!({"scene": "deletes", "answer": "failing"}));
        let file = self.fleet.dir.path().join("stores.csv");
        std::fs::write(&file, "organization_id,public_id,name,address,phone\nNOSERVICE-1,S-1,S-1 店,,\n").unwrap();
        self.says(&["batch", "submit", "--kind", "stores", file.to_str().unwrap()]).await;
        let batch = number(&self.fleet.pool, "select max(id) from noshi.batch").await;
        self.says(&["batch", "release", &batch.to_string(), "--reason", "a drill", "--yes"]).await;
        let miscount = |by: i32| format!("update noshi.batch set rows = rows + {by} where id = {batch}");
        assert_eq!(sql(&self.fleet.pool, &miscount(1)).await, 1);
        tokio::join!(
            self.stage.arrives("NoshiBatchEquationBroken", &[], began),
            self.stage.arrives("NoshiCompensationStuck", &[], began),
        );
        let fixed = Instant::now();
        sql(&self.fleet.pool, &miscount(-1)).await;
        self.scene(&json!({"scene": "deletes", "answer": "normal"}));
        tokio::join!(
            self.stage.resolves("NoshiBatchEquationBroken", fixed),
            self.stage.resolves("NoshiCompensationStuck", fixed),
        );
    }

    async fn mails_come_back(&self) {
        let began = Instant::now();
        for n in 0..30 {
            let local = if n % 3 == 0 { "bounce" } else { "hana" };
            self.fleet.mail(&format!("mail-{n}"), &format!("{local}@d{n}.example.jp")).await;
        }
        self.stage.arrives("NoshiMailBounces", &[], began).await;
        let fixed = Instant::now();
        sql(&self.fleet.pool, "update noshi.email_event set received_at = received_at - interval '2 hours'").await;
        self.stage.resolves("NoshiMailBounces", fixed).await;
    }

    /// The account may not send in this sender's name any more.
    async fn a_sender_is_refused(&self) {
        let began = Instant::now();
        self.fleet.control().apply(Order::Sending { state: Sending::Unverified }).unwrap();
        self.fleet.mail("refused", "hana@d.example.jp").await;
        self.stage.arrives("NoshiLaneRefusesSender", &[("lane", "email/ses")], began).await;
        let fixed = Instant::now();
        self.fleet.control().apply(Order::Sending { state: Sending::Enabled }).unwrap();
        self.says(&["lane", "resume", "email/ses", "--reason", "verified"]).await;
        self.stage.resolves("NoshiLaneRefusesSender", fixed).await;
    }

    /// An event of a shape that nobody knows.
    async fn an_event_is_not_understood(&self) {
        let began = Instant::now();
        let event = "insert into noshi.email_event (id, event, oddity) values ('odd', 'unheard_of', 'unread')";
        sql(&self.fleet.pool, event).await;
        self.stage.arrives("NoshiMailEventsUnread", &[], began).await;
        let fixed = Instant::now();
        sql(
            &self.fleet.pool,
            "update noshi.email_event set received_at = received_at - interval '2 days' where id = 'odd'",
        )
        .await;
        self.stage.resolves("NoshiMailEventsUnread", fixed).await;
    }

    /// One machine has lost its keys; then it is told of a mail service that speaks no TLS.
    async fn one_machine_is_not_as_the_others(&self, odd: Process) -> Process {
        let instance = [("instance", self.addresses[3].as_str()), ("why", "keys")];
        assert!(odd.stop().await.success());
        std::fs::remove_file(self.keys()).unwrap();
        let (began, odd) = (Instant::now(), self.odd("noshi.toml"));
        self.stage.arrives("NoshiProcessKeptAway", &instance, began).await;
        assert!(odd.stop().await.success());
        self.keys_are_there();
        let (fixed, odd) = (Instant::now(), self.odd("noshi.toml"));
        self.stage.resolves("NoshiProcessKeptAway", fixed).await;
        assert!(odd.stop().await.success());

        let config = std::fs::read_to_string(self.fleet.dir.path().join("noshi.toml")).unwrap();
        let service = self.fleet.simulator.base_url(Partner::Ses);
        let odd = config.replace(&service, &service.replace("http://", "https://"));
        assert!(odd != config);
        std::fs::write(self.fleet.dir.path().join("odd.toml"), odd).unwrap();
        let (began, odd) = (Instant::now(), self.odd("odd.toml"));
        self.stage.arrives("NoshiLaneNotPrivate", &[("lane", "email/ses")], began).await;
        assert!(odd.stop().await.success());
        let (fixed, odd) = (Instant::now(), self.odd("noshi.toml"));
        self.says(&["lane", "resume", "email/ses", "--reason", "fixed"]).await;
        self.stage.resolves("NoshiLaneNotPrivate", fixed).await;
        odd
    }

    /// A step that holds its thread past every deadline. Its worker lives, and gives it up.
    async fn a_step_is_stuck(&self) {
        let began = Instant::now();
        let stuck = self.probe("stuck", "block", "go_to").await;
        self.stage.arrives("NoshiStuckJobs", &[], began).await;
        let over = Instant::now();
        self.ends(stuck, "completed").await;
        self.stage.resolves("NoshiStuckJobs", over).await;
    }

    async fn a_report_is_left_open(&self) {
        let began = Instant::now();
        let session = self.session(&["begin isolation level repeatable read", "select count(*) from noshi.job"]).await;
        self.stage.arrives("NoshiSnapshotHeld", &[], began).await;
        let fixed = Instant::now();
        session.close().await.unwrap();
        self.stage.resolves("NoshiSnapshotHeld", fixed).await;
    }

    async fn the_standby_goes(&self, mut standby: Child) -> Child {
        let began = Instant::now();
        standby.kill().await.unwrap();
        self.stage.arrives("NoshiStandbyGone", &[], began).await;
        let fixed = Instant::now();
        let standby = self.standby().await;
        self.stage.resolves("NoshiStandbyGone", fixed).await;
        standby
    }

    /// Points that were due yesterday, and no schedule that finds them; then one, of which a person thought better.
    async fn an_expiry_is_forgotten(&self) {
        let (pool, began) = (&self.fleet.pool, Instant::now());
        let old = "select noshi.book_grant(clock_timestamp() - interval '9 days', 'acquire:old:1', 'u1', 5, 'old', '1', clock_timestamp() - interval '1 day', null, null)";
        sql(pool, old).await;
        self.stage.arrives("NoshiPointsExpiryLate", &[], began).await;
        let fixed = Instant::now();
        self.says(&[
            "schedule",
            "set",
            "expiry",
            "--kind",
            "point_expiry",
            "--cron",
            "0 5 * * *",
            "--zone",
            "Asia/Tokyo",
            "--args",
            "{\"due\":\"{due}\"}",
            "--missed",
            "latest",
            "--reason",
            "drill",
        ])
        .await;
        self.says(&["schedule", "trigger", "expiry", "--reason", "late"]).await;
        self.stage.resolves("NoshiPointsExpiryLate", fixed).await;

        // Its due time comes, and it is stuck.
        let began = Instant::now();
        sql(pool, "update noshi.schedule set next_due = clock_timestamp() - interval '1 hour', stuck = 'its id exists with other arguments'").await;
        self.stage.arrives("NoshiScheduleLate", &[], began).await;
        let fixed = Instant::now();
        self.says(&["schedule", "resume", "expiry", "--reason", "the arguments are fixed"]).await;
        self.stage.resolves("NoshiScheduleLate", fixed).await;
    }

    async fn a_clock_runs_ahead(&self) {
        let began = Instant::now();
        self.clock("+30s");
        self.stage.arrives("NoshiClockOff", &[("instance", &self.addresses[2])], began).await;
        let fixed = Instant::now();
        self.clock("+0s");
        self.stage.resolves("NoshiClockOff", fixed).await;
    }

    /// SIGKILL, with jobs in its hands.
    async fn a_worker_dies(&self, worker: Process) -> Process {
        let mut held = vec![];
        for n in 0..12 {
            held.push(self.probe(&format!("held-{n}"), "hang", "repeat").await);
        }
        let holds = "select count(*) from noshi.job j join noshi.worker w on w.id = j.worker where w.name = 'b' and j.status = 'running'";
        until("jobs in its hands", SOON, async || number(&self.fleet.pool, holds).await > 0).await;
        let (began, instance) = (Instant::now(), [("instance", self.addresses[1].as_str())]);
        worker.signal(rustix::process::Signal::KILL);
        tokio::join!(
            self.stage.arrives("NoshiRescues", &[], began),
            self.stage.arrives("NoshiTargetDown", &instance, began),
        );
        let fixed = Instant::now();
        sql(&self.fleet.pool, "update noshi.job set args = args - 'answers' where key like 'held-%'").await;
        let worker = self.worker("b", 1);
        tokio::join!(self.stage.resolves("NoshiRescues", fixed), self.stage.resolves("NoshiTargetDown", fixed));
        for job in held {
            self.ends(job, "completed").await;
        }
        worker
    }

    async fn connections_run_out(&self) {
        let began = Instant::now();
        let left = "select current_setting('max_connections')::bigint - count(*) from pg_stat_activity where backend_type = 'client backend'";
        let mut sessions = vec![];
        // Whatever others give back is taken too, until it is heard of.
        let leaks = async {
            let mut tick = tokio::time::interval(Duration::from_millis(100));
            loop {
                tick.tick().await;
                while number(&self.fleet.pool, left).await > 7 {
                    sessions.push(self.session(&[]).await);
                }
            }
        };
        tokio::select! {
            () = leaks => {}
            () = self.stage.arrives("NoshiConnectionsLow", &[], began) => {}
        }
        let fixed = Instant::now();
        drop(sessions);
        self.stage.resolves("NoshiConnectionsLow", fixed).await;
    }

    async fn a_key_is_refused(&self) {
        let began = Instant::now();
        self.fleet.control().block(Provider::AmazonIncentives, true).unwrap();
        let gift = self.fleet.gift("blocked", "amazon", 500).await;
        self.stage.arrives("NoshiLaneBadCredentials", &[("lane", "gift/amazon_incentives")], began).await;
        let fixed = Instant::now();
        self.fleet.control().block(Provider::AmazonIncentives, false).unwrap();
        self.says(&["lane", "resume", "gift/amazon_incentives", "--reason", "fixed"]).await;
        self.stage.resolves("NoshiLaneBadCredentials", fixed).await;
        self.ends(gift, "completed").await;
    }

    async fn a_provider_throttles(&self) {
        let began = Instant::now();
        let mode = |fault| Order::Mode {
            provider: Partner::Gift(Provider::GiftOnDemand),
            op: Some(Errand::Gift(Op::Issue)),
            fault,
            seconds: Some(1),
        };
        self.fleet.control().apply(mode(Some(Fault::ThrottleSeconds))).unwrap();
        let feeding = feed(&self.fleet, "throttled", "digital");
        self.stage.arrives("NoshiThrottled", &[("provider", "gift_on_demand")], began).await;
        drop(feeding);
        let fixed = Instant::now();
        self.fleet.control().apply(mode(None)).unwrap();
        self.stage.resolves("NoshiThrottled", fixed).await;
    }

    /// An operator's session that touched every lane and was left open.
    async fn nothing_is_handed_out(&self) {
        let began = Instant::now();
        let session = self.session(&["begin", "select name from noshi.lane for update"]).await;
        for n in 0..10 {
            self.fleet.gift(&format!("stalled-{n}"), "digital", 500).await;
            self.probe(&format!("stalled-{n}"), "ok", "ask").await;
        }
        tokio::join!(self.stage.arrives("NoshiStalled", &[], began), self.stage.arrives("NoshiJobsWait", &[], began));
        let fixed = Instant::now();
        session.close().await.unwrap();
        tokio::join!(self.stage.resolves("NoshiStalled", fixed), self.stage.resolves("NoshiJobsWait", fixed));
    }

    /// A lock on a table that every gift has to write before its first call.
    async fn a_table_is_locked(&self) {
        let began = Instant::now();
        let session = self.session(&["begin", "lock table noshi.gift_trade in exclusive mode"]).await;
        for n in 0..400 {
            self.fleet.gift(&format!("locked-{n}"), "digital", 500).await;
        }
        tokio::join!(
            self.stage.arrives("NoshiMetricSnapshotStale", &[], began),
            self.stage.arrives("NoshiPoolExhausted", &[], began),
        );
        let fixed = Instant::now();
        session.close().await.unwrap();
        tokio::join!(
            self.stage.resolves("NoshiMetricSnapshotStale", fixed),
            self.stage.resolves("NoshiPoolExhausted", fixed),
        );
    }

    async fn nobody_works(&self, workers: [Process; 4]) -> [Process; 4] {
        let began = Instant::now();
        let ended = workers.map(|worker| tokio::spawn(worker.stop()));
        for ended in ended {
            assert!(ended.await.expect("it is awaited").success());
        }
        self.stage.arrives("NoshiNoWorker", &[], began).await;
        let fixed = Instant::now();
        let workers = [self.worker("a", 0), self.worker("b", 1), self.worker("clock", 2), self.odd("noshi.toml")];
        self.stage.resolves("NoshiNoWorker", fixed).await;
        workers
    }

    /// What gave up under a fault is asked to go on, as an operator does it; then nothing is open.
    /// A restore is marked, by hand: two people's word, or a loss, would put in doubt what the drill has begun.
    async fn a_restore_is_marked(&self) {
        let (pool, began) = (&self.fleet.pool, Instant::now());
        sql(pool, "update noshi.server_seen set restored_to = clock_timestamp()").await;
        self.stage.arrives("NoshiRestoreMarked", &[], began).await;
        let fixed = Instant::now();
        sql(pool, "update noshi.server_seen set restored_to = null").await;
        self.stage.resolves("NoshiRestoreMarked", fixed).await;
    }

    /// Half of the queue is four gigabytes: so the row of the snapshot says it.
    async fn notifications_pile_up(&self) {
        let (pool, began) = (&self.fleet.pool, Instant::now());
        sql(pool, "create function public.half_full() returns trigger language plpgsql as $$ begin new.value := 0.6; return new; end $$").await;
        sql(
            pool,
            "create trigger half_full before insert or update on noshi.metric_snapshot for each row
                when (new.name = 'noshi_database_notification_queue') execute function public.half_full()",
        )
        .await;
        self.stage.arrives("NoshiNotificationQueueFull", &[], began).await;
        let fixed = Instant::now();
        sql(pool, "drop function public.half_full() cascade").await;
        self.stage.resolves("NoshiNotificationQueueFull", fixed).await;
    }

    async fn all_ends_well(&self) {
        for code in ["out_of_tries", "over_deadline"] {
            let parked = format!("select count(*) from noshi.job where status = 'needs_operator' and code = '{code}'");
            if number(&self.fleet.pool, &parked).await > 0 {
                self.says(&[
                    "redrive",
                    "--kind",
                    "gift_issuance",
                    "--code",
                    code,
                    "--since",
                    "1h",
                    "--reason",
                    "fixed",
                    "--yes",
                ])
                .await;
            }
        }
        self.fleet.at_rest(SOON * 2).await.unwrap();
        let parked = "select count(*) from noshi.job where status = 'needs_operator' or in_doubt";
        assert_eq!(number(&self.fleet.pool, parked).await, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_alert_is_heard_and_is_over_when_its_fault_is_fixed() {
    let _turn = crate::support::alone().await;
    let drill = match Drill::begin().await {
        Ok(drill) => drill,
        Err(why) => return eprintln!("SKIPPED: no fire drill: {why}"),
    };
    let began = Instant::now();
    drill.clock("+0s");
    drill.keys_are_there();
    let [a, b, c, d] = [drill.worker("a", 0), drill.worker("b", 1), drill.worker("clock", 2), drill.odd("noshi.toml")];
    let standby = drill.standby().await;
    drill.nothing_is_heard_of_a_good_day().await;
    eprintln!("a good day: {:.0} s", began.elapsed().as_secs_f64());
    let long = async {
        tokio::join!(drill.a_provider_is_not_heard(), drill.an_account_is_empty(), drill.a_gift_asks_for_a_person());
        tokio::join!(drill.a_key_is_refused(), drill.a_provider_throttles());
    };
    // One after the other: the step that never ends may be leased by the worker that dies.
    let short = async {
        drill.a_step_is_stuck().await;
        drill.bugs().await;
        drill.a_worker_dies(b).await
    };
    let mails = async {
        tokio::join!(drill.mails_come_back(), drill.an_event_is_not_understood());
        drill.a_sender_is_refused().await;
        tokio::select! {
            d = drill.one_machine_is_not_as_the_others(d) => d,
            () = drill.mails() => unreachable!("they come for ever"),
        }
    };
    let (standby, b, d, ..) = tokio::join!(
        drill.the_standby_goes(standby),
        short,
        mails,
        drill.a_lane_is_paused(),
        drill.a_shop_stays_and_its_batch_does_not_add_up(),
        drill.a_report_is_left_open(),
        drill.a_clock_runs_ahead(),
        drill.an_expiry_is_forgotten(),
        long,
    );
    drill.connections_run_out().await;
    drill.nothing_is_handed_out().await;
    drill.a_table_is_locked().await;
    let _workers = drill.nobody_works([a, b, c, d]).await;
    tokio::join!(drill.a_restore_is_marked(), drill.notifications_pile_up());
    drill.all_ends_well().await;
    drop(standby);
    eprintln!("the drill: {:.0} s, spans shorter by {FACTOR}", began.elapsed().as_secs_f64());
    assert_eq!(drill.stage.notices.wrong(), [""; 0]);
    all_were_heard(&drill.stage, |name| !OF_THE_SERVER.contains(&name));
}

fn all_were_heard(stage: &Stage, of: impl Fn(&str) -> bool) {
    let took = stage.took.lock().unwrap().clone();
    let mut missing = vec![];
    for alert in source().alert.iter().filter(|alert| of(&alert.name)) {
        let took = took.get(&alert.name).copied().unwrap_or_default();
        let seconds =
            |took: Option<Duration>| took.map_or("never".to_owned(), |took| format!("{:5.1} s", took.as_secs_f64()));
        eprintln!("| {} | {} | {} |", alert.name, seconds(took.fired), seconds(took.resolved));
        missing.extend((took.fired.is_none() || took.resolved.is_none()).then(|| alert.name.clone()));
    }
    assert_eq!(missing, [""; 0], "no fault of the drill is behind these");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_server_and_a_silent_way_to_it_are_heard_of() {
    let _turn = crate::support::turn().await;
    let scene = Scene::start().await;
    let fleet = &scene.fleet;
    let addresses = [free_address(), free_address(), free_address()];
    let stage = match Stage::set(fleet.dir.path(), &addresses).await {
        Ok(stage) => stage,
        Err(why) => return eprintln!("SKIPPED: no fire drill: {why}"),
    };
    let _hands = hurry_of(&fleet.pool);
    scene.pair.follow(Follows::Behind).await;
    let (link, over) = link_to(&fleet.url).await;
    // Long enough a lease for heartbeats over the silent way to come through now and then.
    let worker = |name, env: &[(&str, &str)], at: usize| {
        fleet.worker(name, env, &["--metrics", &addresses[at], "--lease-ms", "20000"])
    };
    let [a, b, far] = [worker("a", &[], 0), worker("b", &[], 1), worker("far", &[("DATABASE_URL", &over)], 2)];
    until("all are seen", SOON, async || {
        stage.query("sum(up{job=\"noshi\"}) == 3").await.is_ok_and(|seen| !seen.is_empty())
    })
    .await;

    let began = Instant::now();
    sql(&fleet.pool, "update noshi.lane_budget set tat = clock_timestamp() + interval '1 hour'").await;
    stage.arrives("NoshiClockWentBack", &[], began).await;
    stage.resolves("NoshiClockWentBack", Instant::now()).await;

    let began = Instant::now();
    let silences = async {
        let mut tick = tokio::time::interval(Duration::from_secs(2));
        loop {
            tick.tick().await;
            link.silence();
        }
    };
    tokio::select! {
        () = stage.arrives("NoshiConnectionsGivenUp", &[], began) => {}
        () = silences => {}
    }
    stage.resolves("NoshiConnectionsGivenUp", Instant::now()).await;

    scene.pair.fall_behind().await;
    let feeding = feed(fleet, "late", "digital");
    until("gifts that the standby knows nothing of", SOON, async || scene.bought().len() > 20).await;
    let began = Instant::now();
    scene.pair.fail_over().await;
    tokio::join!(stage.arrives("NoshiTimelineChanged", &[], began), stage.arrives("NoshiCommitsLost", &[], began),);
    drop(feeding);
    let fixed = Instant::now();
    tokio::join!(stage.resolves("NoshiTimelineChanged", fixed), stage.resolves("NoshiCommitsLost", fixed));
    for worker in [a, b, far] {
        assert!(worker.stop().await.success());
    }
    assert_eq!(stage.notices.wrong(), [""; 0]);
    all_were_heard(&stage, |name| OF_THE_SERVER.contains(&name));
}
