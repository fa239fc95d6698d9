//! `noshi kind`: the kinds of job that this program has.

use anyhow::Context;
use clap::Subcommand;
use noshi_jobs::{KindName, Presence};
use serde::Serialize;
use serde_json::Value;

use super::{names, out::Out};
use crate::{
    basics::{
        kinds::{self, AnyKind},
        requests::wanted,
        schemas,
    },
    intake::own,
};

#[derive(Subcommand)]
pub enum KindCommand {
    /// Every kind, and who may ask for it.
    List,
    /// What one may be asked for with, where it can stand, and which problems it can have.
    Show {
        #[arg(value_parser = names::kind())]
        name: KindName,
    },
    /// The runbook's page of a problem that this program brings.
    Page {
        #[arg(value_name = "CODE", hide_possible_values = true, value_parser = names::code())]
        code: String,
    },
}

#[derive(Serialize)]
struct Line {
    kind: &'static str,
    own: bool,
    asked_by: &'static str,
}

#[derive(Serialize)]
struct KindView {
    #[serde(flatten)]
    line: Line,
    id: Option<&'static str>,
    arguments: Vec<Argument>,
    /// JSON Schema of the arguments.
    schema: Option<Value>,
    /// Of a file for `noshi job submit`; none where it takes none.
    columns: Vec<&'static str>,
    states: &'static [&'static str],
    compensations: &'static [&'static str],
    problems: Vec<Code>,
}

#[derive(Serialize)]
struct Argument {
    name: &'static str,
    needed: bool,
    holds: String,
}

#[derive(Serialize)]
struct Code {
    code: &'static str,
    sentence: &'static str,
    japanese: &'static str,
}

fn line(kind: &dyn AnyKind) -> Line {
    let asked_by = if kind.is_for_producers() { "producers" } else { "noshi" };
    Line { kind: kind.kind().name(), own: kind.is_own(), asked_by }
}

fn view(kind: &dyn AnyKind) -> KindView {
    let fields = kind.fields().unwrap_or_default().iter();
    let argument = |field: &noshi_jobs::Field| Argument {
        name: field.name,
        needed: field.presence == Presence::Needed,
        holds: wanted(field.holds),
    };
    let code = |problem: &noshi_jobs::Problem| Code {
        code: problem.code(),
        sentence: problem.sentence(),
        japanese: problem.japanese(),
    };
    KindView {
        line: line(kind),
        id: kind.id_field(),
        arguments: fields.map(argument).collect(),
        schema: kind.fields().map(schemas::of),
        columns: own::columns(kind).unwrap_or_default().iter().map(|column| column.name).collect(),
        states: kind.states(),
        compensations: kind.undos(),
        problems: kind.problems().iter().map(code).collect(),
    }
}

fn tell(view: &KindView) -> String {
    let mut lines = vec![format!("{}: asked for by {}", view.line.kind, view.line.asked_by)];
    if let Some(id) = view.id {
        lines.push(format!("its id is `{id}`"));
    }
    for Argument { name, needed, holds } in &view.arguments {
        lines.push(format!("  {name}{}: {holds}", if *needed { "" } else { " (may be left out)" }));
    }
    if !view.columns.is_empty() {
        lines.push(format!("columns of a file: {}", view.columns.join(",")));
    }
    lines.push(format!("states: {}", view.states.join(", ")));
    if !view.compensations.is_empty() {
        lines.push(format!("compensations: {}", view.compensations.join(", ")));
    }
    lines.extend(view.problems.iter().map(|problem| format!("problem {}: {}", problem.code, problem.sentence)));
    lines.join("\n")
}

pub fn run(out: Out, command: KindCommand) -> anyhow::Result<()> {
    match command {
        KindCommand::List => {
            let lines: Vec<Line> = kinds::all().iter().map(|kind| line(&**kind)).collect();
            out.list(
                "this program has no kind of job",
                &lines,
                &[
                    ("KIND", |line| line.kind.to_owned()),
                    ("OF", |line| if line.own { "this program" } else { "noshi" }.to_owned()),
                    ("ASKED BY", |line| line.asked_by.to_owned()),
                ],
            )
        }
        KindCommand::Show { name } => out.one(&view(kinds::get(name.name()).context("there is no such kind")?), tell),
        KindCommand::Page { code } => {
            let page = kinds::page(&code)
                .with_context(|| format!("the page of {code} is the file ops/runbook/{code}.md of noshi"))?;
            out.one(&page, |page| (*page).to_owned())
        }
    }
}
