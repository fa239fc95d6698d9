//! The partner as a server of this machine, with a ledger of what it did.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex},
};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    routing::{get, post, put},
};
use serde_json::{Value, json};

/// What the partner has done, by request.
#[derive(Default)]
pub struct Ledger {
    pub effects: HashMap<String, usize>,
    pub reserved: HashSet<String>,
    lost: HashSet<String>,
}

pub type Stub = Arc<Mutex<Ledger>>;

async fn reserve(State(stub): State<Stub>, Path(request): Path<String>) -> StatusCode {
    stub.lock().unwrap().reserved.insert(request);
    StatusCode::OK
}

async fn release(State(stub): State<Stub>, Path(request): Path<String>) -> StatusCode {
    stub.lock().unwrap().reserved.remove(&request);
    StatusCode::NO_CONTENT
}

/// Of a request that begins with `lost`, the first answer is lost after its effect; one that begins with `refused` is refused.
async fn effect(State(stub): State<Stub>, Json(asked): Json<Value>) -> (StatusCode, Json<Value>) {
    let mut stub = stub.lock().unwrap();
    let request = asked["request"].as_str().unwrap().to_owned();
    if request.starts_with("refused") {
        return (StatusCode::UNPROCESSABLE_ENTITY, Json(json!({})));
    }
    *stub.effects.entry(request.clone()).or_default() += 1;
    if request.starts_with("lost") && stub.lost.insert(request.clone()) {
        return (StatusCode::BAD_GATEWAY, Json(json!({})));
    }
    (StatusCode::CREATED, Json(json!({"receipt": format!("r-{request}")})))
}

async fn inquire(State(stub): State<Stub>, Path(request): Path<String>) -> (StatusCode, Json<Value>) {
    match stub.lock().unwrap().effects.contains_key(&request) {
        true => (StatusCode::OK, Json(json!({"receipt": format!("r-{request}")}))),
        false => (StatusCode::NOT_FOUND, Json(json!({}))),
    }
}

pub fn routes(stub: &Stub) -> Router {
    Router::new()
        .route("/reservations/{request}", put(reserve).delete(release))
        .route("/effects", post(effect))
        .route("/effects/{request}", get(inquire))
        .with_state(Arc::clone(stub))
}
