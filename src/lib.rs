//! A durable background job worker on PostgreSQL, for effects that cannot be taken back.
//!
//! A program is an [`App`]: the jobs that it has, each a [`Job`], and how a [`Context`] makes what they meet outside. `ops/docs/own-job.md`
//! leads from an empty folder to the first job done. What stands below beside these few names may change with any version; names of kinds,
//! states, problems and tables are permanent.

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

pub use app::App;
pub use db::{domain::facts::Fact, local::Local};
pub use engine::registry::Context;
#[cfg(feature = "lab")]
pub use lab::testkit;
pub use noshi_jobs::{self as jobs, Field, FollowUp, Holds, KindName, Problem, machine, machine::Job};
pub use partners::{Budget, Partner, http};
pub use settings::Section;
