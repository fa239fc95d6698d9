use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use super::{
    Row, assert_drawn, assert_no_act_calls_blindly, at, cell, now,
    released::{Released, assert_released},
    table, terms_table, this,
};
use crate::{
    Problem,
    gift_issuance::{
        AfterCancel, Args, Bound, Cancel, Contract, Fact, Gift, GiftIssuance, Inquiry, Issue, Seek, Start, State,
        Trade, World,
    },
    machine::{Act, Call, Doubt, Job, Past, This, Transition},
    money::{Currency, Money},
    point_reversal,
};

const HOUR: Duration = Duration::from_secs(3_600);

struct Scripted {
    called: AtomicBool,
    start: Start,
    seek: Seek,
    bound: Bound,
    issue: Issue,
    inquiry: Inquiry,
    cancel: Cancel,
}

impl Scripted {
    fn answer<'a, T: Clone + Send + Sync>(&'a self, answer: &'a T) -> Call<'a, T> {
        self.called.store(true, Ordering::Relaxed);
        Box::pin(async { answer.clone() })
    }
}

impl World for Scripted {
    fn start_trade<'a>(&'a self, _: &'a Args, _: u8, _: bool) -> Call<'a, Start> {
        self.answer(&self.start)
    }
    fn seek<'a>(&'a self, _: &'a Args, _: u8, _: Option<&'a str>) -> Call<'a, Seek> {
        self.answer(&self.seek)
    }
    fn bind<'a>(&'a self, _: &'a Args, _: &'a Trade) -> Call<'a, Bound> {
        self.answer(&self.bound)
    }
    fn issue<'a>(&'a self, _: &'a Args, _: &'a Trade) -> Call<'a, Issue> {
        self.answer(&self.issue)
    }
    fn inquire<'a>(&'a self, _: &'a Args, _: &'a Trade, _: Option<&'a str>) -> Call<'a, Inquiry> {
        self.answer(&self.inquiry)
    }
    fn cancel<'a>(&'a self, _: &'a Args, _: &'a Trade, _: Option<&'a str>) -> Call<'a, Cancel> {
        self.answer(&self.cancel)
    }
}

fn world() -> Scripted {
    let called = AtomicBool::new(false);
    Scripted {
        called,
        start: Start::NoProvider,
        seek: Seek::NoPast,
        bound: Bound::Occupied,
        issue: Issue::Unknown,
        inquiry: Inquiry::NoAnswer,
        cancel: Cancel::Unknown,
    }
}

/// The three kinds of provider: dedup only, inquiry only, both.
fn contracts() -> [Contract; 3] {
    let base = Contract {
        replay: false,
        inquiry: false,
        cancel: false,
        settle_seconds: 600,
        horizon_seconds: 86_400,
        poll_seconds: 300,
    };
    [
        Contract { replay: true, cancel: true, ..base.clone() },
        Contract { inquiry: true, ..base.clone() },
        Contract { replay: true, inquiry: true, cancel: true, ..base },
    ]
}

fn trade(contract: &Contract, generation: u8) -> Trade {
    Trade { id: "Noshi0".into(), provider: "p".into(), generation, contract: contract.clone() }
}

fn args() -> Args {
    let value = Money { amount: 500, currency: Currency::Jpy };
    Args {
        grant: "g1".into(),
        user: "u1".into(),
        category: "amazon".into(),
        value,
        provider: None,
        valid_days: Some(30),
        area: None,
        paid_by: None,
    }
}

/// For points (ポイント交換).
fn paid(args: Args) -> Args {
    let paid_by = Some(point_reversal::Args { exchange: "x1".into(), grace_days: 0 });
    Args { grant: "exchange/x1".into(), paid_by, ..args }
}

fn gift() -> Gift {
    Gift { card: "c1".into(), code: None }
}

const CIRCUMSTANCES: [&str; 5] = ["", "in doubt", "patience spent", "past the horizon, in doubt", "paid by points"];

