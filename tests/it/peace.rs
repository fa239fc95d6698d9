//! One caller cannot stop the others: neither by odd values, nor by jobs, locks or requests.

use std::time::Duration;

use secrecy::ExposeSecret;
use serde_json::json;
use sqlx::{AssertSqlSafe, Executor};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    api::Api,
    engine::{pace, probe, start},
    processes::until,
    support::{TestDatabase, database, turn},
};
use noshi::db::{self, PgPool, operator::tokens};

/// A session of a login of its own, which is in this role.
pub async fn login(db: &TestDatabase, name: &str, role: &str) -> PgPool {
    let login = format!("{name}_{}", db.name);
    let made = format!("create role {login} login in role {role}");
    db.pool.execute(AssertSqlSafe(made)).await.expect("a login");
    PgPool::plain(&db.url.replacen("//postgres@", &format!("//{login}@"), 1), 2).expect("its session")
}

async fn status(pool: &PgPool, job: i64) -> String {
    sqlx::query_scalar("select status::text from noshi.job where id = $1")
        .bind(job)
        .fetch_one(pool)
        .await
        .expect("a job")
}

/// Every call of a function that the role may execute, with one odd value in it; all else is plain.
const ODD_CALLS: &str = "
with odd(type, value) as (values
    ('timestamp with time zone', 'infinity'), ('timestamp with time zone', '-infinity'), ('timestamp with time zone', '4714-11-24 00:00:00+00 BC'),
    ('timestamp with time zone', '294276-12-31 00:00:00+00'), ('timestamp with time zone', '0001-01-01 00:00:00+00'), ('timestamp with time zone', '9999-12-31 00:00:00+00'),
    ('interval', '178000000 years'), ('interval', '-178000000 years'), ('interval', '0'), ('interval', '-1 hour'),
    ('double precision', 'infinity'), ('double precision', '-infinity'), ('double precision', 'NaN'), ('double precision', '-1e308'),
    ('numeric', 'NaN'), ('numeric', 'infinity'), ('bigint', '9223372036854775807'), ('bigint', '-9223372036854775808'), ('bigint', '0'),
    ('integer', '2147483647'), ('integer', '-2147483648'), ('integer', '0'), ('smallint', '32767'), ('smallint', '-1')),
plain(type, value) as (values
    ('timestamp with time zone', 'now'), ('interval', '1 hour'), ('double precision', '0'), ('numeric', '1'), ('bigint', '1'), ('integer', '1'),
    ('smallint', '1'), ('text', 'x'), ('bytea', 'x'), ('jsonb', '{}'), ('boolean', 'true'), ('text[]', '{x}'), ('bigint[]', '{1}'), ('integer[]', '{1}'),
    ('jsonb[]', '{}'), ('timestamp with time zone[]', '{now}'), ('boolean[]', '{true}'), ('interval[]', '{1 hour}')),
f as (select p.oid, p.proname from pg_proc p where p.pronamespace = 'noshi'::regnamespace and p.prokind = 'f'
    and p.prorettype <> 'trigger'::regtype and has_function_privilege(current_user, p.oid, 'execute')),
a as (select f.oid, f.proname, t.n, format_type(t.type, null) as type from f join pg_proc p using (oid) cross join unnest(p.proargtypes) with ordinality t(type, n))
select format('select noshi.%I(%s)', a.proname, (select string_agg(format('%L::%s',
    case when b.n = a.n then odd.value else plain.value end, b.type), ', ' order by b.n) from a b left join plain on plain.type = b.type where b.oid = a.oid))
from a join odd on odd.type = a.type
where not exists (select from a b left join plain on plain.type = b.type where b.oid = a.oid and plain.value is null)
order by 1";

