//! `noshi dev`: a worker on a private server, to look at jobs of one's own.

use std::{env, process::Stdio};

use anyhow::{Context, ensure};
use clap::Args;
use tokio::process::Command;

use super::{
    private_postgres::{PrivatePostgres, Settings},
    testkit::terminate,
};
use crate::basics::terminal;

/// Runs a worker on a private PostgreSQL until it is stopped, to look at jobs of your own; what is in it goes with it.
#[derive(Args)]
pub struct DevArgs {}

pub async fn run(_: DevArgs, stopped: impl Future<Output = ()>) -> anyhow::Result<()> {
    let program = env::current_exe().context("this program does not find itself")?;
    let server = PrivatePostgres::start(Settings { durable: false, ..Settings::default() }).await?;
    server.create_database("dev").await?;
    let url = server.url("dev");
    let command = |words: &[&str]| {
        let mut command = Command::new(&program);
        command.args(words).env("DATABASE_URL", &url).stdin(Stdio::null()).kill_on_drop(true);
        command
    };
    let migrated = command(&["migrate", "up"]).stdout(Stdio::null()).status().await?;
    ensure!(migrated.success(), "the schema could not be made; what stands above says why");
    // The group of a terminal gets its signals too: a worker ends in order, and is waited for.
    let mut worker = command(&["worker", "run"]).spawn()?;
    terminal::say!(
        "Where jobs are asked for and looked at:\n\n    export DATABASE_URL='{url}'\n\nCtrl-C ends it, and nothing of it stays.\n"
    );
    let ended = tokio::select! {
        ended = worker.wait() => Some(ended?),
        () = stopped => None,
    };
    if ended.is_none() {
        terminate(&worker)?;
        worker.wait().await?;
    }
    server.stop().await?;
    ensure!(ended.is_none(), "the worker ended by itself; what stands above says why");
    Ok(())
}
