//! What noshi's jobs do. Read `machine.rs` first, then any job: each file opens with its state table.
//!
//! Nothing here knows SQL, HTTP, a clock or a runtime; Cargo sees to that.

pub mod bulk_grants;
pub mod effect;
pub mod email;
pub mod gift_issuance;
pub mod machine;
pub mod money;
pub mod names;
pub mod point_exchange;
pub mod point_expiry;
pub mod point_grant;
pub mod point_reversal;
pub mod point_withdrawal;
pub mod points;
pub mod probe;
pub mod problem;
pub mod store_creation;
#[cfg(test)]
mod walk;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use machine::JobId;
pub use names::{Field, FollowUp, Holds, KindName, Presence};
pub use problem::Problem;

/// For so long a job waits for a worker that has the key of what is sealed for it; then it needs an operator.
const UNTIL_OPENED: Duration = Duration::from_secs(10 * 60);

/// From one list, everything that tells the kinds apart. `$d` is a dollar: rules inside of a rule need it.
macro_rules! kinds {
    ($d:tt $($module:ident::$kind:ident,)+) => {
        /// Every kind of job. The names are stored: they are permanent.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Kind {
            $($kind,)+
        }

        impl Kind {
            pub const ALL: [Kind; [$(Kind::$kind),+].len()] = [$(Kind::$kind),+];

            pub const fn name(self) -> &'static str {
                match self {
                    $(Kind::$kind => stringify!($module),)+
                }
            }

            pub const fn as_name(self) -> KindName {
                KindName::new(self.name())
            }
        }

        /// From a kind to its job: `with_job!(kind, J => f::<J>())`.
        #[macro_export]
        macro_rules! with_job {
            ($d kind:expr, $d job:ident => $d body:expr) => {
                match $d kind {
                    $($d crate::Kind::$kind => {
                        type $d job = $d crate::$module::$kind;
                        $d body
                    })+
                }
            };
        }

        /// A built-in job that somebody asks for: a row of a file, or a follow-up of another job. Its id is derived, so equal requests are one job.
        #[derive(Debug, Clone, PartialEq, Serialize)]
        #[serde(untagged)]
        pub enum Request {
            $($kind($module::Args),)+
        }

        impl Request {
            pub const fn kind(&self) -> Kind {
                match self {
                    $(Request::$kind(_) => Kind::$kind,)+
                }
            }

            pub fn id(&self) -> JobId {
                match self {
                    $(Request::$kind(args) => <$module::$kind as machine::Job>::id(args),)+
                }
            }
        }

        impl From<Request> for FollowUp {
            fn from(request: Request) -> FollowUp {
                match request {
                    $(Request::$kind(args) => FollowUp::of::<$module::$kind>(args),)+
                }
            }
        }
    };
}

// Each is a file and the job in it. The file's name is the stored one.
kinds! { $
    bulk_grants::BulkGrants,
    email::Email,
    gift_issuance::GiftIssuance,
    point_exchange::PointExchange,
    point_expiry::PointExpiry,
    point_grant::PointGrant,
    point_reversal::PointReversal,
    point_withdrawal::PointWithdrawal,
    probe::Probe,
    store_creation::StoreCreation,
}

impl Kind {
    /// The kind of that stored name; `None` where a newer version wrote it.
    pub fn from_name(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.name() == name)
    }
}
