//! The gift providers.

pub mod amazon_incentives;
pub mod catalogue;
pub mod gift_on_demand;
pub mod offers;
pub mod provider;
pub mod settings;
pub mod tango_card;
pub mod trade_id;

pub use catalogue::{CATALOGUE, Open, offers, providers, usual};
pub use offers::{Offer, Offers};
pub use provider::{CodePolicy, Funds, GiftProvider, Refetch};
pub use settings::GiftSettings;
pub use trade_id::trade_id;
