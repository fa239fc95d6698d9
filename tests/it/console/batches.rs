//! Batches, as people read them in the console, and what they do with them there.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use super::Console;
use crate::{
    fleet::{Fleet, Terms, fleet_from},
    processes::until,
    support::{TestDatabase, database, turn},
};
use noshi::{
    db::{
        self,
        domain::batches::{self, Cap},
        operator::tokens::{Bearer, Caller},
    },
    intake::{self, Encoding, FileKind, Submission},
    settings::Settings,
};

/// A file of this person's, as it is taken with their token.
async fn submit(
    console: &Console,
    fleet: &Fleet,
    token: &SecretString,
    rows: &str,
) -> anyhow::Result<intake::Submitted> {
    let path = fleet.dir.path().join("grants.csv");
    std::fs::write(&path, format!("grant_id,user_id,name,email,category,amount,currency\n{rows}")).unwrap();
    let bearer = Bearer::read(token.expose_secret()).unwrap();
    let pool = db::connect_by(&console.url, &Caller { bearer, traceparent: None }).await.unwrap();
    let settings = Settings::read(Some(&fleet.dir.path().join("noshi.toml"))).unwrap();
    let submission = Submission {
        path: &path,
        held: None,
        kind: FileKind::Grants,
        encoding: Encoding::Utf8,
        campaign: Some("summer"),
        mails: false,
        issues: true,
    };
    intake::submit(&pool, &settings.sealer().unwrap(), &settings.offers().unwrap(), &submission).await
}

