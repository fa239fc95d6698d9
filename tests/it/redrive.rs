//! Re-drives: what a plan may hold, who may apply it, and that each job is asked once, whatever races or dies.

use std::time::Duration;

use noshi_jobs::machine::Act;
use rand::Rng;
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;

use crate::{
    engine::{Running, at_rest, pace, start},
    fleet::{Terms, fleet},
    processes::{count, until},
    support::{TestDatabase, database},
};
use noshi::{
    db::{
        self, ActError, PgPool, Role,
        operator::redrive::{self, Advanced, Conditions, Filter, Redrive, Steer},
    },
    operator::redrive::plan,
};

/// Two operators with logins of their own, and the fleet's way in.
pub struct Operators {
    pub db: TestDatabase,
    pub ada: PgPool,
    ben: PgPool,
    fleet: PgPool,
}

impl Operators {
    pub async fn open() -> Operators {
        let db = database().await;
        // Roles belong to the server that all tests share.
        for login in ["ada", "ben"] {
            let create = format!(
                "do $$ begin create role {login} login in role noshi_operator;
                 exception when duplicate_object or unique_violation then null; end $$"
            );
            sqlx::raw_sql(AssertSqlSafe(create)).execute(&db.pool).await.expect("a login");
        }
        let url = |login: &str| db.url.replacen("//postgres@", &format!("//{login}@"), 1);
        let open = async |url: &str, role| db::connect(url, role, 2).await.expect("a connection");
        let (ada, ben) = (open(&url("ada"), Role::Operator).await, open(&url("ben"), Role::Operator).await);
        let fleet = open(&db.url, Role::Worker).await;
        db::queue::lanes::declare(&db.pool, "probe", &[]).await.expect("a lane");
        Operators { db, ada, ben, fleet }
    }

    async fn sql(&self, sql: &str) {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&self.db.pool).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    pub async fn count(&self, sql: &str) -> i64 {
        sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&self.db.pool).await.unwrap_or_else(|e| panic!("{sql}: {e}"))
    }

    /// Gifts that are parked before their first call, each worth 500 yen.
    async fn parked_gifts(&self, gifts: i32) {
        self.sql(&format!(
            "select noshi.enqueue('gift_issuance', 'g' || i, jsonb_build_object('grant', 'g' || i, 'user', 'u', 'category', 'digital',
                 'value', '{{\"amount\": 500, \"currency\": \"JPY\"}}'::jsonb)) from generate_series(1, {gifts}) i;
             update noshi.job set status = 'needs_operator', at = 'routing', state = '{{\"at\": \"routing\", \"generation\": 0}}', code = 'trade_occupied'
             where kind = 'gift_issuance'"
        ))
        .await;
    }

    async fn plan(&self, by: &PgPool, filter: Filter) -> i64 {
        plan(by, &filter, None).await.expect("a plan")
    }

    async fn look(&self, number: i64) -> Redrive {
        redrive::one(&self.ada, number).await.expect("an answer").expect("a re-drive")
    }

    async fn advance(&self) -> Option<Advanced> {
        redrive::advance(&self.fleet).await.expect("a turn")
    }

    /// What the fleet does, until no re-drive has a turn.
    async fn advance_all(&self) {
        while self.advance().await.is_some() {}
    }
}

fn parked(kind: &str) -> Filter {
    Filter { kind: Some(kind.to_owned()), status: Some("needs_operator".to_owned()), ..Filter::default() }
}

async fn apply(by: &PgPool, number: i64) -> Result<(), ActError> {
    redrive::apply(by, number, "the lane is fixed", &Conditions::default()).await
}

fn refused<T: std::fmt::Debug>(result: Result<T, ActError>, why: &str) {
    match result {
        Err(ActError::Refused { sentence: said, .. }) => assert!(said.contains(why), "{said}"),
        other => panic!("{why}: {other:?}"),
    }
}

/// Probes that need an operator at their call, every time, until somebody takes that answer away.
async fn parked_probes(pool: &PgPool, probes: i32, answer: &str) {
    let sql = "select noshi.enqueue_rows('probe', array_agg($2 || i), array_agg(jsonb_build_object('id', $2 || i, 'steps', 2, 'lane', 'probe',
        'answers', jsonb_build_array($2), 'in_doubt', case $2 when 'unknown' then 'ask' else 'repeat' end))) from generate_series(1, $1) i";
    sqlx::query(sql).bind(probes).bind(answer).execute(pool).await.expect("probes");
}

async fn fix(pool: &PgPool) {
    sqlx::query("update noshi.job set args = args - 'answers' where kind = 'probe'")
        .execute(pool)
        .await
        .expect("fixed");
}

