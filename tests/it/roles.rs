//! What each role may do, and that it may do nothing else: with logins that are members of exactly one, on a schema that
//! a login without superuser rights has made.

use std::{process::Output, time::Duration};

use serde_json::json;
use sqlx::AssertSqlSafe;
use tokio::sync::{Mutex, OnceCell};

use crate::fleet::{Fleet, Terms, fleet_on_url};
use noshi::{
    db::{self, PgPool},
    lab::private_postgres::{PrivatePostgres, Settings},
};

/// Roles belong to the server, so these tests share one of their own.
static SERVER: OnceCell<PrivatePostgres> = OnceCell::const_new();
/// One migration at a time: each of them grants the owner's role to the migrating login.
static TURN: Mutex<()> = Mutex::const_new(());

const LOGINS: [&str; 5] = ["worker", "producer", "operator", "reader", "webhook"];

async fn server() -> &'static PrivatePostgres {
    crate::support::place().await;
    let start = async || {
        let server =
            PrivatePostgres::start(Settings { durable: false, ..Settings::default() }).await.expect("a server");
        let root = pool(&server.url("postgres")).await;
        run(&root, "create role migrator login createrole").await.expect("a login");
        server
    };
    SERVER.get_or_init(start).await
}

async fn pool(url: &str) -> PgPool {
    PgPool::connect(url).await.expect("a connection")
}

async fn run(pool: &PgPool, sql: impl Into<String>) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(sql.into())).execute(pool).await.map(|_| ())
}

fn noshi(url: &str, args: &[&str]) -> Output {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_noshi"));
    command.args(args).env("DATABASE_URL", url).output().expect("the command starts")
}

/// A database that `migrator` owns and has migrated, with its logins.
struct Installed {
    name: &'static str,
    root: PgPool,
}

impl Installed {
    async fn open(name: &'static str) -> Installed {
        let server = server().await;
        let _turn = TURN.lock().await;
        let root = pool(&server.url("postgres")).await;
        run(&root, format!("create database {name} owner migrator")).await.expect("a database");
        let place = Installed { name, root: pool(&server.url(name)).await };
        for _ in 0..2 {
            let migrated = noshi(&place.url("migrator").await, &["migrate", "up"]);
            assert!(migrated.status.success(), "{}", String::from_utf8_lossy(&migrated.stderr));
        }
        let migrator = place.login("migrator").await;
        for login in LOGINS {
            let there: bool = sqlx::query_scalar("select exists (select from pg_roles where rolname = $1)")
                .bind(login)
                .fetch_one(&migrator)
                .await
                .expect("an answer");
            if !there {
                let create = format!("create role {login} login in role noshi_{login}");
                run(&migrator, create).await.expect("the migrating login makes the others");
            }
        }
        place
    }

    async fn url(&self, login: &str) -> String {
        server().await.url(self.name).replacen("//postgres@", &format!("//{login}@"), 1)
    }

    async fn login(&self, login: &str) -> PgPool {
        pool(&self.url(login).await).await
    }

    /// Every table with its first column that can be written. The view can be written by nobody.
    async fn tables(&self) -> Vec<(String, String)> {
        let tables = "select format('%I.%I', n.nspname, c.relname), a.attname::text
            from pg_class c join pg_namespace n on n.oid = c.relnamespace
            join lateral (select attname from pg_attribute where attrelid = c.oid and attnum > 0 and attidentity = ''
                          order by attnum limit 1) a on true
            where c.relkind = 'r' and (n.nspname like 'noshi%' or n.nspname = 'public')";
        let tables: Vec<_> = sqlx::query_as(tables).fetch_all(&self.root).await.expect("tables");
        assert!(tables.len() >= 12, "{tables:?}");
        tables
    }
}

async fn refused(pool: &PgPool, sql: impl Into<String>) {
    let sql = sql.into();
    let error = run(pool, sql.as_str()).await.expect_err(&sql);
    let code = error.as_database_error().and_then(|error| error.code()).unwrap_or_default().into_owned();
    assert_eq!(code, "42501", "{sql}: {error}");
}

/// What nobody may who is no owner.
async fn refused_to_everybody(place: &Installed, pool: &PgPool) {
    for sql in [
        "create table noshi.t ()",
        "create table noshi_sealed.t ()",
        "create table public.t ()",
        "create schema s",
        "set role noshi_owner",
        "set role migrator",
        "alter table noshi.job_event disable trigger append_only",
        "drop trigger append_only on noshi.job_event",
        "drop table noshi.probe_note",
        "select nextval('noshi.job_id_seq')",
    ] {
        refused(pool, sql).await;
    }
    for (table, column) in place.tables().await {
        refused(pool, format!("delete from {table}")).await;
        refused(pool, format!("truncate {table}")).await;
        if table.starts_with("noshi_sealed") {
            refused(pool, format!("select from {table}")).await;
            refused(pool, format!("update {table} set {column} = {column}")).await;
        }
    }
    for sql in ["update noshi.job_event set detail = ''", "update noshi.job set args = args, key = key, kind = kind"] {
        refused(pool, sql).await;
    }
}

