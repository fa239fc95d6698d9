//! What one person can do, tried at random: sequences of every act, function and request that one operator, one producer, or one of each
//! may make; and of statements by whoever holds the login of a worker. The judge knows the partners' ledger, the points journal and the approvals alone, and the law is what it judges: value that
//! went out is no more than what was granted with the approvals that were due.
//!
//! `NOSHI_SEQUENCES` says how many; without it there are enough to find each planted bug, many times over.

use std::collections::{BTreeMap, HashMap};

use noshi_jobs::machine::Act;
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::Value;
use sqlx::AssertSqlSafe;

use crate::{
    fleet::{Fleet, Terms, fleet},
    support::{busy, database, server},
};
use noshi::{db::PgPool, partners::gifts::trade_id};

/// A defence that is taken away, to show that the explorer sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Planted {
    Nothing,
    /// Points come back for a gift that is live, by one person's word (C1).
    PointsOfALiveGift,
    /// Each file is judged alone (H1).
    FilesJudgedAlone,
    /// One person attests that a gift is void and has it bought again (H6).
    OneWordSuffices,
    /// A worker's login asks for jobs of its own.
    WorkersAskForJobs,
}

fn sequences(usual: usize) -> usize {
    std::env::var("NOSHI_SEQUENCES").ok().map_or(usual, |text| text.parse().expect("a number of sequences"))
}

