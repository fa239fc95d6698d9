//! Runs one claimed job: reads where it stands, takes steps, and settles each before the next.
//!
//! A job stays with its worker only through states without a lane. A step in a lane is one call, paid by one token.

mod local;

use std::{
    panic::AssertUnwindSafe,
    sync::PoisonError,
    time::{Duration, Instant},
};

use futures::FutureExt;
use noshi_jobs::{
    Problem,
    machine::{Act, Closing, Doubt, Effect, Job, Step, Terms, This, Transition, Unwind},
};

use tracing::{Instrument, Span};

use crate::{
    basics::chaos::crash_point,
    db::{
        self,
        domain::facts,
        local::Local,
        queue::{
            claim::Claimed,
            settle::{Settled, Settlement, Status},
        },
    },
    engine::{
        Engine,
        registry::{Outside, Work},
        settlement::{self, Target},
    },
    telemetry::traces,
};

/// Taking something back may be slow, but not for ever.
const UNWIND_DEADLINE: Duration = Duration::from_secs(60);

/// What is in doubt is looked at again so long after the clocks agree.
const CLOCK_PAUSE: Duration = Duration::from_secs(1);

/// How often our own database may refuse a step before a person is asked: no retry changes its answer, but a migration under way may.
const MAX_REFUSALS: u32 = 5;

pub async fn execute<J: Job>(engine: &Engine, outside: &dyn Outside<J>, work: &Work)
where
    facts::Fact: From<J::Fact>,
{
    let claimed = &work.claimed;
    if !is_known::<J>(claimed) {
        return engine.leave_alone(claimed).await;
    }
    let args = match serde_json::from_str::<J::Args>(claimed.args.get()) {
        Ok(args) => args,
        Err(error) => return unread::<J>(engine, claimed, Problem::BadArgs, error.to_string()).await,
    };
    let state = match &claimed.state {
        Some(state) => {
            serde_json::from_str::<J::State>(state.get()).map_err(|e| (Problem::UnreadableState, e.to_string()))
        }
        None => J::start(&args).map_err(|e| (Problem::BadArgs, e)),
    };
    let undo = claimed.undo.as_ref().map(|undo| serde_json::from_str::<J::Undo>(undo.get())).transpose();
    let mut run = Run::<J> {
        engine,
        outside,
        work,
        args,
        step: claimed.step,
        retries: claimed.retries,
        in_doubt: claimed.in_doubt,
        fresh: false,
        at: claimed.at.clone(),
    };
    if let (Ok(state), Ok(undo), Some(asked)) = (&state, &undo, &claimed.requested_act) {
        return run.obey(state, undo.as_ref(), asked).await;
    }
    match (state, undo) {
        (Ok(state), Ok(None)) => run.steps(state).await,
        (Ok(end), Ok(Some(undo))) => run.unwind(end, undo).await,
        (Err((why, detail)), _) => unread::<J>(engine, claimed, why, detail).await,
        (_, Err(error)) => unread::<J>(engine, claimed, Problem::UnreadableState, error.to_string()).await,
    }
}

/// This version has the state's name, and the name of what is taken back; whether it can read what is in them is another question.
fn is_known<J: Job>(claimed: &Claimed) -> bool {
    (claimed.state.is_none() || J::STATES.contains(&claimed.at.as_str()))
        && claimed.undo_name().is_none_or(|undo| J::UNDOS.contains(&undo.as_str()))
}

async fn unread<J: Job>(engine: &Engine, claimed: &Claimed, why: Problem, detail: String) {
    // Nothing is done that was asked of a job which this version cannot read: it goes back to its rest.
    if claimed.requested_act.is_some() && claimed.rests {
        return decline(engine, (claimed.id, claimed.lease, claimed.step)).await;
    }
    engine.end_step(J::KIND, settlement::unread(claimed, why, detail)).await;
}

async fn decline(engine: &Engine, held: (i64, i64, i32)) {
    if let Err(error) = db::queue::claim::decline(&engine.pool, engine.worker, held).await {
        tracing::warn!(%error, "the act could not be declined; the job will be found lost, and looked at again");
    }
}

