//! The run that breaks no rule. It meets every event of the journal and the hard cases of each provider.

use serde_json::json;

use super::run::{Run, at, us};

/// Holds jobs to its end.
pub const LIVING: i64 = 1;
/// Declared dead at 1,000 ms.
pub const DEAD: i64 = 2;

const AVAILABLE: (&str, Option<&str>) = ("available", None);
const COMPLETED: (&str, Option<&str>) = ("completed", None);

pub fn good() -> Run {
    let args = "--quiescent --retry-after --limit amazon_incentives=2 gift_on_demand=2 --window-ms 1000";
    let mut run = Run {
        workers: vec![
            json!({"id": LIVING, "name": "a", "stopped_at": at(60_000), "dead_at": null}),
            json!({"id": DEAD, "name": "b", "stopped_at": null, "dead_at": at(1_000)}),
        ],
        lanes: ["", "email/ses", "gift/amazon_incentives", "gift/gift_on_demand", "gift/tango_card", "org-platform"]
            .map(|name| json!({"name": name, "tokens": 10}))
            .to_vec(),
        args: args.split(' ').map(str::to_owned).collect(),
        log: "a log without a secret\n".repeat(100),
        ..Run::default()
    };
    straight(&mut run);
    in_a_batch(&mut run);
    rescued(&mut run);
    reissued(&mut run);
    refused(&mut run);
    parked(&mut run);
    probe(&mut run);
    throttled(&mut run);
    mailed(&mut run);
    store(&mut run);
    taken_back(&mut run);
    points(&mut run);
    run
}

/// Two exchanges of one user: job 1 issued the gift of one, job 4 was refused that of the other, whose points came back.
fn points(run: &mut Run) {
    let entries = [
        ("acquire:b:1", 100, "points_granted"),
        ("use:X1", -60, "points_used"),
        ("use:X4", -40, "points_used"),
        ("reverse:X4", 40, "points_used"),
    ];
    let mut balance = 0_i64;
    for (at, (key, amount, against)) in entries.into_iter().enumerate() {
        let (id, amount): (usize, i64) = (at + 1, amount);
        balance += amount;
        run.point_entries.push(json!({"id": id, "key": key, "user_id": "u1", "seq": id, "balance": balance}));
        let sides = if amount > 0 { ("C", "D") } else { ("D", "C") };
        for (account, side) in [("user_points", sides.0), (against, sides.1)] {
            run.point_lines.push(json!({"entry": id, "account": account, "side": side, "amount": amount.abs()}));
        }
    }
    run.point_lots.push(json!({"id": 1, "user_id": "u1", "amount": 100, "remaining": 0}));
    run.point_lots.push(json!({"id": 2, "user_id": "u1", "amount": 40, "remaining": 40}));
    run.point_allocations.push(json!({"lot": 1, "entry": 2, "amount": 60}));
    run.point_allocations.push(json!({"lot": 1, "entry": 3, "amount": 40}));
}

/// Job 1: routing, issuing, issued.
fn straight(run: &mut Run) {
    run.job(1, "gift_issuance", "exchange/X1", 500);
    run.claim(10, 1, LIVING);
    run.trade(12, 1, "T1", 0, "amazon_incentives");
    run.settle(13, 1, "issuing", "started", AVAILABLE);
    run.claim(20, 1, LIVING);
    run.call(30, "issue", "T1");
    run.issued(31, "T1", "C1");
    run.outcome(40, "T1", "issued", Some("C1"));
    run.settle(41, 1, "issued", "issued", COMPLETED);
    run.delivered(1, "T1", "C1");
}

/// Job 1 came with a batch of one row, issued at once.
fn in_a_batch(run: &mut Run) {
    run.batches.push(
        json!({"id": 1, "kind": "grants", "mails": true, "issues": true, "released_at": at(0), "registered_at": at(0)}),
    );
    run.batch_rows.push(json!({"batch": 1, "row_no": 1, "mailed": false}));
    run.row(1)["batch"] = 1.into();
    run.row(1)["row_no"] = 1.into();
}

