//! The console, as a browser asks it: who is let in, what each page sends, and what no page ever does.

mod batches;

use std::time::Duration;

use reqwest::{Client, RequestBuilder, Response, redirect::Policy};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use sqlx::AssertSqlSafe;
use tokio::net::TcpListener;

use crate::{
    api::token,
    engine::probe,
    support::{TestDatabase, database},
};
use noshi::{
    console::{layout, server::Server},
    db::{
        self,
        operator::tokens::{self, Bearer, Caller},
        queue::lanes,
    },
    settings::Settings,
};

const PAGES: [&str; 12] = [
    "/",
    "/doubt",
    "/jobs",
    "/jobs?status=needs_operator&code=poison&in_doubt=yes&before=9",
    "/find?of=u42",
    "/lanes",
    "/batches",
    "/batches?before=9",
    "/proposals",
    "/schedules",
    "/workers",
    "/audit",
];

struct Console {
    db: TestDatabase,
    /// Of a login that may what the console must, and nothing else.
    url: String,
    origin: String,
    client: Client,
}

impl Console {
    async fn open() -> Console {
        Console::on(database().await, Settings::default()).await
    }

    async fn on(db: TestDatabase, mut settings: Settings) -> Console {
        let create = format!("create role console_of_{0} login in role noshi_api", db.name);
        sqlx::raw_sql(AssertSqlSafe(create)).execute(&db.pool).await.unwrap();
        let url = db.url.replacen("//postgres@", &format!("//console_of_{}@", db.name), 1);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        settings.console.origin = format!("http://{}", listener.local_addr().unwrap());
        let server = Server::on(&settings, &url, listener).await.unwrap();
        tokio::spawn(server.serve_until(std::future::pending()));
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder().no_proxy().redirect(Policy::none()).build().unwrap();
        Console { db, url, origin: settings.console.origin, client }
    }

    async fn token(&self, owner: &str, scopes: &[&str]) -> SecretString {
        token(&self.db.pool, owner, scopes, 100).await
    }

    fn request(&self, method: &str, path: &str) -> RequestBuilder {
        self.client.request(method.parse().unwrap(), format!("{}{path}", self.origin))
    }

    async fn get(&self, path: &str, cookie: &str) -> Response {
        self.request("GET", path).header("cookie", cookie).send().await.unwrap()
    }

    fn form(&self, path: &str, cookie: &str, fields: &[(&str, &str)]) -> RequestBuilder {
        let body = fields.iter().map(|(name, value)| format!("{name}={}", value.replace(' ', "+"))).collect::<Vec<_>>();
        let request = self.request("POST", path).header("cookie", cookie).header("sec-fetch-site", "same-origin");
        request.header("content-type", "application/x-www-form-urlencoded").body(body.join("&"))
    }

    async fn post(&self, path: &str, cookie: &str, fields: &[(&str, &str)]) -> (u16, String) {
        let answer = self.form(path, cookie, fields).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    /// The cookie of a new session.
    async fn session(&self, token: &SecretString) -> String {
        let answer = self.form("/sign-in", "", &[("token", token.expose_secret())]).send().await.unwrap();
        assert_eq!(answer.status(), 303);
        let cookie = answer.headers()["set-cookie"].to_str().unwrap();
        assert!(cookie.ends_with("; Path=/; HttpOnly; Secure; SameSite=Lax"), "{cookie}");
        cookie.split(';').next().unwrap().to_owned()
    }

    async fn sign_in(&self, owner: &str, scopes: &[&str]) -> String {
        self.session(&self.token(owner, scopes).await).await
    }

    async fn run(&self, sql: &str) {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&self.db.pool).await.unwrap();
    }

    async fn is_in(&self, cookie: &str) -> bool {
        self.get("/workers", cookie).await.status() == 200
    }
}

fn location(answer: &Response) -> &str {
    answer.headers()["location"].to_str().unwrap()
}