/// Whatever times, durations and numbers somebody calls with: workers claim, and no command ends in a panic.
#[tokio::test(flavor = "multi_thread")]
async fn no_odd_value_stops_the_fleet() {
    let db = database().await;
    let pool = &db.pool;
    db::queue::lanes::declare(pool, "probe", &[]).await.expect("a lane");
    let worker = start(&db, pace()).await;
    db::queue::lanes::pause(pool, "probe", Some("a drill")).await.expect("paused");
    let waits = probe(pool, json!({"id": "waits", "steps": 2, "lane": "probe"})).await;
    let in_lane = "select lane = 'probe' and writes from noshi.job where key = 'waits'";
    until("a write that waits", Duration::from_secs(10), async || {
        sqlx::query_scalar(in_lane).fetch_one(pool).await.expect("its lane")
    })
    .await;
    let mut calls = 0;
    for role in ["operator", "producer", "webhook", "reader", "worker"] {
        let session = login(&db, role, &format!("noshi_{role}")).await;
        let odd: Vec<String> = sqlx::query_scalar(ODD_CALLS).fetch_all(&session).await.expect("calls");
        calls += odd.len();
        for call in odd {
            // Refused or taken: what matters is what comes of it.
            let _ = session.execute(AssertSqlSafe(format!("set statement_timeout = '2s'; {call}"))).await;
        }
    }
    assert!(calls > 100, "{calls} calls");
    db::queue::lanes::resume(pool, "probe", Some("over")).await.expect("resumed");
    let fresh = probe(pool, json!({"id": "fresh", "steps": 2, "lane": "probe"})).await;
    until("both jobs done", Duration::from_secs(15), async || {
        status(pool, waits).await == "completed" && status(pool, fresh).await == "completed"
    })
    .await;
    worker.stop().await;
    for arguments in
        [vec!["doctor"], vec!["restore", "show"], vec!["job", "show", "probe", "waits"], vec!["lane", "list"]]
    {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_noshi"));
        let said = command.args(&arguments).env("DATABASE_URL", &db.url).output().await.expect("a command");
        let error = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(
            said.status.code().is_some_and(|code| code != 101) && !error.contains("panicked"),
            "{arguments:?}: {error}"
        );
    }
}

/// What a mark of a restore may be, and that no column holds a time that nobody can mean.
#[tokio::test(flavor = "multi_thread")]
async fn every_time_is_finite_and_can_be_meant() {
    let db = database().await;
    let pool = &db.pool;
    for (to, said) in [
        ("'-infinity'", "lies in the past"),
        ("'infinity'", "lies in the past"),
        ("null", "lies in the past"),
        ("clock_timestamp() + interval '1 second'", "lies in the past"),
        ("'4714-11-24 00:00:00+00 BC'", "was installed here"),
        ("'2020-01-01'", "was installed here"),
    ] {
        let mark = format!("select noshi.propose('restore_mark', null, null, {to}, 'x')");
        let error = pool.execute(AssertSqlSafe(mark)).await.expect_err(to).to_string();
        assert!(error.contains(said), "{to}: {error}");
    }
    pool.execute("select noshi.propose('restore_mark', null, null, clock_timestamp(), 'x')").await.expect("a mark");
    const UNGUARDED: &str = "select coalesce(string_agg(a.attrelid::regclass || '.' || a.attname, ', '), '') from pg_attribute a join pg_class c on c.oid = a.attrelid
        where c.relnamespace in ('noshi'::regnamespace, 'noshi_sealed'::regnamespace) and c.relkind in ('r', 'p') and a.atttypid = 'timestamptz'::regtype
          and not a.attisdropped and not exists (select from pg_constraint k where k.conrelid = a.attrelid and k.contype = 'c' and a.attnum = any (k.conkey)
            and pg_get_constraintdef(k.oid) like '%9999-12-31%')";
    let unguarded: String = sqlx::query_scalar(UNGUARDED).fetch_one(pool).await.expect("the columns");
    assert_eq!(unguarded, "", "a column with a time needs a constraint like `times_are_sane`");
    for (sql, is_taken) in [
        ("update noshi.server_seen set restored_to = '-infinity'", false),
        ("update noshi.lane set closed_until = 'infinity' where name = ''", false),
        ("update noshi.server_seen set restored_to = '294276-01-01'", false),
        ("update noshi.server_seen set restored_to = '1999-01-01'", true),
    ] {
        assert_eq!(pool.execute(sql).await.is_ok(), is_taken, "{sql}");
    }
}

/// What a statement is refused with: its code and its message.
async fn refusal(pool: &PgPool, sql: &str) -> (String, String) {
    let error = pool.execute(AssertSqlSafe(sql.to_owned())).await.expect_err(sql);
    let error = error.as_database_error().expect("an answer").to_owned();
    (error.code().unwrap_or_default().into_owned(), error.message().to_owned())
}

