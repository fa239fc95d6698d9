//! Amazon SES v2: SendEmail and GetAccount.
//!
//! Source: the vendor's service model (2019-09-27) and pages. No member of any operation is an idempotency token: a send
//! whose answer is lost is told only by an event that carries our tag, and tags are published through a configuration
//! set alone. One recipient a call, so that a lost answer puts one message in doubt.
//!
//! Over-quota answers have a code that is not in the model (`ThrottlingException`), so errors are read by their names.
//! Whatever is not named below is in doubt.
//!
//! Whose fact each answer is, as the code reads it:
//!
//! | asked | answer | whose fact | comes to |
//! |---|---|---|---|
//! | send | 200  {"MessageId":"0100-1"} | message | accepted |
//! | send | 200  {} | network | in doubt |
//! | send | 200  {"MessageId":""} | network | in doubt |
//! | send | 200  not JSON | network | in doubt |
//! | send | 202  {"MessageId":"0100-1"} | network | in doubt |
//! | send | 429 TooManyRequestsException {"message":"Maximum sending rate exceeded."} | account | lane throttled for 1 s |
//! | send | 429 TooManyRequestsException {"message":"Daily message quota exceeded."} | account | lane throttled for 600 s |
//! | send | 400  {"__type":"ThrottlingException","Message":"Daily message quota exceeded"} | account | lane throttled for 600 s |
//! | send | 429   | network | in doubt |
//! | send | 429  not JSON | network | in doubt |
//! | send | 400 LimitExceededException {} | account | lane throttled for 600 s |
//! | send | 400 SendingPausedException:http://x/ {} | account | lane throttled for 600 s |
//! | send | 400 com.amazonaws.sesv2#MessageRejected {} | message | rejected (MessageRejected) |
//! | send | 400 MessageRejected {"message":"Email address is not verified. The following identities failed the check in region AP-NORTHEAST-1: gift@example.jp"} | account | lane closed: sender |
//! | send | 400 MessageRejected {"message":"Sending is paused for this account"} | account | lane closed: credentials |
//! | send | 400 BadRequestException {} | message | rejected (BadRequest) |
//! | send | 400 MailFromDomainNotVerifiedException {} | account | lane closed: sender |
//! | send | 400 AccountSuspendedException {} | account | lane closed: credentials |
//! | send | 404 NotFoundException {} | account | lane closed: credentials |
//! | send | 403 SignatureDoesNotMatch {} | account | lane closed: credentials |
//! | send | 403 AccessDeniedException {} | account | lane closed: credentials |
//! | send | 403 ExpiredTokenException {} | process | retry, with fresh keys |
//! | send | 403  {} | network | in doubt |
//! | send | 400 SomethingNewException {} | network | in doubt |
//! | send | 500 InternalFailure {} | network | in doubt |
//! | send | 503 ThrottlingException {} | network | in doubt |
//! | send | 302   | network | in doubt |
//! | send | a signature refused, the answer's Date far from our clock | process | retry; this process keeps away: clock |
//! | send | RequestTimeTooSkewed, Signature expired, Signature not yet current | process | retry; this process keeps away: clock |
//! | keys | their source is away, and those that are kept are valid | process | the kept ones are used |
//! | keys | none, or their source is away | process | retry; this process keeps away: keys |
//! | connecting | unknown authority, expired, another host's, old version | account | retry; lane closed: tls |
//! | connecting | none, refused, or cut | network | retry |
//! | send | none in time, or cut | network | in doubt |

mod answer;
mod credentials;

use std::time::{Duration, SystemTime};

use anyhow::ensure;
use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderValue, Method};
use lettre::message::Mailbox;
use noshi_jobs::{email::Send, machine::Call};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use self::credentials::Keys;
use super::{
    service::{DAY, JITTER, Letter, MailService, Quota, SECOND},
    settings::{CONNECT_TIMEOUT, SES_TIMEOUT, SesSettings},
};
use crate::partners::{
    Budget, Gate,
    aws::{self, Scope, Unsigned},
    http::{Answer, Http, Reach},
};

