//! Walks every job through every state under every answer, redraws the tables, and checks the runbook.
//!
//! When a table differs from its file, the test prints the table to paste.

use std::{fs, path::Path};

use crate::{Kind, Problem};

mod bulk_grants;
mod drawn;
mod effect;
mod email;
mod gift_issuance;
mod points;
mod probe;
mod reads;
mod released;
mod store_creation;

use drawn::{Row, assert_drawn_in, assert_no_act_calls_blindly, at, cell, now, table, terms_table, this, unwound};

/// The file opens with exactly these tables.
fn assert_drawn(file: &str, tables: &[String]) {
    assert_drawn_in(&Path::new(env!("CARGO_MANIFEST_DIR")).join(file), tables);
}

#[test]
fn every_problem_has_a_runbook_page() {
    for problem in Problem::ALL {
        let code = problem.code();
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../ops/runbook/{code}.md"));
        let text = fs::read_to_string(&page).unwrap_or_else(|_| panic!("ops/runbook/{code}.md is missing"));
        assert!(text.starts_with(&format!("# {code}\n")), "ops/runbook/{code}.md does not open with `# {code}`");
        for part in ["## What it means for the money", "## How to look", "## What to do", "## Never"] {
            assert!(text.contains(part), "ops/runbook/{code}.md lacks `{part}`");
        }
    }
}

#[test]
fn stored_names_are_unique() {
    let mut codes: Vec<_> = Problem::ALL.iter().map(|p| p.code()).collect();
    codes.sort_unstable();
    codes.dedup();
    assert_eq!(codes.len(), Problem::ALL.len());
    for kind in Kind::ALL {
        assert_eq!(Kind::from_name(kind.name()), Some(kind));
        assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
    }
}
