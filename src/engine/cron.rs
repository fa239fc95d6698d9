//! When a schedule's jobs are due, and what each of them asks for. Due times are instants of the database's clock; what they
//! are in a time zone is told by the zones this program was built with, so that every machine of the fleet says the same.

use std::str::FromStr;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use chrono_tz::{TZ_VARIANTS, Tz};
use croner::{
    Cron,
    parser::{CronParser, Seconds, Year},
};
use noshi_jobs::KindName;
use serde_json::Value;

use crate::{basics::kinds, db::queue::schedules::Missed};

/// Stands for the due time in the arguments, and so in the id.
pub const DUE: &str = "{due}";
/// A due time that is later than this was missed.
const LATE: TimeDelta = TimeDelta::minutes(1);
/// Due times that one transaction deals with.
const PAGE: usize = 100;

/// A cron expression in a time zone.
#[derive(Debug)]
pub struct Times {
    cron: Cron,
    zone: Tz,
}

/// What is to be done at a look at a schedule that is due.
#[derive(Debug, PartialEq, Eq)]
pub struct Turn {
    pub fire: Vec<DateTime<Utc>>,
    pub skipped: usize,
    pub next: DateTime<Utc>,
}

impl Times {
    /// `Err` names the field, and how to fix it.
    pub fn read(cron: &str, zone: &str) -> Result<Times, String> {
        let zone = Tz::from_str(zone).map_err(|_| unknown_zone(zone))?;
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        let cron = parser.parse(cron).map_err(|error| {
            let said = error.to_string();
            format!(
                "cron: `{cron}` cannot be read: {}. Five fields: minute hour day month weekday, such as '5 0 * * *'",
                said.trim_end_matches('.')
            )
        })?;
        Ok(Times { cron, zone })
    }

    /// The first due time after an instant; `None` where there is none any more.
    pub fn after(&self, at: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let next = self.cron.find_next_occurrence(&at.with_timezone(&self.zone), false).ok()?.with_timezone(&Utc);
        (next > at).then_some(next)
    }

    /// An instant as a clock on the wall there shows it.
    pub fn local(&self, at: DateTime<Utc>) -> String {
        at.with_timezone(&self.zone).to_rfc3339_opts(SecondsFormat::Secs, true)
    }

    /// What becomes of the due times from `due` to `now`; a page of them where there are many.
    pub fn turn(&self, missed: Missed, due: DateTime<Utc>, now: DateTime<Utc>) -> Option<Turn> {
        let mut dues = vec![due];
        let mut next = self.after(due)?;
        while next <= now && dues.len() < PAGE {
            dues.push(next);
            next = self.after(next)?;
        }
        let all = dues.len();
        let fire = match (missed, dues.last().filter(|_| next > now)) {
            (Missed::Every, _) => dues,
            (Missed::Latest, latest) => latest.copied().into_iter().collect(),
            (Missed::None, latest) => latest.filter(|latest| now - **latest <= LATE).copied().into_iter().collect(),
        };
        Some(Turn { skipped: all - fire.len(), fire, next })
    }
}

fn unknown_zone(zone: &str) -> String {
    let wanted = zone.to_lowercase();
    let near = TZ_VARIANTS.iter().map(|zone| zone.name()).find(|name| {
        let name = name.to_lowercase();
        !wanted.is_empty() && (name == wanted || name.rsplit('/').next() == Some(wanted.as_str()))
    });
    format!("zone: there is no time zone `{zone}`. Did you mean {}?", near.unwrap_or("Asia/Tokyo, or UTC"))
}

/// The id of the jobs that these arguments ask for, with `{due}` in it. `Err` names the field, and how to fix it.
pub fn id(kind: impl Into<KindName>, args: &Value) -> Result<String, String> {
    const EXAMPLE: &str = "2026-11-23T15:05:00Z";
    let kind = kind.into().name();
    let job = kinds::get(kind).ok_or_else(|| format!("kind: this program has no {kind}"))?;
    let read = |args: &Value| {
        job.asks_for(args).map_err(|error| format!("args: these are not the arguments of a {kind}: {error}"))
    };
    // "3{due}" is a time as well, in the year 32026.
    if args["due"].as_str().is_some_and(|due| due.contains(DUE) && due != DUE) {
        return Err(format!("args.due: a due time is `{DUE}`, with nothing before or behind it"));
    }
    let template = read(args)?.id;
    let at_one: Value = serde_json::from_str(&args.to_string().replace(DUE, EXAMPLE))
        .map_err(|error| format!("args: they are no longer JSON with a due time in them: {error}"))?;
    let request = read(&at_one)?;
    request.start.map_err(|why| format!("args: no {kind} can begin with these arguments: {why}"))?;
    known_fields(args, &request.args, kind)?;
    let id = request.id;
    if id == template {
        return Err(format!(
            "args: every due time would be the same {kind}, `{id}`. Write {DUE} where its id comes from, such as {{\"due\": \"{DUE}\"}}"
        ));
    }
    match id == template.replace(DUE, EXAMPLE) {
        true => Ok(template),
        false => Err(format!("args: the id of a {kind} cannot be told before its due time")),
    }
}

