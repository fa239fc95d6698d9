//! How a command says that it failed: the cause first, each thing once, as a sentence or (`-o json`) as one line of JSON on standard error.

use serde_json::{Value, json};

use super::out::Out;
use crate::{
    basics::terminal::{self, note},
    db,
    intake::Rejected,
};

/// Says it.
pub fn tell(error: &anyhow::Error, out: Out, status: u8) {
    match out {
        Out::Table => note!("noshi: {}", sentence(error)),
        Out::Json => terminal::tell(&(document(error, status).to_string() + "\n")),
    }
}

/// Says what the command line lacks, as clap has it.
pub fn tell_usage(error: &clap::Error, out: Out) -> u8 {
    let status = u8::try_from(error.exit_code()).unwrap_or(2);
    // Help and versions are asked for, and no failure.
    if !error.use_stderr() {
        terminal::print(&error.render().to_string());
        return status;
    }
    match out {
        Out::Table => _ = error.print(),
        Out::Json => {
            let text = error.render().to_string();
            let mut parts = text.split("\n\n").map(str::trim);
            let first = parts.next().unwrap_or_default().trim_start_matches("error: ").trim();
            let mut document = json!({"error": first, "status": status});
            // What else may have been meant.
            if let Some(tip) = parts.find_map(|part| part.strip_prefix("tip: ")) {
                document["hint"] = tip.into();
            }
            terminal::tell(&(document.to_string() + "\n"));
        }
    }
    status
}

/// Every part of an error, the outermost first, none that another has said already. What the database says is told in our words.
fn parts(error: &anyhow::Error) -> Vec<String> {
    let mut parts: Vec<String> = vec![];
    for cause in error.chain() {
        let database = cause.downcast_ref::<sqlx::Error>();
        let text = database.map_or_else(|| cause.to_string(), db::sentence);
        if !text.is_empty() && !parts.iter().any(|said| said.contains(&text)) {
            parts.push(text);
        }
        // The rest of the chain says the same in the driver's words.
        if database.is_some() || cause.downcast_ref::<db::ActError>().is_some() {
            break;
        }
    }
    parts
}

pub fn sentence(error: &anyhow::Error) -> String {
    parts(error).join(": ")
}

fn document(error: &anyhow::Error, status: u8) -> Value {
    let mut document = json!({"error": sentence(error), "status": status});
    if let Some(db::ActError::Refused { code, .. }) = error.downcast_ref() {
        document["code"] = code.as_str().into();
    }
    if let Some(rejected) = error.downcast_ref::<Rejected>() {
        document["error"] = format!("nothing of {} was written: its rows have faults", rejected.file).into();
        document["file"] = rejected.file.as_str().into();
        let faults = rejected.faults.iter().map(|it| json!({"line": it.line, "field": it.field, "fault": it.sentence}));
        document["faults"] = faults.collect();
    }
    document
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;
    use crate::intake::Fault;

    #[test]
    fn each_cause_is_told_once() {
        let error = Err::<(), _>(anyhow::anyhow!("the disk is full"))
            .context("cannot write: the disk is full")
            .context("no report")
            .unwrap_err();
        assert_eq!(sentence(&error), "no report: cannot write: the disk is full");
        let error = anyhow::Error::from(db::ActError::Database(sqlx::Error::PoolTimedOut)).context("cannot approve");
        let told = sentence(&error);
        assert_eq!(told.matches("connection").count(), 1, "{told}");
    }

    #[test]
    fn faults_of_a_file_have_line_and_field() {
        let fault = Fault { line: 7, field: Some("amount".to_owned()), sentence: "is no number".to_owned() };
        let error = Rejected { file: "g.csv".to_owned(), faults: vec![fault] }.into();
        let told = document(&error, 1);
        assert_eq!(told["faults"], json!([{"line": 7, "field": "amount", "fault": "is no number"}]));
        assert_eq!(told["status"], 1);
    }
}
