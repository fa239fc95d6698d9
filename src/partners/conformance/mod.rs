//! The provider conformance suite: what every adapter in the catalogue must do, whoever the provider is.
//!
//! It takes what it has to know from the adapter's file (`FIXTURE`), and needs no simulator: the partner is a listener that follows a script,
//! with answers that are wrong in every small way. A partner that the laboratory simulates is held against its ledger as well, there.

pub mod answers;
mod fixture;
mod scripted;

use std::{
    collections::HashMap,
    fs,
    io::{self, Write},
    path::PathBuf,
    sync::{Arc, LazyLock, Mutex},
};

use noshi_jobs::{
    gift_issuance::{Args, Trade},
    money::{Currency, Money},
};
use secrecy::ExposeSecret;
use tempfile::TempDir;
use tracing::Dispatch;

pub use self::fixture::{CODE, Fixture, Question};
use crate::{
    partners::gifts::{CATALOGUE, GiftProvider, GiftSettings, Partner, trade_id},
    vault::{Vault, generate_key_line},
};

pub const YEN: Money = Money { amount: 1000, currency: Currency::Jpy };

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

    #[cfg(feature = "lab")]
    pub fn folder(&self) -> &std::path::Path {
        self.dir.path()
    }

    fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        path
    }

    /// The adapter as the catalogue opens it, with short timeouts and a wide budget.
    pub fn open(&self, partner: &Partner, base_url: &str) -> Box<dyn GiftProvider> {
        let opened = (partner.open)(&self.settings(partner, base_url), &self.vault).unwrap();
        opened.expect("the settings name the provider as the catalogue does")
    }

    fn settings(&self, partner: &Partner, base_url: &str) -> GiftSettings {
        let (name, Fixture { credentials, secret, product, .. }) = (partner.name, partner.fixture);
        let key = self.file(name, secret);
        let text = format!(
            "[{name}]\nbase_url = \"{base_url}\"\ntimeout_ms = 6000\nread_timeout_ms = 2000\nconnect_timeout_ms = 1000\n\
             calls_per_second = 2000\njitter_ms = 0\nsettle_seconds = 1\npoll_seconds = 1\n\
             credentials = {{ {} }}\n[[{name}.ranges]]\ncategory = \"coffee\"\ncurrency = \"JPY\"\nmin = 1\nmax = 50000\n\
             product = \"{product}\"\n",
            credentials.replace("{key}", key.to_str().unwrap())
        );
        let source = config::File::from_str(&text, config::FileFormat::Toml);
        config::Config::builder().add_source(source).build().unwrap().try_deserialize().unwrap()
    }
}

/// The partner of this name.
pub fn partner(name: &str) -> &'static Partner {
    CATALOGUE.iter().find(|partner| partner.name == name).unwrap()
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
        id: trade_id(&provider.terms().trade_prefix, grant, 0),
        provider: provider.name().to_owned(),
        generation: 0,
        contract: provider.terms().contract.clone(),
    }
}

/// All tracing events of this thread, at every level, as text.
#[derive(Clone, Default)]
pub struct Heard(Arc<Mutex<Vec<u8>>>);

impl Heard {
    pub fn listen(&self) -> tracing::subscriber::DefaultGuard {
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

    pub fn text(&self) -> String {
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

/// The codes, and every adapter's credentials, may never be seen.
pub fn assert_no_secret(text: &str) {
    for secret in CATALOGUE.iter().map(|partner| partner.fixture.secret).chain(["CNRY"]) {
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
    for partner in CATALOGUE {
        let name = partner.name;
        let provider = files.open(partner, "http://127.0.0.1:1/");
        assert_eq!((provider.name(), partner.defaults.provider), (name, name));
        assert!(names.insert(name, ()).is_none(), "{name} is in the catalogue twice");
        let terms = provider.terms();
        let prefix = &terms.trade_prefix;
        assert!(prefix.len() <= 5 && prefix.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{prefix}");
        assert!(!terms.budgets.is_empty() && terms.budgets.iter().all(|budget| budget.calls > 0));
        let contract = &terms.contract;
        assert!(contract.replay || contract.inquiry, "{name} could never resolve a doubt");
        assert!(contract.settle_seconds > 0 && contract.poll_seconds > 0);
        assert!(!contract.replay || contract.horizon_seconds > contract.settle_seconds);
        assert_eq!(provider.check("coffee", YEN), Ok(()));
        assert!(provider.check("tea", YEN).is_err());
        assert!(provider.check("coffee", Money { amount: 50_001, ..YEN }).is_err());
        assert!((partner.open)(&GiftSettings::default(), &files.vault).unwrap().is_none(), "{name} opens by itself");
    }
    let none = crate::partners::gifts::providers(&GiftSettings::default(), Arc::clone(&files.vault)).unwrap();
    assert!(none.is_empty());
    let nothing = crate::partners::gifts::offers(&GiftSettings::default()).unwrap();
    assert!(nothing.check(None, "coffee", YEN).unwrap_err().contains("no provider"));
}

/// What is in the catalogue is opened where it is named, whichever it is and though it is named alone.
#[test]
fn a_partner_that_is_named_alone_is_opened_and_sells() {
    let files = Files::new();
    for partner in CATALOGUE {
        let settings = files.settings(partner, "http://127.0.0.1:1");
        assert_eq!(settings.names().collect::<Vec<_>>(), [partner.name]);
        let opened = crate::partners::gifts::providers(&settings, Arc::clone(&files.vault)).unwrap();
        assert_eq!(opened.iter().map(|provider| provider.name()).collect::<Vec<_>>(), [partner.name]);
        let offers = crate::partners::gifts::offers(&settings).unwrap();
        assert_eq!(offers.names().collect::<Vec<_>>(), [partner.name]);
        assert_eq!(offers.check(Some(partner.name), "coffee", YEN), Ok(()));
    }
}
