//! The built-in jobs, added as any other.

use std::sync::Arc;

use noshi_jobs::{
    bulk_grants::BulkGrants, effect::Effect, email::Email, gift_issuance::GiftIssuance, point_exchange::PointExchange,
    point_expiry::PointExpiry, point_grant::PointGrant, point_reversal::PointReversal,
    point_withdrawal::PointWithdrawal, probe::Probe, store_creation::StoreCreation,
};

use super::App;
use crate::{
    basics::kinds,
    engine::registry::Context,
    partners::effects::Effects,
    telemetry::traces::Trace,
    worlds::{
        Current, Partners, bulk_grants::GrantWorld, effect::EffectWorld, email::MailWorld, gift_issuance::GiftWorld,
        points::PointWorld, probe::ProbeWorld, store_creation::StoreWorld,
    },
};

/// The built-in partners, with the secrets that were read last.
fn partners(cx: &Context<'_>) -> Arc<Partners> {
    cx.settings::<Arc<Current>>().now()
}

fn points(cx: &Context<'_>) -> Box<PointWorld> {
    Box::new(PointWorld { local: cx.local(), job: cx.job() })
}

impl App {
    /// A program with the built-in jobs: gifts, bulk grants, stores, e-mail, points, and the probe.
    pub fn builtins() -> App {
        let mut app = App::new()
            .with::<GiftIssuance>(|cx| {
                Box::new(GiftWorld::new(&partners(cx).gifts, cx.clock(), cx.claimed(), &cx.local()))
            })
            .with::<BulkGrants>(|cx| {
                let traceparent = Trace::of(cx.claimed()).traceparent();
                Box::new(GrantWorld { local: cx.local(), pool: cx.pool().clone(), traceparent })
            })
            .with::<StoreCreation>(|cx| {
                let stores = &partners(cx).stores;
                Box::new(StoreWorld::new(stores, cx.pool(), cx.worker(), cx.clock(), cx.claimed(), &cx.local()))
            })
            .with::<Email>(|cx| {
                let mails = &partners(cx).mails;
                Box::new(MailWorld::new(mails, cx.pool(), cx.worker(), cx.clock(), cx.claimed(), &cx.local()))
            })
            .with::<PointExchange>(|cx| points(cx))
            .with::<PointExpiry>(|cx| points(cx))
            .with::<PointGrant>(|cx| points(cx))
            .with::<PointReversal>(|cx| points(cx))
            .with::<PointWithdrawal>(|cx| points(cx))
            .with::<Probe>(|cx| Box::new(ProbeWorld { local: cx.local(), job: cx.job() }));
        app.kinds = kinds::built_in();
        app.is_builtin = true;
        app.settings::<Effects>("effects")
            .with::<Effect>(|cx| Box::new(EffectWorld::new(cx, partners(cx).vault.clone())))
    }
}
