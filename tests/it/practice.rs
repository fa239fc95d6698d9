//! The page of the incident, walked through as it stands there. `NOSHI_REDRAW=1` writes down what the commands answer now.

use std::{fs, path::Path, process::Stdio, time::Duration};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/ops/docs/incident.md");
const FENCE: &str = "```console\n";

/// What differs from run to run: numbers, times, digests, and how wide a column is.
pub fn settled(text: &str) -> Vec<String> {
    let word = |word: &str| {
        let plain = word.trim_matches(|c: char| !c.is_alphanumeric());
        let number = !plain.is_empty() && plain.chars().all(|c| c.is_ascii_digit() || ":-.TZ".contains(c));
        let digest = plain.len() > 30 && plain.chars().all(|c| c.is_ascii_hexdigit() || c == ':');
        if number || digest { "#".to_owned() } else { word.to_owned() }
    };
    let line = |line: &str| line.split_whitespace().map(word).collect::<Vec<_>>().join(" ").replace("# min", "# s");
    text.lines().map(line).filter(|line| !line.is_empty()).collect()
}

async fn run(command: &str, exports: &str) -> String {
    let folder = Path::new(env!("CARGO_BIN_EXE_noshi")).parent().unwrap();
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap_or_default());
    let ran = Command::new("sh").arg("-c").arg(format!("{exports}\n{command}")).env("PATH", path).output();
    let ran = tokio::time::timeout(Duration::from_secs(60), ran).await.expect(command).expect("a shell");
    assert!(ran.status.success(), "{command}: {}", String::from_utf8_lossy(&ran.stderr));
    String::from_utf8(ran.stdout).expect("text")
}

/// `noshi demo --practice`, and what it says to export.
pub struct Practice {
    demo: Child,
    pub url: String,
    pub config: String,
}

impl Practice {
    pub async fn begin() -> Practice {
        let mut demo = Command::new(env!("CARGO_BIN_EXE_noshi"))
            .args(["demo", "--practice"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the demo");
        let mut lines = BufReader::new(demo.stdout.take().unwrap()).lines();
        let exports = tokio::time::timeout(Duration::from_secs(150), async {
            loop {
                let line = lines.next_line().await.expect("a line").expect("it sets the scene");
                if line.trim_start().starts_with("export ") {
                    return line;
                }
            }
        });
        let exports = exports.await.expect("an incident");
        let value = |name: &str| {
            let (_, rest) = exports.split_once(&format!("{name}='")).expect("an export");
            rest.split_once('\'').expect("its end").0.to_owned()
        };
        Practice { demo, url: value("DATABASE_URL"), config: value("NOSHI_CONFIG") }
    }

    fn exports(&self) -> String {
        format!("export DATABASE_URL='{}' NOSHI_CONFIG='{}'", self.url, self.config)
    }

    pub async fn end(mut self) {
        kill_process(Pid::from_raw(self.demo.id().unwrap().cast_signed()).unwrap(), Signal::INT).unwrap();
        let ended = tokio::time::timeout(Duration::from_secs(30), self.demo.wait()).await.expect("it ends").unwrap();
        assert_eq!(ended.code(), Some(130));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_incident_is_resolved_as_its_page_says() {
    let _turn = crate::support::alone().await;
    let practice = Practice::begin().await;
    let exports = practice.exports();

    let page = fs::read_to_string(PAGE).unwrap();
    let mut redrawn = String::new();
    let mut rest = page.as_str();
    let mut commands = 0;
    while let Some((before, after)) = rest.split_once(FENCE) {
        let (block, after) = after.split_once("```\n").expect("the block ends");
        redrawn += &format!("{before}{FENCE}");
        for part in block.split("$ ").skip(1) {
            let (command, written) = part.split_once('\n').expect("a command");
            let answered = run(command, &exports).await;
            commands += 1;
            if std::env::var_os("NOSHI_REDRAW").is_none() {
                assert_eq!(settled(&answered), settled(written), "{command} answered:\n{answered}");
            }
            redrawn += &format!("$ {command}\n{}", answered.trim_start_matches('\n'));
        }
        redrawn += "```\n";
        rest = after;
    }
    assert!(commands >= 9, "{commands}");
    if std::env::var_os("NOSHI_REDRAW").is_some() {
        fs::write(PAGE, redrawn + rest).unwrap();
    }
    // What is written there would prove nothing if the jobs were not fixed.
    let left = run("noshi job list --status needs_operator -o json", &exports).await;
    assert_eq!(left.trim(), "[]");
    let issued = run("noshi job list --kind gift_issuance --status completed --limit 100 -o json", &exports).await;
    assert_eq!(issued.matches("\"spring-").count(), 10);
    assert!(run("noshi audit verify", &exports).await.contains("whole"));
    practice.end().await;
}
