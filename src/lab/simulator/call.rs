//! One call from arrival to answer: recorded, judged, carried out, on disk, answered (or not).

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use axum::body::to_bytes;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use super::{
    Provider,
    context::Inner,
    deliver::{How, deliver},
    faults::{Chosen, Fault},
    ledger::{Event, Line},
    lock::lock,
    messages::{Arrived, Reply, Way},
    partner::{Errand, Partner},
    state::World,
    switchboard::{self, Acted, Any},
    wire::Caller,
};

const BODY_LIMIT: usize = 1 << 20;
const SECOND_US: u64 = 1_000_000;

/// The answer's fate, and the last ledger line that has to be on disk before it.
struct Settled {
    reply: Option<Reply>,
    how: How,
    last: u64,
}

pub async fn serve(
    State(inner): State<Arc<Inner>>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    request: Request,
) -> Response {
    let whole = request.uri().path();
    let whole = whole.strip_prefix('/').unwrap_or(whole);
    let (prefix, path) = whole.split_once('/').unwrap_or((whole, ""));
    let Some(partner) = Partner::from_name(prefix) else {
        let there = Partner::ALL.map(Partner::name).join(", ");
        return (StatusCode::NOT_FOUND, format!("no such provider; there are {there}\n")).into_response();
    };
    let path = format!("/{path}");
    let (us, over) = inner.arrive(partner);
    let (parts, body) = request.into_parts();
    // A task of its own: an arrival is in the ledger even if its client is gone and this future with it.
    let settling = tokio::spawn({
        let inner = Arc::clone(&inner);
        async move {
            match to_bytes(body, BODY_LIMIT).await {
                Ok(body) => {
                    let http::request::Parts { method, uri, headers, .. } = parts;
                    inner.settle(partner, us, over, &Arrived { method, uri, path, headers, body })
                }
                Err(_) => inner.broken_off(partner, us),
            }
        }
    });
    let Ok(settled) = settling.await else {
        caller.reset();
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    if let Err(error) = inner.ledger.wait(settled.last).await {
        // What is not on disk did not happen, as far as anybody will ever know: say nothing.
        tracing::error!(%error, "the simulator gives no answers any more");
        caller.reset();
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    deliver(&inner, &caller, settled.reply, settled.how).await
}

impl Inner {
    /// The moment of arrival, and whether it is one too many for this second.
    fn arrive(&self, partner: Partner) -> (u64, bool) {
        let mut world = lock(&self.world);
        let us = self.ledger.now_us();
        let limit = self.config.limit(partner);
        (us, world.gate(partner).limiter.arrive(us, limit))
    }

    /// The client vanished in the middle of its request, or the request was endless.
    fn broken_off(&self, partner: Partner, us: u64) -> Settled {
        let line = |event| Line { event, provider: Some(partner), ..Line::default() };
        self.ledger.append(Line { us, refused: Some("incomplete".into()), ..line(Event::Arrival) });
        let last = self.ledger.append(Line {
            http: Some(Value::Null),
            fault: Some(Value::Null),
            lost: true,
            ..line(Event::Answer)
        });
        Settled { reply: None, how: How::Reset, last }
    }

    fn settle(self: &Arc<Self>, partner: Partner, us: u64, over: bool, call: &Arrived) -> Settled {
        let mut world = lock(&self.world);
        let read = switchboard::read(partner, call, &self.config, &world);
        self.ledger.append(Line {
            us,
            amount: read.amount.clone(),
            currency: read.currency.clone(),
            refused: read.denied.as_ref().map(|_| "auth".to_owned()),
            ..line(Event::Arrival, partner, &read)
        });
        if let Some(reply) = read.denied.clone() {
            return self.answer(partner, &read, None, None, Some(reply), How::Whole);
        }
        if let Some(reply) = self.gate(&mut world, partner, us, over, &read) {
            return self.answer(partner, &read, None, None, Some(reply), How::Whole);
        }
        let Some(errand) = read.op else {
            let refusal = read.ask.as_ref().err().cloned();
            self.refused(partner, &read, refusal.as_ref().map_or("", |refusal| refusal.reason));
            return self.answer(partner, &read, None, None, refusal.map(|refusal| refusal.reply), How::Whole);
        };
        let chosen = world.faults.next(partner, errand, read.trade.as_deref());
        self.meet(&mut world, partner, errand, &read, &chosen)
    }

    /// Too many calls, or a throttle still holds.
    fn gate(&self, world: &mut World, partner: Partner, us: u64, over: bool, read: &Any) -> Option<Reply> {
        let until = &mut world.gate(partner).closed_until;
        let mut reply = switchboard::throttled(partner);
        let (reason, stated) = if us < *until {
            let seconds = (*until - us).div_ceil(SECOND_US);
            reply.retry_after = Some(seconds.to_string());
            ("a throttle holds", *until)
        } else if over {
            match partner {
                // Only these contracts state a time when the limit is passed.
                Partner::Gift(Provider::GiftOnDemand) | Partner::OrganizationPlatform => {
                    *until = us + SECOND_US;
                    reply.retry_after = Some("1".into());
                }
                Partner::Gift(Provider::AmazonIncentives | Provider::TangoCard) | Partner::Ses => {}
            }
            ("over the limit", *until)
        } else {
            return None;
        };
        self.ledger.append(Line {
            reason: Some(reason.into()),
            until_us: (stated > us).then_some(stated),
            ..line(Event::Throttled, partner, read)
        });
        Some(reply)
    }

    /// Carries the call out, or not, as its fate wants it.
    fn meet(
        self: &Arc<Self>,
        world: &mut World,
        partner: Partner,
        errand: Errand,
        read: &Any,
        chosen: &Chosen,
    ) -> Settled {
        let now = self.ledger.now_us();
        let mut fault = chosen.fault;
        let fresh = self.is_fresh(world.made_us(partner, read.trade.as_deref().unwrap_or_default()), now);
        let mut act = |pend_until: Option<u64>| {
            let queued = switchboard::is_queued(&read.ask);
            let way = Way {
                pend_until: pend_until.or_else(|| queued.then(|| now + self.delay_us(chosen.roll) / 4)),
                late: false,
                other: (chosen.fault == Some(Fault::OtherTrade)).then_some(chosen.roll),
            };
            switchboard::act(self, world, partner, read, &way)
        };
        let (reply, how, pending) = match chosen.fault {
            None | Some(Fault::OtherTrade) => whole(act(None)),
            Some(Fault::EffectThenReset) => with(act(None), How::Reset),
            Some(Fault::EffectThenHang) => with(act(None), How::Hang),
            Some(Fault::SlowBody) => with(act(None), How::Slow),
            Some(Fault::Truncated) => with(act(None), How::Half),
            Some(Fault::ErrorAfterEffect) => (Some(foreign(chosen.roll)), How::Whole, act(None).1),
            Some(Fault::WrongJson) => (Some(garbage(chosen.roll)), How::Whole, act(None).1),
            Some(Fault::Pending) => {
                let met = act(Some(now + self.delay_us(chosen.roll)));
                fault = fault.filter(|_| met.1.is_some());
                whole(met)
            }
            Some(Fault::StaleInquiry) if fresh => (Some(switchboard::not_found(partner, &read.ask)), How::Whole, None),
            Some(Fault::StaleInquiry) => {
                fault = None;
                whole(act(None))
            }
            Some(Fault::LateLanding) => {
                self.act_at(partner, read.clone(), now + self.delay_us(chosen.roll));
                (None, How::Reset, None)
            }
            Some(Fault::ResetBeforeEffect) => (None, How::Reset, None),
            Some(Fault::ErrorBeforeEffect) => (Some(foreign(chosen.roll)), How::Whole, None),
            Some(Fault::TypedError) => (Some(switchboard::typed_error(partner, errand)), How::Whole, None),
            Some(Fault::ThrottleSeconds | Fault::ThrottleDate) => {
                (Some(self.throttle(world, partner, read, chosen, now)), How::Whole, None)
            }
        };
        if let (Some((card, lands_us)), Partner::Gift(provider)) = (pending, partner) {
            self.land_at(provider, card, lands_us);
        }
        self.answer(partner, read, fault, Some(chosen.nth), reply, how)
    }

    /// Between a fifth of `settle` and all of it.
    fn delay_us(&self, roll: u64) -> u64 {
        let settle = u64::try_from(self.config.settle.as_micros()).unwrap_or(u64::MAX / 2);
        settle / 5 + roll % (settle - settle / 5).max(1)
    }

    fn is_fresh(&self, made_us: Option<u64>, now: u64) -> bool {
        let settle = u64::try_from(self.config.settle.as_micros()).unwrap_or(u64::MAX);
        made_us.is_some_and(|made_us| now < made_us.saturating_add(settle))
    }

    /// Closes the partner for a stated time.
    fn throttle(&self, world: &mut World, partner: Partner, read: &Any, chosen: &Chosen, now: u64) -> Reply {
        let seconds = chosen.seconds.unwrap_or(1 + chosen.roll % 2);
        let mut reply = switchboard::throttled(partner);
        let until = if chosen.fault == Some(Fault::ThrottleDate) {
            // A date has whole seconds, and no client may come before it.
            let date = now.div_ceil(SECOND_US) + seconds;
            let date_time = UNIX_EPOCH + Duration::from_secs(date);
            reply.retry_after = Some(httpdate::fmt_http_date(date_time));
            date * SECOND_US
        } else {
            reply.retry_after = Some(seconds.to_string());
            now + seconds * SECOND_US
        };
        let closed = &mut world.gate(partner).closed_until;
        *closed = until.max(*closed);
        self.ledger.append(Line {
            reason: Some("fault".into()),
            until_us: Some(until),
            ..line(Event::Throttled, partner, read)
        });
        reply
    }

    fn answer(
        &self,
        partner: Partner,
        read: &Any,
        fault: Option<Fault>,
        nth: Option<u64>,
        reply: Option<Reply>,
        how: How,
    ) -> Settled {
        let last = self.ledger.append(Line {
            http: Some(reply.as_ref().map_or(Value::Null, |reply| reply.status.into())),
            fault: Some(fault.map_or(Value::Null, |fault| fault.name().into())),
            lost: how.lost(),
            nth,
            ..line(Event::Answer, partner, read)
        });
        Settled { reply, how, last }
    }

    /// It had no effect, and this is why.
    pub fn refused(&self, partner: Partner, read: &Any, reason: &str) {
        self.ledger.append(Line { reason: Some(reason.to_owned()), ..line(Event::Refused, partner, read) });
    }
}

fn line(event: Event, partner: Partner, read: &Any) -> Line {
    Line { event, provider: Some(partner), op: read.op, trade: read.trade.clone(), ..Line::default() }
}

fn with((reply, pending): Acted, how: How) -> (Option<Reply>, How, Option<(String, u64)>) {
    (Some(reply), how, pending)
}

fn whole(acted: Acted) -> (Option<Reply>, How, Option<(String, u64)>) {
    with(acted, How::Whole)
}

/// The answer of something in front of the provider that does not speak its language.
fn foreign(roll: u64) -> Reply {
    let (status, phrase) = match roll % 3 {
        0 => (500, "Internal Server Error"),
        1 => (502, "Bad Gateway"),
        _ => (503, "Service Unavailable"),
    };
    Reply::text(status, "text/html", &format!("<html><body><h1>{status} {phrase}</h1></body></html>\n"))
}

/// 200, and nothing that a client could read.
fn garbage(roll: u64) -> Reply {
    if roll.is_multiple_of(2) {
        Reply::text(200, "text/html", "<!doctype html><html><body>We will be back soon.</body></html>\n")
    } else {
        Reply::text(200, "application/json", "{\"status\":\u{fffd}}]")
    }
}
