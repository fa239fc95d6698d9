//! A re-drive, watched until it ends or stands still.

use anyhow::bail;
use std::time::Duration;

use super::show::how_far;
use crate::{
    basics::terminal::{
        note,
        progress::{self, Progress},
    },
    db::{PgPool, operator::redrive},
};

pub(super) const BETWEEN_LOOKS: Duration = Duration::from_millis(500);

pub(super) const LOOKS_WITHOUT_CHANGE: u32 = 20;

/// Tells how far it is, until every job was asked and is at rest, or nothing goes on. Whoever stops watching stops nothing.
pub(super) async fn watch(pool: &PgPool, number: i64) -> anyhow::Result<()> {
    let mut told = String::new();
    let kept = format!(
        "the fleet goes on; `noshi redrive pause {number} --reason …` holds it, `noshi redrive show {number}` tells"
    );
    let mut bar: Option<Progress> = None;
    let mut unchanged = 0;
    loop {
        // A database that is away for a moment ends no re-drive.
        match redrive::one(pool, number).await {
            Ok(Some(r)) => {
                let now = how_far(&r);
                let bar = bar.get_or_insert_with(|| {
                    progress::keep(kept.as_str());
                    Progress::begin("jobs at rest", u64::try_from(r.jobs).ok())
                });
                bar.at(u64::try_from(r.completed + r.failed + r.parked + r.drifted).unwrap_or(0));
                if now != told {
                    if bar.is_drawn() {
                        bar.say(&format!("{} asked, {} parked again;", r.asked, r.parked));
                    } else {
                        note!("{now}");
                    }
                    told = now;
                    unchanged = 0;
                }
                unchanged += 1;
                if unchanged == LOOKS_WITHOUT_CHANGE {
                    note!("{}", standstill(pool, number).await);
                }
                if (r.status == "done" && r.open == 0) || !matches!(r.status.as_str(), "running" | "done") {
                    return Ok(());
                }
            }
            Ok(None) => bail!("there is no re-drive {number}"),
            Err(error) => tracing::warn!(%error, "the re-drive could not be looked at; trying again"),
        }
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
}

/// Why nothing moves, as far as it can be told.
pub(super) async fn standstill(pool: &PgPool, number: i64) -> String {
    match redrive::held_lanes(pool, number).await {
        Ok(held) if !held.is_empty() => format!(
            "nothing moved for a while: jobs of it wait in {}; `noshi lane show` tells since when and why",
            held.join(", ")
        ),
        Ok(_) | Err(_) => {
            "nothing moved for a while; the workers carry it out: `noshi worker list` shows them".to_owned()
        }
    }
}
