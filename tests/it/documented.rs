//! Every command of README.md, of the pages in ops/docs, and of those in ops that have some, is run as it stands there, or says why not in its block's first line:
//! ```` ```sh not-run="needs a cluster" ````. The incident's are run by practice.rs.
//!
//! A page is one session of a shell: a home, a database server and an environment of its own, in a copy of this clone. Only the ports differ.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::TcpListener,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, Command};

use crate::{
    debian,
    practice::{Practice, settled},
    processes::until,
};
use noshi::lab::private_postgres::{PrivatePostgres, Settings};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
/// Blocks of these languages are no commands.
const NO_COMMANDS: [&str; 3] = ["rust", "text", "toml"];

/// A fenced block.
pub struct Block {
    /// Where it begins, for messages.
    pub line: usize,
    pub language: String,
    pub not_run: Option<String>,
    pub text: String,
}

/// Every block of commands of a page.
pub fn blocks(page: &str) -> Vec<Block> {
    let text = fs::read_to_string(Path::new(ROOT).join(page)).unwrap_or_else(|error| panic!("{page}: {error}"));
    let mut blocks = vec![];
    let mut lines = text.lines().enumerate();
    while let Some((line, fence)) = lines.next() {
        let Some(info) = fence.trim_start().strip_prefix("```") else { continue };
        let text: Vec<&str> = lines.by_ref().map(|(_, text)| text).take_while(|text| text.trim() != "```").collect();
        let (language, rest) = info.split_once(' ').unwrap_or((info, ""));
        if NO_COMMANDS.contains(&language) {
            continue;
        }
        let why = rest.strip_prefix("not-run=\"").and_then(|rest| rest.strip_suffix('"'));
        assert!(rest.is_empty() || why.is_some_and(|why| why.len() > 10), "{page}:{}: why is it not run?", line + 1);
        assert!(["sh", "sql", "console"].contains(&language), "{page}:{}: of what language is this?", line + 1);
        let (line, language, not_run) = (line + 1, language.to_owned(), why.map(str::to_owned));
        blocks.push(Block { line, language, not_run, text: text.join("\n") });
    }
    blocks
}

/// The pages in ops/docs.
fn pages() -> Vec<String> {
    let pages = fs::read_dir(Path::new(ROOT).join("ops/docs")).unwrap().map(|page| page.unwrap().file_name());
    let mut pages: Vec<String> = pages.map(|page| format!("ops/docs/{}", page.to_str().unwrap())).collect();
    pages.sort();
    pages
}

#[test]
fn every_page_starts_from_a_command_and_is_run_by_a_test() {
    let run =
        ["backup", "batches", "capacity", "evaluating", "incident", "operating", "points", "producing", "upgrading"];
    // Their commands are parts of `cargo test`, or fill the machine.
    let not_run = ["console", "dependencies", "effects", "extending", "own-job", "performance"];
    for page in pages() {
        let name = page.trim_start_matches("ops/docs/").trim_end_matches(".md").to_owned();
        let text = fs::read_to_string(Path::new(ROOT).join(&page)).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link) {
            assert!(Path::new(ROOT).join("ops/docs").join(link).exists(), "{page} leads to {link}, which is not there");
        }
        let blocks = blocks(&page);
        assert!(!blocks.is_empty() && blocks[0].line < 20, "{page} starts from a command");
        let runs = blocks.iter().filter(|block| block.not_run.is_none()).count();
        assert_eq!(runs > 0, run.contains(&&*name), "{page}: a test below has to run it");
        assert_eq!(runs == 0, not_run.contains(&&*name), "{page}");
    }
    // So that nobody marks a block lightly: more of them takes a change here.
    let all = pages().into_iter().chain(["README.md", "ops/http.md", "ops/schedules.md"].map(str::to_owned));
    let marked = all.flat_map(|page| blocks(&page)).filter(|block| block.not_run.is_some()).count();
    assert_eq!(marked, 19, "blocks that are not run");
}

