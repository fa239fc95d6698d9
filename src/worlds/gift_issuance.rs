//! The world of gift issuance: routes a trade to a provider, and makes the provider's calls.

use std::{sync::Arc, time::Duration};

use noshi_jobs::{
    gift_issuance::{Args, Bound, Cancel, Inquiry, Issue, Seek, Start, Trade, World},
    machine::Call,
};

use crate::{
    basics::chaos::{Bug, crash_point, planted},
    db::{
        self, PgConnection, PgPool,
        domain::facts::{NewTrade, Partners, Saved},
        local::Local,
        queue::{claim::Claimed, lanes::Budget},
    },
    engine::lease::LeaseClock,
    partners::{
        self, Gate,
        gifts::{GiftProvider, GiftSettings},
    },
    telemetry::{
        metrics::call,
        outcomes::{Answer, CallOutcome},
    },
    vault::Vault,
};

/// The providers that the settings name.
#[derive(Default)]
pub struct Gifts {
    providers: Vec<Box<dyn GiftProvider>>,
}

impl Gifts {
    pub fn open(settings: &GiftSettings, vault: Arc<Vault>) -> anyhow::Result<Self> {
        Ok(Gifts { providers: partners::gifts::providers(settings, vault)? })
    }

    pub fn provider(&self, name: &str) -> Option<&dyn GiftProvider> {
        self.providers.iter().find(|provider| provider.name() == name).map(|provider| &**provider)
    }

    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.providers.iter().map(|provider| provider.name())
    }

    /// Makes sure that every provider's lane exists with its budgets.
    pub async fn declare_lanes(&self, pool: &PgPool) -> Result<(), sqlx::Error> {
        for provider in &self.providers {
            let budgets: Vec<Budget> = provider.terms().budgets.iter().copied().map(budget).collect();
            db::queue::lanes::declare(pool, &lane(provider.name()), &budgets).await?;
        }
        Ok(())
    }

    /// The providers that offer this gift.
    fn able(&self, args: &Args) -> Vec<&dyn GiftProvider> {
        let wanted = |name: &str| args.provider.as_deref().is_none_or(|wanted| wanted == name);
        self.providers
            .iter()
            .filter(|provider| wanted(provider.name()) && provider.check(&args.category, args.value).is_ok())
            .map(|provider| &**provider)
            .collect()
    }

    /// Those, or where there is none, each that may have offered it once.
    fn perhaps_able(&self, args: &Args) -> Vec<String> {
        let able: Vec<_> = self.able(args).iter().map(|provider| provider.name().to_owned()).collect();
        match &args.provider {
            _ if !able.is_empty() => able,
            Some(wanted) => vec![wanted.clone()],
            None => self.names().map(str::to_owned).collect(),
        }
    }

    /// The provider for a new trade: the producer's choice, or the first that offers it and whose lane is open; if none is
    /// open, the first that offers it, where the trade waits.
    async fn route(&self, connection: &mut PgConnection, args: &Args) -> Result<Option<Routed<'_>>, sqlx::Error> {
        let able = self.able(args);
        let names: Vec<String> = able.iter().map(|provider| provider.name().to_owned()).collect();
        if names.len() < 2 {
            return Ok(able.first().map(|provider| Routed { provider: *provider, able: names }));
        }
        let lanes: Vec<String> = names.iter().map(|name| lane(name)).collect();
        let open = db::domain::facts::open_lanes(connection, &lanes).await?;
        let first_open = able.iter().find(|provider| open.contains(&lane(provider.name())));
        Ok(first_open.or(able.first()).map(|provider| Routed { provider: *provider, able: names }))
    }
}

/// Where a new trade goes.
struct Routed<'a> {
    provider: &'a dyn GiftProvider,
    /// All that offer the gift, this one among them.
    able: Vec<String>,
}

fn lane(provider: &str) -> String {
    format!("gift/{provider}")
}

/// Long windows may be used in bursts; short ones are paced evenly, as the provider counts them.
pub fn budget(budget: partners::Budget) -> Budget {
    let burst = if budget.window > Duration::from_secs(60) { (budget.calls / 2).max(1) } else { 1 };
    Budget { per: budget.window, calls: budget.calls, burst, jitter: budget.jitter }
}

/// What one claimed gift meets outside.
pub struct GiftWorld {
    gifts: Arc<Gifts>,
    gate: Gate,
    local: Local,
    job: i64,
    retries: u32,
}

