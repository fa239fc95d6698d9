//! Against the simulator, whose ledger says what really happened, under every fault.

use std::{fs, time::Duration};

use noshi_jobs::store_creation::{Args, Assign, Create, Delete, Find};
use tempfile::TempDir;

use crate::lab::simulator::{Command, Config, Errand, Event, Fault, Line, Partner, Simulator};

use super::*;

const P: Partner = Partner::OrganizationPlatform;
const SETTLE: Duration = Duration::from_millis(100);

struct Bench {
    dir: TempDir,
    simulator: Simulator,
    platform: OrganizationPlatform,
}

async fn bench() -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config::new(dir.path().join("ledger.jsonl"));
    config.organization_platform.limit = None;
    config.settle = SETTLE;
    config.hang = Duration::from_secs(1);
    let simulator = Simulator::start(config).await.unwrap();
    let platform = OrganizationPlatform::open(&settings(&dir, &simulator.base_url(P), "demo-token")).unwrap();
    Bench { dir, simulator, platform }
}

fn settings(dir: &TempDir, base_url: &str, token: &str) -> OrganizationSettings {
    let file = dir.path().join("token");
    fs::write(&file, format!("{token}\n")).unwrap();
    fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let text = format!(
        "base_url = '{base_url}'\ntoken_file = '{}'\nservice = 'reserve'\ncalls_per_second = 2000\njitter_ms = 0\n\
         timeout_ms = 1500\nread_timeout_ms = 1000\nconnect_timeout_ms = 1000\n",
        file.display()
    );
    let source = config::File::from_str(&text, config::FileFormat::Toml);
    config::Config::builder().add_source(source).build().unwrap().try_deserialize().unwrap()
}

fn args(organization: &str, public_id: &str) -> Args {
    Args {
        organization: organization.to_owned(),
        public_id: public_id.to_owned(),
        name: "本店".to_owned(),
        address: Some("東京都".to_owned()),
        phone: None,
        contact: None,
        request: "7".to_owned(),
    }
}

impl Bench {
    fn count(&self, event: Event, trade: &str) -> usize {
        let text = fs::read_to_string(self.dir.path().join("ledger.jsonl")).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<Line>(line).unwrap());
        lines.filter(|line| line.event == event && line.trade.as_deref() == Some(trade)).count()
    }

    fn script(&self, errand: Errand, fault: Fault) {
        let script = Command::Script { provider: P, op: Some(errand), trade: None, fault, times: 1, seconds: Some(1) };
        self.simulator.control().apply(script).unwrap();
    }

    async fn create(&self, args: &Args, key: &str) -> Create {
        self.platform.create_shop(args, key, &Gate::open()).await
    }

    async fn find(&self, args: &Args, key: &str) -> Find {
        self.platform.find_shop(args, key, &Gate::open()).await
    }

    async fn assign(&self, args: &Args) -> Assign {
        self.platform.assign_service(args, &Gate::open()).await
    }

    async fn delete(&self, shop: &str) -> Delete {
        self.platform.delete_shop(shop, &Gate::open()).await
    }

    async fn shop(&self, args: &Args, key: &str) -> String {
        let answer = self.create(args, key).await;
        let Create::Created(shop) = answer else { panic!("{answer:?}") };
        shop
    }
}

#[tokio::test]
async fn every_plain_answer_is_told_for_what_it_is() {
    let bench = bench().await;
    let one = args("O-1", "S-1");
    assert_eq!(bench.find(&one, "k1").await, Find::NotFound);
    let shop = bench.shop(&one, "k1").await;
    assert_eq!(bench.create(&one, "k1").await, Create::Created(shop.clone()));
    let other = Args { name: "支店".to_owned(), ..one.clone() };
    assert_eq!(bench.create(&other, "k1").await, Create::KeyConflict);
    assert_eq!(bench.create(&one, "k2").await, Create::Refused("public_id_taken".to_owned()));
    assert_eq!(bench.create(&args("O-1", "NOSHOP"), "k3").await, Create::Refused("public_id_refused".to_owned()));
    assert_eq!(bench.create(&args("NOORG", "S-1"), "k4").await, Create::OrganizationRefused);
    assert_eq!(bench.find(&one, "k1").await, Find::Ours(shop.clone()));
    assert_eq!(bench.find(&one, "k2").await, Find::Others);
    assert_eq!(bench.assign(&one).await, Assign::Assigned);
    assert_eq!(bench.assign(&one).await, Assign::AlreadyAssigned);
    assert_eq!(bench.assign(&args("NOSERVICE", "S-1")).await, Assign::OrganizationRefused);
    assert_eq!(bench.delete(&shop).await, Delete::Deleted);
    assert_eq!(bench.delete(&shop).await, Delete::NotFound);
    let kept = bench.shop(&args("O-1", "INUSE"), "k5").await;
    assert_eq!(bench.delete(&kept).await, Delete::Refused);
    let wrong = settings(&bench.dir, &bench.simulator.base_url(P), "guess");
    let wrong = OrganizationPlatform::open(&wrong).unwrap();
    assert_eq!(wrong.create_shop(&one, "k6", &Gate::open()).await, Create::BadCredentials);
    assert_eq!(wrong.delete_shop(&kept, &Gate::open()).await, Delete::BadCredentials);
    assert_eq!(bench.platform.create_shop(&one, "k6", &Gate::new(|| false)).await, Create::NotSent);
    assert_eq!(bench.count(Event::Arrival, "k6"), 1);
}

