//! Sections of the settings that jobs of one's own bring.

use std::collections::HashMap;

use config::{Config, Value, ValueKind};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;

use super::keys;
use crate::partners::Partner;

/// A section of noshi.toml: a struct with `#[serde(deny_unknown_fields)]`. Secrets stand in files that it names.
pub trait Section: DeserializeOwned + JsonSchema + Send + Sync + 'static {
    /// Checks what stands there, reads secrets and opens clients, before a worker begins: an error keeps it from starting.
    fn open(self) -> anyhow::Result<Self> {
        Ok(self)
    }

    /// Whom its jobs call: their lanes are made with these budgets, and their series in the metrics.
    fn partners(&self) -> Vec<Partner> {
        vec![]
    }
}

/// Takes the sections of one's own out of what was read.
pub(super) fn taken(read: &mut Config) -> HashMap<&'static str, Value> {
    let ValueKind::Table(table) = &mut read.cache.kind else { return HashMap::new() };
    keys::sections().into_iter().filter_map(|name| Some((name, table.remove(name)?))).collect()
}
