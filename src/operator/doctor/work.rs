//! The work: jobs, locks, clocks, lanes.

use std::time::{Duration, Instant};

use super::findings::{Findings, Health};
use crate::{
    basics::instants,
    db::{
        PgConnection, PgPool, holders,
        operator::{doctor, jobs, restore},
        queue::lanes,
    },
    operator::explain::seconds,
};

pub(super) async fn look_at_work(pool: &PgPool, it: &mut Findings) -> anyhow::Result<()> {
    let workers = jobs::workers(pool).await?;
    let alive = workers.iter().filter(|worker| worker.status == "alive").count();
    it.check(
        "workers",
        alive > 0,
        Health::Bad,
        format!("{alive} alive"),
        "nothing moves: start one with `noshi worker run`",
    );
    let is_read = doctor::timeline_is_read(pool).await?;
    it.check(
        "timeline",
        is_read,
        Health::Fair,
        if is_read { "a failover shows by it" } else { "this host lets nobody read it" },
        "workers take a failover for a restart, and a replaced server that still answers for the one that replaced it. Ask the host for `pg_current_wal_lsn` (wal_level = logical on Aurora); else, after each failover, mark a restore (ops/docs/backup.md)",
    );
    let vacuum = doctor::vacuum(pool).await?;
    let dead = format!("{} dead rows beside {} in noshi.job", vacuum.dead, vacuum.live);
    it.check(
        "vacuum",
        vacuum.dead < 10_000 + vacuum.live / 5,
        Health::Fair,
        dead,
        "vacuum does not keep up: look for what holds it back below, then `vacuum noshi.job`",
    );
    match (vacuum.oldest, vacuum.oldest_pid) {
        (Some(age), Some(pid)) if age > 300.0 => {
            let found = format!("process {pid} has held a snapshot for {}", seconds(age));
            it.wrong(
                "snapshots",
                Health::Fair,
                found,
                format!("claims slow down until it ends: `select pg_terminate_backend({pid})` if nobody needs it"),
            );
        }
        _ => it.good("snapshots", "none is old"),
    }
    let waiting = doctor::waiting(pool).await?;
    let parked = format!("{} ask for a person, {} in doubt", waiting.parked, waiting.in_doubt);
    it.check(
        "questions",
        waiting.parked == 0,
        Health::Fair,
        parked,
        "`noshi job list --status needs_operator`, then the runbook's page of each code",
    );
    let lanes = waiting.unknown_lanes.join(", ");
    it.check(
        "lanes of jobs",
        waiting.unknown_lanes.is_empty(),
        Health::Bad,
        if lanes.is_empty() { "all known".to_owned() } else { format!("jobs wait in {lanes}") },
        "no worker has this partner in its settings: name it there",
    );
    let kinds = waiting.unknown_kinds.join(", ");
    it.check(
        "kinds of jobs",
        waiting.unknown_kinds.is_empty(),
        Health::Fair,
        if kinds.is_empty() { "all known".to_owned() } else { format!("jobs wait that are {kinds}") },
        "they wait for a newer version; if there is none, the producer's kind is misspelt: nothing was done for them",
    );
    Ok(())
}

/// Transactions that hold locks for long: acts that need these fail meanwhile. Where this login may not see when one began, it is watched.
pub(super) async fn look_at_holders(connection: &mut PgConnection, it: &mut Findings) -> anyhow::Result<()> {
    const LONG: Duration = Duration::from_secs(10);
    let begun = Instant::now();
    let mut held = holders::of(connection, "").await?;
    held.retain(|holder| holder.since.is_none_or(|since| since > LONG.as_secs_f64()));
    while held.iter().any(|holder| holder.since.is_none()) && begun.elapsed() < LONG {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let now = holders::of(connection, "").await?;
        held.retain(|holder| holder.since.is_some() || now.iter().any(|it| it.transaction == holder.transaction));
    }
    let found: Vec<String> = held.iter().map(holders::Holder::to_string).collect();
    it.check(
        "open transactions",
        held.is_empty(),
        Health::Fair,
        if held.is_empty() { "none holds locks for long".to_owned() } else { found.join(", ") },
        "acts on what it holds fail until it ends: ask whoever uses that login; the owner of the database ends it with `select pg_terminate_backend(PROCESS)`, and it did nothing then",
    );
    Ok(())
}

