//! What one provider remembers: its cards (an order, a gift, a gift card are all a card here) and the account.

use std::collections::HashMap;

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{Provider, faults::roll};

/// What a card was ordered with.
#[derive(Clone, Debug)]
pub struct Order {
    /// Yen.
    pub amount: i64,
    /// Fingerprint of what has to be equal for a repeated order to be a replay.
    pub content: String,
    /// What later answers repeat.
    pub detail: Value,
    /// Ordered through an endpoint that always answers first and issues later.
    pub queued: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Money moves at this time (unix microseconds).
    Accepted {
        lands_us: u64,
    },
    Live,
    Voided,
    /// Accepted, but the money was short when it should have moved.
    Failed,
}

#[derive(Clone, Debug)]
pub struct Card {
    /// The provider's own id.
    pub id: String,
    /// The caller's id.
    pub trade: String,
    pub order: Order,
    /// When it was issued or accepted, unix microseconds.
    pub at_us: u64,
    pub state: State,
}

#[derive(Default)]
pub struct Shop {
    pub balance: i64,
    /// The account is stopped; only a person at the provider can lift that.
    pub blocked: bool,
    cards: Vec<Card>,
    by_id: HashMap<String, usize>,
    by_trade: HashMap<String, Vec<usize>>,
}

impl Shop {
    pub fn new(balance: i64) -> Shop {
        Shop { balance, ..Shop::default() }
    }

    pub fn add(&mut self, card: Card) {
        let at = self.cards.len();
        self.by_id.insert(card.id.clone(), at);
        self.by_trade.entry(card.trade.clone()).or_default().push(at);
        self.cards.push(card);
    }

    pub fn card(&self, id: &str) -> Option<&Card> {
        self.by_id.get(id).map(|at| &self.cards[*at])
    }

    pub fn card_mut(&mut self, id: &str) -> Option<&mut Card> {
        self.by_id.get(id).map(|at| &mut self.cards[*at])
    }

    /// The card that an inquiry about this trade shows: the first live one, else the newest.
    pub fn of_trade(&self, trade: &str) -> Option<&Card> {
        let cards = || self.by_trade.get(trade).into_iter().flatten().map(|at| &self.cards[*at]);
        cards().find(|card| card.state == State::Live).or_else(|| cards().next_back())
    }

    pub fn accepted(&self) -> impl Iterator<Item = (&Card, u64)> {
        self.cards.iter().filter_map(|card| match card.state {
            State::Accepted { lands_us } => Some((card, lands_us)),
            State::Live | State::Voided | State::Failed => None,
        })
    }

    /// The id of the next card, in the provider's style. Ids of other seeds differ.
    pub fn next_id(&self, provider: Provider, seed: u64) -> String {
        let n = self.cards.len() + 1;
        let salt = roll(seed, &[provider.name(), "card", &n.to_string()]);
        match provider {
            Provider::AmazonIncentives => format!("{:08}{n:08}", salt % 100_000_000),
            Provider::GiftOnDemand => format!("G{n:08}{:04X}", salt % 0x10000),
            Provider::TangoCard => format!("LI{n:08}-{:06X}", salt % 0x100_0000),
        }
    }
}

/// The gift code of a card. It is computed when needed and stored nowhere. All codes contain the text `CNRY`, so that
/// a test can search for leaked ones.
pub fn code(provider: Provider, seed: u64, card: &str) -> String {
    const LETTERS: &[u8; 32] = b"23456789ABCDEFGHJKLMNPQRSTUVWXYZ";
    let mut number = roll(seed, &[provider.name(), "code", card]);
    let mut letter = || {
        let at = usize::try_from(number % 32).unwrap_or(0);
        number /= 32;
        char::from(LETTERS[at])
    };
    let middle: String = (0..6).map(|_| letter()).collect();
    let end: String = (0..4).map(|_| letter()).collect();
    format!("CNRY-{middle}-{end}")
}

pub fn sha256_hex(text: &str) -> String {
    hex::encode(Sha256::digest(text.as_bytes()))
}
