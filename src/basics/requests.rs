//! What each kind of job may be asked for with: which fields its arguments have, and what each may hold. One definition for files, HTTP and
//! SQL: the database has it as the function `noshi.args_fault`, which a test draws from here (`tests/it/requests.rs`).
//!
//! It is narrower than what a job reads: a job must go on reading what older versions took.

pub use noshi_jobs::{Field, Holds, Presence};
use noshi_jobs::{Kind, gift_issuance::OF_EXCHANGE};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::basics::{kinds::AnyKind, text};

/// Minor units: as far as a number of JSON is exact everywhere.
pub const MAX_MONEY: i64 = 9_000_000_000_000_000;
pub const MAX_POINTS: i64 = 1_000_000_000;
pub const MAX_DAYS: i64 = 3_650;
/// Of a job's id, in bytes.
pub const LONGEST_KEY: usize = 200;

const ID: Holds = Holds::Id { most: 100 };
const MONEY: Holds =
    Holds::Object(&[Field::needed("amount", Holds::Amount), Field::needed("currency", Holds::OneOf(&["JPY", "USD"]))]);
const GRACE: Holds = Holds::Whole { least: 0, most: MAX_DAYS };

const BULK_GRANTS: &[Field] = &[Field::needed("batch", Holds::Whole { least: 1, most: i64::MAX })];
const EMAIL: &[Field] = &[
    Field::needed("template", Holds::OneOf(&["gift_granted"])),
    Field::needed("reference", ID),
    Field::needed("recipient", Holds::Id { most: 200 }),
    Field::defaulted("params", Holds::Texts),
];
const GIFT_ISSUANCE: &[Field] = &[
    Field::needed("grant", Holds::NoAddress { most: 100 }),
    Field::needed("user", Holds::NoAddress { most: 100 }),
    Field::needed("category", ID),
    Field::needed("value", MONEY),
    Field::optional("provider", ID),
    Field::optional("valid_days", Holds::Whole { least: 1, most: MAX_DAYS }),
    Field::optional("area", ID),
    Field::optional("paid_by", Holds::Nothing),
];
const POINT_EXCHANGE: &[Field] = &[
    Field::needed("exchange", Holds::NoAddress { most: 90 }),
    Field::needed("user", Holds::NoAddress { most: 90 }),
    Field::needed("points", Holds::Whole { least: 1, most: MAX_POINTS }),
    Field::optional("area", ID),
    Field::needed("category", Holds::Id { most: 90 }),
    Field::needed("value", MONEY),
    Field::optional("provider", ID),
    Field::defaulted("grace_days", GRACE),
];
const POINT_EXPIRY: &[Field] = &[Field::needed("due", Holds::Id { most: 40 })];
const POINT_GRANT: &[Field] = &[
    Field::needed("benefit", ID),
    Field::needed("source", Holds::NoAddress { most: 100 }),
    Field::needed("user", Holds::NoAddress { most: 100 }),
    Field::needed("points", Holds::Whole { least: 1, most: MAX_POINTS }),
    Field::needed("valid_days", Holds::Whole { least: 0, most: MAX_DAYS }),
    Field::defaulted("zone", Holds::Id { most: 60 }),
    Field::optional("area", ID),
];
const POINT_REVERSAL: &[Field] =
    &[Field::needed("exchange", Holds::NoAddress { most: 90 }), Field::defaulted("grace_days", GRACE)];
const POINT_WITHDRAWAL: &[Field] = &[Field::needed("user", Holds::NoAddress { most: 100 })];
const STORE_CREATION: &[Field] = &[
    Field::needed("organization", Holds::Word { most: 60 }),
    Field::needed("public_id", Holds::Word { most: 60 }),
    Field::needed("name", Holds::Text { most: 400 }),
    Field::optional("address", Holds::Sealed(&Holds::Text { most: 1_000 })),
    Field::optional("phone", Holds::Sealed(&Holds::Phone)),
    Field::optional("contact", Holds::Contact),
    Field::needed("request", Holds::Word { most: 60 }),
];

/// The fields of a kind's arguments; `None` for the probe, which tests alone ask for and which reads them itself.
pub const fn fields(kind: Kind) -> Option<&'static [Field]> {
    match kind {
        Kind::BulkGrants => Some(BULK_GRANTS),
        Kind::Email => Some(EMAIL),
        Kind::GiftIssuance => Some(GIFT_ISSUANCE),
        Kind::PointExchange => Some(POINT_EXCHANGE),
        Kind::PointExpiry => Some(POINT_EXPIRY),
        Kind::PointGrant => Some(POINT_GRANT),
        Kind::PointReversal => Some(POINT_REVERSAL),
        Kind::PointWithdrawal => Some(POINT_WITHDRAWAL),
        Kind::Probe => None,
        Kind::StoreCreation => Some(STORE_CREATION),
    }
}

