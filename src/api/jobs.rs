//! Jobs: asked for by producers, seen and acted upon by operators.

use std::collections::HashMap;

use axum::{http::StatusCode, response::Response};
use noshi_jobs::machine::Act;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};

use super::{
    backend::{Backend, Call, answer},
    body,
    refusal::Refusal,
};
use crate::{
    basics::{
        kinds,
        requests::{self, whole_numbers},
    },
    db::{
        operator::{
            api::{self, JobRequest},
            jobs::{self, Event, Filter, Job},
        },
        queue::settle::Status,
    },
    operator::acts,
    vault::contact::sealed_args,
};

const MAX_JOBS: usize = 10_000;
const JOURNAL: i64 = 30;

/// One job.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewJob<'a> {
    /// bulk_grants, email, gift_issuance, point_exchange, point_expiry, point_grant, point_reversal, point_withdrawal, probe or
    /// store_creation.
    kind: String,
    /// Your own stable id, 1 to 200 bytes. It may stand in the header Idempotency-Key instead.
    id: Option<String>,
    /// The kind's arguments, as `x-arguments` of this description has them. The address and phone of a store come in plain, and are sealed before anything is written.
    #[serde(borrow)]
    #[schemars(with = "serde_json::Map<String, Value>")]
    args: &'a RawValue,
    /// 0 where a person waits; 1 otherwise, and where it is left out.
    priority: Option<i16>,
}

/// Many jobs of one kind.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewJobs<'a> {
    kind: String,
    /// 1 to 10,000.
    #[serde(borrow)]
    #[schemars(length(min = 1, max = 10_000))]
    jobs: Vec<NewRow<'a>>,
    priority: Option<i16>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewRow<'a> {
    id: String,
    #[serde(borrow)]
    #[schemars(with = "serde_json::Map<String, Value>")]
    args: &'a RawValue,
}

/// The job of a request: the same for the same id and arguments, whoever asks and however often.
#[derive(Serialize, JsonSchema)]
pub struct Enqueued {
    /// The job's number.
    pub job: i64,
    pub kind: String,
    pub id: String,
}

/// The jobs' numbers, in the order in which they were asked for.
#[derive(Serialize, JsonSchema)]
pub struct EnqueuedMany {
    kind: String,
    jobs: Vec<i64>,
}

pub async fn enqueue(backend: &Backend, call: Call) -> Result<Response, Refusal> {
    let new: NewJob<'_> = body::json(&call.text)?;
    let id = id_of(&call, new.id)?;
    let row = JobRequest { id: &id, args: new.args };
    let jobs = take(backend, &call, &new.kind, std::slice::from_ref(&row), new.priority, |_| String::new()).await?;
    let job = jobs.into_iter().next().ok_or_else(|| Refusal::unavailable("The job was not told; send it again."))?;
    Ok(answer(StatusCode::OK, &Enqueued { job, kind: new.kind, id }))
}

pub async fn enqueue_many(backend: &Backend, call: Call) -> Result<Response, Refusal> {
    let new: NewJobs<'_> = body::json(&call.text)?;
    if new.jobs.is_empty() || new.jobs.len() > MAX_JOBS {
        return Err(Refusal::field("jobs", format!("There are 1 to {MAX_JOBS} jobs in one request.")));
    }
    let rows: Vec<JobRequest<'_>> = new.jobs.iter().map(|row| JobRequest { id: &row.id, args: row.args }).collect();
    let jobs = take(backend, &call, &new.kind, &rows, new.priority, |row| format!("jobs[{row}].")).await?;
    Ok(answer(StatusCode::OK, &EnqueuedMany { kind: new.kind, jobs }))
}

/// The header and the body may both name the job, and then they name the same.
fn id_of(call: &Call, id: Option<String>) -> Result<String, Refusal> {
    let mut keys = call.headers.get_all("idempotency-key").iter();
    let (key, second) = (keys.next(), keys.next());
    if second.is_some() {
        return Err(Refusal::field("Idempotency-Key", "There is more than one; which of them is meant is not known."));
    }
    let key = match key.map(|key| str::from_utf8(key.as_bytes())) {
        None => None,
        Some(Ok(key)) => Some(key.trim().trim_matches('"').to_owned()),
        Some(Err(_)) => return Err(Refusal::field("Idempotency-Key", "The key is not UTF-8.")),
    };
    match (id, key) {
        (Some(id), Some(key)) if id != key => {
            Err(Refusal::field("Idempotency-Key", "The key is the job's id, and the body has another one."))
        }
        (Some(id), _) | (None, Some(id)) => Ok(id),
        (None, None) => Err(Refusal::field("id", "A job needs an id of yours, in the body or as Idempotency-Key.")),
    }
}

