//! What processes do when they are told something from outside, or cannot begin.

use std::{
    net::TcpListener,
    process::{Output, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{
    fleet::{Fleet, Process, Terms, fleet},
    processes::until,
};

fn log(process: &Process) -> String {
    std::fs::read_to_string(&process.log).unwrap_or_default()
}

async fn logged(process: &Process, what: &str) {
    until(what, Duration::from_secs(20), async || log(process).contains(what)).await;
}

async fn workers(fleet: &Fleet) -> i64 {
    sqlx::query_scalar("select count(*) from noshi.worker").fetch_one(&fleet.pool).await.unwrap()
}

/// Wrappers and terminals signal a process and its group: that is one signal.
#[tokio::test(flavor = "multi_thread")]
async fn the_same_signal_twice_within_a_moment_is_a_graceful_stop() {
    let _turn = crate::support::turn().await;
    let fleet = fleet(Terms::default()).await;
    let worker = fleet.worker("w", &[], &["--unready-ms", "300"]);
    logged(&worker, "claiming").await;
    let began = log(&worker);
    for word in ["\"version\"", "\"database\"", "\"partners\"", "\"lanes\"", "\"slots\"", "\"commit\""] {
        assert!(began.contains(word), "the start does not say {word}: {began}");
    }
    for signal in [Signal::TERM, Signal::INT, Signal::TERM] {
        worker.signal(signal);
    }
    let name = worker.log.clone();
    assert!(worker.stop().await.success());
    let said = std::fs::read_to_string(name).unwrap();
    assert!(!said.contains("a second signal") && said.contains("stopped"), "{said}");
}

/// A key that was wrong is fixed without a restart; one that cannot be read changes nothing; and a closed terminal ends nobody.
#[tokio::test(flavor = "multi_thread")]
async fn a_hang_up_reads_secrets_again_and_never_kills() {
    let _turn = crate::support::turn().await;
    let fleet = fleet(Terms::default()).await;
    let key = fleet.dir.path().join("gods.secret");
    let right = std::fs::read(&key).unwrap();
    std::fs::write(&key, "not-the-key").unwrap();
    let job = fleet.gift("G-1", "digital", 500).await;
    let worker = fleet.worker("w", &[], &[]);
    let closed = async || -> Option<String> {
        let closed = "select closed_code from noshi.lane where name = 'gift/gift_on_demand'";
        sqlx::query_scalar(closed).fetch_optional(&fleet.pool).await.unwrap().flatten()
    };
    until("a closed lane", Duration::from_secs(20), async || closed().await.is_some()).await;

    let vault = fleet.dir.path().join("vault.key");
    let keys = std::fs::read(&vault).unwrap();
    std::fs::write(&vault, "no key at all\n").unwrap();
    worker.signal(Signal::HUP);
    logged(&worker, "it goes on with those it has").await;
    std::fs::write(&vault, keys).unwrap();
    std::fs::write(&key, right).unwrap();
    worker.signal(Signal::HUP);
    logged(&worker, "secrets were read again").await;
    let resumed = fleet.command(&["lane", "resume", "gift/gift_on_demand", "--reason", "the key is fixed"]).await;
    assert!(resumed.status.success());
    let _ = fleet.command(&["job", "retry", &job.to_string(), "--reason", "the key is fixed"]).await;
    fleet.at_rest(Duration::from_secs(30)).await.unwrap();
    let at: String =
        sqlx::query_scalar("select at from noshi.job where id = $1").bind(job).fetch_one(&fleet.pool).await.unwrap();
    assert_eq!(at, "issued");
    assert!(worker.stop().await.success());
}

/// Nobody was there who could be declared dead.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_cannot_begin_claims_nothing_and_leaves_no_row() {
    let _turn = crate::support::turn().await;
    let fleet = fleet(Terms::default()).await;
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let said = fleet.command(&["worker", "run", "--metrics", &address]).await;
    let error = String::from_utf8_lossy(&said.stderr).into_owned();
    assert_eq!(said.status.code(), Some(1), "{error}");
    assert!(error.contains("is another process there") && !error.contains("claiming"), "{error}");
    assert_eq!(workers(&fleet).await, 0);

    // Also where no partner is set that would need it.
    for command in ["worker", "api"] {
        let said = tokio::process::Command::new(env!("CARGO_BIN_EXE_noshi"))
            .args([command, "run"])
            .env("DATABASE_URL", &fleet.url)
            .env("NOSHI_VAULT_KEY_FILE", "/nonexistent/vault.key")
            .env("NOSHI_API__LISTEN", "127.0.0.1:0")
            .env_remove("NOSHI_CONFIG")
            .kill_on_drop(true)
            .output();
        let said = tokio::time::timeout(Duration::from_secs(20), said).await.expect("an end").unwrap();
        let error = String::from_utf8_lossy(&said.stderr).into_owned();
        assert_eq!(said.status.code(), Some(1), "{command}: {error}");
        assert!(error.contains("/nonexistent/vault.key"), "{command}: {error}");
    }
    assert_eq!(workers(&fleet).await, 0);
}

/// Whoever breaks a command off is told what is kept.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_is_broken_off_has_a_last_word() {
    let _turn = crate::support::turn().await;
    let fleet = fleet(Terms::default()).await;
    for (signal, status) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
        // Each its own: what the one before had asked is done all the same, and a lane that is paused is left alone. Whoever waits for this lane is this command.
        let lane = format!("gift/{status}");
        sqlx::query("insert into noshi.lane (name) values ($1)").bind(&lane).execute(&fleet.pool).await.unwrap();
        let mut holds = fleet.pool.begin().await.unwrap();
        sqlx::query("insert into noshi.lane_order (lane) values ($1)").bind(&lane).execute(&mut *holds).await.unwrap();
        let holder: i32 = sqlx::query_scalar("select pg_backend_pid()").fetch_one(&mut *holds).await.unwrap();
        let child = std::process::Command::new(env!("CARGO_BIN_EXE_noshi"))
            .args(["lane", "pause", &lane, "--reason", "t"])
            .env("DATABASE_URL", &fleet.url)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // For us, and not for something else a moment ago.
        let waits = async || -> bool {
            let waits = "select exists (select from pg_stat_activity where wait_event_type = 'Lock' and $1 = any (pg_blocking_pids(pid)))";
            sqlx::query_scalar(waits).bind(holder).fetch_one(&fleet.pool).await.unwrap()
        };
        until("a command that waits", Duration::from_secs(10), waits).await;
        kill_process(Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap(), signal).unwrap();
        let Output { status: ended, stderr, .. } =
            tokio::task::spawn_blocking(|| child.wait_with_output().unwrap()).await.unwrap();
        let error = String::from_utf8_lossy(&stderr).into_owned();
        assert_eq!(ended.code(), Some(status), "{error}");
        assert!(error.contains("broken off; what it had asked"), "{error}");
        holds.rollback().await.unwrap();
    }
}

