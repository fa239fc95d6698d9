//! What the demo leaves on paper: the ledger, the logs, the jobs and their journal.

use std::{
    fs::{self, File, OpenOptions},
    io::{BufRead, BufReader, BufWriter, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use anyhow::Context;

use crate::{
    db::{PgPool, operator::reconcile},
    lab::simulator::Line,
};

/// What may stand on no paper: all gift codes of the simulator hold the first, all addresses of the example the second.
const CANARIES: [&str; 2] = ["CNRY", "@example.jp"];

/// Writes the database's part down, beside the ledger and the logs.
pub async fn write(directory: &Path, pool: &PgPool) -> anyhow::Result<()> {
    let mut jobs = paper(directory, "jobs.jsonl")?;
    reconcile::export_jobs(pool, |row| writeln!(jobs, "{row}")).await?;
    jobs.flush()?;
    let mut journal = paper(directory, "journal.jsonl")?;
    reconcile::export_journal(pool, |row| writeln!(journal, "{row}")).await?;
    journal.flush()?;
    Ok(())
}

fn paper(directory: &Path, name: &str) -> anyhow::Result<BufWriter<File>> {
    let path = directory.join(name);
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
    Ok(BufWriter::new(file.with_context(|| format!("cannot write {}", path.display()))?))
}

pub fn ledger(path: &Path) -> anyhow::Result<Vec<Line>> {
    let lines = BufReader::new(File::open(path).context("cannot read the ledger")?).lines();
    lines.map(|line| serde_json::from_str(&line?).context("a line of the ledger cannot be read")).collect()
}

/// A sentence for every paper that holds what it must not.
pub fn leaks(directory: &Path) -> anyhow::Result<Vec<String>> {
    let mut leaks = vec![];
    for path in papers(directory)? {
        let text = fs::read(&path)?;
        for canary in CANARIES {
            if text.windows(canary.len()).any(|window| window == canary.as_bytes()) {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                leaks.push(format!("{name} holds {canary}, the mark of a gift code or an address"));
            }
        }
    }
    Ok(leaks)
}

/// Copies them: no keys, no sealed values, no grants with their names.
pub fn keep(directory: &Path, to: &Path) -> anyhow::Result<()> {
    for path in papers(directory)? {
        let copy = to.join(path.file_name().unwrap_or_default());
        fs::copy(&path, &copy).with_context(|| format!("cannot write {}", copy.display()))?;
    }
    Ok(())
}

fn papers(directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut papers = vec![];
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "log" || end == "jsonl") {
            papers.push(path);
        }
    }
    papers.sort();
    Ok(papers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_or_an_address_on_paper_is_found_and_keys_are_no_paper() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for (name, text) in [
            ("worker-1.log", "all is well"),
            ("journal.jsonl", "a CNRY-1"),
            ("jobs.jsonl", "taro@example.jp"),
            ("vault.key", "CNRY"),
        ] {
            fs::write(from.path().join(name), text).unwrap();
        }
        let expected = [
            "jobs.jsonl holds @example.jp, the mark of a gift code or an address",
            "journal.jsonl holds CNRY, the mark of a gift code or an address",
        ];
        assert_eq!(leaks(from.path()).unwrap(), expected);
        keep(from.path(), to.path()).unwrap();
        assert!(to.path().join("jobs.jsonl").exists() && !to.path().join("vault.key").exists());
    }
}