fn circumstances(when: &str) -> This<Args> {
    let base = this(args());
    match when {
        "" => base,
        "in doubt" => This { in_doubt: true, ..base },
        "paid by points" => This { args: paid(args()), ..base },
        "patience spent" => This { in_state: 25 * HOUR, since_call: Some(HOUR), retries: 8, ..base },
        _ => This { in_doubt: true, since_call: Some(25 * HOUR), ..base },
    }
}

fn rows(out: &mut Vec<Row>, answer: &str, world: &Scripted, state: impl Fn(&Contract) -> State) {
    for when in CIRCUMSTANCES {
        let mut calls = 0;
        let cells = contracts().map(|contract| {
            world.called.store(false, Ordering::Relaxed);
            let step = now(GiftIssuance::step(&circumstances(when), state(&contract), world));
            if world.called.load(Ordering::Relaxed) {
                calls += 1;
                return cell(&step);
            }
            match step.transition {
                // The answer does not matter.
                Transition::Advance(_) | Transition::NeedsOperator(_) => format!("no call: {}", cell(&step)),
                Transition::Retry | Transition::Snooze(_) | Transition::Done(_) | Transition::Fail(..) => cell(&step),
            }
        });
        let is_call = GiftIssuance::terms(&args(), &state(&contracts()[0])).lane.is_some();
        let answer = if calls == 0 && is_call { "any" } else { answer };
        let at = at(&state(&contracts()[0]));
        if !out.iter().any(|row| row.at == at && row.answer == answer && row.when == when) {
            out.push(Row { at, answer: answer.to_owned(), when, cells: cells.to_vec() });
        }
    }
}

/// Every answer that an issue call can give. The match makes a forgotten one a compile error.
fn issues() -> Vec<(&'static str, Issue)> {
    let all = vec![
        Issue::Issued(gift()),
        Issue::Pending,
        Issue::Resend,
        Issue::Refused("F200".into()),
        Issue::Throttled(Duration::from_secs(1)),
        Issue::NotSent,
        Issue::Unknown,
        Issue::Dead,
        Issue::Conflict,
        Issue::OutOfFunds,
        Issue::BadCredentials,
    ];
    let name = |issue: &Issue| match issue {
        Issue::Issued(_) => "issued",
        Issue::Pending => "accepted, not ready",
        Issue::Resend => "resend",
        Issue::Refused(_) => "refused",
        Issue::Throttled(_) => "throttled",
        Issue::NotSent => "not sent",
        Issue::Unknown => "unknown",
        Issue::Dead => "success of a dead card",
        Issue::Conflict => "same id, other amount",
        Issue::OutOfFunds => "out of funds",
        Issue::BadCredentials => "bad credentials",
    };
    all.into_iter().map(|issue| (name(&issue), issue)).collect()
}

fn inquiries() -> Vec<(&'static str, Inquiry)> {
    let all = vec![
        Inquiry::Live(gift()),
        Inquiry::Pending,
        Inquiry::Known("R1".into()),
        Inquiry::Failed("FAILED".into()),
        Inquiry::NotFound,
        Inquiry::Dead,
        Inquiry::Conflict,
        Inquiry::Throttled(Duration::from_secs(1)),
        Inquiry::NoAnswer,
        Inquiry::BadCredentials,
    ];
    let name = |inquiry: &Inquiry| match inquiry {
        Inquiry::Live(_) => "live",
        Inquiry::Pending => "accepted, not ready",
        Inquiry::Known(_) => "known by a reference",
        Inquiry::Failed(_) => "given up by the provider",
        Inquiry::NotFound => "not found",
        Inquiry::Dead => "dead",
        Inquiry::Conflict => "same id, other amount",
        Inquiry::Throttled(_) => "throttled",
        Inquiry::NoAnswer => "no answer",
        Inquiry::BadCredentials => "bad credentials",
    };
    all.into_iter().map(|inquiry| (name(&inquiry), inquiry)).collect()
}

