//! Readings: what is sealed is opened by workers alone. Whoever may see something of it (the code of a gift, the report of a batch) asks a worker
//! through the database, and brings a key that was made for this one answer (`ask`). A worker opens what is stored, and seals the answer to that
//! key, part by part (`serve`). So the interface and the commands hold nothing that opens, and nothing with which a partner can be called.

pub mod ask;
pub mod serve;

use serde::{Deserialize, Serialize};

use crate::vault::Place;

/// The code of a gift, opened, and what it is worth.
#[derive(Serialize, Deserialize)]
pub struct Opened {
    pub provider: String,
    pub category: String,
    /// In minor units.
    pub amount: i64,
    pub currency: String,
    pub code: String,
}

/// Where a part of an answer belongs: it opens as no other part, of no other reading, and of no earlier try at this one.
struct Part {
    reading: String,
    number: String,
}

impl Part {
    fn of(reading: i64, take: i32, number: i32) -> Part {
        Part { reading: format!("{reading}/{take}"), number: number.to_string() }
    }

    fn place(&self) -> Place<'_> {
        Place { grant: &self.reading, provider: &self.number, column: "reading" }
    }
}
