//! A recipient, opened: name and address as the intake sealed them.

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use crate::{
    db::domain::mails,
    partners::mail::address,
    vault::{SealedAt, Vault},
};

/// It has no `Debug`.
pub struct Recipient {
    name: Option<SecretString>,
    pub address: SecretString,
}

#[derive(Deserialize)]
struct Wire {
    name: Option<SecretString>,
    email: Option<SecretString>,
}

impl Recipient {
    /// `None` where no address is kept that anything could be sent to. The error never shows a value.
    pub fn unseal(vault: &Vault, kept: &mails::Recipient) -> anyhow::Result<Option<Recipient>> {
        let place = SealedAt { grant: &kept.grant, provider: "", column: "recipient" };
        let plain = vault.unseal(&place, &kept.sealed)?;
        let Ok(wire) = serde_json::from_str::<Wire>(plain.expose_secret()) else { return Ok(None) };
        let Some(email) = wire.email else { return Ok(None) };
        let Some(address) = address(&email) else { return Ok(None) };
        Ok(Some(Recipient { name: wire.name, address: SecretString::from(address.to_string()) }))
    }

    pub fn name(&self) -> Option<&str> {
        self.name.as_ref().map(|name| name.expose_secret())
    }
}