fn cancels() -> Vec<(&'static str, Cancel)> {
    let all = vec![
        Cancel::Cancelled,
        Cancel::Accepted,
        Cancel::Refused,
        Cancel::NotFound,
        Cancel::Throttled(Duration::from_secs(1)),
        Cancel::NotSent,
        Cancel::Unknown,
        Cancel::BadCredentials,
    ];
    let name = |cancel: &Cancel| match cancel {
        Cancel::Cancelled => "cancelled",
        Cancel::Accepted => "accepted, not done",
        Cancel::Refused => "too late or claimed",
        Cancel::NotFound => "not found",
        Cancel::Throttled(_) => "throttled",
        Cancel::NotSent => "not sent",
        Cancel::Unknown => "unknown",
        Cancel::BadCredentials => "bad credentials",
    };
    all.into_iter().map(|cancel| (name(&cancel), cancel)).collect()
}

fn states(contract: &Contract) -> Vec<State> {
    let trade = trade(contract, 0);
    let all = vec![
        State::Routing { generation: 0 },
        State::seeking(0),
        State::Asking { trade: trade.clone() },
        State::Issuing { trade: trade.clone() },
        State::inquiring(trade.clone()),
        State::pending(trade.clone(), None),
        State::Cancelling { trade: trade.clone(), then: AfterCancel::Ask, card: None },
        State::Void { trade: trade.clone(), then: AfterCancel::Ask },
        State::Issued { trade, card: "c1".into() },
        State::Rejected { reason: "F200".into() },
        State::Lapsed,
    ];
    for state in &all {
        match state {
            State::Routing { .. }
            | State::Seeking { .. }
            | State::Asking { .. }
            | State::Issuing { .. }
            | State::Inquiring { .. }
            | State::Pending { .. }
            | State::Cancelling { .. }
            | State::Void { .. }
            | State::Issued { .. }
            | State::Rejected { .. }
            | State::Lapsed => {}
        }
    }
    all
}

/// The answers that mean something else once the provider's reference is known.
fn asked_by_reference(out: &mut Vec<Row>, state: impl Fn(&Contract) -> State) {
    for (answer, inquiry) in
        [("known, and no details again", Inquiry::Known("R2".into())), ("known, and not found then", Inquiry::NotFound)]
    {
        rows(out, answer, &Scripted { inquiry, ..world() }, &state);
    }
}

/// The partners that may have been called, one after the other.
fn sought(out: &mut Vec<Row>) {
    for (answer, seek) in [
        ("another may have been called", Seek::Ask(trade(&contracts()[1], 0))),
        ("none of all of them knows it", Seek::Nobody { all: true }),
        ("none knows it of those that can be asked", Seek::Nobody { all: false }),
        ("nothing is noted of its past", Seek::NoPast),
    ] {
        rows(out, answer, &Scripted { seek, ..world() }, |_| State::seeking(0));
    }
    for (answer, bound) in [("one knows it", Bound::Saved), ("one knows it, occupied", Bound::Occupied)] {
        let found = |c: &Contract| State::Seeking { generation: 0, after: None, found: Some(trade(c, 0)) };
        rows(out, answer, &Scripted { bound, ..world() }, found);
    }
    for (answer, inquiry) in inquiries() {
        rows(out, answer, &Scripted { inquiry, ..world() }, |c| State::Asking { trade: trade(c, 0) });
    }
}

fn inquiring_again(contract: &Contract, refused: bool) -> State {
    State::Inquiring { trade: trade(contract, 0), not_found: 1, refused, reference: None }
}

/// A delivered gift whose return was asked for.
fn withdrawn(contract: &Contract, then: Option<AfterCancel>) -> State {
    State::Pending { trade: trade(contract, 0), reference: None, then, card: Some("c1".into()) }
}

