//! Money: whole minor units with their currency. Yen have no fraction, so one minor unit is one yen.

use std::fmt;

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Currency {
    Jpy,
    Usd,
}

impl Currency {
    pub const ALL: [Currency; 2] = [Currency::Jpy, Currency::Usd];

    pub const fn code(self) -> &'static str {
        match self {
            Currency::Jpy => "JPY",
            Currency::Usd => "USD",
        }
    }

    /// Decimal places of one major unit.
    pub const fn places(self) -> u32 {
        match self {
            Currency::Jpy => 0,
            Currency::Usd => 2,
        }
    }

    pub fn from_code(code: &str) -> Option<Currency> {
        Currency::ALL.into_iter().find(|c| c.code() == code)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Money {
    /// In minor units.
    pub amount: i64,
    pub currency: Currency,
}

impl Money {
    /// Reads an amount in major units: `1000` yen, `10.50` dollars. The error says what is wrong with it.
    pub fn parse(text: &str, currency: Currency) -> Result<Money, String> {
        let (whole, fraction) = match text.split_once('.') {
            Some((whole, fraction)) => (whole, fraction),
            None => (text, ""),
        };
        let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
        if !digits(whole) || (text.contains('.') && !digits(fraction)) {
            return Err(format!("`{text}` is not an amount; write digits, such as 500"));
        }
        let places = currency.places() as usize;
        if fraction.len() > places {
            return Err(match places {
                0 => format!("`{text}` has a fraction, and {} has none", currency.code()),
                _ => format!("`{text}` has more than {places} decimal places"),
            });
        }
        let minor = format!("{whole}{fraction:0<places$}");
        let amount = minor.parse().map_err(|_| format!("`{text}` is too large an amount"))?;
        if amount == 0 {
            return Err("the amount must be more than 0".to_owned());
        }
        Ok(Money { amount, currency })
    }
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scale = 10_u64.pow(self.currency.places());
        let (sign, magnitude) = (if self.amount < 0 { "-" } else { "" }, self.amount.unsigned_abs());
        match self.currency {
            Currency::Jpy => write!(f, "{sign}{magnitude} JPY"),
            Currency::Usd => write!(f, "{sign}{}.{:02} USD", magnitude / scale, magnitude % scale),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_to_the_minor_unit_or_refused() {
        let yen = |text| Money::parse(text, Currency::Jpy).map(|m| m.amount);
        let usd = |text| Money::parse(text, Currency::Usd).map(|m| m.amount);
        assert_eq!(yen("500"), Ok(500));
        assert_eq!(usd("10.5"), Ok(1050));
        assert_eq!(usd("0.15"), Ok(15));
        assert!(yen("500.5").unwrap_err().contains("has a fraction"));
        assert!(usd("1.005").unwrap_err().contains("decimal places"));
        for bad in ["", "-1", "+1", "1.", ".5", "1e3", "１００", "0", "99999999999999999999"] {
            assert!(yen(bad).is_err(), "{bad} was taken");
        }
        assert_eq!(Money { amount: -1050, currency: Currency::Usd }.to_string(), "-10.50 USD");
    }
}
