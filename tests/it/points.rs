//! The ledger of points: what is booked, what is refused, and that whatever happens at once or twice adds up.

mod crowd;
mod random;
mod tampering;

use chrono::{DateTime, Utc};
use sqlx::{PgExecutor, Row, postgres::PgRow};

use crate::support::{TestDatabase, database};
use noshi::db::{
    PgPool,
    domain::points::{balance, expiring, history, verify},
};

/// What an operation answered: its outcome, the entry, and a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Said {
    outcome: String,
    entry: Option<i64>,
    detail: Option<String>,
}

impl Said {
    fn read(row: &PgRow) -> Said {
        Said { outcome: row.get("outcome"), entry: row.get("entry"), detail: row.get("detail") }
    }

    fn detail(&self) -> &str {
        self.detail.as_deref().unwrap_or_default()
    }
}

fn at(text: &str) -> DateTime<Utc> {
    format!("{text}:00+09:00").parse().unwrap_or_else(|e| panic!("{text}: {e}"))
}

#[derive(Clone, Copy)]
struct Grant<'a> {
    at: DateTime<Utc>,
    key: &'a str,
    user: &'a str,
    amount: i64,
    source: &'a str,
    expires_at: DateTime<Utc>,
    area: Option<&'a str>,
}

async fn grant(executor: impl PgExecutor<'_>, g: Grant<'_>) -> Result<Said, sqlx::Error> {
    let sql = "select * from noshi.book_grant($1, $2, $3, $4, 'welcome', $5, $6, $7, 1)";
    let asked = sqlx::query(sql).bind(g.at).bind(g.key).bind(g.user).bind(g.amount).bind(g.source);
    let row = asked.bind(g.expires_at).bind(g.area).fetch_one(executor).await?;
    Ok(Said::read(&row))
}

async fn spend(
    executor: impl PgExecutor<'_>,
    when: DateTime<Utc>,
    key: &str,
    (user, amount, area): (&str, i64, Option<&str>),
) -> Result<Said, sqlx::Error> {
    let sql = "select * from noshi.book_use($1, $2, $3, $4, $5, 2)";
    let row = sqlx::query(sql).bind(when).bind(key).bind(user).bind(amount).bind(area).fetch_one(executor).await?;
    Ok(Said::read(&row))
}

async fn take_back(
    executor: impl PgExecutor<'_>,
    when: DateTime<Utc>,
    key: &str,
    (used, grace_hours): (&str, i64),
) -> Result<Said, sqlx::Error> {
    let sql = "select * from noshi.book_reversal($1, $2, $3, make_interval(hours => $4::int), 3)";
    let row = sqlx::query(sql).bind(when).bind(key).bind(used).bind(grace_hours).fetch_one(executor).await?;
    Ok(Said::read(&row))
}

async fn withdraw(
    executor: impl PgExecutor<'_>,
    when: DateTime<Utc>,
    key: &str,
    user: &str,
) -> Result<Said, sqlx::Error> {
    let sql = "select * from noshi.book_withdrawal($1, $2, $3, 4)";
    Ok(Said::read(&sqlx::query(sql).bind(when).bind(key).bind(user).fetch_one(executor).await?))
}

/// Lots and points that were booked as expired, and whether more is due.
async fn expire(executor: impl PgExecutor<'_>, due: DateTime<Utc>, lots: i32) -> Result<(i32, i64, bool), sqlx::Error> {
    sqlx::query_as("select * from noshi.book_expiries($1, $2)").bind(due).bind(lots).fetch_one(executor).await
}

async fn expiry_of(pool: &PgPool, when: DateTime<Utc>, days: i32, zone: &str) -> DateTime<Utc> {
    let sql = "select noshi.point_expiry_of($1, $2, $3)";
    sqlx::query_scalar(sql).bind(when).bind(days).bind(zone).fetch_one(pool).await.expect("an expiry")
}

