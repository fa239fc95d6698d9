//! Sealing: what must not be read from a stolen backup (gift codes, recipients) is stored encrypted.
//!
//! XChaCha20-Poly1305 with a fresh random nonce each time. The place a value belongs to (column, grant, provider) is
//! authenticated with it, so a ciphertext copied into another row does not open there.
//!
//! Addresses are also looked up, by keyed digests. Each digest has its address sealed beside it, so that rotation can digest
//! it again under the new key; until it has, a look-up asks with the digests of all keys.

use std::{fmt, fs, path::Path};

use anyhow::{Context, anyhow, bail, ensure};
use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305, XNonce,
    aead::{Aead, Payload},
};
use noshi_jobs::gift_issuance::Sealed;
use rand::RngCore;
use ring::hmac;
use secrecy::{ExposeSecret, SecretBox, SecretString};
use zeroize::Zeroizing;

use crate::address::sendable;

/// The first of the authenticated parts; a later format gets another.
const FORMAT: &str = "noshi-1";
/// What the keys of address digests are derived with.
const DIGESTS: &[u8] = b"noshi-1 address digests";

/// Where a sealed value belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place<'a> {
    pub grant: &'a str,
    pub provider: &'a str,
    /// What kind of value it is: `gift_code`, `recipient`.
    pub column: &'a str,
}

impl Place<'_> {
    /// The parts with their lengths before them, so that no two places give the same bytes.
    fn associated_data(&self) -> Vec<u8> {
        let mut data = Vec::new();
        for part in [FORMAT, self.column, self.grant, self.provider] {
            data.extend_from_slice(&(part.len() as u64).to_be_bytes());
            data.extend_from_slice(part.as_bytes());
        }
        data
    }
}

struct Key {
    id: String,
    bytes: SecretBox<[u8; 32]>,
}

impl Key {
    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new(self.bytes.expose_secret().into())
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

/// The keys. The first seals, all of them open.
pub struct Vault {
    keys: Vec<Key>,
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Vault(..)")
    }
}

