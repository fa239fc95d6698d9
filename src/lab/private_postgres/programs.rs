//! Where `initdb`, `pg_ctl` and `postgres` are on this machine, and what to do where they are not.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use super::{account::Account, install};

/// `create database … strategy` came with 15.
const OLDEST: u32 = 15;
const PROGRAMS: [&str; 3] = ["initdb", "pg_ctl", "postgres"];

/// Folders with one version beside the other, as (folder, what comes before the number). The programs are in `bin`.
const VERSIONED: [(&str, &str); 6] = [
    ("/usr/lib/postgresql", ""), // Debian, Ubuntu
    ("/usr", "pgsql-"),          // the PostgreSQL project's RPMs
    ("/opt/homebrew/opt", "postgresql@"),
    ("/usr/local/opt", "postgresql@"),
    ("/home/linuxbrew/.linuxbrew/opt", "postgresql@"),
    ("/Applications/Postgres.app/Contents/Versions", ""),
];

/// The folder of the programs and the account to run them as. Installs them where we may: see [`install`].
pub(super) fn find_or_install() -> Result<(PathBuf, Account)> {
    let account = Account::of_server()?;
    if let Some(chosen) = env::var_os("PG_BIN_DIR").filter(|it| !it.is_empty()) {
        let chosen = PathBuf::from(chosen);
        return match usable(&chosen, &account) {
            Ok(()) => Ok((chosen, account)),
            Err(why) => bail!(
                "PG_BIN_DIR={} cannot be used: {why}; point it at the folder with initdb, pg_ctl and postgres, or unset it",
                chosen.display()
            ),
        };
    }
    let rejected = match search(&account) {
        Ok(found) => return Ok((found, account)),
        Err(rejected) => rejected,
    };
    if !install::is_possible(&account) {
        bail!("{}", missing(&rejected));
    }
    // Tests start side by side, and apt-get does not.
    let _turn = install::turn()?;
    if let Ok(found) = search(&account) {
        return Ok((found, Account::of_server()?));
    }
    install::run()?;
    // The package brings the account `postgres`.
    let account = Account::of_server()?;
    match search(&account) {
        Ok(found) => Ok((found, account)),
        Err(rejected) => bail!("{}", missing(&rejected)),
    }
}

/// The first folder that can be used, or why each folder that has a server cannot.
fn search(account: &Account) -> Result<PathBuf, Vec<String>> {
    let mut rejected = Vec::new();
    for folder in candidates() {
        if !folder.join("postgres").is_file() {
            continue;
        }
        match usable(&folder, account) {
            Ok(()) => return Ok(folder),
            Err(why) => rejected.push(format!("{}: {why}", folder.display())),
        }
    }
    Err(rejected)
}

fn candidates() -> Vec<PathBuf> {
    let mut folders = Vec::new();
    for (parent, prefix) in VERSIONED {
        folders.extend(newest_first(Path::new(parent), prefix));
    }
    let path = env::var_os("PATH").unwrap_or_default();
    // An empty entry of PATH means the current directory, where nobody keeps a server.
    folders.extend(env::split_paths(&path).filter(|folder| folder.is_absolute()));
    folders
}

fn newest_first(parent: &Path, prefix: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(parent) else {
        return Vec::new();
    };
    let mut found: Vec<(u32, PathBuf)> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name();
            let version = leading_number(name.to_str()?.strip_prefix(prefix)?)?;
            Some((version, entry.path().join("bin")))
        })
        .collect();
    found.sort_by(|one, other| other.cmp(one));
    found.into_iter().map(|(_, folder)| folder).collect()
}

/// Asked as the account that will run them: a folder below `/root` is no use to anybody else.
fn usable(folder: &Path, account: &Account) -> Result<(), String> {
    if let Some(absent) = PROGRAMS.iter().find(|it| !folder.join(it).is_file()) {
        return Err(format!("there is no {absent}"));
    }
    let answer = account.command(folder.join("postgres")).arg("--version").output();
    let answer = answer.map_err(|e| format!("{} cannot run postgres there: {e}", account.name))?;
    let words = String::from_utf8_lossy(&answer.stdout);
    match major(&words) {
        Some(version) if version >= OLDEST => Ok(()),
        Some(version) => Err(format!("it is PostgreSQL {version}, and {OLDEST} is needed")),
        None => {
            Err(format!("`postgres --version` gave no version ({})", String::from_utf8_lossy(&answer.stderr).trim()))
        }
    }
}

/// Of `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`.
fn major(words: &str) -> Option<u32> {
    leading_number(words.split_once("(PostgreSQL) ")?.1)
}

fn leading_number(text: &str) -> Option<u32> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text[..end].parse().ok()
}

fn missing(rejected: &[String]) -> String {
    let found =
        if rejected.is_empty() { String::new() } else { format!(" (found, but not usable: {})", rejected.join("; ")) };
    format!(
        "this starts a PostgreSQL server of its own and needs the server programs, version {OLDEST} or newer{found}. {}, \
         or set PG_BIN_DIR to the folder with initdb, pg_ctl and postgres",
        install::advice()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_versions() {
        assert_eq!(major("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"), Some(15));
        assert_eq!(major("postgres (PostgreSQL) 19beta1"), Some(19));
        assert_eq!(major("bash: postgres: not found"), None);
    }

    #[test]
    fn prefers_the_newest_by_number() {
        let parent = tempfile::tempdir().unwrap();
        for name in ["postgresql@9.6", "postgresql@15", "postgresql@17", "redis"] {
            fs::create_dir(parent.path().join(name)).unwrap();
        }
        let names: Vec<_> = newest_first(parent.path(), "postgresql@")
            .into_iter()
            .map(|it| it.strip_prefix(parent.path()).unwrap().to_owned())
            .collect();
        let expected = ["postgresql@17/bin", "postgresql@15/bin", "postgresql@9.6/bin"];
        assert_eq!(names, expected.map(PathBuf::from));
    }

    #[test]
    fn says_what_a_folder_lacks() {
        let folder = tempfile::tempdir().unwrap();
        let account = Account::of_server().unwrap();
        assert_eq!(usable(folder.path(), &account), Err("there is no initdb".to_owned()));
    }
}
