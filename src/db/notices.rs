//! What the server says beside its answers.
//!
//! A commit whose wait for the synchronous standby is cancelled is answered as a success, with a warning: it is durable here, and may be
//! unknown to the server that takes over. The driver gives notices to its log target alone, so a layer of the subscriber counts them, on the
//! thread that polls the statement. The words are in the server's language; that it is a warning is not.

use std::{cell::Cell, future::poll_fn, pin::pin};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::{Layer, layer::Context};

const TARGET: &str = "sqlx::postgres::notice";

thread_local! {
    static WARNINGS: Cell<u64> = const { Cell::new(0) };
}

/// Counts warnings of the server. Without it in the subscriber none is noticed.
pub struct Warnings;

impl<S: Subscriber> Layer<S> for Warnings {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if event.metadata().target() == TARGET && *event.metadata().level() <= Level::WARN {
            WARNINGS.set(WARNINGS.get().wrapping_add(1));
        }
    }
}

/// What these events pass, whatever is logged.
pub fn filter() -> tracing_subscriber::filter::Targets {
    tracing_subscriber::filter::Targets::new().with_target(TARGET, Level::WARN)
}

/// The answer of statements that commit; an error if the server warned while they ran, since what they did may not survive it.
pub(super) async fn none_during<T>(answer: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
    let mut answer = pin!(answer);
    let mut warned = false;
    let answered = poll_fn(|context| {
        let before = WARNINGS.get();
        let poll = answer.as_mut().poll(context);
        warned |= WARNINGS.get() != before;
        poll
    })
    .await?;
    if warned {
        const WHY: &str =
            "the server warned that this commit may not be on its standby: what became of it is not known";
        return Err(sqlx::Error::Protocol(WHY.to_owned()));
    }
    Ok(answered)
}
