//! Dumps of the tables, and the independent checker run over them.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::Path,
    process::Command,
};

use futures::TryStreamExt;
use sqlx::{Connection, postgres::PgConnection};

/// What the checker judges, and two more that must not hold a secret either.
const TABLES: [(&str, &str); 15] = [
    ("job", "select row_to_json(t)::text from noshi.job t"),
    ("job_event", "select row_to_json(t)::text from noshi.job_event t"),
    ("batch", "select row_to_json(t)::text from noshi.batch t"),
    ("batch_row", "select row_to_json(t)::text from noshi.batch_row t"),
    ("gift_trade", "select row_to_json(t)::text from noshi.gift_trade t"),
    ("gift_outcome", "select row_to_json(t)::text from noshi.gift_outcome t"),
    ("store", "select row_to_json(t)::text from noshi.store t"),
    ("lane", "select row_to_json(t)::text from noshi.lane t"),
    ("worker", "select row_to_json(t)::text from noshi.worker t"),
    ("sealed", "select row_to_json(t)::text from noshi_sealed.sealed t"),
    ("point_entry", "select row_to_json(t)::text from noshi.point_entry t"),
    ("point_line", "select row_to_json(t)::text from noshi.point_line t"),
    ("point_lot", "select row_to_json(t)::text from noshi.point_lot t"),
    ("point_allocation", "select row_to_json(t)::text from noshi.point_allocation t"),
    ("probe_note", "select row_to_json(t)::text from noshi.probe_note t"),
];

/// Writes every table to `dir` as `TABLE.jsonl`, all as of one moment. The login must be able to read them.
pub async fn dump(url: &str, dir: &Path) {
    std::fs::create_dir_all(dir).expect("the folder of the dump");
    let mut connection = PgConnection::connect(url).await.expect("a connection for the dump");
    let snapshot = "begin isolation level repeatable read read only";
    let mut transaction = connection.begin_with(snapshot).await.expect("a snapshot");
    for (table, select) in TABLES {
        let mut file = BufWriter::new(File::create(dir.join(format!("{table}.jsonl"))).expect("the file of a table"));
        let mut rows = sqlx::query_scalar::<_, String>(select).fetch(&mut *transaction);
        while let Some(row) = rows.try_next().await.expect("a row of a table") {
            writeln!(file, "{row}").expect("a written row");
        }
        file.flush().expect("a written table");
    }
}

