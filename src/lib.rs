//! How noshi's jobs happen: the engine, the store, the lanes, the clients. What they do is in `noshi-jobs`.

// One writer for all: `terminal`. What prints past it panics on a full disk or a closed pipe.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

pub mod api;
pub mod app;
pub mod basics;
pub mod cli;
pub mod console;
pub mod db;
pub mod engine;
pub mod intake;
#[cfg(feature = "lab")]
pub mod lab;
pub mod operator;
pub mod partners;
pub mod settings;
pub mod telemetry;
pub mod vault;
pub mod worlds;
