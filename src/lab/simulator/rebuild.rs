//! The state after a restart, from the ledger alone.

use std::collections::HashMap;

use anyhow::{Context, bail};

use super::{
    Config, PerProvider, Provider,
    faults::Faults,
    ledger::{Event, Line},
    organization_platform::state::Platform,
    partner::Partner,
    ses::state::Ses,
    shop::{self, Card, Order, Shop, State},
    state::World,
};

pub fn world(config: &Config, lines: &[Line]) -> anyhow::Result<World> {
    let mut world = World {
        shops: PerProvider {
            amazon_incentives: Shop::new(config.balance.amazon_incentives),
            gift_on_demand: Shop::new(config.balance.gift_on_demand),
            tango_card: Shop::new(config.balance.tango_card),
        },
        platform: Platform::default(),
        ses: Ses::default(),
        gates: HashMap::new(),
        faults: Faults::new(config.seed, config.faults),
    };
    // The limiter wants arrivals by time; in the file they stand in the order in which their bodies were complete.
    let mut arrivals = Vec::new();
    for line in lines {
        let partner = line.provider.with_context(|| format!("ledger line {} names no provider", line.n))?;
        if line.event == Event::Arrival {
            arrivals.push((line.us, partner));
        }
        apply(config, &mut world, partner, line).with_context(|| format!("ledger line {}", line.n))?;
    }
    arrivals.sort_unstable();
    for (us, partner) in arrivals {
        world.gate(partner).limiter.arrive(us, None);
    }
    Ok(world)
}

fn apply(config: &Config, world: &mut World, partner: Partner, line: &Line) -> anyhow::Result<()> {
    match line.event {
        Event::Throttled => {
            let until = &mut world.gate(partner).closed_until;
            *until = (*until).max(line.until_us.unwrap_or(0));
        }
        Event::Answer => {
            if let (Some(errand), Some(nth)) = (line.op, line.nth) {
                world.faults.made(partner, errand, line.trade.as_deref().unwrap_or_default(), nth);
            }
        }
        Event::Arrival | Event::Published => {}
        Event::Accepted
        | Event::Issued
        | Event::Voided
        | Event::Replayed
        | Event::Conflict
        | Event::Refused
        | Event::Funded
        | Event::ShopCreated
        | Event::ShopDeleted
        | Event::ServiceAssigned
        | Event::MailSent => match partner {
            Partner::Gift(provider) => gift(config, world.shops.of_mut(provider), provider, line)?,
            Partner::OrganizationPlatform => world.platform.rebuild(line)?,
            Partner::Ses => world.ses.rebuild(line),
        },
    }
    Ok(())
}

fn gift(config: &Config, shop: &mut Shop, provider: Provider, line: &Line) -> anyhow::Result<()> {
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
        Event::Funded => shop.balance = line.balance.context("a funding without a balance")?,
        Event::Replayed | Event::Conflict | Event::Refused => {}
        Event::Arrival
        | Event::Throttled
        | Event::Answer
        | Event::Published
        | Event::ShopCreated
        | Event::ShopDeleted
        | Event::ServiceAssigned
        | Event::MailSent => {}
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
