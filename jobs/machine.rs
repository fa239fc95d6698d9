//! The language the jobs are written in.
//!
//! A job is a closed state machine. Each step makes at most one outside call, and the call answers with an outcome enum of
//! the job's own, never with `Result`: `?` would turn "the money may have moved" into "retry" without a reader noticing.

use std::{fmt, future::Future, pin::Pin, time::Duration};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{Field, FollowUp, KindName, Problem};

/// The stable idempotency id of a job, unique within its kind. Never empty, at most 200 bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct JobId(pub String);

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What an outside call is, as a value: a `World` hands these out.
pub type Call<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// For a job that leaves nothing behind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Never {}

/// What a state does to the world.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect<S> {
    /// Decides; touches nothing.
    Pure,
    /// Asks; may be repeated freely.
    Read(&'static str),
    /// Changes something outside. `InDoubt` says what to do when a worker died between the call and its recorded outcome.
    Write(&'static str, InDoubt<S>),
    /// An operation in our own database, committed in one transaction with the transition that its outcome chooses.
    Local(&'static str),
}

impl<S> Effect<S> {
    pub const fn name(&self) -> &'static str {
        match self {
            Effect::Pure => "–",
            Effect::Read(name) | Effect::Write(name, _) | Effect::Local(name) => name,
        }
    }

    pub const fn is_write(&self) -> bool {
        match self {
            Effect::Write(..) => true,
            Effect::Pure | Effect::Read(_) | Effect::Local(_) => false,
        }
    }
}

/// What a job in doubt does next. A required argument of every write.
#[derive(Debug, Clone, PartialEq)]
pub enum InDoubt<S> {
    /// The far side dedups on our id: the same call again is the inquiry.
    Repeat,
    /// Doubt is resolved somewhere else: usually by an inquiry.
    GoTo(S),
    /// Nothing can be known from here.
    AskOperator(Problem),
}

/// The rate budget that a call draws from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lane {
    pub name: String,
    /// Inquiries and unwinding: a reserved share, and passage through a lane closed to new writes.
    pub reserved: bool,
}

impl Lane {
    pub fn writes(name: impl Into<String>) -> Option<Lane> {
        Some(Lane { name: name.into(), reserved: false })
    }

    pub fn reserved(name: impl Into<String>) -> Option<Lane> {
        Some(Lane { name: name.into(), reserved: true })
    }
}

/// The terms on which a state runs.
#[derive(Debug, Clone, PartialEq)]
pub struct Terms<S> {
    pub effect: Effect<S>,
    pub lane: Option<Lane>,
    /// How many `Retry`s this state has before a person is asked.
    pub tries: u32,
    /// How long one step may take; past it, a write's outcome is unknown.
    pub deadline: Duration,
}

impl<S> Terms<S> {
    /// A state that only decides, or works in our own database.
    pub const fn local(effect: Effect<S>) -> Self {
        Terms { effect, lane: None, tries: 5, deadline: Duration::from_secs(10) }
    }
}

/// A bound on the whole job; it catches endless loops.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub steps: u32,
    /// Age without lane waits and without unwinding.
    pub age: Duration,
}

/// What a step knows of its job beside the state. All times are intervals by the database's clock.
#[derive(Debug, Clone)]
pub struct This<A> {
    pub args: A,
    /// Without the waits in lanes.
    pub age: Duration,
    /// Since the state's name last changed.
    pub in_state: Duration,
    /// Since the first call that the doubt may go back to; `None` where no call was made since doubt was last settled.
    pub since_call: Option<Duration>,
    /// `Retry`s in this state so far.
    pub retries: u32,
    /// An earlier call's outcome is not known.
    pub in_doubt: bool,
}

/// Where a step leads.
#[derive(Debug, Clone, PartialEq)]
pub enum Transition<S> {
    /// On to the next state; the engine commits it, with the facts and follow-ups, before anything else happens.
    Advance(S),
    /// The same state again, later; counts as a try.
    Retry,
    /// The same state again, later; not an attempt.
    Snooze(Duration),
    /// Over, with success, at a state that carries the result.
    Done(S),
    /// Over, cleanly. If the place leaves something behind, that is taken back first.
    Fail(S, Problem),
    /// Parked; the job keeps its place until a person acts.
    NeedsOperator(Problem),
}

/// Whether the step's answer says anything about every call made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Doubt {
    /// It says nothing about earlier calls.
    #[default]
    AsBefore,
    /// A call of this step may have had its effect.
    Raised,
    /// A definite answer about every call made.
    Settled,
}

