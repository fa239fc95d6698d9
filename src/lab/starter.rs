//! `noshi new`: the folder of a program with a job of its own, from `examples/starter`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, bail, ensure};
use clap::Args;

use crate::{basics::kinds, settings::keys};

/// Makes a program with a job of its own: a table, an inquiry, a compensation, a partner's stub, and tests that kill its workers.
#[derive(Args)]
pub struct NewArgs {
    /// What the job is called, such as `refund`: its kind, its program and its section of the settings.
    #[arg(value_name = "NAME", value_parser = named)]
    name: String,
    /// Where the folder is made; left out: here, by its name.
    #[arg(long, value_name = "FOLDER")]
    folder: Option<PathBuf>,
    /// The folder of noshi itself. Left out: the one that this program was built from, while it is there; else the registry's.
    #[arg(long, value_name = "FOLDER")]
    noshi: Option<PathBuf>,
}

macro_rules! template {
    ($($to:literal: $from:literal),* $(,)?) => {
        [$(($to, include_str!(concat!("../../examples/starter/", $from)))),*]
    };
}

const FILES: [(&str, &str); 14] = template! {
    ".gitignore": "gitignore",
    "Cargo.toml": "manifest.toml",
    "README.md": "README.md",
    "noshi.toml": "noshi.toml",
    "rustfmt.toml": "rustfmt.toml",
    "examples/stub.rs": "examples/stub.rs",
    "runbook/starter_refused.md": "runbook/starter_refused.md",
    "src/job.rs": "src/job.rs",
    "src/lib.rs": "src/lib.rs",
    "src/main.rs": "src/main.rs",
    "src/partner.rs": "src/partner.rs",
    "src/released/starter.jsonl": "src/released/starter.jsonl",
    "tests/starter.rs": "tests/starter.rs",
    "tests/stub/mod.rs": "tests/stub/mod.rs",
};

/// The line of the manifest that says where noshi is.
const DEPENDENCY: &str = "noshi = \"0.1\"\n";

/// Rust's own words.
const KEYWORDS: &str = " as async await box break const continue crate do dyn else enum extern false final fn for gen if impl in let loop \
    macro match mod move mut override priv pub ref return self static struct super trait true try type typeof unsafe unsized use \
    virtual where while yield abstract become core std alloc test ";

fn named(name: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    let begins = name.starts_with(|first: char| first.is_ascii_lowercase());
    if !begins || !name.bytes().all(plain) || name.len() > 40 || name.ends_with('_') || name.contains("__") {
        return Err("a name is of lower-case letters, digits and single underscores; it begins with a letter, and has 40 at most".to_owned());
    }
    if is_taken(name) {
        return Err(format!("`{name}` has a meaning already, in Rust, in noshi or in what is made; choose another"));
    }
    Ok(name.to_owned())
}

/// A kind or a section of noshi, a word of Rust, or a name that the template uses.
fn is_taken(name: &str) -> bool {
    let section = |key: &keys::Key| key.path.split('.').next() == Some(name);
    let typed = as_type(name);
    let in_word = |letter: char| letter.is_alphanumeric() || letter == '_';
    // Types of that name, and what stands before `::`, after `mod` or in the manifest.
    let uses = |text: &str| {
        let path = format!("{name}::");
        text.split(|letter| !in_word(letter)).any(|word| word == typed)
            || text.match_indices(&path).any(|(at, _)| !text[..at].ends_with(in_word))
            || text.contains(&format!("mod {name};"))
            || text.contains(&format!("\n{name} = "))
    };
    KEYWORDS.contains(&format!(" {name} "))
        || kinds::names().contains(&name)
        || keys::KEYS.iter().any(section)
        || FILES.iter().any(|(_, text)| uses(text))
}

/// `gift_card` is the kind, `GiftCard` the type.
fn as_type(name: &str) -> String {
    let words = name.split('_').filter_map(|word| word.split_at_checked(1));
    words.map(|(first, rest)| first.to_ascii_uppercase() + rest).collect()
}

fn source(told: Option<&Path>) -> anyhow::Result<String> {
    let built_from = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = match told {
        Some(folder) => fs::canonicalize(folder).with_context(|| format!("{} cannot be read", folder.display()))?,
        None if built_from.join("Cargo.toml").is_file() => built_from.to_path_buf(),
        None => return Ok(DEPENDENCY.to_owned()),
    };
    let manifest = fs::read_to_string(folder.join("Cargo.toml")).unwrap_or_default();
    ensure!(
        manifest.contains("name = \"noshi\"\n"),
        "{} is not the folder of noshi: it has no Cargo.toml of it",
        folder.display()
    );
    Ok(format!("noshi = {{ path = {:?} }}\n", folder.to_string_lossy()))
}

/// The folder that was made.
pub fn run(args: &NewArgs) -> anyhow::Result<String> {
    let folder = args.folder.clone().unwrap_or_else(|| PathBuf::from(&args.name));
    let dependency = source(args.noshi.as_deref())?;
    if fs::read_dir(&folder).is_ok_and(|mut inside| inside.next().is_some()) || folder.is_file() {
        bail!("{} is there already, and nothing in it was changed; name another with --folder", folder.display());
    }
    for (file, text) in FILES {
        let renamed = |text: &str| {
            text.replace("starter", &args.name)
                .replace("Starter", &as_type(&args.name))
                .replace("STARTER", &args.name.to_ascii_uppercase())
        };
        let path = folder.join(renamed(file));
        let parent = path.parent().unwrap_or(&folder);
        fs::create_dir_all(parent).with_context(|| format!("{} cannot be made", parent.display()))?;
        fs::write(&path, renamed(text).replace(DEPENDENCY, &dependency))
            .with_context(|| format!("{} cannot be written", path.display()))?;
    }
    // Another name is of another length, and stands elsewhere among others. Without rustfmt it compiles all the same.
    let formatted = Command::new("cargo").arg("fmt").current_dir(&folder).stderr(Stdio::null()).status();
    formatted.map_or_else(|error| tracing::debug!(%error, "not formatted"), drop);
    Ok(folder.display().to_string())
}
