//! The provider conformance suite: what every adapter in the catalogue must do, whoever the provider is.
//!
//! `simulated` runs them against the simulator, whose ledger says what really happened; `scripted` against answers that
//! are wrong in every small way. A new adapter gets its settings, its good answers and its simulator name in `fixture`.

pub mod answers;
mod fixture;
mod scripted;
mod simulated;

use std::{
    collections::HashMap,
    fs,
    io::{self, Write},
    path::PathBuf,
    sync::{Arc, LazyLock, Mutex},
    time::Duration,
};

use noshi_jobs::{
    gift_issuance::{Args, Trade},
    money::{Currency, Money},
};
use secrecy::ExposeSecret;
use tempfile::TempDir;
use tracing::Dispatch;

use self::fixture::{Fixture, fixture};
use crate::{
    partners::gifts::{CATALOGUE, GiftProvider, GiftSettings, Open, trade_id},
    vault::{Vault, generate_key_line},
};

const YEN: Money = Money { amount: 1000, currency: Currency::Jpy };

/// Everything that may never be seen: in codes the first, in credentials the others.
const SECRETS: [&str; 4] = ["CNRY", "s3cr3t-amazon", "s3cr3t-gift", "s3cr3t-tango"];

/// A directory with the key files, and the vault.
pub struct Files {
    dir: TempDir,
    vault: Arc<Vault>,
}

impl Files {
    pub fn new() -> Files {
        let dir = tempfile::tempdir().unwrap();
        let mut keys = tempfile::NamedTempFile::new_in(dir.path()).unwrap();
        writeln!(keys, "{}", generate_key_line().expose_secret()).unwrap();
        let vault = Arc::new(Vault::open(keys.path()).unwrap());
        Files { dir, vault }
    }

    pub fn vault(&self) -> &Vault {
        &self.vault
    }

    fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        path
    }

    /// The adapter as the catalogue opens it, with short timeouts and a wide budget.
    pub fn open(&self, name: &str, open: Open, base_url: &str) -> Box<dyn GiftProvider> {
        let Fixture { credentials, secret, product, .. } = fixture(name);
        let key = self.file(name, secret);
        let text = format!(
            "[{name}]\nbase_url = \"{base_url}\"\ntimeout_ms = 6000\nread_timeout_ms = 2000\nconnect_timeout_ms = 1000\n\
             calls_per_second = 2000\njitter_ms = 0\nsettle_seconds = 1\npoll_seconds = 1\n\
             credentials = {{ {} }}\n[[{name}.ranges]]\ncategory = \"coffee\"\ncurrency = \"JPY\"\nmin = 1\nmax = 50000\n\
             product = \"{product}\"\n",
            credentials.replace("{key}", key.to_str().unwrap())
        );
        let source = config::File::from_str(&text, config::FileFormat::Toml);
        let settings: GiftSettings =
            config::Config::builder().add_source(source).build().unwrap().try_deserialize().unwrap();
        open(&settings, &self.vault).unwrap().expect("the settings name the provider as the catalogue does")
    }
}

pub fn args(grant: &str) -> Args {
    Args {
        grant: grant.to_owned(),
        user: "u1".to_owned(),
        category: "coffee".to_owned(),
        value: YEN,
        provider: None,
        valid_days: None,
        area: None,
        paid_by: None,
    }
}

pub fn trade(provider: &dyn GiftProvider, grant: &str) -> Trade {
    Trade {
        id: trade_id(provider.trade_prefix(), grant, 0),
        provider: provider.name().to_owned(),
        generation: 0,
        contract: provider.contract(),
    }
}

/// All tracing events of this thread, at every level, as text.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<u8>>>);

impl Heard {
    fn listen(&self) -> tracing::subscriber::DefaultGuard {
        // With a single subscriber in the process, tracing lets the thread that comes first to an event decide for all
        // threads whether it is ever heard; with a second one, though nobody listens to it, all subscribers are asked.
        static SECOND: LazyLock<Dispatch> = LazyLock::new(|| Dispatch::new(tracing_subscriber::registry()));
        LazyLock::force(&SECOND);
        let heard = self.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_ansi(false)
            .with_writer(move || heard.clone())
            .finish();
        tracing::subscriber::set_default(subscriber)
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

impl Write for Heard {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn assert_no_secret(text: &str) {
    for secret in SECRETS {
        if let Some(at) = text.find(secret) {
            let start = text[..at].char_indices().rev().nth(200).map_or(0, |(at, _)| at);
            panic!("`{secret}` can be seen: …{}…", &text[start..at]);
        }
    }
}

#[test]
fn names_prefixes_and_policies_hold_together() {
    let files = Files::new();
    let mut names = HashMap::new();
    for (name, open) in CATALOGUE {
        let provider = files.open(name, open, "http://127.0.0.1:1/");
        assert_eq!(provider.name(), name);
        assert!(names.insert(name, ()).is_none(), "{name} is in the catalogue twice");
        let prefix = provider.trade_prefix();
        assert!(prefix.len() <= 5 && prefix.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{prefix}");
        assert!(!provider.budgets().is_empty() && provider.budgets().iter().all(|budget| budget.calls > 0));
        let contract = provider.contract();
        assert!(contract.replay || contract.inquiry, "{name} could never resolve a doubt");
        assert!(contract.settle_seconds > 0 && contract.poll_seconds > 0);
        assert!(!contract.replay || contract.horizon_seconds > contract.settle_seconds);
        assert_eq!(provider.check("coffee", YEN), Ok(()));
        assert!(provider.check("tea", YEN).is_err());
        assert!(provider.check("coffee", Money { amount: 50_001, ..YEN }).is_err());
        assert!(open(&GiftSettings::default(), &files.vault).unwrap().is_none(), "{name} opens without settings");
    }
    let none = crate::partners::gifts::providers(&GiftSettings::default(), Arc::clone(&files.vault)).unwrap();
    assert!(none.is_empty());
    let nothing = crate::partners::gifts::offers(&GiftSettings::default()).unwrap();
    assert!(nothing.check(None, "coffee", YEN).unwrap_err().contains("no provider"));
}

/// Long enough for whatever the simulator lets land late.
const SETTLE: Duration = Duration::from_millis(200);
