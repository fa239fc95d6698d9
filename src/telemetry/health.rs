//! `/livez` and `/readyz`: whether this process should be ended and begun anew, and whether it should be sent work. Neither asks for a token.
//!
//! Alive is a process whose loops turn; a database that is away is no reason to end it. Ready is one whose database answers, has
//! every migration that this program knows, and that is not on its way out.

use std::{
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{Router, http::StatusCode, response::IntoResponse, routing::get};
use tokio::task::{AbortHandle, JoinHandle};

use crate::db::{self, PgPool};

const BETWEEN_LOOKS: Duration = Duration::from_secs(1);
/// A look that takes longer, and a last good look that is older, count as no answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a process knows of itself; each copy is of the same process.
#[derive(Clone)]
pub struct Probes(Arc<Inner>);

struct Inner {
    stopping: AtomicBool,
    database: Mutex<Database>,
    loops: Mutex<Vec<(&'static str, AbortHandle)>>,
    own: Box<dyn Fn() -> Result<(), String> + Send + Sync>,
}

struct Database {
    answered: Option<Instant>,
    /// Why it cannot be worked with, though it answers.
    unfit: Option<String>,
}

impl Probes {
    /// Looks at the database from now on, for as long as anybody holds this. `own` says what else the process needs to be ready.
    pub fn watch(pool: PgPool, own: impl Fn() -> Result<(), String> + Send + Sync + 'static) -> Probes {
        let probes = Probes(Arc::new(Inner {
            stopping: AtomicBool::new(false),
            database: Mutex::new(Database { answered: None, unfit: None }),
            loops: Mutex::default(),
            own: Box::new(own),
        }));
        let looks = tokio::spawn(look(pool, Arc::downgrade(&probes.0)));
        probes.needs("look at the database", &looks);
        probes
    }

    /// A loop without which the process is of no use.
    pub fn needs<T>(&self, name: &'static str, turns: &JoinHandle<T>) {
        self.0.loops.lock().unwrap_or_else(PoisonError::into_inner).push((name, turns.abort_handle()));
    }

    /// From now on the process is not ready, whatever else holds.
    pub fn stop(&self) {
        self.0.stopping.store(true, Ordering::Relaxed);
    }

    pub fn alive(&self) -> Result<(), String> {
        if self.0.stopping.load(Ordering::Relaxed) {
            // Its loops end one by one, as they should.
            return Ok(());
        }
        let loops = self.0.loops.lock().unwrap_or_else(PoisonError::into_inner);
        match loops.iter().find(|(_, turns)| turns.is_finished()) {
            Some((name, _)) => Err(format!("the {name} has ended: this process has to be started again")),
            None => Ok(()),
        }
    }

    pub fn ready(&self) -> Result<(), String> {
        if self.0.stopping.load(Ordering::Relaxed) {
            return Err("stopping".to_owned());
        }
        let database = self.0.database.lock().unwrap_or_else(PoisonError::into_inner);
        match database.answered {
            None => return Err("the database has not answered yet".to_owned()),
            Some(at) if at.elapsed() > PATIENCE => {
                return Err(format!("the database has not answered for {} s", at.elapsed().as_secs()));
            }
            Some(_) => {}
        }
        if let Some(unfit) = &database.unfit {
            return Err(unfit.clone());
        }
        drop(database);
        (self.0.own)()
    }

    pub fn routes(&self) -> Router {
        let (alive, ready) = (self.clone(), self.clone());
        Router::new()
            .route("/livez", get(async move || answer("alive", alive.alive())))
            .route("/readyz", get(async move || answer("ready", ready.ready())))
    }
}

fn answer(good: &str, found: Result<(), String>) -> impl IntoResponse {
    match found {
        Ok(()) => (StatusCode::OK, format!("{good}\n")),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("not {good}: {why}\n")),
    }
}

async fn look(pool: PgPool, probes: Weak<Inner>) {
    while let Some(probes) = probes.upgrade() {
        let looked = tokio::time::timeout(PATIENCE, db::schema::unfit(&pool)).await;
        if let Ok(Ok(unfit)) = looked {
            let found = Database { answered: Some(Instant::now()), unfit: unfit.map(|unfit| unfit.why) };
            *probes.database.lock().unwrap_or_else(PoisonError::into_inner) = found;
        }
        drop(probes);
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pool that never connects: nobody listens at port 9.
    fn without_database() -> PgPool {
        PgPool::plain("postgres://nobody@127.0.0.1:9/none", 1).unwrap()
    }

    #[tokio::test]
    async fn a_process_is_alive_without_its_database_and_not_without_its_loops() {
        let probes = Probes::watch(without_database(), || Ok(()));
        assert_eq!(probes.alive(), Ok(()));
        assert!(probes.ready().unwrap_err().contains("database"));
        let mut turns = tokio::spawn(async { panic!("a loop that must not end") });
        probes.needs("dispatcher", &turns);
        assert!((&mut turns).await.is_err());
        assert!(probes.alive().unwrap_err().contains("dispatcher"));
        probes.stop();
        assert_eq!((probes.alive(), probes.ready()), (Ok(()), Err("stopping".to_owned())));
    }

    #[tokio::test]
    async fn a_database_that_answers_may_still_be_unfit_and_then_comes_what_the_process_itself_needs() {
        let probes = Probes::watch(without_database(), || Err("it does not claim".to_owned()));
        let is = |answered, unfit| *probes.0.database.lock().unwrap() = Database { answered, unfit };
        is(Instant::now().checked_sub(PATIENCE * 2), None);
        assert_eq!(probes.ready(), Err("the database has not answered for 10 s".to_owned()));
        is(Some(Instant::now()), Some("a migration is missing".to_owned()));
        assert_eq!(probes.ready(), Err("a migration is missing".to_owned()));
        is(Some(Instant::now()), None);
        assert_eq!(probes.ready(), Err("it does not claim".to_owned()));
    }
}
