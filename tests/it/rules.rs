//! Rules that a compiler does not check.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Modules of `src`, lowest first: each may know only what stands before it, so no circle can be.
const MODULES: [&str; 16] = [
    "basics",
    "db",
    "telemetry",
    "vault",
    "engine",
    "partners",
    "worlds",
    "settings",
    "intake",
    "operator",
    "app",
    "api",
    "console",
    "lab",
    "cli",
    "main",
];

/// What a reader takes in at a glance, and in one sitting.
const MAX_ENTRIES: usize = 17;
const MAX_LINES: usize = 450;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub fn sources(folder: &str) -> Vec<PathBuf> {
    let mut found = vec![];
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            match entry.file_type().unwrap().is_dir() {
                true => folders.push(entry.path()),
                false if entry.path().extension().is_some_and(|e| e == "rs") => found.push(entry.path()),
                false => {}
            }
        }
    }
    found
}

/// The module a file belongs to: the first part of its path below `src`.
fn module(file: &Path) -> String {
    let below = file.strip_prefix(root().join("src")).unwrap();
    below.components().next().unwrap().as_os_str().to_str().unwrap().trim_end_matches(".rs").to_owned()
}

/// Names that follow `crate::` in the code of a file, its tests left out.
fn known_modules(text: &str) -> BTreeSet<String> {
    let code = text.split("#[cfg(test)]").next().unwrap_or(text);
    let mut names = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let name = |s: &str| s.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
        match rest.strip_prefix('{') {
            // `use crate::{a, b::{c, d}}`: the names at depth one.
            Some(group) => {
                let mut depth = 1;
                let mut word = String::new();
                for c in group.chars() {
                    match c {
                        '{' => depth += 1,
                        '}' => depth -= 1,
                        ',' if depth == 1 => word.clear(),
                        c if depth == 1 => word.push(c),
                        _ => {}
                    }
                    let known = name(word.trim());
                    if depth == 1 && (c == ':' || c == ',') && !known.is_empty() {
                        names.insert(known);
                    }
                    if depth == 0 {
                        break;
                    }
                }
            }
            None => _ = names.insert(name(rest)),
        }
    }
    names.into_iter().filter(|name| MODULES.contains(&name.as_str())).collect()
}

fn is_of_tests(file: &Path) -> bool {
    file.components().any(|part| part.as_os_str() == "tests" || part.as_os_str() == "tests.rs")
}

#[test]
fn dependencies_run_one_way() {
    let rank = |name: &str| MODULES.iter().position(|module| *module == name);
    for file in sources("src") {
        let module = module(&file);
        // A partner's own tests are held against the laboratory's partners.
        if module == "lib" || is_of_tests(&file) {
            continue;
        }
        let own = rank(&module).unwrap_or_else(|| panic!("src/{module} has no place in the order of modules"));
        for known in known_modules(&fs::read_to_string(&file).unwrap()) {
            assert!(rank(&known).unwrap() <= own, "{} knows `{known}`, which stands above it", file.display());
        }
    }
}

#[test]
fn the_source_is_few_modules_of_short_files() {
    let entries = fs::read_dir(root().join("src")).unwrap().count();
    assert!(entries <= MAX_ENTRIES, "src/ has {entries} entries");
    for file in sources("src") {
        let lines = fs::read_to_string(&file).unwrap().lines().count();
        assert!(lines <= MAX_LINES, "{} has {lines} lines: split it by subject", file.display());
    }
}

/// The first file of a module says what is in it, and does nothing.
#[test]
fn a_module_file_lists_and_reexports_only() {
    for module in MODULES {
        let Ok(file) = fs::read_to_string(root().join("src").join(module).join("mod.rs")) else { continue };
        assert!(file.starts_with("//! "), "src/{module}/mod.rs says nothing of its module");
        for line in file.lines() {
            let does = ["fn ", "struct ", "enum ", "impl ", "trait ", "static ", "const "];
            let line = line.trim_start_matches("pub(crate) ").trim_start_matches("pub ");
            let found = does.iter().find(|word| line.starts_with(**word));
            assert_eq!(found, None, "src/{module}/mod.rs does more than list and re-export: {line}");
        }
    }
}

