//! What noshi's jobs do. Read `machine.rs` first, then any job: each file opens with its state table.
//!
//! Nothing here knows SQL, HTTP, a clock or a runtime; Cargo sees to that.

pub mod bulk_grants;
pub mod email;
pub mod gift_issuance;
pub mod machine;
pub mod money;
pub mod point_exchange;
pub mod point_expiry;
pub mod point_grant;
pub mod point_reversal;
pub mod point_withdrawal;
pub mod probe;
pub mod problem;
pub mod store_creation;
#[cfg(test)]
mod walk;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use machine::JobId;
pub use problem::Problem;

/// For so long a job waits for a worker that has the key of what is sealed for it; then it asks a person.
const UNTIL_OPENED: Duration = Duration::from_secs(10 * 60);

/// Every kind of job. The names are stored: they are permanent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    BulkGrants,
    Email,
    GiftIssuance,
    PointExchange,
    PointExpiry,
    PointGrant,
    PointReversal,
    PointWithdrawal,
    Probe,
    StoreCreation,
}

impl Kind {
    pub const ALL: [Kind; 10] = [
        Kind::BulkGrants,
        Kind::Email,
        Kind::GiftIssuance,
        Kind::PointExchange,
        Kind::PointExpiry,
        Kind::PointGrant,
        Kind::PointReversal,
        Kind::PointWithdrawal,
        Kind::Probe,
        Kind::StoreCreation,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Kind::BulkGrants => "bulk_grants",
            Kind::Email => "email",
            Kind::GiftIssuance => "gift_issuance",
            Kind::PointExchange => "point_exchange",
            Kind::PointExpiry => "point_expiry",
            Kind::PointGrant => "point_grant",
            Kind::PointReversal => "point_reversal",
            Kind::PointWithdrawal => "point_withdrawal",
            Kind::Probe => "probe",
            Kind::StoreCreation => "store_creation",
        }
    }

    /// The kind of that stored name; `None` where a newer version wrote it.
    pub fn from_name(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// From a kind to its job: `with_job!(kind, J => f::<J>())`.
#[macro_export]
macro_rules! with_job {
    ($kind:expr, $job:ident => $body:expr) => {
        match $kind {
            $crate::Kind::BulkGrants => {
                type $job = $crate::bulk_grants::BulkGrants;
                $body
            }
            $crate::Kind::Email => {
                type $job = $crate::email::Email;
                $body
            }
            $crate::Kind::GiftIssuance => {
                type $job = $crate::gift_issuance::GiftIssuance;
                $body
            }
            $crate::Kind::PointExchange => {
                type $job = $crate::point_exchange::PointExchange;
                $body
            }
            $crate::Kind::PointExpiry => {
                type $job = $crate::point_expiry::PointExpiry;
                $body
            }
            $crate::Kind::PointGrant => {
                type $job = $crate::point_grant::PointGrant;
                $body
            }
            $crate::Kind::PointReversal => {
                type $job = $crate::point_reversal::PointReversal;
                $body
            }
            $crate::Kind::PointWithdrawal => {
                type $job = $crate::point_withdrawal::PointWithdrawal;
                $body
            }
            $crate::Kind::Probe => {
                type $job = $crate::probe::Probe;
                $body
            }
            $crate::Kind::StoreCreation => {
                type $job = $crate::store_creation::StoreCreation;
                $body
            }
        }
    };
}

/// A job somebody asks for: a row of a file, or a follow-up of another job. Its id is derived, so equal requests are one job.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Request {
    BulkGrants(bulk_grants::Args),
    Email(email::Args),
    GiftIssuance(gift_issuance::Args),
    PointExchange(point_exchange::Args),
    PointExpiry(point_expiry::Args),
    PointGrant(point_grant::Args),
    PointReversal(point_reversal::Args),
    PointWithdrawal(point_withdrawal::Args),
    Probe(probe::Args),
    StoreCreation(store_creation::Args),
}

impl Request {
    pub const fn kind(&self) -> Kind {
        match self {
            Request::BulkGrants(_) => Kind::BulkGrants,
            Request::Email(_) => Kind::Email,
            Request::GiftIssuance(_) => Kind::GiftIssuance,
            Request::PointExchange(_) => Kind::PointExchange,
            Request::PointExpiry(_) => Kind::PointExpiry,
            Request::PointGrant(_) => Kind::PointGrant,
            Request::PointReversal(_) => Kind::PointReversal,
            Request::PointWithdrawal(_) => Kind::PointWithdrawal,
            Request::Probe(_) => Kind::Probe,
            Request::StoreCreation(_) => Kind::StoreCreation,
        }
    }

    pub fn id(&self) -> JobId {
        use machine::Job;
        match self {
            Request::BulkGrants(args) => bulk_grants::BulkGrants::id(args),
            Request::Email(args) => email::Email::id(args),
            Request::GiftIssuance(args) => gift_issuance::GiftIssuance::id(args),
            Request::PointExchange(args) => point_exchange::PointExchange::id(args),
            Request::PointExpiry(args) => point_expiry::PointExpiry::id(args),
            Request::PointGrant(args) => point_grant::PointGrant::id(args),
            Request::PointReversal(args) => point_reversal::PointReversal::id(args),
            Request::PointWithdrawal(args) => point_withdrawal::PointWithdrawal::id(args),
            Request::Probe(args) => probe::Probe::id(args),
            Request::StoreCreation(args) => store_creation::StoreCreation::id(args),
        }
    }
}
