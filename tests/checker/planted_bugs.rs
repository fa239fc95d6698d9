//! The checker's own test: a run that breaks no rule is clean, and each of these, spoilt in one place, is not.

mod good;
mod input;
mod run;

use serde_json::{Value, json};

use good::{DEAD, LIVING, good};
use run::{Run, at, us};

struct Spoilt {
    name: &'static str,
    /// The invariant that must be named, and what its line must speak of.
    invariant: &'static str,
    of: &'static str,
    spoil: fn(&mut Run),
}

const fn spoilt(name: &'static str, invariant: &'static str, of: &'static str, spoil: fn(&mut Run)) -> Spoilt {
    Spoilt { name, invariant, of, spoil }
}

fn first<'a>(rows: &'a mut [Value], fields: &[(&str, &str)]) -> &'a mut Value {
    rows.iter_mut().find(|row| fields.iter().all(|(name, value)| row[*name] == *value)).expect("a row like that")
}

/// The nth event of this name in the journal of a job.
fn event<'a>(run: &'a mut Run, job: i64, name: &str, nth: usize) -> &'a mut Value {
    run.events.iter_mut().filter(|row| row["job"] == job && row["event"] == name).nth(nth).expect("an event like that")
}

fn remove(rows: &mut Vec<Value>, matches: impl Fn(&Value) -> bool) {
    let before = rows.len();
    rows.retain(|row| !matches(row));
    assert!(rows.len() < before, "nothing was removed");
}

/// A journal row out of nowhere, beside whatever the job's row says.
fn journal(run: &mut Run, ms: i64, job: i64, event: &str, (lease, step, worker): (i64, i64, Option<i64>), at: &str) {
    run.events.push(json!({
        "job": job, "happened_at": run::at(ms), "event": event, "lease": lease, "step": step, "worker": worker,
        "was": at, "became": at, "outcome": null, "code": null, "detail": null,
    }));
}

#[rustfmt::skip]
const MONEY: &[Spoilt] = &[
    spoilt("the same trade issues twice", "I1", "trade T2", |run| run.issued(500, "T2", "C2x")),
    spoilt("two trades of a grant issue", "I1", "grant G3", |run| remove(&mut run.ledger, |line| line["event"] == "voided")),
    spoilt("a second gift is live for a moment only", "I1", "trade T3b", |run| {
        run.issued(2_105, "T3b", "C3x");
        run.voided(2_106, "T3b", "C3x");
    }),
    spoilt("a gift of a trade that was never saved", "R11", "trade T9", |run| {
        run.line(5_000, "arrival", "issue", "T9");
        run.issued(5_001, "T9", "C9");
    }),
    spoilt("a call with a trade id that was never saved", "R11", "trade T9", |run| _ = run.line(5_000, "arrival", "cancel", "T9")),
    spoilt("completed without a gift", "I1b", "job 1:", |run| remove(&mut run.ledger, |line| line["card"] == "C1")),
    spoilt("completed, then the gift was taken back", "I1b", "job 1:", |run| run.voided(5_000, "T1", "C1")),
    spoilt("another amount was issued than asked for", "I1b", "job 1:", |run| {
        first(&mut run.ledger, &[("card", "C1")])["amount"] = 5000.into();
        first(&mut run.trades, &[("id", "T1")])["amount"] = 5000.into();
    }),
    spoilt("another amount was issued than the trade's", "I1b", "trade T5", |run| first(&mut run.ledger, &[("card", "C5")])["amount"] = 501.into()),
    spoilt("another currency was issued", "I1b", "trade T1", |run| first(&mut run.ledger, &[("card", "C1")])["currency"] = "USD".into()),
    spoilt("another provider issued", "I1b", "trade T1", |run| first(&mut run.ledger, &[("card", "C1")])["provider"] = "tango_card".into()),
    spoilt("completed, and no outcome was recorded", "I1b", "job 1:", |run| remove(&mut run.outcomes, |row| row["trade"] == "T1")),
    spoilt("completed at a state that delivers nothing", "I1b", "job 4:", |run| run.row(4)["status"] = "completed".into()),
    spoilt("failed, and the gift is live", "I2b", "job 4:", |run| run.issued(3_500, "T4", "C4")),
    spoilt("parked with two live gifts", "I2b", "job 5:", |run| run.issued(6_200, "T5", "C5x")),
    spoilt("parked without a question", "I2b", "job 5:", |run| run.row(5)["code"] = Value::Null),
    spoilt("the job rests on another card", "I20", "job 1:", |run| run.row(1)["state"]["card"] = "C3b".into()),
    spoilt("the job rests on another trade", "I20", "job 1:", |run| run.row(1)["state"]["trade"]["id"] = "T2".into()),
    spoilt("a card is recorded that the provider never made", "I20", "trade T1", |run| first(&mut run.outcomes, &[("trade", "T1")])["card"] = "C99".into()),
    spoilt("a card is recorded before it was made", "I20", "trade T1", |run| first(&mut run.outcomes, &[("trade", "T1")])["happened_at"] = at(29)),
];

