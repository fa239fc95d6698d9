//! `noshi console`: the browser view.

use std::net::SocketAddr;

use clap::{Args, Subcommand};

use super::{Database, signals};
use crate::{console::server::Server, settings::Settings};

#[derive(Subcommand)]
pub enum ConsoleCommand {
    /// Serves it until it is told to stop. Its login is a member of noshi_api; whoever signs in acts by a token.
    Run(ConsoleRun),
}

#[derive(Args)]
pub struct ConsoleRun {
    #[command(flatten)]
    database: Database,
    /// Where to listen (console.listen). It speaks plain HTTP: put it behind a TLS-terminating proxy.
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// As browsers name it (console.origin): https, or a loopback host.
    #[arg(long, value_name = "ORIGIN")]
    origin: Option<String>,
}

pub async fn run(settings: Settings, command: ConsoleCommand) -> anyhow::Result<()> {
    match command {
        ConsoleCommand::Run(args) => {
            // Before the first request, so that the earliest signal is heard.
            let stop = signals::stop();
            let mut settings = settings;
            let console = &mut settings.console;
            console.listen = args.listen.unwrap_or(console.listen);
            console.origin = args.origin.unwrap_or_else(|| console.origin.clone());
            let server = Server::open(&settings, args.database.url()?).await?;
            tracing::info!(address = %server.address()?, origin = settings.console.origin, "the console listens");
            server.serve_until(stop).await;
            Ok(())
        }
    }
}
