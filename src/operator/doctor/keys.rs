//! The keys that sealed values need, and the partners.

use super::findings::{Findings, Health};
use crate::{
    db::{PgPool, operator::doctor, queue::workers},
    settings::Settings,
};

/// Where files and events are taken in and nothing is opened: what is sealed has to be of use to the workers.
pub(super) async fn look_at_public_key(pool: &PgPool, settings: &Settings, it: &mut Findings) -> anyhow::Result<()> {
    let sealer = match settings.sealer() {
        Ok(sealer) => sealer,
        Err(error) => {
            it.wrong("keys", Health::Bad, format!("{error:#}"), "fix the public key file");
            return Ok(());
        }
    };
    let key = sealer.current_key();
    if !look_at_prints(pool, &[(key.to_owned(), sealer.print())], it).await? {
        return Ok(());
    }
    let without = workers::without_key(pool, key).await?;
    let without: Vec<String> = without.iter().map(|(id, name, _)| format!("{id} ({name})")).collect();
    let found = match without.is_empty() {
        true => format!("seals to the key {key}, and opens nothing"),
        false => format!("seals to the key {key}, which these workers do not say they have: {}", without.join(", ")),
    };
    let advice = "give the workers that key, or this host what `noshi vault public` prints on theirs; files and events go on to be sealed meanwhile";
    it.check("keys", without.is_empty(), Health::Bad, found, advice);
    Ok(())
}

/// Addresses that bounced wait for a worker that can open them.
pub(super) async fn look_at_suppressions(pool: &PgPool, it: &mut Findings) -> anyhow::Result<()> {
    let waiting = doctor::undigested_addresses(pool).await?;
    let told: Vec<String> = waiting.iter().map(|(key, count)| format!("{count} under the key {key}")).collect();
    let found = if told.is_empty() { "all of them count".to_owned() } else { told.join(", ") };
    let advice = "mails still go to these addresses: start a worker that has the key, or look for `does not open` in the workers' logs";
    it.check("suppressed addresses", told.is_empty(), Health::Bad, found, advice);
    Ok(())
}

/// What is sealed is opened by workers, a few at a time: who has long ones makes others wait.
pub(super) async fn look_at_readings(pool: &PgPool, it: &mut Findings) -> anyhow::Result<()> {
    let long = doctor::long_readings(pool).await?;
    let told = |(who, waiting, taken, oldest): &(String, i64, i64, f64)| {
        format!("of {who} {waiting} wait and {taken} are in workers' hands, for up to {oldest:.0} s")
    };
    let found = match long.is_empty() {
        true => "none is open for long".to_owned(),
        false => long.iter().map(told).collect::<Vec<_>>().join("; "),
    };
    let advice = "a long report is no fault; where only waiting ones are told, no worker that runs can open them: see `keys`, and the workers' logs";
    it.check("readings", long.is_empty(), Health::Fair, found, advice);
    Ok(())
}

/// One person has a number of codes an hour, so that nobody drains them.
pub(super) async fn look_at_reveals(pool: &PgPool, it: &mut Findings) -> anyhow::Result<()> {
    let counted = doctor::reveals_counted(pool).await?;
    let told =
        |(who, codes, most): &(String, i32, i32)| format!("{who} asked for {codes} codes within the hour, of {most}");
    let found = match counted.is_empty() {
        true => "nobody is near what they may".to_owned(),
        false => counted.iter().map(told).collect::<Vec<_>>().join("; "),
    };
    let advice = "look at what they showed and why (`noshi audit list --act reveal`); revoke the token if nobody knows. How many one may ask for is set \
                  in noshi.reveal_cap by the schema's owner";
    it.check("reveals", counted.is_empty(), Health::Fair, found, advice);
    Ok(())
}

/// What this host's keys, public or secret, are to the workers. False: something is wrong with them.
async fn look_at_prints(pool: &PgPool, ours: &[(String, String)], it: &mut Findings) -> anyhow::Result<bool> {
    let others = doctor::other_prints(pool, ours).await?;
    if !others.is_empty() {
        let found = format!("under the ids {} the workers have other keys than this host", others.join(", "));
        it.wrong(
            "keys",
            Health::Bad,
            found,
            "what is sealed here opens nowhere: take what `noshi vault public` prints on a worker's host",
        );
    }
    let unopened = doctor::unopened_keys(pool).await?;
    if !unopened.is_empty() {
        let found = format!("no living worker has {}, to which values are sealed", unopened.join(", "));
        let advice = "codes are not shown and mails do not go out until a worker has that key: put it into their key file, then SIGHUP";
        it.wrong("keys", Health::Bad, found, advice);
    }
    Ok(others.is_empty() && unopened.is_empty())
}

pub(super) async fn look_at_keys(
    pool: &PgPool,
    settings: &anyhow::Result<Settings>,
    it: &mut Findings,
) -> anyhow::Result<()> {
    let settings = match settings {
        Ok(settings) => settings,
        Err(error) => {
            it.wrong("settings", Health::Bad, format!("{error:#}"), "fix the file that NOSHI_CONFIG or --config names");
            return Ok(());
        }
    };
    it.good("settings", "read");
    let sealed = doctor::sealed_keys(pool).await?;
    if settings.vault_key_file.is_none() && settings.vault_public_key_file.is_some() {
        return look_at_public_key(pool, settings, it).await;
    }
    if settings.vault_key_file.is_none() {
        it.check(
            "keys",
            sealed.is_empty(),
            Health::Bad,
            "no key file is named",
            "values are sealed in the database: name `vault_key_file` in the settings",
        );
        return Ok(());
    }
    match settings.vault() {
        Ok(vault) => {
            let fits = look_at_prints(pool, &vault.key_prints(), it).await?;
            let missing: Vec<String> = sealed.into_iter().filter(|key| !vault.knows(key)).collect();
            let found = if missing.is_empty() {
                "every sealed value can be opened from here, as workers need it; nobody else does".to_owned()
            } else {
                format!("missing: {}", missing.join(", "))
            };
            let advice = "put the missing keys back into the key file; without them those values are lost";
            if fits || !missing.is_empty() {
                it.check("keys", missing.is_empty(), Health::Bad, found, advice);
            }
        }
        Err(error) => it.wrong("keys", Health::Bad, format!("{error:#}"), "fix the key file"),
    }
    match settings.partners() {
        Ok(_) => it.good("partners", "their settings and secrets can be read"),
        Err(error) => it.wrong("partners", Health::Bad, format!("{error:#}"), "fix that partner's settings"),
    }
    Ok(())
}
