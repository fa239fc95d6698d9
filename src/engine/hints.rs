//! Hints within a process and between processes: never needed, always faster than the next poll.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use tokio::sync::{Notify, watch};

/// What others in this process tell the dispatcher: never needed, always faster.
#[derive(Default)]
pub struct Hints {
    soon: Mutex<Soon>,
    bell: Notify,
    schedules: Notify,
    readings: watch::Sender<()>,
}

/// What was told since the last look.
#[derive(Default)]
pub struct Soon {
    pub lanes: Vec<String>,
    pub all: bool,
    pub due: Option<Instant>,
}

impl Hints {
    pub fn available(&self, lane: &str) {
        self.tell(|soon| {
            if !soon.lanes.iter().any(|known| known == lane) {
                soon.lanes.push(lane.to_owned());
            }
        });
    }

    pub fn due_in(&self, delay: Duration) {
        let at = Instant::now() + delay;
        self.tell(|soon| soon.due = Some(soon.due.map_or(at, |due| due.min(at))));
    }

    pub fn all(&self) {
        self.tell(|soon| soon.all = true);
    }

    fn tell(&self, note: impl FnOnce(&mut Soon)) {
        note(&mut self.soon.lock().expect("no panic happens under this lock"));
        self.ring();
    }

    /// Wakes the dispatcher.
    pub fn ring(&self) {
        self.bell.notify_one();
    }

    pub async fn rung(&self) {
        self.bell.notified().await;
    }

    /// A schedule was set or resumed: it may be due sooner than was known.
    pub fn schedules_changed(&self) {
        self.schedules.notify_one();
    }

    pub async fn until_schedules_change(&self) {
        self.schedules.notified().await;
    }

    /// Somebody asks for what a worker alone can open, or has made room for more of it.
    pub fn readings_changed(&self) {
        self.readings.send_replace(());
    }

    pub fn readings(&self) -> watch::Receiver<()> {
        self.readings.subscribe()
    }

    pub fn take(&self) -> Soon {
        std::mem::take(&mut self.soon.lock().expect("no panic happens under this lock"))
    }
}
