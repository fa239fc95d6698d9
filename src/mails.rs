//! The world of e-mail: recipients, suppression, events, and the mail service's calls.

use std::sync::Arc;

use noshi_jobs::{
    email::{Args, Channel, Fate, Prepare, Send, World},
    machine::Call,
};
use sqlx::PgPool;

use crate::{lease::LeaseClock, store::claim::Claimed, world::Local};

/// The mail service, if the settings name one.
#[derive(Default)]
pub struct Mails {}

impl Mails {
    pub async fn declare_lanes(&self, _: &PgPool) -> Result<(), sqlx::Error> {
        Ok(())
    }
}

/// What one claimed message meets outside.
pub struct MailWorld {}

impl MailWorld {
    pub fn new(_: &Arc<Mails>, _: &Arc<LeaseClock>, _: &Claimed, _: &Local) -> Self {
        MailWorld {}
    }
}

impl World for MailWorld {
    fn prepare<'a>(&'a self, _: &'a Args) -> Call<'a, Prepare> {
        Box::pin(async { Prepare::Wait })
    }
    fn send<'a>(&'a self, _: &'a Args, _: &'a Channel, _: u8) -> Call<'a, Send> {
        Box::pin(async { Send::NotSent })
    }
    fn look_for_event<'a>(&'a self, _: &'a Args) -> Call<'a, Fate> {
        Box::pin(async { Fate::Silent })
    }
}
