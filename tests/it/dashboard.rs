//! Grafana's dashboard: drawn from `ops/dashboard.toml`, and held against the catalogue and the alerts. The fire drill asks a real
//! Prometheus for each of its expressions.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    alerts::{drawn, metric, selectors, unknown},
    drill::stage::Stage,
};
use noshi::telemetry::metrics::Of;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Source {
    row: Vec<Row>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    title: String,
    panel: Vec<Panel>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Panel {
    title: String,
    unit: String,
    /// Red from here on. One number is shown large, many as lines over time.
    bad: Option<f64>,
    #[serde(default)]
    means: String,
    /// Expressions by what their lines are called.
    queries: BTreeMap<String, String>,
}

fn source() -> Source {
    let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/ops/dashboard.toml")).expect("the source");
    toml::from_str(&text).unwrap_or_else(|error| panic!("ops/dashboard.toml: {error}"))
}

/// Every expression, with the span that Grafana would choose.
pub fn expressions(span: &str) -> Vec<String> {
    let panels = source().row.into_iter().flat_map(|row| row.panel);
    panels.flat_map(|panel| panel.queries.into_values()).map(|expr| expr.replace("$__rate_interval", span)).collect()
}

/// Sizes on Grafana's grid of 24 columns.
const STAT: (usize, usize) = (4, 4);
const LINES: (usize, usize) = (8, 8);

impl Panel {
    /// The first row's numbers of the whole fleet.
    fn is_stat(&self, row: usize) -> bool {
        row == 0 && self.queries.len() == 1 && self.queries.contains_key("")
    }

    fn drawn(&self, is_stat: bool, id: usize, (x, y): (usize, usize)) -> Value {
        let (w, h) = if is_stat { STAT } else { LINES };
        let targets = self.queries.iter().zip('A'..).map(|((legend, expr), letter)| {
            json!({"refId": letter.to_string(), "expr": expr, "legendFormat": if legend.is_empty() { &self.title } else { legend }})
        });
        let mut steps = vec![json!({"color": "green", "value": null})];
        steps.extend(self.bad.map(|bad| json!({"color": "red", "value": bad})));
        json!({
            "id": id, "type": if is_stat { "stat" } else { "timeseries" },
            "title": self.title, "description": self.means,
            "gridPos": {"x": x, "y": y, "w": w, "h": h},
            "datasource": {"type": "prometheus", "uid": "${datasource}"},
            "targets": targets.collect::<Vec<_>>(),
            "fieldConfig": {"defaults": {"unit": self.unit, "min": 0, "thresholds": {"mode": "absolute", "steps": steps}}, "overrides": []},
        })
    }
}

fn dashboard() -> Value {
    let (mut panels, mut y) = (vec![], 0);
    for (number, row) in source().row.iter().enumerate() {
        panels
            .push(json!({"id": panels.len() + 1, "type": "row", "title": row.title, "collapsed": false, "panels": [],
            "gridPos": {"x": 0, "y": y, "w": 24, "h": 1}}));
        y += 1;
        let (mut x, mut height) = (0, 0);
        for panel in &row.panel {
            let is_stat = panel.is_stat(number);
            let (width, h) = if is_stat { STAT } else { LINES };
            if x + width > 24 {
                (x, y) = (0, y + height);
            }
            panels.push(panel.drawn(is_stat, panels.len() + 1, (x, y)));
            (x, height) = (x + width, h);
        }
        y += height;
    }
    json!({
        "uid": "noshi", "title": "noshi", "tags": ["noshi"], "schemaVersion": 41, "version": 1, "editable": false,
        "time": {"from": "now-6h", "to": "now"}, "refresh": "30s", "timezone": "", "graphTooltip": 1,
        "templating": {"list": [{"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus"}]},
        "annotations": {"list": [{
            "name": "Alerts", "enable": true, "iconColor": "red", "datasource": {"type": "prometheus", "uid": "${datasource}"},
            "expr": "ALERTS{alertname=~\"Noshi.*\", alertstate=\"firing\"}", "titleFormat": "{{alertname}}", "step": "60s",
        }]},
        "panels": panels,
    })
}

#[test]
fn it_is_drawn_from_one_source() {
    drawn("grafana/noshi.json", &(serde_json::to_string_pretty(&dashboard()).unwrap() + "\n"));
}

#[test]
fn its_expressions_name_what_the_catalogue_has() {
    for row in source().row {
        for panel in row.panel {
            for (legend, expr) in &panel.queries {
                let expr = expr.replace("$__rate_interval", "1m");
                assert_eq!(unknown(&expr), [""; 0], "{}: {expr}", panel.title);
                for (name, _) in selectors(&expr) {
                    // Each process shows the fleet's metric snapshot: without `max` there would be as many lines as processes.
                    let fleets = metric(&name).is_some_and(|metric| metric.of == Of::Fleet);
                    let each = ["noshi_metric_snapshot_age_seconds"].contains(&name.as_str());
                    assert!(!fleets || each || expr.contains("max"), "{}: {expr}", panel.title);
                }
                for word in legend.split("{{").skip(1) {
                    let label = word.split_once("}}").expect("a closed label").0;
                    let has = |name: &str| metric(name).is_some_and(|metric| metric.labels.contains(&label));
                    let has = label == "instance" || selectors(&expr).iter().any(|(name, _)| has(name));
                    assert!(has, "{}: no {label} in {expr}", panel.title);
                }
            }
        }
    }
}

/// So whoever is paged sees on it what the alert looked at.
#[test]
fn every_metric_is_on_it() {
    let plain = |name: &str| metric(name).map(|metric| metric.name);
    let shown: BTreeSet<&str> =
        expressions("1m").iter().flat_map(|expr| selectors(expr)).filter_map(|(name, _)| plain(&name)).collect();
    let all: BTreeSet<&str> = noshi::telemetry::metrics::METRICS.iter().map(|metric| metric.name).collect();
    assert_eq!(all.difference(&shown).collect::<Vec<_>>(), [&""; 0]);
}

/// Of a fleet at work, each expression has something to show.
pub async fn answers(stage: &Stage) {
    let mut silent = vec![];
    for expr in expressions("30s") {
        if stage.query(&expr).await.unwrap_or_default().is_empty() {
            silent.push(expr);
        }
    }
    assert_eq!(silent, [""; 0]);
}
