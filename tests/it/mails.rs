//! Mails, with real workers, a real api, and SES simulated: what is sent, what events tell, what is suppressed.

use std::{collections::BTreeMap, time::Duration};

use rustix::process::Signal;
use secrecy::SecretString;
use serde_json::{Value, json};

use crate::{
    dump::{check, dump},
    fleet::{Fleet, LIMIT, TOPIC, Terms, address, fleet},
    processes::{ledger, until},
    support::{alone, database, turn},
};
use noshi::{
    db::{self, PgPool, domain::mails::SendQuota},
    lab::simulator::{Command, Errand, Fault, Partner, Publishing, Sending},
    vault::{SealedAt, Vault},
};

const REST: Duration = Duration::from_secs(60);

impl Fleet {
    /// A mail to this address about `reference`, whose recipient is sealed as the intake seals it.
    pub async fn mail(&self, reference: &str, address: &str) -> i64 {
        self.mail_to(reference, "花子", address).await
    }

    pub async fn mail_to(&self, reference: &str, name: &str, address: &str) -> i64 {
        let vault = Vault::open(&self.dir.path().join("vault.key")).expect("the vault");
        let recipient = json!({"name": name, "email": address}).to_string();
        let place = SealedAt { grant: reference, provider: "", column: "recipient" };
        let sealed = vault.seal(&place, &SecretString::from(recipient));
        let keep = "insert into noshi_sealed.sealed (what, subject, grant_id, provider, key_id, nonce, ciphertext)
            values ('recipient', $1, $1, '', $2, $3, $4)";
        sqlx::query(keep)
            .bind(reference)
            .bind(sealed.key_id)
            .bind(sealed.nonce)
            .bind(sealed.ciphertext)
            .execute(&self.pool)
            .await
            .expect("a sealed recipient");
        announce(&self.pool, reference).await
    }

    /// How often SES took each job's mail.
    pub fn sends(&self) -> BTreeMap<i64, usize> {
        let mut sends = BTreeMap::new();
        for line in ledger(self).iter().filter(|line| line["event"] == "mail_sent") {
            *sends.entry(line["trade"].as_str().unwrap().parse().expect("a job's id")).or_default() += 1;
        }
        sends
    }

    pub fn meets(&self, job: i64, fault: Fault, times: u32) {
        let (provider, op, trade) = (Partner::Ses, Some(Errand::SendMail), Some(job.to_string()));
        let script = Command::Script { provider, op, trade, fault, times, seconds: Some(2) };
        self.control().apply(script).expect("a scripted fault");
    }

    fn publishing(&self, held: bool, copies: u32) {
        self.control()
            .apply(Command::Publishing(Publishing { held, copies, ..Publishing::default() }))
            .expect("the publishing of events");
    }

    async fn fate(&self, job: i64) -> (String, Option<String>, Option<String>) {
        sqlx::query_as("select status, code, fate from noshi.email_history where job = $1")
            .bind(job)
            .fetch_one(&self.pool)
            .await
            .expect("a mail's history")
    }
}

async fn announce(pool: &PgPool, reference: &str) -> i64 {
    let params = json!({"category": "amazon", "value": "1000 JPY"});
    let args = json!({"template": "gift_granted", "reference": reference, "recipient": reference, "params": params});
    sqlx::query_scalar("select noshi.enqueue('email', $1, $2)")
        .bind(format!("gift_granted:1:{reference}"))
        .bind(args)
        .fetch_one(pool)
        .await
        .expect("a mail")
}

async fn mails() -> Fleet {
    fleet(Terms { mails: true, ..Terms::default() }).await
}