#[tokio::test]
async fn each_page_is_sent_in_both_languages_with_its_headers_and_is_small() {
    let console = Console::open().await;
    let cookie = console.sign_in("sato", &["read"]).await;
    for page in PAGES.into_iter().chain(["/runbook/poison", "/sign-in"]) {
        for language in ["ja", "en"] {
            let request = console.request("GET", page).header("cookie", &cookie).header("accept-language", language);
            let answer = request.send().await.unwrap();
            assert_eq!(answer.status(), 200, "{page}");
            for (name, holds) in [
                ("content-security-policy", "default-src 'none'; script-src 'self'"),
                ("x-content-type-options", "nosniff"),
                ("referrer-policy", "same-origin"),
                ("cache-control", "no-store"),
                ("cross-origin-opener-policy", "same-origin"),
            ] {
                assert!(answer.headers()[name].to_str().unwrap().starts_with(holds), "{page}: {name}");
            }
            let text = answer.text().await.unwrap();
            assert!(text.contains(&format!("<html lang=\"{language}\"")) && text.len() < 100_000, "{page}");
            assert!(!text.contains(" style=") && !text.contains(" onclick="), "{page}");
            // What it links to is there.
            for to in text.split("href=\"").skip(1).filter_map(|rest| rest.split('"').next()) {
                let to = to.replace("&amp;", "&");
                assert!(to.starts_with('#') || console.get(&to, &cookie).await.status() == 200, "{page} links to {to}");
            }
        }
    }
    assert!(layout::SCRIPT.len() < 15_000 && layout::STYLE.len() < 20_000 && layout::SCRIPT.lines().count() <= 400);
    let asset = console.get(&layout::ASSETS[1].path, "").await;
    assert!(asset.headers()["cache-control"].to_str().unwrap().contains("immutable"));
    assert_eq!(console.get("/nowhere", &cookie).await.status(), 404);
    assert_eq!(console.get("/jobs/probe/nobody", &cookie).await.status(), 404);
}

#[tokio::test]
async fn a_token_is_exchanged_for_a_session_that_ends_with_it() {
    let console = Console::open().await;
    let stranger = console.get("/jobs?status=failed", "").await;
    assert_eq!((stranger.status().as_u16(), location(&stranger)), (303, "/sign-in?next=%2Fjobs%3Fstatus%3Dfailed"));
    let token = console.token("sato", &["read", "operate", "enqueue", "reveal"]).await;
    let cookie = console.session(&token).await;
    let kept: (Vec<String>, String) = sqlx::query_as("select scopes, owner from noshi.token where parent is not null")
        .fetch_one(&console.db.pool)
        .await
        .unwrap();
    assert_eq!(kept, (vec!["read".to_owned(), "operate".to_owned()], "sato".to_owned()));
    assert!(console.is_in(&cookie).await);
    // The token itself is no session, and a session begins no other.
    assert!(!console.is_in(&format!("__Host-noshi={}", token.expose_secret())).await);
    assert_eq!(console.post("/sign-in", "", &[("token", cookie.split_once('=').unwrap().1)]).await.0, 403);
    for bad in ["", "noshi_abc.def", tokens::generate().expose_secret()] {
        assert_eq!(console.post("/sign-in", "", &[("token", bad)]).await.0, 403);
    }
    let producer = console.token("shop", &["enqueue"]).await;
    let refused = console.form("/sign-in", "", &[("token", producer.expose_secret())]).send().await.unwrap();
    assert!(refused.status() == 403 && !refused.headers().contains_key("set-cookie"));
    // Five failed within a minute: not even a good one.
    assert_eq!(console.post("/sign-in", "", &[("token", token.expose_secret())]).await.0, 429);

    console
        .run("update noshi.token set last_used_at = clock_timestamp() - interval '31 minutes' where parent is not null")
        .await;
    assert!(!console.is_in(&cookie).await);
    console.run("update noshi.token set last_used_at = clock_timestamp() where parent is not null").await;
    assert!(console.is_in(&cookie).await);
    let id = Bearer::read(token.expose_secret()).unwrap().id().to_owned();
    tokens::revoke(&console.db.pool, &id, "left").await.unwrap();
    assert!(!console.is_in(&cookie).await);
}

#[tokio::test]
async fn who_signs_out_is_out_and_returns_to_a_page_of_ours() {
    let console = Console::open().await;
    let token = console.token("sato", &["read"]).await;
    let cookie = console.session(&token).await;
    for (next, goes) in
        [("/lanes", "/lanes"), ("https://evil.example", "/"), ("//evil.example", "/"), ("/%5Cevil.example", "/")]
    {
        let answer =
            console.form("/sign-in", "", &[("token", token.expose_secret()), ("next", next)]).send().await.unwrap();
        assert_eq!(location(&answer), goes, "{next}");
    }
    let out = console.form("/sign-out", &cookie, &[]).send().await.unwrap();
    assert!(out.headers()["set-cookie"].to_str().unwrap().contains("Max-Age=0"));
    assert!(!console.is_in(&cookie).await);
    // What asks again by itself is told so, and goes nowhere.
    let live = console.request("GET", "/").header("cookie", &cookie).header("x-noshi-live", "1").send().await.unwrap();
    assert_eq!(live.status(), 401);
}

