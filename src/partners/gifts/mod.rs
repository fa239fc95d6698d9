//! The gift providers.

pub mod amazon_incentives;
pub mod catalogue;
pub mod gift_on_demand;
pub mod offers;
pub mod provider;
pub mod settings;
pub mod tango_card;
pub mod trade_id;

/// A partner of the tests alone, by its file and its line as any other.
#[cfg(test)]
#[path = "../../../tests/partner/coupon_post.rs"]
mod coupon_post;

pub use catalogue::{CATALOGUE, GiftSettings, Partner, offers, providers, usual};
pub use offers::{Offer, Offers};
pub use provider::{Adapter, CodePolicy, Funds, GiftProvider, Refetch, Terms};
pub use trade_id::trade_id;
