//! Bodies: no larger, deeper or slower than is good for us, checked before anything is built from them.

use std::{sync::Arc, time::Duration};

use axum::{
    body::{BodyDataStream, Bytes},
    http::{HeaderMap, StatusCode, header},
};
use futures::StreamExt;
use serde::{Deserialize, de::IgnoredAny};
use tokio::{
    sync::{Mutex, OwnedMutexGuard},
    time::{Instant, timeout, timeout_at},
};

use super::refusal::Refusal;

/// Levels of objects and arrays.
const DEEPEST: usize = 32;

/// Refuses what is not of this media type, and anything compressed: its size would be a surprise.
pub fn expect_type(headers: &HeaderMap, expected: &str) -> Result<(), Refusal> {
    let unsupported = |detail: String| Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail);
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or("?").trim().to_ascii_lowercase());
    if text(header::CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
        return Err(unsupported("A body comes as it is, without Content-Encoding.".to_owned()));
    }
    let given = text(header::CONTENT_TYPE).unwrap_or_default();
    let mut parts = given.split(';').map(str::trim);
    let media = parts.next() == Some(expected);
    let charset = parts.all(|part| !part.starts_with("charset=") || expected == "text/csv" || part.contains("utf-8"));
    match media && charset {
        true => Ok(()),
        false => Err(unsupported(format!("The body must be {expected} in UTF-8, and Content-Type must say so."))),
    }
}

fn too_large(most: usize) -> Refusal {
    let most = if most >= 1 << 20 { format!("{} MiB", most >> 20) } else { format!("{} KiB", most >> 10) };
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, format!("A body is at most {most} here. Nothing was done."))
}

/// What is still to come of a request's body.
pub type Source = Arc<Mutex<BodyDataStream>>;

/// Of a body that was refused, this much is still read, and for so long: who is still sending would take the end of the
/// connection for a failure, and never see why.
const MAX_DRAINED: usize = 16 * 1024 * 1024;
const DRAIN_TIME: Duration = Duration::from_secs(2);

/// Lets the sender finish, so that it sees the answer.
pub async fn drain(source: &Source) {
    let Ok(mut stream) = source.try_lock() else { return };
    let mut bytes = 0;
    let all = async {
        while let Some(Ok(piece)) = stream.next().await {
            bytes += piece.len();
            if bytes > MAX_DRAINED {
                break;
            }
        }
    };
    // Whoever is slower than that is closed upon.
    let _ = timeout(DRAIN_TIME, all).await;
}

/// A body may take this long and then comes at least this fast: whoever sends a byte now and then would hold a place for long.
const PATIENCE: Duration = Duration::from_secs(10);
const SLOWEST: u32 = 32 * 1024;

/// A body that comes piece by piece. Slow: 408; too large: 413.
pub struct Pieces {
    stream: OwnedMutexGuard<BodyDataStream>,
    begun: Instant,
    deadline: Instant,
    most: usize,
    bytes: usize,
}

impl Pieces {
    pub async fn new(headers: &HeaderMap, source: &Source, most: usize, within: Duration) -> Result<Pieces, Refusal> {
        let announced =
            headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
        if announced.is_some_and(|bytes| bytes > most) {
            return Err(too_large(most));
        }
        let stream = Arc::clone(source).lock_owned().await;
        Ok(Pieces { stream, begun: Instant::now(), deadline: Instant::now() + within, most, bytes: 0 })
    }

    pub async fn next(&mut self) -> Result<Option<Bytes>, Refusal> {
        let due = Duration::from_secs_f64(self.bytes as f64 / f64::from(SLOWEST));
        let deadline = self.deadline.min(self.begun + PATIENCE + due);
        let piece = timeout_at(deadline, self.stream.next()).await.map_err(|_| {
            Refusal::new(StatusCode::REQUEST_TIMEOUT, "The body took too long. Nothing was done; send it again.")
        })?;
        let Some(piece) = piece else { return Ok(None) };
        let piece = piece
            .map_err(|_| Refusal::new(StatusCode::BAD_REQUEST, "The body did not come whole. Nothing was done."))?;
        self.bytes += piece.len();
        if self.bytes > self.most {
            return Err(too_large(self.most));
        }
        Ok(Some(piece))
    }
}