async fn enqueue(pool: &PgPool, id: &str) -> i64 {
    let args = json!({"grant": id, "user": "u", "category": "digital", "value": {"amount": 500, "currency": "JPY"}});
    sqlx::query_scalar("select noshi.enqueue('gift_issuance', $1, $2)")
        .bind(id)
        .bind(args)
        .fetch_one(pool)
        .await
        .expect("a job")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_producer_may_enqueue_and_nothing_else() {
    let place = Installed::open("produced").await;
    let producer = place.login("producer").await;
    assert_eq!(enqueue(&producer, "g").await, enqueue(&producer, "g").await);
    run(
        &producer,
        r#"select noshi.enqueue_rows('gift_issuance', array['a', 'b'], array_agg(format('{"grant": "%s", "user": "u", "category": "digital", "value": {"amount": 500, "currency": "JPY"}}', id)::jsonb))
            from unnest(array['a', 'b']) id"#,
    )
    .await
    .expect("rows");
    refused_to_everybody(&place, &producer).await;
    for (table, column) in place.tables().await {
        refused(&producer, format!("select from {table}")).await;
        refused(&producer, format!("select from {table} for update")).await;
        refused(&producer, format!("insert into {table} ({column}) values (default)")).await;
        refused(&producer, format!("update {table} set {column} = {column}")).await;
        refused(&producer, format!("copy {table} to stdout")).await;
    }
    refused(&producer, "select from noshi.gift_issuance_history").await;
    for role in ["worker", "operator", "reader"] {
        refused(&producer, format!("set role noshi_{role}")).await;
    }
}

async fn issued(place: &Installed, url: String) -> Fleet {
    enqueue(&place.login("producer").await, "g").await;
    let fleet = fleet_on_url(url, Terms::default()).await;
    let worker = fleet.worker("a", &[], &[]);
    fleet.at_rest(Duration::from_secs(20)).await.unwrap();
    assert!(worker.stop().await.success());
    fleet
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_runs_jobs_and_changes_neither_requests_nor_history() {
    let place = Installed::open("worked").await;
    let fleet = issued(&place, place.url("worker").await).await;
    let (status, sealed): (String, i64) =
        sqlx::query_as("select status::text, (select count(*) from noshi_sealed.sealed) from noshi.job")
            .fetch_one(&place.root)
            .await
            .unwrap();
    assert_eq!((status.as_str(), sealed), ("completed", 1));
    let log = std::fs::read_to_string(fleet.dir.path().join("a.log")).unwrap();
    assert!(!log.contains("permission denied"), "{log}");

    let worker = place.login("worker").await;
    refused_to_everybody(&place, &worker).await;
    for column in ["id", "kind", "key", "fingerprint", "args", "priority", "batch", "row_no", "created_at"] {
        refused(&worker, format!("update noshi.job set {column} = default")).await;
    }
    for (table, column) in [
        ("lane", "paused"),
        ("lane", "obeyed"),
        ("lane", "reserve"),
        ("lane_budget", "per"),
        ("gift_trade", "amount"),
        ("gift_outcome", "card"),
        ("probe_note", "text"),
        ("probe_tally", "name"),
    ] {
        refused(&worker, format!("update noshi.{table} set {column} = {column}")).await;
    }
    refused(&worker, "select noshi.enqueue('probe', 'a', '{}')").await;
    refused(&worker, "select from noshi.gift_issuance_history").await;
    refused(&worker, "select noshi.record_email_event('m', 1, 'bounce', null, null, null)").await;
    refused(&worker, "select noshi.suppress_address('s', null, null, null, null, null)").await;
    // Of what is sealed a worker reads the recipients of mails that it has leased: not a gift's, and not a mail's at rest.
    run(
        &place.root,
        "insert into noshi_sealed.sealed select 'recipient', s, s, '', 'k1', '', '' from unnest(array['g', 'm']) s;
         insert into noshi.worker (name, login) values ('holds', 'worker');
         insert into noshi.job (kind, key, fingerprint, args, status, worker)
         select kind, 'm ' || status, '', '{\"recipient\": \"m\", \"reference\": \"m\"}', status::noshi.job_status, (select max(id) from noshi.worker)
         from unnest(array['email', 'email', 'gift_issuance'], array['running', 'completed', 'running']) j(kind, status);
         insert into noshi.job_event (job, event, lease, step, worker) select id, 'claimed', lease, step, worker from noshi.job where key like 'm %'",
    )
    .await
    .expect("jobs in flight and at rest");
    let opened = "select array_agg(j.kind || ' ' || j.status) from noshi.job j
        cross join lateral noshi.sealed_recipient(j.id, (select max(id) from noshi.worker)) r";
    let opened: Vec<String> = sqlx::query_scalar(opened).fetch_one(&worker).await.expect("recipients");
    assert_eq!(opened, ["email running"]);

    // Key rotation is for the owner's login: a worker's may not read what it has sealed.
    let config = fleet.dir.path().join("noshi.toml").display().to_string();
    let rotate = ["--config", &config, "vault", "rotate", "--yes"];
    let by_worker = noshi(&place.url("worker").await, &rotate);
    let said = String::from_utf8_lossy(&by_worker.stderr).into_owned();
    assert!(!by_worker.status.success() && said.contains("permission denied"), "{said}");
    assert!(noshi(&place.url("migrator").await, &rotate).status.success());
}

async fn not_lawful(pool: &PgPool, sql: impl Into<String>) {
    let sql = sql.into();
    let error = run(pool, sql.as_str()).await.expect_err(&sql);
    let code = error.as_database_error().and_then(|error| error.code()).unwrap_or_default().into_owned();
    assert!(code == "NS403" || code == "42501", "{sql}: {error}");
}

/// Jobs at rest, leased by another, and to be claimed, a recipient of each mail, and a gift that was issued.
const IN_THE_HOUSE: &str = "insert into noshi_sealed.sealed select 'recipient', s, s, '', 'k1', '', '' from unnest(array['over', 'held', 'open']) s;
    insert into noshi.worker (name, login) values ('another', 'another');
    insert into noshi.job (kind, key, fingerprint, args, status, worker)
        select 'email', s, '', jsonb_build_object('recipient', s, 'reference', s), t::noshi.job_status, case t when 'running' then (select max(id) from noshi.worker) end
        from unnest(array['over', 'held', 'open'], array['completed', 'running', 'available']) j(s, t);
    insert into noshi.job (kind, key, fingerprint, args, status, at, step)
        select 'gift_issuance', k, '', jsonb_build_object('grant', k, 'user', 'u', 'category', 'digital', 'value', jsonb_build_object('amount', 500, 'currency', 'JPY')), s::noshi.job_status, 'issued', 3
        from unnest(array['gift', 'parked'], array['completed', 'needs_operator']) j(k, s);
    insert into noshi.gift_trade (id, grant_id, generation, job, provider, category, amount, currency)
        select 'T1', 'gift', 0, id, 'gift_on_demand', 'digital', 500, 'JPY' from noshi.job where key = 'gift';
    insert into noshi.gift_outcome (trade, outcome, card) values ('T1', 'issued', 'c1');
    update noshi.server_seen set restored_to = now()";

#[tokio::test(flavor = "multi_thread")]
async fn a_workers_login_holds_a_job_by_a_claim_alone() {
    let place = Installed::open("grabbed").await;
    run(&place.root, IN_THE_HOUSE).await.expect("jobs");
    let worker = place.login("worker").await;
    run(&worker, "insert into noshi.worker (name) values ('rogue')").await.expect("a registration");
    let ours = "(select max(id) from noshi.worker)";
    let opened = async |key: &str| -> i64 {
        let opened = format!(
            "select count(*) from noshi.job j cross join lateral noshi.sealed_recipient(j.id, j.worker) r where j.key = '{key}'"
        );
        sqlx::query_scalar(AssertSqlSafe(opened)).fetch_one(&worker).await.expect("a count")
    };
    for (key, what) in [
        // L1: the recipient of a mail that was sent long ago, and of one that another sends.
        ("over", format!("status = 'running', worker = {ours}")),
        ("over", format!("status = 'running', worker = {ours}, lease = lease + 1")),
        ("held", format!("worker = {ours}")),
        ("held", "lease = lease + 1".to_owned()),
        // In another's name, in nobody's, and with a step that was not made.
        ("open", "status = 'running', lease = lease + 1, worker = (select min(id) from noshi.worker)".to_owned()),
        ("open", "status = 'running', lease = lease + 1, worker = 4711".to_owned()),
        ("open", format!("status = 'running', lease = lease + 1, worker = {ours}, step = 7")),
        ("open", "status = 'completed'".to_owned()),
        // An act that nobody asked for, a gift that ended, and one that waits for a person.
        ("held", "requested_act = 'attest_void', status_before = 'running'".to_owned()),
        ("gift", "status = 'available', at = 'new', state = null".to_owned()),
        ("gift", "status = 'failed'".to_owned()),
        ("parked", "status = 'available'".to_owned()),
        ("parked", "in_doubt = false".to_owned()),
    ] {
        not_lawful(&worker, format!("update noshi.job set {what} where key = '{key}'")).await;
        assert_eq!(opened(key).await, 0, "{key}: {what}");
    }
    // As a claim does: the row and its line, in one transaction.
    let claim = format!(
        "update noshi.job set status = 'running', lease = lease + 1, worker = {ours} where key = 'open';
        insert into noshi.job_event (job, event, lease, step, worker) select id, 'claimed', lease, step, worker from noshi.job where key = 'open'"
    );
    run(&worker, claim).await.expect("as a claim does");
    assert_eq!(opened("open").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workers_login_asks_for_nothing_and_says_nothing_of_what_is_over() {
    let place = Installed::open("forged").await;
    run(&place.root, IN_THE_HOUSE).await.expect("jobs");
    let worker = place.login("worker").await;
    let job = |kind: &str, key: &str, args: &str| {
        format!("insert into noshi.job (kind, key, fingerprint, args) values ('{kind}', '{key}', '', '{args}')")
    };
    for sql in [
        job("point_grant", "b:s", r#"{"benefit": "b", "source": "s", "user": "u", "points": 1000000, "valid_days": 90}"#),
        job("gift_issuance", "exchange/x", r#"{"grant": "exchange/x", "user": "u", "category": "digital", "value": {"amount": 500, "currency": "JPY"}, "paid_by": {"exchange": "x"}}"#),
        job("gift_issuance", "free", r#"{"grant": "free", "user": "u", "category": "digital", "value": {"amount": 500, "currency": "JPY"}}"#),
        job("point_reversal", "x", r#"{"exchange": "x"}"#),
        job("point_withdrawal", "u", r#"{"user": "u"}"#),
        job("email", "m", r#"{"template": "gift_granted", "reference": "over", "recipient": "over", "params": {}}"#),
        "insert into noshi.gift_outcome (trade, outcome, reason) values ('T1', 'void', 'said so')".to_owned(),
        "insert into noshi.gift_trade (id, grant_id, generation, job, provider, category, amount, currency) select 'T2', 'gift', 1, id, 'p', 'digital', 500, 'JPY' from noshi.job where key = 'gift'".to_owned(),
        "insert into noshi.store (public_id, organization, shop, name, job) select 'S', 'O', 's', 'n', id from noshi.job where key = 'gift'".to_owned(),
        "insert into noshi.job_event (job, event, lease, step) select id, 'asked', 0, 0 from noshi.job where key = 'gift'".to_owned(),
        // Lines of what was not done: by another's worker, of what is over, of a job that never was, of a settle that was none, and of one's own of long ago.
        "insert into noshi.job_event (job, event, lease, step, worker) select id, 'settled', 0, 0, (select id from noshi.worker where name = 'another') from noshi.job where key = 'held'".to_owned(),
        "insert into noshi.job_event (job, event, lease, step, worker) select id, 'settled', 0, 2, (select max(id) from noshi.worker where login = 'worker') from noshi.job where key = 'gift'".to_owned(),
        "insert into noshi.job_event (job, event, lease, step, worker) values (4711, 'settled', 0, 0, (select max(id) from noshi.worker where login = 'worker'))".to_owned(),
        "insert into noshi.job_event (job, event, lease, step) select id, 'rescued', lease, step from noshi.job where key = 'held'".to_owned(),
        "insert into noshi.job_event (job, event, lease, step) select id, 'settled', lease, step - 1 from noshi.job where key = 'gift'".to_owned(),
        "insert into noshi.job_event (job, event, lease, step, worker) select id, 'claimed', lease, step, worker from noshi.job where key = 'held'".to_owned(),
        // A testimony where nothing happened: it changed rows, and let facts be written of them.
        "select noshi.testify((select max(id) from noshi.worker where login = 'worker'), 0, null, false, array[(select id from noshi.job where key = 'gift')], array[5::bigint], array['probe'], array['none'],
            array[false], array['1s'::interval], '{}', '{}', '{}')".to_owned(),
        // A code for a trade of another, and of none; a chunk of the next file.
        "insert into noshi_sealed.sealed values ('gift_code', 'T1', 'gift', 'gift_on_demand', 'k1', '', '')".to_owned(),
        "insert into noshi_sealed.sealed values ('gift_code', 'T9', 'gift', 'gift_on_demand', 'k1', '', '')".to_owned(),
        "insert into noshi_sealed.sealed values ('file', '1/0', '1/0', '', 'k1', '', '')".to_owned(),
        "insert into noshi_sealed.sealed values ('recipient', '1/1', 'g', '', 'k1', '', '')".to_owned(),
        "insert into noshi.job_event (job, event, lease, step, happened_at) select id, 'settled', 0, 0, '2020-01-01' from noshi.job where key = 'gift'".to_owned(),
        "insert into noshi.gift_past (job, generation, partners, owed, proven_at) values (1, 0, '{}', false, now())".to_owned(),
        "update noshi.server_seen set restored_to = null".to_owned(),
        "update noshi.server_seen set owed = 0".to_owned(),
        "update noshi.worker set token = gen_random_uuid()".to_owned(),
        "update noshi.worker set login = 'worker'".to_owned(),
        "insert into noshi.worker (name, login) values ('n', 'another')".to_owned(),
        "insert into noshi.lane (name, reserve) values ('l', 1)".to_owned(),
    ] {
        not_lawful(&worker, sql).await;
    }
    for (lane, per) in [("", "1 second"), ("gift/gift_on_demand", "1000 years"), ("gift/gift_on_demand", "0 seconds")] {
        let budget = format!(
            "insert into noshi.lane (name) values ('gift/gift_on_demand') on conflict do nothing; insert into noshi.lane_budget (lane, per, calls, burst, jitter) values ('{lane}', '{per}', 1, 1, '0')"
        );
        let error = run(&worker, budget.as_str()).await.expect_err(&budget);
        assert_eq!(
            error.as_database_error().and_then(|error| error.code()).as_deref(),
            Some("23514"),
            "{budget}: {error}"
        );
    }
    // A schedule that is not due is not fired, and one that is goes on to a day that people live to see.
    run(
        &place.root,
        "insert into noshi.schedule (name, kind, key, args, priority, cron, zone, missed, next_due)
        select n, 'point_expiry', 'x/{due}', '{}', 1, '0 0 * * *', 'UTC', 'none', d from (values ('later', now() + interval '1 day'), ('due', now() - interval '1 day')) s(n, d)",
    )
    .await
    .expect("two schedules");
    for (name, next) in [("later", "now() + interval '2 days'"), ("due", "'9000-01-01'")] {
        let fire = format!(
            "select noshi.fire_schedule(name, next_due, {next}, '{{}}', 0) from noshi.schedule where name = '{name}'"
        );
        let error = run(&worker, fire.as_str()).await.expect_err(&fire);
        assert_eq!(
            error.as_database_error().and_then(|error| error.code()).as_deref(),
            Some("NS400"),
            "{fire}: {error}"
        );
    }
}

/// A gift in mid-call leased by another login, one that this login holds, each with the trade that it is called under.
const IN_MID_CALL: &str = r#"insert into noshi.worker (name, login) values ('another', 'another'), ('ours', 'worker');
    insert into noshi.job (kind, key, fingerprint, args, status, at, step, lease, lane, writes, worker, state)
        select 'gift_issuance', k, '', jsonb_build_object('grant', k, 'user', 'u', 'category', 'digital', 'value', jsonb_build_object('amount', 500, 'currency', 'JPY')), 'running', 'issuing', 3, 2,
            'gift/gift_on_demand', true, w.id, jsonb_build_object('at', 'issuing', 'trade', jsonb_build_object('id', 'T-' || k, 'provider', 'gift_on_demand', 'generation', 0))
        from unnest(array['theirs', 'mine'], array['another', 'ours']) j(k, name) join noshi.worker w using (name);
    insert into noshi.gift_trade (id, grant_id, generation, job, provider, category, amount, currency)
        select 'T-' || key, key, 0, id, 'gift_on_demand', 'digital', 500, 'JPY' from noshi.job where at = 'issuing'"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_workers_login_settles_what_it_holds_alone_and_buys_a_gift_under_one_trade() {
    let place = Installed::open("midcall").await;
    run(&place.root, IN_MID_CALL).await.expect("gifts in mid-call");
    let worker = place.login("worker").await;
    let other_trade = "state = jsonb_set(state, '{trade,id}', '\"T-2\"')";
    let released =
        "status = 'available', worker = null, run_at = clock_timestamp(), in_doubt = false, called_at = null";
    for (key, what) in [
        // What another login holds is neither settled, nor given back, nor rescued while its worker lives.
        ("theirs", format!("{released}, step = step + 1, {other_trade}")),
        ("theirs", format!("{released}, step = step + 1")),
        ("theirs", "status = 'completed', at = 'issued', worker = null, step = step + 1, finished_at = now()".to_owned()),
        ("theirs", "status = 'available', worker = null".to_owned()),
        ("theirs", "status = 'available', worker = null, crash_count = crash_count + 1, in_doubt = true, lane = '', reserved = false, run_at = now()".to_owned()),
        ("theirs", "called_at = now()".to_owned()),
        ("theirs", "in_doubt = true".to_owned()),
        ("theirs", "detail = 'said so'".to_owned()),
        // Nor is what this login holds changed without a step, called under a trade that is not saved, or at another partner.
        ("mine", "in_doubt = true".to_owned()),
        ("mine", "state = null".to_owned()),
        ("mine", "status = 'available'".to_owned()),
        ("mine", "status = 'available', worker = null, lane = ''".to_owned()),
        ("mine", "status = 'available', worker = null, lease = lease + 1".to_owned()),
        ("mine", format!("{released}, step = step + 1, {other_trade}")),
        ("mine", format!("{released}, step = step + 1, state = jsonb_set(state, '{{trade,provider}}', '\"tango_card\"')")),
    ] {
        not_lawful(&worker, format!("update noshi.job set {what} where key = '{key}'")).await;
    }
    for sql in [
        // A second trade beside one that lives, of either.
        "insert into noshi.gift_trade (id, grant_id, generation, job, provider, category, amount, currency)
            select 'T-2', key, 1, id, 'gift_on_demand', 'digital', 500, 'JPY' from noshi.job where key = 'mine'",
        // Another's worker is not declared dead while it lives, nor stopped, nor kept alive.
        "update noshi.worker set dead_at = now() where name = 'another'",
        "update noshi.worker set stopped_at = now() where name = 'another'",
        "update noshi.worker set seen_at = now() - interval '1 hour' where name = 'another'",
        "update noshi.worker set keys = '{}' where name = 'another'",
    ] {
        not_lawful(&worker, sql).await;
    }
    for (key, what) in [
        ("mine", "called_at = coalesce(called_at, clock_timestamp())".to_owned()),
        ("mine", format!("{released}, step = step + 1")),
    ] {
        run(&worker, format!("update noshi.job set {what} where key = '{key}'")).await.expect("what a worker writes");
    }
    // A worker of which nothing was heard is dead to all, and what it held is taken back, in doubt. It has no settle left.
    run(&place.root, "update noshi.worker set seen_at = now() - interval '1 minute' where name = 'another'")
        .await
        .expect("a death");
    run(&worker, "update noshi.worker set dead_at = now() where name = 'another'").await.expect("as a heartbeat does");
    not_lawful(&worker, format!("update noshi.job set {released}, step = step + 1 where key = 'theirs'")).await;
    run(&worker, "update noshi.job set status = 'available', worker = null, crash_count = crash_count + 1, in_doubt = in_doubt or writes, lane = '', reserved = false, run_at = now() where key = 'theirs'")
        .await
        .expect("a rescue");
    not_lawful(&worker, "update noshi.worker set dead_at = null where name = 'another'").await;
}

/// A batch of gifts that was granted with mails, one that was cancelled before it, one that is paused, and one of points that was refused.
const GRANTED: &str = r#"insert into noshi.batch (kind, mode, digest, file, encoding, mails, issues, rows, validated_at, released_at, registered_at, cancelled_at, paused_at)
        select k, 'all_or_nothing', sha256(n::text::bytea), 'f', 'utf-8', k = 'grants', k = 'grants', 2, now(), now(), case when r then now() end, case when c then now() end, case when p then now() end
        from unnest(array[1, 2, 3, 4], array['grants', 'grants', 'grants', 'points'], array[true, true, true, false], array[false, true, false, false], array[false, false, true, false]) b(n, k, r, c, p);
    set session_replication_role = replica;
    insert into noshi.batch_row (batch, row_no, line, key, args, mailed)
        select b.id, 1, 2, 'g' || b.id, jsonb_build_object('grant', 'g' || b.id, 'user', 'u', 'category', 'digital', 'value', '{"amount": 500, "currency": "JPY"}'::jsonb, 'area', 'tokyo', 'valid_days', 9), true
        from noshi.batch b where b.kind = 'grants'
        union all select b.id, 1, 2, 'b:s', '{"benefit": "b", "source": "s", "user": "u", "points": 5, "valid_days": 9, "zone": "Asia/Tokyo", "grant": "b:s", "value": {"amount": 5, "currency": "PT"}}', false
        from noshi.batch b where b.kind = 'points';
    reset session_replication_role"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_workers_login_asks_for_what_a_row_says_and_writes_no_mail() {
    let place = Installed::open("followed").await;
    run(&place.root, GRANTED).await.expect("batches");
    let worker = place.login("worker").await;
    let ask = |kind: &str, batch: i64, key: &str, args: &str, change: &str| {
        format!(
            "insert into noshi.job (kind, key, fingerprint, args, batch, row_no)
            select '{kind}', '{key}', sha256(convert_to(a::text, 'UTF8')), a, {batch}, 1 from (select '{args}'::jsonb || '{change}' as a) a"
        )
    };
    let gift = |batch: i64, change: &str| {
        let args = format!(
            r#"{{"grant": "g{batch}", "user": "u", "category": "digital", "value": {{"amount": 500, "currency": "JPY"}}, "area": "tokyo", "valid_days": 9}}"#
        );
        ask("gift_issuance", batch, &format!("g{batch}"), &args, change)
    };
    let mail = |key: &str, change: &str| {
        let args = r#"{"template": "gift_granted", "reference": "g1", "recipient": "1/1", "params": {"category": "digital", "value": "500 JPY"}}"#;
        ask("email", 1, key, args, change)
    };
    let points = r#"{"benefit": "b", "source": "s", "user": "u", "points": 5, "valid_days": 9, "zone": "Asia/Tokyo"}"#;
    for sql in [
        // Cancelled, paused, refused.
        gift(2, "{}"),
        gift(3, "{}"),
        ask("point_grant", 4, "b:s", points, "{}"),
        // Another request than the row's.
        gift(1, r#"{"area": null}"#),
        gift(1, r#"{"valid_days": 900}"#),
        gift(1, r#"{"provider": "tango_card"}"#),
        gift(1, r#"{"paid_by": {"exchange": "x"}}"#),
        gift(1, r#"{"user": "thief"}"#),
        gift(1, r#"{"value": {"amount": 900, "currency": "JPY"}}"#),
        gift(1, "{}").replace("sha256(convert_to(a::text, 'UTF8'))", "sha256('another')"),
        // A mail of one's own words, another's, and the same once more.
        mail("gift_granted:1:g1", r#"{"params": {"category": "digital", "value": "see http://evil.example"}}"#),
        mail("gift_granted:1:g1", r#"{"recipient": "2/1"}"#),
        mail("gift_granted:1:g1", r#"{"reference": "g2"}"#),
        mail("gift_granted:2:g1", "{}"),
        mail("mine", "{}"),
        mail("gift_granted:1/1:g1", r#"{"again_in": 1}"#),
        format!("begin isolation level repeatable read; {}; commit", gift(1, "{}")),
    ] {
        let error = run(&worker, sql.as_str()).await.expect_err(&sql);
        let code = error.as_database_error().and_then(|error| error.code()).unwrap_or_default().into_owned();
        assert!(["NS403", "NS400"].contains(&code.as_str()), "{sql}: {error}");
        let _ = run(&worker, "rollback").await;
    }
    run(&place.root, "update noshi.batch set registered_at = now(), paused_at = now() where kind = 'points'")
        .await
        .unwrap();
    not_lawful(&worker, ask("point_grant", 4, "b:s", points, "{}")).await;
    let registered: Vec<String> =
        sqlx::query_scalar("select code from noshi.register_batch(3)").fetch_all(&worker).await.unwrap();
    assert_eq!(registered, ["paused"]);
    run(&place.root, "update noshi.batch set paused_at = null where kind = 'points'").await.unwrap();
    not_lawful(&worker, ask("point_grant", 4, "b:s", points, r#"{"valid_days": 900}"#)).await;
    not_lawful(&worker, ask("point_grant", 4, "b:s", points, r#"{"zone": "UTC"}"#)).await;
    not_lawful(&worker, ask("point_grant", 4, "b:t", points, r#"{"source": "t"}"#)).await;
    for sql in [gift(1, "{}"), mail("gift_granted:1:g1", "{}"), ask("point_grant", 4, "b:s", points, "{}")] {
        run(&worker, sql.as_str()).await.expect(&sql);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_steers_lanes_and_writes_no_job() {
    let place = Installed::open("operated").await;
    let url = place.url("operator").await;
    let fleet = issued(&place, place.url("worker").await).await;
    let lane = |verb| noshi(&url, &["lane", verb, "gift/gift_on_demand", "--reason", "a drill"]);
    let list = || String::from_utf8_lossy(&noshi(&url, &["lane", "list"]).stdout).into_owned();
    let line = |list: String| list.lines().find(|line| line.starts_with("gift/gift_on_demand")).map(str::to_owned);
    assert!(line(list()).is_some_and(|line| line.contains(" open ")), "{}", list());
    assert!(lane("pause").status.success() && line(list()).is_some_and(|line| line.contains(" paused ")));
    assert!(lane("resume").status.success() && line(list()).is_some_and(|line| line.contains(" open ")));
    let grants = fleet.dir.path().join("grants.csv");
    std::fs::write(
        &grants,
        "grant_id,user_id,name,email,category,amount,currency\nf,u,Ada,ada@example.jp,digital,500,JPY\n",
    )
    .unwrap();
    let config = fleet.dir.path().join("noshi.toml").display().to_string();
    let submitted = noshi(&url, &["--config", &config, "batch", "submit", &grants.display().to_string()]);
    assert!(submitted.status.success(), "{}", String::from_utf8_lossy(&submitted.stderr));

    let operator = place.login("operator").await;
    // What an operator starts comes in batches, within their caps.
    refused(&operator, "select noshi.enqueue('gift_issuance', 'g', '{}')").await;
    let read = "select from noshi.job, noshi.job_event, noshi.gift_trade, noshi.gift_outcome, noshi.worker, noshi.gift_issuance_history";
    run(&operator, read).await.expect("an operator reads");
    refused_to_everybody(&place, &operator).await;
    for (table, column) in place.tables().await {
        refused(&operator, format!("update {table} set {column} = {column}")).await;
        if !table.starts_with("noshi_sealed") && table != "noshi.batch_row" {
            refused(&operator, format!("insert into {table} ({column}) values (default)")).await;
        }
    }
    for column in ["status", "at", "state", "run_at", "lease", "in_doubt"] {
        refused(&operator, format!("update noshi.job set {column} = {column}")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_reads_the_reports_alone() {
    let place = Installed::open("read").await;
    let _fleet = issued(&place, place.url("worker").await).await;
    let reader = place.login("reader").await;
    let row = "select grant_id, user_id, provider, status, outcome from noshi.gift_issuance_history";
    let row: (String, String, String, String, String) = sqlx::query_as(row).fetch_one(&reader).await.expect("a report");
    let expected = ["g", "u", "gift_on_demand", "completed", "issued"].map(str::to_owned);
    assert_eq!([row.0, row.1, row.2, row.3, row.4], expected);
    refused_to_everybody(&place, &reader).await;
    for (table, column) in place.tables().await {
        refused(&reader, format!("select from {table}")).await;
        refused(&reader, format!("insert into {table} ({column}) values (default)")).await;
        refused(&reader, format!("update {table} set {column} = {column}")).await;
    }
    refused(&reader, "select noshi.enqueue('probe', 'a', '{}')").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_keeps_events_and_sees_nothing() {
    let place = Installed::open("opened").await;
    let api = place.login("webhook").await;
    let record = "select noshi.record_email_event('m', 1, 'bounce', 'x', now(), 'Permanent')";
    run(&api, record).await.expect("an event");
    let suppress = "select noshi.suppress_address('s', 'bounced', 'm', 'k1', '\\x00'::bytea, '\\x00'::bytea)";
    run(&api, suppress).await.expect("a suppressed address");
    // It says nothing about whose that is, and hears nothing.
    refused(&api, "select from noshi.undigested_addresses(array['k1'])").await;
    refused(&api, "select noshi.digest_address('s', array[sha256('a')], 'k1')").await;
    let changed = "select noshi.keep_shop_event('shp', 'O-1', 'S-1', 'n', false, 1), noshi.keep_organization_event('O-1', 'n', 1)";
    run(&api, changed).await.expect("two changes");
    refused_to_everybody(&place, &api).await;
    for (table, column) in place.tables().await {
        // Which migrations there are, its probes must know.
        if !table.ends_with("_sqlx_migrations") {
            refused(&api, format!("select from {table}")).await;
        }
        refused(&api, format!("insert into {table} ({column}) values (default)")).await;
        refused(&api, format!("update {table} set {column} = {column}")).await;
    }
    for sql in ["select noshi.enqueue('probe', 'a', '{}')", "select noshi.sealed_recipient(1, 1)"] {
        refused(&api, sql).await;
    }
    for role in ["worker", "operator", "producer", "reader"] {
        refused(&api, format!("set role noshi_{role}")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn migrations_need_no_superuser() {
    let place = Installed::open("migrated").await;
    let strays = "select count(*) from pg_class c join pg_namespace n on n.oid = c.relnamespace
        where n.nspname like 'noshi%' and c.relowner <> 'noshi_owner'::regrole";
    let strays: i64 = sqlx::query_scalar(strays).fetch_one(&place.root).await.unwrap();
    let powers =
        "select rolsuper or rolcreatedb or rolbypassrls or rolreplication from pg_roles where rolname = 'migrator'";
    let powers: bool = sqlx::query_scalar(powers).fetch_one(&place.root).await.unwrap();
    assert_eq!((strays, powers), (0, false));
    // Every function that runs with its owner's rights names its schemas, and is not for everybody.
    let loose = "select count(*) from pg_proc p join pg_namespace n on n.oid = p.pronamespace
        where n.nspname like 'noshi%' and p.prosecdef
        and (not coalesce(p.proconfig::text like '%search_path=noshi, pg_temp%', false) or has_function_privilege('public', p.oid, 'execute'))";
    let loose: i64 = sqlx::query_scalar(loose).fetch_one(&place.root).await.unwrap();
    assert_eq!(loose, 0);
}

/// F5: one worker's login says that this database is an older copy, and that more is missing than it remembers. It is believed, since nobody else can know;
/// on record, once for each start of the server, and no further than the database itself sees a gap.
#[tokio::test(flavor = "multi_thread")]
async fn a_workers_login_alone_marks_no_restore() {
    let place = Installed::open("forged_loss").await;
    let jobs = "insert into noshi.lane (name) values ('gift/slow');
        insert into noshi.lane_budget (lane, per, calls, burst, jitter) values ('gift/slow', '1 hour', 10, 1, '0');
        insert into noshi.job (kind, key, fingerprint, args, status, at, writes, lane)
            select 'gift_issuance', 'g' || n, '', '{}', 'available', 'issuing', true, 'gift/slow' from generate_series(1, 50) n";
    run(&place.root, jobs).await.expect("jobs");
    let honest = db::queue::workers::register(&place.root, "honest").await.expect("a worker");
    let worker = place.login("worker").await;
    let own = db::queue::workers::register(&worker, "rogue").await.expect("a worker");
    let renewed = async || assert!(db::queue::workers::renew(&place.root, honest).await.expect("renewed"));
    renewed().await;
    // How far a failover reached is judged by when workers were heard: nobody says that it was long ago, or is to come.
    for when in ["seen_at - interval '1 hour'", "seen_at + interval '1 hour'"] {
        not_lawful(&worker, format!("update noshi.worker set seen_at = {when} where id = {own}")).await;
    }
    assert!(db::queue::workers::renew(&worker, own).await.expect("renewed"));

    run(&worker, "select noshi.went_back()").await.expect("that is believed");
    let forged = format!(
        "select noshi.testify({own}, 0, null, true, '{{}}', '{{}}', '{{}}', '{{}}', '{{}}', '{{}}', '{{1}}', '{{1}}', '{{1}}')"
    );
    run(&worker, forged.as_str()).await.expect("that is believed");
    let too_much = format!(
        "select noshi.testify({own}, 0, null, true, (select array_agg(n) from generate_series(1, 100001) n), '{{}}', '{{}}', '{{}}', '{{}}', '{{}}', '{{}}', '{{}}', '{{}}')"
    );
    not_lawful(&worker, too_much).await;
    let whole = format!(
        "select noshi.testify({honest}, 0, '1 ms', false, '{{}}', '{{}}', '{{}}', '{{}}', '{{}}', '{{}}', '{{}}', '{{}}', '{{}}')"
    );
    run(&place.root, whole).await.expect("an honest word");
    let verdict: String = sqlx::query_scalar("select verdict from noshi.deal_with_page(5000)")
        .fetch_one(&worker)
        .await
        .expect("dealt with");
    assert_eq!(verdict, "lost");
    let (marked, doubted): (bool, i64) = sqlx::query_as(
        "select (select restored_to is not null from noshi.server_seen), (select count(*) from noshi.job where in_doubt)",
    )
    .fetch_one(&place.root)
    .await
    .expect("what came of it");
    assert!(!marked, "the database counts as restored, by one login's word");
    assert!(doubted <= 5, "{doubted} jobs are in doubt: more than their lane can have begun");
    // Once for each start of the server, and on record.
    not_lawful(&worker, "select noshi.went_back()").await;
    let acts: Vec<String> = sqlx::query_scalar("select act from noshi.audit where who = $1 order by id")
        .bind(sqlx::query_scalar::<_, String>("select session_user::text").fetch_one(&worker).await.expect("its name"))
        .fetch_all(&place.root)
        .await
        .expect("the audit");
    assert_eq!(acts, ["restore copy", "restore loss"]);
    let told = db::operator::doctor::told_losses(&place.root).await.expect("what doctor says");
    assert_eq!(told.len(), 2, "{told:?}");
}

/// A gap that the database itself sees is believed in whole: nobody was heard for long before the loss.
#[tokio::test(flavor = "multi_thread")]
async fn a_loss_that_the_database_sees_is_a_restore() {
    let place = Installed::open("true_loss").await;
    let jobs = "insert into noshi.lane (name) values ('gift/slow');
        insert into noshi.lane_budget (lane, per, calls, burst, jitter) values ('gift/slow', '1 hour', 10, 1, '0');
        insert into noshi.job (kind, key, fingerprint, args, status, at, writes, lane)
            select 'gift_issuance', 'g' || n, '', '{}', 'available', 'issuing', true, 'gift/slow' from generate_series(1, 50) n";
    run(&place.root, jobs).await.expect("jobs");
    let worker = db::queue::workers::register(&place.root, "w").await.expect("a worker");
    let an_old_copy = "update noshi.worker set seen_at = seen_at - interval '10 minutes'; update noshi.server_seen set seen_at = seen_at - interval '1 day'";
    run(&place.root, an_old_copy).await.expect("as an old copy has it");
    let testimony = format!(
        "select noshi.went_back(); select noshi.testify({worker}, 5, '1 ms', true, '{{}}', '{{}}', '{{}}', '{{}}', '{{}}', '{{}}', '{{}}', '{{}}', '{{}}')"
    );
    run(&place.root, testimony).await.expect("a testimony");
    run(&place.root, "select noshi.deal_with_page(5000); select noshi.deal_with_page(5000)").await.expect("dealt with");
    let seen: (bool, i64) = sqlx::query_as(
        "select (select restored_to < now() - interval '9 minutes' from noshi.server_seen), (select count(*) from noshi.job where in_doubt)",
    )
    .fetch_one(&place.root)
    .await
    .expect("what came of it");
    assert_eq!(seen, (true, 50));
}

/// A worker is rung where its own login says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_workers_login_has_nobody_elses_worker_polled() {
    let place = Installed::open("unrung").await;
    let ours = db::queue::workers::register(&place.root, "ours").await.expect("a worker");
    db::queue::workers::ring_for(&place.root, ours, true).await.expect("rung");
    let worker = place.login("worker").await;
    let own = db::queue::workers::register(&worker, "own").await.expect("a worker");
    not_lawful(&worker, format!("select noshi.ring_for({ours}, false)")).await;
    not_lawful(&worker, "select noshi.ring_for(4711, true)").await;
    db::queue::workers::ring_for(&worker, own, true).await.expect("its own");
    let rung: i64 = sqlx::query_scalar("select count(*) from noshi.bell").fetch_one(&place.root).await.expect("bells");
    assert_eq!(rung, 2);
}
