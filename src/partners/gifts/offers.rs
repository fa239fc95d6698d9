//! What can be bought where, and the sentences for what cannot.

use noshi_jobs::money::{Currency, Money};

/// One product of a provider, as the contract with it allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// Our name of the kind of voucher, such as `amazon`; several providers may offer it.
    pub category: String,
    pub currency: Currency,
    /// In minor units, inclusive.
    pub min: i64,
    /// In minor units, inclusive.
    pub max: i64,
    /// The provider's own id of the product; empty where it sells only one.
    pub product: String,
}

/// The offer that fits, or a sentence that says what does not.
pub fn find<'a>(provider: &str, offers: &'a [Offer], category: &str, value: Money) -> Result<&'a Offer, String> {
    let of_category: Vec<&Offer> = offers.iter().filter(|offer| offer.category == category).collect();
    if of_category.is_empty() {
        return Err(format!("{provider} does not offer `{category}`"));
    }
    let of_currency: Vec<&Offer> = of_category.iter().copied().filter(|o| o.currency == value.currency).collect();
    if of_currency.is_empty() {
        let wanted = value.currency.code();
        let sold = listed(of_category.iter().map(|offer| offer.currency.code().to_owned()));
        return Err(format!("{provider} offers `{category}` in {sold}, not in {wanted}"));
    }
    of_currency.iter().copied().find(|offer| (offer.min..=offer.max).contains(&value.amount)).ok_or_else(|| {
        let money = |amount| Money { amount, currency: value.currency };
        let ranges = listed(of_currency.iter().map(|offer| match offer.min == offer.max {
            true => format!("of {}", money(offer.min)),
            false => format!("from {} to {}", money(offer.min), money(offer.max)),
        }));
        format!("{provider} offers `{category}` {ranges}, not of {value}")
    })
}

/// What each provider sells that the settings name. Nothing of it is secret, and nothing can be bought with it: whoever takes files in needs no
/// more.
#[derive(Debug, Clone, Default)]
pub struct Offers(Vec<(&'static str, Vec<Offer>)>);

impl Offers {
    pub fn new(sold: Vec<(&'static str, Vec<Offer>)>) -> Self {
        Offers(sold)
    }

    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.0.iter().map(|(name, _)| *name)
    }

    /// All, or one provider's.
    pub fn of(&self, provider: Option<&str>) -> Vec<&Offer> {
        let wanted = |name: &str| provider.is_none_or(|wanted| wanted == name);
        self.0.iter().filter(|(name, _)| wanted(name)).flat_map(|(_, offers)| offers).collect()
    }

    /// Whether somebody sells it, or this provider; otherwise one sentence for all of them.
    pub fn check(&self, provider: Option<&str>, category: &str, value: Money) -> Result<(), String> {
        let mut reasons = Vec::new();
        for (name, offers) in &self.0 {
            if provider.is_some_and(|wanted| wanted != *name) {
                continue;
            }
            match find(name, offers, category, value) {
                Ok(_) => return Ok(()),
                // Providers without the category add nothing, if another has it.
                Err(reason) if provider.is_some() || offers.iter().any(|offer| offer.category == category) => {
                    reasons.push(reason)
                }
                Err(_) => {}
            }
        }
        if reasons.is_empty() {
            return Err(format!("no provider offers `{category}`"));
        }
        Err(reasons.join("; "))
    }
}

fn listed(words: impl Iterator<Item = String>) -> String {
    let mut words: Vec<String> = words.collect();
    words.dedup();
    words.join(" or ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(category: &str, currency: Currency, min: i64, max: i64, product: &str) -> Offer {
        Offer { category: category.to_owned(), currency, min, max, product: product.to_owned() }
    }

    #[test]
    fn an_offer_is_found_by_category_currency_and_amount() {
        let offers = [
            offer("coffee", Currency::Jpy, 500, 500, "small"),
            offer("coffee", Currency::Jpy, 1000, 3000, "large"),
            offer("amazon", Currency::Usd, 15, 200_000, ""),
        ];
        let find = |category, amount, currency| {
            find("gift_on_demand", &offers, category, Money { amount, currency }).map(|offer| offer.product.as_str())
        };
        assert_eq!(find("coffee", 500, Currency::Jpy), Ok("small"));
        assert_eq!(find("coffee", 1000, Currency::Jpy), Ok("large"));
        assert_eq!(find("coffee", 3000, Currency::Jpy), Ok("large"));
        assert_eq!(find("amazon", 15, Currency::Usd), Ok(""));
        let err = |category, amount, currency| find(category, amount, currency).unwrap_err();
        assert_eq!(err("tea", 500, Currency::Jpy), "gift_on_demand does not offer `tea`");
        assert_eq!(err("coffee", 500, Currency::Usd), "gift_on_demand offers `coffee` in JPY, not in USD");
        assert_eq!(
            err("coffee", 999, Currency::Jpy),
            "gift_on_demand offers `coffee` of 500 JPY or from 1000 JPY to 3000 JPY, not of 999 JPY"
        );
        assert!(err("coffee", 3001, Currency::Jpy).ends_with("not of 3001 JPY"));
        assert_eq!(
            err("amazon", 14, Currency::Usd),
            "gift_on_demand offers `amazon` from 0.15 USD to 2000.00 USD, not of 0.14 USD"
        );
    }
}
