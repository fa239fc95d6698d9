//! E-mail: one message to one recipient, sent at most as often as its template allows.
//!
//! | at | effect | lane | on crash | compensation | operator may |
//! |---|---|---|---|---|---|
//! | preparing | prepare | – | repeat | – | retry → preparing, cancel → rejected (not in doubt) |
//! | sending | send | email/c | → waiting | – | retry → sending, in doubt → waiting, cancel → rejected (not in doubt) |
//! | waiting | look_for_event | – | repeat | – | retry → preparing (not in doubt), inquire → waiting, attest_void → preparing, attest_done → accepted |
//! | accepted | – | – | repeat | – | – |
//! | rejected | – | – | repeat | – | rerun → preparing (not in doubt) |
//!
//! | at | answer | when | leads to |
//! |---|---|---|---|
//! | preparing | ready |  | → sending |
//! | preparing | suppressed |  | fail: rejected (address_suppressed) ! |
//! | preparing | no address |  | fail: rejected (no_recipient) ! |
//! | preparing | its recipient does not open · no service, or paused |  | snooze |
//! | preparing | its recipient does not open | for 10 minutes | ask (not_opened) |
//! | sending | accepted |  | done: accepted ! |
//! | sending | rejected |  | fail: rejected (mail_rejected) ! |
//! | sending | too fast, or no quota left |  | snooze, lane throttled |
//! | sending | not sent · not to this recipient now |  | retry |
//! | sending | too many calls in flight |  | snooze |
//! | sending | unknown |  | → waiting ? |
//! | sending | bad credentials or configuration |  | snooze, lane closed: credentials |
//! | sending | not in this sender's name |  | snooze, lane closed: sender |
//! | sending | no private connection |  | snooze, lane closed: tls |
//! | waiting | an event: it went out |  | done: accepted ! |
//! | waiting | an event: it bounced |  | fail: rejected (mail_bounced) ! |
//! | waiting | an event: it was dropped |  | fail: rejected (mail_rejected) ! |
//! | waiting | no event |  | snooze |
//! | waiting | no event | waited long enough | → preparing ! |
//! | waiting | no event | waited long enough, sent as often as it may be | ask (mail_unresolved) |
//!
//! No mail service dedups on an id of ours. So the claim is committed before the send, and a send whose answer is lost
//! waits for an event that carries our tag; if none comes, a template that does no harm twice is sent once more, and any
//! other needs an operator. Messages carry a link, never a code (R21), and exist only after what they announce (R6, R7).

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    JobId, Kind, KindName, Problem, UNTIL_OPENED,
    machine::{
        Act, Acts, Call, Closing, Effect, InDoubt, Job, Lane, Limits, Past, Step, Terms, This, Tls,
        leaves_nothing_behind,
    },
};

/// A mail server may take ten minutes to answer a body: giving up earlier would be a doubt of our own making.
const DEADLINE: Duration = Duration::from_secs(15 * 60);
/// Between two looks for an event.
const LOOK_PAUSE: Duration = Duration::from_secs(5);

/// The messages that noshi can send. Names and versions are stored: they are permanent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Template {
    /// A gift was granted (付与のお知らせ); a link leads to it. Twice is a nuisance, not a loss.
    GiftGranted,
}

impl Template {
    pub const ALL: [Template; 1] = [Template::GiftGranted];

