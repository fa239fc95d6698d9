//! What the engine is given: the jobs of this binary, by their stored kinds, and what they meet outside. `app` fills it.

use std::{sync::Arc, time::Instant};

use futures::future::BoxFuture;
use noshi_jobs::machine::{Call, Job};
use tokio::task::JoinHandle;

use super::shared::Engine;
use crate::db::{PgPool, local::Local, queue::claim::Claimed};

/// A job in flight, with the moments that its token counts from.
#[derive(Debug)]
pub struct Work {
    pub claimed: Claimed,
    /// After the claim's answer came.
    pub received: Instant,
}

/// Makes the world that a job's step meets.
pub trait Outside<J: Job>: Send + Sync {
    fn world(&self, engine: &Engine, claimed: &Claimed, local: &Local) -> Box<J::World>;
}

pub trait Registry: Send + Sync + 'static {
    /// Runs one claimed job, of whatever kind.
    fn run_job<'a>(&'a self, engine: &'a Engine, work: &'a Work) -> Call<'a, ()>;
    /// The names of the partners that its jobs call.
    fn partners(&self) -> Vec<String>;
    /// Makes sure that every partner's lane exists with its budgets.
    fn declare_lanes<'a>(&'a self, pool: &'a PgPool) -> BoxFuture<'a, Result<(), sqlx::Error>>;
    /// Begins what its partners ask of a worker beside jobs, on connections that work can never starve; it ends when it is aborted.
    fn begin(&self, engine: &Arc<Engine>, vital: &PgPool) -> Vec<JoinHandle<()>>;
}
