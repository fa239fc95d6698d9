//! The jobs of points, with real workers and gift providers: granted, exchanged, given back, expired and withdrawn.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    api::Api,
    dump::{check, dump},
    fleet::{Fleet, LIMIT, Terms, fleet},
    processes::{count, until},
    support::{database, turn},
};
use noshi::{
    db::{PgPool, operator::tokens::SCOPES},
    lab::simulator::{Command, Fault, Op, Provider},
};

const REST: Duration = Duration::from_secs(60);

/// Enqueues a job as a producer does.
pub async fn enqueue(pool: &PgPool, kind: &str, key: &str, args: Value) -> i64 {
    sqlx::query_scalar("select noshi.enqueue($1, $2, $3)")
        .bind(kind)
        .bind(key)
        .bind(args)
        .fetch_one(pool)
        .await
        .unwrap_or_else(|error| panic!("{kind} {key}: {error}"))
}

pub async fn grant(pool: &PgPool, source: &str, user: &str, points: i64) -> i64 {
    let args = json!({"benefit": "test", "source": source, "user": user, "points": points, "valid_days": 180});
    enqueue(pool, "point_grant", &format!("test:{source}"), args).await
}

pub async fn exchange(pool: &PgPool, id: &str, user: &str, points: i64, value: i64) -> i64 {
    let args = json!({"exchange": id, "user": user, "points": points, "category": "amazon", "value": {"amount": value, "currency": "JPY"}});
    enqueue(pool, "point_exchange", id, args).await
}

pub async fn balance(pool: &PgPool, user: &str) -> i64 {
    sqlx::query_scalar("select noshi.point_balance($1)").bind(user).fetch_one(pool).await.expect("a balance")
}

/// Status, place and code of a job.
async fn stands(pool: &PgPool, kind: &str, key: &str) -> (String, String, Option<String>) {
    sqlx::query_as("select status::text, at, code from noshi.job where kind = $1 and key = $2")
        .bind(kind)
        .bind(key)
        .fetch_one(pool)
        .await
        .unwrap_or_else(|error| panic!("{kind} {key}: {error}"))
}

async fn entries(pool: &PgPool, user: &str) -> Vec<(String, i64, i64)> {
    sqlx::query_as("select kind, amount, balance from noshi.point_entry where user_id = $1 order by seq")
        .bind(user)
        .fetch_all(pool)
        .await
        .expect("the entries")
}

fn done(at: &str) -> (String, String, Option<String>) {
    ("completed".to_owned(), at.to_owned(), None)
}

fn failed(code: &str) -> (String, String, Option<String>) {
    ("failed".to_owned(), "refused".to_owned(), Some(code.to_owned()))
}

/// The books add up, by their own word and by the independent checker's.
pub async fn audited(fleet: &Fleet) {
    let equations =
        "select v::text from noshi.verify_points() v union all select v::text from noshi.verify_exchanges() v";
    let faults: Vec<String> = sqlx::query_scalar(equations).fetch_all(&fleet.pool).await.expect("the books verified");
    assert!(faults.is_empty(), "{faults:#?}");
    let rows = fleet.dir.path().join("dump");
    dump(&fleet.url, &rows).await;
    let limit = format!("amazon_incentives={LIMIT}");
    check(&fleet.ledger(), &rows, &["--quiescent", "--limit", &limit]).unwrap_or_else(|said| panic!("{said}"));
}

fn refuses(fleet: &Fleet, exchange: &str, fault: Fault) {
    let trade = Some(noshi::partners::gifts::trade_id("Noshi", &format!("exchange/{exchange}"), 0));
    let provider = Provider::AmazonIncentives.into();
    let script = Command::Script { provider, op: Some(Op::Issue.into()), trade, fault, times: 1, seconds: Some(1) };
    fleet.control().apply(script).expect("a scripted fault");
}

