//! What the environment sets: `NOSHI_` and the path of a key in capitals, two underscores for each dot. It wins over the file.

use anyhow::{Context, bail};
use config::{File, FileFormat, Value, ValueKind, builder::DefaultState};

use super::keys::{KEYS, Key};

type Builder = config::ConfigBuilder<DefaultState>;

/// Read elsewhere: by the command line, before there are settings.
const OF_THE_COMMAND_LINE: [&str; 3] = ["NOSHI_CONFIG", "NOSHI_LOG", "NOSHI_LOG_FORMAT"];

/// Of the tests, whose child processes inherit them; builds that are run for real refuse them.
const OF_THE_TESTS: [&str; 16] = [
    "NOSHI_AIOSMTPD",
    "NOSHI_BUG",
    "NOSHI_CLOCK_OFF",
    "NOSHI_CRASH",
    "NOSHI_CRASH_PAIRS",
    "NOSHI_CRASH_SCENES",
    "NOSHI_CRASH_TRACE",
    "NOSHI_DELETES_FAIL_SECONDS",
    "NOSHI_EARLIER",
    "NOSHI_FAILOVERS",
    "NOSHI_JOBS",
    "NOSHI_PG",
    "NOSHI_PSYCOPG",
    "NOSHI_REDRAW",
    "NOSHI_SEQUENCES",
    "NOSHI_STOP",
];

/// What the process was started with. Bytes that are no text are shown as such where they are refused.
pub fn variables() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().map(|(name, text)| (name.to_string_lossy().into_owned(), text.to_string_lossy().into_owned()))
}

/// Puts what the environment says above what is there, and says which keys that is. A name that begins like ours and is no setting is refused.
pub fn add(
    mut builder: Builder,
    environment: impl Iterator<Item = (String, String)>,
) -> anyhow::Result<(Builder, Vec<&'static Key>)> {
    let mut set = vec![];
    for (name, text) in environment.filter(|(name, text)| is_setting(name, text)) {
        if let Some(key) = KEYS.iter().find(|key| !key.is_entry && key.variable() == name) {
            // As compose files and manifests pass on what they were not given.
            if !text.is_empty() {
                builder = add_one(builder, key, &name, text)?;
                set.push(key);
            }
        } else {
            let meant = KEYS.iter().find(|key| key.variable().replace("__", "_") == name.replace("__", "_"));
            let meant = meant.map(|key| format!("did you mean {}? ", key.variable())).unwrap_or_default();
            bail!("the environment variable {name} is no setting; {meant}ops/configuration.md has them all");
        }
    }
    Ok((builder, set))
}

fn add_one(builder: Builder, key: &Key, name: &str, text: String) -> anyhow::Result<Builder> {
    let origin = format!("the environment variable {name}");
    if key.is_list {
        let list = File::from_str(&format!("list = {text}"), FileFormat::Toml);
        let list = config::Config::builder().add_source(list).build().and_then(|read| read.get::<Value>("list"));
        let list = list.with_context(|| format!("{origin} has to be a list as the file would have it"))?;
        return Ok(builder.set_override(&key.path, Value::new(Some(&origin), list.kind))?);
    }
    Ok(builder.set_override(&key.path, Value::new(Some(&origin), ValueKind::String(text)))?)
}

/// Whether a variable of this name and text would be taken for a setting, or refused for being none.
pub fn is_setting(name: &str, text: &str) -> bool {
    name.starts_with("NOSHI_") && !is_of_others(name, text)
}

fn is_of_others(name: &str, text: &str) -> bool {
    OF_THE_COMMAND_LINE.contains(&name)
        || (cfg!(debug_assertions) && (OF_THE_TESTS.contains(&name) || name.starts_with("NOSHI_TEST_")))
        || is_of_kubernetes(name, text)
}

/// Kubernetes tells every pod of the Services around it; those of a Service called `noshi…` begin like ours.
fn is_of_kubernetes(name: &str, text: &str) -> bool {
    let port = |rest: &str| rest.split('_').next().is_some_and(|part| part.bytes().all(|byte| byte.is_ascii_digit()));
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || (name.ends_with("_PORT") && text.contains("://"))
        || name.split_once("_PORT_").is_some_and(|(_, rest)| port(rest))
}
