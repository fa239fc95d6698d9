//! Every question that noshi can put to a person, and every reason for which it fails a job. Each has a page in `ops/runbook`, or one that
//! the program which adds it brings.

use std::{
    fmt,
    sync::{PoisonError, RwLock},
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::names::is_stored_name;

/// A problem: its code is stored, exported as a label, and the name of a runbook page. Codes are permanent.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Problem {
    code: &'static str,
    sentence: &'static str,
    japanese: &'static str,
}

/// Those of jobs that are not built in, as the program began with them.
static DECLARED: RwLock<Vec<Problem>> = RwLock::new(vec![]);

impl Problem {
    /// A problem of a job of one's own. In a constant, a code that cannot be one does not compile.
    ///
    /// # Panics
    /// Where the code cannot be one, or nothing is said of it.
    pub const fn of(code: &'static str, sentence: &'static str, japanese: &'static str) -> Problem {
        assert!(is_stored_name(code), "a code is 1 to 63 of a to z, 0 to 9 and _, and begins with a letter");
        assert!(!sentence.is_empty() && !japanese.is_empty(), "a problem is told in both languages");
        Problem { code, sentence, japanese }
    }

    pub const fn code(self) -> &'static str {
        self.code
    }

    /// What happened, what it means for the money, and what to do next.
    pub const fn sentence(self) -> &'static str {
        self.sentence
    }

    /// The same in a few Japanese words, for those who answer customers.
    pub const fn japanese(self) -> &'static str {
        self.japanese
    }

    /// Those that this program has, the built-in ones first.
    pub fn known() -> Vec<Problem> {
        let declared = DECLARED.read().unwrap_or_else(PoisonError::into_inner);
        Problem::ALL.iter().chain(declared.iter()).copied().collect()
    }

    /// Makes problems known, once, before the first job. Refused is a code that is known with another meaning.
    pub fn declare(problems: &[Problem]) -> Result<(), &'static str> {
        for problem in problems {
            match Problem::from_code(problem.code) {
                None => DECLARED.write().unwrap_or_else(PoisonError::into_inner).push(*problem),
                Some(known) if known.sentence == problem.sentence => {}
                Some(known) => return Err(known.code),
            }
        }
        Ok(())
    }

    /// The problem of that stored code; `None` where a newer version wrote it.
    pub fn from_code(code: &str) -> Option<Problem> {
        let is_it = |problem: &&Problem| problem.code == code;
        let declared = || DECLARED.read().unwrap_or_else(PoisonError::into_inner).iter().find(is_it).copied();
        Problem::ALL.iter().find(is_it).copied().or_else(declared)
    }
}

impl fmt::Debug for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code)
    }
}

impl Serialize for Problem {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.code)
    }
}

impl<'de> Deserialize<'de> for Problem {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Problem, D::Error> {
        let code = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Problem::from_code(&code).ok_or_else(|| de::Error::custom("this problem is not known"))
    }
}

macro_rules! problems {
    ($($variant:ident = $code:literal, $sentence:literal, $japanese:literal;)+) => {
        // Named as the variants of an enum, which each of them is for whoever matches.
        #[allow(non_upper_case_globals)]
        impl Problem {
            $(pub const $variant: Problem = Problem::of($code, $sentence, $japanese);)+

            /// The built-in ones.
            pub const ALL: &'static [Problem] = &[$(Problem::$variant,)+];
        }
    };
}

