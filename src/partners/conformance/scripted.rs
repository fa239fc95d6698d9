//! Answers that are wrong in every small way, and one that is right.

use http::StatusCode;
use noshi_jobs::{
    gift_issuance::{Args, Cancel, Inquiry, Issue},
    money::{Currency, Money},
};
use serde_json::{Value, json};

use super::{Files, Fixture, Heard, Question, YEN, args, assert_no_secret, trade};
use crate::partners::{
    Gate,
    gifts::{CATALOGUE, CodePolicy, Funds, Partner},
    scripted::{Act, Scripted},
};

const GRANT: &str = "grant-1";

fn answer(status: StatusCode, body: &str) -> Act {
    Act::answer(&format!("{} Status\r\nContent-Type: application/json", status.as_u16()), body)
}

/// What the adapter makes of one answer to an issue and one to each inquiry that there is.
async fn read(files: &Files, partner: &Partner, issue: Act, inquiries: Vec<Act>) -> (Issue, Vec<Inquiry>) {
    let (name, questions) = (partner.name, partner.fixture.questions);
    assert_eq!(questions.len(), inquiries.len(), "{name}");
    let server = Scripted::start([issue].into_iter().chain(inquiries)).await;
    let provider = files.open(partner, &server.url);
    assert_eq!(provider.terms().contract.inquiry, !questions.is_empty(), "{name}");
    let (args, trade, gate) = (args(GRANT), trade(provider.as_ref(), GRANT), Gate::open());
    let issued = provider.issue(&args, &trade, &gate).await;
    let mut told = vec![];
    for question in questions {
        told.push(provider.inquire(&args, &trade, question.reference, &gate).await);
    }
    assert_eq!(server.requests().len(), 1 + told.len(), "{name}: one request a call");
    (issued, told)
}

fn nothing_issued((issue, told): &(Issue, Vec<Inquiry>)) -> bool {
    !matches!(issue, Issue::Issued(_)) && !told.iter().any(|inquiry| matches!(inquiry, Inquiry::Live(_)))
}

fn nothing_known((issue, told): &(Issue, Vec<Inquiry>)) -> bool {
    *issue == Issue::Unknown && told.iter().all(|inquiry| *inquiry == Inquiry::NoAnswer)
}

fn trade_of(files: &Files, partner: &Partner) -> String {
    trade(files.open(partner, "http://127.0.0.1:1").as_ref(), GRANT).id
}

/// All answers with this body.
fn all(fixture: &Fixture, status: StatusCode, body: &Value) -> (Act, Vec<Act>) {
    let inquired = |question: &Question| answer(StatusCode::OK, &(question.answer)(body.clone()).to_string());
    (answer(status, &body.to_string()), fixture.questions.iter().map(inquired).collect())
}

#[tokio::test]
async fn a_good_answer_is_issued_and_sealed_or_forgotten() {
    let heard = Heard::default();
    let _listening = heard.listen();
    let files = Files::new();
    for partner in CATALOGUE {
        let (name, fixture) = (partner.name, partner.fixture);
        let (status, body) = (fixture.issued)(&trade_of(&files, partner));
        let (issue, inquiry) = all(fixture, status, &body);
        let outcome = read(&files, partner, issue, inquiry).await;
        assert_no_secret(&format!("{outcome:?}"));
        let Issue::Issued(gift) = outcome.0 else { panic!("{name}: {:?}", outcome.0) };
        let policy = files.open(partner, "http://127.0.0.1:1").terms().code_policy;
        assert_eq!(gift.code.is_none(), policy == CodePolicy::Refetch, "{name}");
        for (question, told) in fixture.questions.iter().zip(&outcome.1) {
            match told {
                Inquiry::Live(live) => assert_eq!(live.card, gift.card, "{name}"),
                Inquiry::Known(known) => {
                    let by_it = fixture.questions.iter().any(|other| other.reference == Some(known));
                    assert!(question.reference.is_none() && by_it, "{name}: {known}");
                }
                other @ (Inquiry::Pending
                | Inquiry::Failed(_)
                | Inquiry::NotFound
                | Inquiry::Dead
                | Inquiry::Conflict
                | Inquiry::Throttled(_)
                | Inquiry::NoAnswer
                | Inquiry::BadCredentials) => panic!("{name}: {other:?}"),
            }
        }
        assert!(matches!(outcome.1.last(), None | Some(Inquiry::Live(_))), "{name}: {:?}", outcome.1);
    }
    assert!(!heard.text().is_empty(), "something is traced at the lowest level");
    assert_no_secret(&heard.text());
}

