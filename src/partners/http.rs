//! The one HTTP client for effects.
//!
//! It exists to tell three things apart: an answer, a request that never left this machine (`NotSent`), and a request
//! whose outcome is not known (`Unknown`). So nothing below may repeat a request: no redirects, no retries, no idle
//! connections (hyper sends again when a pooled one turns out closed), no proxy. Every timeout is set. Only the
//! configured host is ever called.

pub mod addresses;
mod guard;

use std::{
    fmt, fs, iter,
    path::{Path, PathBuf},
    sync::{Arc, LazyLock, Once, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, ensure};
use http::{HeaderMap, StatusCode, header};
use reqwest::{Certificate, Client, Method, RequestBuilder, Url};
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use noshi_jobs::machine::Closing;

use self::{
    addresses::{Addresses, Only},
    guard::Guard,
};
use super::{Budget, tls};
use crate::{
    basics::chaos::crash_point,
    db::queue::slot::{Notice, Slot},
    engine::registry,
    telemetry::metrics::time_call,
};

/// An answer larger than this is not read to its end: no provider sends one.
const MAX_BYTES: usize = 256 * 1024;
/// A longer Retry-After is a mistake or an attack; after an hour it is worth asking again.
const LONGEST_WAIT: Duration = Duration::from_secs(60 * 60);
/// Where a 429 says nothing of use.
const TOO_MANY: Duration = Duration::from_secs(5);
/// Seconds; an answer's Date is whole seconds, and it travelled.
const CLOCKS_AGREE: u64 = 60;

type Leave = Arc<dyn Fn() -> bool + Send + Sync>;

/// The worker's leave to make a call, on the monotonic clock. The slot of the call's token is judged where the call begins, when it
/// connects; the lease there and once more where its effect begins, however long the dialogue in between took.
#[derive(Clone)]
pub struct Gate {
    may_begin: Leave,
    may_take_effect: Leave,
    told: Notice,
}

impl Gate {
    /// For the call of this step: in the slot of its token, and while the worker's lease holds.
    pub fn of(cx: &registry::Context<'_>) -> Gate {
        let (clock, slot) = (Arc::clone(cx.clock()), cx.claimed().slot.clone());
        let gate = Gate::new(move || clock.may_call()).telling(&cx.claimed().told);
        gate.beginning(move || slot.as_ref().is_none_or(Slot::holds))
    }

    /// For calls whose slot was judged before, or that need none.
    pub fn new(may_call: impl Fn() -> bool + Send + Sync + 'static) -> Gate {
        let leave: Leave = Arc::new(may_call);
        Gate { may_begin: Arc::clone(&leave), may_take_effect: leave, told: Notice::default() }
    }

    /// The same, with a leave of its own for the beginning.
    #[must_use]
    pub fn beginning(self, in_slot: impl Fn() -> bool + Send + Sync + 'static) -> Gate {
        let lease = Arc::clone(&self.may_take_effect);
        Gate { may_begin: Arc::new(move || lease() && in_slot()), ..self }
    }

    /// Where what a call notices about its lane is put.
    #[must_use]
    pub fn telling(self, told: &Notice) -> Gate {
        Gate { told: Arc::clone(told), ..self }
    }

    pub(super) fn tell(&self, closing: Closing) {
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = Some(closing);
    }

    /// Always open: for calls that no job makes, such as a balance shown to an operator.
    pub fn open() -> Gate {
        Gate::new(|| true)
    }

    /// The call may begin: the slot of its token has not passed, and the lease holds.
    pub(super) fn may_begin(&self) -> bool {
        (self.may_begin)()
    }

    /// Its effect may begin: the lease still holds.
    pub(super) fn may_take_effect(&self) -> bool {
        (self.may_take_effect)()
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gate(..)")
    }
}

/// What became of a request.
#[derive(Debug)]
pub enum Answer {
    Reply(Reply),
    /// It never left this machine: no address, connection refused, TLS not agreed, the gate or the rate guard closed.
    NotSent,
    /// It may have arrived: no answer in time, a reset, an answer that ends early or is too large.
    Unknown,
}

#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    /// From Retry-After, between 0 and 1 h.
    pub retry_after: Option<Duration>,
    /// How far this machine's clock is ahead of the partner's, in seconds, by the answer's Date; behind it is negative.
    pub clock_ahead: Option<i64>,
    /// From `x-amzn-errortype`, where AWS names an error.
    pub error_type: Option<String>,
    pub body: Body,
}

