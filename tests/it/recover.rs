//! What a death, a failover or a lost future leaves, and what bounds every job.

use std::time::Duration;

use noshi_jobs::Problem;
use serde_json::json;

use crate::{
    engine::{at_rest, pace, probe, start},
    fleet::{Fleet, Terms, fleet},
    processes::until,
    support::database,
};
use noshi::db::{
    PgPool,
    domain::facts::{NewTrade, Partners, Saved, save_trade},
    queue::{
        claim::{Claimed, claim, hand_back},
        lanes::Budget,
        recover::{self, Dealt},
        testimony::Testimony,
        workers,
    },
};

async fn run(pool: &PgPool, sql: &'static str) {
    sqlx::raw_sql(sql).execute(pool).await.unwrap();
}

async fn job(pool: &PgPool, id: i64) -> (String, String, Option<String>, bool, i64) {
    sqlx::query_as("select status::text, at, code, in_doubt, lease from noshi.job where id = $1")
        .bind(id)
        .fetch_one(pool)
        .await
        .unwrap()
}

/// As if the server had been replaced by one of this timeline, and this worker had lived before.
async fn another_timeline(pool: &PgPool) {
    run(pool, "update noshi.server_seen set server = '00000000 1', timeline = '00000000'").await;
    run(pool, "update noshi.worker set timeline = '00000000'").await;
}

/// Two jobs of which one is in flight and one waits for its call, and one that nobody has seen.
async fn called_waiting_and_fresh(pool: &PgPool) -> (i64, i64, i64) {
    let writing = probe(pool, json!({"id": "writing", "steps": 2, "lane": "l"})).await;
    let waiting = probe(pool, json!({"id": "waiting", "steps": 2, "lane": "l"})).await;
    let fresh = probe(pool, json!({"id": "fresh", "steps": 2})).await;
    run(pool, "insert into noshi.lane (name) values ('l')").await;
    run(
        pool,
        r#"update noshi.job set at = 'calling', state = '{"at": "calling", "left": 1, "turn": 0}', writes = true, lane = 'l' where key in ('writing', 'waiting')"#,
    )
    .await;
    (writing, waiting, fresh)
}

async fn seen(pool: &PgPool) -> recover::Server {
    recover::see_server(pool, 0, sqlx::types::Uuid::nil()).await.unwrap()
}

