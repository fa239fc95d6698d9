//! The canaries (I6): no gift code, name or address stands anywhere but sealed. Every code of the simulator holds `CNRY`;
//! names and addresses are given theirs here. The database logs every parameter, the workers trace.

use std::{
    fs,
    ops::Range,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use noshi_jobs::gift_issuance::Sealed;
use rustix::process::Signal;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};
use tokio::sync::oneshot;

#[cfg(feature = "otlp")]
use crate::collector::Collector;

use crate::{
    api::Api,
    engine::probe,
    fleet::{Fleet, Process, Terms, fleet_on_url},
    metrics::scrape,
    processes::{count, ledger, until},
};
use noshi::{
    db,
    lab::private_postgres::{PrivatePostgres, Settings},
    vault::{SealedAt, Vault},
};

const NAME: &str = "金糸雀 Kanarienvogel";
const ADDRESS: &str = "kanaria.7f3a";
const STREET: &str = "東京都金糸雀区 1-2-3";
const PHONE: &str = "03-7391-4426";
const HEADER: &str = "grant_id,user_id,name,email,category,provider,amount,currency,valid_days\n";

/// As they are, as JSON may escape them, and as PostgreSQL prints bytes. Case is ignored.
fn needles() -> String {
    let hex = ["CNRY-", "金糸雀", "Kanarienvogel", ADDRESS, PHONE].map(hex::encode).join("\n");
    // With its hyphen: four letters in whatever case come up in what is sealed, as base64, once in a million places.
    format!("CNRY-\n金糸雀\n\\u91d1\\u7cf8\\u96c0\nKanarienvogel\n{ADDRESS}\n{PHONE}\n{hex}\n")
}

struct Stage {
    server: PrivatePostgres,
    fleet: Fleet,
    /// What was said, dumped and fetched, a file each.
    evidence: PathBuf,
    #[cfg(feature = "otlp")]
    collector: Collector,
}

async fn stage() -> Stage {
    stage_with(Terms { faults: true, seed: 20, settle: Duration::from_millis(500), ..Terms::default() }).await
}

async fn stage_with(terms: Terms) -> Stage {
    let extra = [
        ("log_statement", "all"),
        ("log_parameter_max_length", "-1"),
        ("log_parameter_max_length_on_error", "-1"),
        ("log_min_duration_statement", "0"),
        ("log_error_verbosity", "verbose"),
    ];
    let extra = extra.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let settings = Settings { durable: false, extra, ..Settings::default() };
    let server = PrivatePostgres::start(settings).await.expect("a server");
    server.create_database("canaries").await.expect("a database");
    let url = server.url("canaries");
    db::migrate(&url).await.expect("the schema");
    let fleet = fleet_on_url(url, terms).await;
    db::queue::lanes::declare(&fleet.pool, "probe", &[]).await.expect("a lane");
    let evidence = fleet.dir.path().join("evidence");
    fs::create_dir(&evidence).expect("a folder");
    Stage {
        server,
        fleet,
        evidence,
        #[cfg(feature = "otlp")]
        collector: Collector::start().await,
    }
}

impl Stage {
    fn keep(&self, name: &str, text: impl AsRef<[u8]>) {
        fs::write(self.evidence.join(name), text).expect("written evidence");
    }

    fn noshi(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_noshi"))
            .args(args)
            .env("DATABASE_URL", &self.fleet.url)
            .env("NOSHI_CONFIG", self.fleet.dir.path().join("noshi.toml"))
            .env("NOSHI_LOG", "trace")
            .output()
            .expect("the command starts")
    }

    /// What `noshi vault seal-contact` prints.
    fn sealed_contact(&self, public_id: &str, contact: &Value) -> Value {
        let input = self.fleet.dir.path().join("contact.json");
        fs::write(&input, contact.to_string()).expect("an input");
        let sealed = Command::new(env!("CARGO_BIN_EXE_noshi"))
            .args(["vault", "seal-contact", "--public-id", public_id])
            .env("NOSHI_CONFIG", self.fleet.dir.path().join("noshi.toml"))
            .stdin(fs::File::open(input).expect("the input"))
            .output()
            .expect("the command starts");
        assert!(sealed.status.success(), "{}", String::from_utf8_lossy(&sealed.stderr));
        serde_json::from_slice(&sealed.stdout).expect("an object")
    }

