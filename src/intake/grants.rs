//! What a row of a file of grants must be.

use std::collections::BTreeSet;

use noshi_jobs::{
    Kind,
    gift_issuance::{Args, GiftIssuance, OF_EXCHANGE},
    machine::Job,
    money::{Currency, Money},
};
use secrecy::SecretString;
use zeroize::Zeroizing;

use super::{
    Fault, Private, Taken,
    header::{Column, Faults, Header, as_asked},
    lines::Row,
};
use crate::{basics::address::sendable, partners::gifts::Offers};

/// In bytes, as the job takes them.
const LONGEST_ID: usize = 100;
const MAX_DAYS: u32 = 3650;

pub const COLUMNS: [Column; 10] = [
    Column { name: "grant_id", required: true, longest: LONGEST_ID, example: "G-0001" },
    Column { name: "user_id", required: true, longest: LONGEST_ID, example: "U-0001" },
    Column { name: "name", required: false, longest: 400, example: "山田太郎" },
    // Of an address that mail can be sent to (RFC 5321).
    Column { name: "email", required: false, longest: 254, example: "taro@example.jp" },
    Column { name: "category", required: true, longest: LONGEST_ID, example: "amazon" },
    Column { name: "provider", required: false, longest: LONGEST_ID, example: "" },
    Column { name: "amount", required: true, longest: 30, example: "1000" },
    Column { name: "currency", required: true, longest: 30, example: "JPY" },
    Column { name: "valid_days", required: false, longest: 30, example: "90" },
    Column { name: "area", required: false, longest: LONGEST_ID, example: "" },
];

pub struct Checks<'a> {
    /// Nothing is asked of who sells what where a file is only compared: that was judged when it was taken.
    offers: Option<&'a Offers>,
}

impl<'a> Checks<'a> {
    pub fn new(offers: Option<&'a Offers>) -> Self {
        Checks { offers }
    }

    /// The row as a request, or its faults.
    pub fn take(&self, header: &Header, row: &Row, faults: &mut Vec<Fault>) -> Option<Taken> {
        let mut faults = Faults::of(row.line, faults);
        if !header.check(row, &mut faults) {
            return None;
        }
        let text = |name| header.field(row, name);
        check_ids(header, row, &mut faults);
        let provider = header.optional(row, "provider");
        let value = self.value(provider.as_deref(), text("category"), text("amount"), text("currency"), &mut faults);
        let valid_days = days(text("valid_days"), &mut faults);
        let value = value.filter(|_| faults.none())?;
        let args = Args {
            grant: text("grant_id").to_owned(),
            user: text("user_id").to_owned(),
            category: text("category").to_owned(),
            value,
            provider,
            valid_days,
            area: header.optional(row, "area"),
            paid_by: None,
        };
        let asked = serde_json::to_value(&args).expect("arguments are plain data");
        if !as_asked(Kind::GiftIssuance, &args.grant, &asked, &mut faults) {
            return None;
        }
        Some(Taken {
            line: row.line,
            unique: args.grant.clone(),
            key: GiftIssuance::id(&args).0,
            args: asked.to_string(),
            mailed: !text("email").is_empty(),
            private: recipient(text("name"), text("email")).map(|plain| Private {
                what: "recipient",
                of: args.grant,
                plain,
            }),
        })
    }

    fn value(
        &self,
        provider: Option<&str>,
        category: &str,
        amount: &str,
        currency: &str,
        faults: &mut Faults<'_>,
    ) -> Option<Money> {
        let Some(currency) = Currency::from_code(currency) else {
            let known = Currency::ALL.map(Currency::code).join(" or ");
            faults.add("currency", format!("the currency is not known; write {known}"));
            return None;
        };
        let value = match Money::parse(amount, currency) {
            Ok(value) => value,
            // Digits and signs may be repeated; anything else may be a slipped name.
            Err(sentence) if plain(amount) => {
                faults.add("amount", sentence);
                return None;
            }
            Err(_) => {
                faults.add("amount", "this is not an amount; write digits, such as 500");
                return None;
            }
        };
        if faults.has("category") || faults.has("provider") {
            return None;
        }
        self.offered(provider, category, value, faults).then_some(value)
    }

    /// Whether somebody sells it; the fault is at the field that would have to change.
    fn offered(&self, provider: Option<&str>, category: &str, value: Money, faults: &mut Faults<'_>) -> bool {
        let Some(sold) = self.offers else { return true };
        let known: Vec<_> = sold.names().collect();
        if provider.is_some_and(|name| !known.contains(&name)) {
            faults.add("provider", format!("the provider is not known; there are {}", known.join(", ")));
            return false;
        }
        let offers = sold.of(provider);
        if !offers.iter().any(|offer| offer.category == category) {
            let categories: BTreeSet<&str> = offers.iter().map(|offer| offer.category.as_str()).collect();
            let categories: Vec<&str> = categories.into_iter().collect();
            let whose = if provider.is_some() {
                "this provider does not offer the category"
            } else {
                "nobody offers this category"
            };
            faults.add("category", format!("{whose}; there are {}", categories.join(", ")));
            return false;
        }
        let Err(sentence) = sold.check(provider, category, value) else { return true };
        let of_currency = offers.iter().any(|offer| offer.category == category && offer.currency == value.currency);
        faults.add(if of_currency { "amount" } else { "currency" }, sentence);
        false
    }
}

fn check_ids(header: &Header, row: &Row, faults: &mut Faults<'_>) {
    for column in ["grant_id", "user_id"] {
        // Ids go into arguments, logs and reports.
        if header.field(row, column).contains('@') {
            faults.add(column, "this looks like an address; use an id of your own, and `email` for the address");
        }
    }
    if header.field(row, "grant_id").starts_with(OF_EXCHANGE) {
        faults.add("grant_id", "ids that begin with exchange/ belong to exchanges of points; use another");
    }
    let email = header.field(row, "email");
    // Nothing is taken that the sender could not send to.
    if let (false, Err(sentence)) = (email.is_empty(), sendable(email)) {
        faults.add("email", sentence);
    }
}

/// Digits with a sign, a point or commas; not the hyphens of a telephone number.
fn plain(amount: &str) -> bool {
    let digits = amount.strip_prefix(['-', '+']).unwrap_or(amount);
    amount.len() <= 12 && digits.bytes().all(|byte| byte.is_ascii_digit() || b".,".contains(&byte))
}

fn days(text: &str, faults: &mut Faults<'_>) -> Option<u32> {
    if text.is_empty() {
        return None;
    }
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let days = text.parse().ok().filter(|days| digits && (1..=MAX_DAYS).contains(days));
    if days.is_none() {
        faults.add("valid_days", format!("write a whole number of days from 1 to {MAX_DAYS}, or nothing"));
    }
    days
}

fn recipient(name: &str, email: &str) -> Option<SecretString> {
    if name.is_empty() && email.is_empty() {
        return None;
    }
    let json = Zeroizing::new(serde_json::json!({"name": name, "email": email}).to_string());
    Some(SecretString::from(json.as_str()))
}