#[rustfmt::skip]
const SHOPS: &[Spoilt] = &[
    spoilt("a shop is left behind", "I3", "job 110:", |run| remove(&mut run.ledger, |line| line["event"] == "shop_deleted")),
    spoilt("a second shop, for a moment only", "I3", "job 109:", |run| {
        run.at_the_platform(50_200, "create_shop", "O1/P1/b1/1", "shop_created", "shp3");
        run.at_the_platform(50_210, "delete_shop", "shp3", "shop_deleted", "shp3");
    }),
    spoilt("the shop of a store is deleted", "I3", "job 109:", |run| {
        run.at_the_platform(50_200, "delete_shop", "shp1", "shop_deleted", "shp1");
    }),
    spoilt("the shop of a completed job is asked to be deleted, in vain", "I3", "job 109:", |run| {
        run.at_the_platform(50_200, "delete_shop", "shp1", "refused", "shp1");
    }),
    spoilt("a shop that nobody asked for", "I3", "shop shp4", |run| {
        run.at_the_platform(50_200, "create_shop", "O9/P9/b9/0", "shop_created", "shp4");
    }),
    spoilt("a created store is not there", "I3", "job 109:", |run| run.stores.clear()),
    spoilt("a store on another shop", "I3", "store P1", |run| run.stores[0]["shop"] = "shp2".into()),
    spoilt("a store of a job that was taken back", "I3", "job 110:", |run| {
        run.stores.push(json!({"public_id": "P2", "organization": "O2", "shop": "shp2", "job": 110}));
    }),
];

#[rustfmt::skip]
const TRADES: &[Spoilt] = &[
    spoilt("the call was before the trade", "I8", "trade T1", |run| first(&mut run.trades, &[("id", "T1")])["started_at"] = at(32)),
    spoilt("the call was before the claim", "I8", "trade T1", |run| event(run, 1, "claimed", 1)["happened_at"] = at(32)),
    spoilt("two issue calls under one claim", "I8", "trade T8", |run| run.call(13_500, "issue", "T8")),
    spoilt("a call under a claim that was handed back", "I8", "trade T3:", |run| run.call(2_025, "issue", "T3")),
    spoilt("a second generation without a void", "I10", "grant G3", |run| remove(&mut run.outcomes, |row| row["outcome"] == "void")),
    spoilt("a second generation before the void", "I10", "grant G3", |run| first(&mut run.outcomes, &[("outcome", "void")])["happened_at"] = at(2_085)),
    spoilt("a generation was left out", "I10", "grant G3", |run| first(&mut run.trades, &[("id", "T3b")])["generation"] = 2.into()),
    spoilt("a trade of another grant's job", "I10", "grant exchange/X1", |run| first(&mut run.trades, &[("id", "T4")])["grant_id"] = "exchange/X1".into()),
    spoilt("called void while the gift was live", "I10", "trade T3:", |run| first(&mut run.ledger, &[("event", "voided")])["us"] = us(2_075).into()),
    spoilt("a gift lands after its trade was called void", "I10", "trade T3:", |run| {
        run.issued(2_500, "T3", "C3x");
        run.voided(2_501, "T3", "C3x");
    }),
    spoilt("refused and issued", "I10", "trade T4", |run| run.outcome(3_040, "T4", "issued", Some("C4"))),
];