/// README is read in five minutes, leads nowhere that is not there, and shows what the demo really says.
#[test]
fn readme_is_short_and_leads_somewhere() {
    let text = fs::read_to_string(Path::new(ROOT).join("README.md")).unwrap();
    assert!(text.split_whitespace().count() <= 900, "{} words", text.split_whitespace().count());
    for link in text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link) {
        assert!(link.starts_with("https://") || Path::new(ROOT).join(link).exists(), "README leads to {link}");
    }
}

/// Whoever adds a crate says what it is for.
#[test]
fn every_dependency_is_reviewed() {
    let page = fs::read_to_string(Path::new(ROOT).join("ops/docs/dependencies.md")).unwrap();
    let named: BTreeSet<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .flat_map(|row| row.split('|').next().unwrap().split(", ").map(|name| name.trim().trim_matches('`')))
        .collect();
    let manifest: toml::Table = fs::read_to_string(Path::new(ROOT).join("Cargo.toml")).unwrap().parse().unwrap();
    let direct =
        ["dependencies", "dev-dependencies"].iter().flat_map(|kind| manifest[*kind].as_table().unwrap().keys());
    let direct: BTreeSet<&str> = direct.map(String::as_str).filter(|name| *name != "noshi-jobs").collect();
    assert_eq!(named, direct);
}

/// A page's home, its copy of this clone, and its ports.
struct Session {
    home: tempfile::TempDir,
    environment: Vec<(String, String)>,
    /// Ports that the page names, and free ones.
    ports: BTreeMap<String, String>,
}