problems! {
    // Of the engine: any job may meet them.
    BadArgs = "bad_args", "The request could not be read; nothing was started. Correct it and enqueue it under a new id.",
        "依頼の内容を読み取れません。何も実行していません。";
    UnreadableState = "unreadable_state", "This version cannot read where the job stands; money may be in motion. Run the version that wrote it.",
        "この版では処理の状態を読み取れません。書き込んだ版で確認してください。";
    Poison = "poison", "The worker died each time it held this job; whether the last call arrived is not known. Inquire before any retry.",
        "処理のたびにワーカーが停止しました。最後の呼び出しの結果は不明です。";
    Panicked = "panicked", "The step panicked; if it had called out, the outcome is not known. Read the log, then inquire.",
        "処理中に異常が起きました。呼び出しの結果は不明の場合があります。";
    OverDeadline = "over_deadline", "The step did not end within its deadline; if it had called out, the outcome is not known. Inquire.",
        "処理が時間内に終わりませんでした。結果は不明の場合があります。";
    OutOfTries = "out_of_tries", "The step was tried as often as its terms allow and never came to an answer. Look at the provider, then retry.",
        "規定の回数試しましたが、回答が得られませんでした。";
    TooOld = "too_old", "The job is older than its kind allows, lane waits not counted. Find out what it was waiting for.",
        "処理が長期間終わっていません。";
    TooManySteps = "too_many_steps", "The job took more steps than its kind allows: it probably runs in a circle. Read its journal.",
        "処理の手順が多すぎます。循環している可能性があります。";
    UnsettledDoubt = "unsettled_doubt", "The job wanted to end while an earlier call's outcome is still not known. Inquire; do not retry blindly.",
        "以前の呼び出しの結果が不明のまま終わろうとしました。照会が必要です。";
    FollowUpConflict = "follow_up_conflict", "A follow-up job exists already with other arguments; the step was not recorded. Compare the two.",
        "後続の処理が別の内容で既に存在します。";
    LocalRefused = "local_refused", "Our own database refused the step for good; nothing of it was written. Read the worker's log for its words.",
        "データベースが処理を受け付けませんでした。何も記録していません。";
    SettleRefused = "settle_refused", "Our own database refuses to record what the step came to; a call may have been made. Inquire, and find out why it refuses.",
        "結果をデータベースに記録できませんでした。呼び出しは済んでいる可能性があります。";
    // Of gift issuance.
    GiftRefused = "gift_refused", "The provider refused the gift; no money moved. Correct the gift type or amount and grant anew.",
        "提携先がギフトの発券を断りました。代金は発生していません。";
    GiftRevoked = "gift_revoked", "An operator ended it: no gift was delivered, and none will be. Grant anew if the user should have one.",
        "運用担当者が取り消しました。ギフトは渡していません。";
    NoProvider = "no_provider", "No provider offers this gift in this amount; nothing was called.",
        "この金額のギフトを扱う提携先がありません。";
    GrantLapsed = "grant_lapsed", "The grant's validity passed before the gift was asked for; nothing was called.",
        "付与の有効期限が過ぎています。";
    TradeOccupied = "trade_occupied", "This grant already has a live trade under another job; nothing was called. Compare the two jobs.",
        "この付与には別の取引が進行中です。";
    GiftConflict = "gift_conflict", "The provider knows this trade id with another amount: our bug or a tampered row. Never retry; inspect both sides.",
        "提携先では同じ取引番号が別の金額で登録されています。";
    GiftVoid = "gift_void", "The trade is proven void: its code is dead and was not delivered. Decide: issue anew, or reject.",
        "取引は無効と確認されました。コードは渡していません。";
    NotFoundInDoubt = "not_found_in_doubt", "The provider does not know the trade, which proves nothing: it may still land. Ask the provider, then attest.",
        "提携先に取引が見つかりませんが、未発券とは言い切れません。";
    PastHorizon = "past_horizon", "The provider may have forgotten the trade id, so the same id could issue twice. Ask the provider, then attest.",
        "提携先が取引番号を忘れている可能性があります。確認が必要です。";
    DoubtUnresolved = "doubt_unresolved", "The outcome is not known and this provider offers nothing that could tell. Ask the provider, then attest.",
        "結果が不明で、提携先に照会する手段がありません。";
    ResendExhausted = "resend_exhausted", "The provider kept answering that it could not say; the gift may exist. Inquire or cancel with the provider.",
        "提携先が結果を答えませんでした。発券済みの可能性があります。";
    PendingTooLong = "pending_too_long", "The provider accepted the gift and has not finished it within a day. Ask the provider; never re-issue.",
        "提携先の処理が一日以上終わっていません。";
    CancelRefused = "cancel_refused", "The provider did not cancel the trade: the gift may be live. Decide: deliver it, or write it off.",
        "取り消しができませんでした。ギフトは有効な可能性があります。";
    // Of bulk grants.
    BatchNotApproved = "batch_not_approved", "The batch is not approved, or its approval ran out; nothing was granted. Have a second person approve it.",
        "承認がないか、承認の期限が切れています。何も付与していません。";
    BatchOverCap = "batch_over_cap", "The batch is over a cap; nothing was granted. Split the file, or have the owner raise the cap.",
        "上限を超えています。何も付与していません。";
    BatchDuplicates = "batch_duplicates", "Some grants of the batch exist already from another one; nothing was granted. Submit a corrected file.",
        "他の一括付与で付与済みの行があります。何も付与していません。";
    BatchCancelled = "batch_cancelled", "It was cancelled with its batch, and nothing was called for it: no grant stands. Submit the row again if that was a mistake.",
        "一括処理とともに取り消されました。何も実行していません。";
    // Of store creation.
    StoreConflict = "store_conflict", "A store of this public id exists with other content; nothing was created. Ask the customer which is right.",
        "同じ公開IDの店舗が別の内容で登録されています。";
    StoreRevoked = "store_revoked", "An operator cancelled it before a shop was made; nothing was created. If that was a mistake, rerun it, or where its batch was cancelled submit the row again.",
        "店舗を作成する前に、運用担当者が取り消しました。何も作成していません。";
    ShopAttestedVoid = "shop_attested_void", "An operator attested, with evidence, that no shop was created and none will be. Rerun creates it anew.",
        "店舗が作成されていないことを運用担当者が確認しました。";
    ShopRefused = "shop_refused", "The organisation platform refused the shop; nothing is left there. Correct the row and submit a new file.",
        "組織基盤が店舗の作成を断りました。内容を修正してください。";
    OrganizationRefused = "organization_refused", "The organisation may not have this service; its batch is paused. Fix the organisation, then resume.",
        "この組織ではサービスを利用できません。";
    AssignSpent = "assign_spent", "The service could not be assigned in many tries; the new shop is deleted again. Look at the platform, then rerun.",
        "サービスの割り当てに失敗したため、作成した店舗を取り消しました。";
    ShopKeyConflict = "shop_key_conflict", "The platform knows this key with other content: our bug or a tampered row. Never retry; compare both sides.",
        "組織基盤では同じ依頼番号が別の内容で登録されています。";
    ShopUnresolved = "shop_unresolved", "Whether the shop was created is not known, and the platform may have forgotten the key. Look there, then attest.",
        "店舗が作成されたか不明です。確認が必要です。";
    CompensationStuck = "compensation_stuck", "A shop that should be deleted is still there after an hour of trying. It is tried for ever; find out why.",
        "取り消すべき店舗が一時間以上削除できていません。";
    CompensationRefused = "compensation_refused", "The platform refuses to delete a shop that was taken back. Decide: adopt it, or delete it by hand.",
        "取り消すべき店舗の削除を組織基盤が断りました。";
    // Of e-mail.
    MailRejected = "mail_rejected", "The mail service refused the message; it was not sent. The grant behind it stands. Correct and rerun.",
        "メールの送信が断られました。付与は有効です。";
    MailRevoked = "mail_revoked", "An operator cancelled the mail before it was sent. Rerun sends it, as long as the grant behind it stands.",
        "送信の前に、運用担当者がメールを取り消しました。";
    MailBounced = "mail_bounced", "The message was sent and came back; the address is suppressed. The grant behind it stands.",
        "メールが届きませんでした。付与は有効です。";
    AddressSuppressed = "address_suppressed", "The address bounced or complained before, so nothing was sent. The grant behind it stands.",
        "この宛先への送信は停止されています。付与は有効です。";
    NoRecipient = "no_recipient", "No address is kept for this mail, so nothing was sent. The grant behind it stands.",
        "宛先が登録されていません。付与は有効です。";
    MailUnresolved = "mail_unresolved", "Whether the message was sent is not known, and it may not be sent again by itself. Look, then resend or attest.",
        "メールが送信されたか不明です。";
    // Of points.
    PointsInsufficient = "points_insufficient", "The user has too few points that may be used there; none were used and no gift was ordered.",
        "使えるポイントが足りません。ポイントは減っていません。";
    PointsConflict = "points_conflict", "The journal knows this operation with other content; nothing was booked. Compare the two.",
        "同じ依頼番号の仕訳が別の内容で既に存在します。何も記帳していません。";
    PointsRevoked = "points_revoked", "An operator cancelled it before anything was booked; no points moved.",
        "記帳の前に取り消されました。ポイントは動いていません。";
    UserWithdrawn = "user_withdrawn", "The user has withdrawn; nothing was booked.",
        "退会済みの利用者です。何も記帳していません。";
    ReversalRefused = "reversal_refused", "The exchange's gift is not over without a gift, so its points were not given back. Look at the gift's job.",
        "交換のギフトが未発券と確定していないため、ポイントを返還していません。";
    // Of effects that a contract declares.
    EffectMisfit = "effect_misfit", "What was given does not fit the effect's contract; nothing was called. Correct it, and ask under another id.",
        "依頼内容が契約と合いません。何も実行していません。";
    EffectRefused = "effect_refused", "The partner refused the effect; nothing was done there. Ask the partner why, then rerun.",
        "提携先が依頼を断りました。何も実行されていません。";
    EffectRevoked = "effect_revoked", "An operator cancelled the effect before anything was called. Rerun calls it after all.",
        "実行の前に、運用担当者が取り消しました。";
    EffectCancelled = "effect_cancelled", "The effect was taken back at the partner, which confirmed it. Rerun performs it anew under another id.",
        "提携先で取り消されたことを確認しました。";
    EffectAttestedVoid = "effect_attested_void", "An operator attested, with evidence, that the effect did not happen and will not. Rerun performs it anew.",
        "実行されていないことを運用担当者が確認しました。";
    EffectUndeclared = "effect_undeclared", "No worker has the effect's contract, so nothing was called. Give them its file and retry, or cancel.",
        "契約ファイルがないため、何も実行していません。";
    EffectUnresolved = "effect_unresolved", "Whether the effect happened is not known, and its contract can tell no more. Ask the partner, then attest.",
        "実行されたか不明です。提携先への確認が必要です。";
    EffectPending = "effect_pending", "The partner accepted the effect and has not finished it within its deadline. Ask the partner; never ask for it again.",
        "提携先の処理が期限内に終わっていません。";
    EffectNotCancelled = "effect_not_cancelled", "The effect should be taken back, and the partner does not confirm that it was. Look there, then attest.",
        "取り消しを提携先で確認できません。";
    // Of what is sealed.
    NotOpened = "not_opened", "What is sealed for it does not open with the workers' keys, so nothing was called. Give them the key and retry, or end the job.",
        "封をした情報を開けないため、何も実行していません。";
    // Of the probe.
    ProbeRefused = "probe_refused", "The probe was told to refuse; nothing outside was touched.",
        "試験用の処理が断られました。";
    ProbeAsked = "probe_asked", "The probe was told to need an operator; nothing outside was touched.",
        "試験用の処理が確認を求めています。";
}
