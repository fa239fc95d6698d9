//! The world of store creation: our own stores, and the organisation platform's calls.

use std::sync::Arc;

use noshi_jobs::{
    gift_issuance::Sealed,
    machine::Call,
    store_creation::{Args, Assign, Create, Delete, Find, Insert, LANE, LookUp, World},
};

use crate::{
    basics::chaos::crash_point,
    db::{
        self, PgConnection, PgPool,
        domain::stores::{Found, Here},
        local::Local,
        queue::{claim::Claimed, lanes::Budget, slot::Slot},
    },
    engine::lease::LeaseClock,
    partners::{Gate, OrganizationPlatform, OrganizationSettings, organization::NAME},
    telemetry::{
        metrics::call,
        outcomes::{Answer, CallOutcome},
    },
    vault::{Vault, contact::Contact},
};

/// The organisation platform, if the settings name it.
#[derive(Default)]
pub struct Stores {
    platform: Option<OrganizationPlatform>,
    /// Opens addresses and phones.
    vault: Option<Arc<Vault>>,
}

impl Stores {
    pub fn open(settings: &OrganizationSettings, vault: Option<Arc<Vault>>) -> anyhow::Result<Self> {
        Ok(Stores { platform: Some(OrganizationPlatform::open(settings)?), vault })
    }

    /// The platform's name and what is asked of it, for the metrics.
    pub fn calls(&self) -> Option<(&'static str, [&'static str; 4])> {
        self.platform.as_ref().map(|_| (NAME, ["create_shop", "find_shop", "assign_service", "delete_shop"]))
    }

    /// Makes sure that the platform's lane exists with its budget.
    pub async fn declare_lanes(&self, pool: &PgPool) -> Result<(), sqlx::Error> {
        let Some(platform) = &self.platform else { return Ok(()) };
        let budget = platform.budget();
        let paced = Budget { per: budget.window, calls: budget.calls, burst: 1, jitter: budget.jitter };
        db::queue::lanes::declare(pool, LANE, &[paced]).await
    }
}

/// What one claimed store meets outside.
pub struct StoreWorld {
    stores: Arc<Stores>,
    pool: PgPool,
    gate: Gate,
    local: Local,
    job: i64,
    worker: i64,
}

impl StoreWorld {
    pub fn new(
        stores: &Arc<Stores>,
        pool: &PgPool,
        worker: i64,
        clock: &Arc<LeaseClock>,
        claimed: &Claimed,
        local: &Local,
    ) -> Self {
        let (clock, slot) = (Arc::clone(clock), claimed.slot.clone());
        let gate = Gate::new(move || clock.may_call()).telling(&claimed.told);
        StoreWorld {
            stores: Arc::clone(stores),
            pool: pool.clone(),
            // The address is read between the claim and the call.
            gate: gate.beginning(move || slot.as_ref().is_none_or(Slot::holds)),
            local: local.clone(),
            job: claimed.id,
            worker,
        }
    }

    /// A contact among those that are kept; `None` where it does not open, or is not kept.
    fn opened(&self, kept: &[(String, Sealed)], public_id: &str, subject: &str) -> Option<Contact> {
        let opened = match (kept.iter().find(|(of, _)| of == subject), &self.stores.vault) {
            (Some((_, sealed)), Some(vault)) => Contact::open(vault, public_id, sealed),
            (Some(_), None) => Err(anyhow::anyhow!("this worker has no `vault_key_file`")),
            (None, _) => Err(anyhow::anyhow!("no contact is kept under {subject}")),
        };
        let told = |error| {
            tracing::error!(
                job = self.job,
                error = format!("{error:#}"),
                "an address or phone does not open; its store waits"
            );
        };
        opened.map_err(told).ok()
    }

    /// The address and phone that were asked for.
    fn wanted(&self, kept: &[(String, Sealed)], args: &Args) -> Option<Contact> {
        match &args.contact {
            Some(subject) => self.opened(kept, &args.public_id, subject),
            None => Some(Contact::of(args.address.clone(), args.phone.clone())),
        }
    }

    async fn look(&self, connection: &mut PgConnection, args: &Args) -> Result<LookUp, sqlx::Error> {
        let here = match db::domain::stores::look_up(connection, self.job, args).await? {
            Found::Occupied => return Ok(LookUp::Occupied),
            Found::Paused => return Ok(LookUp::Paused),
            Found::Nothing => None,
            Found::Store(here) => Some(here),
        };
        let subject = here.as_ref().and_then(|here| here.contact.as_deref());
        let kept = match args.contact.is_some() || subject.is_some() {
            true => db::domain::stores::contacts(connection, self.job, self.worker).await?,
            false => vec![],
        };
        let Some(wanted) = self.wanted(&kept, args) else { return Ok(LookUp::Closed) };
        let Some(here) = &here else { return Ok(LookUp::Free) };
        let there = match subject {
            Some(subject) => self.opened(&kept, &args.public_id, subject),
            None => Some(Contact::of(here.address.clone(), here.phone.clone())),
        };
        Ok(there.map_or(LookUp::Closed, |there| compare(args, &wanted, here, &there)))
    }

