use std::{num::NonZeroU32, time::Instant};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpListener,
};

#[cfg(feature = "lab")]
use crate::lab::simulator::link::Link;
use crate::partners::whose::{self, Whose};

use super::*;

/// What the server says to a command, `.` being the end of the body and the empty one its greeting. `None`: it hangs up.
type Says = fn(&str) -> Option<&'static str>;

fn well(command: &str) -> Option<&'static str> {
    Some(match command {
        "" => "220 localhost ESMTP",
        "EHLO" => "250-localhost\r\n250-8BITMIME\r\n250 AUTH PLAIN LOGIN",
        "AUTH" => "235 2.7.0 welcome",
        "DATA" => "354 go on",
        "QUIT" => "221 bye",
        _ => "250 OK",
    })
}

/// One dialogue. Returns the port.
async fn server(says: Says) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let (read, mut write) = stream.into_split();
        let mut lines = BufReader::new(read).lines();
        let (mut command, mut in_body) = (String::new(), false);
        loop {
            let Some(reply) = says(&command) else { return };
            // "hang": says nothing, and stays.
            if reply == "hang" {
                std::future::pending::<()>().await;
            }
            let reply = match reply.strip_prefix("slow ") {
                Some(reply) => {
                    tokio::time::sleep(Duration::from_millis(800)).await;
                    reply
                }
                None => reply,
            };
            write.write_all(format!("{reply}\r\n").as_bytes()).await.unwrap();
            in_body = in_body || reply.starts_with("354");
            command = loop {
                let Ok(Some(line)) = lines.next_line().await else { return };
                match in_body {
                    true if line == "." => break line,
                    true => {}
                    false => break line.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase(),
                }
            };
            in_body = in_body && command != ".";
        }
    });
    port
}

fn smtp(port: u16, credentials: bool) -> Smtp {
    let one = NonZeroU32::new(1).unwrap();
    let settings = SmtpSettings {
        host: "127.0.0.1".to_owned(),
        port,
        tls: Tls::None,
        username: None,
        password_file: None,
        ca_file: None,
        timeout_ms: Some(300),
        reply_timeout_ms: Some(1500),
        sends_per_second: one,
        sends_per_day: None,
    };
    let mut smtp = Smtp::new(&settings, "ギフト <gift@example.jp>".parse().unwrap(), 60).unwrap();
    smtp.credentials = credentials.then(|| ("noshi".to_owned(), SecretString::from("secret")));
    smtp
}

fn letter(to: &str) -> Letter {
    Letter {
        job: 7,
        mark: "m4rk".to_owned(),
        template: "gift_granted",
        to: to.into(),
        subject: "ギフトが届きました".into(),
        text: "花子 様".into(),
        html: "<p>花子 様</p>".into(),
    }
}

#[tokio::test]
async fn what_a_failure_means_depends_on_the_command_that_it_met() {
    let rejected = |code: &str| Send::Rejected(format!("smtp_{code}"));
    let later = || Send::Throttled(reply::LATER);
    let cases: [(&str, Says, Send); 20] = [
        ("taken", well, Send::Accepted("noshi.7.m4rk".to_owned())),
        ("no farewell", |c| if c == "QUIT" { None } else { well(c) }, Send::Accepted("noshi.7.m4rk".to_owned())),
        ("no greeting", |_| None, Send::NotSent),
        ("silent", |_| Some("hang"), Send::NotSent),
        ("not for us", |_| Some("554 go away"), Send::BadCredentials),
        ("too many connections", |_| Some("421 later"), later()),
        ("wrong password", |c| if c == "AUTH" { Some("535 no") } else { well(c) }, Send::BadCredentials),
        ("no directory", |c| if c == "AUTH" { Some("454 later") } else { well(c) }, later()),
        ("sender refused", |c| if c == "MAIL" { Some("550 no") } else { well(c) }, Send::Sender),
        ("hung up at the sender", |c| if c == "MAIL" { None } else { well(c) }, Send::NotSent),
        ("no such user", |c| if c == "RCPT" { Some("550 no") } else { well(c) }, rejected("550")),
        ("greylisted", |c| if c == "RCPT" { Some("451 later") } else { well(c) }, Send::NotNow),
        ("a full mailbox", |c| if c == "RCPT" { Some("452 full") } else { well(c) }, Send::NotNow),
        ("no room at the server", |c| if c == "MAIL" { Some("452 4.3.1 full") } else { well(c) }, later()),
        ("hung up at the announcement", |c| if c == "DATA" { None } else { well(c) }, Send::NotSent),
        ("content refused", |c| if c == "." { Some("554 spam") } else { well(c) }, rejected("554")),
        ("content later", |c| if c == "." { Some("451 later") } else { well(c) }, Send::NotNow),
        ("hung up after the body", |c| if c == "." { None } else { well(c) }, Send::Unknown),
        ("silent after the body", |c| if c == "." { Some("hang") } else { well(c) }, Send::Unknown),
        ("nonsense after the body", |c| if c == "." { Some("hello") } else { well(c) }, Send::Unknown),
    ];
    for (name, says, meaning) in cases {
        let begun = Instant::now();
        let answer = smtp(server(says).await, true).send(&letter("hana@example.jp"), &Gate::open()).await;
        assert_eq!(answer, meaning, "{name}");
        assert!(begun.elapsed() < Duration::from_secs(3), "{name}");
    }
}

