//! Tables and texts as wide as the terminal. Nothing is left out: what does not fit goes on in the next line.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::basics::text::in_one_line;

/// A column of a table: its head, and what of a row stands in it.
pub type Column<T> = (&'static str, fn(&T) -> String);

/// Between two columns.
const GAP: usize = 2;
/// A column is never made narrower; where that is not enough, each row is told line by line.
const NARROWEST: usize = 8;
/// Columns whose words have a colour.
const STANDINGS: [&str; 3] = ["STATUS", "STATE", "DOUBT"];

/// Columns as wide as what stands in them, two spaces apart, within `most`. Control characters of others' texts are shown, not obeyed.
pub fn draw<T>(rows: &[T], columns: &[Column<T>], most: Option<usize>, coloured: bool) -> String {
    let heads: Vec<String> = columns.iter().map(|(head, _)| (*head).to_owned()).collect();
    let lines: Vec<Vec<String>> =
        rows.iter().map(|row| columns.iter().map(|(_, cell)| in_one_line(&cell(row))).collect()).collect();
    let all = || std::iter::once(&heads).chain(&lines);
    let mut widths: Vec<usize> =
        (0..columns.len()).map(|column| all().map(|line| line[column].width()).max().unwrap_or(0)).collect();
    if let Some(most) = most
        && !narrow(&mut widths, most)
    {
        return one_by_one(&heads, &lines, most, coloured);
    }
    let mut text = String::new();
    for (n, line) in all().enumerate() {
        let cells: Vec<Vec<String>> = line.iter().zip(&widths).map(|(cell, width)| wrap(cell, *width)).collect();
        for part in 0..cells.iter().map(Vec::len).max().unwrap_or(0) {
            let mut shown = String::new();
            for ((cell, width), head) in cells.iter().zip(&widths).zip(&heads) {
                let piece = cell.get(part).map_or("", String::as_str);
                let room = GAP + width.saturating_sub(piece.width());
                shown.push_str(&painted(piece, head, line_of(&cells, head, &heads), coloured && n > 0));
                shown.extend(std::iter::repeat_n(' ', room));
            }
            text.push_str(shown.trim_end());
            text.push('\n');
        }
    }
    text
}

/// The whole cell that a piece is of: its colour is that of the whole.
fn line_of(cells: &[Vec<String>], head: &str, heads: &[String]) -> String {
    heads.iter().position(|it| it == head).and_then(|at| cells.get(at)).map(|cell| cell.concat()).unwrap_or_default()
}

/// Takes from the widest until they fit; false where they cannot.
fn narrow(widths: &mut [usize], most: usize) -> bool {
    let gaps = GAP * widths.len().saturating_sub(1);
    loop {
        let sum = widths.iter().sum::<usize>() + gaps;
        if sum <= most {
            return true;
        }
        let Some(widest) = widths.iter_mut().max() else { return true };
        if *widest <= NARROWEST {
            return false;
        }
        *widest -= 1;
    }
}

/// Too many columns for the width: a block of lines for each row.
fn one_by_one(heads: &[String], lines: &[Vec<String>], most: usize, coloured: bool) -> String {
    let label = heads.iter().map(|head| head.width()).max().unwrap_or(0);
    let room = most.saturating_sub(label + GAP).max(NARROWEST);
    let mut text = String::new();
    for (n, line) in lines.iter().enumerate() {
        text.push_str(if n > 0 { "\n" } else { "" });
        for (head, cell) in heads.iter().zip(line).filter(|(_, cell)| !cell.is_empty()) {
            for (part, piece) in wrap(cell, room).iter().enumerate() {
                let head_shown = if part == 0 { head.as_str() } else { "" };
                let gap = " ".repeat(GAP + label - head_shown.width());
                text += &format!("{head_shown}{gap}{}\n", painted(piece, head, cell.clone(), coloured));
            }
        }
    }
    text
}

/// A text in pieces of at most `width`: broken behind a space, a comma or a slash if there is one, else anywhere.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut pieces = vec![];
    let mut rest = text;
    while rest.width() > width {
        let (mut used, mut cut, mut soft) = (0, 0, None);
        for (at, c) in rest.char_indices() {
            let wide = c.width().unwrap_or(0);
            if used + wide > width && cut > 0 {
                break;
            }
            used += wide;
            cut = at + c.len_utf8();
            if matches!(c, ' ' | ',' | '/' | '_' | '-') {
                soft = Some(cut);
            }
        }
        // A space may stand just behind what fits.
        let cut = if rest[cut..].starts_with(' ') { cut } else { soft.filter(|soft| *soft * 3 > cut).unwrap_or(cut) };
        pieces.push(rest[..cut].trim_end().to_owned());
        rest = rest[cut..].trim_start();
    }
    pieces.push(rest.to_owned());
    pieces
}

