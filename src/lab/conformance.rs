//! The conformance of those gift partners that are simulated here: what is asserted is what the ledger says, not what the adapter was told.

use std::{fs, time::Duration};

use noshi_jobs::{
    gift_issuance::{Args, Cancel, Inquiry, Issue, Trade},
    money::{Currency, Money},
};
use secrecy::ExposeSecret;
use sha2::{Digest, Sha256};

use crate::{
    lab::simulator::{Command, Config, Credentials, Event, Fault, Line, Op, PerProvider, Provider, Simulator},
    partners::{
        Gate,
        conformance::{Files, Heard, YEN, args, assert_no_secret, partner, trade},
        gifts::{CodePolicy, Funds, GiftProvider},
    },
    vault::SealedAt,
};

/// Long enough for whatever the simulator lets land late.
const SETTLE: Duration = Duration::from_millis(200);

fn secret(provider: Provider) -> String {
    partner(provider.name()).fixture.secret.to_owned()
}

/// The credentials that the adapters' fixtures have.
fn credentials() -> Credentials {
    Credentials {
        amazon_key_id: "AKIDTEST".to_owned(),
        amazon_secret: secret(Provider::AmazonIncentives),
        gift_on_demand_key: secret(Provider::GiftOnDemand),
        tango_key: secret(Provider::TangoCard),
        ..Credentials::default()
    }
}

macro_rules! content {
    ($variant:path, $value:expr) => {
        if let $variant(content) = $value { Some(content) } else { None }
    };
}

struct Bench {
    files: Files,
    simulator: Simulator,
    provider: Box<dyn GiftProvider>,
    simulated: Provider,
    gate: Gate,
}

impl Bench {
    async fn new(simulated: Provider) -> Bench {
        Bench::with(simulated, credentials()).await
    }

    async fn with(simulated: Provider, credentials: Credentials) -> Bench {
        let files = Files::new();
        let limits = PerProvider { amazon_incentives: None, gift_on_demand: None, tango_card: None };
        let config = Config { limits, settle: SETTLE, credentials, ..Config::new(files.folder().join("ledger")) };
        let simulator = Simulator::start(config).await.unwrap();
        let provider = files.open(partner(simulated.name()), &simulator.base_url(simulated));
        Bench { files, simulator, provider, simulated, gate: Gate::open() }
    }

    fn of(&self, grant: &str) -> (Args, Trade) {
        (args(grant), trade(self.provider.as_ref(), grant))
    }

    /// Makes one call: whatever it meets, the ledger knows of one arrival more at most.
    async fn once<T>(&self, call: impl Future<Output = T>) -> T {
        let before = self.count(Event::Arrival, None);
        let outcome = call.await;
        let made = self.count(Event::Arrival, None) - before;
        assert!(made <= 1, "{}: one call is {made} requests", self.provider.name());
        outcome
    }

    async fn issue(&self, grant: &str) -> Issue {
        let (args, trade) = self.of(grant);
        self.once(self.provider.issue(&args, &trade, &self.gate)).await
    }

    async fn inquire(&self, grant: &str, reference: Option<&str>) -> Inquiry {
        let (args, trade) = self.of(grant);
        self.once(self.provider.inquire(&args, &trade, reference, &self.gate)).await
    }

    /// What one inquiry tells, or two where the first gives the reference for the second.
    async fn told(&self, grant: &str) -> Inquiry {
        match self.inquire(grant, None).await {
            Inquiry::Known(reference) => self.inquire(grant, Some(&reference)).await,
            other @ (Inquiry::Live(_)
            | Inquiry::Pending
            | Inquiry::Failed(_)
            | Inquiry::NotFound
            | Inquiry::Dead
            | Inquiry::Conflict
            | Inquiry::Throttled(_)
            | Inquiry::NoAnswer
            | Inquiry::BadCredentials) => other,
        }
    }

    async fn cancel(&self, grant: &str, card: Option<&str>) -> Cancel {
        let (args, trade) = self.of(grant);
        self.once(self.provider.cancel(&args, &trade, card, &self.gate)).await
    }

    async fn funds(&self) -> Funds {
        self.once(self.provider.funds(&self.gate)).await
    }

    /// The wait that a throttled call of this kind is told.
    async fn throttled(&self, op: Op) -> Duration {
        let wait = match op {
            Op::Issue => content!(Issue::Throttled, self.issue("g1").await),
            Op::Inquire => content!(Inquiry::Throttled, self.inquire("g1", None).await),
            Op::Cancel => content!(Cancel::Throttled, self.cancel("g1", Some(CARD)).await),
            Op::Funds => content!(Funds::Throttled, self.funds().await),
        };
        wait.unwrap_or_else(|| panic!("{}: {} is not throttled", self.provider.name(), op.name()))
    }