impl Session {
    fn new(programs: &[PathBuf], environment: &[(&str, &str)]) -> Session {
        let home = tempfile::tempdir().expect("a directory");
        let clone = home.path().join("clone");
        fs::create_dir(&clone).unwrap();
        for entry in fs::read_dir(ROOT).unwrap().map(Result::unwrap) {
            if entry.file_name() != "ops" && entry.file_name() != "target" {
                symlink(entry.path(), clone.join(entry.file_name())).unwrap();
            }
        }
        copy(&Path::new(ROOT).join("ops"), &clone.join("ops"));
        fs::remove_dir_all(clone.join("ops/docker/secrets")).unwrap_or_default();
        let noshi = Path::new(env!("CARGO_BIN_EXE_noshi")).parent().unwrap();
        let mut path = vec![home.path().join("bin"), noshi.to_owned()];
        path.extend(programs.iter().cloned());
        path.extend(["/usr/bin".into(), "/bin".into()]);
        // What `cargo run` would have built is built: this test was built with it.
        let cargo =
            "#!/bin/sh\n[ \"$1 $2\" = 'run --' ] && shift 2 && exec noshi \"$@\"\necho \"cargo $*\" >&2; exit 1\n";
        fs::create_dir(home.path().join("bin")).unwrap();
        fs::write(home.path().join("bin/cargo"), cargo).unwrap();
        fs::set_permissions(home.path().join("bin/cargo"), std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .unwrap();
        let path = std::env::join_paths(path).unwrap().into_string().unwrap();
        let own = [("PATH", path.as_str()), ("HOME", home.path().to_str().unwrap()), ("LANG", "C.UTF-8")];
        let environment = own.iter().chain(environment);
        let environment = environment.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Session { home, environment, ports: BTreeMap::new() }
    }

    /// Each `127.0.0.1:PORT` becomes one that is free here; the same one wherever it stands.
    fn with_free_ports(&mut self, text: &str) -> String {
        let mut out = String::new();
        let mut rest = text;
        while let Some(at) = rest.find("127.0.0.1:") {
            let (before, after) = rest.split_at(at + "127.0.0.1:".len());
            let digits = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
            let free = self.ports.entry(after[..digits].to_owned()).or_insert_with(|| {
                let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
                free.local_addr().unwrap().port().to_string()
            });
            out += before;
            out += free;
            rest = &after[digits..];
        }
        out + rest
    }

    /// The blocks as one script, each announced by its line.
    fn script(&mut self, page: &str, skip: impl Fn(&Block) -> bool) -> String {
        let mut script = "set -euo pipefail\n".to_owned();
        for block in blocks(page).into_iter().filter(|block| block.not_run.is_none() && !skip(block)) {
            script += &format!("echo '@@ {page}:{}' >&2\n", block.line);
            match block.language.as_str() {
                "sh" => script += &block.text,
                // What it asks for may be a moment away: a batch is granted by a worker.
                "sql" => {
                    let psql = "psql -qX -v ON_ERROR_STOP=1 \"${PRODUCER:-$DATABASE_URL}\"";
                    script += &format!("until {psql} <<'@@'\n{}\n@@\ndo sleep 1; done", block.text);
                }
                _ => script += &compared(page, &block),
            }
            script += "\n";
        }
        self.with_free_ports(&script)
    }

    async fn run(&mut self, page: &str, skip: impl Fn(&Block) -> bool, within: Duration) -> String {
        for file in ["ops/prometheus/prometheus.yml", "ops/prometheus/alertmanager.yml"] {
            let file = self.home.path().join("clone").join(file);
            let text = fs::read_to_string(&file).unwrap_or_default();
            fs::write(&file, self.with_free_ports(&text)).unwrap();
        }
        let script = self.script(page, skip);
        let [out, errors] = ["out", "errors"].map(|name| self.home.path().join(name));
        let mut shell = Command::new("bash")
            .args(["-c", &script])
            .current_dir(self.home.path().join("clone"))
            .env_clear()
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(fs::File::create(&out).unwrap())
            .stderr(fs::File::create(&errors).unwrap())
            .process_group(0)
            .spawn()
            .expect("bash");
        let group = Pid::from_raw(i32::try_from(shell.id().unwrap()).unwrap()).unwrap();
        let ended = ended(&mut shell, within).await;
        // What the page has started and not ended.
        let _ = kill_process_group(group, Signal::KILL);
        let [out, errors] = [out, errors].map(|file| fs::read_to_string(file).unwrap());
        assert!(ended, "{page} failed, or took over {within:?}:\n{out}\n{errors}{}", self.logs());
        out
    }

    fn logs(&self) -> String {
        let mut logs = String::new();
        for entry in fs::read_dir(self.home.path().join("noshi.d")).into_iter().flatten().flatten() {
            if entry.path().extension().is_some_and(|extension| extension == "log") {
                let text = fs::read_to_string(entry.path()).unwrap_or_default();
                let lines: Vec<&str> = text.lines().collect();
                let tail = lines[lines.len().saturating_sub(10)..].join("\n");
                logs += &format!("--- {}\n{tail}\n", entry.path().display());
            }
        }
        logs
    }
}

async fn ended(shell: &mut Child, within: Duration) -> bool {
    tokio::time::timeout(within, shell.wait()).await.is_ok_and(|ended| ended.unwrap().success())
}

/// Each command's answer is what is written below it.
fn compared(page: &str, block: &Block) -> String {
    let mut script = String::new();
    for part in block.text.split("$ ").skip(1) {
        let (command, written) = part.split_once('\n').unwrap_or((part, ""));
        script += &format!(
            "diff <({command}) - >&2 <<'@@' || {{ echo '{page}:{}' >&2; exit 1; }}\n{}\n@@\n",
            block.line,
            written.trim_end()
        );
    }
    script
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(fs::copy(entry.path(), to).unwrap()),
        }
    }
}

/// PostgreSQL's own programs.
async fn programs(url: &str) -> PathBuf {
    let programs = "select setting from pg_config where name = 'BINDIR'";
    let pool = noshi::db::PgPool::connect(url).await.unwrap();
    PathBuf::from(sqlx::query_scalar::<_, String>(programs).fetch_one(&pool).await.unwrap())
}

