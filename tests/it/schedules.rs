//! Recurring jobs, with real worker processes: one job for each due time, whatever happens to the fleet.
//!
//! Time is moved by moving `next_due`, as the owner of the schema could, and no command can.

use std::time::Duration;

use serde_json::{Value, json};
use sqlx::AssertSqlSafe;

use crate::{
    fleet::{Fleet, Process, Terms, fleet},
    processes::until,
    support::{database, turn},
};
use noshi::db::PgPool;

const SOON: Duration = Duration::from_secs(30);
const WHY: &str = "a test";

async fn noshi(fleet: &Fleet, arguments: &[&str]) -> Result<Value, String> {
    let said = fleet.command(&[arguments, &["-o", "json"]].concat()).await;
    match said.status.success() {
        true => Ok(serde_json::from_slice(&said.stdout).expect("JSON")),
        false => Err(String::from_utf8_lossy(&said.stderr).into_owned()),
    }
}

/// Sets a schedule of probes whose ids begin with its name.
async fn set(fleet: &Fleet, name: &str, cron: &str, zone: &str, missed: &str) -> Result<Value, String> {
    let args = json!({"id": format!("{name}/{{due}}"), "steps": 1}).to_string();
    let arguments = [
        "schedule", "set", name, "--kind", "probe", "--cron", cron, "--zone", zone, "--args", &args, "--missed",
        missed, "--reason", WHY,
    ];
    noshi(fleet, &arguments).await
}

async fn steer(fleet: &Fleet, act: &str, name: &str) -> Value {
    noshi(fleet, &["schedule", act, name, "--reason", WHY]).await.unwrap_or_else(|error| panic!("{act}: {error}"))
}

async fn show(fleet: &Fleet, name: &str) -> Value {
    noshi(fleet, &["schedule", "show", name]).await.expect("a schedule")
}

/// The due time before that which comes next, so many days back: of a daily schedule.
async fn move_back(pool: &PgPool, name: &str, days: i32) {
    let back = "update noshi.schedule set next_due = next_due - make_interval(hours => 24 * $2) where name = $1";
    let moved = sqlx::query(back).bind(name).bind(days).execute(pool).await.expect("a schedule").rows_affected();
    assert_eq!(moved, 1);
    sqlx::query("select pg_notify('noshi', 'schedule')").execute(pool).await.expect("a hint");
}

/// Ids of the jobs that a schedule fired.
async fn fired(pool: &PgPool, name: &str) -> Vec<String> {
    sqlx::query_scalar("select key from noshi.job where key like $1 || '/%' order by key")
        .bind(name)
        .fetch_all(pool)
        .await
        .expect("jobs")
}

/// Nothing is due that is not paused.
async fn settled(pool: &PgPool) {
    until("every due time dealt with", SOON, async || {
        let due = "select count(*) from noshi.schedule where paused_at is null and stuck is null and next_due <= clock_timestamp()";
        sqlx::query_scalar::<_, i64>(due).fetch_one(pool).await.expect("a count") == 0
    })
    .await;
}

fn workers(fleet: &Fleet, many: usize) -> Vec<Process> {
    (0..many).map(|n| fleet.worker(&format!("w{n}"), &[], &[])).collect()
}

async fn all_listen(pool: &PgPool, many: i64) {
    until("workers that listen", SOON, async || {
        let listening =
            "select count(*) from pg_stat_activity where datname = current_database() and query ilike 'listen%'";
        sqlx::query_scalar::<_, i64>(listening).fetch_one(pool).await.expect("a count") == many
    })
    .await;
}

