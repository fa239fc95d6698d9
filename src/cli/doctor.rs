//! `noshi doctor`: is everything here that the promises rest on? Each fault comes with how to mend it.

use std::time::{Duration, Instant};

use anyhow::bail;
use clap::Args;
use serde::Serialize;

use super::{Database, out::Out};
use crate::{
    basics::instants,
    db::{
        self, PgConnection, PgPool, Role, holders,
        operator::{doctor, jobs, restored},
        queue::{lanes, workers},
        reach, schema,
    },
    operator::explain::seconds,
    settings::Settings,
};

#[derive(Args)]
pub struct DoctorArgs {
    #[command(flatten)]
    database: Database,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Health {
    Good,
    /// Promises hold; something will be slow, or wants a look.
    Fair,
    /// A promise does not hold.
    Bad,
}

#[derive(Debug, Serialize)]
struct Finding {
    what: &'static str,
    health: Health,
    found: String,
    mend: Option<String>,
}

/// What was found, one by one.
#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn good(&mut self, what: &'static str, found: impl Into<String>) {
        self.0.push(Finding { what, health: Health::Good, found: found.into(), mend: None });
    }

    fn wrong(&mut self, what: &'static str, health: Health, found: impl Into<String>, mend: impl Into<String>) {
        self.0.push(Finding { what, health, found: found.into(), mend: Some(mend.into()) });
    }

    fn check(&mut self, what: &'static str, holds: bool, bad: Health, found: impl Into<String>, mend: &str) {
        if holds { self.good(what, found) } else { self.wrong(what, bad, found, mend) }
    }
}

pub async fn run(settings: &anyhow::Result<Settings>, out: Out, args: DoctorArgs) -> anyhow::Result<()> {
    let url = args.database.url()?;
    let mut findings = Findings::default();
    match examine(url, settings, &mut findings).await {
        Ok(()) => {}
        Err(error) => findings.wrong(
            "examination",
            Health::Bad,
            format!("{error:#}"),
            "mend what stands above, and run this again",
        ),
    }
    let bad = findings.0.iter().filter(|it| it.health == Health::Bad).count();
    out.list(
        "",
        &findings.0,
        &[
            ("", |it| match it.health {
                Health::Good => "good".to_owned(),
                Health::Fair => "LOOK".to_owned(),
                Health::Bad => "BAD".to_owned(),
            }),
            ("WHAT", |it| it.what.to_owned()),
            ("FOUND", |it| it.found.clone()),
            ("TO MEND IT", |it| it.mend.clone().unwrap_or_default()),
        ],
    )?;
    if bad > 0 {
        bail!("{bad} of {} checks are bad", findings.0.len());
    }
    Ok(())
}

async fn examine(url: &str, settings: &anyhow::Result<Settings>, it: &mut Findings) -> anyhow::Result<()> {
    let begun = Instant::now();
    let mut connection = match reach::login(url).await {
        Ok(connection) => connection,
        Err(error) => {
            it.wrong(
                "connection",
                Health::Bad,
                format!("{error:#}"),
                "check DATABASE_URL, and that the server runs and lets this login in",
            );
            return Ok(());
        }
    };
    it.good("connection", format!("in {} ms", begun.elapsed().as_millis()));
    look_at_server(&mut connection, it).await?;
    look_beneath(&mut connection, it).await?;
    if !look_at_schema(&mut connection, it).await? {
        return Ok(());
    }
    if !doctor::sessions_hold(url).await? {
        let mend = "connect directly or through a pooler in session mode: roles and time-outs are set per session";
        it.wrong("pooler", Health::Bad, "a session's settings are lost between its statements", mend);
        return Ok(());
    }
    it.good("pooler", "none, or one in session mode");
    let pool = match db::connect(url, Role::Operator, 1).await {
        Ok(pool) => pool,
        Err(error) => {
            it.wrong(
                "role",
                Health::Fair,
                format!("{error:#}"),
                "the rest is for an operator's login: grant noshi_operator to it",
            );
            return Ok(());
        }
    };
    look_at_holders(&mut connection, it).await?;
    look_at_work(&pool, it).await?;
    look_at_clocks(&pool, it).await?;
    look_at_lanes(&pool, it).await?;
    look_at_restores(&pool, it).await?;
    look_at_keys(&pool, settings, it).await?;
    look_at_suppressions(&pool, it).await?;
    look_at_link(it);
    Ok(())
}

/// Of all that was asked here.
fn look_at_link(it: &mut Findings) {
    let (silent, unfit) = db::pool::thrown_away();
    if silent + unfit == 0 {
        return it.good("link", "every answer came, from a server that takes writes");
    }
    let mend =
        "look at the network, the pooler and the NAT between this machine and the server, and where DATABASE_URL leads";
    let found = format!("{silent} connections fell silent, and {unfit} led to a server that takes no writes");
    it.wrong("link", Health::Fair, found, mend);
}

