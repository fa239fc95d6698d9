//! A transaction that acts and sleeps holds up nobody but whoever wants the same of the same thing; and these are told who it is.

use std::time::Duration;

use noshi_jobs::machine::Closing;
use serde_json::json;
use sqlx::{AssertSqlSafe, Executor};

use crate::{
    engine::{pace, probe, start},
    fleet::{Terms, fleet},
    peace::login,
    processes::until,
    support::database,
};
use noshi::db::{
    self, PgPool, Transaction,
    queue::{
        claim::claim,
        lanes::{Budget, close, declare, pause, resume, set},
        workers,
    },
};

const SOON: Duration = Duration::from_secs(15);

/// What this login has done and not yet committed, and does not for as long as it likes.
async fn sleeps_behind(who: &PgPool, act: &str) -> Transaction {
    let mut sleeper = who.begin().await.expect("a transaction");
    let hold = format!("{act}; set local idle_in_transaction_session_timeout = 0");
    sleeper.execute(AssertSqlSafe(hold)).await.unwrap_or_else(|error| panic!("{act}: {error}"));
    sleeper
}

async fn soon(pool: &PgPool, sql: &str) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(format!("set lock_timeout = '2s'; {sql}"))).execute(pool).await.map(drop)
}

/// Whatever an operator orders of whichever lane: until it is committed the fleet claims there, and everywhere else.
#[tokio::test(flavor = "multi_thread")]
async fn who_orders_and_sleeps_stops_no_claim() {
    let db = database().await;
    let pool = &db.pool;
    let budget = Budget { per: Duration::from_secs(1), calls: 50, burst: 1, jitter: Duration::from_millis(200) };
    for lane in ["busy", "other"] {
        declare(pool, lane, &[budget]).await.expect("a lane");
    }
    let sato = login(&db, "sato", "noshi_operator").await;
    let worker = start(&db, pace()).await;
    for (n, act) in [
        "select noshi.pause_lane('', 'x')",
        "select noshi.pause_lane('busy', 'x')",
        "select noshi.resume_lane('busy', 'x')",
        "select noshi.set_lane('busy', '1 second', 1, 'x')",
    ]
    .into_iter()
    .enumerate()
    {
        let sleeper = sleeps_behind(&sato, act).await;
        for lane in ["busy", "other"] {
            let id = format!("{lane}{n}");
            let job = probe(pool, json!({"id": id, "steps": 2, "lane": lane, "answers": ["ok"]})).await;
            until(act, SOON, async || {
                let done = "select status = 'completed' from noshi.job where id = $1";
                sqlx::query_scalar(done).bind(job).fetch_one(pool).await.expect("a job")
            })
            .await;
        }
        sleeper.rollback().await.expect("over");
    }
    worker.stop().await;
}

/// An order holds from its commit on, whether or not a worker has carried it over; and what closes the lane later closes it.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_holds_at_once_and_is_carried_over() {
    let db = database().await;
    let pool = &db.pool;
    let budget = Budget { per: Duration::from_secs(1), calls: 50, burst: 50, jitter: Duration::ZERO };
    declare(pool, "l", &[budget]).await.expect("a lane");
    let worker = workers::register(pool, "w").await.expect("a worker");
    let closed = async || claim(pool, worker, "l", 1, false).await.expect("an answer").closed;
    let listed = async || {
        let lanes = db::queue::lanes::list(pool).await.expect("lanes");
        let lane = lanes.into_iter().find(|lane| lane.name == "l").expect("the lane");
        (lane.paused, lane.closed_code.clone(), lane.closed_for.is_some(), lane.budgets.clone())
    };
    let row = "select row(paused, closed_code, closed_until is not null, (select calls from noshi.lane_budget b where b.lane = 'l'))::text from noshi.lane where name = 'l'";
    let row = async || sqlx::query_scalar::<_, String>(row).fetch_one(pool).await.expect("the lane's row");
    // As a heartbeat does.
    let beat = async || db::queue::clocks::see(pool, Duration::from_secs(30), true).await.expect("a heartbeat");
    let open = || (false, None, false, "50 per 00:00:01".to_owned());

    pause(pool, "l", Some("x")).await.expect("paused");
    assert!(closed().await && listed().await.0);
    assert_eq!(row().await, "(f,,f,50)", "the row is the workers' own");
    beat().await;
    assert!(closed().await && row().await == "(t,,f,50)");
    resume(pool, "l", Some("x")).await.expect("open");
    assert!(!closed().await);
    assert_eq!(listed().await, open());

    // Open for what closed it before, and for that alone.
    for closing in [Closing::Credentials, Closing::Throttled(Duration::from_secs(600))] {
        close(pool, "l", closing).await.expect("closed");
        assert!(closed().await, "{closing:?}");
        resume(pool, "l", Some("x")).await.expect("open");
        assert!(!closed().await, "{closing:?}");
        assert_eq!(listed().await, open());
        close(pool, "l", Closing::Throttled(Duration::from_secs(5))).await.expect("throttled");
        let wait = db::queue::lanes::list(pool).await.expect("lanes").into_iter().find_map(|lane| lane.closed_for);
        assert!(closed().await && wait.is_some_and(|wait| wait < 6.0), "{closing:?} {wait:?}");
        close(pool, "l", closing).await.expect("closed");
        assert!(closed().await, "{closing:?}");
        beat().await;
        assert!(closed().await, "{closing:?}");
    }
    // Lowered while it is closed: it stays closed.
    set(pool, "l", Duration::from_secs(1), Some(5), "slow").await.expect("lowered");
    assert!(closed().await);
    assert_eq!(listed().await.3, "5 per 00:00:01 (of 50)");
    beat().await;
    assert!(row().await.ends_with(",t,5)"), "{}", row().await);
    declare(pool, "l", &[budget]).await.expect("a worker that starts");
    resume(pool, "l", Some("x")).await.expect("open");
    set(pool, "l", Duration::from_secs(1), None, "as declared").await.expect("as declared");
    beat().await;
    assert_eq!((row().await.as_str(), listed().await), ("(f,,f,50)", open()));
}

