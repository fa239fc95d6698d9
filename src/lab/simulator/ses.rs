//! Amazon SES, version 2 of its API (the model of 2019-09-27), as far as a sender of single messages needs it.
//!
//! SigV4, service `ses`. `POST /v2/email/outbound-emails` `{"FromEmailAddress", "Destination": {"ToAddresses"},
//! "Content": {"Simple"}, "EmailTags", "ConfigurationSetName"}` → 200 `{"MessageId"}`. There is no idempotency: the same
//! request again is a second message. `GET /v2/email/account` → `{"SendQuota": {"Max24HourSend", "MaxSendRate",
//! "SentLast24Hours"}, "ProductionAccessEnabled", "SendingEnabled"}`. Errors: header `x-amzn-errortype`, body
//! `{"message"}`. Each call past the rate is 429; past the daily quota it is `ThrottlingException`, 400.
//!
//! What becomes of a message is decided by the recipient's local part (anything behind a `+` is ignored): `bounce@`
//! bounces for good, `transient@` for now, `suppressed@` is on the account's suppression list, `complaint@` is
//! delivered and complained about, `reject@` is accepted and then found to hold a virus, `refused@` is refused at once
//! (MessageRejected); everybody else gets it. A configuration set whose name starts with `missing` does not exist.
//! `{"do": "sending", "state": "paused"}` stops the account (also `suspended`, `unverified`, `enabled`).
//!
//! With an events URL and a configuration set, what became of a message is published as SNS notifications, whatever the
//! sender was told. The ledger's `trade` is the message's tag `job_id`; addresses stand nowhere in it.

mod fate;
pub mod state;

use std::sync::Arc;
use std::time::SystemTime;

use axum::http::Method;
use serde_json::{Map, Value, json};

use self::state::{Fate, Message, Sending, local_part};
use super::{
    config::SesConfig,
    context::Inner,
    faults::roll,
    ledger::{Event, Line},
    messages::{Arrived, Read, Refusal, Reply, Way},
    partner::{Errand, Partner},
    shop::sha256_hex,
    sigv4::{self, Keys, Wrong},
    state::World,
};

const MAX_RECIPIENTS: usize = 50;

#[derive(Clone)]
pub enum Ask {
    Send(Message),
    Account,
}

/// (HTTP status, error type, message)
type Failure = (u16, &'static str, &'static str);

const TOO_MANY: Failure = (429, "TooManyRequestsException", "Too many requests");
const DAILY: Failure = (400, "ThrottlingException", "Daily message quota exceeded.");
const PAUSED: Failure = (400, "SendingPausedException", "Sending is paused for this account.");
const SUSPENDED: Failure = (400, "AccountSuspendedException", "Sending is permanently suspended for this account.");
const UNVERIFIED: Failure = (400, "MailFromDomainNotVerifiedException", "The MAIL FROM domain is not verified.");
const REJECTED: Failure = (400, "MessageRejected", "The message was rejected.");
const NO_SET: Failure = (404, "NotFoundException", "The configuration set does not exist.");
const AWAY: Failure = (503, "ServiceUnavailable", "The service is unavailable.");

fn fail((status, error_type, message): Failure) -> Reply {
    Reply { error_type: Some(error_type), ..Reply::json(status, &json!({"message": message})) }
}

fn bad(message: &'static str) -> Failure {
    (400, "BadRequestException", message)
}

pub fn read(call: &Arrived, config: &SesConfig) -> Read<Errand, Ask> {
    let body = call.json();
    let (errand, ask) = match (call.method.clone(), call.path.as_str()) {
        (Method::POST, "/v2/email/outbound-emails") => (Errand::SendMail, message(&body).map(Ask::Send)),
        (Method::GET, "/v2/email/account") => (Errand::MailAccount, Ok(Ask::Account)),
        _ => return Read::nowhere(fail((404, "UnknownOperationException", "There is no such operation."))),
    };
    Read {
        op: Some(errand),
        trade: (errand == Errand::SendMail).then(|| tag(&body, "job_id")),
        amount: None,
        currency: None,
        denied: denied(call, config),
        ask: ask.map_err(|failure| Refusal { reason: failure.1, reply: fail(failure) }),
    }
}

fn denied(call: &Arrived, config: &SesConfig) -> Option<Reply> {
    let keys = Keys {
        id: &config.key_id,
        secret: &config.secret,
        region: &config.region,
        service: "ses",
        covers: &["host", "x-amz-date"],
    };
    let failure = match sigv4::verify(call, &keys, SystemTime::now()) {
        Ok(()) => return None,
        Err(Wrong::Key) => {
            (403, "UnrecognizedClientException", "The security token included in the request is invalid.")
        }
        Err(Wrong::Signature) => (403, "SignatureDoesNotMatch", "The request signature does not match."),
    };
    Some(fail(failure))
}

fn tag(body: &Value, name: &str) -> String {
    let tags = body["EmailTags"].as_array().map(Vec::as_slice).unwrap_or_default();
    let found = tags.iter().find(|tag| tag["Name"].as_str() == Some(name));
    found.and_then(|tag| tag["Value"].as_str()).unwrap_or_default().to_owned()
}