impl Reply {
    /// How long to keep away: what the answer says, or `usual` where it says nothing of use.
    pub fn wait_or(&self, usual: Duration) -> Duration {
        self.retry_after.filter(|wait| !wait.is_zero()).unwrap_or(usual)
    }

    /// For how long it asks everybody to keep away. A 503 counts where it says how long: else it may be one bad host of many.
    fn asks_to_wait(&self) -> Option<Duration> {
        match self.status {
            StatusCode::TOO_MANY_REQUESTS => Some(self.wait_or(TOO_MANY)),
            StatusCode::SERVICE_UNAVAILABLE => self.retry_after.filter(|wait| !wait.is_zero()),
            _ => None,
        }
    }

    /// This machine's clock, if it is so far off that signatures made by it may be refused for that.
    pub fn clock_off(&self) -> Option<i64> {
        self.clock_ahead.filter(|ahead| ahead.unsigned_abs() > CLOCKS_AGREE)
    }
}

/// The bytes of an answer. They may hold a gift code: `Debug` shows their number only, and they are wiped when dropped.
pub struct Body(Zeroizing<Vec<u8>>);

impl Body {
    /// Reads it as JSON. `None` if it is anything else: the reason might quote the content, so it is not told.
    pub fn json<T: DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_slice(&self.0).ok()
    }

    pub fn text(&self) -> Option<&str> {
        str::from_utf8(&self.0).ok()
    }

    pub fn contains(&self, text: &str) -> bool {
        self.0.windows(text.len()).any(|window| window == text.as_bytes())
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Body({} bytes)", self.0.len())
    }
}

/// Whoever waits longer for one answer has mistaken the unit.
pub(in crate::partners) const LONGEST_CALL: Duration = Duration::from_secs(600);

/// How to reach one provider.
#[derive(Debug, Clone)]
pub struct Reach {
    pub provider: &'static str,
    pub base_url: String,
    /// Plain HTTP to other machines; to this machine it is always allowed.
    pub allow_plain_http: bool,
    /// A private authority, trusted beside those of the machine.
    pub ca_file: Option<PathBuf>,
    pub connect_timeout: Duration,
    /// Between two pieces of an answer.
    pub read_timeout: Duration,
    /// The whole call.
    pub timeout: Duration,
    pub budgets: Vec<Budget>,
    /// Where it may connect to; `None`: wherever the settings say.
    pub only: Option<Addresses>,
}

impl Reach {
    /// A partner with the usual times: 5 s to connect, 20 s for the whole call.
    pub fn usual(provider: &'static str, base_url: &str, budget: Budget) -> Reach {
        let (connect_timeout, read_timeout) = (Duration::from_secs(5), Duration::from_secs(10));
        let (base_url, timeout) = (base_url.to_owned(), Duration::from_secs(20));
        let (allow_plain_http, ca_file, budgets, only) = (false, None, vec![budget], None);
        Reach { provider, base_url, allow_plain_http, ca_file, connect_timeout, read_timeout, timeout, budgets, only }
    }
}

/// Of no host of anybody's.
static NOWHERE: LazyLock<Url> = LazyLock::new(|| Url::parse("noshi:nowhere").expect("an address"));

/// The segments that browsers and libraries leave out, as the WHATWG names them.
fn is_dropped(segment: &str) -> bool {
    let plain = segment.to_ascii_lowercase().replace("%2e", ".");
    matches!(plain.as_str(), "." | "..")
}

pub struct Http {
    provider: &'static str,
    client: Client,
    base: Url,
    guard: Guard,
}

