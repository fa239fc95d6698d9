//! What was released can be read for ever: a file of a kind holds the arguments and states of every version, one a line, and is only ever
//! added to (`NOSHI_REDRAW=1` adds what this version writes and the file lacks).

use std::{collections::BTreeSet, fs, path::Path};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::machine::Job;

/// The names that serde knows for this tag, from its own complaint about one that nobody has.
fn serde_names<T: DeserializeOwned>(tag: &str) -> BTreeSet<String> {
    let complaint = match serde_json::from_value::<T>(json!({ tag: "no such name" })) {
        Err(error) => error.to_string(),
        Ok(_) => panic!("`no such name` is a name"),
    };
    let names = complaint.split("expected ").nth(1).unwrap_or_default();
    names.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn reads<T: Serialize + DeserializeOwned>(json: &Value, tag: Option<&str>) -> Result<(), String> {
    let value: T = serde_json::from_value(json.clone()).map_err(|e| e.to_string())?;
    let again = serde_json::to_value(&value).map_err(|e| e.to_string())?;
    serde_json::from_value::<T>(again.clone()).map_err(|e| e.to_string())?;
    match tag.is_none_or(|tag| again[tag] == json[tag]) {
        true => Ok(()),
        false => Err("it is read as another state".to_owned()),
    }
}

/// Every line reads, and every name of this version is there. Returns the lines.
pub fn assert_reads<J: Job>(path: &Path, samples: &[(J::State, J::Args)], undos: &[J::Undo]) -> String {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(names(J::STATES), serde_names::<J::State>("at"), "STATES of {}", J::KIND.name());
    if !J::UNDOS.is_empty() {
        assert_eq!(names(J::UNDOS), serde_names::<J::Undo>("undo"), "UNDOS of {}", J::KIND.name());
    }
    let mut text = fs::read_to_string(path).unwrap_or_default();
    let mut wanted = vec![];
    for (state, args) in samples {
        wanted.push(json!({ "args": args }));
        wanted.push(json!({ "state": state }));
    }
    wanted.extend(undos.iter().map(|undo| json!({ "undo": undo })));
    // As values: in which order their fields are written is for whoever builds this crate to say.
    let mut there: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for line in wanted {
        if !there.contains(&line) {
            assert!(
                std::env::var_os("NOSHI_REDRAW").is_some(),
                "{} lacks {line}; add it with NOSHI_REDRAW=1",
                path.display()
            );
            text += &line.to_string();
            text.push('\n');
            fs::write(path, &text).unwrap();
            there.push(line);
        }
    }
    let mut seen = BTreeSet::new();
    for line in text.lines() {
        let json: Value = serde_json::from_str(line).unwrap();
        let read = match () {
            () if json.get("args").is_some() => reads::<J::Args>(&json["args"], None),
            () if json.get("state").is_some() => reads::<J::State>(&json["state"], Some("at")),
            () => reads::<J::Undo>(&json["undo"], Some("undo")),
        };
        read.unwrap_or_else(|why| panic!("{}: {line} was released and does not read: {why}", path.display()));
        seen.extend(json["state"]["at"].as_str().map(str::to_owned));
        seen.extend(json["undo"]["undo"].as_str().map(|name| format!("undo {name}")));
    }
    let all = J::STATES.iter().map(|name| (*name).to_owned()).chain(J::UNDOS.iter().map(|name| format!("undo {name}")));
    assert_eq!(seen, all.collect(), "a state of {} has no line", path.display());
    text
}
