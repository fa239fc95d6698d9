//! What a worker testifies: the newest that a server acknowledged to it.

use std::time::{Duration, Instant};

/// A claim as it was answered.
#[derive(Debug, Clone)]
pub struct Claim {
    pub job: i64,
    pub lease: i64,
    pub kind: String,
    pub key: String,
    /// A call may have been made under it.
    pub calls: bool,
    pub at: Instant,
}

/// Job, lease and step.
pub type Settle = (i64, i64, i32);

/// Everything that is remembered, at one moment.
#[derive(Debug, Default)]
pub struct Testimony {
    pub beats: i64,
    /// Since the newest acknowledgement.
    pub newest: Option<Duration>,
    pub overrun: bool,
    pub claims: Vec<Claim>,
    pub settles: Vec<Settle>,
}