#[test]
fn the_table_is_what_the_code_does() {
    let mut out = vec![];
    let routing = |_: &Contract| State::Routing { generation: 0 };
    let started = Start::Started(trade(&contracts()[0], 0));
    for (answer, start) in [
        ("trade saved", started),
        ("restored: may be called already", Start::InDoubt(trade(&contracts()[0], 0))),
        ("restored: at any of several", Start::Unclear),
        ("no provider", Start::NoProvider),
        ("valid days passed", Start::Lapsed),
        ("occupied", Start::Occupied),
    ] {
        rows(&mut out, answer, &Scripted { start, ..world() }, routing);
    }
    sought(&mut out);
    for (answer, issue) in issues() {
        rows(&mut out, answer, &Scripted { issue, ..world() }, |c| State::Issuing { trade: trade(c, 0) });
    }
    for (answer, inquiry) in inquiries() {
        rows(&mut out, answer, &Scripted { inquiry, ..world() }, |c| State::inquiring(trade(c, 0)));
    }
    let not_found = Scripted { inquiry: Inquiry::NotFound, ..world() };
    rows(&mut out, "not found twice", &not_found, |c| inquiring_again(c, false));
    rows(&mut out, "not found twice, refused before", &not_found, |c| inquiring_again(c, true));
    asked_by_reference(&mut out, |c| State::Inquiring {
        trade: trade(c, 0),
        not_found: 0,
        refused: false,
        reference: Some("R1".into()),
    });
    for (answer, inquiry) in inquiries() {
        rows(&mut out, answer, &Scripted { inquiry, ..world() }, |c| State::pending(trade(c, 0), None));
    }
    asked_by_reference(&mut out, |c| State::pending(trade(c, 0), Some("R1".into())));
    for (answer, inquiry) in inquiries() {
        let answer = format!("{answer}, after an accepted cancel");
        rows(&mut out, &answer, &Scripted { inquiry, ..world() }, |c| withdrawn(c, Some(AfterCancel::Ask)));
    }
    for (answer, inquiry) in inquiries().into_iter().filter(|(_, inquiry)| !matches!(inquiry, Inquiry::Known(_))) {
        let answer = format!("{answer}, delivered before");
        rows(&mut out, &answer, &Scripted { inquiry, ..world() }, |c| withdrawn(c, None));
    }
    for (answer, cancel) in cancels() {
        let asked = |c: &Contract| State::Cancelling { trade: trade(c, 0), then: AfterCancel::Ask, card: None };
        rows(&mut out, answer, &Scripted { cancel, ..world() }, asked);
    }
    let delivered =
        |c: &Contract| State::Cancelling { trade: trade(c, 0), then: AfterCancel::Ask, card: Some("c1".into()) };
    rows(&mut out, "too late, and delivered before", &Scripted { cancel: Cancel::Refused, ..world() }, delivered);
    for (answer, then, generation) in [
        ("the provider told us to reissue", AfterCancel::Reissue, 0),
        ("three generations void", AfterCancel::Reissue, 2),
        ("a person decides", AfterCancel::Ask, 0),
    ] {
        rows(&mut out, answer, &world(), |c| State::Void { trade: trade(c, generation), then });
    }
    let columns = ["same id is safe (Amazon)", "inquiry only (Gods, Digico)", "both (Tango)"];
    let terms: Vec<_> = states(&contracts()[2]).into_iter().map(|state| (state, args())).collect();
    assert_drawn("gift_issuance.rs", &[terms_table::<GiftIssuance>(&terms), table(&columns, &out)]);
}

/// Never a second call under an id that the provider might not recognise, whatever the answer or the circumstances.
#[test]
fn a_doubtful_trade_is_never_failed_and_never_renewed() {
    for contract in contracts() {
        for when in ["in doubt", "past the horizon, in doubt"] {
            for (name, issue) in issues() {
                let state = State::Issuing { trade: trade(&contract, 0) };
                let step = now(GiftIssuance::step(&circumstances(when), state, &Scripted { issue, ..world() }));
                let settled = step.doubt == Doubt::Settled;
                match step.transition {
                    Transition::Fail(..) | Transition::Done(_) => assert!(settled, "{name} {when}"),
                    Transition::Advance(State::Routing { .. } | State::Void { .. }) => {
                        assert!(settled, "{name} {when}")
                    }
                    Transition::Advance(_)
                    | Transition::Retry
                    | Transition::Snooze(_)
                    | Transition::NeedsOperator(_) => {}
                }
            }
        }
    }
}

