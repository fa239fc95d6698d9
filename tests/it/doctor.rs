//! `noshi doctor` on a place that is well, and on one where things are wrong.

use serde_json::Value;

use crate::fleet::{Fleet, Terms, fleet};

async fn examined(fleet: &Fleet) -> (bool, Vec<Value>) {
    let said = fleet.command(&["doctor", "-o", "json"]).await;
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    (said.status.success(), serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")))
}

fn health<'a>(findings: &'a [Value], what: &str) -> &'a str {
    let found = findings.iter().find(|it| it["what"] == what).unwrap_or_else(|| panic!("{what} was not looked at"));
    assert!(found["health"] == "good" || found["fix"].as_str().is_some_and(|fix| fix.len() > 10), "{found}");
    found["health"].as_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_finds_what_is_wrong_and_says_how_to_fix_it() {
    let _turn = crate::support::turn().await;
    let fleet = fleet(Terms::default()).await;
    let (well, found) = examined(&fleet).await;
    assert!(!well && health(&found, "workers") == "bad", "{found:?}");
    // This server forgets on purpose, to be fast.
    assert_eq!((health(&found, "fsync"), health(&found, "full_page_writes")), ("bad", "bad"));
    let worker = fleet.worker("w", &[], &[]);
    fleet.gift("g", "digital", 500).await;
    fleet.at_rest(std::time::Duration::from_secs(20)).await.unwrap();
    let (_, found) = examined(&fleet).await;
    for what in [
        "connection",
        "version",
        "primary",
        "pooler",
        "migrations",
        "roles",
        "workers",
        "lanes",
        "keys",
        "partners",
        "settings",
        "privacy",
        "restores",
        "retention",
        "re-drives",
        "kinds of jobs",
    ] {
        assert_eq!(health(&found, what), "good", "{found:?}");
    }

    // A lane that was paused, a job for a lane that nobody has, a key that was lost, a snapshot that is held.
    assert!(fleet.command(&["lane", "pause", "gift/tango_card", "--reason", "a drill"]).await.status.success());
    sqlx::raw_sql(
        "select noshi.enqueue('probe', 'p', '{\"id\": \"p\", \"steps\": 2, \"lane\": \"nobody\"}');
        insert into noshi.job (kind, key, fingerprint, args) values ('of_a_newer_version', 'g', sha256('g'), '{}')",
    )
    .execute(&fleet.pool)
    .await
    .unwrap();
    crate::processes::until("a job in that lane", std::time::Duration::from_secs(10), async || {
        sqlx::query_scalar("select lane = 'nobody' from noshi.job where kind = 'probe'")
            .fetch_one(&fleet.pool)
            .await
            .unwrap()
    })
    .await;
    let key = fleet.dir.path().join("vault.key");
    let made = fleet.command(&["vault", "new-key"]).await.stdout;
    std::fs::write(&key, String::from_utf8_lossy(&made).replace("k1", "k9")).unwrap();
    let (well, found) = examined(&fleet).await;
    assert!(!well);
    let expected =
        [("lanes", "fair"), ("lanes of jobs", "bad"), ("keys", "bad"), ("kinds of jobs", "fair"), ("workers", "good")];
    for (what, is) in expected {
        assert_eq!(health(&found, what), is, "{found:?}");
    }
    // A point before there was a noshi is refused.
    let earlier = "update noshi_migrations._sqlx_migrations set installed_on = '2026-10-01'";
    sqlx::query(earlier).execute(&fleet.pool).await.unwrap();
    let mark = ["restore", "mark", "--to", "2026-11-01T00:00:00Z", "--reason", "the disk was lost", "--yes"];
    assert!(fleet.command(&mark).await.status.success());
    assert_eq!(health(&examined(&fleet).await.1, "restores"), "fair");
    assert!(worker.stop().await.success());
}