    fn submit(&self, name: &str, rows: &str) -> Output {
        let file = self.fleet.dir.path().join("grants.csv");
        fs::write(&file, format!("{HEADER}{rows}")).expect("a file of grants");
        let output = self.noshi(&["batch", "submit", "--issue", "--release", &file.display().to_string()]);
        self.keep(&format!("{name}.txt"), [output.stdout.as_slice(), &output.stderr].concat());
        output
    }

    /// These grants of every provider, through files; one more that is refused, and one whose grant exists otherwise.
    fn submit_all(&self, grants: Range<u32>) {
        // A second person would only take time.
        assert!(
            self.noshi(&[
                "batch",
                "cap",
                "--kind",
                "grants",
                "--currency",
                "JPY",
                "--approve-from-rows",
                "100000",
                "--approve-from-total",
                "100000000"
            ])
            .status
            .success()
        );
        let row = |category: &str, n: u32, amount: &str| {
            format!("{category}-{n},u{n},{NAME} {n},{ADDRESS}{n}@example.jp,{category},,{amount},JPY,\n")
        };
        for category in ["amazon", "digital", "prepaid"] {
            let rows: String = grants.clone().map(|n| row(category, n, "500")).collect();
            assert!(self.submit(category, &rows).status.success());
        }
        let slipped = format!("g,{NAME},{ADDRESS}@example.jp,u,{NAME},{ADDRESS},{NAME},{ADDRESS},{NAME}\n");
        assert_eq!(self.submit("slipped", &slipped).status.code(), Some(1));
        self.submit("changed", &row("amazon", 0, "600"));
    }

    fn worker(&self, name: &str, bug: Option<&str>) -> Process {
        let bug = bug.map(|bug| ("NOSHI_BUG", bug.to_owned()));
        #[cfg(feature = "otlp")]
        let bug = bug.into_iter().chain(self.collector.environment(name));
        let env: Vec<_> = [("NOSHI_LOG", "trace".to_owned())].into_iter().chain(bug).collect();
        let env: Vec<_> = env.iter().map(|(name, text)| (*name, text.as_str())).collect();
        self.fleet.worker(name, &env, &["--metrics", "127.0.0.1:0"])
    }