/// The provider refuses the id and does not know it: a lap from issuing to inquiring and back would call it for ever.
#[test]
fn a_refusal_in_doubt_is_never_answered_by_the_same_call() {
    for contract in contracts().into_iter().filter(|contract| contract.inquiry) {
        let issue = Issue::Refused("F200".into());
        let inquiry = Inquiry::NotFound;
        let world = Scripted { issue, inquiry, ..world() };
        let mut state = State::Issuing { trade: trade(&contract, 0) };
        let mut asked = None;
        for lap in 0..5 {
            let this = This { in_doubt: true, in_state: HOUR * lap, ..this(args()) };
            let transition = now(GiftIssuance::step(&this, state.clone(), &world)).transition;
            if let Transition::NeedsOperator(why) = transition {
                asked = Some(why);
                break;
            }
            let Transition::Advance(next @ State::Inquiring { .. }) = transition else { panic!("{transition:?}") };
            state = next;
        }
        let expected = if contract.replay { Problem::DoubtUnresolved } else { Problem::NotFoundInDoubt };
        assert_eq!(asked, Some(expected));
    }
}

/// Cancelled while nobody knew whether it was ever ordered, and then looked for: what was never accepted is not waited for as an order is that
/// was. A person is asked, and may attest.
#[test]
fn what_was_never_accepted_is_not_waited_for() {
    for contract in contracts().into_iter().filter(|contract| contract.inquiry && contract.cancel) {
        let cancelling = State::Cancelling { trade: trade(&contract, 0), then: AfterCancel::Ask, card: None };
        let Some(looking) = GiftIssuance::acts(&cancelling, Past::InDoubt).leads(Act::Inquire) else {
            panic!("it may be looked for")
        };
        let world = Scripted { inquiry: Inquiry::NotFound, ..world() };
        let looked = |in_doubt| {
            let this = This { in_doubt, in_state: HOUR, ..this(args()) };
            now(GiftIssuance::step(&this, looking.clone(), &world)).transition
        };
        assert!(matches!(looked(true), Transition::NeedsOperator(Problem::NotFoundInDoubt)));
        assert!(matches!(looked(false), Transition::Snooze(_)), "accepted before: it may lag");
        assert!(GiftIssuance::acts(&looking, Past::InDoubt).leads(Act::AttestVoid).is_some());
        assert!(GiftIssuance::acts(&looking, Past::Clear).leads(Act::AttestVoid).is_none());
    }
}

#[test]
fn past_the_horizon_nothing_is_sent() {
    struct NoCalls;
    impl World for NoCalls {
        fn start_trade<'a>(&'a self, _: &'a Args, _: u8, _: bool) -> Call<'a, Start> {
            panic!("called")
        }
        fn seek<'a>(&'a self, _: &'a Args, _: u8, _: Option<&'a str>) -> Call<'a, Seek> {
            panic!("called")
        }
        fn bind<'a>(&'a self, _: &'a Args, _: &'a Trade) -> Call<'a, Bound> {
            panic!("called")
        }
        fn issue<'a>(&'a self, _: &'a Args, _: &'a Trade) -> Call<'a, Issue> {
            panic!("called")
        }
        fn inquire<'a>(&'a self, _: &'a Args, _: &'a Trade, _: Option<&'a str>) -> Call<'a, Inquiry> {
            panic!("called")
        }
        fn cancel<'a>(&'a self, _: &'a Args, _: &'a Trade, _: Option<&'a str>) -> Call<'a, Cancel> {
            panic!("called")
        }
    }
    for contract in contracts() {
        let state = State::Issuing { trade: trade(&contract, 0) };
        let step = now(GiftIssuance::step(&circumstances("past the horizon, in doubt"), state, &NoCalls));
        match step.transition {
            Transition::NeedsOperator(Problem::PastHorizon) => assert!(contract.replay),
            Transition::Advance(State::Inquiring { .. }) => assert!(!contract.replay),
            Transition::Advance(_)
            | Transition::Retry
            | Transition::Snooze(_)
            | Transition::Done(_)
            | Transition::Fail(..)
            | Transition::NeedsOperator(_) => panic!("{:?}", step.transition),
        }
    }
}

