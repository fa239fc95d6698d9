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
    /// Prints the lines of the public key file, for hosts that seal and open nothing: the API and whoever submits files.
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
    let mut done = Rotation { keys: &keys, pool: &pool, rewrapped: 0, closed: 0, some_closed: vec![] };
    // Until a pass finds nothing: values came under the old key meanwhile.
    while done.pass(&mut progress).await? > 0 {}
    drop(progress);
    done.told(out).await
}

/// How far a rotation has come.
struct Rotation<'a> {
    keys: &'a vault::Vault,
    pool: &'a PgPool,
    rewrapped: u64,
    /// What does not open in this pass: it was sealed by somebody else, or changed. Some of it by what it is and whose.
    closed: u64,
    some_closed: Vec<String>,
}

/// So many are named.
const MAX_NAMED: usize = 20;

impl Rotation<'_> {
    fn older_keys(&self) -> Vec<String> {
        self.keys.key_ids().split_off(1)
    }

    /// All values under older keys, a page at a time. Returns how many are under the new one now.
    async fn pass(&mut self, progress: &mut Progress) -> anyhow::Result<u64> {
        let (older, mut after, mut rewrapped) = (self.older_keys(), Default::default(), 0);
        (self.closed, self.some_closed) = (0, vec![]);
        loop {
            let rows = db::domain::facts::sealed_under(self.pool, &older, &after).await?;
            let Some(last) = rows.last() else { return Ok(rewrapped) };
            after = (last.what.clone(), last.subject.clone());
            let done = self.page(rows).await?;
            progress.advance(done);
            rewrapped += done;
            self.rewrapped += done;
        }
    }

    /// What does not open is passed over: whoever can submit files can seal what opens nowhere, and holds up nothing by that. Everything is sealed
    /// before the transaction begins.
    async fn page(&mut self, rows: Vec<db::domain::facts::SealedRow>) -> anyhow::Result<u64> {
        let (sealing, mut sealed) = (self.keys.begin(), vec![]);
        for row in rows {
            let place = vault::SealedAt { grant: &row.grant, provider: &row.provider, column: &row.what };
            match self.keys.rewrap(&sealing, &place, &row.sealed) {
                Ok(anew) => sealed.push((row, anew)),
                Err(_) => {
                    self.closed += 1;
                    if self.some_closed.len() < MAX_NAMED {
                        self.some_closed.push(format!("{} of {}", row.what, row.subject).escape_debug().to_string());
                    }
                }
            }
        }
        let (mut transaction, mut rewrapped) = (self.pool.begin().await?, 0);
        for (mut row, anew) in sealed {
            if !db::domain::facts::replace_sealed(&mut transaction, &row, &anew).await? {
                continue;
            }
            row.sealed = anew;
            if row.what == "suppressed" {
                digest_again(&mut transaction, self.keys, &row).await?;
            }
            rewrapped += 1;
        }
        crash_point("rotate.before_commit");
        transaction.commit().await?;
        crash_point("rotate.after_commit");
        Ok(rewrapped)
    }

    async fn told(self, out: Out) -> anyhow::Result<()> {
        let (rewrapped, key) = (self.rewrapped, self.keys.current_key());
        let foreign = db::domain::facts::other_keys(self.pool, &self.keys.key_ids()).await?;
        let mut left = vec![];
        left.extend(foreign.iter().take(MAX_NAMED).map(|key| {
            let key = key.escape_debug();
            format!("there are values under the key `{key}`, which the key file does not hold; if it was ever one of yours, add it, and run this again")
        }));
        if foreign.len() > MAX_NAMED {
            left.push("there are more such keys".to_owned());
        }
        if self.closed > 0 {
            let (closed, some) = (grouped(self.closed), self.some_closed.join(", "));
            left.push(format!(
                "{closed} values do not open, since they were changed, or sealed by somebody for another place: {some}"
            ));
        }
        if !left.is_empty() {
            let older = self.older_keys().join(", ");
            let retire = match older.is_empty() {
                true => String::new(),
                false => {
                    format!(" Nothing that is left opens with {older}: what is in the key file besides {key} may go.")
                }
            };
            bail!(
                "{} values are under the key {key}; not all. {}.{retire} What a cancelled batch left so is deleted by the schema's owner, from noshi_sealed.sealed",
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
    let place = vault::SealedAt { grant: &row.grant, provider: &row.provider, column: &row.what };
    let address = keys.unseal(&place, &row.sealed)?;
    let digests = keys.digests(&address);
    let digest = digests.first().context("a vault has a key")?;
    db::domain::mails::replace_digest(connection, &row.subject, digest, keys.current_key()).await?;
    Ok(())
}
