//! A contract read from its file: errors name the file and the key, and say why.

use std::{fs, path::Path};

use anyhow::{Context, anyhow, ensure};
use config::{Config, File, FileFormat};
use serde_json::Value;

use super::{check, contract::Contract};

/// Nobody's contract is longer.
const MAX_BYTES: u64 = 64 * 1024;

impl Contract {
    /// The contract of a file. Refused is whatever could double an effect.
    pub fn read(file: &Path) -> anyhow::Result<Contract> {
        let cannot = || format!("the contract {} cannot be used", file.display());
        let about = fs::metadata(file).with_context(cannot)?;
        let fits = about.is_file() && about.len() <= MAX_BYTES;
        ensure!(fits, "{}: it is no plain file of 64 KiB at most", cannot());
        let text = fs::read_to_string(file).with_context(cannot)?;
        let stem = file.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        Contract::parse(&text, stem).with_context(cannot)
    }

    fn parse(text: &str, stem: &str) -> anyhow::Result<Contract> {
        let table: Value = Config::builder()
            .add_source(File::from_str(text, FileFormat::Toml))
            .build()
            .and_then(Config::try_deserialize)
            .map_err(|error| anyhow!("it is no TOML: {error}"))?;
        let contract: Contract = serde_path_to_error::deserialize(table).map_err(|error| {
            let (key, why) = (error.path().to_string(), error.inner().to_string());
            // The path of what is missing, or not known, ends where it should have been.
            anyhow!("`{}`: {why}", if key == "." { "the file" } else { &key })
        })?;
        ensure!(contract.name == stem, "`name`: it is {}, and the file is called {stem}.toml", contract.name);
        check::check(&contract).map_err(|(key, why)| anyhow!("`{key}`: {why}"))?;
        Ok(contract)
    }
}
