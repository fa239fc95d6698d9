//! SQL roles, proved: ops/roles.md is what the catalog grants, and for each role every table, column and function is tried.
//! `NOSHI_REDRAW=1` draws ops/roles.md and ops/reports.md anew.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path};

use sqlx::{AssertSqlSafe, Row};

use crate::support::{database, is_as_drawn};
use noshi::db::{PgConnection, PgPool};

/// Those that the migrations make; the logins of other tests on this server are no roles.
const ROLES: &str = "select rolname::text from pg_roles
    where rolname like 'noshi\\_%' and rolname <> 'noshi_owner' and not rolcanlogin order by 1";

/// Tables and views with their columns, and whether each role may do each thing to each of them.
const COLUMNS: &str = "select format('%I.%I', n.nspname, c.relname) as name, c.relname::text as bare, c.relkind = 'v' as view, a.attname::text as \"column\",
    has_schema_privilege($1, n.oid, 'usage') and has_column_privilege($1, c.oid, a.attnum, 'select') as \"select\",
    has_schema_privilege($1, n.oid, 'usage') and has_column_privilege($1, c.oid, a.attnum, 'insert') as \"insert\",
    has_schema_privilege($1, n.oid, 'usage') and has_column_privilege($1, c.oid, a.attnum, 'update') as \"update\",
    has_table_privilege($1, c.oid, 'delete') as \"delete\", has_table_privilege($1, c.oid, 'truncate') as \"truncate\"
from pg_class c join pg_namespace n on n.oid = c.relnamespace join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
where c.relkind in ('r', 'v') and n.nspname in ('noshi', 'noshi_sealed', 'noshi_migrations', 'public') order by 1, a.attnum";

const FUNCTIONS: &str = "select p.proname::text as bare, format('%s(%s)', p.proname, pg_get_function_identity_arguments(p.oid)) as name,
    format('select %I.%I(%s)', n.nspname, p.proname,
        (select string_agg('null::' || format_type(t, null), ', ' order by o) from unnest(p.proargtypes::oid[]) with ordinality as t(t, o))) as call,
    p.proisstrict as strict, has_function_privilege($1, p.oid, 'execute') as may
from pg_proc p join pg_namespace n on n.oid = p.pronamespace where n.nspname in ('noshi', 'noshi_sealed', 'noshi_migrations', 'public') order by 2";

const ACTS: [&str; 3] = ["select", "insert", "update"];

struct Column {
    table: String,
    bare: String,
    view: bool,
    name: String,
    may: [bool; 3],
    delete: bool,
    truncate: bool,
}

struct Function {
    bare: String,
    name: String,
    call: String,
    strict: bool,
    may: bool,
}

async fn roles(pool: &PgPool) -> Vec<String> {
    sqlx::query_scalar(ROLES).fetch_all(pool).await.expect("roles")
}

async fn columns(pool: &PgPool, role: &str) -> Vec<Column> {
    let rows = sqlx::query(COLUMNS).bind(role).fetch_all(pool).await.expect("columns");
    let read = |row: &sqlx::postgres::PgRow| Column {
        table: row.get("name"),
        bare: row.get("bare"),
        view: row.get("view"),
        name: row.get("column"),
        may: ACTS.map(|act| row.get(act)),
        delete: row.get("delete"),
        truncate: row.get("truncate"),
    };
    rows.iter().map(read).collect()
}

async fn functions(pool: &PgPool, role: &str) -> Vec<Function> {
    let rows = sqlx::query(FUNCTIONS).bind(role).fetch_all(pool).await.expect("functions");
    let read = |row: &sqlx::postgres::PgRow| Function {
        bare: row.get("bare"),
        name: row.get("name"),
        call: row.get("call"),
        strict: row.get("strict"),
        may: row.get("may"),
    };
    rows.iter().map(read).collect()
}

