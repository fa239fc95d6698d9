//! One worker process: it claims jobs, takes their steps, and settles them. It knows no world, no partner and no kind of job; those stand in a
//! [`registry`] that `app` fills.

pub mod brake;
pub mod clocks;
pub mod cron;
pub mod dispatcher;
pub mod executor;
pub mod group_commit;
pub mod heartbeat;
pub mod hints;
pub mod host;
pub mod lease;
pub mod listener;
pub mod maintenance;
pub mod registry;
pub mod retry;
pub mod settlement;
pub mod shared;
pub mod witness;
pub mod worker;

pub use shared::{Answers, Engine, Pace};
