//! The server starts wherever `cargo test` does, answers, survives crashes, and leaves nothing behind.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use sqlx::postgres::PgConnection;
use sqlx::{Connection, Executor};

use crate::support;
use noshi::lab::private_postgres::{PrivatePostgres, Settings};

/// Set for the process that is the owner which dies.
const OWNER: &str = "NOSHI_TEST_OWNER";

async fn start() -> PrivatePostgres {
    support::place().await;
    let settings = Settings {
        durable: false,
        extra: vec![("log_parameter_max_length".into(), "0".into())],
        ..Settings::default()
    };
    match PrivatePostgres::start(settings).await {
        Ok(server) => server,
        Err(e) => panic!("{e:#}"),
    }
}

async fn connect(server: &PrivatePostgres, database: &str) -> PgConnection {
    PgConnection::connect(&server.url(database)).await.unwrap()
}

async fn ask(connection: &mut PgConnection, setting: &str) -> String {
    let value: (String,) =
        sqlx::query_as("select current_setting($1)").bind(setting).fetch_one(connection).await.unwrap();
    value.0
}

#[tokio::test]
async fn starts_and_answers() {
    let server = start().await;
    server.create_database("gifts & \"more\"").await.unwrap();
    let mut connection = connect(&server, "gifts & \"more\"").await;

    assert_eq!(ask(&mut connection, "fsync").await, "off");
    assert_eq!(ask(&mut connection, "log_parameter_max_length").await, "0");
    assert_eq!(ask(&mut connection, "listen_addresses").await, "");
    assert_eq!(ask(&mut connection, "server_encoding").await, "UTF8");
    let name: (String,) = sqlx::query_as("select current_database()::text").fetch_one(&mut connection).await.unwrap();
    assert_eq!(name.0, "gifts & \"more\"");
    let mode = fs::metadata(server.directory()).unwrap().mode() & 0o777;
    assert_eq!(mode, 0o700);
    let log = fs::read_to_string(server.log_path()).unwrap();
    assert!(log.contains("ready to accept connections"), "{log}");
}

#[tokio::test]
async fn two_servers_side_by_side() {
    let (one, other) = tokio::join!(start(), start());
    assert_ne!(one.directory(), other.directory());
    one.create_database("only_here").await.unwrap();
    assert!(PgConnection::connect(&other.url("only_here")).await.is_err());
    other.stop().await.unwrap();
    connect(&one, "only_here").await.ping().await.unwrap();
}

#[tokio::test]
async fn databases_of_tests_are_copies_of_their_own() {
    let (one, other) = tokio::join!(support::database(), support::database());
    one.pool.execute("create table mine (id int)").await.unwrap();
    assert!(other.pool.execute("select * from mine").await.is_err());
    assert_ne!(one.url, other.url);
    one.pool.execute("select * from noshi_migrations._sqlx_migrations").await.unwrap();
}

#[tokio::test]
async fn a_crash_keeps_what_was_committed() {
    support::place().await;
    let server = PrivatePostgres::start(Settings::default()).await.unwrap();
    let mut connection = connect(&server, "postgres").await;
    for setting in ["fsync", "synchronous_commit", "full_page_writes"] {
        assert_eq!(ask(&mut connection, setting).await, "on", "{setting}");
    }
    connection.execute("create table kept (id int); insert into kept values (1)").await.unwrap();
    let before = server.postmaster().unwrap();

    let down = server.crash_restart().await.unwrap();

    assert!(down > Duration::ZERO);
    assert_ne!(server.postmaster().unwrap(), before);
    assert!(connection.execute("select 1").await.is_err());
    let mut connection = connect(&server, "postgres").await;
    let kept: (i64,) = sqlx::query_as("select count(*) from kept").fetch_one(&mut connection).await.unwrap();
    assert_eq!(kept.0, 1);
    let log = fs::read_to_string(server.log_path()).unwrap();
    assert!(log.contains("was not properly shut down"), "{log}");
}

#[tokio::test]
async fn restarts_a_server_that_somebody_killed() {
    let server = start().await;
    let mut connection = connect(&server, "postgres").await;
    connection.execute("create table kept (id int); insert into kept values (1)").await.unwrap();
    let backend: (i32,) = sqlx::query_as("select pg_backend_pid()").fetch_one(&mut connection).await.unwrap();
    let backend = u32::try_from(backend.0).unwrap();
    // A backend that is busy, or paused, outlives its postmaster and holds the next one up.
    signal("STOP", backend);
    signal("KILL", server.postmaster().unwrap());

    let log = server.log_path().to_owned();
    let held_up = tokio::task::spawn_blocking(move || {
        wait_for("a start that is refused", || {
            fs::read_to_string(&log).unwrap().contains("pre-existing shared memory block").then_some(())
        });
        signal("CONT", backend);
    });
    let (restarted, released) = tokio::join!(server.crash_restart(), held_up);
    restarted.unwrap();
    released.unwrap();

    let mut connection = connect(&server, "postgres").await;
    connection.execute("select id from kept").await.unwrap();
}

