//! Effects that a contract in TOML declares: what may stand in one, what is refused, and how it is called.

mod answers;
mod check;
mod client;
mod contract;
mod read;
mod requests;
mod settings;
mod template;

pub use client::{Client, Said, doubt_in_words};
pub use contract::{AnswerRule, Asks, Contract, Means};
pub use settings::{Clients, Effects};
