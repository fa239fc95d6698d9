//! What a test or a show can order of the platform.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{
    events,
    state::{Deletes, Refuse, Shop},
};
use crate::lab::simulator::{
    context::Inner,
    ledger::{Event, Line},
    partner::{Errand, Partner},
    state::World,
};

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "scene", rename_all = "snake_case")]
pub enum Scene {
    Organization {
        organization: String,
        refuse: Refuse,
    },
    Deletes {
        answer: Deletes,
        /// Of this shop only.
        #[serde(default)]
        public_id: Option<String>,
    },
    /// Somebody else makes a shop.
    Shop {
        organization: String,
        public_id: String,
        name: String,
    },
    /// Somebody else changes a live shop.
    Updated {
        organization: String,
        public_id: String,
        name: String,
    },
    OrganizationUpdated {
        organization: String,
        name: String,
    },
}

pub fn simulate(inner: &Arc<Inner>, world: &mut World, scene: Scene) {
    let platform = &mut world.platform;
    match scene {
        Scene::Organization { organization, refuse } => _ = platform.refused.insert(organization, refuse),
        Scene::Deletes { answer, public_id: Some(public_id) } => _ = platform.deletes_of.insert(public_id, answer),
        Scene::Deletes { answer, public_id: None } => platform.deletes = answer,
        Scene::Shop { organization, public_id, name } => {
            if platform.live(&organization, &public_id).is_some() {
                return;
            }
            let now = inner.ledger.now_us();
            let id = platform.next_id(inner.config.seed);
            let shop = Shop { id, organization, public_id, key: String::new(), at_us: now, live: true, version: 1 };
            inner.ledger.append(Line {
                event: Event::ShopCreated,
                us: now,
                provider: Some(Partner::OrganizationPlatform),
                op: Some(Errand::CreateShop),
                organization: Some(shop.organization.clone()),
                public_id: Some(shop.public_id.clone()),
                shop: Some(shop.id.clone()),
                ..Line::default()
            });
            events::shop(inner, "shop.created", &shop, Some(&name));
            platform.add(shop);
        }
        Scene::Updated { organization, public_id, name } => {
            if let Some(shop) = platform.touch(&organization, &public_id) {
                events::shop(inner, "shop.updated", &shop, Some(&name));
            }
        }
        Scene::OrganizationUpdated { organization, name } => {
            let version = platform.organizations.entry(organization.clone()).or_default();
            *version += 1;
            events::organization(inner, &organization, *version, &name);
        }
    }
}
