//! How far the demo is: bars on a terminal, a line now and then elsewhere.

use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::db::operator::reconcile::Standing;

const BETWEEN_LINES: Duration = Duration::from_secs(3);

/// Where the jobs stand.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    pub completed: u64,
    pub failed: u64,
    pub needs_operator: u64,
    pub open: u64,
    pub in_doubt: u64,
}

impl Tally {
    pub fn of(standings: &[Standing]) -> Tally {
        let mut tally = Tally::default();
        for Standing { status, jobs, in_doubt } in standings {
            tally.in_doubt += in_doubt;
            *match status.as_str() {
                "completed" => &mut tally.completed,
                "failed" | "cancelled" => &mut tally.failed,
                "needs_operator" => &mut tally.needs_operator,
                _ => &mut tally.open,
            } += jobs;
        }
        tally
    }

    pub fn at_rest(&self) -> u64 {
        self.completed + self.failed + self.needs_operator
    }
}

pub struct Progress {
    begun: Instant,
    total: u64,
    shown: View,
}

enum View {
    Bars { all: MultiProgress, at_rest: ProgressBar, in_doubt: ProgressBar },
    Lines { last: Option<(Instant, Tally)> },
}

impl Progress {
    pub fn start(total: u64) -> Progress {
        let shown = if std::io::stderr().is_terminal() {
            let all = MultiProgress::new();
            let bar = |name, template: &str| {
                let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
                all.add(ProgressBar::new(total)).with_style(style).with_prefix(name)
            };
            let at_rest = bar("at rest ", "{prefix} {bar:40.green} {pos}/{len}  {msg}");
            let in_doubt = bar("in doubt", "{prefix} {bar:40.yellow} {pos}");
            View::Bars { all, at_rest, in_doubt }
        } else {
            View::Lines { last: None }
        };
        Progress { begun: Instant::now(), total, shown }
    }

    pub fn show(&mut self, tally: Tally) {
        let words = format!("{} done, {} refused, {} ask", tally.completed, tally.failed, tally.needs_operator);
        match &mut self.shown {
            View::Bars { at_rest, in_doubt, .. } => {
                at_rest.set_position(tally.at_rest());
                at_rest.set_message(words);
                in_doubt.set_position(tally.in_doubt);
            }
            View::Lines { last } => {
                let due = last.is_none_or(|(at, shown)| {
                    shown != tally && (at.elapsed() >= BETWEEN_LINES || tally.at_rest() == self.total)
                });
                if due {
                    *last = Some((Instant::now(), tally));
                    let (seconds, at_rest) = (self.begun.elapsed().as_secs(), tally.at_rest());
                    crate::basics::terminal::note!(
                        "{seconds:>4} s  {at_rest} of {} at rest: {words}; {} in doubt",
                        self.total,
                        tally.in_doubt
                    );
                }
            }
        }
    }

    /// An event, above the bars.
    pub fn say(&self, text: &str) {
        let text = format!("{:>4} s  {text}", self.begun.elapsed().as_secs());
        match &self.shown {
            // An error means that the terminal is gone.
            View::Bars { all, .. } => drop(all.println(text)),
            View::Lines { .. } => crate::basics::terminal::note!("{text}"),
        }
    }

    pub fn end(self) {
        match self.shown {
            View::Bars { at_rest, in_doubt, .. } => {
                at_rest.abandon();
                in_doubt.finish_and_clear();
            }
            View::Lines { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_is_at_rest_or_open() {
        let standing = |status: &str, jobs, in_doubt| Standing { status: status.to_owned(), jobs, in_doubt };
        let tally = Tally::of(&[
            standing("completed", 5, 0),
            standing("failed", 1, 0),
            standing("cancelled", 1, 0),
            standing("needs_operator", 2, 2),
            standing("running", 3, 1),
            standing("retryable", 4, 4),
        ]);
        assert_eq!(tally, Tally { completed: 5, failed: 2, needs_operator: 2, open: 7, in_doubt: 7 });
        assert_eq!(tally.at_rest(), 9);
    }
}
