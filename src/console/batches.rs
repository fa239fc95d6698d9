//! Files of rows: how far each is, and what a second person approves.

use axum::extract::{Path, Query};
use maud::{Markup, html};
use serde::Deserialize;
use serde_json::Value;

use super::{
    html::{amount, badge, id, others, plain, time},
    layout,
    records::audit_table,
    visit::{Answer, Trouble, Visit},
};
use crate::{
    api::refusal::Refusal,
    db::{
        PgPool,
        domain::batches::{self, Progress, Record, Total},
        operator::audit::{self, Which},
    },
};

const PAGE: i64 = 20;
/// Of one file, on one page.
const FAULTS: usize = 200;

#[derive(Deserialize, Default)]
#[serde(default)]
pub struct Wanted {
    before: String,
}

pub async fn list(visit: Visit, Query(wanted): Query<Wanted>) -> Answer {
    let w = visit.words;
    let all = batches::page(visit.pool(), wanted.before.parse().ok(), PAGE).await?;
    let next = all.last().filter(|_| all.len() as i64 == PAGE).map(|batch| batch.id);
    let body = html! {
        h1 { (w.batches) }
        section data-key="batches" {
            @if all.is_empty() { p.hint { (w.none) } } @else { (table(&visit, &all)) }
            @if let Some(next) = next { p { a.button rel="next" href=(format!("/batches?before={next}")) { (w.older) } } }
        }
    };
    Ok(layout::page(&visit, w.batches, &body))
}

fn table(visit: &Visit, all: &[Progress]) -> Markup {
    let w = visit.words;
    html! {
        div.scroll { table.rows {
            thead { tr {
                th.number scope="col" { (w.number) } th scope="col" { (w.file) } th scope="col" { (w.kind) } th scope="col" { (w.status) }
                th.number scope="col" { (w.rows) } th.number scope="col" { (w.completed) } th.number scope="col" { (w.failed) }
                th.number scope="col" { (w.cancelled) } th.number scope="col" { (w.needs_operator) } th.number scope="col" { (w.still_open) }
                th scope="col" { (w.submitted_by) }
            } }
            tbody { @for batch in all { tr {
                td.number { a href=(format!("/batches/{}", batch.id)) { (batch.id) } }
                th scope="row" { (others(&batch.file)) }
                td { (plain(&batch.kind)) }
                td { (badge(w, &batch.status)) @if !batch.holds { " " b { (w.does_not_add_up) } } }
                @for count in counts(batch) { td.number { (count) } }
                td { (plain(&batch.submitted_by)) }
            } } }
        } }
    }
}

/// rows = completed + failed + cancelled + needs_operator + open.
fn counts(batch: &Progress) -> [i64; 6] {
    [batch.rows, batch.completed, batch.failed, batch.cancelled, batch.needs_operator, batch.open]
}

/// The batch as it stands now.
pub async fn find(pool: &PgPool, number: i64) -> Result<Progress, Trouble> {
    let found = batches::progress(pool, Some(number), 1).await?.into_iter().next();
    found.ok_or_else(|| Trouble(Refusal::not_found(format!("There is no batch {number}. Nothing was done."))))
}

/// It is granted next: what a second person reads stands still.
pub fn is_to_be_released(status: &str) -> bool {
    matches!(status, "awaiting_approval" | "approved" | "validated")
}

pub async fn show(visit: Visit, Path(number): Path<i64>) -> Answer {
    let pool = visit.pool();
    let batch = find(pool, number).await?;
    let nothing = || Trouble(Refusal::not_found(format!("There is no batch {number}.")));
    let record = batches::record(pool, number).await?.ok_or_else(nothing)?;
    let totals = batches::totals(pool, number).await?;
    let against = match is_to_be_released(&batch.status) {
        true => batches::objection(pool, number).await?,
        false => None,
    };
    let which = Which { target: Some(format!("batch/{number}")), ..Which::default() };
    let done = audit::list(pool, &which, 20).await?;
    let w = visit.words;
    let body = html! {
        (head(&visit, &batch, against.as_deref()))
        section data-key="progress" { h2 { (w.progress) } (progress(&visit, &batch)) }
        section data-key="acts" { h2 { (w.acts) } (forms(&visit, &batch, &totals)) }
        section data-key="facts" { h2 { (w.asked_for) } (facts(&visit, &batch, &record, &totals)) }
        @if let Some(Value::Array(all)) = &batch.faults { section data-key="faults" { h2 { (w.faults) " (" (all.len()) ")" } (faults(&visit, all)) } }
        section data-key="audit" { h2 { (w.audit) } (audit_table(&visit, &done)) }
    };
    Ok(layout::page(&visit, &format!("{} {number}", w.batch), &body))
}

