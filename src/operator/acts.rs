//! What an operator may do to a job where it stands: the last column of the state tables, asked by name, and what holds for every job.

use noshi_jobs::machine::Act;

use crate::{
    basics::kinds::{self, AnyKind, Led, Place},
    db::operator::stand::Stand,
};

/// The acts that are allowed: those of the state table, and of a row that nobody can read those that end it or put it out of sight.
pub fn allowed(stand: &Stand<'_>) -> Vec<Act> {
    let may = |act: &Act| may(stand, *act) == Answer::Yes;
    Act::ALL.into_iter().filter(may).collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Yes,
    No,
    AttestFirst,
}

fn may(stand: &Stand<'_>, act: Act) -> Answer {
    let yes = |is| if is { Answer::Yes } else { Answer::No };
    match act {
        Act::Dismiss => yes(is_dismissable(stand)),
        Act::Acknowledge => yes(stand.status == "needs_operator" && !stand.acknowledged),
        Act::Retry
        | Act::Inquire
        | Act::Cancel
        | Act::AttestVoid
        | Act::Reissue
        | Act::Reject
        | Act::AttestDone
        | Act::Rerun
        | Act::Adopt => kinds::get(stand.kind).map_or(Answer::No, |kind| of_the_table(kind, stand, act)),
    }
}

/// A row that nobody can read and that never began, or one of a probe: the database judges by the same words (`noshi.dismissable`).
fn is_dismissable(stand: &Stand<'_>) -> bool {
    let rests = match stand.status {
        "needs_operator" => true,
        // Nobody claims a kind that nobody knows.
        "available" | "scheduled" | "retryable" => kinds::get(stand.kind).is_none(),
        _ => false,
    };
    let is_probe = stand.kind == "probe";
    let owes_points = stand.args.get("paid_by").is_some() || stand.kind == "point_reversal";
    let began = stand.state.is_some() && kinds::get(stand.kind).is_some() && !is_probe;
    let called = stand.called && !is_probe;
    rests && !stand.in_doubt && !called && stand.undo.is_none() && !began && !owes_points && stand.kind != "bulk_grants"
}

fn of_the_table(kind: &dyn AnyKind, stand: &Stand<'_>, act: Act) -> Answer {
    // An operator ended it.
    if stand.status == "cancelled" {
        return Answer::No;
    }
    let place = Place { args: stand.args, state: stand.state, undo: stand.undo, in_doubt: stand.in_doubt };
    match kind.leads(&place, act) {
        Some(Led::To { .. }) => Answer::Yes,
        Some(Led::AttestFirst) => Answer::AttestFirst,
        Some(Led::Nowhere) | None => Answer::No,
    }
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
        Act::Dismiss => "ends a row that nobody can read; nothing was called for it, and nothing will be",
        Act::Acknowledge => "says that you have seen it: no alert counts it any more, and the job stays as it is",
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
        Act::Adopt => "it is for what was made or delivered, and is not taken back",
        Act::Dismiss => "it is for a row that nobody can read, that never began, and of which no call is in doubt",
        Act::Acknowledge => "it is for a job that is parked, and that nobody has acknowledged since it was parked",
    }
}

/// Why this act is refused here, in a sentence; `None` where it is allowed.
pub fn refusal(stand: &Stand<'_>, act: Act) -> Option<String> {
    // The database refuses it, and knows who ended it, and why.
    if stand.status == "cancelled" {
        return None;
    }
    let why = match may(stand, act) {
        Answer::Yes => return None,
        Answer::No => place(act).to_owned(),
        Answer::AttestFirst => "it would send again, and it is in doubt whether the last call took effect; \
            it is for a job of which that is known: inquire first, or attest with evidence"
            .to_owned(),
    };
    let may = allowed(stand);
    let instead = match may.as_slice() {
        [] => "nothing may be done to it here".to_owned(),
        may => format!("you may: {}", may.iter().map(|act| act.name()).collect::<Vec<_>>().join(", ")),
    };
    let way = if stand.undo.is_some() { ", being taken back" } else { "" };
    Some(format!("{} is not allowed at `{}`{way}: {why}; {instead}", act.name(), stand.at))
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
        let args = json!({"organization": "O", "public_id": "P", "name": "n", "request": "r"});
        let stand = Stand {
            kind: "store_creation",
            at: "refused",
            args: &args,
            state: Some(&end),
            undo: None,
            status: "failed",
            in_doubt: false,
            called: true,
            acknowledged: false,
        };
        assert_eq!(names(allowed(&stand)), ["rerun"]);
        let back = Stand { undo: Some(&undo), status: "needs_operator", ..stand };
        assert_eq!(names(allowed(&back)), ["retry", "attest_void", "adopt", "acknowledge"]);
        assert_eq!(refusal(&stand, Act::Rerun), None);
        let said = refusal(&stand, Act::Cancel).unwrap();
        assert!(
            said.starts_with("cancel is not allowed at `refused`: ") && said.ends_with("; you may: rerun"),
            "{said}"
        );
        // It never began: it stands where it starts.
        let new = Stand { at: "new", state: None, status: "available", called: false, ..stand };
        assert_eq!(names(allowed(&new)), ["retry", "cancel"]);
        let unread = json!({"organization": "O"});
        let parked = Stand { args: &unread, status: "needs_operator", ..new };
        assert_eq!(names(allowed(&parked)), ["dismiss", "acknowledge"]);
        assert_eq!(names(allowed(&Stand { in_doubt: true, ..parked })), ["acknowledge"]);
        let unknown = Stand { kind: "gift_isuance", ..new };
        assert_eq!(names(allowed(&unknown)), ["dismiss"]);
        assert_eq!(names(allowed(&Stand { kind: "gift_isuance", ..stand })), [""; 0]);
        assert_eq!(names(allowed(&Stand { status: "cancelled", ..stand })), [""; 0]);
    }
}