/// Each contract that a provider may have, also that of one which can neither be asked nor told the same again.
#[test]
fn no_act_calls_blindly_under_any_contract() {
    for bits in 0..8_u8 {
        let [contract, ..] = contracts();
        let contract = Contract { replay: bits & 1 > 0, inquiry: bits & 2 > 0, cancel: bits & 4 > 0, ..contract };
        let states: Vec<_> = states(&contract).into_iter().map(|state| (state, args())).collect();
        assert_no_act_calls_blindly::<GiftIssuance>(&states);
    }
}

/// What was never called is ended at once, and its trade with it; what may have been called is taken back, or asked about.
#[test]
fn a_gift_that_was_never_called_is_cancelled_and_its_trade_is_void() {
    for contract in contracts() {
        let issuing = State::Issuing { trade: trade(&contract, 0) };
        let Some(end) = GiftIssuance::acts(&issuing, Past::Clear).leads(Act::Cancel) else {
            panic!("it can be cancelled")
        };
        assert_eq!(end, State::Rejected { reason: "revoked".into() });
        let void = Fact::Voided { trade: trade(&contract, 0).id, reason: "revoked" };
        assert_eq!(GiftIssuance::recorded(&issuing, &end, Act::Cancel), [void]);
        let step = now(GiftIssuance::step(&circumstances(""), end.clone(), &world()));
        assert_eq!(step.transition, Transition::Fail(end, Problem::GiftRevoked));
        let doubted = GiftIssuance::acts(&issuing, Past::InDoubt).leads(Act::Cancel);
        assert_eq!(doubted.is_some(), contract.cancel, "in doubt only the provider takes back: {doubted:?}");
        assert!(!matches!(doubted, Some(State::Rejected { .. })));
    }
}

/// A person's word about a trade is a fact, as an answer is: without it no other trade could follow.
#[test]
fn whatever_leads_to_another_generation_records_that_the_last_one_is_void() {
    for contract in contracts() {
        for state in states(&contract) {
            for (act, past) in Act::ALL.into_iter().flat_map(|act| [(act, Past::Clear), (act, Past::InDoubt)]) {
                let Some(next) = GiftIssuance::acts(&state, past).leads(act) else { continue };
                let voided = GiftIssuance::recorded(&state, &next, act);
                let tradeless = matches!(state, State::Routing { .. } | State::Seeking { .. } | State::Asking { .. });
                let word = (act == Act::AttestVoid && !tradeless) || matches!(state, State::Void { .. });
                let never_called = matches!((&state, &next), (State::Issuing { .. }, State::Rejected { .. }));
                assert_eq!(voided.len(), usize::from(word || never_called), "{state:?} {act:?}");
            }
        }
    }
}

#[test]
fn a_new_generation_starts_only_from_a_proven_void() {
    for contract in contracts() {
        for state in states(&contract) {
            for act in Act::ALL {
                if let Some(State::Routing { generation }) = GiftIssuance::acts(&state, Past::Clear).leads(act) {
                    let void = matches!(state, State::Void { .. }) && act == Act::Reissue && generation == 1;
                    let same = state == State::Routing { generation };
                    assert!(void || same, "{state:?} {act:?}");
                }
            }
        }
    }
}

/// From doubt at any of several: whatever is answered on the way, nothing is called for a purchase, and no end is reached before one is bound.
#[test]
fn seeking_buys_nothing_and_settles_nothing() {
    for contract in contracts() {
        let asking = State::Asking { trade: trade(&contract, 0) };
        for (name, inquiry) in inquiries() {
            let step = now(GiftIssuance::step(
                &circumstances("in doubt"),
                asking.clone(),
                &Scripted { inquiry: inquiry.clone(), ..world() },
            ));
            assert_eq!((step.doubt, step.facts.len()), (Doubt::AsBefore, 0), "{name}");
            match step.transition {
                Transition::Advance(State::Seeking { found, .. }) => {
                    assert_eq!(found.is_none(), inquiry == Inquiry::NotFound, "{name}");
                }
                Transition::Retry | Transition::Snooze(_) => {}
                other @ (Transition::Advance(_)
                | Transition::Done(_)
                | Transition::Fail(..)
                | Transition::NeedsOperator(_)) => panic!("{name}: {other:?}"),
            }
        }
        let found = State::Seeking { generation: 0, after: None, found: Some(trade(&contract, 0)) };
        assert_eq!(GiftIssuance::acts(&found, Past::InDoubt).leads(Act::AttestVoid), None, "a partner knows it");
        for state in [State::Routing { generation: 0 }, State::seeking(0), asking] {
            assert_eq!(GiftIssuance::acts(&state, Past::InDoubt).leads(Act::Inquire), Some(State::seeking(0)));
            assert_eq!(GiftIssuance::acts(&state, Past::Clear).leads(Act::Inquire), None, "{state:?}");
        }
    }
}