/// A misspelt field would be passed over without a word, at every due time.
fn known_fields(args: &Value, known: &Value, kind: &str) -> Result<(), String> {
    let unknown = args
        .as_object()
        .and_then(|args| args.iter().find(|(name, value)| !value.is_null() && known.get(name).is_none()));
    match unknown {
        Some((name, _)) => Err(format!("args: a {kind} has no field `{name}`")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use noshi_jobs::Kind;
    use serde_json::json;

    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().expect("an instant")
    }

    /// Due times after an instant, as UTC.
    fn due(cron: &str, zone: &str, after: &str, many: usize) -> Vec<String> {
        let times = Times::read(cron, zone).expect("times");
        let all = std::iter::successors(times.after(at(after)), |last| times.after(*last));
        all.take(many).map(|at| at.to_rfc3339_opts(SecondsFormat::Secs, true)).collect()
    }

    #[test]
    fn midnight_in_tokyo_is_three_in_the_afternoon() {
        let midnights = due("5 0 * * *", "Asia/Tokyo", "2026-11-23T00:00:00Z", 2);
        assert_eq!(midnights, ["2026-11-23T15:05:00Z", "2026-11-24T15:05:00Z"]);
    }

    /// Clocks in New York go from 02:00 to 03:00 on 8 March 2026 (07:00 UTC). A time of day that is not there is due at the
    /// first moment after the gap, once; what recurs within the hour goes on evenly.
    #[test]
    fn a_gap_loses_no_day() {
        let zone = "America/New_York";
        let daily = due("30 2 * * *", zone, "2026-03-07T08:00:00Z", 3);
        assert_eq!(daily, ["2026-03-08T07:00:00Z", "2026-03-09T06:30:00Z", "2026-03-10T06:30:00Z"]);
        let quarters = due("*/30 * * * *", zone, "2026-03-08T06:00:00Z", 3);
        assert_eq!(quarters, ["2026-03-08T06:30:00Z", "2026-03-08T07:00:00Z", "2026-03-08T07:30:00Z"]);
    }

    /// On 1 November 2026 at 02:00 (06:00 UTC) they go back to 01:00. A time of day that is there twice is due at the first;
    /// what recurs within the hour goes on evenly.
    #[test]
    fn an_overlap_repeats_no_day() {
        let zone = "America/New_York";
        let daily = due("30 1 * * *", zone, "2026-10-31T06:00:00Z", 3);
        assert_eq!(daily, ["2026-11-01T05:30:00Z", "2026-11-02T06:30:00Z", "2026-11-03T06:30:00Z"]);
        let halves = due("*/30 * * * *", zone, "2026-11-01T05:00:00Z", 4);
        assert_eq!(
            halves,
            ["2026-11-01T05:30:00Z", "2026-11-01T06:00:00Z", "2026-11-01T06:30:00Z", "2026-11-01T07:00:00Z"]
        );
    }

    #[test]
    fn missed_times_go_by_policy() {
        let times = Times::read("0 * * * *", "UTC").expect("times");
        let first = at("2026-01-01T00:00:00Z");
        let turn = |missed, now| times.turn(missed, first, at(now)).expect("a turn");
        let hours = |hours: &[i64]| hours.iter().map(|hour| first + TimeDelta::hours(*hour)).collect::<Vec<_>>();
        let (three_late, on_time) = ("2026-01-01T02:30:00Z", "2026-01-01T00:00:59Z");
        let next = first + TimeDelta::hours(3);
        assert_eq!(turn(Missed::Every, three_late), Turn { fire: hours(&[0, 1, 2]), skipped: 0, next });
        assert_eq!(turn(Missed::Latest, three_late), Turn { fire: hours(&[2]), skipped: 2, next });
        assert_eq!(turn(Missed::None, three_late), Turn { fire: vec![], skipped: 3, next });
        for missed in [Missed::Every, Missed::Latest, Missed::None] {
            let next = first + TimeDelta::hours(1);
            assert_eq!(turn(missed, on_time), Turn { fire: vec![first], skipped: 0, next });
        }
        // A year of hours goes page by page, and of all of them the latest fires.
        let (mut due, mut fired, mut skipped) = (first, vec![], 0);
        while due <= at("2027-01-01T00:30:00Z") {
            let turn = times.turn(Missed::Latest, due, at("2027-01-01T00:30:00Z")).expect("a turn");
            fired.extend(turn.fire);
            skipped += turn.skipped;
            due = turn.next;
        }
        assert_eq!((fired, skipped), (vec![at("2027-01-01T00:00:00Z")], 365 * 24));
    }

    #[test]
    fn what_cannot_be_is_refused_by_field() {
        let refused = |cron, zone| Times::read(cron, zone).expect_err("a refusal");
        assert!(refused("5 0 * * *", "tokyo").contains("Did you mean Asia/Tokyo?"));
        assert!(refused("0 5 0 * * *", "UTC").starts_with("cron: "), "seconds");
        assert!(refused("61 * * * *", "UTC").starts_with("cron: "));
        assert_eq!(Times::read("0 0 30 2 *", "UTC").expect("times").after(at("2026-01-01T00:00:00Z")), None);
        assert_eq!(id(Kind::PointExpiry, &json!({"due": "{due}"})), Ok("{due}".to_owned()));
        assert_eq!(id(Kind::Probe, &json!({"id": "tick/{due}", "steps": 1})), Ok("tick/{due}".to_owned()));
        for (args, said) in [
            (json!({"due": "2026-11-23T15:05:00Z"}), "Write {due}"),
            (json!({"due": "3{due}"}), "nothing before or behind it"),
            (json!({"due": "{due} BC"}), "nothing before or behind it"),
            (json!({"do": "{due}"}), "missing field `due`"),
            (json!({"due": "{due}", "lots": 1}), "no field `lots`"),
            (json!("{due}"), "not the arguments"),
        ] {
            let why = id(Kind::PointExpiry, &args).expect_err("a refusal");
            assert!((why.starts_with("args: ") || why.starts_with("args.due: ")) && why.contains(said), "{why}");
        }
    }
}