/// Job 2: its worker dies after the effect; an inquiry finds the gift.
fn rescued(run: &mut Run) {
    run.job(2, "gift_issuance", "G2", 1000);
    run.claim(100, 2, DEAD);
    run.trade(102, 2, "T2", 0, "gift_on_demand");
    run.settle(103, 2, "issuing", "started", AVAILABLE);
    run.claim(110, 2, DEAD);
    run.call(120, "issue", "T2");
    run.issued(121, "T2", "C2");
    run.give_back(1_010, 2, "rescued");
    run.claim(1_020, 2, LIVING);
    run.settle(1_021, 2, "inquiring", "in_doubt", AVAILABLE);
    run.claim(1_030, 2, LIVING);
    run.call(1_040, "inquire", "T2");
    run.outcome(1_050, "T2", "issued", Some("C2"));
    run.settle(1_051, 2, "issued", "live", COMPLETED);
    run.delivered(2, "T2", "C2");
}

/// Job 3: the first trade is cancelled, a second generation follows.
fn reissued(run: &mut Run) {
    run.job(3, "gift_issuance", "G3", 3000);
    run.claim(2_000, 3, LIVING);
    run.trade(2_002, 3, "T3", 0, "tango_card");
    run.settle(2_003, 3, "issuing", "started", AVAILABLE);
    run.claim(2_010, 3, LIVING);
    run.give_back(2_011, 3, "handed_back");
    run.claim(2_020, 3, LIVING);
    run.call(2_030, "issue", "T3");
    run.issued(2_031, "T3", "C3");
    run.settle(2_040, 3, "cancelling", "resend_spent", AVAILABLE);
    run.claim(2_050, 3, LIVING);
    run.call(2_060, "cancel", "T3");
    run.voided(2_061, "T3", "C3");
    run.outcome(2_070, "T3", "void", None);
    // A state without a lane stays with its worker.
    run.settle(2_071, 3, "void", "cancelled", ("running", None));
    run.settle(2_072, 3, "routing", "reissue", ("running", None));
    run.trade(2_080, 3, "T3b", 1, "tango_card");
    run.settle(2_081, 3, "issuing", "started", AVAILABLE);
    run.claim(2_090, 3, LIVING);
    run.call(2_100, "issue", "T3b");
    run.issued(2_101, "T3b", "C3b");
    run.outcome(2_110, "T3b", "issued", Some("C3b"));
    run.settle(2_111, 3, "issued", "issued", COMPLETED);
    run.delivered(3, "T3b", "C3b");
}

/// Job 4: refused, so it fails and nothing moved.
fn refused(run: &mut Run) {
    run.job(4, "gift_issuance", "exchange/X4", 70);
    run.claim(3_000, 4, LIVING);
    run.trade(3_002, 4, "T4", 0, "tango_card");
    run.settle(3_003, 4, "issuing", "started", AVAILABLE);
    run.claim(3_010, 4, LIVING);
    run.call(3_020, "issue", "T4");
    run.line(3_021, "refused", "issue", "T4");
    run.outcome(3_030, "T4", "refused", None);
    run.settle(3_031, 4, "rejected", "refused", ("failed", Some("gift_refused")));
}

/// Job 5: needs an operator, who lets it inquire once more; still nothing is found, and then the gift lands.
fn parked(run: &mut Run) {
    let ask = ("needs_operator", Some("not_found_in_doubt"));
    run.job(5, "gift_issuance", "G5", 500);
    run.claim(4_000, 5, LIVING);
    run.trade(4_002, 5, "T5", 0, "gift_on_demand");
    run.settle(4_003, 5, "issuing", "started", AVAILABLE);
    run.claim(4_010, 5, LIVING);
    run.call(4_020, "issue", "T5");
    run.settle(4_030, 5, "inquiring", "unknown", AVAILABLE);
    run.claim(4_040, 5, LIVING);
    run.call(4_050, "inquire", "T5");
    run.settle(4_060, 5, "inquiring", "not_found", ask);
    run.act(6_000, 5, "inquiring");
    run.claim(6_010, 5, LIVING);
    run.call(6_020, "inquire", "T5");
    run.settle(6_030, 5, "inquiring", "not_found", ask);
    run.issued(6_100, "T5", "C5");
}

/// Job 6: a probe; several steps under one lease, and a failover in the middle.
fn probe(run: &mut Run) {
    run.job(6, "probe", "P6", 0);
    run.claim(7_000, 6, LIVING);
    run.settle(7_001, 6, "stepping", "stepped", ("running", None));
    run.settle(7_002, 6, "stepping", "stepped", ("running", None));
    run.timeline_changed(7_010, 6);
    run.claim(7_020, 6, LIVING);
    run.settle(7_021, 6, "over", "over", COMPLETED);
}

