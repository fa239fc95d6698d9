//! What is sealed opens in a worker alone: for a host of the interface or of an operator that holds nothing which opens or buys.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use noshi_jobs::gift_issuance::Sealed;
use rustix::process::Signal;
use secrecy::SecretString;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Executor, Row};

use crate::{
    api::Api,
    batches::person,
    fleet::{Fleet, Terms, fleet},
    peace::login,
    processes::{count, until},
    support::{database, turn},
};
use noshi::{
    db::{self, PgPool, Role},
    operator::readings::ask::{self, By, Ears, Next, What},
    settings::Settings,
    vault::{SealedAt, Sealer, Vault},
    worlds::outside::Partners,
};

const HEADER: &str = "grant_id,user_id,name,email,category,amount,currency\n";
const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn rows(from: usize, to: usize, category: &str) -> String {
    (from..to).map(|n| format!("{category}-{n},u{n},山田,a{n}@example.jp,{category},500,JPY\n")).collect()
}

/// The folder of a host that takes files in and shows codes: the settings that all share, and public keys.
fn host(fleet: &Fleet) -> PathBuf {
    let (ours, host) = (fleet.dir.path(), fleet.dir.path().join("host"));
    fs::create_dir(&host).expect("a folder");
    let keys = Vault::open(&ours.join("vault.key")).expect("the keys");
    fs::write(host.join("vault.pub"), keys.public_lines().join("\n")).expect("public keys");
    fs::set_permissions(host.join("vault.pub"), fs::Permissions::from_mode(0o644)).expect("its mode");
    let text = fs::read_to_string(ours.join("noshi.toml")).expect("the settings");
    // What the workers' settings name is on the workers' hosts.
    let text = text.replace(&format!("{}/", ours.display()), "/nowhere/");
    let text = text.replace(
        "vault_key_file = '/nowhere/vault.key'",
        &format!("vault_public_key_file = '{}/vault.pub'", host.display()),
    );
    // The secret of the platform's events is the API's own; this one takes none.
    let text: String =
        text.lines().filter(|line| !line.starts_with("events_secret_file")).map(|line| format!("{line}\n")).collect();
    fs::write(host.join("noshi.toml"), text).expect("the settings");
    host
}

fn settings(folder: &Path) -> Settings {
    Settings::read(Some(&folder.join("noshi.toml"))).expect("settings")
}

/// To the keys of the fleet's workers.
fn sealer(fleet: &Fleet) -> Sealer {
    Sealer::clone(&Vault::open(&fleet.dir.path().join("vault.key")).expect("the keys"))
}

/// A command as an operator gives it on that host.
async fn command(fleet: &Fleet, host: &Path, arguments: &[&str]) -> (bool, String, String) {
    let command = tokio::process::Command::new(env!("CARGO_BIN_EXE_noshi"))
        .args(arguments)
        .env("DATABASE_URL", &fleet.url)
        .env("NOSHI_CONFIG", host.join("noshi.toml"))
        .output();
    let output = command.await.expect("a command");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (output.status.success(), text(output.stdout), text(output.stderr))
}

