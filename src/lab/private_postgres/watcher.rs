//! The process that runs the server on our behalf and outlives us by the moment that it takes to clean up.
//!
//! It reads orders from a pipe whose only write end is ours. The standard library opens it close-on-exec, so no other
//! child of ours keeps it open. One process that does everything in turn leaves no race between a server that is
//! being started and an owner that is being killed.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;

use anyhow::{Context, Result, bail};

use super::account::Account;

const SCRIPT: &str = include_str!("watch.sh");

#[derive(Debug, Clone, Copy)]
pub(super) enum Order {
    /// initdb, and our settings.
    Initialize,
    /// Answered when the server accepts connections.
    Start,
    /// Stop at once, without a checkpoint: the next start recovers from the log.
    Crash,
    /// Stop with a checkpoint.
    Stop,
}

impl Order {
    fn word(self) -> &'static str {
        match self {
            Self::Initialize => "initialize",
            Self::Start => "start",
            Self::Crash => "crash",
            Self::Stop => "stop",
        }
    }
}

pub(super) struct Watcher {
    directory: PathBuf,
    /// `None` once it has been told to end.
    process: Option<(Child, ChildStdin)>,
    answers: BufReader<ChildStdout>,
}

impl Watcher {
    pub(super) fn start(
        account: &Account,
        programs: &Path,
        directory: &Path,
        lock: &File,
        environment: &[(String, String)],
    ) -> Result<Self> {
        let mut child = command(account, programs, directory, lock)?
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run /bin/sh as {}", account.name))?;
        let (Some(orders), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("/bin/sh was started without its pipes");
        };
        Ok(Self { directory: directory.to_owned(), process: Some((child, orders)), answers: BufReader::new(answers) })
    }

    /// Blocks until it is done. `Ok(false)`: tried and failed, [`Self::said`] has the details.
    pub(super) fn order(&mut self, order: Order) -> Result<bool> {
        let gone = "the process that watches the private PostgreSQL server is gone";
        let (_, orders) = self.process.as_mut().context(gone)?;
        writeln!(orders, "{}", order.word()).context(gone)?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer).context(gone)?;
        match answer.trim() {
            "" => bail!(gone),
            status => Ok(status == "0"),
        }
    }

    /// The end of what initdb and pg_ctl have printed. It never holds what the server was asked.
    pub(super) fn said(&self) -> String {
        tail(&self.directory.join("setup.log"))
    }

    /// Blocks until server and directory are gone.
    pub(super) fn end(&mut self) -> Result<()> {
        let Some((mut child, orders)) = self.process.take() else {
            return Ok(());
        };
        drop(orders);
        let status = child.wait().context("cannot wait for the watcher")?;
        if !status.success() {
            bail!(
                "the private PostgreSQL server's directory {} could not be removed; delete it when nothing runs in it",
                self.directory.display()
            );
        }
        Ok(())
    }
}

impl Drop for Watcher {
    /// Does not block: it is dropped inside async code. The thread only collects the exit status; where it cannot
    /// be had, or this process ends first, the watcher does its work all the same.
    fn drop(&mut self) {
        if let Some((mut child, orders)) = self.process.take() {
            drop(orders);
            let _ = thread::Builder::new().spawn(move || child.wait());
        }
    }
}

/// Ends what is left in a directory whose owner and watcher are gone, and removes it.
///
/// `serving`: a server answers in it. Where none does, its postmaster.pid must not be believed.
pub(super) fn clear_away(
    account: &Account,
    programs: &Path,
    directory: &Path,
    lock: &File,
    serving: bool,
) -> Result<()> {
    command(account, programs, directory, lock)?
        .arg(if serving { "serving" } else { "dead" })
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .with_context(|| format!("cannot run /bin/sh as {}", account.name))?;
    Ok(())
}

fn command(account: &Account, programs: &Path, directory: &Path, lock: &File) -> Result<Command> {
    let mut command = account.command("/bin/sh");
    command
        .args(["-c", SCRIPT, "noshi-private-postgres"])
        .arg(programs)
        .arg(directory)
        // Not in the terminal's group: Ctrl-C is for us, and the end of us is for it.
        .process_group(0)
        .stderr(lock.try_clone().context("cannot share a lock")?);
    Ok(command)
}

pub(super) fn tail(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().filter(|it| !it.is_empty()).collect();
    lines[lines.len().saturating_sub(8)..].join("\n")
}
