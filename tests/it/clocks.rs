//! The database's clock goes wrong, and comes right again: nothing that cannot be taken back happens meanwhile, and nothing waits afterwards
//! for the clock to catch up.

use std::{fs, os::unix::fs::PermissionsExt, time::Duration};

use futures::future::join_all;
use sqlx::AssertSqlSafe;

use crate::{
    fleet::{Fleet, Process, Terms, fleet, fleet_on_url},
    processes::until,
    support::{database, turn},
};
use noshi::{
    db::PgPool,
    lab::private_postgres::{PrivatePostgres, Settings},
};

const SOON: Duration = Duration::from_secs(30);

async fn run(pool: &PgPool, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(pool).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

async fn holds(pool: &PgPool, sql: &str) -> bool {
    let answer = sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(pool).await;
    answer.unwrap_or_else(|error| panic!("{sql}: {error}"))
}

async fn until_holds(pool: &PgPool, sql: &str) {
    // A server whose clock jumps may end its sessions.
    until(sql, SOON, async || sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(pool).await.unwrap_or(false))
        .await;
}

async fn set_schedule(fleet: &Fleet) {
    let args = r#"{"id": "tick/{due}", "steps": 1}"#;
    let set = [
        "schedule",
        "set",
        "tick",
        "--kind",
        "probe",
        "--cron",
        "0 0 * * *",
        "--zone",
        "UTC",
        "--args",
        args,
        "--missed",
        "latest",
    ];
    let said = fleet.command(&[&set[..], &["--reason", "a test"]].concat()).await;
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
}

/// What a clock leaves that was ahead by `ahead` for a while.
fn left_by(ahead: &str) -> String {
    format!(
        "lock table noshi.lane in exclusive mode;
         update noshi.lane_budget set tat = clock_timestamp() + interval '{ahead}';
         update noshi.lane set closed_until = clock_timestamp() + interval '{ahead}' where name = 'gift/tango_card';
         update noshi.worker set seen_at = clock_timestamp() + interval '{ahead}' where dead_at is null and stopped_at is null;
         update noshi.server_seen set seen_at = clock_timestamp() + interval '{ahead}', clock_at = clock_timestamp() + interval '{ahead}';
         update noshi.schedule set next_due = next_due + interval '{ahead}' + interval '1 day';
         update noshi.retention set begun_at = clock_timestamp() + interval '{ahead}';
         update noshi.metric_snapshot_taken set next_at = clock_timestamp() + interval '{ahead}';
         insert into noshi.job_event (job, event, lease, step, became, happened_at)
             select id, 'retried', lease, step, at, clock_timestamp() + interval '{ahead}' from noshi.job where key = 'waits';
         update noshi.job set status = 'retryable', run_at = clock_timestamp() + interval '{ahead}' + interval '10 seconds' where key = 'waits'"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_stored_ahead_of_the_clock_is_drawn_back() {
    let _turn = turn().await;
    join_all(["1 hour", "60 days"].map(async |ahead| {
        let fleet = fleet(Terms::default()).await;
        let pool = &fleet.pool;
        let worker = fleet.worker("w", &[], &[]);
        fleet.gift("before", "digital", 500).await;
        fleet.at_rest(SOON).await.unwrap();
        set_schedule(&fleet).await;
        run(pool, "insert into noshi.job (kind, key, fingerprint, args, at, status, run_at) values ('probe', 'waits', '', '{\"id\": \"waits\", \"steps\": 2}', 'new', 'scheduled', clock_timestamp() + interval '9 days')").await;
        // A process that died while the clock was ahead.
        run(pool, "insert into noshi.worker (name) values ('gone')").await;
        run(pool, &left_by(ahead)).await;
        for grant in ["after-1", "after-2"] {
            fleet.gift(grant, "digital", 500).await;
        }
        fleet.gift("closed", "prepaid", 500).await;
        for back in [
            "select not exists (select from noshi.lane_budget where tat > clock_timestamp() + per + jitter + interval '11 seconds')",
            "select count(*) = 2 from noshi.job where key like 'after-%' and status = 'completed'",
            "select status = 'completed' from noshi.job where key = 'waits'",
            "select next_due < clock_timestamp() + interval '1 day' from noshi.schedule",
            "select begun_at <= clock_timestamp() from noshi.retention",
            "select next_at < clock_timestamp() + interval '1 minute' from noshi.metric_snapshot_taken",
            "select coalesce(closed_until < clock_timestamp() + interval '61 minutes', true) from noshi.lane where name = 'gift/tango_card'",
            "select dead_at is not null from noshi.worker where name = 'gone'",
        ] {
            until_holds(pool, back).await;
        }
        let log = fs::read_to_string(&worker.log).unwrap();
        assert!(
            log.contains("was stored ahead of the database's clock")
                && log.contains("its next due time lay too far ahead"),
            "{log}"
        );
        assert!(worker.stop().await.success());
    }))
    .await;
}

/// A worker to which the database's clock seems off by what the file says.
fn worker_with(fleet: &Fleet, name: &str, seconds: &str) -> (Process, std::path::PathBuf) {
    let file = fleet.dir.path().join(format!("{name}.clock"));
    fs::write(&file, seconds).unwrap();
    (fleet.worker(name, &[("NOSHI_CLOCK_OFF", file.to_str().unwrap())], &[]), file)
}

const DUE: &str =
    "update noshi.schedule set next_due = next_due - interval '2 days'; select pg_notify('noshi', 'schedule')";
const FIRED: &str = "select exists (select from noshi.job where key like 'tick/%')";
const GONE: &str = "insert into noshi.worker (name, seen_at) values ('gone', clock_timestamp() - interval '1 day');
    update noshi.server_seen set seen_at = clock_timestamp() - interval '1 day'";
const DEAD: &str = "select dead_at is not null from noshi.worker where name = 'gone'";

#[tokio::test(flavor = "multi_thread")]
async fn while_the_clocks_disagree_nothing_falls_due_and_nobody_is_declared_dead() {
    let _turn = turn().await;
    join_all(["5184000", "3600", "-3600"].map(async |off| {
        let fleet = fleet(Terms::default()).await;
        let pool = &fleet.pool;
        set_schedule(&fleet).await;
        let (worker, clock) = worker_with(&fleet, "w", off);
        until_holds(pool, "select coalesce(bool_or(abs(clock_ahead) > 60), false) from noshi.worker where name = 'w'")
            .await;
        run(pool, DUE).await;
        run(pool, GONE).await;
        run(pool, "update noshi.retention set begun_at = clock_timestamp() - interval '2 hours'").await;
        // Gifts go on: they go by no date.
        fleet.gift("meanwhile", "digital", 500).await;
        until_holds(pool, "select status = 'completed' from noshi.job where key = 'meanwhile'").await;
        let beats = "select max(seen_at) > (select max(happened_at) from noshi.job_event) + interval '3 seconds' from noshi.worker where name = 'w'";
        until_holds(pool, beats).await;
        for happened in [FIRED, DEAD, "select begun_at > clock_timestamp() - interval '1 hour' from noshi.retention"] {
            assert!(!holds(pool, happened).await, "{off}: {happened}");
        }
        let doctor = String::from_utf8(fleet.command(&["doctor"]).await.stdout).unwrap();
        assert!(doctor.contains("1 are over a minute from the database's"), "{doctor}");
        fs::write(&clock, "0").unwrap();
        for happens in [FIRED, DEAD] {
            until_holds(pool, happens).await;
        }
        assert!(worker.stop().await.success());
    }))
    .await;
}

/// Nothing lapses, nothing that waits falls due, and what is in doubt is not judged by how long ago its call was.
#[tokio::test(flavor = "multi_thread")]
async fn while_the_clocks_disagree_no_deadline_passes() {
    const LONG_AGO: &str = r#"insert into noshi.job (kind, key, fingerprint, args, at, state, in_doubt, created_at, called_at)
        select 'gift_issuance', key, '', jsonb_build_object('grant', key, 'user', 'u', 'category', 'amazon',
            'value', '{"amount": 500, "currency": "JPY"}'::jsonb, 'valid_days', days), 'routing', '{"at": "routing", "generation": 0}', doubt,
            now() - interval '9 days', case when doubt then now() - interval '1 hour' end
        from (values ('doubted', 30, true), ('lapsing', 5, false)) g(key, days, doubt)"#;
    const WAITS: &str = "insert into noshi.job (kind, key, fingerprint, args, at, status, run_at)
        values ('probe', 'waits', '', '{\"id\": \"waits\", \"steps\": 2}', 'new', 'scheduled', now() - interval '1 minute')";
    let _turn = turn().await;
    let fleet = fleet(Terms::default()).await;
    let pool = &fleet.pool;
    let (worker, clock) = worker_with(&fleet, "w", "3600");
    until_holds(pool, "select coalesce(bool_or(abs(clock_ahead) > 60), false) from noshi.worker where name = 'w'")
        .await;
    run(pool, WAITS).await;
    run(pool, LONG_AGO).await;
    until_holds(pool, "select status = 'completed' from noshi.job where key = 'lapsing'").await;
    until_holds(pool, "select exists (select from noshi.job_event where outcome = 'clock_off')").await;
    let beats = "select max(seen_at) > (select max(happened_at) from noshi.job_event) + interval '3 seconds' from noshi.worker where name = 'w'";
    until_holds(pool, beats).await;
    for waits in ["waits", "doubted"] {
        let status: String = sqlx::query_scalar("select status::text from noshi.job where key = $1")
            .bind(waits)
            .fetch_one(pool)
            .await
            .unwrap();
        assert_eq!(status, "scheduled", "{waits}");
    }
    fs::write(&clock, "0").unwrap();
    until_holds(pool, "select status = 'completed' from noshi.job where key = 'waits'").await;
    until_holds(pool, "select coalesce(code, '') = 'past_horizon' from noshi.job where key = 'doubted'").await;
    assert!(worker.stop().await.success());

    // The database knows by itself, before any worker has looked.
    run(pool, "update noshi.server_seen set trusted_at = clock_timestamp() - interval '1 hour'").await;
    run(pool, "update noshi.job set status = 'scheduled', run_at = now() - interval '1 minute' where key = 'doubted'")
        .await;
    assert_eq!(noshi::db::queue::claim::promote_due(pool).await.unwrap().0, 0);
    run(pool, "update noshi.server_seen set trusted_at = clock_timestamp()").await;
    assert_eq!(noshi::db::queue::claim::promote_due(pool).await.unwrap().0, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_worker_with_a_wrong_clock_does_not_hold_up_the_fleet() {
    let _turn = turn().await;
    join_all(["1200", "-1200"].map(async |off| {
        let fleet = fleet(Terms::default()).await;
        let pool = &fleet.pool;
        set_schedule(&fleet).await;
        let (wrong, _) = worker_with(&fleet, "wrong", off);
        let right = fleet.worker("right", &[], &[]);
        until_holds(pool, "select count(*) = 2 from noshi.worker where clock_ahead is not null").await;
        run(pool, DUE).await;
        run(pool, GONE).await;
        for happens in [FIRED, DEAD] {
            until_holds(pool, happens).await;
        }
        let log = fs::read_to_string(&wrong.log).unwrap();
        assert!(!log.contains("a schedule was due") && !log.contains("declared a silent worker dead"), "{log}");
        assert!(wrong.stop().await.success() && right.stop().await.success());
    }))
    .await;
}

/// Debian's libfaketime, which gives a process another clock, as a file says.
fn libfaketime() -> Option<std::path::PathBuf> {
    let lib = format!("/usr/lib/{}-linux-gnu/faketime/libfaketimeMT.so.1", std::env::consts::ARCH);
    Some(lib.into()).filter(|lib: &std::path::PathBuf| lib.exists())
}

/// A server whose clock is off by what the file says, from the next look on.
async fn server_with_a_clock(lib: &std::path::Path, file: &std::path::Path) -> PrivatePostgres {
    set_clock(file, 0);
    let (lib, file) = (lib.display().to_string(), file.display().to_string());
    let environment = [
        ("LD_PRELOAD", lib.as_str()),
        ("FAKETIME_TIMESTAMP_FILE", &file),
        ("FAKETIME_NO_CACHE", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ];
    let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let settings = Settings { durable: false, environment, ..Settings::default() };
    let server = PrivatePostgres::start(settings).await.unwrap();
    server.create_database("noshi").await.unwrap();
    noshi::db::migrate(&server.url("noshi")).await.unwrap();
    server
}

/// At once for everybody who reads it: never half a file.
fn set_clock(file: &std::path::Path, seconds: i64) {
    let whole = file.with_extension("new");
    fs::write(&whole, format!("{seconds:+}")).unwrap();
    fs::set_permissions(&whole, fs::Permissions::from_mode(0o644)).unwrap();
    fs::rename(whole, file).unwrap();
}

/// Its signatures are refused for its clock alone: it keeps away, says why, and leaves the lane open for everybody else.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_with_a_wrong_clock_keeps_away_from_a_partner_who_checks_signatures() {
    let Some(lib) = libfaketime() else {
        eprintln!("skipped: libfaketime is not installed");
        return;
    };
    let _turn = turn().await;
    let lib = lib.display().to_string();
    join_all(["-20m", "+20m"].map(async |off| {
        let fleet = fleet(Terms::default()).await;
        let pool = &fleet.pool;
        let clock = [("LD_PRELOAD", lib.as_str()), ("FAKETIME", off), ("FAKETIME_DONT_FAKE_MONOTONIC", "1")];
        let wrong = fleet.worker("wrong", &clock, &[]);
        for n in 0..10 {
            fleet.gift(&format!("g{n}"), "amazon", 500).await;
        }
        until("it notices", SOON, async || {
            fs::read_to_string(&wrong.log).is_ok_and(|log| log.contains("this process's clock is off"))
        })
        .await;
        let right = fleet.worker("right", &[], &[]);
        fleet.at_rest(SOON).await.unwrap();
        for (what, sql) in [
            ("each is issued", "select count(*) = 10 from noshi.job where status = 'completed'"),
            ("nothing is in doubt", "select not exists (select from noshi.job where in_doubt)"),
            (
                "the lane was never closed",
                "select closed_code is null from noshi.lane where name = 'gift/amazon_incentives'",
            ),
        ] {
            assert!(holds(pool, sql).await, "{off}: {what}");
        }
        assert_eq!(crate::processes::count(&fleet, "issued"), 10, "{off}: each once");
        assert!(wrong.stop().await.success() && right.stop().await.success());
    }))
    .await;
}

const NOTHING_LOST: [(&str, &str); 5] = [
    (
        "no entry is dated ahead",
        "select not exists (select from noshi.point_entry where at > clock_timestamp() + interval '10 seconds')",
    ),
    ("nobody is declared dead", "select not exists (select from noshi.worker where dead_at is not null)"),
    ("no schedule has fired", "select not exists (select from noshi.job where key like 'tick/%')"),
    ("no points expired", "select not exists (select from noshi.point_entry where kind = 'expire')"),
    ("nothing was pruned", "select count(*) >= 5 from noshi.job where kind = 'gift_issuance'"),
];

/// The server's own clock: for 14 s it is off, and then right again. Workers and producers go on all the time.
#[tokio::test(flavor = "multi_thread")]
async fn the_servers_clock_jumps_and_comes_right() {
    let Some(lib) = libfaketime() else {
        eprintln!("skipped: libfaketime is not installed");
        return;
    };
    let _turn = turn().await;
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    join_all([60 * 86_400, 3600, -3600].map(async |off| {
        let clock = dir.path().join(format!("clock{off}"));
        let server = server_with_a_clock(&lib, &clock).await;
        let fleet = fleet_on_url(server.url("noshi"), Terms::default()).await;
        let pool = &fleet.pool;
        let workers = ["a", "b"].map(|name| fleet.worker(name, &[], &["--lease-ms", "6000"]));
        set_schedule(&fleet).await;
        for n in 0..5 {
            fleet.gift(&format!("before-{n}"), "digital", 500).await;
        }
        // Some of the user's points lapse before the clock's wrong date, and not before the right one.
        run(pool, "select noshi.enqueue('point_grant', 'b:' || d, jsonb_build_object('benefit', 'b', 'source', d::text, 'user', 'u1', 'points', 100, 'valid_days', d)) from unnest(array[30, 400]) d").await;
        fleet.at_rest(SOON).await.unwrap();

        set_clock(&clock, off);
        let shows = format!(
            "select abs(extract(epoch from clock_timestamp()) - {} - {off}) < 60",
            chrono::Utc::now().timestamp()
        );
        assert!(holds(pool, &shows).await, "the server's clock is off by {off}");
        let until_right = tokio::time::Instant::now() + Duration::from_secs(14);
        fleet.gift("meanwhile", "digital", 500).await;
        run(pool, "select noshi.enqueue('point_grant', 'b:m', '{\"benefit\": \"b\", \"source\": \"m\", \"user\": \"u1\", \"points\": 7, \"valid_days\": 400}')").await;
        run(pool, "select pg_notify('noshi', 'schedule')").await;
        until_holds(pool, "select status = 'completed' from noshi.job where key = 'meanwhile'").await;
        tokio::time::sleep_until(until_right).await;
        // Beside a clock that is behind, everything is dated ahead.
        for (what, sql) in &NOTHING_LOST[usize::from(off < 0)..] {
            assert!(holds(pool, sql).await, "{off}, while it is off: {what}");
        }

        set_clock(&clock, 0);
        let right = std::time::Instant::now();
        for grant in ["after-1", "after-2"] {
            fleet.gift(grant, "digital", 500).await;
        }
        until_holds(pool, "select count(*) = 2 from noshi.job where key like 'after-%' and status = 'completed'").await;
        eprintln!("off by {off} s: gifts {:.1} s after it came right", right.elapsed().as_secs_f32());
        fleet.at_rest(SOON).await.unwrap();
        until_holds(pool, "select next_due < clock_timestamp() + interval '1 day' from noshi.schedule").await;
        until_holds(pool, "select bool_and(seen_at between clock_timestamp() - interval '3 seconds' and clock_timestamp() + interval '3 seconds') from noshi.worker").await;
        // As long as anybody could still be taken for dead.
        tokio::time::sleep(Duration::from_secs(9)).await;
        for (what, sql) in NOTHING_LOST {
            assert!(holds(pool, sql).await, "{off}, after it came right: {what}");
        }
        assert!(holds(pool, "select noshi.point_balance('u1') = 207").await, "{off}: the points");
        for worker in workers {
            assert!(worker.stop().await.success(), "{off}");
        }
        drop(fleet);
        server.stop().await.unwrap();
    }))
    .await;
}

/// What a heartbeat asks of the job table: nothing while the clock goes on, and a page by its index where it has gone back.
#[tokio::test(flavor = "multi_thread")]
async fn a_heartbeat_does_not_read_the_jobs_that_wait() {
    let _turn = crate::support::busy().await;
    const WAITING: &str = "insert into noshi.job (kind, key, fingerprint, args, at, status, run_at)
        select 'probe', 'w' || n, '', '{\"id\": \"w\", \"steps\": 2}', 'new', 'scheduled', clock_timestamp() + n * interval '1 minute'
        from generate_series(1, 100000) n";
    const READ: &str = "select coalesce(seq_scan, 0), coalesce(idx_scan, 0), coalesce(idx_tup_fetch, 0) from pg_stat_xact_user_tables where relid = 'noshi.job'::regclass";
    let db = database().await;
    let pool = &db.pool;
    run(pool, WAITING).await;
    run(pool, "analyze noshi.job").await;
    for back in [false, true] {
        if back {
            run(pool, "update noshi.server_seen set clock_at = clock_timestamp() + interval '1 hour'").await;
            run(pool, "insert into noshi.job_event (job, event, lease, step, became, happened_at) select id, 'retried', 0, 0, 'new', clock_timestamp() + interval '1 hour' from noshi.job where key in ('w90', 'w50000')").await;
        }
        let mut transaction = pool.begin().await.unwrap();
        let begun = std::time::Instant::now();
        for heartbeat in [
            "select noshi.report_clock(1, 0, 60)",
            "select * from noshi.draw_back(true)",
            "select noshi.see_clock('2 seconds', true)",
        ] {
            sqlx::raw_sql(heartbeat).execute(&mut *transaction).await.unwrap();
        }
        let took = begun.elapsed();
        let (whole, by_index, rows): (i64, i64, i64) = sqlx::query_as(READ).fetch_one(&mut *transaction).await.unwrap();
        transaction.commit().await.unwrap();
        eprintln!("went back: {back}: {took:?}, {whole} scans, {by_index} by index, {rows} rows");
        assert_eq!(whole, 0, "{back}");
        assert!(
            if back { by_index > 0 && rows < 10_000 } else { (by_index, rows) == (0, 0) },
            "{back}: {by_index}, {rows}"
        );
    }
    for _ in 0..100 {
        run(pool, "select * from noshi.draw_back(true)").await;
    }
    let drawn = "select bool_and(run_at - clock_timestamp() < (substr(key, 2)::int - 50) * interval '1 minute') from noshi.job where key in ('w90', 'w50000')";
    assert!(holds(pool, drawn).await, "an hour sooner, also far behind");
    assert!(
        holds(pool, "select run_at > clock_timestamp() + interval '110 minutes' from noshi.job where key = 'w120'")
            .await
    );
    assert!(holds(pool, "select back_by is null and back_from is null from noshi.server_seen").await);
}
