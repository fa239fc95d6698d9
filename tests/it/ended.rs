//! Operators end what is wrong, on real fleets: what was never called, what nobody can read, what is proven void.

use std::time::Duration;

use serde_json::json;

use crate::{
    fleet::{Fleet, Terms, fleet},
    processes::{count, until},
};
use noshi::{
    db::PgPool,
    lab::simulator::{Fault, Op, Provider},
};

const SOON: Duration = Duration::from_secs(60);

async fn stands(pool: &PgPool, job: i64) -> (String, String, Option<String>) {
    let sql = "select status::text, at, code from noshi.job where id = $1";
    sqlx::query_as(sql).bind(job).fetch_one(pool).await.unwrap()
}

async fn comes_to(pool: &PgPool, job: i64, status: &str, code: Option<&str>) {
    until(&format!("job {job} {status} {code:?}"), SOON, async || {
        let (now, _, why) = stands(pool, job).await;
        now == status && why.as_deref() == code
    })
    .await;
}

/// What the command says, on either stream; and whether it did it.
async fn says(fleet: &Fleet, arguments: &[&str]) -> (bool, String) {
    let said = fleet.command(arguments).await;
    let text = [said.stdout, said.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    (said.status.success(), text)
}

async fn does(fleet: &Fleet, arguments: &[&str]) -> String {
    let (done, text) = says(fleet, arguments).await;
    assert!(done, "{arguments:?}: {text}");
    text
}

/// In doubt, attested to be void, issued anew: the user has the gift, and one only. The second one's attestation was recorded by nobody,
/// as older versions left it: the reissue itself makes up for that.
#[tokio::test(flavor = "multi_thread")]
async fn a_gift_that_was_attested_void_is_issued_anew() {
    let _turn = crate::support::turn().await;
    let fleet = fleet(Terms::default()).await;
    fleet.control().script(Provider::GiftOnDemand, Op::Issue, Fault::ResetBeforeEffect, 2).unwrap();
    let gifts = [fleet.gift("first", "digital", 500).await, fleet.gift("older", "digital", 500).await];
    let worker = fleet.worker("w", &[], &[]);
    for (n, gift) in gifts.into_iter().enumerate() {
        comes_to(&fleet.pool, gift, "needs_operator", Some("not_found_in_doubt")).await;
        let job = gift.to_string();
        does(&fleet, &["job", "resolve", &job, "--as", "attest_void", "--reason", "their letter"]).await;
        comes_to(&fleet.pool, gift, "needs_operator", Some("gift_void")).await;
        let recorded = "select o.reason from noshi.gift_outcome o join noshi.gift_trade t on t.id = o.trade where t.job = $1 and o.outcome = 'void'";
        let reason: String = sqlx::query_scalar(recorded).bind(gift).fetch_one(&fleet.pool).await.unwrap();
        assert_eq!(reason, "attested");
        if n == 1 {
            let forget =
                "delete from noshi.gift_outcome o using noshi.gift_trade t where t.id = o.trade and t.job = $1";
            sqlx::query(forget).bind(gift).execute(&fleet.pool).await.unwrap();
        }
        does(&fleet, &["job", "resolve", &job, "--as", "reissue", "--reason", "the user waits"]).await;
        comes_to(&fleet.pool, gift, "completed", None).await;
    }
    assert_eq!(count(&fleet, "issued"), 2, "one gift for each");
    assert!(worker.stop().await.success());
}

/// The lane is paused, so nobody called: a cancel ends the gift, the word for it is the operator's, and the partner hears nothing.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_never_called_is_cancelled_in_one_act() {
    let _turn = crate::support::turn().await;
    let fleet = fleet(Terms::default()).await;
    let worker = fleet.worker("w", &[], &[]);
    let known = "select count(*) from noshi.lane where name in ('gift/gift_on_demand', 'gift/amazon_incentives')";
    until("the lanes", SOON, async || sqlx::query_scalar::<_, i64>(known).fetch_one(&fleet.pool).await.unwrap() == 2)
        .await;
    for (lane, category) in [("gift/gift_on_demand", "digital"), ("gift/amazon_incentives", "amazon")] {
        does(&fleet, &["lane", "pause", lane, "--reason", "an incident"]).await;
        let gift = fleet.gift(category, category, 500).await;
        until("it waits in its lane", SOON, async || stands(&fleet.pool, gift).await.1 == "issuing").await;
        let why = does(&fleet, &["job", "explain", &gift.to_string()]).await;
        assert!(why.contains("cancel"), "{why}");
        does(&fleet, &["job", "cancel", category, "--reason", "the customer withdrew"]).await;
        comes_to(&fleet.pool, gift, "failed", Some("gift_revoked")).await;
        let why = does(&fleet, &["job", "explain", &gift.to_string()]).await;
        assert!(why.contains("gift_revoked") && !why.contains("refused"), "{why}");
    }
    assert_eq!(count(&fleet, "arrival"), 0, "nobody was called");
    assert!(worker.stop().await.success());
}