/// What a report has written so far holds names and addresses: it goes with the command.
#[tokio::test(flavor = "multi_thread")]
async fn half_a_report_goes_with_its_command() {
    let _turn = crate::support::turn().await;
    let fleet = fleet(Terms::default()).await;
    let file = fleet.dir.path().join("grants.csv");
    let row = "grant_id,user_id,name,email,category,amount,currency\nF-1,u9,Ada,ada@example.jp,digital,500,JPY\n";
    std::fs::write(&file, row).unwrap();
    assert!(fleet.command(&["batch", "submit", &file.display().to_string()]).await.status.success());
    let folder = fleet.dir.path().join("reports");
    std::fs::create_dir(&folder).unwrap();
    let files = || std::fs::read_dir(&folder).unwrap().count();
    for (signal, status) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
        let mut holds = fleet.pool.begin().await.unwrap();
        sqlx::query("lock table noshi_sealed.sealed in access exclusive mode").execute(&mut *holds).await.unwrap();
        let child = std::process::Command::new(env!("CARGO_BIN_EXE_noshi"))
            .args(["-o", "json", "batch", "report", "1", "--out"])
            .arg(folder.join("report.csv"))
            .env("DATABASE_URL", &fleet.url)
            .env("NOSHI_CONFIG", fleet.dir.path().join("noshi.toml"))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        until("half a report", Duration::from_secs(30), async || files() == 1).await;
        kill_process(Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap(), signal).unwrap();
        let ended = tokio::task::spawn_blocking(|| child.wait_with_output().unwrap()).await.unwrap();
        let error = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!(ended.status.code(), Some(status), "{error}");
        // Whoever reads JSON gets JSON for a last word, too.
        let last: serde_json::Value = serde_json::from_str(error.lines().last().unwrap()).expect(&error);
        assert_eq!(last["status"], status, "{last}");
        assert_eq!(files(), 0);
        holds.rollback().await.unwrap();
    }
}