pub(super) async fn look_at_clocks(pool: &PgPool, it: &mut Findings) -> anyhow::Result<()> {
    let (ahead, apart) = doctor::dated_ahead(pool).await?;
    it.check(
        "clocks of workers",
        apart == 0,
        Health::Bad,
        if apart == 0 { "with the database's".to_owned() } else { format!("{apart} are over a minute from the database's") },
        "nothing falls due, expires or is pruned by them until they agree: fix the time service of that machine, or of the database's",
    );
    it.none_of(
        "dates ahead",
        Health::Fair,
        &ahead,
        "none",
        "the clock was ahead when they were written, and history is not rewritten: see the runbook, NoshiClockWentBack",
    );
    Ok(())
}

pub(super) async fn look_at_restores(pool: &PgPool, it: &mut Findings) -> anyhow::Result<()> {
    match restore::point(pool).await? {
        None => it.good("restores", "none is marked"),
        Some(point) => it.wrong(
            "restores",
            Health::Fair,
            format!("marked as restored to {}", instants::show(point)),
            "gifts are bought only after their partner was asked, or park: once what happened after that point is known, `noshi restore end`",
        ),
    }
    Ok(())
}

/// A worker is believed when it misses what was acknowledged to it, since nobody else can know: so it is told who it was.
pub(super) async fn look_at_losses(pool: &PgPool, it: &mut Findings) -> anyhow::Result<()> {
    let told = doctor::told_losses(pool).await?;
    let said: Vec<String> = told
        .iter()
        .map(|(who, what, in_doubt)| format!("{who} said that {what}, and put {in_doubt} jobs in doubt"))
        .collect();
    let found = if said.is_empty() { "no worker missed anything this week".to_owned() } else { said.join("; ") };
    let advice = "right after a failover, or an old copy of the database, that is meant. Where there was neither, that login says what is not so: \
                  see the runbook, NoshiCommitsLost, and `noshi audit list --target database`";
    it.check("losses", told.is_empty(), Health::Fair, found, advice);
    Ok(())
}

/// What people did that others should see soon.
pub(super) async fn look_at_acts(pool: &PgPool, it: &mut Findings) -> anyhow::Result<()> {
    let changed = doctor::changed_retention(pool).await?;
    it.none_of("retention", Health::Fair, &changed, "unchanged for a week", "what is removed from the archive is gone for ever, and its codes can be shown no more: if nobody meant it, `noshi retention set --archive-for …` puts it back");
    let stuck = doctor::stuck_redrives(pool).await?;
    it.none_of("re-drives", Health::Bad, &stuck, "none is stuck", "no further job of it is asked: fix what it says, then `noshi redrive resume`, or `noshi redrive cancel`; one that waits for its turn needs a worker");
    let of_one = doctor::logins_of_one(pool).await?;
    it.none_of("logins", Health::Fair, &of_one, "each a person of its own", "they differ by capitals or spaces alone and count as one person, who approves nothing of the other's: rename or drop one");
    Ok(())
}

pub(super) async fn look_at_lanes(pool: &PgPool, it: &mut Findings) -> anyhow::Result<()> {
    let shut: Vec<String> = lanes::list(pool)
        .await?
        .into_iter()
        .filter(|lane| lane.paused || lane.closed_code.is_some())
        .map(|lane| format!("{} ({})", lane.name, lane.closed_code.as_deref().unwrap_or("paused")))
        .collect();
    let found = if shut.is_empty() { "all open".to_owned() } else { shut.join(", ") };
    it.check("lanes", shut.is_empty(), Health::Fair, found, "fix the cause, then `noshi lane resume LANE`");
    let beyond = doctor::lanes_out_of_turn(pool).await?;
    it.none_of("turns", Health::Fair, &beyond, "in order", "a worker's login wrote vtime of these lanes: jobs go on, but a large request is no longer mixed with the others. See whose login that is; then the schema's owner sets it to the highest rank below 10^14 of the lane's jobs");
    Ok(())
}

pub(super) async fn look_at_tokens(pool: &PgPool, it: &mut Findings) -> anyhow::Result<()> {
    let ended = doctor::ended_tokens(pool).await?;
    it.none_of("tokens", Health::Fair, &ended, "each is its login's", "their login is gone, locked or no operator any more, so they open nothing: `noshi token revoke` ends them for good, also where that login comes back");
    Ok(())
}

/// What partners must never say: that two gifts are one card.
pub(super) async fn look_at_cards(pool: &PgPool, it: &mut Findings) -> anyhow::Result<()> {
    let cards = doctor::cards_of_two(pool).await?;
    it.none_of("cards", Health::Bad, &cards, "of the last week each is one gift's", "two users may have one value, of which the second to use it gets nothing: ask the partner which trade the card is of, and have the other issued anew by it");
    Ok(())
}