    /// By what the issued gift can be asked for.
    async fn questions(&self, grant: &str) -> Vec<Option<String>> {
        if !self.provider.terms().contract.inquiry {
            return vec![];
        }
        let known = content!(Inquiry::Known, self.inquire(grant, None).await);
        [None].into_iter().chain(known.map(Some)).collect()
    }

    fn script(&self, op: Op, fault: Fault) {
        self.simulator.control().script(self.simulated, op, fault, 1).unwrap();
    }

    /// The calls of this kind that can meet the fault here.
    fn meets(&self, fault: Fault, op: Op) -> bool {
        fault.can_meet(self.simulated, op)
    }

    fn ledger(&self) -> Vec<Line> {
        let text = fs::read_to_string(self.files.folder().join("ledger")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn count(&self, event: Event, grant: Option<&str>) -> usize {
        let trade = grant.map(|grant| self.of(grant).1.id);
        self.ledger().iter().filter(|line| line.event == event && (trade.is_none() || line.trade == trade)).count()
    }

    /// Resolves a doubt the way the contract allows, until the gift is there.
    async fn resolve(&self, grant: &str) {
        let end = tokio::time::Instant::now() + Duration::from_secs(20);
        loop {
            let there = match self.provider.terms().contract.inquiry {
                true => matches!(self.told(grant).await, Inquiry::Live(_)),
                false => matches!(self.issue(grant).await, Issue::Issued(_)),
            };
            if there {
                return;
            }
            assert!(tokio::time::Instant::now() < end, "{grant} is never there");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// A card of nobody.
const CARD: &str = "c1";

#[tokio::test]
async fn a_gift_is_issued_once_with_the_code_that_the_ledger_knows() {
    for at in Provider::ALL {
        let bench = Bench::new(at).await;
        let name = bench.provider.name();
        let Issue::Issued(gift) = bench.issue("g1").await else { panic!("{name} issues nothing") };
        let lines = bench.ledger();
        let issued: Vec<&Line> = lines.iter().filter(|line| line.event == Event::Issued).collect();
        let [issued] = issued.as_slice() else { panic!("{name} issued {}", issued.len()) };
        assert_eq!(issued.card.as_deref(), Some(gift.card.as_str()), "{name}");
        assert_eq!(issued.amount, Some(YEN.amount.into()), "{name}");
        match (bench.provider.terms().code_policy, gift.code) {
            (CodePolicy::Refetch, None) => {}
            (CodePolicy::Sealed, Some(sealed)) => {
                let place = SealedAt { grant: "g1", provider: name, column: "gift_code" };
                let code = bench.files.vault().unseal(&place, &sealed).unwrap();
                let digest = hex::encode(Sha256::digest(code.expose_secret()));
                assert_eq!(issued.code_sha256.as_deref(), Some(digest.as_str()), "{name}");
            }
            (policy, code) => panic!("{name} promises {policy:?} and gives {code:?}"),
        }
    }
}

#[tokio::test]
async fn the_declared_contract_is_honoured() {
    for at in Provider::ALL {
        let bench = Bench::new(at).await;
        let (name, contract) = (bench.provider.name(), bench.provider.terms().contract.clone());
        let calls = || bench.count(Event::Arrival, None);
        if contract.inquiry {
            assert_eq!(bench.inquire("g1", None).await, Inquiry::NotFound, "{name}");
        } else {
            assert_eq!((bench.inquire("g1", None).await, calls()), (Inquiry::NoAnswer, 0), "{name}");
        }
        assert_eq!(bench.count(Event::Issued, None), 0, "{name}: an inquiry issued");
        let Issue::Issued(gift) = bench.issue("g1").await else { panic!("{name} issues nothing") };
        if contract.inquiry {
            let Inquiry::Live(live) = bench.told("g1").await else { panic!("{name} does not see it") };
            assert_eq!(live.card, gift.card, "{name}");
        }
        if contract.replay {
            let Issue::Issued(again) = bench.issue("g1").await else { panic!("{name} does not replay") };
            assert_eq!(again.card, gift.card, "{name}");
            let (args, trade) = bench.of("g1");
            let more = Args { value: Money { amount: 2000, ..YEN }, ..args };
            assert_eq!(bench.provider.issue(&more, &trade, &bench.gate).await, Issue::Conflict, "{name}");
            assert_eq!(bench.count(Event::Issued, None), 1, "{name} issued twice");
        }
        let before = calls();
        if !contract.cancel {
            assert_eq!((bench.cancel("g1", Some(&gift.card)).await, calls()), (Cancel::Refused, before), "{name}");
            continue;
        }
        // Where a cancel is only accepted, an inquiry sees that it is done.
        let outcome = bench.cancel("g1", Some(&gift.card)).await;
        if outcome != Cancel::Accepted || bench.told("g1").await != Inquiry::Dead {
            assert_eq!(outcome, Cancel::Cancelled, "{name}");
        }
        assert_eq!(bench.count(Event::Voided, Some("g1")), 1, "{name}");
        assert_eq!(bench.issue("g1").await, Issue::Dead, "{name}: a dead card is handed out");
        if contract.inquiry {
            assert_eq!(bench.told("g1").await, Inquiry::Dead, "{name}");
        }
        assert_eq!(bench.cancel("never", Some(CARD)).await, Cancel::Refused, "{name}");
        assert_eq!(bench.cancel("never", None).await, Cancel::Refused, "{name}");
    }
}

#[tokio::test]
async fn an_issue_that_meets_a_fault_is_in_doubt_and_happens_at_most_once() {
    for at in Provider::ALL {
        let bench = Bench::new(at).await;
        let name = bench.provider.name();
        for fault in Fault::ALL {
            if !bench.meets(fault, Op::Issue) || matches!(fault, Fault::ThrottleSeconds | Fault::ThrottleDate) {
                continue;
            }
            let grant = fault.name();
            bench.script(Op::Issue, fault);
            let outcome = bench.issue(grant).await;
            match fault {
                Fault::SlowBody => assert!(matches!(outcome, Issue::Issued(_)), "{name} {grant}: {outcome:?}"),
                Fault::Pending => assert_eq!(outcome, Issue::Pending, "{name}"),
                Fault::TypedError => assert!(matches!(outcome, Issue::Unknown | Issue::Resend), "{name}: {outcome:?}"),
                Fault::EffectThenReset
                | Fault::EffectThenHang
                | Fault::ResetBeforeEffect
                | Fault::LateLanding
                | Fault::ErrorBeforeEffect
                | Fault::ErrorAfterEffect
                | Fault::Truncated
                | Fault::WrongJson
                | Fault::OtherTrade
                | Fault::StaleInquiry
                | Fault::ThrottleSeconds
                | Fault::ThrottleDate => assert_eq!(outcome, Issue::Unknown, "{name} {grant}"),
            }
            let nothing_done = matches!(fault, Fault::ResetBeforeEffect | Fault::ErrorBeforeEffect | Fault::TypedError);
            if nothing_done {
                assert_eq!(bench.count(Event::Issued, Some(grant)), 0, "{name} {grant}");
            }
            if !nothing_done || bench.provider.terms().contract.replay && !bench.provider.terms().contract.inquiry {
                bench.resolve(grant).await;
                assert_eq!(bench.count(Event::Issued, Some(grant)), 1, "{name} {grant}");
            }
        }
    }
}

#[tokio::test]
async fn a_question_or_a_cancel_that_meets_a_fault_is_not_answered() {
    for at in Provider::ALL {
        let bench = Bench::new(at).await;
        let (name, contract) = (bench.provider.name(), bench.provider.terms().contract.clone());
        assert!(matches!(bench.issue("g1").await, Issue::Issued(_)), "{name}");
        let questions = bench.questions("g1").await;
        for fault in Fault::ALL {
            if matches!(fault, Fault::ThrottleSeconds | Fault::ThrottleDate | Fault::SlowBody | Fault::StaleInquiry) {
                continue;
            }
            for reference in questions.iter().filter(|_| bench.meets(fault, Op::Inquire)) {
                bench.script(Op::Inquire, fault);
                let told = bench.inquire("g1", reference.as_deref()).await;
                assert_eq!(told, Inquiry::NoAnswer, "{name} {} {reference:?}", fault.name());
            }
            if bench.meets(fault, Op::Funds) {
                bench.script(Op::Funds, fault);
                assert_eq!(bench.funds().await, Funds::NoAnswer, "{name} {}", fault.name());
            }
            if contract.cancel && bench.meets(fault, Op::Cancel) {
                let grant = format!("cancel-{}", fault.name());
                let Issue::Issued(gift) = bench.issue(&grant).await else { panic!("{name} issues nothing") };
                bench.script(Op::Cancel, fault);
                let outcome = bench.cancel(&grant, Some(&gift.card)).await;
                // "Accepted" names no trade, and only makes the job inquire.
                let nothing_said = fault == Fault::OtherTrade && outcome == Cancel::Accepted;
                assert!(nothing_said || outcome == Cancel::Unknown, "{name} {grant}: {outcome:?}");
            }
        }
        if contract.inquiry {
            assert!(matches!(bench.issue("g2").await, Issue::Issued(_)), "{name}");
            for reference in bench.questions("g2").await {
                bench.script(Op::Inquire, Fault::StaleInquiry);
                // An order that is known and not there is a contradiction.
                let blind = if reference.is_none() { Inquiry::NotFound } else { Inquiry::NoAnswer };
                assert_eq!(bench.inquire("g2", reference.as_deref()).await, blind, "{name}");
            }
            assert!(matches!(bench.told("g2").await, Inquiry::Live(_)), "{name}");
        }
    }
}

#[tokio::test]
async fn throttling_gives_the_stated_wait_for_every_call() {
    for at in Provider::ALL {
        let bench = Bench::new(at).await;
        let (name, contract) = (bench.provider.name(), bench.provider.terms().contract.clone());
        for (fault, longest) in [(Fault::ThrottleSeconds, 40), (Fault::ThrottleDate, 42)] {
            for op in [Op::Issue, Op::Inquire, Op::Cancel, Op::Funds] {
                let possible = match op {
                    Op::Issue | Op::Funds => true,
                    Op::Inquire => contract.inquiry,
                    Op::Cancel => contract.cancel,
                };
                if !possible {
                    continue;
                }
                let control = bench.simulator.control();
                let script = Command::Script {
                    provider: bench.simulated.into(),
                    op: None,
                    trade: None,
                    fault,
                    times: 1,
                    seconds: Some(40),
                };
                control.apply(script).unwrap();
                let wait = bench.throttled(op).await;
                assert!((40..=longest).contains(&wait.as_secs()), "{name} {}: {wait:?}", op.name());
                control.clear().unwrap();
            }
        }
        assert_eq!(bench.count(Event::Issued, None), 0, "{name}");
    }
}

#[tokio::test]
async fn wrong_credentials_a_stopped_account_and_an_empty_one_are_told_apart() {
    for at in Provider::ALL {
        let other = Credentials { amazon_key_id: "AKIDTEST".to_owned(), ..Credentials::default() };
        let unknown_key = Credentials { amazon_secret: secret(Provider::AmazonIncentives), ..other.clone() };
        for credentials in [other, Credentials { amazon_key_id: "AKIDOTHER".to_owned(), ..unknown_key }] {
            let bench = Bench::with(at, credentials).await;
            let (name, contract) = (bench.provider.name(), bench.provider.terms().contract.clone());
            assert_eq!(bench.issue("g1").await, Issue::BadCredentials, "{name}");
            assert_eq!(bench.funds().await, Funds::BadCredentials, "{name}");
            if contract.inquiry {
                assert_eq!(bench.inquire("g1", None).await, Inquiry::BadCredentials, "{name}");
                let referred = bench.inquire("g1", Some("RA1")).await;
                assert_eq!(referred, Inquiry::BadCredentials, "{name}");
            }
            if contract.cancel {
                assert_eq!(bench.cancel("g1", Some(CARD)).await, Cancel::BadCredentials, "{name}");
            }
        }
        let bench = Bench::new(at).await;
        let (name, control) = (bench.provider.name(), bench.simulator.control());
        control.block(bench.simulated, true).unwrap();
        assert_eq!(bench.issue("g1").await, Issue::BadCredentials, "{name}");
        control.block(bench.simulated, false).unwrap();
        control.fund(bench.simulated, 999).unwrap();
        assert_eq!(bench.issue("g1").await, Issue::OutOfFunds, "{name}");
        let left = Funds::Available(Money { amount: 999, currency: Currency::Jpy });
        assert_eq!(bench.funds().await, left, "{name}");
        assert_eq!(bench.count(Event::Issued, None), 0, "{name}");
        control.fund(bench.simulated, 1000).unwrap();
        assert!(matches!(bench.issue("g1").await, Issue::Issued(_)), "{name}");
    }
}

#[tokio::test]
async fn no_secret_is_traced_or_debugged_whatever_happens() {
    let heard = Heard::default();
    let _listening = heard.listen();
    let mut seen = String::new();
    for at in Provider::ALL {
        let bench = Bench::new(at).await;
        for fault in Fault::ALL {
            if matches!(fault, Fault::EffectThenHang | Fault::SlowBody | Fault::ThrottleDate) {
                continue;
            }
            for op in [Op::Issue, Op::Inquire, Op::Cancel, Op::Funds] {
                if bench.meets(fault, op) {
                    bench.script(op, fault);
                }
                let grant = fault.name();
                let issued = bench.issue(grant).await;
                seen += &format!("{issued:?} {:?} ", bench.told(grant).await);
                let card = content!(Issue::Issued, issued).map_or(CARD.to_owned(), |gift| gift.card);
                seen += &format!("{:?} {:?}\n", bench.cancel(grant, Some(&card)).await, bench.funds().await);
                bench.simulator.control().clear().unwrap();
            }
        }
    }
    for outcome in ["Issued", "Live", "Accepted", "Unknown", "Throttled", "NoAnswer"] {
        assert!(seen.contains(outcome), "{outcome} never happened");
    }
    assert_no_secret(&seen);
    let heard = heard.text();
    assert!(heard.contains("outcome not known"), "our own events are heard");
    assert_no_secret(&heard);
}
