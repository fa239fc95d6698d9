//! What the checker reads, and that it judges nothing that it could not read.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{good::good, run::Run};
use crate::{Options, judge};

/// Writes the good run, lets `change` at one of its files, and judges what is there then.
fn changed(run: &Run, file: &str, change: impl Fn(String) -> Option<String>) -> Result<usize, String> {
    let directory = tempfile::tempdir().expect("a folder");
    run.write(directory.path());
    let path = directory.path().join(file);
    match change(fs::read_to_string(&path).expect("a file of the run")) {
        Some(text) => fs::write(&path, text).expect("the changed file"),
        None => fs::remove_file(&path).expect("a file to remove"),
    }
    judge(&run.options(directory.path())).map(|(report, _)| report.violations.len())
}

#[test]
fn what_cannot_be_read_is_not_clean() {
    let run = good();
    for file in [
        "job",
        "job_event",
        "batch",
        "batch_row",
        "store",
        "gift_trade",
        "gift_outcome",
        "lane",
        "worker",
        "point_entry",
        "point_line",
        "point_lot",
        "point_allocation",
    ]
    .map(|t| format!("dump/{t}.jsonl"))
    {
        let why = changed(&run, &file, |_| None).expect_err("a missing table");
        assert!(why.contains(&file), "{why}");
    }
    for file in ["ledger.jsonl", "worker.log"] {
        assert!(changed(&run, file, |_| None).is_err(), "{file}");
    }
    let cut = |text: String| Some(text[..text.len() - 20].to_owned() + "\n");
    let why = changed(&run, "dump/job_event.jsonl", cut).expect_err("half a row");
    assert!(why.contains("job_event.jsonl line 79"), "{why}");
    let gap = |text: String| Some(text.lines().skip(1).map(|line| format!("{line}\n")).collect());
    let why = changed(&run, "ledger.jsonl", gap).expect_err("a ledger without its first line");
    assert!(why.contains("lines are missing"), "{why}");
    let renamed = |text: String| Some(text.replace("happened_at", "at"));
    assert!(changed(&run, "dump/job_event.jsonl", renamed).is_err(), "a column that is not there");
}

#[test]
fn half_a_last_ledger_line_was_never_answered() {
    let half = |text: String| Some(text + r#"{"n":46,"us":1767323"#);
    assert_eq!(changed(&good(), "ledger.jsonl", half), Ok(0));
}

#[test]
fn rows_are_read_as_copy_and_as_a_client_writes_them() {
    let copied = |text: String| Some(text.replace('\\', r"\\"));
    let mut run = good();
    run.row(1)["args"]["user"] = r#"a "quoted" \ name"#.into();
    assert_eq!(changed(&run, "dump/job.jsonl", copied), Ok(0));
    assert_eq!(run.judged().0, [""; 0]);
    // Another zone, and no fraction where the second is whole.
    let elsewhere = |text: String| Some(text.replace("T03:04:05.010000+00:00", "T12:04:05.01+09:00"));
    assert_eq!(changed(&run, "dump/job_event.jsonl", elsewhere), Ok(0));
}

#[test]
fn arguments_are_read_or_refused() {
    let parse = |text: &str| Options::parse(text.split(' ').map(str::to_owned));
    let options = parse("--dump d --limit a=1 b=2 --leaks x y --ledger l --window-ms 500").expect("arguments");
    assert_eq!(options.limits, [("a".to_owned(), 1), ("b".to_owned(), 2)]);
    assert_eq!((options.window_us, options.in_flight_us), (500_000, 300_000));
    assert_eq!(options.leaks, ["x", "y"].map(PathBuf::from));
    assert!(!options.quiescent && !options.retry_after);
    for wrong in [
        "--dump d",
        "--ledger l",
        "stray --ledger l --dump d",
        "--ledger l --dump d --limit a",
        "--ledger l --dump d --limit a=0",
        "--ledger l --dump d --window-ms 1s",
        "--ledger l --dump d --quiescent yes",
        "--ledger l --dump d --unheard-of",
    ] {
        assert!(parse(wrong).is_err(), "{wrong}");
    }
}

/// It judges noshi, so it must not borrow noshi's own idea of anything.
#[test]
fn the_checker_shares_no_code_with_what_it_judges() {
    fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).expect("the checker's sources") {
            let path = entry.expect("a file").path();
            if path.is_dir() { sources(&path, found) } else { found.push(path) }
        }
    }
    let mut found = vec![];
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/checker"), &mut found);
    assert!(found.len() > 10, "{found:?}");
    for path in found {
        let text = fs::read_to_string(&path).expect("a source");
        for word in [concat!("noshi", "::"), concat!("noshi", "_jobs"), concat!("#[pa", "th"), concat!("incl", "ude!")]
        {
            assert!(!text.contains(word), "{} mentions {word}", path.display());
        }
    }
}
