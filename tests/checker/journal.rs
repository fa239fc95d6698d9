//! I4, I7, I9: each job's journal, replayed from its first event to its row.

use std::collections::HashSet;

use crate::{
    history::{GIFT, HANDED_BACK, History, clock},
    report::{I4, I7, I9, Report},
    tables::{Job, JobEvent},
};

/// The names under which a person's act may stand in the journal: they alone move a job that had come to rest.
const ACTS: [&str; 5] = ["asked", "declined", "cancelled", "dismissed", "acknowledged"];

/// States in which gift issuance ends.
const GIFT_ENDS: [&str; 3] = ["issued", "rejected", "lapsed"];

pub fn check(history: &History, report: &mut Report) {
    for job in history.jobs.values() {
        let events = history.events_of(job.id);
        let mut replay = Replay::new(job, report);
        for event in events {
            replay.apply(event);
        }
        replay.compare();
        after_the_end(job, events, report);
    }
    for job in history.journal.keys().filter(|job| !history.jobs.contains_key(job)) {
        report.add(I4, format!("job {job}: the journal speaks of it, and there is no such job"));
    }
}

/// Where a job is in the queue, as far as the journal tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Queued,
    Held,
    /// Settled: kept by its worker, or released.
    Moving,
    /// At rest: over, or parked until a person acts.
    Stopped,
    /// Of another kind, settled: the journal does not tell more.
    Unknown,
}

impl Standing {
    fn may_be(self, status: &str) -> bool {
        let waits = matches!(status, "scheduled" | "available" | "retryable");
        match self {
            Standing::Queued => waits,
            Standing::Held => status == "running",
            Standing::Moving => waits || status == "running",
            Standing::Stopped => matches!(status, "completed" | "failed" | "cancelled" | "needs_operator"),
            Standing::Unknown => true,
        }
    }

    fn may_be_held(self) -> bool {
        matches!(self, Standing::Held | Standing::Moving | Standing::Unknown)
    }
}

struct Replay<'a> {
    job: &'a Job,
    report: &'a mut Report,
    at: String,
    step: i64,
    lease: i64,
    claimed: HashSet<i64>,
    holder: Option<i64>,
    standing: Standing,
    outcome: Option<String>,
    code: Option<String>,
    /// The last event was an act, which may or may not count as a step.
    acted: bool,
}

impl<'a> Replay<'a> {
    fn new(job: &'a Job, report: &'a mut Report) -> Self {
        Replay {
            job,
            report,
            at: "new".to_owned(),
            step: 0,
            lease: 0,
            claimed: HashSet::new(),
            holder: None,
            standing: Standing::Queued,
            outcome: None,
            code: None,
            acted: false,
        }
    }

    fn say(&mut self, invariant: &'static str, event: &JobEvent, what: &str) {
        let JobEvent { event: name, lease, step, worker, .. } = event;
        let by = worker.map_or_else(String::new, |worker| format!(" by worker {worker}"));
        let when = clock(event.happened_at);
        self.report
            .add(invariant, format!("job {}: `{name}` at {when} (lease {lease}, step {step}{by}) {what}", self.job.id));
    }

    fn apply(&mut self, event: &JobEvent) {
        let act = ACTS.contains(&event.event.as_str());
        if self.standing == Standing::Stopped && !act {
            self.say(I7, event, "comes after the job had come to rest");
        }
        if event.lease < self.lease {
            let newest = self.lease;
            self.say(I9, event, &format!("comes after lease {newest} was given out"));
        }
        if event.step != self.step && !(self.acted && event.step == self.step + 1) {
            let expected = self.step;
            self.say(I4, event, &format!("is at a step that is not {expected}, the next"));
        }
        self.acted = act;
        match event.event.as_str() {
            "claimed" => self.claim(event),
            "settled" => self.settle(event),
            HANDED_BACK | "rescued" => self.give_back(event),
            "timeline_changed" => self.drop_held(event),
            _ if act => self.act(event),
            _ => self.say(I4, event, "is an event that no rule knows"),
        }
        // Goes on from what is written, so that one fault is one line.
        self.step = self.step.max(event.step);
        self.lease = self.lease.max(event.lease);
        if event.event == "settled" {
            self.step = event.step + 1;
        }
    }

    fn claim(&mut self, event: &JobEvent) {
        if event.lease == self.lease && self.claimed.contains(&event.lease) {
            self.say(I9, event, "gives a lease out a second time");
        } else if event.lease > self.lease + 1 || event.lease == self.lease {
            let last = self.lease;
            self.say(I4, event, &format!("does not take the lease after {last}"));
        }
        if event.worker.is_none() {
            self.say(I4, event, "names no worker");
        }
        if self.standing == Standing::Held {
            self.say(I4, event, "takes a job that another claim holds");
        }
        if event.was.as_deref() != Some(&*self.at) || event.became != event.was {
            let at = self.at.clone();
            self.say(I4, event, &format!("finds the job at {:?}, and it stood at {at}", event.was));
        }
        self.claimed.insert(event.lease);
        self.holder = event.worker;
        self.standing = Standing::Held;
    }

