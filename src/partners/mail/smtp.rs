//! A mail server, by SMTP. It sends no events: a send whose answer is lost stays in doubt until the job decides.
//!
//! One connection a message, one command at a time, because what a failure means depends on the command it met: until the
//! body begins nothing was sent; a reply to the body is definite; whatever is lost in between may have arrived.
//!
//! A dialogue is a dozen round trips. The slot of the token is judged where it begins, when connecting; before the body only the lease
//! is. The reply to the body is waited for as long as a server may take (RFC 5321, 4.5.3.2.6), since giving up would be a doubt; and a
//! message has one Message-ID for ever, so that a mailbox which gets it twice can tell.
//!
//! Whose fact each reply is, as the code reads it:
//!
//! | asked | answer | whose fact | comes to |
//! |---|---|---|---|
//! | connecting | 421 too many connections | account | lane throttled for 60 s |
//! | connecting | 450 4.7.1 client host rejected for now | account | lane throttled for 60 s |
//! | connecting | 554 go away | account | lane closed: credentials |
//! | starting TLS | 454 TLS not available due to temporary reason | account | lane throttled for 60 s |
//! | starting TLS | 502 not implemented | account | lane closed: credentials |
//! | authenticating | 432 a password transition is needed | account | lane throttled for 60 s |
//! | authenticating | 454 4.7.0 temporary authentication failure | account | lane throttled for 60 s |
//! | authenticating | 534 5.7.9 mechanism too weak | account | lane closed: credentials |
//! | authenticating | 535 5.7.8 credentials invalid | account | lane closed: credentials |
//! | naming the sender | 421 closing | account | lane throttled for 60 s |
//! | naming the sender | 450 4.1.8 <gift@example.jp>: Sender address rejected: Domain not found | account | lane throttled for 60 s |
//! | naming the sender | 452 4.3.1 insufficient system storage | account | lane throttled for 60 s |
//! | naming the sender | 530 5.7.0 must issue a STARTTLS command first | account | lane closed: credentials |
//! | naming the sender | 550 5.7.1 sender unknown | account | lane closed: sender |
//! | naming the sender | 552 5.3.4 message size exceeds | message | rejected (smtp_552) |
//! | naming the recipient | 421 4.3.0 try again later | recipient | retry, later each time |
//! | naming the recipient | 421 4.7.0 too many errors | account | lane throttled for 60 s |
//! | naming the recipient | 450 4.2.0 <hana@example.jp>: Recipient address rejected: Greylisted | recipient | retry, later each time |
//! | naming the recipient | 450 4.7.1 Client host rejected: cannot find your hostname | account | lane throttled for 60 s |
//! | naming the recipient | 451 4.7.1 come back later | recipient | retry, later each time |
//! | naming the recipient | 452 4.2.2 mailbox full | recipient | retry, later each time |
//! | naming the recipient | 452 full | recipient | retry, later each time |
//! | naming the recipient | 454 4.7.1 <hana@example.jp>: Relay access denied | account | lane throttled for 60 s |
//! | naming the recipient | 530 5.7.0 authentication required | account | lane closed: credentials |
//! | naming the recipient | 550 5.1.1 <hana@example.jp>: no such user | recipient | rejected (smtp_550) |
//! | naming the recipient | 550 5.2.1 the account is disabled | recipient | rejected (smtp_550) |
//! | naming the recipient | 550 5.1.1 <relay access denied@example.jp>: no such user | recipient | rejected (smtp_550) |
//! | naming the recipient | 552 5.2.2 mailbox full | recipient | rejected (smtp_552) |
//! | naming the recipient | 553 5.7.1 <gift@example.jp>: Sender address rejected: not owned by user noshi | account | lane closed: sender |
//! | naming the recipient | 554 5.7.1 <hana@example.jp>: Relay access denied | account | lane closed: credentials |
//! | naming the recipient | 554 5.7.1 <hana@example.jp>: Recipient address rejected: Access denied | recipient | rejected (smtp_554) |
//! | naming the recipient | 554 5.7.1 <unknown[192.0.2.1]>: Client host rejected: Access denied | account | lane closed: credentials |
//! | announcing the body | 421 closing | message | retry, later each time |
//! | announcing the body | 451 4.3.0 later | message | retry, later each time |
//! | announcing the body | 452 4.3.1 no space | account | lane throttled for 60 s |
//! | announcing the body | 554 5.5.1 no valid recipients | message | rejected (smtp_554) |
//! | the body | 421 closing | message | retry, later each time |
//! | the body | 451 4.7.1 later | message | retry, later each time |
//! | the body | 452 4.2.2 mailbox full | recipient | retry, later each time |
//! | the body | 452 4.3.1 insufficient system storage | account | lane throttled for 60 s |
//! | the body | 454 Throttling failure: Maximum sending rate exceeded. | account | lane throttled for 60 s |
//! | the body | 454 Throttling failure: Daily message quota exceeded. | account | lane throttled for 600 s |
//! | the body | 535 Authentication credentials invalid | account | lane closed: credentials |
//! | the body | 550 5.7.60 SMTP; Client does not have permissions to send as this sender | account | lane closed: sender |
//! | the body | 552 5.2.2 mailbox full | recipient | rejected (smtp_552) |
//! | the body | 552 5.3.4 message too large | message | rejected (smtp_552) |
//! | the body | 554 Message rejected: Email address is not verified. | account | lane closed: sender |
//! | the body | 554 Transaction failed: Sending is paused for this account. | account | lane closed: credentials |
//! | the body | 554 5.7.1 spam | message | rejected (smtp_554) |
//! | connecting | none, refused, or cut | network | retry |
//! | connecting, starting TLS | unknown authority, expired, another host's, old version | account | lane closed: tls |
//! | any part before the body | none in time, or cut | network | retry |
//! | the body | none in ten minutes, or cut | network | in doubt; rests, then once more under the same Message-ID |

