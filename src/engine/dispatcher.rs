//! Claims jobs into free slots, lane by lane. NOTIFY is a hint; jittered polling is the guarantee.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::JoinSet,
};

use crate::{
    basics::chaos::crash_point,
    db::{
        self,
        queue::{
            claim::{ClaimRequest, HORIZON, Which},
            slot::Slot,
            testimony::Claim,
        },
    },
    engine::{Engine, Pace, registry::Work},
};

/// A claimed job and the slot that it occupies until it is let go.
pub struct Slotted {
    pub work: Work,
    _slot: OwnedSemaphorePermit,
    /// And its place among those that were running at a death.
    _suspect: Option<OwnedSemaphorePermit>,
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

/// A claim that came back: its lane, when that is looked at again, and what waits there that died before.
struct Answer {
    lane: String,
    found: Result<Found, sqlx::Error>,
}

struct Found {
    again: Look,
    suspects: bool,
    alone: bool,
}

/// Claims of different lanes run side by side: one that waits for a locked row, or fails, holds up its own lane.
pub struct Dispatcher {
    hand: Hand,
    claims: JoinSet<Answer>,
    /// Lanes with a claim on its way.
    asked: HashSet<String>,
    /// Lanes whose last claim failed: they are tried with one slot, so that the others have the rest.
    troubled: HashSet<String>,
    lanes: HashMap<String, Look>,
    lanes_known_at: Option<Instant>,
    due: Instant,
    /// A lane with jobs that were running in two deaths: they run alone, so that no neighbour is blamed a third time.
    alone: Option<String>,
}

/// What a claim needs, wherever it runs.
#[derive(Clone)]
struct Hand {
    engine: Arc<Engine>,
    pace: Pace,
    slots: Arc<Semaphore>,
    /// Jobs that were running in one death share a process with few of their like: if one of them is poison, few are blamed again.
    suspects: Arc<Semaphore>,
    sender: mpsc::Sender<Slotted>,
}

impl Dispatcher {
    pub fn new(engine: Arc<Engine>, pace: Pace, sender: mpsc::Sender<Slotted>) -> Self {
        let slots = Arc::new(Semaphore::new(pace.slots));
        let suspects = Arc::new(Semaphore::new((pace.slots / 16).max(1)));
        Dispatcher {
            hand: Hand { engine, pace, slots, suspects, sender },
            claims: JoinSet::new(),
            asked: HashSet::new(),
            troubled: HashSet::new(),
            lanes: HashMap::new(),
            lanes_known_at: None,
            due: Instant::now(),
            alone: None,
        }
    }

    /// Runs until the process stops claiming, and what was asked has come back.
    pub async fn dispatch(mut self) {
        while !self.hand.engine.stopping() {
            self.heed_hints();
            if let Err(error) = self.look_round().await {
                tracing::warn!(%error, "the database did not answer; looking again soon");
                self.hand.engine.claims.say(false);
                self.due = Instant::now();
                self.lanes_known_at = None;
                tokio::time::sleep(jittered(Duration::from_millis(200))).await;
            }
            if let Some(lane) = self.alone.take() {
                self.claim_alone(&lane).await;
            }
            self.begin_claims().await;
            self.pause().await;
        }
        while let Some(claim) = self.claims.join_next().await {
            self.came_back(claim);
        }
    }

    /// Until a claim comes back, a lane is due, or somebody rings.
    async fn pause(&mut self) {
        let waiting = self.lanes.iter().filter(|(lane, _)| !self.asked.contains(*lane)).map(|(_, look)| look.at);
        let next = waiting.chain([self.due]).min().unwrap_or(self.due);
        tokio::select! {
            Some(claim) = self.claims.join_next() => self.came_back(claim),
            () = tokio::time::sleep_until(next.into()) => {}
            () = self.hand.engine.hints.rung() => {}
        }
        while let Some(claim) = self.claims.try_join_next() {
            self.came_back(claim);
        }
    }

