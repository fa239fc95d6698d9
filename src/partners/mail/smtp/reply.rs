//! Whose fact a reply of a mail server states, and what it means for the mail. Replies before and to the body alike are definite: the mail
//! was not taken.
//!
//! A code says less than its place: 452 to the recipient is one full mailbox, 452 to the sender a server without room. A recipient's
//! fact holds nobody else's mail up; what would meet every mail closes the lane at the first.

use std::time::Duration;

use lettre::Address;
use noshi_jobs::email::Send;

use crate::partners::whose::{Verdict, Whose};

/// After a reply that the server has too much to do, or closes.
pub const LATER: Duration = Duration::from_secs(60);
/// After a reply that the day's quota is used up.
const NO_QUOTA: Duration = Duration::from_secs(600);

/// What was being said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Greeting,
    StartTls,
    Auth,
    Sender,
    Recipient,
    Announcement,
    Body,
}

impl Part {
    pub const fn words(self) -> &'static str {
        match self {
            Part::Greeting => "connecting",
            Part::StartTls => "starting TLS",
            Part::Auth => "authenticating",
            Part::Sender => "naming the sender",
            Part::Recipient => "naming the recipient",
            Part::Announcement => "announcing the body",
            Part::Body => "the body",
        }
    }
}

/// `text` is the server's own, and may quote the recipient, who must not be able to speak for the account.
pub fn read(part: Part, code: u16, text: &str, to: Option<&Address>) -> Verdict<Send> {
    let text = own_words(text, to);
    let later = |wait| Verdict::new(Whose::Account, Send::Throttled(wait));
    let refused = Verdict::new(Whose::Account, Send::BadCredentials);
    let sender = Verdict::new(Whose::Account, Send::Sender);
    let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
    // X.1 is an address and X.2 a mailbox: the recipient's, but for 7 and 8, which are the sender's.
    let of_an_address = ["5.1.", "5.2.", "4.1.", "4.2."].iter().any(|class| text.starts_with(class))
        && !["5.1.7", "5.1.8", "4.1.7", "4.1.8"].iter().any(|class| text.starts_with(class));
    let of_the_recipient = of_an_address || has(&["recipient address rejected", "recipient rejected"]);
    // X.7.0: too many errors, too fast.
    let of_the_policy = text.starts_with("4.7.") || has(&["too many", "rate"]);
    // "Account disabled", said of a recipient, is the recipient's.
    let of_the_account = has(HOST) || (part != Part::Recipient && has(STANDING));
    match (part, code) {
        // The server closes, or too fast, or the directory of its users is away: whoever comes next meets it too.
        (_, 421 | 454) if has(&["daily message quota"]) => later(NO_QUOTA),
        // Said of this recipient or this body: should the server close for all, the next greeting tells.
        (Part::Recipient, 421) if !of_the_policy => Verdict::new(Whose::Recipient, Send::NotNow),
        (Part::Announcement | Part::Body, 421) if !of_the_policy => Verdict::new(Whose::Message, Send::NotNow),
        (_, 421 | 454) => later(LATER),
        // Log in first, by another way, or with TLS.
        (_, 530 | 534 | 535 | 538) => refused,
        (Part::Greeting | Part::StartTls | Part::Auth, 500..) => refused,
        (Part::Greeting | Part::StartTls | Part::Auth, _) => later(LATER),
        // Too large, at the place where the sender is named.
        (Part::Sender, 552) => message(code),
        (Part::Sender, 500..) if of_the_account => refused,
        (Part::Sender, 500..) => sender,
        (Part::Sender, _) => later(LATER),
        // Servers judge all that came before when the recipient is named.
        (Part::Recipient | Part::Announcement | Part::Body, 500..) if !of_the_recipient && has(SENDER) => sender,
        (Part::Recipient | Part::Announcement | Part::Body, 500..) if !of_the_recipient && of_the_account => refused,
        (Part::Recipient | Part::Announcement | Part::Body, ..500)
            if !of_the_recipient && (has(SENDER) || of_the_account) =>
        {
            later(LATER)
        }
        (Part::Recipient, 500..) => Verdict::new(Whose::Recipient, Send::Rejected(format!("smtp_{code}"))),
        (Part::Recipient, _) => Verdict::new(Whose::Recipient, Send::NotNow),
        (Part::Announcement, 452) => later(LATER),
        (Part::Body, 452) if system_storage(&text) => later(LATER),
        // A mailbox that is full may be told after the body only.
        (Part::Body, 452) => Verdict::new(Whose::Recipient, Send::NotNow),
        (Part::Body, 552) if text.starts_with("5.2.2") => {
            Verdict::new(Whose::Recipient, Send::Rejected(format!("smtp_{code}")))
        }
        (Part::Announcement | Part::Body, 500..) => message(code),
        (Part::Announcement | Part::Body, _) => Verdict::new(Whose::Message, Send::NotNow),
    }
}

fn message(code: u16) -> Verdict<Send> {
    Verdict::new(Whose::Message, Send::Rejected(format!("smtp_{code}")))
}

/// X.3.1: the mail system is full, which no mailbox is.
fn system_storage(text: &str) -> bool {
    text.starts_with("4.3.")
}

/// The sender is not one that this account may send from.
const SENDER: &[&str] = &[
    "not verified",
    "sender address rejected",
    "sender rejected",
    "not owned by user",
    "send as this",
    "sendasdenied",
    "not allowed to send from",
    "not authorized to send from",
];
/// This host may not send, or not without logging in.
const HOST: &[&str] = &[
    "relay access denied",
    "relaying denied",
    "relaying not allowed",
    "relay not permitted",
    "not permitted to relay",
    "unable to relay",
    "client host rejected",
    "client host blocked",
    "helo command rejected",
    "authentication required",
    "not authenticated",
];
/// The account may not send for now.
const STANDING: &[&str] = &[
    "sending paused",
    "sending is paused",
    "sending has been paused",
    "sending disabled",
    "sending is disabled",
    "account suspended",
    "account is suspended",
    "account disabled",
    "account is disabled",
    "account has been",
    "account is paused",
];

/// In small letters, without what the server quotes: whatever stands in angle brackets, and the recipient however it is written.
fn own_words(text: &str, to: Option<&Address>) -> String {
    let mut words = String::with_capacity(text.len());
    let mut depth = 0_u32;
    for letter in text.chars() {
        match letter {
            '<' => depth += 1,
            '>' => depth = depth.saturating_sub(1),
            letter if depth == 0 => words.extend(letter.to_lowercase()),
            _ => {}
        }
    }
    let Some(to) = to else { return words };
    let whole = to.to_string().to_lowercase();
    let local = to.user().to_lowercase();
    let words = words.replace(&whole, "");
    // A local part of a letter or two would eat the server's words.
    if local.len() > 3 { words.replace(&local, "") } else { words }
}
