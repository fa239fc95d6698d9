//! Effects that contracts declare: the examples against a server that loses answers, with a death at every point; and contracts that are refused.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use axum::{
    Json, Router,
    body::Body,
    extract::{Path as Part, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use noshi::{
    App,
    testkit::{Kit, Proofs, Proven, Rest, Walk},
};
use noshi_jobs::effect::{Args, Effect, State as At};
use serde_json::{Value, json};
use tempfile::TempDir;

/// What the partners have done, by id, or by what stands for it where none travels.
#[derive(Default)]
struct Ledger {
    done: HashMap<String, usize>,
    asked: HashMap<String, usize>,
}

impl Ledger {
    /// How often it was asked for before.
    fn ask(&mut self, id: &str) -> usize {
        let asked = self.asked.entry(id.to_owned()).or_default();
        *asked += 1;
        *asked - 1
    }
}

type Shared = Arc<Mutex<Ledger>>;

/// An answer that ends early, after the effect.
fn lost() -> Response {
    let broken = futures::stream::iter([Ok(vec![b'{']), Err(std::io::Error::other("cut"))]);
    Body::from_stream(broken).into_response()
}

fn faulty(id: &str, asked: usize) -> Option<Response> {
    match id {
        _ if id.contains("refused") => Some((StatusCode::UNPROCESSABLE_ENTITY, Json(json!({}))).into_response()),
        _ if id.contains("throttled") && asked == 0 => Some(StatusCode::TOO_MANY_REQUESTS.into_response()),
        // It never began.
        _ if id.contains("swallowed") && asked == 0 => Some(lost()),
        _ => None,
    }
}

fn answered(id: &str, asked: usize, whole: Response) -> Response {
    match id {
        _ if id.contains("lost") && asked == 0 => lost(),
        _ if id.contains("gateway") && asked == 0 => StatusCode::BAD_GATEWAY.into_response(),
        _ => whole,
    }
}

/// Dedups on the header.
async fn refund(State(ledger): State<Shared>, headers: HeaderMap, Json(body): Json<Value>) -> Response {
    let id = headers["idempotency-key"].to_str().unwrap().to_owned();
    let bearer = headers["authorization"].to_str().unwrap();
    if bearer != "Bearer s3cret" || !body["amount"].is_number() {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let mut ledger = ledger.lock().unwrap();
    let asked = ledger.ask(&id);
    if let Some(answer) = faulty(&id, asked) {
        return answer;
    }
    if id.contains("accepted") && asked < 1 {
        return StatusCode::ACCEPTED.into_response();
    }
    ledger.done.insert(id.clone(), 1);
    let whole = Json(json!({"status": "refunded", "receipt": format!("r-{id}")})).into_response();
    answered(&id, asked, whole)
}

/// Pays each time that it is called.
async fn payout(State(ledger): State<Shared>, Json(body): Json<Value>) -> Response {
    let id = body["reference"].as_str().unwrap().to_owned();
    let mut ledger = ledger.lock().unwrap();
    let asked = ledger.ask(&id);
    if let Some(answer) = faulty(&id, asked) {
        return answer;
    }
    *ledger.done.entry(id.clone()).or_default() += 1;
    let paid = json!({"state": "paid", "number": format!("n-{id}"), "call": ledger.done[&id]});
    let whole = (StatusCode::CREATED, Json(paid)).into_response();
    answered(&id, asked, whole)
}

async fn paid(State(ledger): State<Shared>, Part(id): Part<String>) -> Response {
    match ledger.lock().unwrap().done.contains_key(&id) {
        true => Json(json!({"state": "paid", "number": format!("n-{id}")})).into_response(),
        false => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn unpaid(State(ledger): State<Shared>, Part(id): Part<String>) -> StatusCode {
    ledger.lock().unwrap().done.remove(&id);
    StatusCode::NO_CONTENT
}

async fn topup(State(ledger): State<Shared>, Json(body): Json<Value>) -> Response {
    let phone = body["phone"].as_str().unwrap().to_owned();
    let mut ledger = ledger.lock().unwrap();
    let asked = ledger.ask(&phone);
    *ledger.done.entry(phone.clone()).or_default() += 1;
    answered(&phone, asked, Json(json!({"ok": true})).into_response())
}

async fn notice(State(ledger): State<Shared>, Json(body): Json<Value>) -> Response {
    let text = body["text"].as_str().unwrap().to_owned();
    let mut ledger = ledger.lock().unwrap();
    let asked = ledger.ask(&text);
    *ledger.done.entry(text.clone()).or_default() += 1;
    answered(&text, asked, "ok".into_response())
}

/// The four partners on one server, and the settings under which the examples call it.
async fn partners() -> (Shared, String, TempDir) {
    let ledger = Shared::default();
    let routes = Router::new()
        .route("/refunds", post(refund))
        .route("/payouts", post(payout))
        .route("/payouts/{id}", get(paid).delete(unpaid))
        .route("/topups", post(topup))
        .route("/services/s3cret", post(notice))
        .with_state(Arc::clone(&ledger));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async { axum::serve(listener, routes).await });
    let folder = TempDir::new().unwrap();
    let hosts = ["api.shop.example", "bank.example", "carrier.example", "hooks.chat.example"];
    for entry in fs::read_dir(examples()).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let here = hosts
            .iter()
            .fold(text, |text, host| text.replace(&format!("https://{host}"), &format!("http://{address}")));
        fs::write(folder.path().join(path.file_name().unwrap()), here.replace("calls = 1,", "calls = 50,")).unwrap();
    }
    for name in ["shop_token", "bank_token", "carrier_token", "chat_token"] {
        secret(&folder.path().join(name));
    }
    let at = folder.path().display();
    let settings =
        format!("[effects]\nfolder = '{at}'\nsecrets_folder = '{at}'\nhosts = ['{address}']\nallow_loopback = true\n");
    (ledger, settings, folder)
}

fn secret(file: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::write(file, "s3cret\n").unwrap();
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
}

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/effects")
}

async fn kit(settings: &str) -> Kit {
    // The walk of the effect is with those of the built-in jobs.
    Kit::start(env!("CARGO_BIN_EXE_noshi"), settings, &Proofs::of(&App::new())).await.unwrap()
}

/// A crash scene of each example.
struct Scene<const N: usize>;

const EFFECTS: [&str; 4] = ["refund", "payout", "topup", "notice"];

fn asked(effect: &str, id: &str) -> Args {
    let input: &[(&str, &str)] = match effect {
        "refund" => &[("payment", id), ("amount", "500")],
        "payout" => &[("account", "a-1"), ("amount", "500")],
        "topup" => &[("phone", id), ("amount", "500")],
        _ => &[("text", id)],
    };
    let input = input.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Args { effect: effect.to_owned(), id: id.to_owned(), input }
}

impl<const N: usize> Proven for Scene<N> {
    type Job = Effect;
    const FILE: &'static str = concat!(env!("CARGO_MANIFEST_DIR"), "/jobs/effect.rs");

    fn places() -> Vec<At> {
        vec![]
    }
    fn undos() -> Vec<noshi_jobs::machine::Never> {
        vec![]
    }
    fn walk(_: &mut Walk<Effect>) {}
    fn scene(n: usize) -> Args {
        asked(EFFECTS[N], &format!("{}-{n}", EFFECTS[N]))
    }
}

fn rests(rest: &Rest) -> (&str, &str, Option<&str>) {
    (&rest.status, &rest.at, rest.code.as_deref())
}

/// Whatever an answer meets on the way: what can be known is, and where nothing can, a person is asked.
#[tokio::test(flavor = "multi_thread")]
async fn a_contract_does_what_it_says() {
    let (ledger, settings, _folder) = partners().await;
    let kit = kit(&settings).await;
    let worker = kit.worker(&[]).unwrap();
    let done = ("completed", "done", None);
    let asks = ("needs_operator", "performing", Some("effect_unresolved"));
    let refused = ("failed", "refused", Some("effect_refused"));
    let cases = [
        ("refund", "plain", done, 1),
        ("refund", "lost", done, 1),
        ("refund", "gateway", done, 1),
        ("refund", "swallowed", done, 1),
        ("refund", "accepted", done, 1),
        ("refund", "throttled", done, 1),
        ("refund", "refused", refused, 0),
        ("payout", "plain", done, 1),
        ("payout", "lost", done, 1),
        ("payout", "gateway", done, 1),
        ("payout", "swallowed", done, 1),
        ("payout", "refused", refused, 0),
        ("topup", "plain", done, 1),
        ("topup", "lost", asks, 1),
        ("topup", "gateway", asks, 1),
        ("notice", "plain", done, 1),
        ("notice", "lost", asks, 1),
    ];
    let mut jobs = vec![];
    for (effect, what, ..) in &cases {
        let args = asked(effect, &format!("{effect}-{what}"));
        jobs.push(kit.ask("effect", &args.id, &serde_json::to_value(&args).unwrap()).await.unwrap());
    }
    for ((effect, what, end, made), job) in cases.iter().zip(jobs) {
        let rest = kit.rest(job).await.unwrap();
        assert_eq!(rests(&rest), *end, "{effect} {what}: {}", kit.log());
        let id = format!("{effect}-{what}");
        assert_eq!(ledger.lock().unwrap().done.get(&id).copied().unwrap_or_default(), *made, "{id}");
    }
    let owner = kit.connect().await.unwrap();
    let kept: String =
        sqlx::query_scalar("select state -> 'kept' -> 'plain' ->> 'receipt' from noshi.job where key = 'refund-lost'")
            .fetch_one(&owner)
            .await
            .unwrap();
    assert_eq!(kept, "r-refund-lost");
    assert!(!kit.log().contains("s3cret"), "a secret is in a log");
    // What does not fit is refused before anything is called.
    let args = json!({"effect": "refund", "id": "odd", "input": {"payment": "p", "amount": "5.5"}});
    let rest = kit.rest(kit.ask("effect", "odd", &args).await.unwrap()).await.unwrap();
    assert_eq!(rests(&rest), ("failed", "refused", Some("effect_misfit")));
    let twice =
        kit.ask("effect", "refund-plain", &serde_json::to_value(asked("payout", "refund-plain")).unwrap()).await;
    assert!(twice.is_err(), "one id is one effect, whatever its contract");
    let list = kit.run(&["job", "list", "--kind", "effect", "--code", "effect_unresolved"]).await.unwrap();
    assert!(list.contains("topup-lost"), "{list}");
    drop(worker);
}

async fn deaths<const N: usize>(knows: bool) {
    let (ledger, settings, _folder) = partners().await;
    let kit = kit(&settings).await;
    let judge = async |id: &str, rest: &Rest| {
        let made = ledger.lock().unwrap().done.get(id).copied().unwrap_or_default();
        match (rest.status.as_str(), made) {
            ("completed", 1) => Ok(()),
            ("needs_operator", 0 | 1) if !knows && rest.code.as_deref() == Some("effect_unresolved") => Ok(()),
            _ => Err(format!("{rest:?}, made {made} times")),
        }
    };
    let deaths = kit.deaths::<Scene<N>>(None, judge).await.unwrap();
    assert!(deaths.points.len() > 10, "{deaths:?}");
    assert_eq!(deaths.violations, Vec::<String>::new(), "{}", kit.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_death_makes_a_second_refund_where_the_id_dedups() {
    deaths::<0>(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_death_makes_a_second_payout_where_it_can_be_asked() {
    deaths::<1>(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_death_asks_a_person_where_nothing_can_be_known() {
    deaths::<2>(false).await;
    deaths::<3>(false).await;
}

/// A contract of the examples with one thing changed, the key that is refused, and why.
const REFUSED: [(&str, &str, &str, &str, &str); 27] = [
    ("refund", "timeout_ms = 2000", "timeout = 2000", "timeout", "unknown field"),
    ("refund", "timeout_ms = 2000", "timeout_ms = 60000", "timeout_ms", "a call that outlives it would be made again"),
    ("refund", "name = \"refund\"", "name = \"refunds\"", "name", "is called refund.toml"),
    ("refund", "{ \"idempotency-key\" = \"{id}\", ", "{ ", "perform", "it could act twice"),
    ("refund", "horizon_s = 82800", "horizon_s = 60", "doubt.horizon_s", "act twice"),
    ("payout", "settles_after_s = ", "settles_after_s = 9223372036854775807 # ", "doubt.settles_after_s", "deadline_s"),
    ("refund", "horizon_s = 82800", "", "doubt.horizon_s", "second effect"),
    ("refund", "method = \"POST\"", "method = \"GET\"", "perform.method", "may repeat a GET"),
    ("refund", "Bearer {secret:shop_token}", "Bearer abc", "perform.headers.authorization", "in plain"),
    ("refund", "status = [422]", "status = [502]", "perform.answers[2].means", "after the effect"),
    ("refund", "status = [422]", "status = [409]", "perform.answers[2].means", "is a refusal"),
    ("refund", "status = [422]", "status = [422, 201]", "perform.answers[2].means", "is a refusal"),
    ("refund", "{ status = [202], means", "{ status = [200], means", "perform.answers[1]", "at once"),
    ("refund", "status = [429]", "status = [503]", "perform.answers[3].means", "only 429"),
    ("refund", "https://api.shop.example", "https://{payment}.example", "perform.url", "must not choose whom to call"),
    ("refund", "https://api.shop.example", "ftp://api.shop.example", "perform.url", "https://"),
    ("refund", "https://api.shop.example", "https://me:pw@api.shop.example", "perform.url", "credentials"),
    ("refund", "\"amount\": \"{amount}\"", "\"amount\": \"{sum}\"", "perform.body/amount", "not among `input`"),
    (
        "refund",
        "\"amount\": \"{amount}\"",
        "\"amount\": \"{secret:shop_token}\"",
        "perform.body/amount",
        "not in a body",
    ),
    ("refund", "'{\"payment\"", "'\"payment\"", "perform.body", "no JSON"),
    ("refund", "receipt =", "code =", "keep.code.sealed", "sealed = true"),
    ("refund", "calls = 50", "calls = 0", "budget.calls", "nothing is ever called"),
    ("payout", "method = \"GET\"", "method = \"POST\"", "inquire.method", "must change nothing"),
    ("payout", "settles_after_s = 2", "settles_after_s = 1", "doubt.settles_after_s", "behind the answer"),
    ("payout", "status = [404]", "status = [500]", "inquire.answers[2].means", "twice"),
    (
        "payout",
        "rule = \"inquire\"\nsettles_after_s = 2",
        "rule = \"ask_a_person\"",
        "perform.answers[1].means",
        "nobody would learn",
    ),
    ("topup", "rule = \"ask_a_person\"", "rule = \"inquire\"", "perform", "it could act twice"),
];

#[test]
fn what_could_double_an_effect_is_refused_with_its_file_its_key_and_why() {
    let folder = TempDir::new().unwrap();
    for (name, old, new, key, why) in REFUSED {
        let text = fs::read_to_string(examples().join(format!("{name}.toml"))).unwrap();
        assert!(text.contains(old), "{name} has no {old}");
        let file = folder.path().join(format!("{name}.toml"));
        fs::write(&file, text.replacen(old, new, 1)).unwrap();
        let read = noshi::partners::effects::Contract::read(&file);
        let error = format!("{:#}", read.map(|contract| contract.name).expect_err(&format!("{new} is accepted")));
        let named = error.contains(&file.display().to_string()) && error.contains(&format!("`{key}`"));
        assert!(named && error.contains(why), "{name}, {new}: {error}");
    }
}

/// Whom a contract may call is for the settings to say.
#[test]
fn a_worker_does_not_start_with_a_contract_that_calls_elsewhere() {
    let folder = TempDir::new().unwrap();
    let contract = fs::read_to_string(examples().join("notice.toml")).unwrap();
    for (url, more, why) in [
        ("https://hooks.chat.example", "hosts = ['chat.example']", "not among the `hosts`"),
        ("http://hooks.chat.example", "hosts = ['hooks.chat.example']", "plain http"),
        ("http://127.0.0.1:9", "hosts = ['127.0.0.1:9']", "plain http"),
        ("https://localhost", "hosts = ['localhost']", "is this machine"),
        ("https://169.254.169.254", "hosts = ['169.254.169.254']\nallow_private = true", "inner network"),
        ("https://10.0.0.1", "hosts = ['10.0.0.1']", "inner network"),
        ("https://hooks.chat.example", "hosts = ['hooks.chat.example']", "names no `secrets_folder`"),
    ] {
        fs::write(folder.path().join("notice.toml"), contract.replace("https://hooks.chat.example", url)).unwrap();
        let settings = folder.path().join("noshi.cfg");
        fs::write(&settings, format!("[effects]\nfolder = '{}'\n{more}\n", folder.path().display())).unwrap();
        let ran = std::process::Command::new(env!("CARGO_BIN_EXE_noshi"))
            .args(["worker", "run"])
            .env("NOSHI_CONFIG", &settings)
            .env("DATABASE_URL", "postgres://127.0.0.1:1/none")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&ran.stderr);
        assert!(!ran.status.success() && said.contains(why) && said.contains("notice.toml"), "{url}: {said}");
    }
}

/// The commands, and a partner that does not keep its word.
#[tokio::test(flavor = "multi_thread")]
async fn a_contract_is_shown_and_tried() {
    let (_ledger, settings, folder) = partners().await;
    let file = folder.path().join("noshi.cfg");
    fs::write(&file, &settings).unwrap();
    let address = settings.split("hosts = ['").nth(1).unwrap().split('\'').next().unwrap().to_owned();
    let noshi = async |arguments: Vec<String>| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_noshi"));
        let ran =
            command.args(&arguments).env("NOSHI_CONFIG", &file).env_remove("DATABASE_URL").output().await.unwrap();
        let said = String::from_utf8_lossy(&[ran.stdout, ran.stderr].concat()).into_owned();
        (ran.status.success(), said)
    };
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let (shown, said) = noshi(words(&["effect", "show", "payout"])).await;
    assert!(shown && said.contains("| performing | perform | → inquiring |"), "{said}");
    assert!(said.contains("404") && said.contains("→ performing"), "{said}");
    let (checked, said) = noshi(words(&["effect", "check", &folder.path().join("topup.toml").to_string_lossy()])).await;
    assert!(checked && said.contains("stops for a person"), "{said}");
    let against = format!("http://{address}");
    for name in ["refund", "payout"] {
        let (held, said) = noshi(words(&["effect", "test", name, "--against", &against])).await;
        assert!(held && said.contains("holds") && !said.contains("FAILS"), "{name}: {said}");
    }
    // A contract that says of the bank that it dedups, which it does not.
    let text = fs::read_to_string(folder.path().join("refund.toml")).unwrap();
    let liar = text
        .replace("name = \"refund\"", "name = \"liar\"")
        .replace("/refunds", "/payouts")
        .replace("\"payment\":", "\"reference\":");
    let liar = liar.replace("/status", "/state").replace("\"refunded\"", "\"paid\"").replace("/receipt", "/call");
    fs::write(folder.path().join("liar.toml"), liar).unwrap();
    let (held, said) = noshi(words(&["effect", "test", "liar", "--against", &against])).await;
    assert!(!held && said.contains("FAILS  the same id again") && said.contains("a second effect"), "{said}");
}
