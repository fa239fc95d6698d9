//! The database goes back to an earlier point, by a base backup and the log, while the partners remember what they were asked since:
//! no gift is bought twice.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Command;

use crate::{
    fleet::{Fleet, Terms, fleet_on_url},
    processes::{ledger, until},
};
use noshi::{
    db,
    lab::private_postgres::{PrivatePostgres, Settings},
};

/// Dedups on our id; tells two calls apart by nothing, but can be asked; both.
const CATEGORIES: [&str; 3] = ["amazon", "digital", "prepaid"];
const LANES: [&str; 3] = ["gift/amazon_incentives", "gift/gift_on_demand", "gift/tango_card"];

/// Calls of one kind by grant, as the partners wrote them down.
fn at_partners(fleet: &Fleet, event: &str) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    for line in ledger(fleet).iter().filter(|line| line["event"] == event) {
        *found.entry(line["trade"].as_str().unwrap_or_default().to_owned()).or_default() += 1;
    }
    found
}

/// A gift of each partner.
async fn ask(fleet: &Fleet, what: &str) {
    for category in CATEGORIES {
        fleet.gift(&format!("{what}-{category}"), category, 500).await;
    }
}

/// `noshi`, which must succeed.
async fn operate(fleet: &Fleet, arguments: &[&str]) -> String {
    let said = fleet.command(arguments).await;
    assert!(said.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&said.stderr));
    String::from_utf8(said.stdout).unwrap()
}

/// The second person, by another login.
async fn confirm(server: &PrivatePostgres, proposal: &str) -> String {
    let said = tokio::process::Command::new(env!("CARGO_BIN_EXE_noshi"))
        .args(["proposal", "confirm", proposal, "--reason", "seen", "--yes"])
        .env("DATABASE_URL", server.url_as("second", "noshi"))
        .output()
        .await
        .unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    String::from_utf8(said.stdout).unwrap()
}

async fn count(fleet: &Fleet, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(&fleet.pool).await.unwrap_or(-1)
}

/// Which log files the server has not put aside yet.
const NOT_ARCHIVED: &str =
    "select case when coalesce(last_archived_wal, '') >= $1 then 0 else 1 end from pg_stat_archiver";

/// Ends the server, and starts it from the backup: by the log up to `point`, or as the copy is.
async fn restore(server: &PrivatePostgres, backup: &Path, point: Option<&str>) {
    let data = server.directory().join("data");
    let postmaster = i32::try_from(server.postmaster().unwrap()).unwrap();
    kill_process(Pid::from_raw(postmaster).unwrap(), Signal::QUIT).unwrap();
    let gone = || !Path::new(&format!("/proc/{postmaster}")).exists() || !data.join("postmaster.pid").exists();
    until("the server is down", Duration::from_secs(20), async || gone()).await;
    let lost = server.directory().join(format!("lost-{postmaster}"));
    fs::rename(&data, &lost).unwrap();
    if let Some(point) = point {
        let how = format!(
            "\nrestore_command = 'cp ../archive/%f %p'\nrecovery_target_name = '{point}'\nrecovery_target_action = 'promote'\n"
        );
        let settings = backup.join("postgresql.auto.conf");
        fs::write(&settings, fs::read_to_string(&settings).unwrap() + &how).unwrap();
        fs::write(backup.join("recovery.signal"), "").unwrap();
    }
    let script = "cp -a \"$0\" \"$1\" && chown -R --reference=\"$2\" \"$1\" && chmod 700 \"$1\"";
    let mut copy = Command::new("sh");
    copy.args(["-c", script]).arg(backup).arg(&data).arg(&lost);
    assert!(copy.kill_on_drop(true).status().await.unwrap().success());
    server.crash_restart().await.expect("the server comes back");
}

async fn base_backup(fleet: &Fleet, server: &PrivatePostgres, wal: &str) -> PathBuf {
    let programs = "select setting from pg_config where name = 'BINDIR'";
    let programs: String = sqlx::query_scalar(programs).fetch_one(&fleet.pool).await.unwrap();
    let backup = fleet.dir.path().join("backup");
    let run = Command::new(Path::new(&programs).join("pg_basebackup"))
        .args(["--checkpoint=fast", "--no-sync", wal, "--username=postgres", "--pgdata"])
        .arg(&backup)
        .arg("--host")
        .arg(server.directory())
        .output()
        .await
        .expect("pg_basebackup");
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    backup
}

