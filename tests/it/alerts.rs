//! The alerts: drawn from `ops/alerts.toml`, and held against the catalogue, promtool and the runbook.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
    process::Command,
};

use noshi_jobs::Problem;
use regex::{Captures, Regex};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{debian::program, support::is_as_drawn};
use noshi::telemetry::metrics::{METRICS, Metric, Of, Type};

const OPS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/ops");
const DRAWN: &str = "# Drawn from ops/alerts.toml by tests/it/alerts.rs; NOSHI_REDRAW=1 draws it anew.\n";

type Series = BTreeMap<String, String>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    normal: Series,
    pub alert: Vec<Alert>,
    codes: Codes,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Codes {
    unexpected: Vec<String>,
    exhausted: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Alert {
    pub name: String,
    pub severity: String,
    r#for: String,
    expr: String,
    summary: String,
    description: String,
    datadog: String,
    fires: Case,
    silent: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    #[serde(default)]
    case: String,
    at: u32,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    series: Series,
}

pub fn source() -> Source {
    let text = fs::read_to_string(format!("{OPS}/alerts.toml")).expect("ops/alerts.toml");
    toml::from_str(&text).unwrap_or_else(|error| panic!("ops/alerts.toml: {error}"))
}

/// A span such as `15m`, made shorter by `factor`, in seconds.
fn seconds(span: &str, factor: u32) -> u32 {
    let (number, unit) = span.split_at(span.len() - 1);
    let unit = match unit {
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        other => panic!("{span}: {other} is no unit of ours"),
    };
    let seconds = number.parse::<u32>().expect("a number") * unit;
    assert_eq!(seconds % factor, 0, "{span} cannot be made shorter by {factor}");
    seconds / factor
}

fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("a JSON string is a YAML string")
}

impl Alert {
    fn codes(&self, text: &str, codes: &Codes) -> String {
        text.replace("UNEXPECTED", &codes.unexpected.join("|")).replace("EXHAUSTED", &codes.exhausted.join("|"))
    }

    /// The expression with all its spans shorter by `factor`.
    pub fn expr(&self, source: &Source, factor: u32) -> String {
        let expr = self.codes(self.expr.trim(), &source.codes);
        let age = Regex::new(r"\{(\d+[mhd])\}").unwrap();
        let expr = age.replace_all(&expr, |span: &Captures| seconds(&span[1], factor).to_string());
        let range = Regex::new(r"\[(\d+[mhd])\]|(offset) (\d+[mhd])").unwrap();
        let shorter = |span: &str| match factor {
            1 => span.to_owned(),
            _ => format!("{}s", seconds(span, factor)),
        };
        let range = range.replace_all(&expr, |span: &Captures| match span.get(2) {
            Some(_) => format!("offset {}", shorter(&span[3])),
            None => format!("[{}]", shorter(&span[1])),
        });
        range.into_owned()
    }

