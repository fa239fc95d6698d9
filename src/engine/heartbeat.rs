//! One heartbeat per process. Declared dead is final. Every heartbeat also looks after the dead and the lost.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    basics::chaos::crash_point,
    db::{self, PgPool},
    engine::{Engine, witness::timeline_of},
};

/// Why a worker process must end at once, without settling anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    DeclaredDead,
}

/// Beats until declared dead. `pool` is the heartbeat's own: work never starves it.
pub async fn beat(engine: Arc<Engine>, pool: PgPool, beats: Arc<AtomicU64>) -> Verdict {
    let period = engine.clock.lease() / 5;
    let mut strays = HashSet::new();
    // Since when every beat was answered: after an outage nothing is late that only waited for its end.
    let mut answered_since = None;
    loop {
        let begun = Instant::now();
        beats.fetch_add(1, Ordering::Relaxed);
        crash_point("renew.before");
        // First: a renewal on a new timeline would hide how far the old one is known here.
        match seen_and_renewed(&engine, &pool).await {
            Ok(Some(beat)) => {
                engine.clock.renewed(begun);
                engine.witness.beat(beat);
                let answered = *answered_since.get_or_insert(begun);
                crash_point("renew.after");
                if let Err(error) = look_after(&engine, &pool, &mut strays, answered.elapsed()).await {
                    tracing::warn!(%error, "the database did not answer the heartbeat's questions");
                }
            }
            Ok(None) => {
                engine.clock.dead();
                tracing::error!(worker = engine.worker, "declared dead: this process starts nothing more and ends");
                return Verdict::DeclaredDead;
            }
            // No call starts once the lease has run out; the process waits for the database.
            Err(error) => {
                answered_since = None;
                tracing::warn!(%error, "the heartbeat was not answered");
            }
        }
        tokio::time::sleep(period.saturating_sub(begun.elapsed()).max(Duration::from_millis(50))).await;
    }
}

async fn seen_and_renewed(engine: &Engine, pool: &PgPool) -> Result<Option<i64>, sqlx::Error> {
    let seen = db::queue::recover::see_server(pool, engine.worker, engine.token).await?;
    let mut server = seen.server;
    if engine.witness.has_left(&seen.timeline) {
        server = went_back(pool).await?;
    } else if engine.witness.is_on(&seen.timeline) && !engine.witness.is_at(&server) {
        server = started_again(engine, pool, seen.beats, server).await?;
    }
    // Also where the others have dealt with it already: an answer to a testimony may be lost, and a worker may come late.
    if !engine.witness.is_at(&server) {
        testify(engine, pool, &server).await?;
    }
    db::queue::workers::beat(pool, engine.worker, Some(engine.token)).await
}

/// A server that started again on its timeline has all that it acknowledged; or an old copy of its files was put in their place, of which
/// nothing but the newest acknowledgements tells. Until that is known no claim is taken.
async fn started_again(
    engine: &Engine,
    pool: &PgPool,
    beats: Option<i64>,
    server: String,
) -> Result<String, sqlx::Error> {
    let (claims, settles) = engine.witness.newest(10);
    let known = beats.is_some_and(|there| there >= engine.witness.beats());
    if known && db::queue::recover::is_whole(pool, engine.worker, &claims, &settles).await? {
        engine.witness.arrive(server.clone());
        engine.hints.all();
        return Ok(server);
    }
    went_back(pool).await
}

async fn went_back(pool: &PgPool) -> Result<String, sqlx::Error> {
    tracing::error!("the database is older than what it acknowledged to this worker: an old copy of it came back");
    db::queue::recover::went_back(pool).await
}

/// Tells, once for each timeline, what the database had acknowledged to this process. Nothing is called on a claim of the old timeline any more.
async fn testify(engine: &Engine, pool: &PgPool, server: &str) -> Result<(), sqlx::Error> {
    let timeline = timeline_of(server);
    tracing::warn!(timeline, "the server's timeline changed: nothing is claimed until the fleet knows what was lost");
    let said = engine.witness.testify(server);
    match db::queue::recover::testify(pool, engine.worker, &said).await {
        Ok(0) => tracing::info!(timeline, "everything that was acknowledged to this worker is there"),
        Ok(missing) => tracing::error!(
            timeline,
            missing,
            "acknowledged commits are missing: the calls behind them are in doubt, and nobody buys again before its partner was asked"
        ),
        Err(error) => {
            engine.witness.not_heard(timeline);
            return Err(error);
        }
    }
    Ok(())
}

