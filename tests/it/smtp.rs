//! Mails through a mail server that is not ours: aiosmtpd, in Python. `.ci/run` installs it and runs this.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_json::Value;

use crate::{
    fleet::{Fleet, Terms, fleet},
    support::turn,
};

struct MailServer {
    child: Child,
    port: u16,
    messages: PathBuf,
}

impl MailServer {
    /// `modules` is where aiosmtpd is: what `pip install --target` was told.
    fn start(modules: &str, dir: &Path) -> MailServer {
        let messages = dir.join("messages.jsonl");
        fs::write(&messages, "").expect("a file of messages");
        let mut child = Command::new("python3")
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/smtp/server.py"))
            .arg(&messages)
            .env("PYTHONPATH", modules)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 starts");
        let mut port = String::new();
        BufReader::new(child.stdout.take().expect("its output")).read_line(&mut port).expect("its port");
        MailServer { child, port: port.trim().parse().expect("a port"), messages }
    }

    fn messages_to(&self, address: &str) -> Vec<Value> {
        let text = fs::read_to_string(&self.messages).expect("the messages");
        let messages = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("a message"));
        messages.filter(|message| message["to"][0] == address).collect()
    }
}

impl Drop for MailServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn mark(fleet: &Fleet, job: i64) -> String {
    sqlx::query_scalar("select noshi.mail_mark(id, key, created_at) from noshi.job where id = $1")
        .bind(job)
        .fetch_one(&fleet.pool)
        .await
        .expect("a mark")
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs python3 and, in NOSHI_AIOSMTPD, the folder of aiosmtpd; .ci/run provides them"]
async fn mails_go_through_a_real_mail_server() {
    let modules = std::env::var("NOSHI_AIOSMTPD")
        .expect("NOSHI_AIOSMTPD: run `pip install --target DIR aiosmtpd` and set it to DIR");
    let _turn = turn().await;
    let fleet = fleet(Terms::default()).await;
    let server = MailServer::start(&modules, fleet.dir.path());
    let mut config =
        fs::OpenOptions::new().append(true).open(fleet.dir.path().join("noshi.toml")).expect("the settings");
    // A send in doubt rests for two seconds.
    let email = format!(
        "[email]\nsettle_seconds = 2\nfrom = 'ギフト事務局 <gift@example.jp>'\nservice = 'smtp'\nlink = 'https://example.jp/gifts/{{reference}}'\n\
         [email.smtp]\nhost = '127.0.0.1'\nport = {}\ntls = 'none'\ntimeout_ms = 5000\nsends_per_second = 20\n",
        server.port
    );
    config.write_all(email.as_bytes()).expect("the settings of e-mail");
    let mut jobs = vec![];
    for (local, status, code, sends) in [
        ("hana", "completed", None, 1),
        ("unknown", "failed", Some("mail_rejected"), 0),
        ("later", "completed", None, 1),
        ("refuse", "failed", Some("mail_rejected"), 1),
        ("drop", "needs_operator", Some("mail_unresolved"), 2),
    ] {
        let address = format!("{local}@example.jp");
        jobs.push((fleet.mail(local, &address).await, address, status, code, sends));
    }
    let worker = fleet.worker("a", &[], &[]);
    fleet.at_rest(Duration::from_secs(60)).await.unwrap();
    assert!(worker.stop().await.success());
    for (job, address, status, code, sends) in &jobs {
        let row = "select status::text, code, coalesce(state ->> 'detail', '') from noshi.job where id = $1";
        let row: (String, Option<String>, String) =
            sqlx::query_as(row).bind(job).fetch_one(&fleet.pool).await.expect("a job");
        assert_eq!((row.0.as_str(), row.1.as_deref()), (*status, *code), "{address}");
        let detail = match *code {
            Some("mail_rejected") if address.starts_with("unknown") => "smtp_550",
            Some("mail_rejected") => "smtp_554",
            Some(_) | None => "",
        };
        assert_eq!(row.2, detail, "{address}");
        assert_eq!(server.messages_to(address).len(), *sends, "{address}");
    }
    let message = &server.messages_to("hana@example.jp")[0];
    let header = |name: &str| message["headers"][name].as_str().unwrap_or_default();
    let job = jobs[0].0;
    assert_eq!(
        (header("x-job-id"), header("message-id")),
        (&*job.to_string(), &*format!("<noshi.{job}.{}@example.jp>", mark(&fleet, job).await))
    );
    assert_eq!(header("subject"), "ギフトが届きました（amazon 1,000円）");
    assert_eq!((header("to"), message["from"].as_str()), ("hana@example.jp", Some("gift@example.jp")));
    assert!(header("from").contains("ギフト事務局") && message["ascii"] == true);
    for part in ["text/plain", "text/html"] {
        // As a browser reads it: the escaping of HTML covers slashes too.
        let text = message["parts"][part].as_str().expect("a part").replace("&#x2f;", "/");
        assert!(text.contains("花子 様") && text.contains("https://example.jp/gifts/hana"), "{text}");
    }
    let again = &server.messages_to("drop@example.jp");
    let ids: Vec<_> = again.iter().map(|message| message["headers"]["message-id"].as_str().unwrap()).collect();
    let drop = jobs[4].0;
    // One message, however often it is sent: a mailbox that gets both can tell.
    let id = format!("<noshi.{drop}.{}@example.jp>", mark(&fleet, drop).await);
    assert_eq!(ids, [&id, &id]);
}
