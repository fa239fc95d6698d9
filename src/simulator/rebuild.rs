//! The state after a restart, from the ledger alone.

use anyhow::{Context, bail};

use super::faults::Faults;
use super::ledger::{Event, Line};
use super::limiter::Limiter;
use super::shop::{self, Card, Order, Shop, State};
use super::world::World;
use super::{Config, PerProvider, Provider};

pub fn world(config: &Config, lines: &[Line]) -> anyhow::Result<World> {
    let mut world = World {
        shops: PerProvider {
            amazon_incentives: Shop::new(config.balance.amazon_incentives),
            gift_on_demand: Shop::new(config.balance.gift_on_demand),
            tango_card: Shop::new(config.balance.tango_card),
        },
        limiters: PerProvider {
            amazon_incentives: Limiter::default(),
            gift_on_demand: Limiter::default(),
            tango_card: Limiter::default(),
        },
        closed_until: PerProvider { amazon_incentives: 0, gift_on_demand: 0, tango_card: 0 },
        faults: Faults::new(config.seed, config.faults),
    };
    // The limiter wants arrivals by time; in the file they stand in the order in which their bodies were complete.
    let mut arrivals = Vec::new();
    for line in lines {
        let provider = line.provider.with_context(|| format!("ledger line {} names no provider", line.n))?;
        if line.event == Event::Arrival {
            arrivals.push((line.us, provider));
        }
        apply(config, &mut world, provider, line).with_context(|| format!("ledger line {}", line.n))?;
    }
    arrivals.sort_unstable();
    for (us, provider) in arrivals {
        world.limiters.of_mut(provider).arrive(us, None);
    }
    Ok(world)
}

fn apply(config: &Config, world: &mut World, provider: Provider, line: &Line) -> anyhow::Result<()> {
    let shop = world.shops.of_mut(provider);
    match line.event {
        Event::Accepted => {
            let lands_us = line.lands_us.context("an accepted order without lands_us")?;
            shop.add(card(line, State::Accepted { lands_us })?);
        }
        Event::Issued => {
            let card = card(line, State::Live)?;
            let code = shop::code(provider, config.seed, &card.id);
            if line.code_sha256.as_deref() != Some(shop::sha256_hex(&code).as_str()) {
                bail!("it was written with another seed than {}; use that seed, or a new ledger", config.seed);
            }
            shop.balance -= card.order.amount;
            match shop.card_mut(&card.id) {
                Some(known) => *known = card,
                None => shop.add(card),
            }
        }
        Event::Voided => {
            let card = known(shop, line)?;
            card.state = State::Voided;
            let amount = card.order.amount;
            shop.balance += amount;
        }
        Event::Refused if line.card.is_some() => known(shop, line)?.state = State::Failed,
        Event::Throttled => {
            let until = world.closed_until.of_mut(provider);
            *until = (*until).max(line.until_us.unwrap_or(0));
        }
        Event::Answer => {
            if let (Some(op), Some(nth)) = (line.op, line.nth) {
                world.faults.made(provider, op, line.trade.as_deref().unwrap_or_default(), nth);
            }
        }
        Event::Funded => shop.balance = line.balance.context("a funding without a balance")?,
        Event::Arrival | Event::Replayed | Event::Conflict | Event::Refused => {}
    }
    Ok(())
}

fn card(line: &Line, state: State) -> anyhow::Result<Card> {
    let amount = line.amount.as_ref().and_then(|amount| amount.as_i64());
    Ok(Card {
        id: line.card.clone().context("no card id")?,
        trade: line.trade.clone().context("no trade")?,
        order: Order {
            amount: amount.context("no amount")?,
            content: line.content.clone().unwrap_or_default(),
            detail: line.detail.clone().unwrap_or_default(),
            queued: false,
        },
        at_us: line.us,
        state,
    })
}

fn known<'a>(shop: &'a mut Shop, line: &Line) -> anyhow::Result<&'a mut Card> {
    let id = line.card.as_deref().context("no card id")?;
    shop.card_mut(id).with_context(|| format!("card {id} was never issued"))
}
