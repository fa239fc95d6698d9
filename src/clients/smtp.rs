//! A mail server, by SMTP. It sends no events: a send whose answer is lost stays in doubt until the job decides.
//!
//! One connection a message, one command at a time, because what a failure means depends on the command it met: until the
//! body begins nothing was sent; a reply to the body is definite; whatever is lost in between may have arrived.

use std::time::Duration;

use anyhow::ensure;
use lettre::{
    Address, Message,
    message::{
        Mailbox, MultiPart,
        header::{HeaderName, HeaderValue},
    },
    transport::smtp::{
        Error,
        authentication::{Credentials, Mechanism},
        client::{AsyncSmtpConnection, TlsParameters},
        commands::{Data, Mail, Rcpt},
        extension::{ClientId, Extension, MailBodyParameter, MailParameter},
    },
};
use noshi_jobs::{email::Send, machine::Call};
use secrecy::{ExposeSecret, SecretString};
use tokio::time::timeout;

use super::{
    Budget, Gate,
    mail::{DAY, JITTER, Letter, MailService, Quota, SECOND, SmtpSettings, Tls, address},
    settings::secret,
};

pub const NAME: &str = "smtp";

pub(super) const TIMEOUT: Duration = Duration::from_secs(15);
/// For everything before the body: with the body's own time the whole stays within a step's minute.
const BEFORE_BODY: Duration = Duration::from_secs(35);
/// After a reply that the server has too much to do, or closes.
const LATER: Duration = Duration::from_secs(60);

pub struct Smtp {
    host: String,
    port: u16,
    tls: Tls,
    from: Mailbox,
    credentials: Option<(String, SecretString)>,
    /// For each command.
    timeout: Duration,
    budgets: Vec<Budget>,
}

/// What the dialogue came to before the body; `Err` is an answer to the send.
type Before<T> = Result<T, Send>;

impl Smtp {
    pub fn new(settings: &SmtpSettings, from: Mailbox) -> anyhow::Result<Self> {
        let here = matches!(&*settings.host, "localhost" | "127.0.0.1" | "::1");
        ensure!(
            settings.tls != Tls::None || here,
            "[email.smtp] has `tls = \"none\"` for `{}`, where others can read the mails; use implicit or starttls",
            settings.host
        );
        let credentials = match (&settings.username, &settings.password_file) {
            (None, None) => None,
            (Some(name), Some(file)) => Some((name.clone(), secret(NAME, "password", file)?)),
            (Some(_), None) | (None, Some(_)) => {
                anyhow::bail!("[email.smtp] needs both `username` and `password_file`, or neither")
            }
        };
        let timeout = settings.timeout_ms.map_or(TIMEOUT, Duration::from_millis);
        ensure!(
            !timeout.is_zero() && timeout <= TIMEOUT,
            "timeout_ms of [email.smtp] must be more than 0 and at most 15000"
        );
        let budget = |calls: std::num::NonZeroU32, window| Budget { calls: calls.get(), window, jitter: JITTER };
        let budgets = std::iter::once(budget(settings.sends_per_second, SECOND))
            .chain(settings.sends_per_day.map(|calls| budget(calls, DAY)))
            .collect();
        let (host, port) = (settings.host.clone(), settings.port);
        Ok(Smtp { host, port, tls: settings.tls, from, credentials, timeout, budgets })
    }

    /// The message as it travels: all 7-bit, with an id that is the same for the same send.
    fn message(&self, letter: &Letter, to: &Address) -> Option<Vec<u8>> {
        let id = format!("<noshi.{}.{}@{}>", letter.job, letter.send_no, self.from.email.domain());
        let job = HeaderValue::new(HeaderName::new_from_ascii_str("X-Job-Id"), letter.job.to_string());
        let parts = MultiPart::alternative_plain_html(
            letter.text.expose_secret().to_owned(),
            letter.html.expose_secret().to_owned(),
        );
        let message = Message::builder()
            .from(self.from.clone())
            .to(Mailbox::new(None, to.clone()))
            .subject(letter.subject.expose_secret())
            .message_id(Some(id))
            .raw_header(job)
            .multipart(parts)
            .ok()?;
        Some(message.formatted())
    }

    async fn connect(&self) -> Before<AsyncSmtpConnection> {
        let hello = ClientId::Domain(self.from.email.domain().to_owned());
        let tls = || TlsParameters::new_rustls(self.host.clone()).map_err(|error| not_sent("the TLS roots", &error));
        let implicit = match self.tls {
            Tls::Implicit => Some(tls()?),
            Tls::Starttls | Tls::None => None,
        };
        let server = (self.host.as_str(), self.port);
        let connecting = AsyncSmtpConnection::connect_tokio1(server, Some(self.timeout), &hello, implicit, None);
        let mut connection = match timeout(self.timeout, connecting).await {
            Ok(Ok(connection)) => connection,
            // It would meet every message.
            Ok(Err(error)) if error.is_permanent() => return Err(refused("connecting", &error, Send::BadCredentials)),
            Ok(Err(error)) => return Err(before("connecting", &error)),
            Err(_) => return Err(late("connecting")),
        };
        if self.tls == Tls::Starttls {
            let parameters = tls()?;
            self.in_time("starting TLS", connection.starttls(parameters, &hello)).await?;
        }
        Ok(connection)
    }

