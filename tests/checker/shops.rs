//! I3: no shop is left behind, none is made twice, and none that a store stands on is deleted.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::{
    history::{History, clock},
    report::{I3, Report},
    tables::{Job, Line, Store},
};

const STORE: &str = "store_creation";
/// States in which store creation completes.
const CREATED: &str = "created";
const SKIPPED: &str = "skipped";

pub fn check(history: &History, report: &mut Report) {
    let jobs: HashMap<&str, &Job> =
        history.jobs.values().filter(|job| job.kind == STORE).map(|job| (job.key.as_str(), job)).collect();
    let shops = Shops::of(history, &jobs, report);
    for job in jobs.values() {
        at_rest(history, &shops, job, report);
    }
    for store in &history.stores {
        stands(history, &shops, store, report);
    }
    never_deleted(history, &shops, report);
}

/// The shops that each job made and that are alive, as far as the dump can know.
struct Shops<'a> {
    alive: BTreeMap<i64, BTreeSet<&'a str>>,
    maker: HashMap<&'a str, i64>,
}

impl<'a> Shops<'a> {
    /// At every instant: one live shop per job at most. The order of the lines is the order of the effects.
    fn of(history: &'a History, jobs: &HashMap<&str, &Job>, report: &mut Report) -> Shops<'a> {
        let mut shops = Shops { alive: BTreeMap::new(), maker: HashMap::new() };
        for line in history.seen() {
            let (true, Some(shop)) = (line.is("shop_created") || line.is("shop_deleted"), line.shop.as_deref()) else {
                continue;
            };
            if line.is("shop_deleted") {
                if let Some(job) = shops.maker.get(shop) {
                    shops.alive.entry(*job).or_default().remove(shop);
                }
                continue;
            }
            // Without a key somebody else made it.
            let Some(key) = line.trade.as_deref().filter(|key| !key.is_empty()) else { continue };
            let (n, when) = (line.n, clock(line.us));
            let Some(job) = key.rsplit_once('/').and_then(|(job, _)| jobs.get(job)) else {
                report.add(I3, format!("shop {shop}: made in ledger line {n} at {when} under {key}, which no job has"));
                continue;
            };
            shops.maker.insert(shop, job.id);
            let alive = shops.alive.entry(job.id).or_default();
            alive.insert(shop);
            if alive.len() > 1 {
                report.add(I3, format!("job {}: live shops {alive:?} since ledger line {n} at {when}", job.id));
            }
            if job.args["public_id"].as_str() != line.public_id.as_deref() {
                let asked = &job.args["public_id"];
                report.add(I3, format!("job {}: {asked} was asked for, ledger line {n} made {shop}", job.id));
            }
        }
        shops
    }

    fn of_job(&self, job: i64) -> Vec<&'a str> {
        self.alive.get(&job).into_iter().flatten().copied().collect()
    }
}

fn at_rest(history: &History, shops: &Shops, job: &Job, report: &mut Report) {
    let alive = shops.of_job(job.id);
    let (id, at) = (job.id, job.at.as_str());
    let stores: Vec<&Store> = history.stores.iter().filter(|store| store.job == id).collect();
    match (job.status.as_str(), at) {
        ("completed", CREATED) => {
            let rests_on = job.state.as_ref().and_then(|state| state["shop"].as_str());
            let [store] = stores.as_slice() else {
                return report.add(I3, format!("job {id}: {at}, and {} stores are of it", stores.len()));
            };
            if rests_on != Some(&store.shop) || alive != [store.shop.as_str()] {
                let shop = &store.shop;
                report.add(I3, format!("job {id}: rests on {rests_on:?}, its store on {shop}; alive are {alive:?}"));
            }
        }
        ("completed", SKIPPED) | ("failed" | "cancelled", _) if !alive.is_empty() || !stores.is_empty() => {
            let stores = stores.len();
            report.add(I3, format!("job {id}: {} at {at}, alive are {alive:?}, with {stores} stores", job.status));
        }
        ("completed", SKIPPED) | ("failed" | "cancelled", _) => {}
        ("completed", _) => report.add(I3, format!("job {id}: completed at {at}, which makes no store")),
        _ => {}
    }
}

/// A store stands on a shop that its job made and that is alive.
fn stands(history: &History, shops: &Shops, store: &Store, report: &mut Report) {
    let Store { public_id, shop, job, .. } = store;
    if !shops.of_job(*job).contains(&shop.as_str()) {
        report.add(I3, format!("store {public_id}: its job {job} has no live shop {shop}"));
    }
    let asked = history.jobs.get(job).map(|job| [&job.args["public_id"], &job.args["organization"]]);
    if asked.is_none_or(|asked| asked != [public_id.as_str(), store.organization.as_str()]) {
        report.add(I3, format!("store {public_id}: its job {job} asked for {asked:?}"));
    }
}

/// Nobody asks to delete the shop of a job that completed, not even in vain.
fn never_deleted(history: &History, shops: &Shops, report: &mut Report) {
    let asks = |line: &&Line| line.is("arrival") && line.of_op("delete_shop");
    for line in history.seen().filter(asks) {
        let made_by = line.trade.as_deref().and_then(|shop| shops.maker.get(shop));
        let Some(job) = made_by.and_then(|job| history.jobs.get(job)) else { continue };
        if job.status == "completed" {
            let (n, when) = (line.n, clock(line.us));
            report.add(
                I3,
                format!("job {}: completed, and ledger line {n} at {when} asks to delete {:?}", job.id, line.trade),
            );
        }
    }
}