async fn server() -> (PrivatePostgres, PathBuf) {
    let server = PrivatePostgres::start(Settings::default()).await.unwrap_or_else(|error| panic!("{error:#}"));
    let programs = programs(&server.url("postgres")).await;
    (server, programs)
}

/// From nothing but a server to two workers, the interface, and alerts that are loaded and routed.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_operator_gets_there_by_the_page_alone() {
    let _turn = crate::support::turn().await;
    let (server, programs) = server().await;
    let mut path = vec![programs];
    let mut without = vec![];
    for name in ["promtool", "amtool", "prometheus", "prometheus-alertmanager"] {
        match debian::program(name).await {
            Ok(program) => path.extend(program.parent().filter(|it| it.is_absolute()).map(Path::to_owned)),
            Err(why) => without.push(format!("{name}: {why}")),
        }
    }
    let socket = server.directory().to_str().unwrap().to_owned();
    let mut session = Session::new(&path, &[("PGHOST", &socket), ("PGUSER", "postgres")]);
    // Debian's Alertmanager wants its package's templates; unpacked beside it, they are looked for where it starts.
    for entry in path.iter().flat_map(fs::read_dir).flatten().flatten() {
        if entry.path().extension().is_some_and(|extension| extension == "tmpl") {
            fs::copy(entry.path(), session.home.path().join("clone").join(entry.file_name())).unwrap();
        }
    }
    let alerts = |block: &Block| ["promtool", ":9090"].iter().any(|word| block.text.contains(word));
    if !without.is_empty() {
        eprintln!("SKIPPED: the blocks with Prometheus: {}", without.join("; "));
    }
    let out = session
        .run("ops/docs/operating.md", |block| !without.is_empty() && alerts(block), Duration::from_secs(180))
        .await;
    assert!(out.contains("completed") && out.contains("\"kind\":\"gift_issuance\""), "{out}");
    assert!(!without.is_empty() || out.contains("\"name\":\"NoshiNoWorker\""), "{out}");
    let ledger = fs::read_to_string(session.home.path().join("noshi.d/ledger.jsonl")).unwrap();
    assert_eq!(ledger.matches("\"event\":\"issued\"").count(), 1, "{ledger}");
    // The next upgrade, and the one after it, by its page and as the owner that this page made.
    let owner = server.url_as("noshi", "noshi");
    let mut session = Session::new(&path, &[("PGHOST", &socket), ("PGUSER", "noshi"), ("DATABASE_URL", &owner)]);
    for _ in 0..2 {
        let out = session.run("ops/docs/upgrading.md", |_| false, Duration::from_secs(60)).await;
        assert!(out.contains("applied") && !out.contains("pending"), "{out}");
    }
    server.stop().await.unwrap();
}

