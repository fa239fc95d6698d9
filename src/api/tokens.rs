//! Who asks: bearer tokens, known for a short while, each with its own pace.

use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::http::{HeaderMap, header};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter, clock::Clock};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::refusal::Refusal;
use crate::db::{
    PgPool,
    operator::tokens::{self, Bearer, Known},
};

/// How long a request waits for its turn at what is scarce.
pub(super) const TURN: Duration = Duration::from_secs(3);

/// How long a revoked token may still read here. What changes anything, the database asks again.
const REMEMBERED: Duration = Duration::from_secs(15);
/// Requests that one owner may have in flight, by whichever of their tokens: a quarter of all, so that one caller's overload is not everybody's.
const ROOM: usize = 32;
/// Tokens that this process has not known yet, looked up at once: callers without a good one share this, and take nobody else's room.
const STRANGERS: usize = 2;
/// How long a token that the database refused is refused without asking it again. No new token is like one that was shown before.
const REFUSED: Duration = Duration::from_secs(10);
/// Entries of tokens that nobody shows any more are dropped beyond this many.
const MOST: usize = 10_000;

#[derive(Clone)]
struct Entry {
    bearer: Bearer,
    known: Known,
    since: Instant,
    pace: Arc<DefaultDirectRateLimiter>,
    room: Arc<Semaphore>,
    large: Arc<Semaphore>,
}

/// A request that was let in for its token, and what it holds of its owner's room.
pub struct Admitted {
    pub bearer: Bearer,
    pub room: OwnedSemaphorePermit,
    /// One large request at a time.
    pub large: Arc<Semaphore>,
}

pub struct Tokens {
    known: Mutex<HashMap<String, Entry>>,
    /// Digests of those that were refused of late.
    refused: Mutex<HashMap<[u8; 32], Instant>>,
    strangers: Semaphore,
}

impl Default for Tokens {
    fn default() -> Self {
        Tokens { known: Mutex::default(), refused: Mutex::default(), strangers: Semaphore::new(STRANGERS) }
    }
}

impl Tokens {
    /// Refuses whoever shows no token of ours, at the cost of nobody else: before a request has a place among those in flight.
    pub async fn turn_away_strangers(&self, pool: &PgPool, headers: &HeaderMap) -> Result<(), Refusal> {
        let bearer = shown(headers)?;
        if self.lock().get(bearer.id()).is_some_and(|entry| entry.bearer == bearer) {
            return Ok(());
        }
        let digest = bearer.digest();
        let was_refused = |tokens: &Tokens| tokens.refused().get(&digest).is_some_and(|at| at.elapsed() < REFUSED);
        if was_refused(self) {
            return Err(Refusal::bad_token());
        }
        let turn = timeout(TURN, self.strangers.acquire()).await;
        let Ok(Ok(_turn)) = turn else { return Err(Refusal::overloaded()) };
        if was_refused(self) {
            return Err(Refusal::bad_token());
        }
        let looked = self.look_up(pool, &bearer).await;
        if looked.as_ref().is_err_and(Refusal::is_of_token) {
            let mut refused = self.refused();
            if refused.len() >= MOST {
                refused.clear();
            }
            refused.insert(digest, Instant::now());
        }
        looked.map(|_| ())
    }

    /// The bearer of a request, if the token is good, has the scope, and keeps to its pace and room.
    pub async fn admit(&self, pool: &PgPool, headers: &HeaderMap, scope: &'static str) -> Result<Admitted, Refusal> {
        let bearer = shown(headers)?;
        let entry = self.look_up(pool, &bearer).await?;
        if let Err(not_yet) = entry.pace.check() {
            let wait = not_yet.wait_time_from(entry.pace.clock().now());
            let detail = format!(
                "This token is good for {} requests a second. Nothing was done; send it again.",
                entry.known.per_second
            );
            return Err(Refusal::later(wait, detail));
        }
        if !entry.known.scopes.iter().any(|has| has == scope) {
            return Err(Refusal::missing_scope(scope, &entry.known.scopes));
        }
        let Ok(room) = Arc::clone(&entry.room).try_acquire_owned() else {
            let detail = format!(
                "{} has {ROOM} requests in flight, with all tokens together: as many as one may. Nothing was done; send it again.",
                entry.known.owner
            );
            return Err(Refusal::later(Duration::from_secs(1), detail));
        };
        Ok(Admitted { bearer, room, large: Arc::clone(&entry.large) })
    }

    async fn look_up(&self, pool: &PgPool, bearer: &Bearer) -> Result<Entry, Refusal> {
        let before = self.lock().get(bearer.id()).filter(|entry| entry.bearer == *bearer).cloned();
        if let Some(entry) = &before
            && entry.since.elapsed() < REMEMBERED
        {
            return Ok(entry.clone());
        }
        let Some(known) = tokens::use_token(pool, bearer).await? else {
            // Somebody else's guess at an id must not make us forget its token.
            if before.is_some() {
                self.lock().remove(bearer.id());
            }
            return Err(Refusal::bad_token());
        };
        let pace = match &before {
            Some(entry) if entry.known.per_second == known.per_second => Arc::clone(&entry.pace),
            Some(_) | None => Arc::new(RateLimiter::direct(quota(known.per_second))),
        };
        let mut entries = self.lock();
        // Another token of the same owner's makes no more room.
        let theirs = entries.values().find(|entry| entry.known.owner == known.owner);
        let (room, large) = match before.as_ref().or(theirs) {
            Some(entry) => (Arc::clone(&entry.room), Arc::clone(&entry.large)),
            None => (Arc::new(Semaphore::new(ROOM)), Arc::new(Semaphore::new(1))),
        };
        let entry = Entry { bearer: bearer.clone(), known, since: Instant::now(), pace, room, large };
        if entries.len() >= MOST {
            entries.retain(|_, entry| entry.since.elapsed() < REMEMBERED);
        }
        // Of two that looked at once, the first's pace holds.
        let kept = entries.entry(bearer.id().to_owned()).or_insert_with(|| entry.clone());
        if kept.bearer != entry.bearer || kept.known.per_second != entry.known.per_second {
            *kept = entry.clone();
        }
        kept.since = entry.since;
        kept.known = entry.known;
        Ok(kept.clone())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Entry>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refused(&self) -> std::sync::MutexGuard<'_, HashMap<[u8; 32], Instant>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn quota(per_second: i32) -> Quota {
    let many = u32::try_from(per_second).ok().and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MIN);
    Quota::per_second(many)
}

fn shown(headers: &HeaderMap) -> Result<Bearer, Refusal> {
    let mut all = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(first), None) = (all.next(), all.next()) else {
        return Err(Refusal::unauthorized("Show a token: `Authorization: Bearer noshi_…`. Nothing was done."));
    };
    let token = first.to_str().ok().and_then(|value| value.split_once(' '));
    let token = token.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, token)| token.trim());
    token.and_then(Bearer::read).ok_or_else(Refusal::bad_token)
}
