use super::{
    Row, assert_drawn, at, cell, now,
    released::{Released, assert_released},
    table, terms_table, this,
};
use crate::{
    Problem,
    gift_issuance::{self, GiftIssuance},
    machine::{Call, Job},
    money::{Currency, Money},
    point_exchange::{self, PointExchange},
    point_expiry::{self, PointExpiry},
    point_grant::{self, PointGrant},
    point_reversal::{self, PointReversal},
    point_withdrawal::{self, PointWithdrawal},
    points::Booked,
};

/// A world whose one operation gives this answer.
struct Gives<T>(T);

impl<T: Clone + Send + Sync> Gives<T> {
    fn answer(&self) -> Call<'_, T> {
        Box::pin(async { self.0.clone() })
    }
}

impl point_grant::World for Gives<Booked> {
    fn grant(&self) -> Call<'_, Booked> {
        self.answer()
    }
}
impl point_exchange::World for Gives<Booked> {
    fn use_points(&self) -> Call<'_, Booked> {
        self.answer()
    }
}
impl point_reversal::World for Gives<point_reversal::Returning> {
    fn return_points(&self) -> Call<'_, point_reversal::Returning> {
        self.answer()
    }
}
impl point_withdrawal::World for Gives<i64> {
    fn withdraw(&self) -> Call<'_, i64> {
        self.answer()
    }
}
impl point_expiry::World for Gives<point_expiry::Page> {
    fn expire_page(&self) -> Call<'_, point_expiry::Page> {
        self.answer()
    }
}

/// The table of a job whose first state is the only one that asks its world.
fn draw<J: Job>(file: &str, args: &J::Args, states: &[J::State], answers: &[(&str, &J::World)], released: &Released) {
    let first = J::start(args).unwrap();
    let rows: Vec<Row> = answers
        .iter()
        .map(|(answer, world)| {
            let step = now(J::step(&this(args.clone()), first.clone(), world));
            Row { at: at(&first), answer: (*answer).to_owned(), when: "", cells: vec![cell(&step)] }
        })
        .collect();
    let samples: Vec<_> = states.iter().map(|state| (state.clone(), args.clone())).collect();
    assert_drawn(file, &[terms_table::<J>(&samples), table(&["leads to"], &rows)]);
    assert_released::<J>(&samples, &[], released);
}

/// Nothing was released yet.
const NOTHING: Released = Released { lines: 0, digest: 0xcbf2_9ce4_8422_2325 };

fn refused() -> (Problem, String) {
    (Problem::PointsConflict, "user".to_owned())
}

#[test]
fn a_grant_is_what_its_table_says() {
    use point_grant::{Args, State};
    let args = Args {
        benefit: "video_90".into(),
        source: "v1/u1".into(),
        user: "u1".into(),
        points: 5,
        valid_days: 180,
        zone: "Asia/Tokyo".into(),
        area: Some("渋谷".into()),
    };
    let (why, detail) = refused();
    let states = [State::Booking, State::Granted { entry: 7 }, State::Refused { why, detail: Some(detail.clone()) }];
    let answers: [(&str, &dyn point_grant::World); 2] = [
        ("booked", &Gives(Booked::Entry(7))),
        ("exercised before, or the user has withdrawn", &Gives(Booked::Refused(why, detail))),
    ];
    draw::<PointGrant>("point_grant.rs", &args, &states, &answers, &NOTHING);
    assert_eq!(PointGrant::id(&args).0, "video_90:v1/u1");
    for bad in [
        Args { points: 0, ..args.clone() },
        Args { points: -5, ..args.clone() },
        Args { user: String::new(), ..args.clone() },
        Args { benefit: "a:b".into(), ..args.clone() },
        Args { valid_days: u32::MAX, ..args },
    ] {
        assert!(PointGrant::start(&bad).is_err(), "{bad:?}");
    }
}

fn exchange() -> point_exchange::Args {
    point_exchange::Args {
        exchange: "x1".into(),
        user: "u1".into(),
        points: 500,
        area: None,
        category: "amazon".into(),
        value: Money { amount: 500, currency: Currency::Jpy },
        provider: None,
        grace_days: 30,
    }
}

#[test]
fn an_exchange_is_what_its_table_says() {
    use point_exchange::{Args, State};
    let why = Problem::PointsInsufficient;
    let states = [State::Using, State::Ordered { entry: 8 }, State::Refused { why, detail: None }];
    let answers: [(&str, &dyn point_exchange::World); 2] = [
        ("used", &Gives(Booked::Entry(8))),
        ("too few points, or the user has withdrawn", &Gives(Booked::Refused(why, "3 of 500".into()))),
    ];
    draw::<PointExchange>("point_exchange.rs", &exchange(), &states, &answers, &NOTHING);
    for bad in [
        Args { points: 0, ..exchange() },
        Args { exchange: "x".repeat(91), ..exchange() },
        Args { value: Money { amount: 0, currency: Currency::Jpy }, ..exchange() },
    ] {
        assert!(PointExchange::start(&bad).is_err(), "{bad:?}");
    }
}

