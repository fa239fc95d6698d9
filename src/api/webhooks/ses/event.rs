//! What an event of SES says. Its addresses leave this file as secrets only.

use chrono::{DateTime, Utc};
use lettre::message::Mailbox;
use secrecy::SecretString;
use serde_json::Value;

use crate::{api::webhooks::sns::Notification, db::domain::mails::NewEvent};

pub struct MailEvent {
    pub event: NewEvent,
    /// Addresses that nothing may be sent to any more, and why.
    pub suppress: Option<(&'static str, Vec<SecretString>)>,
}

/// An event as far as it reads. Every field is read for itself: one that is null, or written otherwise than the vendor's pages say, takes
/// nothing else with it, and is remembered.
#[derive(Default)]
struct Reading {
    unread: bool,
}

impl Reading {
    /// A word that may be left out.
    fn word<'a>(&mut self, value: &'a Value) -> Option<&'a str> {
        match value {
            Value::String(text) => Some(text),
            Value::Null => None,
            Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                self.unread = true;
                None
            }
        }
    }

    /// As the vendor writes times, or with a space, or without a zone, which is UTC then.
    fn time(&mut self, value: &Value) -> Option<DateTime<Utc>> {
        let text = self.word(value)?.trim().replacen(' ', "T", 1);
        let read = text.parse().ok().or_else(|| format!("{text}Z").parse().ok());
        self.unread |= read.is_none();
        read
    }

    /// The addresses of a list of recipients, of which none may be missing.
    fn addresses(&mut self, list: &Value) -> Vec<SecretString> {
        let Some(list) = list.as_array().filter(|list| !list.is_empty()) else {
            self.unread = true;
            return vec![];
        };
        let mut addresses = vec![];
        for whom in list {
            match self.word(&whom["emailAddress"]).filter(|address| !address.trim().is_empty()) {
                Some(address) => addresses.push(bare(SecretString::from(address))),
                None => self.unread = true,
            }
        }
        addresses
    }
}

pub fn read(notification: &Notification, configuration_set: &str) -> MailEvent {
    // Such as the sentence with which SES tries a topic: kept as an event of no known type.
    let Ok(wire) = serde_json::from_str::<Value>(&notification.message) else {
        return MailEvent { event: unknown(notification, false), suppress: None };
    };
    let mut reading = Reading { unread: !wire.is_object() || !wire["mail"].is_object() };
    let mail = &wire["mail"];
    let tag = |name: &str| mail["tags"][name][0].as_str();
    let kind = name(reading.word(&wire["eventType"]).or(reading.word(&wire["notificationType"])).unwrap_or("unknown"));
    reading.unread |= kind == "unknown";
    let happened_at =
        [&wire["bounce"], &wire["complaint"], &wire["delivery"], mail].map(|part| reading.time(&part["timestamp"]));
    let message = reading.word(&mail["messageId"]).map(id).filter(|id| !id.is_empty());
    let (detail, suppress) = fault(&mut reading, &wire, &kind);
    let job = tag("job_id").map(str::parse::<i64>);
    reading.unread |= matches!(job, Some(Err(_)));
    let event = NewEvent {
        job: job.and_then(Result::ok),
        mark: tag("noshi_mark").map(id),
        foreign: tag("ses:configuration-set").is_some_and(|set| set != configuration_set),
        unread: reading.unread,
        event: kind,
        message,
        happened_at: happened_at.into_iter().flatten().next(),
        detail,
        ..unknown(notification, true)
    };
    MailEvent { event, suppress }
}

fn unknown(notification: &Notification, unread: bool) -> NewEvent {
    NewEvent {
        id: id(&notification.message_id),
        job: None,
        mark: None,
        foreign: false,
        unread,
        event: "unknown".to_owned(),
        message: None,
        happened_at: None,
        detail: None,
    }
}

