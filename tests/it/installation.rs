//! Databases as hosts give them: owners called like our schema, other applications beside us, other session defaults, other encodings,
//! and URLs that lead nowhere.

use std::{process::Output, time::Instant};

use noshi::lab::private_postgres::PrivatePostgres;
use serde_json::Value;
use sqlx::{
    AssertSqlSafe, Connection, Executor, PgConnection, SqlSafeStr,
    migrate::{Migration, MigrationType, Migrator},
};
use tokio::process::Command;

use crate::support::server;

async fn noshi(url: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_noshi"));
    command.args(arguments).env("DATABASE_URL", url).env_remove("NOSHI_CONFIG").env("NOSHI_LOG", "warn");
    command.output().await.expect("noshi")
}

async fn well(url: &str, arguments: &[&str]) -> String {
    let said = noshi(url, arguments).await;
    assert!(said.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&said.stderr));
    String::from_utf8(said.stdout).unwrap()
}

async fn refused(url: &str, arguments: &[&str]) -> String {
    let said = noshi(url, arguments).await;
    assert!(!said.status.success(), "{arguments:?} went well: {}", String::from_utf8_lossy(&said.stdout));
    String::from_utf8(said.stderr).unwrap()
}

async fn root(server: &PrivatePostgres, database: &str) -> PgConnection {
    PgConnection::connect(&server.url(database)).await.expect("a superuser's connection")
}

async fn run(connection: &mut PgConnection, sql: &str) {
    connection.execute(AssertSqlSafe(sql.to_owned())).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

async fn value<T>(connection: &mut PgConnection, sql: &str) -> T
where
    T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
{
    let value = sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).persistent(false).fetch_one(connection).await;
    value.unwrap_or_else(|error| panic!("{sql}: {error}"))
}

/// A database of a login that may make roles, as the pages say. Returns the login's URL.
async fn given(owner: &str, database: &str) -> String {
    let url = given_to_a_second(owner, database).await;
    let mut root = root(server().await, "postgres").await;
    // Another login has made the roles of this server already; what the page says of that.
    const PASSED_ON: &str =
        "select format('grant %s to %I with admin option', string_agg(rolname, ', '), $1) from pg_roles
        where rolname like 'noshi\\_%' and not rolcanlogin and current_setting('server_version_num')::int >= 160000 having count(*) > 0";
    let passed_on: Option<String> =
        sqlx::query_scalar(PASSED_ON).bind(owner).fetch_optional(&mut root).await.expect("roles");
    if let Some(passed_on) = passed_on {
        run(&mut root, &passed_on).await;
    }
    url
}

/// The same, without a word of the login that installed noshi in this server first.
async fn given_to_a_second(owner: &str, database: &str) -> String {
    let server = server().await;
    let mut root = root(server, "postgres").await;
    let make = format!(
        "do $$ begin create role {owner} login createrole; exception when duplicate_object or unique_violation then null; end $$"
    );
    run(&mut root, &make).await;
    run(&mut root, &format!("create database {database} owner {owner}")).await;
    server.url_as(owner, database)
}

/// Every migration is there, nothing is to come, `doctor` says so too, and a further run changes nothing.
async fn holds(url: &str) {
    let status: Vec<Value> = serde_json::from_str(&well(url, &["migrate", "status", "-o", "json"]).await).unwrap();
    let count = status.len();
    assert!(count > 20 && status.iter().all(|line| line["status"] == "applied"), "{status:?}");
    assert_eq!(well(url, &["migrate", "print"]).await.trim(), "");
    let doctor = noshi(url, &["doctor", "-o", "json"]).await;
    let found: Vec<Value> = serde_json::from_slice(&doctor.stdout).unwrap();
    let migrations = found.iter().find(|it| it["what"] == "migrations").expect("a look at the migrations");
    assert_eq!(migrations["health"], "good", "{migrations}");
    well(url, &["migrate", "up"]).await;
    let again: Vec<Value> = serde_json::from_str(&well(url, &["migrate", "status", "-o", "json"]).await).unwrap();
    assert_eq!(again, status);
}

