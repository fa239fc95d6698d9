//! What a worker holds, and whether it still counts as alive: checked on its own monotonic clock right before every call.
//! And how late it reaches the slots of its tokens, so that a slow way to the database makes it slower, and never idle.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use noshi_jobs::machine::Closing;
use tokio::task::AbortHandle;

/// A job in hand.
#[derive(Debug)]
struct Hold {
    lease: i64,
    /// By then the step that it is in has ended, or something is stuck.
    due: Instant,
    task: Option<AbortHandle>,
    /// A step was begun: it may have called.
    stepped: bool,
}

/// The jobs in this process' hands, by id.
#[derive(Debug, Default)]
pub struct Held(Mutex<HashMap<i64, Hold>>);

/// From a claim to its first step: at most the wait for a token.
const BEFORE_A_STEP: Duration = Duration::from_secs(60);

impl Held {
    pub fn add(&self, jobs: impl Iterator<Item = (i64, i64)>) {
        let due = Instant::now() + BEFORE_A_STEP;
        let holds = jobs.map(|(id, lease)| (id, Hold { lease, due, task: None, stepped: false }));
        self.0.lock().expect("no panic happens under this lock").extend(holds);
    }

    pub fn remove(&self, id: i64, lease: i64) {
        let mut held = self.0.lock().expect("no panic happens under this lock");
        if held.get(&id).is_some_and(|hold| hold.lease == lease) {
            held.remove(&id);
        }
    }

    /// The task that runs it.
    pub fn runs(&self, id: i64, lease: i64, task: AbortHandle) {
        let _ = self.with(id, lease, |hold| hold.task = Some(task));
    }

    /// What it is about to do takes no longer than this. False: it was given up, and nothing more is done for it here.
    pub fn takes(&self, id: i64, lease: i64, most: Duration) -> bool {
        self.with(id, lease, |hold| {
            hold.due = Instant::now() + most;
            hold.stepped = true;
        })
    }

    fn with(&self, id: i64, lease: i64, change: impl FnOnce(&mut Hold)) -> bool {
        let mut held = self.0.lock().expect("no panic happens under this lock");
        let hold = held.get_mut(&id).filter(|hold| hold.lease == lease);
        hold.map(change).is_some()
    }

    /// What should have come to the end of its step long ago.
    pub fn overdue(&self) -> Vec<(i64, i64)> {
        let now = Instant::now();
        let held = self.0.lock().expect("no panic happens under this lock");
        held.iter().filter(|(_, hold)| hold.due < now).map(|(id, hold)| (*id, hold.lease)).collect()
    }

    /// Lets go of a job before it is taken back, and ends what still runs for it here. Whether it may have called; `None` if it ended meanwhile.
    pub fn give_up(&self, id: i64, lease: i64) -> Option<bool> {
        let mut held = self.0.lock().expect("no panic happens under this lock");
        let now = Instant::now();
        held.get(&id).filter(|hold| hold.lease == lease && hold.due < now)?;
        let hold = held.remove(&id)?;
        if let Some(task) = hold.task {
            task.abort();
        }
        Some(hold.stepped)
    }

    pub fn contains(&self, id: i64, lease: i64) -> bool {
        let held = self.0.lock().expect("no panic happens under this lock");
        held.get(&id).is_some_and(|hold| hold.lease == lease)
    }

