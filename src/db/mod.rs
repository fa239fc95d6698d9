//! All SQL. One function per legal change, named by a verb; every write of a held job is fenced by id, lease, worker and step.
//! `queue` is the engine's, `domain` the worlds', `operator` the people's.

pub(crate) mod connect;
pub(crate) mod connection;
pub mod domain;
pub mod enqueue;
pub(crate) mod errors;
pub mod holders;
pub mod local;
pub mod notices;
pub mod operator;
pub mod own;
pub mod pool;
pub mod queue;
pub mod reach;
pub(crate) mod refused;
pub(crate) mod rows;
pub mod schema;

pub use connect::{MIGRATIONS, Role, connect, connect_by, in_time, may_act_as, take_time};
pub use connection::PgConnection;
pub use errors::{is_answer, is_internal, is_locked, is_transient, said};
pub use pool::{PgPool, PoolConnection, Transaction};
pub use refused::{ActError, sentence};
pub(in crate::db) use rows::interval;
pub use rows::{sealed, seconds};
pub use schema::migrate;