/// A closing of the lane that an answer asked for: for the whole fleet, where the fact is the account's; a fact of one process closes
/// nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closing {
    /// 429 or Retry-After: nobody calls for this long.
    Throttled(Duration),
    /// Out of funds: new writes wait until an operator opens the lane.
    Funds,
    /// Bad credentials or a blocked account: nobody calls until an operator opens the lane.
    Credentials,
    /// The account may not send in this sender's name: nobody calls until an operator opens the lane.
    Sender,
    /// The other side is not who the settings say, or cannot be spoken with in private: nobody calls until an operator opens the lane.
    Tls(Tls),
    /// Nothing closes. This process keeps away from the lane for a while, and the others go on.
    Process(Unfit),
}

/// What is wrong with a connection that must be private.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tls {
    /// Its certificate is signed by nobody whom this machine trusts.
    UnknownCa,
    /// Its certificate is over, or not valid yet.
    Expired,
    /// Its certificate is another host's.
    WrongHost,
    /// It speaks no version that is safe.
    OldVersion,
    /// Anything else that keeps the two from agreeing.
    Failed,
}

/// What is wrong with one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unfit {
    /// Its clock is off, so that its signatures are refused, or it takes certificates for expired.
    Clock,
    /// It finds no credentials, or those that it finds are over.
    Keys,
    /// It trusts nobody who signed the partner's certificate, and others may.
    Trust,
}

impl Closing {
    /// As it is stored with the lane, and shown; permanent. `None`: it opens by itself, or closes nothing.
    pub const fn code(self) -> Option<&'static str> {
        match self {
            Closing::Throttled(_) | Closing::Process(_) => None,
            Closing::Funds => Some("funds"),
            Closing::Credentials => Some("credentials"),
            Closing::Sender => Some("sender"),
            Closing::Tls(Tls::UnknownCa) => Some("tls_unknown_ca"),
            Closing::Tls(Tls::Expired) => Some("tls_expired"),
            Closing::Tls(Tls::WrongHost) => Some("tls_wrong_host"),
            Closing::Tls(Tls::OldVersion) => Some("tls_old_version"),
            Closing::Tls(Tls::Failed) => Some("tls_failed"),
        }
    }

    /// For tables and logs.
    pub const fn words(self) -> &'static str {
        match self {
            Closing::Throttled(_) => "lane throttled",
            Closing::Funds => "lane closed: funds",
            Closing::Credentials => "lane closed: credentials",
            Closing::Sender => "lane closed: sender",
            Closing::Tls(_) => "lane closed: tls",
            Closing::Process(Unfit::Clock) => "this process keeps away: clock",
            Closing::Process(Unfit::Keys) => "this process keeps away: keys",
            Closing::Process(Unfit::Trust) => "this process keeps away: trust",
        }
    }
}

impl Unfit {
    pub const ALL: [Unfit; 3] = [Unfit::Clock, Unfit::Keys, Unfit::Trust];

    pub const fn name(self) -> &'static str {
        match self {
            Unfit::Clock => "clock",
            Unfit::Keys => "keys",
            Unfit::Trust => "trust",
        }
    }
}

/// All that a step decides, committed in one transaction.
#[derive(Debug, Clone, PartialEq)]
pub struct Step<J: Job> {
    pub transition: Transition<J::State>,
    /// The outcome's name, for the journal and the metrics.
    pub outcome: &'static str,
    pub doubt: Doubt,
    pub after: Option<Duration>,
    pub closing: Option<Closing>,
    pub facts: Vec<J::Fact>,
    pub follow_ups: Vec<FollowUp>,
}

impl<J: Job> Step<J> {
    fn new(outcome: &'static str, transition: Transition<J::State>) -> Self {
        Step {
            transition,
            outcome,
            doubt: Doubt::AsBefore,
            after: None,
            closing: None,
            facts: vec![],
            follow_ups: vec![],
        }
    }

    pub fn advance(outcome: &'static str, state: J::State) -> Self {
        Self::new(outcome, Transition::Advance(state))
    }
    pub fn retry(outcome: &'static str) -> Self {
        Self::new(outcome, Transition::Retry)
    }
    pub fn snooze(outcome: &'static str, pause: Duration) -> Self {
        Self::new(outcome, Transition::Snooze(pause))
    }
    pub fn done(outcome: &'static str, state: J::State) -> Self {
        Self::new(outcome, Transition::Done(state))
    }
    pub fn fail(outcome: &'static str, state: J::State, why: Problem) -> Self {
        Self::new(outcome, Transition::Fail(state, why))
    }
    pub fn needs_operator(outcome: &'static str, why: Problem) -> Self {
        Self::new(outcome, Transition::NeedsOperator(why))
    }

