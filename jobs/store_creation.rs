//! Store creation (店舗登録): one row of a customer's file becomes one shop on the organisation platform and one store here.
//!
//! | at | effect | lane | on crash | compensation | operator may |
//! |---|---|---|---|---|---|
//! | checking | look_up | – | repeat | – | retry → checking, cancel → refused (not in doubt) |
//! | creating | create_shop | org-platform | repeat, same id | – | retry → creating, inquire → finding, cancel → refused (not in doubt), attest_void → refused |
//! | finding | find_shop | org-platform (reserved share) | repeat | – | inquire → finding, attest_void → refused |
//! | assigning | assign_service | org-platform | repeat, same id | delete_shop | retry → assigning |
//! | registering | insert_store | – | repeat | delete_shop | retry → registering |
//! | created | – | – | repeat | – | – |
//! | skipped | – | – | repeat | – | – |
//! | refused | – | – | repeat | – | rerun → checking (not in doubt) |
//!
//! | at | answer | when | leads to |
//! |---|---|---|---|
//! | checking | no such store |  | → creating |
//! | checking | the same store is here |  | done: skipped |
//! | checking | a store with other content is here |  | fail: refused (store_conflict) ! |
//! | checking | another job of the public id is at work · the batch is paused · its address or phone does not open |  | snooze |
//! | checking | its address or phone does not open | for 10 minutes | ask (not_opened) |
//! | creating | created, now or under this key before |  | → assigning ! |
//! | creating | refused |  | fail: refused (shop_refused) ! |
//! | creating | the organisation is refused |  | fail: refused (organization_refused) !, fact |
//! | creating | the key is known with other content |  | ask (shop_key_conflict) ? |
//! | creating | throttled |  | snooze, lane throttled |
//! | creating | not sent |  | retry |
//! | creating | unknown |  | retry ? |
//! | creating | bad credentials |  | snooze, lane closed: credentials |
//! | creating | any | in doubt, and the key may be forgotten | → finding |
//! | finding | made under our key |  | → assigning ! |
//! | finding | made by somebody else |  | fail: refused (shop_refused) ! |
//! | finding | not found |  | → finding |
//! | finding | throttled |  | snooze, lane throttled |
//! | finding | no answer |  | retry |
//! | finding | bad credentials |  | snooze, lane closed: credentials |
//! | finding | not found | a second time | ask (shop_unresolved) |
//! | assigning | assigned · assigned already |  | → registering ! |
//! | assigning | the organisation is refused |  | fail: refused (organization_refused) !, fact |
//! | assigning | throttled |  | snooze, lane throttled |
//! | assigning | not sent · unknown |  | retry |
//! | assigning | not sent · unknown | tries spent | fail: refused (assign_spent) ! |
//! | assigning | bad credentials |  | snooze, lane closed: credentials |
//! | registering | inserted |  | done: created ! |
//! | registering | the public id is taken |  | fail: refused (store_conflict) ! |
//! | undo: delete_shop | deleted · not found |  | undone: failed (compensated) |
//! | undo: delete_shop | in use, or not allowed |  | ask (compensation_refused) |
//! | undo: delete_shop | throttled |  | snooze, lane throttled |
//! | undo: delete_shop | not sent · unknown · bad credentials |  | retry without end |
//! | undo: delete_shop | not sent · unknown · bad credentials | 10 tries, or an hour | retry without end, page (compensation_stuck) |
//!
//! The platform remembers an Idempotency-Key and its first answer, refusals too, for a day: within it, the same key again
//! tells the truth about every call made. What a job deletes is the very shop that it created, by the platform's id of it;
//! a service is assigned to an organisation and never unassigned, since its other stores rely on it (R52–R57).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    JobId, Kind, KindName, Problem, UNTIL_OPENED,
    machine::{
        Act, Acts, Call, Closing, Effect, InDoubt, Job, Lane, Limits, Past, Redirect, Step, Terms, This, Unwind,
    },
};

