//! All words of the console, each in both languages: one that is missing does not compile.

use noshi_jobs::machine::Act;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    English,
    Japanese,
}

impl Language {
    pub const fn code(self) -> &'static str {
        match self {
            Language::English => "en",
            Language::Japanese => "ja",
        }
    }

    pub fn from_code(code: &str) -> Option<Language> {
        [Language::English, Language::Japanese].into_iter().find(|language| language.code() == code)
    }

    /// The first that a browser asks for, of those that there are.
    pub fn accepted(header: &str) -> Language {
        let asked = header.split(',').map(|part| part.split([';', '-']).next().unwrap_or_default().trim());
        asked.filter_map(Language::from_code).next().unwrap_or(Language::English)
    }

    pub const fn words(self) -> &'static Words {
        match self {
            Language::English => &ENGLISH,
            Language::Japanese => &JAPANESE,
        }
    }
}

macro_rules! words {
    ($($name:ident: $english:literal, $japanese:literal;)+) => {
        pub struct Words { $(pub $name: &'static str,)+ }
        const ENGLISH: Words = Words { $($name: $english,)+ };
        const JAPANESE: Words = Words { $($name: $japanese,)+ };
    };
}

words! {
    other_language: "日本語", "English";
    sign_in: "Sign in", "サインイン";
    sign_out: "Sign out", "サインアウト";
    token: "Token", "トークン";
    token_hint: "A token of your own that may read, as `noshi token create` shows it once. It is exchanged for a session, which ends after 30 minutes without use.", "`noshi token create` が一度だけ表示する、読み取りできるご自身のトークンです。セッションと交換され、30分間操作がないと終了します。";
    not_signed_in: "This token is unknown, expired, revoked, or may not read.", "このトークンは不明・期限切れ・失効済み、または読み取りの権限がありません。";
    too_many: "Too many attempts failed. Wait a minute, then try again.", "失敗が続きました。1分待ってからやり直してください。";
    sign_in_again: "This act takes a sign-in of the last 15 minutes.", "この操作には15分以内のサインインが必要です。";
    skip: "Skip to the page", "本文へ移動";
    overview: "Overview", "概要";
    jobs: "Jobs", "ジョブ";
    batches: "Batches", "一括処理";
    file: "File", "ファイル";
    rows: "rows", "行";
    users: "users", "ユーザー";
    still_open: "open", "未完了";
    progress: "Progress", "進み具合";
    its_jobs: "Its jobs", "この一括処理のジョブ";
    mails: "Mails", "メール";
    sent: "sent", "送信済み";
    compensated: "Compensated", "取消済み";
    does_not_add_up: "This does not add up: see the runbook, batch_equation_broken", "合計が一致しません。手順書 batch_equation_broken を参照してください";
    objection: "It may not be granted as it is", "このままでは付与できません";
    campaign: "Campaign", "キャンペーン";
    issues: "Gifts", "ギフト";
    issues_at_once: "each bought at once", "すべて直ちに発注";
    issues_when_asked: "each bought when its user asks", "ユーザーの請求時に発注";
    announced: "each announced by mail", "メールで案内";
    file_digest: "SHA-256 of the file", "ファイルの SHA-256";
    approval_digest: "An approval covers file, options and addresses", "承認の対象（ファイル・指定・宛先）";
    submitted_by: "Submitted by", "提出者";
    approved_by: "Approved by", "承認者";
    released_by: "Released by", "実行開始者";
    nobody_yet: "nobody yet", "まだいません";
    faults: "Faults of the file", "ファイルの誤り";
    invalid_means: "Nothing of this file was taken. A fixed file is a batch of its own.", "このファイルは一切受け付けていません。修正したファイルは別の一括処理になります。";
    line: "Line", "行番号";
    field: "Field", "項目";
    another_person: "You submitted this batch: another person must approve it.", "ご自身が提出した一括処理です。承認は別の担当者が行います。";
    approve: "Approve", "承認する";
    approve_does: "says, in your name, that this is what may be granted; a worker first compares what is staged with the file. Nothing is granted yet", "この内容で付与してよいことを、あなたの名前で承認します。先にワーカーが取り込み内容をファイルと照合します。まだ何も付与されません";
    own_copy: "SHA-256 of your own copy of the file, as `sha256sum` prints it", "お手元のファイルの SHA-256（`sha256sum` の出力）";
    release: "Release", "実行開始";
    release_does: "lets every row begin; what is granted is not taken back", "すべての行の処理を始めます。付与したものは取り消せません";
    cancel: "Cancel", "取り消す";
    pause_batch_does: "holds back every row that has not begun a call; what had begun goes on", "呼び出しを始めていない行をすべて止めます。始まったものは続きます";
    resume_batch_does: "lets its rows go on", "残りの行の処理を再開します";
    cancel_batch_does: "ends it: before its release all of it, after that each row that has not begun; what was done stays", "終了します。実行開始前はすべて、開始後は始まっていない行が対象です。完了したものは残ります";
    ended_with_it: "jobs that were waiting ended with it, never called", "件の待機中ジョブが、呼び出しなしで終了しました";
    approved_until: "Approved until", "承認の期限：";
    received: "being received", "受信中";
    invalid: "invalid", "不正";
    validated: "checked", "検査済み";
    awaiting_approval: "awaits approval", "承認待ち";
    approved: "approved", "承認済み";
    released: "released", "実行中";
    refused: "refused", "拒否";
    parked: "waits for a person", "担当者待ち";
    settled: "settled", "完結";
    lanes: "Lanes", "レーン";
    doubt: "In doubt", "結果不明";
    workers: "Workers", "ワーカー";
    audit: "Audit", "監査記録";
    proposals: "Proposals", "提案";
    schedules: "Schedules", "スケジュール";
    runbook: "Runbook", "手順書";
    find: "Find a job, user, grant, trade or store", "ジョブ・ユーザー・付与・取引・店舗を探す";
    find_short: "Find", "検索";
    as_of: "as of", "時点";
    pause_live: "Pause updates", "更新を止める";
    go_live: "Resume updates", "更新を再開";
    stale: "No answer: these numbers are old", "応答なし：表示は古い内容です";
    nothing_needs_you: "Nothing needs you", "対応が必要なものはありません";
    needs_you: "Needs a person", "担当者の対応待ち";
    worker_none: "No worker is alive: nothing moves", "稼働中のワーカーがありません。処理は進みません";
    taken: "Numbers taken", "集計時刻";
    ago: "ago", "前";
    money_in_doubt: "Money may have moved", "代金が動いた可能性";
    lanes_shut: "Lanes shut", "停止中のレーン";
    batches_waiting: "Batches to approve", "承認待ちの一括処理";
    redrives_running: "Re-drives running", "実行中の再処理";
    workers_alive: "Workers alive", "稼働中のワーカー";
    problems: "Problems", "問題";
    code: "Code", "コード";
    meaning: "Meaning", "意味";
    count: "Count", "件数";
    oldest: "Oldest", "最古";
    open_jobs: "Open jobs", "未完了のジョブ";
    kind: "Kind", "種類";
    status: "Status", "状態";
    any: "any", "すべて";
    show: "Show", "表示";
    number: "Number", "番号";
    id: "Id", "ID";
    stands_at: "State", "現在の段階";
    lane: "Lane", "レーン";
    batch: "Batch", "一括処理";
    since: "Since", "経過";
    of: "Of (user, grant, trade, store)", "対象（ユーザー・付与・取引・店舗）";
    only_in_doubt: "In doubt only", "結果不明のみ";
    older: "Older", "以前の分";
    no_jobs: "No job answers this.", "該当するジョブはありません。";
    nothing_found: "Nothing goes by this id. It may be a job's number or id, or the id of a user, a grant, a trade or a store.", "このIDに該当するものはありません。ジョブの番号またはID、ユーザー・付与・取引・店舗のIDで検索できます。";
    why: "Why it stands where it stands", "現在の状況";
    machine: "Its states, and the path it took", "状態遷移と経路";
    machine_key: "Numbers: the path so far. Dashed: what an operator may lead to.", "数字：これまでの経路。破線：運用担当者の操作で進む先。";
    journal: "Journal", "履歴";
    when: "When", "日時";
    event: "Event", "出来事";
    became: "Became", "遷移先";
    answer: "Answer", "結果";
    detail: "Detail", "詳細";
    worker: "Worker", "ワーカー";
    asked_for: "What was asked for", "依頼の内容";
    hidden: "not shown here", "ここでは非表示";
    worth: "Worth", "金額";
    acts: "What you may do", "できる操作";
    no_acts: "Nothing may be done here.", "ここでできる操作はありません。";
    may_not_operate: "Your session may read only.", "このセッションは読み取り専用です。";
    reason: "Reason, for the audit", "理由（監査記録に残ります）";
    leads_to: "leads to", "遷移先";
    pruned: "This job ended and was pruned", "このジョブは終了し、整理済みです";
    recorded: "Recorded", "記録しました";
    recorded_act: "The act is recorded in the audit, and a worker sees to it.", "操作は監査記録に残り、ワーカーが実行します。";
    recorded_proposal: "It takes a second person's word. A proposal was made:", "二人目の確認が必要です。提案を作成しました：";
    recorded_done: "The act is recorded in the audit, and holds from now on.", "操作は監査記録に残り、直ちに有効です。";
    back: "Back", "戻る";
    open: "open", "稼働中";
    paused: "paused", "一時停止";
    closed: "closed", "停止";
    throttled: "throttled", "流量制限中";
    waiting: "Waiting", "待機中";
    budget: "Budget", "流量枠";
    by: "by", "担当";
    pause: "Pause", "一時停止する";
    resume: "Resume", "再開する";
    pause_does: "holds back every call of this lane, for the whole fleet, until it is resumed", "このレーンの呼び出しを再開までの間すべて止めます";
    resume_does: "opens the lane for the whole fleet; its waiting jobs begin to call", "レーンを開き、待機中のジョブが呼び出しを始めます";
    last_answer: "Last answer", "直近の結果";
    name: "Name", "名前";
    started: "Started", "開始";
    heard: "Heard", "最終応答";
    in_flight: "In flight", "処理中";
    who: "Who", "実行者";
    act: "Act", "操作";
    target: "Target", "対象";
    next_due: "Next due", "次回";
    last_due: "Last fired", "前回";
    skipped: "Skipped", "見送り";
    proposed_by: "Proposed by", "提案者";
    expires: "Expires", "期限";
    confirm: "Confirm", "確認して実行";
    refuse: "Refuse", "却下";
    confirm_does: "carries it out at once, in your name and the proposer's", "直ちに実行します。提案者とあなたの名前が残ります";
    refuse_does: "ends the proposal; nothing is done", "提案を終わらせます。何も実行しません";
    none: "None.", "ありません。";
    shortcuts: "Keyboard", "キーボード";
    shortcuts_list: "/ find · g o overview · g j jobs · g b batches · g l lanes · g d in doubt · g w workers · g a audit · p pause updates", "/ 検索 · g o 概要 · g j ジョブ · g b 一括処理 · g l レーン · g d 結果不明 · g w ワーカー · g a 監査記録 · p 更新を止める";
    in_doubt: "in doubt", "結果不明";
    scheduled: "scheduled", "予定";
    available: "available", "実行待ち";
    running: "running", "処理中";
    retryable: "retryable", "再試行待ち";
    needs_operator: "needs operator", "担当者待ち";
    completed: "completed", "完了";
    failed: "failed", "失敗";
    cancelled: "cancelled", "取消";
    compensating: "compensating", "取消処理中";
    alive: "alive", "稼働中";
    silent: "silent", "応答なし";
    stopped: "stopped", "停止済み";
    dead: "dead", "死亡と判定";
}

impl Words {
    /// A stored word as people read it; one of a newer version as it stands.
    pub fn status<'a>(&'a self, stored: &'a str) -> &'a str {
        match stored {
            "scheduled" => self.scheduled,
            "available" => self.available,
            "running" => self.running,
            "retryable" => self.retryable,
            "needs_operator" => self.needs_operator,
            "completed" => self.completed,
            "failed" => self.failed,
            "cancelled" => self.cancelled,
            "compensating" => self.compensating,
            "alive" => self.alive,
            "silent" => self.silent,
            "stopped" => self.stopped,
            "dead" => self.dead,
            "open" => self.open,
            "paused" => self.paused,
            "closed" => self.closed,
            "throttled" => self.throttled,
            "in_doubt" => self.in_doubt,
            "received" => self.received,
            "invalid" => self.invalid,
            "validated" => self.validated,
            "awaiting_approval" => self.awaiting_approval,
            "approved" => self.approved,
            "released" => self.released,
            "refused" => self.refused,
            "parked" => self.parked,
            "settled" => self.settled,
            other => other,
        }
    }
}

/// What an act does, to whoever is about to ask for it.
pub const fn meaning(language: Language, act: Act) -> &'static str {
    let japanese = match act {
        Act::Retry => "同じ番号のまま、現在の段階から続けます",
        Act::Inquire => "呼び出しの結果を提携先に照会します。これだけで発注は起きません",
        Act::Cancel => "終了します。提携先で取り消せるものは取り消します",
        Act::AttestVoid => "証拠に基づき、効果が生じておらず今後も生じないことを、あなたの言葉として記録します",
        Act::Reissue => "新しい番号で新しい取引を始めます",
        Act::Reject => "発券不可として終了します",
        Act::AttestDone => "証拠に基づき、効果が生じたことを、あなたの言葉として記録します",
        Act::Rerun => "新しい番号で最初からやり直します",
        Act::Adopt => "取り消せなかったものを、成功したものとして残します",
        Act::Dismiss => "読み取れない行を終わらせます。呼び出しは行われていません",
        Act::Acknowledge => "確認済みとし、警告の対象から外します。ジョブはそのままです",
    };
    match language {
        Language::English => crate::operator::acts::meaning(act),
        Language::Japanese => japanese,
    }
}

#[cfg(test)]
mod tests {
    use super::Language;

    #[test]
    fn a_browser_is_answered_in_its_language() {
        for (header, code) in
            [("ja", "ja"), ("ja-JP,ja;q=0.9,en;q=0.8", "ja"), ("fr, en;q=0.5", "en"), ("", "en"), ("de", "en")]
        {
            assert_eq!(Language::accepted(header).code(), code, "{header}");
        }
    }
}
