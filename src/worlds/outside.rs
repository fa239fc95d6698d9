//! The other systems that jobs call, and the secrets that were read last.

use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::Notify;

use super::{email::Mails, gift_issuance::Gifts, store_creation::Stores};
use crate::{db::PgPool, vault::Vault};

/// The other systems that jobs call, as the settings name them.
#[derive(Clone, Default)]
pub struct Partners {
    pub gifts: Arc<Gifts>,
    pub mails: Arc<Mails>,
    pub stores: Arc<Stores>,
    /// Opens what is asked for, where the settings name its keys.
    pub vault: Option<Arc<Vault>>,
}

impl Partners {
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<&str> = self.gifts.names().collect();
        names.extend(self.mails.name());
        names.extend(self.stores.calls().map(|(name, _)| name));
        names.into_iter().map(str::to_owned).collect()
    }

    /// Makes sure that every partner's lane exists with its budgets.
    pub async fn declare_lanes(&self, pool: &PgPool) -> Result<(), sqlx::Error> {
        self.gifts.declare_lanes(pool).await?;
        self.mails.declare_lanes(pool).await?;
        self.stores.declare_lanes(pool).await
    }
}

/// The partners with the secrets that were read last. A step that is under way ends with those it began with.
pub struct Current {
    now: RwLock<Arc<Partners>>,
    changed: Notify,
}

impl Current {
    pub fn new(partners: Partners) -> Current {
        Current { now: RwLock::new(Arc::new(partners)), changed: Notify::new() }
    }

    pub fn now(&self) -> Arc<Partners> {
        Arc::clone(&self.now.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// From the next step on. Refused where another set of partners is named: lanes, metrics and routes are made at the start.
    pub fn replace(&self, partners: Partners) -> anyhow::Result<()> {
        let (before, after) = (self.now().names(), partners.names());
        anyhow::ensure!(
            before == after,
            "the settings name other partners ({}) than at the start ({}); that takes a restart",
            after.join(", "),
            before.join(", ")
        );
        *self.now.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(partners);
        self.changed.notify_waiters();
        Ok(())
    }

    /// Keeps the mail lane at the account's own quota, asked for with the secrets that hold.
    pub async fn keep_quota(&self, pool: &PgPool) {
        loop {
            let changed = self.changed.notified();
            let mails = Arc::clone(&self.now().mails);
            let quota = async {
                mails.keep_quota(pool.clone()).await;
                // There is none to keep.
                std::future::pending::<()>().await;
            };
            tokio::select! { () = quota => {} () = changed => {} }
        }
    }
}
