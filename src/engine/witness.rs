//! What the database acknowledged to this process, within a window: the witness of a failover.
//!
//! The log of a server is a sequence. Where everything that was acknowledged to a worker is there on a new timeline, so is everything before it;
//! what is missing was lost with the server, and names the calls that may have been made without a trace.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::db::queue::testimony::{Claim, Settle, Testimony};

/// How long a claim is remembered: longer than any standby may lag that is still promoted in good faith.
const WINDOW: Duration = Duration::from_secs(30 * 60);
/// At most so many claims are, which is the memory of some 20 MB. Where that is less than the window, and something is missing, everything is in doubt.
const MOST: usize = 100_000;
/// The newest settles tell what is missing; the claims, what that means.
const SETTLES: usize = 1_000;

#[derive(Debug, Default)]
struct Memory {
    timeline: String,
    /// The start of a server for which all is known to be there.
    server: String,
    /// The timelines that were before: none of them comes again but in an old copy.
    left: Vec<String>,
    beats: i64,
    newest: Option<Instant>,
    claims: HashMap<(i64, i64), Claim>,
    order: VecDeque<(i64, i64)>,
    settles: VecDeque<Settle>,
    /// Given back because no answer to their claim had come, of which one that is only late is not taken; or let go, and nothing was called.
    unheard: HashMap<(i64, i64), Instant>,
    /// Something younger than the window was forgotten for want of room.
    overrun: Option<Instant>,
}

#[derive(Debug, Default)]
pub struct Witness(Mutex<Memory>);

impl Witness {
    /// Of a process that begins on this server: its timeline, and when it started.
    pub fn on(server: String) -> Self {
        Witness(Mutex::new(Memory { timeline: timeline_of(&server).to_owned(), server, ..Memory::default() }))
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The timeline for which this process testified last: nothing is called on a claim of another.
    pub fn is_on(&self, timeline: &str) -> bool {
        self.memory().timeline == timeline
    }

    /// Whether this is the start of the server that this process has seen to be whole.
    pub fn is_at(&self, server: &str) -> bool {
        self.memory().server == server
    }

    /// The server that this process has seen to be whole; empty where it is about to testify.
    pub fn server(&self) -> String {
        self.memory().server.clone()
    }

    /// Whether this process has seen this timeline end.
    pub fn has_left(&self, timeline: &str) -> bool {
        self.memory().left.iter().any(|left| left == timeline)
    }

    /// The server started again, and what was acknowledged to this process is there.
    pub fn arrive(&self, server: String) {
        let mut memory = self.memory();
        if memory.timeline == timeline_of(&server) {
            memory.server = server;
        }
    }

    /// The newest acknowledgements: claims and settles. Where these are, everything before them is.
    pub fn newest(&self, most: usize) -> (Vec<(i64, i64)>, Vec<Settle>) {
        let memory = self.memory();
        let young = |place: &&(i64, i64)| memory.claims.get(place).is_some_and(|claim| claim.at.elapsed() < WINDOW);
        let claims = memory.order.iter().rev().take(most).filter(young).copied().collect();
        (claims, memory.settles.iter().rev().take(most).copied().collect())
    }

    /// Remembers claims before anything is done about them. False, and nothing is: they were answered by another server than the one that this
    /// process has seen to be whole, or testified for: one that was replaced, or before the fleet is done.
    pub fn claimed(&self, server: &str, claims: impl Iterator<Item = Claim>) -> bool {
        let mut memory = self.memory();
        if memory.server != server {
            return false;
        }
        let now = Instant::now();
        memory.newest = Some(now);
        for claim in claims {
            let place = (claim.job, claim.lease);
            // Given back before this answer came: it is not taken, now or when it is asked about again.
            if memory.unheard.contains_key(&place) {
                continue;
            }
            if memory.claims.insert(place, claim).is_none() {
                memory.order.push_back(place);
            }
        }
        memory.forget(now, MOST);
        true
    }

    /// A job was given back under this lease: no call was made.
    pub fn not_called(&self, job: i64, lease: i64) {
        if let Some(claim) = self.memory().claims.get_mut(&(job, lease)) {
            claim.calls = false;
        }
    }

    /// Whether this process was ever told that it holds the job under this lease; `true` where it may have forgotten.
    pub fn ever_held(&self, job: i64, lease: i64) -> bool {
        self.memory().ever_held(job, lease)
    }

    /// True where this process was never told that it holds the job, and from now on never will be: the answer to its claim, should it still
    /// come, is not taken.
    pub fn give_back_unheard(&self, job: i64, lease: i64) -> bool {
        let mut memory = self.memory();
        let unheard = !memory.ever_held(job, lease) || memory.unheard.contains_key(&(job, lease));
        if unheard {
            memory.let_go(job, lease, Instant::now());
        }
        unheard
    }

    /// A job is to be given back under this lease, and the database does not answer: nothing was called since its row was last written.
    pub fn let_go(&self, job: i64, lease: i64) {
        self.memory().let_go(job, lease, Instant::now());
    }

    /// Whether the job was given back under this lease before the answer to its claim came.
    pub fn was_given_back(&self, job: i64, lease: i64) -> bool {
        self.memory().unheard.contains_key(&(job, lease))
    }

    pub fn settled(&self, settles: impl Iterator<Item = Settle>) {
        let mut memory = self.memory();
        for settle in settles {
            memory.settles.push_back(settle);
            memory.newest = Some(Instant::now());
        }
        let more = memory.settles.len().saturating_sub(SETTLES);
        memory.settles.drain(..more);
    }

    /// The newest heartbeat that was answered.
    pub fn beats(&self) -> i64 {
        self.memory().beats
    }

    pub fn beat(&self, beats: i64) {
        let mut memory = self.memory();
        memory.beats = memory.beats.max(beats);
        memory.newest = Some(Instant::now());
    }

    /// What to testify for a new timeline. From here on no claim of the old one is taken; [`Witness::claimed`] refuses it.
    pub fn testify(&self, server: &str) -> Testimony {
        let mut memory = self.memory();
        let now = Instant::now();
        let before = std::mem::replace(&mut memory.timeline, timeline_of(server).to_owned());
        if !before.is_empty() && before != memory.timeline {
            memory.left.push(before);
        }
        server.clone_into(&mut memory.server);
        Testimony {
            beats: memory.beats,
            newest: memory.newest.map(|at| now - at),
            overrun: memory.overrun.is_some_and(|at| now - at < WINDOW),
            claims: memory.claims.values().cloned().collect(),
            settles: memory.settles.iter().copied().collect(),
        }
    }

    /// The testimony was not taken: it has to be given again.
    pub fn not_heard(&self, timeline: &str) {
        let mut memory = self.memory();
        if memory.timeline == timeline {
            memory.timeline = String::new();
            memory.server = String::new();
        }
    }
}

/// A server is told by its timeline and its start.
pub fn timeline_of(server: &str) -> &str {
    server.split(' ').next().unwrap_or_default()
}

impl Memory {
    fn ever_held(&self, job: i64, lease: i64) -> bool {
        self.overrun.is_some() || self.claims.contains_key(&(job, lease))
    }

