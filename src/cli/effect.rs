//! `noshi effect`: effects that contracts declare.

use std::path::PathBuf;

use clap::{Subcommand, ValueHint};
use noshi_jobs::effect::Rule;
use serde::Serialize;

use super::{effect_table, lab::effects, out::Out};
use crate::{
    partners::effects::{Contract, Effects, Means, doubt_in_words},
    settings::Settings,
};

#[derive(Subcommand)]
pub enum EffectCommand {
    /// Whether a contract can be used, and if not, which key is wrong and why.
    Check {
        #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
        file: PathBuf,
    },
    /// What the contract of this name does: its states, its answers, and what is done in doubt.
    Show {
        #[arg(value_name = "NAME")]
        name: String,
    },
    Test(effects::TestArgs),
}

#[derive(Serialize)]
pub struct EffectView {
    name: String,
    lane: String,
    budget: String,
    doubt: &'static str,
    states: Vec<effect_table::Place>,
    answers: Vec<effect_table::Answered>,
    kept: Vec<String>,
}

fn shown(contract: &Contract) -> EffectView {
    let kept = contract.keep.iter().map(|(name, keep)| format!("{name}{}", if keep.sealed { " (sealed)" } else { "" }));
    EffectView {
        name: contract.name.clone(),
        lane: noshi_jobs::effect::lane(&contract.name),
        budget: format!("{} calls in {} ms, over the whole fleet", contract.budget.calls, contract.budget.per_ms),
        doubt: doubt_in_words(contract.doubt.rule),
        states: effect_table::places(contract),
        answers: effect_table::answers(contract),
        kept: kept.collect(),
    }
}

fn tell(shown: &EffectView) -> String {
    let EffectView { name, lane, budget, doubt, states, answers, kept } = shown;
    let mut lines = vec![format!("{name}: lane {lane}, {budget}"), format!("in doubt: {doubt}")];
    if !kept.is_empty() {
        lines.push(format!("kept of the answer: {}", kept.join(", ")));
    }
    lines.push("\n| at | effect | on crash | operator may |\n|---|---|---|---|".to_owned());
    lines.extend(
        states.iter().map(|place| format!("| {} | {} | {} | {} |", place.at, place.effect, place.on_crash, place.acts)),
    );
    lines.push("\n| at | answer | means | leads to |\n|---|---|---|---|".to_owned());
    lines.extend(answers.iter().map(|it| format!("| {} | {} | {} | {} |", it.at, it.answer, it.means, it.leads_to)));
    lines.join("\n")
}

#[derive(Serialize)]
struct Checked {
    name: String,
    doubt: Rule,
    warnings: Vec<&'static str>,
}

/// What is allowed, and worth knowing.
fn warnings(contract: &Contract) -> Vec<&'static str> {
    let mut warnings = vec![];
    if contract.doubt.rule == Rule::AskAPerson {
        warnings.push(
            "each call without an answer stops for a person: ask the partner for an idempotency key or an inquiry",
        );
    }
    let finds = |means| contract.perform.answers.iter().any(|answer| answer.means == means);
    if !finds(Means::Throttled) {
        warnings.push("no answer to perform means throttled: a 429 counts as not known");
    }
    if !finds(Means::Refused) {
        warnings.push("no answer to perform means refused: whatever is not done is not known");
    }
    warnings
}

pub async fn run(
    settings: impl FnOnce() -> anyhow::Result<Settings>,
    out: Out,
    command: EffectCommand,
) -> anyhow::Result<()> {
    match command {
        EffectCommand::Check { file } => {
            let contract = Contract::read(&file)?;
            let checked =
                Checked { name: contract.name.clone(), doubt: contract.doubt.rule, warnings: warnings(&contract) };
            out.one(&checked, |it| {
                let mut lines = vec![format!("{}: the contract can be used", it.name)];
                lines.extend(it.warnings.iter().map(|warning| format!("  note: {warning}")));
                lines.join("\n")
            })
        }
        EffectCommand::Show { name } => {
            let contract = Contract::read(&section(&settings()?)?.file(&name)?)?;
            out.one(&shown(&contract), tell)
        }
        EffectCommand::Test(args) => effects::run(args, section(&settings()?)?, out == Out::Json).await,
    }
}

fn section(settings: &Settings) -> anyhow::Result<Effects> {
    use anyhow::Context;
    settings.section::<Effects>("effects").context("the section [effects] of the settings cannot be used")
}
