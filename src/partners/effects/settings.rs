//! The section `[effects]` of the settings: where the contracts are, and whom they may call.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Client, Contract, client::ensure_host};
use crate::partners::{http::addresses::Addresses, secret::secret};

/// The contracts that can be called, by their names.
pub type Clients = Arc<BTreeMap<String, Client>>;

/// Effects that contracts declare.
#[derive(Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Effects {
    /// The folder with the contracts, one in each `NAME.toml`. Left out: there are none.
    pub folder: Option<PathBuf>,
    /// Who may be called: hosts, with the port where it is not the usual one.
    pub hosts: Vec<String>,
    /// The folder with the secrets that the contracts name, one in each file.
    pub secrets_folder: Option<PathBuf>,
    /// This machine may be called, and by plain HTTP.
    pub allow_loopback: bool,
    /// Addresses of inner networks may be called.
    pub allow_private: bool,
    #[serde(skip)]
    #[schemars(skip)]
    clients: Clients,
}

impl Effects {
    /// Reads every contract; one that cannot be used keeps a worker from starting.
    pub fn opened(mut self) -> anyhow::Result<Effects> {
        let mut clients = BTreeMap::new();
        for file in self.files()? {
            let client = self
                .client(Contract::read(&file)?)
                .with_context(|| format!("the contract {} cannot be used", file.display()))?;
            clients.insert(client.contract.name.clone(), client);
        }
        self.clients = Arc::new(clients);
        Ok(self)
    }

    fn files(&self) -> anyhow::Result<Vec<PathBuf>> {
        let Some(folder) = &self.folder else { return Ok(vec![]) };
        let cannot = || format!("the `folder` {} of the contracts cannot be read", folder.display());
        let mut files = vec![];
        for entry in fs::read_dir(folder).with_context(cannot)? {
            let path = entry.with_context(cannot)?.path();
            if path.extension().is_some_and(|extension| extension == "toml") {
                files.push(path);
            }
        }
        files.sort();
        Ok(files)
    }

    const fn addresses(&self) -> Addresses {
        Addresses { loopback: self.allow_loopback, private: self.allow_private }
    }

    /// The contract as it may be called under these settings.
    pub fn client(&self, contract: Contract) -> anyhow::Result<Client> {
        ensure_host(&self.hosts, &contract, self.addresses())?;
        let label = contract.name.clone();
        Client::open(contract, self.addresses(), |name| {
            let folder = self.secrets_folder.as_deref();
            let folder: &Path = folder
                .with_context(|| format!("it needs the secret {name}, and [effects] names no `secrets_folder`"))?;
            secret(&label, name, &folder.join(name))
        })
    }

    /// The same contract, called through something on this machine instead.
    #[cfg(feature = "lab")]
    pub fn through(&self, mut contract: Contract, address: &str) -> anyhow::Result<Client> {
        for asks in
            [Some(&mut contract.perform), contract.inquire.as_mut(), contract.cancel.as_mut()].into_iter().flatten()
        {
            let path =
                asks.url.split_once("://").and_then(|(_, rest)| rest.split_once('/')).map_or("", |(_, path)| path);
            asks.url = format!("http://{address}/{path}");
        }
        Effects { hosts: vec![address.to_owned()], allow_loopback: true, ..self.clone() }.client(contract)
    }

    /// The file that a contract of this name stands in.
    pub fn file(&self, name: &str) -> anyhow::Result<PathBuf> {
        let folder = self
            .folder
            .as_ref()
            .context("the settings name no `folder` in the section [effects], so there are no contracts")?;
        Ok(folder.join(format!("{name}.toml")))
    }

    pub const fn clients(&self) -> &Clients {
        &self.clients
    }
}
