//! argv → subcommand, nothing else.

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    noshi::vault::keep_out_of_dumps();
    let cli = match noshi::cli::parse() {
        Ok(cli) => cli,
        Err(status) => return ExitCode::from(status),
    };
    // First of all: whatever comes after may be broken off at any time.
    noshi::cli::listen(&cli);
    let out = cli.output();
    let ended = match noshi::cli::start_logging(&cli) {
        Ok(spans) => {
            let ended = noshi::cli::run(cli).await;
            spans.finish().await;
            ended
        }
        Err(error) => Err(error),
    };
    ExitCode::from(noshi::cli::status(ended, out))
}
