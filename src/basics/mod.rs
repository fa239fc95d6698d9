//! Leaf modules that every other may know, and that know nothing: how values are written and checked, how a command speaks, and where a
//! proof may break a process.

pub mod address;
pub mod chaos;
pub mod durations;
pub mod instants;
pub mod kinds;
pub mod requests;
pub mod schemas;
pub mod terminal;
pub mod text;
