//! What an answer means. No two rules with different meanings fit the same answer, so their order says nothing; what none fits is not known.

use http::StatusCode;
use noshi_jobs::effect::Rule;
use serde_json::Value;

use super::{
    check::{Fault, fault},
    contract::{AnswerRule, Asks, Contract, Means},
};
use crate::partners::http::Reply;

/// What the answer means by these rules.
pub fn read(rules: &[AnswerRule], reply: &Reply) -> Means {
    let json: Option<Value> = reply.body.json();
    let fits = rules.iter().find(|rule| fits(rule, reply.status, json.as_ref(), reply.body.text()));
    fits.map_or(Means::Unknown, |rule| rule.means)
}

fn fits(rule: &AnswerRule, status: StatusCode, json: Option<&Value>, text: Option<&str>) -> bool {
    let stands = |at: &str| json.and_then(|json| json.pointer(at));
    rule.status.contains(&status.as_u16())
        && rule.text.as_deref().is_none_or(|wanted| text.map(str::trim) == Some(wanted.trim()))
        && rule.at.as_deref().is_none_or(|at| match &rule.is {
            Some(wanted) => stands(at).is_some_and(|found| wanted.contains(found)),
            None => stands(at).is_some_and(|found| !found.is_null()),
        })
}

pub fn check(contract: &Contract, key: &str, asks: &Asks) -> Result<(), Fault> {
    for (number, rule) in asks.answers.iter().enumerate() {
        let at = format!("{key}.answers[{number}]");
        shape(rule).map_err(|(part, why)| (format!("{at}.{part}"), why))?;
        meaning(contract, key, rule).map_err(|why| (format!("{at}.means"), why))?;
        let overlaps = |other: &&AnswerRule| other.means != rule.means && both_fit(rule, other);
        if let Some(other) = asks.answers[..number].iter().find(overlaps) {
            let (one, two) = (other.means.name(), rule.means.name());
            let why = format!(
                "an answer could be {one} and {two} at once; tell them apart by `status`, or by other values at the same `at`"
            );
            return fault(at, why);
        }
    }
    let wanted = if key == "inquire" { Means::Happened } else { Means::Done };
    match asks.answers.iter().any(|rule| rule.means == wanted) {
        true => Ok(()),
        false => {
            fault(format!("{key}.answers"), format!("none of them means {}, so it could never end well", wanted.name()))
        }
    }
}

fn shape(rule: &AnswerRule) -> Result<(), Fault> {
    if rule.status.is_empty() || !rule.status.iter().all(|status| (200..=599).contains(status)) {
        return fault("status", "it names one status at least, of 200 to 599");
    }
    if rule.status.iter().any(|status| (300..=399).contains(status)) && rule.means != Means::Unknown {
        return fault("status", "a redirection is not followed, and says nothing of the effect");
    }
    if rule.at.as_deref().is_some_and(|at| !at.starts_with('/')) {
        return fault("at", "it must be a JSON pointer, such as /status");
    }
    if rule.is.is_some() && rule.at.is_none() {
        return fault("is", "it stands beside `at`, which says where to look");
    }
    if rule.is.as_ref().is_some_and(Vec::is_empty) {
        return fault("is", "it names one value at least");
    }
    match rule.text.is_some() && rule.at.is_some() {
        true => fault("text", "the answer is either text or JSON"),
        false => Ok(()),
    }
}

/// Which statuses may mean it, and where.
fn meaning(contract: &Contract, key: &str, rule: &AnswerRule) -> Result<(), String> {
    let within = |from: u16, to: u16| rule.status.iter().all(|status| (from..=to).contains(status));
    let only = |may: &[u16]| rule.status.iter().all(|status| may.contains(status));
    let is_told = rule.at.is_some() || rule.text.is_some();
    let may: &[Means] = match key {
        "perform" => &[Means::Done, Means::Refused, Means::Accepted],
        "inquire" => &[Means::Happened, Means::DidNotHappen, Means::NotYet],
        _ => &[Means::Done, Means::Refused],
    };
    let everywhere = [Means::Throttled, Means::Credentials, Means::Unknown];
    if !may.contains(&rule.means) && !everywhere.contains(&rule.means) {
        return Err(format!("an answer to {key} cannot mean {}", rule.means.name()));
    }
    match rule.means {
        Means::Done | Means::Happened | Means::Accepted if !within(200, 299) => {
            Err("only 200 to 299 says that something was done".to_owned())
        }
        Means::Accepted if contract.doubt.rule == Rule::AskAPerson => {
            Err("nobody would learn what became of it: `doubt.rule` is ask_a_person".to_owned())
        }
        Means::Refused if rule.status.iter().any(|status| *status >= 500 || [407, 408, 421, 425, 429, 499].contains(status)) => {
            Err("such an answer may come after the effect, or from somebody on the way; it is not known what became of the call".to_owned())
        }
        Means::Refused if !is_told && (!within(400, 499) || rule.status.iter().any(|status| [409, 423, 424].contains(status))) => {
            Err("by its status alone only 400 to 499 without 409, 423 and 424 is a refusal; say with `at` and `is` what tells it".to_owned())
        }
        Means::DidNotHappen if !(only(&[404, 410]) || within(200, 299) && is_told) => {
            Err("404 and 410 say so, or a value at `at`; anything else may come from somebody on the way, and the effect would be made twice".to_owned())
        }
        Means::Throttled if !only(&[429]) => Err("only 429 says that nothing was done; anything else is not known".to_owned()),
        Means::Credentials if !only(&[401, 403]) => Err("only 401 and 403 say so".to_owned()),
        Means::Done | Means::Happened | Means::Accepted | Means::Refused | Means::DidNotHappen => Ok(()),
        Means::NotYet | Means::Throttled | Means::Credentials | Means::Unknown => Ok(()),
    }
}

/// Whether one answer could fit both. Values at different places can stand in the same answer.
fn both_fit(one: &AnswerRule, two: &AnswerRule) -> bool {
    if !one.status.iter().any(|status| two.status.contains(status)) {
        return false;
    }
    match ((&one.at, &one.is, &one.text), (&two.at, &two.is, &two.text)) {
        ((Some(a), Some(these), _), (Some(b), Some(those), _)) if a == b => {
            these.iter().any(|value| those.contains(value))
        }
        ((_, _, Some(this)), (_, _, Some(that))) => this.trim() == that.trim(),
        // A text that is no JSON has nothing at any place.
        ((_, _, Some(text)), (Some(at), ..)) | ((Some(at), ..), (_, _, Some(text))) => {
            serde_json::from_str::<Value>(text).is_ok_and(|json| json.pointer(at).is_some())
        }
        _ => true,
    }
}
