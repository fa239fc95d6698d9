//! A made-up run: jobs, journal and ledger as a correct fleet would leave them, and the means to spoil them.

use std::{fs, path::Path};

use serde_json::{Value, json};

use crate::{Options, judge};

/// 2026-01-02T03:04:05Z.
const START_US: i64 = 1_767_323_045_000_000;

#[derive(Clone, Default)]
pub struct Run {
    pub jobs: Vec<Value>,
    pub events: Vec<Value>,
    pub trades: Vec<Value>,
    pub outcomes: Vec<Value>,
    pub batches: Vec<Value>,
    pub batch_rows: Vec<Value>,
    pub stores: Vec<Value>,
    pub point_entries: Vec<Value>,
    pub point_lines: Vec<Value>,
    pub point_lots: Vec<Value>,
    pub point_allocations: Vec<Value>,
    pub lanes: Vec<Value>,
    pub workers: Vec<Value>,
    pub ledger: Vec<Value>,
    pub args: Vec<String>,
    /// Written beside the dump and searched for canaries.
    pub log: String,
}

/// Unix microseconds of a moment of the run, in milliseconds since its start.
pub fn us(ms: i64) -> i64 {
    START_US + ms * 1000
}

/// The same moment as PostgreSQL prints it in JSON.
pub fn at(ms: i64) -> Value {
    let time = chrono::DateTime::from_timestamp_micros(us(ms)).expect("a moment of this century");
    time.format("%Y-%m-%dT%H:%M:%S%.6f+00:00").to_string().into()
}

impl Run {
    pub fn job(&mut self, id: i64, kind: &str, key: &str, amount: i64) {
        self.jobs.push(json!({
            "id": id, "kind": kind, "key": key, "fingerprint": "\\x00ff", "priority": 1, "rank": 0,
            "args": {"grant": key, "user": "u1", "category": "amazon", "value": {"amount": amount, "currency": "JPY"}},
            "at": "new", "state": null, "undo": null, "status": "available", "outcome": null, "code": null, "detail": null,
            "lease": 0, "worker": null, "step": 0, "crash_count": 0, "finished_at": null, "created_at": at(0),
        }));
    }

    pub fn row(&mut self, id: i64) -> &mut Value {
        self.jobs.iter_mut().find(|job| job["id"] == id).expect("a job of the run")
    }

    fn event(&mut self, ms: i64, job: i64, event: &str, worker: Option<i64>, became: Value) -> &mut Value {
        let row = self.row(job).clone();
        self.events.push(json!({
            "job": job, "happened_at": at(ms), "event": event, "lease": row["lease"], "step": row["step"], "worker": worker,
            "was": null, "became": became, "outcome": null, "code": null, "detail": null,
        }));
        self.events.last_mut().expect("the one just pushed")
    }

    pub fn claim(&mut self, ms: i64, job: i64, worker: i64) {
        let row = self.row(job);
        row["lease"] = (row["lease"].as_i64().expect("a lease") + 1).into();
        row["status"] = "running".into();
        row["worker"] = worker.into();
        let stands = row["at"].clone();
        let event = self.event(ms, job, "claimed", Some(worker), stands.clone());
        event["was"] = stands;
    }

    /// `end` is the status and the problem code that the settle leaves.
    pub fn settle(&mut self, ms: i64, job: i64, became: &str, outcome: &str, end: (&str, Option<&str>)) {
        let worker = self.row(job)["worker"].as_i64();
        let event = self.event(ms, job, "settled", worker, became.into());
        event["outcome"] = outcome.into();
        event["code"] = end.1.into();
        let row = self.row(job);
        row["step"] = (row["step"].as_i64().expect("a step") + 1).into();
        row["at"] = became.into();
        row["outcome"] = outcome.into();
        row["code"] = end.1.into();
        row["status"] = end.0.into();
        if end.0 != "running" {
            row["worker"] = Value::Null;
        }
        if ["completed", "failed", "cancelled"].contains(&end.0) {
            row["finished_at"] = at(ms);
        }
    }

    /// `handed_back`, or `rescued` from a dead worker.
    pub fn give_back(&mut self, ms: i64, job: i64, event: &str) {
        let row = self.row(job);
        let (worker, stands) = (row["worker"].as_i64(), row["at"].clone());
        row["worker"] = Value::Null;
        row["status"] = "available".into();
        let worker = worker.filter(|_| event == "handed_back");
        self.event(ms, job, event, worker, stands);
    }

    pub fn timeline_changed(&mut self, ms: i64, job: i64) {
        let row = self.row(job);
        if row["status"] == "running" {
            row["lease"] = (row["lease"].as_i64().expect("a lease") + 1).into();
            row["status"] = "available".into();
            row["worker"] = Value::Null;
        }
        let stands = row["at"].clone();
        self.event(ms, job, "timeline_changed", None, stands);
    }

    pub fn act(&mut self, ms: i64, job: i64, became: &str) {
        self.event(ms, job, "asked", None, became.into());
        let row = self.row(job);
        row["step"] = (row["step"].as_i64().expect("a step") + 1).into();
        row["at"] = became.into();
        row["status"] = "available".into();
    }

