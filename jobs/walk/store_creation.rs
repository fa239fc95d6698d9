use std::time::Duration;

use super::{
    Row, assert_drawn, at, cell, now,
    released::{Released, assert_released},
    table, terms_table, this, unwound,
};
use crate::{
    Problem,
    machine::{Act, Call, Job, Past, Redirect, This},
    store_creation::{Args, Assign, Attempt, Create, Delete, Find, Insert, LookUp, State, StoreCreation, Undo, World},
};

#[derive(Clone)]
struct Scripted {
    look_up: LookUp,
    create: Create,
    find: Find,
    assign: Assign,
    insert: Insert,
    delete: Delete,
}

impl World for Scripted {
    fn look_up<'a>(&'a self, _: &'a Args) -> Call<'a, LookUp> {
        Box::pin(async { self.look_up.clone() })
    }
    fn create_shop<'a>(&'a self, _: &'a Args, _: &'a str) -> Call<'a, Create> {
        Box::pin(async { self.create.clone() })
    }
    fn find_shop<'a>(&'a self, _: &'a Args, _: &'a str) -> Call<'a, Find> {
        Box::pin(async { self.find.clone() })
    }
    fn assign_service<'a>(&'a self, _: &'a Args) -> Call<'a, Assign> {
        Box::pin(async { self.assign.clone() })
    }
    fn insert_store<'a>(&'a self, _: &'a Args, _: &'a str) -> Call<'a, Insert> {
        Box::pin(async { self.insert })
    }
    fn delete_shop<'a>(&'a self, _: &'a str) -> Call<'a, Delete> {
        Box::pin(async { self.delete.clone() })
    }
}

fn world() -> Scripted {
    Scripted {
        look_up: LookUp::Free,
        create: Create::Unknown,
        find: Find::NoAnswer,
        assign: Assign::Unknown,
        insert: Insert::Inserted,
        delete: Delete::Unknown,
    }
}

fn args() -> Args {
    Args {
        organization: "O-1".to_owned(),
        public_id: "S-1".to_owned(),
        name: "本店".to_owned(),
        address: None,
        phone: None,
        contact: None,
        request: "7".to_owned(),
    }
}

fn attempt() -> Attempt {
    Attempt { run: 0, key: "O-1/S-1/7/0".to_owned() }
}

fn spent() -> This<Args> {
    This { retries: 99, ..this(args()) }
}

fn forgotten() -> This<Args> {
    This { in_doubt: true, since_call: Some(Duration::from_secs(24 * 60 * 60)), ..this(args()) }
}

fn row(state: &State, answer: &str, when: &'static str, world: &Scripted, this: &This<Args>) -> Row {
    let step = now(StoreCreation::step(this, state.clone(), world));
    Row { at: at(state), answer: answer.to_owned(), when, cells: vec![cell(&step)] }
}

fn states() -> [State; 8] {
    let shop = "shop-1".to_owned();
    [
        State::Checking { run: 0 },
        State::Creating { attempt: attempt() },
        State::Finding { attempt: attempt(), not_found: 0 },
        State::Assigning { attempt: attempt(), shop: shop.clone() },
        State::Registering { attempt: attempt(), shop: shop.clone() },
        State::Created { shop },
        State::Skipped,
        State::Refused { run: 0, why: Problem::ShopRefused, detail: None },
    ]
}

fn forward_rows() -> Vec<Row> {
    let [checking, creating, finding, assigning, registering, ..] = states();
    let second = Duration::from_secs(1);
    let plain = this(args());
    let mut rows = vec![];
    for (answer, look_up) in [
        ("no such store", LookUp::Free),
        ("the same store is here", LookUp::Same),
        ("a store with other content is here", LookUp::Different("name".to_owned())),
        ("another job of the public id is at work", LookUp::Occupied),
        ("the batch is paused", LookUp::Paused),
        ("its address or phone does not open", LookUp::Closed),
    ] {
        rows.push(row(&checking, answer, "", &Scripted { look_up, ..world() }, &plain));
    }
    let (closed, late) = ("its address or phone does not open", This { in_state: 600 * second, ..this(args()) });
    rows.push(row(&checking, closed, "for 10 minutes", &Scripted { look_up: LookUp::Closed, ..world() }, &late));
    for (answer, create) in [
        ("created, now or under this key before", Create::Created("shop-1".to_owned())),
        ("refused", Create::Refused("bad_name".to_owned())),
        ("the organisation is refused", Create::OrganizationRefused),
        ("the key is known with other content", Create::KeyConflict),
        ("throttled", Create::Throttled(second)),
        ("not sent", Create::NotSent),
        ("unknown", Create::Unknown),
        ("bad credentials", Create::BadCredentials),
    ] {
        rows.push(row(&creating, answer, "", &Scripted { create, ..world() }, &plain));
    }
    rows.push(row(&creating, "any", "in doubt, and the key may be forgotten", &world(), &forgotten()));
    for (answer, find) in [
        ("made under our key", Find::Ours("shop-1".to_owned())),
        ("made by somebody else", Find::Others),
        ("not found", Find::NotFound),
        ("throttled", Find::Throttled(second)),
        ("no answer", Find::NoAnswer),
        ("bad credentials", Find::BadCredentials),
    ] {
        rows.push(row(&finding, answer, "", &Scripted { find, ..world() }, &plain));
    }
    let twice = State::Finding { attempt: attempt(), not_found: 1 };
    rows.push(row(&twice, "not found", "a second time", &Scripted { find: Find::NotFound, ..world() }, &plain));
    for (answer, assign) in [
        ("assigned", Assign::Assigned),
        ("assigned already", Assign::AlreadyAssigned),
        ("the organisation is refused", Assign::OrganizationRefused),
        ("throttled", Assign::Throttled(second)),
        ("not sent", Assign::NotSent),
        ("unknown", Assign::Unknown),
        ("bad credentials", Assign::BadCredentials),
    ] {
        let world = Scripted { assign, ..world() };
        rows.push(row(&assigning, answer, "", &world, &plain));
        rows.push(row(&assigning, answer, "tries spent", &world, &spent()));
    }
    for (answer, insert) in [("inserted", Insert::Inserted), ("the public id is taken", Insert::Taken)] {
        rows.push(row(&registering, answer, "", &Scripted { insert, ..world() }, &plain));
    }
    rows
}

