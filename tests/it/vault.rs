//! Keys: a new one made, everything sealed again under it through kills, the old one taken away.

use std::{collections::HashSet, fs, os::unix::fs::PermissionsExt, os::unix::process::ExitStatusExt, process::Output};
use std::{path::PathBuf, time::Duration};

use noshi_jobs::gift_issuance::Sealed;
use secrecy::{ExposeSecret, SecretString};
use sqlx::Row;
use tempfile::TempDir;
use tokio::process::Command;

use crate::{
    processes::until,
    support::{TestDatabase, database},
};
use noshi::{
    db::domain::mails,
    vault::{SealedAt, Vault},
};

const GRANTS: usize = 225;

struct Setup {
    db: TestDatabase,
    files: TempDir,
    old: String,
    new: String,
}

impl Setup {
    /// Two keys made by the command, and two sealed values of every grant under the old one.
    async fn open() -> Setup {
        let (db, files) = (database().await, tempfile::tempdir().unwrap());
        fs::write(
            files.path().join("noshi.toml"),
            format!("vault_key_file = '{}/vault.key'\n", files.path().display()),
        )
        .unwrap();
        let mut setup = Setup { db, files, old: String::new(), new: String::new() };
        (setup.old, setup.new) = (setup.new_key().await, setup.new_key().await);
        let vault = setup.keys(&[&setup.old]);
        let (mut places, mut sealed) = (vec![], vec![]);
        for n in 0..GRANTS {
            let (grant, trade) = (format!("g{n}"), format!("T{n}"));
            for (what, subject, provider) in [("gift_code", &trade, "tango_card"), ("recipient", &grant, "")] {
                let place = SealedAt { grant: &grant, provider, column: what };
                sealed.push(vault.seal(&place, &SecretString::from(format!("{what} of {grant}"))));
                places.push([what, subject, &grant, provider].map(str::to_owned));
            }
        }
        let part = |at: usize| places.iter().map(|place| place[at].clone()).collect::<Vec<_>>();
        let insert = "insert into noshi_sealed.sealed select * from
            unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bytea[], $7::bytea[])";
        (0..4)
            .fold(sqlx::query(insert), |query, at| query.bind(part(at)))
            .bind(sealed.iter().map(|it| it.key_id.as_str()).collect::<Vec<_>>())
            .bind(sealed.iter().map(|it| it.nonce.as_slice()).collect::<Vec<_>>())
            .bind(sealed.iter().map(|it| it.ciphertext.as_slice()).collect::<Vec<_>>())
            .execute(&setup.db.pool)
            .await
            .unwrap();
        setup
    }

    fn command(&self, args: &[&str], crash: Option<&str>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_noshi"));
        command.args(args).env("DATABASE_URL", &self.db.url).env("NOSHI_CONFIG", self.files.path().join("noshi.toml"));
        command.envs(crash.map(|point| ("NOSHI_CRASH", point))).kill_on_drop(true);
        command
    }

    async fn new_key(&self) -> String {
        let said = self.command(&["vault", "new-key"], None).output().await.unwrap();
        assert!(said.status.success() && said.stderr.is_empty());
        let line = String::from_utf8(said.stdout).unwrap();
        assert_eq!(line.lines().count(), 1);
        line.trim().to_owned()
    }

    /// Writes the key file, and opens it.
    fn keys(&self, lines: &[&str]) -> Vault {
        let file: PathBuf = self.files.path().join("vault.key");
        fs::write(&file, lines.join("\n")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        Vault::open(&file).unwrap()
    }

    async fn rotate(&self, crash: Option<&str>) -> Output {
        self.command(&["vault", "rotate"], crash).output().await.unwrap()
    }

    /// Opens every value with these keys, in its place. Returns how many are under each key: old, new.
    async fn opened(&self, vault: &Vault) -> (usize, usize) {
        let rows = sqlx::query("select * from noshi_sealed.sealed").fetch_all(&self.db.pool).await.unwrap();
        assert_eq!(rows.len(), 2 * GRANTS);
        let (mut under, mut nonces) = (vec![], HashSet::new());
        for row in rows {
            let text = |column| row.get::<String, _>(column);
            let (what, grant, provider) = (text("what"), text("grant_id"), text("provider"));
            let place = SealedAt { grant: &grant, provider: &provider, column: &what };
            let sealed = Sealed { key_id: text("key_id"), nonce: row.get("nonce"), ciphertext: row.get("ciphertext") };
            assert_eq!(vault.unseal(&place, &sealed).unwrap().expose_secret(), format!("{what} of {grant}"));
            assert!(nonces.insert(sealed.nonce), "a nonce was used twice");
            under.push(sealed.key_id);
        }
        let of = |line: &str| under.iter().filter(|id| Some(id.as_str()) == line.split(':').next()).count();
        (of(&self.old), of(&self.new))
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn rotation_survives_kills_and_the_old_key_can_go() {
    let setup = Setup::open().await;
    assert_ne!(setup.old, setup.new);
    // Without the old key nothing is touched, and the error names the key, not the value.
    setup.keys(&[&setup.new]);
    let lost = setup.rotate(None).await;
    let (id, key) = setup.old.split_once(':').unwrap();
    assert!(lost.status.code() == Some(1) && said(&lost).contains(&format!("the key `{id}`")), "{}", said(&lost));
    assert!(!said(&lost).contains(" of g") && !said(&lost).contains(key));

    let both = setup.keys(&[&setup.new, &setup.old]);
    assert_eq!(setup.opened(&both).await, (450, 0));
    for (crash, left) in [("rotate.before_commit@2", (250, 200)), ("rotate.after_commit@1", (50, 400))] {
        assert_eq!(setup.rotate(Some(crash)).await.status.signal(), Some(9));
        assert_eq!(setup.opened(&both).await, left, "{crash}");
    }
    for rewrapped in ["50", "0"] {
        let done = setup.rotate(None).await;
        assert!(
            done.status.success() && said(&done).starts_with(&format!("{rewrapped} sealed values")),
            "{}",
            said(&done)
        );
        assert_eq!(setup.opened(&both).await, (0, 450));
    }
    let alone = setup.keys(&[&setup.new]);
    assert_eq!(setup.opened(&alone).await, (0, 450));
    assert!(setup.rotate(None).await.status.success());
}

/// Whoever can submit files can leave what opens nowhere: everything else is under the new key all the same, and it is told.
#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_passes_over_what_does_not_open() {
    let setup = Setup::open().await;
    let both = setup.keys(&[&setup.new, &setup.old]);
    let old = setup.old.split(':').next().unwrap().to_owned();
    let junk = "insert into noshi_sealed.sealed (what, subject, grant_id, provider, key_id, nonce, ciphertext)
        select 'recipient', '50/' || n, 'g', '', k, decode(repeat('00', 24), 'hex'), decode(repeat('00', 80), 'hex')
        from unnest(array['bogus-key', $1, $1]) with ordinality j(k, n)";
    sqlx::query(junk).bind(&old).execute(&setup.db.pool).await.unwrap();
    for _ in 0..2 {
        let done = setup.rotate(None).await;
        let told = said(&done);
        assert_eq!(done.status.code(), Some(1), "{told}");
        for word in ["`bogus-key`", "recipient of 50/2", "recipient of 50/3"] {
            assert!(told.contains(word), "{told}");
        }
    }
    // However many there are: some are named, all are counted, and what the old key opened is under the new one.
    let many = "insert into noshi_sealed.sealed (what, subject, grant_id, provider, key_id, nonce, ciphertext)
        select 'recipient', e'50/\\x1b[2J' || n, 'g', '', $1, decode(repeat('00', 24), 'hex'), decode(repeat('00', 80), 'hex') from generate_series(1, 1200) n";
    sqlx::query(many).bind(&old).execute(&setup.db.pool).await.unwrap();
    let told = said(&setup.rotate(None).await);
    assert!(told.contains("1,202 values do not open") && told.contains("may go") && !told.contains('\u{1b}'), "{told}");
    sqlx::query("delete from noshi_sealed.sealed where subject like '50/%'").execute(&setup.db.pool).await.unwrap();
    assert_eq!(setup.opened(&both).await, (0, 450));
    assert!(setup.rotate(None).await.status.success());
}

/// A rotation that says it is done while rows are under the old key would have the key thrown away.
#[tokio::test(flavor = "multi_thread")]
async fn rotation_waits_for_rows_that_another_holds() {
    let setup = Setup::open().await;
    let both = setup.keys(&[&setup.new, &setup.old]);
    let mut other = setup.db.pool.begin().await.unwrap();
    let hold = "select from noshi_sealed.sealed where what = 'recipient' for update";
    sqlx::query(hold).execute(&mut *other).await.unwrap();
    let mut rotation = setup.command(&["vault", "rotate"], None).stdout(std::process::Stdio::null()).spawn().unwrap();
    until("the end, or a wait for the lock", Duration::from_secs(10), async || {
        let waits = "select exists (select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock')";
        rotation.try_wait().unwrap().is_some() || sqlx::query_scalar(waits).fetch_one(&setup.db.pool).await.unwrap()
    })
    .await;
    other.rollback().await.unwrap();
    assert!(rotation.wait().await.unwrap().success());
    assert_eq!(setup.opened(&both).await, (0, 450));
}

/// Side by side they share the work.
#[tokio::test(flavor = "multi_thread")]
async fn two_rotations_at_once_lose_nothing() {
    let setup = Setup::open().await;
    let both = setup.keys(&[&setup.new, &setup.old]);
    let (first, second) = tokio::join!(setup.rotate(None), setup.rotate(None));
    assert!(first.status.success() && second.status.success(), "{}{}", said(&first), said(&second));
    assert_eq!(setup.opened(&both).await, (0, 450));
}

/// A suppressed address is found by its digest before, during and after the rotation, and then without the old key.
#[tokio::test(flavor = "multi_thread")]
async fn suppressed_addresses_stay_suppressed() {
    let setup = Setup::open().await;
    let (old, address) = (setup.keys(&[&setup.old]), SecretString::from("hana@example.jp"));
    let mut connection = setup.db.pool.acquire().await.unwrap();
    let event = mails::NewEvent {
        id: "m-1".to_owned(),
        mark: None,
        foreign: false,
        unread: false,
        job: None,
        event: "bounce".to_owned(),
        message: None,
        happened_at: None,
        detail: None,
    };
    assert_ne!(mails::record_event(&mut connection, &event).await.unwrap(), mails::Heard::Again);
    assert_eq!(mails::record_event(&mut connection, &event).await.unwrap(), mails::Heard::Again);
    let sealed = old.seal(&SealedAt { grant: "s-1", provider: "", column: "suppressed" }, &address);
    let new = mails::Suppress { id: "s-1", reason: "bounced", event: "m-1", sealed: &sealed };
    mails::suppress(&mut connection, &new).await.unwrap();
    let sealed = old.seal(&SealedAt { grant: "s-2", provider: "", column: "suppressed" }, &address);
    mails::suppress(&mut connection, &mails::Suppress { id: "s-2", sealed: &sealed, ..new }).await.unwrap();

    let both = setup.keys(&[&setup.new, &setup.old]);
    let same = SecretString::from(" Hana@EXAMPLE.jp ");
    // Who took them in could not digest them, and whoever lacks their key is not shown them.
    assert!(!mails::is_suppressed(&mut connection, &both.digests(&same)).await.unwrap());
    let strange = mails::undigested(&mut connection, &["strange".to_owned()]).await.unwrap();
    assert!(strange.is_empty());
    let mut transaction = setup.db.pool.begin().await.unwrap();
    let mut found = mails::undigested(&mut transaction, &both.key_ids()).await.unwrap();
    found.sort_by(|one, other| one.0.cmp(&other.0));
    assert_eq!(found.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>(), ["s-1", "s-2"]);
    // They are in one's hands alone; and what did not open then is left for a minute.
    assert!(mails::undigested(&mut connection, &both.key_ids()).await.unwrap().is_empty());
    for (id, sealed) in &found {
        let read = both.unseal(&SealedAt { grant: id, provider: "", column: "suppressed" }, sealed).unwrap();
        let (digests, key) = (old.digests(&read), old.current_key());
        // The second is the same address: it is suppressed once.
        assert_eq!(mails::digest(&mut transaction, id, &digests, key).await.unwrap(), id == "s-1");
    }
    transaction.commit().await.unwrap();
    for rows in
        ["select count(*) from noshi.suppression", "select count(*) from noshi_sealed.sealed where what = 'suppressed'"]
    {
        let rows: i64 = sqlx::query_scalar(rows).fetch_one(&mut *connection).await.unwrap();
        assert_eq!(rows, 1);
    }
    // One that does not open keeps none of the others waiting: it is shown again a minute later.
    let sealed = old.seal(&SealedAt { grant: "another", provider: "", column: "suppressed" }, &address);
    mails::suppress(&mut connection, &mails::Suppress { id: "s-3", sealed: &sealed, ..new }).await.unwrap();
    for (passed, shown) in [("1 second", 1), ("59 seconds", 0), ("61 seconds", 1)] {
        let pass = "update noshi.suppression set tried_at = clock_timestamp() - $1::interval where tried_at is not null and digest is null";
        sqlx::query(pass).bind(passed).execute(&mut *connection).await.unwrap();
        assert_eq!(mails::undigested(&mut connection, &both.key_ids()).await.unwrap().len(), shown, "{passed}");
    }
    sqlx::raw_sql(
        "delete from noshi.suppression where id = 's-3'; delete from noshi_sealed.sealed where subject = 's-3'",
    )
    .execute(&mut *connection)
    .await
    .unwrap();
    // What has a digest keeps it.
    let other = both.digests(&SecretString::from("taro@example.jp"));
    assert!(!mails::digest(&mut connection, "s-1", &other, "new").await.unwrap());
    assert!(mails::is_suppressed(&mut connection, &both.digests(&same)).await.unwrap());
    assert_eq!(setup.rotate(Some("rotate.before_commit@1")).await.status.signal(), Some(9));
    assert!(mails::is_suppressed(&mut connection, &both.digests(&same)).await.unwrap());
    assert!(setup.rotate(None).await.status.success());
    let alone = setup.keys(&[&setup.new]);
    assert!(mails::is_suppressed(&mut connection, &alone.digests(&same)).await.unwrap());
    assert!(mails::is_suppressed(&mut connection, &both.digests(&same)).await.unwrap());
    assert!(!mails::is_suppressed(&mut connection, &old.digests(&same)).await.unwrap());
    let other = SecretString::from("taro@example.jp");
    assert!(!mails::is_suppressed(&mut connection, &alone.digests(&other)).await.unwrap());
}

/// What is sealed has limits, whoever inserts it.
#[tokio::test(flavor = "multi_thread")]
async fn sealed_values_are_no_larger_than_ours() {
    let db = database().await;
    for (key, nonce, size, fits) in [
        ("k", 24, 16_384, true),
        ("k", 24, 16_385, false),
        ("k", 25, 80, false),
        ("a key", 24, 80, false),
        ("k\u{1b}[2J", 24, 80, false),
        ("k23456789012345678901234567890123", 24, 80, false),
    ] {
        let insert = "insert into noshi_sealed.sealed (what, subject, grant_id, provider, key_id, nonce, ciphertext)
            values ('suppressed', $1, '', '', $2, $3, $4)";
        let insert =
            sqlx::query(insert).bind(size.to_string()).bind(key).bind(vec![0_u8; nonce]).bind(vec![0_u8; size]);
        assert_eq!(insert.execute(&db.pool).await.is_ok(), fits, "{key:?} {nonce} {size}");
    }
}
