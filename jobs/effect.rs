//! Effect: one call of a partner's HTTP interface that cannot be taken back, as a contract in TOML declares it. One machine for all contracts.
//!
//! | at | effect | lane | on crash | compensation | operator may |
//! |---|---|---|---|---|---|
//! | preparing | read_contract | – | repeat | – | retry → preparing, cancel → refused (not in doubt) |
//! | performing | perform | effect/refund | → inquiring | – | retry → performing, in doubt → inquiring, inquire → inquiring, cancel → refused, in doubt → cancelling, attest_void → refused (in doubt), attest_done → done (in doubt) |
//! | inquiring | inquire | effect/refund (reserved share) | repeat | – | retry → inquiring, inquire → inquiring, cancel → refused, in doubt → cancelling, attest_void → refused (in doubt), attest_done → done (in doubt) |
//! | cancelling | cancel | effect/refund (reserved share) | repeat, same id | – | retry → cancelling, attest_void → refused, attest_done → done |
//! | done | – | – | repeat | – | – |
//! | refused | – | – | repeat | – | rerun → preparing (not in doubt) |
//!
//! | at | answer | when | leads to |
//! |---|---|---|---|
//! | preparing | its contract |  | → performing |
//! | preparing | what was given does not fit the contract |  | fail: refused (effect_misfit) ! |
//! | preparing | no contract of that name · no key that seals |  | snooze |
//! | preparing | no contract of that name | for 10 minutes | ask (effect_undeclared) |
//! | preparing | no key that seals | for 10 minutes | ask (not_opened) |
//! | performing | done |  | done: done !, fact |
//! | performing | refused |  | fail: refused (effect_refused) ! |
//! | performing | throttled |  | snooze, lane throttled |
//! | performing | bad credentials |  | snooze, lane closed: credentials |
//! | performing | not sent |  | retry |
//! | performing | any | in doubt, past the horizon | ask (effect_unresolved) |
//! | inquiring | happened |  | done: done !, fact |
//! | inquiring | did not happen · not known yet |  | snooze |
//! | inquiring | did not happen | so long after the call that it settled | → performing ! |
//! | inquiring | did not happen | past the deadline | → performing ! |
//! | inquiring | not known yet · no answer · did not happen, and it was accepted | past the deadline | ask (effect_unresolved) |
//! | inquiring | throttled |  | snooze, lane throttled |
//! | inquiring | bad credentials |  | snooze, lane closed: credentials |
//! | inquiring | no answer |  | retry |
//! | inquiring | did not happen, and it was accepted | so long after the call that it settled | ask (effect_unresolved) |
//! | inquiring | not known yet, and it was accepted · no answer, and it was accepted | past the deadline | ask (effect_pending) |
//! | cancelling | any | the call may still land | snooze |
//! | cancelling | done |  | fail: refused (effect_cancelled) ! |
//! | cancelling | refused |  | ask (effect_not_cancelled) |
//! | cancelling | throttled |  | snooze, lane throttled |
//! | cancelling | bad credentials |  | snooze, lane closed: credentials |
//! | cancelling | not sent |  | retry |
//! | cancelling | not sent · unknown | past the deadline | ask (effect_not_cancelled) |
//! | cancelling | unknown |  | retry ? |
//!
//! | at | answer | when | repeat | inquire | ask |
//! |---|---|---|---|---|---|
//! | performing | accepted, not ready |  | snooze ? | → inquiring ? | ask (effect_unresolved) ? |
//! | performing | accepted, not ready | past the deadline | ask (effect_pending) ? | → inquiring ? | ask (effect_unresolved) ? |
//! | performing | unknown |  | retry ? | → inquiring ? | ask (effect_unresolved) ? |
//! | performing | unknown | past the deadline | ask (effect_unresolved) ? | → inquiring ? | ask (effect_unresolved) ? |
//!
//! A contract is read by the worker that begins the job; what the machine needs of it is kept in the state (`Deal`), so that a contract
//! which changes meanwhile changes no rule of a job under way. `{id}` is the job's id, with the number of its run behind it where a person
//! has run it again: within a run every call carries the same id.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    Field, Holds, JobId, KindName, Problem, UNTIL_OPENED,
    machine::{self, Act, Acts, Call, Closing, Job, Lane, Limits, Past, Step, Terms, This},
};