/// What went wrong: in SES's own words for the kind, never its diagnostic text, which quotes addresses; and whom nothing may be sent to.
fn fault(
    reading: &mut Reading,
    wire: &Value,
    kind: &str,
) -> (Option<String>, Option<(&'static str, Vec<SecretString>)>) {
    let short = |word: &str| -> String {
        word.chars().filter(|letter| letter.is_ascii_alphanumeric() || *letter == '-').take(40).collect()
    };
    let (bounce, complaint) = (&wire["bounce"], &wire["complaint"]);
    if bounce.is_object() {
        let kinds = ["bounceType", "bounceSubType"].map(|part| reading.word(&bounce[part]).unwrap_or_default());
        reading.unread |= !["Permanent", "Transient", "Undetermined"].contains(&kinds[0]);
        let suppress = (kinds[0] == "Permanent").then(|| ("bounced", reading.addresses(&bounce["bouncedRecipients"])));
        return (Some(kinds.map(short).join("/")), suppress);
    }
    if complaint.is_object() {
        let feedback = reading.word(&complaint["complaintFeedbackType"]);
        // Somebody took a complaint back.
        let suppress = (feedback != Some("not-spam"))
            .then(|| ("complained", reading.addresses(&complaint["complainedRecipients"])));
        return (feedback.map(short), suppress);
    }
    reading.unread |= ["bounce", "complaint"].contains(&kind);
    (None, None)
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

    fn told(message: &Value) -> MailEvent {
        let text = if message.is_string() { message.as_str().unwrap().to_owned() } else { message.to_string() };
        let notification = json!({
            "Type": "Notification", "MessageId": "m-1", "TopicArn": "t", "Message": text, "Timestamp": "",
            "SignatureVersion": "2", "Signature": "", "SigningCertURL": "",
        });
        read(&serde_json::from_value(notification).unwrap(), "noshi")
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
        let MailEvent { event, suppress } = told(&mail("Bounce", &bounce));
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

    /// What reads otherwise takes nothing else with it, and is remembered.
    #[test]
    fn a_field_that_does_not_read_is_remembered_and_drops_no_other() {
        let bounce = || {
            json!({
                "bounceType": "Permanent", "bounceSubType": "General", "timestamp": "2030-01-01T00:00:09Z",
                "bouncedRecipients": [{"emailAddress": "hana@example.jp"}, {"emailAddress": "taro@example.jp"}],
            })
        };
        let all = told(&mail("Bounce", &bounce()));
        assert!(!all.event.unread && all.suppress.unwrap().1.len() == 2);
        type Change = fn(&mut Value);
        let changes: [(&str, Change, usize); 9] = [
            ("no list", |event| event["bounce"]["bouncedRecipients"] = Value::Null, 0),
            ("an empty list", |event| event["bounce"]["bouncedRecipients"] = json!([]), 0),
            ("a null among them", |event| event["bounce"]["bouncedRecipients"][0]["emailAddress"] = Value::Null, 1),
            ("a number among them", |event| event["bounce"]["bouncedRecipients"][0]["emailAddress"] = json!(7), 1),
            ("no object among them", |event| event["bounce"]["bouncedRecipients"][0] = json!("hana@example.jp"), 1),
            ("a time that is none", |event| event["bounce"]["timestamp"] = json!("yesterday"), 2),
            ("a time that is a number", |event| event["bounce"]["timestamp"] = json!(1_893_456_009), 2),
            ("no mail", |event| event["mail"] = Value::Null, 2),
            ("a job that is no number", |event| event["mail"]["tags"]["job_id"] = json!(["seventeen"]), 2),
        ];
        for (what, change, suppressed) in changes {
            let mut event = mail("Bounce", &bounce());
            change(&mut event);
            let MailEvent { event, suppress } = told(&event);
            assert!(event.unread, "{what}");
            assert_eq!(
                (event.event.as_str(), event.detail.as_deref()),
                ("bounce", Some("Permanent/General")),
                "{what}"
            );
            assert_eq!(suppress.unwrap().1.len(), suppressed, "{what}");
            assert!(what.contains("mail") || what.contains("job") || event.job == Some(17), "{what}");
        }
        let mut spaced = mail("Bounce", &bounce());
        spaced["bounce"]["timestamp"] = json!("2030-01-01 00:00:09");
        let MailEvent { event, .. } = told(&spaced);
        assert_eq!(
            (event.unread, event.happened_at.unwrap().to_rfc3339().as_str()),
            (false, "2030-01-01T00:00:09+00:00")
        );
        // A kind of its own is kept under its name; a bounce without what it is about is not understood.
        assert!(!told(&mail("Subscription", &json!({}))).event.unread);
        assert!(told(&mail("Bounce", &Value::Null)).event.unread);
    }

    #[test]
    fn an_event_says_whose_message_it_is_about() {
        let mut event = mail("Delivery", &json!({}));
        event["mail"]["tags"]["noshi_mark"] = json!(["abc"]);
        event["mail"]["tags"]["ses:configuration-set"] = json!(["noshi"]);
        let ours = told(&event).event;
        assert_eq!((ours.mark.as_deref(), ours.foreign), (Some("abc"), false));
        event["mail"]["tags"]["ses:configuration-set"] = json!(["noshi-staging"]);
        assert!(told(&event).event.foreign);
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
