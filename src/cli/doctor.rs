//! `noshi doctor`: is everything here that the promises rest on? Each fault comes with how to fix it.

use anyhow::bail;
use clap::Args;

use super::{Database, out::Out};
use crate::{
    operator::doctor::{
        examine,
        findings::{Findings, Health},
    },
    settings::Settings,
};

#[derive(Args)]
pub struct DoctorArgs {
    #[command(flatten)]
    database: Database,
}

pub async fn run(settings: &anyhow::Result<Settings>, out: Out, args: DoctorArgs) -> anyhow::Result<()> {
    let url = args.database.url()?;
    let mut findings = Findings::default();
    match examine(url, settings, &mut findings).await {
        Ok(()) => {}
        Err(error) => findings.wrong(
            "examination",
            Health::Bad,
            format!("{error:#}"),
            "fix what stands above, and run this again",
        ),
    }
    let bad = findings.0.iter().filter(|it| it.health == Health::Bad).count();
    out.list(
        "",
        &findings.0,
        &[
            ("", |it| match it.health {
                Health::Good => "good".to_owned(),
                Health::Fair => "WARN".to_owned(),
                Health::Bad => "BAD".to_owned(),
            }),
            ("WHAT", |it| it.what.to_owned()),
            ("FOUND", |it| it.found.clone()),
            ("FIX", |it| it.fix.clone().unwrap_or_default()),
        ],
    )?;
    if bad > 0 {
        bail!("{bad} of {} checks are bad", findings.0.len());
    }
    Ok(())
}
