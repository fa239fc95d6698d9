//! Instants as people type them and read them: one parser, one format. The zone is the machine's, or what `TZ` says, and is always shown.

use chrono::{DateTime, Local, LocalResult, NaiveDate, NaiveDateTime, NaiveTime, SecondsFormat, TimeZone, Utc};

/// `2026-11-29 22:13:41Z`, or `2026-11-30 07:13:41+09:00` where the zone is Japan's. [`parse`] takes it back.
pub fn show(at: DateTime<Utc>) -> String {
    show_in(&Local, at, SecondsFormat::Secs)
}

/// The same with milliseconds, where the order within a second matters.
pub fn show_exactly(at: DateTime<Utc>) -> String {
    show_in(&Local, at, SecondsFormat::Millis)
}

fn show_in<Z: TimeZone>(zone: &Z, at: DateTime<Utc>, to: SecondsFormat) -> String
where
    Z::Offset: std::fmt::Display,
{
    at.with_timezone(zone).to_rfc3339_opts(to, true).replacen('T', " ", 1)
}

/// `2026-10-09`, `2026-10-09 12:00` or `2026-10-09T12:00:30`, with `Z` or `+09:00` behind it or, without, on the clocks of the local zone. A
/// date alone is its first instant.
pub fn parse(text: &str) -> Result<DateTime<Utc>, String> {
    parse_in(&Local, text)
}

fn parse_in<Z: TimeZone>(zone: &Z, text: &str) -> Result<DateTime<Utc>, String> {
    let wrong = || {
        format!(
            "`{text}` is no time; write 2026-10-09, 2026-10-09 12:00 or 2026-10-09T12:00:00+09:00 (without a zone: that of this machine, or TZ)"
        )
    };
    let behind_date = text.get(10..).ok_or_else(wrong)?;
    let bare = match behind_date.find(['Z', 'z', '+', '-']) {
        None => text,
        Some(at) => &text[..10 + at],
    };
    let date = NaiveDate::parse_from_str(&bare[..10], "%Y-%m-%d").map_err(|_| wrong())?;
    let time = bare[10..].strip_prefix(['T', 't', ' ']);
    let time = match (time, bare.len() == 10) {
        (Some(time), _) => {
            ["%H:%M:%S%.f", "%H:%M"].iter().find_map(|format| NaiveTime::parse_from_str(time, format).ok())
        }
        (None, true) => Some(NaiveTime::MIN),
        (None, false) => None,
    };
    let local: NaiveDateTime = date.and_time(time.ok_or_else(wrong)?);
    let zone_said = text[bare.len()..].to_ascii_uppercase();
    if zone_said.is_empty() {
        return match zone.from_local_datetime(&local) {
            LocalResult::Single(at) => Ok(at.to_utc()),
            LocalResult::Ambiguous(..) => {
                Err(format!("`{text}` is twice on the clocks of this zone; write its offset, such as {text}+01:00"))
            }
            LocalResult::None => Err(format!("`{text}` is left out on the clocks of this zone; write its offset")),
        };
    }
    let whole = format!("{}{zone_said}", local.format("%Y-%m-%dT%H:%M:%S%.f"));
    DateTime::parse_from_rfc3339(&whole).map(|at| at.to_utc()).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_or_a_time_with_or_without_a_zone_is_taken_and_what_is_shown_is_taken_back() {
        let tokyo = chrono_tz::Asia::Tokyo;
        for (text, utc) in [
            ("2026-10-09", "2026-10-08T15:00:00Z"),
            ("2026-10-09 12:00", "2026-10-09T03:00:00Z"),
            ("2026-10-09T12:00:30", "2026-10-09T03:00:30Z"),
            ("2026-10-09T12:00:30Z", "2026-10-09T12:00:30Z"),
            ("2026-10-09 12:00:30.250+01:00", "2026-10-09T11:00:30.250Z"),
            ("2026-10-09Z", "2026-10-09T00:00:00Z"),
        ] {
            assert_eq!(parse_in(&tokyo, text).unwrap().to_rfc3339_opts(SecondsFormat::AutoSi, true), utc, "{text}");
        }
        for wrong in [
            "",
            "9",
            "2026-13-01",
            "2026-10-09 25:00",
            "2026-10-09x",
            "2026-10-09 12",
            "09.10.2026",
            "2026-10-09 12:00 JST",
            "２０２６-10-09",
            "2026-10-0９",
            "20261009",
            "2026-10-09T",
        ] {
            assert!(parse_in(&tokyo, wrong).is_err(), "{wrong}");
        }
        let at = parse_in(&tokyo, "2026-10-09 12:00:30").unwrap();
        assert_eq!(show_in(&tokyo, at, SecondsFormat::Secs), "2026-10-09 12:00:30+09:00");
        assert_eq!(show_in(&Utc, at, SecondsFormat::Millis), "2026-10-09 03:00:30.000Z");
        assert_eq!(parse(&show(at)), Ok(at));
        let berlin = chrono_tz::Europe::Berlin;
        assert!(parse_in(&berlin, "2026-03-29 02:30").unwrap_err().contains("left out"));
        assert!(parse_in(&berlin, "2026-10-25 02:30").unwrap_err().contains("twice"));
    }
}
