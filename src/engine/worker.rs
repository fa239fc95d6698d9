//! A worker process, put together: claims, runs, settles, beats, and ends in order.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::{
    net::TcpListener,
    sync::{Notify, mpsc},
    task::JoinHandle,
};

use crate::{
    basics::chaos::crash_point,
    db::{self, Role},
    engine::{
        Answers, Engine, Pace, bell,
        brake::Brake,
        dispatcher::Dispatcher,
        group_commit::Flusher,
        heartbeat::{self, Verdict},
        hints::Hints,
        host,
        lease::{Held, LeaseClock},
        listener, maintenance,
        registry::Registry,
        retry::DatabaseBackoff,
        witness::Witness,
    },
    telemetry::{health::Probes, metrics as fleet_metrics},
};

/// Connections of one worker: the work pool, and two for the heartbeat that work can never starve.
const WORK_CONNECTIONS: u32 = 8;
const VITAL_CONNECTIONS: u32 = 2;
/// All that is in flight may wait for its turn at a database that is half a second away.
const FOR_A_TURN: Duration = Duration::from_secs(30);

pub struct Worker {
    engine: Arc<Engine>,
    vital: crate::db::PgPool,
    flushers: Vec<JoinHandle<()>>,
    host: JoinHandle<()>,
    dispatcher: JoinHandle<()>,
    listener: Option<JoinHandle<()>>,
    maintenance: Vec<JoinHandle<()>>,
    heartbeat: JoinHandle<Verdict>,
    stop: Arc<Notify>,
    unready: Duration,
    grace: Duration,
    probes: Probes,
}

/// What is left of the grace for the last writes, and at least this.
const LAST_WRITES: Duration = Duration::from_secs(1);

/// A worker is ready while its heartbeat is answered, and its claims are, each on its own connections. With every slot taken it waits, and is
/// ready.
fn probes(engine: &Arc<Engine>, pool: crate::db::PgPool) -> Probes {
    let engine = Arc::downgrade(engine);
    Probes::watch(pool, move || match engine.upgrade() {
        None => Err("stopping".to_owned()),
        Some(engine) if !engine.may_call() => Err("the heartbeat is not answered".to_owned()),
        Some(engine) if !engine.claims.are_good() => Err("no claim was answered".to_owned()),
        Some(_) => Ok(()),
    })
}

/// Says who begins, on what, and with whom.
async fn began(engine: &Engine, partners: &[String], name: &str, slots: usize) {
    let lanes = db::queue::lanes::names(&engine.pool).await.unwrap_or_default();
    let (database, server) = engine.pool.place();
    tracing::info!(
        worker = engine.worker,
        name,
        version = env!("CARGO_PKG_VERSION"),
        commit = env!("BUILT_FROM_COMMIT"),
        database,
        server,
        partners = partners.join(", "),
        lanes = lanes.len(),
        slots,
        "claiming"
    );
}

/// How a worker process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Stopped,
    DeclaredDead,
}

