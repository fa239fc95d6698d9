//! Files become batches, and batches become what they ask for: all or nothing, approved, paused, counted.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf, process::Output, time::Duration};

use noshi_jobs::gift_issuance::Sealed;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use sqlx::{Executor, Row};
use tempfile::TempDir;

use crate::{
    processes::until,
    support::{self, TestDatabase, database},
};
use noshi::{
    app::Worker,
    db::{self, PgPool, Role, domain::batches},
    engine::Pace,
    intake::{self, Encoding, FileKind, Submission},
    settings::Settings,
    vault,
    worlds::outside::Partners,
};

const HEADER: &str = "grant_id,user_id,name,email,category,amount,currency,valid_days,area";
const CONFIG: &str = r#"
vault_key_file = "DIR/vault.key"
[gifts.gift_on_demand]
base_url = "http://127.0.0.1:1"
credentials = { api_key_file = "DIR/secret" }
ranges = [{ category = "coffee", currency = "JPY", min = 500, max = 1000, product = "small" }]
"#;

/// A released batch of grants that are to be issued, as the functions of the schema make it.
pub async fn released(pool: &PgPool, rows: i32, category: &str) {
    release(pool, rows, category, (false, true)).await;
}

/// The same, to be announced by mail.
pub async fn announced(pool: &PgPool, rows: i32) {
    release(pool, rows, "amazon", (true, false)).await;
}

async fn release(pool: &PgPool, rows: i32, category: &str, (mails, issues): (bool, bool)) {
    pool.execute(sqlx::AssertSqlSafe(format!(
        r#"select noshi.receive_batch('grants', 'all_or_nothing', sha256('x'), 'f', 'utf-8', null, {mails}, {issues});
        insert into noshi.batch_row (batch, row_no, line, key, args, mailed)
        select b.id, n, n + 1, 'grant-' || n, jsonb_build_object('grant', 'grant-' || n, 'user', 'u', 'category', '{category}',
            'value', '{{"amount": 500, "currency": "JPY"}}'::jsonb), true
        from noshi.batch b, generate_series(1, {rows}) n;
        select noshi.validate_batch(id, {rows}), noshi.release_batch(id) from noshi.batch"#
    )))
    .await
    .expect("a released batch");
}

/// A database, a configuration, and two people who may operate it.
struct Operators {
    db: TestDatabase,
    files: TempDir,
    sato: PgPool,
    suzuki: PgPool,
}

impl Operators {
    async fn open() -> Operators {
        let (db, files) = (database().await, tempfile::tempdir().unwrap());
        let [sato, suzuki] = [person(&db, "sato").await, person(&db, "suzuki").await];
        let operators = Operators { db, files, sato, suzuki };
        operators.write("vault.key", vault::generate_key_line().expose_secret().as_bytes());
        operators.write("secret", b"secret");
        operators.write("noshi.toml", CONFIG.replace("DIR", operators.files.path().to_str().unwrap()).as_bytes());
        operators
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.files.path().join(name);
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    fn settings(&self) -> Settings {
        Settings::read(Some(&self.files.path().join("noshi.toml"))).unwrap()
    }

    async fn submit(&self, pool: &PgPool, rows: &str) -> anyhow::Result<intake::Submitted> {
        let path = self.write("grants.csv", format!("{HEADER}\n{rows}").as_bytes());
        let submission = Submission {
            path: &path,
            held: None,
            kind: FileKind::Grants,
            encoding: Encoding::Utf8,
            campaign: Some("summer"),
            mails: true,
            issues: false,
        };
        let settings = self.settings();
        intake::submit(pool, &settings.sealer().unwrap(), &settings.offers().unwrap(), &submission).await
    }

    async fn approve(&self, batch: i64) -> Result<(), db::ActError> {
        let digest = hex::decode(self.progress(batch).await.approval_digest.unwrap()).unwrap();
        batches::approve(&self.suzuki, batch, &digest, "read").await.map(drop)
    }

    async fn command(&self, arguments: &[&str]) -> Output {
        tokio::process::Command::new(env!("CARGO_BIN_EXE_noshi"))
            .args(arguments)
            .env("DATABASE_URL", &self.db.url)
            .env("NOSHI_CONFIG", self.files.path().join("noshi.toml"))
            .output()
            .await
            .unwrap()
    }

    /// The report of a batch, which a worker writes.
    async fn report(&self, arguments: &[&str]) -> Output {
        self.beside_a_worker(self.command(&[&["batch", "report"], arguments].concat())).await
    }

    /// Beside a worker that opens what is sealed, and does nothing else.
    async fn beside_a_worker<T>(&self, work: impl Future<Output = T>) -> T {
        self.db.pool.execute("update noshi.lane set paused = true").await.unwrap();
        let partners = Partners { vault: Some(self.settings().vault().unwrap()), ..Partners::default() };
        let worker = Worker::start(&self.db.url, "reads", partners, Pace::default()).await.unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let worker = tokio::spawn(worker.run_until(async { drop(stopped.await) }));
        let output = work.await;
        stop.send(()).unwrap();
        worker.await.unwrap();
        self.db.pool.execute("update noshi.lane set paused = false").await.unwrap();
        output
    }

    async fn count(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&self.db.pool).await.unwrap()
    }

    async fn progress(&self, batch: i64) -> batches::Progress {
        batches::progress(&self.sato, Some(batch), 1).await.unwrap().remove(0)
    }

    /// Runs a worker until the batch's own job has ended.
    async fn register(&self, batch: i64) {
        let pace = Pace { slots: 8, ..Pace::default() };
        let worker = Worker::start(&self.db.url, "test", Partners::default(), pace).await.unwrap();
        let at_work = "select exists (select from noshi.job where kind = 'bulk_grants' and key = $1 and status not in ('completed', 'failed'))";
        let key = format!("batch/{batch}");
        let ended = until("the batch's own job has ended", Duration::from_secs(60), async || {
            let at_work = sqlx::query_scalar(at_work).bind(&key).fetch_one(&self.db.pool).await;
            at_work.is_ok_and(|at_work: bool| !at_work)
        });
        worker.run_until(ended).await;
    }
}

/// A chunk of a file as it is kept.
async fn file_chunk(pool: &PgPool, batch: i64, chunk: i32) -> Option<Sealed> {
    let kept = "select key_id, nonce, ciphertext from noshi_sealed.sealed where what = 'file' and subject = $1";
    let row = sqlx::query(kept).bind(batches::chunk_name(batch, chunk)).fetch_optional(pool).await.unwrap()?;
    Some(Sealed { key_id: row.get("key_id"), nonce: row.get("nonce"), ciphertext: row.get("ciphertext") })
}

pub async fn person(db: &TestDatabase, login: &str) -> PgPool {
    let server = support::server().await;
    // Of the whole server: another test may have made it.
    let _ = server.create_login(login, "noshi_operator").await;
    db::connect(&server.url_as(login, &db.name), Role::Operator, 2).await.unwrap()
}

fn rows(from: usize, to: usize) -> String {
    (from..to).map(|n| format!("G-{n},U-{n},山田太郎,taro{n}@example.jp,coffee,500,JPY,90,\n")).collect()
}

