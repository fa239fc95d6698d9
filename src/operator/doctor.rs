//! Is everything here that the promises rest on? Each fault comes with how to fix it.

pub mod findings;
mod keys;
mod server;
mod work;

use std::time::Instant;

use findings::{Findings, Health};
use keys::{look_at_keys, look_at_readings, look_at_reveals, look_at_suppressions};
use server::{look_at_server, look_beneath};
use work::{
    look_at_acts, look_at_cards, look_at_clocks, look_at_holders, look_at_lanes, look_at_losses, look_at_restores,
    look_at_tokens, look_at_work,
};

use crate::{
    db::{self, PgConnection, Role, operator::doctor, reach, schema},
    settings::Settings,
};

pub async fn examine(url: &str, settings: &anyhow::Result<Settings>, it: &mut Findings) -> anyhow::Result<()> {
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
        let fix = "connect directly or through a pooler in session mode: roles and time-outs are set per session";
        it.wrong("pooler", Health::Bad, "a session's settings are lost between its statements", fix);
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
    look_at_tokens(&pool, it).await?;
    look_at_cards(&pool, it).await?;
    look_at_restores(&pool, it).await?;
    look_at_losses(&pool, it).await?;
    look_at_acts(&pool, it).await?;
    look_at_keys(&pool, settings, it).await?;
    look_at_suppressions(&pool, it).await?;
    look_at_readings(&pool, it).await?;
    look_at_reveals(&pool, it).await?;
    look_at_link(it);
    Ok(())
}

/// Of all that was asked here.
fn look_at_link(it: &mut Findings) {
    let (silent, unfit) = db::connection::thrown_away();
    if silent + unfit == 0 {
        return it.good("link", "every answer came, from a server that takes writes");
    }
    let fix =
        "look at the network, the pooler and the NAT between this machine and the server, and where DATABASE_URL leads";
    let found = format!("{silent} connections fell silent, and {unfit} led to a server that takes no writes");
    it.wrong("link", Health::Fair, found, fix);
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
