//! From a stored kind to its job and what it meets: the one place that a new kind must be added to outside `jobs/`.

use noshi_jobs::{
    Kind, bulk_grants, bulk_grants::BulkGrants, email, email::Email, gift_issuance, gift_issuance::GiftIssuance,
    machine::Job, point_exchange::PointExchange, point_expiry::PointExpiry, point_grant::PointGrant,
    point_reversal::PointReversal, point_withdrawal::PointWithdrawal, probe, probe::Probe, store_creation,
    store_creation::StoreCreation, with_job,
};

use crate::{
    engine::{Engine, Outside},
    gifts::GiftWorld,
    grants::GrantWorld,
    mails::MailWorld,
    points::PointWorld,
    run::{self, Work},
    store::claim::Claimed,
    stores::StoreWorld,
    traces::Trace,
    world::{Local, ProbeWorld},
};

pub async fn run(engine: &Engine, work: &Work) {
    match Kind::from_name(&work.claimed.kind) {
        Some(kind) => with_job!(kind, J => run::run::<J>(engine, work).await),
        // Claims ask for known kinds only.
        None => engine.hand_back(&[(work.claimed.id, work.claimed.lease, work.claimed.step)]).await,
    }
}

impl Outside<GiftIssuance> for Engine {
    fn world(&self, claimed: &Claimed, local: &Local) -> Box<dyn gift_issuance::World> {
        Box::new(GiftWorld::new(&self.partners.now().gifts, &self.clock, claimed, local))
    }
}

impl Outside<Probe> for Engine {
    fn world(&self, claimed: &Claimed, local: &Local) -> Box<dyn probe::World> {
        Box::new(ProbeWorld { local: local.clone(), job: claimed.id })
    }
}

impl Outside<BulkGrants> for Engine {
    fn world(&self, claimed: &Claimed, local: &Local) -> Box<dyn bulk_grants::World> {
        Box::new(GrantWorld {
            local: local.clone(),
            pool: self.pool.clone(),
            traceparent: Trace::of(claimed).traceparent(),
        })
    }
}

impl Outside<Email> for Engine {
    fn world(&self, claimed: &Claimed, local: &Local) -> Box<dyn email::World> {
        Box::new(MailWorld::new(&self.partners.now().mails, &self.pool, self.worker, &self.clock, claimed, local))
    }
}

impl Outside<StoreCreation> for Engine {
    fn world(&self, claimed: &Claimed, local: &Local) -> Box<dyn store_creation::World> {
        Box::new(StoreWorld::new(&self.partners.now().stores, &self.pool, self.worker, &self.clock, claimed, local))
    }
}

/// All jobs of points meet the same world.
macro_rules! point_worlds {
    ($($job:ty),+) => {
        $(impl Outside<$job> for Engine {
            fn world(&self, claimed: &Claimed, local: &Local) -> Box<<$job as Job>::World> {
                Box::new(PointWorld { local: local.clone(), job: claimed.id })
            }
        })+
    };
}

point_worlds!(PointExchange, PointExpiry, PointGrant, PointReversal, PointWithdrawal);
