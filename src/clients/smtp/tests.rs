use std::{num::NonZeroU32, time::Instant};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpListener,
};

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
        timeout_ms: Some(300),
        sends_per_second: one,
        sends_per_day: None,
    };
    let mut smtp = Smtp::new(&settings, "ギフト <gift@example.jp>".parse().unwrap()).unwrap();
    smtp.credentials = credentials.then(|| ("noshi".to_owned(), SecretString::from("secret")));
    smtp
}

fn letter(to: &str) -> Letter {
    Letter {
        job: 7,
        send_no: 2,
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
    let cases: [(&str, Says, Send); 19] = [
        ("taken", well, Send::Accepted("noshi.7.2".to_owned())),
        ("no farewell", |c| if c == "QUIT" { None } else { well(c) }, Send::Accepted("noshi.7.2".to_owned())),
        ("no greeting", |_| None, Send::NotSent),
        ("silent", |_| Some("hang"), Send::NotSent),
        ("not for us", |_| Some("554 go away"), Send::BadCredentials),
        ("too many connections", |_| Some("421 later"), Send::Throttled(LATER)),
        ("wrong password", |c| if c == "AUTH" { Some("535 no") } else { well(c) }, Send::BadCredentials),
        ("no directory", |c| if c == "AUTH" { Some("454 later") } else { well(c) }, Send::NotSent),
        ("sender refused", |c| if c == "MAIL" { Some("550 no") } else { well(c) }, Send::BadCredentials),
        ("hung up at the sender", |c| if c == "MAIL" { None } else { well(c) }, Send::NotSent),
        ("no such user", |c| if c == "RCPT" { Some("550 no") } else { well(c) }, rejected("550")),
        ("greylisted", |c| if c == "RCPT" { Some("451 later") } else { well(c) }, Send::NotSent),
        ("no room", |c| if c == "RCPT" { Some("452 full") } else { well(c) }, Send::Throttled(LATER)),
        ("hung up at the announcement", |c| if c == "DATA" { None } else { well(c) }, Send::NotSent),
        ("content refused", |c| if c == "." { Some("554 spam") } else { well(c) }, rejected("554")),
        ("content later", |c| if c == "." { Some("451 later") } else { well(c) }, Send::NotSent),
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
    assert_eq!(smtp.send(&letter("hana@example.jp"), &Gate::open()).await, Send::NotSent);
    smtp = self::smtp(server(well).await, false);
    smtp.tls = Tls::Implicit;
    assert_eq!(smtp.send(&letter("hana@example.jp"), &Gate::open()).await, Send::NotSent);
    let settings = SmtpSettings {
        host: "smtp.example.jp".to_owned(),
        port: 25,
        tls: Tls::None,
        username: None,
        password_file: None,
        timeout_ms: None,
        sends_per_second: NonZeroU32::new(1).unwrap(),
        sends_per_day: None,
    };
    let error = Smtp::new(&settings, "a@example.jp".parse().unwrap()).err().unwrap().to_string();
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
    assert!(head.contains("X-Job-Id: 7\r\n") && head.contains("Message-ID: <noshi.7.2@example.jp>"), "{head}");
    assert!(message.is_ascii());
}