#[tokio::test]
async fn stop_leaves_nothing() {
    let server = start().await;
    let directory = server.directory().to_owned();
    // An open connection does not hold it up.
    let _connection = connect(&server, "postgres").await;
    assert!(!running_in(&directory).is_empty());

    server.stop().await.unwrap();

    assert!(!directory.exists());
    assert_eq!(running_in(&directory), Vec::<String>::new());
}

#[tokio::test]
async fn drop_leaves_nothing_even_of_a_paused_server() {
    let server = start().await;
    let directory = server.directory().to_owned();
    signal("STOP", server.postmaster().unwrap());
    drop(server);
    wait_until_nothing_is_left(&directory);
}

#[test]
fn sigkill_of_the_owner_leaves_nothing() {
    let mut owner = owner_process(None).stdout(Stdio::piped()).spawn().unwrap();
    let directory = BufReader::new(owner.stdout.take().unwrap())
        .lines()
        .find_map(|line| Some(PathBuf::from(line.unwrap().split_once("owns ")?.1)))
        .expect("the owner's server has started");
    assert!(!running_in(&directory).is_empty());

    owner.kill().unwrap();
    owner.wait().unwrap();

    wait_until_nothing_is_left(&directory);
}

#[test]
fn sigkill_while_starting_leaves_nothing() {
    let parent = tempfile::tempdir().unwrap();
    // As root the server belongs to another user.
    fs::set_permissions(parent.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let mut owner = owner_process(Some(parent.path())).spawn().unwrap();
    let directory = wait_for("the server's directory", || entry_in(parent.path()));
    wait_for("initdb", || directory.join("data/base").exists().then_some(()));

    owner.kill().unwrap();
    owner.wait().unwrap();

    wait_until_nothing_is_left(&directory);
}

#[test]
fn the_next_start_sweeps_what_a_crash_left() {
    let parent = tempfile::tempdir().unwrap();
    fs::set_permissions(parent.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let mut owner = owner_process(Some(parent.path())).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(owner.stdout.take().unwrap()).lines();
    lines.find(|line| line.as_ref().unwrap().contains("owns ")).expect("the owner's server has started").unwrap();
    let left = entry_in(parent.path()).unwrap();
    // The watcher first: it has no chance to clean up.
    for watcher in running_in(&left) {
        let (pid, words) = watcher.split_once(' ').unwrap();
        if words.contains("noshi-private-postgres") {
            signal("KILL", pid.parse().unwrap());
        }
    }
    owner.kill().unwrap();
    owner.wait().unwrap();
    assert!(left.exists());
    assert!(!running_in(&left).is_empty(), "the server is an orphan");

    let mut next = owner_process(Some(parent.path())).stdout(Stdio::piped()).spawn().unwrap();
    wait_until_nothing_is_left(&left);
    next.kill().unwrap();
    next.wait().unwrap();
    wait_for("an empty directory", || entry_in(parent.path()).is_none().then_some(()));
}

/// Most people are not root, so root's tests also run the first one as somebody else.
#[test]
fn starts_for_an_ordinary_user() {
    let folder = tempfile::Builder::new().tempdir_in("/tmp").unwrap();
    if fs::metadata(folder.path()).unwrap().uid() != 0 {
        return; // Then every other test here is this test.
    }
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    // The binary may be below /root.
    let copy = folder.path().join("it");
    // Not by ourselves: a child that another test forks meanwhile would hold it open for writing ("text file busy").
    let copied = Command::new("cp").arg(std::env::current_exe().unwrap()).arg(&copy).status();
    assert!(copied.unwrap().success());
    let outcome = Command::new(&copy)
        .args(["--exact", "private_postgres::starts_and_answers"])
        .uid(id_of_nobody("-u"))
        .gid(id_of_nobody("-g"))
        .current_dir("/")
        .env_remove("TMPDIR")
        .output()
        .unwrap();
    let words = String::from_utf8_lossy(&outcome.stdout);
    assert!(outcome.status.success() && words.contains("1 passed"), "{words}");
}

fn id_of_nobody(which: &str) -> u32 {
    let answer = Command::new("id").args([which, "nobody"]).output().unwrap();
    String::from_utf8(answer.stdout).unwrap().trim().parse().unwrap()
}

/// Not a test but the process that two tests above kill: it starts a server and waits for its end.
#[tokio::test]
#[ignore = "run by other tests"]
async fn owner() {
    if std::env::var_os(OWNER).is_none() {
        return;
    }
    let server = start().await;
    let mut out = std::io::stdout();
    writeln!(out, "owns {}", server.directory().display()).unwrap();
    out.flush().unwrap();
    // Ends by itself, should the test that started us be killed.
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).unwrap();
}

fn owner_process(temp: Option<&Path>) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--ignored", "--exact", "private_postgres::owner", "--nocapture"])
        .env(OWNER, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::null());
    if let Some(temp) = temp {
        command.env("TMPDIR", temp);
    }
    command
}

