//! Somebody who takes events, or refuses the first few.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::watch;

pub struct Subscriber {
    pub url: String,
    taken: Arc<Taken>,
}

struct Taken {
    refuse: Mutex<u32>,
    events: watch::Sender<Vec<(HeaderMap, String)>>,
}

impl Subscriber {
    pub async fn start(refuse: u32) -> Subscriber {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/events", listener.local_addr().unwrap());
        let taken = Arc::new(Taken { refuse: Mutex::new(refuse), events: watch::Sender::default() });
        let router = Router::new().route("/events", post(take)).with_state(Arc::clone(&taken));
        tokio::spawn(axum::serve(listener, router).into_future());
        Subscriber { url, taken }
    }

    /// The first `count` events, once there are so many.
    pub async fn events(&self, count: usize) -> Vec<(HeaderMap, Value)> {
        let mut events = self.taken.events.subscribe();
        let wait = events.wait_for(|events| events.len() >= count);
        let events = tokio::time::timeout(Duration::from_secs(10), wait).await.expect("they never came").unwrap();
        events.iter().map(|(headers, body)| (headers.clone(), serde_json::from_str(body).unwrap())).collect()
    }

    pub fn bodies(&self) -> Vec<(HeaderMap, String)> {
        self.taken.events.borrow().clone()
    }
}

async fn take(State(taken): State<Arc<Taken>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let mut refuse = taken.refuse.lock().unwrap();
    if *refuse > 0 {
        *refuse -= 1;
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    let body = String::from_utf8(body.to_vec()).unwrap();
    taken.events.send_modify(|events| events.push((headers, body)));
    StatusCode::OK
}