    fn heed_hints(&mut self) {
        let soon = self.hand.engine.hints.take();
        let now = Instant::now();
        if soon.all {
            self.lanes.values_mut().filter(|look| !look.paced).for_each(|look| look.at = now);
        }
        for lane in soon.lanes {
            let Some(look) = self.lanes.get_mut(&lane) else {
                // Declared since, or by nobody: a lane is what the database knows as one.
                self.lanes_known_at = None;
                continue;
            };
            let soonest = if look.paced { HORIZON / 10 } else { Duration::from_millis(2) };
            look.at = look.at.min(now + soonest);
        }
        if let Some(due) = soon.due {
            self.due = self.due.min(due);
        }
    }

    async fn look_round(&mut self) -> Result<(), sqlx::Error> {
        let engine = &self.hand.engine;
        let pool = &engine.pool;
        if self.lanes_known_at.is_none_or(|at| at.elapsed() > Duration::from_secs(5)) {
            engine.claims.asked();
            let known: HashSet<String> = db::queue::lanes::names(pool).await?.into_iter().collect();
            engine.claims.heard();
            // What is gone is no lane any more.
            self.lanes.retain(|lane, _| known.contains(lane));
            self.troubled.retain(|lane| known.contains(lane));
            for lane in known {
                self.lanes.entry(lane).or_insert_with(Look::now);
            }
            self.lanes_known_at = Some(Instant::now());
        }
        // By a clock that is not trusted nothing falls due: what follows may be a deadline that parks, or a second send.
        if self.due <= Instant::now() && !engine.clocks.agree() {
            self.due = Instant::now() + self.hand.pace.poll;
        }
        if self.due <= Instant::now() {
            engine.claims.asked();
            let (promoted, next) = db::queue::claim::promote_due(pool).await?;
            engine.claims.heard();
            if promoted > 0 {
                crash_point("promote.after");
                self.lanes.values_mut().filter(|look| !look.paced).for_each(|look| *look = Look::now());
            }
            let poll = self.hand.pace.poll;
            self.due = Instant::now() + next.map_or(poll, |next| next.min(jittered(poll)));
        }
        Ok(())
    }

    /// Asks every lane that is due, each with its part of the free slots.
    async fn begin_claims(&mut self) {
        let now = Instant::now();
        let due = |lane: &String, look: &Look| look.at <= now && !self.asked.contains(lane);
        let mut ready: Vec<String> =
            self.lanes.iter().filter(|(lane, look)| due(lane, look)).map(|(lane, _)| lane.clone()).collect();
        ready.retain(|lane| {
            let away = self.hand.engine.is_away(lane);
            if away {
                self.lanes.insert(lane.clone(), Look::after(self.hand.pace.poll));
            }
            !away
        });
        if ready.is_empty() {
            // Nothing to claim: it keeps away from every lane.
            self.hand.engine.claims.say(true);
            return;
        }
        // A troubled lane first: it takes one slot, and the others what is left.
        ready.sort_by_key(|lane| !self.troubled.contains(lane));
        let Some(mut share) = self.hand.fair_share().await else { return };
        let mut left = ready.len();
        for lane in ready {
            let most = if self.troubled.contains(&lane) { 1 } else { share.len().div_ceil(left) };
            // A part stays behind, should this one's answer be long in coming.
            let most = if left == 1 { most - most / 4 } else { most };
            left -= 1;
            let slots = share.split_off(share.len().saturating_sub(most));
            if slots.is_empty() {
                return;
            }
            // A hint that comes from here on is about what the claim may not see any more: it holds when the claim has come back.
            self.lanes.insert(lane.clone(), Look::after(2 * self.hand.pace.poll));
            self.asked.insert(lane.clone());
            let hand = self.hand.clone();
            self.claims.spawn(async move {
                let found = hand.claim(&lane, slots).await;
                Answer { lane, found }
            });
        }
    }

