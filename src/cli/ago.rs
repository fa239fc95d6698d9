//! Spans of time as people type them.

use std::time::Duration;

/// `90s`, `30m`, `2h`, `7d`.
pub fn parse(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no span of time; such as 30m, 2h or 7d");
    let unit = text.chars().last().ok_or_else(wrong)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    // Ten thousand days: what a database can still subtract from its clock.
    number.checked_mul(seconds).filter(|it| *it <= 864_000_000).map(Duration::from_secs).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_a_unit() {
        assert_eq!(parse("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse("2h"), Ok(Duration::from_secs(7200)));
        for wrong in ["", "h", "2", "-1h", "2 h", "99999999999999999999d", "400000d", "1時"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
