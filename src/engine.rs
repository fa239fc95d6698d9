//! What every running job of this process shares.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crate::store::PgPool;
use noshi_jobs::{
    Kind,
    machine::{Closing, Job},
};

use crate::{
    chaos::crash_point,
    flush::Flusher,
    gifts::Gifts,
    hints::Hints,
    lease::{Held, LeaseClock},
    mails::Mails,
    retry::DatabaseBackoff,
    store::{
        self,
        claim::Claimed,
        settle::{Settled, Settlement, Status},
    },
    stores::Stores,
    world::Local,
};

/// Makes the world that a job's step meets.
pub trait Outside<J: Job> {
    fn world(&self, claimed: &Claimed, local: &Local) -> Box<J::World>;
}

/// The other systems that jobs call, as the settings name them.
#[derive(Clone, Default)]
pub struct Partners {
    pub gifts: Arc<Gifts>,
    pub mails: Arc<Mails>,
    pub stores: Arc<Stores>,
}

impl Partners {
    /// Makes sure that every partner's lane exists with its budgets.
    pub async fn declare_lanes(&self, pool: &PgPool) -> Result<(), sqlx::Error> {
        self.gifts.declare_lanes(pool).await?;
        self.mails.declare_lanes(pool).await?;
        self.stores.declare_lanes(pool).await
    }
}

pub struct Engine {
    pub worker: i64,
    pub pool: PgPool,
    pub flusher: Flusher,
    pub held: Held,
    pub clock: Arc<LeaseClock>,
    pub hints: Hints,
    pub partners: Partners,
    pub stopping: AtomicBool,
    /// The last round of claims was answered.
    pub claims: AtomicBool,
    /// Places where jobs stand that a newer version wrote; they are not claimed again by this process.
    pub unknown: Mutex<BTreeSet<String>>,
}

impl Engine {
    pub fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// How long the end of a step may take beyond the step itself: its settle, asked again, and what comes with it.
    pub fn patience(&self) -> Duration {
        self.clock.lease() * 6
    }

    /// Nobody can have declared this worker dead yet.
    pub fn may_call(&self) -> bool {
        self.clock.may_call()
    }

    /// Returns once it is known what became of the settle.
    pub async fn settle(&self, kind: Kind, settlement: Settlement) -> Settled {
        let written = settlement.clone();
        let settled = self.flusher.settle(settlement).await;
        match settled {
            Settled::Applied => self.settled(kind, &written),
            Settled::Stale => {
                metrics::counter!("noshi_stale_settles_total", "kind" => kind.name()).increment(1);
                tracing::warn!(
                    job = written.id,
                    lease = written.lease,
                    "stale: the lease was lost, nothing was written"
                );
            }
            Settled::FollowUpConflict => {
                tracing::error!(job = written.id, "a follow-up exists with other arguments; the step was not recorded");
            }
        }
        settled
    }

    /// After a settle is durable: figures, and a hint where the job waits for somebody.
    pub fn settled(&self, kind: Kind, settlement: &Settlement) {
        metrics::counter!("noshi_steps_total", "kind" => kind.name()).increment(1);
        let outcome = match settlement.status {
            Status::Running => return,
            Status::Available => return self.hints.available(&settlement.lane),
            Status::Scheduled | Status::Retryable => return self.hints.due_in(settlement.delay),
            Status::NeedsOperator => "needs_operator",
            Status::Completed => "completed",
            Status::Failed if settlement.outcome == "compensated" => "compensated",
            Status::Failed => "failed",
            Status::Cancelled => "cancelled",
        };
        if settlement.status == Status::NeedsOperator {
            tracing::error!(
                job = settlement.id,
                kind = kind.name(),
                code = settlement.code,
                at = settlement.at,
                "a person is needed"
            );
        }
        metrics::counter!("noshi_jobs_total", "kind" => kind.name(), "outcome" => outcome).increment(1);
        if let Some(code) = settlement.code {
            metrics::counter!("noshi_problems_total", "code" => code).increment(1);
        }
        if !settlement.follow_ups.is_empty() {
            self.hints.available("");
        }
    }

    /// Leaves a job to the newer version that knows where it stands: given back at once, and not claimed from there again.
    pub async fn leave_alone(&self, claimed: &Claimed) {
        let place = claimed.place();
        if self.unknown.lock().unwrap_or_else(PoisonError::into_inner).insert(place.clone()) {
            tracing::warn!(place, "a newer version wrote this state; jobs there are left alone");
        }
        self.hand_back(&[(claimed.id, claimed.lease, claimed.step)]).await;
    }

    pub fn unknown(&self) -> Vec<String> {
        self.unknown.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// Gives jobs back untouched. If the database is away, they are found lost later.
    pub async fn hand_back(&self, jobs: &[(i64, i64, i32)]) {
        crash_point("hand_back.before");
        if let Err(error) = store::claim::hand_back(&self.pool, self.worker, jobs).await {
            tracing::warn!(%error, jobs = jobs.len(), "could not hand jobs back; they will be found lost");
        }
        crash_point("hand_back.after");
    }

    /// Closes the lane for the fleet before the answer that asked for it is recorded.
    pub async fn close_lane(&self, lane: &str, closing: Closing) {
        match closing {
            Closing::Throttled(wait) => {
                tracing::warn!(lane, ?wait, "throttled: the lane is closed for the whole fleet")
            }
            Closing::Funds => tracing::error!(lane, "out of funds: new writes wait until an operator opens the lane"),
            Closing::Credentials => {
                tracing::error!(lane, "credentials refused: nobody calls until an operator opens the lane")
            }
        }
        crash_point("lane_close.before");
        let mut backoff = DatabaseBackoff::default();
        for _ in 0..5 {
            match store::lanes::close(&self.pool, lane, closing).await {
                Ok(()) => return crash_point("lane_close.after"),
                Err(error) => tracing::warn!(lane, %error, "the lane could not be closed; trying again"),
            }
            backoff.pause().await;
        }
    }
}

/// How a worker runs.
#[derive(Debug, Clone)]
pub struct Pace {
    /// Jobs in hand at once.
    pub slots: usize,
    /// A worker silent for this long may be declared dead.
    pub lease: Duration,
    /// How often an idle lane is looked at; NOTIFY is only a hint.
    pub poll: Duration,
    /// How long a graceful shutdown waits for steps in flight.
    pub grace: Duration,
    /// LISTEN for hints.
    pub listen: bool,
    /// How long it says that it is not ready before it stops to claim.
    pub unready: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Pace {
            slots: 128,
            lease: Duration::from_secs(10),
            poll: Duration::from_secs(1),
            grace: Duration::from_secs(30),
            listen: true,
            unready: Duration::ZERO,
        }
    }
}
