//! What an outsider broke once, tried again.

use std::time::Duration;

use secrecy::ExposeSecret;
use serde_json::json;
use sqlx::Executor;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

use crate::{
    api::Api,
    engine::{pace, start},
    fleet::{Terms, fleet},
    processes::until,
    support::{busy, database, turn},
};
use noshi::{
    api::backend::MAX_LARGE,
    db::{self, PgPool, Role, domain::batches},
};

async fn refused(pool: &PgPool, sql: &'static str) -> String {
    pool.execute(sql).await.expect_err(sql).to_string()
}

/// One login, two sessions: rows that are committed behind an old snapshot must not be released unjudged.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_never_judged_by_an_old_snapshot() {
    let db = database().await;
    let pool = &db.pool;
    let rows = "insert into noshi.batch_row (batch, row_no, line, key, args)
        select b.id, n, n + 1, 'g' || n, jsonb_build_object('grant', 'g' || n, 'user', 'u', 'category', 'coffee', 'value', '{\"amount\": 1000, \"currency\": \"JPY\"}'::jsonb)
        from noshi.batch b, generate_series";
    let insert = async |from: i32, to: i32| {
        pool.execute(sqlx::AssertSqlSafe(format!("{rows}({from}, {to}) n"))).await.expect("staged rows");
    };
    pool.execute(
        "select noshi.receive_batch('grants', 'all_or_nothing', sha256('x'), 'f', 'utf-8', null, false, true)",
    )
    .await
    .expect("a batch");
    insert(1, 1).await;
    let mut old = pool.begin_with("begin isolation level repeatable read").await.expect("a transaction");
    old.execute("select count(*) from noshi.batch_row").await.expect("a snapshot");
    insert(2, 1_000).await;
    let said = old.execute("select noshi.validate_batch(1, 1)").await.expect_err("an old snapshot").to_string();
    assert!(said.contains("read committed"), "{said}");
    drop(old);
    // The second wall: a batch that holds more than was judged.
    pool.execute("alter table noshi.batch disable trigger user; update noshi.batch set rows = 1, validated_at = now()")
        .await
        .expect("tampered with");
    let said = batches::release(pool, 1, None).await.expect_err("unjudged rows").to_string();
    assert!(said.contains("other rows than those that were judged"), "{said}");
}

/// Jobs that only noshi makes are made by nobody else, and a gift is known by its grant.
#[tokio::test(flavor = "multi_thread")]
async fn producers_make_no_job_that_is_not_theirs() {
    let db = database().await;
    let producer = db::connect(&db.url, Role::Producer, 1).await.expect("a producer");
    for sql in [
        "select noshi.enqueue('bulk_grants', 'sq/1', '{\"batch\": 4711}')",
        "select noshi.enqueue('bulk_grants', 'batch/1', '{\"batch\": 1}')",
    ] {
        let said = refused(&producer, sql).await;
        assert!(said.contains("is made by the release of its batch"), "{said}");
    }
    let squatter = "select noshi.enqueue('gift_issuance', 'k', '{\"grant\": \"G-1\", \"user\": \"u\", \"category\": \"coffee\", \"value\": {\"amount\": 1, \"currency\": \"JPY\"}}')";
    let said = refused(&producer, squatter).await;
    assert!(said.contains("the id of a gift is its grant: k is not G-1"), "{said}");
    for (kind, key, args) in [
        (
            "point_exchange",
            "again",
            "{\"exchange\": \"e-1\", \"user\": \"u\", \"points\": 5, \"category\": \"c\", \"value\": {\"amount\": 5, \"currency\": \"JPY\"}}",
        ),
        (
            "point_grant",
            "squat",
            "{\"benefit\": \"b\", \"source\": \"1\", \"user\": \"u\", \"points\": 5, \"valid_days\": 1}",
        ),
        ("point_withdrawal", "u2", "{\"user\": \"u1\"}"),
    ] {
        let asked = sqlx::query("select noshi.enqueue($1, $2, $3::jsonb)").bind(kind).bind(key).bind(args);
        let said = asked.execute(&producer).await.expect_err(kind).to_string();
        assert!(said.contains("is made of its arguments"), "{said}");
    }
}

