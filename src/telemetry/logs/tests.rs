use std::cell::RefCell;

use serde_json::{Value, json};
use tracing_subscriber::layer::SubscriberExt;

use super::{Format, IN_FLIGHT, Lines, MAX_BYTES};

thread_local! {
    static WRITTEN: RefCell<String> = const { RefCell::new(String::new()) };
}

/// What is written while `work` runs.
fn written(format: Format, work: impl FnOnce()) -> String {
    let lines = Lines { format, write: |line| WRITTEN.with_borrow_mut(|written| written.push_str(line)) };
    tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), work);
    WRITTEN.take()
}

fn json_of(line: &str) -> Value {
    assert_eq!(line.matches('\n').count(), 1, "{line}");
    serde_json::from_str(line).unwrap()
}

#[test]
fn a_line_about_a_job_in_flight_says_which_and_where_it_stands_now() {
    let text = written(Format::Json, || {
        let job = tracing::error_span!(target: IN_FLIGHT, "job", job = 7, kind = "probe", at = "new", lease = 2, trace = "0a");
        let _in_flight = job.enter();
        crate::telemetry::traces::moved("stepping");
        // Spans of libraries below it are nobody's business.
        let _library = tracing::error_span!("request", uri = "http://partner/?code=1").entered();
        tracing::warn!(answer = "late", "it took long");
    });
    let line = json_of(&text);
    let of_the_job = json!([line["job"], line["kind"], line["at"], line["lease"], line["trace"]]);
    assert_eq!(of_the_job, json!([7, "probe", "stepping", 2, "0a"]));
    assert_eq!(line["fields"], json!({"message": "it took long", "answer": "late"}));
    assert_eq!((line["level"].as_str(), text.contains("uri")), (Some("WARN"), false));
    let line = json_of(&written(Format::Json, || tracing::info!(job = 8, "an event about a mail")));
    assert_eq!((&line["job"], &line["fields"]), (&json!(8), &json!({"message": "an event about a mail"})));
}

const NASTY: &str = "a\u{1b}[2J\r\n{\"level\":\"ERROR\"}\u{7f}\u{9b}31m\u{202e}\u{2028}\"end 付与";

#[test]
fn what_others_say_stays_in_its_line_and_its_field() {
    let say = || tracing::info!(said = NASTY, "{NASTY}");
    let (json, text) = (written(Format::Json, say), written(Format::Text, say));
    for line in [&json, &text] {
        assert!(line.trim_end_matches('\n').chars().all(|c| !crate::basics::text::moves(c)), "{line:?}");
    }
    // JSON loses nothing of it.
    assert_eq!(json_of(&json)["fields"], json!({"message": NASTY, "said": NASTY}));
    assert!(text.contains("付与") && text.contains("\\u001b[2J\\u000d\\u000a"), "{text}");
}

#[test]
fn a_field_is_no_longer_than_it_may_be() {
    let long = "付".repeat(100_000);
    let line = json_of(&written(Format::Json, || tracing::info!(long, debugged = ?vec![0_u8; 100_000], "{long}")));
    for field in ["long", "debugged", "message"] {
        let text = line["fields"][field].as_str().unwrap();
        assert!(text.len() < MAX_BYTES + 40 && text.contains("… and ") && text.ends_with(" bytes more"), "{text}");
    }
}

/// Whatever a library that holds keys writes, and at whatever level, is not for anybody's eyes.
#[test]
fn libraries_that_hold_keys_are_not_heard() {
    let text = written(Format::Json, || {
        tracing::warn!(target: "reqsign_aws_v4::provide_credential::imds", "token CNRY-TOKEN was refused");
        tracing::trace!(target: "hyper::proto::h1::io", "flushed x-aws-ec2-metadata-token: CNRY-TOKEN");
        tracing::warn!({ log.target = "reqsign_core" }, "CNRY-TOKEN");
        tracing::warn!(target: "noshi::partners", "no credentials");
    });
    assert!(!text.contains("CNRY") && text.contains("no credentials"), "{text}");
}