/// The ids say when they were due: at midnight UTC, so many days before today's next midnight.
fn has_days(ids: &[String], days: usize) {
    assert_eq!(ids.len(), days, "{ids:?}");
    assert!(ids.iter().all(|id| id.ends_with("T00:00:00Z")), "{ids:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn four_processes_fire_a_due_time_once() {
    let _turn = turn().await;
    let fleet = fleet(Terms::default()).await;
    let pool = &fleet.pool;
    let _workers = workers(&fleet, 4);
    all_listen(pool, 4).await;
    // Two at one instant, so that every process finds one that is in other hands.
    for name in ["a", "b"] {
        assert_eq!(set(&fleet, name, "0 0 * * *", "UTC", "latest").await.expect("a schedule")["is"], "new");
    }
    for round in 1..=10 {
        sqlx::query("update noshi.schedule set next_due = next_due - interval '1 day' * $1")
            .bind(f64::from(round))
            .execute(pool)
            .await
            .expect("schedules");
        sqlx::query("select pg_notify('noshi', 'schedule')").execute(pool).await.expect("a hint");
        settled(pool).await;
    }
    fleet.at_rest(SOON).await.expect("probes");
    for name in ["a", "b"] {
        // The latest of each round's due times is today's midnight, again and again: one job.
        has_days(&fired(pool, name).await, 1);
        let shown = show(&fleet, name).await;
        assert_eq!((&shown["fired"], &shown["skipped"]), (&json!(10), &json!(45)), "{shown}");
    }
    // With `every`, ten due times are ten jobs, whoever looks.
    set(&fleet, "c", "0 0 * * *", "UTC", "every").await.expect("a schedule");
    move_back(pool, "c", 10).await;
    settled(pool).await;
    has_days(&fired(pool, "c").await, 10);
    fleet.at_rest(SOON).await.expect("probes");
    let completed: i64 =
        sqlx::query_scalar("select count(*) from noshi.job where status = 'completed' and outcome is not null")
            .fetch_one(pool)
            .await
            .expect("a count");
    assert_eq!(completed, 12);
}

/// With the transaction the due time goes back; after it, it is over.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_killed_while_it_fires_loses_and_repeats_nothing() {
    let _turn = turn().await;
    let fleet = fleet(Terms::default()).await;
    let pool = &fleet.pool;
    for (point, there) in [("schedule.before_commit", 0), ("schedule.after", 1)] {
        let name = point.replace('_', "-");
        set(&fleet, &name, "0 0 * * *", "UTC", "every").await.expect("a schedule");
        move_back(pool, &name, 1).await;
        let mut victim = fleet.worker(point, &[("NOSHI_CRASH", &format!("{point}@1"))], &[]);
        assert!(victim.killed(SOON).await, "{point}");
        until("the end of its session", SOON, async || {
            let open = "select count(*) from pg_stat_activity where datname = current_database() and query like '%fire_schedule%' and pid <> pg_backend_pid()";
            sqlx::query_scalar::<_, i64>(open).fetch_one(pool).await.expect("a count") == 0
        })
        .await;
        has_days(&fired(pool, &name).await, there);
        fleet.declare_all_dead().await;
        let next = fleet.worker("next", &[], &[]);
        settled(pool).await;
        fleet.at_rest(SOON).await.expect("a probe");
        has_days(&fired(pool, &name).await, 1);
        assert_eq!(show(&fleet, &name).await["fired"], 1);
        drop(next);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_missed_goes_by_policy_after_a_fleet_that_was_down_and_after_a_pause() {
    let _turn = turn().await;
    let fleet = fleet(Terms::default()).await;
    let pool = &fleet.pool;
    let policies = [("every", 3), ("latest", 1), ("none", 0)];
    for (missed, _) in policies {
        for name in [missed.to_owned(), format!("{missed}-paused")] {
            set(&fleet, &name, "0 0 * * *", "UTC", missed).await.expect("a schedule");
            move_back(pool, &name, 3).await;
        }
        steer(&fleet, "pause", &format!("{missed}-paused")).await;
    }
    let _workers = workers(&fleet, 2);
    settled(pool).await;
    for (missed, jobs) in policies {
        has_days(&fired(pool, missed).await, jobs);
        assert_eq!(show(&fleet, missed).await["skipped"], 3 - jobs);
        let paused = format!("{missed}-paused");
        assert_eq!(fired(pool, &paused).await.len(), 0);
        let shown = show(&fleet, &paused).await;
        assert_eq!((&shown["state"], &shown["paused_reason"]), (&json!("paused"), &json!(WHY)));
        steer(&fleet, "resume", &paused).await;
    }
    settled(pool).await;
    for (missed, jobs) in policies {
        has_days(&fired(pool, &format!("{missed}-paused")).await, jobs);
    }
    fleet.at_rest(SOON).await.expect("probes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_fires_once_at_its_instant_and_every_act_is_in_the_audit() {
    let _turn = turn().await;
    let fleet = fleet(Terms::default()).await;
    let pool = &fleet.pool;
    set(&fleet, "daily", "0 0 * * *", "UTC", "latest").await.expect("a schedule");
    let before = show(&fleet, "daily").await;
    steer(&fleet, "pause", "daily").await;
    let triggered = steer(&fleet, "trigger", "daily").await;
    let again = steer(&fleet, "trigger", "daily").await;
    assert_ne!(triggered["job"], again["job"], "two triggers are two jobs");
    let ids = fired(pool, "daily").await;
    assert_eq!(ids, [triggered["id"].as_str().expect("an id"), again["id"].as_str().expect("an id")]);
    assert_eq!(show(&fleet, "daily").await["next_due"], before["next_due"], "its due times stay");
    // Another zone is another midnight; other arguments are not.
    let same = set(&fleet, "daily", "0 0 * * *", "UTC", "every").await.expect("a change");
    assert_eq!((&same["is"], &show(&fleet, "daily").await["next_due"]), (&json!("changed"), &before["next_due"]));
    set(&fleet, "daily", "0 0 * * *", "Asia/Tokyo", "every").await.expect("a change");
    let tokyo = show(&fleet, "daily").await;
    assert!(tokyo["next_due"].as_str().is_some_and(|due| due.contains("T15:00:00")), "{tokyo}");
    assert!(tokyo["next"][0].as_str().is_some_and(|due| due.ends_with("T00:00:00+09:00")), "{tokyo}");
    assert_eq!(tokyo["next"].as_array().map(Vec::len), Some(3));
    steer(&fleet, "resume", "daily").await;
    steer(&fleet, "remove", "daily").await;
    assert!(
        noshi(&fleet, &["schedule", "show", "daily"]).await.is_err_and(|said| said.contains("there is no schedule"))
    );
    assert_eq!(fired(pool, "daily").await.len(), 2, "what it fired stays");
    let acts: Vec<(String, String, String)> =
        sqlx::query_as("select act, who, reason from noshi.audit where target = 'schedule/daily' order by id")
            .fetch_all(pool)
            .await
            .expect("the audit");
    let login: String = sqlx::query_scalar("select session_user::text").fetch_one(pool).await.expect("a login");
    let expected = ["set", "pause", "trigger", "trigger", "set", "set", "resume", "remove"];
    let expected: Vec<_> = expected.map(|act| (format!("schedule {act}"), login.clone(), WHY.to_owned())).into();
    assert_eq!(acts, expected);
    let zones: Vec<(String, String)> = sqlx::query_as(
        "select before ->> 'zone', after ->> 'zone' from noshi.audit where act = 'schedule set' and before ->> 'zone' <> after ->> 'zone'",
    )
    .fetch_all(pool)
    .await
    .expect("the audit");
    assert_eq!(zones, [("UTC".to_owned(), "Asia/Tokyo".to_owned())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_refused_and_says_how_to_fix_it() {
    let _turn = turn().await;
    let fleet = fleet(Terms::default()).await;
    let usual = [
        ("--kind", "point_expiry"),
        ("--cron", "5 0 * * *"),
        ("--zone", "Asia/Tokyo"),
        ("--args", r#"{"due":"{due}"}"#),
    ];
    for (flag, value, said) in [
        ("--zone", "tokyo", "Did you mean Asia/Tokyo?"),
        ("--cron", "0 0 30 2 *", "is never due"),
        ("--cron", "every day", "minute hour day month weekday"),
        ("--args", r#"{"due":"2026-11-23T15:05:00Z"}"#, "Write {due}"),
        ("--args", r#"{"dew":"{due}"}"#, "missing field `due`"),
        ("--args", "{due}", "this is no JSON"),
        ("--kind", "point_expire", "a similar value exists: 'point_expiry'"),
        // Value comes from producers, or in batches that a second person approves.
        ("--kind", "gift_issuance", "are not for schedules"),
    ] {
        let gift = r#"{"grant":"{due}","user":"u","category":"amazon","value":{"amount":1,"currency":"JPY"}}"#;
        let usual =
            usual.map(|(name, usual)| (name, if value == "gift_issuance" && name == "--args" { gift } else { usual }));
        let flags = usual.iter().flat_map(|(name, usual)| [*name, if *name == flag { value } else { *usual }]);
        let arguments: Vec<&str> = ["schedule", "set", "bad"].into_iter().chain(flags).collect();
        let refused = noshi(&fleet, &[&arguments[..], &["--missed", "latest", "--reason", WHY]].concat()).await;
        let refused = refused.expect_err(value);
        assert!(refused.contains(said) && refused.contains(&flag[2..]), "{flag} {value}: {refused}");
    }
    // Past the command: what no program can hold, or no column.
    for (priority, missed, next, said) in [
        ("1", "every", "infinity", "over a hundred years away"),
        ("1", "every", "294000-01-01", "over a hundred years away"),
        ("null", "every", "2099-01-01", "priority is 0 or 1"),
        ("2", "every", "2099-01-01", "priority is 0 or 1"),
        ("1", "foo", "2099-01-01", "missed is every, latest or none"),
    ] {
        let set = format!(
            "select noshi.set_schedule('bad', 'probe', 'bad/{{due}}', '{{}}', {priority}::smallint, '* * * * *', 'UTC', '{missed}', '{next}', 'r')"
        );
        let refused = sqlx::query(AssertSqlSafe(set)).execute(&fleet.pool).await.expect_err(next).to_string();
        assert!(refused.contains(said), "{priority} {missed} {next}: {refused}");
    }
    let kept: i64 =
        sqlx::query_scalar("select count(*) from noshi.schedule").fetch_one(&fleet.pool).await.expect("a count");
    assert_eq!(kept, 0);
}

/// An id that somebody took with other arguments stops one schedule, and no other.
#[tokio::test(flavor = "multi_thread")]
async fn a_stuck_schedule_shows_and_holds_up_nobody() {
    let _turn = turn().await;
    let fleet = fleet(Terms::default()).await;
    let pool = &fleet.pool;
    for name in ["taken", "well"] {
        set(&fleet, name, "0 0 * * *", "UTC", "every").await.expect("a schedule");
        move_back(pool, name, 1).await;
    }
    let take = "select noshi.enqueue('probe', replace(key, '{due}', noshi.instant(next_due)),
        jsonb_build_object('id', replace(key, '{due}', noshi.instant(next_due)), 'steps', 2)) from noshi.schedule where name = 'taken'";
    sqlx::query(take).execute(pool).await.expect("a job in the way");
    let worker = fleet.worker("w", &[], &[]);
    settled(pool).await;
    has_days(&fired(pool, "well").await, 1);
    let shown = show(&fleet, "taken").await;
    assert_eq!((&shown["state"], &shown["fired"]), (&json!("stuck"), &json!(0)));
    assert!(shown["stuck"].as_str().is_some_and(|why| why.contains("exists with other arguments")), "{shown}");
    until("its lateness among the snapshot", SOON, async || {
        let late = "select value from noshi.metric_snapshot where name = 'noshi_schedule_late_seconds'";
        sqlx::query_scalar::<_, f64>(late).fetch_optional(pool).await.expect("snapshot").is_some_and(|late| late > 0.0)
    })
    .await;
    // Arguments that fit what is there set it free.
    let args = json!({"id": "taken/{due}", "steps": 2}).to_string();
    let fixed =
        ["schedule", "set", "taken", "--kind", "probe", "--cron", "0 0 * * *", "--zone", "UTC", "--args", &args];
    noshi(&fleet, &[&fixed[..], &["--missed", "every", "--reason", WHY]].concat()).await.expect("a change");
    settled(pool).await;
    assert_eq!(show(&fleet, "taken").await["fired"], 1);
    has_days(&fired(pool, "taken").await, 1);
    assert!(worker.stop().await.success());
}

/// Operators set, pause, resume and remove while due times fire: no due time twice, none in a pause.
#[tokio::test(flavor = "multi_thread")]
async fn acts_race_with_firing() {
    let _turn = turn().await;
    let fleet = fleet(Terms::default()).await;
    let pool = &fleet.pool;
    let _workers = workers(&fleet, 2);
    all_listen(pool, 2).await;
    let mut expected = 0;
    for round in 0..12 {
        let name = format!("r{round}");
        set(&fleet, &name, "0 0 * * *", "UTC", "every").await.expect("a schedule");
        let (act, _) = tokio::join!(
            async {
                match round % 3 {
                    0 => steer(&fleet, "pause", &name).await,
                    1 => steer(&fleet, "remove", &name).await,
                    _ => set(&fleet, &name, "0 12 * * *", "UTC", "every").await.expect("a change"),
                }
            },
            async {
                let back = "update noshi.schedule set next_due = next_due - interval '3 days' where name = $1";
                sqlx::query(back).bind(&name).execute(pool).await.expect("a schedule or none");
                sqlx::query("select pg_notify('noshi', 'schedule')").execute(pool).await.expect("a hint");
            }
        );
        settled(pool).await;
        let ids = fired(pool, &name).await;
        // The three, or none of them: the act came first, or the firing did.
        assert!(ids.is_empty() || ids.len() == 3, "{act}: {ids:?}");
        expected += ids.len();
        if round % 3 == 0 {
            let paused = show(&fleet, &name).await;
            assert_eq!((&paused["state"], paused["fired"].as_u64()), (&json!("paused"), Some(ids.len() as u64)));
        }
    }
    fleet.at_rest(SOON).await.expect("probes");
    let jobs: i64 = sqlx::query_scalar("select count(*) from noshi.job").fetch_one(pool).await.expect("a count");
    assert_eq!(usize::try_from(jobs).expect("a count"), expected);
}

/// The points of a day expire by a schedule that workers fire and run.
#[tokio::test(flavor = "multi_thread")]
async fn points_expire_by_a_schedule() {
    let _turn = turn().await;
    let fleet = fleet(Terms::default()).await;
    let arguments = [
        "schedule",
        "set",
        "point-expiry",
        "--kind",
        "point_expiry",
        "--cron",
        "5 0 * * *",
        "--zone",
        "Asia/Tokyo",
        "--args",
        r#"{"due":"{due}"}"#,
        "--missed",
        "latest",
        "--reason",
        "points expire at midnight",
    ];
    noshi(&fleet, &arguments).await.expect("a schedule");
    move_back(&fleet.pool, "point-expiry", 1).await;
    let worker = fleet.worker("w", &[], &[]);
    settled(&fleet.pool).await;
    fleet.at_rest(SOON).await.expect("an expiry");
    let (key, status, due): (String, String, String) =
        sqlx::query_as("select key, status::text, args ->> 'due' from noshi.job where kind = 'point_expiry'")
            .fetch_one(&fleet.pool)
            .await
            .expect("one job");
    assert!(key.ends_with("T15:05:00Z") && key == due, "{key} {due}");
    assert_eq!(status, "completed");
    assert!(worker.stop().await.success());
}

/// Only the transaction that finds `next_due` where it looked moves it, and never to a time that is not due.
#[tokio::test(flavor = "multi_thread")]
async fn the_database_fires_no_due_time_twice_and_none_before_its_time() {
    let pool = database().await.pool;
    let set = "select noshi.set_schedule('s', 'probe', 's/{due}', '{\"id\": \"s/{due}\", \"steps\": 1}', 1::smallint, '0 0 * * *', 'UTC', 'every',
        clock_timestamp() + interval '1 hour', 'a test')";
    sqlx::query(set).execute(&pool).await.expect("a schedule");
    let fire = "select noshi.fire_schedule('s', next_due, next_due + interval '1 day', array[next_due], 0) from noshi.schedule";
    let early = sqlx::query(fire).execute(&pool).await.expect_err("it is not due");
    assert!(early.to_string().contains("no due times"), "{early}");
    sqlx::query("update noshi.schedule set next_due = date_trunc('day', clock_timestamp(), 'UTC') - interval '2 days'")
        .execute(&pool)
        .await
        .expect("a schedule");
    let again = "select noshi.fire_schedule('s', $1::timestamptz, $1 + interval '1 day', array[$1], 0)";
    let due: chrono::DateTime<chrono::Utc> =
        sqlx::query_scalar("select next_due from noshi.schedule").fetch_one(&pool).await.expect("a due time");
    for moved in [true, false] {
        let fired: bool = sqlx::query_scalar(again).bind(due).fetch_one(&pool).await.expect("an answer");
        assert_eq!(fired, moved);
    }
    has_days(&fired(&pool, "s").await, 1);
}

/// Whatever keeps a schedule from being fired, it is that schedule's alone: it waits for a person, and the next one has its turn.
#[tokio::test(flavor = "multi_thread")]
async fn one_schedule_that_cannot_be_fired_holds_up_no_other() {
    let db = crate::support::database().await;
    let set = |name: &str| {
        format!(
            "select noshi.set_schedule('{name}', 'probe', '{name}/{{due}}', '{{\"id\": \"{name}/{{due}}\"}}', 1::smallint, '0 0 1 1 *', 'UTC', 'latest', now() + interval '1 day', 'r')"
        )
    };
    let made = format!(
        "{}; {}; update noshi.schedule set next_due = now() - case name when 'bad' then interval '2 hours' else interval '1 hour' end;
        create function noshi.broken() returns trigger language plpgsql as $$ begin raise exception E'a fault\\nof two lines'; end $$;
        create trigger broken before insert on noshi.job for each row when (new.key like 'bad/%') execute function noshi.broken()",
        set("bad"),
        set("good")
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(made)).execute(&db.pool).await.expect("two schedules");
    const FIRE: &str =
        "select s.name, noshi.fire_schedule(s.name, s.next_due, now() + interval '1 hour', array[s.next_due], 0)
        from noshi.take_due_schedule(array['probe']) s";
    for expected in [("bad".to_owned(), false), ("good".to_owned(), true)] {
        let fired: (String, bool) = sqlx::query_as(FIRE).fetch_one(&db.pool).await.expect("an answer");
        assert_eq!(fired, expected);
    }
    let stuck: Option<String> =
        sqlx::query_scalar("select stuck from noshi.schedule where name = 'bad'").fetch_one(&db.pool).await.unwrap();
    assert_eq!(stuck.as_deref(), Some("a fault of two lines"));
}