/// Probes wait where they are told: so nobody but the owner asks for them, in no lane but their own.
#[tokio::test(flavor = "multi_thread")]
async fn probes_are_the_owners_and_keep_to_their_lanes() {
    let db = database().await;
    let ask = |lane: &str| {
        format!("select noshi.enqueue('probe', 'p', '{{\"id\": \"p\", \"steps\": 2, \"lane\": \"{lane}\"}}')")
    };
    let schedule = |lane: &str| {
        format!("select noshi.set_schedule('s', 'probe', 's/{{due}}', '{{\"id\": \"s/{{due}}\", \"steps\": 2, \"lane\": \"{lane}\"}}', 1::smallint,
            '0 0 * * *', 'UTC', 'every', clock_timestamp() + interval '1 day', 'r')")
    };
    let (shop, sato) = (login(&db, "shop", "noshi_producer").await, login(&db, "sato", "noshi_operator").await);
    let both = login(&db, "both", "noshi_producer, noshi_operator").await;
    for pool in [&shop, &both] {
        assert_eq!(refusal(pool, &ask("probe")).await.0, "NS403");
    }
    assert_eq!(refusal(&sato, &schedule("probe")).await.0, "NS403");
    let (code, said) = refusal(&db.pool, &schedule("gift/amazon_incentives")).await;
    assert!(code == "NS400" && said.contains("begins with probe/"), "{said}");
    db.pool.execute(AssertSqlSafe(schedule("probe/a"))).await.expect("the owner's schedule");
    sato.execute("select noshi.trigger_schedule('s', 'now')").await.expect("an operator triggers what the owner set");
    // A worker inserts follow-ups by itself.
    let worker = login(&db, "worker", "noshi_worker").await;
    let (code, said) = refusal(
        &worker,
        "insert into noshi.job (kind, key, fingerprint, args) values ('probe', 'w', '', '{\"lane\": \"gift/x\"}')",
    )
    .await;
    assert!(code == "NS400" && said.contains("begins with probe/"), "{said}");
    db.pool.execute(AssertSqlSafe(ask("gift/x"))).await.expect("the owner measures");
}

/// Lanes that jobs name and nobody declared are forgotten: while they wait, and once they are gone, they cost next to nothing.
#[tokio::test(flavor = "multi_thread")]
async fn lanes_that_nobody_declared_are_forgotten() {
    let db = database().await;
    let pool = &db.pool;
    let worker = start(&db, pace()).await;
    let commits = async || {
        let count = "select xact_commit from pg_stat_database where datname = current_database()";
        let flush = "select pg_stat_force_next_flush()";
        pool.execute(flush).await.expect("flushed");
        sqlx::query_scalar::<_, i64>(count).fetch_one(pool).await.expect("a count")
    };
    let in_a_while = async || {
        let before = commits().await;
        tokio::time::sleep(Duration::from_secs(4)).await;
        commits().await - before
    };
    tokio::time::sleep(Duration::from_secs(1)).await;
    let quiet = in_a_while().await;
    pool.execute("select noshi.enqueue('probe', 'p' || n, jsonb_build_object('id', 'p' || n, 'steps', 2, 'lane', 'probe/' || n)) from generate_series(1, 300) n")
        .await
        .expect("300 lanes");
    until("all of them wait in their lanes", Duration::from_secs(20), async || {
        let waiting = "select count(*) from noshi.job where lane like 'probe/%'";
        sqlx::query_scalar::<_, i64>(waiting).fetch_one(pool).await.expect("a count") == 300
    })
    .await;
    pool.execute("update noshi.job set status = 'cancelled', lane = '', finished_at = clock_timestamp()")
        .await
        .expect("their end");
    // Sessions tell of their statements some seconds late.
    let mut after = i64::MAX;
    for _ in 0..6 {
        after = in_a_while().await;
        if after < quiet * 2 {
            break;
        }
    }
    worker.stop().await;
    assert!(after < quiet * 2, "{after} commits in four seconds; {quiet} before there were 300 lanes");
}

/// What a batch will ask for cannot be taken from it, and nobody but noshi writes mails.
#[tokio::test(flavor = "multi_thread")]
async fn ids_that_noshi_makes_are_its_own() {
    let db = database().await;
    let pool = &db.pool;
    let shop = login(&db, "shop", "noshi_producer").await;
    let gift = |id: &str, amount: u32| {
        format!(
            "select noshi.enqueue('gift_issuance', '{id}', '{{\"grant\": \"{id}\", \"user\": \"u\", \"category\": \"c\", \"value\": {{\"amount\": {amount}, \"currency\": \"JPY\"}}}}')"
        )
    };
    pool.execute(
        "select noshi.receive_batch('grants', 'all_or_nothing', sha256('x'), 'f', 'utf-8', null, false, true);
        insert into noshi.batch_row (batch, row_no, line, key, args) select b.id, 1, 2, 'victim', '{\"grant\": \"victim\", \"user\": \"u\", \"category\": \"c\", \"value\": {\"amount\": 500, \"currency\": \"JPY\"}}' from noshi.batch b;
        select noshi.validate_batch(id, 1) from noshi.batch",
    )
    .await
    .expect("a validated batch");
    for amount in [500, 700] {
        let (code, said) = refusal(&shop, &gift("victim", amount)).await;
        assert!(code == "NS400" && said.contains("stands in batch 1"), "{said}");
    }
    pool.execute("select noshi.release_batch(1); select noshi.register_batch(1)").await.expect("granted");
    let (code, said) = refusal(&shop, &gift("victim", 700)).await;
    assert!(code == "NS409" && said.contains("batch 1 granted it"), "{said}");
    shop.execute(AssertSqlSafe(gift("own", 500))).await.expect("an id of their own");
    for (key, recipient, category) in [
        ("gift_granted:1:victim", "1/1", "c"),
        ("gift_granted:1:own", "1/1", "c"),
        ("x", "own", "c"),
        ("gift_granted:1:own", "own", "https://evil.example/login"),
    ] {
        let mail = format!(
            "select noshi.enqueue('email', '{key}', '{{\"template\": \"gift_granted\", \"reference\": \"own\", \"recipient\": \"{recipient}\", \"params\": {{\"category\": \"{category}\"}}}}')"
        );
        let (code, said) = refusal(&shop, &mail).await;
        assert!(code == "NS400" && said.contains("is made by the batch"), "{key}: {said}");
    }
}

