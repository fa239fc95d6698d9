//! How commands answer: tables for people, JSON for programs (`-o json`).

use clap::ValueEnum;
use serde::Serialize;

use crate::basics::terminal;

mod table;

pub use self::table::Column;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Out {
    /// For people.
    Table,
    /// One JSON document, for programs.
    Json,
}

impl Out {
    /// A list: a table with these columns, or a JSON array of the rows. `none` is what is said where there is no row, such as
    /// `no job is like that`.
    pub fn list<T: Serialize>(self, none: &str, rows: &[T], columns: &[Column<T>]) -> anyhow::Result<()> {
        match self {
            Out::Json => print_json(&rows)?,
            Out::Table if rows.is_empty() => terminal::print(&format!("{none}\n")),
            Out::Table => terminal::print(&table::draw(rows, columns, terminal::columns(), terminal::is_coloured())),
        }
        Ok(())
    }

    /// One answer: what `tell` makes of it, or a JSON object.
    pub fn one<T: Serialize>(self, answer: &T, tell: impl FnOnce(&T) -> String) -> anyhow::Result<()> {
        match self {
            Out::Json => print_json(answer)?,
            Out::Table => terminal::print(
                &(table::fit(table::shown(tell(answer).trim_end()).as_str(), terminal::columns()) + "\n"),
            ),
        }
        Ok(())
    }
}

fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    terminal::print(&(serde_json::to_string_pretty(value)? + "\n"));
    Ok(())
}
