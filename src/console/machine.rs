//! The state machine of a job, drawn from the table at the top of its file: the same words that a test holds against the code.

use std::collections::{BTreeMap, BTreeSet};

use maud::{Markup, PreEscaped, html};
use noshi_jobs::Kind;

use super::words::Words;

const WIDE: usize = 144;
const TALL: usize = 32;
const STEP: (usize, usize) = (214, 56);

/// The table of a kind.
const fn table(kind: Kind) -> &'static str {
    match kind {
        Kind::BulkGrants => include_str!("../../jobs/bulk_grants.rs"),
        Kind::Email => include_str!("../../jobs/email.rs"),
        Kind::GiftIssuance => include_str!("../../jobs/gift_issuance.rs"),
        Kind::PointExchange => include_str!("../../jobs/point_exchange.rs"),
        Kind::PointExpiry => include_str!("../../jobs/point_expiry.rs"),
        Kind::PointGrant => include_str!("../../jobs/point_grant.rs"),
        Kind::PointReversal => include_str!("../../jobs/point_reversal.rs"),
        Kind::PointWithdrawal => include_str!("../../jobs/point_withdrawal.rs"),
        Kind::Probe => include_str!("../../jobs/probe.rs"),
        Kind::StoreCreation => include_str!("../../jobs/store_creation.rs"),
    }
}

#[derive(Debug, Default)]
pub struct Machine {
    /// In the order of the table: the first is where a job starts.
    pub states: Vec<String>,
    /// From where to where, and whether it goes there in doubt.
    ways: BTreeMap<(String, String), bool>,
    /// At a state, an act, and where it leads.
    acts: Vec<(String, String, String)>,
}

impl Machine {
    pub fn of(kind: Kind) -> Machine {
        let mut machine = Machine::default();
        let mut header: Vec<&str> = vec![];
        for line in table(kind).lines().map_while(|line| line.strip_prefix("//!")) {
            let Some(row) = line.trim().strip_prefix('|').and_then(|row| row.strip_suffix('|')) else {
                header.clear();
                continue;
            };
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            match (header.is_empty(), cells[0].starts_with('-')) {
                (true, _) => header = cells,
                (false, true) => {}
                (false, false) => machine.take(&header, &cells),
            }
        }
        machine
    }

    fn take(&mut self, header: &[&str], cells: &[&str]) {
        let at = cells[0].to_owned();
        match header {
            ["at", "effect", ..] => {
                let acts = cells.last().copied().unwrap_or_default();
                for (act, to) in acts.split(", ").filter_map(|act| act.split_once(" → ")) {
                    let to = to.split(' ').next().unwrap_or_default().to_owned();
                    let act = if act == "in doubt" {
                        self.acts.last().map_or("", |last| &last.1).to_owned()
                    } else {
                        act.to_owned()
                    };
                    self.acts.push((at.clone(), act, to));
                }
                self.states.push(at);
            }
            ["at", "answer", ..] => {
                for cell in cells.iter().skip(3).map(|cell| cell.trim_start_matches("no call: ")) {
                    let to = ["→ ", "done: ", "fail: "].iter().find_map(|lead| cell.strip_prefix(lead));
                    let Some(to) = to.and_then(|to| to.split([' ', ',']).next()) else { continue };
                    *self.ways.entry((at.clone(), to.to_owned())).or_default() |= cell.ends_with('?');
                }
            }
            _ => {}
        }
    }

    /// Where an act leads from this state, as the table has it.
    pub fn leads(&self, at: &str, act: &str) -> Vec<&str> {
        self.acts.iter().filter(|(from, of, _)| from == at && of == act).map(|(.., to)| to.as_str()).collect()
    }

    /// Columns by how far a state is from the start, rows in the order of the table.
    fn places(&self) -> BTreeMap<&str, (usize, usize)> {
        let mut depth: BTreeMap<&str, usize> = BTreeMap::new();
        let mut next: Vec<&str> = self.states.iter().map(String::as_str).take(1).collect();
        for column in 0..self.states.len() {
            next.retain(|state| self.states.iter().any(|of| of == state) && depth.insert(state, column).is_none());
            let flow = self.ways.keys().filter(|(from, _)| next.contains(&from.as_str())).map(|(_, to)| to.as_str());
            next = flow.filter(|to| !depth.contains_key(to)).collect::<BTreeSet<_>>().into_iter().collect();
        }
        let mut rows: BTreeMap<usize, usize> = BTreeMap::new();
        let mut places = BTreeMap::new();
        for state in &self.states {
            // What only an operator leads to stands beside where they lead from.
            let from =
                || self.acts.iter().filter(|(.., to)| to == state).filter_map(|(at, ..)| depth.get(at.as_str())).max();
            let column = depth.get(state.as_str()).copied().unwrap_or_else(|| from().map_or(0, |column| column + 1));
            let row = rows.entry(column).or_default();
            places.insert(state.as_str(), (column, *row));
            *row += 1;
        }
        places
    }