struct Run<'a, J: Job> {
    engine: &'a Engine,
    outside: &'a dyn Outside<J>,
    work: &'a Work,
    args: J::Args,
    step: i32,
    retries: u32,
    in_doubt: bool,
    /// The state was entered in this process, a moment ago.
    fresh: bool,
    /// The name of the state that was settled last.
    at: String,
}

impl<J: Job> Run<'_, J>
where
    facts::Fact: From<J::Fact>,
{
    async fn steps(&mut self, mut state: J::State) {
        loop {
            let terms = J::terms(&self.args, &state);
            if let Some(why) = self.over_its_limits() {
                let settlement = self.place().parked(&state, why.code(), why, Doubt::AsBefore);
                self.settle_step(&state, settlement).await;
                return;
            }
            let unpaid = terms.lane.as_ref().is_some_and(|lane| lane.name != self.work.claimed.lane);
            let in_doubt = self.in_doubt && terms.effect.is_write() && self.work.claimed.lane.is_empty();
            let repeats = matches!(terms.effect, Effect::Write(_, noshi_jobs::machine::InDoubt::Repeat));
            if unpaid || (in_doubt && !repeats) {
                let settlement = self.place().reentered(&state, &terms);
                self.settle_step(&state, settlement).await;
                return;
            }
            // How long ago its last call was, nobody can tell now: it waits until the clocks agree, since nothing falls due before.
            if self.in_doubt && !self.clock_holds() {
                let (settlement, _) = self.place().stepped(&state, &terms, Step::snooze("clock_off", CLOCK_PAUSE));
                self.settle_step(&state, settlement).await;
                return;
            }
            if !self.may_go_on(terms.lane.is_some()).await {
                return self.hand_back().await;
            }
            let span = traces::step(&self.work.claimed, || settlement::name(&state), self.retries);
            let next = match terms.effect {
                Effect::Local(_) => self.step_locally(&state, &terms).instrument(span).await,
                Effect::Pure | Effect::Read(_) | Effect::Write(..) => {
                    self.step_outside(&state, &terms).instrument(span).await
                }
            };
            let Some(next) = next else { return };
            state = next;
            traces::moved(&self.at);
        }
    }

    /// An operator's act, if the state table allows it from here.
    async fn obey(&mut self, state: &J::State, undo: Option<&J::Undo>, asked: &str) {
        crash_point("obey.before");
        let settlement = Act::from_name(asked).and_then(|act| self.place().obeyed(state, undo, act));
        if let Some(settlement) = settlement {
            self.settle_step(state, settlement).await;
            return;
        }
        tracing::warn!(job = self.work.claimed.id, asked, "this act is not allowed where the job stands; declined");
        if !self.work.claimed.rests {
            self.settle_step(state, self.place().declined(state, undo)).await;
            return;
        }
        decline(self.engine, (self.work.claimed.id, self.work.claimed.lease, self.step)).await;
    }

    async fn unwind(&mut self, end: J::State, undo: J::Undo) {
        let lane = J::undo_lane(&self.args, &undo);
        if lane.as_ref().is_some_and(|lane| lane.name != self.work.claimed.lane) {
            // Rescued: back into its lane first.
            let settlement = self.place().unwound(&end, &undo, Unwind::Advance(undo.clone()));
            self.settle_step(&end, settlement).await;
            return;
        }
        if !self.may_go_on(lane.is_some()).await {
            return self.hand_back().await;
        }
        let name = || self.work.claimed.undo_name().unwrap_or_else(|| self.at.clone());
        let span = traces::step(&self.work.claimed, name, self.retries);
        self.take_back(end, undo).instrument(span).await;
    }

    async fn take_back(&mut self, end: J::State, undo: J::Undo) {
        crash_point("unwind.before");
        if !self.takes(UNWIND_DEADLINE) {
            return;
        }
        let world = self.outside.world(self.engine, &self.work.claimed, &Local::default());
        let this = self.this();
        let unwind = AssertUnwindSafe(J::unwind(&this, undo.clone(), &*world)).catch_unwind();
        let unwind = match tokio::time::timeout(UNWIND_DEADLINE, unwind).await {
            Ok(Ok(unwind)) => unwind,
            // Whatever happened, taking back is repeated until it is answered.
            Ok(Err(_)) | Err(_) => Unwind::Retry,
        };
        crash_point("unwind.after");
        let throttled = match &unwind {
            Unwind::Throttled(wait) => Some(Closing::Throttled(*wait)),
            Unwind::Advance(_)
            | Unwind::Retry
            | Unwind::RetryAndPage(_)
            | Unwind::Snooze(_)
            | Unwind::Undone
            | Unwind::NeedsOperator(_) => None,
        };
        if let Some(closing) = throttled.or_else(|| self.told()) {
            self.engine.close_lane(&self.work.claimed.lane, closing).await;
        }
        let settlement = self.place().unwound(&end, &undo, unwind);
        self.settle_step(&end, settlement).await;
    }

    /// An order was answered, or not: after several that were not, the lane is left alone.
    async fn brake(&self, unclear: bool) {
        let lane = &self.work.claimed.lane;
        if let Some(wait) = self.engine.brake.after(lane, unclear, Instant::now()) {
            tracing::warn!(
                lane,
                ?wait,
                "order after order is not answered clearly: the partner is left alone for a while"
            );
            self.engine.close_lane(lane, Closing::Throttled(wait)).await;
        }
    }

    /// What the step's call noticed about its lane.
    fn told(&self) -> Option<Closing> {
        self.work.claimed.told.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    const fn place(&self) -> Target<'_, J> {
        Target {
            claimed: &self.work.claimed,
            args: &self.args,
            step: self.step,
            retries: self.retries,
            in_doubt: self.in_doubt,
        }
    }

    fn this(&self) -> This<J::Args> {
        let claimed = &self.work.claimed;
        let held = self.work.received.elapsed();
        // By a clock that is not trusted nothing lapses, and no patience is spent.
        let holds = self.clock_holds();
        This {
            args: self.args.clone(),
            age: if holds { claimed.age + held } else { Duration::ZERO },
            in_state: if self.fresh || !holds { Duration::ZERO } else { claimed.in_state + held },
            since_call: claimed.since_call.map(|since| since + held),
            retries: self.retries,
            in_doubt: self.in_doubt,
        }
    }

    /// Whether what the database's clock says of this job is to be believed.
    fn clock_holds(&self) -> bool {
        self.work.claimed.clock_holds && self.engine.clocks.agree()
    }

    fn over_its_limits(&self) -> Option<Problem> {
        match () {
            () if self.step.unsigned_abs() >= J::LIMITS.steps => Some(Problem::TooManySteps),
            () if self.clock_holds() && self.work.claimed.age > J::LIMITS.age => Some(Problem::TooOld),
            () => None,
        }
    }

    /// Waits for the token's slot, counted from the receipt of the claim. False: the slot is lost, or no call may start.
    async fn may_go_on(&self, in_lane: bool) -> bool {
        if !in_lane {
            return !self.engine.stopping();
        }
        let work = self.work;
        tokio::time::sleep_until((work.received + work.claimed.wait).into()).await;
        // The database read its clock between the claim's sending and its receipt: counted from the sending, lateness is never understated.
        if work.claimed.slot.as_ref().is_some_and(|slot| !slot.holds()) {
            metrics::counter!("noshi_lane_tokens_forfeited_total", "lane" => work.claimed.lane.clone()).increment(1);
            return false;
        }
        // What another server acknowledged is in doubt already, if it is not here: then nothing is called on it any more.
        let known = self.engine.witness.is_on(&work.claimed.timeline);
        known && !self.engine.stopping() && self.engine.may_call()
    }

    /// From now on this step is in flight for no longer than it may take, and its settle after it. False: it was given up already.
    fn takes(&self, step: Duration) -> bool {
        let claimed = &self.work.claimed;
        self.engine.held.takes(claimed.id, claimed.lease, step + self.engine.patience())
    }

    async fn hand_back(&self) {
        let claimed = &self.work.claimed;
        let job = [(claimed.id, claimed.lease, self.step)];
        if self.step == claimed.step { self.engine.hand_back(&job).await } else { self.engine.give_back(&job).await }
    }

    /// A step whose call, if it makes one, leaves this machine.
    async fn step_outside(&mut self, state: &J::State, terms: &Terms<J::State>) -> Option<J::State> {
        crash_point("step.before");
        if !self.takes(terms.deadline) {
            return None;
        }
        let world = self.outside.world(self.engine, &self.work.claimed, &Local::default());
        let this = self.this();
        let step = AssertUnwindSafe(J::step(&this, state.clone(), &*world)).catch_unwind();
        let (settlement, next) = match tokio::time::timeout(terms.deadline, step).await {
            Ok(Ok(mut step)) => {
                if let Some(closing) = step.closing.or_else(|| self.told()) {
                    self.engine.close_lane(&self.work.claimed.lane, closing).await;
                    spare_the_try(&mut step, closing);
                } else if terms.effect.is_write() && terms.lane.is_some() {
                    self.brake(step.doubt == Doubt::Raised).await;
                }
                self.place().stepped(state, terms, step)
            }
            Ok(Err(_)) => (self.place().broken(state, terms, "panicked", Problem::Panicked), None),
            Err(_) => (self.place().broken(state, terms, "over_deadline", Problem::OverDeadline), None),
        };
        crash_point("step.after");
        self.go_on(state, settlement, next).await
    }

    async fn go_on(&mut self, state: &J::State, settlement: Settlement, next: Option<J::State>) -> Option<J::State> {
        let doubt = settlement.doubt;
        if self.settle_step(state, settlement).await != Settled::Applied {
            return None;
        }
        self.entered(doubt);
        next
    }

    fn entered(&mut self, doubt: Doubt) {
        self.step += 1;
        self.retries = 0;
        self.fresh = true;
        self.in_doubt = match doubt {
            Doubt::AsBefore => self.in_doubt,
            Doubt::Raised => true,
            Doubt::Settled => false,
        };
    }

    async fn settle_step(&mut self, state: &J::State, settlement: Settlement) -> Settled {
        let (status, at) = (settlement.status, settlement.at.clone());
        traces::came_to(&Span::current(), settlement.outcome);
        let settled = self.engine.end_step(J::KIND, settlement).await;
        if settled == Settled::Applied {
            self.applied(status, &at);
        }
        if settled == Settled::FollowUpConflict {
            self.park_conflict(state).await;
        }
        settled
    }

    fn applied(&mut self, status: Status, at: &str) {
        at.clone_into(&mut self.at);
        if matches!(status, Status::Completed | Status::Failed | Status::Cancelled) {
            let (claimed, held) = (&self.work.claimed, self.work.received.elapsed());
            metrics::histogram!("noshi_job_duration_seconds", "kind" => J::KIND.name()).record(claimed.age + held);
            traces::over(claimed, claimed.existed + held, status.name(), at);
        }
    }

    /// The step was not recorded: of a write, its answer is lost to us, and only that.
    async fn park_conflict(&self, state: &J::State) {
        let doubt = if J::terms(&self.args, state).effect.is_write() { Doubt::Raised } else { Doubt::AsBefore };
        let why = Problem::FollowUpConflict;
        self.engine.end_step(J::KIND, self.place().parked(state, why.code(), why, doubt)).await;
    }
}

/// What is wrong with a process or with the connection is no fault of the job: however long it lasts, it costs the job no try.
fn spare_the_try<J: Job>(step: &mut Step<J>, closing: Closing) {
    let not_the_jobs = match closing {
        Closing::Process(_) | Closing::Tls(_) => true,
        Closing::Throttled(_) | Closing::Funds | Closing::Credentials | Closing::Sender => false,
    };
    if not_the_jobs && step.transition == Transition::Retry && step.doubt == Doubt::AsBefore {
        step.transition = Transition::Snooze(step.after.unwrap_or_default());
    }
}
