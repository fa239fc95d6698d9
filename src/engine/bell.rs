//! When producers ring for this worker. NOTIFY takes one lock for all who commit in a database, so a worker asks to be rung while it has
//! nothing to do, and looks by itself while it would be rung often. Either way polling is what finds each job.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::watch;

use crate::{db::queue::workers, engine::Engine};

/// Rung more often than this, looking is cheaper, for producers too.
const OFTEN: u32 = 10;
const WITHIN: Duration = Duration::from_millis(500);
/// How soon it looks again while nobody rings.
const LOOK: Duration = Duration::from_millis(10);
/// Nothing found for so long: it asks to be rung again.
const IDLE: Duration = Duration::from_millis(500);
/// The database forgets a wish after ten seconds.
const AGAIN: Duration = Duration::from_secs(3);

struct State {
    /// Rings since the first of them.
    rings: u32,
    since: Instant,
    found_at: Instant,
}

pub struct Bell {
    state: Mutex<State>,
    is_wanted: watch::Sender<bool>,
}

impl Default for Bell {
    fn default() -> Self {
        let now = Instant::now();
        Bell { state: Mutex::new(State { rings: 0, since: now, found_at: now }), is_wanted: watch::Sender::new(true) }
    }
}

impl Bell {
    pub fn rang(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.since.elapsed() > WITHIN {
            (state.rings, state.since) = (0, Instant::now());
        }
        state.rings += 1;
        if state.rings > OFTEN {
            state.found_at = Instant::now();
            self.is_wanted.send_if_modified(std::mem::take);
        }
    }

    /// A look at what is new found something, or nothing. How soon the next one is due, where nobody rings.
    pub fn looked(&self, found: bool) -> Option<Duration> {
        if *self.is_wanted.borrow() {
            return None;
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if found {
            state.found_at = Instant::now();
        } else if state.found_at.elapsed() > IDLE {
            self.is_wanted.send_replace(true);
            return None;
        }
        Some(LOOK)
    }
}

/// Keeps the database's word of it, for as long as the process lives.
pub async fn keep(engine: Arc<Engine>) {
    let mut is_wanted = engine.bell.is_wanted.subscribe();
    let mut was_wanted = false;
    loop {
        let wanted = *is_wanted.borrow_and_update();
        let told = workers::ring_for(&engine.pool, engine.worker, wanted).await;
        // What came between the last look and this word rang for nobody.
        if told.is_ok() && wanted && !was_wanted {
            engine.hints.all();
        }
        was_wanted = wanted && told.is_ok();
        let again = if told.is_err() { Duration::from_secs(1) } else { AGAIN };
        tokio::select! {
            _changed = is_wanted.changed() => {}
            () = tokio::time::sleep(again), if wanted || told.is_err() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rung_often_it_looks_by_itself_until_nothing_is_found() {
        let bell = Bell::default();
        for _ in 0..OFTEN {
            bell.rang();
        }
        assert_eq!(bell.looked(false), None, "rung now and then it goes on to be rung");
        bell.rang();
        assert_eq!(bell.looked(false), Some(LOOK));
        bell.state.lock().unwrap().found_at = Instant::now().checked_sub(2 * IDLE).unwrap();
        assert_eq!(bell.looked(true), Some(LOOK));
        bell.state.lock().unwrap().found_at = Instant::now().checked_sub(2 * IDLE).unwrap();
        assert_eq!(bell.looked(false), None);
        assert!(*bell.is_wanted.borrow());
    }
}
