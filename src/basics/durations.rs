//! Spans of time as people type them, and as they are told. The one parser for all of them.

use std::time::Duration;

/// Ten thousand days: what a database can still subtract from its clock.
const MOST: Duration = Duration::from_secs(864_000_000);
/// Longest first; a year is 365 days.
const UNITS: [(&str, u64); 7] = [
    ("y", 31_536_000_000),
    ("w", 604_800_000),
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1000),
    ("ms", 1),
];

/// `500ms`, `90s`, `30m`, `2h`, `7d`, `2w`, `1y`, or several from the largest to the smallest: `1h30m`. A number needs its unit.
pub fn parse(text: &str) -> Result<Duration, String> {
    let wrong = || {
        format!("`{text}` is no span of time; write a number and its unit: 500ms, 90s, 30m, 2h, 7d, 2w, 1y or 1h30m")
    };
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!("`{text}` has no unit; is it {text}s, {text}m, {text}h or {text}d?"));
    }
    let (mut rest, mut sum, mut below) = (text, 0_u64, u64::MAX);
    loop {
        let number = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (digits, behind) = rest.split_at(number);
        let unit = behind.len() - behind.trim_start_matches(|c: char| c.is_ascii_alphabetic()).len();
        let (unit, behind) = behind.split_at(unit);
        let (_, millis) = UNITS.iter().find(|(name, millis)| *name == unit && *millis < below).ok_or_else(wrong)?;
        let part = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(*millis)).ok_or_else(wrong)?;
        sum = sum.checked_add(part).ok_or_else(wrong)?;
        (rest, below) = (behind, *millis);
        if rest.is_empty() {
            break;
        }
    }
    let span = Duration::from_millis(sum);
    if span > MOST {
        return Err(format!("`{text}` is longer than 10,000 days"));
    }
    Ok(span)
}

/// The same, and not nothing.
pub fn parse_some(text: &str) -> Result<Duration, String> {
    parse(text).and_then(|span| if span.is_zero() { Err(format!("`{text}` is no time at all")) } else { Ok(span) })
}

/// For flags whose name says that they are milliseconds: a bare number is what the name says, and a unit is taken as well.
pub fn parse_millis(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(millis) if text.bytes().all(|byte| byte.is_ascii_digit()) => Ok(millis),
        Ok(_) | Err(_) => parse(text).map(|span| u64::try_from(span.as_millis()).unwrap_or(u64::MAX)),
    }
}

/// Milliseconds that are at least as many.
pub fn millis_from(least: u64) -> impl Fn(&str) -> Result<u64, String> + Clone + Send + Sync + 'static {
    move |text| {
        parse_millis(text).and_then(|millis| {
            if millis < least {
                Err(format!("{millis} milliseconds are too few; it takes {least} at least"))
            } else {
                Ok(millis)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_a_unit() {
        for (text, seconds) in [
            ("90s", 90),
            ("2h", 7200),
            ("5m", 300),
            ("3d", 259_200),
            ("2w", 1_209_600),
            ("1y", 31_536_000),
            ("1h30m", 5400),
            ("1d12h", 129_600),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        assert_eq!(parse("500ms"), Ok(Duration::from_millis(500)));
        for wrong in [
            "",
            "h",
            "2",
            "30x",
            "-1h",
            "2 h",
            "1.5h",
            "99999999999999999999d",
            "400000d",
            "1時",
            "２h",
            "30m1h",
            "1h1h",
            "1h30",
            "+2h",
            "2H",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        assert!(parse("5").unwrap_err().contains("5s, 5m, 5h or 5d"));
        assert!(parse_some("0s").is_err());
    }

    #[test]
    fn milliseconds_may_be_bare_or_have_a_unit() {
        assert_eq!((parse_millis("5000"), parse_millis("5s"), parse_millis("500ms")), (Ok(5000), Ok(5000), Ok(500)));
        for wrong in ["", "-5", "+5", "5x", "٣"] {
            assert!(parse_millis(wrong).is_err(), "{wrong}");
        }
        assert!(millis_from(500)("499").is_err() && millis_from(500)("500ms") == Ok(500));
    }
}
