//! `noshi migrate`: the schema.

use anyhow::Context;
use clap::Subcommand;
use serde_json::json;

use super::{Database, out::Out};
use crate::{
    basics::{instants, terminal::progress::Progress},
    db::{self, Role, operator::audit, schema},
};

#[derive(Subcommand)]
pub enum MigrateCommand {
    /// Brings the schema up to date.
    Up(Database),
    /// Which migrations are applied, and which are to come.
    Status(Database),
    /// The SQL of the migrations that are to come.
    Print(Database),
}

/// Says what was done, and what a person has who breaks it off.
async fn up(out: Out, url: &str) -> anyhow::Result<()> {
    let pending = schema::pending(url).await?;
    let to_come = pending.len();
    let progress = Progress::begin("migrating the schema", None)
        .kept(|_, _| "each migration is there whole or not at all; run `noshi migrate up` again".to_owned());
    db::migrate(url).await?;
    drop(progress);
    if let (Some(first), Some(last)) = (pending.first(), pending.last()) {
        let applied = json!({"from": first.version, "to": last.version, "version": super::VERSION});
        let pool = db::connect(url, Role::Login, 1).await?;
        audit::record(&pool, "migrate up", "schema", applied)
            .await
            .context("the migrations are applied, but the audit does not say so")?;
    }
    out.one(&json!({"applied": to_come}), |_| match to_come {
        0 => "the schema was up to date; nothing was done".to_owned(),
        _ => format!("the schema is up to date: {to_come} migrations were applied"),
    })
}

pub async fn run(out: Out, command: MigrateCommand) -> anyhow::Result<()> {
    match command {
        MigrateCommand::Up(database) => up(out, database.url()?).await,
        MigrateCommand::Status(database) => out.list(
            "no migration is known",
            &schema::status(database.url()?).await?,
            &[
                ("MIGRATION", |line| format!("{:04}", line.version)),
                ("NAME", |line| line.name.clone()),
                ("STATUS", |line| line.status.to_owned()),
                ("APPLIED", |line| line.applied_at.map_or_else(String::new, instants::show)),
            ],
        ),
        MigrateCommand::Print(database) => {
            let pending = schema::pending(database.url()?).await?;
            out.one(&pending, |pending| {
                let text = |m: &schema::Pending| format!("-- migration {:04} {}\n{}", m.version, m.name, m.sql);
                pending.iter().map(text).collect::<Vec<_>>().join("\n")
            })
        }
    }
}
