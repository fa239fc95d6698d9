//! Judges a finished run from outside: the provider's ledger against dumps of the tables.
//!
//! It shares no code with noshi, so a mistake there cannot hide itself here. It knows the tables' columns, the ledger's
//! fields and the names of gift issuance's states, and nothing else.
//!
//! `DIR` holds one JSON object a line per table, as `copy (select row_to_json(t) from noshi.job t) to …` writes it:
//! `job.jsonl`, `job_event.jsonl`, `batch.jsonl`, `batch_row.jsonl`, `gift_trade.jsonl`, `gift_outcome.jsonl`, `store.jsonl`, `lane.jsonl`, `worker.jsonl`,
//! `point_entry.jsonl`, `point_line.jsonl`, `point_lot.jsonl`, `point_allocation.jsonl`; take them in one snapshot, before the ledger. Anything else that lies there is searched for secrets too.
//!
//! Exit status: 0 no violation, 1 violations (one line each), 2 the input cannot be read.

mod batches;
mod deaths;
mod effects;
mod history;
mod journal;
mod mails;
mod options;
#[cfg(test)]
mod planted_bugs;
mod points;
mod rate;
mod report;
mod secrecy;
mod shops;
mod tables;
mod trades;

use std::{io::Write, process::ExitCode};

use history::History;
use options::Options;
use report::Report;

/// Reads everything and judges it. The error says what could not be read.
fn judge(options: &Options) -> Result<(Report, String), String> {
    let history = History::read(options)?;
    let mut report = Report::default();
    journal::check(&history, &mut report);
    deaths::check(&history, &mut report);
    effects::check(&history, options.quiescent, &mut report);
    trades::check(&history, &mut report);
    mails::check(&history, &mut report);
    shops::check(&history, &mut report);
    batches::check(&history, &mut report);
    points::check(&history, options.quiescent, &mut report);
    rate::check(&history, options, &mut report);
    secrecy::check(options, &mut report)?;
    report.sort();
    let summary = format!(
        "checked {} invariants over {} jobs, {} events, {} ledger lines: {} violations",
        options.invariants().len(),
        history.jobs.len(),
        history.events,
        history.ledger.len(),
        report.violations.len(),
    );
    Ok((report, summary))
}

fn main() -> ExitCode {
    let judged = Options::parse(std::env::args().skip(1)).and_then(|options| judge(&options));
    match judged {
        Ok((report, summary)) => {
            let mut out = std::io::stdout().lock();
            // A reader that went away has seen enough; the exit status still counts.
            let _ = report.violations.iter().try_for_each(|v| writeln!(out, "{} {}", v.invariant, v.evidence));
            let _ = writeln!(out, "{summary}");
            if report.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(why) => {
            eprintln!("noshi-checker: {why}");
            ExitCode::from(2)
        }
    }
}
