use serde_json::json;

use crate::lab::simulator::Partner;

use super::*;

const GIFT: Provider = Provider::GiftOnDemand;

fn line(event: Event, trade: &str, card: &str, amount: i64) -> Line {
    Line {
        event,
        provider: Some(Partner::Gift(GIFT)),
        trade: Some(trade.to_owned()),
        card: Some(card.to_owned()),
        amount: Some(json!(amount)),
        ..Line::default()
    }
}

fn issued(trade: &str, card: &str) -> Line {
    line(Event::Issued, trade, card, 500)
}

fn arrival(us: u64) -> Line {
    Line { us, event: Event::Arrival, provider: Some(Partner::Gift(GIFT)), ..Line::default() }
}

fn job(grant: &str, status: &str, code: Option<&str>) -> GiftJob {
    GiftJob {
        grant: grant.to_owned(),
        status: status.to_owned(),
        code: code.map(str::to_owned),
        in_doubt: false,
        amount: 500,
    }
}

fn trade(grant: &str, id: &str, card: Option<&str>) -> GiftTrade {
    GiftTrade {
        id: id.to_owned(),
        grant: grant.to_owned(),
        provider: GIFT.name().to_owned(),
        card: card.map(str::to_owned),
    }
}

fn books(ledger: Vec<Line>, jobs: Vec<GiftJob>, trades: Vec<GiftTrade>) -> Books {
    let limits = PerProvider { amazon_incentives: 3, gift_on_demand: 3, tango_card: 3 };
    Books { ledger, grants: jobs.len(), jobs, trades, limits }
}

/// One completed job with this ledger.
fn completed(ledger: Vec<Line>) -> Reconciliation {
    reconcile(&books(ledger, vec![job("a", "completed", None)], vec![trade("a", "T1", Some("C1"))]))
}

fn of(it: &Reconciliation, provider: Provider) -> &Account {
    &it.accounts.iter().find(|(one, _)| *one == provider).unwrap().1
}

#[test]
fn books_that_agree_are_not_broken() {
    let ledger = vec![
        arrival(1),
        issued("T1", "C1"),
        issued("T2", "C2"),
        line(Event::Voided, "T2", "C2", 500),
        issued("T3", "C3"),
        issued("T5", "C5"),
    ];
    let jobs = vec![
        job("a", "completed", None),
        job("b", "completed", None),
        job("c", "failed", Some("gift_refused")),
        job("d", "needs_operator", Some("not_found_in_doubt")),
        job("e", "needs_operator", Some("not_found_in_doubt")),
        job("f", "failed", Some("no_provider")),
    ];
    let trades = vec![
        trade("a", "T1", Some("C1")),
        // Voided, and issued again under another trade.
        trade("b", "T2", Some("C2")),
        trade("b", "T3", Some("C3")),
        trade("c", "T4", None),
        trade("d", "T5", None),
        trade("e", "T6", None),
    ];
    let it = reconcile(&books(ledger, jobs, trades));
    assert_eq!(it.broken, Vec::<String>::new());
    let expected = Account {
        grants: 5,
        issued_once: 2,
        refused: 1,
        needs_operator: 2,
        duplicates: 0,
        calls: 1,
        max_calls: 1,
        limit: 3,
        asked: BTreeMap::from([("not_found_in_doubt".to_owned(), ForOperator { jobs: 2, issued: 1 })]),
    };
    assert_eq!(*of(&it, GIFT), expected);
    assert_eq!(*of(&it, Provider::TangoCard), Account { limit: 3, ..Account::default() });
    assert_eq!(it.nowhere, 1);
}

#[test]
fn two_live_cards_of_one_trade_are_a_duplicate() {
    let it = completed(vec![issued("T1", "C1"), issued("T1", "C2")]);
    assert_eq!(it.broken, ["grant a: a DUPLICATE, the cards C1, C2 are all live"]);
    assert_eq!((of(&it, GIFT).duplicates, of(&it, GIFT).issued_once), (1, 0));
}

