//! How noshi's jobs happen: the engine, the store, the lanes, the clients. What they do is in `noshi-jobs`.

pub mod chaos;
pub mod clients;
pub mod simulator;
pub mod vault;