/// Which faults say nothing of the effect, and whether it happened.
const SILENT: [(Fault, bool); 8] = [
    (Fault::EffectThenReset, true),
    (Fault::EffectThenHang, true),
    (Fault::ResetBeforeEffect, false),
    (Fault::ErrorBeforeEffect, false),
    (Fault::ErrorAfterEffect, true),
    (Fault::TypedError, false),
    (Fault::Truncated, true),
    (Fault::WrongJson, true),
];

#[tokio::test]
async fn no_fault_at_a_creation_makes_a_second_shop_or_hides_the_first() {
    let bench = bench().await;
    let others = [(Fault::OtherTrade, true), (Fault::LateLanding, true)];
    for (fault, happened) in SILENT.into_iter().chain(others) {
        let (args, key) = (args("O-1", &format!("S-{}", fault.name())), format!("k/{}", fault.name()));
        bench.script(Errand::CreateShop, fault);
        assert_eq!(bench.create(&args, &key).await, Create::Unknown, "{}", fault.name());
        if fault == Fault::LateLanding {
            // The same key now, before or after the late one: one shop.
            bench.shop(&args, &key).await;
            tokio::time::timeout(Duration::from_secs(10), async {
                while bench.count(Event::Replayed, &key) == 0 {
                    tokio::task::yield_now().await;
                }
            })
            .await
            .unwrap();
        }
        assert_eq!(bench.count(Event::ShopCreated, &key), usize::from(happened), "{}", fault.name());
        let shop = bench.shop(&args, &key).await;
        assert_eq!(bench.count(Event::ShopCreated, &key), 1, "{}", fault.name());
        assert_eq!(bench.find(&args, &key).await, Find::Ours(shop));
    }
    bench.script(Errand::CreateShop, Fault::ThrottleSeconds);
    assert_eq!(bench.create(&args("O-1", "S-1"), "k1").await, Create::Throttled(Duration::from_secs(1)));
    assert_eq!(bench.count(Event::ShopCreated, "k1"), 0);
}

#[tokio::test]
async fn no_fault_at_the_other_calls_is_taken_for_an_answer() {
    let bench = bench().await;
    let one = args("O-1", "S-1");
    let shop = bench.shop(&one, "k1").await;
    for (fault, _) in SILENT {
        bench.script(Errand::FindShop, fault);
        assert_eq!(bench.find(&one, "k1").await, Find::NoAnswer, "{}", fault.name());
        bench.script(Errand::AssignService, fault);
        assert_eq!(bench.assign(&one).await, Assign::Unknown, "{}", fault.name());
        // What of it arrived, the next call tells.
        let kept = bench.shop(&args("O-1", &format!("D-{}", fault.name())), fault.name()).await;
        bench.script(Errand::DeleteShop, fault);
        let answer = bench.delete(&kept).await;
        // A deletion has no body that could be cut off or be wrong.
        let plain = fault == Fault::Truncated;
        assert_eq!(answer, if plain { Delete::Deleted } else { Delete::Unknown }, "{}", fault.name());
        assert!(matches!(bench.delete(&kept).await, Delete::Deleted | Delete::NotFound));
        assert_eq!(bench.count(Event::ShopDeleted, &kept), 1);
    }
    bench.script(Errand::FindShop, Fault::OtherTrade);
    assert_eq!(bench.find(&one, "k1").await, Find::NoAnswer);
    let young = args("O-1", "S-2");
    bench.shop(&young, "k2").await;
    bench.script(Errand::FindShop, Fault::StaleInquiry);
    assert_eq!(bench.find(&young, "k2").await, Find::NotFound, "an inquiry may lag");
    bench.script(Errand::DeleteShop, Fault::ThrottleDate);
    assert!(matches!(bench.delete(&shop).await, Delete::Throttled(_)));
}

#[tokio::test]
async fn nobody_there_is_not_sent() {
    let dir = tempfile::tempdir().unwrap();
    let platform = OrganizationPlatform::open(&settings(&dir, "http://127.0.0.1:1", "t")).unwrap();
    let one = args("O-1", "S-1");
    assert_eq!(platform.create_shop(&one, "k1", &Gate::open()).await, Create::NotSent);
    assert_eq!(platform.find_shop(&one, "k1", &Gate::open()).await, Find::NoAnswer);
    assert_eq!(platform.assign_service(&one, &Gate::open()).await, Assign::NotSent);
    assert_eq!(platform.delete_shop("shp_1", &Gate::open()).await, Delete::NotSent);
    let mut wrong = settings(&dir, "http://127.0.0.1:1", "t");
    wrong.service = "a/b".to_owned();
    assert!(OrganizationPlatform::open(&wrong).is_err());
}

