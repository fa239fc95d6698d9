//! The world of store creation: our own stores, and the organisation platform's calls.

use std::sync::Arc;

use noshi_jobs::{
    machine::Call,
    store_creation::{Args, Assign, Create, Delete, Find, Insert, LANE, LookUp, World},
};

use crate::{
    basics::chaos::crash_point,
    db::{
        self, PgPool,
        local::Local,
        queue::{claim::Claimed, lanes::Budget},
    },
    engine::lease::LeaseClock,
    partners::{Gate, OrganizationPlatform, OrganizationSettings, organization::NAME},
    telemetry::metrics::call,
};

/// The organisation platform, if the settings name it.
#[derive(Default)]
pub struct Stores {
    platform: Option<OrganizationPlatform>,
}

impl Stores {
    pub fn open(settings: &OrganizationSettings) -> anyhow::Result<Self> {
        Ok(Stores { platform: Some(OrganizationPlatform::open(settings)?) })
    }

    /// The platform's name and what is asked of it, for the figures.
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
    gate: Gate,
    local: Local,
    job: i64,
}

impl StoreWorld {
    pub fn new(stores: &Arc<Stores>, clock: &Arc<LeaseClock>, claimed: &Claimed, local: &Local) -> Self {
        let clock = Arc::clone(clock);
        StoreWorld {
            stores: Arc::clone(stores),
            gate: Gate::new(move || clock.may_call()).telling(&claimed.told),
            local: local.clone(),
            job: claimed.id,
        }
    }
}

/// Where the platform was taken out of the settings nothing is sent, and the job waits for its return.
impl World for StoreWorld {
    fn look_up<'a>(&'a self, args: &'a Args) -> Call<'a, LookUp> {
        Box::pin(async move {
            crash_point("look_up.before");
            let found =
                self.local.run(async |connection| db::domain::stores::look_up(connection, self.job, args).await).await;
            crash_point("look_up.after");
            found
        })
    }

    fn create_shop<'a>(&'a self, args: &'a Args, key: &'a str) -> Call<'a, Create> {
        Box::pin(async move {
            let Some(platform) = &self.stores.platform else { return Create::NotSent };
            crash_point("create_shop.before");
            let answer = call(NAME, "create_shop", platform.create_shop(args, key, &self.gate), name_of_create).await;
            crash_point("create_shop.after");
            answer
        })
    }

    fn find_shop<'a>(&'a self, args: &'a Args, key: &'a str) -> Call<'a, Find> {
        Box::pin(async move {
            let Some(platform) = &self.stores.platform else { return Find::NoAnswer };
            crash_point("find_shop.before");
            let answer = call(NAME, "find_shop", platform.find_shop(args, key, &self.gate), name_of_find).await;
            crash_point("find_shop.after");
            answer
        })
    }

    fn assign_service<'a>(&'a self, args: &'a Args) -> Call<'a, Assign> {
        Box::pin(async move {
            let Some(platform) = &self.stores.platform else { return Assign::NotSent };
            crash_point("assign_service.before");
            let answer = call(NAME, "assign_service", platform.assign_service(args, &self.gate), name_of_assign).await;
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
            let answer = call(NAME, "delete_shop", platform.delete_shop(shop, &self.gate), name_of_delete).await;
            crash_point("delete_shop.after");
            answer
        })
    }
}

const fn name_of_create(answer: &Create) -> &'static str {
    match answer {
        Create::Created(_) => "ok",
        Create::Refused(_) | Create::OrganizationRefused => "refused",
        Create::KeyConflict => "conflict",
        Create::Throttled(_) => "throttled",
        Create::NotSent => "not_sent",
        Create::Unknown => "unknown",
        Create::BadCredentials => "bad_credentials",
    }
}

const fn name_of_find(answer: &Find) -> &'static str {
    match answer {
        Find::Ours(_) => "ok",
        Find::Others => "known",
        Find::NotFound => "not_found",
        Find::Throttled(_) => "throttled",
        Find::NoAnswer => "unknown",
        Find::BadCredentials => "bad_credentials",
    }
}

const fn name_of_assign(answer: &Assign) -> &'static str {
    match answer {
        Assign::Assigned => "ok",
        Assign::AlreadyAssigned => "known",
        Assign::OrganizationRefused => "refused",
        Assign::Throttled(_) => "throttled",
        Assign::NotSent => "not_sent",
        Assign::Unknown => "unknown",
        Assign::BadCredentials => "bad_credentials",
    }
}

const fn name_of_delete(answer: &Delete) -> &'static str {
    match answer {
        Delete::Deleted => "ok",
        Delete::NotFound => "not_found",
        Delete::Refused => "refused",
        Delete::Throttled(_) => "throttled",
        Delete::NotSent => "not_sent",
        Delete::Unknown => "unknown",
        Delete::BadCredentials => "bad_credentials",
    }
}