impl Worker {
    /// Registers with the database and begins to claim.
    pub async fn start(url: &str, name: &str, registry: Arc<dyn Registry>, pace: Pace) -> anyhow::Result<Worker> {
        let pool = db::connect(url, Role::Worker, WORK_CONNECTIONS).await?.with_turns(FOR_A_TURN);
        let vital = db::connect(url, Role::Worker, VITAL_CONNECTIONS).await?;
        // On one that is only older it waits, and is not ready.
        if let Some(unfit) = db::schema::unfit(&pool).await?
            && unfit.is_of_others
        {
            anyhow::bail!(unfit.why);
        }
        // Well before a new server could take this worker for dead.
        vital.renews(pace.lease / 3);
        // A beat that is not answered is tried again while the lease still holds.
        let vital = vital.with_patience((pace.lease * 3 / 10).clamp(Duration::from_secs(1), db::connection::PATIENCE));
        registry
            .declare_lanes(&vital)
            .await
            .map_err(|error| match error.as_database_error().and_then(|said| said.code()).as_deref() {
                // Statements of another session stand there, or ours do not.
                Some("42P05" | "26000") => anyhow::anyhow!(
                    "a pooler between here and the database gives each transaction another connection: connect directly, or in session mode"
                ),
                _ => anyhow::Error::new(error).context("cannot declare the lanes; is the schema migrated (`noshi migrate up`)?"),
            })?;
        let clock = Arc::new(LeaseClock::new(pace.lease));
        let identity = db::queue::workers::enter(&vital, name).await.context("cannot register as a worker")?;
        let db::queue::workers::Identity { id: worker, token, server } = identity;
        let witness = Arc::new(Witness::on(server));
        crash_point("register.after");
        let (flusher, flushers) = Flusher::start(pool.clone(), worker, Arc::clone(&witness));
        let engine = Arc::new(Engine {
            worker,
            token,
            witness,
            pool,
            flusher,
            held: Held::default(),
            clock,
            lateness: Arc::default(),
            clocks: crate::engine::clocks::Clocks::default(),
            hints: Hints::default(),
            bell: crate::engine::bell::Bell::default(),
            stopping: AtomicBool::new(false),
            claims: Answers::default(),
            unknown: Mutex::default(),
            brake: Brake::default(),
            away: Mutex::default(),
        });
        let beats = Arc::new(AtomicU64::new(0));
        heartbeat::watch(&beats, pace.lease);
        let heartbeat = tokio::spawn(heartbeat::beat(Arc::clone(&engine), vital.clone(), beats));
        let listener = pace.listen.then(|| tokio::spawn(listener::listen(url.to_owned(), Arc::clone(&engine))));
        let (sender, claims) = mpsc::channel(pace.slots);
        let stop = Arc::new(Notify::new());
        let stopped = Arc::clone(&stop);
        let host =
            tokio::spawn(host::host(Arc::clone(&engine), Arc::clone(&registry), claims, pace.grace, async move {
                stopped.notified().await
            }));
        let mut maintenance = maintenance::begin(&engine);
        if pace.listen {
            maintenance.push(tokio::spawn(bell::keep(Arc::clone(&engine))));
        }
        maintenance.extend(registry.begin(&engine, &vital));
        let (unready, slots, grace) = (pace.unready, pace.slots, pace.grace);
        let dispatcher = tokio::spawn(Dispatcher::new(Arc::clone(&engine), pace, sender).dispatch());
        let probes = probes(&engine, engine.pool.clone());
        // A heartbeat that stalls ends the process by itself.
        for (name, turns) in [("dispatcher", &dispatcher), ("host of the jobs", &host)] {
            probes.needs(name, turns);
        }
        flushers.iter().for_each(|flusher| probes.needs("flusher", flusher));
        maintenance.iter().for_each(|task| probes.needs("maintenance", task));
        began(&engine, &registry.partners(), name, slots).await;
        Ok(Worker {
            engine,
            vital,
            flushers,
            host,
            dispatcher,
            listener,
            maintenance,
            heartbeat,
            stop,
            unready,
            grace,
            probes,
        })
    }

    /// Serves `/metrics` of the recorder that `metrics::install` gave before this worker began, and the probes beside it, where somebody
    /// listens already.
    pub fn serve_metrics(&self, listener: TcpListener, recorder: PrometheusHandle) {
        let engine = Arc::downgrade(&self.engine);
        let own = move || {
            if let Some(engine) = engine.upgrade() {
                metrics::gauge!("noshi_jobs_in_flight").set(engine.held.len() as f64);
                metrics::gauge!("noshi_heartbeat_age_seconds").set(engine.clock.silent_for().as_secs_f64());
            }
        };
        // Never on the heartbeat's connections.
        fleet_metrics::serve(listener, recorder, self.engine.pool.clone(), own, self.probes.routes());
    }

