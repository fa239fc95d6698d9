//! The interface for producers and operators: everything below `/v1` but the events. ops/http.md tells callers of it.
//!
//! Each request is checked in the same order: whether its token is one at all, room, token, pace, scope, media type, size, time; only then
//! is its body built into anything. What it does in the database it does by its token, which the database checks again.

pub mod batches;
pub mod body;
pub mod gifts;
pub mod jobs;
pub mod openapi;
pub mod points;
pub mod proposals;
pub mod refusal;
pub mod routes;
pub mod schedules;
pub mod tokens;

use std::{ops::Deref, sync::Arc, time::Duration};

use crate::store::{PgPool, Transaction};
use axum::{
    Json, Router,
    extract::{RawPathParams, Request, rejection::RawPathParamsRejection},
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header, request::Parts},
    response::{IntoResponse, Response},
    routing::on,
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    sync::{Mutex, OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use self::{
    refusal::Refusal,
    routes::{ROUTES, Route, Takes},
    tokens::{Admitted, Tokens},
};
use crate::{
    clients::Offers,
    reading::ask::{By, Ears},
    settings::Settings,
    store::{self, Role, tokens::Caller},
    vault::Sealer,
};

const CONNECTIONS: u32 = 8;
/// Requests in hand at once. Each holds 256 KiB at most.
pub const MOST_REQUESTS: usize = 128;
/// Of them those with much in hand: many jobs, files, reports. Together they stay below 256 MiB.
pub const MOST_LARGE: usize = 2;
/// Connections of one request's own, beside the shared ones: what takes several transactions.
const MOST_OWN: usize = 8;
/// How long a request waits for its turn at what is scarce.
const TURN: Duration = Duration::from_secs(3);
/// For a request beside its body.
const TIMEOUT: Duration = Duration::from_secs(20);
/// The same for files and reports.
const LONG: Duration = Duration::from_secs(10 * 60);

/// What the interface works with.
pub struct Desk {
    pool: PgPool,
    url: String,
    sealer: Option<Sealer>,
    /// What files may ask for.
    offers: Offers,
    /// Hears what workers answer.
    ears: Ears,
    tokens: Tokens,
    requests: Semaphore,
    large: Arc<Semaphore>,
    own: Arc<Semaphore>,
}

/// A connection of a request's own, and its place among them.
struct Own {
    pool: PgPool,
    _place: OwnedSemaphorePermit,
}

impl Deref for Own {
    type Target = PgPool;

    fn deref(&self) -> &PgPool {
        &self.pool
    }
}

/// A place, once there is one; overloaded where none comes free in time.
async fn turn(places: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, Refusal> {
    let place = timeout(TURN, Arc::clone(places).acquire_owned()).await;
    place.ok().and_then(Result::ok).ok_or_else(Refusal::overloaded)
}

impl Desk {
    pub async fn open(settings: &Settings, database_url: &str) -> anyhow::Result<Desk> {
        Ok(Desk {
            pool: store::connect(database_url, Role::Api, CONNECTIONS).await?,
            url: database_url.to_owned(),
            sealer: settings.seals().then(|| settings.sealer()).transpose()?,
            offers: settings.offers()?,
            ears: Ears::open(database_url.to_owned()),
            tokens: Tokens::default(),
            requests: Semaphore::new(MOST_REQUESTS),
            large: Arc::new(Semaphore::new(MOST_LARGE)),
            own: Arc::new(Semaphore::new(MOST_OWN)),
        })
    }

    pub(super) fn pool(&self) -> PgPool {
        self.pool.clone()
    }

    /// A transaction that is done by the caller's token, which must have the scope.
    async fn begin(&self, call: &Call) -> Result<Transaction, Refusal> {
        Ok(store::tokens::begin(&self.pool, &call.caller, call.scope).await?)
    }

    /// The same for what a worker is asked for.
    fn by<'a>(&'a self, call: &'a Call) -> By<'a> {
        By::Token { pool: &self.pool, caller: &call.caller, scope: call.scope }
    }

    /// The same as a pool of one connection, for what takes several transactions.
    async fn pool_of(&self, call: &Call) -> Result<Own, Refusal> {
        self.begin(call).await?.rollback().await?;
        let place = turn(&self.own).await?;
        Ok(Own { pool: store::connect_by(&self.url, &call.caller).await?, _place: place })
    }

    /// `what` it is that could not be taken without.
    fn sealer(&self, what: &str) -> Result<&Sealer, Refusal> {
        self.sealer.as_ref().ok_or_else(|| {
            Refusal::unavailable(format!(
                "This process has no public key file (vault_public_key_file), so it can take {what}."
            ))
        })
    }
}

/// A request that was let in.
pub struct Call {
    caller: Caller,
    scope: &'static str,
    path: Vec<(String, String)>,
    uri: Uri,
    headers: HeaderMap,
    /// The body, where the route takes JSON.
    text: String,
    /// The body, where the route reads it itself.
    body: body::Source,
    /// Room for a large request: the caller's own, then everybody's. Given back with the answer.
    large: Option<[OwnedSemaphorePermit; 2]>,
}

impl Call {
    /// A part of the path. Names are never empty and hold no control characters.
    fn part(&self, name: &str) -> Result<&str, Refusal> {
        let part = self.path.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        part.filter(|part| !part.contains(char::is_control))
            .ok_or_else(|| Refusal::not_found("There is nothing of that name."))
    }

    fn number(&self, name: &str) -> Result<i64, Refusal> {
        let part = self.part(name)?;
        part.parse().map_err(|_| Refusal::not_found(format!("There is no {name} of that number.")))
    }

    fn query<T: DeserializeOwned>(&self) -> Result<T, Refusal> {
        axum::extract::Query::try_from_uri(&self.uri).map(|axum::extract::Query(query)| query).map_err(|error| {
            let said = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
            // A field that is not known stands in backquotes; one whose value is wrong comes first.
            let field = match said.strip_prefix("unknown field `").and_then(|rest| rest.split('`').next()) {
                Some(unknown) => unknown.to_owned(),
                None => said.split(':').next().unwrap_or_default().to_owned(),
            };
            Refusal::field(&field, format!("The query cannot be read: {said}."))
        })
    }
}

fn answer(status: StatusCode, value: &impl Serialize) -> Response {
    (status, Json(value)).into_response()
}

/// The trace that the caller is in, for the jobs that it asks for. More than one is none, as W3C has it.
fn traceparent(headers: &HeaderMap) -> Option<String> {
    let mut sent = headers.get_all("traceparent").iter();
    let only = sent.next().filter(|_| sent.next().is_none())?;
    only.to_str().ok().map(|text| text.trim().to_owned()).filter(|text| text.len() <= 512)
}

/// The interface as routes.
pub fn open(desk: Desk) -> Router {
    let desk = Arc::new(desk);
    ROUTES.iter().fold(Router::new(), |router, route| {
        let desk = Arc::clone(&desk);
        let handler = move |path: Result<RawPathParams, RawPathParamsRejection>, request: Request| {
            let desk = Arc::clone(&desk);
            // What does not decode to text names nothing.
            let path = path.iter().flatten().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
            serve(desk, route, path, request)
        };
        router.route(route.path, on(route.method.filter(), handler))
    })
}

async fn serve(desk: Arc<Desk>, route: &'static Route, path: Vec<(String, String)>, request: Request) -> Response {
    let time = if route.takes.is_large() { LONG } else { TIMEOUT };
    let (parts, body) = request.into_parts();
    let waits = parts.headers.contains_key(header::EXPECT);
    let source: body::Source = Arc::new(Mutex::new(body.into_data_stream()));
    let answered = timeout(time, let_in(&desk, route, path, parts, &source)).await.unwrap_or_else(|_| {
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
    desk: &Arc<Desk>,
    route: &'static Route,
    path: Vec<(String, String)>,
    parts: Parts,
    source: &body::Source,
) -> Result<Response, Refusal> {
    let Some(scope) = route.scope else { return Ok(openapi::answer()) };
    desk.tokens.turn_away_strangers(&desk.pool, &parts.headers).await?;
    let _place = desk.requests.try_acquire().map_err(|_| Refusal::overloaded())?;
    let Admitted { bearer, room: _room, large: own_large } =
        desk.tokens.admit(&desk.pool, &parts.headers, scope).await?;
    if let Some(media) = route.takes.media_type() {
        body::expect_type(&parts.headers, media)?;
    }
    let large = match route.takes.is_large() {
        // The caller's own turn first: whoever waits for that one holds up nobody else.
        true => Some([turn(&own_large).await?, turn(&desk.large).await?]),
        false => None,
    };
    let text = match route.takes {
        Takes::Json { most, within, .. } => body::whole(&parts.headers, source, most, within).await?,
        Takes::Csv | Takes::Nothing | Takes::File => String::new(),
    };
    let body = Arc::clone(source);
    let caller = Caller { bearer, traceparent: traceparent(&parts.headers) };
    let call = Call { caller, scope, path, uri: parts.uri, headers: parts.headers, text, body, large };
    (route.handle)(Arc::clone(desk), call).await
}
