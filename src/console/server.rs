//! `noshi console run`: the listener, the routes, and what they share.

use std::{future::Future, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use axum::{
    Router,
    extract::{DefaultBodyLimit, Path, Request},
    http::{Method, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use tokio::{net::TcpListener, sync::Semaphore};

use super::{
    acts, batch_acts, batches, guard, job, jobs, lanes, layout, overview, records, runbook,
    session::{self, Failures},
    visit::Trouble,
};
use crate::{
    api::{self, refusal::Refusal},
    db::{self, PgPool, Role},
    operator::readings::ask::Ears,
    settings::Settings,
    telemetry::health::Probes,
};

/// Of everybody who looks, together: people wait for each other before the fleet waits for them.
const CONNECTIONS: u32 = 4;
/// Connections of acts, each for one.
const MAX_ACTS: usize = 4;
const MAX_BYTES: usize = 64 * 1024;
const TIMEOUT: Duration = Duration::from_secs(15);
/// For an act on a batch: before an approval a worker reads the whole file again.
const FOR_A_FILE: Duration = Duration::from_secs(600);

/// What all pages share.
pub struct Console {
    pub pool: PgPool,
    pub url: String,
    pub origin: String,
    pub host: String,
    pub zone: chrono_tz::Tz,
    pub failures: Failures,
    pub acts: Semaphore,
    /// Hears what workers answer.
    pub ears: Ears,
}

/// A console that listens.
pub struct Server {
    listener: TcpListener,
    app: Router,
    probes: Probes,
}

impl Server {
    pub async fn open(settings: &Settings, database_url: &str) -> anyhow::Result<Server> {
        let listen = settings.console.listen;
        let listener = TcpListener::bind(listen)
            .await
            .with_context(|| format!("cannot listen on {listen}; is another process there, or the port below 1024?"))?;
        Server::on(settings, database_url, listener).await
    }

    /// The same where somebody listens already.
    pub async fn on(settings: &Settings, database_url: &str, listener: TcpListener) -> anyhow::Result<Server> {
        let host = settings.console.host()?.to_owned();
        let zone = settings.console.zone()?;
        let may = db::may_act_as(database_url, "noshi_api").await?;
        ensure!(may, "this login is no member of noshi_api, whose rights the console has");
        let sealer = settings.seals().then(|| settings.sealer()).transpose()?;
        let pool = db::connect(database_url, Role::Api, CONNECTIONS).await?;
        let probes = Probes::watch(pool.clone(), || Ok(()));
        let console = Console {
            pool,
            url: database_url.to_owned(),
            origin: settings.console.origin.clone(),
            host,
            zone,
            failures: Failures::default(),
            acts: Semaphore::new(MAX_ACTS),
            ears: Ears::open(database_url.to_owned(), sealer),
        };
        let app = routes(Arc::new(console), &probes);
        Ok(Server { listener, app, probes })
    }

    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    pub async fn serve_until(self, stop: impl Future<Output = ()>) {
        let (app, probes) = (self.app, self.probes);
        let stop = async move {
            stop.await;
            probes.stop();
        };
        api::server::serve(self.listener, move || app.clone(), stop).await;
    }
}

fn routes(console: Arc<Console>, probes: &Probes) -> Router {
    Router::new()
        .route("/", get(overview::show))
        .route("/jobs", get(jobs::list))
        .route("/jobs/{kind}/{id}", get(job::show))
        .route("/jobs/{kind}/{id}/acts", post(acts::on_job))
        .route("/find", get(jobs::find))
        .route("/doubt", get(jobs::doubt))
        .route("/lanes", get(lanes::list))
        .route("/lanes/acts", post(acts::on_lane))
        .route("/batches", get(batches::list))
        .route("/batches/{number}", get(batches::show))
        .route("/batches/{number}/acts", post(batch_acts::on_batch))
        .route("/proposals", get(records::proposals))
        .route("/proposals/{number}/acts", post(acts::on_proposal))
        .route("/schedules", get(records::schedules))
        .route("/workers", get(records::workers))
        .route("/audit", get(records::audit))
        .route("/runbook/{code}", get(runbook::show))
        .route("/sign-in", get(session::form).post(session::sign_in))
        .route("/sign-out", post(session::sign_out))
        .route("/language", post(session::choose_language))
        .route("/assets/{name}", get(asset))
        // Browsers ask for it by themselves.
        .route("/favicon.ico", get(async || StatusCode::NO_CONTENT))
        .fallback(async || Trouble(Refusal::not_found("There is no such page here.")))
        .method_not_allowed_fallback(async || {
            Trouble(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "This page is only looked at."))
        })
        .with_state(Arc::clone(&console))
        .merge(probes.routes())
        .layer(DefaultBodyLimit::max(MAX_BYTES))
        .layer(middleware::from_fn(in_time))
        .layer(middleware::from_fn_with_state(console, guard::guard))
}

async fn in_time(request: Request, next: Next) -> Response {
    let most = if request.uri().path().starts_with("/batches/") && request.method() == Method::POST {
        FOR_A_FILE
    } else {
        TIMEOUT
    };
    match tokio::time::timeout(most, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Trouble(Refusal::unavailable("No answer was found in time. Look again before you repeat an act."))
            .into_response(),
    }
}

async fn asset(Path(name): Path<String>) -> Response {
    let path = format!("/assets/{name}");
    match layout::ASSETS.iter().find(|asset| asset.path == path) {
        Some(asset) => {
            let headers =
                [(header::CONTENT_TYPE, asset.media), (header::CACHE_CONTROL, "public, max-age=31536000, immutable")];
            (headers, asset.text).into_response()
        }
        None => StatusCode::NOT_FOUND.into_response(),
    }
}
