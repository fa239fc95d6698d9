//! What the fleet does beside running jobs. Every process looks now and then; the database lets one of them act.

use std::{sync::Arc, time::Duration};

use tokio::task::JoinHandle;

use crate::{
    basics::{chaos::crash_point, kinds},
    db::{self, PgPool, queue::schedules::Due},
    engine::{
        Engine,
        cron::{Times, Turn},
    },
};

const BETWEEN_BATCH_LOOKS: Duration = Duration::from_secs(2);
const BETWEEN_REDRIVE_LOOKS: Duration = Duration::from_secs(1);
/// How often a process asks whether it is its turn to prune.
const BETWEEN_PRUNE_LOOKS: Duration = Duration::from_secs(10);
/// At the latest, at the soonest, where neither a due time nor a change is known of.
const BETWEEN_SCHEDULE_LOOKS: Duration = Duration::from_secs(15);
const SOONEST_SCHEDULE_LOOK: Duration = Duration::from_millis(200);
/// While the database's clock is not trusted.
const BETWEEN_UNTRUSTED_LOOKS: Duration = Duration::from_secs(2);
const BETWEEN_SNAPSHOTS: Duration = Duration::from_secs(2);

/// Begins them all; they end when they are aborted.
pub fn begin(engine: &Arc<Engine>) -> Vec<JoinHandle<()>> {
    vec![
        tokio::spawn(settle_batches(Arc::clone(engine))),
        tokio::spawn(advance_redrives(Arc::clone(engine))),
        tokio::spawn(prune(Arc::clone(engine))),
        tokio::spawn(fire_schedules(Arc::clone(engine))),
        tokio::spawn(take_metric_snapshot(Arc::clone(engine))),
    ]
}

/// Looks at batches that were released, one at a time in the whole fleet, and settles those with nothing left to be done.
async fn settle_batches(engine: Arc<Engine>) {
    let broken = metrics::counter!("noshi_batch_equation_broken_total");
    loop {
        if !engine.clocks.ask(&engine.pool).await {
            tokio::time::sleep(BETWEEN_BATCH_LOOKS).await;
            continue;
        }
        match db::domain::batches::count_next(&engine.pool).await {
            Ok(Some(counted)) => {
                if !counted.holds {
                    broken.increment(1);
                    tracing::error!(
                        batch = counted.batch,
                        "the batch does not add up: see the runbook, batch_equation_broken"
                    );
                }
                if counted.status == "settled" {
                    metrics::counter!("noshi_batches_settled_total").increment(1);
                    tracing::info!(batch = counted.batch, "the batch is settled");
                }
                continue;
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "the batches could not be looked at; trying again"),
        }
        tokio::time::sleep(BETWEEN_BATCH_LOOKS).await;
    }
}

/// Carries out the re-drives that were applied, a few jobs at a time, one process in the whole fleet.
async fn advance_redrives(engine: Arc<Engine>) {
    let asked = metrics::counter!("noshi_redrive_jobs_asked_total");
    let drifted = metrics::counter!("noshi_redrive_jobs_drifted_total");
    let pauses = metrics::counter!("noshi_redrive_canary_pauses_total");
    loop {
        match db::operator::redrive::advance(&engine.pool).await {
            Ok(Some(turn)) => {
                asked.increment(turn.asked.unsigned_abs().into());
                drifted.increment(turn.drifted.unsigned_abs().into());
                match turn.event.as_deref() {
                    Some("paused_by_canary") => {
                        pauses.increment(1);
                        tracing::error!(
                            redrive = turn.redrive,
                            "the first jobs of the re-drive stand still again: it is paused until a person looks"
                        );
                    }
                    Some("paused_by_fault") => tracing::error!(
                        redrive = turn.redrive,
                        "the re-drive cannot go on: it is paused until a person looks; `noshi redrive show` says why"
                    ),
                    Some("put_off") => tracing::warn!(
                        redrive = turn.redrive,
                        "another transaction holds up the re-drive; it has its turn again in some seconds"
                    ),
                    Some(event) => tracing::info!(redrive = turn.redrive, event, "the re-drive ended"),
                    None => {}
                }
                continue;
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "the re-drives could not be looked at; trying again"),
        }
        tokio::time::sleep(BETWEEN_REDRIVE_LOOKS).await;
    }
}

/// Moves out jobs that were over long ago, by the schedule: one process of the fleet at a time, page by page.
async fn prune(engine: Arc<Engine>) {
    loop {
        match prune_if_due(&engine).await {
            Ok(0) => {}
            Ok(pruned) => {
                metrics::counter!("noshi_jobs_pruned_total").increment(pruned);
                tracing::info!(pruned, "moved out jobs that were over long ago");
            }
            Err(error) => {
                tracing::warn!(%error, "pruning was broken off; what was moved stays moved, and the rest follows")
            }
        }
        tokio::time::sleep(BETWEEN_PRUNE_LOOKS).await;
    }
}

