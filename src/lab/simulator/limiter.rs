//! How many calls a provider takes: a sliding window over arrivals, exact to the microsecond.
//!
//! Every arrival counts, refused ones too: the rule that the ledger is judged by is "at most `limit` arrivals in any
//! second", and a provider's gate does count the calls that it turns away.

use std::collections::VecDeque;

const WINDOW_US: u64 = 1_000_000;

#[derive(Default)]
pub struct Limiter {
    arrivals: VecDeque<u64>,
}

impl Limiter {
    /// Records an arrival at `us` (never older than the last one) and says whether it is one too many: whether
    /// the second that ends with it, `(us - 1 s, us]`, now holds more than `limit` arrivals.
    pub fn arrive(&mut self, us: u64, limit: Option<u32>) -> bool {
        while self.arrivals.front().is_some_and(|first| first + WINDOW_US <= us) {
            self.arrivals.pop_front();
        }
        self.arrivals.push_back(us);
        limit.is_some_and(|limit| self.arrivals.len() > limit as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::Limiter;

    #[test]
    fn the_window_is_exact_at_both_ends() {
        let mut limiter = Limiter::default();
        for us in [0, 400_000, 999_999] {
            assert!(!limiter.arrive(us, Some(3)), "{us}");
        }
        // The arrival at 0 has left the second (0, 1_000_000], so this is the third, not the fourth.
        assert!(!limiter.arrive(1_000_000, Some(3)));
        assert!(limiter.arrive(1_399_999, Some(3)));
        // A refused call counts: 999_999, 1_000_000, 1_399_999 and this one.
        assert!(limiter.arrive(1_400_000, Some(3)));
    }

    #[test]
    fn no_limit_refuses_nothing() {
        let mut limiter = Limiter::default();
        assert!((0..1000).all(|_| !limiter.arrive(7, None)));
    }
}
