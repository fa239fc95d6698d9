//! The job against a real PostgreSQL and the partner's stub: its table is drawn, and no death makes a second effect.

mod stub;

use std::time::Duration;

use noshi::{
    machine::{Call, This},
    testkit::{Kit, Proofs, Proven, Rest, Walk},
};
use serde_json::json;
use starter::job::{Args, Said, Starter, State as At, Undo, World};
use stub::Stub;

/// What a partner answers, at once.
struct Scripted(fn() -> Said, bool);

impl World for Scripted {
    fn reserve<'a>(&'a self, _: &'a Args) -> Call<'a, bool> {
        Box::pin(async { self.1 })
    }
    fn call<'a>(&'a self, _: &'a Args) -> Call<'a, Said> {
        Box::pin(async { (self.0)() })
    }
    fn inquire<'a>(&'a self, _: &'a Args) -> Call<'a, Said> {
        Box::pin(async { (self.0)() })
    }
    fn release<'a>(&'a self, _: &'a Args) -> Call<'a, bool> {
        Box::pin(async { self.1 })
    }
}

type Says = fn() -> Said;

const SAYS: [(&str, Says); 5] = [
    ("done", || Said::Done("r".into())),
    ("refused", || Said::Refused),
    ("not found", || Said::NotFound),
    ("not sent", || Said::NotSent),
    ("unknown", || Said::Unknown),
];

struct Proof;

impl Proven for Proof {
    type Job = Starter;
    const FILE: &'static str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/job.rs");

    fn places() -> Vec<At> {
        vec![At::Reserving, At::Calling, At::Inquiring, At::Done { receipt: "r".to_owned() }, At::Refused]
    }

    fn undos() -> Vec<Undo> {
        vec![Undo::Release]
    }

    fn walk(walk: &mut Walk<Starter>) {
        let plain = |clear| Scripted(|| Said::Unknown, clear);
        for (answer, clear) in [("clear", true), ("unclear", false)] {
            walk.step(&At::Reserving, answer, &plain(clear));
            walk.unwind(&Undo::Release, answer, &plain(clear));
        }
        for (answer, says) in SAYS {
            let world = Scripted(says, true);
            walk.step(&At::Calling, answer, &world);
            walk.step(&At::Inquiring, answer, &world);
            let long_ago = Some(Duration::from_secs(3));
            walk.under(&At::Inquiring, answer, "2 s after the call", &world, |this| This {
                since_call: long_ago,
                ..this
            });
        }
        for state in Self::places().into_iter().skip(3) {
            walk.step(&state, "whatever", &plain(true));
        }
    }

    fn scene(n: usize) -> Args {
        Args { request: format!("plain-{n}"), amount: 500 }
    }
}

async fn start() -> (Kit, Stub) {
    let stub = Stub::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let settings = format!("[starter]\nbase_url = \"http://{address}\"\ncalls_per_second = 500\n");
    let routes = stub::routes(&stub);
    tokio::spawn(async { axum::serve(listener, routes).await });
    let proofs = Proofs::of(&starter::app()).job::<Proof>();
    (Kit::start(env!("CARGO_BIN_EXE_starter"), &settings, &proofs).await.unwrap(), stub)
}

/// Each comes to its end, and an answer that is lost is asked for.
#[tokio::test(flavor = "multi_thread")]
async fn each_answer_has_its_end() {
    let (kit, stub) = start().await;
    let worker = kit.worker(&[]).unwrap();
    for (request, status, at, code, effects) in [
        ("plain", "completed", "done", None, 1),
        ("lost-1", "completed", "done", None, 1),
        ("refused-1", "failed", "refused", Some("starter_refused"), 0),
    ] {
        let job = kit.ask("starter", request, &json!({"request": request, "amount": 500})).await.unwrap();
        let rest = kit.rest(job).await.unwrap();
        assert_eq!((rest.status.as_str(), rest.at.as_str(), rest.code.as_deref()), (status, at, code), "{}", kit.log());
        assert_eq!(stub.lock().unwrap().effects.get(request).copied().unwrap_or(0), effects);
    }
    assert!(!stub.lock().unwrap().reserved.contains("refused-1"), "the reservation is released");
    drop(worker);
}

/// Whatever the point at which a worker dies, one effect.
#[tokio::test(flavor = "multi_thread")]
async fn no_death_makes_a_second_effect() {
    let (kit, stub) = start().await;
    let judge = async |request: &str, rest: &Rest| {
        let made = stub.lock().unwrap().effects.get(request).copied().unwrap_or(0);
        match (rest.status.as_str(), made) {
            ("completed", 1) => Ok(()),
            _ => Err(format!("{rest:?}, done {made} times")),
        }
    };
    let deaths = kit.deaths::<Proof>(None, judge).await.unwrap();
    assert!(deaths.points.len() > 5, "{deaths:?}");
    assert_eq!(deaths.violations, Vec::<String>::new(), "{}", kit.log());
}