    async fn greet(&self, to: &Address) -> Before<AsyncSmtpConnection> {
        let mut connection = self.connect().await?;
        if let Some((name, password)) = &self.credentials {
            let credentials = Credentials::new(name.clone(), password.expose_secret().to_owned());
            let mechanisms = [Mechanism::Plain, Mechanism::Login];
            match timeout(self.timeout, connection.auth(&mechanisms, &credentials)).await {
                Ok(Ok(_)) => {}
                // 454 and its kin pass; 530, 534, 535 and 538 need a person, as does a server without AUTH.
                Ok(Err(error)) if error.is_permanent() || error.is_client() => {
                    return Err(refused("authenticating", &error, Send::BadCredentials));
                }
                Ok(Err(error)) => return Err(before("authenticating", &error)),
                Err(_) => return Err(late("authenticating")),
            }
        }
        let mut options = vec![];
        if connection.server_info().supports_feature(Extension::EightBitMime) {
            options.push(MailParameter::Body(MailBodyParameter::EightBitMime));
        }
        let from = Mail::new(Some(self.from.email.clone()), options);
        match timeout(self.timeout, connection.command(from)).await {
            Ok(Ok(_)) => {}
            // It concerns the sender, so it would meet every message.
            Ok(Err(error)) if error.is_permanent() => {
                return Err(refused("naming the sender", &error, Send::BadCredentials));
            }
            Ok(Err(error)) => return Err(before("naming the sender", &error)),
            Err(_) => return Err(late("naming the sender")),
        }
        self.in_time("naming the recipient", connection.command(Rcpt::new(to.clone(), vec![]))).await?;
        self.in_time("announcing the body", connection.command(Data)).await?;
        Ok(connection)
    }

    /// A part of the dialogue before the body.
    async fn in_time<T>(&self, part: &'static str, doing: impl Future<Output = Result<T, Error>>) -> Before<T> {
        match timeout(self.timeout, doing).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(before(part, &error)),
            Err(_) => Err(late(part)),
        }
    }

    async fn deliver(&self, letter: &Letter, gate: &Gate) -> Send {
        let Some(to) = address(&letter.to) else { return Send::Rejected("address_malformed".to_owned()) };
        let Some(message) = self.message(letter, &to) else {
            return Send::Rejected("message_malformed".to_owned());
        };
        let mut connection = match timeout(BEFORE_BODY, self.greet(&to)).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(instead)) => return instead,
            Err(_) => return late("the dialogue before the body"),
        };
        if !gate.may_call() {
            tracing::info!(provider = NAME, "the lease ran out before the body; not sent");
            return Send::NotSent;
        }
        let answered = timeout(self.timeout, connection.message(&message)).await;
        match answered {
            Ok(Ok(response)) if response.has_code(250) => {
                // Whatever becomes of the farewell, the server has the message.
                let _ = timeout(Duration::from_secs(1), connection.quit()).await;
                Send::Accepted(format!("noshi.{}.{}", letter.job, letter.send_no))
            }
            Ok(Ok(_)) | Err(_) => Send::Unknown,
            Ok(Err(error)) => match error.status() {
                Some(_) => before("the body", &error),
                None => {
                    tracing::info!(provider = NAME, "no reply to the body came back; outcome not known");
                    Send::Unknown
                }
            },
        }
    }
}

/// What a definite failure means. The server's text is never told: it quotes addresses.
fn before(part: &'static str, error: &Error) -> Send {
    match error.status().map(u16::from) {
        Some(code @ 500..) => {
            tracing::info!(provider = NAME, part, code, "the mail server refused");
            Send::Rejected(format!("smtp_{code}"))
        }
        // 421: the server is closing; 452: no room. They meet every message.
        Some(code @ (421 | 452)) => {
            tracing::info!(provider = NAME, part, code, "the mail server asks to come back later");
            Send::Throttled(LATER)
        }
        // Such as greylisting: this message only. Nothing was taken.
        Some(code) => {
            tracing::info!(provider = NAME, part, code, "the mail server did not take the mail now; not sent");
            Send::NotSent
        }
        None => not_sent(part, error),
    }
}

fn refused(part: &'static str, error: &Error, meaning: Send) -> Send {
    let code = error.status().map_or(0, u16::from);
    tracing::error!(provider = NAME, part, code, "the mail server does not take mail from us; nothing was sent");
    meaning
}

fn not_sent(part: &'static str, error: &Error) -> Send {
    let kind = match () {
        () if error.is_timeout() => "timeout",
        () if error.is_tls() => "tls",
        () if error.is_response() => "reply",
        () if error.is_client() => "client",
        () => "connection",
    };
    tracing::info!(provider = NAME, part, kind, "the dialogue ended before the body; not sent");
    Send::NotSent
}

fn late(part: &'static str) -> Send {
    tracing::info!(provider = NAME, part, "no reply in time before the body; not sent");
    Send::NotSent
}

impl MailService for Smtp {
    fn name(&self) -> &'static str {
        NAME
    }
    fn settle_seconds(&self) -> u32 {
        0
    }
    fn budgets(&self) -> Vec<Budget> {
        self.budgets.clone()
    }
    fn send<'a>(&'a self, letter: &'a Letter, gate: &'a Gate) -> Call<'a, Send> {
        Box::pin(self.deliver(letter, gate))
    }
    fn quota(&self) -> Call<'_, Quota> {
        Box::pin(async { Quota::Fixed })
    }
}

#[cfg(test)]
mod tests;
