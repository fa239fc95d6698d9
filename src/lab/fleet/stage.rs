//! What the demo runs on: a directory of its own with keys and configuration, a migrated database, the simulated providers.
//!
//! Everything lies in the private server's directory, which that server's watcher removes however this process ends.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::Write,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, chown},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use secrecy::ExposeSecret;

use tokio::{net::TcpListener, task::JoinHandle};

use crate::{
    api::server::Server,
    console,
    db::{self, domain::batches::Cap},
    lab::{
        private_postgres::PrivatePostgres,
        simulator::{Config, Partner, PerProvider, Provider, SNS_TEST_CERTIFICATE, Simulator},
    },
    settings::Settings,
    vault::{self, Vault},
};

/// Calls per second that each simulated provider takes: scaled up, as everything that takes days is scaled down.
pub const LIMITS: PerProvider<u32> = PerProvider { amazon_incentives: 40, gift_on_demand: 40, tango_card: 30 };
/// The same of the organisation platform, and of the mail service.
pub const SHOP_LIMIT: u32 = 40;
pub const MAIL_LIMIT: u32 = 60;
/// Two calls may travel this differently long: everything shares the machine here.
pub const JITTER: Duration = Duration::from_millis(250);
/// The longest that an unanswered call may still land.
pub const SETTLE: Duration = Duration::from_secs(2);
/// How long a provider surely remembers a trade id.
pub const HORIZON: Duration = Duration::from_secs(120);
/// Between two questions about an accepted gift.
pub const POLL: Duration = Duration::from_secs(1);
pub const CALL_TIMEOUT: Duration = Duration::from_secs(2);

/// For a whole example file, and for one user.
const MAX_YEN: i64 = 1_000_000_000;
const DATABASE: &str = "noshi";
pub const SUBMITTER: &str = "demo_sato";
pub const APPROVER: &str = "demo_suzuki";

/// How the providers behave.
pub struct Manners {
    pub seed: u64,
    pub faults: bool,
    pub limits: PerProvider<u32>,
    pub jitter: Duration,
    /// How late an effect may land, and how far an inquiry lag behind.
    pub lag: Duration,
}