/// Checks the rows and enqueues them. `place` says where in the body a row stands.
async fn take(
    backend: &Backend,
    call: &Call,
    kind: &str,
    rows: &[JobRequest<'_>],
    priority: Option<i16>,
    place: impl Fn(usize) -> String,
) -> Result<Vec<i64>, Refusal> {
    let Some(known) = kinds::get(kind) else {
        let producers = kinds::all().iter().filter(|kind| kind.is_for_producers());
        let kinds: Vec<_> = producers.map(|kind| kind.kind().name()).collect();
        let kinds = kinds.join(", ");
        return Err(Refusal::field("kind", format!("There is no such kind; there are {kinds}.")));
    };
    let priority = priority.unwrap_or(1);
    if !matches!(priority, 0 | 1) {
        return Err(Refusal::field("priority", "A priority is 0, where a person waits, or 1."));
    }
    for (number, row) in rows.iter().enumerate() {
        if row.id.trim().is_empty() || row.id.len() > 200 {
            return Err(Refusal::field(&format!("{}id", place(number)), "An id has 1 to 200 bytes."));
        }
        requests::reads(known, row.args.get()).map_err(|(field, said)| {
            let field = match field.as_str() {
                "." => format!("{}args", place(number)),
                field => format!("{}args.{field}", place(number)),
            };
            Refusal::field(&field, format!("The arguments are not those of {kind}: {said}."))
        })?;
    }
    if let Some(number) = contrary(rows) {
        let detail = "This id stands in the request twice, with other arguments. Nothing of it was written.";
        return Err(Refusal::field(&format!("{}id", place(number)), detail));
    }
    let sealed = |row: &JobRequest<'_>| {
        sealed_args(known.kind(), row.args, || backend.sealer("no address and no phone of a store"))
    };
    let sealed = rows.iter().map(sealed).collect::<Result<Vec<_>, Refusal>>()?;
    let asked = rows
        .iter()
        .zip(&sealed)
        .map(|(row, args)| JobRequest { id: row.id, args: args.as_deref().unwrap_or(row.args) });
    let rows: &[JobRequest<'_>] = &asked.collect::<Vec<_>>();
    let mut transaction = backend.begin(call).await?;
    match api::enqueue(&mut transaction, kind, rows, priority).await {
        Ok(jobs) => {
            transaction.commit().await?;
            Ok(jobs)
        }
        Err(error) if error.as_database_error().and_then(|e| e.code()).as_deref() == Some("NS409") => {
            transaction.rollback().await?;
            Err(conflict(backend, call, kind, rows, error).await)
        }
        Err(error) => Err(misfit(&error, &place).unwrap_or_else(|| error.into())),
    }
}

/// The first row whose id an earlier one has with other arguments.
fn contrary(rows: &[JobRequest<'_>]) -> Option<usize> {
    let read = |row: &JobRequest<'_>| serde_json::from_str::<Value>(&whole_numbers(row.args.get())).ok();
    let mut first = HashMap::new();
    rows.iter().enumerate().find_map(|(number, row)| {
        let earlier = *first.entry(row.id).or_insert(row);
        (!std::ptr::eq(earlier, row) && read(earlier) != read(row)).then_some(number)
    })
}

/// What the database found in one row, by its field: it has the same definition of a request as files.
fn misfit(error: &sqlx::Error, place: impl Fn(usize) -> String) -> Option<Refusal> {
    let database = error.as_database_error().filter(|error| error.code().as_deref() == Some("NS400"))?;
    let field = database.try_downcast_ref::<sqlx::postgres::PgDatabaseError>()?.column()?;
    let (row, fault) = database.message().strip_prefix("row ")?.split_once(": ")?;
    let row: usize = row.parse().ok()?;
    let sentence = fault.strip_prefix(field).and_then(|rest| rest.strip_prefix(": ")).unwrap_or(fault);
    let mut letters = sentence.chars();
    let sentence = letters.next().map(|first| first.to_uppercase().chain(letters).collect::<String>())?;
    Some(Refusal::field(
        &format!("{}{field}", place(row.checked_sub(1)?)),
        format!("{sentence}. Nothing of this request was written."),
    ))
}

/// Names every field that differs from what was recorded under the id.
async fn conflict(backend: &Backend, call: &Call, kind: &str, rows: &[JobRequest<'_>], error: sqlx::Error) -> Refusal {
    let found = async {
        let mut transaction = backend.begin(call).await?;
        let found = api::conflicts(&mut transaction, kind, rows).await?;
        transaction.commit().await?;
        Ok::<_, Refusal>(found)
    };
    let Ok(found) = found.await else { return error.into() };
    let many = rows.len() > 1;
    let mut differences = vec![];
    for conflict in found {
        for mut difference in conflict.differences.as_array().cloned().unwrap_or_default() {
            if let (Some(fields), true) = (difference.as_object_mut(), many) {
                fields.insert("row".to_owned(), conflict.row_no.into());
                fields.insert("id".to_owned(), conflict.key.clone().into());
            }
            differences.push(difference);
        }
    }
    Refusal::conflict(
        "An id of this request exists with other arguments, and nothing was written. An id names one request for ever: \
         send what was recorded, or use a new id for a new request.",
    )
    .with("differences", differences)
}

/// Which jobs; all of them where nothing is said.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Listing {
    kind: Option<String>,
    status: Option<String>,
    /// Such as gift_refused.
    code: Option<String>,
    /// Jobs before this number: `next` of the page before.
    before: Option<i64>,
    /// 1 to 200; 50 where it is left out.
    limit: Option<i64>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "JobPage")]
pub struct Listed {
    jobs: Vec<Job>,
    /// There may be more; `null`: that was all.
    next: Option<i64>,
}

pub async fn list(backend: &Backend, call: Call) -> Result<Response, Refusal> {
    let Listing { kind, status, code, before, limit } = call.query()?;
    let known = |status: String| {
        let statuses = Status::ALL.map(Status::name).join(", ");
        let unknown = || Refusal::field("status", format!("There is no such status; there are {statuses}."));
        Status::from_name(&status).ok_or_else(unknown)
    };
    let status = status.map(known).transpose()?;
    let limit = limit.unwrap_or(50);
    if !(1..=200).contains(&limit) {
        return Err(Refusal::field("limit", "A page has 1 to 200 jobs."));
    }
    let mut transaction = backend.begin(&call).await?;
    let jobs =
        jobs::jobs(&mut transaction, &Filter { kind, status, code, before, most: limit, ..Filter::default() }).await?;
    transaction.commit().await?;
    let whole = usize::try_from(limit).is_ok_and(|limit| jobs.len() == limit);
    let next = jobs.last().filter(|_| whole).map(|job| job.job);
    Ok(answer(StatusCode::OK, &Listed { jobs, next }))
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "JobDetail")]
pub struct JobView {
    #[serde(flatten)]
    job: Job,
    /// The acts that may be asked for where it stands.
    may: Vec<String>,
    /// The last 30 lines.
    journal: Vec<Event>,
}

