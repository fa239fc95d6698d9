//! Is money at stake, and does anything wait for a person? From the metric snapshot alone: nothing is counted here.

use axum::response::Response;
use maud::{Markup, html};
use noshi_jobs::Problem;

use super::{
    html::plain,
    layout,
    visit::{Answer, Visit},
    words::Language,
};
use crate::{
    db::operator::snapshot::{self, Sample},
    operator::explain::seconds,
};

pub async fn show(visit: Visit) -> Answer {
    let (samples, age, _) = snapshot::read(visit.pool()).await?;
    Ok(draw(&visit, &samples, age.as_secs_f64()))
}

fn label<'a>(sample: &'a Sample, name: &str) -> &'a str {
    sample.labels.iter().find(|(of, _)| of == name).map_or("", |(_, value)| value)
}

fn draw(visit: &Visit, samples: &[Sample], age: f64) -> Response {
    let w = visit.words;
    let all = |name: &'static str| samples.iter().filter(move |sample| sample.name == name);
    let sum = |name| all(name).map(|sample| sample.value).sum::<f64>();
    let parked: f64 = sum("noshi_parked_jobs");
    let shut = all("noshi_lane_open").filter(|sample| sample.value == 0.0).count() as f64;
    let doubt = sum("noshi_in_doubt_jobs");
    let workers = sum("noshi_workers_alive");
    let batches = sum("noshi_batches_awaiting_approval");
    let tiles = [
        (w.money_in_doubt, doubt, "doubt", "/doubt"),
        (w.needs_you, parked, "bad", "/jobs?status=needs_operator"),
        (w.lanes_shut, shut, "doubt", "/lanes"),
        (w.batches_waiting, batches, "doubt", "/batches"),
        (w.redrives_running, sum("noshi_redrives_open"), "busy", ""),
        (w.workers_alive, workers, if workers == 0.0 { "bad" } else { "good" }, "/workers"),
    ];
    let calm = doubt + parked + shut + batches == 0.0 && workers > 0.0;
    let body = html! {
        h1 { (w.overview) }
        section data-key="state" {
            @if workers == 0.0 { p.banner.bad role="alert" { span aria-hidden="true" { "▲ " } (w.worker_none) } }
            @if calm { p.banner.good { span aria-hidden="true" { "● " } (w.nothing_needs_you) } }
            ul.tiles { @for (name, value, class, to) in tiles {
                li.(if value > 0.0 || class == "bad" && to == "/workers" { class } else { "idle" }) {
                    @if to.is_empty() { span { (tile(name, value)) } } @else { a href=(to) { (tile(name, value)) } }
                }
            } }
            p.hint { (w.taken) " " (seconds((age / 10.0).floor() * 10.0)) " " (w.ago) }
        }
        section data-key="problems" { h2 { (w.problems) } (problems(visit, samples)) }
        section data-key="open" { h2 { (w.open_jobs) } (open(visit, samples)) }
    };
    layout::page(visit, w.overview, &body)
}

fn tile(name: &str, value: f64) -> Markup {
    html! { b { (value) } span { (name) } }
}

/// What a problem means, in the reader's language.
pub fn means(language: Language, problem: &Problem) -> &'static str {
    match language {
        Language::English => problem.sentence(),
        Language::Japanese => problem.japanese(),
    }
}

fn problems(visit: &Visit, samples: &[Sample]) -> Markup {
    let w = visit.words;
    let of = |name: &str, code: &str| {
        samples
            .iter()
            .find(|sample| sample.name == name && label(sample, "code") == code)
            .map_or(0.0, |sample| sample.value)
    };
    let mut there: Vec<&Problem> = Problem::ALL.iter().filter(|it| of("noshi_parked_jobs", it.code()) > 0.0).collect();
    there.sort_by(|a, b| {
        of("noshi_parked_oldest_seconds", b.code()).total_cmp(&of("noshi_parked_oldest_seconds", a.code()))
    });
    html! {
        @if there.is_empty() { p.hint { (w.none) } } @else {
            div.scroll { table {
                thead { tr { th scope="col" { (w.code) } th.number scope="col" { (w.count) } th scope="col" { (w.oldest) } th scope="col" { (w.meaning) } th scope="col" { (w.runbook) } } }
                tbody { @for problem in there { tr {
                    th scope="row" { a href=(format!("/jobs?status=needs_operator&code={}", problem.code())) { (problem.code()) } }
                    td.number { (of("noshi_parked_jobs", problem.code())) }
                    td { (seconds(of("noshi_parked_oldest_seconds", problem.code()))) }
                    td { (means(visit.language, problem)) }
                    td { a href=(format!("/runbook/{}", problem.code())) { (w.show) } }
                } } }
            } }
        }
    }
}

fn open(visit: &Visit, samples: &[Sample]) -> Markup {
    let w = visit.words;
    let there: Vec<&Sample> =
        samples.iter().filter(|sample| sample.name == "noshi_open_jobs" && sample.value > 0.0).collect();
    html! {
        @if there.is_empty() { p.hint { (w.none) } } @else {
            div.scroll { table {
                thead { tr { th scope="col" { (w.kind) } th scope="col" { (w.status) } th.number scope="col" { (w.count) } } }
                tbody { @for sample in there { tr {
                    th scope="row" { (plain(label(sample, "kind"))) }
                    td { (super::html::badge(w, label(sample, "status"))) }
                    td.number { (sample.value) }
                } } }
            } }
        }
    }
}
