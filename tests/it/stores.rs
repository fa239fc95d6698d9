//! Stores against the simulated organisation platform: a real worker, judged by the ledger and the tables.

use std::time::Duration;

use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};

use crate::{
    api::Api,
    fleet::{Fleet, Terms, address, fleet},
    processes::{count, ledger, until},
};
use noshi::{
    lab::simulator::{Command, Errand, Fault, Partner},
    vault::{
        Vault,
        contact::{Contact, as_asked},
    },
};

const P: Partner = Partner::OrganizationPlatform;
const REST: Duration = Duration::from_secs(60);

fn scene(fleet: &Fleet, scene: &Value) {
    let mut command = scene.clone();
    command["do"] = "platform".into();
    let command: Command = serde_json::from_value(command).expect("a scene");
    fleet.control().apply(command).expect("it is simulated");
}

/// Shops that are alive at the platform, made by us.
fn alive(fleet: &Fleet) -> usize {
    let lines = ledger(fleet);
    let of = |event: &str| {
        lines.iter().filter(|line| line["event"] == event).map(|line| line["shop"].clone()).collect::<Vec<_>>()
    };
    let deleted = of("shop_deleted");
    of("shop_created").into_iter().filter(|shop| !deleted.contains(shop)).count()
}

async fn number(fleet: &Fleet, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(&fleet.pool).await.expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_rows_become_two_hundred_stores_and_again_none() {
    let _turn = crate::support::turn().await;
    let fleet = fleet(Terms { faults: true, ..Terms::default() }).await;
    for n in 0..200 {
        fleet.store("O-1", &format!("S-{n:03}"), "batch-1").await;
    }
    let worker = fleet.worker("w", &[], &[]);
    fleet.at_rest(REST * 2).await.unwrap();
    assert_eq!(number(&fleet, "select count(*) from noshi.store").await, 200);
    assert_eq!(alive(&fleet), 200);
    let made = count(&fleet, "shop_created");
    for n in 0..200 {
        // The same rows of the same file, and of a corrected one.
        fleet.store("O-1", &format!("S-{n:03}"), "batch-1").await;
        fleet.store("O-1", &format!("S-{n:03}"), "batch-2").await;
    }
    let arrivals = count(&fleet, "arrival");
    fleet.at_rest(REST).await.unwrap();
    assert_eq!((count(&fleet, "shop_created"), count(&fleet, "arrival")), (made, arrivals));
    let skipped = "select count(*) from noshi.job where status = 'completed' and at = 'skipped'";
    assert_eq!(number(&fleet, skipped).await, 200);
    assert!(worker.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shop_that_cannot_be_deleted_for_a_while_is_no_orphan_at_rest() {
    let _turn = crate::support::turn().await;
    let fleet = fleet(Terms::default()).await;
    scene(&fleet, &json!({"scene": "organization", "organization": "O-1", "refuse": "services"}));
    scene(&fleet, &json!({"scene": "deletes", "answer": "failing"}));
    let job = fleet.store("O-1", "S-1", "batch-1").await;
    let worker = fleet.worker("w", &[], &[]);
    until("a deletion that fails", REST, async || count(&fleet, "shop_created") == 1 && deletions(&fleet) > 1).await;
    let (status, compensating): (String, bool) =
        sqlx::query_as("select status::text, undo is not null from noshi.job where id = $1")
            .bind(job)
            .fetch_one(&fleet.pool)
            .await
            .unwrap();
    assert!(compensating && status != "failed", "it is not reported as failed before the shop is gone: {status}");
    // By hand, for as long as one likes: the pauses between deletions grow to ten minutes.
    let longer = std::env::var("NOSHI_DELETES_FAIL_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    let longer = Duration::from_secs(longer.unwrap_or(0));
    tokio::time::sleep(longer).await;
    fleet.control().clear().unwrap();
    fleet.at_rest(REST + longer * 3).await.unwrap();
    let ended: (String, String, String) =
        sqlx::query_as("select status::text, outcome, code from noshi.job where id = $1")
            .bind(job)
            .fetch_one(&fleet.pool)
            .await
            .unwrap();
    assert_eq!(ended, ("failed".into(), "compensated".into(), "organization_refused".into()));
    assert_eq!((alive(&fleet), number(&fleet, "select count(*) from noshi.store").await), (0, 0));
    assert!(worker.stop().await.success());
}

fn deletions(fleet: &Fleet) -> usize {
    ledger(fleet).iter().filter(|line| line["event"] == "answer" && line["op"] == "delete_shop").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shop_that_may_not_be_deleted_is_a_question_for_a_person() {
    let _turn = crate::support::turn().await;
    let fleet = fleet(Terms::default()).await;
    let kept = fleet.store("NOSERVICE-1", "INUSE-1", "batch-1").await;
    // Behind it: another job of the same public id waits for what becomes of it.
    let blocked = fleet.store("O-2", "INUSE-1", "batch-2").await;
    let worker = fleet.worker("w", &[], &[]);
    let at = async |job: i64| -> (String, Option<String>, Option<String>) {
        sqlx::query_as("select status::text, code, outcome from noshi.job where id = $1")
            .bind(job)
            .fetch_one(&fleet.pool)
            .await
            .unwrap()
    };
    until("a question", REST, async || at(kept).await.0 == "needs_operator").await;
    assert_eq!(at(kept).await.1.as_deref(), Some("compensation_refused"));
    until("a blocked job", REST, async || at(blocked).await.2.as_deref() == Some("blocked")).await;
    assert_eq!((alive(&fleet), deletions(&fleet)), (1, 1), "nobody tries on by himself");

    // A person decides to keep it; the state table allows that here, and nothing that it does not name.
    let act = async |act: &'static str| {
        let command =
            ["job", "resolve", "store_creation", "NOSERVICE-1/INUSE-1/batch-1", "--reason", "in use", "--as", act];
        fleet.command(&command).await
    };
    let refused = act("reissue").await;
    let sentence = String::from_utf8_lossy(&refused.stderr);
    assert!(sentence.contains("reissue is not allowed at `refused`, being taken back"), "{sentence}");
    assert!(sentence.contains("you may: retry, attest_void, adopt"), "{sentence}");
    assert!(act("adopt").await.status.success());
    until("an adopted shop", REST, async || at(kept).await.0 == "completed").await;
    assert_eq!((alive(&fleet), number(&fleet, "select count(*) from noshi.store").await), (1, 1));
    // The one behind it finds the public id taken.
    until("an answer for the other", REST, async || at(blocked).await.1.as_deref() == Some("store_conflict")).await;
    let shown = fleet.command(&["job", "show", "store_creation", "NOSERVICE-1/INUSE-1/batch-1"]).await;
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("completed at created") && shown.contains("adopt"), "{shown}");
    assert!(worker.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_here_with_other_content_or_made_by_others_is_left_alone() {
    let _turn = crate::support::turn().await;
    let fleet = fleet(Terms::default()).await;
    scene(&fleet, &json!({"scene": "shop", "organization": "O-1", "public_id": "S-9", "name": "他店"}));
    fleet.control().script(P, Errand::CreateShop, Fault::EffectThenReset, 1).unwrap();
    let first = fleet.store("O-1", "S-1", "batch-1").await;
    let worker = fleet.worker("w", &[], &[]);
    fleet.at_rest(REST).await.unwrap();
    let other = fleet.store("O-2", "S-1", "batch-2").await;
    let taken = fleet.store("O-1", "S-9", "batch-2").await;
    fleet.at_rest(REST).await.unwrap();
    let end = async |job: i64| -> (String, Option<String>, Option<String>) {
        sqlx::query_as("select at, code, state ->> 'detail' from noshi.job where id = $1")
            .bind(job)
            .fetch_one(&fleet.pool)
            .await
            .unwrap()
    };
    assert_eq!(end(first).await.0, "created");
    assert_eq!(end(other).await, ("refused".into(), Some("store_conflict".into()), Some("organization".into())));
    assert_eq!(end(taken).await, ("refused".into(), Some("shop_refused".into()), Some("public_id_taken".into())));
    assert_eq!(number(&fleet, "select count(*) from noshi.store").await, 1);
    assert!(worker.stop().await.success());
}

/// What the platform says of a shop now: its name, its version, whether it is deleted.
async fn told(fleet: &Fleet, public_id: &str) -> Option<(Option<String>, i64, bool)> {
    sqlx::query_as("select name, version, deleted from noshi.store_cache where public_id = $1")
        .bind(public_id)
        .fetch_optional(&fleet.pool)
        .await
        .expect("what is kept")
}

async fn post(address: &str, headers: &[(&str, &str)], body: &str) -> u16 {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut request = client.post(format!("http://{address}/v1/events/organization")).body(body.to_owned());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.send().await.unwrap().status().as_u16()
}

/// As the platform signs it now.
fn signature(body: &str) -> (String, String) {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs().to_string();
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, b"demo-events-secret");
    let tag = ring::hmac::sign(&key, format!("{now}.{body}").as_bytes());
    (now, format!("sha256={}", hex::encode(tag)))
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_over_there_are_kept_here_before_the_insert_twice_and_out_of_order() {
    let _turn = crate::support::turn().await;
    let mut fleet = fleet(Terms { events: true, ..Terms::default() }).await;
    let twice = serde_json::from_value(json!({"do": "publishing", "copies": 2})).expect("a command");
    fleet.control().apply(twice).expect("each event comes twice");
    // Its creation is told while its own store cannot be there yet.
    fleet.control().script(P, Errand::AssignService, Fault::ThrottleSeconds, 1).unwrap();
    let job = fleet.store("O-1", "S-1", "batch-1").await;
    let worker = fleet.worker("w", &[], &[]);
    until("the event", REST, async || told(&fleet, "S-1").await.is_some()).await;
    let here = "select count(*) from noshi.store";
    assert_eq!(number(&fleet, here).await, 0, "the event came before our own insert");
    fleet.at_rest(REST).await.unwrap();
    assert_eq!(number(&fleet, here).await, 1);
    scene(&fleet, &json!({"scene": "updated", "organization": "O-1", "public_id": "S-1", "name": "新本店"}));
    scene(&fleet, &json!({"scene": "organization_updated", "organization": "O-1", "name": "会社"}));
    until("the change", REST, async || told(&fleet, "S-1").await == Some((Some("新本店".into()), 2, false))).await;

    let api = address(fleet.api.as_ref().unwrap(), "the API listens").await;
    let shop: String = sqlx::query_scalar("select shop from noshi.store where job = $1")
        .bind(job)
        .fetch_one(&fleet.pool)
        .await
        .unwrap();
    let event = |kind: &str, version: i64, name: Value| {
        let body = json!({"event_id": "e", "type": kind, "version": version, "organization": "O-1", "shop_id": shop, "public_id": "S-1", "name": name});
        let body = body.to_string();
        let (time, signature) = signature(&body);
        (body, time, signature)
    };
    for (kind, version, name, expected) in [
        ("shop.updated", 4, json!("四"), (Some("四"), 4, false)),
        // Late, and again.
        ("shop.updated", 3, json!("三"), (Some("四"), 4, false)),
        ("shop.updated", 4, json!("四"), (Some("四"), 4, false)),
        ("shop.deleted", 5, Value::Null, (Some("四"), 5, true)),
    ] {
        let (body, time, signature) = event(kind, version, name);
        let headers = [("x-organization-timestamp", &*time), ("x-organization-signature", &*signature)];
        assert_eq!(post(&api, &headers, &body).await, 204);
        let (name, version, deleted) = told(&fleet, "S-1").await.unwrap();
        assert_eq!((name.as_deref(), version, deleted), expected);
    }
    let (body, time, signature) = event("shop.updated", 9, json!("九"));
    let headers = [("x-organization-timestamp", &*time), ("x-organization-signature", &*signature)];
    assert_eq!(post(&api, &headers, &body.replace("S-1", "S-2")).await, 401);
    assert_eq!(post(&api, &[], &body).await, 401);
    let report: (String, String, bool) =
        sqlx::query_as("select name, organization_name, deleted from noshi.store_report where public_id = 'S-1'")
            .fetch_one(&fleet.pool)
            .await
            .unwrap();
    assert_eq!(report, ("四".into(), "会社".into(), true));
    assert!(worker.stop().await.success());
    assert!(fleet.api.take().expect("a api").stop().await.success());
}

/// R55: a file may be run again as it is, whatever happened on the way.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_999_rows_survives_five_kills_and_a_second_submission() {
    let _turn = crate::support::busy().await;
    let fleet = fleet(Terms { faults: true, jitter: Duration::from_millis(200), ..Terms::default() }).await;
    let rows: String = (0..999).map(|n| format!("O-{},S-{n:03},支店{n}\n", n % 7)).collect();
    let file = fleet.dir.path().join("stores.csv");
    std::fs::write(&file, format!("organization_id,public_id,name\n{rows}")).unwrap();
    let file = file.to_str().unwrap();
    let submit = ["batch", "submit", "--kind", "stores", "--release", file];
    assert!(fleet.command(&submit).await.status.success());
    let mut random = StdRng::seed_from_u64(999);
    for life in 0..5 {
        let mut worker = fleet.worker(&format!("w{life}"), &[], &[]);
        let goal = count(&fleet, "shop_created") + random.random_range(1..150);
        until("some more shops", REST, async || count(&fleet, "shop_created") >= goal).await;
        worker.child.kill().await.unwrap();
    }
    let worker = fleet.worker("last", &[], &[]);
    fleet.at_rest(REST * 2).await.unwrap();
    let ended =
        "select count(*) from noshi.job where kind = 'store_creation' and status = 'completed' and outcome = 'created'";
    assert_eq!(number(&fleet, ended).await, 999);
    assert_eq!((alive(&fleet), number(&fleet, "select count(*) from noshi.store").await), (999, 999));

    let before = (count(&fleet, "shop_created"), count(&fleet, "arrival"));
    let again = fleet.command(&submit).await;
    let said = String::from_utf8_lossy(&again.stdout).into_owned();
    assert!(said.contains("batch 1: 999 rows, the same file as before") && said.contains("999 completed"), "{said}");
    let rerun = fleet.command(&["batch", "rerun", "1", "--reason", "once more"]).await;
    assert!(String::from_utf8_lossy(&rerun.stdout).contains("0 failed jobs"), "{rerun:?}");
    fleet.at_rest(REST).await.unwrap();
    assert_eq!((count(&fleet, "shop_created"), count(&fleet, "arrival")), before);
    assert!(worker.stop().await.success());
}

/// The contact of a store, as SQL takes it.
fn sealed(fleet: &Fleet, public_id: &str, address: &str) -> Value {
    let vault = Vault::open(&fleet.dir.path().join("vault.key")).unwrap();
    let contact = Contact::of(Some(address.to_owned()), Some("03-1234".to_owned()));
    as_asked(&vault.seal(&Contact::place(public_id), &contact.text()))
}

async fn ask(fleet: &Fleet, public_id: &str, request: &str, more: Value) -> Result<i64, sqlx::Error> {
    let mut args = json!({"organization": "O-1", "public_id": public_id, "name": "本店", "request": request});
    args.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let asked = sqlx::query_scalar("select noshi.enqueue('store_creation', $1, $2)");
    asked.bind(format!("O-1/{public_id}/{request}")).bind(args).fetch_one(&fleet.pool).await
}

async fn ended(fleet: &Fleet, job: i64) -> (String, Option<String>, Option<String>) {
    sqlx::query_as("select at, outcome, state ->> 'detail' from noshi.job where id = $1")
        .bind(job)
        .fetch_one(&fleet.pool)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_is_opened_compared_and_sealed_again() {
    let _turn = crate::support::turn().await;
    let fleet = fleet(Terms::default()).await;
    let contact = |public_id: &str, address: &str| json!({"contact": sealed(&fleet, public_id, address)});
    let created = ask(&fleet, "S-1", "1", contact("S-1", "渋谷 1")).await.unwrap();
    // What an earlier version took.
    let before = json!({"organization": "O-1", "public_id": "S-2", "name": "本店", "address": "渋谷 2", "phone": "03-1234", "request": "1"});
    let plain = "insert into noshi.job (kind, key, fingerprint, args) values ('store_creation', 'O-1/S-2/1', sha256(convert_to($1::jsonb::text, 'UTF8')), $1)";
    sqlx::query(plain).bind(&before).execute(&fleet.pool).await.unwrap();
    assert_eq!(ask(&fleet, "S-1", "1", contact("S-1", "渋谷 1")).await.unwrap(), created, "each sealing differs");
    let worker = fleet.worker("w", &[], &[]);
    fleet.at_rest(REST).await.unwrap();
    assert_eq!(ended(&fleet, created).await.0, "created");
    for (public_id, address) in [("S-1", "渋谷 1"), ("S-2", "渋谷 2")] {
        let mut body = json!({"public_id": public_id, "name": "本店", "address": address, "phone": "03-1234"});
        let key = format!("O-1/{public_id}/1/0");
        assert_eq!(fleet.create_shop_again("O-1", &key, &body).await, 200, "{public_id}");
        body["address"] = "another".into();
        assert_eq!(fleet.create_shop_again("O-1", &key, &body).await, 422, "{public_id}");
    }
    assert!(worker.stop().await.success());

    // The old key may go: what it had sealed is under the new one.
    let file = fleet.dir.path().join("vault.key");
    let old = std::fs::read_to_string(&file).unwrap();
    let new = format!("k2:{}\n", "6b".repeat(32));
    std::fs::write(&file, format!("{new}{old}")).unwrap();
    let rotated = fleet.command(&["vault", "rotate"]).await;
    assert!(rotated.status.success(), "{}", String::from_utf8_lossy(&rotated.stderr));
    std::fs::write(&file, new).unwrap();
    let worker = fleet.worker("w2", &[], &[]);
    let same = ask(&fleet, "S-1", "2", contact("S-1", "渋谷 1")).await.unwrap();
    let other = ask(&fleet, "S-1", "3", contact("S-1", "渋谷 3")).await.unwrap();
    let none = ask(&fleet, "S-1", "4", json!({})).await.unwrap();
    let plain_before = ask(&fleet, "S-2", "2", contact("S-2", "渋谷 2")).await.unwrap();
    fleet.at_rest(REST).await.unwrap();
    for job in [same, plain_before] {
        assert_eq!(ended(&fleet, job).await.0, "skipped");
    }
    assert_eq!(ended(&fleet, other).await.2.as_deref(), Some("address"));
    assert_eq!(ended(&fleet, none).await.2.as_deref(), Some("address, phone"));

    // Sealed for another store: it waits, and nothing is created without it.
    let shops = count(&fleet, "shop_created");
    let moved = ask(&fleet, "S-3", "1", contact("S-1", "渋谷 3")).await.unwrap();
    until("it waits", REST, async || ended(&fleet, moved).await.1.as_deref() == Some("not_opened")).await;
    assert_eq!(count(&fleet, "shop_created"), shops);
    let log = std::fs::read_to_string(&worker.log).unwrap();
    assert!(log.contains("the sealed contact of grant `S-3`") && !log.contains("渋谷"), "{log}");
    assert!(worker.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_would_stand_in_the_database_is_refused() {
    let _turn = crate::support::turn().await;
    let api = Api::open().await;
    let refused = async |more: Value| {
        let error = ask(&api.fleet, "S-1", "1", more).await.expect_err("it is refused").to_string();
        assert!(!error.contains("1234"), "{error}");
        error
    };
    for field in ["address", "phone"] {
        let error = refused(json!({field: "03-1234"})).await;
        assert!(error.contains(&format!("args.{field}: this is sealed before")), "{error}");
        assert!(error.contains("noshi vault seal-contact"), "{error}");
    }
    let whole = sealed(&api.fleet, "S-1", "1234");
    for (field, value) in
        [("nonce", json!("short")), ("ciphertext", json!("a=b")), ("key", json!("a key")), ("more", json!(1))]
    {
        let mut wrong = whole.clone();
        wrong[field] = value;
        assert!(refused(json!({"contact": wrong})).await.contains("args.contact: this must be"), "{field}");
    }
    // The subject of somebody else's.
    assert!(refused(json!({"contact": "store_creation/O-1/S-1/1"})).await.contains("args.contact"));

    // A host without the public key says which setting it lacks.
    let host = api.fleet.dir.path().join("bare");
    std::fs::create_dir(&host).unwrap();
    std::fs::write(host.join("noshi.toml"), "").unwrap();
    let token = api.token("shop", &["enqueue"]).await;
    assert!(api.api.stop().await.success());
    let fleet = api.fleet;
    let api = crate::fleet::start_api(&fleet.url, &host, "127.0.0.1:0");
    let address = address(&api, "the API listens").await;
    let body = |args: Value| json!({"kind": "store_creation", "id": "O-1/S-1/1", "args": args});
    let post = async |args: Value| {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let call =
            client.post(format!("http://{address}/v1/jobs")).bearer_auth(secrecy::ExposeSecret::expose_secret(&token));
        let answer = call.json(&body(args)).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    let mut args =
        json!({"organization": "O-1", "public_id": "S-1", "name": "本店", "phone": "03-1234", "request": "1"});
    let (status, said) = post(args.clone()).await;
    assert!(status == 503 && said.contains("vault_public_key_file") && !said.contains("1234"), "{said}");
    args["phone"] = Value::Null;
    assert_eq!(post(args).await.0, 200);
    assert!(api.stop().await.success());
}
