//! Sealing: what must not be read from a stolen backup (gift codes, recipients, contacts of stores) is stored encrypted.
//!
//! Whoever takes files or events in has public keys alone (`Sealer`): it seals, and can open nothing. Who has the secret keys opens
//! (`Vault`). HPKE (RFC 9180; X25519, HKDF-SHA256, export only) agrees a key for values that are sealed together; each of them is sealed with
//! it by XChaCha20-Poly1305 with a fresh random nonce, behind what was encapsulated. The place a value belongs to (column, grant, provider) is
//! authenticated with it, so a ciphertext copied into another row does not open there.
//!
//! Addresses are also looked up, by keyed digests. Each digest has its address sealed beside it, so that rotation can digest
//! it again under the new key; until it has, a look-up asks with the digests of all keys.

use std::{
    collections::HashMap,
    fmt,
    ops::Deref,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use anyhow::{anyhow, bail};
use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305, XNonce,
    aead::{Aead, Payload},
};
use hpke::{
    Deserializable, Kem, OpModeR, OpModeS, Serializable, aead::ExportOnlyAead, kdf::HkdfSha256,
    kem::X25519HkdfSha256 as X25519, setup_receiver, setup_sender,
};
use noshi_jobs::gift_issuance::Sealed;
use rand::RngCore;
use ring::hmac;
use secrecy::{ExposeSecret, SecretBox, SecretString};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::{basics::address::sendable, vault::files};

/// The first of the authenticated parts, and what keys are agreed for; a later format gets another.
const FORMAT: &str = "noshi-2";
/// Before there were public keys: sealed with the secret key itself, chunks of files for no place of their own. Opened for ever, written no more.
const FORMAT_BEFORE: &str = "noshi-1";
/// What the keys of values are exported for.
const VALUES: &[u8] = b"values";
/// What the keys of address digests are derived with.
const DIGESTS: &[u8] = b"noshi-1 address digests";
/// Bytes of what was encapsulated, in front of each ciphertext.
const ENCAPSULATED: usize = 32;
/// Keys of values that a vault remembers, of each of its own. A chunk of a file needs one.
const REMEMBERED: usize = 1024;

type ValueKey = Zeroizing<[u8; 32]>;

/// Where a sealed value belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SealedAt<'a> {
    pub grant: &'a str,
    pub provider: &'a str,
    /// What kind of value it is: `gift_code`, `recipient`, `contact`.
    pub column: &'a str,
}

impl<'a> SealedAt<'a> {
    /// Of a chunk of a file, named by its batch and number: it belongs to no grant.
    pub const fn of_chunk(name: &'a str) -> SealedAt<'a> {
        SealedAt { grant: name, provider: "", column: "file" }
    }

    /// The parts with their lengths before them, so that no two places give the same bytes.
    fn associated_data(&self, format: &str) -> Vec<u8> {
        let mut data = Vec::new();
        for part in [format, self.column, self.grant, self.provider] {
            data.extend_from_slice(&(part.len() as u64).to_be_bytes());
            data.extend_from_slice(part.as_bytes());
        }
        data
    }
}

/// The public half of the newest key: seals, and opens nothing.
#[derive(Clone)]
pub struct Sealer {
    pub(super) id: String,
    pub(super) public: <X25519 as Kem>::PublicKey,
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealer({})", self.id)
    }
}

impl Sealer {
    /// Reads a public key file: what `noshi vault public` prints. The first key seals. The file must be closed to everybody else's writing.
    pub fn open(public_key_file: &Path) -> anyhow::Result<Sealer> {
        files::public_keys(public_key_file)
    }

    /// A line of a public key file.
    pub fn parse(line: &str) -> anyhow::Result<Sealer> {
        let sealer = files::public_line(line).ok_or_else(|| anyhow!("this is not `key_id:pub:64 hex digits`"))?;
        // Of the few points that nothing can be agreed with, one would show at the first value only.
        sealer.agree().map_err(|_| anyhow!("the public key `{}` is none that anything can be sealed to", sealer.id))?;
        Ok(sealer)
    }

    /// The key as a line for a public key file. It is no secret.
    pub fn public_line(&self) -> String {
        format!("{}:pub:{}", self.id, hex::encode(self.public.to_bytes()))
    }

    /// Which key this is: the digest of its public half, which is no secret.
    pub fn print(&self) -> String {
        hex::encode(Sha256::digest(self.public.to_bytes()))
    }

    /// The id of the key that seals.
    pub fn current_key(&self) -> &str {
        &self.id
    }

