//! What the workers that are killed were doing: gifts, what their first call meets, and what happens around them.

use std::{fs, path::PathBuf, time::Duration};

use serde_json::json;
use tempfile::TempDir;

use super::{exchanges::Gift, points::Choose};
use crate::{
    batches::released,
    engine::probe,
    fleet::{Fleet, Terms, fleet_from},
    support::{self, copy_of, database},
};
use noshi::{
    db::{self, PgPool},
    lab::simulator::{Command, Fault, Op, Provider},
    partners::gifts::trade_id,
};

/// Above what any of the simulated providers sells, and within what the settings say that they do.
pub const TOO_MUCH: i64 = 5_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cast {
    /// Gifts of these names; the first issue call of each meets its fault.
    Gifts(&'static [(&'static str, Option<Fault>)]),
    /// These gifts; a gift whose first worker died; and, where the provider can cancel, a delivered gift to be taken back.
    Prepared(&'static [(&'static str, Option<Fault>)]),
    /// Two probes of which one has to take its call back.
    Probes,
    /// Mails about these; the first send of each meets its fault, and no event tells what became of it.
    Mails(&'static [(&'static str, Option<Fault>)]),
    /// A batch of this many grants, released and to be issued at once.
    Batch(i32),
    /// Stores at the organisation platform.
    Stores,
    /// Points, and the gift that they are exchanged for.
    Points(Gift),
}

/// What is done to the first worker, and around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drive {
    Nothing,
    /// Stopped right after a claim, and continued when the slots of its tokens have passed.
    MissTheSlots,
    /// Told to stop as soon as it made a call.
    Terminate,
    /// A claim in its name whose answer never reached it.
    StrayClaim,
    /// The server comes up on another timeline.
    Failover,
    /// Killed from outside, after the effect and before the answer.
    KillInFlight,
}

#[derive(Debug)]
pub struct Scene {
    pub name: &'static str,
    pub cast: Cast,
    pub drive: Drive,
    pub choose: Choose,
}

const MIXED: &[(&str, Option<Fault>)] = &[
    ("plain", None),
    ("lost", Some(Fault::EffectThenReset)),
    ("reset", Some(Fault::ResetBeforeEffect)),
    ("pending", Some(Fault::Pending)),
    ("refused", None),
];

pub const SCENES: [Scene; 9] = [
    Scene { name: "mixed", cast: Cast::Prepared(MIXED), drive: Drive::Nothing, choose: Choose::All },
    Scene {
        name: "answer lost",
        cast: Cast::Gifts(&[("a", Some(Fault::EffectThenReset)), ("b", Some(Fault::EffectThenReset))]),
        drive: Drive::Nothing,
        choose: Choose::First,
    },
    Scene {
        name: "late landing",
        cast: Cast::Gifts(&[("a", Some(Fault::LateLanding)), ("b", Some(Fault::LateLanding))]),
        drive: Drive::Nothing,
        choose: Choose::First,
    },
    Scene {
        name: "throttled",
        cast: Cast::Gifts(&[("a", Some(Fault::ThrottleSeconds))]),
        drive: Drive::Nothing,
        choose: Choose::Only(&["lane_close.before", "lane_close.after"]),
    },
    Scene {
        name: "slots missed",
        cast: Cast::Gifts(&[("a", None), ("b", None)]),
        drive: Drive::MissTheSlots,
        choose: Choose::Only(&["hand_back.before", "hand_back.after"]),
    },
    Scene {
        name: "told to stop",
        cast: Cast::Gifts(&[("a", None), ("b", None), ("c", None)]),
        drive: Drive::Terminate,
        choose: Choose::Only(&["sign_off.before", "sign_off.after"]),
    },
    Scene {
        name: "stray claim",
        cast: Cast::Gifts(&[("a", None)]),
        drive: Drive::StrayClaim,
        choose: Choose::Only(&["rescue_lost.after"]),
    },
    Scene {
        name: "batch",
        cast: Cast::Batch(3),
        drive: Drive::Nothing,
        choose: Choose::Only(&[
            "register.before",
            "register.in_transaction",
            "announce.before",
            "announce.in_transaction",
            "local.before_commit",
            "local.after",
        ]),
    },
    Scene {
        name: "failover",
        cast: Cast::Prepared(MIXED),
        drive: Drive::Failover,
        choose: Choose::Only(&["see_server.before_commit", "see_server.after"]),
    },
];