/// The rate budget of the platform, which fans each new shop out to systems of its own (R54).
pub const LANE: &str = "org-platform";
/// The platform forgets a key after a day; an hour is left for clocks and queues.
const HORIZON: Duration = Duration::from_secs(23 * 60 * 60);
/// While another job of the public id is at work.
const BLOCKED_PAUSE: Duration = Duration::from_secs(5);
/// While the batch is paused.
const PAUSED_PAUSE: Duration = Duration::from_secs(10);
/// Tries to assign the service before the shop is deleted again.
const ASSIGN_TRIES: u32 = 12;
/// Tries, or time, after which a person hears of a shop that cannot be deleted.
const UNDO_TRIES: u32 = 10;
const UNDO_PATIENCE: Duration = Duration::from_secs(60 * 60);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Args {
    /// The organisation that the store belongs to, by the platform's id.
    pub organization: String,
    /// The customer's own id of the store, unique here and within the organisation.
    pub public_id: String,
    pub name: String,
    /// Plain as earlier versions took it, and as files and HTTP do. What is asked for now is stored sealed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phone: Option<String>,
    /// Under which subject the sealed address and phone are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contact: Option<String>,
    /// Who asks: the batch of a file, or a producer's own word. A corrected file is another request.
    pub request: String,
}

/// One run of the job: after a clean failure another run asks under another key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    pub run: u16,
    /// The Idempotency-Key of `createShop`, committed before the call.
    pub key: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "at", rename_all = "snake_case")]
pub enum State {
    /// Whether the store is here already, or another job of its public id is at work.
    Checking {
        run: u16,
    },
    Creating {
        attempt: Attempt,
    },
    /// In doubt, and the key may be forgotten: the shop is looked for by public id.
    Finding {
        attempt: Attempt,
        not_found: u8,
    },
    Assigning {
        attempt: Attempt,
        shop: String,
    },
    Registering {
        attempt: Attempt,
        shop: String,
    },
    Created {
        shop: String,
    },
    /// The same store was here already.
    Skipped,
    Refused {
        run: u16,
        why: Problem,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        detail: Option<String>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "undo", rename_all = "snake_case")]
pub enum Undo {
    DeleteShop { attempt: Attempt, shop: String },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// Pauses the batch that this row came with.
    OrganizationRefused { organization: String },
}

/// What is here already.
#[derive(Debug, Clone, PartialEq)]
pub enum LookUp {
    Free,
    Same,
    /// The names of the fields that differ.
    Different(String),
    /// Another job of this public id is not done yet.
    Occupied,
    /// The batch is paused.
    Paused,
    /// An address or a phone that is sealed does not open here.
    Closed,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Create {
    /// Now, or earlier under this key.
    Created(String),
    Refused(String),
    OrganizationRefused,
    /// The key is known with other content.
    KeyConflict,
    Throttled(Duration),
    NotSent,
    Unknown,
    BadCredentials,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Find {
    /// Made under our key.
    Ours(String),
    /// Made by somebody else.
    Others,
    NotFound,
    Throttled(Duration),
    NoAnswer,
    BadCredentials,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Assign {
    Assigned,
    AlreadyAssigned,
    OrganizationRefused,
    Throttled(Duration),
    NotSent,
    Unknown,
    BadCredentials,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Insert {
    Inserted,
    /// The public id was taken meanwhile.
    Taken,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Delete {
    Deleted,
    NotFound,
    /// In use, or not ours to delete.
    Refused,
    Throttled(Duration),
    NotSent,
    Unknown,
    BadCredentials,
}

/// Everything that store creation can do to the world.
pub trait World: Send + Sync {
    /// In the transaction of the transition that follows.
    fn look_up<'a>(&'a self, args: &'a Args) -> Call<'a, LookUp>;
    fn create_shop<'a>(&'a self, args: &'a Args, key: &'a str) -> Call<'a, Create>;
    fn find_shop<'a>(&'a self, args: &'a Args, key: &'a str) -> Call<'a, Find>;
    /// Idempotent by organisation.
    fn assign_service<'a>(&'a self, args: &'a Args) -> Call<'a, Assign>;
    /// In the transaction of the transition that follows.
    fn insert_store<'a>(&'a self, args: &'a Args, shop: &'a str) -> Call<'a, Insert>;
    /// By the platform's id of the shop, never by public id.
    fn delete_shop<'a>(&'a self, shop: &'a str) -> Call<'a, Delete>;
}

pub struct StoreCreation;

impl Job for StoreCreation {
    const KIND: KindName = Kind::StoreCreation.as_name();
    const LIMITS: Limits = Limits { steps: 2_000, age: Duration::from_secs(14 * 24 * 60 * 60) };
    const STATES: &'static [&'static str] =
        &["checking", "creating", "finding", "assigning", "registering", "created", "skipped", "refused"];
    const UNDOS: &'static [&'static str] = &["delete_shop"];

