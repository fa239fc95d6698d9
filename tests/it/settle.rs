//! What the store promises of settles: the stale are refused, and a step is written whole or not at all.

use std::time::Duration;

use futures::{StreamExt, stream};
use noshi_jobs::{
    FollowUp, gift_issuance,
    machine::Doubt,
    money,
    probe::{Args, Note, Probe},
};
use serde_json::{Value, json};
use sqlx::Row;

use crate::{
    fleet::{Terms, fleet},
    store::{JOBS, count, enqueue, enqueue_rows, held},
    support::database,
};
use noshi::{
    db::{
        self, PgPool,
        domain::facts::Fact,
        queue::{
            claim::Claimed,
            settle::{Progress, Settled, Settlement, Status, settle, settle_local},
        },
    },
    lab::simulator::link::Way,
};

fn done(job: &Claimed) -> Settlement {
    Settlement {
        id: job.id,
        lease: job.lease,
        step: job.step,
        at: "over".to_owned(),
        state: None,
        undo: None,
        status: Status::Completed,
        outcome: "over",
        code: None,
        detail: None,
        lane: String::new(),
        reserved: false,
        writes: false,
        delay: Duration::ZERO,
        doubt: Doubt::AsBefore,
        progress: Progress::Advance,
        facts: vec![],
        follow_ups: vec![],
        traceparent: None,
    }
}

async fn probes(pool: &PgPool, count: usize) {
    let ids: Vec<String> = (0..count).map(|n| format!("p{n}")).collect();
    let rows: Vec<(&str, Value)> = ids.iter().map(|id| (id.as_str(), json!({"id": id}))).collect();
    enqueue_rows(pool, &rows).await.unwrap();
}

/// The stale holder is a living worker, in half of the rounds the very same: only the lease tells them apart.
#[tokio::test(flavor = "multi_thread")]
async fn of_a_stale_and_a_fresh_holder_the_stale_one_is_refused_400_times() {
    let db = database().await;
    let pool = &db.pool;
    probes(pool, 400).await;
    let (first, stale) = held(pool, 400).await;
    let lost: Vec<(i64, i64)> = stale.iter().map(|job| (job.id, job.lease)).collect();
    assert_eq!(db::queue::recover::rescue_lost(pool, first, &lost).await.unwrap(), 400);
    let second = db::queue::workers::register(pool, "test").await.unwrap();
    let mut races = vec![];
    for worker in [first, second] {
        for fresh in db::queue::claim::claim(pool, worker, "", 200, true).await.unwrap().jobs {
            let old = stale.iter().find(|job| job.id == fresh.id).expect("a job that was held before");
            races.push((worker, [Settlement { outcome: "stale", ..done(old) }], [done(&fresh)]));
        }
    }
    assert_eq!(races.len(), 400);
    let race = async |(n, (worker, old, new)): (usize, (i64, [Settlement; 1], [Settlement; 1]))| {
        let (old, new) = (settle(pool, first, &old), settle(pool, worker, &new));
        if n % 2 == 0 {
            tokio::join!(old, new)
        } else {
            let (new, old) = tokio::join!(new, old);
            (old, new)
        }
    };
    let ends: Vec<_> = stream::iter(races.into_iter().enumerate()).map(race).buffer_unordered(6).collect().await;
    for (old, new) in ends {
        assert_eq!((old.unwrap(), new.unwrap()), (vec![Settled::Stale], vec![Settled::Applied]));
    }
    let settled = "select count(*) filter (where outcome = 'over' and lease = 2), count(*), count(distinct job)
        from noshi.job_event where event = 'settled'";
    let settled: (i64, i64, i64) = sqlx::query_as(settled).fetch_one(pool).await.unwrap();
    assert_eq!(settled, (400, 400, 400));
    assert_eq!(count(pool, "select count(*) from noshi.job where outcome = 'over' and step = 1").await, 400);
}

