//! What a step meets outside: the local operations of its transaction. The calls are in `clients`.

use std::sync::Arc;

use crate::store::{PgPool, Transaction};
use noshi_jobs::{
    machine::Call,
    probe::{self, Answer, TakenBack, Tally},
};
use tokio::sync::{Mutex, Notify};

use crate::store::facts;

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
        operation: impl AsyncFnOnce(&mut crate::store::PgConnection) -> Result<T, sqlx::Error>,
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

/// The probe's world: nothing but what its arguments script.
pub struct ProbeWorld {
    pub local: Local,
    pub job: i64,
}

impl probe::World for ProbeWorld {
    fn call<'a>(&'a self, args: &'a probe::Args, turn: u32) -> Call<'a, Answer> {
        let answer = args.answers.get(turn as usize).copied().unwrap_or(Answer::Ok);
        Box::pin(async move {
            match answer {
                Answer::Panic if cfg!(debug_assertions) => panic!("the probe was told to panic"),
                Answer::Hang if cfg!(debug_assertions) => std::future::pending().await,
                Answer::Block if cfg!(debug_assertions) => {
                    tokio::task::block_in_place(|| std::thread::sleep(std::time::Duration::from_secs(30)));
                    Answer::Unknown
                }
                #[cfg(debug_assertions)]
                Answer::Die => crate::chaos::die(),
                Answer::Ok
                | Answer::Refused
                | Answer::Busy
                | Answer::NotSent
                | Answer::Unknown
                | Answer::Ask
                | Answer::Panic
                | Answer::Hang
                | Answer::Block => answer,
                #[cfg(not(debug_assertions))]
                Answer::Die => answer,
            }
        })
    }

    fn tally<'a>(&'a self, name: &'a str) -> Call<'a, Tally> {
        Box::pin(async move {
            match self.local.run(async |connection| facts::tally(connection, name, self.job).await).await {
                true => Tally::Inserted,
                false => Tally::Taken,
            }
        })
    }

    fn take_back<'a>(&'a self, _: &'a probe::Args) -> Call<'a, TakenBack> {
        Box::pin(async { TakenBack::Ok })
    }
}
