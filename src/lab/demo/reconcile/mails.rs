//! What the mail service sent against what was granted.

use std::collections::HashMap;

use crate::{
    db::operator::reconcile::MailJob,
    lab::simulator::{Event, Line, Partner},
};

#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Mails {
    pub jobs: usize,
    pub sent: usize,
    pub failed: usize,
    pub needs_operator: usize,
    /// Messages beyond the first of a job: what `max_sends` allows where an answer was lost.
    pub again: usize,
    pub calls: usize,
    pub max_calls: usize,
    pub limit: u32,
}

/// `max_sends` is what the template allows.
pub fn check(ledger: &[Line], jobs: &[MailJob], max_sends: usize, limit: u32) -> (Mails, Vec<String>) {
    let theirs = || ledger.iter().filter(|line| line.provider == Some(Partner::Ses));
    let arrivals = super::moments(theirs().filter(|line| line.event == Event::Arrival));
    let mut mails = Mails {
        jobs: jobs.len(),
        calls: arrivals.len(),
        max_calls: super::max_in_a_second(&arrivals),
        limit,
        ..Mails::default()
    };
    let mut broken = vec![];
    let mut sends: HashMap<&str, Vec<&Line>> = HashMap::new();
    for line in theirs().filter(|line| line.event == Event::MailSent) {
        sends.entry(line.trade.as_deref().unwrap_or_default()).or_default().push(line);
    }
    for job in jobs {
        let sent = sends.remove(job.id.to_string().as_str()).unwrap_or_default();
        mails.again += sent.len().saturating_sub(1);
        if sent.len() > max_sends {
            broken.push(format!("mail {}: sent {} times; {max_sends} are allowed", job.reference, sent.len()));
        }
        if sent.iter().any(|line| job.granted_us.is_none_or(|granted| line.us < granted)) {
            broken.push(format!("mail {}: sent before its grant was committed", job.reference));
        }
        match (job.status.as_str(), sent.len()) {
            ("completed", 0) => broken.push(format!("mail {}: accepted, and the service never had it", job.reference)),
            ("completed", _) => mails.sent += 1,
            ("failed" | "cancelled", 0) => mails.failed += 1,
            ("failed" | "cancelled", _) => broken.push(format!("mail {}: failed, and it was sent", job.reference)),
            ("needs_operator", _) => mails.needs_operator += 1,
            (open, _) => broken.push(format!("mail {}: not at rest, but {open}", job.reference)),
        }
    }
    for job in sends.keys() {
        broken.push(format!("a mail was sent for {job}, which is no mail of ours"));
    }
    if mails.max_calls > limit as usize {
        broken.push(format!(
            "the mail service was called {} times within a second; {limit} are allowed",
            mails.max_calls
        ));
    }
    (mails, broken)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(us: u64) -> Line {
        let (provider, trade) = (Some(Partner::Ses), Some("7".to_owned()));
        Line { us, event: Event::MailSent, provider, trade, ..Line::default() }
    }

    fn job(status: &str, granted_us: Option<u64>) -> MailJob {
        MailJob { id: 7, reference: "G".to_owned(), status: status.to_owned(), granted_us }
    }

    #[test]
    fn mails_agree_or_are_told() {
        let told = |ledger: &[Line], job: MailJob| check(ledger, &[job], 2, 9).1.join("; ");
        assert_eq!(told(&[sent(5)], job("completed", Some(5))), "");
        assert_eq!(told(&[sent(5), sent(6)], job("completed", Some(5))), "");
        assert!(told(&[sent(5), sent(6), sent(7)], job("completed", Some(5))).contains("sent 3 times; 2 are allowed"));
        assert!(told(&[sent(4)], job("completed", Some(5))).contains("before its grant"));
        assert!(told(&[sent(4)], job("completed", None)).contains("before its grant"));
        assert!(told(&[], job("completed", Some(5))).contains("never had it"));
        assert!(told(&[sent(5)], job("failed", Some(5))).contains("failed, and it was sent"));
        assert!(told(&[], job("running", Some(5))).contains("not at rest"));
        assert!(check(&[sent(5)], &[], 2, 9).1[0].contains("no mail of ours"));
    }
}
