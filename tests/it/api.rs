//! The interface for producers and operators, served by a real process.

use std::{
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use futures::future::join_all;
use reqwest::{Client, RequestBuilder, Response};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sqlx::{AssertSqlSafe, postgres::PgListener};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    fleet::{self, Fleet, Process, Terms, fleet},
    processes::until,
};
use noshi::{
    api::{
        backend::{MAX_LARGE, MAX_REQUESTS},
        openapi,
        routes::{Method, ROUTES, Route, Takes},
    },
    db::{
        self, PgPool, Role,
        operator::tokens::{self, NewToken, SCOPES},
    },
};

pub struct Api {
    pub fleet: Fleet,
    pub api: Process,
    pub address: String,
    client: Client,
}

/// A new token of this owner, to do this.
pub async fn token(pool: &PgPool, owner: &str, scopes: &[&str], per_second: i32) -> SecretString {
    let token = tokens::generate();
    let scopes: Vec<String> = scopes.iter().map(|scope| (*scope).to_owned()).collect();
    let new = NewToken { owner, scopes: &scopes, lasts: Duration::from_secs(3600), per_second };
    tokens::create(pool, &token, &new).await.expect("a token");
    token
}

impl Api {
    pub async fn open() -> Api {
        Api::of(fleet(Terms::default()).await).await
    }

    /// Its login may what the interface must, and nothing else.
    pub async fn of(fleet: Fleet) -> Api {
        let host = fleet.dir.path().join("api");
        Api::on(fleet, &host).await
    }

    /// The same, with the settings of this folder.
    pub async fn on(fleet: Fleet, host: &Path) -> Api {
        let name: String = sqlx::query_scalar("select current_database()").fetch_one(&fleet.pool).await.unwrap();
        let create = format!("create role api_of_{name} login in role noshi_api");
        sqlx::raw_sql(AssertSqlSafe(create)).execute(&fleet.pool).await.expect("a login");
        let url = fleet.url.replacen("//postgres@", &format!("//api_of_{name}@"), 1);
        assert_ne!(url, fleet.url);
        let api = fleet::start_api(&url, host, "127.0.0.1:0");
        let address = fleet::address(&api, "the API listens").await;
        Api { fleet, api, address, client: Client::builder().no_proxy().build().unwrap() }
    }

    pub async fn token(&self, owner: &str, scopes: &[&str]) -> SecretString {
        token(&self.fleet.pool, owner, scopes, 10_000).await
    }

    pub fn request(&self, method: &str, path: &str, token: Option<&SecretString>) -> RequestBuilder {
        let request = self.client.request(method.parse().unwrap(), format!("http://{}{path}", self.address));
        match token {
            Some(token) => request.bearer_auth(token.expose_secret()),
            None => request,
        }
    }

    pub async fn get(&self, path: &str, token: &SecretString) -> (u16, Value) {
        told(self.request("GET", path, Some(token)).send().await.unwrap()).await
    }

    pub async fn post(&self, path: &str, token: &SecretString, body: &Value) -> (u16, Value) {
        told(self.request("POST", path, Some(token)).json(body).send().await.unwrap()).await
    }

    pub async fn upload(&self, query: &str, token: &SecretString, csv: &str) -> (u16, Value) {
        let request = self.request("POST", &format!("/v1/batches?{query}"), Some(token));
        told(request.header("content-type", "text/csv").body(csv.to_owned()).send().await.unwrap()).await
    }

    /// A request of this route that is complete: what its body lacks is a matter of 422, after everything that is tested with it.
    fn whole(&self, route: &Route, token: Option<&SecretString>) -> RequestBuilder {
        let path = route
            .path
            .replace("{kind}", "probe")
            .replace("{batch}", "4711")
            .replace("{id}", "nobody")
            .replace("{grant}", "nobody")
            .replace("{user}", "nobody");
        let request = self.request(route.method.name(), &path, token);
        match route.takes {
            Takes::Nothing | Takes::File => request,
            Takes::Csv => request.header("content-type", "text/csv").body("x\n"),
            Takes::Json { .. } => request.json(&body_of(route)),
        }
    }

    fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.api.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
    }
}

/// The status and the JSON of an answer. Every refusal is a whole problem.
async fn told(response: Response) -> (u16, Value) {
    let status = response.status().as_u16();
    let kind = response.headers().get("content-type").map(|kind| kind.to_str().unwrap().to_owned()).unwrap_or_default();
    assert_eq!(
        response.headers().contains_key("www-authenticate"),
        status == 401 || (status == 403 && has_scope(&response))
    );
    assert_eq!(response.headers().contains_key("retry-after"), status == 429 || status == 503, "{status}");
    let text = response.text().await.unwrap();
    let value: Value = serde_json::from_str(&text).unwrap_or_default();
    if status >= 400 {
        assert_eq!(kind, "application/problem+json", "{status} {text}");
        assert_eq!(value["status"], status, "{text}");
        assert!(value["title"].is_string() && value["type"] == "about:blank");
        assert!(
            value["detail"].as_str().is_some_and(|detail| detail.ends_with(['.', '…']) || detail.len() > 10),
            "{text}"
        );
    }
    (status, value)
}

fn has_scope(response: &Response) -> bool {
    response.headers().get("www-authenticate").is_some_and(|it| it.to_str().unwrap().contains("insufficient_scope"))
}

/// A good body for something that is not there.
fn body_of(route: &Route) -> Value {
    match route.path {
        "/v1/jobs" => json!({"kind": "gift_issuance", "id": "matrix", "args": gift("matrix", 500)}),
        "/v1/jobs/many" => json!({"kind": "gift_issuance", "jobs": [{"id": "matrix", "args": gift("matrix", 500)}]}),
        "/v1/jobs/{kind}/{id}/acts" => json!({"act": "retry", "step": 1, "reason": "r"}),
        "/v1/grants/{grant}/issue" => json!({"user": "u"}),
        "/v1/gifts/{grant}/reveal" => json!({"user": "u", "reason": "r"}),
        "/v1/batches/{batch}/approve" => json!({"digest": "00".repeat(32), "reason": "r"}),
        "/v1/batches/{batch}/release" => json!({}),
        "/v1/proposals/{proposal}/confirm" => json!({"digest": "00".repeat(32), "reason": "r"}),
        "/v1/batches/{batch}/pause"
        | "/v1/batches/{batch}/resume"
        | "/v1/batches/{batch}/cancel"
        | "/v1/proposals/{proposal}/refuse" => {
            json!({"reason": "r"})
        }
        path => panic!("{path} has no body here"),
    }
}

