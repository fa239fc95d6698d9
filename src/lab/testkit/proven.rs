//! What a job of one's own must prove before its tests begin.

use std::{
    collections::BTreeSet,
    path::Path,
    sync::{Mutex, PoisonError},
};

use noshi_jobs::{
    KindName, Problem,
    machine::{Effect, InDoubt, Job, Step, This, Unwind},
};

use super::{
    drawn::{Row, assert_drawn_in, at, cell, now, table, terms_table, this, unwound},
    reads::assert_reads,
};
use crate::app::App;

type State<P> = <<P as Proven>::Job as Job>::State;
type Undo<P> = <<P as Proven>::Job as Job>::Undo;
type Args<P> = <<P as Proven>::Job as Job>::Args;

/// All that a test of a job needs. Each of these is asked for by the compiler, so that none can be forgotten.
pub trait Proven {
    type Job: Job;
    /// The file that opens with the job's tables, such as `concat!(env!("CARGO_MANIFEST_DIR"), "/src/job.rs")`. What was released of the kind
    /// is kept in `released/KIND.jsonl` beside it.
    const FILE: &'static str;

    /// Where the job can stand: each state once at least.
    fn places() -> Vec<State<Self>>;
    /// What it can have to take back: each once.
    fn undos() -> Vec<Undo<Self>>;
    /// Each state, and what is taken back, under each answer that it can meet.
    fn walk(walk: &mut Walk<Self::Job>);
    /// What the n-th job of a crash scene is asked for: no two are the same.
    fn scene(n: usize) -> Args<Self>;
}

/// The rows of a job's table.
pub struct Walk<J: Job> {
    rows: Vec<Row>,
    args: J::Args,
}

impl<J: Job> Walk<J> {
    /// The state under an answer, which `world` gives at once.
    pub fn step(&mut self, state: &J::State, answer: &str, world: &J::World) {
        self.under(state, answer, "", world, |this| this);
    }

    /// The same in other circumstances than usual, such as a call of long ago.
    pub fn under(
        &mut self,
        state: &J::State,
        answer: &str,
        when: &'static str,
        world: &J::World,
        circumstances: impl FnOnce(This<J::Args>) -> This<J::Args>,
    ) {
        let this = circumstances(this(self.args.clone()));
        let step: Step<J> = now(J::step(&this, state.clone(), world));
        self.row(at(state), answer, when, cell(&step));
    }

    /// What is taken back, under an answer.
    pub fn unwind(&mut self, undo: &J::Undo, answer: &str, world: &J::World) {
        let unwind: Unwind<J::Undo> = now(J::unwind(&this(self.args.clone()), undo.clone(), world));
        self.row(format!("undo: {}", at(undo)), answer, "", unwound(&unwind));
    }

    fn row(&mut self, at: String, answer: &str, when: &'static str, cell: String) {
        self.rows.push(Row { at, answer: answer.to_owned(), when, cells: vec![cell] });
    }
}

/// Tests of one process draw one after another.
static DRAWING: Mutex<()> = Mutex::new(());

/// The proofs of a program's jobs. A kit does not start before each kind has given its own.
#[must_use]
pub struct Proofs {
    kinds: Vec<KindName>,
    proven: Vec<KindName>,
}

impl Proofs {
    pub fn of(app: &App) -> Proofs {
        Proofs { kinds: app.kinds(), proven: vec![] }
    }

    /// Walks the job: every state and every compensation has a row, the file opens with the tables, no act of one person calls blindly while
    /// it is in doubt what became of the last call, what was released reads, and every code that a step names is declared.
    ///
    /// # Panics
    /// Where one of these does not hold.
    pub fn job<P: Proven>(mut self) -> Proofs {
        let kind = <P::Job as Job>::KIND;
        let mut walk = Walk { rows: vec![], args: P::scene(0) };
        P::walk(&mut walk);
        let place = |row: &Row| P::Job::STATES.iter().position(|state| *state == row.at).unwrap_or(usize::MAX);
        walk.rows.sort_by_key(place);
        let walked: BTreeSet<&str> = walk.rows.iter().map(|row| row.at.as_str()).collect();
        let undos: Vec<String> = P::Job::UNDOS.iter().map(|undo| format!("undo: {undo}")).collect();
        for place in P::Job::STATES.iter().copied().chain(undos.iter().map(String::as_str)) {
            assert!(walked.contains(place), "the walk of {kind} does not come by `{place}`");
        }
        walk.rows.iter().flat_map(|row| &row.cells).for_each(|cell| assert_declared::<P::Job>(cell));
        let places: Vec<_> = P::places().into_iter().map(|state| (state, P::scene(0))).collect();
        assert_settled::<P::Job>(&places, &walk.rows);
        let stands: BTreeSet<String> = places.iter().map(|(state, _)| at(state)).collect();
        assert!(P::Job::STATES.iter().all(|state| stands.contains(*state)), "a state of {kind} has no place");
        let _turn = DRAWING.lock().unwrap_or_else(PoisonError::into_inner);
        let file = Path::new(P::FILE);
        assert_drawn_in(file, &[terms_table::<P::Job>(&places), table(&["leads to"], &walk.rows)]);
        let released = file.with_file_name("released").join(format!("{kind}.jsonl"));
        assert_reads::<P::Job>(&released, &places, &P::undos());
        let id = |n| P::Job::id(&P::scene(n));
        assert_ne!(id(1), id(2), "each job of the crash scene of {kind} needs its own id");
        self.proven.push(kind);
        self
    }

