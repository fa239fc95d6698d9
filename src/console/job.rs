//! One job: why it stands where it stands, the path that it took, and what may be done to it.

use axum::{extract::Path, response::Response};
use maud::{Markup, html};
use noshi_jobs::{Kind, Problem, machine::Act};

use super::{
    html::{arguments, badge, id, job_path, others, plain, time},
    layout,
    machine::Machine,
    overview,
    records::audit_table,
    runbook,
    visit::{Answer, Trouble, Visit},
    words,
};
use crate::{
    api::refusal::Refusal,
    db::operator::{
        audit::{self, Which},
        jobs::{self, Event, JobRow},
        proposals,
    },
    operator::{acts, explain},
};

const JOURNAL: i64 = 100;

pub async fn show(visit: Visit, Path((kind, key)): Path<(String, String)>) -> Answer {
    let nothing = || Trouble(Refusal::not_found("There is no job of this kind and id."));
    if kind.contains('\0') || key.contains('\0') {
        return Err(nothing());
    }
    let Some(job) = jobs::look(visit.pool(), &kind, &key).await? else {
        let mut transaction = visit.pool().begin().await?;
        let ended = jobs::pruned(&mut transaction, &kind, &key).await?;
        transaction.commit().await?;
        return Ok(pruned(&visit, &kind, &key, &ended.ok_or_else(nothing)?));
    };
    let journal = jobs::journal(visit.pool(), job.id, JOURNAL).await?;
    let target = format!("job/{}", job.id);
    let waits = proposals::waiting_at(visit.pool(), &target).await?;
    let which = Which { target: Some(target), ..Which::default() };
    let acts = audit::list(visit.pool(), &which, 20).await?;
    let w = visit.words;
    let body = html! {
        (head(&visit, &job))
        @if let Some(proposal) = waits { p.banner.doubt {
            span aria-hidden="true" { "◆ " } (w.proposals) ": " a href="/proposals" { (plain(&proposal.act)) " (" (proposal.proposal) ")" } " · " (w.by) " " (plain(&proposal.proposed_by))
        } }
        @if let Some(kind) = Kind::from_name(&job.kind) { section data-key="machine" { h2 { (w.machine) } (picture(&visit, kind, &job, &journal)) } }
        section data-key="acts" { h2 { (w.acts) } (forms(&visit, &job)) }
        section data-key="asked" { h2 { (w.asked_for) } (arguments(w, &job.kind, &job.args)) }
        section data-key="journal" { h2 { (w.journal) } (told(&visit, &journal)) }
        @if let Some(page) = job.code.as_deref().and_then(runbook::page) {
            details.runbook { summary { (w.runbook) ": " (job.code.as_deref().unwrap_or_default()) } (runbook::draw(page)) }
        }
        section data-key="audit" { h2 { (w.audit) } (audit_table(&visit, &acts)) }
    };
    Ok(layout::page(&visit, &format!("{} {}", job.kind, job.key), &body))
}

fn head(visit: &Visit, job: &JobRow) -> Markup {
    let w = visit.words;
    let problem = job.code.as_deref().and_then(|code| Problem::ALL.iter().find(|problem| problem.code() == code));
    html! {
        section.head data-key="head" {
            p.hint { (plain(&job.kind)) " · " (job.id) @if let Some(batch) = job.batch { " · " (w.batch) " " a href=(format!("/batches/{batch}")) { (batch) } } }
            h1 { (id(&job.key)) }
            p { (badge(w, &job.status)) @if job.in_doubt { " " (badge(w, "in_doubt")) } " " code { (plain(&job.at)) } }
            div.why {
                @if let Some(problem) = problem { p { b { (problem.code()) } " " (overview::means(visit.language, problem)) } }
                p lang="en" { (others(&explain::explain(job).why)) }
            }
        }
    }
}

fn picture(visit: &Visit, kind: Kind, job: &JobRow, journal: &[Event]) -> Markup {
    let machine = Machine::of(kind);
    // A job that never began is `new`, which is no state: it stands where it starts.
    let mut path: Vec<String> = machine.states.iter().take(1).cloned().collect();
    for became in journal.iter().filter_map(|event| event.became.as_ref()) {
        if machine.states.contains(became) && path.last() != Some(became) {
            path.push(became.clone());
        }
    }
    let may: Vec<&str> = acts::allowed(&job.stand()).into_iter().map(Act::name).collect();
    machine.draw(visit.words, &path, &job.at, job.in_doubt, &may)
}

/// Each act that the state table allows, with what it will do, and the step over which it is asked for.
fn forms(visit: &Visit, job: &JobRow) -> Markup {
    let w = visit.words;
    let may = acts::allowed(&job.stand());
    let machine = Kind::from_name(&job.kind).map(Machine::of).unwrap_or_default();
    html! {
        @if !visit.may("operate") { p.hint { (w.may_not_operate) } }
        @if may.is_empty() || job.requested_act.is_some() { p.hint { (w.no_acts) } }
        @else if visit.may("operate") {
            div.acts { @for act in may { details name="acts" {
                summary { b { (act.name()) } " " (words::meaning(visit.language, act)) }
                form method="post" action=(format!("{}/acts", job_path(&job.kind, &job.key))) {
                    input type="hidden" name="act" value=(act.name());
                    input type="hidden" name="step" value=(job.step);
                    p.hint { code { (plain(&job.at)) } " → " @for to in machine.leads(&job.at, act.name()) { code { (to) } " " }
                        @if let Some(worth) = super::html::worth(&job.args) { " · " (w.worth) " " (plain(&worth)) } }
                    label { span { (w.reason) } input name="reason" required maxlength="1000" autocomplete="off"; }
                    button.main.danger[!matches!(act, Act::Inquire | Act::Acknowledge)] { (act.name()) }
                }
            } } }
        }
    }
}

fn told(visit: &Visit, journal: &[Event]) -> Markup {
    let w = visit.words;
    html! {
        @if journal.is_empty() { p.hint { (w.none) } } @else { div.scroll { table {
            thead { tr { th scope="col" { (w.when) } th scope="col" { (w.event) } th scope="col" { (w.became) } th scope="col" { (w.answer) } th scope="col" { (w.detail) } th.number scope="col" { (w.worker) } } }
            tbody { @for line in journal.iter().rev() { tr {
                td { (time(visit, line.happened_at)) }
                th scope="row" { (plain(&line.event)) }
                td { (plain(line.became.as_deref().unwrap_or_default())) }
                td { (plain(line.outcome.as_deref().unwrap_or_default())) @if let Some(code) = &line.code { " " (plain(code)) } }
                td { (others(line.detail.as_deref().unwrap_or_default())) }
                td.number { @if let Some(worker) = line.worker { (worker) } }
            } } }
        } } }
    }
}

fn pruned(visit: &Visit, kind: &str, key: &str, ended: &str) -> Response {
    let w = visit.words;
    let body = html! {
        p.hint { (plain(kind)) }
        h1 { (id(key)) }
        p.banner { (w.pruned) }
        p lang="en" { (others(ended)) }
    };
    layout::page(visit, key, &body)
}
