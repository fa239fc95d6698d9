//! The examples for producers do what they say, each with the rights of a producer and no others.

use std::{path::Path, process::Command};

use secrecy::ExposeSecret;
use sqlx::AssertSqlSafe;

use crate::{
    api::Api,
    support::{TestDatabase, database, server},
};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// A login that is a producer and nothing else.
async fn producer(db: &TestDatabase) -> String {
    let login = format!("producer_of_{}", db.name);
    let create = AssertSqlSafe(format!("create role {login} login in role noshi_producer"));
    sqlx::raw_sql(create).execute(&db.pool).await.expect("a login");
    server().await.url(&db.name).replacen("//postgres@", &format!("//{login}@"), 1)
}

/// Runs it twice: the second run finds the job of the first.
async fn runs(mut command: impl FnMut(&str) -> Command) {
    let db = database().await;
    let url = producer(&db).await;
    let mut said = vec![];
    for _ in 0..2 {
        let output = command(&url)
            .env("DATABASE_URL", &url)
            .output()
            .expect("the example starts (`cargo build --examples` builds it)");
        let (out, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{out}{errors}");
        said.push(format!("{out}{errors}"));
    }
    let jobs: Vec<(i64, String, i64)> =
        sqlx::query_as("select id, key, (args -> 'value' ->> 'amount')::bigint from noshi.job")
            .fetch_all(&db.pool)
            .await
            .unwrap();
    let [(job, key, amount)] = jobs.as_slice() else { panic!("{jobs:?}") };
    assert_eq!((key.as_str(), *amount), ("order/42", 500));
    for said in &said {
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(lines[..2], [format!("job {job}"), format!("again job {job}")], "{said}");
        assert!(said.contains("refused NS409"), "{said}");
        assert!(said.contains("value: recorded {\"amount\": 500,") && said.contains("now {\"amount\": 600,"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn psql() {
    let programs = "select setting from pg_config where name = 'BINDIR'";
    let programs: String = sqlx::query_scalar(programs).fetch_one(&database().await.pool).await.unwrap();
    let psql = Path::new(&programs).join("psql");
    let psql = if psql.is_file() { psql } else { "psql".into() };
    if Command::new(&psql).arg("--version").output().is_err() {
        eprintln!("SKIPPED: there is no psql");
        return;
    }
    runs(|url| {
        let mut command = Command::new(&psql);
        command
            .args([url, "-X", "-v", "ON_ERROR_STOP=1", "-v", "order=42", "-f"])
            .arg(format!("{ROOT}/ops/examples/enqueue.sql"));
        command
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rust() {
    // Cargo builds the examples with the tests, beside this program's folder.
    let here = std::env::current_exe().expect("this program");
    let example = here.parent().and_then(Path::parent).expect("a folder").join("examples/enqueue");
    runs(|_| {
        let mut command = Command::new(&example);
        command.arg("42");
        command
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs python3 and, in NOSHI_PSYCOPG, the folder of psycopg; .ci/run provides them"]
async fn python() {
    let modules = std::env::var("NOSHI_PSYCOPG")
        .expect("NOSHI_PSYCOPG: run `pip install --target DIR psycopg[binary]` and set it to DIR");
    runs(|_| {
        let mut command = Command::new("python3");
        command.arg(format!("{ROOT}/ops/examples/enqueue.py")).arg("42").env("PYTHONPATH", &modules);
        command
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs node and, in NOSHI_PG, the folder in which npm has installed pg; .ci/run provides them"]
async fn node() {
    let folder = std::env::var("NOSHI_PG").expect("NOSHI_PG: run `npm install --prefix DIR pg` and set it to DIR");
    runs(|_| {
        let mut command = Command::new("node");
        command.arg(format!("{ROOT}/ops/examples/enqueue.mjs")).arg("42").current_dir(&folder);
        command
    })
    .await;
}

/// No example of ours: a client that is generated from the interface's description.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs python3 and, in GENERATED_CLIENT, the folders of the generated client and of what it needs; .ci/run provides them"]
async fn generated_client() {
    let modules = std::env::var("GENERATED_CLIENT").expect("GENERATED_CLIENT: the folders, with a colon between");
    let api = Api::open().await;
    // The report is a worker's.
    let worker = api.fleet.worker("opens", &[], &[]);
    let token = api.token("shop", &["enqueue", "read", "operate", "personal"]).await;
    let output = Command::new("python3")
        .args([&format!("{ROOT}/tests/it/generated_client.py"), &format!("http://{}", api.address)])
        .envs([("PYTHONPATH", modules.as_str()), ("TOKEN", token.expose_secret())])
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .expect("python3");
    let (out, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.trim() == "well", "{out}{errors}");
    assert!(worker.stop().await.success());
}
