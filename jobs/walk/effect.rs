use std::time::Duration;

use super::{
    Row, assert_drawn, assert_no_act_calls_blindly, at, cell, now,
    released::{Released, assert_released},
    table, terms_table, this,
};
use crate::{
    Problem,
    effect::{Args, Cancel, Deal, Effect, Inquire, Kept, Perform, Ready, Rule, Sealed, State, World},
    machine::{Act, Call, Job, Lead, Past, This, lead},
};

const WAIT: Duration = Duration::from_secs(9);
const RULES: [Rule; 3] = [Rule::Repeat, Rule::Inquire, Rule::AskAPerson];

/// What each is answered with.
#[derive(Clone)]
struct Scripted {
    ready: Ready,
    perform: Perform,
    inquire: Inquire,
    cancel: Cancel,
}

impl World for Scripted {
    fn read_contract<'a>(&'a self, _: &'a Args, _: u16) -> Call<'a, Ready> {
        Box::pin(async { self.ready.clone() })
    }
    fn perform<'a>(&'a self, _: &'a Args, _: &'a str) -> Call<'a, Perform> {
        Box::pin(async { self.perform.clone() })
    }
    fn inquire<'a>(&'a self, _: &'a Args, _: &'a str) -> Call<'a, Inquire> {
        Box::pin(async { self.inquire.clone() })
    }
    fn cancel<'a>(&'a self, _: &'a Args, _: &'a str) -> Call<'a, Cancel> {
        Box::pin(async { self.cancel.clone() })
    }
}

fn deal(rule: Rule) -> Deal {
    Deal { run: 0, rule, horizon_s: 86_400, settles_after_s: 60, deadline_s: 3_600, cancels: true }
}

fn args() -> Args {
    Args { effect: "refund".into(), id: "pay-1".into(), input: [("amount".into(), "500".into())].into() }
}

fn kept() -> Kept {
    let sealed = Sealed { key_id: "k".into(), nonce: "00".into(), ciphertext: "00".into() };
    Kept { plain: [("receipt".into(), "r-1".into())].into(), sealed: [("code".into(), sealed)].into() }
}

fn world() -> Scripted {
    let ready = Ready::Deal(deal(Rule::Repeat));
    Scripted { ready, perform: Perform::Unknown, inquire: Inquire::NoAnswer, cancel: Cancel::Unknown }
}