mod reply;

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use lettre::{
    Address, Message,
    message::{
        Mailbox, MultiPart,
        header::{HeaderName, HeaderValue},
    },
    transport::smtp::{
        Error,
        authentication::{Credentials, Mechanism},
        client::{AsyncSmtpConnection, Certificate, TlsParameters},
        commands::{Data, Mail, Rcpt},
        extension::{ClientId, Extension, MailBodyParameter, MailParameter},
    },
};
use noshi_jobs::{email::Send, machine::Call};
use secrecy::{ExposeSecret, SecretString};
use tokio::{sync::Semaphore, time::timeout};

use self::reply::Part;
use super::{
    service::{DAY, JITTER, Letter, MailService, Quota, SECOND, address},
    settings::{REPLY, SMTP_TIMEOUT, SmtpSettings, Tls},
};
use crate::partners::{Budget, Gate, secret::secret, tls};

pub const NAME: &str = "smtp";

/// For everything before the body.
const BEFORE_BODY: Duration = Duration::from_secs(2 * 60);

/// Connections of this process at once. A server that is slow to answer holds no more of this worker's slots than that.
const CONNECTIONS: usize = 32;
/// Until the next look for a free one.
const BUSY: Duration = Duration::from_secs(2);

pub struct Smtp {
    host: String,
    port: u16,
    tls: Tls,
    from: Mailbox,
    credentials: Option<(String, SecretString)>,
    /// A private authority, trusted beside those of the machine.
    ca: Option<Certificate>,
    /// For each command.
    timeout: Duration,
    /// For the reply to the body.
    reply_timeout: Duration,
    settle_seconds: u32,
    connections: Arc<Semaphore>,
    budgets: Vec<Budget>,
}

/// What the dialogue came to before the body; `Err` is an answer to the send.
type Before<T> = Result<T, Send>;

