//! Refusals of the interface, as RFC 9457 has them: what happened, what it means, what to do next.

use std::time::Duration;

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use crate::{
    db::ActError,
    intake::{MAX_FAULTS, Rejected},
    operator::readings::ask::Unread,
};

/// A problem. It repeats to the caller what the caller sent at most; it is never logged.
#[derive(Debug)]
pub struct Refusal {
    pub status: StatusCode,
    detail: String,
    /// More members of the problem: `field`, `differences`, `scope`, `faults`, `allowed`.
    more: Vec<(&'static str, Value)>,
    retry_after: Option<u64>,
    challenge: Option<String>,
}

impl Refusal {
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Refusal {
        Refusal { status, detail: detail.into(), more: vec![], retry_after: None, challenge: None }
    }

    /// In a sentence.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    pub fn not_found(detail: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::NOT_FOUND, detail)
    }

    pub fn conflict(detail: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::CONFLICT, detail)
    }

    /// Valid JSON, and a field that will not do.
    pub fn field(field: &str, detail: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, detail).with("field", field)
    }

    /// Not now: this token, or this process, has as much as it may.
    pub fn later(wait: Duration, detail: impl Into<String>) -> Refusal {
        let mut refusal = Refusal::new(StatusCode::TOO_MANY_REQUESTS, detail);
        refusal.retry_after = Some(wait.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX).max(1));
        refusal
    }

    pub fn unavailable(detail: impl Into<String>) -> Refusal {
        let mut refusal = Refusal::new(StatusCode::SERVICE_UNAVAILABLE, detail);
        refusal.retry_after = Some(1);
        refusal
    }

    pub fn overloaded() -> Refusal {
        Refusal::later(
            Duration::from_secs(1),
            "This process has as many requests in flight as it takes. Nothing was done; send it again.",
        )
    }

    pub fn unauthorized(detail: &str) -> Refusal {
        let mut refusal = Refusal::new(StatusCode::UNAUTHORIZED, detail);
        refusal.challenge = Some(r#"Bearer realm="noshi""#.to_owned());
        refusal
    }

    pub fn bad_token() -> Refusal {
        let mut refusal = Refusal::unauthorized("This token is unknown, expired or revoked. Nothing was done.");
        refusal.challenge = Some(r#"Bearer realm="noshi", error="invalid_token""#.to_owned());
        refusal
    }

    /// It is the token that is not good.
    pub fn is_of_token(&self) -> bool {
        self.status == StatusCode::UNAUTHORIZED
    }

    pub fn missing_scope(scope: &str, has: &[String]) -> Refusal {
        let detail = format!("This needs a token with the scope `{scope}`; this one has {}.", has.join(", "));
        let mut refusal = Refusal::new(StatusCode::FORBIDDEN, detail).with("scope", scope);
        refusal.challenge = Some(format!(r#"Bearer realm="noshi", error="insufficient_scope", scope="{scope}""#));
        refusal
    }

    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<Value>) -> Refusal {
        self.more.push((name, value.into()));
        self
    }

    /// What the database refused with this SQLSTATE.
    fn said(code: &str, sentence: String) -> Refusal {
        match code {
            "NS400" => Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, sentence),
            "NS401" => Refusal::bad_token(),
            "NS403" => Refusal::new(StatusCode::FORBIDDEN, sentence),
            "NS404" => Refusal::not_found(sentence),
            "NS409" => Refusal::conflict(sentence),
            "NS410" => Refusal::new(StatusCode::GONE, sentence),
            _ => Refusal::unavailable(
                "The database does not let this interface do that. Nothing was done; its operators can grant what its role misses.",
            ),
        }
    }
}

/// What the database said: a refusal in its own words, or that it did not take it.
impl From<sqlx::Error> for Refusal {
    fn from(error: sqlx::Error) -> Refusal {
        let database = error.as_database_error();
        let code = database.and_then(|error| error.code()).unwrap_or_default().into_owned();
        match database {
            Some(database) if code.starts_with("NS") => Refusal::said(&code, database.message().to_owned()),
            Some(_) if code.starts_with("23") => {
                Refusal::conflict("The request is against what is recorded already. Nothing was done.")
            }
            // A text that PostgreSQL cannot hold, or a value out of its range.
            Some(_) if code.starts_with("22") => Refusal::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "The database cannot hold a value of this request (a half of a surrogate pair, or a number out of range). Nothing was done.",
            ),
            // A lock that did not come free, a deadlock, no connection left: what was begun is undone.
            Some(_) if ["55P03", "40P01", "40001", "53300"].contains(&code.as_str()) => {
                Refusal::unavailable("The database is busy with what this needs. Nothing was done; send it again.")
            }
            _ => {
                // The code only: a message may quote what was sent.
                tracing::warn!(code, "the database did not take a request; its sender was told to send it again");
                Refusal::unavailable(
                    "The database did not answer. Whether the request was taken is not known; send it again with the same id, which is safe.",
                )
            }
        }
    }
}

