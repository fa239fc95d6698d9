//! Operations in any order on a few users, areas and instants, against a model that keeps lists and adds up.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use proptest::{
    collection, option,
    prelude::*,
    test_runner::{Config, TestRunner},
};
use sqlx::{Connection, PgConnection};

use super::{Grant, Said, balance, everything, expire, expiring, grant, history, spend, take_back, withdraw};
use crate::support::database;

const USERS: [&str; 3] = ["u0", "u1", "u2"];
const AREAS: [&str; 2] = ["akita", "sendai"];
const KEYS: u8 = 24;

/// Hours after the beginning.
type Hour = i64;

fn instant(hour: Hour) -> DateTime<Utc> {
    let beginning: DateTime<Utc> = "2025-01-01T00:00:00Z".parse().expect("an instant");
    beginning + TimeDelta::hours(hour)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    Grant { user: usize, amount: i64, source: u8, expires: Hour, area: Option<usize> },
    Use { user: usize, amount: i64, area: Option<usize> },
    TakeBack { used: u8, grace: Hour },
    Withdraw { user: usize },
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Do(Hour, u8, Operation),
    Expire(Hour, usize),
}

#[derive(Debug)]
struct Lot {
    user: usize,
    area: Option<usize>,
    amount: i64,
    booked: Hour,
    granted: Hour,
    expires: Hour,
    taken: Vec<(Hour, i64)>,
}

impl Lot {
    fn left_at(&self, hour: Hour) -> i64 {
        self.amount - self.taken.iter().filter(|(at, _)| *at <= hour).map(|(_, n)| n).sum::<i64>()
    }

    fn left(&self) -> i64 {
        self.left_at(Hour::MAX)
    }

    fn is_good_in(&self, area: Option<usize>) -> bool {
        self.area.is_none() || self.area == area
    }
}

#[derive(Debug, Default)]
struct Model {
    lots: Vec<Lot>,
    /// Of each user: kind, amount, and when.
    entries: [Vec<(&'static str, i64, Hour)>; 3],
    known: BTreeMap<u8, Operation>,
    exercised: BTreeSet<u8>,
    /// What each use took: lot and amount.
    uses: BTreeMap<u8, (usize, Vec<(usize, i64)>)>,
    taken_back: BTreeSet<u8>,
    withdrawn: BTreeSet<usize>,
}

impl Model {
    fn open(&self, user: usize) -> Vec<usize> {
        let mut open: Vec<usize> =
            (0..self.lots.len()).filter(|l| self.lots[*l].user == user && self.lots[*l].left() > 0).collect();
        open.sort_by_key(|l| (self.lots[*l].expires, self.lots[*l].granted, *l));
        open
    }

    fn take(&mut self, lot: usize, at: Hour, amount: i64) {
        self.lots[lot].taken.push((at, amount));
    }

    fn expire(&mut self, lot: usize) {
        let (user, at, left) = (self.lots[lot].user, self.lots[lot].expires, self.lots[lot].left());
        self.take(lot, at, left);
        self.entries[user].push(("expire", -left, at));
    }

    fn turn(&mut self, user: usize, at: Hour) -> Hour {
        let at = self.entries[user].last().map_or(at, |last| last.2.max(at));
        for lot in self.open(user) {
            if self.lots[lot].expires <= at {
                self.expire(lot);
            }
        }
        at
    }

    fn lose_the_rest(&mut self, user: usize, at: Hour) {
        let mut lost = 0;
        for lot in self.open(user) {
            lost += self.lots[lot].left();
            self.take(lot, at, self.lots[lot].left());
        }
        self.entries[user].push(("withdraw", -lost, at));
        self.withdrawn.insert(user);
    }

    fn page(&mut self, due: Hour, most: usize) -> (i32, i64) {
        let mut lots: Vec<usize> = USERS.iter().enumerate().flat_map(|(user, _)| self.open(user)).collect();
        lots.retain(|l| self.lots[*l].expires <= due);
        lots.sort_by_key(|l| (self.lots[*l].expires, *l));
        // Whose turn it is follows from the first so many; of theirs those go first that are used first.
        let users: BTreeSet<usize> = lots.iter().take(most).map(|l| self.lots[*l].user).collect();
        lots.retain(|l| users.contains(&self.lots[*l].user));
        lots.sort_by_key(|l| (self.lots[*l].expires, self.lots[*l].granted, *l));
        lots.truncate(most);
        let points = lots.iter().map(|l| self.lots[*l].left()).sum();
        for lot in &lots {
            self.expire(*lot);
        }
        (lots.len() as i32, points)
    }

    fn apply(&mut self, at: Hour, key: u8, operation: Operation) -> &'static str {
        if let Some(known) = self.known.get(&key) {
            return if *known == operation { "replayed" } else { "conflict" };
        }
        let outcome = match operation {
            Operation::Grant { user, amount, source, expires, area } => {
                if self.exercised.contains(&source) {
                    return "conflict";
                }
                let at = self.turn(user, at);
                if self.withdrawn.contains(&user) {
                    "withdrawn"
                } else if expires <= at {
                    "expired"
                } else {
                    self.exercised.insert(source);
                    self.lots.push(Lot { user, area, amount, booked: at, granted: at, expires, taken: vec![] });
                    self.entries[user].push(("grant", amount, at));
                    "posted"
                }
            }
            Operation::Use { user, amount, area } => self.spend(at, key, (user, amount, area)),
            Operation::TakeBack { used, grace } => self.take_back(at, used, grace),
            Operation::Withdraw { user } => {
                let at = self.turn(user, at);
                self.lose_the_rest(user, at);
                "posted"
            }
        };
        if outcome == "posted" {
            self.known.insert(key, operation);
        }
        outcome
    }

    fn spend(&mut self, at: Hour, key: u8, (user, amount, area): (usize, i64, Option<usize>)) -> &'static str {
        let at = self.turn(user, at);
        if self.withdrawn.contains(&user) {
            return "withdrawn";
        }
        let good: Vec<usize> = self.open(user).into_iter().filter(|l| self.lots[*l].is_good_in(area)).collect();
        if good.iter().map(|l| self.lots[*l].left()).sum::<i64>() < amount {
            return "insufficient";
        }
        let mut wanted = amount;
        let mut parts = vec![];
        for lot in good {
            let part = wanted.min(self.lots[lot].left());
            if part > 0 {
                self.take(lot, at, part);
                parts.push((lot, part));
                wanted -= part;
            }
        }
        self.uses.insert(key, (user, parts));
        self.entries[user].push(("use", -amount, at));
        "posted"
    }

