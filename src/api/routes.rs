//! Every route, once: the router, the description for callers, and the tests of who may do what are all made from it.

use std::{sync::Arc, time::Duration};

use axum::{response::Response, routing::MethodFilter};
use futures::future::BoxFuture;
use schemars::{Schema, SchemaGenerator};

use super::{
    backend::{Backend, Call},
    batches, gifts, jobs, points, proposals,
    refusal::Refusal,
    schedules,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    Get,
    Post,
}

impl Method {
    pub const fn name(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Post => "POST",
        }
    }

    pub const fn filter(self) -> MethodFilter {
        match self {
            Method::Get => MethodFilter::GET,
            Method::Post => MethodFilter::POST,
        }
    }
}

/// Draws the schema of a type.
pub type Draw = fn(&mut SchemaGenerator) -> Schema;

/// What a route takes beside its path.
#[derive(Clone, Copy)]
pub enum Takes {
    Nothing,
    /// Nothing, and its answer is a file.
    File,
    Json {
        most: usize,
        within: Duration,
        /// It may hold much memory, or take long.
        large: bool,
        draw: Draw,
    },
    /// A file of rows.
    Csv,
}

impl Takes {
    pub const fn media_type(self) -> Option<&'static str> {
        match self {
            Takes::Nothing | Takes::File => None,
            Takes::Json { .. } => Some("application/json"),
            Takes::Csv => Some("text/csv"),
        }
    }

    pub const fn is_large(self) -> bool {
        match self {
            Takes::Nothing => false,
            Takes::Json { large, .. } => large,
            Takes::File | Takes::Csv => true,
        }
    }
}

/// Bodies of one thing.
pub const BODY: usize = 256 * 1024;
/// Bodies of many jobs.
pub const MANY: usize = 8 * 1024 * 1024;
const BODY_TIME: Duration = Duration::from_secs(10);

type Handle = fn(Arc<Backend>, Call) -> BoxFuture<'static, Result<Response, Refusal>>;

pub struct Route {
    pub method: Method,
    pub path: &'static str,
    /// What the token must be for; `None`: whoever asks.
    pub scope: Option<&'static str>,
    pub summary: &'static str,
    pub query: Option<Draw>,
    pub takes: Takes,
    pub answers: (u16, Option<Draw>),
    /// `None`: its answer is the description of them all.
    pub handle: Option<Handle>,
}

macro_rules! draw {
    ($type:ty) => {
        |generator| generator.subschema_for::<$type>()
    };
}
macro_rules! json {
    ($type:ty) => {
        Takes::Json { most: BODY, within: BODY_TIME, large: false, draw: draw!($type) }
    };
}
macro_rules! handle {
    ($function:path) => {
        |backend, call| Box::pin(async move { $function(&backend, call).await })
    };
}
/// Files are read, sealed and written: on a thread that nobody else waits for.
macro_rules! handle_apart {
    ($function:path) => {
        |backend, call| {
            Box::pin(async move {
                let runtime = tokio::runtime::Handle::current();
                let done = tokio::task::spawn_blocking(move || runtime.block_on($function(&backend, call))).await;
                done.unwrap_or_else(|_| {
                    Err(Refusal::unavailable("It could not be done now; send it again, which is safe."))
                })
            })
        }
    };
}
macro_rules! route {
    ($method:ident $path:literal $scope:literal $summary:literal, $takes:expr, $status:literal $answer:ty, $handle:expr) => {
        Route {
            method: Method::$method,
            path: $path,
            scope: Some($scope),
            summary: $summary,
            query: None,
            takes: $takes,
            answers: ($status, Some(draw!($answer))),
            handle: Some($handle),
        }
    };
}

