//! `noshi completions` and `noshi man`: made from the commands themselves.

use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, CommandFactory};

use super::Cli;
use crate::basics::terminal;

#[derive(Args)]
pub struct ManArgs {
    /// One page for each command, in this directory.
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    dir: Option<PathBuf>,
}

pub fn completions(shell: clap_complete::Shell) {
    // Into memory first: the generator panics where it cannot write.
    let mut script = vec![];
    clap_complete::generate(shell, &mut Cli::command(), "noshi", &mut script);
    terminal::print(&String::from_utf8_lossy(&script));
}

pub fn manual(args: ManArgs) -> anyhow::Result<()> {
    match args.dir {
        Some(dir) => {
            clap_mangen::generate_to(Cli::command(), &dir).with_context(|| format!("cannot write to {}", dir.display()))
        }
        None => {
            let mut page = vec![];
            clap_mangen::Man::new(Cli::command()).render(&mut page)?;
            terminal::print(&String::from_utf8_lossy(&page));
            Ok(())
        }
    }
}