/// Everything is served from there, and nothing of it opens there.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_with_no_secret_reveals_reports_and_approves() {
    let _turn = turn().await;
    let fleet = fleet(Terms::default()).await;
    let host = host(&fleet);
    let api = Api::on(fleet, &host).await;
    let worker = api.fleet.worker("opens", &[], &[]);
    let (sato, suzuki) =
        (api.token("sato", &["enqueue", "read", "operate", "personal"]).await, api.token("suzuki", &["approve"]).await);
    let csv = format!("{HEADER}{}{}{}", rows(0, 40, "digital"), rows(0, 40, "prepaid"), rows(0, 40, "amazon"));
    let (status, made) = api.upload("issue=true", &sato, &csv).await;
    assert_eq!((status, &made["needs_approval"]), (200, &json!(true)), "{made}");
    let path = |act: &str| format!("/v1/batches/{}/{act}", made["batch"]);
    let approve = json!({"digest": made["approval_digest"], "reason": "read"});
    let (status, said) = api.post(&path("approve"), &suzuki, &approve).await;
    assert_eq!(status, 200, "{said}");
    assert_eq!(api.post(&path("release"), &sato, &json!({})).await.0, 200);
    until("issued gifts", Duration::from_secs(60), async || count(&api.fleet, "issued") == 120).await;
    api.fleet.at_rest(Duration::from_secs(30)).await.expect("at rest");

    let app = api.token("app", &["reveal"]).await;
    let mut took = vec![];
    for category in ["digital", "prepaid", "amazon"] {
        for n in 0..10 {
            let began = Instant::now();
            let ask = json!({"user": format!("u{n}"), "reason": "shown"});
            let (status, shown) = api.post(&format!("/v1/gifts/{category}-{n}/reveal"), &app, &ask).await;
            assert_eq!(status, 200, "{category}-{n}: {shown}");
            assert!(shown["code"].as_str().is_some_and(|code| code.starts_with("CNRY-")));
            took.push(began.elapsed());
        }
    }
    assert_eq!(count(&api.fleet, "issued"), 120, "nothing was bought to be shown");
    took[..20].sort_unstable();
    println!("a kept code was shown in {:?}, in the middle", took[10]);
    assert!(took[10] < Duration::from_millis(400), "{:?}", took[10]);

    let report = api.request("GET", &path("report"), Some(&sato)).send().await.expect("a report");
    let report = report.text().await.expect("a report");
    assert_eq!((report.lines().count(), report.matches("山田").count()), (121, 120));
    let (done, by_command, said) = command(&api.fleet, &host, &["batch", "report", "1"]).await;
    assert!(done && by_command == report, "{said}");
    let left: i64 = sqlx::query_scalar(
        "select (select count(*) from noshi.reading) + (select count(*) from noshi_sealed.reading_part)",
    )
    .fetch_one(&api.fleet.pool)
    .await
    .expect("what is left");
    assert_eq!(left, 0, "what was fetched is gone");
    assert!(worker.stop().await.success());

    nothing_opens_there(&api.fleet, &host).await;
}

/// Neither a partner's key nor one of the vault is in any file of the host, and what is sealed does not open with what is there.
async fn nothing_opens_there(fleet: &Fleet, host: &Path) {
    let ours = fleet.dir.path();
    let key = fs::read_to_string(ours.join("vault.key")).expect("the key");
    let key = key.trim().split_once(':').expect("a key").1.to_owned();
    let secrets: Vec<String> = ["amazon.secret", "gods.secret", "tango.secret", "organization.token"]
        .iter()
        .map(|name| fs::read_to_string(ours.join(name)).expect("a secret"))
        .chain([key])
        .collect();
    let values = "select what, grant_id, provider, key_id, nonce, ciphertext from noshi_sealed.sealed";
    let values = sqlx::query(values).fetch_all(&fleet.pool).await.expect("sealed values");
    assert!(values.len() > 200, "{}", values.len());
    for entry in fs::read_dir(host).expect("the host").map(Result::unwrap) {
        let text = fs::read_to_string(entry.path()).expect("a file");
        let found = secrets.iter().find(|secret| text.contains(secret.as_str()));
        assert_eq!(found, None, "{}", entry.path().display());
        // As a key file, too, it opens nothing.
        let closed = fs::Permissions::from_mode(0o600);
        fs::set_permissions(entry.path(), closed).expect("its mode");
        let Ok(vault) = Vault::open(&entry.path()) else { continue };
        for row in &values {
            let place = SealedAt { grant: row.get("grant_id"), provider: row.get("provider"), column: row.get("what") };
            let sealed =
                Sealed { key_id: row.get("key_id"), nonce: row.get("nonce"), ciphertext: row.get("ciphertext") };
            assert!(vault.open_bytes(&place, &sealed).is_err(), "{}", entry.path().display());
        }
    }
    let settings = settings(host);
    assert!(settings.vault().is_err() && settings.gifts().is_err() && settings.stores().is_err());
    assert!(settings.sealer().is_ok() && settings.offers().is_ok_and(|offers| offers.names().count() == 3));
}

