//! How noshi's jobs happen: the engine, the store, the lanes, the clients. What they do is in `noshi-jobs`.

pub mod chaos;
pub mod flush;
pub mod lease;
pub mod private_postgres;
pub mod retry;
pub mod store;
pub mod world;