/// While no worker here has the contract, or the key that seals.
const PAUSE: Duration = Duration::from_secs(10);
/// Between two looks at what was accepted and is not ready, or may still land.
const LOOK: Duration = Duration::from_secs(2);

/// The lane of a contract.
pub fn lane(effect: &str) -> String {
    format!("effect/{effect}")
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Args {
    /// The name of the contract.
    pub effect: String,
    /// The job's id, unique over all contracts; it travels to the partner.
    pub id: String,
    /// What the contract's templates are filled with.
    #[serde(default)]
    pub input: BTreeMap<String, String>,
}

/// How doubt about a call is resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// The partner dedups on the id: the same call again is the inquiry.
    Repeat,
    /// The partner can be asked what became of an id.
    Inquire,
    /// Nothing can be known from here.
    AskAPerson,
}

/// What of its contract a job goes by, from its beginning to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deal {
    pub run: u16,
    pub rule: Rule,
    /// For so long the partner remembers an id.
    #[serde(default)]
    pub horizon_s: u64,
    /// What has not happened so long after a call will not happen any more.
    #[serde(default)]
    pub settles_after_s: u64,
    /// After so long a person is asked.
    pub deadline_s: u64,
    /// The contract can take the effect back.
    #[serde(default)]
    pub cancels: bool,
}

/// What is kept of an answer. No value is here in plain that the contract wants sealed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub plain: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sealed: BTreeMap<String, Sealed>,
}

/// A value that the vault opens alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    pub key_id: String,
    pub nonce: String,
    pub ciphertext: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "at", rename_all = "snake_case")]
pub enum State {
    Preparing {
        run: u16,
    },
    Performing {
        deal: Deal,
    },
    Inquiring {
        deal: Deal,
        /// The partner has accepted it, and had not finished.
        #[serde(default)]
        accepted: bool,
    },
    /// A person takes it back.
    Cancelling {
        deal: Deal,
    },
    Done {
        #[serde(default)]
        kept: Kept,
    },
    Refused {
        run: u16,
        why: Problem,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        detail: Option<String>,
    },
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Fact {
    pub effect: String,
    pub id: String,
    pub kept: BTreeMap<String, String>,
}

/// What the contract says of this job.
#[derive(Debug, Clone, PartialEq)]
pub enum Ready {
    Deal(Deal),
    /// What was given does not fit the contract.
    Misfit(String),
    /// This worker has no contract of that name.
    NoContract,
    /// The contract seals what it keeps, and this worker has no key.
    NoKey,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Perform {
    Done(Kept),
    Refused(String),
    Accepted,
    Throttled(Duration),
    BadCredentials,
    NotSent,
    Unknown,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Inquire {
    Happened(Kept),
    DidNotHappen,
    NotYet,
    Throttled(Duration),
    BadCredentials,
    NoAnswer,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Cancel {
    Done,
    Refused,
    Throttled(Duration),
    BadCredentials,
    NotSent,
    Unknown,
}

/// What an effect meets outside. `id` is the one that travels.
pub trait World: Send + Sync {
    fn read_contract<'a>(&'a self, args: &'a Args, run: u16) -> Call<'a, Ready>;
    fn perform<'a>(&'a self, args: &'a Args, id: &'a str) -> Call<'a, Perform>;
    fn inquire<'a>(&'a self, args: &'a Args, id: &'a str) -> Call<'a, Inquire>;
    fn cancel<'a>(&'a self, args: &'a Args, id: &'a str) -> Call<'a, Cancel>;
}

pub struct Effect;

/// What may travel in an address, a header and a body alike.
fn is_word(text: &str, most: usize) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (1..=most).contains(&text.len()) && text.bytes().all(fits) && !text.bytes().all(|byte| byte == b'.')
}