/// The gift that an exchange orders starts, names its exchange, and asks for exactly that exchange's points back.
#[test]
fn the_gift_of_an_exchange_knows_it() {
    let step = now(PointExchange::step(&this(exchange()), point_exchange::State::Using, &Gives(Booked::Entry(8))));
    let Some(gift) = step.follow_ups[0].args::<GiftIssuance>() else { panic!("{:?}", step.follow_ups) };
    assert_eq!(gift.grant, "exchange/x1");
    assert!(GiftIssuance::start(gift).is_ok());
    assert_eq!(gift.paid_by, Some(point_reversal::Args { exchange: "x1".into(), grace_days: 30 }));
    let forged = |grant: &str, paid_by| gift_issuance::Args { grant: grant.into(), paid_by, ..gift.clone() };
    for bad in
        [forged("g1", gift.paid_by.clone()), forged("exchange/x2", gift.paid_by.clone()), forged("exchange/x1", None)]
    {
        assert!(GiftIssuance::start(&bad).is_err(), "{bad:?}");
    }
}

#[test]
fn a_reversal_is_what_its_table_says() {
    use point_reversal::{Args, Returning, State};
    let args = Args { exchange: "x1".into(), grace_days: 30 };
    let states = [State::Returning, State::Returned { entry: 9 }];
    let answers: [(&str, &dyn point_reversal::World); 2] = [
        ("returned", &Gives(Returning::Returned(9))),
        ("the gift is not over, or was issued", &Gives(Returning::Refused)),
    ];
    draw::<PointReversal>("point_reversal.rs", &args, &states, &answers, &NOTHING);
    assert!(PointReversal::start(&Args { exchange: String::new(), grace_days: 0 }).is_err());
}

#[test]
fn a_withdrawal_is_what_its_table_says() {
    use point_withdrawal::{Args, State};
    let args = Args { user: "u1".into() };
    let states = [State::Withdrawing, State::Withdrawn { entry: 10 }];
    let answers: [(&str, &dyn point_withdrawal::World); 1] = [("withdrawn", &Gives(10))];
    draw::<PointWithdrawal>("point_withdrawal.rs", &args, &states, &answers, &NOTHING);
    assert!(PointWithdrawal::start(&Args { user: String::new() }).is_err());
}

#[test]
fn an_expiry_is_what_its_table_says() {
    use point_expiry::{Args, Page, State};
    let args = Args { due: "2026-11-23T15:00:00Z".into() };
    let states =
        [State::Expiring { lots: 2_000, points: 9_000 }, State::Expired { lots: 2_001, points: 9_005 }, State::Refused];
    let answers: [(&str, &dyn point_expiry::World); 4] = [
        ("a page is closed", &Gives(Page::Closed { lots: 1_000, points: 4_500 })),
        ("what is left is in other hands", &Gives(Page::Busy)),
        ("nothing is left", &Gives(Page::NothingLeft)),
        ("`due` is no instant", &Gives(Page::NoInstant)),
    ];
    draw::<PointExpiry>("point_expiry.rs", &args, &states, &answers, &NOTHING);
    assert!(PointExpiry::start(&Args { due: "tomorrow".into() }).is_err());
}

/// What the ledger would refuse at every try is refused before the first.
#[test]
fn blanks_are_no_names() {
    let grant = |user: &str, area: Option<&str>| {
        let text = |text: &str| text.to_owned();
        PointGrant::start(&point_grant::Args {
            benefit: text("b"),
            source: text("s"),
            user: text(user),
            points: 1,
            valid_days: 1,
            zone: text("UTC"),
            area: area.map(text),
        })
    };
    assert!(grant("u", None).is_ok() && grant("u", Some("shop")).is_ok());
    for user in ["", " ", "\u{3000}", &"u".repeat(101)] {
        assert_eq!(grant(user, None).unwrap_err(), "`user` must have 1 to 100 bytes");
        let leaves = PointWithdrawal::start(&point_withdrawal::Args { user: user.to_owned() });
        assert_eq!(leaves.unwrap_err(), "`user` must have 1 to 100 bytes");
    }
    assert_eq!(grant("u", Some("")).unwrap_err(), "`area` must name one, or be left out");
}
