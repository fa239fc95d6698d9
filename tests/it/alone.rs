//! Nobody alone: what one person can make, repeat or give back without a second, in whatever pieces they ask for it.

use std::{fs, path::Path, time::Duration};

use noshi_jobs::machine::Act;
use serde_json::json;
use sqlx::AssertSqlSafe;

use crate::{
    fleet::{Fleet, Terms, fleet},
    point_jobs,
    processes::until,
    support::{database, server, turn},
};
use noshi::{
    db::PgPool,
    lab::simulator::{Fault, Op, Provider},
};

const SOON: Duration = Duration::from_secs(60);

/// A person who operates, by a login of their own.
async fn person(database: &str, login: &str) -> PgPool {
    let server = server().await;
    // Of the whole server: another test may have made it.
    let _ = server.create_login(login, "noshi_operator").await;
    PgPool::plain(&server.url_as(login, database), 4).expect("a URL")
}

async fn run(pool: &PgPool, sql: &str) -> Result<(), String> {
    let done = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(pool).await;
    done.map(drop).map_err(|error| error.to_string())
}

async fn does(pool: &PgPool, sql: &str) {
    run(pool, sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

async fn refused(pool: &PgPool, sql: &str, why: &str) {
    let said = run(pool, sql).await.expect_err(sql);
    assert!(said.contains(why), "{sql}: {said}");
}

async fn holds(pool: &PgPool, sql: &str) -> bool {
    sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(pool).await.unwrap_or_else(|e| panic!("{sql}: {e}"))
}

/// As the installation has it: a second person always.
const NOT_ALONE: &str =
    "insert into noshi.word_cap (currency, alone) select c, 0 from unnest(array['', 'JPY', 'USD']) c";

/// Receives and validates a file of so many grants of 1,000 JPY, for somebody. Its number.
async fn staged(who: &PgPool, name: &str, rows: i32) -> i64 {
    let stage = format!(
        r#"do $$ declare b bigint; begin
        select batch into b from noshi.receive_batch('grants', 'all_or_nothing', sha256('{name}'), '{name}', 'utf-8', null, false, true);
        insert into noshi.batch_row (batch, row_no, line, key, args)
        select b, n, n + 1, '{name}-' || n, jsonb_build_object('grant', '{name}-' || n, 'user', 'u' || n, 'category', 'digital',
            'value', '{{"amount": 1000, "currency": "JPY"}}'::jsonb) from generate_series(1, {rows}) n;
        perform noshi.validate_batch(b, {rows}); end $$"#
    );
    does(who, &stage).await;
    let number = format!("select id from noshi.batch where file = '{name}' and cancelled_at is null");
    sqlx::query_scalar(AssertSqlSafe(number)).fetch_one(who).await.expect("a batch")
}

fn release(batch: i64) -> String {
    format!("select noshi.release_batch({batch}, 'now')")
}

/// What is too much for one file is too much in parts: cut, cancelled and submitted again, released by another, under later caps, at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_cut_needs_an_approval_all_the_same() {
    const WANTED: &str = "a second person must approve it";
    let db = database().await;
    let [sato, suzuki, kato] =
        [person(&db.name, "sato").await, person(&db.name, "suzuki").await, person(&db.name, "kato").await];
    let first = staged(&sato, "cut1", 60).await;
    does(&sato, &release(first)).await;
    let second = staged(&sato, "cut2", 60).await;
    refused(&sato, &release(second), WANTED).await;
    // It counts for both: who submitted it and who lets it go.
    let third = staged(&suzuki, "cut3", 60).await;
    refused(&sato, &release(third), WANTED).await;
    // A cancel gives nothing back.
    does(&sato, &format!("select noshi.cancel_batch({first}, 'a slip')")).await;
    refused(&sato, &release(second), WANTED).await;
    let again = staged(&sato, "cut4", 60).await;
    refused(&sato, &release(again), WANTED).await;

    // Approved it goes: over the file, its options and its addresses, by somebody else.
    let covers = format!("(select approval_digest from noshi.batch where id = {second})");
    let own = format!("select noshi.approve_batch({second}, {covers}, 'mine')");
    refused(&sato, &own, "another person must approve").await;
    let file =
        format!("select noshi.approve_batch({second}, (select digest from noshi.batch where id = {second}), 'read')");
    refused(&suzuki, &file, "does not stand for what batch").await;
    does(&suzuki, &format!("select noshi.approve_batch({second}, {covers}, 'read')")).await;
    does(&sato, &release(second)).await;

    // Below the threshold when it was validated, above when it goes.
    let small = staged(&kato, "small", 5).await;
    does(&db.pool, "insert into noshi.batch_cap (kind, currency, approve_from_rows, approve_from_total) values ('grants', 'JPY', 1, 1)").await;
    refused(&kato, &release(small), WANTED).await;
    // And between its release and the commit that grants.
    does(&db.pool, "insert into noshi.batch_cap (kind, currency, approve_from_rows, approve_from_total) values ('grants', 'JPY', 100, 100000)").await;
    does(&kato, &release(small)).await;
    does(&db.pool, "insert into noshi.batch_cap (kind, currency, approve_from_rows, approve_from_total) values ('grants', 'JPY', 1, 1)").await;
    let registered = format!("select code = 'batch_not_approved' from noshi.register_batch({small})");
    assert!(holds(&db.pool, &registered).await, "a batch was granted that needs an approval");
    assert!(holds(&db.pool, "select count(*) = 0 from noshi.gift_grant").await, "nothing was granted");
}

/// Of twenty files that are let go at the same moment, each below the threshold, no more go than one person may grant.
#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_released_at_once_are_judged_in_turn() {
    let db = database().await;
    let sato = person(&db.name, "sato").await;
    let mut batches = vec![];
    for n in 0..20 {
        batches.push(staged(&sato, &format!("at-once-{n}"), 30).await);
    }
    let released = futures::future::join_all(batches.iter().map(|batch| {
        let (sato, sql) = (&sato, release(*batch));
        async move { run(sato, &sql).await.is_ok() }
    }))
    .await;
    assert_eq!(released.iter().filter(|released| **released).count(), 3, "of 30 rows each, under 100");
    let old = "begin isolation level repeatable read; select noshi.release_batch(id, 'x') from noshi.batch where released_at is null limit 1";
    refused(&sato, old, "read committed").await;
}

