//! What a re-drive does with each job that it selects: the state tables decide, as they do for a single act.
//!
//! A job in doubt is inquired, or goes on from where it stands under the same ids; nothing that would send anew is ever chosen for it.

use noshi_jobs::machine::Act;

use crate::{
    basics::kinds::{self, Led, Place},
    db::{
        ActError, PgPool,
        operator::redrive::{self, Candidate, Choice, Filter, MOST},
    },
    operator::acts::{self, allowed},
};

/// The acts of re-drives: none starts a new trade, takes a person's word, or gives anything up.
pub const ACTS: [Act; 3] = [Act::Inquire, Act::Retry, Act::Rerun];

/// Selects, decides and freezes, in one snapshot; returns the number of the plan.
pub async fn plan(pool: &PgPool, filter: &Filter, act: Option<Act>) -> Result<i64, ActError> {
    let mut transaction = redrive::begin(pool).await?;
    let jobs = redrive::select(&mut transaction, filter).await?;
    if jobs.len() > MOST {
        return Err(ActError::refused(format!(
            "these are more than {MOST} jobs; narrow the filter, and plan in parts"
        )));
    }
    if let Some(missing) = missing(filter, &jobs) {
        return Err(ActError::refused(missing));
    }
    let decided: Vec<_> = jobs
        .into_iter()
        .map(|job| {
            let choice = choose(&job, act);
            (job, choice)
        })
        .collect();
    redrive::plan(transaction, filter, &decided).await
}

/// Names the ids of a file that are no jobs.
fn missing(filter: &Filter, jobs: &[Candidate]) -> Option<String> {
    let found: std::collections::HashSet<&str> = jobs.iter().map(|job| job.key.as_str()).collect();
    let missing: Vec<&str> = filter.ids.iter().flatten().map(String::as_str).filter(|id| !found.contains(id)).collect();
    let kind = filter.kind.as_deref().unwrap_or_default();
    let (first, more) = missing.split_at(missing.len().min(5));
    let more = if more.is_empty() { String::new() } else { format!(", nor with {} more", more.len()) };
    (!first.is_empty()).then(|| {
        format!(
            "there is no {kind} with the id {}{more}, or it was over long ago and moved out; nothing was planned",
            first.join(", ")
        )
    })
}

/// What to ask of this job: `wanted`, or what fits it best; or why nothing.
pub fn choose(job: &Candidate, wanted: Option<Act>) -> Choice {
    if let Some(why) = hindrance(job) {
        return Choice::Refuse(why);
    }
    let may = allowed(&job.stand());
    let fits = |act: Act| -> Option<(Act, Lead)> {
        let lead = may.contains(&act).then(|| leads(job, act)).flatten()?;
        // Without being told to, a re-drive retries only what goes on from where it stands.
        let harmless = match act {
            Act::Inquire => true,
            // Of a job in doubt the law of acts lets through only what resolves the doubt.
            Act::Retry => lead.stays || wanted.is_some() || job.in_doubt,
            Act::Rerun => !job.in_doubt && job.status == "failed",
            Act::Cancel | Act::AttestVoid | Act::Reissue | Act::Reject | Act::AttestDone | Act::Adopt => false,
            Act::Dismiss | Act::Acknowledge => false,
        };
        harmless.then_some((act, lead))
    };
    let order = match (wanted, job.in_doubt) {
        (Some(act), _) => vec![act],
        (None, true) => ACTS.to_vec(),
        (None, false) => vec![Act::Retry, Act::Inquire, Act::Rerun],
    };
    match order.into_iter().find_map(fits) {
        Some((act, lead)) => Choice::Ask { act, lane: lead.lane },
        None => Choice::Refuse(refusal(job, wanted, &may)),
    }
}

/// Why nothing can be asked of the job at all.
fn hindrance(job: &Candidate) -> Option<String> {
    match (&job.requested_act, job.paused_batch, job.status.as_str()) {
        (Some(asked), ..) => Some(format!("it was asked to {asked} already")),
        (None, Some(batch), _) => Some(format!("its batch {batch} is paused; resume the batch first")),
        (None, None, "needs_operator" | "failed") => None,
        (None, None, "completed") => Some("it is completed; what is done is never done again".to_owned()),
        (None, None, status) => Some(format!("it is {status}, neither parked nor failed")),
    }
}