/// The whole body, as text.
pub async fn whole(headers: &HeaderMap, source: &Source, most: usize, within: Duration) -> Result<String, Refusal> {
    let mut pieces = Pieces::new(headers, source, most, within).await?;
    let mut bytes = Vec::new();
    while let Some(piece) = pieces.next().await? {
        bytes.extend_from_slice(&piece);
    }
    String::from_utf8(bytes).map_err(|_| Refusal::new(StatusCode::BAD_REQUEST, "The body is not UTF-8."))
}

/// Looks over JSON without building anything: how deep it goes, and for the one character that PostgreSQL cannot hold.
fn look_over(text: &str) -> Result<(), Refusal> {
    let (mut depth, mut in_string) = (0_usize, false);
    let mut bytes = text.bytes().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match (in_string, byte) {
            (true, b'\\') => {
                if text.as_bytes()[at + 1..].starts_with(b"u0000") {
                    return Err(Refusal::field("", r"The character \u0000 cannot be kept; leave it out."));
                }
                bytes.next();
            }
            (true, b'"') => in_string = false,
            (false, b'"') => in_string = true,
            (false, b'{' | b'[') => depth += 1,
            (false, b'}' | b']') => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEEPEST {
            let detail = format!("The body goes deeper than {DEEPEST} levels.");
            return Err(Refusal::new(StatusCode::BAD_REQUEST, detail));
        }
    }
    Ok(())
}

/// Reads JSON. Malformed: 400; well formed, and not what is asked for: 422 with the field.
pub fn json<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, Refusal> {
    look_over(text)?;
    let malformed =
        |error: &serde_json::Error| Refusal::new(StatusCode::BAD_REQUEST, format!("The body is not JSON: {error}."));
    // An array would be taken for the fields in their order.
    if !text.trim_ascii_start().starts_with('{') {
        serde_json::from_str::<IgnoredAny>(text).map_err(|error| malformed(&error))?;
        return Err(Refusal::field("", "The body must be an object."));
    }
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        if !error.inner().is_data() {
            return malformed(error.inner());
        }
        let (path, said) = (error.path().to_string(), error.inner().to_string());
        let absent = said.strip_prefix("missing field `").and_then(|rest| rest.split('`').next());
        let field = match (path.as_str(), absent) {
            (".", absent) => absent.unwrap_or_default().to_owned(),
            (path, Some(absent)) => format!("{path}.{absent}"),
            (path, None) => path.to_owned(),
        };
        Refusal::field(&field, format!("{said}."))
    })?;
    deserializer.end().map_err(|error| malformed(&error))?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct JobRequest<'a> {
        id: String,
        #[serde(borrow)]
        args: &'a RawValue,
    }

    #[test]
    fn what_cannot_be_taken_is_told_apart() {
        fn status(text: &str) -> Result<JobRequest<'_>, u16> {
            json(text).map_err(|refusal| refusal.status.as_u16())
        }
        let deep = |levels: usize| format!(r#"{{"id":"a","args":{}{}}}"#, "[".repeat(levels), "]".repeat(levels));
        let taken = status(r#"{"id":"a","args":{"b":[1,"}{\"\\"]}}"#).unwrap();
        assert_eq!((taken.id.as_str(), taken.args.get()), ("a", r#"{"b":[1,"}{\"\\"]}"#));
        assert!(status(&deep(31)).is_ok());
        assert_eq!(status(&deep(32)).unwrap_err(), 400);
        assert_eq!(status(&deep(100_000)).unwrap_err(), 400);
        for malformed in ["", "{", "nul", r#"{"id":"a","args":{}} x"#, r#"{"id":"a","args":{"b":}}"#] {
            assert_eq!(status(malformed).unwrap_err(), 400, "{malformed}");
        }
        for wrong in [
            r#"{"args":{}}"#,
            r#"{"id":1,"args":{}}"#,
            r#"{"id":"a","args":{},"x":1}"#,
            r#"{"id":"\u0000","args":{}}"#,
            "[]",
        ] {
            assert_eq!(status(wrong).unwrap_err(), 422, "{wrong}");
        }
        assert!(status(r#"{"id":"\\u0000","args":{}}"#).is_ok());
    }
}