impl Smtp {
    pub fn new(settings: &SmtpSettings, from: Mailbox, settle_seconds: u32) -> anyhow::Result<Self> {
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
        let timeout = settings.timeout_ms.map_or(SMTP_TIMEOUT, Duration::from_millis);
        ensure!(
            !timeout.is_zero() && timeout <= BEFORE_BODY,
            "timeout_ms of [email.smtp] must be more than 0 and at most {}",
            BEFORE_BODY.as_millis()
        );
        let reply_timeout = settings.reply_timeout_ms.map_or(REPLY, Duration::from_millis);
        ensure!(
            reply_timeout >= timeout.min(Duration::from_secs(1)) && reply_timeout <= REPLY,
            "reply_timeout_ms of [email.smtp] must be at least 1000 and at most {}",
            REPLY.as_millis()
        );
        let budget = |calls: std::num::NonZeroU32, window| Budget { calls: calls.get(), window, jitter: JITTER };
        let budgets = std::iter::once(budget(settings.sends_per_second, SECOND))
            .chain(settings.sends_per_day.map(|calls| budget(calls, DAY)))
            .collect();
        Ok(Smtp {
            host: settings.host.clone(),
            port: settings.port,
            tls: settings.tls,
            from,
            credentials,
            ca: settings.ca_file.as_deref().map(authority).transpose()?,
            timeout,
            reply_timeout,
            settle_seconds,
            connections: Arc::new(Semaphore::new(CONNECTIONS)),
            budgets,
        })
    }

    /// What the message is called, wherever and however often it is sent.
    fn id(letter: &Letter) -> String {
        format!("noshi.{}.{}", letter.job, letter.mark)
    }

    /// The message as it travels: all 7-bit, with an id that is the same for the same message.
    fn message(&self, letter: &Letter, to: &Address) -> Option<Vec<u8>> {
        let id = format!("<{}@{}>", Self::id(letter), self.from.email.domain());
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

    fn tls(&self) -> Before<TlsParameters> {
        let mut builder = TlsParameters::builder(self.host.clone());
        if let Some(ca) = &self.ca {
            builder = builder.add_root_certificate(ca.clone());
        }
        builder.build_rustls().map_err(|error| broke("the trusted certificates", &error))
    }

    async fn connect(&self) -> Before<AsyncSmtpConnection> {
        let hello = ClientId::Domain(self.from.email.domain().to_owned());
        let implicit = match self.tls {
            Tls::Implicit => Some(self.tls()?),
            Tls::Starttls | Tls::None => None,
        };
        let server = (self.host.as_str(), self.port);
        let connecting = AsyncSmtpConnection::connect_tokio1(server, Some(self.timeout), &hello, implicit, None);
        let mut connection = self.in_time(Part::Greeting, None, connecting).await?;
        if self.tls == Tls::Starttls {
            let parameters = self.tls()?;
            self.in_time(Part::StartTls, None, connection.starttls(parameters, &hello)).await?;
        }
        Ok(connection)
    }

    async fn greet(&self, to: &Address) -> Before<AsyncSmtpConnection> {
        let mut connection = self.connect().await?;
        if let Some((name, password)) = &self.credentials {
            let credentials = Credentials::new(name.clone(), password.expose_secret().to_owned());
            let mechanisms = [Mechanism::Plain, Mechanism::Login];
            self.in_time(Part::Auth, None, connection.auth(&mechanisms, &credentials)).await?;
        }
        let mut options = vec![];
        if connection.server_info().supports_feature(Extension::EightBitMime) {
            options.push(MailParameter::Body(MailBodyParameter::EightBitMime));
        }
        let from = Mail::new(Some(self.from.email.clone()), options);
        self.in_time(Part::Sender, None, connection.command(from)).await?;
        self.in_time(Part::Recipient, Some(to), connection.command(Rcpt::new(to.clone(), vec![]))).await?;
        self.in_time(Part::Announcement, Some(to), connection.command(Data)).await?;
        Ok(connection)
    }

    /// A part of the dialogue before the body.
    async fn in_time<T>(
        &self,
        part: Part,
        to: Option<&Address>,
        doing: impl Future<Output = Result<T, Error>>,
    ) -> Before<T> {
        match timeout(self.timeout, doing).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(failed(part, to, &error)),
            Err(_) => Err(late(part.words())),
        }
    }