/// Pages for those who have an installation: a migrated database, with a superuser's login.
#[tokio::test(flavor = "multi_thread")]
async fn upgrading_backup_capacity_and_schedules() {
    let _turn = crate::support::turn().await;
    let (server, programs) = server().await;
    server.create_database("noshi").await.unwrap();
    let socket = server.directory().to_str().unwrap().to_owned();
    let url = server.url("noshi");
    let environment =
        [("PGHOST", socket.as_str()), ("PGUSER", "postgres"), ("PGDATABASE", "noshi"), ("DATABASE_URL", &url)];
    let config = tempfile::tempdir().unwrap();
    fs::write(config.path().join("noshi.toml"), "").unwrap();
    let config = config.path().join("noshi.toml").display().to_string();
    let other = server.url_as("second", "noshi");
    let files = [("NOSHI_CONFIG", config.as_str()), ("OTHER", &other)];
    let mut session = Session::new(&[programs], &[environment.as_slice(), &files].concat());
    // `noshi doctor` says that nobody works here, which is so; a worker is there for the time.
    let worker = || {
        let log = fs::File::create(session.home.path().join("worker.log")).unwrap();
        let mut worker = Command::new(env!("CARGO_BIN_EXE_noshi"));
        worker.args(["worker", "run"]).env("DATABASE_URL", &url).stdin(Stdio::null()).stderr(log).kill_on_drop(true);
        worker.spawn().expect("a worker")
    };
    noshi::db::migrate(&url).await.unwrap();
    server.create_login("second", "noshi_operator").await.unwrap();
    let mut worker = worker();
    let pool = noshi::db::PgPool::connect(&url).await.unwrap();
    until("a worker", Duration::from_secs(20), async || {
        let alive = "select count(*) from noshi.worker where dead_at is null";
        sqlx::query_scalar::<_, i64>(alive).fetch_one(&pool).await.is_ok_and(|alive| alive == 1)
    })
    .await;
    // The page marks a restore to a day on which noshi was there.
    let earlier = "update noshi_migrations._sqlx_migrations set installed_on = '2026-10-01'";
    sqlx::query(earlier).execute(&pool).await.unwrap();
    for page in ["docs/upgrading", "docs/backup", "docs/capacity", "schedules"] {
        session.run(&format!("ops/{page}.md"), |_| false, Duration::from_secs(90)).await;
    }
    worker.kill().await.unwrap();
    drop(pool);
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn evaluating() {
    let _turn = crate::support::turn().await;
    let out = Session::new(&[], &[]).run("ops/docs/evaluating.md", |_| false, Duration::from_secs(180)).await;
    let said = settled(&out);
    let readme = fs::read_to_string(Path::new(ROOT).join("README.md")).unwrap();
    let (_, shown) = readme.split_once("```text\n").expect("the demo's end");
    for line in settled(shown.split_once("```").expect("its end").0) {
        assert!(said.contains(&line), "README shows that the demo says `{line}`, and it said {out}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn producing() {
    let _turn = crate::support::turn().await;
    let practice = Practice::begin().await;
    let programs = programs(&practice.url.replace("demo_suzuki", "postgres")).await;
    let environment = [("DATABASE_URL", practice.url.as_str()), ("NOSHI_CONFIG", &practice.config)];
    let out =
        Session::new(&[programs], &environment).run("ops/docs/producing.md", |_| false, Duration::from_secs(60)).await;
    assert!(out.contains("again job") && out.contains("refused NS409"), "{out}");
    practice.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn http() {
    let _turn = crate::support::turn().await;
    let practice = Practice::begin().await;
    let owner = practice.url.replace("demo_suzuki", "postgres");
    let environment = [("DATABASE_URL", owner.as_str()), ("NOSHI_CONFIG", &practice.config)];
    let out = Session::new(&[programs(&owner).await], &environment)
        .run("ops/http.md", |_| false, Duration::from_secs(60))
        .await;
    let answers = ["\"id\":\"order/42\"}", "is revoked", "\"field\":\"value.amount\"", "\"journal\":", "\"batch\":"];
    let missing: Vec<_> = answers.iter().filter(|answer| !out.contains(**answer)).collect();
    assert!(missing.is_empty(), "{missing:?}: {out}");
    practice.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readme_batches_and_points() {
    let _turn = crate::support::turn().await;
    let practice = Practice::begin().await;
    let [producer, other] = ["postgres", "demo_sato"].map(|login| practice.url.replace("demo_suzuki", login));
    let programs = programs(&producer).await;
    let own = [("DATABASE_URL", practice.url.as_str()), ("NOSHI_CONFIG", &practice.config)];
    let environment = [own.as_slice(), &[("PRODUCER", &producer), ("OTHER", &other)]].concat();
    let mut session = Session::new(&[programs], &environment);
    for page in ["README.md", "ops/docs/batches.md", "ops/docs/points.md"] {
        session.run(page, |_| false, Duration::from_secs(60)).await;
    }
    let report = fs::read_to_string(session.home.path().join("clone/report.csv")).unwrap();
    assert!(report.contains("G-0001"), "{report}");
    practice.end().await;
}
