//! What every running job of this process shares.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use noshi_jobs::{
    KindName, Problem,
    machine::{Closing, Tls, Unfit},
};

use crate::{
    basics::chaos::crash_point,
    db::{
        self, PgPool,
        queue::{
            claim::Claimed,
            settle::{Settled, Settlement, Status},
            slot::Lateness,
        },
    },
    engine::{
        brake::Brake,
        group_commit::Flusher,
        hints::Hints,
        lease::{Held, LeaseClock},
        retry::DatabaseBackoff,
        witness::Witness,
    },
    telemetry::outcomes::JobOutcome,
};

/// How long a process keeps away from a lane that it is not fit for, before it tries again.
const KEPT_AWAY: Duration = Duration::from_secs(60);

/// What takes longer than a locked row is waited for is no answer.
const SILENCE: Duration = Duration::from_secs(3);

/// Whether the database answers who claims, on the connections that claim.
#[derive(Debug, Default)]
pub struct Answers {
    good: AtomicBool,
    /// Since when something is asked, and nothing was answered.
    asked: Mutex<Option<Instant>>,
}

impl Answers {
    pub fn asked(&self) {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(Instant::now);
    }

    /// Something came back, whatever it says.
    pub fn heard(&self) {
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    pub fn say(&self, good: bool) {
        self.heard();
        self.good.store(good, Ordering::Relaxed);
    }

    pub fn are_good(&self) -> bool {
        let asked = *self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        self.good.load(Ordering::Relaxed) && asked.is_none_or(|since| since.elapsed() < SILENCE)
    }
}

pub struct Engine {
    pub worker: i64,
    pub token: sqlx::types::Uuid,
    pub witness: Arc<Witness>,
    pub pool: PgPool,
    pub flusher: Flusher,
    pub held: Held,
    pub clock: Arc<LeaseClock>,
    pub lateness: Arc<Lateness>,
    /// Whether the database's clock can be trusted.
    pub clocks: crate::engine::clocks::Clocks,
    pub hints: Hints,
    pub bell: crate::engine::bell::Bell,
    pub stopping: AtomicBool,
    pub claims: Answers,
    /// Places where jobs stand that a newer version wrote; they are not claimed again by this process.
    pub unknown: Mutex<BTreeSet<String>>,
    /// Partners that answer nothing clearly.
    pub brake: Brake,
    /// Lanes that this process keeps away from, until when, and why.
    pub away: Mutex<HashMap<String, (Instant, Unfit)>>,
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
    pub async fn end_step(&self, kind: KindName, settlement: Settlement) -> Settled {
        let written = settlement.clone();
        let settled = self.flusher.commit_with_others(settlement).await;
        match settled {
            Settled::Applied => self.after_settle(kind, &written),
            Settled::Stale => {
                metrics::counter!("noshi_stale_settles_total", "kind" => kind.name()).increment(1);
                tracing::warn!(
                    job = written.id,
                    lease = written.lease,
                    "stale: the lease was lost, nothing was written"
                );
            }
            Settled::Refused => self.after_refusal(kind),
            Settled::FollowUpConflict => {
                tracing::error!(job = written.id, "a follow-up exists with other arguments; the step was not recorded");
            }
        }
        settled
    }

    /// The job was parked because the database refuses what its step led to.
    fn after_refusal(&self, kind: KindName) {
        metrics::counter!("noshi_jobs_total", "kind" => kind.name(), "outcome" => JobOutcome::NeedsOperator.name())
            .increment(1);
        metrics::counter!("noshi_problems_total", "code" => Problem::SettleRefused.code()).increment(1);
    }

