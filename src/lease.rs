//! What a worker holds, and whether it still counts as alive: checked on its own monotonic clock right before every call.

use std::{
    collections::HashMap,
    sync::Mutex,
    time::{Duration, Instant},
};

use tokio::task::AbortHandle;

/// A job in hand.
#[derive(Debug)]
struct Hold {
    lease: i64,
    /// By then the step that it is in has ended, or something is stuck.
    due: Instant,
    task: Option<AbortHandle>,
}

/// The jobs in this process' hands, by id.
#[derive(Debug, Default)]
pub struct Held(Mutex<HashMap<i64, Hold>>);

/// From a claim to its first step: at most the wait for a token.
const BEFORE_A_STEP: Duration = Duration::from_secs(60);

impl Held {
    pub fn add(&self, jobs: impl Iterator<Item = (i64, i64)>) {
        let due = Instant::now() + BEFORE_A_STEP;
        let holds = jobs.map(|(id, lease)| (id, Hold { lease, due, task: None }));
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
        self.with(id, lease, |hold| hold.task = Some(task));
    }

    /// What it is about to do takes no longer than this.
    pub fn takes(&self, id: i64, lease: i64, most: Duration) {
        self.with(id, lease, |hold| hold.due = Instant::now() + most);
    }

    fn with(&self, id: i64, lease: i64, change: impl FnOnce(&mut Hold)) {
        let mut held = self.0.lock().expect("no panic happens under this lock");
        if let Some(hold) = held.get_mut(&id).filter(|hold| hold.lease == lease) {
            change(hold);
        }
    }

    /// What should have come to the end of its step long ago.
    pub fn overdue(&self) -> Vec<(i64, i64)> {
        let now = Instant::now();
        let held = self.0.lock().expect("no panic happens under this lock");
        held.iter().filter(|(_, hold)| hold.due < now).map(|(id, hold)| (*id, hold.lease)).collect()
    }

    /// Lets go of a job that was taken back, and ends what still runs for it here.
    pub fn give_up(&self, id: i64, lease: i64) {
        self.with(id, lease, |hold| {
            if let Some(task) = hold.task.take() {
                task.abort();
            }
        });
        self.remove(id, lease);
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
