//! I5, I5b: what the provider saw of our restraint.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    history::{History, clock},
    options::Options,
    report::{I5, I5B, Report},
    tables::{Line, Us},
};

pub fn check(history: &History, options: &Options, report: &mut Report) {
    let arrivals = arrivals(history);
    for (provider, limit) in &options.limits {
        let times = arrivals.get(provider.as_str()).map(Vec::as_slice).unwrap_or_default();
        windows(provider, times, *limit, options.window_us, report);
    }
    tokens(history, report);
    if options.retry_after {
        for (provider, times) in &arrivals {
            closed(history, provider, times, options.in_flight_us, report);
        }
    }
}

/// When calls arrived, of every kind, oldest first, at each provider.
fn arrivals(history: &History) -> BTreeMap<&str, Vec<Us>> {
    let mut arrivals: BTreeMap<&str, Vec<Us>> = BTreeMap::new();
    for line in history.ledger.iter().filter(|line| line.is("arrival")) {
        if let Some(provider) = &line.provider {
            arrivals.entry(provider).or_default().push(line.us);
        }
    }
    arrivals.values_mut().for_each(|times| times.sort_unstable());
    arrivals
}

/// I5: no `[t, t + window)` with more arrivals than the limit. Of windows that overlap, the first is named.
fn windows(provider: &str, times: &[Us], limit: usize, window: Us, report: &mut Report) {
    let mut named_until = Us::MIN;
    for (at, start) in times.iter().enumerate() {
        let count = times[at..].partition_point(|time| *time < start + window);
        if count > limit && *start >= named_until {
            let (ms, when) = (window / 1000, clock(*start));
            report.add(I5, format!("{provider}: {count} calls in the {ms} ms from {when}; the limit is {limit}"));
            named_until = start + window;
        }
    }
}

/// I5: each call about a trade had a token of its lane.
fn tokens(history: &History, report: &mut Report) {
    let mut calls: BTreeMap<&str, i64> = BTreeMap::new();
    for line in history.seen().filter(|line| line.is("arrival") && line.trade.is_some()) {
        if let Some(provider) = &line.provider {
            *calls.entry(provider).or_default() += 1;
        }
    }
    for (provider, calls) in calls {
        let lane = match provider {
            "ses" => "email/ses".to_owned(),
            "organization_platform" => "org-platform".to_owned(),
            gifts => format!("gift/{gifts}"),
        };
        let tokens = history.lanes.get(&lane).map_or(0, |lane| lane.tokens);
        if calls > tokens {
            report.add(I5, format!("{provider}: {calls} calls about trades, and its lane handed out {tokens} tokens"));
        }
    }
}

/// I5b: after a throttle that stated a time nobody calls until then, calls on their way excepted.
fn closed(history: &History, provider: &str, times: &[Us], in_flight: Us, report: &mut Report) {
    let mut closings: Vec<(Us, &Line)> = history
        .ledger
        .iter()
        .filter(|line| line.is("throttled") && line.provider.as_deref() == Some(provider))
        .filter_map(|line| learned(history, line).map(|at| (at + in_flight, line)))
        .collect();
    closings.sort_by_key(|(from, _)| *from);
    let mut next = closings.into_iter().peekable();
    let mut closed: Option<&Line> = None;
    let mut named = BTreeSet::new();
    for time in times {
        while let Some((_, line)) = next.next_if(|(from, _)| from < time) {
            if closed.is_none_or(|closed| closed.until_us < line.until_us) {
                closed = Some(line);
            }
        }
        // The first call against each closing is named.
        if let Some(line) = closed.filter(|line| line.until_us > Some(*time) && !named.contains(&line.until_us)) {
            named.insert(line.until_us);
            let until = line.until_us.map(clock).unwrap_or_default();
            let (when, told, n) = (clock(*time), clock(line.us), line.n);
            report.add(
                I5B,
                format!("{provider}: called at {when}, and told at {told} (ledger line {n}) not to before {until}"),
            );
        }
    }
}

/// When the fleet knew of a throttle: as its step was settled. `None` where the answer died with its worker, or was lost on its way.
fn learned(history: &History, line: &Line) -> Option<Us> {
    line.until_us?;
    let Some(trade) = line.trade.as_deref().and_then(|trade| history.trades.get(trade)) else { return Some(line.us) };
    let mut after = history.events_of(trade.job).iter().filter(|event| event.happened_at >= line.us);
    let event = after.next()?;
    let lost = matches!(event.outcome.as_deref(), Some("unknown" | "no_answer" | "over_deadline" | "panicked"));
    (event.event == "settled" && !lost).then_some(event.happened_at)
}
