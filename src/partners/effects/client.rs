//! Calls what a contract declares. Each method makes at most one request.

use std::{collections::BTreeMap, time::Duration};

use anyhow::ensure;
use http::{HeaderName, HeaderValue, header};
use noshi_jobs::effect::{self, Rule};
use reqwest::Method;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use super::{
    answers,
    contract::{Asks, Contract, Input, Means},
    requests::Shape,
};
use crate::{
    basics::text,
    partners::{
        Budget, Gate, Partner,
        http::{Answer, Http, Reach, Reply, addresses::Addresses},
    },
};

/// What is kept of an answer is short.
const MAX_KEPT: usize = 400;
/// What may be given for one input.
const MAX_GIVEN: usize = 2_000;

/// What became of a request.
#[derive(Debug)]
pub enum Said {
    Means(Means, Reply),
    NotSent,
    Unknown,
}

/// A contract that can be called.
pub struct Client {
    pub contract: Contract,
    /// Its lane, and its label in the metrics.
    pub label: &'static str,
    http: Http,
    shapes: BTreeMap<&'static str, Shape>,
    secrets: BTreeMap<String, SecretString>,
}

impl Client {
    /// `secret` reads one from its file.
    pub fn open(
        contract: Contract,
        addresses: Addresses,
        secret: impl Fn(&str) -> anyhow::Result<SecretString>,
    ) -> anyhow::Result<Client> {
        let (mut shapes, mut secrets) = (BTreeMap::new(), BTreeMap::new());
        for (key, asks) in contract.asks() {
            // The contract has been checked.
            let shape = Shape::of(asks).map_err(|(part, why)| anyhow::anyhow!("`{key}.{part}`: {why}"))?;
            for name in shape.templates().flat_map(|template| template.secrets()) {
                secrets.insert(name.to_owned(), secret(name)?);
            }
            shapes.insert(key, shape);
        }
        let label: &'static str = Box::leak(effect::lane(&contract.name).into_boxed_str());
        let origin = &shapes["perform"].origin;
        let timeout = Duration::from_millis(contract.timeout_ms);
        let http = Http::new(&Reach {
            provider: label,
            base_url: origin.to_string(),
            allow_plain_http: false,
            ca_file: None,
            connect_timeout: timeout / 2,
            read_timeout: timeout,
            timeout,
            budgets: vec![budget(&contract)],
            only: Some(addresses),
        })?;
        Ok(Client { label, http, shapes, secrets, contract })
    }

    /// For the lane and the metrics.
    pub fn partner(&self) -> Partner {
        let ops = &["perform", "inquire", "cancel"];
        Partner { name: self.label, ops, lane: self.label, budget: budget(&self.contract) }
    }

    /// Something of each input's kind, to try it with.
    #[cfg(feature = "lab")]
    pub fn usual_input(&self) -> BTreeMap<String, String> {
        let usual = |input: &Input| if *input == Input::Whole { "1" } else { "test" };
        self.contract.input.iter().map(|(name, input)| (name.clone(), usual(input).to_owned())).collect()
    }

    /// What does not fit of what was given.
    pub fn misfit(&self, given: &BTreeMap<String, String>) -> Option<String> {
        if let Some(name) = given.keys().find(|name| !self.contract.input.contains_key(*name)) {
            return Some(format!("`{name}` is no input of {}", self.contract.name));
        }
        self.contract.input.iter().find_map(|(name, input)| {
            let Some(value) = given.get(name) else { return Some(format!("the input `{name}` is missing")) };
            let fits = match input {
                Input::Word => {
                    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
                    value.bytes().all(fits) && !value.bytes().all(|byte| byte == b'.')
                }
                Input::Whole => value.parse::<i64>().is_ok_and(|whole| whole.to_string() == *value),
                Input::Text => text::text_fault(value, MAX_GIVEN).is_none(),
            };
            (value.is_empty() || value.len() > MAX_GIVEN || !fits)
                .then(|| format!("the input `{name}` is no {input:?} as the contract wants it").to_lowercase())
        })
    }

    pub fn seals(&self) -> bool {
        self.contract.keep.values().any(|keep| keep.sealed)
    }

    fn asks(&self, key: &str) -> Option<&Asks> {
        self.contract.asks().find_map(|(known, asks)| (known == key).then_some(asks))
    }

