//! Gift issuance (発券): one grant becomes one gift code, at most once per trade id.
//!
//! | at | effect | lane | on crash | compensation | operator may |
//! |---|---|---|---|---|---|
//! | routing | start_trade | – | repeat | – | retry → routing, inquire → seeking (in doubt), cancel → rejected (not in doubt), attest_void → routing (in doubt) |
//! | seeking | seek | – | repeat | – | retry → seeking, inquire → seeking (in doubt), attest_void → routing (in doubt) |
//! | asking | inquire | gift/p (reserved share) | repeat | – | retry → asking, inquire → seeking (in doubt), attest_void → routing (in doubt) |
//! | issuing | issue | gift/p | → inquiring | – | retry → issuing, in doubt → inquiring, inquire → inquiring, cancel → rejected, in doubt → cancelling, attest_void → void |
//! | inquiring | inquire | gift/p (reserved share) | repeat | – | inquire → inquiring, attest_void → void |
//! | pending | inquire | gift/p (reserved share) | repeat | – | retry → pending, inquire → inquiring, attest_void → void (in doubt) |
//! | cancelling | cancel | gift/p (reserved share) | repeat, same id | – | retry → cancelling, inquire → pending, attest_void → void |
//! | void | – | – | repeat | – | attest_void → void (in doubt), reissue → routing (not in doubt), reject → rejected (not in doubt) |
//! | issued | – | – | repeat | – | cancel → cancelling |
//! | rejected | – | – | repeat | – | – |
//! | lapsed | – | – | repeat | – | – |
//!
//! | at | answer | when | leads to |
//! |---|---|---|---|
//! | routing | trade saved |  | → issuing |
//! | routing | restored: may be called already |  | → issuing ? |
//! | routing | restored: at any of several |  | ask (doubt_unresolved) ? |
//! | routing | no provider |  | fail: rejected (no_provider) |
//! | routing | no provider | paid by points | fail: rejected (no_provider), follow-up |
//! | routing | valid days passed |  | fail: lapsed (grant_lapsed) |
//! | routing | valid days passed | paid by points | fail: lapsed (grant_lapsed), follow-up |
//! | routing | occupied |  | ask (trade_occupied) |
//! | seeking | another may have been called |  | → asking |
//! | seeking | none of all of them knows it |  | ask (not_found_in_doubt) |
//! | seeking | none knows it of those that can be asked |  | ask (doubt_unresolved) |
//! | seeking | nothing is noted of its past |  | → routing |
//! | seeking | one knows it |  | → inquiring |
//! | seeking | one knows it, occupied |  | ask (trade_occupied) |
//! | asking | live · accepted, not ready · known by a reference · given up by the provider · not found · dead · same id, other amount |  | → seeking |
//! | asking | throttled |  | snooze, lane throttled |
//! | asking | no answer |  | retry |
//! | asking | bad credentials |  | snooze, lane closed: credentials |
//! | issuing | issued |  | done: issued !, fact |
//! | issuing | resend |  | retry ? |
//! | issuing | refused |  | fail: rejected (gift_refused), fact |
//! | issuing | refused | paid by points | fail: rejected (gift_refused), fact, follow-up |
//! | issuing | throttled |  | snooze, lane throttled |
//! | issuing | not sent |  | retry |
//! | issuing | success of a dead card |  | → void !, fact |
//! | issuing | same id, other amount |  | ask (gift_conflict) ? |
//! | issuing | out of funds |  | snooze, lane closed: funds |
//! | issuing | bad credentials |  | snooze, lane closed: credentials |
//! | inquiring | live |  | done: issued !, fact |
//! | inquiring | accepted, not ready |  | → pending ! |
//! | inquiring | known by a reference · not found twice, refused before |  | → inquiring |
//! | inquiring | given up by the provider |  | fail: rejected (gift_refused) !, fact |
//! | inquiring | given up by the provider | paid by points | fail: rejected (gift_refused) !, fact, follow-up |
//! | inquiring | dead |  | → void !, fact |
//! | inquiring | same id, other amount |  | ask (gift_conflict) |
//! | inquiring | throttled |  | snooze, lane throttled |
//! | inquiring | no answer · known, and no details again · known, and not found then |  | retry |
//! | inquiring | bad credentials |  | snooze, lane closed: credentials |
//! | inquiring | not found twice, refused before | patience spent | ask (doubt_unresolved) |
//! | pending | live |  | done: issued !, fact |
//! | pending | accepted, not ready · not found · no answer · known, and no details again · known, and not found then · live, after an accepted cancel |  | snooze |
//! | pending | accepted, not ready · not found · no answer · known, and no details again · known, and not found then | patience spent | ask (pending_too_long) |
//! | pending | known by a reference |  | → pending |
//! | pending | given up by the provider |  | fail: rejected (gift_refused) !, fact |
//! | pending | given up by the provider | paid by points | fail: rejected (gift_refused) !, fact, follow-up |
//! | pending | dead · given up by the provider, after an accepted cancel · given up by the provider, delivered before |  | → void !, fact |
//! | pending | same id, other amount |  | ask (gift_conflict) |
//! | pending | throttled |  | snooze, lane throttled |
//! | pending | bad credentials |  | snooze, lane closed: credentials |
//! | pending | live, after an accepted cancel · accepted, not ready, after an accepted cancel · not found, after an accepted cancel · no answer, after an accepted cancel | patience spent | ask (cancel_refused) |
//! | pending | live, delivered before |  | done: issued ! |
//! | cancelling | cancelled |  | → void !, fact |
//! | cancelling | too late or claimed · not found |  | ask (cancel_refused) ? |
//! | cancelling | throttled |  | snooze, lane throttled |
//! | cancelling | not sent |  | retry |
//! | cancelling | not sent · unknown | patience spent | ask (cancel_refused) ? |
//! | cancelling | unknown |  | retry ? |
//! | cancelling | bad credentials |  | snooze, lane closed: credentials |
//! | cancelling | too late, and delivered before |  | done: issued ! |
//! | void | the provider told us to reissue |  | no call: → routing |
//! | void | three generations void · a person decides |  | no call: ask (gift_void) |
//! | void | three generations void · a person decides | paid by points | fail: rejected (gift_void), follow-up |
//!
//! | at | answer | when | same id is safe (Amazon) | inquiry only (Gods, Digico) | both (Tango) |
//! |---|---|---|---|---|---|
//! | issuing | issued | in doubt | done: issued !, fact | no call: → inquiring ? | done: issued !, fact |
//! | issuing | any | past the horizon, in doubt | no call: ask (past_horizon) | no call: → inquiring ? | no call: ask (past_horizon) |
//! | issuing | accepted, not ready |  | retry ? | → pending ! | → pending ! |
//! | issuing | accepted, not ready | in doubt | retry ? | no call: → inquiring ? | → pending ! |
//! | issuing | resend | in doubt | retry ? | no call: → inquiring ? | retry ? |
//! | issuing | resend | patience spent | → cancelling ? | ask (resend_exhausted) ? | → cancelling ? |
//! | issuing | refused | in doubt | ask (doubt_unresolved) | no call: → inquiring ? | → inquiring |
//! | issuing | throttled | in doubt | snooze, lane throttled | no call: → inquiring ? | snooze, lane throttled |
//! | issuing | not sent | in doubt | retry | no call: → inquiring ? | retry |
//! | issuing | unknown |  | retry ? | → inquiring ? | → inquiring ? |
//! | issuing | unknown | in doubt | retry ? | no call: → inquiring ? | → inquiring ? |
//! | issuing | success of a dead card | in doubt | → void !, fact | no call: → inquiring ? | → void !, fact |
//! | issuing | same id, other amount | in doubt | ask (gift_conflict) ? | no call: → inquiring ? | ask (gift_conflict) ? |
//! | issuing | out of funds | in doubt | snooze, lane closed: funds | no call: → inquiring ? | snooze, lane closed: funds |
//! | issuing | bad credentials | in doubt | snooze, lane closed: credentials | no call: → inquiring ? | snooze, lane closed: credentials |
//! | inquiring | not found · not found twice |  | → issuing | → inquiring | → issuing |
//! | inquiring | not found · not found twice | past the horizon, in doubt | ask (past_horizon) | → inquiring | ask (past_horizon) |
//! | inquiring | not found twice | patience spent | → issuing | ask (not_found_in_doubt) | → issuing |
//! | cancelling | accepted, not done |  | retry ? | → pending ? | → pending ? |
//! | cancelling | accepted, not done | patience spent | ask (cancel_refused) ? | → pending ? | → pending ? |
//! | cancelling | too late, and delivered before | in doubt | done: issued ! | → pending | → pending |
//! | cancelling | too late, and delivered before | past the horizon, in doubt | done: issued ! | → pending | → pending |
//!
//! Doubt is resolved by inquiry (照会) or by the same trade id, as the provider's contract says. "Not found" never proves
//! that nothing will happen. A new generation, with a new trade id, starts only after a proven void (R10–R13, R23).
//!
//! A provider may show a trade in one call and its details in another: each is a step of its own, with the provider's
//! reference kept between them. A cancel may be accepted now and carried out later: that is waited for in `pending`, where,
//! unlike in `inquiring`, "not found" never issues again. From there and from `cancelling` an operator's `inquire` takes the
//! provider's word as it is: a live gift stays with its owner. `attest_void` → void, too, while a cancel is
//! waited for of which no card is known; what was delivered is void when its partner says so, or it is kept: `adopt` → issued.
//!
//! A gift that may have been bought at any of several partners waits for a person. Their `inquire` asks each of them that can be asked by
//! our trade id (`seeking`, `asking`), buys nothing, and goes on at the one that knows the trade.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    JobId, Kind, KindName, Problem, Request,
    machine::{
        Act, Acts, Call, Closing, Effect, InDoubt, Job, Lane, Limits, Past, Step, Terms, This, leaves_nothing_behind,
    },
    money::Money,
    point_reversal,
};

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Two automatic generations after the first: a provider that voids three in a row wants a person's look.
const LAST_GENERATION: u8 = 2;
/// How long one trade may be told "temporarily unavailable" before it is cancelled (the F400 ladder of AGCOD).
const RESEND_PATIENCE: Duration = Duration::from_secs(60 * 60);
const RESEND_TRIES: u32 = 8;
/// Between "not found" and the same trade id again.
const RESEND_PAUSE: Duration = Duration::from_secs(10);
const CANCEL_PATIENCE: Duration = Duration::from_secs(15 * 60);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Args {
    /// The producer's own id of the grant (付与); the idempotency key.
    pub grant: String,
    /// Who receives it: the producer's user id, never a name or an address.
    pub user: String,
    /// The kind of voucher (券種), such as `amazon`; several providers may offer it.
    pub category: String,
    pub value: Money,
    /// Only this provider, where the producer insists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// Days in which the user may ask for the gift, counted from the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_days: Option<u32>,
    /// The area of use that the grant is limited to (R40).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub area: Option<String>,
    /// The exchange of points that paid for it: asked to give them back where this ends without a gift.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paid_by: Option<point_reversal::Args>,
}

