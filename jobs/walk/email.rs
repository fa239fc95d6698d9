use std::{collections::BTreeMap, time::Duration};

use super::{
    Row, assert_drawn, at, cell, now,
    released::{Released, assert_released},
    table, terms_table, this,
};
use crate::{
    Problem,
    email::{Args, Channel, Email, Fate, Prepare, Send, State, Template, World},
    machine::{Call, Job, This, Tls, Transition},
};

struct Scripted {
    prepare: Prepare,
    send: Send,
    fate: Fate,
}

impl World for Scripted {
    fn prepare<'a>(&'a self, _: &'a Args) -> Call<'a, Prepare> {
        Box::pin(async { self.prepare.clone() })
    }
    fn send<'a>(&'a self, _: &'a Args, _: &'a Channel, _: u8) -> Call<'a, Send> {
        Box::pin(async { self.send.clone() })
    }
    fn look_for_event<'a>(&'a self, _: &'a Args) -> Call<'a, Fate> {
        Box::pin(async { self.fate.clone() })
    }
}

fn world() -> Scripted {
    Scripted { prepare: Prepare::Wait, send: Send::Unknown, fate: Fate::Silent }
}

fn args() -> Args {
    Args {
        template: Template::GiftGranted,
        reference: "G-1".to_owned(),
        recipient: "7/1".to_owned(),
        params: BTreeMap::new(),
        again_in: None,
    }
}

fn channel() -> Channel {
    Channel { name: "c".to_owned(), settle_seconds: 900 }
}

fn row(state: &State, answer: &str, world: &Scripted) -> Row {
    told(state, answer, "", world, this(args()))
}

fn told(state: &State, answer: &str, when: &'static str, world: &Scripted, this: This<Args>) -> Row {
    let step = now(Email::step(&this, state.clone(), world));
    Row { at: at(state), answer: answer.to_owned(), when, cells: vec![cell(&step)] }
}

#[test]
fn the_table_is_what_the_code_does() {
    let preparing = State::Preparing { sends: 0 };
    let sending = State::Sending { channel: channel(), send_no: 1 };
    let waiting = |send_no| State::Waiting { channel: channel(), send_no };
    let late = || This { in_state: Duration::from_secs(900), ..this(args()) };
    let mut rows = vec![];
    for (answer, prepare) in [
        ("ready", Prepare::Ready(channel())),
        ("suppressed", Prepare::Suppressed),
        ("no address", Prepare::NoRecipient),
        ("its recipient does not open", Prepare::NotOpened),
        ("no service, or paused", Prepare::Wait),
    ] {
        rows.push(row(&preparing, answer, &Scripted { prepare, ..world() }));
    }
    let closed = Scripted { prepare: Prepare::NotOpened, ..world() };
    rows.push(told(&preparing, "its recipient does not open", "for 10 minutes", &closed, late()));
    for (answer, send) in [
        ("accepted", Send::Accepted("m".to_owned())),
        ("rejected", Send::Rejected("r".to_owned())),
        ("too fast, or no quota left", Send::Throttled(Duration::from_secs(1))),
        ("not sent", Send::NotSent),
        ("not to this recipient now", Send::NotNow),
        ("too many calls in flight", Send::Busy(Duration::from_secs(1))),
        ("unknown", Send::Unknown),
        ("bad credentials or configuration", Send::BadCredentials),
        ("not in this sender's name", Send::Sender),
        ("no private connection", Send::Tls(Tls::Expired)),
    ] {
        rows.push(row(&sending, answer, &Scripted { send, ..world() }));
    }
    for (answer, fate) in [
        ("an event: it went out", Fate::Sent("m".to_owned())),
        ("an event: it bounced", Fate::Bounced),
        ("an event: it was dropped", Fate::Rejected),
    ] {
        rows.push(row(&waiting(1), answer, &Scripted { fate, ..world() }));
    }
    rows.push(row(&waiting(1), "no event", &world()));
    rows.push(told(&waiting(1), "no event", "waited long enough", &world(), late()));
    rows.push(told(&waiting(2), "no event", "waited long enough, sent as often as it may be", &world(), late()));
    let rejected = State::Rejected { why: Problem::MailRejected, detail: None };
    let states = [preparing, sending, waiting(1), State::Accepted { message: "m".to_owned() }, rejected];
    let states = states.map(|state| (state, args()));
    assert_drawn("email.rs", &[terms_table::<Email>(&states), table(&["leads to"], &rows)]);
}

#[test]
fn a_message_is_sent_at_most_as_often_as_its_template_allows() {
    // Every send is lost, and no event ever comes.
    let world = Scripted { prepare: Prepare::Ready(channel()), ..world() };
    let mut state = Email::start(&args()).unwrap();
    let mut sends = 0;
    loop {
        sends += u8::from(matches!(state, State::Sending { .. }));
        let this = This { in_state: Duration::from_secs(901), ..this(args()) };
        match now(Email::step(&this, state, &world)).transition {
            Transition::Advance(next) => state = next,
            Transition::NeedsOperator(why) => {
                assert_eq!((why, sends), (Problem::MailUnresolved, Template::GiftGranted.max_sends()));
                return;
            }
            other @ (Transition::Retry | Transition::Snooze(_) | Transition::Done(_) | Transition::Fail(..)) => {
                panic!("{other:?}")
            }
        }
    }
}

#[test]
fn released_json_still_reads() {
    for (json, state) in [
        (r#"{"at":"preparing","sends":1}"#, State::Preparing { sends: 1 }),
        (
            r#"{"at":"sending","channel":{"name":"c","settle_seconds":900},"send_no":1}"#,
            State::Sending { channel: channel(), send_no: 1 },
        ),
        (
            r#"{"at":"waiting","channel":{"name":"c","settle_seconds":900},"send_no":2}"#,
            State::Waiting { channel: channel(), send_no: 2 },
        ),
        (r#"{"at":"accepted","message":"m"}"#, State::Accepted { message: "m".to_owned() }),
        (
            r#"{"at":"rejected","why":"mail_rejected","detail":"d"}"#,
            State::Rejected { why: Problem::MailRejected, detail: Some("d".to_owned()) },
        ),
    ] {
        assert_eq!(serde_json::from_str::<State>(json).unwrap(), state);
        assert_eq!(serde_json::to_string(&state).unwrap(), json);
    }
    assert_eq!(Email::id(&args()).0, "gift_granted:1:G-1");
    assert_eq!(Email::id(&Args { again_in: Some(11), ..args() }).0, "gift_granted:1/11:G-1");
}

#[test]
fn what_was_released_still_reads() {
    let released = Released { lines: 6, digest: 0x167c_1739_5a46_53fd };
    let params = BTreeMap::from([("value".to_owned(), "500円".to_owned())]);
    let states = [
        State::Preparing { sends: 0 },
        State::Sending { channel: channel(), send_no: 1 },
        State::Waiting { channel: channel(), send_no: 1 },
        State::Accepted { message: "m".to_owned() },
        State::Rejected { why: Problem::MailRejected, detail: Some("d".to_owned()) },
    ];
    assert_released::<Email>(&states.map(|state| (state, Args { params: params.clone(), ..args() })), &[], &released);
}
