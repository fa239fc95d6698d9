//! What an operator may do to a job where it stands: the last column of the state tables, asked by name.

use noshi_jobs::{
    Kind,
    machine::{Act, Job},
    with_job,
};
use serde_json::Value;

/// The acts that the state table allows; none where this version cannot read the job.
pub fn allowed(kind: &str, state: Option<&Value>, undo: Option<&Value>) -> Vec<Act> {
    match Kind::from_name(kind) {
        Some(kind) => with_job!(kind, J => of::<J>(state, undo)),
        None => vec![],
    }
}

fn of<J: Job>(state: Option<&Value>, undo: Option<&Value>) -> Vec<Act> {
    let Some(state) = state.and_then(|state| serde_json::from_value::<J::State>(state.clone()).ok()) else {
        return vec![];
    };
    let may = |act: &Act| match undo {
        None => J::operator(&state, *act).is_some(),
        Some(undo) => serde_json::from_value::<J::Undo>(undo.clone())
            .is_ok_and(|undo| J::operator_unwinding(&undo, *act).is_some()),
    };
    Act::ALL.into_iter().filter(may).collect()
}

/// What an act does.
pub const fn meaning(act: Act) -> &'static str {
    match act {
        Act::Retry => "goes on from where it stands, under the same ids",
        Act::Inquire => "asks the partner what became of the call; buys nothing by itself",
        Act::Cancel => "ends it, taking back what the partner allows to be taken back",
        Act::AttestVoid => "takes your word, with evidence, that the effect did not and cannot happen",
        Act::Reissue => "starts a new trade under a new id",
        Act::Reject => "ends it as refused",
        Act::AttestDone => "takes your word, with evidence, that the effect did happen",
        Act::Rerun => "starts it again from the beginning, under new ids",
        Act::Adopt => "keeps what could not be taken back, as if the job had succeeded",
    }
}

/// Where an act has its place.
const fn place(act: Act) -> &'static str {
    match act {
        Act::Retry => "it is for a job that stopped before its end, and where sending the same again can do no harm",
        Act::Inquire => "it is for a job with a call that may have had its effect, at a partner that can be asked",
        Act::Cancel => "it is for an effect that has not begun, or that the partner can take back",
        Act::AttestVoid => "it is for a job whose call may have had its effect, and only with evidence",
        Act::Reissue | Act::Reject => {
            "it is for a trade that is proven void: a new one before that could be a second gift"
        }
        Act::AttestDone => "it is for a message of which nothing was heard, and only with evidence",
        Act::Rerun => "it is for a job that failed cleanly, with nothing left behind",
        Act::Adopt => "it is for a shop that the platform will not delete",
    }
}

/// Why this act is refused here, in a sentence; `None` where the state table allows it.
pub fn refusal(kind: &str, at: &str, state: Option<&Value>, undo: Option<&Value>, act: Act) -> Option<String> {
    let may = allowed(kind, state, undo);
    if may.contains(&act) {
        return None;
    }
    let instead = match may.as_slice() {
        [] => "nothing may be done to it here".to_owned(),
        may => format!("you may: {}", may.iter().map(|act| act.name()).collect::<Vec<_>>().join(", ")),
    };
    let way = if undo.is_some() { ", being taken back" } else { "" };
    Some(format!("{} is not allowed at `{at}`{way}: {}; {instead}", act.name(), place(act)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_state_tables_decide() {
        let names = |acts: Vec<Act>| acts.into_iter().map(Act::name).collect::<Vec<_>>();
        let attempt = json!({"run": 0, "key": "k"});
        let end = json!({"at": "refused", "run": 0, "why": "assign_spent"});
        let undo = json!({"undo": "delete_shop", "attempt": attempt, "shop": "s"});
        assert_eq!(names(allowed("store_creation", Some(&end), None)), ["rerun"]);
        assert_eq!(names(allowed("store_creation", Some(&end), Some(&undo))), ["retry", "attest_void", "adopt"]);
        assert_eq!(names(allowed("email", Some(&json!({"at": "accepted", "message": "m"})), None)), [""; 0]);
        assert_eq!(names(allowed("of_a_newer_version", Some(&end), None)), [""; 0]);
        assert_eq!(names(allowed("email", None, None)), [""; 0]);
        assert_eq!(refusal("store_creation", "refused", Some(&end), None, Act::Rerun), None);
        let said = refusal("store_creation", "refused", Some(&end), None, Act::Cancel).unwrap();
        assert!(
            said.starts_with("cancel is not allowed at `refused`: ") && said.ends_with("; you may: rerun"),
            "{said}"
        );
    }
}
