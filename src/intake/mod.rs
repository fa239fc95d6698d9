//! A CSV file becomes a batch, all of it or nothing.

pub(crate) mod grants;
pub(crate) mod header;
pub(crate) mod lines;
pub mod points;
pub mod report;
pub(crate) mod stage;
pub(crate) mod stores;
pub mod submission;

pub use submission::{
    Addresses, Checked, Encoding, Fault, FileKind, MOST_FAULTS, MOST_ROWS, Rejected, Submission, Submitted, Taken,
    campaign_fault, check, digest_of, file_fault, submit, verify,
};