/// A step that our own database refuses for good parks its job instead of holding a slot for ever.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_database_refuses_for_good_is_parked() {
    let db = database().await;
    let pool = &db.pool;
    let tamper = "set session_replication_role = replica;
        insert into noshi.job (kind, key, fingerprint, args) values ('bulk_grants', 'batch/4711', sha256('x'), '{\"batch\": 4711}')";
    let mut owner = pool.acquire().await.expect("a connection");
    owner.execute(tamper).await.expect("a job that nobody can make");
    owner.detach().close().await.expect("closed");
    let worker = start(&db, pace()).await;
    until("a parked job", Duration::from_secs(30), async || {
        let code: Option<String> = sqlx::query_scalar("select code from noshi.job where status = 'needs_operator'")
            .fetch_optional(pool)
            .await
            .expect("the job");
        code.as_deref() == Some("local_refused")
    })
    .await;
    worker.stop().await;
}

/// Of every class that no repetition helps, such as a feature that this server does not have.
#[tokio::test(flavor = "multi_thread")]
async fn no_answer_of_the_database_keeps_a_job_running_for_ever() {
    let db = database().await;
    let pool = &db.pool;
    pool.execute(
        "create or replace function noshi.grant_points(p_job bigint) returns table (entry bigint, code text, detail text) language plpgsql as $$
         begin raise exception 'refused' using errcode = (select args ->> 'source' from noshi.job where id = p_job); end $$",
    )
    .await
    .expect("a function that refuses");
    const CLASSES: [&str; 6] = ["0A000", "2F003", "38001", "3F000", "44000", "54001"];
    for class in CLASSES {
        let args = serde_json::json!({"benefit": "b", "source": class, "user": "u", "points": 5, "valid_days": 1});
        sqlx::query("select noshi.enqueue('point_grant', 'b:' || $1, $2)")
            .bind(class)
            .bind(args)
            .execute(pool)
            .await
            .expect("a job");
    }
    let worker = start(&db, pace()).await;
    until("all of them parked", Duration::from_secs(60), async || {
        let parked: i64 = sqlx::query_scalar(
            "select count(*) from noshi.job where status = 'needs_operator' and code = 'local_refused'",
        )
        .fetch_one(pool)
        .await
        .expect("the jobs");
        parked == CLASSES.len() as i64
    })
    .await;
    worker.stop().await;
}

/// However many ask for what needs a connection of their own, the database has room for everybody else.
#[tokio::test(flavor = "multi_thread")]
async fn one_interface_takes_few_connections() {
    let _turn = turn().await;
    let api = Api::of(fleet(Terms::default()).await).await;
    let pool = &api.fleet.pool;
    pool.execute(
        "select noshi.receive_batch('grants', 'all_or_nothing', sha256('x'), 'f', 'utf-8', null, false, true)",
    )
    .await
    .expect("a batch");
    let tokens =
        [api.token("a", &["operate"]).await, api.token("b", &["operate"]).await, api.token("c", &["operate"]).await];
    let mut holder = pool.begin().await.expect("a transaction");
    holder.execute("select from noshi.batch for update").await.expect("a locked batch");
    let reason = json!({"reason": "x"});
    let asked = (0..90).map(|n| api.post("/v1/batches/1/pause", &tokens[n % 3], &reason));
    let answers = futures::future::join_all(asked);
    let most = async {
        let (mut most, began) = (0, tokio::time::Instant::now());
        while began.elapsed() < Duration::from_secs(3) {
            let theirs =
                "select count(*) from pg_stat_activity where usename like 'api_of_%' and datname = current_database()";
            let now: i64 = sqlx::query_scalar(theirs).fetch_one(pool).await.expect("a count");
            most = most.max(now);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        most
    };
    let (answers, most) = tokio::join!(answers, most);
    drop(holder);
    // Eight shared, eight of their own, and those just closing.
    assert!((9..=24).contains(&most), "{most} connections");
    for (status, problem) in answers {
        assert!(
            status == 429 || (status == 503 && problem["detail"].as_str().unwrap().contains("Nothing was done")),
            "{status} {problem}"
        );
    }
}

/// One token that holds all it may holds nobody else up.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_fills_its_own_room_and_no_more() {
    let _turn = turn().await;
    let api = Api::of(fleet(Terms::default()).await).await;
    let (greedy, other) = (api.token("a", &["enqueue"]).await, api.token("b", &["enqueue", "read"]).await);
    let mut held = vec![];
    for kind in ["/v1/jobs"; 60].iter().chain(&["/v1/batches?kind=grants"; 3]) {
        let media = if kind.starts_with("/v1/jobs") { "application/json" } else { "text/csv" };
        let mut stream = TcpStream::connect(&api.address).await.expect("a connection");
        let head = format!(
            "POST {kind} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-type: {media}\r\ncontent-length: 100000\r\n\r\n{{",
            greedy.expose_secret()
        );
        stream.write_all(head.as_bytes()).await.expect("half a request");
        held.push(stream);
    }
    // Another token of theirs makes no more room.
    let more = api.token("a", &["enqueue"]).await;
    let full = async || api.post("/v1/jobs", &more, &json!({})).await;
    until("a full room", Duration::from_secs(8), async || full().await.0 == 429).await;
    assert!(full().await.1["detail"].as_str().unwrap().contains("as many as one may"), "{}", full().await.1);
    // Others have theirs, for small requests and for files.
    assert_eq!(api.get("/v1/jobs", &other).await.0, 200);
    let (status, said) = api.upload("kind=grants", &other, "grant_id\n").await;
    assert_eq!((status, said["faults"].as_array().map(Vec::is_empty)), (422, Some(false)), "{said}");
    drop(held);
}

