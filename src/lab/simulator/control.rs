//! The strings behind the scene: script faults, set modes, move money. In process through [`Control`], from another
//! process through `POST /_control` (only if the simulator listens on a loopback address), one JSON object a call:
//!
//! ```json
//! {"do": "script", "provider": "gift_on_demand", "op": "issue", "fault": "effect_then_reset", "times": 2}
//! {"do": "script", "provider": "tango_card", "fault": "throttle_seconds", "seconds": 5, "trade": "T1"}
//! {"do": "mode", "provider": "amazon_incentives", "fault": "error_before_effect"}
//! {"do": "mode", "provider": "amazon_incentives", "fault": null}
//! {"do": "clear"}
//! {"do": "fund", "provider": "tango_card", "balance": 0}
//! {"do": "block", "provider": "tango_card", "blocked": true}
//! {"do": "sending", "state": "paused"}
//! {"do": "publishing", "held": true, "copies": 2, "delay_ms": 100}
//! {"do": "platform", "scene": "deletes", "answer": "failing"}
//! ```
//! `op` left out means every kind of call; `trade` left out means every trade; `times` is 1 unless given.
//! The answer is 200 `{"ok": true}`, or 400 `{"error": "…"}`.

use std::sync::Arc;

use anyhow::ensure;
use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    Op, Provider,
    config::Publishing,
    context::Inner,
    faults::{Fault, Mode, Script},
    ledger::{Event, Line},
    lock::lock,
    organization_platform,
    partner::{Errand, Partner},
    ses,
};

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum Command {
    /// The next `times` calls that fit meet the fault.
    Script {
        provider: Partner,
        op: Option<Errand>,
        trade: Option<String>,
        fault: Fault,
        #[serde(default = "once")]
        times: u32,
        /// For throttles: how long.
        seconds: Option<u64>,
    },
    /// From now on every call that fits meets the fault; null ends the provider's modes.
    Mode { provider: Partner, op: Option<Errand>, fault: Option<Fault>, seconds: Option<u64> },
    /// Ends all scripts, modes, blocks and throttles.
    Clear {},
    /// Sets the balance, in yen.
    Fund { provider: Provider, balance: i64 },
    /// Stops the account: F300, E302, 403.
    Block { provider: Provider, blocked: bool },
    /// What the organisation platform does from now on.
    Platform(organization_platform::Scene),
    /// Whether SES takes messages.
    Sending { state: ses::state::Sending },
    /// How events are published.
    Publishing(Publishing),
}

fn once() -> u32 {
    1
}

/// A handle on a running simulator; clones are the same handle.
#[derive(Clone)]
pub struct Control {
    inner: Arc<Inner>,
}

impl Control {
    pub(super) fn new(inner: Arc<Inner>) -> Control {
        Control { inner }
    }

    /// The next `times` calls of this kind meet `fault`.
    pub fn script(
        &self,
        partner: impl Into<Partner>,
        errand: impl Into<Errand>,
        fault: Fault,
        times: u32,
    ) -> anyhow::Result<()> {
        let (provider, op) = (partner.into(), Some(errand.into()));
        self.apply(Command::Script { provider, op, trade: None, fault, times, seconds: None })
    }

    /// Every call of this provider that can meet `fault` does, until `None`.
    pub fn mode(&self, partner: impl Into<Partner>, fault: Option<Fault>) -> anyhow::Result<()> {
        self.apply(Command::Mode { provider: partner.into(), op: None, fault, seconds: None })
    }

    pub fn clear(&self) -> anyhow::Result<()> {
        self.apply(Command::Clear {})
    }

    /// Sets the balance, in yen.
    pub fn fund(&self, provider: Provider, balance: i64) -> anyhow::Result<()> {
        self.apply(Command::Fund { provider, balance })
    }

    pub fn block(&self, provider: Provider, blocked: bool) -> anyhow::Result<()> {
        self.apply(Command::Block { provider, blocked })
    }

    /// Yen on the account.
    pub fn balance(&self, provider: Provider) -> i64 {
        lock(&self.inner.world).shops.of(provider).balance
    }

    /// Carries out any command. A fault that such calls can never meet is an error.
    pub fn apply(&self, command: Command) -> anyhow::Result<()> {
        let mut world = lock(&self.inner.world);
        match command {
            Command::Script { provider, op, trade, fault, times, seconds } => {
                ensure!(times > 0, "times must be at least 1");
                check(provider, op, fault)?;
                world.faults.scripts.push(Script { partner: provider, errand: op, trade, fault, seconds, left: times });
            }
            Command::Mode { provider, op, fault: Some(fault), seconds } => {
                check(provider, op, fault)?;
                world.faults.modes.retain(|mode| (mode.partner, mode.errand) != (provider, op));
                world.faults.modes.push(Mode { partner: provider, errand: op, fault, seconds });
            }
            Command::Mode { provider, op, fault: None, .. } => {
                world.faults.modes.retain(|mode| mode.partner != provider || (op.is_some() && mode.errand != op));
            }
            Command::Clear {} => {
                world.faults.scripts.clear();
                world.faults.modes.clear();
                for provider in Provider::ALL {
                    world.shops.of_mut(provider).blocked = false;
                }
                for gate in world.gates.values_mut() {
                    gate.closed_until = 0;
                }
                world.platform.clear();
                world.ses.sending = ses::state::Sending::default();
                self.inner.publishing.send_replace(Publishing::default());
            }
            Command::Fund { provider, balance } => {
                world.shops.of_mut(provider).balance = balance;
                self.inner.ledger.append(Line {
                    event: Event::Funded,
                    provider: Some(provider.into()),
                    op: Some(Op::Funds.into()),
                    balance: Some(balance),
                    ..Line::default()
                });
            }
            Command::Block { provider, blocked } => world.shops.of_mut(provider).blocked = blocked,
            Command::Platform(scene) => organization_platform::simulate(&self.inner, &mut world, scene),
            Command::Sending { state } => world.ses.sending = state,
            Command::Publishing(publishing) => _ = self.inner.publishing.send_replace(publishing),
        }
        Ok(())
    }
}

fn check(partner: Partner, errand: Option<Errand>, fault: Fault) -> anyhow::Result<()> {
    let wanted = Errand::ALL.into_iter().filter(|one| errand.is_none_or(|errand| errand == *one));
    let possible = wanted.into_iter().any(|one| fault.can_meet(partner, one));
    let errand = errand.map_or("calls", Errand::name);
    ensure!(possible, "{} {errand} never meet {}", partner.name(), fault.name());
    Ok(())
}

pub async fn over_http(State(inner): State<Arc<Inner>>, body: Bytes) -> (StatusCode, Json<Value>) {
    let done = serde_json::from_slice(&body)
        .map_err(anyhow::Error::from)
        .and_then(|command| Control::new(Arc::clone(&inner)).apply(command));
    if let Err(error) = done {
        return (StatusCode::BAD_REQUEST, Json(json!({"error": format!("{error:#}")})));
    }
    match inner.ledger.flushed().await {
        Ok(()) => (StatusCode::OK, Json(json!({"ok": true}))),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, Json(json!({"error": format!("{error:#}")}))),
    }
}
