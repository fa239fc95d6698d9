//! `noshi token`: who may use the HTTP interface, and for what.

use std::time::Duration;

use clap::{Args, Subcommand};
use secrecy::ExposeSecret;
use serde_json::json;

use super::{Database, out::Out};
use crate::{
    basics::{durations, instants},
    db::{
        self, Role,
        operator::tokens::{self, NewToken},
    },
};

#[derive(Subcommand)]
pub enum TokenCommand {
    /// Makes a token and prints it, once: nobody can show it again. One that enqueues or reveals, or is in another's name, takes
    /// the login that owns the schema.
    Create(TokenCreate),
    /// Whose there are, what they may do, and when they end. Never the tokens themselves.
    List(Database),
    /// Ends a token: for what changes anything at once, for reads within a minute.
    Revoke(TokenRevoke),
}

#[derive(Args)]
pub struct TokenCreate {
    /// Whose identity it is: a system, or a person. Approvals know people by it.
    #[arg(long)]
    owner: String,
    /// What it may do.
    #[arg(long, value_delimiter = ',', required = true, value_parser = tokens::SCOPES)]
    scopes: Vec<String>,
    /// When it ends, such as 90d or 12h: from a minute to 400 days.
    #[arg(long, value_name = "AGE", value_parser = durations::parse_some)]
    expires: Duration,
    /// Requests a second that each process of the interface takes from it.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i32).range(1..=10_000))]
    per_second: i32,
    #[command(flatten)]
    database: Database,
}

#[derive(Args)]
pub struct TokenRevoke {
    /// As `noshi token list` shows it: the part between `noshi_` and the dot.
    id: String,
    /// For the audit.
    #[arg(long)]
    reason: String,
    #[command(flatten)]
    database: Database,
}

pub async fn run(command: TokenCommand, out: Out) -> anyhow::Result<()> {
    match command {
        TokenCommand::Create(args) => create(&args, out).await,
        TokenCommand::List(database) => list(&database, out).await,
        TokenCommand::Revoke(args) => {
            let pool = db::connect(args.database.url()?, Role::Login, 1).await?;
            tokens::revoke(&pool, &args.id, &args.reason).await?;
            out.one(&json!({"id": args.id, "state": "revoked"}), |_| format!("token {} is revoked", args.id))
        }
    }
}

async fn create(args: &TokenCreate, out: Out) -> anyhow::Result<()> {
    let pool = db::connect(args.database.url()?, Role::Login, 1).await?;
    let token = tokens::generate();
    let new = NewToken { owner: &args.owner, scopes: &args.scopes, lasts: args.expires, per_second: args.per_second };
    let (id, until) = tokens::create(&pool, &token, &new).await?;
    let answer = json!({"id": id, "token": token.expose_secret(), "owner": args.owner, "scopes": args.scopes, "expires_at": until});
    out.one(&answer, |_| {
        format!(
            "{}\ntoken {id} of {}, to {}, until {}; it is shown only here",
            token.expose_secret(),
            args.owner,
            args.scopes.join(", "),
            instants::show(until)
        )
    })
}

async fn list(database: &Database, out: Out) -> anyhow::Result<()> {
    let pool = db::connect(database.url()?, Role::Operator, 1).await?;
    out.list(
        "there is no token; `noshi token create` makes one",
        &tokens::list(&pool).await?,
        &[
            ("TOKEN", |t| t.id.clone()),
            ("OWNER", |t| t.owner.clone()),
            ("SCOPES", |t| t.scopes.join(",")),
            ("A SECOND", |t| t.per_second.to_string()),
            ("STATE", |t| t.state.clone()),
            ("SESSION OF", |t| t.parent.clone().unwrap_or_else(|| "–".to_owned())),
            ("EXPIRES", |t| instants::show(t.expires_at)),
            ("LAST USED", |t| t.last_used_at.map_or("never".to_owned(), instants::show)),
        ],
    )
}