/// Whichever comes first, the settle or the takeover, the step is recorded once.
#[tokio::test(flavor = "multi_thread")]
async fn a_settle_raced_by_a_takeover_is_recorded_once() {
    let db = database().await;
    let pool = &db.pool;
    probes(pool, 100).await;
    let (first, jobs) = held(pool, 100).await;
    let second = db::queue::workers::register(pool, "test").await.unwrap();
    let take_over = async |job: &Claimed| {
        if db::queue::recover::rescue_lost(pool, first, &[(job.id, job.lease)]).await.unwrap() == 0 {
            return Settled::Stale;
        }
        let fresh = [Settlement { lease: job.lease + 1, ..done(job) }];
        while settle(pool, second, &fresh).await.unwrap() == [Settled::Stale] {
            db::queue::claim::claim(pool, second, "", 1, true).await.unwrap();
        }
        Settled::Applied
    };
    let race = async |job: Claimed| {
        let group = [done(&job)];
        let (first, second) = tokio::join!(settle(pool, first, &group), take_over(&job));
        (first.unwrap()[0], second)
    };
    let ends: Vec<_> = stream::iter(jobs).map(race).buffer_unordered(4).collect().await;
    for end in &ends {
        let once = [(Settled::Applied, Settled::Stale), (Settled::Stale, Settled::Applied)];
        assert!(once.contains(end), "{end:?}");
    }
    assert_eq!(count(pool, "select count(*) from noshi.job_event where event = 'settled'").await, 100);
}

fn follow_up(id: &str, steps: u32) -> Vec<FollowUp> {
    vec![FollowUp::of::<Probe>(Args { id: id.to_owned(), steps, ..Args::default() })]
}

fn note(text: &str) -> Vec<Fact> {
    vec![Fact::Probe(Note { text: text.to_owned() })]
}