    /// The monitor that Datadog takes.
    pub fn monitor(&self, source: &Source) -> Value {
        let codes = |codes: &[String]| codes.join(",");
        let query = self.datadog.replace("UNEXPECTED", &codes(&source.codes.unexpected));
        let query = query.replace("EXHAUSTED", &codes(&source.codes.exhausted));
        // A service check has no threshold in its query: so many failures in a row.
        let threshold =
            query.rsplit_once(['<', '>']).map_or("5", |(_, threshold)| threshold.trim_start_matches('=').trim());
        let threshold: f64 = threshold.parse().unwrap_or_else(|_| panic!("{}: {query}", self.name));
        let mut options = json!({"thresholds": {"critical": threshold}, "include_tags": true, "notify_audit": false});
        if query.starts_with('"') {
            options["thresholds"]["ok"] = json!(1);
        } else if query.contains("default_zero") {
            // Where zero is the fault, nothing at all is one too.
            options["on_missing_data"] = json!("show_and_notify_no_data");
        }
        let words = Regex::new(r#"\{\{ (?:or )?\$labels\.(\w+)(?: "[^"]*")? \}\}"#).unwrap();
        let tag = |label: &str| if label == "instance" { "endpoint".to_owned() } else { label.to_owned() };
        let summary = words.replace_all(&self.summary, |label: &Captures| format!("{{{{{}.name}}}}", tag(&label[1])));
        json!({
            "name": format!("{}: {summary}", self.name),
            "type": if query.starts_with('"') { "service check" } else { "query alert" },
            "query": query,
            "message": format!("{}\n\nRunbook: {}\n\n@webhook-noshi-{}", self.description, self.runbook(), self.severity),
            "priority": if self.severity == "page" { 1 } else { 3 },
            "tags": ["service:noshi", format!("severity:{}", self.severity)],
            "options": options,
        })
    }

    pub fn runbook(&self) -> String {
        format!("ops/runbook/alerts/{}.md", self.name)
    }

    fn annotations(&self, labels: &BTreeMap<String, String>) -> String {
        let mut summary = self.summary.clone();
        for (name, value) in labels {
            let or = Regex::new(&format!(r#"\{{\{{ or \$labels\.{name} "[^"]*" \}}\}}"#)).unwrap();
            summary = or.replace_all(&summary, value.as_str()).into_owned();
            summary = summary.replace(&format!("{{{{ $labels.{name} }}}}"), value);
        }
        format!(
            "summary: {}\n          description: {}\n          runbook: {}",
            quoted(&summary),
            quoted(&self.description),
            quoted(&self.runbook())
        )
    }
}

/// The rules, with every span shorter by `factor`.
pub fn rules(source: &Source, factor: u32) -> String {
    let mut rules = format!("{DRAWN}groups:\n  - name: noshi\n    rules:\n");
    for alert in &source.alert {
        let expr = alert.expr(source, factor).replace('\n', "\n          ");
        rules += &format!(
            "      - alert: {}\n        expr: |\n          {expr}\n        for: {}s\n        labels:\n          severity: {}\n        annotations:\n          {}\n",
            alert.name,
            seconds(&alert.r#for, factor),
            alert.severity,
            alert.annotations(&BTreeMap::new()),
        );
    }
    rules
}

fn group(name: &str, series: &Series) -> String {
    let mut group = format!("  - name: {}\n    interval: 1m\n    input_series:\n", quoted(name));
    for (series, values) in series {
        group += &format!("      - series: '{series}'\n        values: '{values}'\n");
    }
    group + "    alert_rule_test:\n"
}

fn expects(alert: &Alert, at: u32, fires: Option<&BTreeMap<String, String>>) -> String {
    let head = format!("      - eval_time: {at}m\n        alertname: {}\n", alert.name);
    let Some(labels) = fires else { return head + "        exp_alerts: []\n" };
    let mut expects =
        head + &format!("        exp_alerts:\n        - exp_labels:\n            severity: {}\n", alert.severity);
    for (name, value) in labels {
        expects += &format!("            {name}: {}\n", quoted(value));
    }
    let annotations = alert.annotations(labels).replace("\n          ", "\n            ");
    expects + &format!("          exp_annotations:\n            {annotations}\n")
}

/// promtool's tests of the rules: each fires where it should, and is silent where it should not.
fn rule_tests(source: &Source) -> String {
    let mut tests = format!("{DRAWN}rule_files: [noshi.rules.yml]\nevaluation_interval: 1m\ntests:\n");
    tests += &group("a normal fleet", &source.normal);
    for alert in &source.alert {
        for at in [1, 30, 110] {
            tests += &expects(alert, at, None);
        }
    }
    for alert in &source.alert {
        tests += &group(&format!("{} fires", alert.name), &alert.fires.series);
        tests += &expects(alert, alert.fires.at, Some(&alert.fires.labels));
        for silent in &alert.silent {
            tests += &group(&format!("{} is silent: {}", alert.name, silent.case), &silent.series);
            tests += &expects(alert, silent.at, None);
        }
    }
    tests
}

/// Compares a drawn file, or draws it.
pub fn drawn(file: &str, text: &str) {
    is_as_drawn(&format!("ops/{file}"), text);
}

#[test]
fn the_rules_are_drawn_from_one_source() {
    let source = source();
    drawn("prometheus/noshi.rules.yml", &rules(&source, 1));
    drawn("prometheus/noshi.rules.test.yml", &rule_tests(&source));
}

/// Names of metrics in an expression, with what stands in their braces.
pub fn selectors(expr: &str) -> Vec<(String, Vec<String>)> {
    let selector = Regex::new(r"\b(noshi_[a-z_]+|process_[a-z_]+|up\b)(?:\{([^}]*)\})?").unwrap();
    let label = Regex::new(r#"([a-z_]+)\s*(?:=~|!~|!=|=)\s*""#).unwrap();
    let labels = |braces: &str| label.captures_iter(braces).map(|label| label[1].to_owned()).collect();
    let found = selector.captures_iter(expr);
    found.map(|found| (found[1].to_owned(), found.get(2).map_or(vec![], |braces| labels(braces.as_str())))).collect()
}

pub fn metric(name: &str) -> Option<&'static Metric> {
    let plain = ["_bucket", "_sum", "_count"].iter().find_map(|part| name.strip_suffix(part)).unwrap_or(name);
    METRICS.iter().find(|metric| metric.name == name || (metric.name == plain && metric.r#type == Type::Histogram))
}

/// What an expression names, and does not exist.
pub fn unknown(expr: &str) -> Vec<String> {
    let mut unknown = vec![];
    let mut known: BTreeSet<&str> = BTreeSet::from(["instance", "job"]);
    for (name, labels) in selectors(expr) {
        let Some(metric) = metric(&name) else {
            if name != "up" && !name.starts_with("process_") {
                unknown.push(name);
            }
            continue;
        };
        known.extend(metric.labels);
        if name.ends_with("_bucket") {
            known.insert("le");
        }
        let own =
            |label: &&String| metric.labels.contains(&label.as_str()) || ["instance", "job"].contains(&label.as_str());
        unknown.extend(labels.iter().filter(|label| !own(label)).map(|label| format!("{name}: {label}")));
    }
    let grouping = Regex::new(r"\b(?:by|on|without|ignoring) \(([^)]*)\)").unwrap();
    for group in grouping.captures_iter(expr) {
        let labels = group[1].split(',').map(str::trim).filter(|label| !label.is_empty() && !known.contains(label));
        unknown.extend(labels.map(|label| format!("grouping by {label}")));
    }
    unknown
}

#[test]
fn expressions_name_what_the_catalogue_has() {
    let source = source();
    let series = |cases: &Series| cases.keys().flat_map(|series| unknown(series)).collect::<Vec<_>>();
    assert_eq!(series(&source.normal), [""; 0]);
    for alert in &source.alert {
        let expr = alert.expr(&source, 1);
        assert_eq!(unknown(&expr), [""; 0], "{}: {expr}", alert.name);
        assert!(["page", "ticket"].contains(&alert.severity.as_str()), "{}", alert.name);
        assert!(!alert.silent.is_empty() && !selectors(&expr).is_empty(), "{}", alert.name);
        for case in alert.silent.iter().chain([&alert.fires]) {
            assert_eq!(series(&case.series), [""; 0], "{}", alert.name);
        }
        // Added up, a value of the fleet would be as many times too large as there are processes.
        for (name, _) in selectors(&expr) {
            if metric(&name).is_some_and(|metric| metric.of == Of::Fleet) {
                let most = format!(r"max(?: by \([^)]*\))? ?\((?:max_over_time\(|delta\()?{name}\b");
                assert!(Regex::new(&most).unwrap().is_match(&expr), "{}: {name} is not taken by max", alert.name);
                assert!(!Regex::new(&format!(r"sum[^(]*\(.?{name}\b")).unwrap().is_match(&expr), "{}", alert.name);
            }
        }
    }
    let mut codes: Vec<&String> = source.codes.unexpected.iter().chain(&source.codes.exhausted).collect();
    assert!(codes.iter().all(|code| Problem::from_code(code).is_some()), "{codes:?}");
    codes.sort_unstable();
    codes.dedup();
    assert_eq!(codes.len(), source.codes.unexpected.len() + source.codes.exhausted.len());
}

#[test]
fn what_is_not_in_the_catalogue_is_found() {
    assert_eq!(unknown("sum by (lane) (noshi_lanes_open)"), ["noshi_lanes_open", "grouping by lane"]);
    assert_eq!(unknown(r#"max(noshi_lane_open{why="funds"})"#), ["noshi_lane_open: why"]);
    assert_eq!(unknown("histogram_quantile(0.9, sum by (le) (rate(noshi_settle_seconds_bucket[5m])))"), [""; 0]);
}

async fn says(tool: &str, arguments: &[&str]) -> Option<(bool, String)> {
    let program: PathBuf = match program(tool).await {
        Ok(program) => program,
        Err(why) => {
            eprintln!("SKIPPED: there is no {tool}: {why}");
            return None;
        }
    };
    let said = Command::new(program).args(arguments).current_dir(format!("{OPS}/prometheus")).output().expect("a run");
    Some((said.status.success(), String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned()))
}

#[tokio::test]
async fn promtool_accepts_the_rules_and_their_tests_pass() {
    let Some((passed, said)) = says("promtool", &["check", "rules", "noshi.rules.yml"]).await else { return };
    let count = format!("SUCCESS: {} rules found", source().alert.len());
    assert!(passed && said.contains(&count), "{said}");
    let (passed, said) = says("promtool", &["test", "rules", "noshi.rules.test.yml"]).await.unwrap();
    assert!(passed && said.contains("SUCCESS"), "{said}");
}

#[tokio::test]
async fn the_configurations_are_accepted() {
    let Some((passed, said)) = says("promtool", &["check", "config", "prometheus.yml"]).await else { return };
    assert!(passed && said.contains("1 rule files found"), "{said}");
    let Some((passed, said)) = says("amtool", &["check-config", "alertmanager.yml"]).await else { return };
    assert!(passed && said.contains("2 receivers"), "{said}");
}