async fn prune_if_due(engine: &Engine) -> Result<u64, db::ActError> {
    let pool = &engine.pool;
    let mut pruned = 0;
    if !engine.clocks.ask(pool).await || !db::queue::retention::is_due(pool).await? {
        return Ok(pruned);
    }
    let mut last = db::queue::retention::Pruned::default();
    // By a clock that is ahead, what is young would be old.
    while engine.clocks.ask(pool).await
        && let Some(page) = db::queue::retention::next_page(pool, None, &last).await?
    {
        pruned += u64::from(page.pruned.unsigned_abs());
        if page.is_last() {
            break;
        }
        last = page;
    }
    Ok(pruned)
}

/// Fires schedules when they are due: whoever comes first has the row, the others pass it over.
async fn fire_schedules(engine: Arc<Engine>) {
    loop {
        let pause = match look_at_schedules(&engine).await {
            Ok(wait) => wait.clamp(SOONEST_SCHEDULE_LOOK, BETWEEN_SCHEDULE_LOOKS),
            Err(error) => {
                tracing::warn!(%error, "the schedules could not be looked at; trying again");
                Duration::from_secs(1)
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = engine.hints.until_schedules_change() => {}
        }
    }
}

/// Fires whatever is due. Returns how long there is nothing to do, by the database's clock.
async fn look_at_schedules(engine: &Engine) -> Result<Duration, sqlx::Error> {
    let pool = &engine.pool;
    if !engine.clocks.ask(pool).await {
        return Ok(BETWEEN_UNTRUSTED_LOOKS);
    }
    draw_back_schedules(pool).await?;
    let kinds = kinds::names();
    let wait = db::queue::schedules::wait(pool, kinds).await?;
    if wait.is_some_and(|wait| wait.is_zero()) {
        while fire_next(engine, kinds).await? {}
        return Ok(db::queue::schedules::wait(pool, kinds).await?.unwrap_or(BETWEEN_SCHEDULE_LOOKS));
    }
    Ok(wait.unwrap_or(BETWEEN_SCHEDULE_LOOKS))
}

/// A next due time beyond the first that there is from now on was reckoned from a clock that was ahead.
async fn draw_back_schedules(pool: &PgPool) -> Result<(), sqlx::Error> {
    for planned in db::queue::clocks::planned(pool).await? {
        let first = Times::read(&planned.cron, &planned.zone).ok().and_then(|times| times.after(planned.clock));
        let Some(first) = first.filter(|first| *first < planned.next_due) else { continue };
        if db::queue::clocks::draw_back_schedule(pool, &planned, first).await? {
            metrics::counter!("noshi_instants_drawn_back_total").increment(1);
            tracing::warn!(schedule = planned.name, was = %planned.next_due, next = %first, "its next due time lay too far ahead; it is drawn back");
        }
    }
    Ok(())
}

/// False: nothing is due that is not in other hands, or the clock by which it is due is not to be trusted.
async fn fire_next(engine: &Engine, kinds: &[&str]) -> Result<bool, sqlx::Error> {
    let mut transaction = engine.pool.begin().await?;
    let Some(due) = db::queue::schedules::take_due(&mut transaction, kinds).await? else {
        return Ok(false);
    };
    let Due { cron, zone, missed, next_due, clock, .. } = &due;
    // This very clock said that it is due.
    if !engine.clocks.trusted(clock.timestamp_micros() as f64 / 1e6) {
        return Ok(false);
    }
    let turn = Times::read(cron, zone).and_then(|times| {
        times.turn(*missed, *next_due, *clock).ok_or_else(|| format!("cron: `{cron}` is never due again"))
    });
    let moved = match &turn {
        Ok(turn) => db::queue::schedules::fire(&mut transaction, &due, &turn.fire, turn.skipped, turn.next).await?,
        Err(why) => {
            db::queue::schedules::stick(&mut transaction, &due, why).await?;
            false
        }
    };
    crash_point("schedule.before_commit");
    transaction.commit().await?;
    crash_point("schedule.after");
    match turn.ok().filter(|_| moved) {
        Some(Turn { fire, skipped, .. }) => {
            metrics::counter!("noshi_schedule_fired_total").increment(fire.len() as u64);
            metrics::counter!("noshi_schedule_skipped_total").increment(skipped as u64);
            tracing::info!(schedule = due.name, fired = fire.len(), skipped, "a schedule was due");
        }
        None => tracing::error!(schedule = due.name, "a schedule is stuck: `noshi schedule show` tells why"),
    }
    Ok(true)
}

/// Counts what every process shows, on a budget: one process of the fleet at a time.
async fn take_metric_snapshot(engine: Arc<Engine>) {
    loop {
        if let Err(error) = db::operator::snapshot::take(&engine.pool).await {
            tracing::warn!(%error, "the metric snapshot could not be taken; the last one is shown");
        }
        tokio::time::sleep(BETWEEN_SNAPSHOTS).await;
    }
}
