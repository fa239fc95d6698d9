//! Tables of jobs, drawn from what their code does.

use std::{
    fs,
    future::Future,
    path::Path,
    pin::pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use crate::machine::{Act, Doubt, Effect, InDoubt, Job, Lead, Past, Step, This, Transition, Unwind, lead};

/// One line of a table: the same answer under each column's circumstances.
pub struct Row {
    pub at: String,
    pub answer: String,
    pub when: &'static str,
    pub cells: Vec<String>,
}

/// Runs a step whose world answers at once.
pub fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("a step awaited something that is not its world"),
    }
}

pub fn this<A>(args: A) -> This<A> {
    let moment = Duration::from_secs(1);
    This { args, age: moment, in_state: moment, since_call: Some(moment), retries: 0, in_doubt: false }
}

/// The stored name of a state: its serde tag.
pub fn at<S: serde::Serialize>(state: &S) -> String {
    let value = serde_json::to_value(state).unwrap();
    value.get("at").or(value.get("undo")).unwrap().as_str().unwrap().to_owned()
}

pub fn cell<J: Job>(step: &Step<J>) -> String {
    let mut text = match &step.transition {
        Transition::Advance(state) => format!("→ {}", at(state)),
        Transition::Retry => "retry".to_owned(),
        Transition::Snooze(_) => "snooze".to_owned(),
        Transition::Done(state) => format!("done: {}", at(state)),
        Transition::Fail(state, why) => format!("fail: {} ({})", at(state), why.code()),
        Transition::NeedsOperator(why) => format!("ask ({})", why.code()),
    };
    text += match step.doubt {
        Doubt::AsBefore => "",
        Doubt::Raised => " ?",
        Doubt::Settled => " !",
    };
    if let Some(closing) = step.closing {
        text += &format!(", {}", closing.words());
    }
    if !step.facts.is_empty() {
        text += ", fact";
    }
    if !step.follow_ups.is_empty() {
        text += ", follow-up";
    }
    text
}

pub fn unwound<U: serde::Serialize>(unwind: &Unwind<U>) -> String {
    match unwind {
        Unwind::Advance(undo) => format!("→ {}", at(undo)),
        Unwind::Retry => "retry without end".to_owned(),
        Unwind::RetryAndPage(why) => format!("retry without end, page ({})", why.code()),
        Unwind::Snooze(_) => "snooze".to_owned(),
        Unwind::Throttled(_) => "snooze, lane throttled".to_owned(),
        Unwind::Undone => "undone: failed (compensated)".to_owned(),
        Unwind::NeedsOperator(why) => format!("ask ({})", why.code()),
    }
}

/// Rows under changed circumstances, and answers with an addition, are drawn only where they differ from the plain ones.
pub fn table(columns: &[&str], rows: &[Row]) -> String {
    let mut drawn: Vec<&Row> = vec![];
    let mut plain: Option<&Row> = None;
    for row in rows {
        if row.when.is_empty() {
            plain = Some(row);
        } else if plain.is_some_and(|p| p.at == row.at && p.answer == row.answer && p.cells == row.cells) {
            continue;
        }
        let without = row.answer.rsplit_once(", ").map_or("", |(answer, _)| answer);
        let is_like = |other: &Row| other.at == row.at && other.answer == without && other.when == row.when;
        if !rows.iter().any(|other| is_like(other) && other.cells == row.cells) {
            drawn.push(row);
        }
    }
    // What holds for every column is said once, and together with what leads there, too.
    let (same, apart): (Vec<&Row>, Vec<&Row>) =
        drawn.into_iter().partition(|row| row.cells.windows(2).all(|two| two[0] == two[1]));
    match columns {
        [column] => lines(&[column], &same),
        _ => lines(&["leads to"], &same) + "\n" + &lines(columns, &apart),
    }
}

pub fn lines(columns: &[&str], rows: &[&Row]) -> String {
    let mut out = format!("| at | answer | when | {} |\n|{}\n", columns.join(" | "), "---|".repeat(columns.len() + 3));
    let mut groups: Vec<(&Row, Vec<&str>)> = vec![];
    for row in rows {
        let like = |first: &Row| first.at == row.at && first.when == row.when && first.cells == row.cells;
        match groups.iter_mut().find(|(first, _)| like(first)) {
            Some((_, answers)) => answers.push(&row.answer),
            None => groups.push((row, vec![&row.answer])),
        }
    }
    for (row, answers) in groups {
        let cells = row.cells[..columns.len()].join(" | ");
        out += &format!("| {} | {} | {} | {cells} |\n", row.at, answers.join(" · "), row.when);
    }
    out
}