    /// Agrees a key for values that are sealed together. Drop it with the last of them: who has it can open them.
    pub fn begin(&self) -> Sealing<'_> {
        let (encapsulated, key) = self.agree().expect("a public key was tried when it was read");
        Sealing { id: &self.id, encapsulated, key }
    }

    /// Encrypts one value alone.
    pub fn seal(&self, place: &SealedAt<'_>, secret: &SecretString) -> Sealed {
        self.begin().seal(place, secret)
    }

    pub fn seal_bytes(&self, place: &SealedAt<'_>, plain: &[u8]) -> Sealed {
        self.begin().seal_bytes(place, plain)
    }

    fn agree(&self) -> Result<([u8; ENCAPSULATED], ValueKey), hpke::HpkeError> {
        let (encapsulated, context) =
            setup_sender::<ExportOnlyAead, HkdfSha256, X25519>(&OpModeS::Base, &self.public, FORMAT.as_bytes())?;
        let mut key = Zeroizing::new([0; 32]);
        context.export(VALUES, key.as_mut())?;
        Ok((encapsulated.to_bytes().into(), key))
    }
}

/// A key for values that are sealed together, so that a file costs no scalar multiplication for each row.
pub struct Sealing<'a> {
    id: &'a str,
    encapsulated: [u8; ENCAPSULATED],
    key: ValueKey,
}

impl Sealing<'_> {
    pub fn seal(&self, place: &SealedAt<'_>, secret: &SecretString) -> Sealed {
        self.seal_bytes(place, secret.expose_secret().as_bytes())
    }

    pub fn seal_bytes(&self, place: &SealedAt<'_>, plain: &[u8]) -> Sealed {
        let mut nonce = [0; 24];
        rand::rng().fill_bytes(&mut nonce);
        let payload = Payload { msg: plain, aad: &place.associated_data(FORMAT) };
        let sealed = XChaCha20Poly1305::new((&*self.key).into())
            .encrypt(&XNonce::from(nonce), payload)
            .expect("encryption fails for values of 256 GiB and more only");
        let ciphertext = [self.encapsulated.as_slice(), &sealed].concat();
        Sealed { key_id: self.id.to_owned(), nonce: nonce.to_vec(), ciphertext }
    }
}

pub(super) struct Key {
    pub(super) id: String,
    pub(super) bytes: SecretBox<[u8; 32]>,
    /// Keys of values by what was encapsulated.
    agreed: Mutex<HashMap<[u8; ENCAPSULATED], ValueKey>>,
}

impl Key {
    pub(super) fn new(id: String, bytes: SecretBox<[u8; 32]>) -> Key {
        Key { id, bytes, agreed: Mutex::default() }
    }

    pub(super) fn is_nothing(&self) -> bool {
        self.bytes.expose_secret() == &[0; 32]
    }

    fn secret(&self) -> <X25519 as Kem>::PrivateKey {
        <X25519 as Kem>::PrivateKey::from_bytes(self.bytes.expose_secret()).expect("any 32 bytes are a secret key")
    }

    fn sealer(&self) -> Sealer {
        Sealer { id: self.id.clone(), public: X25519::sk_to_pk(&self.secret()) }
    }

    /// The key of values behind `encapsulated`; `None` where nobody can have sealed to us with it.
    fn agreed(&self, encapsulated: [u8; ENCAPSULATED]) -> Option<ValueKey> {
        if let Some(key) = self.known().get(&encapsulated) {
            return Some(key.clone());
        }
        let sent = <X25519 as Kem>::EncappedKey::from_bytes(&encapsulated).ok()?;
        let context = setup_receiver::<ExportOnlyAead, HkdfSha256, X25519>(
            &OpModeR::Base,
            &self.secret(),
            &sent,
            FORMAT.as_bytes(),
        );
        let mut key = Zeroizing::new([0; 32]);
        context.ok()?.export(VALUES, key.as_mut()).ok()?;
        Some(key)
    }

    fn remember(&self, encapsulated: [u8; ENCAPSULATED], key: ValueKey) {
        let mut known = self.known();
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(encapsulated, key);
    }

    fn known(&self) -> MutexGuard<'_, HashMap<[u8; ENCAPSULATED], ValueKey>> {
        self.agreed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// HMAC-SHA256 under a key that is derived from this one, since one key has one use.
    fn digest(&self, text: &[u8]) -> [u8; 32] {
        let sign = |key: &[u8], text: &[u8]| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text);
        let derived = sign(self.bytes.expose_secret(), DIGESTS);
        let mut digest = [0; 32];
        digest.copy_from_slice(sign(derived.as_ref(), text).as_ref());
        digest
    }
}

/// The secret keys. All of them open, and the first seals.
pub struct Vault {
    keys: Vec<Key>,
    sealer: Sealer,
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Vault(..)")
    }
}

impl Deref for Vault {
    type Target = Sealer;

    fn deref(&self) -> &Sealer {
        &self.sealer
    }
}

impl Vault {
    /// Reads a key file: lines of `key_id:64 hex digits`, newest first; blank lines and lines that begin with `#` are
    /// passed over. The file must be closed to everybody but its owner.
    pub fn open(key_file: &Path) -> anyhow::Result<Vault> {
        let keys = files::secret_keys(key_file)?;
        Ok(Vault { sealer: keys[0].sealer(), keys })
    }

