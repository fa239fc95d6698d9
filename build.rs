//! The commit that this is built from, for `noshi --version`. A build without git, or from an archive, has none; a packager may name it in
//! `BUILD_COMMIT`.

use std::{env, process::Command};

fn main() {
    println!("cargo::rerun-if-env-changed=BUILD_COMMIT");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=migrations");
    // Of a debug build the commit may be an earlier one: it is not worth a build after each commit.
    if env::var("PROFILE").is_ok_and(|profile| profile == "release") {
        for file in ["HEAD", "logs/HEAD"] {
            if let Some(path) = git(&["rev-parse", "--git-path", file]) {
                println!("cargo::rerun-if-changed={path}");
            }
        }
    }
    let named = env::var("BUILD_COMMIT").ok().filter(|commit| !commit.trim().is_empty());
    let commit = named.or_else(ours).unwrap_or_else(|| "commit not known".to_owned());
    println!("cargo::rustc-env=BUILT_FROM_COMMIT={}", commit.trim());
}

/// Only of a repository that is this package's own: it may lie in somebody else's.
fn ours() -> Option<String> {
    let root = git(&["rev-parse", "--show-toplevel"])?;
    let here = env::var("CARGO_MANIFEST_DIR").ok()?;
    let same = std::fs::canonicalize(root).ok()? == std::fs::canonicalize(here).ok()?;
    let commit = git(&["rev-parse", "--short=12", "HEAD"]).filter(|_| same)?;
    let changed = git(&["status", "--porcelain", "--untracked-files=no"]).is_none_or(|changes| !changes.is_empty());
    Some(if changed { format!("{commit}, changed") } else { commit })
}

fn git(arguments: &[&str]) -> Option<String> {
    let said = Command::new("git").args(arguments).output().ok().filter(|said| said.status.success())?;
    String::from_utf8(said.stdout).ok().map(|text| text.trim().to_owned())
}
