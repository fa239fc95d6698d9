//! argv → subcommand, nothing else.

use std::process::ExitCode;

use clap::Parser;

#[tokio::main]
async fn main() -> ExitCode {
    noshi::cli::start_logging();
    match noshi::cli::run(noshi::cli::Cli::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("noshi: {error:#}");
            ExitCode::FAILURE
        }
    }
}