pub const IN_FLIGHT: Scene = Scene {
    name: "in flight",
    cast: Cast::Gifts(&[("a", Some(Fault::EffectThenHang))]),
    drive: Drive::KillInFlight,
    choose: Choose::Only(&[]),
};

/// The engine's own points, which gift issuance does not reach.
pub const UNWINDING: Scene = Scene {
    name: "unwinding",
    cast: Cast::Probes,
    drive: Drive::Nothing,
    choose: Choose::Only(&["unwind.before", "unwind.after"]),
};

pub const MAILING: Scene = Scene {
    name: "mailing",
    cast: Cast::Mails(&[("plain", None), ("lost", Some(Fault::EffectThenReset))]),
    drive: Drive::Nothing,
    choose: Choose::Only(&["prepare_mail.before", "prepare_mail.after", "send_mail.before", "send_mail.after"]),
};

pub const fn category(provider: Provider) -> &'static str {
    match provider {
        Provider::AmazonIncentives => "amazon",
        Provider::GiftOnDemand => "digital",
        Provider::TangoCard => "prepaid",
    }
}

fn trade_of(provider: Provider, grant: &str) -> String {
    let prefix = match provider {
        Provider::AmazonIncentives => "Noshi",
        Provider::GiftOnDemand => "G",
        Provider::TangoCard => "T",
    };
    trade_id(prefix, grant, 0)
}

async fn ask_for(fleet: &Fleet, provider: Provider, gifts: &[(&str, Option<Fault>)]) {
    for (grant, _) in gifts {
        let amount = if *grant == "refused" { TOO_MUCH } else { 500 };
        fleet.gift(grant, category(provider), amount).await;
    }
}

#[derive(Debug)]
/// A database and a ledger in the middle of things, to be copied for each run.
pub struct Prepared {
    database: String,
    ledger: PathBuf,
    _dir: TempDir,
}

const TAKE_BACK: &str =
    "select noshi.ask(id, step, 'cancel', 'not wanted') from noshi.job where key = 'returned' and status = 'completed'";

const SILENT_FOR_LONG: &str = "with w as (update noshi.worker set seen_at = seen_at - interval '1 hour' where id = $1)
update noshi.server_seen set seen_at = seen_at - interval '1 hour'";

/// A gift was delivered and is to be taken back; another's first worker fell silent; the rest are new.
pub async fn prepare(provider: Provider) -> Prepared {
    let db = database().await;
    let name = db.name.clone();
    let fleet = fleet_from(db, tempfile::tempdir().expect("a directory"), Terms::default()).await;
    if provider != Provider::GiftOnDemand {
        fleet.gift("returned", category(provider), 500).await;
        let worker = fleet.worker("before", &[], &[]);
        fleet.at_rest(Duration::from_secs(30)).await.expect("a delivered gift");
        assert!(worker.stop().await.success());
        let taken_back = sqlx::query(TAKE_BACK).execute(&fleet.pool).await.expect("an act");
        assert_eq!(taken_back.rows_affected(), 1, "the gift was not delivered");
    }
    fleet.gift("orphan", category(provider), 500).await;
    let ghost = db::queue::workers::register(&fleet.pool, "ghost").await.expect("a worker");
    let caught = db::queue::claim::claim(&fleet.pool, ghost, "", 1, false).await.expect("a claim");
    assert_eq!(caught.jobs.len(), 1);
    sqlx::query(SILENT_FOR_LONG).bind(ghost).execute(&fleet.pool).await.expect("a silent worker");
    let Cast::Prepared(gifts) = SCENES[0].cast else { unreachable!("the first scene is prepared") };
    ask_for(&fleet, provider, gifts).await;
    let dir = tempfile::tempdir().expect("a directory");
    let ledger = dir.path().join("ledger.jsonl");
    fs::copy(fleet.ledger(), &ledger).expect("a copy of the ledger");
    fleet.pool.close().await;
    Prepared { database: name, ledger, _dir: dir }
}

