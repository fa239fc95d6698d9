//! What the worlds of the jobs keep.

pub mod batches;
pub mod facts;
pub mod mails;
pub mod point_jobs;
pub mod points;
pub mod stores;