    fn came_back(&mut self, claim: Result<Answer, tokio::task::JoinError>) {
        let Answer { lane, found } = match claim {
            Ok(claim) => claim,
            Err(error) => {
                // Which lane it was is not known: all are asked again.
                tracing::error!(%error, "a claim ended abnormally");
                return self.asked.clear();
            }
        };
        self.asked.remove(&lane);
        match found {
            Ok(Found { again, suspects, alone }) => {
                self.troubled.remove(&lane);
                if alone {
                    self.alone = Some(lane.clone());
                }
                let soon = suspects && self.hand.suspects.available_permits() > 0;
                let look = match self.lanes.get(&lane) {
                    _ if again.paced => again,
                    _ if soon => Look::now(),
                    Some(hinted) => Look { at: again.at.min(hinted.at), ..again },
                    None => again,
                };
                self.lanes.insert(lane, look);
            }
            Err(error) => {
                tracing::warn!(lane, %error, "a lane's claim failed; the other lanes go on, and it is tried again soon");
                self.lanes.insert(lane.clone(), Look::after(jittered(Duration::from_millis(500))));
                self.troubled.insert(lane);
            }
        }
    }

    /// Lets everything in flight finish, then runs one suspect by itself.
    async fn claim_alone(&mut self, lane: &str) {
        let hand = &self.hand;
        let all = u32::try_from(hand.pace.slots).unwrap_or(u32::MAX);
        let slots = tokio::select! {
            slots = Arc::clone(&hand.slots).acquire_many_owned(all) => slots,
            () = hand.stopped() => return,
        };
        let Ok(mut slots) = slots else { return };
        let sent = Instant::now();
        let catch = match hand.claim_known(lane, 1, Which::Alone).await {
            Ok(catch) => catch,
            Err(error) => {
                tracing::warn!(lane, %error, "a suspect's claim failed; it is tried again soon");
                self.alone = Some(lane.to_owned());
                return tokio::time::sleep(jittered(Duration::from_millis(200))).await;
            }
        };
        if catch.alone {
            hand.engine.hints.ring();
        }
        if !catch.jobs.is_empty() {
            crash_point("claim_alone.after");
            let slot = slots.split(1).into_iter().map(|slot| (slot, None)).collect();
            hand.hand_over(catch.jobs, slot, sent, catch.jitter);
            // The rest of the slots stay taken until it is over.
            tokio::select! {
                _alone = Arc::clone(&hand.slots).acquire_owned() => {}
                () = hand.stopped() => {}
            }
        }
        if catch.alone {
            self.alone = Some(lane.to_owned());
        }
    }
}

/// Room for a job: its slot, and its place among the suspects if it is one.
type Room = (OwnedSemaphorePermit, Option<OwnedSemaphorePermit>);

impl Hand {
    /// Claims what a lane has for these slots: what was in flight at one death in few of them, everything else in the rest.
    async fn claim(&self, lane: &str, mut slots: Vec<OwnedSemaphorePermit>) -> Result<Found, sqlx::Error> {
        let want = slots.len();
        let sent = Instant::now();
        crash_point("claim.before");
        let catch = self.claim_known(lane, want, Which::Fresh).await?;
        if !catch.jobs.is_empty() {
            crash_point("claim.after");
        }
        let (caught, tokens) = (catch.jobs.len(), catch.tokens);
        let (closed, suspects, alone) = (catch.closed, catch.suspects, catch.alone);
        let last = catch.jobs.iter().map(|job| job.wait).max().unwrap_or_default();
        let rest = slots.split_off(caught);
        self.hand_over(catch.jobs, slots.into_iter().map(|slot| (slot, None)).collect(), sent, catch.jitter);
        let mut found = 0;
        if suspects {
            found = self.claim_suspects(lane, rest).await?;
        }
        // New jobs wait in the lane without a name.
        let soon = if lane.is_empty() { self.engine.bell.looked(caught > 0) } else { None };
        let again = match () {
            () if closed => Look::after(jittered(self.pace.poll / 2)),
            // Rows are left for the slots that come free next.
            () if caught == want => Look::now(),
            // The lane's tokens are spent up to the horizon: come back before it runs dry.
            () if tokens <= caught => {
                let pause = jittered((last.saturating_sub(HORIZON / 2)).max(HORIZON / 5));
                Look { paced: true, ..Look::after(pause) }
            }
            () => Look::after(jittered(soon.unwrap_or(self.pace.poll))),
        };
        Ok(Found { again, suspects: found > 0, alone })
    }