#[tokio::test]
async fn another_site_and_another_name_change_nothing() {
    let console = Console::open().await;
    let cookie = console.sign_in("sato", &["read", "operate"]).await;
    let batch =
        console.request("POST", "/batches/1/acts").header("cookie", &cookie).header("sec-fetch-site", "same-site");
    assert_eq!(batch.send().await.unwrap().status(), 403);
    for (name, value) in [
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
        ("sec-fetch-site", "none"),
        ("origin", "https://evil.example"),
        ("origin", "null"),
    ] {
        let request = console.request("POST", "/sign-out").header("cookie", &cookie).header(name, value);
        assert_eq!(request.send().await.unwrap().status(), 403, "{name}: {value}");
    }
    assert_eq!(console.request("POST", "/sign-out").header("cookie", &cookie).send().await.unwrap().status(), 403);
    let other = console.request("GET", "/").header("cookie", &cookie).header("host", "evil.example");
    assert_eq!(other.send().await.unwrap().status(), 421);
    assert!(console.is_in(&cookie).await);
    let ours = console.request("POST", "/sign-out").header("cookie", &cookie).header("origin", &console.origin);
    assert_eq!(ours.send().await.unwrap().status(), 303);
}

/// Jobs, a lane and a worker whose texts somebody hostile wrote.
async fn hostile(console: &Console) -> String {
    let long = format!("<script>alert(1)</script>{}", "x".repeat(170));
    probe(&console.db.pool, json!({"id": &long, "steps": 1})).await;
    let args = json!({"organization": "O-1", "public_id": "S-2", "name": "CANARY-NAME", "request": "r",
        "contact": {"phone": "CANARY-PHONE", "address": "CANARY-ADDRESS"}});
    let insert =
        "insert into noshi.job (kind, key, fingerprint, args) values ('store_creation', 'O-1/S-2/1', sha256('x'), $1)";
    sqlx::query(insert).bind(&args).execute(&console.db.pool).await.unwrap();
    console.run("insert into noshi.worker (name) values (E'<b>\\u202Eeno')").await;
    console.run("insert into noshi.lane (name) values ('gift/<i>x') on conflict do nothing").await;
    let file = r#"select noshi.invalid_batch('grants', 'all_or_nothing', sha256('x'), '<script>f', '<script>c',
        '[{"line": 2, "field": "<script>", "sentence": "<script>alert(1)</script>"}]')"#;
    console.run(file).await;
    long
}

#[tokio::test]
async fn what_others_wrote_does_no_harm_and_what_is_private_is_not_sent() {
    let console = Console::open().await;
    let token = console.token("sato", &["read", "operate", "approve"]).await;
    let cookie = console.session(&token).await;
    let long = hostile(&console).await;
    let job = format!("/jobs/probe/{}", long.replace('<', "%3C").replace('>', "%3E").replace('/', "%2F"));
    let secret = cookie.split_once('.').unwrap().1;
    for page in PAGES.into_iter().chain([
        job.as_str(),
        "/batches/1",
        "/jobs/store_creation/O-1%2FS-2%2F1",
        "/find?of=%3Cscript%3E%00",
    ]) {
        let answer = console.get(page, &cookie).await;
        assert_eq!(answer.status(), 200, "{page}");
        let text = answer.text().await.unwrap();
        assert!(!text.contains("<script>") && !text.contains("<b>\u{202e}") && !text.contains('\u{202e}'), "{page}");
        for canary in ["CANARY", secret, token.expose_secret()] {
            assert!(!text.contains(canary), "{page} sends {canary}");
        }
    }
    assert!(console.get(&job, &cookie).await.text().await.unwrap().contains("&lt;script&gt;"));
}

#[tokio::test]
async fn to_look_changes_nothing() {
    let console = Console::open().await;
    let cookie = console.sign_in("sato", &["read", "operate", "approve"]).await;
    probe(&console.db.pool, json!({"id": "p", "steps": 1})).await;
    const STANDS: &str = "select concat_ws(' ', (select count(*) from noshi.audit), (select string_agg(j::text, ',' order by id) from noshi.job j), (select string_agg(l::text, ',' order by name) from noshi.lane l))";
    let before: String = sqlx::query_scalar(STANDS).fetch_one(&console.db.pool).await.unwrap();
    for page in PAGES.into_iter().chain([
        "/jobs/probe/p",
        "/jobs/probe/p/acts",
        "/lanes/acts?lane=probe&act=pause&reason=x",
        "/sign-out",
    ]) {
        console.get(page, &cookie).await;
    }
    assert_eq!(sqlx::query_scalar::<_, String>(STANDS).fetch_one(&console.db.pool).await.unwrap(), before);
}