/// Points are booked in read committed transactions, whatever a login or a database prefers.
#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_read_committed() {
    let db = database().await;
    let prefer = "do $$ begin execute format('alter database %I set default_transaction_isolation = ''repeatable read''', current_database()); end $$";
    db.pool.execute(prefer).await.expect("a preference");
    let show = "show transaction_isolation";
    let plain: String =
        sqlx::query_scalar(show).fetch_one(&PgPool::connect(&db.url).await.expect("a session")).await.expect("its own");
    assert_eq!(plain, "repeatable read");
    for role in [Role::Login, Role::Worker, Role::Operator, Role::Producer] {
        let ours = db::connect(&db.url, role, 1).await.expect("a session");
        let level: String = sqlx::query_scalar(show).fetch_one(&ours).await.expect("its level");
        assert_eq!(level, "read committed", "{role:?}");
    }
}

/// An id that no job can have is refused with its row, not after the whole batch was released.
#[tokio::test(flavor = "multi_thread")]
async fn rows_have_ids_that_jobs_can_have() {
    let db = database().await;
    let batch: i64 = sqlx::query_scalar("select batch from noshi.receive_batch('points', 'all_or_nothing', sha256('x'), 'x.csv', 'utf-8', null, false, false)")
        .fetch_one(&db.pool)
        .await
        .expect("a batch");
    let row = "insert into noshi.batch_row (batch, row_no, line, key, args) values ($1, 1, 2, $2, '{\"benefit\": \"b\", \"source\": \"x\", \"user\": \"u\", \"points\": 1, \"valid_days\": 1}')";
    for (key, is_plain) in [("b:zw\u{200b}x", false), ("b:a\nb", false), ("..", false), ("b:x", true)] {
        let put = sqlx::query(row).bind(batch).bind(key).execute(&db.pool).await;
        assert_eq!(put.is_ok(), is_plain, "{key:?}: {put:?}");
    }
}