    pub fn len(&self) -> usize {
        self.0.lock().expect("no panic happens under this lock").len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// When this worker last renewed, counted from before the renewal was sent.
#[derive(Debug)]
pub struct LeaseClock {
    renewed: Mutex<Option<Instant>>,
    lease: Duration,
}

impl LeaseClock {
    pub fn new(lease: Duration) -> Self {
        LeaseClock { renewed: Mutex::new(Some(Instant::now())), lease }
    }

    pub const fn lease(&self) -> Duration {
        self.lease
    }

    pub fn renewed(&self, sent: Instant) {
        let mut renewed = self.renewed.lock().expect("no panic happens under this lock");
        if renewed.is_some() {
            *renewed = Some(sent);
        }
    }

    /// Since the last renewal; for ever once declared dead.
    pub fn silent_for(&self) -> Duration {
        let renewed = *self.renewed.lock().expect("no panic happens under this lock");
        renewed.map_or(Duration::MAX, |at| at.elapsed())
    }

    /// Declared dead: final.
    pub fn dead(&self) {
        *self.renewed.lock().expect("no panic happens under this lock") = None;
    }

    /// A call may start: nobody can have declared this worker dead yet. The tenth is for the way to the wire.
    pub fn may_call(&self) -> bool {
        let renewed = *self.renewed.lock().expect("no panic happens under this lock");
        renewed.is_some_and(|at| at.elapsed() < self.lease * 9 / 10)
    }
}

/// Of a lane, so many calls are remembered.
const SEEN: usize = 15;
/// Below this no allowance is asked for: every lane forgives more.
const LEAST: Duration = Duration::from_millis(25);
/// 25.6 seconds: whoever is later than that usually has another trouble than a slow link.
const MOST_DOUBLINGS: u32 = 10;

/// How late this process usually reaches the slots of a lane's tokens: the way to the database and back, and what is read there before
/// the call. A slot that is reached later than its lane forgives is handed back; so where that is usual, claims ask for wider spacing
/// and for as much patience. One late call in a busy moment changes nothing.
#[derive(Debug, Default)]
pub struct Lateness(Mutex<HashMap<String, VecDeque<Duration>>>);

impl Lateness {
    pub fn seen(&self, lane: &str, late: Duration) {
        let mut lanes = self.0.lock().expect("no panic happens under this lock");
        if !lanes.contains_key(lane) {
            lanes.insert(lane.to_owned(), VecDeque::with_capacity(SEEN));
        }
        let Some(seen) = lanes.get_mut(lane) else { return };
        if seen.len() == SEEN {
            seen.pop_front();
        }
        seen.push_back(late);
    }

    /// One and a half of the middle of what was seen, in steps that double, so that it seldom changes.
    pub fn allowance(&self, lane: &str) -> Duration {
        let lanes = self.0.lock().expect("no panic happens under this lock");
        let Some(seen) = lanes.get(lane).filter(|seen| !seen.is_empty()) else { return Duration::ZERO };
        let mut sorted: Vec<_> = seen.iter().copied().collect();
        sorted.sort_unstable();
        let usual = sorted[sorted.len() / 2] * 3 / 2;
        if usual <= LEAST {
            return Duration::ZERO;
        }
        (0..=MOST_DOUBLINGS)
            .map(|n| LEAST * 2_u32.pow(n))
            .find(|step| *step >= usual)
            .unwrap_or(LEAST * 2_u32.pow(MOST_DOUBLINGS))
    }
}

/// What a call noticed about its lane beside its answer: it closes the lane, or keeps this process away from it.
pub type Told = Arc<Mutex<Option<Closing>>>;

/// The slot of one claim's token, on this worker's clock.
#[derive(Debug, Clone)]
pub struct Slot {
    lane: String,
    due: Instant,
    jitter: Duration,
    lateness: Arc<Lateness>,
}

impl Slot {
    /// `due` is counted from before the claim was sent, so that lateness is never understated.
    pub fn new(lane: &str, due: Instant, jitter: Duration, lateness: &Arc<Lateness>) -> Self {
        Slot { lane: lane.to_owned(), due, jitter, lateness: Arc::clone(lateness) }
    }

    /// Whether a call that begins now is within what the lane forgives. How late it is, is remembered.
    pub fn holds(&self) -> bool {
        let late = self.due.elapsed();
        self.lateness.seen(&self.lane, late);
        late <= self.jitter
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_up_begins_no_step_any_more() {
        let held = Held::default();
        held.add([(1, 1), (2, 1), (3, 1), (4, 1)].into_iter());
        assert!(held.takes(1, 1, Duration::ZERO) && held.takes(3, 1, Duration::from_secs(60)));
        held.with(2, 1, |hold| hold.due = Instant::now());
        std::thread::sleep(Duration::from_millis(2));
        let mut overdue = held.overdue();
        overdue.sort_unstable();
        assert_eq!(overdue, [(1, 1), (2, 1)]);
        assert_eq!((held.give_up(1, 1), held.give_up(2, 1)), (Some(true), Some(false)));
        // In time, of an older lease, and given up before.
        assert_eq!((held.give_up(3, 1), held.give_up(4, 0), held.give_up(1, 1)), (None, None, None));
        assert!(
            !held.takes(1, 1, Duration::ZERO) && !held.takes(2, 1, Duration::ZERO) && held.takes(4, 1, Duration::ZERO)
        );
    }

    #[test]
    fn a_slow_way_is_allowed_for_and_a_slow_moment_is_not() {
        let lateness = Lateness::default();
        assert_eq!(lateness.allowance("a"), Duration::ZERO);
        for _ in 0..20 {
            lateness.seen("a", Duration::from_millis(4));
            lateness.seen("b", Duration::from_millis(1010));
        }
        for _ in 0..7 {
            lateness.seen("a", Duration::from_secs(3));
        }
        assert_eq!(lateness.allowance("a"), Duration::ZERO);
        assert_eq!(lateness.allowance("b"), Duration::from_millis(1600));
        for _ in 0..8 {
            lateness.seen("b", Duration::from_millis(30));
        }
        assert_eq!(lateness.allowance("b"), Duration::from_millis(50));
        lateness.seen("c", Duration::from_secs(3600));
        assert_eq!(lateness.allowance("c"), Duration::from_millis(25_600));
    }

    #[test]
    fn a_slot_remembers_how_late_it_was_reached() {
        let lateness = Arc::new(Lateness::default());
        let slot =
            |late| Slot::new("a", Instant::now().checked_sub(late).unwrap(), Duration::from_millis(100), &lateness);
        assert!(slot(Duration::from_millis(1)).holds() && !slot(Duration::from_millis(400)).holds());
        assert_eq!(lateness.allowance("a"), Duration::from_millis(800));
    }
}
