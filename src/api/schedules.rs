//! Schedules, read; operators set and steer them with `noshi schedule`.

use axum::{http::StatusCode, response::Response};
use schemars::JsonSchema;
use serde::Serialize;

use super::{
    backend::{Backend, Call, answer},
    refusal::Refusal,
};
use crate::db::queue::schedules::{self, Schedule};

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ScheduleDetail")]
pub struct ScheduleView {
    /// on, paused or stuck.
    state: &'static str,
    #[serde(flatten)]
    schedule: Schedule,
}

pub async fn list(backend: &Backend, call: Call) -> Result<Response, Refusal> {
    let mut transaction = backend.begin(&call).await?;
    let found = schedules::list(&mut *transaction, None).await?;
    let shown: Vec<ScheduleView> =
        found.into_iter().map(|schedule| ScheduleView { state: schedule.state(), schedule }).collect();
    Ok(answer(StatusCode::OK, &shown))
}
