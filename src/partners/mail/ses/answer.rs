//! What the answers of SES mean.

use std::time::Duration;

use http::StatusCode;
use noshi_jobs::email::Send;
use serde::Deserialize;

use crate::partners::{
    http::Reply,
    mail::Quota,
    whose::{Verdict, Whose},
};

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

/// What is said of a signature that was refused, in Amazon's own words.
pub fn refusal_of_signature(reply: &Reply) -> Option<String> {
    if !reply.status.is_client_error() {
        return None;
    }
    let wire = reply.body.json::<Wire>().unwrap_or_default();
    let name = name(reply, &wire);
    is_about_signing(&name).then(|| format!("{name} {}", wire.message.unwrap_or_default()))
}

pub fn sent(reply: &Reply) -> Verdict<Send> {
    let wire = reply.body.json::<Wire>().unwrap_or_default();
    let unclear = Verdict::new(Whose::Network, Send::Unknown);
    if reply.status == StatusCode::OK {
        // Without its id the message cannot be told from others: not an answer.
        let id = wire.message_id.filter(|id| is_id(id));
        return id.map_or(unclear, |id| Verdict::new(Whose::Message, Send::Accepted(id)));
    }
    if !reply.status.is_client_error() {
        return unclear;
    }
    let name = name(reply, &wire);
    let message = wire.message.unwrap_or_default().to_ascii_lowercase();
    let account = |means| Verdict::new(Whose::Account, means);
    match &*name {
        "TooManyRequests" | "Throttling" if message.contains("daily message quota") => {
            account(Send::Throttled(NO_QUOTA))
        }
        "TooManyRequests" | "Throttling" => account(Send::Throttled(reply.wait_or(TOO_FAST))),
        "SendingPaused" | "LimitExceeded" => account(Send::Throttled(NO_QUOTA)),
        // Of an account that is still in the sandbox, too: it may write to nobody.
        "MessageRejected" | "BadRequest" if message.contains("not verified") => account(Send::Sender),
        "MessageRejected" if STANDING.iter().any(|words| message.contains(words)) => account(Send::BadCredentials),
        "MessageRejected" | "BadRequest" => Verdict::new(Whose::Message, Send::Rejected(name)),
        "MailFromDomainNotVerified" => account(Send::Sender),
        // Of the keys that this process found; it fetches others.
        "ExpiredToken" | "RequestExpired" => Verdict::new(Whose::Process, Send::NotSent),
        "AccountSuspended" | "NotFound" => account(Send::BadCredentials),
        _ if is_about_signing(&name) => account(Send::BadCredentials),
        // A 429 without any words of Amazon's may be a gateway's, for a call that it has passed on.
        _ => unclear,
    }
}

/// Of the account, whatever the message.
const STANDING: [&str; 5] =
    ["sending paused", "sending is paused", "sending disabled", "sending is disabled", "account is under review"];