#[tokio::test]
async fn the_table_is_what_the_code_does() {
    use crate::{
        db::queue::slot::Notice,
        partners::{
            conformance::answers::{self, Row},
            scripted::Act,
            whose::Whose::{self, Account, Message, Network, Recipient},
        },
    };
    use noshi_jobs::machine::Closing;
    let dir = tempfile::tempdir().unwrap();
    let (one, key) = (args("O-1", "S-1"), "k1");
    let shop = |key: &str| format!(r#"{{"shop_id":"shp_1","public_id":"S-1","idempotency_key":"{key}"}}"#);
    let made = ["200 OK", "201 Created"].map(|head| Act::answer(head, &shop(key)));
    let mut rows = vec![
        Row::new("200 or 201 and a shop with our public id and our key", Message, made),
        Row::new("201 and a shop under another key", Network, [Act::answer("201 Created", &shop("k2"))]),
    ];
    let refusals: [(u16, &str, Whose); 14] = [
        (422, "public_id_refused", Message),
        (422, "something_new", Message),
        (422, "idempotency_key_reused", Message),
        (409, "public_id_taken", Message),
        (403, "organization_refused", Recipient),
        (401, "unauthorized", Account),
        (429, "too_many_requests", Account),
        // Status and code do not agree, or one of them is unknown.
        (403, "unauthorized", Network),
        (403, "something_new", Network),
        (404, "not_found", Network),
        (409, "shop_in_use", Network),
        (418, "something_new", Network),
        (500, "public_id_taken", Network),
        (503, "too_many_requests", Network),
    ];
    rows.extend(refusals.map(|(status, code, whose)| Row::said(status, &format!(r#"{{"code":"{code}"}}"#), whose)));
    rows.extend(answers::of_the_way());
    let asked = ["create", "find", "assign", "delete"];
    answers::draw("src/partners/organization.rs", &asked, rows, async |asked, url| {
        let platform = OrganizationPlatform::open(&settings(&dir, &url, "t")).unwrap();
        let told = Notice::default();
        let gate = Gate::open().telling(&told);
        let again = |wait| ("asked again".to_owned(), Some(Closing::Throttled(wait)));
        let (said, closing) = match asked {
            "find" => match platform.find_shop(&one, key, &gate).await {
                Find::Ours(_) => ("found, ours".to_owned(), None),
                Find::Others => ("found, another's".to_owned(), None),
                Find::NotFound => ("not found".to_owned(), None),
                Find::Throttled(wait) => again(wait),
                Find::NoAnswer => ("asked again".to_owned(), None),
                Find::BadCredentials => ("asked again".to_owned(), Some(Closing::Credentials)),
            },
            "assign" => match platform.assign_service(&one, &gate).await {
                Assign::Assigned | Assign::AlreadyAssigned => ("assigned".to_owned(), None),
                Assign::OrganizationRefused => ("refused (organization_refused)".to_owned(), None),
                Assign::Throttled(wait) => again(wait),
                Assign::NotSent | Assign::Unknown => ("asked again".to_owned(), None),
                Assign::BadCredentials => ("asked again".to_owned(), Some(Closing::Credentials)),
            },
            "delete" => match platform.delete_shop("shp_1", &gate).await {
                Delete::Deleted => ("deleted".to_owned(), None),
                Delete::NotFound => ("not there any more".to_owned(), None),
                Delete::Refused => ("refused: a person decides".to_owned(), None),
                Delete::Throttled(wait) => again(wait),
                Delete::NotSent | Delete::Unknown => ("asked again".to_owned(), None),
                Delete::BadCredentials => ("asked again".to_owned(), Some(Closing::Credentials)),
            },
            _ => match platform.create_shop(&one, key, &gate).await {
                Create::Created(_) => ("created".to_owned(), None),
                Create::Refused(why) => (format!("refused ({why})"), None),
                Create::OrganizationRefused => ("refused (organization_refused)".to_owned(), None),
                Create::KeyConflict => ("in doubt, parked: the key is another shop's".to_owned(), None),
                Create::Throttled(wait) => ("retry".to_owned(), Some(Closing::Throttled(wait))),
                Create::NotSent => ("retry".to_owned(), None),
                Create::Unknown => ("in doubt".to_owned(), None),
                Create::BadCredentials => ("retry".to_owned(), Some(Closing::Credentials)),
            },
        };
        (said, closing.or(answers::told(&told)))
    })
    .await;
}
