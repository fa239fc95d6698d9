//! What noshi is tried on: simulated partners, a server of our own, the demo, the benchmark, what a job of one's own begins and is tried with, and the conformance of the adapters whose partners are simulated.

pub mod bench;
pub mod demo;
pub mod dev;
pub mod effects;
pub mod fleet;
pub mod private_postgres;
pub mod simulator;
pub mod starter;
pub mod testkit;

#[cfg(test)]
mod conformance;
