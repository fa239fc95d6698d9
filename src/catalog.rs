//! From a stored kind to its job: the one place that a new kind must be added to outside `jobs/`.

use noshi_jobs::{Kind, gift_issuance, gift_issuance::GiftIssuance, probe, probe::Probe};

use crate::{
    engine::{Engine, Outside},
    gifts::GiftWorld,
    run::{self, Work},
    store::claim::Claimed,
    world::{Local, ProbeWorld},
};

pub async fn run(engine: &Engine, work: &Work) {
    match Kind::from_name(&work.claimed.kind) {
        Some(Kind::GiftIssuance) => run::run::<GiftIssuance>(engine, work).await,
        Some(Kind::Probe) => run::run::<Probe>(engine, work).await,
        // Claims ask for known kinds only.
        None => engine.hand_back(&[(work.claimed.id, work.claimed.lease, work.claimed.step)]).await,
    }
}

impl Outside<GiftIssuance> for Engine {
    fn world(&self, claimed: &Claimed, local: &Local) -> Box<dyn gift_issuance::World> {
        Box::new(GiftWorld::new(&self.gifts, &self.clock, claimed, local))
    }
}

impl Outside<Probe> for Engine {
    fn world(&self, claimed: &Claimed, local: &Local) -> Box<dyn probe::World> {
        Box::new(ProbeWorld { local: local.clone(), job: claimed.id })
    }
}
