//! Whether the database's clock can be trusted with what cannot be taken back: expiries, due times, pruning, and the death of workers.
//!
//! It is held against this machine's clock, which is held against its own progress, and against what the rest of the fleet reports.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use crate::{
    basics::chaos,
    db::{self, PgPool, queue::clocks::BOUND},
};

/// After both clocks have jumped as one, such as on one machine, nobody can tell whether they went wrong or came right: a person has so long.
const PATIENCE: Duration = Duration::from_secs(15 * 60);

#[derive(Debug, Default)]
pub struct Clocks {
    /// This machine's clock, and when it showed that.
    last: Mutex<Option<(f64, Instant)>>,
    jumped: Mutex<Option<Instant>>,
    fleet_disagrees: AtomicBool,
    /// So that a change is told once.
    held: AtomicBool,
}

fn here() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

impl Clocks {
    /// Whether an instant that the database's clock shows right now, in Unix seconds, is to be trusted.
    pub fn trusted(&self, database: f64) -> bool {
        self.judge(database + chaos::clock_off(), here(), Instant::now())
    }

    fn judge(&self, database: f64, here: f64, now: Instant) -> bool {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let mut jumped = self.jumped.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((was, at)) = *last
            && (here - was - now.saturating_duration_since(at).as_secs_f64()).abs() > BOUND
        {
            *jumped = Some(now);
        }
        *last = Some((here, now));
        let waits = jumped.is_some_and(|at| now.saturating_duration_since(at) < PATIENCE);
        let trusted = !waits && (database - here).abs() <= BOUND && !self.fleet_disagrees.load(Ordering::Relaxed);
        if self.held.swap(!trusted, Ordering::Relaxed) == trusted {
            let ahead = (database - here).round();
            match trusted {
                true => tracing::info!("the clocks agree again: due times, expiries and pruning go on"),
                false => tracing::error!(
                    ahead,
                    "the clocks of the database and the fleet disagree, or have jumped: nothing falls due, expires, is pruned or declared dead until they agree; see the runbook, NoshiClockOff"
                ),
            }
        }
        trusted
    }

    /// Whether they agreed at the last look. Before the first one only the database's own word counts.
    pub fn agree(&self) -> bool {
        !self.held.load(Ordering::Relaxed)
    }

    /// Asks the database for its clock. An answer that does not come is no trust.
    pub async fn ask(&self, pool: &PgPool) -> bool {
        match db::queue::clocks::now(pool).await {
            Ok(database) => self.trusted(database),
            Err(_) => false,
        }
    }

    /// Whether this machine's clock is the database's. Not known is no.
    pub async fn is_right(&self, pool: &PgPool) -> bool {
        let database = db::queue::clocks::now(pool).await;
        database.is_ok_and(|database| (database + chaos::clock_off() - here()).abs() <= BOUND)
    }

    /// At every heartbeat: tells the fleet, hears of it, and brings back what was stored ahead of the clock.
    pub async fn look_after(&self, pool: &PgPool, worker: i64, lease: Duration) -> Result<bool, sqlx::Error> {
        let database = db::queue::clocks::now(pool).await?;
        // Before anybody is told: whoever has heard of it may rely on it that nothing falls due here any more.
        if !self.trusted(database) {
            db::queue::clocks::see(pool, lease, false).await?;
        }
        let agree = db::queue::clocks::report(pool, worker, database + chaos::clock_off() - here(), BOUND).await?;
        self.fleet_disagrees.store(!agree, Ordering::Relaxed);
        let trusted = self.trusted(database);
        for drawn in db::queue::clocks::draw_back(pool, trusted).await? {
            let db::queue::clocks::Drawn { what, name, ahead } = drawn;
            metrics::counter!("noshi_instants_drawn_back_total").increment(1);
            tracing::warn!(
                what,
                name,
                ahead,
                "was stored ahead of the database's clock, which has gone back; it is drawn back"
            );
        }
        db::queue::clocks::see(pool, lease, trusted).await?;
        Ok(trusted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: f64 = 3600.0;

    #[test]
    fn a_database_that_is_ahead_or_behind_is_not_trusted_and_is_again_when_it_comes_right() {
        for off in [HOUR, -HOUR, 60.0 * 24.0 * HOUR, 61.0, -61.0] {
            let (clocks, begun) = (Clocks::default(), Instant::now());
            let at = |seconds: u64| begun + Duration::from_secs(seconds);
            assert!(clocks.judge(1000.0, 1000.0, at(0)), "{off}");
            assert!(!clocks.judge(1002.0 + off, 1002.0, at(2)), "{off}");
            assert!(clocks.judge(1014.0, 1014.0, at(14)), "{off}");
        }
    }

    #[test]
    fn clocks_that_jump_as_one_are_trusted_only_after_a_while() {
        let (clocks, begun) = (Clocks::default(), Instant::now());
        let at = |seconds: u64| begun + Duration::from_secs(seconds);
        assert!(clocks.judge(1000.0, 1000.0, at(0)));
        for seconds in [2, 100, 800] {
            let both = 1000.0 + HOUR + seconds as f64;
            assert!(!clocks.judge(both, both, at(seconds)), "{seconds}");
        }
        let both = 1000.0 + HOUR + 1000.0;
        assert!(clocks.judge(both, both, at(1000)));
    }

    #[test]
    fn the_rest_of_the_fleet_counts() {
        let clocks = Clocks::default();
        clocks.fleet_disagrees.store(true, Ordering::Relaxed);
        assert!(!clocks.judge(5.0, 5.0, Instant::now()));
    }
}
