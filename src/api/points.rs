//! Points, read: what a user owns, when it expires, and how it came about. Whatever changes them is a job.

use axum::{http::StatusCode, response::Response};
use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    backend::{Backend, Call, answer},
    refusal::Refusal,
};
use crate::db::domain::points::{self, Expiring, PointEntry};

/// When and where.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct When {
    /// The instant; now, where none is given.
    at: Option<DateTime<Utc>>,
    /// Where the points are to be used; without it, only those that are good anywhere count.
    area: Option<String>,
}

/// What a user owns.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "UserPoints")]
pub struct Owned {
    user: String,
    balance: i64,
    /// What is lost within the next 90 days unless it is used.
    expiring: Vec<Expiring>,
}

pub async fn show(backend: &Backend, call: Call) -> Result<Response, Refusal> {
    let When { at, area } = call.query()?;
    let user = call.part("user")?;
    let mut transaction = backend.begin(&call).await?;
    let balance = points::balance(&mut *transaction, user, at, area.as_deref()).await?;
    let expiring = points::expiring(&mut *transaction, user, None, at).await?;
    Ok(answer(StatusCode::OK, &Owned { user: user.to_owned(), balance, expiring }))
}

/// Which entries.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Page {
    /// Entries before this number; `next` of the page before.
    before: Option<i64>,
    /// 1 to 1,000; 50, where nothing is said.
    limit: Option<i32>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "PointHistory")]
pub struct History {
    /// The newest first.
    entries: Vec<PointEntry>,
    next: Option<i64>,
}

pub async fn history(backend: &Backend, call: Call) -> Result<Response, Refusal> {
    let Page { before, limit } = call.query()?;
    let limit = limit.unwrap_or(50);
    if !(1..=1_000).contains(&limit) {
        return Err(Refusal::field("limit", "A page has 1 to 1,000 entries."));
    }
    let user = call.part("user")?;
    let mut transaction = backend.begin(&call).await?;
    let entries = points::history(&mut *transaction, user, before, limit).await?;
    let next = entries.last().map(|entry| entry.seq).filter(|seq| *seq > 1);
    Ok(answer(StatusCode::OK, &History { entries, next }))
}
