//! The commands, noun first.

pub mod api;
pub mod audit;
pub mod batch;
pub mod command;
pub mod configuration;
pub mod console;
pub mod database;
pub mod doctor;
pub mod effect;
mod effect_table;
pub mod enqueue;
pub mod failure;
pub mod given;
pub mod job;
pub mod kind;
mod lab;
pub mod lane;
pub mod migrate;
pub mod names;
pub mod out;
pub mod pages;
pub mod points;
pub mod proposal;
pub mod prune;
pub mod redrive;
pub mod restore;
pub mod schedule;
pub mod signals;
pub mod start;
pub mod token;
pub mod vault;
pub mod worker;

pub use command::{Cli, VERSION, listen, parse, read, run, start_logging, status};
pub use database::Database;