    pub const fn name(self) -> &'static str {
        match self {
            Template::GiftGranted => "gift_granted",
        }
    }

    /// Of its content: another version is another message.
    pub const fn version(self) -> u16 {
        match self {
            Template::GiftGranted => 1,
        }
    }

    /// How often it may be sent where earlier sends are in doubt: 1 is at most once.
    pub const fn max_sends(self) -> u8 {
        match self {
            Template::GiftGranted => 2,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Args {
    pub template: Template,
    /// What the message is about: the grant's id.
    pub reference: String,
    /// Under which subject the sealed name and address are kept.
    pub recipient: String,
    /// What the template shows beside the name: nothing secret.
    #[serde(default)]
    pub params: BTreeMap<String, String>,
    /// The batch that announces the same once more: the mail of an earlier one, which was cancelled, has the usual id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub again_in: Option<i64>,
}

/// The service that a send goes to, as its adapter declares it. Kept with the send: the terms in force when it began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Channel {
    /// `ses` or `smtp`; also the end of the lane's name.
    pub name: String,
    /// How long a lost answer is left alone before anything else is sent.
    pub settle_seconds: u32,
}

impl Channel {
    fn lane(&self) -> String {
        format!("email/{}", self.name)
    }
    fn settle(&self) -> Duration {
        Duration::from_secs(self.settle_seconds.into())
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "at", rename_all = "snake_case")]
pub enum State {
    /// Whether the address is known and not suppressed; `sends` were made whose fate is not known.
    Preparing {
        sends: u8,
    },
    Sending {
        channel: Channel,
        send_no: u8,
    },
    /// The answer to a send was lost.
    Waiting {
        channel: Channel,
        send_no: u8,
    },
    /// The service took it. What came of it after that is in its events.
    Accepted {
        message: String,
    },
    Rejected {
        why: Problem,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        detail: Option<String>,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub enum Prepare {
    Ready(Channel),
    Suppressed,
    /// No address is kept under this subject.
    NoRecipient,
    /// What is kept does not open here.
    NotOpened,
    /// No mail service is configured, or the batch is paused.
    Wait,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Send {
    /// With the service's id of the message.
    Accepted(String),
    Rejected(String),
    /// Too fast, or the day's quota is used up, or sending is paused: not sent.
    Throttled(Duration),
    /// The way there, or our own doing: not sent.
    NotSent,
    /// Not this message, or not to this recipient, now: a full mailbox, a grey list. Nobody else is concerned.
    NotNow,
    /// This process has as many calls in flight as it may have.
    Busy(Duration),
    Unknown,
    /// The account or its configuration does not allow it: nothing can be sent until a person has seen to it.
    BadCredentials,
    /// The account may not send in this sender's name.
    Sender,
    /// No private connection to the service.
    Tls(Tls),
}

/// What the service's events tell about a send.
#[derive(Debug, Clone, PartialEq)]
pub enum Fate {
    /// It went out, with this id.
    Sent(String),
    Bounced,
    /// The service dropped it.
    Rejected,
    /// No event came.
    Silent,
}

/// Everything that e-mail can do to the world.
pub trait World: std::marker::Send + Sync {
    /// In the transaction of the transition that follows.
    fn prepare<'a>(&'a self, args: &'a Args) -> Call<'a, Prepare>;
    fn send<'a>(&'a self, args: &'a Args, channel: &'a Channel, send_no: u8) -> Call<'a, Send>;
    /// In the transaction of the transition that follows.
    fn look_for_event<'a>(&'a self, args: &'a Args) -> Call<'a, Fate>;
}

pub struct Email;

impl Job for Email {
    const KIND: KindName = Kind::Email.as_name();
    const LIMITS: Limits = Limits { steps: 2_000, age: Duration::from_secs(7 * 24 * 60 * 60) };
    const STATES: &'static [&'static str] = &["preparing", "sending", "waiting", "accepted", "rejected"];

    type Args = Args;
    type State = State;
    type World = dyn World;

    fn id(args: &Args) -> JobId {
        let version = args.template.version();
        let version = args.again_in.map_or_else(|| version.to_string(), |batch| format!("{version}/{batch}"));
        JobId(format!("{}:{version}:{}", args.template.name(), args.reference))
    }

    fn start(args: &Args) -> Result<State, String> {
        if args.reference.is_empty() || args.reference.len() > 100 {
            return Err("`reference` must have 1 to 100 bytes".to_owned());
        }
        Ok(State::Preparing { sends: 0 })
    }

    fn terms(_: &Args, state: &State) -> Terms<State> {
        match state {
            State::Preparing { .. } => Terms::local(Effect::Local("prepare")),
            State::Sending { channel, send_no } => {
                let waiting = State::Waiting { channel: channel.clone(), send_no: *send_no };
                let effect = Effect::Write("send", InDoubt::GoTo(waiting));
                Terms { effect, lane: Lane::writes(channel.lane()), tries: 50, deadline: DEADLINE }
            }
            State::Waiting { .. } => Terms::local(Effect::Local("look_for_event")),
            State::Accepted { .. } | State::Rejected { .. } => Terms::local(Effect::Pure),
        }
    }

    // A message that went out cannot be taken back.
    leaves_nothing_behind!();

    fn acts(state: &State, past: Past) -> Acts<State> {
        // No cancel while an earlier send may have arrived: it would be told as not sent.
        let first = |never_sent: bool| {
            Acts::none().to(Act::Retry, state.clone()).to_if(never_sent && past == Past::Clear, Act::Cancel, || {
                State::Rejected { why: Problem::MailRevoked, detail: None }
            })
        };
        match state {
            State::Preparing { sends } => first(*sends == 0),
            State::Sending { send_no, .. } => first(*send_no == 1),
            // A person decides to send it once more, whatever became of the last.
            State::Waiting { send_no, .. } => Acts::none()
                .to(Act::Retry, State::Preparing { sends: *send_no })
                .to(Act::Inquire, state.clone())
                .to(Act::AttestVoid, State::Preparing { sends: send_no.saturating_sub(1) })
                .to(Act::AttestDone, State::Accepted { message: "attested".to_owned() }),
            State::Rejected { .. } => Acts::none().to(Act::Rerun, State::Preparing { sends: 0 }),
            State::Accepted { .. } => Acts::none(),
        }
    }

    async fn step(this: &This<Args>, state: State, world: &Self::World) -> Step<Self> {
        match state {
            State::Preparing { sends } => match world.prepare(&this.args).await {
                // In doubt before its first send here: that send was lost with a server, and an event may tell of it.
                Prepare::Ready(channel) if this.in_doubt && sends == 0 => {
                    Step::advance("restored", State::Waiting { channel, send_no: 1 })
                }
                Prepare::Ready(channel) => Step::advance("ready", State::Sending { channel, send_no: sends + 1 }),
                Prepare::Suppressed => reject("suppressed", Problem::AddressSuppressed, None),
                Prepare::NoRecipient => reject("no_recipient", Problem::NoRecipient, None),
                Prepare::NotOpened if this.in_state >= UNTIL_OPENED => {
                    Step::needs_operator("not_opened", Problem::NotOpened)
                }
                Prepare::NotOpened => Step::snooze("not_opened", Duration::from_secs(10)),
                Prepare::Wait => Step::snooze("not_ready", Duration::from_secs(10)),
            },
            State::Sending { channel, send_no } => {
                let answer = world.send(&this.args, &channel, send_no).await;
                sent(channel, send_no, this.retries, answer)
            }
            State::Waiting { channel, send_no } => {
                let fate = world.look_for_event(&this.args).await;
                told(this, channel, send_no, fate)
            }
            State::Accepted { message } => Step::done("accepted", State::Accepted { message }).for_sure(),
            State::Rejected { why, detail } => reject("rejected", why, detail),
        }
    }
}

fn reject(outcome: &'static str, why: Problem, detail: Option<String>) -> Step<Email> {
    Step::fail(outcome, State::Rejected { why, detail }, why).for_sure()
}

fn sent(channel: Channel, send_no: u8, retries: u32, answer: Send) -> Step<Email> {
    match answer {
        Send::Accepted(message) => Step::done("accepted", State::Accepted { message }).for_sure(),
        Send::Rejected(reason) => reject("rejected", Problem::MailRejected, Some(reason)),
        Send::Throttled(wait) => Step::snooze("throttled", wait).closing(Closing::Throttled(wait)),
        Send::NotSent => Step::retry("not_sent"),
        Send::NotNow => Step::retry("not_now").after(patience(retries)),
        Send::Busy(wait) => Step::snooze("busy", wait),
        Send::Unknown => Step::advance("unknown", State::Waiting { channel, send_no }).in_doubt(),
        Send::BadCredentials => Step::snooze("bad_credentials", Duration::ZERO).closing(Closing::Credentials),
        Send::Sender => Step::snooze("sender_refused", Duration::ZERO).closing(Closing::Sender),
        Send::Tls(trouble) => Step::snooze("no_tls", Duration::ZERO).closing(Closing::Tls(trouble)),
    }
}

/// A mailbox stays full for hours: twice as long each time, half an hour at last, so that its tries last for a day.
fn patience(retries: u32) -> Duration {
    Duration::from_secs(1).saturating_mul(2_u32.saturating_pow(retries.min(20))).min(Duration::from_secs(30 * 60))
}

fn told(this: &This<Args>, channel: Channel, send_no: u8, fate: Fate) -> Step<Email> {
    match fate {
        Fate::Sent(message) => Step::done("accepted", State::Accepted { message }).for_sure(),
        Fate::Bounced => reject("bounced", Problem::MailBounced, None),
        Fate::Rejected => reject("rejected", Problem::MailRejected, None),
        Fate::Silent if this.in_state < channel.settle() => {
            let left = channel.settle().saturating_sub(this.in_state);
            Step::snooze("silent", left.min(LOOK_PAUSE))
        }
        // The template says that one message too many does no harm: the doubt is accepted, and counted.
        Fate::Silent if send_no < this.args.template.max_sends() => {
            Step::advance("send_again", State::Preparing { sends: send_no }).for_sure()
        }
        Fate::Silent => Step::needs_operator("silent", Problem::MailUnresolved),
    }
}
