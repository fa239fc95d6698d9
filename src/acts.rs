//! What an operator may do to a job where it stands: the last column of the state tables, asked by name.

use noshi_jobs::{
    Kind,
    bulk_grants::BulkGrants,
    email::Email,
    gift_issuance::GiftIssuance,
    machine::{Act, Job},
    probe::Probe,
    store_creation::StoreCreation,
};
use serde_json::Value;

/// The acts that the state table allows; none where this version cannot read the job.
pub fn allowed(kind: &str, state: Option<&Value>, undo: Option<&Value>) -> Vec<Act> {
    match Kind::from_name(kind) {
        Some(Kind::BulkGrants) => of::<BulkGrants>(state, undo),
        Some(Kind::Email) => of::<Email>(state, undo),
        Some(Kind::GiftIssuance) => of::<GiftIssuance>(state, undo),
        Some(Kind::Probe) => of::<Probe>(state, undo),
        Some(Kind::StoreCreation) => of::<StoreCreation>(state, undo),
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
    }
}
