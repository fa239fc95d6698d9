//! Readings: what is sealed is opened by workers alone. Whoever may see something of it (the code of a gift, the report of a batch) asks a worker
//! through the database, and brings a key that was made for this one answer (`ask`). A worker opens what is stored, and seals the answer to that
//! key, part by part (`serve`). The asker's key comes sealed to the vault's, so that whoever has no key of the vault can answer nothing at all. So the interface and the commands hold nothing that opens, and nothing with which a partner can be called.

pub mod ask;
pub mod serve;

use noshi_jobs::gift_issuance::Sealed;
use serde::{Deserialize, Serialize};

use crate::vault::{SealedAt, Sealer, Vault};

/// The first byte of a part, inside of what is sealed: more of the answer, or that it was all of it. An end without the latter is none.
const MORE: u8 = 0;
const WHOLE: u8 = 1;

/// The code of a gift, opened, and what it is worth.
#[derive(Serialize, Deserialize)]
pub struct Opened {
    pub provider: String,
    pub category: String,
    /// In minor units.
    pub amount: i64,
    pub currency: String,
    pub code: String,
}

/// Where a part of an answer belongs: it opens as no other part, of no other reading, and of no earlier try at this one.
struct Part {
    reading: String,
    number: String,
}

impl Part {
    fn of(reading: i64, take: i32, number: i32) -> Part {
        Part { reading: format!("{reading}/{take}"), number: number.to_string() }
    }

    fn place(&self) -> SealedAt<'_> {
        SealedAt { grant: &self.reading, provider: &self.number, column: "reading" }
    }
}

/// The key that an answer is sealed to, as it lies in the database: sealed to the vault's key, for this question.
struct SealedKey(Sealed);

impl SealedKey {
    const fn place<'a>(kind: &'a str, subject: &'a str) -> SealedAt<'a> {
        SealedAt { grant: subject, provider: kind, column: "reading_key" }
    }

    fn seal(vault: &Sealer, kind: &str, subject: &str, key: &Sealer) -> SealedKey {
        SealedKey(vault.seal_bytes(&Self::place(kind, subject), key.public_line().as_bytes()))
    }

    fn open(&self, vault: &Vault, kind: &str, subject: &str) -> anyhow::Result<Sealer> {
        let line = vault.open_bytes(&Self::place(kind, subject), &self.0)?;
        Sealer::parse(std::str::from_utf8(&line)?)
    }

    fn line(&self) -> String {
        format!("{}:{}:{}", self.0.key_id, hex::encode(&self.0.nonce), hex::encode(&self.0.ciphertext))
    }

    fn parse(line: &str) -> Option<SealedKey> {
        let (key_id, rest) = line.split_once(':')?;
        let (nonce, ciphertext) = rest.split_once(':')?;
        let (nonce, ciphertext) = (hex::decode(nonce).ok()?, hex::decode(ciphertext).ok()?);
        Some(SealedKey(Sealed { key_id: key_id.to_owned(), nonce, ciphertext }))
    }
}
