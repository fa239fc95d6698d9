//! Every act at every state of every job: what the state tables allow is carried out, and everything else is refused in words.

use std::time::Duration;

use noshi_jobs::{
    Problem, bulk_grants, email, gift_issuance,
    machine::{Act, Job, Lead, Past, Redirect, lead, lead_unwinding},
    point_exchange, point_expiry, point_grant, point_reversal, point_withdrawal, probe, store_creation,
};
use serde_json::{Value, json};

use crate::{
    engine::{pace, start},
    fleet::{Terms, fleet},
    processes::{count, until},
    support::database,
};
use noshi::{
    db::{PgPool, operator::jobs},
    lab::simulator::{Fault, Op, Provider},
    operator::explain,
};

/// A job at a place, and where each act leads from there.
struct Case {
    kind: &'static str,
    args: Value,
    at: String,
    state: Value,
    undo: Option<Value>,
    leads: Vec<Option<String>>,
    leads_in_doubt: Vec<Option<String>>,
}

fn at(state: &impl serde::Serialize) -> String {
    serde_json::to_value(state).unwrap()["at"].as_str().unwrap().to_owned()
}

fn place<J: Job>(args: &Value, state: &J::State, undo: Option<&J::Undo>) -> Case {
    let known: J::Args = serde_json::from_value(args.clone()).unwrap();
    let leads = |past, act| match undo {
        None => match lead::<J>(&known, state, act, past) {
            Lead::To(next) => Some(at(&next)),
            Lead::Nowhere | Lead::AttestFirst => None,
        },
        Some(undo) => match lead_unwinding::<J>(&known, undo, act, past) {
            Lead::To(Redirect::To(next)) => Some(at(&next)),
            Lead::To(Redirect::Unwind(_) | Redirect::Undone) => Some(at(state)),
            Lead::Nowhere | Lead::AttestFirst => None,
        },
    };
    Case {
        kind: J::KIND.name(),
        args: args.clone(),
        at: at(state),
        state: serde_json::to_value(state).unwrap(),
        undo: undo.map(|undo| serde_json::to_value(undo).unwrap()),
        leads: Act::ALL.map(|act| leads(Past::Clear, act)).to_vec(),
        leads_in_doubt: Act::ALL.map(|act| leads(Past::InDoubt, act)).to_vec(),
    }
}

fn gifts() -> Vec<Case> {
    use gift_issuance::{AfterCancel, Contract, State, Trade};
    let args = json!({"grant": "g", "user": "u", "category": "amazon", "value": {"amount": 500, "currency": "JPY"}});
    // Each contract that a provider may have: what can be asked, repeated and taken back differs.
    let contracts = (0..8_u8).map(|bits| Contract {
        replay: bits & 1 > 0,
        inquiry: bits & 2 > 0,
        cancel: bits & 4 > 0,
        settle_seconds: 1,
        horizon_seconds: 86_400,
        poll_seconds: 3_600,
    });
    let mut places = vec![];
    for contract in contracts {
        let trade =
            || Trade { id: "t".to_owned(), provider: "nobody".to_owned(), generation: 0, contract: contract.clone() };
        let card = || Some("card".to_owned());
        let states = [
            State::Routing { generation: 0 },
            State::Issuing { trade: trade() },
            State::inquiring(trade()),
            State::pending(trade(), None),
            State::Pending { trade: trade(), reference: None, then: Some(AfterCancel::Ask), card: None },
            State::Pending { trade: trade(), reference: None, then: None, card: card() },
            State::Cancelling { trade: trade(), then: AfterCancel::Ask, card: None },
            State::Void { trade: trade(), then: AfterCancel::Ask },
            State::Issued { trade: trade(), card: "card".to_owned() },
            State::Rejected { reason: "refused".to_owned() },
            State::Lapsed,
        ];
        for state in &states {
            // A new state does not compile here before it is among those above.
            match state {
                State::Routing { .. } | State::Seeking { .. } | State::Asking { .. } => {}
                State::Issuing { .. } | State::Inquiring { .. } | State::Pending { .. } => {}
                State::Cancelling { .. }
                | State::Void { .. }
                | State::Issued { .. }
                | State::Rejected { .. }
                | State::Lapsed => {}
            }
            places.push(place::<gift_issuance::GiftIssuance>(&args, state, None));
        }
    }
    places
}

