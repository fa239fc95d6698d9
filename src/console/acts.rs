//! Acts: each by a form with a reason and the fence that the page was drawn over. What is legal the database decides.

use axum::{
    Form,
    extract::Path,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use maud::{Markup, html};
use noshi_jobs::machine::Act;
use serde::Deserialize;

use super::{
    html::{job_path, plain},
    layout,
    session::see,
    visit::{Answer, Trouble, Visit},
};
use crate::{
    api::refusal::Refusal,
    db::{
        operator::{jobs, proposals},
        queue::lanes,
    },
    operator::acts,
};

#[derive(Deserialize)]
pub struct OnJob {
    act: String,
    /// The job's step when the page was drawn.
    step: i32,
    reason: String,
}

/// The answer to whoever may not act here, or was not at the keyboard of late where that is asked for.
pub fn turned_away(visit: &Visit, scope: &str, fresh: bool, back: &str) -> Option<Response> {
    if !visit.may(scope) {
        return Some(Trouble(Refusal::missing_scope(scope, &visit.session.scopes)).into_response());
    }
    if fresh && !visit.is_fresh() {
        return Some(see(&format!("/sign-in?again=true&next={}", super::html::part(back))));
    }
    None
}

/// A reason that says something.
pub fn given(reason: &str) -> Result<&str, Trouble> {
    match reason.trim() {
        "" => Err(Trouble(Refusal::field("reason", "An act needs a reason, for the audit. Nothing was done."))),
        reason => Ok(reason),
    }
}

pub async fn on_job(visit: Visit, Path((kind, key)): Path<(String, String)>, Form(form): Form<OnJob>) -> Answer {
    let Some(act) = Act::from_name(&form.act) else {
        return Err(Trouble(Refusal::field("act", "There is no such act. Nothing was done.")));
    };
    let back = job_path(&kind, &key);
    if let Some(answer) = turned_away(&visit, "operate", act.takes_a_word() || act == Act::Cancel, &back) {
        return Ok(answer);
    }
    let reason = given(&form.reason)?;
    let found = jobs::look(visit.pool(), &kind, &key).await?;
    let job = found.ok_or_else(|| Trouble(Refusal::not_found("There is no job of this kind and id.")))?;
    if let Some(why) = acts::refusal(&job.stand(), act) {
        return Err(Trouble(Refusal::conflict(format!("{why}. Nothing was done."))));
    }
    let _place = visit.console.acts.acquire().await;
    let proposal = jobs::ask(&visit.own_pool().await?, job.id, form.step, act, reason).await?;
    let w = visit.words;
    let said = match proposal {
        Some(number) => html! { (w.recorded_proposal) " " a href="/proposals" { (number) } },
        None => html! { (w.recorded_act) },
    };
    Ok(done(&visit, act.name(), &format!("job/{}", job.id), reason, &said, &back))
}

#[derive(Deserialize)]
pub struct OnLane {
    lane: String,
    act: String,
    reason: String,
}

pub async fn on_lane(visit: Visit, Form(form): Form<OnLane>) -> Answer {
    if let Some(answer) = turned_away(&visit, "operate", false, "/lanes") {
        return Ok(answer);
    }
    let reason = given(&form.reason)?;
    let _place = visit.console.acts.acquire().await;
    let pool = visit.own_pool().await?;
    match form.act.as_str() {
        "pause" => lanes::pause(&pool, &form.lane, Some(reason)).await?,
        "resume" => lanes::resume(&pool, &form.lane, Some(reason)).await?,
        _ => return Err(Trouble(Refusal::field("act", "There is no such act. Nothing was done."))),
    }
    let said = html! { (visit.words.recorded_done) };
    Ok(done(&visit, &format!("lane {}", form.act), &format!("lane/{}", form.lane), reason, &said, "/lanes"))
}

#[derive(Deserialize)]
pub struct OnProposal {
    act: String,
    /// Of what was read.
    digest: String,
    reason: String,
}

pub async fn on_proposal(visit: Visit, Path(number): Path<i64>, Form(form): Form<OnProposal>) -> Answer {
    let scope = if form.act == "confirm" { "approve" } else { "operate" };
    if let Some(answer) = turned_away(&visit, scope, form.act == "confirm", "/proposals") {
        return Ok(answer);
    }
    let reason = given(&form.reason)?;
    let digest = hex::decode(&form.digest)
        .map_err(|_| Trouble(Refusal::field("digest", "This digest does not read. Nothing was done.")))?;
    let _place = visit.console.acts.acquire().await;
    let pool = visit.own_pool().await?;
    let said = match form.act.as_str() {
        "confirm" => {
            html! { (visit.words.recorded_done) " " span lang="en" { (plain(&proposals::confirm(&pool, number, &digest, reason).await?)) } }
        }
        "refuse" => {
            proposals::refuse(&pool, number, reason).await?;
            html! { (visit.words.recorded_done) }
        }
        _ => return Err(Trouble(Refusal::field("act", "There is no such act. Nothing was done."))),
    };
    Ok(done(&visit, &format!("proposal {}", form.act), &format!("proposal/{number}"), reason, &said, "/proposals"))
}

/// What was recorded, and a way back. The address is a form's, so asking for it again does nothing.
pub fn done(visit: &Visit, act: &str, target: &str, reason: &str, said: &Markup, back: &str) -> Response {
    let w = visit.words;
    let body = html! {
        h1 { (w.recorded) }
        p.banner.good role="status" { span aria-hidden="true" { "● " } (said) }
        dl.facts {
            dt { (w.act) } dd { (plain(act)) }
            dt { (w.target) } dd { a href=(format!("/audit?target={}", super::html::part(target))) { (plain(target)) } }
            dt { (w.who) } dd { (plain(&visit.session.owner)) }
            dt { (w.reason) } dd { (super::html::others(reason)) }
        }
        p { a.button href=(back) { (w.back) } }
    };
    (StatusCode::OK, layout::page(visit, w.recorded, &body)).into_response()
}
