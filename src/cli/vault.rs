//! `noshi vault`: the keys that seal gift codes, recipients and contacts of stores.

use anyhow::{Context, anyhow, bail, ensure};
use clap::{Args, Subcommand};
use noshi_jobs::Kind;
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use super::{Database, out::Out};
use crate::{
    basics::{
        chaos::crash_point,
        requests,
        terminal::progress::{Progress, grouped},
    },
    db::{self, PgPool, Role, operator::audit},
    settings::Settings,
    vault::{
        self,
        contact::{Contact, as_asked},
    },
};

#[derive(Subcommand)]
pub enum VaultCommand {
    /// Prints a new key line; put it first in the key file.
    NewKey,
    /// Prints the lines of the public key file, for hosts that seal and open nothing: interface, door and whoever submits files.
    Public,
    /// Reads {"address": …, "phone": …} of a store, either or both, and prints them sealed: the argument `contact` of a `store_creation` in SQL.
    SealContact(VaultSealContact),
    /// Seals everything again under the first key of the file; safe to interrupt and to repeat. The workers must have the new file: SIGHUP, or a restart.
    Rotate(VaultRotate),
}

#[derive(Args)]
pub struct VaultSealContact {
    /// The store that it is for; as the contact of another it does not open.
    #[arg(long)]
    public_id: String,
}

#[derive(Args)]
pub struct VaultRotate {
    /// Also where a worker of an earlier version does not say which keys it has.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    database: Database,
}

/// What a worker cannot open is a gift that is not shown and a mail that is not sent.
async fn all_have(pool: &PgPool, key: &str, yes: bool) -> anyhow::Result<()> {
    let without = db::queue::workers::without_key(pool, key).await?;
    let named = |says: bool| -> Vec<String> {
        without.iter().filter(|it| it.2 == says).map(|(id, name, _)| format!("{id} ({name})")).collect()
    };
    let (lack, silent) = (named(true), named(false));
    ensure!(
        lack.is_empty(),
        "nothing was sealed again: these workers live and do not have the key {key}: {}. Give them the new key file, then SIGHUP or a restart; then say the same again",
        lack.join(", ")
    );
    ensure!(
        silent.is_empty() || yes,
        "nothing was sealed again: these workers live and do not say which keys they have: {}. If they have the key {key}, say the same with --yes",
        silent.join(", ")
    );
    Ok(())
}

pub async fn run(
    settings: impl Fn() -> anyhow::Result<Settings>,
    out: Out,
    command: VaultCommand,
) -> anyhow::Result<()> {
    match command {
        VaultCommand::NewKey => {
            let line = vault::generate_key_line();
            out.one(&json!({"line": line.expose_secret()}), |_| line.expose_secret().to_owned())
        }
        VaultCommand::Public => {
            let lines = settings()?.vault()?.public_lines();
            out.one(&json!({"lines": lines}), |_| lines.join("\n"))
        }
        VaultCommand::SealContact(args) => {
            let asked = seal_contact(&settings()?, &args.public_id, std::io::stdin())?;
            out.one(&asked, |asked| asked.to_string())
        }
        VaultCommand::Rotate(args) => rotate(&settings()?, out, &args).await,
    }
}

/// No sentence repeats what was read.
fn seal_contact(settings: &Settings, public_id: &str, input: impl std::io::Read) -> anyhow::Result<Value> {
    let sealer = settings.sealer()?;
    let contact: Contact = serde_json::from_reader(input)
        .map_err(|_| anyhow!("the input is no {{\"address\": …, \"phone\": …}}; nothing was sealed"))?;
    ensure!(!contact.is_empty(), "the input has neither `address` nor `phone`; nothing was sealed");
    // As files and HTTP judge it.
    let mut args = json!({"organization": "o", "public_id": public_id, "name": "n", "request": "r"});
    for (field, value) in [("address", &contact.address), ("phone", &contact.phone)] {
        args[field] = value.as_deref().into();
    }
    if let Some((field, sentence)) = requests::fault(Kind::StoreCreation, &args) {
        bail!("{field}: {sentence}; nothing was sealed");
    }
    Ok(as_asked(&sealer.seal(&Contact::place(public_id), &contact.text())))
}