/// A fleet at the scene's beginning, and its database's name.
pub async fn set(scene: &Scene, provider: Provider, prepared: &Prepared) -> (Fleet, String) {
    let call_timeout = Duration::from_millis(if scene.drive == Drive::KillInFlight { 5000 } else { 700 });
    let mails = matches!(scene.cast, Cast::Mails(_));
    // The API would be counted among the living: it is a connection too.
    let terms = Terms { call_timeout, mails, api: false, ..Terms::default() };
    let dir = tempfile::tempdir().expect("a directory");
    let db = match scene.cast {
        Cast::Prepared(_) => {
            fs::copy(&prepared.ledger, dir.path().join("ledger.jsonl")).expect("a copy of the ledger");
            copy_of(&prepared.database).await
        }
        Cast::Gifts(_) | Cast::Probes | Cast::Mails(_) | Cast::Batch(_) | Cast::Stores | Cast::Points(_) => {
            database().await
        }
    };
    let name = db.name.clone();
    let fleet = fleet_from(db, dir, terms).await;
    match scene.cast {
        Cast::Gifts(gifts) => {
            script(&fleet, provider, gifts);
            if scene.drive != Drive::StrayClaim {
                ask_for(&fleet, provider, gifts).await;
            }
        }
        Cast::Prepared(gifts) => script(&fleet, provider, gifts),
        Cast::Mails(mails) => {
            for (reference, fault) in mails {
                let job = fleet.mail(reference, &format!("{reference}@example.jp")).await;
                if let Some(fault) = fault {
                    fleet.meets(job, *fault, 1);
                }
            }
        }
        Cast::Batch(rows) => released(&fleet.pool, rows, category(provider)).await,
        Cast::Stores => super::stores::set(&fleet).await,
        Cast::Points(gift) => super::exchanges::set(&fleet, gift).await,
        Cast::Probes => {
            db::queue::lanes::declare(&fleet.pool, "probe", &[]).await.expect("a lane");
            for id in ["a", "b"] {
                probe(&fleet.pool, json!({"id": id, "steps": 2, "lane": "probe", "tally": "name"})).await;
            }
        }
    }
    if scene.drive == Drive::Failover {
        let before = "update noshi.server_seen set server = 'another', timeline = '00000000'";
        sqlx::query(before).execute(&fleet.pool).await.expect("another server");
    }
    (fleet, name)
}

fn script(fleet: &Fleet, provider: Provider, gifts: &[(&str, Option<Fault>)]) {
    for (grant, fault) in gifts {
        let Some(fault) = fault.filter(|fault| fault.can_meet(provider, Op::Issue)) else { continue };
        let trade = Some(trade_of(provider, grant));
        let script = Command::Script {
            provider: provider.into(),
            op: Some(Op::Issue.into()),
            trade,
            fault,
            times: 1,
            seconds: Some(1),
        };
        fleet.control().apply(script).expect("a scripted fault");
    }
}

// The claim is committed with the job: no other claim can come before it.
const STRAY: &str = "with j as (
    update noshi.job set status = 'running', worker = $1, lease = lease + 1 where key = 'a' returning id, lease)
insert into noshi.job_event (job, event, lease, step, worker, was, became) select id, 'claimed', lease, 0, $1, 'new', 'new' from j";