/// Who lets somebody else's file go and sleeps holds up nothing else of theirs; and together they pass no cap.
#[tokio::test(flavor = "multi_thread")]
async fn who_sleeps_behind_a_release_holds_up_no_other_act_of_its_submitter() {
    let db = database().await;
    let pool = &db.pool;
    let [sato, suzuki] = [person(&db.name, "sato").await, person(&db.name, "suzuki").await];
    let soon = |sql: String| format!("set lock_timeout = '2s'; {sql}");
    let register = |batch: i64| format!("select noshi.register_batch({batch})");
    let granted = async || -> i64 {
        let granted = "select count(*) from noshi.batch where registered_at is not null";
        sqlx::query_scalar(granted).fetch_one(pool).await.expect("a count")
    };
    does(
        pool,
        "select noshi.enqueue('probe', 'p', '{\"id\": \"p\", \"steps\": 1}');
        update noshi.job set status = 'needs_operator', at = 'working', code = 'doubt_unresolved'",
    )
    .await;
    let files =
        [staged(&suzuki, "hers1", 60).await, staged(&suzuki, "hers2", 60).await, staged(&suzuki, "hers3", 60).await];
    let mut sleeper = sato.begin().await.expect("a transaction");
    let hold = format!("set local idle_in_transaction_session_timeout = 0; {}", release(files[0]));
    sqlx::raw_sql(AssertSqlSafe(hold)).execute(&mut *sleeper).await.expect("let go, and not committed");
    does(&suzuki, &soon("select noshi.ask(id, step, 'retry', 'x') from noshi.job where key = 'p'".to_owned())).await;
    does(&suzuki, &soon(release(files[1]))).await;
    // His own next act waits for his own.
    refused(&sato, &soon(release(files[2])), "held by sato (process").await;
    sleeper.commit().await.expect("committed");
    // Both went below the cap, and they are above it together: neither is granted before a second person has approved it.
    for batch in [files[0], files[1]] {
        does(pool, &register(batch)).await;
    }
    assert_eq!(granted().await, 0);

    // The one that is granted before the other is committed stays the only one.
    let kato = person(&db.name, "kato").await;
    let files = [staged(&kato, "theirs1", 60).await, staged(&kato, "theirs2", 60).await];
    let mori = person(&db.name, "mori").await;
    let mut sleeper = mori.begin().await.expect("a transaction");
    sqlx::raw_sql(AssertSqlSafe(release(files[0]))).execute(&mut *sleeper).await.expect("let go, and not committed");
    does(&kato, &soon(release(files[1]))).await;
    does(pool, &register(files[1])).await;
    assert_eq!(granted().await, 1);
    sleeper.commit().await.expect("committed");
    does(pool, &register(files[0])).await;
    assert_eq!(granted().await, 1);
}

/// Stores are asked for by the release itself: of two at once the second waits for the first, and nothing but stores does.
#[tokio::test(flavor = "multi_thread")]
async fn releases_of_stores_are_judged_in_turn_and_hold_up_stores_alone() {
    let db = database().await;
    let [sato, suzuki] = [person(&db.name, "sato").await, person(&db.name, "suzuki").await];
    does(
        &db.pool,
        "insert into noshi.batch_cap (kind, currency, approve_from_rows, max_rows) values ('stores', '', 100, 1000)",
    )
    .await;
    let mut files = vec![];
    for name in ["s1", "s2"] {
        let stage = format!(
            r#"do $$ declare b bigint; begin
            select batch into b from noshi.receive_batch('stores', 'per_row', sha256('{name}'), '{name}', 'utf-8', null, false, false);
            insert into noshi.batch_row (batch, row_no, line, key, args) select b, n, n + 1, 'O/{name}-' || n || '/1',
                jsonb_build_object('organization', 'O', 'public_id', '{name}-' || n, 'name', 'n', 'request', '1') from generate_series(1, 60) n;
            perform noshi.validate_batch(b, 60); end $$"#
        );
        does(&suzuki, &stage).await;
        let number = format!("select id from noshi.batch where file = '{name}'");
        files.push(sqlx::query_scalar::<_, i64>(AssertSqlSafe(number)).fetch_one(&suzuki).await.expect("a batch"));
    }
    let grants = staged(&suzuki, "hers", 10).await;
    let mut sleeper = sato.begin().await.expect("a transaction");
    sqlx::raw_sql(AssertSqlSafe(release(files[0]))).execute(&mut *sleeper).await.expect("let go, and not committed");
    does(&suzuki, &format!("set lock_timeout = '2s'; {}", release(grants))).await;
    refused(&suzuki, &format!("set lock_timeout = '1s'; {}", release(files[1])), "held by sato (process").await;
    sleeper.commit().await.expect("committed");
    refused(&suzuki, &release(files[1]), "a second person must approve it").await;
}

/// Addresses come with the batch that is being received, and are a part of what is approved.
#[tokio::test(flavor = "multi_thread")]
async fn no_address_comes_after_the_approval_was_asked_for() {
    let db = database().await;
    let sato = person(&db.name, "sato").await;
    let batch = staged(&sato, "mailed", 3).await;
    let late = format!(
        "insert into noshi_sealed.sealed (what, subject, grant_id, provider, key_id, nonce, ciphertext) values ('recipient', '{batch}/1', '', '', 'k', '\\x00', '\\x00')"
    );
    refused(&sato, &late, "sealed values are taken with a batch that is being received").await;
    // By a session that began before it was validated.
    does(
        &sato,
        "select noshi.receive_batch('grants', 'all_or_nothing', sha256('slow'), 'slow', 'utf-8', null, true, true)",
    )
    .await;
    let slow: i64 =
        sqlx::query_scalar("select id from noshi.batch where file = 'slow'").fetch_one(&sato).await.unwrap();
    does(
        &sato,
        &format!(
            r#"insert into noshi.batch_row (batch, row_no, line, key, args) values ({slow}, 1, 2, 'slow-1',
        '{{"grant": "slow-1", "user": "u", "category": "digital", "value": {{"amount": 1, "currency": "JPY"}}}}')"#
        ),
    )
    .await;
    for isolation in ["read committed", "repeatable read", "serializable"] {
        let mut old = sato.acquire().await.unwrap();
        let begin = format!("begin isolation level {isolation}; select count(*) from noshi.batch");
        sqlx::raw_sql(AssertSqlSafe(begin)).execute(&mut *old).await.unwrap();
        if isolation == "read committed" {
            does(&sato, &format!("select noshi.validate_batch({slow}, 1)")).await;
        }
        let late = late.replace(&format!("{batch}/1"), &format!("{slow}/1"));
        assert!(sqlx::raw_sql(AssertSqlSafe(late)).execute(&mut *old).await.is_err(), "{isolation}");
        sqlx::raw_sql("rollback").execute(&mut *old).await.unwrap();
    }
}