fn gift(grant: &str, amount: i64) -> Value {
    json!({"grant": grant, "user": "u1", "category": "digital", "value": {"amount": amount, "currency": "JPY"}})
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_takes_its_scope_and_no_other() {
    let api = Api::open().await;
    let mut scoped = vec![];
    for scope in SCOPES {
        scoped.push((scope, api.token(scope, &[scope]).await));
    }
    let stranger = tokens::generate();
    for route in ROUTES.iter().filter(|route| route.scope.is_some()) {
        let name = format!("{} {}", route.method.name(), route.path);
        assert_eq!(told(api.whole(route, None).send().await.unwrap()).await.0, 401, "{name}");
        assert_eq!(told(api.whole(route, Some(&stranger)).send().await.unwrap()).await.0, 401, "{name}");
        for (scope, token) in &scoped {
            let (status, problem) = told(api.whole(route, Some(token)).send().await.unwrap()).await;
            if Some(*scope) == route.scope {
                // What is asked for is not there; lists and new jobs are.
                let expected: &[u16] = match route.path {
                    "/v1/jobs"
                    | "/v1/jobs/many"
                    | "/v1/points/{user}"
                    | "/v1/points/{user}/history"
                    | "/v1/proposals"
                    | "/v1/schedules" => &[200],
                    "/v1/batches" => {
                        if route.method == Method::Get {
                            &[200]
                        } else {
                            &[422]
                        }
                    }
                    _ => &[404],
                };
                assert!(expected.contains(&status), "{name} as {scope}: {status} {problem}");
            } else {
                assert_eq!((status, problem["scope"].as_str()), (403, route.scope), "{name} as {scope}");
            }
        }
        let good = &scoped.iter().find(|(scope, _)| Some(*scope) == route.scope).unwrap().1;
        bodies_are_checked(&api, route, good).await;
    }
    // Nothing of all this is a job but the one that was asked for twice.
    let jobs: i64 = sqlx::query_scalar("select count(*) from noshi.job").fetch_one(&api.fleet.pool).await.unwrap();
    assert_eq!(jobs, 1);
}

/// Media types, encodings, sizes and forms, on one route.
async fn bodies_are_checked(api: &Api, route: &Route, token: &SecretString) {
    let Some(media) = route.takes.media_type() else { return };
    let path = route
        .path
        .replace("{kind}", "probe")
        .replace("{batch}", "4711")
        .replace("{id}", "nobody")
        .replace("{grant}", "nobody")
        .replace("{user}", "nobody");
    let send = async |headers: &[(&str, &str)], body: Vec<u8>| {
        let request =
            headers.iter().fold(api.request("POST", &path, Some(token)), |it, (name, value)| it.header(*name, *value));
        told(request.body(body).send().await.unwrap()).await
    };
    let name = route.path;
    assert_eq!(send(&[], b"{}".to_vec()).await.0, 415, "{name}");
    assert_eq!(send(&[("content-type", "text/html")], b"{}".to_vec()).await.0, 415, "{name}");
    for encoding in ["gzip", "br", "deflate, gzip"] {
        let headers = [("content-type", media), ("content-encoding", encoding)];
        assert_eq!(send(&headers, vec![0x1f, 0x8b]).await.0, 415, "{name}");
    }
    let Takes::Json { most, .. } = route.takes else { return };
    let json = [("content-type", media)];
    assert_eq!(send(&json, vec![b' '; most + 1]).await.0, 413, "{name}");
    for malformed in ["", "{", "[1,]", "\u{feff}{}", "{}{}"] {
        let (status, problem) = send(&json, malformed.as_bytes().to_vec()).await;
        assert_eq!(
            status,
            if malformed == "{}{}" && !name.ends_with("release") { 422 } else { 400 },
            "{name}: {malformed}: {problem}"
        );
    }
    assert_eq!(send(&json, vec![0xff, 0xfe]).await.0, 400, "{name}");
    assert_eq!(send(&json, [b"[".repeat(5000), b"]".repeat(5000)].concat()).await.0, 400, "{name}");
    let (status, problem) = send(&json, br#"{"surprise": 1}"#.to_vec()).await;
    assert_eq!((status, problem["field"].as_str()), (422, Some("surprise")), "{name}: {problem}");
    let mut whole = body_of(route);
    for field in whole.clone().as_object().unwrap().keys() {
        let kept = whole[field].take();
        let (status, problem) = send(&json, whole.to_string().into_bytes()).await;
        // What may be left out may be null.
        if field != "id" {
            let told = problem["field"].as_str().unwrap_or_default();
            assert!(status == 422 && told.starts_with(field.as_str()), "{name}: {field}: {status} {problem}");
        }
        whole[field] = kept;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_addresses_and_methods_are_refused() {
    let api = Api::open().await;
    let token = api.token("t", &SCOPES).await;
    for (method, path, status) in [
        ("GET", "/", 404),
        ("GET", "/v1/nothing", 404),
        ("OPTIONS", "/v1/jobs", 405),
        ("DELETE", "/v1/jobs/probe/x", 405),
        ("PUT", "/v1/jobs", 405),
        ("PATCH", "/v1/batches/1", 405),
        ("GET", "/v1/grants/g/issue", 405),
        ("GET", "/v1/jobs/probe/%00", 404),
        ("GET", "/v1/jobs/probe/%ff", 404),
        ("GET", "/v1/batches/one", 404),
        ("GET", "/v1/batches/99999999999999999999", 404),
        ("GET", "/v1/jobs?status=odd", 422),
        ("GET", "/v1/jobs?limit=0", 422),
        ("GET", "/v1/jobs?limit=many", 422),
        ("GET", "/v1/jobs?colour=red", 422),
        ("GET", "/v1/jobs?kind=%00", 422),
    ] {
        let response = api.request(method, path, Some(&token)).send().await.unwrap();
        assert_eq!(response.status().as_u16(), status, "{method} {path}");
        let problem: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap_or_default();
        assert_eq!(problem["status"], status, "{method} {path}: {problem}");
    }
    let document: Value = api.request("GET", "/openapi.json", None).send().await.unwrap().json().await.unwrap();
    assert_eq!(document, openapi::document());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_asked_for_once_and_found_again() {
    let api = Api::open().await;
    let (producer, reader) = (api.token("shop", &["enqueue"]).await, api.token("desk", &["read", "operate"]).await);
    let new = json!({"kind": "gift_issuance", "id": "a/1", "args": gift("a/1", 500)});
    let (status, first) = api.post("/v1/jobs", &producer, &new).await;
    assert_eq!((status, &first["kind"], &first["id"]), (200, &json!("gift_issuance"), &json!("a/1")));
    assert_eq!(api.post("/v1/jobs", &producer, &new).await, (200, first.clone()));

    // The header is the id where the body has none, and never another one.
    let by_key = async |key: &str, body: &Value| {
        told(
            api.request("POST", "/v1/jobs", Some(&producer))
                .header("idempotency-key", key)
                .json(body)
                .send()
                .await
                .unwrap(),
        )
        .await
    };
    let bare = json!({"kind": "gift_issuance", "args": gift("a/1", 500)});
    assert_eq!(by_key("a/1", &bare).await, (200, first.clone()));
    assert_eq!(by_key("a/1", &new).await, (200, first.clone()));
    let (status, problem) = by_key("b", &new).await;
    assert_eq!((status, &problem["field"]), (422, &json!("Idempotency-Key")));
    assert_eq!(api.post("/v1/jobs", &producer, &bare).await.1["field"], "id");
    let twice = api.request("POST", "/v1/jobs", Some(&producer)).header("idempotency-key", "a/1");
    let (status, problem) = told(twice.header("idempotency-key", "a/2").json(&bare).send().await.unwrap()).await;
    assert_eq!((status, &problem["field"]), (422, &json!("Idempotency-Key")));

    // Other arguments under the same id: every field that differs, and nothing written.
    let mut other = new.clone();
    other["args"]["value"]["amount"] = json!(600);
    other["args"]["area"] = json!("tokyo");
    let (status, problem) = api.post("/v1/jobs", &producer, &other).await;
    let differences =
        json!([{"field": "area", "now": "tokyo"}, {"field": "value.amount", "recorded": 500, "now": 600}]);
    assert_eq!((status, &problem["differences"]), (409, &differences), "{problem}");
    let many = json!({"kind": "gift_issuance", "jobs": [{"id": "new", "args": gift("new", 5)}, {"id": "a/1", "args": other["args"]}]});
    let (status, problem) = api.post("/v1/jobs/many", &producer, &many).await;
    assert_eq!(
        (status, &problem["differences"][1]["row"], &problem["differences"][1]["field"]),
        (409, &json!(2), &json!("value.amount"))
    );
    // One id twice in a request: the same is one job, and what differs is no conflict with anything recorded.
    let twice = |amount: i64| json!({"kind": "gift_issuance", "jobs": [{"id": "two", "args": gift("two", 5)}, {"id": "two", "args": gift("two", amount)}]});
    let (status, problem) = api.post("/v1/jobs/many", &producer, &twice(6)).await;
    assert_eq!((status, &problem["field"]), (422, &json!("jobs[1].id")), "{problem}");
    let jobs: i64 = sqlx::query_scalar("select count(*) from noshi.job").fetch_one(&api.fleet.pool).await.unwrap();
    assert_eq!(jobs, 1, "all or none");

    // Fields that will not do are named.
    for (field, body) in [
        ("kind", json!({"kind": "gift", "id": "x", "args": {}})),
        ("id", json!({"kind": "probe", "id": " ", "args": {}})),
        ("id", json!({"kind": "probe", "id": "x".repeat(201), "args": {}})),
        ("priority", json!({"kind": "gift_issuance", "id": "x", "args": gift("x", 1), "priority": 2})),
        ("args", json!({"kind": "gift_issuance", "id": "x", "args": []})),
        (
            "args.value.amount",
            json!({"kind": "gift_issuance", "id": "x", "args": gift("x", 1).as_object().map(|args| {
                let mut args = args.clone();
                args["value"]["amount"] = json!("many");
                args
            })}),
        ),
    ] {
        let (status, problem) = api.post("/v1/jobs", &producer, &body).await;
        assert_eq!((status, problem["field"].as_str()), (422, Some(field)), "{problem}");
    }
    for args in [
        r#"{"grant":"\ud800"}"#,
        r#"{"grant":"g","user":"u","category":"c","value":{"amount":1,"currency":"JPY"},"x":1e400000}"#,
    ] {
        let body = format!(r#"{{"kind":"gift_issuance","id":"x","args":{args}}}"#);
        let request =
            api.request("POST", "/v1/jobs", Some(&producer)).header("content-type", "application/json").body(body);
        let (status, problem) = told(request.send().await.unwrap()).await;
        assert!(matches!(status, 400 | 422), "{args}: {status} {problem}");
    }

    let (status, shown) = api.get("/v1/jobs/gift_issuance/a%2F1", &reader).await;
    assert_eq!((status, &shown["status"], &shown["job"]), (200, &json!("available"), &first["job"]), "{shown}");
    assert_eq!(api.get("/v1/jobs/gift_issuance/nobody", &reader).await.0, 404);
    for n in 0..7 {
        // In another order than their numbers.
        let id = format!("page-{}", 6 - n);
        assert_eq!(
            api.post("/v1/jobs", &producer, &json!({"kind": "gift_issuance", "id": id, "args": gift(&id, 5)})).await.0,
            200
        );
    }
    let (mut pages, mut ids, mut query) = (0, vec![], "?limit=3&kind=gift_issuance&status=available".to_owned());
    loop {
        let (status, page) = api.get(&format!("/v1/jobs{query}"), &reader).await;
        assert_eq!(status, 200);
        ids.extend(page["jobs"].as_array().unwrap().iter().map(|job| job["id"].as_str().unwrap().to_owned()));
        pages += 1;
        let Some(next) = page["next"].as_i64() else { break };
        query = format!("?limit=3&kind=gift_issuance&status=available&before={next}");
    }
    assert_eq!((pages, ids.len(), ids[0].as_str(), ids[7].as_str()), (3, 8, "page-0", "a/1"));
    assert_eq!(api.get("/v1/jobs?status=completed", &reader).await.1, json!({"jobs": [], "next": null}));

    // An act that the state table does not allow is refused with what it does allow; one at another step as well.
    let step = &shown["step"];
    let act = |act: &str, step: &Value| json!({"act": act, "step": step, "reason": "tried"});
    let (status, problem) = api.post("/v1/jobs/gift_issuance/a%2F1/acts", &reader, &act("reissue", step)).await;
    assert_eq!((status, problem["allowed"].is_array()), (409, true), "{problem}");
    assert_eq!(api.post("/v1/jobs/gift_issuance/a%2F1/acts", &reader, &act("dance", step)).await.1["field"], "act");
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_ask_for_one_job_through_both_entry_points() {
    let api = Api::open().await;
    let producer = api.token("shop", &["enqueue"]).await;
    let sql = db::connect(&api.fleet.url, Role::Producer, 16).await.unwrap();
    let args = gift("one", 500);
    let answers = join_all((0..64).map(async |n| {
        if n % 2 == 0 {
            let body = json!({"kind": "gift_issuance", "id": "one", "args": args});
            let (status, answer) = api.post("/v1/jobs", &producer, &body).await;
            assert_eq!(status, 200, "{answer}");
            return answer["job"].as_i64().unwrap();
        }
        let enqueue = "select noshi.enqueue('gift_issuance', 'one', $1)";
        sqlx::query_scalar(enqueue).bind(&args).fetch_one(&sql).await.unwrap()
    }))
    .await;
    let jobs: Vec<i64> = sqlx::query_scalar("select id from noshi.job").fetch_all(&api.fleet.pool).await.unwrap();
    assert_eq!((jobs.len(), answers.len()), (1, 64));
    assert!(answers.iter().all(|job| *job == jobs[0]), "{answers:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_in_one_transaction_ring_once_and_a_rollback_leaves_nothing() {
    let _turn = crate::support::busy().await;
    let api = Api::open().await;
    let producer = api.token("shop", &["enqueue"]).await;
    let mut listener = PgListener::connect(&api.fleet.url).await.unwrap();
    listener.listen("noshi").await.unwrap();
    // As a worker that has nothing to do asks.
    let wanted = "insert into noshi.bell (worker, until) values (0, now() + interval '1 hour')";
    sqlx::query(wanted).execute(&api.fleet.pool).await.unwrap();
    let sql = db::connect(&api.fleet.url, Role::Producer, 1).await.unwrap();
    let enqueue = "select noshi.enqueue('gift_issuance', 'r' || n, jsonb_build_object('grant', 'r' || n, 'user', 'u', 'category', 'digital', 'value', '{\"amount\": 5, \"currency\": \"JPY\"}'::jsonb)) from generate_series(1, 100) n";
    let mut transaction = sql.begin().await.unwrap();
    sqlx::query(enqueue).execute(&mut *transaction).await.unwrap();
    transaction.rollback().await.unwrap();
    let rung = AtomicU32::new(0);
    let hear = async |listener: &mut PgListener| {
        // What was sent before this comes before it.
        sqlx::query("select pg_notify('noshi', 'end')").execute(&api.fleet.pool).await.unwrap();
        while listener.recv().await.unwrap().payload() != "end" {
            rung.fetch_add(1, Ordering::Relaxed);
        }
        rung.swap(0, Ordering::Relaxed)
    };
    assert_eq!(hear(&mut listener).await, 0);
    let left: i64 = sqlx::query_scalar("select count(*) from noshi.job").fetch_one(&api.fleet.pool).await.unwrap();
    assert_eq!(left, 0);

    let each = "select count(noshi.enqueue('gift_issuance', 's' || n, jsonb_build_object('grant', 's' || n, 'user', 'u', 'category', 'digital', 'value', '{\"amount\": 5, \"currency\": \"JPY\"}'::jsonb))) from generate_series(1, 10000) n";
    let mut long = api.fleet.pool.acquire().await.unwrap();
    let enqueued: i64 = sqlx::query_scalar(each).fetch_one(&mut *long).await.unwrap();
    assert_eq!(enqueued, 10_000);
    assert_eq!(hear(&mut listener).await, 1);
    let row = |n: i32| json!({"id": format!("h{n}"), "args": gift(&format!("h{n}"), 5)});
    let many = |rows: i32| json!({"kind": "gift_issuance", "jobs": (0..rows).map(row).collect::<Vec<_>>()});
    let (status, answer) = api.post("/v1/jobs/many", &producer, &many(10_000)).await;
    assert_eq!((status, answer["jobs"].as_array().map(Vec::len)), (200, Some(10_000)));
    assert_eq!(hear(&mut listener).await, 1);
    assert_eq!(api.post("/v1/jobs/many", &producer, &many(10_001)).await.1["field"], "jobs");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_ends_when_it_is_revoked_and_keeps_its_pace() {
    let api = Api::open().await;
    let token = api.token("shop", &["enqueue", "read"]).await;
    let new = |n: i32| json!({"kind": "gift_issuance", "id": format!("t{n}"), "args": gift(&format!("t{n}"), 5)});
    assert_eq!(api.post("/v1/jobs", &token, &new(0)).await.0, 200);
    assert_eq!(api.get("/v1/jobs", &token).await.0, 200);
    let id = token.expose_secret()[6..18].to_owned();
    let listed = api.fleet.command(&["token", "list", "-o", "json"]).await;
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert_eq!(
        (&listed[0]["id"], &listed[0]["state"], listed[0]["last_used_at"].is_string()),
        (&json!(id), &json!("good"), true)
    );
    let revoked = api.fleet.command(&["token", "revoke", &id, "--reason", "lost"]).await;
    assert!(revoked.status.success(), "{}", String::from_utf8_lossy(&revoked.stderr));
    // At once, whatever the process remembers: every transaction asks again.
    assert_eq!(api.post("/v1/jobs", &token, &new(1)).await.0, 401);
    assert_eq!(api.get("/v1/jobs", &token).await.0, 401);
    let audit: Vec<String> =
        sqlx::query_scalar("select act from noshi.audit order by id").fetch_all(&api.fleet.pool).await.unwrap();
    assert_eq!(audit, ["token create", "token revoke"]);

    let created = api
        .fleet
        .command(&[
            "token",
            "create",
            "--owner",
            "slow",
            "--scopes",
            "read",
            "--expires",
            "1h",
            "--per-second",
            "2",
            "-o",
            "json",
        ])
        .await;
    let created: Value = serde_json::from_slice(&created.stdout).unwrap();
    let slow = SecretString::from(created["token"].as_str().unwrap());
    let answers = join_all((0..20).map(|_| api.get("/v1/jobs", &slow))).await;
    let many = |status: u16| answers.iter().filter(|answer| answer.0 == status).count();
    assert!(many(200) >= 2 && many(429) >= 10 && many(200) + many(429) == 20, "{answers:?}");
    // Only what is shown at its making is the token: the database and the log have nothing that works.
    let secret = slow.expose_secret().split_once('.').unwrap().1;
    let kept: String = sqlx::query_scalar("select string_agg(t::text, '') from noshi.token t")
        .fetch_one(&api.fleet.pool)
        .await
        .unwrap();
    assert!(!kept.contains(secret) && !std::fs::read_to_string(&api.api.log).unwrap().contains(secret));
    // A database that lets nobody in is neither bad input nor a promise.
    let shut = "do $$ declare l text := (select 'api_of_' || current_database()); begin
        execute format('alter role %I nologin', l);
        perform pg_terminate_backend(pid) from pg_stat_activity where usename = l;
    end $$";
    sqlx::raw_sql(shut).execute(&api.fleet.pool).await.unwrap();
    let (status, problem) = api.get("/v1/jobs", &api.token("late", &["read"]).await).await;
    assert!(
        status == 503 && problem["detail"].as_str().unwrap().contains("send it again with the same id"),
        "{problem}"
    );
    let short = api.fleet.command(&["token", "create", "--owner", "x", "--scopes", "read", "--expires", "401d"]).await;
    assert!(!short.status.success());
}

const HEADER: &str = "grant_id,user_id,name,email,category,amount,currency\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_file_becomes_a_batch_that_somebody_else_approves() {
    let api = Api::open().await;
    let sato = api.token("sato", &SCOPES).await;
    let also_sato = api.token("sato", &["approve", "operate"]).await;
    let suzuki = api.token("suzuki", &["approve"]).await;
    let rows: String = (0..150).map(|n| format!("g{n},u{n},山田,a{n}@example.jp,digital,500,JPY\n")).collect();
    let csv = format!("{HEADER}{rows}");
    let (status, problem) = api.upload("", &sato, &csv.replace("digital", "nothing")).await;
    assert_eq!(
        (status, &problem["faults"][0]["line"], &problem["faults"][0]["field"]),
        (422, &json!(2), &json!("category")),
        "{problem}"
    );
    let (status, made) = api.upload("campaign=summer&file=grants.csv&issue=true", &sato, &csv).await;
    assert_eq!(
        (status, &made["rows"], &made["needs_approval"], &made["is_new"]),
        (200, &json!(150), &json!(true), &json!(true)),
        "{made}"
    );
    let batch = made["batch"].as_i64().unwrap();
    let again = api.upload("campaign=summer&file=grants.csv&issue=true", &sato, &csv).await.1;
    assert_eq!((&again["batch"], &again["is_new"]), (&json!(batch), &json!(false)));
    assert_eq!(api.upload("campaign=winter", &sato, &csv).await.0, 409);
    for (field, query) in [
        ("kind", "kind=stores&mail=true"),
        ("file", "file=a%2Fb"),
        ("campaign", "campaign=%00"),
        ("mail", "mail=perhaps"),
    ] {
        let (status, problem) = api.upload(query, &sato, &csv).await;
        assert_eq!((status, problem["field"].as_str()), (422, Some(field)), "{query}: {problem}");
    }

    let path = |act: &str| format!("/v1/batches/{batch}/{act}");
    let (status, problem) = api.post(&path("release"), &sato, &json!({})).await;
    assert_eq!(status, 403, "{problem}");
    let digest = hex::encode(Sha256::digest(&csv));
    assert_eq!(made["digest"], digest);
    let of_the_file = json!({"digest": digest, "reason": "read"});
    let approve = json!({"digest": made["approval_digest"], "reason": "read"});
    // Two tokens of one owner are one person.
    let (status, problem) = api.post(&path("approve"), &also_sato, &approve).await;
    assert!(status == 403 && problem["detail"].as_str().unwrap().contains("another person"), "{problem}");
    assert_eq!(api.post(&path("approve"), &suzuki, &json!({"digest": "00".repeat(32), "reason": "read"})).await.0, 409);
    // The file alone is not what would happen.
    assert_eq!(api.post(&path("approve"), &suzuki, &of_the_file).await.0, 409);
    let worker = api.fleet.worker("a", &[], &[]);
    let (status, approved) = api.post(&path("approve"), &suzuki, &approve).await;
    assert_eq!((status, approved["approved_until"].is_string()), (200, true), "{approved}");
    let why = json!({"reason": "a look"});
    assert_eq!(api.post(&path("resume"), &sato, &why).await.0, 409);
    assert_eq!(api.post(&path("pause"), &sato, &why).await.1["status"], "paused");
    assert_eq!(api.post(&path("resume"), &sato, &why).await.1["status"], "approved");
    let (status, released) = api.post(&path("release"), &sato, &json!({})).await;
    assert_eq!(
        (status, &released["status"], &released["approved_by"]),
        (200, &json!("released"), &json!("suzuki")),
        "{released}"
    );

    until("a settled batch", Duration::from_secs(40), async || {
        api.get(&format!("/v1/batches/{batch}"), &sato).await.1["status"] == "settled"
    })
    .await;
    assert_eq!(api.post(&path("cancel"), &sato, &why).await.0, 409);
    assert_eq!(api.get("/v1/batches", &sato).await.1.as_array().map(Vec::len), Some(2));
    // With names and addresses: by a scope of its own, and on record.
    let reader = api.token("reader", &["read", "operate", "approve"]).await;
    assert_eq!(api.request("GET", &path("report"), Some(&reader)).send().await.unwrap().status(), 403);
    let report = api.request("GET", &path("report"), Some(&sato)).send().await.unwrap();
    assert_eq!(report.headers()["content-type"], "text/csv; charset=utf-8");
    let report = report.text().await.unwrap();
    assert_eq!((report.lines().count(), report.matches(",completed,").count()), (151, 150), "{report}");
    assert!(worker.stop().await.success());
    let who: Vec<(String, String)> =
        sqlx::query_as("select who, act from noshi.audit where target = 'batch/' || $1 order by id")
            .bind(batch)
            .fetch_all(&api.fleet.pool)
            .await
            .unwrap();
    let by = |act: &str| who.iter().find(|(_, it)| it == act).map(|(who, _)| who.as_str());
    assert_eq!(
        (by("batch receive"), by("batch approve"), by("batch release"), by("batch report")),
        (Some("sato"), Some("suzuki"), Some("sato"), Some("sato")),
        "{who:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gift_is_asked_for_and_shown_to_its_user_alone() {
    let _turn = crate::support::turn().await;
    let api = Api::open().await;
    let (shop, desk) = (api.token("shop", &["enqueue"]).await, api.token("app", &["reveal"]).await);
    for (grant, category) in [("kept", "digital"), ("again", "amazon"), ("sealed", "prepaid")] {
        api.fleet.gift(grant, category, 500).await;
    }
    let ask = |user: &str| json!({"user": user, "reason": "shown in the app"});
    let (status, problem) = api.post("/v1/gifts/kept/reveal", &desk, &ask("u1")).await;
    assert_eq!(status, 409, "{problem}");
    let worker = api.fleet.worker("a", &[], &[]);
    api.fleet.at_rest(Duration::from_secs(30)).await.unwrap();
    let audited = "select count(*) from noshi.audit where act = 'reveal'";
    let audited = async || sqlx::query_scalar::<_, i64>(audited).fetch_one(&api.fleet.pool).await.unwrap();
    assert_eq!(audited().await, 0);
    for (count, grant) in (1..).zip(["kept", "again", "sealed"]) {
        let path = format!("/v1/gifts/{grant}/reveal");
        assert_eq!(api.post(&path, &desk, &ask("u2")).await.0, 404);
        assert_eq!(api.post(&path, &desk, &json!({"user": "u1", "reason": " "})).await.1["field"], "reason");
        let (status, shown) = api.post(&path, &desk, &ask("u1")).await;
        assert_eq!(status, 200, "{grant}: {shown}");
        assert!(shown["code"].as_str().unwrap().starts_with("CNRY-") && shown["amount"] == 500);
        assert_eq!(audited().await, count);
    }
    // A gift that is asked for again is not bought again.
    assert_eq!(crate::processes::count(&api.fleet, "issued"), 3);
    let refetched =
        "update noshi.gift_trade set started_at = started_at - interval '50 seconds' where grant_id = 'again'";
    sqlx::query(refetched).execute(&api.fleet.pool).await.unwrap();
    assert_eq!(api.post("/v1/gifts/again/reveal", &desk, &ask("u1")).await.0, 410);
    sqlx::query("update noshi.gift_trade set started_at = clock_timestamp()").execute(&api.fleet.pool).await.unwrap();
    sqlx::query("update noshi.lane set paused = true").execute(&api.fleet.pool).await.unwrap();
    let (status, problem) = api.post("/v1/gifts/again/reveal", &desk, &ask("u1")).await;
    assert_eq!(status, 429, "{problem}");
    assert_eq!(api.post("/v1/gifts/kept/reveal", &desk, &ask("u1")).await.0, 200, "it needs no call");
    assert!(worker.stop().await.success());
    assert_eq!(api.post("/v1/grants/nobody/issue", &shop, &json!({"user": "u1"})).await.0, 404);

    // An operator's act: at the step that was looked at, and in the owner's name.
    let operator = api.token("sato", &["read", "operate"]).await;
    let path = "/v1/jobs/gift_issuance/again";
    let seen = api.get(path, &operator).await.1;
    assert!(seen["may"].as_array().is_some_and(|may| may.contains(&json!("cancel"))), "{seen}");
    let step = seen["step"].as_i64().unwrap();
    let act = |step: i64| json!({"act": "cancel", "step": step, "reason": "sent back"});
    let acts = format!("{path}/acts");
    assert_eq!(api.post(&acts, &operator, &act(step - 1)).await.0, 409);
    let (status, asked) = api.post(&acts, &operator, &act(step)).await;
    assert_eq!((status, &asked["act"]), (202, &json!("cancel")), "{asked}");
    assert_eq!(api.post("/v1/gifts/again/reveal", &desk, &ask("u1")).await.0, 409, "it may be on its way back");
    let who: String = sqlx::query_scalar("select who from noshi.audit where act = 'job cancel'")
        .fetch_one(&api.fleet.pool)
        .await
        .unwrap();
    assert_eq!(who, "sato");

    // What was pruned is still its user's, and its id still names one request.
    let over = "update noshi.job set finished_at = finished_at - interval '100 days'";
    sqlx::query(over).execute(&api.fleet.pool).await.unwrap();
    let pruned: i32 =
        sqlx::query_scalar("select pruned from noshi.prune(100)").fetch_one(&api.fleet.pool).await.unwrap();
    assert_eq!(pruned, 2);
    let worker = api.fleet.worker("b", &[], &[]);
    let (status, shown) = api.post("/v1/gifts/kept/reveal", &desk, &ask("u1")).await;
    assert!(status == 200 && shown["code"].as_str().is_some_and(|code| code.starts_with("CNRY-")), "{status}");
    assert_eq!(api.post("/v1/gifts/kept/reveal", &desk, &ask("u2")).await.0, 404);
    assert!(worker.stop().await.success());
    let again = |amount: i64| json!({"kind": "gift_issuance", "id": "kept", "args": gift("kept", amount)});
    assert_eq!(api.post("/v1/jobs", &shop, &again(500)).await.0, 200);
    let (status, problem) = api.post("/v1/jobs", &shop, &again(600)).await;
    // Somebody else asked for it: what was recorded is told to whoever may read.
    let differences = json!([{"field": "value.amount", "now": 600}]);
    assert_eq!((status, &problem["differences"]), (409, &differences), "{problem}");
    let both = api.token("both", &["enqueue", "read"]).await;
    let differences = json!([{"field": "value.amount", "recorded": 500, "now": 600}]);
    assert_eq!(api.post("/v1/jobs", &both, &again(600)).await.1["differences"], differences);
    let reader = api.token("desk", &["read"]).await;
    assert_eq!(api.get("/v1/jobs/gift_issuance/kept", &reader).await.0, 410);
}

/// What reaches the process slowly, in bulk or in pieces. It must neither fail nor grow.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_is_sent_makes_the_process_fail_or_grow() {
    let _turn = crate::support::alone().await;
    let api = Api::open().await;
    let token = api.token("shop", &SCOPES).await;
    let head = |path: &str, kind: &str, more: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Type: {kind}\r\n{more}\r\n\r\n",
            token.expose_secret()
        )
    };
    let raw = async |parts: Vec<Vec<u8>>, last: Duration| -> String {
        let mut stream = TcpStream::connect(&api.address).await.unwrap();
        for part in parts {
            if stream.write_all(&part).await.is_err() {
                break;
            }
        }
        let mut answer = vec![];
        let _ = tokio::time::timeout(last, stream.read_to_end(&mut answer)).await;
        String::from_utf8_lossy(&answer).into_owned()
    };
    let status = |answer: &str| answer.split(' ').nth(1).and_then(|it| it.parse::<u16>().ok());

    // Heads that never end are closed, bodies that never end are refused, both in time.
    let long = Duration::from_secs(25);
    let slow_head = raw(vec![b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nX: ".to_vec()], long);
    let slow_body =
        raw(vec![head("/v1/jobs", "application/json", "Content-Length: 100").into_bytes(), b"{".to_vec()], long);
    let slow = join_all((0..40).map(|_| raw(vec![b"GET / HTTP".to_vec()], long)));
    let (head_answer, body_answer, _) = tokio::join!(slow_head, slow_body, slow);
    assert!(matches!(status(&head_answer), None | Some(408)), "{head_answer}");
    assert_eq!(status(&body_answer), Some(408), "{body_answer}");

    let mib = vec![b'['; 1 << 20];
    let bodies: Vec<(&str, &str, &str, Vec<u8>)> = vec![
        ("/v1/jobs", "application/json", "", b"{\"a\":".repeat(50_000)),
        ("/v1/jobs/many", "application/json", "", mib.repeat(8)),
        ("/v1/jobs/many", "application/json", "", b"{\"a\":1},".repeat(1 << 20)),
        (
            "/v1/jobs/many",
            "application/json",
            "",
            [&b"{\"kind\":\"probe\",\"jobs\":["[..], &b"{\"id\":\"a\",\"args\":{}},".repeat(300_000)].concat(),
        ),
        ("/v1/jobs/many", "application/json", "", mib.repeat(9)),
        ("/v1/jobs", "application/json", "Content-Encoding: gzip", vec![0x1f; 1000]),
        ("/v1/batches", "text/csv", "", b"\"".repeat(20 << 20)),
        ("/v1/batches", "text/csv", "", b"x,".repeat(10 << 20)),
        ("/v1/batches", "text/csv", "Content-Encoding: br", mib.clone()),
    ];
    for round in 0..2 {
        let answers = join_all(bodies.iter().map(async |(path, kind, more, body)| {
            let length = format!("Content-Length: {}{}{more}", body.len(), if more.is_empty() { "" } else { "\r\n" });
            (
                path,
                body.len(),
                raw(vec![head(path, kind, &length).into_bytes(), body.clone()], Duration::from_secs(60)).await,
            )
        }))
        .await;
        for (path, bytes, answer) in answers {
            let status = status(&answer);
            // A refusal before the body was read may be lost to a reset.
            assert!(status.is_none_or(|status| (400..500).contains(&status)), "{round} {path} {bytes}: {answer}");
        }
    }
    let announced =
        raw(vec![head("/v1/batches", "text/csv", "Content-Length: 99999999999").into_bytes()], Duration::from_secs(5));
    let garbage = raw(vec![vec![0xff; 100_000]], Duration::from_secs(5));
    let headers = raw(vec!["GET / HTTP/1.1\r\n".into(), b"X: y\r\n".repeat(20_000)], Duration::from_secs(5));
    let (announced, garbage, headers) = tokio::join!(announced, garbage, headers);
    assert_eq!(status(&announced), Some(413), "{announced}");
    assert!(
        matches!(status(&garbage), None | Some(400)) && matches!(status(&headers), None | Some(400 | 431)),
        "{garbage} {headers}"
    );
    let many = json!({"kind": "gift_issuance", "jobs": (0..10_000).map(|n| {
        // As large as its ids may be.
        let id = format!("{n:0100}");
        let mut args = gift(&id, 5);
        (args["user"], args["area"]) = (json!("u".repeat(100)), json!("a".repeat(100)));
        json!({"id": id, "args": args})
    }).collect::<Vec<_>>()});
    for answer in join_all((0..4).map(|_| api.post("/v1/jobs/many", &token, &many))).await {
        assert!(matches!(answer.0, 200 | 429), "{answer:?}");
    }
    assert_eq!(api.get("/v1/batches", &token).await.0, 200);
    let memory = api.memory();
    println!("the process had {memory} MiB at most");
    assert!(memory < 256, "{memory} MiB");
}

#[test]
fn the_description_is_the_one_that_callers_have() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/ops/openapi/noshi.json");
    let drawn = serde_json::to_string_pretty(&openapi::document()).unwrap() + "\n";
    if std::env::var_os("NOSHI_REDRAW").is_some() {
        std::fs::write(path, &drawn).unwrap();
    }
    let kept = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        kept == drawn,
        "the interface changed; if callers can live with it, run the tests once with NOSHI_REDRAW=1 and commit {path}"
    );
}

/// A request whose head is whole and whose body is not: it stays in flight until the rest comes.
struct Held {
    stream: TcpStream,
    rest: Vec<u8>,
}

impl Held {
    async fn begin(api: &Api, path: &str, token: &SecretString, body: &Value) -> Held {
        let body = body.to_string().into_bytes();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            token.expose_secret(),
            body.len()
        );
        let mut stream = TcpStream::connect(&api.address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&body[..1]).await.unwrap();
        Held { stream, rest: body[1..].to_vec() }
    }

    async fn end(mut self) -> String {
        self.stream.write_all(&self.rest).await.unwrap();
        let mut answer = String::new();
        self.stream.read_to_string(&mut answer).await.unwrap();
        answer
    }
}

/// Takes out those that were answered already, and returns the answers.
fn take_answered(held: &mut Vec<Held>) -> Vec<String> {
    let mut answers = vec![];
    held.retain(|one| {
        let mut answer = vec![0; 4096];
        let Ok(bytes) = one.stream.try_read(&mut answer) else { return true };
        answers.push(String::from_utf8_lossy(&answer[..bytes]).into_owned());
        false
    });
    answers
}

/// Waits until one of them is answered, which must be by a refusal that tells when to come again.
async fn one_is_refused(held: &mut Vec<Held>) {
    let mut answers = vec![];
    until("a refusal", Duration::from_secs(8), async || {
        answers.extend(take_answered(held));
        !answers.is_empty()
    })
    .await;
    assert_eq!(answers.len(), 1, "{answers:?}");
    assert!(answers[0].starts_with("HTTP/1.1 429") && answers[0].contains("\r\nretry-after: 1\r\n"), "{}", answers[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_it_takes_at_once_is_refused_and_comes_again() {
    let _turn = crate::support::turn().await;
    let api = Api::open().await;
    let token = api.token("shop", &["enqueue", "read"]).await;
    // One caller alone has a quarter of the room, and one large request.
    let owners = ["a", "b", "c", "d", "e"];
    let tokens = join_all(owners.map(|owner| api.token(owner, &["enqueue"]))).await;
    let job = |id: &str| json!({"kind": "gift_issuance", "id": id, "args": gift(id, 5)});
    assert_eq!(api.post("/v1/jobs", &token, &job("first")).await.0, 200);

    let begin = async |n: usize| Held::begin(&api, "/v1/jobs", &tokens[n % 5], &job(&format!("held-{n}"))).await;
    let mut held = join_all((0..=MAX_REQUESTS).map(begin)).await;
    one_is_refused(&mut held).await;
    let (status, problem) = api.post("/v1/jobs", &token, &job("late")).await;
    assert!(status == 429 && problem["detail"].as_str().unwrap().contains("as many requests in flight"), "{problem}");
    assert_eq!(take_answered(&mut held), [""; 0], "those in flight go on");
    let done = held.pop().unwrap().end().await;
    assert!(done.starts_with("HTTP/1.1 200"), "{done}");
    assert_eq!(api.post("/v1/jobs", &token, &job("late")).await.0, 200, "a place is free again");
    for answer in join_all(held.into_iter().map(Held::end)).await {
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }

    let many = |id: &str| json!({"kind": "gift_issuance", "jobs": [{"id": id, "args": gift(id, 5)}]});
    let begin = async |n: usize| Held::begin(&api, "/v1/jobs/many", &tokens[n % 5], &many(&format!("large-{n}"))).await;
    let mut large = join_all((0..=MAX_LARGE).map(begin)).await;
    one_is_refused(&mut large).await;
    assert_eq!(api.post("/v1/jobs/many", &token, &many("late large")).await.0, 429);
    assert_eq!(api.post("/v1/jobs", &token, &job("small")).await.0, 200, "small ones go on");
    assert_eq!(take_answered(&mut large), [""; 0]);
    let done = large.pop().unwrap().end().await;
    assert!(done.starts_with("HTTP/1.1 200"), "{done}");
    assert_eq!(api.post("/v1/jobs/many", &token, &many("late large")).await.0, 200, "a turn is free again");
    for answer in join_all(large.into_iter().map(Held::end)).await {
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    let held = "select count(*) from noshi.job where key like 'held-%' or key like 'large-%'";
    let held: i64 = sqlx::query_scalar(held).fetch_one(&api.fleet.pool).await.unwrap();
    assert_eq!(usize::try_from(held), Ok(MAX_REQUESTS + MAX_LARGE), "what was let in was done");
}
