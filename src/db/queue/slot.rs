//! The slots of tokens: when a call is due, and how late this process usually reaches it, so that a slow way to the database makes it
//! slower, and never idle.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use noshi_jobs::machine::Closing;

/// Of a lane, so many calls are remembered.
const SEEN: usize = 15;

/// The smallest allowance. A lane that forgives more is not slower for it, and one that forgives nothing is not idle on a fast machine.
const LEAST: Duration = Duration::from_millis(1);

/// 33 seconds: whoever is later than that usually has another trouble than a slow link.
const MAX_DOUBLINGS: u32 = 15;

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
        (0..=MAX_DOUBLINGS)
            .map(|n| LEAST * 2_u32.pow(n))
            .find(|step| *step >= usual)
            .unwrap_or(LEAST * 2_u32.pow(MAX_DOUBLINGS))
    }
}

/// What a call noticed about its lane beside its answer: it closes the lane, or keeps this process away from it.
pub type Notice = Arc<Mutex<Option<Closing>>>;

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
        assert_eq!(lateness.allowance("a"), Duration::from_millis(8));
        assert_eq!(lateness.allowance("b"), Duration::from_millis(2048));
        for _ in 0..8 {
            lateness.seen("b", Duration::from_millis(30));
        }
        assert_eq!(lateness.allowance("b"), Duration::from_millis(64));
        lateness.seen("c", Duration::from_secs(3600));
        assert_eq!(lateness.allowance("c"), Duration::from_millis(32_768));
        // Whatever a lane forgives: who is late by less is allowed for too.
        lateness.seen("d", Duration::from_micros(300));
        assert_eq!(lateness.allowance("d"), Duration::from_millis(1));
    }

    #[test]
    fn a_slot_remembers_how_late_it_was_reached() {
        let lateness = Arc::new(Lateness::default());
        let slot =
            |late| Slot::new("a", Instant::now().checked_sub(late).unwrap(), Duration::from_millis(100), &lateness);
        assert!(slot(Duration::from_millis(1)).holds() && !slot(Duration::from_millis(400)).holds());
        assert_eq!(lateness.allowance("a"), Duration::from_millis(1024));
    }
}