impl Job for Effect {
    const KIND: KindName = KindName::new("effect");
    const LIMITS: Limits = Limits { steps: 5_000, age: Duration::from_secs(31 * 24 * 60 * 60) };
    const STATES: &'static [&'static str] = &["preparing", "performing", "inquiring", "cancelling", "done", "refused"];
    const PROBLEMS: &'static [Problem] = &[
        Problem::EffectMisfit,
        Problem::EffectRefused,
        Problem::EffectRevoked,
        Problem::EffectCancelled,
        Problem::EffectAttestedVoid,
        Problem::EffectUndeclared,
        Problem::EffectUnresolved,
        Problem::EffectPending,
        Problem::EffectNotCancelled,
        Problem::NotOpened,
    ];
    const FIELDS: &'static [Field] = &[
        Field::needed("effect", Holds::Word { most: 40 }),
        Field::needed("id", Holds::Word { most: 100 }),
        Field::defaulted("input", Holds::Texts),
    ];
    const ID_FIELD: Option<&'static str> = Some("id");

    type Args = Args;
    type State = State;
    type World = dyn World;
    type Fact = Fact;
    machine::leaves_nothing_behind!(with facts);

    fn id(args: &Args) -> JobId {
        JobId(args.id.clone())
    }

    fn start(args: &Args) -> Result<State, String> {
        for (field, value, most) in [("effect", &args.effect, 40), ("id", &args.id, 100)] {
            if !is_word(value, most) {
                return Err(format!("`{field}` must have 1 to {most} letters, digits, `-`, `_` or `.`"));
            }
        }
        Ok(State::Preparing { run: 0 })
    }

    fn terms(args: &Args, state: &State) -> Terms<State> {
        let call = |effect, lane| Terms { effect, lane, tries: 200, deadline: Duration::from_secs(60) };
        let lane = lane(&args.effect);
        match state {
            State::Preparing { .. } => Terms::local(machine::Effect::Read("read_contract")),
            State::Performing { deal } => {
                let in_doubt = match deal.rule {
                    Rule::Repeat => machine::InDoubt::Repeat,
                    Rule::Inquire => machine::InDoubt::GoTo(inquiring(deal, false)),
                    Rule::AskAPerson => machine::InDoubt::AskOperator(Problem::EffectUnresolved),
                };
                call(machine::Effect::Write("perform", in_doubt), Lane::writes(lane))
            }
            State::Inquiring { .. } => call(machine::Effect::Read("inquire"), Lane::reserved(lane)),
            State::Cancelling { .. } => {
                call(machine::Effect::Write("cancel", machine::InDoubt::Repeat), Lane::reserved(lane))
            }
            State::Done { .. } | State::Refused { .. } => Terms::local(machine::Effect::Pure),
        }
    }

    fn acts(state: &State, past: Past) -> Acts<State> {
        let (clear, in_doubt) = (past == Past::Clear, past == Past::InDoubt);
        let refused = |run, why| State::Refused { run, why, detail: None };
        let again = Acts::none().to(Act::Retry, state.clone());
        match state {
            State::Preparing { run } => again.to_if(clear, Act::Cancel, || refused(*run, Problem::EffectRevoked)),
            State::Performing { deal } | State::Inquiring { deal, .. } => {
                let takes_back = in_doubt && deal.cancels;
                let cancel = if takes_back {
                    State::Cancelling { deal: deal.clone() }
                } else {
                    refused(deal.run, Problem::EffectRevoked)
                };
                again
                    .to_if(deal.rule == Rule::Inquire, Act::Inquire, || inquiring(deal, is_accepted(state)))
                    .to_if(clear || takes_back, Act::Cancel, || cancel)
                    .to_if(in_doubt, Act::AttestVoid, || refused(deal.run, Problem::EffectAttestedVoid))
                    .to_if(in_doubt, Act::AttestDone, || State::Done { kept: Kept::default() })
            }
            State::Cancelling { deal } => again
                .to(Act::AttestVoid, refused(deal.run, Problem::EffectAttestedVoid))
                .to(Act::AttestDone, State::Done { kept: Kept::default() }),
            State::Refused { run, .. } => Acts::none().to(Act::Rerun, State::Preparing { run: run.saturating_add(1) }),
            State::Done { .. } => Acts::none(),
        }
    }

    async fn step(this: &This<Args>, state: State, world: &Self::World) -> Step<Self> {
        match state {
            State::Preparing { run } => prepared(this, run, world.read_contract(&this.args, run).await),
            State::Performing { deal } if is_forgotten(this, &deal) => {
                Step::needs_operator("past_horizon", Problem::EffectUnresolved)
            }
            State::Performing { deal } => {
                let answer = world.perform(&this.args, &travels(&this.args, deal.run)).await;
                performed(this, deal, answer)
            }
            State::Inquiring { deal, accepted } => {
                let answer = world.inquire(&this.args, &travels(&this.args, deal.run)).await;
                inquired(this, deal, accepted, answer)
            }
            // What is on its way still would land behind the cancellation.
            State::Cancelling { deal } if may_land(this, &deal) => Step::snooze("early", LOOK),
            State::Cancelling { deal } => {
                let answer = world.cancel(&this.args, &travels(&this.args, deal.run)).await;
                cancelled(this, &deal, answer)
            }
            State::Done { kept } => done("over", this, kept),
            State::Refused { run, why, detail } => refuse("over", run, why, detail),
        }
    }
}