/// As the pages have them installed, the interface is handed no secret but its own.
#[test]
fn the_interface_is_handed_no_secret_but_its_login() {
    for (file, what) in [
        ("ops/kubernetes/api.yaml", "noshi-secrets"),
        ("ops/kubernetes/api.yaml", "VAULT_KEY_FILE"),
        ("ops/kubernetes/noshi.toml", "vault_key_file"),
        ("ops/systemd/noshi-api.service", "vault.key"),
        ("ops/docker/noshi.toml", "vault_key_file"),
    ] {
        let text = fs::read_to_string(Path::new(ROOT).join(file)).expect("a manifest");
        let told = text.lines().find(|line| line.contains(what) && !line.trim_start().starts_with('#'));
        assert_eq!(told, None, "{file}");
    }
    let compose = fs::read_to_string(Path::new(ROOT).join("ops/docker/compose.yaml")).expect("a manifest");
    let api = compose.split("\n  api:\n").nth(1).and_then(|rest| rest.split("\n\n").next()).expect("the interface");
    assert!(api.contains("secrets: [vault.pub, api.pgpass]") && !api.contains("vault.key"), "{api}");
}

/// Nobody answers: that is told in time, with what it means.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_worker_whoever_asks_is_told_in_time() {
    let _turn = turn().await;
    let fleet = fleet(Terms::default()).await;
    let host = host(&fleet);
    let worker = fleet.worker("issues", &[], &[]);
    fleet.gift("kept", "digital", 500).await;
    fleet.at_rest(Duration::from_secs(30)).await.expect("at rest");
    assert!(worker.stop().await.success());
    let api = Api::on(fleet, &host).await;
    fs::write(host.join("grants.csv"), format!("{HEADER}{}", rows(0, 2, "digital"))).expect("a file");
    let file = host.join("grants.csv").display().to_string();
    assert!(command(&api.fleet, &host, &["batch", "submit", &file]).await.0);

    let app = api.token("app", &["reveal"]).await;
    let began = Instant::now();
    let ask = json!({"user": "u1", "reason": "shown"});
    let out = host.join("report.csv").display().to_string();
    let report = ["batch", "report", "1", "--out", &out];
    let (revealed, reported) = tokio::join!(
        async { (api.post("/v1/gifts/kept/reveal", &app, &ask).await, began.elapsed()) },
        command(&api.fleet, &host, &report)
    );
    let ((status, problem), took) = revealed;
    let detail = problem["detail"].as_str().unwrap_or_default();
    assert_eq!(status, 503, "{problem}");
    assert!(
        detail.contains("No worker answered in time") && detail.contains("nothing was asked of its partner"),
        "{detail}"
    );
    assert!(took > Duration::from_secs(10) && took < Duration::from_secs(20), "{took:?}");
    assert!(!reported.0 && reported.2.contains("No worker answered in time"), "{}", reported.2);
    assert!(!Path::new(&out).exists());
    // It was on record before anybody could have shown it.
    let audited: i64 = sqlx::query_scalar("select count(*) from noshi.audit where act in ('reveal', 'batch report')")
        .fetch_one(&api.fleet.pool)
        .await
        .expect("the audit");
    assert_eq!(audited, 2);
}

/// A worker that lacks a key or a partner leaves it to one that has them; where nobody has, that is what is said, at once.
#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_open_it_leaves_it_to_others() {
    let _turn = turn().await;
    let fleet = fleet(Terms::default()).await;
    let host = host(&fleet);
    let worker = fleet.worker("issues", &[], &[]);
    for (grant, category) in [("kept", "digital"), ("again", "amazon")] {
        fleet.gift(grant, category, 500).await;
    }
    fleet.at_rest(Duration::from_secs(30)).await.expect("at rest");
    assert!(worker.stop().await.success());
    let api = Api::on(fleet, &host).await;
    let app = api.token("app", &["reveal"]).await;
    let ask = json!({"user": "u1", "reason": "shown"});
    let reveal = async |grant: &str| api.post(&format!("/v1/gifts/{grant}/reveal"), &app, &ask).await;

    let worker = noshi::app::Worker::start(&api.fleet.url, "bare", Partners::default(), crate::engine::pace());
    let worker = worker.await.expect("a worker without keys or partners");
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let bare = tokio::spawn(worker.run_until(async { drop(stopped.await) }));
    for (grant, why) in
        // Without the key it cannot even be told to whom it would answer.
        [("kept", "none has the key that it is sealed to"), ("again", "none has the key that it is sealed to")]
    {
        let began = Instant::now();
        let (status, problem) = reveal(grant).await;
        let detail = problem["detail"].as_str().unwrap_or_default();
        assert!(
            status == 503 && detail.contains(why) && detail.contains("nothing was asked of its partner"),
            "{status} {problem}"
        );
        assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    }
    let able = api.fleet.worker("able", &[], &[]);
    until("another worker", Duration::from_secs(20), async || {
        let alive = "select count(*) from noshi.worker where dead_at is null and stopped_at is null";
        sqlx::query_scalar::<_, i64>(alive).fetch_one(&api.fleet.pool).await.is_ok_and(|alive| alive == 2)
    })
    .await;
    for grant in ["kept", "again"] {
        for _ in 0..5 {
            let (status, shown) = reveal(grant).await;
            assert_eq!(status, 200, "{grant}: {shown}");
        }
    }
    assert_eq!(count(&api.fleet, "issued"), 2);
    stop.send(()).expect("it runs");
    bare.await.expect("its end");
    assert!(able.stop().await.success());
}

