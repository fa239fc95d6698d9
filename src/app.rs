//! Which jobs and partners this binary has: from a stored kind to its job and what it meets, the one place that a new kind must be added to
//! outside `jobs/`.

use std::{ops::Deref, sync::Arc};

use futures::future::BoxFuture;
use tokio::task::JoinHandle;

use noshi_jobs::{
    Kind, bulk_grants,
    bulk_grants::BulkGrants,
    email,
    email::Email,
    gift_issuance,
    gift_issuance::GiftIssuance,
    machine::{Call, Job},
    point_exchange::PointExchange,
    point_expiry::PointExpiry,
    point_grant::PointGrant,
    point_reversal::PointReversal,
    point_withdrawal::PointWithdrawal,
    probe,
    probe::Probe,
    store_creation,
    store_creation::StoreCreation,
    with_job,
};

use crate::{
    db::{self, PgPool, Role, local::Local, queue::claim::Claimed},
    engine::{
        Engine, Pace, executor,
        registry::{Outside, Registry, Work},
        worker,
    },
    operator::readings,
    telemetry::traces::Trace,
    worlds::{
        Current, Partners, bulk_grants::GrantWorld, email::MailWorld, gift_issuance::GiftWorld, points::PointWorld,
        probe::ProbeWorld, store_creation::StoreWorld, suppression,
    },
};

pub use worker::End;

/// The built-in jobs, and the partners that they call.
struct Builtins {
    partners: Arc<Current>,
    /// Connections of those who ask for what is sealed.
    readings: PgPool,
}

impl Registry for Builtins {
    fn run_job<'a>(&'a self, engine: &'a Engine, work: &'a Work) -> Call<'a, ()> {
        Box::pin(async move {
            match Kind::from_name(&work.claimed.kind) {
                Some(kind) => with_job!(kind, J => executor::execute::<J>(engine, self, work).await),
                // Claims ask for known kinds only.
                None => engine.hand_back(&[(work.claimed.id, work.claimed.lease, work.claimed.step)]).await,
            }
        })
    }

    fn partners(&self) -> Vec<String> {
        self.partners.now().names()
    }

    fn declare_lanes<'a>(&'a self, pool: &'a PgPool) -> BoxFuture<'a, Result<(), sqlx::Error>> {
        Box::pin(async move { self.partners.now().declare_lanes(pool).await })
    }

    fn begin(&self, engine: &Arc<Engine>, vital: &PgPool) -> Vec<JoinHandle<()>> {
        let (partners, vital) = (Arc::clone(&self.partners), vital.clone());
        vec![
            tokio::spawn(suppression::suppress_addresses(Arc::clone(engine), Arc::clone(&partners))),
            tokio::spawn(readings::serve::serve(Arc::clone(engine), Arc::clone(&partners), self.readings.clone())),
            // Of its own accord it never ends; it goes with the process.
            tokio::spawn(async move { partners.keep_quota(&vital).await }),
        ]
    }
}

/// A worker process with the built-in jobs.
pub struct Worker {
    worker: worker::Worker,
    partners: Arc<Current>,
}

impl Worker {
    /// Registers with the database and begins to claim.
    pub async fn start(url: &str, name: &str, partners: Partners, pace: Pace) -> anyhow::Result<Worker> {
        let readings = db::connect(url, Role::Worker, readings::serve::CONNECTIONS).await?;
        let partners = Arc::new(Current::new(partners));
        let builtins = Arc::new(Builtins { partners: Arc::clone(&partners), readings });
        Ok(Worker { worker: worker::Worker::start(url, name, builtins, pace).await?, partners })
    }

    /// Takes other secrets for the calls to come, while it lives.
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

impl Outside<GiftIssuance> for Builtins {
    fn world(&self, engine: &Engine, claimed: &Claimed, local: &Local) -> Box<dyn gift_issuance::World> {
        Box::new(GiftWorld::new(&self.partners.now().gifts, &engine.clock, claimed, local))
    }
}

impl Outside<Probe> for Builtins {
    fn world(&self, _: &Engine, claimed: &Claimed, local: &Local) -> Box<dyn probe::World> {
        Box::new(ProbeWorld { local: local.clone(), job: claimed.id })
    }
}

impl Outside<BulkGrants> for Builtins {
    fn world(&self, engine: &Engine, claimed: &Claimed, local: &Local) -> Box<dyn bulk_grants::World> {
        Box::new(GrantWorld {
            local: local.clone(),
            pool: engine.pool.clone(),
            traceparent: Trace::of(claimed).traceparent(),
        })
    }
}

impl Outside<Email> for Builtins {
    fn world(&self, engine: &Engine, claimed: &Claimed, local: &Local) -> Box<dyn email::World> {
        Box::new(MailWorld::new(&self.partners.now().mails, &engine.pool, engine.worker, &engine.clock, claimed, local))
    }
}

impl Outside<StoreCreation> for Builtins {
    fn world(&self, engine: &Engine, claimed: &Claimed, local: &Local) -> Box<dyn store_creation::World> {
        Box::new(StoreWorld::new(
            &self.partners.now().stores,
            &engine.pool,
            engine.worker,
            &engine.clock,
            claimed,
            local,
        ))
    }
}

/// All jobs of points meet the same world.
macro_rules! point_worlds {
    ($($job:ty),+) => {
        $(impl Outside<$job> for Builtins {
            fn world(&self, _: &Engine, claimed: &Claimed, local: &Local) -> Box<<$job as Job>::World> {
                Box::new(PointWorld { local: local.clone(), job: claimed.id })
            }
        })+
    };
}

point_worlds!(PointExchange, PointExpiry, PointGrant, PointReversal, PointWithdrawal);