/// A console on the database of a fleet, with the settings of its workers.
async fn scene() -> (Fleet, Console) {
    let db = database().await;
    let same = TestDatabase { name: db.name.clone(), url: db.url.clone(), pool: db.pool.clone() };
    let fleet = fleet_from(db, tempfile::tempdir().unwrap(), Terms::default()).await;
    let settings = Settings::read(Some(&fleet.dir.path().join("noshi.toml"))).unwrap();
    (fleet, Console::on(same, settings).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_with_faults_tells_each_and_one_that_nobody_wants_is_cancelled() {
    let (fleet, console) = scene().await;
    let token = console.token("sato", &["read", "enqueue", "operate"]).await;
    let sato = console.session(&token).await;
    assert!(submit(&console, &fleet, &token, "g0,u0,山田,a0@example.jp,nothing,500,JPY\n").await.is_err());
    let faulty = console.get("/batches/1", &sato).await.text().await.unwrap();
    for told in ["Faults of the file (1)", ">category<", "<td class=\"number\">2</td>"] {
        assert!(faulty.contains(told), "{told}: {faulty}");
    }
    assert!(!faulty.contains("name=\"reason\"") && !faulty.contains("example.jp"), "{faulty}");

    let unwanted = submit(&console, &fleet, &token, "h0,v0,山田,b0@example.jp,digital,500,JPY\n").await.unwrap().batch;
    let was = batches::progress(&fleet.pool, Some(unwanted), 1).await.unwrap().remove(0).status;
    let cancel = [("act", "cancel"), ("status", was.as_str()), ("reason", "not wanted")];
    let (is, page) = console.post(&format!("/batches/{unwanted}/acts"), &sato, &cancel).await;
    assert!(is == 200 && page.contains("never called"), "{is} {page}");
    assert_eq!(batches::progress(&fleet.pool, Some(unwanted), 1).await.unwrap()[0].status, "cancelled");
    let done = "select who || ': ' || reason from noshi.audit where act = 'batch cancel'";
    let done: String = sqlx::query_scalar(done).fetch_one(&fleet.pool).await.unwrap();
    assert_eq!(done, "sato: not wanted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_read_by_a_second_person_and_approved_paused_resumed_and_released() {
    let _turn = turn().await;
    let (fleet, console) = scene().await;
    let token = console.token("sato", &["read", "enqueue", "operate", "approve"]).await;
    let sato = console.session(&token).await;
    let suzuki = console.sign_in("suzuki", &["read", "approve"]).await;
    let text = async |path: &str, cookie: &str| console.get(path, cookie).await.text().await.unwrap();

    let cap =
        Cap { kind: "grants".to_owned(), currency: "JPY".to_owned(), approve_from_rows: Some(10), ..Cap::default() };
    batches::set_cap(&fleet.pool, &cap).await.unwrap();
    let rows: String = (0..10).map(|n| format!("g{n},u{n},山田,a{n}@example.jp,digital,500,JPY\n")).collect();
    let submitted = submit(&console, &fleet, &token, &rows).await.unwrap();
    assert!(submitted.needs_approval);
    let path = format!("/batches/{}", submitted.batch);
    let acts = format!("{path}/acts");
    let stands = async || batches::progress(&fleet.pool, Some(submitted.batch), 1).await.unwrap().remove(0);
    let (file, digest) = (stands().await.digest, stands().await.approval_digest.unwrap());
    for (language, says) in [("en", "awaits approval"), ("ja", "承認待ち")] {
        let request = console.request("GET", &path).header("cookie", &suzuki).header("accept-language", language);
        let page = request.send().await.unwrap().text().await.unwrap();
        for told in [says, "¥5,000", &file, &digest, "value=\"approve\"", "summer", "sato"] {
            assert!(page.contains(told), "{told}: {page}");
        }
        assert!(!page.contains("example.jp") && !page.contains("山田"), "{page}");
    }
    let own = text(&path, &sato).await;
    assert!(own.contains("another person must approve it") && !own.contains("value=\"approve\""), "{own}");

    let approve = |own: &str, digest: &str, status: &str| {
        [("act", "approve"), ("own", own), ("digest", digest), ("status", status), ("reason", "read")]
            .map(|(name, value)| (name, value.to_owned()))
    };
    let send = async |cookie: &str, fields: &[(&str, String)]| {
        let fields: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
        console.post(&acts, cookie, &fields).await
    };
    let (other, waits) = ("00".repeat(32), "awaiting_approval");
    for (cookie, fields, status, why) in [
        (&sato, approve(&file, &digest, waits), 403, "another person must approve it"),
        (&suzuki, approve(&other, &digest, waits), 409, "not the file of batch"),
        (&suzuki, approve(&file, &other, waits), 409, "does not stand for what batch"),
        (&suzuki, approve(&file, &digest, "paused"), 409, "no longer as the page showed it"),
    ] {
        let (is, page) = send(cookie, &fields).await;
        assert!(is == status && page.contains(why), "{why}: {is} {page}");
    }
    let act = |act: &'static str, status: &str| {
        [("act", act), ("status", status), ("reason", "a look")].map(|(name, value)| (name, value.to_owned()))
    };
    let (is, page) = send(&sato, &act("release", waits)).await;
    assert!(is == 403 && page.contains("may not be released"), "{is} {page}");
    assert_eq!(send(&suzuki, &act("pause", waits)).await.0, 403);

    let worker = fleet.worker("a", &[], &[]);
    let (is, page) = send(&suzuki, &approve(&file, &digest, waits)).await;
    assert!(is == 200 && page.contains("Approved until"), "{is} {page}");
    assert_eq!(send(&sato, &act("release", waits)).await.0, 409, "the page was drawn before the approval");
    for (asked, was, becomes) in
        [("pause", "approved", "paused"), ("resume", "paused", "approved"), ("release", "approved", "released")]
    {
        let (is, page) = send(&sato, &act(asked, was)).await;
        assert!(is == 200 && stands().await.status == becomes, "{asked}: {is} {page}");
    }
    until("a settled batch", Duration::from_secs(40), async || stands().await.status == "settled").await;
    let settled = text(&path, &sato).await;
    assert!(settled.contains("10 / 10") && !settled.contains("name=\"reason\""), "{settled}");
    assert!(text("/jobs/gift_issuance/g0", &sato).await.contains(&format!("href=\"{path}\"")));
    assert_eq!(send(&sato, &act("cancel", "settled")).await.0, 409);
    assert!(worker.stop().await.success());

    let who: Vec<(String, String)> =
        sqlx::query_as("select act, who from noshi.audit where act in ('batch approve', 'batch pause', 'batch resume', 'batch release') order by id")
            .fetch_all(&fleet.pool)
            .await
            .unwrap();
    let by = |act: &str, who: &str| (format!("batch {act}"), who.to_owned());
    assert_eq!(who, [by("approve", "suzuki"), by("pause", "sato"), by("resume", "sato"), by("release", "sato")]);
}
