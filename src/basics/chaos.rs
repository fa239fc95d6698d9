//! For the proofs, in debug builds only: named points at which a worker kills itself, and planted bugs.
//!
//! `NOSHI_CRASH=name@k` raises SIGKILL at the k-th passing of a point, `NOSHI_STOP=name@k` SIGSTOP; `NOSHI_CRASH_TRACE=file` lists the points passed;
//! `NOSHI_BUG=name` removes one defence, to prove that the checker sees it; `NOSHI_CLOCK_OFF=file` says by how many seconds the database's clock is
//! off. A release build contains none of them.

/// A defence that can be removed at run time, to show that the checker catches its absence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// Settles ignore the lease and the step.
    NoFence,
    /// The call goes out before its intent is durable.
    IntentAfterSend,
    /// A retry in doubt uses a new trade id.
    NewIdOnRetry,
    /// An unknown outcome is retried blindly.
    BlindRetry,
    /// "Not found" counts as proof that nothing happened.
    NotFoundIsVoid,
    /// Tokens are not asked for.
    NoTokens,
    /// A 429 does not close the lane.
    NoRetryAfter,
    /// A gift code is written to the journal in the clear.
    CodeInJournal,
    /// Mails of a batch are enqueued before its grants are registered.
    MailBeforeCommit,
    /// Rows of a batch lead to more jobs than they should.
    DoubleCountedBatch,
    /// A settle of a job on its way back ignores the lease and the step.
    UnfencedUndo,
    /// A person's word makes void what is known to have been issued.
    WordAgainstFact,
}

impl Bug {
    pub const ALL: [(Bug, &'static str); 12] = [
        (Bug::NoFence, "no_fence"),
        (Bug::IntentAfterSend, "intent_after_send"),
        (Bug::NewIdOnRetry, "new_id_on_retry"),
        (Bug::BlindRetry, "blind_retry"),
        (Bug::NotFoundIsVoid, "not_found_is_void"),
        (Bug::NoTokens, "no_tokens"),
        (Bug::NoRetryAfter, "no_retry_after"),
        (Bug::CodeInJournal, "code_in_journal"),
        (Bug::MailBeforeCommit, "mail_before_commit"),
        (Bug::DoubleCountedBatch, "double_counted_batch"),
        (Bug::UnfencedUndo, "unfenced_undo"),
        (Bug::WordAgainstFact, "word_against_fact"),
    ];
}

#[cfg(all(debug_assertions, feature = "lab"))]
mod armed {
    use std::{
        collections::HashMap,
        env,
        fs::OpenOptions,
        io::Write,
        sync::{LazyLock, Mutex},
    };

    use rustix::process::{Signal, getpid, kill_process};

    use super::Bug;

    struct Crash {
        kill: Option<(String, u32)>,
        stop: Option<(String, u32)>,
        trace: Option<std::path::PathBuf>,
        passed: Mutex<HashMap<&'static str, u32>>,
    }

    static CRASH: LazyLock<Option<Crash>> = LazyLock::new(|| {
        let point = |name| {
            let text = env::var(name).ok()?;
            let (point, nth) = text.rsplit_once('@').expect("a crash point is name@number");
            Some((point.to_owned(), nth.parse().expect("a crash point is name@number")))
        };
        let (kill, stop) = (point("NOSHI_CRASH"), point("NOSHI_STOP"));
        let trace = env::var_os("NOSHI_CRASH_TRACE").map(Into::into);
        let armed = kill.is_some() || stop.is_some() || trace.is_some();
        armed.then(|| Crash { kill, stop, trace, passed: Mutex::default() })
    });

    static BUG: LazyLock<Option<Bug>> = LazyLock::new(|| {
        let name = env::var("NOSHI_BUG").ok()?;
        let (bug, _) = Bug::ALL.into_iter().find(|(_, n)| *n == name).expect("NOSHI_BUG names no planted bug");
        Some(bug)
    });

    pub fn crash_point(name: &'static str) {
        let Some(crash) = CRASH.as_ref() else { return };
        let mut passed = crash.passed.lock().expect("no panic happens under this lock");
        let hits = passed.entry(name).or_default();
        *hits += 1;
        if let Some(path) = &crash.trace {
            let mut file = OpenOptions::new().create(true).append(true).open(path).expect("the crash trace opens");
            writeln!(file, "{name}@{hits}").expect("the crash trace is written");
        }
        let hits = *hits;
        drop(passed);
        let is = |point: &Option<(String, u32)>| point.as_ref().is_some_and(|(at, nth)| at == name && *nth == hits);
        if is(&crash.kill) {
            die();
        }
        if is(&crash.stop) {
            let _ = kill_process(getpid(), Signal::STOP);
            // The stop reaches all threads within this pause, which then lasts until the process is continued.
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }

    /// Not a panic: no destructor may run, as none would in a power cut.
    pub fn die() -> ! {
        let _ = kill_process(getpid(), Signal::KILL);
        loop {
            std::thread::park();
        }
    }

    pub fn planted(bug: Bug) -> bool {
        *BUG == Some(bug)
    }

    static FASTER: LazyLock<u32> =
        LazyLock::new(|| env::var("NOSHI_TEST_FASTER").ok().and_then(|times| times.parse().ok()).unwrap_or(1));

    /// By how much the time of a drill runs faster.
    pub fn faster() -> u32 {
        *FASTER
    }

    static CLOCK: LazyLock<Option<std::path::PathBuf>> =
        LazyLock::new(|| env::var_os("NOSHI_CLOCK_OFF").map(Into::into));

    /// By how many seconds the database's clock seems to be off, as a file says at each look.
    pub fn clock_off() -> f64 {
        let text = CLOCK.as_ref().and_then(|file| std::fs::read_to_string(file).ok());
        text.and_then(|text| text.trim().parse().ok()).unwrap_or_default()
    }
}

#[cfg(all(debug_assertions, feature = "lab"))]
pub use armed::{clock_off, crash_point, die, faster, planted};

#[cfg(not(all(debug_assertions, feature = "lab")))]
#[inline(always)]
pub const fn crash_point(_: &'static str) {}

#[cfg(not(all(debug_assertions, feature = "lab")))]
#[inline(always)]
pub const fn planted(_: Bug) -> bool {
    false
}

#[cfg(not(all(debug_assertions, feature = "lab")))]
#[inline(always)]
pub const fn clock_off() -> f64 {
    0.0
}

#[cfg(not(all(debug_assertions, feature = "lab")))]
#[inline(always)]
pub const fn faster() -> u32 {
    1
}