/// As much as a re-drive may do without a second person, one by one, by reruns and by plans together.
#[tokio::test(flavor = "multi_thread")]
async fn jobs_asked_one_by_one_count_like_a_re_drive() {
    let db = database().await;
    let sato = person(&db.name, "sato").await;
    does(&db.pool, "select noshi.enqueue('gift_issuance', 'g' || n, jsonb_build_object('grant', 'g' || n, 'user', 'u', 'category', 'digital', 'value', '{\"amount\": 2000, \"currency\": \"JPY\"}'::jsonb)) from generate_series(1, 60) n;
        select noshi.enqueue('probe', 'p' || n, jsonb_build_object('id', 'p' || n, 'steps', 1)) from generate_series(1, 200) n;
        update noshi.job set status = 'needs_operator', at = 'routing', code = 'doubt_unresolved'").await;
    let ask = |key: &str| format!("select noshi.ask(id, step, 'retry', 'x') from noshi.job where key = '{key}'");
    const ENOUGH: &str = "more than one person asks for alone";
    for n in 1..=50 {
        does(&sato, &ask(&format!("g{n}"))).await;
    }
    refused(&sato, &ask("g51"), ENOUGH).await;
    // In one statement nothing of it happens.
    refused(&sato, "select noshi.ask(id, step, 'retry', 'x') from noshi.job where kind = 'probe'", ENOUGH).await;
    does(&sato, "select noshi.ask(id, step, 'retry', 'x') from noshi.job where kind = 'probe' order by id limit 50")
        .await;
    refused(&sato, &ask("p100"), ENOUGH).await;
    let plan = "select noshi.plan_redrive('{}', array_agg(id), array_agg(step), array_agg('retry'::text), array_agg(null::text), array_agg(''::text)) from noshi.job where key = 'p101'";
    does(&sato, plan).await;
    refused(&sato, "select noshi.apply_redrive(1, 'x', null, null, null, null)", "too large for one person").await;
    // What ends a job, or says that it was seen, gives nothing away.
    does(&sato, "select noshi.ask(id, step, 'acknowledge', 'x') from noshi.job where key = 'p102'").await;
}

/// The code's list and the database's are one.
#[tokio::test(flavor = "multi_thread")]
async fn the_list_of_acts_that_take_a_word_is_one() {
    let db = database().await;
    let listed: Vec<String> =
        sqlx::query_scalar("select act from noshi.word_act where act not like 'restore%' order by act")
            .fetch_all(&db.pool)
            .await
            .unwrap();
    let mut known: Vec<&str> = Act::ALL.into_iter().filter(|act| act.takes_a_word()).map(Act::name).collect();
    known.sort_unstable();
    assert_eq!(listed, known);
    let rows: Vec<(String, String)> =
        sqlx::query_as("select act, what from noshi.word_act order by act").fetch_all(&db.pool).await.unwrap();
    let drawn: String = rows.iter().map(|(act, what)| format!("| `{act}` | {what} |\n")).collect();
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("SECURITY.md");
    let text = fs::read_to_string(&page).unwrap();
    let (start, rest) = text.split_once("| act | what it does |\n|---|---|\n").expect("the list of such acts");
    let (was, end) = rest.split_once("<!-- end -->").expect("its end");
    if std::env::var_os("NOSHI_REDRAW").is_some() {
        fs::write(&page, format!("{start}| act | what it does |\n|---|---|\n{drawn}<!-- end -->{end}")).unwrap();
    } else {
        assert_eq!(was, drawn, "run with NOSHI_REDRAW=1");
    }
}

async fn stands(fleet: &Fleet, key: &str) -> (String, String) {
    let sql = "select status::text, at from noshi.job where kind = 'gift_issuance' and key = $1";
    sqlx::query_as(sql).bind(key).fetch_one(&fleet.pool).await.unwrap()
}

/// `noshi` as this person runs it: whether it did it, and what it said.
async fn says(fleet: &Fleet, who: &str, arguments: &[&str]) -> (bool, String) {
    let database: String = sqlx::query_scalar("select current_database()").fetch_one(&fleet.pool).await.unwrap();
    let said = tokio::process::Command::new(env!("CARGO_BIN_EXE_noshi"))
        .args(arguments)
        .env("DATABASE_URL", server().await.url_as(who, &database))
        .output()
        .await
        .unwrap();
    let text = [said.stdout, said.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    (said.status.success(), text)
}

/// A gift in doubt: one person proposes that it is void, a second confirms over what it will do; so does the new trade. Nothing
/// happens before that, and nobody is both.
#[tokio::test(flavor = "multi_thread")]
async fn a_word_about_money_waits_for_a_second_person() {
    let _turn = turn().await;
    let fleet = fleet(Terms::default()).await;
    let pool = &fleet.pool;
    does(pool, NOT_ALONE).await;
    let database: String = sqlx::query_scalar("select current_database()").fetch_one(pool).await.unwrap();
    let [sato, suzuki] = [person(&database, "sato").await, person(&database, "suzuki").await];
    fleet.control().script(Provider::GiftOnDemand, Op::Issue, Fault::ResetBeforeEffect, 1).unwrap();
    let job = fleet.gift("word", "digital", 500).await.to_string();
    let worker = fleet.worker("w", &[], &[]);
    until("a doubt", SOON, async || stands(&fleet, "word").await.0 == "needs_operator").await;

    let resolve = |act: &'static str| ["job", "resolve", "word", "--as", act, "--reason", "their letter"];
    let (done, said) = says(&fleet, "sato", &resolve("attest_void")).await;
    assert!(done && said.contains("nothing is done yet: proposal 1"), "{said}");
    assert!(says(&fleet, "sato", &["job", "explain", &job]).await.1.contains("sato has proposed to attest_void it"));
    assert!(!says(&fleet, "sato", &resolve("attest_void")).await.0, "twice");
    let (done, said) = says(&fleet, "sato", &["proposal", "confirm", "1", "--reason", "mine", "--yes"]).await;
    assert!(!done && said.contains("your own"), "{said}");
    refused(&suzuki, "select noshi.confirm_proposal(1, sha256('x'), 'read')", "does not stand for").await;
    refused(&suzuki, "select noshi.confirm_proposal(1, (select digest from noshi.proposal), ' ')", "say why").await;
    refused(&suzuki, "update noshi.proposal set proposed_by = 'x'", "permission denied").await;
    refused(pool, "update noshi.proposal set reason = 'another'", "does not change").await;
    assert_eq!(stands(&fleet, "word").await, ("needs_operator".to_owned(), "inquiring".to_owned()));

    let (done, said) = says(&fleet, "suzuki", &["proposal", "show", "1"]).await;
    assert!(done && said.contains("500 JPY") && said.contains("sato says: their letter"), "{said}");
    let confirm = |number: &'static str| ["proposal", "confirm", number, "--reason", "read it", "--yes"];
    assert!(says(&fleet, "suzuki", &confirm("1")).await.0);
    until("void", SOON, async || stands(&fleet, "word").await == ("needs_operator".to_owned(), "void".to_owned()))
        .await;
    assert!(!says(&fleet, "suzuki", &confirm("1")).await.0, "decided once");

    // Refused, taken back, and too late.
    assert!(says(&fleet, "sato", &resolve("reissue")).await.0);
    let (done, _) = says(&fleet, "sato", &["proposal", "refuse", "2", "--reason", "a slip"]).await;
    assert!(done && !says(&fleet, "suzuki", &confirm("2")).await.0);
    assert!(says(&fleet, "suzuki", &resolve("reissue")).await.0);
    assert!(says(&fleet, "sato", &["job", "acknowledge", "word", "--reason", "seen"]).await.0);
    assert!(says(&fleet, "sato", &confirm("3")).await.0);
    until("issued", SOON, async || stands(&fleet, "word").await.0 == "completed").await;
    let told = "select count(*) = 2 from noshi.audit where act = 'proposal confirm' and before is null and after ->> 'proposed_by' <> who";
    assert!(holds(pool, told).await);
    assert!(holds(pool, "select not exists (select from noshi.verify_audit())").await);
    drop(sato);
    assert!(worker.stop().await.success());
}

/// The points of a gift that is live do not come back by anybody's word, nor by two people's.
#[tokio::test(flavor = "multi_thread")]
async fn a_delivered_gift_keeps_its_points() {
    let _turn = turn().await;
    let fleet = fleet(Terms::default()).await;
    let pool = &fleet.pool;
    let worker = fleet.worker("w", &[], &[]);
    point_jobs::grant(pool, "s1", "friend", 1_000).await;
    fleet.at_rest(SOON).await.unwrap();
    point_jobs::exchange(pool, "ex1", "friend", 1_000, 1_000).await;
    fleet.at_rest(SOON).await.unwrap();
    assert_eq!(stands(&fleet, "exchange/ex1").await.0, "completed");
    // The cancel is never sent.
    let act = async |arguments: &[&str]| fleet.command(arguments).await;
    assert!(act(&["lane", "pause", "gift/amazon_incentives", "--reason", "m"]).await.status.success());
    assert!(act(&["job", "cancel", "gift_issuance", "exchange/ex1", "--reason", "c"]).await.status.success());
    until("cancelling", SOON, async || stands(&fleet, "exchange/ex1").await.1 == "cancelling").await;
    for resolve in ["attest_void", "reissue", "reject"] {
        let said = act(&["job", "resolve", "gift_issuance", "exchange/ex1", "--as", resolve, "--reason", "v"]).await;
        assert!(!said.status.success(), "{resolve}");
    }
    let past =
        "select noshi.ask(id, step, 'attest_void', 'past the command') from noshi.job where key = 'exchange/ex1'";
    refused(pool, past, "nobody's word makes it void").await;
    let planted =
        "insert into noshi.gift_outcome (trade, outcome, reason) select id, 'void', 'attested' from noshi.gift_trade";
    refused(pool, planted, "only its partner can say").await;
    // Whoever gets past all that is told of by the books, and no points come back.
    does(pool, "update noshi.job set status = 'failed', at = 'rejected', state = null, requested_act = null, status_before = null, worker = null, finished_at = now() where key = 'exchange/ex1'").await;
    point_jobs::enqueue(pool, "point_reversal", "ex1", json!({"exchange": "ex1", "grace_days": 0})).await;
    until("a refusal", SOON, async || {
        holds(
            pool,
            "select coalesce(bool_or(code = 'reversal_refused'), false) from noshi.job where kind = 'point_reversal'",
        )
        .await
    })
    .await;
    assert_eq!(point_jobs::balance(pool, "friend").await, 0);
    let back = "select noshi.book_reversal(clock_timestamp(), 'reverse:ex1', 'use:ex1', interval '0', (select id from noshi.job where kind = 'point_reversal'))";
    does(pool, back).await;
    let equation =
        "select bool_or(equation = 'the points are back, so there is no gift') from noshi.verify_exchanges()";
    assert!(holds(pool, equation).await);
    // It may be kept; that is a word, too.
    does(pool, "update noshi.lane set paused = false").await;
    assert!(worker.stop().await.success());
}

/// A digest of a token, from whatever log, makes nobody its owner.
#[tokio::test(flavor = "multi_thread")]
async fn a_tokens_digest_lets_nobody_in() {
    let db = database().await;
    let digest = "00".repeat(32);
    does(&db.pool, &format!("select noshi.create_token('tokentoken12', sha256(decode('{digest}', 'hex')), 'suzuki', array['read', 'operate', 'approve'], interval '1 day', 10)")).await;
    let show = format!("select set_config('noshi.token', 'tokentoken12.{digest}', false); select noshi.who()");
    let server = server().await;
    for (login, role) in
        [("sato", "noshi_operator"), ("shop", "noshi_producer"), ("host", "noshi_worker"), ("bi", "noshi_reader")]
    {
        let _ = server.create_login(login, role).await;
        let pool = PgPool::plain(&server.url_as(login, &db.name), 1).unwrap();
        let said = run(&pool, &show).await.unwrap_err();
        assert!(said.contains("shown to the HTTP interface") || said.contains("permission denied"), "{login}: {said}");
    }
    // A login that is the interface's and a person's at once is neither.
    let _ = server.create_login("twofold", "noshi_api").await;
    let _ = run(&db.pool, "grant noshi_operator to twofold").await;
    let pool = PgPool::plain(&server.url_as("twofold", &db.name), 1).unwrap();
    assert!(run(&pool, &show).await.unwrap_err().contains("shown to the HTTP interface"));
    let _ = server.create_login("interface", "noshi_api").await;
    let pool = PgPool::plain(&server.url_as("interface", &db.name), 1).unwrap();
    does(&pool, &show).await;
}

/// A token that somebody made ends with their login: renamed, locked, no operator any more, dropped, or another's by now under the same name.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_ends_with_its_login() {
    let db = database().await;
    let server = server().await;
    server.create_login("ueda", "noshi_operator").await.expect("a login");
    let ueda = PgPool::plain(&server.url_as("ueda", &db.name), 1).unwrap();
    let digest = "00".repeat(32);
    let make = format!(
        "select noshi.create_token('tokenofueda1', sha256(decode('{digest}', 'hex')), 'ueda', array['read', 'operate', 'approve'], interval '1 day', 10)"
    );
    does(&ueda, &make).await;
    // The schema's owner made another, in their name.
    does(&db.pool, &make.replace("tokenofueda1", "tokenofueda2")).await;
    let _ = server.create_login("interface", "noshi_api").await;
    let interface = PgPool::plain(&server.url_as("interface", &db.name), 1).unwrap();
    let show = format!("select set_config('noshi.token', 'tokenofueda1.{digest}', false); select noshi.who()");
    let state = "select state = 'good' from (select case when noshi.is_theirs(t.login, t.owner, t.as_operator) then 'good' end as state from noshi.token t) s";
    drop(ueda);
    for (change, back) in [
        ("alter role ueda rename to ueda2", "alter role ueda2 rename to ueda"),
        ("alter role ueda nologin", "alter role ueda login"),
        ("revoke noshi_operator from ueda", "grant noshi_operator to ueda"),
        ("alter role ueda valid until '2001-01-01'", "alter role ueda valid until 'infinity'"),
        ("alter role ueda connection limit 0", "alter role ueda connection limit -1"),
    ] {
        let shows = [show.clone(), show.replace("tokenofueda1", "tokenofueda2")];
        for show in &shows {
            does(&interface, show).await;
        }
        does(&db.pool, change).await;
        for show in &shows {
            refused(&interface, show, "unknown, expired or revoked").await;
        }
        let listed = noshi::db::operator::tokens::list(&db.pool).await.unwrap();
        assert!(listed.len() == 2 && listed.iter().all(|token| token.state == "login gone"), "{change}");
        let ended = noshi::db::operator::doctor::ended_tokens(&db.pool).await.unwrap();
        assert_eq!(ended, ["tokenofueda1 of ueda", "tokenofueda2 of ueda"], "{change}");
        does(&db.pool, back).await;
        assert!(holds(&db.pool, state).await, "{back}");
    }
    does(&db.pool, "drop role ueda; create role ueda login in role noshi_operator").await;
    refused(&interface, &show, "unknown, expired or revoked").await;
    does(&db.pool, "drop role ueda").await;
    // A system without a login has none that could end.
    does(&db.pool, &make.replace("tokenofueda1", "tokenofshop1").replace("'ueda'", "'till-7'")).await;
    does(&interface, &show.replace("tokenofueda1", "tokenofshop1")).await;
}

/// An approval that has run out is none: what is let go after it counts for whoever lets it go.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_expired_approval_let_go_counts() {
    let db = database().await;
    let [sato, suzuki] = [person(&db.name, "sato").await, person(&db.name, "suzuki").await];
    let cap = |from: i32, lasts: &str| {
        format!(
            "insert into noshi.batch_cap (kind, currency, approve_from_rows, approve_from_total, approval_lasts) values ('grants', 'JPY', {from}, {from}000, '{lasts}')"
        )
    };
    does(&db.pool, &cap(100, "1 day")).await;
    let batches = [staged(&sato, "ran1", 60).await, staged(&sato, "ran2", 60).await];
    does(&db.pool, &cap(1, "1 second")).await;
    for batch in batches {
        let approve = format!(
            "select noshi.approve_batch({batch}, (select approval_digest from noshi.batch where id = {batch}), 'read')"
        );
        does(&suzuki, &approve).await;
    }
    does(&db.pool, &cap(100, "1 day")).await;
    until("the approvals are over", SOON, async || {
        holds(&db.pool, "select bool_and(approved_until < clock_timestamp()) from noshi.batch").await
    })
    .await;
    does(&sato, &release(batches[0])).await;
    refused(&sato, &release(batches[1]), "ran out at").await;
}