#[tokio::test]
async fn nothing_is_sent_without_a_server_a_lease_or_an_address() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    assert_eq!(smtp(closed, false).send(&letter("hana@example.jp"), &Gate::open()).await, Send::NotSent);
    let lost = Gate::new(|| false);
    assert_eq!(smtp(server(well).await, false).send(&letter("hana@example.jp"), &lost).await, Send::NotSent);
    for evil in ["hana@example.jp\r\nRCPT TO:<evil@example.jp>", "hana", "花子@example.jp", "<hana@example.jp>, b@c.d"]
    {
        let answer = smtp(closed, false).send(&letter(evil), &Gate::open()).await;
        assert_eq!(answer, Send::Rejected("address_malformed".to_owned()), "{evil:?}");
    }
}

/// A server that does not offer TLS gets nothing, however plain it would take it.
#[tokio::test]
async fn starttls_is_required_and_plain_text_stays_on_this_machine() {
    let mut smtp = smtp(server(well).await, false);
    smtp.tls = Tls::Starttls;
    let failed = Send::Tls(noshi_jobs::machine::Tls::Failed);
    assert_eq!(smtp.send(&letter("hana@example.jp"), &Gate::open()).await, failed);
    smtp = crate::partners::mail::smtp::tests::smtp(server(well).await, false);
    smtp.tls = Tls::Implicit;
    assert_eq!(smtp.send(&letter("hana@example.jp"), &Gate::open()).await, failed);
    let settings = SmtpSettings {
        host: "smtp.example.jp".to_owned(),
        port: 25,
        tls: Tls::None,
        username: None,
        password_file: None,
        ca_file: None,
        timeout_ms: None,
        reply_timeout_ms: None,
        sends_per_second: NonZeroU32::new(1).unwrap(),
        sends_per_day: None,
    };
    let error = Smtp::new(&settings, "a@example.jp".parse().unwrap(), 60).err().unwrap().to_string();
    assert!(error.contains("smtp.example.jp") && error.contains("starttls"), "{error}");
}

#[test]
fn no_line_of_a_value_becomes_a_header() {
    let mut letter = letter("hana@example.jp");
    letter.subject = "a\r\nBcc: evil@example.jp".into();
    let message = smtp(1, false).message(&letter, &"hana@example.jp".parse().unwrap()).unwrap();
    let message = String::from_utf8(message).unwrap();
    let head = message.split("\r\n\r\n").next().unwrap();
    assert!(head.lines().all(|line| !line.starts_with("Bcc")), "{head}");
    assert!(head.contains("X-Job-Id: 7\r\n") && head.contains("Message-ID: <noshi.7.m4rk@example.jp>"), "{head}");
    assert!(message.is_ascii());
}

/// A dialogue of a dozen round trips, each of them slow: the slot is judged once, where it begins.
#[cfg(feature = "lab")]
#[tokio::test]
async fn a_server_far_away_gets_its_mail_at_the_first_try() {
    for round_trip in [5, 50, 250, 1000].map(Duration::from_millis) {
        let link = Link::start(([127, 0, 0, 1], server(well).await).into()).await.unwrap();
        link.round_trip(round_trip);
        let mut smtp = smtp(link.address().port(), true);
        (smtp.timeout, smtp.reply_timeout) = (SMTP_TIMEOUT, REPLY);
        let begun = Instant::now();
        // What a slot forgives.
        let gate = Gate::new(|| true).beginning(move || begun.elapsed() < JITTER);
        let answer = smtp.send(&letter("hana@example.jp"), &gate).await;
        assert_eq!(answer, Send::Accepted("noshi.7.m4rk".to_owned()), "{round_trip:?}");
        assert!(begun.elapsed() >= round_trip * 5, "the link was slow");
    }
}