    /// # Panics
    /// Where a kind of the program gave no proof.
    pub(super) fn complete(&self) {
        let missing: Vec<_> = self.kinds.iter().filter(|kind| !self.proven.contains(kind)).collect();
        assert!(missing.is_empty(), "these kinds have no walk, no tables and no crash scene: {missing:?}");
    }
}

/// A job does not end while it is in doubt what became of its call: a person would be asked at the first one that does. So where it can stand in
/// doubt, each end says that it is one: `Step::for_sure`.
fn assert_settled<J: Job>(places: &[(J::State, J::Args)], rows: &[Row]) {
    let asked = |(state, args): &(J::State, J::Args)| match J::terms(args, state).effect {
        Effect::Write(_, InDoubt::GoTo(next)) => Some(at(&next)),
        Effect::Write(_, InDoubt::Repeat) => Some(at(state)),
        Effect::Write(_, InDoubt::AskOperator(_)) | Effect::Read(_) | Effect::Local(_) | Effect::Pure => None,
    };
    let mut in_doubt: BTreeSet<String> = places.iter().filter_map(asked).collect();
    let leads =
        |row: &Row| row.cells[0].strip_prefix("→ ").and_then(|rest| rest.split([' ', ',']).next()).map(str::to_owned);
    loop {
        let open =
            |row: &&Row| row.cells[0].contains(" ?") || in_doubt.contains(&row.at) && !row.cells[0].contains(" !");
        let more: Vec<String> =
            rows.iter().filter(open).filter_map(leads).filter(|next| !in_doubt.contains(next)).collect();
        if more.is_empty() {
            break;
        }
        in_doubt.extend(more);
    }
    for row in rows.iter().filter(|row| in_doubt.contains(&row.at)) {
        let ends = row.cells[0].starts_with("done: ") || row.cells[0].starts_with("fail: ");
        assert!(
            !ends || row.cells[0].contains(" !"),
            "{} can end at `{}` ({}) while it is in doubt what became of its call: say `.for_sure()` where that answer settles it",
            J::KIND,
            row.at,
            row.answer
        );
    }
}

/// A code that no kind declares has no page, and no series in the metrics.
fn assert_declared<J: Job>(cell: &str) {
    let Some(code) = cell.split_once('(').and_then(|(_, rest)| rest.split(')').next()) else { return };
    let declared = J::PROBLEMS.iter().chain(Problem::ALL).any(|problem| problem.code() == code);
    assert!(declared || code == "compensated", "{} names the problem {code}, which is not among its PROBLEMS", J::KIND);
}

#[cfg(test)]
mod tests {
    use noshi_jobs::probe::Probe;

    use super::*;

    fn settled(rows: &[(&str, &str)]) {
        let row = |(at, cell): &(&str, &str)| Row {
            at: (*at).to_owned(),
            answer: "any".to_owned(),
            when: "",
            cells: vec![(*cell).to_owned()],
        };
        assert_settled::<Probe>(&[], &rows.iter().map(row).collect::<Vec<_>>());
    }

    #[test]
    fn what_is_settled_on_the_way_may_end() {
        settled(&[("calling", "→ asking ?"), ("asking", "→ booking !"), ("booking", "done: booked, fact")]);
        settled(&[("calling", "→ asking ?"), ("asking", "done: booked !, fact"), ("asking", "retry")]);
        settled(&[("calling", "done: booked")]);
    }

    #[test]
    #[should_panic(expected = "can end at `booking`")]
    fn doubt_is_not_carried_to_an_end() {
        settled(&[("calling", "→ asking ?"), ("asking", "→ booking"), ("booking", "done: booked, fact")]);
    }
}
