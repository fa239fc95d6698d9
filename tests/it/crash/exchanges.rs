//! Points whose workers are killed: granted, exchanged for a gift that is issued, or refused, or whose answer is lost; expired, withdrawn.

use serde_json::json;

use super::{
    points::Choose,
    scene::{Cast, Drive, Scene, TOO_MUCH},
};
use crate::{
    fleet::Fleet,
    point_jobs::{enqueue, exchange, grant},
};
use noshi::{
    db::PgPool,
    lab::simulator::{Command, Fault, Op, Provider},
    partners::gifts::trade_id,
};

/// What becomes of the exchange's gift.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gift {
    Issued,
    AnswerLost,
    Refused,
    /// No exchange: everything else that happens to points.
    None,
}

const fn scene(name: &'static str, gift: Gift, choose: Choose) -> Scene {
    Scene { name, cast: Cast::Points(gift), drive: Drive::Nothing, choose }
}

pub const EXCHANGES: [Scene; 4] = [
    scene("exchange, issued", Gift::Issued, Choose::All),
    scene("exchange, answer lost", Gift::AnswerLost, Choose::All),
    scene("exchange, refused", Gift::Refused, Choose::All),
    scene(
        "points",
        Gift::None,
        Choose::Only(&["points.before", "points.in_transaction", "local.before_commit", "local.after"]),
    ),
];

// Two lots of different ages, and two of a user who has nothing else and they are due.
const LOTS: &str = "select noshi.book_grant(clock_timestamp() - interval '3 days', 'acquire:test:' || n, u, 300, 'test', n::text,
    clock_timestamp() + life, null, null)
from (values (1, 'u1', interval '5 days'), (2, 'u1', interval '9 days'), (3, 'u2', '-1 hour'), (4, 'u2', '-2 hours')) as l(n, u, life)";

pub async fn set(fleet: &Fleet, gift: Gift) {
    let pool = &fleet.pool;
    sqlx::query(LOTS).execute(pool).await.expect("lots");
    match gift {
        Gift::Issued => _ = exchange(pool, "x", "u1", 500, 500).await,
        Gift::Refused => _ = exchange(pool, "x", "u1", 500, TOO_MUCH).await,
        Gift::AnswerLost => {
            let trade = Some(trade_id("Noshi", "exchange/x", 0));
            let (provider, op) = (Provider::AmazonIncentives.into(), Some(Op::Issue.into()));
            let fault = Fault::EffectThenReset;
            let script = Command::Script { provider, op, trade, fault, times: 1, seconds: Some(1) };
            fleet.control().apply(script).expect("a scripted fault");
            exchange(pool, "x", "u1", 500, 500).await;
        }
        Gift::None => {
            grant(pool, "new", "u3", 50).await;
            enqueue(pool, "point_expiry", "2999-01-01T00:00:00Z", json!({"due": "2999-01-01T00:00:00Z"})).await;
            enqueue(pool, "point_withdrawal", "u1", json!({"user": "u1"})).await;
        }
    }
}

/// Whether every job came to its end, and the points are where they should be. What must hold always, the checker has judged.
pub async fn ends(pool: &PgPool, gift: Gift, deaths: usize) -> Result<(), String> {
    let jobs: Vec<(String, String, String, Option<String>)> =
        sqlx::query_as("select kind, status::text, at, code from noshi.job order by kind")
            .fetch_all(pool)
            .await
            .map_err(|error| format!("the jobs cannot be read: {error}"))?;
    let jobs: Vec<(&str, &str, Option<&str>)> =
        jobs.iter().map(|(kind, status, _, code)| (kind.as_str(), status.as_str(), code.as_deref())).collect();
    let refused = [
        ("gift_issuance", "failed", Some("gift_refused")),
        ("point_exchange", "completed", None),
        ("point_reversal", "completed", None),
    ];
    let (right, u1) = match gift {
        Gift::Issued | Gift::AnswerLost => {
            (jobs == [("gift_issuance", "completed", None), ("point_exchange", "completed", None)], 100)
        }
        Gift::Refused if jobs == refused => (true, 600),
        // A refusal of the second call does not tell what became of the first: the points stay used.
        Gift::Refused => {
            let doubt =
                [("gift_issuance", "needs_operator", Some("doubt_unresolved")), ("point_exchange", "completed", None)];
            (deaths > 0 && jobs == doubt, 100)
        }
        Gift::None => (jobs.len() == 3 && jobs.iter().all(|(_, status, _)| *status == "completed"), 0),
    };
    let balances: Vec<i64> = sqlx::query_scalar("select noshi.point_balance(u) from unnest(array['u1', 'u2', 'u3']) u")
        .fetch_all(pool)
        .await
        .map_err(|error| format!("the balances cannot be read: {error}"))?;
    let expired: i64 = sqlx::query_scalar("select count(*) from noshi.point_entry where kind = 'expire'")
        .fetch_one(pool)
        .await
        .map_err(|error| format!("the journal cannot be read: {error}"))?;
    let (u3, expiries) = if gift == Gift::None { (50, 2) } else { (0, 0) };
    if !right || balances != [u1, 0, u3] || expired != expiries {
        return Err(format!("{jobs:?}, balances {balances:?}, {expired} expiries"));
    }
    Ok(())
}