    /// Makes the request of that key, once: `perform`, `inquire` or `cancel`.
    pub async fn ask(&self, key: &'static str, id: &str, input: &BTreeMap<String, String>, gate: &Gate) -> Said {
        let Some(request) = self.request(key, id, input) else { return Said::NotSent };
        match self.http.send(request, gate).await {
            Answer::Reply(reply) => {
                let rules = self.asks(key).map_or(&[][..], |asks| &asks.answers);
                Said::Means(answers::read(rules, &reply), reply)
            }
            Answer::NotSent => Said::NotSent,
            Answer::Unknown => Said::Unknown,
        }
    }

    fn request(&self, key: &str, id: &str, input: &BTreeMap<String, String>) -> Option<reqwest::RequestBuilder> {
        let (asks, shape) = (self.asks(key)?, self.shapes.get(key)?);
        let secret = |name: &str| self.secrets.get(name).map(ExposeSecret::expose_secret);
        let path: Vec<String> = shape.path.iter().map(|part| part.fill(id, input, secret)).collect::<Option<_>>()?;
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        let mut query = vec![];
        for (name, value) in &shape.query {
            query.push((name.as_str(), value.fill(id, input, |_| None)?));
        }
        let query: Vec<(&str, &str)> = query.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let method = Method::from_bytes(asks.method.as_bytes()).ok()?;
        let mut request = match query.is_empty() {
            true => self.http.request(method, &path),
            false => self.http.query(method, &path, &query),
        };
        for (name, value) in &shape.headers {
            let mut filled = HeaderValue::from_str(&value.fill(id, input, secret)?).ok()?;
            filled.set_sensitive(value.secrets().next().is_some());
            request = request.header(HeaderName::from_bytes(name.as_bytes()).ok()?, filled);
        }
        if let Some(body) = shape.filled_body(&self.contract, id, input) {
            request = request.header(header::CONTENT_TYPE, "application/json").json(&body);
        }
        Some(request)
    }

    /// What is to be kept of the answer, by name; `None` where something of it is not there: such an answer is none.
    pub fn kept(&self, reply: &Reply) -> Option<BTreeMap<String, SecretString>> {
        let json: Option<Value> = reply.body.json();
        let read = |at: &str| match json.as_ref()?.pointer(at)? {
            Value::String(text) => Some(text.clone()),
            value @ (Value::Number(_) | Value::Bool(_)) => Some(value.to_string()),
            Value::Null | Value::Array(_) | Value::Object(_) => None,
        };
        let fits = |text: &String| text::text_fault(text, MAX_KEPT).is_none();
        let keep = self.contract.keep.iter();
        keep.map(|(name, keep)| Some((name.clone(), SecretString::from(read(&keep.at).filter(fits)?)))).collect()
    }
}

fn budget(contract: &Contract) -> Budget {
    let window = Duration::from_millis(contract.budget.per_ms);
    Budget { calls: contract.budget.calls, window, jitter: Duration::from_millis(20) }
}

/// What `noshi effect show` says of a rule.
pub const fn doubt_in_words(rule: Rule) -> &'static str {
    match rule {
        Rule::Repeat => "the same call again under the same id, within the horizon; after that a person is asked",
        Rule::Inquire => "the partner is asked what became of the id; nothing is called again before it has answered",
        Rule::AskAPerson => "nothing can be known from here: the job stops, and a person attests with evidence",
    }
}

pub(super) fn ensure_host(allowed: &[String], contract: &Contract, addresses: Addresses) -> anyhow::Result<()> {
    let shape = Shape::of(&contract.perform).map_err(|(part, why)| anyhow::anyhow!("`perform.{part}`: {why}"))?;
    let origin = &shape.origin;
    let host = origin.host_str().unwrap_or_default();
    let with_port = origin.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
    ensure!(
        allowed.contains(&with_port),
        "`perform.url`: {with_port} is not among the `hosts` of the settings' section [effects], so nothing may be sent there"
    );
    let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    let here = host == "localhost" || address.as_ref().is_ok_and(std::net::IpAddr::is_loopback);
    ensure!(
        origin.scheme() == "https" || here && addresses.loopback,
        "`perform.url`: it is plain http, where others can read and change what is sent; use https (http is for this machine, with `allow_loopback`)"
    );
    ensure!(
        !here || addresses.loopback,
        "`perform.url`: {host} is this machine, and `allow_loopback` is not set in [effects]"
    );
    if let Ok(address) = address {
        ensure!(
            addresses.may_call(address),
            "`perform.url`: {host} is an address of an inner network, and `allow_private` is not set in [effects]"
        );
    }
    Ok(())
}
