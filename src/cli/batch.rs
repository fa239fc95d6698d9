//! `noshi batch`: many grants at once, from a file.

use std::{fs::File, io::BufReader, path::PathBuf};

use anyhow::{Context, bail};
use clap::{Args, Subcommand};

use super::Database;
use crate::{
    intake,
    settings::Settings,
    store::{self, Role},
};

#[derive(Subcommand)]
pub enum BatchCommand {
    /// Checks a whole CSV file of grants, then enqueues all of it or nothing; the same file again is harmless.
    Submit(BatchSubmit),
}

#[derive(Args)]
pub struct BatchSubmit {
    /// UTF-8, with the columns grant_id,user_id,name,email,category,provider,amount,currency,valid_days.
    file: PathBuf,
    /// Before all bulk work: people are waiting.
    #[arg(long)]
    interactive: bool,
    /// Check the file and compare it with what is recorded; write nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    database: Database,
}

pub async fn run(settings: &Settings, command: BatchCommand) -> anyhow::Result<()> {
    match command {
        BatchCommand::Submit(args) => submit(settings, args).await,
    }
}

async fn submit(settings: &Settings, args: BatchSubmit) -> anyhow::Result<()> {
    let gifts = settings.gifts()?;
    if gifts.names().next().is_none() {
        bail!("the configuration names no gift provider, so nothing can be offered; name it with --config FILE");
    }
    let url = args.database.url()?;
    let name = args.file.display().to_string();
    let input = File::open(&args.file).with_context(|| format!("cannot open {name}"))?;
    let grants = intake::read(&name, BufReader::new(input), &gifts)?;
    let pool = store::connect(url, Role::Operator, 1).await?;
    let (counts, done) = if args.dry_run {
        (intake::dry_run(&pool, &name, &grants).await?, "would be new")
    } else {
        (intake::submit(&pool, &*settings.vault()?, &name, &grants, args.interactive).await?, "new")
    };
    println!("{name}: {} grants, {} {done}, {} already there", counts.rows, counts.new, counts.already_there);
    Ok(())
}