#[rustfmt::skip]
const JOURNAL: &[Spoilt] = &[
    spoilt("a job was left running", "I2", "job 5", |run| run.row(5)["status"] = "available".into()),
    spoilt("a job was never begun", "I2", "job 9", |run| run.job(9, "gift_issuance", "G9", 500)),
    spoilt("a settle is missing", "I4", "job 2:", |run| remove(&mut run.events, |row| row["job"] == 2 && row["event"] == "settled" && row["step"] == 1)),
    spoilt("a settle is there twice", "I4", "job 6:", |run| { let again = event(run, 6, "settled", 1).clone(); run.events.push(again); }),
    spoilt("the row stands elsewhere", "I4", "job 5:", |run| run.row(5)["at"] = "issuing".into()),
    spoilt("the row's step is another", "I4", "job 1:", |run| run.row(1)["step"] = 3.into()),
    spoilt("the row's lease is another", "I4", "job 1:", |run| run.row(1)["lease"] = 9.into()),
    spoilt("the row's code is another", "I4", "job 4:", |run| run.row(4)["code"] = "poison".into()),
    spoilt("the row is held and the journal says otherwise", "I4", "job 2:", |run| run.row(2)["worker"] = LIVING.into()),
    spoilt("a settle without a claim", "I4", "job 1:", |run| remove(&mut run.events, |row| row["job"] == 1 && row["event"] == "claimed" && row["lease"] == 2)),
    spoilt("a settle by another worker", "I4", "job 1:", |run| event(run, 1, "settled", 1)["worker"] = DEAD.into()),
    spoilt("a settle after the rescue", "I4", "job 2:", |run| {
        journal(run, 1_015, 2, "settled", (2, 1, Some(DEAD)), "issuing");
        first(&mut run.workers, &[("name", "b")])["dead_at"] = Value::Null;
    }),
    spoilt("handed back without a claim", "I4", "job 1:", |run| journal(run, 15, 1, "handed_back", (2, 1, Some(LIVING)), "issuing")),
    spoilt("two claims hold one job", "I4", "job 6:", |run| journal(run, 7_000, 6, "claimed", (2, 0, Some(LIVING)), "new")),
    spoilt("a claim skipped a lease", "I4", "job 3:", |run| {
        event(run, 3, "claimed", 4)["lease"] = 6.into();
        event(run, 3, "settled", 5)["lease"] = 6.into();
        run.row(3)["lease"] = 6.into();
    }),
    spoilt("the journal speaks of an unknown job", "I4", "job 77", |run| journal(run, 5, 77, "claimed", (1, 0, Some(LIVING)), "new")),
    spoilt("an event that nobody knows", "I4", "job 1:", |run| journal(run, 15, 1, "leak", (1, 1, None), "issuing")),
    spoilt("claimed after the end", "I7", "job 1:", |run| { run.claim(5_000, 1, LIVING); run.row(1)["status"] = "completed".into(); }),
    spoilt("settled after the end", "I7", "job 6:", |run| journal(run, 7_100, 6, "settled", (3, 4, Some(LIVING)), "over")),
    spoilt("reopened without a person", "I7", "job 5:", |run| remove(&mut run.events, |row| row["event"] == "asked")),
    spoilt("a grant was issued before it was granted", "I14", "job 1", |run| run.batches[0]["registered_at"] = at(1)),
    spoilt("a grant was issued and never granted", "I14", "job 1", |run| run.batches[0]["registered_at"] = Value::Null),
    spoilt("a row leads to two gifts", "I13", "batch 1: row 1", |run| { run.row(2)["batch"] = 1.into(); run.row(2)["row_no"] = 1.into(); }),
    spoilt("a job of no row of its batch", "I13", "batch 1: job 2", |run| { run.row(2)["batch"] = 1.into(); run.row(2)["row_no"] = 2.into(); }),
    spoilt("a store without a job", "I13", "batch 1: 1 rows", |run| { run.batches[0]["kind"] = "stores".into(); run.row(1)["batch"] = Value::Null; }),
    spoilt("no event ended it", "I7", "job 1:", |run| run.row(1)["finished_at"] = at(50)),
    spoilt("a lease given out twice", "I9", "job 3:", |run| event(run, 3, "claimed", 2)["lease"] = 2.into()),
    spoilt("a stale worker settled", "I9", "job 2:", |run| journal(run, 1_035, 2, "settled", (2, 2, Some(LIVING)), "issuing")),
    spoilt("a job that kills its workers is not parked", "I11", "job 9:", |run| {
        run.job(9, "probe", "P9", 0);
        for turn in 0..5 {
            run.claim(20_000 + turn * 10, 9, LIVING);
            run.give_back(20_005 + turn * 10, 9, "rescued");
        }
    }),
    spoilt("more deaths are counted than allowed", "I11", "job 6:", |run| run.row(6)["crash_count"] = 4.into()),
    spoilt("a dead worker settled", "I18", "worker 2", |run| first(&mut run.workers, &[("name", "b")])["dead_at"] = at(105)),
    spoilt("a stopped worker claimed", "I18", "worker 1", |run| first(&mut run.workers, &[("name", "a")])["stopped_at"] = at(7_005)),
    spoilt("a worker that never started", "I18", "worker 2", |run| remove(&mut run.workers, |row| row["name"] == "b")),
];

