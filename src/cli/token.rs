//! `noshi token`: who may use the HTTP interface, and for what.

use std::time::Duration;

use clap::{Args, Subcommand};
use secrecy::ExposeSecret;
use serde_json::json;

use super::{Database, out::Out};
use crate::store::{
    self, Role,
    tokens::{self, NewToken},
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
    /// Who acts by it: a system, or a person. Approvals know people by it.
    #[arg(long)]
    owner: String,
    /// What it may do.
    #[arg(long, value_delimiter = ',', required = true, value_parser = tokens::SCOPES)]
    scopes: Vec<String>,
    /// When it ends, such as 90d or 12h: from a minute to 400 days.
    #[arg(long, value_parser = parse_duration)]
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

fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a time such as 90d, 12h or 30m");
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(wrong)?;
    let seconds = match unit {
        "d" => 24 * 60 * 60,
        "h" => 60 * 60,
        "m" => 60,
        _ => return Err(wrong()),
    };
    number.parse::<u32>().map(|number| Duration::from_secs(u64::from(number) * seconds)).map_err(|_| wrong())
}

pub async fn run(command: TokenCommand, out: Out) -> anyhow::Result<()> {
    match command {
        TokenCommand::Create(args) => create(&args, out).await,
        TokenCommand::List(database) => list(&database, out).await,
        TokenCommand::Revoke(args) => {
            let pool = store::connect(args.database.url()?, Role::Login, 1).await?;
            tokens::revoke(&pool, &args.id, &args.reason).await?;
            out.one(&json!({"id": args.id, "state": "revoked"}), |_| format!("token {} is revoked", args.id))
        }
    }
}

async fn create(args: &TokenCreate, out: Out) -> anyhow::Result<()> {
    let pool = store::connect(args.database.url()?, Role::Login, 1).await?;
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
            until.to_rfc3339()
        )
    })
}

async fn list(database: &Database, out: Out) -> anyhow::Result<()> {
    let pool = store::connect(database.url()?, Role::Operator, 1).await?;
    out.list(
        &tokens::list(&pool).await?,
        &[
            ("TOKEN", |t| t.id.clone()),
            ("OWNER", |t| t.owner.clone()),
            ("SCOPES", |t| t.scopes.join(",")),
            ("A SECOND", |t| t.per_second.to_string()),
            ("STATE", |t| t.state.clone()),
            ("EXPIRES", |t| t.expires_at.format("%Y-%m-%d %H:%M").to_string()),
            ("LAST USED", |t| t.last_used_at.map_or("never".to_owned(), |at| at.format("%Y-%m-%d %H:%M").to_string())),
        ],
    )
}
