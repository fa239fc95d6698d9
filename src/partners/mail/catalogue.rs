//! The mail services that there are. A new one: its file, its settings, and one arm here.

use anyhow::{Context, ensure};
use lettre::message::Mailbox;

use super::{
    service::MailService,
    ses,
    settings::{EmailSettings, Service},
    smtp,
};

/// The service that the settings name.
pub fn open(settings: &EmailSettings) -> anyhow::Result<Box<dyn MailService>> {
    let from = mailbox(&settings.from)?;
    match settings.service {
        Service::Ses => {
            let ses = settings.ses.as_ref().context("`service = \"ses\"` needs the table [email.ses]")?;
            Ok(Box::new(ses::Ses::new(ses, &from, settings.settle_seconds)?))
        }
        Service::Smtp => {
            let smtp = settings.smtp.as_ref().context("`service = \"smtp\"` needs the table [email.smtp]")?;
            Ok(Box::new(smtp::Smtp::new(smtp, from, settings.settle_seconds)?))
        }
    }
}

fn mailbox(from: &str) -> anyhow::Result<Mailbox> {
    let mailbox: Mailbox =
        from.parse().with_context(|| format!("`from` of [email] is `{from}`; write it as `Name <address>`"))?;
    ensure!(!from.contains(['\r', '\n']), "`from` of [email] must be one line");
    Ok(mailbox)
}
