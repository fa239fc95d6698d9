//! One request of somebody who is signed in.

use std::sync::Arc;

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};

use super::{
    layout,
    server::Console,
    session,
    words::{Language, Words},
};
use crate::{
    api::refusal::Refusal,
    db::{
        self, ActError, PgPool,
        operator::tokens::{self, Bearer, Caller, Session},
    },
};

/// Of a page that asks again by itself.
const LIVE: &str = "x-noshi-live";

pub struct Visit {
    pub console: Arc<Console>,
    pub session: Session,
    pub bearer: Bearer,
    pub language: Language,
    pub words: &'static Words,
    pub zone: chrono_tz::Tz,
    /// With its query.
    pub address: String,
    /// What the browser has already.
    pub has: Option<String>,
}

impl Visit {
    pub fn may(&self, scope: &str) -> bool {
        self.session.scopes.iter().any(|has| has == scope)
    }

    pub fn pool(&self) -> &PgPool {
        &self.console.pool
    }

    /// Whether whoever is there has shown a token of late.
    pub fn is_fresh(&self) -> bool {
        chrono::Utc::now() - self.session.begun_at < chrono::TimeDelta::minutes(15)
    }

    /// A connection whose every transaction is done by this session: what the database judges, it judges by that.
    pub async fn own_pool(&self) -> Result<PgPool, Trouble> {
        let caller = Caller { bearer: self.bearer.clone(), traceparent: None };
        db::connect_by(&self.console.url, &caller).await.map_err(|error| Trouble(error.into()))
    }
}

impl FromRequestParts<Arc<Console>> for Visit {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, console: &Arc<Console>) -> Result<Visit, Response> {
        let live = parts.headers.contains_key(LIVE);
        let address = parts.uri.path_and_query().map_or("/", |it| it.as_str()).to_owned();
        let is_read = parts.method == axum::http::Method::GET;
        let strange = || match live {
            true => StatusCode::UNAUTHORIZED.into_response(),
            false => session::to_sign_in(if is_read { &address } else { "/" }),
        };
        let Some(bearer) = session::cookie(&parts.headers, session::COOKIE).and_then(|it| Bearer::read(&it)) else {
            return Err(strange());
        };
        let found = tokens::session(&console.pool, &bearer, !live).await;
        let session = found.map_err(|error| Trouble(error.into()).into_response())?.ok_or_else(strange)?;
        let language = language(&parts.headers);
        let has = parts.headers.get(header::IF_NONE_MATCH).and_then(|it| it.to_str().ok()).map(str::to_owned);
        Ok(Visit {
            console: Arc::clone(console),
            session,
            bearer,
            language,
            words: language.words(),
            zone: console.zone,
            address,
            has,
        })
    }
}

/// A cookie overrides what the browser asks for.
pub fn language(headers: &HeaderMap) -> Language {
    let chosen = session::cookie(headers, session::LANGUAGE).and_then(|code| Language::from_code(&code));
    let accepted = headers.get(header::ACCEPT_LANGUAGE).and_then(|it| it.to_str().ok()).unwrap_or_default();
    chosen.unwrap_or_else(|| Language::accepted(accepted))
}

pub type Answer = Result<Response, Trouble>;

/// Why there is no page.
pub struct Trouble(pub Refusal);

impl From<Refusal> for Trouble {
    fn from(refusal: Refusal) -> Trouble {
        Trouble(refusal)
    }
}

impl From<sqlx::Error> for Trouble {
    fn from(error: sqlx::Error) -> Trouble {
        Trouble(error.into())
    }
}

impl From<ActError> for Trouble {
    fn from(error: ActError) -> Trouble {
        Trouble(error.into())
    }
}

impl IntoResponse for Trouble {
    fn into_response(self) -> Response {
        (self.0.status, layout::trouble(self.0.status, self.0.detail())).into_response()
    }
}
