//! Names as arguments: what cannot exist is refused before the database is asked, and a shell can complete what may.

use clap::builder::{PossibleValuesParser, TypedValueParser};
use noshi_jobs::{KindName, Problem};

use crate::{
    basics::kinds::{self, AnyKind},
    db::queue::settle::Status,
};

/// How `noshi lane list` shows the lane of the steps that call nobody.
pub const NO_CALL: &str = "(no call)";

pub fn kind() -> impl TypedValueParser<Value = KindName> {
    PossibleValuesParser::new(kinds::names().iter().copied())
        .try_map(|name| kinds::get(&name).map(AnyKind::kind).ok_or("no kind"))
}

pub fn status() -> impl TypedValueParser<Value = Status> {
    PossibleValuesParser::new(Status::ALL.map(Status::name)).try_map(|name| Status::from_name(&name).ok_or("no status"))
}

/// A problem code.
pub fn code() -> PossibleValuesParser {
    PossibleValuesParser::new(Problem::known().into_iter().map(Problem::code))
}

/// A lane as it is shown; the one without a call by its name in brackets only.
pub fn lane(text: &str) -> Result<String, String> {
    Ok(if text == NO_CALL { String::new() } else { text.to_owned() })
}

/// A lane as it is shown.
pub fn shown_lane(lane: &str) -> String {
    if lane.is_empty() { NO_CALL.to_owned() } else { lane.to_owned() }
}

/// What acts are about, as the first word of each in the audit.
const NOUNS: [&str; 14] = [
    "batch",
    "job",
    "lane",
    "migrate",
    "proposal",
    "prune",
    "redrive",
    "restore",
    "retention",
    "reveal",
    "schedule",
    "session",
    "token",
    "vault",
];

/// An act as the audit names it.
pub fn audited(text: &str) -> Result<String, String> {
    match text.split(' ').next().filter(|noun| NOUNS.contains(noun)) {
        Some(_) => Ok(text.to_owned()),
        None => Err(format!("no act begins like that; they begin with {}", NOUNS.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_act_that_is_recorded_can_be_looked_for() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/migrations");
        let mut found = 0;
        for file in std::fs::read_dir(folder).unwrap() {
            let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
            for (at, mark) in text.match_indices("record('") {
                // Inside of a text of SQL a quote stands twice.
                let act = text[at + mark.len()..].trim_start_matches('\'').split('\'').next().unwrap();
                assert!(audited(act).is_ok(), "{act}");
                found += 1;
            }
        }
        assert!(found > 20 && audited("nope").is_err() && audited("").is_err());
        assert_eq!((lane("(no call)").unwrap().as_str(), shown_lane("")), ("", NO_CALL.to_owned()));
    }
}