    type Args = Args;
    type State = State;
    type Undo = Undo;
    type Fact = Fact;
    type World = dyn World;

    fn id(args: &Args) -> JobId {
        JobId(format!("{}/{}/{}", args.organization, args.public_id, args.request))
    }

    fn start(args: &Args) -> Result<State, String> {
        let fields = [("organization", &args.organization), ("public_id", &args.public_id), ("request", &args.request)];
        for (field, value) in fields {
            let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            if value.is_empty() || value.len() > 60 || !value.bytes().all(fits) {
                return Err(format!("`{field}` must have 1 to 60 letters, digits, `-`, `_` or `.`"));
            }
        }
        if args.name.is_empty() || args.name.len() > 400 {
            return Err("`name` must have 1 to 400 bytes".to_owned());
        }
        Ok(State::Checking { run: 0 })
    }

    fn terms(_: &Args, state: &State) -> Terms<State> {
        let call = |effect, lane| Terms { effect, lane, tries: 50, deadline: Duration::from_secs(60) };
        match state {
            State::Checking { .. } => Terms::local(Effect::Local("look_up")),
            State::Creating { .. } => call(Effect::Write("create_shop", InDoubt::Repeat), Lane::writes(LANE)),
            State::Finding { .. } => call(Effect::Read("find_shop"), Lane::reserved(LANE)),
            State::Assigning { .. } => call(Effect::Write("assign_service", InDoubt::Repeat), Lane::writes(LANE)),
            State::Registering { .. } => Terms::local(Effect::Local("insert_store")),
            State::Created { .. } | State::Skipped | State::Refused { .. } => Terms::local(Effect::Pure),
        }
    }

    fn leaves_behind(state: &State) -> Option<Undo> {
        match state {
            State::Assigning { attempt, shop } | State::Registering { attempt, shop } => {
                Some(Undo::DeleteShop { attempt: attempt.clone(), shop: shop.clone() })
            }
            State::Checking { .. }
            | State::Creating { .. }
            | State::Finding { .. }
            | State::Created { .. }
            | State::Skipped
            | State::Refused { .. } => None,
        }
    }

    fn acts(state: &State, past: Past) -> Acts<State> {
        let refused = |run, why| State::Refused { run, why, detail: None };
        let void = |attempt: &Attempt| refused(attempt.run, Problem::ShopAttestedVoid);
        // Nothing was called, or each call was answered and made nothing.
        let clear = past == Past::Clear;
        let again = Acts::none().to(Act::Retry, state.clone());
        match state {
            State::Checking { run } => again.to_if(clear, Act::Cancel, || refused(*run, Problem::StoreRevoked)),
            State::Creating { attempt } => again
                .to(Act::Inquire, State::Finding { attempt: attempt.clone(), not_found: 0 })
                .to_if(clear, Act::Cancel, || refused(attempt.run, Problem::StoreRevoked))
                .to(Act::AttestVoid, void(attempt)),
            State::Finding { attempt, .. } => {
                Acts::none().to(Act::Inquire, state.clone()).to(Act::AttestVoid, void(attempt))
            }
            State::Assigning { .. } | State::Registering { .. } => again,
            State::Refused { run, .. } => Acts::none().to(Act::Rerun, State::Checking { run: run.saturating_add(1) }),
            State::Created { .. } | State::Skipped => Acts::none(),
        }
    }

