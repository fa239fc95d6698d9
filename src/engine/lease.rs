//! What a worker holds, and whether it still counts as alive: checked on its own monotonic clock right before every call.
//! And how late it reaches the slots of its tokens, so that a slow way to the database makes it slower, and never idle.

use std::{
    collections::HashMap,
    sync::Mutex,
    time::{Duration, Instant},
};

use tokio::task::AbortHandle;

/// A job in flight.
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
}
