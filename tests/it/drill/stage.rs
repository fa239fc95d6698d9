//! A real Prometheus and a real Alertmanager, with the configuration of `ops/prometheus` and everything in it shorter.

use std::{
    collections::BTreeMap,
    fs,
    net::TcpListener as Std,
    path::Path,
    process::Stdio,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use axum::{Json, Router, extract::Path as Route, routing::post};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
};

use crate::{
    alerts::{rules, source},
    debian::program,
    processes::until,
};

/// Every span of the rules is this much shorter; their expressions stay the same.
pub const FACTOR: u32 = 60;
/// On a machine that others use too.
const PATIENCE: Duration = Duration::from_secs(120);

/// One alert with its labels, as a notification told of it.
#[derive(Debug, Clone)]
pub struct Notice {
    at: Instant,
    pub name: String,
    labels: BTreeMap<String, String>,
    firing: bool,
}

/// What the drill's receivers were told so far.
#[derive(Clone, Default)]
pub struct Notices(Arc<Mutex<Vec<Notice>>>, Arc<Mutex<Vec<String>>>);

impl Notices {
    pub fn all(&self) -> Vec<Notice> {
        self.0.lock().expect("the notices").clone()
    }

    /// Names of those that told of a fault since then.
    pub fn fired_since(&self, then: Instant) -> Vec<String> {
        let fired = self.all().into_iter().filter(|notice| notice.firing && notice.at >= then);
        fired.map(|notice| notice.name).collect()
    }

    fn of(&self, name: &str) -> Vec<Notice> {
        self.all().into_iter().filter(|notice| notice.name == name).collect()
    }

    /// What was wrong with notifications: panics of a receiver would be heard by nobody.
    pub fn wrong(&self) -> Vec<String> {
        self.1.lock().expect("the complaints").clone()
    }

    fn take(&self, receiver: &str, told: &Value) {
        for alert in told["alerts"].as_array().into_iter().flatten() {
            let labels: BTreeMap<String, String> = serde_json::from_value(alert["labels"].clone()).unwrap_or_default();
            let word = |name: &str| alert["annotations"][name].as_str().unwrap_or_default();
            let page = Path::new(env!("CARGO_MANIFEST_DIR")).join(word("runbook"));
            let filled =
                !word("summary").is_empty() && !word("summary").contains("{{") && !word("summary").contains("''");
            if labels.get("severity").is_none_or(|severity| severity != receiver) || !page.is_file() || !filled {
                self.1.lock().expect("the complaints").push(format!("to {receiver}: {alert}"));
            }
            let (name, firing) = (labels.get("alertname").cloned().unwrap_or_default(), alert["status"] == "firing");
            self.0.lock().expect("the notices").push(Notice { at: Instant::now(), name, labels, firing });
        }
    }
}

/// How long it took from the fault to the notification, and from the fixing to the end.
#[derive(Debug, Clone, Copy, Default)]
pub struct Took {
    pub fired: Option<Duration>,
    pub resolved: Option<Duration>,
}

pub struct Stage {
    pub notices: Notices,
    pub took: Mutex<BTreeMap<String, Took>>,
    pub prometheus: String,
    _children: [Child; 2],
}

pub fn free_address() -> String {
    Std::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port").to_string()
}

/// The body of an answer with status 200.
pub async fn get(address: &str, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.contains(" 200 ").then(|| body.to_owned())
}

async fn receivers(notices: Notices) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let take = async move |Route(receiver): Route<String>, Json(told): Json<Value>| notices.take(&receiver, &told);
    tokio::spawn(async move { axum::serve(listener, Router::new().route("/{receiver}", post(take))).await });
    address
}

/// An operator's file, with what is replaced in it. Each has to be there.
fn replaced(file: &str, with: &[(&str, &str)]) -> String {
    let path = format!("{}/ops/prometheus/{file}", env!("CARGO_MANIFEST_DIR"));
    let mut text = fs::read_to_string(path).expect("a file of ops");
    for (from, to) in with {
        assert!(text.contains(from), "{file} has no {from}");
        text = text.replace(from, to);
    }
    text
}

fn start(program: &Path, dir: &Path, name: &str, arguments: &[String]) -> Child {
    let log = fs::File::create(dir.join(format!("{name}.log"))).expect("a log");
    let mut command = Command::new(program);
    command.args(arguments).current_dir(dir).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).kill_on_drop(true);
    command.spawn().expect("it starts")
}