async fn find(connection: &mut crate::db::PgConnection, call: &Call) -> Result<Job, Refusal> {
    let (kind, id) = (call.part("kind")?, call.part("id")?);
    if let Some(job) = jobs::job(connection, kind, id).await? {
        return Ok(job);
    }
    Err(match jobs::pruned(connection, kind, id).await? {
        Some(end) => {
            let detail = format!("This job ended as {end}; `noshi job show` has its journal.");
            Refusal::new(StatusCode::GONE, detail)
        }
        None => Refusal::not_found(format!("There is no {kind} with the id {id}.")),
    })
}

fn names(acts: &[Act]) -> Vec<String> {
    acts.iter().map(|act| act.name().to_owned()).collect()
}

pub async fn show(backend: &Backend, call: Call) -> Result<Response, Refusal> {
    let mut transaction = backend.begin(&call).await?;
    let job = find(&mut transaction, &call).await?;
    let journal = jobs::journal(&mut *transaction, job.job, JOURNAL).await?;
    transaction.commit().await?;
    let may = names(&acts::allowed(&job.stand()));
    Ok(answer(StatusCode::OK, &JobView { job, may, journal }))
}

/// An act on a job.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewAct {
    /// One of those in `may` of the job.
    act: String,
    /// The job's `step` when you looked: where it has moved on, nothing is done.
    step: i32,
    /// Why, and on what evidence; for the journal and the audit.
    reason: String,
}

#[derive(Serialize, JsonSchema)]
pub struct RequestedAct {
    job: i64,
    act: String,
    /// It takes a person's word about money: nothing is done before a second person confirms this proposal. `null`: a worker carries it out.
    proposal: Option<i64>,
}

pub async fn act(backend: &Backend, call: Call) -> Result<Response, Refusal> {
    let NewAct { act, step, reason } = body::json(&call.text)?;
    let Some(known) = Act::from_name(&act) else {
        let acts = Act::ALL.map(Act::name).join(", ");
        return Err(Refusal::field("act", format!("There is no such act; there are {acts}.")));
    };
    if reason.trim().is_empty() {
        return Err(Refusal::field("reason", "An act needs a reason, for the journal and the audit."));
    }
    let mut transaction = backend.begin(&call).await?;
    let job = find(&mut transaction, &call).await?;
    transaction.commit().await?;
    if let Some(why) = acts::refusal(&job.stand(), known) {
        let may = names(&acts::allowed(&job.stand()));
        return Err(Refusal::conflict(format!("{why}.")).with("allowed", may));
    }
    let proposal = jobs::ask(&*backend.pool_of(&call).await?, job.job, step, known, &reason).await?;
    Ok(answer(StatusCode::ACCEPTED, &RequestedAct { job: job.job, act, proposal }))
}