/// A trade's end that rests on a person's evidence.
pub const ATTESTED: &str = "attested";
/// A trade that an operator ended before any call that may have had its effect.
pub const REVOKED: &str = "revoked";

/// How the grant ids of gifts begin that points are exchanged for. Only an exchange may ask for one; the database sees to it.
pub const OF_EXCHANGE: &str = "exchange/";

/// What a provider promises, as its adapter declares it. Kept with the trade: the terms in force when it began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contract {
    /// The provider dedups on our trade id, so the same id again is safe within the horizon.
    pub replay: bool,
    /// There is a pure inquiry by our trade id.
    pub inquiry: bool,
    /// A gift can be taken back. Some providers can only be asked by their own id of the card.
    pub cancel: bool,
    /// Longest time after which an unanswered call may still land.
    pub settle_seconds: u32,
    /// How long the provider surely remembers the trade id.
    pub horizon_seconds: u32,
    /// Between two questions about an accepted gift.
    pub poll_seconds: u32,
}

/// One try to buy the gift, under an id that was committed before the first call (R11).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trade {
    pub id: String,
    pub provider: String,
    pub generation: u8,
    pub contract: Contract,
}

impl Trade {
    fn lane(&self) -> String {
        format!("gift/{}", self.provider)
    }
    fn settle(&self) -> Duration {
        Duration::from_secs(self.contract.settle_seconds.into())
    }
    fn horizon(&self) -> Duration {
        Duration::from_secs(self.contract.horizon_seconds.into())
    }
    fn poll(&self) -> Duration {
        Duration::from_secs(self.contract.poll_seconds.into())
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "at", rename_all = "snake_case")]
pub enum State {
    /// The provider is chosen and the trade id saved.
    Routing {
        generation: u8,
    },
    /// Which partner was called before, if any, is looked for among those that may have been: the next is chosen, or the one that knows it.
    Seeking {
        generation: u8,
        /// The partner that was asked last; they are asked in the order of their names.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<String>,
        /// The trade that a partner knows.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        found: Option<Trade>,
    },
    /// One of these partners is asked. Its trade is not saved: that it is there is not known.
    Asking {
        trade: Trade,
    },
    Issuing {
        trade: Trade,
    },
    /// In doubt, and the provider can be asked.
    Inquiring {
        trade: Trade,
        not_found: u8,
        /// The provider refused the same id while an earlier call was in doubt: sending it again would tell nothing.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        refused: bool,
        /// The provider's own id of the trade, by which the details are asked for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reference: Option<String>,
    },
    /// Accepted by the provider, not ready: the gift, or its cancelling. No answer here leads to another issue call.
    Pending {
        trade: Trade,
        /// As in `Inquiring`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reference: Option<String>,
        /// A cancel was accepted; this follows when it is carried out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        then: Option<AfterCancel>,
        /// The card, where the gift had been delivered before somebody asked for its return.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        card: Option<String>,
    },
    Cancelling {
        trade: Trade,
        then: AfterCancel,
        /// The card, where the gift had been delivered and an operator asked for its return.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        card: Option<String>,
    },
    /// Proven void: nothing was or will be delivered under this trade id.
    Void {
        trade: Trade,
        then: AfterCancel,
    },
    Issued {
        trade: Trade,
        card: String,
    },
    Rejected {
        reason: String,
    },
    Lapsed,
}

