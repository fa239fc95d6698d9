//! The kinds of job that this program has, by their stored names, with their types left behind: what commands, the API, metrics and
//! re-drives ask of a kind that they know by its name alone. The list is closed at the start, once.

use std::{marker::PhantomData, sync::OnceLock};

use noshi_jobs::{
    Field, FollowUp, Kind, KindName, Problem,
    effect::Effect,
    machine::{Act, Job, Lead as Way, Past, Redirect, lead, lead_unwinding},
    with_job,
};
use serde::de::DeserializeOwned;
use serde_json::{
    Value,
    value::{RawValue, to_raw_value},
};

use super::requests::{self, Fault};

/// A kind, whatever its types.
pub trait AnyKind: Send + Sync {
    fn kind(&self) -> KindName;
    fn states(&self) -> &'static [&'static str];
    fn undos(&self) -> &'static [&'static str];
    fn problems(&self) -> &'static [Problem];
    /// The field of the arguments that a job's id must be, where there is one.
    fn id_field(&self) -> Option<&'static str>;
    /// The fields of its arguments; `None` for the probe, which tests alone ask for and which reads them itself.
    fn fields(&self) -> Option<&'static [Field]>;
    /// Whether a producer may ask for it. The others come from batches, schedules and other jobs.
    fn is_for_producers(&self) -> bool;
    /// It is no kind of noshi's own.
    fn is_own(&self) -> bool;
    /// The first fault of some arguments, as every entry point finds it.
    fn fault(&self, args: &Value) -> Option<Fault>;
    /// Whether the text of some arguments is read by the job.
    fn reads(&self, args: &str) -> Result<(), Fault>;
    /// What these arguments ask for, whether or not a job can begin with it.
    fn asks_for(&self, args: &Value) -> Result<ReadArgs, String>;
    /// Where an act leads a job that stands here; `None` where this version cannot read the place.
    fn leads(&self, place: &Place<'_>, act: Act) -> Option<Led>;
    /// The arguments of a follow-up of this kind.
    fn follow_up(&self, follow_up: &FollowUp) -> Option<Box<RawValue>>;
}

/// What arguments ask for.
#[derive(Debug)]
pub struct ReadArgs {
    pub id: String,
    /// The arguments, as the job has read them.
    pub args: Value,
    /// Why no job can begin with them.
    pub start: Result<(), String>,
}

/// Where a job stands, as its row has it.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    pub args: &'a Value,
    /// `None`: it never began.
    pub state: Option<&'a Value>,
    pub undo: Option<&'a Value>,
    pub in_doubt: bool,
}

/// Where an act leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Led {
    To {
        lane: Option<String>,
        /// To the very state in which the job stands.
        stays: bool,
    },
    Nowhere,
    AttestFirst,
}

/// A job as a kind. Of the built-in ones the fields stand in `requests`.
struct Of<J>(Option<Kind>, PhantomData<fn() -> J>);

/// A kind of somebody's own.
pub fn own<J: Job>() -> Box<dyn AnyKind> {
    Box::new(Of::<J>(None, PhantomData))
}

pub fn built_in() -> Vec<Box<dyn AnyKind>> {
    Kind::ALL
        .into_iter()
        .map(|kind| with_job!(kind, J => Box::new(Of::<J>(Some(kind), PhantomData)) as Box<dyn AnyKind>))
        // Its contracts are a user's own, and it comes in as a user's own kind does.
        .chain([own::<Effect>()])
        .collect()
}

fn parse<T: DeserializeOwned>(value: &Value) -> Option<T> {
    serde_json::from_value(value.clone()).ok()
}

