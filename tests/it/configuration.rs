//! The settings: every key that `ops/configuration.md` names is read, from the file and from the environment, and there is no other.

use std::{collections::BTreeSet, path::Path, process::Command};

use noshi::{
    cli::configuration::{flags, page},
    settings::{
        Settings,
        keys::{KEYS, Key},
    },
};

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/ops/examples/noshi.toml");

/// Every table is there, so that any key can be set by itself.
fn with(environment: &[(&str, &str)]) -> anyhow::Result<Settings> {
    let environment = environment.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
    Settings::read_with(Some(Path::new(EXAMPLE)), environment)
}

fn shown(settings: anyhow::Result<Settings>) -> Result<String, String> {
    settings.map(|settings| format!("{settings:?}")).map_err(|error| format!("{error:#}"))
}

#[test]
fn the_page_is_drawn_from_the_code() {
    crate::support::is_as_drawn("ops/configuration.md", &page());
    for key in KEYS.iter() {
        assert!(!key.meaning.is_empty(), "{} has no meaning", key.path);
    }
}

/// Text that no default and no example has: taken where text is, and refused where a number, a word of a few or a list is.
const NONSENSE: &str = "7f3a nonsense";

#[test]
fn every_variable_of_the_page_is_read() {
    let usual = shown(with(&[])).unwrap();
    for key in KEYS.iter().filter(|key| !key.is_entry) {
        let variable = key.variable();
        match shown(with(&[(&variable, NONSENSE)])) {
            Ok(settings) => assert!(settings != usual && settings.contains(NONSENSE), "{variable} changes nothing"),
            // Not only refused: the error says which variable it is.
            Err(error) => assert!(error.contains(&variable), "{variable}: {error}"),
        }
        // What is no text is read as well.
        let other = match key {
            Key { is_list: true, .. } => "[]",
            _ if usual_is_number(key) => "7331",
            Key { path, .. } if path.ends_with("allow_plain_http") => "true",
            Key { path, .. } if path.ends_with("worker.listen") => "false",
            _ => continue,
        };
        let changed = shown(with(&[(&variable, other)])).unwrap_or_else(|error| panic!("{variable}: {error}"));
        assert_ne!(changed, usual, "{variable} changes nothing");
        assert_eq!(shown(with(&[(&variable, "")])).unwrap(), usual, "an empty {variable} counts as not given");
    }
}

fn usual_is_number(key: &Key) -> bool {
    let name = key.path.rsplit('.').next().unwrap();
    ["_ms", "_seconds", "_second", "_day"].iter().any(|end| name.ends_with(end)) || ["slots", "port"].contains(&name)
}

/// serde says which fields a table has when it is given another: the page must have the same.
#[test]
fn no_key_is_missing_from_the_page() {
    let tables: BTreeSet<&str> = KEYS
        .iter()
        .filter(|key| !key.is_entry)
        .flat_map(|key| key.path.match_indices('.').map(|(at, _)| &key.path[..at]))
        .chain([""])
        .collect();
    assert!(tables.len() > 10, "{tables:?}");
    let text = std::fs::read_to_string(EXAMPLE).unwrap();
    for table in tables {
        let example = config::File::from_str(&text, config::FileFormat::Toml);
        let path = if table.is_empty() { "nonsense".to_owned() } else { format!("{table}.nonsense") };
        let settings = config::Config::builder().add_source(example).set_override(&path, "x").unwrap().build().unwrap();
        let error = settings.try_deserialize::<Settings>().unwrap_err().to_string();
        let listed = error.split_once("expected ").unwrap_or_else(|| panic!("{table}: {error}")).1;
        let listed = listed.split(" for key ").next().unwrap();
        let fields: BTreeSet<&str> = listed.split('`').skip(1).step_by(2).collect();
        let ours: BTreeSet<&str> = KEYS
            .iter()
            .filter_map(|key| match table {
                "" => Some(key.path.as_str()),
                table => key.path.strip_prefix(table)?.strip_prefix('.'),
            })
            .map(|rest| rest.split(['.', '[']).next().unwrap())
            .collect();
        assert!(fields.is_superset(&ours) && ours.is_superset(&fields), "{table}: {fields:?} and {ours:?}: {error}");
    }
}