/// Every job was asked as often as this, each time with its row in the audit, and the chain is whole.
async fn each_asked(pool: &PgPool, jobs: i64, times: i64) {
    let sql = "select count(*), count(*) filter (where e.asked = $1 and a.audited = $1) from noshi.job j
        cross join lateral (select count(*) as asked from noshi.job_event e where e.job = j.id and e.event = 'asked') e
        left join (select target, count(*) as audited from noshi.audit where act like 'job %' group by 1) a on a.target = 'job/' || j.id";
    let counted: (i64, i64) = sqlx::query_as(sql).bind(times).fetch_one(pool).await.expect("counts");
    assert_eq!(counted, (jobs, jobs));
    let (_, faults) = db::operator::audit::verify(pool, None).await.expect("an answer");
    assert!(faults.is_empty(), "{faults:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_operators_at_once_ask_each_job_once() {
    let operators = Operators::open().await;
    parked_probes(&operators.db.pool, 3, "ask").await;
    let worker = start(&operators.db, pace()).await;
    at_rest(&operators.db.pool).await;
    // In parts, it is more than one person may in a day.
    operators.sql("insert into noshi.redrive_cap (jobs, amount) values (1000, 0)").await;
    let mut drifted = 0;
    for round in 1..=100 {
        let (a, b) = (
            operators.plan(&operators.ada, parked("probe")).await,
            operators.plan(&operators.ben, parked("probe")).await,
        );
        let (first, second) = tokio::join!(apply(&operators.ada, a), apply(&operators.ben, b));
        assert!(first.is_ok() || second.is_ok(), "{first:?} {second:?}");
        let other = async |number: i64, applied: bool| {
            if applied {
                until("the end", Duration::from_secs(20), async || {
                    let _ = operators.advance().await;
                    operators.look(number).await.status == "done"
                })
                .await;
            }
        };
        tokio::join!(other(a, first.is_ok()), other(b, second.is_ok()));
        at_rest(&operators.db.pool).await;
        let (a, b) = (operators.look(a).await, operators.look(b).await);
        assert_eq!(a.asked + b.asked, 3, "{a:?} {b:?}");
        drifted += a.drifted + b.drifted;
        each_asked(&operators.db.pool, 3, round).await;
    }
    assert!(drifted > 0, "no two re-drives ever met");
    stop(worker).await;
}

async fn stop(worker: Running) {
    assert_eq!(worker.stop().await, noshi::app::End::Stopped);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_re_drive_of_5000_jobs_ends_exactly_though_workers_are_killed() {
    let _turn = crate::support::busy().await;
    let fleet = fleet(Terms::default()).await;
    let pool = &fleet.pool;
    db::queue::lanes::declare(pool, "probe", &[]).await.expect("a lane");
    parked_probes(pool, 5000, "ask").await;
    let mut workers: Vec<_> = (0..2).map(|n| fleet.worker(&format!("w{n}"), &[], &[])).collect();
    fleet.at_rest(Duration::from_secs(120)).await.unwrap();
    fix(pool).await;
    sqlx::query("insert into noshi.redrive_cap (jobs, amount) values (10000, 0)").execute(pool).await.unwrap();

    let planned = fleet.command(&["-o", "json", "redrive", "plan", "--kind", "probe", "--code", "probe_asked"]).await;
    let planned: Value = serde_json::from_slice(&planned.stdout).expect("a plan");
    assert_eq!((&planned["jobs"], &planned["tokens"]["probe"]), (&json!(5000), &json!(5000)), "{planned}");
    let number = planned["id"].as_i64().unwrap().to_string();
    // Whoever applies it may go away: the plan is the fleet's from then on.
    let mut applies = tokio::process::Command::new(env!("CARGO_BIN_EXE_noshi"))
        .args(["redrive", "apply", &number, "--reason", "the probes are fixed"])
        .env("DATABASE_URL", &fleet.url)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("a command");
    let asked = async || {
        let asked = "select count(*) from noshi.redrive_row where status = 'asked'";
        sqlx::query_scalar::<_, i64>(asked).fetch_one(pool).await.unwrap()
    };
    until("the first jobs", Duration::from_secs(60), async || asked().await > 0).await;
    applies.kill().await.expect("killed");

    let mut killed_before_the_end = 0;
    for n in 0..8_usize {
        tokio::time::sleep(Duration::from_millis(rand::rng().random_range(50..700))).await;
        killed_before_the_end += u32::from(asked().await < 5000);
        let victim = &mut workers[n % 2];
        victim.child.kill().await.expect("a killed worker");
        *victim = fleet.worker(&format!("w{}", n + 2), &[], &[]);
    }
    until("the end", Duration::from_secs(180), async || {
        let open = "select count(*) from noshi.redrive where done_at is null";
        sqlx::query_scalar::<_, i64>(open).fetch_one(pool).await.unwrap() == 0
    })
    .await;
    fleet.at_rest(Duration::from_secs(180)).await.unwrap();
    assert!(killed_before_the_end > 0, "no worker died while the re-drive went on");
    let completed: i64 =
        sqlx::query_scalar("select count(*) from noshi.job where status = 'completed'").fetch_one(pool).await.unwrap();
    assert_eq!((completed, asked().await), (5000, 5000));
    each_asked(pool, 5000, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_holds_what_may_be_asked_and_names_what_may_not() {
    let operators = Operators::open().await;
    for (answer, probes) in [("ask", 2), ("unknown", 2), ("refused", 1), ("ok", 1)] {
        parked_probes(&operators.db.pool, probes, answer).await;
    }
    let worker = start(&operators.db, pace()).await;
    at_rest(&operators.db.pool).await;
    stop(worker).await;
    parked_probes(&operators.db.pool, 1, "busy").await;

    // By a filter: never what is completed or open.
    let all = operators.plan(&operators.ada, Filter { kind: Some("probe".to_owned()), ..Filter::default() }).await;
    let rows = "select j.key, coalesce(w.act, w.refusal) from noshi.redrive_row w join noshi.job j on j.id = w.job where w.redrive = $1 order by 1";
    let rows: Vec<(String, String)> = sqlx::query_as(rows).bind(all).fetch_all(&operators.db.pool).await.unwrap();
    let row = |key: &str, what: &str| (key.to_owned(), what.to_owned());
    assert_eq!(
        rows,
        [
            row("ask1", "retry"),
            row("ask2", "retry"),
            row("refused1", "nothing may be done to it at `over`"),
            // In doubt: the partner is asked, nothing is sent again.
            row("unknown1", "inquire"),
            row("unknown2", "inquire"),
        ]
    );
    // By name: each with the reason for which it is left out.
    let ids = Some(["ok1", "busy1", "ask1"].map(str::to_owned).to_vec());
    let named = operators.plan(&operators.ada, Filter { ids, ..parked("probe") }).await;
    let groups = redrive::groups(&operators.ada, named).await.unwrap();
    let told: Vec<_> = groups.iter().map(|it| (it.status.as_str(), it.what.as_str(), it.such_as.join(" "))).collect();
    assert_eq!(
        told,
        [
            ("refused", "it is available, neither parked nor failed", "probe busy1".to_owned()),
            ("refused", "it is completed; what is done is never done again", "probe ok1".to_owned()),
            ("waiting", "retry", "probe ask1".to_owned()),
        ]
    );
    let unknown = Filter { ids: Some(vec!["nobody".to_owned()]), ..parked("probe") };
    refused(plan(&operators.ada, &unknown, None).await, "there is no probe with the id nobody");
    refused(plan(&operators.ada, &parked("email"), None).await, "nothing to plan");
    let retried = plan(&operators.ada, &parked("probe"), Some(Act::Reissue)).await.expect("a plan of refusals");
    assert_eq!((operators.look(retried).await.jobs, operators.look(retried).await.refused), (0, 4));
    refused(apply(&operators.ada, retried).await, "no job that may be asked");

    // Past the planner, by hand: the database refuses by itself.
    for (key, act) in
        [("ok1", "retry"), ("busy1", "retry"), ("ask1", "reissue"), ("ask1", "attest_void"), ("unknown1", "rerun")]
    {
        let sql = "select noshi.plan_redrive('{}', array[id], array[step], array[$2], array[null], array[null]) from noshi.job where key = $1";
        let by_hand = sqlx::query(sql).bind(key).bind(act).execute(&operators.ada).await.map_err(ActError::from);
        refused(by_hand, "may not be re-driven");
    }
    operators.sql("update noshi.job set requested_act = 'retry' where key = 'ask2'").await;
    assert_eq!(operators.look(operators.plan(&operators.ada, parked("probe")).await).await.jobs, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_that_no_longer_holds_is_refused() {
    let operators = Operators::open().await;
    operators.parked_gifts(3).await;
    let number = operators.plan(&operators.ada, parked("gift_issuance")).await;
    assert_eq!(operators.look(number).await.totals, json!({"JPY": 1500}));
    let on = |conditions: Conditions<'static>| {
        let ada = operators.ada.clone();
        async move { redrive::apply(&ada, number, "why", &conditions).await }
    };
    refused(on(Conditions { max_amount: Some(1499), ..Conditions::default() }).await, "more than 1499");
    refused(on(Conditions { digest: Some(&[0; 32]), ..Conditions::default() }).await, "not the digest");
    refused(redrive::apply(&operators.ada, number, " ", &Conditions::default()).await, "say why");
    refused(apply(&operators.ada, number + 100).await, "there is no re-drive");

    // One job moves between the plan and its application.
    operators.sql("update noshi.job set step = step + 1 where key = 'g2'").await;
    let job = operators.count("select id from noshi.job where key = 'g2'").await;
    refused(
        apply(&operators.ada, number).await,
        &format!("1 of the 3 jobs of re-drive {number} have moved on since it was planned: job {job}"),
    );
    assert_eq!(operators.count("select count(*) from noshi.job where requested_act is not null").await, 0);

    let stale = operators.plan(&operators.ada, parked("gift_issuance")).await;
    operators.sql("update noshi.redrive set expires_at = clock_timestamp()").await;
    refused(apply(&operators.ada, stale).await, "too old");
    assert_eq!(operators.look(stale).await.status, "expired");

    // One moves after the application: it is left alone and reported, the others go on.
    let number = operators.plan(&operators.ada, parked("gift_issuance")).await;
    apply(&operators.ada, number).await.expect("applied");
    refused(apply(&operators.ben, number).await, "was applied by ada already");
    operators.sql("update noshi.job set step = step + 1 where key = 'g3'").await;
    // A refusal may hold the row for a moment longer than its answer takes.
    until("the end", Duration::from_secs(20), async || {
        operators.advance_all().await;
        operators.look(number).await.status == "done"
    })
    .await;
    let r = operators.look(number).await;
    assert_eq!((r.status.as_str(), r.asked, r.drifted), ("done", 2, 1));
    assert_eq!(operators.count("select count(*) from noshi.audit where act = 'job retry' and who = 'ada' and reason like 're-drive %: the lane is fixed'").await, 2);
    assert_eq!(operators.count("select count(*) from noshi.gift_trade").await, 0);
    refused(redrive::steer(&operators.ada, number, Steer::Cancel, "why").await, "is done");

    // What a plan holds stays what it was, even for the owner.
    for sql in [
        "update noshi.redrive_row set act = 'rerun'",
        "update noshi.redrive_row set status = 'waiting'",
        "delete from noshi.redrive_row",
        "truncate noshi.redrive_row cascade",
    ] {
        let error = sqlx::raw_sql(sql).execute(&operators.db.pool).await.expect_err(sql);
        assert_eq!(error.as_database_error().and_then(|e| e.code()).as_deref(), Some("NS001"), "{error}");
    }
}

/// Each gift was bought, and the worker that bought it died before the answer was written. A re-drive must find them, not buy again.
#[tokio::test(flavor = "multi_thread")]
async fn gifts_in_doubt_are_found_under_their_ids_and_not_bought_again() {
    let _turn = crate::support::turn().await;
    let fleet = fleet(Terms::default()).await;
    for category in ["amazon", "digital", "prepaid"] {
        fleet.gift(category, category, 500).await;
        let mut dies = fleet.worker(category, &[("NOSHI_CRASH", "issue.after@1")], &[]);
        assert!(dies.killed(Duration::from_secs(20)).await);
        // As a job is left that was parked with its call's outcome unknown.
        let park = "update noshi.job set status = 'needs_operator', code = 'poison', worker = null, in_doubt = true, crash_count = 0, called_at = clock_timestamp()
            where status = 'running'";
        let parked = sqlx::query(park).execute(&fleet.pool).await.unwrap().rows_affected();
        assert_eq!(parked, 1);
        fleet.declare_all_dead().await;
    }
    let trades = async || {
        let trades = "select array_agg(id order by id) from noshi.gift_trade";
        sqlx::query_scalar::<_, Vec<String>>(trades).fetch_one(&fleet.pool).await.unwrap()
    };
    let before = trades().await;
    assert_eq!((count(&fleet, "issued"), before.len()), (3, 3));
    let worker = fleet.worker("a", &[], &[]);
    let redriven =
        fleet.command(&["redrive", "--code", "poison", "--reason", "the machine is replaced", "--yes"]).await;
    assert!(redriven.status.success(), "{}", String::from_utf8_lossy(&redriven.stderr));
    fleet.at_rest(Duration::from_secs(60)).await.unwrap();
    let completed = "select count(*) from noshi.job where status = 'completed' and at = 'issued'";
    let completed: i64 = sqlx::query_scalar(completed).fetch_one(&fleet.pool).await.unwrap();
    assert_eq!((completed, count(&fleet, "issued"), trades().await), (3, 3, before));
    each_asked(&fleet.pool, 3, 1).await;
    assert!(worker.stop().await.success());
}

/// A batch's totals are of the moment in which nothing was left to be done; a paused batch stays paused.
#[tokio::test(flavor = "multi_thread")]
async fn a_settled_batch_is_open_again_and_a_paused_one_is_left_alone() {
    let operators = Operators::open().await;
    operators.sql(
        "insert into noshi.batch (kind, mode, digest, file, rows, validated_at, released_at, settled_at, totals)
         select 'stores', 'per_row', sha256(convert_to(f, 'UTF8')), f, 1, now(), now(), now(), '{}' from unnest(array['a', 'b', 'c']) f;
         insert into noshi.job (kind, key, fingerprint, args, at, state, status, code, batch, row_no, finished_at)
         select 'email', 'of ' || b.id, '', jsonb_build_object('template', 'gift_granted', 'reference', b.file, 'recipient', b.id || '/1', 'params', '{}'::jsonb),
             'rejected', '{\"at\": \"rejected\", \"why\": \"mail_rejected\"}', 'failed', 'mail_rejected', b.id, 1, now() from noshi.batch b;
         update noshi.batch set paused_at = now() where file = 'b'",
    )
    .await;
    let failed = || Filter { kind: Some("email".to_owned()), ..Filter::default() };
    let number = operators.plan(&operators.ada, failed()).await;
    let r = operators.look(number).await;
    assert_eq!((r.jobs, r.refused), (2, 1));
    let groups = redrive::groups(&operators.ada, number).await.unwrap();
    assert!(
        groups.iter().any(|it| it.status == "refused" && it.what.contains("is paused; resume the batch first")),
        "{groups:?}"
    );
    apply(&operators.ada, number).await.expect("applied");
    operators.sql("update noshi.batch set paused_at = now() where file = 'c'").await;
    operators.advance_all().await;
    let r = operators.look(number).await;
    assert_eq!((r.status.as_str(), r.asked, r.drifted), ("done", 1, 1));
    let settled: Vec<String> = sqlx::query_scalar(
        "select file from noshi.batch where settled_at is not null and totals is not null order by 1",
    )
    .fetch_all(&operators.db.pool)
    .await
    .unwrap();
    assert_eq!(settled, ["b", "c"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_re_drive_needs_a_second_person() {
    let operators = Operators::open().await;
    operators.parked_gifts(101).await;
    let number = operators.plan(&operators.ada, parked("gift_issuance")).await;
    let digest = hex::decode(operators.look(number).await.digest).unwrap();
    assert_eq!(operators.look(number).await.status, "awaiting_approval");
    refused(apply(&operators.ada, number).await, "too large for one person");
    refused(apply(&operators.ben, number).await, "too large for one person");
    refused(redrive::approve(&operators.ada, number, &digest, "mine").await, "planned by you");
    refused(redrive::approve(&operators.ben, number, &[0; 32], "unread").await, "not the digest");
    redrive::approve(&operators.ben, number, &digest, "read it").await.expect("approved");
    refused(redrive::approve(&operators.ben, number, &digest, "read it").await, "was approved by");
    refused(apply(&operators.ben, number).await, "approved by you");
    apply(&operators.ada, number).await.expect("applied");
    redrive::steer(&operators.ada, number, Steer::Cancel, "enough").await.expect("cancelled");
    operators.advance_all().await;
    assert_eq!(operators.count("select count(*) from noshi.job where requested_act is not null").await, 0);

    // By worth alone: 100 yen more than one person may.
    operators.sql("insert into noshi.redrive_cap (jobs, amount) values (1000, 50400)").await;
    let by_worth = operators.plan(&operators.ada, parked("gift_issuance")).await;
    assert!(operators.look(by_worth).await.needs_approval);
    operators.sql("insert into noshi.redrive_cap (jobs, amount) values (1000, 50500)").await;
    let small = operators.plan(&operators.ada, parked("gift_issuance")).await;
    assert!(!operators.look(small).await.needs_approval);
    // Cutting it in parts does not help: what one person applied alone in a day counts together.
    let another = operators.plan(&operators.ada, parked("gift_issuance")).await;
    let both = tokio::join!(apply(&operators.ada, small), apply(&operators.ada, another));
    let refusal = match both {
        (Ok(()), refusal @ Err(_)) | (refusal @ Err(_), Ok(())) => refusal,
        both => panic!("of two at once one is applied: {both:?}"),
    };
    refused(refusal, "too large for one person");
    assert_eq!(operators.count("select count(*) from noshi.audit where act = 'redrive cap'").await, 2);

    // Roles: a worker advances and nothing else; a producer nothing.
    for (role, sql) in [
        ("noshi_worker", "select noshi.apply_redrive(1, 'why', null, null, null, null)"),
        ("noshi_worker", "select filter from noshi.redrive"),
        ("noshi_producer", "select noshi.advance_redrive()"),
        ("noshi_operator", "select noshi.advance_redrive()"),
        ("noshi_operator", "insert into noshi.redrive_cap (jobs, amount) values (1, 1)"),
    ] {
        let mut connection = operators.db.pool.acquire().await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(format!("set role {role}"))).execute(&mut *connection).await.unwrap();
        let error = sqlx::raw_sql(sql).execute(&mut *connection).await.expect_err(sql);
        assert_eq!(error.as_database_error().and_then(|e| e.code()).as_deref(), Some("42501"), "{role}: {sql}");
        sqlx::raw_sql("reset role").execute(&mut *connection).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_that_stands_still_again_pauses_the_rest() {
    let operators = Operators::open().await;
    parked_probes(&operators.db.pool, 6, "ask").await;
    let worker = start(&operators.db, pace()).await;
    at_rest(&operators.db.pool).await;
    let canary = Conditions { canary: Some(2), ..Conditions::default() };
    let number = operators.plan(&operators.ada, parked("probe")).await;
    redrive::apply(&operators.ada, number, "tried", &canary).await.expect("applied");
    let paused = async || operators.look(number).await.status == "paused_by_canary";
    until("the canary's verdict", Duration::from_secs(20), paused).await;
    let r = operators.look(number).await;
    assert_eq!((r.asked, r.waiting, r.parked), (2, 4, 2));
    let said = "select count(*) from noshi.audit where act = 'redrive pause' and who = 'noshi' and jsonb_array_length(after -> 'jobs') = 2";
    assert_eq!(operators.count(said).await, 1);
    // A person has looked, and takes it on.
    redrive::steer(&operators.ben, number, Steer::Resume, "they may ask again").await.expect("resumed");
    until("the end", Duration::from_secs(20), async || operators.look(number).await.status == "done").await;
    at_rest(&operators.db.pool).await;
    each_asked(&operators.db.pool, 6, 1).await;

    fix(&operators.db.pool).await;
    let number = operators.plan(&operators.ada, parked("probe")).await;
    redrive::apply(&operators.ada, number, "fixed", &canary).await.expect("applied");
    until("the end", Duration::from_secs(20), async || operators.look(number).await.status == "done").await;
    at_rest(&operators.db.pool).await;
    assert_eq!(operators.look(number).await.completed, 6);
    stop(worker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_re_drive_keeps_its_pace_and_stops_when_told() {
    let operators = Operators::open().await;
    operators.parked_gifts(90).await;
    let number = operators.plan(&operators.ada, parked("gift_issuance")).await;
    let slowly = Conditions { per_minute: Some(60), ..Conditions::default() };
    redrive::apply(&operators.ada, number, "slowly", &slowly).await.expect("applied");
    operators.advance_all().await;
    // After a long absence of the fleet: what five seconds hold, not what was missed.
    operators.sql("update noshi.redrive set next_at = clock_timestamp() - interval '1 hour'").await;
    operators.advance_all().await;
    let asked = operators.look(number).await.asked;
    assert!((7..=9).contains(&asked), "{asked}");

    redrive::steer(&operators.ada, number, Steer::Pause, "lunch").await.expect("paused");
    refused(redrive::steer(&operators.ben, number, Steer::Pause, "lunch").await, "does not run");
    operators.sql("update noshi.redrive set next_at = clock_timestamp() - interval '1 hour'").await;
    operators.advance_all().await;
    assert_eq!((operators.look(number).await.status.as_str(), operators.look(number).await.asked), ("paused", asked));
    redrive::steer(&operators.ben, number, Steer::Resume, "back").await.expect("resumed");
    operators.advance_all().await;
    assert_eq!(operators.look(number).await.asked, asked + 1);
    redrive::steer(&operators.ada, number, Steer::Cancel, "enough").await.expect("cancelled");
    operators.advance_all().await;
    let r = operators.look(number).await;
    assert_eq!((r.status.as_str(), r.asked, r.waiting), ("cancelled", asked + 1, 89 - asked));
    refused(redrive::steer(&operators.ada, number, Steer::Resume, "why").await, "is cancelled");
    let acts =
        "select count(distinct act) from noshi.audit where target = 'redrive/' || (select max(id) from noshi.redrive)";
    assert_eq!(operators.count(acts).await, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_command_plans_shows_and_applies() {
    let _turn = crate::support::turn().await;
    let fleet = fleet(Terms::default()).await;
    db::queue::lanes::declare(&fleet.pool, "probe", &[]).await.expect("a lane");
    parked_probes(&fleet.pool, 4, "ask").await;
    let worker = fleet.worker("a", &[], &[]);
    fleet.at_rest(Duration::from_secs(30)).await.unwrap();
    fix(&fleet.pool).await;
    let said = async |arguments: &[&str]| {
        let output = fleet.command(arguments).await;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.success(), text(&output.stdout), text(&output.stderr))
    };
    let common = ["redrive", "--kind", "probe", "--code", "probe_asked", "--since", "1h", "--reason", "fixed"];
    let (ok, _, stderr) = said(&common).await;
    assert!(!ok && stderr.contains("4 to be asked, 0 refused") && stderr.contains("no terminal"), "{stderr}");
    // As a spreadsheet saves ids; and what is no list of ids.
    let ids = fleet.dir.path().join("ids.txt").display().to_string();
    let list = fleet.dir.path().join("list.txt").display().to_string();
    let missing: String = (0..30).map(|n| format!("gone-{n}\n")).collect();
    std::fs::write(&ids, format!("\u{feff}{missing}")).unwrap();
    std::fs::write(&list, "a\nb\tc\n").unwrap();
    for (wrong, why) in [
        (
            vec!["redrive", "plan", "--kind", "probe", "--ids", &ids],
            "with the id gone-0, gone-1, gone-2, gone-3, gone-4, nor with 25 more",
        ),
        (vec!["redrive", "plan", "--kind", "probe", "--ids", &list], "line 2 of"),
        (vec!["redrive", "--reason", "all?", "--yes"], "say which jobs"),
        (vec!["redrive", "plan", "--kind", "probe", "--all"], "say which jobs"),
        (vec!["redrive", "plan", "--kind", "probe", "--act", "reissue"], "every other act is for one job"),
        (vec!["redrive", "plan", "--ids", "x"], "--kind"),
    ] {
        let (ok, _, stderr) = said(&wrong).await;
        assert!(!ok && stderr.contains(why), "{wrong:?}: {stderr}");
    }
    let (ok, stdout, stderr) = said(&[&["-o", "json"], common.as_slice(), &["--yes", "--canary", "1"]].concat()).await;
    assert!(ok, "{stderr}");
    let shown: Value = serde_json::from_str(&stdout).expect("one JSON document");
    assert_eq!(
        (&shown["status"], &shown["completed"], &shown["groups"][0]["what"]),
        (&json!("done"), &json!(4), &json!("retry")),
        "{shown}"
    );
    let (ok, stdout, _) = said(&["redrive", "list"]).await;
    assert!(ok && stdout.lines().count() == 3 && stdout.contains("done"), "{stdout}");
    let (ok, stdout, _) = said(&["audit", "list", "--act", "job retry", "--since", "1h"]).await;
    assert!(ok && stdout.lines().count() == 5 && stdout.contains("re-drive 2: fixed"), "{stdout}");
    assert!(worker.stop().await.success());
}

/// Why a re-drive stands still is said, where it is a lane that somebody holds.
#[tokio::test(flavor = "multi_thread")]
async fn a_lane_that_holds_a_re_drive_is_named() {
    let operators = Operators::open().await;
    operators.parked_gifts(2).await;
    let number = operators.plan(&operators.ada, parked("gift_issuance")).await;
    apply(&operators.ada, number).await.expect("a start");
    operators.advance_all().await;
    let held = async || redrive::held_lanes(&operators.ada, number).await.expect("an answer");
    assert_eq!(held().await, [""; 0]);
    operators
        .sql("insert into noshi.lane (name, paused) values ('gift/x', true); update noshi.job set lane = 'gift/x'")
        .await;
    assert_eq!(held().await, ["the paused lane gift/x"]);
}

/// One that cannot go on holds up no other: it is paused with its reason, and named to whoever looks. The longest reason is no fault.
#[tokio::test(flavor = "multi_thread")]
async fn one_re_drive_that_cannot_go_on_holds_up_no_other() {
    let operators = Operators::open().await;
    operators.parked_gifts(3).await;
    let one_job = |key: &str| Filter {
        kind: Some("gift_issuance".to_owned()),
        ids: Some(vec![key.to_owned()]),
        ..Filter::default()
    };
    let [long, faulty, good] = [
        operators.plan(&operators.ada, one_job("g1")).await,
        operators.plan(&operators.ada, one_job("g2")).await,
        operators.plan(&operators.ben, one_job("g3")).await,
    ];
    redrive::apply(&operators.ada, long, &"r".repeat(4000), &Conditions::default()).await.expect("applied");
    apply(&operators.ada, faulty).await.expect("applied");
    apply(&operators.ben, good).await.expect("applied");
    // Whatever else it may be.
    operators
        .sql(&format!(
            "create function noshi.broken() returns trigger language plpgsql as
                $$ begin raise exception E'a fault\\nof two lines'; end $$;
            create trigger broken before update on noshi.redrive_row for each row when (old.redrive = {faulty}) execute function noshi.broken()"
        ))
        .await;
    operators.advance_all().await;
    assert_eq!(operators.look(long).await.status, "done");
    assert_eq!(operators.look(good).await.status, "done");
    let paused = operators.look(faulty).await;
    assert_eq!(
        (paused.status.as_str(), paused.paused_detail.as_deref()),
        ("paused_by_fault", Some("a fault of two lines"))
    );
    let told = db::operator::doctor::stuck_redrives(&operators.ada).await.expect("re-drives");
    assert_eq!(told, [format!("re-drive {faulty} cannot go on: a fault of two lines")]);
    let said = "select count(*) from noshi.audit where act = 'redrive pause' and who = 'noshi' and reason like 'it cannot go on%'";
    assert_eq!(operators.count(said).await, 1);

    // One whose job another transaction holds has its turn later, and its place is others'.
    operators.sql("drop trigger broken on noshi.redrive_row").await;
    let mut holder = operators.db.pool.begin().await.expect("a transaction");
    sqlx::raw_sql("select from noshi.job where key = 'g2' for update").execute(&mut *holder).await.expect("held");
    redrive::steer(&operators.ben, faulty, Steer::Resume, "fixed").await.expect("resumed");
    let turn = operators.advance().await.expect("a turn");
    assert_eq!((turn.redrive, turn.event.as_deref()), (faulty, Some("put_off")));
    assert!(operators.advance().await.is_none(), "not at once");
    drop(holder);
    operators.sql("update noshi.redrive set next_at = clock_timestamp() where done_at is null").await;
    operators.advance_all().await;
    assert_eq!(
        (operators.look(faulty).await.status.as_str(), operators.look(faulty).await.paused_detail),
        ("done", None)
    );
}

/// Whoever approves reads first which jobs they are said to be: a plan that says otherwise is refused, and what it says is in its digest.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_plan_says_of_its_jobs_is_so() {
    let operators = Operators::open().await;
    operators.parked_gifts(2).await;
    let made = |filter: &str, refusal: &str, lane: &str| {
        format!(
            "select noshi.plan_redrive('{filter}', array_agg(id order by id), array_agg(step order by id), array['retry', {act}],
                array[null, {refusal}], array['{lane}', null]) from noshi.job",
            act = if refusal == "null" { "'retry'" } else { "null" }
        )
    };
    for filter in [
        r#"{"code": "out_of_tries", "kind": "email"}"#,
        r#"{"kind": "email"}"#,
        r#"{"code": "out_of_tries"}"#,
        r#"{"status": "failed"}"#,
        r#"{"batch": 1}"#,
        r#"{"ids": 3}"#,
        r#"{"act": "inquire"}"#,
    ] {
        let said =
            sqlx::raw_sql(AssertSqlSafe(made(filter, "null", ""))).execute(&operators.ada).await.expect_err(filter);
        assert!(said.to_string().contains("are not those of the filter"), "{filter}: {said}");
    }
    for filter in ["[]", r#"{"kind": null}"#, r#"{"whatever": "harmless"}"#, r#"{"since": "long ago"}"#] {
        let said =
            sqlx::raw_sql(AssertSqlSafe(made(filter, "null", ""))).execute(&operators.ada).await.expect_err(filter);
        assert!(said.to_string().contains("a filter has kind, code"), "{filter}: {said}");
    }
    // The same jobs and acts, and four things to read: four digests.
    let good = r#"{"kind": "gift_issuance", "code": "trade_occupied", "status": "needs_operator", "since": 60, "ids": 2, "act": "retry"}"#;
    for (filter, refusal, lane) in [
        (good, "null", ""),
        ("{}", "null", ""),
        ("{}", "null", "email/ses"),
        ("{}", "'left out'", ""),
        ("{}", "'kept'", ""),
    ] {
        sqlx::raw_sql(AssertSqlSafe(made(filter, refusal, lane))).execute(&operators.ada).await.expect(filter);
    }
    assert_eq!(operators.count("select count(distinct digest) from noshi.redrive").await, 5);
}
