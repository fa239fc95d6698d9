//! Which database a command means.

use anyhow::Context;
use clap::{Args, ValueHint};

use crate::cli::given;

/// Options that every command takes stand by themselves in its help.
pub(super) const EVERYWHERE: &str = "Options of every command";

#[derive(Args)]
pub struct Database {
    /// The database, as a URL.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, value_name = "URL", value_hint = ValueHint::Url, help_heading = EVERYWHERE)]
    database_url: Option<String>,
}

impl Database {
    pub fn url(&self) -> anyhow::Result<&str> {
        // As compose files and manifests pass on what they were not given.
        self.database_url
            .as_deref()
            .filter(|url| !given::is_blank(url))
            .context("no database is named; set DATABASE_URL, such as postgres://noshi@localhost/noshi")
    }
}
