//! What each built-in job meets outside.

pub mod bulk_grants;
pub mod effect;
pub mod email;
pub mod gift_issuance;
pub mod outside;
pub mod points;
pub mod probe;
pub mod store_creation;
pub mod suppression;

pub use outside::{Current, Partners};