/// Taking a delivered gift back takes value from its user: one person does that as often as they may ask for other things, and no more.
#[tokio::test(flavor = "multi_thread")]
async fn delivered_gifts_are_taken_back_within_the_same_bounds() {
    let db = database().await;
    let sato = person(&db.name, "sato").await;
    let delivered = r#"insert into noshi.job (kind, key, fingerprint, args, at, state, status, finished_at)
        select 'gift_issuance', 'g' || n, '', jsonb_build_object('grant', 'g' || n, 'user', 'u', 'category', 'amazon', 'value', '{"amount": 60000, "currency": "JPY"}'::jsonb),
            'issued', '{"at": "issued"}', 'completed', now() from generate_series(1, 2) n"#;
    does(&db.pool, delivered).await;
    let ask = |key: &str, act: &str| {
        format!("select noshi.ask(id, step, '{act}', 'because') from noshi.job where key = '{key}'")
    };
    does(&sato, &ask("g1", "cancel")).await;
    refused(&sato, &ask("g2", "cancel"), "more than one person asks for alone").await;
    refused(&sato, &ask("g2", "foo"), "there is no act 'foo'").await;
}

/// What somebody else asked for is not told: an id that is taken says so, and which fields differ, and no more.
#[tokio::test(flavor = "multi_thread")]
async fn what_another_producer_asked_for_is_not_told() {
    let db = database().await;
    let server = server().await;
    let mut pools = vec![];
    for login in ["shop_a", "shop_b"] {
        let _ = server.create_login(login, "noshi_producer").await;
        pools.push(PgPool::plain(&server.url_as(login, &db.name), 1).unwrap());
    }
    let ask = |name: &str| {
        format!(
            "select noshi.enqueue('store_creation', 'O/P/1', '{{\"organization\": \"O\", \"public_id\": \"P\", \"name\": \"{name}\", \"request\": \"1\", \"contact\": {{\"key\": \"k1234\", \"nonce\": \"{}\", \"ciphertext\": \"1234\"}}}}')",
            "1".repeat(32)
        )
    };
    does(&pools[0], &ask("千代田店")).await;
    let told = async |pool: &PgPool| {
        let error = sqlx::raw_sql(AssertSqlSafe(ask("another"))).execute(pool).await.unwrap_err();
        let error = error.into_database_error().expect("the database's own");
        let error = error.downcast::<sqlx::postgres::PgDatabaseError>();
        (error.code().to_owned(), error.detail().unwrap_or_default().to_owned())
    };
    assert_eq!(told(&pools[0]).await, ("NS409".to_owned(), "name: recorded \"千代田店\", now \"another\"".to_owned()));
    assert_eq!(told(&pools[1]).await, ("NS409".to_owned(), "name differs".to_owned()));
    let empty = "select noshi.enqueue('store_creation', 'O/P/1', '{\"organization\": \"O\", \"public_id\": \"P\", \"name\": \"x\", \"request\": \"1\"}')";
    let error = sqlx::raw_sql(empty).execute(&pools[1]).await.unwrap_err();
    let whole = format!("{error:?}");
    assert!(!whole.contains("1234") && !whole.contains("千代田"), "{whole}");
}

