//! The refund against a real PostgreSQL and a shop that is scripted: every command knows it, and no death makes a second refund.

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
use noshi::{
    machine::Call,
    testkit::{Kit, Proofs, Proven, Rest, Walk},
};
use refund::job::{Args, Refund, Said, State as At, Undo, World};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// What a shop answers, at once.
struct Scripted(fn() -> Said, bool);

impl World for Scripted {
    fn hold<'a>(&'a self, _: &'a Args) -> Call<'a, bool> {
        Box::pin(async { self.1 })
    }
    fn refund<'a>(&'a self, _: &'a Args) -> Call<'a, Said> {
        Box::pin(async { (self.0)() })
    }
    fn inquire<'a>(&'a self, _: &'a Args) -> Call<'a, Said> {
        Box::pin(async { (self.0)() })
    }
    fn release<'a>(&'a self, _: &'a Args) -> Call<'a, bool> {
        Box::pin(async { self.1 })
    }
    fn book<'a>(&'a self, _: &'a Args, _: &'a str) -> Call<'a, ()> {
        Box::pin(async {})
    }
}

type Says = fn() -> Said;

const SAYS: [(&str, Says); 6] = [
    ("done", || Said::Done("r".into())),
    ("refused", || Said::Refused),
    ("conflict", || Said::Conflict),
    ("not found", || Said::NotFound),
    ("not sent", || Said::NotSent),
    ("unknown", || Said::Unknown),
];

struct Proof;

impl Proven for Proof {
    type Job = Refund;
    const FILE: &'static str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/job.rs");

    fn places() -> Vec<At> {
        let receipt = || "r".to_owned();
        let (booking, refunded) = (At::Booking { receipt: receipt() }, At::Refunded { receipt: receipt() });
        vec![At::Holding, At::Refunding, At::Inquiring, booking, refunded, At::Refused]
    }

    fn undos() -> Vec<Undo> {
        vec![Undo::Release]
    }

    fn walk(walk: &mut Walk<Refund>) {
        let plain = |clear| Scripted(|| Said::Unknown, clear);
        for (answer, clear) in [("held", true), ("unclear", false)] {
            walk.step(&At::Holding, answer, &plain(clear));
            walk.unwind(&Undo::Release, answer, &plain(clear));
        }
        for (answer, says) in SAYS {
            let world = Scripted(says, true);
            walk.step(&At::Refunding, answer, &world);
            walk.step(&At::Inquiring, answer, &world);
            let long_ago = std::time::Duration::from_secs(3);
            walk.under(&At::Inquiring, answer, "2 s after the call", &world, |this| noshi::machine::This {
                since_call: Some(long_ago),
                ..this
            });
        }
        for state in Self::places().into_iter().skip(3) {
            walk.step(&state, "whatever", &plain(true));
        }
    }

    fn scene(n: usize) -> Args {
        Args { payment: format!("plain-{n}"), amount: 500 }
    }
}

/// What the shop has done, by payment.
#[derive(Default)]
struct Ledger {
    refunds: HashMap<String, Vec<i64>>,
    held: HashSet<String>,
    seen: HashSet<String>,
}

type Shop = Arc<Mutex<Ledger>>;

async fn hold(State(shop): State<Shop>, Path(payment): Path<String>) -> StatusCode {
    shop.lock().unwrap().held.insert(payment);
    StatusCode::OK
}

async fn release(State(shop): State<Shop>, Path(payment): Path<String>) -> StatusCode {
    shop.lock().unwrap().held.remove(&payment);
    StatusCode::NO_CONTENT
}

/// Of a payment that begins with `lost`, the first answer is lost after its effect.
async fn refund(State(shop): State<Shop>, Json(asked): Json<Value>) -> (StatusCode, Json<Value>) {
    let mut shop = shop.lock().unwrap();
    let payment = asked["payment"].as_str().unwrap().to_owned();
    if payment.starts_with("refused") {
        return (StatusCode::UNPROCESSABLE_ENTITY, Json(json!({})));
    }
    if payment.starts_with("conflict") {
        return (StatusCode::CONFLICT, Json(json!({})));
    }
    shop.refunds.entry(payment.clone()).or_default().push(asked["amount"].as_i64().unwrap());
    if payment.starts_with("lost") && shop.seen.insert(payment.clone()) {
        return (StatusCode::BAD_GATEWAY, Json(json!({})));
    }
    (StatusCode::CREATED, Json(json!({"receipt": format!("r-{payment}")})))
}

async fn inquire(State(shop): State<Shop>, Path(payment): Path<String>) -> (StatusCode, Json<Value>) {
    match shop.lock().unwrap().refunds.contains_key(&payment) {
        true => (StatusCode::OK, Json(json!({"receipt": format!("r-{payment}")}))),
        false => (StatusCode::NOT_FOUND, Json(json!({}))),
    }
}