    /// Of settles, returns to the queue and deaths: is the job in these hands?
    fn held(&mut self, event: &JobEvent, by: Option<i64>) {
        if !self.claimed.contains(&event.lease) {
            self.say(I4, event, "has no claim of this lease before it");
        } else if self.standing == Standing::Queued && event.lease == self.lease {
            self.say(I4, event, "comes after its claim had been given back");
        } else if by.is_some() && by != self.holder && event.lease == self.lease {
            let holder = self.holder;
            self.say(I4, event, &format!("is not by worker {holder:?}, which holds the job"));
        }
    }

    fn settle(&mut self, event: &JobEvent) {
        if event.worker.is_none() {
            self.say(I4, event, "names no worker");
        }
        self.held(event, event.worker);
        let Some(became) = event.became.clone() else { return self.say(I4, event, "does not say what became") };
        let stops = match self.job.kind.as_str() {
            GIFT => GIFT_ENDS.contains(&&*became) || event.code.is_some(),
            "probe" => became == "over" && event.code.is_none(),
            _ => false,
        };
        self.standing = match self.job.kind.as_str() {
            _ if stops => Standing::Stopped,
            GIFT => Standing::Moving,
            _ => Standing::Unknown,
        };
        self.at = became;
        self.outcome.clone_from(&event.outcome);
        self.code.clone_from(&event.code);
    }

    fn give_back(&mut self, event: &JobEvent) {
        self.held(event, event.worker);
        self.stays(event);
        self.standing = Standing::Queued;
        self.holder = None;
        if event.code.is_some() {
            self.standing = Standing::Stopped;
            self.code.clone_from(&event.code);
        }
    }

    fn drop_held(&mut self, event: &JobEvent) {
        let raised = event.lease == self.lease + 1;
        let right = match self.standing {
            Standing::Held => raised,
            Standing::Queued => event.lease == self.lease,
            Standing::Moving | Standing::Unknown | Standing::Stopped => raised || event.lease == self.lease,
        };
        if !right && event.lease >= self.lease {
            let (standing, lease) = (self.standing, self.lease);
            self.say(I4, event, &format!("meets a job that was {standing:?} under lease {lease}"));
        }
        self.stays(event);
        self.standing = Standing::Queued;
        self.holder = None;
    }

    fn stays(&mut self, event: &JobEvent) {
        if event.became.as_deref() != Some(&*self.at) {
            let at = self.at.clone();
            self.say(I4, event, &format!("says {:?}, and the job stood at {at}", event.became));
        }
    }

    /// A person may lead a job anywhere that its kind allows, but not while a worker has leased it.
    fn act(&mut self, event: &JobEvent) {
        if self.standing == Standing::Held {
            self.say(I4, event, "moves a job that a worker holds");
        }
        if let Some(became) = &event.became {
            self.at.clone_from(became);
        }
        self.standing = Standing::Unknown;
        self.holder = None;
    }

    fn compare(self) {
        let Replay { job, report, .. } = self;
        let mut differ = |what: &str, journal: String, row: String| {
            report.add(I4, format!("job {}: {what} is {row} in its row, and {journal} by its journal", job.id));
        };
        if job.at != self.at {
            differ("at", self.at, job.at.clone());
        }
        if job.step != self.step && !(self.acted && job.step == self.step + 1) {
            differ("step", self.step.to_string(), job.step.to_string());
        }
        if job.lease != self.lease {
            differ("lease", self.lease.to_string(), job.lease.to_string());
        }
        if !self.standing.may_be(&job.status) {
            differ("status", format!("{:?}", self.standing), job.status.clone());
        }
        let holder = self.holder.filter(|_| job.status == "running" && self.standing.may_be_held());
        if job.worker != holder {
            differ("worker", format!("{holder:?}"), format!("{:?}", job.worker));
        }
        // An act may keep or clear these two.
        if !self.acted && job.outcome != self.outcome {
            differ("outcome", format!("{:?}", self.outcome), format!("{:?}", job.outcome));
        }
        if !self.acted && job.code != self.code {
            differ("code", format!("{:?}", self.code), format!("{:?}", job.code));
        }
    }
}

/// I7, from the row: the settle that ended the job is its last event.
fn after_the_end(job: &Job, events: &[JobEvent], report: &mut Report) {
    if !matches!(job.status.as_str(), "completed" | "failed" | "cancelled") {
        return;
    }
    let Some(finished) = job.finished_at else {
        return report.add(I7, format!("job {}: {} without the moment at which it ended", job.id, job.status));
    };
    let mut after = events.iter().filter(|event| event.happened_at >= finished);
    if after.next().is_none() {
        report.add(I7, format!("job {}: {} at {}, and no event is that late", job.id, job.status, clock(finished)));
    }
    for event in after {
        let (name, when) = (&event.event, clock(event.happened_at));
        report.add(I7, format!("job {}: `{name}` at {when}, after it {} at {}", job.id, job.status, clock(finished)));
    }
}
