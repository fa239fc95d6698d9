//! The HTTP room: what other systems tell us comes in here. `noshi api run` serves it.
//!
//! An endpoint is one file below `src/door` and one line in [`ENDPOINTS`]; it is there if the settings name its sender.
//! Nothing is answered 200 before it is committed: every sender of events sends again what was not answered so.

pub mod answer;
pub mod organization;
pub mod ses;
pub mod sns;

use std::{future::Future, net::SocketAddr, time::Duration};

use anyhow::Context;
use axum::{
    Router,
    extract::{DefaultBodyLimit, Request},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use sqlx::PgPool;
use tokio::net::TcpListener;

use self::answer::Refused;
use crate::{
    settings::Settings,
    store::{self, Role},
};

/// No event of a sender is larger.
const MOST_BYTES: usize = 256 * 1024;
/// For a whole request, its body included.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long a graceful stop waits for requests in hand. An event that is not answered is sent again.
const GRACE: Duration = Duration::from_secs(10);
const CONNECTIONS: u32 = 8;

/// The routes of one sender; `None` where the settings do not name it.
type Open = fn(&Settings, &PgPool) -> anyhow::Result<Option<Router>>;

const ENDPOINTS: [Open; 2] = [organization::open, ses::open];

/// A door that listens.
pub struct Door {
    listener: TcpListener,
    app: Router,
}

impl Door {
    pub async fn open(settings: &Settings, database_url: &str, listen: SocketAddr) -> anyhow::Result<Door> {
        let listener = TcpListener::bind(listen)
            .await
            .with_context(|| format!("cannot listen on {listen}; is another process there, or the port below 1024?"))?;
        Door::on(settings, database_url, listener).await
    }

    /// The same where somebody listens already.
    pub async fn on(settings: &Settings, database_url: &str, listener: TcpListener) -> anyhow::Result<Door> {
        let pool = store::connect(database_url, Role::Door, CONNECTIONS).await?;
        let mut app = Router::new();
        for open in ENDPOINTS {
            if let Some(routes) = open(settings, &pool)? {
                app = app.merge(routes);
            }
        }
        Ok(Door { listener, app: hardened(app) })
    }

    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers until `stop`, and then what is in hand.
    pub async fn serve_until(self, stop: impl Future<Output = ()> + Send + 'static) -> anyhow::Result<()> {
        let (stopping, stopped) = tokio::sync::oneshot::channel();
        let told = async move {
            stop.await;
            let _ = stopping.send(());
        };
        let out_of_patience = async {
            let _ = stopped.await;
            tokio::time::sleep(GRACE).await;
        };
        tokio::select! {
            served = axum::serve(self.listener, self.app).with_graceful_shutdown(told) => served.context("the door ended"),
            () = out_of_patience => Ok(()),
        }
    }
}

fn hardened(app: Router) -> Router {
    app.fallback(async || Refused::new(404, "There is no such address here; see the documentation of `noshi api run`."))
        .method_not_allowed_fallback(async || Refused::new(405, "This address takes another method."))
        .layer(DefaultBodyLimit::max(MOST_BYTES))
        .layer(middleware::from_fn(in_time))
}

async fn in_time(request: Request, next: Next) -> Response {
    match tokio::time::timeout(TIMEOUT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Refused::new(503, "No answer was found in time; send it again.").into_response(),
    }
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, routing::post};
    use tower::ServiceExt;

    use super::*;
    use crate::door::answer::Received;

    async fn answer(request: Request) -> (u16, serde_json::Value) {
        let app = hardened(Router::new().route("/v1/events/x", post(async |Received(_): Received| "kept")));
        let response = app.oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let kind = response.headers()["content-type"].to_str().unwrap().to_owned();
        let body = axum::body::to_bytes(response.into_body(), 10_000).await.unwrap();
        assert!(status == 200 || kind == "application/problem+json", "{status} {kind}");
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }

    #[tokio::test]
    async fn whatever_is_refused_is_refused_with_a_problem() {
        let request = |method: &str, path: &str, bytes: usize| {
            Request::builder().method(method).uri(path).body(Body::from(vec![b'x'; bytes])).unwrap()
        };
        assert_eq!(answer(request("POST", "/v1/events/x", MOST_BYTES)).await.0, 200);
        for (method, path, bytes, status) in [
            ("POST", "/v1/events/y", 1, 404),
            ("GET", "/v1/events/x", 0, 405),
            ("POST", "/v1/events/x", MOST_BYTES + 1, 413),
        ] {
            let (answered, problem) = answer(request(method, path, bytes)).await;
            assert_eq!((answered, problem["status"].as_u64()), (status, Some(status.into())));
            assert!(problem["title"].is_string() && problem["detail"].is_string());
        }
    }
}
