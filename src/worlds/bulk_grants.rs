//! The world of bulk grants: registering a batch, and announcing it page by page.

use noshi_jobs::{
    bulk_grants::{Announce, Args, Register, World},
    machine::Call,
};

use crate::{
    basics::chaos::{Bug, crash_point, planted},
    db::{PgPool, domain::batches, enqueue, local::Local},
};

/// What one claimed batch meets in our own database.
pub struct GrantWorld {
    pub local: Local,
    pub pool: PgPool,
    /// What the jobs of its rows inherit.
    pub traceparent: String,
}

impl World for GrantWorld {
    fn register<'a>(&'a self, args: &'a Args) -> Call<'a, Register> {
        Box::pin(async move {
            crash_point("register.before");
            if planted(Bug::MailBeforeCommit)
                && let Ok(mut connection) = self.pool.acquire().await
            {
                let _ = batches::announce(&mut connection, args.batch, 0).await;
            }
            let registered = self.local.run(async |connection| batches::register(connection, args.batch).await).await;
            crash_point("register.in_transaction");
            registered
        })
    }

    fn announce<'a>(&'a self, args: &'a Args, after: i32) -> Call<'a, Announce> {
        Box::pin(async move {
            crash_point("announce.before");
            let announce = async |connection: &mut crate::db::PgConnection| {
                enqueue::belong_to(connection, &self.traceparent).await?;
                batches::announce(connection, args.batch, after).await
            };
            let page = self.local.run(announce).await;
            crash_point("announce.in_transaction");
            page
        })
    }
}