impl Http {
    pub fn new(reach: &Reach) -> anyhow::Result<Http> {
        let base = base(reach).with_context(|| format!("the base_url of {} cannot be used", reach.provider))?;
        install_tls();
        let mut client = Client::builder()
            .user_agent(concat!("noshi/", env!("CARGO_PKG_VERSION")))
            .http1_only()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .no_proxy()
            .pool_max_idle_per_host(0)
            .connect_timeout(reach.connect_timeout)
            .read_timeout(reach.read_timeout)
            .timeout(reach.timeout);
        if base.scheme() == "http" {
            // No certificate is ever checked here, so a machine without a store of them will do.
            client = client.tls_certs_only(iter::empty());
        }
        if let Some(only) = reach.only {
            client = client.dns_resolver(Arc::new(Only(only)));
        }
        if let Some(file) = &reach.ca_file {
            client = client.tls_certs_merge(authority(reach.provider, file)?);
        }
        let client = client.build().with_context(|| {
            format!("the HTTP client for {} cannot start; https needs the package ca-certificates", reach.provider)
        })?;
        Ok(Http { provider: reach.provider, client, base, guard: Guard::new(&reach.budgets) })
    }

    /// A request to `path`, which is appended to the base URL segment by segment.
    pub fn request(&self, method: Method, path: &[&str]) -> RequestBuilder {
        self.client.request(method, self.url(path))
    }

    /// The same, with a query.
    pub fn query(&self, method: Method, path: &[&str], query: &[(&str, &str)]) -> RequestBuilder {
        let mut url = self.url(path);
        url.query_pairs_mut().extend_pairs(query);
        self.client.request(method, url)
    }

    /// A segment that would be dropped makes another call of it, with our credentials: it leads nowhere, and `send` sends nothing.
    pub fn url(&self, path: &[&str]) -> Url {
        if path.iter().any(|segment| is_dropped(segment)) {
            tracing::warn!(provider = self.provider, "a part of an address is made of dots; nothing is sent");
            return NOWHERE.clone();
        }
        let mut url = self.base.clone();
        // `base` has checked that it can be a base, so there are segments to change.
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        url
    }

    /// Makes the call, once.
    pub async fn send(&self, request: RequestBuilder, gate: &Gate) -> Answer {
        let Ok(request) = request.build() else {
            tracing::warn!(provider = self.provider, "a request could not be built; nothing was sent");
            return Answer::NotSent;
        };
        if request.url().origin() != self.base.origin() {
            tracing::warn!(provider = self.provider, "a request was for another host than configured; not sent");
            return Answer::NotSent;
        }
        if !self.guard.admits().await {
            tracing::warn!(provider = self.provider, "this process calls above the provider's budget; not sent");
            return Answer::NotSent;
        }
        if !gate.may_begin() {
            tracing::info!(
                provider = self.provider,
                "the slot of its token had passed, or the lease ran out, before the call; not sent"
            );
            return Answer::NotSent;
        }
        crash_point("send.before");
        let begun = Instant::now();
        let answer = self.execute(request, gate).await;
        // Whoever says "too many" on the way, it is to be heeded; whether the call had its effect is the adapter's to read.
        if let Answer::Reply(reply) = &answer
            && let Some(wait) = reply.asks_to_wait()
        {
            gate.tell(Closing::Throttled(wait));
        }
        time_call(self.provider, begun.elapsed());
        answer
    }

    async fn execute(&self, request: reqwest::Request, gate: &Gate) -> Answer {
        match self.client.execute(request).await {
            Ok(response) => {
                crash_point("resp.after_headers");
                self.read(response).await
            }
            Err(error) if error.is_connect() => {
                if let Some(trouble) = tls::trouble(&error) {
                    gate.tell(Closing::Tls(trouble));
                }
                let error = Chain(&error.without_url()).to_string();
                tracing::info!(provider = self.provider, error, "no connection; not sent");
                Answer::NotSent
            }
            Err(error) => self.unknown(error),
        }
    }