fn sentence(error: impl std::fmt::Display) -> String {
    format!("{error:#}")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_file_is_the_same_batch_and_nothing_of_it_stands_in_the_clear() {
    let operators = Operators::open().await;
    let first = operators.submit(&operators.sato, &rows(0, 3)).await.unwrap();
    assert!(first.is_new && first.rows == 3 && !first.needs_approval, "{first:?}");
    let again = operators.submit(&operators.sato, &rows(0, 3)).await.unwrap();
    assert_eq!((again.batch, again.is_new), (first.batch, false));
    assert_eq!(operators.count("select count(*) from noshi.batch_row").await, 3);
    // Of somebody else it is another, until one of them is released: then it is that one, whoever submits it.
    let theirs = operators.submit(&operators.suzuki, &rows(0, 3)).await.unwrap();
    assert!(theirs.is_new && theirs.batch != first.batch, "{theirs:?}");
    batches::release(&operators.sato, first.batch, None).await.unwrap();
    let told = operators.submit(&operators.suzuki, &rows(0, 3)).await.unwrap();
    assert_eq!((told.batch, told.is_new), (first.batch, false));
    let second = sentence(batches::release(&operators.suzuki, theirs.batch, None).await.unwrap_err());
    assert!(second.contains("granted") || second.contains("already"), "{second}");
    let args: Vec<String> =
        sqlx::query_scalar("select args::text from noshi.batch_row").fetch_all(&operators.db.pool).await.unwrap();
    assert!(args.iter().all(|args| !args.contains("山田") && !args.contains("example.jp")), "{args:?}");
    let options = Submission {
        path: &operators.files.path().join("grants.csv"),
        held: None,
        kind: FileKind::Grants,
        encoding: Encoding::Utf8,
        campaign: Some("winter"),
        mails: true,
        issues: false,
    };
    let settings = operators.settings();
    let other =
        intake::submit(&operators.sato, &settings.sealer().unwrap(), &settings.offers().unwrap(), &options).await;
    assert!(sentence(other.unwrap_err()).contains("already, with other options"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_files_bytes_come_back_as_they_were() {
    let _turn = crate::support::busy().await;
    let operators = Operators::open().await;
    let text = format!("\u{feff}{HEADER}\r\n\r\n{}\r\n\r\n", rows(0, 12_000).replace('\n', "\r\n"));
    let path = operators.write("grants.csv", text.as_bytes());
    let submission = Submission {
        path: &path,
        held: None,
        kind: FileKind::Grants,
        encoding: Encoding::Utf8,
        campaign: None,
        mails: false,
        issues: false,
    };
    let settings = operators.settings();
    let keys = settings.vault().unwrap();
    let submitted = intake::submit(&operators.sato, &keys, &settings.offers().unwrap(), &submission).await.unwrap();
    let mut bytes = vec![];
    for chunk in 0.. {
        let Some(sealed) = file_chunk(&operators.db.pool, submitted.batch, chunk).await else { break };
        bytes.extend_from_slice(
            &keys
                .open_bytes(&vault::SealedAt::of_chunk(&batches::chunk_name(submitted.batch, chunk)), &sealed)
                .unwrap(),
        );
    }
    assert!(bytes == text.as_bytes(), "{} bytes for {}", bytes.len(), text.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_with_a_fault_is_on_record_and_writes_nothing_else() {
    let operators = Operators::open().await;
    let bad = format!("{}G-9,U-9,花子,hanako@example.jp,tea,500,JPY,,\n", rows(0, 50));
    let error = sentence(operators.submit(&operators.sato, &bad).await.unwrap_err());
    assert!(error.contains("grants.csv line 52, field `category`: nobody offers this category"), "{error}");
    for sql in [
        "select count(*) from noshi.job",
        "select count(*) from noshi.batch_row",
        "select count(*) from noshi_sealed.sealed",
    ] {
        assert_eq!(operators.count(sql).await, 0, "{sql}");
    }
    let (batch, faults): (i64, String) =
        sqlx::query_as("select id, faults::text from noshi.batch").fetch_one(&operators.db.pool).await.unwrap();
    assert!(faults.contains(r#""line": 52"#) && !faults.contains("花子"), "{faults}");
    assert_eq!(operators.progress(batch).await.status, "invalid");
    let report = operators.report(&[&batch.to_string()]).await;
    let report = String::from_utf8(report.stdout).unwrap();
    assert!(report.contains("52,category,nobody offers this category"), "{report}");
}

/// Whoever takes files in, approves them or lets them go needs no key with which a gift could be bought.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_taken_in_where_no_partners_key_is() {
    let operators = Operators::open().await;
    fs::remove_file(operators.files.path().join("secret")).unwrap();
    let path = operators.write("grants.csv", format!("{HEADER}\n{}", rows(0, 150)).as_bytes());
    let file = path.to_str().unwrap();
    for arguments in
        [vec!["batch", "submit", file, "--dry-run"], vec!["batch", "submit", file], vec!["batch", "show", "1"]]
    {
        let said = operators.command(&arguments).await;
        assert!(said.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&said.stderr));
    }
    let approve = ["batch", "approve", "1", "--file", file, "--reason", "read"];
    let said = operators.command(&approve).await;
    assert!(String::from_utf8_lossy(&said.stderr).contains("another person must approve it"));
}

/// Whoever takes files in needs no key that opens them.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_taken_in_where_nothing_can_be_opened() {
    let operators = Operators::open().await;
    let keys = operators.settings().vault().unwrap();
    let printed = operators.command(&["vault", "public"]).await;
    assert_eq!(String::from_utf8(printed.stdout.clone()).unwrap().trim(), keys.public_line());
    operators.write("vault.pub", &printed.stdout);
    let config = CONFIG.replace("vault_key_file = \"DIR/vault.key\"", "vault_public_key_file = \"DIR/vault.pub\"");
    operators.write("noshi.toml", config.replace("DIR", operators.files.path().to_str().unwrap()).as_bytes());
    for file in ["secret", "vault.key"] {
        fs::remove_file(operators.files.path().join(file)).unwrap();
    }
    let path = operators.write("grants.csv", format!("{HEADER}\n{}", rows(0, 3)).as_bytes());
    let said = operators.command(&["batch", "submit", path.to_str().unwrap()]).await;
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let sealed = file_chunk(&operators.db.pool, 1, 0).await.unwrap();
    let bytes = keys.open_bytes(&vault::SealedAt::of_chunk("1/0"), &sealed).unwrap();
    assert!(*bytes == fs::read(&path).unwrap());
    assert_eq!(operators.count("select count(*) from noshi_sealed.sealed where what = 'recipient'").await, 3);
    // A file of other keys beside those that open is told before anything is sealed that would stay closed.
    operators.write("vault.key", vault::generate_key_line().expose_secret().as_bytes());
    let both = operators.settings();
    let both = Settings { vault_key_file: Some(operators.files.path().join("vault.key")), ..both };
    assert!(both.check_vault().unwrap_err().to_string().contains("would not be opened here"));
}

/// Chunks that changed places would be another file.
#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_of_a_file_opens_at_its_own_place_only() {
    let _turn = crate::support::busy().await;
    let operators = Operators::open().await;
    for from in [0, 10_000] {
        operators.submit(&operators.sato, &rows(from, from + 5_100)).await.unwrap();
    }
    let report = async || operators.report(&["1"]).await;
    assert!(report().await.status.success());
    for [one, other] in [["1/0", "1/1"], ["1/0", "2/0"]] {
        let swap = "update noshi_sealed.sealed s set grant_id = o.grant_id, nonce = o.nonce, ciphertext = o.ciphertext from noshi_sealed.sealed o
            where s.what = 'file' and o.what = 'file' and s.subject <> o.subject and s.subject = any($1) and o.subject = any($1)";
        let swap = async || {
            assert_eq!(
                sqlx::query(swap).bind([one, other]).execute(&operators.db.pool).await.unwrap().rows_affected(),
                2
            );
        };
        swap().await;
        let said = report().await;
        let error = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(!said.status.success() && error.contains("What is sealed does not open"), "{one} {other}: {error}");
        swap().await;
    }
    assert!(report().await.status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_submits_does_not_approve_and_nobody_goes_round_it() {
    let operators = Operators::open().await;
    let submitted = operators.submit(&operators.sato, &rows(0, 150)).await.unwrap();
    assert!(submitted.needs_approval);
    let batch = submitted.batch;
    assert_eq!(operators.progress(batch).await.status, "awaiting_approval");
    let digest = intake::digest_of(&operators.files.path().join("grants.csv")).unwrap();
    let own = batches::approve(&operators.sato, batch, &digest, "mine").await.unwrap_err();
    assert!(sentence(&own).contains("another person must approve it"), "{own}");
    let wrong = batches::approve(&operators.suzuki, batch, &[0; 32], "unread").await.unwrap_err();
    assert!(sentence(&wrong).contains("this digest does not stand for"), "{wrong}");
    let early = batches::release(&operators.suzuki, batch, None).await.unwrap_err();
    assert!(sentence(&early).contains("a second person must approve it"), "{early}");

    // Direct sessions of both roles find no way round.
    let worker = db::connect(&operators.db.url, Role::Worker, 1).await.unwrap();
    for pool in [&worker, &operators.sato] {
        for sql in [
            "update noshi.batch set approved_by = 'x', approved_at = now(), approved_until = 'infinity', released_at = now()",
            "insert into noshi.batch (kind, mode, digest, file, registered_at) values ('grants', 'all_or_nothing', sha256('x'), 'f', now())",
            "update noshi.batch_row set args = '{}'",
            "delete from noshi.batch_row",
            "insert into noshi.batch_cap (kind, currency) values ('grants', 'JPY')",
            "select noshi.batch_log(1, 'approve')",
            "select noshi.enqueue('gift_issuance', 'g', '{}')",
        ] {
            let error = pool.execute(sql).await.unwrap_err().to_string();
            assert!(error.contains("permission denied"), "{sql}: {error}");
        }
    }
    let late = "insert into noshi.batch_row (batch, row_no, line, key, args) values (1, 999, 999, 'x', '{}')";
    let error = operators.sato.execute(late).await.unwrap_err().to_string();
    assert!(error.contains("rows are taken only while their batch is being received"), "{error}");
    let forced: Option<String> = sqlx::query_scalar("select code from noshi.register_batch($1)")
        .bind(batch)
        .fetch_optional(&worker)
        .await
        .unwrap();
    assert_eq!(forced.as_deref(), Some("batch_not_approved"));

    operators.approve(batch).await.unwrap();
    operators
        .db
        .pool
        .execute("alter table noshi.batch disable trigger user; update noshi.batch set approved_until = now()")
        .await
        .unwrap();
    let expired = batches::release(&operators.sato, batch, None).await.unwrap_err();
    assert!(sentence(&expired).contains("ran out at"), "{expired}");
    operators.approve(batch).await.unwrap();
    batches::release(&operators.sato, batch, None).await.unwrap();
    // The approval is judged again at the very commit that grants.
    operators.db.pool.execute("update noshi.batch set approved_until = now()").await.unwrap();
    operators.register(batch).await;
    assert_eq!(operators.count("select count(*) from noshi.gift_grant").await, 0);
    let refused = operators.progress(batch).await;
    assert!(refused.refused.is_some_and(|why| why.contains("batch_not_approved")) && refused.failed == 150);
}

#[tokio::test(flavor = "multi_thread")]
async fn caps_hold_for_rows_totals_users_and_days() {
    let operators = Operators::open().await;
    let cap = async |column: &str, value: i64| {
        let sql = format!("insert into noshi.batch_cap (kind, currency, {column}) values ('grants', 'JPY', {value})");
        operators.db.pool.execute(sqlx::AssertSqlSafe(sql)).await.unwrap();
    };
    let submitted = operators.submit(&operators.sato, &rows(0, 10)).await.unwrap();
    for (column, value, sentence) in [
        ("max_rows", 9, "10 rows; the cap is 9"),
        ("max_total", 4_999, "5000 JPY in all; the cap is 4999"),
        ("max_per_user", 499, "line 2: its user would get 500 JPY within 24 hours; the cap is 499"),
        ("max_per_day", 4_999, "5000 JPY here and 0 in the last 24 hours"),
    ] {
        cap(column, value).await;
        let error = batches::release(&operators.sato, submitted.batch, None).await.unwrap_err().to_string();
        assert!(error.contains(sentence), "{error}");
    }
    cap("max_per_day", 7_000).await;
    batches::release(&operators.sato, submitted.batch, None).await.unwrap();
    operators.register(submitted.batch).await;
    let second = operators.submit(&operators.sato, &rows(100, 105)).await.unwrap();
    let error = batches::release(&operators.sato, second.batch, None).await.unwrap_err().to_string();
    assert!(error.contains("2500 JPY here and 5000 in the last 24 hours; the cap for a day is 7000"), "{error}");
    cap("max_per_user", 900).await;
    let same_user = operators.submit(&operators.sato, "H-1,U-3,,,coffee,500,JPY,,\n").await.unwrap();
    let error = batches::release(&operators.sato, same_user.batch, None).await.unwrap_err().to_string();
    assert!(error.contains("line 2: its user would get 1000 JPY"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_granted_whole_and_then_announced() {
    let operators = Operators::open().await;
    let submitted =
        operators.submit(&operators.sato, &format!("{}H-1,U-x,,,coffee,500,JPY,,\n", rows(0, 20))).await.unwrap();
    batches::release(&operators.sato, submitted.batch, None).await.unwrap();
    batches::release(&operators.sato, submitted.batch, None).await.unwrap();
    assert_eq!(operators.count("select count(*) from noshi.gift_grant").await, 0);
    operators.register(submitted.batch).await;
    assert_eq!(operators.count("select count(*) from noshi.gift_grant").await, 21);
    // The row without an address has no mail.
    assert_eq!(operators.count("select count(*) from noshi.job where kind = 'email' and batch is not null").await, 20);
    let progress = operators.progress(submitted.batch).await;
    assert!(progress.holds, "{progress:?}");
    assert_eq!((progress.rows, progress.completed, progress.open), (21, 1, 20));

    // The same grants in another file: reported before, and refused if insisted on.
    let again = operators.submit(&operators.sato, &rows(18, 25)).await.unwrap();
    let objection = batches::objection(&operators.sato, again.batch).await.unwrap().unwrap();
    assert_eq!(objection, "batch_duplicates: granted by another batch already: line 2, line 3");
    assert_eq!(batches::repeated_users(&operators.sato, again.batch).await.unwrap(), Some(2));
    assert!(batches::release(&operators.sato, again.batch, None).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_released_batches_with_one_grant_in_common_one_is_granted() {
    let operators = Operators::open().await;
    let one = operators.submit(&operators.sato, &rows(0, 10)).await.unwrap();
    let other = operators.submit(&operators.sato, &rows(9, 19)).await.unwrap();
    for batch in [one.batch, other.batch] {
        batches::release(&operators.sato, batch, None).await.unwrap();
    }
    operators.register(one.batch).await;
    operators.register(other.batch).await;
    assert_eq!(operators.count("select count(*) from noshi.gift_grant").await, 10);
    assert_eq!(operators.count("select count(*) from noshi.batch where registered_at is not null").await, 1);
    assert_eq!(
        operators.count("select count(*) from noshi.job where code = 'batch_duplicates' and status = 'failed'").await,
        1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_submission_is_gone_on_with() {
    let _turn = crate::support::busy().await;
    let operators = Operators::open().await;
    let path = operators.write("grants.csv", format!("{HEADER}\n{}", rows(0, 11_000)).as_bytes());
    let path = path.to_str().unwrap();
    let broken = tokio::process::Command::new(env!("CARGO_BIN_EXE_noshi"))
        .args(["batch", "submit", path])
        .env("DATABASE_URL", &operators.db.url)
        .env("NOSHI_CONFIG", operators.files.path().join("noshi.toml"))
        .env("NOSHI_CRASH", "stage.after@1")
        .output()
        .await
        .unwrap();
    assert_eq!(broken.status.code(), None, "{broken:?}");
    assert_eq!(operators.count("select count(*) from noshi.batch_row").await, 5_000);
    assert_eq!(operators.count("select count(*) from noshi.batch where validated_at is not null").await, 0);
    let done = operators.command(&["batch", "submit", path]).await;
    assert!(done.status.success(), "{done:?}");
    assert_eq!(operators.count("select count(*) from noshi.batch_row").await, 11_000);
    assert_eq!(operators.count("select count(distinct row_no) from noshi.batch_row").await, 11_000);
    assert_eq!(operators.count("select count(*) from noshi.batch where validated_at is not null").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_that_submit_the_same_file_at_once_stage_each_row_once() {
    let _turn = crate::support::busy().await;
    let operators = Operators::open().await;
    let text = rows(0, 6_000);
    let (one, other) = tokio::join!(operators.submit(&operators.sato, &text), operators.submit(&operators.sato, &text));
    assert_eq!(one.unwrap().batch, other.unwrap().batch);
    assert_eq!(operators.count("select count(*) from noshi.batch_row").await, 6_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_asks_for_a_gift_within_its_area_and_its_days() {
    let operators = Operators::open().await;
    let rows = "G-1,U-1,,,coffee,500,JPY,90,\nG-2,U-2,,,coffee,500,JPY,,kyoto\nG-3,U-3,,,coffee,500,JPY,1,\n";
    let submitted = operators.submit(&operators.sato, rows).await.unwrap();
    let producer = db::connect(&operators.db.url, Role::Producer, 1).await.unwrap();
    let issue = async |grant: &str, user: &str, area: Option<&str>| -> Result<i64, String> {
        sqlx::query_scalar("select noshi.issue_grant($1, $2, $3)")
            .bind(grant)
            .bind(user)
            .bind(area)
            .fetch_one(&producer)
            .await
            .map_err(|error| error.to_string())
    };
    assert!(issue("G-1", "U-1", None).await.unwrap_err().contains("this user has no grant G-1"));
    batches::release(&operators.sato, submitted.batch, None).await.unwrap();
    operators.register(submitted.batch).await;
    let job = issue("G-1", "U-1", None).await.unwrap();
    assert_eq!(issue("G-1", "U-1", None).await, Ok(job));
    assert!(issue("G-1", "U-2", None).await.unwrap_err().contains("this user has no grant"));
    assert!(issue("G-2", "U-2", Some("osaka")).await.unwrap_err().contains("is for the area kyoto"));
    assert!(issue("G-2", "U-2", Some("kyoto")).await.is_ok());
    operators.db.pool.execute("update noshi.batch set registered_at = now() - interval '2 days'").await.unwrap();
    assert!(issue("G-3", "U-3", None).await.unwrap_err().contains("has lapsed"));
    assert_eq!(
        operators.count("select count(*) from noshi.job where kind = 'gift_issuance' and priority = 0").await,
        2
    );
}

/// What was registered and cancelled is as if it had never been granted, but for what had begun.
#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_batch_counts_in_no_cap_and_stands_for_no_grant() {
    const CAP: &str =
        "insert into noshi.batch_cap (kind, currency, max_per_user, max_per_day) values ('grants', 'JPY', 1000, 1000)";
    const STAND: &str = "select count(*) from noshi.gift_grant";
    let operators = Operators::open().await;
    let row = |grant: &str, user: &str| format!("{grant},{user},,,coffee,500,JPY,90,\n");
    let first = operators.submit(&operators.sato, &(row("G-1", "U-1") + &row("G-2", "U-2"))).await.unwrap().batch;
    batches::release(&operators.sato, first, None).await.unwrap();
    operators.register(first).await;
    let producer = db::connect(&operators.db.url, Role::Producer, 1).await.unwrap();
    let issue = async |grant: &'static str, user: &'static str| -> Result<i64, sqlx::Error> {
        sqlx::query_scalar("select noshi.issue_grant($1, $2)").bind(grant).bind(user).fetch_one(&producer).await
    };
    // It would have asked for its gifts by itself, and has come to the first: a row without its job is not at its end.
    operators.db.pool.execute("update noshi.batch set issues = true, settled_at = null").await.unwrap();
    let begun = issue("G-1", "U-1").await.unwrap();
    operators.db.pool.execute(CAP).await.unwrap();
    assert_eq!(operators.count(STAND).await, 2);
    batches::cancel(&operators.sato, first, "a slip").await.unwrap();
    assert_eq!(operators.count(STAND).await, 1, "what was asked for");

    // 500 of the day are spent, by the gift that goes on; G-2 may be granted again.
    let again = operators.submit(&operators.sato, &row("G-2", "U-2")).await.unwrap().batch;
    let both = operators.submit(&operators.sato, &(row("G-3", "U-3") + &row("G-4", "U-4"))).await.unwrap().batch;
    let said = batches::release(&operators.sato, both, None).await.unwrap_err().to_string();
    assert!(said.contains("1000 JPY here and 500 in the last 24 hours"), "{said}");
    assert!(issue("G-2", "U-2").await.unwrap_err().to_string().contains("was cancelled with its batch"));
    batches::release(&operators.sato, again, None).await.unwrap();
    operators.register(again).await;
    assert_eq!(operators.progress(again).await.refused, None);
    assert_eq!(operators.count(STAND).await, 2);
    assert_eq!(issue("G-1", "U-1").await.unwrap(), begun);
    issue("G-2", "U-2").await.unwrap();
    // What goes on is not granted again.
    let twice = operators.submit(&operators.sato, &row("G-1", "U-1")).await.unwrap().batch;
    let said = batches::release(&operators.sato, twice, None).await.unwrap_err().to_string();
    assert!(said.contains("500 JPY here and 1000 in the last 24 hours"), "{said}");
    operators.db.pool.execute("insert into noshi.batch_cap (kind, currency) values ('grants', 'JPY')").await.unwrap();
    let said = batches::release(&operators.sato, twice, None).await.unwrap_err().to_string();
    assert!(said.contains("granted by another batch already: line 2"), "{said}");
}

/// A released batch of grants is cancelled: its report says which of them stand, and the others are granted and announced again.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_cancelled_batch_announced_is_announced_anew() {
    const MAILS: &str =
        "select count(*) from noshi.job where kind = 'email' and batch = 2 and key like 'gift_granted:1/2:G-%'";
    let operators = Operators::open().await;
    let without = "G-8,U-8,,,coffee,500,JPY,90,\nG-9,U-9,,,coffee,500,JPY,90,\n";
    let first = operators.submit(&operators.sato, &(rows(0, 3) + without)).await.unwrap().batch;
    batches::release(&operators.sato, first, None).await.unwrap();
    operators.register(first).await;
    let producer = db::connect(&operators.db.url, Role::Producer, 1).await.unwrap();
    let issue = async |grant: String| -> Result<i64, sqlx::Error> {
        let issue = sqlx::query_scalar("select noshi.issue_grant($1, $2)").bind(&grant);
        issue.bind(grant.replace('G', "U")).fetch_one(&producer).await
    };
    let begun = [issue("G-0".to_owned()).await.unwrap(), issue("G-8".to_owned()).await.unwrap()];
    let said = operators.command(&["batch", "cancel", &first.to_string(), "--reason", "a slip"]).await;
    let said = String::from_utf8(said.stdout).unwrap();
    assert!(said.contains("3 rows are cancelled, 2 were done before and stay"), "{said}");
    let report = String::from_utf8(operators.report(&[&first.to_string()]).await.stdout).unwrap();
    for line in report.lines().skip(1) {
        let stands = line.starts_with("G-0") || line.starts_with("G-8");
        let told = if stands { ",completed,granted," } else { ",cancelled,cancelled," };
        assert!(line.contains(told) && line.contains("cancelled with its batch") != stands, "{line}");
    }
    let progress = operators.progress(first).await;
    assert_eq!((progress.completed, progress.cancelled, progress.holds), (2, 3, true), "{progress:?}");
    // What was moved out goes on all the same.
    operators
        .db
        .pool
        .execute("update noshi.job set status = 'completed', finished_at = now() - interval '1 year' where key = 'G-0'")
        .await
        .unwrap();
    operators.db.pool.execute("select noshi.prune(100, interval '1 day')").await.unwrap();
    assert_eq!(operators.count("select count(*) from noshi.tombstone where key = 'G-0'").await, 1);
    assert_eq!([issue("G-0".to_owned()).await.unwrap(), issue("G-8".to_owned()).await.unwrap()], begun);
    assert!(issue("G-1".to_owned()).await.is_err() && issue("G-9".to_owned()).await.is_err());

    let again =
        operators.submit(&operators.sato, &(rows(1, 3) + "G-9,U-9,,,coffee,500,JPY,90,\n")).await.unwrap().batch;
    batches::release(&operators.sato, again, None).await.unwrap();
    operators.register(again).await;
    assert_eq!(operators.progress(again).await.refused, None);
    assert_eq!(
        operators.count("select count(*) from noshi.job where key = 'batch/2' and status = 'completed'").await,
        1
    );
    assert_eq!(operators.count(MAILS).await, 2, "each is announced by this batch");
    issue("G-9".to_owned()).await.unwrap();
    // And once more: the mails of both stand in nobody's way.
    batches::cancel(&operators.sato, again, "again").await.unwrap();
    let third = operators.submit(&operators.sato, &rows(1, 2)).await.unwrap().batch;
    batches::release(&operators.sato, third, None).await.unwrap();
    operators.register(third).await;
    assert_eq!(
        operators.count("select count(*) from noshi.job where key = 'gift_granted:1/3:G-1' and batch = 3").await,
        1
    );
}

/// A batch's own job that is parked ends with its batch.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_cancelled_batch_stays_parked() {
    let operators = Operators::open().await;
    let batch = operators.submit(&operators.sato, &rows(0, 2)).await.unwrap().batch;
    // A producer has taken the id of one of its mails.
    let taken = r#"{"template": "gift_granted", "reference": "G-1", "recipient": "x", "params": {}}"#;
    let take = sqlx::query("select noshi.enqueue('email', 'gift_granted:1:G-1', $1::jsonb)").bind(taken);
    take.execute(&operators.db.pool).await.unwrap();
    batches::release(&operators.sato, batch, None).await.unwrap();
    let pace = Pace { slots: 8, ..Pace::default() };
    let worker = Worker::start(&operators.db.url, "test", Partners::default(), pace).await.unwrap();
    let parked = until("it is parked", Duration::from_secs(60), async || {
        operators
            .count("select count(*) from noshi.job where kind = 'bulk_grants' and code = 'follow_up_conflict'")
            .await
            == 1
    });
    worker.run_until(parked).await;
    assert_eq!(operators.progress(batch).await.status, "parked");
    batches::cancel(&operators.sato, batch, "a conflict").await.unwrap();
    operators.register(batch).await;
    assert_eq!(
        operators.count("select count(*) from noshi.job where kind = 'bulk_grants' and status = 'completed'").await,
        1
    );
    assert_eq!(operators.progress(batch).await.status, "cancelled");
}

/// One id names one request for ever, whichever entry point it comes by: what a file has granted nobody takes with another user or amount.
#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_a_file_has_granted_is_taken() {
    let operators = Operators::open().await;
    let batch = operators.submit(&operators.sato, &rows(0, 2)).await.unwrap().batch;
    batches::release(&operators.sato, batch, None).await.unwrap();
    operators.register(batch).await;
    let producer = db::connect(&operators.db.url, Role::Producer, 1).await.unwrap();
    let ask = async |user: &str, amount: i64| {
        let args = serde_json::json!({"grant": "G-0", "user": user, "category": "coffee", "value": {"amount": amount, "currency": "JPY"}, "valid_days": 90});
        let ask = sqlx::query_scalar::<_, i64>("select noshi.enqueue('gift_issuance', 'G-0', $1)").bind(args);
        ask.fetch_one(&producer).await
    };
    for (user, amount) in [("EVE", 500), ("U-0", 50_000), ("EVE", 50_000)] {
        let refused = ask(user, amount).await.unwrap_err();
        let refused = refused.as_database_error().unwrap();
        assert_eq!(refused.code().as_deref(), Some("NS409"), "{refused}");
        assert!(refused.message().contains("exists with other arguments"), "{refused}");
    }
    let job = ask("U-0", 500).await.unwrap();
    let issue = sqlx::query_scalar("select noshi.issue_grant('G-0', 'U-0')").fetch_one(&producer).await;
    assert_eq!(issue.unwrap_or(0_i64), job, "the same request, by another entry point");
}

/// Whoever approves a batch reads what its file and its campaign are called: by each entry point the same, and all of it can be seen.
#[tokio::test(flavor = "multi_thread")]
async fn names_of_files_and_campaigns_can_be_seen() {
    let operators = Operators::open().await;
    let sql = "select noshi.receive_batch('grants', 'all_or_nothing', sha256('x'), $1, 'utf-8', $2, false, false)";
    let long = "x".repeat(201);
    for (file, campaign) in [
        ("\u{202e}fdp.csv", "summer"),
        ("", "summer"),
        (&long, "summer"),
        ("a/b.csv", "summer"),
        ("f.csv", "\u{200b}"),
        ("f.csv", " "),
        ("f.csv", &long),
        ("f.csv", "a\tb"),
    ] {
        let ours = intake::file_fault(file).or_else(|| intake::campaign_fault(campaign));
        let theirs = sqlx::query(sql).bind(file).bind(campaign).execute(&operators.sato).await.unwrap_err();
        assert!(ours.is_some() && theirs.to_string().contains(&ours.clone().unwrap()), "{file:?} {ours:?} {theirs}");
    }
    assert_eq!(intake::file_fault("付与 2026.csv").or_else(|| intake::campaign_fault("夏の特典")), None);
    let path = operators.write("plain.csv", format!("{HEADER}\n{}", rows(0, 1)).as_bytes());
    let said = operators.command(&["batch", "submit", path.to_str().unwrap(), "--campaign", &long]).await;
    assert!(String::from_utf8_lossy(&said.stderr).contains("at most 200 fit"), "{said:?}");
    // Reasons too.
    let unseen = batches::cancel(&operators.sato, 1, "\u{200b}").await.unwrap_err().to_string();
    assert!(unseen.contains("there is no batch") || unseen.contains("can be seen"), "{unseen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn stores_pause_resume_and_cancel_and_what_failed_runs_again() {
    let operators = Operators::open().await;
    let text = "organization_id,public_id,name\norg-1,s-1,\"=cmd()\"\norg-1,s-2,二号店\norg-1,s-3,三号店\n";
    let path = operators.write("stores.csv", text.as_bytes());
    let submitted =
        operators.command(&["batch", "submit", "--kind", "stores", "--release", path.to_str().unwrap()]).await;
    let said = String::from_utf8(submitted.stdout).unwrap();
    assert!(said.contains("3 rows = 0 completed + 0 failed + 0 cancelled + 0 needs operator + 3 open"), "{said}");
    batches::pause(&operators.sato, 1, "a look").await.unwrap();
    assert_eq!(operators.count("select count(*) from noshi.job where status = 'scheduled'").await, 3);
    assert_eq!(operators.progress(1).await.status, "paused");
    batches::resume(&operators.sato, 1, "it is well").await.unwrap();
    assert_eq!(operators.count("select count(*) from noshi.job where status = 'available'").await, 3);
    operators.db
        .pool
        .execute(
            r#"update noshi.job set status = 'failed', code = 'shop_refused', outcome = 'refused', at = 'refused', finished_at = now(),
               state = '{"at":"refused","run":0,"why":"shop_refused","detail":"bad_name"}' where row_no = 1"#,
        )
        .await
        .unwrap();
    let report = String::from_utf8(operators.report(&["1"]).await.stdout).unwrap();
    let mut lines = report.lines();
    assert_eq!(lines.next(), Some("\u{feff}organization_id,public_id,name,line,result,outcome,reason_ja,reason,mail"));
    let first = lines.next().unwrap();
    assert!(first.starts_with("org-1,s-1,'=cmd(),2,failed,refused,組織基盤が店舗の作成を断りました。"), "{first}");
    assert!(first.contains("(bad_name)"), "{first}");
    assert_eq!(batches::rerun(&operators.sato, 1, "fixed there").await.unwrap(), 1);
    assert_eq!(
        operators.count("select count(*) from noshi.job where requested_act = 'rerun' and status = 'available'").await,
        1
    );
    assert_eq!(batches::cancel(&operators.sato, 1, "not wanted").await.unwrap(), 2);
    let progress = operators.progress(1).await;
    assert_eq!((progress.cancelled, progress.open), (2, 1), "{progress:?}");
    assert!(progress.holds);
}

/// A report holds names and addresses: nobody else reads it, and it is written over nothing and through no link.
#[tokio::test(flavor = "multi_thread")]
async fn a_report_in_a_file_is_its_writers_alone() {
    let operators = Operators::open().await;
    let path = operators.write("stores.csv", "organization_id,public_id,name\norg-1,s-1,一号店\n".as_bytes());
    let submitted = operators.command(&["batch", "submit", "--kind", "stores", path.to_str().unwrap()]).await;
    assert!(submitted.status.success(), "{}", String::from_utf8_lossy(&submitted.stderr));
    let (report, link) = (operators.files.path().join("report.csv"), operators.files.path().join("link.csv"));
    let write = async |path: &std::path::Path, more: &[&str]| {
        let words = [&["1", "--out", path.to_str().unwrap()], more].concat();
        operators.report(&words).await.status.success()
    };
    assert!(write(&report, &[]).await);
    assert_eq!(fs::metadata(&report).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!write(&report, &[]).await);
    let kept = operators.write("kept", b"of somebody");
    std::os::unix::fs::symlink(&kept, &link).unwrap();
    assert!(!write(&link, &[]).await && !write(&link, &["--force"]).await);
    assert_eq!(fs::read(&kept).unwrap(), b"of somebody");
    assert!(write(&report, &["--force"]).await);
    assert_eq!(fs::metadata(&report).unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_said() {
    let run = async |config: Option<PathBuf>| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_noshi"));
        command.args(["batch", "submit", "x.csv"]).env_remove("DATABASE_URL").env_remove("NOSHI_CONFIG");
        if let Some(config) = config {
            command.arg("--config").arg(config);
        }
        let output = command.output().await.unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(run(None).await.contains("the configuration names no gift provider"));
    let operators = Operators::open().await;
    assert!(run(Some(operators.files.path().join("noshi.toml"))).await.contains("set DATABASE_URL"));
}

/// Whoever submits can stage anything by hand; what is staged is judged all the same.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_a_file_could_not_hold_are_refused_whoever_stages_them() {
    let operators = Operators::open().await;
    let stage = async |digest: &str, rows: &[(&str, &str, i64)]| -> Result<(), String> {
        let receive = format!(
            "select batch from noshi.receive_batch('grants', 'all_or_nothing', sha256('{digest}'), 'f', 'utf-8', null, false, true)"
        );
        let batch: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(receive)).fetch_one(&operators.sato).await.unwrap();
        for (row, (key, grant, amount)) in rows.iter().enumerate() {
            let row = row + 1;
            let args = format!(
                r#"{{"grant": "{grant}", "user": "u", "category": "c", "value": {{"amount": {amount}, "currency": "JPY"}}}}"#
            );
            let insert = format!(
                "insert into noshi.batch_row (batch, row_no, line, key, args) values ({batch}, {row}, {row}, '{key}', '{args}')"
            );
            operators.sato.execute(sqlx::AssertSqlSafe(insert)).await.map_err(|error| error.to_string())?;
        }
        let validate = format!("select noshi.validate_batch({batch}, {})", rows.len());
        operators.sato.execute(sqlx::AssertSqlSafe(validate)).await.map(drop).map_err(|error| error.to_string())
    };
    assert_eq!(stage("good", &[("g1", "g1", 500)]).await, Ok(()));
    for (digest, rows, sentence) in [
        ("negative", &[("g2", "g2", 450_000), ("g3", "g3", -449_999)][..], "violates check constraint"),
        ("renamed", &[("g4", "another", 500)][..], "violates check constraint"),
        ("twice", &[("g5", "g5", 500), ("g5", "g5", 500)][..], "one id twice"),
        ("empty", &[][..], "has 0 rows"),
    ] {
        let error = stage(digest, rows).await.unwrap_err();
        assert!(error.contains(sentence), "{digest}: {error}");
    }
    let nothing = "select noshi.receive_batch('grants', 'per_row', sha256('m'), 'f', 'utf-8', null, false, true)";
    assert!(operators.sato.execute(nothing).await.is_err(), "grants are granted all or nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approval_is_of_what_is_staged_and_says_why() {
    let operators = Operators::open().await;
    let submitted = operators.submit(&operators.sato, &rows(0, 120)).await.unwrap();
    let good = operators.files.path().join("grants.csv");
    let approve = async |file: &str, reason: &str| {
        let url = support::server().await.url_as("suzuki", &operators.db.name);
        let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_noshi"))
            .args(["batch", "approve", &submitted.batch.to_string(), "--file", file, "--reason", reason])
            .env("DATABASE_URL", url)
            .env("NOSHI_CONFIG", operators.files.path().join("noshi.toml"))
            .output()
            .await
            .unwrap();
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    };
    let other =
        operators.write("other.csv", format!("{HEADER}\n{}", rows(0, 120).replace(",500,", ",600,")).as_bytes());
    let (approved, said) = approve(other.to_str().unwrap(), "read").await;
    assert!(!approved && said.contains("line 2 is not staged in batch 1 as this file has it"), "{said}");
    let fewer = operators.write("fewer.csv", format!("{HEADER}\n{}", rows(0, 119)).as_bytes());
    let (approved, said) = approve(fewer.to_str().unwrap(), "read").await;
    assert!(!approved && said.contains("batch 1 has 120 rows, and this file 119"), "{said}");
    let (approved, said) = approve(good.to_str().unwrap(), " ").await;
    assert!(!approved && said.contains("--reason is empty"), "{said}");
    let nothing = "select noshi.approve_batch(1, null, 'x')";
    assert!(
        operators.suzuki.execute(nothing).await.unwrap_err().to_string().contains("this digest does not stand for")
    );
    // What only a worker can see: an address that is not the file's, one more, one less, and a file that is not what the batch says.
    let sealer = operators.settings().sealer().unwrap();
    let place = vault::SealedAt { grant: "G-7", provider: "", column: "recipient" };
    let forged = sealer.seal(&place, &SecretString::from(r#"{"name":"山田太郎","address":"evil@attacker.example"}"#));
    let of = |row: i32| format!("what = 'recipient' and subject = '{}/{row}'", submitted.batch);
    let keep = "create table public.kept as select * from noshi_sealed.sealed";
    operators.db.pool.execute(keep).await.unwrap();
    let forge = format!(
        "update noshi_sealed.sealed set nonce = '\\x{}', ciphertext = '\\x{}' where {}",
        hex::encode(&forged.nonce),
        hex::encode(&forged.ciphertext),
        of(8)
    );
    let swap = format!(
        "update noshi_sealed.sealed s set nonce = k.nonce, ciphertext = k.ciphertext from public.kept k where s.{} and k.{}",
        of(8).replace(" and ", " and s."),
        of(9).replace(" and ", " and k.")
    );
    let other_file = format!(
        "update noshi_sealed.sealed set key_id = key_id, ciphertext = (select ciphertext from public.kept where {}) where what = 'file'",
        of(1)
    );
    for change in [forge, swap, format!("delete from noshi_sealed.sealed where {}", of(120)), other_file] {
        operators.db.pool.execute(sqlx::AssertSqlSafe(change.clone())).await.unwrap();
        let (approved, said) = operators.beside_a_worker(approve(good.to_str().unwrap(), "read")).await;
        let why = ["not what its file has", "does not open", "not the one that was submitted"];
        assert!(!approved && why.iter().any(|why| said.contains(why)), "{change}: {said}");
        let back = "delete from noshi_sealed.sealed; insert into noshi_sealed.sealed select * from public.kept";
        operators.db.pool.execute("alter table noshi_sealed.sealed disable trigger user").await.unwrap();
        for part in back.split("; ") {
            operators.db.pool.execute(part).await.unwrap();
        }
        operators.db.pool.execute("alter table noshi_sealed.sealed enable trigger user").await.unwrap();
    }
    let (approved, said) = operators.beside_a_worker(approve(good.to_str().unwrap(), "read")).await;
    assert!(approved, "{said}");
}

/// The address and phone of a store are a part of what is approved, and come with their own row.
#[tokio::test(flavor = "multi_thread")]
async fn the_contact_of_a_store_is_approved_as_its_file_has_it() {
    let operators = Operators::open().await;
    let cap = "insert into noshi.batch_cap (kind, currency, max_rows, approve_from_rows) values ('stores', '', 100, 1)";
    operators.db.pool.execute(cap).await.unwrap();
    let text =
        "organization_id,public_id,name,address,phone\nO,S-1,本店,渋谷 1,03-1\nO,S-2,支店,渋谷 2,\nO,S-3,支店,,\n";
    let file = operators.write("stores.csv", text.as_bytes());
    let noshi = async |login: &str, args: &[&str]| {
        let url = support::server().await.url_as(login, &operators.db.name);
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_noshi"));
        command.arg("batch").args(args).arg(file.to_str().unwrap()).env("DATABASE_URL", url);
        let said = command.env("NOSHI_CONFIG", operators.files.path().join("noshi.toml")).output().await.unwrap();
        (said.status.success(), String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned())
    };
    let (submitted, said) = noshi("sato", &["submit", "--kind", "stores"]).await;
    assert!(submitted, "{said}");
    let contacts = "select count(*) from noshi_sealed.sealed where what = 'contact' and subject in ('1/1', '1/2')";
    assert_eq!(operators.count(contacts).await, 2);
    let plain =
        "select count(*) from noshi.batch_row where args::text ~ '渋谷|03-1' or (args ? 'contact') <> (row_no < 3)";
    assert_eq!(operators.count(plain).await, 0);

    let approve =
        async || operators.beside_a_worker(noshi("suzuki", &["approve", "1", "--reason", "read", "--file"])).await;
    operators.db.pool.execute("create table public.kept as select * from noshi_sealed.sealed").await.unwrap();
    let forged = vault::contact::Contact::of(Some("another".to_owned()), Some("03-1".to_owned()));
    let forged = operators.settings().sealer().unwrap().seal(&vault::contact::Contact::place("S-1"), &forged.text());
    let forge = format!(
        "update noshi_sealed.sealed set nonce = '\\x{}', ciphertext = '\\x{}' where subject = '1/1' and what = 'contact'",
        hex::encode(&forged.nonce),
        hex::encode(&forged.ciphertext)
    );
    let less = "delete from noshi_sealed.sealed where subject = '1/2' and what = 'contact'".to_owned();
    let more = "insert into noshi_sealed.sealed select what, '1/3', grant_id, provider, key_id, nonce, ciphertext from public.kept where subject = '1/1' and what = 'contact'".to_owned();
    for change in [forge, less, more] {
        operators.db.pool.execute(sqlx::AssertSqlSafe(change.clone())).await.unwrap();
        let (approved, said) = approve().await;
        assert!(!approved && said.contains("not what its file has"), "{change}: {said}");
        for part in ["delete from noshi_sealed.sealed", "insert into noshi_sealed.sealed select * from public.kept"] {
            operators.db.pool.execute(part).await.unwrap();
        }
    }
    let (approved, said) = approve().await;
    assert!(approved, "{said}");

    // By hand: no row has another's, and none brings what was sealed along.
    let receive = "select noshi.receive_batch('stores', 'per_row', sha256('x'), 'x', 'utf-8', null, false, false)";
    operators.sato.execute(receive).await.unwrap();
    for contact in ["\"1/1\"", "\"2/2\"", "{\"key\": \"k\", \"nonce\": \"n\", \"ciphertext\": \"c\"}", "true"] {
        let row = format!(
            "insert into noshi.batch_row (batch, row_no, line, key, args) values (2, 1, 2, 'O/S-1/2',
                '{{\"organization\": \"O\", \"public_id\": \"S-1\", \"name\": \"n\", \"request\": \"2\", \"contact\": {contact}}}')"
        );
        let error = operators.sato.execute(sqlx::AssertSqlSafe(row)).await.unwrap_err().to_string();
        assert!(error.contains("args.contact"), "{contact}: {error}");
    }
}

/// The same bytes twice, or nothing: what a first reading left behind of another file is never granted under this one's name.
#[tokio::test(flavor = "multi_thread")]
async fn what_another_file_left_behind_is_not_gone_on_with() {
    let operators = Operators::open().await;
    let text = format!("{HEADER}\n{}", rows(0, 10));
    let digest = hex::encode(Sha256::digest(text.as_bytes()));
    let forged = format!(
        "select noshi.receive_batch('grants', 'all_or_nothing', '\\x{digest}', 'f', 'utf-8', 'summer', true, false);
         insert into noshi.batch_row (batch, row_no, line, key, args) values (1, 1, 2, 'G-0',
            '{{\"grant\": \"G-0\", \"user\": \"U-0\", \"category\": \"c\", \"value\": {{\"amount\": 900, \"currency\": \"JPY\"}}}}')"
    );
    operators.sato.execute(sqlx::AssertSqlSafe(forged)).await.unwrap();
    let error = sentence(operators.submit(&operators.sato, &rows(0, 10)).await.unwrap_err());
    assert!(operators.count("select count(*) from noshi.batch where validated_at is not null").await == 0, "{error}");
    assert_eq!(operators.progress(1).await.status, "cancelled", "{error}");
    let again = operators.submit(&operators.sato, &rows(0, 10)).await.unwrap();
    assert!(again.is_new && again.batch != 1, "{again:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_producer_puts_nothing_into_a_batch_and_names_the_user() {
    let operators = Operators::open().await;
    let submitted = operators.submit(&operators.sato, "G-1,U-1,,,coffee,500,JPY,,\n").await.unwrap();
    batches::release(&operators.sato, submitted.batch, None).await.unwrap();
    operators.register(submitted.batch).await;
    let producer = db::connect(&operators.db.url, Role::Producer, 1).await.unwrap();
    let into = "select noshi.enqueue_rows('email', array['k'], array['{}'::jsonb], 1::smallint, 1)";
    assert!(producer.execute(into).await.unwrap_err().to_string().contains("does not exist"));
    let nobody = "select noshi.issue_grant('G-1', null)";
    assert!(producer.execute(nobody).await.unwrap_err().to_string().contains("this user has no grant"));
    let worker = db::connect(&operators.db.url, Role::Worker, 1).await.unwrap();
    let old = "begin isolation level repeatable read; select noshi.register_batch(1)";
    assert!(worker.execute(old).await.unwrap_err().to_string().contains("read committed"));
}

/// F11: below the threshold nobody compares what is staged with the file. The report does, and says what was granted instead.
#[tokio::test(flavor = "multi_thread")]
async fn a_report_says_where_something_else_was_granted_than_the_file_has() {
    let operators = Operators::open().await;
    operators.submit(&operators.sato, &rows(0, 4)).await.unwrap();
    let told = async || {
        let output = operators.report(&["1"]).await;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let honest = told().await;
    assert_eq!((honest.lines().count(), honest.matches("NOT WHAT THE FILE HAS").count()), (5, 0), "{honest}");
    for forge in [
        "alter table noshi.batch_row disable trigger user",
        r#"update noshi.batch_row set args = jsonb_set(args, '{value,amount}', '900') where key = 'G-1'"#,
        r#"update noshi.batch_row set args = jsonb_set(args, '{user}', '"thief"') where key = 'G-2'"#,
        "insert into noshi.batch_row (batch, row_no, line, key, args)
            select 1, 5, 6, 'G-X', args || '{\"grant\": \"G-X\", \"user\": \"thief\"}' from noshi.batch_row where key = 'G-0'",
    ] {
        operators.db.pool.execute(forge).await.unwrap();
    }
    let told = told().await;
    let lines: Vec<&str> = told.lines().filter(|line| line.contains("NOT WHAT THE FILE HAS")).collect();
    assert_eq!((told.lines().count(), lines.len()), (6, 3), "{told}");
    assert!(lines[0].contains("G-1,") && lines[0].contains("900 JPY"), "{told}");
    assert!(lines[1].contains("G-2,") && lines[1].contains("thief"), "{told}");
    assert!(lines[2].contains("G-X"), "{told}");
}

/// F13: what is sealed to a key that the workers do not have, under an id that they know, would open nowhere.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_not_sealed_to_another_key_of_a_known_id() {
    let operators = Operators::open().await;
    let known = "insert into noshi.vault_key (id, print) values ($1, $2)";
    let sealer = operators.settings().sealer().unwrap();
    sqlx::query(known).bind(sealer.current_key()).bind("ab".repeat(32)).execute(&operators.db.pool).await.unwrap();
    let refused = sentence(operators.submit(&operators.sato, &rows(0, 3)).await.unwrap_err());
    assert!(refused.contains("is not the one that the workers have under this id"), "{refused}");
    assert_eq!(operators.count("select count(*) from noshi.batch").await, 0);
    sqlx::query("update noshi.vault_key set print = $1")
        .bind(sealer.print())
        .execute(&operators.db.pool)
        .await
        .unwrap();
    operators.submit(&operators.sato, &rows(0, 3)).await.unwrap();
}