/// Reports that are read a byte at a time keep nobody from theirs.
#[tokio::test(flavor = "multi_thread")]
async fn slow_readers_hold_up_themselves() {
    let _turn = busy().await;
    let api = Api::of(fleet(Terms::default()).await).await;
    let other = api.token("c", &["enqueue", "read", "personal"]).await;
    let rows = (0..20_000).map(|n| format!("R-{n},u{n},Hana,hana+{n}@example.jp,digital,1,JPY\n"));
    let file = std::iter::once("grant_id,user_id,name,email,category,amount,currency\n".to_owned()).chain(rows);
    let (status, batch) = api.upload("kind=grants", &other, &file.collect::<String>()).await;
    assert_eq!(status, 200, "{batch}");
    let report = format!("/v1/batches/{}/report", batch["batch"]);
    let worker = api.fleet.worker("reads", &[], &[]);
    let mut slow = vec![];
    for n in 0..MAX_LARGE {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(4_096).expect("a small one");
        let mut stream = socket.connect(api.address.parse().expect("an address")).await.expect("a connection");
        let token = api.token(&format!("slow-{n}"), &["personal"]).await;
        let ask =
            format!("GET {report} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\r\n", token.expose_secret());
        stream.write_all(ask.as_bytes()).await.expect("a request");
        let mut first = [0; 15];
        stream.read_exact(&mut first).await.expect("the first bytes");
        assert_eq!(&first, b"HTTP/1.1 200 OK");
        slow.push(stream);
    }
    let answer = api.request("GET", &report, Some(&other)).send().await.expect("an answer");
    assert_eq!((answer.status().as_u16(), answer.text().await.expect("a report").lines().count()), (200, 20_001));
    drop(slow);
    assert!(worker.stop().await.success());
}

/// What no reader can hold or show is refused before it hides anything else; and worth is never less than nothing.
#[tokio::test(flavor = "multi_thread")]
async fn arguments_that_nobody_can_mean_are_refused() {
    let db = database().await;
    let producer = db::connect(&db.url, Role::Producer, 1).await.expect("a producer");
    let gift = |id: &str, amount: &str, more: &str| {
        let grant = id.replace('\n', "\\n");
        format!(
            "select noshi.enqueue('gift_issuance', '{id}', '{{\"grant\": \"{grant}\", \"user\": \"u\", \"category\": \"c\", \"value\": {{\"amount\": {amount}, \"currency\": \"JPY\"}}{more}}}')"
        )
    };
    let deep = format!(", \"x\": {}{}", "[".repeat(40), "]".repeat(40));
    for (sql, said) in [
        (gift("a", "500", ", \"x\": 1e400"), "too large"),
        (gift("a", "500", &deep), "deeper than 32"),
        (gift("a", "-100000000", ""), "above 0"),
        (gift("a", "0", ""), "above 0"),
        (gift("a", "500.5", ""), "above 0"),
        (gift("a", "\"abc\"", ""), "above 0"),
        (gift("a", "1e30", ""), "above 0"),
        (gift("a\nb", "500", ""), "control characters"),
        (gift("\u{202e}a", "500", ""), "cannot be seen"),
        (gift("..", "500", ""), "is not . or .."),
    ] {
        let error = producer.execute(sqlx::AssertSqlSafe(sql.clone())).await.expect_err(&sql).to_string();
        assert!(error.contains(said), "{sql}: {error}");
    }
    producer.execute(sqlx::AssertSqlSafe(gift("付与-1", "500", ""))).await.expect("a gift");
}

/// Sealed values are written by workers, and by whoever submits a batch for that batch; nobody can take the place of a code.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_takes_the_place_of_a_sealed_code() {
    let db = database().await;
    let name = &db.name;
    let logins =
        format!("create role sato_{name} login in role noshi_operator; create role api_{name} login in role noshi_api");
    db.pool.execute(sqlx::AssertSqlSafe(logins)).await.expect("two logins");
    for login in ["sato", "api"] {
        let url = db.url.replacen("//postgres@", &format!("//{login}_{name}@"), 1);
        let pool = PgPool::connect(&url).await.expect("a session");
        let places = [("gift_code", "trade-1"), ("file", "1/0"), ("recipient", "1/1"), ("suppressed", "x")];
        for (what, subject) in places.into_iter().chain([("contact", "1/1"), ("contact", "store_creation/O/S/1")]) {
            let insert = "insert into noshi_sealed.sealed (what, subject, grant_id, provider, key_id, nonce, ciphertext) values ($1, $2, '', '', 'k', '', '')";
            let error = sqlx::query(insert).bind(what).bind(subject).execute(&pool).await.expect_err(what).to_string();
            let why = if what == "gift_code" {
                "a code is taken with its gift"
            } else {
                "sealed values are taken with a batch"
            };
            assert!(error.contains(why), "{login} {what}: {error}");
        }
    }
}

