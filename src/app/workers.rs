//! A worker process of this program.

use std::{ops::Deref, sync::Arc};

use futures::future::BoxFuture;
use noshi_jobs::machine::Call;
use tokio::task::JoinHandle;

use super::{App, program::Begun};
use crate::{
    db::{
        self, PgPool, Role,
        queue::lanes::{self, Budget},
    },
    engine::{
        Engine, Pace,
        registry::{Registry, Resources, Work},
        worker,
    },
    operator::readings,
    partners::Partner,
    settings::Settings,
    worlds::{Current, Partners, suppression},
};

pub use worker::End;

/// The jobs of the program, and what they find and call.
struct Jobs {
    app: Arc<App>,
    resources: Resources,
    /// The built-in partners.
    partners: Arc<Current>,
    own: Vec<Partner>,
    /// Connections of those who ask for what is sealed.
    readings: PgPool,
}

impl Registry for Jobs {
    fn run_job<'a>(&'a self, engine: &'a Engine, work: &'a Work) -> Call<'a, ()> {
        match self.app.jobs.get(work.claimed.kind.as_str()) {
            Some(job) => job.run(engine, &self.resources, work),
            // Claims ask for known kinds only.
            None => Box::pin(async move {
                engine.hand_back(&[(work.claimed.id, work.claimed.lease, work.claimed.step)]).await;
            }),
        }
    }

    fn partners(&self) -> Vec<String> {
        let own = self.own.iter().map(|partner| partner.name.to_owned());
        self.partners.now().names().into_iter().chain(own).collect()
    }

    fn declare_lanes<'a>(&'a self, pool: &'a PgPool) -> BoxFuture<'a, Result<(), sqlx::Error>> {
        Box::pin(async move {
            for partner in &self.own {
                let budget = partner.budget;
                let paced = Budget { per: budget.window, calls: budget.calls, burst: 1, jitter: budget.jitter };
                lanes::declare(pool, partner.lane, &[paced]).await?;
            }
            self.partners.now().declare_lanes(pool).await
        })
    }

    fn begin(&self, engine: &Arc<Engine>, vital: &PgPool) -> Vec<JoinHandle<()>> {
        let (partners, vital) = (Arc::clone(&self.partners), vital.clone());
        let readings = readings::serve::serve(Arc::clone(engine), Arc::clone(&partners), self.readings.clone());
        let mut tasks = vec![tokio::spawn(readings)];
        if self.app.is_builtin {
            tasks.push(tokio::spawn(suppression::suppress_addresses(Arc::clone(engine), Arc::clone(&partners))));
            // Of its own accord it never ends; it goes with the process.
            tasks.push(tokio::spawn(async move { partners.keep_quota(&vital).await }));
        }
        tasks
    }
}

/// A worker process.
pub struct Worker {
    worker: worker::Worker,
    partners: Arc<Current>,
}

impl Worker {
    /// The same with the built-in jobs alone.
    pub async fn start(url: &str, name: &str, partners: Partners, pace: Pace) -> anyhow::Result<Worker> {
        let app = Arc::new(App::builtins());
        Worker::begin(app, url, name, partners, (Resources::default(), vec![]), pace).await
    }

    async fn begin(
        app: Arc<App>,
        url: &str,
        name: &str,
        partners: Partners,
        (mut resources, own): (Resources, Vec<Partner>),
        pace: Pace,
    ) -> anyhow::Result<Worker> {
        let readings = db::connect(url, Role::Worker, readings::serve::CONNECTIONS).await?;
        let partners = Arc::new(Current::new(partners));
        resources.put(Arc::clone(&partners));
        let jobs = Jobs { app, resources, partners: Arc::clone(&partners), own, readings };
        Ok(Worker { worker: worker::Worker::start(url, name, Arc::new(jobs), pace).await?, partners })
    }

    /// Takes other secrets for the calls to come, while it lives. Those of one's own sections are read at the start alone.
    pub fn renew(&self) -> impl Fn(Partners) -> anyhow::Result<()> + Clone + Send + 'static {
        let current = Arc::downgrade(&self.partners);
        move |partners| match current.upgrade() {
            Some(current) => current.replace(partners),
            None => Ok(()),
        }
    }

    /// Runs until `shutdown` resolves, then stops in order; or until declared dead, then ends at once.
    pub async fn run_until(self, shutdown: impl Future<Output = ()>) -> End {
        self.worker.run_until(shutdown).await
    }
}

impl Deref for Worker {
    type Target = worker::Worker;

    fn deref(&self) -> &worker::Worker {
        &self.worker
    }
}

/// What a worker of this program calls, opened from its settings.
pub struct Opened {
    pub partners: Partners,
    own: (Resources, Vec<Partner>),
}

impl Opened {
    /// Partners of jobs of one's own, for the metrics.
    pub fn own(&self) -> &[Partner] {
        &self.own.1
    }
}

impl Begun {
    pub fn opened(&self, settings: &Settings) -> anyhow::Result<Opened> {
        Ok(Opened { partners: settings.partners()?, own: self.open(settings)? })
    }

    /// Registers with the database and begins to claim.
    pub async fn start(&self, url: &str, name: &str, opened: Opened, pace: Pace) -> anyhow::Result<Worker> {
        Worker::begin(Arc::clone(&self.0), url, name, opened.partners, opened.own, pace).await
    }
}
