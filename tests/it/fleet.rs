//! Real worker processes on a database of their own, with the provider simulator in the test.

use std::{
    fs,
    os::unix::{fs::PermissionsExt, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::{
    processes::until,
    support::{TestDatabase, database},
};
use noshi::{
    db::PgPool,
    lab::simulator::{self, Control, Partner, PerProvider, Provider, SNS_TEST_CERTIFICATE, Simulator},
};

/// Calls a second of each provider in the tests; the simulator refuses more.
pub const LIMIT: u32 = 100;
/// The simulator's.
pub const TOPIC: &str = "arn:aws:sns:ap-northeast-1:123456789012:noshi-mail";
/// Credentials of the simulated SES, where AWS users keep them.
const AWS: [(&str, &str); 3] = [
    ("AWS_ACCESS_KEY_ID", "AKIDEXAMPLESES"),
    ("AWS_SECRET_ACCESS_KEY", "demo-secret"),
    ("AWS_EC2_METADATA_DISABLED", "true"),
];

pub struct Fleet {
    pub url: String,
    pub pool: PgPool,
    pub simulator: Simulator,
    pub dir: TempDir,
    /// Where events about mails go, if the terms have it.
    pub api: Option<Process>,
}

/// How the providers and their adapters are set up.
pub struct Terms {
    pub faults: bool,
    pub seed: u64,
    pub limit: u32,
    pub settle: Duration,
    /// How long a gift provider remembers a trade id.
    pub horizon: Duration,
    pub call_timeout: Duration,
    /// How late a call may arrive.
    pub jitter: Duration,
    /// With a mail service.
    pub mails: bool,
    /// And an API server for its events.
    pub api: bool,
    /// With an API server for the events of the organisation platform.
    pub events: bool,
}

impl Default for Terms {
    fn default() -> Self {
        Terms {
            faults: false,
            seed: 1,
            limit: LIMIT,
            settle: Duration::from_secs(1),
            horizon: Duration::from_secs(60),
            call_timeout: Duration::from_millis(700),
            jitter: Duration::from_millis(50),
            mails: false,
            api: true,
            events: false,
        }
    }
}

pub async fn fleet(terms: Terms) -> Fleet {
    fleet_from(database().await, tempfile::tempdir().expect("a directory"), terms).await
}

/// On a database of the test's making, in a directory that may hold the ledger so far.
pub async fn fleet_from(database: TestDatabase, dir: TempDir, terms: Terms) -> Fleet {
    fleet_on(database.url, database.pool, dir, terms).await
}

/// On a server that the test may crash.
pub async fn fleet_on_url(url: String, terms: Terms) -> Fleet {
    let pool = PgPool::plain(&url, 8).expect("a URL");
    fleet_on(url, pool, tempfile::tempdir().expect("a directory"), terms).await
}

async fn fleet_on(url: String, pool: PgPool, dir: TempDir, terms: Terms) -> Fleet {
    let mut config = simulator::Config {
        seed: terms.seed,
        faults: terms.faults,
        limits: PerProvider {
            amazon_incentives: Some(terms.limit),
            gift_on_demand: Some(terms.limit),
            tango_card: Some(terms.limit),
        },
        organization_platform: simulator::PlatformConfig {
            limit: Some(terms.limit),
            ..simulator::PlatformConfig::default()
        },
        settle: terms.settle,
        hang: Duration::from_secs(5),
        ..simulator::Config::new(dir.path().join("ledger.jsonl"))
    };
    let mut api = None;
    if (terms.mails && terms.api) || terms.events {
        // The simulator has to know the api, and the workers both.
        let nobody = "http://127.0.0.1:9";
        let mut text = if terms.mails { mail_config(dir.path(), nobody, &terms) } else { String::new() };
        text += &platform_config(dir.path(), nobody, &terms);
        configure_api(dir.path(), &text);
        let process = start_api(&url, &dir.path().join("api"), "127.0.0.1:0");
        let base = format!("http://{}/v1/events", address(&process, "the API listens").await);
        config.ses.events_url = Some(format!("{base}/ses"));
        config.organization_platform.events_url = terms.events.then(|| format!("{base}/organization"));
        api = Some(process);
    }
    config.ses.limit = Some(terms.limit);
    let simulator = Simulator::start(config).await.expect("a simulator");
    write_config(dir.path(), &simulator, &terms);
    Fleet { url, pool, simulator, dir, api }
}

pub fn start_api(url: &str, dir: &Path, listen: &str) -> Process {
    let log = dir.join("api.log");
    let child = Command::new(env!("CARGO_BIN_EXE_noshi"))
        .args(["api", "run", "--listen", listen])
        .env("DATABASE_URL", url)
        .env("NOSHI_CONFIG", dir.join("noshi.toml"))
        .env("NOSHI_LOG", "trace")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(fs::File::create(&log).expect("a log file"))
        .kill_on_drop(true)
        .spawn()
        .expect("a api");
    Process { child, log }
}

/// The address in the log line with this message.
pub async fn address(process: &Process, message: &str) -> String {
    let mut address = String::new();
    until("an address in the log", Duration::from_secs(20), async || {
        let log = fs::read_to_string(&process.log).unwrap_or_default();
        let line = log.lines().find(|line| line.contains(message));
        let line = line.and_then(|line| serde_json::from_str::<Value>(line).ok());
        address = line.and_then(|line| line["fields"]["address"].as_str().map(str::to_owned)).unwrap_or_default();
        !address.is_empty()
    })
    .await;
    address
}

/// The key of the vault; its public half is beside it.
fn vault_key(dir: &Path) -> PathBuf {
    let key = secret(&dir.join("vault.key"), &format!("k1:{}\n", "5a".repeat(32)));
    let public = noshi::vault::Vault::open(&key).expect("a key").public_line();
    secret(&dir.join("vault.pub"), &public);
    key
}

/// The key of the vault, and the mail service.
fn mail_config(dir: &Path, base_url: &str, terms: &Terms) -> String {
    let key = vault_key(dir);
    let certificate = secret(&dir.join("sns.pem"), SNS_TEST_CERTIFICATE);
    format!(
        "vault_key_file = '{}'\n[email]\nfrom = 'Gift Desk <gift@example.jp>'\nservice = 'ses'\nlink = 'https://example.jp/gifts/{{reference}}'\n\
         settle_seconds = {}\n[email.ses]\nregion = 'ap-northeast-1'\nbase_url = '{base_url}'\nconfiguration_set = 'noshi'\n\
         topics = ['{TOPIC}']\ncertificate_file = '{}'\ntimeout_ms = {}\nconnect_timeout_ms = 300\njitter_ms = {}\nquota_seconds = 1\n",
        key.display(),
        terms.settle.as_secs().max(1),
        certificate.display(),
        terms.call_timeout.as_millis(),
        terms.jitter.as_millis(),
    )
}

/// The organisation platform, and the secret of its events.
fn platform_config(dir: &Path, base_url: &str, terms: &Terms) -> String {
    let token = secret(&dir.join("organization.token"), "demo-token");
    let events = secret(&dir.join("organization-events.secret"), "demo-events-secret");
    format!(
        "[organization]\nbase_url = '{base_url}'\ntoken_file = '{}'\nevents_secret_file = '{}'\nservice = 'reserve'\n\
         timeout_ms = {}\nconnect_timeout_ms = 300\ncalls_per_second = {}\njitter_ms = {}\n",
        token.display(),
        events.display(),
        terms.call_timeout.as_millis(),
        terms.limit,
        terms.jitter.as_millis(),
    )
}

fn secret(path: &Path, text: &str) -> PathBuf {
    fs::write(path, text).expect("a secret file");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("its permissions");
    path.to_owned()
}

fn write_config(dir: &Path, simulator: &Simulator, terms: &Terms) {
    let key = vault_key(dir);
    let file = |name: &str, text: &str| secret(&dir.join(name), text).display().to_string();
    let credentials = |provider| match provider {
        Provider::AmazonIncentives => format!(
            "credentials = {{ partner_id = 'Noshi', region = 'us-west-2', access_key_id = 'AKIDEXAMPLEDEMO', secret_key_file = '{}' }}",
            file("amazon.secret", "demo-secret")
        ),
        Provider::GiftOnDemand => format!("credentials = {{ api_key_file = '{}' }}", file("gods.secret", "demo-key")),
        Provider::TangoCard => format!(
            "credentials = {{ platform_name = 'demo', platform_key_file = '{}', customer_identifier = 'customer', account_identifier = 'account' }}",
            file("tango.secret", "demo-key")
        ),
    };
    let mut text = match terms.mails {
        true => mail_config(dir, &simulator.base_url(Partner::Ses), terms),
        false => format!("vault_key_file = '{}'\n", key.display()),
    };
    for (provider, name, category, product) in [
        (Provider::AmazonIncentives, "amazon_incentives", "amazon", ""),
        (Provider::GiftOnDemand, "gift_on_demand", "digital", "DIGICO"),
        (Provider::TangoCard, "tango_card", "prepaid", "U123456"),
    ] {
        text += &format!(
            "[gifts.{name}]\nbase_url = '{}'\n{}\nranges = [{{ category = '{category}', currency = 'JPY', min = 1, max = 10000000, product = '{product}' }}]\n\
             timeout_ms = {}\nconnect_timeout_ms = 300\nsettle_seconds = {}\nhorizon_seconds = {}\npoll_seconds = 1\ncalls_per_second = {}\njitter_ms = {}\n",
            simulator.base_url(provider),
            credentials(provider),
            terms.call_timeout.as_millis(),
            terms.settle.as_secs().max(1),
            terms.horizon.as_secs(),
            terms.limit,
            terms.jitter.as_millis(),
        );
    }
    text += &platform_config(dir, &simulator.base_url(Partner::OrganizationPlatform), terms);
    configure_api(dir, &text);
    fs::write(dir.join("noshi.toml"), text).expect("a configuration");
}

/// The workers' settings without the key that opens, in a folder of the API's.
fn configure_api(dir: &Path, text: &str) {
    let text = text.replace("vault_key_file", "vault_public_key_file").replace("vault.key", "vault.pub");
    fs::create_dir_all(dir.join("api")).expect("a folder");
    fs::write(dir.join("api/noshi.toml"), text).expect("the API's settings");
}

/// A worker process; it dies with the test.
pub struct Process {
    pub child: Child,
    pub log: PathBuf,
}

impl Fleet {
    pub fn control(&self) -> Control {
        self.simulator.control()
    }

    /// Where all partners are.
    pub fn partners(&self) -> std::net::SocketAddr {
        let url = self.simulator.base_url(Provider::TangoCard);
        let address = url.strip_prefix("http://").and_then(|rest| rest.split('/').next()).expect("an address");
        address.parse().expect("an address")
    }

    /// Writes the settings anew.
    pub fn configure(&self, change: impl FnOnce(String) -> String) {
        let file = self.dir.path().join("noshi.toml");
        fs::write(&file, change(fs::read_to_string(&file).expect("the settings"))).expect("the settings");
    }

    pub fn ledger(&self) -> PathBuf {
        self.dir.path().join("ledger.jsonl")
    }

    /// `args` win over what is usual in the tests.
    pub fn worker(&self, name: &str, env: &[(&str, &str)], args: &[&str]) -> Process {
        self.worker_of(env!("CARGO_BIN_EXE_noshi"), name, env, args)
    }

    /// The same of another build of this program.
    pub fn worker_of(&self, program: &str, name: &str, env: &[(&str, &str)], args: &[&str]) -> Process {
        let elsewhere = env.iter().any(|(name, _)| *name == "AWS_SHARED_CREDENTIALS_FILE");
        let usual = [("--lease-ms", "2000"), ("--poll-ms", "100"), ("--slots", "64")];
        let log = self.dir.path().join(format!("{name}.log"));
        let child = Command::new(program)
            .args(["worker", "run", "--name", name])
            .args(usual.iter().filter(|(flag, _)| !args.contains(flag)).flat_map(|(flag, value)| [flag, value]))
            .args(args)
            .env("DATABASE_URL", &self.url)
            .env("NOSHI_CONFIG", self.dir.path().join("noshi.toml"))
            .env("NOSHI_LOG", "noshi=debug,warn")
            // A test that names a file of credentials means them to be looked for there.
            .envs(AWS.into_iter().filter(|(name, _)| !name.contains("KEY") || !elsewhere))
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log).expect("a log file"))
            .kill_on_drop(true)
            .spawn()
            .expect("a worker process");
        Process { child, log }
    }

    /// `noshi` as an operator runs it.
    pub async fn command(&self, arguments: &[&str]) -> std::process::Output {
        Command::new(env!("CARGO_BIN_EXE_noshi"))
            .args(arguments)
            .env("DATABASE_URL", &self.url)
            .env("NOSHI_CONFIG", self.dir.path().join("noshi.toml"))
            .output()
            .await
            .expect("a command")
    }

    /// Enqueues a gift of this category, and returns its job.
    pub async fn gift(&self, grant: &str, category: &str, amount: i64) -> i64 {
        let args: Value =
            json!({"grant": grant, "user": "u1", "category": category, "value": {"amount": amount, "currency": "JPY"}});
        sqlx::query_scalar("select noshi.enqueue('gift_issuance', $1, $2)")
            .bind(grant)
            .bind(args)
            .fetch_one(&self.pool)
            .await
            .expect("an enqueued gift")
    }

    /// Enqueues a store, and returns its job. Equal rows of a request are one job.
    pub async fn store(&self, organization: &str, public_id: &str, request: &str) -> i64 {
        let args = json!({"organization": organization, "public_id": public_id, "name": format!("{public_id} 店"), "request": request});
        sqlx::query_scalar("select noshi.enqueue('store_creation', $1, $2)")
            .bind(format!("{organization}/{public_id}/{request}"))
            .bind(args)
            .fetch_one(&self.pool)
            .await
            .expect("an enqueued store")
    }

    /// What the platform answers to the same call again: 200 where its content is the same, and 422 where it is not.
    pub async fn create_shop_again(&self, organization: &str, key: &str, body: &Value) -> u16 {
        let platform = self.simulator.base_url(Partner::OrganizationPlatform);
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        let call = client.post(format!("{platform}/v1/organizations/{organization}/shops")).bearer_auth("demo-token");
        call.header("idempotency-key", key).json(body).send().await.expect("an answer").status().as_u16()
    }

    /// What the harness does instead of waiting a lease out.
    pub async fn declare_all_dead(&self) {
        sqlx::query("update noshi.worker set dead_at = clock_timestamp() where dead_at is null and stopped_at is null")
            .execute(&self.pool)
            .await
            .expect("declared dead");
    }

    pub async fn at_rest(&self, within: Duration) -> Result<(), String> {
        let open = "select count(*) from noshi.job where status in ('scheduled', 'available', 'running', 'retryable')";
        let deadline = tokio::time::Instant::now() + within;
        loop {
            let open: i64 = sqlx::query_scalar(open).fetch_one(&self.pool).await.unwrap_or(-1);
            if open == 0 {
                return Ok(());
            }
            if tokio::time::Instant::now() > deadline {
                return Err(format!("{open} jobs are still open after {within:?}"));
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }
}

impl Process {
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id().expect("a living process")).expect("a pid")
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.pid()).expect("a pid");
        rustix::process::kill_process(pid, signal).expect("a signal");
    }

    /// Waits for the end; true if it was SIGKILL.
    pub async fn killed(&mut self, within: Duration) -> bool {
        let status = tokio::time::timeout(within, self.child.wait()).await;
        status.ok().and_then(Result::ok).is_some_and(|status| status.signal() == Some(9))
    }

    pub async fn stop(mut self) -> std::process::ExitStatus {
        self.signal(rustix::process::Signal::TERM);
        tokio::time::timeout(Duration::from_secs(40), self.child.wait())
            .await
            .expect("a graceful end")
            .expect("a status")
    }
}

/// A failing test shows what its workers said last.
impl Drop for Fleet {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        for entry in fs::read_dir(self.dir.path()).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|extension| extension == "log") {
                let text = fs::read_to_string(&path).unwrap_or_default();
                let lines: Vec<&str> = text.lines().collect();
                eprintln!("--- {}", path.display());
                lines.iter().skip(lines.len().saturating_sub(25)).for_each(|line| eprintln!("{line}"));
            }
        }
    }
}
