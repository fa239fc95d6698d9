//! The demo's worker processes: started, killed, started again.

use std::{
    fs::OpenOptions,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, ChildStdin, Command};

use super::stage::Stage;
use crate::settings::environment;

/// A worker silent for this long is declared dead, and its jobs are taken over.
pub const LEASE: Duration = Duration::from_secs(3);
const POLL: Duration = Duration::from_secs(1);
const SLOTS: usize = 64;
/// How long a worker may take to stop in order.
const GRACE: Duration = Duration::from_secs(10);

pub struct Fleet {
    program: PathBuf,
    directory: PathBuf,
    config: PathBuf,
    url: String,
    /// Credentials of the simulated mail service, where AWS users keep them.
    aws: [(&'static str, String); 3],
    members: Vec<Member>,
}

struct Member {
    /// From 1, for people.
    number: usize,
    child: Child,
    /// It closes when we end, however we end, and the worker with it.
    _leash: Option<ChildStdin>,
}

impl Fleet {
    pub fn start(stage: &Stage, workers: usize) -> anyhow::Result<Fleet> {
        let mut fleet = Fleet {
            program: std::env::current_exe().context("cannot find this program's own file")?,
            directory: stage.directory.clone(),
            config: stage.config.clone(),
            url: stage.url.clone(),
            aws: stage.aws.clone(),
            members: vec![],
        };
        for number in 1..=workers {
            let member = fleet.member(number)?;
            fleet.members.push(member);
        }
        Ok(fleet)
    }

    fn member(&self, number: usize) -> anyhow::Result<Member> {
        let log = self.directory.join(format!("worker-{number}.log"));
        let log = OpenOptions::new().create(true).append(true).open(&log).with_context(|| log.display().to_string())?;
        let mut child = Command::new(&self.program);
        // The demo is of its own settings alone.
        for (name, _) in environment::variables().filter(|(name, text)| environment::is_setting(name, text)) {
            child.env_remove(name);
        }
        let mut child = child
            .args(["worker", "run", "--exit-with-parent", "--name", &format!("demo-{number}")])
            .args(["--slots", &SLOTS.to_string()])
            .args(["--lease-ms", &LEASE.as_millis().to_string()])
            .args(["--poll-ms", &POLL.as_millis().to_string()])
            .env("DATABASE_URL", &self.url)
            .env("NOSHI_CONFIG", &self.config)
            .env("NOSHI_VAULT_KEY_FILE", self.directory.join("vault.key"))
            .envs(self.aws.iter().map(|(name, value)| (*name, value.as_str())))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            // Ctrl-C is for the demo, which then ends its workers.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        let _leash = child.stdin.take();
        Ok(Member { number, child, _leash })
    }

    /// SIGKILL, and a new process in its place.
    pub async fn kill(&mut self, number: usize) -> anyhow::Result<()> {
        let at = number - 1;
        self.members[at].child.kill().await.context("cannot kill a worker")?;
        self.members[at] = self.member(number)?;
        Ok(())
    }

    /// Starts those again that ended without being told to, and says which.
    pub fn look_after(&mut self) -> anyhow::Result<Vec<(usize, ExitStatus)>> {
        let mut ended = vec![];
        for at in 0..self.members.len() {
            if let Some(status) = self.members[at].child.try_wait()? {
                let number = self.members[at].number;
                ended.push((number, status));
                self.members[at] = self.member(number)?;
            }
        }
        Ok(ended)
    }

    /// SIGTERM: they hand back what they hold. Returns the numbers of those that did not end well in time.
    pub async fn stop(&mut self) -> Vec<usize> {
        let pid = |member: &Member| member.child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        for member in &self.members {
            if let Some(pid) = pid(member) {
                // An error means that it is gone, which `wait` finds.
                let _ = kill_process(pid, Signal::TERM);
            }
        }
        let mut bad = vec![];
        for member in &mut self.members {
            let ended = tokio::time::timeout(GRACE, member.child.wait()).await;
            if !ended.is_ok_and(|status| status.is_ok_and(|status| status.success())) {
                bad.push(member.number);
            }
        }
        bad
    }
}
