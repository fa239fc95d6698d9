//! What a producer's commit costs: `noshi.enqueue` beside a plain insert and commit into a table with the same columns, checks and indexes.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use futures::future::try_join_all;
use serde_json::{Value, json};
use sqlx::Executor;

use crate::db::PgPool;

const PLAIN_TABLE: &str = "create table plain_job (like noshi.job including all)";
const PLAIN: &str = "insert into plain_job (asked_by, kind, key, fingerprint, args, rank, row_no)
    values (session_user, 'gift_issuance', $1, sha256(convert_to($2::jsonb::text, 'UTF8')), $2, 1, 1)";
const ENQUEUE: &str = "select noshi.enqueue('gift_issuance', $1, $2)";
const SET: &str = "select count(*) from noshi.enqueue_rows('gift_issuance', $1, $2)";

const CLIENTS: [u32; 3] = [1, 4, 16];
const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_millis(1_500);
const ROWS: usize = 10_000;

fn gift(grant: &str) -> Value {
    json!({"grant": grant, "user": "u", "category": "digital", "value": {"amount": 500, "currency": "JPY"}})
}

/// Commits a second of so many clients, each with a connection of its own.
async fn rate(pools: &[PgPool], sql: &'static str, name: &str) -> anyhow::Result<f64> {
    let begun = Instant::now();
    let clients = pools.iter().enumerate().map(|(client, pool)| async move {
        let mut connection = pool.acquire().await?;
        let mut done = 0_u32;
        while begun.elapsed() < ROUND {
            let grant = format!("{name}-{client}-{done}");
            sqlx::query(sql).bind(&grant).bind(gift(&grant)).execute(&mut *connection).await?;
            done += 1;
        }
        anyhow::Ok(done)
    });
    let done: u32 = try_join_all(clients).await?.into_iter().sum();
    Ok(f64::from(done) / begun.elapsed().as_secs_f64())
}

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_unstable_by(f64::total_cmp);
    of[of.len() / 2]
}

/// Prints, for each number of clients, the medians of alternating rounds; and what a set costs.
pub async fn run(url: &str) -> anyhow::Result<()> {
    let pool = PgPool::plain(url, 1)?;
    pool.execute(PLAIN_TABLE).await.context("the plain table")?;
    for clients in CLIENTS {
        let pools = (0..clients).map(|_| PgPool::plain(url, 1)).collect::<Result<Vec<_>, _>>()?;
        let (mut plain, mut asked) = (vec![], vec![]);
        for round in 0..ROUNDS {
            plain.push(rate(&pools, PLAIN, &format!("{clients}-{round}")).await?);
            asked.push(rate(&pools, ENQUEUE, &format!("{clients}-{round}")).await?);
        }
        let (plain, asked) = (median(plain), median(asked));
        crate::basics::terminal::say!(
            "{:<42} {asked:>9.0} jobs/s, {:.2} of a plain insert and commit ({plain:.0})",
            format!("enqueue by SQL, one each, {clients} clients"),
            asked / plain
        );
    }
    let mut sets = vec![];
    for round in 0..ROUNDS {
        let keys: Vec<String> = (0..ROWS).map(|n| format!("set-{round}-{n}")).collect();
        let args: Vec<Value> = keys.iter().map(|key| gift(key)).collect();
        let begun = Instant::now();
        let taken: i64 = sqlx::query_scalar(SET).bind(&keys).bind(&args).fetch_one(&mut *pool.acquire().await?).await?;
        sets.push(ROWS as f64 / begun.elapsed().as_secs_f64());
        ensure!(taken == ROWS as i64, "{taken} of {ROWS} were taken");
    }
    crate::basics::terminal::say!("{:<42} {:>9.0} jobs/s", format!("a set of {ROWS} by SQL"), median(sets));
    Ok(())
}