/// A cancelled batch stays cancelled: nothing of it is asked for any more, nor comes back to life.
#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_batch_stays_cancelled() {
    let db = database().await;
    let pool = &db.pool;
    pool.execute(
        "select noshi.receive_batch('stores', 'per_row', sha256('x'), 'f', 'utf-8', null, false, false);
        insert into noshi.batch_row (batch, row_no, line, key, args)
        select b.id, 1, 2, 'O/P/1', '{\"organization\": \"O\", \"public_id\": \"P\", \"name\": \"n\", \"request\": \"1\"}' from noshi.batch b;
        select noshi.validate_batch(id, 1), noshi.release_batch(id) from noshi.batch;
        select noshi.ask(id, step, 'retry', 'x') from noshi.job;
        select noshi.cancel_batch(id, 'wrong file') from noshi.batch",
    )
    .await
    .expect("a cancelled batch");
    let job: (String, Option<String>) =
        sqlx::query_as("select status::text, requested_act from noshi.job").fetch_one(pool).await.expect("its job");
    assert_eq!(job, ("cancelled".to_owned(), None));
    for (sql, said) in [
        ("select noshi.ask(id, step, 'retry', 'x') from noshi.job", "which was cancelled"),
        ("select noshi.rerun_batch(id, 'x') from noshi.batch", "was cancelled"),
        ("select noshi.cancel_batch(id, ' ') from noshi.batch", "needs a reason"),
        ("select noshi.set_retention('100000000 days', '100000000 days', '1 hour', 'typo')", "100 years"),
    ] {
        assert!(refused(pool, sql).await.contains(said), "{sql}");
    }
}

/// A span that compares as long and reckons as short, or the other way round: PostgreSQL takes a month for thirty days in the one, and for the
/// calendar's in the other.
#[tokio::test(flavor = "multi_thread")]
async fn no_span_of_parts_that_cancel_out_passes_a_limit() {
    let db = database().await;
    let pool = &db.pool;
    pool.execute(
        "select noshi.enqueue('probe', 'p', '{\"id\": \"p\"}');
        update noshi.job set status = 'completed', at = 'over', outcome = 'last', finished_at = clock_timestamp()",
    )
    .await
    .expect("a job that just ended");
    let day = "interval '-1200 months 36001 days'";
    let quarter = "interval '-1200 months 36090 days'";
    for (sql, said) in [
        (format!("select noshi.set_retention({day}, {quarter}, null, 'housekeeping')"), "kept for a day at least"),
        (format!("select noshi.set_retention({day}, null, null, 'housekeeping')"), "kept for a day at least"),
        (format!("select noshi.set_retention(null, {quarter}, null, 'housekeeping')"), "archived jobs for 90 days"),
        ("select noshi.set_retention(null, null, '1200 months -36499 days', 'now')".to_owned(), "a negative part"),
        ("select noshi.set_retention(null, '3 months', null, 'February is short')".to_owned(), "archived jobs for 90 days"),
        (format!("select * from noshi.prune(100, {day})"), "not pruned"),
        ("select * from noshi.prune(100, '2 days -47 hours')".to_owned(), "not pruned"),
        (
            "select noshi.create_token('abcdefghij01', sha256('x'), 'reader_system', '{read}', '90000 months -2699600 days', 10)".to_owned(),
            "a token lasts from a minute to 400 days",
        ),
        (
            "insert into noshi.batch_cap (kind, currency, approval_lasts) values ('grants', 'JPY', '90000 months -2699600 days')".to_owned(),
            "approval_lasts",
        ),
        (
            "insert into noshi.lane (name) values ('l'); insert into noshi.lane_budget (lane, per, calls) values ('l', '-12 months 361 days', 1)".to_owned(),
            "budgets_are_sane",
        ),
    ] {
        let error = pool.execute(sqlx::AssertSqlSafe(sql.clone())).await.expect_err(&sql).to_string();
        assert!(error.contains(said), "{sql}: {error}");
    }
    let left: i64 = sqlx::query_scalar("select count(*) from noshi.job").fetch_one(pool).await.expect("a count");
    assert_eq!(left, 1);
    // Months are no fault where they are long enough.
    pool.execute("select noshi.set_retention('4 months', '2 years', '1 hour', 'plain words')").await.expect("set");
    // Each function that takes a span from a person has it judged by the one judge; each table that keeps one has it there, too.
    let unjudged: Vec<String> = sqlx::query_scalar(
        "select p.oid::regprocedure::text from pg_proc p where p.pronamespace = 'noshi'::regnamespace and 'interval'::regtype = any (p.proargtypes::oid[])
            and (has_function_privilege('noshi_operator', p.oid, 'execute') or has_function_privilege('noshi_api', p.oid, 'execute')
                or has_function_privilege('noshi_producer', p.oid, 'execute'))
            and p.prosrc !~ 'lasts\\(' and p.proname <> 'set_lane'
        union all
        select c.relname || '.' || a.attname from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0
        where c.relnamespace = 'noshi'::regnamespace and c.relkind = 'r' and a.atttypid = 'interval'::regtype
            -- What noshi reckons itself, and what is a budget's own.
            and (c.relname, a.attname) not in (('job', 'waited'), ('redrive', 'lasts'), ('server_seen', 'back_by'), ('metric_snapshot_taken', 'took'), ('lane_limit', 'per'))
            and not exists (select from pg_constraint k where k.conrelid = c.oid and k.contype = 'c' and a.attnum = any (k.conkey)
                and pg_get_constraintdef(k.oid) ~ 'lasts\\(|date_part\\(''month''')",
    )
    .fetch_all(pool)
    .await
    .expect("functions and columns");
    assert!(unjudged.is_empty(), "{unjudged:?}");
}

