//! What no contract may say: whatever could make an effect twice, lose what became of one, or give a secret away.

use std::time::Duration;

use noshi_jobs::effect::Rule;

use super::{
    answers,
    contract::{Asks, Contract, Input, Means},
    requests::Shape,
    template::Template,
};

/// A key, and why what stands there is refused.
pub type Fault = (String, String);

/// A step takes a minute at most, and after that its job is taken back: a call must be over well before.
const LONGEST_CALL: Duration = Duration::from_secs(30);
const LONGEST_WAIT_S: u64 = 7 * 24 * 60 * 60;

pub fn fault<T>(key: impl Into<String>, why: impl Into<String>) -> Result<T, Fault> {
    Err((key.into(), why.into()))
}

pub fn check(contract: &Contract) -> Result<(), Fault> {
    named(contract)?;
    times(contract)?;
    let mut origin = None;
    for (key, asks) in contract.asks() {
        let shape = Shape::of(asks).map_err(|(part, why)| (format!("{key}.{part}"), why))?;
        let here = shape.origin.origin();
        if origin.get_or_insert_with(|| here.clone()) != &here {
            return fault(format!("{key}.url"), "it is another host than perform's; a contract is with one");
        }
        method(key, asks)?;
        places(contract, key, &shape)?;
        headers(key, asks)?;
        answers::check(contract, key, asks)?;
        let must = key != "perform" || contract.doubt.rule != Rule::AskAPerson;
        let carries = |(part, template): (String, &Template)| template.has_id() && !is_ignored(&part);
        if must && !shape.parts().any(carries) {
            let why = match key {
                "perform" => {
                    "nothing in it carries `{id}`, so the partner cannot know the call for the same: it could act twice"
                }
                _ => "nothing in it carries `{id}`, so the answer would say nothing of this effect",
            };
            return fault(key, why);
        }
    }
    doubt(contract)?;
    kept(contract)
}

/// Headers that a server reads for something else than what is asked of it: an id that stands there alone is seen by nobody.
fn is_ignored(part: &str) -> bool {
    const ELSEWHERE: [&str; 12] = [
        "user-agent",
        "accept",
        "accept-language",
        "accept-encoding",
        "referer",
        "date",
        "from",
        "if-none-match",
        "if-match",
        "traceparent",
        "cache-control",
        "cookie",
    ];
    part.strip_prefix("headers.").is_some_and(|name| ELSEWHERE.contains(&name.to_ascii_lowercase().as_str()))
}

fn is_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    (1..=40).contains(&name.len()) && name.bytes().all(fits) && name.as_bytes()[0].is_ascii_lowercase()
}

fn named(contract: &Contract) -> Result<(), Fault> {
    const NAME: &str = "a name has 1 to 40 small letters, digits and `_`, and begins with a letter";
    if !is_name(&contract.name) {
        return fault("name", NAME);
    }
    for name in contract.input.keys() {
        if !is_name(name) || name == "id" {
            return fault(format!("input.{name}"), format!("{NAME}; `id` is the job's own"));
        }
    }
    match contract.keep.keys().find(|name| !is_name(name)) {
        Some(name) => fault(format!("keep.{name}"), NAME),
        None => Ok(()),
    }
}

fn times(contract: &Contract) -> Result<(), Fault> {
    let longest = u64::try_from(LONGEST_CALL.as_millis()).unwrap_or(u64::MAX);
    if !(100..=longest).contains(&contract.timeout_ms) {
        let why = "it must be 100 to 30000: a step has a minute, and a call that outlives it would be made again beside itself";
        return fault("timeout_ms", why);
    }
    if !(1..=LONGEST_WAIT_S).contains(&contract.deadline_s)
        || contract.deadline_s.saturating_mul(1_000) < contract.timeout_ms
    {
        return fault("deadline_s", "it must be as long as one call at least, and a week at most");
    }
    if contract.budget.calls == 0 {
        return fault("budget.calls", "it must be 1 at least, else nothing is ever called");
    }
    if !(100..=86_400_000).contains(&contract.budget.per_ms) {
        return fault("budget.per_ms", "it must be 100 ms to a day");
    }
    Ok(())
}

fn method(key: &str, asks: &Asks) -> Result<(), Fault> {
    let may: &[&str] = if key == "inquire" { &["GET"] } else { &["POST", "PUT", "PATCH", "DELETE"] };
    if may.contains(&asks.method.as_str()) {
        return Ok(());
    }
    let why = match key {
        "inquire" => "an inquiry is a GET: what is called in doubt must change nothing",
        _ => "it must be POST, PUT, PATCH or DELETE: whatever stands between may repeat a GET",
    };
    fault(format!("{key}.method"), why)
}

