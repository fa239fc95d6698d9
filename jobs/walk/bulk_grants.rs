use super::{
    Row, assert_drawn, at, cell, now,
    released::{Released, assert_released},
    table, terms_table, this,
};
use crate::{
    Problem,
    bulk_grants::{Announce, Args, BulkGrants, Register, State, World},
    machine::{Call, Job},
};

struct Scripted {
    register: Register,
    announce: Announce,
}

impl World for Scripted {
    fn register<'a>(&'a self, _: &'a Args) -> Call<'a, Register> {
        Box::pin(async { self.register.clone() })
    }
    fn announce<'a>(&'a self, _: &'a Args, _: i32) -> Call<'a, Announce> {
        Box::pin(async { self.announce })
    }
}

const ARGS: Args = Args { batch: 7 };

fn refused() -> State {
    State::Refused { why: Problem::BatchNotApproved, detail: None }
}

#[test]
fn the_table_is_what_the_code_does() {
    let row = |state: &State, answer: &str, register: Register, announce| {
        let step = now(BulkGrants::step(&this(ARGS), state.clone(), &Scripted { register, announce }));
        Row { at: at(state), answer: answer.to_owned(), when: "", cells: vec![cell(&step)] }
    };
    let (registering, announcing) = (State::Registering, State::Announcing { after: 0 });
    let registers = [
        ("registered", Register::Registered),
        ("not approved, over a cap, or duplicates", Register::Refused(Problem::BatchNotApproved, String::new())),
        ("the batch is paused", Register::Paused),
    ];
    let announces = [
        ("a page is announced", Announce::Upto(10)),
        ("nothing is left", Announce::NothingLeft),
        ("a follow-up differs", Announce::Conflict),
        ("the batch is paused", Announce::Paused),
    ];
    let mut rows: Vec<Row> = vec![];
    rows.extend(registers.map(|(answer, register)| row(&registering, answer, register, Announce::Paused)));
    rows.extend(announces.map(|(answer, announce)| row(&announcing, answer, Register::Paused, announce)));
    let states = [registering, announcing, State::Announced, refused()].map(|state| (state, ARGS));
    assert_drawn("bulk_grants.rs", &[terms_table::<BulkGrants>(&states), table(&["leads to"], &rows)]);
}

#[test]
fn released_json_still_reads() {
    for (json, state) in [
        (r#"{"at":"registering"}"#, State::Registering),
        (r#"{"at":"announcing","after":10000}"#, State::Announcing { after: 10_000 }),
        (r#"{"at":"announced"}"#, State::Announced),
        (r#"{"at":"refused","why":"batch_not_approved"}"#, refused()),
    ] {
        assert_eq!(serde_json::from_str::<State>(json).unwrap(), state);
        assert_eq!(serde_json::to_string(&state).unwrap(), json);
    }
    assert!(BulkGrants::start(&Args { batch: 0 }).is_err());
    assert_eq!(BulkGrants::id(&ARGS).0, "batch/7");
}

#[test]
fn what_was_released_still_reads() {
    let released = Released { lines: 5, digest: 0x6325_76e0_547c_aa80 };
    let states = [State::Registering, State::Announcing { after: 10_000 }, State::Announced, refused()];
    assert_released::<BulkGrants>(&states.map(|state| (state, ARGS)), &[], &released);
}