/// Whether a producer may ask for it. The others come from batches, schedules and exchanges; probes are for tests and measurements.
pub const fn is_for_producers(kind: Kind) -> bool {
    match kind {
        Kind::GiftIssuance | Kind::PointExchange | Kind::PointGrant | Kind::PointWithdrawal | Kind::StoreCreation => {
            true
        }
        Kind::BulkGrants | Kind::Email | Kind::PointExpiry | Kind::PointReversal | Kind::Probe => false,
    }
}

/// What is wrong with a request: the field, such as `value.amount`, and a sentence.
pub type Fault = (String, String);

/// The first fault of arguments that have these fields.
pub fn fields_fault(fields: &[Field], args: &Value) -> Option<Fault> {
    match args.as_object() {
        Some(args) => object_fault(fields, args, ""),
        None => Some((".".to_owned(), "these must be an object".to_owned())),
    }
}

/// The first fault of a built-in job's arguments.
pub fn fault(kind: Kind, args: &Value) -> Option<Fault> {
    let Some(args) = args.as_object() else {
        return Some((".".to_owned(), "these must be an object".to_owned()));
    };
    let fields = fields(kind)?;
    // Before all else: what is asked for there is not the caller's at all.
    let grant = args.get("grant").and_then(Value::as_str).unwrap_or_default();
    if kind == Kind::GiftIssuance && grant.starts_with(OF_EXCHANGE) {
        let sentence = "an id that begins with exchange/ belongs to an exchange of points; use another";
        return Some(("grant".to_owned(), sentence.to_owned()));
    }
    object_fault(fields, args, "").or_else(|| {
        let benefit = args.get("benefit").and_then(Value::as_str).unwrap_or_default();
        let zone = args.get("zone").and_then(Value::as_str).unwrap_or("UTC");
        match kind == Kind::PointGrant {
            true if benefit.contains(':') => Some(("benefit".to_owned(), "this must not contain a colon".to_owned())),
            true if !is_zone(zone) => Some((
                "zone".to_owned(),
                "there is no such time zone; name one as Asia/Tokyo or UTC are named".to_owned(),
            )),
            true | false => None,
        }
    })
}

fn object_fault(fields: &[Field], object: &Map<String, Value>, before: &str) -> Option<Fault> {
    for Field { name, presence, holds } in fields {
        let path = format!("{before}{name}");
        match (object.get(*name), presence) {
            (None, Presence::Optional | Presence::Defaulted) | (Some(Value::Null), Presence::Optional) => {}
            (None | Some(Value::Null), _) => {
                return Some((path, format!("this is missing; it must be {}", wanted(*holds))));
            }
            (Some(value), _) => {
                if let Some(fault) = value_fault(*holds, value, &path) {
                    return Some(fault);
                }
            }
        }
    }
    let unknown = object.keys().any(|key| !fields.iter().any(|field| field.name == key));
    let names: Vec<&str> = fields.iter().map(|field| field.name).collect();
    // The unknown name is not repeated: it may be anything.
    unknown.then(|| {
        let path = if before.is_empty() { ".".to_owned() } else { before.trim_end_matches('.').to_owned() };
        (path, format!("there is a field that is not known; there are {}", names.join(", ")))
    })
}

/// What a field must be, in words.
pub fn wanted(holds: Holds) -> String {
    match holds {
        Holds::Id { most } | Holds::NoAddress { most } => format!("an id of 1 to {most} bytes"),
        Holds::Word { most } => format!("1 to {most} letters, digits, `-`, `_` or `.`"),
        Holds::Text { most } => format!("a text of 1 to {most} bytes"),
        Holds::Phone => "a telephone number".to_owned(),
        Holds::Whole { least, most } => format!("a whole number from {least} to {most}"),
        Holds::Amount => format!("a whole number of minor units above 0, and at most {MAX_MONEY}"),
        Holds::OneOf(names) => format!("one of {}", names.join(", ")),
        Holds::Object(_) => "an object".to_owned(),
        Holds::Texts => "an object of texts".to_owned(),
        Holds::Nothing => "left out: noshi sets it".to_owned(),
        Holds::Sealed(plain) => wanted(*plain),
        Holds::Contact => "left out: `address` and `phone` are sealed here".to_owned(),
    }
}