/// What is to be filled in is known, and no secret stands in a body.
fn places(contract: &Contract, key: &str, shape: &Shape) -> Result<(), Fault> {
    for (part, template) in shape.parts() {
        let at = format!("{key}.{part}");
        for name in template.inputs() {
            let Some(input) = contract.input.get(name) else {
                return fault(at, format!("`{{{name}}}` is not among `input`"));
            };
            if *input == Input::Text && !part.starts_with("body") {
                return fault(at, format!("`{{{name}}}` is text, which may stand in the body alone; make it a word"));
            }
        }
        if template.secrets().next().is_some() && part.starts_with("body") {
            return fault(
                at,
                "a secret stands in a header, or where the partner wants it so in the address, and not in a body",
            );
        }
    }
    Ok(())
}

fn headers(key: &str, asks: &Asks) -> Result<(), Fault> {
    for (name, value) in &asks.headers {
        let at = format!("{key}.headers.{name}");
        if http::HeaderName::from_bytes(name.as_bytes()).is_err() {
            return fault(at, "no header is called like that");
        }
        let lower = name.to_ascii_lowercase();
        if asks.headers.keys().any(|other| other != name && other.to_ascii_lowercase() == lower) {
            return fault(at, "it stands here twice, by capitals alone; a partner would read one of the two");
        }
        if ["host", "content-length", "content-type", "transfer-encoding", "connection", "expect", "te", "upgrade"]
            .contains(&lower.as_str())
        {
            return fault(at, "the client sets it, and another value could make another request of it");
        }
        let holds_secrets = ["authorization", "cookie", "x-api-key", "proxy-authorization"].contains(&lower.as_str());
        if holds_secrets && value.secrets().next().is_none() {
            return fault(
                at,
                "a credential stands here in plain; write {secret:NAME}, and put it into a file of the secrets folder",
            );
        }
    }
    Ok(())
}

fn doubt(contract: &Contract) -> Result<(), Fault> {
    let doubt = contract.doubt;
    match (doubt.rule, &contract.inquire) {
        (Rule::Inquire, None) => return fault("inquire", "`doubt.rule` is inquire, and there is nothing to ask with"),
        (Rule::Repeat | Rule::AskAPerson, Some(_)) => {
            return fault("inquire", "it would never be asked; with it `doubt.rule` is inquire");
        }
        (Rule::Inquire, Some(_)) | (Rule::Repeat | Rule::AskAPerson, None) => {}
    }
    match (doubt.rule, doubt.horizon_s) {
        (Rule::Repeat, None) => {
            return fault(
                "doubt.horizon_s",
                "for how long does the partner know the id again? After that a repetition is a second effect",
            );
        }
        (Rule::Repeat, Some(horizon)) if horizon <= contract.deadline_s + LONGEST_CALL.as_secs() => {
            let why = "it must be longer than `deadline_s` and a call of 30 s: until then the call is repeated, and a partner that has forgotten the id would act twice";
            return fault("doubt.horizon_s", why);
        }
        (Rule::Inquire | Rule::AskAPerson, Some(_)) => {
            return fault("doubt.horizon_s", "nothing is repeated by this rule; leave it out");
        }
        (Rule::Repeat, Some(_)) | (Rule::Inquire | Rule::AskAPerson, None) => {}
    }
    let means = |asks: &Option<Asks>, means| {
        asks.as_ref().is_some_and(|asks| asks.answers.iter().any(|answer| answer.means == means))
    };
    let waits = contract.cancel.is_some() || means(&contract.inquire, Means::DidNotHappen);
    match doubt.settles_after_s {
        None if waits => fault(
            "doubt.settles_after_s",
            "how late may a call land that was not answered? Before that neither \"it did not happen\" nor a cancellation says anything",
        ),
        Some(after) if waits && after.saturating_mul(1_000) <= contract.timeout_ms => fault(
            "doubt.settles_after_s",
            "it must be longer than `timeout_ms`: a call that is still out there can land behind the answer",
        ),
        Some(after) if after > contract.deadline_s => fault(
            "doubt.settles_after_s",
            "it must not be longer than `deadline_s`: a person would be asked before anything can be known",
        ),
        Some(_) if !waits => fault("doubt.settles_after_s", "nothing here waits for it; leave it out"),
        Some(_) | None => Ok(()),
    }
}

/// Names under which money is kept.
const WORTH_MONEY: [&str; 6] = ["code", "pin", "token", "secret", "password", "key"];

fn kept(contract: &Contract) -> Result<(), Fault> {
    for (name, keep) in &contract.keep {
        if !keep.at.starts_with('/') {
            return fault(format!("keep.{name}.at"), "it must be a JSON pointer, such as /receipt");
        }
        let is_worth = name.split('_').any(|word| WORTH_MONEY.contains(&word));
        if is_worth && !keep.sealed {
            return fault(
                format!("keep.{name}.sealed"),
                "whoever reads it can use it: set `sealed = true`, or call it something else",
            );
        }
    }
    Ok(())
}
