//! The files with keys: the secret one, which is closed to others, and the public one, which others may read.

use std::{fs, path::Path};

use anyhow::{Context, anyhow, bail, ensure};
use secrecy::SecretBox;
use zeroize::Zeroizing;

use super::sealing::{Key, Sealer};

/// The keys of a key file, the newest first.
pub(super) fn secret_keys(file: &Path) -> anyhow::Result<Vec<Key>> {
    let name = file.display();
    let hint = "it takes lines of a key id, a colon and the output of `openssl rand -hex 32`";
    check_permissions(file).with_context(|| format!("the key file {name} cannot be used; {hint}"))?;
    let mut keys: Vec<Key> = Vec::new();
    for (number, line) in lines(&read(file)?) {
        ensure!(
            public_parts(line).is_none(),
            "line {number} of the key file {name} is a public key, which opens nothing; that file goes by `vault_public_key_file`"
        );
        // The line itself is a secret, even a wrong one.
        let key = secret_line(line)
            .ok_or_else(|| anyhow!("line {number} of the key file {name} is not `key_id:64 hex digits`"))?;
        ensure!(
            keys.iter().all(|known| known.id != key.id),
            "the key file {name} names the key `{}` twice; each key needs its own id",
            key.id
        );
        ensure!(
            !key.is_nothing(),
            "the key `{}` in the key file {name} is all zeros, which everybody knows; make one with `noshi vault new-key`",
            key.id
        );
        keys.push(key);
    }
    ensure!(!keys.is_empty(), "the key file {name} holds no key; {hint}");
    Ok(keys)
}

/// The first key of a public key file, all of whose lines must be right.
pub fn public_keys(file: &Path) -> anyhow::Result<Sealer> {
    let name = file.display();
    let hint = "it takes what `noshi vault public` prints where the key file is";
    check_writers(file).with_context(|| format!("the public key file {name} cannot be used; {hint}"))?;
    let mut first = None;
    for (number, line) in lines(&read(file)?) {
        // It may have been put where many read it.
        if secret_line(line).is_some() {
            bail!(
                "line {number} of the public key file {name} is a secret key; {hint}. If others could read this file, replace the key: `noshi vault new-key`, then `noshi vault rotate`"
            );
        }
        let sealer = Sealer::parse(line)
            .with_context(|| format!("line {number} of the public key file {name} cannot be used"))?;
        first.get_or_insert(sealer);
    }
    first.ok_or_else(|| anyhow!("the public key file {name} holds no key; {hint}"))
}

fn read(file: &Path) -> anyhow::Result<Zeroizing<String>> {
    let text = fs::read_to_string(file).with_context(|| format!("cannot read the key file {}", file.display()))?;
    Ok(Zeroizing::new(text))
}

/// Lines that say something, with their numbers.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().map(str::trim).zip(1..);
    lines.filter(|(line, _)| !line.is_empty() && !line.starts_with('#')).map(|(line, number)| (number, line))
}

fn is_id(id: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..=32).contains(&id.len()) && id.bytes().all(word)
}

pub(super) fn secret_line(line: &str) -> Option<Key> {
    let (id, digits) = line.split_once(':').filter(|(id, _)| is_id(id))?;
    let mut whole = false;
    let bytes = SecretBox::init_with_mut(|bytes: &mut [u8; 32]| whole = hex::decode_to_slice(digits, bytes).is_ok());
    whole.then(|| Key::new(id.to_owned(), bytes))
}

fn public_parts(line: &str) -> Option<(&str, &str)> {
    let (id, rest) = line.split_once(':')?;
    Some((id, rest.strip_prefix("pub:")?))
}

/// As it is written; whether anything can be sealed to it is another question.
pub fn public_line(line: &str) -> Option<Sealer> {
    let (id, digits) = public_parts(line).filter(|(id, _)| is_id(id))?;
    let mut bytes = [0; 32];
    hex::decode_to_slice(digits, &mut bytes).ok()?;
    Some(Sealer { id: id.to_owned(), public: hpke::Deserializable::from_bytes(&bytes).ok()? })
}

/// What another process may feed, or never ends, is waited for by nobody: a pipe, a device.
fn regular(file: &Path) -> anyhow::Result<fs::Metadata> {
    let metadata = fs::metadata(file)?;
    ensure!(metadata.is_file(), "it is no file but a pipe, a device or a folder; put the secret into a file");
    Ok(metadata)
}

/// Whether a file with a secret is closed to others: the vault's keys, and what partners know us by.
#[cfg(unix)]
pub fn check_permissions(file: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::MetadataExt;
    let file = regular(file)?;
    let (mode, owner, we) = (file.mode() & 0o777, file.uid(), rustix::process::geteuid().as_raw());
    ensure!(is_closed(mode, owner, we), "others may read or write it (mode {mode:03o}); run `chmod 600` on it");
    ensure!(
        owner == we || owner == 0,
        "it belongs to user {owner}, who may read and change it; run `chown {we}` on it"
    );
    Ok(())
}

/// Orchestrators hand a secret over as a file of root's that the process may read by its group: a volume of Kubernetes by `fsGroup`,
/// a credential of systemd by an access list, whose mask shows as the group's bits.
#[cfg(unix)]
pub const fn is_closed(mode: u32, owner: u32, we: u32) -> bool {
    let handed_over = owner == 0 && we != 0;
    mode & if handed_over { 0o037 } else { 0o077 } == 0
}

#[cfg(not(unix))]
pub fn check_permissions(file: &Path) -> anyhow::Result<()> {
    regular(file).map(drop)
}

/// Whether nobody else can put a key of their own there, to which everything would be sealed.
#[cfg(unix)]
fn check_writers(file: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::MetadataExt;
    let file = regular(file)?;
    let (mode, owner, we) = (file.mode() & 0o777, file.uid(), rustix::process::geteuid().as_raw());
    ensure!(mode & 0o022 == 0, "others may write it (mode {mode:03o}); run `chmod go-w` on it");
    ensure!(owner == we || owner == 0, "it belongs to user {owner}, who may change it; run `chown {we}` on it");
    Ok(())
}

#[cfg(not(unix))]
fn check_writers(file: &Path) -> anyhow::Result<()> {
    regular(file).map(drop)
}
