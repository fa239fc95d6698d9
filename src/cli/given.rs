//! What is asked of every argument of every command, whoever wrote the command: that it says something.

use std::ffi::OsString;

use clap::{ArgMatches, Command, error::ErrorKind, parser::ValueSource};

use crate::basics::text;

/// Refuses what was given and is blank: `--reason "$WHY"` or `lane pause "$LANE"` where the variable is not set.
pub fn check(command: &mut Command, matches: &ArgMatches) -> Result<(), clap::Error> {
    command.build();
    check_below(command, matches)
}

fn check_below(command: &Command, matches: &ArgMatches) -> Result<(), clap::Error> {
    for argument in command.get_arguments() {
        let id = argument.get_id().as_str();
        let Ok(Some(ValueSource::CommandLine)) =
            matches.try_contains_id(id).map(|known| if known { matches.value_source(id) } else { None })
        else {
            continue;
        };
        let values = matches.try_get_raw(id).ok().flatten().into_iter().flatten();
        if values.into_iter().any(|value| is_blank(&value.to_string_lossy())) {
            let what =
                argument.get_long().map_or_else(|| format!("<{}>", id.to_uppercase()), |long| format!("--{long}"));
            let mut shown = command.clone();
            return Err(shown.error(
                ErrorKind::InvalidValue,
                format!("{what} is empty; a variable that is not set looks like that. Nothing was done"),
            ));
        }
    }
    match matches.subcommand() {
        Some((name, below)) => match command.find_subcommand(name) {
            Some(command) => check_below(command, below),
            None => Ok(()),
        },
        None => Ok(()),
    }
}

/// What is no text, by its place: an argument, or a variable of the environment that stands for one.
pub fn no_text(command: &mut Command, error: clap::Error, arguments: &[OsString]) -> clap::Error {
    if error.kind() != ErrorKind::InvalidUtf8 {
        return error;
    }
    let argument = arguments.iter().skip(1).find(|argument| argument.to_str().is_none());
    let what = match argument {
        Some(argument) => format!("the argument {}", argument.to_string_lossy()),
        None => ["NOSHI_CONFIG", "NOSHI_LOG", "NOSHI_LOG_FORMAT", "DATABASE_URL"]
            .into_iter()
            .find(|name| std::env::var_os(name).is_some_and(|value| value.to_str().is_none()))
            .map_or_else(|| "an argument".to_owned(), |name| format!("the environment variable {name}")),
    };
    let sentence = format!("{what} is no UTF-8; a terminal or a file in Shift_JIS writes like that. Nothing was done");
    command.error(ErrorKind::InvalidUtf8, sentence)
}

/// Nothing that a reader would see.
pub fn is_blank(text: &str) -> bool {
    text.chars().all(|c| c.is_whitespace() || text::is_unseen(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_sees_is_blank() {
        for blank in ["", " ", "\t\n", "\u{3000}", "\u{200b}", "\u{feff} ", "\u{3164}", "\u{e0041}\u{fe0f}"] {
            assert!(is_blank(blank), "{blank:?}");
        }
        assert!(!is_blank("理由") && !is_blank(" x "));
    }
}
