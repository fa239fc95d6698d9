//! Configuration: one TOML file, named by `NOSHI_CONFIG` or `--config`, and above it the environment; unknown keys are refused in both.
//! Secrets stay in files of their own.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, anyhow, bail, ensure};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::{
    partners::{
        self, OrganizationSettings,
        gifts::{GiftSettings, Offers},
        mail::EmailSettings,
    },
    settings::{
        environment, keys,
        section::{self, Section},
    },
    vault::{Sealer, Vault},
    worlds::{email::Mails, gift_issuance::Gifts, outside::Partners, store_creation::Stores},
};

pub use crate::settings::process::{ApiSettings, ConsoleSettings, WorkerSettings};

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// The file with the secret keys that open gift codes, recipients and contacts of stores: for workers.
    pub vault_key_file: Option<PathBuf>,
    /// The file with the public keys that seal and open nothing: for whoever takes in files or events of mails.
    pub vault_public_key_file: Option<PathBuf>,
    /// The gift providers.
    pub gifts: GiftSettings,
    /// Mails.
    pub email: Option<EmailSettings>,
    /// The organisation platform, for stores.
    pub organization: Option<OrganizationSettings>,
    /// `noshi worker run`.
    pub worker: WorkerSettings,
    /// `noshi api run`.
    pub api: ApiSettings,
    /// The sections of jobs of one's own, as they were read.
    #[serde(skip)]
    #[doc(hidden)]
    pub own: HashMap<&'static str, config::Value>,
    /// `noshi console run`.
    pub console: ConsoleSettings,
}

impl Settings {
    /// What the file says, and nothing else.
    pub fn read(file: Option<&Path>) -> anyhow::Result<Settings> {
        Settings::read_with(file, std::iter::empty())
    }

    /// What the file says, and above it the environment.
    pub fn read_with(
        file: Option<&Path>,
        environment: impl Iterator<Item = (String, String)>,
    ) -> anyhow::Result<Settings> {
        let mut builder = config::Config::builder();
        if let Some(file) = file {
            let cannot = || format!("the configuration file {} cannot be used", file.display());
            // The reader would say that it is not there.
            if file.exists() && !file.is_file() {
                return Err(anyhow!("it is no plain file, but a folder, a device or a pipe")).with_context(cannot);
            }
            let source = config::File::from(file).format(config::FileFormat::Toml).required(true);
            let alone = config::Config::builder().add_source(source.clone()).build().with_context(cannot)?;
            let table = alone.try_deserialize().with_context(cannot)?;
            if let Some((path, fraction)) = keys::fraction(&table, "") {
                return Err(anyhow!("`{path}` is {fraction}, and has to be a whole number")).with_context(cannot);
            }
            if let Some(unknown) = keys::unknown(&table).first() {
                let beside = keys::beside(unknown);
                return Err(anyhow!("`{unknown}` is no setting; there are {beside}")).with_context(cannot);
            }
            builder = builder.add_source(source);
        }
        let (builder, set) = environment::add(builder, environment)?;
        let read = builder.build().and_then(|mut read| {
            let own = section::taken(&mut read);
            Ok(Settings { own, ..read.try_deserialize()? })
        });
        read.map_err(|error| {
            let source = source_of(&error.to_string(), file, &set);
            anyhow!(error).context(format!("{source} cannot be used"))
        })
    }

    /// The section of a job of one's own.
    pub fn section<T: Section>(&self, name: &str) -> Result<T, config::ConfigError> {
        let read = self.own.get(name).cloned();
        T::deserialize(read.unwrap_or_else(|| config::Value::new(None, config::ValueKind::Table(config::Map::new()))))
    }

    /// The ids of the keys of the vault; none where there is no vault.
    pub fn key_prints(&self) -> anyhow::Result<Vec<(String, String)>> {
        match self.vault_key_file {
            Some(_) => Ok(self.vault()?.key_prints()),
            None => Ok(vec![]),
        }
    }

    /// The vault, which everything that touches codes, recipients or contacts needs.
    pub fn vault(&self) -> anyhow::Result<Arc<Vault>> {
        let file = self.vault_key_file.as_deref().context(
            "the configuration names no `vault_key_file`; make one with `noshi vault new-key > FILE` and `chmod 600 FILE`",
        )?;
        Ok(Arc::new(Vault::open(file)?))
    }

    /// What seals, where nothing is to be opened. A secret key seals as well.
    pub fn sealer(&self) -> anyhow::Result<Sealer> {
        match (&self.vault_public_key_file, &self.vault_key_file) {
            (Some(file), _) => Sealer::open(file),
            (None, Some(_)) => Ok(Sealer::clone(&*self.vault()?)),
            (None, None) => bail!(
                "the configuration names no `vault_public_key_file`; make one with `noshi vault public > FILE` where the key file is"
            ),
        }
    }

    /// Whether there is anything to seal with.
    pub fn seals(&self) -> bool {
        self.vault_key_file.is_some() || self.vault_public_key_file.is_some()
    }

    /// A key file that is named must be there, whether or not anything of today needs it: who names one counts on it.
    pub fn check_vault(&self) -> anyhow::Result<()> {
        let vault = self.vault_key_file.is_some().then(|| self.vault()).transpose()?;
        if self.vault_public_key_file.is_some() {
            let line = self.sealer()?.public_line();
            ensure!(
                vault.is_none_or(|vault| vault.public_lines().contains(&line)),
                "the first key of `vault_public_key_file` is none of `vault_key_file`: what it seals would not be opened here; write it anew with `noshi vault public`"
            );
        }
        Ok(())
    }