    /// The picture: `path` in the order in which it was gone, where the job stands, and the acts that are allowed there.
    pub fn draw(&self, words: &Words, path: &[String], at: &str, in_doubt: bool, may: &[&str]) -> Markup {
        let places = self.places();
        let columns = places.values().map(|(column, _)| column + 1).max().unwrap_or(1);
        let rows = places.values().map(|(_, row)| row + 1).max().unwrap_or(1);
        let size = (columns * STEP.0 + 12, rows * STEP.1 + 12);
        let gone: BTreeSet<(&str, &str)> = path.windows(2).map(|two| (two[0].as_str(), two[1].as_str())).collect();
        let dashed = self.acts.iter().filter(|(from, act, to)| from == at && from != to && may.contains(&act.as_str()));
        html! {
            div.machine {
                div.scroll tabindex="0" role="group" aria-label=(words.machine) {
                    svg viewBox=(format!("0 0 {} {}", size.0, size.1)) width=(size.0) height=(size.1) role="img" aria-label=(words.machine) {
                        (PreEscaped("<defs><marker id=\"tip\" viewBox=\"0 0 10 10\" refX=\"9\" refY=\"5\" markerWidth=\"7\" markerHeight=\"7\" orient=\"auto\"><path d=\"M0 0L10 5L0 10z\"/></marker></defs>"))
                        @for ((from, to), in_doubt) in self.ways.iter().filter(|((from, to), _)| from != to) {
                            @if let (Some(a), Some(b)) = (places.get(from.as_str()), places.get(to.as_str())) {
                                path.way.doubt[*in_doubt].gone[gone.contains(&(from.as_str(), to.as_str()))] d=(line(*a, *b)) {}
                            }
                        }
                        @for (from, act, to) in dashed {
                            @if let (Some(a), Some(b)) = (places.get(from.as_str()), places.get(to.as_str())) {
                                path.way.may d=(line(*a, *b)) { title { (act) " → " (to) } }
                            }
                        }
                        @for state in &self.states { (box_of(state, places[state.as_str()], path, at, in_doubt)) }
                    }
                }
                p.hint { (words.machine_key) }
            }
        }
    }
}

fn box_of(state: &str, place: (usize, usize), path: &[String], at: &str, in_doubt: bool) -> Markup {
    let (x, y) = corner(place);
    let turns = path.iter().enumerate().filter(|(_, of)| *of == state).map(|(turn, _)| (turn + 1).to_string());
    let turns: Vec<String> = turns.collect();
    // Of one that went in a circle the first and the last say enough.
    let numbers = match turns.as_slice() {
        [first, .., last] if turns.len() > 3 => format!("{first}…{last}"),
        few => few.join(" "),
    };
    html! {
        g.state.here[state == at].doubt[state == at && in_doubt].been[!numbers.is_empty()] {
            rect x=(x) y=(y) width=(WIDE) height=(TALL) rx="16" {}
            text x=(x + WIDE / 2) y=(y + 21) { (state) }
            @if !numbers.is_empty() { text.turn x=(x + 10) y=(y + 21) { (numbers) } }
        }
    }
}

fn corner((column, row): (usize, usize)) -> (usize, usize) {
    (column * STEP.0 + 12, row * STEP.1 + 6)
}

/// From the edge of one box to that of another: to the right straight on, else around.
fn line(a: (usize, usize), b: (usize, usize)) -> String {
    let ((ax, ay), (bx, by)) = (corner(a), corner(b));
    let (ay, by) = (ay + TALL / 2, by + TALL / 2);
    let between = STEP.0 - WIDE;
    match a.0.cmp(&b.0) {
        std::cmp::Ordering::Less => {
            let (from, to) = (ax + WIDE, bx);
            format!("M{from} {ay}C{} {ay} {} {by} {to} {by}", from + between / 2, to - between / 2)
        }
        std::cmp::Ordering::Equal => {
            let (x, out) = (ax + WIDE, ax + WIDE + between / 2);
            format!("M{x} {ay}C{out} {ay} {out} {by} {x} {by}")
        }
        std::cmp::Ordering::Greater => {
            let (x, to, end) = (ax + WIDE / 2, bx + WIDE / 2, by + TALL / 2);
            let low = ay.max(by) + TALL;
            format!("M{x} {}C{x} {low} {to} {low} {to} {end}", ay + TALL / 2)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::words::Language;

    #[test]
    fn each_kind_is_drawn_from_its_table() {
        for kind in Kind::ALL {
            let machine = Machine::of(kind);
            assert!(!machine.states.is_empty() && !machine.ways.is_empty(), "{}", kind.name());
            let drawn = machine.draw(Language::English.words(), &machine.states, &machine.states[0], true, &["cancel"]);
            let drawn = drawn.into_string();
            assert!(machine.states.iter().all(|state| drawn.contains(&format!(">{state}<"))), "{}", kind.name());
            assert!(drawn.len() < 40_000, "{}: {}", kind.name(), drawn.len());
        }
        let gift = Machine::of(Kind::GiftIssuance);
        assert_eq!(gift.leads("issuing", "inquire"), ["inquiring"]);
        assert_eq!(gift.leads("issuing", "cancel"), ["rejected", "cancelling"]);
        assert!(gift.ways[&("routing".to_owned(), "issuing".to_owned())]);
    }
}
