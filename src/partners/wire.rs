//! What the adapters share in reading and writing answers.

use noshi_jobs::money::{Currency, Money};
use secrecy::SecretString;
use serde::{Deserialize, Deserializer};
use serde_json::Number;

/// A gift code as it arrives; `Debug` shows nothing of it.
#[derive(Debug)]
pub struct Code(pub SecretString);

impl<'de> Deserialize<'de> for Code {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Code, D::Error> {
        String::deserialize(deserializer).map(|code| Code(SecretString::from(code)))
    }
}

fn unit(currency: Currency) -> f64 {
    f64::from(10_u32.pow(currency.places()))
}

/// The amount in major units, as JSON writes it: `1000` yen, `10.5` dollars. Division by a power of ten rounds to the
/// nearest double, and that prints as the shortest decimal that reads back as it: for amounts below 2^53 the exact one.
#[expect(clippy::cast_precision_loss, reason = "offers end far below 2^53")]
pub fn major_units(value: Money) -> Number {
    match value.currency.places() {
        0 => Number::from(value.amount),
        _ => Number::from_f64(value.amount as f64 / unit(value.currency)).unwrap_or_else(|| Number::from(0)),
    }
}

/// Whether a wire amount is exactly ours. Both sides are the double nearest to the same decimal, so `==` is exact.
#[expect(clippy::float_cmp, clippy::cast_precision_loss, reason = "see above")]
pub fn is_exactly(amount: f64, currency: &str, value: Money) -> bool {
    currency == value.currency.code() && amount == value.amount as f64 / unit(value.currency)
}

/// A balance; `None` if it is in a currency unknown here, or no number of minor units.
#[expect(clippy::cast_possible_truncation, reason = "checked to be whole and below 2^53")]
pub fn money(amount: f64, currency: &str) -> Option<Money> {
    let currency = Currency::from_code(currency)?;
    let minor = (amount * unit(currency)).round();
    let value = Money { amount: minor as i64, currency };
    (minor.abs() < 9e15 && is_exactly(amount, currency.code(), value)).then_some(value)
}

/// A provider's word for a reason, fit to be stored and shown: a short run of letters, digits and `_-.`, or nothing.
pub fn reason(word: Option<&str>) -> Option<String> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    word.filter(|word| (1..=60).contains(&word.len()) && word.bytes().all(fits)).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usd(amount: i64) -> Money {
        Money { amount, currency: Currency::Usd }
    }

    #[test]
    fn every_cent_up_to_the_highest_card_goes_out_and_comes_back_exactly() {
        for amount in 1..=200_000 {
            let number = major_units(usd(amount)).to_string();
            let written = if amount % 100 == 0 {
                format!("{}.0", amount / 100)
            } else {
                format!("{}.{:02}", amount / 100, amount % 100).trim_end_matches('0').to_owned()
            };
            assert_eq!(number, written);
            let back: f64 = serde_json::from_str(&number).unwrap();
            assert!(is_exactly(back, "USD", usd(amount)) && money(back, "USD") == Some(usd(amount)));
            assert!(!is_exactly(back, "USD", usd(amount + 1)) && !is_exactly(back, "JPY", usd(amount)));
        }
        assert_eq!(major_units(Money { amount: 1000, currency: Currency::Jpy }).to_string(), "1000");
    }

    #[test]
    fn a_balance_of_no_whole_minor_units_is_none() {
        assert_eq!(money(1000.0, "JPY"), Some(Money { amount: 1000, currency: Currency::Jpy }));
        assert_eq!(money(-5.25, "USD"), Some(usd(-525)));
        for (amount, currency) in [(0.5, "JPY"), (1.001, "USD"), (1.0, "XXX"), (f64::NAN, "JPY"), (1e300, "JPY")] {
            assert_eq!(money(amount, currency), None, "{amount} {currency}");
        }
    }

    #[test]
    fn a_reason_is_one_plain_word() {
        assert_eq!(reason(Some("MaxAmountExceeded")).as_deref(), Some("MaxAmountExceeded"));
        for bad in [None, Some(""), Some("two words"), Some("<html>"), Some("a".repeat(61).as_str())] {
            assert_eq!(reason(bad), None);
        }
    }
}