/// The parts that wait for whoever asked.
async fn waiting(pool: &PgPool) -> i64 {
    sqlx::query_scalar("select count(*) from noshi_sealed.reading_part").fetch_one(pool).await.expect("parts")
}

/// A worker that dies in the middle of a report leaves it to another, which begins anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_report_whose_worker_is_killed_is_written_by_another() {
    let _turn = turn().await;
    let fleet = fleet(Terms::default()).await;
    let file = fleet.dir.path().join("grants.csv");
    fs::write(&file, format!("{HEADER}{}", rows(0, 40_000, "digital"))).expect("a file");
    let submitted = fleet.command(&["batch", "submit", &file.display().to_string()]).await;
    assert!(submitted.status.success(), "{}", String::from_utf8_lossy(&submitted.stderr));
    let operator = db::connect(&fleet.url, Role::Operator, 1).await.expect("an operator");
    let ears = Ears::open(fleet.url.clone(), Some(sealer(&fleet)));
    let mut first = fleet.worker("first", &[], &[]);
    let mut answer = ask::ask(By::Login(&operator), &ears, What::Report { batch: 1 }).await.expect("asked");
    let mut whole = vec![];
    let Next::Part(part) = answer.next().await.expect("a part") else { panic!("no part") };
    whole.extend_from_slice(&part);
    // No more than these wait, however long the report is.
    until("all that may wait", Duration::from_secs(10), async || waiting(&fleet.pool).await == 4).await;
    let stays = Instant::now() + Duration::from_millis(500);
    while Instant::now() < stays {
        assert!(waiting(&fleet.pool).await <= 4, "they wait for their asker");
    }
    first.signal(Signal::KILL);
    assert!(first.killed(Duration::from_secs(5)).await);
    let second = fleet.worker("second", &[], &[]);
    let mut begun = 1;
    loop {
        match answer.next().await.expect("the rest") {
            Next::Part(part) => whole.extend_from_slice(&part),
            Next::Again => {
                begun += 1;
                whole.clear();
            }
            Next::End => break,
        }
        assert!(waiting(&fleet.pool).await <= 4);
    }
    let whole = String::from_utf8(whole).expect("text");
    assert_eq!((begun, whole.lines().count(), whole.matches("山田").count()), (2, 40_001, 40_000));
    assert!(second.stop().await.success());
}