impl State {
    /// In doubt, and not asked yet.
    pub const fn inquiring(trade: Trade) -> State {
        State::Inquiring { trade, not_found: 0, refused: false, reference: None }
    }
    /// From the first partner on that may have been called.
    pub const fn seeking(generation: u8) -> State {
        State::Seeking { generation, after: None, found: None }
    }
    /// A gift that was accepted.
    pub const fn pending(trade: Trade, reference: Option<String>) -> State {
        State::Pending { trade, reference, then: None, card: None }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AfterCancel {
    /// The provider told us to: a new generation follows.
    Reissue,
    /// A person decides.
    Ask,
}

/// A gift code, sealed in the worker before it reaches a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    pub key_id: String,
    pub nonce: Vec<u8>,
    pub ciphertext: Vec<u8>,
}

/// The gift as the provider delivered it. `code` is absent where the provider's rule is to refetch it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gift {
    /// The provider's own id of the card.
    pub card: String,
    pub code: Option<Sealed>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    Issued { trade: String, grant: String, provider: String, value: Money, card: String, code: Option<Sealed> },
    Voided { trade: String, reason: &'static str },
    Refused { trade: String, reason: String },
}

#[derive(Debug, Clone, PartialEq)]
pub enum Start {
    Started(Trade),
    /// The database was restored to an earlier point: this trade may have been called already.
    InDoubt(Trade),
    /// The same, and it may have been called at any of several providers.
    Unclear,
    NoProvider,
    /// The days in which it may be asked for have passed.
    Lapsed,
    /// The grant has a live trade of another job.
    Occupied,
}

/// Who is to be asked next about a gift that may have been bought at any of several partners.
#[derive(Debug, Clone, PartialEq)]
pub enum Seek {
    Ask(Trade),
    /// Each was asked that can be; `all`: there is no other.
    Nobody {
        all: bool,
    },
    /// Nothing is noted of its past yet.
    NoPast,
}

/// What became of a trade that a partner knows, and that was to be saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    Saved,
    /// The grant has another live trade.
    Occupied,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Issue {
    Issued(Gift),
    Pending,
    /// The provider asks for the same request again and cannot say whether it acted.
    Resend,
    Refused(String),
    Throttled(Duration),
    /// Never left this machine.
    NotSent,
    Unknown,
    /// "Success" of a card that is refunded or expired.
    Dead,
    /// The trade id is known with another amount.
    Conflict,
    OutOfFunds,
    BadCredentials,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Inquiry {
    Live(Gift),
    Pending,
    /// The provider knows the trade under this reference of its own; the details take another call.
    Known(String),
    /// The provider gave the trade up: nothing was or will be delivered.
    Failed(String),
    NotFound,
    Dead,
    Conflict,
    Throttled(Duration),
    /// No answer, or none that can be read; an inquiry may simply be repeated.
    NoAnswer,
    BadCredentials,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Cancel {
    Cancelled,
    /// The provider took the cancel and will carry it out.
    Accepted,
    /// Too late, already claimed, or not to be asked for without the provider's id of the card.
    Refused,
    NotFound,
    Throttled(Duration),
    NotSent,
    Unknown,
    BadCredentials,
}

/// Everything that gift issuance can do to the world.
pub trait World: Send + Sync {
    /// Chooses the provider and saves the trade, in the transaction of the transition that follows. What may have been called before is
    /// looked at first, also where nothing can be bought any more (`lapsed`): a gift that may exist does not fail.
    fn start_trade<'a>(&'a self, args: &'a Args, generation: u8, lapsed: bool) -> Call<'a, Start>;
    /// The next partner after this one, by name, that may have been called and can be asked by our trade id.
    fn seek<'a>(&'a self, args: &'a Args, generation: u8, after: Option<&'a str>) -> Call<'a, Seek>;
    /// Saves the trade that a partner knows, in the transaction of the transition that follows.
    fn bind<'a>(&'a self, args: &'a Args, trade: &'a Trade) -> Call<'a, Bound>;
    fn issue<'a>(&'a self, args: &'a Args, trade: &'a Trade) -> Call<'a, Issue>;
    /// `reference` is the provider's own id of the trade, where an inquiry answered `Known`.
    fn inquire<'a>(&'a self, args: &'a Args, trade: &'a Trade, reference: Option<&'a str>) -> Call<'a, Inquiry>;
    /// `card` is the provider's own id of the gift, where it is known.
    fn cancel<'a>(&'a self, args: &'a Args, trade: &'a Trade, card: Option<&'a str>) -> Call<'a, Cancel>;
}