fn is(status: &str, code: Option<&str>, fate: Option<&str>) -> (String, Option<String>, Option<String>) {
    (status.to_owned(), code.map(str::to_owned), fate.map(str::to_owned))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_goes_out_once_and_events_tell_what_became_of_it() {
    let _turn = turn().await;
    let fleet = mails().await;
    // SNS delivers at least once.
    fleet.publishing(false, 2);
    let mut jobs = vec![];
    for (local, expected, suppressed) in [
        ("hana", is("completed", None, Some("delivered")), false),
        ("bounce", is("completed", None, Some("bounced")), true),
        ("transient", is("completed", None, Some("bounced")), false),
        ("complaint", is("completed", None, Some("complained")), true),
        ("reject", is("completed", None, Some("rejected")), false),
        ("refused", is("failed", Some("mail_rejected"), None), false),
    ] {
        let address = format!("{local}@example.jp");
        jobs.push((fleet.mail(local, &address).await, address, expected, suppressed));
    }
    let nobody = announce(&fleet.pool, "nobody").await;
    let no_address = fleet.mail("malformed", "no address").await;
    let worker = fleet.worker("a", &[], &[]);
    fleet.at_rest(REST).await.unwrap();
    for (job, _, expected, _) in &jobs {
        let what = format!("{expected:?}");
        until(&what, Duration::from_secs(10), async || fleet.fate(*job).await == *expected).await;
    }
    for job in [nobody, no_address] {
        assert_eq!(fleet.fate(job).await, is("failed", Some("no_recipient"), None));
    }
    let sends = fleet.sends();
    assert!(sends.values().all(|sends| *sends == 1) && sends.len() == 5, "{sends:?}");

    // The API could seal them and nothing more: a worker opened and digested them.
    let digested = "select count(*) filter (where digest is null), count(*) from noshi.suppression";
    until("digests of what bounced", Duration::from_secs(10), async || {
        sqlx::query_as::<_, (i64, i64)>(digested).fetch_one(&fleet.pool).await.unwrap() == (0, 2)
    })
    .await;
    // The same addresses again, written otherwise, about something else.
    for (_, address, _, suppressed) in jobs.iter().filter(|(.., expected, _)| expected.0 == "completed") {
        let again = fleet.mail(&format!("again {address}"), &format!(" {} ", address.to_uppercase())).await;
        fleet.at_rest(REST).await.unwrap();
        let (status, code, _) = fleet.fate(again).await;
        let expected = if *suppressed { ("failed", Some("address_suppressed")) } else { ("completed", None) };
        assert_eq!((status.as_str(), code.as_deref()), expected, "{address}");
    }
    let events = "select count(*), count(distinct id), count(job) from noshi.email_event";
    let events: (i64, i64, i64) = sqlx::query_as(events).fetch_one(&fleet.pool).await.unwrap();
    assert!(events.0 >= 10 && events.0 == events.1 && events.0 == events.2, "{events:?}");
    assert!(worker.stop().await.success());
    judge(&fleet).await;
    let mut fleet = fleet;
    assert!(fleet.api.take().expect("a api").stop().await.success());
}

/// A build before the marks sent it: its events carry none, and may come before the answer to the send is settled.
#[tokio::test(flavor = "multi_thread")]
async fn a_mail_without_a_mark_is_known_by_the_services_id() {
    const ACCEPTED: &str = r#"update noshi.job set status = 'completed', at = 'accepted', finished_at = now(),
        state = '{"at": "accepted", "message": "m-1"}' where id = $1"#;
    let db = database().await;
    let pool = &db.pool;
    let job = announce(pool, "old").await;
    let mut connection = pool.acquire().await.unwrap();
    let mut tell = async |id: &str, event: &str, message: &str| {
        let told = db::domain::mails::NewEvent {
            id: id.to_owned(),
            job: Some(job),
            mark: None,
            foreign: false,
            unread: false,
            event: event.to_owned(),
            message: Some(message.to_owned()),
            happened_at: None,
            detail: None,
        };
        db::domain::mails::record_event(&mut connection, &told).await.unwrap()
    };
    // Whose they are nobody can tell yet: the number alone says nothing.
    assert_eq!(tell("e1", "delivery", "m-1").await, db::domain::mails::Heard::Other);
    assert_eq!(tell("e2", "bounce", "m-of-another").await, db::domain::mails::Heard::Other);
    let fate = "select coalesce(fate, '') from noshi.email_history where job = $1";
    let fate = async || sqlx::query_scalar::<_, String>(fate).bind(job).fetch_one(pool).await.unwrap();
    assert_eq!(fate().await, "");
    sqlx::query(ACCEPTED).bind(job).execute(pool).await.unwrap();
    assert_eq!(fate().await, "delivered");
    assert_eq!(tell("e3", "complaint", "m-of-another").await, db::domain::mails::Heard::Foreign);
    assert_eq!(fate().await, "delivered");
    assert_eq!(tell("e4", "complaint", "m-1").await, db::domain::mails::Heard::Ours);
    assert_eq!(fate().await, "complained");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_is_settled_by_an_event_or_by_the_template() {
    let _turn = turn().await;
    let fleet = fleet(Terms { mails: true, settle: Duration::from_secs(3), ..Terms::default() }).await;
    let told = fleet.mail("told", "a@example.jp").await;
    fleet.meets(told, Fault::EffectThenReset, 1);
    let bounced = fleet.mail("bounced", "bounce@example.jp").await;
    fleet.meets(bounced, Fault::EffectThenHang, 1);
    let dropped = fleet.mail("dropped", "reject@example.jp").await;
    fleet.meets(dropped, Fault::WrongJson, 1);
    let never_sent = fleet.mail("never sent", "b@example.jp").await;
    fleet.meets(never_sent, Fault::ResetBeforeEffect, 1);
    let worker = fleet.worker("a", &[], &[]);
    fleet.at_rest(REST).await.unwrap();
    assert_eq!(fleet.fate(told).await.0, "completed");
    assert_eq!(fleet.fate(bounced).await.1.as_deref(), Some("mail_bounced"));
    assert_eq!(fleet.fate(dropped).await.1.as_deref(), Some("mail_rejected"));
    assert_eq!(fleet.fate(never_sent).await.0, "completed");
    assert_eq!(fleet.sends(), BTreeMap::from([(told, 1), (bounced, 1), (dropped, 1), (never_sent, 1)]));

    // Without events: once more, and then a person is asked.
    fleet.publishing(true, 1);
    let silent = fleet.mail("silent", "c@example.jp").await;
    fleet.meets(silent, Fault::EffectThenReset, 2);
    fleet.at_rest(REST).await.unwrap();
    assert_eq!(fleet.fate(silent).await, is("needs_operator", Some("mail_unresolved"), None));
    assert_eq!(fleet.sends()[&silent], 2);
    assert!(worker.stop().await.success());
    judge(&fleet).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lane_keeps_to_the_account_and_closes_when_it_is_told() {
    let _turn = alone().await;
    let fleet = mails().await;
    let first = fleet.mail("first", "a@example.jp").await;
    fleet.meets(first, Fault::ThrottleSeconds, 1);
    let worker = fleet.worker("a", &[], &[]);
    fleet.at_rest(REST).await.unwrap();
    let throttles =
        || ledger(&fleet).iter().filter(|line| line["event"] == "throttled" && line["op"] == "send_mail").count();
    // Of two seconds of 429 for everybody the fleet met one call.
    assert_eq!((throttles(), fleet.sends()[&first]), (1, 1));

    let budgets = "select array_agg(calls order by per) from noshi.lane_budget where lane = 'email/ses'";
    let budgets: Vec<i32> = sqlx::query_scalar(budgets).fetch_one(&fleet.pool).await.unwrap();
    assert!(budgets[0] == i32::try_from(LIMIT).unwrap() && (999_990..=1_000_000).contains(&budgets[1]), "{budgets:?}");

    fleet.control().apply(Command::Sending { state: Sending::Paused }).unwrap();
    fleet.mail("paused", "b@example.jp").await;
    let closed = "select coalesce(closed_until > clock_timestamp() + interval '9 minutes', false) from noshi.lane where name = 'email/ses'";
    let is_closed = async || sqlx::query_scalar::<_, bool>(closed).fetch_one(&fleet.pool).await.unwrap();
    until("a lane closed for ten minutes", Duration::from_secs(10), is_closed).await;

    fleet.control().apply(Command::Sending { state: Sending::Suspended }).unwrap();
    db::queue::lanes::resume(&fleet.pool, "email/ses", Some("fixed")).await.unwrap();
    fleet.mail("suspended", "c@example.jp").await;
    let code = "select closed_code is not distinct from 'credentials' from noshi.lane where name = 'email/ses'";
    let by_code = async || sqlx::query_scalar::<_, bool>(code).fetch_one(&fleet.pool).await.unwrap();
    until("a lane closed until a person opens it", Duration::from_secs(10), by_code).await;
    assert!(worker.stop().await.success());
}

/// A process without keys keeps away, and says so; the lane stays open, and whoever has keys sends.
#[tokio::test(flavor = "multi_thread")]
async fn credentials_are_found_in_a_profile_and_a_process_without_any_keeps_away() {
    let _turn = turn().await;
    let fleet = fleet(Terms { mails: true, api: false, ..Terms::default() }).await;
    let job = fleet.mail("a", "a@example.jp").await;
    let file = fleet.dir.path().join("credentials");
    let env = [("AWS_SHARED_CREDENTIALS_FILE", file.to_str().unwrap()), ("HOME", "/nowhere")];
    let without = fleet.worker("without", &env, &["--metrics", "127.0.0.1:0"]);
    let kept_away = "noshi_process_kept_away{lane=\"email/ses\",why=\"keys\"} 1";
    until("the process without keys says that it keeps away", Duration::from_secs(20), async || {
        crate::metrics::scrape(&without).await.contains(kept_away)
    })
    .await;
    let closed = "select closed_code is not null from noshi.lane where name = 'email/ses'";
    assert!(!sqlx::query_scalar::<_, bool>(closed).fetch_one(&fleet.pool).await.unwrap());
    assert!(fleet.sends().is_empty());

    std::fs::write(&file, "[default]\naws_access_key_id = AKIDEXAMPLESES\naws_secret_access_key = demo-secret\n")
        .unwrap();
    let with = fleet.worker("with", &env, &[]);
    fleet.at_rest(REST).await.unwrap();
    assert_eq!(fleet.fate(job).await, is("completed", None, Some("accepted")));
    assert!(without.stop().await.success());
    assert!(with.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn with_faults_and_a_killed_worker_nobody_gets_a_mail_more_often_than_its_template_allows() {
    let _turn = turn().await;
    let fleet =
        fleet(Terms { mails: true, faults: true, seed: 11, settle: Duration::from_secs(2), ..Terms::default() }).await;
    for n in 0..150 {
        fleet.mail(&format!("g{n}"), &format!("u{n}@example.jp")).await;
    }
    let (mut first, second) = (fleet.worker("a", &[], &[]), fleet.worker("b", &[], &[]));
    until("some mails", Duration::from_secs(20), async || fleet.sends().len() >= 40).await;
    first.signal(Signal::KILL);
    assert!(first.killed(Duration::from_secs(5)).await);
    fleet.at_rest(REST).await.unwrap();
    assert!(second.stop().await.success());
    let sends = fleet.sends();
    assert!(sends.values().all(|sends| *sends <= 2), "{sends:?}");
    let ends = "select status::text, count(*) from noshi.job group by 1";
    let ends: Vec<(String, i64)> = sqlx::query_as(ends).fetch_all(&fleet.pool).await.unwrap();
    let ends: BTreeMap<_, _> = ends.into_iter().collect();
    assert!(ends.get("completed").is_some_and(|completed| *completed >= 140), "{ends:?}");
    judge(&fleet).await;
}

async fn judge(fleet: &Fleet) {
    let rows = fleet.dir.path().join("dump");
    dump(&fleet.url, &rows).await;
    check(&fleet.ledger(), &rows, &["--quiescent"]).unwrap_or_else(|said| panic!("{said}"));
}

async fn post(address: &str, path: &str, body: &Value) -> u16 {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let answer = client.post(format!("http://{address}{path}")).body(body.to_string()).send().await.unwrap();
    answer.status().as_u16()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_keeps_nothing_that_is_not_signed() {
    let _turn = turn().await;
    let fleet = mails().await;
    let api = fleet.api.as_ref().unwrap();
    let api = address(api, "the API listens").await;
    let forged = json!({
        "Type": "Notification", "MessageId": "m", "TopicArn": TOPIC, "Timestamp": "2030-01-01T00:00:00.000Z",
        "Message": "{\"eventType\":\"Bounce\"}", "SignatureVersion": "2", "Signature": "AAAA",
        "SigningCertURL": "https://sns.ap-northeast-1.amazonaws.com/x.pem",
    });
    assert_eq!(post(&api, "/v1/events/ses", &forged).await, 403);
    assert_eq!(post(&api, "/v1/events/ses", &json!({})).await, 400);
    assert_eq!(post(&api, "/v1/events/elsewhere", &forged).await, 404);
    let kept: i64 = sqlx::query_scalar("select count(*) from noshi.email_event").fetch_one(&fleet.pool).await.unwrap();
    assert_eq!(kept, 0);
}

#[tokio::test]
async fn what_is_left_of_the_day_is_the_budget_and_nothing_left_closes_the_lane() {
    let db = database().await;
    let first = [db::queue::lanes::Budget { per: Duration::from_secs(1), calls: 1, burst: 1, jitter: Duration::ZERO }];
    db::domain::mails::declare(&db.pool, "email/ses", &first).await.unwrap();
    let every = Duration::from_secs(300);
    assert!(db::domain::mails::claim_question(&db.pool, "email/ses", every).await.unwrap());
    assert!(!db::domain::mails::claim_question(&db.pool, "email/ses", every).await.unwrap());
    let told = |sent| SendQuota { per_second: 14.0, per_day: 50_000.0, sent };
    let pause = Duration::from_secs(600);
    let calls = "select calls, (select closed_until is not null from noshi.lane where name = 'email/ses') from noshi.lane_budget";
    db::domain::mails::renew_budgets(&db.pool, "email/ses", told(49_999.0), pause).await.unwrap();
    // The lane's first budgets come again with every worker, and change nothing.
    db::domain::mails::declare(&db.pool, "email/ses", &first).await.unwrap();
    assert_eq!(sqlx::query_as::<_, (i32, bool)>(calls).fetch_one(&db.pool).await.unwrap(), (14, false));
    db::domain::mails::renew_budgets(&db.pool, "email/ses", told(50_000.0), pause).await.unwrap();
    assert!(sqlx::query_as::<_, (i32, bool)>(calls).fetch_one(&db.pool).await.unwrap().1);
}
