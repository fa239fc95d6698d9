use super::{
    Row, assert_drawn, assert_no_act_calls_blindly, at, cell, now,
    released::{Released, assert_released},
    table, terms_table, this, unwound,
};
use crate::{
    machine::{Act, Call, Job, Lead, Past, lead},
    probe::{Answer, Args, OnDoubt, Probe, State, TakenBack, Tally, Undo, World},
};

struct Scripted {
    answer: Answer,
    tally: Tally,
    taken_back: TakenBack,
}

impl World for Scripted {
    fn call<'a>(&'a self, _: &'a Args, _: u32) -> Call<'a, Answer> {
        Box::pin(async { self.answer })
    }
    fn tally<'a>(&'a self, _: &'a str) -> Call<'a, Tally> {
        Box::pin(async { self.tally })
    }
    fn take_back<'a>(&'a self, _: &'a Args) -> Call<'a, TakenBack> {
        Box::pin(async { self.taken_back })
    }
}

const ANSWERS: [Answer; 6] = [Answer::Ok, Answer::Refused, Answer::Busy, Answer::NotSent, Answer::Unknown, Answer::Ask];
const DOUBTS: [OnDoubt; 3] = [OnDoubt::Repeat, OnDoubt::GoTo, OnDoubt::Ask];

fn args(in_doubt: OnDoubt) -> Args {
    Args {
        id: "p".into(),
        steps: 3,
        lane: Some("probe".into()),
        tally: Some("t".into()),
        follow_up: true,
        in_doubt,
        ..Args::default()
    }
}

fn row(state: &State, answer: &str, world: &Scripted) -> Row {
    let cells = DOUBTS.map(|in_doubt| cell(&now(Probe::step(&this(args(in_doubt)), state.clone(), world)))).to_vec();
    Row { at: at(state), answer: answer.to_owned(), when: "", cells }
}

/// A probe's own table lets a retry call again, whatever its terms say of doubt: what holds for every job forbids it.
#[test]
fn a_retry_in_doubt_never_calls_again_where_nothing_can_be_known() {
    for in_doubt in DOUBTS {
        let args = args(in_doubt);
        let calling = State::Calling { left: 2, turn: 0 };
        let stands = [(calling.clone(), args.clone()), (State::Checking { left: 2, turn: 0 }, args.clone())];
        assert_no_act_calls_blindly::<Probe>(&stands);
        assert_eq!(Probe::acts(&calling, Past::InDoubt).leads(Act::Retry), Some(calling.clone()));
        let led = |past| lead::<Probe>(&args, &calling, Act::Retry, past);
        assert_eq!(led(Past::Clear), Lead::To(calling.clone()));
        let in_doubt = match in_doubt {
            OnDoubt::Repeat => Lead::To(calling.clone()),
            OnDoubt::GoTo => Lead::To(State::Checking { left: 2, turn: 1 }),
            OnDoubt::Ask => Lead::AttestFirst,
        };
        assert_eq!(led(Past::InDoubt), in_doubt);
        assert_eq!(lead::<Probe>(&args, &calling, Act::AttestVoid, Past::InDoubt), Lead::To(State::Over));
    }
}

#[test]
fn the_table_is_what_the_code_does() {
    let world = |answer, tally, taken_back| Scripted { answer, tally, taken_back };
    let plain = world(Answer::Ok, Tally::Inserted, TakenBack::Ok);
    let mut rows = vec![
        row(&State::Stepping { left: 3 }, "the first, with a lane", &plain),
        row(&State::Stepping { left: 2 }, "more than one left", &plain),
        row(&State::Stepping { left: 1 }, "the last", &plain),
    ];
    for state in [State::Calling { left: 2, turn: 0 }, State::Checking { left: 2, turn: 0 }] {
        for answer in ANSWERS {
            rows.push(row(
                &state,
                serde_json::to_value(answer).unwrap().as_str().unwrap(),
                &world(answer, Tally::Inserted, TakenBack::Ok),
            ));
        }
    }
    rows.push(row(&State::Tallying { left: 2 }, "inserted", &plain));
    rows.push(row(&State::Tallying { left: 2 }, "taken", &world(Answer::Ok, Tally::Taken, TakenBack::Ok)));
    rows.push(row(&State::Over, "", &plain));
    for (answer, taken_back) in [("taken back", TakenBack::Ok), ("busy", TakenBack::Busy)] {
        let unwind = now(Probe::unwind(
            &this(args(OnDoubt::Repeat)),
            Undo::TakeBack,
            &world(Answer::Ok, Tally::Inserted, taken_back),
        ));
        rows.push(Row {
            at: "undo: take_back".into(),
            answer: answer.into(),
            when: "",
            cells: vec![unwound(&unwind); 3],
        });
    }
    let states = [
        State::Stepping { left: 2 },
        State::Calling { left: 2, turn: 0 },
        State::Checking { left: 2, turn: 0 },
        State::Tallying { left: 2 },
        State::Over,
    ];
    let states: Vec<_> = states.into_iter().map(|state| (state, args(OnDoubt::GoTo))).collect();
    let columns = ["in doubt: repeat", "in doubt: go to", "in doubt: ask"];
    assert_drawn("probe.rs", &[terms_table::<Probe>(&states), table(&columns, &rows)]);
}

#[test]
fn released_json_still_reads() {
    for (json, state) in [
        (r#"{"at":"stepping","left":3}"#, State::Stepping { left: 3 }),
        (r#"{"at":"calling","left":2,"turn":0}"#, State::Calling { left: 2, turn: 0 }),
        (r#"{"at":"checking","left":2,"turn":1}"#, State::Checking { left: 2, turn: 1 }),
        (r#"{"at":"tallying","left":2}"#, State::Tallying { left: 2 }),
        (r#"{"at":"over"}"#, State::Over),
    ] {
        assert_eq!(serde_json::from_str::<State>(json).unwrap(), state);
        assert_eq!(serde_json::to_string(&state).unwrap(), json);
    }
    assert_eq!(serde_json::from_str::<Undo>(r#"{"undo":"take_back"}"#).unwrap(), Undo::TakeBack);
    assert!(Probe::start(&Args::default()).is_err());
}

#[test]
fn what_was_released_still_reads() {
    let released = Released { lines: 7, digest: 0x6598_5576_9ad8_4640 };
    let states = [
        State::Stepping { left: 2 },
        State::Calling { left: 2, turn: 0 },
        State::Checking { left: 2, turn: 1 },
        State::Tallying { left: 2 },
        State::Over,
    ];
    let samples = states.map(|state| (state, Args { answers: ANSWERS.to_vec(), ..args(OnDoubt::Ask) }));
    assert_released::<Probe>(&samples, &[Undo::TakeBack], &released);
}