pub struct GiftIssuance;

impl Job for GiftIssuance {
    const KIND: KindName = Kind::GiftIssuance.as_name();
    const LIMITS: Limits = Limits { steps: 2_000, age: Duration::from_secs(14 * 24 * 60 * 60) };
    const STATES: &'static [&'static str] = &[
        "routing",
        "seeking",
        "asking",
        "issuing",
        "inquiring",
        "pending",
        "cancelling",
        "void",
        "issued",
        "rejected",
        "lapsed",
    ];

    type Args = Args;
    type State = State;
    type Fact = Fact;
    type World = dyn World;

    fn id(args: &Args) -> JobId {
        JobId(args.grant.clone())
    }

    fn start(args: &Args) -> Result<State, String> {
        for (field, value) in [("grant", &args.grant), ("user", &args.user), ("category", &args.category)] {
            if value.is_empty() || value.len() > 100 {
                return Err(format!("`{field}` must have 1 to 100 bytes"));
            }
        }
        if args.value.amount <= 0 {
            return Err("`value` must be more than 0".to_owned());
        }
        let exchange = args.paid_by.as_ref().map(|paid| paid.exchange.as_str());
        if args.grant.strip_prefix(OF_EXCHANGE) != exchange {
            return Err("`paid_by` and a `grant` that begins with `exchange/` go together, with the same id".to_owned());
        }
        Ok(State::Routing { generation: 0 })
    }

    fn terms(_: &Args, state: &State) -> Terms<State> {
        let call = |effect, lane, tries| Terms { effect, lane, tries, deadline: MINUTE };
        match state {
            State::Routing { .. } => Terms::local(Effect::Local("start_trade")),
            State::Seeking { .. } => Terms::local(Effect::Local("seek")),
            State::Asking { trade } => call(Effect::Read("inquire"), Lane::reserved(trade.lane()), 50),
            State::Issuing { trade } => call(Effect::Write("issue", in_doubt(trade)), Lane::writes(trade.lane()), 20),
            State::Inquiring { trade, .. } => call(Effect::Read("inquire"), Lane::reserved(trade.lane()), 50),
            State::Pending { trade, .. } => call(Effect::Read("inquire"), Lane::reserved(trade.lane()), 50),
            State::Cancelling { trade, .. } => {
                call(Effect::Write("cancel", InDoubt::Repeat), Lane::reserved(trade.lane()), 20)
            }
            State::Void { .. } | State::Issued { .. } | State::Rejected { .. } | State::Lapsed => {
                Terms::local(Effect::Pure)
            }
        }
    }

    // A gift that may exist is never given up: every such place parks or inquires instead of failing.
    leaves_nothing_behind!(with facts);

    fn acts(state: &State, past: Past) -> Acts<State> {
        let (clear, in_doubt) = (past == Past::Clear, past == Past::InDoubt);
        let again = Acts::none().to(Act::Retry, state.clone());
        let revoked = || State::Rejected { reason: REVOKED.to_owned() };
        let routing = |generation| State::Routing { generation };
        let void = |trade: &Trade| State::Void { trade: trade.clone(), then: AfterCancel::Ask };
        let issued = |trade: &Trade, card: &Option<String>| {
            card.clone().map(|card| State::Issued { trade: trade.clone(), card })
        };
        let cancelling = |trade: &Trade, card| State::Cancelling { trade: trade.clone(), then: AfterCancel::Ask, card };
        let looking = |trade: &Trade, card: &Option<String>| State::Pending {
            trade: trade.clone(),
            reference: None,
            then: None,
            card: card.clone(),
        };
        match state {
            // In doubt before its trade: a call was lost with a server, and only evidence says that nothing came of it.
            State::Routing { generation } => again
                .to_if(in_doubt, Act::Inquire, || State::seeking(*generation))
                .to_if(clear, Act::Cancel, revoked)
                .to_if(in_doubt, Act::AttestVoid, || state.clone()),
            // In doubt at any of several: each that can be asked is asked, and the gift goes on at the one that knows it.
            State::Seeking { generation, found, .. } => again
                .to_if(in_doubt, Act::Inquire, || State::seeking(*generation))
                .to_if(in_doubt && found.is_none(), Act::AttestVoid, || routing(*generation)),
            State::Asking { trade } => again.to_if(in_doubt, Act::Inquire, || State::seeking(trade.generation)).to_if(
                in_doubt,
                Act::AttestVoid,
                || routing(trade.generation),
            ),
            // Cancelled at once where nothing was called, or each call was answered and bought nothing.
            State::Issuing { trade } => Acts::none()
                .to_if(trade.contract.replay || !trade.contract.inquiry, Act::Retry, || state.clone())
                .to_if(trade.contract.inquiry, Act::Inquire, || State::inquiring(trade.clone()))
                .to_if(clear, Act::Cancel, revoked)
                .to_if(in_doubt && trade.contract.cancel, Act::Cancel, || cancelling(trade, None))
                .to(Act::AttestVoid, void(trade)),
            State::Inquiring { trade, .. } => Acts::none()
                .to_if(trade.contract.inquiry, Act::Inquire, || State::inquiring(trade.clone()))
                .to(Act::AttestVoid, void(trade)),
            // Nobody attests of a card that is known: what was issued is void when its partner says so. Delivered, and its partner will not take
            // it back, or cannot say: it stays with its owner.
            State::Pending { trade, then, card, .. } => again
                .to_if(trade.contract.inquiry, Act::Inquire, || match (then, card) {
                    (None, None) => State::inquiring(trade.clone()),
                    _ => looking(trade, card),
                })
                .to_if((then.is_some() || in_doubt) && card.is_none(), Act::AttestVoid, || void(trade))
                .to_some(Act::Adopt, issued(trade, card)),
            State::Cancelling { trade, card, .. } => again
                .to_if(trade.contract.inquiry, Act::Inquire, || looking(trade, card))
                .to_if(card.is_none(), Act::AttestVoid, || void(trade))
                .to_some(Act::Adopt, issued(trade, card)),
            State::Void { trade, .. } => Acts::none()
                .to_if(in_doubt, Act::AttestVoid, || state.clone())
                .to(Act::Reissue, routing(trade.generation + 1))
                .to_if(clear, Act::Reject, || State::Rejected { reason: "void".to_owned() }),
            State::Issued { trade, card } => {
                Acts::none().to_if(trade.contract.cancel, Act::Cancel, || cancelling(trade, Some(card.clone())))
            }
            State::Rejected { .. } | State::Lapsed => Acts::none(),
        }
    }

    fn recorded(from: &State, to: &State, act: Act) -> Vec<Fact> {
        let void = |trade: &Trade, reason| vec![Fact::Voided { trade: trade.id.clone(), reason }];
        match (from, to) {
            (_, State::Void { trade, .. }) if act == Act::AttestVoid => void(trade, ATTESTED),
            // Also of a trade that was attested by a version which did not record it: without that no other trade can follow it.
            (State::Void { trade, .. }, State::Routing { .. } | State::Rejected { .. }) => void(trade, ATTESTED),
            (State::Issuing { trade }, State::Rejected { .. }) => void(trade, REVOKED),
            (
                State::Routing { .. }
                | State::Seeking { .. }
                | State::Asking { .. }
                | State::Issuing { .. }
                | State::Inquiring { .. }
                | State::Pending { .. }
                | State::Cancelling { .. }
                | State::Void { .. }
                | State::Issued { .. }
                | State::Rejected { .. }
                | State::Lapsed,
                State::Routing { .. }
                | State::Seeking { .. }
                | State::Asking { .. }
                | State::Issuing { .. }
                | State::Inquiring { .. }
                | State::Pending { .. }
                | State::Cancelling { .. }
                | State::Void { .. }
                | State::Issued { .. }
                | State::Rejected { .. }
                | State::Lapsed,
            ) => vec![],
        }
    }

    async fn step(this: &This<Args>, state: State, world: &Self::World) -> Step<Self> {
        match state {
            State::Routing { generation } => route(this, generation, world).await,
            State::Seeking { generation, after, found } => seek(this, generation, after, found, world).await,
            State::Asking { trade } => {
                let answer = world.inquire(&this.args, &trade, None).await;
                asked(trade, answer)
            }
            State::Issuing { trade } => issue(this, trade, world).await,
            State::Inquiring { trade, not_found, refused, reference } => {
                let answer = world.inquire(&this.args, &trade, reference.as_deref()).await;
                inquired(this, trade, not_found, refused, reference, answer)
            }
            State::Pending { trade, reference, then, card } => {
                let answer = world.inquire(&this.args, &trade, reference.as_deref()).await;
                polled(this, trade, reference, then, card, answer)
            }
            State::Cancelling { trade, then, card } => {
                let answer = world.cancel(&this.args, &trade, card.as_deref()).await;
                cancelled(this, trade, then, card, answer)
            }
            State::Void { trade, then: AfterCancel::Reissue } if trade.generation < LAST_GENERATION => {
                Step::advance("reissue", State::Routing { generation: trade.generation + 1 })
            }
            // Whoever paid with points has them back at once, and may exchange them again.
            State::Void { .. } if this.args.paid_by.is_some() => {
                fail(this, "void", State::Rejected { reason: "void".to_owned() }, Problem::GiftVoid)
            }
            State::Void { .. } => Step::needs_operator("void", Problem::GiftVoid),
            State::Issued { trade, card } => Step::done("issued", State::Issued { trade, card }),
            // Only an operator's act leads here; a provider's refusal ends the job at once.
            State::Rejected { reason } => fail(this, "rejected", State::Rejected { reason }, Problem::GiftRevoked),
            State::Lapsed => fail(this, "lapsed", State::Lapsed, Problem::GrantLapsed),
        }
    }
}