#[tokio::test(flavor = "multi_thread")]
async fn points_become_gifts_or_come_back() {
    let _turn = turn().await;
    let fleet = fleet(Terms::default()).await;
    let pool = &fleet.pool;
    grant(pool, "s1", "u1", 1_000).await;
    let worker = fleet.worker("w", &[], &[]);
    fleet.at_rest(REST).await.expect("granted points");
    assert_eq!(stands(pool, "point_grant", "test:s1").await, done("granted"));
    assert_eq!(balance(pool, "u1").await, 1_000);

    // One is issued, one is answered late, one is refused by the provider, and one is more than there is.
    refuses(&fleet, "lost", Fault::EffectThenReset);
    exchange(pool, "plain", "u1", 100, 100).await;
    exchange(pool, "lost", "u1", 200, 200).await;
    exchange(pool, "refused", "u1", 300, 5_000_000).await;
    fleet.at_rest(REST).await.expect("exchanged points");
    exchange(pool, "poor", "u1", 701, 700).await;
    fleet.at_rest(REST).await.expect("an exchange without enough points");
    for (id, status) in [("plain", "completed"), ("lost", "completed"), ("refused", "failed")] {
        assert_eq!(stands(pool, "point_exchange", id).await, done("ordered"), "{id}");
        assert_eq!(stands(pool, "gift_issuance", &format!("exchange/{id}")).await.0, status, "{id}");
    }
    assert_eq!(stands(pool, "point_exchange", "poor").await, failed("points_insufficient"));
    assert_eq!(stands(pool, "point_reversal", "refused").await, done("returned"));
    assert_eq!((balance(pool, "u1").await, count(&fleet, "issued")), (700, 2));

    // What came back keeps its expiry.
    let expiries: i64 =
        sqlx::query_scalar("select count(distinct expires_at) from noshi.point_lot where user_id = 'u1'")
            .fetch_one(pool)
            .await
            .expect("the lots");
    assert_eq!(expiries, 1);
    audited(&fleet).await;

    // The user leaves, and nothing can be granted or exchanged after that.
    enqueue(pool, "point_withdrawal", "u1", json!({"user": "u1"})).await;
    fleet.at_rest(REST).await.expect("a withdrawal");
    grant(pool, "s2", "u1", 5).await;
    exchange(pool, "late", "u1", 1, 100).await;
    fleet.at_rest(REST).await.expect("refusals");
    assert_eq!(stands(pool, "point_withdrawal", "u1").await, done("withdrawn"));
    assert_eq!(stands(pool, "point_grant", "test:s2").await, failed("user_withdrawn"));
    assert_eq!(stands(pool, "point_exchange", "late").await, failed("user_withdrawn"));
    assert_eq!(entries(pool, "u1").await.last(), Some(&("withdraw".to_owned(), -700, 0)));
    audited(&fleet).await;
    assert!(worker.stop().await.success());
}