/// One person shortens how long the archive is kept, and everybody has a week to see it: what it removes is gone for ever.
#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_is_kept_for_less_has_a_week_more() {
    let db = database().await;
    let pool = &db.pool;
    let archived = "select noshi.enqueue('probe', 'p', '{\"id\": \"p\"}');
        update noshi.job set status = 'completed', at = 'over', outcome = 'last', finished_at = clock_timestamp() - interval '100 days';
        select * from noshi.prune(100); alter table noshi.archived_job disable trigger append_only;
        update noshi.archived_job set pruned_at = clock_timestamp() - interval '91 days'; alter table noshi.archived_job enable trigger append_only";
    pool.execute(archived).await.expect("an archived job");
    let pruned = async || {
        pool.execute("select * from noshi.prune(100)").await.expect("pruned");
        let kept: i64 =
            sqlx::query_scalar("select count(*) from noshi.archived_job").fetch_one(pool).await.expect("a count");
        kept == 0
    };
    pool.execute("select noshi.set_retention(null, '90 days', null, 'space')").await.expect("shortened");
    assert!(!pruned().await, "at once");
    // In two steps it is no faster, and set back it was nothing.
    pool.execute("select noshi.set_retention(null, '91 days', null, 'space'), noshi.set_retention(null, '90 days', null, 'space')")
        .await
        .expect("shortened again");
    assert!(!pruned().await, "in two steps");
    let told = db::operator::doctor::changed_retention(pool).await.expect("changes");
    assert!(told[0].contains("archived jobs for 90 days") && told[0].contains("nothing is removed"), "{told:?}");
    refused(pool, "delete from noshi.archived_job").await;
    pool.execute("update noshi.retention set shortened_at = shortened_at - interval '7 days'").await.expect("a week");
    assert!(pruned().await, "after a week");
}

/// Columns that nobody limits, and why that is no matter: a worker writes them, or a function of ours that looks at each first.
const UNBOUNDED: &str = "
    -- Requests are looked at one by one where they come in: ids of 200 bytes, arguments of 64 KiB.
    job.% batch_row.% job_event.% archived_job.% tombstone.%
    -- Whoever acts is a login, which has 63 bytes, or a token's owner, who has 200.
    %.who %.%_by audit.login worker.login
    -- A worker's, which answers to nobody by these, or a partner's through it.
    email_quota.% failover.% gift_outcome.% gift_past.% gift_trade.% lane.% lane_budget.% lane_limit.% lane_order.% lost_call.%
    metric_snapshot.% probe_note.% probe_tally.% store.% testimony.% worker.% server_seen.% point_%.% benefit_exercise.% person.% turn.% zone.%
    -- Of a job or a batch that is there, in the words of a function.
    alone.% proposal.at proposal.key proposal.kind proposal.target proposal.currency reading.subject reading.scope reading.left_why
    audit_link.% audit_head.% word_act.%";