impl Stage {
    /// Scrapes these targets. The error says which program is not to be had.
    pub async fn set(dir: &Path, targets: &[String]) -> Result<Stage, String> {
        let (prometheus, manager) = (program("prometheus").await?, program("prometheus-alertmanager").await?);
        let notices = Notices::default();
        let (ours, alerts, webhook) = (free_address(), free_address(), receivers(notices.clone()).await);
        let targets = targets.iter().map(|target| format!("\"{target}\"")).collect::<Vec<_>>().join(", ");
        let config = [("15s", "1s"), ("127.0.0.1:9093", &alerts), ("\"127.0.0.1:9464\", \"127.0.0.1:9465\"", &targets)];
        fs::write(dir.join("prometheus.yml"), replaced("prometheus.yml", &config)).unwrap();
        fs::write(dir.join("noshi.rules.yml"), rules(&source(), FACTOR)).unwrap();
        let routes = [
            ("group_wait: 30s", "group_wait: 0s"),
            ("group_wait: 10s", "group_wait: 0s"),
            ("group_interval: 5m", "group_interval: 1s"),
            ("group_interval: 1m", "group_interval: 1s"),
            ("127.0.0.1:9095", &webhook),
        ];
        fs::write(dir.join("alertmanager.yml"), replaced("alertmanager.yml", &routes)).unwrap();
        let arguments = |text: String| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let manages = format!(
            "--config.file=alertmanager.yml --storage.path=alerts --web.listen-address={alerts} --cluster.listen-address="
        );
        let scrapes = format!(
            "--config.file=prometheus.yml --storage.tsdb.path=series --web.listen-address={ours} --rules.alert.resend-delay=1s"
        );
        for template in ["default.tmpl", "email.tmpl"] {
            // Where Alertmanager is installed it has its own.
            let _ = fs::copy(Path::new(env!("CARGO_TARGET_TMPDIR")).join(template), dir.join(template));
        }
        let children = [
            start(&manager, dir, "alertmanager", &arguments(manages)),
            start(&prometheus, dir, "prometheus", &arguments(scrapes)),
        ];
        let stage = Stage { notices, took: Mutex::default(), prometheus: ours, _children: children };
        let begun = Instant::now();
        while get(&stage.prometheus, "/-/ready").await.is_none() || get(&alerts, "/-/ready").await.is_none() {
            assert!(begun.elapsed() < PATIENCE, "Prometheus or Alertmanager is not ready");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(stage)
    }

    /// What Prometheus answers to an expression now: labels and values. The error is Prometheus's own.
    pub async fn query(&self, expr: &str) -> Result<Vec<(Value, f64)>, String> {
        let path = format!("/api/v1/query?query={}", utf8_percent_encode(expr, NON_ALPHANUMERIC));
        let answer = get(&self.prometheus, &path).await.ok_or_else(|| format!("it is refused: {expr}"))?;
        let answer: Value = serde_json::from_str(&answer).map_err(|error| error.to_string())?;
        let series = answer["data"]["result"].as_array().cloned().unwrap_or_default();
        let value =
            |series: &Value| series["value"][1].as_str().and_then(|value| value.parse().ok()).unwrap_or(f64::NAN);
        Ok(series.iter().map(|series| (series["metric"].clone(), value(series))).collect())
    }

    /// Notified since then. `labels` are some of the alert's.
    pub async fn arrives(&self, name: &str, labels: &[(&str, &str)], since: Instant) {
        let is = |notice: &Notice| {
            notice.firing
                && notice.at >= since
                && labels.iter().all(|(label, value)| notice.labels.get(*label).is_some_and(|is| is == value))
        };
        until(&format!("{name} {labels:?}"), PATIENCE, async || self.notices.of(name).iter().any(is)).await;
        let arrived = self.notices.of(name).into_iter().find(is).expect("it arrived").at - since;
        eprintln!("{name} arrived after {:.1} s", arrived.as_secs_f64());
        self.took.lock().unwrap().entry(name.to_owned()).or_default().fired.get_or_insert(arrived);
    }

    /// Since then, each that fires was told to be over.
    pub async fn resolves(&self, name: &str, since: Instant) {
        let over = || {
            let mut last: BTreeMap<BTreeMap<String, String>, Notice> = BTreeMap::new();
            for notice in self.notices.of(name) {
                last.insert(notice.labels.clone(), notice);
            }
            let latest = last.values().map(|notice| notice.at).max()?;
            (last.values().all(|notice| !notice.firing) && latest >= since).then_some(latest)
        };
        until(&format!("the end of {name}"), PATIENCE, async || over().is_some()).await;
        let resolved = over().expect("it is over") - since;
        eprintln!("{name} resolved after {:.1} s", resolved.as_secs_f64());
        self.took.lock().unwrap().entry(name.to_owned()).or_default().resolved = Some(resolved);
    }
}
