//! What the store promises of requests and of the journal: one job for one id, and history that only grows.

use serde_json::{Value, json};

use crate::support::database;
use noshi::db::{self, PgPool, queue::claim::Claimed};

pub async fn enqueue(pool: &PgPool, id: Option<&str>, args: Option<Value>) -> Result<i64, Refused> {
    let query = sqlx::query_scalar("select noshi.enqueue('probe', $1, $2)").bind(id).bind(args);
    query.fetch_one(pool).await.map_err(refused)
}

pub async fn enqueue_rows(pool: &PgPool, rows: &[(&str, Value)]) -> Result<Vec<i64>, Refused> {
    let (ids, args): (Vec<&str>, Vec<&Value>) = rows.iter().map(|(id, args)| (*id, args)).unzip();
    let query = sqlx::query_scalar("select noshi.enqueue_rows('probe', $1, $2)").bind(ids).bind(args);
    query.fetch_all(pool).await.map_err(refused)
}

/// SQLSTATE, message and detail.
pub type Refused = (String, String, String);

fn refused(error: sqlx::Error) -> Refused {
    let database = error.as_database_error().expect("an answer of the database");
    let detail = database.downcast_ref::<sqlx::postgres::PgDatabaseError>().detail().unwrap_or_default();
    (database.code().unwrap_or_default().into_owned(), database.message().to_owned(), detail.to_owned())
}

pub async fn count(pool: &PgPool, of: &'static str) -> i64 {
    sqlx::query_scalar(of).fetch_one(pool).await.expect("a count")
}

pub const JOBS: &str = "select count(*) from noshi.job";