/// Every row of the ledger: nothing changed if this did not.
async fn everything(executor: impl PgExecutor<'_>) -> String {
    let sql = "select md5(concat(
        (select string_agg(e::text, ',' order by id) from noshi.point_entry e),
        (select string_agg(l::text, ',' order by entry, account) from noshi.point_line l),
        (select string_agg(l::text, ',' order by id) from noshi.point_lot l),
        (select string_agg(a::text, ',' order by lot, entry) from noshi.point_allocation a),
        (select string_agg(x::text, ',' order by id) from noshi.benefit_exercise x),
        (select string_agg(o::text, ',' order by user_id) from noshi.point_owner o)))";
    sqlx::query_scalar(sql).fetch_one(executor).await.expect("all rows")
}

async fn assert_holds(pool: &PgPool) {
    let faults = verify(pool).await.expect("the equations");
    assert!(faults.is_empty(), "{faults:#?}");
}

async fn rows(pool: &PgPool, user: &str) -> Vec<(String, i64, i64, DateTime<Utc>)> {
    let mut entries = history(pool, user, None, 1000).await.expect("a history");
    entries.reverse();
    entries.into_iter().map(|e| (e.kind, e.amount, e.balance, e.at)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_worked_example_comes_out_row_for_row() {
    let TestDatabase { pool, .. } = database().await;
    let first = at("2025-10-01T14:00");
    let second = at("2025-10-02T16:00");
    assert_eq!(expiry_of(&pool, first, 7, "Asia/Tokyo").await, at("2025-10-09T00:00"));
    for (key, when, amount) in [("acquire:1", first, 5), ("acquire:2", second, 10)] {
        let expires_at = expiry_of(&pool, when, 7, "Asia/Tokyo").await;
        let grant_of = Grant { at: when, key, user: "u", amount, source: key, expires_at, area: None };
        assert_eq!(grant(&pool, grant_of).await.expect("granted").outcome, "posted");
    }
    assert_eq!(
        spend(&pool, at("2025-10-09T18:00"), "consume:1", ("u", 10, None)).await.expect("used").outcome,
        "posted"
    );
    let told = |kind: &str, amount, balance, when| (kind.to_owned(), amount, balance, at(when));
    let expected = [
        told("grant", 5, 5, "2025-10-01T14:00"),
        told("grant", 10, 15, "2025-10-02T16:00"),
        told("expire", -5, 10, "2025-10-09T00:00"),
        told("use", -10, 0, "2025-10-09T18:00"),
    ];
    assert_eq!(rows(&pool, "u").await, expected);
    let granted = history(&pool, "u", Some(3), 10).await.expect("a history");
    let expiries: Vec<_> =
        granted.iter().map(|e| (e.seq, e.expires_at, e.benefit.as_deref(), e.source.as_deref())).collect();
    let of = |seq, until, source| (seq, Some(at(until)), Some("welcome"), Some(source));
    assert_eq!(expiries, [of(2, "2025-10-10T00:00", "acquire:2"), of(1, "2025-10-09T00:00", "acquire:1")]);
    // At any instant, also such as no entry was booked at.
    for (when, points) in [
        ("2025-10-01T13:59", 0),
        ("2025-10-01T14:00", 5),
        ("2025-10-03T00:00", 15),
        ("2025-10-08T23:59", 15),
        ("2025-10-09T00:00", 10),
        ("2025-10-09T17:59", 10),
        ("2025-10-09T18:00", 0),
        ("2030-01-01T00:00", 0),
    ] {
        assert_eq!(balance(&pool, "u", Some(at(when)), None).await.expect("a balance"), points, "{when}");
    }
    let soon = expiring(&pool, "u", at("2025-10-09T12:00"), Some(at("2025-10-05T00:00"))).await.expect("what expires");
    assert_eq!(soon.iter().map(|e| (e.expires_at, e.points)).collect::<Vec<_>>(), [(at("2025-10-09T00:00"), 5)]);
    // Late and again, the expiry's job finds nothing more to do.
    assert_eq!(expire(&pool, Utc::now(), 100).await.expect("a page"), (0, 0, false));
    assert_holds(&pool).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn points_are_good_until_the_last_day_is_over_where_the_user_lives() {
    let TestDatabase { pool, .. } = database().await;
    // R30: 180 days.
    assert_eq!(expiry_of(&pool, at("2025-01-10T09:30"), 180, "Asia/Tokyo").await, at("2025-07-10T00:00"));
    // The day is the zone's: in the morning in Tokyo it is the day before in London, which is one hour ahead of UTC in summer.
    let london = expiry_of(&pool, at("2025-03-20T07:30"), 10, "Europe/London").await;
    assert_eq!(london.to_rfc3339(), "2025-03-30T00:00:00+00:00".to_owned());
    let summer = expiry_of(&pool, at("2025-03-25T07:30"), 10, "Europe/London").await;
    assert_eq!(summer.to_rfc3339(), "2025-04-03T23:00:00+00:00".to_owned());
    // Booked a month late, an expiry still takes effect when it was due.
    let granted = at("2025-01-10T09:30");
    let expires_at = expiry_of(&pool, granted, 180, "Asia/Tokyo").await;
    let mut one = Grant { at: granted, key: "k", user: "u", amount: 7, source: "k", expires_at, area: None };
    grant(&pool, one).await.expect("granted");
    assert_eq!(expire(&pool, at("2025-07-09T23:59"), 10).await.expect("a page"), (0, 0, false));
    assert_eq!(expire(&pool, at("2025-08-10T00:00"), 10).await.expect("a page"), (1, 7, false));
    assert_eq!(rows(&pool, "u").await[1], ("expire".to_owned(), -7, 0, at("2025-07-10T00:00")));
    // Never what is due later than now, whatever is asked for.
    one = Grant { at: Utc::now(), key: "l", source: "l", expires_at: Utc::now() + chrono::TimeDelta::days(1), ..one };
    grant(&pool, one).await.expect("granted");
    assert_eq!(expire(&pool, Utc::now() + chrono::TimeDelta::days(2), 10).await.expect("a page"), (0, 0, false));
    // What would have expired before it is granted is not granted.
    let late = Grant {
        at: at("2025-12-01T00:00"),
        key: "m",
        user: "v",
        source: "m",
        expires_at: at("2025-12-01T00:00"),
        ..one
    };
    assert_eq!(grant(&pool, late).await.expect("an answer").outcome, "expired");
    assert_holds(&pool).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_bound_to_what_was_asked_for() {
    let TestDatabase { pool, .. } = database().await;
    let when = at("2025-10-01T14:00");
    let expires_at = at("2025-12-01T00:00");
    let g = Grant { at: when, key: "g", user: "u", amount: 50, source: "s", expires_at, area: Some("sendai") };
    let granted = grant(&pool, g).await.expect("granted");
    let used = spend(&pool, when, "c", ("u", 20, Some("sendai"))).await.expect("used");
    let taken = take_back(&pool, when, "r", ("c", 24)).await.expect("taken back");
    let gone = withdraw(&pool, when, "w", "u").await.expect("withdrawn");
    let before = everything(&pool).await;
    // Again, later, by another job, in another zone: each is the entry of before.
    let later = at("2026-01-01T00:00");
    let mut abroad = pool.acquire().await.expect("a connection");
    sqlx::raw_sql("set timezone = 'America/New_York'; set intervalstyle = 'iso_8601'; set datestyle = 'German'")
        .execute(&mut *abroad)
        .await
        .expect("settings");
    let replayed = |said: Said, first: &Said| {
        assert_eq!((said.outcome.as_str(), said.entry, said.detail), ("replayed", first.entry, None));
    };
    replayed(grant(&mut *abroad, Grant { at: later, ..g }).await.expect("granted"), &granted);
    replayed(spend(&mut *abroad, later, "c", ("u", 20, Some("sendai"))).await.expect("used"), &used);
    replayed(take_back(&mut *abroad, later, "r", ("c", 24)).await.expect("taken back"), &taken);
    replayed(withdraw(&mut *abroad, later, "w", "u").await.expect("withdrawn"), &gone);
    // With other content: what differs is told, and nothing is booked.
    let other = [
        (Grant { user: "v", ..g }, "user"),
        (Grant { amount: 51, ..g }, "amount"),
        (Grant { source: "t", ..g }, "source"),
        (Grant { expires_at: later, ..g }, "expires_at"),
        (Grant { area: None, ..g }, "area"),
        (Grant { area: Some("akita"), ..g }, "area"),
        (Grant { key: "c", ..g }, "kind"),
        (Grant { key: "h", user: "v", ..g }, "source s of benefit welcome was exercised before, with the key g"),
    ];
    for (asked, told) in other {
        let said = grant(&pool, asked).await.expect("an answer");
        assert!(said.outcome == "conflict" && said.detail().starts_with(told), "{told}: {said:?}");
    }
    for (key, what, told) in [
        ("c", ("v", 20, Some("sendai")), "user"),
        ("c", ("u", 21, Some("sendai")), "amount: recorded 20, now 21"),
        ("c", ("u", 20, None), "area"),
        ("r", ("u", 20, None), "kind: recorded \"reverse\", now \"use\""),
    ] {
        let said = spend(&pool, when, key, what).await.expect("an answer");
        assert!(said.outcome == "conflict" && said.detail().starts_with(told), "{told}: {said:?}");
    }
    for (key, what, told) in [
        ("r", ("c", 25), "grace"),
        ("r", ("g", 24), "use: recorded \"c\", now \"g\""),
        ("r2", ("c", 24), "that use was taken back before, with the key r"),
        ("c", ("c", 24), "kind"),
    ] {
        let said = take_back(&pool, when, key, what).await.expect("an answer");
        assert!(said.outcome == "conflict" && said.detail().starts_with(told), "{told}: {said:?}");
    }
    assert_eq!(withdraw(&pool, when, "w", "v").await.expect("an answer").outcome, "conflict");
    // Only a use is taken back, and only one that there is.
    for used in ["g", "w", "nothing"] {
        assert_eq!(take_back(&pool, when, "r9", (used, 0)).await.expect("an answer").outcome, "not_found");
    }
    // Who has withdrawn gets and uses nothing more.
    assert_eq!(grant(&pool, Grant { key: "n", source: "n", ..g }).await.expect("an answer").outcome, "withdrawn");
    assert_eq!(spend(&pool, when, "n", ("u", 1, None)).await.expect("an answer").outcome, "withdrawn");
    assert_eq!(everything(&pool).await, before);
    assert_holds(&pool).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_sense_is_refused() {
    let TestDatabase { pool, .. } = database().await;
    let when = at("2025-10-01T14:00");
    let g =
        Grant { at: when, key: "g", user: "u", amount: 5, source: "s", expires_at: at("2025-12-01T00:00"), area: None };
    let code = |error: sqlx::Error| error.as_database_error().and_then(|e| e.code()).unwrap_or_default().into_owned();
    let long = "k".repeat(301);
    for g in [
        Grant { key: "", ..g },
        Grant { key: " ", ..g },
        Grant { key: &long, ..g },
        // Nobody takes the key that an expiry of somebody else will need.
        Grant { key: "expire:1", ..g },
        Grant { key: "withdraw_again:1", ..g },
        Grant { user: "", ..g },
        Grant { amount: 0, ..g },
        Grant { amount: -5, ..g },
        Grant { amount: i64::MAX, ..g },
        Grant { source: "", ..g },
        Grant { area: Some(""), ..g },
    ] {
        assert_eq!(code(grant(&pool, g).await.expect_err("refused")), "NS400", "{} {} {}", g.key, g.user, g.amount);
    }
    assert_eq!(code(spend(&pool, when, "c", ("u", 0, None)).await.expect_err("refused")), "NS400");
    assert_eq!(code(spend(&pool, when, "c", ("u", 1, Some(""))).await.expect_err("refused")), "NS400");
    assert_eq!(code(take_back(&pool, when, "c", ("u", -1)).await.expect_err("refused")), "NS400");
    assert_eq!(code(withdraw(&pool, when, "expire:1", "u").await.expect_err("refused")), "NS400");
    assert_eq!(code(expire(&pool, when, 0).await.expect_err("refused")), "NS400");
    // An operation that waited for another one must see what that did.
    let mut older = pool.begin_with("begin isolation level repeatable read").await.expect("a transaction");
    assert_eq!(code(grant(&mut *older, g).await.expect_err("refused")), "NS400");
    older.rollback().await.expect("rolled back");
    assert_eq!(rows(&pool, "u").await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_expires_first_is_used_first_and_only_where_it_is_good() {
    let TestDatabase { pool, .. } = database().await;
    let hour = |h: &str| at(&format!("2025-10-01T{h}:00"));
    // Granted in an order of their own; two expire together.
    for (key, when, amount, until, area) in [
        ("late", "08", 100, "2025-12-31T00:00", None),
        ("sendai", "09", 10, "2025-11-01T00:00", Some("sendai")),
        ("younger", "11", 10, "2025-11-15T00:00", None),
        ("akita", "12", 10, "2025-10-20T00:00", Some("akita")),
        ("older", "10", 10, "2025-11-15T00:00", None),
    ] {
        let g = Grant { at: hour(when), key, user: "u", amount, source: key, expires_at: at(until), area };
        grant(&pool, g).await.expect("granted");
    }
    // "older" was asked for with an instant before what had happened by then, so it is the younger one.
    let now = hour("13");
    let spendable = async |area: Option<&str>| balance(&pool, "u", Some(now), area).await.expect("a balance");
    assert_eq!(
        (spendable(None).await, spendable(Some("sendai")).await, spendable(Some("kobe")).await),
        (120, 130, 120)
    );
    let left = async || -> Vec<(String, i64)> {
        let sql = "select e.key, l.remaining from noshi.point_lot l join noshi.point_entry e on e.id = l.entry order by e.key";
        sqlx::query_as(sql).fetch_all(&pool).await.expect("lots")
    };
    let lots = |akita, late, older, sendai, younger| {
        [("akita", akita), ("late", late), ("older", older), ("sendai", sendai), ("younger", younger)]
            .map(|(k, n)| (k.to_owned(), n))
    };
    spend(&pool, now, "1", ("u", 15, Some("sendai"))).await.expect("used");
    assert_eq!(left().await, lots(10, 100, 10, 0, 5));
    spend(&pool, now, "2", ("u", 25, None)).await.expect("used");
    assert_eq!(left().await, lots(10, 90, 0, 0, 0));
    let short = spend(&pool, now, "3", ("u", 95, Some("sendai"))).await.expect("an answer");
    assert_eq!(
        (short.outcome.as_str(), short.detail()),
        ("insufficient", "90 of the balance of 100 may be used in sendai, asked for are 95")
    );
    let short = spend(&pool, now, "3", ("u", 101, Some("akita"))).await.expect("an answer");
    assert_eq!((short.outcome.as_str(), short.detail()), ("insufficient", "the balance is 100, asked for are 101"));
    // That key was not used up: what was refused is nothing.
    assert_eq!(spend(&pool, now, "3", ("u", 100, Some("akita"))).await.expect("used").outcome, "posted");
    assert_eq!((spendable(None).await, spendable(Some("akita")).await), (0, 0));
    let past = balance(&pool, "u", Some(hour("12")), Some("akita")).await.expect("a balance");
    assert_eq!(past, 130, "what was there before it was used");
    assert_holds(&pool).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_back_keeps_its_expiry_or_has_the_grace() {
    let TestDatabase { pool, .. } = database().await;
    let g = Grant {
        at: at("2025-10-01T00:00"),
        key: "a",
        user: "u",
        amount: 5,
        source: "a",
        expires_at: at("2025-10-09T00:00"),
        area: None,
    };
    grant(&pool, g).await.expect("granted");
    let far = Grant { key: "b", source: "b", amount: 10, expires_at: at("2025-12-01T00:00"), area: Some("akita"), ..g };
    grant(&pool, far).await.expect("granted");
    spend(&pool, at("2025-10-08T00:00"), "c", ("u", 12, Some("akita"))).await.expect("used");
    // After the first lot's expiry: it is good for three days more; the second as before.
    take_back(&pool, at("2025-10-20T00:00"), "r", ("c", 72)).await.expect("taken back");
    let soon = expiring(&pool, "u", at("2026-01-01T00:00"), Some(at("2025-10-20T00:00"))).await.expect("what expires");
    let told: Vec<_> = soon.iter().map(|e| (e.expires_at, e.area.as_deref(), e.points)).collect();
    assert_eq!(told, [(at("2025-10-23T00:00"), None, 5), (at("2025-12-01T00:00"), Some("akita"), 10)]);
    // Without a grace what has expired meanwhile is gone at the same moment, and the user sees both.
    spend(&pool, at("2025-10-21T00:00"), "d", ("u", 15, Some("akita"))).await.expect("used");
    take_back(&pool, at("2026-01-10T00:00"), "s", ("d", 0)).await.expect("taken back");
    assert_eq!(balance(&pool, "u", Some(at("2026-01-10T00:00")), Some("akita")).await.expect("a balance"), 0);
    expire(&pool, Utc::now(), 10).await.expect("a page");
    let last: Vec<_> = rows(&pool, "u").await.split_off(5);
    let when = at("2026-01-10T00:00");
    let told = |kind: &str, amount, balance| (kind.to_owned(), amount, balance, when);
    assert_eq!(last, [told("reverse", 15, 15), told("expire", -3, 12), told("expire", -5, 7), told("expire", -7, 0)]);
    assert_holds(&pool).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_loses_all_and_the_history_stays() {
    let TestDatabase { pool, .. } = database().await;
    let g = Grant {
        at: at("2025-10-01T00:00"),
        key: "a",
        user: "u",
        amount: 5,
        source: "a",
        expires_at: at("2025-10-09T00:00"),
        area: None,
    };
    grant(&pool, g).await.expect("granted");
    let second =
        Grant { key: "b", source: "b", amount: 10, expires_at: at("2025-12-01T00:00"), area: Some("akita"), ..g };
    grant(&pool, second).await.expect("granted");
    spend(&pool, at("2025-10-02T00:00"), "c", ("u", 3, None)).await.expect("used");
    // What was due before expired; the rest is withdrawn.
    assert_eq!(withdraw(&pool, at("2025-10-10T00:00"), "w", "u").await.expect("withdrawn").outcome, "posted");
    // An exchange that failed afterwards gives its points back to nobody.
    assert_eq!(take_back(&pool, at("2025-10-11T00:00"), "r", ("c", 24)).await.expect("taken back").outcome, "posted");
    let told = |kind: &str, amount, balance, day: u32| {
        (kind.to_owned(), amount, balance, at(&format!("2025-10-{day:02}T00:00")))
    };
    let expected = [
        told("grant", 5, 5, 1),
        told("grant", 10, 15, 1),
        told("use", -3, 12, 2),
        told("expire", -2, 10, 9),
        told("withdraw", -10, 0, 10),
        told("reverse", 3, 3, 11),
        told("withdraw", -3, 0, 11),
    ];
    assert_eq!(rows(&pool, "u").await, expected);
    assert_eq!(grant(&pool, Grant { key: "d", source: "d", ..second }).await.expect("an answer").outcome, "withdrawn");
    // Also who never had any.
    assert_eq!(withdraw(&pool, at("2025-10-10T00:00"), "w2", "nobody").await.expect("withdrawn").outcome, "posted");
    assert_eq!(rows(&pool, "nobody").await, [told("withdraw", 0, 0, 10)]);
    let refused = Grant { key: "d", user: "nobody", source: "d", ..second };
    assert_eq!(grant(&pool, refused).await.expect("an answer").outcome, "withdrawn");
    assert_holds(&pool).await;
}
