//! What an account may be asked for in a time.

use std::time::Duration;

/// A rate budget of the account: `calls` in any `window`, with answers arriving up to `jitter` later than sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    pub calls: u32,
    pub window: Duration,
    pub jitter: Duration,
}

/// A partner that jobs of one's own call: its lane, with its budget, and its labels in the metrics.
#[derive(Debug, Clone)]
pub struct Partner {
    pub name: &'static str,
    /// What is asked of it.
    pub ops: &'static [&'static str],
    pub lane: &'static str,
    pub budget: Budget,
}