/// Lines of sentences within a width. A word that is longer, such as a token, stays whole, so that it can be copied.
pub fn fit(text: &str, most: Option<usize>) -> String {
    let Some(most) = most else { return text.to_owned() };
    let mut lines = vec![];
    for line in text.split('\n') {
        if line.width() <= most {
            lines.push(line.to_owned());
            continue;
        }
        let indent = line.len() - line.trim_start().len();
        let mut current = line[..indent].to_owned();
        let mut is_empty = true;
        for word in line[indent..].split(' ') {
            if !is_empty && current.width() + 1 + word.width() > most {
                lines.push(std::mem::replace(&mut current, " ".repeat(indent.min(most / 2) + 2)).trim_end().to_owned());
                is_empty = true;
            }
            if !is_empty {
                current.push(' ');
            }
            current.push_str(word);
            is_empty = false;
        }
        lines.push(current);
    }
    lines.join("\n")
}

fn painted(piece: &str, head: &str, whole: String, coloured: bool) -> String {
    let colour = if coloured && STANDINGS.contains(&head) { colour(&whole) } else { None };
    match colour {
        Some(colour) if !piece.is_empty() => format!("\x1b[{colour}m{piece}\x1b[0m"),
        Some(_) | None => piece.to_owned(),
    }
}

/// Green: well. Yellow: it waits, and may go on. Red: somebody has to look.
fn colour(standing: &str) -> Option<u8> {
    let first = standing.split([' ', ':']).next().unwrap_or_default();
    match first {
        "completed" | "open" | "alive" | "done" | "settled" | "applied" | "on" | "valid" | "active" => Some(32),
        "retryable" | "paused" | "throttled" | "awaiting_approval" | "planned" | "pending" | "stopped" | "received"
        | "paused_by_canary" | "paused_by_fault" | "expired" | "draining" => Some(33),
        "failed" | "needs_operator" | "closed" | "dead" | "invalid" | "refused" | "stuck" | "revoked" | "IN" => {
            Some(31)
        }
        _ => None,
    }
}

/// The same of whole lines of ours, with what others wrote among them.
pub fn shown(text: &str) -> String {
    text.split('\n')
        .map(|line| line.split('\t').map(in_one_line).collect::<Vec<_>>().join("\t"))
        .collect::<Vec<_>>()
        .join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    type Row = (&'static str, &'static str);
    const COLUMNS: [Column<Row>; 2] = [("NAME", |row| row.0.to_owned()), ("STATUS", |row| row.1.to_owned())];

    #[test]
    fn columns_are_as_wide_as_what_stands_in_them() {
        let rows = [("a", "付与"), ("longer", "x\u{1b}[1m")];
        assert_eq!(draw(&rows, &COLUMNS, None, false), "NAME    STATUS\na       付与\nlonger  x\\u{1b}[1m\n");
        assert_eq!(shown("a\tb\n\u{202e}fdp.csv"), "a\tb\n\\u{202e}fdp.csv");
        let rows = [("a", "\u{202e}"), ("b", "\u{2066}x")];
        assert_eq!(draw(&rows, &COLUMNS, None, false), "NAME  STATUS\na     \\u{202e}\nb     \\u{2066}x\n");
    }

    #[test]
    fn nothing_is_wider_than_the_terminal_and_nothing_is_left_out() {
        let rows = [
            ("ギフトの付与がまだ終わっていません", "needs_operator"),
            ("a-very-long-name/with/parts_and_more", "completed"),
        ];
        for most in 20..100 {
            let drawn = draw(&rows, &COLUMNS, Some(most), false);
            assert!(drawn.lines().all(|line| line.width() <= most), "{most}:\n{drawn}");
            let squeezed: String = drawn.split_whitespace().collect();
            for c in rows.iter().flat_map(|row| row.0.chars().chain(row.1.chars())) {
                assert!(squeezed.contains(c), "{most}: {c} is missing:\n{drawn}");
            }
        }
        let drawn = draw(&rows[1..], &COLUMNS, Some(17), false);
        assert!(drawn.starts_with("NAME    a-very-\n        long-"), "{drawn}");
    }

    #[test]
    fn a_standing_has_its_colour_and_its_width_is_not_counted() {
        let rows = [("a", "failed"), ("b", "completed")];
        let drawn = draw(&rows, &COLUMNS, Some(80), true);
        assert_eq!(drawn, "NAME  STATUS\na     \x1b[31mfailed\x1b[0m\nb     \x1b[32mcompleted\x1b[0m\n");
    }

    #[test]
    fn sentences_are_broken_between_words_and_keep_their_indent() {
        let text = "  why: it waits for a person to look\nshort\n  0123456789012345678901234567890";
        assert_eq!(
            fit(text, Some(16)),
            "  why: it waits\n    for a person\n    to look\nshort\n\n    0123456789012345678901234567890"
                .replace("\n\n    0", "\n  0")
        );
        assert_eq!(fit(text, None), text);
    }
}