impl<J: Job> AnyKind for Of<J> {
    fn kind(&self) -> KindName {
        J::KIND
    }
    fn states(&self) -> &'static [&'static str] {
        J::STATES
    }
    fn undos(&self) -> &'static [&'static str] {
        J::UNDOS
    }
    fn problems(&self) -> &'static [Problem] {
        J::PROBLEMS
    }
    fn id_field(&self) -> Option<&'static str> {
        J::ID_FIELD
    }
    fn fields(&self) -> Option<&'static [Field]> {
        self.0.map_or(Some(J::FIELDS), requests::fields)
    }
    fn is_for_producers(&self) -> bool {
        self.0.map_or(J::FOR_PRODUCERS, requests::is_for_producers)
    }
    fn is_own(&self) -> bool {
        self.0.is_none()
    }
    fn fault(&self, args: &Value) -> Option<Fault> {
        match self.0 {
            Some(kind) => requests::fault(kind, args),
            None => requests::fields_fault(J::FIELDS, args),
        }
    }
    fn reads(&self, args: &str) -> Result<(), Fault> {
        requests::reads_as::<J::Args>(args)
    }
    fn asks_for(&self, args: &Value) -> Result<ReadArgs, String> {
        let request: J::Args = serde_json::from_value(args.clone()).map_err(|error| error.to_string())?;
        let start = J::start(&request).map(|_| ());
        Ok(ReadArgs { id: J::id(&request).0, args: serde_json::to_value(&request).unwrap_or_default(), start })
    }
    fn leads(&self, place: &Place<'_>, act: Act) -> Option<Led> {
        let args: J::Args = parse(place.args)?;
        let state: J::State = match place.state {
            Some(state) => parse(state)?,
            // A job that never began stands where it starts.
            None => J::start(&args).ok()?,
        };
        let past = Past::of(place.in_doubt);
        let forward =
            |next: &J::State| Led::To { lane: J::terms(&args, next).lane.map(|lane| lane.name), stays: *next == state };
        let Some(undo) = place.undo else {
            return Some(led(lead::<J>(&args, &state, act, past), |next| forward(&next)));
        };
        let undo: J::Undo = parse(undo)?;
        Some(led(lead_unwinding::<J>(&args, &undo, act, past), |redirect| match redirect {
            Redirect::To(next) => forward(&next),
            Redirect::Unwind(next) => {
                Led::To { lane: J::undo_lane(&args, &next).map(|lane| lane.name), stays: next == undo }
            }
            Redirect::Undone => Led::To { lane: None, stays: false },
        }))
    }
    fn follow_up(&self, follow_up: &FollowUp) -> Option<Box<RawValue>> {
        to_raw_value(follow_up.args::<J>()?).ok()
    }
}

fn led<P>(way: Way<P>, to: impl FnOnce(P) -> Led) -> Led {
    match way {
        Way::To(next) => to(next),
        Way::Nowhere => Led::Nowhere,
        Way::AttestFirst => Led::AttestFirst,
    }
}

/// What each page of the runbook says, under these headings.
pub const HEADINGS: [&str; 4] = ["## What it means for the money", "## How to look", "## What to do", "## Never"];

struct Kinds {
    all: Vec<Box<dyn AnyKind>>,
    names: Vec<&'static str>,
    pages: Vec<(&'static str, &'static str)>,
}

impl Kinds {
    fn new(all: Vec<Box<dyn AnyKind>>, pages: Vec<(&'static str, &'static str)>) -> Kinds {
        Kinds { names: all.iter().map(|kind| kind.kind().name()).collect(), all, pages }
    }
}

static KINDS: OnceLock<Kinds> = OnceLock::new();

/// Closes the list, with the pages of the runbook that come with it. False: it was closed before, and stays as it is.
pub fn close(all: Vec<Box<dyn AnyKind>>, pages: Vec<(&'static str, &'static str)>) -> bool {
    KINDS.set(Kinds::new(all, pages)).is_ok()
}

fn kinds() -> &'static Kinds {
    KINDS.get_or_init(|| Kinds::new(built_in(), vec![]))
}

/// Every kind of this program; where nobody closed the list, the built-in ones.
pub fn all() -> &'static [Box<dyn AnyKind>] {
    &kinds().all
}

pub fn names() -> &'static [&'static str] {
    &kinds().names
}

/// The runbook's page of a problem that the program brings; of the built-in ones they are files.
pub fn page(code: &str) -> Option<&'static str> {
    kinds().pages.iter().find(|(of, _)| *of == code).map(|(_, page)| *page)
}

/// The kind of that stored name; `None` where another version, or another program, wrote it.
pub fn get(name: &str) -> Option<&'static dyn AnyKind> {
    kinds().all.iter().find(|kind| kind.kind().name() == name).map(|kind| &**kind)
}
