//! `POST /v1/events/ses`: what became of mails, as Amazon SES publishes it through SNS.
//!
//! Whatever is signed and for a topic of ours is kept and answered 200, whether its type is known or not: an event that
//! was refused would come again for days. Hard bounces and complaints suppress the address.

use std::sync::Arc;

use anyhow::{Context, ensure};
use axum::{Router, extract::State, http::StatusCode, routing::post};
use rand::RngCore;
use secrecy::SecretString;

use self::event::MailEvent;
use super::sns::{self, Checker, Notification};
use crate::{
    api::answer::{Received, Refused},
    db::{
        PgPool,
        domain::mails::{self, Heard, Suppress},
    },
    settings::Settings,
    vault::{SealedAt, Sealer},
};

mod event;

struct Webhook {
    pool: PgPool,
    checker: Checker,
    sealer: Sealer,
    configuration_set: String,
}

pub fn open(settings: &Settings, pool: &PgPool) -> anyhow::Result<Option<Router>> {
    let Some(ses) = settings.email.as_ref().and_then(|email| email.ses.as_ref()) else { return Ok(None) };
    ensure!(!ses.topics.is_empty(), "[email.ses] names no `topics`, so no event could be believed");
    let checker = Checker::new(&ses.topics, ses.certificate_file.as_deref())?;
    let sealer = settings.sealer().context("the API seals addresses that bounced")?;
    let configuration_set = ses.configuration_set.clone();
    let webhook = Arc::new(Webhook { pool: pool.clone(), checker, sealer, configuration_set });
    Ok(Some(Router::new().route("/v1/events/ses", post(receive)).with_state(webhook)))
}

async fn receive(State(webhook): State<Arc<Webhook>>, Received(body): Received) -> Result<StatusCode, Refused> {
    let notification = webhook.checker.read(&body).await?;
    match notification.kind.as_str() {
        "SubscriptionConfirmation" => sns::confirm(&notification).await?,
        "Notification" => webhook.keep(&notification).await.map_err(|error| Refused::database(&error))?,
        // Someone unsubscribed us; the topic's owner has to know why.
        "UnsubscribeConfirmation" => {
            tracing::warn!(topic = notification.topic_arn, "the topic does not send us events any more");
        }
        _ => {}
    }
    Ok(StatusCode::OK)
}

impl Webhook {
    async fn keep(&self, notification: &Notification) -> Result<(), sqlx::Error> {
        let MailEvent { event, suppress } = event::read(notification, &self.configuration_set);
        let mut transaction = self.pool.begin().await?;
        let heard = mails::record_event(&mut transaction, &event).await?;
        let counts = match heard {
            Heard::Ours | Heard::Other => true,
            Heard::Again | Heard::Foreign => false,
        };
        if let Some((reason, addresses)) = suppress.filter(|_| counts) {
            for address in &addresses {
                self.suppress(&mut transaction, reason, address, &event.id).await?;
            }
        }
        transaction.commit().await?;
        match event.unread || heard == Heard::Foreign {
            true => tracing::warn!(
                event = event.event,
                job = event.job,
                ?heard,
                unread = event.unread,
                "an event about a mail that is not ours, or that is not understood; it is kept, and settles nothing of what it does not tell"
            ),
            false => tracing::info!(event = event.event, job = event.job, ?heard, "an event about a mail"),
        }
        Ok(())
    }

    async fn suppress(
        &self,
        connection: &mut crate::db::PgConnection,
        reason: &'static str,
        address: &SecretString,
        event: &str,
    ) -> Result<(), sqlx::Error> {
        let mut bytes = [0; 16];
        rand::rng().fill_bytes(&mut bytes);
        let id = format!("s-{}", hex::encode(bytes));
        let sealed = self.sealer.seal(&SealedAt { grant: &id, provider: "", column: "suppressed" }, address);
        mails::suppress(connection, &Suppress { id: &id, reason, event, sealed: &sealed }).await?;
        tracing::info!(reason, suppression = id, "an address is sealed; a worker suppresses it");
        Ok(())
    }
}