pub const NAME: &str = "ses";

pub struct Ses {
    http: Http,
    keys: Keys,
    region: String,
    from: String,
    configuration_set: String,
    settle_seconds: u32,
    jitter: Duration,
}

impl Ses {
    pub fn new(settings: &SesSettings, from: &Mailbox, settle_seconds: u32) -> anyhow::Result<Self> {
        let SesSettings { region, configuration_set, .. } = settings;
        ensure!(
            !region.is_empty() && region.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'),
            "the region of [email.ses] is `{region}`; it is a name such as ap-northeast-1"
        );
        ensure!(
            !configuration_set.is_empty(),
            "[email.ses] needs a configuration_set: without its events a send whose answer is lost stays in doubt"
        );
        let base_url = settings.base_url.clone().unwrap_or_else(|| format!("https://email.{region}.amazonaws.com"));
        let millis = |given: Option<u64>, usual| given.map_or(usual, Duration::from_millis);
        let timeout = millis(settings.timeout_ms, SES_TIMEOUT);
        let connect_timeout = millis(settings.connect_timeout_ms, CONNECT_TIMEOUT.min(timeout / 2));
        ensure!(
            !connect_timeout.is_zero() && connect_timeout < timeout && timeout < Duration::from_secs(60),
            "the timeouts of [email.ses] do not fit: connect_timeout_ms must be more than 0 and less than timeout_ms, \
             and timeout_ms less than 60000"
        );
        let reach = Reach {
            provider: NAME,
            base_url,
            allow_plain_http: settings.allow_plain_http,
            ca_file: settings.ca_file.clone(),
            connect_timeout,
            read_timeout: timeout,
            timeout,
            // The account's own budget is not known before it has told it; the lane keeps to it.
            budgets: vec![],
            only: None,
        };
        Ok(Ses {
            jitter: millis(settings.jitter_ms, JITTER),
            http: Http::new(&reach)?,
            keys: Keys::new()?,
            region: region.clone(),
            from: encoded(from),
            configuration_set: configuration_set.clone(),
            settle_seconds,
        })
    }

    async fn call(&self, method: Method, path: &[&str], body: Option<&Value>, gate: &Gate) -> Result<Answer, Send> {
        let credentials = self.keys.get(gate).await?;
        let body = body.map(Value::to_string).unwrap_or_default();
        let url = self.http.url(path);
        let plain = [("accept", "application/json"), ("content-type", "application/json")];
        let scope = Scope { credentials: &credentials, region: &self.region, service: "ses", at: SystemTime::now() };
        let unsigned = Unsigned { method: method.as_str(), url: url.as_str(), headers: &plain, body: body.as_bytes() };
        let Some(headers) = headers(&scope, &unsigned) else {
            tracing::warn!(provider = NAME, "a request could not be signed; nothing was sent");
            return Err(Send::NotSent);
        };
        let request = self.http.request(method, path).headers(headers).body(body);
        let answer = self.http.send(request, gate).await;
        if let Answer::Reply(reply) = &answer {
            // The signature is looked at before anything else.
            if answer::refusal_of_signature(reply).is_some_and(|refusal| aws::clock_is_off(NAME, reply, &refusal, gate))
            {
                return Err(Send::NotSent);
            }
            if answer::is_expired(reply) {
                self.keys.forget().await;
                return Err(Send::NotSent);
            }
        }
        Ok(answer)
    }

