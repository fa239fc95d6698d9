//! Every key of the settings, read off their types: what the file and the environment may hold, and what `ops/configuration.md` says.

use std::sync::{LazyLock, PoisonError, RwLock};

use schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value};

use super::Settings;
use crate::partners::gifts::usual;

#[derive(Debug, Clone)]
pub struct Key {
    /// As in the file: tables joined by dots.
    pub path: String,
    pub meaning: String,
    pub default: Option<String>,
    /// Its table cannot do without it.
    pub required: bool,
    /// A list, which the environment gives as the file would.
    pub is_list: bool,
    /// Part of each entry of a list: the environment gives the whole list.
    pub is_entry: bool,
}

impl Key {
    pub fn variable(&self) -> String {
        variable(&self.path)
    }
}

pub fn variable(path: &str) -> String {
    format!("NOSHI_{}", path.to_ascii_uppercase().replace('.', "__"))
}

pub static KEYS: LazyLock<Vec<Key>> = LazyLock::new(|| {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let schema = SchemaGenerator::new(settings).into_root_schema_for::<Settings>();
    let mut keys = vec![];
    collect(schema.as_value(), "", false, &mut keys);
    for (name, schema) in OWN.read().unwrap_or_else(PoisonError::into_inner).iter() {
        collect(schema, name, false, &mut keys);
    }
    keys
});

/// Sections that a program has added, with their schemas.
static OWN: RwLock<Vec<(&'static str, Value)>> = RwLock::new(vec![]);

/// Adds a section, before the first setting is read.
pub fn declare<T: JsonSchema>(name: &'static str) {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let schema = SchemaGenerator::new(settings).into_root_schema_for::<T>();
    OWN.write().unwrap_or_else(PoisonError::into_inner).push((name, schema.to_value()));
}

pub fn sections() -> Vec<&'static str> {
    OWN.read().unwrap_or_else(PoisonError::into_inner).iter().map(|(name, _)| *name).collect()
}

fn collect(table: &Value, path: &str, is_entry: bool, keys: &mut Vec<Key>) {
    let required = |name: &str| table["required"].as_array().is_some_and(|all| all.iter().any(|it| it == name));
    for (name, property) in table["properties"].as_object().into_iter().flatten() {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        let value = present(property);
        if value["properties"].is_object() {
            collect(value, &path, is_entry, keys);
            continue;
        }
        let is_list = value["type"] == "array" || value["type"].as_array().is_some_and(|all| all[0] == "array");
        let meaning = property["description"].as_str().unwrap_or_default().replace('\n', " ");
        let default = default_of(&path, name, property);
        keys.push(Key { path: path.clone(), meaning, default, required: required(name), is_list, is_entry });
        if value["items"]["properties"].is_object() {
            collect(&value["items"], &format!("{path}[]"), true, keys);
        }
    }
}

/// What is there if it is there: the schema of an option names null beside it.
fn present(property: &Value) -> &Value {
    let choices = property["anyOf"].as_array();
    choices.and_then(|choices| choices.iter().find(|choice| choice["type"] != "null")).unwrap_or(property)
}

fn default_of(path: &str, name: &str, property: &Value) -> Option<String> {
    let provider = path.strip_prefix("gifts.").and_then(|rest| rest.split('.').next()).unwrap_or_default();
    let stated = property.get("default").filter(|value| !value.is_null());
    let stated = stated.map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned));
    stated.filter(|text| !text.is_empty()).or_else(|| usual(provider, name))
}

/// The keys of a file that are none of ours, by their paths.
pub fn unknown(table: &Map<String, Value>) -> Vec<String> {
    let mut unknown = vec![];
    look(table, "", &mut unknown);
    unknown
}

fn look(table: &Map<String, Value>, path: &str, unknown: &mut Vec<String>) {
    for (name, value) in table {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        let below = format!("{path}.");
        if KEYS.iter().any(|key| key.path == path) {
            continue;
        }
        match value.as_object().filter(|_| KEYS.iter().any(|key| key.path.starts_with(&below))) {
            Some(table) => look(table, &path, unknown),
            None => unknown.push(path),
        }
    }
}

/// The first number with a fraction, by its path. No setting is one, and the reader would cut it off without a word.
pub fn fraction(table: &Map<String, Value>, path: &str) -> Option<(String, f64)> {
    table.iter().find_map(|(name, value)| {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        match value {
            Value::Number(number) if number.is_f64() => number.as_f64().map(|number| (path, number)),
            Value::Object(below) => fraction(below, &path),
            Value::Array(entries) => entries.iter().find_map(|entry| fraction(entry.as_object()?, &path)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
        }
    })
}

/// The keys beside one that is not known, so that a slip of the pen is seen.
pub fn beside(path: &str) -> String {
    let parent = path.rsplit_once('.').map_or("", |(parent, _)| parent);
    let mut names: Vec<&str> = KEYS
        .iter()
        .filter(|key| !key.is_entry)
        .filter_map(|key| match parent {
            "" => Some(key.path.as_str()),
            parent => key.path.strip_prefix(parent)?.strip_prefix('.'),
        })
        .map(|rest| rest.split('.').next().unwrap_or(rest))
        .collect();
    names.dedup();
    names.join(", ")
}
