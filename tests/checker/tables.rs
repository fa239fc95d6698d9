//! The rows, as the dumps and the ledger spell them. Columns that no invariant needs are not read.

use std::path::Path;

use chrono::DateTime;
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::Value;

/// Unix microseconds.
pub type Us = i64;

#[derive(Debug, Deserialize)]
pub struct Job {
    pub id: i64,
    pub kind: String,
    pub key: String,
    pub args: Value,
    pub at: String,
    pub state: Option<Value>,
    pub status: String,
    pub outcome: Option<String>,
    pub code: Option<String>,
    pub lease: i64,
    pub worker: Option<i64>,
    pub step: i64,
    pub crash_count: i64,
    #[serde(default)]
    pub batch: Option<i64>,
    #[serde(default)]
    pub row_no: i64,
    #[serde(default, deserialize_with = "optional_time")]
    pub created_at: Option<Us>,
    #[serde(deserialize_with = "optional_time")]
    pub finished_at: Option<Us>,
}

#[derive(Debug, Deserialize)]
pub struct JobEvent {
    pub job: i64,
    #[serde(deserialize_with = "time")]
    pub happened_at: Us,
    pub event: String,
    pub lease: i64,
    pub step: i64,
    pub worker: Option<i64>,
    pub was: Option<String>,
    pub became: Option<String>,
    pub outcome: Option<String>,
    pub code: Option<String>,
}

#[derive(Debug, Deserialize)]
pub struct GiftTrade {
    pub id: String,
    pub grant_id: String,
    pub generation: i64,
    pub job: i64,
    pub provider: String,
    pub amount: i64,
    pub currency: String,
    #[serde(deserialize_with = "time")]
    pub started_at: Us,
}

#[derive(Debug, Deserialize)]
pub struct GiftOutcome {
    pub trade: String,
    pub outcome: String,
    pub card: Option<String>,
    #[serde(deserialize_with = "time")]
    pub happened_at: Us,
}

#[derive(Debug, Deserialize)]
pub struct Batch {
    pub id: i64,
    pub kind: String,
    pub mails: bool,
    pub issues: bool,
    #[serde(deserialize_with = "optional_time")]
    pub released_at: Option<Us>,
    #[serde(deserialize_with = "optional_time")]
    pub registered_at: Option<Us>,
}

#[derive(Debug, Deserialize)]
pub struct BatchRow {
    pub batch: i64,
    pub row_no: i64,
    pub mailed: bool,
}

#[derive(Debug, Deserialize)]
pub struct Store {
    pub public_id: String,
    pub organization: String,
    pub shop: String,
    pub job: i64,
}

#[derive(Debug, Deserialize)]
pub struct PointEntry {
    pub id: i64,
    pub key: String,
    pub user_id: String,
    pub seq: i64,
    pub balance: i64,
}

#[derive(Debug, Deserialize)]
pub struct PointLine {
    pub entry: i64,
    pub side: String,
    pub account: String,
    pub amount: i64,
}

#[derive(Debug, Deserialize)]
pub struct PointLot {
    pub id: i64,
    pub user_id: String,
    pub amount: i64,
    pub remaining: i64,
}

#[derive(Debug, Deserialize)]
pub struct PointAllocation {
    pub lot: i64,
    pub amount: i64,
}

#[derive(Debug, Deserialize)]
pub struct Lane {
    pub name: String,
    pub tokens: i64,
}

#[derive(Debug, Deserialize)]
pub struct Worker {
    pub id: i64,
    #[serde(deserialize_with = "optional_time")]
    pub stopped_at: Option<Us>,
    #[serde(deserialize_with = "optional_time")]
    pub dead_at: Option<Us>,
}

/// One line of the ledger.
#[derive(Debug, Deserialize)]
pub struct Line {
    pub n: u64,
    pub us: Us,
    pub event: String,
    pub provider: Option<String>,
    pub op: Option<String>,
    pub trade: Option<String>,
    pub card: Option<String>,
    /// A number where the provider acted; whatever the request carried where it only arrived.
    pub amount: Option<Value>,
    pub currency: Option<Value>,
    /// Until when a throttle stated that it holds.
    pub until_us: Option<Us>,
    /// The organisation platform's id of a shop, and the customer's.
    pub shop: Option<String>,
    pub public_id: Option<String>,
}

impl Line {
    pub fn is(&self, event: &str) -> bool {
        self.event == event
    }

    /// Of a provider of gifts, or of one that nothing is known of.
    pub fn is_gift(&self) -> bool {
        !matches!(self.provider.as_deref(), Some("ses" | "organization_platform"))
    }

    pub fn of_op(&self, op: &str) -> bool {
        self.op.as_deref() == Some(op)
    }
}

fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Us, D::Error> {
    parse_time(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
}

fn optional_time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Us>, D::Error> {
    match Option::<String>::deserialize(deserializer)? {
        Some(text) => parse_time(&text).map(Some).map_err(serde::de::Error::custom),
        None => Ok(None),
    }
}

fn parse_time(text: &str) -> Result<Us, String> {
    DateTime::parse_from_rfc3339(text)
        .map(|time| time.timestamp_micros())
        .map_err(|why| format!("`{text}` is not a timestamp as PostgreSQL prints it in JSON: {why}"))
}

/// All rows of one table's dump.
pub fn table<T: DeserializeOwned>(directory: &Path, name: &str) -> Result<Vec<T>, String> {
    let path = directory.join(format!("{name}.jsonl"));
    let text = std::fs::read_to_string(&path).map_err(|why| format!("cannot read {}: {why}", path.display()))?;
    let rows = text.lines().enumerate().filter(|(_, line)| !line.is_empty());
    rows.map(|(at, line)| row(line).map_err(|why| format!("{} line {}: {why}", path.display(), at + 1))).collect()
}

/// `copy … to` writes every backslash twice, a client that selects the same text does not; both are read.
fn row<T: DeserializeOwned>(line: &str) -> Result<T, serde_json::Error> {
    serde_json::from_str(line).or_else(|why| serde_json::from_str(&line.replace(r"\\", r"\")).map_err(|_| why))
}

/// The ledger. A last line without its end was never answered to anybody, so it is left out.
pub fn ledger(path: &Path) -> Result<Vec<Line>, String> {
    let text = std::fs::read_to_string(path).map_err(|why| format!("cannot read {}: {why}", path.display()))?;
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let mut lines = vec![];
    for (at, text) in whole.lines().enumerate() {
        let line: Line =
            serde_json::from_str(text).map_err(|why| format!("{} line {}: {why}", path.display(), at + 1))?;
        if line.n != at as u64 + 1 {
            return Err(format!("{} line {} carries n={}: lines are missing", path.display(), at + 1, line.n));
        }
        lines.push(line);
    }
    Ok(lines)
}
