//! `/livez` and `/readyz` of real processes, as an orchestrator asks them.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    api::Api,
    engine::probe,
    fleet::{self, Fleet, Process, Terms, fleet},
    processes::until,
    support::server,
};
use noshi::db::PgPool;

/// Status and line of an answer; `None` where nobody answers any more.
pub async fn ask(address: &str, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.trim_end().to_owned()))
}

pub async fn address(worker: &Process) -> String {
    fleet::address(worker, "serving /metrics").await
}

/// Waits until it is ready, or is not for this reason.
pub async fn until_ready(address: &str, expected: Result<(), &str>) {
    until(&format!("/readyz to say {expected:?}"), Duration::from_secs(20), async || {
        match (ask(address, "/readyz").await, expected) {
            (Some((200, line)), Ok(())) => line == "ready",
            (Some((503, line)), Err(why)) => line.starts_with("not ready: ") && line.contains(why),
            (Some(_), _) => false,
            (None, _) => panic!("nobody answers at {address}"),
        }
    })
    .await;
}

/// Nobody can connect to the fleet's database any more, and whoever was connected is not.
async fn take_away(fleet: &Fleet) -> PgConnection {
    let name: String = sqlx::query_scalar("select current_database()").fetch_one(&fleet.pool).await.unwrap();
    let mut elsewhere = PgConnection::connect(&server().await.url("postgres")).await.unwrap();
    elsewhere.execute(AssertSqlSafe(format!("alter database {name} allow_connections false"))).await.unwrap();
    let end = "select pg_terminate_backend(pid) from pg_stat_activity where datname = $1";
    sqlx::query(end).bind(&name).execute(&mut elsewhere).await.unwrap();
    sqlx::query("select set_config('noshi.away', $1, false)").bind(&name).execute(&mut elsewhere).await.unwrap();
    elsewhere
}

async fn give_back(mut elsewhere: PgConnection) {
    let name: String =
        sqlx::query_scalar("select current_setting('noshi.away')").fetch_one(&mut elsewhere).await.unwrap();
    elsewhere.execute(AssertSqlSafe(format!("alter database {name} allow_connections true"))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_outage_makes_a_worker_unready_and_kills_it_not() {
    let _turn = crate::support::turn().await;
    let fleet = fleet(Terms::default()).await;
    let worker = fleet.worker("probed", &[], &["--metrics", "127.0.0.1:0"]);
    let address = address(&worker).await;
    until_ready(&address, Ok(())).await;
    assert_eq!(ask(&address, "/livez").await, Some((200, "alive".to_owned())));
    let elsewhere = take_away(&fleet).await;
    until_ready(&address, Err("the database has not answered")).await;
    assert_eq!(ask(&address, "/livez").await, Some((200, "alive".to_owned())));
    give_back(elsewhere).await;
    until_ready(&address, Ok(())).await;
    let job = probe(&fleet.pool, json!({"id": "after", "steps": 1})).await;
    fleet.at_rest(Duration::from_secs(20)).await.unwrap();
    assert!(job > 0 && worker.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_that_is_older_than_the_program_makes_it_unready() {
    let _turn = crate::support::turn().await;
    let fleet = fleet(Terms::default()).await;
    let newest = "select max(version) from noshi_migrations._sqlx_migrations";
    let newest: i64 = sqlx::query_scalar(newest).fetch_one(&fleet.pool).await.unwrap();
    let is = async |success: bool| {
        let update = "update noshi_migrations._sqlx_migrations set success = $1 where version = $2";
        sqlx::query(update).bind(success).bind(newest).execute(&fleet.pool).await.unwrap();
    };
    is(false).await;
    let worker = fleet.worker("probed", &[], &["--metrics", "127.0.0.1:0"]);
    let address = address(&worker).await;
    until_ready(&address, Err(&format!("the schema lacks the migrations {newest}; run `noshi migrate up`"))).await;
    is(true).await;
    until_ready(&address, Ok(())).await;
    // Of a time before processes could see the list.
    sqlx::query("revoke select on noshi_migrations._sqlx_migrations from noshi_worker")
        .execute(&fleet.pool)
        .await
        .unwrap();
    until_ready(&address, Err("the schema is older than this program")).await;
    assert!(worker.stop().await.success());
}

async fn done(pool: &PgPool, job: i64) -> bool {
    let status = "select status::text from noshi.job where id = $1";
    sqlx::query_scalar::<_, String>(status).bind(job).fetch_one(pool).await.unwrap() == "completed"
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_worker_is_unready_first_and_still_claims() {
    let _turn = crate::support::turn().await;
    let fleet = fleet(Terms::default()).await;
    let worker = fleet.worker("probed", &[], &["--metrics", "127.0.0.1:0", "--unready-ms", "4000"]);
    let address = address(&worker).await;
    until_ready(&address, Ok(())).await;
    let told = Instant::now();
    worker.signal(Signal::TERM);
    until_ready(&address, Err("stopping")).await;
    let job = probe(&fleet.pool, json!({"id": "late", "steps": 3})).await;
    until("a job that came later is done", Duration::from_secs(3), async || done(&fleet.pool, job).await).await;
    assert!(told.elapsed() < Duration::from_millis(3_900), "this machine is too slow to tell");
    assert_eq!(ask(&address, "/livez").await, Some((200, "alive".to_owned())));
    let mut worker = worker;
    let end = tokio::time::timeout(Duration::from_secs(20), worker.child.wait()).await.expect("it ends").unwrap();
    assert!(end.success() && told.elapsed() >= Duration::from_secs(4));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_says_that_it_is_going_before_it_stops_to_listen() {
    let _turn = crate::support::turn().await;
    let mut api = Api::open().await;
    let token = api.token("shop", &["enqueue", "read"]).await;
    let address = api.address.clone();
    until_ready(&address, Ok(())).await;
    assert_eq!(ask(&address, "/livez").await, Some((200, "alive".to_owned())));
    let elsewhere = take_away(&api.fleet).await;
    until_ready(&address, Err("the database has not answered")).await;
    assert_eq!(ask(&address, "/livez").await.map(|(status, _)| status), Some(200));
    give_back(elsewhere).await;
    until_ready(&address, Ok(())).await;

    let told = Instant::now();
    api.api.signal(Signal::TERM);
    until_ready(&address, Err("stopping")).await;
    // As usual, to callers old and new.
    let job = json!({"kind": "gift_issuance", "id": "late", "args": {"grant": "late", "user": "u", "category": "digital",
        "value": {"amount": 500, "currency": "JPY"}}});
    assert_eq!(api.post("/v1/jobs", &token, &job).await.0, 200);
    let end = tokio::time::timeout(Duration::from_secs(20), api.api.child.wait()).await.expect("it ends").unwrap();
    assert!(end.success() && told.elapsed() >= Duration::from_secs(3), "{end} after {:?}", told.elapsed());
    assert_eq!(ask(&address, "/readyz").await, None);
}
