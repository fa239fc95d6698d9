//! Texts with places to fill: `{id}`, `{an_input}`, and in headers and addresses `{secret:NAME}`.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, de::Error};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    Literal(String),
    Id,
    Input(String),
    Secret(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(pub Vec<Part>);

impl Template {
    pub fn parse(text: &str) -> Result<Template, String> {
        let (mut parts, mut rest) = (vec![], text);
        while let Some(open) = rest.find(['{', '}']) {
            let (literal, from) = rest.split_at(open);
            if !literal.is_empty() {
                parts.push(Part::Literal(literal.to_owned()));
            }
            let inside = from.strip_prefix('{').and_then(|inside| inside.split_once('}'));
            let Some((name, after)) = inside else {
                return Err("a `{` or a `}` stands alone; a place to fill is written {name}".to_owned());
            };
            parts.push(place(name)?);
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Literal(rest.to_owned()));
        }
        Ok(Template(parts))
    }

    pub fn has_id(&self) -> bool {
        self.0.contains(&Part::Id)
    }

    pub fn inputs(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|part| match part {
            Part::Input(name) => Some(name.as_str()),
            Part::Literal(_) | Part::Id | Part::Secret(_) => None,
        })
    }

    pub fn secrets(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|part| match part {
            Part::Secret(name) => Some(name.as_str()),
            Part::Literal(_) | Part::Id | Part::Input(_) => None,
        })
    }

    /// With everything in its place; a secret by `secret`.
    pub fn fill<'a>(
        &'a self,
        id: &'a str,
        input: &'a BTreeMap<String, String>,
        secret: impl Fn(&str) -> Option<&'a str>,
    ) -> Option<String> {
        let text = |part: &'a Part| match part {
            Part::Literal(text) => Some(text.as_str()),
            Part::Id => Some(id),
            Part::Input(name) => input.get(name).map(String::as_str),
            Part::Secret(name) => secret(name),
        };
        self.0.iter().map(text).collect()
    }
}

fn place(name: &str) -> Result<Part, String> {
    let (is_secret, word) = name.strip_prefix("secret:").map_or((false, name), |word| (true, word));
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    if word.is_empty() || !word.bytes().all(fits) {
        return Err(format!("`{{{name}}}` is no place to fill; names have small letters, digits and `_`"));
    }
    Ok(match (is_secret, word) {
        (true, _) => Part::Secret(word.to_owned()),
        (false, "id") => Part::Id,
        (false, _) => Part::Input(word.to_owned()),
    })
}

impl<'de> Deserialize<'de> for Template {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Template, D::Error> {
        Template::parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}
