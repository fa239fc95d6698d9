//! What the organisation platform remembers.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::failure::{BROKEN, FINAL, Failure, IN_USE};
use crate::lab::simulator::{
    faults::roll,
    ledger::{Event, Line},
    partner::Errand,
};

#[derive(Clone, Debug)]
pub struct Shop {
    pub id: String,
    pub organization: String,
    pub public_id: String,
    /// The key that it was made under; empty if somebody else made it.
    pub key: String,
    pub at_us: u64,
    pub live: bool,
    pub version: u64,
}

/// What a key was answered first: the shop, or why there is none.
#[derive(Clone, Debug)]
pub struct FirstAnswer {
    pub at_us: u64,
    pub content: String,
    pub shop: Result<String, Failure>,
}

#[derive(Default)]
pub struct Platform {
    shops: Vec<Shop>,
    by_id: HashMap<String, usize>,
    /// The live shop of an organisation's public id.
    live: HashMap<(String, String), usize>,
    told: HashMap<String, FirstAnswer>,
    assigned: HashSet<(String, String)>,
    /// Versions of organisations, raised by each change.
    pub organizations: HashMap<String, u64>,
    pub refused: HashMap<String, Refuse>,
    pub deletes: Deletes,
    pub deletes_of: HashMap<String, Deletes>,
}

impl Platform {
    pub fn add(&mut self, shop: Shop) {
        let at = self.shops.len();
        self.by_id.insert(shop.id.clone(), at);
        self.live.insert((shop.organization.clone(), shop.public_id.clone()), at);
        self.shops.push(shop);
    }

    pub fn shop(&self, id: &str) -> Option<&Shop> {
        self.by_id.get(id).map(|at| &self.shops[*at])
    }

    pub fn live(&self, organization: &str, public_id: &str) -> Option<&Shop> {
        self.live.get(&(organization.to_owned(), public_id.to_owned())).map(|at| &self.shops[*at])
    }

    /// When the newest shop of this public id was made.
    pub fn newest_us(&self, public_id: &str) -> Option<u64> {
        self.shops.iter().rev().find(|shop| shop.public_id == public_id).map(|shop| shop.at_us)
    }

    /// A change of a live shop: its next version.
    pub fn touch(&mut self, organization: &str, public_id: &str) -> Option<Shop> {
        let at = *self.live.get(&(organization.to_owned(), public_id.to_owned()))?;
        self.shops[at].version += 1;
        Some(self.shops[at].clone())
    }

    pub fn remove(&mut self, id: &str) -> Option<Shop> {
        let shop = &mut self.shops[*self.by_id.get(id)?];
        shop.live = false;
        shop.version += 1;
        self.live.remove(&(shop.organization.clone(), shop.public_id.clone()));
        Some(shop.clone())
    }

    pub fn next_id(&self, seed: u64) -> String {
        let n = self.shops.len() + 1;
        format!("shp_{:06x}{n:06}", roll(seed, &["organization_platform", "shop", &n.to_string()]) % 0x100_0000)
    }

    pub fn told(&self, key: &str, now: u64, memory: Duration) -> Option<&FirstAnswer> {
        let memory = u64::try_from(memory.as_micros()).unwrap_or(u64::MAX);
        self.told.get(key).filter(|told| now < told.at_us.saturating_add(memory))
    }

    pub fn tell(&mut self, key: String, at_us: u64, content: String, shop: Result<String, Failure>) {
        self.told.insert(key, FirstAnswer { at_us, content, shop });
    }

    /// Whether that is new.
    pub fn assign(&mut self, organization: &str, service: &str) -> bool {
        self.assigned.insert((organization.to_owned(), service.to_owned()))
    }

    pub fn refuses(&self, organization: &str) -> bool {
        organization.starts_with("NOORG") || self.refused.get(organization) == Some(&Refuse::Everything)
    }

    pub fn refuses_services(&self, organization: &str) -> bool {
        self.refuses(organization)
            || organization.starts_with("NOSERVICE")
            || self.refused.get(organization) == Some(&Refuse::Services)
    }

    pub fn delete_fails(&self, shop: &Shop) -> Option<Failure> {
        if shop.public_id.starts_with("INUSE") {
            return Some(IN_USE);
        }
        match self.deletes_of.get(&shop.public_id).unwrap_or(&self.deletes) {
            Deletes::Normal => None,
            Deletes::Failing => Some(BROKEN),
            Deletes::Refused => Some(IN_USE),
        }
    }

    /// What was ordered through scenes ends.
    pub fn clear(&mut self) {
        self.refused.clear();
        self.deletes = Deletes::default();
        self.deletes_of.clear();
    }

    pub fn rebuild(&mut self, line: &Line) -> anyhow::Result<()> {
        let key = || line.trade.clone().unwrap_or_default();
        match line.event {
            Event::ShopCreated => {
                let id = line.shop.clone().context("a shop without its id")?;
                let shop = Shop {
                    id: id.clone(),
                    organization: line.organization.clone().context("a shop without its organization")?,
                    public_id: line.public_id.clone().context("a shop without its public id")?,
                    key: key(),
                    at_us: line.us,
                    live: true,
                    version: 1,
                };
                if !shop.key.is_empty() {
                    self.tell(key(), line.us, line.content.clone().unwrap_or_default(), Ok(id));
                }
                self.add(shop);
            }
            Event::ShopDeleted => {
                self.remove(line.shop.as_deref().context("a deletion without a shop")?);
            }
            Event::ServiceAssigned => {
                let detail = line.detail.as_ref().context("an assignment without a service")?;
                self.assign(
                    line.organization.as_deref().unwrap_or_default(),
                    detail["service"].as_str().unwrap_or_default(),
                );
            }
            Event::Refused if line.op == Some(Errand::CreateShop) => {
                let failure = FINAL.into_iter().find(|failure| line.reason.as_deref() == Some(failure.1));
                if let (Some(failure), Some(content)) = (failure, &line.content) {
                    self.tell(key(), line.us, content.clone(), Err(failure));
                }
            }
            Event::Refused
            | Event::Arrival
            | Event::Accepted
            | Event::Issued
            | Event::Voided
            | Event::Replayed
            | Event::Conflict
            | Event::Throttled
            | Event::Answer
            | Event::Funded
            | Event::MailSent
            | Event::Published => {}
        }
        Ok(())
    }
}

/// What a shop is ordered with.
#[derive(Clone)]
pub struct Order {
    pub organization: String,
    pub public_id: String,
    pub name: String,
    pub key: String,
    /// Fingerprint of what has to be equal for a repeated order to be a replay.
    pub content: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refuse {
    #[default]
    Nothing,
    Services,
    Everything,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Deletes {
    #[default]
    Normal,
    /// 500, until told otherwise.
    Failing,
    /// 409, until told otherwise.
    Refused,
}
