//! One adapter per partner, each with its settings, over one HTTP client.

pub(crate) mod aws;
pub mod budget;
pub mod effects;
pub mod gifts;
pub mod http;
pub mod mail;
pub mod organization;
pub(crate) mod secret;
pub(crate) mod tls;
pub(crate) mod whose;
pub(crate) mod wire;

#[cfg(test)]
pub(crate) mod conformance;
#[cfg(test)]
pub(crate) mod scripted;

pub use budget::{Budget, Partner};
pub use http::Gate;
pub use organization::{OrganizationPlatform, settings::OrganizationSettings};