/// Where files and events are taken in, what is sealed has to open at the workers; and what waits for one of them is told.
#[tokio::test(flavor = "multi_thread")]
async fn it_knows_who_only_seals_and_what_waits_for_who_opens() {
    let _turn = crate::support::turn().await;
    let fleet = fleet(Terms::default()).await;
    let worker = fleet.worker("w", &[], &[]);
    let told = "select exists (select from noshi.worker where keys = array['k1'])";
    crate::processes::until("a worker that says its keys", std::time::Duration::from_secs(20), async || {
        sqlx::query_scalar(told).fetch_one(&fleet.pool).await.unwrap()
    })
    .await;
    fleet.configure(|text| text.replace("vault_key_file", "vault_public_key_file").replace("vault.key", "vault.pub"));
    let (_, found) = examined(&fleet).await;
    assert_eq!((health(&found, "keys"), health(&found, "suppressed addresses")), ("good", "good"), "{found:?}");
    assert!(found.iter().all(|it| it["what"] != "partners"), "their secrets are not for this host: {found:?}");

    // F13: the id is the workers', and the key another; and a code is sealed to a key that no living worker has.
    let ours = std::fs::read_to_string(fleet.dir.path().join("vault.pub")).unwrap();
    let other = noshi::vault::Vault::ephemeral().public_line();
    let of_our_name = format!("k1:{}", other.split_once(':').unwrap().1);
    std::fs::write(fleet.dir.path().join("vault.pub"), of_our_name).unwrap();
    let (_, found) = examined(&fleet).await;
    assert!(
        found.iter().any(|it| it["what"] == "keys" && it["found"].to_string().contains("have other keys")),
        "{found:?}"
    );
    std::fs::write(fleet.dir.path().join("vault.pub"), &ours).unwrap();
    let lost = "insert into noshi_sealed.sealed (what, subject, grant_id, provider, key_id, nonce, ciphertext)
        values ('gift_code', 'T', 'g', 'p', 'gone', decode(repeat('00', 24), 'hex'), decode(repeat('00', 80), 'hex'))";
    sqlx::query(lost).execute(&fleet.pool).await.unwrap();
    let (_, found) = examined(&fleet).await;
    assert!(
        found.iter().any(|it| it["what"] == "keys" && it["found"].to_string().contains("no living worker has gone")),
        "{found:?}"
    );
    // A worker with another file of keys says at once that nothing opens with them, and again when it reads them anew.
    let file = fleet.dir.path().join("vault.key");
    let right = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("k9:{}", "5a".repeat(32))).unwrap();
    fleet.configure(|text| text.replace("vault_public_key_file", "vault_key_file").replace("vault.pub", "vault.key"));
    let foreign = fleet.worker("foreign", &[], &[]);
    let warned = |times: usize, words: &'static str| {
        let log = foreign.log.clone();
        async move || std::fs::read_to_string(&log).unwrap_or_default().matches(words).count() >= times
    };
    let soon = std::time::Duration::from_secs(20);
    crate::processes::until("a warning", soon, warned(1, "nothing that is stored opens with the keys")).await;
    std::fs::write(&file, format!("k1:{}", "77".repeat(32))).unwrap();
    foreign.signal(rustix::process::Signal::HUP);
    crate::processes::until("a warning", soon, warned(2, "nothing that is stored opens with the keys")).await;
    crate::processes::until("a warning", soon, warned(1, "these ids mean other keys")).await;
    assert!(foreign.stop().await.success());
    std::fs::write(&file, right).unwrap();
    sqlx::query("delete from noshi_sealed.sealed").execute(&fleet.pool).await.unwrap();
    fleet.configure(|text| text.replace("vault_key_file", "vault_public_key_file").replace("vault.key", "vault.pub"));

    std::fs::write(fleet.dir.path().join("vault.pub"), noshi::vault::Vault::ephemeral().public_line()).unwrap();
    sqlx::raw_sql(
        "insert into noshi.email_event (id, event) values ('e', 'bounce');
        insert into noshi.suppression (id, key_id, reason, event, suppressed_at) values ('s', 'lost', 'bounced', 'e', now() - interval '2 minutes')",
    )
    .execute(&fleet.pool)
    .await
    .unwrap();
    let (_, found) = examined(&fleet).await;
    assert_eq!((health(&found, "keys"), health(&found, "suppressed addresses")), ("bad", "bad"), "{found:?}");
    assert!(worker.stop().await.success());
}

