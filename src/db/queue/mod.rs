//! What the engine asks of the queue.

pub mod claim;
pub mod clocks;
pub mod lanes;
pub mod recover;
pub mod retention;
pub mod schedules;
pub mod settle;
pub mod slot;
pub mod testimony;
pub mod workers;