    /// Says which keys it has, from now on: a rotation of them waits until all workers have the new one.
    pub fn tell_keys(&self) -> impl Fn(Vec<(String, String)>) + Clone + Send + 'static {
        let engine = Arc::downgrade(&self.engine);
        move |keys| {
            let Some(engine) = engine.upgrade() else { return };
            tokio::spawn(async move {
                match db::queue::workers::tell_keys(&engine.pool, engine.worker, &keys).await {
                    Ok(worth) => warn_of(&worth),
                    Err(error) => {
                        tracing::warn!(%error, "the database was not told which keys this worker has; `noshi vault rotate` will wait for it");
                    }
                }
            });
        }
    }

    pub fn id(&self) -> i64 {
        self.engine.worker
    }

    /// Runs until `shutdown` resolves, then stops in order; or until declared dead, then ends at once.
    pub async fn run_until(mut self, shutdown: impl Future<Output = ()>) -> End {
        let unready = self.unready;
        let probes = self.probes.clone();
        let shutdown = async move {
            shutdown.await;
            // Before the last claim, so that nobody takes it for ready when it claims no more.
            probes.stop();
            tracing::info!(?unready, "not ready any more");
            tokio::time::sleep(unready).await;
        };
        tokio::select! {
            () = shutdown => {}
            verdict = &mut self.heartbeat => {
                return match verdict {
                    Ok(Verdict::DeclaredDead) | Err(_) => End::DeclaredDead,
                };
            }
        }
        self.stop().await;
        End::Stopped
    }

    /// Stops claiming, lets steps in flight finish or hands them back, writes everything, and signs off.
    async fn stop(self) {
        let engine = self.engine;
        tracing::info!(worker = engine.worker, in_flight = engine.held.len(), "stopping: no more claims");
        engine.stopping.store(true, Ordering::Relaxed);
        engine.hints.all();
        // Each phase ends by itself; none may hold the process past its grace because something in it does not.
        let begun = tokio::time::Instant::now();
        let end = begun + self.grace * 9 / 10;
        let mut dispatcher = self.dispatcher;
        if tokio::time::timeout_at(begun + self.grace / 2, &mut dispatcher).await.is_err() {
            tracing::warn!("a claim was not answered in time: what it took is left to be taken over");
            dispatcher.abort();
        }
        // The dispatcher's end closed the channel: apalis drains what it has, and ends.
        self.stop.notify_one();
        let mut host = self.host;
        if tokio::time::timeout_at(end, &mut host).await.is_err() {
            tracing::warn!("the grace is over: what is in flight is left to be taken over");
            host.abort();
        }
        // Heartbeat and flushers outlive apalis: what it left running is still settled under a living lease.
        let mut patience = DatabaseBackoff::default();
        let patient_until = end.min(tokio::time::Instant::now() + Duration::from_secs(5));
        while !engine.held.is_empty() && tokio::time::Instant::now() < patient_until {
            patience.pause().await;
        }
        if let Some(listener) = self.listener {
            listener.abort();
        }
        for task in self.maintenance {
            task.abort();
        }
        self.heartbeat.abort();
        let worker = engine.worker;
        crash_point("sign_off.before");
        let until = end.max(tokio::time::Instant::now() + LAST_WRITES);
        match tokio::time::timeout_at(until, db::queue::workers::stop(&self.vital, worker)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "could not sign off; the row will be declared dead"),
            Err(_) => tracing::warn!("the database did not answer: could not sign off; the row will be declared dead"),
        }
        crash_point("sign_off.after");
        // The last handle of the flushers goes with the engine.
        drop(engine);
        for flusher in self.flushers {
            let _ = tokio::time::timeout_at(end.max(tokio::time::Instant::now() + LAST_WRITES), flusher).await;
        }
        tracing::info!(worker, "stopped");
    }
}

/// Of keys that open nothing here: whoever took the wrong file learns it at once, and not when a user waits for a code.
fn warn_of(worth: &db::queue::workers::Worth) {
    if !worth.others.is_empty() {
        let keys = worth.others.join(", ");
        tracing::error!(
            keys,
            "these ids mean other keys to the workers that had them first: what is sealed does not open with them; noshi.vault_key has their prints"
        );
    }
    if !worth.opens {
        tracing::error!(
            "nothing that is stored opens with the keys of this worker: is that the right key file? Fix it, and send SIGHUP"
        );
    }
}
