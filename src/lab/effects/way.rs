//! The way to a partner, on which one thing at a time goes wrong.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    extract::{Request, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use futures::stream;
use reqwest::Url;

/// Of what goes either way.
const MAX_BYTES: usize = 1024 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    None,
    /// It arrives, and its answer does not come back.
    Lost,
    /// It never arrives.
    Swallowed,
    /// It arrives, and somebody on the way answers. What is throttled does not arrive.
    Status(u16),
    /// It arrives, and its answer does not come in time.
    Late,
    Large,
    Redirect,
}

pub struct Way {
    address: String,
    fault: Arc<Mutex<Fault>>,
}

#[derive(Clone)]
struct Bridge {
    to: Url,
    client: reqwest::Client,
    fault: Arc<Mutex<Fault>>,
}

impl Way {
    pub async fn to(partner: &Url) -> anyhow::Result<Way> {
        crate::partners::http::install_tls();
        let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy().build()?;
        let fault = Arc::new(Mutex::new(Fault::None));
        let bridge = Bridge { to: partner.clone(), client, fault: Arc::clone(&fault) };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let routes = Router::new().fallback(cross).with_state(bridge);
        // It ends with the process, which does nothing else.
        tokio::spawn(async move { axum::serve(listener, routes).await });
        Ok(Way { address, fault })
    }

    pub fn address(&self) -> String {
        self.address.clone()
    }

    /// What goes wrong from here on.
    pub fn next(&self, fault: Fault) {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
    }
}

async fn cross(State(bridge): State<Bridge>, request: Request) -> Response {
    let fault = *bridge.fault.lock().unwrap_or_else(PoisonError::into_inner);
    if fault == Fault::Swallowed {
        return cut();
    }
    if fault == Fault::Status(429) {
        return StatusCode::TOO_MANY_REQUESTS.into_response();
    }
    let Some(answer) = bridge.ask(request).await else { return StatusCode::BAD_GATEWAY.into_response() };
    match fault {
        Fault::None | Fault::Swallowed => answer,
        Fault::Lost => cut(),
        Fault::Status(status) => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
            (status, "<html>an error on the way</html>").into_response()
        }
        // Until the other side hangs up.
        Fault::Late => std::future::pending().await,
        Fault::Large => vec![b' '; 300 * 1024].into_response(),
        Fault::Redirect => {
            (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, "http://127.0.0.1:1/")]).into_response()
        }
    }
}

/// An answer that ends early.
fn cut() -> Response {
    let broken = stream::iter([Ok(Bytes::from_static(b"{")), Err(io::Error::other("cut"))]);
    Body::from_stream(broken).into_response()
}

impl Bridge {
    async fn ask(&self, request: Request) -> Option<Response> {
        let (parts, body) = request.into_parts();
        let mut url = self.to.clone();
        url.set_path(parts.uri.path());
        url.set_query(parts.uri.query());
        let mut headers = parts.headers;
        headers.remove(header::HOST);
        headers.remove(header::CONTENT_LENGTH);
        let body = to_bytes(body, MAX_BYTES).await.ok()?;
        let answer = self.client.request(parts.method, url).headers(headers).body(body).send().await.ok()?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        let body = answer.bytes().await.ok()?;
        let mut response = (status, body).into_response();
        for name in [header::CONTENT_TYPE, header::RETRY_AFTER] {
            if let Some(value) = headers.get(&name) {
                response.headers_mut().insert(name, value.clone());
            }
        }
        Some(response)
    }
}
