//! A partner that answers no order clearly is left alone for a while. Otherwise its outage would lead every order that waits into doubt, and
//! where the partner cannot tell "never" from "not yet", to a person.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::basics::chaos;

/// So many in a row are no accident, also at a partner of which every third answer is lost.
const IN_A_ROW: u32 = 8;
const FIRST: Duration = Duration::from_secs(5);
const LONGEST: Duration = Duration::from_secs(20);

#[derive(Debug, Default)]
struct Row {
    /// Orders in a row of which it is not known what became of them.
    unclear: u32,
    /// How often the lane was left alone since one was answered, and until when it is.
    pauses: u32,
    until: Option<Instant>,
}

#[derive(Debug, Default)]
pub struct Brake(Mutex<HashMap<String, Row>>);

impl Brake {
    /// What became of an order. `Some`: for so long nobody should send another one.
    pub fn after(&self, lane: &str, unclear: bool, now: Instant) -> Option<Duration> {
        let mut lanes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !unclear {
            lanes.remove(lane);
            return None;
        }
        let row = lanes.entry(lane.to_owned()).or_default();
        row.unclear = row.unclear.saturating_add(1);
        // Of those that were on their way when it was left alone nothing more is learned.
        if row.unclear < IN_A_ROW || row.until.is_some_and(|until| now < until) {
            return None;
        }
        let wait = LONGEST.min(FIRST.saturating_mul(1 << row.pauses.min(10))) / chaos::faster();
        row.pauses += 1;
        row.until = Some(now + wait);
        Some(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_grows_until_one_order_is_answered() {
        let (brake, mut now) = (Brake::default(), Instant::now());
        assert!((1..IN_A_ROW).all(|_| brake.after("a", true, now).is_none()));
        let mut waits = vec![];
        for _ in 0..5 {
            let wait = brake.after("a", true, now).unwrap();
            waits.push(wait.as_secs());
            assert_eq!(brake.after("a", true, now), None, "it was on its way");
            now += wait;
        }
        assert_eq!(waits, [5, 10, 20, 20, 20]);
        assert_eq!(brake.after("b", true, now), None, "another lane");
        assert_eq!((brake.after("a", false, now), brake.after("a", true, now)), (None, None));
    }
}