    fn message(&self, letter: &Letter) -> Value {
        let utf8 = |text: &str| json!({"Data": text, "Charset": "UTF-8"});
        let job = letter.job.to_string();
        json!({
            "FromEmailAddress": self.from,
            "Destination": {"ToAddresses": [letter.to.expose_secret()]},
            "Content": {"Simple": {
                "Subject": utf8(letter.subject.expose_secret()),
                "Body": {"Text": utf8(letter.text.expose_secret()), "Html": utf8(letter.html.expose_secret())},
                "Headers": [{"Name": "X-Job-Id", "Value": job}],
            }},
            "EmailTags": [{"Name": "job_id", "Value": job}, {"Name": "template", "Value": letter.template}, {"Name": "noshi_mark", "Value": letter.mark}],
            "ConfigurationSetName": self.configuration_set,
        })
    }
}

impl MailService for Ses {
    fn name(&self) -> &'static str {
        NAME
    }
    fn settle_seconds(&self) -> u32 {
        self.settle_seconds
    }

    /// Those of a new account: 1 a second, 200 a day.
    fn budgets(&self) -> Vec<Budget> {
        let budget = |calls, window| Budget { calls, window, jitter: self.jitter };
        vec![budget(1, SECOND), budget(200, DAY)]
    }

    fn send<'a>(&'a self, letter: &'a Letter, gate: &'a Gate) -> Call<'a, Send> {
        Box::pin(async move {
            let body = self.message(letter);
            match self.call(Method::POST, &["v2", "email", "outbound-emails"], Some(&body), gate).await {
                Ok(Answer::Reply(reply)) => answer::sent(&reply).means,
                Ok(Answer::NotSent) => Send::NotSent,
                Ok(Answer::Unknown) => Send::Unknown,
                Err(instead) => instead,
            }
        })
    }

    fn quota(&self) -> Call<'_, Quota> {
        Box::pin(async {
            match self.call(Method::GET, &["v2", "email", "account"], None, &Gate::open()).await {
                Ok(Answer::Reply(reply)) => answer::quota(&reply),
                Ok(Answer::NotSent | Answer::Unknown) | Err(_) => Quota::NoAnswer,
            }
        })
    }
}

/// All headers of a call; `None` if one of them cannot be a header.
fn headers(scope: &Scope<'_>, request: &Unsigned<'_>) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    for (name, value) in request.headers {
        headers.insert(http::HeaderName::from_bytes(name.as_bytes()).ok()?, HeaderValue::from_str(value).ok()?);
    }
    for (name, value) in aws::sign(scope, request)?.0 {
        let mut value = HeaderValue::from_str(&value).ok()?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Some(headers)
}

/// A mailbox as SES takes it: a name beyond ASCII in encoded words (RFC 2047), each of at most 75 characters.
fn encoded(mailbox: &Mailbox) -> String {
    let Some(name) = mailbox.name.as_deref().filter(|name| !name.is_empty()) else { return mailbox.email.to_string() };
    if name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b' ') {
        return format!("{name} <{}>", mailbox.email);
    }
    let mut words = vec![];
    let mut piece = String::new();
    for letter in name.chars() {
        if piece.len() + letter.len_utf8() > 45 {
            words.push(std::mem::take(&mut piece));
        }
        piece.push(letter);
    }
    words.push(piece);
    let words: Vec<String> = words.iter().map(|word| format!("=?UTF-8?B?{}?=", STANDARD.encode(word))).collect();
    format!("{} <{}>", words.join(" "), mailbox.email)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_encoded_as_mail_wants_them() {
        let said = |text: &str| encoded(&text.parse().unwrap());
        assert_eq!(said("a@example.jp"), "a@example.jp");
        assert_eq!(said("Gift Desk <a@example.jp>"), "Gift Desk <a@example.jp>");
        assert_eq!(said("ギフト <a@example.jp>"), "=?UTF-8?B?44Ku44OV44OI?= <a@example.jp>");
        let long = said(&format!("{} <a@example.jp>", "贈".repeat(40)));
        assert!(long.split(' ').all(|word| word.len() <= 75) && long.matches("=?UTF-8?B?").count() == 3, "{long}");
    }
}
