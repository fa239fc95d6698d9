//! What a person's word about money waits for: read, confirmed by a second person, refused.

use axum::{http::StatusCode, response::Response};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    backend::{Backend, Call, answer},
    body,
    refusal::Refusal,
};
use crate::db::operator::proposals;

pub async fn list(backend: &Backend, call: Call) -> Result<Response, Refusal> {
    let found = proposals::list(&*backend.pool_of(&call).await?, true, 200).await?;
    Ok(answer(StatusCode::OK, &found))
}

pub async fn show(backend: &Backend, call: Call) -> Result<Response, Refusal> {
    let number = call.number("proposal")?;
    match proposals::one(&*backend.pool_of(&call).await?, number).await? {
        Some(found) => Ok(answer(StatusCode::OK, &found)),
        None => Err(Refusal::not_found(format!("There is no proposal {number}."))),
    }
}

/// A confirmation, by somebody else than who has proposed it.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Confirm {
    /// The `digest` of the proposal that was read: it stands for what will be done.
    digest: String,
    reason: String,
}

/// What became of it.
#[derive(Serialize, JsonSchema)]
pub struct Decided {
    proposal: i64,
    /// In a sentence.
    done: String,
}

pub async fn confirm(backend: &Backend, call: Call) -> Result<Response, Refusal> {
    let Confirm { digest, reason } = body::json(&call.text)?;
    let number = call.number("proposal")?;
    let digest = hex::decode(&digest).ok().filter(|digest| digest.len() == 32);
    let digest = digest.ok_or_else(|| Refusal::field("digest", "A digest is that of the proposal, 64 hex digits."))?;
    let done = proposals::confirm(&*backend.pool_of(&call).await?, number, &digest, &reason).await?;
    Ok(answer(StatusCode::OK, &Decided { proposal: number, done }))
}

pub async fn refuse(backend: &Backend, call: Call) -> Result<Response, Refusal> {
    let (reason, number) = (super::batches::reason(&call)?, call.number("proposal")?);
    proposals::refuse(&*backend.pool_of(&call).await?, number, &reason).await?;
    Ok(answer(StatusCode::OK, &Decided { proposal: number, done: "refused".to_owned() }))
}
