//! Ended jobs move out; an id stays known for ever, whichever way and at whatever moment it comes again.

use std::{collections::BTreeMap, process::Stdio, time::Duration};

use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::process::Command;

use crate::{
    fleet::{Terms, fleet},
    processes::until,
    support::{TestDatabase, busy, database, turn},
};
use noshi::db::PgPool;

async fn run(pool: &PgPool, sql: impl Into<String>) {
    let sql = sql.into();
    sqlx::raw_sql(AssertSqlSafe(sql.clone())).execute(pool).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
}

async fn count(pool: &PgPool, what: &str) -> i64 {
    sqlx::query_scalar(AssertSqlSafe(format!("select count(*) from {what}"))).fetch_one(pool).await.expect("a count")
}

const ENQUEUE: &str = "select noshi.enqueue('probe', $1, $2)";

async fn enqueue(connection: impl sqlx::PgExecutor<'_>, key: &str, steps: u32) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(ENQUEUE).bind(key).bind(json!({"id": key, "steps": steps})).fetch_one(connection).await
}

fn code(error: &sqlx::Error) -> String {
    error.as_database_error().and_then(|error| error.code()).unwrap_or_default().into_owned()
}

/// Ends every job that is available, this long ago, with two lines of journal each.
async fn end_all(pool: &PgPool, status: &str, days: u32) {
    run(
        pool,
        format!(
            "with e as (update noshi.job set status = '{status}', at = 'over', state = '{{\"at\": \"over\"}}', outcome = 'last', step = 2,
                created_at = now() - interval '{days} days 1 hour', finished_at = now() - interval '{days} days' where status = 'available' returning id)
             insert into noshi.job_event (job, event, lease, step, was, became, outcome)
             select id, event, 1, 1, 'new', 'over', 'last' from e, unnest(array['claimed', 'settled']) event"
        ),
    )
    .await;
}

const PRUNE: &str = "select pruned from noshi.prune(5000)";