fn refusal(job: &Candidate, wanted: Option<Act>, may: &[Act]) -> String {
    let what = wanted.map_or("a re-drive", Act::name);
    let at = &job.at;
    if job.in_doubt && wanted.is_some_and(|act| may.contains(&act)) {
        return format!(
            "{what} at `{at}` would send again, and it is in doubt whether the last call took effect: inquire first"
        );
    }
    let table = |act| acts::refusal(&job.stand(), act);
    if let Some(said) = wanted.and_then(table) {
        return said;
    }
    match may {
        [] => format!("nothing may be done to it at `{at}`"),
        may => {
            let names: Vec<&str> = may.iter().map(|act| act.name()).collect();
            format!("{what} has no place at `{at}`; a person may, job by job: {}", names.join(", "))
        }
    }
}

/// Where an act leads.
struct Lead {
    lane: Option<String>,
    /// To the very state in which the job stands.
    stays: bool,
}

fn leads(job: &Candidate, act: Act) -> Option<Lead> {
    let place = Place { args: &job.args, state: job.state.as_ref(), undo: job.undo.as_ref(), in_doubt: job.in_doubt };
    match kinds::get(&job.kind)?.leads(&place, act)? {
        Led::To { lane, stays } => Some(Lead { lane, stays }),
        Led::Nowhere | Led::AttestFirst => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn email(status: &str, state: Value, in_doubt: bool) -> Candidate {
        Candidate {
            id: 1,
            kind: "email".to_owned(),
            key: "k".to_owned(),
            step: 1,
            status: status.to_owned(),
            at: state["at"].as_str().unwrap_or_default().to_owned(),
            args: json!({"template": "gift_granted", "reference": "r", "recipient": "1/1", "params": {}}),
            state: Some(state),
            undo: None,
            in_doubt,
            called: in_doubt,
            acknowledged: false,
            requested_act: None,
            paused_batch: None,
        }
    }

    fn told(choice: Choice) -> String {
        match choice {
            Choice::Ask { act, .. } => act.name().to_owned(),
            Choice::Refuse(why) => why,
        }
    }

    #[test]
    fn what_is_in_doubt_is_never_sent_again() {
        let waiting = json!({"at": "waiting", "channel": {"name": "ses", "settle_seconds": 5}, "send_no": 1});
        let parked = |in_doubt| email("needs_operator", waiting.clone(), in_doubt);
        assert_eq!(told(choose(&parked(true), None)), "inquire");
        assert_eq!(told(choose(&parked(false), None)), "inquire");
        assert_eq!(told(choose(&parked(false), Some(Act::Retry))), "retry");
        let refused = told(choose(&parked(true), Some(Act::Retry)));
        assert!(refused.contains("would send again"), "{refused}");
        for act in Act::ALL.into_iter().filter(|act| !ACTS.contains(act)) {
            assert!(matches!(choose(&parked(true), Some(act)), Choice::Refuse(_)), "{}", act.name());
        }
    }

    #[test]
    fn only_what_rests_without_success_is_asked() {
        let rejected = json!({"at": "rejected", "why": "mail_rejected", "detail": null});
        assert_eq!(told(choose(&email("failed", rejected.clone(), false), None)), "rerun");
        let completed = email("completed", json!({"at": "accepted", "message": "m"}), false);
        assert!(told(choose(&completed, None)).contains("never done again"));
        assert!(matches!(choose(&email("available", rejected.clone(), false), None), Choice::Refuse(_)));
        let paused = Candidate { paused_batch: Some(3), ..email("failed", rejected.clone(), false) };
        assert!(told(choose(&paused, None)).contains("batch 3 is paused"));
        let newer = Candidate { kind: "of_a_newer_version".to_owned(), ..email("failed", rejected, false) };
        assert!(matches!(choose(&newer, None), Choice::Refuse(_)));
    }
}
