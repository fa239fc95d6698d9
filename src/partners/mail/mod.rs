//! The mail services.

mod catalogue;
pub(crate) mod service;
pub(crate) mod ses;
pub(crate) mod settings;
pub(crate) mod smtp;

pub use catalogue::open;
pub use service::{Letter, MailService, Quota, address};
pub use settings::{EmailSettings, Service, SesSettings, SmtpSettings, Tls};