#[tokio::test]
async fn the_slot_is_asked_before_connecting_and_the_lease_before_the_body() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let late = Gate::new(|| true).beginning(|| false);
    assert_eq!(smtp(port, false).send(&letter("hana@example.jp"), &late).await, Send::NotSent);
    let nobody = tokio::time::timeout(Duration::from_millis(50), listener.accept()).await;
    assert!(nobody.is_err(), "nothing was connected to");
    // The lease is lost during the dialogue.
    let asked = std::sync::atomic::AtomicU8::new(0);
    let lost = Gate::new(move || asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 0);
    static BODIES: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(0);
    let counting: Says = |c| {
        BODIES.fetch_add(u8::from(c == "."), std::sync::atomic::Ordering::Relaxed);
        well(c)
    };
    assert_eq!(smtp(server(counting).await, false).send(&letter("hana@example.jp"), &lost).await, Send::NotSent);
    assert_eq!(BODIES.load(std::sync::atomic::Ordering::Relaxed), 0);
}

#[tokio::test]
async fn the_reply_to_the_body_is_waited_for_longer_than_any_other() {
    let slow: Says = |c| if c == "." { Some("slow 250 OK") } else { well(c) };
    let answer = smtp(server(slow).await, false).send(&letter("hana@example.jp"), &Gate::open()).await;
    assert_eq!(answer, Send::Accepted("noshi.7.m4rk".to_owned()));
    // Before the body a part of the dialogue that takes as long is given up: nothing was sent, and it costs nothing.
    let slow: Says = |c| if c == "RCPT" { Some("slow 250 OK") } else { well(c) };
    let answer = smtp(server(slow).await, false).send(&letter("hana@example.jp"), &Gate::open()).await;
    assert_eq!(answer, Send::NotSent);
    assert_eq!(REPLY, Duration::from_secs(600), "RFC 5321, 4.5.3.2.6");
}

/// A server that never answers keeps as many of this process's calls as may be, and no more.
#[tokio::test]
async fn a_server_that_never_answers_does_not_take_every_hand() {
    let smtp = smtp(1, false);
    let _taken = smtp.connections.try_acquire_many(u32::try_from(CONNECTIONS).unwrap()).unwrap();
    assert_eq!(smtp.send(&letter("hana@example.jp"), &Gate::open()).await, Send::Busy(BUSY));
}