/// What a worker's death, or an unknown outcome, means for an issue call.
fn in_doubt(trade: &Trade) -> InDoubt<State> {
    if trade.contract.inquiry {
        InDoubt::GoTo(State::inquiring(trade.clone()))
    } else if trade.contract.replay {
        InDoubt::Repeat
    } else {
        InDoubt::AskOperator(Problem::DoubtUnresolved)
    }
}

async fn route(this: &This<Args>, generation: u8, world: &dyn World) -> Step<GiftIssuance> {
    let lapsed = this.args.valid_days.is_some_and(|days| this.age > days * DAY);
    match world.start_trade(&this.args, generation, lapsed).await {
        Start::Started(trade) => Step::advance("started", State::Issuing { trade }),
        Start::InDoubt(trade) => Step::advance("restored", State::Issuing { trade }).in_doubt(),
        Start::Unclear => Step::needs_operator("restored", Problem::DoubtUnresolved).in_doubt(),
        Start::NoProvider => {
            fail(this, "no_provider", State::Rejected { reason: "no_provider".to_owned() }, Problem::NoProvider)
        }
        Start::Lapsed => fail(this, "lapsed", State::Lapsed, Problem::GrantLapsed),
        Start::Occupied => Step::needs_operator("occupied", Problem::TradeOccupied),
    }
}