/// What a producer asks for under a snapshot from before a file is bought for nobody else than the file says; and a token that was revoked
/// meanwhile does nothing more.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_snapshot_takes_no_row_of_a_file_and_shows_no_token() {
    let db = database().await;
    let sato = person(&db.name, "sato").await;
    let _ = server().await.create_login("old_shop", "noshi_producer").await;
    let shop = PgPool::plain(&server().await.url_as("old_shop", &db.name), 2).expect("a URL");
    let mut old = shop.acquire().await.unwrap();
    let begin = "begin isolation level repeatable read; select noshi.enqueue('gift_issuance', 'own', '{\"grant\": \"own\", \"user\": \"u\", \"category\": \"digital\", \"value\": {\"amount\": 1, \"currency\": \"JPY\"}}')";
    sqlx::raw_sql(begin).execute(&mut *old).await.unwrap();
    let batch = staged(&sato, "snapshot", 5).await;
    does(&sato, &release(batch)).await;
    does(&db.pool, &format!("select noshi.register_batch({batch})")).await;
    let key: String = sqlx::query_scalar("select key from noshi.batch_row where batch = $1 and row_no = 1")
        .bind(batch)
        .fetch_one(&db.pool)
        .await
        .unwrap();
    let thief = format!(
        "select noshi.enqueue('gift_issuance', '{key}', '{{\"grant\": \"{key}\", \"user\": \"thief\", \"category\": \"digital\", \"value\": {{\"amount\": 500, \"currency\": \"JPY\"}}}}'); commit"
    );
    sqlx::raw_sql(AssertSqlSafe(thief)).execute(&mut *old).await.expect("nothing of the file is to be seen in it");
    let buy = |key: &str| {
        format!(
            "insert into noshi.gift_trade (id, grant_id, generation, job, provider, category, amount, currency) select 'T-{key}', key, 1, id, 'p', 'digital', 1, 'JPY' from noshi.job where key = '{key}'"
        )
    };
    refused(&db.pool, &buy(&key), "otherwise than this job asks").await;
    does(&db.pool, &buy("own")).await;
    // A grant of a batch that was cancelled since.
    let second = "select key from noshi.batch_row where row_no = 2 limit 1";
    let second: String = sqlx::query_scalar(second).fetch_one(&db.pool).await.unwrap();
    sqlx::raw_sql("begin isolation level repeatable read; select noshi.who()").execute(&mut *old).await.unwrap();
    does(&sato, &format!("select noshi.cancel_batch({batch}, 'x')")).await;
    let late = format!("select noshi.issue_grant('{second}', 'u')");
    let said = sqlx::raw_sql(AssertSqlSafe(late)).execute(&mut *old).await.expect_err("a grant that was cancelled");
    assert!(said.to_string().contains("could not serialize"), "{said}");
    sqlx::raw_sql("rollback").execute(&mut *old).await.unwrap();
    let shown = "begin isolation level repeatable read; select set_config('noshi.token', 'aaaaaaaaaaaa.00', true); select noshi.who()";
    refused(&db.pool, shown, "read committed").await;
}

