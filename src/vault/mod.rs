//! Sealing: what must not be read from a stolen backup is stored encrypted.

pub mod contact;
pub(crate) mod files;
pub(crate) mod sealing;

pub use files::check_permissions;
pub use sealing::{SealedAt, Sealer, Sealing, Vault, generate_key_line, keep_out_of_dumps};
