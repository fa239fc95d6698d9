//! Delays: the only file that knows the `backoff` crate (unmaintained; `backon` is the drop-in exit).

use std::time::{Duration, Instant};

use backoff::{ExponentialBackoff, backoff::Backoff};

/// Before the `retries`-th durable retry (0 for the first): exponential, capped, with full jitter.
///
/// A pure function of the number of tries and chance; nobody sleeps on it, it is written to `run_at`.
pub fn durable_delay(retries: u32) -> Duration {
    let ceiling =
        Duration::from_secs(1).saturating_mul(2_u32.saturating_pow(retries.min(20))).min(Duration::from_secs(600));
    // `randomization_factor` 1 around half the ceiling is full jitter: anything from 0 to the ceiling.
    let mut policy = ExponentialBackoff {
        initial_interval: ceiling / 2,
        randomization_factor: 1.0,
        multiplier: 1.0,
        max_interval: ceiling,
        // The crate's default gives up after 15 minutes; a job's terms decide that, not the delay.
        max_elapsed_time: None,
        ..ExponentialBackoff::default()
    };
    policy.reset();
    policy.next_backoff().unwrap_or(ceiling)
}

/// For pure database work in process: 10 ms growing to 500 ms, without end.
pub struct DatabaseBackoff(ExponentialBackoff);

impl Default for DatabaseBackoff {
    fn default() -> Self {
        let mut policy = ExponentialBackoff {
            initial_interval: Duration::from_millis(10),
            max_interval: Duration::from_millis(500),
            max_elapsed_time: None,
            ..ExponentialBackoff::default()
        };
        policy.reset();
        DatabaseBackoff(policy)
    }
}

impl DatabaseBackoff {
    pub async fn pause(&mut self) {
        tokio::time::sleep(self.0.next_backoff().unwrap_or(Duration::from_millis(500))).await;
    }
}

/// How long and how often a server may say that it is broken inside, before that is its answer. One that crashes is up again, or gone, by then.
const BROKEN_FOR: Duration = Duration::from_secs(10);
const BROKEN_TIMES: u32 = 5;

/// Follows what one write is told, time after time.
#[derive(Debug, Default)]
pub struct Broken {
    since: Option<Instant>,
    times: u32,
}

impl Broken {
    /// Whether no more patience helps: nothing but that it is broken was said for long enough.
    pub fn for_ever(&mut self, says_so: bool) -> bool {
        if !says_so {
            *self = Broken::default();
            return false;
        }
        self.times += 1;
        let since = *self.since.get_or_insert_with(Instant::now);
        self.times >= BROKEN_TIMES && since.elapsed() >= BROKEN_FOR
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_are_jittered_capped_and_never_end() {
        for retries in [0, 3, 9, 40, u32::MAX] {
            let ceiling = Duration::from_secs(1 << retries.min(10)).min(Duration::from_secs(600));
            let delays: Vec<_> = (0..200).map(|_| durable_delay(retries)).collect();
            assert!(delays.iter().all(|d| *d <= ceiling), "{retries}: over {ceiling:?}");
            assert!(
                delays.iter().any(|d| *d < ceiling / 4) && delays.iter().any(|d| *d > ceiling * 3 / 4),
                "{retries}"
            );
        }
        let mut endless = DatabaseBackoff::default();
        assert!((0..10_000).all(|_| endless.0.next_backoff().is_some()));
    }
}
