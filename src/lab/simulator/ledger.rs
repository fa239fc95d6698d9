//! The ledger: append-only JSON lines, the only truth about what the providers did.
//!
//! `{"n":1,"us":…,"event":"arrival","provider":"tango_card","op":"issue","trade":"<our id>",…}`, one object a line,
//! `n` without gaps. `us` is unix microseconds: for an arrival the moment its head was read, else the moment of
//! writing (so an arrival's `us` may be older than that of the line before it).
//! One thread writes. While it waits for the disk the next lines gather, so concurrent calls share one fsync.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::watch;

use super::{
    lock::lock,
    partner::{Errand, Partner},
};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// First line of every call. `refused: "auth"` if the credentials were wrong.
    #[default]
    Arrival,
    /// An order was taken whose money moves later, at `lands_us`.
    Accepted,
    /// Money moved: a card exists.
    Issued,
    /// The card was taken back and its money returned.
    Voided,
    /// The same order again: no new effect.
    Replayed,
    /// The same id with another content: no effect.
    Conflict,
    /// No effect, for `reason`. With `card`: an accepted order that failed for good.
    Refused,
    Throttled,
    /// Last line of every call: what was said. `lost` when no answer was delivered.
    Answer,
    /// A test or an operator set the balance.
    Funded,
    /// A shop exists at the organisation platform, from this line on.
    ShopCreated,
    /// It does no longer.
    ShopDeleted,
    /// A service was assigned to an organisation.
    ServiceAssigned,
    /// SES took a message: it goes out, or does what its recipient's address says.
    MailSent,
    /// An event reached its subscriber: it was answered with 2xx.
    Published,
}

/// One line. Fields that do not apply are left out, except `http` and `fault` of an answer, which are then null.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Line {
    pub n: u64,
    pub us: u64,
    pub event: Event,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<Partner>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub op: Option<Errand>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trade: Option<String>,
    /// Yen. On an arrival: whatever the request carried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub amount: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub currency: Option<Value>,
    /// The provider's own id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub card: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code_sha256: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<Value>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lost: bool,
    /// Landed after its connection was gone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub late: bool,
    /// The how-many-th call of its (provider, op, trade), from 1, counting calls that reached the fault draw.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nth: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lands_us: Option<u64>,
    /// Until when a throttle stated that it holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until_us: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub balance: Option<i64>,
    /// Fingerprint of the order's content, to tell a replay from a conflict after a restart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// What the provider repeats in later answers (product and account ids, nothing about a person).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<Value>,
    /// The platform's id of an organisation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub organization: Option<String>,
    /// The organisation's own id of a shop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_id: Option<String>,
    /// The platform's id of a shop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shop: Option<String>,
    /// The id that SES gave a message, or the platform an event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Never the address itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recipient_sha256: Option<String>,
}

pub struct Ledger {
    shared: Arc<Shared>,
    durable: watch::Receiver<Durable>,
    writer: Mutex<Option<JoinHandle<()>>>,
    clock: AtomicU64,
}

#[derive(Default)]
struct Shared {
    pending: Mutex<Pending>,
    wake: Condvar,
}

#[derive(Default)]
struct Pending {
    bytes: Vec<u8>,
    last: u64,
    error: Option<String>,
    closing: bool,
}

enum Durable {
    UpTo(u64),
    Broken(String),
}

impl Ledger {
    /// Opens or creates the file and returns what it already holds. A last line without its newline was never
    /// promised to anybody (no answer waits for half a line), so it is cut off.
    pub fn open(path: &Path) -> anyhow::Result<(Ledger, Vec<Line>)> {
        let mut options = OpenOptions::new();
        let file = options
            .read(true)
            .append(true)
            .create(true)
            .open(path)
            .with_context(|| format!("cannot open the ledger {}", path.display()))?;
        if file.try_lock().is_err() {
            bail!("another simulator is writing to {}; give this one its own ledger", path.display());
        }
        let lines = read(path, &file)?;
        sync_directory(path)?;

        let last = lines.last().map_or(0, |line| line.n);
        let shared = Arc::new(Shared::default());
        lock(&shared.pending).last = last;
        let (tell, durable) = watch::channel(Durable::UpTo(last));
        let writer = std::thread::Builder::new().name("ledger".into()).spawn({
            let shared = Arc::clone(&shared);
            move || write(file, &shared, &tell)
        })?;
        let ledger = Ledger {
            shared,
            durable,
            writer: Mutex::new(Some(writer)),
            clock: AtomicU64::new(lines.iter().map(|line| line.us).max().unwrap_or(0)),
        };
        Ok((ledger, lines))
    }

