//! The world of an effect: its contract, and the calls that it declares.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use noshi_jobs::{
    effect::{Args, Cancel, Inquire, Kept, Perform, Ready, Sealed, World},
    machine::Call,
};
use secrecy::{ExposeSecret, SecretString};

use crate::{
    basics::chaos::crash_point,
    engine::registry::Context,
    partners::{
        Gate,
        effects::{Client, Clients, Effects, Means, Said},
        http::Reply,
    },
    telemetry::{
        metrics::call,
        outcomes::{Answer, CallOutcome},
    },
    vault::{SealedAt, Vault},
};

/// Where a 429 comes without a Retry-After.
const THROTTLED: Duration = Duration::from_secs(5);

/// What one step of an effect meets. Where the contract is gone nothing is sent, and the job waits for its return.
pub struct EffectWorld {
    clients: Clients,
    vault: Option<Arc<Vault>>,
    gate: Gate,
}

impl EffectWorld {
    pub fn new(cx: &Context<'_>, vault: Option<Arc<Vault>>) -> EffectWorld {
        EffectWorld { clients: Arc::clone(cx.settings::<Effects>().clients()), vault, gate: Gate::of(cx) }
    }

    fn client(&self, args: &Args) -> Option<&Client> {
        self.clients.get(&args.effect)
    }

    /// What the contract wants kept of an answer; `None`: the answer lacks it, or it cannot be sealed.
    fn kept(&self, client: &Client, id: &str, reply: &Reply) -> Option<Kept> {
        let mut kept = Kept { plain: BTreeMap::new(), sealed: BTreeMap::new() };
        for (name, value) in client.kept(reply)? {
            if client.contract.keep[&name].sealed {
                kept.sealed.insert(name, seal(self.vault.as_deref()?, client.label, id, &value));
            } else {
                kept.plain.insert(name, value.expose_secret().to_owned());
            }
        }
        Some(kept)
    }
}

fn seal(vault: &Vault, label: &str, id: &str, value: &SecretString) -> Sealed {
    let sealed = vault.seal(&SealedAt { grant: id, provider: label, column: "effect" }, value);
    Sealed { key_id: sealed.key_id, nonce: hex::encode(sealed.nonce), ciphertext: hex::encode(sealed.ciphertext) }
}

impl World for EffectWorld {
    fn read_contract<'a>(&'a self, args: &'a Args, run: u16) -> Call<'a, Ready> {
        Box::pin(async move {
            let Some(client) = self.client(args) else { return Ready::NoContract };
            match client.misfit(&args.input) {
                Some(why) => Ready::Misfit(why),
                None if client.seals() && self.vault.is_none() => Ready::NoKey,
                None => Ready::Deal(client.contract.deal(run)),
            }
        })
    }

    fn perform<'a>(&'a self, args: &'a Args, id: &'a str) -> Call<'a, Perform> {
        Box::pin(async move {
            let Some(client) = self.client(args) else { return Perform::NotSent };
            crash_point("perform.before");
            let asked = async { self.performed(client, args, id).await };
            let answer = call(client.label, "perform", asked).await;
            crash_point("perform.after");
            answer
        })
    }

    fn inquire<'a>(&'a self, args: &'a Args, id: &'a str) -> Call<'a, Inquire> {
        Box::pin(async move {
            let Some(client) = self.client(args) else { return Inquire::NoAnswer };
            crash_point("inquire.before");
            let asked = async { self.inquired(client, args, id).await };
            let answer = call(client.label, "inquire", asked).await;
            crash_point("inquire.after");
            answer
        })
    }

    fn cancel<'a>(&'a self, args: &'a Args, id: &'a str) -> Call<'a, Cancel> {
        Box::pin(async move {
            let Some(client) = self.client(args) else { return Cancel::NotSent };
            crash_point("cancel.before");
            let asked = async { cancelled(client.ask("cancel", id, &args.input, &self.gate).await) };
            let answer = call(client.label, "cancel", asked).await;
            crash_point("cancel.after");
            answer
        })
    }
}

