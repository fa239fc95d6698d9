//! A store's address and phone: sealed before they reach the database, opened by the worker that creates the shop.

use std::borrow::Borrow;

use anyhow::anyhow;
use base64::{Engine, engine::general_purpose::STANDARD};
use noshi_jobs::{Kind, KindName, gift_issuance::Sealed, store_creation::Args};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::{
    Value, json,
    value::{RawValue, to_raw_value},
};
use zeroize::Zeroizing;

use super::{SealedAt, Sealer, Vault};

/// What kind of sealed value it is.
pub const CONTACT: &str = "contact";

/// It has no `Debug`.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contact {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phone: Option<String>,
}

impl Contact {
    /// An empty field is no field.
    pub fn of(address: Option<String>, phone: Option<String>) -> Contact {
        let full = |text: Option<String>| text.filter(|text| !text.is_empty());
        Contact { address: full(address), phone: full(phone) }
    }

    pub fn is_empty(&self) -> bool {
        *self == Contact::default()
    }

    /// Bound to the store: as the contact of another it does not open.
    pub const fn place(public_id: &str) -> SealedAt<'_> {
        SealedAt { grant: public_id, provider: "", column: CONTACT }
    }

    /// What is sealed.
    pub fn text(&self) -> SecretString {
        let json = Zeroizing::new(serde_json::to_string(self).expect("texts are plain data"));
        SecretString::from(json.as_str())
    }

    /// The error never shows a value.
    pub fn open(vault: &Vault, public_id: &str, sealed: &Sealed) -> anyhow::Result<Contact> {
        let plain = vault.unseal(&Contact::place(public_id), sealed)?;
        serde_json::from_str(plain.expose_secret()).map_err(|_| anyhow!("a sealed contact is no address and phone"))
    }
}

/// A sealed contact as the database takes it in a request.
pub fn as_asked(sealed: &Sealed) -> Value {
    let Sealed { key_id, nonce, ciphertext } = sealed;
    json!({"key": key_id, "nonce": STANDARD.encode(nonce), "ciphertext": STANDARD.encode(ciphertext)})
}

/// A request as the database takes it, where it has an address or a phone in plain. `None`: it has neither. The sealer is asked for where it
/// is needed alone.
pub fn sealed_args<S: Borrow<Sealer>, E>(
    kind: KindName,
    args: &RawValue,
    sealer: impl FnOnce() -> Result<S, E>,
) -> Result<Option<Box<RawValue>>, E> {
    if kind != Kind::StoreCreation.as_name() {
        return Ok(None);
    }
    // What does not read is refused by the database.
    let Ok(mut args) = serde_json::from_str::<Args>(args.get()) else { return Ok(None) };
    let contact = Contact::of(args.address.take(), args.phone.take());
    if contact.is_empty() {
        return Ok(None);
    }
    let sealed = sealer()?.borrow().seal(&Contact::place(&args.public_id), &contact.text());
    let mut args = json!(args);
    args["contact"] = as_asked(&sealed);
    Ok(Some(to_raw_value(&args).expect("arguments are plain data")))
}