fn after(state: State, world: &Scripted) -> State {
    match now(GiftIssuance::step(&circumstances(""), state, world)).transition {
        Transition::Advance(state) => state,
        other @ (Transition::Retry
        | Transition::Snooze(_)
        | Transition::Done(_)
        | Transition::Fail(..)
        | Transition::NeedsOperator(_)) => panic!("{other:?}"),
    }
}

/// The reference is all that an inquiry adds; the count starts again, and an earlier refusal stays.
#[test]
fn a_known_trade_is_asked_for_by_its_reference() {
    let known = Scripted { inquiry: Inquiry::Known("R1".into()), ..world() };
    for contract in contracts() {
        for refused in [false, true] {
            let state = after(inquiring_again(&contract, refused), &known);
            let reference = Some("R1".to_owned());
            assert_eq!(state, State::Inquiring { trade: trade(&contract, 0), not_found: 0, refused, reference });
            let step = now(GiftIssuance::step(&circumstances("in doubt"), state, &known));
            assert_eq!((step.transition, step.doubt), (Transition::Retry, Doubt::AsBefore));
        }
    }
}

/// Over as many steps as it takes, what follows an accepted cancel, and the card, are kept.
#[test]
fn an_accepted_cancel_is_followed_to_its_end() {
    let [_, _, both] = contracts();
    for then in [AfterCancel::Reissue, AfterCancel::Ask] {
        let card = Some("c1".to_owned());
        let state = State::Cancelling { trade: trade(&both, 0), then, card: card.clone() };
        let state = after(state, &Scripted { cancel: Cancel::Accepted, ..world() });
        let state = after(state, &Scripted { inquiry: Inquiry::Known("R1".into()), ..world() });
        let reference = Some("R1".to_owned());
        assert_eq!(state, State::Pending { trade: trade(&both, 0), reference, then: Some(then), card });
        for inquiry in [Inquiry::Dead, Inquiry::Failed("FAILED".into())] {
            let end = after(state.clone(), &Scripted { inquiry, ..world() });
            assert_eq!(end, State::Void { trade: trade(&both, 0), then });
        }
    }
}

/// A fact may be recorded once: a gift that was delivered comes home without a second one, and nothing issues it again.
#[test]
fn a_delivered_gift_is_never_issued_or_recorded_again() {
    let [_, _, both] = contracts();
    let cancelling = State::Cancelling { trade: trade(&both, 0), then: AfterCancel::Ask, card: Some("c1".into()) };
    let waiting = withdrawn(&both, Some(AfterCancel::Ask));
    let told = withdrawn(&both, None);
    for state in [&cancelling, &waiting, &told] {
        let inquired = GiftIssuance::acts(state, Past::InDoubt).leads(Act::Inquire);
        assert_eq!(inquired.as_ref(), Some(&told), "{state:?}");
        // Nobody's word makes void what was delivered; but it may be kept.
        assert_eq!(GiftIssuance::acts(state, Past::InDoubt).leads(Act::AttestVoid), None, "{state:?}");
        let kept = State::Issued { trade: trade(&both, 0), card: "c1".into() };
        assert_eq!(GiftIssuance::acts(state, Past::InDoubt).leads(Act::Adopt), Some(kept), "{state:?}");
        for when in CIRCUMSTANCES {
            let worlds = inquiries().into_iter().map(|(_, inquiry)| Scripted { inquiry, ..world() });
            let worlds = worlds.chain(cancels().into_iter().map(|(_, cancel)| Scripted { cancel, ..world() }));
            for world in worlds {
                let step = now(GiftIssuance::step(&circumstances(when), state.clone(), &world));
                assert!(step.facts.iter().all(|fact| matches!(fact, Fact::Voided { .. })), "{:?}", step.facts);
                match step.transition {
                    Transition::Advance(State::Pending { .. } | State::Void { .. })
                    | Transition::Retry
                    | Transition::Snooze(_)
                    | Transition::NeedsOperator(_) => {}
                    Transition::Done(State::Issued { card, .. }) => assert_eq!(card, "c1"),
                    other @ (Transition::Advance(_) | Transition::Done(_) | Transition::Fail(..)) => {
                        panic!("{when}: {other:?}")
                    }
                }
            }
        }
    }
}