/// A producer asks beside a file, in a transaction that sleeps: the file is paused, registered and cancelled all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_producer_holds_no_file_up() {
    let db = database().await;
    let pool = &db.pool;
    let shop = login(&db, "shop", "noshi_producer").await;
    let file = r#"do $$ declare b bigint; begin
        select batch into b from noshi.receive_batch('grants', 'all_or_nothing', sha256('f'), 'f', 'utf-8', null, false, true);
        insert into noshi.batch_row (batch, row_no, line, key, args) values (b, 1, 2, 'K:1',
            '{"grant": "K:1", "user": "u", "category": "digital", "value": {"amount": 500, "currency": "JPY"}}');
        perform noshi.validate_batch(b, 1); perform noshi.release_batch(b, 'x'); end $$"#;
    soon(pool, file).await.expect("a file that is let go");
    let points = r#"select noshi.enqueue('point_grant', 'K:1', '{"benefit": "K", "source": "1", "user": "u", "points": 1, "valid_days": 90}')"#;
    let sleeper = sleeps_behind(&shop, points).await;
    for act in [
        "select noshi.pause_batch(1, 'operator', 'x')",
        "select noshi.resume_batch(1, 'x')",
        "select noshi.register_batch(1)",
        "select noshi.cancel_batch(1, 'x')",
    ] {
        soon(pool, act).await.unwrap_or_else(|error| panic!("{act}: {error}"));
    }
    let registered = "select registered_at is not null from noshi.batch";
    assert!(sqlx::query_scalar::<_, bool>(registered).fetch_one(pool).await.expect("the file"));
    sleeper.commit().await.expect("asked for");

    // Nor where the grant that is asked for is of that very file.
    soon(pool, &file.replace("'f'", "'g'").replace("K:1", "K:2")).await.expect("another");
    soon(pool, "select noshi.register_batch(2)").await.expect("granted");
    let sleeper = sleeps_behind(&shop, "select noshi.issue_grant('K:2', 'u')").await;
    for act in [
        "select noshi.pause_batch(2, 'operator', 'x')",
        "select noshi.resume_batch(2, 'x')",
        "select noshi.cancel_batch(2, 'x')",
    ] {
        soon(pool, act).await.unwrap_or_else(|error| panic!("{act}: {error}"));
    }
    sleeper.commit().await.expect("asked for");
}

/// Rows that a session of the submitter has staged and not committed are waited for: none comes after its file was judged.
#[tokio::test(flavor = "multi_thread")]
async fn no_row_comes_after_its_file_was_judged() {
    let db = database().await;
    let pool = &db.pool;
    let row = |no: i32| {
        format!(
            r#"insert into noshi.batch_row (batch, row_no, line, key, args) values (1, {no}, {no}, 'g{no}',
        '{{"grant": "g{no}", "user": "u", "category": "digital", "value": {{"amount": 500, "currency": "JPY"}}}}')"#
        )
    };
    let receive =
        "select noshi.receive_batch('grants', 'all_or_nothing', sha256('f'), 'f', 'utf-8', null, false, true)";
    soon(pool, &format!("{receive}; {}", row(1))).await.expect("a file");
    let sleeper = sleeps_behind(pool, &row(2)).await;
    let judged = soon(pool, "select noshi.validate_batch(1, 1)").await.expect_err("a row is on its way");
    assert!(judged.as_database_error().and_then(|it| it.code()).as_deref() == Some("55P03"), "{judged}");
    sleeper.rollback().await.expect("over");
    soon(pool, "select noshi.validate_batch(1, 1)").await.expect("judged");
}