/// Runs the checker; the error is all that it said.
pub fn check(ledger: &Path, dump: &Path, extra_args: &[&str]) -> Result<(), String> {
    let output = Command::new(env!("CARGO_BIN_EXE_noshi-checker"))
        .arg("--ledger")
        .arg(ledger)
        .arg("--dump")
        .arg(dump)
        .args(extra_args)
        .output()
        .map_err(|why| format!("the checker does not start: {why}"))?;
    match output.status.code() {
        Some(0) => Ok(()),
        code => Err(format!(
            "the checker ended with {code:?}\n{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )),
    }
}

mod tests {
    use std::{fs, os::unix::fs::PermissionsExt, time::Duration};

    use noshi::{
        app::{End, Worker},
        db,
        lab::simulator::{Config, Provider, Simulator},
        settings::Settings,
    };
    use secrecy::ExposeSecret;
    use serde_json::json;

    use super::{check, dump};
    use crate::{
        engine::{at_rest, pace, probe, start},
        support::database,
    };

    /// Without a provider: the engine's own journal, with every event but a failover's.
    #[tokio::test(flavor = "multi_thread")]
    async fn the_engines_journal_replays_to_its_rows() {
        let db = database().await;
        let pool = &db.pool;
        db::queue::lanes::declare(pool, "probe", &[]).await.expect("a lane");
        for (id, answers) in [
            ("a", json!([])),
            ("b", json!(["not_sent", "refused"])),
            ("c", json!(["unknown", "ok"])),
            ("d", json!(["ask"])),
        ] {
            probe(pool, json!({"id": id, "steps": 3, "lane": "probe", "answers": answers, "in_doubt": "go_to"})).await;
        }
        // Claimed, handed back, claimed again, and never heard of again: another worker takes the job over.
        let dies = db::queue::workers::register(pool, "dies").await.expect("a worker");
        for _ in 0..2 {
            let caught = db::queue::claim::claim(pool, dies, "", 1, false).await.expect("a claim");
            let held: Vec<_> = caught.jobs.iter().map(|job| (job.id, job.lease, job.step)).collect();
            assert_eq!(held.len(), 1);
            db::queue::claim::hand_back(pool, dies, &held).await.expect("a job handed back");
        }
        assert_eq!(db::queue::claim::claim(pool, dies, "", 1, false).await.expect("a claim").jobs.len(), 1);
        let worker = start(&db, pace()).await;
        at_rest(pool).await;
        assert_eq!(worker.stop().await, End::Stopped);
        let rescued: i64 = sqlx::query_scalar("select count(*) from noshi.job_event where event = 'rescued'")
            .fetch_one(pool)
            .await
            .expect("a count");
        assert_eq!(rescued, 1);

        let files = tempfile::tempdir().expect("a folder");
        let (ledger, rows) = (files.path().join("ledger"), files.path().join("dump"));
        fs::write(&ledger, "").expect("an empty ledger");
        dump(&db.url, &rows).await;
        check(&ledger, &rows, &["--quiescent"]).unwrap_or_else(|said| panic!("{said}"));

        // The same run with one row changed behind the journal's back.
        sqlx::query("update noshi.job set step = step + 1 where key = 'a'")
            .execute(pool)
            .await
            .expect("a tampered row");
        dump(&db.url, &rows).await;
        let said = check(&ledger, &rows, &["--quiescent"]).expect_err("the checker sees it");
        assert!(said.contains("I4 job") && said.contains(": 1 violations"), "{said}");
        fs::remove_file(rows.join("job_event.jsonl")).expect("a table less");
        let said = check(&ledger, &rows, &[]).expect_err("nothing to judge");
        assert!(said.contains("Some(2)"), "{said}");
    }

    /// Gifts of all three providers, through random faults.
    #[tokio::test(flavor = "multi_thread")]
    async fn gifts_through_faults_break_no_rule() {
        let db = database().await;
        let files = tempfile::tempdir().expect("a folder");
        let path = |name: &str| files.path().join(name);
        let mut config = Config::new(path("ledger"));
        config.faults = true;
        config.settle = Duration::from_millis(500);
        config.limits.tango_card = Some(10);
        let simulator = Simulator::start(config.clone()).await.expect("a simulator");
        fs::write(path("vault"), noshi::vault::generate_key_line().expose_secret()).expect("a vault key");
        fs::set_permissions(path("vault"), fs::Permissions::from_mode(0o600)).expect("a vault key of our own");
        for (name, secret) in [
            ("amazon", &config.credentials.amazon_secret),
            ("gods", &config.credentials.gift_on_demand_key),
            ("tango", &config.credentials.tango_key),
        ] {
            fs::write(path(name), secret).expect("a secret");
            fs::set_permissions(path(name), fs::Permissions::from_mode(0o600)).expect("a secret of our own");
        }
        fs::write(path("noshi.toml"), settings(files.path(), &simulator)).expect("a configuration");
        let settings = Settings::read(Some(&path("noshi.toml"))).expect("settings");
        let partners = settings.partners().expect("three providers");

        for n in 0..60 {
            let provider = Provider::ALL[n % 3].name();
            let value = json!({"amount": 500, "currency": "JPY"});
            let args = json!({"grant": format!("grant-{n}"), "user": "u", "category": "any", "provider": provider, "value": value});
            sqlx::query("select noshi.enqueue('gift_issuance', $1, $2)")
                .bind(format!("grant-{n}"))
                .bind(args)
                .execute(&db.pool)
                .await
                .expect("an enqueued grant");
        }
        let worker = Worker::start(&db.url, "test", partners, pace()).await.expect("a worker");
        let rest = at_rest(&db.pool);
        assert_eq!(worker.run_until(rest).await, End::Stopped);
        simulator.stop().await.expect("a whole ledger");

        dump(&db.url, &path("dump")).await;
        let limits = ["--limit", "amazon_incentives=10", "gift_on_demand=10", "tango_card=10", "--window-ms", "1000"];
        let args = [&["--quiescent", "--retry-after"], limits.as_slice()].concat();
        check(&path("ledger"), &path("dump"), &args).unwrap_or_else(|said| panic!("{said}"));
        let ledger = fs::read_to_string(path("ledger")).expect("the ledger");
        assert!(ledger.matches(r#""event":"issued""#).count() > 40, "nothing much was issued");
    }

    fn settings(files: &std::path::Path, simulator: &Simulator) -> String {
        let [amazon, gods, tango] = Provider::ALL.map(|provider| simulator.base_url(provider));
        let files = files.display();
        let account = "settle_seconds = 1\npoll_seconds = 1\ntimeout_ms = 2000\ncalls_per_second = 10\n\
            ranges = [{ category = \"any\", currency = \"JPY\", min = 1, max = 1000, product = \"U123456\" }]";
        format!(
            "vault_key_file = \"{files}/vault\"
[gifts.amazon_incentives]
base_url = \"{amazon}\"
{account}
credentials = {{ partner_id = \"Noshi\", region = \"us-west-2\", access_key_id = \"AKIDEXAMPLEDEMO\", secret_key_file = \"{files}/amazon\" }}
[gifts.gift_on_demand]
base_url = \"{gods}\"
{account}
credentials = {{ api_key_file = \"{files}/gods\" }}
[gifts.tango_card]
base_url = \"{tango}\"
{account}
credentials = {{ platform_name = \"demo\", platform_key_file = \"{files}/tango\", customer_identifier = \"customer\", account_identifier = \"account\" }}
"
        )
    }
}
