//! Crash points: those that the source has, those that a run passed, and those to kill a worker at.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    path::Path,
};

/// The `nth` passing of a point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Point {
    pub name: String,
    pub nth: u32,
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.name, self.nth)
    }
}

/// Which of the points passed are worth a run.
#[derive(Debug, Clone, Copy)]
pub enum Choose {
    /// The first two passings and the last of each.
    All,
    /// The first passing of each.
    First,
    /// The first passing and the last of these.
    Only(&'static [&'static str]),
}

/// Points that are passed by the clock: how often depends on how long the run took, so there is no last.
const BY_THE_CLOCK: [&str; 2] = ["claim.before", "renew.before"];

/// How often each point was passed, as `NOSHI_CRASH_TRACE` wrote it.
pub fn passed(trace: &Path) -> BTreeMap<String, u32> {
    let mut passed = BTreeMap::new();
    for line in fs::read_to_string(trace).unwrap_or_default().lines() {
        let (name, nth) = line.rsplit_once('@').expect("a trace line is name@number");
        let nth: u32 = nth.parse().expect("a trace line is name@number");
        let most = passed.entry(name.to_owned()).or_default();
        *most = nth.max(*most);
    }
    passed
}

pub fn chosen(passed: &BTreeMap<String, u32>, choose: Choose) -> Vec<Point> {
    let mut points = vec![];
    for (name, most) in passed {
        let last = if BY_THE_CLOCK.contains(&name.as_str()) { 1 } else { *most };
        let nths: BTreeSet<u32> = match choose {
            Choose::All => [1, 2.min(*most), last].into(),
            Choose::First => [1].into(),
            Choose::Only(names) if names.contains(&name.as_str()) => [1, last].into(),
            Choose::Only(_) => BTreeSet::new(),
        };
        points.extend(nths.into_iter().map(|nth| Point { name: name.clone(), nth }));
    }
    points
}

/// Every name that the source gives to a crash point of a worker. Those of other commands (key rotation, the staging of a
/// file), and those of schedules, are killed where those are tested.
pub fn in_the_source() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    scan(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut names);
    names.retain(|name| !["rotate.", "stage.", "schedule.", "perform."].iter().any(|other| name.starts_with(other)));
    names
}

fn scan(folder: &Path, names: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).expect("the source") {
        let path = entry.expect("an entry of the source").path();
        if path.is_dir() {
            scan(&path, names);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("a source file");
            let calls = text.split("crash_point(\"").skip(1);
            names.extend(calls.map(|call| call.split('"').next().unwrap_or_default().to_owned()));
        }
    }
}