async fn run(pool: &PgPool, sql: String) {
    sqlx::raw_sql(AssertSqlSafe(sql.clone())).execute(pool).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

/// People of the given number, each known by a token: an operator, and a producer beside.
async fn people(pool: &PgPool, number: usize) {
    run(pool, format!("insert into noshi.token (id, owner, digest, scopes, per_second, expires_at)
        select lpad(n::text, 11, '0') || w.letter, w.name || n, sha256(decode(lpad(n::text, 64, '0'), 'hex')), w.scopes, 100, now() + interval '1 day'
        from generate_series(1, {number}) n, (values ('o', 'operator', array['read', 'operate', 'approve', 'enqueue']),
            ('p', 'producer', array['enqueue', 'read'])) w(letter, name, scopes)")).await;
}

/// Acts in the name of one of them; whatever is refused is refused.
fn as_person(number: usize, letter: char, acts: &[String]) -> String {
    let shown = format!("{number:0>11}{letter}.{number:0>64}");
    let tried: String = acts.iter().map(|act| format!("begin {act} exception when others then null; end;\n")).collect();
    format!(
        "do $$ begin perform set_config('noshi.token', '{shown}', false);\n{tried} perform set_config('noshi.token', '', false); end $$;"
    )
}

// Files.

/// So many in one database: its caps look at all that was granted in a day.
const TOGETHER: usize = 250;

/// Above this a second person approves, in rows and in thousands.
const FROM: usize = 10;

fn file_act(chance: &mut StdRng, person: usize, file: usize) -> String {
    let own = format!("submitted_by = 'operator{person}'");
    let one = format!("(select id from noshi.batch where {own} order by random() limit 1)");
    let rows = *[1, 3, 5, 9, 9, 12].get(chance.random_range(0..6)).expect("one of six");
    let amount = *[1_000, 1_000, 9_000].get(chance.random_range(0..3)).expect("one of three");
    match chance.random_range(0..12) {
        0..=3 => format!(
            r#"perform noshi.receive_batch('grants', 'all_or_nothing', sha256('{person}/{file}'), '{file}', 'utf-8', null, false, true);
            insert into noshi.batch_row (batch, row_no, line, key, args)
            select b.id, n, n + 1, format('%s/%s/%s', {person}, {file}, n), jsonb_build_object('grant', format('%s/%s/%s', {person}, {file}, n), 'user', 'u' || n,
                'category', 'digital', 'value', jsonb_build_object('amount', {amount}, 'currency', 'JPY'))
            from noshi.batch b, generate_series(1, {rows}) n where b.digest = sha256('{person}/{file}') and b.cancelled_at is null;
            perform noshi.validate_batch(id, {rows}) from noshi.batch where digest = sha256('{person}/{file}') and cancelled_at is null;"#
        ),
        4..=6 => format!("perform noshi.release_batch({one}, 'x');"),
        7 => format!("perform noshi.register_batch({one});"),
        8 => format!("perform noshi.cancel_batch({one}, 'x');"),
        9 => format!("perform noshi.approve_batch(id, approval_digest, 'x') from noshi.batch where {own};"),
        10 => format!("perform noshi.rerun_batch({one}, 'x');"),
        _ => format!("perform noshi.pause_batch({one}, 'operator', 'x'); perform noshi.resume_batch({one}, 'x');"),
    }
}

/// Sequences over files; of whom more was granted than one person may, and how much.
async fn files(planted: Planted, seed: u64, number: usize) -> Vec<String> {
    let db = database().await;
    run(&db.pool, format!("insert into noshi.batch_cap (kind, currency, approve_from_rows, approve_from_total) values ('grants', 'JPY', {FROM}, {FROM}000)")).await;
    if planted == Planted::FilesJudgedAlone {
        run(&db.pool, "create or replace function noshi.done_alone(p_who text, p_what text) returns table (target text, jobs bigint, currency text, amount bigint)
            language sql stable as $$ select null::text, null::bigint, null::text, null::bigint where false $$".to_owned()).await;
    }
    people(&db.pool, number).await;
    let jobs = (1..=number).map(|person| {
        let pool = db.pool.clone();
        async move {
            let mut chance = StdRng::seed_from_u64(seed.wrapping_mul(1_000_003).wrapping_add(person as u64));
            let acts: Vec<String> = (0..chance.random_range(4..12))
                .map(|_| {
                    let file = chance.random_range(0..5);
                    file_act(&mut chance, person, file)
                })
                .collect();
            run(&pool, as_person(person, 'o', &acts)).await;
        }
    });
    futures::StreamExt::for_each_concurrent(futures::stream::iter(jobs), 8, |job| job).await;
    // What was let go is granted, if it may be.
    run(&db.pool, "do $$ declare b record; begin for b in select id from noshi.batch where released_at is not null and registered_at is null and cancelled_at is null loop
        begin perform noshi.register_batch(b.id); exception when others then null; end; end loop; end $$".to_owned()).await;
    let judged = format!("select format('%s: %s rows, %s', b.submitted_by, count(*), sum(r.amount)) from noshi.batch b join noshi.batch_row r on r.batch = b.id
        where b.registered_at is not null and b.approved_by is null group by b.submitted_by having count(*) >= {FROM} or sum(r.amount) >= {FROM}000");
    let done: i64 = sqlx::query_scalar("select count(*) from noshi.batch where registered_at is not null")
        .fetch_one(&db.pool)
        .await
        .unwrap();
    assert!(done as usize * 5 > number, "only {done} batches of {number} sequences were granted");
    sqlx::query_scalar(AssertSqlSafe(judged)).fetch_all(&db.pool).await.unwrap()
}

// Gifts and exchanges.

/// With which the trade ids of the partners begin.
const PREFIXES: [&str; 3] = ["Noshi", "G", "T"];
const GRANTED: i64 = 1_000;

fn gift_act(chance: &mut StdRng, person: usize) -> (char, String) {
    let job = |of: &str| format!("(select id from noshi.job where {of} limit 1)");
    let its = format!("kind = 'gift_issuance' and key in ('exchange/x{person}', 'g{person}')");
    let act = Act::ALL[chance.random_range(0..Act::ALL.len())].name();
    match chance.random_range(0..20) {
        0..=8 => ('o', format!("perform noshi.ask(id, step, '{act}', 'x') from noshi.job where {its};")),
        9..=10 => ('o', format!("perform noshi.ask(id, step, 'attest_void', 'x') from noshi.job where {its};")),
        11..=12 => ('o', format!("perform noshi.ask(id, step, 'reissue', 'x') from noshi.job where {its};")),
        13 => ('o', format!("perform noshi.ask(id, step, 'cancel', 'x') from noshi.job where {its};")),
        14 => (
            'o',
            format!(
                "perform noshi.confirm_proposal(id, digest, 'x') from noshi.proposal where proposed_by = 'operator{person}' and decision is null;"
            ),
        ),
        15 => (
            'o',
            format!(
                "perform noshi.plan_redrive('{{}}', array[{0}], array[(select step from noshi.job where id = {0})], array['{1}'], array[null], array['']); perform noshi.apply_redrive(id, 'x', digest, null, null, null) from noshi.redrive where planned_by = 'operator{person}';",
                job(&its),
                ["retry", "inquire", "rerun"][chance.random_range(0..3)]
            ),
        ),
        16 => (
            'p',
            format!(
                "perform noshi.enqueue('point_exchange', 'x{person}', args) from noshi.job where kind = 'point_exchange' and key = 'x{person}';"
            ),
        ),
        17 => (
            'p',
            format!(
                "perform noshi.enqueue('point_reversal', 'x{person}', '{{\"exchange\": \"x{person}\", \"grace_days\": 0}}');"
            ),
        ),
        18 => (
            'p',
            format!("perform noshi.enqueue('gift_issuance', 'exchange/x{person}', args) from noshi.job where {its};"),
        ),
        _ => (
            'o',
            format!(
                "perform noshi.refuse_proposal(id, 'x') from noshi.proposal where proposed_by = 'operator{person}';"
            ),
        ),
    }
}

async fn ask_for_gifts(pool: &PgPool, first: usize, last: usize) {
    // An exchange of all the points that a user has, or a gift of a grant, at each of the partners.
    run(pool, format!("select noshi.enqueue('point_grant', 't:s' || n, jsonb_build_object('benefit', 't', 'source', 's' || n, 'user', 'u' || n, 'points', {GRANTED}, 'valid_days', 90))
        from generate_series({first}, {last}) n where n % 2 = 0")).await;
    let points = format!(
        "select not exists (select from noshi.job where kind = 'point_grant' and status in ('available', 'running', 'scheduled', 'retryable')) as done where {last} > 0"
    );
    crate::processes::until("granted points", std::time::Duration::from_secs(60), async || {
        sqlx::query_scalar::<_, bool>(AssertSqlSafe(points.clone())).fetch_one(pool).await.unwrap_or(false)
    })
    .await;
    run(pool, format!("select case when n % 2 = 0
        then noshi.enqueue('point_exchange', 'x' || n, jsonb_build_object('exchange', 'x' || n, 'user', 'u' || n, 'points', {GRANTED}, 'category', c.name, 'value', jsonb_build_object('amount', {GRANTED}, 'currency', 'JPY')))
        else noshi.enqueue('gift_issuance', 'g' || n, jsonb_build_object('grant', 'g' || n, 'user', 'u' || n, 'category', c.name, 'value', jsonb_build_object('amount', {GRANTED}, 'currency', 'JPY'))) end
        from generate_series({first}, {last}) n, lateral (select (array['amazon', 'digital', 'prepaid'])[n % 3 + 1] as name) c")).await;
}

/// The partners' ledger: of each trade how many gifts are live, and what they are worth.
fn live(fleet: &Fleet) -> HashMap<String, i64> {
    let mut live: HashMap<String, i64> = HashMap::new();
    let text = std::fs::read_to_string(fleet.ledger()).expect("the ledger");
    for line in text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        let sign = match line["event"].as_str() {
            Some("issued") => 1,
            Some("voided") => -1,
            _ => continue,
        };
        *live.entry(line["trade"].as_str().unwrap_or_default().to_owned()).or_default() += sign;
    }
    live
}

/// Whose law is broken, by the ledger and the journal of points.
async fn judge(fleet: &Fleet, number: usize) -> Vec<String> {
    let live = live(fleet);
    let of = |grant: &str| -> i64 {
        let trades = PREFIXES.iter().flat_map(|prefix| (0..6).map(|n| trade_id(prefix, grant, n)));
        trades.filter_map(|trade| live.get(&trade)).sum()
    };
    let left: BTreeMap<String, i64> = sqlx::query_as::<_, (String, i64)>(
        "select user_id, sum(amount)::bigint from noshi.point_entry group by user_id",
    )
    .fetch_all(&fleet.pool)
    .await
    .unwrap()
    .into_iter()
    .collect();
    let mut broken = vec![];
    let mut seen = 0;
    for n in 1..=number {
        let gifts = of(&if n % 2 == 0 { format!("exchange/x{n}") } else { format!("g{n}") });
        let points = left.get(&format!("u{n}")).copied().unwrap_or(0);
        seen += gifts;
        let granted = if n % 2 == 0 { GRANTED } else { 0 };
        if gifts > 1 || (n % 2 == 0 && gifts * GRANTED + points > granted) {
            broken.push(format!("sequence {n}: {gifts} live gifts, {points} points"));
        }
    }
    assert!(seen as usize * 4 > number, "only {seen} gifts of {number} sequences are live: the judge sees too little");
    broken
}

async fn plant(pool: &PgPool, planted: Planted) {
    let alone = match planted {
        Planted::PointsOfALiveGift | Planted::OneWordSuffices => 1_000_000_000,
        Planted::Nothing | Planted::FilesJudgedAlone | Planted::WorkersAskForJobs => 0,
    };
    run(
        pool,
        format!("insert into noshi.word_cap (currency, alone) select c, {alone} from unnest(array['', 'JPY']) c"),
    )
    .await;
    if planted == Planted::PointsOfALiveGift {
        run(pool, "drop trigger word_is_not_against_a_fact on noshi.gift_outcome;
            create or replace function noshi.known_issued(p_job bigint) returns text language sql stable as $$ select null::text $$;
            create or replace function noshi.live_gift(p_grant text) returns text language sql stable as $$ select null::text $$;".to_owned()).await;
    }
}

/// Sequences over gifts and exchanges, at partners with faults, in waves that one worker carries out.
async fn gifts(planted: Planted, seed: u64, number: usize) -> Vec<String> {
    let wave = number.min(500);
    let fleet = fleet(Terms { faults: true, seed, limit: 100_000, ..Terms::default() }).await;
    let pool = &fleet.pool;
    plant(pool, planted).await;
    people(pool, number).await;
    let bug = (planted == Planted::PointsOfALiveGift).then_some(("NOSHI_BUG", "word_against_fact"));
    let worker = fleet.worker("w", bug.as_slice(), &["--slots", "128", "--lease-ms", "10000"]);
    let mut chance = StdRng::seed_from_u64(seed);
    for first in (1..=number).step_by(wave) {
        let last = (first + wave - 1).min(number);
        ask_for_gifts(pool, first, last).await;
        for round in 0..12 {
            // For a round or two a partner is not to be called, so that acts meet what waits.
            let paused = round % 4 == 2;
            run(pool, format!("update noshi.lane set paused = {paused}, closed_code = null, closed_at = null, closed_until = null where name like 'gift/%'")).await;
            for person in first..=last {
                if chance.random_bool(0.6) {
                    let (letter, act) = gift_act(&mut chance, person);
                    run(pool, as_person(person, letter, &[act])).await;
                }
            }
        }
        run(pool, "update noshi.lane set paused = false, closed_code = null, closed_at = null, closed_until = null where name like 'gift/%'".to_owned()).await;
        // Throttles and closed lanes are the partners' own doing here.
        crate::processes::until("the wave at rest", std::time::Duration::from_secs(600), async || {
            run(pool, "update noshi.lane set closed_code = null, closed_at = null, closed_until = null where name like 'gift/%' and closed_code is not null; select pg_notify('noshi', '')".to_owned()).await;
            fleet.at_rest(std::time::Duration::from_secs(2)).await.is_ok()
        })
        .await;
    }
    let broken = judge(&fleet, number).await;
    assert!(worker.stop().await.success());
    broken
}

// A worker's host.

fn any<'a>(chance: &mut StdRng, of: &[&'a str]) -> &'a str {
    of[chance.random_range(0..of.len())]
}

const JOB: &str = "(select id from noshi.job order by random() limit 1)";
const WORKER: &str = "(select id from noshi.worker order by random() limit 1)";

/// A request of value for somebody, as a worker's login would have to write it.
fn host_request(chance: &mut StdRng, n: usize) -> String {
    let (kind, key, args) = match chance.random_range(0..5) {
        0 => (
            "point_grant",
            format!("t:h{n}"),
            format!(r#"{{"benefit": "t", "source": "h{n}", "user": "u{n}", "points": 1000000, "valid_days": 90}}"#),
        ),
        1 => (
            "gift_issuance",
            format!("h{n}"),
            format!(
                r#"{{"grant": "h{n}", "user": "u{n}", "category": "digital", "value": {{"amount": 9000, "currency": "JPY"}}}}"#
            ),
        ),
        2 => (
            "gift_issuance",
            format!("exchange/x{n}"),
            format!(
                r#"{{"grant": "exchange/x{n}", "user": "u{n}", "category": "digital", "value": {{"amount": 9000, "currency": "JPY"}}, "paid_by": {{"exchange": "x{n}", "grace_days": 0}}}}"#
            ),
        ),
        3 => ("point_reversal", format!("x{n}"), format!(r#"{{"exchange": "x{n}", "grace_days": 0}}"#)),
        _ => (
            "point_exchange",
            format!("h{n}"),
            format!(
                r#"{{"exchange": "h{n}", "user": "u{n}", "points": 1, "category": "digital", "value": {{"amount": 9000, "currency": "JPY"}}}}"#
            ),
        ),
    };
    format!(
        "insert into noshi.job (kind, key, fingerprint, args) values ('{kind}', '{key}', sha256('{key}'), '{args}');"
    )
}

/// What a login of a worker may try by itself: rows as they please, its functions with others' jobs and workers, and what is for people.
fn host_act(chance: &mut StdRng, n: usize) -> String {
    const STATUS: [&str; 8] =
        ["scheduled", "available", "running", "retryable", "needs_operator", "completed", "failed", "cancelled"];
    let status = any(chance, &STATUS);
    let running = "(select id from noshi.job where status = 'running' order by random() limit 1)";
    let claim = |of: &str| {
        format!("with c as (update noshi.job set status = 'running', lease = lease + 1, worker = {WORKER} where id = {of} returning *)
            insert into noshi.job_event (job, event, lease, step, worker, was, became) select id, 'claimed', lease, step, worker, at, at from c;")
    };
    let settle = |of: &str, status: &str, at: &str| {
        format!(
            "update noshi.job set status = '{status}', at = '{at}', state = null, step = step + 1, worker = null, in_doubt = false, lane = '', run_at = clock_timestamp() where id = {of};"
        )
    };
    match chance.random_range(0..20) {
        0 => "insert into noshi.worker (name) values ('rogue');".to_owned(),
        1..=3 => claim(any(chance, &["(select id from noshi.job where status = 'available' order by random() limit 1)", JOB])),
        4..=5 => settle(any(chance, &[running, JOB]), status, any(chance, &["new", "issued", "returning", "using", "void", "ordered"])),
        6 => {
            let column = any(chance, &["args = '{}'", "key = 'k'", "fingerprint = ''", "lease = lease + 1", "worker = null", "step = 0", "in_doubt = not in_doubt", "run_at = now()",
                "requested_act = 'attest_void'", "requested_act = 'reissue'", "status_before = 'failed'", "batch = 1", "finished_at = now()", "asked_by = 'operator1'"]);
            format!("update noshi.job set {column} where id = {JOB};")
        }
        7..=9 => host_request(chance, n),
        10 => format!("insert into noshi.gift_trade (id, grant_id, generation, job, provider, category, amount, currency)
            select 'F{n}', key, 0, id, 'gift_on_demand', args ->> 'category', {}, 'JPY' from noshi.job where id = {JOB};", any(chance, &["1000", "9000"])),
        11 => format!("insert into noshi.gift_outcome (trade, outcome, card, reason) select id, '{}', 'c', '{}' from noshi.gift_trade order by random() limit 1;",
            any(chance, &["issued", "refused", "void"]), any(chance, &["attested", "revoked", "x"])),
        12..=13 => format!("perform noshi.{} from noshi.job where id = {};",
            any(chance, &["grant_points(id)", "use_points(id)", "return_points(id)", "withdraw_points(id)", "expire_points(id, 100)", "sealed_recipient(id, worker)"]), any(chance, &[running, JOB])),
        14 => any(chance, &["update noshi.job_event set detail = 'x';", "delete from noshi.job_event;", "delete from noshi.job;", "truncate noshi.job_event;",
            "insert into noshi.job_event (job, event, lease, step, outcome) select id, 'asked', lease, step, 'attest_void' from noshi.job;",
            "update noshi.server_seen set restored_to = null, owed = 0;", "update noshi.lane set tokens = 0, vtime = 0;", "update noshi.lane_budget set calls = 1000000;",
            "update noshi.point_entry set amount = amount * 2;", "insert into noshi.batch_row select * from noshi.batch_row;"]).to_owned(),
        15 => any(chance, &["perform noshi.register_batch(1);", "perform noshi.approve_batch(1, null, 'x');", "perform noshi.release_batch(1, 'x');", "perform noshi.validate_batch(1, 5);",
            "perform noshi.advance_redrive();", "perform noshi.prune(100, interval '0');", "perform noshi.link_waiting_acts();", "perform noshi.count_next_batch();"]).to_owned(),
        16 => format!("perform noshi.{};", any(chance, &["ask(1, 1, 'reissue', 'x')", "propose('attest_void', 1, 1, null, 'x')", "confirm_proposal(1, null, 'x')", "must('operate')",
            "record('job retry', 'job/1', 'x')", "post_points(null, null, null)", "enqueue('point_grant', 't:q', '{}')", "book_grant(now(), 'k', 'u1', 9000, 'b', 's', now() + interval '1 day', null, 1)"])),
        // An exchange's gift is said to have failed, and its points are asked back, more than once.
        17..=18 => format!("{}{}perform noshi.return_points(id) from noshi.job where kind = 'point_reversal' and key = 'x{n}'; perform noshi.return_points(id) from noshi.job where kind = 'point_reversal';",
            settle(&format!("(select id from noshi.job where kind = 'gift_issuance' and key = 'exchange/x{n}')"), "failed", "void"),
            claim(&format!("(select id from noshi.job where kind = 'point_reversal' and key = 'x{n}')"))),
        _ => format!("{}{}", claim(&format!("(select id from noshi.job where kind = 'point_exchange' and key = 'x{n}')")), "perform noshi.use_points(id) from noshi.job where kind = 'point_exchange';"),
    }
}

/// What a worker's login must not reach, however it goes about it: value that no producer asked for, another request than was made, a past that reads otherwise, and
/// what a second person approves.
const HOST_LAW: &str = "select format('%s got %s points, and has %s', user_id, got, has) from (
        select user_id, sum(amount) filter (where kind = 'grant') as got, sum(amount) as has from noshi.point_entry group by user_id) p where got > $1 or has > $1
    union all select format('%s %s is another request than was made', a.kind, a.key) from asked a left join noshi.job j using (id) left join noshi.tombstone t using (id)
        where t.id is null and (j.kind, j.key, j.args, j.fingerprint, j.asked_by, j.batch) is distinct from (a.kind, a.key, a.args, a.fingerprint, a.asked_by, a.batch)
    union all select format('%s %s was asked for by nobody', j.kind, j.key) from noshi.job j where not exists (select from asked a where a.id = j.id)
        and not (j.kind in ('gift_issuance', 'point_reversal') and exists (select from asked x join noshi.point_entry e on e.key = 'use:' || x.key
            where x.kind = 'point_exchange' and x.key in (j.key, substr(j.key, 10)) and (j.kind = 'point_reversal' or j.args -> 'value' = x.args -> 'value' and j.args ->> 'user' = x.args ->> 'user')))
    union all select format('trade %s of %s is for %s', t.id, t.grant_id, t.amount) from noshi.gift_trade t where t.amount <> $1
    union all (select format('line %s of job %s is gone', event, job) from (select * from lines except all select * from noshi.job_event) l where job not in (select id from noshi.tombstone))
    union all select format('batch %s: %s', id, released_at) from noshi.batch where released_at is not null or registered_at is not null or approved_by is not null
    union all select format('trade %s is void by a word that nobody gave', trade) from noshi.gift_outcome where reason = 'attested'
    union all select format('%s: %s', subject, fault) from noshi.verify_points()
    union all select format('link %s: %s', seq, fault) from noshi.verify_audit()";

/// Whatever is refused is refused; but it was understood.
async fn try_as_host(rogue: &PgPool, act: &str) {
    let error = sqlx::raw_sql(AssertSqlSafe(format!("do $$ begin {act} end $$"))).execute(rogue).await.err();
    let code = error.as_ref().and_then(|error| error.as_database_error()?.code()).unwrap_or_default().into_owned();
    assert!(!["42601", "42703", "42883", "42P01"].contains(&code.as_str()), "{act}: {error:?}");
}

async fn host(planted: Planted, seed: u64, number: usize) -> Vec<String> {
    let fleet = fleet(Terms { seed, limit: 100_000, ..Terms::default() }).await;
    let pool = &fleet.pool;
    people(pool, 1).await;
    let batch = r#"insert into noshi.batch_cap (kind, currency, approve_from_rows, approve_from_total) values ('grants', 'JPY', 1, 1);"#.to_owned();
    run(pool, batch + &as_person(1, 'o', &[r#"perform noshi.receive_batch('grants', 'all_or_nothing', sha256('f'), 'f', 'utf-8', null, false, true);
        insert into noshi.batch_row (batch, row_no, line, key, args) select 1, n, n + 1, 'b' || n, jsonb_build_object('grant', 'b' || n, 'user', 'u' || n, 'category', 'digital', 'value', '{"amount": 1000, "currency": "JPY"}'::jsonb) from generate_series(1, 5) n;
        perform noshi.validate_batch(1, 5);"#.to_owned()])).await;
    if planted == Planted::WorkersAskForJobs {
        run(pool, "alter table noshi.job disable trigger follows".to_owned()).await;
    }
    let _ = server().await.create_login("rogue_host", "noshi_worker").await;
    let database = fleet.url.rsplit('/').next().and_then(|rest| rest.split('?').next()).expect("a database");
    let rogue = PgPool::plain(&server().await.url_as("rogue_host", database), 4).expect("a URL");
    let workers = ["a", "b"].map(|name| fleet.worker(name, &[], &["--slots", "32"]));
    ask_for_gifts(pool, 1, number).await;
    run(pool, "create table asked as select id, kind, key, args, fingerprint, asked_by, batch from noshi.job where kind <> 'gift_issuance' or key not like 'exchange/%'; create table lines as select * from noshi.job_event".to_owned()).await;
    let sequences = (1..=number).map(|n| {
        let (rogue, mut chance) =
            (rogue.clone(), StdRng::seed_from_u64(seed.wrapping_mul(1_000_003).wrapping_add(n as u64)));
        async move {
            for _ in 0..chance.random_range(4..12) {
                let act = host_act(&mut chance, n);
                try_as_host(&rogue, &act).await;
            }
        }
    });
    futures::StreamExt::for_each_concurrent(futures::stream::iter(sequences), 4, |sequence| sequence).await;
    let points: i64 =
        sqlx::query_scalar("select count(*) from noshi.point_entry where kind = 'use'").fetch_one(pool).await.unwrap();
    assert!(points as usize * 8 > number, "only {points} exchanges of {number} sequences used points");
    let broken = sqlx::query_scalar(HOST_LAW).bind(GRANTED).fetch_all(pool).await.unwrap();
    drop(workers);
    broken
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_alone_grants_more_than_one_person_may_in_files() {
    let _turn = busy().await;
    let number = sequences(8_000);
    let began = std::time::Instant::now();
    for (n, part) in (0..number).step_by(TOGETHER).enumerate() {
        let broken = files(Planted::Nothing, n as u64 + 1, (number - part).min(TOGETHER)).await;
        assert!(broken.is_empty(), "seed {}: {broken:#?}", n + 1);
    }
    eprintln!("{number} sequences over files in {:.1} s", began.elapsed().as_secs_f32());
    let broken = files(Planted::FilesJudgedAlone, 1, 400).await;
    assert!(!broken.is_empty(), "each file is judged alone, and nobody sees it");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_alone_makes_or_repeats_a_gift_or_gets_its_points_back() {
    let _turn = busy().await;
    let number = sequences(2_000);
    let began = std::time::Instant::now();
    for (n, part) in (0..number).step_by(4_000).enumerate() {
        let broken = gifts(Planted::Nothing, n as u64 + 1, (number - part).min(4_000)).await;
        assert!(broken.is_empty(), "seed {}: {broken:#?}", n + 1);
    }
    eprintln!("{number} sequences over gifts in {:.1} s", began.elapsed().as_secs_f32());
    for planted in [Planted::PointsOfALiveGift, Planted::OneWordSuffices] {
        let began = std::time::Instant::now();
        let mut broken = vec![];
        for seed in 1..=5 {
            broken = gifts(planted, seed, 500).await;
            if !broken.is_empty() {
                break;
            }
        }
        eprintln!("{planted:?}: {} found in {:.1} s", broken.len(), began.elapsed().as_secs_f32());
        assert!(!broken.is_empty(), "{planted:?}, and nobody sees it");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workers_login_makes_no_value_and_changes_no_request() {
    let _turn = busy().await;
    let number = sequences(600);
    let began = std::time::Instant::now();
    for (n, part) in (0..number).step_by(600).enumerate() {
        let broken = host(Planted::Nothing, n as u64 + 1, (number - part).min(600)).await;
        assert!(broken.is_empty(), "seed {}: {broken:#?}", n + 1);
    }
    eprintln!("{number} sequences of a worker's host in {:.1} s", began.elapsed().as_secs_f32());
    let broken = host(Planted::WorkersAskForJobs, 1, 100).await;
    eprintln!("{:?}: {} found", Planted::WorkersAskForJobs, broken.len());
    assert!(!broken.is_empty(), "a worker's login asks for value, and nobody sees it");
}
