//! `noshi schedule`: recurring jobs, seen, set, paused and triggered.

use anyhow::Context;
use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use noshi_jobs::KindName;
use serde::Serialize;
use serde_json::Value;

use super::{Database, names, out::Out};
use crate::{
    basics::instants,
    db::{
        self, ActError, Role,
        queue::schedules::{self, Missed, Schedule, Steer, Wanted},
    },
    engine::cron::{self, Times},
};

/// Due times that are shown of each.
const SHOWN: usize = 3;

#[derive(Subcommand)]
pub enum ScheduleCommand {
    /// Every schedule: when it is due next, and how it stands.
    List(Database),
    /// One schedule.
    Show(Name),
    /// Creates a schedule, or changes it.
    Set(Box<Set>),
    /// Fires nothing until it is resumed; due times go by as missed ones.
    Pause(Steered),
    /// Goes on. What was missed meanwhile goes by its policy; one that was stuck tries again.
    Resume(Steered),
    /// Fires it once, now, beside its due times.
    Trigger(Steered),
    /// Takes it away; the jobs that it fired stay.
    Remove(Steered),
}

#[derive(Args)]
pub struct Name {
    /// Such as point-expiry.
    name: String,
    #[command(flatten)]
    database: Database,
}

#[derive(Args)]
pub struct Steered {
    #[command(flatten)]
    name: Name,
    /// For the audit: why.
    #[arg(long)]
    reason: String,
}

#[derive(Args)]
pub struct Set {
    #[command(flatten)]
    name: Name,
    /// Of its jobs, such as point_expiry.
    #[arg(long, value_parser = names::kind())]
    kind: KindName,
    /// When it is due, as cron has it: minute hour day month weekday, such as '5 0 * * *'.
    #[arg(long)]
    cron: String,
    /// Whose clocks are meant, such as Asia/Tokyo.
    #[arg(long)]
    zone: String,
    /// The arguments of each job as JSON; {due} in them is the due time.
    #[arg(long, value_name = "JSON")]
    args: String,
    /// What becomes of due times while nothing could be fired: each is fired late, the latest, or none.
    #[arg(long, value_enum)]
    missed: Missed,
    /// 0 where a person waits for it.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(i16).range(0..=1))]
    priority: i16,
    /// For the audit: why.
    #[arg(long)]
    reason: String,
}

pub async fn run(out: Out, command: ScheduleCommand) -> anyhow::Result<()> {
    let open = |database: Database| async move { db::connect(database.url()?, Role::Operator, 1).await };
    let (Steered { name, reason }, steer, is) = match command {
        ScheduleCommand::List(database) => {
            return table(out, schedules::list(&open(database).await?, None).await?);
        }
        ScheduleCommand::Show(Name { name, database }) => {
            let found = schedules::list(&open(database).await?, Some(&name)).await?.into_iter().next();
            let found =
                found.with_context(|| format!("there is no schedule `{name}`; `noshi schedule list` shows them"))?;
            return out.one(&ScheduleView::from(found), tell);
        }
        ScheduleCommand::Set(set) => return run_set(out, *set).await,
        ScheduleCommand::Trigger(Steered { name: Name { name, database }, reason }) => {
            let (job, id) = schedules::trigger(&open(database).await?, &name, &reason).await?;
            return out.one(&Triggered { schedule: name, job, id }, |it| {
                format!("{}: job {}, {}", it.schedule, it.job, it.id)
            });
        }
        ScheduleCommand::Pause(steered) => (steered, Steer::Pause, "paused"),
        ScheduleCommand::Resume(steered) => (steered, Steer::Resume, "on"),
        ScheduleCommand::Remove(steered) => (steered, Steer::Remove, "removed"),
    };
    schedules::steer(&open(name.database).await?, steer, &name.name, &reason).await?;
    done(out, name.name, is)
}