    fn take_back(&mut self, at: Hour, used: u8, grace: Hour) -> &'static str {
        let Some((user, mut parts)) = self.uses.get(&used).cloned() else { return "not_found" };
        let at = self.turn(user, at);
        if !self.taken_back.insert(used) {
            return "conflict";
        }
        parts.sort_by_key(|(lot, _)| *lot);
        for (lot, amount) in &parts {
            let Lot { area, granted, expires, .. } = self.lots[*lot];
            let expires = expires.max(at + grace);
            self.lots.push(Lot { user, area, amount: *amount, booked: at, granted, expires, taken: vec![] });
        }
        self.entries[user].push(("reverse", parts.iter().map(|(_, n)| n).sum(), at));
        if self.withdrawn.contains(&user) {
            let at = self.turn(user, at);
            self.lose_the_rest(user, at);
        }
        "posted"
    }

    fn alive(&self, user: usize, hour: Hour) -> impl Iterator<Item = &Lot> {
        self.lots.iter().filter(move |l| l.user == user && l.booked <= hour && l.expires > hour)
    }

    fn balance(&self, user: usize, hour: Hour, area: Option<usize>) -> i64 {
        self.alive(user, hour).filter(|l| l.is_good_in(area)).map(|l| l.left_at(hour)).sum()
    }

    fn expiring(&self, user: usize, hour: Hour, before: Hour) -> BTreeMap<(Hour, Option<usize>), i64> {
        let mut sums = BTreeMap::new();
        for lot in self.alive(user, hour).filter(|l| l.expires <= before && l.left_at(hour) > 0) {
            *sums.entry((lot.expires, lot.area)).or_default() += lot.left_at(hour);
        }
        sums
    }
}

fn operations() -> impl Strategy<Value = Operation> {
    let user = 0..USERS.len();
    let area = || option::weighted(0.4, 0..AREAS.len());
    prop_oneof![
        8 => (user.clone(), 1..40_i64, 0..40_u8, 1..300_i64, area())
            .prop_map(|(user, amount, source, expires, area)| Operation::Grant { user, amount, source, expires, area }),
        6 => (user.clone(), 1..40_i64, area()).prop_map(|(user, amount, area)| Operation::Use { user, amount, area }),
        4 => (0..KEYS, prop_oneof![Just(0), 1..60_i64]).prop_map(|(used, grace)| Operation::TakeBack { used, grace }),
        1 => user.prop_map(|user| Operation::Withdraw { user }),
    ]
}

/// Time passes, by leaps, and now and then goes back: a server took over whose clock is behind.
fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        12 => (0..KEYS, operations()).prop_map(|(key, operation)| Step::Do(0, key, operation)),
        2 => (1..5_usize).prop_map(|lots| Step::Expire(0, lots)),
    ];
    collection::vec((step, prop_oneof![6 => 0..6_i64, 2 => 6..60_i64, 1 => -12..0_i64]), 1..60).prop_map(|steps| {
        let mut hour = 0;
        let timed = |(step, passes): (Step, Hour)| {
            hour += passes;
            match step {
                Step::Do(_, key, Operation::Grant { user, amount, source, expires, area }) => {
                    Step::Do(hour, key, Operation::Grant { user, amount, source, expires: hour + expires, area })
                }
                Step::Do(_, key, operation) => Step::Do(hour, key, operation),
                Step::Expire(_, lots) => Step::Expire(hour, lots),
            }
        };
        steps.into_iter().map(timed).collect()
    })
}