#[tokio::test]
async fn an_answer_that_lacks_anything_or_belongs_to_another_trade_is_never_issued() {
    let files = Files::new();
    for partner in CATALOGUE {
        let (name, fixture) = (partner.name, partner.fixture);
        let id = trade_of(&files, partner);
        let (status, good) = (fixture.issued)(&id);
        for pointer in fixture.needed {
            for change in [None, Some(json!(null)), Some(json!("")), Some(json!([1])), Some(json!({}))] {
                let mut body = good.clone();
                let (parent, field) = pointer.rsplit_once('/').unwrap();
                let parent = body.pointer_mut(parent).unwrap().as_object_mut().unwrap();
                assert!(parent.contains_key(field), "{name} has no {pointer}");
                match change.clone() {
                    None => drop(parent.shift_remove(field)),
                    Some(value) => drop(parent.insert(field.to_owned(), value)),
                }
                let (issue, inquiry) = all(fixture, status, &body);
                let outcome = read(&files, partner, issue, inquiry).await;
                assert!(nothing_issued(&outcome), "{name} {pointer} {change:?}: {outcome:?}");
            }
        }
        for pointer in fixture.decisive {
            let mut body = good.clone();
            let value = body.pointer_mut(pointer).unwrap();
            *value = match value.take() {
                Value::String(text) => json!(format!("{text}X")),
                Value::Number(number) => json!(number.as_f64().unwrap() + 500.0),
                other @ (Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_)) => {
                    panic!("{name} {pointer} is {other}")
                }
            };
            let (issue, inquiry) = all(fixture, status, &body);
            let outcome = read(&files, partner, issue, inquiry).await;
            // Our own trade with another value is for a person; any other contradiction says nothing.
            let (issue, told) = &outcome;
            let of_a_person = told.iter().all(|inquiry| matches!(inquiry, Inquiry::NoAnswer | Inquiry::Conflict));
            assert!(*issue == Issue::Unknown && of_a_person, "{name} {pointer}: {outcome:?}");
        }
    }
}

#[tokio::test]
async fn half_an_answer_and_garbage_are_unknown() {
    let files = Files::new();
    for partner in CATALOGUE {
        let (name, fixture) = (partner.name, partner.fixture);
        let (status, body) = (fixture.issued)(&trade_of(&files, partner));
        let text = body.to_string();
        // The right answers: to the issue, and to each inquiry.
        let inquired = fixture.questions.iter().map(|question| (question.answer)(body.clone()).to_string());
        let right: Vec<String> = [text].into_iter().chain(inquired).collect();
        let same = |wrong: &str| right.iter().map(|_| wrong.to_owned()).collect::<Vec<_>>();
        let mut wrong: Vec<Vec<String>> =
            ["", "<html><body>We will be back soon.</body></html>", "[]", "null", "{}", "\u{fffd}"].map(same).to_vec();
        wrong.push(right.iter().map(|text| format!("{text}{text}")).collect());
        let longest = right.iter().map(String::len).max().unwrap_or_default();
        wrong.extend(
            (1..longest)
                .step_by(7)
                .map(|cut| right.iter().map(|text| text[..cut.min(text.len() - 1)].to_owned()).collect()),
        );
        for texts in wrong {
            let inquiries = texts[1..].iter().map(|text| answer(StatusCode::OK, text)).collect();
            let outcome = read(&files, partner, answer(status, &texts[0]), inquiries).await;
            assert!(nothing_known(&outcome), "{name}: {outcome:?} of {texts:?}");
        }
    }
}

