//! What a header and a row must be.

use std::collections::{BTreeSet, HashMap};

use noshi_jobs::{
    gift_issuance::Args,
    money::{Currency, Money},
};
use secrecy::SecretString;
use zeroize::Zeroizing;

use super::{Fault, Grant, lines::Row};
use crate::{clients::GiftProvider, gifts::Gifts};

/// In bytes, as the job takes them.
const LONGEST_ID: usize = 100;
const LONGEST_NAME: usize = 400;
/// Of an address that mail can be sent to (RFC 5321).
const LONGEST_EMAIL: usize = 254;
const MOST_DAYS: u32 = 3650;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Column {
    GrantId,
    UserId,
    Name,
    Email,
    Category,
    Provider,
    Amount,
    Currency,
    ValidDays,
}

impl Column {
    const ALL: [Column; 9] = [
        Column::GrantId,
        Column::UserId,
        Column::Name,
        Column::Email,
        Column::Category,
        Column::Provider,
        Column::Amount,
        Column::Currency,
        Column::ValidDays,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Column::GrantId => "grant_id",
            Column::UserId => "user_id",
            Column::Name => "name",
            Column::Email => "email",
            Column::Category => "category",
            Column::Provider => "provider",
            Column::Amount => "amount",
            Column::Currency => "currency",
            Column::ValidDays => "valid_days",
        }
    }

    const fn required(self) -> bool {
        match self {
            Column::GrantId | Column::UserId | Column::Category | Column::Amount | Column::Currency => true,
            Column::Name | Column::Email | Column::Provider | Column::ValidDays => false,
        }
    }
}

/// Where each column stands.
pub struct Header {
    columns: Vec<Column>,
}

impl Header {
    /// `None` where a fault leaves it open which field is which.
    pub fn read(row: &Row, faults: &mut Vec<Fault>) -> Option<Header> {
        let known: Vec<Option<Column>> =
            row.fields.iter().map(|name| Column::ALL.into_iter().find(|column| column.name() == name)).collect();
        let all = Column::ALL.map(Column::name).join(",");
        let mut fault = |field: Option<&str>, sentence: String| {
            faults.push(Fault { line: row.line, field: field.map(str::to_owned), sentence });
        };
        if known.iter().all(Option::is_none) {
            // Perhaps a row of data: its fields are not repeated.
            fault(None, format!("the first line must name the columns: {all}"));
            return None;
        }
        for (at, (name, column)) in row.fields.iter().zip(&known).enumerate() {
            match column {
                None => {
                    let name = if name.is_empty() { "(no name)" } else { name };
                    fault(Some(name), format!("column {} is not known; there are {all}", at + 1));
                }
                Some(column) if known[..at].contains(&Some(*column)) => {
                    fault(Some(column.name()), "this column stands there twice".to_owned());
                }
                Some(_) => {}
            }
        }
        for column in Column::ALL {
            if column.required() && !known.contains(&Some(column)) {
                fault(Some(column.name()), "this column is missing".to_owned());
            }
        }
        Some(Header { columns: known.into_iter().flatten().collect() })
    }

    fn field<'a>(&self, row: &'a Row, column: Column) -> &'a str {
        let at = self.columns.iter().position(|it| *it == column);
        at.and_then(|at| row.fields.get(at)).map_or("", String::as_str)
    }
}

pub struct Checks<'a> {
    gifts: &'a Gifts,
}

/// The faults of one row: the first of each field.
struct Faults<'a> {
    line: u64,
    all: &'a mut Vec<Fault>,
    before: usize,
}

impl Faults<'_> {
    fn add(&mut self, column: Column, sentence: impl Into<String>) {
        let field = Some(column.name().to_owned());
        if !self.has(column) {
            self.all.push(Fault { line: self.line, field, sentence: sentence.into() });
        }
    }

    fn has(&self, column: Column) -> bool {
        self.all[self.before..].iter().any(|fault| fault.field.as_deref() == Some(column.name()))
    }
}

impl<'a> Checks<'a> {
    pub fn new(gifts: &'a Gifts) -> Self {
        Checks { gifts }
    }

