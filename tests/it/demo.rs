//! `noshi demo` as a person starts it: it keeps its promises, and whatever ends it, nothing is left behind.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

/// A demo in a temp directory of its own, where a leftover is surely its own.
struct Demo {
    temp: TempDir,
    child: Child,
    _turn: crate::support::Turn,
}

impl Demo {
    async fn start(arguments: &[&str]) -> Demo {
        let turn = crate::support::turn().await;
        let temp = tempfile::tempdir().unwrap();
        // PostgreSQL runs as another user than root.
        fs::set_permissions(temp.path(), fs::Permissions::from_mode(0o1777)).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_noshi"))
            .arg("demo")
            .args(arguments)
            .env("TMPDIR", temp.path())
            // Neither may matter.
            .env("DATABASE_URL", "postgres://nobody@localhost:1/none")
            .env("NOSHI_CONFIG", "/nonexistent.toml")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Demo { temp, child, _turn: turn }
    }

    /// Waits until its standard error says this, which means that its workers are at work.
    async fn says(&mut self, text: &str) {
        let mut lines = BufReader::new(self.child.stderr.take().unwrap()).lines();
        let said = async {
            while let Some(line) = lines.next_line().await.unwrap() {
                if line.contains(text) {
                    // Its later words must find a reader.
                    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
                    return;
                }
            }
            panic!("it ended without saying {text:?}");
        };
        tokio::time::timeout(Duration::from_secs(60), said).await.expect("it is at work within a minute");
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().unwrap().try_into().unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// The processes that name this demo's directory in their environment or arguments, where /proc tells.
    fn processes(&self) -> Vec<PathBuf> {
        let mark = self.temp.path().to_str().unwrap().as_bytes();
        let mentions = |path: PathBuf| fs::read(path).is_ok_and(|text| text.windows(mark.len()).any(|it| it == mark));
        let all = fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path());
        all.filter(|path| mentions(path.join("environ")) || mentions(path.join("cmdline"))).collect()
    }

    fn left(&self) -> usize {
        self.processes().len() + fs::read_dir(self.temp.path()).unwrap().count()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_demo_keeps_every_promise() {
    let keep = tempfile::tempdir().unwrap();
    let demo = Demo::start(&["--count", "40", "--seed", "3", "--keep", keep.path().to_str().unwrap()]).await;
    let Demo { temp, child, _turn } = demo;
    let output = child.wait_with_output().await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.ends_with("Every promise was kept.\n"), "{text}");
    let all = text.lines().find(|line| line.starts_with("all ")).unwrap();
    let fields: Vec<u32> = all.split_whitespace().skip(1).map(|field| field.parse().unwrap()).collect();
    let [grants, issued, refused, asked, duplicates, calls] = fields[..] else { panic!("{all}") };
    // Twelve more are what points are exchanged for.
    assert_eq!((grants, issued + refused + asked, duplicates), (52, 52, 0), "{text}");
    assert!(calls >= 52 && issued >= 20, "{text}");
    assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 0);
    for name in ["ledger.jsonl", "jobs.jsonl", "journal.jsonl", "worker-1.log", "worker-2.log"] {
        assert!(fs::metadata(keep.path().join(name)).unwrap().len() > 0, "{name}");
    }
    assert_eq!(fs::read_dir(keep.path()).unwrap().count(), 5, "no keys are kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_demo_leaves_nothing() {
    let mut demo = Demo::start(&[]).await;
    demo.says("at rest").await;
    demo.signal(Signal::INT);
    assert_eq!(demo.child.wait().await.unwrap().code(), Some(130));
    assert_eq!(demo.left(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_demo_interrupted_before_its_server_is_up_leaves_nothing() {
    let mut demo = Demo::start(&[]).await;
    let deadline = Instant::now() + Duration::from_secs(60);
    while fs::read_dir(demo.temp.path()).unwrap().count() == 0 {
        assert!(Instant::now() < deadline, "no server's directory within a minute");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    demo.signal(Signal::INT);
    assert_eq!(demo.child.wait().await.unwrap().code(), Some(130));
    assert_eq!(demo.left(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_demo_takes_its_workers_and_its_server_with_it() {
    let mut demo = Demo::start(&[]).await;
    demo.says("at rest").await;
    if cfg!(target_os = "linux") {
        // The demo, its workers, the server's watcher and its postmaster.
        assert!(demo.processes().len() >= 5, "{:?}", demo.processes());
    }
    demo.signal(Signal::KILL);
    demo.child.wait().await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while demo.left() > 0 {
        assert!(Instant::now() < deadline, "still there: {:?}", demo.processes());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
