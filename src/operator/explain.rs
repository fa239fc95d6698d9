//! Why is it not moving? One sentence about a job, and what an operator may do about it.

use noshi_jobs::machine::Act;
use serde::Serialize;

use crate::{
    basics::{instants, kinds},
    db::{
        operator::jobs::{Granted, JobRow},
        queue::retention::Over,
    },
    operator::acts,
};

#[derive(Debug, Clone, Serialize)]
pub struct Explained {
    pub why: String,
    /// The acts that the state table allows, with what each does.
    pub may: Vec<(&'static str, &'static str)>,
    /// The runbook's page.
    pub runbook: Option<String>,
}

pub fn explain(job: &JobRow) -> Explained {
    let may = match job.requested_act {
        Some(_) => vec![],
        None => acts::allowed(&job.stand()),
    };
    Explained {
        why: format!("{}.{}", why(job), doubt(job)),
        may: may.into_iter().map(|act| (act.name(), acts::meaning(act))).collect(),
        runbook: job.code.as_deref().map(page),
    }
}

/// Of a grant that is no job yet.
pub fn explain_grant(granted: &Granted) -> String {
    let Granted { grant, batch, line, status, issues } = granted;
    let then = match status.as_str() {
        "received" => "the file is still being submitted",
        "awaiting_approval" => "it waits for the approval of a second person (`noshi batch approve`)",
        "approved" | "validated" => "it waits for its release (`noshi batch release`)",
        "invalid" | "cancelled" | "refused" => "nothing was granted",
        "paused" => "the batch is paused (`noshi batch resume`)",
        _ if !issues => "the grant stands, and its user has not asked for the gift yet",
        _ => "the batch is being worked on",
    };
    format!("Grant {grant} is line {line} of batch {batch}, which is {status}: {then}.")
}

fn why(job: &JobRow) -> String {
    if let Some(requested_act) = &job.requested_act {
        return match job.status.as_str() {
            "running" => {
                format!("It was asked to {requested_act}, which its worker obeys when the step in flight has ended")
            }
            _ => format!("It was asked to {requested_act}, and the next worker sees to it{}", nobody(job)),
        };
    }
    match job.status.as_str() {
        "completed" | "failed" | "cancelled" => over(job),
        "needs_operator" => {
            let code = job.code.as_deref().unwrap_or("no code");
            let seen = if job.acknowledged { "; acknowledged, so no alert counts it" } else { "" };
            format!("It is parked and waits for a person ({code}{}{seen})", detail(job))
        }
        "running" => format!(
            "It is leased by worker {} ({}), whose heartbeat was heard {} ago",
            job.worker.unwrap_or_default(),
            job.worker_name.as_deref().unwrap_or("unknown"),
            seconds(job.worker_silent.unwrap_or_default())
        ),
        "scheduled" if job.due_in >= 1e9 || job.batch_paused => {
            // A batch's own job names it in what it was asked for.
            let batch = job.batch.or_else(|| job.args["batch"].as_i64()).unwrap_or_default();
            format!("Its batch {batch} is paused; `noshi batch resume {batch}` lets it go on")
        }
        "scheduled" if job.kind == "email" && job.last_answer.as_deref() == Some("not_ready") => format!(
            "It waits for a mail service: the settings of the worker that took it have no [email]; it looks again in {}{}",
            due(job),
            nobody(job)
        ),
        "scheduled" if job.last_answer.as_deref() == Some("not_opened") => {
            let what = if job.kind == "email" { "recipient" } else { "address or phone" };
            format!(
                "Its {what} does not open: the worker that took it lacks the key, or it was sealed for another place; it looks again in {}{}, \
                 and needs an operator after ten minutes",
                due(job),
                nobody(job)
            )
        }
        "retryable" => {
            let said = job.last_answer.as_deref().map(|said| format!(" ({said})")).unwrap_or_default();
            format!("Try {} did not succeed{said}; the next is due in {}{}", job.retries, due(job), nobody(job))
        }
        "scheduled" => format!("It waits, and goes on in {}{}", due(job), nobody(job)),
        _ => waiting(job),
    }
}

fn over(job: &JobRow) -> String {
    let outcome = job.outcome.as_deref().unwrap_or(&job.at);
    match &job.code {
        Some(code) if job.status == "failed" => {
            format!("It is over: failed cleanly, {outcome} ({code}{})", detail(job))
        }
        _ => format!("It is over: {}, {outcome}", job.status),
    }
}

/// Where the page of a problem is.
fn page(code: &str) -> String {
    match kinds::page(code) {
        Some(_) => format!("`noshi kind page {code}`"),
        None => format!("ops/runbook/{code}.md"),
    }
}

/// Available, and not claimed.
fn waiting(job: &JobRow) -> String {
    let lane = &job.lane;
    if job.lane.is_empty() {
        return format!("It can be claimed at once{}", nobody(job));
    }
    if !job.lane_known {
        return format!("It waits in lane {lane}, which no worker with this partner has opened yet");
    }
    if job.lane_paused {
        let by = job.lane_paused_by.as_deref().map(|who| format!(" by {who}")).unwrap_or_default();
        return format!("Its lane {lane} was paused{by}; `noshi lane resume {lane}` opens it");
    }
    match (job.lane_closed_code.as_deref(), job.lane_closed_for) {
        (Some("funds"), _) => format!(
            "Its lane {lane} was closed by an answer of the provider: out of funds; top up, then `noshi lane resume {lane}`"
        ),
        (Some("sender"), _) => format!(
            "Its lane {lane} was closed by an answer of the mail service: it does not let the account send in our sender's name; have it verified, \
             then `noshi lane resume {lane}`"
        ),
        (Some(code), _) if code.starts_with("tls_") => format!(
            "Its lane {lane} was closed because there is no private connection to the partner ({code}); nothing was sent; fix that, \
             then `noshi lane resume {lane}`"
        ),
        (Some(code), _) => format!(
            "Its lane {lane} was closed by an answer of the provider: {code}; fix that, then `noshi lane resume {lane}`"
        ),
        (None, Some(time)) => {
            format!("Its lane {lane} is closed for {} more: the provider asked us to slow down", seconds(time))
        }
        (None, None) => {
            format!("It has been waiting for a token of lane {lane} for {}{}", seconds(-job.due_in), nobody(job))
        }
    }
}

