//! How far a long command is, and what is kept if it is broken off.
//!
//! A bar with the time that is left where standard error is a terminal, plain lines elsewhere. Off until a command asks for it
//! ([`enable`]): a worker or an API does the same work without a word.

use std::{
    io::{IsTerminal, stderr},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

use super::note;

/// Between two plain lines.
const BETWEEN_LINES: Duration = Duration::from_secs(5);
/// Nothing is said of work that is over sooner.
const SILENT: Duration = Duration::from_millis(700);

static ENABLED: AtomicBool = AtomicBool::new(false);
static LAST_WORD: Mutex<Option<String>> = Mutex::new(None);

/// From now on progress is told, by this process.
pub fn enable() {
    ENABLED.store(true, Ordering::Relaxed);
}

/// What is said if the command is broken off now: what is kept, and how it goes on.
pub fn keep(sentence: impl Into<String>) {
    *LAST_WORD.lock().unwrap_or_else(PoisonError::into_inner) = Some(sentence.into());
}

/// See [`keep`].
pub fn last_word() -> Option<String> {
    LAST_WORD.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// One piece of long work. It is cleared away when it is dropped.
pub struct Progress {
    what: String,
    total: Option<u64>,
    done: u64,
    bar: Option<ProgressBar>,
    began: Instant,
    told: Instant,
    kept: Option<fn(u64, Option<u64>) -> String>,
}

impl Progress {
    /// `what` in the -ing form, such as `staging rows`. `total`, where it is known.
    pub fn begin(what: impl Into<String>, total: Option<u64>) -> Progress {
        let (what, now) = (what.into(), Instant::now());
        let shown = ENABLED.load(Ordering::Relaxed) && stderr().is_terminal();
        let bar = shown.then(|| bar(&what, total));
        Progress { what, total, done: 0, bar, began: now, told: now, kept: None }
    }

    /// What is kept of so many (of so many) if it is broken off.
    pub fn kept(mut self, kept: fn(u64, Option<u64>) -> String) -> Progress {
        self.kept = Some(kept);
        self.tell_kept();
        self
    }

    pub fn advance(&mut self, by: u64) {
        self.at(self.done + by);
    }

    pub fn at(&mut self, done: u64) {
        self.done = done;
        self.tell_kept();
        if let Some(bar) = &self.bar {
            bar.set_position(done);
        } else if self.is_told() && self.told.elapsed() > BETWEEN_LINES {
            self.told = Instant::now();
            note!("{}: {}", self.what, far(done, self.total, self.began.elapsed()));
        }
    }

    /// It is on a terminal, as a bar.
    pub const fn is_drawn(&self) -> bool {
        self.bar.is_some()
    }

    /// What is said beside the numbers.
    pub fn say(&self, what: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(what.to_owned());
        }
    }

    fn is_told(&self) -> bool {
        ENABLED.load(Ordering::Relaxed)
    }

    fn tell_kept(&self) {
        if let Some(kept) = self.kept.filter(|_| ENABLED.load(Ordering::Relaxed)) {
            keep(kept(self.done, self.total));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn bar(what: &str, total: Option<u64>) -> ProgressBar {
    let (bar, style) = match total {
        Some(total) => (ProgressBar::new(total), "{msg} {wide_bar} {human_pos} of {human_len}, {eta} left"),
        None => (ProgressBar::new_spinner(), "{spinner} {msg} {human_pos}, {elapsed} so far"),
    };
    if let Ok(style) = ProgressStyle::with_template(style) {
        bar.set_style(style);
    }
    bar.set_message(what.to_owned());
    // Also while a single statement takes long.
    bar.enable_steady_tick(SILENT);
    bar
}

/// `70000 of 200000, about 30 s left`.
fn far(done: u64, total: Option<u64>, since: Duration) -> String {
    let Some(total) = total else { return format!("{}, {} s so far", grouped(done), since.as_secs()) };
    let left = total.saturating_sub(done);
    let told = format!("{} of {}", grouped(done), grouped(total));
    if done == 0 || left == 0 {
        return told;
    }
    format!("{told}, about {:.0} s left", since.as_secs_f64() / done as f64 * left as f64)
}

/// `200,000`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_that_is_left_is_told_once_something_is_done() {
        assert_eq!(far(70_000, Some(200_000), Duration::from_secs(70)), "70,000 of 200,000, about 130 s left");
        assert_eq!(far(0, Some(5), Duration::from_secs(9)), "0 of 5");
        assert_eq!(far(1_234_567, None, Duration::from_secs(9)), "1,234,567, 9 s so far");
        assert_eq!((grouped(0), grouped(999), grouped(1000)), ("0".into(), "999".into(), "1,000".into()));
    }
}