    /// Unix microseconds that never go back, not even over a restart or a corrected clock.
    pub fn now_us(&self) -> u64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros());
        let now = u64::try_from(now).unwrap_or(u64::MAX);
        self.clock.fetch_max(now, Ordering::AcqRel).max(now)
    }

    /// Queues a line behind all earlier ones and returns its `n`; [`Ledger::wait`] tells when it is on disk.
    /// `n`, and `us` unless given, are filled in here.
    pub fn append(&self, mut line: Line) -> u64 {
        let mut pending = lock(&self.shared.pending);
        pending.last += 1;
        line.n = pending.last;
        if line.us == 0 {
            line.us = self.now_us();
        }
        match serde_json::to_writer(&mut pending.bytes, &line) {
            Ok(()) => pending.bytes.push(b'\n'),
            Err(error) => pending.error = Some(error.to_string()),
        }
        self.shared.wake.notify_one();
        line.n
    }

    pub async fn wait(&self, n: u64) -> anyhow::Result<()> {
        let mut durable = self.durable.clone();
        let state = durable.wait_for(|durable| match durable {
            Durable::UpTo(last) => *last >= n,
            Durable::Broken(_) => true,
        });
        match &*state.await.context("the ledger was closed")? {
            Durable::UpTo(_) => Ok(()),
            Durable::Broken(why) => Err(anyhow!("the ledger cannot be written: {why}")),
        }
    }

    /// Returns when everything queued so far is on disk.
    pub async fn flushed(&self) -> anyhow::Result<()> {
        let last = lock(&self.shared.pending).last;
        self.wait(last).await
    }

    /// Returns only when writing failed.
    pub async fn broken(&self) -> anyhow::Error {
        match self.wait(u64::MAX).await {
            Ok(()) => anyhow!("the ledger is full"),
            Err(error) => error,
        }
    }

    /// Writes what is queued and frees the file. Later lines are not written, and `wait` for them fails.
    pub fn close(&self) -> anyhow::Result<()> {
        lock(&self.shared.pending).closing = true;
        self.shared.wake.notify_one();
        if let Some(writer) = lock(&self.writer).take() {
            writer.join().map_err(|_| anyhow!("the ledger's writer panicked"))?;
        }
        match &*self.durable.borrow() {
            Durable::UpTo(_) => Ok(()),
            Durable::Broken(why) => Err(anyhow!("the ledger cannot be written: {why}")),
        }
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        // Whoever cares about the error calls `close`.
        let _ = self.close();
    }
}

fn write(mut file: File, shared: &Shared, tell: &watch::Sender<Durable>) {
    loop {
        let (bytes, last, error) = {
            let mut pending = lock(&shared.pending);
            while pending.bytes.is_empty() && pending.error.is_none() {
                if pending.closing {
                    return;
                }
                pending = shared.wake.wait(pending).unwrap_or_else(|poison| poison.into_inner());
            }
            (std::mem::take(&mut pending.bytes), pending.last, pending.error.take())
        };
        let written = match error {
            Some(error) => Err(error),
            None => file.write_all(&bytes).and_then(|()| file.sync_data()).map_err(|error| error.to_string()),
        };
        match written {
            Ok(()) => tell.send_replace(Durable::UpTo(last)),
            Err(why) => {
                tell.send_replace(Durable::Broken(why));
                return;
            }
        };
    }
}

fn read(path: &Path, file: &File) -> anyhow::Result<Vec<Line>> {
    let bytes = std::fs::read(path)?;
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    if whole < bytes.len() {
        file.set_len(u64::try_from(whole)?)?;
        file.sync_all()?;
    }
    let mut lines = Vec::new();
    for (at, text) in bytes[..whole].split_inclusive(|byte| *byte == b'\n').enumerate() {
        let line: Line = serde_json::from_slice(text)
            .with_context(|| format!("{} line {} is not a ledger line", path.display(), at + 1))?;
        if line.n != u64::try_from(at)? + 1 {
            bail!("{} line {} carries n={}: lines are missing", path.display(), at + 1, line.n);
        }
        lines.push(line);
    }
    Ok(lines)
}

/// A new file's name is durable only once its directory is.
fn sync_directory(path: &Path) -> std::io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        Some(_) | None => File::open(".")?.sync_all(),
    }
}