/// Whether the last call took effect is not known: a retry would be a second one. Refused by the command, and by the worker past it.
#[tokio::test(flavor = "multi_thread")]
async fn no_act_calls_again_while_it_is_in_doubt() {
    let _turn = crate::support::turn().await;
    let fleet = fleet(Terms::default()).await;
    sqlx::query("insert into noshi.lane (name) values ('probe') on conflict do nothing")
        .execute(&fleet.pool)
        .await
        .unwrap();
    let args = json!({"id": "p", "steps": 2, "lane": "probe", "answers": ["unknown", "unknown"], "in_doubt": "ask"});
    let job: i64 =
        sqlx::query_scalar("select noshi.enqueue('probe', 'p', $1)").bind(args).fetch_one(&fleet.pool).await.unwrap();
    let worker = fleet.worker("w", &[], &[]);
    comes_to(&fleet.pool, job, "needs_operator", Some("probe_asked")).await;
    let calls = "select count(*) from noshi.job_event where job = $1 and event = 'settled' and outcome = 'unknown'";
    let (done, said) = says(&fleet, &["job", "retry", "p", "--reason", "hope"]).await;
    assert!(!done && said.contains("in doubt") && said.contains("attest"), "{said}");
    let (done, said) = says(&fleet, &["job", "dismiss", "p", "--reason", "noise"]).await;
    assert!(!done && said.contains("dismiss is not allowed"), "{said}");
    let sql = "select noshi.ask(id, step, $2, 'past the command') from noshi.job where id = $1";
    let past = sqlx::query(sql).bind(job).bind("dismiss").execute(&fleet.pool).await.unwrap_err().to_string();
    assert!(past.contains("in doubt"), "{past}");
    sqlx::query(sql).bind(job).bind("retry").execute(&fleet.pool).await.unwrap();
    let declined = "select count(*) from noshi.job_event where job = $1 and event = 'declined'";
    until("a refusal", SOON, async || {
        sqlx::query_scalar::<_, i64>(declined).bind(job).fetch_one(&fleet.pool).await.unwrap() == 1
    })
    .await;
    assert_eq!(sqlx::query_scalar::<_, i64>(calls).bind(job).fetch_one(&fleet.pool).await.unwrap(), 1, "one call");
    does(&fleet, &["job", "resolve", "p", "--as", "attest_void", "--reason", "looked"]).await;
    comes_to(&fleet.pool, job, "completed", None).await;
    assert!(worker.stop().await.success());
}

/// Rows that nobody can read, of a kind that exists and of one that does not: seen, ended, and out of the alerts.
#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_can_read_is_acknowledged_and_dismissed() {
    let _turn = crate::support::turn().await;
    let fleet = fleet(Terms::default()).await;
    let put = "insert into noshi.job (kind, key, fingerprint, args) values ($1, $2, '', $3) returning id";
    let put = async |kind: &str, key: &str| -> i64 {
        let args = json!({"grant": key, "usr": "uc"});
        sqlx::query_scalar(put).bind(kind).bind(key).bind(args).fetch_one(&fleet.pool).await.unwrap()
    };
    // Past the entry points, as rows of earlier versions are.
    let unread = put("gift_issuance", "c3").await;
    let unknown = put("gift_isuance", "c2").await;
    let worker = fleet.worker("w", &[], &[]);
    comes_to(&fleet.pool, unread, "needs_operator", Some("bad_args")).await;
    // One process of the fleet counts, every few seconds.
    let snapshot = async |open: f64, seen: f64| {
        let value = "select value from noshi.metric_snapshot where name = $1 and labels ->> 'code' = 'bad_args'";
        for (name, wanted) in [("noshi_parked_jobs", open), ("noshi_parked_acknowledged_jobs", seen)] {
            until(&format!("{name} {wanted}"), SOON, async || {
                let found: Option<f64> =
                    sqlx::query_scalar(value).bind(name).fetch_optional(&fleet.pool).await.unwrap();
                found == Some(wanted)
            })
            .await;
        }
    };
    snapshot(1.0, 0.0).await;
    does(&fleet, &["job", "ack", "c3", "--reason", "told the producer"]).await;
    snapshot(0.0, 1.0).await;
    let (done, said) = says(&fleet, &["job", "acknowledge", "c3", "--reason", "again"]).await;
    assert!(!done && said.contains("not allowed"), "{said}");
    for (job, name) in [(unread, "c3".to_owned()), (unknown, unknown.to_string())] {
        let (done, said) = says(&fleet, &["job", "cancel", &name, "--reason", "a typo"]).await;
        assert!(!done && said.contains("you may: dismiss"), "{said}");
        does(&fleet, &["job", "dismiss", &name, "--reason", "a typo of the producer"]).await;
        assert_eq!(stands(&fleet.pool, job).await.0, "cancelled");
        let audited = "select count(*) from noshi.audit where act = 'job dismiss' and target = 'job/' || $1::bigint and reason = 'a typo of the producer'";
        assert_eq!(sqlx::query_scalar::<_, i64>(audited).bind(job).fetch_one(&fleet.pool).await.unwrap(), 1);
    }
    snapshot(0.0, 0.0).await;
    assert!(worker.stop().await.success());
}

