//! What the API takes and says: bodies within the limit, and problems as RFC 9457 has them.

use axum::{
    Json,
    body::Bytes,
    extract::{FromRequest, Request},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::json;

/// A refusal. The detail is a fixed sentence of ours: nothing that was sent is ever repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    pub status: StatusCode,
    pub detail: &'static str,
}

impl Refused {
    pub fn new(status: u16, detail: &'static str) -> Refused {
        Refused { status: StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), detail }
    }

    /// The database did not take it. Whoever sent it sends it again.
    pub fn database(error: &sqlx::Error) -> Refused {
        // The code only: a message may quote what was sent.
        let code = error.as_database_error().and_then(|error| error.code()).unwrap_or_default().into_owned();
        tracing::warn!(code, "the database did not take an event; its sender will send it again");
        Refused::new(503, "It could not be kept now; send it again.")
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let title = self.status.canonical_reason().unwrap_or("Refused");
        let problem =
            json!({"type": "about:blank", "title": title, "status": self.status.as_u16(), "detail": self.detail});
        (self.status, [(header::CONTENT_TYPE, "application/problem+json")], Json(problem)).into_response()
    }
}

/// A whole body, at most as large as the API allows.
pub struct Received(pub Bytes);

impl<S: Send + Sync> FromRequest<S> for Received {
    type Rejection = Refused;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refused> {
        match Bytes::from_request(request, state).await {
            Ok(bytes) => Ok(Received(bytes)),
            Err(rejection) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => {
                Err(Refused::new(413, "A body is at most 256 KiB here."))
            }
            Err(_) => Err(Refused::new(400, "The body did not come whole.")),
        }
    }
}
