//! What comes of a row: it is taken, or its faults are told.

use secrecy::SecretString;
use std::fmt;

use crate::vault::SealedAt;

/// Faults told at once.
pub const MAX_FAULTS: usize = 20;

/// A checked row.
#[derive(Debug)]
pub struct Taken {
    /// Of the file, from 1; the header is line 1.
    pub line: u64,
    /// What no other row of the file may have.
    pub(super) unique: String,
    /// The id and the arguments of the job that the row asks for.
    pub key: String,
    pub args: String,
    /// What is sealed of it, if it has any of that.
    pub private: Option<Private>,
    /// Mail can be sent to it.
    pub(super) mailed: bool,
}

/// A person's or a store's data in a row: kept beside it, sealed.
#[derive(Debug)]
pub struct Private {
    /// `recipient` (name and address) or `contact` (address and phone).
    pub(super) what: &'static str,
    /// The grant or the store that it is sealed for.
    pub(super) of: String,
    /// As JSON.
    pub plain: SecretString,
}

impl Private {
    pub fn place(&self) -> SealedAt<'_> {
        SealedAt { grant: &self.of, provider: "", column: self.what }
    }
}

/// What is wrong with one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub line: u64,
    pub field: Option<String>,
    pub sentence: String,
}

/// Why a file was not taken. Nothing of it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    pub file: String,
    pub faults: Vec<Fault>,
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "nothing of {} was written:", self.file)?;
        for Fault { line, field, sentence } in &self.faults {
            write!(f, "\n{} line {line}", self.file)?;
            if let Some(field) = field {
                write!(f, ", field `{field}`")?;
            }
            write!(f, ": {sentence}")?;
        }
        if self.faults.len() >= MAX_FAULTS {
            write!(f, "\nthese are the first {MAX_FAULTS}; there may be more")?;
        }
        Ok(())
    }
}

impl std::error::Error for Rejected {}
