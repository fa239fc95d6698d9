//! What every page is made of: texts of others shown harmlessly, words of state with their shapes, times and amounts.

use chrono::{DateTime, SecondsFormat, Utc};
use maud::{Markup, html};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::{visit::Visit, words::Words};
use crate::basics::text::moves;

const IN_PATHS: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.');

/// A part of an address.
pub fn part(text: &str) -> String {
    // A browser takes these two for the folder, however they are written.
    match text {
        "." | ".." => format!("{text}%20"),
        text => utf8_percent_encode(text, IN_PATHS).to_string(),
    }
}

/// Characters that would move what stands beside them, or hide, are named instead.
pub fn plain(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match moves(c) && c != '\n' {
            true => shown.push_str(&format!("⟨U+{:04X}⟩", u32::from(c))),
            false => shown.push(c),
        }
    }
    shown
}

/// A text that somebody else wrote.
pub fn others(text: &str) -> Markup {
    html! { bdi { (plain(text)) } }
}

pub fn id(text: &str) -> Markup {
    html! { code { bdi { (plain(text)) } } }
}

/// Word, shape and colour of a state: none of them alone.
pub fn badge(words: &Words, stored: &str) -> Markup {
    let (shape, class) = match stored {
        "completed" | "open" | "alive" | "settled" | "approved" => ("●", "good"),
        "failed" | "cancelled" | "stopped" | "invalid" => ("■", "over"),
        "needs_operator" | "closed" | "dead" | "refused" | "parked" => ("▲", "bad"),
        "in_doubt" | "paused" | "throttled" | "silent" | "awaiting_approval" => ("◆", "doubt"),
        "running" | "compensating" | "released" => ("▶", "busy"),
        _ => ("○", "idle"),
    };
    html! { span.badge.(class) { span aria-hidden="true" { (shape) } " " (plain(words.status(stored))) } }
}

pub fn time(visit: &Visit, at: DateTime<Utc>) -> Markup {
    let local = at.with_timezone(&visit.zone).to_rfc3339_opts(SecondsFormat::Secs, true).replacen('T', " ", 1);
    html! { time datetime=(at.to_rfc3339_opts(SecondsFormat::Secs, true)) { (local) } }
}

pub fn job_path(kind: &str, key: &str) -> String {
    format!("/jobs/{}/{}", part(kind), part(key))
}

/// Minor units as people write them.
pub fn amount(minor: i64, currency: &str) -> String {
    let grouped = |whole: i64| {
        let digits = whole.unsigned_abs().to_string();
        let mut out = String::new();
        for (at, digit) in digits.chars().enumerate() {
            if at > 0 && (digits.len() - at).is_multiple_of(3) {
                out.push(',');
            }
            out.push(digit);
        }
        out
    };
    let sign = if minor < 0 { "-" } else { "" };
    match currency {
        "JPY" => format!("{sign}¥{}", grouped(minor)),
        "USD" => format!("{sign}${}.{:02}", grouped(minor / 100), minor.unsigned_abs() % 100),
        other => format!("{sign}{} {other}", grouped(minor)),
    }
}

/// What a gift is worth, by what was asked for.
pub fn worth(args: &Value) -> Option<String> {
    let value = args.get("value")?;
    Some(amount(value["amount"].as_i64()?, value["currency"].as_str()?))
}

/// Fields that may be shown, by kind: one that is new stays hidden until somebody adds it here.
const fn allowed(kind: &str) -> &'static [&'static str] {
    match kind.as_bytes() {
        b"gift_issuance" => &["grant", "user", "category", "value", "provider", "valid_days", "area", "paid_by"],
        b"bulk_grants" => &["batch"],
        b"email" => &["template", "reference"],
        b"store_creation" => &["organization", "public_id", "request"],
        b"point_grant" => &["benefit", "source", "user", "points", "valid_days", "zone", "area"],
        b"point_exchange" => &["exchange", "user", "points", "area", "category", "value", "provider", "grace_days"],
        b"point_expiry" => &["due"],
        b"point_withdrawal" => &["user"],
        _ => &[],
    }
}

/// The arguments of a job, but for what is never shown.
pub fn arguments(words: &Words, kind: &str, args: &Value) -> Markup {
    let known = noshi_jobs::Kind::from_name(kind).is_some();
    let fields = args.as_object().into_iter().flatten().filter(|_| known);
    html! {
        dl.facts {
            @if let Some(worth) = worth(args) { dt { (words.worth) } dd.money { (plain(&worth)) } }
            @for (name, value) in fields {
                @if name != "value" {
                    dt { (plain(name)) }
                    dd { @match (allowed(kind).contains(&name.as_str()), value) {
                        (false, _) => span title=(words.hidden) { "•••" },
                        (true, Value::String(text)) => (id(text)),
                        (true, other) => (id(&other.to_string())),
                    } }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::console::words::Language;

    #[test]
    fn texts_of_others_do_no_harm() {
        assert_eq!(plain("a\u{202e}b\u{0}c"), "a⟨U+202E⟩b⟨U+0000⟩c");
        assert_eq!(others("<script>").into_string(), "<bdi>&lt;script&gt;</bdi>");
        assert_eq!(job_path("gift_issuance", "a/b?c#d \"é"), "/jobs/gift_issuance/a%2Fb%3Fc%23d%20%22%C3%A9");
        assert_eq!(
            (amount(1_234_567, "JPY"), amount(-123_405, "USD")),
            ("¥1,234,567".to_owned(), "-$1,234.05".to_owned())
        );
    }

    #[test]
    fn a_field_that_nobody_allowed_is_hidden() {
        let shown = |kind, args| arguments(Language::English.words(), kind, &args).into_string();
        let store = shown(
            "store_creation",
            json!({"public_id": "p1", "name": "Tea", "phone": "0312345678", "address": "Tokyo"}),
        );
        assert!(store.contains("p1") && store.contains("•••"), "{store}");
        assert!(!["Tea", "0312345678", "Tokyo"].iter().any(|hidden| store.contains(hidden)), "{store}");
        assert!(!shown("of_tomorrow", json!({"secret": "s"})).contains("secret"));
    }
}