/// As many pages as there is time for before the next beat: whoever has the most to do must not look dead over it.
async fn deal(engine: &Engine, pool: &PgPool) -> Result<(), sqlx::Error> {
    use crate::db::queue::recover::{Dealt, PAGE};
    let begun = Instant::now();
    let mut dealt = db::queue::recover::deal(pool, PAGE).await?;
    while dealt == Dealt::GoesOn && begun.elapsed() < engine.clock.lease() / 10 {
        dealt = db::queue::recover::deal(pool, PAGE).await?;
    }
    match dealt {
        Dealt::Known | Dealt::Waits | Dealt::GoesOn => return Ok(()),
        Dealt::Whole { silent } => {
            tracing::warn!(silent, "the failover lost nothing: only what dead workers had in flight is in doubt")
        }
        Dealt::Lost { missing, silent, doubted } => {
            metrics::counter!("noshi_commits_lost_total").increment(1);
            tracing::error!(
                missing,
                silent,
                doubted,
                "commits were lost with the server: see the runbook, NoshiCommitsLost"
            );
        }
    }
    metrics::counter!("noshi_timeline_changes_total").increment(1);
    engine.hints.all();
    Ok(())
}

async fn look_after(
    engine: &Engine,
    pool: &PgPool,
    strays: &mut HashSet<(i64, i64)>,
    answered_for: Duration,
) -> Result<(), sqlx::Error> {
    // By a clock that has jumped, everybody would have been silent for long.
    let trusted = engine.clocks.look_after(pool, engine.worker, engine.clock.lease()).await.unwrap_or_else(|error| {
        tracing::warn!(%error, "the clocks were not compared: nobody is declared dead meanwhile");
        false
    });
    if trusted {
        for worker in db::queue::workers::declare_dead(pool, engine.clock.lease()).await? {
            crash_point("declare_dead.after");
            tracing::warn!(worker, "declared a silent worker dead");
        }
    }
    deal(engine, pool).await?;
    let rescued = db::queue::recover::rescue(pool).await?;
    if rescued > 0 {
        crash_point("rescue.after");
        metrics::counter!("noshi_rescues_total").increment(rescued);
        tracing::warn!(rescued, "took back the jobs of a dead worker");
        engine.hints.all();
    }
    // A job that the database says is ours, and that nobody here holds at two beats in a row, was lost in this process:
    // a claim whose answer never came, or a task that ended.
    let held = db::queue::workers::held(pool, engine.worker).await?;
    let missing: HashSet<(i64, i64)> =
        held.into_iter().filter(|(id, lease)| !engine.held.contains(*id, *lease)).collect();
    // Of a claim whose answer never came nothing was called; of a task that ended, who knows. An answer that comes after this is not taken.
    let (lost, unheard): (Vec<_>, Vec<_>) =
        missing.intersection(strays).copied().partition(|(job, lease)| !engine.witness.give_back_unheard(*job, *lease));
    if !unheard.is_empty() {
        tracing::warn!(jobs = unheard.len(), "gave back jobs whose claim was never answered: nothing was called");
        db::queue::recover::never_held(pool, engine.worker, &unheard).await?;
        // What was claimed too long ago for this process to remember may have been called.
        db::queue::recover::rescue_lost(pool, engine.worker, &unheard).await?;
        crash_point("rescue_lost.after");
        engine.hints.all();
    }
    if !lost.is_empty() {
        tracing::error!(jobs = lost.len(), "took back jobs that this process had lost sight of");
        db::queue::recover::rescue_lost(pool, engine.worker, &lost).await?;
        engine.hints.all();
    }
    *strays = missing;
    if answered_for > engine.patience() {
        end_overdue(engine, pool).await?;
    }
    Ok(())
}

/// A step that is in flight for longer than its deadline and its settle together is stuck here: behind the fence it is anybody's again, in
/// doubt if it may have called, and its slot is free.
async fn end_overdue(engine: &Engine, pool: &PgPool) -> Result<(), sqlx::Error> {
    let (mut stepped, mut waited) = (vec![], vec![]);
    for (id, lease) in engine.held.overdue() {
        // Given up before it is taken back: from here on it calls nothing under this lease. If it cannot be written now, it is found lost.
        match engine.held.give_up(id, lease) {
            Some(true) => stepped.push((id, lease)),
            Some(false) => waited.push((id, lease)),
            None => {}
        }
    }
    let stuck = stepped.len() + waited.len();
    if stuck == 0 {
        return Ok(());
    }
    tracing::error!(stepped = stepped.len(), waited = waited.len(), "gave up jobs whose step did not end in time");
    metrics::counter!("noshi_stuck_jobs_total").increment(stuck as u64);
    db::queue::recover::never_held(pool, engine.worker, &waited).await?;
    db::queue::recover::rescue_lost(pool, engine.worker, &stepped).await?;
    engine.hints.all();
    Ok(())
}

/// Ends the process if its heartbeat stalls: a process that cannot even try to renew is not to be trusted with calls.
pub fn watch(beats: &Arc<AtomicU64>, lease: Duration) {
    let beats = Arc::downgrade(beats);
    std::thread::spawn(move || {
        let mut seen = (0, Instant::now());
        // Until the heartbeat has ended in order.
        while let Some(beats) = beats.upgrade() {
            std::thread::sleep(lease / 5);
            let now = beats.load(Ordering::Relaxed);
            if now != seen.0 {
                seen = (now, Instant::now());
            } else if seen.1.elapsed() > lease * 3 {
                tracing::error!("the heartbeat stalled: this process ends");
                std::process::exit(70);
            }
        }
    });
}
