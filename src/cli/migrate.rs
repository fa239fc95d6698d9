//! `noshi migrate`: the schema.

use clap::Subcommand;

use super::{Database, out::Out};
use crate::store::{self, schema};

#[derive(Subcommand)]
pub enum MigrateCommand {
    /// Brings the schema up to date.
    Up(Database),
    /// Which migrations are applied, and which are to come.
    Status(Database),
    /// The SQL of the migrations that are to come.
    Print(Database),
}

pub async fn run(out: Out, command: MigrateCommand) -> anyhow::Result<()> {
    match command {
        MigrateCommand::Up(database) => store::migrate(database.url()?).await,
        MigrateCommand::Status(database) => out.list(
            &schema::status(database.url()?).await?,
            &[
                ("MIGRATION", |line| format!("{:04}", line.version)),
                ("NAME", |line| line.name.clone()),
                ("STATUS", |line| line.status.to_owned()),
                ("APPLIED", |line| {
                    line.applied_at.map_or_else(String::new, |at| at.format("%Y-%m-%d %H:%M:%S").to_string())
                }),
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