fn head(visit: &Visit, batch: &Progress, against: Option<&str>) -> Markup {
    let w = visit.words;
    html! {
        section.head data-key="head" {
            p.hint { a href="/batches" { (w.batches) } " · " (plain(&batch.kind)) " · " (batch.id) }
            h1 { (others(&batch.file)) }
            p { (badge(w, &batch.status)) @if let Some(code) = &batch.paused_code { " " code { (plain(code)) } } }
            @if !batch.holds { p.banner.bad role="alert" { span aria-hidden="true" { "▲ " } (w.does_not_add_up) } }
            @if let Some(refused) = &batch.refused { p.banner.bad { span aria-hidden="true" { "▲ " } (w.refused) ": " span lang="en" { (others(refused)) } } }
            @if let Some(against) = against { p.banner.bad { span aria-hidden="true" { "▲ " } (w.objection) ": " span lang="en" { (others(against)) } } }
        }
    }
}

fn progress(visit: &Visit, batch: &Progress) -> Markup {
    let w = visit.words;
    let [rows, completed, failed, cancelled, parked, open] = counts(batch);
    let jobs = |status: &str| format!("/jobs?batch={}&status={status}", batch.id);
    html! {
        p { progress max=(rows.max(1)) value=(rows - open - parked) aria-label=(w.progress) {} " " (rows - open - parked) " / " (rows) }
        p {
            (rows) " " (w.rows) " = " (completed) " " (w.completed) " + " a href=(jobs("failed")) { (failed) " " (w.failed) } " + "
            (cancelled) " " (w.cancelled) " + " a href=(jobs("needs_operator")) { (parked) " " (w.needs_operator) } " + " (open) " " (w.still_open)
        }
        @if batch.skipped + batch.compensated + batch.mails_sent + batch.mails_failed > 0 { dl.facts {
            dt { (w.skipped) } dd { (batch.skipped) }
            dt { (w.compensated) } dd { (batch.compensated) }
            dt { (w.mails) } dd { (batch.mails_sent) " " (w.sent) " · " (batch.mails_failed) " " (w.failed) }
        } }
        p { a href=(format!("/jobs?batch={}", batch.id)) { (w.its_jobs) } }
    }
}

fn worth(visit: &Visit, totals: &[Total]) -> Markup {
    let w = visit.words;
    html! { @for total in totals {
        span.money { (amount(total.amount, &total.currency)) } " (" (total.rows) " " (w.rows) " · " (total.users) " " (w.users) ") "
    } }
}

fn facts(visit: &Visit, batch: &Progress, record: &Record, totals: &[Total]) -> Markup {
    let w = visit.words;
    html! {
        dl.facts {
            @if !totals.is_empty() { dt { (w.worth) } dd { (worth(visit, totals)) } }
            @if let Some(campaign) = &batch.campaign { dt { (w.campaign) } dd { (others(campaign)) } }
            @if batch.kind == "grants" {
                dt { (w.issues) } dd { (if batch.issues { w.issues_at_once } else { w.issues_when_asked }) @if batch.mails { " · " (w.announced) } }
            }
            dt { (w.file_digest) } dd { (id(&batch.digest)) }
            @if let Some(digest) = &batch.approval_digest { dt { (w.approval_digest) } dd { (id(digest)) } }
            dt { (w.submitted_by) } dd { (plain(&batch.submitted_by)) " · " (time(visit, record.received_at)) }
            @if let (Some(by), Some(at)) = (&batch.approved_by, record.approved_at) {
                dt { (w.approved_by) } dd { (plain(by)) " · " (time(visit, at)) @if let Some(until) = record.approved_until { " · " (w.expires) " " (time(visit, until)) } }
            } @else if record.needs_approval { dt { (w.approved_by) } dd { (w.nobody_yet) } }
            @if let (Some(by), Some(at)) = (&record.released_by, record.released_at) { dt { (w.released_by) } dd { (plain(by)) " · " (time(visit, at)) } }
            @if let Some(at) = record.cancelled_at { dt { (w.cancelled) } dd { (time(visit, at)) } }
            @if let Some(at) = record.settled_at { dt { (w.settled) } dd { (time(visit, at)) } }
        }
    }
}

