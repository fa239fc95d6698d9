//! How commands answer: tables for people, JSON for programs (`-o json`).

use clap::ValueEnum;
use serde::Serialize;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Out {
    /// For people.
    Table,
    /// One JSON document, for programs.
    Json,
}

/// A column of a table: its head, and what of a row stands in it.
pub type Column<T> = (&'static str, fn(&T) -> String);

impl Out {
    /// A list: a table with these columns, or a JSON array of the rows.
    pub fn list<T: Serialize>(self, rows: &[T], columns: &[Column<T>]) -> anyhow::Result<()> {
        match self {
            Out::Json => print_json(&rows)?,
            Out::Table => print!("{}", table(rows, columns)),
        }
        Ok(())
    }

    /// One answer: what `tell` makes of it, or a JSON object.
    pub fn one<T: Serialize>(self, answer: &T, tell: impl FnOnce(&T) -> String) -> anyhow::Result<()> {
        match self {
            Out::Json => print_json(answer)?,
            Out::Table => println!("{}", tell(answer).trim_end()),
        }
        Ok(())
    }
}

fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}

/// Columns as wide as what stands in them, two spaces apart. Control characters of others' texts are shown, not obeyed.
fn table<T>(rows: &[T], columns: &[Column<T>]) -> String {
    let mut lines = vec![columns.iter().map(|(head, _)| (*head).to_owned()).collect::<Vec<_>>()];
    lines.extend(rows.iter().map(|row| columns.iter().map(|(_, cell)| cell(row).escape_controls()).collect()));
    let widths: Vec<usize> = (0..columns.len())
        .map(|column| lines.iter().map(|line| line[column].chars().map(width).sum()).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for line in lines {
        let mut shown = String::new();
        for (cell, most) in line.iter().zip(&widths) {
            shown.push_str(cell);
            shown.extend(std::iter::repeat_n(' ', 2 + most - cell.chars().map(width).sum::<usize>()));
        }
        text.push_str(shown.trim_end());
        text.push('\n');
    }
    text
}

/// Terminals draw the characters of Japanese twice as wide.
const fn width(c: char) -> usize {
    match c as u32 {
        0x1100..=0x115f
        | 0x2e80..=0xa4cf
        | 0xac00..=0xd7a3
        | 0xf900..=0xfaff
        | 0xfe30..=0xfe6f
        | 0xff00..=0xff60
        | 0xffe0..=0xffe6
        | 0x1f300..=0x1faff => 2,
        _ => 1,
    }
}

trait EscapeControls {
    fn escape_controls(&self) -> String;
}

impl EscapeControls for String {
    fn escape_controls(&self) -> String {
        self.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_what_stands_in_them() {
        let rows = [("a", "付与"), ("longer", "x\u{1b}[1m")];
        let columns: [Column<(&str, &str)>; 2] = [("NAME", |row| row.0.to_owned()), ("WHAT", |row| row.1.to_owned())];
        assert_eq!(table(&rows, &columns), "NAME    WHAT\na       付与\nlonger  x\\u{1b}[1m\n");
    }
}
