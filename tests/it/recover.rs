//! What a death, a failover or a lost future leaves, and what bounds every job.

use std::time::Duration;

use noshi::store::PgPool;
use noshi::store::{
    claim::{claim, hand_back},
    recover, workers,
};
use noshi_jobs::Problem;
use serde_json::json;

use crate::{
    engine::{at_rest, pace, probe, start},
    processes::until,
    support::database,
};

async fn run(pool: &PgPool, sql: &'static str) {
    sqlx::raw_sql(sql).execute(pool).await.unwrap();
}

async fn job(pool: &PgPool, id: i64) -> (String, String, Option<String>, bool, i64) {
    sqlx::query_as("select status::text, at, code, unsure, lease from noshi.job where id = $1")
        .bind(id)
        .fetch_one(pool)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_change_of_timeline_every_unfinished_write_is_in_doubt_and_every_lease_is_void() {
    let db = database().await;
    let pool = &db.pool;
    let writing = probe(pool, json!({"id": "writing", "steps": 2, "lane": "l"})).await;
    let waiting = probe(pool, json!({"id": "waiting", "steps": 2, "lane": "l"})).await;
    let fresh = probe(pool, json!({"id": "fresh", "steps": 2})).await;
    run(pool, "insert into noshi.lane (name) values ('l')").await;
    run(
        pool,
        r#"update noshi.job set at = 'calling', state = '{"at": "calling", "left": 1, "turn": 0}', writes = true, lane = 'l' where key in ('writing', 'waiting')"#,
    )
    .await;
    let worker = workers::register(pool, "w").await.unwrap();
    let held = claim(pool, worker, "l", 1, false).await.unwrap().jobs.remove(0);
    assert_eq!((held.id, held.lease), (writing, 1));
    assert!(!recover::see_server(pool).await.unwrap(), "nothing has changed yet");
    run(pool, "update noshi.server_seen set server = '00000000 1', timeline = '00000000'").await;
    assert!(recover::see_server(pool).await.unwrap());
    assert_eq!(job(pool, writing).await, ("available".into(), "calling".into(), None, true, 2));
    assert_eq!(job(pool, waiting).await, ("available".into(), "calling".into(), None, true, 0));
    assert_eq!(job(pool, fresh).await, ("available".into(), "new".into(), None, false, 0));
    // The holder of before is fenced out, even from handing back.
    assert_eq!(hand_back(pool, worker, &[(held.id, held.lease, held.step)]).await.unwrap(), 0);
    assert!(!recover::see_server(pool).await.unwrap(), "a change is seen once");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_declared_dead_while_the_server_was_away() {
    let db = database().await;
    let pool = &db.pool;
    let silent = workers::register(pool, "silent").await.unwrap();
    sqlx::query("update noshi.worker set seen_at = seen_at - interval '1 hour' where id = $1")
        .bind(silent)
        .execute(pool)
        .await
        .unwrap();
    let lease = Duration::from_millis(500);
    run(pool, "update noshi.server_seen set seen_at = clock_timestamp()").await;
    assert!(workers::declare_dead(pool, lease).await.unwrap().is_empty(), "the server came back a moment ago");
    until("a lease time has passed", Duration::from_secs(10), async || {
        workers::declare_dead(pool, lease).await.unwrap() == [silent]
    })
    .await;
    assert!(!workers::renew(pool, silent).await.unwrap(), "declared dead is final");
}

/// A claim whose answer never came: the row is running, and nobody runs it.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_its_own_worker_lost_sight_of_is_found() {
    let db = database().await;
    let pool = &db.pool;
    let worker = start(&db, pace()).await;
    run(pool, "insert into noshi.lane (name, paused) values ('held', true)").await;
    let lost = probe(pool, json!({"id": "lost", "steps": 1})).await;
    at_rest(pool).await;
    sqlx::query(
        "update noshi.job set status = 'running', worker = (select max(id) from noshi.worker), lease = lease + 1, at = 'new',
            state = null, finished_at = null where id = $1",
    )
    .bind(lost)
    .execute(pool)
    .await
    .unwrap();
    at_rest(pool).await;
    let rescued: i64 = sqlx::query_scalar("select count(*) from noshi.job_event where job = $1 and event = 'rescued'")
        .bind(lost)
        .fetch_one(pool)
        .await
        .unwrap();
    assert_eq!((job(pool, lost).await.0.as_str(), rescued), ("completed", 1));
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_job_is_bounded_in_age_and_steps_and_a_newer_kind_is_left_alone() {
    let db = database().await;
    let pool = &db.pool;
    let old = probe(pool, json!({"id": "old", "steps": 2})).await;
    let patient = probe(pool, json!({"id": "patient", "steps": 2})).await;
    let circling = probe(pool, json!({"id": "circling", "steps": 2_000})).await;
    let unreadable = probe(pool, json!({"id": "unreadable", "steps": 2})).await;
    run(pool, "update noshi.job set created_at = created_at - interval '2 days' where key in ('old', 'patient')").await;
    // Time spent waiting in lanes is not age.
    run(pool, "update noshi.job set waited = interval '2 days' where key = 'patient'").await;
    run(pool, r#"update noshi.job set at = 'stepping', state = '{"at": "stepping", "left": "some"}' where key = 'unreadable'"#).await;
    run(pool, "insert into noshi.job (kind, key, fingerprint, args) values ('of_tomorrow', 'k', '', '{}')").await;
    let worker = start(&db, pace()).await;
    until("all but the unknown kind", Duration::from_secs(60), async || {
        let open: i64 = sqlx::query_scalar("select count(*) from noshi.job where status in ('available', 'running')")
            .fetch_one(pool)
            .await
            .unwrap();
        open == 1
    })
    .await;
    let parked =
        |why: Problem, at: &str| ("needs_operator".to_owned(), at.to_owned(), Some(why.code().to_owned()), false);
    let stands = async |id| {
        let (status, at, code, unsure, _) = job(pool, id).await;
        (status, at, code, unsure)
    };
    assert_eq!(stands(old).await, parked(Problem::TooOld, "stepping"));
    assert_eq!(stands(circling).await, parked(Problem::TooManySteps, "stepping"));
    assert_eq!(stands(unreadable).await, parked(Problem::UnreadableState, "stepping"));
    assert_eq!(stands(patient).await.0, "completed");
    let tomorrow: (String, i64) =
        sqlx::query_as("select status::text, lease from noshi.job where kind = 'of_tomorrow'")
            .fetch_one(pool)
            .await
            .unwrap();
    assert_eq!(tomorrow, ("available".to_owned(), 0));
    worker.stop().await;
}
