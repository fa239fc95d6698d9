//! What a process shows of itself: metrics, traces, logs, and whether it lives.

pub mod health;
pub mod logs;
pub mod metrics;
pub mod outcomes;
pub mod traces;