/// In doubt all the way: only the partner that knows the trade, or a person's evidence, settles it.
async fn seek(
    this: &This<Args>,
    generation: u8,
    after: Option<String>,
    found: Option<Trade>,
    world: &dyn World,
) -> Step<GiftIssuance> {
    if let Some(trade) = found {
        return match world.bind(&this.args, &trade).await {
            Bound::Saved => Step::advance("found", State::inquiring(trade)),
            Bound::Occupied => Step::needs_operator("occupied", Problem::TradeOccupied),
        };
    }
    match world.seek(&this.args, generation, after.as_deref()).await {
        Seek::Ask(trade) => Step::advance("asking", State::Asking { trade }),
        Seek::Nobody { all: true } => Step::needs_operator("not_found", Problem::NotFoundInDoubt),
        Seek::Nobody { all: false } => Step::needs_operator("not_all_asked", Problem::DoubtUnresolved),
        Seek::NoPast => Step::advance("no_past", State::Routing { generation }),
    }
}

/// "Not found" says nothing about the others. Whatever else it answers, it knows the trade: that one it is, and there it is asked again.
fn asked(trade: Trade, answer: Inquiry) -> Step<GiftIssuance> {
    let generation = trade.generation;
    match answer {
        Inquiry::Live(_)
        | Inquiry::Pending
        | Inquiry::Known(_)
        | Inquiry::Failed(_)
        | Inquiry::Dead
        | Inquiry::Conflict => Step::advance("known", State::Seeking { generation, after: None, found: Some(trade) }),
        Inquiry::NotFound => {
            Step::advance("not_found", State::Seeking { generation, after: Some(trade.provider), found: None })
        }
        Inquiry::Throttled(wait) => Step::snooze("throttled", wait).closing(Closing::Throttled(wait)),
        Inquiry::NoAnswer => Step::retry("no_answer"),
        Inquiry::BadCredentials => Step::snooze("bad_credentials", Duration::ZERO).closing(Closing::Credentials),
    }
}