impl From<ActError> for Refusal {
    fn from(error: ActError) -> Refusal {
        match error {
            ActError::Refused { code, sentence } => Refusal::said(&code, sentence),
            ActError::Database(error) => error.into(),
        }
    }
}

/// Out of intake: a file with faults, a refusal of the database, or trouble of ours.
impl From<anyhow::Error> for Refusal {
    fn from(error: anyhow::Error) -> Refusal {
        let error = match error.downcast::<Rejected>() {
            Ok(rejected) => return rejected.into(),
            Err(error) => error,
        };
        let error = match error.downcast::<ActError>() {
            Ok(error) => return error.into(),
            Err(error) => error,
        };
        let error = match error.downcast::<Unread>() {
            Ok(unread) => return unread.into(),
            Err(error) => error,
        };
        match error.downcast::<sqlx::Error>() {
            Ok(error) => error.into(),
            Err(_) => {
                tracing::warn!("a request could not be carried out; its sender was told to send it again");
                Refusal::unavailable("It could not be done now; send it again, which is safe.")
            }
        }
    }
}

/// No answer of a worker, or one that says why.
impl From<Unread> for Refusal {
    fn from(unread: Unread) -> Refusal {
        match unread {
            Unread::Nobody(sentence) => Refusal::unavailable(sentence),
            Unread::Says { word, sentence, wait } => match word.as_str() {
                "lane_closed" | "throttled" => Refusal::later(wait, sentence),
                "forgotten" | "dead" => Refusal::new(StatusCode::GONE, sentence),
                "other_card" | "moved_on" | "differs" | "other_file" | "not_whole" => Refusal::conflict(sentence),
                "no_batch" => Refusal::not_found(sentence),
                _ => Refusal::unavailable(sentence),
            },
        }
    }
}

impl From<Rejected> for Refusal {
    fn from(rejected: Rejected) -> Refusal {
        let faults: Vec<Value> = rejected
            .faults
            .iter()
            .map(|fault| json!({"line": fault.line, "field": fault.field, "sentence": fault.sentence}))
            .collect();
        let more = if faults.len() >= MAX_FAULTS { "; there may be more" } else { "" };
        let detail = format!("The file has faults, and nothing of it was written{more}.");
        Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, detail).with("faults", faults)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let title = self.status.canonical_reason().unwrap_or("Refused");
        let mut problem =
            json!({"type": "about:blank", "title": title, "status": self.status.as_u16(), "detail": self.detail});
        for (name, value) in self.more {
            problem[name] = value;
        }
        let mut response =
            (self.status, [(header::CONTENT_TYPE, "application/problem+json")], Json(problem)).into_response();
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if let Some(challenge) = self.challenge.and_then(|text| HeaderValue::try_from(text).ok()) {
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}
