//! `noshi vault`: the keys that seal gift codes and recipients.

use anyhow::Context;
use clap::Subcommand;
use secrecy::ExposeSecret;

use super::Database;
use crate::{
    chaos::crash_point,
    settings::Settings,
    store::{self, Role},
    vault,
};

#[derive(Subcommand)]
pub enum VaultCommand {
    /// Prints a new key line; put it first in the key file.
    NewKey,
    /// Seals everything again under the first key of the file; safe to interrupt and to repeat. Restart the workers with the new file first.
    Rotate(Database),
}

pub async fn run(settings: impl Fn() -> anyhow::Result<Settings>, command: VaultCommand) -> anyhow::Result<()> {
    match command {
        VaultCommand::NewKey => {
            println!("{}", vault::generate_key_line().expose_secret());
            Ok(())
        }
        VaultCommand::Rotate(database) => rotate(&settings()?, database.url()?).await,
    }
}

async fn rotate(settings: &Settings, url: &str) -> anyhow::Result<()> {
    let keys = settings.vault()?;
    let pool = store::connect(url, Role::Login, 1).await?;
    let mut rewrapped = 0;
    loop {
        let mut transaction = pool.begin().await?;
        let Some(rows) = store::facts::sealed_under_another_key(&mut transaction, keys.current_key()).await? else {
            println!("{rewrapped} sealed values are now under the key {}", keys.current_key());
            return Ok(());
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
