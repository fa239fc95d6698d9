//! What the answers of SES mean.

use std::time::Duration;

use http::StatusCode;
use noshi_jobs::email::Send;
use serde::Deserialize;

use crate::clients::{http::Reply, mail::Quota};

/// After "Maximum sending rate exceeded".
const TOO_FAST: Duration = Duration::from_secs(1);
/// The vendor's words: wait up to 10 minutes.
const NO_QUOTA: Duration = Duration::from_secs(600);
/// More than any account has, and still a number of calls.
const UNLIMITED: f64 = 1e9;

#[derive(Default, Deserialize)]
struct Wire {
    #[serde(rename = "MessageId")]
    message_id: Option<String>,
    #[serde(rename = "__type")]
    kind: Option<String>,
    #[serde(alias = "code", alias = "Code")]
    code: Option<String>,
    #[serde(alias = "Message")]
    message: Option<String>,
    #[serde(rename = "SendQuota")]
    quota: Option<SendQuota>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SendQuota {
    #[serde(rename = "Max24HourSend")]
    per_day: f64,
    #[serde(rename = "MaxSendRate")]
    per_second: f64,
    #[serde(rename = "SentLast24Hours")]
    sent: f64,
}

/// `com.amazonaws.sesv2#TooManyRequestsException:http://…` is `TooManyRequests`.
fn name(reply: &Reply, wire: &Wire) -> String {
    let said = reply.error_type.as_deref().or(wire.kind.as_deref()).or(wire.code.as_deref()).unwrap_or_default();
    let said = said.split(':').next().unwrap_or_default();
    let said = said.rsplit('#').next().unwrap_or_default();
    let said = said.strip_suffix("Exception").unwrap_or(said);
    said.chars().filter(char::is_ascii_alphanumeric).take(60).collect()
}

pub fn is_expired(reply: &Reply) -> bool {
    let wire = reply.body.json::<Wire>().unwrap_or_default();
    reply.status.is_client_error() && matches!(&*name(reply, &wire), "ExpiredToken" | "RequestExpired")
}

pub fn sent(reply: &Reply) -> Send {
    let wire = reply.body.json::<Wire>().unwrap_or_default();
    if reply.status == StatusCode::OK {
        // Without its id the message cannot be told from others: not an answer.
        return wire.message_id.filter(|id| is_id(id)).map_or(Send::Unknown, Send::Accepted);
    }
    if !reply.status.is_client_error() {
        return Send::Unknown;
    }
    let name = name(reply, &wire);
    let message = wire.message.unwrap_or_default().to_ascii_lowercase();
    match &*name {
        "TooManyRequests" | "Throttling" if message.contains("daily message quota") => Send::Throttled(NO_QUOTA),
        "TooManyRequests" | "Throttling" => Send::Throttled(reply.wait_or(TOO_FAST)),
        "SendingPaused" | "LimitExceeded" => Send::Throttled(NO_QUOTA),
        "MessageRejected" | "BadRequest" => Send::Rejected(name),
        "MailFromDomainNotVerified" | "AccountSuspended" | "NotFound" => Send::BadCredentials,
        _ if is_about_signing(&name) => Send::BadCredentials,
        _ if reply.status == StatusCode::TOO_MANY_REQUESTS => Send::Throttled(reply.wait_or(TOO_FAST)),
        _ => Send::Unknown,
    }
}

pub fn quota(reply: &Reply) -> Quota {
    let told = reply.body.json::<Wire>().and_then(|wire| wire.quota);
    match told {
        Some(SendQuota { per_day, per_second, sent })
            if reply.status == StatusCode::OK
                && [per_second, sent].iter().all(|figure| (0.0..UNLIMITED).contains(figure)) =>
        {
            // -1 is how SES says that there is no limit.
            let per_day = if (0.0..UNLIMITED).contains(&per_day) { per_day } else { UNLIMITED };
            Quota::Told { per_second, per_day, sent }
        }
        Some(_) | None => Quota::NoAnswer,
    }
}

/// An id is kept and shown: a run of visible ASCII.
fn is_id(id: &str) -> bool {
    (1..=200).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Before anything was sent: AWS checks the signature first.
fn is_about_signing(name: &str) -> bool {
    matches!(
        name,
        "SignatureDoesNotMatch"
            | "InvalidSignature"
            | "IncompleteSignature"
            | "InvalidClientTokenId"
            | "UnrecognizedClient"
            | "MissingAuthenticationToken"
            | "InvalidAccessKeyId"
            | "RequestTimeTooSkewed"
            | "OptInRequired"
            | "AccessDenied"
            | "NotAuthorized"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(status: u16, kind: &str, body: &str) -> Reply {
        let error_type = (!kind.is_empty()).then(|| kind.to_owned());
        Reply { status: StatusCode::from_u16(status).unwrap(), retry_after: None, error_type, body: body.into() }
    }

    #[test]
    fn every_answer_to_a_send_has_its_meaning() {
        let throttled = |seconds| Send::Throttled(Duration::from_secs(seconds));
        let rejected = |name: &str| Send::Rejected(name.to_owned());
        for (status, kind, body, meaning) in [
            (200, "", r#"{"MessageId":"0100-1"}"#, Send::Accepted("0100-1".to_owned())),
            (200, "", "{}", Send::Unknown),
            (200, "", r#"{"MessageId":""}"#, Send::Unknown),
            (200, "", "<html>", Send::Unknown),
            (202, "", r#"{"MessageId":"0100-1"}"#, Send::Unknown),
            (429, "TooManyRequestsException", r#"{"message":"Maximum sending rate exceeded."}"#, throttled(1)),
            (429, "TooManyRequestsException", r#"{"message":"Daily message quota exceeded."}"#, throttled(600)),
            (400, "", r#"{"__type":"ThrottlingException","Message":"Daily message quota exceeded"}"#, throttled(600)),
            (429, "", "", throttled(1)),
            (400, "LimitExceededException", "{}", throttled(600)),
            (400, "SendingPausedException:http://x/", "{}", throttled(600)),
            (400, "com.amazonaws.sesv2#MessageRejected", "{}", rejected("MessageRejected")),
            (400, "BadRequestException", "{}", rejected("BadRequest")),
            (400, "MailFromDomainNotVerifiedException", "{}", Send::BadCredentials),
            (400, "AccountSuspendedException", "{}", Send::BadCredentials),
            (404, "NotFoundException", "{}", Send::BadCredentials),
            (403, "SignatureDoesNotMatch", "{}", Send::BadCredentials),
            (403, "AccessDeniedException", "{}", Send::BadCredentials),
            (403, "", "{}", Send::Unknown),
            (400, "SomethingNewException", "{}", Send::Unknown),
            (500, "InternalFailure", "{}", Send::Unknown),
            (503, "ThrottlingException", "{}", Send::Unknown),
            (302, "", "", Send::Unknown),
        ] {
            assert_eq!(sent(&reply(status, kind, body)), meaning, "{status} {kind} {body}");
        }
        assert!(is_expired(&reply(403, "ExpiredTokenException", "{}")));
    }

    #[test]
    fn a_quota_is_read_or_not_believed() {
        let told = r#"{"SendQuota":{"Max24HourSend":50000.0,"MaxSendRate":14,"SentLast24Hours":127}}"#;
        let read = Quota::Told { per_second: 14.0, per_day: 50_000.0, sent: 127.0 };
        assert_eq!(quota(&reply(200, "", told)), read);
        let unlimited = quota(&reply(200, "", &told.replace("50000.0", "-1")));
        assert_eq!(unlimited, Quota::Told { per_second: 14.0, per_day: UNLIMITED, sent: 127.0 });
        for (status, body) in [(403, told), (200, "{}"), (200, &told.replace("14", "-3"))] {
            assert_eq!(quota(&reply(status, "", body)), Quota::NoAnswer);
        }
    }
}