    /// No answer is that late which comes after the window.
    fn let_go(&mut self, job: i64, lease: i64, now: Instant) {
        self.unheard.retain(|_, at| now - *at < WINDOW);
        self.unheard.insert((job, lease), now);
    }

    fn forget(&mut self, now: Instant, most: usize) {
        while let Some(claim) = self.order.front().and_then(|place| self.claims.get(place)) {
            let old = now - claim.at > WINDOW;
            if !old && self.order.len() <= most {
                break;
            }
            if !old {
                self.overrun = Some(now);
            }
            let place = (claim.job, claim.lease);
            self.claims.remove(&place);
            self.order.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(job: i64, at: Instant) -> Claim {
        Claim { job, lease: 1, kind: "k".to_owned(), key: job.to_string(), calls: true, at }
    }

    #[test]
    fn a_claim_of_another_timeline_is_not_taken_and_a_testimony_ends_the_old_one() {
        let witness = Witness::on("1".to_owned());
        let now = Instant::now();
        assert!(witness.claimed("1", [claim(1, now)].into_iter()));
        assert!(!witness.claimed("2", [claim(2, now)].into_iter()), "not testified for yet");
        assert_eq!(witness.testify("2").claims.len(), 1);
        assert!(!witness.claimed("1", [claim(3, now)].into_iter()), "the replaced server still answers");
        assert!(
            witness.claimed("2", [claim(4, now)].into_iter()) && !witness.ever_held(3, 1) && witness.ever_held(4, 1)
        );
        witness.not_heard("2");
        assert!(!witness.is_on("2"));
    }

    #[test]
    fn what_was_given_back_unheard_stays_so_however_late_its_answer_comes_and_however_often_it_has_to_be_given_back() {
        let witness = Witness::on("1".to_owned());
        assert!(witness.give_back_unheard(1, 1));
        assert!(witness.claimed("1", [claim(1, Instant::now()), claim(2, Instant::now())].into_iter()));
        assert!(witness.was_given_back(1, 1) && witness.give_back_unheard(1, 1) && !witness.give_back_unheard(2, 1));
        // What could not be handed back was not called either.
        assert!(!witness.give_back_unheard(2, 1));
        witness.let_go(2, 1);
        assert!(witness.give_back_unheard(2, 1));
        assert_eq!(witness.testify("2").claims.len(), 1);
    }

    #[test]
    fn what_was_given_back_long_ago_takes_no_memory() {
        let mut memory = Memory::default();
        let now = Instant::now();
        memory.let_go(1, 1, now);
        memory.let_go(2, 1, now + WINDOW / 2);
        memory.let_go(3, 1, now + WINDOW);
        assert_eq!(memory.unheard.len(), 2);
    }

    #[test]
    fn what_is_forgotten_for_want_of_room_is_known_to_be_forgotten_and_what_is_old_is_not_missed() {
        let mut memory = Memory::default();
        let now = Instant::now() + WINDOW * 2;
        let mut put = |job, at| {
            memory.claims.insert((job, 1), claim(job, at));
            memory.order.push_back((job, 1));
        };
        put(1, now - WINDOW - Duration::from_secs(1));
        (2..5).for_each(|job| put(job, now));
        memory.forget(now, 10);
        assert_eq!((memory.claims.len(), memory.overrun), (3, None));
        memory.forget(now, 2);
        assert_eq!((memory.claims.len(), memory.order.len(), memory.overrun), (2, 2, Some(now)));
    }
}
