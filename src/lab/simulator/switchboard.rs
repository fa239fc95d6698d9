//! Which partner a call is for: it is read, carried out and refused in that partner's own way.

use std::sync::Arc;

use super::{
    amazon_incentives,
    call_context::{CallContext, cx},
    config::Config,
    context::Inner,
    gift_on_demand,
    lock::lock,
    messages::{Arrived, Ask, Read, Refusal, Reply, Way},
    organization_platform,
    partner::{Errand, Op, Partner, Provider},
    ses,
    shop::Order,
    state::World,
    tango_card,
};

/// What a call to any partner turned out to be.
pub type Any = Read<Errand, Wanted>;

#[derive(Clone)]
pub enum Wanted {
    Gift(Ask),
    Platform(organization_platform::Ask),
    Ses(ses::Ask),
}

fn into_any<O, A>(read: Read<O, A>, wanted: impl FnOnce(A) -> Wanted) -> Any
where
    Errand: From<O>,
{
    Read {
        op: read.op.map(Errand::from),
        trade: read.trade,
        amount: read.amount,
        currency: read.currency,
        denied: read.denied,
        ask: read.ask.map(wanted),
    }
}

/// Reads a call and checks its credentials; nothing happens yet.
pub fn read(partner: Partner, call: &Arrived, config: &Config, world: &World) -> Any {
    let gift = |read: Read| into_any(read, Wanted::Gift);
    match partner {
        Partner::Gift(Provider::AmazonIncentives) => gift(amazon_incentives::read(call, &config.credentials)),
        Partner::Gift(Provider::GiftOnDemand) => gift(gift_on_demand::read(call, &config.credentials)),
        Partner::Gift(Provider::TangoCard) => {
            gift(tango_card::read(call, &config.credentials, &world.shops.tango_card))
        }
        Partner::OrganizationPlatform => {
            into_any(organization_platform::read(call, &config.organization_platform), Wanted::Platform)
        }
        Partner::Ses => into_any(ses::read(call, &config.ses), Wanted::Ses),
    }
}

/// The answer, and the card that was accepted for later, if it came to that.
pub type Acted = (Reply, Option<(String, u64)>);

/// Carries a call out.
pub fn act(inner: &Arc<Inner>, world: &mut World, partner: Partner, read: &Any, way: &Way) -> Acted {
    let trade = read.trade.clone().unwrap_or_default();
    match (partner, &read.ask) {
        (_, Err(refusal)) => {
            inner.refused(partner, read, refusal.reason);
            (refusal.reply.clone(), None)
        }
        (Partner::Gift(provider), Ok(Wanted::Gift(ask))) => {
            let op = match read.op {
                Some(Errand::Gift(op)) => op,
                Some(_) | None => Op::Issue,
            };
            let mut cx = cx(inner, world.shops.of_mut(provider), provider, op, trade);
            cx.late = way.late;
            cx.pend_until = way.pend_until;
            let mut reply = gift(&mut cx, ask);
            if let Some(roll) = way.other {
                reply = other_trade(&cx, op, ask, roll);
            }
            (reply, cx.pending)
        }
        (_, Ok(Wanted::Platform(ask))) => (organization_platform::act(inner, world, ask, way), None),
        (_, Ok(Wanted::Ses(ask))) => (ses::act(inner, world, ask, way), None),
        // A gift order is read by gift providers only.
        (Partner::OrganizationPlatform | Partner::Ses, Ok(Wanted::Gift(_))) => {
            (Reply::text(500, "text/plain", "misread"), None)
        }
    }
}

fn gift(cx: &mut CallContext<'_>, ask: &Ask) -> Reply {
    match cx.provider {
        Provider::AmazonIncentives => amazon_incentives::act(cx, ask),
        Provider::GiftOnDemand => gift_on_demand::act(cx, ask),
        Provider::TangoCard => tango_card::act(cx, ask),
    }
}

/// "Too many calls", without a Retry-After.
pub fn throttled(partner: Partner) -> Reply {
    match partner {
        Partner::Gift(Provider::AmazonIncentives) => amazon_incentives::throttled(),
        Partner::Gift(Provider::GiftOnDemand) => gift_on_demand::throttled(),
        Partner::Gift(Provider::TangoCard) => tango_card::throttled(),
        Partner::OrganizationPlatform => organization_platform::throttled(),
        Partner::Ses => ses::throttled(),
    }
}

/// "Something is wrong here, try again", in the provider's own form.
pub fn typed_error(partner: Partner, errand: Errand) -> Reply {
    match (partner, errand) {
        (Partner::Gift(Provider::AmazonIncentives), Errand::Gift(op)) => amazon_incentives::typed_error(op),
        (Partner::Gift(Provider::TangoCard), _) => tango_card::typed_error(),
        (Partner::Gift(_), _) => gift_on_demand::typed_error(),
        (Partner::OrganizationPlatform, _) => organization_platform::typed_error(),
        (Partner::Ses, _) => ses::typed_error(),
    }
}

/// What this inquiry about something unknown is answered. Amazon and SES have no inquiry.
pub fn not_found(partner: Partner, ask: &Result<Wanted, Refusal>) -> Reply {
    match partner {
        Partner::Gift(Provider::TangoCard) => match ask {
            Ok(Wanted::Gift(ask)) => tango_card::not_found(by_card(ask)),
            Ok(Wanted::Platform(_) | Wanted::Ses(_)) | Err(_) => tango_card::not_found(false),
        },
        Partner::Gift(_) | Partner::Ses => gift_on_demand::not_found(),
        Partner::OrganizationPlatform => organization_platform::not_found(),
    }
}

/// A good answer about a trade that is not the caller's: all ids, the code and the amount are another's.
fn other_trade(cx: &CallContext<'_>, op: Op, ask: &Ask, roll: u64) -> Reply {
    let amount = ordered(ask).map_or(1000, |order| order.amount) + 500;
    let card = cx.anothers(amount, roll);
    match cx.provider {
        Provider::AmazonIncentives => amazon_incentives::about(cx, op, &card),
        Provider::GiftOnDemand => gift_on_demand::about(cx, &card),
        Provider::TangoCard => tango_card::about(cx, op, by_card(ask), &card),
    }
}

/// Ordered at an endpoint that always answers first and issues later.
pub fn is_queued(ask: &Result<Wanted, Refusal>) -> bool {
    match ask {
        Ok(Wanted::Gift(ask)) => ordered(ask).is_some_and(|order| order.queued),
        Ok(Wanted::Platform(_) | Wanted::Ses(_)) | Err(_) => false,
    }
}

/// What the call orders, if it orders something.
fn ordered(ask: &Ask) -> Option<&Order> {
    match ask {
        Ask::Issue(order) => Some(order),
        Ask::Inquire { .. } | Ask::Cancel { .. } | Ask::Funds => None,
    }
}

/// Whether the call names the provider's own id.
fn by_card(ask: &Ask) -> bool {
    match ask {
        Ask::Inquire { card } | Ask::Cancel { card } => card.is_some(),
        Ask::Issue(_) | Ask::Funds => false,
    }
}

impl Inner {
    /// The call whose connection was reset at once. It is lost if the simulator ends first: nobody was promised it.
    pub fn act_at(self: &Arc<Self>, partner: Partner, read: Any, lands_us: u64) {
        self.later(lands_us, move |inner| {
            let mut world = lock(&inner.world);
            self::act(inner, &mut world, partner, &read, &Way { pend_until: None, late: true, other: None });
        });
    }
}