/// Every lock that any login can take by number is taken, and none of it holds an act up.
#[tokio::test(flavor = "multi_thread")]
async fn no_lock_of_a_reader_holds_an_act_up() {
    let db = database().await;
    let pool = &db.pool;
    let bi = login(&db, "bi", "noshi_reader").await;
    let mut holder = bi.acquire().await.expect("a session");
    for lock in [
        "select pg_advisory_lock(hashtext('noshi.register_batch'))",
        "select pg_advisory_lock(hashtext('noshi.prune'))",
        "select pg_advisory_lock(hashtextextended('noshi.apply_redrive postgres', 0))",
        "select pg_advisory_lock(hashtextextended('store/P', 0))",
    ] {
        holder.execute(lock).await.expect("anybody may take it");
    }
    for lock in [
        "select from noshi.turn for update",
        "do $$ begin lock table noshi.turn; end $$",
        "do $$ begin lock table noshi.audit_head; end $$",
    ] {
        assert_eq!(refusal(&bi, lock).await.0, "42501", "{lock}");
    }
    let soon = "set lock_timeout = '2s'; select noshi.register_batch(1)";
    assert_eq!(refusal(pool, soon).await.0, "NS404", "it comes as far as to see that there is no such batch");
    let looked: i64 =
        sqlx::query_scalar("select count(*) from noshi.prune(10)").fetch_one(pool).await.expect("a prune");
    assert_eq!(looked, 1);
    pool.execute("set lock_timeout = '2s'; select noshi.take_store_turn('P')").await.expect("a store's turn");
    let sql = "select noshi.apply_redrive(1, 'x', null, 1, 1, 1)";
    assert_eq!(refusal(pool, &format!("set lock_timeout = '2s'; {sql}")).await.0, "NS404");
    // The other way round: no statement of ours takes such a lock.
    let bodies = "select coalesce(string_agg(proname, ', '), '') from pg_proc where pronamespace = 'noshi'::regnamespace and prosrc ~* 'advisory'";
    let with: String = sqlx::query_scalar(bodies).fetch_one(pool).await.expect("the functions");
    assert_eq!(with, "");
}

/// A transaction that acts and sleeps holds the head of the chain: others act, and are linked when it is over.
#[tokio::test(flavor = "multi_thread")]
async fn who_acts_and_sleeps_holds_up_nobodys_act() {
    let db = database().await;
    let pool = &db.pool;
    for lane in ["a", "b"] {
        db::queue::lanes::declare(pool, lane, &[]).await.expect("a lane");
    }
    let (sato, suzuki) = (login(&db, "sato", "noshi_operator").await, login(&db, "suzuki", "noshi_operator").await);
    let mut sleeper = sato.begin().await.expect("a transaction");
    let hold = "select noshi.pause_lane('a', 'x'); set local idle_in_transaction_session_timeout = 0; set constraints all immediate";
    sleeper.execute(hold).await.expect("the head is held");
    let began = std::time::Instant::now();
    suzuki.execute("begin; select noshi.pause_lane('b', 'now'); select noshi.resume_lane('b', 'x'); select noshi.pause_lane('b', 'y'); commit").await.expect("an act");
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    assert_eq!(db::operator::audit::unlinked(&suzuki).await.expect("a count"), 3);
    let (head, faults) = db::operator::audit::verify(&suzuki, None).await.expect("an answer");
    assert!(faults.is_empty() && head.seq == 0, "{faults:?}");
    sleeper.commit().await.expect("over");
    assert_eq!(db::operator::audit::unlinked(&suzuki).await.expect("a count"), 0);
    let (head, faults) = db::operator::audit::verify(&suzuki, None).await.expect("an answer");
    assert!(faults.is_empty() && head.seq == 4, "{head:?} {faults:?}");
    // The next act links what waits, too.
    let mut sleeper = sato.begin().await.expect("a transaction");
    sleeper.execute(hold).await.expect("the head is held");
    suzuki.execute("select noshi.resume_lane('b', 'z')").await.expect("an act");
    sleeper.rollback().await.expect("over");
    suzuki.execute("select noshi.pause_lane('b', 'z')").await.expect("an act");
    let waiting: i64 =
        sqlx::query_scalar("select count(*) from noshi.audit_unlinked").fetch_one(pool).await.expect("a count");
    let (head, faults) = db::operator::audit::verify(&suzuki, None).await.expect("an answer");
    assert!(waiting == 0 && faults.is_empty() && head.seq == 6, "{waiting} {head:?} {faults:?}");
}

