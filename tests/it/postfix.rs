//! A hundred mails through a real Postfix, a quarter of a second away, over TLS: `.ci/run` installs it and runs this as root.
//!
//! One recipient's mailbox is full, another installation finds a server with a certificate that nobody signed, and for a while the server cannot
//! look up who may log in. Each mail is delivered once, and nobody's is late because of another's.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpListener,
};

use crate::{
    fleet::{Fleet, Terms, fleet},
    processes::until,
    support::turn,
};
use noshi::lab::simulator::link::Link;

const MAILS: usize = 100;
const ROUND_TRIP: Duration = Duration::from_millis(250);

struct Postfix {
    /// Open to the user that Postfix becomes.
    _open: TempDir,
    dir: PathBuf,
    /// With the certificate that the authority signed, and with one that nobody did.
    port: u16,
    wrong_port: u16,
    /// Where one has to log in, and who says to it who may.
    login_port: u16,
    logins_port: u16,
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// An authority, a certificate of its for `localhost`, and one that nobody signed.
fn certificates(dir: &Path) {
    let file = |name: &str| dir.join(name).display().to_string();
    let new = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"];
    let make = |more: &[&str]| run("openssl", &[&new[..], more].concat());
    make(&["-keyout", &file("ca.key"), "-out", &file("ca.pem"), "-subj", "/CN=an authority"]);
    let names = ["-addext", "subjectAltName=DNS:localhost", "-addext", "basicConstraints=critical,CA:FALSE"];
    let ours = [
        "-keyout",
        &file("right.key"),
        "-out",
        &file("right.pem"),
        "-subj",
        "/CN=localhost",
        "-CA",
        &file("ca.pem"),
        "-CAkey",
        &file("ca.key"),
    ];
    make(&[&ours[..], &names].concat());
    make(
        &[&["-keyout", &file("wrong.key"), "-out", &file("wrong.pem"), "-subj", "/CN=localhost"][..], &names].concat(),
    );
}

const MASTER: &str =
    "127.0.0.1:{port} inet n - n - - smtpd -o smtpd_tls_cert_file={dir}/right.pem -o smtpd_tls_key_file={dir}/right.key
127.0.0.1:{wrong} inet n - n - - smtpd -o smtpd_tls_cert_file={dir}/wrong.pem -o smtpd_tls_key_file={dir}/wrong.key
127.0.0.1:{login} inet n - n - - smtpd -o smtpd_tls_cert_file={dir}/right.pem -o smtpd_tls_key_file={dir}/right.key -o smtpd_sasl_auth_enable=yes -o smtpd_sasl_type=dovecot -o smtpd_sasl_path=inet:127.0.0.1:{logins}
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
virtual unix - n n - - virtual
error unix - - n - - error
retry unix - - n - - error
anvil unix - - n - 1 anvil
postlog unix-dgram n - n - 1 postlogd
";

const MAIN: &str = "compatibility_level = 3.6
queue_directory = {dir}/queue
data_directory = {dir}/data
myhostname = localhost
mydestination =
inet_interfaces = 127.0.0.1
mynetworks = 127.0.0.0/8
maillog_file = {dir}/postfix.log
maillog_file_prefixes = {dir}
virtual_mailbox_domains = example.jp
virtual_mailbox_base = {dir}/mail
virtual_mailbox_maps = static:box/
virtual_minimum_uid = 1
virtual_uid_maps = static:{uid}
virtual_gid_maps = static:{gid}
smtpd_tls_wrappermode = yes
smtpd_tls_security_level = encrypt
smtpd_recipient_restrictions = check_recipient_access inline:{ { full@example.jp = 452 4.2.2 the mailbox is full } }, permit_mynetworks, reject
smtpd_client_connection_count_limit = 0
";

fn id(flag: &str) -> String {
    let output = Command::new("id").args([flag, "postfix"]).output().expect("the user postfix");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

impl Postfix {
    fn start() -> Postfix {
        let open = tempfile::Builder::new().prefix("noshi-").tempdir().unwrap();
        fs::set_permissions(open.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let dir = open.path().to_owned();
        for folder in ["queue", "data", "mail"] {
            fs::create_dir(dir.join(folder)).unwrap();
        }
        let (uid, gid) = (id("-u"), id("-g"));
        for folder in ["data", "mail"] {
            run("chown", &[&format!("{uid}:{gid}"), &dir.join(folder).display().to_string()]);
        }
        certificates(&dir);
        let [port, wrong_port, login_port, logins_port] = [(); 4].map(|()| free_port());
        let fill = |text: &str| {
            let text = text.replace("{dir}", &dir.display().to_string()).replace("{uid}", &uid).replace("{gid}", &gid);
            text.replace("{port}", &port.to_string())
                .replace("{wrong}", &wrong_port.to_string())
                .replace("{login}", &login_port.to_string())
                .replace("{logins}", &logins_port.to_string())
        };
        fs::write(dir.join("main.cf"), fill(MAIN)).unwrap();
        fs::write(dir.join("master.cf"), fill(MASTER)).unwrap();
        run("postfix", &["-c", &dir.display().to_string(), "start"]);
        Postfix { _open: open, dir, port, wrong_port, login_port, logins_port }
    }

    /// Ids of the messages in the mailbox, which all addresses share.
    fn delivered(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.join("mail/box/new"));
        let texts = entries.into_iter().flatten().map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap());
        texts
            .filter_map(|text| text.lines().find_map(|line| line.strip_prefix("Message-ID: ").map(str::to_owned)))
            .collect()
    }
}

impl Drop for Postfix {
    fn drop(&mut self) {
        let _ = Command::new("postfix").args(["-c", &self.dir.display().to_string(), "stop"]).output();
    }
}

async fn link_to(port: u16) -> Link {
    let link = Link::start(([127, 0, 0, 1], port).into()).await.expect("a link");
    link.round_trip(ROUND_TRIP);
    link
}

fn send_by(fleet: &Fleet, postfix: &Postfix, port: u16) {
    let mut config =
        fs::OpenOptions::new().append(true).open(fleet.dir.path().join("noshi.toml")).expect("the settings");
    let email = format!(
        "[email]\nfrom = 'ギフト事務局 <gift@example.jp>'\nservice = 'smtp'\nlink = 'https://example.jp/gifts/{{reference}}'\n\
         [email.smtp]\nhost = 'localhost'\nport = {port}\ntls = 'implicit'\nca_file = '{}/ca.pem'\nsends_per_second = 20\n",
        postfix.dir.display()
    );
    config.write_all(email.as_bytes()).expect("the settings of e-mail");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, postfix and openssl; .ci/run installs them"]
async fn a_hundred_mails_go_through_a_real_postfix_far_away() {
    let _turn = turn().await;
    let (fleet, other) = (fleet(Terms::default()).await, fleet(Terms::default()).await);
    let postfix = Postfix::start();
    let (link, wrong) = (link_to(postfix.port).await, link_to(postfix.wrong_port).await);
    send_by(&fleet, &postfix, link.address().port());
    send_by(&other, &postfix, wrong.address().port());
    let full = fleet.mail("full", "full@example.jp").await;
    for n in 1..MAILS {
        fleet.mail(&format!("m{n}"), &format!("m{n}@example.jp")).await;
    }
    let waits = other.mail("waits", "waits@example.jp").await;
    let begun = Instant::now();
    let (worker, stranger) = (fleet.worker("a", &[], &[]), other.worker("b", &[], &[]));

    // The lane of who meets another's certificate closes at the first mail, with its own word.
    let closed = "select coalesce(closed_code = 'tls_unknown_ca', false) from noshi.lane where name = 'email/smtp'";
    until("a lane closed for a certificate", Duration::from_secs(60), async || {
        sqlx::query_scalar::<_, bool>(closed).fetch_one(&other.pool).await.unwrap_or_default()
    })
    .await;
    let state = "select status::text || ' ' || at from noshi.job where id = $1";
    // The lane closes before the answer that closed it is recorded.
    until("nothing was sent, and no try is spent", Duration::from_secs(20), async || {
        let stands: String = sqlx::query_scalar(state).bind(waits).fetch_one(&other.pool).await.unwrap();
        stands == "available sending"
    })
    .await;

    let done = "select count(*) from noshi.job where kind = 'email' and status = 'completed'";
    until("every mail but the one to the full mailbox is taken", Duration::from_secs(90), async || {
        sqlx::query_scalar::<_, i64>(done).fetch_one(&fleet.pool).await.unwrap() == i64::try_from(MAILS - 1).unwrap()
    })
    .await;
    eprintln!("{} mails at {ROUND_TRIP:?} in {:.1} s", MAILS - 1, begun.elapsed().as_secs_f64());
    let stands: String = sqlx::query_scalar(state).bind(full).fetch_one(&fleet.pool).await.unwrap();
    assert!(["retryable sending", "available sending", "running sending"].contains(&stands.as_str()), "{stands}");
    let open = "select closed_code is null and closed_until is null from noshi.lane where name = 'email/smtp'";
    assert!(
        sqlx::query_scalar::<_, bool>(open).fetch_one(&fleet.pool).await.unwrap(),
        "one full mailbox closes nothing"
    );
    until("all are in their mailbox", Duration::from_secs(30), async || postfix.delivered().len() >= MAILS - 1).await;
    let mut ids = postfix.delivered();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!((ids.len(), postfix.delivered().len()), (MAILS - 1, MAILS - 1), "each once");
    let in_doubt: i64 =
        sqlx::query_scalar("select count(*) from noshi.job where in_doubt").fetch_one(&fleet.pool).await.unwrap();
    assert_eq!(in_doubt, 0);
    assert!(worker.stop().await.success() && stranger.stop().await.success());
}

/// Says to Postfix, by the protocol of Dovecot, that every login is right.
async fn logins(listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let (from, mut to) = stream.into_split();
            to.write_all(b"VERSION\t1\t1\nMECH\tPLAIN\tplaintext\nSPID\t1\nCUID\t1\nCOOKIE\t0\nDONE\n").await.ok()?;
            let mut lines = BufReader::new(from).lines();
            while let Some(line) = lines.next_line().await.ok()? {
                if let Some(id) = line.strip_prefix("AUTH\t").and_then(|rest| rest.split('\t').next()) {
                    to.write_all(format!("OK\t{id}\tuser=noshi\n").as_bytes()).await.ok()?;
                }
            }
            Some(())
        });
    }
}

