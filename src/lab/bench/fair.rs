//! Fairness at one lane: a single user and a batch of ten, behind a batch of very many rows.

use std::{fmt::Write, time::Duration};

use anyhow::{Context, ensure};
use noshi_jobs::Kind;
use serde_json::json;

use crate::{
    db::{self, PgPool, Role, domain::batches},
    intake::FileKind,
    lab::{
        demo::script::submit,
        fleet::{
            stage::{Manners, Stage},
            workers::Fleet,
        },
        private_postgres::PrivatePostgres,
        simulator::PerProvider,
    },
};

/// Calls a second: what Amazon takes.
const LIMIT: u32 = 10;
/// Two busy workers and their database share the machine.
const JITTER: Duration = Duration::from_millis(100);
const WORKERS: usize = 2;
const TEN: usize = 10;
/// A user waits in front of a page.
const MAX_FOR_A_USER: f64 = 2.0;

fn csv(prefix: &str, rows: usize) -> String {
    let mut text = "grant_id,user_id,category,amount,currency\n".to_owned();
    for n in 0..rows {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{prefix}-{n:06},{prefix}-user-{n},amazon,500,JPY");
    }
    text
}

/// Prints how long each waited, and fails where it was too long.
pub async fn run(server: &PrivatePostgres, rows: usize) -> anyhow::Result<()> {
    let limits = PerProvider { amazon_incentives: LIMIT, gift_on_demand: LIMIT, tango_card: LIMIT };
    let manners = Manners { seed: 1, faults: false, limits, jitter: JITTER, lag: crate::lab::fleet::stage::SETTLE };
    let stage = Stage::set(server, &manners).await?;
    let mut fleet = Fleet::start(&stage, WORKERS)?;
    let pool = db::connect(&stage.url, Role::Login, 2).await?;
    submit(&stage, "many.csv", &csv("many", rows), FileKind::Grants).await?;
    // The many are in the lane, and have been for a while.
    until(&pool, "select count(*) >= 150 from noshi.job where kind = 'gift_issuance' and status = 'completed'").await?;

    let args =
        json!({"grant": "single", "user": "u", "category": "amazon", "value": {"amount": 500, "currency": "JPY"}});
    let single = [("single".to_owned(), args)];
    db::enqueue::enqueue(&mut *pool.acquire().await?, Kind::GiftIssuance, &single, true).await?;
    let (batch, _) = submit(&stage, "ten.csv", &csv("ten", TEN), FileKind::Grants).await?;
    until(
        &pool,
        "select count(*) = 11 from noshi.job where key like any (array['ten-%', 'single']) and status = 'completed'",
    )
    .await?;
    let user: f64 = sqlx::query_scalar(
        "select extract(epoch from min(e.happened_at) - min(j.created_at))::float8 from noshi.job j
         join noshi.job_event e on e.job = j.id and e.event = 'claimed' and e.was = 'issuing' where j.key = 'single'",
    )
    .fetch_one(&pool)
    .await?;
    let ten: f64 = sqlx::query_scalar(
        "select extract(epoch from max(finished_at) - min(created_at))::float8 from noshi.job where batch = $1",
    )
    .bind(batch)
    .fetch_one(&pool)
    .await?;
    let behind: i64 =
        sqlx::query_scalar("select count(*) from noshi.job where key like 'many-%' and status <> 'completed'")
            .fetch_one(&pool)
            .await?;
    fleet.stop().await;
    stage.simulator.stop().await?;
    // What the lane hands out, so that no window at the receiver holds more than the limit.
    let rate = f64::from(LIMIT) / (1.0 + JITTER.as_secs_f64());
    let bound = 2.0 * TEN as f64 / rate;
    let what = format!("behind {behind} gifts in a lane of {LIMIT} calls/s");
    crate::basics::terminal::say!(
        "{what:<42} a user's call began after {user:.2} s; a batch of {TEN} was done after {ten:.2} s (bound {bound:.2})"
    );
    ensure!(user <= MAX_FOR_A_USER, "a user waited too long");
    ensure!(ten <= bound, "a small batch waited too long");
    let progress = batches::progress(&pool, Some(batch), 1).await?;
    ensure!(progress.first().context("the batch is gone")?.holds, "the batch does not add up");
    Ok(())
}

async fn until(pool: &PgPool, sql: &'static str) -> anyhow::Result<()> {
    while !sqlx::query_scalar::<_, bool>(sql).fetch_one(pool).await? {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
