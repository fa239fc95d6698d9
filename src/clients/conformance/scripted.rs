//! Answers that are wrong in every small way, and one that is right.

use http::StatusCode;
use noshi_jobs::gift_issuance::{Inquiry, Issue};
use serde_json::{Value, json};

use super::{Files, Fixture, Heard, args, assert_no_secret, fixture::fixture, trade};
use crate::clients::{
    CATALOGUE, CodePolicy, Gate, GiftProvider, Open,
    scripted::{Act, Scripted},
};

const GRANT: &str = "grant-1";

fn answer(status: StatusCode, body: &str) -> Act {
    Act::answer(&format!("{} Status\r\nContent-Type: application/json", status.as_u16()), body)
}

/// What the adapter makes of one answer to an issue and, where there is one, to an inquiry.
async fn read(files: &Files, name: &str, open: Open, issue: Act, inquiry: Act) -> (Issue, Option<Inquiry>) {
    let server = Scripted::start([issue, inquiry]).await;
    let provider = files.open(name, open, &server.url);
    let (args, trade, gate) = (args(GRANT), trade(provider.as_ref(), GRANT), Gate::open());
    let issued = provider.issue(&args, &trade, &gate).await;
    if !provider.contract().inquiry {
        return (issued, None);
    }
    (issued, Some(provider.inquire(&args, &trade, &gate).await))
}

fn nothing_issued((issue, inquiry): &(Issue, Option<Inquiry>)) -> bool {
    !matches!(issue, Issue::Issued(_)) && !matches!(inquiry, Some(Inquiry::Live(_)))
}

fn trade_of(files: &Files, name: &str, open: Open) -> String {
    trade(files.open(name, open, "http://127.0.0.1:1").as_ref(), GRANT).id
}

/// Both answers with this body.
fn both(fixture: &Fixture, status: StatusCode, body: &Value) -> (Act, Act) {
    let inquired = fixture.inquired.map_or(json!(null), |wrap| wrap(body.clone()));
    (answer(status, &body.to_string()), answer(StatusCode::OK, &inquired.to_string()))
}

#[tokio::test]
async fn a_good_answer_is_issued_and_sealed_or_forgotten() {
    let heard = Heard::default();
    let _listening = heard.listen();
    let files = Files::new();
    for (name, open) in CATALOGUE {
        let fixture = fixture(name);
        let (status, body) = (fixture.issued)(&trade_of(&files, name, open));
        let (issue, inquiry) = both(&fixture, status, &body);
        let outcome = read(&files, name, open, issue, inquiry).await;
        assert_no_secret(&format!("{outcome:?}"));
        let Issue::Issued(gift) = outcome.0 else { panic!("{name}: {:?}", outcome.0) };
        let policy = files.open(name, open, "http://127.0.0.1:1").code_policy();
        assert_eq!(gift.code.is_none(), policy == CodePolicy::Refetch, "{name}");
        match outcome.1 {
            Some(Inquiry::Live(live)) => assert_eq!(live.card, gift.card, "{name}"),
            Some(other) => panic!("{name}: {other:?}"),
            None => assert!(fixture.inquired.is_none(), "{name}"),
        }
    }
    assert!(!heard.text().is_empty(), "something is traced at the lowest level");
    assert_no_secret(&heard.text());
}

#[tokio::test]
async fn an_answer_that_lacks_anything_or_belongs_to_another_trade_is_never_issued() {
    let files = Files::new();
    for (name, open) in CATALOGUE {
        let fixture = fixture(name);
        let id = trade_of(&files, name, open);
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
                let (issue, inquiry) = both(&fixture, status, &body);
                let outcome = read(&files, name, open, issue, inquiry).await;
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
            let (issue, inquiry) = both(&fixture, status, &body);
            let outcome = read(&files, name, open, issue, inquiry).await;
            assert_eq!(outcome.0, Issue::Unknown, "{name} {pointer}");
            assert!(matches!(outcome.1, None | Some(Inquiry::NoAnswer)), "{name} {pointer}: {outcome:?}");
        }
    }
}

#[tokio::test]
async fn half_an_answer_and_garbage_are_unknown() {
    let files = Files::new();
    for (name, open) in CATALOGUE {
        let fixture = fixture(name);
        let (status, body) = (fixture.issued)(&trade_of(&files, name, open));
        let text = body.to_string();
        let listed = fixture.inquired.map_or(json!(null), |wrap| wrap(body)).to_string();
        let mut wrong = vec![
            (String::new(), String::new()),
            ("<html><body>We will be back soon.</body></html>".to_owned(), "<html>".to_owned()),
            ("[]".to_owned(), "[]".to_owned()),
            ("null".to_owned(), "null".to_owned()),
            ("{}".to_owned(), "{}".to_owned()),
            (format!("{text}{text}"), format!("{listed}{listed}")),
            ("\u{fffd}".to_owned(), "\u{fffd}".to_owned()),
        ];
        let whole = text.len().max(listed.len());
        wrong.extend((1..whole).step_by(7).map(|cut| {
            let part = |text: &str| text[..cut.min(text.len() - 1)].to_owned();
            (part(&text), part(&listed))
        }));
        for (issue, inquiry) in wrong {
            let acts = (answer(status, &issue), answer(StatusCode::OK, &inquiry));
            let outcome = read(&files, name, open, acts.0, acts.1).await;
            assert_eq!(outcome.0, Issue::Unknown, "{name}: {issue}");
            assert!(matches!(outcome.1, None | Some(Inquiry::NoAnswer)), "{name}: {outcome:?} of {inquiry}");
        }
    }
}

#[tokio::test]
async fn the_page_of_a_gateway_says_nothing_of_the_trade() {
    let files = Files::new();
    for (name, open) in CATALOGUE {
        for code in [300, 307, 400, 401, 402, 403, 404, 408, 409, 413, 422, 500, 502, 503, 504] {
            let status = StatusCode::from_u16(code).unwrap();
            let page = answer(status, "<html><body>CNRY</body></html>");
            let (issue, inquiry) = read(&files, name, open, page.clone(), page).await;
            assert_eq!(issue, Issue::Unknown, "{name} {code}");
            assert!(
                matches!(inquiry, None | Some(Inquiry::NoAnswer | Inquiry::BadCredentials)),
                "{name} {code}: {inquiry:?}"
            );
        }
        // "Too many" is the one thing that a gateway says for itself.
        let wait = Act::answer("429 Too Many Requests\r\nRetry-After: 17", "<html></html>");
        let date = "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\nRetry-After: Sun, 06 Nov 1994 08:50:20 GMT";
        let date = Act::answer(&format!("429 Too Many Requests\r\n{date}"), "");
        for (act, seconds) in [(wait, 17), (date, 43)] {
            let seconds = std::time::Duration::from_secs(seconds);
            let (issue, inquiry) = read(&files, name, open, act.clone(), act).await;
            assert_eq!(issue, Issue::Throttled(seconds), "{name}");
            assert!(matches!(inquiry, None | Some(Inquiry::Throttled(_))), "{name}");
            assert!(inquiry.is_none_or(|inquiry| inquiry == Inquiry::Throttled(seconds)), "{name}");
        }
    }
}

#[tokio::test]
async fn a_request_carries_the_trade_and_the_amount_and_is_made_once() {
    let files = Files::new();
    for (name, open) in CATALOGUE {
        let server = Scripted::start([Act::Reset]).await;
        let provider: Box<dyn GiftProvider> = files.open(name, open, &format!("{}/base", server.url));
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
