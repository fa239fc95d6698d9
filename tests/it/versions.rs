//! An older worker beside a newer one: it leaves alone what it does not know, and everything else goes on.

use std::time::Duration;

use serde_json::json;
use sqlx::AssertSqlSafe;

use crate::{
    fleet::{Terms, fleet},
    processes::until,
    support::turn,
};
use noshi::db::{PgPool, queue::claim};

const LANE: &str = "gift/gift_on_demand";

async fn run(pool: &PgPool, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(pool).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
}

/// Jobs as a newer version would have left them: a kind, states with and without a lane, one in doubt, one whose worker died, and
/// one that is being taken back in a way of its own.
async fn of_a_newer_version(pool: &PgPool) {
    run(
        pool,
        &format!(
            r#"insert into noshi.job (kind, key, fingerprint, args, at, state, undo, lane, writes, crash_count, in_doubt, called_at, rank)
            select kind, key || n, sha256(convert_to(key || n, 'UTF8')), args::jsonb, at, state::jsonb, undo::jsonb, lane, lane <> '', lost, lost > 0,
                case when lost > 0 then clock_timestamp() end, 0
            from generate_series(1, 20) n, (values
                ('points_exchange', 'kind ', '{{}}', 'new', null, null, '', 0),
                ('probe', 'state ', '{{"id": "x"}}', 'dreaming', '{{"at": "dreaming", "depth": 2}}', null, '', 0),
                ('probe', 'suspect ', '{{"id": "x"}}', 'sleeping', '{{"at": "sleeping"}}', null, '', 1),
                ('gift_issuance', 'lane ', '{{}}', 'escrowing', '{{"at": "escrowing", "trade": {{"id": "t"}}}}', null, '{LANE}', 0),
                ('store_creation', 'undo ', '{{}}', 'refused', '{{"at": "refused", "run": 0, "why": "assign_spent"}}',
                    '{{"undo": "unassign_service", "shop": "s"}}', '', 0)) j(kind, key, args, at, state, undo, lane, lost)"#
        ),
    )
    .await;
}

const NEWER: &str = "(kind = 'points_exchange' or at in ('dreaming', 'sleeping', 'escrowing') or undo is not null)";

const PLACES: [&str; 4] =
    ["probe/dreaming", "probe/sleeping", "gift_issuance/escrowing", "store_creation/refused/unassign_service"];

/// How often the log says that jobs at this place are left alone.
fn told(log: &str, place: &str) -> usize {
    log.lines().filter(|line| line.contains("left alone") && line.contains(&json!(place).to_string())).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_worker_leaves_newer_kinds_and_states_alone_and_the_rest_goes_on() {
    let _turn = turn().await;
    let fleet = fleet(Terms::default()).await;
    let pool = &fleet.pool;
    of_a_newer_version(pool).await;
    let picture = format!(
        "select md5(string_agg(format('%s %s %s %s %s %s %s %s', id, at, state, undo, status, step, crash_count, in_doubt), ',' order by id)) from noshi.job where {NEWER}"
    );
    let picture = async || -> String {
        sqlx::query_scalar(AssertSqlSafe(picture.clone())).fetch_one(pool).await.expect("a picture")
    };
    let before = picture().await;
    // Few slots: were the newer jobs claimed again and again, nobody else would get one.
    let worker = fleet.worker("old", &[], &["--slots", "4"]);
    for n in 0..30 {
        fleet.gift(&format!("g{n}"), "digital", 500).await;
    }
    let probes = "select noshi.enqueue_rows('probe', (select array_agg('p' || i) from generate_series(1, 50) i),
        (select array_agg(jsonb_build_object('id', 'p' || i, 'steps', 3)) from generate_series(1, 50) i))";
    run(pool, probes).await;
    // A name that is known, and a content that is not: a person is asked, as before.
    run(
        pool,
        r#"insert into noshi.job (kind, key, fingerprint, args, at, state) values ('probe', 'torn', '', '{"id": "x"}', 'stepping', '{"at": "stepping", "left": "many"}')"#,
    )
    .await;
    let open = format!(
        "select count(*) from noshi.job where status in ('scheduled', 'available', 'running', 'retryable') and not {NEWER}"
    );
    until("the known jobs are over", Duration::from_secs(40), async || {
        sqlx::query_scalar::<_, i64>(AssertSqlSafe(open.clone())).fetch_one(pool).await.expect("a count") == 0
    })
    .await;
    let ended = "select format('%s %s %s', kind, coalesce(code, status::text), count(*)) from noshi.job where finished_at is not null or status = 'needs_operator'
        group by kind, coalesce(code, status::text) order by 1";
    let ended: Vec<String> = sqlx::query_scalar(ended).fetch_all(pool).await.expect("ends");
    assert_eq!(ended, ["gift_issuance completed 30", "probe completed 50", "probe unreadable_state 1"]);
    // Each place was found once, the suspects by a look of their own: what is claimed from here on is claimed again.
    until("each place is told of", Duration::from_secs(20), async || {
        let log = std::fs::read_to_string(fleet.dir.path().join("old.log")).expect("a log");
        PLACES.iter().all(|place| told(&log, place) == 1)
    })
    .await;
    let looks = async || -> i64 {
        let claims = format!("select count(*) from noshi.job_event e join noshi.job j on j.id = e.job where {NEWER}");
        sqlx::query_scalar(AssertSqlSafe(claims)).fetch_one(pool).await.expect("a count")
    };
    // What was claimed is given back, which is a line of its own.
    let held = format!("select count(*) from noshi.job where status = 'running' and {NEWER}");
    until("nothing of theirs is in flight", Duration::from_secs(20), async || {
        sqlx::query_scalar::<_, i64>(AssertSqlSafe(held.clone())).fetch_one(pool).await.expect("a count") == 0
    })
    .await;
    let first = looks().await;
    run(pool, "select noshi.enqueue('probe', 'one more', '{\"id\": \"one more\", \"steps\": 1}')").await;
    fleet.gift("one more", "digital", 500).await;
    until("one more of each is over", Duration::from_secs(20), async || {
        sqlx::query_scalar::<_, i64>(AssertSqlSafe(open.clone())).fetch_one(pool).await.expect("a count") == 0
    })
    .await;
    assert_eq!(looks().await, first, "jobs of a newer version were claimed again");
    assert!(
        first <= 2 * 4 * 4,
        "each place costs a claim or two for as many jobs as there are slots, not {first} lines"
    );
    assert_eq!(picture().await, before);
    let spent: i64 = sqlx::query_scalar("select tokens from noshi.lane where name = $1")
        .bind(LANE)
        .fetch_one(pool)
        .await
        .expect("tokens");
    assert!(spent <= 31 + 3 * 4 + 10, "{spent} tokens for 31 gifts");

    // A newer worker takes them at once.
    let newer = noshi::db::queue::workers::register(pool, "new").await.expect("a worker");
    assert_eq!(claim::claim(pool, newer, LANE, 3, false).await.expect("a claim").jobs.len(), 3);
    assert_eq!(claim::claim(pool, newer, "", 40, false).await.expect("a claim").jobs.len(), 40);
    assert_eq!(claim::claim(pool, newer, "", 1, true).await.expect("a claim").jobs.len(), 1);
    assert!(worker.stop().await.success());
    let log = std::fs::read_to_string(fleet.dir.path().join("old.log")).expect("a log");
    for place in PLACES {
        assert_eq!(told(&log, place), 1, "{place}");
    }
}
