//! Behind the functions' backs: what the tables refuse even to their owner, and what `verify_points` sees once all guards are off.

use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};

use super::{Grant, assert_holds, at, expire, grant, spend, take_back, withdraw};
use crate::support::{TestDatabase, database};
use noshi::db::PgPool;

/// Lots 1 to 3 of "u", of which 2 is open, and 3 what came back of entry 3; "v" has lot 4; "w" is gone.
async fn a_little_of_everything(pool: &PgPool) {
    let when = at("2025-10-01T00:00");
    let g = Grant {
        at: when,
        key: "g1",
        user: "u",
        amount: 5,
        source: "1",
        expires_at: at("2025-10-09T00:00"),
        area: None,
    };
    grant(pool, g).await.expect("entry 1");
    let second =
        Grant { key: "g2", amount: 10, source: "2", expires_at: at("2027-01-01T00:00"), area: Some("akita"), ..g };
    grant(pool, second).await.expect("entry 2");
    spend(pool, when, "c1", ("u", 4, Some("akita"))).await.expect("entry 3");
    take_back(pool, at("2025-10-02T00:00"), "r1", ("c1", 0)).await.expect("entry 4");
    spend(pool, at("2025-10-03T00:00"), "c2", ("u", 2, None)).await.expect("entry 5");
    grant(pool, Grant { key: "g3", user: "v", source: "3", expires_at: at("2027-01-01T00:00"), ..g })
        .await
        .expect("entry 6");
    grant(pool, Grant { key: "g4", user: "w", source: "4", ..g }).await.expect("entry 7");
    withdraw(pool, at("2025-10-02T00:00"), "w", "w").await.expect("entry 8");
    assert_eq!(expire(pool, at("2025-10-10T00:00"), 10).await.expect("entry 9").0, 1);
    assert_holds(pool).await;
}

async fn code(connection: &mut PgConnection, sql: &str) -> String {
    let mut transaction = connection.begin().await.expect("a transaction");
    let done = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut *transaction).await;
    let code = match done {
        Ok(_) => transaction.commit().await.map(|()| "done".to_owned()),
        Err(error) => Err(error),
    };
    code.unwrap_or_else(|e| e.as_database_error().and_then(|e| e.code()).unwrap_or_default().into_owned())
}

const ENTRY: &str =
    "insert into noshi.point_entry (key, digest, kind, user_id, seq, at, amount, balance, exercise) values";
const LINES: &str = "insert into noshi.point_line (entry, account, side, amount) values";
const LOT: &str = "insert into noshi.point_lot (entry, user_id, amount, remaining, granted_at, expires_at) values";
const ALLOCATION: &str = "insert into noshi.point_allocation (lot, entry, amount) values";