/// What was done alone is a day older.
async fn a_day_passes(pool: &PgPool) {
    let older = "begin; set local session_replication_role = replica; update noshi.alone set at = at - interval '25 hours'; commit";
    does(pool, older).await;
}

async fn granted(pool: &PgPool) -> i64 {
    let granted = "select count(*) from noshi.batch where registered_at is not null";
    sqlx::query_scalar(granted).fetch_one(pool).await.expect("a count")
}

fn approve(batch: i64) -> String {
    format!("select noshi.approve_batch({batch}, (select approval_digest from noshi.batch where id = {batch}), 'read')")
}

/// Files that one person let go on several days and held back are not granted together: what counts is when they are granted, too.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_let_go_and_held_back_counts_when_it_is_granted() {
    let db = database().await;
    let pool = &db.pool;
    let [sato, suzuki] = [person(&db.name, "sato").await, person(&db.name, "suzuki").await];
    let mut files = vec![];
    for name in ["held1", "held2", "held3"] {
        let batch = staged(&sato, name, 60).await;
        does(&sato, &format!("{}; select noshi.pause_batch({batch}, 'operator', 'hold')", release(batch))).await;
        files.push(batch);
        a_day_passes(pool).await;
    }
    for batch in &files {
        does(&sato, &format!("select noshi.resume_batch({batch}, 'go on')")).await;
        does(pool, &format!("select noshi.register_batch({batch})")).await;
    }
    assert_eq!(granted(pool).await, 1, "of 60 rows each, under 100");
    assert!(holds(pool, "select count(*) = 2 from noshi.batch where refused_code = 'batch_not_approved'").await);
    // Nor does another try go round it; a second person does, and so does another day. Once counted, it counts once.
    does(pool, &format!("select noshi.register_batch({})", files[1])).await;
    assert_eq!(granted(pool).await, 1);
    does(&suzuki, &approve(files[1])).await;
    does(pool, &format!("select noshi.register_batch({})", files[1])).await;
    assert_eq!(granted(pool).await, 2);
    let small = staged(&sato, "small", 30).await;
    does(&sato, &release(small)).await;
    does(pool, &format!("select noshi.register_batch({small})")).await;
    assert_eq!(granted(pool).await, 3, "60 and 30, each released and granted, are 90");
    a_day_passes(pool).await;
    does(pool, &format!("select noshi.register_batch({})", files[2])).await;
    assert_eq!(granted(pool).await, 4);
}