/// Histories of migrations, but for ours.
async fn elsewhere(connection: &mut PgConnection) -> Vec<String> {
    let tables = "select coalesce(array_agg(relnamespace::regnamespace::text order by 1), '{}') from pg_class
        where relname = '_sqlx_migrations' and relnamespace <> 'noshi_migrations'::regnamespace";
    value(connection, tables).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_of_any_name_migrates_again_and_again() {
    for (owner, database) in [("noshi", "given_noshi"), ("app", "given_app"), ("noshi_sealed", "given_sealed")] {
        let url = given(owner, database).await;
        let unmigrated = well(&url, &["migrate", "status", "-o", "json"]).await;
        assert!(unmigrated.contains("pending") && !unmigrated.contains("\"applied\""), "{unmigrated}");
        // As `docker compose up` of several services does it.
        let up = ["migrate", "up"];
        let (one, other) = tokio::join!(noshi(&url, &up), noshi(&url, &up));
        for said in [one, other] {
            assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
        }
        holds(&url).await;
        let mut root = root(server().await, database).await;
        assert!(elsewhere(&mut root).await.is_empty());
    }
}

fn of_another_application() -> Migrator {
    let migration = |version: i64, sql: &'static str| {
        Migration::new(version, "theirs".into(), MigrationType::Simple, sql.into_sql_str(), false)
    };
    Migrator::with_migrations(vec![
        migration(2, "create table public.theirs ()"),
        migration(20_240_101_000_000, "create table public.also_theirs ()"),
    ])
}

const THEIRS: &str =
    "select string_agg(version || ' ' || encode(checksum, 'hex'), ',' order by version) from public._sqlx_migrations";

