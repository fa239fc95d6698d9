//! How noshi's jobs happen: the engine, the store, the lanes, the clients. What they do is in `noshi-jobs`.

pub mod bench;
pub mod catalog;
pub mod chaos;
pub mod cli;
pub mod clients;
pub mod demo;
pub mod dispatch;
pub mod engine;
pub mod flush;
pub mod gifts;
pub mod heartbeat;
pub mod hints;
pub mod host;
pub mod intake;
pub mod lease;
pub mod metrics;
pub mod private_postgres;
pub mod retry;
pub mod run;
pub mod settings;
pub mod simulator;
pub mod store;
pub mod vault;
pub mod verdict;
pub mod worker;
pub mod world;
