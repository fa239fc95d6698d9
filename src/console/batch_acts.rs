//! Acts on a batch: over what the page showed, in the name of whoever read it.

use axum::{Form, extract::Path};
use maud::{Markup, html};
use serde::Deserialize;

use super::{
    acts::{done, given, turned_away},
    batches::find,
    html::time,
    visit::{Answer, Trouble, Visit},
};
use crate::{
    api::refusal::Refusal,
    db::{
        domain::batches::{self, Progress},
        operator::tokens::Caller,
    },
    operator::readings::ask::{self, By, What},
};

#[derive(Deserialize)]
pub struct OnBatch {
    act: String,
    /// As the page showed it.
    status: String,
    /// What the page said an approval is given for.
    #[serde(default)]
    digest: String,
    /// SHA-256 of the approver's own copy of the file.
    #[serde(default)]
    own: String,
    reason: String,
}

pub async fn on_batch(visit: Visit, Path(number): Path<i64>, Form(form): Form<OnBatch>) -> Answer {
    let back = format!("/batches/{number}");
    let (scope, fresh) = match form.act.as_str() {
        "approve" => ("approve", true),
        "release" | "cancel" => ("operate", true),
        "pause" | "resume" => ("operate", false),
        _ => return Err(Trouble(Refusal::field("act", "There is no such act. Nothing was done."))),
    };
    if let Some(answer) = turned_away(&visit, scope, fresh, &back) {
        return Ok(answer);
    }
    let reason = given(&form.reason)?;
    let batch = find(visit.pool(), number).await?;
    // A pause is never too late; anything else was decided over what the page showed.
    if form.act != "pause" && form.status != batch.status {
        return Err(Trouble(Refusal::conflict(format!(
            "This batch is {} by now, and no longer as the page showed it. Nothing was done; look again.",
            batch.status
        ))));
    }
    let said = carry_out(&visit, &batch, &form, reason).await?;
    Ok(done(&visit, &format!("batch {}", form.act), &format!("batch/{number}"), reason, &said, &back))
}

async fn carry_out(visit: &Visit, batch: &Progress, form: &OnBatch, reason: &str) -> Result<Markup, Trouble> {
    let w = visit.words;
    if form.act == "approve" {
        return approve(visit, batch, form, reason).await;
    }
    let _place = visit.console.acts.acquire().await;
    let pool = visit.own_pool().await?;
    Ok(match form.act.as_str() {
        "release" => {
            batches::release(&pool, batch.id, Some(reason)).await?;
            html! { (w.recorded_done) }
        }
        "pause" => {
            batches::pause(&pool, batch.id, reason).await?;
            html! { (w.recorded_done) }
        }
        "resume" => {
            batches::resume(&pool, batch.id, reason).await?;
            html! { (w.recorded_done) }
        }
        _ => {
            let ended = batches::cancel(&pool, batch.id, reason).await?;
            html! { (w.recorded_done) " " (ended) " " (w.ended_with_it) }
        }
    })
}

async fn approve(visit: &Visit, batch: &Progress, form: &OnBatch, reason: &str) -> Result<Markup, Trouble> {
    let digest = hex::decode(&form.digest).ok().filter(|digest| digest.len() == 32);
    let digest = digest.ok_or_else(|| {
        Trouble(Refusal::field("digest", "This digest does not read. Nothing was approved; open the batch again."))
    })?;
    if form.own.trim().to_lowercase() != batch.digest {
        return Err(Trouble(Refusal::conflict(format!(
            "Your copy is not the file of batch {}, byte for byte. Nothing was approved; ask {} which file was meant.",
            batch.id, batch.submitted_by
        ))));
    }
    // What is approved is what is staged: whoever submitted the file could have staged anything. A worker compares them, which can open the file.
    if batch.approval_digest.as_deref() == Some(form.digest.as_str()) {
        let caller = Caller { bearer: visit.bearer.clone(), traceparent: None };
        let by = By::Token { pool: visit.pool(), caller: &caller, scope: "approve" };
        let check = ask::ask(by, &visit.console.ears, What::Check { batch: batch.id }).await.map_err(Refusal::from)?;
        check.whole().await.map_err(Refusal::from)?;
    }
    let _place = visit.console.acts.acquire().await;
    let until = batches::approve(&visit.own_pool().await?, batch.id, &digest, reason).await?;
    Ok(html! { (visit.words.approved_until) " " (time(visit, until)) })
}