    /// After a settle is durable: metrics, and a hint where the job waits for somebody.
    pub fn after_settle(&self, kind: KindName, settlement: &Settlement) {
        metrics::counter!("noshi_steps_total", "kind" => kind.name()).increment(1);
        let outcome = match settlement.status {
            Status::Running => return,
            Status::Available => return self.hints.available(&settlement.lane),
            Status::Scheduled | Status::Retryable => return self.hints.due_in(settlement.delay),
            Status::NeedsOperator => JobOutcome::NeedsOperator,
            Status::Completed => JobOutcome::Completed,
            Status::Failed if settlement.outcome == "compensated" => JobOutcome::Compensated,
            Status::Failed => JobOutcome::Failed,
            Status::Cancelled => JobOutcome::Cancelled,
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
        metrics::counter!("noshi_jobs_total", "kind" => kind.name(), "outcome" => outcome.name()).increment(1);
        // A code that its kind does not declare is no label: those are closed at the start.
        if let Some(code) = settlement.code.filter(|code| Problem::from_code(code).is_some()) {
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
        jobs.iter().for_each(|(job, lease, _)| self.witness.not_called(*job, *lease));
        self.give_back(jobs).await;
    }

    /// The same of jobs that an earlier step under this lease may have called for: what it left is in their rows, and stays remembered here.
    pub async fn give_back(&self, jobs: &[(i64, i64, i32)]) {
        crash_point("hand_back.before");
        if let Err(error) = db::queue::claim::hand_back(&self.pool, self.worker, jobs).await {
            // Nothing was called since they were last written: found lost, they are given back as they stand.
            jobs.iter().for_each(|(job, lease, _)| self.witness.let_go(*job, *lease));
            tracing::warn!(%error, jobs = jobs.len(), "could not hand jobs back; they will be found, and given back then");
        }
        crash_point("hand_back.after");
    }

    /// Gives a job back as it stands, whatever its row came to: an operation of our own may have been applied, and nobody was called for it.
    pub async fn give_back_as_it_stands(&self, job: i64, lease: i64) {
        self.witness.let_go(job, lease);
        if let Err(error) = db::queue::recover::never_held(&self.pool, self.worker, &[(job, lease)]).await {
            tracing::warn!(job, %error, "could not hand a job back; it will be found, and given back then");
        }
    }

    /// Leaves a lane to the other processes for a while, because of what is wrong with this one.
    fn keep_away(&self, lane: &str, why: Unfit) {
        tracing::error!(
            lane,
            why = why.name(),
            seconds = KEPT_AWAY.as_secs(),
            "this process keeps away from the lane; nothing closes, and the other processes go on"
        );
        let mut away = self.away.lock().unwrap_or_else(PoisonError::into_inner);
        away.insert(lane.to_owned(), (Instant::now() + KEPT_AWAY, why));
        metrics::gauge!("noshi_process_kept_away", "lane" => lane.to_owned(), "why" => why.name()).set(1.0);
    }

    /// Whether this process keeps away from the lane now.
    pub fn is_away(&self, lane: &str) -> bool {
        let mut away = self.away.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((until, why)) = away.get(lane).copied() else { return false };
        if Instant::now() < until {
            return true;
        }
        away.remove(lane);
        metrics::gauge!("noshi_process_kept_away", "lane" => lane.to_owned(), "why" => why.name()).set(0.0);
        false
    }

    /// Whose fact it is. By a wrong clock every certificate is over, and an authority may be missing on this machine alone: that closes
    /// nothing for the others. A database that does not say what it takes to know is no reason to close either.
    async fn judged(&self, closing: Closing) -> Closing {
        if closing == Closing::Tls(Tls::Expired) && !self.clocks.is_right(&self.pool).await {
            return Closing::Process(Unfit::Clock);
        }
        let alone = async || db::queue::workers::is_alone(&self.pool, self.worker).await.unwrap_or(false);
        if closing == Closing::Tls(Tls::UnknownCa) && !alone().await {
            return Closing::Process(Unfit::Trust);
        }
        closing
    }

    /// Closes the lane for the fleet before the answer that asked for it is recorded.
    pub async fn close_lane(&self, lane: &str, closing: Closing) {
        let closing = self.judged(closing).await;
        match closing {
            Closing::Throttled(wait) => {
                tracing::warn!(lane, ?wait, "throttled: the lane is closed for the whole fleet")
            }
            Closing::Funds => tracing::error!(lane, "out of funds: new writes wait until an operator opens the lane"),
            Closing::Credentials => {
                tracing::error!(lane, "credentials refused: nobody calls until an operator opens the lane")
            }
            Closing::Sender => tracing::error!(
                lane,
                "the account may not send in this sender's name; nothing was sent, and nobody calls until an operator opens the lane"
            ),
            Closing::Tls(_) => tracing::error!(
                lane,
                code = closing.code(),
                "no private connection to the partner; nothing was sent, and nobody calls until an operator opens the lane"
            ),
            Closing::Process(why) => return self.keep_away(lane, why),
        }
        crash_point("lane_close.before");
        let mut backoff = DatabaseBackoff::default();
        for _ in 0..5 {
            match db::queue::lanes::close(&self.pool, lane, closing).await {
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
    /// Jobs in flight at once.
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
