//! `POST /v1/events/ses`: what became of mails, as Amazon SES publishes it through SNS.

use axum::Router;
use sqlx::PgPool;

use crate::settings::Settings;

pub fn open(_: &Settings, _: &PgPool) -> anyhow::Result<Option<Router>> {
    Ok(None)
}