/// Claims a new gift in the name of the first worker, which does not hear of it.
pub async fn stray_claim(fleet: &Fleet, provider: Provider, worker: i64) {
    let mut transaction = fleet.pool.begin().await.expect("a transaction");
    let args = json!({"grant": "a", "user": "u1", "category": category(provider), "value": {"amount": 500, "currency": "JPY"}});
    sqlx::query("select noshi.enqueue('gift_issuance', 'a', $1)")
        .bind(args)
        .execute(&mut *transaction)
        .await
        .expect("an enqueued gift");
    sqlx::query(STRAY).bind(worker).execute(&mut *transaction).await.expect("a claim");
    transaction.commit().await.expect("both or neither");
}

/// Whether every job came to the end that it should have. `deaths` is how many workers died.
pub async fn ends(pool: &PgPool, provider: Provider, scene: &Scene, deaths: usize) -> Result<(), String> {
    let jobs: Vec<(String, String, String, Option<String>)> =
        sqlx::query_as("select key, status::text, at, code from noshi.job order by key")
            .fetch_all(pool)
            .await
            .map_err(|error| format!("the jobs cannot be read: {error}"))?;
    if scene.cast == Cast::Probes {
        let mut ends: Vec<&str> = jobs.iter().map(|(_, status, ..)| status.as_str()).collect();
        ends.sort_unstable();
        return if ends == ["completed", "failed"] { Ok(()) } else { Err(format!("the probes ended as {ends:?}")) };
    }
    let named = match scene.cast {
        Cast::Gifts(named) | Cast::Mails(named) => named.len(),
        Cast::Prepared(gifts) => gifts.len() + 1 + usize::from(provider != Provider::GiftOnDemand),
        Cast::Probes | Cast::Stores | Cast::Points(_) => 2,
        // Each grant's issuance, and the batch's own job.
        Cast::Batch(rows) => usize::try_from(rows).unwrap_or_default() + 1,
    };
    if jobs.len() != named {
        return Err(format!("{} jobs instead of {named}", jobs.len()));
    }
    for (key, status, at, code) in jobs {
        if !is_an_end(provider, &key, &status, code.as_deref(), deaths) {
            return Err(format!("`{key}` ended as {status} at {at} ({})", code.unwrap_or_default()));
        }
    }
    Ok(())
}

fn is_an_end(provider: Provider, key: &str, status: &str, code: Option<&str>, deaths: usize) -> bool {
    let inquiry_only = provider == Provider::GiftOnDemand;
    match (key, status, code) {
        ("returned", "needs_operator", Some("gift_void")) => true,
        ("refused", "failed", Some("gift_refused")) => true,
        // A refusal of the second call does not tell what became of the first.
        ("refused", "needs_operator", Some("doubt_unresolved")) => deaths > 0 && !inquiry_only,
        ("refused", "needs_operator", Some("not_found_in_doubt")) => deaths > 0 && inquiry_only,
        ("returned" | "refused", ..) => false,
        (_, "completed", None) => true,
        // Sent as often as it may be: one answer was lost, and one worker.
        ("gift_granted:1:lost", "needs_operator", Some("mail_unresolved")) => deaths > 0,
        // Two workers died in a send, each of which may have gone out: the template allows no third, and a person is asked.
        ("gift_granted:1:plain", "needs_operator", Some("mail_unresolved")) => deaths > 1,
        // The call may never have been sent, and nobody can know.
        ("reset", "needs_operator", Some("not_found_in_doubt")) => inquiry_only,
        (_, "needs_operator", Some("not_found_in_doubt")) => inquiry_only && deaths > 0,
        // Its first worker had died before.
        ("orphan", "needs_operator", Some("poison")) => deaths > 1,
        _ => false,
    }
}

/// Lets go of what a run used. Its files stay if it failed.
pub async fn strike(fleet: Fleet, database: &str) {
    fleet.pool.close().await;
    drop(fleet);
    support::drop_database(database).await;
}
