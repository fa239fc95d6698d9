//! Worker processes on a stage: a private server, simulated partners, and what they leave on paper.

pub mod papers;
pub mod stage;
pub mod workers;
