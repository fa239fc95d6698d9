//! What the jobs of points have in common: one operation in our own database decides each, in the transaction of the transition that follows. Its
//! end is told again as often as it is asked, and nothing is taken back.

use std::time::Duration;

use crate::Problem;

pub const LONGEST: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// What the ledger made of an operation.
#[derive(Debug, Clone, PartialEq)]
pub enum Booked {
    /// In the journal, under this number.
    Entry(i64),
    /// Nothing was booked, and why: the user has withdrawn, has too few points, or the benefit was exercised before.
    Refused(Problem, String),
}

/// Points that one request may move.
pub(crate) fn points_fit(points: i64) -> Result<(), String> {
    match points {
        1..=1_000_000_000 => Ok(()),
        _ => Err("`points` must be 1 to 1,000,000,000".to_owned()),
    }
}

/// The part of a `Job` that is the same in all of them: its kind, its states, and the place whose operation decides it.
macro_rules! job_of_points {
    ($kind:ident, $states:expr, $place:pat => $operation:literal) => {
        $crate::points::job_of_points!($kind, $states, $place => $operation, 100);
    };
    ($kind:ident, $states:expr, $place:pat => $operation:literal, $steps:literal) => {
        const KIND: $crate::KindName = $crate::Kind::$kind.as_name();
        const LIMITS: $crate::machine::Limits = $crate::machine::Limits { steps: $steps, age: $crate::points::LONGEST };
        const STATES: &'static [&'static str] = &$states;

        type Args = Args;
        type State = State;
        type World = dyn World;

        $crate::machine::leaves_nothing_behind!();

        fn terms(_: &Args, state: &State) -> $crate::machine::Terms<State> {
            use $crate::machine::{Effect, Terms};
            Terms::local(if matches!(state, $place) { Effect::Local($operation) } else { Effect::Pure })
        }
    };
}
pub(crate) use job_of_points;