async fn run_set(out: Out, set: Set) -> anyhow::Result<()> {
    let Set { name: Name { name, database }, kind, cron, zone, args, missed, priority, reason } = set;
    let refused = ActError::refused;
    let args: Value =
        serde_json::from_str(&args).map_err(|error| refused(format!("args: this is no JSON: {error}")))?;
    let id = cron::id(kind, &args).map_err(refused)?;
    let times = Times::read(&cron, &zone).map_err(refused)?;
    let wanted =
        Wanted { name: &name, kind: kind.name(), id: &id, args: &args, priority, cron: &cron, zone: &zone, missed };
    let next = |clock| times.after(clock).ok_or_else(|| format!("cron: `{cron}` is never due; its day is in no month"));
    let pool = db::connect(database.url()?, Role::Operator, 1).await?;
    let is_new = schedules::set(&pool, &wanted, next, &reason).await?;
    done(out, name, if is_new { "new" } else { "changed" })
}

#[derive(Serialize)]
struct Done {
    schedule: String,
    is: &'static str,
}

fn done(out: Out, schedule: String, is: &'static str) -> anyhow::Result<()> {
    out.one(&Done { schedule, is }, |done| format!("{} is {}", done.schedule, done.is))
}

#[derive(Serialize)]
struct Triggered {
    schedule: String,
    job: i64,
    id: String,
}

/// A schedule, and its next due times on the clocks of its zone.
#[derive(Serialize)]
struct ScheduleView {
    #[serde(flatten)]
    schedule: Schedule,
    state: &'static str,
    next: Vec<String>,
}

impl From<Schedule> for ScheduleView {
    fn from(schedule: Schedule) -> ScheduleView {
        // What a newer version wrote may be nothing that this one can read.
        let next = Times::read(&schedule.cron, &schedule.zone).map(|times| {
            let all = std::iter::successors(Some(schedule.next_due), |last| times.after(*last));
            all.take(SHOWN).map(|due| times.local(due)).collect()
        });
        ScheduleView { state: schedule.state(), next: next.unwrap_or_default(), schedule }
    }
}

fn table(out: Out, schedules: Vec<Schedule>) -> anyhow::Result<()> {
    let shown: Vec<ScheduleView> = schedules.into_iter().map(ScheduleView::from).collect();
    out.list(
        "there is no schedule; `noshi schedule set` makes one",
        &shown,
        &[
            ("NAME", |it| it.schedule.name.clone()),
            ("KIND", |it| it.schedule.kind.clone()),
            ("CRON", |it| it.schedule.cron.clone()),
            ("ZONE", |it| it.schedule.zone.clone()),
            ("MISSED", |it| it.schedule.missed.clone()),
            ("STATE", |it| it.state.to_owned()),
            ("NEXT", |it| it.next.first().cloned().unwrap_or_default()),
            ("FIRED", |it| it.schedule.fired.to_string()),
            ("SKIPPED", |it| it.schedule.skipped.to_string()),
        ],
    )
}

fn tell(shown: &ScheduleView) -> String {
    let ScheduleView { schedule: it, state, next } = shown;
    let or_never = |at: Option<DateTime<Utc>>| at.map_or("never".to_owned(), instants::show);
    let mut text = format!(
        "{} is {state}\n  asks for: {} {} {}\n  due: {} in {}; missed times: {}\n  next: {}\n  last due: {}, job {}\n  fired {}, skipped {}\n",
        it.name,
        it.kind,
        it.id,
        it.args,
        it.cron,
        it.zone,
        it.missed,
        next.join(", "),
        or_never(it.last_due),
        it.last_job.map_or("–".to_owned(), |job| job.to_string()),
        it.fired,
        it.skipped,
    );
    if let Some(why) = &it.stuck {
        text += &format!("  stuck: {why}\n  fix it, and `noshi schedule resume {}`\n", it.name);
    }
    if let (Some(by), Some(reason)) = (&it.paused_by, &it.paused_reason) {
        text +=
            &format!("  paused by {by} at {}: {}\n", or_never(it.paused_at), crate::basics::text::in_one_line(reason));
    }
    text
}
