//! The transaction of a local operation, open from before the step until its settle.

use std::sync::Arc;

use tokio::sync::{Mutex, Notify};

use crate::db::{PgPool, Transaction};

/// The transaction of a local operation, open from before the step until its settle.
#[derive(Clone, Default)]
pub struct Local(Arc<Inner>);

#[derive(Default)]
struct Inner {
    transaction: Mutex<Option<Transaction>>,
    failure: Mutex<Option<sqlx::Error>>,
    failed: Notify,
}

impl Local {
    pub async fn begin(&self, pool: &PgPool) -> Result<(), sqlx::Error> {
        *self.0.transaction.lock().await = Some(pool.begin().await?);
        Ok(())
    }

    pub async fn take(&self) -> Option<Transaction> {
        self.0.transaction.lock().await.take()
    }

    /// Resolves when the database refused the operation; the step then never ends by itself.
    pub async fn failure(&self) -> sqlx::Error {
        loop {
            self.0.failed.notified().await;
            if let Some(error) = self.0.failure.lock().await.take() {
                return error;
            }
        }
    }

    /// Runs an operation in the step's transaction. A job has no outcome for a database that is away, so on an error this
    /// does not return: the engine drops the step and its transaction, and tries again.
    pub async fn run<T>(
        &self,
        operation: impl AsyncFnOnce(&mut crate::db::PgConnection) -> Result<T, sqlx::Error>,
    ) -> T {
        let mut transaction = self.0.transaction.lock().await;
        let error = match transaction.as_mut() {
            Some(transaction) => match operation(transaction).await {
                Ok(value) => return value,
                Err(error) => error,
            },
            None => sqlx::Error::Protocol("a local operation outside a local state".to_owned()),
        };
        *self.0.failure.lock().await = Some(error);
        self.0.failed.notify_one();
        std::future::pending().await
    }
}
