//! M1, M2, M3: what was mailed, against what the tables say of it.

use std::collections::{BTreeMap, HashSet};

use crate::{
    history::{HANDED_BACK, History, clock},
    report::{M1, M2, M3, Report},
    tables::{Line, Us},
};

const MAIL: &str = "email";
/// How often a message may go out where earlier sends are in doubt, whatever its template.
const MAX_SENDS: usize = 2;

pub fn check(history: &History, report: &mut Report) {
    // Every line counts, however new: a message too many is one already when it leaves.
    let sent = by_job(history.ledger.iter().filter(|line| line.is("mail_sent")));
    for (id, times) in &sent {
        if times.len() > MAX_SENDS {
            let when = clock(times[MAX_SENDS]);
            report.add(M1, format!("job {id}: {} messages went out; the third at {when}", times.len()));
        }
    }
    let calls = by_job(history.seen().filter(|line| line.is("arrival") && line.of_op("send_mail")));
    for (id, times) in &calls {
        intent_first(history, id, times, report);
    }
    for job in history.jobs.values().filter(|job| job.kind == MAIL && job.status == "completed") {
        let attested = job.state.as_ref().is_some_and(|state| state["message"] == "attested");
        if !attested && !sent.contains_key(job.id.to_string().as_str()) {
            report.add(M3, format!("job {}: completed at {}, and no message went out", job.id, job.at));
        }
    }
}

/// When, oldest first, by the tag that names the job.
fn by_job<'a>(lines: impl Iterator<Item = &'a Line>) -> BTreeMap<&'a str, Vec<Us>> {
    let mut times: BTreeMap<&str, Vec<Us>> = BTreeMap::new();
    for line in lines {
        times.entry(line.trade.as_deref().unwrap_or_default()).or_default().push(line.us);
    }
    times.values_mut().for_each(|times| times.sort_unstable());
    times
}

/// M2: each call has an earlier claim of its own, of a job that asked for it. A claim that was handed back made no call.
fn intent_first(history: &History, id: &str, calls: &[Us], report: &mut Report) {
    let job = id.parse().ok().and_then(|id: i64| history.jobs.get(&id)).filter(|job| job.kind == MAIL);
    let Some(job) = job else {
        return report
            .add(M2, format!("a message of `{id}` was sent at {}, and there is no such job", clock(calls[0])));
    };
    let events = history.events_of(job.id);
    let handed_back: HashSet<_> =
        events.iter().filter(|event| event.event == HANDED_BACK).map(|event| (event.lease, event.step)).collect();
    let intents = events.iter().filter(|event| {
        event.event == "claimed"
            && event.was.as_deref() == Some("sending")
            && !handed_back.contains(&(event.lease, event.step))
    });
    let intents: Vec<Us> = intents.map(|event| event.happened_at).collect();
    for (at, call) in calls.iter().enumerate() {
        let before = intents.iter().filter(|claim| *claim <= call).count();
        if before <= at {
            let (nth, when) = (at + 1, clock(*call));
            report.add(M2, format!("job {id}: send {nth} at {when}, and {before} claims at `sending` before it"));
            break;
        }
    }
}
