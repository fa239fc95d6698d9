//! What noshi is tried on: simulated partners, a server of our own, the demo, the benchmark, and the conformance of the adapters whose partners are simulated.

pub mod bench;
pub mod demo;
pub mod fleet;
pub mod private_postgres;
pub mod simulator;
pub mod testkit;

#[cfg(test)]
mod conformance;
