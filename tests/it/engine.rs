//! The engine on a real server: probes through every transition, with real workers.

use std::time::Duration;

use serde_json::json;
use tokio::sync::oneshot;

use crate::support::{TestDatabase, database};
use noshi::{app::Worker, db::PgPool, engine::Pace, worlds::outside::Partners};

/// A worker inside the test, stopped in order at the end.
pub struct Running {
    stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<noshi::app::End>,
}

pub async fn start(db: &TestDatabase, pace: Pace) -> Running {
    let filter = tracing_subscriber::EnvFilter::new("noshi=info,warn");
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
    let worker = Worker::start(&db.url, "test", Partners::default(), pace).await.expect("a worker");
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(worker.run_until(async {
        let _ = stopped.await;
    }));
    Running { stop, task }
}

impl Running {
    pub async fn stop(self) -> noshi::app::End {
        let _ = self.stop.send(());
        self.task.await.expect("the worker ends")
    }
}

pub fn pace() -> Pace {
    Pace {
        slots: 32,
        lease: Duration::from_secs(2),
        poll: Duration::from_millis(100),
        grace: Duration::from_secs(5),
        listen: true,
        unready: Duration::ZERO,
    }
}

pub async fn probe(pool: &PgPool, args: serde_json::Value) -> i64 {
    sqlx::query_scalar("select noshi.enqueue('probe', $1, $2)")
        .bind(args["id"].as_str().unwrap())
        .bind(&args)
        .fetch_one(pool)
        .await
        .expect("an enqueued probe")
}

/// Waits until every job is at rest.
pub async fn at_rest(pool: &PgPool) {
    let open = "select count(*) from noshi.job where status in ('scheduled', 'available', 'running', 'retryable')";
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    loop {
        let open: i64 = sqlx::query_scalar(open).fetch_one(pool).await.unwrap();
        if open == 0 {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{open} jobs are still open after a minute");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn standing(pool: &PgPool, id: i64) -> (String, String, Option<String>, Option<String>, bool) {
    sqlx::query_as("select status::text, at, outcome, code, in_doubt from noshi.job where id = $1")
        .bind(id)
        .fetch_one(pool)
        .await
        .unwrap()
}

fn stands(
    status: &str,
    at: &str,
    outcome: &str,
    code: Option<&str>,
    in_doubt: bool,
) -> (String, String, Option<String>, Option<String>, bool) {
    (status.into(), at.into(), Some(outcome.into()), code.map(Into::into), in_doubt)
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_go_through_every_transition() {
    let db = database().await;
    let pool = &db.pool;
    let plain = probe(pool, json!({"id": "plain", "steps": 3})).await;
    let rich = probe(pool, json!({"id": "rich", "steps": 3, "lane": "probe", "follow_up": true})).await;
    let refused =
        probe(pool, json!({"id": "refused", "steps": 2, "lane": "probe", "answers": ["busy", "not_sent", "refused"]}))
            .await;
    let checked = probe(
        pool,
        json!({"id": "checked", "steps": 2, "lane": "probe", "answers": ["unknown", "ok"], "in_doubt": "go_to"}),
    )
    .await;
    let asked =
        probe(pool, json!({"id": "asked", "steps": 2, "lane": "probe", "answers": ["unknown"], "in_doubt": "ask"}))
            .await;
    let doubtful =
        probe(pool, json!({"id": "doubtful", "steps": 2, "lane": "probe", "answers": ["unknown", "refused"]})).await;
    let panicking =
        probe(pool, json!({"id": "panicking", "steps": 2, "lane": "probe", "answers": ["panic"], "in_doubt": "go_to"}))
            .await;
    let first = probe(pool, json!({"id": "first", "steps": 2, "lane": "probe", "tally": "name"})).await;
    let bad = probe(pool, json!({"id": "bad", "steps": 0})).await;
    let worse = probe(pool, json!({"id": "worse", "stops": 1})).await;
    noshi::db::queue::lanes::declare(pool, "probe", &[]).await.unwrap();
    let worker = start(&db, pace()).await;
    at_rest(pool).await;
    let second = probe(pool, json!({"id": "second", "steps": 2, "lane": "probe", "tally": "name"})).await;
    at_rest(pool).await;
    assert_eq!(worker.stop().await, noshi::app::End::Stopped);

    assert_eq!(standing(pool, plain).await, stands("completed", "over", "over", None, false));
    assert_eq!(standing(pool, rich).await, stands("completed", "over", "over", None, false));
    assert_eq!(standing(pool, refused).await, stands("failed", "over", "refused", Some("probe_refused"), false));
    assert_eq!(standing(pool, checked).await, stands("completed", "over", "over", None, false));
    assert_eq!(standing(pool, asked).await, stands("needs_operator", "calling", "unknown", Some("probe_asked"), true));
    // Refused by the second call says nothing about the first: the job may not end.
    assert_eq!(
        standing(pool, doubtful).await,
        stands("needs_operator", "calling", "refused", Some("unsettled_doubt"), true)
    );
    assert_eq!(standing(pool, panicking).await, stands("completed", "over", "over", None, false));
    assert_eq!(standing(pool, first).await, stands("completed", "over", "over", None, false));
    assert_eq!(standing(pool, second).await, stands("failed", "over", "compensated", Some("probe_refused"), false));
    assert_eq!(standing(pool, bad).await.3.as_deref(), Some("bad_args"));
    assert_eq!(standing(pool, worse).await.3.as_deref(), Some("bad_args"));
    let follow_up: String = sqlx::query_scalar("select status::text from noshi.job where key = 'rich/follow-up'")
        .fetch_one(pool)
        .await
        .unwrap();
    assert_eq!(follow_up, "completed");
}
