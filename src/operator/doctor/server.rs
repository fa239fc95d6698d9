//! The server, its standbys, and what lies beneath.

use std::time::Instant;

use super::findings::{Findings, Health};
use crate::db::{PgConnection, operator::doctor};

pub(super) async fn look_at_server(connection: &mut PgConnection, it: &mut Findings) -> anyhow::Result<()> {
    let begun = Instant::now();
    let server = doctor::server(connection).await?;
    let lead = doctor::clock_lead(&server, begun.elapsed());
    it.check(
        "version",
        server.version >= 150_000,
        Health::Bad,
        format!("PostgreSQL {}", server.version / 10_000),
        "upgrade to PostgreSQL 15 or newer",
    );
    it.check(
        "primary",
        !server.in_recovery,
        Health::Bad,
        if server.in_recovery { "a standby" } else { "takes writes" },
        "connect to the primary",
    );
    for (what, value, why) in [
        (
            "synchronous_commit",
            &server.synchronous_commit,
            "an acknowledged intent could be lost with the server: set synchronous_commit = on (noshi also sets it for its own sessions)",
        ),
        ("fsync", &server.fsync, "a crash of the machine could lose what was acknowledged: set fsync = on"),
        (
            "full_page_writes",
            &server.full_page_writes,
            "a crash of the machine could tear pages: set full_page_writes = on",
        ),
        ("autovacuum", &server.autovacuum, "the job table would bloat, and claims slow down: set autovacuum = on"),
    ] {
        let firm = matches!(value.as_str(), "on" | "remote_apply" | "remote_write");
        let bad = if what == "autovacuum" || what == "synchronous_commit" { Health::Fair } else { Health::Bad };
        it.check(what, firm, bad, value.clone(), why);
    }
    look_at_standbys(&server, it);
    let clock = format!("{lead:+.1} s beside this machine's");
    it.check(
        "clock",
        lead.abs() < 5.0,
        Health::Fair,
        clock,
        "noshi goes by the database's clock alone; logs of the two will not agree: look at NTP on both",
    );
    let left = format!("{} left", server.connections_left);
    it.check(
        "connections",
        server.connections_left >= 20,
        Health::Fair,
        left,
        "a worker takes 11, the API 8: raise max_connections or stop something",
    );
    let logged = if server.logs_parameters { "with their parameters" } else { "without parameters" };
    it.check(
        "server log",
        !server.logs_parameters,
        Health::Fair,
        format!("statements are logged {logged}"),
        "codes and addresses are sealed before, but ids of users and digests of tokens are not: set log_parameter_max_length = 0",
    );
    look_at_prepared(connection, &server, it).await?;
    let used = format!("{:.0} % full", 100.0 * server.notification_queue);
    it.check(
        "notifications",
        server.notification_queue < 0.1,
        if server.notification_queue < 0.5 { Health::Fair } else { Health::Bad },
        used,
        "when it is full, releases, resumes and requests that notify fail at their commit, and did nothing: end the session that listens and sleeps in a transaction (runbook, NoshiNotificationQueueFull)",
    );
    Ok(())
}

/// No session can be ended for a prepared transaction: whoever wants what it holds waits for ever, also over restarts.
async fn look_at_prepared(
    connection: &mut PgConnection,
    server: &doctor::Server,
    it: &mut Findings,
) -> anyhow::Result<()> {
    let holders = doctor::prepared_holders(connection).await?;
    if !holders.is_empty() {
        let fix = "noshi prepares none. Acts and jobs that need what it holds wait, and nothing is paid twice: its owner or a superuser ends it with `rollback prepared 'NAME'`, and it did nothing then";
        it.wrong("two-phase", Health::Bad, format!("holds rows of noshi: {}", holders.join("; ")), fix);
        return Ok(());
    }
    it.check(
        "two-phase",
        server.prepared_transactions == 0,
        Health::Fair,
        format!("{} prepared", server.prepared_transactions),
        "a forgotten prepared transaction keeps vacuum from its work: commit or roll it back (pg_prepared_xacts)",
    );
    Ok(())
}

/// Whether a failover can lose what was acknowledged.
pub(super) fn look_at_standbys(server: &doctor::Server, it: &mut Findings) {
    let local = matches!(server.synchronous_commit.as_str(), "local" | "off");
    match (server.standbys, server.commits_wait) {
        (0, false) => it.good("standbys", "none: a failover is a restore"),
        (0, true) => it.wrong(
            "standbys",
            Health::Bad,
            "commits wait for a standby, and none streams",
            "bring the standby back: until then every step waits, and waits that are cancelled are commits that a failover loses",
        ),
        (found, true) if !local => it.good("standbys", format!("{found}, and commits wait for them")),
        (found, waits) => {
            let found = match waits {
                true => format!("{found}, and commits with synchronous_commit = {} do not wait", server.synchronous_commit),
                false => format!("{found}, and no commit waits for them"),
            };
            let fix = "a failover can lose the last commits: the workers notice, and what may have been called is in doubt. \
                        Name the standbys in synchronous_standby_names, with synchronous_commit = on";
            it.wrong("standbys", Health::Fair, found, fix);
        }
    }
}

/// What changes beneath a database: the order of its texts, and what keeps dead rows in it.
pub(super) async fn look_beneath(connection: &mut PgConnection, it: &mut Findings) -> anyhow::Result<()> {
    let orders = doctor::changed_orders(connection).await?;
    it.none_of("order of texts", Health::Bad, &orders, "as the indexes were built", "an id that exists may not be found and be taken again: stop producers and workers, `reindex database`, then `alter database … refresh collation version`");
    let clear = doctor::is_in_the_clear(connection).await?;
    it.check(
        "privacy",
        !clear,
        Health::Fair,
        if clear { "this connection is in the clear".to_owned() } else { "nobody between here and the server reads along".to_owned() },
        "names, ids and digests of tokens can be read on the way: serve TLS, and add `sslmode=verify-full` to DATABASE_URL",
    );
    let held = doctor::held_back(connection).await?;
    it.none_of("held back", Health::Fair, &held, "by no slot and no prepared transaction", "dead rows stay, and claims slow down: drop a slot that nobody uses (pg_drop_replication_slot), end a prepared transaction that was forgotten");
    Ok(())
}
