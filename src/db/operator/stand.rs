//! Where a job stands, as its acts are judged by.

use serde_json::Value;

/// A job as acts look at it.
#[derive(Debug, Clone, Copy)]
pub struct Stand<'a> {
    pub kind: &'a str,
    pub at: &'a str,
    pub args: &'a Value,
    /// `None`: it never began.
    pub state: Option<&'a Value>,
    pub undo: Option<&'a Value>,
    pub status: &'a str,
    pub in_doubt: bool,
    /// A call was made since doubt was last settled.
    pub called: bool,
    /// Somebody has said that they saw it parked.
    pub acknowledged: bool,
}
