//! The organisation platform's shops against our stores.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::{
    db::operator::reconcile::{StoreJob, StoreRow},
    lab::simulator::{Event, Line, Partner},
};

#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Shops {
    pub rows: usize,
    pub created: usize,
    pub skipped: usize,
    pub refused: usize,
    pub compensated: usize,
    pub needs_operator: usize,
    /// Live shops of ours that no store here stands for.
    pub orphans: usize,
    pub calls: usize,
    pub max_calls: usize,
    pub limit: u32,
}

pub fn check(ledger: &[Line], jobs: &[StoreJob], stores: &[StoreRow], limit: u32) -> (Shops, Vec<String>) {
    let ours = || ledger.iter().filter(|line| line.provider == Some(Partner::OrganizationPlatform));
    let arrivals = super::moments(ours().filter(|line| line.event == Event::Arrival));
    let mut shops = Shops {
        rows: jobs.len(),
        calls: arrivals.len(),
        max_calls: super::max_in_a_second(&arrivals),
        limit,
        ..Shops::default()
    };
    let mut broken = vec![];
    let deleted: HashSet<&str> =
        ours().filter(|line| line.event == Event::ShopDeleted).filter_map(|line| line.shop.as_deref()).collect();
    let created = ours().filter(|line| line.event == Event::ShopCreated);
    let mut live: BTreeMap<&str, &Line> = BTreeMap::new();
    let mut by_place: HashMap<(&str, &str), usize> = HashMap::new();
    for line in created {
        let Some(shop) = line.shop.as_deref().filter(|shop| !deleted.contains(shop)) else { continue };
        live.insert(shop, line);
        let place = (line.organization.as_deref().unwrap_or_default(), line.public_id.as_deref().unwrap_or_default());
        *by_place.entry(place).or_default() += 1;
    }
    let here: HashMap<&str, &StoreRow> = stores.iter().map(|store| (store.shop.as_str(), store)).collect();
    // A job that needs an operator shows what it could not take back.
    let parked: HashSet<&str> =
        jobs.iter().filter(|job| job.status == "needs_operator").map(|job| job.public_id.as_str()).collect();
    for (shop, line) in &live {
        let public_id = line.public_id.as_deref().unwrap_or_default();
        if !here.contains_key(shop) && !parked.contains(public_id) {
            shops.orphans += 1;
            broken.push(format!("the shop {shop} ({public_id}) is an ORPHAN: no store here stands for it"));
        }
    }
    for store in stores.iter().filter(|store| !live.contains_key(store.shop.as_str())) {
        broken.push(format!("the store {} stands for the shop {}, which is not there", store.public_id, store.shop));
    }
    for ((organization, public_id), number) in by_place.iter().filter(|(_, number)| **number > 1) {
        broken.push(format!("{number} shops are live for {public_id} of {organization}"));
    }
    for job in jobs {
        count(&mut shops, job, &mut broken);
    }
    if shops.max_calls > limit as usize {
        let most = shops.max_calls;
        broken.push(format!("the organisation platform was called {most} times within a second; {limit} are allowed"));
    }
    (shops, broken)
}

fn count(shops: &mut Shops, job: &StoreJob, broken: &mut Vec<String>) {
    let of = match (job.status.as_str(), job.outcome.as_deref()) {
        ("completed", Some("skipped")) => &mut shops.skipped,
        ("completed", _) => &mut shops.created,
        ("failed", Some("compensated")) => &mut shops.compensated,
        ("failed" | "cancelled", _) => &mut shops.refused,
        ("needs_operator", _) => &mut shops.needs_operator,
        (open, _) => return broken.push(format!("the row of {} is not at rest, but {open}", job.public_id)),
    };
    *of += 1;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(event: Event, shop: &str) -> Line {
        Line {
            event,
            provider: Some(Partner::OrganizationPlatform),
            organization: Some("o".to_owned()),
            public_id: Some("s".to_owned()),
            shop: Some(shop.to_owned()),
            ..Line::default()
        }
    }

    fn job(status: &str, outcome: &str) -> StoreJob {
        StoreJob { public_id: "s".to_owned(), status: status.to_owned(), outcome: Some(outcome.to_owned()) }
    }

    fn store(shop: &str) -> StoreRow {
        StoreRow { public_id: "s".to_owned(), shop: shop.to_owned() }
    }

    #[test]
    fn shops_and_stores_agree_or_are_told() {
        let made = line(Event::ShopCreated, "1");
        let (shops, broken) = check(std::slice::from_ref(&made), &[job("completed", "created")], &[store("1")], 9);
        assert_eq!((shops.created, broken), (1, vec![]));
        let (shops, broken) = check(std::slice::from_ref(&made), &[job("failed", "compensated")], &[], 9);
        assert!(shops.orphans == 1 && broken[0].contains("ORPHAN"), "{broken:?}");
        let both = [made.clone(), line(Event::ShopDeleted, "1")];
        assert_eq!(check(&both, &[job("failed", "compensated")], &[], 9).1, Vec::<String>::new());
        let (_, broken) = check(&both, &[job("completed", "created")], &[store("1")], 9);
        assert!(broken[0].contains("which is not there"), "{broken:?}");
        let twice = [made, line(Event::ShopCreated, "2")];
        let (_, broken) = check(&twice, &[job("completed", "created")], &[store("1")], 9);
        assert_eq!(broken.len(), 2, "{broken:?}");
        assert!(check(&[], &[job("running", "")], &[], 9).1[0].contains("not at rest"));
    }
}