fn stores() -> Vec<Case> {
    use store_creation::{Attempt, State, StoreCreation, Undo};
    let args = json!({"organization": "O", "public_id": "P", "name": "n", "request": "r"});
    let attempt = || Attempt { run: 0, key: "k".to_owned() };
    let shop = || "s".to_owned();
    let refused = || State::Refused { run: 0, why: Problem::AssignSpent, detail: None };
    let states = [
        State::Checking { run: 0 },
        State::Creating { attempt: attempt() },
        State::Finding { attempt: attempt(), not_found: 0 },
        State::Assigning { attempt: attempt(), shop: shop() },
        State::Registering { attempt: attempt(), shop: shop() },
        State::Created { shop: shop() },
        State::Skipped,
        refused(),
    ];
    let mut places: Vec<Case> = vec![];
    for state in &states {
        match state {
            State::Checking { .. } | State::Creating { .. } | State::Finding { .. } | State::Assigning { .. } => {}
            State::Registering { .. } | State::Created { .. } | State::Skipped | State::Refused { .. } => {}
        }
        places.push(place::<StoreCreation>(&args, state, None));
    }
    places.push(place::<StoreCreation>(
        &args,
        &refused(),
        Some(&Undo::DeleteShop { attempt: attempt(), shop: shop() }),
    ));
    places
}

fn mails() -> Vec<Case> {
    use email::{Channel, Email, State};
    let args = json!({"template": "gift_granted", "reference": "g", "recipient": "g"});
    let channel = || Channel { name: "nobody".to_owned(), settle_seconds: 900 };
    let states = [
        State::Preparing { sends: 0 },
        State::Sending { channel: channel(), send_no: 1 },
        State::Waiting { channel: channel(), send_no: 1 },
        State::Accepted { message: "m".to_owned() },
        State::Rejected { why: Problem::MailRejected, detail: None },
    ];
    let each = |state: &State| {
        match state {
            State::Preparing { .. }
            | State::Sending { .. }
            | State::Waiting { .. }
            | State::Accepted { .. }
            | State::Rejected { .. } => {}
        }
        place::<Email>(&args, state, None)
    };
    states.iter().map(each).collect()
}

fn others() -> Vec<Case> {
    use bulk_grants::{BulkGrants, State as Bulk};
    use probe::{Probe, State, Undo};
    let args = json!({"batch": 1_000_000});
    let refused = Bulk::Refused { why: Problem::BatchOverCap, detail: None };
    let bulk = [Bulk::Registering, Bulk::Announcing { after: 0 }, Bulk::Announced, refused];
    let mut places: Vec<Case> = vec![];
    for state in &bulk {
        match state {
            Bulk::Registering | Bulk::Announcing { .. } | Bulk::Announced | Bulk::Refused { .. } => {}
        }
        places.push(place::<BulkGrants>(&args, state, None));
    }
    let args = json!({"id": "p", "steps": 1, "lane": "nobody", "in_doubt": "repeat", "follow_up": false});
    let probes = [
        State::Stepping { left: 1 },
        State::Calling { left: 1, turn: 0 },
        State::Checking { left: 1, turn: 0 },
        State::Tallying { left: 1 },
        State::Over,
    ];
    for state in &probes {
        match state {
            State::Stepping { .. }
            | State::Calling { .. }
            | State::Checking { .. }
            | State::Tallying { .. }
            | State::Over => {}
        }
        places.push(place::<Probe>(&args, state, None));
    }
    places.push(place::<Probe>(&args, &State::Over, Some(&Undo::TakeBack)));
    places
}