type Circumstances = (&'static str, fn(This<Args>) -> This<Args>);

/// As usual; long after the call; long in the state.
const USUAL: Circumstances = ("", |this| this);
const SETTLED: Circumstances =
    ("so long after the call that it settled", |this| This { since_call: Some(Duration::from_secs(61)), ..this });
const LATE: Circumstances = ("past the deadline", |this| {
    let since = Some(Duration::from_secs(3_601));
    This { in_state: Duration::from_secs(3_601), since_call: since, ..this }
});
const FORGOTTEN: Circumstances = ("in doubt, past the horizon", |this| This {
    in_doubt: true,
    since_call: Some(Duration::from_secs(86_401)),
    ..this
});

fn row(of: impl Fn(Rule) -> State, answer: &str, world: &Scripted, (when, change): Circumstances) -> Row {
    let step = |rule| now(Effect::step(&change(this(args())), of(rule), world));
    let cells = RULES.map(|rule| cell(&step(rule))).to_vec();
    Row { at: at(&of(Rule::Repeat)), answer: answer.to_owned(), when, cells }
}

fn prepares(rows: &mut Vec<Row>) {
    let answers = [
        ("its contract", Ready::Deal(deal(Rule::Repeat))),
        ("what was given does not fit the contract", Ready::Misfit("`amount` is missing".into())),
        ("no contract of that name", Ready::NoContract),
        ("no key that seals", Ready::NoKey),
    ];
    for (answer, ready) in answers {
        for circumstances in [USUAL, LATE] {
            let world = Scripted { ready: ready.clone(), ..world() };
            let when = if circumstances.0.is_empty() { "" } else { "for 10 minutes" };
            rows.push(row(|_| State::Preparing { run: 0 }, answer, &world, (when, circumstances.1)));
        }
    }
}

fn performs(rows: &mut Vec<Row>) {
    let answers = [
        ("done", Perform::Done(kept())),
        ("refused", Perform::Refused("422".into())),
        ("accepted, not ready", Perform::Accepted),
        ("throttled", Perform::Throttled(WAIT)),
        ("bad credentials", Perform::BadCredentials),
        ("not sent", Perform::NotSent),
        ("unknown", Perform::Unknown),
    ];
    for (answer, perform) in answers {
        for circumstances in [USUAL, LATE] {
            let world = Scripted { perform: perform.clone(), ..world() };
            rows.push(row(|rule| State::Performing { deal: deal(rule) }, answer, &world, circumstances));
        }
    }
    // By the other rules nothing is called in doubt: the engine sees to it.
    rows.push(row(|_| State::Performing { deal: deal(Rule::Repeat) }, "any", &world(), FORGOTTEN));
}

fn inquires(rows: &mut Vec<Row>) {
    let answers = [
        ("happened", Inquire::Happened(kept())),
        ("did not happen", Inquire::DidNotHappen),
        ("not known yet", Inquire::NotYet),
        ("throttled", Inquire::Throttled(WAIT)),
        ("bad credentials", Inquire::BadCredentials),
        ("no answer", Inquire::NoAnswer),
    ];
    for accepted in [false, true] {
        for (answer, inquire) in &answers {
            for circumstances in [USUAL, SETTLED, LATE] {
                let world = Scripted { inquire: inquire.clone(), ..world() };
                let answer = if accepted { format!("{answer}, and it was accepted") } else { (*answer).to_owned() };
                let state = |_| State::Inquiring { deal: deal(Rule::Inquire), accepted };
                rows.push(row(state, &answer, &world, circumstances));
            }
        }
    }
}

fn cancels(rows: &mut Vec<Row>) {
    let answers = [
        ("done", Cancel::Done),
        ("refused", Cancel::Refused),
        ("throttled", Cancel::Throttled(WAIT)),
        ("bad credentials", Cancel::BadCredentials),
        ("not sent", Cancel::NotSent),
        ("unknown", Cancel::Unknown),
    ];
    rows.push(row(
        |rule| State::Cancelling { deal: deal(rule) },
        "any",
        &world(),
        ("the call may still land", USUAL.1),
    ));
    for (answer, cancel) in answers {
        for circumstances in [SETTLED, LATE] {
            let world = Scripted { cancel: cancel.clone(), ..world() };
            let when = if circumstances.0 == SETTLED.0 { "" } else { circumstances.0 };
            rows.push(row(|rule| State::Cancelling { deal: deal(rule) }, answer, &world, (when, circumstances.1)));
        }
    }
}

fn places() -> Vec<State> {
    vec![
        State::Preparing { run: 0 },
        State::Performing { deal: deal(Rule::Inquire) },
        State::Inquiring { deal: deal(Rule::Inquire), accepted: false },
        State::Cancelling { deal: deal(Rule::Inquire) },
        State::Done { kept: kept() },
        State::Refused { run: 0, why: Problem::EffectRefused, detail: Some("422".into()) },
    ]
}

#[test]
fn the_table_is_what_the_code_does() {
    let mut rows = vec![];
    prepares(&mut rows);
    performs(&mut rows);
    inquires(&mut rows);
    cancels(&mut rows);
    for state in places().into_iter().skip(4) {
        rows.push(row(|_| state.clone(), "", &world(), USUAL));
    }
    let columns = ["repeat", "inquire", "ask"];
    let stands: Vec<_> = places().into_iter().map(|state| (state, args())).collect();
    assert_drawn("effect.rs", &[terms_table::<Effect>(&stands), table(&columns, &rows)]);
}

/// Under each rule: in doubt, no act calls again but a repetition that the partner knows for one.
#[test]
fn nothing_is_called_blindly() {
    for rule in RULES {
        let performing = State::Performing { deal: deal(rule) };
        let stands: Vec<_> = places().into_iter().chain([performing.clone()]).map(|state| (state, args())).collect();
        assert_no_act_calls_blindly::<Effect>(&stands);
        let led = lead::<Effect>(&args(), &performing, Act::Retry, Past::InDoubt);
        assert_eq!(
            led,
            match rule {
                Rule::Repeat => Lead::To(performing.clone()),
                Rule::Inquire => Lead::To(State::Inquiring { deal: deal(rule), accepted: false }),
                Rule::AskAPerson => Lead::AttestFirst,
            }
        );
        // What was called is taken back, or not cancelled at all.
        let cancel = |cancels, past| {
            let state = State::Performing { deal: Deal { cancels, ..deal(rule) } };
            lead::<Effect>(&args(), &state, Act::Cancel, past)
        };
        assert!(matches!(cancel(true, Past::InDoubt), Lead::To(State::Cancelling { .. })));
        assert_eq!(cancel(false, Past::InDoubt), Lead::Nowhere);
        assert!(matches!(cancel(true, Past::Clear), Lead::To(State::Refused { .. })));
    }
}

#[test]
fn what_was_released_still_reads() {
    let samples: Vec<_> = places().into_iter().map(|state| (state, args())).collect();
    assert_released::<Effect>(&samples, &[], &Released { lines: 0, digest: 0xcbf2_9ce4_8422_2325 });
}

/// What goes into an address cannot leave out or lead above a part of it.
#[test]
fn an_id_is_a_word() {
    let begins = |id: &str| Effect::start(&Args { id: id.into(), ..args() }).is_ok();
    assert!(begins("pay-1") && begins("a.b"));
    for id in ["", ".", "..", "a/b", "a b", "é", &"x".repeat(101)] {
        assert!(!begins(id), "{id}");
    }
}
