//! `noshi api`: the HTTP server.

use std::{net::SocketAddr, sync::Arc};

use clap::{Args, Subcommand};

use super::{Database, signals};
use crate::{api::server::Server, basics::durations, settings::Settings};

#[derive(Subcommand)]
pub enum ApiCommand {
    /// Serves until it is told to stop: events of other systems where its login is a member of noshi_webhook, requests of producers
    /// and operators where it is one of noshi_api.
    Run(ApiRun),
}

#[derive(Args)]
pub struct ApiRun {
    #[command(flatten)]
    database: Database,
    /// Where to listen (api.listen). It speaks plain HTTP: put it behind a TLS-terminating proxy.
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// Milliseconds for which it says that it is not ready before it stops to listen (api.unready_ms).
    #[arg(long, value_name = "MILLISECONDS", value_parser = durations::parse_millis)]
    unready_ms: Option<u64>,
}

pub async fn run(
    read: impl Fn() -> anyhow::Result<Settings> + Send + Sync + 'static,
    command: ApiCommand,
) -> anyhow::Result<()> {
    match command {
        ApiCommand::Run(args) => {
            // Before the first request, so that the earliest signal is heard.
            let (stop, hang_ups) = (signals::stop(), signals::hang_ups());
            let mut settings = read()?;
            let api = &mut settings.api;
            api.listen = args.listen.unwrap_or(api.listen);
            api.unready_ms = args.unready_ms.unwrap_or(api.unready_ms);
            let url = args.database.url()?.to_owned();
            let api = Server::open(&settings, &url).await?;
            let (renew, read) = (api.renew(), Arc::new(read));
            signals::at_each(hang_ups, move || {
                let (renew, read, url) = (renew.clone(), Arc::clone(&read), url.clone());
                async move {
                    let again = async { renew.read_again(&read()?, &url).await };
                    signals::tell_read_again(&again.await);
                }
            });
            tracing::info!(address = %api.address()?, "the API listens");
            api.serve_until(stop).await
        }
    }
}
