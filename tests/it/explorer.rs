//! What one person can do, tried at random: sequences of every act, function and request that one operator, one producer, or one of each
//! may make. The judge knows the partners' ledger, the points journal and the approvals alone, and the law is what it judges: value that
//! went out is no more than what was granted with the approvals that were due.
//!
//! `NOSHI_SEQUENCES` says how many; without it there are enough to find each planted bug, many times over.

use std::collections::{BTreeMap, HashMap};

use noshi::{clients::trade_id, store::PgPool};
use noshi_jobs::machine::Act;
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::Value;
use sqlx::AssertSqlSafe;

use crate::{
    fleet::{Fleet, Terms, fleet},
    support::{database, turn},
};

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
        Planted::Nothing | Planted::FilesJudgedAlone => 0,
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
        crate::processes::until("the wave at rest", std::time::Duration::from_secs(120), async || {
            run(pool, "update noshi.lane set closed_code = null, closed_at = null, closed_until = null where name like 'gift/%' and closed_code is not null; select pg_notify('noshi', '')".to_owned()).await;
            fleet.at_rest(std::time::Duration::from_secs(2)).await.is_ok()
        })
        .await;
    }
    let broken = judge(&fleet, number).await;
    assert!(worker.stop().await.success());
    broken
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_alone_grants_more_than_one_person_may_in_files() {
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
    let _turn = turn().await;
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