impl EffectWorld {
    async fn performed(&self, client: &Client, args: &Args, id: &str) -> Perform {
        match client.ask("perform", id, &args.input, &self.gate).await {
            Said::Means(Means::Done, reply) => self.kept(client, id, &reply).map_or(Perform::Unknown, Perform::Done),
            Said::Means(Means::Refused, reply) => Perform::Refused(reply.status.as_u16().to_string()),
            Said::Means(Means::Accepted, _) => Perform::Accepted,
            Said::Means(Means::Throttled, reply) => Perform::Throttled(reply.wait_or(THROTTLED)),
            Said::Means(Means::Credentials, _) => Perform::BadCredentials,
            Said::NotSent => Perform::NotSent,
            Said::Means(Means::Happened | Means::DidNotHappen | Means::NotYet | Means::Unknown, _) | Said::Unknown => {
                Perform::Unknown
            }
        }
    }

    async fn inquired(&self, client: &Client, args: &Args, id: &str) -> Inquire {
        match client.ask("inquire", id, &args.input, &self.gate).await {
            Said::Means(Means::Happened, reply) => {
                self.kept(client, id, &reply).map_or(Inquire::NoAnswer, Inquire::Happened)
            }
            Said::Means(Means::DidNotHappen, _) => Inquire::DidNotHappen,
            Said::Means(Means::NotYet, _) => Inquire::NotYet,
            Said::Means(Means::Throttled, reply) => Inquire::Throttled(reply.wait_or(THROTTLED)),
            Said::Means(Means::Credentials, _) => Inquire::BadCredentials,
            Said::Means(Means::Done | Means::Refused | Means::Accepted | Means::Unknown, _)
            | Said::NotSent
            | Said::Unknown => Inquire::NoAnswer,
        }
    }
}

fn cancelled(said: Said) -> Cancel {
    match said {
        Said::Means(Means::Done, _) => Cancel::Done,
        Said::Means(Means::Refused, _) => Cancel::Refused,
        Said::Means(Means::Throttled, reply) => Cancel::Throttled(reply.wait_or(THROTTLED)),
        Said::Means(Means::Credentials, _) => Cancel::BadCredentials,
        Said::NotSent => Cancel::NotSent,
        Said::Means(Means::Accepted | Means::Happened | Means::DidNotHappen | Means::NotYet | Means::Unknown, _)
        | Said::Unknown => Cancel::Unknown,
    }
}

impl Answer for Perform {
    fn outcome(&self) -> CallOutcome {
        match self {
            Perform::Done(_) => CallOutcome::Ok,
            Perform::Refused(_) => CallOutcome::Refused,
            Perform::Accepted => CallOutcome::Known,
            Perform::Throttled(_) => CallOutcome::Throttled,
            Perform::BadCredentials => CallOutcome::BadCredentials,
            Perform::NotSent => CallOutcome::NotSent,
            Perform::Unknown => CallOutcome::Unknown,
        }
    }
}

impl Answer for Inquire {
    fn outcome(&self) -> CallOutcome {
        match self {
            Inquire::Happened(_) => CallOutcome::Ok,
            Inquire::DidNotHappen => CallOutcome::NotFound,
            Inquire::NotYet => CallOutcome::Known,
            Inquire::Throttled(_) => CallOutcome::Throttled,
            Inquire::BadCredentials => CallOutcome::BadCredentials,
            Inquire::NoAnswer => CallOutcome::Unknown,
        }
    }
}

impl Answer for Cancel {
    fn outcome(&self) -> CallOutcome {
        match self {
            Cancel::Done => CallOutcome::Ok,
            Cancel::Refused => CallOutcome::Refused,
            Cancel::Throttled(_) => CallOutcome::Throttled,
            Cancel::BadCredentials => CallOutcome::BadCredentials,
            Cancel::NotSent => CallOutcome::NotSent,
            Cancel::Unknown => CallOutcome::Unknown,
        }
    }
}