/// A gift in doubt keeps its points used; when a person proves it void, they come back at once; an issued one that is taken back
/// returns them too.
#[tokio::test(flavor = "multi_thread")]
async fn doubt_keeps_points_used_and_proof_returns_them() {
    let _turn = turn().await;
    let fleet = fleet(Terms::default()).await;
    let pool = &fleet.pool;
    grant(pool, "s1", "u1", 1_000).await;
    let args = json!({"exchange": "doubt", "user": "u1", "points": 400, "category": "digital", "value": {"amount": 400, "currency": "JPY"}});
    let worker = fleet.worker("w", &[], &[]);
    fleet.at_rest(REST).await.expect("granted points");
    // This provider can only be asked, and never got the call.
    let trade = Some(noshi::partners::gifts::trade_id("G", "exchange/doubt", 0));
    let provider = Provider::GiftOnDemand.into();
    let fault = Fault::ResetBeforeEffect;
    let script = Command::Script { provider, op: Some(Op::Issue.into()), trade, fault, times: 1, seconds: Some(1) };
    fleet.control().apply(script).expect("a scripted fault");
    enqueue(pool, "point_exchange", "doubt", args).await;
    exchange(pool, "issued", "u1", 100, 100).await;
    fleet.at_rest(REST).await.expect("a doubt");
    let gift = stands(pool, "gift_issuance", "exchange/doubt").await;
    assert_eq!((gift.0.as_str(), gift.2.as_deref()), ("needs_operator", Some("not_found_in_doubt")));
    assert_eq!(balance(pool, "u1").await, 500);
    audited(&fleet).await;

    // Somebody who asks for the points meanwhile is refused, in a way that a person sees.
    enqueue(pool, "point_reversal", "issued", json!({"exchange": "issued", "grace_days": 0})).await;
    fleet.at_rest(REST).await.expect("a refused reversal");
    let refused = stands(pool, "point_reversal", "issued").await;
    assert_eq!((refused.0.as_str(), refused.2.as_deref()), ("needs_operator", Some("reversal_refused")));

    for (key, act) in [("exchange/doubt", "attest_void"), ("exchange/issued", "cancel")] {
        let asked = "select noshi.ask(id, step, $2, 'the provider confirms it') from noshi.job where kind = 'gift_issuance' and key = $1";
        sqlx::query(asked).bind(key).bind(act).execute(pool).await.expect("an act");
    }
    fleet.at_rest(REST).await.expect("returned points");
    for key in ["exchange/doubt", "exchange/issued"] {
        let gift = stands(pool, "gift_issuance", key).await;
        assert_eq!(
            (gift.0.as_str(), gift.1.as_str(), gift.2.as_deref()),
            ("failed", "rejected", Some("gift_void")),
            "{key}"
        );
    }
    assert_eq!(stands(pool, "point_reversal", "doubt").await, done("returned"));
    // What the gift asks for is there already, and parked: it may go on now.
    let retry = "select noshi.ask(id, step, 'retry', 'the gift was taken back') from noshi.job where kind = 'point_reversal' and key = 'issued' and status = 'needs_operator'";
    sqlx::query(retry).execute(pool).await.expect("an act");
    fleet.at_rest(REST).await.expect("all returned");
    assert_eq!(stands(pool, "point_reversal", "issued").await, done("returned"));
    assert_eq!(balance(pool, "u1").await, 1_000);
    audited(&fleet).await;
    assert!(worker.stop().await.success());
}

/// A reversal that waits does so longer than its gift is kept.
#[tokio::test(flavor = "multi_thread")]
async fn points_come_back_after_their_gift_was_moved_out() {
    let _turn = turn().await;
    let fleet = fleet(Terms::default()).await;
    let pool = &fleet.pool;
    let worker = fleet.worker("w", &[], &[]);
    grant(pool, "s1", "u1", 1_000).await;
    fleet.at_rest(REST).await.expect("granted points");
    let lane = async |act: &str| {
        fleet.command(&["lane", act, "gift/amazon_incentives", "--reason", "t"]).await.status.success()
    };
    assert!(lane("pause").await);
    exchange(pool, "slow", "u1", 400, 5_000_000).await;
    until("used points", REST, async || balance(pool, "u1").await == 600).await;
    let mut held = pool.begin().await.expect("a session");
    let hold = "select from noshi.point_owner where user_id = 'u1' for update";
    sqlx::query(hold).execute(&mut *held).await.expect("the user's turn");
    assert!(lane("resume").await);
    until("a refused gift", REST, async || stands(pool, "gift_issuance", "exchange/slow").await.0 == "failed").await;
    until("a reversal in flight", REST, async || stands(pool, "point_reversal", "slow").await.0 == "running").await;
    let faults = "select count(*) from noshi.verify_exchanges()";
    let open = "update noshi.job set finished_at = finished_at - interval '100 days' where key = 'exchange/slow'";
    sqlx::query(open).execute(pool).await.expect("a gift of long ago");
    let pruned: i32 = sqlx::query_scalar("select pruned from noshi.prune(100)").fetch_one(pool).await.expect("a prune");
    assert_eq!((pruned, stands(pool, "point_reversal", "slow").await.0.as_str()), (1, "running"));
    assert_eq!(sqlx::query_scalar::<_, i64>(faults).fetch_one(pool).await.expect("the equation"), 0);
    held.rollback().await.expect("the end of a turn");
    fleet.at_rest(REST).await.expect("returned points");
    assert_eq!(stands(pool, "point_reversal", "slow").await, done("returned"));
    assert_eq!(balance(pool, "u1").await, 1_000);
    assert!(worker.stop().await.success());

    // Without the reversal it would be a fault: it is seen.
    let mut tampered = pool.begin().await.expect("a session");
    let forget = "set local session_replication_role = replica; delete from noshi.point_entry where kind = 'reverse'";
    sqlx::raw_sql(forget).execute(&mut *tampered).await.expect("a forgotten reversal");
    assert_eq!(sqlx::query_scalar::<_, i64>(faults).fetch_one(&mut *tampered).await.expect("the equation"), 1);
}