fn points() -> Vec<Case> {
    let why = Problem::PointsConflict;
    let money = json!({"amount": 500, "currency": "JPY"});
    let mut places = vec![];
    {
        use point_grant::{PointGrant, State};
        let args = json!({"benefit": "b", "source": "s", "user": "u", "points": 5, "valid_days": 1});
        for state in [State::Booking, State::Granted { entry: 1 }, State::Refused { why, detail: None }] {
            match state {
                State::Booking | State::Granted { .. } | State::Refused { .. } => {}
            }
            places.push(place::<PointGrant>(&args, &state, None));
        }
    }
    {
        use point_exchange::{PointExchange, State};
        let args = json!({"exchange": "x", "user": "u", "points": 5, "category": "amazon", "value": money});
        for state in [State::Using, State::Ordered { entry: 1 }, State::Refused { why, detail: None }] {
            match state {
                State::Using | State::Ordered { .. } | State::Refused { .. } => {}
            }
            places.push(place::<PointExchange>(&args, &state, None));
        }
    }
    {
        use point_reversal::{PointReversal, State};
        for state in [State::Returning, State::Returned { entry: 1 }] {
            match state {
                State::Returning | State::Returned { .. } => {}
            }
            places.push(place::<PointReversal>(&json!({"exchange": "x"}), &state, None));
        }
    }
    {
        use point_withdrawal::{PointWithdrawal, State};
        for state in [State::Withdrawing, State::Withdrawn { entry: 1 }] {
            match state {
                State::Withdrawing | State::Withdrawn { .. } => {}
            }
            places.push(place::<PointWithdrawal>(&json!({"user": "u"}), &state, None));
        }
    }
    use point_expiry::{PointExpiry, State};
    for state in [State::Expiring { lots: 0, points: 0 }, State::Expired { lots: 0, points: 0 }, State::Refused] {
        match state {
            State::Expiring { .. } | State::Expired { .. } | State::Refused => {}
        }
        places.push(place::<PointExpiry>(&json!({"due": "2026-01-01T00:00:00Z"}), &state, None));
    }
    places
}

/// Puts a job there, in this status: as the owner of the schema, since no producer could.
async fn put(pool: &PgPool, place: &Case, status: &str, in_doubt: bool, n: usize) -> i64 {
    const PUT: &str =
        "insert into noshi.job (kind, key, fingerprint, args, at, state, undo, status, code, run_at, in_doubt, called_at)
        values ($1, $2, '', $3, $4, $5, $6, $7::noshi.job_status, 'too_old', clock_timestamp() + interval '1 hour', $8,
            case when $8 then clock_timestamp() end) returning id";
    // Each with a trade of its own: what an act says of a trade is recorded.
    const TRADE: &str =
        "insert into noshi.gift_trade (id, grant_id, generation, job, provider, category, amount, currency)
        values ($1, $1, 0, $2, 'nobody', 'amazon', 500, 'JPY')";
    let mut state = place.state.clone();
    let trade = state.get_mut("trade").map(|trade| {
        let id = format!("t{n}");
        trade["id"] = json!(id);
        id
    });
    let job: i64 = sqlx::query_scalar(PUT)
        .bind(place.kind)
        .bind(format!("{n}"))
        .bind(&place.args)
        .bind(&place.at)
        .bind(&state)
        .bind(&place.undo)
        .bind(status)
        .bind(in_doubt)
        .fetch_one(pool)
        .await
        .unwrap();
    if let Some(trade) = trade {
        sqlx::query(TRADE).bind(trade).bind(job).execute(pool).await.unwrap();
    }
    job
}