fn remembered(job: &Claimed, lease: i64) -> noshi::db::queue::testimony::Claim {
    let (kind, key, at) = (job.kind.clone(), job.key.clone(), std::time::Instant::now());
    noshi::db::queue::testimony::Claim { job: job.id, lease, kind, key, calls: true, at }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_claimed_on_a_timeline_before_every_worker_that_lived_before_has_told_what_it_knows() {
    let db = database().await;
    let pool = &db.pool;
    let (writing, waiting, fresh) = called_waiting_and_fresh(pool).await;
    let worker = workers::register(pool, "w").await.unwrap();
    let other = workers::register(pool, "other").await.unwrap();
    let held = claim(pool, worker, "l", 1, false).await.unwrap().jobs.remove(0);
    assert_eq!((held.id, held.lease, held.calls), (writing, 1, true));
    assert!(!seen(pool).await.is_new, "nothing has changed yet");
    another_timeline(pool).await;
    // Whoever asks first: no heartbeat has seen it.
    assert!(claim(pool, other, "l", 1, false).await.unwrap().closed);
    let recover::Server { timeline, is_new: open, .. } = seen(pool).await;
    assert!(open, "another timeline");
    assert_eq!(timeline, recover::timeline(pool).await.unwrap());
    assert!(claim(pool, other, "l", 1, false).await.unwrap().closed, "seen is not dealt with");
    assert_eq!(recover::deal(pool, recover::PAGE).await.unwrap(), Dealt::Waits);
    let said = Testimony { claims: vec![remembered(&held, 1)], ..Testimony::default() };
    assert_eq!(recover::testify(pool, worker, &said).await.unwrap(), 0);
    assert_eq!(recover::deal(pool, recover::PAGE).await.unwrap(), Dealt::Waits, "the other has not told yet");
    assert!(claim(pool, other, "l", 1, false).await.unwrap().closed);
    assert_eq!(recover::testify(pool, other, &Testimony::default()).await.unwrap(), 0);
    assert_eq!(recover::deal(pool, recover::PAGE).await.unwrap(), Dealt::Whole { silent: 0 });
    assert_eq!(recover::deal(pool, recover::PAGE).await.unwrap(), Dealt::Known, "a change is dealt with once");
    let again = seen(pool).await;
    assert_eq!((again.timeline, again.is_new), (timeline, false));
    // Nothing was lost: who holds a job holds it, and what waits is as it was.
    assert_eq!(job(pool, writing).await, ("running".into(), "calling".into(), None, false, 1));
    assert_eq!(job(pool, waiting).await, ("available".into(), "calling".into(), None, false, 0));
    assert_eq!(job(pool, fresh).await, ("available".into(), "new".into(), None, false, 0));
    assert_eq!(claim(pool, other, "l", 1, false).await.unwrap().jobs[0].id, waiting);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_was_acknowledged_and_is_missing_puts_its_job_in_doubt_wherever_it_fell_back_to() {
    let db = database().await;
    let pool = &db.pool;
    let (writing, waiting, fresh) = called_waiting_and_fresh(pool).await;
    let worker = workers::register(pool, "w").await.unwrap();
    let held = claim(pool, worker, "l", 1, false).await.unwrap().jobs.remove(0);
    another_timeline(pool).await;
    assert!(seen(pool).await.is_new, "another timeline");
    // Its job was claimed again; another was claimed from the very beginning to its call; a third is not there any more, and its number is another's.
    let of = |id: i64, key: &str, lease| noshi::db::queue::testimony::Claim {
        job: id,
        key: key.to_owned(),
        ..remembered(&held, lease)
    };
    let claims = vec![remembered(&held, 1), remembered(&held, 4), of(fresh, "fresh", 2), of(waiting, "gone", 7)];
    assert_eq!(recover::testify(pool, worker, &Testimony { claims, ..Testimony::default() }).await.unwrap(), 3);
    assert_eq!(recover::deal(pool, recover::PAGE).await.unwrap(), Dealt::Lost { missing: 3, silent: 0, doubted: 2 });
    assert_eq!(job(pool, writing).await, ("available".into(), "calling".into(), None, true, 5));
    assert_eq!(job(pool, fresh).await, ("available".into(), "new".into(), None, true, 3));
    // Not called, and no settle under the old number's lease can fit it.
    assert_eq!(job(pool, waiting).await, ("available".into(), "calling".into(), None, false, 8));
    assert_eq!(hand_back(pool, worker, &[(held.id, held.lease, held.step)]).await.unwrap(), 0);
    // Its producer asks again: a job in doubt, under a number that was never given before.
    let again = probe(pool, json!({"id": "gone", "steps": 2})).await;
    assert!(again > fresh + 1_000, "{again}");
    assert_eq!(job(pool, again).await, ("available".into(), "new".into(), None, true, 8));
    let other = probe(pool, json!({"id": "another", "steps": 2})).await;
    assert!(!job(pool, other).await.3);
    // What is marked already is not missed again.
    another_timeline(pool).await;
    let claims = vec![of(waiting, "gone", 7)];
    assert_eq!(recover::testify(pool, worker, &Testimony { claims, ..Testimony::default() }).await.unwrap(), 0);
    // A heartbeat or a settle that is missing tells of a loss as well.
    for said in [
        Testimony { beats: 3, ..Testimony::default() },
        Testimony { settles: vec![(fresh, 1, 0)], ..Testimony::default() },
    ] {
        assert_eq!(recover::testify(pool, worker, &said).await.unwrap(), 1, "{said:?}");
    }
}

/// It died with the server, whose standby was behind: its lane may have begun so many calls, in the order of claims.
const WAITS_OR_OVER: &str =
    "select exists (select from pg_locks where not granted and relation = 'noshi.lost_call'::regclass)
    or exists (select from noshi.testimony where key = $1)";

/// Whoever asks again while the loss is testified is seen by the testimony, or sees it.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_again_beside_a_testimony_is_in_doubt() {
    let pool = database().await.pool;
    let worker = workers::register(&pool, "w").await.unwrap();
    let ask = "select noshi.enqueue('email', $1, jsonb_build_object('template', 'gift_granted', 'reference', $1, 'recipient', $1, 'params', '{}'::jsonb))";
    // Within the second for which a testimony waits; on a busy machine it takes another go.
    for n in 0.. {
        let key = format!("again-{n}");
        let mut asking = pool.begin().await.unwrap();
        sqlx::query(ask).bind(&key).execute(&mut *asking).await.unwrap();
        let began = std::time::Instant::now();
        let said = sqlx::query("select noshi.testify($1, 0, null, false, array[4711 + $3], array[1::bigint], array['email'], array[$2], array[true], array['1 s'::interval], '{}', '{}', '{}')")
            .bind(worker)
            .bind(&key)
            .bind(i64::from(n));
        let testimony = said.execute(&pool);
        let asked = async {
            until("the testimony waits, or is over", Duration::from_secs(20), async || {
                sqlx::query_scalar::<_, bool>(WAITS_OR_OVER).bind(&key).fetch_one(&pool).await.unwrap()
            })
            .await;
            asking.commit().await.unwrap();
            began.elapsed()
        };
        let (testified, took) = tokio::join!(testimony, asked);
        testified.unwrap();
        if took < Duration::from_millis(900) {
            let in_doubt: bool = sqlx::query_scalar("select in_doubt from noshi.job where key = $1")
                .bind(&key)
                .fetch_one(&pool)
                .await
                .unwrap();
            assert!(in_doubt, "asked again beside the testimony, and not in doubt");
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_worker_that_cannot_testify_may_have_called_is_bounded_by_its_lanes_budgets() {
    for (synchronous, doubted) in [(false, 6), (true, 0)] {
        let db = database().await;
        let pool = &db.pool;
        let budget = Budget { per: Duration::from_secs(1), calls: 2, burst: 1, jitter: Duration::ZERO };
        noshi::db::queue::lanes::declare(pool, "l", &[budget]).await.unwrap();
        for n in 0..20 {
            probe(pool, json!({"id": format!("p{n}"), "steps": 2, "lane": "l"})).await;
        }
        run(pool, r#"update noshi.job set at = 'calling', state = '{"at": "calling", "left": 1, "turn": 0}', writes = true, lane = 'l'"#).await;
        workers::register(pool, "w").await.unwrap();
        another_timeline(pool).await;
        sqlx::query("update noshi.server_seen set synchronous = $1").bind(synchronous).execute(pool).await.unwrap();
        assert!(seen(pool).await.is_new, "another timeline");
        assert_eq!(recover::deal(pool, recover::PAGE).await.unwrap(), Dealt::Waits);
        // Two and a half seconds, at one call in half a second.
        run(pool, "update noshi.failover set known_to = seen_at - interval '2.4 seconds'").await;
        run(pool, "update noshi.worker set dead_at = clock_timestamp()").await;
        let expected = match synchronous {
            true => Dealt::Whole { silent: 1 },
            false => Dealt::Lost { missing: 0, silent: 1, doubted },
        };
        assert_eq!(recover::deal(pool, recover::PAGE).await.unwrap(), expected);
        let in_doubt = "select coalesce(array_agg(key order by id), '{}') from noshi.job where in_doubt";
        let in_doubt: Vec<String> = sqlx::query_scalar(in_doubt).fetch_one(pool).await.unwrap();
        let first: Vec<String> = (0..doubted).map(|n| format!("p{n}")).collect();
        assert_eq!(in_doubt, first);
    }
}

/// Half of what is to be put in doubt by a window, half by a testimony that no longer knew everything: page by page, and nothing is claimed
/// before the last.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_loss_is_dealt_with_in_pages_that_no_heartbeat_waits_for() {
    const WAITING: &str = r#"insert into noshi.job (kind, key, fingerprint, args, at, state, writes, lane)
        select 'probe', 'p' || n, '', '{"id": "p", "steps": 2, "lane": "l"}', 'calling', '{"at": "calling", "left": 1, "turn": 0}', true, 'l'
        from generate_series(1, 100000) n"#;
    for overrun in [false, true] {
        let db = database().await;
        let pool = &db.pool;
        run(pool, "insert into noshi.lane (name) values ('l')").await;
        run(pool, WAITING).await;
        run(pool, "analyze noshi.job").await;
        let one = workers::enter(pool, "one").await.unwrap();
        let silent = workers::register(pool, "silent").await.unwrap();
        another_timeline(pool).await;
        let recover::Server { timeline, is_new: changed, .. } = seen(pool).await;
        assert!(changed);
        let said = Testimony { overrun, beats: i64::from(overrun), ..Testimony::default() };
        recover::testify(pool, one.id, &said).await.unwrap();
        let died = match overrun {
            true => "update noshi.worker set stopped_at = clock_timestamp() where id = $1",
            false => "update noshi.worker set dead_at = clock_timestamp() where id = $1",
        };
        sqlx::query(died).bind(silent).execute(pool).await.unwrap();
        let (mut pages, mut longest) = (0, Duration::ZERO);
        let dealt = loop {
            let begun = std::time::Instant::now();
            let dealt = recover::deal(pool, recover::PAGE).await.unwrap();
            (pages, longest) = (pages + 1, longest.max(begun.elapsed()));
            if dealt != Dealt::GoesOn {
                break dealt;
            }
            assert!(workers::beat(pool, one.id, Some(one.token)).await.unwrap().is_some(), "a beat between two pages");
            assert!(claim(pool, one.id, "l", 1, false).await.unwrap().jobs.is_empty(), "nothing is claimed meanwhile");
        };
        eprintln!("overrun: {overrun}: {pages} pages, the longest {longest:?}");
        assert!(matches!(dealt, Dealt::Lost { doubted: 100_000, .. }), "{dealt:?}");
        assert!(pages >= 20 && longest < Duration::from_secs(6), "{pages}: {longest:?}");
        let in_doubt: i64 =
            sqlx::query_scalar("select count(*) from noshi.job where in_doubt").fetch_one(pool).await.unwrap();
        assert_eq!(in_doubt, 100_000);
        let known: String = sqlx::query_scalar("select timeline from noshi.server_seen").fetch_one(pool).await.unwrap();
        assert_eq!((known, recover::deal(pool, 1).await.unwrap()), (timeline, Dealt::Known));
    }
}

/// A claim whose answer never came: nobody here ever held it, so nothing was called, and no death is counted.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_was_never_answered_raises_no_doubt() {
    let db = database().await;
    let pool = &db.pool;
    let (writing, ..) = called_waiting_and_fresh(pool).await;
    let worker = workers::register(pool, "w").await.unwrap();
    let held = claim(pool, worker, "l", 1, false).await.unwrap().jobs.remove(0);
    assert_eq!(recover::never_held(pool, worker, &[(held.id, 0)]).await.unwrap(), 0, "another lease");
    assert_eq!(recover::never_held(pool, worker, &[(held.id, held.lease)]).await.unwrap(), 1);
    assert_eq!(job(pool, writing).await, ("available".into(), "calling".into(), None, false, 1));
    let lost: i32 = sqlx::query_scalar("select crash_count::int from noshi.job where id = $1")
        .bind(writing)
        .fetch_one(pool)
        .await
        .unwrap();
    assert_eq!((lost, claim(pool, worker, "l", 1, false).await.unwrap().jobs[0].id), (0, writing));
}

/// Its number was given to another process, where its registration was lost: it is not that one.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_known_by_more_than_its_number() {
    let db = database().await;
    let pool = &db.pool;
    let one = workers::enter(pool, "one").await.unwrap();
    let two = workers::enter(pool, "two").await.unwrap();
    assert_eq!(workers::beat(pool, one.id, Some(one.token)).await.unwrap(), Some(1));
    assert_eq!(workers::beat(pool, one.id, Some(one.token)).await.unwrap(), Some(2));
    assert_eq!(workers::beat(pool, one.id, Some(two.token)).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_declared_dead_while_the_server_was_away() {
    let db = database().await;
    let pool = &db.pool;
    let silent = workers::register(pool, "silent").await.unwrap();
    sqlx::query("update noshi.worker set seen_at = seen_at - interval '1 hour' where id = $1")
        .bind(silent)
        .execute(pool)
        .await
        .unwrap();
    let lease = Duration::from_millis(500);
    run(pool, "update noshi.server_seen set seen_at = clock_timestamp()").await;
    assert!(workers::declare_dead(pool, lease).await.unwrap().is_empty(), "the server came back a moment ago");
    until("a lease time has passed", Duration::from_secs(10), async || {
        workers::declare_dead(pool, lease).await.unwrap() == [silent]
    })
    .await;
    assert!(!workers::renew(pool, silent).await.unwrap(), "declared dead is final");
}

/// A claim whose answer never came: the row is running, and nobody runs it.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_its_own_worker_lost_sight_of_is_found() {
    let db = database().await;
    let pool = &db.pool;
    let worker = start(&db, pace()).await;
    run(pool, "insert into noshi.lane (name, paused) values ('held', true)").await;
    let lost = probe(pool, json!({"id": "lost", "steps": 1})).await;
    at_rest(pool).await;
    sqlx::query(
        "update noshi.job set status = 'running', worker = (select max(id) from noshi.worker), lease = lease + 1, at = 'new',
            state = null, finished_at = null where id = $1",
    )
    .bind(lost)
    .execute(pool)
    .await
    .unwrap();
    at_rest(pool).await;
    let found = "select count(*) filter (where event = 'handed_back'), count(*) filter (where event = 'rescued') from noshi.job_event where job = $1";
    let found: (i64, i64) = sqlx::query_as(found).bind(lost).fetch_one(pool).await.unwrap();
    // Nothing was called: it is given back, and no death is counted.
    let (status, _, _, in_doubt, _) = job(pool, lost).await;
    assert_eq!((status.as_str(), in_doubt, found), ("completed", false, (1, 0)));
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_job_is_bounded_in_age_and_steps_and_a_newer_kind_is_left_alone() {
    let db = database().await;
    let pool = &db.pool;
    let old = probe(pool, json!({"id": "old", "steps": 2})).await;
    let patient = probe(pool, json!({"id": "patient", "steps": 2})).await;
    let circling = probe(pool, json!({"id": "circling", "steps": 2_000})).await;
    let unreadable = probe(pool, json!({"id": "unreadable", "steps": 2})).await;
    run(pool, "update noshi.job set created_at = created_at - interval '2 days' where key in ('old', 'patient')").await;
    // Time spent waiting in lanes is not age.
    run(pool, "update noshi.job set waited = interval '2 days' where key = 'patient'").await;
    run(pool, r#"update noshi.job set at = 'stepping', state = '{"at": "stepping", "left": "some"}' where key = 'unreadable'"#).await;
    run(pool, "insert into noshi.job (kind, key, fingerprint, args) values ('of_tomorrow', 'k', '', '{}')").await;
    let worker = start(&db, pace()).await;
    until("all but the unknown kind", Duration::from_secs(60), async || {
        let open: i64 = sqlx::query_scalar("select count(*) from noshi.job where status in ('available', 'running')")
            .fetch_one(pool)
            .await
            .unwrap();
        open == 1
    })
    .await;
    let parked =
        |why: Problem, at: &str| ("needs_operator".to_owned(), at.to_owned(), Some(why.code().to_owned()), false);
    let stands = async |id| {
        let (status, at, code, in_doubt, _) = job(pool, id).await;
        (status, at, code, in_doubt)
    };
    assert_eq!(stands(old).await, parked(Problem::TooOld, "stepping"));
    assert_eq!(stands(circling).await, parked(Problem::TooManySteps, "stepping"));
    assert_eq!(stands(unreadable).await, parked(Problem::UnreadableState, "stepping"));
    assert_eq!(stands(patient).await.0, "completed");
    let tomorrow: (String, i64) =
        sqlx::query_as("select status::text, lease from noshi.job where kind = 'of_tomorrow'")
            .fetch_one(pool)
            .await
            .unwrap();
    assert_eq!(tomorrow, ("available".to_owned(), 0));
    worker.stop().await;
}

/// One try to begin a gift's trade at the first of these partners, and what the step after it settles.
async fn begin_trade(pool: &PgPool, job: i64, partners: &[&str], settings: &[&str]) -> Saved {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let (able, known) = (owned(partners), owned(settings));
    let id = format!("{}-{job}", partners[0]);
    let grant = job.to_string();
    let trade = NewTrade {
        id: &id,
        grant: &grant,
        generation: 0,
        job,
        provider: partners[0],
        category: "amazon",
        amount: 500,
        currency: "JPY",
    };
    let partners = Partners { able: &able, known: &known, any: true };
    let mut transaction = pool.begin().await.unwrap();
    let saved = save_trade(&mut transaction, &trade, &partners).await.unwrap();
    let doubt = "update noshi.job set in_doubt = true where id = $1";
    if matches!(saved, Saved::Unclear | Saved::InDoubt) {
        sqlx::query(doubt).bind(job).execute(&mut *transaction).await.unwrap();
    }
    transaction.commit().await.unwrap();
    saved
}

async fn gift(pool: &PgPool, grant: &str) -> i64 {
    let args = json!({"grant": grant, "user": "u", "category": "amazon", "value": {"amount": 500, "currency": "JPY"}});
    sqlx::query("select noshi.enqueue_rows('gift_issuance', $1, $2)")
        .bind(vec![grant])
        .bind(vec![args])
        .execute(pool)
        .await
        .unwrap();
    sqlx::query_scalar("select id from noshi.job where key = $1").bind(grant).fetch_one(pool).await.unwrap()
}

async fn owed(pool: &PgPool) -> i32 {
    sqlx::query_scalar("select owed from noshi.server_seen").fetch_one(pool).await.unwrap()
}

/// Neither a retry nor a change of the settings forgets at whom it may have been called, and only a proven past is spent.
#[tokio::test(flavor = "multi_thread")]
async fn a_gift_that_may_be_at_another_partner_is_bought_nowhere_before_its_past_is_proven() {
    let db = database().await;
    let pool = &db.pool;
    run(pool, "update noshi.server_seen set owed = 3, lost_since = clock_timestamp() - interval '1 minute'").await;
    let both = ["a", "b"];
    let job = gift(pool, "g1").await;
    for _ in 0..3 {
        assert_eq!(begin_trade(pool, job, &both, &both).await, Saved::Unclear);
        assert_eq!(owed(pool).await, 3, "nothing is proven yet");
    }
    // Partner a is taken out of the settings: it may have been called all the same.
    assert_eq!(begin_trade(pool, job, &["b"], &["b"]).await, Saved::Unclear);
    // A person attests that nothing came of it: that holds, and spends one.
    sqlx::query("update noshi.job set in_doubt = false where id = $1").bind(job).execute(pool).await.unwrap();
    assert_eq!(owed(pool).await, 2);
    assert_eq!(begin_trade(pool, job, &both, &both).await, Saved::Saved);
    assert_eq!(owed(pool).await, 2);
    // Its claim for a call is lost after that: doubt is doubt.
    sqlx::query("update noshi.job set in_doubt = true where id = $1").bind(job).execute(pool).await.unwrap();
    assert_eq!(begin_trade(pool, job, &both, &both).await, Saved::Unclear);
    // A partner that was gone from the settings before anybody asked again, and had its lane.
    run(pool, "insert into noshi.lane (name, tokens) values ('gift/gone', 7), ('gift/b', 7), ('gift/never', 0)").await;
    let other = gift(pool, "g2").await;
    assert_eq!(begin_trade(pool, other, &["b"], &["b"]).await, Saved::Unclear);
    let third = gift(pool, "g3").await;
    assert_eq!(begin_trade(pool, third, &["b"], &["b", "gone"]).await, Saved::InDoubt);
    sqlx::query("update noshi.job set in_doubt = false where id = $1").bind(third).execute(pool).await.unwrap();
    assert_eq!(owed(pool).await, 1);
    // After a restore, too, a person's word is heeded.
    run(pool, "update noshi.server_seen set owed = 0, restored_to = clock_timestamp()").await;
    let fourth = gift(pool, "g4").await;
    assert_eq!(begin_trade(pool, fourth, &both, &both).await, Saved::Unclear);
    sqlx::query("update noshi.job set in_doubt = false where id = $1").bind(fourth).execute(pool).await.unwrap();
    assert_eq!(begin_trade(pool, fourth, &both, &both).await, Saved::Saved);
}

/// A gift of this category, and perhaps of one partner alone.
async fn ask_for(fleet: &Fleet, grant: &str, category: &str, provider: Option<&str>) -> i64 {
    let mut args =
        json!({"grant": grant, "user": "u1", "category": category, "value": {"amount": 500, "currency": "JPY"}});
    if let Some(provider) = provider {
        args["provider"] = provider.into();
    }
    let ask = "select noshi.enqueue('gift_issuance', $1, $2)";
    sqlx::query_scalar(ask).bind(grant).bind(args).fetch_one(&fleet.pool).await.unwrap()
}

async fn comes_to(pool: &PgPool, id: i64, status: &str, at: &str, code: Option<Problem>) {
    let wanted = (status, at, code.map(Problem::code));
    until(&format!("{wanted:?}"), Duration::from_secs(20), async || {
        let (status, at, code, ..) = job(pool, id).await;
        (status.as_str(), at.as_str(), code.as_deref()) == wanted
    })
    .await;
}

async fn does(fleet: &Fleet, act: &[&str], job: i64) {
    let job = job.to_string();
    let reason = ["--reason", "looked it up", job.as_str()];
    let said = fleet.command(&[&["job"], act, &reason].concat()).await;
    assert!(said.status.success(), "{act:?}: {}", String::from_utf8_lossy(&said.stderr));
}

/// Two partners that can be asked offer `shared`; of `mixed` one can only be told the same again; `gone` nobody offers any more.
fn offer_at_several(fleet: &Fleet) {
    let file = fleet.dir.path().join("noshi.toml");
    let mut text = std::fs::read_to_string(&file).unwrap();
    for (own, product, others) in [
        ("amazon", "", &["mixed"][..]),
        ("digital", "DIGICO", &["shared", "mixed"]),
        ("prepaid", "U123456", &["shared"]),
    ] {
        let range = |category: &str| {
            format!("{{ category = '{category}', currency = 'JPY', min = 1, max = 10000000, product = '{product}' }}, ")
        };
        let more: String = others.iter().map(|category| range(category)).collect();
        text = text.replace(&format!("[{{ category = '{own}'"), &format!("[{more}{{ category = '{own}'"));
    }
    std::fs::write(file, text).unwrap();
}

/// A person's inquiry asks each partner that can be asked, buys nothing, and goes on at the one that knows the gift.
#[tokio::test(flavor = "multi_thread")]
async fn a_gift_that_may_be_at_any_of_several_is_found_at_the_one_that_has_it() {
    let _turn = crate::support::turn().await;
    let mut fleet = fleet(Terms::default()).await;
    offer_at_several(&fleet);
    let worker = fleet.worker("before", &[], &[]);
    ask_for(&fleet, "bought", "shared", Some("tango_card")).await;
    fleet.at_rest(Duration::from_secs(20)).await.unwrap();
    assert!(worker.stop().await.success());
    // All of it is lost; the partners remember.
    let forgetful = database().await;
    (fleet.url, fleet.pool) = (forgetful.url.clone(), forgetful.pool.clone());
    let pool = &fleet.pool;
    run(pool, "update noshi.server_seen set owed = 4, lost_since = clock_timestamp() - interval '1 minute'").await;
    let bought = ask_for(&fleet, "bought", "shared", None).await;
    let never = ask_for(&fleet, "never", "shared", None).await;
    let mixed = ask_for(&fleet, "mixed", "mixed", None).await;
    let gone = ask_for(&fleet, "gone", "gone", None).await;
    let worker = fleet.worker("after", &[], &[]);
    for id in [bought, never, mixed, gone] {
        // Also what nobody offers any more: it may have been bought while somebody did.
        comes_to(pool, id, "needs_operator", "routing", Some(Problem::DoubtUnresolved)).await;
        does(&fleet, &["inquire"], id).await;
    }
    comes_to(pool, bought, "completed", "issued", None).await;
    assert_eq!(owed(pool).await, 3, "its past is proven");
    comes_to(pool, never, "needs_operator", "seeking", Some(Problem::NotFoundInDoubt)).await;
    for id in [mixed, gone] {
        comes_to(pool, id, "needs_operator", "seeking", Some(Problem::DoubtUnresolved)).await;
    }
    assert_eq!(crate::processes::count(&fleet, "issued"), 1, "nothing was bought");
    // With a person's evidence it is bought; where nobody offers it, it ends.
    for id in [never, gone] {
        does(&fleet, &["resolve", "--as", "attest_void"], id).await;
    }
    comes_to(pool, never, "completed", "issued", None).await;
    comes_to(pool, gone, "failed", "rejected", Some(Problem::NoProvider)).await;
    assert_eq!((crate::processes::count(&fleet, "issued"), owed(pool).await), (2, 1));
    assert!(worker.stop().await.success());
}

/// Acknowledged while it was parked for one reason, it is parked by its workers' deaths at the same step: that counts anew.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_parked_anew_is_not_acknowledged() {
    let db = database().await;
    let pool = &db.pool;
    let parked = probe(pool, json!({"id": "parked", "steps": 2})).await;
    let worker = workers::register(pool, "w").await.unwrap();
    run(pool, "update noshi.job set status = 'needs_operator', code = 'probe_asked', acknowledged = step").await;
    sqlx::query("update noshi.job set status = 'running', worker = $1, crash_count = 2")
        .bind(worker)
        .execute(pool)
        .await
        .unwrap();
    run(pool, "update noshi.worker set dead_at = clock_timestamp()").await;
    assert_eq!(recover::rescue(pool).await.unwrap(), 1);
    assert_eq!(job(pool, parked).await.2.as_deref(), Some("poison"));
    let seen = "select acknowledged is not distinct from step from noshi.job";
    assert!(!sqlx::query_scalar::<_, bool>(seen).fetch_one(pool).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_operator_ended_does_not_come_back_and_it_is_told_who_did_it() {
    let db = database().await;
    let pool = &db.pool;
    let ended = probe(pool, json!({"id": "ended", "steps": "none"})).await;
    run(pool, "update noshi.job set status = 'needs_operator', code = 'bad_args'").await;
    sqlx::query("select noshi.dismiss_as($1, 0, 'a slip', 'anna')").bind(ended).execute(pool).await.unwrap();
    assert_eq!(job(pool, ended).await.0, "cancelled");
    for act in ["retry", "rerun", "inquire"] {
        let ask = "select noshi.ask_as($1, (select step from noshi.job where id = $1), $2, 'again', 'bert')";
        let said = sqlx::query(ask).bind(ended).bind(act).execute(pool).await.unwrap_err().to_string();
        assert!(said.contains("was dismissed (anna: a slip), and nothing brings it back"), "{said}");
    }
    assert_eq!(job(pool, ended).await.0, "cancelled");
}