    /// A key of this process alone, for an answer that is sealed to it.
    pub fn ephemeral() -> Vault {
        let key = files::secret_line(generate_key_line().expose_secret()).expect("a line of our own");
        Vault { sealer: key.sealer(), keys: vec![key] }
    }

    /// Every key's line for the public key file, the newest first.
    pub fn public_lines(&self) -> Vec<String> {
        self.keys.iter().map(|key| key.sealer().public_line()).collect()
    }

    /// Fails for another place, an unknown key, or a changed ciphertext; the error never shows the value.
    pub fn unseal(&self, place: &SealedAt<'_>, sealed: &Sealed) -> anyhow::Result<SecretString> {
        let plain = self.open_bytes(place, sealed)?;
        let text = str::from_utf8(&plain).map_err(|_| anyhow!("a sealed value is not text; it was not sealed here"))?;
        Ok(SecretString::from(text))
    }

    /// Digests of an address under every key, the newest first: equal addresses have equal digests, and without a key
    /// nobody can tell whose a digest is. Case, surrounding space and how a host is written do not matter.
    pub fn digests(&self, address: &SecretString) -> Vec<[u8; 32]> {
        let address = address.expose_secret().trim();
        // In one form, however a service writes it in its events.
        let address = Zeroizing::new(sendable(address).unwrap_or_else(|_| address.to_owned()).to_lowercase());
        self.keys.iter().map(|key| key.digest(address.as_bytes())).collect()
    }

    /// All that can be opened with, the newest first.
    pub fn key_ids(&self) -> Vec<String> {
        self.keys.iter().map(|key| key.id.clone()).collect()
    }

    /// All of them with their prints.
    pub fn key_prints(&self) -> Vec<(String, String)> {
        self.keys.iter().map(|key| (key.id.clone(), key.sealer().print())).collect()
    }

    /// Whether what was sealed with the key of this id can be opened.
    pub fn knows(&self, key_id: &str) -> bool {
        self.keys.iter().any(|key| key.id == key_id)
    }

    /// Whether an older key than the newest was used.
    pub fn needs_rewrap(&self, sealed: &Sealed) -> bool {
        self.current_key() != sealed.key_id
    }

    /// The same value under the newest key, for key rotation.
    pub fn rewrap(&self, sealing: &Sealing<'_>, place: &SealedAt<'_>, sealed: &Sealed) -> anyhow::Result<Sealed> {
        Ok(sealing.seal_bytes(place, &self.open_bytes(place, sealed)?))
    }

    pub fn open_bytes(&self, place: &SealedAt<'_>, sealed: &Sealed) -> anyhow::Result<Zeroizing<Vec<u8>>> {
        let Some(key) = self.keys.iter().find(|key| key.id == sealed.key_id) else {
            bail!("a value was sealed with the key `{}`, which the key file does not hold; add it", sealed.key_id);
        };
        let nonce = <[u8; 24]>::try_from(sealed.nonce.as_slice())
            .map_err(|_| anyhow!("a sealed value has a nonce of {} bytes instead of 24", sealed.nonce.len()))?;
        let nonce = XNonce::from(nonce);
        let aad = place.associated_data(FORMAT);
        let opened = sealed.ciphertext.split_first_chunk().and_then(|(encapsulated, msg)| {
            let agreed = key.agreed(*encapsulated)?;
            let cipher = XChaCha20Poly1305::new((&*agreed).into());
            let plain = cipher.decrypt(&nonce, Payload { msg, aad: &aad }).ok()?;
            key.remember(*encapsulated, agreed);
            Some(plain)
        });
        let opened = opened.or_else(|| {
            let place = if place.column == "file" { SealedAt { grant: "", ..*place } } else { *place };
            let aad = place.associated_data(FORMAT_BEFORE);
            let cipher = XChaCha20Poly1305::new(key.bytes.expose_secret().into());
            cipher.decrypt(&nonce, Payload { msg: &sealed.ciphertext, aad: &aad }).ok()
        });
        opened.map(Zeroizing::new).ok_or_else(|| {
            anyhow!(
                "the sealed {} of grant `{}` ({}) does not open: it was changed, or belongs to another row",
                place.column,
                place.grant,
                place.provider
            )
        })
    }
}

/// A new key as a line for the key file.
pub fn generate_key_line() -> SecretString {
    let mut id = [0; 4];
    let mut key = Zeroizing::new([0; 32]);
    rand::rng().fill_bytes(&mut id);
    rand::rng().fill_bytes(key.as_mut());
    let key = Zeroizing::new(hex::encode(key.as_ref()));
    SecretString::from(format!("k{}:{}", hex::encode(id), key.as_str()))
}

/// What is in this process's memory, keys and codes among it, goes into no dump of it, and no other process of its user reads it.
pub fn keep_out_of_dumps() {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, Rlimit, setrlimit};
        // Lowering a limit is always allowed.
        let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    }
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{DumpableBehavior, set_dumpable_behavior};
        let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    }
}

#[cfg(test)]
mod tests;