    /// The arguments with the address and phone in plain, for the call alone.
    async fn whole(&self, args: &Args) -> Option<Args> {
        if args.contact.is_none() {
            return Some(args.clone());
        }
        let kept = async {
            let mut connection = self.pool.acquire().await?;
            db::domain::stores::contacts(&mut connection, self.job, self.worker).await
        };
        let away =
            |error| tracing::warn!(job = self.job, %error, "the database did not answer before a call; not sent");
        let kept = kept.await.map_err(away).ok()?;
        let Contact { address, phone } = self.wanted(&kept, args)?;
        Some(Args { address, phone, ..args.clone() })
    }
}

/// Which fields differ, by name alone.
fn compare(args: &Args, wanted: &Contact, here: &Here, there: &Contact) -> LookUp {
    let differing = [
        ("organization", args.organization != here.organization),
        ("name", args.name != here.name),
        ("address", wanted.address != there.address),
        ("phone", wanted.phone != there.phone),
    ];
    let names: Vec<&str> = differing.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect();
    if names.is_empty() { LookUp::Same } else { LookUp::Different(names.join(", ")) }
}

/// Where the platform was taken out of the settings nothing is sent, and the job waits for its return.
impl World for StoreWorld {
    fn look_up<'a>(&'a self, args: &'a Args) -> Call<'a, LookUp> {
        Box::pin(async move {
            crash_point("look_up.before");
            let found = self.local.run(async |connection| self.look(connection, args).await).await;
            crash_point("look_up.after");
            found
        })
    }

    fn create_shop<'a>(&'a self, args: &'a Args, key: &'a str) -> Call<'a, Create> {
        Box::pin(async move {
            let Some(platform) = &self.stores.platform else { return Create::NotSent };
            let Some(args) = self.whole(args).await else { return Create::NotSent };
            crash_point("create_shop.before");
            let answer = call(NAME, "create_shop", platform.create_shop(&args, key, &self.gate)).await;
            crash_point("create_shop.after");
            answer
        })
    }

    fn find_shop<'a>(&'a self, args: &'a Args, key: &'a str) -> Call<'a, Find> {
        Box::pin(async move {
            let Some(platform) = &self.stores.platform else { return Find::NoAnswer };
            crash_point("find_shop.before");
            let answer = call(NAME, "find_shop", platform.find_shop(args, key, &self.gate)).await;
            crash_point("find_shop.after");
            answer
        })
    }

    fn assign_service<'a>(&'a self, args: &'a Args) -> Call<'a, Assign> {
        Box::pin(async move {
            let Some(platform) = &self.stores.platform else { return Assign::NotSent };
            crash_point("assign_service.before");
            let answer = call(NAME, "assign_service", platform.assign_service(args, &self.gate)).await;
            crash_point("assign_service.after");
            answer
        })
    }

    fn insert_store<'a>(&'a self, args: &'a Args, shop: &'a str) -> Call<'a, Insert> {
        Box::pin(async move {
            crash_point("insert_store.before");
            let inserted = self
                .local
                .run(async |connection| db::domain::stores::insert(connection, self.job, args, shop).await)
                .await;
            crash_point("insert_store.after");
            inserted
        })
    }

    fn delete_shop<'a>(&'a self, shop: &'a str) -> Call<'a, Delete> {
        Box::pin(async move {
            let Some(platform) = &self.stores.platform else { return Delete::NotSent };
            crash_point("delete_shop.before");
            let answer = call(NAME, "delete_shop", platform.delete_shop(shop, &self.gate)).await;
            crash_point("delete_shop.after");
            answer
        })
    }
}

impl Answer for Create {
    fn outcome(&self) -> CallOutcome {
        match self {
            Create::Created(_) => CallOutcome::Ok,
            Create::Refused(_) | Create::OrganizationRefused => CallOutcome::Refused,
            Create::KeyConflict => CallOutcome::Conflict,
            Create::Throttled(_) => CallOutcome::Throttled,
            Create::NotSent => CallOutcome::NotSent,
            Create::Unknown => CallOutcome::Unknown,
            Create::BadCredentials => CallOutcome::BadCredentials,
        }
    }
}

impl Answer for Find {
    fn outcome(&self) -> CallOutcome {
        match self {
            Find::Ours(_) => CallOutcome::Ok,
            Find::Others => CallOutcome::Known,
            Find::NotFound => CallOutcome::NotFound,
            Find::Throttled(_) => CallOutcome::Throttled,
            Find::NoAnswer => CallOutcome::Unknown,
            Find::BadCredentials => CallOutcome::BadCredentials,
        }
    }
}

impl Answer for Assign {
    fn outcome(&self) -> CallOutcome {
        match self {
            Assign::Assigned => CallOutcome::Ok,
            Assign::AlreadyAssigned => CallOutcome::Known,
            Assign::OrganizationRefused => CallOutcome::Refused,
            Assign::Throttled(_) => CallOutcome::Throttled,
            Assign::NotSent => CallOutcome::NotSent,
            Assign::Unknown => CallOutcome::Unknown,
            Assign::BadCredentials => CallOutcome::BadCredentials,
        }
    }
}

impl Answer for Delete {
    fn outcome(&self) -> CallOutcome {
        match self {
            Delete::Deleted => CallOutcome::Ok,
            Delete::NotFound => CallOutcome::NotFound,
            Delete::Refused => CallOutcome::Refused,
            Delete::Throttled(_) => CallOutcome::Throttled,
            Delete::NotSent => CallOutcome::NotSent,
            Delete::Unknown => CallOutcome::Unknown,
            Delete::BadCredentials => CallOutcome::BadCredentials,
        }
    }
}