/// Every place where an act may find a job that no worker holds: parked, waiting for its next try, or over.
fn statuses(place: &Case) -> &'static [&'static str] {
    match (place.at.as_str(), &place.undo) {
        (
            "issued" | "created" | "skipped" | "accepted" | "announced" | "over" | "granted" | "ordered" | "returned"
            | "withdrawn" | "expired",
            None,
        ) => &["completed"],
        ("rejected" | "lapsed" | "refused", None) => &["failed"],
        _ => &["needs_operator", "retryable"],
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_tables_allow_is_carried_out_and_everything_else_refused_in_words() {
    let _turn = crate::support::busy().await;
    let db = database().await;
    let pool = &db.pool;
    let mut asked = vec![];
    let (mut allowed, mut refused, mut done) = (0, 0, 0);
    let (mut ended, mut by_the_database) = (0, 0);
    // One person asks for all of it.
    sqlx::query("insert into noshi.redrive_cap (jobs, amount) values (1000000, 1000000000)")
        .execute(pool)
        .await
        .unwrap();
    for place in gifts().into_iter().chain(stores()).chain(mails()).chain(others()).chain(points()) {
        for (act, (clear, doubt)) in Act::ALL.into_iter().zip(place.leads.iter().zip(&place.leads_in_doubt)) {
            let stands = statuses(&place).iter().flat_map(|status| [(*status, false), (*status, true)]);
            // What is over is not in doubt.
            for (status, in_doubt) in stands.filter(|(status, in_doubt)| !in_doubt || *status == "needs_operator") {
                let id = put(pool, &place, status, in_doubt, asked.len() + ended + by_the_database).await;
                let job = jobs::look_at(pool, id).await.unwrap().expect("the job");
                let told = explain::refusal(&job, act);
                if let Some(why) = &told {
                    let begins = format!("{} is not allowed at `{}`", act.name(), place.at);
                    assert!(why.starts_with(&begins) && why.contains(": it") && why.contains(" may"), "{why}");
                }
                let answer = jobs::ask(pool, id, job.step, act, "because").await;
                if [Act::Dismiss, Act::Acknowledge].contains(&act) {
                    // The database carries these out by itself, and judges by the same words as the program.
                    assert_eq!(told.is_none(), answer.is_ok(), "{} {} {}: {told:?}", place.kind, place.at, act.name());
                    let probe = place.kind == "probe" && place.undo.is_none() && !in_doubt;
                    let due = status == "needs_operator" && (act == Act::Acknowledge || probe);
                    assert_eq!(answer.is_ok(), due, "{} {} {status}: {}", place.kind, place.at, act.name());
                    ended += 1;
                    done += i64::from(due);
                    continue;
                }
                let leads = if in_doubt { doubt } else { clear };
                assert_eq!(told.is_none(), leads.is_some(), "{} {} {status}: {told:?}", place.kind, place.at);
                // Also past the commands, by the function that they call: the worker decides by the table; of a card that is known the
                // database does.
                if let Err(why) = answer {
                    let known = act == Act::AttestVoid && leads.is_none() && why.to_string().contains("nobody's word");
                    assert!(known, "{} {} {}: {why}", place.kind, place.at, act.name());
                    by_the_database += 1;
                    continue;
                }
                match leads {
                    Some(_) => allowed += 1,
                    None => refused += 1,
                }
                asked.push((id, place.kind, place.at.clone(), status, act, leads.clone()));
            }
        }
    }
    assert!(allowed > 150 && refused > 700, "{allowed} and {refused}");
    let worker = start(&db, noshi::engine::Pace { slots: 512, ..pace() }).await;
    let open = "select count(*) from noshi.job j where not exists (select from noshi.job_event e where e.job = j.id and e.event in ('settled', 'declined', 'dismissed', 'acknowledged')) and exists (select from noshi.job_event e where e.job = j.id)";
    until("an answer to every act", Duration::from_secs(60), async || {
        sqlx::query_scalar::<_, i64>(open).fetch_one(pool).await.unwrap() == 0
    })
    .await;
    for (id, kind, at, status, act, leads) in asked {
        let first = "select event, outcome, became from noshi.job_event where job = $1 and event in ('settled', 'declined') order by step limit 1";
        let (event, outcome, became): (String, Option<String>, String) =
            sqlx::query_as(first).bind(id).fetch_one(pool).await.unwrap();
        let place = format!("{kind} {status} at {at}: {}", act.name());
        match leads {
            Some(leads) => {
                // Taken back by attestation, it is over: there the outcome is the end's.
                let done = outcome.as_deref() == Some(act.name()) || outcome.as_deref() == Some("compensated");
                assert!(event == "settled" && done && became == leads, "{place}: {event} {outcome:?} {became}");
            }
            None => {
                assert!(outcome.as_deref() == Some("declined") && became == at, "{place}: {event} {outcome:?} {became}")
            }
        }
        let rests: (String, Option<String>) =
            sqlx::query_as("select status::text, requested_act from noshi.job where id = $1")
                .bind(id)
                .fetch_one(pool)
                .await
                .unwrap();
        assert_eq!(rests.1, None, "{place}");
        if outcome.as_deref() == Some("declined") && status != "retryable" {
            assert_eq!(rests.0, status, "{place}: it is back where it was at rest");
        }
    }
    worker.stop().await;
    let audited: i64 =
        sqlx::query_scalar("select count(*) from noshi.audit where act like 'job %'").fetch_one(pool).await.unwrap();
    assert_eq!(audited, allowed + refused + done);
    let faults: i64 = sqlx::query_scalar("select count(*) from noshi.verify_audit()").fetch_one(pool).await.unwrap();
    assert_eq!(faults, 0);
}

/// An act asked of a job that this version cannot read leaves it where it was at rest.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_goes_back_to_its_rest() {
    let db = database().await;
    let pool = &db.pool;
    let place = others().remove(0);
    let id = put(pool, &place, "completed", false, 0).await;
    let broken =
        r#"update noshi.job set state = '{"at": "registering", "more": 1}', args = '{"batch": "none"}' where id = $1"#;
    sqlx::query(broken).bind(id).execute(pool).await.unwrap();
    jobs::ask(pool, id, 0, Act::Retry, "because").await.expect("it is asked");
    let worker = start(&db, pace()).await;
    until("an answer", Duration::from_secs(20), async || {
        let stands: (String, Option<String>) =
            sqlx::query_as("select status::text, requested_act from noshi.job where id = $1")
                .bind(id)
                .fetch_one(pool)
                .await
                .unwrap();
        stands == ("completed".to_owned(), None)
    })
    .await;
    worker.stop().await;
    let told: Vec<String> = sqlx::query_scalar("select event from noshi.job_event where job = $1 order by happened_at")
        .bind(id)
        .fetch_all(pool)
        .await
        .unwrap();
    assert_eq!(told, ["asked", "claimed", "declined"]);
}

/// A cancel that comes while the call is on its way: the answer is not lost, and then the worker obeys.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_of_a_running_job_its_holder_obeys_after_the_step() {
    let _turn = crate::support::turn().await;
    let fleet = fleet(Terms { call_timeout: Duration::from_secs(4), ..Terms::default() }).await;
    for provider in [Provider::AmazonIncentives, Provider::GiftOnDemand] {
        fleet.control().script(provider, Op::Issue, Fault::EffectThenHang, 1).unwrap();
    }
    let taken_back = fleet.gift("g-amazon", "amazon", 500).await;
    let asked_after = fleet.gift("g-digital", "digital", 500).await;
    let worker = fleet.worker("w", &[], &[]);
    until("two calls on their way", Duration::from_secs(10), async || count(&fleet, "arrival") == 2).await;
    for (grant, act) in [("g-amazon", "cancel"), ("g-digital", "inquire")] {
        let said = fleet.command(&["job", act, "gift_issuance", grant, "--reason", "asked too early"]).await;
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    }
    let attested = fleet.command(&["job", "resolve", "g-amazon", "--as", "attest_void", "--reason", "no"]).await;
    assert!(!attested.status.success(), "nobody attests anything about a call that is on its way");
    let why = fleet.command(&["job", "explain", "g-amazon"]).await;
    let why = String::from_utf8_lossy(&why.stdout).into_owned();
    assert!(why.contains("asked to cancel") && why.contains("when the step in flight has ended"), "{why}");
    let at = async |job: i64| -> (String, String, Option<String>) {
        sqlx::query_as("select status::text, at, code from noshi.job where id = $1")
            .bind(job)
            .fetch_one(&fleet.pool)
            .await
            .unwrap()
    };
    until("both at rest", Duration::from_secs(30), async || {
        at(taken_back).await.0 == "needs_operator" && at(asked_after).await.0 == "completed"
    })
    .await;
    assert_eq!(at(taken_back).await, ("needs_operator".into(), "void".into(), Some("gift_void".into())));
    assert_eq!((count(&fleet, "issued"), count(&fleet, "voided")), (2, 1), "each bought once, and one taken back");
    assert!(worker.stop().await.success());
}

/// What the database knows of kinds and of reruns is what the program's tables say.
#[tokio::test(flavor = "multi_thread")]
async fn the_database_knows_the_kinds_and_which_of_them_run_again() {
    let db = database().await;
    let known = async |function: &str, kind: &str| -> bool {
        let sql = format!("select noshi.{function}($1)");
        sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).bind(kind).fetch_one(&db.pool).await.unwrap()
    };
    let rerun = Act::ALL.iter().position(|act| *act == Act::Rerun).unwrap();
    let places: Vec<Case> =
        gifts().into_iter().chain(stores()).chain(mails()).chain(others()).chain(points()).collect();
    for kind in noshi_jobs::Kind::ALL {
        assert!(known("known_kind", kind.name()).await, "{}", kind.name());
        let of_kind = || places.iter().filter(|place| place.kind == kind.name());
        assert!(of_kind().count() > 0, "{}", kind.name());
        let table = of_kind().any(|place| place.leads[rerun].is_some());
        assert_eq!(known("reruns", kind.name()).await, table, "{}", kind.name());
    }
    assert!(!known("known_kind", "gift_isuance").await);
}
