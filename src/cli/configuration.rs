//! `ops/configuration.md`: every setting, whichever way it is given.

use clap::{Command, CommandFactory};

use super::Cli;
use crate::settings::keys::KEYS;

/// A flag that the environment can give as well.
pub struct Flag {
    pub variable: String,
    pub flag: String,
    pub default: String,
    pub meaning: String,
    /// A command that takes it; empty where all do.
    pub command: Vec<String>,
}

/// The flags of all commands that have a variable, each variable once.
pub fn flags() -> Vec<Flag> {
    let mut flags = vec![];
    collect(&Cli::command(), &[], &mut flags);
    flags
}

fn collect(command: &Command, path: &[String], flags: &mut Vec<Flag>) {
    for argument in command.get_arguments() {
        let (Some(variable), Some(long)) = (argument.get_env(), argument.get_long()) else { continue };
        let variable = variable.to_string_lossy().into_owned();
        if flags.iter().any(|flag| flag.variable == variable) {
            continue;
        }
        let default = argument.get_default_values().iter().map(|text| text.to_string_lossy()).collect::<Vec<_>>();
        let meaning = argument.get_help().map(ToString::to_string).unwrap_or_default();
        let flag =
            Flag { variable, flag: format!("--{long}"), default: default.join(", "), meaning, command: path.to_vec() };
        flags.push(flag);
    }
    for below in command.get_subcommands() {
        collect(below, &[path, &[below.get_name().to_owned()]].concat(), flags);
    }
}

const HEAD: &str = "# Configuration\n\n\
    Drawn from the types of the settings and from the command line; tests prove that every key is read, and that none is missing.\n\n\
    A setting is given by a flag, by the environment, or in the file; the first of these that has it wins. The file is TOML, named by `--config` or\n\
    `NOSHI_CONFIG`; [examples/noshi.toml](examples/noshi.toml) is a complete one. A key's variable is `NOSHI_` and its path in capitals, with two underscores for each\n\
    dot. A list is given as the file would have it: `NOSHI_EMAIL__SES__TOPICS='[\"arn:aws:sns:…\"]'`. An empty variable counts as not given.\n\n\
    Unknown keys are refused, in the file and among variables that begin with `NOSHI_`; the error names the key and where it stands. Kubernetes' own\n\
    variables about Services (`NOSHI_API_SERVICE_HOST` and the like) are passed over. Secrets are never settings: what is called `…_file` names the file\n\
    that holds one, readable by its owner only. The password of the database may stand in `DATABASE_URL`, or in the file that `PGPASSFILE` names.\n\n";

/// The page.
pub fn page() -> String {
    let mut page = HEAD.to_owned();
    page += "## Before there are settings\n\n| environment variable | flag | default | meaning |\n|---|---|---|---|\n";
    for Flag { variable, flag, default, meaning, .. } in flags() {
        page += &format!("| `{variable}` | `{flag}` | {} | {} |\n", shown(&default), cell(&meaning));
    }
    page += "\n## Settings\n\n\
        Those of a provider, of mails or of the organisation platform are required only where that table is there at all. Keys of `worker` and `api` have flags\n\
        of the same name (`--lease-ms`, `--listen`); `--no-listen` is `worker.listen = false`.\n\n\
        | key | environment variable | default | meaning |\n|---|---|---|---|\n";
    for key in KEYS.iter() {
        let variable = if key.is_entry { "in the list".to_owned() } else { format!("`{}`", key.variable()) };
        let default = match &key.default {
            Some(default) => shown(default),
            None if key.required => "required".to_owned(),
            None => String::new(),
        };
        page += &format!("| `{}` | {variable} | {default} | {} |\n", key.path, cell(&key.meaning));
    }
    page
}

fn shown(default: &str) -> String {
    if default.is_empty() { String::new() } else { format!("`{default}`") }
}

fn cell(text: &str) -> String {
    text.trim().replace('\n', " ").replace('|', "\\|")
}