#[tokio::test(flavor = "multi_thread")]
async fn one_id_is_one_request_for_ever() {
    let db = database().await;
    let first = enqueue(&db.pool, Some("a"), Some(json!({"id": "a", "steps": 1, "lane": "x"}))).await.unwrap();
    // The same arguments in another order and spelling are the same.
    let same = serde_json::from_str(r#"{"lane":"\u0078",  "steps":1, "id":"a"}"#).unwrap();
    assert_eq!(enqueue(&db.pool, Some("a"), Some(same)).await, Ok(first));
    let other = enqueue(&db.pool, Some("a"), Some(json!({"id": "a", "steps": 2, "follow_up": true}))).await;
    let (code, message, detail) = other.expect_err("other arguments");
    assert_eq!((code.as_str(), message.contains("probe a exists")), ("NS409", true), "{message}");
    let difference =
        r#"follow_up: recorded absent, now true; lane: recorded "x", now absent; steps: recorded 1, now 2"#;
    assert_eq!(detail, difference);
    assert_eq!(count(&db.pool, JOBS).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_producers_of_one_id_get_one_job() {
    let db = database().await;
    let gate = std::sync::Arc::new(tokio::sync::Barrier::new(64));
    let tasks: Vec<_> = (0..64)
        .map(|_| {
            let (pool, gate) = (db.pool.clone(), gate.clone());
            tokio::spawn(async move {
                gate.wait().await;
                enqueue(&pool, Some("one"), Some(json!({"id": "one", "steps": 1}))).await
            })
        })
        .collect();
    let mut ids = std::collections::HashSet::new();
    for task in tasks {
        ids.insert(task.await.unwrap().expect("an id"));
    }
    assert_eq!((ids.len(), count(&db.pool, JOBS).await), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_requests_are_refused_in_words() {
    let db = database().await;
    let fine = || Some(json!({"id": "a"}));
    // As PostgreSQL writes it, `{"id": "…"}` is ten bytes and the text.
    let sized = |bytes: usize| Some(json!({"id": "x".repeat(bytes - 10)}));
    let long = "ü".repeat(100);
    for (id, args, why) in [
        (None, fine(), "the id is empty"),
        (Some(""), fine(), "the id is empty"),
        (Some("   "), fine(), "the id is empty"),
        (Some(" \t\r\n\u{a0}\u{3000}"), fine(), "the id is empty"),
        (Some(&*format!("{long}x")), fine(), "the id is longer than 200 bytes"),
        (Some("a"), None, "the arguments are not a JSON object"),
        (Some("a"), Some(Value::Null), "the arguments are not a JSON object"),
        (Some("a"), Some(json!([1])), "the arguments are not a JSON object"),
        (Some("a"), Some(json!("a")), "the arguments are not a JSON object"),
        (Some("a"), sized(65_537), "the arguments are larger than 64 KiB"),
    ] {
        let (code, message, detail) = enqueue(&db.pool, id, args).await.expect_err(why);
        assert_eq!((code.as_str(), &*message, &*detail), ("NS400", &*format!("row 1: {why}"), ""));
    }
    for priority in [-1_i16, 2] {
        let query = sqlx::query("select noshi.enqueue('probe', 'a', '{}', $1)").bind(priority);
        let (code, message, _) = refused(query.execute(&db.pool).await.expect_err("no such priority"));
        assert_eq!((code.as_str(), message.contains("priority")), ("NS400", true), "{message}");
    }
    assert_eq!(count(&db.pool, JOBS).await, 0);
    enqueue(&db.pool, Some(&long), fine()).await.expect("200 bytes are enough for an id");
    enqueue(&db.pool, Some("big"), sized(65_536)).await.expect("64 KiB of arguments");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_taken_all_or_none_and_the_bad_one_is_named() {
    let db = database().await;
    let row = |id: &'static str| (id, json!({"id": id}));
    let (code, message, _) = enqueue_rows(&db.pool, &[row("a"), row("b"), row(" ")]).await.expect_err("a blank id");
    assert_eq!((&*code, &*message), ("NS400", "row 3: the id is empty"));
    assert_eq!(count(&db.pool, JOBS).await, 0);
    let taken = enqueue_rows(&db.pool, &[row("b"), row("a"), row("b")]).await.unwrap();
    assert_eq!((taken[0], taken.len(), count(&db.pool, JOBS).await), (taken[2], 3, 2));
    for rows in [vec![row("c"), ("a", json!({"id": "a", "steps": 3}))], vec![row("d"), ("d", json!({"id": "e"}))]] {
        let (code, message, detail) = enqueue_rows(&db.pool, &rows).await.expect_err("other arguments");
        assert_eq!((&*code, message.starts_with("row 2: probe")), ("NS409", true), "{message}");
        assert!(!detail.is_empty());
        assert_eq!(count(&db.pool, JOBS).await, 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_journal_only_grows_even_for_a_superuser() {
    let db = database().await;
    enqueue(&db.pool, Some("a"), Some(json!({"id": "a"}))).await.unwrap();
    held(&db.pool, 1).await;
    let journal = "select string_agg(e::text, ',') from noshi.job_event e";
    let before: String = sqlx::query_scalar(journal).fetch_one(&db.pool).await.unwrap();
    for act in [
        "update noshi.job_event set detail = 'x'",
        "delete from noshi.job_event",
        "truncate noshi.job_event",
        "truncate noshi.job_event cascade",
    ] {
        let (code, message, _) = refused(sqlx::query(act).execute(&db.pool).await.expect_err(act));
        assert_eq!((&*code, message.contains("append-only")), ("NS001", true), "{act}: {message}");
    }
    let after: String = sqlx::query_scalar(journal).fetch_one(&db.pool).await.unwrap();
    assert_eq!(before, after);
}

/// Claims these many jobs, which is all there are, as a new worker.
pub async fn held(pool: &PgPool, jobs: usize) -> (i64, Vec<Claimed>) {
    let worker = db::queue::workers::register(pool, "test").await.unwrap();
    let caught = db::queue::claim::claim(pool, worker, "", jobs, false).await.unwrap().jobs;
    assert_eq!(caught.len(), jobs);
    (worker, caught)
}

/// A partner's date is compared with a clock of nanoseconds, and the lane closes all the same.
#[tokio::test]
async fn a_lane_closes_for_a_span_that_is_no_whole_microseconds() {
    use noshi_jobs::machine::Closing;
    use std::time::Duration;

    let db = database().await;
    let lane = "gift/dated";
    let odd = Duration::new(60, 123_456_789);
    let budget = db::queue::lanes::Budget {
        per: Duration::from_secs(1),
        calls: 5,
        burst: 1,
        jitter: Duration::new(0, 5_000_001),
    };
    db::queue::lanes::declare(&db.pool, lane, &[budget]).await.unwrap();
    let late = Duration::from_nanos(1_001);
    let spent = db::queue::lanes::spend_token(&db.pool, lane, odd, late).await.unwrap();
    assert!(matches!(spent, db::queue::lanes::Spent::Slot { .. }), "{spent:?}");
    db::queue::lanes::close(&db.pool, lane, Closing::Throttled(odd)).await.unwrap();
    let spent = db::queue::lanes::spend_token(&db.pool, lane, odd, late).await.unwrap();
    assert!(matches!(spent, db::queue::lanes::Spent::Closed(wait) if wait > Duration::from_secs(50)), "{spent:?}");
}