impl Vault {
    /// Reads a key file: lines of `key_id:64 hex digits`, newest first; blank lines and lines that begin with `#` are
    /// passed over. The file must be closed to everybody but its owner.
    pub fn open(key_file: &Path) -> anyhow::Result<Vault> {
        let name = key_file.display();
        let hint = "it takes lines of a key id, a colon and the output of `openssl rand -hex 32`";
        check_permissions(key_file).with_context(|| format!("the key file {name} cannot be used; {hint}"))?;
        let text = fs::read_to_string(key_file).with_context(|| format!("cannot read the key file {name}"))?;
        let text = Zeroizing::new(text);
        let mut keys: Vec<Key> = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            // The line itself is a secret, even a wrong one.
            let key = parse(line)
                .ok_or_else(|| anyhow!("line {} of the key file {name} is not `key_id:64 hex digits`", number + 1))?;
            ensure!(
                keys.iter().all(|known| known.id != key.id),
                "the key file {name} names the key `{}` twice; each key needs its own id",
                key.id
            );
            keys.push(key);
        }
        ensure!(!keys.is_empty(), "the key file {name} holds no key; {hint}");
        Ok(Vault { keys })
    }

    /// Encrypts under the newest key.
    pub fn seal(&self, place: &Place<'_>, secret: &SecretString) -> Sealed {
        self.seal_bytes(place, secret.expose_secret().as_bytes())
    }

    /// Fails for another place, an unknown key, or a changed ciphertext; the error never shows the value.
    pub fn unseal(&self, place: &Place<'_>, sealed: &Sealed) -> anyhow::Result<SecretString> {
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

    /// The id of the key that seals.
    pub fn current_key(&self) -> &str {
        &self.keys[0].id
    }

    /// All that can be opened with, the newest first.
    pub fn key_ids(&self) -> Vec<String> {
        self.keys.iter().map(|key| key.id.clone()).collect()
    }

    /// Whether what was sealed with the key of this id can be opened.
    pub fn knows(&self, key_id: &str) -> bool {
        self.keys.iter().any(|key| key.id == key_id)
    }

    /// Whether an older key than the newest was used.
    pub fn needs_rewrap(&self, sealed: &Sealed) -> bool {
        self.keys[0].id != sealed.key_id
    }

    /// The same value under the newest key, for key rotation.
    pub fn rewrap(&self, place: &Place<'_>, sealed: &Sealed) -> anyhow::Result<Sealed> {
        Ok(self.seal_bytes(place, &self.open_bytes(place, sealed)?))
    }

    pub fn seal_bytes(&self, place: &Place<'_>, plain: &[u8]) -> Sealed {
        let key = &self.keys[0];
        let mut nonce = [0; 24];
        rand::rng().fill_bytes(&mut nonce);
        let payload = Payload { msg: plain, aad: &place.associated_data() };
        let ciphertext = key
            .cipher()
            .encrypt(&XNonce::from(nonce), payload)
            .expect("encryption fails for values of 256 GiB and more only");
        Sealed { key_id: key.id.clone(), nonce: nonce.to_vec(), ciphertext }
    }

    pub fn open_bytes(&self, place: &Place<'_>, sealed: &Sealed) -> anyhow::Result<Zeroizing<Vec<u8>>> {
        let Some(key) = self.keys.iter().find(|key| key.id == sealed.key_id) else {
            bail!("a value was sealed with the key `{}`, which the key file does not hold; add it", sealed.key_id);
        };
        let nonce = <[u8; 24]>::try_from(sealed.nonce.as_slice())
            .map_err(|_| anyhow!("a sealed value has a nonce of {} bytes instead of 24", sealed.nonce.len()))?;
        let payload = Payload { msg: &sealed.ciphertext, aad: &place.associated_data() };
        let plain = key.cipher().decrypt(&XNonce::from(nonce), payload).map_err(|_| {
            anyhow!(
                "the sealed {} of grant `{}` ({}) does not open: it was changed, or belongs to another row",
                place.column,
                place.grant,
                place.provider
            )
        })?;
        Ok(Zeroizing::new(plain))
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

fn parse(line: &str) -> Option<Key> {
    let (id, digits) = line.split_once(':')?;
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if !(1..=32).contains(&id.len()) || !id.bytes().all(word) {
        return None;
    }
    let mut whole = false;
    let bytes = SecretBox::init_with_mut(|bytes: &mut [u8; 32]| whole = hex::decode_to_slice(digits, bytes).is_ok());
    whole.then(|| Key { id: id.to_owned(), bytes })
}

/// Whether a file with a secret is closed to others: the vault's keys, and what partners know us by.
#[cfg(unix)]
pub fn check_permissions(file: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::MetadataExt;
    let file = fs::metadata(file)?;
    let (mode, owner, we) = (file.mode() & 0o777, file.uid(), rustix::process::geteuid().as_raw());
    ensure!(is_closed(mode, owner, we), "others may read or write it (mode {mode:03o}); run `chmod 600` on it");
    ensure!(
        owner == we || owner == 0,
        "it belongs to user {owner}, who may read and change it; run `chown {we}` on it"
    );
    Ok(())
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

/// Orchestrators hand a secret over as a file of root's that the process may read by its group: a volume of Kubernetes by `fsGroup`,
/// a credential of systemd by an access list, whose mask shows as the group's bits.
#[cfg(unix)]
const fn is_closed(mode: u32, owner: u32, we: u32) -> bool {
    let handed_over = owner == 0 && we != 0;
    mode & if handed_over { 0o037 } else { 0o077 } == 0
}

#[cfg(not(unix))]
pub fn check_permissions(file: &Path) -> anyhow::Result<()> {
    fs::metadata(file)?;
    Ok(())
}

#[cfg(test)]
mod tests;
