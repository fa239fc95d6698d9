//! What the people of the demo do: files are submitted and approved, and a batch that paused is looked at.

use std::fs;

use anyhow::{Context, bail};

use super::{grants, points, stores::Cast};
use crate::{
    db::{self, PgPool, Role, domain::batches, operator::reconcile},
    intake::{self, Encoding, FileKind, Submission},
    lab::fleet::stage::Stage,
    settings::Settings,
};

/// The second file of stores waits until the first is settled, since it repeats some of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scene {
    First { stores: i64 },
    Second { stores: i64 },
    Looked,
}

pub struct Script<'a> {
    stage: &'a Stage,
    pool: &'a PgPool,
    scene: Scene,
    cast: Cast,
    pub points: points::Cast,
    /// The batch of points, until its exchanges are asked for.
    granting: Option<i64>,
    pub grants: usize,
    /// Jobs that all files together lead to.
    pub jobs: u64,
}

impl<'a> Script<'a> {
    /// Submits the grants, to be announced and issued at once, and the first stores.
    pub async fn begin(stage: &'a Stage, pool: &'a PgPool, count: usize) -> anyhow::Result<Script<'a>> {
        let cast = Cast::of((count * 3 / 10).max(30));
        let (batch, grants) = submit(stage, "grants.csv", &grants::csv(count)?, FileKind::Grants).await?;
        let (stores, first) = submit(stage, "stores.csv", &cast.first(), FileKind::Stores).await?;
        let mails = reconcile::mailed_rows(pool, batch).await?;
        let points = points::Cast::of((count / 5).max(20));
        points::old_ones(stage, points).await?;
        let (granting, _) = submit(stage, "points.csv", &points.csv(), FileKind::Points).await?;
        // Each grant's issuance and mail, the batch's own job, the stores of both files, and the points.
        let jobs = grants as u64 + mails + 1 + (first + cast.rows + points.jobs()) as u64;
        // Exchanges order gifts too.
        let grants = grants + points.orders();
        Ok(Script { stage, pool, scene: Scene::First { stores }, cast, points, granting: Some(granting), grants, jobs })
    }

    /// Goes on if something is to be done now; says what was done.
    pub async fn go_on(&mut self) -> anyhow::Result<Option<String>> {
        if let Some(batch) = self.granting
            && self.status(batch).await? == "settled"
        {
            self.granting = None;
            points::exchange(self.stage, self.points).await?;
            return Ok(Some("all points of the campaign are granted; users exchange them for gifts".into()));
        }
        match self.scene {
            Scene::First { stores } if self.status(stores).await? == "settled" => {
                let (stores, rows) =
                    submit(self.stage, "more-stores.csv", &self.cast.second(), FileKind::Stores).await?;
                self.scene = Scene::Second { stores };
                Ok(Some(format!("{rows} more stores were submitted, some of them registered already")))
            }
            Scene::Second { stores } if self.status(stores).await? == "paused" => {
                let operator = db::connect(&self.stage.submitter, Role::Operator, 1).await?;
                batches::resume(&operator, stores, "one organisation of the file may not have the service").await?;
                self.scene = Scene::Looked;
                Ok(Some("an organisation was refused and its batch paused; an operator looked and let it go on".into()))
            }
            Scene::First { .. } | Scene::Second { .. } | Scene::Looked => Ok(None),
        }
    }

    async fn status(&self, batch: i64) -> anyhow::Result<String> {
        let found = batches::progress(self.pool, Some(batch), 1).await?;
        Ok(found.into_iter().next().context("the batch is gone")?.status)
    }
}

/// Takes a file in as `noshi batch submit`, `approve` and `release` do. Returns the batch and its rows.
pub(crate) async fn submit(stage: &Stage, name: &str, csv: &str, kind: FileKind) -> anyhow::Result<(i64, usize)> {
    let settings = Settings::read(Some(&stage.config))?;
    let path = stage.directory.join(name);
    fs::write(&path, csv).with_context(|| format!("cannot write {}", path.display()))?;
    let grants = kind == FileKind::Grants;
    let submission = Submission {
        path: &path,
        held: None,
        kind,
        encoding: Encoding::Utf8,
        campaign: (kind != FileKind::Stores).then_some("demo"),
        mails: grants,
        issues: grants,
    };
    let one = db::connect(&stage.submitter, Role::Operator, 1).await?;
    let submitted = intake::submit(&one, &settings.sealer()?, &settings.offers()?, &submission).await?;
    if submitted.needs_approval {
        let other = db::connect(&stage.approver, Role::Operator, 1).await?;
        let batch = batches::progress(&other, Some(submitted.batch), 1).await?.into_iter().next();
        let stands_for = batch.and_then(|batch| hex::decode(batch.approval_digest?).ok()).unwrap_or_default();
        batches::approve(&other, submitted.batch, &stands_for, "read and found right").await?;
    }
    batches::release(&one, submitted.batch, Some("the demo")).await?;
    fs::remove_file(&path)?;
    Ok((submitted.batch, submitted.rows))
}

/// A sentence for every batch that does not add up, or is neither settled nor waiting for people alone.
pub async fn wrong_batches(pool: &PgPool) -> anyhow::Result<Vec<String>> {
    let all = batches::progress(pool, None, 100).await?;
    if all.is_empty() {
        bail!("there are no batches");
    }
    let wrong = |b: &batches::Progress| {
        let sum = b.completed + b.failed + b.cancelled + b.needs_operator + b.open;
        match (b.holds && sum == b.rows, b.open) {
            (false, _) => Some(format!("batch {} ({}) does not add up: {sum} of {} rows", b.id, b.file, b.rows)),
            (true, 0) => None,
            (true, open) => Some(format!("batch {} ({}) has {open} open rows", b.id, b.file)),
        }
    };
    Ok(all.iter().filter_map(wrong).collect())
}