async fn prune(connection: impl sqlx::PgExecutor<'_>) -> i32 {
    sqlx::query_scalar(PRUNE).fetch_one(connection).await.expect("pruned")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_duplicate_is_known_whichever_way_it_comes() {
    let TestDatabase { pool, .. } = database().await;
    let first = enqueue(&pool, "a", 3).await.expect("a job");
    end_all(&pool, "completed", 100).await;
    assert_eq!(prune(&pool).await, 1);
    assert_eq!((count(&pool, "noshi.job").await, count(&pool, "noshi.job_event").await), (0, 0));

    assert_eq!(enqueue(&pool, "a", 3).await.expect("the job of before"), first);
    let many = "select array_agg(id) from noshi.enqueue_rows('probe', array['b', 'a'], array['{}', '{\"id\": \"a\", \"steps\": 3}']::jsonb[]) id";
    let ids: Vec<i64> = sqlx::query_scalar(many).fetch_one(&pool).await.expect("two jobs");
    assert_eq!((ids[1], count(&pool, "noshi.job").await), (first, 1));

    let other = enqueue(&pool, "a", 4).await.expect_err("other arguments");
    let detail = other
        .as_database_error()
        .and_then(|e| e.try_downcast_ref::<sqlx::postgres::PgDatabaseError>())
        .and_then(|e| e.detail());
    assert_eq!((code(&other).as_str(), detail), ("NS409", Some("steps: recorded 3, now 4")));
    // Once its archived row is gone too, the difference is known, and not told.
    run(&pool, "update noshi.retention set archive_for = '90 days'; alter table noshi.archived_job disable trigger append_only;
        update noshi.archived_job set pruned_at = now() - interval '91 days'; alter table noshi.archived_job enable trigger append_only").await;
    assert_eq!((prune(&pool).await, count(&pool, "noshi.archived_job").await), (0, 0));
    assert_eq!(code(&enqueue(&pool, "a", 4).await.expect_err("other arguments")), "NS409");
    assert_eq!(enqueue(&pool, "a", 3).await.expect("the job of before"), first);

    // As a worker inserts follow-ups: equal ones are the job of before, and others are told.
    let follow_up = |steps: u32| {
        let args = noshi_jobs::probe::Args { id: "a".into(), steps, ..Default::default() };
        noshi_jobs::Request::Probe(args)
    };
    let mut worker = pool.acquire().await.expect("a connection");
    let written = serde_json::to_value(follow_up(3)).expect("JSON");
    run(&pool, "alter table noshi.tombstone disable trigger append_only").await;
    let sql = "update noshi.tombstone set fingerprint = sha256(convert_to($1::jsonb::text, 'UTF8'))";
    sqlx::query(sql).bind(written).execute(&pool).await.expect("as a worker writes it");
    run(&pool, "alter table noshi.tombstone enable trigger append_only").await;
    sqlx::query("set role noshi_worker").execute(&mut *worker).await.expect("a worker's role");
    for (steps, conflict) in [(3, None), (4, Some(77))] {
        let request = follow_up(steps);
        let told = noshi::db::enqueue::follow_ups(&mut worker, &[(77, &request.clone().into(), None)])
            .await
            .expect("an answer");
        assert_eq!(told, conflict);
        let fits = noshi::db::enqueue::rows_of_batch(&mut worker, 1, &[(1, request)]).await.expect("an answer");
        assert_eq!(fits, conflict.is_none());
    }
    assert_eq!(count(&pool, "noshi.job where key = 'a'").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_enqueue_that_meets_the_prune_knows_the_job_or_begins_again() {
    let TestDatabase { pool, url, .. } = database().await;
    for (isolation, looked, waits) in [
        ("read committed", false, true),
        ("read committed", true, false),
        ("repeatable read", true, true),
        ("repeatable read", true, false),
        ("serializable", true, true),
    ] {
        let key = format!("{isolation} {looked} {waits}");
        let first = enqueue(&pool, &key, 1).await.expect("a job");
        end_all(&pool, "completed", 100).await;
        let mut producer = PgConnection::connect(&url).await.expect("a producer");
        sqlx::raw_sql(AssertSqlSafe(format!("begin isolation level {isolation}")))
            .execute(&mut producer)
            .await
            .expect("begun");
        if looked {
            // Its snapshot is of before the prune.
            sqlx::query("select count(*) from noshi.job").execute(&mut producer).await.expect("a snapshot");
        }
        let mut pruning = pool.begin().await.expect("a transaction");
        assert_eq!(prune(&mut *pruning).await, 1);
        let again = {
            let key = key.clone();
            async move {
                let id = enqueue(&mut producer, &key, 1).await?;
                sqlx::query("commit").execute(&mut producer).await.map(|_| id)
            }
        };
        let again = if waits {
            let again = tokio::spawn(again);
            until("the producer waits for the prune", Duration::from_secs(10), async || {
                count(&pool, "pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'").await
                    == 1
            })
            .await;
            pruning.commit().await.expect("pruned");
            again.await.expect("an end")
        } else {
            pruning.commit().await.expect("pruned");
            again.await
        };
        match (isolation, again) {
            ("read committed", Ok(id)) => assert_eq!(id, first, "{key}"),
            ("repeatable read" | "serializable", Err(error)) => assert_eq!(code(&error), "40001", "{key}: {error}"),
            (_, other) => panic!("{key}: {other:?}"),
        }
        assert_eq!(enqueue(&pool, &key, 1).await.expect("the job of before"), first, "{key}");
        assert_eq!(count(&pool, "noshi.job").await, 0, "{key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_over_and_old_goes_and_its_story_is_whole() {
    let TestDatabase { pool, .. } = database().await;
    for (key, then) in [
        ("parked", "status = 'needs_operator', finished_at = null"),
        ("in doubt", "in_doubt = true"),
        ("asked", "status = 'available', requested_act = 'rerun', status_before = 'failed', finished_at = null"),
        ("open", "status = 'retryable', finished_at = null"),
        ("young", "finished_at = now() - interval '89 days'"),
        ("completed", ""),
        ("failed", "status = 'failed'"),
        ("cancelled", "status = 'cancelled'"),
    ] {
        enqueue(&pool, key, 1).await.expect("a job");
        end_all(&pool, "completed", 100).await;
        if !then.is_empty() {
            run(&pool, format!("update noshi.job set {then} where key = '{key}'")).await;
        }
        if then.contains("finished_at = null") {
            // What is at rest is not ended again by the next one.
            run(&pool, format!("update noshi.job set run_at = 'infinity' where key = '{key}'")).await;
        }
        run(&pool, "update noshi.job set status = 'scheduled' where status = 'available'").await;
    }
    assert_eq!(prune(&pool).await, 3);
    let left: Vec<String> =
        sqlx::query_scalar("select key from noshi.job order by id").fetch_all(&pool).await.expect("jobs");
    assert_eq!(left, ["parked", "in doubt", "asked", "open", "young"]);
    assert_eq!(count(&pool, "noshi.job_event").await, 2 * 5);
    let archived = "select array_agg(format('%s %s %s', t.key, t.status, jsonb_array_length(s.journal)) order by t.id)
        from noshi.tombstone t join noshi.archived_job s using (id) where s.job ->> 'key' = t.key and s.journal @> '[{\"event\": \"settled\"}]'";
    let archived: Vec<String> = sqlx::query_scalar(archived).fetch_one(&pool).await.expect("archived");
    assert_eq!(archived, ["completed completed 2", "failed failed 2", "cancelled cancelled 2"]);
    let young = sqlx::query_scalar::<_, i32>("select pruned from noshi.prune(10, '23 hours')").fetch_one(&pool).await;
    assert_eq!(code(&young.expect_err("the shortest time")), "NS400");
    // Not even the owner takes away what was not pruned.
    for sql in [
        "delete from noshi.job_event",
        "delete from noshi.job",
        "delete from noshi.archived_job",
        "delete from noshi.tombstone",
        "update noshi.job_event set detail = ''",
        "update noshi.archived_job set journal = '[]'",
        "update noshi.tombstone set key = ''",
        "truncate noshi.job",
        "truncate noshi.archived_job",
        "truncate noshi.job_event",
    ] {
        assert_eq!(code(&sqlx::query(sql).execute(&pool).await.expect_err(sql)), "NS001", "{sql}");
    }
}

/// A batch of six stores, of which five are over.
async fn batch_of_stores(pool: &PgPool) -> i64 {
    let receive = "select batch from noshi.receive_batch('stores', 'per_row', sha256('file'), 'f.csv', 'utf-8', null, false, false)";
    let batch: i64 = sqlx::query_scalar(receive).fetch_one(pool).await.expect("a batch");
    run(
        pool,
        format!(
            "insert into noshi.batch_row (batch, row_no, line, key, args) select {batch}, n, n + 1, 'o/s' || n || '/r',
                jsonb_build_object('organization', 'o', 'public_id', 's' || n, 'name', 'n', 'request', 'r') from generate_series(1, 6) n;
             select noshi.validate_batch({batch}, 6); select noshi.release_batch({batch});"
        ),
    )
    .await;
    for (status, rows) in [("completed", "1, 2, 3"), ("failed", "4"), ("cancelled", "5")] {
        run(
            pool,
            format!("update noshi.job set status = 'scheduled' where row_no not in ({rows}) and status = 'available'"),
        )
        .await;
        end_all(pool, status, 100).await;
        run(pool, "update noshi.job set status = 'available' where status = 'scheduled'").await;
    }
    let fail = "update noshi.job set state = '{\"at\": \"refused\", \"why\": \"shop_refused\", \"detail\": \"no such place\"}', code = 'shop_refused', outcome = 'refused' where row_no = 4";
    run(pool, fail).await;
    batch
}

#[tokio::test(flavor = "multi_thread")]
async fn a_settled_batch_is_told_as_before_its_rows_were_pruned() {
    let fleet = fleet(Terms::default()).await;
    let pool = &fleet.pool;
    let batch = batch_of_stores(pool).await;
    let told = async || -> Value {
        let sql = "select jsonb_build_object('progress', (select to_jsonb(p) from noshi.batch_progress($1) p),
            'rows', (select jsonb_agg(to_jsonb(r) order by r.row_no) from noshi.batch_rows($1) r))";
        sqlx::query_scalar(sql).bind(batch).fetch_one(pool).await.expect("a report")
    };
    // Open, its rows are not pruned however old they are.
    run(pool, "select noshi.count_next_batch()").await;
    assert_eq!(prune(pool).await, 0);
    end_all(pool, "completed", 100).await;
    run(pool, "update noshi.batch set counted_at = null").await;
    run(pool, "select noshi.count_next_batch()").await;
    let before = told().await;
    let progress = &before["progress"];
    assert_eq!(
        (&progress["status"], &progress["completed"], &progress["failed"]),
        (&json!("settled"), &json!(4), &json!(1))
    );
    assert_eq!(before["rows"][3]["detail"], "no such place");
    // Settled a moment ago: not yet.
    assert_eq!(prune(pool).await, 0);
    run(pool, "update noshi.batch set settled_at = now() - interval '99 days'").await;
    assert_eq!(prune(pool).await, 6);
    assert_eq!((count(pool, "noshi.job").await, told().await), (0, before.clone()));
    // Counted again from what is left, it is the same.
    let again: Value = sqlx::query_scalar("select to_jsonb(p) from noshi.batch_progress_of_rows($1) p")
        .bind(batch)
        .fetch_one(pool)
        .await
        .expect("snapshot");
    assert_eq!(again, before["progress"]);
    let number = batch.to_string();
    for command in [vec!["batch", "show", &number], vec!["batch", "list"]] {
        let said = fleet.command(&command).await;
        assert!(said.status.success(), "{command:?}: {}", String::from_utf8_lossy(&said.stderr));
    }
    let said = fleet.command(&["job", "show", "store_creation", "o/s4/r"]).await;
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(
        text.contains("over since") && text.contains("failed at over (refused, shop_refused, no such place)"),
        "{text}"
    );
    assert!(text.contains("settled"), "the journal is told: {text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_act_on_a_job_of_a_settled_batch_opens_the_batch_again() {
    let TestDatabase { pool, .. } = database().await;
    let batch = batch_of_stores(&pool).await;
    end_all(&pool, "completed", 100).await;
    run(&pool, "select noshi.count_next_batch()").await;
    let progress = "select status || ' ' || open from noshi.batch_progress($1)";
    let status =
        async || -> String { sqlx::query_scalar(progress).bind(batch).fetch_one(&pool).await.expect("a status") };
    assert_eq!(status().await, "settled 0");
    run(&pool, "select noshi.ask(id, step, 'rerun', 'the shop is there now') from noshi.job where status = 'failed'")
        .await;
    assert_eq!(status().await, "released 1");
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_it_goes_on_and_ends_exactly() {
    const JOBS: i64 = 12_000;
    let _turn = busy().await;
    let fleet = fleet(Terms::default()).await;
    let pool = &fleet.pool;
    let many = format!("select count(*) from noshi.enqueue_rows('probe', (select array_agg('p' || i) from generate_series(1, {JOBS}) i),
        (select array_agg('{{}}'::jsonb) from generate_series(1, {JOBS})))");
    run(pool, many).await;
    run(pool, "update noshi.job set status = 'scheduled' where id % 10 = 0").await;
    end_all(pool, "completed", 100).await;
    run(pool, "update noshi.job set status = 'needs_operator' where status = 'scheduled'").await;
    let journal = "select md5(string_agg(format('%s %s %s', job, event, happened_at), ',' order by job, event)) from noshi.job_event e
        where exists (select from noshi.job j where j.id = e.job and j.status = 'completed')";
    let journal: String = sqlx::query_scalar(journal).fetch_one(pool).await.expect("a digest");

    let mut kills = 0;
    loop {
        let mut child = Command::new(env!("CARGO_BIN_EXE_noshi"))
            .args(["prune"])
            .env("DATABASE_URL", &fleet.url)
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("a process");
        let life = Duration::from_millis(rand::random_range(20..700));
        match tokio::time::timeout(life, child.wait()).await {
            Ok(status)
                if status.as_ref().is_ok_and(|status| status.success())
                    && count(pool, "noshi.tombstone").await == JOBS * 9 / 10 =>
            {
                break;
            }
            Ok(_) => {}
            Err(_) => {
                child.kill().await.expect("killed");
                kills += 1;
            }
        }
    }
    assert!(kills > 0, "it was over before it could be killed");
    let statuses: Vec<(String, i64)> = sqlx::query_as("select status::text, count(*) from noshi.job group by 1")
        .fetch_all(pool)
        .await
        .expect("counts");
    assert_eq!(BTreeMap::from_iter(statuses), BTreeMap::from([("needs_operator".to_owned(), JOBS / 10)]));
    let told = "select md5(string_agg(format('%s %s %s', s.id, l ->> 'event', (l ->> 'happened_at')::timestamptz), ',' order by s.id, l ->> 'event'))
        from noshi.archived_job s, jsonb_array_elements(s.journal) l";
    let told: String = sqlx::query_scalar(told).fetch_one(pool).await.expect("a digest");
    assert_eq!(told, journal);
    assert_eq!(count(pool, "noshi.job_event").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fleet_prunes_by_its_schedule() {
    let _turn = turn().await;
    let fleet = fleet(Terms::default()).await;
    let pool = &fleet.pool;
    run(pool, "select noshi.enqueue_rows('probe', array['a', 'b'], array['{}', '{}']::jsonb[])").await;
    end_all(pool, "completed", 3).await;
    let said =
        fleet.command(&["retention", "set", "--jobs-for", "2d", "--every", "1s", "--reason", "little room"]).await;
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let workers = ["a", "b"].map(|name| fleet.worker(name, &[], &[]));
    until("what is over is pruned", Duration::from_secs(30), async || count(pool, "noshi.tombstone").await == 2).await;
    for worker in workers {
        assert!(worker.stop().await.success());
    }
    let audited = "select reason || ': ' || (before ->> 'jobs_for') || ' to ' || (after ->> 'jobs_for') from noshi.audit where act = 'retention'";
    let audited: String = sqlx::query_scalar(audited).fetch_one(pool).await.expect("an audit row");
    assert_eq!(audited, "little room: 90 days to 2 days");
}

#[tokio::test(flavor = "multi_thread")]
async fn migrations_are_told_apart() {
    let fleet = fleet(Terms::default()).await;
    run(
        &fleet.pool,
        "delete from noshi_migrations._sqlx_migrations where version = (select max(version) from noshi_migrations._sqlx_migrations);
         update noshi_migrations._sqlx_migrations set checksum = '\\x00' where version = 2;
         insert into noshi_migrations._sqlx_migrations (version, description, success, checksum, execution_time) values (9999, 'of a newer version', true, '', 0)",
    )
    .await;
    let said = fleet.command(&["migrate", "status", "-o", "json"]).await;
    let lines: Vec<Value> = serde_json::from_slice(&said.stdout).expect("JSON");
    let with = |status: &str| {
        lines
            .iter()
            .filter(|line| line["status"] == status)
            .map(|line| line["version"].as_i64().unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        (with("changed"), with("unknown"), with("pending").len(), lines.len() - 3),
        (vec![2], vec![9999], 1, with("applied").len())
    );
    let printed = fleet.command(&["migrate", "print"]).await;
    let printed = String::from_utf8_lossy(&printed.stdout).into_owned();
    assert!(
        printed.starts_with(&format!("-- migration {:04}", with("pending")[0]))
            && printed.contains("set role noshi_owner"),
        "{printed}"
    );
}
