//! Refunds of payments: a job, its partner, its settings, its table, and what a person reads who is paged for it.

pub mod job;
pub mod partner;

use std::sync::Arc;

use noshi::{App, Context, Fact, Local, http::Gate, machine::Call};
use sqlx::migrate::Migrator;

use crate::{
    job::{Args, CONFLICT, REFUSED, Refund, Refunded, Said, World},
    partner::{Client, Shop},
};

static MIGRATIONS: Migrator = sqlx::migrate!();

/// The program: noshi with this one job.
pub fn app() -> App {
    App::new()
        .settings::<Shop>("refund")
        .job::<Refund>(|cx| Box::new(Meets::new(cx)))
        .runbook(REFUSED, include_str!("../runbook/refund_refused.md"))
        .runbook(CONFLICT, include_str!("../runbook/refund_conflict.md"))
        .migrations(&MIGRATIONS)
}

impl From<Refunded> for Fact {
    fn from(fact: Refunded) -> Fact {
        Fact::own("refunded", &fact)
    }
}

/// What one step of a refund meets.
struct Meets {
    shop: Arc<Client>,
    gate: Gate,
    local: Local,
    job: i64,
}

impl Meets {
    fn new(cx: &Context<'_>) -> Meets {
        Meets { shop: cx.settings::<Shop>().client(), gate: Gate::of(cx), local: cx.local(), job: cx.job() }
    }
}

impl World for Meets {
    fn hold<'a>(&'a self, args: &'a Args) -> Call<'a, bool> {
        Box::pin(self.shop.hold(args, &self.gate))
    }
    fn refund<'a>(&'a self, args: &'a Args) -> Call<'a, Said> {
        Box::pin(self.shop.refund(args, &self.gate))
    }
    fn inquire<'a>(&'a self, args: &'a Args) -> Call<'a, Said> {
        Box::pin(self.shop.inquire(args, &self.gate))
    }
    fn release<'a>(&'a self, args: &'a Args) -> Call<'a, bool> {
        Box::pin(self.shop.release(args, &self.gate))
    }
    fn book<'a>(&'a self, args: &'a Args, receipt: &'a str) -> Call<'a, ()> {
        const BOOK: &str = "insert into refund.ledger (payment, amount, receipt, job) values ($1, $2, $3, $4)";
        let booked = self.local.run(async move |connection| {
            let row = sqlx::query(BOOK).bind(&args.payment).bind(args.amount).bind(receipt).bind(self.job);
            row.execute(connection).await.map(drop)
        });
        Box::pin(booked)
    }
}
