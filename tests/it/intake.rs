//! A file of grants is taken as a whole or not at all, on a real database and through the real command.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Output};

use noshi::{intake, settings::Settings, store, store::Role, vault};
use secrecy::ExposeSecret;
use sqlx::Executor;
use tempfile::TempDir;

use crate::support::{TestDatabase, database};

const HEADER: &str = "grant_id,user_id,name,email,category,provider,amount,currency,valid_days";
const CONFIG: &str = r#"
vault_key_file = "DIR/vault.key"
[gifts.gift_on_demand]
base_url = "http://127.0.0.1:1"
credentials = { api_key_file = "DIR/secret" }
ranges = [{ category = "coffee", currency = "JPY", min = 500, max = 1000, product = "small" }]
"#;

struct Desk {
    db: TestDatabase,
    files: TempDir,
}

impl Desk {
    async fn open() -> Desk {
        let (db, files) = (database().await, tempfile::tempdir().unwrap());
        let desk = Desk { db, files };
        desk.write("vault.key", vault::generate_key_line().expose_secret());
        desk.write("secret", "secret");
        desk.write("noshi.toml", &CONFIG.replace("DIR", desk.files.path().to_str().unwrap()));
        desk
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.files.path().join(name)
    }

    async fn command(&self, more: &[&str], rows: &str) -> Output {
        self.write("grants.csv", &format!("{HEADER}\n{rows}"));
        tokio::process::Command::new(env!("CARGO_BIN_EXE_noshi"))
            .args(["batch", "submit"])
            .arg(self.path("grants.csv"))
            .args(more)
            .env("DATABASE_URL", &self.db.url)
            .env("NOSHI_CONFIG", self.path("noshi.toml"))
            .output()
            .await
            .unwrap()
    }

    /// Jobs, sealed recipients.
    async fn count(&self) -> (i64, i64) {
        sqlx::query_as("select (select count(*) from noshi.job), (select count(*) from noshi_sealed.sealed)")
            .fetch_one(&self.db.pool)
            .await
            .unwrap()
    }
}