/// What is answered to these bytes.
async fn answered(address: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    stream.write_all(request.as_bytes()).await.expect("a request");
    let mut answer = vec![];
    let read = stream.read_to_end(&mut answer);
    tokio::time::timeout(Duration::from_secs(15), read).await.expect("an answer in time").expect("an answer");
    String::from_utf8_lossy(&answer).into_owned()
}

/// A head that others may read otherwise than we is refused: bare line feeds, no host, two hosts.
#[tokio::test(flavor = "multi_thread")]
async fn heads_that_can_be_read_in_two_ways_are_refused() {
    let _turn = turn().await;
    let api = Api::open().await;
    for (request, status) in [
        ("GET /openapi.json HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "200"),
        ("GET /openapi.json HTTP/1.0\r\n\r\n", "200"),
        ("GET /openapi.json HTTP/1.1\nHost: x\nConnection: close\n\n", "400"),
        ("GET /openapi.json HTTP/1.1\r\nHost: x\nConnection: close\r\n\r\n", "400"),
        ("GET /openapi.json HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\n", "400"),
        ("GET /openapi.json HTTP/1.1\r\nConnection: close\r\n\r\n", "400"),
        ("GET /openapi.json HTTP/1.1\r\nHost: x\r\nHost: y\r\nConnection: close\r\n\r\n", "400"),
        ("GET /openapi.json HTTP/1.0\r\nHost: x\r\nHost: y\r\n\r\n", "400"),
        // Behind a good one, on the same connection.
        (
            "POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n\n\n\nGET /openapi.json HTTP/1.1\nHost: x\n\n",
            "400",
        ),
    ] {
        let answer = answered(&api.address, request).await;
        let last = answer.rsplit("HTTP/1.").next().unwrap_or_default();
        assert_eq!(last.get(2..5), Some(status), "{request:?}: {answer}");
    }
}

/// Callers with tokens that nobody made take no room of those with good ones.
#[tokio::test(flavor = "multi_thread")]
async fn strangers_take_nobodys_room() {
    let _turn = turn().await;
    let api = std::sync::Arc::new(Api::open().await);
    let good = api.token("shop", &["read"]).await;
    assert_eq!(api.get("/v1/jobs", &good).await.0, 200);
    let mut strangers = tokio::task::JoinSet::new();
    for n in 0..160 {
        let address = api.address.clone();
        strangers.spawn(async move {
            let mut stream = TcpStream::connect(&address).await.expect("a connection");
            let same = tokens::generate();
            loop {
                // Half of them show a new one each time.
                let token = if n % 2 == 0 { tokens::generate() } else { same.clone() };
                let ask = format!(
                    "GET /v1/jobs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\r\n",
                    token.expose_secret()
                );
                let mut head = [0; 2048];
                if stream.write_all(ask.as_bytes()).await.is_err()
                    || stream.read(&mut head).await.is_ok_and(|read| read == 0)
                {
                    stream = TcpStream::connect(&address).await.expect("a connection");
                }
            }
        });
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut refused = vec![];
    for _ in 0..28 {
        let (status, said) = api.get("/v1/jobs", &good).await;
        if status != 200 {
            refused.push(said);
        }
    }
    // A good one that was never shown here has to wait for its turn, and gets it.
    let new = api.token("other", &["read"]).await;
    let first = api.get("/v1/jobs", &new).await.0;
    strangers.shutdown().await;
    assert!(refused.is_empty(), "{} of 28: {refused:?}", refused.len());
    assert_eq!(first, 200);
}

/// No dump of a process holds what it had in memory, and nobody else of its user looks into it.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn processes_leave_no_dumps() {
    use std::os::unix::{fs::MetadataExt, process::CommandExt};
    // As root it becomes somebody else, so that it shows who may look.
    let is_root = std::fs::metadata("/proc/self").expect("ourselves").uid() == 0;
    let folder = tempfile::tempdir().expect("a folder");
    let program = folder.path().join("noshi");
    // By another process: a child that another test starts meanwhile would hold our own copy open for writing.
    let copied = std::process::Command::new("cp").arg(env!("CARGO_BIN_EXE_noshi")).arg(&program).status();
    assert!(copied.expect("cp").success(), "a program that everybody may run");
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .expect("an open folder");
    let mut command = std::process::Command::new(&program);
    command
        .args(["worker", "run"])
        .env("DATABASE_URL", "postgres://nobody@127.0.0.1:1/none")
        .stderr(std::process::Stdio::null());
    if is_root {
        command.uid(65_534);
    }
    let mut process = command.spawn().expect("a process");
    let of = |what: &str| format!("/proc/{}/{what}", process.id());
    let mut core = String::new();
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let limits = std::fs::read_to_string(of("limits")).unwrap_or_default();
        core = limits.lines().find(|line| line.starts_with("Max core")).unwrap_or_default().to_owned();
        if core.split_whitespace().filter(|word| *word == "0").count() == 2 {
            break;
        }
    }
    let owner = std::fs::metadata(of("environ")).map(|file| file.uid());
    let _ = process.kill();
    let _ = process.wait();
    assert_eq!(core.split_whitespace().filter(|word| *word == "0").count(), 2, "{core}");
    assert_eq!(owner.ok(), Some(0), "only root looks into it");
}

