//! The second guard, behind the lane, and as wide as the provider's whole budget: this process alone never exceeds it.

use std::{num::NonZeroU32, time::Duration};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

use crate::partners::Budget;

/// Windows up to this long are paced evenly, longer ones may be used up at once.
const PACED_WINDOW: Duration = Duration::from_secs(60);
/// How long a call may wait at least. The lane has spaced the calls already, so there is no long queue here.
const PATIENCE: Duration = Duration::from_secs(2);

pub struct Guard {
    limiters: Vec<DefaultDirectRateLimiter>,
    patience: Duration,
}

impl Guard {
    pub fn new(budgets: &[Budget]) -> Guard {
        Guard {
            limiters: budgets.iter().filter_map(quota).map(RateLimiter::direct).collect(),
            patience: budgets.iter().filter_map(period).max().map_or(PATIENCE, |period| PATIENCE.max(period * 4)),
        }
    }

    /// Waits for this call's turn; `false` if that would take too long.
    pub async fn admits(&self) -> bool {
        let turn = async {
            for limiter in &self.limiters {
                limiter.until_ready().await;
            }
        };
        tokio::time::timeout(self.patience, turn).await.is_ok()
    }
}

/// Between two calls, where they are paced.
fn period(budget: &Budget) -> Option<Duration> {
    let paced = budget.window <= PACED_WINDOW && budget.calls > 0;
    paced.then(|| (budget.window + budget.jitter) / budget.calls)
}

fn quota(budget: &Budget) -> Option<Quota> {
    if let Some(period) = period(budget) {
        return Quota::with_period(period);
    }
    // Coarse: evenly paced, a day's budget would allow one call in minutes. The lane keeps the exact account.
    let calls = NonZeroU32::new(budget.calls)?;
    Some(Quota::with_period(budget.window / budget.calls)?.allow_burst(calls))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn budget(calls: u32, window: Duration, jitter: Duration) -> Budget {
        Budget { calls, window, jitter }
    }

    #[tokio::test]
    async fn calls_are_spaced_so_that_a_window_never_sees_more_than_the_budget() {
        let guard = Guard::new(&[budget(10, Duration::from_millis(200), Duration::from_millis(20))]);
        let start = Instant::now();
        for _ in 0..11 {
            assert!(guard.admits().await);
        }
        // Ten spaces of (200 + 20) / 10 ms: the eleventh call is in the next window.
        assert!(start.elapsed() >= Duration::from_millis(220));
    }

    #[tokio::test]
    async fn a_spent_day_admits_nobody_and_does_not_wait_for_tomorrow() {
        let guard = Guard {
            patience: Duration::from_millis(50),
            ..Guard::new(&[budget(3, PACED_WINDOW * 60, Duration::ZERO)])
        };
        for _ in 0..3 {
            assert!(guard.admits().await);
        }
        assert!(!guard.admits().await);
    }
}