#[tokio::test(flavor = "multi_thread")]
async fn not_even_the_owner_makes_the_ledger_wrong() {
    let TestDatabase { pool, url, .. } = database().await;
    a_little_of_everything(&pool).await;
    let mut owner = PgConnection::connect(&url).await.expect("a connection");
    sqlx::raw_sql("set role noshi_owner").execute(&mut owner).await.expect("the owner's role");
    let exercise = "insert into noshi.benefit_exercise (benefit, source, user_id, at) values ('b', 'b', 'v', now())";
    let digest = "sha256('x')";
    // A correct grant but for one thing each, as one statement.
    let whole = |seq: i64, balance: i64, lines: &str, lot: &str| {
        format!(
            "{exercise}; with e as ({ENTRY} ('x', {digest}, 'grant', 'v', {seq}, now(), 5, {balance}, (select max(id) from noshi.benefit_exercise)) returning id),
             l as (insert into noshi.point_line (entry, account, side, amount) select id, a::noshi.point_account_code, s, n from e, (values {lines}) v(a, s, n))
             insert into noshi.point_lot (entry, user_id, amount, remaining, granted_at, expires_at) select e.id, {lot} from e"
        )
    };
    let lines = "('user_points', 'C', 5), ('points_granted', 'D', 5)";
    let lot = "'v', 5, 5, now(), '2030-01-01'";
    let mut refused: Vec<(&str, String)> = vec![
        ("NS001", whole(3, 10, lines, lot)),
        ("NS001", whole(2, 11, lines, lot)),
        ("NS001", whole(2, 10, "('user_points', 'C', 5), ('points_granted', 'D', 4)", lot)),
        ("NS001", whole(2, 10, "('user_points', 'C', 4), ('points_granted', 'D', 4)", lot)),
        ("NS001", whole(2, 10, "('user_points', 'D', 5), ('points_granted', 'C', 5)", lot)),
        ("NS001", whole(2, 10, "('points_used', 'C', 5), ('points_granted', 'D', 5)", lot)),
        ("NS001", whole(2, 10, "('user_points', 'C', 5)", lot)),
        ("NS001", whole(2, 10, lines, "'v', 6, 6, now(), '2030-01-01'")),
        ("NS001", whole(2, 10, lines, "'v', 5, 4, now(), '2030-01-01'")),
        ("NS001", whole(2, 10, lines, "'u', 5, 5, now(), '2030-01-01'")),
        ("NS001", whole(2, 10, lines, "'v', 5, 5, now(), '2020-01-01'")),
        // By parts, an entry alone, and more of what is there already.
        (
            "NS001",
            format!(
                "{exercise}; {ENTRY} ('x', {digest}, 'grant', 'v', 2, now(), 5, 10, (select max(id) from noshi.benefit_exercise))"
            ),
        ),
        ("NS001", format!("{ENTRY} ('x', {digest}, 'withdraw', 'v', 2, now(), -5, 0, null)")),
        ("NS001", format!("{LINES} (1, 'points_used', 'D', 5)")),
        ("NS001", format!("{LINES} (1, 'points_used', 'D', 5), (1, 'points_expired', 'C', 5)")),
        ("NS001", format!("{LINES} (3, 'points_expired', 'D', 5), (3, 'points_withdrawn', 'C', 5)")),
        ("NS001", format!("{LOT} (1, 'u', 5, 5, now(), '2030-01-01')")),
        ("NS001", format!("{LOT} (3, 'u', 5, 5, '2025-10-01', '2030-01-01')")),
        ("NS001", format!("{ALLOCATION} (2, 5, 1)")),
        ("NS001", format!("{ALLOCATION} (4, 1, 1)")),
        // Somebody else's, and more than there is.
        ("NS001", format!("{ALLOCATION} (4, 3, 1)")),
        ("23514", format!("{ALLOCATION} (4, 1, 6)")),
        ("23503", format!("{LINES} (99, 'user_points', 'D', 5), (99, 'points_used', 'C', 5)")),
        // Lots give to allocations alone.
        ("NS001", "update noshi.point_lot set remaining = remaining - 1 where id = 4".to_owned()),
        ("NS001", "update noshi.point_lot set remaining = remaining + 1 where id = 2".to_owned()),
        ("NS001", "update noshi.point_lot set expires_at = 'infinity' where id = 4".to_owned()),
        ("NS001", "update noshi.point_lot set area = null where id = 2".to_owned()),
        ("428C9", "update noshi.point_lot set open = true where id = 1".to_owned()),
        // What a row may say by itself.
        ("23514", format!("{ENTRY} ('x', {digest}, 'use', 'v', 2, now(), 5, 10, null)")),
        ("23514", format!("{ENTRY} ('x', {digest}, 'use', 'v', 2, now(), -6, -1, null)")),
        ("23514", format!("{ENTRY} ('x', {digest}, 'grant', 'v', 2, now(), 5, 10, null)")),
        ("23514", format!("{ENTRY} ('expire:4', {digest}, 'use', 'v', 2, now(), -5, 0, null)")),
        ("23514", format!("{ENTRY} ('x', {digest}, 'expire', 'v', 2, now(), -5, 0, null)")),
        ("23505", format!("{ENTRY} ('g1', {digest}, 'withdraw', 'v', 2, now(), -5, 0, null)")),
        ("23505", format!("{ENTRY} ('x', {digest}, 'withdraw', 'v', 1, now(), -5, 0, null)")),
        (
            "23505",
            "insert into noshi.benefit_exercise (benefit, source, user_id, at) values ('welcome', '1', 'v', now())"
                .to_owned(),
        ),
    ];
    for table in [
        "benefit_exercise",
        "point_account",
        "point_owner",
        "point_entry",
        "point_line",
        "point_lot",
        "point_allocation",
    ] {
        refused.push(("NS001", format!("delete from noshi.{table}")));
        refused.push(("NS001", format!("truncate noshi.{table} cascade")));
        if table != "point_lot" {
            let column = match table {
                "benefit_exercise" | "point_owner" | "point_entry" => "user_id",
                "point_account" => "name",
                _ => "amount",
            };
            refused.push(("NS001", format!("update noshi.{table} set {column} = {column}")));
        }
    }
    let before = super::everything(&pool).await;
    for (expected, sql) in &refused {
        assert_eq!(code(&mut owner, sql).await, *expected, "{sql}");
    }
    assert_eq!(super::everything(&pool).await, before);
    // The same with nothing wrong is taken: what was refused above was refused for its fault.
    assert_eq!(code(&mut owner, &whole(2, 10, lines, lot)).await, "done");
    assert_holds(&pool).await;
}