/// An approval that has run out takes no file out of the count: it is counted when it is granted without one.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_whose_approval_ran_out_counts_when_it_is_granted() {
    let db = database().await;
    let pool = &db.pool;
    let [kato, mori] = [person(&db.name, "kato").await, person(&db.name, "mori").await];
    does(pool, "insert into noshi.batch_cap (kind, currency, approve_from_rows, approve_from_total, approval_lasts) values ('grants', 'JPY', 100, 100000, '3 seconds')").await;
    let files = [staged(&kato, "a", 90).await, staged(&kato, "b", 90).await, staged(&kato, "c", 90).await];
    does(&kato, &release(files[0])).await;
    does(&mori, &approve(files[1])).await;
    does(&kato, &format!("{}; select noshi.pause_batch({}, 'operator', 'hold')", release(files[1]), files[1])).await;
    until("the approval is over", SOON, async || {
        holds(pool, "select bool_or(approved_until < clock_timestamp()) from noshi.batch").await
    })
    .await;
    a_day_passes(pool).await;
    does(&kato, &format!("select noshi.resume_batch({}, 'go on')", files[1])).await;
    does(pool, &format!("select noshi.register_batch({})", files[1])).await;
    assert_eq!(granted(pool).await, 1);
    refused(&kato, &release(files[2]), "a second person must approve it").await;
}

/// Receives and validates a file of sixty stores, for somebody. Its number.
async fn staged_stores(who: &PgPool, name: &str) -> i64 {
    let stage = format!(
        r#"do $$ declare b bigint; begin
        select batch into b from noshi.receive_batch('stores', 'per_row', sha256('{name}'), '{name}', 'utf-8', null, false, false);
        insert into noshi.batch_row (batch, row_no, line, key, args) select b, n, n + 1, 'O/{name}-' || n || '/1',
            jsonb_build_object('organization', 'O', 'public_id', '{name}-' || n, 'name', 'n', 'request', '1') from generate_series(1, 60) n;
        perform noshi.validate_batch(b, 60); end $$"#
    );
    does(who, &stage).await;
    let number = format!("select id from noshi.batch where file = '{name}'");
    sqlx::query_scalar(AssertSqlSafe(number)).fetch_one(who).await.expect("a batch")
}

/// Stores are asked for by their release: those that a pause set aside are judged and counted when they go on.
#[tokio::test(flavor = "multi_thread")]
async fn stores_that_were_set_aside_count_when_they_go_on() {
    let db = database().await;
    let [sato, suzuki] = [person(&db.name, "sato").await, person(&db.name, "suzuki").await];
    does(
        &db.pool,
        "insert into noshi.batch_cap (kind, currency, approve_from_rows, max_rows) values ('stores', '', 100, 1000)",
    )
    .await;
    let mut files = vec![];
    for name in ["s1", "s2"] {
        let batch = staged_stores(&sato, name).await;
        does(&sato, &format!("{}; select noshi.pause_batch({batch}, 'operator', 'hold')", release(batch))).await;
        a_day_passes(&db.pool).await;
        files.push(batch);
    }
    let resume = |batch: i64| format!("select noshi.resume_batch({batch}, 'go on')");
    does(&sato, &resume(files[0])).await;
    refused(&sato, &resume(files[1]), "may not go on (batch_not_approved)").await;
    assert!(holds(&db.pool, "select count(*) = 60 from noshi.job where run_at = 'infinity'").await, "they wait");
    does(&suzuki, &approve(files[1])).await;
    does(&sato, &resume(files[1])).await;
    assert!(holds(&db.pool, "select count(*) = 120 from noshi.job where status = 'available'").await);
}