    fn operator_unwinding(undo: &Undo, act: Act) -> Option<Redirect<State, Undo>> {
        let Undo::DeleteShop { attempt, shop } = undo;
        match act {
            Act::Retry => Some(Redirect::Unwind(undo.clone())),
            Act::Adopt => Some(Redirect::To(State::Registering { attempt: attempt.clone(), shop: shop.clone() })),
            Act::AttestVoid => Some(Redirect::Undone),
            Act::Inquire | Act::Cancel | Act::Reissue | Act::Reject | Act::AttestDone | Act::Rerun => None,
            Act::Dismiss | Act::Acknowledge => None,
        }
    }

    async fn step(this: &This<Args>, state: State, world: &Self::World) -> Step<Self> {
        match state {
            State::Checking { run } => checked(this, run, world.look_up(&this.args).await),
            // An earlier call may have created it, and the platform may have forgotten the key.
            State::Creating { attempt } if this.in_doubt && this.since_call.is_some_and(|since| since > HORIZON) => {
                Step::advance("past_horizon", State::Finding { attempt, not_found: 0 })
            }
            State::Creating { attempt } => {
                let answer = world.create_shop(&this.args, &attempt.key).await;
                created(this, attempt, answer)
            }
            State::Finding { attempt, not_found } => {
                let answer = world.find_shop(&this.args, &attempt.key).await;
                found(attempt, not_found, answer)
            }
            State::Assigning { attempt, shop } => assigned(this, attempt, shop, world.assign_service(&this.args).await),
            State::Registering { attempt, shop } => match world.insert_store(&this.args, &shop).await {
                Insert::Inserted => Step::done("created", State::Created { shop }).for_sure(),
                Insert::Taken => refuse("taken", attempt.run, Problem::StoreConflict, None),
            },
            State::Created { shop } => Step::done("created", State::Created { shop }),
            State::Skipped => Step::done("skipped", State::Skipped),
            State::Refused { run, why, detail } => refuse("refused", run, why, detail),
        }
    }

    fn undo_lane(_: &Args, undo: &Undo) -> Option<Lane> {
        match undo {
            Undo::DeleteShop { .. } => Lane::reserved(LANE),
        }
    }

    async fn unwind(this: &This<Args>, undo: Undo, world: &Self::World) -> Unwind<Undo> {
        let Undo::DeleteShop { shop, .. } = &undo;
        match world.delete_shop(shop).await {
            Delete::Deleted | Delete::NotFound => Unwind::Undone,
            Delete::Refused => Unwind::NeedsOperator(Problem::CompensationRefused),
            Delete::Throttled(wait) => Unwind::Throttled(wait),
            Delete::NotSent | Delete::Unknown | Delete::BadCredentials
                if this.retries >= UNDO_TRIES || this.in_state >= UNDO_PATIENCE =>
            {
                Unwind::RetryAndPage(Problem::CompensationStuck)
            }
            Delete::NotSent | Delete::Unknown | Delete::BadCredentials => Unwind::Retry,
        }
    }
}

/// The key of a run's `createShop`: the same wherever and whenever it is computed.
fn key(args: &Args, run: u16) -> String {
    format!("{}/{run}", StoreCreation::id(args))
}

fn refuse(outcome: &'static str, run: u16, why: Problem, detail: Option<String>) -> Step<StoreCreation> {
    Step::fail(outcome, State::Refused { run, why, detail }, why).for_sure()
}

