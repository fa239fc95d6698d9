//! `noshi api`: the HTTP room.

use std::net::SocketAddr;

use clap::{Args, Subcommand};

use super::{Database, stop_signal};
use crate::{door::Door, settings::Settings};

#[derive(Subcommand)]
pub enum ApiCommand {
    /// Serves until it is told to stop: events of other systems where its login is a member of noshi_door, requests of producers
    /// and operators where it is one of noshi_api.
    Run(ApiRun),
}

#[derive(Args)]
pub struct ApiRun {
    #[command(flatten)]
    database: Database,
    /// Where to listen. It speaks plain HTTP: put it behind what ends TLS for you.
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDRESS")]
    listen: SocketAddr,
}

pub async fn run(settings: &Settings, command: ApiCommand) -> anyhow::Result<()> {
    match command {
        ApiCommand::Run(args) => {
            // Before the first request, so that the earliest signal is heard.
            let stop = stop_signal();
            let door = Door::open(settings, args.database.url()?, args.listen).await?;
            tracing::info!(address = %door.address()?, "the door is open");
            door.serve_until(stop).await
        }
    }
}