/// Job, journal and facts, to compare before and after.
async fn everything(pool: &PgPool) -> String {
    let all = "select (select string_agg(j::text, ',' order by id) from noshi.job j) || ' ' ||
        (select string_agg(e::text, ',' order by job, step) from noshi.job_event e) || ' ' ||
        coalesce((select string_agg(n::text, ',') from noshi.probe_note n), '') || ' ' ||
        coalesce((select string_agg(t::text, ',') from noshi.probe_tally t), '') || ' ' ||
        coalesce((select string_agg(o::text, ',') from noshi.gift_outcome o), '')";
    sqlx::query(all).fetch_one(pool).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follow_up_conflict_leaves_nothing_half_written() {
    let db = database().await;
    let pool = &db.pool;
    enqueue(pool, Some("taken"), Some(json!({"id": "taken"}))).await.unwrap();
    held(pool, 1).await;
    probes(pool, 4).await;
    let (worker, jobs) = held(pool, 4).await;
    let before = everything(pool).await;
    let conflicting = Settlement { facts: note("no"), follow_ups: follow_up("taken", 9), ..done(&jobs[0]) };
    let alone = settle(pool, worker, std::slice::from_ref(&conflicting)).await.unwrap();
    assert_eq!(alone, [Settled::FollowUpConflict]);
    assert_eq!(everything(pool).await, before);
    // Its neighbours in a group are written; of two that ask for one id with different arguments, one.
    let group = [
        conflicting,
        Settlement { facts: note("one"), follow_ups: follow_up("new", 1), ..done(&jobs[1]) },
        Settlement { facts: note("two"), follow_ups: follow_up("new", 2), ..done(&jobs[2]) },
        Settlement { facts: note("yes"), ..done(&jobs[3]) },
    ];
    let settled = settle(pool, worker, &group).await.unwrap();
    let new: [bool; 2] = [1, 2].map(|place| settled[place] == Settled::Applied);
    assert_eq!((settled[0], settled[3]), (Settled::FollowUpConflict, Settled::Applied));
    assert!(new[0] != new[1], "both {settled:?} were applied, though one of the follow-ups cannot be there");
    let steps: i32 = sqlx::query_scalar("select (args ->> 'steps')::int from noshi.job where key = 'new'")
        .fetch_one(pool)
        .await
        .unwrap();
    let notes: Vec<String> =
        sqlx::query_scalar("select text from noshi.probe_note order by text").fetch_all(pool).await.unwrap();
    let kept = if new[0] { (1, ["one", "yes"]) } else { (2, ["two", "yes"]) };
    assert_eq!((steps, notes), (kept.0, kept.1.map(str::to_owned).to_vec()));
    assert_eq!(count(pool, "select count(*) from noshi.job where status = 'running'").await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn facts_are_there_with_their_transition_or_not_at_all() {
    let db = database().await;
    let pool = &db.pool;
    probes(pool, 3).await;
    let (worker, jobs) = held(pool, 3).await;
    let before = everything(pool).await;
    // A lease too old, in a group and beside a local operation.
    let stale = Settlement { lease: 0, facts: note("stale"), follow_ups: follow_up("stale", 1), ..done(&jobs[0]) };
    assert_eq!(settle(pool, worker, std::slice::from_ref(&stale)).await.unwrap(), [Settled::Stale]);
    let mut transaction = pool.begin().await.unwrap();
    assert!(db::domain::facts::tally(&mut transaction, "name", jobs[0].id).await.unwrap());
    assert_eq!(settle_local(transaction, worker, &stale).await.unwrap(), Settled::Stale);
    assert_eq!(everything(pool).await, before);
    // A fact that the database refuses: no such trade.
    let value = money::Money { amount: 1, currency: money::Currency::Jpy };
    let [trade, grant, provider, card] = ["t", "g", "p", "c"].map(str::to_owned);
    let gift = gift_issuance::Fact::Issued { trade, grant, provider, value, card, code: None };
    let refused = Settlement { facts: vec![Fact::Gift(gift)], ..done(&jobs[0]) };
    let neighbour = Settlement { facts: note("neighbour"), ..done(&jobs[1]) };
    settle(pool, worker, &[refused, neighbour]).await.expect_err("a foreign key");
    assert_eq!(everything(pool).await, before);
    // In one group with a fresh one, only the fresh one's are written.
    let fresh = Settlement { facts: note("fresh"), ..done(&jobs[2]) };
    assert_eq!(settle(pool, worker, &[stale, fresh]).await.unwrap(), [Settled::Stale, Settled::Applied]);
    let notes: Vec<String> = sqlx::query_scalar("select text from noshi.probe_note").fetch_all(pool).await.unwrap();
    assert_eq!(notes, ["fresh"]);
}

/// One worker held a job, lost it, and holds it again; both holds settle in one group. What was applied is a hold, not a job.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_holds_of_one_job_in_one_group_only_the_fresh_one_is_written_and_told() {
    let db = database().await;
    let pool = &db.pool;
    probes(pool, 3).await;
    let (worker, stale) = held(pool, 3).await;
    let lost: Vec<(i64, i64)> = stale.iter().map(|job| (job.id, job.lease)).collect();
    assert_eq!(db::queue::recover::rescue_lost(pool, worker, &lost).await.unwrap(), 3);
    let fresh = db::queue::claim::claim(pool, worker, "", 3, true).await.unwrap().jobs;
    let of = |text: &str, job: &Claimed| Settlement {
        facts: note(text),
        follow_ups: follow_up(&format!("{text}-{}", job.key), 1),
        ..done(job)
    };
    let new = |id: i64| fresh.iter().find(|job| job.id == id).expect("claimed again");
    // Each order of the two, and a step that is settled twice under one hold.
    let group = [
        of("stale", &stale[0]),
        of("fresh", new(stale[0].id)),
        of("fresh", new(stale[1].id)),
        of("stale", &stale[1]),
        of("fresh", new(stale[2].id)),
        of("twice", new(stale[2].id)),
    ];
    use noshi::db::queue::settle::Settled::{Applied, Stale};
    let expected = [Stale, Applied, Applied, Stale, Applied, Stale];
    assert_eq!(settle(pool, worker, &group).await.unwrap(), expected);
    let notes = "select count(*) filter (where text = 'fresh'), count(*) from noshi.probe_note";
    let notes: (i64, i64) = sqlx::query_as(notes).fetch_one(pool).await.unwrap();
    let follow_ups = count(pool, "select count(*) from noshi.job where key like 'stale-%' or key like 'twice-%'").await;
    assert_eq!((notes, follow_ups), ((3, 3), 0));
    // And so it is where an answer was lost and the journal is asked.
    let group: Vec<&Settlement> = group.iter().collect();
    let applied = db::queue::settle::was_applied(pool, worker, &group).await.unwrap();
    let told: Vec<bool> = group.iter().map(|settlement| applied.contains(&settlement.hold())).collect();
    assert_eq!(told, [false, true, true, false, true, true], "the last two are one step");
}

/// The answer to a settle is lost, and the server is out of reach for a while. Whatever the moment, the settle was applied once, and its worker
/// is told so: taken for stale, the job would be found lost, and count a death.
#[tokio::test(flavor = "multi_thread")]
async fn a_settle_that_was_applied_and_not_answered_is_told_as_applied() {
    let db = database().await;
    probes(&db.pool, 25).await;
    let (worker, jobs) = held(&db.pool, 25).await;
    let (link, url) = crate::links::link_to(&db.url).await;
    let pool = db::connect(&url, db::Role::Worker, 1).await.unwrap().with_patience(Duration::from_millis(300));
    let (flusher, tasks) = noshi::engine::group_commit::Flusher::start(pool.clone(), worker, std::sync::Arc::default());
    let going_on = |job: &Claimed| Settlement { status: Status::Running, at: "stepping".to_owned(), ..done(job) };
    assert_eq!(flusher.commit_with_others(going_on(&jobs[0])).await, Settled::Applied);
    for (n, job) in jobs[1..].iter().enumerate() {
        link.silence_at(Way::Down, n as u64 % 3);
        let settle = tokio::spawn({
            let (flusher, settlement) = (flusher.clone(), going_on(job));
            async move { flusher.commit_with_others(settlement).await }
        });
        let met = crate::processes::until("the flow goes silent", Duration::from_secs(5), async || {
            settle.is_finished() || !link.waits()
        });
        met.await;
        // Some find the server away once, some more often, before it is there again.
        link.refuse(true);
        let refused = link.accepted() + n as u64 % 4;
        crate::processes::until("tries to reach it", Duration::from_secs(20), async || {
            settle.is_finished() || link.accepted() > refused
        })
        .await;
        link.refuse(false);
        assert_eq!(settle.await.unwrap(), Settled::Applied, "job {n}");
    }
    drop(flusher);
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(count(&db.pool, "select count(*) from noshi.job_event where event = 'settled'").await, 25);
}

/// What a constraint refuses is no death of a worker: the job is parked at once, in doubt if it called, with the reason.
#[tokio::test(flavor = "multi_thread")]
async fn a_settle_that_a_constraint_refuses_parks_its_job_with_the_truth() {
    let db = database().await;
    let pool = &db.pool;
    probes(pool, 3).await;
    let (worker, jobs) = held(pool, 3).await;
    sqlx::query("update noshi.job set writes = true where id = $1").bind(jobs[0].id).execute(pool).await.unwrap();
    let (flusher, tasks) = noshi::engine::group_commit::Flusher::start(pool.clone(), worker, std::sync::Arc::default());
    let value = money::Money { amount: 1, currency: money::Currency::Jpy };
    let gift = || {
        let [trade, grant, provider, card] = ["t", "g", "p", "c"].map(str::to_owned);
        vec![Fact::Gift(gift_issuance::Fact::Issued { trade, grant, provider, value, card, code: None })]
    };
    let refused = |job: &Claimed| Settlement { facts: gift(), ..done(job) };
    let (called, looked, neighbour) = tokio::join!(
        flusher.commit_with_others(refused(&jobs[0])),
        flusher.commit_with_others(refused(&jobs[1])),
        flusher.commit_with_others(Settlement { facts: note("neighbour"), ..done(&jobs[2]) }),
    );
    assert_eq!([called, looked, neighbour], [Settled::Refused, Settled::Refused, Settled::Applied]);
    let rows = "select status::text, at, code, detail, in_doubt, step, crash_count::int from noshi.job order by id";
    type Parked = (String, String, Option<String>, Option<String>, bool, i32, i32);
    let rows: Vec<Parked> = sqlx::query_as(rows).fetch_all(pool).await.unwrap();
    for (row, in_doubt) in rows.iter().zip([true, false]) {
        assert_eq!(
            (row.0.as_str(), row.1.as_str(), row.2.as_deref()),
            ("needs_operator", "new", Some("settle_refused"))
        );
        assert!(row.3.as_deref().is_some_and(|why| why.contains("23503") && why.contains("gift_outcome")), "{row:?}");
        assert_eq!((row.4, row.5, row.6), (in_doubt, 1, 0));
    }
    assert_eq!(rows[2].0, "completed");
    // A stale hold parks nothing.
    let again = db::queue::settle::park_refused(pool, worker, &refused(&jobs[1]), None).await.unwrap();
    assert_eq!(again, Settled::Stale);
    // Nor is it told as applied, where the answer to its parking was lost: its worker goes on with nothing.
    let applied = db::queue::settle::was_applied(pool, worker, &[&refused(&jobs[0]), &done(&jobs[2])]).await.unwrap();
    assert_eq!(applied, [done(&jobs[2]).hold()].into());
    drop(flusher);
    for task in tasks {
        task.await.unwrap();
    }
}

/// A server that crashes says for a moment that it is broken inside; one whose page is broken, for ever. That too is an answer, and its
/// neighbours' settles and those that come later are written.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_broken_inside_the_server_is_not_tried_for_ever() {
    let db = database().await;
    let pool = &db.pool;
    probes(pool, 2).await;
    let breaks = "create function public.broken() returns trigger language plpgsql as
            $$ begin raise 'invalid page in block 1' using errcode = 'XX000'; end $$;
        create trigger broken before insert on noshi.probe_note for each row when (new.text = 'broken')
            execute function public.broken()";
    sqlx::raw_sql(breaks).execute(pool).await.unwrap();
    let (worker, jobs) = held(pool, 2).await;
    let (flusher, tasks) = noshi::engine::group_commit::Flusher::start(pool.clone(), worker, std::sync::Arc::default());
    let settles = async {
        tokio::join!(
            flusher.commit_with_others(Settlement { facts: note("broken"), ..done(&jobs[0]) }),
            flusher.commit_with_others(Settlement { facts: note("neighbour"), ..done(&jobs[1]) }),
        )
    };
    let settled = tokio::time::timeout(std::time::Duration::from_secs(30), settles).await.expect("an end");
    assert_eq!(settled, (Settled::Refused, Settled::Applied));
    let row: (String, Option<String>, Option<String>) =
        sqlx::query_as("select status::text, code, detail from noshi.job where id = $1")
            .bind(jobs[0].id)
            .fetch_one(pool)
            .await
            .unwrap();
    assert_eq!((row.0.as_str(), row.1.as_deref()), ("needs_operator", Some("settle_refused")));
    assert!(row.2.as_deref().is_some_and(|why| why.contains("XX000")), "{row:?}");
    drop(flusher);
    for task in tasks {
        task.await.unwrap();
    }
}

/// Killed between the facts and the commit, or right after the commit, before it hears of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_at_the_commit_writes_its_fact_once() {
    const NOTES: &str = "select count(*) from noshi.probe_note";
    for (point, written) in [("settle.before_commit@1", 0), ("settle.after@2", 1)] {
        let fleet = fleet(Terms::default()).await;
        db::queue::lanes::declare(&fleet.pool, "probe", &[]).await.unwrap();
        crate::engine::probe(&fleet.pool, json!({"id": "p", "steps": 2, "lane": "probe", "follow_up": true})).await;
        let mut first = fleet.worker("first", &[("NOSHI_CRASH", point)], &[]);
        assert!(first.killed(Duration::from_secs(20)).await);
        let at: String =
            sqlx::query_scalar("select at from noshi.job where key = 'p'").fetch_one(&fleet.pool).await.unwrap();
        assert_eq!((count(&fleet.pool, NOTES).await, at != "calling"), (written, written == 1), "{point}");
        assert_eq!(count(&fleet.pool, JOBS).await, 1 + written);
        fleet.declare_all_dead().await;
        let _second = fleet.worker("second", &[], &[]);
        fleet.at_rest(Duration::from_secs(20)).await.unwrap();
        assert_eq!(count(&fleet.pool, NOTES).await, 1, "{point}");
        assert_eq!(count(&fleet.pool, "select count(*) from noshi.job where status = 'completed'").await, 2);
    }
}
