use config::{Config, File, FileFormat};

use super::*;
use crate::partners::gifts::{GiftSettings, gift_on_demand::ApiKey};

const DEFAULTS: Defaults = Defaults {
    provider: "test",
    connect_timeout: Duration::from_secs(2),
    read_timeout: Duration::from_secs(6),
    timeout: Duration::from_secs(6),
    settle_seconds: 60,
    horizon_seconds: 3600,
    poll_seconds: 30,
    calls_per_second: 10,
};

fn read(text: &str) -> Result<GiftSettings, config::ConfigError> {
    Config::builder().add_source(File::from_str(text, FileFormat::Toml)).build()?.try_deserialize()
}

fn account(more: &str, ranges: &str) -> Account<ApiKey> {
    let text = format!(
        "[gift_on_demand]\nbase_url = \"http://localhost:1\"\ncredentials = {{ api_key_file = \"/key\" }}\n{more}\n{ranges}"
    );
    read(&text).unwrap().gift_on_demand.unwrap()
}

const RANGE: &str =
    "[[gift_on_demand.ranges]]\ncategory = \"coffee\"\ncurrency = \"JPY\"\nmin = 500\nmax = 1000\nproduct = \"C1\"";

#[test]
fn what_is_left_out_is_as_the_vendor_says() {
    let plain = account("", RANGE);
    let jitter = Duration::from_millis(100);
    assert_eq!(plain.budgets(&DEFAULTS), [Budget { calls: 10, window: SECOND, jitter }]);
    let contract = plain.contract(&DEFAULTS, true, false, true);
    assert_eq!((contract.settle_seconds, contract.horizon_seconds, contract.poll_seconds), (60, 3600, 30));
    assert!(contract.replay && !contract.inquiry && contract.cancel);
    assert!(plain.http(&DEFAULTS).is_ok());
    let set = account(
        "calls_per_second = 3\ncalls_per_day = 500\njitter_ms = 20\nsettle_seconds = 1\nhorizon_seconds = 2\n\
         poll_seconds = 3\ntimeout_ms = 500",
        RANGE,
    );
    let jitter = Duration::from_millis(20);
    let day = Budget { calls: 500, window: DAY, jitter };
    assert_eq!(set.budgets(&DEFAULTS), [Budget { calls: 3, window: SECOND, jitter }, day]);
    let contract = set.contract(&DEFAULTS, false, true, false);
    assert_eq!((contract.settle_seconds, contract.horizon_seconds, contract.poll_seconds), (1, 2, 3));
    assert!(set.http(&DEFAULTS).is_ok(), "a short timeout brings the others down with it");
}

#[test]
fn unknown_words_and_missing_ones_are_errors() {
    let text = format!("[gift_on_demand]\nbase_url = \"http://localhost:1\"\nretries = 3\n{RANGE}");
    assert!(read(&text).unwrap_err().to_string().contains("retries"));
    assert!(read("[gift_on_deman]\n").unwrap_err().to_string().contains("gift_on_deman"));
    let text = format!("[gift_on_demand]\ncredentials = {{ api_key_file = \"/key\" }}\n{RANGE}");
    assert!(read(&text).unwrap_err().to_string().contains("base_url"));
    assert!(read("").unwrap().gift_on_demand.is_none());
}

#[test]
fn ranges_and_timeouts_that_cannot_be_are_refused() {
    let offers = |account: &Account<ApiKey>| account.offers(&DEFAULTS, &[Currency::Jpy]).map_err(|e| e.to_string());
    let offer = &offers(&account("", RANGE)).unwrap()[0];
    assert_eq!((offer.category.as_str(), offer.min, offer.max, offer.product.as_str()), ("coffee", 500, 1000, "C1"));
    for (from, to, says) in [
        ("min = 500", "min = 0", "0 to 1000"),
        ("min = 500", "min = 1001", "must rise"),
        ("max = 1000", "max = 2000000000000", "within"),
        ("JPY", "USD", "in USD"),
        ("coffee", "", "category"),
    ] {
        let error = offers(&account("", &RANGE.replace(from, to))).unwrap_err();
        assert!(error.contains(says), "{error}");
    }
    let none = offers(&account("ranges = []", "")).unwrap_err();
    assert!(none.contains("list what the contract"), "{none}");
    for more in ["connect_timeout_ms = 6000", "connect_timeout_ms = 0", "read_timeout_ms = 0"] {
        let error = account(more, RANGE).http(&DEFAULTS).err().map(|error| error.to_string());
        assert!(error.is_some_and(|error| error.contains("timeouts of test")), "{more}");
    }
}