/// An answer is its asker's: of this key, this reading and this part, fetched in this name.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_opens_for_its_asker_alone() {
    let db = database().await;
    let (ada, eve) = (person(&db, "ada").await, person(&db, "eve").await);
    let batch =
        "select noshi.receive_batch('points', 'all_or_nothing', sha256('x'), 'x.csv', 'utf-8', null, false, false)";
    db.pool.execute(batch).await.expect("a batch");
    let key = Vault::ephemeral();
    let mut asks = ada.begin().await.expect("a transaction");
    let reading = db::operator::readings::ask_for_report(&mut asks, 1, &key.public_line()).await.expect("asked");
    asks.commit().await.expect("asked");
    let worker = db::queue::workers::register(&db.pool, "w").await.expect("a worker");
    let held = db::operator::readings::take(&db.pool, worker, true).await.expect("taken").expect("a reading");
    let sealer = Sealer::parse(&held.public_key).expect("a key");
    let (name, number) = (format!("{reading}/1"), "1".to_owned());
    let place = SealedAt { grant: &name, provider: &number, column: "reading" };
    let sealed = sealer.seal(&place, &SecretString::from("a name"));
    assert!(db::operator::readings::put(&db.pool, &held, 1, &sealed).await.expect("put"));

    let mut looks = eve.begin().await.expect("a transaction");
    let other = db::operator::readings::fetch(&mut looks, reading, 1, 0).await.expect_err("another's");
    assert!(other.to_string().contains("there is no reading"), "{other}");
    let closed = db::operator::readings::close(&mut eve.begin().await.expect("a transaction"), reading).await;
    assert!(closed.expect("nothing").is_none());
    let mut looks = ada.begin().await.expect("a transaction");
    let state = db::operator::readings::fetch(&mut looks, reading, 1, 0).await.expect("her own");
    looks.commit().await.expect("looked");
    let (_, part) = state.parts.into_iter().next().expect("a part");
    assert!(key.open_bytes(&place, &part).is_ok_and(|plain| *plain == *b"a name"));
    for other in [Vault::ephemeral(), Vault::ephemeral()] {
        assert!(other.open_bytes(&place, &part).is_err(), "another key");
    }
    let elsewhere = SealedAt { provider: "2", ..place };
    assert!(key.open_bytes(&elsewhere, &part).is_err(), "another part");

    // Only the worker that has it writes to it, while it lives; and none that is dead takes any.
    let other = db::operator::readings::Taken { worker: worker + 1, ..held.clone() };
    assert!(db::operator::readings::put(&db.pool, &other, 2, &sealed).await.is_err());
    db.pool.execute("update noshi.worker set dead_at = clock_timestamp()").await.expect("declared dead");
    assert!(db::operator::readings::take(&db.pool, worker, true).await.expect("asked").is_none());
    let next = db::queue::workers::register(&db.pool, "next").await.expect("a worker");
    let again = db::operator::readings::take(&db.pool, next, true).await.expect("taken").expect("the same");
    assert_eq!((again.reading, again.take), (reading, 2));
    assert!(db::operator::readings::put(&db.pool, &held, 2, &sealed).await.is_err(), "it was taken from the dead");
    assert_eq!(waiting(&db.pool).await, 0, "its parts are void");

    // Whoever asked is gone: so is what was for them.
    db.pool
        .execute("update noshi.reading set deadline = clock_timestamp() - interval '11 seconds'")
        .await
        .expect("later");
    assert!(db::operator::readings::take(&db.pool, next, true).await.expect("asked").is_none());
    let left: i64 = sqlx::query_scalar("select count(*) from noshi.reading").fetch_one(&db.pool).await.expect("none");
    assert_eq!(left, 0);
}

/// Who may not see it may not ask for it either, by whichever way.
#[tokio::test(flavor = "multi_thread")]
async fn a_reading_is_opened_by_whoever_may_see_it() {
    let db = database().await;
    let key = Vault::ephemeral().public_line();
    let code = format!("select noshi.read_code('g', 'u', 'r', '{key}')");
    let check = format!("select noshi.read_check(1, '{key}')");
    let report = format!("select noshi.read_report(1, '{key}')");
    let refused = async |pool: &PgPool, sql: &str| {
        let error = pool.execute(AssertSqlSafe(sql.to_owned())).await.expect_err(sql);
        let error = error.as_database_error().expect("an answer");
        (error.code().unwrap_or_default().into_owned(), error.message().to_owned())
    };
    let direct = "select * from noshi_sealed.reading_part";
    let forged = "insert into noshi.reading (kind, subject, scope, public_key) values ('code', 'g', 'reveal', 'x')";
    for role in ["noshi_producer", "noshi_reader", "noshi_operator", "noshi_worker"] {
        let pool = login(&db, &format!("asks_{role}"), role).await;
        for sql in [&code, direct, forged] {
            assert_eq!(refused(&pool, sql).await.0, "42501", "{role}: {sql}");
        }
        let of_operators = if role == "noshi_operator" { "NS404" } else { "42501" };
        for sql in [&check, &report] {
            assert_eq!(refused(&pool, sql).await.0, of_operators, "{role}: {sql}");
        }
        if role != "noshi_worker" {
            assert_eq!(refused(&pool, "select noshi.take_reading(1, true)").await.0, "42501", "{role}");
        }
    }
    let api = login(&db, "asks_api", "noshi_api").await;
    for sql in [&code, &check, &report] {
        assert_eq!(refused(&api, sql).await.0, "NS401", "{sql}");
    }
    for sql in [direct, forged] {
        assert_eq!(refused(&api, sql).await.0, "42501", "{sql}");
    }
    // By hand nobody asks for more at once than leaves room for others.
    let batch =
        "select noshi.receive_batch('points', 'all_or_nothing', sha256('x'), 'x.csv', 'utf-8', null, false, false)";
    db.pool.execute(batch).await.expect("a batch");
    let operator = login(&db, "asks_much", "noshi_operator").await;
    for _ in 0..4 {
        operator.execute(AssertSqlSafe(report.clone())).await.expect("asked");
    }
    let (code, said) = refused(&operator, &report).await;
    assert!(code == "NS409" && said.contains("4 files in reading"), "{code} {said}");
    let audited: Value =
        sqlx::query_scalar("select to_jsonb(array_agg(who order by id)) from noshi.audit where act = 'batch report'")
            .fetch_one(&db.pool)
            .await
            .expect("the audit");
    assert_eq!(audited.as_array().map(Vec::len), Some(4), "each was written down, and what was refused was not done");
}

