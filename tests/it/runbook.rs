//! The runbook: a page for every alert, and every command and query of every page exists and runs with an operator's rights.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use clap::{Parser, error::ErrorKind};
use regex::Regex;
use sqlx::AssertSqlSafe;

use crate::{alerts, support::database};
use noshi::cli::Cli;

const RUNBOOK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/ops/runbook");

fn names(folder: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(Path::new(RUNBOOK).join(folder)).expect("a folder").map(Result::unwrap);
    let pages = entries.filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".md").map(str::to_owned));
    pages.collect()
}

fn pages() -> Vec<(PathBuf, String)> {
    let page =
        |path: String| (PathBuf::from(&path), fs::read_to_string(Path::new(RUNBOOK).join(&path)).expect("a page"));
    let alerts = names("alerts").into_iter().map(|name| format!("alerts/{name}.md"));
    names("").into_iter().map(|name| format!("{name}.md")).chain(alerts).map(page).collect()
}

/// Lines of the blocks of shell commands.
fn commands(text: &str) -> Vec<&str> {
    let blocks = text.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
    blocks.flat_map(str::lines).filter(|line| !line.trim().is_empty()).collect()
}

#[test]
fn every_alert_has_its_page_and_no_page_is_left_over() {
    let alerts: BTreeSet<String> = alerts::source().alert.into_iter().map(|alert| alert.name).collect();
    assert_eq!(names("alerts"), alerts);
    let readme = fs::read_to_string(Path::new(RUNBOOK).join("README.md")).unwrap();
    for name in &alerts {
        let text = fs::read_to_string(Path::new(RUNBOOK).join(format!("alerts/{name}.md"))).unwrap();
        assert!(text.starts_with(&format!("# {name}\n\n")), "{name} does not open with its name");
        for part in ["## What it means for the money\n", "## How to look\n", "## What to do\n1. ", "## Never\n- "] {
            assert!(text.contains(part), "{name} lacks `{part}`");
        }
        assert!(commands(&text).len() >= 2, "{name}: how to look, in commands");
        assert!(readme.contains(&format!("[{name}](alerts/{name}.md)")), "{name} is not in the runbook's README");
    }
}

#[test]
fn links_lead_to_pages() {
    let link = Regex::new(r"\]\(([^)#:]+\.md|[^)#:]+\.toml)").unwrap();
    for (page, text) in pages() {
        for found in link.captures_iter(&text) {
            let target = Path::new(RUNBOOK).join(page.parent().unwrap()).join(&found[1]);
            assert!(target.is_file(), "{}: {} leads nowhere", page.display(), &found[1]);
        }
    }
}

/// As a shell takes it apart: quotes hold words together, and a comment ends it.
fn words(line: &str) -> Vec<String> {
    let word = Regex::new(r#"(?:[^\s"']|"[^"]*"|'[^']*')+"#).unwrap();
    let words = word.find_iter(line).map(|word| word.as_str());
    let words = words.take_while(|word| !word.starts_with('#') && !["|", ">", "<"].contains(word));
    words.map(|word| word.replace(['"', '\''], "")).collect()
}

/// Placeholders become something of their type.
fn filled(text: &str) -> String {
    let number = Regex::new(r"\b(?:ID|N|BATCH)\b").unwrap().replace_all(text, "7");
    number.replace("DIGEST", &"5a".repeat(32))
}

#[test]
fn every_command_is_one() {
    let inline = Regex::new(r"`(noshi [^`]+)`").unwrap();
    let (mut seen, mut wrong) = (0, vec![]);
    for (page, text) in pages() {
        let said: String = text.split("```").step_by(2).collect();
        let whole =
            commands(&text).into_iter().filter(|line| line.starts_with("noshi ")).map(|line| (line.to_owned(), true));
        let parts = inline.captures_iter(&said).map(|found| (found[1].replace('\n', " "), false));
        for (line, whole) in whole.chain(parts) {
            seen += 1;
            let Err(error) = Cli::try_parse_from(words(&line).iter().map(|word| filled(word))) else { continue };
            // In running text a command may be named without what it works on.
            let named = !whole
                && [
                    ErrorKind::MissingRequiredArgument,
                    ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand,
                    ErrorKind::MissingSubcommand,
                ]
                .contains(&error.kind());
            if !named {
                wrong.push(format!("{}: {line}: {error}", page.display()));
            }
        }
    }
    assert_eq!(wrong, [""; 0]);
    assert!(seen > 150, "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_query_runs_with_an_operators_rights() {
    let db = database().await;
    let query = Regex::new(r#"^psql "\$DATABASE_URL" (?:-[A-Za-z]+ )*-c "(.*)"\s*(?:#.*)?$"#).unwrap();
    let (mut seen, mut wrong) = (0, vec![]);
    let mut connection = db.pool.acquire().await.unwrap();
    sqlx::raw_sql("set role noshi_operator; set search_path = pg_catalog").execute(&mut *connection).await.unwrap();
    for (page, text) in pages() {
        for line in commands(&text).into_iter().filter(|line| line.starts_with("psql ")) {
            seen += 1;
            let sql = &query.captures(line).unwrap_or_else(|| panic!("{}: {line}", page.display()))[1];
            let ran = sqlx::raw_sql(AssertSqlSafe(filled(sql))).execute(&mut *connection).await;
            wrong.extend(ran.err().map(|error| format!("{}: {sql}: {error}", page.display())));
        }
    }
    assert_eq!(wrong, [""; 0]);
    assert!(seen > 60, "{seen}");
}
