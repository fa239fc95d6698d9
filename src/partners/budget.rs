//! What an account may be asked for in a time.

use std::time::Duration;

/// A rate budget of the account: `calls` in any `window`, with answers arriving up to `jitter` later than sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    pub calls: u32,
    pub window: Duration,
    pub jitter: Duration,
}
