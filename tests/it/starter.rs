//! `noshi new`, and `noshi dev`. What is made is built and tested by the stage of one's own job of `.ci/run`.

use std::{fs, path::Path, process::Stdio, time::Duration};

use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
};

fn noshi() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_noshi"));
    command.env_remove("DATABASE_URL").kill_on_drop(true);
    command
}

fn each_file(folder: &Path, see: &mut impl FnMut(&Path)) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { each_file(&path, see) } else { see(&path) }
    }
}

#[tokio::test]
async fn what_is_made_has_its_own_name_everywhere() {
    let folder = TempDir::new().unwrap();
    let made = noshi().args(["new", "gift_card"]).current_dir(&folder).output().await.unwrap();
    assert!(made.status.success(), "{made:?}");
    let mut files = 0;
    each_file(&folder.path().join("gift_card"), &mut |path| {
        files += 1;
        let text = fs::read_to_string(path).unwrap();
        for word in ["starter", "Starter", "STARTER"] {
            assert!(!text.contains(word) && !path.to_string_lossy().contains(word), "{word} in {}", path.display());
        }
    });
    assert_eq!(files, 14);
    let job = fs::read_to_string(folder.path().join("gift_card/src/job.rs")).unwrap();
    assert!(job.contains("pub struct GiftCard;") && job.contains("//! | calling | call | gift_card/partner"));
    let manifest = fs::read_to_string(folder.path().join("gift_card/Cargo.toml")).unwrap();
    assert!(manifest.contains(&format!("noshi = {{ path = {:?} }}", env!("CARGO_MANIFEST_DIR"))), "{manifest}");
    fs::write(folder.path().join("gift_card/README.md"), "mine").unwrap();
    let again = noshi().args(["new", "gift_card"]).current_dir(&folder).output().await.unwrap();
    assert!(!again.status.success() && String::from_utf8_lossy(&again.stderr).contains("--folder"), "{again:?}");
    assert_eq!(fs::read_to_string(folder.path().join("gift_card/README.md")).unwrap(), "mine");
}

#[tokio::test]
async fn a_name_with_another_meaning_is_refused_and_nothing_is_made() {
    let folder = TempDir::new().unwrap();
    for name in [
        "",
        "Refund",
        "9a",
        "a-b",
        "a__b",
        "a_",
        "../a",
        "返金",
        "type",
        "core",
        "gift_issuance",
        "worker",
        "tokio",
        "job",
        "done",
        "proof",
    ] {
        let made = noshi().args(["new", name]).current_dir(&folder).output().await.unwrap();
        let said = String::from_utf8_lossy(&made.stderr).into_owned();
        assert!(
            made.status.code() == Some(2) && said.contains("a name is of") || said.contains("has a meaning already"),
            "{name}: {said}"
        );
    }
    let elsewhere = noshi().args(["new", "refund", "--noshi", "."]).current_dir(&folder).output().await.unwrap();
    assert!(String::from_utf8_lossy(&elsewhere.stderr).contains("is not the folder of noshi"), "{elsewhere:?}");
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
}

/// A worker on a private server, which is found by the line that is printed, and is gone afterwards.
#[tokio::test(flavor = "multi_thread")]
async fn dev_runs_a_worker_until_it_is_stopped_and_leaves_nothing() {
    let _turn = crate::support::turn().await;
    let mut dev = noshi().arg("dev").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(dev.stdout.take().unwrap()).lines();
    let url = loop {
        let line = lines.next_line().await.unwrap().expect("the line with the address");
        if let Some(url) = line.trim().strip_prefix("export DATABASE_URL='") {
            break url.trim_end_matches('\'').to_owned();
        }
    };
    let asked = noshi()
        .args([
            "job",
            "enqueue",
            "probe",
            "--id",
            "one",
            "--args",
            "{\"id\": \"one\", \"steps\": 2, \"in_doubt\": \"repeat\"}",
            "--wait",
        ])
        .env("DATABASE_URL", &url)
        .output()
        .await
        .unwrap();
    assert!(String::from_utf8_lossy(&asked.stdout).contains("completed"), "{asked:?}");
    let pid = rustix::process::Pid::from_raw(i32::try_from(dev.id().unwrap()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(30), dev.wait()).await.expect("an end").unwrap();
    assert!(ended.success(), "{ended}");
    let socket = url.split("host=").nth(1).unwrap().split('&').next().unwrap().replace("%2F", "/");
    assert!(!Path::new(&socket).exists(), "{socket}");
}