#[rustfmt::skip]
const RESTRAINT: &[Spoilt] = &[
    spoilt("too many calls in a second", "I5", "gift_on_demand", |run| _ = run.line(4_900, "arrival", "inquire", "T5")),
    spoilt("balance questions count too", "I5", "amazon_incentives", |run| {
        for ms in [30_000, 30_400, 30_999] {
            *run.line(ms, "arrival", "funds", "T1") = json!({"us": us(ms), "event": "arrival", "provider": "amazon_incentives", "op": "funds"});
        }
    }),
    spoilt("more calls than tokens", "I5", "tango_card", |run| first(&mut run.lanes, &[("name", "gift/tango_card")])["tokens"] = 3.into()),
    spoilt("called while told to wait", "I5b", "amazon_incentives", |run| run.call(11_900, "inquire", "T1")),
    spoilt("called just before the time was over", "I5b", "amazon_incentives", |run| {
        for line in &mut run.ledger {
            if line["us"].as_i64() >= Some(us(12_000)) && line["provider"] == "amazon_incentives" {
                line["us"] = (line["us"].as_i64().unwrap_or_default() - 40_000).into();
            }
        }
    }),
    spoilt("a canary in the journal", "I6", "job_event.jsonl", |run| event(run, 1, "settled", 1)["detail"] = "CNRY-7GQ2X1-8Z4K".into()),
    spoilt("a canary as bytes in a table", "I6", "job.jsonl", |run| run.row(1)["fingerprint"] = "\\x00434e52592d37".into()),
    spoilt("a canary across two blocks of a log", "I6", "worker.log", |run| {
        run.log = "x".repeat((1 << 20) - 2);
        run.log.push_str("CNRY-7GQ2X1-8Z4K");
    }),
    spoilt("a canary of the test's own", "I6", "worker.log", |run| {
        run.args.extend(["--canary".to_owned(), "hana@example.test".to_owned()]);
        run.log.push_str("sent to hana@example.test");
    }),
];

#[rustfmt::skip]
const POINTS: &[Spoilt] = &[
    spoilt("an entry does not balance", "P1", "entry 2 (use:X1)", |run| run.point_lines[3]["amount"] = 61.into()),
    spoilt("an entry without lines", "P1", "entry 4 (reverse:X4)", |run| remove(&mut run.point_lines, |line| line["entry"] == 4)),
    spoilt("a balance that is not the sum", "P1", "entry 3 (use:X4)", |run| run.point_entries[2]["balance"] = 5.into()),
    spoilt("an entry is missing from a user's journal", "P1", "where 2 was due", |run| remove(&mut run.point_entries, |entry| entry["id"] == 2)),
    spoilt("a lot gave more than it had", "P2", "lot 1 of user u1", |run| run.point_allocations[1]["amount"] = 41.into()),
    spoilt("a lot remembers an allocation that is not there", "P2", "lot 1 of user u1", |run| remove(&mut run.point_allocations, |row| row["entry"] == 3)),
    spoilt("a lot out of nowhere", "P2", "user u1 owns 40", |run| run.point_lots.push(json!({"id": 3, "user_id": "u1", "amount": 7, "remaining": 7}))),
    spoilt("points used and no gift ordered", "P3", "exchange X1", |run| run.row(1)["key"] = "G1".into()),
    spoilt("a gift ordered and no points used", "P3", "exchange X1", |run| run.point_entries[1]["key"] = "use:X9".into()),
    spoilt("a refused gift and no points returned", "P3", "exchange X4", |run| run.point_entries[3]["key"] = "reverse:X9".into()),
    spoilt("points returned beside a live gift", "P3", "exchange X1", |run| run.point_entries[3]["key"] = "reverse:X1".into()),
];