#[test]
fn released_json_still_reads() {
    let trade = r#"{"id":"Noshi0","provider":"p","generation":0,"contract":{"replay":true,"inquiry":false,"cancel":true,"settle_seconds":600,"horizon_seconds":86400,"poll_seconds":300}}"#;
    for json in [
        r#"{"at":"routing","generation":0}"#.to_owned(),
        r#"{"at":"seeking","generation":0}"#.to_owned(),
        r#"{"at":"seeking","generation":0,"after":"p"}"#.to_owned(),
        format!(r#"{{"at":"seeking","generation":0,"found":{trade}}}"#),
        format!(r#"{{"at":"asking","trade":{trade}}}"#),
        format!(r#"{{"at":"issuing","trade":{trade}}}"#),
        format!(r#"{{"at":"inquiring","trade":{trade},"not_found":1}}"#),
        format!(r#"{{"at":"inquiring","trade":{trade},"not_found":0,"refused":true}}"#),
        format!(r#"{{"at":"pending","trade":{trade}}}"#),
        format!(r#"{{"at":"inquiring","trade":{trade},"not_found":0,"reference":"R1"}}"#),
        format!(r#"{{"at":"pending","trade":{trade},"reference":"R1"}}"#),
        format!(r#"{{"at":"pending","trade":{trade},"reference":"R1","then":"reissue"}}"#),
        format!(r#"{{"at":"pending","trade":{trade},"then":"ask","card":"c1"}}"#),
        format!(r#"{{"at":"cancelling","trade":{trade},"then":"reissue"}}"#),
        format!(r#"{{"at":"cancelling","trade":{trade},"then":"ask","card":"c1"}}"#),
        format!(r#"{{"at":"void","trade":{trade},"then":"ask"}}"#),
        format!(r#"{{"at":"issued","trade":{trade},"card":"c1"}}"#),
        r#"{"at":"rejected","reason":"F200"}"#.to_owned(),
        r#"{"at":"lapsed"}"#.to_owned(),
    ] {
        let state: State = serde_json::from_str(&json).unwrap();
        assert_eq!(serde_json::to_string(&state).unwrap(), json);
    }
    let args = r#"{"grant":"g1","user":"u1","category":"amazon","value":{"amount":500,"currency":"JPY"}}"#;
    let read: Args = serde_json::from_str(args).unwrap();
    assert_eq!(serde_json::to_string(&read).unwrap(), args);
    assert!(GiftIssuance::start(&Args { grant: String::new(), ..read }).is_err());
}

#[test]
fn what_was_released_still_reads() {
    let released = Released { lines: 24, digest: 0x01fa_2133_2fa6_cc7e };
    let mut samples: Vec<_> = contracts().iter().flat_map(states).map(|state| (state, args())).collect();
    let bare = Args { valid_days: None, ..args() };
    let whole = Args { provider: Some("p".into()), area: Some("東京".into()), ..args() };
    samples.extend([(State::Lapsed, bare), (State::Lapsed, whole)]);
    assert_released::<GiftIssuance>(&samples, &[], &released);
}