async fn look_at_server(connection: &mut PgConnection, it: &mut Findings) -> anyhow::Result<()> {
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
    let prepared = format!("{} prepared", server.prepared_transactions);
    it.check(
        "two-phase",
        server.prepared_transactions == 0,
        Health::Fair,
        prepared,
        "a forgotten prepared transaction keeps vacuum from its work: commit or roll it back (pg_prepared_xacts)",
    );
    Ok(())
}

/// Whether a failover can lose what was acknowledged.
fn look_at_standbys(server: &doctor::Server, it: &mut Findings) {
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
            let mend = "a failover can lose the last commits: the workers notice, and what may have been called is in doubt. \
                        Name the standbys in synchronous_standby_names, with synchronous_commit = on";
            it.wrong("standbys", Health::Fair, found, mend);
        }
    }
}

/// What changes beneath a database: the order of its texts, and what keeps dead rows in it.
async fn look_beneath(connection: &mut PgConnection, it: &mut Findings) -> anyhow::Result<()> {
    let orders = doctor::changed_orders(connection).await?;
    it.check(
        "order of texts",
        orders.is_empty(),
        Health::Bad,
        if orders.is_empty() { "as the indexes were built".to_owned() } else { orders.join("; ") },
        "an id that exists may not be found and be taken again: stop producers and workers, `reindex database`, then `alter database … refresh collation version`",
    );
    let clear = doctor::is_in_the_clear(connection).await?;
    it.check(
        "privacy",
        !clear,
        Health::Fair,
        if clear { "this connection is in the clear".to_owned() } else { "nobody between here and the server reads along".to_owned() },
        "names, ids and digests of tokens can be read on the way: serve TLS, and add `sslmode=verify-full` to DATABASE_URL",
    );
    let held = doctor::held_back(connection).await?;
    it.check(
        "held back",
        held.is_empty(),
        Health::Fair,
        if held.is_empty() { "by no slot and no prepared transaction".to_owned() } else { held.join("; ") },
        "dead rows stay, and claims slow down: drop a slot that nobody uses (pg_drop_replication_slot), end a prepared transaction that was forgotten",
    );
    Ok(())
}

/// Whether there is a schema to look further into.
async fn look_at_schema(connection: &mut PgConnection, it: &mut Findings) -> anyhow::Result<bool> {
    let roles = doctor::roles(connection).await?;
    let found = if roles.is_empty() { "none".to_owned() } else { roles.join(", ") };
    it.check(
        "roles",
        !roles.is_empty(),
        Health::Fair,
        found,
        "grant this login the role that it acts in (ops/docs/operating.md, The database)",
    );
    if schema::is_hidden(connection).await? {
        it.wrong(
            "migrations",
            Health::Fair,
            "this login may not see which are applied".to_owned(),
            "ask as an operator, or as the login that owns the database; if that cannot either, run `noshi migrate up` to its end",
        );
        return Ok(false);
    }
    match schema::counts(connection).await {
        Ok((0, 0)) => it.good("migrations", "all applied"),
        Ok((0, unknown)) => it.wrong(
            "migrations",
            Health::Fair,
            format!("{unknown} are of a newer version"),
            "this program is older than the schema: that is meant during an upgrade only",
        ),
        Ok((pending, _)) => {
            it.wrong("migrations", Health::Bad, format!("{pending} are not applied"), "run `noshi migrate up`");
            return Ok(false);
        }
        // The list of migrations belongs to the login that applied them.
        Err(error) => it.wrong(
            "migrations",
            Health::Fair,
            error.to_string(),
            "run `noshi migrate status` with the login that migrates",
        ),
    }
    Ok(true)
}