fn value_fault(holds: Holds, value: &Value, path: &str) -> Option<Fault> {
    let said = |sentence: String| Some((path.to_owned(), sentence));
    let other = || said(format!("this must be {}", wanted(holds)));
    let text = value.as_str();
    match holds {
        Holds::Id { most } => match text {
            None => other(),
            Some(text) => text::id_fault(text, most).and_then(said),
        },
        Holds::NoAddress { most } => match text {
            None => other(),
            Some(text) if text.contains('@') => said("this looks like an address; use an id of your own".to_owned()),
            Some(text) => text::id_fault(text, most).and_then(said),
        },
        Holds::Word { most } => match text {
            Some(text) if is_word(text, most) => None,
            Some(_) | None => other(),
        },
        Holds::Text { most } => match text {
            None => other(),
            Some(text) => text::text_fault(text, most).and_then(said),
        },
        Holds::Phone => match text {
            Some(text) if is_phone(text) => None,
            Some(_) | None => other(),
        },
        Holds::Whole { least, most } => match whole(value) {
            Some(number) if (least..=most).contains(&number) => None,
            Some(_) | None => other(),
        },
        Holds::Amount => match whole(value) {
            Some(1..=MAX_MONEY) => None,
            Some(_) | None => other(),
        },
        Holds::OneOf(names) => match text {
            Some(text) if names.contains(&text) => None,
            Some(_) | None => other(),
        },
        Holds::Object(fields) => match value.as_object() {
            None => other(),
            Some(object) => object_fault(fields, object, &format!("{path}.")),
        },
        Holds::Texts => match value.as_object() {
            Some(object) if object.values().all(Value::is_string) => None,
            Some(_) | None => other(),
        },
        Holds::Sealed(plain) => value_fault(*plain, value, path),
        Holds::Nothing | Holds::Contact => other(),
    }
}

/// A name, and not a rule or an abbreviation, whose signs and seasons mean something else than they seem to; as `noshi.is_zone` has it.
fn is_zone(zone: &str) -> bool {
    zone == "UTC" || (zone.contains('/') && zone.parse::<chrono_tz::Tz>().is_ok())
}

fn is_word(text: &str, most: usize) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (1..=most).contains(&text.len()) && text.bytes().all(fits) && text != "." && text != ".."
}

pub fn is_phone(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_digit() || b"+-() ".contains(&byte);
    (1..=30).contains(&text.len()) && text.bytes().all(fits) && text.bytes().any(|byte| byte.is_ascii_digit())
}

/// Numbers are equal by value: 500.0 is 500.
fn whole(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| {
        let number = value.as_f64()?;
        // Up to here every whole number has a double of its own.
        #[allow(clippy::cast_possible_truncation)]
        (number.fract() == 0.0 && number.abs() <= 9e15).then_some(number as i64)
    })
}

/// Whether the text of some arguments is those of this kind, as every entry point that is given text judges it: before a reader has made one of two
/// fields of the same name, or a whole number of a fraction. What is wrong with it: the path, and a sentence.
pub fn reads(kind: &dyn AnyKind, args: &str) -> Result<(), Fault> {
    // In the words of files and of the database, where they have some.
    if let Some(fault) = serde_json::from_str(args).ok().and_then(|args| kind.fault(&args)) {
        return Err(fault);
    }
    // 500.0 is 500, here as for the database.
    kind.reads(args).or_else(|fault| {
        let plain = whole_numbers(args);
        if plain == args { Err(fault) } else { kind.reads(&plain) }
    })
}

pub fn reads_as<T: DeserializeOwned>(args: &str) -> Result<(), Fault> {
    if !args.trim_start().starts_with('{') {
        return Err((".".to_owned(), "they are no object".to_owned()));
    }
    let mut text = serde_json::Deserializer::from_str(args);
    serde_path_to_error::deserialize::<_, T>(&mut text).map(drop).map_err(|error| {
        let said = error.inner().to_string();
        // Where it stands in the arguments is no place in what was sent.
        let sentence = said.rsplit_once(" at line ").map_or(said.as_str(), |(sentence, _)| sentence);
        (error.path().to_string(), sentence.to_owned())
    })
}

/// The text of some JSON with its whole numbers written as such, where they have a point or an exponent. All else stays as it is, so that
/// whoever reads it still sees a field that stands there twice.
pub fn whole_numbers(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    let mut rest = json;
    while let Some(at) = rest.find(|c: char| c == '"' || c == '-' || c.is_ascii_digit()) {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let end = if let Some(inside) = rest.strip_prefix('"') {
            let mut escaped = false;
            let closing = inside.find(|c| {
                let closes = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                closes
            });
            closing.map_or(rest.len(), |at| at + 2)
        } else {
            rest.find(|c: char| !(c.is_ascii_digit() || "+-.eE".contains(c))).unwrap_or(rest.len())
        };
        let (token, after) = rest.split_at(end);
        let value = token.contains(['.', 'e', 'E']).then(|| serde_json::from_str(token).ok()).flatten();
        match value.as_ref().filter(|value: &&Value| value.is_number()).and_then(whole) {
            Some(number) => out.push_str(&number.to_string()),
            None => out.push_str(token),
        }
        rest = after;
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::whole_numbers;

    #[test]
    fn numbers_are_what_they_are_worth() {
        for (json, plain) in [
            (
                r#"{"a":500.0,"b":[5e2, -1.50e1,0.0],"c":"1.0 \"2.0\" é","1.0":2}"#,
                r#"{"a":500,"b":[500, -15,0],"c":"1.0 \"2.0\" é","1.0":2}"#,
            ),
            (r#"{"a":500.5,"a":1e300,"b":true}"#, r#"{"a":500.5,"a":1e300,"b":true}"#),
            ("5.0", "5"),
            ("\"5.0", "\"5.0"),
        ] {
            assert_eq!(whole_numbers(json), plain);
        }
    }
}
