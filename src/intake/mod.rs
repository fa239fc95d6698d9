//! A CSV file becomes a batch, all of it or nothing.

pub(crate) mod encoding;
pub(crate) mod grants;
pub(crate) mod header;
pub(crate) mod kind;
pub(crate) mod lines;
pub mod otherwise;
pub mod own;
pub mod points;
pub mod report;
pub(crate) mod row;
pub(crate) mod stage;
pub(crate) mod stores;
pub mod submission;

pub use encoding::Encoding;
pub use kind::FileKind;
pub use row::{Fault, MAX_FAULTS, Private, Rejected, Taken};
pub use submission::{
    Addresses, Checked, MAX_ROWS, Submission, Submitted, campaign_fault, check, digest_of, file_fault, submit, verify,
};
