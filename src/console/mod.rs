//! The console: a browser view of noshi for people. It has no data and no right of its own: whoever is signed in acts by a token.

pub mod acts;
pub mod batch_acts;
pub mod batches;
pub mod guard;
pub mod html;
pub mod job;
pub mod jobs;
pub mod lanes;
pub mod layout;
pub mod machine;
pub mod overview;
pub mod records;
pub mod runbook;
pub mod server;
pub mod session;
pub mod visit;
pub mod words;