/// Line, field and sentence: what the field held is not kept.
fn faults(visit: &Visit, all: &[Value]) -> Markup {
    let w = visit.words;
    html! {
        p { (w.invalid_means) }
        div.scroll { table {
            thead { tr { th.number scope="col" { (w.line) } th scope="col" { (w.field) } th scope="col" { (w.detail) } } }
            tbody { @for fault in all.iter().take(FAULTS) { tr {
                td.number { (fault["line"].as_u64().unwrap_or_default()) }
                th scope="row" { (plain(fault["field"].as_str().unwrap_or("–"))) }
                td lang="en" { (others(fault["sentence"].as_str().unwrap_or_default())) }
            } } }
        } }
    }
}

/// Acts that may be legal now; the database decides.
fn may(batch: &Progress) -> Vec<&'static str> {
    let is_paused = batch.status == "paused" || batch.paused_code.is_some();
    let is_over = matches!(batch.status.as_str(), "settled" | "cancelled" | "invalid");
    let acts = [
        ("approve", batch.status == "awaiting_approval"),
        ("release", matches!(batch.status.as_str(), "approved" | "validated")),
        ("pause", !is_paused && !is_over),
        ("resume", is_paused && !is_over),
        ("cancel", !is_over),
    ];
    acts.into_iter().filter(|(_, may)| *may).map(|(act, _)| act).collect()
}

fn forms(visit: &Visit, batch: &Progress, totals: &[Total]) -> Markup {
    let w = visit.words;
    let own = batch.submitted_by == visit.session.owner;
    let scope = |act: &str| if act == "approve" { "approve" } else { "operate" };
    let acts: Vec<_> =
        may(batch).into_iter().filter(|act| visit.may(scope(act)) && !(own && *act == "approve")).collect();
    html! {
        @if batch.status == "awaiting_approval" && own { p.hint { (w.another_person) } }
        @if acts.is_empty() { p.hint { (w.no_acts) } }
        @else { div.acts { @for act in acts { (form(visit, batch, totals, act)) } } }
    }
}

/// With what will happen, and with what stood on the page when it was read.
fn form(visit: &Visit, batch: &Progress, totals: &[Total], act: &str) -> Markup {
    let w = visit.words;
    let (button, does) = match act {
        "approve" => (w.approve, w.approve_does),
        "release" => (w.release, w.release_does),
        "pause" => (w.pause, w.pause_batch_does),
        "resume" => (w.resume, w.resume_batch_does),
        _ => (w.cancel, w.cancel_batch_does),
    };
    html! {
        details name="acts" { summary { b { (button) } " " (does) }
            form method="post" action=(format!("/batches/{}/acts", batch.id)) {
                input type="hidden" name="act" value=(act);
                input type="hidden" name="status" value=(batch.status);
                input type="hidden" name="digest" value=(batch.approval_digest.as_deref().unwrap_or_default());
                p.hint { (batch.rows) " " (w.rows) " · " (worth(visit, totals)) }
                @if act == "approve" {
                    label { span { (w.own_copy) } input name="own" required minlength="64" maxlength="64" autocomplete="off" spellcheck="false"; }
                }
                label { span { (w.reason) } input name="reason" required maxlength="1000" autocomplete="off"; }
                button.main.danger[act != "resume"] { (button) }
            }
        }
    }
}
