//! The world of e-mail: recipients, suppression, events, and the mail service's calls.
//!
//! A name and an address are unsealed twice, each time right before they are needed: to see whether the address is
//! suppressed, and to send. They are never written, logged or counted.

mod letters;
mod recipient;

use std::{sync::Arc, time::Duration};

use noshi_jobs::{
    email::{Args, Channel, Fate, Prepare, Send, World},
    machine::Call,
};

use self::{letters::Letters, recipient::Recipient};
use crate::{
    basics::chaos::crash_point,
    db::{
        self, PgConnection, PgPool,
        domain::mails::SendQuota,
        local::Local,
        queue::{claim::Claimed, slot::Slot},
    },
    engine::lease::LeaseClock,
    partners::{
        Gate,
        mail::{self, EmailSettings, Letter, MailService, Quota},
    },
    telemetry::{
        metrics::{call, count_call},
        outcomes::{Answer, CallOutcome},
    },
    vault::Vault,
    worlds::gift_issuance,
};

/// After a quota with nothing left: the vendor's words.
const NO_QUOTA: Duration = Duration::from_secs(600);

/// The mail service, if the settings name one.
#[derive(Default)]
pub struct Mails {
    office: Option<Sender>,
}

struct Sender {
    service: Box<dyn MailService>,
    letters: Letters,
    vault: Arc<Vault>,
    /// How often the service is asked for the account's quota.
    ask_every: Option<Duration>,
}

impl Mails {
    pub fn open(settings: &EmailSettings, vault: Arc<Vault>) -> anyhow::Result<Self> {
        let letters = Letters::open(&settings.link, settings.templates.as_deref())?;
        let ask_every = match (settings.service, &settings.ses) {
            (mail::Service::Ses, Some(ses)) => Some(Duration::from_secs(ses.quota_seconds.get().into())),
            (mail::Service::Ses, None) | (mail::Service::Smtp, _) => None,
        };
        Ok(Mails { office: Some(Sender { service: mail::open(settings)?, letters, vault, ask_every }) })
    }

    /// The service's name, if there is one.
    pub fn name(&self) -> Option<&'static str> {
        self.office.as_ref().map(|office| office.service.name())
    }

    /// Makes sure that the service's lane exists with its budgets.
    pub async fn declare_lanes(&self, pool: &PgPool) -> Result<(), sqlx::Error> {
        let Some(office) = &self.office else { return Ok(()) };
        let budgets: Vec<_> = office.service.budgets().into_iter().map(gift_issuance::budget).collect();
        let lane = office.lane();
        match office.ask_every {
            Some(_) => db::domain::mails::declare(pool, &lane, &budgets).await,
            None => db::queue::lanes::declare(pool, &lane, &budgets).await,
        }
    }

    /// Keeps the lane at the account's own quota, as long as this process lives. Of the whole fleet one process asks.
    pub async fn keep_quota(self: Arc<Self>, pool: PgPool) {
        let Some(office) = &self.office else { return };
        let Some(every) = office.ask_every else { return };
        loop {
            if let Err(error) = office.ask_for_quota(&pool, every).await {
                tracing::warn!(%error, "the database did not answer about the mail quota");
            }
            tokio::time::sleep((every / 5).clamp(Duration::from_millis(200), Duration::from_secs(30))).await;
        }
    }
}

impl Sender {
    fn lane(&self) -> String {
        format!("email/{}", self.service.name())
    }

    async fn ask_for_quota(&self, pool: &PgPool, every: Duration) -> Result<(), sqlx::Error> {
        let lane = self.lane();
        if !db::domain::mails::claim_question(pool, &lane, every).await? {
            return Ok(());
        }
        let quota = self.service.quota().await;
        count_call(
            self.service.name(),
            "quota",
            if quota == Quota::NoAnswer { CallOutcome::Unknown } else { CallOutcome::Ok },
        );
        match quota {
            Quota::Known { per_second, per_day, sent } => {
                let told = SendQuota { per_second, per_day, sent };
                db::domain::mails::renew_budgets(pool, &lane, told, NO_QUOTA).await
            }
            Quota::NoAnswer => {
                tracing::warn!(lane, "the mail service did not tell its quota; the lane keeps to what it told last");
                Ok(())
            }
            Quota::Fixed => Ok(()),
        }
    }

    async fn prepare(&self, connection: &mut PgConnection, job: i64, worker: i64) -> Result<Prepare, sqlx::Error> {
        let kept = db::domain::mails::recipient(connection, job, worker).await?;
        let Some(kept) = kept else { return Ok(Prepare::NoRecipient) };
        let recipient = match Recipient::unseal(&self.vault, &kept) {
            Ok(Some(recipient)) => recipient,
            Ok(None) => return Ok(Prepare::NoRecipient),
            Err(error) => {
                tracing::error!(
                    job,
                    error = format!("{error:#}"),
                    "a recipient does not open; its message waits, and then needs an operator"
                );
                return Ok(Prepare::NotOpened);
            }
        };
        if db::domain::mails::is_suppressed(connection, &self.vault.digests(&recipient.address)).await? {
            return Ok(Prepare::Suppressed);
        }
        Ok(Prepare::Ready(Channel {
            name: self.service.name().to_owned(),
            settle_seconds: self.service.settle_seconds(),
        }))
    }

