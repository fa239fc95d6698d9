//! What a row of a file of points must be.

use noshi_jobs::{
    Kind,
    machine::Job,
    point_grant::{Args, PointGrant},
};
use serde_json::json;

use super::{
    Fault, Taken,
    header::{Column, Faults, Header, as_asked},
    lines::Row,
};
use crate::basics::requests::MAX_POINTS;

/// The unit that points are counted in where money has a currency.
pub const UNIT: &str = "PT";
const MAX_DAYS: u32 = 3650;

pub const COLUMNS: [Column; 6] = [
    Column { name: "benefit", required: true, longest: 100, example: "autumn_campaign" },
    Column { name: "source", required: true, longest: 100, example: "U-0001" },
    Column { name: "user_id", required: true, longest: 100, example: "U-0001" },
    Column { name: "points", required: true, longest: 30, example: "500" },
    Column { name: "valid_days", required: true, longest: 30, example: "180" },
    Column { name: "area", required: false, longest: 100, example: "" },
];

/// The row as a request, or its faults.
pub fn take(header: &Header, row: &Row, faults: &mut Vec<Fault>) -> Option<Taken> {
    let mut faults = Faults::of(row.line, faults);
    if !header.check(row, &mut faults) {
        return None;
    }
    let text = |name| header.field(row, name);
    for column in ["source", "user_id"] {
        // Ids go into arguments, logs and reports.
        if text(column).contains('@') {
            faults.add(column, "this looks like an address; use an id of your own");
        }
    }
    if text("benefit").contains(':') {
        faults.add("benefit", "this must not contain a colon");
    }
    let points = whole(text("points")).filter(|points| (1..=MAX_POINTS).contains(points));
    if points.is_none() {
        faults.add("points", format!("write a whole number of points from 1 to {MAX_POINTS}"));
    }
    let days = whole(text("valid_days")).and_then(|days| u32::try_from(days).ok()).filter(|days| *days <= MAX_DAYS);
    if days.is_none() {
        faults.add("valid_days", format!("write a whole number of days from 0 to {MAX_DAYS}"));
    }
    let (Some(points), Some(valid_days), true) = (points, days, faults.none()) else { return None };
    let args = Args {
        benefit: text("benefit").to_owned(),
        source: text("source").to_owned(),
        user: text("user_id").to_owned(),
        points,
        valid_days,
        zone: "Asia/Tokyo".to_owned(),
        area: header.optional(row, "area"),
    };
    let key = PointGrant::id(&args).0;
    let asked = serde_json::to_value(&args).expect("arguments are plain data");
    if !as_asked(Kind::PointGrant, &key, &asked, &mut faults) {
        return None;
    }
    // Caps and duplicates are told by what every row of a batch has: its grant and its value.
    let mut staged = asked;
    staged["grant"] = json!(key);
    staged["value"] = json!({"amount": points, "currency": UNIT});
    Some(Taken { line: row.line, unique: key.clone(), key, args: staged.to_string(), private: None, mailed: false })
}

fn whole(text: &str) -> Option<i64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}
