//! What the engine is given: the jobs of this binary, by their stored kinds, and what they meet outside. `app` fills it.

use std::{
    any::{Any, TypeId, type_name},
    collections::HashMap,
    sync::Arc,
    time::Instant,
};

use futures::future::BoxFuture;
use noshi_jobs::machine::{Call, Job};
use tokio::task::JoinHandle;

use super::{lease::LeaseClock, shared::Engine};
use crate::db::{PgPool, local::Local, queue::claim::Claimed};

/// A job in flight, with the moments that its token counts from.
#[derive(Debug)]
pub struct Work {
    pub claimed: Claimed,
    /// After the claim's answer came.
    pub received: Instant,
}

/// What a program has opened for its jobs at the start, one of each type.
#[derive(Default)]
pub struct Resources(HashMap<TypeId, Box<dyn Any + Send + Sync>>);

impl Resources {
    pub fn put<T: Send + Sync + 'static>(&mut self, resource: T) {
        self.0.insert(TypeId::of::<T>(), Box::new(resource));
    }

    pub fn get<T: Send + Sync + 'static>(&self) -> Option<&T> {
        self.0.get(&TypeId::of::<T>())?.downcast_ref()
    }
}

/// One claimed job, for making the world that its next step meets.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    engine: &'a Engine,
    claimed: &'a Claimed,
    local: &'a Local,
    resources: &'a Resources,
}

impl<'a> Context<'a> {
    /// The settings of this type, as `App::settings` names their section.
    ///
    /// # Panics
    /// Where no section of that type was named: the step then counts as panicked, and its job needs an operator.
    pub fn settings<T: Send + Sync + 'static>(&self) -> &'a T {
        let named = self.resources.get::<T>();
        named.unwrap_or_else(|| panic!("the program names no section of its settings for {}", type_name::<T>()))
    }

    /// The job's number.
    pub const fn job(&self) -> i64 {
        self.claimed.id
    }

    /// The job's id, as its producer gave it.
    pub fn key(&self) -> &'a str {
        &self.claimed.key
    }

    /// The transaction of a step whose effect is `Effect::Local`: what is done in it is committed with the transition, or not at all.
    pub fn local(&self) -> Local {
        self.local.clone()
    }

    /// Connections of the worker, for reading.
    pub const fn pool(&self) -> &'a PgPool {
        &self.engine.pool
    }

    /// The worker's number.
    pub const fn worker(&self) -> i64 {
        self.engine.worker
    }

    /// How long the worker may call.
    pub const fn clock(&self) -> &'a Arc<LeaseClock> {
        &self.engine.clock
    }

    /// All that is known of the job.
    pub const fn claimed(&self) -> &'a Claimed {
        self.claimed
    }
}

/// Makes the world that a job's step meets.
pub trait Outside<J: Job>: Send + Sync {
    fn world(&self, engine: &Engine, claimed: &Claimed, local: &Local) -> Box<J::World>;
}

/// A function that makes worlds, and what it finds them from.
pub struct Made<'a, F>(pub &'a F, pub &'a Resources);

impl<J: Job, F> Outside<J> for Made<'_, F>
where
    F: Fn(&Context<'_>) -> Box<J::World> + Send + Sync,
{
    fn world(&self, engine: &Engine, claimed: &Claimed, local: &Local) -> Box<J::World> {
        (self.0)(&Context { engine, claimed, local, resources: self.1 })
    }
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
