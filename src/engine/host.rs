//! apalis hosts the workers: its `Monitor` runs them, over a backend of our own that hands out what the dispatcher claimed.
//!
//! Rules, each learnt from a reproduced fault: the backend never returns an error (it would drop every running job in
//! mid-call); no polling intervals, retries, timeouts or concurrency limits of its own; a job that was started is finished
//! by its own task whatever becomes of apalis' future.

use std::{
    convert::Infallible,
    future::Future,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use apalis_core::{
    backend::{Backend, BackendConfig, finalize::Ephemeral},
    monitor::Monitor,
    task::{Task, task_id::RandomId},
    worker::{builder::WorkerBuilder, context::WorkerContext},
};
use tokio::sync::mpsc;
use tower::layer::util::Identity;
use tracing::Instrument;

use crate::{
    engine::{Engine, dispatcher::Slotted, registry::Registry},
    telemetry::traces,
};

struct Claims(mpsc::Receiver<Slotted>);

impl Backend for Claims {
    type Task = Task<Slotted>;
    type Error = Infallible;

    fn poll_ready(&mut self, _: &mut Context<'_>, _: &WorkerContext) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        _: &WorkerContext,
    ) -> Poll<Option<Result<Task<Slotted>, Infallible>>> {
        self.0.poll_recv(cx).map(|slotted| slotted.map(|slotted| Ok(Task::new(slotted))))
    }

    fn poll_close(&mut self, _: &mut Context<'_>, _: &WorkerContext) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }
}

impl BackendConfig for Claims {
    type Args = Slotted;
    type Id = RandomId;
    type Kind = Ephemeral;
    type Config = ();
    type Layer = Identity;

    fn config(&self) -> &() {
        &()
    }

    fn middleware(&mut self, _: &mut WorkerContext) -> Identity {
        Identity::new()
    }
}

/// Runs claimed jobs until `stop` resolves and everything in flight is finished, or `grace` has passed.
pub async fn host(
    engine: Arc<Engine>,
    registry: Arc<dyn Registry>,
    claims: mpsc::Receiver<Slotted>,
    grace: Duration,
    stop: impl Future<Output = ()> + Send + 'static,
) {
    let claims = std::sync::Mutex::new(Some(Claims(claims)));
    let name = format!("noshi-{}", engine.worker);
    let monitor = Monitor::new()
        .register(move |_| {
            let (engine, registry) = (Arc::clone(&engine), Arc::clone(&registry));
            let backend = claims.lock().ok().and_then(|mut claims| claims.take()).unwrap_or_else(nothing);
            WorkerBuilder::new(name.as_str())
                .backend(backend)
                .build(move |slotted: Slotted| carry(Arc::clone(&engine), Arc::clone(&registry), slotted))
        })
        .shutdown_timeout(grace);
    let stopped = async move {
        stop.await;
        Ok::<(), std::io::Error>(())
    };
    if let Err(error) = monitor.run_with_signal(stopped).await {
        tracing::error!(%error, "apalis ended with an error");
    }
}

/// A worker that apalis builds a second time has nothing to hand out.
fn nothing() -> Claims {
    Claims(mpsc::channel(1).1)
}

async fn carry(engine: Arc<Engine>, registry: Arc<dyn Registry>, slotted: Slotted) {
    let (id, lease) = (slotted.work.claimed.id, slotted.work.claimed.lease);
    let span = traces::in_flight(&slotted.work.claimed);
    let ours = Arc::clone(&engine);
    let task = tokio::spawn(async move { registry.run_job(&ours, &slotted.work).await }.instrument(span.clone()));
    engine.held.runs(id, lease, task.abort_handle());
    if let Err(error) = task.await {
        let _in_flight = span.enter();
        // Not a step's panic, which is settled: one of the engine's own. The row is found lost and taken back.
        tracing::error!(%error, "a job's task ended abnormally");
    }
    engine.held.remove(id, lease);
}