/// No text that one person writes is so long that the lists of all the others wait for it.
#[tokio::test(flavor = "multi_thread")]
async fn no_text_of_a_person_is_without_a_limit() {
    let db = database().await;
    let pool = &db.pool;
    let excused: Vec<&str> =
        UNBOUNDED.lines().filter(|line| !line.trim().starts_with("--")).flat_map(str::split_whitespace).collect();
    const LIMITED: &str = "octet_length|= ANY|cardinality|\\{1?0?,?[0-9]+\\}";
    let unlimited: Vec<String> = sqlx::query_scalar(
        "select c.relname || '.' || a.attname from pg_class c join pg_namespace n on n.oid = c.relnamespace
            join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
        where c.relkind = 'r' and n.nspname in ('noshi', 'noshi_sealed')
            and a.atttypid in ('text'::regtype, 'jsonb'::regtype, 'bytea'::regtype, 'text[]'::regtype, 'name'::regtype)
            and c.relname || '.' || a.attname not like all (select replace(x, '_', '\\_') from unnest($1::text[]) x)
            and not exists (select from pg_constraint k where k.conrelid = c.oid and a.attnum = any (k.conkey)
                and (k.contype = 'f' or (k.contype = 'c' and pg_get_constraintdef(k.oid) ~ $2)))
        order by 1",
    )
    .bind(&excused)
    .bind(LIMITED)
    .fetch_all(pool)
    .await
    .expect("columns");
    assert!(unlimited.is_empty(), "{unlimited:?}");
    let long = "repeat('x', 6000000)";
    pool.execute("select noshi.enqueue('probe', 'p', '{\"id\": \"p\"}'); update noshi.job set status = 'needs_operator', at = 'stepping', code = 'c'")
        .await
        .expect("a parked job");
    for (sql, said) in [
        (format!("select noshi.set_schedule('s', 'probe', 's/{{due}}', '{{\"id\": \"s/{{due}}\"}}', 1::smallint, '0 0 1 1 *', {long}, 'none', now() + interval '1 day', 'r')"), "is no time zone"),
        (format!("select noshi.set_schedule('s', 'probe', 's/{{due}}', jsonb_build_object('id', 's/{{due}}', 'x', {long}), 1::smallint, '0 0 1 1 *', 'UTC', 'none', now() + interval '1 day', 'r')"), "larger than 64 KiB"),
        (format!("select noshi.plan_redrive(jsonb_build_object('x', {long}), array[id], array[step], array['retry'], array[null], array['']) from noshi.job"), "a filter has kind"),
        (format!("select noshi.plan_redrive(jsonb_build_object('kind', {long}), array[id], array[step], array['retry'], array[null], array['']) from noshi.job"), "a filter has kind"),
        (format!("select noshi.plan_redrive('{{}}', array[id], array[step], array['retry'], array[null], array[{long}]) from noshi.job"), "a refusal has at most 2000 bytes"),
        (format!("select noshi.plan_redrive('{{}}', array[id], array[step], array[null], array[{long}], array['']) from noshi.job"), "a refusal has at most 2000 bytes"),
        ("select noshi.create_token('abcdefghij01', sha256('x'), 'system', array_fill('read'::text, array[100000]), '1 day', 10)".to_owned(), "each scope once"),
        (format!("select noshi.receive_batch('stores', 'per_row', sha256('x'), 'f', 'utf-8', null, false, false); select noshi.pause_batch(id, {long}, 'r') from noshi.batch"), "a code is a lower-case name"),
        // One line of a person looks like a line of nobody else.
        ("select noshi.propose('restore_mark', null, null, now(), E'drill of today\\n  from 2026-11-30 until 2026-12-01\\n  digest aaaa')".to_owned(), "a reason is one line"),
        ("select noshi.pause_lane('', E'paid\\u202e')".to_owned(), "a reason is one line"),
        ("select noshi.pause_lane('', E'a\\u2028b')".to_owned(), "a reason is one line"),
    ] {
        let error = pool.execute(sqlx::AssertSqlSafe(sql.clone())).await.expect_err(&sql).to_string();
        assert!(error.contains(said), "{sql}: {}", error.chars().take(500).collect::<String>());
    }
}
