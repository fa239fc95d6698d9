//! What a process is told from outside, and what it says before it ends.

use std::time::Duration;

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::Instant,
};

use serde_json::json;

use super::out::Out;
use crate::basics::terminal::{self, leftovers, note, progress};

/// A second signal within this time is the same one: wrappers and terminals send it to a process and to its group.
const SAME_SIGNAL: Duration = Duration::from_secs(1);

/// Listens from now on. Resolves at the first SIGINT or SIGTERM; another, a second later at the earliest, ends the process at once.
pub fn stop() -> impl Future<Output = ()> {
    let signals = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    async {
        let (Ok(mut terminate), Ok(mut interrupt)) = signals else { return std::future::pending().await };
        either(&mut terminate, &mut interrupt).await;
        let first = Instant::now();
        tokio::spawn(async move {
            loop {
                either(&mut terminate, &mut interrupt).await;
                if first.elapsed() >= SAME_SIGNAL {
                    break;
                }
            }
            tracing::warn!("a second signal: ending at once; what was in flight is in doubt and will be resolved");
            std::process::exit(130);
        });
    }
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! { _ = terminate.recv() => {} _ = interrupt.recv() => {} }
}

/// Listens from now on: a process that serves is not ended by SIGHUP, whoever closes its terminal; it is told to read its secrets again.
pub fn hang_ups() -> Option<Signal> {
    signal(SignalKind::hangup()).inspect_err(|error| tracing::warn!(%error, "SIGHUP cannot be listened to")).ok()
}

/// Does so at each of them, as long as the process lives.
pub fn at_each<F: Future<Output = ()> + Send>(signals: Option<Signal>, mut again: impl FnMut() -> F + Send + 'static) {
    let Some(mut signals) = signals else { return };
    tokio::spawn(async move {
        while signals.recv().await.is_some() {
            again().await;
        }
    });
}

/// What became of it.
pub fn tell_read_again(read: &anyhow::Result<()>) {
    match read {
        Ok(()) => tracing::info!("SIGHUP: secrets were read again; what begins from now on goes with them"),
        Err(error) => tracing::error!(
            error = format!("{error:#}"),
            "SIGHUP: secrets cannot be read again; it goes on with those it has. Fix that, and send SIGHUP again"
        ),
    }
}

/// For commands that a person waits for: one that is broken off says what is kept, and ends with 128 and the signal's number.
pub fn tell_what_is_kept(out: Out) {
    progress::enable();
    for (kind, number) in [(SignalKind::interrupt(), 2), (SignalKind::terminate(), 15), (SignalKind::hangup(), 1)] {
        let Ok(mut signal) = signal(kind) else { continue };
        tokio::spawn(async move {
            if signal.recv().await.is_some() {
                let kept = progress::last_word().unwrap_or_else(|| {
                    "what it had asked of the database is done whole or not at all; `noshi audit list --since 5m` tells".to_owned()
                });
                leftovers::clear();
                match out {
                    Out::Table => note!("\nnoshi: broken off; {kept}"),
                    Out::Json => {
                        let document = json!({"error": format!("broken off; {kept}"), "status": 128 + number});
                        terminal::tell(&(document.to_string() + "\n"));
                    }
                }
                std::process::exit(128 + number);
            }
        });
    }
}