/// Each function of the role that takes a reason, called with everything else plain.
const ACTS: &str = "
with plain(type, value) as (values ('text', 'x'), ('timestamp with time zone', 'now'), ('interval', '1 day'), ('bytea', 'x'), ('jsonb', '{}'),
    ('bigint', '1'), ('integer', '1'), ('smallint', '1'))
select p.proname::text, format('select noshi.%I(%s)', p.proname, (select string_agg(case when p.proargnames[t.n] = 'p_reason' then 'REASON'
        else format('%L::%s', plain.value, format_type(t.type, null)) end, ', ' order by t.n)
    from unnest(p.proargtypes) with ordinality t(type, n) left join plain on plain.type = format_type(t.type, null)))
from pg_proc p where p.pronamespace = 'noshi'::regnamespace and 'p_reason' = any (p.proargnames) and has_function_privilege(current_user, p.oid, 'execute')
order by 1";

/// Whoever acts says why, by SQL as well; and nobody takes another's token away.
#[tokio::test(flavor = "multi_thread")]
async fn every_act_says_why_and_tokens_are_their_owners() {
    let db = database().await;
    let pool = &db.pool;
    db::queue::lanes::declare(pool, "probe", &[]).await.expect("a lane");
    let (sato, suzuki) = (login(&db, "sato", "noshi_operator").await, login(&db, "suzuki", "noshi_operator").await);
    let calls: Vec<(String, String)> = sqlx::query_as(ACTS).fetch_all(&sato).await.expect("the acts");
    assert!(calls.len() > 20, "{calls:?}");
    for (_, call) in &calls {
        for reason in ["null", "''", "' '", "E'\\t\\n'"] {
            let call = call.replace("REASON", reason);
            assert!(sato.execute(AssertSqlSafe(call.clone())).await.is_err(), "{call}");
        }
    }
    for act in [
        "pause_lane('probe', null)",
        "resume_lane('probe', ' ')",
        "set_lane('probe', interval '1 s', null, '')",
        "propose('restore_mark', null, null, clock_timestamp(), null)",
        "propose('restore_end', null, null, null, null)",
        "revoke_token('aaaaaaaaaaaa', null)",
    ] {
        let (code, said) = refusal(&sato, &format!("select noshi.{act}")).await;
        assert!(code == "NS400" && said.contains("needs a reason"), "{act}: {said}");
    }
    let acts: i64 = sqlx::query_scalar("select count(*) from noshi.audit").fetch_one(pool).await.expect("a count");
    assert_eq!(acts, 0);
    let sato_is: String = sqlx::query_scalar("select session_user::text").fetch_one(&sato).await.expect("a name");
    let made = format!(
        "select noshi.create_token('aaaaaaaaaaaa', sha256('x'), '{sato_is}', array['read'], interval '1 day', 1)"
    );
    sato.execute(AssertSqlSafe(made)).await.expect("a token");
    let (code, said) = refusal(&suzuki, "select noshi.revoke_token('aaaaaaaaaaaa', 'x')").await;
    assert!(code == "NS403" && said.contains(&sato_is), "{said}");
    sato.execute("select noshi.revoke_token('aaaaaaaaaaaa', 'lost')").await.expect("their own");
    assert_eq!(refusal(&suzuki, "select noshi.revoke_token('bbbbbbbbbbbb', 'x')").await.0, "NS404");
}