async fn book(connection: &mut PgConnection, at: Hour, key: u8, operation: Operation) -> Said {
    let at = instant(at);
    let key = format!("key-{key}");
    let area = |area: Option<usize>| area.map(|area| AREAS[area]);
    match operation {
        Operation::Grant { user, amount, source, expires, area: of } => {
            let source = format!("source-{source}");
            let expires_at = instant(expires);
            let g = Grant { at, key: &key, user: USERS[user], amount, source: &source, expires_at, area: area(of) };
            grant(connection, g).await
        }
        Operation::Use { user, amount, area: of } => spend(connection, at, &key, (USERS[user], amount, area(of))).await,
        Operation::TakeBack { used, grace } => {
            take_back(connection, at, &key, (format!("key-{used}").as_str(), grace)).await
        }
        Operation::Withdraw { user } => withdraw(connection, at, &key, USERS[user]).await,
    }
    .expect("an answer")
}

/// All reads of a user at an instant.
async fn compare(connection: &mut PgConnection, model: &Model, user: usize, hour: Hour) -> Result<(), TestCaseError> {
    for area in [None, Some(0), Some(1)] {
        let name = area.map(|area| AREAS[area]);
        let points = balance(&mut *connection, USERS[user], Some(instant(hour)), name).await.expect("a balance");
        prop_assert_eq!(points, model.balance(user, hour, area), "user {} at hour {} in {:?}", user, hour, name);
    }
    let before = hour + 100;
    let told = expiring(connection, USERS[user], instant(before), Some(instant(hour))).await.expect("what expires");
    let told: Vec<_> = told.iter().map(|e| (e.expires_at, e.area.as_deref(), e.points)).collect();
    let sums = model.expiring(user, hour, before);
    let sums: Vec<_> = sums.into_iter().map(|((h, area), n)| (instant(h), area.map(|area| AREAS[area]), n)).collect();
    prop_assert_eq!(told, sums, "user {} at hour {}", user, hour);
    Ok(())
}

async fn run(connection: &mut PgConnection, steps: &[Step]) -> Result<(), TestCaseError> {
    let mut model = Model::default();
    let mut posted = vec![];
    for step in steps {
        match *step {
            Step::Do(at, key, operation) => {
                let said = book(connection, at, key, operation).await;
                prop_assert_eq!(said.outcome.as_str(), model.apply(at, key, operation), "{:?}: {:?}", step, said);
                if said.outcome == "posted" {
                    posted.push((at, key, operation, said.entry));
                }
            }
            Step::Expire(due, lots) => {
                let (expired, points, more) =
                    expire(&mut *connection, instant(due), lots as i32).await.expect("a page");
                prop_assert_eq!((expired, points), model.page(due, lots), "{:?}", step);
                prop_assert_eq!(more, model.lots.iter().any(|l| l.left() > 0 && l.expires <= due));
            }
        }
    }
    let hours: Vec<Hour> = steps
        .iter()
        .map(|step| match step {
            Step::Do(at, ..) | Step::Expire(at, _) => *at,
        })
        .collect();
    for (user, name) in USERS.iter().enumerate() {
        let mut told = history(&mut *connection, name, None, 1000).await.expect("a history");
        told.reverse();
        let told: Vec<_> = told.into_iter().map(|e| (e.kind, e.amount, e.balance, e.at)).collect();
        let mut sum = 0;
        let mut add = |amount: i64| {
            sum += amount;
            sum
        };
        let rows = model.entries[user].iter().map(|(kind, n, at)| ((*kind).to_owned(), *n, add(*n), instant(*at)));
        prop_assert_eq!(told, rows.collect::<Vec<_>>());
        for hour in hours.iter().step_by(7).chain([&-1, &1000]) {
            compare(connection, &model, user, *hour).await?;
        }
    }
    let faults: Vec<(String, String, String)> =
        sqlx::query_as("select * from noshi.verify_points()").fetch_all(&mut *connection).await.expect("the equations");
    prop_assert!(faults.is_empty(), "{:?}", faults);
    let before = everything(&mut *connection).await;
    for (at, key, operation, entry) in posted {
        let again = book(connection, at + 1000, key, operation).await;
        prop_assert_eq!((again.outcome.as_str(), again.entry), ("replayed", entry), "{:?}", operation);
    }
    prop_assert_eq!(everything(connection).await, before, "replays change nothing");
    Ok(())
}

#[test]
fn whatever_happens_in_whatever_order_the_model_says_the_same() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let url = runtime.block_on(database()).url;
    let connection = runtime.block_on(PgConnection::connect(&url)).expect("a connection");
    let connection = std::cell::RefCell::new(connection);
    let config = Config { cases: 128, failure_persistence: None, ..Config::default() };
    let tried = TestRunner::new(config).run(&steps(), |steps| {
        let mut connection = connection.borrow_mut();
        runtime.block_on(async {
            let mut transaction = connection.begin().await.expect("a transaction");
            let judged = run(&mut transaction, &steps).await;
            transaction.rollback().await.expect("rolled back");
            judged
        })
    });
    tried.unwrap_or_else(|why| panic!("{why}"));
}