    /// What every session was seen to run, until told to stop.
    async fn watch_activity(url: String, mut stop: oneshot::Receiver<()>) -> String {
        let mut connection = PgConnection::connect(&url).await.expect("a connection");
        let mut seen = std::collections::BTreeSet::new();
        while stop.try_recv() == Err(oneshot::error::TryRecvError::Empty) {
            let sessions = "select format('%s %s %s', usename, application_name, query) from pg_stat_activity";
            let sessions: Vec<String> =
                sqlx::query_scalar(sessions).fetch_all(&mut connection).await.expect("sessions");
            seen.extend(sessions);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        seen.into_iter().collect::<Vec<_>>().join("\n")
    }

    async fn dump(&self) {
        #[cfg(feature = "otlp")]
        self.keep("spans.bin", self.collector.bytes());
        let tables = "select format('%I.%I', schemaname, tablename) from pg_tables where schemaname like 'noshi%'";
        let tables: Vec<String> = sqlx::query_scalar(tables).fetch_all(&self.fleet.pool).await.unwrap();
        assert!(tables.len() >= 10, "{tables:?}");
        for table in tables {
            let rows = AssertSqlSafe(format!("select coalesce(string_agg(t::text, e'\\n'), '') from {table} t"));
            let rows: String = sqlx::query_scalar(rows).fetch_one(&self.fleet.pool).await.unwrap();
            self.keep(&format!("{table}.txt"), rows);
        }
        let programs = "select setting from pg_config where name = 'BINDIR'";
        let programs: String = sqlx::query_scalar(programs).fetch_one(&self.fleet.pool).await.unwrap();
        let program = Path::new(&programs).join("pg_dump");
        if !program.is_file() {
            eprintln!("SKIPPED: there is no {}", program.display());
            return;
        }
        let dump = Command::new(program)
            .args(["--exclude-schema=noshi_sealed", "--dbname", &self.fleet.url])
            .stdin(Stdio::null())
            .output()
            .expect("pg_dump starts");
        assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
        self.keep("pg_dump.sql", dump.stdout);
    }

    fn evidence(&self, name: &str) -> String {
        fs::read_to_string(self.evidence.join(name)).expect("evidence")
    }

    /// The files with a canary, by name: evidence, the workers' logs, and all of the server's: its log, tables and WAL.
    fn found(&self) -> Vec<String> {
        let needles = self.fleet.dir.path().join("needles");
        fs::write(&needles, needles_checked()).expect("written needles");
        let logs = fs::read_dir(self.fleet.dir.path()).expect("the folder").flatten().map(|entry| entry.path());
        let logs: Vec<PathBuf> = logs.filter(|path| path.extension().is_some_and(|kind| kind == "log")).collect();
        let grep = Command::new("grep")
            .env("LC_ALL", "C")
            .args(["-r", "-a", "-l", "-i", "-F", "-f"])
            .arg(needles)
            .args(logs)
            .args([&self.evidence, self.server.directory()])
            .output()
            .expect("grep");
        let (found, trouble) = (String::from_utf8_lossy(&grep.stdout), String::from_utf8_lossy(&grep.stderr));
        assert!(matches!(grep.status.code(), Some(0 | 1)), "{trouble}");
        let name = |line: &str| Path::new(line).file_name().map(|name| name.to_string_lossy().into_owned());
        found.lines().filter_map(name).collect()
    }
}

fn needles_checked() -> String {
    let needles = needles();
    assert!(needles.lines().all(|needle| !needle.is_empty()), "an empty needle is found everywhere");
    needles
}

#[tokio::test(flavor = "multi_thread")]
async fn no_code_and_no_recipient_stands_anywhere_but_sealed() {
    let _turn = crate::support::turn().await;
    let stage = stage().await;
    let fleet = &stage.fleet;
    let (stop, stopped) = oneshot::channel();
    let activity = tokio::spawn(Stage::watch_activity(fleet.url.clone(), stopped));
    stage.submit_all(0..20);
    let (mut first, second) = (stage.worker("first", None), stage.worker("second", None));
    until("a dozen gifts", Duration::from_secs(20), async || count(fleet, "issued") >= 12).await;
    stage.keep("metrics-first.txt", scrape(&first).await);
    first.signal(Signal::KILL);
    assert!(first.killed(Duration::from_secs(5)).await);
    // Of what the dead worker had leased much may be for a person; of these, next to nothing.
    stage.submit_all(20..30);
    let args = json!({"id": "panics", "steps": 2, "lane": "probe", "answers": ["panic"], "in_doubt": "go_to"});
    probe(&fleet.pool, args).await;
    fleet.at_rest(Duration::from_secs(60)).await.unwrap();
    stage.keep("metrics-second.txt", scrape(&second).await);
    // Names and addresses are shown to whoever may read them, and what was on its way to them stands nowhere in the clear.
    let report = String::from_utf8(stage.noshi(&["batch", "report", "1"]).stdout).unwrap();
    assert!(report.contains(NAME) && report.contains(ADDRESS), "{report}");
    let _ = stop.send(());
    stage.keep("pg_stat_activity.txt", activity.await.expect("activity"));
    let log = fs::read_to_string(&second.log).unwrap() + &fs::read_to_string(&first.log).unwrap();
    assert!(second.stop().await.success());
    stage.dump().await;

    // The evidence is what it should be.
    assert!(log.contains(r#""level":"TRACE""#) && log.contains("the probe was told to panic"));
    assert!(stage.evidence("noshi.job_event.txt").lines().count() > 200);
    assert!(
        stage.evidence("noshi.job.txt").contains("prepaid-29") && stage.evidence("pg_dump.sql").contains("prepaid-29")
    );
    assert!(stage.evidence("pg_stat_activity.txt").contains("insert into noshi.job_event"));
    assert!(stage.evidence("metrics-second.txt").contains("noshi_provider_requests_total"));
    assert!(
        log.lines().any(|line| line.contains(r#""target":"noshi::partners::http""#) && line.contains(r#""lease":"#))
    );
    #[cfg(feature = "otlp")]
    assert!(stage.collector.spans().len() > 100 && stage.collector.bytes().len() > 10_000);
    let postgres = fs::read_to_string(stage.server.log_path()).unwrap();
    assert!(postgres.contains("insert into noshi_sealed.sealed") && postgres.contains("parameters: $1 = "));

    assert_eq!(stage.found(), [""; 0]);
    sealed_values_open(fleet).await;
    stage.server.stop().await.unwrap();
}

/// Stores by a file, over HTTP, by the command and by SQL: asked for, asked for again, refused, and made with what was given.
#[tokio::test(flavor = "multi_thread")]
async fn no_address_and_no_phone_of_a_store_stands_anywhere_but_sealed() {
    let _turn = crate::support::turn().await;
    let stage = stage_with(Terms { seed: 23, ..Terms::default() }).await;
    let submit = |name: &str, row: &str| {
        let file = stage.fleet.dir.path().join(name);
        fs::write(&file, format!("organization_id,public_id,name,address,phone\n{row}\n")).expect("a file of stores");
        let output = stage.noshi(&["batch", "submit", "--kind", "stores", "--release", &file.display().to_string()]);
        stage.keep(&format!("{name}.txt"), [output.stdout.as_slice(), &output.stderr].concat());
        output.status.success()
    };
    assert!(submit("stores.csv", &format!("O-1,S-file,支店,{STREET},{PHONE}")));
    assert!(!submit("slipped.csv", &format!("O-1,S-slipped,支店,{PHONE},{STREET}")));
    let args = |public_id: &str| json!({"organization": "O-1", "public_id": public_id, "name": "支店", "request": "r"});
    let whole = |public_id: &str| {
        let mut args = args(public_id);
        (args["address"], args["phone"]) = (STREET.into(), PHONE.into());
        args
    };
    let by_command = whole("S-command").to_string();
    let asked = stage.noshi(&["job", "enqueue", "store_creation", "--id", "O-1/S-command/r", "--args", &by_command]);
    assert!(asked.status.success(), "{}", String::from_utf8_lossy(&asked.stderr));
    let mut contact = args("S-sql");
    contact["contact"] = stage.sealed_contact("S-sql", &json!({"address": STREET, "phone": PHONE}));
    let by_sql = sqlx::query("select noshi.enqueue('store_creation', 'O-1/S-sql/r', $1)").bind(&contact);
    by_sql.execute(&stage.fleet.pool).await.expect("a sealed contact is taken");

    let worker = stage.worker("stores", None);
    let Stage {
        server,
        fleet,
        evidence,
        #[cfg(feature = "otlp")]
        collector,
    } = stage;
    let (stop, stopped) = oneshot::channel();
    let activity = tokio::spawn(Stage::watch_activity(fleet.url.clone(), stopped));
    let api = Api::of(fleet).await;
    let token = api.token("shop", &["enqueue", "read"]).await;
    let body = |args: Value| json!({"kind": "store_creation", "id": "O-1/S-http/r", "args": args});
    let (status, first) = api.post("/v1/jobs", &token, &body(whole("S-http"))).await;
    assert_eq!(status, 200, "{first}");
    assert_eq!(api.post("/v1/jobs", &token, &body(whole("S-http"))).await, (200, first), "the same is the same");
    let mut told = String::new();
    let mut changed = whole("S-http");
    changed["name"] = "another".into();
    let mut wrong = whole("S-http");
    (wrong["address"], wrong["phone"]) = (PHONE.into(), STREET.into());
    for (expected, args) in [(409, changed), (409, args("S-http")), (422, wrong)] {
        let (status, answer) = api.post("/v1/jobs", &token, &body(args)).await;
        assert_eq!(status, expected, "{answer}");
        told += &answer.to_string();
    }
    api.fleet.at_rest(Duration::from_secs(60)).await.unwrap();
    told += &api.get("/v1/jobs", &token).await.1.to_string();
    let _ = stop.send(());
    let log = fs::read_to_string(&worker.log).unwrap();
    assert!(worker.stop().await.success());
    let stage = Stage {
        server,
        fleet: api.fleet,
        evidence,
        #[cfg(feature = "otlp")]
        collector,
    };
    stage.keep("told.txt", &told);
    stage.keep("pg_stat_activity.txt", activity.await.expect("activity"));
    for name in ["O-1/S-http/r", "O-1/S-file/1"] {
        let output = stage.noshi(&["job", "show", "store_creation", name]);
        stage.keep(&format!("show-{}.txt", name.replace('/', "-")), [output.stdout, output.stderr].concat());
    }
    stage.dump().await;

    // The evidence is what it should be: four stores, and the platform has for each what was given.
    assert_eq!(stage.evidence("noshi.store.txt").lines().count(), 4);
    assert!(log.contains(r#""level":"TRACE""#) && log.contains("noshi.sealed_contacts"));
    let faults = stage.evidence("slipped.csv.txt");
    assert!(faults.contains("line 2, field `phone`"), "{faults}");
    for (public_id, request) in [("S-file", "1"), ("S-http", "r"), ("S-command", "r"), ("S-sql", "r")] {
        let key = format!("O-1/{public_id}/{request}/0");
        let given = json!({"public_id": public_id, "name": "支店", "address": STREET, "phone": PHONE});
        assert_eq!(stage.fleet.create_shop_again("O-1", &key, &given).await, 200, "{public_id}");
    }
    assert_eq!(stage.found(), [""; 0]);
    stage.server.stop().await.unwrap();
}

/// Codes that are shown over HTTP, and the problems around them: unsealed, asked for again, refused; to good tokens and bad.
#[tokio::test(flavor = "multi_thread")]
async fn a_code_that_is_shown_stands_nowhere_else() {
    let _turn = crate::support::turn().await;
    let stage = stage_with(Terms { seed: 22, ..Terms::default() }).await;
    for category in ["amazon", "digital", "prepaid"] {
        stage.fleet.gift(&format!("{category}-0"), category, 500).await;
    }
    let worker = stage.worker("issues", None);
    stage.fleet.at_rest(Duration::from_secs(60)).await.unwrap();
    let Stage {
        server,
        fleet,
        evidence,
        #[cfg(feature = "otlp")]
        collector,
    } = stage;
    let (stop, stopped) = oneshot::channel();
    let activity = tokio::spawn(Stage::watch_activity(fleet.url.clone(), stopped));
    let api = Api::of(fleet).await;
    let (app, reader) = (api.token("app", &["reveal"]).await, api.token("desk", &["read"]).await);
    let ask = |user: &str| json!({"user": user, "reason": "shown in the app"});
    let mut told = String::new();
    let mut codes = vec![];
    for category in ["amazon", "digital", "prepaid"] {
        let path = format!("/v1/gifts/{category}-0/reveal");
        let (status, shown) = api.post(&path, &app, &ask("u1")).await;
        let code = shown["code"].as_str().unwrap_or_default().to_owned();
        assert!(status == 200 && code.starts_with("CNRY"), "{status}");
        codes.push(code);
        for (path, token, body) in
            [(&path, &app, ask("u2")), (&path, &reader, ask("u1")), (&path, &app, json!({"user": "u1"}))]
        {
            told += &api.post(path, token, &body).await.1.to_string();
        }
        told += &api.get(&format!("/v1/jobs/gift_issuance/{category}-0"), &reader).await.1.to_string();
    }
    told += &api.get("/v1/jobs", &reader).await.1.to_string();
    let _ = stop.send(());
    let opened = fs::read_to_string(&worker.log).unwrap();
    assert!(worker.stop().await.success());
    let stage = Stage {
        server,
        fleet: api.fleet,
        evidence,
        #[cfg(feature = "otlp")]
        collector,
    };
    stage.keep("told.txt", &told);
    stage.keep("pg_stat_activity.txt", activity.await.expect("activity"));
    for command in [&["job", "show", "gift_issuance", "amazon-0"][..], &["lane", "list"], &["token", "list"]] {
        let output = stage.noshi(command);
        stage.keep(&format!("{}.txt", command.join("-")), [output.stdout, output.stderr].concat());
    }
    stage.dump().await;

    // The evidence is what it should be: each code is the one that was issued, and each time was written down first.
    let issued: Vec<String> = ledger(&stage.fleet)
        .iter()
        .filter(|line| line["event"] == "issued")
        .filter_map(|line| line["code_sha256"].as_str().map(str::to_owned))
        .collect();
    assert_eq!(issued.len(), 3, "no code was bought to be shown");
    assert!(codes.iter().all(|code| issued.contains(&hex::encode(Sha256::digest(code)))));
    let audit = stage.evidence("noshi.audit.txt");
    assert_eq!(audit.matches(",reveal,gift/").count(), 3, "{audit}");
    assert!(told.contains("needs a token with the scope `reveal`") && told.contains("this user has no gift"));
    let api = fs::read_to_string(&api.api.log).unwrap();
    assert!(api.contains("noshi.read_code") && api.contains(r#""level":"DEBUG""#));
    assert!(opened.contains("noshi.put_reading") && opened.contains(r#""level":"TRACE""#));
    assert_eq!(stage.found(), [""; 0]);
    stage.server.stop().await.unwrap();
}

/// Every code is the one that the provider issued, every recipient the one that was handed in.
async fn sealed_values_open(fleet: &Fleet) {
    let vault = Vault::open(&fleet.dir.path().join("vault.key")).unwrap();
    let ledger = ledger(fleet);
    let (mut codes, mut recipients) = (std::collections::BTreeMap::<String, u32>::new(), 0);
    for row in sqlx::query("select * from noshi_sealed.sealed").fetch_all(&fleet.pool).await.unwrap() {
        let text = |column| row.get::<String, _>(column);
        let (what, subject, grant, provider) = (text("what"), text("subject"), text("grant_id"), text("provider"));
        let place = SealedAt { grant: &grant, provider: &provider, column: &what };
        let sealed = Sealed { key_id: text("key_id"), nonce: row.get("nonce"), ciphertext: row.get("ciphertext") };
        let plain = vault.unseal(&place, &sealed).expect("it opens in its place");
        let plain = plain.expose_secret();
        if what == "file" {
            continue;
        }
        if what == "recipient" {
            let recipient: Value = serde_json::from_str(plain).unwrap();
            let number = grant.rsplit('-').next().unwrap();
            assert_eq!(recipient["name"], format!("{NAME} {number}"));
            assert_eq!(recipient["email"], format!("{ADDRESS}{number}@example.jp"));
            recipients += 1;
            continue;
        }
        let hash = hex::encode(Sha256::digest(plain));
        let is =
            |line: &&Value| line["event"] == "issued" && line["trade"] == *subject && line["provider"] == *provider;
        let issued = ledger.iter().find(is).expect("what is sealed was issued");
        assert_eq!((issued["code_sha256"].as_str(), plain.starts_with("CNRY-")), (Some(&*hash), true));
        *codes.entry(provider).or_default() += 1;
    }
    assert!(recipients >= 90, "{recipients}");
    let many = |provider| codes.get(provider).is_some_and(|codes| *codes >= 5);
    assert!(many("gift_on_demand") && many("tango_card") && codes.len() == 2, "{codes:?}");
}

/// Mails that arrive, bounce, are complained about and are refused; events with addresses at the api; suppressed addresses.
#[tokio::test(flavor = "multi_thread")]
async fn no_name_and_no_address_of_a_mail_stands_anywhere_but_sealed() {
    let _turn = crate::support::turn().await;
    let terms = Terms { mails: true, faults: true, seed: 21, settle: Duration::from_secs(2), ..Terms::default() };
    let stage = stage_with(terms).await;
    let fleet = &stage.fleet;
    let worker = stage.worker("mails", None);
    for n in 0..60 {
        let local = ["hana", "bounce", "complaint", "refused", "reject"][n % 5];
        fleet.mail_to(&format!("g{n}"), NAME, &format!("{local}+{ADDRESS}{n}@example.jp")).await;
    }
    let suppressed = "select count(*) from noshi.suppression where digest is not null";
    until("suppressed addresses", Duration::from_secs(30), async || {
        sqlx::query_scalar(suppressed).fetch_one(&fleet.pool).await.is_ok_and(|suppressed: i64| suppressed == 24)
    })
    .await;
    fleet.at_rest(Duration::from_secs(60)).await.unwrap();
    stage.keep("metrics.txt", scrape(&worker).await);
    let log = fs::read_to_string(&worker.log).unwrap();
    assert!(worker.stop().await.success());
    stage.dump().await;
    let api = fs::read_to_string(&fleet.api.as_ref().unwrap().log).unwrap();

    // The evidence is what it should be.
    assert!(log.contains(r#""level":"TRACE""#) && api.contains("an address is sealed; a worker suppresses it"));
    assert!(log.contains("nothing is sent to an address any more"));
    assert!(stage.evidence("noshi.email_event.txt").lines().count() > 60);
    assert!(stage.evidence("metrics.txt").contains(r#"noshi_provider_requests_total{provider="ses",op="send","#));
    let postgres = fs::read_to_string(stage.server.log_path()).unwrap();
    assert!(
        postgres.contains("noshi.suppress_address")
            && postgres.contains("noshi.digest_address")
            && postgres.contains("noshi.sealed_recipient")
    );

    assert_eq!(stage.found(), [""; 0]);
    assert!(!log.contains("demo-secret"), "the key of AWS");
    let vault = Vault::open(&fleet.dir.path().join("vault.key")).unwrap();
    let rows = "select * from noshi_sealed.sealed where what = 'suppressed'";
    for row in sqlx::query(rows).fetch_all(&fleet.pool).await.unwrap() {
        let place = SealedAt { grant: row.get("grant_id"), provider: "", column: "suppressed" };
        let sealed = Sealed { key_id: row.get("key_id"), nonce: row.get("nonce"), ciphertext: row.get("ciphertext") };
        assert!(vault.unseal(&place, &sealed).unwrap().expose_secret().contains(ADDRESS));
    }
    stage.server.stop().await.unwrap();
}

/// The same search finds what leaks: an address among the parameters, and a code that a planted bug writes to the journal.
#[tokio::test(flavor = "multi_thread")]
async fn what_leaks_is_found() {
    let _turn = crate::support::turn().await;
    let stage = stage().await;
    stage.submit_all(0..1);
    assert_eq!(stage.found(), [""; 0]);
    sqlx::query("select length($1)").bind(ADDRESS).execute(&stage.fleet.pool).await.unwrap();
    assert_eq!(stage.found(), ["server.log"]);
    // The database's own wall would stand before this line.
    let wall = "alter table noshi.job_event disable trigger of_workers";
    sqlx::raw_sql(wall).execute(&stage.fleet.pool).await.unwrap();
    let worker = stage.worker("leaks", Some("code_in_journal"));
    stage.fleet.at_rest(Duration::from_secs(60)).await.unwrap();
    assert!(worker.stop().await.success());
    stage.dump().await;
    let found = stage.found();
    for place in ["noshi.job_event.txt", "pg_dump.sql", "server.log"] {
        assert!(found.iter().any(|name| name == place), "{place} is not among {found:?}");
    }
    let is_wal = |name: &String| name.len() == 24 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    assert!(found.iter().any(is_wal), "{found:?}");
    stage.server.stop().await.unwrap();
}

/// A metadata service of an EC2 machine, whose keys are valid for so long from each answer.
async fn metadata(valid: Duration) -> (String, tokio::task::JoinHandle<()>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let answer = async move |uri: axum::http::Uri| match uri.path() {
        "/latest/api/token" => "CNRY-metadata-token".to_owned(),
        "/latest/meta-data/iam/security-credentials/" => "mailer".to_owned(),
        _ => {
            let expires = chrono::Utc::now() + valid;
            json!({
                "Code": "Success", "Type": "AWS-HMAC", "AccessKeyId": "AKIDEXAMPLESES", "SecretAccessKey": "demo-secret",
                "Token": "CNRY-session-token", "LastUpdated": "2026-01-01T00:00:00Z",
                "Expiration": expires.to_rfc3339_opts(chrono::SecondsFormat::Secs, true),
            })
            .to_string()
        }
    };
    let served =
        tokio::spawn(async move { axum::serve(listener, axum::Router::new().fallback(answer)).await.unwrap() });
    (address, served)
}

/// Its keys are used for as long as they are valid, and no longer; its tokens and its secret stand in no log.
#[tokio::test(flavor = "multi_thread")]
async fn a_metadata_service_that_goes_away_leaves_its_keys_and_no_trace_of_them() {
    let _turn = crate::support::turn().await;
    let fleet = crate::fleet::fleet(Terms { mails: true, api: false, ..Terms::default() }).await;
    // The library calls keys of the last two minutes old: each mail has them looked for.
    let (address, served) = metadata(Duration::from_secs(12)).await;
    let nowhere = fleet.dir.path().join("none").display().to_string();
    let environment = |address| {
        [
            ("AWS_SHARED_CREDENTIALS_FILE", nowhere.clone()),
            ("HOME", "/nowhere".to_owned()),
            ("AWS_EC2_METADATA_DISABLED", "false".to_owned()),
            ("AWS_EC2_METADATA_SERVICE_ENDPOINT", address),
            ("NOSHI_LOG", "trace".to_owned()),
        ]
    };
    let worker = |name: &str, address: String| {
        let environment = environment(address);
        let environment: Vec<_> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
        fleet.worker(name, &environment, &[])
    };
    let first = worker("first", address);
    fleet.mail("a", "a@example.jp").await;
    fleet.at_rest(Duration::from_secs(20)).await.unwrap();
    served.abort();
    let _ = served.await;
    fleet.mail("b", "b@example.jp").await;
    fleet.at_rest(Duration::from_secs(10)).await.unwrap();
    let log = || fs::read_to_string(&first.log).unwrap();
    assert!(log().contains("\"kept\":true"), "the source was away when the second was sent");

    // They are over: nothing is sent, and the process keeps away.
    tokio::time::sleep(Duration::from_secs(12)).await;
    let waits = fleet.mail("c", "c@example.jp").await;
    until("it keeps away", Duration::from_secs(20), async || log().contains("keeps away from the lane")).await;
    let stands = "select not in_doubt and retries = 0 and at = 'sending' from noshi.job where id = $1";
    assert!(sqlx::query_scalar::<_, bool>(stands).bind(waits).fetch_one(&fleet.pool).await.unwrap());
    assert_eq!(fleet.sends().len(), 2);

    let (address, served) = metadata(Duration::from_secs(600)).await;
    let second = worker("second", address);
    fleet.at_rest(Duration::from_secs(20)).await.unwrap();
    assert!(fleet.sends().len() == 3 && fleet.sends().values().all(|sends| *sends == 1), "each once");
    for log in [&first.log, &second.log] {
        let log = fs::read_to_string(log).unwrap();
        assert!(log.contains("TRACE"), "it told all it would");
        for secret in ["CNRY", "demo-secret"] {
            let line = log.lines().find(|line| line.contains(secret));
            assert!(line.is_none(), "{line:?}");
        }
    }
    served.abort();
    assert!(first.stop().await.success() && second.stop().await.success());
}