/// (part, code, text, whose fact, what it comes to)
type Case = (Part, u16, &'static str);

const CASES: &[Case] = &[
    (Part::Greeting, 421, "too many connections"),
    (Part::Greeting, 450, "4.7.1 client host rejected for now"),
    (Part::Greeting, 554, "go away"),
    (Part::StartTls, 454, "TLS not available due to temporary reason"),
    (Part::StartTls, 502, "not implemented"),
    (Part::Auth, 432, "a password transition is needed"),
    (Part::Auth, 454, "4.7.0 temporary authentication failure"),
    (Part::Auth, 534, "5.7.9 mechanism too weak"),
    (Part::Auth, 535, "5.7.8 credentials invalid"),
    (Part::Sender, 421, "closing"),
    (Part::Sender, 450, "4.1.8 <gift@example.jp>: Sender address rejected: Domain not found"),
    (Part::Sender, 452, "4.3.1 insufficient system storage"),
    (Part::Sender, 530, "5.7.0 must issue a STARTTLS command first"),
    (Part::Sender, 550, "5.7.1 sender unknown"),
    (Part::Sender, 552, "5.3.4 message size exceeds"),
    (Part::Recipient, 421, "4.3.0 try again later"),
    (Part::Recipient, 421, "4.7.0 too many errors"),
    (Part::Recipient, 450, "4.2.0 <hana@example.jp>: Recipient address rejected: Greylisted"),
    (Part::Recipient, 450, "4.7.1 Client host rejected: cannot find your hostname"),
    (Part::Recipient, 451, "4.7.1 come back later"),
    (Part::Recipient, 452, "4.2.2 mailbox full"),
    (Part::Recipient, 452, "full"),
    (Part::Recipient, 454, "4.7.1 <hana@example.jp>: Relay access denied"),
    (Part::Recipient, 530, "5.7.0 authentication required"),
    (Part::Recipient, 550, "5.1.1 <hana@example.jp>: no such user"),
    (Part::Recipient, 550, "5.2.1 the account is disabled"),
    (Part::Recipient, 550, "5.1.1 <relay access denied@example.jp>: no such user"),
    (Part::Recipient, 552, "5.2.2 mailbox full"),
    (Part::Recipient, 553, "5.7.1 <gift@example.jp>: Sender address rejected: not owned by user noshi"),
    (Part::Recipient, 554, "5.7.1 <hana@example.jp>: Relay access denied"),
    (Part::Recipient, 554, "5.7.1 <hana@example.jp>: Recipient address rejected: Access denied"),
    (Part::Recipient, 554, "5.7.1 <unknown[192.0.2.1]>: Client host rejected: Access denied"),
    (Part::Announcement, 421, "closing"),
    (Part::Announcement, 451, "4.3.0 later"),
    (Part::Announcement, 452, "4.3.1 no space"),
    (Part::Announcement, 554, "5.5.1 no valid recipients"),
    (Part::Body, 421, "closing"),
    (Part::Body, 451, "4.7.1 later"),
    (Part::Body, 452, "4.2.2 mailbox full"),
    (Part::Body, 452, "4.3.1 insufficient system storage"),
    (Part::Body, 454, "Throttling failure: Maximum sending rate exceeded."),
    (Part::Body, 454, "Throttling failure: Daily message quota exceeded."),
    (Part::Body, 535, "Authentication credentials invalid"),
    (Part::Body, 550, "5.7.60 SMTP; Client does not have permissions to send as this sender"),
    (Part::Body, 552, "5.2.2 mailbox full"),
    (Part::Body, 552, "5.3.4 message too large"),
    (Part::Body, 554, "Message rejected: Email address is not verified."),
    (Part::Body, 554, "Transaction failed: Sending is paused for this account."),
    (Part::Body, 554, "5.7.1 spam"),
];

#[test]
fn the_table_is_what_the_code_does() {
    let to = address(&"hana@example.jp".into());
    let row = |(part, code, text): &Case| {
        let verdict = reply::read(*part, *code, text, to.as_ref());
        let comes_to = match &verdict.means {
            Send::Rejected(why) => format!("rejected ({why})"),
            Send::Throttled(wait) => format!("lane throttled for {} s", wait.as_secs()),
            Send::NotNow => "retry, later each time".to_owned(),
            Send::BadCredentials => "lane closed: credentials".to_owned(),
            Send::Sender => "lane closed: sender".to_owned(),
            other @ (Send::Accepted(_) | Send::NotSent | Send::Busy(_) | Send::Unknown | Send::Tls(_)) => {
                panic!("no reply means {other:?}")
            }
        };
        // Only an account's fact holds others.
        let holds = matches!(verdict.means, Send::Throttled(_) | Send::BadCredentials | Send::Sender);
        assert_eq!(holds, verdict.whose == Whose::Account, "{part:?} {code} {text}");
        [part.words().to_owned(), format!("{code} {text}"), verdict.whose.name().to_owned(), comes_to]
    };
    let mut rows: Vec<_> = CASES.iter().map(row).collect();
    for [asked, answer, whose, comes_to] in [
        ["connecting", "none, refused, or cut", "network", "retry"],
        [
            "connecting, starting TLS",
            "unknown authority, expired, another host's, old version",
            "account",
            "lane closed: tls",
        ],
        ["any part before the body", "none in time, or cut", "network", "retry"],
        [
            "the body",
            "none in ten minutes, or cut",
            "network",
            "in doubt; rests, then once more under the same Message-ID",
        ],
    ] {
        rows.push([asked, answer, whose, comes_to].map(str::to_owned));
    }
    whose::assert_drawn("src/partners/mail/smtp.rs", &rows);
}

/// What a server quotes is the recipient's, who must not be able to close the lane for everybody.
#[test]
fn a_recipient_cannot_speak_for_the_account() {
    for (address, text) in [
        ("relay.access.denied@example.jp", "5.1.1 relay.access.denied@example.jp: no such user"),
        ("\"relay access denied\"@example.jp", "5.1.1 <\"relay access denied\"@example.jp>: no such user"),
        ("not.verified@example.jp", "5.1.1 <Not Verified>: no such user"),
        ("account.suspended@example.jp", "5.2.1 account suspended: NOT <account suspended>"),
        ("hana@example.jp", "the account is disabled"),
    ] {
        let to = address.parse::<Address>().ok();
        let verdict = reply::read(Part::Recipient, 550, text, to.as_ref());
        assert_eq!(verdict.whose, Whose::Recipient, "{text}");
    }
}