async fn issue(this: &This<Args>, trade: Trade, world: &dyn World) -> Step<GiftIssuance> {
    if this.in_doubt {
        // An earlier call may still land: the same id again only where the provider surely remembers it.
        if !trade.contract.replay {
            return unknown(trade);
        }
        if this.since_call.is_some_and(|since| since > trade.horizon()) {
            return Step::needs_operator("past_horizon", Problem::PastHorizon);
        }
    }
    match world.issue(&this.args, &trade).await {
        Issue::Issued(gift) => issued("issued", this, trade, gift),
        Issue::Pending if trade.contract.inquiry => Step::advance("pending", State::pending(trade, None)).for_sure(),
        Issue::Pending => Step::retry("pending").in_doubt(),
        Issue::Resend => resend(this, trade),
        Issue::Refused(_) if this.in_doubt => match in_doubt(&trade) {
            // The refusal says nothing about the earlier call.
            InDoubt::GoTo(_) => Step::advance(
                "refused_in_doubt",
                State::Inquiring { trade, not_found: 0, refused: true, reference: None },
            ),
            InDoubt::Repeat | InDoubt::AskOperator(_) => {
                Step::needs_operator("refused_in_doubt", Problem::DoubtUnresolved)
            }
        },
        Issue::Refused(reason) => refused(this, "refused", trade, reason),
        Issue::Throttled(wait) => Step::snooze("throttled", wait).closing(Closing::Throttled(wait)),
        Issue::NotSent => Step::retry("not_sent"),
        Issue::Unknown => unknown(trade),
        Issue::Dead => dead(trade, AfterCancel::Ask),
        Issue::Conflict => Step::needs_operator("conflict", Problem::GiftConflict).in_doubt(),
        Issue::OutOfFunds => Step::snooze("out_of_funds", Duration::ZERO).closing(Closing::Funds),
        Issue::BadCredentials => Step::snooze("bad_credentials", Duration::ZERO).closing(Closing::Credentials),
    }
}

fn unknown(trade: Trade) -> Step<GiftIssuance> {
    match in_doubt(&trade) {
        InDoubt::GoTo(state) => Step::advance("unknown", state).in_doubt(),
        InDoubt::Repeat => Step::retry("unknown").in_doubt(),
        InDoubt::AskOperator(why) => Step::needs_operator("unknown", why).in_doubt(),
    }
}

fn resend(this: &This<Args>, trade: Trade) -> Step<GiftIssuance> {
    if this.retries < RESEND_TRIES && this.in_state < RESEND_PATIENCE {
        return Step::retry("resend").in_doubt();
    }
    if trade.contract.cancel {
        return Step::advance("resend_spent", State::Cancelling { trade, then: AfterCancel::Reissue, card: None })
            .in_doubt();
    }
    Step::needs_operator("resend_spent", Problem::ResendExhausted).in_doubt()
}

fn issued(outcome: &'static str, this: &This<Args>, trade: Trade, gift: Gift) -> Step<GiftIssuance> {
    let fact = Fact::Issued {
        trade: trade.id.clone(),
        grant: this.args.grant.clone(),
        provider: trade.provider.clone(),
        value: this.args.value,
        card: gift.card.clone(),
        code: gift.code,
    };
    Step::done(outcome, State::Issued { trade, card: gift.card }).for_sure().fact(fact)
}

/// Over without a gift: points that paid for it are given back.
fn fail(this: &This<Args>, outcome: &'static str, state: State, why: Problem) -> Step<GiftIssuance> {
    let step = Step::fail(outcome, state, why);
    match &this.args.paid_by {
        Some(points) => step.follow_up(Request::PointReversal(points.clone())),
        None => step,
    }
}

fn refused(this: &This<Args>, outcome: &'static str, trade: Trade, reason: String) -> Step<GiftIssuance> {
    let fact = Fact::Refused { trade: trade.id, reason: reason.clone() };
    fail(this, outcome, State::Rejected { reason }, Problem::GiftRefused).fact(fact)
}

/// The provider says "success" of a card that can no longer be used: do not deliver it.
fn dead(trade: Trade, then: AfterCancel) -> Step<GiftIssuance> {
    let fact = Fact::Voided { trade: trade.id.clone(), reason: "dead" };
    Step::advance("dead", State::Void { trade, then }).for_sure().fact(fact)
}

fn inquired(
    this: &This<Args>,
    trade: Trade,
    not_found: u8,
    refused_before: bool,
    reference: Option<String>,
    answer: Inquiry,
) -> Step<GiftIssuance> {
    match answer {
        Inquiry::Live(gift) => issued("live", this, trade, gift),
        Inquiry::Pending => Step::advance("pending", State::pending(trade, reference)).for_sure(),
        // A provider that knows the trade and then does not, or never gets to the details, has not answered.
        Inquiry::Known(_) | Inquiry::NotFound if reference.is_some() => Step::retry("no_answer"),
        Inquiry::Known(known) => Step::advance(
            "known",
            State::Inquiring { trade, not_found: 0, refused: refused_before, reference: Some(known) },
        ),
        Inquiry::Failed(reason) => refused(this, "failed", trade, reason).for_sure(),
        Inquiry::NotFound => not_there(this, trade, not_found + 1, refused_before),
        Inquiry::Dead => dead(trade, AfterCancel::Ask),
        Inquiry::Conflict => Step::needs_operator("conflict", Problem::GiftConflict),
        Inquiry::Throttled(wait) => Step::snooze("throttled", wait).closing(Closing::Throttled(wait)),
        Inquiry::NoAnswer => Step::retry("no_answer"),
        Inquiry::BadCredentials => Step::snooze("bad_credentials", Duration::ZERO).closing(Closing::Credentials),
    }
}

