//! `noshi vault`: the keys that seal gift codes and recipients.

use anyhow::Context;
use clap::Subcommand;
use secrecy::ExposeSecret;
use serde_json::json;

use super::{Database, out::Out};
use crate::{
    chaos::crash_point,
    settings::Settings,
    store::{self, Role},
    terminal::progress::{Progress, grouped},
    vault,
};

#[derive(Subcommand)]
pub enum VaultCommand {
    /// Prints a new key line; put it first in the key file.
    NewKey,
    /// Seals everything again under the first key of the file; safe to interrupt and to repeat. Restart the workers with the new file first.
    Rotate(Database),
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
        VaultCommand::Rotate(database) => rotate(&settings()?, out, database.url()?).await,
    }
}

async fn rotate(settings: &Settings, out: Out, url: &str) -> anyhow::Result<()> {
    let keys = settings.vault()?;
    let pool = store::connect(url, Role::Login, 1).await?;
    let mut rewrapped = 0_u64;
    let mut progress = Progress::begin("sealing again", None).kept(|done, _| {
        format!("{} values are under the new key, and the others open as before: keep the old key in the file, and run the same again", grouped(done))
    });
    loop {
        let mut transaction = pool.begin().await?;
        let Some(rows) = store::facts::sealed_under_another_key(&mut transaction, keys.current_key()).await? else {
            drop(progress);
            let key = keys.current_key();
            return out.one(&json!({"rewrapped": rewrapped, "key": key}), |_| {
                format!("{rewrapped} sealed values are now under the key {key}")
            });
        };
        for mut row in rows {
            let place = vault::Place { grant: &row.grant, provider: &row.provider, column: &row.what };
            row.sealed =
                keys.rewrap(&place, &row.sealed).with_context(|| format!("the {} of {}", row.what, row.subject))?;
            store::facts::replace_sealed(&mut transaction, &row).await?;
            if row.what == "suppressed" {
                digest_again(&mut transaction, &keys, &row).await?;
            }
            rewrapped += 1;
            progress.advance(1);
        }
        crash_point("rotate.before_commit");
        transaction.commit().await?;
        crash_point("rotate.after_commit");
    }
}

/// A suppressed address is also found by its digest, which hangs on the key.
async fn digest_again(
    connection: &mut crate::store::PgConnection,
    keys: &vault::Vault,
    row: &store::facts::SealedRow,
) -> anyhow::Result<()> {
    let place = vault::Place { grant: &row.grant, provider: &row.provider, column: &row.what };
    let address = keys.unseal(&place, &row.sealed)?;
    let digests = keys.digests(&address);
    let digest = digests.first().context("a vault has a key")?;
    store::mails::replace_digest(connection, &row.subject, digest, keys.current_key()).await?;
    Ok(())
}
