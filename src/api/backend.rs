//! What the interface works with, and a call that was let in. What it does in the database it does by its token, which the database checks
//! again.

use std::{ops::Deref, sync::Arc};

use axum::{
    Json,
    http::{HeaderMap, StatusCode, Uri},
    response::{IntoResponse, Response},
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use crate::{
    api::{
        body,
        refusal::Refusal,
        tokens::{TURN, Tokens},
    },
    db::{self, PgPool, Role, Transaction, operator::tokens::Caller},
    operator::readings::ask::{By, Ears},
    partners::gifts::Offers,
    settings::Settings,
    vault::Sealer,
};

const CONNECTIONS: u32 = 8;
/// Requests in flight at once. Each holds 256 KiB at most.
pub const MAX_REQUESTS: usize = 128;
/// Of them those with much in flight: many jobs, files, reports. Together they stay below 256 MiB.
pub const MAX_LARGE: usize = 2;
/// Connections of one request's own, beside the shared ones: what takes several transactions.
const MAX_OWN: usize = 8;

/// What the interface works with.
pub struct Backend {
    pub(super) pool: PgPool,
    url: String,
    sealer: Option<Sealer>,
    /// What files may ask for.
    pub(super) offers: Offers,
    /// Hears what workers answer.
    pub(super) ears: Ears,
    pub(super) tokens: Tokens,
    pub(super) requests: Semaphore,
    pub(super) large: Arc<Semaphore>,
    own: Arc<Semaphore>,
}

/// A connection of a request's own, and its place among them.
pub(super) struct Own {
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
pub(super) async fn turn(places: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, Refusal> {
    let place = timeout(TURN, Arc::clone(places).acquire_owned()).await;
    place.ok().and_then(Result::ok).ok_or_else(Refusal::overloaded)
}

impl Backend {
    pub async fn open(settings: &Settings, database_url: &str) -> anyhow::Result<Backend> {
        let sealer = settings.seals().then(|| settings.sealer()).transpose()?;
        Ok(Backend {
            pool: db::connect(database_url, Role::Api, CONNECTIONS).await?,
            url: database_url.to_owned(),
            offers: settings.offers()?,
            ears: Ears::open(database_url.to_owned(), sealer.clone()),
            sealer,
            tokens: Tokens::default(),
            requests: Semaphore::new(MAX_REQUESTS),
            large: Arc::new(Semaphore::new(MAX_LARGE)),
            own: Arc::new(Semaphore::new(MAX_OWN)),
        })
    }

    pub(crate) fn pool(&self) -> PgPool {
        self.pool.clone()
    }

    /// A transaction that is done by the caller's token, which must have the scope.
    pub(super) async fn begin(&self, call: &Call) -> Result<Transaction, Refusal> {
        Ok(db::operator::tokens::begin(&self.pool, &call.caller, call.scope).await?)
    }

    /// The same for what a worker is asked for.
    pub(super) fn by<'a>(&'a self, call: &'a Call) -> By<'a> {
        By::Token { pool: &self.pool, caller: &call.caller, scope: call.scope }
    }

    /// The same as a pool of one connection, for what takes several transactions.
    pub(super) async fn pool_of(&self, call: &Call) -> Result<Own, Refusal> {
        self.begin(call).await?.rollback().await?;
        let place = turn(&self.own).await?;
        Ok(Own { pool: db::connect_by(&self.url, &call.caller).await?, _place: place })
    }

    /// `what` it is that could not be taken without.
    pub(super) fn sealer(&self, what: &str) -> Result<&Sealer, Refusal> {
        self.sealer.as_ref().ok_or_else(|| {
            Refusal::unavailable(format!(
                "This process has no public key file (vault_public_key_file), so it can take {what}."
            ))
        })
    }
}

/// A request that was let in.
pub struct Call {
    pub(super) caller: Caller,
    pub(super) scope: &'static str,
    pub(super) path: Vec<(String, String)>,
    pub(super) uri: Uri,
    pub(super) headers: HeaderMap,
    /// The body, where the route takes JSON.
    pub(super) text: String,
    /// The body, where the route reads it itself.
    pub(super) body: body::Source,
    /// Room for a large request: the caller's own, then everybody's. Given back with the answer.
    pub(super) large: Option<[OwnedSemaphorePermit; 2]>,
}

impl Call {
    /// A part of the path. Names are never empty and hold no control characters.
    pub(super) fn part(&self, name: &str) -> Result<&str, Refusal> {
        let part = self.path.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        part.filter(|part| !part.contains(char::is_control))
            .ok_or_else(|| Refusal::not_found("There is nothing of that name."))
    }

    pub(super) fn number(&self, name: &str) -> Result<i64, Refusal> {
        let part = self.part(name)?;
        part.parse().map_err(|_| Refusal::not_found(format!("There is no {name} of that number.")))
    }

    pub(super) fn query<T: DeserializeOwned>(&self) -> Result<T, Refusal> {
        axum::extract::Query::try_from_uri(&self.uri).map(|axum::extract::Query(query)| query).map_err(|error| {
            let said = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
            Refusal::field(&garbled(&said), format!("The query cannot be read: {said}."))
        })
    }
}

/// Which field of a query is wrong, by what is said of it.
fn garbled(said: &str) -> String {
    let named =
        ["unknown field `", "duplicate field `", "missing field `"].iter().find_map(|what| said.split_once(what));
    match named.and_then(|(_, rest)| rest.split('`').next()) {
        Some(field) => field.to_owned(),
        // One whose value is wrong comes first; else it is the query as a whole.
        None => said.split_once(": ").map_or_else(String::new, |(field, _)| field.to_owned()),
    }
}

pub(super) fn answer(status: StatusCode, value: &impl Serialize) -> Response {
    (status, Json(value)).into_response()
}

#[cfg(test)]
mod tests {
    use super::garbled;

    #[test]
    fn a_garbled_query_names_its_field() {
        for (said, field) in [
            ("unknown field `colour`, expected one of `kind`, `status`", "colour"),
            ("duplicate field `kind`", "kind"),
            ("missing field `file`", "file"),
            ("limit: invalid digit found in string", "limit"),
            ("invalid digit found in string", ""),
        ] {
            assert_eq!(garbled(said), field, "{said}");
        }
    }
}