/// An empty file, received.
async fn received(db: &crate::support::TestDatabase) {
    let batch =
        "select noshi.receive_batch('points', 'all_or_nothing', sha256('x'), 'x.csv', 'utf-8', null, false, false)";
    db.pool.execute(batch).await.expect("a batch");
}

/// Whoever has a worker's login and none of its keys answers nothing: neither in another's name, nor with an end that has no answer before it.
#[tokio::test(flavor = "multi_thread")]
async fn a_workers_login_without_its_keys_answers_nothing() {
    let db = database().await;
    received(&db).await;
    let operator = login(&db, "asks", "noshi_operator").await;
    let evil = login(&db, "evil", "noshi_worker").await;
    let ours = db::queue::workers::register(&db.pool, "ours").await.expect("a worker");
    let own = db::queue::workers::register(&evil, "evil").await.expect("a worker");
    let ears = Ears::open(db.url.clone(), Some(Sealer::clone(&Vault::ephemeral())));
    for forged in [false, true] {
        let answer = ask::ask(By::Login(&operator), &ears, What::Report { batch: 1 }).await.expect("asked");
        assert!(db::operator::readings::take(&evil, ours, true).await.expect("asked").is_none(), "another's name");
        let held = db::operator::readings::take(&evil, own, true).await.expect("taken").expect("a reading");
        assert!(Sealer::parse(&held.public_key).is_err(), "the key of whoever asked is for the workers' keys alone");
        if forged {
            let sealed =
                Vault::ephemeral().seal_bytes(&SealedAt { grant: "1/1", provider: "1", column: "reading" }, &[1]);
            assert!(db::operator::readings::put(&evil, &held, 1, &sealed).await.expect("put"));
        }
        db::operator::readings::end(&evil, &held).await.expect("ended");
        let said = answer.whole().await.expect_err("no answer").to_string();
        assert!(said.contains("not the whole answer"), "{said}");
    }
    // What another login's worker has in flight is not told, and not ended, by this one.
    let _answer = ask::ask(By::Login(&operator), &ears, What::Report { batch: 1 }).await.expect("asked");
    let held = db::operator::readings::take(&db.pool, ours, true).await.expect("taken").expect("a reading");
    assert!(db::operator::readings::end(&evil, &held).await.is_err());
    assert!(db::operator::readings::leave(&evil, &held, "no_key").await.is_err());
    assert!(db::operator::readings::chunk(&evil, &held, 0).await.is_err());
}

