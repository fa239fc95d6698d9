//! Addresses that mails bounced from: nothing is sent there any more.

use std::{sync::Arc, time::Duration};

use super::outside::Current;
use crate::{
    db::{self, PgPool},
    engine::Engine,
    vault::{SealedAt, Vault},
};

const BETWEEN_LOOKS: Duration = Duration::from_secs(1);

/// The API seals the addresses that bounced. Who has the keys digests them, and from then on they are found.
pub async fn suppress_addresses(engine: Arc<Engine>, partners: Arc<Current>) {
    loop {
        if let Some(vault) = partners.now().vault.clone() {
            match digest_addresses(&engine.pool, &vault).await {
                Ok(0) => {}
                Ok(_) => continue,
                Err(error) => {
                    tracing::warn!(%error, "addresses that bounced could not be suppressed; trying again");
                }
            }
        }
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
}

/// How many there were, whether they opened or not.
async fn digest_addresses(pool: &PgPool, vault: &Vault) -> Result<usize, sqlx::Error> {
    let mut transaction = pool.begin().await?;
    let sealed = db::domain::mails::undigested(&mut transaction, &vault.key_ids()).await?;
    for (id, sealed) in &sealed {
        match vault.unseal(&SealedAt { grant: id, provider: "", column: "suppressed" }, sealed) {
            Ok(address) => {
                let (digests, key) = (vault.digests(&address), vault.current_key());
                if db::domain::mails::digest(&mut transaction, id, &digests, key).await? {
                    tracing::info!(suppression = id, "nothing is sent to an address any more");
                }
            }
            Err(error) => tracing::error!(
                suppression = id,
                error = format!("{error:#}"),
                "an address that bounced does not open, so mails still go to it; it is tried again in a minute"
            ),
        }
    }
    transaction.commit().await?;
    Ok(sealed.len())
}
