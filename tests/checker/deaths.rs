//! I11, I18: deaths of workers are bounded, counted and final.

use crate::{
    history::{HANDED_BACK, History, clock},
    report::{I11, I18, Report},
    tables::{Job, JobEvent},
};

/// A job is parked at the third death of a worker that held it; one more is allowed to a claim that is still open.
const CLAIMS_WITHOUT_SETTLE: usize = 4;

pub fn check(history: &History, report: &mut Report) {
    for job in history.jobs.values() {
        claims_without_settle(job, history.events_of(job.id), report);
    }
    workers(history, report);
}

/// I11: a job that kills its workers is parked.
fn claims_without_settle(job: &Job, events: &[JobEvent], report: &mut Report) {
    let mut open = 0;
    for event in events {
        match event.event.as_str() {
            "claimed" => open += 1,
            // Neither was a death of the worker.
            HANDED_BACK | "timeline_changed" => open = usize::saturating_sub(open, 1),
            "rescued" => {}
            _ => open = 0,
        }
        if event.event == "claimed" && open == CLAIMS_WITHOUT_SETTLE + 1 {
            let when = clock(event.happened_at);
            report.add(I11, format!("job {}: claimed for the {open}th time without a step, at {when}", job.id));
        }
    }
    if job.crash_count > 3 {
        report.add(
            I11,
            format!("job {}: {} deaths are counted, and it was not parked at the third", job.id, job.crash_count),
        );
    }
}

/// I18: the dead do not act.
fn workers(history: &History, report: &mut Report) {
    for event in history.journal.values().flatten() {
        let Some(id) = event.worker else { continue };
        let Some(worker) = history.workers.get(&id) else {
            report.add(I18, format!("job {}: `{}` by worker {id}, which never started", event.job, event.event));
            continue;
        };
        for (end, what) in [(worker.dead_at, "declared dead"), (worker.stopped_at, "stopped")] {
            if let Some(end) = end.filter(|end| event.happened_at > *end) {
                let (name, when, end) = (&event.event, clock(event.happened_at), clock(end));
                report.add(I18, format!("job {}: `{name}` at {when} by worker {id}, {what} at {end}", event.job));
            }
        }
    }
}
