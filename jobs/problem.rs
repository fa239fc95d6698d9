//! Every question that noshi can put to a person, and every reason for which it fails a job. Each has a page in `ops/runbook`.

use serde::{Deserialize, Serialize};

macro_rules! problems {
    ($($(#[$doc:meta])* $variant:ident = $code:literal, $sentence:literal;)+) => {
        /// A problem code: stored, exported as a label, and the name of a runbook page. Codes are permanent.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Problem { $($(#[$doc])* $variant,)+ }

        impl Problem {
            pub const ALL: &'static [Problem] = &[$(Problem::$variant,)+];

            pub const fn code(self) -> &'static str {
                match self { $(Problem::$variant => $code,)+ }
            }

            /// What happened, what it means for the money, and what to do next.
            pub const fn sentence(self) -> &'static str {
                match self { $(Problem::$variant => $sentence,)+ }
            }
        }
    };
}

problems! {
    // Of the engine: any job may meet them.
    BadArgs = "bad_args", "The request could not be read; nothing was started. Correct it and enqueue it under a new id.";
    UnreadableState = "unreadable_state", "This version cannot read where the job stands; money may be in motion. Run the version that wrote it.";
    Poison = "poison", "The worker died each time it held this job; whether the last call arrived is not known. Inquire before any retry.";
    Panicked = "panicked", "The step panicked; if it had called out, the outcome is not known. Read the log, then inquire.";
    OverDeadline = "over_deadline", "The step did not end within its deadline; if it had called out, the outcome is not known. Inquire.";
    OutOfTries = "out_of_tries", "The step was tried as often as its terms allow and never came to an answer. Look at the provider, then retry.";
    TooOld = "too_old", "The job is older than its kind allows, lane waits not counted. Find out what it was waiting for.";
    TooManySteps = "too_many_steps", "The job took more steps than its kind allows: it probably runs in a circle. Read its journal.";
    UnsettledDoubt = "unsettled_doubt", "The job wanted to end while an earlier call's outcome is still not known. Inquire; do not retry blindly.";
    FollowUpConflict = "follow_up_conflict", "A follow-up job exists already with other arguments; the step was not recorded. Compare the two.";
    // Of gift issuance.
    GiftRefused = "gift_refused", "The provider refused the gift; no money moved. Correct the gift type or amount and grant anew.";
    NoProvider = "no_provider", "No provider offers this gift in this amount; nothing was called.";
    GrantLapsed = "grant_lapsed", "The grant's validity passed before the gift was asked for; nothing was called.";
    TradeOccupied = "trade_occupied", "This grant already has a live trade under another job; nothing was called. Compare the two jobs.";
    GiftConflict = "gift_conflict", "The provider knows this trade id with another amount: our bug or a tampered row. Never retry; inspect both sides.";
    GiftVoid = "gift_void", "The trade is proven void: its code is dead and was not delivered. Decide: issue anew, or reject.";
    NotFoundInDoubt = "not_found_in_doubt", "The provider does not know the trade, which proves nothing: it may still land. Ask the provider, then attest.";
    PastHorizon = "past_horizon", "The provider may have forgotten the trade id, so the same id could issue twice. Ask the provider, then attest.";
    DoubtUnresolved = "doubt_unresolved", "The outcome is not known and this provider offers nothing that could tell. Ask the provider, then attest.";
    ResendExhausted = "resend_exhausted", "The provider kept answering that it could not say; the gift may exist. Inquire or cancel with the provider.";
    PendingTooLong = "pending_too_long", "The provider accepted the gift and has not finished it within a day. Ask the provider; never re-issue.";
    CancelRefused = "cancel_refused", "The provider did not cancel the trade: the gift may be live. Decide: deliver it, or write it off.";
    // Of bulk grants.
    BatchNotApproved = "batch_not_approved", "The batch is not approved, or its approval ran out; nothing was granted. Have a second person approve it.";
    BatchOverCap = "batch_over_cap", "The batch is over a cap; nothing was granted. Split the file, or have the owner raise the cap.";
    BatchDuplicates = "batch_duplicates", "Some grants of the batch exist already from another one; nothing was granted. Submit a corrected file.";
    BatchCancelled = "batch_cancelled", "The batch was cancelled before its grants were registered; nothing was granted.";
    // Of store creation.
    StoreConflict = "store_conflict", "A store of this public id exists with other content; nothing was created. Ask the customer which is right.";
    ShopRefused = "shop_refused", "The organisation platform refused the shop; nothing is left there. Correct the row and submit a new file.";
    OrganizationRefused = "organization_refused", "The organisation may not have this service; its batch is paused. Mend the organisation, then resume.";
    AssignSpent = "assign_spent", "The service could not be assigned in many tries; the new shop is deleted again. Look at the platform, then rerun.";
    ShopKeyConflict = "shop_key_conflict", "The platform knows this key with other content: our bug or a tampered row. Never retry; compare both sides.";
    ShopUnresolved = "shop_unresolved", "Whether the shop was created is not known, and the platform may have forgotten the key. Look there, then attest.";
    CompensationStuck = "compensation_stuck", "A shop that should be deleted is still there after an hour of trying. It is tried for ever; find out why.";
    CompensationRefused = "compensation_refused", "The platform refuses to delete a shop that was taken back. Decide: adopt it, or delete it by hand.";
    // Of e-mail.
    MailRejected = "mail_rejected", "The mail service refused the message; it was not sent. The grant behind it stands. Correct and rerun.";
    MailBounced = "mail_bounced", "The message was sent and came back; the address is suppressed. The grant behind it stands.";
    AddressSuppressed = "address_suppressed", "The address bounced or complained before, so nothing was sent. The grant behind it stands.";
    NoRecipient = "no_recipient", "No address is kept for this mail, so nothing was sent. The grant behind it stands.";
    MailUnresolved = "mail_unresolved", "Whether the message was sent is not known, and it may not be sent again by itself. Look, then resend or attest.";
    // Of the probe.
    ProbeRefused = "probe_refused", "The probe was told to refuse; nothing outside was touched.";
    ProbeAsked = "probe_asked", "The probe was told to ask a person; nothing outside was touched.";
}
