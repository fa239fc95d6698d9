//! Worker processes on a stage: a private server, played partners, and what they leave on paper.

pub mod papers;
pub mod stage;
pub mod workers;
