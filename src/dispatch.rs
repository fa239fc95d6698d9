//! Claims jobs into free slots, lane by lane. NOTIFY is a hint; jittered polling is the guarantee.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::{
    chaos::crash_point,
    engine::{Engine, Pace},
    lease::Slot,
    run::Work,
    store::{self, claim::HORIZON},
    witness::Claim,
};

/// A claimed job and the slot that it occupies until it is let go.
pub struct Slotted {
    pub work: Work,
    _slot: OwnedSemaphorePermit,
}

/// Listens for hints of other processes, for as long as the process lives.
pub async fn listen(url: String, engine: Arc<Engine>) {
    loop {
        if let Ok(mut listener) = store::db::Listener::connect(&url, "noshi").await {
            engine.hints.all();
            // A lost connection loses hints, not jobs.
            while let Ok(hint) = listener.hear().await {
                if hint.payload() == "schedule" {
                    engine.hints.schedules_changed();
                }
                engine.hints.all();
            }
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// When a lane is next looked at.
#[derive(Clone, Copy)]
struct Look {
    at: Instant,
    /// It is tokens that the lane waits for, not rows: hints hasten it less.
    paced: bool,
}

impl Look {
    fn now() -> Self {
        Look { at: Instant::now(), paced: false }
    }

    fn after(pause: Duration) -> Self {
        Look { at: Instant::now() + pause, paced: false }
    }
}

pub struct Dispatcher {
    engine: Arc<Engine>,
    pace: Pace,
    slots: Arc<Semaphore>,
    sender: mpsc::Sender<Slotted>,
    lanes: HashMap<String, Look>,
    lanes_known_at: Option<Instant>,
    due: Instant,
    /// A lane with jobs that were running when their worker died: they run alone, so that no neighbour is blamed.
    suspects: Option<String>,
}

impl Dispatcher {
    pub fn new(engine: Arc<Engine>, pace: Pace, sender: mpsc::Sender<Slotted>) -> Self {
        let slots = Arc::new(Semaphore::new(pace.slots));
        let (lanes, lanes_known_at, due) = (HashMap::new(), None, Instant::now());
        Dispatcher { engine, pace, slots, sender, lanes, lanes_known_at, due, suspects: None }
    }

    /// Runs until the process stops claiming.
    pub async fn run(mut self) {
        while !self.engine.stopping() {
            self.heed_hints();
            let round = self.round().await;
            self.engine.claims.store(round.is_ok(), Ordering::Relaxed);
            if let Err(error) = round {
                tracing::warn!(%error, "the database did not answer a claim; claiming again soon");
                self.due = Instant::now();
                self.lanes_known_at = None;
                tokio::time::sleep(jittered(Duration::from_millis(200))).await;
                continue;
            }
            let next = self.lanes.values().map(|look| look.at).chain([self.due]).min().unwrap_or(self.due);
            tokio::select! {
                () = tokio::time::sleep_until(next.into()) => {}
                () = self.engine.hints.rung() => {}
            }
        }
    }

    fn heed_hints(&mut self) {
        let soon = self.engine.hints.take();
        let now = Instant::now();
        if soon.all {
            self.lanes.values_mut().filter(|look| !look.paced).for_each(|look| look.at = now);
        }
        for lane in soon.lanes {
            let look = self.lanes.entry(lane).or_insert_with(Look::now);
            let soonest = if look.paced { HORIZON / 10 } else { Duration::from_millis(2) };
            look.at = look.at.min(now + soonest);
        }
        if let Some(due) = soon.due {
            self.due = self.due.min(due);
        }
    }

    async fn round(&mut self) -> Result<(), sqlx::Error> {
        if self.lanes_known_at.is_none_or(|at| at.elapsed() > Duration::from_secs(5)) {
            for lane in store::lanes::names(&self.engine.pool).await? {
                self.lanes.entry(lane).or_insert_with(Look::now);
            }
            self.lanes_known_at = Some(Instant::now());
        }
        if self.due <= Instant::now() {
            let (promoted, next) = store::claim::promote_due(&self.engine.pool).await?;
            if promoted > 0 {
                crash_point("promote.after");
                self.lanes.values_mut().filter(|look| !look.paced).for_each(|look| *look = Look::now());
            }
            self.due = Instant::now() + next.map_or(self.pace.poll, |next| next.min(jittered(self.pace.poll)));
        }
        if let Some(lane) = self.suspects.take() {
            self.claim_alone(&lane).await?;
        }
        let now = Instant::now();
        let ready: Vec<String> =
            self.lanes.iter().filter(|(_, look)| look.at <= now).map(|(lane, _)| lane.clone()).collect();
        for lane in ready {
            if self.engine.is_away(&lane) {
                self.lanes.insert(lane, Look::after(self.pace.poll));
                continue;
            }
            let again = self.claim(&lane).await?;
            self.lanes.insert(lane, again);
        }
        Ok(())
    }

    /// Claims what a lane has for the free slots. Returns when to look again.
    async fn claim(&mut self, lane: &str) -> Result<Look, sqlx::Error> {
        let Some(slots) = self.fair_share().await else { return Ok(Look::now()) };
        let want = slots.len();
        let sent = Instant::now();
        crash_point("claim.before");
        let catch = self.claim_known(lane, want, false).await?;
        if !catch.jobs.is_empty() {
            crash_point("claim.after");
        }
        if catch.suspects {
            self.suspects = Some(lane.to_owned());
        }
        let (caught, tokens) = (catch.jobs.len(), catch.tokens);
        let last = catch.jobs.iter().map(|job| job.wait).max().unwrap_or_default();
        self.send(catch.jobs, slots, sent, catch.jitter);
        Ok(match () {
            () if catch.closed => Look::after(jittered(self.pace.poll / 2)),
            // Rows are left for the slots that come free next.
            () if caught == want => Look::now(),
            // The lane's tokens are spent up to the horizon: come back before it runs dry.
            () if tokens <= caught => {
                let pause = jittered((last.saturating_sub(HORIZON / 2)).max(HORIZON / 5));
                Look { paced: true, ..Look::after(pause) }
            }
            () => Look::after(jittered(self.pace.poll)),
        })
    }

    async fn claim_known(&self, lane: &str, want: usize, suspect: bool) -> Result<store::claim::Catch, sqlx::Error> {
        let engine = &self.engine;
        let asked =
            store::claim::Asked { want, suspect, late: engine.lateness.allowance(lane), unknown: &engine.unknown() };
        store::claim::claim_as(&engine.pool, engine.worker, lane, &asked).await
    }

    /// Waits for the first free slot, then a moment for more, so that claims do not trickle.
    async fn fair_share(&self) -> Option<Vec<OwnedSemaphorePermit>> {
        let mut share = vec![tokio::select! {
            slot = Arc::clone(&self.slots).acquire_owned() => slot.ok()?,
            () = self.stopped() => return None,
        }];
        if self.slots.available_permits() < self.pace.slots / 4 {
            let more = u32::try_from(self.pace.slots / 4).unwrap_or(u32::MAX);
            let enough = Arc::clone(&self.slots).acquire_many_owned(more);
            // The permits come back at once: this only waits until they are free.
            drop(tokio::time::timeout(Duration::from_millis(20), enough).await);
        }
        while let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() {
            share.push(slot);
        }
        Some(share)
    }

    async fn stopped(&self) {
        while !self.engine.stopping() {
            self.engine.hints.rung().await;
        }
        self.engine.hints.ring();
    }

    /// Lets everything in hand finish, then runs one suspect by itself.
    async fn claim_alone(&mut self, lane: &str) -> Result<(), sqlx::Error> {
        let all = u32::try_from(self.pace.slots).unwrap_or(u32::MAX);
        let slots = tokio::select! {
            slots = Arc::clone(&self.slots).acquire_many_owned(all) => slots,
            () = self.stopped() => return Ok(()),
        };
        let Ok(mut slots) = slots else { return Ok(()) };
        let sent = Instant::now();
        let catch = self.claim_known(lane, 1, true).await?;
        if catch.suspects {
            self.suspects = Some(lane.to_owned());
            self.engine.hints.ring();
        }
        if !catch.jobs.is_empty() {
            crash_point("claim_alone.after");
            let slot = slots.split(1).into_iter().collect();
            self.send(catch.jobs, slot, sent, catch.jitter);
            // The rest of the slots stay taken until it is over.
            let _alone = Arc::clone(&self.slots).acquire_owned().await;
        }
        drop(slots);
        Ok(())
    }

    fn send(
        &self,
        jobs: Vec<store::claim::Claimed>,
        slots: Vec<OwnedSemaphorePermit>,
        sent: Instant,
        jitter: Duration,
    ) {
        let received = Instant::now();
        let remembered = jobs.iter().map(|job| Claim {
            job: job.id,
            lease: job.lease,
            kind: job.kind.clone(),
            key: job.key.clone(),
            calls: job.calls,
            at: sent,
        });
        // Before anything is begun: whoever testifies afterwards knows of them.
        if let Some(timeline) = jobs.first().map(|job| &job.timeline)
            && !self.engine.witness.claimed(timeline, remembered)
        {
            tracing::warn!(
                jobs = jobs.len(),
                "these were claimed on another timeline: nothing is begun, they are given back"
            );
            return;
        }
        self.engine.held.add(jobs.iter().map(|job| (job.id, job.lease)));
        for (mut claimed, slot) in jobs.into_iter().zip(slots) {
            claimed.slot =
                sent.checked_add(claimed.wait).map(|due| Slot::new(&claimed.lane, due, jitter, &self.engine.lateness));
            let work = Work { claimed, received };
            // There is room for every slot; a closed channel means that the process ends, and the rows are rescued.
            let _ = self.sender.try_send(Slotted { work, _slot: slot });
        }
    }
}

/// Between half and one and a half of it, so that processes do not poll in step.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::random_range(0.5..1.5))
}