    /// The row as a grant, or its faults. `seen` are the grants of the rows before, with their lines.
    pub fn grant(
        &self,
        header: &Header,
        row: &Row,
        seen: &mut HashMap<String, u64>,
        faults: &mut Vec<Fault>,
    ) -> Option<Grant> {
        let (found, wanted) = (row.fields.len(), header.columns.len());
        if found != wanted {
            let sentence = format!("the line has {found} fields, and the header names {wanted}");
            faults.push(Fault { line: row.line, field: None, sentence });
            return None;
        }
        let before = faults.len();
        let mut faults = Faults { line: row.line, all: faults, before };
        let text = |column| header.field(row, column);
        check_text(header, row, &mut faults);
        let provider = Some(text(Column::Provider)).filter(|provider| !provider.is_empty());
        let value =
            self.value(provider, text(Column::Category), text(Column::Amount), text(Column::Currency), &mut faults);
        let valid_days = days(text(Column::ValidDays), &mut faults);
        let grant = text(Column::GrantId).to_owned();
        if let Some(earlier) = seen.get(&grant).filter(|_| !grant.is_empty()) {
            faults.add(Column::GrantId, format!("line {earlier} has the same id; an id names one grant"));
        }
        seen.entry(grant.clone()).or_insert(row.line);
        let value = value.filter(|_| faults.all.len() == before)?;
        let args = Args {
            grant,
            user: text(Column::UserId).to_owned(),
            category: text(Column::Category).to_owned(),
            value,
            provider: provider.map(str::to_owned),
            valid_days,
        };
        Some(Grant { line: row.line, args, recipient: recipient(text(Column::Name), text(Column::Email)) })
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
            faults.add(Column::Currency, format!("the currency is not known; write {known}"));
            return None;
        };
        let value = match Money::parse(amount, currency) {
            Ok(value) => value,
            // Digits and signs may be repeated; anything else may be a slipped name.
            Err(sentence) if amount.bytes().all(|byte| byte.is_ascii_digit() || b".,-+".contains(&byte)) => {
                faults.add(Column::Amount, sentence);
                return None;
            }
            Err(_) => {
                faults.add(Column::Amount, "this is not an amount; write digits, such as 500");
                return None;
            }
        };
        if faults.has(Column::Category) || faults.has(Column::Provider) {
            return None;
        }
        self.offered(provider, category, value, faults).then_some(value)
    }

    /// Whether somebody sells it; the fault is at the field that would have to change.
    fn offered(&self, provider: Option<&str>, category: &str, value: Money, faults: &mut Faults<'_>) -> bool {
        let all = || self.gifts.names().filter_map(|name| self.gifts.provider(name));
        if provider.is_some_and(|name| self.gifts.provider(name).is_none()) {
            let known: Vec<_> = self.gifts.names().collect();
            faults.add(Column::Provider, format!("the provider is not known; there are {}", known.join(", ")));
            return false;
        }
        let asked: Vec<&dyn GiftProvider> =
            all().filter(|one| provider.is_none_or(|name| one.name() == name)).collect();
        let offers: Vec<_> = asked.iter().flat_map(|one| one.offers()).collect();
        if !offers.iter().any(|offer| offer.category == category) {
            let sold: BTreeSet<&str> = offers.iter().map(|offer| offer.category.as_str()).collect();
            let sold: Vec<&str> = sold.into_iter().collect();
            let whose = if provider.is_some() {
                "this provider does not offer the category"
            } else {
                "nobody offers this category"
            };
            faults.add(Column::Category, format!("{whose}; there are {}", sold.join(", ")));
            return false;
        }
        let Err(sentence) = self.gifts.check(provider, category, value) else { return true };
        let of_currency = offers.iter().any(|offer| offer.category == category && offer.currency == value.currency);
        faults.add(if of_currency { Column::Amount } else { Column::Currency }, sentence);
        false
    }
}

/// What holds for fields as text.
fn check_text(header: &Header, row: &Row, faults: &mut Faults<'_>) {
    for column in header.columns.iter().copied() {
        let text = header.field(row, column);
        let longest = match column {
            Column::GrantId | Column::UserId | Column::Category | Column::Provider => LONGEST_ID,
            Column::Name => LONGEST_NAME,
            Column::Email => LONGEST_EMAIL,
            Column::Amount | Column::Currency | Column::ValidDays => 30,
        };
        if text.is_empty() && column.required() {
            faults.add(column, "this must not be empty");
        }
        if text.len() > longest {
            faults.add(column, format!("this has {} bytes; at most {longest} fit", text.len()));
        }
        if text.chars().any(char::is_control) {
            faults.add(column, "this holds a control character, such as a tab");
        }
        if text.trim() != text && column != Column::Name {
            faults.add(column, "this begins or ends with a space");
        }
    }
    for column in [Column::GrantId, Column::UserId] {
        // Ids go into arguments, logs and reports.
        if header.field(row, column).contains('@') {
            faults.add(column, "this looks like an address; use an id of your own, and `email` for the address");
        }
    }
    let email = header.field(row, Column::Email);
    let (name, host) = email.split_once('@').unwrap_or_default();
    if !email.is_empty() && (name.is_empty() || host.is_empty() || email.contains(char::is_whitespace)) {
        faults.add(Column::Email, "this is not an e-mail address");
    }
}

fn days(text: &str, faults: &mut Faults<'_>) -> Option<u32> {
    if text.is_empty() {
        return None;
    }
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let days = text.parse().ok().filter(|days| digits && (1..=MOST_DAYS).contains(days));
    if days.is_none() {
        faults.add(Column::ValidDays, format!("write a whole number of days from 1 to {MOST_DAYS}, or nothing"));
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
