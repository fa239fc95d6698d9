//! What SES remembers, and a message as it was taken.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::lab::simulator::ledger::{Event, Line};

pub const DAY_US: u64 = 24 * 60 * 60 * 1_000_000;

/// Whether the account takes messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sending {
    #[default]
    Enabled,
    Paused,
    Suspended,
    /// The sender's domain is not verified.
    Unverified,
}

#[derive(Default)]
pub struct Ses {
    /// When each recipient of the last day was sent something.
    pub sent: VecDeque<u64>,
    pub messages: u64,
    pub sending: Sending,
}

impl Ses {
    pub fn rebuild(&mut self, line: &Line) {
        if line.event == Event::MailSent {
            self.messages += 1;
            let recipients = line.detail.as_ref().and_then(|detail| detail["recipients"].as_u64()).unwrap_or(1);
            self.sent.extend((0..recipients).map(|_| line.us));
        }
    }

    pub fn sent_in_a_day(&mut self, now: u64) -> u64 {
        while self.sent.front().is_some_and(|first| first + DAY_US <= now) {
            self.sent.pop_front();
        }
        self.sent.len() as u64
    }
}

#[derive(Clone)]
pub struct Message {
    pub job: String,
    pub from: String,
    pub recipients: Vec<String>,
    pub tags: Map<String, Value>,
    pub configuration_set: Option<String>,
    pub fate: Fate,
}

pub fn local_part(address: &str) -> &str {
    let local = address.split_once('@').map_or(address, |(local, _)| local);
    local.split_once('+').map_or(local, |(local, _)| local)
}

/// What becomes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Delivery,
    Bounce,
    Transient,
    Suppressed,
    Complaint,
    Reject,
}

impl Fate {
    pub fn of(address: &str) -> Fate {
        match local_part(address) {
            "bounce" => Fate::Bounce,
            "transient" => Fate::Transient,
            "suppressed" => Fate::Suppressed,
            "complaint" => Fate::Complaint,
            "reject" => Fate::Reject,
            _ => Fate::Delivery,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Fate::Delivery => "delivery",
            Fate::Bounce => "bounce",
            Fate::Transient => "transient",
            Fate::Suppressed => "suppressed",
            Fate::Complaint => "complaint",
            Fate::Reject => "reject",
        }
    }

    /// The event types that it makes, in order.
    pub fn events(self) -> &'static [&'static str] {
        match self {
            Fate::Delivery => &["Send", "Delivery"],
            Fate::Bounce | Fate::Transient | Fate::Suppressed => &["Send", "Bounce"],
            Fate::Complaint => &["Send", "Delivery", "Complaint"],
            Fate::Reject => &["Reject"],
        }
    }
}