impl GiftWorld {
    pub fn new(gifts: &Arc<Gifts>, clock: &Arc<LeaseClock>, claimed: &Claimed, local: &Local) -> Self {
        let clock = Arc::clone(clock);
        GiftWorld {
            gifts: Arc::clone(gifts),
            gate: Gate::new(move || clock.may_call()).telling(&claimed.told),
            local: local.clone(),
            job: claimed.id,
            retries: claimed.retries,
        }
    }

    async fn start(&self, args: &Args, generation: u8, lapsed: bool) -> Start {
        crash_point("start_trade.before");
        let known: Vec<String> = self.gifts.names().map(str::to_owned).collect();
        let any = args.provider.is_none();
        let routed = match lapsed {
            true => None,
            false => self.local.run(async |connection| self.gifts.route(connection, args).await).await,
        };
        let Some(Routed { provider, able }) = routed else {
            let able = self.gifts.perhaps_able(args);
            return self.no_trade(generation, lapsed, &Partners { able: &able, known: &known, any }).await;
        };
        let trade = trade(provider, args, generation);
        if planted(Bug::IntentAfterSend) {
            let _ = provider.issue(args, &trade, &self.gate).await;
        }
        let new = self.new_trade(args, &trade);
        let partners = Partners { able: &able, known: &known, any };
        let saved =
            self.local.run(async |connection| db::domain::facts::save_trade(connection, &new, &partners).await).await;
        crash_point("start_trade.after");
        match saved {
            Saved::Saved => Start::Started(trade),
            Saved::InDoubt => Start::InDoubt(trade),
            // Which of them it was is not known: asking one would say nothing about the others.
            Saved::Unclear => Start::Unclear,
            Saved::Occupied => Start::Occupied,
        }
    }

    /// Nothing can be bought now; whether something was bought before is another matter.
    async fn no_trade(&self, generation: u8, lapsed: bool, partners: &Partners<'_>) -> Start {
        let note = async |connection: &mut PgConnection| {
            db::domain::facts::note_past(connection, self.job, generation.into(), partners).await
        };
        match (self.local.run(note).await, lapsed) {
            (true, _) => Start::Unclear,
            (false, true) => Start::Lapsed,
            (false, false) => Start::NoProvider,
        }
    }

    fn new_trade<'a>(&self, args: &'a Args, trade: &'a Trade) -> NewTrade<'a> {
        NewTrade {
            id: &trade.id,
            grant: &args.grant,
            generation: trade.generation.into(),
            job: self.job,
            provider: &trade.provider,
            category: &args.category,
            amount: args.value.amount,
            currency: args.value.currency.code(),
        }
    }

    async fn next_partner(&self, args: &Args, generation: u8, after: Option<&str>) -> Seek {
        let past = async |connection: &mut PgConnection| {
            db::domain::facts::past(connection, self.job, generation.into()).await
        };
        let Some(mut partners) = self.local.run(past).await else { return Seek::NoPast };
        partners.sort();
        let askable = |name: &String| self.gifts.provider(name).filter(|provider| provider.terms().contract.inquiry);
        let next = partners.iter().filter(|name| after.is_none_or(|after| name.as_str() > after)).find_map(askable);
        match next {
            Some(provider) => Seek::Ask(trade(provider, args, generation)),
            None => Seek::Nobody { all: partners.iter().all(|name| askable(name).is_some()) },
        }
    }

    async fn bind_trade(&self, args: &Args, trade: &Trade) -> Bound {
        let new = self.new_trade(args, trade);
        match self.local.run(async |connection| db::domain::facts::bind_trade(connection, &new).await).await {
            true => Bound::Saved,
            false => Bound::Occupied,
        }
    }
}

/// A trade's id follows from the grant and the partner: whoever may have been called can be asked by it.
fn trade(provider: &dyn GiftProvider, args: &Args, generation: u8) -> Trade {
    Trade {
        id: partners::gifts::trade_id(&provider.terms().trade_prefix, &args.grant, generation),
        provider: provider.name().to_owned(),
        generation,
        contract: provider.terms().contract.clone(),
    }
}

impl World for GiftWorld {
    fn start_trade<'a>(&'a self, args: &'a Args, generation: u8, lapsed: bool) -> Call<'a, Start> {
        Box::pin(self.start(args, generation, lapsed))
    }