async fn rotate(settings: &Settings, out: Out, args: &VaultRotate) -> anyhow::Result<()> {
    let keys = settings.vault()?;
    let pool = db::connect(args.database.url()?, Role::Login, 1).await?;
    all_have(&pool, keys.current_key(), args.yes).await?;
    // Before the first value: one that is broken off is on record as well.
    audit::record(&pool, "vault rotate", "vault/keys", json!({"key": keys.current_key()})).await?;
    let mut progress = Progress::begin("sealing again", None).kept(|done, _| {
        format!("{} values are under the new key, and the others open as before: keep the old key in the file, and run the same again", grouped(done))
    });
    let mut done = Rotation::of(&keys);
    loop {
        let mut transaction = pool.begin().await?;
        let Some(key) = db::domain::facts::another_key(&mut transaction, &done.finished).await? else { break };
        let rewrapped = done.page(&mut transaction, key).await?;
        progress.advance(rewrapped);
        crash_point("rotate.before_commit");
        transaction.commit().await?;
        crash_point("rotate.after_commit");
    }
    drop(progress);
    done.told(out)
}

/// How far a rotation has come.
struct Rotation<'a> {
    keys: &'a vault::Vault,
    rewrapped: u64,
    /// Keys under which nothing is left that could be sealed again.
    finished: Vec<String>,
    /// Keys that the key file does not hold.
    unknown: Vec<String>,
    /// What does not open, by what it is and whose: it was sealed by somebody else, or changed.
    closed: Vec<(String, String)>,
}

/// So many values that do not open are no forgery, but another mistake.
const MAX_CLOSED: usize = 1_000;

impl<'a> Rotation<'a> {
    fn of(keys: &'a vault::Vault) -> Self {
        let finished = vec![keys.current_key().to_owned()];
        Rotation { keys, rewrapped: 0, finished, unknown: vec![], closed: vec![] }
    }

    /// A page of values of one key. Returns how many are under the new one now: whoever can submit files can seal what opens nowhere, and holds up
    /// nothing by that.
    async fn page(&mut self, connection: &mut crate::db::PgConnection, key: String) -> anyhow::Result<u64> {
        if !self.keys.knows(&key) {
            self.unknown.push(key.clone());
            self.finished.push(key);
            return Ok(0);
        }
        let rows = db::domain::facts::sealed_under(connection, &key, &self.closed).await?;
        if rows.is_empty() {
            self.finished.push(key);
            return Ok(0);
        }
        let (sealing, mut rewrapped) = (self.keys.begin(), 0);
        for mut row in rows {
            let place = vault::Place { grant: &row.grant, provider: &row.provider, column: &row.what };
            let Ok(sealed) = self.keys.rewrap(&sealing, &place, &row.sealed) else {
                ensure!(
                    self.closed.len() < MAX_CLOSED,
                    "more than {MAX_CLOSED} values do not open: the key file is not the one that they were sealed with"
                );
                self.closed.push((row.what, row.subject));
                continue;
            };
            row.sealed = sealed;
            db::domain::facts::replace_sealed(connection, &row).await?;
            if row.what == "suppressed" {
                digest_again(connection, self.keys, &row).await?;
            }
            rewrapped += 1;
        }
        self.rewrapped += rewrapped;
        Ok(rewrapped)
    }

    fn told(self, out: Out) -> anyhow::Result<()> {
        let (rewrapped, key) = (self.rewrapped, self.keys.current_key());
        if !self.unknown.is_empty() || !self.closed.is_empty() {
            let mut left = vec![];
            left.extend(self.unknown.iter().map(|key| {
                format!("there are values under the key `{key}`, which the key file does not hold; add it, and run this again")
            }));
            left.extend(self.closed.iter().take(20).map(|(what, subject)| {
                format!(
                    "the {what} of {subject} does not open: it was changed, or sealed by somebody for another place"
                )
            }));
            bail!(
                "{} values are under the key {key}; not all. {}. What a cancelled batch left so is deleted by the schema's owner, from noshi_sealed.sealed",
                grouped(rewrapped),
                left.join("; ")
            );
        }
        out.one(&json!({"rewrapped": rewrapped, "key": key}), |_| {
            format!("{rewrapped} sealed values are now under the key {key}")
        })
    }
}

/// A suppressed address is also found by its digest, which hangs on the key.
async fn digest_again(
    connection: &mut crate::db::PgConnection,
    keys: &vault::Vault,
    row: &db::domain::facts::SealedRow,
) -> anyhow::Result<()> {
    let place = vault::Place { grant: &row.grant, provider: &row.provider, column: &row.what };
    let address = keys.unseal(&place, &row.sealed)?;
    let digests = keys.digests(&address);
    let digest = digests.first().context("a vault has a key")?;
    db::domain::mails::replace_digest(connection, &row.subject, digest, keys.current_key()).await?;
    Ok(())
}