/// Points end at a midnight of the zone that the grant names. What is a rule or an abbreviation is no zone.
#[tokio::test(flavor = "multi_thread")]
async fn zones_are_names() {
    let _turn = turn().await;
    let fleet = fleet(Terms::default()).await;
    let pool = &fleet.pool;
    let zones = ["Asia/Tokyo", "UTC", "America/Argentina/Ushuaia", "Etc/GMT+9"];
    let others = ["Mars/Phobos", "JST", "JST-9", "EST5EDT,M3.2.0/2,M11.1.0", "../etc/passwd", "exchange/1"];
    let args = |zone: &str| json!({"benefit": "zone", "source": zone, "user": "u", "points": 1, "valid_days": 3, "zone": zone});
    for zone in zones {
        enqueue(pool, "point_grant", &format!("zone:{zone}"), args(zone)).await;
    }
    for zone in others {
        // Where it is asked for, and not when it is too late to fix it.
        let ask = sqlx::query("select noshi.enqueue('point_grant', $1, $2)").bind(format!("zone:{zone}"));
        let refused = ask.bind(args(zone)).execute(pool).await.expect_err(zone).to_string();
        assert!(refused.contains("args.zone: there is no such time zone"), "{refused}");
    }
    let worker = fleet.worker("w", &[], &[]);
    fleet.at_rest(REST).await.expect("grants and refusals");
    for zone in zones {
        assert_eq!(stands(pool, "point_grant", &format!("zone:{zone}")).await, done("granted"), "{zone}");
    }
    let midnights: i64 = sqlx::query_scalar(
        "select count(*) from noshi.point_lot l join noshi.point_entry e on e.id = l.entry join noshi.benefit_exercise x on x.id = e.exercise
        where (l.expires_at at time zone x.source)::time = '00:00' and (l.expires_at at time zone x.source)::date = (e.at at time zone x.source)::date + 4",
    )
    .fetch_one(pool)
    .await
    .expect("the lots");
    assert_eq!(midnights, 4);
    assert!(worker.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scheduled_expiry_closes_what_is_due() {
    let _turn = turn().await;
    let fleet = fleet(Terms::default()).await;
    let pool = &fleet.pool;
    // Lots of yesterday, as the ledger books them.
    let old = "select noshi.book_grant(clock_timestamp() - interval '10 days', 'acquire:old:' || n, 'u' || n % 7, 5, 'old', n::text,
        clock_timestamp() - interval '1 day' - n * interval '1 second', null, null) from generate_series(1, 2500) n";
    sqlx::query(old).execute(pool).await.expect("old lots");
    grant(pool, "new", "u1", 50).await;
    for due in ["2999-01-01T00:00:00Z", "2026-01-01T00:00:00Z", "2026-13-45T00:00:00Z"] {
        enqueue(pool, "point_expiry", due, json!({"due": due})).await;
    }
    let workers = [fleet.worker("a", &[], &[]), fleet.worker("b", &[], &[])];
    fleet.at_rest(REST).await.expect("expired lots");
    assert_eq!(stands(pool, "point_expiry", "2999-01-01T00:00:00Z").await, done("expired"));
    assert_eq!(stands(pool, "point_expiry", "2026-01-01T00:00:00Z").await, done("expired"));
    assert_eq!(stands(pool, "point_expiry", "2026-13-45T00:00:00Z").await, failed("bad_args"));
    let expired: (i64, i64) =
        sqlx::query_as("select count(*), -sum(amount)::bigint from noshi.point_entry where kind = 'expire'")
            .fetch_one(pool)
            .await
            .expect("the expiries");
    assert_eq!(expired, (2_500, 12_500));
    // What the job says it did, beside what the grant's own turn booked.
    let said: i64 =
        sqlx::query_scalar("select (state ->> 'lots')::bigint from noshi.job where key = '2999-01-01T00:00:00Z'")
            .fetch_one(pool)
            .await
            .expect("what it closed");
    let of_u1: i64 =
        sqlx::query_scalar("select count(*) from noshi.point_entry where kind = 'expire' and user_id = 'u1'")
            .fetch_one(pool)
            .await
            .expect("the expiries of one user");
    assert!((2_500 - of_u1..=2_500).contains(&said), "{said} of 2,500");
    assert_eq!((balance(pool, "u1").await, balance(pool, "u2").await), (50, 0));
    audited(&fleet).await;
    for worker in workers {
        assert!(worker.stop().await.success());
    }
}

/// Nobody but an exchange orders an exchange's gift, and nobody who may run jobs books what no running job asks for.
#[tokio::test(flavor = "multi_thread")]
async fn points_are_booked_for_running_jobs_alone() {
    let db = database().await;
    let pool = &db.pool;
    sqlx::query("create role outsider login in role noshi_producer").execute(pool).await.expect("a producer");
    let mut producer = pool.acquire().await.expect("a connection");
    sqlx::query("set session authorization outsider").execute(&mut *producer).await.expect("its login");
    let gift = json!({"grant": "exchange/x", "user": "u", "category": "amazon", "value": {"amount": 1, "currency": "JPY"},
        "paid_by": {"exchange": "x"}});
    for (kind, key, args) in
        [("gift_issuance", "exchange/x", gift), ("point_reversal", "x", json!({"exchange": "x", "grace_days": 0}))]
    {
        let asked = sqlx::query("select noshi.enqueue($1, $2, $3)").bind(kind).bind(key).bind(args);
        let refused = asked.execute(&mut *producer).await.expect_err("what nobody paid for");
        assert!(refused.to_string().contains("belongs to an exchange of points"), "{refused}");
    }
    // A due time can be guessed: its schedule would find its place taken.
    let due = "select noshi.enqueue('point_expiry', '2030-01-01T00:00:00Z', '{\"due\": \"2030-01-01T00:00:00Z\"}')";
    let refused = sqlx::query(due).execute(&mut *producer).await.expect_err("what a schedule asks for");
    assert!(refused.to_string().contains("is asked for by a schedule"), "{refused}");
    sqlx::query("reset session authorization").execute(&mut *producer).await.expect("the owner again");

    // A worker's login may call the functions, and gets nothing for jobs that do not run, or are of another kind.
    let job = grant(pool, "s1", "u1", 1_000).await;
    sqlx::query("set role noshi_worker").execute(&mut *producer).await.expect("a worker's rights");
    for call in ["select from noshi.grant_points($1)", "select from noshi.use_points($1)"] {
        let rows = sqlx::query(call).bind(job).fetch_all(&mut *producer).await.expect("no row");
        assert!(rows.is_empty(), "{call}");
    }
    for call in ["select noshi.return_points($1)", "select noshi.withdraw_points($1)"] {
        let entry: Option<i64> = sqlx::query_scalar(call).bind(job).fetch_one(&mut *producer).await.expect("nothing");
        assert_eq!(entry, None, "{call}");
    }
    let inner = "select noshi.book_grant(clock_timestamp(), 'k', 'u', 1, 'b', 's', clock_timestamp() + interval '1 day', null, null)";
    let refused = sqlx::query(inner).execute(&mut *producer).await.expect_err("the ledger's own function");
    assert!(refused.to_string().contains("permission denied"), "{refused}");
    sqlx::query("reset role").execute(&mut *producer).await.expect("the owner again");
    let booked: i64 =
        sqlx::query_scalar("select count(*) from noshi.point_entry").fetch_one(pool).await.expect("the journal");
    assert_eq!(booked, 0);
}

/// Points in bulk, over HTTP: the same file, the same second person, the same caps; and what users own is read there and by commands.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_points_is_approved_granted_and_read_back() {
    let _turn = turn().await;
    let api = Api::open().await;
    let pool = &api.fleet.pool;
    let (sato, suzuki) = (api.token("sato", &SCOPES).await, api.token("suzuki", &["approve"]).await);
    let row = |n: usize| format!("autumn,u{n},u{n},500,180\n");
    let csv: String =
        std::iter::once("benefit,source,user_id,points,valid_days\n".to_owned()).chain((0..150).map(row)).collect();
    let (status, made) = api.upload("kind=points&file=points.csv", &sato, &csv).await;
    assert_eq!((status, &made["rows"], &made["needs_approval"]), (200, &json!(150), &json!(true)), "{made}");
    assert_eq!(api.upload("kind=points&mail=true", &sato, &csv).await.0, 422);
    let path = |act: &str| format!("/v1/batches/{}/{act}", made["batch"]);
    assert_eq!(api.post(&path("release"), &sato, &json!({})).await.0, 403);
    let approve = json!({"digest": made["approval_digest"], "reason": "read"});
    assert_eq!(api.post(&path("approve"), &sato, &approve).await.0, 403);
    let worker = api.fleet.worker("w", &[], &[]);
    let (status, said) = api.post(&path("approve"), &suzuki, &approve).await;
    assert_eq!(status, 200, "{said}");
    assert_eq!(api.post(&path("release"), &sato, &json!({})).await.0, 200);
    let batch = format!("/v1/batches/{}", made["batch"]);
    until("a settled batch", REST, async || api.get(&batch, &sato).await.1["status"] == "settled").await;
    assert_eq!(api.get(&batch, &sato).await.1["completed"], 150);
    // Granted once, whatever another file says of the same sources.
    let again = csv.replace(",500,", ",400,");
    let (_, other) = api.upload("kind=points&file=again.csv", &sato, &again).await;
    let (status, said) = api
        .post(
            &format!("/v1/batches/{}/approve", other["batch"]),
            &suzuki,
            &json!({"digest": other["approval_digest"], "reason": "read"}),
        )
        .await;
    assert!(status == 403 && said["detail"].as_str().unwrap().contains("granted by another batch"), "{said}");

    exchange(pool, "x1", "u1", 120, 120).await;
    api.fleet.at_rest(REST).await.expect("an exchange");
    let owned = api.get("/v1/points/u1", &sato).await.1;
    assert_eq!((&owned["balance"], &owned["expiring"]), (&json!(380), &json!([])), "{owned}");
    let later = api.get("/v1/points/u1?at=2999-01-01T00:00:00Z", &sato).await.1;
    assert_eq!(later["balance"], 0, "{later}");
    let (_, first) = api.get("/v1/points/u1/history?limit=1", &sato).await;
    let (_, second) = api.get(&format!("/v1/points/u1/history?limit=1&before={}", first["next"]), &sato).await;
    let entry = |page: &Value| {
        (
            page["entries"][0]["kind"].clone(),
            page["entries"][0]["amount"].clone(),
            page["entries"][0]["balance"].clone(),
        )
    };
    assert_eq!(entry(&first), (json!("use"), json!(-120), json!(380)), "{first}");
    assert_eq!((entry(&second), &second["next"]), ((json!("grant"), json!(500), json!(500)), &Value::Null), "{second}");
    assert_eq!(api.get("/v1/points/u1/history?limit=0", &sato).await.0, 422);

    let said = async |arguments: &[&str]| {
        let output = api.fleet.command(arguments).await;
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("words")
    };
    assert_eq!(said(&["points", "balance", "u1"]).await, "380 points\n");
    assert!(said(&["points", "history", "u1"]).await.contains("use:x1"));
    let expiring = said(&["points", "expiring", "u1", "--before", "2999-01-01T00:00:00Z", "-o", "json"]).await;
    assert_eq!(serde_json::from_str::<Value>(&expiring).unwrap()[0]["points"], 380);
    assert_eq!(said(&["points", "verify"]).await, "every equation of the ledger holds\n");
    assert!(worker.stop().await.success());
}