pub static ROUTES: [Route; 24] = [
    route!(Post "/v1/jobs" "enqueue" "One job. The same id and arguments again are the same job.",
        json!(jobs::NewJob<'_>), 200 jobs::Enqueued, handle!(jobs::enqueue)),
    route!(Post "/v1/jobs/many" "enqueue" "Up to 10,000 jobs of one kind: all of them, or none.",
        Takes::Json { most: MANY, within: Duration::from_secs(60), large: true, draw: draw!(jobs::NewJobs<'_>) }, 200 jobs::EnqueuedMany, handle!(jobs::enqueue_many)),
    Route {
        query: Some(draw!(jobs::Listing)),
        ..route!(Get "/v1/jobs" "read" "Jobs, the newest first; `next` is the `before` of the next page.",
            Takes::Nothing, 200 jobs::Listed, handle!(jobs::list))
    },
    route!(Get "/v1/jobs/{kind}/{id}" "read" "Where a job stands, what may be done to it, and the end of its journal.",
        Takes::Nothing, 200 jobs::JobView, handle!(jobs::show)),
    route!(Post "/v1/jobs/{kind}/{id}/acts" "operate" "Asks for an act that the job's state table allows; a worker carries it out.",
        json!(jobs::NewAct), 202 jobs::RequestedAct, handle!(jobs::act)),
    route!(Post "/v1/grants/{grant}/issue" "enqueue" "A user asks for the gift of a grant (発券), before all bulk work.",
        json!(gifts::Issue), 200 jobs::Enqueued, handle!(gifts::issue)),
    Route {
        query: Some(draw!(batches::Options)),
        ..route!(Post "/v1/batches" "enqueue" "A file of grants or stores; the same file again is the same batch.",
            Takes::Csv, 200 batches::Submitted, handle_apart!(batches::submit))
    },
    route!(Get "/v1/batches" "read" "The latest 50 batches and how far each is.", Takes::Nothing, 200 Vec<batches::Batch>, handle_apart!(batches::list)),
    route!(Get "/v1/batches/{batch}" "read" "How far a batch is.", Takes::Nothing, 200 batches::Batch, handle_apart!(batches::show)),
    route!(Post "/v1/batches/{batch}/approve" "approve" "Approves a batch of somebody else, over its file, its options and its addresses. A worker first compares the file with what is staged.",
        Takes::Json { most: BODY, within: BODY_TIME, large: true, draw: draw!(batches::Approve) }, 200 batches::Approved, handle_apart!(batches::approve)),
    route!(Post "/v1/batches/{batch}/release" "operate" "Releases the rows of a batch. Twice is harmless.",
        json!(batches::Release), 200 batches::Batch, handle_apart!(batches::release)),
    route!(Post "/v1/batches/{batch}/pause" "operate" "Holds back every row that has not begun.",
        json!(batches::Why), 200 batches::Batch, handle_apart!(batches::pause)),
    route!(Post "/v1/batches/{batch}/resume" "operate" "Lets a paused batch go on.",
        json!(batches::Why), 200 batches::Batch, handle_apart!(batches::resume)),
    route!(Post "/v1/batches/{batch}/cancel" "operate" "Ends a batch whose grants do not stand yet.",
        json!(batches::Why), 200 batches::Batch, handle_apart!(batches::cancel)),
    Route {
        answers: (200, None),
        ..route!(Get "/v1/batches/{batch}/report" "personal" "The file's columns, names and addresses with them, and what became of each row, as CSV. Each time is written down first; a worker writes it.",
            Takes::File, 200 (), handle_apart!(batches::report))
    },
    route!(Post "/v1/gifts/{grant}/reveal" "reveal" "Shows the code of an issued gift to its user. Each time is written down first; a worker opens it, and 503 says what it means if none does.",
        json!(gifts::Reveal), 200 gifts::GiftView, handle!(gifts::reveal)),
    Route {
        query: Some(draw!(points::When)),
        ..route!(Get "/v1/points/{user}" "read" "What a user's points are worth at an instant, and which of them expire soon.",
            Takes::Nothing, 200 points::Owned, handle!(points::show))
    },
    Route {
        query: Some(draw!(points::Page)),
        ..route!(Get "/v1/points/{user}/history" "read" "What happened to a user's points, the newest first, with the balance after each.",
            Takes::Nothing, 200 points::History, handle!(points::history))
    },
    route!(Get "/v1/schedules" "read" "Recurring jobs: when each is due next, and how it stands.",
        Takes::Nothing, 200 Vec<schedules::ScheduleView>, handle!(schedules::list)),
    route!(Get "/v1/proposals" "read" "What takes a person's word about money, and waits for a second person.",
        Takes::Nothing, 200 Vec<crate::db::operator::proposals::Proposal>, handle!(proposals::list)),
    route!(Get "/v1/proposals/{proposal}" "read" "One of them, and what it stands for.",
        Takes::Nothing, 200 crate::db::operator::proposals::Proposal, handle!(proposals::show)),
    route!(Post "/v1/proposals/{proposal}/confirm" "approve" "Confirms what somebody else has proposed; it is carried out at once.",
        json!(proposals::Confirm), 200 proposals::Decided, handle!(proposals::confirm)),
    route!(Post "/v1/proposals/{proposal}/refuse" "operate" "Refuses it; whoever has made it takes it back so.",
        json!(batches::Why), 200 proposals::Decided, handle!(proposals::refuse)),
    Route {
        method: Method::Get,
        path: "/openapi.json",
        scope: None,
        summary: "This description.",
        query: None,
        takes: Takes::Nothing,
        answers: (200, None),
        handle: None,
    },
];
