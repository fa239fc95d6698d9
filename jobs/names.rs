//! Names that are stored, and so permanent: what a job is called, and what its arguments may hold.

use std::{any::Any, fmt, sync::Arc};

use crate::{
    Kind,
    machine::{Job, JobId},
};

/// The stored name of a kind of job: permanent. Lower-case letters, digits and `_`, at most 63, and a letter first.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KindName(&'static str);

impl KindName {
    /// In a constant, a name that cannot be one does not compile.
    ///
    /// ```compile_fail
    /// const KIND: noshi_jobs::KindName = noshi_jobs::KindName::new("Refund!");
    /// ```
    ///
    /// # Panics
    /// Where it cannot be one.
    pub const fn new(name: &'static str) -> KindName {
        assert!(is_stored_name(name), "a kind is 1 to 63 of a to z, 0 to 9 and _, and begins with a letter");
        KindName(name)
    }

    pub const fn name(self) -> &'static str {
        self.0
    }
}

impl From<Kind> for KindName {
    fn from(kind: Kind) -> KindName {
        kind.as_name()
    }
}

impl fmt::Display for KindName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl fmt::Debug for KindName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// What may stand as a name in a column, a label and a file's name.
pub(crate) const fn is_stored_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let fits = bytes[at].is_ascii_lowercase() || (at > 0 && (bytes[at].is_ascii_digit() || bytes[at] == b'_'));
        if !fits {
            return false;
        }
        at += 1;
    }
    0 < at && at <= 63
}

/// A job that another one asks for: committed with the transition, or not at all. Its id is derived, so equal requests are one job.
#[derive(Clone)]
pub struct FollowUp {
    kind: KindName,
    id: JobId,
    // Written down by whoever knows the kind; this crate knows no format.
    args: Arc<dyn Any + Send + Sync>,
}

impl FollowUp {
    pub fn of<J: Job>(args: J::Args) -> FollowUp {
        FollowUp { kind: J::KIND, id: J::id(&args), args: Arc::new(args) }
    }

    pub const fn kind(&self) -> KindName {
        self.kind
    }

    pub const fn id(&self) -> &JobId {
        &self.id
    }

    /// Its arguments, where it is of this kind.
    pub fn args<J: Job>(&self) -> Option<&J::Args> {
        self.args.downcast_ref().filter(|_| self.kind == J::KIND)
    }
}

impl PartialEq for FollowUp {
    /// Equal requests have equal ids.
    fn eq(&self, other: &FollowUp) -> bool {
        (self.kind, &self.id) == (other.kind, &other.id)
    }
}

impl fmt::Debug for FollowUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.id)
    }
}

/// What a field of a job's arguments may hold. Lengths are in bytes.
#[derive(Debug, Clone, Copy)]
pub enum Holds {
    /// An id: what can be seen, without a space at either end.
    Id {
        most: usize,
    },
    /// An id of a person or a request, in which an address would be a mistake: it is logged and shown.
    NoAddress {
        most: usize,
    },
    /// Letters and digits of ASCII, `-`, `_` and `.`.
    Word {
        most: usize,
    },
    /// Anything that can be shown.
    Text {
        most: usize,
    },
    Phone,
    Whole {
        least: i64,
        most: i64,
    },
    /// Minor units of a currency.
    Amount,
    OneOf(&'static [&'static str]),
    Object(&'static [Field]),
    /// An object whose values are texts.
    Texts,
    /// Only noshi itself may set it.
    Nothing,
    /// Files and HTTP take it plain, and seal it. The database takes none: what it was given would stand in its log.
    Sealed(&'static Holds),
    /// What was sealed of those, as `noshi vault seal-contact` prints it: for the database alone. Files and HTTP make it themselves.
    Contact,
}

/// Whether a field must be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    Needed,
    /// It may be left out, and `null` is the same as left out.
    Optional,
    /// It may be left out, and then has a value that is not `null`.
    Defaulted,
}

/// A field of a job's arguments, as every entry point checks it.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    pub name: &'static str,
    pub presence: Presence,
    pub holds: Holds,
}

impl Field {
    pub const fn needed(name: &'static str, holds: Holds) -> Field {
        Field { name, presence: Presence::Needed, holds }
    }

    pub const fn optional(name: &'static str, holds: Holds) -> Field {
        Field { name, presence: Presence::Optional, holds }
    }

    pub const fn defaulted(name: &'static str, holds: Holds) -> Field {
        Field { name, presence: Presence::Defaulted, holds }
    }
}
