//! The result of the demo, for people.

use std::fmt::Write;

use super::{
    points::Points,
    reconcile::{Account, Reconciliation, mails::Mails, shops::Shops},
};
use crate::lab::simulator::Provider;

/// Broken promises told at once.
const MAX_BROKEN: usize = 20;

pub fn text(it: &Reconciliation, shops: &Shops, mails: &Mails, points: &Points) -> String {
    let mut text = String::new();
    // Writing to a String does not fail.
    let _ = writeln!(
        text,
        "{:<18} {:>7} {:>12} {:>8} {:>15} {:>11} {:>7} {:>20}",
        "provider", "grants", "issued once", "refused", "needs operator", "duplicates", "calls", "most in 1 s (limit)"
    );
    for (provider, account) in &it.accounts {
        row(&mut text, provider.name(), account, &format!("{} ({})", account.max_calls, account.limit));
    }
    row(&mut text, "all", &sum(&it.accounts), "");
    if it.nowhere > 0 {
        let _ = writeln!(text, "{} grants never came to a provider.", it.nowhere);
    }
    for (provider, account) in &it.accounts {
        for (code, asked) in &account.asked {
            let not = asked.jobs - asked.issued;
            let _ = writeln!(
                text,
                "{} needs operator: {code} at {} (the ledger has {} of them issued, {not} not); see ops/runbook/{code}.md",
                asked.jobs,
                provider.name(),
                asked.issued
            );
        }
    }
    others(&mut text, shops, mails);
    let books = &points.books;
    let _ = writeln!(
        text,
        "points: {} lots granted, {} expired; {} exchanges = {} with a gift + {} given back + {} ask; {} had too few points",
        books.granted, books.expired, books.used, books.gifts, books.returned, books.asking, books.poor
    );
    for broken in it.broken.iter().take(MAX_BROKEN) {
        let _ = writeln!(text, "BROKEN: {broken}");
    }
    if it.broken.len() > MAX_BROKEN {
        let _ = writeln!(text, "BROKEN: and {} more", it.broken.len() - MAX_BROKEN);
    }
    text
}

/// The partners that sell no gifts.
fn others(text: &mut String, shops: &Shops, mails: &Mails) {
    let Shops { rows, created, skipped, refused, compensated, needs_operator, orphans, .. } = shops;
    let _ = writeln!(
        text,
        "stores: {rows} rows = {created} created + {skipped} skipped + {refused} refused + {compensated} taken back + \
         {needs_operator} ask; {orphans} orphan shops; {} calls, most in 1 s {} ({})",
        shops.calls, shops.max_calls, shops.limit
    );
    let Mails { jobs, sent, failed, needs_operator, again, .. } = mails;
    let _ = writeln!(
        text,
        "mails: {jobs} = {sent} sent + {failed} failed + {needs_operator} ask; {again} sent a second time, as an answer was \
         lost; {} calls, most in 1 s {} ({})",
        mails.calls, mails.max_calls, mails.limit
    );
}

fn row(text: &mut String, name: &str, account: &Account, most: &str) {
    let Account { grants, issued_once, refused, needs_operator, duplicates, calls, .. } = account;
    let _ = writeln!(
        text,
        "{name:<18} {grants:>7} {issued_once:>12} {refused:>8} {needs_operator:>15} {duplicates:>11} {calls:>7} {most:>20}"
    );
}

fn sum(accounts: &[(Provider, Account)]) -> Account {
    let sum = |of: fn(&Account) -> usize| accounts.iter().map(|(_, account)| of(account)).sum();
    Account {
        grants: sum(|a| a.grants),
        issued_once: sum(|a| a.issued_once),
        refused: sum(|a| a.refused),
        needs_operator: sum(|a| a.needs_operator),
        duplicates: sum(|a| a.duplicates),
        calls: sum(|a| a.calls),
        ..Account::default()
    }
}