/// What a role may do to each table, in words: `select`, or `update (status, lane)` where not all columns are meant.
fn granted(columns: &[Column]) -> BTreeMap<String, String> {
    let mut tables: BTreeMap<String, Vec<&Column>> = BTreeMap::new();
    for column in columns {
        tables.entry(column.table.clone()).or_default().push(column);
    }
    let words = |columns: Vec<&Column>| {
        let mut words = vec![];
        for (act, name) in ACTS.iter().enumerate() {
            let some: Vec<&str> = columns.iter().filter(|c| c.may[act]).map(|c| c.name.as_str()).collect();
            match some.len() {
                0 => {}
                all if all == columns.len() => words.push((*name).to_owned()),
                _ => words.push(format!("{name} ({})", some.join(", "))),
            }
        }
        words.extend(columns[0].delete.then(|| "delete".to_owned()));
        words.extend(columns[0].truncate.then(|| "truncate".to_owned()));
        words.join(", ")
    };
    tables.into_iter().map(|(table, columns)| (table, words(columns))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_table_of_roles_is_what_the_catalog_grants() {
    let pool = database().await.pool;
    let roles = roles(&pool).await;
    let mut tables: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut calls: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for role in &roles {
        for (table, words) in granted(&columns(&pool, role).await) {
            tables.entry(table).or_default().push(words);
        }
        for function in functions(&pool, role).await {
            let may = calls.entry(function.name).or_default();
            may.extend(function.may.then_some(role.as_str()));
        }
    }
    let mut text = String::from(
        "# What each role may do\n\nDrawn from the catalog of a migrated database; `tests/it/rights.rs` compares it, and tries for each role every table, column and\nfunction: what is not listed is refused. `noshi_owner` owns everything; nobody works as it. No role may delete or truncate unless it is said.\n\n## Tables and views\n\n",
    );
    for (table, words) in &tables {
        let said: Vec<String> = roles
            .iter()
            .zip(words)
            .filter(|(_, words)| !words.is_empty())
            .map(|(role, words)| format!("- `{role}`: {words}\n"))
            .collect();
        let said = if said.is_empty() { "- nobody\n".to_owned() } else { said.concat() };
        let _ = write!(text, "### {table}\n\n{said}\n");
    }
    text += "## Functions\n\n| function | may be executed by |\n|---|---|\n";
    for (name, may) in &calls {
        let may = match may.len() {
            0 => "nobody: for triggers, and inside of other functions".to_owned(),
            all if all == roles.len() => "everybody".to_owned(),
            _ => may.join(", "),
        };
        let _ = writeln!(text, "| `{name}` | {may} |");
    }
    is_as_drawn("ops/roles.md", &text);
}

/// Whether permission on this object was refused; whatever else may have gone wrong.
async fn is_refused(connection: &mut PgConnection, sql: &str, object: &str) -> bool {
    let run = |sql: &str| sqlx::raw_sql(AssertSqlSafe(sql.to_owned()));
    run("begin").execute(&mut *connection).await.expect("a transaction");
    let error = run(sql).execute(&mut *connection).await.err();
    run("rollback").execute(&mut *connection).await.expect("rolled back");
    let message = error.and_then(|error| error.as_database_error().map(|e| e.message().to_owned())).unwrap_or_default();
    let of = ["table", "view", "function"].map(|what| format!("permission denied for {what} {object}"));
    of.iter().any(|of| message.ends_with(of.as_str())) || message.contains("permission denied for schema")
}

/// A view that cannot be written says so before anybody's permission is looked at.
async fn fails(connection: &mut PgConnection, sql: &str) -> bool {
    let begun = format!("begin; {sql}; rollback");
    let failed = sqlx::raw_sql(AssertSqlSafe(begun)).execute(&mut *connection).await.is_err();
    sqlx::raw_sql("rollback").execute(&mut *connection).await.expect("rolled back");
    failed
}

#[tokio::test(flavor = "multi_thread")]
async fn each_role_is_refused_exactly_what_is_not_granted() {
    let pool = database().await.pool;
    let mut tried = 0;
    for role in roles(&pool).await {
        let login = format!("tries_{role}");
        let create = format!("create role {login} login in role {role}");
        sqlx::raw_sql(AssertSqlSafe(create)).execute(&pool).await.expect("a login");
        let mut connection = pool.acquire().await.expect("a connection").detach();
        let become_it =
            format!("set session authorization {login}; set statement_timeout = '20s'; set lock_timeout = '5s'");
        sqlx::raw_sql(AssertSqlSafe(become_it)).execute(&mut connection).await.expect("the login's session");
        let columns = columns(&pool, &role).await;
        let mut last = String::new();
        for column in &columns {
            let Column { table, bare, name, .. } = column;
            let statements = [
                format!("select {name} from {table} where false"),
                format!("insert into {table} ({name}) values (default)"),
                format!("update {table} set {name} = default where false"),
            ];
            for (may, sql) in column.may.iter().zip(statements) {
                tried += 1;
                match column.view && !sql.starts_with("select") {
                    true => assert!(!may && fails(&mut connection, &sql).await, "{role}: {sql}"),
                    false => assert_eq!(is_refused(&mut connection, &sql, bare).await, !may, "{role}: {sql}"),
                }
            }
            if *table != last {
                last.clone_from(table);
                let statements = [
                    (column.delete, format!("delete from {table} where false")),
                    (column.truncate, format!("truncate {table}")),
                ];
                for (may, sql) in statements {
                    tried += 1;
                    match column.view {
                        true => assert!(!may && fails(&mut connection, &sql).await, "{role}: {sql}"),
                        false => assert_eq!(is_refused(&mut connection, &sql, bare).await, !may, "{role}: {sql}"),
                    }
                }
            }
        }
        for function in functions(&pool, &role).await {
            assert!(!function.strict, "{} is strict: without arguments it is not called at all", function.name);
            tried += 1;
            let refused = is_refused(&mut connection, &function.call, &function.bare).await;
            assert_eq!(refused, !function.may, "{role}: {}", function.call);
        }
    }
    assert!(tried > 3_000, "only {tried} were tried");
}

const REPORTS: &str = "select c.relname::text as view, obj_description(c.oid) as about, a.attname::text as \"column\", format_type(a.atttypid, null) as type,
    col_description(c.oid, a.attnum) as what
from pg_class c join pg_namespace n on n.oid = c.relnamespace join pg_attribute a on a.attrelid = c.oid and a.attnum > 0
where n.nspname = 'noshi' and c.relkind = 'v' and has_table_privilege('noshi_reader', c.oid, 'select') order by 1, a.attnum";

#[tokio::test(flavor = "multi_thread")]
async fn every_column_of_every_report_says_what_it_is() {
    let pool = database().await.pool;
    let mut text = String::from(
        "# Reports\n\nViews for BI tools, read as `noshi_reader`; no codes, no addresses. Drawn from the comments in the database; `tests/it/rights.rs`\ncompares it. Jobs that were pruned are in them like the others.\n",
    );
    let mut last = String::new();
    for row in sqlx::query(REPORTS).fetch_all(&pool).await.expect("columns") {
        let view: String = row.get("view");
        let word = |name: &str| {
            row.get::<Option<String>, _>(name)
                .unwrap_or_else(|| panic!("{view}: no {name} of {:?}", row.get::<String, _>("column")))
        };
        if view != last {
            let _ = write!(
                text,
                "\n## noshi.{view}\n\n{}\n\n| column | type | what it is |\n|---|---|---|\n",
                word("about")
            );
        }
        let _ = writeln!(text, "| {} | {} | {} |", word("column"), word("type"), word("what"));
        last = view;
    }
    is_as_drawn("ops/reports.md", &text);
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_tell_of_pruned_jobs_as_of_others() {
    let pool = database().await.pool;
    let jobs = "insert into noshi.job (kind, key, fingerprint, args, at, status, outcome, created_at, finished_at) values
            ('gift_issuance', 'g1', '', '{\"user\": \"u1\"}', 'issued', 'completed', 'issued', now() - interval '101 days', now() - interval '100 days'),
            ('email', 'gift_granted:1:g1', '', '{\"reference\": \"g1\"}', 'accepted', 'completed', 'accepted', now() - interval '101 days', now() - interval '100 days');
        insert into noshi.gift_trade (id, grant_id, generation, job, provider, category, amount, currency) values ('t1', 'g1', 0, 1, 'p', 'digital', 500, 'JPY');
        insert into noshi.gift_outcome (trade, outcome, card) values ('t1', 'issued', 'c1');
        insert into noshi.email_event (id, job, event) select 'e', id, 'delivery' from noshi.job where kind = 'email'";
    sqlx::raw_sql(jobs).execute(&pool).await.expect("jobs");
    let told = "select jsonb_build_object('gifts', (select jsonb_agg(to_jsonb(h) - 'pruned') from noshi.gift_issuance_history h),
        'mails', (select jsonb_agg(to_jsonb(h) - 'pruned') from noshi.email_history h))";
    let told = async || -> serde_json::Value { sqlx::query_scalar(told).fetch_one(&pool).await.expect("a report") };
    let before = told().await;
    let gift = &before["gifts"][0];
    assert_eq!(
        (gift["user_id"].as_str(), gift["amount"].as_i64(), gift["outcome"].as_str()),
        (Some("u1"), Some(500), Some("issued"))
    );
    assert_eq!(
        (before["mails"][0]["template"].as_str(), before["mails"][0]["fate"].as_str()),
        (Some("gift_granted"), Some("delivered"))
    );
    let pruned: i32 = sqlx::query_scalar("select pruned from noshi.prune(10)").fetch_one(&pool).await.expect("pruned");
    assert_eq!((pruned, told().await), (2, before));
}

/// Who is trusted with what, and how far that goes by themselves. What a login may do is seen in the catalog.
struct Trusted {
    who: &'static str,
    /// The database's role, where that is what they have.
    role: &'static str,
    has: &'static str,
    worst: &'static str,
    seen_by: &'static str,
    tests: &'static [&'static str],
}

const TRUSTED: [Trusted; 11] = [
    Trusted {
        who: "producer",
        role: "noshi_producer",
        has: "a login, or a token to `enqueue`",
        worst: "asks for gifts, stores and points that nobody wanted, within the caps of partners; uses up and withdraws points of users in their name; takes no id that a batch, an exchange or a schedule needs, but for one way: under a snapshot that is older than a file it asks for the id of a row first; nothing is bought or booked for that, and the row's user waits for a person",
        seen_by: "journal, `gift_issuance_history`",
        tests: &[
            "roles::a_producer_may_enqueue_and_nothing_else",
            "peace::ids_that_noshi_makes_are_its_own",
            "alone::an_older_snapshot_takes_no_row_of_a_file_and_shows_no_token",
            "point_jobs::an_older_snapshot_takes_no_points_of_a_file",
        ],
    },
    Trusted {
        who: "operator",
        role: "noshi_operator",
        has: "a login, or a token to `operate`",
        worst: "grants below the threshold of a day; asks jobs to go on, and takes delivered gifts back, below the cap of a day; pauses lanes and batches",
        seen_by: "audit, `noshi audit verify`, caps",
        tests: &[
            "alone::a_file_that_is_cut_needs_an_approval_all_the_same",
            "explorer::nobody_alone_grants_more_than_one_person_may_in_files",
        ],
    },
    Trusted {
        who: "approver",
        role: "",
        has: "the same login or token, for what others asked",
        worst: "nothing alone; with the operator whom they approve, whatever the caps allow",
        seen_by: "audit, with both names",
        tests: &[
            "alone::a_word_about_money_waits_for_a_second_person",
            "batches::who_submits_does_not_approve_and_nobody_goes_round_it",
        ],
    },
    Trusted {
        who: "owner of the schema",
        role: "",
        has: "owns tables and caps",
        worst: "sets caps, makes tokens (and so has a worker open what those may see), and drops triggers; nothing in the database holds them",
        seen_by: "the audit's newest link, kept elsewhere: `noshi audit verify --expect`",
        tests: &["audit::a_chain_written_anew_is_told_by_a_link_that_was_kept"],
    },
    Trusted {
        who: "worker host",
        role: "noshi_worker",
        has: "a login, partners' keys, the key of the vault",
        worst: "buys within the limits of the account; says for a partner what it did not say, of what it holds: a trade that it calls void is bought again, as often as it says so; says once for each start of the server that commits were lost, which puts jobs in doubt; opens what is sealed; stops the fleet. It asks for nothing of value, and changes no request, no past and no approval",
        seen_by: "the partner's list of trades against `gift_trade_history`; audit of losses, `noshi doctor`",
        tests: &[
            "dump::tests::gifts_through_faults_break_no_rule",
            "roles::a_workers_login_holds_a_job_by_a_claim_alone",
            "explorer::a_workers_login_makes_no_value_and_changes_no_request",
            "roles::a_workers_login_alone_marks_no_restore",
        ],
    },
    Trusted {
        who: "host of the interface",
        role: "noshi_api",
        has: "a login that acts by tokens, the public key of the vault, which seals and opens nothing; no partner's key",
        worst: "shows what is shown to it: tokens while they are in use, codes and reports that are asked for with them, of one person no more codes an hour than `noshi.reveal_cap` has; buys nothing",
        seen_by: "audit of reveals and reports, each written before it is opened",
        tests: &[
            "readings::a_host_with_no_secret_reveals_reports_and_approves",
            "alone::a_tokens_digest_lets_nobody_in",
            "secrets::a_code_that_is_shown_stands_nowhere_else",
            "readings::one_person_shows_so_many_codes_an_hour",
        ],
    },
    Trusted {
        who: "host of an operator",
        role: "",
        has: "an operator's login, the public key of the vault; to submit gifts, what is sold: the tables `[gifts]`, whose secret files it needs not",
        worst: "reads the reports that it asks for",
        seen_by: "audit of reports",
        tests: &["readings::a_reading_is_opened_by_whoever_may_see_it"],
    },
    Trusted {
        who: "host of the API for events",
        role: "noshi_webhook",
        has: "a login",
        worst: "keeps events that nobody sent: an address is suppressed that did not bounce, a message or a shop is said to be what it is not",
        seen_by: "`email_event`, `suppression`",
        tests: &["roles::the_api_keeps_events_and_sees_nothing"],
    },
    Trusted {
        who: "reader of the database",
        role: "noshi_reader",
        has: "a login",
        worst: "reads reports; holds nothing up but what the server shares: give its login a `connection limit`",
        seen_by: "`pg_stat_activity`",
        tests: &["roles::a_reader_reads_the_reports_alone", "peace::no_lock_of_a_reader_holds_an_act_up"],
    },
    Trusted {
        who: "partner",
        role: "",
        has: "its own answers",
        worst: "says that a gift exists which does not, or the other way round",
        seen_by: "reconciliation with its list; `gift_conflict`",
        tests: &["planted_bugs::every_planted_bug_is_caught_and_nothing_else_is"],
    },
    Trusted {
        who: "whoever has a backup",
        role: "",
        has: "all rows, sealed values as ciphertext",
        worst: "reads users, amounts, and the names of stores",
        seen_by: "–",
        tests: &[
            "secrets::no_code_and_no_recipient_stands_anywhere_but_sealed",
            "secrets::no_address_and_no_phone_of_a_store_stands_anywhere_but_sealed",
        ],
    },
];

/// All names where they are few, or how many there are.
fn few(verb: &str, names: &[String], what: &str) -> Option<String> {
    match names.len() {
        0 => None,
        1..=7 => Some(format!("{verb} {}", names.join(", "))),
        many => Some(format!("{verb} {many} {what}s")),
    }
}

/// What a role may do by SQL, in a sentence, as the catalog grants it and as the test above has tried it.
async fn by_sql(pool: &PgPool, role: &str) -> String {
    let of_all = |f: &Function| f.bare == "journal_is_append_only" || f.bare == "differing_fields";
    let calls = functions(pool, role).await.into_iter().filter(|f| f.may && !of_all(f));
    let mut calls: Vec<String> = calls.map(|f| format!("`{}`", f.bare)).collect();
    calls.dedup();
    let tables = granted(&columns(pool, role).await);
    let with = |act: &str| -> Vec<String> {
        let may = tables.iter().filter(|(_, words)| words.split(", ").any(|word| word.split(' ').next() == Some(act)));
        may.map(|(table, _)| format!("`{}`", table.trim_start_matches("noshi."))).collect()
    };
    let parts = [
        few("executes", &calls, "function"),
        few("reads", &with("select"), "table"),
        few("inserts into", &with("insert"), "table"),
        few("updates", &with("update"), "table"),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join("; ")
}

fn assert_there(root: &Path, name: &str) {
    let (file, test) = name.split_once("::").expect("a file and a test");
    let test = test.rsplit("::").next().expect("a test");
    let folder = root.join("tests/it").join(file);
    let text: String = std::iter::once(folder.with_extension("rs"))
        .chain(fs::read_dir(&folder).into_iter().flatten().map(|entry| entry.expect("a file").path()))
        .filter_map(|path| fs::read_to_string(path).ok())
        .collect();
    assert!(text.contains(&format!("fn {test}(")), "{name} is not there");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_table_of_trust_is_drawn_and_each_row_has_its_test() {
    let pool = database().await.pool;
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut table =
        String::from("| who | has | may, by SQL | at worst, alone | seen by | test |\n|---|---|---|---|---|---|\n");
    let mut of_people: Vec<&str> = vec![];
    for Trusted { who, role, has, worst, seen_by, tests } in TRUSTED {
        assert!(!tests.is_empty(), "{who}");
        tests.iter().for_each(|name| assert_there(root, name));
        let may = if role.is_empty() { "–".to_owned() } else { format!("`{role}` {}", by_sql(&pool, role).await) };
        let tests: Vec<String> = tests.iter().map(|name| format!("`{name}`")).collect();
        let _ = writeln!(table, "| {who} | {has} | {may} | {worst} | {seen_by} | {} |", tests.join(", "));
        of_people.push(role);
    }
    for role in roles(&pool).await {
        assert!(of_people.contains(&role.as_str()), "nobody in the table of trust has {role}");
    }
    let page = fs::read_to_string(root.join("SECURITY.md")).expect("the page");
    let (start, rest) = page.split_once("from what the catalog grants -->\n").expect("the table");
    let (_, end) = rest.split_once("<!-- end -->").expect("its end");
    is_as_drawn("SECURITY.md", &format!("{start}from what the catalog grants -->\n{table}<!-- end -->{end}"));
}