async fn archived_so_far(fleet: &Fleet) {
    let wal = "select pg_walfile_name(pg_switch_wal())";
    let wal: String = sqlx::query_scalar(wal).fetch_one(&fleet.pool).await.unwrap();
    until("the log is archived", Duration::from_secs(20), async || {
        sqlx::query_scalar::<_, i32>(NOT_ARCHIVED).bind(&wal).fetch_one(&fleet.pool).await.unwrap_or(1) == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_to_an_earlier_point_buys_no_gift_twice() {
    let _turn = crate::support::turn().await;
    let archive = "mkdir -p ../archive && cp %p ../archive/%f.part && mv ../archive/%f.part ../archive/%f";
    let extra = [("archive_mode", "on"), ("archive_command", archive), ("wal_level", "replica")];
    let extra = extra.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let server = PrivatePostgres::start(Settings { durable: false, extra, ..Settings::default() }).await.unwrap();
    server.create_database("noshi").await.unwrap();
    db::migrate(&server.url("noshi")).await.unwrap();
    let fleet = fleet_on_url(server.url("noshi"), Terms::default()).await;
    let backup = base_backup(&fleet, &server, "--wal-method=none").await;

    // Before the point: gifts that are over, gifts whose call is intended and waits, gifts that no worker has seen.
    ask(&fleet, "over").await;
    let worker = fleet.worker("before", &[], &[]);
    fleet.at_rest(Duration::from_secs(30)).await.unwrap();
    for lane in LANES {
        operate(&fleet, &["lane", "pause", lane, "--reason", "to stand still"]).await;
    }
    ask(&fleet, "intended").await;
    let intended = "select count(*) from noshi.job where at = 'issuing' and status = 'available'";
    until("intended calls", Duration::from_secs(10), async || count(&fleet, intended).await == 3).await;
    assert!(worker.stop().await.success());
    ask(&fleet, "waiting").await;
    let point = "select clock_timestamp()::text from pg_create_restore_point('earlier')";
    let point: String = sqlx::query_scalar(point).fetch_one(&fleet.pool).await.unwrap();

    // After it: everything is bought, and what was asked for after it, too.
    for lane in LANES {
        operate(&fleet, &["lane", "resume", lane, "--reason", "go on"]).await;
    }
    let worker = fleet.worker("lost", &[], &[]);
    ask(&fleet, "later").await;
    fleet.at_rest(Duration::from_secs(30)).await.unwrap();
    assert!(worker.stop().await.success());
    assert_eq!(at_partners(&fleet, "issued").values().copied().collect::<Vec<_>>(), [1; 12]);
    archived_so_far(&fleet).await;
    restore(&server, &backup, Some("earlier")).await;
    let recovering = "select pg_is_in_recovery()::int::bigint";
    until("the server takes writes", Duration::from_secs(30), async || count(&fleet, recovering).await == 0).await;
    assert_eq!(count(&fleet, "select count(*) from noshi.job where status = 'completed'").await, 3);
    assert_eq!(count(&fleet, "select count(*) from noshi.job").await, 9);

    // As ops/docs/backup.md says: mark it before the first worker starts.
    let to = chrono::DateTime::parse_from_str(&point, "%Y-%m-%d %H:%M:%S%.f%#z").unwrap().to_rfc3339();
    server.create_login("second", "noshi_operator").await.unwrap();
    let mark = ["restore", "mark", "--to", &to, "--reason", "the disk was lost", "--yes"];
    assert!(operate(&fleet, &mark).await.contains("nothing is done yet: proposal 1"));
    let said = confirm(&server, "1").await;
    assert!(said.contains("3 unfinished writes are in doubt"), "{said}");
    for lane in LANES {
        operate(&fleet, &["lane", "resume", lane, "--reason", "after the restore"]).await;
    }
    // Those who asked after the point ask again; and two ask for the first time.
    ask(&fleet, "later").await;
    fleet.gift("fresh-digital", "digital", 500).await;
    fleet.gift("fresh-amazon", "amazon", 500).await;
    let worker = fleet.worker("after", &[], &[]);
    fleet.at_rest(Duration::from_secs(40)).await.unwrap();

    let issued = at_partners(&fleet, "issued");
    assert_eq!(issued.len(), 13, "each of the twelve, and fresh-amazon: {issued:#?}");
    assert!(issued.values().all(|times| *times == 1), "bought twice: {issued:#?}");
    let delivered = "select count(*) from noshi.gift_outcome where outcome = 'issued'";
    assert_eq!(count(&fleet, delivered).await, 13, "every gift that was bought is known again");
    // The partner that cannot tell "never" from "not yet" is not called for the new one: a person decides.
    let fresh: (String, Option<String>, bool) =
        sqlx::query_as("select status::text, code, in_doubt from noshi.job where key = 'fresh-digital'")
            .fetch_one(&fleet.pool)
            .await
            .unwrap();
    assert_eq!(fresh, ("needs_operator".into(), Some("not_found_in_doubt".into()), true));

    operate(&fleet, &["restore", "end", "--reason", "their list of trades was compared"]).await;
    confirm(&server, "2").await;
    fleet.gift("at-last", "digital", 500).await;
    fleet.at_rest(Duration::from_secs(20)).await.unwrap();
    assert_eq!(at_partners(&fleet, "issued").len(), 14);
    assert!(operate(&fleet, &["audit", "verify"]).await.contains("whole"));
    assert!(worker.stop().await.success());
    server.stop().await.unwrap();
}

/// An old copy of the database's files comes back beneath a running fleet, twice. The server's timeline stays; the workers know it by their
/// own heartbeats, and nothing is bought twice: not what was bought after the copy was made, and not what is asked for again.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_copy_beneath_a_running_fleet_buys_no_gift_twice() {
    let _turn = crate::support::turn().await;
    let settings =
        Settings { durable: false, extra: vec![("wal_level".into(), "replica".into())], ..Settings::default() };
    let server = PrivatePostgres::start(settings).await.unwrap();
    server.create_database("noshi").await.unwrap();
    db::migrate(&server.url("noshi")).await.unwrap();
    let fleet = fleet_on_url(server.url("noshi"), Terms::default()).await;
    let workers = ["a", "b"].map(|name| fleet.worker(name, &[], &["--lease-ms", "5000"]));
    ask(&fleet, "over").await;
    fleet.at_rest(Duration::from_secs(30)).await.unwrap();
    for lane in LANES {
        operate(&fleet, &["lane", "pause", lane, "--reason", "to stand still"]).await;
    }
    for n in 0..8 {
        ask(&fleet, &format!("intended-{n}")).await;
    }
    let intended = "select count(*) from noshi.job where at = 'issuing' and status = 'available'";
    until("intended calls", Duration::from_secs(10), async || count(&fleet, intended).await == 24).await;
    // As the copy has it, everything may go on at once.
    sqlx::query("update noshi.lane_order set no = no + 1, paused = false").execute(&fleet.pool).await.unwrap();
    let backup = base_backup(&fleet, &server, "--wal-method=stream").await;
    ask(&fleet, "later").await;
    fleet.at_rest(Duration::from_secs(30)).await.unwrap();
    let bought = at_partners(&fleet, "issued").len();
    assert!(bought >= 20, "{bought}");
    for round in 0..2 {
        restore(&server, &backup, None).await;
        until("the server takes writes", Duration::from_secs(30), async || {
            count(&fleet, "select 1::bigint").await == 1
        })
        .await;
        // Whoever asked after the copy asks again.
        ask(&fleet, "later").await;
        until("the loss is dealt with", Duration::from_secs(60), async || {
            count(&fleet, "select count(*) from noshi.failover where verdict = 'lost'").await > 0
        })
        .await;
        fleet.at_rest(Duration::from_secs(60)).await.unwrap();
        let twice: Vec<_> = at_partners(&fleet, "issued").into_iter().filter(|(_, times)| *times > 1).collect();
        assert!(twice.is_empty(), "round {round}: bought twice: {twice:?}");
    }
    for worker in workers {
        assert!(worker.stop().await.success());
    }
}
