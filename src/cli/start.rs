//! From the start of a process to its exit status.

use std::process::ExitCode;

use tokio::runtime::Runtime;

use super::{command, failure, out::Out};
use crate::{app::App, vault};

impl App {
    /// Reads the command line and does what it says: a worker, the API, or any other command. Nothing is to come before it in `main`.
    pub fn run(self) -> ExitCode {
        vault::keep_out_of_dumps();
        let runtime = Runtime::new();
        let begun = self.begin().and_then(|begun| Ok((begun, runtime?)));
        let (app, runtime) = match begun {
            Ok(begun) => begun,
            Err(error) => {
                failure::tell(&error, Out::Table, 1);
                return ExitCode::from(1);
            }
        };
        let cli = match command::parse() {
            Ok(cli) => cli,
            Err(status) => return ExitCode::from(status),
        };
        runtime.block_on(async move {
            // First of all: whatever comes after may be broken off at any time.
            command::listen(&cli);
            let out = cli.output();
            let ended = match command::start_logging(&cli) {
                Ok(spans) => {
                    let ended = command::run(app, cli).await;
                    spans.finish().await;
                    ended
                }
                Err(error) => Err(error),
            };
            ExitCode::from(command::status(ended, out))
        })
    }
}