/// The id that a run's calls carry. `~` is in no id, so no other job has it.
fn travels(args: &Args, run: u16) -> String {
    if run == 0 { args.id.clone() } else { format!("{}~{run}", args.id) }
}

fn inquiring(deal: &Deal, accepted: bool) -> State {
    State::Inquiring { deal: deal.clone(), accepted }
}

const fn is_accepted(state: &State) -> bool {
    matches!(state, State::Inquiring { accepted: true, .. })
}

/// An earlier call may have had its effect, and the partner may not know the id any more.
fn is_forgotten(this: &This<Args>, deal: &Deal) -> bool {
    let since = this.since_call.unwrap_or_default();
    this.in_doubt && deal.rule == Rule::Repeat && since >= Duration::from_secs(deal.horizon_s)
}

fn may_land(this: &This<Args>, deal: &Deal) -> bool {
    this.since_call.is_some_and(|since| since < Duration::from_secs(deal.settles_after_s))
}

fn is_late(this: &This<Args>, deal: &Deal) -> bool {
    this.in_state >= Duration::from_secs(deal.deadline_s)
}

fn done(outcome: &'static str, this: &This<Args>, kept: Kept) -> Step<Effect> {
    let (effect, id) = (this.args.effect.clone(), this.args.id.clone());
    let fact = Fact { effect, id, kept: kept.plain.clone() };
    Step::done(outcome, State::Done { kept }).for_sure().fact(fact)
}

fn refuse(outcome: &'static str, run: u16, why: Problem, detail: Option<String>) -> Step<Effect> {
    Step::fail(outcome, State::Refused { run, why, detail }, why).for_sure()
}

fn prepared(this: &This<Args>, run: u16, ready: Ready) -> Step<Effect> {
    let waited = this.in_state >= UNTIL_OPENED;
    match ready {
        Ready::Deal(deal) => Step::advance("ready", State::Performing { deal }),
        Ready::Misfit(why) => refuse("misfit", run, Problem::EffectMisfit, Some(why)),
        Ready::NoContract if waited => Step::needs_operator("undeclared", Problem::EffectUndeclared),
        Ready::NoContract => Step::snooze("undeclared", PAUSE),
        Ready::NoKey if waited => Step::needs_operator("no_key", Problem::NotOpened),
        Ready::NoKey => Step::snooze("no_key", PAUSE),
    }
}