fn unwind_rows() -> Vec<Row> {
    let mut rows = vec![];
    for (answer, delete) in [
        ("deleted", Delete::Deleted),
        ("not found", Delete::NotFound),
        ("in use, or not allowed", Delete::Refused),
        ("throttled", Delete::Throttled(Duration::from_secs(1))),
        ("not sent", Delete::NotSent),
        ("unknown", Delete::Unknown),
        ("bad credentials", Delete::BadCredentials),
    ] {
        for (when, this) in [("", this(args())), ("10 tries, or an hour", spent())] {
            let undo = Undo::DeleteShop { attempt: attempt(), shop: "shop-1".to_owned() };
            let unwind = now(StoreCreation::unwind(&this, undo, &Scripted { delete: delete.clone(), ..world() }));
            let cells = vec![unwound(&unwind)];
            rows.push(Row { at: "undo: delete_shop".to_owned(), answer: answer.to_owned(), when, cells });
        }
    }
    rows
}

#[test]
fn the_table_is_what_the_code_does() {
    let rows: Vec<Row> = forward_rows().into_iter().chain(unwind_rows()).collect();
    let states = states().map(|state| (state, args()));
    assert_drawn("store_creation.rs", &[terms_table::<StoreCreation>(&states), table(&["leads to"], &rows)]);
}

#[test]
fn what_is_taken_back_may_be_tried_again_adopted_or_attested() {
    let undo = Undo::DeleteShop { attempt: attempt(), shop: "shop-1".to_owned() };
    let act = |act| StoreCreation::operator_unwinding(&undo, act);
    assert_eq!(act(Act::Retry), Some(Redirect::Unwind(undo.clone())));
    let registering = State::Registering { attempt: attempt(), shop: "shop-1".to_owned() };
    assert_eq!(act(Act::Adopt), Some(Redirect::To(registering)));
    assert_eq!(act(Act::AttestVoid), Some(Redirect::Undone));
    assert_eq!(act(Act::Rerun), None);
}

#[test]
fn each_run_asks_under_a_key_of_its_own() {
    let refused = State::Refused { run: 0, why: Problem::ShopRefused, detail: None };
    let Some(checking) = StoreCreation::acts(&refused, Past::Clear).leads(Act::Rerun) else {
        panic!("a refused row may be rerun")
    };
    let step = now(StoreCreation::step(&this(args()), checking, &world()));
    let attempt = Attempt { run: 1, key: "O-1/S-1/7/1".to_owned() };
    assert_eq!(step.transition, crate::machine::Transition::Advance(State::Creating { attempt }));
}

#[test]
fn released_json_still_reads() {
    let attempt_json = r#""attempt":{"run":0,"key":"O-1/S-1/7/0"}"#;
    let wanted = [
        r#"{"at":"checking","run":0}"#.to_owned(),
        format!(r#"{{"at":"creating",{attempt_json}}}"#),
        format!(r#"{{"at":"finding",{attempt_json},"not_found":0}}"#),
        format!(r#"{{"at":"assigning",{attempt_json},"shop":"shop-1"}}"#),
        format!(r#"{{"at":"registering",{attempt_json},"shop":"shop-1"}}"#),
        r#"{"at":"created","shop":"shop-1"}"#.to_owned(),
        r#"{"at":"skipped"}"#.to_owned(),
        r#"{"at":"refused","run":0,"why":"shop_refused"}"#.to_owned(),
    ];
    for (json, state) in wanted.into_iter().zip(states()) {
        assert_eq!(serde_json::from_str::<State>(&json).unwrap(), state);
        assert_eq!(serde_json::to_string(&state).unwrap(), json);
    }
    let undo = format!(r#"{{"undo":"delete_shop",{attempt_json},"shop":"shop-1"}}"#);
    assert_eq!(serde_json::to_string(&serde_json::from_str::<Undo>(&undo).unwrap()).unwrap(), undo);
    assert_eq!(StoreCreation::id(&args()).0, "O-1/S-1/7");
    assert!(StoreCreation::start(&Args { public_id: "a/b".to_owned(), ..args() }).is_err());
}

#[test]
fn what_was_released_still_reads() {
    let released = Released { lines: 10, digest: 0x9b27_2031_2557_a0a7 };
    let plain = Args { address: Some("渋谷 1".to_owned()), phone: Some("03".to_owned()), ..args() };
    let whole = Args { contact: Some("7/1".to_owned()), ..args() };
    let undo = Undo::DeleteShop { attempt: attempt(), shop: "shop-1".to_owned() };
    let samples = states().into_iter().map(|state| (state, whole.clone())).chain([(State::Skipped, plain)]);
    assert_released::<StoreCreation>(&samples.collect::<Vec<_>>(), &[undo], &released);
}