/// What each state does, where its doubt goes, and what an operator may do there.
pub fn terms_table<J: Job>(states: &[(J::State, J::Args)]) -> String {
    assert_no_act_calls_blindly::<J>(states);
    let mut out =
        "| at | effect | lane | on crash | compensation | operator may |\n|---|---|---|---|---|---|\n".to_owned();
    for (state, args) in states {
        let terms = J::terms(args, state);
        let lane = match &terms.lane {
            None => "–".to_owned(),
            Some(lane) if lane.reserved => format!("{} (reserved share)", lane.name),
            Some(lane) => lane.name.clone(),
        };
        let death = match &terms.effect {
            Effect::Pure | Effect::Read(_) | Effect::Local(_) => "repeat".to_owned(),
            Effect::Write(_, InDoubt::Repeat) => "repeat, same id".to_owned(),
            Effect::Write(_, InDoubt::GoTo(state)) => format!("→ {}", at(state)),
            Effect::Write(_, InDoubt::AskOperator(why)) => format!("ask ({})", why.code()),
        };
        let undo = J::leaves_behind(state).map_or("–".to_owned(), |undo| at(&undo));
        let acts: Vec<String> = Act::ALL.into_iter().filter_map(|act| acted::<J>(args, state, act)).collect();
        let acts = if acts.is_empty() { "–".to_owned() } else { acts.join(", ") };
        out += &format!("| {} | {} | {lane} | {death} | {undo} | {acts} |\n", at(state), terms.effect.name());
    }
    out
}

/// Where an act leads; said apart where that depends on whether a call is in doubt.
pub fn acted<J: Job>(args: &J::Args, state: &J::State, act: Act) -> Option<String> {
    let to = |past| match lead::<J>(args, state, act, past) {
        Lead::To(next) => Some(at(&next)),
        Lead::Nowhere | Lead::AttestFirst => None,
    };
    let name = act.name();
    match (to(Past::Clear), to(Past::InDoubt)) {
        (None, None) => None,
        (Some(clear), Some(doubt)) if clear == doubt => Some(format!("{name} → {clear}")),
        (Some(clear), Some(doubt)) => Some(format!("{name} → {clear}, in doubt → {doubt}")),
        (Some(clear), None) => Some(format!("{name} → {clear} (not in doubt)")),
        (None, Some(doubt)) => Some(format!("{name} → {doubt} (in doubt)")),
    }
}

/// Money: while it is not known what became of a call, no act of one person leads to another one that the far side would not know for the
/// same: only a word that a second person confirms does. Asked for every state that a job can be in, whatever its own table says.
pub fn assert_no_act_calls_blindly<J: Job>(states: &[(J::State, J::Args)]) {
    for (state, args) in states {
        for act in Act::ALL.into_iter().filter(|act| !act.takes_a_word() || *act != Act::AttestVoid) {
            let Lead::To(next) = lead::<J>(args, state, act, Past::InDoubt) else { continue };
            let blind = match J::terms(args, &next).effect {
                Effect::Write(_, InDoubt::GoTo(_) | InDoubt::AskOperator(_)) => true,
                Effect::Write(_, InDoubt::Repeat) | Effect::Pure | Effect::Read(_) | Effect::Local(_) => false,
            };
            assert!(!blind, "{} at {}: {} calls again, in doubt", J::KIND.name(), at(state), act.name());
            let starts_anew = [Act::Retry, Act::Reissue, Act::Rerun].contains(&act)
                && next != *state
                && !matches!(J::terms(args, state).effect, Effect::Write(_, InDoubt::GoTo(ref inquiry)) if *inquiry == next);
            assert!(!starts_anew, "{} at {}: {} starts anew, in doubt", J::KIND.name(), at(state), act.name());
        }
    }
}

/// The file opens with exactly these tables.
pub fn assert_drawn_in(path: &Path, tables: &[String]) {
    let source = fs::read_to_string(path).unwrap();
    let header: String = source
        .lines()
        .take_while(|line| line.starts_with("//!"))
        .map(|line| line.trim_start_matches("//!").trim().to_owned() + "\n")
        .collect();
    let wanted = tables.join("\n");
    if !header.contains(&wanted) {
        let paste: String = wanted.lines().map(|line| format!("//! {line}").trim_end().to_owned() + "\n").collect();
        if std::env::var_os("NOSHI_REDRAW").is_some() {
            let drawn = redraw(&source, &paste);
            fs::write(path, drawn).unwrap();
            return;
        }
        panic!(
            "the table at the top of {} is not what the code does; paste this (or run with NOSHI_REDRAW=1):\n{paste}",
            path.display()
        );
    }
}

/// Replaces the old table, or the line `TABLE`, in the file's header.
fn redraw(source: &str, paste: &str) -> String {
    let is_table = |line: &str| line.starts_with("//! |") || line == "//! TABLE";
    let lines: Vec<&str> = source.lines().collect();
    let first = lines.iter().position(|line| is_table(line)).expect("no line `//! TABLE` to replace");
    let last = lines.iter().rposition(|line| is_table(line)).unwrap();
    let (before, after) = (lines[..first].join("\n"), lines[last + 1..].join("\n"));
    format!("{before}\n{paste}{after}\n")
}
