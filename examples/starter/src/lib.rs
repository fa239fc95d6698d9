//! The job `starter`, its partner, its settings, and what a person reads who is paged for it.

pub mod job;
pub mod partner;

use std::sync::Arc;

use noshi::{App, Context, Fact, http::Gate, machine::Call};

use crate::{
    job::{Args, Done, REFUSED, Said, Starter, World},
    partner::{Client, Partner},
};

/// The program: noshi with this one job. `App::builtins()` would add the built-in ones.
pub fn app() -> App {
    App::new()
        .settings::<Partner>("starter")
        .job::<Starter>(|cx| Box::new(Meets::new(cx)))
        .runbook(REFUSED, include_str!("../runbook/starter_refused.md"))
}

impl From<Done> for Fact {
    fn from(fact: Done) -> Fact {
        Fact::own("starter_done", &fact)
    }
}

/// What one step meets.
struct Meets {
    partner: Arc<Client>,
    gate: Gate,
}

impl Meets {
    fn new(cx: &Context<'_>) -> Meets {
        Meets { partner: cx.settings::<Partner>().client(), gate: Gate::of(cx) }
    }
}

impl World for Meets {
    fn reserve<'a>(&'a self, args: &'a Args) -> Call<'a, bool> {
        Box::pin(self.partner.reserve(args, &self.gate))
    }
    fn call<'a>(&'a self, args: &'a Args) -> Call<'a, Said> {
        Box::pin(self.partner.call(args, &self.gate))
    }
    fn inquire<'a>(&'a self, args: &'a Args) -> Call<'a, Said> {
        Box::pin(self.partner.inquire(args, &self.gate))
    }
    fn release<'a>(&'a self, args: &'a Args) -> Call<'a, bool> {
        Box::pin(self.partner.release(args, &self.gate))
    }
}
