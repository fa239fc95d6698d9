//! Lists: who did what, who works, what waits for a second person, and what recurs.

use axum::extract::Query;
use maud::{Markup, html};
use serde::Deserialize;

use super::{
    html::{amount, badge, id, others, plain, time},
    layout,
    visit::{Answer, Visit},
};
use crate::{
    db::{
        operator::{
            audit::{self, Done, Which},
            jobs,
            proposals::{self, Proposal},
        },
        queue::schedules,
    },
    operator::explain::seconds,
};

#[derive(Deserialize, Default)]
#[serde(default)]
pub struct WhichActs {
    who: String,
    act: String,
    target: String,
}

pub async fn audit(visit: Visit, Query(wanted): Query<WhichActs>) -> Answer {
    let w = visit.words;
    let given = |text: &str| Some(text.trim().to_owned()).filter(|text| !text.is_empty() && !text.contains('\0'));
    let which = Which { who: given(&wanted.who), act: given(&wanted.act), target: given(&wanted.target), since: None };
    let done = audit::list(visit.pool(), &which, 100).await?;
    let field = |name: &str, label: &str, value: &str| {
        html! { label { span { (label) } input name=(name) value=(plain(value)) maxlength="200"; } }
    };
    let body = html! {
        h1 { (w.audit) }
        form.filters method="get" action="/audit" {
            (field("who", w.who, &wanted.who)) (field("act", w.act, &wanted.act)) (field("target", w.target, &wanted.target))
            button.main { (w.show) }
        }
        section data-key="audit" { (audit_table(&visit, &done)) }
    };
    Ok(layout::page(&visit, w.audit, &body))
}

pub fn audit_table(visit: &Visit, done: &[Done]) -> Markup {
    let w = visit.words;
    html! {
        @if done.is_empty() { p.hint { (w.none) } } @else { div.scroll { table {
            thead { tr { th scope="col" { (w.when) } th scope="col" { (w.who) } th scope="col" { (w.act) } th scope="col" { (w.target) } th scope="col" { (w.reason) } } }
            tbody { @for act in done { tr {
                td { (time(visit, act.happened_at)) }
                td { (plain(&act.who)) }
                th scope="row" { (plain(&act.act)) }
                td { (id(&act.target)) }
                td { (others(act.reason.as_deref().unwrap_or_default())) }
            } } }
        } } }
    }
}

pub async fn workers(visit: Visit) -> Answer {
    let w = visit.words;
    let all = jobs::workers(visit.pool()).await?;
    let body = html! {
        h1 { (w.workers) }
        section data-key="workers" {
            @if !all.iter().any(|worker| worker.status == "alive") { p.banner.bad role="alert" { span aria-hidden="true" { "▲ " } (w.worker_none) } }
            div.scroll { table {
                thead { tr { th.number scope="col" { (w.number) } th scope="col" { (w.name) } th scope="col" { (w.status) } th scope="col" { (w.started) } th scope="col" { (w.heard) } th.number scope="col" { (w.in_flight) } } }
                tbody { @for worker in &all { tr {
                    td.number { (worker.id) }
                    th scope="row" { (others(&worker.name)) }
                    td { (badge(w, &worker.status)) }
                    td { (time(&visit, worker.started_at)) }
                    td { (seconds(worker.seen_ago)) " " (w.ago) }
                    td.number { (worker.in_flight) }
                } } }
            } }
        }
    };
    Ok(layout::page(&visit, w.workers, &body))
}

pub async fn schedules(visit: Visit) -> Answer {
    let w = visit.words;
    let all = schedules::list(visit.pool(), None).await?;
    let body = html! {
        h1 { (w.schedules) }
        section data-key="schedules" { @if all.is_empty() { p.hint { (w.none) } } @else { div.scroll { table {
            thead { tr { th scope="col" { (w.name) } th scope="col" { (w.kind) } th scope="col" { (w.status) } th scope="col" { (w.next_due) } th scope="col" { (w.last_due) } th.number scope="col" { (w.skipped) } th scope="col" { (w.detail) } } }
            tbody { @for schedule in &all { tr {
                th scope="row" { (others(&schedule.name)) br; code { (plain(&schedule.cron)) " " (plain(&schedule.zone)) } }
                td { (plain(&schedule.kind)) }
                td { (badge(w, match schedule.state() { "on" => "open", "stuck" => "closed", other => other })) }
                td { (time(&visit, schedule.next_due)) }
                td { @if let Some(last) = schedule.last_due { (time(&visit, last)) } }
                td.number { (schedule.skipped) }
                td { (others(schedule.stuck.as_deref().or(schedule.paused_reason.as_deref()).unwrap_or_default())) }
            } } }
        } } } }
    };
    Ok(layout::page(&visit, w.schedules, &body))
}

pub async fn proposals(visit: Visit) -> Answer {
    let w = visit.words;
    let open = proposals::list(visit.pool(), true, 50).await?;
    let body = html! {
        h1 { (w.proposals) }
        @if open.is_empty() { p.banner.good { span aria-hidden="true" { "● " } (w.none) } }
        @for proposal in &open { (one(&visit, proposal)) }
    };
    Ok(layout::page(&visit, w.proposals, &body))
}

fn one(visit: &Visit, proposal: &Proposal) -> Markup {
    let w = visit.words;
    html! {
        section.card data-key=(format!("proposal-{}", proposal.proposal)) {
            h2 { (proposal.proposal) " · " (plain(&proposal.act)) }
            p lang="en" { (others(&proposal.what)) }
            dl.facts {
                dt { (w.target) } dd { (id(&proposal.target))
                    @if let (Some(kind), Some(key)) = (&proposal.kind, &proposal.key) { " " a href=(super::html::job_path(kind, key)) { (plain(kind)) " " (id(key)) } } }
                @if let Some(at) = &proposal.at { dt { (w.stands_at) } dd { code { (plain(at)) } @if proposal.in_doubt == Some(true) { " " (badge(w, "in_doubt")) } } }
                @if let Some(minor) = proposal.amount { dt { (w.worth) } dd.money { (amount(minor, proposal.currency.as_deref().unwrap_or_default())) } }
                dt { (w.proposed_by) } dd { (plain(&proposal.proposed_by)) " · " (time(visit, proposal.proposed_at)) }
                dt { (w.reason) } dd { (others(&proposal.reason)) }
                dt { (w.expires) } dd { (time(visit, proposal.expires_at)) }
            }
            @if visit.may("approve") { (form(visit, proposal, "confirm", w.confirm, w.confirm_does)) }
            @if visit.may("operate") { (form(visit, proposal, "refuse", w.refuse, w.refuse_does)) }
        }
    }
}

fn form(visit: &Visit, proposal: &Proposal, act: &str, button: &str, does: &str) -> Markup {
    html! {
        details { summary { b { (button) } " " (does) }
            form method="post" action=(format!("/proposals/{}/acts", proposal.proposal)) {
                input type="hidden" name="act" value=(act);
                input type="hidden" name="digest" value=(proposal.digest);
                label { span { (visit.words.reason) } input name="reason" required maxlength="1000" autocomplete="off"; }
                button.main.danger { (button) }
            }
        }
    }
}