    /// The letter, or what the send comes to instead. Nothing was sent yet.
    async fn write(&self, pool: &PgPool, ids: &Ids, args: &Args) -> Result<Letter, Send> {
        let away = |error: sqlx::Error| {
            tracing::warn!(job = ids.job, %error, "the database did not answer before a send; not sent");
            Send::NotSent
        };
        let mut connection = pool.acquire().await.map_err(away)?;
        let kept = db::domain::mails::recipient(&mut connection, ids.job, ids.worker).await.map_err(away)?;
        let rejected = |why: &str| Send::Rejected(why.to_owned());
        let kept = kept.ok_or_else(|| rejected("no_recipient"))?;
        let recipient = Recipient::unseal(&self.vault, &kept).map_err(|error| {
            tracing::error!(job = ids.job, error = format!("{error:#}"), "a recipient does not open; not sent");
            Send::NotSent
        })?;
        let recipient = recipient.ok_or_else(|| rejected("no_recipient"))?;
        // It may have waited in its lane for hours.
        let digests = self.vault.digests(&recipient.address);
        if db::domain::mails::is_suppressed(&mut connection, &digests).await.map_err(away)? {
            return Err(rejected("address_suppressed"));
        }
        let rendered = self.letters.render(args, recipient.name()).map_err(|error| {
            tracing::error!(job = ids.job, error = format!("{error:#}"), "a message cannot be rendered; not sent");
            rejected("template_failed")
        })?;
        let (template, to) = (args.template.name(), recipient.address);
        let letters::Rendered { subject, text, html } = rendered;
        Ok(Letter { job: ids.job, mark: kept.mark, template, to, subject, text, html })
    }
}

/// The leave to make this claim's call. The slot is asked after once more where the dialogue begins, since the recipient is read between
/// the claim and the call.
fn gate(clock: &Arc<LeaseClock>, claimed: &Claimed) -> Gate {
    let (clock, slot) = (Arc::clone(clock), claimed.slot.clone());
    let lease = Gate::new(move || clock.may_call()).telling(&claimed.told);
    lease.beginning(move || slot.as_ref().is_none_or(Slot::holds))
}

struct Ids {
    job: i64,
    worker: i64,
}

/// What one claimed message meets outside.
pub struct MailWorld {
    mails: Arc<Mails>,
    pool: PgPool,
    gate: Gate,
    local: Local,
    ids: Ids,
}

impl MailWorld {
    pub fn new(
        mails: &Arc<Mails>,
        pool: &PgPool,
        worker: i64,
        clock: &Arc<LeaseClock>,
        claimed: &Claimed,
        local: &Local,
    ) -> Self {
        MailWorld {
            mails: Arc::clone(mails),
            pool: pool.clone(),
            gate: gate(clock, claimed),
            local: local.clone(),
            ids: Ids { job: claimed.id, worker },
        }
    }
}

impl World for MailWorld {
    fn prepare<'a>(&'a self, _: &'a Args) -> Call<'a, Prepare> {
        Box::pin(async {
            let Some(office) = &self.mails.office else { return Prepare::Wait };
            crash_point("prepare_mail.before");
            let Ids { job, worker } = self.ids;
            let prepared = self.local.run(async |connection| {
                if db::domain::batches::is_paused(connection, job).await? {
                    return Ok(Prepare::Wait);
                }
                office.prepare(connection, job, worker).await
            });
            let prepared = prepared.await;
            crash_point("prepare_mail.after");
            prepared
        })
    }

    fn send<'a>(&'a self, args: &'a Args, channel: &'a Channel, _: u8) -> Call<'a, Send> {
        Box::pin(async move {
            // A service taken out of the settings: nothing was sent, and the message waits for its return.
            let office = self.mails.office.as_ref().filter(|office| office.service.name() == channel.name);
            let Some(office) = office else { return Send::NotSent };
            let letter = match office.write(&self.pool, &self.ids, args).await {
                Ok(letter) => letter,
                Err(instead) => return instead,
            };
            crash_point("send_mail.before");
            let send = office.service.send(&letter, &self.gate);
            let answer = call(office.service.name(), "send", send).await;
            crash_point("send_mail.after");
            answer
        })
    }

    fn look_for_event<'a>(&'a self, _: &'a Args) -> Call<'a, Fate> {
        let job = self.ids.job;
        Box::pin(self.local.run(async move |connection| db::domain::mails::fate(connection, job).await))
    }
}

impl Answer for Send {
    fn outcome(&self) -> CallOutcome {
        match self {
            Send::Accepted(_) => CallOutcome::Ok,
            Send::Rejected(_) => CallOutcome::Refused,
            Send::Throttled(_) => CallOutcome::Throttled,
            Send::NotSent | Send::NotNow | Send::Busy(_) | Send::Tls(_) => CallOutcome::NotSent,
            Send::Unknown => CallOutcome::Unknown,
            Send::BadCredentials | Send::Sender => CallOutcome::BadCredentials,
        }
    }
}
