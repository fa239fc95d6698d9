//! The HTTP server, which `noshi api run` serves: what other systems tell us, and what producers and operators ask.
//!
//! An endpoint for events is one file below `src/api` and one line in `ENDPOINTS`; it is there if the settings name its sender.
//! Nothing is answered 200 before it is committed: every sender of events sends again what was not answered so.

use std::{
    future::Future,
    net::SocketAddr,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use anyhow::{Context, ensure};
use axum::{
    Router,
    extract::{DefaultBodyLimit, Request},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tokio::{net::TcpListener, sync::Semaphore};
use tower::ServiceExt;

use crate::{
    api::{
        answer::Refused,
        backend::Backend,
        router,
        strict::Strict,
        webhooks::{organization, ses},
    },
    db::{self, PgPool, Role},
    settings::Settings,
    telemetry::health::Probes,
};

/// No event of a sender is larger.
const MAX_BYTES: usize = 256 * 1024;
/// For a whole event, its body included.
const TIMEOUT: Duration = Duration::from_secs(10);
/// For a request's head, from the connection's first byte or the end of the request before it.
const HEAD_TIME: Duration = Duration::from_secs(10);
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// More connections than this wait until others are done.
const MAX_OPEN: usize = 1024;
/// How long a graceful stop waits for requests in flight. An event that is not answered is sent again.
const GRACE: Duration = Duration::from_secs(10);
const CONNECTIONS: u32 = 8;

/// The routes of one sender; `None` where the settings do not name it.
type Open = fn(&Settings, &PgPool) -> anyhow::Result<Option<Router>>;

const ENDPOINTS: [Open; 2] = [organization::open, ses::open];

/// An API server that listens.
pub struct Server {
    listener: TcpListener,
    app: Current,
    probes: Probes,
    unready: Duration,
}

/// The routes with the secrets that were read last. A request that is in flight ends with those it began with.
#[derive(Clone)]
pub struct Current {
    app: Arc<RwLock<Router>>,
    probes: Probes,
}

impl Current {
    fn now(&self) -> Router {
        self.app.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From the next request on. Where it fails, everything stays as it was.
    pub async fn read_again(&self, settings: &Settings, database_url: &str) -> anyhow::Result<()> {
        let (app, _) = routers(settings, database_url).await?;
        *self.app.write().unwrap_or_else(PoisonError::into_inner) = app.merge(self.probes.routes());
        Ok(())
    }
}

impl Server {
    pub async fn open(settings: &Settings, database_url: &str) -> anyhow::Result<Server> {
        let listen = settings.api.listen;
        let listener = TcpListener::bind(listen)
            .await
            .with_context(|| format!("cannot listen on {listen}; is another process there, or the port below 1024?"))?;
        Server::on(settings, database_url, listener).await
    }

    /// The same where somebody listens already.
    pub async fn on(settings: &Settings, database_url: &str, listener: TcpListener) -> anyhow::Result<Server> {
        let (app, looks) = routers(settings, database_url).await?;
        let probes = Probes::watch(looks, || Ok(()));
        let app = Arc::new(RwLock::new(app.merge(probes.routes())));
        let app = Current { app, probes: probes.clone() };
        Ok(Server { listener, app, probes, unready: settings.api.unready() })
    }

    /// Takes other secrets for the requests to come.
    pub fn renew(&self) -> Current {
        self.app.clone()
    }

    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers until `stop`, then for a while longer while it says that it is not ready, and then what is in flight.
    pub async fn serve_until(self, stop: impl Future<Output = ()> + Send + 'static) -> anyhow::Result<()> {
        let (probes, unready) = (self.probes.clone(), self.unready);
        let stop = async move {
            stop.await;
            // Whoever spreads requests over several API servers needs a moment to notice.
            probes.stop();
            tracing::info!(?unready, "not ready any more");
            tokio::time::sleep(unready).await;
        };
        let app = self.app;
        serve(self.listener, move || app.now(), stop).await;
        Ok(())
    }
}

/// Answers what comes to this listener until `stop`, and then what is in flight.
pub async fn serve(
    listener: TcpListener,
    app: impl Fn() -> Router + Clone + Send + Sync + 'static,
    stop: impl Future<Output = ()>,
) {
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME).max_buf_size(MAX_HEAD_BYTES);
    let (graceful, room) = (GracefulShutdown::new(), Arc::new(Semaphore::new(MAX_OPEN)));
    let mut stop = std::pin::pin!(stop);
    loop {
        let accepted = async {
            let place = Arc::clone(&room).acquire_owned().await;
            (listener.accept().await, place)
        };
        let (accepted, place) = tokio::select! {
            accepted = accepted => accepted,
            () = &mut stop => break,
        };
        let Ok((stream, peer)) = accepted else {
            // Out of file descriptors, most likely: those in use come back.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        let app = app.clone();
        let service = TowerToHyperService::new(tower::service_fn(move |mut request: hyper::Request<Incoming>| {
            let app = app();
            request.extensions_mut().insert(Peer(peer));
            async move {
                match names_one_host(&request) {
                    true => app.oneshot(request.map(axum::body::Body::new)).await,
                    false => Ok(Refused::new(400, "A request names its host, once.").into_response()),
                }
            }
        }));
        let connection = graceful.watch(http.serve_connection(TokioIo::new(Strict::new(stream)), service));
        tokio::spawn(async move {
            // A caller that goes away is no error of ours.
            let _ = connection.await;
            drop(place);
        });
    }
    drop(listener);
    // Who is not done by then sends it again.
    let _ = tokio::time::timeout(GRACE, graceful.shutdown()).await;
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub SocketAddr);

/// Whoever stands before us may route by another host than we see. HTTP/1.0 knew of none.
fn names_one_host<B>(request: &hyper::Request<B>) -> bool {
    let least = usize::from(request.version() > hyper::Version::HTTP_10);
    (least..=1).contains(&request.headers().get_all(hyper::header::HOST).iter().count())
}

/// The routes that this login may serve, and a pool to look at.
async fn routers(settings: &Settings, database_url: &str) -> anyhow::Result<(Router, PgPool)> {
    settings.check_vault()?;
    if settings.vault_key_file.is_some() {
        tracing::warn!(
            "this process opens nothing, and its settings name the vault's secret key: name `vault_public_key_file` alone, and keep that key on workers' hosts"
        );
    }
    let takes_events = db::may_act_as(database_url, "noshi_webhook").await?;
    let takes_requests = db::may_act_as(database_url, "noshi_api").await?;
    ensure!(
        takes_events || takes_requests,
        "this login is a member of neither noshi_webhook, which takes events, nor noshi_api, which serves requests"
    );
    let mut events = Router::new();
    let mut looks = None;
    if takes_events {
        let pool = db::connect(database_url, Role::Webhook, CONNECTIONS).await?;
        looks = Some(pool.clone());
        for open in ENDPOINTS {
            if let Some(routes) = open(settings, &pool)? {
                events = events.merge(routes);
            }
        }
    }
    let requests = match takes_requests {
        true => {
            let backend = Backend::open(settings, database_url).await?;
            looks = Some(backend.pool());
            router::open(backend)
        }
        false => Router::new(),
    };
    let looks = looks.context("an API server without a pool")?;
    Ok((hardened(events, requests), looks))
}

fn hardened(events: Router, requests: Router) -> Router {
    events
        .layer(DefaultBodyLimit::max(MAX_BYTES))
        .layer(middleware::from_fn(in_time))
        .merge(requests)
        .fallback(async || Refused::new(404, "There is no such address here; see /openapi.json."))
        .method_not_allowed_fallback(async || Refused::new(405, "This address takes another method."))
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
    use crate::api::answer::Received;

    async fn answer(request: Request) -> (u16, serde_json::Value) {
        let events = Router::new().route("/v1/events/x", post(async |Received(_): Received| "kept"));
        let app = hardened(events, Router::new());
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
        assert_eq!(answer(request("POST", "/v1/events/x", MAX_BYTES)).await.0, 200);
        for (method, path, bytes, status) in [
            ("POST", "/v1/events/y", 1, 404),
            ("GET", "/v1/events/x", 0, 405),
            ("POST", "/v1/events/x", MAX_BYTES + 1, 413),
        ] {
            let (answered, problem) = answer(request(method, path, bytes)).await;
            assert_eq!((answered, problem["status"].as_u64()), (status, Some(status.into())));
            assert!(problem["title"].is_string() && problem["detail"].is_string());
        }
    }
}