#[rustfmt::skip]
const MAILS: &[Spoilt] = &[
    spoilt("a message went out three times", "M1", "job 20:", |run| run.mail(22_000, "20")),
    spoilt("a message of no job", "M2", "`77`", |run| run.mail(22_000, "77")),
    spoilt("a message of a gift's job", "M2", "`1`", |run| run.mail(22_000, "1")),
    spoilt("a message was sent before its claim", "M2", "job 20:", |run| event(run, 20, "claimed", 1)["happened_at"] = at(20_022)),
    spoilt("completed, and nothing was sent", "M3", "job 20:", |run| remove(&mut run.ledger, |line| line["event"] == "mail_sent")),
    spoilt("more mails than tokens", "I5", "ses", |run| first(&mut run.lanes, &[("name", "email/ses")])["tokens"] = 1.into()),
];

fn all() -> impl Iterator<Item = &'static Spoilt> {
    [MONEY, SHOPS, TRADES, JOURNAL, RESTRAINT, MAILS, POINTS].into_iter().flatten()
}

#[test]
fn a_good_run_is_clean() {
    let (violations, summary) = good().judged();
    assert!(violations.is_empty(), "{violations:#?}");
    assert_eq!(summary, "checked 25 invariants over 11 jobs, 79 events, 54 ledger lines: 0 violations");
}

#[test]
fn every_spoilt_run_is_reported_by_its_name() {
    let mut missed = vec![];
    for Spoilt { name, invariant, of, spoil } in all() {
        let mut run = good();
        spoil(&mut run);
        let (violations, _) = run.judged();
        if !violations.iter().any(|line| line.starts_with(&format!("{invariant} ")) && line.contains(of)) {
            missed.push(format!("{name}: {invariant} of {of} is not among {violations:#?}"));
        }
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

#[test]
fn every_invariant_has_a_tooth() {
    use crate::report::{ALWAYS, QUIESCENT, RETRY_AFTER};
    for invariant in [ALWAYS, QUIESCENT, RETRY_AFTER].concat() {
        assert!(all().any(|spoilt| spoilt.invariant == invariant), "nothing breaks {invariant}");
    }
}

#[test]
fn what_a_correct_fleet_cannot_know_is_not_held_against_it() {
    // The worker died before it could tell anybody of the throttle.
    let mut run = good();
    run.job(9, "gift_issuance", "G9", 500);
    run.claim(20_000, 9, LIVING);
    run.trade(20_002, 9, "T9", 0, "amazon_incentives");
    run.settle(20_003, 9, "issuing", "started", ("available", None));
    run.claim(20_010, 9, LIVING);
    run.call(20_020, "issue", "T9");
    run.line(20_021, "throttled", "issue", "T9")["until_us"] = us(25_000).into();
    run.give_back(21_000, 9, "rescued");
    run.claim(21_010, 9, LIVING);
    run.settle(21_011, 9, "issuing", "reenter", ("available", None));
    run.claim(21_020, 9, LIVING);
    run.call(21_030, "issue", "T9");
    run.issued(21_031, "T9", "C9");
    run.outcome(21_040, "T9", "issued", Some("C9"));
    run.settle(21_041, 9, "issued", "issued", ("completed", None));
    run.delivered(9, "T9", "C9");
    let (violations, _) = run.judged();
    assert!(violations.is_empty(), "{violations:#?}");
    // Had it been known, the same call would have been a breach.
    let rescued = event(&mut run, 9, "rescued", 0);
    rescued["event"] = "settled".into();
    rescued["outcome"] = "throttled".into();
    rescued["happened_at"] = at(20_030);
    assert!(run.judged().0.iter().any(|line| line.starts_with("I5b ")));
}

#[test]
fn a_dump_older_than_the_ledger_is_fair_while_the_fleet_runs() {
    let mut run = good();
    run.line(90_000, "arrival", "issue", "T-newer-than-the-dump");
    run.issued(90_001, "T-newer-than-the-dump", "C9");
    run.job(9, "probe", "P9", 0);
    assert_eq!(run.judged().0.len(), 2, "an unknown trade, and a job that waits");
    run.args.retain(|arg| arg != "--quiescent");
    let (violations, summary) = run.judged();
    assert!(violations.is_empty(), "{violations:#?}");
    assert!(summary.starts_with("checked 24 invariants"), "{summary}");
    // But a second gift is one too many, whenever it comes.
    run.issued(90_002, "T-newer-than-the-dump", "C9x");
    assert_eq!(run.judged().0.len(), 1);
}