/// "Not found" never proves that nothing will happen: a paused worker may still send, an inquiry may lag.
fn not_there(this: &This<Args>, trade: Trade, not_found: u8, refused: bool) -> Step<GiftIssuance> {
    if trade.contract.replay && !refused {
        return match this.since_call.unwrap_or(this.in_state) > trade.horizon() {
            true => Step::needs_operator("past_horizon", Problem::PastHorizon),
            // A provider that loses calls is not to be asked as fast as its lane allows.
            false => {
                let pause = trade.poll().min(RESEND_PAUSE);
                Step::advance("not_found", State::Issuing { trade }).after(pause)
            }
        };
    }
    // The last call ended before this state began.
    if not_found >= 2 && this.in_state >= trade.settle() {
        let why = if refused { Problem::DoubtUnresolved } else { Problem::NotFoundInDoubt };
        return Step::needs_operator("not_found", why);
    }
    let wait = trade.settle().saturating_sub(this.in_state).max(trade.poll());
    Step::advance("not_found", State::Inquiring { trade, not_found, refused, reference: None }).after(wait)
}

fn polled(
    this: &This<Args>,
    trade: Trade,
    reference: Option<String>,
    then: Option<AfterCancel>,
    card: Option<String>,
    answer: Inquiry,
) -> Step<GiftIssuance> {
    let (patience, spent, why) = match then {
        Some(_) => (CANCEL_PATIENCE, "cancel_spent", Problem::CancelRefused),
        None => (DAY, "still_pending", Problem::PendingTooLong),
    };
    match (answer, card) {
        // Delivered before, with its fact: the gift stays with its owner.
        (Inquiry::Live(_), Some(card)) if then.is_none() => {
            Step::done("live", State::Issued { trade, card }).for_sure()
        }
        (Inquiry::Live(gift), None) if then.is_none() => issued("live", this, trade, gift),
        (Inquiry::Failed(reason), None) if then.is_none() => refused(this, "failed", trade, reason).for_sure(),
        (Inquiry::Dead | Inquiry::Failed(_), _) => dead(trade, then.unwrap_or(AfterCancel::Ask)),
        (Inquiry::Conflict, _) => Step::needs_operator("conflict", Problem::GiftConflict),
        (Inquiry::Known(known), card) if reference.is_none() => {
            Step::advance("known", State::Pending { trade, reference: Some(known), then, card })
        }
        (Inquiry::Throttled(wait), _) => Step::snooze("throttled", wait).closing(Closing::Throttled(wait)),
        (Inquiry::BadCredentials, _) => Step::snooze("bad_credentials", Duration::ZERO).closing(Closing::Credentials),
        // Nothing of it was ever accepted: somebody looks for it, and it is not there.
        (Inquiry::NotFound, None) if then.is_none() && this.in_doubt && this.in_state >= trade.settle() => {
            Step::needs_operator("not_found", Problem::NotFoundInDoubt)
        }
        (Inquiry::Live(_) | Inquiry::Pending | Inquiry::NotFound | Inquiry::NoAnswer | Inquiry::Known(_), _)
            if this.in_state >= patience =>
        {
            Step::needs_operator(spent, why)
        }
        // The cancel is not carried out yet.
        (Inquiry::Live(_), _) => Step::snooze("live", trade.poll()),
        (Inquiry::Pending, _) => Step::snooze("pending", trade.poll()),
        // Accepted before: an inquiry that lags, or one that failed, changes nothing.
        (Inquiry::NotFound, _) => Step::snooze("not_found", trade.poll()),
        (Inquiry::NoAnswer | Inquiry::Known(_), _) => Step::snooze("no_answer", trade.poll()),
    }
}

fn cancelled(
    this: &This<Args>,
    trade: Trade,
    then: AfterCancel,
    card: Option<String>,
    answer: Cancel,
) -> Step<GiftIssuance> {
    match (answer, card) {
        (Cancel::Cancelled, _) => {
            let fact = Fact::Voided { trade: trade.id.clone(), reason: "cancelled" };
            Step::advance("cancelled", State::Void { trade, then }).for_sure().fact(fact)
        }
        (Cancel::Accepted, card) if trade.contract.inquiry => {
            Step::advance("accepted", State::Pending { trade, reference: None, then: Some(then), card }).in_doubt()
        }
        // Perhaps an earlier cancel whose answer is not known took it back: ask, once that one has surely landed.
        (Cancel::Refused, card @ Some(_)) if this.in_doubt && trade.contract.inquiry => {
            let settle = trade.settle();
            Step::advance("refused_in_doubt", State::Pending { trade, reference: None, then: None, card }).after(settle)
        }
        // The gift stays with its owner.
        (Cancel::Refused, Some(card)) => Step::done("cancel_refused", State::Issued { trade, card }).for_sure(),
        (Cancel::Refused, None) | (Cancel::NotFound, _) => {
            Step::needs_operator("cancel_refused", Problem::CancelRefused).in_doubt()
        }
        (Cancel::Unknown | Cancel::Accepted | Cancel::NotSent, _) if this.in_state >= CANCEL_PATIENCE => {
            Step::needs_operator("cancel_spent", Problem::CancelRefused).in_doubt()
        }
        (Cancel::Throttled(wait), _) => Step::snooze("throttled", wait).closing(Closing::Throttled(wait)),
        (Cancel::NotSent, _) => Step::retry("not_sent"),
        (Cancel::Unknown | Cancel::Accepted, _) => Step::retry("unknown").in_doubt(),
        (Cancel::BadCredentials, _) => Step::snooze("bad_credentials", Duration::ZERO).closing(Closing::Credentials),
    }
}