/// What the server asks about logins is away for a while: nothing is sent, nothing is in doubt, and then each mail goes out once.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, postfix and openssl; .ci/run installs them"]
async fn mails_wait_while_the_server_cannot_look_up_logins() {
    const FEW: i64 = 20;
    let _turn = turn().await;
    let fleet = fleet(Terms::default()).await;
    let postfix = Postfix::start();
    let link = link_to(postfix.login_port).await;
    send_by(&fleet, &postfix, link.address().port());
    let password = fleet.dir.path().join("smtp.password");
    fs::write(&password, "hunter2").unwrap();
    fs::set_permissions(&password, fs::Permissions::from_mode(0o600)).unwrap();
    let login = format!("username = 'noshi'\npassword_file = '{}'\n", password.display());
    fleet.configure(|text| text + &login);
    for n in 0..FEW {
        fleet.mail(&format!("m{n}"), &format!("m{n}@example.jp")).await;
    }
    let begun = Instant::now();
    let worker = fleet.worker("a", &[], &[]);
    tokio::time::sleep(Duration::from_secs(10)).await;
    let tried = "select exists (select from noshi.job_event where outcome = 'not_sent')
        and (select bool_and(at = 'sending' and status <> 'needs_operator' and not in_doubt) from noshi.job where kind = 'email')
        and (select closed_code is null from noshi.lane where name = 'email/smtp')";
    assert!(sqlx::query_scalar::<_, bool>(tried).fetch_one(&fleet.pool).await.unwrap(), "they wait as not sent");
    assert!(postfix.delivered().is_empty());

    let listener = TcpListener::bind(("127.0.0.1", postfix.logins_port)).await.unwrap();
    tokio::spawn(logins(listener));
    fleet.at_rest(Duration::from_secs(100)).await.unwrap();
    eprintln!("{FEW} mails in {:.1} s, ten of them without logins", begun.elapsed().as_secs_f64());
    let done = "select count(*) from noshi.job where kind = 'email' and status = 'completed'";
    assert_eq!(sqlx::query_scalar::<_, i64>(done).fetch_one(&fleet.pool).await.unwrap(), FEW);
    let all = usize::try_from(FEW).unwrap();
    until("all are in their mailbox", Duration::from_secs(30), async || postfix.delivered().len() >= all).await;
    let mut ids = postfix.delivered();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!((ids.len(), postfix.delivered().len()), (all, all), "each once");
    assert!(worker.stop().await.success());
}
