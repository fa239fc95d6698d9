//! Group commit. While one flush is in flight the next one fills; a job goes on only after its own settle is durable.

use std::{sync::Arc, time::Instant};

use tokio::{
    sync::{Mutex, mpsc, oneshot},
    task::JoinHandle,
};
use tracing::Span;

use crate::{
    db::{
        self, PgPool,
        queue::settle::{Settled, Settlement},
    },
    engine::{
        retry::{Broken, DatabaseBackoff},
        witness::Witness,
    },
};

/// Settles that travel together at most, and groups in flight at once.
const GROUP: usize = 256;
const FLUSHERS: usize = 2;

struct Entry {
    settlement: Settlement,
    /// Of its job, so that what is logged of it says which that is.
    span: Span,
    result: oneshot::Sender<Settled>,
}

/// Hands settles over to the flushers.
#[derive(Clone)]
pub struct Flusher(mpsc::Sender<Entry>);

impl Flusher {
    /// The flushers end when the last handle is gone and everything is written.
    pub fn start(pool: PgPool, worker: i64, witness: Arc<Witness>) -> (Self, Vec<JoinHandle<()>>) {
        let (sender, receiver) = mpsc::channel(4 * GROUP);
        let receiver = Arc::new(Mutex::new(receiver));
        let tasks = (0..FLUSHERS)
            .map(|_| tokio::spawn(flush(pool.clone(), worker, Arc::clone(&witness), Arc::clone(&receiver))))
            .collect();
        (Flusher(sender), tasks)
    }

    /// Returns once it is known what became of the settle, however long the database is away.
    pub async fn commit_with_others(&self, settlement: Settlement) -> Settled {
        let (result, settled) = oneshot::channel();
        if self.0.send(Entry { settlement, span: Span::current(), result }).await.is_err() {
            return Settled::Stale;
        }
        settled.await.unwrap_or(Settled::Stale)
    }
}

async fn flush(pool: PgPool, worker: i64, witness: Arc<Witness>, receiver: Arc<Mutex<mpsc::Receiver<Entry>>>) {
    let mut entries = Vec::with_capacity(GROUP);
    loop {
        if receiver.lock().await.recv_many(&mut entries, GROUP).await == 0 {
            return;
        }
        metrics::histogram!("noshi_settle_group_size").record(u32::try_from(entries.len()).unwrap_or(u32::MAX));
        let begun = Instant::now();
        let results = write_group(&pool, worker, &entries).await;
        metrics::histogram!("noshi_settle_seconds").record(begun.elapsed());
        let applied = results.iter().zip(&entries).filter(|(settled, _)| **settled == Settled::Applied);
        witness.settled(applied.map(|(_, entry)| entry.settlement.hold()));
        for (settled, entry) in results.into_iter().zip(entries.drain(..)) {
            // A receiver that is gone was a job that its worker gave up on.
            let _ = entry.result.send(settled);
        }
    }
}

/// Writes a group, whatever it takes.
async fn write_group(pool: &PgPool, worker: i64, group: &[Entry]) -> Vec<Settled> {
    let mut backoff = DatabaseBackoff::default();
    let mut broken = Broken::default();
    let mut results = vec![None; group.len()];
    let mut unanswered = false;
    loop {
        let open = group.iter().enumerate().filter(|(place, _)| results[*place].is_none());
        let places = db::queue::settle::first_of_each_job(open.map(|(place, entry)| (place, &entry.settlement)));
        if places.is_empty() {
            let mut results: Vec<Settled> =
                results.into_iter().map(|result| result.unwrap_or(Settled::Stale)).collect();
            if unanswered {
                ask_what_was_applied(pool, worker, group, &mut results).await;
            }
            return results;
        }
        let rest: Vec<&Settlement> = places.iter().map(|i| &group[*i].settlement).collect();
        match db::queue::settle::settle(pool, worker, &rest).await {
            Ok(settled) => {
                for (place, result) in places.into_iter().zip(settled) {
                    results[place] = Some(result);
                }
            }
            Err(error) if db::is_transient(&error) && !broken.for_ever(db::is_internal(&error)) => {
                tracing::warn!(error = %error, jobs = rest.len(), "the database did not answer a settle; it is sent again");
                unanswered = true;
                backoff.pause().await;
            }
            Err(error) => {
                let passes = if db::is_internal(&error) { passes_unbroken } else { db::is_transient };
                one_by_one(pool, worker, (group, &places), passes, &mut results).await;
            }
        }
    }
}

/// A settle that was applied and not answered is found stale when it is sent again: the journal tells it from one whose lease was lost. ClaimRequest
/// last, since what a lost connection carried may be applied at any time before the same is sent again, and not after.
async fn ask_what_was_applied(pool: &PgPool, worker: i64, group: &[Entry], results: &mut [Settled]) {
    let mut backoff = DatabaseBackoff::default();
    let places: Vec<usize> = (0..group.len()).filter(|place| results[*place] == Settled::Stale).collect();
    let stale: Vec<&Settlement> = places.iter().map(|place| &group[*place].settlement).collect();
    while !stale.is_empty() {
        match db::queue::settle::was_applied(pool, worker, &stale).await {
            Ok(applied) => {
                for place in places {
                    if applied.contains(&group[place].settlement.hold()) {
                        results[place] = Settled::Applied;
                    }
                }
                return;
            }
            Err(error) if db::is_transient(&error) => {
                tracing::warn!(error = %error, jobs = stale.len(), "the database did not say which settles were applied; asking again");
                backoff.pause().await;
            }
            Err(error) => {
                tracing::error!(error = %error, jobs = stale.len(), "it is not known which settles were applied; their jobs go on from their rows");
                return;
            }
        }
    }
}

/// What may pass where the server has said for long enough that it is broken inside.
fn passes_unbroken(error: &sqlx::Error) -> bool {
    db::is_transient(error) && !db::is_internal(error)
}

/// One bad row must not hold its neighbours back. What cannot be written is parked with the reason, while it is still held.
async fn one_by_one(
    pool: &PgPool,
    worker: i64,
    (group, places): (&[Entry], &[usize]),
    passes: fn(&sqlx::Error) -> bool,
    results: &mut [Option<Settled>],
) {
    for &place in places {
        let Entry { settlement, span, .. } = &group[place];
        let refused = match db::queue::settle::settle(pool, worker, std::slice::from_ref(settlement)).await {
            Ok(settled) => {
                results[place] = settled.first().copied();
                continue;
            }
            Err(error) if passes(&error) => return,
            Err(error) => error,
        };
        let why = db::said(&refused);
        let parked = db::queue::settle::park_refused(pool, worker, settlement, why.as_deref()).await;
        let _in_flight = span.enter();
        match parked {
            Ok(settled) => {
                tracing::error!(
                    why,
                    "the database refuses what a step led to; the job is parked, and nothing of the step is written"
                );
                results[place] = Some(settled);
            }
            Err(error) if passes(&error) => return,
            // It stays running, is found lost, and is parked in the end.
            Err(error) => {
                tracing::error!(
                    why,
                    parking = db::said(&error),
                    "a settle cannot be written, nor the job parked; it will be found lost"
                );
                results[place] = Some(Settled::Stale);
            }
        }
    }
}