#[test]
fn two_live_cards_of_one_grant_are_a_duplicate_even_where_a_person_was_asked() {
    let trades = vec![trade("a", "T1", None), trade("a", "T2", None)];
    let jobs = vec![job("a", "needs_operator", Some("gift_void"))];
    let it = reconcile(&books(vec![issued("T1", "C1"), issued("T2", "C2")], jobs, trades));
    assert_eq!(it.broken, ["grant a: a DUPLICATE, the cards C1, C2 are all live"]);
    assert_eq!(of(&it, GIFT).duplicates, 1);
}

#[test]
fn a_card_of_another_provider_does_not_count() {
    let other = Line { provider: Some(Partner::Gift(Provider::TangoCard)), ..issued("T1", "C1") };
    let it = completed(vec![other]);
    assert_eq!(
        it.broken,
        [
            "grant a: completed, and the ledger has no live card",
            "tango_card issued 1 for the trade T1, which we never saved"
        ]
    );
    assert_eq!(of(&it, GIFT).issued_once, 0);
}

#[test]
fn a_completed_job_needs_its_own_card_alive_and_of_its_amount() {
    assert_eq!(completed(vec![]).broken, ["grant a: completed, and the ledger has no live card"]);
    let voided = completed(vec![issued("T1", "C1"), line(Event::Voided, "T1", "C1", 500)]);
    assert_eq!(voided.broken, ["grant a: completed, and the ledger has no live card"]);
    let other = completed(vec![issued("T1", "C9")]);
    assert_eq!(other.broken, ["grant a: completed with the card C1, and the ledger has C9"]);
    let amount = completed(vec![line(Event::Issued, "T1", "C1", 1000)]);
    assert_eq!(amount.broken, ["grant a: completed with 500, and the ledger has 1000"]);
    assert_eq!(of(&amount, GIFT).issued_once, 0);
}

#[test]
fn a_failed_job_with_a_live_card_is_broken() {
    for status in ["failed", "cancelled"] {
        let jobs = vec![job("a", status, Some("gift_refused"))];
        let it = reconcile(&books(vec![issued("T1", "C1")], jobs, vec![trade("a", "T1", None)]));
        assert_eq!(it.broken, [format!("grant a: {status}, and the card C1 is live")]);
        assert_eq!(of(&it, GIFT).refused, 0);
    }
}

#[test]
fn a_question_without_a_code_and_a_job_that_does_not_rest_are_broken() {
    let jobs = vec![job("a", "needs_operator", None), job("b", "running", None)];
    let trades = vec![trade("a", "T1", None), trade("b", "T2", None)];
    let it = reconcile(&books(vec![], jobs, trades));
    assert_eq!(
        it.broken,
        ["grant a: it waits for a person without a code that says why", "grant b: not at rest, but running"]
    );
}

#[test]
fn every_grant_has_its_job() {
    let mut books = books(vec![], vec![], vec![]);
    books.grants = 2;
    assert_eq!(reconcile(&books).broken, ["2 grants were submitted, and there are 0 jobs"]);
}

#[test]
fn the_busiest_second_is_found_wherever_it_begins_and_in_any_order_of_lines() {
    let it = reconcile(&books(
        vec![arrival(1_500_000), arrival(600_000), arrival(1_599_999), arrival(1_600_000)],
        vec![],
        vec![],
    ));
    // The call at 600_000 has left the second that ends with the one at 1_600_000.
    assert_eq!(of(&it, GIFT).max_calls, 3);
    assert_eq!(it.broken, Vec::<String>::new());
    let it = reconcile(&books((0..4).map(|n| arrival(n * 333_333)).collect(), vec![], vec![]));
    assert_eq!(it.broken, ["gift_on_demand was called 4 times within a second; 3 are allowed"]);
}
