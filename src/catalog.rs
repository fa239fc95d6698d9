//! From a stored kind to its job: the one place that a new kind must be added to outside `jobs/`.

use noshi_jobs::{
    Kind, bulk_grants, bulk_grants::BulkGrants, email, email::Email, gift_issuance, gift_issuance::GiftIssuance,
    machine::Job, point_exchange::PointExchange, point_expiry::PointExpiry, point_grant::PointGrant,
    point_reversal::PointReversal, point_withdrawal::PointWithdrawal, probe, probe::Probe, store_creation,
    store_creation::StoreCreation,
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
        Some(Kind::BulkGrants) => run::run::<BulkGrants>(engine, work).await,
        Some(Kind::Email) => run::run::<Email>(engine, work).await,
        Some(Kind::GiftIssuance) => run::run::<GiftIssuance>(engine, work).await,
        Some(Kind::PointExchange) => run::run::<PointExchange>(engine, work).await,
        Some(Kind::PointExpiry) => run::run::<PointExpiry>(engine, work).await,
        Some(Kind::PointGrant) => run::run::<PointGrant>(engine, work).await,
        Some(Kind::PointReversal) => run::run::<PointReversal>(engine, work).await,
        Some(Kind::PointWithdrawal) => run::run::<PointWithdrawal>(engine, work).await,
        Some(Kind::Probe) => run::run::<Probe>(engine, work).await,
        Some(Kind::StoreCreation) => run::run::<StoreCreation>(engine, work).await,
        // Claims ask for known kinds only.
        None => engine.hand_back(&[(work.claimed.id, work.claimed.lease, work.claimed.step)]).await,
    }
}

impl Outside<GiftIssuance> for Engine {
    fn world(&self, claimed: &Claimed, local: &Local) -> Box<dyn gift_issuance::World> {
        Box::new(GiftWorld::new(&self.partners.gifts, &self.clock, claimed, local))
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
        Box::new(MailWorld::new(&self.partners.mails, &self.pool, self.worker, &self.clock, claimed, local))
    }
}

impl Outside<StoreCreation> for Engine {
    fn world(&self, claimed: &Claimed, local: &Local) -> Box<dyn store_creation::World> {
        Box::new(StoreWorld::new(&self.partners.stores, &self.clock, claimed, local))
    }
}

impl Outside<PointExchange> for Engine {
    fn world(&self, claimed: &Claimed, local: &Local) -> Box<<PointExchange as Job>::World> {
        Box::new(PointWorld { local: local.clone(), job: claimed.id })
    }
}

impl Outside<PointExpiry> for Engine {
    fn world(&self, claimed: &Claimed, local: &Local) -> Box<<PointExpiry as Job>::World> {
        Box::new(PointWorld { local: local.clone(), job: claimed.id })
    }
}

impl Outside<PointGrant> for Engine {
    fn world(&self, claimed: &Claimed, local: &Local) -> Box<<PointGrant as Job>::World> {
        Box::new(PointWorld { local: local.clone(), job: claimed.id })
    }
}

impl Outside<PointReversal> for Engine {
    fn world(&self, claimed: &Claimed, local: &Local) -> Box<<PointReversal as Job>::World> {
        Box::new(PointWorld { local: local.clone(), job: claimed.id })
    }
}

impl Outside<PointWithdrawal> for Engine {
    fn world(&self, claimed: &Claimed, local: &Local) -> Box<<PointWithdrawal as Job>::World> {
        Box::new(PointWorld { local: local.clone(), job: claimed.id })
    }
}
