//! The interface for producers and operators: everything below `/v1` but the events. ops/http.md tells callers of it.
//!
//! Each request is checked in the same order: whether its token is one at all, room, token, pace, scope, media type, size, time; only then
//! is its body built into anything.

use axum::{
    Router,
    extract::{RawPathParams, Request, rejection::RawPathParamsRejection},
    http::{HeaderMap, HeaderValue, header, request::Parts},
    response::{IntoResponse, Response},
    routing::on,
};
use std::{sync::Arc, time::Duration};
use tokio::{sync::Mutex, time::timeout};

use super::backend::{Backend, Call, turn};
use crate::{
    api::{
        body, openapi,
        refusal::Refusal,
        routes::{ROUTES, Route, Takes},
        tokens::Admitted,
    },
    db::operator::tokens::Caller,
};

/// The interface as routes.
pub fn open(backend: Backend) -> Router {
    let backend = Arc::new(backend);
    ROUTES.iter().fold(Router::new(), |router, route| {
        let backend = Arc::clone(&backend);
        let handler = move |path: Result<RawPathParams, RawPathParamsRejection>, request: Request| {
            let backend = Arc::clone(&backend);
            // What does not decode to text names nothing.
            let path = path.iter().flatten().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
            serve(backend, route, path, request)
        };
        router.route(route.path, on(route.method.filter(), handler))
    })
}

async fn serve(
    backend: Arc<Backend>,
    route: &'static Route,
    path: Vec<(String, String)>,
    request: Request,
) -> Response {
    let time = if route.takes.is_large() { LONG } else { TIMEOUT };
    let (parts, body) = request.into_parts();
    let waits = parts.headers.contains_key(header::EXPECT);
    let source: body::Source = Arc::new(Mutex::new(body.into_data_stream()));
    let answered = timeout(time, let_in(&backend, route, path, parts, &source)).await.unwrap_or_else(|_| {
        Err(Refusal::unavailable(
            "No answer was found in time. Whether it was done is not known; send it again with the same id, which is safe.",
        ))
    });
    if answered.is_err() && !waits {
        body::drain(&source).await;
    }
    let mut response = answered.unwrap_or_else(IntoResponse::into_response);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

async fn let_in(
    backend: &Arc<Backend>,
    route: &'static Route,
    path: Vec<(String, String)>,
    parts: Parts,
    source: &body::Source,
) -> Result<Response, Refusal> {
    let (Some(scope), Some(handle)) = (route.scope, route.handle) else { return Ok(openapi::answer()) };
    backend.tokens.turn_away_strangers(&backend.pool, &parts.headers).await?;
    let _place = backend.requests.try_acquire().map_err(|_| Refusal::overloaded())?;
    let Admitted { bearer, room: _room, large: own_large } =
        backend.tokens.admit(&backend.pool, &parts.headers, scope).await?;
    if let Some(media) = route.takes.media_type() {
        body::expect_type(&parts.headers, media)?;
    }
    let large = match route.takes.is_large() {
        // The caller's own turn first: whoever waits for that one holds up nobody else.
        true => Some([turn(&own_large).await?, turn(&backend.large).await?]),
        false => None,
    };
    let text = match route.takes {
        Takes::Json { most, within, .. } => body::whole(&parts.headers, source, most, within).await?,
        Takes::Csv | Takes::Nothing | Takes::File => String::new(),
    };
    let body = Arc::clone(source);
    let caller = Caller { bearer, traceparent: traceparent(&parts.headers) };
    let call = Call { caller, scope, path, uri: parts.uri, headers: parts.headers, text, body, large };
    handle(Arc::clone(backend), call).await
}

/// For a request beside its body.
const TIMEOUT: Duration = Duration::from_secs(20);

/// The same for files and reports.
const LONG: Duration = Duration::from_secs(10 * 60);

/// The trace that the caller is in, for the jobs that it asks for. More than one is none, as W3C has it.
fn traceparent(headers: &HeaderMap) -> Option<String> {
    let mut sent = headers.get_all("traceparent").iter();
    let only = sent.next().filter(|_| sent.next().is_none())?;
    only.to_str().ok().map(|text| text.trim().to_owned()).filter(|text| text.len() <= 512)
}
