//! `noshi simulate`: the simulator as a process of its own.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use super::{Config, Partner, Provider, Simulator};
use crate::basics::{durations, terminal::say};

/// Run the simulated gift providers, organisation platform and SES until SIGINT or SIGTERM.
#[derive(clap::Args, Clone, Debug)]
pub struct SimulateArgs {
    /// Where to listen; port 0 takes a free one, which is printed
    #[arg(long, default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,
    /// File of what really happened; continued if it exists
    #[arg(long, value_name = "FILE")]
    pub ledger: PathBuf,
    /// Decides the faults and the codes
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Let about 12 % of issues and 8 % of inquiries meet a fault
    #[arg(long)]
    pub faults: bool,
    /// Calls per second that a provider takes; `none` for any number
    #[arg(long, value_name = "PROVIDER=N", value_parser = limit, num_args = 1..)]
    pub limit: Vec<(Partner, Option<u32>)>,
    /// The longest that an effect lands late, and that an inquiry stays blind
    #[arg(long, default_value = "2s", value_name = "AGE", value_parser = durations::parse)]
    pub settle: Duration,
    /// The longest that a call hangs
    #[arg(long, default_value = "30s", value_name = "AGE", value_parser = durations::parse)]
    pub hang: Duration,
    /// Yen on each account when the ledger is new
    #[arg(long, default_value_t = 1_000_000_000)]
    pub balance: i64,
    /// Where SES publishes what became of a message, as SNS notifications
    #[arg(long, value_name = "URL")]
    pub ses_events: Option<String>,
    /// Where the organisation platform publishes changes
    #[arg(long, value_name = "URL")]
    pub organization_events: Option<String>,
}

impl SimulateArgs {
    fn config(self) -> Config {
        let mut config = Config::new(self.ledger);
        config.listen = self.listen;
        config.seed = self.seed;
        config.faults = self.faults;
        config.settle = self.settle;
        config.hang = self.hang;
        for (partner, limit) in self.limit {
            *config.limit_mut(partner) = limit;
        }
        config.ses.events_url = self.ses_events;
        config.organization_platform.events_url = self.organization_events;
        for provider in Provider::ALL {
            *config.balance.of_mut(provider) = self.balance;
        }
        config
    }
}

/// Prints one line for each provider, `NAME URL`, once they answer.
pub async fn run(args: SimulateArgs) -> anyhow::Result<()> {
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut terminated = signal(SignalKind::terminate())?;
    let simulator = Simulator::start(args.config()).await?;
    say!("listening on http://{}", simulator.addr());
    for partner in Partner::ALL {
        say!("{} {}", partner.name(), simulator.base_url(partner));
    }
    say!("credentials {}", simulator.credentials());
    tokio::select! {
        _ = interrupted.recv() => simulator.stop().await,
        _ = terminated.recv() => simulator.stop().await,
        error = simulator.broken() => Err(error),
    }
}

fn limit(text: &str) -> Result<(Partner, Option<u32>), String> {
    let (name, limit) = text.split_once('=').ok_or("write PROVIDER=N, for example tango_card=1")?;
    let partner = Partner::try_from(name.to_owned())?;
    if limit == "none" {
        return Ok((partner, None));
    }
    match limit.parse() {
        Ok(limit) if limit > 0 => Ok((partner, Some(limit))),
        Ok(_) | Err(_) => Err(format!("{limit} is not a number of calls of at least 1")),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: SimulateArgs,
    }

    #[test]
    fn the_documented_command_line_is_understood() {
        let line = "noshi --ledger f --seed 7 --faults --limit amazon_incentives=20 tango_card=none --settle 500ms";
        let config = Cli::parse_from(line.split(' ')).args.config();
        assert_eq!((config.seed, config.faults), (7, true));
        assert_eq!(config.limits.amazon_incentives, Some(20));
        assert_eq!(config.limits.gift_on_demand, Some(10));
        assert_eq!(config.limits.tango_card, None);
        assert_eq!(config.settle, Duration::from_millis(500));
    }

    #[test]
    fn nonsense_is_refused() {
        for wrong in ["amazon=3", "tango_card=0", "tango_card=-1", "tango_card"] {
            assert!(limit(wrong).is_err(), "{wrong}");
        }
        for wrong in ["", "2", "2x", "-2s", "s"] {
            assert!(durations::parse(wrong).is_err(), "{wrong}");
        }
    }
}