/// Whoever asks for acts on jobs that workers have leased, and sleeps, holds one of them, in however many transactions: the settles of the others,
/// and the slots that wait for them, are free.
#[tokio::test(flavor = "multi_thread")]
async fn one_person_holds_one_leased_job() {
    let db = database().await;
    let pool = &db.pool;
    for n in 0..5 {
        probe(pool, json!({"id": format!("p{n}"), "steps": 1})).await;
    }
    let worker = workers::register(pool, "w").await.expect("a worker");
    assert_eq!(claim(pool, worker, "", 5, false).await.expect("a claim").jobs.len(), 5);
    let (sato, suzuki) = (login(&db, "sato", "noshi_operator").await, login(&db, "suzuki", "noshi_operator").await);
    let greedy = "do $$ declare r record; begin
        for r in select id, step from noshi.job where status = 'running' loop
            begin perform noshi.ask(r.id, r.step, 'cancel', 'hold'); exception when others then null; end; end loop; end $$";
    let sleeper = sleeps_behind(&sato, greedy).await;
    let free = "select count(*) from (select from noshi.job where status = 'running' for update skip locked) f";
    let free = async || sqlx::query_scalar::<_, i64>(free).fetch_one(pool).await.expect("a count");
    assert_eq!(free().await, 4);
    let ask = |who: &str| format!("select noshi.ask(id, step, 'cancel', '{who}') from noshi.job where key = 'p4'");
    let again = soon(&sato, &ask("sato")).await.expect_err("their other transaction");
    assert!(again.as_database_error().and_then(|it| it.code()).as_deref() == Some("55P03"), "{again}");
    assert_eq!(free().await, 4);
    soon(&suzuki, &ask("suzuki")).await.expect("another person's act");
    sleeper.rollback().await.expect("over");
    let two = "do $$ begin perform noshi.ask(id, step, 'cancel', 'x') from noshi.job where key in ('p0', 'p1'); end $$";
    let told = soon(&sato, two).await.expect_err("two of them");
    assert!(told.to_string().contains("holds another such job"), "{told}");
    for key in ["p0", "p1"] {
        soon(&sato, &ask("sato").replace("p4", key)).await.expect("one after the other");
    }
}

/// Whoever waited in vain is told for whom, and doctor tells of such a transaction, also to a login that may not see when it began.
#[tokio::test(flavor = "multi_thread")]
async fn who_holds_a_lock_is_told_by_login_and_process() {
    let _turn = crate::support::turn().await;
    let fleet = fleet(Terms::default()).await;
    let pool = &fleet.pool;
    declare(pool, "l", &[]).await.expect("a lane");
    let name: String = sqlx::query_scalar("select current_database()").fetch_one(pool).await.expect("its name");
    let made = ["sato", "suzuki"].map(|who| format!("create role {who}_{name} login in role noshi_operator"));
    pool.execute(AssertSqlSafe(made.join(";"))).await.expect("two logins");
    let url = |who: &str| fleet.url.replacen("//postgres@", &format!("//{who}_{name}@"), 1);
    let sato = PgPool::plain(&url("sato"), 1).expect("a URL");
    let stage = r#"do $$ declare b bigint; begin
        select batch into b from noshi.receive_batch('grants', 'all_or_nothing', sha256('f'), 'f', 'utf-8', null, false, true);
        insert into noshi.batch_row (batch, row_no, line, key, args) values (b, 1, 2, 'g',
            '{"grant": "g", "user": "u", "category": "digital", "value": {"amount": 500, "currency": "JPY"}}');
        perform noshi.validate_batch(b, 1); end $$"#;
    soon(pool, stage).await.expect("a file");
    let mut sleeper =
        sleeps_behind(&sato, "select noshi.pause_lane('l', 'x'); select noshi.release_batch(1, 'x')").await;
    let pid: i32 = sqlx::query_scalar("select pg_backend_pid()").fetch_one(&mut *sleeper).await.expect("its process");
    let held = format!("sato_{name} (process {pid}");
    let run = async |arguments: &[&str], url: &str| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_noshi"));
        let said = command.args(arguments).env("DATABASE_URL", url).output().await.expect("a command");
        format!("{}{}", String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr))
    };
    for act in
        [&["lane", "pause", "l", "--reason", "now"][..], &["batch", "release", "1", "--reason", "now", "--yes"][..]]
    {
        let said = run(act, &url("suzuki")).await;
        assert!(said.contains(&format!("held by {held}")) && said.contains("nothing was done"), "{act:?}: {said}");
        assert!(said.contains("pg_terminate_backend"), "{said}");
    }
    // Somebody waits for it: doctor tells for whom.
    let waiter = PgPool::plain(&url("suzuki"), 1).expect("a URL");
    let waits = tokio::spawn(async move { waiter.execute("select noshi.pause_lane('l', 'y')").await.is_ok() });
    for login in [url("suzuki"), fleet.url.clone()] {
        let told = async || {
            let said = run(&["doctor"], &login).await;
            said.lines().any(|line| {
                line.contains("open transactions")
                    && line.contains("WARN")
                    && line.contains(&held)
                    && line.contains(&format!("waited for by suzuki_{name}"))
            })
        };
        assert!(told().await, "doctor tells {login} of {held}");
    }
    sleeper.rollback().await.expect("over");
    assert!(waits.await.expect("it went on"), "whoever waited acts");
    let said = run(&["doctor"], &fleet.url).await;
    assert!(said.lines().any(|line| line.contains("open transactions") && line.contains("good")), "{said}");
}