/// Job 7: the provider asks for two seconds; one call of another job (8) was on its way already.
fn throttled(run: &mut Run) {
    for (job, grant, trade, ms) in [(7, "G7", "T7", 10_000), (8, "G8", "T8", 10_250)] {
        run.job(job, "gift_issuance", grant, 500);
        run.claim(ms, job, LIVING);
        run.trade(ms + 2, job, trade, 0, "amazon_incentives");
        run.settle(ms + 3, job, "issuing", "started", AVAILABLE);
        run.claim(ms + 10, job, LIVING);
        run.call(ms + 20, "issue", trade);
        let throttled = run.line(ms + 21, "throttled", "issue", trade);
        throttled["until_us"] = us(12_021).into();
        run.settle(ms + 30, job, "issuing", "throttled", ("retryable", None));
        let ms = ms + 2_050;
        run.claim(ms, job, LIVING);
        run.call(ms + 10, "issue", trade);
        let card = format!("C{job}");
        run.issued(ms + 11, trade, &card);
        run.outcome(ms + 20, trade, "issued", Some(&card));
        run.settle(ms + 21, job, "issued", "issued", COMPLETED);
        run.delivered(job, trade, &card);
    }
}

/// Job 20: the answer to the first send is lost, no event comes, and it is sent once more.
fn mailed(run: &mut Run) {
    run.job(20, "email", "gift_granted:1:G1", 0);
    run.claim(20_000, 20, LIVING);
    run.settle(20_001, 20, "sending", "ready", AVAILABLE);
    run.claim(20_010, 20, LIVING);
    run.mail(20_020, "20");
    run.settle(20_030, 20, "waiting", "unknown", ("scheduled", None));
    run.claim(21_000, 20, LIVING);
    run.settle(21_001, 20, "preparing", "send_again", ("running", None));
    run.settle(21_002, 20, "sending", "ready", AVAILABLE);
    run.claim(21_010, 20, LIVING);
    run.mail(21_020, "20");
    run.settle(21_030, 20, "accepted", "accepted", COMPLETED);
    run.row(20)["state"] = json!({"at": "accepted", "message": "0106"});
}

/// Job 109: a shop, and the store that stands on it.
fn store(run: &mut Run) {
    run.job(109, "store_creation", "O1/P1/b1", 0);
    run.row(109)["args"] = json!({"organization": "O1", "public_id": "P1", "name": "x", "request": "b1"});
    run.claim(50_000, 109, LIVING);
    run.settle(50_001, 109, "creating", "free", AVAILABLE);
    run.claim(50_010, 109, LIVING);
    run.at_the_platform(50_020, "create_shop", "O1/P1/b1/0", "shop_created", "shp1");
    run.settle(50_030, 109, "assigning", "created", AVAILABLE);
    run.claim(50_040, 109, LIVING);
    run.settle(50_050, 109, "registering", "assigned", ("running", None));
    run.stores.push(json!({"public_id": "P1", "organization": "O1", "shop": "shp1", "name": "x", "job": 109}));
    run.settle(50_051, 109, "created", "created", COMPLETED);
    run.row(109)["state"] = json!({"at": "created", "shop": "shp1"});
}

/// Job 110: its shop is deleted again, and the job failed cleanly.
fn taken_back(run: &mut Run) {
    run.job(110, "store_creation", "O2/P1/b1", 0);
    run.row(110)["args"] = json!({"organization": "O2", "public_id": "P1", "name": "x", "request": "b1"});
    run.claim(51_000, 110, LIVING);
    run.settle(51_001, 110, "creating", "free", AVAILABLE);
    run.claim(51_010, 110, LIVING);
    run.at_the_platform(51_020, "create_shop", "O2/P1/b1/0", "shop_created", "shp2");
    run.settle(51_030, 110, "assigning", "created", AVAILABLE);
    run.claim(51_040, 110, LIVING);
    run.settle(51_050, 110, "refused", "organization_refused", AVAILABLE);
    run.claim(51_060, 110, LIVING);
    run.at_the_platform(51_070, "delete_shop", "shp2", "shop_deleted", "shp2");
    run.settle(51_080, 110, "refused", "compensated", ("failed", Some("organization_refused")));
}