/// What was installed before the schema was written anew, wherever its history is; and a migration that was edited after it was applied.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_other_migrations_is_refused_with_what_to_do() {
    let url = given("app", "other_files").await;
    well(&url, &["migrate", "up"]).await;
    let mut root = root(server().await, "other_files").await;
    let all = "select count(*) || ' ' || max(installed_on) || ' ' || (select count(*) from noshi.audit) from noshi_migrations._sqlx_migrations";
    let kept: String = value(&mut root, all).await;
    run(&mut root, "update noshi_migrations._sqlx_migrations set checksum = '\\x00' where version = 2").await;
    assert!(refused(&url, &["migrate", "up"]).await.contains("migration 2 was applied, and reads otherwise"));
    run(&mut root, "grant noshi_worker to app").await;
    let work = ["worker", "run", "--name", "one"];
    let said = refused(&url, &work).await;
    assert!(said.contains("migrations read otherwise than this program's"), "{said}");
    run(&mut root, "update noshi_migrations._sqlx_migrations set checksum = sha384(version::text::bytea)").await;
    let said = refused(&url, &["migrate", "up"]).await;
    assert!(said.contains("before the first release") && said.contains("create another database"), "{said}");
    assert!(well(&url, &["migrate", "status"]).await.contains("changed"));
    assert_eq!(value::<String>(&mut root, all).await, kept);
    // Its history where the login's search path led, as still earlier builds left it.
    run(&mut root, "create table public._sqlx_migrations as select * from noshi_migrations._sqlx_migrations").await;
    run(&mut root, "drop schema noshi_migrations cascade").await;
    assert!(refused(&url, &["migrate", "up"]).await.contains("create another database"));
    assert!(value::<bool>(&mut root, "select to_regnamespace('noshi_migrations') is null").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_application_with_the_same_library_is_left_alone_and_leaves_us_alone() {
    let url = given("app", "shared_first").await;
    let mut theirs = PgConnection::connect(&url).await.unwrap();
    of_another_application().run(&mut theirs).await.expect("theirs come first");
    let before: String = value(&mut theirs, THEIRS).await;
    well(&url, &["migrate", "up"]).await;
    holds(&url).await;
    assert_eq!(value::<String>(&mut theirs, THEIRS).await, before);
    of_another_application().run(&mut theirs).await.expect("theirs go on");

    let url = given("noshi", "shared_second").await;
    well(&url, &["migrate", "up"]).await;
    let mut theirs = PgConnection::connect(&server().await.url("shared_second")).await.unwrap();
    of_another_application().run(&mut theirs).await.expect("ours do not stand in their way");
    holds(&url).await;
    assert_eq!(value::<String>(&mut theirs, THEIRS).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_of_that_name_which_is_not_ours_is_told() {
    let url = given("app", "taken").await;
    run(&mut PgConnection::connect(&url).await.unwrap(), "create schema noshi").await;
    let said = refused(&url, &["migrate", "up"]).await;
    assert!(said.contains("or by something else") && said.contains("nothing was changed"), "{said}");
    let mut root = root(server().await, "taken").await;
    assert!(value::<bool>(&mut root, "select to_regnamespace('noshi_migrations') is null").await);
}

/// Defaults that a host may have set for the database; each alone must not matter.
const DEFAULTS: [&str; 18] = [
    "search_path = ''",
    "search_path = 'nowhere'",
    "standard_conforming_strings = off",
    "timezone = 'America/New_York'",
    "datestyle = 'SQL, DMY'",
    "intervalstyle = 'sql_standard'",
    "bytea_output = 'escape'",
    "default_transaction_isolation = 'serializable'",
    "default_transaction_deferrable = on",
    "transform_null_equals = on",
    "array_nulls = off",
    "extra_float_digits = 0",
    "lock_timeout = '50ms'",
    "statement_timeout = '700ms'",
    "quote_all_identifiers = on",
    "check_function_bodies = off",
    "backslash_quote = off",
    "client_min_messages = 'error'",
];

/// All that is on turned off, and the other way round, but what no database could work with.
async fn switches(root: &mut PgConnection) -> Vec<String> {
    const SWITCHES: &str = "select name || ' = ' || case setting when 'on' then 'off' else 'on' end from pg_settings
        where vartype = 'bool' and context in ('user', 'superuser') and category not like 'Developer%'
          and name !~ '^(transaction_|default_transaction_read_only|exit_on_error|log_|debug_|track_|update_process_title|lo_compat|enable_|jit_)' order by name";
    let switches: Vec<String> = sqlx::query_scalar(SWITCHES).fetch_all(root).await.expect("the settings");
    assert!(switches.len() > 10, "{switches:?}");
    switches
}

#[tokio::test(flavor = "multi_thread")]
async fn defaults_of_another_taste_change_nothing() {
    let _turn = crate::support::busy().await;
    let url = given("noshi", "tasteful").await;
    let server = server().await;
    let mut root = root(server, "postgres").await;
    for default in DEFAULTS {
        run(&mut root, &format!("alter database tasteful set {default}")).await;
    }
    // And every switch that a session may turn is turned: what is not ours to know by name may matter too.
    for switch in switches(&mut root).await {
        run(&mut root, &format!("alter database tasteful set {switch}")).await;
    }
    well(&url, &["migrate", "up"]).await;
    holds(&url).await;
    // A day of a session's zone has 23 to 25 hours; functions have a zone of their own, and views have not.
    let in_days = "select coalesce(string_agg(viewname, ', '), 'none') from pg_views
        where schemaname like 'noshi%' and definition ~* '(days =>|[0-9] days?''::interval)'";
    let mut reader = PgConnection::connect(&server.url("tasteful")).await.unwrap();
    // This question is ours, and may take its time on a machine that stands still.
    run(&mut reader, "set statement_timeout = 0").await;
    assert_eq!(value::<String>(&mut reader, in_days).await, "none");
    // Whatever the producer's own session has.
    let mut producer = PgConnection::connect(&server.url("tasteful")).await.unwrap();
    run(&mut producer, "set role noshi_producer; set statement_timeout = 0").await;
    let ask = r#"select noshi.enqueue('gift_issuance', 'order/1', '{"grant": "order/1", "user": "u", "category": "digital", "value": {"amount": 500, "currency": "JPY"}}')"#;
    for default in DEFAULTS {
        run(&mut producer, &format!("set {default}")).await;
        assert_eq!(value::<i64>(&mut producer, ask).await, 1, "{default}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_encoding_is_refused_before_anything_is_made() {
    let server = server().await;
    let mut root = root(server, "postgres").await;
    for encoding in ["SQL_ASCII", "EUC_JP", "LATIN1", "EUC_KR", "WIN1252"] {
        let name = format!("encoded_{}", encoding.to_lowercase());
        run(&mut root, &format!("create database {name} encoding '{encoding}' locale 'C' template template0")).await;
        let said = refused(&server.url(&name), &["migrate", "up"]).await;
        assert!(said.contains(&format!("the database {name} has the encoding {encoding}")), "{said}");
        let mut inside = PgConnection::connect(&server.url(&name)).await.unwrap();
        let made = "select count(*) from pg_namespace where nspname like 'noshi%'";
        assert_eq!(value::<i64>(&mut inside, made).await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn temporary_tables_of_others_stay_theirs() {
    let url = given("app", "shared_temporary").await;
    well(&url, &["migrate", "up"]).await;
    let server = server().await;
    run(&mut root(server, "postgres").await, "create role app_web login").await;
    let mut web = PgConnection::connect(&server.url_as("app_web", "shared_temporary")).await.unwrap();
    run(&mut web, "create temporary table t (i int)").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_installer_is_told_which_roles_it_has_to_be_given() {
    // The first one.
    crate::support::database().await;
    let url = given_to_a_second("second", "given_second").await;
    let mut root = root(server().await, "postgres").await;
    let version: i32 = value(&mut root, "select current_setting('server_version_num')::int").await;
    if version >= 160_000 {
        let said = refused(&url, &["migrate", "up"]).await;
        let (_, from) = said.split_once("say: ").expect("what to say");
        let (grant, after) = from.split_once("; ").expect("the end of it");
        assert!(after.contains("Nothing was changed") && grant.contains("noshi_owner"), "{said}");
        run(&mut root, grant).await;
    }
    well(&url, &["migrate", "up"]).await;
    // As the page goes on.
    let mut second = PgConnection::connect(&url).await.unwrap();
    run(&mut second, "create role seconds_worker login in role noshi_worker").await;
}

/// Answers as something else than PostgreSQL does. The port.
fn another_service() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            _ = std::io::Write::write_all(&mut stream.unwrap(), b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    port
}

/// What a login may not, said once, without the words of libraries.
#[tokio::test(flavor = "multi_thread")]
async fn why_a_database_is_not_migrated_is_told_once() {
    let url = given("app", "lame").await;
    let mut root = root(server().await, "postgres").await;
    run(&mut root, "create role lame login").await;
    run(&mut root, "alter database lame set default_transaction_read_only = on").await;
    let said = refused(&url, &["migrate", "up"]).await;
    assert!(said.contains("this server takes no writes") && !said.contains("may make no schema"), "{said}");
    run(&mut root, "alter database lame reset default_transaction_read_only").await;
    well(&url, &["migrate", "up"]).await;
    for said in [said, refused(&server().await.url_as("lame", "lame"), &["migrate", "up"]).await] {
        assert!(!said.contains("at line") && !said.contains("error returned from"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_keeps_a_login_out_is_told_in_a_sentence_at_once() {
    let url = given("app", "reached").await;
    let server = server().await;
    let mut root = root(server, "postgres").await;
    for made in ["create role uninvited login", "create database empty"] {
        run(&mut root, made).await;
    }
    well(&url, &["migrate", "up"]).await;
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let socket = server.directory().display().to_string();
    let web = another_service();
    let cases = [
        (server.url_as("uninvited", "reached"), "the login uninvited may not act as noshi_operator"),
        (format!("postgres://app@127.0.0.1:{free}/reached"), "no PostgreSQL listens at 127.0.0.1"),
        (format!("postgres://app@localhost:{free}/reached?host={socket}"), "no PostgreSQL listens at"),
        (server.url_as("nobody_at_all", "reached"), "does not let the login nobody_at_all in"),
        (server.url_as("app", "missing"), "has no database missing"),
        (server.url("empty"), "the database empty has no schema of noshi: run `noshi migrate up`"),
        ("mysql://app@localhost/reached".to_owned(), "DATABASE_URL is not a PostgreSQL URL"),
        (
            format!("{}&sslmod=verify-full", server.url_as("app", "reached")),
            "the parameter sslmod, which noshi does not know",
        ),
        (format!("postgres://app@127.0.0.1:{web}/reached"), "is no PostgreSQL server: check host and port"),
        ("postgres://app@host name/reached".to_owned(), "DATABASE_URL is not a PostgreSQL URL"),
    ];
    // Who may not read the history cannot know what is applied.
    let examined = noshi(&server.url_as("uninvited", "reached"), &["doctor"]).await;
    let said = String::from_utf8_lossy(&[examined.stdout, examined.stderr].concat()).into_owned();
    assert!(said.contains("may not see which are applied") && !said.contains("are not applied"), "{said}");
    for (url, expected) in cases {
        for command in [["job", "list"], ["lane", "list"]] {
            let begun = Instant::now();
            let said = refused(&url, &command).await;
            assert!(said.contains(expected), "{url}: {said}");
            assert_eq!(said.trim().lines().count(), 1, "{said}");
            assert!(said.matches("PostgreSQL").count() <= 2 && !said.contains("pool timed out"), "{said}");
            assert!(begun.elapsed().as_secs_f64() < 2.5, "{url} took {:?}", begun.elapsed());
        }
    }
}