    fn seek<'a>(&'a self, args: &'a Args, generation: u8, after: Option<&'a str>) -> Call<'a, Seek> {
        Box::pin(self.next_partner(args, generation, after))
    }

    fn bind<'a>(&'a self, args: &'a Args, trade: &'a Trade) -> Call<'a, Bound> {
        Box::pin(self.bind_trade(args, trade))
    }

    fn issue<'a>(&'a self, args: &'a Args, trade: &'a Trade) -> Call<'a, Issue> {
        Box::pin(async move {
            // A provider taken out of the settings: nothing was sent, and the trade waits for its return.
            let Some(provider) = self.gifts.provider(&trade.provider) else { return Issue::NotSent };
            crash_point("issue.before");
            let renamed = (planted(Bug::NewIdOnRetry) && self.retries > 0)
                .then(|| Trade { id: format!("{}{}", trade.id, self.retries), ..trade.clone() });
            let issue = provider.issue(args, renamed.as_ref().unwrap_or(trade), &self.gate);
            let answer = call(provider.name(), "issue", issue).await;
            crash_point("issue.after");
            answer
        })
    }

    fn inquire<'a>(&'a self, args: &'a Args, trade: &'a Trade, reference: Option<&'a str>) -> Call<'a, Inquiry> {
        Box::pin(async move {
            let Some(provider) = self.gifts.provider(&trade.provider) else { return Inquiry::NoAnswer };
            crash_point("inquire.before");
            let inquire = provider.inquire(args, trade, reference, &self.gate);
            let answer = call(provider.name(), "inquire", inquire).await;
            crash_point("inquire.after");
            if answer == Inquiry::NotFound && planted(Bug::NotFoundIsVoid) {
                return Inquiry::Failed("not_found".to_owned());
            }
            answer
        })
    }

    fn cancel<'a>(&'a self, args: &'a Args, trade: &'a Trade, card: Option<&'a str>) -> Call<'a, Cancel> {
        Box::pin(async move {
            let Some(provider) = self.gifts.provider(&trade.provider) else { return Cancel::NotSent };
            crash_point("cancel.before");
            let cancel = provider.cancel(args, trade, card, &self.gate);
            let answer = call(provider.name(), "cancel", cancel).await;
            crash_point("cancel.after");
            answer
        })
    }
}

impl Answer for Issue {
    fn outcome(&self) -> CallOutcome {
        match self {
            Issue::Issued(_) => CallOutcome::Ok,
            Issue::Pending => CallOutcome::Pending,
            Issue::Resend => CallOutcome::Resend,
            Issue::Refused(_) => CallOutcome::Refused,
            Issue::Throttled(_) => CallOutcome::Throttled,
            Issue::NotSent => CallOutcome::NotSent,
            Issue::Unknown => CallOutcome::Unknown,
            Issue::Dead => CallOutcome::Dead,
            Issue::Conflict => CallOutcome::Conflict,
            Issue::OutOfFunds => CallOutcome::OutOfFunds,
            Issue::BadCredentials => CallOutcome::BadCredentials,
        }
    }
}

impl Answer for Inquiry {
    fn outcome(&self) -> CallOutcome {
        match self {
            Inquiry::Live(_) => CallOutcome::Ok,
            Inquiry::Pending => CallOutcome::Pending,
            Inquiry::Known(_) => CallOutcome::Known,
            Inquiry::Failed(_) => CallOutcome::Failed,
            Inquiry::NotFound => CallOutcome::NotFound,
            Inquiry::Dead => CallOutcome::Dead,
            Inquiry::Conflict => CallOutcome::Conflict,
            Inquiry::Throttled(_) => CallOutcome::Throttled,
            Inquiry::NoAnswer => CallOutcome::Unknown,
            Inquiry::BadCredentials => CallOutcome::BadCredentials,
        }
    }
}

impl Answer for Cancel {
    fn outcome(&self) -> CallOutcome {
        match self {
            Cancel::Cancelled => CallOutcome::Ok,
            Cancel::Accepted => CallOutcome::Accepted,
            Cancel::Refused => CallOutcome::Refused,
            Cancel::NotFound => CallOutcome::NotFound,
            Cancel::Throttled(_) => CallOutcome::Throttled,
            Cancel::NotSent => CallOutcome::NotSent,
            Cancel::Unknown => CallOutcome::Unknown,
            Cancel::BadCredentials => CallOutcome::BadCredentials,
        }
    }
}
