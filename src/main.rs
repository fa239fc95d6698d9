//! argv → subcommand, nothing else.

use std::process::ExitCode;

use clap::Parser;

#[tokio::main]
async fn main() -> ExitCode {
    noshi::cli::end_quietly_without_a_reader();
    let cli = noshi::cli::Cli::parse();
    let ended = match noshi::cli::start_logging(&cli) {
        Ok(spans) => {
            let ended = noshi::cli::run(cli).await;
            spans.finish().await;
            ended
        }
        Err(error) => Err(error),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("noshi: {error:#}");
            ExitCode::FAILURE
        }
    }
}