/// One person has a few readings at once, however they ask, and of their files each worker one.
#[tokio::test(flavor = "multi_thread")]
async fn one_persons_readings_leave_room_for_others() {
    let db = database().await;
    received(&db).await;
    let (ada, eve) = (login(&db, "ada_asks", "noshi_operator").await, login(&db, "eve_asks", "noshi_operator").await);
    let key = Vault::ephemeral().public_line();
    let report = format!("select noshi.read_report(1, '{key}')");
    let asks = |_| {
        let (ada, report) = (ada.clone(), report.clone());
        async move { ada.execute(AssertSqlSafe(report)).await.is_ok() }
    };
    let asked = futures::future::join_all((0..12).map(asks)).await;
    assert_eq!(asked.iter().filter(|asked| **asked).count(), 4, "{asked:?}");
    eve.execute(AssertSqlSafe(report)).await.expect("asked");
    let worker = db::queue::workers::register(&db.pool, "w").await.expect("a worker");
    let take = async |worker| {
        let taken = db::operator::readings::take(&db.pool, worker, true).await.expect("asked");
        // Logins are of the whole server, and have the database's name behind theirs.
        taken.map(|held| held.asked_by[..3].to_owned())
    };
    assert_eq!(take(worker).await.as_deref(), Some("ada"));
    assert_eq!(take(worker).await.as_deref(), Some("eve"), "before the others of hers");
    assert_eq!(take(worker).await, None, "a place stays free for others");
    let another = db::queue::workers::register(&db.pool, "another").await.expect("a worker");
    assert_eq!(take(another).await.as_deref(), Some("ada"));
    assert_eq!(take(another).await, None);
    // An old snapshot counts nothing as gone.
    let mut old = ada.begin().await.expect("a transaction");
    old.execute("set transaction isolation level repeatable read").await.expect("its level");
    old.execute("select 1 from noshi.batch").await.expect("a snapshot");
    db.pool.execute("update noshi.asker set turns = turns + 1").await.expect("another's turn");
    let stale = old.execute(AssertSqlSafe(format!("select noshi.read_report(1, '{key}')"))).await;
    assert!(stale.is_err(), "judged in a snapshot of before");
}

/// An asker that takes nothing keeps no worker, and is told.
#[tokio::test(flavor = "multi_thread")]
async fn a_report_that_nobody_takes_is_left() {
    let _turn = turn().await;
    let fleet = fleet(Terms::default()).await;
    let file = fleet.dir.path().join("grants.csv");
    fs::write(&file, format!("{HEADER}{}", rows(0, 40_000, "digital"))).expect("a file");
    let submitted = fleet.command(&["batch", "submit", &file.display().to_string()]).await;
    assert!(submitted.status.success(), "{}", String::from_utf8_lossy(&submitted.stderr));
    let operator = db::connect(&fleet.url, Role::Operator, 1).await.expect("an operator");
    let ears = Ears::open(fleet.url.clone(), Some(sealer(&fleet)));
    let worker = fleet.worker("writes", &[], &[]);
    let _answer = ask::ask(By::Login(&operator), &ears, What::Report { batch: 1 }).await.expect("asked");
    until("that it is left", Duration::from_secs(40), async || {
        // It looks, and takes nothing.
        let mut looks = operator.begin().await.expect("begun");
        let look = db::operator::readings::fetch(&mut looks, 1, 0, 0).await.expect("a look");
        looks.commit().await.expect("looked");
        look.trouble.is_some_and(|(word, ..)| word == "not_taken")
    })
    .await;
    assert!(worker.stop().await.success());
}

