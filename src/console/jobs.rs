//! Many jobs: by a filter that has an index, by doubt, or by a name that somebody knows. The filter is the address.

use axum::extract::Query;
use maud::{Markup, html};
use noshi_jobs::Problem;
use serde::Deserialize;

use super::{
    html::{badge, id, job_path, part, plain},
    layout,
    session::see,
    visit::{Answer, Visit},
};
use crate::{
    basics::kinds,
    db::{
        operator::jobs::{self, Filter, Line},
        queue::settle::Status,
    },
    operator::explain::seconds,
};

const PAGE: i64 = 50;

/// Forms send fields that were left empty, too.
#[derive(Deserialize, Default)]
#[serde(default)]
pub struct Wanted {
    kind: String,
    status: String,
    code: String,
    lane: String,
    batch: String,
    of: String,
    in_doubt: String,
    before: String,
}

impl Wanted {
    fn filter(&self) -> Filter {
        let given = |text: &str| Some(text.trim().to_owned()).filter(|text| !text.is_empty() && !text.contains('\0'));
        Filter {
            kind: given(&self.kind),
            status: Status::from_name(&self.status),
            code: given(&self.code),
            lane: given(&self.lane),
            batch: self.batch.trim().parse().ok(),
            in_doubt: self.in_doubt == "yes",
            of: given(&self.of),
            before: self.before.parse().ok(),
            most: PAGE,
        }
    }

    /// The same filter, further back.
    fn older(&self, before: i64) -> String {
        let fields = [
            ("kind", &self.kind),
            ("status", &self.status),
            ("code", &self.code),
            ("lane", &self.lane),
            ("batch", &self.batch),
            ("of", &self.of),
            ("in_doubt", &self.in_doubt),
        ];
        let given = fields
            .into_iter()
            .filter(|(_, text)| !text.is_empty())
            .map(|(name, text)| format!("{name}={}&", part(text)));
        format!("/jobs?{}before={before}", given.collect::<String>())
    }
}

fn kinds() -> Vec<&'static str> {
    kinds::names().to_vec()
}

pub async fn list(visit: Visit, Query(wanted): Query<Wanted>) -> Answer {
    let w = visit.words;
    let lines = jobs::list(visit.pool(), &wanted.filter(), &kinds()).await?;
    let next = lines.last().filter(|_| lines.len() as i64 == PAGE).map(|line| line.id);
    let body = html! {
        h1 { (w.jobs) }
        (filters(&visit, &wanted))
        section data-key="jobs" {
            @if lines.is_empty() { p.hint { (w.no_jobs) } } @else { (table(&visit, &lines)) }
            @if let Some(next) = next { p { a.button rel="next" href=(wanted.older(next)) { (w.older) } } }
        }
    };
    Ok(layout::page(&visit, w.jobs, &body))
}

pub async fn doubt(visit: Visit, Query(wanted): Query<Wanted>) -> Answer {
    let w = visit.words;
    let wanted = Wanted { in_doubt: "yes".to_owned(), before: wanted.before, ..Wanted::default() };
    let lines = jobs::list(visit.pool(), &wanted.filter(), &[]).await?;
    let next = lines.last().filter(|_| lines.len() as i64 == PAGE).map(|line| line.id);
    let body = html! {
        h1 { (w.doubt) }
        section data-key="jobs" {
            @if lines.is_empty() { p.banner.good { span aria-hidden="true" { "● " } (w.none) } } @else { (table(&visit, &lines)) }
            @if let Some(next) = next { p { a.button rel="next" href=(wanted.older(next)) { (w.older) } } }
        }
    };
    Ok(layout::page(&visit, w.doubt, &body))
}

/// Where one job goes by the name, that job; else all that do.
pub async fn find(visit: Visit, Query(wanted): Query<Wanted>) -> Answer {
    let w = visit.words;
    let of = wanted.of.trim().to_owned();
    let filter = Filter { of: Some(of.clone()), most: PAGE, ..Filter::default() };
    let lines = match of.is_empty() || of.contains('\0') {
        true => vec![],
        false => jobs::list(visit.pool(), &filter, &kinds()).await?,
    };
    // Whose it is may be read off the id, so the log has none.
    tracing::info!(who = visit.session.owner, found = lines.len(), "somebody looked something up");
    if let [line] = lines.as_slice() {
        return Ok(see(&job_path(&line.kind, &line.key)));
    }
    let body = html! {
        h1 { (w.find_short) ": " (id(&of)) }
        section data-key="jobs" {
            @if lines.is_empty() { p.hint { (w.nothing_found) } } @else { (table(&visit, &lines)) }
        }
    };
    Ok(layout::page(&visit, w.find_short, &body))
}

fn choice(name: &str, label: &str, any: &str, chosen: &str, all: &[(&str, &str)]) -> Markup {
    html! {
        label { span { (label) } select name=(name) {
            option value="" { (any) }
            @for (value, shown) in all { option value=(value) selected[*value == chosen] { (shown) } }
        } }
    }
}

fn text(name: &str, label: &str, value: &str) -> Markup {
    html! { label { span { (label) } input name=(name) value=(plain(value)) maxlength="200"; } }
}

fn filters(visit: &Visit, wanted: &Wanted) -> Markup {
    let w = visit.words;
    let kinds = kinds();
    let kinds: Vec<_> = kinds.iter().map(|kind| (*kind, *kind)).collect();
    let statuses: Vec<_> = Status::ALL.map(Status::name).iter().map(|status| (*status, w.status(status))).collect();
    let codes: Vec<_> = Problem::ALL.iter().map(|problem| (problem.code(), problem.code())).collect();
    html! {
        form.filters method="get" action="/jobs" {
            (choice("kind", w.kind, w.any, &wanted.kind, &kinds))
            (choice("status", w.status, w.any, &wanted.status, &statuses))
            (choice("code", w.code, w.any, &wanted.code, &codes))
            (choice("in_doubt", w.in_doubt, w.any, &wanted.in_doubt, &[("yes", w.only_in_doubt)]))
            (text("lane", w.lane, &wanted.lane))
            (text("batch", w.batch, &wanted.batch))
            (text("of", w.of, &wanted.of))
            button.main { (w.show) }
        }
    }
}

fn table(visit: &Visit, lines: &[Line]) -> Markup {
    let w = visit.words;
    html! {
        div.scroll { table.rows {
            thead { tr {
                th.number scope="col" { (w.number) } th scope="col" { (w.kind) } th scope="col" { (w.id) } th scope="col" { (w.status) }
                th scope="col" { (w.stands_at) } th scope="col" { (w.code) } th scope="col" { (w.lane) } th scope="col" { (w.since) }
            } }
            tbody { @for line in lines { tr {
                td.number { (line.id) }
                td { (plain(&line.kind)) }
                th scope="row" { a href=(job_path(&line.kind, &line.key)) { (id(&line.key)) } }
                td { (badge(w, &line.status)) @if line.in_doubt { " " (badge(w, "in_doubt")) } }
                td { (plain(&line.at)) }
                td { @if let Some(code) = &line.code { a href=(format!("/runbook/{}", part(code))) { (plain(code)) } } }
                td { (plain(&line.lane)) }
                td { (seconds(line.in_state)) }
            } } }
        } }
    }
}