/// A gift partner is its file and its line in the catalogue. Beside them Rust wants a `mod`; the laboratory, which simulates some, may know them.
#[test]
fn a_gift_partner_is_named_in_its_own_file_and_in_one_line() {
    let gifts = root().join("src/partners/gifts");
    let adapters: Vec<String> = sources("src/partners/gifts")
        .iter()
        .filter(|file| file.parent() == Some(&gifts) && fs::read_to_string(file).unwrap().contains("impl Adapter for"))
        .map(|file| file.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    assert!(adapters.len() >= 3, "{adapters:?}");
    for name in adapters {
        let mut others = vec![];
        for file in sources("src") {
            let below = file.strip_prefix(root().join("src")).unwrap().to_str().unwrap().to_owned();
            if below.starts_with("lab/") || below.starts_with(&format!("partners/gifts/{name}")) || is_of_tests(&file) {
                continue;
            }
            let text = fs::read_to_string(&file).unwrap();
            let code = text.split("mod tests {").next().unwrap();
            let lines = code.lines().filter(|line| !line.trim_start().starts_with("//") && line.contains(&name));
            others.extend(lines.map(|line| format!("{below}: {}", line.trim())));
        }
        others.sort();
        let [line, module] = others.as_slice() else { panic!("{name} is known to {others:#?}") };
        assert!(line.starts_with(&format!("partners/gifts/catalogue.rs: {name}: ")), "{line}");
        assert_eq!(*module, format!("partners/gifts/mod.rs: pub mod {name};"));
    }
}

/// What a worker does with a job is told by a registry that is given to it: it runs on, whatever partners there are.
#[test]
fn the_engine_names_no_partner_and_no_job() {
    for file in sources("src/engine") {
        let text = fs::read_to_string(&file).unwrap();
        for name in ["crate::worlds", "crate::partners", "partners::", "worlds::"] {
            assert!(!text.contains(name), "{} names {name}", file.display());
        }
    }
}

/// A job cannot reach SQL, HTTP, a clock or a runtime: Cargo forbids it, as long as its crate depends on serde alone.
#[test]
fn the_jobs_know_serde_and_nothing_else() {
    let manifest = fs::read_to_string(root().join("jobs/Cargo.toml")).unwrap();
    let dependencies = manifest.split("\n[dependencies]\n").nth(1).unwrap().split("\n[").next().unwrap();
    let names: Vec<&str> =
        dependencies.lines().filter_map(|line| line.split_once(" =").map(|(name, _)| name)).collect();
    assert_eq!(names, ["serde"]);
    for file in sources("jobs") {
        let text = fs::read_to_string(&file).unwrap();
        for clock in ["Instant::now", "SystemTime", "std::fs", "std::net", "std::thread"] {
            let code = !file.starts_with(root().join("jobs/walk")) && !file.ends_with("walk.rs");
            assert!(!(code && text.contains(clock)), "{} reaches {clock}", file.display());
        }
    }
}

/// Statements live in `db`; the laboratory has its own, for the benchmark's baseline and the private server that starts databases.
#[test]
fn all_sql_is_in_one_module() {
    for file in sources("src") {
        let text = fs::read_to_string(&file).unwrap();
        let text = text.split("#[cfg(test)]").next().unwrap();
        if !["db", "lab"].contains(&module(&file).as_str()) {
            assert!(!text.contains("sqlx::query"), "{} talks to the database past `db`", file.display());
        }
        for word in ["SELECT ", "INSERT ", "UPDATE ", "DELETE FROM"] {
            let in_code =
                text.lines().filter(|line| !line.trim_start().starts_with("//")).any(|line| line.contains(word));
            assert!(!in_code, "{}: SQL is written in lower case", file.display());
        }
    }
}

/// Every wait for the database is bounded in one place: who talked to a driver's own pool, connection or listener could wait for ever.
#[test]
fn nobody_talks_to_the_database_past_the_bound() {
    let raw = ["PgPool", "PgConnection", "PgListener", "Transaction", "PoolConnection", "PgPoolOptions", "Pool<"];
    for file in sources("src") {
        // The private server is ours, on this machine, and is set up before anything can wait for it.
        let ours = file.ends_with("db/pool.rs") || file.ends_with("db/connection.rs");
        if ours || file.starts_with(root().join("src/lab/private_postgres")) {
            continue;
        }
        let text = fs::read_to_string(&file).unwrap();
        for import in text.split("use sqlx::").skip(1).map(|rest| rest.split(';').next().unwrap()) {
            let named = raw.iter().find(|raw| import.split(|c: char| !c.is_alphanumeric()).any(|word| word == **raw));
            assert_eq!(named, None, "{}: take it from `db`, where every wait is bounded", file.display());
        }
        for raw in raw {
            for path in ["sqlx::", "sqlx::postgres::", "sqlx::pool::"] {
                let spelled = text.contains(&format!("{path}{raw}"));
                assert!(!spelled, "{}: {path}{raw} waits without a bound", file.display());
            }
        }
    }
}

/// sqlx refuses a statement with a `Duration` of nanoseconds, which a clock or a partner's date makes now and then: all are bound by `interval`.
#[test]
fn every_span_is_bound_in_whole_microseconds() {
    let files: Vec<_> = sources("src/db").into_iter().map(|file| (fs::read_to_string(&file).unwrap(), file)).collect();
    let spans = |text: &str| -> BTreeSet<String> {
        let named = |before: &str| before.rsplit(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap().to_owned();
        let typed = [": Duration", ": Option<Duration>"];
        typed
            .iter()
            .flat_map(|of| text.match_indices(of).map(|(at, _)| named(&text[..at])).collect::<Vec<_>>())
            .collect()
    };
    let fields: BTreeSet<String> = files.iter().flat_map(|(text, _)| spans(text)).collect();
    let (mut seen, mut bound) = (0, vec![]);
    for (text, file) in &files {
        let here = spans(text);
        seen += text.matches("bind(interval(").count() + text.matches(".map(interval))").count();
        for given in
            text.split(".bind(").skip(1).map(|rest| rest.split([')', '(']).next().unwrap().trim_start_matches('&'))
        {
            let name = given.rsplit('.').next().unwrap();
            if here.contains(name) || given.contains('.') && name != "lease" && fields.contains(name) {
                bound.push(format!("{}: bind({given})", file.display()));
            }
        }
    }
    // A lease is a span in some files and a number in others; so is the name alone in a file that has both.
    bound.retain(|place| !place.ends_with("bind(lease)") || !place.contains("claim.rs"));
    assert!(seen > 15, "only {seen} spans are bound");
    assert_eq!(bound, Vec::<String>::new());
}

/// A process refuses what it does not know, and tests hand their own environment on: a long form that is not known here never runs.
#[test]
fn every_variable_of_the_tests_is_known_to_the_processes_that_inherit_it() {
    let known = fs::read_to_string(root().join("src/settings/environment.rs")).unwrap();
    for file in sources("tests").into_iter().chain(sources("src")) {
        let text = fs::read_to_string(&file).unwrap();
        for asked in text.split("env::var").skip(1) {
            let Some((_, name)) = asked.split_once("(\"").filter(|(before, _)| before.len() < 5) else { continue };
            let name = name.split('"').next().unwrap_or_default();
            let named = known.contains(&format!("\"{name}\"")) || name.starts_with("NOSHI_TEST_");
            assert!(!name.starts_with("NOSHI_") || named, "{}: {name}", file.display());
        }
    }
}

/// `backoff` is unmaintained; it stays behind our own functions.
#[test]
fn one_file_knows_backoff() {
    let knows: Vec<_> = sources("src")
        .into_iter()
        .filter(|file| {
            fs::read_to_string(file)
                .unwrap()
                .lines()
                .any(|line| line.starts_with("use backoff") || line.contains(" backoff::"))
        })
        .collect();
    assert_eq!(knows, [root().join("src/engine/retry.rs")]);
}

#[test]
fn lints_that_keep_outcomes_visible_are_on() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    for lint in [
        "wildcard_enum_match_arm = \"deny\"",
        "match_wildcard_for_single_variants = \"deny\"",
        "unsafe_code = \"forbid\"",
    ] {
        assert!(manifest.contains(lint), "{lint} is gone");
    }
    assert!(fs::read_to_string(root().join("jobs/Cargo.toml")).unwrap().contains("[lints]\nworkspace = true"));
}

/// Words that the vocabulary of CONTRIBUTING.md rules out: the quoted ones of its last column.
fn banned_words(vocabulary: &str) -> Vec<String> {
    let table = vocabulary.split("## Words").nth(1).unwrap().split("\n## ").next().unwrap();
    let rows = table.lines().filter(|line| line.starts_with("| "));
    let last = rows.filter_map(|row| row.trim_end_matches('|').trim().rsplit('|').next());
    last.flat_map(|cell| cell.split('`').skip(1).step_by(2)).map(str::to_owned).collect()
}

/// Whether a line has the word as a whole. A name in lower case counts in any case, and as a part of a longer name between underscores.
fn has_word(line: &str, word: &str) -> bool {
    let any_case = word.chars().all(|c| !c.is_uppercase());
    let line = if any_case { line.to_lowercase() } else { line.to_owned() };
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back().is_some_and(char::is_alphanumeric);
        let after = line[at + word.len()..].chars().next().is_some_and(char::is_alphanumeric);
        !before && (word.ends_with('_') || !after)
    })
}