    pub fn trade(&mut self, ms: i64, job: i64, id: &str, generation: i64, provider: &str) {
        let (grant, amount) = (self.row(job)["key"].clone(), self.row(job)["args"]["value"]["amount"].clone());
        self.trades.push(json!({
            "id": id, "grant_id": grant, "generation": generation, "job": job, "provider": provider, "category": "amazon",
            "amount": amount, "currency": "JPY", "started_at": at(ms),
        }));
    }

    pub fn outcome(&mut self, ms: i64, trade: &str, outcome: &str, card: Option<&str>) {
        self.outcomes
            .push(json!({"trade": trade, "outcome": outcome, "card": card, "reason": null, "happened_at": at(ms)}));
    }

    /// Adds a ledger line; `n` is given when all are in order.
    pub fn line(&mut self, ms: i64, event: &str, op: &str, trade: &str) -> &mut Value {
        let provider =
            self.trades.iter().find(|row| row["id"] == trade).map_or(Value::Null, |row| row["provider"].clone());
        self.ledger.push(json!({"us": us(ms), "event": event, "provider": provider, "op": op, "trade": trade}));
        self.ledger.last_mut().expect("the one just pushed")
    }

    /// A call that arrived and was answered 3 ms later.
    pub fn call(&mut self, ms: i64, op: &str, trade: &str) {
        self.line(ms, "arrival", op, trade);
        let answer = self.line(ms + 3, "answer", op, trade);
        answer["http"] = 200.into();
        answer["fault"] = Value::Null;
    }

    pub fn issued(&mut self, ms: i64, trade: &str, card: &str) {
        let amount = self.trades.iter().find(|row| row["id"] == trade).map_or(Value::Null, |row| row["amount"].clone());
        let line = self.line(ms, "issued", "issue", trade);
        line["card"] = card.into();
        line["amount"] = amount;
        line["currency"] = "JPY".into();
    }

    /// A message that SES took.
    pub fn mail(&mut self, ms: i64, job: &str) {
        for (ms, event) in [(ms, "arrival"), (ms + 1, "mail_sent"), (ms + 3, "answer")] {
            self.line(ms, event, "send_mail", job)["provider"] = "ses".into();
        }
    }

    pub fn voided(&mut self, ms: i64, trade: &str, card: &str) {
        self.line(ms, "voided", "cancel", trade)["card"] = card.into();
    }

    /// A call at the organisation platform that had this effect.
    pub fn at_the_platform(&mut self, ms: i64, op: &str, trade: &str, event: &str, shop: &str) {
        for (ms, event) in [(ms, "arrival"), (ms + 1, event), (ms + 3, "answer")] {
            let line = self.line(ms, event, op, trade);
            line["provider"] = "organization_platform".into();
            if event.starts_with("shop_") {
                line["shop"] = shop.into();
                line["public_id"] = "P1".into();
            }
        }
    }

    /// The job rests on this card.
    pub fn delivered(&mut self, job: i64, trade: &str, card: &str) {
        self.row(job)["state"] = json!({"at": "issued", "trade": {"id": trade}, "card": card});
    }

    /// Writes `dump/*.jsonl`, `ledger.jsonl` and `worker.log`.
    pub fn write(&self, directory: &Path) {
        let lines = |rows: &[Value]| rows.iter().map(|row| format!("{row}\n")).collect::<String>();
        let dump = directory.join("dump");
        fs::create_dir(&dump).expect("a folder");
        let tables = [
            ("job", &self.jobs),
            ("job_event", &self.events),
            ("gift_trade", &self.trades),
            ("gift_outcome", &self.outcomes),
            ("batch", &self.batches),
            ("batch_row", &self.batch_rows),
            ("store", &self.stores),
            ("point_entry", &self.point_entries),
            ("point_line", &self.point_lines),
            ("point_lot", &self.point_lots),
            ("point_allocation", &self.point_allocations),
            ("lane", &self.lanes),
            ("worker", &self.workers),
        ];
        for (name, rows) in tables {
            fs::write(dump.join(format!("{name}.jsonl")), lines(rows)).expect("a dump");
        }
        let mut ledger = self.ledger.clone();
        ledger.sort_by_key(|line| line["us"].as_i64());
        for (at, line) in ledger.iter_mut().enumerate() {
            line["n"] = (at + 1).into();
        }
        fs::write(directory.join("ledger.jsonl"), lines(&ledger)).expect("a ledger");
        fs::write(directory.join("worker.log"), &self.log).expect("a log");
    }

    /// What the checker says: each violation as `name evidence`, and the summary.
    pub fn judged(&self) -> (Vec<String>, String) {
        let directory = tempfile::tempdir().expect("a folder");
        self.write(directory.path());
        let (report, summary) = judge(&self.options(directory.path())).expect("a run that can be read");
        (report.violations.iter().map(|v| format!("{} {}", v.invariant, v.evidence)).collect(), summary)
    }

    pub fn options(&self, directory: &Path) -> Options {
        let path = |name: &str| directory.join(name).display().to_string();
        let files = [("--ledger", "ledger.jsonl"), ("--dump", "dump"), ("--leaks", "worker.log")];
        let files = files.into_iter().flat_map(|(flag, name)| [flag.to_owned(), path(name)]);
        Options::parse(files.chain(self.args.iter().cloned())).expect("arguments that can be read")
    }
}
