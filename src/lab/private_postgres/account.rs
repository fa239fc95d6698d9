//! Whom the server runs as. PostgreSQL refuses root, and refuses a uid without a passwd entry.

use std::env;
use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::process::{Command, Output};

use anyhow::{Context, Result, bail};

#[derive(Debug, Clone)]
pub(super) struct Account {
    pub(super) name: String,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// We are root and must become this account; otherwise it is ourselves.
    pub(super) dropped: bool,
}

impl Account {
    /// Ourselves, or for root `postgres` where it exists (the packages make it), else `nobody`.
    pub(super) fn of_server() -> Result<Self> {
        let uid = ask_id(&["-u"])?.context("`id -u` did not answer")?;
        if uid != 0 {
            let gid = ask_id(&["-g"])?.context("`id -g` did not answer")?;
            if !id(&["-un"])?.status.success() {
                bail!(
                    "PostgreSQL refuses to run as a user without a name, and uid {uid} has no entry in /etc/passwd; \
                     add one, or run this as another user (as root it switches to `postgres` or `nobody`)"
                );
            }
            return Ok(Self { name: format!("uid {uid}"), uid, gid, dropped: false });
        }
        for name in ["postgres", "nobody"] {
            let (uid, gid) = (ask_id(&["-u", name])?, ask_id(&["-g", name])?);
            if let (Some(uid), Some(gid)) = (uid, gid)
                && uid != 0
            {
                return Ok(Self { name: name.to_owned(), uid, gid, dropped: true });
            }
        }
        bail!(
            "PostgreSQL does not run as root, and there is neither a user `postgres` nor `nobody` to run it as; \
             add one of them, or run this as an ordinary user"
        )
    }

    /// A command that runs as this account, with nothing of our environment but the search path: PG* variables,
    /// locales and preloaded libraries change what PostgreSQL does. The directory is one that every account can enter.
    pub(super) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("PATH", search_path()).env("LC_ALL", "C").env("TZ", "UTC").current_dir("/");
        if self.dropped {
            // Where root sets a uid, std also clears the supplementary groups.
            command.uid(self.uid).gid(self.gid);
        }
        command
    }
}

/// `None` where `id` knows no such account.
fn ask_id(arguments: &[&str]) -> Result<Option<u32>> {
    let answer = id(arguments)?;
    Ok(String::from_utf8_lossy(&answer.stdout).trim().parse().ok())
}

/// The standard library has no call for any of this.
fn id(arguments: &[&str]) -> Result<Output> {
    Command::new("id")
        .args(arguments)
        .env("PATH", search_path())
        .output()
        .context("cannot run `id`, which says whom to run PostgreSQL as")
}

fn search_path() -> OsString {
    let mut path = env::var_os("PATH").unwrap_or_default();
    if !path.is_empty() {
        path.push(":");
    }
    path.push("/usr/bin:/bin");
    path
}