/// What changes beneath a database, and what keeps vacuum from its work although no session does.
#[tokio::test(flavor = "multi_thread")]
async fn it_knows_a_changed_order_of_texts_and_what_slots_and_prepared_transactions_hold() {
    let _turn = crate::support::turn().await;
    let extra = [("wal_level", "logical"), ("max_prepared_transactions", "2")];
    let extra = extra.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let settings = noshi::lab::private_postgres::Settings { durable: false, extra, ..Default::default() };
    let server = noshi::lab::private_postgres::PrivatePostgres::start(settings).await.unwrap();
    server.create_database("noshi").await.unwrap();
    noshi::db::migrate(&server.url("noshi")).await.unwrap();
    let fleet = crate::fleet::fleet_on_url(server.url("noshi"), Terms::default()).await;
    let (_, found) = examined(&fleet).await;
    assert_eq!((health(&found, "order of texts"), health(&found, "held back")), ("good", "good"), "{found:?}");
    let run = async |sql: &'static str| sqlx::raw_sql(sql).execute(&fleet.pool).await.unwrap();

    run("update pg_database set datcollversion = 'of the last release' where datname = current_database()").await;
    let (well, found) = examined(&fleet).await;
    let known: Option<String> = sqlx::query_scalar(
        "select pg_database_collation_actual_version(oid) from pg_database where datname = current_database()",
    )
    .fetch_one(&fleet.pool)
    .await
    .unwrap();
    // The order of bytes has no version.
    let expected = if known.is_some() { "bad" } else { "good" };
    assert!(!well && health(&found, "order of texts") == expected, "{known:?}: {found:?}");

    run("create collation noshi.of_a_person (provider = icu, locale = 'ja')").await;
    run("create table noshi.ordered (name text collate noshi.of_a_person primary key)").await;
    run("update pg_collation set collversion = 'of the last release' where collname = 'of_a_person'").await;
    let (_, found) = examined(&fleet).await;
    assert!(health(&found, "order of texts") == "bad" && format!("{found:?}").contains("of_a_person"), "{found:?}");

    run("create table noshi.held (id integer)").await;
    run("select pg_create_logical_replication_slot('forgotten', 'pgoutput')").await;
    // No act is prepared: nobody could end it.
    let prepared = "begin; select noshi.pause_lane('', 'x'); prepare transaction 'an act'";
    let said = sqlx::raw_sql(prepared).execute(&fleet.pool).await.expect_err("an act that is prepared");
    assert!(said.to_string().contains("cannot PREPARE a transaction that has executed"), "{said}");
    let found = examined(&fleet).await.1;
    assert_eq!(
        (health(&found, "two-phase"), health(&found, "notifications"), health(&found, "cards")),
        ("good", "good", "good")
    );
    run("begin; insert into noshi.held values (1); prepare transaction 'left behind'").await;
    let found = examined(&fleet).await.1;
    let told = format!("{found:?}");
    assert!(health(&found, "two-phase") == "bad" && told.contains("left behind of postgres, since"), "{told}");
    // Two gifts that a partner says are one card.
    run("begin; set local session_replication_role = replica;
        insert into noshi.gift_trade (id, grant_id, generation, job, provider, category, amount, currency)
            select 'T' || n, 'g' || n, 1, n, 'tango_card', 'c', 500, 'JPY' from generate_series(1, 3) n;
        insert into noshi.gift_outcome (trade, outcome, card) values ('T1', 'issued', 'C'), ('T2', 'issued', 'C'), ('T3', 'issued', 'D'); commit")
    .await;
    let found = examined(&fleet).await.1;
    let told = format!("{found:?}");
    assert!(
        health(&found, "cards") == "bad" && told.contains("the card C of tango_card is that of T1 and T2"),
        "{told}"
    );
    assert_eq!(health(&examined(&fleet).await.1, "held back"), "good", "a young one holds nothing worth a word");
    run("do $$ begin for i in 1..1100 loop begin insert into noshi.held values (i); exception when division_by_zero then null; end; end loop; end $$").await;
    let (_, found) = examined(&fleet).await;
    let told = format!("{found:?}");
    assert_eq!(health(&found, "held back"), "fair", "{told}");
    assert!(told.contains("forgotten") && told.contains("which nobody uses") && told.contains("left behind"), "{told}");
    drop(fleet);
    server.stop().await.unwrap();
}

/// A host that keeps the functions of the log for itself: everything works, and what is missing is said.
#[tokio::test(flavor = "multi_thread")]
async fn it_says_what_is_missing_where_the_timeline_cannot_be_read() {
    let _turn = crate::support::turn().await;
    let fleet = fleet(Terms::default()).await;
    let (_, found) = examined(&fleet).await;
    assert_eq!(health(&found, "timeline"), "good", "{found:?}");
    let kept = "revoke execute on function pg_current_wal_lsn() from public; revoke execute on function pg_control_system() from public";
    sqlx::raw_sql(kept).execute(&fleet.pool).await.unwrap();
    let worker = fleet.worker("w", &[], &[]);
    fleet.gift("g", "digital", 500).await;
    fleet.at_rest(std::time::Duration::from_secs(20)).await.unwrap();
    let (_, found) = examined(&fleet).await;
    assert_eq!(health(&found, "timeline"), "fair", "{found:?}");
    assert!(worker.stop().await.success());
}