/// F12: one person shows so many codes an hour, and has two of a worker's places; the others go on.
#[tokio::test(flavor = "multi_thread")]
async fn one_person_shows_so_many_codes_an_hour() {
    let db = database().await;
    let gift = "insert into noshi.job (kind, key, fingerprint, args, status, at, state, step)
            values ('gift_issuance', 'g', '', '{\"user\": \"u\"}', 'completed', 'issued', '{\"trade\": {\"id\": \"T\"}}', 3);
        insert into noshi.gift_trade (id, grant_id, generation, job, provider, category, amount, currency) select 'T', 'g', 0, id, 'p', 'c', 1, 'JPY' from noshi.job;
        insert into noshi.reveal_cap values ('postgres', 5)";
    sqlx::raw_sql(gift).execute(&db.pool).await.expect("a gift");
    let other = format!("other_{}", db.name);
    db.pool.execute(AssertSqlSafe(format!("create role {other} superuser login"))).await.expect("a login");
    let other = PgPool::plain(&db.url.replacen("//postgres@", &format!("//{other}@"), 1), 2).expect("its session");
    let ask = "select noshi.read_code('g', 'u', 'shown', 'k:pub:00')";
    for _ in 0..5 {
        db.pool.execute(ask).await.expect("asked");
    }
    let refused = db.pool.execute(ask).await.expect_err("one too many").to_string();
    assert!(refused.contains("has asked for 5 codes since"), "{refused}");
    let counted = db::operator::doctor::reveals_counted(&db.pool).await.expect("counted");
    assert_eq!(counted, [("postgres".to_owned(), 5, 5)]);
    let audited: i64 = sqlx::query_scalar("select count(*) from noshi.audit where act in ('reveal', 'reveal cap')")
        .fetch_one(&db.pool)
        .await
        .expect("the audit");
    assert_eq!(audited, 6, "the cap, and each code that was asked for");
    // Two of a worker's places are one person's: then it is another's turn.
    other.execute(ask).await.expect("another asks");
    let worker = db::queue::workers::register(&db.pool, "w").await.expect("a worker");
    let mut whose = vec![];
    while let Some(held) = db::operator::readings::take(&db.pool, worker, true).await.expect("taken") {
        whose.push(held.asked_by[..5].to_owned());
    }
    whose.sort_unstable();
    assert_eq!(whose, ["other", "postg", "postg"]);
    // In the next hour again.
    db.pool.execute("update noshi.asker set codes_from = now() - interval '61 minutes'").await.expect("an hour");
    db.pool.execute("delete from noshi.reading").await.expect("through");
    db.pool.execute(ask).await.expect("asked");
}

/// Two who take a part of their report every now and then do not keep both places of a worker.
#[tokio::test(flavor = "multi_thread")]
async fn who_takes_a_report_slowly_makes_way_for_others() {
    let _turn = turn().await;
    let fleet = fleet(Terms::default()).await;
    let file = fleet.dir.path().join("grants.csv");
    fs::write(&file, format!("{HEADER}{}", rows(0, 30_000, "digital"))).expect("a file");
    let submitted = fleet.command(&["batch", "submit", &file.display().to_string()]).await;
    assert!(submitted.status.success(), "{}", String::from_utf8_lossy(&submitted.stderr));
    let name: String = sqlx::query_scalar("select current_database()").fetch_one(&fleet.pool).await.expect("a name");
    let person = async |who: &str| {
        let login = format!("{who}_{name}");
        let made = format!("create role {login} login in role noshi_operator");
        fleet.pool.execute(AssertSqlSafe(made)).await.expect("a login");
        let url = fleet.url.replacen("//postgres@", &format!("//{login}@"), 1);
        db::connect(&url, Role::Operator, 2).await.expect("an operator")
    };
    let (ada, eve, bob) = (person("slow_a").await, person("slow_b").await, person("third").await);
    let ears = Ears::open(fleet.url.clone(), Some(sealer(&fleet)));
    let worker = fleet.worker("writes", &[], &[]);
    let _a = ask::ask(By::Login(&ada), &ears, What::Report { batch: 1 }).await.expect("asked");
    let _b = ask::ask(By::Login(&eve), &ears, What::Report { batch: 1 }).await.expect("asked");
    let slowly = async |pool: &PgPool, reading: i64| {
        let mut part = 0;
        loop {
            let Ok(mut looks) = pool.begin().await else { return };
            let Ok(look) = db::operator::readings::fetch(&mut looks, reading, 1, part).await else { return };
            looks.commit().await.expect("looked");
            part += i32::from(!look.parts.is_empty());
            tokio::time::sleep(Duration::from_secs(3)).await;
        }
    };
    let third = async {
        until("both places are taken", Duration::from_secs(30), async || {
            let taken = "select count(*) = 2 from noshi.reading where worker is not null";
            sqlx::query_scalar(taken).fetch_one(&fleet.pool).await.expect("a look")
        })
        .await;
        let began = Instant::now();
        let answer = ask::ask(By::Login(&bob), &ears, What::Report { batch: 1 }).await.expect("asked");
        let report = answer.whole().await.expect("a report, in time");
        assert!(report.len() > 1_000_000, "{}", report.len());
        println!("the third had their report after {:?}", began.elapsed());
    };
    tokio::select! {
        () = third => {}
        ((), ()) = async { tokio::join!(slowly(&ada, 1), slowly(&eve, 2)) } => panic!("both were left before anybody else waited"),
    }
    assert!(worker.stop().await.success());
}