/// A change that no trigger and no reference hindered, and the equation that must not hold after it.
const FAULTS: [(&str, &str); 26] = [
    ("guards", "alter table noshi.point_entry disable trigger append_only"),
    ("guards", "alter table noshi.point_lot disable trigger only_allocations"),
    ("debits = credits = amount", "update noshi.point_line set amount = amount + 1 where entry = 1 and side = 'D'"),
    ("debits = credits = amount", "delete from noshi.point_line where entry = 3"),
    ("debits = credits = amount", "update noshi.point_line set amount = amount + 1 where entry = 3"),
    (
        "accounts of its kind",
        "update noshi.point_line set account = 'points_used' where entry = 1 and account = 'points_granted'",
    ),
    ("amount = lots - allocations", "delete from noshi.point_allocation where entry = 5"),
    (
        "amount = lots - allocations",
        "update noshi.point_lot set amount = amount + 1, remaining = remaining + 1 where id = 4",
    ),
    ("remaining = amount - allocations", "update noshi.point_lot set remaining = remaining - 1 where id = 4"),
    ("balance = open lots", "update noshi.point_lot set remaining = remaining - 1 where id = 4"),
    ("balance = open lots", "update noshi.point_lot set user_id = 'v' where id = 2"),
    ("entry follows entry", "update noshi.point_entry set seq = 99 where id = 6"),
    ("entry follows entry", "update noshi.point_entry set balance = balance + 1 where id = 2"),
    ("entry follows entry", "update noshi.point_entry set at = '2026-01-01' where id = 3"),
    ("lots of their entry", "update noshi.point_lot set user_id = 'v' where id = 2"),
    ("lots of their entry", "update noshi.point_lot set granted_at = '2024-10-01' where id = 4"),
    ("spent by its owner, in time, in its area", "update noshi.point_lot set user_id = 'v' where id = 1"),
    ("spent by its owner, in time, in its area", "update noshi.point_lot set expires_at = '2025-10-02' where id = 1"),
    ("spent by its owner, in time, in its area", "update noshi.point_lot set area = 'sendai' where id = 1"),
    ("no entry overtakes an expiry", "update noshi.point_lot set expires_at = '2025-10-05' where id = 2"),
    ("a use is taken back as it was", "update noshi.point_lot set area = 'sendai' where id = 3"),
    ("a use is taken back as it was", "update noshi.point_entry set amount = -5 where id = 3"),
    ("a grant exercises a benefit", "update noshi.benefit_exercise set user_id = 'v' where id = 1"),
    (
        "a grant exercises a benefit",
        "insert into noshi.benefit_exercise (benefit, source, user_id, at) values ('b', 'b', 'v', now())",
    ),
    (
        "nothing after a withdrawal",
        "insert into noshi.point_entry (key, digest, kind, user_id, seq, at, amount, balance) values ('x', sha256('x'), 'use', 'w', 3, now(), -1, 0)",
    ),
    (
        "nothing after a withdrawal",
        "insert into noshi.point_entry (key, digest, kind, user_id, seq, at, amount, balance, reverses) values ('x', sha256('x'), 'reverse', 'w', 3, now(), 1, 1, 5)",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn every_equation_sees_what_was_forged() {
    let TestDatabase { pool, url, .. } = database().await;
    a_little_of_everything(&pool).await;
    let mut superuser = PgConnection::connect(&url).await.expect("a connection");
    for (equation, sql) in FAULTS {
        let mut transaction = superuser.begin().await.expect("a transaction");
        sqlx::raw_sql("set local session_replication_role = replica")
            .execute(&mut *transaction)
            .await
            .expect("no guards");
        let forged = sqlx::raw_sql(sql).execute(&mut *transaction).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
        assert!(forged.rows_affected() > 0 || equation == "guards", "{sql}: nothing was forged");
        let seen =
            sqlx::query("select distinct equation from noshi.verify_points()").fetch_all(&mut *transaction).await;
        let seen: Vec<String> = seen.expect("the equations").iter().map(|row| row.get(0)).collect();
        assert!(seen.iter().any(|seen| seen == equation), "{sql}: {equation} is not among {seen:?}");
        transaction.rollback().await.expect("rolled back");
    }
    assert_holds(&pool).await;
    // No equation is left without a fault that it was shown.
    let sql =
        "select array_length(string_to_array(prosrc, 'union all'), 1) from pg_proc where proname = 'verify_points'";
    let equations: i32 = sqlx::query_scalar(sql).fetch_one(&pool).await.expect("a number");
    let shown: std::collections::BTreeSet<&str> = FAULTS.iter().map(|(equation, _)| *equation).collect();
    assert_eq!(shown.len(), equations as usize);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_account_is_in_the_chart() {
    let TestDatabase { pool, .. } = database().await;
    let sql = "select enum_range(null::noshi.point_account_code)::text[] = array_agg(code::text order by code) from noshi.point_account";
    assert!(sqlx::query_scalar::<_, bool>(sql).fetch_one(&pool).await.expect("the chart"));
    a_little_of_everything(&pool).await;
    // The trial balance: over all accounts debits are credits, and what users hold is what their lots hold.
    let sql = "select account, sum(case side when 'D' then amount else -amount end)::bigint from noshi.point_journal group by account order by account";
    let trial: Vec<(String, i64)> = sqlx::query_as(sql).fetch_all(&pool).await.expect("a trial balance");
    let told = [
        ("points_expired", -3),
        ("points_granted", 25),
        ("points_used", -2),
        ("points_withdrawn", -5),
        ("user_points", -15),
    ];
    assert_eq!(trial, told.map(|(account, n)| (account.to_owned(), n)));
}
