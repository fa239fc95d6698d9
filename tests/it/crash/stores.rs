//! Stores whose workers are killed: plain, with an answer that is lost or late, taken back, and looked for.

use serde_json::json;

use super::{
    points::Choose,
    scene::{Cast, Drive, Scene},
};
use crate::fleet::Fleet;
use noshi::{
    db::PgPool,
    lab::simulator::{Command, Errand, Fault, Partner},
};

const P: Partner = Partner::OrganizationPlatform;
const REQUEST: &str = "batch-1";
/// The platform refuses to assign services to this organisation, so its shop is deleted again.
const REFUSED: &str = "NOSERVICE-1";
const ROWS: [(&str, &str, Option<Fault>); 5] = [
    ("O-1", "plain", None),
    ("O-1", "lost", Some(Fault::EffectThenReset)),
    ("O-1", "late", Some(Fault::LateLanding)),
    (REFUSED, "back", None),
    ("O-1", "sought", None),
];

pub const STORES: Scene = Scene {
    name: "stores",
    cast: Cast::Stores,
    drive: Drive::Nothing,
    choose: Choose::Only(&[
        "look_up.before",
        "look_up.after",
        "create_shop.before",
        "create_shop.after",
        "find_shop.before",
        "find_shop.after",
        "assign_service.before",
        "assign_service.after",
        "insert_store.before",
        "insert_store.after",
        "delete_shop.before",
        "delete_shop.after",
    ]),
};

/// The same, killed at every other point as well.
pub const STORES_EVERYWHERE: Scene =
    Scene { name: "stores, everywhere", cast: Cast::Stores, drive: Drive::Nothing, choose: Choose::First };

// What an operator's `inquire` of a job in doubt leads to.
const SEEK: &str = r#"with j as (
    update noshi.job set at = 'finding', lane = 'org-platform', reserved = true, step = step + 1,
        state = jsonb_build_object('at', 'finding', 'not_found', 0, 'attempt', jsonb_build_object('run', 0, 'key', key || '/0'))
    where id = $1 returning id, lease, step)
insert into noshi.job_event (job, event, lease, step, was, became) select id, 'asked', lease, step - 1, 'new', 'finding' from j"#;

pub async fn set(fleet: &Fleet) {
    let scene =
        json!({"do": "platform", "scene": "shop", "organization": "O-1", "public_id": "sought", "name": "他店"});
    let scene: Command = serde_json::from_value(scene).expect("a scene");
    fleet.control().apply(scene).expect("a shop that somebody else made");
    let fails_once = (Errand::DeleteShop, Fault::ErrorBeforeEffect);
    fleet.control().script(P, fails_once.0, fails_once.1, 1).expect("a scripted fault");
    for (organization, public_id, fault) in ROWS {
        if let Some(fault) = fault {
            let trade = Some(format!("{organization}/{public_id}/{REQUEST}/0"));
            let op = Some(Errand::CreateShop);
            let script = Command::Script { provider: P, op, trade, fault, times: 1, seconds: None };
            fleet.control().apply(script).expect("a scripted fault");
        }
        let job = fleet.store(organization, public_id, REQUEST).await;
        if public_id == "sought" {
            let sought = sqlx::query(SEEK).bind(job).execute(&fleet.pool).await.expect("an act");
            assert_eq!(sought.rows_affected(), 1);
        }
    }
}

pub async fn ends(pool: &PgPool) -> Result<(), String> {
    let jobs: Vec<(String, String, String, Option<String>)> = sqlx::query_as(
        "select args ->> 'public_id', status::text, at, code from noshi.job where kind = 'store_creation' order by id",
    )
    .fetch_all(pool)
    .await
    .map_err(|error| format!("the jobs cannot be read: {error}"))?;
    if jobs.len() != ROWS.len() {
        return Err(format!("{} jobs instead of {}", jobs.len(), ROWS.len()));
    }
    for (public_id, status, at, code) in jobs {
        let right = match public_id.as_str() {
            "back" => status == "failed" && code.as_deref() == Some("organization_refused"),
            "sought" => status == "failed" && code.as_deref() == Some("shop_refused"),
            _ => status == "completed" && at == "created",
        };
        if !right {
            return Err(format!("`{public_id}` ended as {status} at {at} ({})", code.unwrap_or_default()));
        }
    }
    Ok(())
}
