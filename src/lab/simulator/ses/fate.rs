//! What becomes of a message once SES took it, and the events that tell it.

use chrono::{SecondsFormat, Utc};
use serde_json::{Value, json};

use super::state::{Fate, Message};
use crate::lab::simulator::{context::Inner, partner::Partner, publish::Notice, sns};

pub fn notices(inner: &Inner, message: &Message, id: &str) -> Vec<Notice> {
    let (Some(url), Some(set)) = (&inner.config.ses.events_url, &message.configuration_set) else {
        return vec![];
    };
    let certificate = format!("http://{}{}", inner.addr, sns::CERTIFICATE_PATH);
    let topic = &inner.config.ses.topic_arn;
    let notice = |kind: &'static str| {
        let timestamp = Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true);
        let told = event(kind, message, set, id, &timestamp).to_string();
        let event_id = format!("{id}-{kind}");
        let body = match sns::notification(&event_id, topic, &timestamp, &certificate, &told) {
            Ok(body) => body,
            Err(error) => {
                tracing::error!(%error, "the simulator cannot sign an event and does not publish it");
                return None;
            }
        };
        Some(Notice {
            partner: Partner::Ses,
            trade: Some(message.job.clone()),
            kind,
            message: event_id,
            url: url.clone(),
            headers: vec![
                ("content-type", "text/plain; charset=UTF-8".to_owned()),
                ("x-amz-sns-message-type", "Notification".to_owned()),
                ("x-amz-sns-topic-arn", topic.clone()),
            ],
            signed: None,
            body,
        })
    };
    message.fate.events().iter().filter_map(|kind| notice(kind)).collect()
}

/// The `Message` of the notification.
fn event(kind: &str, message: &Message, set: &str, id: &str, timestamp: &str) -> Value {
    let mut tags = message.tags.clone();
    tags.insert("ses:configuration-set".to_owned(), json!([set]));
    let mut event = json!({
        "eventType": kind,
        "mail": {
            "timestamp": timestamp,
            "source": message.from,
            "messageId": id,
            "destination": message.recipients,
            "tags": tags,
        },
    });
    let each = || -> Value { message.recipients.iter().map(|address| json!({"emailAddress": address})).collect() };
    event[kind.to_ascii_lowercase()] = match kind {
        "Delivery" => json!({"timestamp": timestamp, "processingTimeMillis": 10, "recipients": message.recipients}),
        "Bounce" => {
            let (of, why) = match message.fate {
                Fate::Transient => ("Transient", "MailboxFull"),
                Fate::Suppressed => ("Permanent", "OnAccountSuppressionList"),
                Fate::Bounce | Fate::Delivery | Fate::Complaint | Fate::Reject => ("Permanent", "General"),
            };
            json!({
                "timestamp": timestamp,
                "feedbackId": format!("{id}-feedback"),
                "bounceType": of,
                "bounceSubType": why,
                "bouncedRecipients": each(),
            })
        }
        "Complaint" => json!({
            "timestamp": timestamp,
            "feedbackId": format!("{id}-feedback"),
            "complaintFeedbackType": "abuse",
            "complainedRecipients": each(),
        }),
        "Reject" => json!({"reason": "Bad content"}),
        _ => json!({}),
    };
    event
}
