//! How noshi's jobs happen: the engine, the store, the lanes, the clients. What they do is in `noshi-jobs`.

// One writer for all: `terminal`. What prints past it panics on a full disk or a closed pipe.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

pub mod acts;
pub mod address;
pub mod ago;
pub mod bench;
pub mod brake;
pub mod catalog;
pub mod chaos;
pub mod chores;
pub mod cli;
pub mod clients;
mod clocks;
pub mod demo;
pub mod dispatch;
pub mod door;
pub mod engine;
pub mod explain;
pub mod flush;
pub mod gifts;
pub mod grants;
pub mod heartbeat;
pub mod hints;
pub mod host;
pub mod instants;
pub mod intake;
pub mod lease;
pub mod logs;
pub mod mails;
pub mod metrics;
pub mod points;
pub mod private_postgres;
pub mod probes;
pub mod reading;
pub mod redrive;
pub mod requests;
pub mod retry;
pub mod run;
pub mod schedule;
pub mod settings;
pub mod simulator;
pub mod store;
pub mod stores;
pub mod terminal;
pub mod text;
pub mod traces;
pub mod vault;
pub mod verdict;
pub mod witness;
pub mod worker;
pub mod world;
