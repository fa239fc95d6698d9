//! Where effects happen: one call at the cx of one provider. Each effect is one ledger line, written in the same
//! breath as the change in memory, under the world's lock; so the order of the lines is the order of the effects.

use std::sync::Arc;

use serde_json::Value;

use super::{
    Op, Provider,
    context::Inner,
    ledger::{Event, Line},
    lock::lock,
    shop::{self, Card, Order, Shop, State},
};

pub struct CallContext<'a> {
    pub inner: &'a Inner,
    pub shop: &'a mut Shop,
    pub provider: Provider,
    pub op: Op,
    pub trade: String,
    /// Its connection is gone already.
    pub late: bool,
    /// An order shall only be accepted now and land at this time.
    pub pend_until: Option<u64>,
    /// The card that was accepted so, if it came to that.
    pub pending: Option<(String, u64)>,
}

impl CallContext<'_> {
    fn line(&self, event: Event) -> Line {
        Line {
            event,
            provider: Some(self.provider.into()),
            op: Some(self.op.into()),
            trade: Some(self.trade.clone()),
            late: self.late,
            ..Line::default()
        }
    }

    fn card_line(&self, event: Event, card: &Card) -> Line {
        Line {
            card: Some(card.id.clone()),
            amount: Some(card.order.amount.into()),
            currency: Some("JPY".into()),
            ..self.line(event)
        }
    }

    fn birth_line(&self, event: Event, card: &Card) -> Line {
        Line {
            us: card.at_us,
            code_sha256: (event == Event::Issued).then(|| shop::sha256_hex(&self.code(card))),
            content: Some(card.order.content.clone()),
            detail: Some(card.order.detail.clone()).filter(|detail| !detail.is_null()),
            ..self.card_line(event, card)
        }
    }

    pub fn code(&self, card: &Card) -> String {
        shop::code(self.provider, self.inner.config.seed, &card.id)
    }

    pub fn refused(&self, reason: &str) {
        self.inner.ledger.append(Line { reason: Some(reason.to_owned()), ..self.line(Event::Refused) });
    }

    pub fn conflict(&self, card: &Card) {
        let line = self.card_line(Event::Conflict, card);
        self.inner.ledger.append(line);
    }

    pub fn replayed(&self, card: &Card) {
        let line = self.card_line(Event::Replayed, card);
        self.inner.ledger.append(line);
    }

    /// Moves the money, or promises to. The caller has checked that the balance is enough.
    pub fn issue(&mut self, order: &Order) -> Card {
        let mut card = Card {
            id: self.shop.next_id(self.provider, self.inner.config.seed),
            trade: self.trade.clone(),
            order: order.clone(),
            at_us: self.inner.ledger.now_us(),
            state: State::Live,
        };
        if let Some(lands_us) = self.pend_until {
            card.state = State::Accepted { lands_us };
            self.pending = Some((card.id.clone(), lands_us));
            let line = self.birth_line(Event::Accepted, &card);
            self.inner.ledger.append(Line { lands_us: Some(lands_us), ..line });
        } else {
            self.shop.balance -= order.amount;
            self.inner.ledger.append(self.birth_line(Event::Issued, &card));
        }
        self.shop.add(card.clone());
        card
    }

    /// The moment of an accepted order: now its money moves, or is short.
    pub fn land(&mut self, id: &str) {
        let now = self.inner.ledger.now_us();
        let balance = self.shop.balance;
        let Some(card) = self.shop.card_mut(id).filter(|card| matches!(card.state, State::Accepted { .. })) else {
            return;
        };
        let amount = card.order.amount;
        if amount > balance {
            card.state = State::Failed;
            let card = card.clone();
            self.inner
                .ledger
                .append(Line { reason: Some("insufficient funds".into()), ..self.card_line(Event::Refused, &card) });
        } else {
            card.state = State::Live;
            card.at_us = now;
            let card = card.clone();
            self.shop.balance -= amount;
            self.inner.ledger.append(self.birth_line(Event::Issued, &card));
        }
    }

    /// Takes a live card back and returns its money.
    pub fn void(&mut self, id: &str) {
        let Some(card) = self.shop.card_mut(id).filter(|card| card.state == State::Live) else {
            return;
        };
        card.state = State::Voided;
        let card = card.clone();
        self.shop.balance += card.order.amount;
        self.inner.ledger.append(self.card_line(Event::Voided, &card));
    }

    /// A card that does not exist, of a trade that nobody made.
    pub fn anothers(&self, amount: i64, roll: u64) -> Card {
        let prefix = match self.provider {
            Provider::AmazonIncentives => self.inner.config.credentials.amazon_partner_id.as_str(),
            Provider::GiftOnDemand | Provider::TangoCard => "T",
        };
        Card {
            id: format!("{:016}", roll % 10_000_000_000_000_000),
            trade: format!("{prefix}{roll:016X}"),
            order: Order { amount, content: String::new(), detail: Value::Null, queued: false },
            at_us: self.inner.ledger.now_us(),
            state: State::Live,
        }
    }
}

pub fn cx<'a>(inner: &'a Inner, shop: &'a mut Shop, provider: Provider, op: Op, trade: String) -> CallContext<'a> {
    CallContext { inner, shop, provider, op, trade, late: false, pend_until: None, pending: None }
}

impl Inner {
    /// After a restart: orders that were accepted still land.
    pub fn resume_pending(self: &Arc<Self>) {
        for provider in Provider::ALL {
            let accepted: Vec<_> = {
                let world = lock(&self.world);
                let shop = world.shops.of(provider);
                shop.accepted().map(|(card, lands_us)| (card.id.clone(), lands_us)).collect()
            };
            for (card, lands_us) in accepted {
                self.land_at(provider, card, lands_us);
            }
        }
    }

    pub fn land_at(self: &Arc<Self>, provider: Provider, card: String, lands_us: u64) {
        self.later(lands_us, move |inner| {
            let mut world = lock(&inner.world);
            let shop = world.shops.of_mut(provider);
            let Some(trade) = shop.card(&card).map(|card| card.trade.clone()) else {
                return;
            };
            let mut cx = CallContext { late: true, ..cx(inner, shop, provider, Op::Issue, trade) };
            cx.land(&card);
        });
    }
}