#[test]
fn what_is_unknown_is_refused_wherever_it_stands() {
    for (variable, said) in [
        ("NOSHI_GIFTS__TANGO_CARD__TIMOUT_MS", "is no setting"),
        ("NOSHI_WORKER_SLOTS", "did you mean NOSHI_WORKER__SLOTS?"),
        ("NOSHI_VAULT_KEY", "ops/configuration.md"),
        ("NOSHI_GIFTS__TANGO_CARD__RANGES", "expected a sequence"),
        ("NOSHI_EMAIL__SMTP__PORTS", "is no setting"),
    ] {
        let error = shown(with(&[(variable, "1")])).unwrap_err();
        assert!(error.contains(variable) && error.contains(said), "{error}");
    }
    for kubernetes in ["NOSHI_API_SERVICE_HOST", "NOSHI_SERVICE_PORT_HTTP", "NOSHI_API_PORT_8080_TCP_ADDR"] {
        assert!(with(&[(kubernetes, "10.0.0.1")]).is_ok(), "{kubernetes}");
    }
    assert!(with(&[("NOSHI_API_PORT", "tcp://10.0.0.1:8080")]).is_ok());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("noshi.toml");
    for (text, path) in [
        ("[gifts.tango_card]\ntimout_ms = 1\n", "gifts.tango_card.timout_ms"),
        ("[gifts.tango_cart]\nbase_url = 'x'\n", "gifts.tango_cart"),
        ("[worker]\nslot = 1\n", "worker.slot"),
    ] {
        std::fs::write(&file, text).unwrap();
        let error = shown(Settings::read(Some(&file))).unwrap_err();
        let said = error.contains(&format!("`{path}`")) && error.contains(&file.display().to_string());
        assert!(said && error.contains("there are"), "{error}");
    }
    // What would be cut off, or not found by anybody, or is a slip of the unit.
    for (text, said) in [
        (
            "[gifts.tango_card]\ntimeout_ms = 1.5\n",
            "`gifts.tango_card.timeout_ms` is 1.5, and has to be a whole number",
        ),
        ("[worker]\nslots = 2.0\n", "`worker.slots` is 2"),
    ] {
        std::fs::write(&file, text).unwrap();
        let error = shown(Settings::read(Some(&file))).unwrap_err();
        assert!(error.contains(said), "{error}");
    }
    for place in [folder.path(), std::path::Path::new("/dev/null")] {
        let error = shown(Settings::read(Some(place))).unwrap_err();
        assert!(error.contains("no plain file") && !error.contains("not found"), "{error}");
    }
    // A value is refused with its key, and the file that it stands in.
    std::fs::write(&file, "[worker]\nslots = 'many'\n").unwrap();
    let error = shown(Settings::read(Some(&file))).unwrap_err();
    assert!(error.contains("worker.slots") && error.contains("noshi.toml"), "{error}");
}

#[test]
fn the_environment_wins_over_the_file_and_numbers_out_of_range_are_refused() {
    let settings =
        with(&[("NOSHI_WORKER__SLOTS", "7"), ("NOSHI_EMAIL__SES__TOPICS", r#"["arn:one", "arn:two"]"#)]).unwrap();
    assert_eq!(settings.worker.slots, 7);
    assert_eq!(settings.email.unwrap().ses.unwrap().topics, ["arn:one", "arn:two"]);
    for (variable, text) in [("SLOTS", "0"), ("SLOTS", "4097"), ("LEASE_MS", "499"), ("POLL_MS", "9")] {
        let settings = with(&[(&format!("NOSHI_WORKER__{variable}"), text)]).unwrap();
        let error = settings.worker.pace().unwrap_err().to_string();
        assert!(error.contains(&format!("worker.{}", variable.to_lowercase())), "{error}");
    }
}

/// What the command line reads by itself: each variable is given nonsense, and the program says so.
#[test]
fn every_variable_of_the_command_line_is_read() {
    let flags = flags();
    let variables: Vec<&str> = flags.iter().map(|flag| flag.variable.as_str()).collect();
    assert_eq!(variables, ["NOSHI_CONFIG", "NOSHI_LOG", "NOSHI_LOG_FORMAT", "DATABASE_URL"]);
    for flag in &flags {
        let run = |value: &str| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_noshi"));
            let command = command.args(["worker", "run"]).env("DATABASE_URL", "postgres://nobody@127.0.0.1:9/none");
            let said = command.env(&flag.variable, value).output().unwrap();
            assert!(!said.status.success());
            String::from_utf8_lossy(&said.stderr).into_owned()
        };
        let expected = match flag.variable.as_str() {
            "NOSHI_CONFIG" => NONSENSE,
            "NOSHI_LOG" => "invalid value 'noshi=7f3a' for '--log <FILTER>'",
            "NOSHI_LOG_FORMAT" => "invalid value '7f3a nonsense' for '--log-format <FORMAT>'",
            "DATABASE_URL" => "DATABASE_URL is not a PostgreSQL URL",
            other => panic!("nobody knows how {other} shows"),
        };
        // Any word is the name of a target.
        let said = run(if flag.variable == "NOSHI_LOG" { "noshi=7f3a" } else { NONSENSE });
        assert!(said.contains(expected), "{}: {said}", flag.variable);
    }
}