fn nobody(job: &JobRow) -> &'static str {
    if job.workers == 0 { "; but NO WORKER is alive" } else { "" }
}

fn due(job: &JobRow) -> String {
    seconds(job.due_in.max(0.0))
}

fn detail(job: &JobRow) -> String {
    job.detail.as_ref().map(|detail| format!(": {detail}")).unwrap_or_default()
}

fn doubt(job: &JobRow) -> String {
    if !job.in_doubt {
        return String::new();
    }
    // Of a parked job the last answer counts no more.
    let asked =
        job.state.as_ref().filter(|_| job.status != "needs_operator").and_then(|state| state["not_found"].as_u64());
    let so_far = asked.map(|n| format!("; so far {n} of 2 inquiries found nothing")).unwrap_or_default();
    format!(" IN DOUBT: a call was made, and whether it took effect is not known{so_far}.")
}

/// As people say it.
pub fn seconds(time: f64) -> String {
    let whole = time.max(0.0).round() as u64;
    match whole {
        0..=119 => format!("{whole} s"),
        120..=7_199 => format!("{} min", whole / 60),
        7_200..=172_799 => format!("{} h", whole / 3_600),
        _ => format!("{} days", whole / 86_400),
    }
}

/// Why an act is refused where the job stands, and what is allowed instead; `None` where it is allowed.
pub fn refusal(job: &JobRow, act: Act) -> Option<String> {
    acts::refusal(&job.stand(), act)
}

/// Of a job that was pruned, in a sentence.
pub fn was_done(over: &Over) -> String {
    let words: Vec<&str> = [&over.outcome, &over.code].into_iter().filter_map(Option::as_deref).collect();
    format!(
        "job {} ({} {}) was done at {}: {} at {} ({}); it was pruned at {}, and nothing can be done with it any more; `noshi job show {}` has what is kept of it",
        over.id,
        over.kind,
        over.key,
        instants::show(over.finished_at),
        over.status,
        over.at,
        words.join(", "),
        instants::show(over.pruned_at),
        over.id
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn one_sentence_says_why_it_does_not_move() {
        let job = |status: &str| JobRow {
            status: status.to_owned(),
            lane: "gift/x".to_owned(),
            lane_known: true,
            workers: 1,
            ..JobRow::default()
        };
        let why = |job: JobRow| explain(&job).why;
        for (job, says) in [
            (
                JobRow { lane_paused: true, lane_paused_by: Some("sato".to_owned()), ..job("available") },
                "paused by sato",
            ),
            (JobRow { lane_closed_for: Some(61.0), ..job("available") }, "closed for 61 s more"),
            (JobRow { lane_closed_code: Some("funds".to_owned()), ..job("available") }, "top up"),
            (JobRow { due_in: -300.0, ..job("available") }, "a token of lane gift/x for 5 min"),
            (JobRow { workers: 0, ..job("available") }, "NO WORKER"),
            (JobRow { retries: 2, due_in: 8.0, ..job("retryable") }, "Try 2 did not succeed; the next is due in 8 s"),
            (
                JobRow { retries: 1, last_answer: Some("unknown: no answer".to_owned()), ..job("retryable") },
                "Try 1 did not succeed (unknown: no answer); the next",
            ),
            (JobRow { due_in: 1e9, batch: Some(3), ..job("scheduled") }, "batch 3 is paused"),
            (
                JobRow { due_in: 8.0, batch_paused: true, args: json!({"batch": 4}), ..job("scheduled") },
                "`noshi batch resume 4`",
            ),
            (
                JobRow {
                    due_in: 8.0,
                    kind: "email".to_owned(),
                    last_answer: Some("not_ready".to_owned()),
                    ..job("scheduled")
                },
                "have no [email]",
            ),
            (
                JobRow { due_in: 8.0, last_answer: Some("not_opened".to_owned()), ..job("scheduled") },
                "Its address or phone does not open: the worker that took it lacks the key",
            ),
            (
                JobRow {
                    due_in: 8.0,
                    kind: "email".to_owned(),
                    last_answer: Some("not_opened".to_owned()),
                    ..job("scheduled")
                },
                "Its recipient does not open",
            ),
            (
                JobRow {
                    worker: Some(7),
                    worker_name: Some("w".to_owned()),
                    worker_silent: Some(1.0),
                    ..job("running")
                },
                "worker 7 (w)",
            ),
            (JobRow { code: Some("gift_void".to_owned()), ..job("needs_operator") }, "waits for a person (gift_void)"),
            (
                JobRow { requested_act: Some("cancel".to_owned()), ..job("running") },
                "obeys when the step in flight has ended",
            ),
            (
                JobRow { in_doubt: true, state: Some(json!({"not_found": 1})), ..job("retryable") },
                "1 of 2 inquiries found nothing",
            ),
            (JobRow { outcome: Some("issued".to_owned()), ..job("completed") }, "It is over: completed, issued."),
        ] {
            let sentence = why(job);
            assert!(sentence.contains(says) && sentence.ends_with('.'), "{sentence} has no {says}");
        }
    }
}