fn performed(this: &This<Args>, deal: Deal, answer: Perform) -> Step<Effect> {
    match (answer, deal.rule) {
        (Perform::Done(kept), _) => done("done", this, kept),
        (Perform::Refused(why), _) => refuse("refused", deal.run, Problem::EffectRefused, Some(why)),
        (Perform::Throttled(wait), _) => Step::snooze("throttled", wait).closing(Closing::Throttled(wait)),
        (Perform::BadCredentials, _) => Step::snooze("bad_credentials", Duration::ZERO).closing(Closing::Credentials),
        (Perform::NotSent, _) => Step::retry("not_sent"),
        (Perform::Accepted, Rule::Inquire) => Step::advance("accepted", inquiring(&deal, true)).in_doubt().after(LOOK),
        (Perform::Accepted, Rule::Repeat) if is_late(this, &deal) => {
            Step::needs_operator("accepted", Problem::EffectPending).in_doubt()
        }
        (Perform::Accepted, Rule::Repeat) => Step::snooze("accepted", LOOK).in_doubt(),
        // A contract by which nothing can be known has no such answer.
        (Perform::Accepted | Perform::Unknown, Rule::AskAPerson) => {
            Step::needs_operator("unknown", Problem::EffectUnresolved).in_doubt()
        }
        (Perform::Unknown, Rule::Inquire) => Step::advance("unknown", inquiring(&deal, false)).in_doubt(),
        (Perform::Unknown, Rule::Repeat) if is_late(this, &deal) => {
            Step::needs_operator("unknown", Problem::EffectUnresolved).in_doubt()
        }
        (Perform::Unknown, Rule::Repeat) => Step::retry("unknown").in_doubt(),
    }
}

fn inquired(this: &This<Args>, deal: Deal, accepted: bool, answer: Inquire) -> Step<Effect> {
    let problem = if accepted { Problem::EffectPending } else { Problem::EffectUnresolved };
    match answer {
        Inquire::Happened(kept) => done("happened", this, kept),
        Inquire::DidNotHappen if may_land(this, &deal) => Step::snooze("early", LOOK),
        // It was accepted: that it is not there any more is for a person to look at.
        Inquire::DidNotHappen if accepted => Step::needs_operator("vanished", Problem::EffectUnresolved),
        Inquire::DidNotHappen => Step::advance("did_not_happen", State::Performing { deal }).for_sure(),
        Inquire::Throttled(wait) => Step::snooze("throttled", wait).closing(Closing::Throttled(wait)),
        Inquire::BadCredentials => Step::snooze("bad_credentials", Duration::ZERO).closing(Closing::Credentials),
        Inquire::NotYet | Inquire::NoAnswer if is_late(this, &deal) => Step::needs_operator("late", problem),
        Inquire::NotYet => Step::snooze("not_yet", LOOK),
        Inquire::NoAnswer => Step::retry("no_answer"),
    }
}

fn cancelled(this: &This<Args>, deal: &Deal, answer: Cancel) -> Step<Effect> {
    match answer {
        Cancel::Done => refuse("cancelled", deal.run, Problem::EffectCancelled, None),
        Cancel::Refused => Step::needs_operator("not_cancelled", Problem::EffectNotCancelled),
        Cancel::Throttled(wait) => Step::snooze("throttled", wait).closing(Closing::Throttled(wait)),
        Cancel::BadCredentials => Step::snooze("bad_credentials", Duration::ZERO).closing(Closing::Credentials),
        Cancel::NotSent | Cancel::Unknown if is_late(this, deal) => {
            Step::needs_operator("not_cancelled", Problem::EffectNotCancelled)
        }
        Cancel::NotSent => Step::retry("not_sent"),
        Cancel::Unknown => Step::retry("unknown").in_doubt(),
    }
}
