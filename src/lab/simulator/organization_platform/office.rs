//! The platform at work: what each call does.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{
    events,
    failure::{BROKEN, Failure, NAME, NOWHERE, PUBLIC_ID, REFUSED, REUSED, TAKEN, fail},
    state::{Order, Platform, Shop},
};
use crate::lab::simulator::{
    context::Inner,
    ledger::{Event, Line},
    messages::{Reply, Way},
    partner::{Errand, Partner},
};

/// Where effects happen: one call at the platform. Each is one ledger line, written in the same breath as the change in
/// memory.
pub struct PlatformState<'a> {
    pub inner: &'a Arc<Inner>,
    pub platform: &'a mut Platform,
    pub way: &'a Way,
}

impl PlatformState<'_> {
    fn line(&self, event: Event, errand: Errand, trade: &str) -> Line {
        Line {
            event,
            provider: Some(Partner::OrganizationPlatform),
            op: Some(errand),
            trade: Some(trade.to_owned()),
            late: self.way.late,
            ..Line::default()
        }
    }

    pub fn create(&mut self, order: &Order) -> Reply {
        let now = self.inner.ledger.now_us();
        let base = self.line(Event::Refused, Errand::CreateShop, &order.key);
        let ours = Line { organization: Some(order.organization.clone()), ..base };
        if let Some(told) = self.platform.told(&order.key, now, self.inner.config.organization_platform.key_memory) {
            let told = told.clone();
            if told.content != order.content {
                self.inner.ledger.append(Line { event: Event::Conflict, ..ours });
                return fail(REUSED);
            }
            let shop = told.shop.as_ref().ok().cloned();
            self.inner.ledger.append(Line { event: Event::Replayed, shop, ..ours });
            return match told.shop {
                Ok(shop) => self.created(200, &shop),
                Err(failure) => fail(failure),
            };
        }
        if let Some(failure) = self.objection(order) {
            let content = Some(order.content.clone());
            self.inner.ledger.append(Line {
                us: now,
                reason: Some(failure.1.to_owned()),
                content: content.clone(),
                ..ours
            });
            self.platform.tell(order.key.clone(), now, order.content.clone(), Err(failure));
            return fail(failure);
        }
        let shop = Shop {
            id: self.platform.next_id(self.inner.config.seed),
            organization: order.organization.clone(),
            public_id: order.public_id.clone(),
            key: order.key.clone(),
            at_us: now,
            live: true,
            version: 1,
        };
        self.inner.ledger.append(Line {
            event: Event::ShopCreated,
            us: now,
            public_id: Some(shop.public_id.clone()),
            shop: Some(shop.id.clone()),
            content: Some(order.content.clone()),
            ..ours
        });
        self.platform.tell(order.key.clone(), now, order.content.clone(), Ok(shop.id.clone()));
        events::shop(self.inner, "shop.created", &shop, Some(&order.name));
        let id = shop.id.clone();
        self.platform.add(shop);
        self.created(201, &id)
    }

    fn objection(&self, order: &Order) -> Option<Failure> {
        if self.platform.refuses(&order.organization) {
            return Some(REFUSED);
        }
        if order.public_id.starts_with("NOSHOP") {
            return Some(PUBLIC_ID);
        }
        if order.name.starts_with("NOSHOP") {
            return Some(NAME);
        }
        self.platform.live(&order.organization, &order.public_id).map(|_| TAKEN)
    }

    fn created(&self, status: u16, id: &str) -> Reply {
        match self.platform.shop(id) {
            Some(shop) => Reply::json(status, &self.shown(shop)),
            None => fail(BROKEN),
        }
    }

    /// A shop as answers show it, or another's, if the answer shall be about another.
    fn shown(&self, shop: &Shop) -> Value {
        match self.way.other {
            None => json!({"shop_id": shop.id, "public_id": shop.public_id, "idempotency_key": shop.key}),
            Some(roll) => json!({
                "shop_id": format!("shp_{:012x}", roll % 0x1_0000_0000_0000),
                "public_id": format!("X{:06}", roll % 1_000_000),
                "idempotency_key": format!("another/{roll:016x}"),
            }),
        }
    }

    pub fn find(&self, organization: &str, public_id: &str) -> Reply {
        if self.platform.refuses(organization) {
            return fail(REFUSED);
        }
        let shops: Vec<Value> =
            self.platform.live(organization, public_id).into_iter().map(|shop| self.shown(shop)).collect();
        Reply::json(200, &json!({"shops": shops}))
    }

    pub fn assign(&mut self, organization: &str, service: &str) -> Reply {
        let trade = format!("{organization}/{service}");
        let line = self.line(Event::Refused, Errand::AssignService, &trade);
        let line =
            Line { organization: Some(organization.to_owned()), detail: Some(json!({"service": service})), ..line };
        if self.platform.refuses_services(organization) {
            self.inner.ledger.append(Line { reason: Some(REFUSED.1.to_owned()), ..line });
            return fail(REFUSED);
        }
        let new = self.platform.assign(organization, service);
        let event = if new { Event::ServiceAssigned } else { Event::Replayed };
        self.inner.ledger.append(Line { event, ..line });
        Reply::json(200, &json!({"status": if new { "assigned" } else { "already_assigned" }}))
    }

    pub fn delete(&mut self, id: &str) -> Reply {
        let line = self.line(Event::Refused, Errand::DeleteShop, id);
        let Some(shop) = self.platform.shop(id).filter(|shop| shop.live).cloned() else {
            self.inner.ledger.append(Line { reason: Some(NOWHERE.1.to_owned()), ..line });
            return fail(NOWHERE);
        };
        let line = Line {
            organization: Some(shop.organization.clone()),
            public_id: Some(shop.public_id.clone()),
            shop: Some(shop.id.clone()),
            ..line
        };
        if let Some(failure) = self.platform.delete_fails(&shop) {
            self.inner.ledger.append(Line { reason: Some(failure.1.to_owned()), ..line });
            return fail(failure);
        }
        self.inner.ledger.append(Line { event: Event::ShopDeleted, ..line });
        if let Some(shop) = self.platform.remove(id) {
            events::shop(self.inner, "shop.deleted", &shop, None);
        }
        Reply { body: vec![], ..Reply::json(204, &Value::Null) }
    }
}