fn told(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn refused(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8(output.stderr.clone()).unwrap()
}

const TWO: &str = "G-1,U-1,山田太郎,taro@example.jp,coffee,,500,JPY,90\nG-2,U-2,,,coffee,gift_on_demand,1000,JPY,\n";

#[tokio::test(flavor = "multi_thread")]
async fn the_same_file_again_is_the_same_jobs() {
    let desk = Desk::open().await;
    let dry = desk.command(&["--dry-run"], TWO).await;
    assert!(told(&dry).ends_with("grants.csv: 2 grants, 2 would be new, 0 already there\n"), "{dry:?}");
    assert_eq!(desk.count().await, (0, 0));

    let first = desk.command(&[], TWO).await;
    assert!(told(&first).ends_with("grants.csv: 2 grants, 2 new, 0 already there\n"), "{first:?}");
    assert_eq!(desk.count().await, (2, 1));

    let again = desk.command(&["--interactive"], &format!("{TWO}G-3,U-3,花子,,coffee,,500,JPY,\n")).await;
    assert!(told(&again).ends_with("grants.csv: 3 grants, 1 new, 2 already there\n"), "{again:?}");
    assert_eq!(desk.count().await, (3, 2));

    let rows: Vec<(String, i16, i32, String)> =
        sqlx::query_as("select key, priority, row_no, args::text from noshi.job order by key")
            .fetch_all(&desk.db.pool)
            .await
            .unwrap();
    let keys: Vec<(&str, i16, i32)> =
        rows.iter().map(|(key, priority, row, _)| (key.as_str(), *priority, *row)).collect();
    assert_eq!(keys, [("G-1", 1, 1), ("G-2", 1, 2), ("G-3", 0, 3)]);
    for (.., args) in rows {
        assert!(!args.contains("山田") && !args.contains("花子") && !args.contains("example.jp"), "{args}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn recipients_open_under_the_vaults_key_and_stand_nowhere_in_the_clear() {
    let desk = Desk::open().await;
    desk.command(&[], TWO).await;
    let (subject, key_id, nonce, ciphertext): (String, String, Vec<u8>, Vec<u8>) =
        sqlx::query_as("select subject, key_id, nonce, ciphertext from noshi_sealed.sealed where what = 'recipient'")
            .fetch_one(&desk.db.pool)
            .await
            .unwrap();
    assert_eq!(subject, "G-1");
    let keys = Settings::read(Some(&desk.path("noshi.toml"))).unwrap().vault().unwrap();
    let place = vault::Place { grant: "G-1", provider: "", column: "recipient" };
    let sealed = noshi_jobs::gift_issuance::Sealed { key_id, nonce, ciphertext };
    let open = keys.unseal(&place, &sealed).unwrap();
    assert_eq!(open.expose_secret(), r#"{"name":"山田太郎","email":"taro@example.jp"}"#);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_with_a_fault_writes_nothing() {
    let desk = Desk::open().await;
    let rows = format!("{TWO}G-3,U-3,,,tea,,500,JPY,\nG-4,U-4,,,coffee,,1001,JPY,\n");
    let text = refused(&desk.command(&[], &rows).await);
    assert!(text.contains("grants.csv line 4, field `category`: nobody offers this category"), "{text}");
    assert!(text.contains("grants.csv line 5, field `amount`: gift_on_demand offers `coffee`"), "{text}");
    assert!(!text.contains("山田") && !text.contains("example.jp"), "{text}");
    assert_eq!(desk.count().await, (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_exists_with_other_arguments_stops_the_whole_file() {
    let desk = Desk::open().await;
    desk.command(&[], TWO).await;
    let changed = "G-8,U-8,次郎,,coffee,,500,JPY,\nG-2,U-2,,,coffee,gift_on_demand,900,JPY,\n";
    for more in [&[][..], &["--dry-run"]] {
        let text = refused(&desk.command(more, changed).await);
        assert!(text.contains("grants.csv line 3, field `grant_id`: this grant exists with other arguments"), "{text}");
        assert!(
            text.contains(r#"value: recorded {"amount": 1000"#) && text.contains(r#"now {"amount": 900"#),
            "{text}"
        );
        assert_eq!(desk.count().await, (2, 1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_behind_the_recipients_takes_them_back() {
    let desk = Desk::open().await;
    desk.db
        .pool
        .execute(
            "create function public.refuse() returns trigger language plpgsql as $$ begin raise exception 'no'; end $$;
             create trigger refuse before insert on noshi.job for each row when (new.key = 'G-2')
             execute function public.refuse();",
        )
        .await
        .unwrap();
    let text = refused(&desk.command(&[], TWO).await);
    assert!(text.contains("nothing was written"), "{text}");
    assert_eq!(desk.count().await, (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_that_submit_the_same_file_at_once_make_each_job_once() {
    let desk = Desk::open().await;
    let settings = Settings::read(Some(&desk.path("noshi.toml"))).unwrap();
    let rows: String = (0..500).map(|row| format!("G-{row},U,太郎,,coffee,,500,JPY,\n")).collect();
    let text = format!("{HEADER}\n{rows}");
    let grants = intake::read("f.csv", text.as_bytes(), &settings.gifts().unwrap()).unwrap();
    let (keys, pool) = (settings.vault().unwrap(), store::connect(&desk.db.url, Role::Operator, 2).await.unwrap());
    let submit = || intake::submit(&pool, &keys, "f.csv", &grants, false);
    let (one, other) = tokio::join!(submit(), submit());
    let (one, other) = (one.unwrap(), other.unwrap());
    assert_eq!(one.new + other.new, 500, "{one:?} {other:?}");
    assert_eq!(desk.count().await, (500, 500));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_said() {
    let run = async |config: Option<&Path>, file: &str| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_noshi"));
        command.args(["batch", "submit", file]).env_remove("DATABASE_URL").env_remove("NOSHI_CONFIG");
        if let Some(config) = config {
            command.arg("--config").arg(config);
        }
        refused(&command.output().await.unwrap())
    };
    assert!(run(None, "x.csv").await.contains("the configuration names no gift provider"));
    let desk = Desk::open().await;
    assert!(run(Some(&desk.path("noshi.toml")), "x.csv").await.contains("set DATABASE_URL"));
}