async fn look_at_work(pool: &PgPool, it: &mut Findings) -> anyhow::Result<()> {
    let workers = jobs::workers(pool).await?;
    let alive = workers.iter().filter(|worker| worker.status == "alive").count();
    it.check(
        "workers",
        alive > 0,
        Health::Bad,
        format!("{alive} alive"),
        "nothing moves: start one with `noshi worker run`",
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
async fn look_at_holders(connection: &mut PgConnection, it: &mut Findings) -> anyhow::Result<()> {
    const LONG: Duration = Duration::from_secs(10);
    let begun = Instant::now();
    let mut held = holders::of(connection, "").await?;
    held.retain(|holder| holder.since.is_none_or(|since| since > LONG.as_secs_f64()));
    while held.iter().any(|holder| holder.since.is_none()) && begun.elapsed() < LONG {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let now = holders::of(connection, "").await?;
        held.retain(|holder| holder.since.is_some() || now.contains(holder));
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

async fn look_at_clocks(pool: &PgPool, it: &mut Findings) -> anyhow::Result<()> {
    let (ahead, apart) = doctor::dated_ahead(pool).await?;
    it.check(
        "clocks of workers",
        apart == 0,
        Health::Bad,
        if apart == 0 { "with the database's".to_owned() } else { format!("{apart} are over a minute from the database's") },
        "nothing falls due, expires or is pruned by them until they agree: mend the time service of that machine, or of the database's",
    );
    it.check(
        "dates ahead",
        ahead.is_empty(),
        Health::Fair,
        if ahead.is_empty() { "none".to_owned() } else { ahead.join(", ") },
        "the clock was ahead when they were written, and history is not rewritten: see the runbook, NoshiClockWentBack",
    );
    Ok(())
}

async fn look_at_restores(pool: &PgPool, it: &mut Findings) -> anyhow::Result<()> {
    match restored::point(pool).await? {
        None => it.good("restores", "none is marked"),
        Some(point) => it.wrong(
            "restores",
            Health::Fair,
            format!("marked as restored to {}", instants::show(point)),
            "gifts are bought only after their partner was asked, or park: once what happened after that point is known, `noshi restored end`",
        ),
    }
    Ok(())
}

async fn look_at_lanes(pool: &PgPool, it: &mut Findings) -> anyhow::Result<()> {
    let shut: Vec<String> = lanes::list(pool)
        .await?
        .into_iter()
        .filter(|lane| lane.paused || lane.closed_code.is_some())
        .map(|lane| format!("{} ({})", lane.name, lane.closed_code.as_deref().unwrap_or("paused")))
        .collect();
    let found = if shut.is_empty() { "all open".to_owned() } else { shut.join(", ") };
    it.check("lanes", shut.is_empty(), Health::Fair, found, "mend the cause, then `noshi lane resume LANE`");
    Ok(())
}

/// Where files and events are taken in and nothing is opened: what is sealed has to be of use to the workers.
async fn look_at_public_key(pool: &PgPool, settings: &Settings, it: &mut Findings) -> anyhow::Result<()> {
    let sealer = match settings.sealer() {
        Ok(sealer) => sealer,
        Err(error) => {
            it.wrong("keys", Health::Bad, format!("{error:#}"), "mend the public key file");
            return Ok(());
        }
    };
    let key = sealer.current_key();
    let without = workers::without_key(pool, key).await?;
    let without: Vec<String> = without.iter().map(|(id, name, _)| format!("{id} ({name})")).collect();
    let found = match without.is_empty() {
        true => format!("seals to the key {key}, and opens nothing"),
        false => format!("seals to the key {key}, which these workers do not say they have: {}", without.join(", ")),
    };
    let advice = "give the workers that key, or this host what `noshi vault public` prints on theirs; files and events go on to be sealed meanwhile";
    it.check("keys", without.is_empty(), Health::Bad, found, advice);
    Ok(())
}

/// Addresses that bounced wait for a worker that can open them.
async fn look_at_suppressions(pool: &PgPool, it: &mut Findings) -> anyhow::Result<()> {
    let waiting = doctor::undigested_addresses(pool).await?;
    let told: Vec<String> = waiting.iter().map(|(key, count)| format!("{count} under the key {key}")).collect();
    let found = if told.is_empty() { "all of them count".to_owned() } else { told.join(", ") };
    let advice = "mails still go to these addresses: start a worker that has the key, or look for `does not open` in the workers' logs";
    it.check("suppressed addresses", told.is_empty(), Health::Bad, found, advice);
    Ok(())
}

async fn look_at_keys(pool: &PgPool, settings: &anyhow::Result<Settings>, it: &mut Findings) -> anyhow::Result<()> {
    let settings = match settings {
        Ok(settings) => settings,
        Err(error) => {
            it.wrong(
                "settings",
                Health::Bad,
                format!("{error:#}"),
                "mend the file that NOSHI_CONFIG or --config names",
            );
            return Ok(());
        }
    };
    it.good("settings", "read");
    let sealed = doctor::sealed_keys(pool).await?;
    if settings.vault_key_file.is_none() && settings.vault_public_key_file.is_some() {
        return look_at_public_key(pool, settings, it).await;
    }
    if settings.vault_key_file.is_none() {
        it.check(
            "keys",
            sealed.is_empty(),
            Health::Bad,
            "no key file is named",
            "values are sealed in the database: name `vault_key_file` in the settings",
        );
        return Ok(());
    }
    match settings.vault() {
        Ok(vault) => {
            let missing: Vec<String> = sealed.into_iter().filter(|key| !vault.knows(key)).collect();
            let found = if missing.is_empty() {
                "every sealed value can be opened from here, as workers need it; nobody else does".to_owned()
            } else {
                format!("missing: {}", missing.join(", "))
            };
            it.check(
                "keys",
                missing.is_empty(),
                Health::Bad,
                found,
                "put the missing keys back into the key file; without them those values are lost",
            );
        }
        Err(error) => it.wrong("keys", Health::Bad, format!("{error:#}"), "mend the key file"),
    }
    match settings.partners() {
        Ok(_) => it.good("partners", "their settings and secrets can be read"),
        Err(error) => it.wrong("partners", Health::Bad, format!("{error:#}"), "mend that partner's settings"),
    }
    Ok(())
}