pub struct Stage {
    pub simulator: Simulator,
    pub directory: PathBuf,
    pub config: PathBuf,
    /// Where the partners' events arrive.
    api: Option<TcpListener>,
    pub ledger: PathBuf,
    /// Credentials of the mail service, for the workers' environment.
    pub aws: [(&'static str, String); 3],
    /// For `DATABASE_URL`.
    pub url: String,
    /// The same for the two people of the demo: whoever submits a file may not approve it.
    pub submitter: String,
    pub approver: String,
}

impl Stage {
    pub async fn set(postgres: &PrivatePostgres, manners: &Manners) -> anyhow::Result<Stage> {
        let url = postgres.url(DATABASE);
        postgres.create_database(DATABASE).await?;
        db::migrate(&url).await?;
        // The example holds amounts that a provider refuses, and a user may meet several of them.
        let owner = db::connect(&url, db::Role::Login, 1).await?;
        let cap = Cap {
            kind: "grants".to_owned(),
            currency: "JPY".to_owned(),
            max_rows: Some(100_000),
            max_total: Some(MAX_YEN),
            max_per_user: Some(MAX_YEN),
            max_per_day: Some(MAX_YEN),
            approve_from_rows: Some(1),
            approve_from_total: None,
        };
        db::domain::batches::set_cap(&owner, &cap).await?;
        for person in [SUBMITTER, APPROVER] {
            postgres.create_login(person, "noshi_operator").await?;
        }
        let directory = private_directory(postgres.directory())?;
        let ledger = directory.join("ledger.jsonl");
        let mut config = Config::new(&ledger);
        config.seed = manners.seed;
        config.faults = manners.faults;
        config.settle = manners.lag;
        // The client gives up earlier.
        config.hang = CALL_TIMEOUT * 5;
        for provider in Provider::ALL {
            *config.limits.of_mut(provider) = Some(*manners.limits.of(provider));
        }
        // The partners have to know where their events go, and the API's configuration who they are.
        let api = TcpListener::bind(("127.0.0.1", 0)).await.context("cannot listen for events")?;
        let events = format!("http://{}/v1/events", api.local_addr()?);
        config.ses.limit = Some(MAIL_LIMIT);
        config.ses.events_url = Some(format!("{events}/ses"));
        config.organization_platform.events_url = Some(format!("{events}/organization"));
        config.organization_platform.limit = Some(SHOP_LIMIT);
        let partners = config.clone();
        let aws = [
            ("AWS_ACCESS_KEY_ID", config.ses.key_id.clone()),
            ("AWS_SECRET_ACCESS_KEY", config.ses.secret.clone()),
            ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
        ];
        let simulator = Simulator::start(config).await?;
        let config = configure(&directory, &simulator, &partners, manners)?;
        let [submitter, approver] = [SUBMITTER, APPROVER].map(|person| postgres.url_as(person, DATABASE));
        Ok(Stage { simulator, directory, config, api: Some(api), ledger, aws, url, submitter, approver })
    }
}

impl Stage {
    /// The API that the partners' events come through, in this process.
    pub async fn start_api(&mut self) -> anyhow::Result<JoinHandle<anyhow::Result<()>>> {
        let listener = self.api.take().context("the API listens already")?;
        let api = Server::on(&Settings::read(Some(&self.config))?, &self.url, listener).await?;
        Ok(tokio::spawn(api.serve_until(std::future::pending())))
    }

    /// The console, in this process and for as long as it lives; its address.
    pub async fn start_console(&self) -> anyhow::Result<String> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.context("cannot listen for the console")?;
        let mut settings = Settings::read(Some(&self.config))?;
        settings.console.origin = format!("http://{}", listener.local_addr()?);
        let console = console::server::Server::on(&settings, &self.url, listener).await?;
        tokio::spawn(console.serve_until(std::future::pending()));
        Ok(settings.console.origin)
    }
}

/// Ours to write, and the server's user's to remove.
fn private_directory(server: &Path) -> anyhow::Result<PathBuf> {
    let path = server.join("demo");
    let owner = fs::metadata(server)?;
    DirBuilder::new()
        .mode(0o700)
        .create(&path)
        .and_then(|()| chown(&path, Some(owner.uid()), Some(owner.gid())))
        .with_context(|| format!("cannot make the directory {}", path.display()))?;
    Ok(path)
}

/// Writes a file that only we can read.
fn write(directory: &Path, name: &str, text: &str) -> anyhow::Result<PathBuf> {
    let path = directory.join(name);
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// Key files, and the configuration that names them.
fn configure(directory: &Path, simulator: &Simulator, partners: &Config, manners: &Manners) -> anyhow::Result<PathBuf> {
    let Config { credentials, ses, organization_platform, .. } = partners;
    write(directory, "sns.pem", SNS_TEST_CERTIFICATE)?;
    write(directory, "organization.token", &organization_platform.token)?;
    write(directory, "organization-events.secret", &organization_platform.events_secret)?;
    let key = write(directory, "vault.key", vault::generate_key_line().expose_secret())?;
    write(directory, "vault.pub", &Vault::open(&key)?.public_line())?;
    write(directory, "amazon.secret", &credentials.amazon_secret)?;
    write(directory, "gift_on_demand.key", &credentials.gift_on_demand_key)?;
    write(directory, "tango.key", &credentials.tango_key)?;
    let account = |provider: Provider| {
        format!(
            "base_url = '{}'\ncalls_per_second = {}\njitter_ms = {}\ntimeout_ms = {}\nsettle_seconds = {}\nhorizon_seconds = {}\npoll_seconds = {}",
            simulator.base_url(provider),
            manners.limits.of(provider),
            manners.jitter.as_millis(),
            CALL_TIMEOUT.as_millis(),
            SETTLE.as_secs(),
            HORIZON.as_secs(),
            POLL.as_secs(),
        )
    };
    let text = include_str!("noshi.toml")
        .replace("{amazon_incentives}", &account(Provider::AmazonIncentives))
        .replace("{gift_on_demand}", &account(Provider::GiftOnDemand))
        .replace("{tango_card}", &account(Provider::TangoCard))
        .replace("{ses}", &simulator.base_url(Partner::Ses))
        .replace("{ses_region}", &ses.region)
        .replace("{topic}", &ses.topic_arn)
        .replace("{settle_seconds}", &SETTLE.as_secs().to_string())
        .replace("{timeout_ms}", &CALL_TIMEOUT.as_millis().to_string())
        .replace("{jitter_ms}", &manners.jitter.as_millis().to_string())
        .replace("{organization}", &simulator.base_url(Partner::OrganizationPlatform))
        .replace("{shop_limit}", &SHOP_LIMIT.to_string())
        .replace("{directory}", &directory.to_string_lossy())
        .replace("{partner_id}", &credentials.amazon_partner_id)
        .replace("{region}", &credentials.amazon_region)
        .replace("{access_key_id}", &credentials.amazon_key_id)
        .replace("{platform_name}", &credentials.tango_platform);
    write(directory, "noshi.toml", &text)
}