/// A released batch is stopped in the middle: rows that nobody called for end, those begun go on, and the numbers say so.
#[tokio::test(flavor = "multi_thread")]
async fn a_released_batch_is_cancelled_and_what_has_begun_goes_on() {
    let _turn = crate::support::turn().await;
    let fleet = fleet(Terms::default()).await;
    let worker = fleet.worker("w", &[], &[]);
    let lane = "select count(*) from noshi.lane where name = 'gift/gift_on_demand'";
    let number = async |sql: &str| -> i64 {
        sqlx::query_scalar(sqlx::AssertSqlSafe(sql.to_owned())).fetch_one(&fleet.pool).await.unwrap()
    };
    until("the lane", SOON, async || number(lane).await == 1).await;
    does(&fleet, &["lane", "pause", "gift/gift_on_demand", "--reason", "an incident"]).await;
    // Five rows that wait for the lane, and one at a provider whose lane is open.
    let rows = "with b as (
        insert into noshi.batch (kind, mode, digest, file, submitted_by, rows, validated_at, released_at, registered_at, mails, issues)
        values ('grants', 'all_or_nothing', sha256('f'), 'f', 'sato', 6, now(), now(), now(), false, true) returning id),
    r as (
        insert into noshi.batch_row (batch, row_no, line, key, args)
        select b.id, n, n + 1, 'row-' || n, jsonb_build_object('grant', 'row-' || n, 'user', 'u',
            'category', case n when 6 then 'amazon' else 'digital' end, 'value', jsonb_build_object('amount', 500, 'currency', 'JPY'))
        from b, generate_series(1, 6) n returning batch, row_no, key, args)
    insert into noshi.job (kind, key, fingerprint, args, batch, row_no)
    select 'gift_issuance', key, sha256(convert_to(args::text, 'UTF8')), args, batch, row_no from r";
    let mut connection = fleet.pool.acquire().await.unwrap();
    sqlx::raw_sql("set session_replication_role = replica").execute(&mut *connection).await.unwrap();
    sqlx::query(rows).execute(&mut *connection).await.unwrap();
    sqlx::raw_sql("reset session_replication_role").execute(&mut *connection).await.unwrap();
    let batch = number("select max(id) from noshi.batch").await.to_string();
    let begun = "select count(*) from noshi.job where batch is not null and status = 'completed'";
    let waiting = "select count(*) from noshi.job where batch is not null and at = 'issuing' and status = 'available'";
    until("one is issued, and five wait", SOON, async || number(begun).await == 1 && number(waiting).await == 5).await;
    let said = does(&fleet, &["batch", "cancel", &batch, "--reason", "the wrong campaign"]).await;
    assert!(said.contains("5 rows are cancelled") && said.contains("0 had begun"), "{said}");
    let ended =
        "select count(*) from noshi.job where batch is not null and status = 'cancelled' and code = 'gift_revoked'";
    assert_eq!(number(ended).await, 5);
    assert_eq!(
        number("select count(*) from noshi.gift_outcome where outcome = 'void' and reason = 'revoked'").await,
        5
    );
    let (done, again) = says(&fleet, &["batch", "cancel", &batch, "--reason", "again"]).await;
    assert!(!done && again.contains("nothing changed"), "{again}");
    does(&fleet, &["lane", "resume", "gift/gift_on_demand", "--reason", "over"]).await;
    until("it is counted", SOON, async || {
        number("select count(*) from noshi.batch where settled_at is not null").await == 1
    })
    .await;
    assert_eq!(count(&fleet, "issued"), 1, "nothing of the cancelled rows was called");
    assert!(worker.stop().await.success());
}
