//! What is told of a re-drive.

use serde::Serialize;

use super::one;
use crate::{
    basics::instants,
    cli::out::Out,
    db::{
        PgPool,
        operator::redrive::{self, Group, Redrive},
    },
};

/// What `show` answers.
#[derive(Serialize)]
pub(super) struct RedriveView {
    #[serde(flatten)]
    pub(super) redrive: Redrive,
    pub(super) groups: Vec<Group>,
}

pub(super) async fn show(pool: &PgPool, number: i64, out: Out) -> anyhow::Result<()> {
    let shown = RedriveView { redrive: one(pool, number).await?, groups: redrive::groups(pool, number).await? };
    out.one(&shown, tell)
}

pub(super) fn amounts(by: &serde_json::Value) -> String {
    let each = by.as_object().into_iter().flatten().map(|(name, amount)| format!("{amount} {name}"));
    each.collect::<Vec<_>>().join(", ")
}

pub(super) fn tell(shown: &RedriveView) -> String {
    let r = &shown.redrive;
    let mut lines =
        vec![format!("re-drive {}: {}, planned by {} at {}", r.id, r.status, r.planned_by, time(r.planned_at))];
    lines.push(format!("  which:   {}", r.filter));
    lines.push(format!("  jobs:    {} to be asked, {} refused", r.jobs, r.refused));
    let worth = amounts(&r.totals);
    lines.push(format!(
        "  worth:   {}",
        if worth.is_empty() { "no money".to_owned() } else { format!("{worth} (minor units)") }
    ));
    let calls = amounts(&r.tokens);
    if !calls.is_empty() {
        lines.push(format!(
            "  calls:   {calls} at the least, as {}'s program reckons; the lanes take {} s for what waits there and these",
            r.planned_by, r.lasts_seconds
        ));
    }
    lines.push(format!("  digest:  {}", r.digest));
    match (r.needs_approval, &r.approved_by) {
        (_, Some(by)) => lines.push(format!("  approved by {by}")),
        (true, None) => lines.push(format!(
            "  a second person approves it: noshi redrive approve {} --digest {} --reason …",
            r.id, r.digest
        )),
        (false, None) => {}
    }
    if let (Some(by), Some(at)) = (&r.applied_by, r.applied_at) {
        lines.push(format!("  applied by {by} at {}: {}", time(at), r.reason.as_deref().unwrap_or_default()));
        lines.push(format!("  {}", how_far(r)));
        lines.extend(r.paused_detail.as_ref().map(|why| format!("  it cannot go on: {why}")));
    } else {
        lines.push(format!("  to be applied before {}", time(r.expires_at)));
    }
    for group in &shown.groups {
        // Why a job was left out is said by whoever planned.
        let by = if group.status == "refused" { format!(", as {} says", r.planned_by) } else { String::new() };
        lines.push(format!("  {:>6} {}{by}: {} ({})", group.jobs, group.status, group.what, group.such_as.join(", ")));
    }
    // What stands in rows may be others' text.
    lines.iter().map(|line| line.chars().filter(|c| !c.is_control()).collect::<String>() + "\n").collect()
}

pub(super) fn time(at: chrono::DateTime<chrono::Utc>) -> String {
    instants::show(at)
}

pub(super) fn how_far(r: &Redrive) -> String {
    format!(
        "{} of {} asked, {} moved on by themselves, {} waiting; of those asked: {} completed, {} failed, {} parked again, {} at work",
        r.asked, r.jobs, r.drifted, r.waiting, r.completed, r.failed, r.parked, r.open
    )
}
