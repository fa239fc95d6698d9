//! What a worker holds, and whether it still counts as alive: checked on its own monotonic clock right before every call.

use std::{
    collections::HashMap,
    sync::Mutex,
    time::{Duration, Instant},
};

/// The jobs in this process' hands, by id.
#[derive(Debug, Default)]
pub struct Held(Mutex<HashMap<i64, i64>>);

impl Held {
    pub fn add(&self, jobs: impl Iterator<Item = (i64, i64)>) {
        self.0.lock().expect("no panic happens under this lock").extend(jobs);
    }

    pub fn remove(&self, id: i64, lease: i64) {
        let mut held = self.0.lock().expect("no panic happens under this lock");
        if held.get(&id) == Some(&lease) {
            held.remove(&id);
        }
    }

    pub fn contains(&self, id: i64, lease: i64) -> bool {
        self.0.lock().expect("no panic happens under this lock").get(&id) == Some(&lease)
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
