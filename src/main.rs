//! argv → subcommand, nothing else.

use std::process::ExitCode;

use clap::Parser;

#[tokio::main]
async fn main() -> ExitCode {
    noshi::cli::end_quietly_without_a_reader();
    let cli = noshi::cli::Cli::parse();
    noshi::cli::start_logging(&cli);
    match noshi::cli::run(cli).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("noshi: {error:#}");
            ExitCode::FAILURE
        }
    }
}
