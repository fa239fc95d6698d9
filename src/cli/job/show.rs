//! What is told of one job.

use serde::Serialize;

use super::{JobName, find, kinds, number};
use crate::{
    basics::instants,
    cli::out::Out,
    db::{
        self, PgPool, Role,
        operator::{
            jobs::{self, Event, JobRow},
            proposals,
        },
        queue::retention::{self, Over},
    },
    operator::explain::{self, Explained, was_done},
};

#[derive(Serialize)]
pub(super) struct JobView {
    job: JobRow,
    explained: Explained,
    journal: Vec<Event>,
}

pub(super) async fn show(out: Out, name: &JobName) -> anyhow::Result<()> {
    let pool = db::connect(name.database.url()?, Role::Operator, 1).await?;
    let job = match find(out, name, &pool).await {
        Ok(job) => job,
        Err(error) => {
            let Some(over) = find_over(name, &pool).await? else { return Err(error) };
            return out.one(&over, tell_over);
        }
    };
    let journal = jobs::journal(&pool, job.id, 30).await?;
    let explained = explained(&pool, &job).await?;
    out.one(&JobView { job, explained, journal }, tell)
}

pub(super) async fn find_over(name: &JobName, pool: &PgPool) -> anyhow::Result<Option<Over>> {
    Ok(match name.name.as_slice() {
        [name] if number(name).is_some() => retention::over(pool, None, name).await?,
        [name] => match retention::known(pool, name, kinds::names(), 2).await?.as_slice() {
            [one] => retention::over(pool, None, &one.id.to_string()).await?,
            _ => None,
        },
        [kind, id] => retention::over(pool, Some(kind), id).await?,
        _ => None,
    })
}

pub(super) fn tell_over(over: &Over) -> String {
    let when = instants::show;
    let words = [&over.outcome, &over.code, &over.detail];
    let words: Vec<&str> = words.into_iter().filter_map(Option::as_deref).collect();
    let mut text = format!(
        "job {}: {} {}, over since {}: {} at {} ({})\n  pruned at {}; nothing can be done with it any more, and a late duplicate gets its number\n",
        over.id,
        over.kind,
        over.key,
        when(over.finished_at),
        over.status,
        over.at,
        words.join(", "),
        when(over.pruned_at)
    );
    if let (Some(job), Some(journal)) = (&over.job, &over.journal) {
        text += &format!("  asked for: {}\n  stood:     {}\n  journal:\n", job["args"], job["state"]);
        for line in journal.as_array().into_iter().flatten() {
            let word = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
            let words = ["became", "outcome", "code", "detail"].map(word);
            let words: Vec<String> = words.into_iter().filter(|word| !word.is_empty()).collect();
            text += &format!("    {} {:<12} {}\n", word("happened_at"), word("event"), words.join(", "));
        }
    }
    text
}

pub(super) fn tell(shown: &JobView) -> String {
    let JobView { job, explained, journal } = shown;
    let way = if job.undo.is_some() { ", being taken back" } else { "" };
    let mut text = format!("job {}: {} {}, {} at {}{way}\n", job.id, job.kind, job.key, job.status, job.at);
    let mut line = |label: &str, value: String| {
        text += format!("  {label:<11} {value}").trim_end();
        text.push('\n');
    };
    line("why:", explained.why.clone());
    line("asked for:", job.args.to_string());
    if let Some(state) = &job.state {
        line("stands:", state.to_string());
    }
    if !job.lane.is_empty() {
        line("lane:", job.lane.clone());
    }
    if let Some(called_at) = job.called_at {
        line("called_at:", instants::show(called_at));
    }
    may(explained, &mut line);
    line("journal:", String::new());
    for told in journal {
        let worker = told.worker.map(|it| format!("worker {it}"));
        let words = [&told.became, &told.outcome, &told.code, &told.detail, &worker];
        let words: Vec<&str> = words.into_iter().filter_map(Option::as_deref).collect();
        text += &format!("    {} {:<12} {}\n", instants::show_exactly(told.happened_at), told.event, words.join(", "));
    }
    text
}

pub(super) fn may(explained: &Explained, line: &mut impl FnMut(&str, String)) {
    if let Some(runbook) = &explained.runbook {
        line("runbook:", runbook.clone());
    }
    if explained.may.is_empty() {
        line("you may:", "nothing here".to_owned());
    }
    for (n, (act, meaning)) in explained.may.iter().enumerate() {
        line(if n == 0 { "you may:" } else { "" }, format!("{act:<12} {meaning}"));
    }
}

/// Why it stands where it stands, and what waits for a second person there.
pub(super) async fn explained(pool: &PgPool, job: &JobRow) -> anyhow::Result<Explained> {
    let mut explained = explain::explain(job);
    if let Some(it) = proposals::waiting_at(pool, &format!("job/{}", job.id)).await? {
        explained.why += &format!(
            " {} has proposed to {} it ({}): `noshi proposal show {}`; a second person confirms it.",
            it.proposed_by,
            it.act,
            crate::basics::text::in_one_line(&it.reason),
            it.proposal
        );
    }
    Ok(explained)
}

pub(super) async fn tell_why(out: Out, name: &JobName) -> anyhow::Result<()> {
    let pool = db::connect(name.database.url()?, Role::Operator, 1).await?;
    let explained = match find(out, name, &pool).await {
        Ok(job) => explained(&pool, &job).await?,
        // What was done and pruned is an answer, and no failure.
        Err(error) => match find_over(name, &pool).await? {
            Some(over) => Explained { why: was_done(&over), may: vec![], runbook: None },
            None => return Err(error),
        },
    };
    out.one(&explained, |explained| {
        let mut text = format!("{}\n", explained.why);
        may(explained, &mut |label, value| text += &format!("  {label:<9} {value}\n"));
        text
    })
}
