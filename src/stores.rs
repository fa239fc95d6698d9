//! The world of store creation: our own stores, and the organisation platform's calls.

use std::sync::Arc;

use noshi_jobs::{
    machine::Call,
    store_creation::{Args, Assign, Create, Delete, Find, Insert, LookUp, World},
};
use sqlx::PgPool;

use crate::{lease::LeaseClock, store::claim::Claimed, world::Local};

/// The organisation platform, if the settings name it.
#[derive(Default)]
pub struct Stores {}

impl Stores {
    pub async fn declare_lanes(&self, _: &PgPool) -> Result<(), sqlx::Error> {
        Ok(())
    }
}

/// What one claimed store meets outside.
pub struct StoreWorld {}

impl StoreWorld {
    pub fn new(_: &Arc<Stores>, _: &Arc<LeaseClock>, _: &Claimed, _: &Local) -> Self {
        StoreWorld {}
    }
}

impl World for StoreWorld {
    fn look_up<'a>(&'a self, _: &'a Args) -> Call<'a, LookUp> {
        Box::pin(async { LookUp::Paused })
    }
    fn create_shop<'a>(&'a self, _: &'a Args, _: &'a str) -> Call<'a, Create> {
        Box::pin(async { Create::NotSent })
    }
    fn find_shop<'a>(&'a self, _: &'a Args, _: &'a str) -> Call<'a, Find> {
        Box::pin(async { Find::NoAnswer })
    }
    fn assign_service<'a>(&'a self, _: &'a Args) -> Call<'a, Assign> {
        Box::pin(async { Assign::NotSent })
    }
    fn insert_store<'a>(&'a self, _: &'a Args, _: &'a str) -> Call<'a, Insert> {
        Box::pin(async { Insert::Taken })
    }
    fn delete_shop<'a>(&'a self, _: &'a str) -> Call<'a, Delete> {
        Box::pin(async { Delete::NotSent })
    }
}