    async fn deliver(&self, letter: &Letter, gate: &Gate) -> Send {
        let Some(to) = address(&letter.to) else { return Send::Rejected("address_malformed".to_owned()) };
        let Some(message) = self.message(letter, &to) else {
            return Send::Rejected("message_malformed".to_owned());
        };
        let Ok(_place) = self.connections.try_acquire() else { return Send::Busy(BUSY) };
        if !gate.may_begin() {
            tracing::info!(
                provider = NAME,
                "the slot of its token had passed, or the lease ran out, before connecting; not sent"
            );
            return Send::NotSent;
        }
        let mut connection = match timeout(BEFORE_BODY, self.greet(&to)).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(instead)) => return instead,
            Err(_) => return late("the dialogue before the body"),
        };
        if !gate.may_take_effect() {
            tracing::info!(provider = NAME, "the lease ran out before the body; not sent");
            return Send::NotSent;
        }
        let answered = timeout(self.reply_timeout, connection.message(&message)).await;
        match answered {
            Ok(Ok(response)) if response.has_code(250) => {
                // Whatever becomes of the farewell, the server has the message.
                let _ = timeout(Duration::from_secs(1), connection.quit()).await;
                Send::Accepted(Self::id(letter))
            }
            Ok(Ok(_)) | Err(_) => Send::Unknown,
            Ok(Err(error)) => match error.status() {
                Some(_) => failed(Part::Body, Some(&to), &error),
                None => {
                    tracing::info!(provider = NAME, "no reply to the body came back; outcome not known");
                    Send::Unknown
                }
            },
        }
    }
}

fn authority(file: &Path) -> anyhow::Result<Certificate> {
    let name = file.display();
    let pem = std::fs::read(file).with_context(|| format!("cannot read the ca_file {name} of [email.smtp]"))?;
    Certificate::from_pem(&pem)
        .with_context(|| format!("the ca_file {name} of [email.smtp] holds no certificate in PEM"))
}

/// What a failure means: a reply, or a dialogue that broke off. The server's text is never told: it quotes addresses.
fn failed(part: Part, to: Option<&Address>, error: &Error) -> Send {
    let Some(code) = error.status().map(u16::from) else {
        // A server without AUTH, where the settings have a password.
        if part == Part::Auth && error.is_client() {
            tracing::error!(provider = NAME, "the mail server offers no way to log in that we know; nothing was sent");
            return Send::BadCredentials;
        }
        if part == Part::StartTls && error.is_client() {
            tracing::error!(
                provider = NAME,
                "the mail server does not offer TLS, which the settings ask for; nothing was sent"
            );
            return Send::Tls(noshi_jobs::machine::Tls::Failed);
        }
        return broke(part.words(), error);
    };
    let text = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    let verdict = reply::read(part, code, &text, to);
    tracing::info!(
        provider = NAME,
        part = part.words(),
        code,
        fact_of = verdict.whose.name(),
        "the mail server did not take the mail; nothing was sent"
    );
    verdict.means
}

/// The dialogue ended without a reply. Before the body only.
fn broke(part: &'static str, error: &Error) -> Send {
    if let Some(trouble) = tls::trouble(error) {
        tracing::error!(provider = NAME, part, trouble = ?trouble, "no private connection to the mail server; nothing was sent");
        return Send::Tls(trouble);
    }
    let kind = match () {
        () if error.is_timeout() => "timeout",
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
    /// No event comes; but whatever cut the answer off may cut the next one off too, so the repetition is not spent at once.
    fn settle_seconds(&self) -> u32 {
        self.settle_seconds
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