    async fn claim_suspects(&self, lane: &str, mut rest: Vec<OwnedSemaphorePermit>) -> Result<usize, sqlx::Error> {
        let mut slots: Vec<Room> = vec![];
        while !rest.is_empty()
            && let Ok(place) = Arc::clone(&self.suspects).try_acquire_owned()
        {
            slots.extend(rest.pop().map(|slot| (slot, Some(place))));
        }
        drop(rest);
        if slots.is_empty() {
            return Ok(0);
        }
        let sent = Instant::now();
        let catch = self.claim_known(lane, slots.len(), Which::Suspect).await?;
        let caught = catch.jobs.len();
        if caught > 0 {
            crash_point("claim_alone.after");
        }
        self.hand_over(catch.jobs, slots, sent, catch.jitter);
        Ok(caught)
    }

    async fn claim_known(&self, lane: &str, want: usize, which: Which) -> Result<db::queue::claim::Catch, sqlx::Error> {
        let engine = &self.engine;
        let late = engine.lateness.allowance(lane);
        let asked = ClaimRequest { want, which, late, unknown: &engine.unknown(), server: &engine.witness.server() };
        engine.claims.asked();
        let caught = db::queue::claim::claim_as(&engine.pool, engine.worker, lane, &asked).await;
        match &caught {
            Ok(_) => engine.claims.say(true),
            // A row that somebody holds is its lane's trouble; anything else may be everybody's.
            Err(error) if db::is_locked(error) => engine.claims.heard(),
            Err(_) => engine.claims.say(false),
        }
        caught
    }

    /// Waits for the first free slot, then a moment for more, so that claims are few and large.
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

    fn hand_over(&self, jobs: Vec<db::queue::claim::Claimed>, slots: Vec<Room>, sent: Instant, jitter: Duration) {
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
        if let Some(server) = jobs.first().map(|job| &job.server)
            && !self.engine.witness.claimed(server, remembered)
        {
            tracing::warn!(
                jobs = jobs.len(),
                "these were claimed on a server that is not known to be whole: nothing is begun, they are given back"
            );
            return;
        }
        // An answer that came so late that its jobs were given back meanwhile: they are somebody else's by now.
        let (jobs, late): (Vec<_>, Vec<_>) =
            jobs.into_iter().partition(|job| !self.engine.witness.was_given_back(job.id, job.lease));
        if !late.is_empty() {
            tracing::warn!(
                jobs = late.len(),
                "an answer to a claim came after its jobs were given back; it is not taken"
            );
        }
        self.engine.held.add(jobs.iter().map(|job| (job.id, job.lease)));
        for (mut claimed, (slot, suspect)) in jobs.into_iter().zip(slots) {
            claimed.slot =
                sent.checked_add(claimed.wait).map(|due| Slot::new(&claimed.lane, due, jitter, &self.engine.lateness));
            let work = Work { claimed, received };
            // There is room for every slot; a closed channel means that the process ends, and the rows are rescued.
            let _ = self.sender.try_send(Slotted { work, _slot: slot, _suspect: suspect });
        }
    }
}

/// Between half and one and a half of it, so that processes do not poll in step.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::random_range(0.5..1.5))
}
