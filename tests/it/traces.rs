//! The trace that a job belongs to: taken at every entry point, kept in its row, and inherited. What is exported is in `otlp`.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    api::Api,
    engine::probe,
    fleet::{Terms, fleet},
    support::database,
};
use noshi::db::{self, PgPool};

pub const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
pub const GIVEN: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

async fn kept(pool: &PgPool, key: &str) -> Option<String> {
    sqlx::query_scalar("select traceparent from noshi.job where key = $1").bind(key).fetch_one(pool).await.unwrap()
}

/// Enqueues a probe in a transaction with this setting.
async fn asked_with(pool: &PgPool, key: &str, traceparent: &str) -> i64 {
    let mut transaction = pool.begin().await.unwrap();
    let set = "select set_config('noshi.traceparent', $1, true)";
    sqlx::query(set).bind(traceparent).execute(&mut *transaction).await.unwrap();
    let enqueue = "select noshi.enqueue('probe', $1, jsonb_build_object('id', $1, 'steps', 1))";
    let job = sqlx::query_scalar(enqueue).bind(key).fetch_one(&mut *transaction).await.unwrap();
    transaction.commit().await.unwrap();
    job
}

#[tokio::test(flavor = "multi_thread")]
async fn a_well_formed_traceparent_is_kept_and_a_malformed_one_is_ignored() {
    let db = database().await;
    let zeros = |id: &str, span: &str| format!("00-{id}-{span}-01");
    let (trace, span) = (TRACE, "b7ad6b7169203331");
    let good = |flags: u8| Some(format!("00-{trace}-{span}-0{flags}"));
    for (n, (sent, expected)) in [
        (GIVEN.to_owned(), good(1)),
        (format!("00-{trace}-{span}-00"), good(0)),
        // Flags without a meaning are not passed on.
        (format!("00-{trace}-{span}-ff"), good(1)),
        (format!("00-{trace}-{span}-fe"), good(0)),
        // Of a newer version what is known is taken.
        (format!("cc-{trace}-{span}-01-what-the-future-will-be"), good(1)),
        (format!("cc-{trace}-{span}-01"), good(1)),
        (format!("cc-{trace}-{span}-01.what"), None),
        (format!("00-{trace}-{span}-01-more"), None),
        (format!("ff-{trace}-{span}-01"), None),
        (zeros(&"0".repeat(32), span), None),
        (zeros(trace, &"0".repeat(16)), None),
        (GIVEN.to_uppercase(), None),
        (format!(" {GIVEN}"), None),
        (format!("{GIVEN}\n"), None),
        (format!("00-{trace}-{span}-1"), None),
        (format!("00-{trace}-{}-01", &span[1..]), None),
        (String::new(), None),
        ("'; drop table noshi.job; --".to_owned(), None),
        ("x".repeat(100_000), None),
    ]
    .into_iter()
    .enumerate()
    {
        let key = format!("p{n}");
        assert!(asked_with(&db.pool, &key, &sent).await > 0);
        assert_eq!(kept(&db.pool, &key).await, expected, "{sent:.80}");
    }
    // Nothing lasts beyond its transaction, and a call as it always was has none.
    probe(&db.pool, json!({"id": "plain", "steps": 1})).await;
    assert_eq!(kept(&db.pool, "plain").await, None);
    let wrong = "update noshi.job set traceparent = 'x' where key = 'plain'";
    assert!(sqlx::query(wrong).execute(&db.pool).await.is_err(), "the column's shape is checked");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_is_no_part_of_what_a_request_is() {
    let db = database().await;
    let first = asked_with(&db.pool, "p", GIVEN).await;
    let elsewhere = GIVEN.replace("0af7", "1111");
    assert_eq!(asked_with(&db.pool, "p", &elsewhere).await, first);
    assert_eq!(probe(&db.pool, json!({"id": "p", "steps": 1})).await, first);
    assert_eq!(kept(&db.pool, "p").await.as_deref(), Some(GIVEN), "the trace that it came with");
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_over_http_send_their_trace_in_a_header() {
    let api = Api::open().await;
    let shop = api.token("shop", &["enqueue", "read", "operate"]).await;
    let pool = &api.fleet.pool;
    let send = async |path: &str, body: Value, headers: &[&str]| {
        let mut request = api.request("POST", path, Some(&shop)).json(&body);
        for value in headers {
            request = request.header("traceparent", *value);
        }
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 200, "{path} {headers:?}: {}", answer.text().await.unwrap());
    };
    let args = |id: &str| json!({"grant": id, "user": "u", "category": "digital", "value": {"amount": 500, "currency": "JPY"}});
    let one = |id: &str| json!({"kind": "gift_issuance", "id": id, "args": args(id)});
    send("/v1/jobs", one("a"), &[GIVEN]).await;
    send("/v1/jobs", one("b"), &["not a traceparent"]).await;
    send("/v1/jobs", one("c"), &[GIVEN, GIVEN]).await;
    send("/v1/jobs", one("d"), &[]).await;
    let many = json!({"kind": "gift_issuance", "jobs": [{"id": "e", "args": args("e")}]});
    send("/v1/jobs/many", many, &[GIVEN]).await;
    for (key, expected) in [("a", Some(GIVEN)), ("b", None), ("c", None), ("d", None), ("e", Some(GIVEN))] {
        assert_eq!(kept(pool, key).await.as_deref(), expected, "{key}");
    }
    // A file: the job of its batch belongs to the trace of the request that released it.
    let csv = "grant_id,user_id,category,amount,currency\nG1,u1,amazon,500,JPY\n";
    let request = api.request("POST", "/v1/batches?kind=grants&campaign=c&file=g.csv&issue=true", Some(&shop));
    let answer = request.header("content-type", "text/csv").body(csv).send().await.unwrap();
    let batch: Value = answer.json().await.unwrap();
    let release = format!("/v1/batches/{}/release", batch["batch"]);
    send(&release, json!({}), &[GIVEN]).await;
    assert_eq!(kept(pool, &format!("batch/{}", batch["batch"])).await.as_deref(), Some(GIVEN));
    let worker = api.fleet.worker("grants", &[], &[]);
    api.fleet.at_rest(Duration::from_secs(30)).await.unwrap();
    let gift = kept(pool, "G1").await.unwrap();
    assert!(gift.contains(TRACE) && gift != GIVEN, "{gift}: in the trace, below the batch's job");
    assert!(worker.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follow_up_inherits_the_trace_whether_it_was_given_or_computed() {
    let fleet = fleet(Terms::default()).await;
    db::queue::lanes::declare(&fleet.pool, "probe", &[]).await.unwrap();
    let worker = fleet.worker("probes", &[], &[]);
    for (key, given) in [("given", GIVEN), ("own", "")] {
        let mut transaction = fleet.pool.begin().await.unwrap();
        let set = "select set_config('noshi.traceparent', $1, true)";
        sqlx::query(set).bind(given).execute(&mut *transaction).await.unwrap();
        let enqueue = "select noshi.enqueue('probe', $1, jsonb_build_object('id', $1, 'steps', 2, 'lane', 'probe', 'follow_up', true))";
        sqlx::query(enqueue).bind(key).execute(&mut *transaction).await.unwrap();
        transaction.commit().await.unwrap();
    }
    fleet.at_rest(Duration::from_secs(20)).await.unwrap();
    let followed = "select key, traceparent from noshi.job where key not in ('given', 'own') order by key";
    let followed: Vec<(String, String)> = sqlx::query_as(followed).fetch_all(&fleet.pool).await.unwrap();
    assert_eq!(followed.len(), 2, "{followed:?}");
    let of = |key: &str| followed.iter().find(|(name, _)| name.contains(key)).unwrap().1.clone();
    assert!(of("given").contains(TRACE) && !of("own").contains(TRACE) && of("own").ends_with("-01"));
    assert!(worker.stop().await.success());
}