#[tokio::test]
async fn the_page_of_a_gateway_says_nothing_of_the_trade() {
    let files = Files::new();
    for partner in CATALOGUE {
        let name = partner.name;
        for code in [300, 307, 400, 401, 402, 403, 404, 408, 409, 413, 422, 500, 502, 503, 504] {
            let status = StatusCode::from_u16(code).unwrap();
            let page = answer(status, "<html><body>CNRY</body></html>");
            let pages = vec![page.clone(); partner.fixture.questions.len()];
            let (issue, told) = read(&files, partner, page, pages).await;
            assert_eq!(issue, Issue::Unknown, "{name} {code}");
            let unknown = |inquiry: &Inquiry| matches!(inquiry, Inquiry::NoAnswer | Inquiry::BadCredentials);
            assert!(told.iter().all(unknown), "{name} {code}: {told:?}");
        }
        // A gateway says "too many" for itself: it is heeded, and says nothing of an issue that it may have passed on.
        let wait = Act::answer("429 Too Many Requests\r\nRetry-After: 17", "<html></html>");
        let date = "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\nRetry-After: Sun, 06 Nov 1994 08:50:20 GMT";
        let date = Act::answer(&format!("429 Too Many Requests\r\n{date}"), "");
        for (act, seconds) in [(wait, 17), (date, 43)] {
            let seconds = std::time::Duration::from_secs(seconds);
            let acts = vec![act.clone(); partner.fixture.questions.len()];
            let (issue, told) = read(&files, partner, act, acts).await;
            assert_eq!(issue, Issue::Unknown, "{name}");
            assert!(told.iter().all(|inquiry| *inquiry == Inquiry::Throttled(seconds)), "{name}: {told:?}");
        }
    }
}

#[tokio::test]
async fn a_request_carries_the_trade_and_the_amount_and_is_made_once() {
    let files = Files::new();
    for partner in CATALOGUE {
        let name = partner.name;
        let server = Scripted::start([Act::Reset]).await;
        let provider = files.open(partner, &format!("{}/base", server.url));
        let (args, trade) = (args(GRANT), trade(provider.as_ref(), GRANT));
        assert_eq!(provider.issue(&args, &trade, &Gate::open()).await, Issue::Unknown);
        let requests = server.requests();
        assert_eq!(requests.len(), 1, "{name}");
        assert!(requests[0].starts_with("POST /base/"), "{name}: {}", requests[0]);
        let (_, body) = requests[0].split_once("\r\n\r\n").unwrap();
        let quoted = format!("\"{}\"", trade.id);
        assert!(body.contains(&quoted) && body.contains(":1000"), "{name}: {body}");
        assert!(!body.contains("grant-1") && !body.contains("u1"), "{name} tells the provider who it is for: {body}");
    }
}

#[tokio::test]
async fn nothing_leaves_through_a_closed_gate_to_a_closed_place_or_outside_the_offers() {
    let files = Files::new();
    for partner in CATALOGUE {
        let name = partner.name;
        let server = Scripted::start([]).await;
        let provider = files.open(partner, &server.url);
        let contract = &provider.terms().contract;
        let (args, trade, closed) = (args(GRANT), trade(provider.as_ref(), GRANT), Gate::new(|| false));
        assert_eq!(provider.issue(&args, &trade, &closed).await, Issue::NotSent, "{name}");
        for reference in [None, Some("RA1")] {
            assert_eq!(provider.inquire(&args, &trade, reference, &closed).await, Inquiry::NoAnswer, "{name}");
        }
        let cancelled = provider.cancel(&args, &trade, Some("c1"), &closed).await;
        assert_eq!(cancelled, if contract.cancel { Cancel::NotSent } else { Cancel::Refused }, "{name}");
        assert_eq!(provider.funds(&closed).await, Funds::NoAnswer, "{name}");
        for not_offered in [
            Args { category: "tea".to_owned(), ..args.clone() },
            Args { value: Money { amount: 50_001, ..YEN }, ..args.clone() },
            Args { value: Money { currency: Currency::Usd, ..YEN }, ..args.clone() },
        ] {
            let outcome = provider.issue(&not_offered, &trade, &Gate::open()).await;
            assert_eq!(outcome, Issue::Refused("NotOffered".to_owned()), "{name}");
        }
        // What the contract does not have is not asked for.
        if !contract.inquiry {
            assert_eq!(provider.inquire(&args, &trade, None, &Gate::open()).await, Inquiry::NoAnswer, "{name}");
        }
        if !contract.cancel {
            assert_eq!(provider.cancel(&args, &trade, Some("c1"), &Gate::open()).await, Cancel::Refused, "{name}");
        }
        assert!(server.requests().is_empty(), "{name}: {:?}", server.requests());
        let nobody = files.open(partner, "http://127.0.0.1:1");
        assert_eq!(nobody.issue(&args, &trade, &Gate::open()).await, Issue::NotSent, "{name}");
        assert_eq!(nobody.inquire(&args, &trade, None, &Gate::open()).await, Inquiry::NoAnswer, "{name}");
    }
}
