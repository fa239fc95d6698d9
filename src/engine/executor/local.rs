//! Steps whose operation is in our own database: operation and transition in one transaction.

use futures::FutureExt;
use noshi_jobs::{
    Problem,
    machine::{Doubt, Job, Terms},
};
use std::panic::AssertUnwindSafe;
use tracing::Span;

use super::{MAX_REFUSALS, Run, UNWIND_DEADLINE};
use crate::{
    db::{
        self,
        domain::facts,
        local::Local,
        queue::settle::{Settled, Settlement},
    },
    engine::retry::{Broken, DatabaseBackoff},
    telemetry::traces,
};

impl<J: Job> Run<'_, J>
where
    facts::Fact: From<J::Fact>,
{
    /// A step whose operation is in our own database: operation and transition in one transaction.
    pub(super) async fn step_locally(&mut self, state: &J::State, terms: &Terms<J::State>) -> Option<J::State> {
        let mut backoff = DatabaseBackoff::default();
        let mut refusals = 0;
        let mut broken = Broken::default();
        let mut unanswered = false;
        loop {
            if !self.takes(UNWIND_DEADLINE) {
                return None;
            }
            match self.try_locally(state, terms).await {
                Ok((Settled::Applied, settlement, next)) => {
                    self.engine.after_settle(J::KIND, &settlement);
                    self.applied(settlement.status, &settlement.at);
                    self.entered(settlement.doubt);
                    return next;
                }
                // It may be our own of which the answer was lost: the job goes on from its row.
                Ok((Settled::Stale, ..)) if unanswered => {
                    self.engine.give_back_as_it_stands(self.work.claimed.id, self.work.claimed.lease).await;
                    return None;
                }
                Ok((Settled::Stale | Settled::Refused, ..)) => return None,
                Ok((Settled::FollowUpConflict, ..)) => {
                    self.park_conflict(state).await;
                    return None;
                }
                Err(error) if db::is_answer(&error) || broken.for_ever(db::is_internal(&error)) => {
                    tracing::error!(job = self.work.claimed.id, %error, "a local operation was refused");
                    refusals += 1;
                    if refusals >= MAX_REFUSALS || db::is_internal(&error) {
                        let why = Problem::LocalRefused;
                        let mut parked = self.place().parked(state, why.code(), why, Doubt::AsBefore);
                        parked.detail = db::said(&error);
                        self.engine.end_step(J::KIND, parked).await;
                        return None;
                    }
                }
                Err(error) => {
                    tracing::warn!(job = self.work.claimed.id, %error, "a local operation was not answered; trying again");
                    unanswered = true;
                }
            }
            if self.engine.stopping() || !self.engine.may_call() {
                match unanswered {
                    true => self.engine.give_back_as_it_stands(self.work.claimed.id, self.work.claimed.lease).await,
                    false => self.hand_back().await,
                }
                return None;
            }
            backoff.pause().await;
        }
    }

    async fn try_locally(
        &self,
        state: &J::State,
        terms: &Terms<J::State>,
    ) -> Result<(Settled, Settlement, Option<J::State>), sqlx::Error> {
        let local = Local::default();
        local.begin(&self.engine.pool).await?;
        let world = self.outside.world(self.engine, &self.work.claimed, &local);
        let this = self.this();
        let step = tokio::select! {
            step = AssertUnwindSafe(J::step(&this, state.clone(), &*world)).catch_unwind() => step,
            error = local.failure() => return Err(error),
        };
        let transaction = local.take().await;
        let (Ok(step), Some(transaction)) = (step, transaction) else {
            // The transaction is dropped, and its operation with it.
            let settlement = self.place().broken(state, terms, "panicked", Problem::Panicked);
            return Ok((self.engine.end_step(J::KIND, settlement.clone()).await, settlement, None));
        };
        let (settlement, next) = self.place().stepped(state, terms, step);
        traces::came_to(&Span::current(), settlement.outcome);
        let settled = db::queue::settle::settle_local(transaction, self.engine.worker, &settlement).await?;
        Ok((settled, settlement, next))
    }
}