#[tokio::test]
async fn a_page_that_did_not_change_is_not_sent_again() {
    let console = Console::open().await;
    let cookie = console.sign_in("sato", &["read"]).await;
    let mark = console.get("/lanes", &cookie).await.headers()["etag"].to_str().unwrap().to_owned();
    let again =
        |mark: String| console.request("GET", "/lanes").header("cookie", &cookie).header("if-none-match", mark).send();
    assert_eq!(again(mark.clone()).await.unwrap().status(), 304);
    console.run("insert into noshi.lane (name) values ('gift/new')").await;
    assert_eq!(again(mark).await.unwrap().status(), 200);
}

#[tokio::test]
async fn an_act_is_done_in_its_persons_name_and_refused_without_the_scope() {
    let console = Console::open().await;
    console.run("insert into noshi.lane (name) values ('gift/a') on conflict do nothing").await;
    let (reader, operator) =
        (console.sign_in("sato", &["read"]).await, console.sign_in("ito", &["read", "operate"]).await);
    let gift = json!({"grant": "p", "user": "u", "category": "coffee", "value": {"amount": 500, "currency": "JPY"}});
    let enqueue = sqlx::query("select noshi.enqueue('gift_issuance', 'p', $1)").bind(gift);
    enqueue.execute(&console.db.pool).await.unwrap();
    let pause = [("lane", "gift/a"), ("act", "pause"), ("reason", "the partner asked")];
    let cancel = [("act", "cancel"), ("step", "0"), ("reason", "not wanted")];
    let confirm = [("act", "confirm"), ("digest", "00"), ("reason", "seen")];
    let release = [("act", "release"), ("status", "validated"), ("reason", "wanted")];
    for (path, fields) in [
        ("/lanes/acts", &pause),
        ("/jobs/gift_issuance/p/acts", &cancel),
        ("/proposals/1/acts", &confirm),
        ("/batches/1/acts", &release),
    ] {
        assert_eq!(console.post(path, &reader, fields).await.0, 403, "{path}");
        let stranger = console.form(path, "", fields).send().await.unwrap();
        assert_eq!((stranger.status().as_u16(), location(&stranger)), (303, "/sign-in?next=%2F"), "{path}");
    }
    // The database refuses it, too.
    let bearer = Bearer::read(reader.split_once('=').unwrap().1).unwrap();
    let pool = db::connect_by(&console.url, &Caller { bearer, traceparent: None }).await.unwrap();
    assert!(lanes::pause(&pool, "gift/a", Some("x")).await.unwrap_err().to_string().contains("may not operate"));

    assert_eq!(
        console.post("/lanes/acts", &operator, &[("lane", "gift/a"), ("act", "pause"), ("reason", " ")]).await.0,
        422
    );
    let (status, page) = console.post("/lanes/acts", &operator, &pause).await;
    assert!(status == 200 && page.contains("the partner asked"), "{status} {page}");
    let did: (String, String) = sqlx::query_as("select who, reason from noshi.audit where act = 'lane pause'")
        .fetch_one(&console.db.pool)
        .await
        .unwrap();
    assert_eq!(did, ("ito".to_owned(), "the partner asked".to_owned()));
    let stale = [("act", "cancel"), ("step", "7"), ("reason", "not wanted")];
    assert_eq!(console.post("/jobs/gift_issuance/p/acts", &operator, &stale).await.0, 409);
    // Whoever signed in long ago is asked for the token again.
    console
        .run("update noshi.token set created_at = clock_timestamp() - interval '16 minutes' where parent is not null")
        .await;
    let old = console.form("/jobs/gift_issuance/p/acts", &operator, &cancel).send().await.unwrap();
    assert_eq!(location(&old), "/sign-in?again=true&next=%2Fjobs%2Fgift_issuance%2Fp");
    console.run("update noshi.token set created_at = clock_timestamp() where parent is not null").await;
    assert_eq!(console.post("/jobs/gift_issuance/p/acts", &operator, &cancel).await.0, 200);
}

#[tokio::test]
async fn it_does_not_start_where_browsers_would_not_trust_it() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut settings = Settings::default();
    settings.console.origin = "http://noshi.example".to_owned();
    let refused =
        tokio::time::timeout(Duration::from_secs(5), Server::on(&settings, "postgres://127.0.0.1:1/x", listener));
    let error = refused.await.unwrap().err().unwrap().to_string();
    assert!(error.contains("console.origin"), "{error}");
}
