//! Lanes: how each stands, and its pause.

use maud::{Markup, html};

use super::{
    html::{badge, others, part, plain},
    layout,
    visit::{Answer, Visit},
};
use crate::{
    db::queue::lanes::{self, LaneState},
    operator::explain::seconds,
};

pub async fn list(visit: Visit) -> Answer {
    let w = visit.words;
    let all = lanes::list(visit.pool()).await?;
    let body = html! {
        h1 { (w.lanes) }
        @if all.is_empty() { p.hint { (w.none) } }
        @for lane in &all { (one(&visit, lane)) }
    };
    Ok(layout::page(&visit, w.lanes, &body))
}

fn stands(lane: &LaneState) -> &'static str {
    match (lane.paused, lane.closed_code.is_some(), lane.closed_for.is_some()) {
        (true, ..) => "paused",
        (false, true, _) => "closed",
        (false, false, true) => "throttled",
        (false, false, false) => "open",
    }
}

fn one(visit: &Visit, lane: &LaneState) -> Markup {
    let w = visit.words;
    let stands = stands(lane);
    // Work without a lane is local: there is no call to hold back.
    let named = if lane.name.is_empty() { "–" } else { &lane.name };
    html! {
        section.card data-key=(format!("lane-{}", part(&lane.name))) {
            h2 { (others(named)) " " (badge(w, stands)) }
            dl.facts {
                dt { (w.waiting) } dd { a href=(format!("/jobs?lane={}", part(&lane.name))) { (lane.waiting) } @if let Some(oldest) = lane.oldest_available { " · " (w.oldest) " " (seconds(oldest)) } }
                dt { (w.budget) } dd { (plain(&lane.budgets)) }
                @if let Some(code) = &lane.closed_code { dt { (w.closed) } dd { (plain(code)) } }
                @if let Some(who) = &lane.paused_by { dt { (w.paused) } dd { (w.by) " " (plain(who)) ": " (others(lane.paused_because.as_deref().unwrap_or_default())) } }
                @if let Some(answer) = &lane.last_answer { dt { (w.last_answer) } dd { (others(answer)) " · " (seconds(lane.last_answer_ago.unwrap_or_default())) " " (w.ago) } }
            }
            @if visit.may("operate") && !lane.name.is_empty() { (form(visit, lane, stands != "open")) }
        }
    }
}

fn form(visit: &Visit, lane: &LaneState, shut: bool) -> Markup {
    let w = visit.words;
    let (act, does, button) = if shut { ("resume", w.resume_does, w.resume) } else { ("pause", w.pause_does, w.pause) };
    html! {
        details { summary { b { (button) } " " (does) }
            form method="post" action="/lanes/acts" {
                input type="hidden" name="lane" value=(lane.name);
                input type="hidden" name="act" value=(act);
                label { span { (w.reason) } input name="reason" required maxlength="1000" autocomplete="off"; }
                button.main.danger { (button) }
            }
        }
    }
}
