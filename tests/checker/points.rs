//! P1–P3: the books of points balance, nothing is used that was not there, and an exchange ends with a gift, with its points
//! returned, or with a doubt that a person can see.

use std::collections::{BTreeMap, HashMap};

use crate::{
    history::{GIFT, History},
    report::{P1, P2, P3, Report},
    tables::{Job, PointEntry},
};

/// The account that holds what users own.
const OWNED: &str = "user_points";

pub fn check(history: &History, quiescent: bool, report: &mut Report) {
    let balances = books(history, report);
    lots(history, &balances, report);
    exchanges(history, quiescent, report);
}

/// Every entry balances, and each user's entries follow one another without a gap. Returns what each user owns.
fn books<'a>(history: &'a History, report: &mut Report) -> HashMap<&'a str, i64> {
    let mut lines: HashMap<i64, (i64, i64, i64)> = HashMap::new();
    for line in &history.point_lines {
        let (debit, credit, owned) = lines.entry(line.entry).or_default();
        match line.side.as_str() {
            "D" => *debit += line.amount,
            _ => *credit += line.amount,
        }
        if line.account == OWNED {
            *owned += if line.side == "D" { -line.amount } else { line.amount };
        }
    }
    let mut users: BTreeMap<&str, Vec<&PointEntry>> = BTreeMap::new();
    for entry in &history.point_entries {
        users.entry(&entry.user_id).or_default().push(entry);
    }
    let mut balances = HashMap::new();
    for (user, mut entries) in users {
        entries.sort_by_key(|entry| entry.seq);
        let mut balance = 0;
        for (at, entry) in entries.iter().enumerate() {
            let (debit, credit, owned) = lines.get(&entry.id).copied().unwrap_or_default();
            balance += owned;
            let complaint = match () {
                () if debit != credit => format!("debits {debit}, credits {credit}"),
                () if entry.seq != at as i64 + 1 => format!("number {} where {} was due", entry.seq, at + 1),
                () if entry.balance != balance => {
                    format!("shows {} where the lines add up to {balance}", entry.balance)
                }
                () if balance < 0 => format!("leaves the user with {balance}"),
                () => continue,
            };
            report.add(P1, format!("entry {} ({}) of user {user}: {complaint}", entry.id, entry.key));
        }
        balances.insert(user, balance);
    }
    balances
}

fn lots(history: &History, balances: &HashMap<&str, i64>, report: &mut Report) {
    let mut allocated: HashMap<i64, i64> = HashMap::new();
    for allocation in &history.point_allocations {
        *allocated.entry(allocation.lot).or_default() += allocation.amount;
    }
    let mut left: HashMap<&str, i64> = HashMap::new();
    for lot in &history.point_lots {
        let used = allocated.get(&lot.id).copied().unwrap_or_default();
        *left.entry(&lot.user_id).or_default() += lot.amount - used;
        if lot.remaining != lot.amount - used || lot.remaining < 0 {
            let what = format!("{} of {} allocated, and {} are said to remain", used, lot.amount, lot.remaining);
            report.add(P2, format!("lot {} of user {}: {what}", lot.id, lot.user_id));
        }
    }
    for (user, balance) in balances {
        let left = left.get(user).copied().unwrap_or_default();
        if left != *balance {
            report.add(P2, format!("user {user} owns {balance} by the journal and {left} by the lots"));
        }
    }
}

fn exchanges(history: &History, quiescent: bool, report: &mut Report) {
    let entry = |key: &str| history.point_entries.iter().find(|entry| entry.key == key);
    let gifts: HashMap<&str, &Job> = history
        .jobs
        .values()
        .filter(|job| job.kind == GIFT)
        .filter_map(|job| Some((job.key.strip_prefix("exchange/")?, job)))
        .collect();
    for used in &history.point_entries {
        let Some(exchange) = used.key.strip_prefix("use:") else { continue };
        if !gifts.contains_key(exchange) {
            report.add(P3, format!("exchange {exchange}: its points are used, and no gift was ordered"));
        }
    }
    for (exchange, gift) in gifts {
        let returned = entry(&format!("reverse:{exchange}"));
        if entry(&format!("use:{exchange}")).is_none() {
            report.add(P3, format!("exchange {exchange}: a gift was ordered, and no points were used"));
        }
        if returned.is_some() && gift.status != "failed" {
            let what = format!("its points came back, and its gift (job {}) is {}", gift.id, gift.status);
            report.add(P3, format!("exchange {exchange}: {what}"));
        }
        if quiescent && gift.status == "failed" && returned.is_none() {
            report.add(
                P3,
                format!("exchange {exchange}: its gift (job {}) failed, and its points did not come back", gift.id),
            );
        }
    }
}