    /// A call of this step may have had its effect.
    #[must_use]
    pub fn in_doubt(mut self) -> Self {
        self.doubt = Doubt::Raised;
        self
    }
    /// The answer is definite about every call made.
    #[must_use]
    pub fn for_sure(mut self) -> Self {
        self.doubt = Doubt::Settled;
        self
    }
    /// Not before this long from now.
    #[must_use]
    pub fn after(mut self, pause: Duration) -> Self {
        self.after = Some(pause);
        self
    }
    #[must_use]
    pub fn closing(mut self, closing: Closing) -> Self {
        self.closing = Some(closing);
        self
    }
    #[must_use]
    pub fn fact(mut self, fact: J::Fact) -> Self {
        self.facts.push(fact);
        self
    }
    #[must_use]
    pub fn follow_up(mut self, request: impl Into<FollowUp>) -> Self {
        self.follow_ups.push(request.into());
        self
    }
}

/// Where unwinding leads. It can neither succeed nor fail: it ends when nothing is left behind.
#[derive(Debug, Clone, PartialEq)]
pub enum Unwind<U> {
    Advance(U),
    /// Again, later, without end: compensation is never given up.
    Retry,
    /// The same, and a person is told.
    RetryAndPage(Problem),
    Snooze(Duration),
    /// As `Snooze`, and the lane closes for the whole fleet: a 429 or Retry-After.
    Throttled(Duration),
    Undone,
    NeedsOperator(Problem),
}

/// What an operator may do to a job that stands still. Names are stored in the audit: they are permanent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Act {
    /// The same job again, from where it stands.
    Retry,
    /// Ask the provider once more.
    Inquire,
    /// Take the effect back, where the provider allows.
    Cancel,
    /// A person has evidence that the effect did not and cannot happen.
    AttestVoid,
    /// A new generation with a new id; only from a proven void.
    Reissue,
    /// End it as refused; only from a proven void.
    Reject,
    /// A person has evidence that the effect did happen.
    AttestDone,
    /// A job that failed cleanly, from its start, under new ids.
    Rerun,
    /// Keep what could not be taken back, as if the job had succeeded.
    Adopt,
    /// End a row that nobody can read and that never began. No state leads there: the database sees to it, without a worker.
    Dismiss,
    /// A person has seen that the job is parked: no alert counts it any more, until it is parked anew. The job stays as it is.
    Acknowledge,
}

/// Acts that are allowed at one place, and where each of them leads.
#[derive(Debug, Clone, PartialEq)]
pub struct Acts<S>(Vec<(Act, S)>);

impl<S> Acts<S> {
    pub const fn none() -> Self {
        Acts(vec![])
    }

    pub fn to(self, act: Act, state: S) -> Self {
        self.to_some(act, Some(state))
    }

    pub fn to_if(self, allowed: bool, act: Act, state: impl FnOnce() -> S) -> Self {
        self.to_some(act, allowed.then(state))
    }

    pub fn to_some(mut self, act: Act, state: Option<S>) -> Self {
        self.0.extend(state.map(|state| (act, state)));
        self
    }

    /// Where this act leads; `None` where it is not allowed.
    pub fn leads(self, act: Act) -> Option<S> {
        self.0.into_iter().find_map(|(allowed, state)| (allowed == act).then_some(state))
    }
}

/// What is known of the calls that were made for a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Past {
    /// No call can have had an effect that is not recorded: none was made, or each was answered.
    Clear,
    /// A call was made, and whether it took effect is not known.
    InDoubt,
}

impl Past {
    pub const fn of(in_doubt: bool) -> Past {
        if in_doubt { Past::InDoubt } else { Past::Clear }
    }
}

/// Where an act leads: the job's state table, and above it what holds for every job.
#[derive(Debug, Clone, PartialEq)]
pub enum Lead<P> {
    To(P),
    /// The state table does not allow it here.
    Nowhere,
    /// It would call anew while it is not known what became of the last call: only evidence opens this way.
    AttestFirst,
}

/// Where an act leads a job from this state.
///
/// While a job is in doubt nothing but a person's evidence lets it call anew: a retry goes where the doubt is resolved, or nowhere.
pub fn lead<J: Job>(args: &J::Args, state: &J::State, act: Act, past: Past) -> Lead<J::State> {
    match J::acts(state, past).leads(act) {
        None => Lead::Nowhere,
        Some(next) => lawful::<J>(args, Some(state), next, act, past),
    }
}

