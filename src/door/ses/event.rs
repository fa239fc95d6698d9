//! What an event of SES says. Its addresses leave this file as secrets only.

use chrono::{DateTime, Utc};
use lettre::message::Mailbox;
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::Value;

use crate::{door::sns::Notification, store::mails::NewEvent};

pub struct Told {
    pub event: NewEvent,
    /// Addresses that nothing may be sent to any more, and why.
    pub suppress: Option<(&'static str, Vec<SecretString>)>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Wire {
    event_type: Option<String>,
    /// How notifications of an identity, without a configuration set, name it.
    notification_type: Option<String>,
    mail: Mail,
    bounce: Option<Bounce>,
    complaint: Option<Complaint>,
    delivery: Option<Value>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Mail {
    timestamp: Option<DateTime<Utc>>,
    message_id: Option<String>,
    tags: Value,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Bounce {
    timestamp: Option<DateTime<Utc>>,
    bounce_type: Option<String>,
    bounce_sub_type: Option<String>,
    bounced_recipients: Vec<Whom>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Complaint {
    timestamp: Option<DateTime<Utc>>,
    complaint_feedback_type: Option<String>,
    complained_recipients: Vec<Whom>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Whom {
    email_address: SecretString,
}

pub fn read(notification: &Notification) -> Told {
    // Such as the sentence with which SES tries a topic: kept as an event of no known type.
    let wire = serde_json::from_str::<Wire>(&notification.message).unwrap_or_default();
    let job = wire.mail.tags["job_id"][0].as_str().and_then(|id| id.parse().ok());
    let kind = name(wire.event_type.as_deref().or(wire.notification_type.as_deref()).unwrap_or("unknown"));
    let delivered_at = wire.delivery.as_ref().and_then(|delivery| delivery["timestamp"].as_str());
    let happened_at = [
        wire.bounce.as_ref().and_then(|bounce| bounce.timestamp),
        wire.complaint.as_ref().and_then(|complaint| complaint.timestamp),
        delivered_at.and_then(|text| text.parse().ok()),
        wire.mail.timestamp,
    ];
    let event = NewEvent {
        id: id(&notification.message_id),
        job,
        message: wire.mail.message_id.as_deref().map(id).filter(|id| !id.is_empty()),
        happened_at: happened_at.into_iter().flatten().next(),
        detail: detail(&wire),
        event: kind,
    };
    Told { event, suppress: suppress(wire) }
}

/// `RenderingFailure` and `Rendering Failure` are `rendering_failure`.
fn name(kind: &str) -> String {
    let mut name = String::new();
    for letter in kind.chars().filter(|letter| letter.is_ascii_alphabetic()).take(40) {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_lowercase());
    }
    if name.is_empty() { "unknown".to_owned() } else { name }
}

/// Visible ASCII, and short: it is kept as it is.
fn id(text: &str) -> String {
    text.chars().filter(char::is_ascii_graphic).take(200).collect()
}

/// SES's own words for the kind, never its diagnostic text: that quotes addresses.
fn detail(wire: &Wire) -> Option<String> {
    let word = |word: &str| -> String {
        word.chars().filter(|letter| letter.is_ascii_alphanumeric() || *letter == '-').take(40).collect()
    };
    if let Some(Bounce { bounce_type, bounce_sub_type, .. }) = &wire.bounce {
        let words = [bounce_type, bounce_sub_type].map(|part| word(part.as_deref().unwrap_or_default()));
        return Some(words.join("/"));
    }
    wire.complaint.as_ref().and_then(|complaint| complaint.complaint_feedback_type.as_deref()).map(word)
}

fn suppress(wire: Wire) -> Option<(&'static str, Vec<SecretString>)> {
    let (reason, whom) = match (wire.bounce, wire.complaint) {
        (Some(bounce), _) if bounce.bounce_type.as_deref() == Some("Permanent") => {
            ("bounced", bounce.bounced_recipients)
        }
        // Somebody took a complaint back.
        (_, Some(complaint)) if complaint.complaint_feedback_type.as_deref() == Some("not-spam") => return None,
        (_, Some(complaint)) => ("complained", complaint.complained_recipients),
        (_, None) => return None,
    };
    Some((reason, whom.into_iter().map(|whom| bare(whom.email_address)).collect()))
}

/// The address alone, if it came with a name.
fn bare(address: SecretString) -> SecretString {
    use secrecy::ExposeSecret;
    match address.expose_secret().parse::<Mailbox>() {
        Ok(mailbox) => SecretString::from(mailbox.email.to_string()),
        Err(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;
    use serde_json::json;

    use super::*;

    fn told(message: &Value) -> Told {
        let text = if message.is_string() { message.as_str().unwrap().to_owned() } else { message.to_string() };
        let notification = json!({
            "Type": "Notification", "MessageId": "m-1", "TopicArn": "t", "Message": text, "Timestamp": "",
            "SignatureVersion": "2", "Signature": "", "SigningCertURL": "",
        });
        read(&serde_json::from_value(notification).unwrap())
    }

    fn mail(kind: &str, part: &Value) -> Value {
        let key = kind.to_ascii_lowercase();
        json!({
            "eventType": kind, key: part,
            "mail": {
                "timestamp": "2030-01-01T00:00:00.000Z", "messageId": "0106-1", "destination": ["hana@example.jp"],
                "tags": {"job_id": ["17"], "template": ["gift_granted"]},
            },
        })
    }

    #[test]
    fn an_event_names_its_job_and_no_address() {
        let recipients = json!([{"emailAddress": "花子 <hana@example.jp>", "diagnosticCode": "550 <hana@example.jp>"}]);
        let bounce = json!({
            "bounceType": "Permanent", "bounceSubType": "General", "timestamp": "2030-01-01T00:00:09Z",
            "bouncedRecipients": recipients,
        });
        let Told { event, suppress } = told(&mail("Bounce", &bounce));
        assert_eq!((event.job, event.event.as_str(), event.id.as_str()), (Some(17), "bounce", "m-1"));
        assert_eq!((event.message.as_deref(), event.detail.as_deref()), (Some("0106-1"), Some("Permanent/General")));
        assert_eq!(event.happened_at.unwrap().to_rfc3339(), "2030-01-01T00:00:09+00:00");
        assert!(!format!("{event:?}").contains("hana"));
        let (reason, addresses) = suppress.unwrap();
        assert_eq!((reason, addresses[0].expose_secret()), ("bounced", "hana@example.jp"));
    }

    #[test]
    fn only_hard_bounces_and_complaints_suppress() {
        let whom = json!([{"emailAddress": "hana@example.jp"}]);
        let soft = json!({"bounceType": "Transient", "bounceSubType": "MailboxFull", "bouncedRecipients": whom});
        assert!(told(&mail("Bounce", &soft)).suppress.is_none());
        let complaint = |kind: &str| json!({"complaintFeedbackType": kind, "complainedRecipients": whom});
        assert!(told(&mail("Complaint", &complaint("not-spam"))).suppress.is_none());
        assert_eq!(told(&mail("Complaint", &complaint("abuse"))).suppress.unwrap().0, "complained");
        for kind in ["Send", "Delivery", "Reject"] {
            assert!(told(&mail(kind, &json!({}))).suppress.is_none());
        }
    }

    #[test]
    fn whatever_comes_is_kept_under_a_name() {
        for (kind, named) in
            [("Rendering Failure", "rendering_failure"), ("DeliveryDelay", "delivery_delay"), ("7", "unknown")]
        {
            assert_eq!(told(&mail(kind, &json!({}))).event.event, named);
        }
        let sentence = told(&json!("Successfully validated SNS topic for Amazon SES event publishing."));
        assert_eq!((sentence.event.event.as_str(), sentence.event.job), ("unknown", None));
    }
}
