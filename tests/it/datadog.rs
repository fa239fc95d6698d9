//! `ops/datadog`: drawn from the catalogue and the alerts, and read by Datadog's own code.

use std::{path::Path, process::Command};

use serde_json::Value;

use crate::{
    alerts::{drawn, source},
    fleet::{self, Terms, fleet},
};
use noshi::telemetry::metrics::METRICS;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
fn conf() -> String {
    let mut conf = "# Drawn from src/telemetry/metrics/catalogue.rs; NOSHI_REDRAW=1 draws it anew. Put the worker's address (`noshi worker run --metrics ADDRESS`).\n\
        init_config:\n\ninstances:\n  - openmetrics_endpoint: http://127.0.0.1:9464/metrics\n    namespace: noshi\n    # Datadog has a meaning of its own for `version`.\n    rename_labels: {version: noshi_version}\n    metrics:\n"
        .to_owned();
    for metric in METRICS {
        // A counter's family is its name without `_total`; Datadog adds `.count`.
        let family = metric.name.trim_end_matches("_total");
        conf += &format!("      - {family}: {}\n", family.trim_start_matches("noshi_"));
    }
    conf
}

#[test]
fn it_is_drawn_from_the_catalogue_and_the_alerts() {
    drawn("datadog/openmetrics.d/conf.yaml", &conf());
    let source = source();
    let monitors: Vec<Value> = source.alert.iter().map(|alert| alert.monitor(&source)).collect();
    drawn("datadog/monitors.json", &(serde_json::to_string_pretty(&monitors).unwrap() + "\n"));
}

/// Datadog's packages, kept beside the build.
fn packages() -> Result<std::path::PathBuf, String> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("datadog");
    let wanted = format!("{ROOT}/tests/datadog/requirements.txt");
    let list = std::fs::read_to_string(&wanted).map_err(|error| error.to_string())?;
    // Those of another list are not complete.
    if std::fs::read_to_string(folder.join("complete")).is_ok_and(|complete| complete == list) {
        return Ok(folder);
    }
    let mut install = Command::new("timeout");
    install.args([
        "120",
        "python3",
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--upgrade",
        "--only-binary",
        ":all:",
    ]);
    let said = install
        .args(["--requirement", &wanted, "--target"])
        .arg(&folder)
        .output()
        .map_err(|error| error.to_string())?;
    if !said.status.success() {
        return Err(String::from_utf8_lossy(&said.stderr).into_owned());
    }
    std::fs::write(folder.join("complete"), list).map_err(|error| error.to_string())?;
    Ok(folder)
}

#[tokio::test(flavor = "multi_thread")]
async fn datadogs_own_code_reads_it() {
    let packages = match packages() {
        Ok(packages) => packages,
        Err(why) => return eprintln!("SKIPPED: Datadog's packages are not to be had: {why}"),
    };
    let _turn = crate::support::turn().await;
    let fleet = fleet(Terms { mails: true, ..Terms::default() }).await;
    let worker = fleet.worker("w", &[], &["--metrics", "127.0.0.1:0"]);
    fleet.gift("g", "amazon", 500).await;
    fleet.at_rest(std::time::Duration::from_secs(30)).await.unwrap();
    let address = fleet::address(&worker, "serving /metrics").await;
    crate::processes::until("the fleet's metric snapshot", std::time::Duration::from_secs(30), async || {
        let text = crate::metrics::scrape(&worker).await;
        text.contains("noshi_oldest_available_seconds{") && text.contains("noshi_database_standbys")
    })
    .await;
    let mut check = Command::new("python3");
    check
        .arg(format!("{ROOT}/tests/datadog/check.py"))
        .arg(format!("{ROOT}/ops"))
        .arg(format!("http://{address}/metrics"));
    let said = check.env("PYTHONPATH", packages).output().expect("python3");
    let text = String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned();
    eprintln!("{text}");
    assert!(said.status.success(), "{text}");
}