    /// Everything that jobs call.
    pub fn partners(&self) -> anyhow::Result<Partners> {
        self.check_vault()?;
        Ok(Partners {
            gifts: Arc::new(self.gifts()?),
            mails: Arc::new(self.mails()?),
            stores: Arc::new(self.stores()?),
            vault: self.vault_if_any()?,
        })
    }

    /// The mail service. Without one in the configuration, none, and no vault is needed.
    pub fn mails(&self) -> anyhow::Result<Mails> {
        match &self.email {
            Some(email) => Mails::open(email, self.vault()?),
            None => Ok(Mails::default()),
        }
    }

    fn vault_if_any(&self) -> anyhow::Result<Option<Arc<Vault>>> {
        self.vault_key_file.is_some().then(|| self.vault()).transpose()
    }

    /// The organisation platform. Without it in the configuration, none; without a vault, stores with an address or a phone wait.
    pub fn stores(&self) -> anyhow::Result<Stores> {
        match &self.organization {
            Some(organization) => Stores::open(organization, self.vault_if_any()?),
            None => Ok(Stores::default()),
        }
    }

    /// What the gift providers sell. No secret of them is opened: who takes files in can buy nothing.
    pub fn offers(&self) -> anyhow::Result<Offers> {
        partners::gifts::offers(&self.gifts)
    }

    /// The gift providers. Without any in the configuration, none, and no vault is needed.
    pub fn gifts(&self) -> anyhow::Result<Gifts> {
        match self.gifts.names().next() {
            Some(_) => Gifts::open(&self.gifts, self.vault()?),
            None => Ok(Gifts::default()),
        }
    }
}

/// What an error is about: the variable that set its key, or else the file. The text names the key, or `[0].min` of a list.
fn source_of(error: &str, file: Option<&Path>, set: &[&'static keys::Key]) -> String {
    let key = error.rsplit_once("for key `").and_then(|(_, rest)| rest.split(['`', '[']).next());
    match (set.iter().find(|it| key == Some(it.path.as_str())), file) {
        (Some(key), _) => format!("the environment variable {}", key.variable()),
        (None, Some(file)) => format!("the configuration file {}", file.display()),
        (None, None) => "what the environment sets".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_is_complete_and_unknown_keys_are_refused() {
        let example = concat!(env!("CARGO_MANIFEST_DIR"), "/ops/examples/noshi.toml");
        let settings = Settings::read(Some(Path::new(example))).unwrap();
        let named: Vec<_> = settings.gifts.names().collect();
        assert_eq!(named, ["amazon_incentives", "gift_on_demand", "tango_card"]);
        assert!(settings.email.as_ref().is_some_and(|email| email.ses.is_some() && email.smtp.is_some()));
        assert!(settings.organization.as_ref().is_some_and(|platform| platform.events_secret_file.is_some()));
        // Its key file is not here, and the error says which file and what to do.
        let error = format!("{:#}", settings.vault().unwrap_err());
        assert!(error.contains("/etc/noshi/vault.key"), "{error}");

        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("noshi.toml");
        std::fs::write(&file, "vault_key_files = 'x'\n").unwrap();
        let error = format!("{:#}", Settings::read(Some(&file)).unwrap_err());
        assert!(error.contains("vault_key_files") && error.contains("noshi.toml"), "{error}");
        assert!(Settings::read(Some(Path::new("/does/not/exist.toml"))).is_err());
        assert!(Settings::default().gifts().is_ok_and(|gifts| gifts.names().next().is_none()));
    }

    /// The partner of the tests has its file and its line in the catalogue, and nothing else.
    #[test]
    fn a_partner_by_its_file_and_its_line_has_its_settings() {
        let key = |path: &str| keys::KEYS.iter().find(|key| key.path == path).unwrap();
        assert_eq!(key("gifts.coupon_post.credentials.token_file").meaning, "The file with the token.");
        assert_eq!(key("gifts.coupon_post.timeout_ms").default.as_deref(), Some("25000"));

        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("noshi.toml");
        let text = "[gifts.coupon_post]\nbase_url = 'http://localhost:1'\ncredentials.token_file = '/token'\n\
            ranges = [{ category = 'tea', currency = 'JPY', min = 1, max = 9 }]\n";
        std::fs::write(&file, text).unwrap();
        let settings = Settings::read(Some(&file)).unwrap();
        assert_eq!(settings.offers().unwrap().names().collect::<Vec<_>>(), ["coupon_post"]);
        // Named alone, it is opened, and misses what sealing needs; it is not passed over.
        let error = settings.gifts().err().map(|error| error.to_string());
        assert!(error.as_ref().is_some_and(|error| error.contains("vault_key_file")), "{error:?}");

        std::fs::write(&file, text.replace("token_file", "tokn_file")).unwrap();
        let error = format!("{:#}", Settings::read(Some(&file)).unwrap_err());
        assert!(error.contains("gifts.coupon_post.credentials.tokn_file") && error.contains("noshi.toml"), "{error}");
        let set = [("NOSHI_GIFTS__COUPON_POST__TIMEOUT_MS".to_owned(), "soon".to_owned())];
        std::fs::write(&file, text).unwrap();
        let error = format!("{:#}", Settings::read_with(Some(&file), set.into_iter()).unwrap_err());
        assert!(error.contains("NOSHI_GIFTS__COUPON_POST__TIMEOUT_MS"), "{error}");
    }
}
