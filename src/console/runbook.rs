//! The pages of the runbook, as they stand in this binary.

use axum::extract::Path;
use maud::{Markup, html};

use super::{
    html::part,
    layout,
    visit::{Answer, Trouble, Visit},
};
use crate::api::refusal::Refusal;

macro_rules! pages {
    ($($code:literal,)+) => {
        const PAGES: &[(&str, &str)] = &[$(($code, include_str!(concat!("../../ops/runbook/", $code, ".md"))),)+];
    };
}

pages! {
    "address_suppressed",
    "assign_spent",
    "bad_args",
    "batch_cancelled",
    "batch_duplicates",
    "batch_equation_broken",
    "batch_not_approved",
    "batch_over_cap",
    "cancel_refused",
    "compensation_refused",
    "compensation_stuck",
    "doubt_unresolved",
    "effect_attested_void",
    "effect_cancelled",
    "effect_misfit",
    "effect_not_cancelled",
    "effect_pending",
    "effect_refused",
    "effect_revoked",
    "effect_undeclared",
    "effect_unresolved",
    "follow_up_conflict",
    "gift_conflict",
    "gift_refused",
    "gift_revoked",
    "gift_void",
    "grant_lapsed",
    "local_refused",
    "mail_bounced",
    "mail_rejected",
    "mail_revoked",
    "mail_unresolved",
    "no_provider",
    "no_recipient",
    "not_found_in_doubt",
    "not_opened",
    "organization_refused",
    "out_of_tries",
    "over_deadline",
    "panicked",
    "past_horizon",
    "pending_too_long",
    "points_conflict",
    "points_insufficient",
    "points_revoked",
    "poison",
    "probe_asked",
    "probe_refused",
    "resend_exhausted",
    "reversal_refused",
    "settle_refused",
    "shop_attested_void",
    "shop_key_conflict",
    "shop_refused",
    "shop_unresolved",
    "store_conflict",
    "store_revoked",
    "too_many_steps",
    "too_old",
    "trade_occupied",
    "unreadable_state",
    "unsettled_doubt",
    "user_withdrawn",
}

pub fn page(code: &str) -> Option<&'static str> {
    PAGES.iter().find(|(of, _)| *of == code).map(|(_, page)| *page)
}

pub async fn show(visit: Visit, Path(code): Path<String>) -> Answer {
    let page = page(&code).ok_or_else(|| Trouble(Refusal::not_found("The runbook has no page of this name.")))?;
    let body = html! {
        article.runbook { (draw(page)) }
        p { a.button href=(format!("/jobs?status=needs_operator&code={}", part(&code))) { (visit.words.jobs) } }
    };
    Ok(layout::page(&visit, &code, &body))
}

/// As much of Markdown as our own pages use.
pub fn draw(page: &str) -> Markup {
    // Every other piece is code, behind the name of its language.
    let pieces = page.split("```").enumerate();
    html! { @for (at, piece) in pieces { @if at % 2 == 1 {
        pre tabindex="0" { code { (piece.split_once('\n').map_or("", |(_, code)| code).trim_end()) } }
    } @else {
        @for block in piece.split("\n\n").map(str::trim).filter(|block| !block.is_empty()) { (block_of(block)) }
    } } }
}

fn block_of(block: &str) -> Markup {
    if let Some((marks, title)) = block.split_once(' ').filter(|(marks, _)| ["#", "##"].contains(marks)) {
        let (title, rest) = title.split_once('\n').unwrap_or((title, ""));
        return html! {
            @if marks == "#" { h2 { (inline(title)) } } @else { h3 { (inline(title)) } }
            @if !rest.is_empty() { (block_of(rest)) }
        };
    }
    let is_item = |line: &str| {
        line.starts_with("- ") || line.split_once(". ").is_some_and(|(number, _)| number.parse::<u8>().is_ok())
    };
    // A sentence may stand right above its list.
    let said: Vec<&str> = block.lines().take_while(|line| !is_item(line)).collect();
    let mut items: Vec<String> = vec![];
    for line in block.lines().skip(said.len()) {
        match (is_item(line), items.last_mut()) {
            (false, Some(last)) => *last += &format!(" {}", line.trim()),
            _ => items.push(line.split_once(' ').map_or("", |(_, item)| item).to_owned()),
        }
    }
    html! {
        @if !said.is_empty() { p { (inline(&said.join(" "))) } }
        @if !items.is_empty() { ul { @for item in items { li { (inline(&item)) } } } }
    }
}

/// Code between backticks; of a link its words.
fn inline(text: &str) -> Markup {
    html! { @for (at, piece) in text.split('`').enumerate() { @if at % 2 == 1 { code { (piece) } } @else { (unlinked(piece)) } } }
}

fn unlinked(text: &str) -> String {
    let mut words = String::new();
    let mut rest = text;
    while let Some((before, (label, after))) = rest
        .split_once('[')
        .and_then(|(before, link)| Some((before, link.split_once("](")?)))
        .and_then(|(before, (label, address))| Some((before, (label, address.split_once(')')?.1))))
    {
        words += before;
        words += label;
        rest = after;
    }
    (words + rest).replace("**", "")
}

#[cfg(test)]
mod tests {
    use noshi_jobs::Problem;

    use super::*;

    #[test]
    fn each_problem_has_its_page() {
        for problem in Problem::ALL {
            let drawn = draw(page(problem.code()).unwrap_or_else(|| panic!("{} has no page here", problem.code())))
                .into_string();
            assert!(
                drawn.contains("<h2>") && drawn.contains("<h3>") && !drawn.contains('`'),
                "{}: {drawn}",
                problem.code()
            );
        }
        assert_eq!(page("../secrets"), None);
        assert_eq!(draw("a `<b>` [c](d.md)").into_string(), "<p>a <code>&lt;b&gt;</code> c</p>");
    }
}