fn entry_in(parent: &Path) -> Option<PathBuf> {
    let mut entries = fs::read_dir(parent).unwrap();
    entries.next().map(|entry| entry.unwrap().path())
}

/// "pid command line" of every process that names the directory: watcher, initdb, pg_ctl, postmaster.
fn running_in(directory: &Path) -> Vec<String> {
    let listing = if Path::new("/proc/self/cmdline").exists() {
        let mut listing = String::new();
        for process in fs::read_dir("/proc").unwrap().flatten() {
            let words = fs::read(process.path().join("cmdline")).unwrap_or_default();
            let words = String::from_utf8_lossy(&words).replace(['\0', '\n'], " ");
            listing += &format!("{} {words}\n", process.file_name().display());
        }
        listing
    } else {
        let listing = Command::new("ps").args(["-axww", "-o", "pid=,args="]).output();
        String::from_utf8_lossy(&listing.unwrap().stdout).into_owned()
    };
    let directory = directory.to_str().unwrap();
    let lines = listing.lines().map(|line| line.trim().to_owned());
    lines.filter(|line| line.contains(directory)).collect()
}

fn wait_until_nothing_is_left(directory: &Path) {
    wait_for("nothing to be left", || (!directory.exists() && running_in(directory).is_empty()).then_some(()));
}

/// Processes and directories of others end without telling us: looked at every 20 ms. The limit leaves time for
/// the installation that the first start on a new machine may be.
fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(met) = condition() {
            return met;
        }
        assert!(started.elapsed() < Duration::from_secs(180), "waited for {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

fn signal(name: &str, pid: u32) {
    let status = Command::new("kill").args(["-s", name, &pid.to_string()]).status();
    assert!(status.unwrap().success());
}

/// As root the server's directory belongs to another user, who may put a link there at any moment: nothing is written where it leads.
#[test]
fn root_follows_no_link_of_the_servers_user() {
    if fs::metadata("/proc/self").map_or(true, |it| it.uid() != 0) {
        return;
    }
    let account = ["postgres", "nobody"].into_iter().find_map(|name| {
        let id = Command::new("id").args(["-u", name]).output().ok()?;
        String::from_utf8(id.stdout).ok()?.trim().parse::<u32>().ok()
    });
    let account = account.expect("an account for servers");
    let kept = tempfile::NamedTempFile::new().unwrap();
    fs::write(kept.path(), "of root").unwrap();
    let parent = tempfile::tempdir().unwrap();
    fs::set_permissions(parent.path(), fs::Permissions::from_mode(0o1777)).unwrap();
    let script = "cd \"$1\"; while :; do for d in noshi-pg-*; do [ -e \"$d/settings.conf\" ] || ln -s \"$2\" \"$d/settings.conf\"; done; done 2>/dev/null";
    let plant = || {
        let mut planter = Command::new("/bin/sh");
        planter.uid(account).args(["-c", script, "sh"]).arg(parent.path()).arg(kept.path());
        planter.spawn().expect("somebody who plants links")
    };
    let mut planters = [plant(), plant()];
    for _ in 0..5 {
        let mut owner = owner_process(Some(parent.path())).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(owner.stdout.take().unwrap()).lines();
        lines
            .find(|line| line.as_ref().is_ok_and(|line| line.contains("owns ")))
            .expect("the server has started")
            .unwrap();
        owner.kill().unwrap();
        owner.wait().unwrap();
    }
    for planter in &mut planters {
        planter.kill().unwrap();
        planter.wait().unwrap();
    }
    let (text, file) = (fs::read_to_string(kept.path()).unwrap(), fs::metadata(kept.path()).unwrap());
    assert_eq!((text.as_str(), file.uid()), ("of root", 0));
}