/// The same for a job that is being taken back.
pub fn lead_unwinding<J: Job>(
    args: &J::Args,
    undo: &J::Undo,
    act: Act,
    past: Past,
) -> Lead<Redirect<J::State, J::Undo>> {
    match J::operator_unwinding(undo, act) {
        None => Lead::Nowhere,
        Some(Redirect::To(next)) => match lawful::<J>(args, None, next, act, past) {
            Lead::To(next) => Lead::To(Redirect::To(next)),
            Lead::Nowhere => Lead::Nowhere,
            Lead::AttestFirst => Lead::AttestFirst,
        },
        // Taking back is the same call again, until it is answered.
        Some(on @ (Redirect::Unwind(_) | Redirect::Undone)) => Lead::To(on),
    }
}

fn lawful<J: Job>(args: &J::Args, from: Option<&J::State>, next: J::State, act: Act, past: Past) -> Lead<J::State> {
    let attests = match act {
        Act::AttestVoid | Act::AttestDone => true,
        Act::Retry | Act::Inquire | Act::Cancel | Act::Reissue | Act::Reject => false,
        Act::Rerun | Act::Adopt | Act::Dismiss | Act::Acknowledge => false,
    };
    if past == Past::Clear || attests {
        return Lead::To(next);
    }
    // Elsewhere a retry is another call, whatever state stands before it.
    let anew = match act {
        Act::Retry => from != Some(&next),
        Act::Reissue | Act::Rerun => true,
        Act::Inquire | Act::Cancel | Act::AttestVoid | Act::Reject => false,
        Act::AttestDone | Act::Adopt | Act::Dismiss | Act::Acknowledge => false,
    };
    if anew {
        return Lead::AttestFirst;
    }
    match J::terms(args, &next).effect {
        Effect::Write(_, InDoubt::AskOperator(_)) => Lead::AttestFirst,
        Effect::Write(_, InDoubt::GoTo(elsewhere)) => Lead::To(elsewhere),
        Effect::Write(_, InDoubt::Repeat) | Effect::Pure | Effect::Read(_) | Effect::Local(_) => Lead::To(next),
    }
}

/// Where an operator's act leads a job that is being taken back.
#[derive(Debug, Clone, PartialEq)]
pub enum Redirect<S, U> {
    /// Forward again, to this state.
    To(S),
    /// Taking back goes on.
    Unwind(U),
    /// A person has seen to it that nothing is left behind.
    Undone,
}

impl Act {
    pub const ALL: [Act; 11] = [
        Act::Retry,
        Act::Inquire,
        Act::Cancel,
        Act::AttestVoid,
        Act::Reissue,
        Act::Reject,
        Act::AttestDone,
        Act::Rerun,
        Act::Adopt,
        Act::Dismiss,
        Act::Acknowledge,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Act::Retry => "retry",
            Act::Inquire => "inquire",
            Act::Cancel => "cancel",
            Act::AttestVoid => "attest_void",
            Act::Reissue => "reissue",
            Act::Reject => "reject",
            Act::AttestDone => "attest_done",
            Act::Rerun => "rerun",
            Act::Adopt => "adopt",
            Act::Dismiss => "dismiss",
            Act::Acknowledge => "acknowledge",
        }
    }

    /// It takes a person's word about money: a second person confirms it (`noshi.word_act` is the same list).
    pub const fn takes_a_word(self) -> bool {
        match self {
            Act::AttestVoid | Act::Reissue | Act::Adopt => true,
            Act::Retry | Act::Inquire | Act::Cancel | Act::Reject | Act::AttestDone | Act::Rerun => false,
            Act::Dismiss | Act::Acknowledge => false,
        }
    }

    pub fn from_name(name: &str) -> Option<Act> {
        Act::ALL.into_iter().find(|act| act.name() == name)
    }
}

