//! What is told of batches.

use serde::Serialize;

use super::one;
use crate::{
    cli::out::Out,
    db::{
        PgPool,
        domain::batches::{self, Progress},
    },
    intake::FileKind,
};

pub(super) async fn list(out: Out, pool: &PgPool, before: Option<i64>, most: i64) -> anyhow::Result<()> {
    out.list(
        "no batch is like that",
        &batches::page(pool, before, most).await?,
        &[
            ("BATCH", |batch| batch.id.to_string()),
            ("KIND", |batch| batch.kind.clone()),
            ("STATUS", |batch| batch.status.clone()),
            ("ROWS", |batch| batch.rows.to_string()),
            ("COMPLETED", |batch| batch.completed.to_string()),
            ("FAILED", |batch| batch.failed.to_string()),
            ("CANCELLED", |batch| batch.cancelled.to_string()),
            ("PARKED", |batch| batch.needs_operator.to_string()),
            ("OPEN", |batch| batch.open.to_string()),
            ("FILE", |batch| batch.file.clone()),
        ],
    )
}

/// A batch, and what a second person wants to know of it.
#[derive(Serialize)]
pub(super) struct BatchView {
    #[serde(flatten)]
    batch: Progress,
    worth: Vec<String>,
    /// Before it is granted: users who have a grant of its campaign already, and objections.
    repeated_users: Option<i64>,
    #[serde(skip)]
    is_to_be_granted: bool,
    objection: Option<String>,
}

pub(super) async fn show(out: Out, pool: &PgPool, batch: i64) -> anyhow::Result<()> {
    let mut shown = BatchView {
        batch: one(pool, batch).await?,
        worth: batches::worth(pool, batch).await?,
        repeated_users: None,
        is_to_be_granted: false,
        objection: None,
    };
    if matches!(shown.batch.status.as_str(), "awaiting_approval" | "approved" | "validated") {
        shown.is_to_be_granted = true;
        shown.repeated_users = batches::repeated_users(pool, batch).await?;
        shown.objection = batches::objection(pool, batch).await?;
    }
    out.one(&shown, tell)
}

/// What is done with the rows of a batch, as it was asked for when its file was submitted.
pub(super) fn would_do(b: &Progress) -> String {
    let rows = format!("{} {}", b.rows, b.kind);
    let campaign = b.campaign.as_ref().map(|campaign| format!("campaign {campaign}"));
    let gifts = match b.kind == FileKind::Grants.name() {
        true if b.issues => Some("each gift bought at once".to_owned()),
        true => Some("each gift bought when its user asks".to_owned()),
        false => None,
    };
    let mails = b.mails.then(|| "each announced by mail".to_owned());
    [Some(rows), campaign, gifts, mails].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

pub(super) fn tell(shown: &BatchView) -> String {
    let BatchView { batch: b, worth, repeated_users, is_to_be_granted, objection } = shown;
    let broken = if b.holds { "" } else { "  THIS DOES NOT ADD UP: see the runbook, batch_equation_broken" };
    let mut lines = vec![
        format!("batch {}: {} of {}, {}", b.id, b.kind, b.file, b.status),
        format!("  submitted by {}, digest {}", b.submitted_by, b.digest),
        format!("  asks for: {}", would_do(b)),
    ];
    lines.extend(
        b.approval_digest.iter().map(|digest| format!("  an approval covers file, options and addresses: {digest}")),
    );
    lines.extend(worth.iter().map(|worth| format!("  {worth} (amounts in minor units)")));
    lines.extend(b.approved_by.iter().map(|by| format!("  approved by {by}")));
    lines.push(format!(
        "  {} rows = {} completed + {} failed + {} cancelled + {} needs operator + {} open{broken}",
        b.rows, b.completed, b.failed, b.cancelled, b.needs_operator, b.open
    ));
    if b.skipped + b.compensated > 0 {
        lines.push(format!("  of these {} skipped, {} compensated", b.skipped, b.compensated));
    }
    if b.mails_sent + b.mails_failed > 0 {
        lines.push(format!("  mails: {} sent, {} failed", b.mails_sent, b.mails_failed));
    }
    for (label, text) in [("refused", &b.refused), ("paused", &b.paused_code)] {
        lines.extend(text.iter().map(|text| format!("  {label}: {text}")));
    }
    match repeated_users {
        Some(repeated @ 1..) => lines.push(format!("  {repeated} of its users have a grant of this campaign already")),
        None if *is_to_be_granted => lines.push(
            "  how many of its users have a grant of this campaign already is not known: counting them took too long"
                .to_owned(),
        ),
        Some(_) | None => {}
    }
    match (objection, is_to_be_granted) {
        (Some(objection), _) => lines.push(format!("  it may not be granted as it is: {objection}")),
        (None, true) => lines.push("  no objections".to_owned()),
        (None, false) => {}
    }
    lines.join("\n")
}