    async fn read(&self, mut response: reqwest::Response) -> Answer {
        let status = response.status();
        let retry_after = retry_after(response.headers(), SystemTime::now());
        let clock_ahead = clock_ahead(response.headers(), SystemTime::now());
        let error_type = response.headers().get("x-amzn-errortype");
        let error_type = error_type.and_then(|value| value.to_str().ok()).map(str::to_owned);
        // Reserved at once, since growing would leave copies behind.
        let announced = response.content_length().and_then(|length| usize::try_from(length).ok());
        let mut bytes = Zeroizing::new(Vec::with_capacity(announced.unwrap_or(8 * 1024).min(MAX_BYTES)));
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) if bytes.len() + chunk.len() <= MAX_BYTES => bytes.extend_from_slice(&chunk),
                Ok(Some(_)) => {
                    tracing::warn!(provider = self.provider, "an answer is larger than 256 KiB; outcome not known");
                    return Answer::Unknown;
                }
                Ok(None) => break,
                Err(error) => return self.unknown(error),
            }
        }
        crash_point("resp.after_body");
        Answer::Reply(Reply { status, retry_after, clock_ahead, error_type, body: Body(bytes) })
    }

    fn unknown(&self, error: reqwest::Error) -> Answer {
        let error = Chain(&error.without_url()).to_string();
        tracing::info!(provider = self.provider, error, "no whole answer came back; outcome not known");
        Answer::Unknown
    }
}

/// An error with its causes, in one line. Transport errors name hosts and system errors, never content.
struct Chain<'a>(&'a dyn std::error::Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut causes = iter::successors(self.0.source(), |cause| cause.source());
        causes.try_for_each(|cause| write!(f, ": {cause}"))
    }
}

fn authority(provider: &str, file: &Path) -> anyhow::Result<Vec<Certificate>> {
    let name = file.display();
    let pem = fs::read(file).with_context(|| format!("cannot read the ca_file {name} of {provider}"))?;
    let none = || format!("the ca_file {name} of {provider} holds no certificate in PEM");
    let certificates = Certificate::from_pem_bundle(&pem).with_context(none)?;
    ensure!(!certificates.is_empty(), none());
    Ok(certificates)
}

fn base(reach: &Reach) -> anyhow::Result<Url> {
    let url = Url::parse(&reach.base_url).context("it is not a URL, such as https://api.example.com/v1")?;
    let plain = match url.scheme() {
        "https" => false,
        "http" => true,
        _ => anyhow::bail!("it must begin with https://"),
    };
    let host = url.host_str().unwrap_or_default();
    let here = matches!(host, "localhost" | "127.0.0.1" | "[::1]");
    ensure!(
        !plain || here || reach.allow_plain_http,
        "it is plain http to `{host}`, where others can read the credentials; use https, or set allow_plain_http"
    );
    ensure!(url.username().is_empty() && url.password().is_none(), "it must not contain credentials");
    ensure!(url.query().is_none() && url.fragment().is_none(), "it must end with the path");
    Ok(url)
}

/// The whole process has one TLS provider; whoever comes first installs it.
pub(crate) fn install_tls() {
    static ONCE: Once = Once::new();
    // An error means that one is installed already.
    ONCE.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
}

fn clock_ahead(headers: &HeaderMap, now: SystemTime) -> Option<i64> {
    let date = headers.get(header::DATE)?.to_str().ok()?;
    let theirs = httpdate::parse_http_date(date.trim()).ok()?;
    let seconds = |apart: Duration| i64::try_from(apart.as_secs()).unwrap_or(i64::MAX);
    Some(match now.duration_since(theirs) {
        Ok(ahead) => seconds(ahead),
        Err(behind) => -seconds(behind.duration()),
    })
}

/// Seconds, or an HTTP date against the answer's own Date: the two clocks need not agree. Senseless values: none.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let date = |text: &str| httpdate::parse_http_date(text).ok();
    let value = text(header::RETRY_AFTER)?;
    let digits = value.strip_prefix('-').unwrap_or(value);
    let wait = if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        let seconds = if digits.len() < value.len() { 0 } else { value.parse().unwrap_or(u64::MAX) };
        Duration::from_secs(seconds)
    } else {
        let from = text(header::DATE).and_then(date).unwrap_or(now);
        date(value)?.duration_since(from).unwrap_or_default()
    };
    Some(wait.min(LONGEST_WAIT))
}

#[cfg(test)]
impl From<&str> for Body {
    fn from(text: &str) -> Body {
        Body(Zeroizing::new(text.as_bytes().to_vec()))
    }
}

#[cfg(test)]
mod tests;