fn message(body: &Value) -> Result<Message, Failure> {
    let from = body["FromEmailAddress"].as_str().filter(|from| from.contains('@'));
    let from = from.ok_or(bad("FromEmailAddress is missing or no address."))?;
    let mut recipients = vec![];
    for list in ["ToAddresses", "CcAddresses", "BccAddresses"] {
        for address in body["Destination"][list].as_array().into_iter().flatten() {
            let address = address.as_str().filter(|address| address.contains('@'));
            recipients.push(address.ok_or(bad("A recipient is no address."))?.to_owned());
        }
    }
    let Some(first) = recipients.first().filter(|_| recipients.len() <= MAX_RECIPIENTS) else {
        return Err(bad("Destination must name 1 to 50 recipients."));
    };
    let fate = Fate::of(first);
    let simple = &body["Content"]["Simple"];
    let has_body = ["Text", "Html"].iter().any(|part| simple["Body"][part]["Data"].is_string());
    if !simple["Subject"]["Data"].is_string() || !has_body {
        return Err(bad("This simulator takes simple content with a subject and a body."));
    }
    let configuration_set = body["ConfigurationSetName"].as_str().map(str::to_owned);
    if configuration_set.as_ref().is_some_and(|set| set.starts_with("missing")) {
        return Err(NO_SET);
    }
    if local_part(&recipients[0]) == "refused" {
        return Err(REJECTED);
    }
    let job = tag(body, "job_id");
    Ok(Message { job, from: from.to_owned(), recipients, tags: tags(body)?, configuration_set, fate })
}

/// Names and values as SES takes them.
fn tags(body: &Value) -> Result<Map<String, Value>, Failure> {
    let mut tags = Map::new();
    for tag in body["EmailTags"].as_array().into_iter().flatten() {
        let mut parts = ["Name", "Value"].map(|part| tag[part].as_str().unwrap_or_default());
        let fits = |text: &&mut &str| {
            (1..=256).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b))
        };
        if parts.iter_mut().filter(fits).count() != 2 {
            return Err(bad("Tags have 1 to 256 ASCII letters, digits, _ or -."));
        }
        tags.insert(parts[0].to_owned(), json!([parts[1]]));
    }
    Ok(tags)
}

pub fn act(inner: &Arc<Inner>, world: &mut World, ask: &Ask, way: &Way) -> Reply {
    let now = inner.ledger.now_us();
    let sent = world.ses.sent_in_a_day(now);
    let message = match ask {
        Ask::Account => return account(&inner.config.ses, world.ses.sending, sent),
        Ask::Send(message) => message,
    };
    let refuse = |failure: Failure| {
        let line = Line { reason: Some(failure.1.to_owned()), late: way.late, ..line(Event::Refused, message) };
        inner.ledger.append(line);
        fail(failure)
    };
    match world.ses.sending {
        Sending::Enabled => {}
        Sending::Paused => return refuse(PAUSED),
        Sending::Suspended => return refuse(SUSPENDED),
        Sending::Unverified => return refuse(UNVERIFIED),
    }
    if sent + message.recipients.len() as u64 > inner.config.ses.max_24_hour_send {
        return refuse(DAILY);
    }
    world.ses.messages += 1;
    world.ses.sent.extend(message.recipients.iter().map(|_| now));
    let salt = roll(inner.config.seed, &["ses", "message", &world.ses.messages.to_string()]);
    let id = format!("0106{salt:016x}-{:08x}-000000", world.ses.messages);
    inner.ledger.append(Line {
        us: now,
        message: Some(id.clone()),
        recipient_sha256: Some(sha256_hex(&message.recipients[0])),
        detail: Some(json!({"recipients": message.recipients.len(), "fate": message.fate.name()})),
        late: way.late,
        ..line(Event::MailSent, message)
    });
    inner.publish(fate::notices(inner, message, &id));
    Reply::json(200, &json!({"MessageId": id}))
}

fn line(event: Event, message: &Message) -> Line {
    Line {
        event,
        provider: Some(Partner::Ses),
        op: Some(Errand::SendMail),
        trade: Some(message.job.clone()),
        ..Line::default()
    }
}

fn account(config: &SesConfig, sending: Sending, sent: u64) -> Reply {
    let body = json!({
        "SendQuota": {
            "Max24HourSend": config.max_24_hour_send as f64,
            "MaxSendRate": config.limit.map_or(1e6, f64::from),
            "SentLast24Hours": sent as f64,
        },
        "ProductionAccessEnabled": true,
        "SendingEnabled": sending == Sending::Enabled,
        "EnforcementStatus": if sending == Sending::Suspended { "SHUTDOWN" } else { "HEALTHY" },
    });
    Reply::json(200, &body)
}

pub fn throttled() -> Reply {
    fail(TOO_MANY)
}

pub fn typed_error() -> Reply {
    fail(AWAY)
}