#[test]
fn words_that_are_not_used_are_nowhere() {
    let vocabulary = fs::read_to_string(root().join("CONTRIBUTING.md")).unwrap();
    let words = banned_words(&vocabulary);
    assert!(words.len() > 30 && words.contains(&"unsure".to_owned()), "{words:?}");
    let mut found = vec![];
    for file in written() {
        let text = fs::read_to_string(&file).unwrap();
        for (at, line) in text.lines().enumerate() {
            for word in words.iter().filter(|word| has_word(line, word)) {
                found.push(format!("{}:{}: `{word}`", file.strip_prefix(root()).unwrap().display(), at + 1));
            }
        }
    }
    assert!(found.is_empty(), "CONTRIBUTING.md has another word for these:\n{}", found.join("\n"));
}

/// All that people read, but for the vocabulary itself, the test that reads it, and what was said of earlier versions.
fn written() -> Vec<PathBuf> {
    let mut found = vec![];
    let mut folders: Vec<PathBuf> = ["src", "jobs", "migrations", "tests", "ops"].map(|name| root().join(name)).into();
    let pages = fs::read_dir(root()).unwrap().map(|entry| entry.unwrap().path());
    found.extend(pages.filter(|path| path.extension().is_some_and(|e| e == "md" || e == "toml")));
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            let readable = ["rs", "sql", "md", "toml", "json", "yml", "yaml", "svg", "service"];
            match path.is_dir() {
                true => folders.push(path),
                false if path.extension().and_then(|e| e.to_str()).is_some_and(|e| readable.contains(&e)) => {
                    found.push(path)
                }
                false => {}
            }
        }
    }
    found.retain(|path| !["CONTRIBUTING.md", "CHANGELOG.md", "rules.rs"].iter().any(|name| path.ends_with(name)));
    found
}