/// One kind of job.
pub trait Job: Sized + Send + Sync + 'static {
    const KIND: KindName;
    const LIMITS: Limits;
    /// The stored names of all states, and of all that may be left to take back. A worker leaves a job alone that stands at a name which
    /// it does not know: a newer version wrote it.
    const STATES: &'static [&'static str];
    const UNDOS: &'static [&'static str];
    /// Every problem of its own that a step of it can name. The engine's own, which any job may meet, are not among them.
    const PROBLEMS: &'static [Problem] = &[];
    /// The fields of its arguments, as every entry point checks them: what workers cannot read is refused where it is asked for.
    const FIELDS: &'static [Field] = &[];
    /// The field that a job's id must be, where it is one of them: equal requests are one job whoever asks, and the database sees to it.
    const ID_FIELD: Option<&'static str> = None;
    /// Whether a producer may ask for it. What only follows from other jobs says no.
    const FOR_PRODUCERS: bool = true;

    /// What a producer asks for. New fields get `#[serde(default)]`.
    type Args: Serialize + DeserializeOwned + Clone + Send + Sync + 'static;
    /// Where the job stands; serde-tagged `at`. State names are stored: they are permanent.
    type State: Serialize + DeserializeOwned + Clone + fmt::Debug + PartialEq + Send + Sync;
    /// What is left to take back; `Never` where nothing is.
    type Undo: Serialize + DeserializeOwned + Clone + fmt::Debug + PartialEq + Send + Sync;
    /// What a transition may record beside the state: inserted, never updated, unable to conflict.
    type Fact: Clone + fmt::Debug + PartialEq + Send + Sync;
    /// Everything that this job can do to the world.
    type World: ?Sized + Send + Sync;

    /// Equal requests have equal ids.
    fn id(args: &Self::Args) -> JobId;
    /// `Err` names the field that cannot be.
    fn start(args: &Self::Args) -> Result<Self::State, String>;
    fn terms(args: &Self::Args, state: &Self::State) -> Terms<Self::State>;
    /// What giving up *here* leaves to be taken back: compensation is a function of the place.
    fn leaves_behind(state: &Self::State) -> Option<Self::Undo>;
    /// What an operator may do here, and where it leads. Asked by [`lead`] alone, which adds what holds for every job.
    fn acts(state: &Self::State, past: Past) -> Acts<Self::State>;
    /// What an act records beside the state that it leads to: a person's word about a call is a fact like an answer.
    fn recorded(_from: &Self::State, _to: &Self::State, _act: Act) -> Vec<Self::Fact> {
        vec![]
    }
    /// The same for a job that is being taken back.
    fn operator_unwinding(undo: &Self::Undo, act: Act) -> Option<Redirect<Self::State, Self::Undo>>;
    /// At most one outside call.
    fn step(
        this: &This<Self::Args>,
        state: Self::State,
        world: &Self::World,
    ) -> impl Future<Output = Step<Self>> + Send;
    /// The lane that taking this back draws from.
    fn undo_lane(args: &Self::Args, undo: &Self::Undo) -> Option<Lane>;
    /// At most one outside call; it can neither succeed nor fail.
    fn unwind(
        this: &This<Self::Args>,
        undo: Self::Undo,
        world: &Self::World,
    ) -> impl Future<Output = Unwind<Self::Undo>> + Send;
}

/// Texts that the ledger of points can hold, by their fields: 1 to `most` bytes, and not of spaces alone.
pub(crate) fn texts_fit(most: usize, texts: &[(&str, &str)]) -> Result<(), String> {
    let wrong = texts.iter().find(|(_, text)| text.trim().is_empty() || text.len() > most);
    wrong.map_or(Ok(()), |(field, _)| Err(format!("`{field}` must have 1 to {most} bytes")))
}

/// An area of use is named, or there is none.
pub(crate) fn area_is_named(area: Option<&str>) -> Result<(), String> {
    match area {
        Some("") => Err("`area` must name one, or be left out".to_owned()),
        Some(_) | None => Ok(()),
    }
}

/// The part of a `Job` that takes nothing back, because giving it up leaves nothing behind. With its facts, or with none.
macro_rules! leaves_nothing_behind {
    () => {
        type Fact = $crate::machine::Never;
        $crate::machine::leaves_nothing_behind!(with facts);
    };
    (with facts) => {
        const UNDOS: &'static [&'static str] = &[];
        type Undo = $crate::machine::Never;

        fn leaves_behind(_: &Self::State) -> Option<Self::Undo> {
            None
        }

        fn operator_unwinding(
            undo: &Self::Undo,
            _: $crate::machine::Act,
        ) -> Option<$crate::machine::Redirect<Self::State, Self::Undo>> {
            match *undo {}
        }

        fn undo_lane(_: &Self::Args, undo: &Self::Undo) -> Option<$crate::machine::Lane> {
            match *undo {}
        }

        async fn unwind(
            _: &$crate::machine::This<Self::Args>,
            undo: Self::Undo,
            _: &Self::World,
        ) -> $crate::machine::Unwind<Self::Undo> {
            match undo {}
        }
    };
}
pub(crate) use leaves_nothing_behind;