/// What the program is made of is written down part by part, with the digests of `Cargo.lock`, and nothing that only tests use.
#[test]
fn the_list_of_parts_is_whole() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = std::process::Command::new("python3").args(["-c", "import tomllib"]).output();
    if !python.is_ok_and(|said| said.status.success()) {
        eprintln!("SKIPPED: there is no python3 of 3.11 or newer here");
        return;
    }
    let file = tempfile::NamedTempFile::new().expect("a file");
    let written = std::process::Command::new(root.join(".ci/sbom")).arg(file.path()).output().expect("the script");
    assert!(written.status.success(), "{}", String::from_utf8_lossy(&written.stderr));
    let list: serde_json::Value = serde_json::from_slice(&std::fs::read(file.path()).expect("a list")).expect("JSON");
    assert_eq!((&list["bomFormat"], &list["specVersion"]), (&json!("CycloneDX"), &json!("1.5")));
    assert_eq!(list["metadata"]["component"]["name"], "noshi");
    let lock: toml::Table = std::fs::read_to_string(root.join("Cargo.lock")).expect("a lock").parse().expect("TOML");
    let digest = |name: &str, version: &str| {
        let is = |it: &&toml::Value| it["name"].as_str() == Some(name) && it["version"].as_str() == Some(version);
        let package = lock["package"].as_array().expect("packages").iter().find(is).expect("a package of the lock");
        package.get("checksum").and_then(|it| it.as_str()).map(str::to_owned)
    };
    let parts = list["components"].as_array().expect("parts");
    let names: std::collections::BTreeSet<&str> = parts.iter().filter_map(|it| it["name"].as_str()).collect();
    assert!(["sqlx", "rustls", "noshi-jobs", "opentelemetry"].iter().all(|name| names.contains(name)), "{names:?}");
    assert!(!names.contains("proptest"), "tests alone use it");
    for part in parts {
        let (name, version) = (part["name"].as_str().expect("a name"), part["version"].as_str().expect("a version"));
        assert_eq!(part["hashes"][0]["content"].as_str(), digest(name, version).as_deref(), "{name}");
        assert!(part["licenses"].is_array(), "{name}");
    }
    let refs: std::collections::BTreeSet<&str> =
        list["dependencies"].as_array().expect("edges").iter().filter_map(|it| it["ref"].as_str()).collect();
    assert_eq!(refs.len(), parts.len() + 1);
}

/// The same over HTTP: neither a probe nor a mail is a producer's to ask for, and it is told so.
#[tokio::test(flavor = "multi_thread")]
async fn over_http_nobody_asks_for_probes_or_mails() {
    let _turn = turn().await;
    let api = Api::open().await;
    let token = api.token("shop", &["enqueue", "read", "operate"]).await;
    let probe = json!({"kind": "probe", "id": "p", "args": {"id": "p", "steps": 2, "lane": "gift/amazon_incentives"}});
    let (status, said) = api.post("/v1/jobs", &token, &probe).await;
    assert!(
        status == 403 && said["detail"].as_str().is_some_and(|it| it.contains("not for producers")),
        "{status} {said}"
    );
    let many = json!({"kind": "probe", "jobs": [{"id": "p", "args": {"id": "p", "steps": 2}}]});
    let (status, said) = api.post("/v1/jobs/many", &token, &many).await;
    assert_eq!(status, 403, "{said}");
    let args = json!({"template": "gift_granted", "reference": "g", "recipient": "1/1", "params": {"category": "c", "value": "1 JPY"}});
    let mail = json!({"kind": "email", "id": "gift_granted:1:g", "args": args});
    let (status, said) = api.post("/v1/jobs", &token, &mail).await;
    let told = said["detail"].as_str().is_some_and(|it| it.contains("is made by the batch"));
    assert!((400..500).contains(&status) && told, "{status} {said}");
    let jobs: i64 =
        sqlx::query_scalar("select count(*) from noshi.job").fetch_one(&api.fleet.pool).await.expect("a count");
    assert_eq!(jobs, 0);
}