/// Plans that one person applied on several days and paused are not asked together.
#[tokio::test(flavor = "multi_thread")]
async fn re_drives_that_were_paused_count_when_they_go_on() {
    let db = database().await;
    let [sato, suzuki] = [person(&db.name, "sato").await, person(&db.name, "suzuki").await];
    does(&db.pool, "select noshi.enqueue('probe', 'p' || n, jsonb_build_object('id', 'p' || n, 'steps', 1)) from generate_series(1, 120) n;
        update noshi.job set status = 'needs_operator', at = 'working', code = 'doubt_unresolved'").await;
    for (plan, which) in [(1, "<= 60"), (2, "> 60")] {
        let sql = format!("select noshi.plan_redrive('{{}}', array_agg(id), array_agg(step), array_agg('retry'::text), array_agg(null::text), array_agg(''::text)) from noshi.job where id {which};
            select noshi.apply_redrive({plan}, 'x', null, null, null, null); select noshi.pause_redrive({plan}, 'hold')");
        does(&sato, &sql).await;
        a_day_passes(&db.pool).await;
    }
    does(&sato, "select noshi.resume_redrive(1, 'go on'); select noshi.pause_redrive(1, 'hold'); select noshi.resume_redrive(1, 'go on')").await;
    refused(&sato, "select noshi.resume_redrive(2, 'go on')", "too large for one person").await;
    // It counts for whoever applied it, too.
    refused(&suzuki, "select noshi.resume_redrive(2, 'go on')", "what sato asked for alone").await;
    a_day_passes(&db.pool).await;
    does(&suzuki, "select noshi.resume_redrive(2, 'go on')").await;
}

/// What somebody proposed who operates no more is not confirmed.
#[tokio::test(flavor = "multi_thread")]
async fn who_operates_no_more_has_proposed_nothing() {
    let db = database().await;
    let server = server().await;
    server.create_login("yoshida", "noshi_operator").await.expect("a login");
    let yoshida = PgPool::plain(&server.url_as("yoshida", &db.name), 1).unwrap();
    let suzuki = person(&db.name, "suzuki").await;
    does(&db.pool, NOT_ALONE).await;
    does(&yoshida, "select noshi.propose('restore_mark', null, null, clock_timestamp(), 'x')").await;
    drop(yoshida);
    let confirm = "select noshi.confirm_proposal(id, digest, 'read') from noshi.proposal";
    for (change, back) in [
        ("revoke noshi_operator from yoshida", "grant noshi_operator to yoshida"),
        ("alter role yoshida nologin", "alter role yoshida login"),
    ] {
        does(&db.pool, change).await;
        refused(&suzuki, confirm, "is no operator any more").await;
        does(&db.pool, back).await;
    }
    does(&suzuki, confirm).await;
    does(&db.pool, "drop role yoshida").await;
}

/// Who knows a file's digest takes nobody's place by it; and of two that are the same one is let go.
#[tokio::test(flavor = "multi_thread")]
async fn a_digest_takes_nobodys_file() {
    let db = database().await;
    let [sato, suzuki] = [person(&db.name, "sato").await, person(&db.name, "suzuki").await];
    let squat =
        "select noshi.receive_batch('grants', 'all_or_nothing', sha256('mine'), 'squat', 'utf-8', null, true, true)";
    does(&suzuki, squat).await;
    let mine = staged(&sato, "mine", 5).await;
    does(&sato, &release(mine)).await;
    // With rows of its own, as well.
    does(&suzuki, &squat.replace("'mine'", "'other'").replace("true, true", "false, true")).await;
    let other: i64 = sqlx::query_scalar("select max(id) from noshi.batch").fetch_one(&db.pool).await.unwrap();
    does(
        &suzuki,
        &format!(
            r#"insert into noshi.batch_row (batch, row_no, line, key, args) values ({other}, 1, 2, 'x',
            '{{"grant": "x", "user": "u", "category": "digital", "value": {{"amount": 1, "currency": "JPY"}}}}'); select noshi.validate_batch({other}, 1)"#
        ),
    )
    .await;
    let theirs = staged(&sato, "other", 5).await;
    does(&sato, &release(theirs)).await;
    refused(&suzuki, &release(other), "was let go already").await;
    // Who submits it later is told of the one that was let go.
    assert!(holds(&suzuki, &format!("select batch = {mine} and not is_new from noshi.receive_batch('grants', 'all_or_nothing', sha256('mine'), 'mine', 'utf-8', null, false, true)")).await);
}

/// One person by a login and by a token, however the login's name is written: what one of them submits, proposes or plans the other approves not.
#[tokio::test(flavor = "multi_thread")]
async fn a_login_with_capitals_is_one_person() {
    let db = database().await;
    does(&db.pool, NOT_ALONE).await;
    let hana = person(&db.name, "Hana_Ito").await;
    assert!(holds(&hana, "select noshi.who() = 'hana_ito'").await);
    let api = {
        let server = server().await;
        let _ = server.create_login("api_of_hana", "noshi_api").await;
        PgPool::plain(&server.url_as("api_of_hana", &db.name), 1).expect("a URL")
    };
    // By the owner, for her, as the name folds; and as it does not.
    let make = |id: &str, owner: &str| {
        format!(
            "select noshi.create_token('{id}', sha256(sha256('secret')), '{owner}', '{{read,operate,approve}}', '1 day', 10)"
        )
    };
    does(&db.pool, &make("abcdefghij01", "hana_ito")).await;
    refused(&db.pool, &make("abcdefghij02", "Hana_Ito"), "in small letters").await;
    refused(&db.pool, &make("abcdefghij02", "hänä"), "a system is named in ASCII").await;
    assert!(holds(&db.pool, "select login = '\"Hana_Ito\"'::regrole from noshi.token").await);
    let as_token = |scope: &str, sql: &str| {
        format!(
            "begin; select noshi.act_by('abcdefghij01.' || encode(sha256('secret'), 'hex'), '{scope}'); {sql}; commit"
        )
    };

    let batch = staged(&hana, "large", 120).await;
    let covers = format!("(select approval_digest from noshi.batch where id = {batch})");
    let approve = format!("select noshi.approve_batch({batch}, {covers}, 'read')");
    refused(&api, &as_token("approve", &approve), "another person must approve").await;
    does(&api, "rollback").await;

    does(&hana, "select noshi.propose('restore_mark', null, null, clock_timestamp(), 'a drill')").await;
    let confirm = "select noshi.confirm_proposal(id, digest, 'read') from noshi.proposal";
    refused(&api, &as_token("approve", confirm), "your own; a second person").await;
    does(&api, "rollback").await;

    does(
        &db.pool,
        "insert into noshi.redrive_cap (jobs, amount) values (0, 0); select noshi.enqueue('probe', 'p', '{\"id\": \"p\"}');
        update noshi.job set status = 'needs_operator', at = 'stepping', code = 'c'",
    )
    .await;
    does(&hana, "select noshi.plan_redrive('{}', array[id], array[step], array['retry'], array[null], array['']) from noshi.job").await;
    refused(
        &api,
        &as_token("approve", "select noshi.approve_redrive(id, digest, 'read') from noshi.redrive"),
        "planned by you",
    )
    .await;
    does(&api, "rollback").await;
    // Somebody else may, and her own words count once, whichever way they come.
    let mori = person(&db.name, "mori").await;
    does(&mori, &approve).await;
    does(&mori, confirm).await;
    let small = staged(&hana, "small", 60).await;
    does(&hana, &release(small)).await;
    let other = staged(&mori, "others", 60).await;
    refused(&api, &as_token("operate", &release(other)), "a second person must approve it").await;

    // Two logins that are one: no token is made that could be either's, and whoever looks is told.
    let _ = person(&db.name, "HANA_ITO").await;
    refused(&db.pool, &make("abcdefghij03", "hana_ito"), "are one person to noshi").await;
    let told = noshi::db::operator::doctor::logins_of_one(&db.pool).await.expect("logins");
    assert!(told.iter().any(|it| it == "\"HANA_ITO\" and \"Hana_Ito\""), "{told:?}");
    does(&db.pool, "drop role \"HANA_ITO\"").await;
}

/// As long as a reason may be, a word is confirmed, and its act is carried out: what noshi puts together of both fits.
#[tokio::test(flavor = "multi_thread")]
async fn a_word_with_a_long_reason_is_confirmed() {
    let db = database().await;
    does(&db.pool, NOT_ALONE).await;
    let [sato, suzuki] = [person(&db.name, "sato").await, person(&db.name, "suzuki").await];
    // In characters of three bytes, so that a cut falls between two.
    let long = "repeat('あ', 1333)";
    does(&sato, &format!("select noshi.propose('restore_mark', null, null, clock_timestamp(), {long})")).await;
    does(&suzuki, &format!("select noshi.confirm_proposal(id, digest, {long}) from noshi.proposal")).await;
    assert!(holds(&db.pool, "select restored_to is not null from noshi.server_seen").await);
    let kept =
        "select bool_and(octet_length(reason) = 3999 and octet_length(decision_reason) = 3999) from noshi.proposal";
    assert!(holds(&db.pool, kept).await);
}