fn organization_refused(this: &This<Args>, run: u16) -> Step<StoreCreation> {
    let fact = Fact::OrganizationRefused { organization: this.args.organization.clone() };
    refuse("organization_refused", run, Problem::OrganizationRefused, None).fact(fact)
}

fn checked(this: &This<Args>, run: u16, answer: LookUp) -> Step<StoreCreation> {
    match answer {
        LookUp::Free => Step::advance("free", State::Creating { attempt: Attempt { run, key: key(&this.args, run) } }),
        LookUp::Same => Step::done("skipped", State::Skipped),
        LookUp::Different(fields) => refuse("conflict", run, Problem::StoreConflict, Some(fields)),
        LookUp::Occupied => Step::snooze("blocked", BLOCKED_PAUSE),
        LookUp::Paused => Step::snooze("paused", PAUSED_PAUSE),
        LookUp::Closed if this.in_state >= UNTIL_OPENED => Step::needs_operator("not_opened", Problem::NotOpened),
        LookUp::Closed => Step::snooze("not_opened", PAUSED_PAUSE),
    }
}

fn created(this: &This<Args>, attempt: Attempt, answer: Create) -> Step<StoreCreation> {
    match answer {
        Create::Created(shop) => Step::advance("created", State::Assigning { attempt, shop }).for_sure(),
        Create::Refused(reason) => refuse("refused", attempt.run, Problem::ShopRefused, Some(reason)),
        Create::OrganizationRefused => organization_refused(this, attempt.run),
        Create::KeyConflict => Step::needs_operator("key_conflict", Problem::ShopKeyConflict).in_doubt(),
        Create::Throttled(wait) => Step::snooze("throttled", wait).closing(Closing::Throttled(wait)),
        Create::NotSent => Step::retry("not_sent"),
        Create::Unknown => Step::retry("unknown").in_doubt(),
        Create::BadCredentials => Step::snooze("bad_credentials", Duration::ZERO).closing(Closing::Credentials),
    }
}

fn found(attempt: Attempt, not_found: u8, answer: Find) -> Step<StoreCreation> {
    match answer {
        Find::Ours(shop) => Step::advance("found", State::Assigning { attempt, shop }).for_sure(),
        Find::Others => refuse("taken", attempt.run, Problem::ShopRefused, Some("public_id_taken".to_owned())),
        Find::NotFound if not_found > 0 => Step::needs_operator("not_found", Problem::ShopUnresolved),
        Find::NotFound => {
            Step::advance("not_found", State::Finding { attempt, not_found: 1 }).after(Duration::from_secs(60))
        }
        Find::Throttled(wait) => Step::snooze("throttled", wait).closing(Closing::Throttled(wait)),
        Find::NoAnswer => Step::retry("no_answer"),
        Find::BadCredentials => Step::snooze("bad_credentials", Duration::ZERO).closing(Closing::Credentials),
    }
}

/// What became of an assignment that is never taken back is of no consequence: it may be asked for again at any time.
fn assigned(this: &This<Args>, attempt: Attempt, shop: String, answer: Assign) -> Step<StoreCreation> {
    match answer {
        Assign::Assigned | Assign::AlreadyAssigned => {
            Step::advance("assigned", State::Registering { attempt, shop }).for_sure()
        }
        Assign::OrganizationRefused => organization_refused(this, attempt.run),
        Assign::Throttled(wait) => Step::snooze("throttled", wait).closing(Closing::Throttled(wait)),
        Assign::NotSent | Assign::Unknown if this.retries >= ASSIGN_TRIES => {
            refuse("assign_spent", attempt.run, Problem::AssignSpent, None)
        }
        Assign::NotSent => Step::retry("not_sent"),
        Assign::Unknown => Step::retry("unknown"),
        Assign::BadCredentials => Step::snooze("bad_credentials", Duration::ZERO).closing(Closing::Credentials),
    }
}
