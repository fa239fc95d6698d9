//! I13, I14: each row of a batch leads to what it should, once, and nothing is announced before it is granted.

use std::collections::HashMap;

use crate::{
    history::{History, clock},
    report::{I13, I14, Report},
    tables::{Batch, BatchRow, Job},
};

pub fn check(history: &History, report: &mut Report) {
    let mut jobs: HashMap<i64, Vec<&Job>> = HashMap::new();
    for job in history.jobs.values() {
        if let Some(batch) = job.batch {
            jobs.entry(batch).or_default().push(job);
        }
    }
    let mut rows: HashMap<i64, Vec<&BatchRow>> = HashMap::new();
    for row in &history.batch_rows {
        rows.entry(row.batch).or_default().push(row);
    }
    for batch in &history.batches {
        let jobs = jobs.get(&batch.id).cloned().unwrap_or_default();
        let rows = rows.get(&batch.id).cloned().unwrap_or_default();
        each_row_once(batch, &rows, &jobs, report);
        nothing_too_early(batch, &jobs, report);
        nothing_missing(history, batch, &rows, &jobs, report);
    }
}

fn each_row_once(batch: &Batch, rows: &[&BatchRow], jobs: &[&Job], report: &mut Report) {
    let mut seen: HashMap<(i64, &str), i64> = HashMap::new();
    for job in jobs {
        let place = (job.row_no, job.kind.as_str());
        if let Some(other) = seen.insert(place, job.id) {
            let (row, kind) = place;
            report
                .add(I13, format!("batch {}: row {row} leads to {kind} twice, jobs {other} and {}", batch.id, job.id));
        }
        if !rows.iter().any(|row| row.row_no == job.row_no) {
            report.add(
                I13,
                format!("batch {}: job {} is of row {}, which it does not have", batch.id, job.id, job.row_no),
            );
        }
    }
}

/// A grant's mail and issuance come into being with or after the commit that grants it.
fn nothing_too_early(batch: &Batch, jobs: &[&Job], report: &mut Report) {
    if batch.kind != "grants" {
        return;
    }
    for job in jobs {
        let made = job.created_at.unwrap_or_default();
        match batch.registered_at {
            Some(registered) if made >= registered => {}
            registered => {
                let then = registered.map_or("never".to_owned(), clock);
                let what = format!("made at {}, and batch {} was granted {then}", clock(made), batch.id);
                report.add(I14, format!("job {} ({}) was {what}", job.id, job.kind));
            }
        }
    }
}

fn nothing_missing(history: &History, batch: &Batch, rows: &[&BatchRow], jobs: &[&Job], report: &mut Report) {
    let count = |kind: &str| jobs.iter().filter(|job| job.kind == kind).count();
    let mut expect = |kind: &str, wanted: usize| {
        let found = count(kind);
        if found != wanted {
            report.add(I13, format!("batch {}: {wanted} rows should lead to {kind}, and {found} do", batch.id));
        }
    };
    if batch.kind == "stores" && batch.released_at.is_some() {
        expect("store_creation", rows.len());
    }
    let announced = history
        .jobs
        .values()
        .any(|job| job.kind == "bulk_grants" && job.key == format!("batch/{}", batch.id) && job.status == "completed");
    if batch.kind == "grants" && announced {
        expect("email", if batch.mails { rows.iter().filter(|row| row.mailed).count() } else { 0 });
        expect("gift_issuance", if batch.issues { rows.len() } else { 0 });
    }
}