/// What a producer asks for under a snapshot from before a file of points is booked for nobody else than the file says.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_snapshot_takes_no_points_of_a_file() {
    let db = database().await;
    sqlx::raw_sql("create role old_producer login in role noshi_producer").execute(&db.pool).await.expect("a producer");
    let mut old = db.pool.acquire().await.expect("a connection");
    sqlx::raw_sql("set session authorization old_producer; begin isolation level repeatable read; select noshi.who()")
        .execute(&mut *old)
        .await
        .expect("a snapshot");
    let staged = r#"do $$ declare b bigint; begin
        select batch into b from noshi.receive_batch('points', 'all_or_nothing', sha256('p'), 'p', 'utf-8', null, false, false);
        insert into noshi.batch_row (batch, row_no, line, key, args)
        select b, n, n + 1, 'shop:s' || n, jsonb_build_object('grant', 'shop:s' || n, 'benefit', 'shop', 'source', 's' || n, 'user', 'u' || n, 'points', 10, 'valid_days', 30,
            'value', '{"amount": 10, "currency": "PT"}'::jsonb) from generate_series(1, 2) n;
        perform noshi.validate_batch(b, 2);
        perform noshi.release_batch(b, 'now');
        perform noshi.register_batch(b); end $$"#;
    sqlx::raw_sql(staged).execute(&db.pool).await.expect("a file");
    let ask = |n: u32, user: &str| {
        sqlx::AssertSqlSafe(format!(
            r#"select noshi.enqueue('point_grant', 'shop:s{n}', '{{"benefit": "shop", "source": "s{n}", "user": "{user}", "points": 10, "valid_days": 30}}')"#
        ))
    };
    sqlx::raw_sql(ask(1, "thief")).execute(&mut *old).await.expect("nothing of the file is to be seen in it");
    sqlx::raw_sql(ask(2, "u2")).execute(&mut *old).await.expect("as the file has it");
    sqlx::raw_sql("commit; reset session authorization").execute(&mut *old).await.expect("committed");
    sqlx::raw_sql("update noshi.job set status = 'running' where kind = 'point_grant'")
        .execute(&db.pool)
        .await
        .expect("in flight");
    let booked: Vec<(String, Option<String>)> = sqlx::query_as(
        "select j.key, g.code from noshi.job j cross join lateral noshi.grant_points(j.id) g where j.kind = 'point_grant' order by j.key",
    )
    .fetch_all(&db.pool)
    .await
    .expect("booked, or not");
    assert_eq!(
        booked,
        [("shop:s1".to_owned(), Some("points_conflict".to_owned())), ("shop:s2".to_owned(), None)],
        "the thief's are not booked, and whoever asks as the file says has theirs"
    );
    assert_eq!((balance(&db.pool, "thief").await, balance(&db.pool, "u2").await), (0, 10));
}

/// "3{due}" would be a time in the year 32026, and "{due} BC" one before there were points: by SQL as by the command.
#[tokio::test(flavor = "multi_thread")]
async fn a_due_time_has_nothing_before_or_behind_it() {
    let db = database().await;
    let set = |due: &str| {
        sqlx::AssertSqlSafe(format!(
            "select noshi.set_schedule('expiry', 'point_expiry', '{due}', '{{\"due\": \"{due}\"}}', 1::smallint, '5 0 * * *', 'UTC', 'every', clock_timestamp() + interval '1 day', 'new')"
        ))
    };
    for due in ["3{due}", "{due} BC", " {due}"] {
        let refused = sqlx::raw_sql(set(due)).execute(&db.pool).await.expect_err(due).to_string();
        assert!(refused.contains("nothing before or behind it"), "{due}: {refused}");
    }
    sqlx::raw_sql(set("{due}")).execute(&db.pool).await.expect("a due time");
}