async fn start() -> (Kit, Shop) {
    let shop = Shop::default();
    let routes = Router::new()
        .route("/holds/{payment}", put(hold).delete(release))
        .route("/refunds", post(refund))
        .route("/refunds/{payment}", get(inquire))
        .with_state(Arc::clone(&shop));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let settings =
        format!("[refund]\nbase_url = \"http://{}\"\ncalls_per_second = 500\n", listener.local_addr().unwrap());
    tokio::spawn(async { axum::serve(listener, routes).await });
    let proofs = Proofs::of(&refund::app()).job::<Proof>();
    (Kit::start(env!("CARGO_BIN_EXE_refund"), &settings, &proofs).await.unwrap(), shop)
}

async fn metrics(address: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

fn asked(payment: &str) -> (String, Value) {
    (payment.to_owned(), json!({"payment": payment, "amount": 500}))
}

fn rests(rest: &Rest) -> (&str, &str, Option<&str>) {
    (&rest.status, &rest.at, rest.code.as_deref())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_knows_the_job() {
    let (kit, shop) = start().await;
    let port = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
    let worker = kit.worker(&[("NOSHI_WORKER__METRICS", &port)]).unwrap();
    let mut jobs = HashMap::new();
    for payment in ["plain", "lost-1", "refused-1", "conflict-1"] {
        let (id, args) = asked(payment);
        jobs.insert(payment, kit.ask("refund", &id, &args).await.unwrap());
    }
    let mut ends = HashMap::new();
    for (payment, job) in &jobs {
        ends.insert(*payment, kit.rest(*job).await.unwrap());
    }
    assert_eq!(rests(&ends["plain"]), ("completed", "refunded", None), "{}", kit.log());
    assert_eq!(rests(&ends["lost-1"]), ("completed", "refunded", None), "{}", kit.log());
    assert_eq!(rests(&ends["refused-1"]), ("failed", "refused", Some("refund_refused")));
    assert_eq!(rests(&ends["conflict-1"]), ("needs_operator", "refunding", Some("refund_conflict")));
    assert!(!shop.lock().unwrap().held.contains("refused-1"), "the hold is released");
    assert_eq!(shop.lock().unwrap().refunds["lost-1"].len(), 1);

    let metrics = metrics(&port).await;
    for series in [
        r#"noshi_jobs_total{kind="refund",outcome="completed"} 2"#,
        r#"noshi_problems_total{code="refund_conflict"} 1"#,
        r#"provider="shop""#,
    ] {
        assert!(metrics.contains(series), "{series} is not in {metrics}");
    }
    assert!(!metrics.contains("gift_issuance"), "only its own kinds");
    let _begun = refund::app().begin().unwrap();
    let described = noshi::api::openapi::document();
    assert_eq!(described["x-arguments"]["refund"]["required"], json!(["payment", "amount"]), "{described}");

    let list = kit.run(&["job", "list", "--kind", "refund"]).await.unwrap();
    assert!(list.contains("conflict-1") && list.contains("refund_conflict"), "{list}");
    let explained = kit.run(&["job", "explain", "refund", "conflict-1"]).await.unwrap();
    assert!(explained.contains("noshi kind page refund_conflict"), "{explained}");
    let page = kit.run(&["kind", "page", "refund_conflict"]).await.unwrap();
    assert!(page.starts_with("# refund_conflict"), "{page}");
    let shown = kit.run(&["kind", "show", "refund"]).await.unwrap();
    assert!(shown.contains("its id is `payment`") && shown.contains("refund_refused"), "{shown}");
    assert!(!kit.run(&["kind", "list"]).await.unwrap().contains("gift_issuance"), "only its own");
    let plan = ["redrive", "plan", "--kind", "refund", "--code", "refund_conflict", "-o", "json"];
    let plan = kit.run(&plan).await.unwrap();
    assert!(plan.contains("conflict-1"), "{plan}");
    let doctor = kit.output(&["doctor"]).await.unwrap();
    let doctor = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(!doctor.contains("refund does not know") && doctor.contains("migrations"), "{doctor}");
    let status = kit.run(&["migrate", "status"]).await.unwrap();
    assert!(status.contains("own: refund") && !status.contains("pending"), "{status}");

    let owner = kit.connect().await.unwrap();
    let facts: i64 = sqlx::query_scalar(
        "select count(*) from noshi.fact f join refund.ledger l on l.job = f.job where f.name = 'refunded'",
    )
    .fetch_one(&owner)
    .await
    .unwrap();
    assert_eq!(facts, 2);
    drop(worker);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_database_refuses_what_no_worker_reads() {
    let (kit, _) = start().await;
    for (id, args, wanted) in [
        ("p", json!({"payment": "p"}), "args.amount: this is missing"),
        ("p", json!({"payment": "p", "amount": 0}), "args.amount: this must be"),
        ("p", json!({"payment": "p p", "amount": 1}), "args.payment: this must be"),
        ("p", json!({"payment": "p", "amount": 1, "to": "x"}), "there is a field that is not known"),
        ("q", json!({"payment": "p", "amount": 1}), "id: this must be what args.payment is"),
    ] {
        let refused = kit.ask("refund", id, &args).await.unwrap_err().to_string();
        assert!(refused.contains(wanted), "{refused}");
    }
    let unknown = kit.ask("refnd", "p", &json!({})).await.unwrap_err().to_string();
    assert!(unknown.contains("there is no kind"), "{unknown}");
    let other = kit.output(&["job", "enqueue", "refund", "--id", "p", "--args", "{\"payment\": \"p\"}"]).await.unwrap();
    assert!(String::from_utf8_lossy(&other.stderr).contains("args.amount"), "{other:?}");
}

/// A file is asked for as a whole, or nothing of it; and each line is told.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_refunds_is_taken_as_a_whole() {
    let (kit, _) = start().await;
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("refunds.csv");
    let path = file.to_str().unwrap();
    let owner = kit.connect().await.unwrap();
    let jobs = async || sqlx::query_scalar::<_, i64>("select count(*) from noshi.job").fetch_one(&owner).await.unwrap();
    let enqueue = ["job", "submit", "refund", path];
    for (text, wanted) in [
        ("", "the file is empty"),
        ("payment,amount\n", "no row follows the header"),
        ("payment\np-1\n", "field `amount`: this column is missing"),
        ("payment,amount,to\np-1,5,x\n", "column 3 is not known"),
        ("payment,amount\np-1,5\np-2,0\n", "line 3, field `amount`: this must be"),
        ("payment,amount\np-1,5\np-2\n", "line 3: the line has 1 fields"),
        ("payment,amount\np-1,\n", "line 2, field `amount`: this is missing"),
        ("payment,amount\np 1,5\n", "line 2, field `payment`: this must be"),
        ("payment,amount\np-1,5.5\n", "line 2, field `amount`: this must be"),
        ("payment,amount\np-1,5\n\np-1,6\n", "line 4: refund p-1 exists with other arguments"),
    ] {
        std::fs::write(&file, text).unwrap();
        let said = kit.output(&enqueue).await.unwrap();
        let said = format!("{:?} {}", said.status.code(), String::from_utf8_lossy(&said.stderr));
        assert!(said.starts_with("Some(1)") && said.contains(wanted), "{text:?}: {said}");
        assert_eq!(jobs().await, 0, "{text:?}");
    }
    let rows: String = (0..12_000).map(|row| format!("{},p-{row}\r\n", row + 1)).collect();
    std::fs::write(&file, format!("\u{feff}amount,payment\r\n{rows}")).unwrap();
    for _ in 0..2 {
        assert!(kit.run(&enqueue).await.unwrap().contains("12000 jobs of refund"));
        assert_eq!(jobs().await, 12_000);
    }
    std::fs::write(&file, format!("amount,payment\n7,q\n{rows}9,p-11999\n")).unwrap();
    let said = kit.output(&enqueue).await.unwrap();
    assert!(String::from_utf8_lossy(&said.stderr).contains("line 12003"), "{said:?}");
    assert_eq!(jobs().await, 12_000);
}

/// Whatever the point, one refund, booked here as it was made there.
#[tokio::test(flavor = "multi_thread")]
async fn no_death_makes_a_second_refund() {
    let (kit, shop) = start().await;
    let judge = async |payment: &str, rest: &Rest| {
        let made = shop.lock().unwrap().refunds.get(payment).map_or(0, Vec::len);
        match (rest.status.as_str(), made) {
            ("completed", 1) => Ok(()),
            _ => Err(format!("{rest:?}, refunded {made} times")),
        }
    };
    let deaths = kit.deaths::<Proof>(None, judge).await.unwrap();
    assert!(deaths.points.len() > 10, "{deaths:?}");
    assert_eq!(deaths.violations, Vec::<String>::new(), "{}", kit.log());
    // The same with a defence taken away: what answers unclearly is called again, blindly.
    let (id, args) = asked("lost-blind");
    let blind = kit.worker(&[("NOSHI_BUG", "blind_retry")]).unwrap();
    let rest = kit.rest(kit.ask("refund", &id, &args).await.unwrap()).await.unwrap();
    assert!(judge(&id, &rest).await.is_err(), "{rest:?}");
    drop(blind);
}