/// The lock under which migrations are run is known by its number, which any login can reckon and take: whoever waits is told for whom.
#[tokio::test(flavor = "multi_thread")]
async fn a_migration_says_for_whom_it_waits() {
    let db = database().await;
    let bi = login(&db, "bi", "noshi_reader").await;
    let mut crc = u32::MAX;
    for byte in db.name.bytes() {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & 0_u32.wrapping_sub(crc & 1));
        }
    }
    let number = 0x3d32_ad9e_i64 * i64::from(!crc);
    let mut holder = bi.acquire().await.expect("a session");
    sqlx::query("select pg_advisory_lock($1)").bind(number).execute(&mut *holder).await.expect("anybody may take it");
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_noshi"));
    command
        .args(["migrate", "up"])
        .env("DATABASE_URL", &db.url)
        .stderr(std::process::Stdio::piped())
        .kill_on_drop(true);
    let mut process = command.spawn().expect("a migration");
    let mut said = String::new();
    let mut lines = tokio::io::BufReader::new(process.stderr.take().expect("its words"));
    let heard = async {
        while !said.contains("holds the lock of migrations") {
            assert!(tokio::io::AsyncBufReadExt::read_line(&mut lines, &mut said).await.expect("a line") > 0, "{said}");
        }
    };
    tokio::time::timeout(Duration::from_secs(30), heard).await.expect("a word in time");
    assert!(said.contains(&format!("bi_{} (process ", db.name)), "{said}");
    holder.detach().close().await.expect("over");
    let status =
        tokio::time::timeout(Duration::from_secs(60), process.wait()).await.expect("an end").expect("a status");
    assert!(status.success());
}

/// What people write is short: whoever lists it waits for nobody's novel.
#[tokio::test(flavor = "multi_thread")]
async fn what_people_write_is_short() {
    let db = database().await;
    let _ = crate::support::server().await.create_login("sato", "noshi_operator").await;
    let sato = PgPool::plain(&crate::support::server().await.url_as("sato", &db.name), 1).unwrap();
    let long = "repeat('r', 50000)";
    for (act, why) in [
        (format!("select noshi.pause_lane('', {long})"), "at most 4000 bytes"),
        (format!("select noshi.propose('restore_mark', null, null, clock_timestamp(), {long})"), "at most 4000 bytes"),
        (
            "select noshi.invalid_batch('grants', 'all_or_nothing', sha256('x'), 'x.csv', null, to_jsonb(repeat('r', 300000)))".to_owned(),
            "at most 100,000 bytes",
        ),
        (
            format!(
                "select noshi.set_schedule('s', 'probe', 's/{{due}}', '{{\"id\": \"s/{{due}}\"}}', 1::smallint, {long}, 'UTC', 'none', clock_timestamp() + interval '1 day', 'x')"
            ),
            "at most 200 bytes",
        ),
    ] {
        let said = sqlx::raw_sql(AssertSqlSafe(act.clone())).execute(&sato).await.expect_err(&act).to_string();
        assert!(said.contains(why), "{act}: {said}");
    }
}

/// Whatever a worker's login writes where it may write: the others' requests are taken, and workers claim.
#[tokio::test(flavor = "multi_thread")]
async fn no_value_of_a_workers_login_stops_a_request_or_a_claim() {
    let db = database().await;
    let pool = &db.pool;
    let budget = db::queue::lanes::Budget { per: Duration::from_secs(1), calls: 50, burst: 1, jitter: Duration::ZERO };
    db::queue::lanes::declare(pool, "probe", &[budget]).await.expect("a lane");
    let rogue = login(&db, "rogue", "noshi_worker").await;
    for refused in [
        "update noshi.lane set vtime = 9223372036854775807 where name = ''",
        "update noshi.lane set vtime = -1 where name = ''",
        "update noshi.lane set tokens = 9223372036854775807",
        "update noshi.lane set server = repeat('x', 10000)",
        "update noshi.lane_budget set calls = 2147483647, burst = 1",
    ] {
        let (code, said) = refusal(&rogue, refused).await;
        assert_eq!(code, "23514", "{refused}: {said}");
    }
    for odd in [
        "update noshi.lane set vtime = 1000000000000000, tokens = 1000000000000000",
        "update noshi.lane_budget set calls = 500000, burst = 1",
        "update noshi.metric_snapshot_taken set next_at = '9999-12-31'",
    ] {
        rogue.execute(odd).await.unwrap_or_else(|error| panic!("{odd}: {error}"));
    }
    assert!(db::operator::snapshot::take(pool).await.expect("an answer"), "the metrics go on");
    for (id, lane) in [("a", ""), ("b", "probe")] {
        let args = json!({"id": id, "steps": 2, "lane": lane});
        let job = probe(pool, args).await;
        pool.execute("update noshi.job set waited = '1000 years', rank = 4000000000000000 where status = 'available'")
            .await
            .expect("odd");
        let worker = start(&db, pace()).await;
        until(id, Duration::from_secs(15), async || status(pool, job).await == "completed").await;
        worker.stop().await;
    }
    assert_eq!(db::operator::doctor::lanes_out_of_turn(pool).await.expect("lanes"), ["''", "'probe'"]);
}
