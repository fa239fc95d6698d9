//! What a message says: subject, text and HTML, rendered from templates that are built in or come from a folder.
//!
//! An unknown variable is an error, HTML is escaped by itself, and no line break of a value reaches a header.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, ensure};
use minijinja::{AutoEscape, Environment, UndefinedBehavior};
use noshi_jobs::email::{Args, Template};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use secrecy::SecretString;

const PARTS: [&str; 3] = ["subject.txt", "txt", "html"];
/// What stands in the settings' link for what the message is about.
const REFERENCE: &str = "{reference}";
/// Everything else in a reference is percent-encoded.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
/// Where no name is kept.
const NO_NAME: &str = "お客";
/// Longer names are cut: mail servers refuse lines without end.
const LONGEST: usize = 100;

/// A rendered message.
pub struct Rendered {
    pub subject: SecretString,
    pub text: SecretString,
    pub html: SecretString,
}

/// All templates, and the link.
pub struct Letters {
    templates: Environment<'static>,
    link: String,
}

fn built_in(template: Template) -> [&'static str; 3] {
    match template {
        Template::GiftGranted => [
            include_str!("templates/gift_granted.subject.txt"),
            include_str!("templates/gift_granted.txt"),
            include_str!("templates/gift_granted.html"),
        ],
    }
}

impl Letters {
    /// Every template must render with sample values now rather than fail with the first message.
    pub fn open(link: &str, folder: Option<&Path>) -> anyhow::Result<Letters> {
        let example = "write it as https://example.jp/gifts/{reference}";
        ensure!(link.matches(REFERENCE).count() == 1, "`link` of [email] must hold `{{reference}}` once; {example}");
        let url = reqwest::Url::parse(&link.replace(REFERENCE, "x"))
            .with_context(|| format!("`link` of [email] is not a URL; {example}"))?;
        ensure!(matches!(url.scheme(), "https" | "http"), "`link` of [email] must begin with https://; {example}");
        ensure!(url.password().is_none() && url.username().is_empty(), "`link` of [email] must hold no credentials");
        let mut templates = Environment::new();
        templates.set_undefined_behavior(UndefinedBehavior::Strict);
        templates.set_auto_escape_callback(|name| match name.ends_with(".html") {
            true => AutoEscape::Html,
            false => AutoEscape::None,
        });
        for template in Template::ALL {
            for (part, source) in PARTS.into_iter().zip(built_in(template)) {
                let name = format!("{}.{part}", template.name());
                let source = match folder.map(|folder| folder.join(&name)).filter(|file| file.exists()) {
                    Some(file) => fs::read_to_string(&file)
                        .with_context(|| format!("cannot read the template {}", file.display()))?,
                    None => source.to_owned(),
                };
                let unusable = || format!("the template {name} cannot be used; fix it, or remove it to have ours");
                templates.add_template_owned(name.clone(), source).with_context(unusable)?;
            }
        }
        let letters = Letters { templates, link: link.to_owned() };
        for template in Template::ALL {
            letters.render(&sample(template), Some("山田 太郎")).with_context(|| {
                format!("the templates of {} cannot be rendered with sample values; fix them", template.name())
            })?;
        }
        Ok(letters)
    }

    /// The error names the template and the line, never a value.
    pub fn render(&self, args: &Args, name: Option<&str>) -> anyhow::Result<Rendered> {
        let mut values: BTreeMap<&str, String> =
            args.params.iter().map(|(key, value)| (key.as_str(), one_line(value))).collect();
        if let Some(value) = values.get_mut("value") {
            *value = spoken(value);
        }
        let name = name.map(one_line).filter(|name| !name.is_empty());
        values.insert("name", name.unwrap_or_else(|| NO_NAME.to_owned()));
        values.insert("link", self.link_to(&args.reference));
        let part = |part: &str| -> anyhow::Result<String> {
            let template = format!("{}.{part}", args.template.name());
            self.templates.get_template(&template)?.render(&values).map_err(|error| {
                anyhow::anyhow!("{template}, line {}: {:?}", error.line().unwrap_or_default(), error.kind())
            })
        };
        let subject = one_line(&part(PARTS[0])?);
        ensure!(!subject.is_empty(), "the subject of {} is empty", args.template.name());
        Ok(Rendered { subject: subject.into(), text: part(PARTS[1])?.into(), html: part(PARTS[2])?.into() })
    }

    fn link_to(&self, reference: &str) -> String {
        self.link.replace(REFERENCE, &utf8_percent_encode(reference, PLAIN).to_string())
    }
}

fn sample(template: Template) -> Args {
    let params = match template {
        Template::GiftGranted => [("category", "amazon"), ("value", "1000 JPY")],
    };
    Args {
        template,
        reference: "G-1".to_owned(),
        recipient: "G-1".to_owned(),
        params: params.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        again_in: None,
    }
}

/// Without line breaks or other control characters: a value must never begin a header of its own.
fn one_line(text: &str) -> String {
    let breaks = |letter: char| letter.is_control() || matches!(letter, '\u{2028}' | '\u{2029}');
    let line: String = text.chars().map(|letter| if breaks(letter) { ' ' } else { letter }).take(LONGEST).collect();
    line.trim().to_owned()
}

/// `1000 JPY` as people write it: `1,000円`. Other values stay as they are.
fn spoken(value: &str) -> String {
    let yen = value.strip_suffix(" JPY").or_else(|| value.strip_prefix("JPY "));
    let Some(digits) = yen.filter(|digits| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()))
    else {
        return value.to_owned();
    };
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped + "円"
}

#[cfg(test)]
mod tests;