pub fn quota(reply: &Reply) -> Quota {
    let told = reply.body.json::<Wire>().and_then(|wire| wire.quota);
    match told {
        Some(SendQuota { per_day, per_second, sent })
            if reply.status == StatusCode::OK
                && [per_second, sent].iter().all(|number| (0.0..UNLIMITED).contains(number)) =>
        {
            // -1 is how SES says that there is no limit.
            let per_day = if (0.0..UNLIMITED).contains(&per_day) { per_day } else { UNLIMITED };
            Quota::Known { per_second, per_day, sent }
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
            | "SignatureExpired"
            | "OptInRequired"
            | "AccessDenied"
            | "NotAuthorized"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::partners::whose;

    fn reply(status: u16, kind: &str, body: &str) -> Reply {
        let error_type = (!kind.is_empty()).then(|| kind.to_owned());
        Reply {
            status: StatusCode::from_u16(status).unwrap(),
            retry_after: None,
            clock_ahead: None,
            error_type,
            body: body.into(),
        }
    }

    const TOO_FAST_SAYS: &str = r#"{"message":"Maximum sending rate exceeded."}"#;
    const DAILY_SAYS: &str = r#"{"message":"Daily message quota exceeded."}"#;
    const UNVERIFIED: &str = r#"{"message":"Email address is not verified. The following identities failed the check in region AP-NORTHEAST-1: gift@example.jp"}"#;

    #[test]
    fn every_answer_to_a_send_has_its_meaning() {
        let throttled = |seconds| Send::Throttled(Duration::from_secs(seconds));
        let rejected = |name: &str| Send::Rejected(name.to_owned());
        let mut rows = vec![];
        for (status, kind, body, meaning) in [
            (200, "", r#"{"MessageId":"0100-1"}"#, Send::Accepted("0100-1".to_owned())),
            (200, "", "{}", Send::Unknown),
            (200, "", r#"{"MessageId":""}"#, Send::Unknown),
            (200, "", "not JSON", Send::Unknown),
            (202, "", r#"{"MessageId":"0100-1"}"#, Send::Unknown),
            (429, "TooManyRequestsException", TOO_FAST_SAYS, throttled(1)),
            (429, "TooManyRequestsException", DAILY_SAYS, throttled(600)),
            (400, "", r#"{"__type":"ThrottlingException","Message":"Daily message quota exceeded"}"#, throttled(600)),
            (429, "", "", Send::Unknown),
            (429, "", "not JSON", Send::Unknown),
            (400, "LimitExceededException", "{}", throttled(600)),
            (400, "SendingPausedException:http://x/", "{}", throttled(600)),
            (400, "com.amazonaws.sesv2#MessageRejected", "{}", rejected("MessageRejected")),
            (400, "MessageRejected", UNVERIFIED, Send::Sender),
            (400, "MessageRejected", r#"{"message":"Sending is paused for this account"}"#, Send::BadCredentials),
            (400, "BadRequestException", "{}", rejected("BadRequest")),
            (400, "MailFromDomainNotVerifiedException", "{}", Send::Sender),
            (400, "AccountSuspendedException", "{}", Send::BadCredentials),
            (404, "NotFoundException", "{}", Send::BadCredentials),
            (403, "SignatureDoesNotMatch", "{}", Send::BadCredentials),
            (403, "AccessDeniedException", "{}", Send::BadCredentials),
            (403, "ExpiredTokenException", "{}", Send::NotSent),
            (403, "", "{}", Send::Unknown),
            (400, "SomethingNewException", "{}", Send::Unknown),
            (500, "InternalFailure", "{}", Send::Unknown),
            (503, "ThrottlingException", "{}", Send::Unknown),
            (302, "", "", Send::Unknown),
        ] {
            let verdict = sent(&reply(status, kind, body));
            assert_eq!(verdict.means, meaning, "{status} {kind} {body}");
            let holds = matches!(meaning, Send::Throttled(_) | Send::BadCredentials | Send::Sender);
            assert_eq!(holds, verdict.whose == Whose::Account, "{status} {kind} {body}");
            let answer = format!("{status} {kind} {body}").replace('|', "/");
            rows.push(["send", &answer, verdict.whose.name(), &comes_to(&meaning)].map(str::to_owned));
        }
        for row in [
            [
                "send",
                "a signature refused, the answer's Date far from our clock",
                "process",
                "retry; this process keeps away: clock",
            ],
            [
                "send",
                "RequestTimeTooSkewed, Signature expired, Signature not yet current",
                "process",
                "retry; this process keeps away: clock",
            ],
            ["keys", "their source is away, and those that are kept are valid", "process", "the kept ones are used"],
            ["keys", "none, or their source is away", "process", "retry; this process keeps away: keys"],
            [
                "connecting",
                "unknown authority, expired, another host's, old version",
                "account",
                "retry; lane closed: tls",
            ],
            ["connecting", "none, refused, or cut", "network", "retry"],
            ["send", "none in time, or cut", "network", "in doubt"],
        ] {
            rows.push(row.map(str::to_owned));
        }
        whose::assert_drawn("src/partners/mail/ses.rs", &rows);
        assert!(is_expired(&reply(403, "ExpiredTokenException", "{}")));
    }

    fn comes_to(meaning: &Send) -> String {
        match meaning {
            Send::Accepted(_) => "accepted".to_owned(),
            Send::Rejected(why) => format!("rejected ({why})"),
            Send::Throttled(wait) => format!("lane throttled for {} s", wait.as_secs()),
            Send::Unknown => "in doubt".to_owned(),
            Send::NotSent => "retry, with fresh keys".to_owned(),
            Send::BadCredentials => "lane closed: credentials".to_owned(),
            Send::Sender => "lane closed: sender".to_owned(),
            other @ (Send::NotNow | Send::Busy(_) | Send::Tls(_)) => {
                panic!("no answer means {other:?}")
            }
        }
    }

    /// The same refusal is the account's where the clocks agree, and this process's where they do not.
    #[test]
    fn a_signature_refused_for_the_clock_is_this_process_s_alone() {
        use crate::{
            db::queue::slot::Notice,
            partners::{Gate, aws},
        };
        use noshi_jobs::machine::{Closing, Unfit};
        for (kind, message, ahead, off) in [
            ("SignatureDoesNotMatch", "", Some(2), false),
            ("SignatureDoesNotMatch", "", None, false),
            ("SignatureDoesNotMatch", "", Some(-1200), true),
            (
                "InvalidSignatureException",
                "Signature not yet current: 20300101T002000Z is still later than",
                Some(1200),
                true,
            ),
            ("InvalidSignatureException", "Signature expired: 20300101T000000Z is now earlier than", None, true),
            ("RequestTimeTooSkewed", "", None, true),
            ("AccessDeniedException", "", Some(1200), false),
        ] {
            let body = serde_json::json!({"message": message}).to_string();
            let reply = Reply { clock_ahead: ahead, ..reply(403, kind, &body) };
            let told = Notice::default();
            let gate = Gate::open().telling(&told);
            let refusal = refusal_of_signature(&reply).unwrap();
            assert_eq!(aws::clock_is_off("ses", &reply, &refusal, &gate), off, "{kind} {message} {ahead:?}");
            let told = *told.lock().unwrap();
            assert_eq!(told, off.then_some(Closing::Process(Unfit::Clock)), "{kind} {message} {ahead:?}");
        }
    }

    #[test]
    fn a_quota_is_read_or_not_believed() {
        let told = r#"{"SendQuota":{"Max24HourSend":50000.0,"MaxSendRate":14,"SentLast24Hours":127}}"#;
        let read = Quota::Known { per_second: 14.0, per_day: 50_000.0, sent: 127.0 };
        assert_eq!(quota(&reply(200, "", told)), read);
        let unlimited = quota(&reply(200, "", &told.replace("50000.0", "-1")));
        assert_eq!(unlimited, Quota::Known { per_second: 14.0, per_day: UNLIMITED, sent: 127.0 });
        for (status, body) in [(403, told), (200, "{}"), (200, &told.replace("14", "-3"))] {
            assert_eq!(quota(&reply(status, "", body)), Quota::NoAnswer);
        }
    }
}
