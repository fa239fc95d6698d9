//! `noshi demo --practice`: a small incident to learn on. Ten gifts were bought and their answers lost; the partner's inquiry lags
//! behind and knows nothing of them, so the jobs stopped and ask; and somebody paused the lane. ops/docs/incident.md resolves it.

use std::time::Duration;

use anyhow::ensure;
use noshi_jobs::Kind;
use secrecy::ExposeSecret;
use serde_json::json;

use super::{grants, script};
use crate::{
    db::{
        self, PgPool, Role, enqueue,
        operator::{
            jobs,
            tokens::{self, NewToken},
        },
    },
    intake::FileKind,
    lab::{
        fleet::{
            stage::{self, Manners, Stage},
            workers::Fleet,
        },
        private_postgres::PrivatePostgres,
        simulator::{Command, Fault, Op, Provider},
    },
};

const GRANTS: usize = 30;
const STUCK: usize = 10;
const LANE: &str = "gift/gift_on_demand";
/// How long the partner's inquiry may lag: longer than its contract says.
const LAG: Duration = Duration::from_secs(600);
const PATIENCE: Duration = Duration::from_secs(120);

/// Sets the scene, and waits for ever: whoever practises ends it.
pub async fn run(postgres: &PrivatePostgres, console: bool) -> anyhow::Result<()> {
    let manners = Manners { seed: 1, faults: false, limits: stage::LIMITS, jitter: stage::JITTER, lag: LAG };
    let mut stage = Stage::set(postgres, &manners).await?;
    let mut fleet = Fleet::start(&stage, 1)?;
    let _api = stage.start_api().await?;
    let operator = db::connect(&stage.submitter, Role::Operator, 1).await?;
    crate::basics::terminal::say!("Setting the scene: {GRANTS} grants go well, and then {STUCK} do not.");
    script::submit(&stage, "grants.csv", &grants::csv(GRANTS)?, FileKind::Grants).await?;
    rest(&operator, "bulk_grants", 1).await?;
    rest(&operator, Kind::GiftIssuance.name(), GRANTS).await?;

    let control = stage.simulator.control();
    control.script(Provider::GiftOnDemand, Op::Issue, Fault::EffectThenReset, u32::try_from(STUCK)?)?;
    let lagging = |fault| Command::Mode {
        provider: Provider::GiftOnDemand.into(),
        op: Some(Op::Inquire.into()),
        fault,
        seconds: None,
    };
    control.apply(lagging(Some(Fault::StaleInquiry)))?;
    ask_for_gifts(&stage.url).await?;
    rest(&operator, Kind::GiftIssuance.name(), GRANTS + STUCK).await?;
    db::queue::lanes::pause(&operator, LANE, Some("they say their inquiry lags; nobody buys until we know")).await?;
    // The partner has caught up since.
    control.apply(lagging(None))?;

    crate::basics::terminal::say!(
        "\n{STUCK} gifts are stuck. In another terminal:\n\n  export DATABASE_URL='{}' NOSHI_CONFIG='{}'\n\n\
         and fix it, as ops/docs/incident.md says. Ctrl-C ends it here; nothing is left behind.",
        stage.approver,
        stage.config.display()
    );
    if console {
        open_console(&stage).await?;
    }
    loop {
        fleet.look_after()?;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Each of the two people has a token: what one proposes, the other confirms.
async fn open_console(stage: &Stage) -> anyhow::Result<()> {
    let console = stage.start_console().await?;
    crate::basics::terminal::say!("\nOr in a browser: {console}");
    let owner = db::connect(&stage.url, Role::Login, 1).await?;
    for person in [stage::SUBMITTER, stage::APPROVER] {
        let token = tokens::generate();
        let scopes = ["read", "operate", "approve"].map(str::to_owned);
        let lasts = Duration::from_secs(24 * 3600);
        let new = NewToken { owner: person, scopes: &scopes, lasts, per_second: 100 };
        tokens::create(&owner, &token, &new).await?;
        crate::basics::terminal::say!("  {person}: {}", token.expose_secret());
    }
    Ok(())
}

async fn ask_for_gifts(url: &str) -> anyhow::Result<()> {
    let gift = |n| {
        let grant = format!("spring-{n:02}");
        let args = json!({"grant": &grant, "user": format!("U-{n:04}"), "category": "coffee", "value": {"amount": 500, "currency": "JPY"}});
        (grant, args)
    };
    let gifts: Vec<_> = (1..=STUCK).map(gift).collect();
    let producer = db::connect(url, Role::Producer, 1).await?;
    enqueue::enqueue(&mut *producer.acquire().await?, Kind::GiftIssuance, &gifts, false).await?;
    Ok(())
}

/// Waits until so many jobs of a kind are there and at rest.
async fn rest(pool: &PgPool, kind: &str, jobs: usize) -> anyhow::Result<()> {
    let begun = tokio::time::Instant::now();
    let filter = jobs::Filter { kind: Some(kind.to_owned()), most: 1_000, ..jobs::Filter::default() };
    loop {
        let found = jobs::list(pool, &filter, &[]).await?;
        let open = found.iter().filter(|job| !matches!(job.status.as_str(), "completed" | "failed" | "needs_operator"));
        if found.len() >= jobs && open.count() == 0 {
            return Ok(());
        }
        ensure!(begun.elapsed() < PATIENCE, "the jobs did not come to rest");
        tokio::time::sleep(super::LOOK).await;
    }
}
