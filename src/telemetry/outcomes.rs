//! What a call or a job came to, in the words that the metrics count: what can be counted is what is registered at 0.

macro_rules! outcomes {
    ($(#[$doc:meta])* $outcome:ident { $($variant:ident $name:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $outcome {
            $($variant,)+
        }

        impl $outcome {
            pub const ALL: [$outcome; [$($name),+].len()] = [$($outcome::$variant),+];

            pub const fn name(self) -> &'static str {
                match self {
                    $($outcome::$variant => $name,)+
                }
            }
        }
    };
}

outcomes! {
    /// Where a job came to rest.
    JobOutcome {
        Completed "completed",
        Failed "failed",
        Compensated "compensated",
        Cancelled "cancelled",
        NeedsOperator "needs_operator",
    }
}

outcomes! {
    /// What a call to a partner came to, whoever it is.
    CallOutcome {
        Ok "ok",
        Pending "pending",
        Known "known",
        Accepted "accepted",
        Resend "resend",
        Refused "refused",
        Throttled "throttled",
        NotSent "not_sent",
        Unknown "unknown",
        Dead "dead",
        Conflict "conflict",
        OutOfFunds "out_of_funds",
        BadCredentials "bad_credentials",
        NotFound "not_found",
        Failed "failed",
    }
}

/// An answer to a call that is counted.
pub trait Answer {
    fn outcome(&self) -> CallOutcome;
}
