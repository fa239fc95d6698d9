//! A request's shape: its address in parts, its headers, its body. Only its host is never a place to fill.

use std::collections::BTreeMap;

use reqwest::Url;
use serde_json::{Number, Value};

use super::{
    check::{Fault, fault},
    contract::{Asks, Contract, Input},
    template::{Part, Template},
};

pub struct Shape {
    /// Scheme, host and port.
    pub origin: Url,
    pub path: Vec<Template>,
    pub query: Vec<(String, Template)>,
    pub headers: Vec<(String, Template)>,
    pub body: Option<Value>,
    /// The strings of the body, by where they stand.
    texts: Vec<(String, Template)>,
}

impl Shape {
    pub fn of(asks: &Asks) -> Result<Shape, Fault> {
        let bad = |why: String| ("url".to_owned(), why);
        let (scheme, rest) = asks.url.split_once("://").ok_or_else(|| bad("it must begin with https://".to_owned()))?;
        let (before_query, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (host, path) = before_query.split_once('/').unwrap_or((before_query, ""));
        if host.contains(['{', '}']) {
            return fault("url", "the host is written out: whoever asks for an effect must not choose whom to call");
        }
        if asks.url.contains('#') {
            return fault("url", "a `#` and what follows is never sent");
        }
        let origin =
            Url::parse(&format!("{scheme}://{host}/")).map_err(|error| bad(format!("it is no address: {error}")))?;
        if !["https", "http"].contains(&scheme) || origin.host_str().is_none() {
            return fault("url", "it must begin with https://");
        }
        if !origin.username().is_empty() || origin.password().is_some() {
            return fault("url", "it must not contain credentials; write {secret:NAME} in a header");
        }
        let template = |text: &str| Template::parse(text).map_err(bad);
        let path = path.split('/').filter(|part| !part.is_empty()).map(template).collect::<Result<Vec<_>, _>>()?;
        let mut pairs = vec![];
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            pairs.push((name.to_owned(), template(value)?));
        }
        let (body, texts) = asks.body.as_deref().map_or(Ok((None, vec![])), body)?;
        let headers = asks.headers.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        Ok(Shape { origin, path, query: pairs, headers, body, texts })
    }

    /// Every template, with the part of the request that it stands in.
    pub fn parts(&self) -> impl Iterator<Item = (String, &Template)> {
        let path = self.path.iter().map(|part| ("url".to_owned(), part));
        let query = self.query.iter().map(|(_, value)| ("url".to_owned(), value));
        let headers = self.headers.iter().map(|(name, value)| (format!("headers.{name}"), value));
        let texts = self.texts.iter().map(|(at, text)| (format!("body{at}"), text));
        path.chain(query).chain(headers).chain(texts)
    }

    pub fn templates(&self) -> impl Iterator<Item = &Template> {
        self.parts().map(|(_, template)| template)
    }

    /// The body for one call.
    pub fn filled_body(&self, contract: &Contract, id: &str, input: &BTreeMap<String, String>) -> Option<Value> {
        self.body.as_ref().map(|body| fill(body, contract, id, input))
    }
}

/// A body, and the templates among its strings by their places.
type Body = (Option<Value>, Vec<(String, Template)>);

fn body(text: &str) -> Result<Body, Fault> {
    let json: Value =
        serde_json::from_str(text).map_err(|error| ("body".to_owned(), format!("it is no JSON: {error}")))?;
    let mut texts = vec![];
    collect(&json, String::new(), &mut texts)?;
    Ok((Some(json), texts))
}

fn collect(json: &Value, at: String, texts: &mut Vec<(String, Template)>) -> Result<(), Fault> {
    match json {
        Value::String(text) => {
            let template = Template::parse(text).map_err(|why| (format!("body{at}"), why))?;
            texts.push((at, template));
        }
        Value::Array(all) => {
            for (number, value) in all.iter().enumerate() {
                collect(value, format!("{at}/{number}"), texts)?;
            }
        }
        Value::Object(all) => {
            for (name, value) in all {
                collect(value, format!("{at}/{name}"), texts)?;
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
    Ok(())
}

fn fill(json: &Value, contract: &Contract, id: &str, input: &BTreeMap<String, String>) -> Value {
    match json {
        Value::String(text) => filled_text(text, contract, id, input),
        Value::Array(all) => all.iter().map(|value| fill(value, contract, id, input)).collect(),
        Value::Object(all) => {
            all.iter().map(|(name, value)| (name.clone(), fill(value, contract, id, input))).collect()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => json.clone(),
    }
}

/// A whole number that stands alone is written as one.
fn filled_text(text: &str, contract: &Contract, id: &str, input: &BTreeMap<String, String>) -> Value {
    // It was parsed when the contract was read.
    let Ok(template) = Template::parse(text) else { return Value::Null };
    if let [Part::Input(name)] = template.0.as_slice()
        && contract.input.get(name) == Some(&Input::Whole)
        && let Some(whole) = input.get(name).and_then(|text| text.parse::<i64>().ok())
    {
        return Value::Number(Number::from(whole));
    }
    template.fill(id, input, |_| None).map_or(Value::Null, Value::String)
}
